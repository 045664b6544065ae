//! What each cost does when a repository grows: every part is measured at sizes ten times apart, each in a
//! process of its own, and extrapolated to a billion by the growth of its last step.
//!
//! ```text
//! scale [--steps N] [--memory MIB] [--dir DIRECTORY] [--tmpfs DIRECTORY] [--program FILE] [PART…]
//! ```
//!
//! `--steps` is the largest power of ten; `make scale STEPS=8` goes to 10^8 chunks, for which the disk needs
//! 15 GB. Without arguments, as the tests run it, the smallest sizes alone. Everything is generated below two
//! directories, one on a disk and one in memory, and removed.

mod directory;
mod index;
mod list;
mod marking;
mod measure;
mod program;
mod rebuild;
mod segments;
mod snapshots;

use measure::{Figure, Places};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// One part: what it measures at a size.
struct Part {
    name: &'static str,
    /// What the sizes count.
    counts: &'static str,
    /// The greatest power of ten that says something, or that a machine of today has room for.
    steps_max: u32,
    /// How many powers of ten smaller than `--steps` it goes to.
    fewer: u32,
    measure: fn(u64, &Places) -> Vec<Figure>,
}

const PARTS: [Part; 6] = [
    Part { name: "index", counts: "chunks", steps_max: 8, fewer: 0, measure: index::measure },
    Part { name: "rebuild", counts: "chunks", steps_max: 8, fewer: 0, measure: rebuild::measure },
    Part { name: "marking", counts: "chunks", steps_max: 8, fewer: 0, measure: marking::measure },
    Part { name: "directory", counts: "entries", steps_max: 6, fewer: 1, measure: directory::measure },
    Part { name: "list", counts: "chunks of a file", steps_max: 8, fewer: 0, measure: list::measure },
    Part { name: "snapshots", counts: "snapshots", steps_max: 5, fewer: 3, measure: snapshots::measure },
];

const USAGE: &str = "scale [--steps N] [--memory MIB] [--dir DIRECTORY] [--tmpfs DIRECTORY] [--program FILE] [PART…]";
/// The least power of ten of parts that count chunks.
const STEPS_FROM: u32 = 4;

struct Arguments {
    steps: u32,
    places: Places,
    parts: Vec<&'static Part>,
    /// The process that measures one size.
    one: Option<u64>,
}

fn arguments() -> Result<Arguments, String> {
    let memory = PathBuf::from("/dev/shm");
    let tmpfs = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_keepstone"));
    let places = Places { memory_bytes: 256 << 20, disk: std::env::temp_dir(), tmpfs, program };
    let mut arguments = Arguments { steps: STEPS_FROM, places, parts: Vec::new(), one: None };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("'{text}' is no number\n{USAGE}"));
        match argument.as_str() {
            // What cargo passes to every benchmark.
            "--bench" => {}
            "--steps" => arguments.steps = number(value()?)?.clamp(u64::from(STEPS_FROM), 9) as u32,
            "--memory" => arguments.places.memory_bytes = (number(value()?)? as usize) << 20,
            "--dir" => arguments.places.disk = value()?.into(),
            "--tmpfs" => arguments.places.tmpfs = value()?.into(),
            "--program" => arguments.places.program = value()?.into(),
            "--one" => arguments.one = Some(number(value()?)?),
            name => {
                let known = PARTS.iter().find(|part| part.name == name);
                arguments.parts.push(known.ok_or_else(|| format!("there is no part '{name}'\n{USAGE}"))?);
            }
        }
    }
    if arguments.parts.is_empty() {
        arguments.parts = PARTS.iter().collect();
    }
    Ok(arguments)
}

/// Measures a size in a process of its own: what an earlier one took is no part of its memory.
fn apart(part: &Part, size: u64, places: &Places) -> Result<Vec<Figure>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args([part.name, "--one", &size.to_string(), "--memory", &(places.memory_bytes >> 20).to_string()]);
    command.arg("--dir").arg(&places.disk).arg("--tmpfs").arg(&places.tmpfs).arg("--program").arg(&places.program);
    let output = command.stderr(std::process::Stdio::inherit()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => String::from_utf8_lossy(&output.stdout).lines().map(Figure::parse).collect(),
        false => Err(format!("{} at {size}: {}", part.name, output.status)),
    }
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    if let Some(size) = arguments.one {
        for part in &arguments.parts {
            (part.measure)(size, &arguments.places).iter().for_each(|figure| println!("{}", figure.line()));
        }
        return Ok(());
    }
    println!("Ceiling for memory (--memory): {} MiB.", arguments.places.memory_bytes >> 20);
    for part in &arguments.parts {
        let last = (arguments.steps - part.fewer).min(part.steps_max);
        let first = (STEPS_FROM - part.fewer).min(last);
        let mut measured = Vec::new();
        for power in first..=last {
            let size = 10u64.pow(power);
            measured.push((size, apart(part, size, &arguments.places)?));
        }
        println!("\n{}", measure::table(part.name, part.counts, &measured));
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

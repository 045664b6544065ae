//! Figures, their growth from size to size, and the memory of this process.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where things are put, and the ceiling they are measured under.
pub struct Places {
    /// `--memory`, in bytes.
    pub memory_bytes: usize,
    /// A directory on a disk.
    pub disk: PathBuf,
    /// A directory in memory, for what consists of many small files.
    pub tmpfs: PathBuf,
    /// The program; another build of it can be measured as well.
    pub program: PathBuf,
}

/// A measured value.
pub struct Figure {
    what: String,
    unit: String,
    value: f64,
}

impl Figure {
    pub fn new(what: &str, unit: &str, value: f64) -> Self {
        Figure { what: what.to_owned(), unit: unit.to_owned(), value }
    }

    pub fn time(what: &str, took: Duration) -> Self {
        Figure::new(what, "s", took.as_secs_f64())
    }

    pub fn mebibytes(what: &str, bytes: u64) -> Self {
        Figure::new(what, "MiB", bytes as f64 / f64::from(1 << 20))
    }

    pub fn line(&self) -> String {
        format!("{}\t{}\t{}", self.what, self.unit, self.value)
    }

    pub fn parse(line: &str) -> Result<Self, String> {
        let mut fields = line.split('\t');
        let (what, unit, value) = (fields.next(), fields.next(), fields.next().and_then(|value| value.parse().ok()));
        match (what, unit, value) {
            (Some(what), Some(unit), Some(value)) => Ok(Figure::new(what, unit, value)),
            _ => Err(format!("not a figure: {line}")),
        }
    }
}

/// What something took. Beside other work a machine's processor time says more than its clock.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    pub wall: Duration,
    /// Of all threads of this process.
    pub computed: Duration,
}

impl Spent {
    pub fn figures(&self, what: &str) -> [Figure; 2] {
        [Figure::time(what, self.wall), Figure::time(&format!("{what}: processor"), self.computed)]
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.wall += more.wall;
        self.computed += more.computed;
    }
}

fn computed() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs something and gives what it took.
pub fn timed<T>(run: impl FnOnce() -> T) -> (T, Spent) {
    let (began, before) = (Instant::now(), computed());
    let done = run();
    (done, Spent { wall: began.elapsed(), computed: computed() - before })
}

/// The most memory that this process held since [`forget_peak`], in bytes.
pub fn peak() -> u64 {
    peak_of(std::process::id()).expect("the kernel tells a process its memory")
}

/// The most memory that a process held, in bytes; `None` once it has ended.
pub fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// What the processes that this one started and waited for have computed so far.
pub fn children_computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the kernel tells a process its times");
    // Behind the name, which may hold anything: fields 16 and 17 of proc(5), in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: u64 = fields[13..15].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// From here on [`peak`] counts anew.
pub fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("the kernel lets a process reset its own peak");
}

fn number(value: f64) -> String {
    match value.abs() {
        value if value >= 100_000.0 => format!("{value:.2e}"),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 || value == 0.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

/// A row for each figure: its value at each size, what the last step of ten multiplied it by, and what that
/// makes of it at a billion.
pub fn table(part: &str, counts: &str, measured: &[(u64, Vec<Figure>)]) -> String {
    let mut out = format!("| {part}: {counts} |");
    for (size, _) in measured {
        let _ = write!(out, " 10^{} |", size.ilog10());
    }
    out.push_str(" last step | at 10^9 |\n| --- |");
    out.push_str(&" ---: |".repeat(measured.len() + 2));
    let Some((size, last)) = measured.last() else { return out };
    for figure in last {
        let values: Vec<Option<f64>> = measured
            .iter()
            .map(|(_, figures)| {
                figures
                    .iter()
                    .find(|other| (&other.what, &other.unit) == (&figure.what, &figure.unit))
                    .map(|other| other.value)
            })
            .collect();
        let _ = write!(out, "\n| {}, {} |", figure.what, figure.unit);
        for value in &values {
            let _ = write!(out, " {} |", value.map_or("–".to_owned(), number));
        }
        let before = values.len().checked_sub(2).and_then(|at| values[at]).filter(|before| *before > 0.0);
        match before.map(|before| figure.value / before).filter(|growth| *growth > 0.0) {
            Some(growth) => {
                let steps = 9.0 - (*size as f64).log10();
                let _ = write!(out, " ×{} | {} |", number(growth), number(figure.value * growth.powf(steps)));
            }
            None => out.push_str(" – | – |"),
        }
    }
    out
}

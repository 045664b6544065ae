//! Memory stays under its ceiling however many entries a directory has.

use crate::program::{Ended, Program};
use std::time::Duration;

const CEILING_BYTES: u64 = 256 << 20;
/// The program itself, its stacks and the allocator's slack.
const OVERHEAD_BYTES: u64 = 64 << 20;

fn peak_of(program: &Program, arguments: &[&str]) -> u64 {
    let mut child = program.command(arguments).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        // Until it has its own name, it may still have the memory of this process.
        let text = if text.starts_with("Name:\tkeepstone") { text } else { String::new() };
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ended::new(child.wait_with_output().unwrap()).expect(0);
    peak
}

fn bounded(entries: u32) {
    let program = Program::new();
    std::fs::create_dir(program.source()).unwrap();
    for at in 0..entries {
        std::fs::write(program.source().join(format!("a-rather-long-name-of-an-entry-{at:07}")), at.to_le_bytes())
            .unwrap();
    }
    let restore = ["-q", "restore", "latest", "--to", "out"];
    let again = [&restore[..], &["--verify", "--overwrite", "always"]].concat();
    for command in [&["-q", "backup", "source"][..], &restore, &again] {
        let peak = peak_of(&program, command);
        eprintln!("{} of {entries} entries: {} MiB at most", command[1], peak >> 20);
        assert!(peak > 0 && peak < CEILING_BYTES + OVERHEAD_BYTES, "{} MiB", peak >> 20);
    }
    crate::facts::assert_same(&program.source(), &program.path("out"));
}

#[test]
fn ten_thousand_entries_fit() {
    bounded(10_000);
}

/// Run with `cargo test -- --ignored`.
#[test]
#[ignore = "makes 400,000 files"]
fn two_hundred_thousand_entries_fit() {
    bounded(200_000);
}

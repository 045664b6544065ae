//! `--timings`: where a run's time went, as a table on the standard error or in the JSON result.

use std::time::Duration;

use serde_json::{Value, json};

use super::output::stderr_line;
use super::render;
use crate::env::elapsed_ns;
use crate::timing::{StageTime, Timer};

/// The times of one command, from its beginning.
pub struct Timings {
    timer: Timer,
    began_ns: u64,
}

impl Timings {
    /// Begins; takes no times unless `wanted`.
    pub fn begin(wanted: bool) -> Self {
        match wanted {
            true => Timings { began_ns: elapsed_ns(), timer: Timer::on(elapsed_ns) },
            false => Timings { began_ns: 0, timer: Timer::off() },
        }
    }

    /// What takes the times.
    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Adds `timings` to a JSON result, if times are taken.
    pub fn add_to(&self, document: &mut Value) {
        let Some(taken) = self.timer.taken() else { return };
        let stage = |time: &StageTime| {
            json!({
                "stage": time.stage.name(), "busy_ns": time.busy_ns, "waiting_ns": time.waiting_ns, "bytes": time.bytes,
            })
        };
        document["timings"] = json!({
            "elapsed_ns": elapsed_ns().saturating_sub(self.began_ns),
            "stages": taken.iter().map(stage).collect::<Vec<_>>(),
        });
    }

    /// Prints the table, if times are taken and aren't in a JSON result.
    pub fn show(&self, json: bool) {
        if let Some(taken) = self.timer.taken().filter(|_| !json) {
            table(&taken, elapsed_ns().saturating_sub(self.began_ns)).iter().for_each(|line| stderr_line(line));
        }
    }
}

fn table(taken: &[StageTime], elapsed_ns: u64) -> Vec<String> {
    let seconds = |ns: u64| format!("{:.3} s", Duration::from_nanos(ns).as_secs_f64());
    let row = |name: &str, busy: &str, waiting: &str, bytes: &str, rate: &str| {
        format!("{name:<10}{busy:>11}{waiting:>12}{bytes:>12}{rate:>14}").trim_end().to_owned()
    };
    let mut lines = vec![row("STAGE", "BUSY", "WAITING", "BYTES", "BYTES/BUSY")];
    for time in taken.iter().filter(|time| time.busy_ns + time.waiting_ns > 0) {
        let (mut bytes, mut rate) = (String::new(), String::new());
        if time.bytes > 0 {
            bytes = render::size(time.bytes);
            rate = render::rate(time.bytes, Duration::from_nanos(time.busy_ns));
        }
        lines.push(row(time.stage.name(), &seconds(time.busy_ns), &seconds(time.waiting_ns), &bytes, &rate));
    }
    let busy_ns = taken.iter().map(|time| time.busy_ns).sum();
    lines.push(row("all", &seconds(busy_ns), "", "", ""));
    lines.push(row("elapsed", &seconds(elapsed_ns), "", "", ""));
    lines
}

#[cfg(test)]
mod tests {
    use super::{Timings, table};
    use crate::timing::{Stage, StageTime};

    #[test]
    fn the_table_lists_the_stages_that_took_time() {
        let time = |stage, busy_ns, waiting_ns, bytes| StageTime { stage, busy_ns, waiting_ns, bytes };
        let taken = [
            time(Stage::Walk, 250_000_000, 1_000_000, 0),
            time(Stage::Compare, 0, 0, 0),
            time(Stage::Read, 500_000_000, 0, 1 << 30),
        ];
        let lines = table(&taken, 400_000_000);
        assert_eq!(
            lines,
            [
                "STAGE            BUSY     WAITING       BYTES    BYTES/BUSY",
                "walk          0.250 s     0.001 s",
                "read          0.500 s     0.000 s    1.00 GiB    2.00 GiB/s",
                "all           0.750 s",
                "elapsed       0.400 s",
            ]
        );
    }

    #[test]
    fn without_the_option_there_are_none() {
        let mut document = serde_json::json!({});
        Timings::begin(false).add_to(&mut document);
        assert_eq!(document, serde_json::json!({}));
        Timings::begin(true).add_to(&mut document);
        assert_eq!(document["timings"]["stages"].as_array().map(Vec::len), Some(Stage::ALL.len()));
    }
}

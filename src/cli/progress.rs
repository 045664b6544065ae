//! Progress, notices and issues on the standard error.
//!
//! On a terminal a bar with rate and estimate; elsewhere a line every ten seconds; under `--json` one
//! object a line:
//!
//! ```text
//! {"type":"progress","phase":"backup","entries":12,"entries_total":null,"bytes":4096,"bytes_total":8192,
//!  "seconds":1.5,"path":"home/a"}                    every second, and at the end of each phase
//! {"type":"issue","kind":"unreadable","path":"home/b","detail":"…"}
//! {"type":"notice","text":"…"}
//! ```
//!
//! `--quiet` leaves the issues only, `--no-progress` issues and notices. Guarantees: reporting never
//! fails the run, is cheap to call from many threads, and shows outside text escaped. The clock read
//! here is for display alone.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::args::Global;
use super::output::stderr_line;
use super::render::{self, JsonPath};
use super::signals::Interrupt;
use crate::report::{Issue, Monitor, Phase};
use crate::timing::Timer;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar on a terminal.
    Bar,
    /// Plain lines now and then.
    Lines,
    /// JSON objects, one a line.
    Json,
    /// None.
    Off,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Display {
    /// How progress is shown.
    pub style: Style,
    /// Issues and notices as JSON.
    pub json: bool,
    /// Notices are shown.
    pub notices: bool,
}

impl Display {
    /// What the options ask for, given whether the standard error is a terminal.
    pub fn chosen(global: &Global, terminal: bool) -> Self {
        let style = match (global.quiet || global.no_progress, global.json, terminal) {
            (true, _, _) => Style::Off,
            (false, true, _) => Style::Json,
            (false, false, true) => Style::Bar,
            (false, false, false) => Style::Lines,
        };
        Display { style, json: global.json, notices: !global.quiet }
    }

    fn interval(self) -> Option<Duration> {
        match self.style {
            Style::Bar => Some(Duration::from_millis(100)),
            Style::Json => Some(Duration::from_secs(1)),
            Style::Lines => Some(Duration::from_secs(10)),
            Style::Off => None,
        }
    }
}

/// The stable name of a phase.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Index => "index",
        Phase::Backup => "backup",
        Phase::Commit => "commit",
        Phase::Plan => "plan",
        Phase::Restore => "restore",
        Phase::Check => "check",
        Phase::Collect => "collect",
    }
}

/// The phase that goes on.
struct Running {
    phase: Phase,
    entries_total: Option<u64>,
    bytes_total: Option<u64>,
    since: Instant,
}

type Sink = Box<dyn Fn(&str) + Send + Sync>;

struct Shared {
    display: Display,
    running: Mutex<Option<Running>>,
    entries: AtomicU64,
    bytes: AtomicU64,
    path: Mutex<Vec<u8>>,
    bar: ProgressBar,
    sink: Sink,
}

/// A [`Monitor`] for a person or a program at the standard error. Dropping it ends the display.
pub struct Progress {
    shared: Arc<Shared>,
    interrupt: Interrupt,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
    timer: Timer,
}

impl Progress {
    /// Starts the display, and listens for signals.
    ///
    /// # Errors
    /// When the system refuses a signal handler or a thread.
    pub fn start(global: &Global) -> std::io::Result<Self> {
        let display = Display::chosen(global, std::io::stderr().is_terminal());
        let shared = Arc::new(Shared::new(display, Box::new(stderr_line)));
        let announcer = Arc::clone(&shared);
        let interrupt = Interrupt::listen(move || {
            announcer.notice("stopping cleanly; press again to abort at once");
        })?;
        Self::with(shared, interrupt)
    }

    fn with(shared: Arc<Shared>, interrupt: Interrupt) -> std::io::Result<Self> {
        let ticker = match shared.display.interval() {
            None => None,
            Some(interval) => {
                let shared = Arc::clone(&shared);
                let (stop, stopped) = channel::<()>();
                let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
                    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                        shared.show();
                    }
                })?;
                Some((stop, thread))
            }
        };
        Ok(Progress { shared, interrupt, ticker, timer: Timer::off() })
    }
}

impl Progress {
    /// Has the run's stages timed from now on.
    pub fn set_timer(&mut self, timer: Timer) {
        self.timer = timer;
    }

    /// Takes the bar or line away, so that the result stands alone.
    pub fn finish(&self) {
        self.shared.end_phase();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.ticker.take() {
            drop(stop);
            // A panic of the display is no reason to lose the run's result.
            let _ = thread.join();
        }
        self.shared.end_phase();
        self.shared.bar.finish_and_clear();
    }
}

impl Shared {
    fn new(display: Display, sink: Sink) -> Self {
        let bar = match display.style {
            Style::Bar => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            Style::Lines | Style::Json | Style::Off => ProgressBar::hidden(),
        };
        Shared {
            display,
            running: Mutex::new(None),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            path: Mutex::new(Vec::new()),
            bar,
            sink,
        }
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| (self.sink)(line));
    }

    fn notice(&self, text: &str) {
        if self.display.json {
            self.print(&json!({ "type": "notice", "text": text }).to_string());
        } else {
            self.print(&format!("keepstone: {}", render::printable(text)));
        }
    }

    fn issue(&self, issue: &Issue) {
        if self.display.json {
            let JsonPath { path, path_hex } = JsonPath::from(&issue.subject[..]);
            let mut line = json!({ "type": "issue", "kind": issue.kind.name(), "path": path, "detail": issue.detail });
            if let Some(hex) = path_hex {
                line["path_hex"] = hex.into();
            }
            self.print(&line.to_string());
        } else {
            let (subject, detail) = (render::escape(&issue.subject), render::printable(&issue.detail));
            self.print(&format!("keepstone: {}: {subject}: {detail}", issue.kind.name()));
        }
    }

    /// Shows how far the phase is, unless none goes on.
    fn show(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &*running else { return };
        let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let elapsed = running.since.elapsed();
        match self.display.style {
            Style::Off => {}
            Style::Bar => {
                self.bar.set_position(if running.measures_bytes() { bytes } else { entries });
                self.bar.set_prefix(running.summary(entries, bytes));
                self.bar.set_message(render::escape(&path).into_owned());
                self.bar.tick();
            }
            Style::Lines => {
                let mut line = format!("keepstone: {}", running.summary(entries, bytes));
                if bytes > 0 {
                    line.push_str(&format!(", {}", render::rate(bytes, elapsed)));
                }
                if let Some(left) = running.left(entries, bytes, elapsed) {
                    line.push_str(&format!(", {} left", render::duration(left)));
                }
                self.print(&line);
            }
            Style::Json => {
                let mut line = json!({
                    "type": "progress",
                    "phase": phase_name(running.phase),
                    "entries": entries,
                    "entries_total": running.entries_total,
                    "bytes": bytes,
                    "bytes_total": running.bytes_total,
                    "seconds": elapsed.as_millis() as f64 / 1000.0,
                });
                if !path.is_empty() {
                    let JsonPath { path, path_hex } = JsonPath::from(&path[..]);
                    line["path"] = path.into();
                    if let Some(hex) = path_hex {
                        line["path_hex"] = hex.into();
                    }
                }
                self.print(&line.to_string());
            }
        }
    }

    fn begin_phase(&self, phase: Phase, entries_total: Option<u64>, bytes_total: Option<u64>) {
        self.end_phase();
        let running = Running { phase, entries_total, bytes_total, since: Instant::now() };
        if self.display.style == Style::Bar {
            self.bar.reset();
            match if running.measures_bytes() { bytes_total } else { entries_total } {
                Some(total) => self.bar.set_length(total),
                None => self.bar.unset_length(),
            }
            self.bar.set_style(running.bar_style());
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    /// The last word on a phase, so that a short one isn't passed over and totals are complete.
    fn end_phase(&self) {
        if self.display.style == Style::Json {
            self.show();
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Running {
    /// Bytes say more than entries, but where only the number of entries is known.
    fn measures_bytes(&self) -> bool {
        self.bytes_total.is_some() || self.entries_total.is_none()
    }

    fn summary(&self, entries: u64, bytes: u64) -> String {
        let mut text = phase_name(self.phase).to_owned();
        match self.entries_total {
            Some(total) => {
                text.push_str(&format!(": {} of {}", render::count(entries), render::counted(total, "item")))
            }
            None => text.push_str(&format!(": {}", render::counted(entries, "item"))),
        }
        match self.bytes_total {
            Some(total) => text.push_str(&format!(", {} of {}", render::size(bytes), render::size(total))),
            None if bytes > 0 => text.push_str(&format!(", {}", render::size(bytes))),
            None => {}
        }
        text
    }

    /// How long the rest takes if it goes on at the same rate; `None` where that can't be told.
    fn left(&self, entries: u64, bytes: u64, elapsed: Duration) -> Option<Duration> {
        let (done, total) = match (self.bytes_total, self.entries_total) {
            (Some(total), _) => (bytes, total),
            (None, Some(total)) => (entries, total),
            (None, None) => return None,
        };
        if done == 0 || elapsed < Duration::from_secs(2) {
            return None;
        }
        let rest = total.saturating_sub(done) as f64 / done as f64;
        Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest).ok()
    }

    fn bar_style(&self) -> ProgressStyle {
        let known = self.bytes_total.is_some() || self.entries_total.is_some();
        let template = match (known, self.measures_bytes()) {
            (true, true) => "{prefix} {bar:24} {percent:>3}%  {binary_bytes_per_sec}, {eta} left  {wide_msg:.dim}",
            (true, false) => "{prefix} {bar:24} {percent:>3}%  {eta} left  {wide_msg:.dim}",
            (false, _) => "{spinner} {prefix}, {binary_bytes_per_sec}, {elapsed}  {wide_msg:.dim}",
        };
        // The templates are constants that a test tries; the fallback is for the type only.
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Monitor for Progress {
    fn phase(&self, phase: Phase, entries: Option<u64>, bytes: Option<u64>) {
        self.shared.begin_phase(phase, entries, bytes);
    }

    fn advance(&self, entries: u64, bytes: u64) {
        self.shared.entries.fetch_add(entries, Ordering::Relaxed);
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn current(&self, path: &[u8]) {
        if self.shared.display.style == Style::Off {
            return;
        }
        // Only the newest counts: whoever finds the lock taken leaves it to the other.
        if let Ok(mut current) = self.shared.path.try_lock() {
            current.clear();
            current.extend_from_slice(path);
        }
    }

    fn issue(&self, issue: &Issue) {
        self.shared.issue(issue);
    }

    fn notice(&self, text: &str) {
        if self.shared.display.notices {
            self.shared.notice(text);
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.requested()
    }

    fn timer(&self) -> Timer {
        self.timer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{Display, Progress, Running, Shared, Style};
    use crate::cli::args::Global;
    use crate::cli::signals::Interrupt;
    use crate::report::{Issue, IssueKind, Monitor, Phase};
    use indicatif::ProgressStyle;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    fn run(display: Display, work: impl FnOnce(&Progress)) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let shared = Shared::new(display, Box::new(move |line| sink.lock().unwrap().push(line.to_owned())));
        let progress = Progress::with(Arc::new(shared), Interrupt::default()).unwrap();
        work(&progress);
        drop(progress);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    fn work(progress: &Progress) {
        progress.phase(Phase::Backup, None, Some(100));
        progress.advance(2, 50);
        progress.current(b"a\xff");
        progress.issue(&Issue { kind: IssueKind::Unreadable, subject: b"x\n\xfe".to_vec(), detail: "no\x1b".into() });
        progress.notice("by the way");
        progress.phase(Phase::Commit, None, None);
    }

    #[test]
    fn options_choose_the_display() {
        let chosen = |quiet, no_progress, json, terminal| {
            let display = Display::chosen(&Global { quiet, no_progress, json, ..Global::default() }, terminal);
            (display.style, display.notices)
        };
        assert_eq!(chosen(false, false, false, true), (Style::Bar, true));
        assert_eq!(chosen(false, false, false, false), (Style::Lines, true));
        assert_eq!(chosen(false, false, true, true), (Style::Json, true));
        assert_eq!(chosen(true, false, true, true), (Style::Off, false));
        assert_eq!(chosen(false, true, false, true), (Style::Off, true));
    }

    #[test]
    fn json_lines_are_objects_with_exact_paths() {
        let lines = run(Display { style: Style::Json, json: true, notices: true }, work);
        let values: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = values.iter().map(|value| value["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["issue", "notice", "progress", "progress"]);
        assert_eq!((values[0]["path_hex"].as_str(), values[0]["kind"].as_str()), (Some("780afe"), Some("unreadable")));
        let backup = &values[2];
        assert_eq!((backup["phase"].as_str(), backup["entries"].as_u64()), (Some("backup"), Some(2)));
        assert_eq!((backup["bytes"].as_u64(), backup["bytes_total"].as_u64()), (Some(50), Some(100)));
        assert_eq!(backup["path_hex"], "61ff");
        assert!(backup["entries_total"].is_null());
        assert_eq!((values[3]["phase"].as_str(), values[3]["bytes"].as_u64()), (Some("commit"), Some(0)));
    }

    #[test]
    fn quiet_leaves_issues_and_text_is_escaped() {
        let lines = run(Display { style: Style::Off, json: false, notices: false }, work);
        assert_eq!(lines, ["keepstone: unreadable: x\\n\\xfe: no\\x1b"]);
        let lines = run(Display { style: Style::Off, json: false, notices: true }, work);
        assert_eq!(lines.last().map(String::as_str), Some("keepstone: by the way"));
    }

    #[test]
    fn lines_say_how_far_and_how_long() {
        let running = |entries_total, bytes_total| Running {
            phase: Phase::Restore,
            entries_total,
            bytes_total,
            since: Instant::now(),
        };
        let both = running(Some(1000), Some(4096));
        assert_eq!(both.summary(10, 1024), "restore: 10 of 1,000 items, 1.00 KiB of 4.00 KiB");
        assert_eq!(both.left(10, 1024, Duration::from_secs(10)), Some(Duration::from_secs(30)));
        assert_eq!(both.left(10, 0, Duration::from_secs(10)), None);
        assert_eq!(running(None, None).summary(1, 0), "restore: 1 item");
        assert_eq!(running(None, None).left(1, 1, Duration::from_secs(10)), None);
        assert_eq!(running(Some(4), None).left(1, 0, Duration::from_secs(10)), Some(Duration::from_secs(30)));
    }

    #[test]
    fn bar_templates_are_valid() {
        for (entries_total, bytes_total) in [(None, None), (Some(1), None), (None, Some(1))] {
            let running = Running { phase: Phase::Check, entries_total, bytes_total, since: Instant::now() };
            let _: ProgressStyle = running.bar_style();
        }
        // A bar that is drawn nowhere still renders its template.
        run(Display { style: Style::Bar, json: false, notices: true }, work);
    }

    #[test]
    fn a_request_to_stop_is_seen() {
        run(Display { style: Style::Off, json: false, notices: true }, |progress| {
            assert!(!progress.cancelled());
            progress.interrupt.request();
            assert!(progress.cancelled());
        });
    }
}

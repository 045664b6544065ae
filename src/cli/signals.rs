//! Signals: the first asks the run to stop cleanly, the second ends the process at once.
//!
//! Guarantees: SIGINT, SIGTERM and SIGHUP are heard even while a thread is stuck; a signal that the
//! caller had ignored (`nohup`, a background job) stays ignored. From the program's first line on a signal
//! ends it with the documented code and says so ([`end_at_once`]); commands that do work listen instead once
//! passphrases were asked for and the repository is open, since only from there on is there anything to end cleanly.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

use super::exit::Class;

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Set while nobody listens: then the first signal ends the process.
static UNHEARD: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// Set by a signal that came before anybody listened.
static EARLY: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Until [`Interrupt::listen`], a signal ends the process at once, after `say` on a thread of its own, with the
/// code of a run that was stopped rather than that of the signal. Called by `main`, once.
///
/// # Errors
/// When the system refuses a handler, a socket or a thread: then signals end the process as they always do.
pub fn end_at_once(say: impl Fn() + Send + 'static) -> io::Result<()> {
    // A write past the limit of a file's size then fails, and is told as any other; else it ended the process without
    // a word. Programs that this one begins meet the signal as they always do.
    flag::register(SIGXFSZ, Arc::default())?;
    let unheard = Arc::clone(UNHEARD.get_or_init(|| Arc::new(AtomicBool::new(true))));
    let early = EARLY.get_or_init(Arc::default);
    let (mut receiver, sender) = UnixStream::pair()?;
    std::thread::Builder::new().name("early-signals".into()).spawn(move || {
        if matches!(receiver.read(&mut [0]), Ok(1)) && unheard.load(Ordering::SeqCst) {
            say();
            low_level::exit(i32::from(Class::Cancelled.code()));
        }
    })?;
    for signal in SIGNALS.into_iter().filter(|signal| !ignored(*signal)) {
        flag::register(signal, Arc::clone(early))?;
        low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(())
}

/// True once the user asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for the signals; `announce` is called once, on a thread of its own, at the first.
    ///
    /// # Errors
    /// When the system refuses a handler, a socket or a thread.
    pub fn listen(announce: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let interrupt = Interrupt::default();
        let (mut receiver, sender) = UnixStream::pair()?;
        for signal in SIGNALS.into_iter().filter(|signal| !ignored(*signal)) {
            // In this order: the first signal finds the flag unset and sets it, the second ends the process.
            flag::register_conditional_shutdown(signal, i32::from(Class::Cancelled.code()), Arc::clone(&interrupt.0))?;
            flag::register(signal, Arc::clone(&interrupt.0))?;
            low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        if let Some(unheard) = UNHEARD.get() {
            unheard.store(false, Ordering::SeqCst);
        }
        // One that came just before, and that nobody answers any more.
        if EARLY.get().is_some_and(|early| early.load(Ordering::SeqCst)) {
            interrupt.request();
        }
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            // Ends without a byte when no handler holds the other end.
            if matches!(receiver.read(&mut [0]), Ok(1)) {
                announce();
            }
        })?;
        Ok(interrupt)
    }

    /// True once the user asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Asks to stop, as a signal does.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// True when this process was started with the signal ignored. Only Linux tells; elsewhere a signal
/// counts as not ignored.
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status, signal)
}

fn ignored_in(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::{Interrupt, ignored_in};
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn the_first_signal_sets_the_flag_and_is_announced() {
        let (sender, receiver) = channel();
        let interrupt = Interrupt::listen(move || sender.send(()).unwrap()).unwrap();
        assert!(!interrupt.requested());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(interrupt.requested());
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        assert!(ignored_in(status, SIGHUP) && ignored_in(status, SIGINT));
        assert!(!ignored_in(status, SIGTERM) && !ignored_in("", SIGHUP));
    }
}

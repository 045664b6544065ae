//! Time and randomness as traits, so that a simulation can drive the whole engine; what the machine calls itself, and
//! whether it gives threads.
//!
//! Guarantees: nothing else in the library reads a clock or asks the system for random bytes.
//! Time is for policy and display only; no safety rule rests on it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Wall-clock time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the Unix epoch; negative before 1970.
    fn now_ns(&self) -> i64;

    /// Returns once so much time has passed on this clock.
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A source of cryptographically strong random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// `N` fresh random bytes.
pub fn random_bytes<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0u8; N];
    random.fill(&mut bytes);
    bytes
}

/// This machine's name as it calls itself, for people; at most 255 bytes.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match name.len() {
        0..=255 => name,
        // No system allows such a name; the format doesn't either.
        _ => String::new(),
    }
}

/// The operating system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }
    }
}

/// Nanoseconds of the operating system's monotonic clock, since it was first asked here: for how long things take.
pub fn elapsed_ns() -> u64 {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    u64::try_from(BEGAN.get_or_init(std::time::Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// More are of no use here, and programs that close every number up to the limit before they begin take no longer.
const OPEN_FILES_WANTED: u64 = 4096;

/// Has the process open more files at once than the 1,024 that most systems begin with, as far as they let it: the limit
/// that anybody may raise stands far above. Where they don't, everything works with fewer.
pub fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(OPEN_FILES_WANTED, |maximum| maximum.min(OPEN_FILES_WANTED));
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Whether so many more threads can run at once: they are begun, and end again.
///
/// # Errors
/// What the system says to the first that it refuses.
pub fn can_begin_threads(count: usize) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut begun, mut refused) = (Vec::new(), Ok(()));
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        let (runs, running) = std::sync::mpsc::channel();
        let wait = move || {
            let _ = runs.send(());
            drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match std::thread::Builder::new().name("trial".into()).spawn(wait) {
            Ok(thread) => {
                begun.push(thread);
                // It takes some memory of its own before it runs, and would break off were the next one's stack to take
                // the last of it.
                let _ = running.recv();
            }
            Err(error) => {
                refused = Err(error);
                break;
            }
        }
    }
    drop(closed);
    begun.into_iter().for_each(|thread| drop(thread.join()));
    refused
}

/// The operating system's random generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // Without random bytes no key may be made: stopping at once is the only safe answer.
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// A clock for tests that advances one second a call.
pub struct StepClock(AtomicU64);

impl StepClock {
    /// Starts at `seconds` after the Unix epoch.
    pub fn starting_at(seconds: u64) -> Self {
        StepClock(AtomicU64::new(seconds))
    }
}

impl Clock for StepClock {
    fn now_ns(&self) -> i64 {
        let seconds = self.0.fetch_add(1, Ordering::Relaxed);
        i64::try_from(seconds).unwrap_or(i64::MAX / 1_000_000_000) * 1_000_000_000
    }

    fn sleep(&self, duration: Duration) {
        self.0.fetch_add(duration.as_secs(), Ordering::Relaxed);
    }
}

/// A reproducible generator for tests, vectors and simulations. Never use it for real keys.
pub struct SeededRandom(Mutex<blake3::OutputReader>);

impl SeededRandom {
    /// The same seed gives the same bytes in the same order.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("keepstone test randomness");
        hasher.update(&seed.to_le_bytes());
        SeededRandom(Mutex::new(hasher.finalize_xof()))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("no panic while filling").fill(bytes);
    }
}

//! Where a run's time goes: per stage how long threads were busy in it, how long they waited for others there,
//! and how many bytes went through.
//!
//! Guarantees: each moment of a thread belongs to one stage at most, the innermost that it is in, so that the busy
//! times add up to what the threads worked; a timer that is off asks no clock. The clock comes from the caller.
//! Called by the operations' pipelines, shown by `cli`.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the repository, its index and what else a run begins with.
    Open,
    /// Listing directories and reading what entries are, or in a restore a snapshot's trees; waits for whoever takes
    /// the entries.
    Walk,
    /// Comparing files with what the last run saw.
    Compare,
    /// Reading files; waits for entries.
    Read,
    /// Cutting content into chunks.
    Chunk,
    /// Computing the ids of chunks; in a check those of packs, too.
    Id,
    /// Looking chunks up in the index.
    LookUp,
    /// Joining new chunks into frames.
    Frame,
    /// Compressing frames.
    Compress,
    /// Encrypting frames.
    Seal,
    /// Writing frames into open packs.
    Spool,
    /// Completing packs; waits for whoever ships them.
    Pack,
    /// Putting packs, segments and snapshots into the regions; waits for some to put.
    Ship,
    /// Making segments, or in a check reading and comparing them; waits for packs, and until they are in the regions.
    Segment,
    /// Taking segments into the local index.
    Index,
    /// Writing trees, or in a check following them from each snapshot; waits for entries.
    Tree,
    /// Remembering files for the next run.
    Remember,
    /// The snapshot and its commits.
    Commit,
    /// Reading packs out of the regions; waits for the walk to say which.
    Fetch,
    /// Decrypting frames.
    Unseal,
    /// Decompressing frames.
    Decompress,
    /// Making entries in a restore's target and writing their content and metadata.
    Write,
}

impl Stage {
    /// All, in the order of the data, first of what is stored and then of what is read.
    pub const ALL: [Stage; 22] = [
        Stage::Open,
        Stage::Walk,
        Stage::Compare,
        Stage::Read,
        Stage::Chunk,
        Stage::Id,
        Stage::LookUp,
        Stage::Frame,
        Stage::Compress,
        Stage::Seal,
        Stage::Spool,
        Stage::Pack,
        Stage::Ship,
        Stage::Segment,
        Stage::Index,
        Stage::Tree,
        Stage::Remember,
        Stage::Commit,
        Stage::Fetch,
        Stage::Unseal,
        Stage::Decompress,
        Stage::Write,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Open => "open",
            Stage::Walk => "walk",
            Stage::Compare => "compare",
            Stage::Read => "read",
            Stage::Chunk => "chunk",
            Stage::Id => "id",
            Stage::LookUp => "look-up",
            Stage::Frame => "frame",
            Stage::Compress => "compress",
            Stage::Seal => "seal",
            Stage::Spool => "spool",
            Stage::Pack => "pack",
            Stage::Ship => "ship",
            Stage::Segment => "segment",
            Stage::Index => "index",
            Stage::Tree => "tree",
            Stage::Remember => "remember",
            Stage::Commit => "commit",
            Stage::Fetch => "fetch",
            Stage::Unseal => "unseal",
            Stage::Decompress => "decompress",
            Stage::Write => "write",
        }
    }
}

/// What a stage came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// Nanoseconds that threads worked in it, all together.
    pub busy_ns: u64,
    /// Nanoseconds that threads waited in it.
    pub waiting_ns: u64,
    /// Bytes that went through: content before compression in the stages up to it, what is stored behind.
    pub bytes: u64,
}

#[derive(Default)]
struct Sums {
    busy_ns: AtomicU64,
    waiting_ns: AtomicU64,
    bytes: AtomicU64,
}

/// A source of monotonic nanoseconds.
type Ticks = dyn Fn() -> u64 + Send + Sync;

struct Timings {
    ticks: Box<Ticks>,
    sums: [Sums; Stage::ALL.len()],
}

/// Takes the times, or, if it is off, does nothing. Copies add to the same sums.
#[derive(Clone, Default)]
pub struct Timer(Option<Arc<Timings>>);

/// What a thread is in, and since when.
#[derive(Clone, Copy)]
struct Running {
    stage: Stage,
    waiting: bool,
    since_ns: u64,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

impl Timings {
    fn add(&self, running: Running, until_ns: u64) {
        let sums = &self.sums[running.stage as usize];
        let sum = if running.waiting { &sums.waiting_ns } else { &sums.busy_ns };
        sum.fetch_add(until_ns.saturating_sub(running.since_ns), Ordering::Relaxed);
    }

    fn measure<T>(&self, stage: Stage, waiting: bool, work: impl FnOnce() -> T) -> T {
        let outer = RUNNING.get();
        let now_ns = (self.ticks)();
        if let Some(outer) = outer {
            self.add(outer, now_ns);
        }
        RUNNING.set(Some(Running { stage, waiting, since_ns: now_ns }));
        let result = work();
        let now_ns = (self.ticks)();
        if let Some(running) = RUNNING.get() {
            self.add(running, now_ns);
        }
        RUNNING.set(outer.map(|outer| Running { since_ns: now_ns, ..outer }));
        result
    }
}

impl Timer {
    /// One that takes times with a clock of monotonic nanoseconds.
    pub fn on(ticks: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Timer(Some(Arc::new(Timings { ticks: Box::new(ticks), sums: Default::default() })))
    }

    /// One that does nothing.
    pub fn off() -> Self {
        Timer(None)
    }

    /// Does `work`, whose time is the stage's, but for what it spends in further stages.
    pub fn run<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            None => work(),
            Some(timings) => timings.measure(stage, false, work),
        }
    }

    /// As [`Timer::run`], for what waits for other threads.
    pub fn wait<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            None => work(),
            Some(timings) => timings.measure(stage, true, work),
        }
    }

    /// So many more bytes went through a stage.
    pub fn bytes(&self, stage: Stage, bytes: u64) {
        if let Some(timings) = &self.0 {
            timings.sums[stage as usize].bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What was taken so far; `None` if it is off.
    pub fn taken(&self) -> Option<Vec<StageTime>> {
        let timings = self.0.as_ref()?;
        let taken = Stage::ALL.iter().zip(&timings.sums).map(|(stage, sums)| StageTime {
            stage: *stage,
            busy_ns: sums.busy_ns.load(Ordering::Relaxed),
            waiting_ns: sums.waiting_ns.load(Ordering::Relaxed),
            bytes: sums.bytes.load(Ordering::Relaxed),
        });
        Some(taken.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that a test moves.
    fn clock() -> (Arc<AtomicU64>, Timer) {
        let now = Arc::new(AtomicU64::new(1000));
        let read = Arc::clone(&now);
        (now, Timer::on(move || read.load(Ordering::Relaxed)))
    }

    fn of(timer: &Timer, stage: Stage) -> (u64, u64, u64) {
        let taken = timer.taken().expect("it is on");
        let found = taken.iter().find(|time| time.stage == stage).expect("all are listed");
        (found.busy_ns, found.waiting_ns, found.bytes)
    }

    #[test]
    fn each_moment_belongs_to_the_innermost_stage() {
        let (now, timer) = clock();
        let pass = |ns| {
            now.fetch_add(ns, Ordering::Relaxed);
        };
        let answer = timer.run(Stage::Tree, || {
            pass(5);
            timer.run(Stage::LookUp, || pass(20));
            pass(3);
            timer.wait(Stage::Tree, || {
                pass(100);
                timer.run(Stage::Seal, || pass(1));
                pass(50);
            });
            pass(2);
            7
        });
        pass(1000);
        timer.run(Stage::Tree, || pass(1));
        timer.bytes(Stage::Tree, 40);
        timer.bytes(Stage::Tree, 2);
        assert_eq!(answer, 7);
        assert_eq!(of(&timer, Stage::Tree), (11, 150, 42));
        assert_eq!(of(&timer, Stage::LookUp), (20, 0, 0));
        assert_eq!(of(&timer, Stage::Seal), (1, 0, 0));
        assert_eq!(of(&timer, Stage::Walk), (0, 0, 0));
    }

    #[test]
    fn threads_add_up_and_know_nothing_of_one_another() {
        let (now, timer) = clock();
        timer.run(Stage::Walk, || {
            let copy = timer.clone();
            let ticked = Arc::clone(&now);
            let thread = std::thread::spawn(move || {
                copy.run(Stage::Read, || ticked.fetch_add(10, Ordering::Relaxed));
            });
            thread.join().expect("no panic");
        });
        assert_eq!((of(&timer, Stage::Walk).0, of(&timer, Stage::Read).0), (10, 10));
    }

    #[test]
    fn names_are_distinct_and_in_the_order_of_all() {
        let names: std::collections::BTreeSet<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        assert_eq!(names.len(), Stage::ALL.len());
        assert!(Stage::ALL.iter().enumerate().all(|(at, stage)| *stage as usize == at));
        assert!(Timer::off().taken().is_none() && Timer::off().run(Stage::Id, || true));
    }
}

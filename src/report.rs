//! What a run tells its caller: counters, issues and progress, as data. Nothing here prints.
//!
//! The library calls a [`Monitor`]; the command line implements it with bars, lines or JSON.

use crate::timing::Timer;
use std::sync::atomic::{AtomicU64, Ordering};

/// An item-level failure in a run that goes on. It enters the report, makes the exit code nonzero
/// and marks the snapshot partial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// What kind of failure.
    pub kind: IssueKind,
    /// The path or object it is about, as raw bytes.
    pub subject: Vec<u8>,
    /// What happened, for a person.
    pub detail: String,
}

/// Kinds of [`Issue`], with the stable names used in JSON and in stored snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IssueKind {
    /// The entry disappeared between listing and reading.
    Vanished,
    /// The entry, or a stored object, could not be read.
    Unreadable,
    /// The file changed while it was read, twice.
    Inconsistent,
    /// The entry's metadata (xattr, ACL, owner) could not be read.
    MetadataUnreadable,
    /// The entry could not be written or its metadata not set.
    NotRestored,
    /// A stored object is damaged.
    Damaged,
    /// A stored object is absent.
    Missing,
}

impl IssueKind {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            IssueKind::Vanished => "vanished",
            IssueKind::Unreadable => "unreadable",
            IssueKind::Inconsistent => "inconsistent",
            IssueKind::MetadataUnreadable => "metadata-unreadable",
            IssueKind::NotRestored => "not-restored",
            IssueKind::Damaged => "damaged",
            IssueKind::Missing => "missing",
        }
    }
}

/// A phase of a run, for progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bringing the local index up to date with the regions.
    Index,
    /// Walking, reading and storing a source.
    Backup,
    /// Waiting for the last uploads and writing commits.
    Commit,
    /// Working out what a restore needs.
    Plan,
    /// Writing restored entries.
    Restore,
    /// Reading and verifying stored objects.
    Check,
    /// Finding out what of a region is needed.
    Collect,
}

/// Receives progress and issues while a run goes on; implementations must be cheap and never fail.
pub trait Monitor: Send + Sync {
    /// A phase begins; totals in entries and bytes where known.
    fn phase(&self, _phase: Phase, _entries: Option<u64>, _bytes: Option<u64>) {}
    /// So many more entries and raw bytes were dealt with in this phase.
    fn advance(&self, _entries: u64, _bytes: u64) {}
    /// The entry worked on now, as raw bytes.
    fn current(&self, _path: &[u8]) {}
    /// An item failed and the run goes on.
    fn issue(&self, _issue: &Issue) {}
    /// Something a person should know that is no failure.
    fn notice(&self, _text: &str) {}
    /// True once the user asked to stop; long loops poll it.
    fn cancelled(&self) -> bool {
        false
    }
    /// Takes the times of the run's stages; off unless somebody wants them.
    fn timer(&self) -> Timer {
        Timer::off()
    }
}

/// A [`Monitor`] that ignores everything.
pub struct Silent;

impl Monitor for Silent {}

/// A count that many threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

//! Backs up a source: walk → read → chunk → id → index → frame → pack → ship → segment → snapshot →
//! commit per region.
//!
//! Guarantees: a commit is written in a region only when everything that it needs is there; nothing is
//! reported as saved that isn't; what could not be captured is in the snapshot and in the report.

mod conclude;
mod drive;
pub mod engine;
pub mod file;
pub mod finish;
mod gather;
mod mend;
mod produce;
pub mod run;
pub mod tree;
pub mod usable;
pub mod watch;

pub use engine::DedupTrust;
pub use file::worker_bytes;
pub use run::{Backup, WATCH_INTERVAL_DEFAULT, backup_stream, backup_tree};

use crate::format::ids::SnapshotId;
use crate::format::snapshot::{Counts, has_room_for_sources};
use crate::repo::Repository;
use crate::report::Issue;
use crate::store::StoreErrorKind;

/// What stops a backup; no snapshot is saved then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source can't be walked at all.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// A source holds nothing.
    #[error("{path} holds nothing to back up; is its file system mounted? `--allow-empty` saves it all the same")]
    EmptySource {
        /// The source.
        path: String,
    },
    /// Of a source that isn't empty nothing but directories would be captured.
    #[error(
        "of what {path} holds, patterns and sizes leave out all but directories; `--dry-run --allow-empty` counts what, \
         and `--allow-empty` saves it all the same"
    )]
    AllLeftOut {
        /// The source.
        path: String,
    },
    /// A stream gave no byte.
    #[error("the stream '{name}' is empty; `--allow-empty` saves it all the same")]
    EmptyStream {
        /// Its name.
        name: String,
    },
    /// A stream can't be read.
    #[error("the stream can't be read: {0}")]
    Stream(std::io::Error),
    /// The command that gives the stream failed, or there is none.
    #[error(transparent)]
    Command(#[from] crate::source::StreamError),
    /// Chunks can't be cut as asked.
    #[error(transparent)]
    ChunkSize(#[from] crate::chunker::ChunkSizeError),
    /// A name or tag is too long.
    #[error("{what} is {length} bytes long, at most {max} are allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// More source paths than a snapshot has room for.
    #[error(
        "{count} source paths of {bytes} bytes together are more than one snapshot names: at most {} paths, \
         {} bytes together and {} bytes each",
        crate::limits::SOURCES_MAX,
        crate::limits::SOURCES_BYTES_TARGET,
        crate::limits::PATH_BYTES_MAX
    )]
    TooManySources {
        /// How many there are.
        count: usize,
        /// Their bytes together.
        bytes: usize,
    },
    /// A region's server takes snapshots of another dataset only.
    #[error("region '{region}' takes snapshots of dataset '{allowed}' only, and this one is of '{wanted}'")]
    ForeignDataset {
        /// The region.
        region: String,
        /// The dataset that it takes.
        allowed: String,
        /// The dataset that was to be backed up.
        wanted: String,
    },
    /// The system gives no more threads.
    #[error("{count} threads can't be begun: {error}")]
    Threads {
        /// How many were wanted.
        count: usize,
        /// What the system said.
        error: std::io::Error,
    },
    /// The walk ended inside a directory: a programmer's error, never saved.
    #[error("the walk ended before its root directory did")]
    WalkEndedEarly,
    /// The spool or the cryptography failed.
    #[error(transparent)]
    Pack(#[from] crate::pack::PackError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    /// The repository can't be used.
    #[error(transparent)]
    Repo(#[from] crate::repo::RepoError),
    /// No region takes what is stored.
    #[error(transparent)]
    Ship(#[from] crate::ship::ShipError),
    /// A key is missing.
    #[error(transparent)]
    Crypto(#[from] crate::crypto::CryptoError),
    /// The change-detection cache can't be written.
    #[error("the cache in {directory} can't be written: {detail}")]
    Cache {
        /// The cache directory.
        directory: String,
        /// What the system said.
        detail: String,
    },
    /// Collections took what this run relied on, or fenced its sessions, more often than it could repeat.
    #[error("a collection overtook this backup: {detail}; no snapshot was saved, or not in every region")]
    Overtaken {
        /// What happened last.
        detail: String,
    },
    /// A collection took what a stream relied on, too late to name it, and no copy can be read.
    #[error("a collection took what this stream had in common with earlier ones: {detail}; no snapshot was saved")]
    Lost {
        /// What can't be read, and why.
        detail: String,
    },
    /// The user stopped it. What was shipped is used by the next run.
    #[error("stopped; what was stored so far is used by the next backup")]
    Cancelled,
}

/// Refuses a dataset that some region of the run doesn't take (`SERVE-8`).
///
/// # Errors
/// [`BackupError::ForeignDataset`].
pub fn check_dataset(repository: &Repository, wanted: &str) -> Result<(), BackupError> {
    for region in &repository.regions {
        if let Some(allowed) = region.store.only_dataset().filter(|allowed| *allowed != wanted) {
            return Err(BackupError::ForeignDataset {
                region: region.name.clone(),
                allowed: allowed.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses more source paths than a snapshot has room for.
///
/// # Errors
/// [`BackupError::TooManySources`].
pub fn check_sources(sources: &[std::path::PathBuf]) -> Result<(), BackupError> {
    let lengths = || sources.iter().map(|path| path.as_os_str().len());
    match has_room_for_sources(lengths()) {
        true => Ok(()),
        false => Err(BackupError::TooManySources { count: sources.len(), bytes: lengths().sum() }),
    }
}

/// How one region of a run ended.
#[derive(Clone, Debug)]
pub struct RegionOutcome {
    /// Its name.
    pub name: String,
    /// The snapshot counts there.
    pub committed: bool,
    /// Bytes that were put there.
    pub shipped_bytes: u64,
    /// Why it has no commit.
    pub failure: Option<(StoreErrorKind, String)>,
}

/// What a backup came to.
#[derive(Clone, Debug)]
pub struct BackupSummary {
    /// The snapshot; `None` after a dry run, or when nothing had changed and that was to be skipped.
    pub snapshot: Option<SnapshotId>,
    /// With `skip_if_unchanged`: the source is as the last snapshot has it.
    pub unchanged: bool,
    /// What is in it.
    pub counts: Counts,
    /// Files that the last run had not seen.
    pub files_new: u64,
    /// Files that had changed since.
    pub files_changed: u64,
    /// Files that had not, and were not opened.
    pub files_unmodified: u64,
    /// Plaintext bytes of chunks that were not stored before.
    pub new_bytes: u64,
    /// How many chunks those are.
    pub new_chunks: u64,
    /// Bytes of the packs that hold them, in one region.
    pub stored_bytes: u64,
    /// What failed, item by item.
    pub issues: Vec<Issue>,
    /// Each region of the configuration that was reached.
    pub regions: Vec<RegionOutcome>,
    /// When it began and ended, nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
}

impl BackupSummary {
    /// Something was not captured, or not consistently.
    pub fn partial(&self) -> bool {
        self.counts.issues > 0
    }

    /// Some reached region has no commit.
    pub fn pending(&self) -> bool {
        self.regions.iter().any(|region| !region.committed)
    }
}

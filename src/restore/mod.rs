//! Bringing a snapshot back: plan what to fetch, fetch ranges, open, verify every chunk, write.
//!
//! [`target`] is the only part that touches a file system; [`run`] drives it.

mod patterns;
pub mod run;
pub mod scope;
pub mod target;
mod window;

pub use run::{Restore, RestoreSummary, WORKER_BYTES, require_paths, restore};
pub use scope::{Scope, ScopeError};

use crate::repo::fetch::FetchError;

/// What stops a restore.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot's trees can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The target can't be written.
    #[error(transparent)]
    Target(#[from] target::TargetError),
    /// A path that was asked for is not in the snapshot.
    #[error("the snapshot holds no '{0}'")]
    NoSuchPath(String),
    /// A pattern can't be understood.
    #[error("the pattern '{pattern}' can't be used: {detail}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        detail: String,
    },
    /// A pattern that is to spare something from being deleted names nothing.
    #[error("{0}; nothing was restored or deleted")]
    PatternAstray(String),
    /// No entry of what was asked for is named by an include pattern and by no exclude pattern.
    #[error("nothing is named by --include {0} and left by --exclude: no entry was restored")]
    NothingIncluded(String),
    /// The system refuses threads.
    #[error("{count} threads can't be begun: {error}")]
    Threads {
        /// How many were wanted.
        count: usize,
        /// Why.
        error: std::io::Error,
    },
    /// The user stopped it; run it again to go on.
    #[error("stopped; the same command goes on where this left off")]
    Cancelled,
}

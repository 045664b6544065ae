//! Collection: finds what no snapshot reaches and takes it away, in generations, beside running backups.
//! Page: `format-spec/gc.md`.
//!
//! Guarantees: nothing is deleted before a final lists it, and no final lists what a counting or merely
//! forgotten snapshot, an open session or a base of one still needs; what could not be read is never taken
//! for absent (`COLLECT-1`). Every step can be done again by any process, and an unfinished generation is
//! finished by whoever comes next. No pack is read but the headers of those that no segment lists. Called by
//! `cli/gc`.
//!
//! One run in one region: [`region`] drives; [`claims`] reads who has a say (sessions, commits, verdicts),
//! [`holdings`] what there is (packs, segments, what refers to what), [`mark`] tells what is needed,
//! [`generation`] decides and writes the log, [`sweep`] deletes.

mod claims;
mod generation;
mod holdings;
mod mark;
mod region;
mod repack;
pub mod report;
mod rulings;
mod sweep;

pub use report::{GcReport, OpenSession, Reason, RegionReport, Tally};

use crate::format::ids::RegionId;
use crate::index::graph::GraphError;
use crate::pack::{PackError, SpoolSpace};
use crate::repo::open::DECIDERS;
use crate::repo::{RepoError, Repository};
use crate::report::Monitor;
use crate::store::{StoreError, StoreErrorKind};
use jiff::Span;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Days for which a forgotten snapshot can be brought back by default.
pub const FORGET_WINDOW_DAYS: i64 = 7;
/// How long a session may take to see a condemn before it is fenced. Writers look every few minutes.
pub const OBSERVE_TIME: Duration = Duration::from_secs(600);
/// What a thread of a collection holds at most, in bytes: a usual segment as stored and as decoded.
pub const WORKER_BYTES: usize = 12 << 20;
/// How often a run that waits looks whether the sessions have seen it.
const POLL: Duration = Duration::from_secs(10);

/// What stops a collection in a region. Nothing was deleted that an earlier final doesn't list.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// An object can't be read, or a region fails.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// What doesn't fit into memory can't be put aside.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A pack's header can't be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// What is stored disagrees with itself.
    #[error("COLLECT-1: region '{region}' is incomplete, and nothing was deleted: {detail}")]
    Incomplete {
        /// The region's name.
        region: String,
        /// What is wrong.
        detail: String,
    },
    /// The user stopped it.
    #[error("stopped; the next run goes on from there")]
    Cancelled,
}

impl GcError {
    /// True when a store refused a put for want of room.
    pub fn is_lack_of_room(&self) -> bool {
        let is_full = |error: &StoreError| error.kind == StoreErrorKind::Full;
        match self {
            GcError::Repo(RepoError::Store { source, .. }) => is_full(source),
            // A session that opens in one region only.
            GcError::Repo(RepoError::Unreachable(failures)) => failures.iter().all(|(_, error)| is_full(error)),
            _ => false,
        }
    }
}

/// How much that nothing needs may stay in packs that are needed, before they are emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxUnused {
    /// Hundredths of a percent of what the region's packs take.
    Permyriad(u32),
    /// Bytes.
    Bytes(u64),
}

/// Tolerated by default: 5 % of a region. To reclaim the last of it costs reading and writing many times as
/// much, since it is spread thin, and a pack that is mostly needed now may be all dead after a few more
/// snapshots have gone.
pub const MAX_UNUSED_DEFAULT: MaxUnused = MaxUnused::Permyriad(500);

/// How to collect.
#[derive(Clone)]
pub struct GcOptions {
    /// Wait until the open sessions have seen the new generation, at most [`OBSERVE_TIME`], and finish it.
    pub now: bool,
    /// Compute and report what would go, and write nothing.
    pub dry_run: bool,
    /// Segments read at once; with 0 everything happens on the caller's thread.
    pub threads: usize,
    /// Bytes that the graph of chunks may hold in memory.
    pub memory_bytes: usize,
    /// The directory that takes what exceeds them; `None`: all is held in memory.
    pub spill: Option<PathBuf>,
    /// What may stay unused. A maintainer counts whole frames, an owner chunks.
    pub max_unused: MaxUnused,
    /// Bytes of packs that a run reads at most to take out what is needed; `None`: no bound.
    pub max_repack_bytes: Option<u64>,
    /// Where new packs live until their name is known.
    pub spools: SpoolSpace,
    /// How long a forgotten snapshot can be brought back.
    pub forget_window: Span,
    /// Believe this host's clock that a window is over though nothing was signed here for long before it (`VERDICT-9`).
    pub trust_clock: bool,
    /// When this host first saw a region's open generation, by an earlier run's [`RegionReport::noticed`]:
    /// the log holds no times.
    pub noticed: BTreeMap<RegionId, (u64, i64)>,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            now: false,
            dry_run: false,
            threads: 0,
            memory_bytes: 64 << 20,
            spill: None,
            max_unused: MAX_UNUSED_DEFAULT,
            max_repack_bytes: None,
            spools: SpoolSpace::Memory,
            forget_window: Span::new().days(FORGET_WINDOW_DAYS),
            trust_clock: false,
            noticed: BTreeMap::new(),
        }
    }
}

/// Collects in every reached region, one after another. A region that fails doesn't keep the others from
/// being collected; its report says why.
///
/// # Errors
/// When this slot may not collect, or the user stops it.
pub fn gc(repository: &Repository, options: &GcOptions, monitor: &dyn Monitor) -> Result<GcReport, GcError> {
    repository.require(&DECIDERS, "collect")?;
    let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
    for at in 0..repository.regions.len() {
        let mut part = RegionReport { name: repository.regions[at].name.clone(), ..RegionReport::default() };
        match region::collect(repository, at, options, monitor, &mut part) {
            Ok(()) => {}
            Err(GcError::Cancelled) => return Err(GcError::Cancelled),
            Err(error) => part.failure = Some(error),
        }
        report.regions.push(part);
    }
    Ok(report)
}

//! Finding out whether a repository is whole: [`scrub`] without a key, [`check`] with one.
//!
//! Three depths, each with what it can't see:
//! - [`scrub`] compares every stored byte of one region with the digests that the objects carry. It
//!   can't see that an object is absent, that an old state was put back, or who wrote what.
//! - [`check`] verifies each reached region by itself: signatures, segments, packs (present, with the
//!   right size), and that every counted snapshot reaches only chunks in listed, present packs. It
//!   reads no pack, so it works for slots that can't read payloads.
//! - with [`Options::read_data`], packs are read as well and every chunk's id is computed anew.
//!
//! Guarantees: nothing is written (its caller may attest what was verified); what could not be read is an issue or an error, never "sound". Called
//! by `cli/check` and `cli/scrub`.

mod data;
mod graph;
mod objects;
pub mod scrub;
mod structure;

pub use data::Subset;
pub use scrub::{ScrubReport, scrub};

use crate::crypto::CryptoError;
use crate::format::ids::{Digest, SnapshotId};
use crate::index::{Index, IndexError};
use crate::repo::{RepoError, Repository, snapshots};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::{StoreError, StoreErrorKind};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Issues that a report lists one by one; more are only counted.
pub const ISSUES_LISTED_MAX: usize = 10_000;

/// What stops a check; a stopped check says nothing about what it didn't reach.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The repository or a store can't be used.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A scrubbed region's store failed.
    #[error("region '{region}': {source}")]
    Store {
        /// The region's name.
        region: String,
        /// What it said.
        source: StoreError,
    },
    /// The scrubbed store holds no repository.
    #[error("region '{region}' at {address} holds no repository: it has no object of this format")]
    NotARepository {
        /// The region's name.
        region: String,
        /// Its address.
        address: String,
    },
    /// This slot can't read payloads.
    #[error("this key slot can't read payloads: check --read-data needs an owner's key; check and scrub don't")]
    NotPermitted,
    /// The user stopped it.
    #[error("stopped; what was not reached yet was not checked")]
    Cancelled,
}

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Which packs to read; `None` for none.
    pub read_data: Option<Subset>,
    /// Threads that read and verify; at least one is used.
    pub threads: usize,
}

/// What a check found in one region.
#[derive(Clone, Debug, Default)]
pub struct RegionReport {
    /// Its name.
    pub name: String,
    /// Small objects verified besides segments: rosters, rings, key files, sessions, commits, snapshots.
    pub objects: u64,
    /// Segments opened.
    pub segments: u64,
    /// Packs listed by segments.
    pub packs: u64,
    /// Bytes of those that are present.
    pub pack_bytes: u64,
    /// Listed packs that are absent.
    pub packs_missing: u64,
    /// Packs that no segment lists.
    pub packs_orphan: u64,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Chunks listed, copies counted.
    pub chunks: u64,
    /// Snapshots that count here.
    pub snapshots: u64,
    /// Of these, the ones that can't be restored whole from this region, as far as was checked.
    pub snapshots_broken: Vec<SnapshotId>,
    /// Chunks that the snapshots reach, each once.
    pub chunks_reached: u64,
    /// Packs read by `read_data`.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Chunks whose id was computed and compared.
    pub chunks_verified: u64,
}

/// A snapshot that counts in some reached regions only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Names of the reached regions where it doesn't count.
    pub regions: Vec<String>,
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Each reached region.
    pub regions: Vec<RegionReport>,
    /// Damaged or missing objects, the first [`ISSUES_LISTED_MAX`]; subjects are `region:object`.
    pub issues: Vec<Issue>,
    /// How many issues there are.
    pub issues_total: u64,
    /// Snapshots that the regions don't agree on.
    pub pending: Vec<PendingSnapshot>,
    /// What else the regions don't agree on.
    pub differences: Vec<String>,
    /// The local index says other things than the segments: `cache rebuild` makes it anew.
    pub index_stale: bool,
    /// What a person should know that is no failure.
    pub notices: Vec<String>,
    /// Listings of packs that were read whole, in whichever region, and are as their segments state: what an
    /// owner may attest (`ATTEST-4`).
    pub verified: Vec<Digest>,
}

impl CheckReport {
    /// Nothing that was checked is damaged or missing.
    pub fn is_sound(&self) -> bool {
        self.issues_total == 0
    }

    /// The regions don't hold the same.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty() || !self.differences.is_empty()
    }
}

/// Collects issues from many threads, each subject and detail once.
struct Findings<'a> {
    monitor: &'a dyn Monitor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    issues: Vec<Issue>,
    seen: HashSet<(Vec<u8>, String)>,
    total: u64,
    notices: Vec<String>,
    differences: Vec<String>,
    failure: Option<CheckError>,
}

impl<'a> Findings<'a> {
    fn new(monitor: &'a dyn Monitor) -> Self {
        Findings { monitor, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, issue: Issue) {
        let mut state = self.state();
        if state.issues.len() >= ISSUES_LISTED_MAX {
            state.total += 1;
        } else if state.seen.insert((issue.subject.clone(), issue.detail.clone())) {
            state.total += 1;
            self.monitor.issue(&issue);
            state.issues.push(issue);
        }
    }

    fn issue(&self, kind: IssueKind, region: &str, name: &str, detail: impl ToString) {
        self.push(Issue { kind, subject: format!("{region}:{name}").into_bytes(), detail: detail.to_string() });
    }

    fn notice(&self, text: String) {
        self.monitor.notice(&text);
        self.state().notices.push(text);
    }

    fn difference(&self, text: String) {
        self.state().differences.push(text);
    }

    /// Turns an error about one object into an issue; what concerns the whole store stops the run.
    fn note(&self, region: &str, name: &str, error: RepoError) -> Result<(), CheckError> {
        match &error {
            RepoError::Store { source, .. } => match store_issue(source) {
                Some(kind) => self.issue(kind, region, name, &error),
                None => return Err(error.into()),
            },
            RepoError::Missing { .. } => self.issue(IssueKind::Missing, region, name, &error),
            // No damage: it doesn't count, and nobody expects it to.
            RepoError::Crypto { source: CryptoError::Revoked { .. }, .. }
            | RepoError::Index(IndexError::Refused { .. }) => {}
            RepoError::Object { .. }
            | RepoError::Crypto { .. }
            | RepoError::Key(_)
            | RepoError::Index(IndexError::Segment { .. }) => {
                self.issue(IssueKind::Damaged, region, name, &error);
            }
            _ => return Err(error.into()),
        }
        Ok(())
    }

    /// Runs `work` for 0, 1, … `count` − 1 on up to `threads` threads; the first error stops all.
    fn parallel(
        &self,
        threads: usize,
        count: usize,
        work: &(dyn Fn(usize) -> Result<(), CheckError> + Sync),
    ) -> Result<(), CheckError> {
        let next = AtomicUsize::new(0);
        let run = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count || self.state().failure.is_some() {
                    return;
                }
                let outcome = match self.monitor.cancelled() {
                    true => Err(CheckError::Cancelled),
                    false => work(at),
                };
                if let Err(error) = outcome {
                    self.state().failure.get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(count) {
                scope.spawn(run);
            }
            run();
        });
        self.state().failure.take().map_or(Ok(()), Err)
    }
}

/// The issue that a failed read of one object is; `None` when it says nothing about the object.
fn store_issue(error: &StoreError) -> Option<IssueKind> {
    match error.kind {
        StoreErrorKind::NotFound => Some(IssueKind::Missing),
        StoreErrorKind::Range => Some(IssueKind::Damaged),
        // A medium's read error on one object is what a check is for; the rest of the region may be whole.
        StoreErrorKind::Other | StoreErrorKind::Denied => Some(IssueKind::Unreadable),
        _ => None,
    }
}

/// Checks every reached region by itself, and that they agree. `index` is compared with the segments
/// where it is given.
///
/// # Errors
/// When a store stops answering, the user stops it, or reading data is asked of a slot that can't.
pub fn check(
    repository: &Repository,
    index: Option<&dyn Index>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<CheckReport, CheckError> {
    if options.read_data.is_some() && !repository.keyring.can_open_payloads() {
        return Err(CheckError::NotPermitted);
    }
    let findings = Findings::new(monitor);
    let mut report = CheckReport::default();
    let listing = snapshots::list(repository)?;
    listing.issues.iter().for_each(|issue| findings.push(issue.clone()));
    for info in &listing.snapshots {
        let lacking: Vec<String> = (0..repository.regions.len())
            .filter(|at| !info.regions.contains(at))
            .map(|at| repository.regions[at].name.clone())
            .collect();
        if !lacking.is_empty() {
            report.pending.push(PendingSnapshot { id: info.id, regions: lacking });
        }
    }
    let run = structure::Run { repository, index, options, findings: &findings, listing: &listing };
    let mut checked = Vec::new();
    for at in 0..repository.regions.len() {
        checked.push(run.region(at)?);
    }
    objects::compare_key_files(&run)?;
    if let Some(subset) = options.read_data {
        data::read(&run, &mut checked, subset)?;
    }
    for region in &mut checked {
        run.name_broken_snapshots(region);
    }
    report.index_stale = checked.iter().any(|region| region.index_differs > 0);
    report.verified = checked.iter_mut().flat_map(|region| std::mem::take(&mut region.verified)).collect();
    report.verified.sort_unstable();
    report.verified.dedup();
    report.regions = checked.into_iter().map(|region| region.report).collect();
    let state = findings.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.issues = state.issues;
    report.issues_total = state.total;
    report.notices = state.notices;
    report.differences = state.differences;
    Ok(report)
}

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
//! Guarantees: nothing is written (its caller may attest what was verified, and put right what is damaged); what could not be read is an issue or an error, never "sound". Called
//! by `cli/check` and `cli/scrub`.

mod data;
mod objects;
mod run;
pub mod scrub;
mod structure;

pub use data::Subset;
pub use scrub::{ScrubReport, scrub};

use crate::format::ids::{Digest, PackId, SnapshotId};
use crate::index::graph::GraphError;
use crate::index::{Index, PackEntry};
use crate::repo::{RepoError, Repository, attest, snapshots};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::StoreError;
use run::{Findings, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use structure::Checked;

/// What a thread of a check holds at most with frames of the usual size, in bytes: two pieces of a pack, an opened frame.
pub const WORKER_BYTES: usize = 14 << 20;
/// Issues that a report lists one by one; more are only counted.
pub const ISSUES_LISTED_MAX: usize = 10_000;

/// What stops a check; a stopped check says nothing about what it didn't reach.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The repository or a store can't be used.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// What refers to what doesn't fit into memory and can't be put aside.
    #[error(transparent)]
    Graph(#[from] GraphError),
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
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which packs to read; `None` for none.
    pub read_data: Option<Subset>,
    /// Threads that read and verify; at least one is used.
    pub threads: usize,
    /// Bytes of memory that the chunks and references of all regions may take together.
    pub memory_bytes: usize,
    /// The directory that takes what exceeds them, in unlinked files; `None`: all is held in memory.
    pub spill: Option<PathBuf>,
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

/// A pack that some region's copy of has other bytes than its name states.
#[derive(Clone, Debug)]
pub struct DamagedPack {
    /// As a segment states it, without the regions.
    pub entry: PackEntry,
    /// The regions whose copy is damaged, by index into the repository's.
    pub regions: BTreeSet<usize>,
    /// The reached regions that list it and have it in the size that is stated: those that are damaged in place among them.
    pub held: Vec<usize>,
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
    /// Packs whose bytes were read and are not those of their names, and, where packs were read, those of another size
    /// than is stated that some snapshot needs; the first [`ISSUES_LISTED_MAX`] of a region.
    pub damaged_packs: Vec<DamagedPack>,
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
    listing.lost_and_forgotten().for_each(|text| monitor.notice(&text));
    for damaged in &repository.damaged {
        let subject = format!("{}:{}", damaged.region, damaged.object).into_bytes();
        findings.push(Issue { kind: IssueKind::Damaged, subject, detail: damaged.detail.clone() });
    }
    for info in &listing.snapshots {
        let lacking: Vec<String> = (0..repository.regions.len())
            .filter(|at| !info.is_committed_in(*at))
            .map(|at| repository.regions[at].name.clone())
            .collect();
        if !lacking.is_empty() {
            report.pending.push(PendingSnapshot { id: info.id, regions: lacking });
        }
    }
    let attested = attest::read_for_many(repository);
    let run = Run { repository, index, options, findings: &findings, listing: &listing, attested: &attested };
    let mut checked = Vec::new();
    for at in 0..repository.regions.len() {
        checked.push(run.region(at)?);
    }
    objects::compare_key_files(&run)?;
    objects::compare_newest_key_files(&run)?;
    objects::compare_rings(&run)?;
    if let Some(subset) = options.read_data {
        data::read(&run, &mut checked, subset)?;
    }
    for region in &mut checked {
        run.name_broken_snapshots(region)?;
        if options.read_data.is_some() {
            run.add_cut(region);
        }
    }
    let mut damaged: BTreeMap<PackId, (PackEntry, BTreeSet<usize>)> = BTreeMap::new();
    for region in &mut checked {
        for mut entry in std::mem::take(&mut region.damaged_packs) {
            entry.regions.clear();
            damaged.entry(entry.id).or_insert_with(|| (entry, BTreeSet::new())).1.insert(region.at);
        }
    }
    for (id, (entry, regions)) in damaged {
        let holds = |region: &&Checked| region.packs.binary_search(&(id, entry.size)).is_ok();
        let held = checked.iter().filter(holds).map(|region| region.at).collect();
        report.damaged_packs.push(DamagedPack { entry, regions, held });
    }
    report.index_stale = checked.iter().any(|region| region.index_differs > 0);
    report.verified = checked.iter_mut().flat_map(|region| std::mem::take(&mut region.verified)).collect();
    report.verified.sort_unstable();
    report.verified.dedup();
    report.regions = checked.into_iter().map(|region| region.report).collect();
    let found = findings.into_found();
    report.issues = found.issues;
    report.issues_total = found.total;
    report.notices = found.notices;
    report.differences = found.differences;
    Ok(report)
}

//! Brings the local index up to what the regions' segments say.
//!
//! Guarantees: after it, whatever a region lists is in the index, and a region that no longer lists a
//! segment (or another region than before) makes the index anew.

use super::RepoError;
use super::open::{RegionHandle, Repository, WRITERS};
use crate::format::ids::{RegionId, SegmentId};
use crate::format::roster::Role;
use crate::format::wire::DecodeError;
use crate::index::segment::{self, segment_name};
use crate::index::{Index, IndexError};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::report::{Issue, IssueKind, Monitor, Phase};
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, HashSet};

/// The segments that a region lists.
///
/// # Errors
/// When it can't be listed.
pub fn list_segments(region: &RegionHandle) -> Result<HashSet<SegmentId>, RepoError> {
    let listed = list_sorted(&*region.store, "index/").map_err(|e| region.error(e))?;
    Ok(listed.iter().filter_map(|object| SegmentId::from_hex(object.name.strip_prefix("index/")?)).collect())
}

/// A segment as it is stored.
///
/// # Errors
/// [`RepoError::Missing`] when it is absent, [`RepoError::Store`] otherwise.
pub fn read_segment_bytes(region: &RegionHandle, id: SegmentId) -> Result<Vec<u8>, RepoError> {
    let name = segment_name(&id);
    region.store.get(&name, SEGMENT_BYTES_MAX as u64).map_err(|error| match error.kind {
        StoreErrorKind::NotFound => RepoError::Missing { region: region.name.clone(), name: name.clone() },
        StoreErrorKind::Range => region.object_error(&name, DecodeError::new("LIMIT-1", error.detail)),
        _ => region.error(error),
    })
}

/// Reads and verifies one segment from a region.
///
/// # Errors
/// When it is absent, damaged, or not signed by a slot that may.
pub fn read_segment(
    repository: &Repository,
    region: &RegionHandle,
    id: SegmentId,
) -> Result<segment::OpenedSegment, RepoError> {
    let bytes = read_segment_bytes(region, id)?;
    let verify = |signed: &crate::format::envelope::SignedObject<'_>| repository.verify_slot(signed, &WRITERS);
    let opened = segment::open(id, &bytes, &repository.keyring, &verify)?;
    if let Some(detail) = overstated(repository, &opened) {
        return Err(RepoError::Index(IndexError::Segment { segment: id, detail }));
    }
    Ok(opened)
}

/// What a writer states in a segment though only owners and maintainers may: else it could make its claims
/// look like an owner's, or have what others list ignored.
pub fn overstated(repository: &Repository, opened: &segment::OpenedSegment) -> Option<String> {
    let signer = opened.signer;
    repository.roster.slot(signer).filter(|slot| slot.role == Role::Writer)?;
    if opened.segment.packs.iter().any(|pack| pack.origin != signer) {
        return Some(format!("SEG-9: writer {signer} states another slot as origin"));
    }
    (!opened.segment.supersedes.is_empty()).then(|| format!("SEG-11: writer {signer} supersedes segments"))
}

/// How often segments are listed while a collector replaces them.
const LISTINGS_MAX: usize = 8;

/// Takes every new segment of every reached region into the index. Damaged ones become issues: their
/// chunks count as unknown, so a backup stores them again and a restore names what it lacks.
///
/// # Errors
/// When a region can't be listed or the index can't be written.
pub fn sync(repository: &Repository, index: &dyn Index, monitor: &dyn Monitor) -> Result<Vec<Issue>, RepoError> {
    for _ in 1..LISTINGS_MAX {
        if let Some(issues) = sync_once(repository, index, monitor, false)? {
            return Ok(issues);
        }
    }
    Ok(sync_once(repository, index, monitor, true)?.unwrap_or_default())
}

/// `None` when a collector took a segment away between the listing and the reading, and replaced it: what
/// is listed has to be listed again. At the `last` attempt that is an issue.
fn sync_once(
    repository: &Repository,
    index: &dyn Index,
    monitor: &dyn Monitor,
    last: bool,
) -> Result<Option<Vec<Issue>>, RepoError> {
    let mut issues = Vec::new();
    let mut listed: BTreeMap<SegmentId, Vec<usize>> = BTreeMap::new();
    let mut stale = false;
    for (at, region) in repository.regions.iter().enumerate() {
        let segments = list_segments(region)?;
        let known = index.segments(region.info.region)?;
        stale |= !known.is_subset(&segments);
        for id in segments {
            listed.entry(id).or_default().push(at);
        }
    }
    if stale {
        monitor.notice("the regions no longer list everything that the local index knows: it is made anew");
        index.clear()?;
    }
    let mut known: Vec<HashSet<SegmentId>> = Vec::new();
    for region in &repository.regions {
        known.push(index.segments(region.info.region)?);
    }
    listed.retain(|id, regions| regions.iter().any(|at| !known[*at].contains(id)));
    monitor.phase(Phase::Index, Some(listed.len() as u64), None);
    for (id, regions) in listed {
        let mut opened = None;
        let mut damaged: HashSet<usize> = HashSet::new();
        for at in &regions {
            let region = &repository.regions[*at];
            match read_segment(repository, region, id) {
                Ok(read) => {
                    opened = Some(read);
                    break;
                }
                Err(error @ RepoError::Store { .. }) => return Err(error),
                Err(RepoError::Missing { .. }) if !last && !list_segments(region)?.contains(&id) => return Ok(None),
                // Of a revoked slot, and not accepted: it is as if it weren't there.
                Err(RepoError::Index(IndexError::Refused { .. })) => {}
                Err(error) => {
                    let issue = Issue {
                        kind: IssueKind::Damaged,
                        subject: format!("{}:{}", region.name, segment_name(&id)).into_bytes(),
                        detail: error.to_string(),
                    };
                    monitor.issue(&issue);
                    issues.push(issue);
                    damaged.insert(*at);
                }
            }
        }
        if let Some(opened) = opened {
            // Nothing can be restored from a region alone by a segment that is damaged there: what is
            // listed by it alone counts as absent from that region, and is told again until it is whole.
            let whole = regions.iter().filter(|at| !damaged.contains(at));
            let ids: Vec<RegionId> = whole.map(|at| repository.regions[*at].info.region).collect();
            index.ingest(id, &opened.segment, &ids)?;
        }
        monitor.advance(1, 0);
    }
    Ok(Some(issues))
}

/// How far the local index is up to date with one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStatus {
    /// The region's name.
    pub region: String,
    /// Segments that the region lists.
    pub listed: u64,
    /// Of these, how many the index knows.
    pub known: u64,
    /// Segments that the index knows and the region no longer lists: it will be made anew.
    pub stale: u64,
}

impl IndexStatus {
    /// True when the next run has nothing to do for this region.
    pub fn is_current(&self) -> bool {
        self.known == self.listed && self.stale == 0
    }
}

/// Compares the index with every reached region, without changing it.
///
/// # Errors
/// When a region can't be listed or the index can't be read.
pub fn status(repository: &Repository, index: &dyn Index) -> Result<Vec<IndexStatus>, RepoError> {
    let one = |region: &RegionHandle| {
        let listed = list_segments(region)?;
        let known = index.segments(region.info.region)?;
        let both = known.intersection(&listed).count() as u64;
        let (listed, stale) = (listed.len() as u64, known.len() as u64 - both);
        Ok(IndexStatus { region: region.name.clone(), listed, known: both, stale })
    };
    repository.regions.iter().map(one).collect()
}

//! Brings the local index up to what the regions' segments say.
//!
//! Guarantees: after it, whatever a region lists is in the index. What a region no longer lists leaves the
//! index where it is explained: each listing that went is of a pack that a final lists as deleted, stands in
//! another segment, or is contradicted by one there that an owner attested (COLLECT-19). Anything else is a loss, and
//! makes the index anew under a new incarnation. Pages: `format-spec/gc.md`, `format-spec/segment.md`.

use super::open::{RegionHandle, Repository, WRITERS};
use super::{RepoError, attest, gclog};
use crate::format::ids::{Digest, PackId, RegionId, SegmentId};
use crate::format::roster::Role;
use crate::format::wire::DecodeError;
use crate::index::segment::{self, segment_name};
use crate::index::{Arrival, Detached, Index, IndexError};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::pack::reader::parse_pack_name;
use crate::report::{Issue, IssueKind, Monitor, Phase};
use crate::store::{Listed, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The segments that a region lists, with their sizes in bytes there.
///
/// # Errors
/// When it can't be listed.
pub fn list_segments(region: &RegionHandle) -> Result<HashMap<SegmentId, u64>, RepoError> {
    let listed = list_sorted(&*region.store, "index/").map_err(|e| region.error(e))?;
    let segment = |object: &Listed| Some((SegmentId::from_hex(object.name.strip_prefix("index/")?)?, object.size));
    Ok(listed.iter().filter_map(segment).collect())
}

/// The packs that are there; names that are no pack's are none of ours and stay.
///
/// # Errors
/// When the region can't be listed.
pub fn list_packs(region: &RegionHandle) -> Result<Vec<(PackId, u64)>, RepoError> {
    let mut stored: Vec<(PackId, u64)> = Vec::new();
    let list = region.store.list("packs/", &mut |listed| {
        stored.extend(parse_pack_name(&listed.name).map(|id| (id, listed.size)));
    });
    list.map_err(|error| region.error(error))?;
    stored.sort_unstable();
    Ok(stored)
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

/// How often regions are listed again because what they list seems to have lost something.
const LISTINGS_MAX: u32 = 8;
/// Segments are taken in together until they list so many chunks: about 50 MiB of memory.
const CHUNKS_AT_ONCE: usize = 1 << 17;
/// How often the index is made anew in one run.
const ANEW_MAX: u32 = 3;

/// What one look at all regions came to.
enum Look {
    /// The index says what they list.
    Current,
    /// A collector replaced something meanwhile: the next look shows more.
    Moving,
    /// Regions lost something: what no collection explains.
    Lost(Vec<RegionId>),
}

struct Syncing<'a> {
    repository: &'a Repository,
    index: &'a dyn Index,
    monitor: &'a dyn Monitor,
    issues: Vec<Issue>,
    /// What owners vouch for, once it was needed.
    attested: Option<HashSet<Digest>>,
}

/// Brings the index up to what every reached region lists: takes new segments in, and what is no longer there
/// out. Damaged segments become issues: their chunks count as unknown, so a backup stores them again and a
/// restore names what it lacks. A region that lost segments is in doubt from then on ([`Index::doubted`]).
///
/// # Errors
/// When a region can't be listed, its log can't be read, or the index can't be written.
pub fn sync(repository: &Repository, index: &dyn Index, monitor: &dyn Monitor) -> Result<Vec<Issue>, RepoError> {
    let mut syncing = Syncing { repository, index, monitor, issues: Vec::new(), attested: None };
    syncing.catch_up()?;
    if u64::from(index.unlisted_count()) * 2 > u64::from(index.pack_count()) {
        syncing.shrink()?;
    }
    Ok(syncing.issues)
}

impl Syncing<'_> {
    /// Looks until the index says what the regions list. True when it had to be made anew, in doubt.
    fn catch_up(&mut self) -> Result<bool, RepoError> {
        let (mut looks, mut anew) = (0, 0);
        loop {
            looks += 1;
            match self.look(looks == LISTINGS_MAX)? {
                Look::Current => return Ok(anew > 0),
                // A listing may show neither what replaces a segment nor the segment (COLLECT-16).
                Look::Moving | Look::Lost(_) if looks < LISTINGS_MAX => {}
                Look::Moving => return Ok(anew > 0),
                Look::Lost(lost) if anew < ANEW_MAX => {
                    self.monitor
                        .notice("the regions no longer list everything that the local index knows: it is made anew");
                    self.doubt(&lost)?;
                    self.index.clear()?;
                    (looks, anew) = (0, anew + 1);
                }
                Look::Lost(lost) => {
                    let region = self.repository.regions.iter().find(|handle| lost.contains(&handle.info.region));
                    let detail = "the segments change faster than they can be read; run this again";
                    let error = DecodeError::new("COLLECT-16", detail);
                    return match region {
                        Some(region) => Err(region.object_error("index/", error)),
                        None => Ok(true),
                    };
                }
            }
        }
    }

    /// Before the index forgets what it knew: these regions lost something, and of those that can't be asked now it
    /// can't be noticed later.
    fn doubt(&self, lost: &[RegionId]) -> Result<(), RepoError> {
        let is_reached = |id: &RegionId| self.repository.regions.iter().any(|region| region.info.region == *id);
        let unasked = self.index.regions()?.into_iter().filter(|id| !is_reached(id));
        unasked.chain(lost.iter().copied()).try_for_each(|region| Ok(self.index.doubt(region, true)?))
    }

    /// Takes in what is new, then takes out what is gone. At the `last` look what can't be read is damage.
    fn look(&mut self, last: bool) -> Result<Look, RepoError> {
        let regions = &self.repository.regions;
        let mut listed: BTreeMap<SegmentId, Vec<(usize, u64)>> = BTreeMap::new();
        let (mut known, mut vanished) = (Vec::new(), Vec::new());
        for (at, region) in regions.iter().enumerate() {
            // The index first: what another process takes in meanwhile is not missed in an older listing.
            let before = self.index.segments(region.info.region)?;
            let segments = list_segments(region)?;
            // One of another size is damaged, and lists nothing either.
            let gone = before.iter().filter(|(id, size)| segments.get(*id) != Some(*size));
            vanished.push(gone.map(|(id, _)| *id).collect::<HashSet<SegmentId>>());
            known.push(before);
            for (id, size) in segments {
                listed.entry(id).or_default().push((at, size));
            }
        }
        listed.retain(|id, regions| regions.iter().any(|(at, size)| known[*at].get(id) != Some(size)));
        self.monitor.phase(Phase::Index, Some(listed.len() as u64), None);
        let (mut moving, mut arrivals, mut weight) = (false, Vec::new(), 0);
        for (id, regions) in &listed {
            let (arrival, gone) = self.read(*id, regions, last)?;
            moving |= gone;
            if let Some(arrival) = arrival {
                weight += arrival.segment.weight();
                arrivals.push(arrival);
            }
            if weight >= CHUNKS_AT_ONCE {
                self.index.ingest_all(&arrivals)?;
                (arrivals, weight) = (Vec::new(), 0);
            }
            self.monitor.advance(1, 0);
        }
        self.index.ingest_all(&arrivals)?;
        if moving {
            return Ok(Look::Moving);
        }
        let mut lost = Vec::new();
        for (region, vanished) in regions.iter().zip(&vanished) {
            // After the listing: what explains that a segment is gone is written before it goes.
            let (log, damage) = gclog::read_what_is_whole(self.repository, region)?;
            // What a damaged entry explains isn't known; whoever relies on the log stops at it (GC-4).
            if let Some(error) = damage {
                tracing::warn!(%error, "a region's collection log can't be used");
            }
            let dead = log.dead;
            let mut detached = self.index.detach(region.info.region, vanished, &dead, &HashSet::new())?;
            if matches!(detached, Detached::Unexplained(_)) {
                // Read where it is needed alone: that is after false listings went, or after a loss.
                let attested = self.attested.get_or_insert_with(|| attest::read_for_many(self.repository));
                detached = self.index.detach(region.info.region, vanished, &dead, attested)?;
            }
            match detached {
                Detached::Taken(0) => {}
                // The collection may have ended after the segments were listed: what it moved shows in the next look.
                Detached::Taken(packs) => {
                    tracing::debug!(region = region.name, packs, "collected");
                    moving = !last;
                }
                Detached::Unexplained(pack) => {
                    tracing::debug!(region = region.name, %pack, "no segment lists it any more, and no final deleted it");
                    lost.push(region.info.region);
                }
            }
        }
        if !lost.is_empty() {
            return Ok(Look::Lost(lost));
        }
        Ok(if moving { Look::Moving } else { Look::Current })
    }

    /// Reads one segment for the regions that list it. True when one of them has it no longer.
    fn read(
        &mut self,
        id: SegmentId,
        regions: &[(usize, u64)],
        last: bool,
    ) -> Result<(Option<Arrival>, bool), RepoError> {
        let mut opened = None;
        let (mut damaged, mut gone) = (HashSet::new(), false);
        for (at, _) in regions {
            let region = &self.repository.regions[*at];
            match read_segment(self.repository, region, id) {
                Ok(read) => {
                    opened = Some(read);
                    break;
                }
                Err(error @ RepoError::Store { .. }) => return Err(error),
                // Of a revoked slot, and not accepted: it is as if it weren't there.
                Err(RepoError::Index(IndexError::Refused { .. })) => {}
                // Replaced since it was listed, unless it is listed still when looked at again.
                Err(RepoError::Missing { .. }) if !last => {
                    gone = true;
                    damaged.insert(*at);
                }
                Err(error) => {
                    self.note(region, id, &error);
                    damaged.insert(*at);
                }
            }
        }
        if let Some(opened) = opened {
            for (at, size) in regions.iter().filter(|(_, size)| *size != opened.size) {
                if damaged.insert(*at) {
                    let detail = format!("it is {size} bytes long there, and {} where it is whole", opened.size);
                    let region = &self.repository.regions[*at];
                    let error = region.object_error(&segment_name(&id), DecodeError::new("OBJ-8", detail));
                    self.note(region, id, &error);
                }
            }
            // Nothing can be restored from a region alone by a segment that is damaged there: what is
            // listed by it alone counts as absent from that region, and is told again until it is whole.
            let whole = regions.iter().filter(|(at, _)| !damaged.contains(at));
            let ids: Vec<RegionId> = whole.map(|(at, _)| self.repository.regions[*at].info.region).collect();
            return Ok((Some(Arrival { id, size: opened.size, segment: opened.segment, regions: ids }), gone));
        }
        Ok((None, gone))
    }

    /// Notes a damaged segment, once however often it is looked at.
    fn note(&mut self, region: &RegionHandle, id: SegmentId, error: &RepoError) {
        let subject = format!("{}:{}", region.name, segment_name(&id)).into_bytes();
        if self.issues.iter().any(|known| known.subject == subject) {
            return;
        }
        let issue = Issue { kind: IssueKind::Damaged, subject, detail: error.to_string() };
        self.monitor.issue(&issue);
        self.issues.push(issue);
    }

    /// Makes the index anew because most of it was collected. What was remembered beside it holds still if
    /// every segment that it knew is in it again: nothing was lost meanwhile.
    fn shrink(&mut self) -> Result<(), RepoError> {
        let reached: Vec<RegionId> = self.repository.regions.iter().map(|region| region.info.region).collect();
        if self.index.regions()?.iter().any(|region| !reached.contains(region)) {
            // What it knows of a region that can't be asked would be forgotten, and a loss there not noticed.
            return Ok(());
        }
        let segments = |region: &RegionId| self.index.segments(*region);
        let before = reached.iter().map(segments).collect::<Result<Vec<_>, _>>()?;
        let incarnation = self.index.incarnation();
        match self.index.clear() {
            // It is only larger than it needs to be.
            Err(IndexError::Busy { .. }) => return Ok(()),
            cleared => cleared?,
        }
        self.monitor.notice("most of what the local index knows was collected: it is made anew");
        let doubted = self.catch_up()?;
        let after = reached.iter().map(|region| self.index.segments(*region)).collect::<Result<Vec<_>, _>>()?;
        if !doubted && before.iter().zip(&after).all(|(before, after)| before.keys().all(|id| after.contains_key(id))) {
            self.index.resume(&incarnation)?;
        }
        Ok(())
    }
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
    /// Segments that the index knows and the region no longer lists: the next run takes them out.
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
        let both = known.iter().filter(|(id, size)| listed.get(*id) == Some(*size)).count() as u64;
        let (listed, stale) = (listed.len() as u64, known.len() as u64 - both);
        Ok(IndexStatus { region: region.name.clone(), listed, known: both, stale })
    };
    repository.regions.iter().map(one).collect()
}

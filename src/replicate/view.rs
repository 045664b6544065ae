//! What all regions' segments list, and which region holds what of it.
//!
//! Guarantees: a region is credited only for its own whole copy of a segment; one that is damaged in one region is
//! given the bytes that another one has (`HEAL-2`).

use super::heal::replace;
use super::{Depth, Pending, Replicated, note};
use crate::crypto::object::check_digest;
use crate::format::ids::{PackId, SegmentId, SessionId, SlotId};
use crate::format::segment::Segment;
use crate::format::wire::DecodeError;
use crate::index::IndexError;
use crate::index::graph::{Graph, GraphBuilder};
use crate::index::segment::segment_name;
use crate::pack::SpoolSpace;
use crate::repo::attest;
use crate::repo::gclog;
use crate::repo::open::RegionHandle;
use crate::repo::sync::{list_packs, list_segments, read_segment, read_segment_bytes};
use crate::repo::{RepoError, Repository};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::StoreErrorKind;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A pack as some region's segment lists it.
pub(super) struct Listed {
    pub id: PackId,
    pub session: SessionId,
    pub origin: SlotId,
    /// The segment, and the pack's place in it.
    pub place: (SegmentId, u32),
    /// An owner verified that it holds what is stated.
    pub attested: bool,
    /// Some region lists it that didn't delete it, be it there or lost.
    pub counts: bool,
    /// The regions that hold it, by index: listed, there in the size that is stated, and not deleted by a final.
    pub held: Vec<usize>,
}

/// All regions' segments, and what they refer to.
pub(super) struct View {
    pub packs: Vec<Listed>,
    pub graph: Graph,
}

impl View {
    /// Reads every segment; by `depth`, once or in every region that lists it.
    pub fn read(
        repository: &Repository,
        depth: Depth,
        scratch: Option<SpoolSpace>,
        memory_bytes: usize,
        monitor: &dyn Monitor,
        done: &mut Replicated,
    ) -> Result<Self, Pending> {
        let mut segments: BTreeMap<SegmentId, Vec<(usize, u64)>> = BTreeMap::new();
        let mut there: Vec<HashMap<PackId, u64>> = Vec::new();
        let mut buried: Vec<BTreeSet<PackId>> = Vec::new();
        for (at, region) in repository.regions.iter().enumerate() {
            // A damaged log keeps nobody from reading what is there.
            let dead = gclog::read_what_is_whole(repository, region)?.0.dead;
            for (id, size) in list_segments(region)? {
                segments.entry(id).or_default().push((at, size));
            }
            there.push(list_packs(region)?.into_iter().filter(|(pack, _)| !dead.contains(pack)).collect());
            buried.push(dead.into_iter().collect());
        }
        let mut builder = GraphBuilder::with_space(scratch, memory_bytes);
        let mut packs: Vec<Listed> = Vec::new();
        // What another slot's segment says of a pack is another matter, or one that no owner verified: it may lie.
        let mut numbers: HashMap<(PackId, SlotId, bool), u32> = HashMap::new();
        let attested = attest::read_for_many(repository);
        let before = done.healed;
        for (id, listed) in segments {
            let (segment, regions) = match read_copies(repository, id, &listed, depth, done, monitor) {
                Ok(copies) => copies,
                Err(error @ RepoError::Store { .. }) => return Err(error.into()),
                // Of a revoked slot, and not accepted: it is as if it weren't there.
                Err(RepoError::Index(IndexError::Refused { .. })) => continue,
                // What only it lists is in no segment: the snapshots that need it stay pending.
                Err(error) => {
                    note(done, monitor, segment_name(&id).into_bytes(), &error);
                    continue;
                }
            };
            let (mut which, mut present) = (Vec::new(), Vec::new());
            let vouched = attest::vouched(&attested, &segment);
            for (at, (pack, attested)) in segment.packs.iter().zip(vouched).enumerate() {
                let number = *numbers.entry((pack.pack, pack.origin, attested)).or_insert(packs.len() as u32);
                if number as usize == packs.len() {
                    let (session, origin) = (pack.session, pack.origin);
                    let place = (id, at as u32);
                    packs.push(Listed {
                        id: pack.pack,
                        session,
                        origin,
                        place,
                        attested,
                        counts: false,
                        held: Vec::new(),
                    });
                }
                let listed = &mut packs[number as usize];
                listed.counts |= regions.iter().any(|region| !buried[*region].contains(&pack.pack));
                let whole = |region: &&usize| there[**region].get(&pack.pack) == Some(&pack.size);
                for region in regions.iter().filter(whole) {
                    if !listed.held.contains(region) {
                        listed.held.push(*region);
                    }
                }
                which.push(number);
                present.push(!listed.held.is_empty());
            }
            builder.add(&segment, &which, &present)?;
        }
        if done.healed > before {
            monitor
                .notice(&format!("damaged segments got their right bytes again, {} in number", done.healed - before));
        }
        Ok(View { packs, graph: builder.finish()? })
    }
}

/// A segment, and the regions that have it whole: of its size, and of its bytes where these are looked at. A copy that
/// is damaged is told, and replaced where another one is whole; its region counts for none where that is denied.
fn read_copies(
    repository: &Repository,
    id: SegmentId,
    listed: &[(usize, u64)],
    depth: Depth,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(Segment, Vec<usize>), RepoError> {
    let (mut opened, mut whole, mut damaged, mut last) = (None, Vec::new(), Vec::new(), None);
    for (at, size) in listed {
        let region = &repository.regions[*at];
        let looked = match &opened {
            None => read_segment(repository, region, id).map(|read| opened = Some(read)),
            Some(known) if *size != known.size => Err(of_another_size(region, id, *size, known.size)),
            Some(_) if depth == Depth::Commits => Ok(()),
            Some(_) => read_whole(region, id).map(drop),
        };
        match looked {
            Ok(()) => whole.push(*at),
            Err(RepoError::Index(error @ IndexError::Refused { .. })) => return Err(error.into()),
            // The region went away; what can't be read of one that is there is as good as damaged.
            Err(RepoError::Store { region, source }) if source.kind == StoreErrorKind::Unavailable => {
                return Err(RepoError::Store { region, source });
            }
            // Replaced since it was listed.
            Err(error @ RepoError::Missing { .. }) => last = Some(error),
            Err(error) => {
                damaged.push((*at, error.to_string()));
                last = Some(error);
            }
        }
    }
    let Some(opened) = opened else {
        return Err(last.unwrap_or_else(|| nowhere(id)));
    };
    for (at, detail) in damaged {
        let to = &repository.regions[at];
        let subject = format!("{}:{}", to.name, segment_name(&id)).into_bytes();
        let mut issue = Issue { kind: IssueKind::Damaged, subject, detail };
        let sources = whole.iter().map(|at| &repository.regions[*at]);
        let bytes = sources.map(|from| read_whole(from, id)).find_map(Result::ok);
        let healed = bytes.map(|bytes| replace(to, &segment_name(&id), &bytes.into()));
        match healed {
            Some(Ok(true)) => {
                monitor.issue(&issue);
                whole.push(at);
                done.healed += 1;
                continue;
            }
            Some(Ok(false)) => issue.detail.push_str(DENIED),
            Some(Err(error)) => issue.detail = format!("{}; it can't be replaced: {error}", issue.detail),
            None => {}
        }
        monitor.issue(&issue);
        done.issues.push(issue);
    }
    whole.sort_unstable();
    Ok((opened.segment, whole))
}

const DENIED: &str = "; this access may not replace it: `keepstone replicate` with one that may gives it the right bytes, \
                      which another region has";

fn of_another_size(region: &RegionHandle, id: SegmentId, size: u64, whole: u64) -> RepoError {
    let detail = format!("it is {size} bytes long there, and {whole} where it is whole");
    region.object_error(&segment_name(&id), DecodeError::new("OBJ-8", detail))
}

/// A segment's bytes, if they are those that its name states.
fn read_whole(region: &RegionHandle, id: SegmentId) -> Result<Vec<u8>, RepoError> {
    let bytes = read_segment_bytes(region, id)?;
    match check_digest(&bytes).map_err(|source| region.object_error(&segment_name(&id), source))?.0 == id.0 {
        true => Ok(bytes),
        false => {
            let error = DecodeError::new("OBJ-10", "its bytes are another object's");
            Err(region.object_error(&segment_name(&id), error))
        }
    }
}

fn nowhere(id: SegmentId) -> RepoError {
    RepoError::Missing { region: "every region".to_owned(), name: segment_name(&id) }
}

pub(super) fn read_from_any(repository: &Repository, regions: &[usize], id: SegmentId) -> Result<Segment, RepoError> {
    let mut last = None;
    for at in regions {
        match read_segment(repository, &repository.regions[*at], id) {
            Ok(opened) => return Ok(opened.segment),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| nowhere(id)))
}

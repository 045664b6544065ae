//! What a region holds at one moment: its packs, its segments, and what refers to what.
//!
//! Memory: about 100 bytes a pack, 200 more where owners attest, 12 a frame, and what the graph may take.

use super::{GcError, GcOptions};
use crate::crypto::listing::listings;
use crate::crypto::object;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, PackId, SegmentId, SessionId, SlotId};
use crate::format::roster::{Role, SlotState};
use crate::format::segment::{Segment, SegmentPack};
use crate::index::graph::{Graph, GraphBuilder};
use crate::index::segment::{self, segment_name};
use crate::repo::RepoError;
use crate::repo::attest;
use crate::repo::gclog::GcLog;
use crate::repo::open::{DECIDERS, RegionHandle, Repository, WRITERS};
use crate::repo::sessions::is_forged;
use crate::repo::sync::{list_segments, overstated, read_segment_bytes};
use crate::report::{Monitor, Phase};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How often the segments are listed again because some were taken away or came while they were read.
const LISTINGS_MAX: usize = 16;

/// A pack that a segment lists.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Its id.
    pub id: PackId,
    /// Its size in bytes, as stated.
    pub size: u64,
    /// The session in its header, as stated.
    pub session: SessionId,
    /// The slot that first wrote its frames, as stated.
    pub origin: SlotId,
    /// It is there, with the stated size.
    pub present: bool,
    /// A final lists it as deleted: it is no copy of anything, even while it is still there. So is what a segment states
    /// of a pack otherwise than an owner verified: a row of its own.
    pub dead: bool,
    /// Segments state different things of it, and no owner verified one: it stands in for no other pack's copy.
    pub disputed: bool,
    /// An owner verified that it holds what every segment states of it.
    pub attested: bool,
    /// So it is, and they all state the same, if perhaps under several origins.
    pub agreed: bool,
    /// What the first segment stated, in 8 bytes of a digest.
    statement: u64,
    /// The first of its frames in [`Holdings::frames`], and how many there are.
    pub first_frame: usize,
    /// As above.
    pub frame_count: u32,
}

/// A frame of a pack.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Plaintext bytes.
    pub raw_length: u32,
    /// Bytes in the pack.
    pub sealed_length: u32,
}

/// A segment of the region.
#[derive(Clone, Debug)]
pub struct SegmentRow {
    /// Its id.
    pub id: SegmentId,
    /// The packs that it lists, by index into [`Holdings::packs`].
    pub packs: Vec<u32>,
    /// The segments that it replaces; only an owner's or maintainer's word counts.
    pub supersedes: Vec<SegmentId>,
    /// What its packs weigh.
    pub weight: usize,
    /// An owner or maintainer signed it.
    pub by_decider: bool,
    /// Its signer was revoked: it may go, but not be written anew in a name that counts.
    pub revoked: bool,
}

/// What a region holds.
pub struct Holdings {
    /// Every pack that is there, ascending, with its size.
    pub stored: Vec<(PackId, u64)>,
    /// Every pack that a segment lists.
    pub packs: Vec<Pack>,
    /// Index into `packs`.
    pub ordinals: HashMap<PackId, u32>,
    /// Frames of all packs.
    pub frames: Vec<Frame>,
    /// Every segment that counts.
    pub segments: Vec<SegmentRow>,
    /// What refers to what.
    pub graph: Graph,
    /// What was passed over.
    pub notices: Vec<String>,
    /// What segments state of packs otherwise than an owner verified.
    pub false_listings: BTreeSet<(SegmentId, PackId)>,
}

/// What reading one segment came to.
pub enum ReadSegment {
    /// Whole, and by a slot that may.
    Whole(segment::OpenedSegment),
    /// Gone since it was listed.
    Gone,
    /// Whole bytes that nobody who may has signed, or that claim another's origin (SEG-9): nobody counts it.
    Refused(String),
}

/// Reads a segment as a collector must: what doesn't count for a reader is no copy of anything (`COLLECT-7`).
///
/// # Errors
/// When it can't be read or is damaged: it could list what is needed.
pub fn read_segment(repository: &Repository, region: &RegionHandle, id: SegmentId) -> Result<ReadSegment, GcError> {
    let name = segment_name(&id);
    let bytes = match read_segment_bytes(region, id) {
        Ok(bytes) => bytes,
        Err(RepoError::Missing { .. }) => return Ok(ReadSegment::Gone),
        Err(error) => return Err(error.into()),
    };
    let incomplete = |detail: String| GcError::Incomplete {
        region: region.name.clone(),
        detail: format!(
            "{name}: {detail}; `keepstone replicate` gives it its right bytes if another region has it whole, and `keepstone check` tells what it listed"
        ),
    };
    let signed = object::decode(ObjectKind::Segment, repository.config.repository, &bytes)
        .map_err(|error| incomplete(error.to_string()))?;
    match repository.verify_slot(&signed, &WRITERS) {
        Ok(()) => {}
        Err(error) if is_forged(&error) => return Ok(ReadSegment::Refused(format!("{name}: {error}"))),
        Err(error) => return Err(incomplete(error.to_string())),
    }
    let opened =
        segment::open(id, &bytes, &repository.keyring, &|_| Ok(())).map_err(|error| incomplete(error.to_string()))?;
    Ok(match overstated(repository, &opened) {
        None => ReadSegment::Whole(opened),
        Some(detail) => ReadSegment::Refused(format!("{name}: {detail}")),
    })
}

fn statement(pack: &SegmentPack) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.size.to_le_bytes()).update(&pack.session.0).update(&pack.origin.0);
    hasher.update(&[u8::from(pack.metadata)]);
    for section in &pack.sections {
        hasher.update(&section.0);
    }
    for frame in &pack.frames {
        hasher.update(&frame.section.to_le_bytes()).update(&frame.number.to_le_bytes());
        hasher.update(&frame.sealed_length.to_le_bytes()).update(&(frame.chunks.len() as u64).to_le_bytes());
        for chunk in &frame.chunks {
            hasher.update(&chunk.id.0).update(&chunk.length.to_le_bytes()).update(&[chunk.kind as u8]);
        }
    }
    let mut short = [0u8; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(short)
}

/// What is gathered while segments are read.
struct Gathering<'a> {
    repository: &'a Repository,
    log: &'a GcLog,
    stored: &'a [(PackId, u64)],
    /// Listings that owners verified.
    attested: &'a HashSet<Digest>,
    builder: GraphBuilder,
    packs: Vec<Pack>,
    ordinals: HashMap<PackId, u32>,
    frames: Vec<Frame>,
    segments: Vec<SegmentRow>,
    /// By pack: what an owner verified, and whether some segment states something else.
    verified: HashMap<PackId, Verified>,
    /// What is known of packs from the start.
    settled: &'a HashMap<PackId, Settled>,
    false_listings: BTreeSet<(SegmentId, PackId)>,
}

/// What segments state of one pack, beside what owners say.
#[derive(Default)]
struct Verified {
    first: Option<(Digest, SlotId)>,
    differs: bool,
    /// What an owner verified.
    truth: Option<Digest>,
    /// What an owner's segment states, and the origin there.
    owners: Option<(Digest, SlotId)>,
    /// Owners say different things, so that nothing is settled: of what is in the pack, of its origin.
    doubtful: [bool; 2],
}

/// What is known of a pack: what is stated otherwise is false.
struct Settled {
    listing: Digest,
    /// Where an owner's segment states it.
    origin: Option<SlotId>,
}

impl Verified {
    fn take(&mut self, listing: Digest, origin: SlotId, attested: bool, by_owner: bool) {
        let stated = (listing, origin);
        self.differs |= *self.first.get_or_insert(stated) != stated;
        if attested {
            self.doubtful[0] |= *self.truth.get_or_insert(listing) != listing;
        }
        if by_owner {
            self.doubtful[1] |= *self.owners.get_or_insert(stated) != stated;
        }
    }

    /// What is true, where some segment says otherwise.
    fn settled(&self) -> Option<Settled> {
        let listing = self.truth.filter(|_| self.differs && !self.doubtful[0])?;
        let origin =
            self.owners.filter(|(stated, _)| *stated == listing && !self.doubtful[1]).map(|(_, origin)| origin);
        Some(Settled { listing, origin })
    }
}

impl Settled {
    fn refutes(&self, listing: Digest, origin: SlotId) -> bool {
        self.listing != listing || self.origin.is_some_and(|known| known != origin)
    }
}

impl Gathering<'_> {
    /// There, with the size that this segment states.
    fn is_stored(&self, listed: &SegmentPack) -> bool {
        let found = self.stored.binary_search_by_key(&listed.pack, |(pack, _)| *pack).ok();
        found.is_some_and(|at| self.stored[at].1 == listed.size)
    }

    fn pack(&mut self, listed: &SegmentPack, attested: bool) -> u32 {
        let (statement, present) = (statement(listed), self.is_stored(listed));
        if let Some(ordinal) = self.ordinals.get(&listed.pack) {
            let known = &mut self.packs[*ordinal as usize];
            known.attested &= attested;
            if known.statement != statement {
                known.disputed = true;
                known.present |= present;
                // Frames by position: as many as any of the statements has.
                if listed.frames.len() as u32 > known.frame_count {
                    known.first_frame = self.frames.len();
                    known.frame_count = listed.frames.len() as u32;
                    self.frames.extend(frames_of(listed));
                }
            }
            return *ordinal;
        }
        let ordinal = self.push(listed, Standing::Counts { statement, present, attested });
        self.ordinals.insert(listed.pack, ordinal);
        ordinal
    }

    fn push(&mut self, listed: &SegmentPack, standing: Standing) -> u32 {
        let ordinal = self.packs.len() as u32;
        let (statement, present, attested, dead) = match standing {
            Standing::Counts { statement, present, attested } => {
                (statement, present, attested, self.log.dead.contains(&listed.pack))
            }
            // Nothing is compared with it.
            Standing::False => (0, false, false, true),
        };
        self.packs.push(Pack {
            id: listed.pack,
            size: listed.size,
            session: listed.session,
            origin: listed.origin,
            present,
            dead,
            disputed: false,
            attested,
            agreed: false,
            statement,
            first_frame: self.frames.len(),
            frame_count: listed.frames.len() as u32,
        });
        self.frames.extend(frames_of(listed));
        ordinal
    }

    fn take(&mut self, id: SegmentId, opened: &segment::OpenedSegment) -> Result<(), GcError> {
        let segment: &Segment = &opened.segment;
        // The digests take time, and few repositories attest.
        let stated = if self.attested.is_empty() { Vec::new() } else { listings(segment) };
        let slot = self.repository.roster.slot(opened.signer);
        let signer = slot.filter(|slot| slot.state != SlotState::Revoked);
        let by_owner = signer.is_some_and(|slot| slot.role == Role::Owner);
        let (mut ordinals, mut present) = (Vec::new(), Vec::new());
        for (at, pack) in segment.packs.iter().enumerate() {
            let listing = stated.get(at).copied();
            let attested = listing.is_some_and(|listing| self.attested.contains(&listing));
            if let Some(listing) = listing {
                self.verified.entry(pack.pack).or_default().take(listing, pack.origin, attested, by_owner);
                // A pack is what its name says, for ever: what was once verified of it makes all else false.
                if self.settled.get(&pack.pack).is_some_and(|settled| settled.refutes(listing, pack.origin)) {
                    self.false_listings.insert((id, pack.pack));
                    ordinals.push(self.push(pack, Standing::False));
                    present.push(false);
                    continue;
                }
            }
            ordinals.push(self.pack(pack, attested));
            present.push(self.is_stored(pack) && !self.log.dead.contains(&pack.pack));
        }
        let mut segment = Cow::Borrowed(segment);
        if names_segment(&self.false_listings, id) {
            // Nor does anything refer to what a false listing says that it refers to.
            let is_false = |pack: &&mut SegmentPack| self.false_listings.contains(&(id, pack.pack));
            let packs = segment.to_mut().packs.iter_mut().filter(is_false);
            let chunks = packs.flat_map(|pack| &mut pack.frames).flat_map(|frame| &mut frame.chunks);
            chunks.for_each(|chunk| chunk.references.clear());
        }
        self.builder.add(&segment, &ordinals, &present)?;
        self.segments.push(SegmentRow {
            id,
            packs: ordinals,
            supersedes: segment.supersedes.clone(),
            weight: segment.weight(),
            by_decider: signer.is_some_and(|slot| DECIDERS.contains(&slot.role)),
            revoked: slot.is_some() && signer.is_none(),
        });
        Ok(())
    }
}

/// What becomes of what a segment states of a pack.
enum Standing {
    Counts {
        statement: u64,
        present: bool,
        attested: bool,
    },
    /// Otherwise than an owner verified: no copy of anything.
    False,
}

/// True where one of these listings is in this segment.
fn names_segment(listings: &BTreeSet<(SegmentId, PackId)>, id: SegmentId) -> bool {
    listings.range((id, PackId([0; 32]))..).next().is_some_and(|(of, _)| *of == id)
}

fn frames_of(pack: &SegmentPack) -> impl Iterator<Item = Frame> + '_ {
    pack.frames.iter().map(|frame| Frame {
        raw_length: frame.chunks.iter().map(|chunk| chunk.length).sum(),
        sealed_length: frame.sealed_length,
    })
}

impl Holdings {
    /// Reads the segments; `stored` was listed before, and before whoever has a say was read: so a pack that is
    /// in it and nobody's is nobody's, and one that a segment lists and it lacks may have come since. Segments are listed until nothing new appears, since another collector may replace some meanwhile.
    ///
    /// # Errors
    /// When a listing fails, or a segment that is listed can't be read.
    pub fn read(
        repository: &Repository,
        region: &RegionHandle,
        log: &GcLog,
        stored: Vec<(PackId, u64)>,
        options: &GcOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self, GcError> {
        let attested = attest::read_for_many(repository);
        let read = |settled: &HashMap<PackId, Settled>| {
            Self::gather(repository, region, log, &stored, &attested, settled, options, monitor)
        };
        let (mut holdings, settled) = read(&HashMap::new())?;
        if !settled.is_empty() {
            // Somebody states falsely what an owner verified. That is rare enough to read once more.
            holdings = read(&settled)?.0;
        }
        holdings.stored = stored;
        Ok(holdings)
    }

    /// Reads the segments with what is known of packs; gives what else is: which verified packs are stated otherwise.
    #[allow(clippy::too_many_arguments, reason = "two calls; a struct would only name them twice")]
    fn gather(
        repository: &Repository,
        region: &RegionHandle,
        log: &GcLog,
        stored: &[(PackId, u64)],
        attested: &HashSet<Digest>,
        settled: &HashMap<PackId, Settled>,
        options: &GcOptions,
        monitor: &dyn Monitor,
    ) -> Result<(Self, HashMap<PackId, Settled>), GcError> {
        let mut gathering = Gathering {
            repository,
            log,
            stored,
            attested,
            builder: GraphBuilder::new(options.spill.clone(), options.memory_bytes),
            packs: Vec::new(),
            ordinals: HashMap::new(),
            frames: Vec::new(),
            segments: Vec::new(),
            verified: HashMap::new(),
            settled,
            false_listings: BTreeSet::new(),
        };
        let mut read: BTreeSet<SegmentId> = BTreeSet::new();
        let mut gone: BTreeSet<SegmentId> = BTreeSet::new();
        let mut refused: BTreeMap<SegmentId, String> = BTreeMap::new();
        for attempt in 0.. {
            let listed: BTreeSet<SegmentId> = list_segments(region)?.into_keys().collect();
            let fresh: Vec<SegmentId> = listed.difference(&read).copied().collect();
            if fresh.is_empty() {
                break;
            }
            if attempt == LISTINGS_MAX {
                let detail = match fresh.iter().find(|id| gone.contains(id)) {
                    Some(id) => format!("{} is listed and can't be found", segment_name(id)),
                    None => "its segments change faster than they can be read; run this again".to_owned(),
                };
                return Err(GcError::Incomplete { region: region.name.clone(), detail });
            }
            monitor.phase(Phase::Collect, Some(fresh.len() as u64), None);
            for group in fresh.chunks(options.threads.max(1)) {
                if monitor.cancelled() {
                    return Err(GcError::Cancelled);
                }
                for (id, outcome) in group.iter().zip(read_group(repository, region, group, options.threads)) {
                    match outcome? {
                        ReadSegment::Whole(opened) => {
                            gathering.take(*id, &opened)?;
                            read.insert(*id);
                        }
                        ReadSegment::Refused(why) => {
                            refused.insert(*id, why);
                            read.insert(*id);
                        }
                        ReadSegment::Gone => {
                            gone.insert(*id);
                        }
                    }
                    monitor.advance(1, 0);
                }
            }
        }
        let Gathering { builder, mut packs, ordinals, frames, segments, verified, false_listings, .. } = gathering;
        for pack in &mut packs {
            pack.agreed = pack.attested && verified.get(&pack.id).is_some_and(|verified| !verified.doubtful[0]);
        }
        let refused = refused.into_values().map(|why| format!("segment refused, and passed over: {why}"));
        let told = |(segment, pack): &(SegmentId, PackId)| {
            format!("segment {segment} states of pack {pack} what an owner found to be otherwise: passed over")
        };
        let notices = refused.chain(false_listings.iter().map(told)).collect();
        let settled = verified.into_iter().filter_map(|(pack, verified)| Some((pack, verified.settled()?))).collect();
        let graph = builder.finish()?;
        let stored = Vec::new();
        Ok((Holdings { stored, packs, ordinals, frames, segments, graph, notices, false_listings }, settled))
    }

    /// True for a segment that states something else than an owner verified.
    pub fn is_false(&self, id: SegmentId) -> bool {
        names_segment(&self.false_listings, id)
    }

    /// Packs that a final lists as deleted since these holdings were read.
    pub fn bury(&mut self, deleted: &[PackId]) {
        for pack in deleted {
            if let Some(ordinal) = self.ordinals.get(pack) {
                self.packs[*ordinal as usize].dead = true;
            }
        }
    }

    /// Packs that no segment lists and no final lists as deleted.
    pub fn orphans<'a>(&'a self, log: &'a GcLog) -> impl Iterator<Item = (PackId, u64)> + 'a {
        let unlisted = |(pack, _): &&(PackId, u64)| !self.ordinals.contains_key(pack) && !log.dead.contains(pack);
        self.stored.iter().filter(unlisted).copied()
    }
}

fn read_group(
    repository: &Repository,
    region: &RegionHandle,
    ids: &[SegmentId],
    threads: usize,
) -> Vec<Result<ReadSegment, GcError>> {
    if threads == 0 || ids.len() < 2 {
        return ids.iter().map(|id| read_segment(repository, region, *id)).collect();
    }
    std::thread::scope(|scope| {
        let begun = |id: &SegmentId| {
            let id = *id;
            std::thread::Builder::new().spawn_scoped(scope, move || read_segment(repository, region, id))
        };
        let running: Vec<_> = ids.iter().map(begun).collect();
        let gone = |id: &SegmentId| {
            Err(GcError::Incomplete {
                region: region.name.clone(),
                detail: format!("the thread that read {} broke off", segment_name(id)),
            })
        };
        let read = |(thread, id): (std::io::Result<std::thread::ScopedJoinHandle<'_, _>>, &SegmentId)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| gone(id)),
            // The system has no thread for it: this one reads it.
            Err(_) => read_segment(repository, region, *id),
        };
        running.into_iter().zip(ids).map(read).collect()
    })
}

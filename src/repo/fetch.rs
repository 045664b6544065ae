//! Fetches frames from whichever region has them whole, opens them, and checks every chunk.
//!
//! Guarantees: no byte leaves here that wasn't compared with its ChunkId (`CHUNK-1`); a copy that is
//! missing or damaged in one region is read from another, and said. A region that stops answering is asked no more, so
//! that a run waits for it once. Who lists others' packs falsely costs a run little: of several places those are tried
//! first that an owner vouches for, and those last that turned out false.

use super::attest;
use super::open::Repository;
use crate::format::config::CONFIG_NAME;
use crate::format::ids::{ChunkId, ChunkKind, Digest, PackId};
use crate::format::roster::{Role, SlotState};
use crate::format::sequence::{SequenceChunk, decode_chunk};
use crate::format::wire::DecodeError;
use crate::index::{FrameEntry, Index, IndexError, PackEntry, Place};
use crate::pack::reader::pack_name;
use crate::pack::{PackError, PackReader, read_header};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::{StoreError, StoreErrorKind};
use crate::timing::{Stage, Timer};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

const OPEN_PACKS_MAX: usize = 512;
/// How often the last region that answers is asked for one thing, and how long after the first time; twice as long after
/// each further one.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Why a chunk can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No segment lists it.
    #[error("chunk {0} is in no pack that any reached region lists")]
    Unlisted(ChunkId),
    /// Every copy is missing, damaged or out of reach.
    #[error("chunk {id} can't be read: {reasons}")]
    Unreadable {
        /// The chunk.
        id: ChunkId,
        /// What each copy's trouble is.
        reasons: String,
        /// What the stores said, where nothing is known to be damaged; of several what another run may find otherwise.
        kind: Option<StoreErrorKind>,
    },
    /// All regions have stopped answering.
    #[error("no region answers any more: {0}")]
    Unanswered(String),
    /// The structural chunk breaks a rule.
    #[error("chunk {id}: {source}")]
    Decode {
        /// The chunk.
        id: ChunkId,
        /// The rule.
        source: DecodeError,
    },
    /// This slot can't read payloads.
    #[error("this key slot can't read payloads: restore with an owner's key")]
    NotPermitted,
    /// The index can't be read.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl FetchError {
    /// True for what every other chunk will meet, too: the run had better end.
    pub fn ends_run(&self) -> bool {
        matches!(self, FetchError::NotPermitted | FetchError::Index(_) | FetchError::Unanswered(_))
    }

    /// How the issue is called of what can't be had for this reason. What could not be read is not called damaged.
    pub fn issue_kind(&self) -> IssueKind {
        match self {
            FetchError::Unlisted(_) => IssueKind::Missing,
            FetchError::Unreadable { kind: Some(kind), .. } => kind.issue_kind().unwrap_or(IssueKind::Unreadable),
            FetchError::Unreadable { kind: None, .. } | FetchError::Decode { .. } => IssueKind::Damaged,
            FetchError::NotPermitted | FetchError::Index(_) | FetchError::Unanswered(_) => IssueKind::Unreadable,
        }
    }
}

/// Reads chunks; shared by all threads of a run.
pub struct Fetcher<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Finds chunks.
    pub index: &'a dyn Index,
    timer: Timer,
    monitor: &'a dyn Monitor,
    /// By region and pack: a header that is another one in one region must not spoil the others.
    packs: Mutex<HashMap<(usize, PackId), Arc<PackReader>>>,
    /// Listings that owners verified; read when they first matter.
    attested: OnceLock<HashSet<Digest>>,
    /// Listings of which something turned out false, or couldn't be read.
    failed: Mutex<HashSet<u32>>,
    /// Frames that don't open, and why.
    unopened: Mutex<HashMap<FrameKey, String>>,
    frames: Mutex<FrameCache>,
    /// What each region said that stopped answering, by index into the repository's.
    silent: Vec<OnceLock<StoreError>>,
    /// Packs that a region doesn't give, though it answers, and what it said.
    unread: Mutex<HashMap<(usize, PackId), StoreError>>,
    /// Copies that could not be used, each once.
    issues: Mutex<Vec<Issue>>,
}

/// How little a listing is to be relied on, least first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// An owner verified it.
    Attested,
    /// An owner wrote the pack, as an owner or maintainer says.
    Owners,
    Others,
    Revoked,
    /// It turned out false in this run, or its pack damaged.
    Failed,
}

/// A pack's ordinal in the index, a frame's position in it, and a region by index into the repository's.
type FrameKey = (u32, u32, usize);

/// A frame's plaintext and the epoch of its section.
#[derive(Clone)]
struct OpenedFrame {
    bytes: Arc<Vec<u8>>,
    epoch: u64,
}

/// Why no copy of a chunk could be read; the kind where a store said it.
#[derive(Default)]
struct Troubles {
    reasons: Vec<String>,
    kinds: Vec<Option<StoreErrorKind>>,
}

impl Troubles {
    fn add(&mut self, reason: String, kind: Option<StoreErrorKind>) {
        self.reasons.push(reason);
        self.kinds.push(kind);
    }

    /// What the stores said, unless something is damaged: first what passes, then what somebody can change. Where a
    /// region doesn't answer, nobody knows that every copy is damaged.
    fn kind(&self) -> Option<StoreErrorKind> {
        if self.kinds.contains(&Some(StoreErrorKind::Unavailable)) {
            return Some(StoreErrorKind::Unavailable);
        }
        let kinds: Option<Vec<StoreErrorKind>> = self.kinds.iter().copied().collect();
        let urgency = |kind: &StoreErrorKind| match kind {
            StoreErrorKind::Denied => 0,
            StoreErrorKind::NotFound => 2,
            _ => 1,
        };
        kinds?.into_iter().min_by_key(urgency).filter(|kind| *kind != StoreErrorKind::Range)
    }
}

#[derive(Default)]
struct FrameCache {
    frames: VecDeque<(FrameKey, OpenedFrame)>,
    bytes: usize,
    bytes_max: usize,
}

impl FrameCache {
    fn get(&mut self, key: FrameKey) -> Option<OpenedFrame> {
        let at = self.frames.iter().position(|(known, _)| *known == key)?;
        let found = self.frames.remove(at)?;
        let frame = found.1.clone();
        self.frames.push_back(found);
        Some(frame)
    }

    fn insert(&mut self, key: FrameKey, frame: OpenedFrame) {
        self.bytes += frame.bytes.len();
        self.frames.push_back((key, frame));
        while self.bytes > self.bytes_max && self.frames.len() > 1 {
            if let Some((_, old)) = self.frames.pop_front() {
                self.bytes -= old.bytes.len();
            }
        }
    }
}

impl<'a> Fetcher<'a> {
    /// With a cache of opened frames of at most `cache_bytes`.
    pub fn new(repository: &'a Repository, index: &'a dyn Index, monitor: &'a dyn Monitor, cache_bytes: usize) -> Self {
        Fetcher {
            repository,
            index,
            timer: monitor.timer(),
            monitor,
            packs: Mutex::new(HashMap::new()),
            attested: OnceLock::new(),
            failed: Mutex::default(),
            unopened: Mutex::default(),
            frames: Mutex::new(FrameCache { bytes_max: cache_bytes, ..FrameCache::default() }),
            unread: Mutex::default(),
            silent: repository.regions.iter().map(|_| OnceLock::new()).collect(),
            issues: Mutex::new(Vec::new()),
        }
    }

    /// The copies that could not be used so far.
    pub fn take_issues(&self) -> Vec<Issue> {
        std::mem::take(&mut *self.issues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, region: &str, pack: &PackEntry, error: &PackError) {
        let kind = match error {
            PackError::Store(store) => store.kind.issue_kind().unwrap_or(IssueKind::Unreadable),
            _ => IssueKind::Damaged,
        };
        let subject = format!("{region}:{}", pack_name(&pack.id)).into_bytes();
        let slot = self.repository.roster.slot(pack.origin);
        let detail = match (error, slot) {
            // The pack may be what it should be, and who lists it may not.
            (PackError::WrongChunk { .. }, Some(slot)) => format!("{error}, as slot '{}' lists it", slot.label),
            _ => error.to_string(),
        };
        self.add(Issue { kind, subject, detail });
    }

    /// Tells of an issue, once for each subject.
    fn add(&self, issue: Issue) {
        let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
        if !issues.iter().any(|known| known.subject == issue.subject) && issues.len() < 10_000 {
            self.monitor.issue(&issue);
            issues.push(issue);
        }
    }

    /// Reads a range of a pack from one region.
    fn read_range(&self, region: usize, pack: &PackEntry, offset: u64, length: u64) -> Result<Vec<u8>, PackError> {
        let store = &self.repository.regions[region].store;
        let name = pack_name(&pack.id);
        let read = self.ask(region, pack, || store.get_range(&name, offset, length).map_err(PackError::from))?;
        self.timer.bytes(Stage::Fetch, read.len() as u64);
        Ok(read)
    }

    /// The opened header of a pack, from one region.
    fn reader(&self, region: usize, entry: &PackEntry) -> Result<Arc<PackReader>, PackError> {
        let pack = entry.id;
        if let Some(reader) = self.packs.lock().unwrap_or_else(PoisonError::into_inner).get(&(region, pack)) {
            return Ok(Arc::clone(reader));
        }
        let store = &*self.repository.regions[region].store;
        let header = self.ask(region, entry, || read_header(store, pack))?;
        let reader = PackReader::open(pack, header, &self.repository.keyring)?;
        let reader = Arc::new(reader.timed(self.timer.clone()));
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if packs.len() >= OPEN_PACKS_MAX {
            packs.clear();
        }
        packs.insert((region, pack), Arc::clone(&reader));
        Ok(reader)
    }

    /// Asks a region for a pack, and notes if it doesn't answer. Each time its store has tried for a while by then; where
    /// no other region could give the pack, it is asked several times more.
    fn ask<T>(&self, region: usize, pack: &PackEntry, call: impl Fn() -> Result<T, PackError>) -> Result<T, PackError> {
        let handle = &self.repository.regions[region];
        if let Some(error) = self.unread.lock().unwrap_or_else(PoisonError::into_inner).get(&(region, pack.id)) {
            return Err(error.clone().into());
        }
        let (mut attempt, mut pause, mut answered) = (1, FIRST_PAUSE, false);
        loop {
            let error = match self.timer.run(Stage::Fetch, &call) {
                Err(PackError::Store(error)) if error.kind == StoreErrorKind::Unavailable => error,
                other => return other,
            };
            // Another object tells whether it is the region that fails, or this pack alone.
            if handle.store.size(CONFIG_NAME).is_ok() {
                if answered {
                    let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                    unread.insert((region, pack.id), error.clone());
                    return Err(error.into());
                }
                answered = true;
                continue;
            }
            if attempt < ATTEMPTS && self.answering(pack) == [region] && !self.monitor.cancelled() {
                tracing::warn!(%error, attempt, "a read failed and is tried again");
                self.repository.clock.sleep(pause);
                (attempt, pause) = (attempt + 1, pause * 2);
                continue;
            }
            if self.silent[region].set(error.clone()).is_ok() {
                let subject = format!("region '{}'", handle.name).into_bytes();
                let detail = format!("it no longer answers, and is asked for nothing more in this run: {error}");
                self.add(Issue { kind: IssueKind::Unreadable, subject, detail });
            }
            return Err(error.into());
        }
    }

    /// What the regions said, if none answers any more.
    fn unanswered(&self) -> Option<FetchError> {
        let regions = self.silent.iter().zip(&self.repository.regions);
        let said: Option<Vec<String>> =
            regions.map(|(silent, region)| Some(format!("region '{}': {}", region.name, silent.get()?))).collect();
        said.map(|said| FetchError::Unanswered(said.join("; ")))
    }

    /// The regions that list a pack, by index into the repository's.
    fn regions_of(&self, pack: &PackEntry) -> Vec<usize> {
        let regions = self.repository.regions.iter().enumerate();
        regions.filter(|(_, region)| pack.regions.contains(&region.info.region)).map(|(at, _)| at).collect()
    }

    /// Those of them that still answer.
    fn answering(&self, pack: &PackEntry) -> Vec<usize> {
        let mut regions = self.regions_of(pack);
        regions.retain(|region| self.silent[*region].get().is_none());
        regions
    }

    /// How little what is stated of a pack is to be relied on.
    fn doubt(&self, ordinal: u32, pack: &PackEntry) -> Doubt {
        if self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&ordinal) {
            return Doubt::Failed;
        }
        if self.attested.get_or_init(|| attest::read_for_many(self.repository)).contains(&pack.listing) {
            return Doubt::Attested;
        }
        match self.repository.roster.slot(pack.origin) {
            Some(slot) if slot.state == SlotState::Revoked => Doubt::Revoked,
            Some(slot) if slot.role == Role::Owner => Doubt::Owners,
            _ => Doubt::Others,
        }
    }

    /// The place to try first: of those in packs that a reached region lists the one to be relied on most.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn best_place(&self, places: &[Place]) -> Result<Option<Place>, IndexError> {
        // With one place there is nothing to choose, and the pack need not be asked.
        Ok(match places {
            [_, _, ..] => self.in_turn(places)?.first().map(|(place, _)| *place),
            _ => places.first().copied(),
        })
    }

    /// Places with their packs, in the order in which they are to be tried.
    fn in_turn(&self, places: &[Place]) -> Result<Vec<(Place, Arc<PackEntry>)>, IndexError> {
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            // An index that can't be read says nothing about the pack.
            all.push((*place, self.index.pack(place.pack)?));
        }
        if all.len() > 1 {
            all.sort_by_cached_key(|(place, pack)| (self.answering(pack).is_empty(), self.doubt(place.pack, pack)));
        }
        Ok(all)
    }

    /// Opens one frame out of bytes already fetched, into `out`.
    fn open_frame(
        &self,
        region: usize,
        pack: &PackEntry,
        position: usize,
        sealed: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let frame = &pack.frames[position];
        self.reader(region, pack)?.open_frame(position, frame.section, frame.number, frame.raw_length, sealed, out)
    }

    /// Checks a chunk's bytes against its id.
    fn check(&self, pack: PackId, epoch: u64, id: ChunkId, kind: ChunkKind, bytes: &[u8]) -> Result<(), PackError> {
        let actual = self.repository.keyring.ids(epoch)?.id(kind, bytes);
        match actual == id {
            true => Ok(()),
            false => Err(PackError::WrongChunk { pack, expected: id, actual }),
        }
    }

    fn epoch_of(&self, region: usize, pack: &PackEntry, frame: &FrameEntry) -> Result<u64, PackError> {
        let reader = self.reader(region, pack)?;
        Ok(reader.header.sections.get(frame.section as usize).map_or(0, |section| section.epoch))
    }

    /// A chunk's bytes out of its opened frame, checked.
    fn take(
        &self,
        frame: &OpenedFrame,
        pack: PackId,
        kind: ChunkKind,
        id: ChunkId,
        place: &Place,
    ) -> Result<Vec<u8>, PackError> {
        let start = place.offset as usize;
        let range = start..start.saturating_add(place.length as usize);
        let bytes = frame.bytes.get(range).ok_or_else(|| PackError::Decode {
            pack,
            source: DecodeError::new("SEG-3", format!("frame {} is too short", place.frame)),
        })?;
        self.check(pack, frame.epoch, id, kind, bytes)?;
        Ok(bytes.to_vec())
    }

    /// A chunk at one place, from the cache or from the first region whose copy is whole: a frame that
    /// opens but holds another chunk is no better than one that doesn't open. Neither is read twice.
    fn chunk_at(
        &self,
        kind: ChunkKind,
        id: ChunkId,
        pack: &PackEntry,
        place: &Place,
        troubles: &mut Troubles,
    ) -> Option<Vec<u8>> {
        let position = place.frame as usize;
        if pack.frames.get(position).is_none() {
            troubles.add(format!("pack {} has no frame {position}", pack.id), None);
            return None;
        }
        let regions = self.regions_of(pack);
        if regions.is_empty() {
            let reason = format!("pack {} is listed in no reached region", pack.id);
            troubles.add(reason, Some(StoreErrorKind::NotFound));
        }
        let mut unread = Vec::new();
        for region in regions {
            let key = (place.pack, place.frame, region);
            let cached = self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(key);
            match cached.map(|opened| self.take(&opened, pack.id, kind, id, place)) {
                Some(Ok(bytes)) => return Some(bytes),
                Some(Err(error)) => self.fail(region, place, pack, &error, troubles),
                None => unread.push(region),
            }
        }
        for region in unread {
            if let Some(error) = self.silent[region].get() {
                let name = &self.repository.regions[region].name;
                troubles.add(format!("region '{name}' no longer answers"), Some(error.kind));
                continue;
            }
            match self.read_frame(region, pack, place).and_then(|opened| self.take(&opened, pack.id, kind, id, place)) {
                Ok(bytes) => return Some(bytes),
                Err(error) => self.fail(region, place, pack, &error, troubles),
            }
        }
        None
    }

    /// Reads and opens a frame, and keeps it.
    fn read_frame(&self, region: usize, pack: &PackEntry, place: &Place) -> Result<OpenedFrame, PackError> {
        let key = (place.pack, place.frame, region);
        if let Some(why) = self.unopened.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Err(PackError::Unopened(why.clone()));
        }
        let (position, frame) = (place.frame as usize, &pack.frames[place.frame as usize]);
        let mut sealed = self.read_range(region, pack, frame.offset, u64::from(frame.sealed_length))?;
        let mut plain = Vec::new();
        if let Err(error) = self.open_frame(region, pack, position, &mut sealed, &mut plain) {
            if let PackError::Frame { .. } | PackError::Decompress { .. } = error {
                self.unopened.lock().unwrap_or_else(PoisonError::into_inner).insert(key, error.to_string());
            }
            return Err(error);
        }
        let opened = OpenedFrame { bytes: Arc::new(plain), epoch: self.epoch_of(region, pack, frame)? };
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).insert(key, opened.clone());
        Ok(opened)
    }

    /// Notes that a chunk isn't to be had at a place in one region.
    fn fail(&self, region: usize, place: &Place, pack: &PackEntry, error: &PackError, troubles: &mut Troubles) {
        let name = &self.repository.regions[region].name;
        let kind = if let PackError::Store(store) = error { Some(store.kind) } else { None };
        // Of a region that doesn't answer is told once, and nothing of its packs follows from that.
        if self.silent[region].get().is_none() {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(place.pack);
            self.note(name, pack, error);
        }
        troubles.add(format!("region '{name}': {error}"), kind);
    }

    /// One chunk's plaintext, checked.
    ///
    /// # Errors
    /// When no copy can be read.
    pub fn chunk(&self, kind: ChunkKind, id: ChunkId) -> Result<Vec<u8>, FetchError> {
        if !self.repository.keyring.can_open_payloads() {
            return Err(FetchError::NotPermitted);
        }
        let places = self.index.places(&[id])?.pop().unwrap_or_default();
        if places.is_empty() {
            return Err(FetchError::Unlisted(id));
        }
        let mut troubles = Troubles::default();
        for (place, pack) in self.in_turn(&places)? {
            if let Some(bytes) = self.chunk_at(kind, id, &pack, &place, &mut troubles) {
                return Ok(bytes);
            }
        }
        if let Some(error) = self.unanswered() {
            return Err(error);
        }
        Err(FetchError::Unreadable { id, kind: troubles.kind(), reasons: troubles.reasons.join("; ") })
    }

    /// One structural chunk, checked and decoded.
    ///
    /// # Errors
    /// When no copy can be read or the chunk breaks a rule.
    pub fn structural(&self, kind: ChunkKind, id: ChunkId) -> Result<SequenceChunk, FetchError> {
        let bytes = self.chunk(kind, id)?;
        decode_chunk(kind, &bytes).map_err(|source| FetchError::Decode { id, source })
    }

    /// Reads a stretch of neighbouring frames of a pack in one go and hands each frame's plaintext to
    /// `each`, with its position. What fails there is tried one by one, in every region, by the caller. Frames are
    /// opened in `room`, of which nothing is kept but its memory.
    ///
    /// # Errors
    /// What the first region's copy says.
    pub fn frames(
        &self,
        pack: &PackEntry,
        positions: &[u32],
        room: &mut Vec<u8>,
        each: &mut dyn FnMut(u32, u64, &[u8]),
    ) -> Result<(), PackError> {
        let regions = self.answering(pack);
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(()) };
        let (Some(first), Some(last)) = (pack.frames.get(*first as usize), pack.frames.get(*last as usize)) else {
            return Ok(());
        };
        let length = last.offset + u64::from(last.sealed_length) - first.offset;
        let Some(region) = regions.first() else { return Ok(()) };
        let mut bytes = self.read_range(*region, pack, first.offset, length)?;
        for position in positions {
            let Some(frame) = pack.frames.get(*position as usize) else { continue };
            let start = (frame.offset - first.offset) as usize;
            let sealed = &mut bytes[start..start + frame.sealed_length as usize];
            self.open_frame(*region, pack, *position as usize, sealed, room)?;
            each(*position, self.epoch_of(*region, pack, frame)?, room);
        }
        Ok(())
    }
}

//! Reads a region's collection log: which packs may not be relied on, which sessions are fenced.
//! Page: `format-spec/gc.md`.

use super::RepoError;
use super::at_once::at_once;
use super::open::{DECIDERS, RegionHandle, Repository};
use crate::crypto::object::{self, build_signed};
use crate::format::envelope::ObjectKind;
use crate::format::gc::{Condemn, Fence, Final};
use crate::format::ids::{PackId, RegionId, SessionId, SlotId, SnapshotId, number_from_name, number_name};
use crate::format::wire::DecodeError;
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::PoisonError;

/// How often a log that seems out of order is listed before that counts as damage.
const LISTINGS_MAX: u32 = 3;

/// What a region's log says at one moment.
#[derive(Clone, Debug, Default)]
pub struct GcLog {
    /// The newest generation, 0 before the first.
    pub newest: u64,
    /// The newest generation while it has no final.
    pub open: Option<OpenGeneration>,
    /// Packs that finals list as deleted: their names are never written again here.
    pub dead: HashSet<PackId>,
    /// Sessions that finals fenced for good: a commit of theirs doesn't count, however late it comes.
    pub fenced: HashSet<SessionId>,
    /// Sessions whose commits finals collected.
    pub collected: HashSet<SessionId>,
    /// The generation that first saw a snapshot counting; one that is absent is newer than all finals.
    pub first_seen: BTreeMap<SnapshotId, u64>,
}

/// A generation that was begun and has no final yet.
#[derive(Clone, Debug, Default)]
pub struct OpenGeneration {
    /// Its number.
    pub number: u64,
    /// Packs that will go unless somebody needs them.
    pub condemned: BTreeSet<PackId>,
    /// Its fence, once it is put.
    pub fence: Option<Fence>,
}

impl GcLog {
    /// True for a pack that may not be relied on: deleted, or condemned by a generation without a final.
    pub fn is_missing(&self, pack: &PackId) -> bool {
        self.dead.contains(pack) || self.open.as_ref().is_some_and(|open| open.condemned.contains(pack))
    }

    /// All packs that may not be relied on.
    pub fn missing(&self) -> HashSet<PackId> {
        let condemned = self.open.iter().flat_map(|open| &open.condemned);
        self.dead.iter().chain(condemned).copied().collect()
    }

    /// True when a commit of this session doesn't count any more.
    pub fn is_dead_session(&self, session: &SessionId) -> bool {
        self.fenced.contains(session) || self.collected.contains(session)
    }

    /// True when an open fence names the session: only the final says whether its commit counts.
    pub fn is_doubtful_session(&self, session: &SessionId) -> bool {
        self.open_fence().is_some_and(|fence| fence.sessions.binary_search(session).is_ok())
    }

    /// True when an open fence names the snapshot: only the final says whether it is collected.
    pub fn is_doubtful_snapshot(&self, snapshot: &SnapshotId) -> bool {
        self.open_fence().is_some_and(|fence| fence.snapshots.binary_search(snapshot).is_ok())
    }

    fn open_fence(&self) -> Option<&Fence> {
        self.open.as_ref().and_then(|open| open.fence.as_ref())
    }

    /// Takes the final of the open generation in.
    pub(crate) fn close(&mut self, entry: Final) {
        self.newest = self.newest.max(entry.generation);
        self.open = None;
        self.dead.extend(entry.deleted);
        self.fenced.extend(entry.fenced);
        self.collected.extend(entry.collected);
        for snapshot in entry.seen {
            self.first_seen.entry(snapshot).or_insert(entry.generation);
        }
    }
}

/// The object's name of one part of a generation: `condemn`, `fence` or `final`.
pub fn entry_name(generation: u64, part: &str) -> String {
    format!("gc/{}/{part}", number_name(generation))
}

/// One entry of a log.
pub trait Entry: Clone {
    /// Its kind.
    const KIND: ObjectKind;
    /// `condemn`, `fence` or `final`.
    const PART: &'static str;
    /// Its payload.
    fn encode(&self) -> Vec<u8>;
    /// From a payload.
    ///
    /// # Errors
    /// `GC-1`; `CBOR` rules.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// Its generation and region.
    fn place(&self) -> (u64, RegionId);
}

macro_rules! entry {
    ($type:ident, $part:literal) => {
        impl Entry for $type {
            const KIND: ObjectKind = ObjectKind::$type;
            const PART: &'static str = $part;
            fn encode(&self) -> Vec<u8> {
                $type::encode(self)
            }
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                $type::decode(bytes)
            }
            fn place(&self) -> (u64, RegionId) {
                (self.generation, self.region)
            }
        }
    };
}
entry!(Condemn, "condemn");
entry!(Fence, "fence");
entry!(Final, "final");

/// Reads one entry.
///
/// # Errors
/// When it is absent, damaged, misplaced, or no maintainer's.
pub fn read_entry<E: Entry>(repository: &Repository, region: &RegionHandle, number: u64) -> Result<E, RepoError> {
    read_signed(repository, region, number).map(|(entry, _)| entry)
}

/// As [`read_entry`], with who signed it.
pub(super) fn read_signed<E: Entry>(
    repository: &Repository,
    region: &RegionHandle,
    number: u64,
) -> Result<(E, SlotId), RepoError> {
    let name = entry_name(number, E::PART);
    let bytes = region.get(&name)?;
    let broken = |source| region.object_error(&name, source);
    let signed = object::decode(E::KIND, repository.config.repository, &bytes).map_err(broken)?;
    repository.verify_slot(&signed, &DECIDERS).map_err(|source| region.crypto_error(&name, source))?;
    let entry = E::decode(signed.envelope.payload).map_err(broken)?;
    match entry.place() == (number, region.info.region) {
        true => Ok((entry, signed.envelope.signer)),
        false => Err(broken(DecodeError::new("GC-2", "it speaks for another region or generation"))),
    }
}

/// Puts an entry only if its name is free, and gives what stands there: `entry`, or that of who came first
/// (`GC-5`). Where the store can't refuse a second put, what is read back counts.
///
/// # Errors
/// When it can't be put, or what is there can't be read.
pub fn publish<E: Entry>(repository: &Repository, region: &RegionHandle, entry: &E) -> Result<E, RepoError> {
    let number = entry.place().0;
    let signer = repository.signer();
    let (bytes, _) = build_signed(E::KIND, repository.config.repository, &signer, &entry.encode());
    match put_with_retries(&*region.store, &entry_name(number, E::PART), &bytes.into()) {
        Ok(()) if region.info.put_if_absent => Ok(entry.clone()),
        Ok(()) => read_entry(repository, region, number),
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => read_entry(repository, region, number),
        // An answer that was lost says nothing of the put: what is there now does.
        Err(error) => match read_entry(repository, region, number) {
            Err(RepoError::Missing { .. } | RepoError::Store { .. }) => Err(region.error(error)),
            found => found,
        },
    }
}

/// The whole log of a region as it is now. Entries never change, so a process reads each once: after a thousand
/// collections they are most of what a small backup fetches.
///
/// # Errors
/// When it can't be listed or read, or holds what no maintainer signed: never taken for an empty one.
pub fn read(repository: &Repository, region: &RegionHandle) -> Result<GcLog, RepoError> {
    let mut log = region.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if update(repository, region, &mut log)? {
        let mut known = region.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read more meanwhile.
        if log.newest >= known.newest {
            *known = log.clone();
        }
    }
    Ok(log)
}

/// What a region's log says as far as it is whole, and what is wrong with the rest: for whoever only reads there. What
/// a damaged entry said isn't known: packs that it condemned or deleted look lost, and commits that it fenced seem to
/// count, though they may lack packs. A writer or a collector stops at such a log (`GC-4`): never for these.
///
/// # Errors
/// When the log can't be listed, or the store fails.
pub fn read_what_is_whole(
    repository: &Repository,
    region: &RegionHandle,
) -> Result<(GcLog, Option<RepoError>), RepoError> {
    let damage = match read(repository, region) {
        Ok(log) => return Ok((log, None)),
        Err(error @ (RepoError::Object { .. } | RepoError::Crypto { .. } | RepoError::Missing { .. })) => error,
        Err(error) => return Err(error),
    };
    fn whole<E: Entry>(read: Result<E, RepoError>) -> Result<Option<E>, RepoError> {
        match read {
            Ok(entry) => Ok(Some(entry)),
            Err(error @ RepoError::Store { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }
    let mut log = GcLog::default();
    let generations = list(region)?;
    let ended: Vec<u64> = generations.iter().filter(|(_, parts)| parts.contains("final")).map(|(n, _)| *n).collect();
    let finals = at_once(&ended, |number| whole(read_entry::<Final>(repository, region, *number)))?;
    finals.into_iter().flatten().for_each(|entry| log.close(entry));
    if let Some((number, parts)) = generations.last_key_value() {
        log.newest = *number;
        if !parts.contains("final") {
            let condemn: Option<Condemn> = whole(read_entry(repository, region, *number))?;
            let condemned = condemn.into_iter().flat_map(|condemn| condemn.packs).collect();
            let fence = whole(read_entry(repository, region, *number))?;
            log.open = Some(OpenGeneration { number: *number, condemned, fence });
        }
    }
    Ok((log, Some(damage)))
}

/// The generations of a region that have a final.
///
/// # Errors
/// When the region can't be listed.
pub(super) fn finals(region: &RegionHandle) -> Result<Vec<u64>, RepoError> {
    let ended = list(region)?.into_iter().filter(|(_, parts)| parts.contains(Final::PART));
    Ok(ended.map(|(number, _)| number).collect())
}

/// A generation's parts, by its number.
type Generations = BTreeMap<u64, BTreeSet<String>>;

fn list(region: &RegionHandle) -> Result<Generations, RepoError> {
    let mut generations = Generations::new();
    for listed in list_sorted(&*region.store, "gc/").map_err(|e| region.error(e))? {
        let number = listed.name.strip_prefix("gc/").and_then(|name| name.split_once('/'));
        if let Some((number, part)) = number.and_then(|(number, part)| Some((number_from_name(number)?, part))) {
            generations.entry(number).or_default().insert(part.to_owned());
        }
    }
    Ok(generations)
}

/// The first generation that is out of order, or that is gone though it was seen.
fn disorder(generations: &Generations, log: &GcLog) -> Option<u64> {
    let newest = generations.keys().next_back().copied().unwrap_or(0);
    for (expected, (number, parts)) in (1..).zip(generations) {
        let ordered = match (parts.contains("condemn"), parts.contains("fence"), parts.contains("final")) {
            (true, true, true) => true,
            (true, fence, false) if *number == newest => match &log.open {
                _ if *number > log.newest => true,
                Some(open) => open.number == *number && (fence || open.fence.is_none()),
                None => false,
            },
            _ => false,
        };
        if !ordered || *number != expected {
            return Some(*number);
        }
    }
    (newest < log.newest).then_some(log.newest)
}

/// Brings what is known of a region's log up to date: lists it, and reads only what is new. True when
/// something was.
///
/// # Errors
/// As [`read`]; `log` stays as it was.
pub fn update(repository: &Repository, region: &RegionHandle, log: &mut GcLog) -> Result<bool, RepoError> {
    let mut generations = list(region)?;
    for attempt in 1.. {
        let Some(number) = disorder(&generations, log) else { break };
        if attempt == LISTINGS_MAX {
            let detail = "the log has a gap, an entry before the one that it follows, or lost one".to_owned();
            return Err(region.object_error(&format!("gc/{}", number_name(number)), DecodeError::new("GC-3", detail)));
        }
        // A listing of several pages may show an entry without the earlier one that was put meanwhile.
        generations = list(region)?;
    }
    let first = log.open.as_ref().map_or(log.newest + 1, |open| open.number);
    let is_news = |number: u64, parts: &BTreeSet<String>| match &log.open {
        Some(open) if open.number == number => {
            parts.contains("final") || (parts.contains("fence") && open.fence.is_none())
        }
        _ => true,
    };
    if !generations.range(first..).any(|(number, parts)| is_news(*number, parts)) {
        return Ok(false);
    }
    let mut next = log.clone();
    let ended: Vec<u64> =
        generations.range(first..).filter(|(_, parts)| parts.contains("final")).map(|(n, _)| *n).collect();
    let finals: Vec<Final> = at_once(&ended, |number| read_entry(repository, region, *number))?;
    let mut finals = finals.into_iter();
    for (number, parts) in generations.range(first..) {
        let number = *number;
        next.newest = number;
        let known = next.open.take().filter(|open| open.number == number);
        if parts.contains("final") {
            finals.next().into_iter().for_each(|entry| next.close(entry));
            continue;
        }
        let (condemned, fence) = match known {
            Some(open) => (open.condemned, open.fence),
            None => {
                let condemn: Condemn = read_entry(repository, region, number)?;
                (condemn.packs.into_iter().collect(), None)
            }
        };
        let fence = match (fence, parts.contains("fence")) {
            (None, true) => Some(read_entry(repository, region, number)?),
            (fence, _) => fence,
        };
        next.open = Some(OpenGeneration { number, condemned, fence });
    }
    *log = next;
    Ok(true)
}

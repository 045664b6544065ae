//! Reads a region's collection log: which packs may not be relied on, which sessions are fenced.
//! Page: `format-spec/gc.md`.

use super::RepoError;
use super::open::{DECIDERS, RegionHandle, Repository};
use crate::crypto::object;
use crate::format::envelope::ObjectKind;
use crate::format::gc::{Condemn, Fence, Final};
use crate::format::ids::{PackId, RegionId, SessionId, SnapshotId, number_from_name, number_name};
use crate::format::wire::DecodeError;
use crate::store::list_sorted;
use std::collections::{BTreeMap, BTreeSet, HashSet};

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

    fn close(&mut self, entry: Final) {
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
trait Entry: Sized {
    const KIND: ObjectKind;
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
    fn place(&self) -> (u64, RegionId);
}

macro_rules! entry {
    ($type:ident) => {
        impl Entry for $type {
            const KIND: ObjectKind = ObjectKind::$type;
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                $type::decode(bytes)
            }
            fn place(&self) -> (u64, RegionId) {
                (self.generation, self.region)
            }
        }
    };
}
entry!(Condemn);
entry!(Fence);
entry!(Final);

fn read_entry<E: Entry>(
    repository: &Repository,
    region: &RegionHandle,
    number: u64,
    part: &str,
) -> Result<E, RepoError> {
    let name = entry_name(number, part);
    let bytes = region.get(&name)?;
    let broken = |source| region.object_error(&name, source);
    let signed = object::decode(E::KIND, repository.config.repository, &bytes).map_err(broken)?;
    repository.verify_slot(&signed, &DECIDERS).map_err(|source| region.crypto_error(&name, source))?;
    let entry = E::decode(signed.envelope.payload).map_err(broken)?;
    match entry.place() == (number, region.info.region) {
        true => Ok(entry),
        false => Err(broken(DecodeError::new("GC-2", "it speaks for another region or generation"))),
    }
}

/// Reads the whole log of a region.
///
/// # Errors
/// When it can't be listed or read, or holds what no maintainer signed: never taken for an empty one.
pub fn read(repository: &Repository, region: &RegionHandle) -> Result<GcLog, RepoError> {
    let mut generations: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for listed in list_sorted(&*region.store, "gc/").map_err(|e| region.error(e))? {
        let number = listed.name.strip_prefix("gc/").and_then(|name| name.split_once('/'));
        if let Some((number, part)) = number.and_then(|(number, part)| Some((number_from_name(number)?, part))) {
            generations.entry(number).or_default().insert(part.to_owned());
        }
    }
    let mut log = GcLog::default();
    let newest = generations.keys().next_back().copied().unwrap_or(0);
    for (number, parts) in generations {
        let ordered = match (parts.contains("condemn"), parts.contains("fence"), parts.contains("final")) {
            (true, true, true) => true,
            (true, _, false) => number == newest,
            _ => false,
        };
        if !ordered || number != log.newest + 1 {
            let detail = "the log has a gap, or an entry before the one that it follows".to_owned();
            return Err(region.object_error(&format!("gc/{}", number_name(number)), DecodeError::new("GC-3", detail)));
        }
        log.newest = number;
        if parts.contains("final") {
            log.close(read_entry(repository, region, number, "final")?);
            continue;
        }
        let condemn: Condemn = read_entry(repository, region, number, "condemn")?;
        let fence = match parts.contains("fence") {
            true => Some(read_entry(repository, region, number, "fence")?),
            false => None,
        };
        log.open = Some(OpenGeneration { number, condemned: condemn.packs.into_iter().collect(), fence });
    }
    Ok(log)
}

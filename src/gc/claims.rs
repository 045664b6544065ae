//! Who has a say over a region's packs at one moment: sessions, commits, verdicts.

use super::rulings::{self, Standing};
use super::{GcError, OpenSession};
use crate::format::ids::{ChunkId, PackId, SessionId, SlotId, SnapshotId};
use crate::format::session::Commit;
use crate::repo::RepoError;
use crate::repo::gclog::GcLog;
use crate::repo::open::{RegionHandle, Repository};
use crate::repo::sessions::{self, SessionRecord, is_forged};
use crate::repo::snapshots::read_snapshot;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What never changes once it was read, over a run.
#[derive(Default)]
pub struct Memory {
    commits: BTreeMap<SessionId, (Commit, SlotId)>,
    verdicts: rulings::Known,
    roots: HashMap<SnapshotId, Option<(ChunkId, SlotId)>>,
    /// When the snapshots that were read were begun, by their hosts' clocks.
    begun_at: Vec<i64>,
}

/// A chunk to mark from.
#[derive(Clone, Debug)]
pub struct Root {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its root tree.
    pub chunk: ChunkId,
    /// The slots that rely on what it reaches.
    pub slots: BTreeSet<SlotId>,
    /// It is forgotten: what it lacks keeps nothing from being collected.
    pub forgotten: bool,
}

/// Who has a say.
pub struct Claims {
    /// Every session with objects here.
    pub sessions: BTreeMap<SessionId, SessionRecord>,
    /// The commits of sessions that no final fenced or collected.
    pub commits: BTreeMap<SessionId, (Commit, SlotId)>,
    /// Sessions whose commits are still there though a final fenced or collected them.
    pub dead_commits: Vec<SessionId>,
    /// What was ruled on snapshots.
    pub standings: BTreeMap<SnapshotId, Standing>,
}

impl Claims {
    /// Reads sessions, then commits, then verdicts. In this order: a session that is missing from the first
    /// listing because it was cleaned away has its commit in the second.
    pub fn read(
        repository: &Repository,
        region: &RegionHandle,
        log: &GcLog,
        memory: &mut Memory,
    ) -> Result<Self, GcError> {
        let sessions = sessions::read(repository, region)?;
        let commits = sessions::read_commits(repository, region, &mut memory.commits, &|id| log.is_dead_session(id))?;
        let standings = rulings::read(repository, &mut memory.verdicts)?;
        Ok(Claims { sessions, commits: commits.live, dead_commits: commits.skipped, standings })
    }

    /// Sets apart the commits that a final fenced or collected since these claims were read.
    pub fn bury(&mut self, log: &GcLog) {
        let dead: Vec<SessionId> = self.commits.keys().copied().filter(|id| log.is_dead_session(id)).collect();
        for id in dead {
            self.commits.remove(&id);
            self.dead_commits.push(id);
        }
    }

    /// True once a session's commit is there, signed by who opened it.
    pub fn is_committed(&self, id: &SessionId) -> bool {
        let owner = self.sessions.get(id).and_then(|record| record.signer);
        self.commits.get(id).is_some_and(|(_, signer)| owner.is_none_or(|owner| owner == *signer))
    }

    /// True for a session that nothing ended: neither a commit, nor its own end, nor a final.
    pub fn is_open(&self, id: &SessionId, log: &GcLog) -> bool {
        !log.is_dead_session(id) && !self.is_committed(id) && self.sessions.get(id).is_some_and(|record| !record.ended)
    }

    /// The open sessions.
    pub fn open<'a>(&'a self, log: &'a GcLog) -> impl Iterator<Item = (&'a SessionId, &'a SessionRecord)> {
        self.sessions.iter().filter(move |(id, _)| self.is_open(id, log))
    }

    /// Sessions whose packs stay, since they or a session that adopts them are open.
    pub fn protected(&self, log: &GcLog) -> BTreeSet<SessionId> {
        self.open(log).flat_map(|(id, record)| std::iter::once(*id).chain(record.adopts.iter().copied())).collect()
    }

    /// # Errors
    /// When an open session holds a damaged object: what it relies on isn't known.
    pub fn require_readable(&mut self, region: &RegionHandle, log: &GcLog) -> Result<(), GcError> {
        let open: Vec<SessionId> = self.open(log).map(|(id, _)| *id).collect();
        for id in open {
            if let Some(error) = self.sessions.get_mut(&id).and_then(|record| record.damage.take()) {
                return Err(GcError::Incomplete {
                    region: region.name.clone(),
                    detail: format!(
                        "{error}; what session {id} relies on isn't known. If its writer is gone for good, remove \
                         sessions/{id}/ from the store by hand"
                    ),
                });
            }
        }
        Ok(())
    }

    /// True while the effective verdict is *forget*.
    pub fn is_forgotten(&self, id: &SnapshotId) -> bool {
        matches!(self.standings.get(id), Some(Standing::Forgotten(_)))
    }

    /// The snapshots that commits name.
    pub fn committed(&self) -> BTreeSet<SnapshotId> {
        self.commits.values().map(|(commit, _)| commit.snapshot).collect()
    }

    /// Snapshots that open sessions take over unseen, with the slots of these sessions. What `except` names
    /// has no say.
    pub fn bases(&self, log: &GcLog, except: &[SessionId]) -> BTreeMap<SnapshotId, BTreeSet<SlotId>> {
        let mut bases: BTreeMap<SnapshotId, BTreeSet<SlotId>> = BTreeMap::new();
        for (_, record) in self.open(log).filter(|(id, _)| except.binary_search(id).is_err()) {
            for base in &record.bases {
                bases.entry(*base).or_default().extend(record.signer);
            }
        }
        bases
    }

    /// Condemned packs that sessions say they need, of those that have observed generation `n`.
    pub fn needs(&self, n: u64) -> impl Iterator<Item = &PackId> {
        self.sessions.values().filter(move |record| record.observed >= n).flat_map(|record| &record.needs)
    }

    /// For a person.
    pub fn describe(&self, repository: &Repository, id: &SessionId) -> OpenSession {
        let record = self.sessions.get(id);
        let slot = record
            .and_then(|record| record.signer)
            .map(|slot| (slot, repository.roster.slot(slot).map_or_else(String::new, |entry| entry.label.clone())));
        OpenSession {
            id: *id,
            slot,
            started_at: record.map_or(0, |record| record.started_at),
            observed: record.map_or(0, |record| record.observed),
        }
    }
}

impl Memory {
    /// When snapshots that were read were begun and verdicts were made, by their signers' clocks.
    pub fn signed_at(&self) -> impl Iterator<Item = i64> {
        let decided_at = self.verdicts.values().flatten().map(|(_, at)| *at);
        self.begun_at.iter().copied().chain(decided_at)
    }

    /// The root of a snapshot, out of the first region whose copy is whole; `None` when nobody who may has
    /// signed it, so that it counts nowhere.
    ///
    /// # Errors
    /// When no region has a whole copy.
    pub fn root(
        &mut self,
        repository: &Repository,
        region: &RegionHandle,
        id: SnapshotId,
    ) -> Result<Option<(ChunkId, SlotId)>, RepoError> {
        if let Some(known) = self.roots.get(&id) {
            return Ok(*known);
        }
        let others = repository.regions.iter().filter(|other| other.info.region != region.info.region);
        let mut failure = None;
        for from in std::iter::once(region).chain(others) {
            let found = match read_snapshot(repository, from, id) {
                Ok((snapshot, slot)) => {
                    self.begun_at.push(snapshot.started_at);
                    Some((snapshot.root, slot))
                }
                Err(RepoError::Crypto { source, .. }) if is_forged(&source) => None,
                Err(RepoError::Object { source, .. }) if source.rule == "SIGN-2" => None,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            self.roots.insert(id, found);
            return Ok(found);
        }
        Err(failure.unwrap_or(RepoError::NoRegions))
    }
}

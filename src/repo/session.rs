//! A writer's session over the regions of a run, and the commit that ends it.
//! Page: `format-spec/sessions.md`; the order of the steps is `ORDER-1` to `ORDER-7` there.
//!
//! Guarantees: in each region a state is durable before what it allows is done; the log is listed after
//! it; what a collector is too far along to spare is told as lost, never passed over. Called by
//! `backup` and `replicate`.

use super::RepoError;
use super::gclog::{self, GcLog};
use super::open::{RegionHandle, Repository, WRITERS};
use super::snapshots::{SnapshotInfo, is_forgotten};
use crate::crypto::object::{self, build_signed};
use crate::env::random_bytes;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, PackId, SessionId, SnapshotId, number_from_name, number_name};
use crate::format::session::{Commit, Session as SessionState, SessionEnd};
use crate::format::wire::DecodeError;
use crate::index::IndexError;
use crate::ship::put_with_retries;
use crate::store::{StoreError, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Earlier sessions of this slot whose states are read to be adopted. What one more would protect is
/// found by look-ups all the same, and then named in `needs`.
const ADOPTED_READ_MAX: usize = 256;
/// Identifiers in a list of a state.
const LISTED_MAX: usize = 1 << 18;
/// Generations that one look may meet; the next look goes on from there.
const ROUNDS_MAX: usize = 4;

/// One writer's attempt at one snapshot; the same id in every region of the run.
pub struct Session {
    /// Its id, also in the header of its packs.
    pub id: SessionId,
    /// By index into the repository's regions.
    regions: BTreeMap<usize, SessionRegion>,
    /// Regions that could not be written, by index into the repository's: they take no part.
    pub failed: Vec<(usize, StoreError)>,
    /// Sessions of this run that another one took the place of, and where they are neither ended nor committed.
    replaced: BTreeMap<SessionId, BTreeSet<usize>>,
}

/// What a session relies on from its beginning.
#[derive(Clone, Debug, Default)]
pub struct Foundation {
    /// Snapshots whose chunks are taken over without looking each up (`ORDER-7`).
    pub bases: BTreeSet<SnapshotId>,
    /// Whether earlier sessions of this slot that were left open are adopted: their packs stay
    /// protected while they are used again.
    pub adopts_earlier: bool,
}

/// What a run relies on, as its session asks it.
pub trait Reliance {
    /// From now on these packs, and no others, count as missing; gives those of them that were relied
    /// on before.
    ///
    /// # Errors
    /// When the index can't be read.
    fn withdraw(&self, missing: &HashSet<PackId>) -> Result<BTreeSet<PackId>, IndexError>;
}

/// What a look at the logs came to.
#[derive(Debug, Default)]
pub struct Watched {
    /// Packs that were relied on and that no collector will spare: what they hold must be stored again.
    pub lost: BTreeSet<PackId>,
    /// Regions in which a fence names the session: its commit won't count, or is in doubt.
    pub fenced: Vec<usize>,
    /// Regions whose log could not be looked at, or whose state not be put: nothing is known of them.
    pub failed: Vec<(usize, RepoError)>,
}

struct SessionRegion {
    /// As last put.
    state: SessionState,
    /// As last listed.
    log: GcLog,
    /// The newest generation at the session's first listing. A collector may have read the sessions
    /// before this one was there, so a fence of that generation that doesn't name it proves nothing.
    found: u64,
    /// Needs were put and the log not listed since.
    unsettled: bool,
    /// The log says something that was not yet held against what is relied on.
    news: bool,
    /// The session's commit was put, or tried to.
    committed: bool,
}

impl Session {
    /// Opens a session in every reached region. One whose store fails, full or gone since it was
    /// reached, takes no part, and the others go on without it.
    ///
    /// # Errors
    /// When no region can be written, or one's log is damaged.
    pub fn open(repository: &Repository) -> Result<Self, RepoError> {
        Self::open_on(repository, &Foundation::default())
    }

    /// As [`Session::open`], relying on something from the start.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_on(repository: &Repository, foundation: &Foundation) -> Result<Self, RepoError> {
        Self::open_among(repository, 0..repository.regions.len(), foundation)
    }

    /// As [`Session::open`], in one region only.
    ///
    /// # Errors
    /// When it can't be written or its log can't be read.
    pub fn open_in(repository: &Repository, at: usize) -> Result<Self, RepoError> {
        Self::open_among(repository, at..at + 1, &Foundation::default())
    }

    fn open_among(
        repository: &Repository,
        among: std::ops::Range<usize>,
        foundation: &Foundation,
    ) -> Result<Self, RepoError> {
        let id = SessionId(random_bytes(&*repository.random));
        let started_at = repository.clock.now_ns();
        let (mut regions, mut failed) = (BTreeMap::new(), Vec::new());
        for at in among {
            let region = &repository.regions[at];
            let open = || {
                // What is sealed under an epoch that the region's own roster doesn't state couldn't be read there.
                repository.level_keys(at).map_err(|error| kept_out(region, error))?;
                let adopts = if foundation.adopts_earlier { left_open(repository, region)? } else { BTreeSet::new() };
                let state = first_state(region, id, started_at, adopts, foundation.bases.iter().copied().collect());
                SessionRegion::open(repository, region, state)
            };
            match open() {
                Ok(opened) => drop(regions.insert(at, opened)),
                Err(RepoError::Store { source, .. }) => failed.push((at, source)),
                Err(error) => return Err(error),
            }
        }
        if regions.is_empty() {
            let named = failed.into_iter().map(|(at, error)| (repository.regions[at].name.clone(), error));
            return Err(RepoError::Unreachable(named.collect()));
        }
        Ok(Session { id, regions, failed, replaced: BTreeMap::new() })
    }

    /// As [`Session::open`], writing nothing: for a dry run.
    ///
    /// # Errors
    /// When a region's log can't be read.
    pub fn rehearse(repository: &Repository, foundation: &Foundation) -> Result<Self, RepoError> {
        let id = SessionId(random_bytes(&*repository.random));
        let mut regions = BTreeMap::new();
        for (at, region) in repository.regions.iter().enumerate() {
            let log = gclog::read(repository, region)?;
            let bases = foundation.bases.iter().copied().collect();
            let mut state = first_state(region, id, 0, BTreeSet::new(), bases);
            state.observed = log.newest;
            regions.insert(at, SessionRegion::new(state, log));
        }
        Ok(Session { id, regions, failed: Vec::new(), replaced: BTreeMap::new() })
    }

    /// Packs that may not be relied on in any region of the run.
    pub fn missing(&self) -> HashSet<PackId> {
        self.regions.values().flat_map(|region| region.log.missing()).collect()
    }

    /// The regions that take part, by index into the repository's.
    pub fn regions(&self) -> impl Iterator<Item = usize> + '_ {
        self.regions.keys().copied()
    }

    /// Only these regions take part from now on.
    pub fn keep(&mut self, regions: &[usize]) {
        self.regions.retain(|at, _| regions.contains(at));
    }

    /// True when what `base` holds may be taken over without look-ups: in every region that takes part
    /// it counts and no open fence names it, by the log as it was listed **after** the state that names
    /// it; and nobody forgot it (`ORDER-7`).
    ///
    /// # Errors
    /// When the verdicts can't be read.
    pub fn holds_base(&self, repository: &Repository, base: &SnapshotInfo) -> Result<bool, RepoError> {
        let named = self.regions.values().all(|region| region.state.bases.contains(&base.id));
        Ok(named && self.regions().all(|at| self.counts(at, base)) && !is_forgotten(repository, base.id)?)
    }

    /// True when a region's log, as last listed, lets a commit of the snapshot stand there and no open fence names
    /// it. What the verdicts say isn't asked.
    pub fn counts(&self, at: usize, snapshot: &SnapshotInfo) -> bool {
        let Some(SessionRegion { log, .. }) = self.regions.get(&at) else { return false };
        let mut commits = snapshot.commits.iter().filter(|(region, _)| *region == at).map(|(_, session)| session);
        commits.any(|sid| !log.is_dead_session(sid) && !log.is_doubtful_session(sid))
            && !log.is_doubtful_snapshot(&snapshot.id)
    }

    /// Lists each region's log. On a new condemn its packs count as missing, a state says that it was
    /// observed and which of them are needed, and **then** the log is listed again (`ORDER-4`).
    ///
    /// # Errors
    /// When `reliance` can't say what is relied on. What single regions say is in [`Watched::failed`].
    pub fn watch(&mut self, repository: &Repository, reliance: &dyn Reliance) -> Result<Watched, RepoError> {
        let mut watched = Watched::default();
        for _ in 0..ROUNDS_MAX {
            self.list_logs(repository, &mut watched);
            if !watched.fenced.is_empty() {
                // The needs of a fenced session are nobody's business any more.
                return Ok(watched);
            }
            if !self.regions.values().any(|region| region.news || region.log.newest > region.state.observed) {
                return Ok(watched);
            }
            let relied = reliance.withdraw(&self.missing())?;
            let mut put = false;
            for (at, region) in &mut self.regions {
                let handle = &repository.regions[*at];
                region.news = false;
                watched.lost.extend(relied.iter().filter(|pack| region.log.dead.contains(*pack)));
                if region.log.newest <= region.state.observed || watched.failed.iter().any(|(failed, _)| failed == at) {
                    continue;
                }
                match region.observe(repository, handle, &relied) {
                    Ok(late) => watched.lost.extend(late),
                    Err(error) => watched.failed.push((*at, error)),
                }
                put = true;
            }
            if !put {
                break;
            }
        }
        Ok(watched)
    }

    fn list_logs(&mut self, repository: &Repository, watched: &mut Watched) {
        watched.fenced.clear();
        for (at, region) in &mut self.regions {
            if watched.failed.iter().any(|(failed, _)| failed == at) {
                continue;
            }
            if let Err(error) = region.list(repository, &repository.regions[*at]) {
                watched.failed.push((*at, error));
                continue;
            }
            if region.is_fenced(&self.id) {
                watched.fenced.push(*at);
            } else if std::mem::take(&mut region.unsettled) {
                let open = region.log.open.as_ref().filter(|open| open.number == region.state.observed);
                let young = region.found == region.state.observed;
                if young && open.is_some_and(|open| open.fence.is_some()) {
                    watched.lost.extend(region.state.needs.iter().copied());
                }
            }
        }
    }

    /// Goes on under a new id, in every region that takes part, relying on all that this one relied on:
    /// it adopts this one and keeps its bases. For a session that a fence names, or may.
    ///
    /// # Errors
    /// As [`Session::watch`].
    pub fn succeed(&mut self, repository: &Repository, reliance: &dyn Reliance) -> Result<Watched, RepoError> {
        let replaced = std::mem::replace(&mut self.id, SessionId(random_bytes(&*repository.random)));
        let started_at = repository.clock.now_ns();
        let mut watched = Watched::default();
        let mut regions = BTreeMap::new();
        for (at, old) in std::mem::take(&mut self.regions) {
            let handle = &repository.regions[at];
            if !old.is_fenced(&replaced) && !old.committed {
                self.replaced.entry(replaced).or_default().insert(at);
            }
            let mut adopts: BTreeSet<SessionId> = old.state.adopts.into_iter().collect();
            adopts.insert(replaced);
            let state = first_state(handle, self.id, started_at, adopts, old.state.bases);
            match SessionRegion::begin(repository, handle, state) {
                Ok(begun) => drop(regions.insert(at, begun)),
                Err(error) => watched.failed.push((at, error)),
            }
        }
        self.regions = regions;
        let looked = self.watch(repository, reliance)?;
        watched.failed.extend(looked.failed);
        Ok(Watched { failed: watched.failed, ..looked })
    }

    /// Relies on the packs of more sessions: puts a state that adopts them, in every region that takes part.
    ///
    /// # Errors
    /// When a state can't be put, or names more sessions than it may.
    pub fn adopt(
        &mut self,
        repository: &Repository,
        sessions: impl IntoIterator<Item = SessionId>,
    ) -> Result<(), RepoError> {
        let sessions: BTreeSet<SessionId> = sessions.into_iter().collect();
        for (at, region) in &mut self.regions {
            let adopts: BTreeSet<SessionId> = region.state.adopts.iter().chain(&sessions).copied().collect();
            if adopts.len() == region.state.adopts.len() {
                continue;
            }
            region.state.adopts = adopts.into_iter().collect();
            region.state.number += 1;
            put_state(repository, &repository.regions[*at], &region.state)?;
        }
        Ok(())
    }

    /// True when a commit of this session was put in a region, or may have been.
    pub fn tried_commit(&self, at: usize) -> bool {
        self.regions.get(&at).is_some_and(|region| region.committed)
    }

    /// Names no base any more, where one was named and may not be relied on: a collector would look for what
    /// is gone. A region that can't be told hears of it with its next state.
    pub fn drop_bases(&mut self, repository: &Repository) {
        for (at, region) in &mut self.regions {
            if std::mem::take(&mut region.state.bases).is_empty() {
                continue;
            }
            region.state.number += 1;
            if let Err(error) = put_state(repository, &repository.regions[*at], &region.state) {
                tracing::warn!(%error, "a session's state without its base was not written");
            }
        }
    }

    /// Says in one region that it holds the snapshot whole. Packs, segments and the snapshot itself
    /// are there already; the log is listed again **after** the commit, so that a fence is noticed
    /// (`ORDER-5`).
    ///
    /// # Errors
    /// [`RepoError::Fenced`] when a collector fenced the session, [`crate::crypto::CryptoError::Revoked`] when this slot was
    /// revoked during the run; then the snapshot doesn't count there.
    pub fn commit(&mut self, repository: &Repository, at: usize, snapshot: SnapshotId) -> Result<(), RepoError> {
        let handle = &repository.regions[at];
        let Some(region) = self.regions.get_mut(&at) else {
            // It left the run: without a session a commit would be fenced.
            return Err(RepoError::Fenced { region: handle.name.clone() });
        };
        let observed = region.state.observed;
        let commit = Commit { session: self.id, region: handle.info.region, snapshot, observed };
        let signer = repository.signer();
        let (bytes, digest) = build_signed(ObjectKind::Commit, repository.config.repository, &signer, &commit.encode());
        // Tried is enough: a put whose acknowledgement was lost stands.
        region.committed = true;
        let name = commit_name(self.id);
        put_with_retries(&*handle.store, &name, &bytes.into()).map_err(|e| handle.error(e))?;
        region.list(repository, handle)?;
        repository.require_accepted(handle, &name, &[digest, Digest(snapshot.0)])?;
        match region.is_fenced(&self.id) {
            true => Err(RepoError::Fenced { region: handle.name.clone() }),
            false => Ok(()),
        }
    }

    /// Ends a session that saved nothing, so that nobody waits for it. What it shipped is unprotected
    /// then, so a session that may be resumed is left open.
    pub fn end(&self, repository: &Repository) {
        self.regions.keys().for_each(|at| end(repository, *at, self.id));
        self.finish(repository, &self.regions.keys().copied().collect());
    }

    /// Ends what the session took the place of in these regions, in which its commit holds: nothing there
    /// needs their protection any more.
    pub fn finish(&self, repository: &Repository, committed: &BTreeSet<usize>) {
        for (session, regions) in &self.replaced {
            regions.intersection(committed).for_each(|at| end(repository, *at, *session));
        }
    }
}

fn end(repository: &Repository, at: usize, session: SessionId) {
    let region = &repository.regions[at];
    let end = SessionEnd { session, region: region.info.region };
    let signer = repository.signer();
    let (bytes, _) = build_signed(ObjectKind::SessionEnd, repository.config.repository, &signer, &end.encode());
    if let Err(error) = region.store.put_new(&format!("sessions/{session}/end"), &bytes.into()) {
        // An open session of nobody is ended by a fence later; nothing is lost.
        tracing::warn!(%error, "the session's end was not written");
    }
}

/// A region whose keys can't be levelled takes no part, and keeps no other from taking part.
fn kept_out(region: &RegionHandle, error: RepoError) -> RepoError {
    if matches!(error, RepoError::Store { .. }) {
        return error;
    }
    let (address, kind) = (region.store.address(), StoreErrorKind::Other);
    region.error(StoreError::new(kind, "level the keys of", address, "", error.to_string()))
}

fn first_state(
    region: &RegionHandle,
    session: SessionId,
    started_at: i64,
    adopts: BTreeSet<SessionId>,
    bases: Vec<SnapshotId>,
) -> SessionState {
    SessionState {
        session,
        number: 0,
        region: region.info.region,
        observed: 0,
        needs: Vec::new(),
        adopts: adopts.into_iter().take(LISTED_MAX).collect(),
        started_at,
        bases,
    }
}

impl SessionRegion {
    fn new(state: SessionState, log: GcLog) -> Self {
        SessionRegion { state, found: log.newest, log, unsettled: false, news: true, committed: false }
    }

    /// The session's first state, **then** the log (`ORDER-2`). A collector that condemns later sees an
    /// open session.
    fn begin(repository: &Repository, region: &RegionHandle, state: SessionState) -> Result<Self, RepoError> {
        put_state(repository, region, &state)?;
        let log = gclog::read(repository, region)?;
        Ok(SessionRegion::new(state, log))
    }

    /// As [`SessionRegion::begin`], then the state that says what was observed (`ORDER-3`).
    fn open(repository: &Repository, region: &RegionHandle, state: SessionState) -> Result<Self, RepoError> {
        let mut begun = Self::begin(repository, region, state)?;
        if begun.log.newest > 0 {
            begun.observe(repository, region, &BTreeSet::new())?;
        }
        Ok(begun)
    }

    /// Says that the newest generation was observed, and which of its packs are needed. Gives those for
    /// which it comes too late: the fence is there already.
    fn observe(
        &mut self,
        repository: &Repository,
        region: &RegionHandle,
        relied: &BTreeSet<PackId>,
    ) -> Result<Vec<PackId>, RepoError> {
        let open = self.log.open.as_ref();
        let needs = open.map_or_else(Vec::new, |open| relied.intersection(&open.condemned).copied().collect());
        let late = open.is_some_and(|open| open.fence.is_some());
        // A number is used once, also when nobody knows whether its put landed.
        self.state.number += 1;
        // Until its final is there, the needs of a generation stay in every later state; the final of
        // the one before is there by now.
        let state = SessionState { observed: self.log.newest, needs, ..self.state.clone() };
        put_state(repository, region, &state)?;
        self.state = state;
        self.unsettled = true;
        Ok(if late { self.state.needs.clone() } else { Vec::new() })
    }

    fn list(&mut self, repository: &Repository, region: &RegionHandle) -> Result<(), RepoError> {
        self.news |= gclog::update(repository, region, &mut self.log)?;
        Ok(())
    }

    fn is_fenced(&self, session: &SessionId) -> bool {
        self.log.is_dead_session(session) || self.log.is_doubtful_session(session)
    }
}

/// The object's name of a commit.
pub fn commit_name(session: SessionId) -> String {
    format!("commits/{session}")
}

fn state_name(session: SessionId, number: u64) -> String {
    format!("sessions/{session}/{}", number_name(number))
}

fn put_state(repository: &Repository, region: &RegionHandle, state: &SessionState) -> Result<(), RepoError> {
    let signer = repository.signer();
    let (bytes, _) = build_signed(ObjectKind::Session, repository.config.repository, &signer, &state.encode());
    let name = state_name(state.session, state.number);
    put_with_retries(&*region.store, &name, &bytes.into()).map_err(|e| region.error(e))
}

/// Sessions of this slot that have neither a commit nor an end in a region, and what they adopt.
fn left_open(repository: &Repository, region: &RegionHandle) -> Result<BTreeSet<SessionId>, RepoError> {
    let mut newest: BTreeMap<SessionId, Option<u64>> = BTreeMap::new();
    for listed in list_sorted(&*region.store, "sessions/").map_err(|e| region.error(e))? {
        let parts = listed.name.strip_prefix("sessions/").and_then(|name| name.split_once('/'));
        let Some((Some(session), part)) = parts.map(|(sid, part)| (SessionId::from_hex(sid), part)) else { continue };
        match (number_from_name(part), newest.entry(session).or_insert(Some(0))) {
            (Some(number), Some(known)) => *known = number.max(*known),
            (None, known) if part == "end" => *known = None,
            _ => {}
        }
    }
    newest.retain(|_, number| number.is_some());
    if newest.is_empty() {
        return Ok(BTreeSet::new());
    }
    for listed in list_sorted(&*region.store, "commits/").map_err(|e| region.error(e))? {
        if let Some(session) = listed.name.strip_prefix("commits/").and_then(SessionId::from_hex) {
            newest.remove(&session);
        }
    }
    let mut adopted = BTreeSet::new();
    for (session, number) in newest.into_iter().take(ADOPTED_READ_MAX) {
        let name = state_name(session, number.unwrap_or(0));
        match read_own_state(repository, region, &name, session) {
            Ok(Some(state)) => {
                adopted.insert(session);
                adopted.extend(state.adopts);
            }
            Ok(None) => {}
            // Not to adopt costs protection that the look-ups and the needs give as well.
            Err(error) => tracing::warn!(%error, "an open session can't be read and is not adopted"),
        }
    }
    Ok(adopted)
}

/// A session's state; `None` when another slot signed it.
fn read_own_state(
    repository: &Repository,
    region: &RegionHandle,
    name: &str,
    session: SessionId,
) -> Result<Option<SessionState>, RepoError> {
    let bytes = region.get(name)?;
    let broken = |source| region.object_error(name, source);
    let signed = object::decode(ObjectKind::Session, repository.config.repository, &bytes).map_err(broken)?;
    if signed.envelope.signer != repository.secrets.slot {
        return Ok(None);
    }
    repository.verify_slot(&signed, &WRITERS).map_err(|source| region.crypto_error(name, source))?;
    let state = SessionState::decode(signed.envelope.payload).map_err(broken)?;
    match state.session == session && state.region == region.info.region {
        true => Ok(Some(state)),
        false => Err(broken(DecodeError::new("COUNT-3", "it speaks for another region or session"))),
    }
}

//! A writer's session over the regions of a run, and the commit that ends it.
//! Page: `format-spec/sessions.md`; the order of the steps is `ORDER-1` to `ORDER-5` there.

use super::RepoError;
use super::gclog;
use super::open::{RegionHandle, Repository};
use crate::crypto::object::build_signed;
use crate::env::random_bytes;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{PackId, SessionId, SnapshotId, number_name};
use crate::format::session::{Commit, Session as SessionState, SessionEnd};
use crate::ship::put_with_retries;
use crate::store::StoreError;
use std::collections::{BTreeMap, HashSet};

/// One writer's attempt at one snapshot; the same id in every region of the run.
pub struct Session {
    /// Its id, also in the header of its packs.
    pub id: SessionId,
    /// By index into the repository's regions.
    regions: BTreeMap<usize, SessionRegion>,
    /// Regions that could not be written, by index into the repository's: they take no part.
    pub failed: Vec<(usize, StoreError)>,
}

#[derive(Default)]
struct SessionRegion {
    observed: u64,
    missing: HashSet<PackId>,
}

impl Session {
    /// Opens a session in every reached region. One whose store fails, full or gone since it was
    /// reached, takes no part, and the others go on without it.
    ///
    /// # Errors
    /// When no region can be written, or one's log is damaged.
    pub fn open(repository: &Repository) -> Result<Self, RepoError> {
        Self::open_among(repository, 0..repository.regions.len())
    }

    /// As [`Session::open`], in one region only.
    ///
    /// # Errors
    /// When it can't be written or its log can't be read.
    pub fn open_in(repository: &Repository, at: usize) -> Result<Self, RepoError> {
        Self::open_among(repository, at..at + 1)
    }

    fn open_among(repository: &Repository, among: std::ops::Range<usize>) -> Result<Self, RepoError> {
        let id = SessionId(random_bytes(&*repository.random));
        let started_at = repository.clock.now_ns();
        let (mut regions, mut failed) = (BTreeMap::new(), Vec::new());
        for at in among {
            // What is sealed under an epoch that the region's own roster doesn't state couldn't be read there.
            let opened = repository
                .level_keys(at)
                .and_then(|_| SessionRegion::open(repository, &repository.regions[at], id, started_at));
            match opened {
                Ok(opened) => drop(regions.insert(at, opened)),
                Err(RepoError::Store { source, .. }) => failed.push((at, source)),
                Err(error) => return Err(error),
            }
        }
        if regions.is_empty() {
            let named = failed.into_iter().map(|(at, error)| (repository.regions[at].name.clone(), error));
            return Err(RepoError::Unreachable(named.collect()));
        }
        Ok(Session { id, regions, failed })
    }

    /// As [`Session::open`], writing nothing: for a dry run.
    ///
    /// # Errors
    /// When a region's log can't be read.
    pub fn rehearse(repository: &Repository) -> Result<Self, RepoError> {
        let mut regions = BTreeMap::new();
        for (at, region) in repository.regions.iter().enumerate() {
            let log = gclog::read(repository, region)?;
            regions.insert(at, SessionRegion { observed: log.newest, missing: log.missing() });
        }
        Ok(Session { id: SessionId(random_bytes(&*repository.random)), regions, failed: Vec::new() })
    }

    /// Packs that may not be relied on in any region of the run.
    pub fn missing(&self) -> HashSet<PackId> {
        self.regions.values().flat_map(|region| region.missing.iter().copied()).collect()
    }

    /// Says in one region that it holds the snapshot whole. Packs, segments and the snapshot itself
    /// are there already; the log is read again **after** the commit, so that a fence is noticed.
    ///
    /// # Errors
    /// [`RepoError::Fenced`] when a collector fenced the session; then the snapshot doesn't count there.
    pub fn commit(&self, repository: &Repository, at: usize, snapshot: SnapshotId) -> Result<(), RepoError> {
        let region = &repository.regions[at];
        let commit = Commit {
            session: self.id,
            region: region.info.region,
            snapshot,
            observed: self.regions.get(&at).map_or(0, |region| region.observed),
        };
        let signer = repository.signer();
        let (bytes, _) = build_signed(ObjectKind::Commit, repository.config.repository, &signer, &commit.encode());
        put_with_retries(&*region.store, &commit_name(self.id), &bytes.into()).map_err(|e| region.error(e))?;
        let log = gclog::read(repository, region)?;
        match log.is_dead_session(&self.id) || log.is_doubtful_session(&self.id) {
            true => Err(RepoError::Fenced { region: region.name.clone() }),
            false => Ok(()),
        }
    }

    /// Ends a session that saved nothing, so that nobody waits for it. What it shipped is unprotected
    /// then, so a session that may be resumed is left open.
    pub fn end(&self, repository: &Repository) {
        for at in self.regions.keys() {
            let region = &repository.regions[*at];
            let end = SessionEnd { session: self.id, region: region.info.region };
            let signer = repository.signer();
            let (bytes, _) = build_signed(ObjectKind::SessionEnd, repository.config.repository, &signer, &end.encode());
            if let Err(error) = region.store.put_new(&format!("sessions/{}/end", self.id), &bytes.into()) {
                // An open session of nobody is ended by a fence later; nothing is lost.
                tracing::warn!(%error, "the session's end was not written");
            }
        }
    }
}

impl SessionRegion {
    /// The session's first state, **then** the log, then the state that says what was observed. A
    /// collector that condemns later sees an open session.
    fn open(
        repository: &Repository,
        region: &RegionHandle,
        session: SessionId,
        started_at: i64,
    ) -> Result<Self, RepoError> {
        let mut state = SessionState {
            session,
            number: 0,
            region: region.info.region,
            observed: 0,
            needs: Vec::new(),
            adopts: Vec::new(),
            started_at,
            bases: Vec::new(),
        };
        put_state(repository, region, &state)?;
        let log = gclog::read(repository, region)?;
        if log.newest > 0 {
            state.number = 1;
            state.observed = log.newest;
            put_state(repository, region, &state)?;
        }
        Ok(SessionRegion { observed: log.newest, missing: log.missing() })
    }
}

/// The object's name of a commit.
pub fn commit_name(session: SessionId) -> String {
    format!("commits/{session}")
}

fn put_state(repository: &Repository, region: &RegionHandle, state: &SessionState) -> Result<(), RepoError> {
    let name = format!("sessions/{}/{}", state.session, number_name(state.number));
    let signer = repository.signer();
    let (bytes, _) = build_signed(ObjectKind::Session, repository.config.repository, &signer, &state.encode());
    put_with_retries(&*region.store, &name, &bytes.into()).map_err(|e| region.error(e))
}

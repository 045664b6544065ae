//! Looks at the regions' collection logs while a backup runs, and says whether what it relies on holds.
//!
//! Guarantees: at least once an interval of the clock, and before each commit, a new condemn is observed
//! in the order that `ORDER-4` asks for; a session that a fence names is replaced at once by one that
//! adopts it; what is lost is remembered until it was stored again. Called by the pipeline and by the
//! end of a run. Page: `format-spec/sessions.md`.

use super::BackupError;
use super::usable::UsablePacks;
use crate::repo::session::Watched;
use crate::repo::{RepoError, Repository, Session, SnapshotInfo};
use crate::report::Monitor;
use crate::ship::Shipper;
use crate::store::{StoreError, StoreErrorKind};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Sessions that one look may replace: each needs another fence that a collector put meanwhile.
const REPLACED_MAX: usize = 4;
/// How often a thread of its own asks the clock: it may jump, and a machine may sleep.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// What to do when something is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// The source can be read again: end the pass.
    Stop,
    /// It can't: go on, and mend afterwards.
    GoOn,
}

/// The watch over one pass through a source.
pub struct Watch<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Told of replaced sessions.
    pub monitor: &'a dyn Monitor,
    /// Regions that fail here take nothing more.
    pub shipper: &'a Shipper,
    /// The session of the run; another one after it was fenced.
    pub session: &'a Mutex<Session>,
    /// What the pass relies on.
    pub usable: &'a UsablePacks<'a>,
    /// The snapshot from which unchanged files are taken over.
    pub base: Option<&'a SnapshotInfo>,
    /// What to do when something is lost.
    pub on_loss: OnLoss,
    /// Set once the pass is to end: whoever reads something long asks it.
    pub stop: AtomicBool,
    /// `None` where nothing is written and so nothing need be watched.
    interval_ns: Option<u64>,
    looked_at: AtomicI64,
    lost: AtomicBool,
    failure: Mutex<Option<BackupError>>,
}

impl<'a> Watch<'a> {
    /// Over a pass that begins now. Without an interval it never looks.
    #[allow(clippy::too_many_arguments, reason = "one call; a struct would only name them twice")]
    pub fn new(
        repository: &'a Repository,
        monitor: &'a dyn Monitor,
        shipper: &'a Shipper,
        session: &'a Mutex<Session>,
        usable: &'a UsablePacks<'a>,
        base: Option<&'a SnapshotInfo>,
        on_loss: OnLoss,
        interval: Option<Duration>,
    ) -> Self {
        Watch {
            repository,
            monitor,
            shipper,
            session,
            usable,
            base,
            on_loss,
            stop: AtomicBool::new(false),
            interval_ns: interval.map(|interval| u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)),
            looked_at: AtomicI64::new(repository.clock.now_ns()),
            lost: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// The session as it is now.
    pub fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once something that the pass relies on is lost.
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Looks at the logs if the interval is over. What goes wrong ends the pass.
    pub fn poll(&self) {
        let Some(interval) = self.interval_ns else { return };
        let now = self.repository.clock.now_ns();
        // A clock that was set back has passed no less time.
        if self.looked_at.load(Ordering::Relaxed).abs_diff(now) < interval || self.stop.load(Ordering::Relaxed) {
            return;
        }
        self.looked_at.store(now, Ordering::Relaxed);
        let failure = match self.look(false) {
            Ok(()) if self.has_lost() && self.on_loss == OnLoss::Stop => {
                overtaken("a collection took what it relied on")
            }
            Ok(()) => return,
            Err(error) => error,
        };
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Why the watch ended the pass.
    pub fn take_failure(&self) -> Option<BackupError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Polls until `ended` is closed.
    pub fn keep_watch(&self, ended: &Receiver<()>) {
        let Some(interval) = self.interval_ns else { return };
        let pause = ASKED_EVERY.min(Duration::from_nanos(interval)).max(Duration::from_millis(10));
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
            self.poll();
        }
    }

    /// Looks at the logs now. A region whose log can't be looked at is asked again next time; at `last`,
    /// before a commit, it takes no part any more.
    ///
    /// # Errors
    /// When the index can't be read, or collections fence one session after the other.
    pub fn look(&self, last: bool) -> Result<(), BackupError> {
        let mut session = self.session();
        session.keep(&self.shipper.alive());
        let mut watched = session.watch(self.repository, self.usable)?;
        for _ in 0..REPLACED_MAX {
            self.settle(&mut session, &mut watched, last);
            if watched.fenced.is_empty() {
                return Ok(());
            }
            self.monitor.notice("a collection fenced this backup's session: it goes on under a new one");
            watched = session.succeed(self.repository, self.usable)?;
            if let Some(base) = self.base
                && !session.holds_base(self.repository, base).unwrap_or(false)
            {
                self.lost.store(true, Ordering::Relaxed);
            }
        }
        self.settle(&mut session, &mut watched, last);
        match watched.fenced.is_empty() {
            true => Ok(()),
            false => Err(overtaken("each new session was fenced at once")),
        }
    }

    fn settle(&self, session: &mut Session, watched: &mut Watched, last: bool) {
        if !watched.lost.is_empty() {
            tracing::info!(packs = watched.lost.len(), "packs that this backup relied on were collected");
            self.lost.store(true, Ordering::Relaxed);
        }
        for (at, error) in watched.failed.drain(..) {
            let source = match error {
                // Asked again next time, unless the region has no session to ask for.
                RepoError::Store { source, .. } if !last && session.regions().any(|taking| taking == at) => {
                    tracing::warn!(error = %source, "a region's collection log could not be looked at");
                    continue;
                }
                RepoError::Store { source, .. } => source,
                // A log that breaks a rule stops writers there (`GC-4`).
                error => {
                    let address = self.repository.regions[at].store.address();
                    StoreError::new(StoreErrorKind::Other, "list", address, "gc/", error.to_string())
                }
            };
            self.shipper.fail(at, source);
        }
        session.keep(&self.shipper.alive());
    }
}

/// The error of a backup that a collection made impossible for now.
pub fn overtaken(detail: &str) -> BackupError {
    BackupError::Overtaken { detail: detail.to_owned() }
}

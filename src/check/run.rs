//! What the parts of a check share: what it works on, and where its findings come together.

use super::{CheckError, ISSUES_LISTED_MAX, Options};
use crate::crypto::CryptoError;
use crate::format::ids::Digest;
use crate::index::{Index, IndexError};
use crate::repo::snapshots::Listing;
use crate::repo::{RepoError, Repository};
use crate::report::{Issue, IssueKind, Monitor};
use crate::timing::{Stage, Timer};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What all parts of a check share.
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: Option<&'a dyn Index>,
    pub(super) options: &'a Options,
    pub(super) findings: &'a Findings<'a>,
    pub(super) listing: &'a Listing,
    /// Listings that owners verified.
    pub(super) attested: &'a HashSet<Digest>,
}

impl Run<'_> {
    /// Threads to use, at least one.
    pub(super) fn threads(&self) -> usize {
        self.options.threads.max(1)
    }
}

/// Collects issues from many threads, each subject and detail once.
pub(super) struct Findings<'a> {
    pub(super) monitor: &'a dyn Monitor,
    pub(super) timer: Timer,
    state: Mutex<Found>,
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) issues: Vec<Issue>,
    seen: HashSet<(Vec<u8>, String)>,
    pub(super) total: u64,
    pub(super) notices: Vec<String>,
    pub(super) differences: Vec<String>,
    failure: Option<CheckError>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(monitor: &'a dyn Monitor) -> Self {
        Findings { monitor, timer: monitor.timer(), state: Mutex::default() }
    }

    pub(super) fn into_found(self) -> Found {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Found> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, issue: Issue) {
        let mut state = self.state();
        if state.issues.len() >= ISSUES_LISTED_MAX {
            state.total += 1;
        } else if state.seen.insert((issue.subject.clone(), issue.detail.clone())) {
            state.total += 1;
            self.monitor.issue(&issue);
            state.issues.push(issue);
        }
    }

    pub(super) fn issue(&self, kind: IssueKind, region: &str, name: &str, detail: impl ToString) {
        self.push(Issue { kind, subject: format!("{region}:{name}").into_bytes(), detail: detail.to_string() });
    }

    pub(super) fn notice(&self, text: String) {
        self.monitor.notice(&text);
        self.state().notices.push(text);
    }

    pub(super) fn difference(&self, text: String) {
        self.state().differences.push(text);
    }

    /// Turns an error about one object into an issue; what concerns the whole store stops the run.
    pub(super) fn note(&self, region: &str, name: &str, error: RepoError) -> Result<(), CheckError> {
        match &error {
            RepoError::Store { source, .. } => match source.kind.issue_kind() {
                Some(kind) => self.issue(kind, region, name, &error),
                None => return Err(error.into()),
            },
            RepoError::Missing { .. } => self.issue(IssueKind::Missing, region, name, &error),
            // No damage: it doesn't count, and nobody expects it to.
            RepoError::Crypto { source: CryptoError::Revoked { .. }, .. }
            | RepoError::Index(IndexError::Refused { .. }) => {}
            RepoError::Object { .. }
            | RepoError::Crypto { .. }
            | RepoError::Key(_)
            | RepoError::Index(IndexError::Segment { .. }) => {
                self.issue(IssueKind::Damaged, region, name, &error);
            }
            _ => return Err(error.into()),
        }
        Ok(())
    }

    /// Runs `work`, timed as `stage`, for 0, 1, … `count` − 1 on up to `threads` threads; the first error stops all.
    pub(super) fn parallel(
        &self,
        stage: Stage,
        threads: usize,
        count: usize,
        work: &(dyn Fn(usize) -> Result<(), CheckError> + Sync),
    ) -> Result<(), CheckError> {
        let next = AtomicUsize::new(0);
        let run = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count || self.state().failure.is_some() {
                    return;
                }
                let outcome = match self.monitor.cancelled() {
                    true => Err(CheckError::Cancelled),
                    false => self.timer.run(stage, || work(at)),
                };
                if let Err(error) = outcome {
                    self.state().failure.get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            // With fewer threads it takes longer; this one always works.
            let started =
                (1..threads.min(count)).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok());
            let others: Vec<_> = started.collect();
            run();
            let ended = self.timer.wait(stage, || others.into_iter().try_for_each(|other| other.join()));
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        self.state().failure.take().map_or(Ok(()), Err)
    }
}

//! The end of one run: the snapshot, then a commit in each region that has everything.

use super::gather::Gathered;
use super::run::Run;
use super::watch::{Watch, overtaken};
use super::{BackupError, BackupSummary, RegionOutcome};
use crate::crypto::CryptoError;
use crate::crypto::object::build_sealed;
use crate::format::envelope::ObjectKind;
use crate::format::ids::SnapshotId;
use crate::format::snapshot::{NotCaptured, NotCapturedList, Snapshot, SnapshotPrivate, SourceKind};
use crate::repo::snapshots::{is_forgotten, is_from_the_future, seal_private, snapshot_name};
use crate::repo::{RepoError, SnapshotInfo};
use crate::report::{Issue, Phase};
use crate::ship::ShipError;
use crate::store::StoreErrorKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

/// How often a commit that a fence made doubtful is tried.
const COMMITS_MAX: u32 = 4;

impl Run<'_> {
    /// Writes the snapshot, then the commit in each region that has everything.
    pub(super) fn conclude(
        &self,
        watch: &Watch<'_>,
        gathered: &Gathered,
        private: &SnapshotPrivate,
        source: SourceKind,
        earlier: &[SnapshotInfo],
    ) -> Result<BackupSummary, BackupError> {
        let (options, shipper) = (self.options, &self.shipper);
        let finished_at = self.repository.clock.now_ns();
        let mut summary = BackupSummary {
            snapshot: None,
            unchanged: false,
            counts: gathered.counts,
            files_new: gathered.files[0],
            files_changed: gathered.files[1],
            files_unmodified: gathered.files[2],
            new_bytes: self.totals.new_bytes.get(),
            new_chunks: self.totals.new_chunks.get(),
            stored_bytes: self.totals.stored_bytes.get(),
            issues: gathered.issues.clone(),
            regions: Vec::new(),
            started_at: self.started_at,
            finished_at,
        };
        if options.dry_run {
            return Ok(summary);
        }
        let last = earlier
            .iter()
            .rev()
            .filter(|info| !is_from_the_future(info, finished_at))
            .find(|info| info.snapshot.dataset == options.dataset && info.snapshot.host == options.host);
        let same = last.filter(|info| info.snapshot.root == gathered.root && !info.snapshot.partial);
        let same = same.filter(|_| options.skip_if_unchanged && summary.counts.issues == 0);
        if let Some(counting) = self.still_counting(watch, same)? {
            self.session().end(self.repository);
            summary.unchanged = true;
            // A region that lacks the last snapshot is as pending as if there were a new one.
            for (at, region) in self.repository.regions.iter().enumerate() {
                summary.regions.push(RegionOutcome {
                    name: region.name.clone(),
                    committed: counting.contains(&at) && shipper.failure(at).is_none(),
                    shipped_bytes: shipper.shipped_bytes(at),
                    failure: shipper.failure(at),
                });
            }
            return Ok(summary);
        }
        // Once more right before the commit: what came since the last look is observed, and needed, in time.
        self.look(watch)?;
        let id = self.save(gathered, private, source, &summary)?;
        self.monitor.phase(Phase::Commit, Some(self.repository.regions.len() as u64), None);
        let mut commit_failures: BTreeMap<usize, (StoreErrorKind, String)> = BTreeMap::new();
        let mut committed = BTreeSet::new();
        for attempt in 1.. {
            commit_failures.clear();
            let mut doubtful = false;
            for at in shipper.alive() {
                match self.session().commit(self.repository, at, id) {
                    Ok(()) => drop(committed.insert(at)),
                    Err(error) => {
                        doubtful |= matches!(error, RepoError::Fenced { .. });
                        let failure = match error {
                            RepoError::Store { source, .. } => (source.kind, source.to_string()),
                            error => (StoreErrorKind::Other, error.to_string()),
                        };
                        commit_failures.insert(at, failure);
                    }
                }
            }
            if !doubtful || attempt == COMMITS_MAX {
                break;
            }
            // In doubt (`ORDER-5`): the look finds the fence, and the commit is repeated, in every region,
            // under the session that takes this one's place.
            self.look(watch)?;
        }
        self.monitor.advance(committed.len() as u64, 0);
        self.session().finish(self.repository, &committed);
        for (at, region) in self.repository.regions.iter().enumerate() {
            summary.regions.push(RegionOutcome {
                name: region.name.clone(),
                committed: committed.contains(&at),
                shipped_bytes: shipper.shipped_bytes(at),
                failure: shipper.failure(at).or_else(|| commit_failures.remove(&at)),
            });
        }
        for (name, error) in &self.repository.unreachable {
            summary.regions.push(RegionOutcome {
                name: name.clone(),
                committed: false,
                shipped_bytes: 0,
                failure: Some((error.kind, error.to_string())),
            });
        }
        if committed.is_empty() {
            let failures = summary.regions.iter().map(|region| {
                let none = || (crate::store::StoreErrorKind::Other, "no commit".to_owned());
                let (kind, why) = region.failure.clone().unwrap_or_else(none);
                (region.name.clone(), kind, why)
            });
            return Err(ShipError::NoRegionLeft(failures.collect()).into());
        }
        summary.snapshot = Some(id);
        Ok(summary)
    }

    /// The regions in which the last snapshot counts still: it may have been forgotten or collected since
    /// it was listed. `None` when there is nothing left of it to point to.
    fn still_counting(
        &self,
        watch: &Watch<'_>,
        last: Option<&SnapshotInfo>,
    ) -> Result<Option<Vec<usize>>, BackupError> {
        let Some(info) = last else { return Ok(None) };
        watch.look(true)?;
        let session = self.session();
        let counting: Vec<usize> = session.regions().filter(|at| session.counts(*at, info)).collect();
        let holds = !counting.is_empty() && !is_forgotten(self.repository, info.id)?;
        Ok(holds.then_some(counting))
    }

    /// Looks at the logs.
    ///
    /// # Errors
    /// [`BackupError::Overtaken`] when something is lost that this pass relied on.
    fn look(&self, watch: &Watch<'_>) -> Result<(), BackupError> {
        watch.look(true)?;
        self.shipper.check()?;
        match watch.has_lost() {
            true => Err(overtaken("it took what the snapshot needs")),
            false => Ok(()),
        }
    }

    /// Puts the snapshot into every region, unless an earlier pass put one that says the same.
    fn save(
        &self,
        gathered: &Gathered,
        private: &SnapshotPrivate,
        source: SourceKind,
        summary: &BackupSummary,
    ) -> Result<SnapshotId, BackupError> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((root, counts, id)) = *saved
            && (root, counts) == (gathered.root, summary.counts)
        {
            return Ok(id);
        }
        let options = self.options;
        let private = SnapshotPrivate {
            omitted: gathered.omitted.clone(),
            issues: listed_issues(&summary.issues),
            ..private.clone()
        };
        let snapshot = Snapshot {
            dataset: options.dataset.clone(),
            host: options.host.clone(),
            started_at: self.started_at,
            finished_at: summary.finished_at,
            tags: options.tags.iter().cloned().collect(),
            source,
            root: gathered.root,
            counts: summary.counts,
            partial: summary.counts.issues > 0,
            chunk_average_bytes: options.chunk_average as u64,
            program: concat!("keepstone ", env!("CARGO_PKG_VERSION")).to_owned(),
            private: seal_private(self.repository, &private)?,
        };
        let (bytes, digest) = build_sealed(
            ObjectKind::Snapshot,
            &self.repository.keyring,
            &self.repository.signer(),
            readable(&snapshot)?,
            &*self.repository.random,
        )?;
        let id = SnapshotId(digest.0);
        self.shipper.ship_after(&[], &snapshot_name(&id), &bytes.into())?;
        *saved = Some((gathered.root, summary.counts, id));
        Ok(id)
    }
}

/// The snapshot's bytes, if every reader takes them: one that nobody can read may never be committed.
fn readable(snapshot: &Snapshot) -> Result<Vec<u8>, CryptoError> {
    let bytes = snapshot.encode();
    Snapshot::decode(&bytes)?;
    Ok(bytes)
}

fn listed_issues(issues: &[Issue]) -> Vec<NotCaptured> {
    let mut list = NotCapturedList::default();
    issues.iter().map(not_captured).for_each(|issue| list.push(issue));
    list.into_listed()
}

fn not_captured(issue: &Issue) -> NotCaptured {
    NotCaptured {
        path: issue.subject.clone(),
        why: issue.kind.name().to_owned(),
        detail: issue.detail.chars().take(1000).collect(),
    }
}

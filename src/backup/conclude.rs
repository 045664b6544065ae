//! The end of one run: the snapshot, then a commit in each region that has everything.

use super::gather::Gathered;
use super::run::Run;
use super::{BackupError, BackupSummary, RegionOutcome};
use crate::format::envelope::ObjectKind;
use crate::format::ids::SnapshotId;
use crate::format::snapshot::{NotCaptured, Snapshot, SnapshotPrivate, SourceKind};
use crate::limits::NOT_CAPTURED_LISTED_MAX;
use crate::repo::SnapshotInfo;
use crate::repo::snapshots::{seal_private, snapshot_name};
use crate::report::{Issue, Phase};
use crate::ship::Shipper;
use std::collections::{BTreeMap, BTreeSet};

impl Run<'_> {
    /// Writes the snapshot, then the commit in each region that has everything.
    pub(super) fn conclude(
        &self,
        (gathered, shipper, stored_bytes, new_bytes, new_chunks): (Gathered, Shipper, u64, u64, u64),
        mut private: SnapshotPrivate,
        source: SourceKind,
        earlier: &[SnapshotInfo],
    ) -> Result<BackupSummary, BackupError> {
        let options = self.options;
        let finished_at = self.repository.clock.now_ns();
        let mut summary = BackupSummary {
            snapshot: None,
            unchanged: false,
            counts: gathered.counts,
            files_new: gathered.files[0],
            files_changed: gathered.files[1],
            files_unmodified: gathered.files[2],
            new_bytes,
            new_chunks,
            stored_bytes,
            issues: gathered.issues,
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
            .find(|info| info.snapshot.dataset == options.dataset && info.snapshot.host == options.host);
        let same = last.filter(|info| info.snapshot.root == gathered.root && !info.snapshot.partial);
        if let Some(info) = same.filter(|_| options.skip_if_unchanged && summary.counts.issues == 0) {
            self.session.end(self.repository);
            summary.unchanged = true;
            // A region that lacks the last snapshot is as pending as if there were a new one.
            for (at, region) in self.repository.regions.iter().enumerate() {
                summary.regions.push(RegionOutcome {
                    name: region.name.clone(),
                    committed: info.regions.contains(&at) && shipper.failure(at).is_none(),
                    shipped_bytes: shipper.shipped_bytes(at),
                    failure: shipper.failure(at),
                });
            }
            return Ok(summary);
        }
        private.omitted = gathered.omitted;
        private.issues = summary.issues.iter().take(NOT_CAPTURED_LISTED_MAX).map(not_captured).collect();
        let snapshot = Snapshot {
            dataset: options.dataset.clone(),
            host: options.host.clone(),
            started_at: self.started_at,
            finished_at,
            tags: options.tags.iter().cloned().collect(),
            source,
            root: gathered.root,
            counts: summary.counts,
            partial: summary.counts.issues > 0,
            chunk_average_bytes: options.chunk_average as u64,
            program: concat!("keepstone ", env!("CARGO_PKG_VERSION")).to_owned(),
            private: seal_private(self.repository, &private)?,
        };
        let (bytes, digest) = crate::crypto::object::build_sealed(
            ObjectKind::Snapshot,
            &self.repository.keyring,
            &self.repository.signer(),
            snapshot.encode(),
            &*self.repository.random,
        )?;
        let id = SnapshotId(digest.0);
        self.monitor.phase(Phase::Commit, Some(self.repository.regions.len() as u64), None);
        shipper.ship_after(&[], &snapshot_name(&id), &bytes.into())?;
        let mut commit_failures: BTreeMap<usize, (crate::store::StoreErrorKind, String)> = BTreeMap::new();
        let mut committed = BTreeSet::new();
        for at in shipper.alive() {
            match self.session.commit(self.repository, at, id) {
                Ok(()) => drop(committed.insert(at)),
                Err(crate::repo::RepoError::Store { source, .. }) => {
                    commit_failures.insert(at, (source.kind, source.to_string()));
                }
                Err(error) => {
                    commit_failures.insert(at, (crate::store::StoreErrorKind::Other, error.to_string()));
                }
            }
            self.monitor.advance(1, 0);
        }
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
            return Err(crate::ship::ShipError::NoRegionLeft(failures.collect()).into());
        }
        summary.snapshot = Some(id);
        Ok(summary)
    }
}

fn not_captured(issue: &Issue) -> NotCaptured {
    NotCaptured {
        path: issue.subject.clone(),
        why: issue.kind.name().to_owned(),
        detail: issue.detail.chars().take(1000).collect(),
    }
}

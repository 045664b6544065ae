//! What a retention policy knows of a repository: its snapshots, and when collections saw them.
//! Page: `format-spec/retention.md`.

use super::open::{DECIDERS, Repository};
use super::snapshots::SnapshotInfo;
use super::{RepoError, audit, gclog};
use crate::format::audit::Action;
use crate::format::ids::RegionId;
use crate::format::roster::SlotState;
use crate::policy::{Candidate, Log};
use std::collections::BTreeMap;

/// The figure of a `gc-final` entry that names the generation.
pub const GENERATION: &str = "generation";

/// Candidates and logs for [`crate::policy::plan`]; logs are in the order of the repository's regions.
///
/// # Errors
/// When a region's log or the audit chains can't be read.
pub fn known(repository: &Repository, snapshots: &[SnapshotInfo]) -> Result<(Vec<Candidate>, Vec<Log>), RepoError> {
    let now = repository.clock.now_ns();
    let mut read = Vec::new();
    for region in &repository.regions {
        read.push(gclog::read(repository, region)?);
    }
    // A generation without a final has seen nothing yet.
    let finals = |log: &gclog::GcLog| log.open.as_ref().map_or(log.newest, |open| open.number.saturating_sub(1));
    let mut logs: Vec<Log> = read.iter().map(|log| Log { newest: finals(log), ended_at: BTreeMap::new() }).collect();
    if logs.iter().any(|log| log.newest > 0) {
        for ((region, generation), ended_at) in ended(repository)? {
            let at = repository.regions.iter().position(|known| known.info.region == region);
            if let Some(log) = at.map(|at| &mut logs[at]).filter(|log| generation <= log.newest) {
                log.ended_at.insert(generation, ended_at);
            }
        }
    }
    let candidates = snapshots.iter().map(|info| Candidate {
        id: info.id,
        dataset: info.snapshot.dataset.clone(),
        host: info.snapshot.host.clone(),
        slot: info.slot,
        tags: info.tags.iter().cloned().collect(),
        started_at: info.snapshot.started_at,
        finished_at: info.snapshot.finished_at,
        files: info.snapshot.counts.files,
        bytes: info.snapshot.counts.bytes,
        partial: info.snapshot.partial,
        regions: info.regions.len(),
        held: info.hold(now).is_some(),
        considered: true,
        seen: info.regions.iter().map(|at| (*at, read[*at].first_seen.get(&info.id).copied())).collect(),
    });
    Ok((candidates.collect(), logs))
}

/// When generations ended, as the audit chains of slots that may collect say. Of several entries (a generation
/// that one process left to another) the last.
fn ended(repository: &Repository) -> Result<BTreeMap<(RegionId, u64), i64>, RepoError> {
    let mut ended: BTreeMap<(RegionId, u64), i64> = BTreeMap::new();
    for recorded in audit::read(repository)?.timeline {
        let entry = &recorded.entry;
        // A writer records what it likes in its own chain: it may not collect, so that says nothing.
        let may = repository
            .roster
            .slot(entry.slot)
            .is_some_and(|slot| DECIDERS.contains(&slot.role) && slot.state != SlotState::Revoked);
        if entry.action != Action::GcFinal || !may {
            continue;
        }
        let region = entry.subjects.first().and_then(|subject| <[u8; 16]>::try_from(subject.as_slice()).ok());
        let generation = entry.figures.iter().find(|(name, _)| name == GENERATION).map(|(_, value)| *value);
        if let (Some(region), Some(generation)) = (region, generation) {
            let at = ended.entry((RegionId(region), generation)).or_insert(entry.recorded_at);
            *at = entry.recorded_at.max(*at);
        }
    }
    Ok(ended)
}

//! Brings regions up to one another: what one lists and another lacks is copied, as stored.
//!
//! Guarantees: in the receiving region packs go before their segment, segments before the snapshot,
//! the snapshot before its commit (`ORDER-1` to `ORDER-4`); every byte copied is compared with its
//! name first; what can't be copied leaves the snapshot pending there and is said. Page:
//! `format-spec/sessions.md`, "Regions".

use crate::crypto::object::check_digest;
use crate::format::ids::{PackId, SegmentId};
use crate::index::segment::segment_name;
use crate::limits::{PACK_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::pack::reader::pack_name;
use crate::repo::open::RegionHandle;
use crate::repo::snapshots::{SnapshotInfo, read_snapshot, snapshot_name};
use crate::repo::sync::{list_segments, read_segment};
use crate::repo::{RepoError, Repository, Session};
use crate::report::{Issue, IssueKind, Monitor};
use crate::ship::put_with_retries;
use crate::store::{StoreError, StoreErrorKind};
use std::collections::{BTreeSet, HashSet};

/// What was copied, and what could not be.
#[derive(Debug, Default)]
pub struct Replicated {
    /// Packs copied.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments copied.
    pub segments: u64,
    /// Commits written: snapshots that count in one region more.
    pub commits: u64,
    /// What stays behind, and why.
    pub issues: Vec<Issue>,
}

/// Copies what any reached region has and another lacks; then commits there each snapshot of `counted`
/// that is whole.
///
/// # Errors
/// When a region can't be listed, or the user stops it. What single objects say becomes an issue.
pub fn replicate(
    repository: &Repository,
    counted: &[SnapshotInfo],
    monitor: &dyn Monitor,
) -> Result<Replicated, RepoError> {
    let mut done = Replicated::default();
    for (at, region) in repository.regions.iter().enumerate() {
        // A change of keys that did not reach it; what goes on here doesn't depend on it.
        if let Err(error) = repository.level_keys(at) {
            note(&mut done, monitor, format!("{}:roster/", region.name).into_bytes(), &error);
        }
    }
    let mut listed: Vec<HashSet<SegmentId>> = Vec::new();
    for region in &repository.regions {
        listed.push(list_segments(region)?);
    }
    let all: BTreeSet<SegmentId> = listed.iter().flatten().copied().collect();
    for (at, to) in repository.regions.iter().enumerate() {
        let lacking: Vec<SegmentId> = all.iter().filter(|id| !listed[at].contains(id)).copied().collect();
        // What a region's server doesn't take is no lack of it.
        let taken = |info: &&SnapshotInfo| to.store.only_dataset().is_none_or(|only| only == info.snapshot.dataset);
        let pending: Vec<&SnapshotInfo> =
            counted.iter().filter(|info| !info.regions.contains(&at)).filter(taken).collect();
        if lacking.is_empty() && pending.is_empty() {
            continue;
        }
        monitor.notice(&format!(
            "region '{}' lacks {} segments and {} commits that other regions have: they are copied",
            to.name,
            lacking.len(),
            pending.len()
        ));
        let session = match Session::open_in(repository, at) {
            Ok(session) => session,
            Err(error) => {
                // The region can't be written now: it stays behind, and the others go on.
                note(&mut done, monitor, to.name.clone().into_bytes(), &error);
                continue;
            }
        };
        let dead = session.missing();
        let mut whole = true;
        for id in lacking {
            let sources = (0..listed.len()).filter(|from| *from != at && listed[*from].contains(&id));
            let sources: Vec<&RegionHandle> = sources.map(|from| &repository.regions[from]).collect();
            if let Err(error) = copy_segment(repository, &sources, to, id, &dead, &mut done) {
                whole = false;
                let subject = format!("{}:{}", to.name, segment_name(&id)).into_bytes();
                note(&mut done, monitor, subject, &error);
            }
        }
        session.end(repository);
        // With every segment of every region in place, whatever counts elsewhere is whole here.
        for info in pending.iter().filter(|_| whole) {
            match copy_commit(repository, to, at, info) {
                Ok(()) => done.commits += 1,
                Err(error) => {
                    let subject = format!("{}:{}", to.name, snapshot_name(&info.id)).into_bytes();
                    note(&mut done, monitor, subject, &error);
                }
            }
        }
    }
    Ok(done)
}

fn note(done: &mut Replicated, monitor: &dyn Monitor, subject: Vec<u8>, error: &RepoError) {
    let issue = Issue { kind: IssueKind::Missing, subject, detail: error.to_string() };
    monitor.issue(&issue);
    done.issues.push(issue);
}

/// Copies a segment after the packs that it lists.
fn copy_segment(
    repository: &Repository,
    sources: &[&RegionHandle],
    to: &RegionHandle,
    id: SegmentId,
    dead: &HashSet<PackId>,
    done: &mut Replicated,
) -> Result<(), RepoError> {
    let mut last = None;
    for from in sources {
        let opened = match read_segment(repository, from, id) {
            Ok(opened) => opened,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        for pack in &opened.segment.packs {
            if dead.contains(&pack.pack) {
                // A name that was condemned or deleted here is never written again.
                return Err(RepoError::Keys(format!("pack {} was collected in this region", pack.pack)));
            }
            if to.store.size(&pack_name(&pack.pack)).map_err(|e| to.error(e))? == Some(pack.size) {
                continue;
            }
            copy_pack(sources, to, pack.pack)?;
            done.packs += 1;
            done.bytes += pack.size;
        }
        let name = segment_name(&id);
        let bytes = from.store.get(&name, SEGMENT_BYTES_MAX as u64).map_err(|e| from.error(e))?;
        check_digest(&bytes).map_err(|source| from.object_error(&name, source))?;
        put_with_retries(&*to.store, &name, &bytes.into()).map_err(|e| to.error(e))?;
        done.segments += 1;
        return Ok(());
    }
    Err(last.unwrap_or_else(|| RepoError::Missing { region: to.name.clone(), name: segment_name(&id) }))
}

/// Copies a pack from the first region whose copy is whole.
fn copy_pack(sources: &[&RegionHandle], to: &RegionHandle, pack: PackId) -> Result<(), RepoError> {
    let name = pack_name(&pack);
    let mut last = None;
    for from in sources {
        let whole = from.store.get(&name, PACK_BYTES_MAX).map_err(|e| from.error(e)).and_then(|bytes| {
            let digest = check_digest(&bytes).map_err(|source| from.object_error(&name, source))?;
            match digest.0 == pack.0 {
                true => Ok(bytes),
                false => Err(from.error(misnamed(from, &name))),
            }
        });
        match whole {
            Ok(bytes) => return put_with_retries(&*to.store, &name, &bytes.into()).map_err(|e| to.error(e)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| RepoError::Missing { region: to.name.clone(), name }))
}

fn misnamed(region: &RegionHandle, name: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::Other,
        "get",
        region.store.address(),
        name,
        "OBJ-10: its bytes are another object's".to_owned(),
    )
}

/// Copies a snapshot's manifest and commits it under a session of its own.
fn copy_commit(repository: &Repository, to: &RegionHandle, at: usize, info: &SnapshotInfo) -> Result<(), RepoError> {
    let name = snapshot_name(&info.id);
    let mut last = None;
    for from in info.regions.iter().map(|from| &repository.regions[*from]) {
        let read = read_snapshot(repository, from, info.id).and_then(|_| from.get(&name));
        match read {
            Ok(bytes) => {
                let session = Session::open_in(repository, at)?;
                put_with_retries(&*to.store, &name, &bytes.into()).map_err(|e| to.error(e))?;
                return session.commit(repository, at, info.id);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| RepoError::Missing { region: to.name.clone(), name }))
}

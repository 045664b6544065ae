//! Puts back what a region lost and another one has whole, under the name that proves its bytes.

use super::whole::{Copied, Unread, Whole, mend, read_pack};
use super::{Depth, Pending, Relied, Replicated, note_as, note_issue, read_manifest, stop_if_asked, watch};
use crate::format::ids::{PackId, RegionId, SessionId};
use crate::index::Index;
use crate::pack::reader::pack_name;
use crate::repo::at_once::at_once;
use crate::repo::open::RegionHandle;
use crate::repo::presence::Lacking;
use crate::repo::snapshots::{SnapshotInfo, read_snapshot, snapshot_name};
use crate::repo::sync::list_packs;
use crate::repo::{RepoError, Repository, Session};
use crate::report::{Issue, IssueKind, Monitor};
use crate::ship::put_with_retries;
use crate::store::{Payload, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What was put back where it was lost.
#[derive(Debug, Default)]
pub struct Healed {
    /// Packs put back.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged copies of them, met on the way, that have their right bytes again.
    pub mended: u64,
    /// What stays lost though another region lists it, and why.
    pub issues: Vec<Issue>,
}

/// Puts packs back that regions lost and that others have whole, under their own names: what a region's segments
/// list is there again, for every snapshot that needs it. A name that was condemned or deleted there stays
/// free; an object of that name that is cut short is given its own bytes. What comes back is taken out of `lacking`.
///
/// # Errors
/// [`RepoError::Cancelled`] when the user stops it, [`RepoError::Index`] when the index can't be read. What single
/// packs and regions say becomes an issue.
pub fn heal(
    repository: &Repository,
    index: &dyn Index,
    lacking: &mut Lacking,
    monitor: &dyn Monitor,
) -> Result<Healed, RepoError> {
    let (mut healed, mut read) = (Healed::default(), Whole::default());
    let mut there: Option<HashSet<PackId>> = None;
    for (at, to) in repository.regions.iter().enumerate() {
        let mut wanted: BTreeMap<(PackId, u64), LostPack> = BTreeMap::new();
        for (ordinal, pack) in lacking.lost(&to.info.region) {
            let entry = index.pack(ordinal)?;
            let has = |region: &RegionId| entry.regions.contains(region) && !lacking.is_lacking(region, ordinal);
            let holders = (0..repository.regions.len()).filter(|other| has(&repository.regions[*other].info.region));
            let lost = wanted.entry((pack.id, entry.size)).or_insert_with(|| LostPack {
                ordinals: Vec::new(),
                copied: Copied::from_entry(&entry, Vec::new()),
                sessions: BTreeSet::new(),
            });
            for holder in holders {
                if !lost.copied.held.contains(&holder) {
                    lost.copied.held.push(holder);
                }
            }
            lost.ordinals.push(ordinal);
            lost.sessions.insert(entry.session);
        }
        let count = wanted.values().filter(|lost| !lost.copied.held.is_empty()).count();
        if count < wanted.len() {
            // Of what is nowhere in its size there may be enough in other sizes.
            let there = match &mut there {
                Some(there) => &*there,
                none => none.insert(in_any_size(repository, &mut healed, monitor)),
            };
            wanted.retain(|(pack, _), lost| !lost.copied.held.is_empty() || there.contains(pack));
        }
        if wanted.is_empty() {
            continue;
        }
        if count > 0 {
            monitor.notice(&format!(
                "region '{}' lost packs that other regions have, {count} in number: they are put back",
                to.name
            ));
        }
        match heal_region(repository, at, &wanted, lacking, &mut healed, &mut read, monitor) {
            Ok(()) => {}
            Err(Pending::Repo(RepoError::Cancelled)) => return Err(RepoError::Cancelled),
            Err(error) => {
                let subject = format!("{}:packs/", to.name).into_bytes();
                note_issue(&mut healed.issues, monitor, subject, &error);
            }
        }
    }
    let mended = mend(repository, &read.take_damaged(), monitor)?;
    healed.mended = mended.healed;
    healed.issues.extend(mended.issues);
    Ok(healed)
}

/// The packs that some region has, be they as they must be or not.
fn in_any_size(repository: &Repository, healed: &mut Healed, monitor: &dyn Monitor) -> HashSet<PackId> {
    let mut there = HashSet::new();
    for region in &repository.regions {
        match list_packs(region) {
            Ok(packs) => there.extend(packs.into_iter().map(|(pack, _)| pack)),
            Err(error) => {
                note_issue(&mut healed.issues, monitor, format!("{}:packs/", region.name).into_bytes(), &error);
            }
        }
    }
    there
}

/// A pack to be put back where it was lost.
struct LostPack {
    /// Its listings in the index.
    ordinals: Vec<u32>,
    /// What one of them states, and the regions that have it.
    copied: Copied,
    /// The sessions that the listings state.
    sessions: BTreeSet<SessionId>,
}

/// As an ordinary writer there: a session that adopts those in the packs' headers keeps a collection from deleting
/// their names meanwhile (`HEAL-1`).
fn heal_region(
    repository: &Repository,
    at: usize,
    wanted: &BTreeMap<(PackId, u64), LostPack>,
    lacking: &mut Lacking,
    healed: &mut Healed,
    read_so_far: &mut Whole,
    monitor: &dyn Monitor,
) -> Result<(), Pending> {
    let to = &repository.regions[at];
    let mut session = Session::open_in(repository, at)?;
    let outcome = (|| {
        session.adopt(repository, wanted.values().flat_map(|lost| lost.sessions.iter().copied()))?;
        let relied = Relied::default();
        watch(repository, &mut session, &relied)?;
        let missing = session.missing();
        for ((pack, size), lost) in wanted {
            stop_if_asked(monitor)?;
            let name = pack_name(pack);
            let subject = || format!("{}:{name}", to.name).into_bytes();
            if missing.contains(pack) {
                // Nothing needs it there, or what does has another copy (`NAME-3`).
                continue;
            }
            let spoiled = |why: &str, healed: &mut Healed| {
                // One that nobody holds in its size is as lost as before, which others tell.
                if !lost.copied.held.is_empty() {
                    let detail = format!("no region has it whole: {why}");
                    note_issue(&mut healed.issues, monitor, subject(), &detail);
                }
            };
            if let Some(why) = read_so_far.why_spoiled(pack) {
                spoiled(why, healed);
                continue;
            }
            let bytes = match read_pack(repository, *pack, &lost.copied, monitor) {
                Ok(read) if read.bytes.len() as u64 == *size => {
                    read_so_far.found_damaged(*pack, &lost.copied, &read.damaged);
                    read.bytes
                }
                Ok(_) => {
                    note_issue(&mut healed.issues, monitor, subject(), &"a segment states another size of it");
                    continue;
                }
                Err(Unread::Region(RepoError::Store { source, .. })) if source.kind == StoreErrorKind::Denied => {
                    return Err(Pending::Unreadable);
                }
                Err(Unread::Region(RepoError::Cancelled)) => return Err(RepoError::Cancelled.into()),
                Err(Unread::Region(error)) => {
                    note_issue(&mut healed.issues, monitor, subject(), &error);
                    continue;
                }
                Err(Unread::Spoiled(troubles)) => {
                    read_so_far.found_spoiled(*pack, &troubles);
                    spoiled(read_so_far.why_spoiled(pack).unwrap_or_default(), healed);
                    continue;
                }
            };
            relied.add(*pack);
            if !put_back(to, &name, &bytes.into())? {
                note_issue(&mut healed.issues, monitor, subject(), &IRREPLACEABLE);
                continue;
            }
            lost.ordinals.iter().for_each(|ordinal| lacking.found(&to.info.region, *ordinal));
            healed.packs += 1;
            healed.bytes += size;
        }
        watch(repository, &mut session, &relied)
    })();
    // What a segment lists and a snapshot needs stays without it.
    session.end(repository);
    outcome
}

const IRREPLACEABLE: &str = "what has this name is cut short or another object, and may not be replaced with this \
                             access: what is needed of it goes into another pack";

/// Puts an object under a name that states its digest. Where another object has that name it is cut short or otherwise
/// not what the name says, and gets its own bytes: the one case in which bytes are replaced (`NAME-2`). False where
/// that is denied.
pub(super) fn put_back(to: &RegionHandle, name: &str, payload: &Payload) -> Result<bool, RepoError> {
    match put_with_retries(&*to.store, name, payload) {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => replace(to, name, payload),
        put => put.map(|()| true).map_err(|error| to.error(error)),
    }
}

/// Gives a damaged object its right bytes, which its name states; false where that is denied.
pub(super) fn replace(to: &RegionHandle, name: &str, payload: &Payload) -> Result<bool, RepoError> {
    match to.store.heal(name, payload) {
        Err(denied) if denied.kind == StoreErrorKind::Denied => Ok(false),
        healed => healed.map(|()| true).map_err(|error| to.error(error)),
    }
}

/// Puts forgotten snapshots back, as those that count are: until they are collected the window promises to bring them
/// back, from each region by itself.
///
/// # Errors
/// [`RepoError::Cancelled`] when the user stops it. What single objects say becomes an issue.
pub fn put_forgotten_back(
    repository: &Repository,
    forgotten: &[SnapshotInfo],
    depth: Depth,
    monitor: &dyn Monitor,
) -> Result<Replicated, RepoError> {
    let mut done = Replicated::default();
    put_manifests_back(repository, forgotten, depth, &mut done, monitor)?;
    Ok(done)
}

/// Puts snapshots back where a commit names them and they are gone or damaged: absent or of another size, or, where
/// content is looked at, of other bytes. No collection deletes them (`COLLECT-3`), so nothing needs to be kept from it
/// meanwhile (`HEAL-2`).
pub(super) fn put_manifests_back(
    repository: &Repository,
    counted: &[SnapshotInfo],
    depth: Depth,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    let mut wanted: Vec<(usize, &SnapshotInfo)> = Vec::new();
    for info in counted {
        // What a region's server doesn't take is for others to put back.
        let takes = |at: &usize| {
            let only = repository.regions[*at].store.only_dataset();
            only.is_none_or(|only| only == info.snapshot.dataset)
        };
        wanted.extend(info.lost.iter().filter(|at| takes(at)).map(|at| (*at, info)));
    }
    if depth == Depth::Content {
        let mut unread: Vec<(usize, &SnapshotInfo)> = Vec::new();
        for info in counted {
            // The first one's was read.
            unread.extend(info.regions.iter().skip(1).map(|at| (*at, info)));
        }
        let damage =
            at_once(&unread, |(at, info)| match read_snapshot(repository, &repository.regions[*at], info.id) {
                Ok(_) => Ok(None),
                Err(RepoError::Store { region, source }) if source.kind == StoreErrorKind::Unavailable => {
                    Err(RepoError::Store { region, source })
                }
                Err(error) => Ok(Some(error.to_string())),
            })?;
        for ((at, info), detail) in unread.iter().zip(damage) {
            let Some(detail) = detail else { continue };
            let subject = format!("{}:{}", repository.regions[*at].name, snapshot_name(&info.id)).into_bytes();
            monitor.issue(&Issue { kind: IssueKind::Damaged, subject, detail });
            wanted.push((*at, info));
        }
    }
    let before = done.healed;
    for (at, info) in wanted {
        stop_if_asked(monitor)?;
        let to = &repository.regions[at];
        let name = snapshot_name(&info.id);
        let put = read_manifest(repository, info).and_then(|bytes| put_back(to, &name, &bytes.into()));
        let detail = match put {
            Ok(true) => {
                done.healed += 1;
                continue;
            }
            Ok(false) => Pending::Irreplaceable.to_string(),
            Err(error) => error.to_string(),
        };
        let subject = format!("{}:{name}", to.name).into_bytes();
        note_as(IssueKind::Damaged, &mut done.issues, monitor, subject, &detail);
    }
    if done.healed > before {
        monitor.notice(&format!("lost or damaged snapshots were put back, {} in number", done.healed - before));
    }
    Ok(())
}

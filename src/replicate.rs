//! Brings regions up to one another, as an ordinary writer in the receiving one: for each snapshot that
//! counts in one and not in another, the packs that it needs, as stored.
//!
//! Guarantees: verdicts and tags go first; in the receiving region session, packs, segments, snapshot and
//! commit go in this order (`ORDER-1`), and the log is watched as any writer watches it (`ORDER-2` to
//! `ORDER-6`); every byte copied is compared with its name first; a name that was condemned or deleted there
//! is never written again, its frames go into a new pack; what can't be copied leaves the snapshot pending
//! there and is said. Page: `format-spec/sessions.md`.

use crate::crypto::object::check_digest;
use crate::format::ids::{ChunkId, PackId, RegionId, SegmentId, SlotId, SnapshotId};
use crate::format::roster::Role;
use crate::format::segment::{REFERENCE_PREFIX_BYTES, Reference, Segment, SegmentPack};
use crate::format::wire::DecodeError;
use crate::index::IndexError;
use crate::index::graph::{ChunkCopy, ChunkName, GraphError, Marks};
use crate::index::segment::{seal, segment_name};
use crate::limits::{SEGMENT_CHUNKS_TARGET, SEGMENT_PACKS_TARGET};
use crate::pack::reader::pack_name;
use crate::pack::reenvelope::reenvelope;
use crate::pack::{PackError, SpoolSpace};
use crate::repo::gclog;
use crate::repo::open::RegionHandle;
use crate::repo::session::Reliance;
use crate::repo::snapshots::{LOG_REMEDY, SnapshotInfo, read_snapshot, snapshot_name};
use crate::repo::{RepoError, Repository, Session};
use crate::report::{Issue, IssueKind, Monitor};
use crate::ship::put_with_retries;
use crate::store::{Payload, StoreError, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

mod decisions;
mod heal;
mod join;
mod named;
mod view;
mod whole;

use decisions::copy_decisions;
pub use heal::{Healed, heal, put_forgotten_back};
use heal::{put_back, put_manifests_back};
use named::heal_named;
use view::{View, read_from_any};
pub use whole::{Copied, DamagedPacks, KEEP, Mended, mend};
use whole::{Unread, Whole, pass_over, read_pack};

/// What was copied, and what could not be.
#[derive(Debug, Default)]
pub struct Replicated {
    /// Packs copied.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments written.
    pub segments: u64,
    /// Commits written: snapshots that count in one region more.
    pub commits: u64,
    /// Verdicts and tags copied.
    pub decisions: u64,
    /// Objects that were damaged or gone in one region and got the bytes that another one has.
    pub healed: u64,
    /// What stays behind, and why.
    pub issues: Vec<Issue>,
    /// Regions whose stores didn't take what was to be copied, full or gone, by index into the repository's:
    /// what is stored for them now would be stored again by every run ([`Repository::set_aside`]).
    pub behind: BTreeMap<usize, StoreError>,
    /// Regions that list and hold all that the snapshots need that count in them, by now. Those whose content was
    /// looked at and that are not among them are in `lost`.
    pub whole: BTreeSet<RegionId>,
    /// Of the regions in `whole`, those that are so by other slots' word alone: how many chunks the snapshots there reach
    /// that their own slot neither listed nor referred to in what it listed, and that no owner vouches for. So it is
    /// where a slot that trusts all slots backed up what another one had stored; and where every trace is gone that it
    /// stored the chunks itself, which only who saw it vanish can tell.
    pub by_word: BTreeMap<RegionId, u64>,
    /// Regions that lack some of it still.
    pub lost: BTreeSet<RegionId>,
    /// Something was told that no later run heals by itself, though nothing is known to be damaged.
    pub lasting: bool,
    /// What packs turned out to be where they were read.
    packs_read: Whole,
}

impl Replicated {
    /// Something in a region is not what it must be or can't be read, and can't be replaced: no later run heals it by
    /// itself.
    pub fn is_damaged(&self) -> bool {
        self.lasting || self.issues.iter().any(|issue| issue.kind == IssueKind::Damaged)
    }

    fn is_whole(&mut self, region: &RegionHandle, by_word: u64) {
        let id = region.info.region;
        self.lost.remove(&id);
        self.whole.insert(id);
        match by_word {
            0 => drop(self.by_word.remove(&id)),
            chunks => drop(self.by_word.insert(id, chunks)),
        }
    }
}

/// Why a snapshot stays pending in a region.
#[derive(Debug, thiserror::Error)]
enum Pending {
    #[error(transparent)]
    Repo(#[from] RepoError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("it reaches {0} chunks that no reached region lists or holds")]
    Incomplete(u64),
    #[error(
        "this slot may not read packs, so what was lost isn't put back: a backup stores again what it needs of it, \
         `keepstone replicate` with an owner's or a maintainer's key puts the rest back"
    )]
    Unreadable,
    #[error(
        "snapshots that count there reach {0} chunks that no reached region lists or holds; `keepstone check` says which"
    )]
    Lost(u64),
    #[error(
        "it needs {}, which no reached region has whole: what else it needs is copied. A backup stores again what is \
         there still; `keepstone restore` takes out what can be read",
        packs_named(.0)
    )]
    Damaged(BTreeSet<PackId>),
    #[error(
        "{0} chunks that are needed are held by the word of other slots alone: the slot that backed them up stored them \
         itself, and that copy is lost. `keepstone check --read-data` with an owner's key tells whether the others are \
         what they claim"
    )]
    Claimed(u64),
    #[error("it needs packs of other slots, which only an owner's or maintainer's key may list there")]
    OtherOrigin,
    #[error(
        "what has its name there is cut short or another object, and may not be replaced with this access; `keepstone \
         replicate` with one that may heals it"
    )]
    Irreplaceable,
    #[error("a collection there took what it needs, or fenced the session; the next run copies it")]
    Overtaken,
}

/// The first few of them, by name.
fn packs_named(packs: &BTreeSet<PackId>) -> String {
    let names: Vec<String> = packs.iter().take(3).map(pack_name).collect();
    match packs.len() - names.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more packs", names.join(", ")),
    }
}

impl Pending {
    /// How a snapshot's issue is called that stays pending for it.
    fn kind(&self) -> IssueKind {
        match self {
            Pending::Damaged(_) => IssueKind::Damaged,
            _ => IssueKind::Missing,
        }
    }

    /// What the receiving region's own store said, if that is the reason. Where something can't be had from the
    /// other regions, this one can still take all that is new.
    fn refused_by(self, to: &RegionHandle) -> Option<StoreError> {
        match self {
            // One name that can't be given isn't the store refusing.
            Pending::Repo(RepoError::Store { region, source })
                if region == to.name && source.kind != StoreErrorKind::AlreadyExists =>
            {
                Some(source)
            }
            // A session that opens in one region only.
            Pending::Repo(RepoError::Unreachable(failures)) => failures.into_iter().next().map(|(_, source)| source),
            _ => None,
        }
    }
}

/// How far a region's word is taken for what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Where a snapshot has its commit, all that it needs is there.
    Commits,
    /// Of what the commits promise it is looked for whether segments list it and packs of that size are there. All
    /// segments are read for it, wherever they are listed.
    Content,
}

/// Copies what any reached region decided and another doesn't know; then, snapshot by snapshot, what any has
/// of `counted` and another lacks; then, if `depth` says so, what a region lost of snapshots that count in it.
/// What doesn't fit into `memory_bytes` goes into `scratch`.
///
/// # Errors
/// When a region can't be listed; [`RepoError::Cancelled`] when the user stops it. What single objects say
/// becomes an issue.
pub fn replicate(
    repository: &Repository,
    counted: &[SnapshotInfo],
    depth: Depth,
    scratch: Option<SpoolSpace>,
    memory_bytes: usize,
    monitor: &dyn Monitor,
) -> Result<Replicated, RepoError> {
    let mut done = Replicated::default();
    // Every slot's rings, however many, where content is looked at, too; a backup has time for those only without
    // which it couldn't be restored.
    let levelled = repository.level_all_keys(depth == Depth::Content);
    for (region, levelled) in repository.regions.iter().zip(levelled) {
        // A change of keys that did not reach it; what goes on here doesn't depend on it.
        match levelled {
            Ok(levelled) => {
                levelled.issues.iter().for_each(|issue| monitor.issue(issue));
                for (kind, count) in &levelled.healed {
                    let name = &region.name;
                    monitor.notice(&format!(
                        "region '{name}' held damaged {kind}, {count} in number: they are right again"
                    ));
                    done.healed += count;
                }
                done.issues.extend(levelled.issues);
            }
            Err(error) => note(&mut done, monitor, format!("{}:roster/", region.name).into_bytes(), &error),
        }
    }
    copy_decisions(repository, depth, &mut done, monitor)?;
    put_manifests_back(repository, counted, depth, &mut done, monitor)?;
    if depth == Depth::Content {
        heal_named(repository, counted, &mut done, monitor)?;
    }
    stop_if_asked(monitor)?;
    let lacks = |at: usize| {
        // What a region's server doesn't take is no lack of it.
        let only = repository.regions[at].store.only_dataset();
        let taken = move |info: &&SnapshotInfo| only.as_ref().is_none_or(|only| *only == info.snapshot.dataset);
        counted.iter().filter(move |info| !info.is_committed_in(at)).filter(taken)
    };
    if depth == Depth::Commits && (0..repository.regions.len()).all(|at| lacks(at).next().is_none()) {
        return Ok(done);
    }
    let view = match View::read(repository, depth, scratch, memory_bytes, monitor, &mut done) {
        Ok(view) => view,
        Err(Pending::Repo(error)) => return Err(error),
        Err(error) => {
            note(&mut done, monitor, b"replication".to_vec(), &error);
            return Ok(done);
        }
    };
    // What this run brought to each region so far.
    let mut brought_to: Vec<HashMap<u32, PackId>> = vec![HashMap::new(); repository.regions.len()];
    for (at, to) in repository.regions.iter().enumerate() {
        if done.behind.contains_key(&at) {
            continue;
        }
        // Nobody writes where a log is damaged (GC-4); the others are served from there.
        match gclog::read(repository, to) {
            Ok(_) => {}
            Err(error @ (RepoError::Object { .. } | RepoError::Crypto { .. } | RepoError::Missing { .. })) => {
                let (subject, detail) = (format!("{}:gc/", to.name).into_bytes(), format!("{error}; {LOG_REMEDY}"));
                note_as(IssueKind::Damaged, &mut done.issues, monitor, subject, &detail);
                continue;
            }
            Err(error) => return Err(error),
        }
        let brought = &mut brought_to[at];
        if depth == Depth::Content {
            match restock(repository, &view, at, counted, brought, &mut done, monitor) {
                Ok(()) => {}
                Err(Pending::Repo(RepoError::Cancelled)) => return Err(RepoError::Cancelled),
                Err(error) => {
                    note(&mut done, monitor, format!("{}:packs/", to.name).into_bytes(), &error);
                    if let Some(refused) = error.refused_by(to) {
                        done.behind.insert(at, refused);
                        continue;
                    }
                }
            }
        }
        let pending: Vec<&SnapshotInfo> = lacks(at).collect();
        if pending.is_empty() {
            continue;
        }
        let count = pending.len();
        monitor
            .notice(&format!("region '{}' lacks {count} snapshots that other regions have: they are copied", to.name));
        for info in pending {
            match copy_snapshot(repository, &view, at, info, brought, &mut done, monitor) {
                Ok(()) => done.commits += 1,
                Err(Pending::Repo(RepoError::Cancelled)) => return Err(RepoError::Cancelled),
                Err(error) => {
                    let subject = format!("{}:{}", to.name, snapshot_name(&info.id)).into_bytes();
                    note_as(error.kind(), &mut done.issues, monitor, subject, &error);
                    if let Some(refused) = error.refused_by(to) {
                        // Nor will it take the others.
                        done.behind.insert(at, refused);
                        break;
                    }
                }
            }
        }
    }
    let damaged = done.packs_read.take_damaged();
    let mended = mend(repository, &damaged, monitor)?;
    done.healed += mended.healed;
    done.issues.extend(mended.issues);
    if depth == Depth::Content && done.packs_read.is_any_spoiled() {
        // Found whole before anybody read what it has there: what that held may be in other packs.
        for (at, to) in repository.regions.iter().enumerate() {
            if !done.whole.remove(&to.info.region) {
                continue;
            }
            match restock(repository, &view, at, counted, &mut brought_to[at], &mut done, monitor) {
                Ok(()) => {}
                Err(Pending::Repo(RepoError::Cancelled)) => return Err(RepoError::Cancelled),
                Err(error) => note(&mut done, monitor, format!("{}:packs/", to.name).into_bytes(), &error),
            }
        }
        name_the_spoiled(repository, &view, counted, &mut done, monitor)?;
    }
    Ok(done)
}

fn note(done: &mut Replicated, monitor: &dyn Monitor, subject: Vec<u8>, error: &dyn std::fmt::Display) {
    note_issue(&mut done.issues, monitor, subject, error);
}

fn note_issue(issues: &mut Vec<Issue>, monitor: &dyn Monitor, subject: Vec<u8>, error: &dyn std::fmt::Display) {
    note_as(IssueKind::Missing, issues, monitor, subject, error);
}

fn note_as(
    kind: IssueKind,
    issues: &mut Vec<Issue>,
    monitor: &dyn Monitor,
    subject: Vec<u8>,
    error: &dyn std::fmt::Display,
) {
    let issue = Issue { kind, subject, detail: error.to_string() };
    monitor.issue(&issue);
    issues.push(issue);
}

/// The packs of the receiving region that a snapshot relies on there.
#[derive(Default)]
struct Relied(Mutex<BTreeSet<PackId>>);

impl Relied {
    fn add(&self, pack: PackId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pack);
    }
}

impl Reliance for Relied {
    fn withdraw(&self, missing: &HashSet<PackId>) -> Result<BTreeSet<PackId>, IndexError> {
        let relied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(relied.iter().filter(|pack| missing.contains(*pack)).copied().collect())
    }
}

/// Copies one snapshot into a region: what it needs, its manifest, its commit.
#[allow(clippy::too_many_arguments, reason = "one call; a struct would only name them twice")]
fn copy_snapshot(
    repository: &Repository,
    view: &View,
    at: usize,
    info: &SnapshotInfo,
    brought: &mut HashMap<u32, PackId>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), Pending> {
    stop_if_asked(monitor)?;
    let to = &repository.regions[at];
    let manifest = read_manifest(repository, info)?;
    let mut session = Session::open_in(repository, at)?;
    let outcome = (|| {
        let missing = session.missing();
        let relied = Relied::default();
        let own = repository.secrets.slot;
        // Again without the packs that turn out to be damaged: what they hold may be in others.
        let claimed = loop {
            let mut chosen = Chosen::default();
            choose(
                view,
                at,
                &[info.snapshot.root],
                info.slot,
                &missing,
                brought,
                &done.packs_read,
                &relied,
                &mut chosen,
            )?;
            if chosen.nowhere > 0 {
                return Err(Pending::Incomplete(chosen.nowhere));
            }
            let Chosen { wanted, spoiled, claimed, .. } = chosen;
            let foreign = wanted.iter().any(|number| view.packs[*number as usize].origin != own);
            if repository.role() == Role::Writer && foreign {
                return Err(Pending::OtherOrigin);
            }
            // Whoever wrote them is at work here no more, or never was: this session answers for their packs.
            session.adopt(repository, wanted.iter().map(|number| view.packs[*number as usize].session))?;
            watch(repository, &mut session, &relied)?;
            let passed_over =
                copy_packs(repository, view, at, &session, &wanted, &missing, &relied, brought, done, monitor)?;
            if passed_over == 0 && !spoiled.is_empty() {
                return Err(Pending::Damaged(spoiled.into_keys().collect()));
            }
            if passed_over == 0 {
                break claimed;
            }
        };
        if !put_back(to, &snapshot_name(&info.id), &manifest.into())? {
            return Err(Pending::Irreplaceable);
        }
        if claimed > 0 {
            // It may well be what it claims to be, and one copy is no better than two.
            done.lasting = true;
            let subject = format!("{}:{}", to.name, snapshot_name(&info.id)).into_bytes();
            note(done, monitor, subject, &Pending::Claimed(claimed));
        }
        watch(repository, &mut session, &relied)?;
        session.commit(repository, at, info.id).map_err(|error| match error {
            RepoError::Fenced { .. } => Pending::Overtaken,
            error => error.into(),
        })
    })();
    if outcome.is_err() && !session.tried_commit(at) {
        session.end(repository);
    }
    outcome
}

fn stop_if_asked(monitor: &dyn Monitor) -> Result<(), RepoError> {
    match monitor.cancelled() {
        true => Err(RepoError::Cancelled),
        false => Ok(()),
    }
}

/// Looks at the log as every writer does; a loss leaves the snapshot to the next run.
fn watch(repository: &Repository, session: &mut Session, relied: &Relied) -> Result<(), Pending> {
    let watched = session.watch(repository, relied)?;
    if let Some((_, error)) = watched.failed.into_iter().next() {
        return Err(error.into());
    }
    match watched.fenced.is_empty() && watched.lost.is_empty() {
        true => Ok(()),
        false => Err(Pending::Overtaken),
    }
}

/// Copies what a region lost of snapshots that count in it, or never says that it has: chunks that none of its
/// segments list in a pack that is there. No commit is needed for it.
fn restock(
    repository: &Repository,
    view: &View,
    at: usize,
    counted: &[SnapshotInfo],
    brought: &mut HashMap<u32, PackId>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), Pending> {
    stop_if_asked(monitor)?;
    let to = &repository.regions[at];
    // Each slot's apart: what one slot lists is no other slot's copy (COLLECT-11).
    let mut roots: BTreeMap<SlotId, Vec<ChunkId>> = BTreeMap::new();
    for info in counted.iter().filter(|info| info.is_committed_in(at)) {
        roots.entry(info.slot).or_default().push(info.snapshot.root);
    }
    // What is condemned is rescued where these snapshots need it.
    let log = gclog::read(repository, to)?;
    let relied = Relied::default();
    let choose_all = |missing: &HashSet<PackId>, brought: &HashMap<u32, PackId>, read: &Whole| {
        let mut chosen = Chosen::default();
        for (slot, roots) in &roots {
            choose(view, at, roots, *slot, missing, brought, read, &relied, &mut chosen)?;
        }
        Ok::<_, Pending>(chosen)
    };
    let mut chosen = choose_all(&log.dead, brought, &done.packs_read)?;
    let mut is_whole = chosen.nowhere == 0 && chosen.claimed == 0;
    let by_word = chosen.by_word;
    let subject = || format!("{}:packs/", to.name).into_bytes();
    if chosen.nowhere > 0 {
        note(done, monitor, subject(), &Pending::Lost(chosen.nowhere));
    }
    if chosen.claimed > 0 {
        note(done, monitor, subject(), &Pending::Claimed(chosen.claimed));
    }
    if chosen.wanted.is_empty() {
        match is_whole && chosen.spoiled.is_empty() {
            true => done.is_whole(to, by_word),
            false => drop(done.lost.insert(to.info.region)),
        }
        return Ok(());
    }
    // Until all of it is there again.
    done.lost.insert(to.info.region);
    let count = chosen.wanted.len();
    monitor
        .notice(&format!("region '{}' lost {count} packs, or what lists them: they are copied to it again", to.name));
    let mut session = Session::open_in(repository, at)?;
    let outcome = (|| {
        let missing = session.missing();
        let own = repository.secrets.slot;
        let mut others_told = false;
        // Again without the packs that turn out to be damaged: what they hold may be in others.
        loop {
            let mut wanted = std::mem::take(&mut chosen.wanted);
            if repository.role() == Role::Writer {
                let before = wanted.len();
                wanted.retain(|number| view.packs[*number as usize].origin == own);
                if wanted.len() < before && !others_told {
                    (is_whole, others_told) = (false, true);
                    note(done, monitor, subject(), &Pending::OtherOrigin);
                }
            }
            session.adopt(repository, wanted.iter().map(|number| view.packs[*number as usize].session))?;
            watch(repository, &mut session, &relied)?;
            let passed_over =
                copy_packs(repository, view, at, &session, &wanted, &missing, &relied, brought, done, monitor)?;
            if passed_over == 0 {
                break;
            }
            chosen = choose_all(&missing, brought, &done.packs_read)?;
        }
        is_whole &= chosen.spoiled.is_empty() && chosen.claimed == 0;
        watch(repository, &mut session, &relied)
    })();
    session.end(repository);
    if is_whole && outcome.is_ok() {
        done.is_whole(to, by_word);
    }
    outcome
}

/// Names, in each region, the snapshots that count there and need packs that no region has whole.
fn name_the_spoiled(
    repository: &Repository,
    view: &View,
    counted: &[SnapshotInfo],
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    for at in 0..repository.regions.len() {
        stop_if_asked(monitor)?;
        let named = match spoiled_snapshots(repository, view, at, counted, done) {
            Ok(named) => named,
            Err(Pending::Repo(error)) => return Err(error),
            Err(error) => {
                let subject = format!("{}:packs/", repository.regions[at].name).into_bytes();
                note(done, monitor, subject, &error);
                continue;
            }
        };
        let region = &repository.regions[at];
        if !named.is_empty() && done.whole.remove(&region.info.region) {
            done.lost.insert(region.info.region);
        }
        for (id, packs) in named {
            let subject = format!("{}:{}", region.name, snapshot_name(&id)).into_bytes();
            let needs = format!("it needs {}, which no reached region has whole", packs_named(&packs));
            note_as(IssueKind::Damaged, &mut done.issues, monitor, subject, &needs);
        }
    }
    Ok(())
}

fn spoiled_snapshots(
    repository: &Repository,
    view: &View,
    at: usize,
    counted: &[SnapshotInfo],
    done: &Replicated,
) -> Result<Vec<(SnapshotId, BTreeSet<PackId>)>, Pending> {
    let here: Vec<&SnapshotInfo> = counted.iter().filter(|info| info.is_committed_in(at)).collect();
    let mut roots: BTreeMap<SlotId, Vec<ChunkId>> = BTreeMap::new();
    here.iter().for_each(|info| roots.entry(info.slot).or_default().push(info.snapshot.root));
    // What is in this region under another name is no less there.
    let log = gclog::read(repository, &repository.regions[at])?;
    let mut named: BTreeMap<SnapshotId, BTreeSet<PackId>> = BTreeMap::new();
    for (slot, roots) in &roots {
        let (relied, mut chosen) = (Relied::default(), Chosen::default());
        let brought = HashMap::new();
        choose(view, at, roots, *slot, &log.dead, &brought, &done.packs_read, &relied, &mut chosen)?;
        for (pack, chunks) in chosen.spoiled {
            let mut lacking = view.graph.marks();
            view.graph.mark(&mut lacking, &chunks.into_iter().map(id_of).collect::<Vec<_>>())?;
            // What a snapshot without it reaches need not be walked for the next one.
            let mut whole = view.graph.marks();
            for info in here.iter().filter(|info| info.slot == *slot) {
                let mut marks = whole.clone();
                view.graph.walk(&info.snapshot.root, &mut marks, &mut |_, _, _| {})?;
                match lacking.meets(&marks) {
                    true => drop(named.entry(info.id).or_default().insert(pack)),
                    false => whole = marks,
                }
            }
        }
    }
    Ok(here.iter().filter_map(|info| named.remove_entry(&info.id)).collect())
}

/// A chunk by what a graph tells chunks apart by.
fn id_of(name: ChunkName) -> ChunkId {
    let mut id = ChunkId::default();
    id.0[..name.len()].copy_from_slice(&name);
    id
}

/// What a region's snapshots take from where.
#[derive(Default)]
struct Chosen {
    /// Packs that are wanted from other regions, by number.
    wanted: BTreeSet<u32>,
    /// Reached chunks that no region lists or holds.
    nowhere: u64,
    /// Packs that no region has whole, with the reached chunks that are in no other.
    spoiled: BTreeMap<PackId, Vec<ChunkName>>,
    /// Reached chunks of which the snapshot's slot listed a copy that is lost, and that only other slots' word holds.
    claimed: u64,
    /// Reached chunks that only other slots' word holds, and that nothing which the snapshot's slot listed refers to.
    by_word: u64,
}

/// Adds to `chosen` which packs of the region a slot's roots may rely on there, and which are wanted from elsewhere, so
/// that every chunk that they reach has a copy. Only a copy of the slot's own origin will do; of a chunk that has none
/// of it, one copy of each origin, since any may be the one that was relied on (`COLLECT-11`). A pack that was read and
/// that no region has whole is no copy.
#[allow(clippy::too_many_arguments, reason = "one call; a struct would only name them twice")]
fn choose(
    view: &View,
    at: usize,
    roots: &[ChunkId],
    slot: SlotId,
    missing: &HashSet<PackId>,
    brought: &HashMap<u32, PackId>,
    read: &Whole,
    relied: &Relied,
    chosen: &mut Chosen,
) -> Result<(), Pending> {
    let mut marks = view.graph.marks();
    let mut lacking = 0;
    view.graph.walk_all(roots, &mut marks, &mut |_, _, _| lacking += 1)?;
    let mut unheld = 0;
    // Those of which the slot lists no copy, and nobody whom it trusts holds one; ascending.
    let mut foreign: Vec<ChunkName> = Vec::new();
    view.graph.each_chunk(&marks, &mut |name, reached, copies| {
        if !reached {
            return;
        }
        let pack = |copy: &ChunkCopy| &view.packs[copy.pack as usize];
        let spoiled = |copy: &&ChunkCopy| read.is_spoiled(&pack(copy).id) && !brought.contains_key(&copy.pack);
        let there = copies.iter().filter(|copy| !pack(copy).held.is_empty());
        let (bad, held): (Vec<&ChunkCopy>, Vec<&ChunkCopy>) = there.partition(spoiled);
        let mut origins: Vec<SlotId> = held.iter().map(|copy| pack(copy).origin).collect();
        if origins.contains(&slot) {
            origins = vec![slot];
        } else if !origins.is_empty() && !held.iter().any(|copy| pack(copy).attested) {
            // One that it stored itself and that is lost is evidence that it relied on no other. Of what it never
            // listed, the snapshot that it signed says that it relied on the others.
            match copies.iter().any(|copy| pack(copy).origin == slot && pack(copy).counts) {
                true => chosen.claimed += 1,
                false => foreign.push(*name),
            }
        }
        origins.sort_unstable();
        origins.dedup();
        for origin in &origins {
            let mut among = held.iter().filter(|copy| pack(copy).origin == *origin);
            let here = among.clone().find_map(|copy| match brought.get(&copy.pack) {
                Some(id) => Some(*id).filter(|id| !missing.contains(id)),
                None => Some(pack(copy).id).filter(|id| pack(copy).held.contains(&at) && !missing.contains(id)),
            });
            match here {
                Some(id) => relied.add(id),
                None if among.clone().any(|copy| chosen.wanted.contains(&copy.pack)) => {}
                None => chosen.wanted.extend(among.next().map(|copy| copy.pack)),
            }
        }
        if origins.is_empty() {
            match bad.first() {
                Some(copy) => chosen.spoiled.entry(pack(copy).id).or_default().push(*name),
                None => unheld += 1,
            }
        }
    })?;
    // A chunk that is listed and lost is among both.
    chosen.nowhere += lacking.max(unheld);
    if !foreign.is_empty() {
        chosen.by_word += foreign.len() as u64 - relied_on(view, slot, &marks, &foreign)?;
    }
    Ok(())
}

/// How many of these chunks the slot relied on by the word of its own listings: what it stored itself refers to them, or
/// to what refers to them. So it is where it trusts every slot.
fn relied_on(view: &View, slot: SlotId, marks: &Marks, chunks: &[ChunkName]) -> Result<u64, Pending> {
    let mut own: Vec<ChunkId> = Vec::new();
    view.graph.each_chunk(marks, &mut |name, reached, copies| {
        let wrote = |copy: &ChunkCopy| copy.structural && view.packs[copy.pack as usize].origin == slot;
        if reached && copies.iter().any(wrote) {
            own.push(id_of(*name));
        }
    })?;
    let mut below = view.graph.marks();
    view.graph.walk_all(&own, &mut below, &mut |_, _, _| {})?;
    let mut found = 0;
    view.graph.each_chunk(&below, &mut |name, reached, _| {
        found += u64::from(reached && chunks.binary_search(name).is_ok());
    })?;
    Ok(found)
}

/// Gives how many of them no region has whole: they are told, and passed over.
#[allow(clippy::too_many_arguments, reason = "one call; a struct would only name them twice")]
fn copy_packs(
    repository: &Repository,
    view: &View,
    at: usize,
    session: &Session,
    wanted: &BTreeSet<u32>,
    missing: &HashSet<PackId>,
    relied: &Relied,
    brought: &mut HashMap<u32, PackId>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<u64, Pending> {
    let (to, mut batch) = (&repository.regions[at], Batch::default());
    // By segment, so that each is read once more only.
    let mut by_segment: BTreeMap<SegmentId, Vec<u32>> = BTreeMap::new();
    for number in wanted {
        by_segment.entry(view.packs[*number as usize].place.0).or_default().push(*number);
    }
    let copied: Result<u64, Pending> = (|| {
        let mut passed_over = 0;
        for (id, numbers) in by_segment {
            let regions: Vec<usize> = (0..repository.regions.len()).collect();
            let segment = read_from_any(repository, &regions, id)?;
            let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
            for number in numbers {
                stop_if_asked(monitor)?;
                let listed = &view.packs[number as usize];
                let mut pack = segment.packs[listed.place.1 as usize].clone();
                let copied = Copied::from_segment(&pack, listed.held.clone());
                let bytes = match read_pack(repository, listed.id, &copied, monitor) {
                    Ok(read) => {
                        done.packs_read.found_damaged(listed.id, &copied, &read.damaged);
                        bytes::Bytes::from(read.bytes)
                    }
                    Err(Unread::Region(error)) => return Err(error.into()),
                    Err(Unread::Spoiled(troubles)) => {
                        pass_over(repository, listed.id, troubles, done, monitor);
                        passed_over += 1;
                        continue;
                    }
                };
                // Relied on from before it is there.
                relied.add(listed.id);
                // A name that was condemned or deleted here is never written again (`NAME-3`), nor can one be whose object
                // isn't what it says and may not be replaced.
                let is_taken = missing.contains(&listed.id)
                    || !put_back(to, &pack_name(&listed.id), &Payload::Bytes(bytes.clone()))?;
                if is_taken {
                    let (fresh, bytes) =
                        reenvelope(listed.id, &bytes, &repository.keyring, &*repository.random, session.id)?;
                    (pack.pack, pack.session, pack.size) = (fresh, session.id, bytes.len() as u64);
                    relied.add(fresh);
                    put_with_retries(&*to.store, &pack_name(&fresh), &bytes.into()).map_err(|e| to.error(e))?;
                }
                done.packs += 1;
                done.bytes += pack.size;
                if batch.packs.iter().any(|(_, other)| other.pack == pack.pack) || !batch.has_room(&pack) {
                    batch.write(repository, to, brought, done)?;
                }
                batch.add(number, pack, &ids);
            }
        }
        Ok(passed_over)
    })();
    // What is there already is listed whatever ended it, and so needs no second way here.
    let listed = batch.write(repository, to, brought, done);
    let passed_over = copied?;
    listed.map(|()| passed_over)
}

/// Packs that are there and in no segment yet.
#[derive(Default)]
struct Batch {
    packs: Vec<(u32, SegmentPack)>,
    /// For each structural chunk of them in order, what it refers to.
    targets: Vec<Vec<Target>>,
    weight: usize,
}

enum Target {
    Id(ChunkId),
    Prefix([u8; REFERENCE_PREFIX_BYTES]),
}

impl Batch {
    /// With the ids of the segment that listed the pack, which its references' ordinals are of.
    fn add(&mut self, number: u32, pack: SegmentPack, ids: &[ChunkId]) {
        for chunk in pack.frames.iter().flat_map(|frame| &frame.chunks).filter(|chunk| chunk.kind.is_structural()) {
            let target = |reference: &Reference| match reference {
                Reference::Ordinal(ordinal) => Target::Id(ids[*ordinal as usize]),
                Reference::Prefix(prefix) => Target::Prefix(*prefix),
            };
            self.targets.push(chunk.references.iter().map(target).collect());
        }
        self.weight += pack.weight();
        self.packs.push((number, pack));
    }

    /// Whether the pack goes into the same segment; into an empty one it always does.
    fn has_room(&self, pack: &SegmentPack) -> bool {
        self.packs.len() < SEGMENT_PACKS_TARGET && self.weight + pack.weight() <= SEGMENT_CHUNKS_TARGET
    }

    /// Writes the segment that lists them here, with the origins that they had there.
    fn write(
        &mut self,
        repository: &Repository,
        to: &RegionHandle,
        brought: &mut HashMap<u32, PackId>,
        done: &mut Replicated,
    ) -> Result<(), Pending> {
        let Batch { packs, targets, .. } = std::mem::take(self);
        if packs.is_empty() {
            return Ok(());
        }
        let (numbers, packs): (Vec<u32>, Vec<SegmentPack>) = packs.into_iter().unzip();
        let mut segment = Segment { supersedes: Vec::new(), packs };
        let mut ordinals: HashMap<ChunkId, u32> = HashMap::new();
        for (ordinal, chunk) in segment.chunks().enumerate() {
            ordinals.entry(chunk.id).or_insert(ordinal as u32);
        }
        let chunks = segment.packs.iter_mut().flat_map(|pack| &mut pack.frames).flat_map(|frame| &mut frame.chunks);
        for (chunk, targets) in chunks.filter(|chunk| chunk.kind.is_structural()).zip(targets) {
            let reference = |target| match target {
                Target::Prefix(prefix) => Reference::Prefix(prefix),
                Target::Id(id) => ordinals.get(&id).map_or_else(
                    || {
                        let mut prefix = [0u8; REFERENCE_PREFIX_BYTES];
                        prefix.copy_from_slice(&id.0[..REFERENCE_PREFIX_BYTES]);
                        Reference::Prefix(prefix)
                    },
                    |ordinal| Reference::Ordinal(*ordinal),
                ),
            };
            chunk.references = targets.into_iter().map(reference).collect();
        }
        let (bytes, id) =
            seal(&segment, &repository.keyring, &repository.signer(), &*repository.random).map_err(RepoError::from)?;
        put_with_retries(&*to.store, &segment_name(&id), &bytes.into()).map_err(|e| to.error(e))?;
        done.segments += 1;
        brought.extend(numbers.into_iter().zip(segment.packs.iter().map(|pack| pack.pack)));
        Ok(())
    }
}

fn misnamed(region: &RegionHandle, name: &str) -> RepoError {
    region.object_error(name, DecodeError::new("OBJ-10", "its bytes are another object's"))
}

/// A snapshot's manifest from the first region where it counts and is whole, or else from one that collected it.
fn read_manifest(repository: &Repository, info: &SnapshotInfo) -> Result<Vec<u8>, RepoError> {
    let name = snapshot_name(&info.id);
    let mut last = None;
    for from in info.may_hold(repository.regions.len()).map(|from| &repository.regions[from]) {
        match read_snapshot(repository, from, info.id).and_then(|_| from.get(&name)) {
            Ok(bytes) if check_digest(&bytes).is_ok_and(|digest| digest.0 == info.id.0) => return Ok(bytes),
            Ok(_) => last = Some(misnamed(from, &name)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| RepoError::Missing { region: "every region".to_owned(), name }))
}

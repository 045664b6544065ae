//! Putting verdicts: forget, unforget, hold, release; and what became of an unforget.
//! Page: `format-spec/verdict.md`.
//!
//! Guarantees: only owners and maintainers; the audit entry goes before the first verdict (`AUDIT-6`); a
//! verdict's number is above every one that is seen (`VERDICT-2`); what is on hold isn't forgotten
//! (`VERDICT-4`); what was to keep a snapshot and returned well isn't overridden by a forget at the same time
//! (`VERDICT-10`).

use super::at_once::at_once;
use super::audit::{Act, NoRoom, record_where_room};
use super::open::{DECIDERS, Repository};
use super::snapshots::{Decision, parse_numbered, read_decisions, read_numbered};
use super::{RepoError, gclog};
use crate::crypto::object;
use crate::env::random_bytes;
use crate::format::audit::Action;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{SlotId, SnapshotId, number_name};
use crate::format::verdict::{Ruling, Verdict};
use crate::report::Issue;
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The verdict that decides over a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its number.
    pub number: u64,
    /// What it says.
    pub ruling: Ruling,
    /// When it was given, by its writer's clock; of several that agree the latest.
    pub decided_at: i64,
    /// When a hold ends by itself.
    pub until: Option<i64>,
    /// Why.
    pub reason: String,
    /// Who gave it.
    pub slot: SlotId,
}

impl Effective {
    /// True when it says that the snapshot is forgotten.
    pub fn forgets(&self) -> bool {
        self.ruling == Ruling::Forget
    }

    /// Of the verdicts at the highest number: they resolve to keep, and a hold among them wins (`VERDICT-3`),
    /// of holds the longest.
    pub(super) fn of(verdicts: &[(Verdict, SlotId)]) -> Option<Self> {
        let rank = |verdict: &Verdict| match verdict.ruling {
            Ruling::Hold => (2, verdict.until.unwrap_or(i64::MAX)),
            Ruling::Unforget | Ruling::Release => (1, verdict.decided_at),
            Ruling::Forget => (0, verdict.decided_at),
        };
        let (verdict, slot) = verdicts.iter().max_by_key(|(verdict, slot)| (rank(verdict), *slot))?;
        Some(Effective {
            number: verdict.number,
            ruling: verdict.ruling,
            decided_at: verdict.decided_at,
            until: verdict.until,
            reason: verdict.reason.clone(),
            slot: *slot,
        })
    }

    /// True for a hold that hasn't ended at this time.
    pub fn holds(&self, now: i64) -> bool {
        self.ruling == Ruling::Hold && self.until.is_none_or(|until| now < until)
    }
}

/// What is to be said of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decree {
    /// The verdict.
    pub ruling: Ruling,
    /// When a hold ends by itself; `None` for every other ruling.
    pub until: Option<i64>,
    /// Why, for people; at most 4096 bytes.
    pub reason: String,
    /// Floors of the retention policy were overridden for these of them.
    pub below_floors: BTreeSet<SnapshotId>,
}

impl Decree {
    /// A ruling for this reason.
    pub fn new(ruling: Ruling, reason: &str) -> Self {
        Decree { ruling, until: None, reason: reason.to_owned(), below_floors: BTreeSet::new() }
    }
}

/// How often something is put on top of what others put at the same time.
pub(super) const PUTS_MAX: u32 = 16;

/// Records what is about to be said in the audit chain, then says it of each snapshot, in every reached
/// region that has room. All are checked before anything is written, and looked at again after it: what is to keep a
/// snapshot is said again on top of what others said at the same time. Gives the regions that have no room, where
/// not all of it is said: a replication brings it there.
///
/// # Errors
/// When this slot may not decide; [`RepoError::Held`] for a forget or unforget of what is on hold;
/// [`RepoError::Contended`] where others decided otherwise at the same time, and theirs counts; when a verdict
/// can't be read or a region not be written. After these some may be said and others not: saying it again is safe.
pub fn put(repository: &Repository, ids: &BTreeSet<SnapshotId>, decree: &Decree) -> Result<NoRoom, RepoError> {
    repository.require(&DECIDERS, "decide over snapshots")?;
    if decree.until.is_some() && decree.ruling != Ruling::Hold {
        return Err(RepoError::Verdict("VERDICT-7: only a hold has an end".to_owned()));
    }
    let mut no_room = NoRoom::new();
    if ids.is_empty() {
        return Ok(no_room);
    }
    // Numbers first, then what they say: a hold that comes between the two is read, and one that comes later gets the
    // same number at least, where it wins.
    let listed = placed(repository, Some(ids))?;
    let mut issues = Vec::new();
    let decisions = read_decisions(repository, &under(ids), None, &mut issues)?;
    let now = repository.clock.now_ns();
    let ends_no_hold = matches!(decree.ruling, Ruling::Forget | Ruling::Unforget);
    let unread = unread(&issues, &decisions);
    for id in ids.iter().filter(|_| ends_no_hold) {
        if decree.ruling == Ruling::Forget {
            if let Some(unread) = unread.get(id) {
                return Err(RepoError::Verdict(unread.clone()));
            }
            if let Some(kept) = kept_apart(repository, listed.get(id).map_or(&[], Vec::as_slice))? {
                return Err(RepoError::Verdict(told_apart(repository, *id, &kept)));
            }
        }
        if let Some(hold) = decisions.get(id).and_then(|known| known.effective()).filter(|known| known.holds(now)) {
            return Err(held(*id, &hold));
        }
    }
    let mut known = names_in(listed);
    drop(decisions);
    let acted = |action, ids: &BTreeSet<SnapshotId>| {
        ids.iter().fold(Act::new(action), |act, id| act.on(&id.0)).because(&decree.reason)
    };
    if !decree.below_floors.is_empty() {
        no_room = record_where_room(repository, &acted(Action::BreakFloor, &decree.below_floors))?.no_room;
    }
    no_room.extend(record_where_room(repository, &acted(action_of(decree.ruling), ids))?.no_room);
    let mut unsettled = ids.clone();
    for puts in 0..PUTS_MAX {
        let mine = put_all(repository, &unsettled, &known, decree, now, &mut no_room)?;
        let seen = names_of(repository, &unsettled)?;
        unsettled.retain(|id| seen.get(id).is_some_and(|names| is_contested(names, known.get(id), mine.get(id))));
        let mut again = BTreeSet::new();
        for id in unsettled {
            if !stands(repository, id, decree, now)? {
                again.insert(id);
            }
        }
        if again.is_empty() {
            return Ok(no_room);
        }
        (unsettled, known) = (again, seen);
        pause(repository, puts);
    }
    let ids: Vec<String> = unsettled.iter().map(|id| format!("snapshot {id}")).collect();
    Err(RepoError::Contended { what: ids.join(", ") })
}

/// Snapshots that may be on hold though nothing that can be read says so, and why: a verdict of theirs that can't be
/// read would be the one that counts (`VERDICT-4`).
///
/// # Errors
/// When a region can't be listed or read.
pub fn may_be_held(repository: &Repository) -> Result<BTreeMap<SnapshotId, String>, RepoError> {
    let mut issues = Vec::new();
    let decisions = read_decisions(repository, "", None, &mut issues)?;
    let mut all = unread(&issues, &decisions);
    for (id, placed) in placed(repository, None)? {
        if let Some(kept) = kept_apart(repository, &placed)? {
            all.insert(id, told_apart(repository, id, &kept));
        }
    }
    Ok(all)
}

/// For people: what keeps a snapshot in one region alone.
pub fn told_apart(repository: &Repository, id: SnapshotId, kept: &KeptApart) -> String {
    let (region, ruling) = (&repository.regions[kept.region].name, kept.verdict.ruling.name());
    format!(
        "of snapshot {id} region '{region}' has a '{ruling}' that others didn't know of when something else was decided \
         there: `keepstone replicate` with an owner's or a maintainer's key gives it again"
    )
}

fn unread(issues: &[Issue], decisions: &BTreeMap<SnapshotId, Decision>) -> BTreeMap<SnapshotId, String> {
    let named = |issue: &Issue| {
        let subject = std::str::from_utf8(&issue.subject).ok()?;
        let (id, number, _) = parse_numbered(subject.rsplit_once(':')?.1, "verdicts/")?;
        let counts = decisions.get(&id).and_then(Decision::effective).is_none_or(|known| known.number <= number);
        let text = || {
            format!(
                "snapshot {id} may be on hold: {subject}: {}; `keepstone replicate` puts it right from a region that \
                 has it whole, and where none has, a hold and a release of the snapshot take its place",
                issue.detail
            )
        };
        counts.then(|| (id, text()))
    };
    issues.iter().filter_map(named).collect()
}

/// Where a verdict lies.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its number.
    pub number: u64,
    /// Its object's name.
    pub name: String,
    /// Indices into the repository's regions, ascending.
    pub regions: Vec<usize>,
}

/// The verdicts that lie in reached regions, of these snapshots or of all.
///
/// # Errors
/// When a region can't be listed.
pub fn placed(
    repository: &Repository,
    ids: Option<&BTreeSet<SnapshotId>>,
) -> Result<BTreeMap<SnapshotId, Vec<Placed>>, RepoError> {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, region) in repository.regions.iter().enumerate() {
        let prefix = format!("verdicts/{}", ids.map_or_else(String::new, under));
        for listed in list_sorted(&*region.store, &prefix).map_err(|e| region.error(e))? {
            by_name.entry(listed.name).or_default().push(at);
        }
    }
    let mut placed: BTreeMap<SnapshotId, Vec<Placed>> = BTreeMap::new();
    for (name, regions) in by_name {
        let Some((id, number, _)) = parse_numbered(&name, "verdicts/") else { continue };
        if ids.is_none_or(|ids| ids.contains(&id)) {
            placed.entry(id).or_default().push(Placed { number, name, regions });
        }
    }
    Ok(placed)
}

/// What keeps a snapshot in a region, though what is decided of it by all regions together doesn't.
#[derive(Clone, Debug)]
pub struct KeptApart {
    /// The region's index.
    pub region: usize,
    /// What keeps it there.
    pub verdict: Verdict,
}

/// What keeps a snapshot in one region and was given where nobody knew of what decides over it in others, nor the
/// other way round (`VERDICT-11`): a hold that lasts longer than what decides, or an unforget where that is a forget.
/// Of several a hold, of holds the longest. Reads nothing where all verdicts lie in all regions.
///
/// # Errors
/// When a region fails. What can't be read, or nobody signed who may, says nothing.
pub fn kept_apart(repository: &Repository, placed: &[Placed]) -> Result<Option<KeptApart>, RepoError> {
    if placed.iter().all(|at| at.regions.len() == repository.regions.len()) {
        return Ok(None);
    }
    let (now, everywhere) = (repository.clock.now_ns(), 0..repository.regions.len());
    let lasts = |verdict: &Verdict| match verdict.ruling {
        Ruling::Hold => verdict.until.unwrap_or(i64::MAX),
        Ruling::Forget | Ruling::Unforget | Ruling::Release => i64::MIN,
    };
    let top = highest(repository, placed.iter())?;
    let deciding: BTreeSet<usize> = top.iter().flat_map(|(at, _)| &at.regions).copied().collect();
    let held_until = top.iter().map(|(_, verdict)| lasts(verdict)).max().unwrap_or(i64::MIN);
    let forgotten = !top.is_empty() && top.iter().all(|(_, verdict)| verdict.ruling == Ruling::Forget);
    let mut kept: Option<KeptApart> = None;
    for region in everywhere.filter(|at| !deciding.contains(at)) {
        for (at, verdict) in highest(repository, placed.iter().filter(|at| at.regions.contains(&region)))? {
            let until = lasts(&verdict);
            let keeps = match verdict.ruling {
                Ruling::Hold => until > now && until > held_until,
                Ruling::Unforget => forgotten,
                Ruling::Forget | Ruling::Release => false,
            };
            let is_more = kept.as_ref().is_none_or(|kept| until > lasts(&kept.verdict));
            if keeps && is_more && !at.regions.iter().any(|region| deciding.contains(region)) {
                kept = Some(KeptApart { region, verdict });
            }
        }
    }
    Ok(kept)
}

/// Those of the highest number at which any can be read.
fn highest<'a>(
    repository: &Repository,
    placed: impl Iterator<Item = &'a Placed>,
) -> Result<Vec<(&'a Placed, Verdict)>, RepoError> {
    let mut by_number: BTreeMap<u64, Vec<&Placed>> = BTreeMap::new();
    placed.for_each(|at| by_number.entry(at.number).or_default().push(at));
    for all in by_number.into_values().rev() {
        let mut read = Vec::new();
        for at in all {
            read.extend(read_placed(repository, at)?.map(|verdict| (at, verdict)));
        }
        if !read.is_empty() {
            return Ok(read);
        }
    }
    Ok(Vec::new())
}

fn read_placed(repository: &Repository, placed: &Placed) -> Result<Option<Verdict>, RepoError> {
    let Some((id, number, digest)) = parse_numbered(&placed.name, "verdicts/") else { return Ok(None) };
    for region in placed.regions.iter().map(|at| &repository.regions[*at]) {
        match read_numbered(repository, region, &placed.name, ObjectKind::Verdict, digest) {
            Ok((payload, _)) => {
                let verdict = Verdict::decode(&payload).ok();
                return Ok(verdict.filter(|verdict| verdict.snapshot == id && verdict.number == number));
            }
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Verdicts' names with their numbers, by snapshot.
type Names = BTreeMap<SnapshotId, Vec<(String, u64)>>;

/// What names of verdicts of these begin with.
fn under(ids: &BTreeSet<SnapshotId>) -> String {
    match ids.first() {
        Some(id) if ids.len() == 1 => format!("{id}/"),
        _ => String::new(),
    }
}

/// The verdicts that lie in reached regions, also those that can't be read: a number above theirs wins when they can.
fn names_of(repository: &Repository, ids: &BTreeSet<SnapshotId>) -> Result<Names, RepoError> {
    Ok(names_in(placed(repository, Some(ids))?))
}

fn names_in(placed: BTreeMap<SnapshotId, Vec<Placed>>) -> Names {
    let names = |all: Vec<Placed>| all.into_iter().map(|at| (at.name, at.number)).collect();
    placed.into_iter().map(|(id, all)| (id, names(all))).collect()
}

/// Says it of each of them, above all that is known; gives the names and numbers.
fn put_all(
    repository: &Repository,
    ids: &BTreeSet<SnapshotId>,
    known: &Names,
    decree: &Decree,
    now: i64,
    no_room: &mut NoRoom,
) -> Result<BTreeMap<SnapshotId, (String, u64)>, RepoError> {
    let mut numbered = Vec::with_capacity(ids.len());
    for id in ids {
        // Numbers begin at 1; one that somebody put at the very end leaves no room above it.
        let highest = known.get(id).and_then(|names| names.iter().map(|(_, number)| *number).max()).unwrap_or(0);
        let number = highest.checked_add(1);
        let number = number.ok_or_else(|| RepoError::Verdict(format!("snapshot {id} has no verdict number left")))?;
        numbered.push((*id, number));
    }
    let full = Mutex::new(std::mem::take(no_room));
    let known_full = || full.lock().unwrap_or_else(PoisonError::into_inner);
    let put = at_once(&numbered, |(id, number)| {
        let mut full = known_full().clone();
        let name = put_one(repository, *id, *number, decree, now, &mut full)?;
        known_full().extend(full);
        Ok((*id, (name, *number)))
    })?;
    *no_room = full.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(put.into_iter().collect())
}

/// True if, besides what was known, there is anything else beside mine, above it, or beside what it followed.
fn is_contested(seen: &[(String, u64)], known: Option<&Vec<(String, u64)>>, mine: Option<&(String, u64)>) -> bool {
    let Some((mine, number)) = mine else { return true };
    let is_known = |name| name == mine || known.is_some_and(|known| known.iter().any(|(known, _)| known == name));
    seen.iter().any(|(name, at)| at.saturating_add(1) >= *number && !is_known(name))
}

/// Whether what was said of a snapshot stands beside what others said; false where it has to be said again above them.
/// Of what keeps a snapshot, all at the highest number have to do so: whoever follows only one of them heeds it.
///
/// # Errors
/// Where theirs counts.
fn stands(repository: &Repository, id: SnapshotId, decree: &Decree, now: i64) -> Result<bool, RepoError> {
    let mut issues = Vec::new();
    let decisions = read_decisions(repository, &format!("{id}/"), None, &mut issues)?;
    let Some(decision) = decisions.get(&id) else { return Ok(false) };
    let Some(effective) = decision.effective() else { return Ok(false) };
    let unread = issues.iter().any(|issue| speaks_of(&issue.subject, &id));
    let all = |agrees: fn(Ruling) -> bool| !unread && decision.rulings().all(agrees);
    let lasts = |until: Option<i64>| until.unwrap_or(i64::MAX);
    match decree.ruling {
        Ruling::Hold => Ok(all(|ruling| ruling == Ruling::Hold) && lasts(effective.until) >= lasts(decree.until)),
        // Above a hold it would end that; whoever holds sees to it that this stays.
        Ruling::Unforget => Ok(effective.ruling == Ruling::Hold || all(|ruling| ruling != Ruling::Forget)),
        Ruling::Release if effective.holds(now) => Err(overruled(id, &effective)),
        Ruling::Forget if effective.ruling != Ruling::Forget => Err(overruled(id, &effective)),
        Ruling::Release | Ruling::Forget => Ok(true),
    }
}

fn overruled(id: SnapshotId, theirs: &Effective) -> RepoError {
    let still = if theirs.ruling == Ruling::Hold { "it is on hold" } else { "it isn't forgotten" };
    RepoError::Contended { what: format!("snapshot {id} ({still}: {})", theirs.reason) }
}

fn held(id: SnapshotId, hold: &Effective) -> RepoError {
    RepoError::Held { id, until: hold.until.map(time_text), reason: hold.reason.clone() }
}

/// Waits before something is put again, each time longer: others that put at the same time wait another while.
pub(super) fn pause(repository: &Repository, puts: u32) {
    let part = u64::from(u16::from_le_bytes(random_bytes(&*repository.random)));
    let full = 20_u64 << puts.min(6);
    repository.clock.sleep(Duration::from_millis(full * part / u64::from(u16::MAX)));
}

fn put_one(
    repository: &Repository,
    id: SnapshotId,
    number: u64,
    decree: &Decree,
    decided_at: i64,
    no_room: &mut NoRoom,
) -> Result<String, RepoError> {
    let (ruling, until) = (decree.ruling, decree.until);
    let verdict = Verdict { snapshot: id, number, ruling, decided_at, reason: decree.reason.clone(), until };
    let (bytes, digest) = object::build_sealed(
        ObjectKind::Verdict,
        &repository.keyring,
        &repository.signer(),
        verdict.encode(),
        &*repository.random,
    )?;
    let name = format!("verdicts/{id}/{}-{digest}", number_name(number));
    put_where_room(repository, &name, &bytes, no_room)?;
    Ok(name)
}

/// Puts an object into every reached region but those that have no room, which it adds to.
///
/// # Errors
/// When no region has room, or one fails for another reason.
pub(super) fn put_where_room(
    repository: &Repository,
    name: &str,
    bytes: &[u8],
    no_room: &mut NoRoom,
) -> Result<(), RepoError> {
    for (at, region) in repository.regions.iter().enumerate() {
        if no_room.contains_key(&at) {
            continue;
        }
        match put_with_retries(&*region.store, name, &bytes.to_vec().into()) {
            Ok(()) => {}
            Err(error) if error.kind == StoreErrorKind::Full && no_room.len() + 1 < repository.regions.len() => {
                no_room.insert(at, error);
            }
            Err(error) => return Err(region.error(error)),
        }
    }
    Ok(())
}

fn speaks_of(subject: &[u8], id: &SnapshotId) -> bool {
    let needle = format!(":verdicts/{id}/");
    subject.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn time_text(at: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at)).map_or_else(|_| format!("{at} ns"), |at| at.to_string())
}

pub(super) fn action_of(ruling: Ruling) -> Action {
    match ruling {
        Ruling::Forget => Action::Forget,
        Ruling::Unforget => Action::Unforget,
        Ruling::Hold => Action::Hold,
        Ruling::Release => Action::Release,
    }
}

/// What an unforget came to in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unforgotten {
    /// It counts there, and nothing that was begun can collect it.
    Counts,
    /// This generation's fence named it before: only its final says whether it stays (`VERDICT-6`).
    InDoubt(u64),
    /// It doesn't count there: it was never committed there, or is collected.
    Absent,
}

/// Listed **after** the verdict: what it came to in each reached region.
///
/// # Errors
/// When a region's log or commits can't be read.
pub fn unforgotten(repository: &Repository, id: SnapshotId) -> Result<Vec<Unforgotten>, RepoError> {
    // The log before the commits: a snapshot that a final collects in between is then absent.
    let mut doubtful = Vec::new();
    for region in &repository.regions {
        let log = gclog::read(repository, region)?;
        let generation = log.open.as_ref().map_or(log.newest, |open| open.number);
        doubtful.push(log.is_doubtful_snapshot(&id).then_some(generation));
    }
    let listing = super::snapshots::list(repository)?;
    let counts = listing.snapshots.iter().find(|info| info.id == id).map(|info| &info.regions);
    let outcome = |(at, doubt): (usize, Option<u64>)| match doubt {
        Some(generation) => Unforgotten::InDoubt(generation),
        None if counts.is_some_and(|regions| regions.contains(&at)) => Unforgotten::Counts,
        None => Unforgotten::Absent,
    };
    Ok(doubtful.into_iter().enumerate().map(outcome).collect())
}

/// The ids of all snapshots that a reached region holds, counted, forgotten or collected: the objects stay.
///
/// # Errors
/// When a region can't be listed.
pub fn stored(repository: &Repository) -> Result<BTreeSet<SnapshotId>, RepoError> {
    let mut ids = BTreeSet::new();
    for region in &repository.regions {
        for listed in list_sorted(&*region.store, "snapshots/").map_err(|e| region.error(e))? {
            ids.extend(listed.name.strip_prefix("snapshots/").and_then(SnapshotId::from_hex));
        }
    }
    Ok(ids)
}

//! Putting verdicts: forget, unforget, hold, release; and what became of an unforget.
//! Page: `format-spec/verdict.md`.
//!
//! Guarantees: only owners and maintainers; the audit entry goes before the first verdict (`AUDIT-6`); a
//! verdict's number is above every one that is seen (`VERDICT-2`); what is on hold isn't forgotten
//! (`VERDICT-4`).

use super::at_once::at_once;
use super::audit::{Act, NoRoom, record_where_room};
use super::open::{DECIDERS, Repository};
use super::snapshots::{parse_numbered, read_decisions};
use super::{RepoError, gclog};
use crate::crypto::object;
use crate::format::audit::Action;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{SlotId, SnapshotId, number_name};
use crate::format::verdict::{Ruling, Verdict};
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

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

/// Records what is about to be said in the audit chain, then says it of each snapshot, in every reached
/// region that has room. All are checked before anything is written. Gives the regions that have no room, where
/// not all of it is said: a replication brings it there.
///
/// # Errors
/// When this slot may not decide; [`RepoError::Held`] for a forget of what is on hold; when a verdict can't
/// be read or a region not be written, after which some may be said and others not: saying it again is safe.
pub fn put(repository: &Repository, ids: &BTreeSet<SnapshotId>, decree: &Decree) -> Result<NoRoom, RepoError> {
    repository.require(&DECIDERS, "decide over snapshots")?;
    if decree.until.is_some() && decree.ruling != Ruling::Hold {
        return Err(RepoError::Verdict("VERDICT-7: only a hold has an end".to_owned()));
    }
    let mut no_room = NoRoom::new();
    if ids.is_empty() {
        return Ok(no_room);
    }
    let mut issues = Vec::new();
    let decisions = read_decisions(repository, "", None, &mut issues)?;
    let now = repository.clock.now_ns();
    for id in ids.iter().filter(|_| decree.ruling == Ruling::Forget) {
        // A verdict that can't be read may be a hold.
        if let Some(issue) = issues.iter().find(|issue| speaks_of(&issue.subject, id)) {
            let subject = String::from_utf8_lossy(&issue.subject);
            return Err(RepoError::Verdict(format!("snapshot {id} may be on hold: {subject}: {}", issue.detail)));
        }
        if let Some(hold) = decisions.get(id).and_then(|known| known.effective()).filter(|known| known.holds(now)) {
            let until = hold.until.map(time_text);
            return Err(RepoError::Held { id: *id, until, reason: hold.reason });
        }
    }
    let mut highest: BTreeMap<SnapshotId, u64> = BTreeMap::new();
    for region in &repository.regions {
        for listed in list_sorted(&*region.store, "verdicts/").map_err(|e| region.error(e))? {
            // Also of what can't be read: a number above it wins when it can.
            if let Some((id, number, _)) = parse_numbered(&listed.name, "verdicts/").filter(|(id, ..)| ids.contains(id))
            {
                let known = highest.entry(id).or_default();
                *known = number.max(*known);
            }
        }
    }
    let acted = |action, ids: &BTreeSet<SnapshotId>| {
        ids.iter().fold(Act::new(action), |act, id| act.on(&id.0)).because(&decree.reason)
    };
    if !decree.below_floors.is_empty() {
        no_room = record_where_room(repository, &acted(Action::BreakFloor, &decree.below_floors))?.no_room;
    }
    no_room.extend(record_where_room(repository, &acted(action_of(decree.ruling), ids))?.no_room);
    let mut numbered = Vec::with_capacity(ids.len());
    for id in ids {
        // Numbers begin at 1; one that somebody put at the very end leaves no room above it.
        let number = highest.get(id).copied().unwrap_or(0).checked_add(1);
        let number = number.ok_or_else(|| RepoError::Verdict(format!("snapshot {id} has no verdict number left")))?;
        numbered.push((*id, number));
    }
    let no_room = Mutex::new(no_room);
    let known = || no_room.lock().unwrap_or_else(PoisonError::into_inner);
    at_once(&numbered, |(id, number)| {
        let mut full = known().clone();
        put_one(repository, *id, *number, decree, now, &mut full)?;
        known().extend(full);
        Ok(())
    })?;
    Ok(no_room.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn put_one(
    repository: &Repository,
    id: SnapshotId,
    number: u64,
    decree: &Decree,
    decided_at: i64,
    no_room: &mut NoRoom,
) -> Result<(), RepoError> {
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
    put_where_room(repository, &name, &bytes, no_room)
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

//! What to keep: pure decisions over what is known of snapshots. Page: `format-spec/retention.md`.
//!
//! Guarantees: takes `now` and reads no clock, store or configuration; the same input gives the same answer
//! on every machine; a snapshot that can't be trusted to stand for its time never makes another one go
//! (`RETAIN-2`). Who calls it acts on the answer.

pub mod calendar;
pub mod floor;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod window;

pub use floor::{Broken, broken_floors};
pub use standing::Standing;

use crate::format::ids::{SlotId, SnapshotId};
use calendar::{Period, bucket, cutoff};
use jiff::Span;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// What a policy knows of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: SnapshotId,
    /// The series it says it belongs to.
    pub dataset: String,
    /// The host it says it was taken on.
    pub host: String,
    /// The slot that signed it: the only one of these that nobody else can claim.
    pub slot: SlotId,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// When it says that it was begun, nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// When it says that its source was read, nanoseconds since the Unix epoch.
    pub finished_at: i64,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Something was not captured.
    pub partial: bool,
    /// In how many regions it counts.
    pub regions: usize,
    /// It is on hold.
    pub held: bool,
    /// It was asked about. What wasn't stays, and takes no slot, but speaks for and against others.
    pub considered: bool,
    /// For each log that holds it, by the log's index: the generation that first saw it; `None` where it is
    /// newer than every final.
    pub seen: Vec<(usize, Option<u64>)>,
}

/// What a collection log adds to what snapshots say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Its newest generation with a final; 0 for none.
    pub newest: u64,
    /// When generations ended, by their collector's clock, as far as that was recorded.
    pub ended_at: BTreeMap<u64, i64>,
}

/// How many snapshots to keep, newest first, one a period.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the fields are named after the options that they come from")]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Everything that is younger than this, and the newest that is older: the state when the span began.
    pub within: Option<Span>,
    /// Everything that has one of these tags.
    pub tags: BTreeSet<String>,
}

impl Keep {
    /// True when it would keep nothing: no rule at all.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| *count == 0) && self.within.is_none() && self.tags.is_empty()
    }
}

/// By what snapshots are told into groups; each group is judged by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named after what they group by")]
pub struct GroupBy {
    pub dataset: bool,
    pub host: bool,
    pub slot: bool,
    pub tags: bool,
}

impl Default for GroupBy {
    /// Dataset, host and slot: a slot can't push out what another one wrote (`RETAIN-6`).
    fn default() -> Self {
        GroupBy { dataset: true, host: true, slot: true, tags: false }
    }
}

/// What a group has in common; what it isn't grouped by is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the fields are named after what they group by")]
pub struct GroupKey {
    pub dataset: Option<String>,
    pub host: Option<String>,
    pub slot: Option<SlotId>,
    pub tags: Option<BTreeSet<String>>,
}

/// A retention policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What takes keep slots.
    pub keep: Keep,
    /// By what snapshots are grouped.
    pub group_by: GroupBy,
    /// A snapshot of fewer bytes is small; 0 for no such rule.
    pub least_bytes: u64,
    /// A snapshot of fewer files is small; 0 for no such rule.
    pub least_files: u64,
    /// A snapshot that lost more than this many percent of the bytes of the good one before it has shrunk.
    pub greatest_shrink_percent: Option<u8>,
    /// In how many regions a snapshot must count.
    pub regions: usize,
    /// Nothing younger is forgotten, nor the newest that is older.
    pub minimum_age: Option<Span>,
    /// A group never has fewer good snapshots left.
    pub minimum_copies: u32,
    /// By how much clocks may disagree.
    pub clock_slack: Span,
    /// Where days begin and end.
    pub time_zone: TimeZone,
    /// Snapshots that somebody looked at and calls good.
    pub accepted: BTreeSet<SnapshotId>,
    /// The floors don't hold this time.
    pub break_floors: bool,
}

impl Default for Policy {
    /// No rule to keep by: only for filling in.
    fn default() -> Self {
        Policy {
            keep: Keep::default(),
            group_by: GroupBy::default(),
            least_bytes: 0,
            least_files: 0,
            greatest_shrink_percent: None,
            regions: 1,
            minimum_age: None,
            minimum_copies: 1,
            clock_slack: Span::new().hours(1),
            time_zone: TimeZone::UTC,
            accepted: BTreeSet::new(),
            break_floors: false,
        }
    }
}

/// Why a snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is on hold.
    Held,
    /// One of the newest.
    Last,
    /// The newest of its period.
    Newest(Period),
    /// Younger than `keep_within`.
    Within,
    /// The newest that is older than `keep_within`: what stood when that span began.
    BeforeWithin,
    /// It has this tag.
    Tag(String),
    /// It takes no keep slot, and nobody has judged it yet.
    SetAside,
    /// A floor: younger than `minimum_age`, or not known to be older.
    TooYoung,
    /// A floor: the newest that is older than `minimum_age`, what stood when that span began.
    BeforeYoung,
    /// A floor: its group would have fewer good snapshots than `minimum_copies`.
    Copies,
    /// It proves that another one's time is wrong, or that it has shrunk.
    Witness,
    /// It wasn't asked about.
    NotAsked,
}

/// What becomes of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whether it may take a keep slot.
    pub standing: Standing,
    /// Why it stays; empty when it goes.
    pub reasons: BTreeSet<Reason>,
    /// When a floor was overridden: which one would have kept it.
    pub broken: BTreeSet<Reason>,
}

impl Decision {
    /// True when it stays.
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// A group with what becomes of its snapshots, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they have in common.
    pub key: GroupKey,
    /// One decision each.
    pub decisions: Vec<Decision>,
}

/// Tells snapshots into groups, each oldest first by what they claim.
pub fn grouped<'a>(by: &GroupBy, candidates: &'a [Candidate]) -> BTreeMap<GroupKey, Vec<&'a Candidate>> {
    let mut groups: BTreeMap<GroupKey, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        let key = GroupKey {
            dataset: by.dataset.then(|| candidate.dataset.clone()),
            host: by.host.then(|| candidate.host.clone()),
            slot: by.slot.then_some(candidate.slot),
            tags: by.tags.then(|| candidate.tags.clone()),
        };
        groups.entry(key).or_default().push(candidate);
    }
    groups.values_mut().for_each(|group| group.sort_by_key(|candidate| (candidate.started_at, candidate.id)));
    groups
}

/// Decides which snapshots stay. `now` is in nanoseconds since the Unix epoch; `logs` are those of the
/// regions, by the index that [`Candidate::seen`] uses.
pub fn plan(policy: &Policy, candidates: &[Candidate], logs: &[Log], now: i64) -> Vec<Group> {
    let groups = grouped(&policy.group_by, candidates);
    groups.into_iter().map(|(key, group)| plan_group(policy, key, &group, logs, now)).collect()
}

fn plan_group(policy: &Policy, key: GroupKey, group: &[&Candidate], logs: &[Log], now: i64) -> Group {
    let judged = standing::judge(policy, group, logs, now);
    let mut decisions: Vec<Decision> = group
        .iter()
        .zip(&judged.standings)
        .map(|(candidate, standing)| Decision {
            id: candidate.id,
            standing: standing.clone(),
            reasons: BTreeSet::new(),
            broken: BTreeSet::new(),
        })
        .collect();
    let within = policy.keep.within.as_ref().map(|span| cutoff(now, span, &policy.time_zone));
    for (candidate, decision) in group.iter().zip(&mut decisions) {
        if !candidate.considered {
            decision.reasons.insert(Reason::NotAsked);
        }
        if candidate.held {
            decision.reasons.insert(Reason::Held);
        }
        let kept = candidate.tags.intersection(&policy.keep.tags).cloned().map(Reason::Tag);
        decision.reasons.extend(kept);
        if within.is_some_and(|since| candidate.started_at >= since) {
            decision.reasons.insert(Reason::Within);
        }
        if decision.standing.is_set_aside() {
            decision.reasons.insert(Reason::SetAside);
        }
    }
    if let Some(since) = within {
        let older = |at: &usize| group[*at].considered && group[*at].started_at < since;
        for at in newest_of(&judged.standings, older) {
            decisions[at].reasons.insert(Reason::BeforeWithin);
        }
    }
    // Two lanes: what is incomplete competes with its like alone (RETAIN-2).
    for lane in [Standing::is_good, Standing::is_incomplete] {
        let places: Vec<usize> =
            (0..group.len()).filter(|at| group[*at].considered && lane(&decisions[*at].standing)).collect();
        let rules = [
            (policy.keep.last, None),
            (policy.keep.hourly, Some(Period::Hour)),
            (policy.keep.daily, Some(Period::Day)),
            (policy.keep.weekly, Some(Period::Week)),
            (policy.keep.monthly, Some(Period::Month)),
            (policy.keep.yearly, Some(Period::Year)),
        ];
        for (count, period) in rules {
            let (mut left, mut last) = (count, None);
            for at in places.iter().rev() {
                if left == 0 {
                    break;
                }
                let Some(period) = period else {
                    decisions[*at].reasons.insert(Reason::Last);
                    left -= 1;
                    continue;
                };
                let bucket = bucket(period, group[*at].started_at, &policy.time_zone);
                if last != Some(bucket) {
                    last = Some(bucket);
                    decisions[*at].reasons.insert(Reason::Newest(period));
                    left -= 1;
                }
            }
        }
    }
    let ruled: BTreeSet<SnapshotId> =
        decisions.iter().filter(|decision| !decision.stays()).map(|decision| decision.id).collect();
    for (id, floor) in floor::floors(policy, group, &judged.standings, &ruled, logs, now) {
        for decision in decisions.iter_mut().filter(|decision| decision.id == id) {
            let list = if policy.break_floors { &mut decision.broken } else { &mut decision.reasons };
            list.insert(floor.clone());
        }
    }
    // What convicts a suspect stays with it: else the suspect would stand as good once it is gone.
    for witnesses in &judged.witnesses {
        if !witnesses.iter().any(|at| decisions[*at].stays())
            && let Some(newest) = witnesses.iter().max()
        {
            decisions[*newest].reasons.insert(Reason::Witness);
        }
    }
    Group { key, decisions }
}

/// The newest good one of those that `among` names, and the newest incomplete one where that is newer still: what a
/// restore would give for the end of their time, and what it would give of what is whole (`RETAIN-2`).
fn newest_of(standings: &[Standing], among: impl Fn(&usize) -> bool) -> impl Iterator<Item = usize> {
    let newest = |lane: fn(&Standing) -> bool| (0..standings.len()).rev().find(|at| among(at) && lane(&standings[*at]));
    let good = newest(Standing::is_good);
    let incomplete = newest(Standing::is_incomplete).filter(|at| good.is_none_or(|good| *at > good));
    good.into_iter().chain(incomplete)
}

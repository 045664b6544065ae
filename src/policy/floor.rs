//! Floors: what no policy and no person forgets without saying so twice.

use super::calendar::{cutoff, later};
use super::{Candidate, Log, Policy, Reason, Standing, grouped, newest_of, standing};
use crate::format::ids::SnapshotId;
use std::collections::BTreeSet;

/// A snapshot that can't be forgotten without overriding a floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The snapshot.
    pub id: SnapshotId,
    /// [`Reason::TooYoung`], [`Reason::BeforeYoung`] or [`Reason::Copies`].
    pub floor: Reason,
}

/// The floors that forgetting these snapshots would break, whatever the rest of the policy says.
pub fn broken_floors(
    policy: &Policy,
    candidates: &[Candidate],
    forgotten: &BTreeSet<SnapshotId>,
    logs: &[Log],
    now: i64,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for group in grouped(&policy.group_by, candidates).into_values() {
        let standings = standing::judge(policy, &group, logs, now).standings;
        let found = floors(policy, &group, &standings, forgotten, logs, now);
        broken.extend(found.into_iter().map(|(id, floor)| Broken { id, floor }));
    }
    broken
}

/// Which of `forgotten` a floor keeps, and which floor.
pub(super) fn floors(
    policy: &Policy,
    group: &[&Candidate],
    standings: &[Standing],
    forgotten: &BTreeSet<SnapshotId>,
    logs: &[Log],
    now: i64,
) -> Vec<(SnapshotId, Reason)> {
    let goes = |at: &usize| forgotten.contains(&group[*at].id);
    let mut kept: Vec<(usize, Reason)> = Vec::new();
    if let Some(age) = &policy.minimum_age {
        let since = cutoff(now, age, &policy.time_zone);
        let aged = |from: i64| later(from, age, &policy.time_zone) <= now;
        let young = |at: usize| group[at].started_at > since || !known_to_be_old(group[at], logs, &aged);
        kept.extend((0..group.len()).filter(|at| goes(at) && young(*at)).map(|at| (at, Reason::TooYoung)));
        let before = newest_of(standings, |at| !young(*at)).filter(goes);
        kept.extend(before.map(|at| (at, Reason::BeforeYoung)));
    }
    // Good ones first, the newest of them first; only where these don't suffice, others.
    let other = |at: &usize| !standings[*at].is_good() && !matches!(standings[*at], Standing::Suspect(_));
    let rank = |at: &usize| (standings[*at].is_good(), other(at), *at);
    let stays = |at: &usize| !goes(at) || kept.iter().any(|(other, _)| other == at);
    let wanted = policy.minimum_copies as usize;
    let mut copies = (0..group.len()).filter(|at| stays(at) && standings[*at].is_good()).count();
    let mut going: Vec<usize> = (0..group.len()).filter(|at| !stays(at)).collect();
    going.sort_by_key(|at| std::cmp::Reverse(rank(at)));
    // Where good ones go, each that is missing is one too many; where there are too few good ones anyway,
    // whatever else there is counts as well.
    let others = (0..group.len()).filter(|at| stays(at) && other(at)).count();
    for at in going {
        let enough = match standings[at].is_good() {
            true => copies >= wanted,
            false => copies + others >= wanted,
        };
        if enough {
            continue;
        }
        copies += 1;
        kept.push((at, Reason::Copies));
    }
    kept.into_iter().map(|(at, reason)| (group[at].id, reason)).collect()
}

/// A snapshot's own time is its writer's word. Where there are collections, one of them must have seen it,
/// and where it is known when that one ended, that must be long enough ago, too.
fn known_to_be_old(candidate: &Candidate, logs: &[Log], aged: &dyn Fn(i64) -> bool) -> bool {
    let mut collected = candidate
        .seen
        .iter()
        .filter_map(|(at, seen)| logs.get(*at).filter(|log| log.newest > 0).map(|log| (log, *seen)));
    let mut any = false;
    let old = collected.any(|(log, seen)| {
        any = true;
        seen.is_some_and(|generation| log.ended_at.get(&generation).is_none_or(|ended_at| aged(*ended_at)))
    });
    old || !any
}

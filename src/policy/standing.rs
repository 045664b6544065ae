//! Whether a snapshot may take a keep slot: whole, large enough, everywhere, and not at odds with time.
//!
//! What a snapshot says of its time is its writer's word. What a collection log says is that a snapshot was
//! there when a generation was marked. Where the two can't both be true, the snapshot is suspect: it takes no
//! slot, and it isn't forgotten either, until somebody has looked.

use super::calendar::later;
use super::{Candidate, Log, Policy};

/// A snapshot's standing in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may take a keep slot.
    Good,
    /// Something was not captured; it competes with its like.
    Partial,
    /// Fewer bytes or files than the policy's least; it competes with its like.
    Small(String),
    /// It lost too much against the good one before it; set aside.
    Shrunk(String),
    /// It isn't in all regions yet; set aside.
    Pending(String),
    /// Its time can't be true; set aside.
    Suspect(String),
}

impl Standing {
    /// `good`, `partial`, `small`, `shrunk`, `pending` or `suspect`.
    pub fn name(&self) -> &'static str {
        match self {
            Standing::Good => "good",
            Standing::Partial => "partial",
            Standing::Small(_) => "small",
            Standing::Shrunk(_) => "shrunk",
            Standing::Pending(_) => "pending",
            Standing::Suspect(_) => "suspect",
        }
    }

    /// Why, for a person; empty where the name says it.
    pub fn detail(&self) -> &str {
        match self {
            Standing::Good | Standing::Partial => "",
            Standing::Small(why) | Standing::Shrunk(why) | Standing::Pending(why) | Standing::Suspect(why) => why,
        }
    }

    /// True when it may take a keep slot.
    pub fn is_good(&self) -> bool {
        *self == Standing::Good
    }

    /// True when it competes for slots of its own: what it lacks is its own matter and never changes.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, Standing::Partial | Standing::Small(_))
    }

    /// True when it takes no slot and stays until somebody judges it.
    pub fn is_set_aside(&self) -> bool {
        !self.is_good() && !self.is_incomplete()
    }
}

/// What [`judge`] finds.
pub(super) struct Judged {
    /// By place in the group.
    pub standings: Vec<Standing>,
    /// For each that is set aside because of others: the places of those.
    pub witnesses: Vec<Vec<usize>>,
}

/// Judges a group, oldest first by what its snapshots claim.
pub(super) fn judge(policy: &Policy, group: &[&Candidate], logs: &[Log], now: i64) -> Judged {
    let slack = |at: i64| later(at, &policy.clock_slack, &policy.time_zone);
    let accepted = |candidate: &Candidate| policy.accepted.contains(&candidate.id);
    let mut standings: Vec<Option<Standing>> = vec![None; group.len()];
    let mut witnesses = Vec::new();
    // Later than the present, or than the end of a generation that saw it.
    for (at, candidate) in group.iter().enumerate() {
        if accepted(candidate) {
            standings[at] = Some(Standing::Good);
        } else if candidate.started_at > slack(now) {
            standings[at] = Some(Standing::Suspect("it claims to be from the future".to_owned()));
        } else if let Some(generation) = seen_before_it_began(candidate, logs, &slack) {
            let why = format!("generation {generation} saw it before the time that it claims");
            standings[at] = Some(Standing::Suspect(why));
        }
    }
    // At odds with the order in which generations saw the group's snapshots.
    let contradicted: Vec<Vec<usize>> = (0..group.len())
        .map(|at| match standings[at] {
            Some(_) => Vec::new(),
            None => contradicting(group, at, logs, &standings, &slack),
        })
        .collect();
    for (at, against) in contradicted.into_iter().enumerate() {
        if against.is_empty() {
            continue;
        }
        let why = "it claims to be older than one that a generation saw before it".to_owned();
        standings[at] = Some(Standing::Suspect(why));
        for witness in &against {
            // Without a time for the generation, the witness may be the one that lies, by coming early.
            if standings[*witness].is_none() && !is_dated(group[*witness], logs) {
                let why = "a later generation saw one that claims to be older, and which of them lies isn't known";
                standings[*witness] = Some(Standing::Suspect(why.to_owned()));
            }
        }
        witnesses.push(against);
    }
    // In the order of time, so that "the good one before it" is known.
    let mut before: Option<usize> = None;
    let mut judged = Vec::new();
    for (at, standing) in standings.into_iter().enumerate() {
        let standing = standing.unwrap_or_else(|| judge_content(policy, group[at], before.map(|before| group[before])));
        match &standing {
            Standing::Good => before = Some(at),
            Standing::Shrunk(_) => witnesses.extend(before.map(|before| vec![before])),
            _ => {}
        }
        judged.push(standing);
    }
    Judged { standings: judged, witnesses }
}

/// The first generation that saw a snapshot and ended before the snapshot says that it was begun.
fn seen_before_it_began(candidate: &Candidate, logs: &[Log], slack: &dyn Fn(i64) -> i64) -> Option<u64> {
    candidate.seen.iter().find_map(|(log, generation)| {
        let generation = (*generation)?;
        let ended_at = logs.get(*log)?.ended_at.get(&generation)?;
        (candidate.started_at > slack(*ended_at)).then_some(generation)
    })
}

/// True when it is known when some generation that saw it ended.
fn is_dated(candidate: &Candidate, logs: &[Log]) -> bool {
    candidate.seen.iter().any(|(log, generation)| {
        let ended_at = logs.get(*log).zip(*generation).and_then(|(log, generation)| log.ended_at.get(&generation));
        ended_at.is_some()
    })
}

/// Places of the snapshots that contradict one: seen by an earlier generation, and begun after it says that
/// it ended. In every log that has it and any final, since in a region that it was copied to late it comes
/// after younger ones.
fn contradicting(
    group: &[&Candidate],
    at: usize,
    logs: &[Log],
    standings: &[Option<Standing>],
    slack: &dyn Fn(i64) -> i64,
) -> Vec<usize> {
    let candidate = group[at];
    let mut all = Vec::new();
    for (log, generation) in &candidate.seen {
        let Some(known) = logs.get(*log).filter(|known| known.newest > 0) else { continue };
        let generation = generation.unwrap_or(known.newest + 1);
        let against: Vec<usize> = (0..group.len())
            .filter(|other| {
                // What is suspect itself accuses nobody.
                let trusted = matches!(standings[*other], None | Some(Standing::Good));
                let seen = group[*other].seen.iter().find(|(at, _)| at == log).and_then(|(_, seen)| *seen);
                let earlier = seen.is_some_and(|seen| seen < generation);
                trusted && earlier && group[*other].started_at > slack(candidate.finished_at.max(candidate.started_at))
            })
            .collect();
        if against.is_empty() {
            return Vec::new();
        }
        all.extend(against);
    }
    all
}

fn judge_content(policy: &Policy, candidate: &Candidate, before: Option<&Candidate>) -> Standing {
    if candidate.regions < policy.regions {
        return Standing::Pending(format!("it counts in {} of {} regions", candidate.regions, policy.regions));
    }
    if candidate.partial {
        return Standing::Partial;
    }
    if candidate.bytes < policy.least_bytes {
        return Standing::Small(format!("{} bytes, and {} are the least", candidate.bytes, policy.least_bytes));
    }
    if candidate.files < policy.least_files {
        return Standing::Small(format!("{} files, and {} are the least", candidate.files, policy.least_files));
    }
    if let (Some(percent), Some(before)) = (policy.greatest_shrink_percent, before) {
        let left = u128::from(100u8.saturating_sub(percent));
        if u128::from(candidate.bytes) * 100 < u128::from(before.bytes) * left {
            let why = format!("{} bytes, and the good one before it has {}", candidate.bytes, before.bytes);
            return Standing::Shrunk(why);
        }
    }
    Standing::Good
}

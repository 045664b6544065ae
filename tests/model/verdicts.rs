//! Who forgets and unforgets (VERDICT-2, VERDICT-6, VERDICT-10), and who lists snapshots (COUNT-1, COUNT-2).

use crate::scenario::{Rule, Scenario};
use crate::state::State;
use crate::store::{FENCE, FINAL, Region, SESSIONS, Set, has, members, one};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    #[default]
    ReadVerdicts,
    PutVerdict,
    /// Somebody else may have put one above since the number was chosen.
    LookAgain,
    ListCommits,
    ListLog,
    /// A fence without a final names the snapshot, or all that commits it.
    AwaitFinal,
    /// Told that the snapshot is kept.
    Promised,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Judge {
    pub step: Step,
    pub number: u8,
    /// Commits of the snapshot.
    pub commits: Set,
    /// It had read that the snapshot is kept, and forgets it all the same.
    pub knowing: bool,
}

/// Commits of the snapshot that no final fenced or collected.
pub fn standing(scenario: &Scenario, region: &Region, snapshot: usize) -> Set {
    let void = region.fenced() | region.collected();
    members(region.commits & !void)
        .filter(|commit| scenario.snapshot(*commit) == snapshot)
        .fold(0, |set, commit| set | one(commit))
}

pub fn step(scenario: &Scenario, state: &State, number: usize) -> Option<State> {
    let plan = scenario.judges[number];
    let mut next = *state;
    let mut judge = state.judges[number];
    let region = &mut next.regions[plan.region];
    judge.step = match judge.step {
        Step::ReadVerdicts => {
            judge.number = region.verdicts[plan.snapshot].number + 1;
            judge.knowing = plan.forget && region.verdicts[plan.snapshot].keep;
            // Nothing to take back.
            if !plan.forget && !has(region.forgotten(true), plan.snapshot) {
                return None;
            }
            Step::PutVerdict
        }
        Step::PutVerdict => {
            region.verdicts[plan.snapshot].put(judge.number, plan.forget);
            judge.number = 0;
            match (plan.forget, scenario.keeps(Rule::LookAfterVerdict)) {
                (true, _) => Step::Over,
                (false, true) => Step::LookAgain,
                (false, false) => Step::ListCommits,
            }
        }
        Step::LookAgain => {
            let highest = region.verdicts[plan.snapshot];
            judge.number = if highest.forget { highest.number + 1 } else { 0 };
            if highest.forget { Step::PutVerdict } else { Step::ListCommits }
        }
        Step::ListCommits => {
            judge.commits = standing(scenario, region, plan.snapshot);
            match (judge.commits, scenario.keeps(Rule::ListAfterUnforget)) {
                (0, _) => Step::Over,
                (_, true) => Step::ListLog,
                (_, false) => Step::Promised,
            }
        }
        Step::ListLog => {
            let open = region.log.iter().filter(|generation| generation.is(FENCE) && !generation.is(FINAL));
            let named = open.fold(0, |set, generation| set | generation.forgotten);
            let doubted = if scenario.keeps(Rule::PromiseWhatCounts) { region.in_doubt() } else { 0 };
            let stands = judge.commits & !(region.fenced() | region.collected());
            judge.commits = 0;
            match (has(named, plan.snapshot), stands & !doubted, stands) {
                (false, 0, 0) => Step::Over,
                (true, _, _) | (_, 0, _) => Step::AwaitFinal,
                (false, _, _) => Step::Promised,
            }
        }
        Step::AwaitFinal if region.log.iter().any(|generation| generation.is(FENCE) && !generation.is(FINAL)) => {
            return None;
        }
        Step::AwaitFinal => Step::ListCommits,
        Step::Promised | Step::Over => return None,
    };
    next.judges[number] = judge;
    Some(next)
}

/// Lists the commits, and then the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    pub listings: u8,
    /// Commits that were listed, and in the end those that were shown as snapshots.
    pub commits: Set,
    /// Sessions that the log says don't count.
    pub void: Set,
}

pub fn read(scenario: &Scenario, state: &State) -> Option<State> {
    let mut next = *state;
    let region = &state.regions[scenario.reader?];
    let reader = &mut next.reader;
    let commits_now = (reader.listings == 0) == scenario.keeps(Rule::CommitsBeforeLog);
    match reader.listings {
        0 | 1 if commits_now => reader.commits = region.commits,
        0 | 1 => reader.void = region.fenced() | region.collected() | region.in_doubt(),
        _ => return None,
    }
    reader.listings += 1;
    if reader.listings == 2 {
        // What is shown must hold for as long as nobody forgets it.
        let shown = |commit: usize| {
            has(reader.commits, commit)
                && !has(reader.void, commit)
                && region.verdicts[scenario.snapshot(commit)].number == 0
        };
        reader.commits = (0..SESSIONS).filter(|at| shown(*at)).fold(0, |set, at| set | one(at));
        reader.void = 0;
    }
    Some(next)
}

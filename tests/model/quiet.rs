//! What comes of a state once faults end: a writer left alone, and three generations that nothing disturbs.
//!
//! Both run from every state, to their end and on one path each. That is stronger than a property of the end of infinite histories, and needs no fairness.

use crate::properties::{counted, restorable};
use crate::scenario::{Condemn, Scenario};
use crate::state::{Action, State, apply};
use crate::store::{FINAL, GENERATIONS, Region, SNAPSHOTS, members, one};
use crate::verdicts::standing;
use crate::{collector, writer};

/// More than any writer or any three generations take.
const STEPS_MAX: usize = 200;

/// Each writer that has an attempt left after this one, run alone and watching the log before each step, reports success.
pub fn live_writers_commit(scenario: &Scenario, state: &State) -> bool {
    (0..scenario.writers.len()).all(|number| {
        let writer = &state.writers[number];
        if writer.is_over() || writer.attempt as usize + 1 == scenario.attempts || scenario.writers[number].replica {
            return true;
        }
        let mut state = *state;
        for _ in 0..STEPS_MAX {
            let at = number as u8;
            let watch = apply(scenario, &state, Action::Writer(at, writer::WATCH));
            match watch.or_else(|| apply(scenario, &state, Action::Writer(at, 0))) {
                Some(next) => state = next,
                None => break,
            }
        }
        state.writers[number].step == writer::Step::Done
    })
}

/// Everybody is gone but one fresh collector to a region: after what is open and two generations more, three in all, each present pack holds
/// something that a standing commit reaches and no other present pack does, what was told to go is gone, and what counts can be restored.
pub fn garbage_goes(scenario: &Scenario, state: &State) -> bool {
    let mut patient = scenario.clone();
    patient.condemn = Condemn::Marked;
    patient.moves = None;
    let mut state = *state;
    state.collectors = Default::default();
    for (number, here) in scenario.collectors.iter().enumerate() {
        let newest = state.regions[*here].newest();
        let is_open = newest > 0 && state.regions[*here].generation(newest).is_open();
        let last = newest + if is_open { 2 } else { 3 };
        assert!(last <= GENERATIONS, "a state holds three generations more than a scenario begins");
        patient.generations = last;
        for _ in 0..STEPS_MAX {
            let region = &state.regions[*here];
            let is_last = region.newest() == last && region.generation(last).is(FINAL);
            if is_last && state.collectors[number].step == collector::Step::Look {
                break;
            }
            match apply(&patient, &state, Action::Collector(number as u8, 0)) {
                Some(next) => state = next,
                None => break,
            }
            let region = &mut state.regions[*here];
            region.packs &= !region.deletes;
            region.segments &= !region.segment_deletes;
        }
        if !is_clean(scenario, &state.regions[*here], last) {
            return false;
        }
    }
    true
}

fn is_clean(scenario: &Scenario, region: &Region, last: usize) -> bool {
    let live = (0..SNAPSHOTS)
        .filter(|snapshot| standing(scenario, region, *snapshot) != 0)
        .fold(0, |set, snapshot| set | scenario.reaches[snapshot]);
    let is_needed = |pack: usize| {
        members(region.chunks[pack] & live).any(|chunk| region.holding(chunk) & region.packs == one(pack))
    };
    region.newest() == last
        && region.generation(last).is(FINAL)
        && region.packs & region.dead() == 0
        && members(region.packs).all(is_needed)
        && counted(scenario, region).all(|commit| restorable(scenario, region, commit))
}

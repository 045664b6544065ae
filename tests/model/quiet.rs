//! What comes of a state once faults end: a writer left alone, and three generations that nothing disturbs.
//!
//! Both run from every state, to their end and on one path each. That is stronger than a property of the end of infinite histories, and needs no fairness.

use crate::scenario::{Condemn, Scenario};
use crate::state::{Action, State, apply};
use crate::store::{FINAL, GENERATIONS, has, members};
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

/// Everybody is gone but one fresh collector to a region: after what is open and three generations, each present pack holds something that a standing commit
/// reaches and no other present pack does, what was told to go is gone, and what counts can be restored.
pub fn garbage_goes(scenario: &Scenario, state: &State) -> bool {
    let mut patient = scenario.clone();
    patient.condemn = Condemn::Marked;
    patient.moves = None;
    patient.generations = GENERATIONS;
    let mut state = *state;
    for number in 0..scenario.collectors.len() {
        state.collectors[number] = collector::Collector::default();
    }
    for (number, here) in scenario.collectors.iter().enumerate() {
        let region = &state.regions[*here];
        let open = region.newest() > 0 && region.generation(region.newest()).is_open();
        let last = region.newest() + 3;
        let _ = open;
        patient.generations = last;
        if last > GENERATIONS {
            continue;
        }
        for _ in 0..STEPS_MAX {
            let region = &state.regions[*here];
            let over = region.newest() == last && region.generation(last).is(FINAL);
            if over && state.collectors[number].step == collector::Step::Look {
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
        let region = &state.regions[*here];
        if region.newest() != last || !region.generation(last).is(FINAL) {
            return false;
        }
        let live = (0..crate::store::SNAPSHOTS)
            .filter(|snapshot| standing(scenario, region, *snapshot) != 0)
            .fold(0, |set, snapshot| set | scenario.reaches[snapshot]);
        let needed = |pack: usize| {
            members(region.chunks[pack] & live).any(|chunk| region.holding(chunk) & region.packs == crate::store::one(pack))
        };
        if !members(region.packs).all(needed) || region.packs & region.dead() != 0 {
            return false;
        }
        let void = region.fenced() | region.collected();
        let forgotten = region.forgotten(true);
        let standing = members(region.commits & !void).filter(|commit| !has(forgotten, scenario.snapshot(*commit)));
        if !standing.into_iter().all(|commit| crate::properties::restorable(scenario, region, commit)) {
            return false;
        }
    }
    true
}

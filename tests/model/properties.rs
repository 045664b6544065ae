//! What must hold in every state, and what must happen in some.

use stateright::Property;

use crate::scenario::Scenario;
use crate::state::State;
use crate::store::{Region, has, members, one};
use crate::verdicts::standing;
use crate::{collector, quiet, verdicts, writer};

pub const RESTORABLE: &str = "a counted snapshot can be restored";
pub const NEVER_FENCED: &str = "a reported success stands until it is forgotten";
pub const PROMISE: &str = "an unforgotten snapshot that was promised is kept";
pub const SHOWN: &str = "what a reader was shown stands until it is forgotten";
pub const FORGOTTEN: &str = "a replication doesn't bring back what was forgotten before it";
pub const KEPT: &str = "what one region was told to keep isn't forgotten there by somebody who didn't know";
pub const NO_ALARM: &str = "no collector finds damage where there is none";
pub const NOT_WRONGED: &str = "who observed a condemn before the fence was read isn't fenced";
pub const COMMITS: &str = "a live writer commits once collections leave it alone";
pub const RECLAIMED: &str = "three quiet generations reclaim all garbage and nothing else";

pub const SUCCESS: &str = "some: success";
pub const REPEATED: &str = "some: success under a second session";
pub const DELETED: &str = "some: pack deleted";
pub const RESCUED: &str = "some: condemned pack kept";

pub fn of(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut properties = vec![
        Property::<Scenario>::always(RESTORABLE, |scenario, state| {
            state
                .regions
                .iter()
                .all(|region| counted(scenario, region).all(|commit| restorable(scenario, region, commit)))
        }),
        Property::<Scenario>::always(NO_ALARM, |_, state| {
            state.collectors.iter().all(|collector| collector.step != collector::Step::Stopped)
        }),
        Property::<Scenario>::sometimes(DELETED, |_, state| state.regions.iter().any(|region| region.dead() != 0)),
    ];
    if !scenario.writers.is_empty() {
        properties.extend([
            Property::<Scenario>::always(NEVER_FENCED, |scenario, state| {
                (0..scenario.writers.len()).all(|number| success_stands(scenario, state, number))
            }),
            Property::<Scenario>::always(NOT_WRONGED, |scenario, state| {
                (0..scenario.collectors.len()).all(|number| !wrongs(scenario, state, number))
            }),
            Property::<Scenario>::sometimes(SUCCESS, |_, state| {
                state.writers.iter().any(|writer| writer.step == writer::Step::Done)
            }),
        ]);
    }
    if scenario.judges.iter().any(|judge| !judge.forget) {
        properties.push(Property::<Scenario>::always(PROMISE, promises_hold));
    }
    if are_apart(scenario) {
        properties.push(Property::<Scenario>::always(KEPT, |scenario, state| {
            let knowing = state.judges.iter().any(|judge| judge.knowing);
            scenario.judges.iter().zip(&state.judges).all(|(plan, judge)| {
                let forgotten = state.regions[plan.region].forgotten(true);
                judge.step != verdicts::Step::Promised || knowing || !has(forgotten, plan.snapshot)
            })
        }));
    }
    if scenario.reader.is_some() {
        properties.push(Property::<Scenario>::always(SHOWN, |scenario, state| {
            let Some(region) = scenario.reader.map(|at| &state.regions[at]) else { return true };
            state.reader.listings < 2
                || members(state.reader.commits).all(|commit| {
                    region.verdicts[scenario.snapshot(commit)].number > 0
                        || standing(scenario, region, scenario.snapshot(commit)) & one(commit) != 0
                })
        }));
    }
    // Where it is taken back meanwhile, it counts again.
    if scenario.writers.iter().any(|writer| writer.replica) && !are_apart(scenario) {
        properties.push(Property::<Scenario>::always(FORGOTTEN, |scenario, state| {
            scenario.writers.iter().zip(&state.writers).all(|(plan, writer)| {
                let region = &state.regions[plan.region];
                let brought = plan.replica && writer.is_over() && writer.unwanted;
                !brought || counted(scenario, region).all(|commit| scenario.snapshot(commit) != plan.snapshot)
            })
        }));
    }
    if scenario.attempts > 1 && !scenario.collectors.is_empty() && !scenario.writers.is_empty() {
        properties.push(Property::<Scenario>::sometimes(REPEATED, |_, state| {
            state.writers.iter().any(|writer| writer.step == writer::Step::Done && writer.attempt > 0)
        }));
    }
    properties.push(Property::<Scenario>::sometimes(RESCUED, |scenario, state| {
        let keeps = |(collector, here): (&collector::Collector, &usize)| {
            collector.step == collector::Step::PutFinal
                && collector.deleted != state.regions[*here].generation(collector.n as usize).condemned
        };
        state.collectors.iter().zip(&scenario.collectors).any(keeps)
    }));
    if scenario.liveness {
        properties.extend([
            Property::<Scenario>::always(COMMITS, quiet::live_writers_commit),
            Property::<Scenario>::always(RECLAIMED, quiet::garbage_goes),
        ]);
    }
    properties
}

/// Verdicts are given in one region by those who don't see the other one.
fn are_apart(scenario: &Scenario) -> bool {
    scenario.judges.iter().any(|judge| judge.region != scenario.judges[0].region)
}

/// The commits whose snapshots count.
pub fn counted<'a>(scenario: &'a Scenario, region: &Region) -> impl Iterator<Item = usize> + use<'a> {
    let void = region.fenced() | region.collected() | region.in_doubt();
    let forgotten = region.forgotten(true);
    members(region.commits & !void).filter(move |commit| !has(forgotten, scenario.snapshot(*commit)))
}

/// Whether the commit's snapshot is there with all that it reaches, in packs that are listed, present and not to be deleted.
pub fn restorable(scenario: &Scenario, region: &Region, commit: usize) -> bool {
    let snapshot = scenario.snapshot(commit);
    let usable = region.listed() & region.packs & !region.dead();
    has(region.snapshots, snapshot)
        && members(scenario.reaches[snapshot]).all(|chunk| region.holding(chunk) & usable != 0)
}

fn success_stands(scenario: &Scenario, state: &State, number: usize) -> bool {
    let writer = &state.writers[number];
    let region = &state.regions[scenario.writers[number].region];
    let session = scenario.session(number, writer.attempt as usize);
    let snapshot = scenario.snapshot(session);
    writer.step != writer::Step::Done
        || (has(region.commits, session)
            && !has(region.fenced(), session)
            && (region.verdicts[snapshot].number > 0 || !has(region.collected(), session)))
}

/// A collector is about to fence a writer that had listed the condemn and gone on.
fn wrongs(scenario: &Scenario, state: &State, number: usize) -> bool {
    let collector = &state.collectors[number];
    let here = scenario.collectors[number];
    collector.step == collector::Step::PutFence
        && !state.regions[here].generation(collector.n as usize).is(crate::store::FENCE)
        && (0..scenario.writers.len()).any(|at| {
            let writer = &state.writers[at];
            let session = scenario.session(at, writer.attempt as usize);
            scenario.writers[at].region == here
                && has(collector.named, session)
                && writer.step >= writer::Step::PutBase
                && writer.step <= writer::Step::Confirm
                && writer.seen >= collector.n
                && state.regions[here].sessions[session].observed < collector.n
        })
}

fn promises_hold(scenario: &Scenario, state: &State) -> bool {
    scenario.judges.iter().zip(&state.judges).all(|(plan, judge)| {
        let region = &state.regions[plan.region];
        judge.step != verdicts::Step::Promised
            || has(region.forgotten(true), plan.snapshot)
            || standing(scenario, region, plan.snapshot) != 0
    })
}

//! A state of all regions and of all who work on them, and the step from one to the next.

use stateright::{Model, Property};

use crate::properties;
use crate::scenario::Scenario;
use crate::store::{FENCE, Region, Set, has, members, one};
use crate::{collector, verdicts, writer};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub writers: [writer::Writer; 2],
    pub collectors: [collector::Collector; 2],
    pub judges: [verdicts::Judge; 2],
    pub reader: verdicts::Reader,
    pub regions: [Region; 2],
}

/// Who takes a step, and which of its alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Writer(u8, u8),
    Collector(u8, u8),
    Judge(u8),
    Reader,
    /// A delete that was sent arrives.
    PackGoes(u8, u8),
    SegmentGoes(u8, u8),
    /// The collector process dies, and another takes its place.
    Restart(u8),
    /// It dies while its fence is on the way, which lands later.
    GiveUpFence(u8),
    FenceLands(u8),
}

pub fn apply(scenario: &Scenario, state: &State, action: Action) -> Option<State> {
    match action {
        Action::Writer(number, choice) => writer::step(scenario, state, number as usize, choice),
        Action::Collector(number, choice) => collector::step(scenario, state, number as usize, choice),
        Action::Judge(number) => verdicts::step(scenario, state, number as usize),
        Action::Reader => verdicts::read(scenario, state),
        Action::Restart(number) => {
            let mut next = *state;
            next.collectors[number as usize] = state.collectors[number as usize].restarted();
            Some(next)
        }
        Action::GiveUpFence(number) => {
            let mut next = *state;
            next.collectors[number as usize] = state.collectors[number as usize].fence_given_up();
            Some(next)
        }
        Action::FenceLands(number) => {
            let mut next = *state;
            let late = &mut next.collectors[number as usize];
            let here = scenario.collectors[number as usize];
            let fence = next.regions[here].generation_mut(late.late as usize);
            if !(scenario.put_if_absent && fence.is(FENCE)) {
                fence.there |= FENCE;
                fence.named = late.late_named;
            }
            (late.late, late.late_named) = (0, 0);
            Some(next)
        }
        Action::PackGoes(at, pack) => {
            let mut next = *state;
            next.regions[at as usize].packs &= !one(pack as usize);
            Some(next)
        }
        Action::SegmentGoes(at, segment) => {
            let mut next = *state;
            next.regions[at as usize].segments &= !(1 << segment);
            Some(next)
        }
    }
}

pub fn possible(scenario: &Scenario, state: &State, actions: &mut Vec<Action>) {
    for number in 0..scenario.writers.len() {
        let step = state.writers[number].step;
        if state.writers[number].is_over() {
            continue;
        }
        let ways =
            if step == writer::Step::ListSegments || step == writer::Step::PutAdopts { writer::WATCH } else { 1 };
        actions.extend((0..ways).chain([writer::WATCH]).map(|choice| Action::Writer(number as u8, choice)));
    }
    for number in 0..scenario.collectors.len() {
        let ways = collector::ways(scenario, state.collectors[number].step);
        actions.extend((0..ways).map(|choice| Action::Collector(number as u8, choice)));
        let collector = &state.collectors[number];
        if scenario.restarts && collector.step != collector::Step::Look {
            actions.push(Action::Restart(number as u8));
        }
        if scenario.late_fence && collector.step == collector::Step::PutFence && collector.late == 0 {
            actions.push(Action::GiveUpFence(number as u8));
        }
        if collector.late != 0 {
            actions.push(Action::FenceLands(number as u8));
        }
    }
    actions.extend((0..scenario.judges.len()).map(|number| Action::Judge(number as u8)));
    if scenario.reader.is_some() {
        actions.push(Action::Reader);
    }
    for (at, region) in state.regions.iter().enumerate() {
        actions.extend(members(region.deletes & region.packs).map(|pack| Action::PackGoes(at as u8, pack as u8)));
        let segments = region.segment_deletes & region.segments;
        actions.extend((0..16).filter(|s| segments & (1 << s) != 0).map(|s| Action::SegmentGoes(at as u8, s)));
    }
}

/// One of the states that differ by the exchange of what is alike: two writers, two collectors.
pub fn canonical(scenario: &Scenario, state: State) -> State {
    let mut state = state;
    let collectors = scenario.collectors.len();
    if collectors == 2
        && scenario.collectors[0] == scenario.collectors[1]
        && scenario.moves.is_none()
        && state.collectors[1] < state.collectors[0]
    {
        state.collectors.swap(0, 1);
    }
    if !scenario.alike {
        return state;
    }
    let other = exchanged(scenario, &state);
    state.min(other)
}

/// The state with the two writers exchanged, in all that bears their sessions' numbers.
fn exchanged(scenario: &Scenario, state: &State) -> State {
    let width = scenario.attempts;
    let sessions = |set: Set| swapped(set, 0, width);
    let packs = |set: Set| swapped(set, scenario.first_pack, width);
    let snapshots = |set: Set| match scenario.writers[0].snapshot == scenario.writers[1].snapshot {
        true => set,
        false => swapped(set, scenario.writers[0].snapshot, 1),
    };
    let mut state = *state;
    state.writers.swap(0, 1);
    for writer in &mut state.writers {
        writer.needs = packs(writer.needs);
        writer.adopts = sessions(writer.adopts);
        writer.avoid = packs(writer.avoid);
        writer.relied = packs(writer.relied);
        writer.put = packs(writer.put);
    }
    for collector in &mut state.collectors {
        collector.named = sessions(collector.named);
        collector.late_named = sessions(collector.late_named);
        collector.commits = sessions(collector.commits);
        collector.needs = packs(collector.needs);
        collector.listed = packs(collector.listed);
        collector.present = packs(collector.present);
        collector.deleted = packs(collector.deleted);
        collector.fenced = sessions(collector.fenced);
        collector.collected = sessions(collector.collected);
    }
    if state.collectors[1] < state.collectors[0] && scenario.collectors.len() == 2 && scenario.moves.is_none() {
        state.collectors.swap(0, 1);
    }
    for judge in &mut state.judges {
        judge.commits = sessions(judge.commits);
    }
    let region = &mut state.regions[scenario.writers[0].region];
    for at in 0..width {
        region.sessions.swap(at, at + width);
        region.chunks.swap(scenario.first_pack + at, scenario.first_pack + at + width);
        region.lists.swap(1 + at, 1 + at + width);
    }
    for session in &mut region.sessions {
        session.needs = packs(session.needs);
        session.adopts = sessions(session.adopts);
    }
    for lists in &mut region.lists {
        *lists = packs(*lists);
    }
    let segments = |set: u16| {
        let mask = ((1 << width) - 1) << 1;
        (set & !(mask | mask << width)) | (set & mask) << width | (set >> width) & mask
    };
    region.segments = segments(region.segments);
    region.segment_deletes = segments(region.segment_deletes);
    for supersedes in &mut region.supersedes {
        *supersedes = segments(*supersedes);
    }
    region.packs = packs(region.packs);
    region.deletes = packs(region.deletes);
    region.commits = sessions(region.commits);
    region.snapshots = snapshots(region.snapshots);
    for generation in &mut region.log {
        generation.condemned = packs(generation.condemned);
        generation.named = sessions(generation.named);
        generation.deleted = packs(generation.deleted);
        generation.fenced = sessions(generation.fenced);
        generation.collected = sessions(generation.collected);
    }
    state
}

/// The set with its `width` members from `from` exchanged for the `width` after them.
fn swapped(set: Set, from: usize, width: usize) -> Set {
    let mut out = set;
    for at in from..from + width {
        out &= !(one(at) | one(at + width));
        out |= if has(set, at) { one(at + width) } else { 0 };
        out |= if has(set, at + width) { one(at) } else { 0 };
    }
    out
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State { regions: self.regions, ..State::default() };
        for (writer, plan) in state.writers.iter_mut().zip(&self.writers) {
            writer.step = match (plan.replica, self.keeps(crate::scenario::Rule::VerdictsFirst)) {
                (true, true) => writer::Step::CopyVerdicts,
                (true, false) => writer::Step::ReadCommits,
                (false, _) => writer::opening(self),
            };
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        possible(self, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        apply(self, state, action).map(|next| canonical(self, next))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}

//! A collector process: it takes up whatever generation the log shows and goes on with it (gc.md). A process that dies is one that takes no
//! further step; another finishes its generation.

use crate::scenario::{Condemn, Rule, Scenario};
use crate::state::State;
use crate::store::{
    CONDEMN, FENCE, FINAL, Region, SEGMENTS, SESSIONS, SNAPSHOTS, Session, Set, has, listed, members, one,
    segment_of_generation, segment_of_session,
};

/// What the collector does next: one operation on the store each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    #[default]
    Look,
    // Moving, as a session of its own.
    MovePutSession,
    MoveListLog,
    MovePutObserved,
    MovePutPack,
    MovePutSegment,
    MovePutEnd,
    PutCondemn,
    ReadCommits,
    ReadSessions,
    ReadVerdicts,
    PutFence,
    RelistCommits,
    RelistVerdicts,
    RelistSessions,
    ListSegments,
    ListPacks,
    /// What was read doesn't fit together: is the final there meanwhile?
    Recheck,
    DeleteEarly,
    SupersedeEarly,
    PutFinal,
    DeleteSegmentsEarly,
    ListSuperseded,
    PutSuperseding,
    Delete,
    /// It found the region damaged.
    Stopped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collector {
    pub step: Step,
    /// The generation at work.
    pub n: u8,
    /// The next part of a listing that takes several steps.
    pub page: u8,
    /// It reads for the second time, after what didn't fit together.
    pub again: bool,
    /// It has moved frames once.
    pub moved: bool,
    /// A fence whose put was given up and may land yet.
    pub late: u8,
    pub late_named: Set,
    /// Read for the fence.
    pub named: Set,
    pub forgotten: Set,
    /// Read for the final: commits, forgotten snapshots, needs, listed packs.
    pub commits: Set,
    pub dropped: Set,
    pub needs: Set,
    pub bases: Set,
    pub listed: Set,
    pub present: Set,
    /// The segments that a superseding one replaces.
    pub segments: u16,
    /// The final, once computed.
    pub deleted: Set,
    pub fenced: Set,
    pub collected: Set,
}

impl Collector {
    /// Another process in its place.
    pub fn restarted(&self) -> Self {
        self.at(Step::Look, 0)
    }

    pub fn fence_given_up(&self) -> Self {
        Collector { late: self.n, late_named: self.named, ..self.at(Step::Look, 0) }
    }

    fn at(&self, step: Step, n: usize) -> Self {
        Collector {
            step,
            n: n as u8,
            moved: self.moved,
            late: self.late,
            late_named: self.late_named,
            ..Collector::default()
        }
    }
}

/// Sessions that have neither a commit among these nor an end, and aren't fenced.
fn open_sessions(region: &Region, commits: Set) -> Set {
    (0..SESSIONS).filter(|at| region.sessions[*at].put && !region.sessions[*at].ended).fold(0, |set, at| set | one(at))
        & !(commits | region.fenced() | region.collected())
}

/// The chunks that the snapshots of these commits reach.
fn reached(scenario: &Scenario, commits: Set) -> Set {
    members(commits).fold(0, |set, commit| set | scenario.reaches[scenario.snapshot(commit)])
}

/// What a marking collector condemns: present packs that nothing counted reaches, or whose reached chunks all have a copy in a pack that stays; none of
/// an open session or of one that an open session adopts.
fn marked(scenario: &Scenario, region: &Region) -> Set {
    let void = region.fenced() | region.collected();
    let forgotten = region.forgotten(true);
    let commits = members(region.commits & !void)
        .filter(|commit| !has(forgotten, scenario.snapshot(*commit)))
        .fold(0, |set, commit| set | one(commit));
    let live = reached(scenario, commits);
    let open = open_sessions(region, region.commits);
    let adopted = members(open).fold(0, |set, session| set | region.sessions[session].adopts);
    let spared = if scenario.keeps(Rule::SpareOpenSessions) { open } else { 0 }
        | if scenario.keeps(Rule::SpareAdopted) { adopted } else { 0 };
    let mut condemned = 0;
    let candidates = region.packs & !region.dead();
    for pack in members(candidates) {
        if scenario.header(pack).is_some_and(|session| has(spared, session)) {
            continue;
        }
        let stays = candidates & region.listed() & !condemned & !one(pack);
        let needed = members(live & region.chunks[pack]).any(|chunk| region.holding(chunk) & stays == 0);
        if !needed || !has(region.listed(), pack) {
            condemned |= one(pack);
        }
    }
    condemned
}

/// Packs of which a collector may condemn any: more at once are a scenario's defect, not to be left out silently.
const SUBSETS_OF_MAX: u32 = 5;

/// How many alternatives a step has at most.
pub fn ways(scenario: &Scenario, step: Step) -> u8 {
    match step {
        Step::PutCondemn if scenario.condemn == Condemn::Any => 1 << SUBSETS_OF_MAX,
        Step::Look => 4,
        Step::ReadVerdicts => 2,
        _ => 1,
    }
}

/// The state after the collector's next step, or none where there is no such choice.
pub fn step(scenario: &Scenario, state: &State, number: usize, choice: u8) -> Option<State> {
    let keeps = |rule| scenario.keeps(rule);
    let mut next = *state;
    let mut collector = state.collectors[number];
    let here = scenario.collectors[number];
    let region = &mut next.regions[here];
    let n = collector.n as usize;
    let moving = scenario.moving_session(number);
    if choice >= ways(scenario, collector.step) {
        return None;
    }
    match collector.step {
        Step::Look => {
            collector = look(scenario, region, &collector, choice)?;
        }
        Step::MovePutSession => {
            region.sessions[moving].put = true;
            collector.step = Step::MoveListLog;
        }
        Step::MoveListLog => {
            // Another began the generation meanwhile: nothing is moved for it.
            collector.step = if region.newest() >= n { Step::MovePutEnd } else { Step::MovePutObserved };
        }
        Step::MovePutObserved => {
            region.sessions[moving].observed = (n - 1) as u8;
            collector.step = Step::MovePutPack;
        }
        Step::MovePutPack => {
            let from = scenario.moves?;
            let own = scenario.pack_of(moving);
            if has(region.packs, from) {
                region.chunks[own] = region.chunks[from] & scenario.reaches[0];
                region.packs |= one(own);
                collector.step = Step::MovePutSegment;
            } else {
                collector.step = Step::MovePutEnd;
            }
        }
        Step::MovePutSegment => {
            let segment = segment_of_session(moving);
            region.lists[segment] = one(scenario.pack_of(moving));
            region.segments |= 1 << segment;
            collector.step = Step::PutCondemn;
        }
        Step::MovePutEnd => {
            region.sessions[moving].ended = true;
            collector = collector.at(Step::Look, 0);
        }
        Step::PutCondemn => {
            let present = region.packs & !region.dead();
            let condemned = match scenario.condemn {
                Condemn::Marked if choice == 0 => marked(scenario, region),
                // The numbering of the subsets of what is present, the whole first.
                Condemn::Any => subset(present, choice)?,
                Condemn::Marked => return None,
            };
            if region.generation(n).there != 0 && scenario.put_if_absent {
                if choice != 0 {
                    return None;
                }
            } else {
                let generation = region.generation_mut(n);
                generation.there |= CONDEMN;
                generation.condemned = condemned;
            }
            let after = if region.sessions[moving].put && !region.sessions[moving].ended && collector.moved {
                Step::MovePutEnd
            } else {
                Step::Look
            };
            collector = if keeps(Rule::CondemnBeforeSessions) {
                collector.at(after, if after == Step::Look { 0 } else { n })
            } else {
                // The sessions were read before.
                Collector { step: Step::PutFence, ..collector }
            };
        }
        Step::ReadCommits => {
            collector.commits |= region.commits & page(scenario, &collector);
            if turned(scenario, &mut collector) {
                collector.step = Step::ReadSessions;
            }
        }
        Step::ReadSessions => {
            let page = page(scenario, &collector);
            for session in members(open_sessions(region, collector.commits) & page) {
                if (region.sessions[session].observed as usize) < n {
                    collector.named |= one(session);
                } else if !keeps(Rule::NeedsAfterFence) {
                    collector.needs |= region.sessions[session].needs;
                }
            }
            if !turned(scenario, &mut collector) {
                next.collectors[number] = collector;
                return Some(next);
            }
            collector.commits = 0;
            collector.step = if scenario.judges.is_empty() { Step::PutFence } else { Step::ReadVerdicts };
            if !keeps(Rule::CondemnBeforeSessions) && region.generation(n).there == 0 {
                collector.step = Step::PutCondemn;
            }
        }
        Step::ReadVerdicts => {
            let forgotten = region.forgotten(keeps(Rule::TiesKeep)) & !collected_snapshots(scenario, region);
            if choice == 1 && (!scenario.window || forgotten == 0) {
                return None;
            }
            collector.forgotten = if choice == 0 { forgotten } else { 0 };
            collector.step = Step::PutFence;
        }
        Step::PutFence => {
            let generation = region.generation_mut(n);
            if generation.there & FENCE == 0 || !scenario.put_if_absent {
                generation.there |= FENCE;
                generation.named = collector.named;
                generation.forgotten = collector.forgotten;
            }
            // From here on it holds what the log says, be it its own or another's.
            let (named, needs) = (generation.named, collector.needs);
            collector = Collector { named, needs, ..collector.at(readings(scenario)[0], n) };
        }
        Step::RelistCommits => {
            let late = if keeps(Rule::RelistCommits) { 0 } else { region.generation(n).named };
            let void = late | region.fenced() | region.collected();
            collector.commits |= region.commits & !void & page(scenario, &collector);
            if turned(scenario, &mut collector) {
                collector = read_on(scenario, region, &collector);
            }
        }
        Step::RelistVerdicts => {
            let forgotten = region.forgotten(keeps(Rule::TiesKeep));
            collector.dropped =
                region.generation(n).forgotten & if keeps(Rule::RelistVerdicts) { forgotten } else { Set::MAX };
            collector.forgotten = forgotten;
            collector = read_on(scenario, region, &collector);
        }
        Step::RelistSessions => {
            // Open as far as the commits tell that will be marked from, not by what is there by now.
            let commits = if keeps(Rule::SameCommits) { collector.commits } else { region.commits };
            let open = open_sessions(region, commits) & page(scenario, &collector);
            let objects = |session: &usize| region.sessions[*session].observed as usize >= n;
            for session in members(open).filter(objects) {
                collector.needs |= if keeps(Rule::NeedsAfterFence) { region.sessions[session].needs } else { 0 };
            }
            if keeps(Rule::BasesMarked) {
                let unnamed = open & !collector.named;
                collector.bases |= members(unnamed).fold(0, |set, session| set | region.sessions[session].bases);
            }
            if turned(scenario, &mut collector) {
                collector = read_on(scenario, region, &collector);
            }
        }
        Step::ListSegments => {
            // The superseding ones first, and then those that they replace: a listing that may miss both.
            let first = (1u16 << segment_of_generation(1, true)) - 1;
            collector.segments |= region.segments
                & if !scenario.slow_lists {
                    u16::MAX
                } else if collector.page == 0 {
                    !first
                } else {
                    first
                };
            if turned(scenario, &mut collector) {
                collector.listed = listed(collector.segments, &region.lists, &region.supersedes);
                collector.segments = 0;
                collector = read_on(scenario, region, &collector);
            }
        }
        Step::ListPacks => {
            collector.present = region.packs;
            collector = read_on(scenario, region, &collector);
        }
        Step::Recheck => {
            collector = if region.generation(n).is(FINAL) {
                collector.at(Step::Delete, n)
            } else if collector.again || !keeps(Rule::ListAgain) {
                collector.at(Step::Stopped, n)
            } else {
                Collector { again: true, named: collector.named, ..collector.at(readings(scenario)[0], n) }
            };
        }
        Step::PutFinal => {
            let won = region.generation(n).there & FINAL == 0;
            if won || !scenario.put_if_absent {
                let generation = region.generation_mut(n);
                generation.there |= FINAL;
                generation.deleted = collector.deleted;
                generation.fenced = collector.fenced;
                generation.collected = collector.collected;
                // Nobody asks for these any more.
                (generation.condemned, generation.named, generation.forgotten) = (0, 0, 0);
                for session in members(collector.fenced) {
                    region.sessions[session] = Session { put: true, ..Session::default() };
                }
            }
            if !won && !keeps(Rule::AdoptTheWinner) {
                // Its own result, whatever the log says.
                send(scenario, region, collector.deleted);
            }
            collector =
                if scenario.supersede { collector.at(Step::ListSuperseded, n) } else { collector.at(Step::Delete, n) };
        }
        // Where an ordering is left out.
        Step::DeleteEarly => {
            send(scenario, region, collector.deleted);
            collector.step = Step::PutFinal;
        }
        Step::SupersedeEarly => {
            collector.listed = region.listed() & !(region.dead() | collector.deleted);
            collector.segments = region.segments;
            supersede(region, &collector, number);
            (collector.listed, collector.segments) = (0, 0);
            collector.step = Step::PutFinal;
        }
        Step::DeleteSegmentsEarly => {
            region.segments &= !collector.segments;
            collector.step = Step::PutSuperseding;
        }
        Step::ListSuperseded => {
            collector.listed = region.listed() & !region.dead();
            collector.segments = region.segments;
            collector.step = if region.listed() & region.dead() == 0 {
                Step::Delete
            } else if keeps(Rule::SupersedeBeforeSegmentDelete) {
                Step::PutSuperseding
            } else {
                Step::DeleteSegmentsEarly
            };
            if collector.step == Step::Delete {
                collector = collector.at(Step::Delete, n);
            }
        }
        Step::PutSuperseding => {
            supersede(region, &collector, number);
            collector = collector.at(Step::Delete, n);
        }
        Step::Delete => {
            let again = if keeps(Rule::DeleteAgain) { region.dead() } else { 0 };
            send(scenario, region, again | region.generation(n).deleted);
            delete_segments(scenario, region);
            collector = collector.at(Step::Look, 0);
        }
        Step::Stopped => return None,
    }
    next.collectors[number] = collector;
    Some(next)
}

/// Which generation to go on with, or to begin.
fn look(scenario: &Scenario, region: &Region, collector: &Collector, choice: u8) -> Option<Collector> {
    let newest = region.newest();
    let open: Vec<usize> = (1..=newest).filter(|n| region.generation(*n).is_open()).collect();
    let begins = open.is_empty() || !scenario.keeps(Rule::OneGenerationAtATime);
    if let Some(n) = open.get(choice as usize) {
        let generation = region.generation(*n);
        let step = if generation.is(FENCE) { readings(scenario)[0] } else { Step::ReadCommits };
        return Some(Collector { named: generation.named, ..collector.at(step, *n) });
    }
    let way = choice as usize - open.len();
    let n = newest + 1;
    if !begins || n > scenario.generations {
        return None;
    }
    match way {
        0 if !scenario.keeps(Rule::CondemnBeforeSessions) => Some(collector.at(Step::ReadCommits, n)),
        0 => Some(collector.at(Step::PutCondemn, n)),
        1 if scenario.moves.is_some() && !collector.moved => {
            Some(Collector { moved: true, ..collector.at(Step::MovePutSession, n) })
        }
        _ => None,
    }
}

/// The `choice`-th subset of a set, the whole first and the empty one left out.
fn subset(set: Set, choice: u8) -> Option<Set> {
    let count = set.count_ones();
    assert!(count <= SUBSETS_OF_MAX, "a scenario with that many packs at once");
    if count == 0 {
        return (choice == 0).then_some(0);
    }
    let number = (1u32 << count).checked_sub(1 + u32::from(choice)).filter(|number| *number > 0)?;
    Some(
        members(set)
            .enumerate()
            .filter(|(at, _)| number & (1 << at) != 0)
            .fold(0, |sum, (_, member)| sum | one(member)),
    )
}

/// Snapshots that have no commit left to collect.
fn collected_snapshots(scenario: &Scenario, region: &Region) -> Set {
    let void = region.fenced() | region.collected();
    (0..SNAPSHOTS)
        .filter(|at| !members(region.commits & !void).any(|commit| scenario.snapshot(commit) == *at))
        .fold(0, |set, at| set | one(at))
}

/// The sessions that the next step of a listing shows.
fn page(scenario: &Scenario, collector: &Collector) -> Set {
    let first = (one(scenario.attempts) - 1) as Set;
    match (scenario.slow_lists, collector.page) {
        (false, _) => Set::MAX,
        (true, 0) => first,
        (true, _) => !first,
    }
}

/// Turns the page; whether it was the last.
fn turned(scenario: &Scenario, collector: &mut Collector) -> bool {
    collector.page = u8::from(scenario.slow_lists && collector.page == 0);
    collector.page == 0
}

/// What is read after the fence, in order.
fn readings(scenario: &Scenario) -> [Step; 5] {
    use Step::*;
    match scenario.without {
        Some(Rule::CommitsBeforeSegments) => [RelistSessions, ListSegments, ListPacks, RelistCommits, RelistVerdicts],
        Some(Rule::SegmentsBeforePacks) => [RelistCommits, RelistVerdicts, RelistSessions, ListPacks, ListSegments],
        _ => [RelistCommits, RelistVerdicts, RelistSessions, ListSegments, ListPacks],
    }
}

/// The next reading, or the conclusion after the last.
fn read_on(scenario: &Scenario, region: &Region, collector: &Collector) -> Collector {
    let readings = readings(scenario);
    let at = readings.iter().position(|step| *step == collector.step).unwrap_or(0);
    let idle = |step: &Step| *step == Step::RelistVerdicts && scenario.judges.is_empty();
    match readings[at + 1..].iter().find(|step| !idle(step)) {
        Some(step) => Collector { step: *step, ..*collector },
        None => conclude(scenario, region, collector),
    }
}

/// Marks, rescues, and prepares the final.
fn conclude(scenario: &Scenario, region: &Region, collector: &Collector) -> Collector {
    let keeps = |rule| scenario.keeps(rule);
    let (listed, present) = (collector.listed, collector.present);
    let holding = |chunk| region.holding(chunk);
    let n = collector.n as usize;
    let generation = region.generation(n);
    // Finals before this one: they can't change any more.
    let dead = (1..n).fold(0, |set, earlier| set | region.generation(earlier).deleted);
    let kept = if keeps(Rule::NamedBasesKept) { collector.bases } else { 0 };
    let collected = members(collector.commits)
        .filter(|commit| has(collector.dropped & !kept, scenario.snapshot(*commit)))
        .fold(0, |set, commit| set | one(commit));
    let mut roots = collector.commits & !collected;
    if !keeps(Rule::KeepUnnamed) {
        roots = members(roots)
            .filter(|commit| !has(collector.forgotten, scenario.snapshot(*commit)))
            .fold(0, |set, commit| set | one(commit));
    }
    let mut live = reached(scenario, roots);
    // A base is marked like what counts, but its absence is damage only where it counts.
    let based = members(collector.bases & kept).fold(0, |set, base| set | scenario.reaches[base]);
    let usable = if keeps(Rule::DeadAreNoCopies) { listed & !dead } else { listed };
    let lost = members(live).any(|chunk| holding(chunk) & usable == 0) || listed & !dead & !present != 0;
    if lost {
        return Collector { again: collector.again, named: collector.named, ..collector.at(Step::Recheck, n) };
    }
    live |= based;
    let mut rescued = if keeps(Rule::RescueNeeds) { collector.needs & generation.condemned } else { 0 };
    if keeps(Rule::RescueReached) {
        let stays = usable & present & !generation.condemned;
        for pack in members(generation.condemned & listed) {
            if members(region.chunks[pack] & live).any(|chunk| holding(chunk) & stays == 0) {
                rescued |= one(pack);
            }
        }
    }
    let mut concluded = collector.at(Step::PutFinal, n);
    concluded.step = match scenario.without {
        Some(Rule::FinalBeforeDelete) => Step::DeleteEarly,
        Some(Rule::FinalBeforeSupersede) => Step::SupersedeEarly,
        _ => Step::PutFinal,
    };
    concluded.deleted = generation.condemned & !rescued;
    concluded.fenced = collector.named & !collector.commits;
    concluded.collected = collected;
    concluded
}

/// A segment that replaces those that were listed and leaves out the dead packs.
fn supersede(region: &mut Region, collector: &Collector, number: usize) {
    let segment = segment_of_generation(collector.n as usize, number == 0);
    // Under its own name once; the scenarios' bounds keep a collector from needing another.
    if region.lists[segment] == 0 && region.supersedes[segment] == 0 {
        region.supersedes[segment] = collector.segments;
        region.lists[segment] = collector.listed;
        region.segments |= 1 << segment;
    }
}

/// Deletes of the segments that others replace.
fn delete_segments(scenario: &Scenario, region: &mut Region) {
    if !scenario.supersede {
        return;
    }
    let superseded =
        (0..SEGMENTS).filter(|at| region.segments & (1 << at) != 0).fold(0, |set, at| set | region.supersedes[at]);
    region.segment_deletes |= superseded & region.segments;
    if !scenario.late_deletes {
        region.segments &= !region.segment_deletes;
        region.segment_deletes = 0;
    }
}

fn send(scenario: &Scenario, region: &mut Region, packs: Set) {
    region.deletes |= packs;
    if !scenario.late_deletes {
        region.packs &= !packs;
        region.deletes = 0;
    }
}

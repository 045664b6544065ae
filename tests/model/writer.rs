//! A writer: sessions, pack, segment, snapshot, commit, and the watch on the gc log (ORDER-1 to ORDER-6). A replication is
//! the same with another source.

use crate::scenario::{Rule, Scenario};
use crate::state::State;
use crate::store::{FENCE, FINAL, Region, Set, has, members, one, segment_of_session};

/// What the writer does next: one operation on a store each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    // A replication begins with these.
    CopyVerdicts,
    // What keeps in one region alone is put again here, then there.
    KeepHere,
    KeepThere,
    ReadCommits,
    ReadLog,
    #[default]
    PutSession,
    ListLog,
    PutObserved,
    CheckFence,
    // From here to the commit the log is watched.
    PutBase,
    BaseLog,
    BaseVerdicts,
    ListSegments,
    PutAdopts,
    PutPack,
    PutSegment,
    PutSnapshot,
    PutCommit,
    Confirm,
    WatchPutNeeds,
    WatchPutObserved,
    WatchList,
    PutEnd,
    /// Success was reported.
    Done,
    /// No further attempt, or nothing to do.
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    pub step: Step,
    /// Where the run goes on after the watch.
    pub back: Step,
    pub attempt: u8,
    pub observed: u8,
    /// The newest generation in the last listing.
    pub seen: u8,
    pub needs: Set,
    /// Sessions of earlier attempts and of copied packs.
    pub adopts: Set,
    /// Packs that aren't used, from listings of the log.
    pub avoid: Set,
    /// Packs that the commit will rest on.
    pub relied: Set,
    /// Packs that this writer has put, in all attempts.
    pub put: Set,
    /// The snapshot whose chunks are taken over, while nothing speaks against it.
    pub base: Set,
    /// Chunks to store.
    pub missing: Set,
    /// The pack that a replication copies next.
    pub copied: Set,
    /// Commits that a replication read.
    pub commits: Set,
    /// The snapshot was forgotten in the source when the replication began.
    pub unwanted: bool,
    /// Of the verdict that it puts.
    pub verdict: u8,
}

impl Writer {
    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Done | Step::Over)
    }

    fn is_shipping(&self) -> bool {
        self.step >= Step::PutBase && self.step <= Step::PutCommit
    }

    fn ended(&self, step: Step) -> Self {
        Writer { step, attempt: self.attempt, unwanted: self.unwanted, ..Writer::default() }
    }
}

/// Alternatives of a step, and the one that looks at the log before it.
pub const CHOICES: u8 = 17;
pub const WATCH: u8 = CHOICES - 1;

/// The order of a run's steps.
fn order(scenario: &Scenario) -> [Step; 15] {
    use Step::*;
    let mut order = [
        PutSession,
        ListLog,
        PutObserved,
        CheckFence,
        PutBase,
        BaseLog,
        BaseVerdicts,
        ListSegments,
        PutAdopts,
        PutPack,
        PutSegment,
        PutSnapshot,
        PutCommit,
        Confirm,
        Done,
    ];
    match scenario.without {
        Some(Rule::SessionBeforeList) => order.swap(0, 1),
        Some(Rule::PackBeforeSegment) => order.swap(9, 10),
        Some(Rule::SegmentBeforeCommit) => order[10..13].copy_from_slice(&[PutSnapshot, PutCommit, PutSegment]),
        Some(Rule::SnapshotBeforeCommit) => order.swap(11, 12),
        Some(Rule::ListAfterCommit) => order[13] = Done,
        Some(Rule::BaseBeforeList) => order[4..7].copy_from_slice(&[BaseLog, BaseVerdicts, PutBase]),
        _ => {}
    }
    order
}

pub fn opening(scenario: &Scenario) -> Step {
    order(scenario)[0]
}

/// The step after this one, without those that have nothing to do.
fn after(scenario: &Scenario, writer: &Writer, replica: bool, step: Step) -> Step {
    let order = order(scenario);
    let at = order.iter().position(|other| *other == step).unwrap_or(0);
    for next in &order[at + 1..] {
        let idle = match next {
            Step::PutObserved => writer.seen == 0 || !scenario.keeps(Rule::ObservedAtOpen),
            Step::CheckFence => writer.needs == 0 || !scenario.keeps(Rule::SuccessorFenceCheck),
            Step::PutBase | Step::BaseLog | Step::BaseVerdicts => writer.base == 0,
            Step::PutAdopts => !replica || writer.missing == 0,
            Step::PutPack => writer.missing == 0,
            // Packs of earlier attempts may not be listed yet.
            Step::PutSegment => writer.missing == 0 && writer.relied & writer.put == 0,
            _ => false,
        };
        if !idle {
            return *next;
        }
    }
    Step::Done
}

/// The state after the writer's next step, or none where there is no such choice.
pub fn step(scenario: &Scenario, state: &State, number: usize, choice: u8) -> Option<State> {
    let plan = scenario.writers[number];
    let keeps = |rule| scenario.keeps(rule);
    let mut next = *state;
    let mut writer = state.writers[number];
    let session = scenario.session(number, writer.attempt as usize);
    let own = scenario.pack_of(session);
    let segment = segment_of_session(session);
    let source = &state.regions[1 - plan.region];
    if writer.is_over() {
        return None;
    }
    let region = &mut next.regions[plan.region];
    if choice == WATCH {
        if !writer.is_shipping() || !(region.newest() > writer.observed as usize || region.names(session)) {
            return None;
        }
        writer.back = writer.step;
        look(scenario, region, &mut writer, number);
        next.writers[number] = writer;
        return Some(next);
    }
    if choice != 0 && !matches!(writer.step, Step::ListSegments | Step::PutAdopts) {
        return None;
    }
    let follow = |writer: &Writer| after(scenario, writer, plan.replica, writer.step);
    match writer.step {
        Step::CopyVerdicts => {
            let (here, there) = (region.verdicts[plan.snapshot], source.verdicts[plan.snapshot]);
            if keeps(Rule::ApartIsKept) && (here.keeps_apart(there) || there.keeps_apart(here)) {
                writer.verdict = here.number.max(there.number) + 1;
                writer.step = Step::KeepHere;
                next.writers[number] = writer;
                return Some(next);
            }
            if keeps(Rule::VerdictsFirst) {
                writer.unwanted = has(source.forgotten(true), plan.snapshot);
            }
            if keeps(Rule::VerdictsCopied) {
                for (here, there) in region.verdicts.iter_mut().zip(&source.verdicts) {
                    here.merge(*there);
                }
            }
            writer = match (keeps(Rule::VerdictsFirst), has(region.commits, session)) {
                (true, _) => Writer { step: Step::ReadCommits, ..writer },
                (false, true) => writer.ended(Step::Done),
                (false, false) => writer.ended(Step::Over),
            };
        }
        Step::KeepHere => {
            region.verdicts[plan.snapshot].put(writer.verdict, false);
            writer.step = Step::KeepThere;
        }
        Step::KeepThere => {
            next.regions[1 - plan.region].verdicts[plan.snapshot].put(writer.verdict, false);
            (writer.verdict, writer.step) = (0, Step::CopyVerdicts);
        }
        Step::ReadCommits => {
            if !keeps(Rule::VerdictsFirst) {
                writer.unwanted = has(source.forgotten(true), plan.snapshot);
            }
            writer.commits = source.commits;
            writer.step = Step::ReadLog;
        }
        Step::ReadLog => {
            let void = source.fenced() | source.collected() | source.in_doubt();
            let counts = |commit: usize| scenario.snapshot(commit) == plan.snapshot && !has(void, commit);
            let ties = keeps(Rule::TiesKeep);
            let dropped = source.forgotten(ties) | region.forgotten(ties);
            let wanted = members(writer.commits).any(counts) && !has(dropped, plan.snapshot);
            writer.commits = 0;
            writer.step = match (wanted, keeps(Rule::VerdictsFirst)) {
                (true, _) => opening(scenario),
                (false, true) => Step::Over,
                (false, false) => Step::CopyVerdicts,
            };
        }
        Step::PutSession => {
            region.sessions[session].put = true;
            region.sessions[session].adopts = writer.adopts;
            writer.step = follow(&writer);
        }
        Step::PutBase => {
            region.sessions[session].bases = writer.base;
            writer.step = follow(&writer);
        }
        Step::BaseLog => {
            let void = region.fenced() | region.collected() | region.in_doubt();
            let counts = |commit: usize| has(writer.base, scenario.snapshot(commit)) && !has(void, commit);
            let open = region.log.iter().filter(|generation| generation.is(FENCE) && !generation.is(FINAL));
            let named = open.fold(0, |set, generation| set | generation.forgotten);
            let late = keeps(Rule::BaseFenceCheck) && writer.base & named != 0;
            if !members(region.commits).any(counts) || late {
                writer.base = 0;
            }
            writer.step = follow(&writer);
        }
        Step::BaseVerdicts => {
            if keeps(Rule::BaseVerdictCheck) {
                writer.base &= !region.forgotten(true);
            }
            writer.step = follow(&writer);
        }
        Step::ListLog => {
            writer.base = plan.base.map_or(0, one);
            writer.seen = region.newest() as u8;
            writer.avoid |= if keeps(Rule::CondemnedAreMissing) { region.condemned() } else { 0 };
            writer.avoid |= if keeps(Rule::FinalsAtStart) { region.dead() } else { 0 };
            // What a successor takes over: not what is dead, nor what a fence came before.
            writer.relied &= !(region.dead() | past_fence(region));
            writer.needs = if keeps(Rule::SuccessorNeeds) { writer.relied & region.condemned() } else { 0 };
            writer.step = follow(&writer);
        }
        Step::PutObserved => {
            region.sessions[session].observed = writer.seen;
            region.sessions[session].needs = writer.needs;
            writer.observed = writer.seen;
            writer.step = follow(&writer);
        }
        Step::CheckFence => {
            if region.names(session) {
                repeat(scenario, &mut writer, number);
            } else {
                // The collector may have read the needs before they were there.
                writer.relied &= !(region.dead() | past_fence(region));
                writer.needs &= writer.relied;
                writer.step = follow(&writer);
            }
        }
        Step::ListSegments => {
            // What it put itself in an attempt before needs no segment to be known.
            let mut known = (region.listed() | writer.put) & !writer.avoid;
            if plan.replica && keeps(Rule::PresentToo) {
                known &= region.packs;
            }
            let mut ways = choice;
            let mut all = 1;
            let taken_over = members(writer.base).fold(0, |set, base| set | scenario.reaches[base]);
            let relied = members(writer.relied).fold(0, |set, pack| set | region.chunks[pack]);
            for chunk in members(scenario.reaches[plan.snapshot] & !taken_over & !relied) {
                let holders = known & region.holding(chunk);
                let count = holders.count_ones() as u8;
                match members(holders).nth(if count == 0 { 0 } else { ways % count } as usize) {
                    Some(pack) => writer.relied |= one(pack),
                    None => writer.missing |= one(chunk),
                }
                ways /= count.max(1);
                all *= count.max(1);
            }
            assert!(all <= WATCH, "a scenario with that many ways to find its chunks");
            if ways != 0 {
                return None;
            }
            writer.base = 0;
            writer.step = follow(&writer);
        }
        Step::PutAdopts => {
            // Any pack of the source that holds the next missing chunk. Gone meanwhile: nothing to save.
            let usable = source.packs & source.listed() & !source.dead();
            let wanted = members(writer.missing).next()?;
            let Some(pack) = members(usable & source.holding(wanted)).nth(choice as usize) else {
                writer.step = Step::PutEnd;
                next.writers[number] = writer;
                return (choice == 0).then_some(next);
            };
            writer.adopts |= scenario.header(pack).map_or(0, one);
            writer.copied = one(pack);
            region.sessions[session].adopts = writer.adopts;
            region.sessions[session].needs = if keeps(Rule::NeedsAreKept) { writer.needs } else { 0 };
            writer.step = follow(&writer);
        }
        Step::PutPack => {
            let mut name = own;
            let mut chunks = writer.missing;
            if let Some(pack) = members(writer.copied).next() {
                let readable = source.packs & source.listed();
                if members(writer.missing).any(|chunk| source.holding(chunk) & readable == 0) {
                    writer.step = Step::PutEnd;
                    next.writers[number] = writer;
                    return Some(next);
                }
                // A name that is condemned or dead here isn't written again: the frames go into a pack of its own.
                if !has(writer.avoid, pack) || !keeps(Rule::DeadNamesAnew) {
                    name = pack;
                    chunks = source.chunks[pack];
                }
            } else if !keeps(Rule::NewNames) && has(writer.avoid, 0) {
                // A name made from the content alone comes back.
                name = 0;
                chunks |= region.chunks[0];
            }
            region.chunks[name] = chunks;
            region.packs |= one(name);
            writer.put |= one(name);
            writer.relied |= one(name);
            writer.copied = 0;
            writer.missing &= !chunks;
            writer.step = if writer.missing == 0 { follow(&writer) } else { Step::PutAdopts };
        }
        Step::PutSegment => {
            region.lists[segment] = writer.relied & writer.put | if writer.missing != 0 { one(own) } else { 0 };
            region.segments |= 1 << segment;
            // The pack's content, known before it is there only where the order is broken.
            if writer.missing != 0 {
                region.chunks[own] = writer.missing;
            }
            writer.step = follow(&writer);
        }
        Step::PutSnapshot => {
            region.snapshots |= one(plan.snapshot);
            writer.step = follow(&writer);
        }
        Step::PutCommit => {
            region.commits |= one(session);
            writer.step = follow(&writer);
            if writer.step == Step::Done {
                writer = writer.ended(Step::Done);
            }
        }
        Step::Confirm => {
            if region.names(session) {
                repeat(scenario, &mut writer, number);
            } else if plan.replica && !keeps(Rule::VerdictsFirst) {
                writer = writer.ended(Step::CopyVerdicts);
            } else {
                writer = writer.ended(Step::Done);
            }
        }
        Step::WatchPutNeeds => {
            region.sessions[session].needs = writer.needs;
            if keeps(Rule::NeedsWithObserved) {
                region.sessions[session].observed = writer.seen;
                writer.observed = writer.seen;
            }
            let check = keeps(Rule::FenceCheckInWatch) && keeps(Rule::PutBeforeFenceCheck);
            writer.step = if check { Step::WatchList } else { writer.back };
        }
        Step::WatchPutObserved => {
            region.sessions[session].observed = writer.seen;
            writer.observed = writer.seen;
            writer.step = Step::WatchPutNeeds;
        }
        Step::WatchList => {
            if region.names(session) {
                repeat(scenario, &mut writer, number);
            } else {
                writer.step = if keeps(Rule::PutBeforeFenceCheck) { writer.back } else { Step::WatchPutNeeds };
            }
        }
        Step::PutEnd => {
            region.sessions[session].ended = true;
            writer = writer.ended(Step::Over);
        }
        Step::Done | Step::Over => return None,
    }
    // What no later step asks for, so that histories meet.
    if !writer.is_over() && !(Step::WatchPutNeeds..=Step::WatchList).contains(&writer.step) {
        writer.back = Step::default();
        if writer.step > Step::PutPack && writer.missing == 0 {
            writer.avoid = 0;
        }
        if writer.step >= Step::PutBase && !plan.replica || writer.step > Step::PutAdopts {
            writer.needs = 0;
        }
        if writer.step == Step::Confirm {
            writer.relied &= if scenario.succeeds { Set::MAX } else { 0 };
        }
    }
    next.writers[number] = writer;
    Some(next)
}

/// Packs of generations whose fence is there and whose final isn't.
fn past_fence(region: &Region) -> Set {
    let fenced = region.log.iter().filter(|generation| generation.is_open() && generation.is(FENCE));
    fenced.fold(0, |set, generation| set | generation.condemned)
}

/// A listing of the log in the course of the run.
fn look(scenario: &Scenario, region: &Region, writer: &mut Writer, number: usize) {
    let session = scenario.session(number, writer.attempt as usize);
    if region.names(session) {
        repeat(scenario, writer, number);
        return;
    }
    writer.seen = region.newest() as u8;
    writer.avoid |= region.condemned() | region.dead();
    writer.needs = if scenario.keeps(Rule::Needs) { region.condemned() & writer.relied } else { 0 };
    writer.step = if !scenario.keeps(Rule::NeedsWithObserved) {
        Step::WatchPutObserved
    } else if !scenario.keeps(Rule::PutBeforeFenceCheck) {
        Step::WatchList
    } else {
        Step::WatchPutNeeds
    };
}

/// From the start under a new session that adopts the ones before, or the end where there is none left.
fn repeat(scenario: &Scenario, writer: &mut Writer, number: usize) {
    let session = scenario.session(number, writer.attempt as usize);
    let attempt = writer.attempt + 1;
    *writer = if attempt as usize == scenario.attempts {
        writer.ended(Step::Over)
    } else {
        let adopts = writer.adopts | one(session);
        let relied = if scenario.succeeds { writer.relied } else { 0 };
        Writer { step: opening(scenario), attempt, adopts, relied, put: writer.put, ..writer.ended(Step::Over) }
    };
}

//! What a run of the model is made of, and the orderings that it can leave out.

use crate::store::{Region, SNAPSHOTS, Set};

/// An ordering, or a rule, that the protocol rests on. A scenario may leave one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    // The writer.
    SessionBeforeList,
    ObservedAtOpen,
    FinalsAtStart,
    CondemnedAreMissing,
    Needs,
    NeedsWithObserved,
    NeedsAreKept,
    FenceCheckInWatch,
    PutBeforeFenceCheck,
    PackBeforeSegment,
    SegmentBeforeCommit,
    SnapshotBeforeCommit,
    ListAfterCommit,
    NewNames,
    BaseBeforeList,
    BaseFenceCheck,
    BaseVerdictCheck,
    // The collector.
    OneGenerationAtATime,
    CondemnBeforeSessions,
    RelistCommits,
    RelistVerdicts,
    NeedsAfterFence,
    SameCommits,
    BasesMarked,
    NamedBasesKept,
    CommitsBeforeSegments,
    SegmentsBeforePacks,
    RescueReached,
    RescueNeeds,
    DeadAreNoCopies,
    KeepUnnamed,
    FinalBeforeDelete,
    FinalBeforeSupersede,
    SupersedeBeforeSegmentDelete,
    AdoptTheWinner,
    SpareOpenSessions,
    SpareAdopted,
    DeleteAgain,
    ListAgain,
    // Verdicts and readers.
    TiesKeep,
    ListAfterUnforget,
    CommitsBeforeLog,
    // Replication.
    VerdictsFirst,
    VerdictsCopied,
    PresentToo,
    DeadNamesAnew,
}

/// What a collector may condemn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condemn {
    /// Any set of packs: whatever marking, moving and policy come to, and more.
    Any,
    /// What nothing reaches, of sessions that are over.
    Marked,
}

#[derive(Clone, Copy, Debug)]
pub struct WriterPlan {
    pub region: usize,
    pub snapshot: usize,
    /// A replication from the other region.
    pub replica: bool,
    /// A snapshot whose chunks are taken over without looking each up.
    pub base: Option<usize>,
}

/// What somebody with a verdict to give does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgePlan {
    pub region: usize,
    pub snapshot: usize,
    pub forget: bool,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub without: Option<Rule>,
    /// The chunks that each snapshot reaches.
    pub reaches: [Set; SNAPSHOTS],
    pub regions: [Region; 2],
    pub writers: Vec<WriterPlan>,
    /// Sessions that a writer may open, one after another.
    pub attempts: usize,
    /// The region of each collector.
    pub collectors: Vec<usize>,
    /// Generations that collectors begin.
    pub generations: usize,
    pub condemn: Condemn,
    /// The first pack of a session; below are those that stood there before.
    pub first_pack: usize,
    /// Packs of the other region, by their headers' session: that of snapshot 0's commit there.
    pub foreign: Set,
    /// The pack out of which collectors may move live frames.
    pub moves: Option<usize>,
    pub supersede: bool,
    /// Deletes land when they like. Else at once.
    pub late_deletes: bool,
    pub judges: Vec<JudgePlan>,
    /// The region of somebody who lists the snapshots.
    pub reader: Option<usize>,
    /// A fence may leave out forgotten snapshots: those that aren't past their window.
    pub window: bool,
    /// A listing of sessions or commits takes a step for each writer, one of segments a step for the superseding ones and one for the others.
    pub slow_lists: bool,
    pub put_if_absent: bool,
    /// Collector processes die and others take their place.
    pub restarts: bool,
    /// A put of a fence that was given up lands later.
    pub late_fence: bool,
    /// Two writers do the same, so states that differ by their exchange are one.
    pub alike: bool,
    /// Also runs writers and collections to their end from every state.
    pub liveness: bool,
}

impl Scenario {
    pub fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub fn session(&self, writer: usize, attempt: usize) -> usize {
        writer * self.attempts + attempt
    }

    pub fn moving_session(&self, collector: usize) -> usize {
        self.writers.len() * self.attempts + collector
    }

    pub fn pack_of(&self, session: usize) -> usize {
        self.first_pack + session
    }

    /// The session in a pack's header. None for what stood there before: its session is over.
    pub fn header(&self, pack: usize) -> Option<usize> {
        if crate::store::has(self.foreign, pack) { Some(FORMER) } else { pack.checked_sub(self.first_pack) }
    }

    /// The snapshot that a session's commit names.
    pub fn snapshot(&self, session: usize) -> usize {
        let writer = session / self.attempts;
        if writer < self.writers.len() { self.writers[writer].snapshot } else { crate::store::SESSIONS - 1 - session }
    }

    pub fn without(mut self, rule: Rule) -> Self {
        self.without = Some(rule);
        self
    }
}

/// The session of snapshot 0 that stood there before.
pub const FORMER: usize = crate::store::SESSIONS - 1;

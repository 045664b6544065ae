//! What a run of the model is made of, and the orderings that it can leave out.

use crate::store::{Region, SNAPSHOTS, Set};

/// An ordering, or a rule, that the protocol rests on. A scenario may leave one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    // The opening of a session.
    /// The first state, and only then the listing of the log (ORDER-2).
    SessionBeforeList,
    /// The next state, with the newest generation as observed (ORDER-3).
    ObservedAtOpen,
    /// What finals list as deleted is missing (ORDER-3, ORDER-6).
    FinalsAtStart,
    /// What a generation without a final condemns is missing (ORDER-3, ORDER-6).
    CondemnedAreMissing,

    // The watch, and who comes after a fenced session.
    /// Condemned packs that are relied on are named (ORDER-4).
    Needs,
    /// … in the state that says observed n, not in a later one (ORDER-4).
    NeedsWithObserved,
    /// … and in all states that follow (ORDER-4).
    NeedsAreKept,
    /// The listing after the needs (ORDER-4), for a session that was there before the condemn.
    FenceCheckInWatch,
    /// … after them, not before (ORDER-4).
    PutBeforeFenceCheck,
    /// A successor names the condemned packs that it takes over (ORDER-5).
    SuccessorNeeds,
    /// … and lists the log after that (ORDER-4, ORDER-5).
    SuccessorFenceCheck,

    // What is taken over from a base.
    /// The state with the base, and only then the listing (ORDER-7).
    BaseBeforeList,
    /// No base that an open fence names (ORDER-7).
    BaseFenceCheck,
    /// No base that is forgotten (ORDER-7).
    BaseVerdictCheck,

    // The order of what is written.
    /// A segment lists durable packs (ORDER-1).
    PackBeforeSegment,
    /// The commit after the segments (ORDER-1, COMMIT-1).
    SegmentBeforeCommit,
    /// The commit after the snapshot (ORDER-1, COMMIT-1, COUNT-4).
    SnapshotBeforeCommit,
    /// The listing of the log after the commit (ORDER-5).
    ListAfterCommit,
    /// A name that was condemned or deleted isn't written again (NAME-3).
    NewNames,

    // The fence.
    /// A generation begins after the last one's final (GC-3).
    OneGenerationAtATime,
    /// Sessions are read after the condemn is durable (COLLECT-13).
    CondemnBeforeSessions,
    /// Commits are listed again after the fence (COLLECT-6).
    RelistCommits,
    /// Verdicts are listed again after the fence (COLLECT-6).
    RelistVerdicts,
    /// Needs are read after the fence that stands (COLLECT-14).
    NeedsAfterFence,
    /// A session is without a commit by the listing that is marked from (COLLECT-14).
    SameCommits,
    /// Bases are marked from (COLLECT-8).
    BasesMarked,
    /// A base that the fence names is kept (COLLECT-8).
    NamedBasesKept,

    // Marking and the rescue.
    /// Commits are listed before segments (gc.md, steps 2 and 3).
    CommitsBeforeSegments,
    /// Segments are listed before packs (gc.md, step 3).
    SegmentsBeforePacks,
    /// Condemned packs with reached chunks are rescued (gc.md, step 3).
    RescueReached,
    /// Condemned packs that are needed are rescued (gc.md, step 3).
    RescueNeeds,
    /// A dead pack is no copy (COLLECT-15).
    DeadAreNoCopies,
    /// What is forgotten is marked until a fence names it (COLLECT-8).
    KeepUnnamed,
    /// Everything is read again before damage is reported (COLLECT-16).
    ListAgain,

    // The end of a generation.
    /// The final before deletes (COLLECT-2).
    FinalBeforeDelete,
    /// The final before superseding segments (gc.md, step 4).
    FinalBeforeSupersede,
    /// The superseding segment before the deletes of those that it replaces (gc.md, step 4).
    SupersedeBeforeSegmentDelete,
    /// Who loses the race for the final adopts the winner's (GC-5).
    AdoptTheWinner,
    /// Packs of open sessions aren't condemned (gc.md, step 1).
    SpareOpenSessions,
    /// Nor those of sessions that an open one adopts (gc.md, step 1).
    SpareAdopted,
    /// What earlier finals list is deleted again (gc.md, step 1, COLLECT-2).
    DeleteAgain,

    // Verdicts and readers.
    /// Verdicts that tie keep (VERDICT-3).
    TiesKeep,
    /// Verdicts are listed again after an unforget (VERDICT-10).
    LookAfterVerdict,
    /// The log is listed after an unforget (VERDICT-6).
    ListAfterUnforget,
    /// An unforget promises only what counts: not what an open fence leaves in doubt (VERDICT-6, COUNT-2).
    PromiseWhatCounts,
    /// A reader lists commits, and then the log (COUNT-5).
    CommitsBeforeLog,

    // Replication.
    /// Verdicts are copied first.
    VerdictsFirst,
    /// Verdicts are copied.
    VerdictsCopied,
    /// What keeps in one region alone is said again above all, instead of being overruled by a copy (VERDICT-11).
    ApartIsKept,
    /// What is listed but not present is copied.
    PresentToo,
    /// A pack whose name is condemned or dead here goes into a new one (NAME-3).
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
    /// The next session takes over what the last relied on, instead of looking everything up again.
    pub succeeds: bool,
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

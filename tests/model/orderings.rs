//! Each ordering is left out once, and a history must be found that breaks a property; where none is, the exploration of all states says so.

use crate::properties::{FORGOTTEN, KEPT, NEVER_FENCED, NO_ALARM, NOT_WRONGED, PROMISE, RECLAIMED, RESTORABLE, SHOWN};
use crate::scenario::{Rule, Scenario};
use crate::scenarios::*;
use crate::{breaks, broken, holds};

#[test]
fn the_opening_of_a_session() {
    breaks(one_writer(), Rule::SessionBeforeList, RESTORABLE);
    breaks(one_writer(), Rule::ObservedAtOpen, NOT_WRONGED);
    breaks(one_writer(), Rule::FinalsAtStart, RESTORABLE);
    breaks(one_writer(), Rule::CondemnedAreMissing, RESTORABLE);
}

#[test]
fn the_watch() {
    breaks(one_writer(), Rule::Needs, RESTORABLE);
    breaks(one_writer(), Rule::NeedsWithObserved, RESTORABLE);
    breaks(replication(), Rule::NeedsAreKept, RESTORABLE);
}

#[test]
fn a_successor() {
    breaks(succession_any(), Rule::SuccessorNeeds, RESTORABLE);
    breaks(succession_any(), Rule::SuccessorFenceCheck, RESTORABLE);
}

#[test]
fn the_order_of_what_is_written() {
    breaks(one_writer(), Rule::PackBeforeSegment, RESTORABLE);
    breaks(one_writer(), Rule::SegmentBeforeCommit, RESTORABLE);
    breaks(one_writer(), Rule::SnapshotBeforeCommit, RESTORABLE);
    breaks(one_writer(), Rule::ListAfterCommit, NEVER_FENCED);
    breaks(one_writer(), Rule::NewNames, RESTORABLE);
}

#[test]
fn the_fence() {
    breaks(one_writer(), Rule::CondemnBeforeSessions, RESTORABLE);
    breaks(one_writer(), Rule::RelistCommits, NEVER_FENCED);
    breaks(two_collectors(), Rule::NeedsAfterFence, RESTORABLE);
    breaks(moves_overtaken(), Rule::OneGenerationAtATime, RESTORABLE);
}

#[test]
fn the_rescue() {
    breaks(two_writers_apart(), Rule::CommitsBeforeSegments, NO_ALARM);
    breaks(two_writers_apart(), Rule::SegmentsBeforePacks, NO_ALARM);
    breaks(one_writer(), Rule::RescueReached, RESTORABLE);
    breaks(one_writer(), Rule::RescueNeeds, RESTORABLE);
    breaks(replication_late(), Rule::DeadAreNoCopies, RESTORABLE);
    breaks(moves_overtaken(), Rule::ListAgain, NO_ALARM);
}

#[test]
fn the_final() {
    breaks(two_collectors(), Rule::FinalBeforeDelete, RESTORABLE);
    breaks(two_collectors(), Rule::AdoptTheWinner, RESTORABLE);
    breaks(Scenario { supersede: true, ..two_collectors() }, Rule::FinalBeforeSupersede, RESTORABLE);
    breaks(any_condemned(), Rule::SupersedeBeforeSegmentDelete, RESTORABLE);
    breaks(quiet(), Rule::DeleteAgain, RECLAIMED);
}

#[test]
fn verdicts() {
    breaks(crate::scenarios::verdicts(), Rule::RelistVerdicts, PROMISE);
    breaks(crate::scenarios::verdicts(), Rule::KeepUnnamed, RESTORABLE);
    breaks(crate::scenarios::verdicts(), Rule::ListAfterUnforget, PROMISE);
    breaks(replication_and_verdicts(), Rule::PromiseWhatCounts, PROMISE);
    breaks(verdicts_tie(), Rule::TiesKeep, PROMISE);
    breaks(verdicts_and_writer(), Rule::CommitsBeforeLog, SHOWN);
}

#[test]
fn bases() {
    breaks(base(), Rule::BaseBeforeList, RESTORABLE);
    breaks(base_taken_back(), Rule::BaseFenceCheck, RESTORABLE);
    breaks(base(), Rule::BasesMarked, RESTORABLE);
    breaks(base(), Rule::NamedBasesKept, RESTORABLE);
    breaks(base(), Rule::SameCommits, RESTORABLE);
    breaks(one_writer(), Rule::SameCommits, RESTORABLE);
}

#[test]
fn replication_rules() {
    breaks(replication_late(), Rule::DeadNamesAnew, RESTORABLE);
    breaks(replication_heals(), Rule::PresentToo, RESTORABLE);
    breaks(replication_of_verdicts(), Rule::VerdictsCopied, FORGOTTEN);
    breaks(verdicts_apart(), Rule::ApartIsKept, KEPT);
    breaks(verdicts_apart(), Rule::LookAfterVerdict, KEPT);
}

#[test]
fn without_put_if_absent() {
    broken(Scenario { put_if_absent: false, ..two_collectors() }, RESTORABLE);
    broken(Scenario { put_if_absent: false, ..late_fence() }, NEVER_FENCED);
}

/// What safety and the quiet end do without. The rationale says what each is for.
#[test]
fn what_no_history_refutes() {
    for rule in [Rule::FenceCheckInWatch, Rule::PutBeforeFenceCheck, Rule::SpareOpenSessions] {
        holds(quiet().without(rule), &[]);
    }
    holds(two_collectors_late().without(Rule::FenceCheckInWatch), &[]);
    holds(two_collectors_late().without(Rule::PutBeforeFenceCheck), &[]);
    holds(quiet().without(Rule::SpareAdopted), &[]);
    holds(replication_of_verdicts().without(Rule::VerdictsFirst), &[]);
    holds(base_taken_back().without(Rule::BaseVerdictCheck), &[]);
}

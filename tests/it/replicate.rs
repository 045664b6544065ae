//! Replication beside collection: what a region lacks comes from another one, under the receiving region's
//! own log.

use crate::fixture::{noise, write};
use crate::stage::{Answer, Stage, source};
use keepstone::backup::BackupSummary;
use keepstone::format::ids::{PackId, SegmentId, SessionId, SnapshotId, number_name};
use keepstone::format::verdict::Ruling;
use keepstone::pack::reader::pack_name;
use keepstone::replicate::{Depth, Replicated, replicate};
use keepstone::repo::RepoError;
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::read_segment;
use keepstone::repo::tags::set_tags;
use keepstone::report::{Monitor, Silent};
use keepstone::store::{Store, StoreError, StoreErrorKind};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Backs up into region 0 while region 1 takes nothing.
fn only_in_the_first(stage: &Stage, source: &Path) -> SnapshotId {
    stage.on(|call| match call.region == 1 && call.operation == "put" {
        true => Answer::Fail,
        false => Answer::Go,
    });
    let summary: BackupSummary = stage.backup(source);
    stage.quiet();
    assert!(summary.regions[0].committed && !summary.regions[1].committed);
    summary.snapshot.unwrap()
}

fn replicated(stage: &Stage) -> Replicated {
    replicated_as(stage, None)
}

fn replicated_as(stage: &Stage, identity: Option<&str>) -> Replicated {
    let repository = stage.open_as(identity);
    let listing = list(&repository).unwrap();
    stage.calls.lock().unwrap().clear();
    replicate(&repository, &listing.snapshots, Depth::Commits, None, 64 << 20, &Silent).unwrap()
}

#[test]
fn order_1_a_session_that_adopts_comes_before_the_packs_and_the_commit_last() {
    let (stage, source) = (Stage::new(2), source());
    let id = only_in_the_first(&stage, source.path());
    let done = replicated(&stage);
    assert_eq!((done.commits, done.packs, done.segments, done.issues.len()), (1, 2, 1, 0), "{:?}", done.issues);
    let session = stage.collector.commits(1)[0];
    let first = stage.collector.commits(0)[0];
    assert_eq!(stage.collector.states(1, session).last().unwrap().adopts, [first], "the id in the packs' headers");
    let adopting = stage.collector.states(1, session).len() - 1;
    let mut from = stage.place(0, 1, "put", &format!("sessions/{session}/{}", number_name(adopting as u64)));
    for (operation, prefix) in [
        ("list", "gc/"),
        ("put", "packs/"),
        ("put", "index/"),
        ("put", "snapshots/"),
        ("put", "commits/"),
        ("list", "gc/"),
    ] {
        let next = stage.place(from, 1, operation, prefix);
        assert!(from < next, "{operation} {prefix}");
        from = next;
    }
    stage.assert_restores(&[0, 1], id, source.path());
    // Nothing is left to do, and nothing is done.
    let again = replicated(&stage);
    assert_eq!((again.packs, again.commits), (0, 0));
    assert!(stage.calls().iter().all(|call| call.operation != "put"));
}

#[test]
fn name_3_what_was_deleted_or_condemned_here_comes_under_a_new_name_with_its_origin() {
    for last in ["condemn", "fence", "final"] {
        let (stage, source) = (Stage::new(2), source());
        let old = stage.backup(source.path()).snapshot.unwrap();
        let packs = stage.collector.packs(1);
        // Region 1 hears that it is forgotten and collects; region 0 has a snapshot that uses the packs.
        write(source.path(), "new", &noise(42, 9000));
        let id = only_in_the_first(&stage, source.path());
        stage.collector.rule(1, old, 0, Ruling::Forget);
        stage.collector.condemn(1, 1, &packs);
        if last != "condemn" {
            stage.collector.fence(1, 1, &stage.collector.open_sessions(1), &[old]);
        }
        if last == "final" {
            stage.collector.finish(1, 1, &packs, &[], &[]);
        }
        let done = replicated(&stage);
        assert_eq!((done.commits, done.issues.len(), done.decisions), (1, 0, 1), "{last}: {:?}", done.issues);
        let written: Vec<String> = stage
            .calls()
            .iter()
            .filter(|call| call.region == 1 && call.operation == "put" && call.name.starts_with("packs/"))
            .map(|call| call.name.clone())
            .collect();
        assert!(packs.iter().all(|pack| !written.contains(&pack_name(pack))), "{last}: a dead name was written");
        if last != "final" {
            if last == "condemn" {
                stage.collector.fence(1, 1, &[], &[old]);
            }
            stage.collector.finish(1, 1, &packs, &[], &[]);
        }
        let repository = &stage.collector.repository;
        for name in stage.collector.names(1, "index/") {
            let segment = SegmentId::from_hex(name.strip_prefix("index/").unwrap()).unwrap();
            let opened = read_segment(repository, &repository.regions[1], segment).unwrap();
            assert!(opened.segment.packs.iter().all(|pack| pack.origin == repository.secrets.slot));
        }
        assert_eq!(stage.world.ids(&[0, 1]), [id], "{last}: forgotten everywhere");
        stage.assert_restores(&[0, 1], id, source.path());
    }
}

#[test]
fn order_4_and_5_a_replica_that_a_collection_overtakes_stays_pending_until_the_next_run() {
    for at_put in ["packs/", "index/", "snapshots/", "commits/"] {
        let (stage, source) = (Stage::new(2), source());
        let id = only_in_the_first(&stage, source.path());
        let collector = Arc::clone(&stage.collector);
        let mut done = false;
        stage.on(move |call| {
            if !done && call.region == 1 && !call.after && call.operation == "put" && call.name.starts_with(at_put) {
                done = true;
                let packs = collector.packs(1);
                collector.collect(1, 1, &packs);
            }
            Answer::Go
        });
        let first = replicated(&stage);
        stage.quiet();
        assert_eq!((first.commits, first.issues.len()), (0, 1), "{at_put}: {:?}", first.issues);
        assert_eq!(stage.world.ids(&[1]), [], "{at_put}");
        let second = replicated(&stage);
        assert_eq!((second.commits, second.issues.len()), (1, 0), "{at_put}: {:?}", second.issues);
        stage.assert_restores(&[0, 1], id, source.path());
    }
}

#[test]
fn verdicts_and_tags_merge_both_ways_and_go_first() {
    let (stage, source) = (Stage::new(2), source());
    let ids: Vec<SnapshotId> = (0..2)
        .map(|at| {
            write(source.path(), "changing", &noise(60 + at, 3000));
            stage.backup(source.path()).snapshot.unwrap()
        })
        .collect();
    stage.collector.rule(0, ids[0], 0, Ruling::Forget);
    stage.collector.rule(1, ids[1], 0, Ruling::Hold);
    set_tags(&stage.collector.repository, ids[1], &BTreeSet::new(), BTreeSet::from(["kept".to_owned()])).unwrap();
    let tags = stage.collector.names(0, "tags/");
    stage.collector.memories[0].delete(&tags[0]).unwrap();
    write(source.path(), "changing", &noise(70, 3000));
    only_in_the_first(&stage, source.path());
    let done = replicated(&stage);
    assert_eq!((done.decisions, done.commits, done.issues.len()), (3, 1, 0), "{:?}", done.issues);
    for prefix in ["verdicts/", "tags/"] {
        assert_eq!(stage.collector.names(0, prefix), stage.collector.names(1, prefix));
    }
    assert!(stage.place(0, 1, "put", "verdicts/") < stage.place(0, 1, "put", "sessions/"));
    for at in 0..2 {
        assert!(!stage.world.ids(&[at]).contains(&ids[0]), "forgotten in region {at} alone too");
    }
}

#[test]
fn seg_9_a_writer_copies_its_own_packs_and_no_others() {
    let ((stage, identity), source) = (Stage::with_writer(2), source());
    let id = only_in_the_first(&stage, source.path());
    let done = replicated_as(&stage, Some(&identity));
    assert_eq!((done.commits, done.packs, done.issues.len()), (0, 0, 1), "{:?}", done.issues);
    assert!(done.issues[0].detail.contains("packs of other slots"), "{:?}", done.issues);
    assert_eq!(replicated(&stage).commits, 1);
    stage.assert_restores(&[1], id, source.path());
}

#[test]
fn a_snapshot_that_is_not_whole_anywhere_is_not_committed() {
    let (stage, source) = (Stage::new(2), source());
    let id = only_in_the_first(&stage, source.path());
    let packs: Vec<PackId> = stage.collector.packs(0);
    stage.collector.memories[0].delete(&pack_name(&packs[0])).unwrap();
    let done = replicated(&stage);
    assert_eq!((done.commits, done.packs, done.issues.len()), (0, 0, 1));
    let sessions: Vec<SessionId> = stage.collector.open_sessions(1);
    assert_eq!((sessions, stage.world.ids(&[1])), (Vec::new(), Vec::new()), "{id}");
}

#[test]
fn a_segment_that_is_damaged_keeps_back_what_only_it_lists_and_nothing_else() {
    let (stage, source) = (Stage::new(2), source());
    let other = tempfile::tempdir().unwrap();
    write(other.path(), "elsewhere", &noise(90, 9000));
    let lost = only_in_the_first(&stage, other.path());
    let segment = stage.collector.names(0, "index/")[0].clone();
    let id = only_in_the_first(&stage, source.path());
    let mut bytes = stage.collector.memories[0].get(&segment, 1 << 20).unwrap();
    bytes[40] ^= 1;
    stage.collector.memories[0].heal(&segment, &bytes.into()).unwrap();
    let done = replicated(&stage);
    assert_eq!((done.commits, done.issues.len()), (1, 2), "{:?}", done.issues);
    stage.assert_restores(&[1], id, source.path());
    assert!(!stage.world.ids(&[1]).contains(&lost));
}

/// Asks to stop after so many looks.
struct StopAfter(AtomicI64);

impl Monitor for StopAfter {
    fn cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) <= 0
    }
}

#[test]
fn replication_stops_when_the_user_asks_and_the_next_one_goes_on() {
    let (stage, source) = (Stage::new(2), source());
    let id = only_in_the_first(&stage, source.path());
    let repository = stage.open_as(None);
    let listing = list(&repository).unwrap();
    // Before any, and between the two packs that are to be copied.
    for (looks, packs) in [(0, 0), (2, 0), (3, 1)] {
        let stopped = replicate(
            &repository,
            &listing.snapshots,
            Depth::Commits,
            None,
            64 << 20,
            &StopAfter(AtomicI64::new(looks)),
        );
        assert!(matches!(stopped, Err(RepoError::Cancelled)), "{looks}: {stopped:?}");
        assert_eq!((stage.collector.packs(1).len(), stage.world.ids(&[1])), (packs, Vec::new()), "{looks}");
        assert_eq!(stage.collector.open_sessions(1), [], "{looks}: it is ended");
    }
    // What was copied is listed: only the other pack is wanted still.
    let done = replicated(&stage);
    assert_eq!((done.commits, done.packs), (1, 1));
    stage.assert_restores(&[1], id, source.path());
}

#[test]
fn a_region_whose_store_refuses_is_behind_and_one_that_lacks_a_source_is_not() {
    let (stage, source) = (Stage::new(2), source());
    let first = only_in_the_first(&stage, source.path());
    write(source.path(), "new", &noise(43, 9000));
    only_in_the_first(&stage, source.path());
    for prefix in ["packs/", "sessions/", "index/", "commits/"] {
        stage.on(move |call| match call.region == 1 && call.operation == "put" && call.name.starts_with(prefix) {
            true => Answer::Fail,
            false => Answer::Go,
        });
        let done = replicated(&stage);
        // It isn't asked again for the second snapshot.
        assert_eq!((done.commits, done.issues.len()), (0, 1), "{prefix}");
        assert_eq!(done.behind.keys().copied().collect::<Vec<_>>(), [1], "{prefix}");
    }
    stage.quiet();
    // A loss elsewhere is no reason to keep what is new from it.
    for pack in stage.collector.packs(0) {
        stage.collector.memories[0].delete(&pack_name(&pack)).unwrap();
    }
    let done = replicated(&stage);
    assert!(!done.issues.is_empty() && done.behind.is_empty(), "{first}: {:?}", done.behind);

    let mut repository = stage.open_as(None);
    let error = || StoreError::new(StoreErrorKind::Full, "put", "somewhere", "packs/x", "full".to_owned());
    assert!(repository.set_aside([(0, error()), (1, error())].into()).is_empty(), "the last one stays");
    let name = repository.regions[1].name.clone();
    assert_eq!(repository.set_aside([(1, error())].into()), std::slice::from_ref(&name));
    assert_eq!((repository.regions.len(), &repository.unreachable[0].0), (1, &name));
}

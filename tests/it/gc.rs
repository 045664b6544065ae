//! Collection: what may go goes, what is needed never does, whatever fails or interleaves.

use crate::fixture::{World, noise, write};
use jiff::Span;
use keepstone::check::{self, check};
use keepstone::crypto::object::{build_sealed, build_signed};
use keepstone::env::{Clock, StepClock, random_bytes};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::gc::{Condemn, Fence, Final};
use keepstone::format::ids::{PackId, SessionId, SnapshotId, number_name};
use keepstone::format::roster::Role;
use keepstone::format::segment::Segment;
use keepstone::format::session::{Commit, Session, SessionEnd};
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::gc::{GcError, GcOptions, GcReport, MaxUnused, Reason, gc};
use keepstone::pack::reader::pack_name;
use keepstone::repo::gclog::{self, GcLog, publish};
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::{list_segments, read_segment};
use keepstone::repo::{RepoError, Repository};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn tree(seed: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for at in 0..12 {
        write(directory.path(), &format!("{}/{at}", at % 3), &noise(seed * 1000 + at, 3000));
    }
    directory
}

pub fn backup(world: &World, source: &Path) -> SnapshotId {
    world.backup(&world.all(), source, 0).unwrap().snapshot.unwrap()
}

pub fn quick() -> GcOptions {
    GcOptions { forget_window: Span::new(), ..GcOptions::default() }
}

pub fn at_once() -> GcOptions {
    GcOptions { now: true, ..quick() }
}

/// Collects in every region; a region that fails fails the test.
pub fn collect(world: &World, options: &GcOptions) -> GcReport {
    let report = gc(&world.open(&world.all()).unwrap(), options, &Silent).unwrap();
    for region in &report.regions {
        assert!(region.failure.is_none(), "{:?}", region.failure);
    }
    report
}

/// Collects in the first region and gives what stopped it.
fn refused(world: &World, options: &GcOptions) -> GcError {
    let mut report = gc(&world.open(&[0]).unwrap(), options, &Silent).unwrap();
    report.regions.remove(0).failure.expect("the collection stops")
}

pub fn rule(world: &World, id: SnapshotId, number: u64, ruling: Ruling) {
    let repository = world.open(&world.all()).unwrap();
    let decided_at = repository.clock.now_ns();
    rule_at(&repository, id, number, ruling, decided_at);
}

fn rule_at(repository: &Repository, id: SnapshotId, number: u64, ruling: Ruling, decided_at: i64) {
    let verdict = Verdict { snapshot: id, number, ruling, decided_at, reason: String::new(), until: None };
    let (bytes, digest) = build_sealed(
        ObjectKind::Verdict,
        &repository.keyring,
        &repository.signer(),
        verdict.encode(),
        &*repository.random,
    )
    .unwrap();
    for region in &repository.regions {
        region
            .store
            .put_new(&format!("verdicts/{id}/{}-{digest}", number_name(number)), &bytes.clone().into())
            .unwrap();
    }
}

fn sign(repository: &Repository, kind: ObjectKind, payload: &[u8]) -> Vec<u8> {
    build_signed(kind, repository.config.repository, &repository.signer(), payload).0
}

pub fn state(repository: &Repository, session: SessionId, number: u64, observed: u64) -> Session {
    Session {
        session,
        number,
        region: repository.regions[0].info.region,
        observed,
        needs: Vec::new(),
        adopts: Vec::new(),
        started_at: 0,
        bases: Vec::new(),
    }
}

pub fn put_state(repository: &Repository, state: &Session) {
    let bytes = sign(repository, ObjectKind::Session, &state.encode());
    let name = format!("sessions/{}/{}", state.session, number_name(state.number));
    repository.regions[0].store.put_new(&name, &bytes.into()).unwrap();
}

pub fn open_session(world: &World, observed: u64) -> SessionId {
    let repository = world.open(&[0]).unwrap();
    let id = SessionId(random_bytes(&*repository.random));
    put_state(&repository, &state(&repository, id, 0, observed));
    id
}

pub fn end_session(world: &World, session: SessionId) {
    let repository = world.open(&[0]).unwrap();
    let end = SessionEnd { session, region: repository.regions[0].info.region };
    let bytes = sign(&repository, ObjectKind::SessionEnd, &end.encode());
    repository.regions[0].store.put_new(&format!("sessions/{session}/end"), &bytes.into()).unwrap();
}

fn put_commit(world: &World, session: SessionId, snapshot: SnapshotId) {
    let repository = world.open(&[0]).unwrap();
    let commit = Commit { session, region: repository.regions[0].info.region, snapshot, observed: 0 };
    let bytes = sign(&repository, ObjectKind::Commit, &commit.encode());
    repository.regions[0].store.put_new(&format!("commits/{session}"), &bytes.into()).unwrap();
}

pub fn names(world: &World, prefix: &str) -> Vec<String> {
    list_sorted(&world.stores[0].inner().memory, prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

pub fn log(world: &World) -> GcLog {
    let repository = world.open(&[0]).unwrap();
    gclog::read(&repository, &repository.regions[0]).unwrap()
}

pub fn packs(world: &World) -> BTreeSet<PackId> {
    let id = |name: &String| PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap();
    names(world, "packs/").iter().map(id).collect()
}

/// The packs that segments list, by session.
pub fn listed(world: &World) -> BTreeMap<SessionId, BTreeSet<PackId>> {
    let repository = world.open(&[0]).unwrap();
    let region = &repository.regions[0];
    let mut listed: BTreeMap<SessionId, BTreeSet<PackId>> = BTreeMap::new();
    for id in list_segments(region).unwrap().into_keys() {
        for pack in read_segment(&repository, region, id).unwrap().segment.packs {
            listed.entry(pack.session).or_default().insert(pack.pack);
        }
    }
    listed
}

/// Every snapshot restores as its source, and a check finds nothing missing.
pub fn assert_whole(world: &World, kept: &[(SnapshotId, &Path)]) {
    let repository = world.open(&[0]).unwrap();
    let report = check(&repository, None, &check::Options::default(), &Silent).unwrap();
    assert!(report.is_sound(), "{:?}", report.issues);
    let ids: BTreeSet<SnapshotId> = world.ids(&[0]).into_iter().collect();
    for (id, source) in kept {
        assert!(ids.contains(id), "{id} doesn't count any more");
        world.assert_restores(&[0], *id, source, 0);
    }
}

/// Nothing is left but what the snapshots need.
pub fn assert_clean(world: &World, snapshots: &[SnapshotId]) {
    assert_eq!(names(world, "sessions/"), [] as [String; 0], "sessions are cleaned away");
    assert_eq!(names(world, "commits/").len(), snapshots.len());
    let all: BTreeSet<PackId> = listed(world).into_values().flatten().collect();
    assert_eq!(all, packs(world), "segments list what is there and nothing else");
}

pub fn quiet(world: &World) {
    for _ in 0..3 {
        collect(world, &at_once());
    }
}

#[test]
fn three_quiet_generations_reclaim_what_nothing_reaches() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let alone = packs(&world);
    let second = backup(&world, new.path());
    let before: BTreeSet<PackId> = packs(&world).difference(&alone).copied().collect();
    rule(&world, first, 1, Ruling::Forget);
    quiet(&world);
    assert_eq!(packs(&world), before, "exactly the packs of the other snapshot stay");
    assert_clean(&world, &[second]);
    assert_whole(&world, &[(second, new.path())]);
    assert_eq!(names(&world, "snapshots/").len(), 2, "COLLECT-3: snapshots and verdicts are never deleted");
    assert_eq!(names(&world, "verdicts/").len(), 1);
    let log = log(&world);
    assert!(log.open.is_none() && log.dead == alone.into_iter().collect());
    assert_eq!(log.first_seen.keys().copied().collect::<Vec<_>>(), [second]);
    // And no more generations, once there is nothing left to do.
    let report = collect(&world, &at_once());
    assert_eq!(report.regions[0].finished, [] as [u64; 0]);
}

#[test]
fn packs_of_a_run_that_broke_off_are_reclaimed_and_those_of_an_open_one_are_not() {
    let (kept, lost) = (tree(1), tree(2));
    let world = World::new(1);
    let id = backup(&world, kept.path());
    let whole = packs(&world);
    let calls = {
        let fork = world.fork();
        fork.calls_of(|| {
            backup(&fork, lost.path());
        })
    };
    let (mut broken, mut saved) = (0, 0);
    for number in 0..calls {
        let world = world.fork();
        world.die_after(number);
        let _ = world.backup(&[0], lost.path(), 0);
        world.live_again();
        let stored = packs(&world);
        let ids = world.ids(&[0]);
        if let Some(second) = ids.iter().find(|listed| **listed != id) {
            // It died behind its commit: what it saved stays.
            saved += 1;
            quiet(&world);
            assert_eq!(packs(&world), stored, "died at {number}");
            assert_clean(&world, &ids);
            assert_whole(&world, &[(id, kept.path()), (*second, lost.path())]);
            continue;
        }
        // Not yet: it may be at work still.
        let report = collect(&world, &quick());
        assert_eq!(packs(&world), stored, "died at {number}");
        assert_eq!(report.regions[0].condemned, BTreeMap::new());
        broken += u32::from(stored != whole);
        quiet(&world);
        assert_eq!(packs(&world), whole, "died at {number}");
        assert_clean(&world, &[id]);
        assert_whole(&world, &[(id, kept.path())]);
    }
    assert!(broken > 0 && saved > 0);
}

#[test]
fn a_forgotten_snapshot_can_be_brought_back_until_its_window_is_over() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    let all = packs(&world);
    rule(&world, first, 1, Ruling::Forget);
    let week = GcOptions { forget_window: Span::new().days(7), ..at_once() };
    for _ in 0..4 {
        let report = collect(&world, &week);
        assert_eq!(report.regions[0].windows.len(), 1);
    }
    assert_eq!(packs(&world), all);
    rule(&world, first, 2, Ruling::Unforget);
    collect(&world, &week);
    assert_whole(&world, &[(first, old.path()), (second, new.path())]);

    rule(&world, first, 3, Ruling::Forget);
    // Seen by a collector only after a week: the window counts from there (VERDICT-8).
    world.clock.sleep(8 * DAY);
    for _ in 0..3 {
        collect(&world, &week);
    }
    assert_eq!(packs(&world), all);
    world.clock.sleep(8 * DAY);
    for _ in 0..3 {
        collect(&world, &week);
    }
    assert!(packs(&world).len() < all.len());
    assert_whole(&world, &[(second, new.path())]);
    assert_clean(&world, &[second]);
}

/// COLLECT-9: whatever the clocks say, a snapshot is collected only once it was forgotten already when the
/// generation before was condemned.
#[test]
fn a_wrong_clock_takes_no_window_away() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    backup(&world, new.path());
    let repository = world.open(&[0]).unwrap();
    rule_at(&repository, first, 1, Ruling::Forget, 0);
    world.clock.sleep(30 * DAY);
    let week = GcOptions { forget_window: Span::new().days(7), ..at_once() };
    let report = collect(&world, &week);
    assert_eq!(report.regions[0].snapshots_collected, [], "COLLECT-9");
    let condemn: Condemn = gclog::read_entry(&repository, &repository.regions[0], 1).unwrap();
    assert_eq!(condemn.forgotten.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first]);
    assert_eq!(collect(&world, &week).regions[0].snapshots_collected, [], "VERDICT-8");
    world.clock.sleep(8 * DAY);
    let report = collect(&world, &week);
    assert_eq!((report.regions[0].snapshots_collected.as_slice(), report.regions[0].windows.len()), (&[first][..], 0));

    // A verdict from a clock that runs ahead waits for it.
    let world = World::new(1);
    let first = backup(&world, old.path());
    let repository = world.open(&[0]).unwrap();
    rule_at(&repository, first, 1, Ruling::Forget, i64::MAX - 5);
    for _ in 0..3 {
        assert_eq!(collect(&world, &week).regions[0].snapshots_collected, []);
    }
}

/// COUNT-5: a commit that a collection takes away between any two calls of a listing is no loss.
#[test]
fn a_listing_follows_a_collection_between_any_two_calls() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &at_once());
    let repository = world.open(&[0]).unwrap();
    let calls = world.calls_of(|| drop(list(&repository).unwrap()));
    let mut collected = 0;
    for call in 1..=calls {
        let world = world.fork();
        let repository = world.open(&[0]).unwrap();
        world.visit_at(call, |other| (0..2).for_each(|_| drop(collect(other, &at_once()))));
        let listing = list(&repository).unwrap();
        assert_eq!(listing.issues, [], "at call {call} of {calls}");
        assert_eq!(listing.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), [second]);
        collected += usize::from(listing.forgotten.is_empty());
    }
    assert!(collected > 0);
    // A commit that nothing took away is one that is lost.
    let name = list_sorted(&world.stores[0].inner().memory, "commits/").unwrap().remove(0).name;
    world.visit_at(3, move |other| other.stores[0].delete(&name).unwrap());
    assert_eq!(list(&repository).unwrap().issues.len(), 1);
}

/// VERDICT-9: a clock that leapt ahead ends no window, and makes none longer.
#[test]
fn a_clock_that_leapt_ahead_ends_no_window() {
    let (old, new, third) = (tree(1), tree(2), tree(3));
    let mut world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    backup(&world, third.path());
    let week = GcOptions { forget_window: Span::new().days(7), ..at_once() };
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &week);
    rule(&world, second, 1, Ruling::Forget);
    let here = world.clock.now_ns() as u64 / 1_000_000_000;
    let all = packs(&world);
    for leap in [120 * DAY, 3650 * DAY, 36500 * DAY] {
        world.clock = Arc::new(StepClock::starting_at(here + leap.as_secs()));
        for _ in 0..3 {
            let report = collect(&world, &week);
            let region = &report.regions[0];
            assert!(region.doubted_clock.is_some() && region.is_incomplete());
            assert!(region.snapshots_collected.is_empty());
        }
        // A backup of the same host doesn't make its clock right.
        backup(&world, third.path());
        assert!(collect(&world, &week).regions[0].doubted_clock.is_some());
    }
    assert!(packs(&world).is_superset(&all));
    // Right again: the one that was seen goes after its week, the other one is seen only now.
    world.clock = Arc::new(StepClock::starting_at(here + 8 * DAY.as_secs()));
    let report = collect(&world, &week);
    let region = &report.regions[0];
    assert_eq!((region.snapshots_collected.as_slice(), region.doubted_clock), (&[first][..], None));
    assert_eq!(collect(&world, &week).regions[0].snapshots_collected, []);
    world.clock.sleep(8 * DAY);
    assert_eq!(collect(&world, &week).regions[0].snapshots_collected, [second]);
}

/// Where nothing was done for a long time a person says that the clock is right.
#[test]
fn a_clock_is_believed_where_a_person_says_so() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    backup(&world, new.path());
    let week = GcOptions { forget_window: Span::new().days(7), ..at_once() };
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &week);
    world.clock.sleep(200 * DAY);
    assert_eq!(collect(&world, &week).regions[0].snapshots_collected, []);
    let trusting = GcOptions { trust_clock: true, ..week };
    assert_eq!(collect(&world, &trusting).regions[0].snapshots_collected, [first]);
}

fn region_id(repository: &Repository) -> keepstone::format::ids::RegionId {
    repository.regions[0].info.region
}

/// Condemns by hand, as a collector may with any packs (safety doesn't rest on which).
pub fn condemn(world: &World, packs: impl IntoIterator<Item = PackId>) {
    let repository = world.open(&[0]).unwrap();
    let generation = log(world).newest + 1;
    let packs: BTreeSet<PackId> = packs.into_iter().collect();
    let packs = packs.into_iter().collect();
    let entry = Condemn { generation, region: region_id(&repository), packs, forgotten: Vec::new() };
    assert_eq!(publish(&repository, &repository.regions[0], &entry).unwrap(), entry);
}

pub fn fence(world: &World, sessions: &[SessionId], snapshots: &[SnapshotId]) {
    let repository = world.open(&[0]).unwrap();
    let generation = log(world).newest;
    let (mut sessions, mut snapshots) = (sessions.to_vec(), snapshots.to_vec());
    sessions.sort_unstable();
    snapshots.sort_unstable();
    let entry = Fence { generation, region: region_id(&repository), sessions, snapshots };
    assert_eq!(publish(&repository, &repository.regions[0], &entry).unwrap(), entry);
}

#[test]
fn unforgotten_between_fence_and_final_it_is_kept() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    condemn(&world, []);
    fence(&world, &[], &[first]);
    rule(&world, first, 2, Ruling::Unforget);
    let report = collect(&world, &quick());
    assert_eq!(report.regions[0].snapshots_collected, [], "COLLECT-6");
    quiet(&world);
    assert_whole(&world, &[(first, old.path()), (second, new.path())]);

    // Without the unforget it is gone.
    let world = World::new(1);
    let first = backup(&world, old.path());
    rule(&world, first, 1, Ruling::Forget);
    condemn(&world, []);
    fence(&world, &[], &[first]);
    assert_eq!(collect(&world, &quick()).regions[0].snapshots_collected, [first]);
}

#[test]
fn a_commit_that_lands_between_reading_and_fencing_is_admitted() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    // The second snapshot's commit is put again by a session that a fence names, as if it had come late.
    let mine = listed(&world).len();
    let commit = |session: &SessionId| format!("commits/{session}");
    let commits = names(&world, "commits/");
    let session = *listed(&world).keys().find(|id| commits.contains(&commit(id))).unwrap();
    assert!(mine >= 2);
    let store = &world.stores[0].inner().memory;
    let bytes = store.get(&commit(&session), 1 << 20).unwrap();
    store.delete(&commit(&session)).unwrap();
    condemn(&world, packs(&world));
    fence(&world, &[session], &[]);
    store.put_new(&commit(&session), &bytes.into()).unwrap();
    let report = collect(&world, &quick());
    assert_eq!(report.regions[0].sessions_fenced, 0, "COLLECT-6");
    assert_eq!(report.regions[0].deleted.packs, 0);
    quiet(&world);
    assert_whole(&world, &[(first, old.path()), (second, new.path())]);
}

#[test]
fn what_is_reached_is_rescued_whatever_was_condemned() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    let all = packs(&world);
    condemn(&world, all.clone());
    let report = collect(&world, &at_once());
    assert_eq!(report.regions[0].rescued, all.len() as u64);
    assert_eq!(packs(&world), all);
    assert_whole(&world, &[(first, old.path()), (second, new.path())]);
}

#[test]
fn packs_that_a_session_needs_are_rescued() {
    let old = tree(1);
    let world = World::new(1);
    let first = backup(&world, old.path());
    let all: Vec<PackId> = packs(&world).into_iter().collect();
    // Gone for good, as far as any snapshot is concerned.
    rule(&world, first, 1, Ruling::Forget);
    condemn(&world, []);
    fence(&world, &[], &[first]);
    collect(&world, &quick());
    assert_eq!(log(&world).open.unwrap().condemned.len(), all.len());
    let session = open_session(&world, 0);
    let repository = world.open(&[0]).unwrap();
    let mut next = state(&repository, session, 1, log(&world).newest);
    next.needs = vec![all[0]];
    put_state(&repository, &next);
    let report = collect(&world, &quick());
    assert_eq!((report.regions[0].rescued, report.regions[0].deleted.packs), (1, all.len() as u64 - 1));
    assert_eq!(packs(&world).into_iter().collect::<Vec<_>>(), [all[0]]);
    // It stays while the session is open, and goes once it has ended.
    collect(&world, &quick());
    assert_eq!(packs(&world).len(), 1);
    end_session(&world, session);
    quiet(&world);
    assert_eq!(packs(&world).len(), 0);
    assert_clean(&world, &[]);
}

#[test]
fn a_base_of_an_open_session_is_kept() {
    let old = tree(1);
    let world = World::new(1);
    let first = backup(&world, old.path());
    let all = packs(&world);
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &at_once());
    let session = open_session(&world, log(&world).newest);
    let repository = world.open(&[0]).unwrap();
    let mut next = state(&repository, session, 1, log(&world).newest);
    next.bases = vec![first];
    put_state(&repository, &next);
    for _ in 0..3 {
        collect(&world, &quick());
        let mut seen = next.clone();
        seen.number = log(&world).newest + 10;
        seen.observed = log(&world).newest;
        put_state(&repository, &seen);
    }
    assert_eq!(packs(&world), all, "COLLECT-8");
    // Also when the fence was put before the session was there: it is listed after it.
    let world = World::new(1);
    let first = backup(&world, old.path());
    rule(&world, first, 1, Ruling::Forget);
    condemn(&world, []);
    fence(&world, &[], &[first]);
    let session = open_session(&world, 1);
    let repository = world.open(&[0]).unwrap();
    let mut next = state(&repository, session, 1, 1);
    next.bases = vec![first];
    put_state(&repository, &next);
    assert_eq!(collect(&world, &quick()).regions[0].snapshots_collected, [], "COLLECT-8");
}

#[test]
fn a_sleeping_writer_is_fenced_and_a_waking_one_is_not() {
    let old = tree(1);
    let world = World::new(1);
    let first = backup(&world, old.path());
    let sleeper = open_session(&world, 0);
    let report = collect(&world, &quick());
    let noticed = report.regions[0].noticed.unwrap();
    assert_eq!((report.regions[0].open, report.regions[0].sessions_open.len()), (Some(1), 1));

    // It may be alive: the next run leaves it its time, whether or not that run knows since when.
    for known in [BTreeMap::new(), BTreeMap::from([(noticed.0, (noticed.1, noticed.2))])] {
        let report = collect(&world, &GcOptions { noticed: known, ..quick() });
        assert_eq!(report.regions[0].waiting_for[0].id, sleeper);
        assert!(names(&world, "gc/").iter().all(|name| !name.ends_with("fence")));
    }
    let awake = world.fork();
    let repository = awake.open(&[0]).unwrap();
    put_state(&repository, &state(&repository, sleeper, 1, 1));
    let report = collect(&awake, &quick());
    assert_eq!((report.regions[0].finished.clone(), report.regions[0].sessions_fenced), (vec![1], 0));

    let late = world.fork();
    late.clock.sleep(Duration::from_secs(700));
    let report =
        collect(&late, &GcOptions { noticed: BTreeMap::from([(noticed.0, (noticed.1, noticed.2))]), ..quick() });
    assert_eq!(report.regions[0].sessions_fenced, 1);
    assert!(log(&late).fenced.contains(&sleeper));
    // Its commit doesn't count any more, however late it comes, and is taken away.
    put_commit(&late, sleeper, first);
    assert_eq!(late.ids(&[0]), [first]);
    quiet(&late);
    assert_clean(&late, &[first]);

    // A run that is to finish at once waits for it, ten minutes at most.
    let before = world.clock.now_ns();
    let report = collect(&world, &at_once());
    assert!(world.clock.now_ns() - before >= 600_000_000_000);
    assert_eq!((report.regions[0].sessions_fenced, report.regions[0].open), (1, None));
    assert_whole(&world, &[(first, old.path())]);
}

#[test]
fn packs_of_an_open_session_or_of_one_that_it_adopts_are_not_condemned() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    backup(&world, old.path());
    let calls = {
        let fork = world.fork();
        fork.calls_of(|| {
            backup(&fork, new.path());
        })
    };
    // Dies just before its snapshot: packs and segment are there.
    let before = packs(&world);
    world.die_after(calls - 5);
    let _ = world.backup(&[0], new.path(), 0);
    world.live_again();
    let stored: Vec<PackId> = packs(&world).difference(&before).copied().collect();
    assert!(!stored.is_empty());
    let id = |name: &String| SessionId::from_hex(&name["sessions/".len()..][..32]).unwrap();
    let committed = |id: &SessionId| names(&world, "commits/").contains(&format!("commits/{id}"));
    let dead = names(&world, "sessions/").iter().map(id).find(|id| !committed(id)).unwrap();
    end_session(&world, dead);
    // Another one takes its packs over.
    let adopter = SessionId([9; 16]);
    let repository = world.open(&[0]).unwrap();
    let mut first = state(&repository, adopter, 0, 0);
    first.adopts = vec![dead];
    put_state(&repository, &first);
    for number in 1..4u64 {
        collect(&world, &quick());
        let mut next = state(&repository, adopter, number, log(&world).newest);
        next.adopts = vec![dead];
        put_state(&repository, &next);
    }
    assert!(stored.iter().all(|pack| packs(&world).contains(pack)));
    end_session(&world, adopter);
    quiet(&world);
    assert_eq!(packs(&world), before);
}

/// SESSION-2, COUNT-3: what another slot or another region says of a session says nothing.
#[test]
fn states_of_others_are_ignored() {
    let world = World::new(2);
    let source = tree(1);
    backup(&world, source.path());
    let session = open_session(&world, 0);
    let second = world.open(&[1]).unwrap();
    // The same session's state in the other region, copied here under a higher number.
    let mut foreign = state(&second, session, 5, 99);
    foreign.needs = vec![PackId([7; 32])];
    let bytes = sign(&second, ObjectKind::Session, &foreign.encode());
    let name = format!("sessions/{session}/{}", number_name(5));
    world.stores[0].put_new(&name, &bytes.into()).unwrap();
    let end = SessionEnd { session, region: region_id(&second) };
    let bytes = sign(&second, ObjectKind::SessionEnd, &end.encode());
    world.stores[0].put_new(&format!("sessions/{session}/end"), &bytes.into()).unwrap();
    // What another slot of this repository says of it, in this very region.
    let (_, identity) = world.add_slot(Role::Writer, "other");
    let stranger = world.as_slot(&identity).open(&[0]).unwrap();
    put_state(&stranger, &state(&stranger, session, 7, 50));
    // And what somebody says in the owner's name.
    let mut forged = sign(&stranger, ObjectKind::Session, &state(&stranger, session, 9, 70).encode());
    let owner = world.open(&[0]).unwrap();
    forged[24..40].copy_from_slice(&owner.secrets.slot.0);
    let body = forged.len() - 32;
    let digest = *blake3::hash(&forged[..body]).as_bytes();
    forged[body..].copy_from_slice(&digest);
    world.stores[0].put_new(&format!("sessions/{session}/{}", number_name(9)), &forged.into()).unwrap();
    let repository = world.open(&[0]).unwrap();
    let sessions = keepstone::repo::sessions::read(&repository, &repository.regions[0]).unwrap();
    let record = &sessions[&session];
    assert_eq!((record.observed, record.ended, record.needs.len()), (0, false, 0), "SESSION-2, COUNT-3");
    let report = gc(&repository, &quick(), &Silent).unwrap();
    assert_eq!(report.regions[0].sessions_open.len(), 1);
}

fn damage(world: &World, name: &str) {
    let store = &world.stores[0].inner().memory;
    let mut bytes = store.get(name, u64::MAX).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    store.heal(name, &bytes.into()).unwrap();
}

/// A world with something to delete in every step: a forgotten snapshot, an orphan's session, a condemned pack.
pub fn busy() -> (World, TempDir, TempDir, SnapshotId, SnapshotId) {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &quick());
    collect(&world, &quick());
    (world, old, new, first, second)
}

fn deletes(world: &World, from: usize) -> Vec<String> {
    let log = world.stores[0].log();
    log[from..].iter().filter(|call| call.operation == Operation::Delete).map(|call| call.name.clone()).collect()
}

#[test]
fn damage_stops_a_collection_before_anything_new_is_deleted() {
    let (world, .., second) = busy();
    let commit = names(&world, "commits/").remove(0);
    let victims = ["index/", "gc/"].map(|prefix| names(&world, prefix).remove(0));
    for name in victims.iter().chain([&commit, &format!("snapshots/{second}")]) {
        let world = world.fork();
        damage(&world, name);
        let calls = world.stores[0].log().len();
        let before = packs(&world);
        let error = match gc(&world.open(&[0]).unwrap(), &at_once(), &Silent) {
            Ok(mut report) => report.regions.remove(0).failure.unwrap_or_else(|| panic!("{name} went unnoticed")),
            Err(error) => error,
        };
        let told = error.to_string();
        assert!(told.contains(name.rsplit('/').next().unwrap()) || told.contains("gc/"), "COLLECT-1, GC-4: {told}");
        assert_eq!(packs(&world), before, "COLLECT-1: {name}");
        assert!(deletes(&world, calls).iter().all(|name| !name.starts_with("packs/") && !name.starts_with("commits/")));
    }
    // A session at work that can't be read.
    let id = open_session(&world, 0);
    let name = names(&world, &format!("sessions/{id}/")).remove(0);
    damage(&world, &name);
    let error = refused(&world, &at_once()).to_string();
    assert!(error.contains("COLLECT-1") && error.contains(&id.to_string()), "{error}");
}

#[test]
fn what_is_gone_or_unlisted_and_needed_stops_a_collection() {
    let (world, _, _, _, second) = busy();
    let repository = world.open(&[0]).unwrap();
    // A pack of the snapshot that stays.
    let session = listed(&world).into_iter().find(|(id, _)| {
        let bytes = world.stores[0].inner().memory.get(&format!("commits/{id}"), 1 << 20);
        bytes.is_ok_and(|bytes| bytes.windows(32).any(|part| part == second.0))
    });
    let needed = session.unwrap().1;
    for pack in &needed {
        let world = world.fork();
        world.stores[0].inner().memory.delete(&pack_name(pack)).unwrap();
        let error = refused(&world, &at_once()).to_string();
        assert!(error.contains("COLLECT-1") && error.contains(&pack.to_string()), "{error}");
    }
    for id in list_segments(&repository.regions[0]).unwrap().into_keys() {
        let opened = read_segment(&repository, &repository.regions[0], id).unwrap();
        if opened.segment.packs.iter().any(|pack| needed.contains(&pack.pack)) {
            let world = world.fork();
            world.stores[0].inner().memory.delete(&format!("index/{id}")).unwrap();
            let error = refused(&world, &at_once()).to_string();
            assert!(error.contains("COLLECT-1") && error.contains("no segment lists it"), "{error}");
            assert!(error.contains(&second.to_string()), "the snapshot is named: {error}");
        }
    }
    // Lost for good: once the snapshot is forgotten, collection goes on.
    let world = world.fork();
    world.stores[0].inner().memory.delete(&pack_name(needed.iter().next().unwrap())).unwrap();
    rule(&world, second, 1, Ruling::Forget);
    for _ in 0..4 {
        collect(&world, &at_once());
    }
    assert_eq!(packs(&world).len(), 0);
}

#[test]
fn a_listing_or_a_read_that_fails_stops_a_collection_and_the_next_run_goes_on() {
    let (world, _, new, _, second) = busy();
    let calls = {
        let world = world.fork();
        collect(&world, &at_once());
        world.stores[0].count_all()
    };
    for number in 1..=calls {
        let world = world.fork();
        world.stores[0].inject(Trigger::any().nth(number), Fault::Fail(StoreErrorKind::Other));
        let outcome = world.open(&[0]).map(|repository| gc(&repository, &at_once(), &Silent));
        if let Ok(Ok(report)) = outcome {
            let struck = world.stores[0].log()[number as usize - 1].clone();
            assert!(
                report.regions[0].failure.is_some() || struck.operation != Operation::List,
                "call {number} failed unnoticed: {struck:?}"
            );
        }
        world.stores[0].revive();
        assert_whole(&world, &[(second, new.path())]);
    }
}

#[test]
fn whenever_a_collector_dies_another_one_finishes() {
    let (world, _, new, _, second) = busy();
    open_session(&world, 0);
    let calls = {
        let world = world.fork();
        world.calls_of(|| {
            collect(&world, &at_once());
        })
    };
    assert!(calls > 40);
    let (before, commits) = (packs(&world), names(&world, "commits/"));
    let clean = {
        let world = world.fork();
        quiet(&world);
        packs(&world)
    };
    for number in 0..calls {
        let world = world.fork();
        world.die_after(number);
        let died = world.open(&[0]).map(|repository| gc(&repository, &at_once(), &Silent));
        assert!(
            died.is_err()
                || died.is_ok_and(|ran| ran.is_err() || ran.is_ok_and(|report| report.regions[0].failure.is_some())),
            "call {number}"
        );
        world.live_again();
        assert_eq!(world.ids(&[0]), [second], "call {number}");
        let (log, left, commits_left) = (log(&world), packs(&world), names(&world, "commits/"));
        assert!(before.difference(&left).all(|pack| log.dead.contains(pack)), "COLLECT-2: call {number}");
        let session = |name: &String| SessionId::from_hex(&name["commits/".len()..]).unwrap();
        let mut gone = commits.iter().filter(|name| !commits_left.contains(name)).map(session);
        assert!(gone.all(|id| log.is_dead_session(&id)), "COLLECT-2: call {number}");
        if number % 7 == 0 {
            assert_whole(&world, &[(second, new.path())]);
        }
        quiet(&world);
        assert_eq!(packs(&world), clean, "call {number}");
        assert_clean(&world, &[second]);
        assert_whole(&world, &[(second, new.path())]);
    }
}

/// GC-5, COLLECT-16: the second collector does its whole work in the middle of the first one's, after each of its
/// calls; neither takes what the other one did for damage.
#[test]
fn two_collectors_do_each_other_no_harm() {
    let (world, _, new, _, second) = busy();
    let calls = {
        let world = world.fork();
        world.calls_of(|| {
            collect(&world, &at_once());
        })
    };
    for number in 1..=calls {
        let world = world.fork();
        world.visit_at(number, move |world| {
            // It may find the log in any state, but never a reason to stop.
            let report = gc(&world.open(&[0]).unwrap(), &at_once(), &Silent).unwrap();
            assert!(report.regions[0].failure.is_none(), "call {number}: {:?}", report.regions[0].failure);
        });
        let report = gc(&world.open(&[0]).unwrap(), &at_once(), &Silent).unwrap();
        assert!(report.regions[0].failure.is_none(), "call {number}: {:?}", report.regions[0].failure);
        assert_whole(&world, &[(second, new.path())]);
        quiet(&world);
        assert_clean(&world, &[second]);
        assert_whole(&world, &[(second, new.path())]);
    }
}

#[test]
fn a_refused_delete_is_put_off_and_tried_again() {
    let (world, _, new, _, second) = busy();
    world.stores[0].inject(Trigger::on(Operation::Delete), Fault::Fail(StoreErrorKind::Denied));
    let report = collect(&world, &at_once());
    let region = &report.regions[0];
    assert!(region.deferred.packs > 0 && region.deferred.bytes > 0 && region.is_incomplete());
    assert!(region.deferred_reason.is_some());
    assert_eq!(region.deleted.packs, 0);
    // Told by each run, and nothing else stands still.
    let again = collect(&world, &at_once());
    assert_eq!(again.regions[0].deferred, region.deferred);
    assert_whole(&world, &[(second, new.path())]);
    let third = backup(&world, new.path());
    world.stores[0].revive();
    collect(&world, &at_once());
    quiet(&world);
    assert_clean(&world, &[second, third]);
    assert_whole(&world, &[(second, new.path()), (third, new.path())]);
}

/// What a dry run says, compared with what the same run then does, until there is nothing left to do.
fn told_and_done(world: &World, options: &GcOptions) -> BTreeSet<Reason> {
    let mut reasons = BTreeSet::new();
    for round in 0..8 {
        let before = names(world, "");
        let told = collect(world, &GcOptions { dry_run: true, ..options.clone() });
        assert_eq!(names(world, ""), before, "round {round}: it wrote something");
        let done = collect(world, options);
        assert!(told.dry_run && !done.dry_run);
        let (told, done) = (&told.regions[0], &done.regions[0]);
        assert_eq!(told.condemned_packs, done.condemned_packs, "round {round}");
        assert_eq!((told.condemned.clone(), told.rescued), (done.condemned.clone(), done.rescued), "round {round}");
        assert_eq!((told.deleted, &told.deleted_packs), (done.deleted, &done.deleted_packs), "round {round}");
        assert_eq!(told.snapshots_collected, done.snapshots_collected, "round {round}");
        assert_eq!(told.sessions_fenced, done.sessions_fenced, "round {round}");
        // And what it says is what is gone, by name.
        let after = names(world, "");
        let gone: BTreeSet<&String> = before.iter().filter(|name| !after.contains(name)).collect();
        let packs: BTreeSet<String> = told.deleted_packs.iter().map(pack_name).collect();
        let gone_packs: BTreeSet<String> =
            gone.iter().filter(|name| name.starts_with("packs/")).map(ToString::to_string).collect();
        // What this run moved and then deleted as well was never there before.
        assert_eq!(packs, gone_packs, "round {round}");
        assert_eq!(told.segments_deleted, gone.iter().filter(|name| name.starts_with("index/")).count() as u64);
        let small = gone.iter().filter(|name| name.starts_with("commits/") || name.starts_with("sessions/")).count();
        assert_eq!(told.objects_deleted, small as u64, "round {round}");
        let named: usize = told.condemned_packs.values().map(Vec::len).sum();
        assert_eq!(named as u64, told.condemned.values().map(|tally| tally.packs).sum::<u64>());
        reasons.extend(told.condemned_packs.keys());
        if done.finished.is_empty() && done.open.is_none() && gone.is_empty() {
            return reasons;
        }
    }
    panic!("it never comes to an end");
}

#[test]
fn a_dry_run_writes_nothing_and_says_exactly_what_would_go() {
    let (world, ..) = busy();
    assert!(told_and_done(&world, &at_once()).contains(&Reason::Unreached));
    // From the beginning, in as many runs as it takes.
    let (old, new, lost) = (tree(1), tree(2), tree(3));
    let world = World::new(1);
    let first = backup(&world, old.path());
    backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    let calls = {
        let fork = world.fork();
        fork.calls_of(|| _ = backup(&fork, lost.path()))
    };
    // One that died after its packs and before its segment.
    world.stores[0].inject(Trigger::on(Operation::Put).under("index/"), Fault::Fail(StoreErrorKind::Other));
    world.die_after(calls - 6);
    let _ = world.backup(&[0], lost.path(), 0);
    world.live_again();
    world.stores[0].revive();
    let reasons = told_and_done(&world, &at_once());
    assert!(reasons.contains(&Reason::Unreached) && reasons.contains(&Reason::Orphan), "{reasons:?}");
    let (world, ..) = mostly_dead();
    assert!(told_and_done(&world, &thorough()).contains(&Reason::Emptied));
}

/// What stays though no snapshot needs it is told with the reason, and is all that stays.
#[test]
fn what_is_pinned_is_told_with_the_reason() {
    let (old, new, running) = (tree(1), tree(2), tree(3));
    let world = World::new(1);
    let week = GcOptions { forget_window: Span::new().days(7), ..at_once() };
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    rule(&world, second, 1, Ruling::Hold);
    collect(&world, &week);
    let before = packs(&world);
    // A backup that has stored packs and goes on.
    world.stores[0].inject(Trigger::on(Operation::Put).under("snapshots/"), Fault::Crash);
    let _ = world.backup(&[0], running.path(), 0);
    world.stores[0].revive();
    let running: BTreeSet<PackId> = packs(&world).difference(&before).copied().collect();
    assert!(!running.is_empty());
    let open = listed(&world).into_iter().find(|(_, packs)| packs.iter().any(|pack| running.contains(pack)));
    let open = open.expect("its segment is there").0;
    let region = collect(&world, &GcOptions { now: false, ..week }).regions.remove(0);
    assert_eq!((region.session_packs.packs, region.kept.packs), (running.len() as u64, packs(&world).len() as u64));
    let session = &region.sessions_open[0];
    assert_eq!((session.id, session.slot.as_ref().map(|(_, label)| label.as_str())), (open, Some("test")));
    assert_eq!((region.held, region.windows.len(), region.windows[0].0), (1, 1, first));
    let ends = region.windows[0].1 - world.clock.now_ns();
    assert!(ends > 6 * 86_400_000_000_000 && ends <= 7 * 86_400_000_000_000, "{ends} ns");
    // What shares a frame with live chunks stays for that: see mostly_dead().
    let (world, ..) = mostly_dead();
    let region = collect(&world, &GcOptions { max_unused: MaxUnused::Bytes(u64::MAX), ..at_once() }).regions.remove(0);
    assert!(region.dead_bytes > region.dead_in_live_frames_bytes && region.dead_in_live_frames_bytes > 0);
    let dead = {
        let repository = world.open(&[0]).unwrap();
        let mut raw = 0;
        for id in list_segments(&repository.regions[0]).unwrap().into_keys() {
            let opened = read_segment(&repository, &repository.regions[0], id).unwrap();
            let frames = opened.segment.packs.iter().flat_map(|pack| &pack.frames);
            raw += frames.flat_map(|frame| &frame.chunks).map(|chunk| u64::from(chunk.length)).sum::<u64>();
        }
        raw - region.live_bytes
    };
    assert_eq!(region.dead_bytes, dead, "live and dead is all there is");
}

#[test]
fn segments_that_list_dead_packs_are_replaced_by_such_as_list_the_rest() {
    let (shared, old) = (tree(1), tree(2));
    let world = World::new(1);
    let both = tempfile::tempdir().unwrap();
    for (number, part) in [&shared, &old].iter().enumerate() {
        for (path, bytes) in crate::gc::files(part.path()) {
            write(both.path(), &format!("{number}/{path}"), &bytes);
        }
    }
    // One large enough for packs of its own.
    write(both.path(), "2/large", &noise(7, 40 << 20));
    let first = backup(&world, both.path());
    std::fs::remove_file(both.path().join("2/large")).unwrap();
    let second = backup(&world, both.path());
    rule(&world, first, 1, Ruling::Forget);
    let (before, segments) = (packs(&world).len(), names(&world, "index/"));
    quiet(&world);
    assert!(packs(&world).len() < before);
    assert!(names(&world, "index/").iter().any(|name| !segments.contains(name)), "COLLECT-5");
    let repository = world.open(&[0]).unwrap();
    let mut superseding = 0;
    for id in list_segments(&repository.regions[0]).unwrap().into_keys() {
        let opened = read_segment(&repository, &repository.regions[0], id).unwrap();
        superseding += usize::from(!opened.segment.supersedes.is_empty());
    }
    assert_eq!(superseding, 1);
    assert_clean(&world, &[second]);
    assert_whole(&world, &[(second, both.path())]);
}

fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.push((name, std::fs::read(&path).unwrap()));
                }
            }
        }
    }
    found
}

#[test]
fn a_final_lists_each_snapshot_when_it_counts_first() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    collect(&world, &at_once());
    let second = backup(&world, new.path());
    collect(&world, &at_once());
    assert_eq!(log(&world).first_seen, BTreeMap::from([(first, 1), (second, 2)]));
    let repository = world.open(&[0]).unwrap();
    let last: Final = gclog::read_entry(&repository, &repository.regions[0], 2).unwrap();
    assert_eq!(last.seen, [second]);
    let mut audit = keepstone::repo::audit::read(&repository).unwrap().timeline;
    audit.retain(|recorded| recorded.entry.action == keepstone::format::audit::Action::GcFinal);
    assert_eq!(audit.len(), 2, "each final is recorded");
}

#[test]
fn only_one_host_collects_where_a_store_cannot_refuse_a_second_put() {
    let source = tree(1);
    let world = World::without_put_if_absent();
    backup(&world, source.path());
    let error = refused(&world, &at_once());
    assert!(matches!(error, GcError::Repo(RepoError::NotDesignated { .. })), "STORE-4, COLLECT-10: {error}");
    let repository = world.open(&[0]).unwrap();
    let region = &repository.regions[0];
    let collect_on = |host: &str| {
        let mut repository = world.open(&[0]).unwrap();
        repository.host = host.to_owned();
        gc(&repository, &at_once(), &Silent).unwrap().regions.remove(0)
    };
    keepstone::repo::designation::designate(&repository, region, repository.secrets.slot, "there").unwrap();
    assert!(collect_on("here").failure.expect("another host is").to_string().contains("there"));
    keepstone::repo::designation::designate(&repository, region, repository.secrets.slot, "here").unwrap();
    assert_eq!(collect_on("here").finished, [1]);
    assert!(matches!(collect_on("there").failure, Some(GcError::Repo(RepoError::NotDesignated { .. }))));
}

#[test]
fn each_region_is_collected_by_itself() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(2);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    // One region's store fails: the other one is collected all the same.
    world.stores[0].inject(Trigger::on(Operation::List).under("packs/"), Fault::Fail(StoreErrorKind::Unavailable));
    let report = gc(&world.open(&[0, 1]).unwrap(), &at_once(), &Silent).unwrap();
    assert!(report.regions[0].failure.is_some() && report.regions[1].failure.is_none());
    world.stores[0].revive();
    quiet(&world);
    for at in 0..2 {
        assert_eq!(world.ids(&[at]), [second]);
        world.assert_restores(&[at], second, new.path(), 0);
    }
    assert_clean(&world, &[second]);
}

pub fn stored_bytes(world: &World) -> u64 {
    list_sorted(&world.stores[0].inner().memory, "packs/").unwrap().iter().map(|listed| listed.size).sum()
}

/// Some large files, of which the first snapshot alone has most: they are forgotten.
pub fn mostly_dead() -> (World, TempDir, SnapshotId) {
    let source = tempfile::tempdir().unwrap();
    for at in 0..6 {
        write(source.path(), &format!("large/{at}"), &noise(100 + at, 2 << 20));
    }
    for at in 0..40 {
        write(source.path(), &format!("small/{at}"), &noise(200 + at, 20_000));
    }
    let world = World::new(1);
    let first = backup(&world, source.path());
    for at in 0..5 {
        std::fs::remove_file(source.path().join(format!("large/{at}"))).unwrap();
    }
    for at in 0..20 {
        std::fs::remove_file(source.path().join(format!("small/{at}"))).unwrap();
    }
    let second = backup(&world, source.path());
    rule(&world, first, 1, Ruling::Forget);
    collect(&world, &thorough());
    collect(&world, &GcOptions { max_unused: MaxUnused::Bytes(u64::MAX), ..at_once() });
    (world, source, second)
}

pub fn thorough() -> GcOptions {
    GcOptions { max_unused: MaxUnused::Permyriad(0), ..at_once() }
}

#[test]
fn a_maintainer_moves_live_frames_out_of_mostly_dead_packs() {
    let (world, source, second) = mostly_dead();
    let (_, identity) = world.add_slot(Role::Maintainer, "keeper");
    let keeper = world.as_slot(&identity);
    let (before, tolerated) = (stored_bytes(&world), GcOptions { max_unused: MaxUnused::Permyriad(9000), ..at_once() });
    let report = collect(&keeper, &tolerated);
    assert_eq!((report.regions[0].repacked_bytes, stored_bytes(&world)), (0, before));
    let bounded = GcOptions { max_repack_bytes: Some(10), ..thorough() };
    assert_eq!(collect(&keeper, &bounded).regions[0].repacked_bytes, 0);
    let dry = collect(&keeper, &GcOptions { dry_run: true, ..thorough() });
    assert!(dry.regions[0].condemned.contains_key(&Reason::Emptied));
    assert_eq!(stored_bytes(&world), before);

    let report = collect(&keeper, &thorough());
    assert!(report.regions[0].condemned[&Reason::Emptied].packs > 0, "{:?}", report.regions[0]);
    assert!(report.regions[0].dead_in_live_frames_bytes > 0, "what only an owner could take out is told");
    let after = stored_bytes(&world);
    assert!(after < before / 2, "{before} bytes before, {after} after");
    assert_whole(&world, &[(second, source.path())]);
    quiet(&keeper);
    assert_clean(&world, &[second]);
    // The frames keep the slot that wrote them first, so that it still trusts them: nothing is stored again.
    let owner = world.open(&[0]).unwrap();
    for id in list_segments(&owner.regions[0]).unwrap().into_keys() {
        let opened = read_segment(&owner, &owner.regions[0], id).unwrap();
        assert!(opened.segment.packs.iter().all(|pack| pack.origin == owner.secrets.slot), "SEG-9");
    }
    let summary = world.backup(&[0], source.path(), 0).unwrap();
    assert_eq!(summary.new_chunks, 0);

    // Nothing is left that is worth it for a maintainer, but an owner takes out more.
    assert_eq!(collect(&keeper, &thorough()).regions[0].repacked_bytes, 0);
    collect(&world, &thorough());
    assert!(stored_bytes(&world) < after);
    quiet(&world);
    assert_whole(&world, &[(second, source.path())]);
    assert_eq!(world.backup(&[0], source.path(), 0).unwrap().new_chunks, 0);
}

#[test]
fn an_owner_takes_single_chunks_out_of_thin_frames() {
    let (world, source, second) = mostly_dead();
    let before = stored_bytes(&world);
    let dead = collect(&world, &GcOptions { dry_run: true, ..quick() }).regions[0].dead_bytes;
    collect(&world, &thorough());
    quiet(&world);
    let saved = before - stored_bytes(&world);
    assert!(saved > dead / 2, "{saved} bytes of {dead} dead ones");
    let report = collect(&world, &GcOptions { dry_run: true, ..quick() });
    assert!(report.regions[0].dead_bytes < dead / 10, "{:?}", report.regions[0]);
    assert_clean(&world, &[second]);
    assert_whole(&world, &[(second, source.path())]);
    let read = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
    let repository = world.open(&[0]).unwrap();
    let report = check(&repository, None, &read, &Silent).unwrap();
    assert!(report.is_sound(), "{:?}", report.issues);
}

/// COLLECT-12: damage in a pack is left where it is.
#[test]
fn a_damaged_pack_is_not_moved() {
    let (world, source, second) = mostly_dead();
    let (_, identity) = world.add_slot(Role::Maintainer, "keeper");
    for pack in packs(&world) {
        let world = world.fork();
        let keeper = world.as_slot(&identity);
        damage(&world, &pack_name(&pack));
        collect(&keeper, &thorough());
        collect(&world, &thorough());
        assert!(packs(&world).contains(&pack), "damage must not get a digest that fits");
    }
    assert_whole(&world, &[(second, source.path())]);
}

#[test]
fn whenever_a_move_breaks_off_nothing_is_lost() {
    let (world, source, second) = mostly_dead();
    let calls = {
        let world = world.fork();
        world.calls_of(|| {
            collect(&world, &thorough());
        })
    };
    for number in 0..calls {
        let world = world.fork();
        world.die_after(number);
        let _ = world.open(&[0]).map(|repository| gc(&repository, &thorough(), &Silent).map(|_| ()));
        world.live_again();
        assert_whole(&world, &[(second, source.path())]);
        for _ in 0..4 {
            collect(&world, &thorough());
        }
        assert_clean(&world, &[second]);
        assert_whole(&world, &[(second, source.path())]);
    }
}

/// A commit under somebody else's session ends nothing: its packs stay as long as it is open (SESSION-2).
#[test]
fn a_commit_of_another_slot_ends_no_session() {
    let world = World::new(1);
    let source = tree(1);
    let first = backup(&world, source.path());
    let session = open_session(&world, 0);
    let (_, identity) = world.add_slot(Role::Writer, "other");
    put_commit(&world.as_slot(&identity), session, first);
    let report = collect(&world, &quick());
    assert_eq!(report.regions[0].sessions_open.len(), 1, "SESSION-2");
    assert_whole(&world, &[(first, source.path())]);
}

/// COLLECT-11: a writer that claims to hold another's chunks makes none of the other's packs go.
#[test]
fn a_liar_makes_nothing_of_anothers_go() {
    let world = World::new(1);
    let source = tree(1);
    let first = backup(&world, source.path());
    let owner = world.open(&[0]).unwrap();
    let (slot, identity) = world.add_slot(Role::Writer, "liar");
    let liar = world.as_slot(&identity);
    let junk = tree(9);
    backup(&liar, junk.path());
    let before = packs(&world);
    // A segment of its own packs that says that they hold what the owner's do, and refer to nothing.
    let liar = liar.open(&[0]).unwrap();
    let region = &liar.regions[0];
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for id in list_segments(region).unwrap().into_keys() {
        let opened = read_segment(&liar, region, id).unwrap();
        match opened.signer == slot {
            true => theirs.extend(opened.segment.packs),
            false => ours.extend(opened.segment.packs),
        }
    }
    for metadata in [false, true] {
        let (Some(mine), Some(other)) =
            (theirs.iter().find(|pack| pack.metadata == metadata), ours.iter().find(|pack| pack.metadata == metadata))
        else {
            panic!("each has packs of both kinds");
        };
        let mut claimed = mine.clone();
        claimed.frames.truncate(1);
        claimed.frames[0].chunks = other.frames.iter().flat_map(|frame| frame.chunks.clone()).collect();
        for chunk in &mut claimed.frames[0].chunks {
            chunk.references.clear();
        }
        let segment = Segment { supersedes: Vec::new(), packs: vec![claimed] };
        let (bytes, id) =
            keepstone::index::segment::seal(&segment, &liar.keyring, &liar.signer(), &*liar.random).unwrap();
        region.store.put_new(&keepstone::index::segment::segment_name(&id), &bytes.into()).unwrap();
    }
    for _ in 0..4 {
        collect(&world, &thorough());
    }
    let own: BTreeSet<PackId> = ours.iter().map(|pack| pack.pack).collect();
    assert!(own.is_subset(&packs(&world)) && own.is_subset(&before), "COLLECT-11");
    world.assert_restores(&[0], first, source.path(), 0);
    drop(owner);
}

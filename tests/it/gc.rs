//! Collection: what may go goes, what is needed never does, whatever fails or interleaves.

use crate::fixture::{World, noise, options, write};
use keepstone::check::{self, check};
use keepstone::crypto::object::{build_sealed, build_signed};
use keepstone::env::{Clock, random_bytes};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::gc::{Condemn, Fence, Final};
use keepstone::format::ids::{PackId, SegmentId, SessionId, SnapshotId, number_name};
use keepstone::format::session::{Commit, Session, SessionEnd};
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::gc::{GcError, GcOptions, GcReport, Reason, RegionReport, gc};
use keepstone::pack::reader::pack_name;
use keepstone::repo::gclog::{self, GcLog, publish};
use keepstone::repo::sync::{list_segments, read_segment};
use keepstone::repo::{RepoError, Repository};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn tree(seed: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for at in 0..12 {
        write(directory.path(), &format!("{}/{at}", at % 3), &noise(seed * 1000 + at, 3000));
    }
    directory
}

fn backup(world: &World, source: &Path) -> SnapshotId {
    world.backup(&world.all(), source, 0).unwrap().snapshot.unwrap()
}

fn quick() -> GcOptions {
    GcOptions { forget_window: Duration::ZERO, ..GcOptions::default() }
}

fn at_once() -> GcOptions {
    GcOptions { now: true, ..quick() }
}

/// Collects in every region; a region that fails fails the test.
fn collect(world: &World, options: &GcOptions) -> GcReport {
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

fn rule(world: &World, id: SnapshotId, number: u64, ruling: Ruling) {
    let repository = world.open(&world.all()).unwrap();
    let decided_at = repository.clock.now_ns();
    rule_at(&repository, id, number, ruling, decided_at);
}

fn rule_at(repository: &Repository, id: SnapshotId, number: u64, ruling: Ruling, decided_at: i64) {
    let verdict = Verdict { snapshot: id, number, ruling, decided_at, reason: String::new() };
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

fn state(repository: &Repository, session: SessionId, number: u64, observed: u64) -> Session {
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

fn put_state(repository: &Repository, state: &Session) {
    let bytes = sign(repository, ObjectKind::Session, &state.encode());
    let name = format!("sessions/{}/{}", state.session, number_name(state.number));
    repository.regions[0].store.put_new(&name, &bytes.into()).unwrap();
}

fn open_session(world: &World, observed: u64) -> SessionId {
    let repository = world.open(&[0]).unwrap();
    let id = SessionId(random_bytes(&*repository.random));
    put_state(&repository, &state(&repository, id, 0, observed));
    id
}

fn end_session(world: &World, session: SessionId) {
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

fn names(world: &World, prefix: &str) -> Vec<String> {
    list_sorted(&world.stores[0].inner().memory, prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

fn log(world: &World) -> GcLog {
    let repository = world.open(&[0]).unwrap();
    gclog::read(&repository, &repository.regions[0]).unwrap()
}

fn packs(world: &World) -> BTreeSet<PackId> {
    let id = |name: &String| PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap();
    names(world, "packs/").iter().map(id).collect()
}

/// The packs that segments list, by session.
fn listed(world: &World) -> BTreeMap<SessionId, BTreeSet<PackId>> {
    let repository = world.open(&[0]).unwrap();
    let region = &repository.regions[0];
    let mut listed: BTreeMap<SessionId, BTreeSet<PackId>> = BTreeMap::new();
    for id in list_segments(region).unwrap() {
        for pack in read_segment(&repository, region, id).unwrap().segment.packs {
            listed.entry(pack.session).or_default().insert(pack.pack);
        }
    }
    listed
}

/// Every snapshot restores as its source, and a check finds nothing missing.
fn assert_whole(world: &World, kept: &[(SnapshotId, &Path)]) {
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
fn assert_clean(world: &World, snapshots: &[SnapshotId]) {
    assert_eq!(names(world, "sessions/"), [] as [String; 0], "sessions are cleaned away");
    assert_eq!(names(world, "commits/").len(), snapshots.len());
    let all: BTreeSet<PackId> = listed(world).into_values().flatten().collect();
    assert_eq!(all, packs(world), "segments list what is there and nothing else");
}

fn quiet(world: &World) {
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
        fork.calls_of(|| drop(backup(&fork, lost.path())))
    };
    let mut broken = 0;
    for number in (0..calls).step_by(3) {
        let world = world.fork();
        world.die_after(number);
        let _ = world.backup(&[0], lost.path(), 0);
        world.live_again();
        let stored = packs(&world);
        if world.ids(&[0]).len() > 1 {
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
    assert!(broken > 0);
}

//! Regions that fail, processes that die, and the order in which a backup writes.

use crate::fixture::{Faulty, Step, World, noise, options, write};
use keepstone::backup::BackupError;
use keepstone::format::ids::SegmentId;
use keepstone::pack::reader::pack_name;
use keepstone::repo::RepoError;
use keepstone::repo::sync::read_segment;
use keepstone::store::StoreErrorKind;
use keepstone::store::faults::{Fault, Operation, Trigger};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tempfile::TempDir;

/// Two packs and one segment: small, since every one of its puts fails once in the tests.
fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    for at in 0..20 {
        write(source.path(), &format!("{}/{at}", at % 3), &noise(at, 3000));
    }
    source
}

/// Runs cases side by side: most of their time is spent in pauses between retries.
fn each_case(cases: impl Iterator<Item = u64>, case: impl Fn(u64) + Sync) {
    let cases: Vec<u64> = cases.collect();
    for group in cases.chunks(24) {
        std::thread::scope(|scope| {
            let running: Vec<_> = group.iter().map(|number| (number, scope.spawn(|| case(*number)))).collect();
            for (number, running) in running {
                assert!(running.join().is_ok(), "case {number} failed; see its panic above");
            }
        });
    }
}

fn check_order(world: &World, at: usize) {
    let steps = world.stores[at].inner().steps.lock().unwrap().clone();
    let place = |wanted: &Step| steps.iter().position(|step| step == wanted);
    let began = |name: &str| place(&Step::Began(name.to_owned()));
    let ended = |name: &str| place(&Step::Ended(name.to_owned()));
    let names: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Began(name) => Some(name.clone()),
            Step::Ended(_) => None,
        })
        .collect();
    let under = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).cloned().collect::<Vec<_>>();
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "a name was put twice: {names:?}");
    let (sessions, packs, segments) = (under("sessions/"), under("packs/"), under("index/"));
    let (snapshots, commits) = (under("snapshots/"), under("commits/"));
    assert_eq!((snapshots.len(), commits.len()), (1, 1));
    assert_eq!(sessions.len() + packs.len() + segments.len() + 2, names.len(), "something else was put: {names:?}");

    let session_ended = sessions.iter().filter_map(|name| ended(name)).max().expect("there is a session");
    for pack in &packs {
        assert!(began(pack).unwrap() > session_ended, "{pack} went before the session was there");
    }
    let repository = world.open(&[at]).unwrap();
    let mut listed = BTreeSet::new();
    for name in &segments {
        let id = SegmentId::from_hex(name.strip_prefix("index/").unwrap()).unwrap();
        let opened = read_segment(&repository, &repository.regions[0], id).unwrap();
        for pack in &opened.segment.packs {
            let pack = pack_name(&pack.pack);
            assert!(ended(&pack).unwrap() < began(name).unwrap(), "{name} went before {pack} was there");
            listed.insert(pack);
        }
        assert!(ended(name).unwrap() < began(&snapshots[0]).unwrap(), "the snapshot went before {name} was there");
    }
    assert_eq!(listed, packs.into_iter().collect::<BTreeSet<_>>(), "every pack is in a segment");
    assert!(ended(&snapshots[0]).unwrap() < began(&commits[0]).unwrap());
    assert_eq!(names.last(), commits.last(), "the commit is the last thing that is put");
}

#[test]
fn each_region_is_written_in_order() {
    for threads in [0, 4] {
        let source = source();
        // Several packs of data, so that some are under way while others are finished.
        write(source.path(), "large", &noise(99, 80 << 20));
        let world = World::new(2);
        for store in &world.stores {
            store.inner().pack_delay_ms.store(20, std::sync::atomic::Ordering::Relaxed);
        }
        for _ in 0..2 {
            let summary = world.backup(&[0, 1], source.path(), threads).unwrap();
            assert!(!summary.pending());
            (0..2).for_each(|at| check_order(&world, at));
            world.forget_history();
            write(source.path(), "changed", b"so that the second run stores something, too");
        }
    }
}

#[test]
fn no_name_is_put_twice_over_many_runs() {
    let (source, world) = (source(), World::new(1));
    for run in 0..4 {
        write(source.path(), "changing", &noise(500 + run, 5000));
        world.backup(&[0], source.path(), 0).unwrap();
    }
    let mut puts: BTreeMap<String, u32> = BTreeMap::new();
    for call in world.stores[0].log().into_iter().filter(|call| call.operation == Operation::Put) {
        *puts.entry(call.name).or_default() += 1;
    }
    assert!(puts.values().all(|count| *count == 1), "{puts:?}");
}

fn puts_of_a_run(world: &World, source: &Path) -> u64 {
    let world = world.fork();
    world.backup(&[0, 1], source, 0).unwrap();
    world.stores[0].count(Operation::Put)
}

fn fail_put(store: &Faulty, number: u64, kind: StoreErrorKind) {
    store.inject(Trigger::on(Operation::Put).nth(number), Fault::Fail(kind));
}

#[test]
fn a_put_that_fails_once_for_a_while_is_tried_again() {
    let (source, world) = (source(), World::new(2));
    each_case(1..=puts_of_a_run(&world, source.path()), |number| {
        let world = world.fork();
        fail_put(&world.stores[0], number, StoreErrorKind::Unavailable);
        let summary = world.backup(&[0, 1], source.path(), 0).unwrap();
        assert!(!summary.pending(), "put {number}: {:?}", summary.regions);
        for at in 0..2 {
            world.assert_restores(&[at], summary.snapshot.unwrap(), source.path(), 0);
        }
    });
}

#[test]
fn a_lost_acknowledgement_does_no_harm() {
    let (source, world) = (source(), World::new(2));
    each_case(1..=puts_of_a_run(&world, source.path()), |number| {
        let world = world.fork();
        let lost = Fault::LoseAcknowledgement(StoreErrorKind::Unavailable);
        world.stores[0].inject(Trigger::on(Operation::Put).nth(number), lost);
        let summary = world.backup(&[0, 1], source.path(), 0).unwrap();
        assert!(!summary.pending(), "put {number}: {:?}", summary.regions);
        world.assert_restores(&[0], summary.snapshot.unwrap(), source.path(), 0);
    });
}

#[test]
fn a_region_that_refuses_a_put_is_left_out_and_the_other_is_whole() {
    let (source, world) = (source(), World::new(2));
    let puts = puts_of_a_run(&world, source.path());
    for kind in [StoreErrorKind::Denied, StoreErrorKind::Full, StoreErrorKind::Other] {
        each_case(1..=puts, |number| {
            let world = world.fork();
            fail_put(&world.stores[0], number, kind);
            let threads = (number % 2 * 3) as usize;
            let summary = world.backup(&[0, 1], source.path(), threads).unwrap();
            assert!(summary.pending());
            let id = summary.snapshot.unwrap();
            assert!(!summary.regions[0].committed && summary.regions[1].committed);
            assert_eq!(summary.regions[0].failure.as_ref().unwrap().0, kind);
            assert_eq!(world.ids(&[0]), [], "put {number}");
            assert_eq!(world.ids(&[1]), [id]);
            world.assert_restores(&[1], id, source.path(), 0);
            world.assert_restores(&[0, 1], id, source.path(), 0);

            // With the region back, the next run commits in both, and each one alone restores it.
            let next = world.backup(&[0, 1], source.path(), threads).unwrap();
            assert!(!next.pending());
            for at in 0..2 {
                world.assert_restores(&[at], next.snapshot.unwrap(), source.path(), 0);
            }
        });
    }
}

#[test]
fn when_every_region_refuses_nothing_is_saved_anywhere() {
    let (source, world) = (source(), World::new(2));
    each_case(1..=puts_of_a_run(&world, source.path()), |number| {
        let world = world.fork();
        for store in &world.stores {
            fail_put(store, number, StoreErrorKind::Full);
        }
        let error = world.backup(&[0, 1], source.path(), (number % 2 * 3) as usize).unwrap_err();
        let told = matches!(error, BackupError::Ship(_) | BackupError::Repo(RepoError::Unreachable(_)));
        assert!(told, "put {number}: {error:?}");
        for at in 0..2 {
            assert_eq!(world.ids(&[at]), [], "put {number}");
        }
    });
}

#[test]
fn whenever_the_process_dies_the_next_run_saves_everything() {
    let (source, world) = (source(), World::new(2));
    let calls = {
        let counted = world.fork();
        counted.calls_of(|| drop(counted.backup(&[0, 1], source.path(), 0).unwrap()))
    };
    assert!(calls > 20);
    each_case(0..calls, |number| {
        let world = world.fork();
        world.die_after(number);
        let died = world.backup(&[0, 1], source.path(), 0);
        world.live_again();
        // Whatever is listed is whole, in the region that lists it.
        for at in 0..2 {
            for id in world.ids(&[at]) {
                world.assert_restores(&[at], id, source.path(), 0);
            }
        }
        if died.is_err() && number + 8 < calls {
            assert_eq!(world.ids(&[0]), [], "call {number}");
        }
        let next = world.backup(&[0, 1], source.path(), 0).unwrap();
        assert!(!next.pending());
        for at in 0..2 {
            world.assert_restores(&[at], next.snapshot.unwrap(), source.path(), 0);
        }
    });
}

#[test]
fn a_region_that_dies_while_it_is_written_leaves_the_snapshot_pending() {
    let (source, world) = (source(), World::new(2));
    let (reads, calls) = {
        let counted = world.fork();
        counted.backup(&[0, 1], source.path(), 0).unwrap();
        let log = counted.stores[0].log();
        (log.iter().take_while(|call| call.operation != Operation::Put).count() as u64, log.len() as u64)
    };
    each_case(reads + 1..=calls, |number| {
        let world = world.fork();
        world.stores[0].inject(Trigger::any().nth(number), Fault::Crash);
        let summary = world.backup(&[0, 1], source.path(), (number % 2 * 3) as usize).unwrap();
        assert!(summary.pending() && summary.regions[1].committed, "call {number}");
        let id = summary.snapshot.unwrap();
        world.assert_restores(&[1], id, source.path(), 0);
        world.stores[0].revive();
        for listed in world.ids(&[0]) {
            world.assert_restores(&[0], listed, source.path(), 0);
        }
        let next = world.backup(&[0, 1], source.path(), 0).unwrap();
        assert!(!next.pending());
        world.assert_restores(&[0], next.snapshot.unwrap(), source.path(), 0);
    });
}

#[test]
fn a_region_that_dies_while_it_is_opened_is_left_out() {
    let (source, world) = (source(), World::new(2));
    // Its config, its region object, then both regions' rosters.
    for number in 1..=4 {
        let world = world.fork();
        world.stores[0].inject(Trigger::any().nth(number), Fault::Crash);
        let summary = world.backup(&[0, 1], source.path(), 0).unwrap();
        assert!(summary.pending(), "call {number}");
        world.assert_restores(&[1], summary.snapshot.unwrap(), source.path(), 0);
    }
}

#[test]
fn a_region_that_is_down_at_the_start_leaves_the_snapshot_pending() {
    let (source, world) = (source(), World::new(2));
    let first = world.backup(&[0, 1], source.path(), 3).unwrap();
    write(source.path(), "new", &noise(1234, 50_000));
    world.stores[0].inject(Trigger::any(), Fault::Fail(StoreErrorKind::Unavailable));
    let second = world.backup(&[0, 1], source.path(), 3).unwrap();
    assert!(second.pending());
    let id = second.snapshot.unwrap();
    assert_eq!(world.ids(&[0, 1]), [first.snapshot.unwrap(), id], "listed from the region that is up");
    world.assert_restores(&[0, 1], id, source.path(), 3);
    world.stores[0].revive();

    // Now the regions differ. The other one fails, and the first takes a snapshot of its own.
    assert_eq!(world.ids(&[0]), [first.snapshot.unwrap()]);
    write(source.path(), "newer", &noise(4321, 50_000));
    world.stores[1].inject(Trigger::any(), Fault::Fail(StoreErrorKind::Unavailable));
    let third = world.backup(&[0, 1], source.path(), 3).unwrap();
    assert!(third.pending());
    world.stores[1].revive();
    world.assert_restores(&[0], third.snapshot.unwrap(), source.path(), 3);

    let last = world.backup(&[1, 0], source.path(), 3).unwrap();
    assert!(!last.pending());
    assert_eq!(world.ids(&[0, 1]).len(), 4);
    for at in 0..2 {
        assert_eq!(world.ids(&[at]).len(), 3);
        world.assert_restores(&[at], last.snapshot.unwrap(), source.path(), 3);
    }
}

#[test]
fn a_full_region_with_an_unchanged_tree_is_pending_too() {
    let (source, world) = (source(), World::new(2));
    world.backup(&[0, 1], source.path(), 0).unwrap();
    world.stores[1].inject(Trigger::on(Operation::Put), Fault::Fail(StoreErrorKind::Full));
    let summary = world.backup_as(&[0, 1], source.path(), &options(0)).unwrap();
    assert!(summary.pending() && summary.regions[0].committed);
    assert_eq!(summary.new_chunks, 0, "nothing is stored again for a region that takes nothing");
}

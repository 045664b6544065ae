//! What a collection must read anew, and a `forget` that dies at any of its calls: nothing is lost, and three
//! quiet generations leave nothing behind. The same for `backup` and `gc` stands in `gc.rs`.

use crate::fixture::World;
use crate::gc::*;
use keepstone::format::gc::Fence;
use keepstone::format::ids::{PackId, SnapshotId, number_name};
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::gc::gc;
use keepstone::policy::{Keep, Policy, plan};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::gclog::publish;
use keepstone::repo::snapshots::list_all;
use keepstone::repo::unrecorded::unrecorded;
use keepstone::repo::verdicts::{Decree, put};
use keepstone::repo::{RepoError, audit, retention};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{Store, StoreErrorKind};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// One region of a world by itself.
fn alone(world: &World, at: usize) -> World {
    let mut one = world.as_slot(&world.identity);
    one.stores = vec![Arc::clone(&world.stores[at])];
    one
}

/// As the command does it: what counts is listed, judged, and forgotten where no rule keeps it.
fn by_policy(world: &World) -> Result<(), RepoError> {
    let repository = world.open(&world.all())?;
    let mut snapshots = list_all(&repository)?.snapshots;
    snapshots.retain(|info| !info.is_forgotten());
    let (candidates, logs) = retention::known(&repository, &snapshots)?;
    let policy = Policy { keep: Keep { last: 2, ..Keep::default() }, regions: 2, ..Policy::default() };
    let groups = plan(&policy, &candidates, &logs, repository.clock.now_ns());
    let going = groups.iter().flat_map(|group| &group.decisions).filter(|decision| !decision.stays());
    put(&repository, &going.map(|decision| decision.id).collect(), &Decree::new(Ruling::Forget, "retention policy"))
        .map(drop)
}

fn by_id(world: &World, ids: &[SnapshotId]) -> Result<(), RepoError> {
    let repository = world.open(&world.all())?;
    list_all(&repository)?;
    put(&repository, &ids.iter().copied().collect(), &Decree::new(Ruling::Forget, "")).map(drop)
}

/// Two regions with four snapshots that share nothing, after a collection, so that there is a log to judge by.
fn four() -> (World, Vec<TempDir>, Vec<SnapshotId>) {
    let sources: Vec<TempDir> = (1..=4).map(tree).collect();
    let world = World::new(2);
    let ids = sources.iter().map(|source| backup(&world, source.path())).collect();
    collect(&world, &at_once());
    (world, sources, ids)
}

fn dies_anywhere(forget: impl Fn(&World, &[SnapshotId]) -> Result<(), RepoError>) {
    let (world, sources, ids) = four();
    let going = &ids[..2];
    let whole: Vec<(SnapshotId, &std::path::Path)> =
        ids.iter().copied().zip(sources.iter().map(|source| source.path())).collect();
    let calls = {
        let fork = world.fork();
        fork.calls_of(|| forget(&fork, going).unwrap())
    };
    assert!(calls > 20, "{calls} calls");
    let clean: Vec<BTreeSet<PackId>> = {
        let fork = world.fork();
        forget(&fork, going).unwrap();
        quiet(&fork);
        (0..2).map(|at| packs(&alone(&fork, at))).collect()
    };
    let mut halves = 0;
    for number in 0..calls {
        let world = world.fork();
        world.die_after(number);
        assert!(forget(&world, going).is_err(), "call {number}");
        world.live_again();
        // No region forgets what the policy keeps, and what was said is recorded.
        let repository = world.open(&world.all()).unwrap();
        let chains = audit::read(&repository).unwrap();
        assert_eq!(unrecorded(&repository, &chains).unwrap(), [], "call {number}");
        assert!(!chains.findings.iter().any(|finding| finding.kind.breaks()), "call {number}: {:?}", chains.findings);
        let listed: Vec<Vec<SnapshotId>> = (0..2).map(|at| world.ids(&[at])).collect();
        assert!(listed.iter().all(|listed| ids[2..].iter().all(|id| listed.contains(id))), "call {number}");
        halves += u32::from(listed.iter().any(|listed| listed.len() < 4) && world.ids(&[0, 1]).len() > 2);
        // Nothing is lost that was forgotten by half: it comes back.
        let back = world.fork();
        let repository = back.open(&back.all()).unwrap();
        put(&repository, &going.iter().copied().collect(), &Decree::new(Ruling::Unforget, "")).unwrap();
        (0..2).for_each(|at| assert_whole(&alone(&back, at), &whole));
        // Left as it is, each region keeps what it counts, and nothing else.
        let left = world.fork();
        quiet(&left);
        for at in 0..2 {
            let region = alone(&left, at);
            let counted = region.ids(&[0]);
            assert!(ids[2..].iter().all(|id| counted.contains(id)), "call {number}");
            assert_clean(&region, &counted);
            let kept: Vec<_> = whole.iter().filter(|(id, _)| counted.contains(id)).copied().collect();
            assert_whole(&region, &kept);
        }
        // Run again, it is done.
        forget(&world, going).unwrap();
        assert_eq!(world.ids(&[0, 1]), ids[2..], "call {number}");
        quiet(&world);
        for (at, clean) in clean.iter().enumerate() {
            let region = alone(&world, at);
            assert_eq!(packs(&region), *clean, "call {number}");
            assert_clean(&region, &ids[2..]);
            assert_whole(&region, &whole[2..]);
        }
    }
    assert!(halves > 0, "some deaths come between two verdicts");
}

#[test]
fn whenever_a_forget_by_id_dies_nothing_is_lost_and_nothing_is_left() {
    dies_anywhere(by_id);
}

#[test]
fn whenever_a_forget_by_policy_dies_nothing_is_lost_and_nothing_is_left() {
    dies_anywhere(|world, _| by_policy(world));
}

/// COLLECT-13: whoever opens a session before the condemn is there, and never looks, is named by the fence.
#[test]
fn a_session_that_opens_while_a_generation_begins_is_fenced() {
    let (world, ..) = busy();
    collect(&world, &at_once());
    let source = tree(5);
    let third = backup(&world, source.path());
    rule(&world, third, 1, Ruling::Forget);
    let newest = log(&world).newest;
    let calls = {
        let world = world.fork();
        world.calls_of(|| drop(collect(&world, &at_once())))
    };
    let (mut before, mut after) = (0, 0);
    for number in 1..=calls {
        let world = world.fork();
        let opened = Arc::new(Mutex::new(None));
        let told = Arc::clone(&opened);
        world.visit_at(number, move |world| {
            let generation = log(world);
            let session = open_session(world, newest);
            *told.lock().unwrap() = Some((session, generation.newest == newest));
        });
        collect(&world, &at_once());
        let Some((session, early)) = *opened.lock().unwrap() else { panic!("call {number}: nobody came") };
        let log = log(&world);
        if early {
            // It hasn't observed what was condemned behind its back.
            assert!(log.newest > newest && log.fenced.contains(&session), "COLLECT-13: call {number}");
            before += 1;
        } else {
            after += 1;
        }
    }
    assert!(before > 0 && after > 0, "{before} sessions before the condemn, {after} after");
}

/// COLLECT-14: what a session says that it needs before the fence is there is rescued, whoever puts the fence.
#[test]
fn needs_that_come_before_the_fence_are_seen() {
    let source = tree(1);
    let world = World::new(1);
    let first = backup(&world, source.path());
    let wanted: PackId = *packs(&world).first().unwrap();
    rule(&world, first, 1, Ruling::Forget);
    condemn(&world, []);
    fence(&world, &[], &[first]);
    collect(&world, &quick());
    let generation = log(&world).newest;
    assert!(log(&world).open.unwrap().condemned.contains(&wanted));
    let session = open_session(&world, 0);
    // It has observed what is condemned, and looks what of it it relies on.
    let repository = world.open(&[0]).unwrap();
    put_state(&repository, &state(&repository, session, 1, generation));
    let calls = {
        let world = world.fork();
        world.calls_of(|| drop(collect(&world, &quick())))
    };
    let name = format!("gc/{}/fence", number_name(generation));
    for other_fences in [false, true] {
        let mut in_time = 0;
        for number in 1..=calls {
            let world = world.fork();
            let early = Arc::new(Mutex::new(false));
            let (told, name) = (Arc::clone(&early), name.clone());
            world.visit_at(number, move |world| {
                let repository = world.open(&[0]).unwrap();
                let region = &repository.regions[0];
                let mut next = state(&repository, session, 2, generation);
                next.needs = vec![wanted];
                put_state(&repository, &next);
                // Only what is there when the fence isn't yet is promised anything.
                *told.lock().unwrap() = region.store.size(&name).unwrap().is_none();
                if other_fences && *told.lock().unwrap() {
                    let region_id = region.info.region;
                    let entry = Fence { generation, region: region_id, sessions: Vec::new(), snapshots: Vec::new() };
                    publish(&repository, region, &entry).unwrap();
                }
            });
            let report = gc(&world.open(&[0]).unwrap(), &quick(), &Silent).unwrap();
            assert!(report.regions[0].failure.is_none(), "call {number}: {:?}", report.regions[0].failure);
            if *early.lock().unwrap() {
                in_time += 1;
                assert!(packs(&world).contains(&wanted), "COLLECT-14: call {number}, other fence: {other_fences}");
            }
        }
        assert!(in_time > 3, "{in_time} came in time");
    }
}

/// COLLECT-7: what of a revoked slot counts no longer goes, what is accepted stays, and while it isn't known what that
/// is, nothing goes.
#[test]
fn a_collection_follows_what_of_a_revoked_slot_is_accepted() {
    let (own, theirs, more) = (tree(1), tree(2), tree(3));
    let world = World::new(1);
    let first = backup(&world, own.path());
    let before = packs(&world);
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let second = backup(&world.as_slot(&identity), theirs.path());
    let all = packs(&world);
    let revoke = |world: &World, none: bool| {
        let acceptance = Acceptance { none, ..Acceptance::default() };
        world.open(&[0]).unwrap().revoke_slot(slot, &acceptance, &Silent).unwrap();
    };
    let refused = world.fork();
    revoke(&refused, true);
    quiet(&refused);
    assert_eq!(packs(&refused), before, "COLLECT-7");
    assert_whole(&refused, &[(first, own.path())]);

    let third = backup(&world, more.path());
    revoke(&world, false);
    rule(&world, third, 1, Ruling::Forget);
    let unknown = world.fork();
    quiet(&world);
    assert_eq!(packs(&world), all, "COLLECT-7");
    assert_whole(&world, &[(first, own.path()), (second, theirs.path())]);

    let store = &unknown.stores[0].inner().memory;
    let list = names(&unknown, "roster/accepted/").remove(0);
    let bytes = store.get(&list, 1 << 20).unwrap();
    let held = packs(&unknown);
    for lost in [None, Some(b"damage".to_vec())] {
        store.delete(&list).unwrap();
        lost.into_iter().for_each(|bytes| _ = store.put_new(&list, &bytes.into()).unwrap());
        for _ in 0..3 {
            let stopped = match gc(&unknown.open(&[0]).unwrap(), &at_once(), &Silent) {
                Ok(mut report) => report.regions.remove(0).failure.expect("COLLECT-7: it stops").to_string(),
                Err(error) => error.to_string(),
            };
            assert!(stopped.contains("ACCEPT-4") || stopped.contains("COLLECT-1"), "{stopped}");
            assert_eq!(packs(&unknown), held, "COLLECT-7");
        }
        let _ = store.delete(&list);
        store.put_new(&list, &bytes.clone().into()).unwrap();
    }
    quiet(&unknown);
    assert_eq!(packs(&unknown), all);
}

/// COLLECT-15: what a final lists as deleted is no copy, though a store that refuses deletes still has it and a
/// segment still lists it.
#[test]
fn a_dead_pack_that_is_still_there_is_no_copy() {
    let (old, new) = (tree(1), tree(2));
    let world = World::new(1);
    let first = backup(&world, old.path());
    let second = backup(&world, new.path());
    let before = packs(&world);
    rule(&world, first, 1, Ruling::Forget);
    world.stores[0].inject(Trigger::on(Operation::Delete), Fault::Fail(StoreErrorKind::Denied));
    quiet(&world);
    let dead: BTreeSet<PackId> = log(&world).dead.into_iter().collect();
    assert!(!dead.is_empty() && packs(&world) == before, "nothing could be deleted");
    // The same content again: it must be stored anew, and what holds it now is condemned.
    let third = backup(&world, old.path());
    let fresh: BTreeSet<PackId> = packs(&world).difference(&before).copied().collect();
    assert!(!fresh.is_empty(), "COLLECT-15: a writer relied on what is dead");
    condemn(&world, fresh.clone());
    let report = collect(&world, &quick());
    assert_eq!(report.regions[0].rescued, fresh.len() as u64, "COLLECT-15");
    world.stores[0].revive();
    quiet(&world);
    assert!(packs(&world).is_disjoint(&dead));
    assert_whole(&world, &[(second, new.path()), (third, old.path())]);
    assert_clean(&world, &[second, third]);
}

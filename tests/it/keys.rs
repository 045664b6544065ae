//! Changes of keys: what each leaves behind, also when it is interrupted at any call, and what merges them.

use crate::fixture::{World, identity, noise, write};
use keepstone::crypto::slot::Wrapping;
use keepstone::format::ids::SlotId;
use keepstone::format::roster::{Role, SlotState};
use keepstone::repo::accepted::{Acceptance, Decided};
use keepstone::repo::{Located, RepoError, Repository};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{Store, list_sorted};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 200_000));
    write(source.path(), "b/c", b"small");
    source
}

fn revoke(world: &World, slot: SlotId, acceptance: &Acceptance) -> Result<Decided, RepoError> {
    let mut repository = world.open(&world.all())?;
    repository.revoke_slot(slot, acceptance, &Silent).map(|(decided, _)| decided)
}

fn add(repository: &mut Repository, role: Role) -> Result<(SlotId, String), RepoError> {
    let (identity, recipient) = identity();
    Ok((repository.add_slot(role, "added", &Wrapping::Recipient(recipient))?, identity))
}

#[test]
fn a_rotation_rewrites_nothing_and_goes_on_deduplicating() {
    let (world, source) = (World::new(2), source());
    let (_, writer) = world.add_slot(Role::Writer, "w");
    let writer = world.as_slot(&writer);
    let first = writer.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    world.forget_history();
    let mut repository = world.open(&[0, 1]).unwrap();
    assert_eq!(repository.rotate(false).unwrap(), 2);
    assert_eq!(repository.keyring.current_epoch(), 2);
    for store in &world.stores {
        let mut written = store.written();
        assert!(written.remove(0).starts_with("audit/"), "it is recorded before it is done");
        assert!(written.iter().all(|name| name.starts_with("ring/") || name.starts_with("roster/")), "{written:?}");
        // ROSTER-8: every ring before the roster that says it counts.
        assert!(written.last().unwrap().starts_with("roster/") && written.len() == 3, "{written:?}");
        assert!(store.log().iter().all(|call| call.operation != Operation::Delete));
    }
    let rings = writer.open(&[1]).unwrap().keyring.rings().clone();
    assert!(rings[&1].id == rings[&2].id && rings[&1].gear == rings[&2].gear);
    assert!(rings[&1].meta != rings[&2].meta && rings[&1].seal_public != rings[&2].seal_public);
    let second = writer.backup(&[0, 1], source.path(), 0).unwrap();
    assert_eq!(second.new_chunks, 0, "ids are the same");
    write(source.path(), "new", &noise(2, 50_000));
    let third = writer.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    assert_eq!(world.list(&[0]).snapshots.len(), 3);
    world.assert_restores(&[1], third, source.path(), 1);
    // A slot that is added now reads what is older.
    let (_, owner) = world.add_slot(Role::Owner, "later");
    assert_eq!(world.as_slot(&owner).ids(&[0])[0], first);
    world.as_slot(&owner).assert_restores(&[0], third, source.path(), 1);
}

#[test]
fn renewed_ids_store_everything_again() {
    let (world, source) = (World::new(1), source());
    world.backup(&[0], source.path(), 0).unwrap();
    world.open(&[0]).unwrap().rotate(true).unwrap();
    let again = world.backup(&[0], source.path(), 0).unwrap();
    assert!(again.new_bytes >= 200_000, "{}", again.new_bytes);
    for id in world.ids(&[0]) {
        world.assert_restores(&[0], id, source.path(), 1);
    }
}

/// ROSTER-8 and ROSTER-9: what must hold after a change of keys that died at any of its calls, and after it is run again.
fn survives(change: &dyn Fn(&mut Repository) -> Result<(), RepoError>) {
    let (base, source) = (World::new(2), source());
    let (_, writer) = base.add_slot(Role::Writer, "w");
    let id = base.as_slot(&writer).backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let counted = base.fork();
    let mut repository = counted.open(&[0, 1]).unwrap();
    let calls = counted.calls_of(|| change(&mut repository).unwrap());
    for call in 0..calls {
        let world = base.fork();
        let mut repository = world.open(&[0, 1]).unwrap();
        world.die_after(call);
        let died = change(&mut repository);
        world.live_again();
        // The last calls may be deletes, which change nothing that counts.
        assert!(died.is_err(), "call {call} of {calls}");
        for which in [&[0][..], &[1], &[0, 1]] {
            assert_eq!(world.ids(which), [id], "call {call}");
        }
        let host = world.as_slot(&writer);
        let again = match host.open(&[0, 1]).map(|repository| repository.role()) {
            Ok(_) => host.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap(),
            // It was revoked: the roster had been published.
            Err(_) => id,
        };
        for region in 0..2 {
            world.assert_restores(&[region], again, source.path(), 1);
        }
        // The next change completes what was begun, in every region.
        let mut repository = world.open(&[0, 1]).unwrap();
        repository.rotate(false).unwrap();
        let number = repository.roster.number;
        for region in 0..2 {
            let repository = world.open(&[region]).unwrap();
            assert_eq!(repository.roster.number, number);
            let epochs = repository.ring_epochs().unwrap();
            let active = repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Active);
            for slot in active {
                assert!(epochs[&slot.slot].contains(&repository.roster.current_epoch()), "call {call}");
                assert_eq!(epochs[&slot.slot].len(), repository.roster.epochs.len(), "call {call}");
            }
        }
        let last = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
        world.assert_restores(&[1], last, source.path(), 0);
    }
}

#[test]
fn an_interrupted_rotation_leaves_the_old_epoch_or_the_new() {
    survives(&|repository| repository.rotate(false).map(drop));
}

#[test]
fn an_interrupted_addition_leaves_the_slot_out_or_in() {
    survives(&|repository| add(repository, Role::Writer).map(drop));
}

#[test]
fn an_interrupted_revocation_leaves_all_or_what_was_accepted() {
    survives(&|repository| {
        let writer = repository.roster.slots.iter().find(|slot| slot.role == Role::Writer).unwrap().slot;
        let (decided, _) = repository.revoke_slot(writer, &Acceptance::default(), &Silent)?;
        // The revocation stands by then.
        decided.late.unlooked.map_or(Ok(()), |why| Err(RepoError::Keys(why)))
    });
}

/// Which of several slots has the lower id is chance: often enough for each to be the first.
#[test]
fn of_several_slots_for_one_secret_the_one_that_may_most_opens() {
    for _ in 0..8 {
        let world = World::new(1);
        let own: age::x25519::Identity = world.identity.parse().unwrap();
        for role in [Role::Writer, Role::Maintainer] {
            let mut repository = world.open(&[0]).unwrap();
            repository.add_slot(role, "same", &Wrapping::Recipient(own.to_public().to_string())).unwrap();
        }
        let mut repository = world.open(&[0]).unwrap();
        assert_eq!(repository.role(), Role::Owner);
        let other = repository.roster.slots.iter().find(|slot| slot.role == Role::Writer).unwrap().slot;
        repository.remove_slot(other).unwrap();
    }
}

#[test]
fn with_a_region_out_of_reach_no_key_changes() {
    let world = World::new(2);
    let (slot, _) = world.add_slot(Role::Writer, "w");
    world.stores[1].inject(Trigger::any(), Fault::Fail(keepstone::store::StoreErrorKind::Unavailable));
    world.forget_history();
    let mut repository = world.open(&[0, 1]).unwrap();
    let refused = [
        add(&mut repository, Role::Writer).map(drop),
        repository.rotate(false).map(drop),
        repository.revoke_slot(slot, &Acceptance::default(), &Silent).map(drop),
        repository.remove_slot(slot).map(drop),
    ];
    for refused in refused {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("in all regions or in none, and region 'r1' can't be reached"), "{text}");
    }
    assert_eq!(world.stores[0].written(), Vec::<String>::new());
}

/// A run whose slot is revoked before any of its calls either failed, or what it reports counts.
#[test]
fn a_slot_that_is_revoked_during_its_backup_reports_no_success_that_does_not_count() {
    let (base, source) = (World::new(2), source());
    let (slot, identity) = base.add_slot(Role::Writer, "host");
    let calls = {
        let world = base.fork();
        world.as_slot(&identity).calls_of(|| drop(world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap()))
    };
    let (mut reported, mut refused) = (0, 0);
    for call in (2..=calls).step_by(3) {
        let world = base.fork();
        let (writer, owner) = (world.as_slot(&identity), world.beside());
        writer.visit_at(call, move |_| drop(revoke(&owner, slot, &Acceptance::default()).unwrap()));
        match writer.backup(&[0, 1], source.path(), 0) {
            Err(_) => refused += 1,
            Ok(summary) => {
                reported += 1;
                for (at, region) in summary.regions.iter().enumerate() {
                    let counts = world.ids(&[at]).contains(&summary.snapshot.unwrap());
                    assert!(counts || !region.committed, "revoked before call {call}: {region:?}");
                }
            }
        }
    }
    assert!(refused > 3, "{refused} runs were refused and {reported} reported");
}

#[test]
fn a_revoked_slots_objects_count_only_as_listed() {
    let (world, source) = (World::new(2), source());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let writer = world.as_slot(&identity);
    let mut saved = Vec::new();
    for number in 0..3 {
        write(source.path(), &format!("file {number}"), &noise(10 + number, 30_000));
        saved.push(writer.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap());
    }
    let own = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    // Opened before the revocation: it goes on with keys that count no longer.
    let late = writer.open(&[0, 1]).unwrap();
    let listed = world.list(&[0]).snapshots;
    let second_at = listed.iter().find(|info| info.id == saved[1]).unwrap().snapshot.started_at;

    let all = world.fork();
    let decided = revoke(&all, slot, &Acceptance::default()).unwrap();
    assert_eq!((decided.kinds["snapshot"], decided.kinds["commit"], decided.refused.len()), (3, 6, 0));
    assert_eq!(all.ids(&[0]).len(), 4);
    let refused = all.as_slot(&identity).open(&[0]).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RepoError::WrongSecret), "{refused}");

    let none = world.fork();
    // ACCEPT-3: what others rest on stays, whatever is chosen.
    let decided = revoke(&none, slot, &Acceptance { none: true, ..Acceptance::default() }).unwrap();
    assert_eq!(decided.snapshots_refused.len(), 3);
    assert!(decided.kinds.contains_key("segment") && !decided.kinds.contains_key("snapshot"));
    assert_eq!(none.ids(&[0]), [own]);
    assert_eq!(none.ids(&[1]), []);
    none.assert_restores(&[0], own, source.path(), 1);

    let before = world.fork();
    revoke(&before, slot, &Acceptance { before: Some(second_at), ..Acceptance::default() }).unwrap();
    assert_eq!(before.ids(&[1]), [saved[0]]);
    let except = world.fork();
    let except_second = Acceptance { except: BTreeSet::from([saved[1]]), ..Acceptance::default() };
    let decided = revoke(&except, slot, &except_second).unwrap();
    assert_eq!(decided.snapshots_refused, [saved[1]]);
    assert_eq!((decided.refused["snapshot"], decided.refused["commit"]), (1, 2));
    assert_eq!(except.ids(&[1]), [saved[0], saved[2]]);
    // Revoked again it can only lose more.
    let decided = revoke(&except, slot, &Acceptance { except: BTreeSet::from([saved[0]]), ..Acceptance::default() });
    let mut gone = decided.unwrap().snapshots_refused;
    gone.sort_unstable();
    let mut expected = vec![saved[0], saved[1]];
    expected.sort_unstable();
    assert_eq!(gone, expected);
    assert_eq!(except.ids(&[1]), [saved[2]]);
    except.assert_restores(&[1], saved[2], source.path(), 0);
    revoke(&except, slot, &Acceptance::default()).unwrap();
    assert_eq!(except.ids(&[1]), [saved[2]], "what was dropped doesn't come back");

    // SIGN-3: what it signs afterwards doesn't count, and is no damage either.
    revoke(&world, slot, &Acceptance::default()).unwrap();
    let index = keepstone::index::MemoryIndex::new();
    keepstone::repo::sync::sync(&late, &index, &Silent).unwrap();
    let paths = [source.path().to_path_buf()];
    write(source.path(), "after", &noise(99, 40_000));
    let walk = keepstone::source::Walk::new(&paths, Default::default()).unwrap();
    let options = crate::fixture::options(0);
    let refused = keepstone::backup::backup_tree(&late, &index, &options, walk, &[], &Silent).unwrap_err();
    assert!(refused.to_string().contains("was revoked"), "{refused}");
    assert_eq!(world.ids(&[0]).len(), 4);
    let fresh = keepstone::index::MemoryIndex::new();
    assert_eq!(keepstone::repo::sync::sync(&world.open(&[0]).unwrap(), &fresh, &Silent).unwrap(), []);
    let report = keepstone::check::check(&world.open(&[0, 1]).unwrap(), None, &Default::default(), &Silent).unwrap();
    assert_eq!(report.issues, [], "what doesn't count is no damage");
}

/// ACCEPT-3: what a slot puts while it is revoked stays accepted as a whole or is told, whichever call it comes before.
#[test]
fn what_a_slot_puts_while_it_is_revoked_is_whole_or_told() {
    let (base, source) = (World::new(2), source());
    let (slot, identity) = base.add_slot(Role::Writer, "host");
    base.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    write(source.path(), "more", &noise(3, 60_000));
    let calls = {
        let world = base.fork();
        let mut repository = world.open(&[0, 1]).unwrap();
        world.calls_of(|| drop(repository.revoke_slot(slot, &Acceptance::default(), &Silent).unwrap()))
    };
    let (mut whole, mut told, mut refused) = (0, 0, 0);
    for call in 1..=calls {
        let world = base.fork();
        let mut repository = world.open(&[0, 1]).unwrap();
        let saved = Arc::new(Mutex::new(None));
        let (report, host, path) = (Arc::clone(&saved), identity.clone(), source.path().to_owned());
        world.visit_at(call, move |world| {
            let done = world.as_slot(&host).backup(&[0, 1], &path, 0);
            *report.lock().unwrap() = Some(done.map(|summary| summary.snapshot.unwrap()));
        });
        let (decided, _) = repository.revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
        assert_eq!((decided.issues.as_slice(), &decided.late.unlooked), (&[][..], &None));
        let late = &decided.late;
        let Some(Ok(second)) = saved.lock().unwrap().take() else {
            refused += 1;
            assert!(late.snapshots.is_empty(), "call {call}");
            continue;
        };
        for at in 0..2 {
            let counts = world.ids(&[at]).contains(&second);
            assert!(counts || late.snapshots.contains(&second), "before call {call}: {second} is told to nobody");
            if counts {
                world.assert_restores(&[at], second, source.path(), 0);
            }
        }
        let everywhere = world.ids(&[0]).contains(&second) && world.ids(&[1]).contains(&second);
        assert_eq!(everywhere, !late.kinds.contains_key("commit"), "before call {call}: {late:?}");
        *if everywhere { &mut whole } else { &mut told } += 1;
        let report =
            keepstone::check::check(&world.open(&[0, 1]).unwrap(), None, &Default::default(), &Silent).unwrap();
        assert_eq!(report.issues, [], "before call {call}");
    }
    assert!(whole > 0 && told > 10 && refused > 3, "{whole} were whole, {told} told, {refused} refused");
    // Where it can't look again, the revocation stands, and says so.
    let world = base.fork();
    let mut repository = world.open(&[0, 1]).unwrap();
    world.die_after(calls - 3);
    let (decided, _) = repository.revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
    world.live_again();
    assert!(decided.late.unlooked.is_some_and(|why| why.contains("the process died")));
    assert!(matches!(world.as_slot(&identity).open(&[0]).map(drop), Err(RepoError::WrongSecret)));
}

#[test]
fn a_list_that_cannot_be_read_is_no_empty_list() {
    let (world, source) = (World::new(1), source());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    world.as_slot(&identity).backup(&[0], source.path(), 0).unwrap();
    revoke(&world, slot, &Acceptance::default()).unwrap();
    let store = &world.stores[0].inner().memory;
    let names = list_sorted(store, "roster/accepted/").unwrap();
    assert_eq!(names.len(), 1);
    store.delete(&names[0].name).unwrap();
    let listing = world.list(&[0]);
    assert!(listing.snapshots.is_empty());
    assert!(listing.issues.iter().any(|issue| issue.detail.contains("ACCEPT-4")), "{:?}", listing.issues);
    let refused = revoke(&world, slot, &Acceptance::default()).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("missing") || refused.to_string().contains("ACCEPT-4"), "{refused}");
}

/// Two owners change keys at once: each sees the roster before the other's.
fn forked(
    world: &World,
    first: impl FnOnce(&mut Repository),
    second: impl FnOnce(&mut Repository),
) -> (u64, Vec<String>) {
    let mut one = world.open(&world.all()).unwrap();
    let mut two = world.open(&world.all()).unwrap();
    first(&mut one);
    second(&mut two);
    match Located::open(&world.specs(&world.all()), Some(world.pin)).map(|_| ()) {
        Err(RepoError::TwoRosters { number, digests }) => (number, digests.iter().map(ToString::to_string).collect()),
        other => panic!("two rosters are refused: {other:?}"),
    }
}

fn open_to_merge(world: &World, take: Option<&str>) -> Result<Repository, RepoError> {
    use keepstone::crypto::slot::Unlock;
    let located = Located::open_to_merge(&world.specs(&world.all()), Some(world.pin), take)?;
    let unlock = Unlock::Identities(zeroize::Zeroizing::new(world.identity.clone()));
    located.unlock(&unlock, world.clock.clone(), std::sync::Arc::clone(&world.random))
}

#[test]
fn two_rosters_are_refused_until_they_are_merged() {
    let (world, source) = (World::new(2), source());
    let (old, old_identity) = world.add_slot(Role::Writer, "old");
    world.as_slot(&old_identity).backup(&[0, 1], source.path(), 0).unwrap();
    let mut added = None;
    let (number, _) = forked(
        &world,
        |one| added = Some(add(one, Role::Writer).unwrap()),
        |two| {
            two.revoke_slot(old, &Acceptance::default(), &Silent).unwrap();
        },
    );
    let (slot, identity) = added.unwrap();
    assert!(matches!(open_to_merge(&world, Some("ffff")).map(|_| ()), Err(RepoError::Keys(_))));
    open_to_merge(&world, None).unwrap().merge_rosters().unwrap();
    let repository = world.open(&[0]).unwrap();
    assert_eq!(repository.roster.number, number + 1);
    let state = |slot| repository.roster.slot(slot).unwrap().state;
    assert_eq!((state(old), state(slot)), (SlotState::Revoked, SlotState::Active));
    assert_eq!(world.ids(&[1]).len(), 1, "what stays accepted was merged, too");
    world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    assert!(matches!(open_to_merge(&world, None).map(|_| ()), Err(RepoError::Keys(_))));
}

/// AUDIT-6: a merge is recorded before anything else of it is there, and not done where it can't be.
#[test]
fn a_merge_that_cannot_be_recorded_is_not_done() {
    let world = World::new(2);
    forked(
        &world,
        |one| drop(add(one, Role::Writer).unwrap()),
        |two| {
            two.rotate(false).unwrap();
        },
    );
    let held = |at: usize| list_sorted(&world.stores[at].inner().memory, "").unwrap();
    let before = [held(0), held(1)];
    let denied = Fault::Fail(keepstone::store::StoreErrorKind::Denied);
    world.stores.iter().for_each(|store| store.inject(Trigger::on(Operation::Put).under("audit/"), denied));
    let refused = open_to_merge(&world, None).unwrap().merge_rosters().unwrap_err();
    assert!(matches!(refused, RepoError::Store { .. }), "{refused}");
    assert_eq!([held(0), held(1)], before);
    world.stores.iter().for_each(|store| store.revive());
    world.forget_history();
    open_to_merge(&world, None).unwrap().merge_rosters().unwrap();
    for store in &world.stores {
        let written = store.written();
        assert!(written[0].starts_with("audit/"), "{written:?}");
        assert!(
            written[1..].iter().all(|name| name.starts_with("ring/") || name.starts_with("roster/")),
            "{written:?}"
        );
    }
    let chains = keepstone::repo::audit::read(&world.open(&[0, 1]).unwrap()).unwrap();
    let merged = &chains.timeline.last().unwrap().entry;
    assert_eq!((merged.action, merged.subjects.len()), (keepstone::format::audit::Action::RosterMerge, 2));
}

#[test]
fn of_a_slot_that_both_revoked_counts_what_both_accept() {
    let (world, source) = (World::new(2), source());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let mut saved = Vec::new();
    for number in 0..3 {
        write(source.path(), &format!("file {number}"), &noise(10 + number, 3000));
        saved.push(world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap());
    }
    let except = |id| Acceptance { except: BTreeSet::from([id]), ..Acceptance::default() };
    let revoke = |acceptance: Acceptance| {
        move |repository: &mut Repository| drop(repository.revoke_slot(slot, &acceptance, &Silent).unwrap())
    };
    forked(&world, revoke(except(saved[0])), revoke(except(saved[2])));
    open_to_merge(&world, None).unwrap().merge_rosters().unwrap();
    for region in 0..2 {
        assert_eq!(world.ids(&[region]), [saved[1]]);
    }
}

#[test]
fn a_merge_gives_a_slot_the_ring_of_a_rotation_that_did_not_know_it() {
    let (world, source) = (World::new(2), source());
    let mut added = None;
    forked(
        &world,
        |one| added = Some(add(one, Role::Writer).unwrap()),
        |two| {
            two.rotate(false).unwrap();
        },
    );
    open_to_merge(&world, None).unwrap().merge_rosters().unwrap();
    let writer = world.as_slot(&added.unwrap().1);
    assert_eq!(writer.open(&[1]).unwrap().keyring.current_epoch(), 2);
    let id = writer.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    world.assert_restores(&[1], id, source.path(), 1);
}

#[test]
fn rosters_that_leave_no_owner_need_a_choice() {
    let world = World::new(1);
    let (second, identity) = world.add_slot(Role::Owner, "second");
    let other = world.as_slot(&identity);
    let first = world.open(&[0]).unwrap().secrets.slot;
    let mut two = other.open(&[0]).unwrap();
    let (key_name, key_file) = two.key_file(first).unwrap();
    let (_, digests) = forked(
        &world,
        |one| {
            one.remove_slot(second).unwrap();
        },
        |_| {
            two.remove_slot(first).unwrap();
        },
    );
    let refused = open_to_merge(&world, None).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("leave no owner"), "{refused}");
    // Each took the other's key file away; an emergency sheet brings one back.
    world.stores[0].inner().memory.put_new(&key_name, &key_file.into()).unwrap();
    let keeps = digests.iter().find(|digest| open_to_merge(&world, Some(digest)).is_ok());
    let keeps = keeps.expect("one of them keeps the first owner");
    open_to_merge(&world, Some(keeps)).unwrap().merge_rosters().unwrap();
    let repository = world.open(&[0]).unwrap();
    assert_eq!(repository.roster.slot(second).unwrap().state, SlotState::Retired);
}

#[test]
fn a_region_that_missed_a_change_is_brought_up() {
    let (world, source) = (World::new(2), source());
    let store = &world.stores[1].inner().memory;
    let behind: Vec<String> = list_sorted(store, "").unwrap().into_iter().map(|listed| listed.name).collect();
    let (_, identity) = world.add_slot(Role::Writer, "w");
    world.open(&[0, 1]).unwrap().rotate(false).unwrap();
    world.as_slot(&identity).backup(&[0], source.path(), 0).unwrap();
    for listed in list_sorted(store, "").unwrap() {
        if !behind.contains(&listed.name) {
            store.delete(&listed.name).unwrap();
        }
    }
    // Any slot does it on the way, since what it copies is signed by root.
    let writer = world.as_slot(&identity);
    let repository = writer.open(&[0, 1]).unwrap();
    let listing = writer.list(&[0, 1]);
    keepstone::replicate::replicate(
        &repository,
        &listing.snapshots,
        keepstone::replicate::Depth::Commits,
        None,
        64 << 20,
        &Silent,
    )
    .unwrap();
    assert_eq!(writer.open(&[1]).unwrap().keyring.current_epoch(), 2);
    assert_eq!(world.ids(&[1]).len(), 1);
    let report = keepstone::check::check(&world.open(&[0, 1]).unwrap(), None, &Default::default(), &Silent).unwrap();
    assert_eq!((report.issues, report.differences), (vec![], vec![]));
}

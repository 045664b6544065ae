//! The audit chains: what is recorded, how regions that were apart come together, and what is told of a
//! record that somebody tampered with. Rules: `format-spec/audit.md`.

use crate::fixture::{World, identity, noise, write};
use crate::program::Program;
use keepstone::crypto::object::{Signer, build_sealed, build_signed};
use keepstone::crypto::slot::Wrapping;
use keepstone::format::audit::{Action, AuditEntry};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{Digest, SlotId, number_name};
use keepstone::format::roster::{Role, Roster, SlotState};
use keepstone::format::verdict::Ruling;
use keepstone::gc::{GcError, GcOptions, gc};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::audit::{Act, Chains, FindingKind, entry_name, merge, read, record};
use keepstone::repo::designation::designate;
use keepstone::repo::tags::set_tags;
use keepstone::repo::unrecorded::{examine, unrecorded};
use keepstone::repo::verdicts::{self, Decree};
use keepstone::repo::{RegionSpec, RepoError, Repository, attest};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::collections::BTreeSet;
use std::sync::Arc;

fn act(reason: &str) -> Act {
    Act::new(Action::Forget).on(&[7; 32]).figure("count", 1).because(reason)
}

fn note(world: &World, which: &[usize], reason: &str) -> u64 {
    record(&world.open(which).unwrap(), &act(reason)).unwrap()
}

fn chains(world: &World, which: &[usize]) -> Chains {
    read(&world.open(which).unwrap()).unwrap()
}

fn kinds(chains: &Chains) -> Vec<(FindingKind, u64)> {
    chains.findings.iter().map(|finding| (finding.kind, finding.number)).collect()
}

fn sound(chains: &Chains) -> bool {
    !chains.findings.iter().any(|finding| finding.kind.breaks())
}

fn memory(world: &World, at: usize) -> &MemoryStore {
    &world.stores[at].inner().memory
}

fn names(world: &World, at: usize) -> Vec<String> {
    list_sorted(memory(world, at), "audit/").unwrap().into_iter().map(|listed| listed.name).collect()
}

fn slot(world: &World) -> SlotId {
    world.open(&world.all()).unwrap().secrets.slot
}

/// AUDIT-6: the first entry is the repository's making, and each one names the one before it.
#[test]
fn a_chain_begins_with_init_and_goes_on() {
    let world = World::new(2);
    assert_eq!((note(&world, &[0, 1], "first"), note(&world, &[1, 0], "second")), (2, 3));
    let chains = chains(&world, &[0, 1]);
    assert_eq!(chains.findings, []);
    let said: Vec<_> =
        chains.timeline.iter().map(|at| (at.entry.number, at.entry.action, at.entry.reason.as_str())).collect();
    assert_eq!(said, [(1, Action::Init, ""), (2, Action::Forget, "first"), (3, Action::Forget, "second")]);
    for pair in chains.timeline.windows(2) {
        assert_eq!(pair[1].entry.previous, [pair[0].digest]);
    }
    let last = &chains.timeline[2];
    assert_eq!((last.entry.subjects.as_slice(), last.entry.figures.len()), (&[vec![7; 32]][..], 1));
    assert_eq!((last.regions.as_slice(), last.revoked), (&[0, 1][..], false));
    assert!(!last.entry.host.is_empty() && last.entry.label == "test");
    // The same bytes in both regions.
    let name = entry_name(slot(&world), 3);
    assert_eq!(memory(&world, 0).get(&name, 1 << 20).unwrap(), memory(&world, 1).get(&name, 1 << 20).unwrap());
}

/// AUDIT-5: of racing processes each gets a number of its own, and nobody's entry is lost.
#[test]
fn racing_processes_of_one_slot_take_turns() {
    let world = World::new(2);
    // In either order of the configuration: the region's id decides where they meet.
    let repositories: Vec<Repository> =
        (0..6).map(|at| world.open(if at % 2 == 0 { &[0, 1] } else { &[1, 0] }).unwrap()).collect();
    let numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = repositories
            .iter()
            .enumerate()
            .map(|(at, repository)| {
                scope.spawn(move || {
                    (0..5).map(|turn| record(repository, &act(&format!("{at} {turn}"))).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 30);
    let chains = chains(&world, &[0, 1]);
    assert_eq!((chains.findings.as_slice(), chains.timeline.len()), (&[][..], 31));
    assert_eq!(chains.timeline.iter().map(|at| &at.entry.reason).collect::<BTreeSet<_>>().len(), 31);
}

/// AUDIT-9: a region that was away is behind, and brought up by the next entry.
#[test]
fn a_region_that_was_away_is_brought_up() {
    let world = World::new(2);
    note(&world, &[0], "alone");
    note(&world, &[0], "alone again");
    assert_eq!(kinds(&chains(&world, &[0, 1])), [(FindingKind::Behind, 2)]);
    assert!(sound(&chains(&world, &[0, 1])) && sound(&chains(&world, &[1])));
    assert_eq!(note(&world, &[0, 1], "together"), 4);
    assert_eq!(chains(&world, &[0, 1]).findings, []);
    assert_eq!(names(&world, 0), names(&world, 1));

    note(&world, &[1], "alone");
    assert_eq!(merge(&world.open(&[0, 1]).unwrap()).unwrap().copied, 1);
    assert_eq!(merge(&world.open(&[0, 1]).unwrap()).unwrap().copied, 0);
    assert_eq!(chains(&world, &[0]).timeline.len(), 5);
}

/// AUDIT-9: what a region lost out of the middle of a chain is no entry that has yet to come.
#[test]
fn an_entry_that_one_region_lost_is_a_gap() {
    let world = World::new(2);
    for at in 0..4 {
        note(&world, &[0, 1], &at.to_string());
    }
    let name = |number| entry_name(slot(&world), number);
    memory(&world, 1).delete(&name(3)).unwrap();
    let found = chains(&world, &[0, 1]);
    assert_eq!(kinds(&found), [(FindingKind::Gap, 3)]);
    assert!(!sound(&found) && found.findings[0].detail.contains("region 'r1' lacks entry 3"), "{:?}", found.findings);
    // Two at once are each told, also the one that only the other missing one follows; the end is behind.
    memory(&world, 1).delete(&name(2)).unwrap();
    memory(&world, 1).delete(&name(5)).unwrap();
    let found = kinds(&chains(&world, &[0, 1]));
    assert_eq!(found, [(FindingKind::Gap, 2), (FindingKind::Gap, 3), (FindingKind::Behind, 5)]);
    assert_eq!(merge(&world.open(&[0, 1]).unwrap()).unwrap().copied, 3);
    assert_eq!(chains(&world, &[0, 1]).findings, []);
}

/// AUDIT-9: what is damaged gets its bytes again under its own name; what somebody wrote there stays.
#[test]
fn a_damaged_entry_comes_back_in_place() {
    for copied_before in [false, true] {
        for cut in [false, true] {
            let world = World::new(2);
            for at in 0..3 {
                note(&world, &[0, 1], &at.to_string());
            }
            let (before, name) = (names(&world, 1), entry_name(slot(&world), 3));
            let whole = memory(&world, 1).get(&name, u64::MAX).unwrap();
            let mut bytes = whole.clone();
            match cut {
                true => bytes.truncate(60),
                false => bytes[60] ^= 1,
            }
            memory(&world, 1).heal(&name, &bytes.into()).unwrap();
            assert_eq!(kinds(&chains(&world, &[0, 1]))[..1], [(FindingKind::Damaged, 3)]);
            if copied_before {
                let digest = keepstone::crypto::object::check_digest(&whole).unwrap();
                memory(&world, 1).put_new(&format!("{name}-{digest}"), &whole.clone().into()).unwrap();
            }
            let merged = merge(&world.open(&[0, 1]).unwrap()).unwrap();
            assert_eq!((merged.copied, merged.healed), (0, 1));
            assert_eq!(memory(&world, 1).get(&name, u64::MAX).unwrap(), whole);
            assert!(copied_before || names(&world, 1) == before);
            assert_eq!(chains(&world, &[0, 1]).findings, []);
        }
    }
    // What is left of another branch is no copy of this one.
    let world = World::new(2);
    note(&world, &[0], "left");
    note(&world, &[1], "right");
    let name = entry_name(slot(&world), 2);
    let mut bytes = memory(&world, 1).get(&name, u64::MAX).unwrap();
    bytes[60] ^= 1;
    memory(&world, 1).heal(&name, &bytes.clone().into()).unwrap();
    let merged = merge(&world.open(&[0, 1]).unwrap()).unwrap();
    assert_eq!((merged.copied, merged.healed), (1, 0));
    assert_eq!(memory(&world, 1).get(&name, u64::MAX).unwrap(), bytes);
    // Another entry under its name is whole.
    let world = World::new(2);
    for at in 0..3 {
        note(&world, &[0, 1], &at.to_string());
    }
    let (name, other) = (entry_name(slot(&world), 3), entry_name(slot(&world), 2));
    let other = memory(&world, 1).get(&other, u64::MAX).unwrap();
    memory(&world, 1).heal(&name, &other.clone().into()).unwrap();
    assert_eq!(merge(&world.open(&[0, 1]).unwrap()).unwrap().healed, 0);
    assert_eq!(memory(&world, 1).get(&name, u64::MAX).unwrap(), other);
    assert!(!sound(&chains(&world, &[0, 1])));
}

/// AUDIT-9: whoever may create objects can't keep an owner from recording, and so from revoking a key.
#[test]
fn junk_in_an_entrys_place_keeps_nobody_from_recording() {
    for denied in [false, true] {
        let world = World::new(2);
        note(&world, &[0, 1], "together");
        note(&world, &[1], "alone");
        let name = entry_name(slot(&world), 3);
        let bytes = memory(&world, 1).get(&name, u64::MAX).unwrap();
        let digest = keepstone::crypto::object::check_digest(&bytes).unwrap();
        for name in [name.clone(), format!("{name}-{digest}")] {
            memory(&world, 0).put_new(&name, &b"junk".to_vec().into()).unwrap();
        }
        if denied {
            world.stores[0].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
        }
        assert_eq!(note(&world, &[0, 1], "all the same"), 4);
        let merged = merge(&world.open(&[0, 1]).unwrap()).unwrap();
        assert_eq!((merged.healed, merged.no_room.is_empty()), (0, true));
        for at in [0, 1] {
            let found = chains(&world, &[at]);
            assert_eq!(found.timeline.last().unwrap().entry.reason, "all the same");
            // The junk under the number is told of, since it may be what is left of something.
            assert_eq!(sound(&found), at == 1, "{:?}", found.findings);
            assert!(denied || found.timeline.len() == 4, "what has the digest in its name was put right");
        }
        let writer = world.add_slot(Role::Writer, "w").0;
        world.open(&[0, 1]).unwrap().revoke_slot(writer, &Acceptance::default(), &Silent).unwrap();
    }
}

/// AUDIT-8: what one slot records in regions that it reaches in turn is a fork, until an entry follows both.
#[test]
fn branches_are_told_and_joined() {
    let world = World::new(3);
    note(&world, &[0], "left");
    note(&world, &[1], "right");
    note(&world, &[1], "right again");
    let apart = chains(&world, &[0, 1]);
    assert!(!sound(&apart));
    assert!(kinds(&apart).contains(&(FindingKind::Fork, 2)), "{:?}", apart.findings);
    assert_eq!(apart.timeline.len(), 4);

    // Merging copies both branches everywhere, under names of their own.
    assert!(merge(&world.open(&[0, 1, 2]).unwrap()).unwrap().copied > 0);
    assert_eq!(merge(&world.open(&[0, 1, 2]).unwrap()).unwrap().copied, 0);
    for at in 0..3 {
        let alone = chains(&world, &[at]);
        assert_eq!((alone.timeline.len(), sound(&alone)), (4, false));
    }

    assert_eq!(note(&world, &[0, 1, 2], "joined"), 4);
    let joined = chains(&world, &[0, 1, 2]);
    assert!(sound(&joined));
    assert_eq!(kinds(&joined), [(FindingKind::Joined, 2)]);
    assert_eq!(joined.timeline.last().unwrap().entry.previous.len(), 2);
    assert_eq!(note(&world, &[2], "on"), 5);
    assert!(sound(&chains(&world, &[2])));
}

/// AUDIT-8: branches are joined by the next entry without a merge before it, too.
#[test]
fn the_next_entry_joins_what_it_sees() {
    let world = World::new(2);
    note(&world, &[0], "left");
    note(&world, &[1], "right");
    assert_eq!(note(&world, &[0, 1], "joined"), 3);
    for which in [&[0, 1][..], &[0], &[1]] {
        assert_eq!(kinds(&chains(&world, which)), [(FindingKind::Joined, 2)], "{which:?}");
    }
}

/// AUDIT-7: an entry taken out of the middle is missed, whoever holds the storage.
#[test]
fn a_missing_entry_is_a_gap() {
    let world = World::new(1);
    for at in 0..4 {
        note(&world, &[0], &at.to_string());
    }
    for number in 1..=4 {
        let fork = world.fork();
        memory(&fork, 0).delete(&entry_name(slot(&world), number)).unwrap();
        let found = chains(&fork, &[0]);
        assert!(
            found.findings.iter().any(|finding| finding.kind == FindingKind::Gap),
            "{number}: {:?}",
            found.findings
        );
        // Recording goes on, and doesn't hide it.
        note(&fork, &[0], "on");
        assert!(!sound(&chains(&fork, &[0])));
    }
    // The end can be cut off: other regions show that, one alone can't.
    memory(&world, 0).delete(&entry_name(slot(&world), 5)).unwrap();
    assert!(sound(&chains(&world, &[0])));
}

/// AUDIT-1 to AUDIT-4: damaged, renamed and foreign entries are told by name, and never skipped.
#[test]
fn what_is_no_entry_is_told_by_name() {
    let world = World::new(2);
    note(&world, &[0, 1], "first");
    note(&world, &[0, 1], "second");
    let slot = slot(&world);
    let damaged = |world: &World, rule: &str, number: u64| {
        let found = chains(world, &[0, 1]);
        let told = found.findings.iter().any(|finding| {
            finding.kind == FindingKind::Damaged && finding.detail.contains(rule) && finding.number == number
        });
        assert!(told && !sound(&found), "{rule}: {:?}", found.findings);
        found
    };
    let bytes = |number| memory(&world, 0).get(&entry_name(slot, number), 1 << 20).unwrap();
    let replaced = |number, bytes: Vec<u8>| {
        let fork = world.fork();
        memory(&fork, 0).heal(&entry_name(slot, number), &bytes.into()).unwrap();
        fork
    };
    let mut flipped = bytes(2);
    flipped[100] ^= 1;
    // The other region's copy still tells what was recorded.
    assert_eq!(damaged(&replaced(2, flipped), "OBJ-8", 2).timeline.len(), 3);
    damaged(&replaced(2, bytes(3)), "OBJ-10", 2);

    let fork = world.fork();
    let other = SlotId([9; 16]);
    memory(&fork, 0).put_new(&entry_name(other, 1), &bytes(2).into()).unwrap();
    damaged(&fork, "AUDIT-4", 1);

    // Signed and sealed as it must be, but not what an entry may be.
    let repository = world.open(&[0]).unwrap();
    let good = read(&repository).unwrap().timeline[2].entry.clone();
    let rename = |number: u64, payload: Vec<u8>| {
        let (bytes, _) =
            build_sealed(ObjectKind::Audit, &repository.keyring, &repository.signer(), payload, &*world.random)
                .unwrap();
        let fork = world.fork();
        memory(&fork, 0).put_new(&entry_name(slot, number), &bytes.into()).unwrap();
        fork
    };
    let mut action = AuditEntry { number: 4, ..good.clone() }.encode();
    let at = action.windows(2).position(|window| window == [7, Action::Forget as u8]).unwrap();
    action[at + 1] = 23;
    damaged(&rename(4, action), "AUDIT-1", 4);
    let disordered = AuditEntry { number: 4, subjects: vec![vec![2], vec![1]], ..good.clone() };
    damaged(&rename(4, disordered.encode()), "AUDIT-2", 4);
    damaged(&rename(0, AuditEntry { number: 0, ..good.clone() }.encode()), "AUDIT-3", 0);
    damaged(&rename(4, AuditEntry { number: 5, ..good.clone() }.encode()), "OBJ-10", 4);
    // AUDIT-7: an entry that follows a later one, itself or none.
    let later = AuditEntry { number: 4, previous: vec![Digest([1; 32])], ..good.clone() };
    assert!(kinds(&chains(&rename(4, later.encode()), &[0])).contains(&(FindingKind::Gap, 4)));
    let none = AuditEntry { number: 4, previous: vec![], ..good };
    assert!(kinds(&chains(&rename(4, none.encode()), &[0])).contains(&(FindingKind::Gap, 4)));
}

/// AUDIT-9: names that somebody else put in the way don't keep a slot from recording.
#[test]
fn junk_in_the_way_is_passed_by() {
    let world = World::new(1);
    note(&world, &[0], "first");
    let slot = slot(&world);
    for number in [3, u64::MAX] {
        memory(&world, 0).put_new(&entry_name(slot, number), &b"junk".to_vec().into()).unwrap();
    }
    assert_eq!((note(&world, &[0], "second"), note(&world, &[0], "third")), (3, 4));
    let found = chains(&world, &[0]);
    assert_eq!(kinds(&found), [(FindingKind::Damaged, 3), (FindingKind::Damaged, u64::MAX)]);
    assert_eq!(found.timeline.len(), 4);
}

/// AUDIT-6: when a region can't take the entry, the act must not be done, and the caller is told.
#[test]
fn an_act_that_cannot_be_recorded_is_an_error() {
    let world = World::new(2);
    let repository = world.open(&[0, 1]).unwrap();
    for operations in 0..6 {
        world.die_after(operations);
        assert!(matches!(record(&repository, &act("never")), Err(RepoError::Store { .. })), "after {operations}");
        world.live_again();
    }
    note(&world, &[0, 1], "at last");
    assert!(sound(&chains(&world, &[0, 1])));
    assert!(matches!(record(&repository, &act(&"x".repeat(4097))), Err(RepoError::Audit(_))));
}

/// AUDIT-6: whatever destroys or grants leaves every region as it was where its entry can't be put first.
#[test]
fn what_cannot_be_recorded_is_not_done() {
    let world = World::new(2);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 10_000));
    let snapshot = BTreeSet::from([world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap()]);
    let one = *snapshot.first().unwrap();
    let (other, _) = world.add_slot(Role::Writer, "other");
    let options = GcOptions::default();
    let condemned = gc(&world.open(&[0, 1]).unwrap(), &options, &Silent).unwrap();
    assert!(condemned.regions.iter().all(|region| region.open.is_some()), "the next run writes a final");
    let recipient = || Wrapping::Recipient(identity().1);
    let everything = Acceptance { none: false, before: None, except: BTreeSet::new() };
    type Change<'a> = &'a dyn Fn(&mut Repository) -> Result<(), RepoError>;
    let changes: [(&str, Change<'_>); 15] = [
        ("key add", &|repository| repository.add_slot(Role::Writer, "new", &recipient()).map(drop)),
        ("key remove", &|repository| repository.remove_slot(other).map(drop)),
        ("key revoke", &|repository| repository.revoke_slot(other, &everything, &Silent).map(drop)),
        ("key rotate", &|repository| repository.rotate(false).map(drop)),
        ("key passwd", &|repository| repository.rewrap(&recipient()).map(drop)),
        ("forget", &|repository| verdicts::put(repository, &snapshot, &Decree::new(Ruling::Forget, "")).map(drop)),
        ("hold", &|repository| verdicts::put(repository, &snapshot, &Decree::new(Ruling::Hold, "")).map(drop)),
        ("unforget", &|repository| verdicts::put(repository, &snapshot, &Decree::new(Ruling::Unforget, "")).map(drop)),
        ("release", &|repository| verdicts::put(repository, &snapshot, &Decree::new(Ruling::Release, "")).map(drop)),
        ("break floor", &|repository| {
            let decree = Decree { below_floors: snapshot.clone(), ..Decree::new(Ruling::Forget, "") };
            verdicts::put(repository, &snapshot, &decree).map(drop)
        }),
        ("tag", &|repository| {
            set_tags(repository, one, &BTreeSet::new(), BTreeSet::from(["kept".to_owned()])).map(drop)
        }),
        ("designate", &|repository| {
            let region = &repository.regions[0];
            designate(repository, region, repository.secrets.slot, "host")
        }),
        ("attest", &|repository| attest::publish(repository, &[Digest([1; 32])]).map(drop)),
        ("gc", &|repository| {
            let report = gc(repository, &options, &Silent).expect("it begins");
            report.regions.into_iter().find_map(|region| region.failure).map_or(Ok(()), |failure| match failure {
                GcError::Repo(error) => Err(error),
                other => panic!("{other}"),
            })
        }),
        ("region add", &|repository| {
            let store = repository.regions.pop().expect("two regions").store;
            let names: Vec<String> = list_sorted(&*store, "").unwrap().into_iter().map(|listed| listed.name).collect();
            names.iter().for_each(|name| store.delete(name).unwrap());
            let added = repository.add_region(&RegionSpec { name: "new".to_owned(), store: Arc::clone(&store) });
            assert_eq!(list_sorted(&*store, "").unwrap().is_empty(), added.is_err(), "it stays empty");
            added.map(drop)
        }),
    ];
    for (name, change) in changes {
        for deny in [true, false] {
            let world = world.fork();
            let mut repository = world.open(&[0, 1]).unwrap();
            // A fence ends nothing by itself: it says who is too late once a final does.
            let held = |at| {
                let listed = list_sorted(memory(&world, at), "").unwrap().into_iter();
                listed.filter(|listed| !listed.name.ends_with("/fence")).collect::<Vec<_>>()
            };
            let before = [held(0), held(1)];
            if deny {
                let denied = Fault::Fail(StoreErrorKind::Denied);
                world.stores.iter().for_each(|store| store.inject(Trigger::on(Operation::Put).under("audit/"), denied));
            }
            let done = change(&mut repository);
            assert_eq!(done.is_err(), deny, "{name}: {:?}", done.err());
            // A designation is one region's, and so is a region.
            let regions = if ["region add", "designate"].contains(&name) { 1 } else { 2 };
            for (at, before) in before.iter().enumerate().take(regions) {
                assert_eq!(held(at) == *before, deny, "{name}, region {at}");
            }
        }
    }
}

/// AUDIT-10: a final, tags and a designation that their signer's chain doesn't tell of are told, by name; what the
/// library itself does is recorded.
#[test]
fn what_was_done_without_an_entry_is_told() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 10_000));
    let id = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let (slot, identity) = world.add_slot(Role::Maintainer, "keeper");
    let found = |world: &World| {
        let repository = world.open(&[0]).unwrap();
        unrecorded(&repository, &read(&repository).unwrap()).unwrap()
    };
    let act = |world: &World| {
        let repository = world.open(&[0]).unwrap();
        let tags = |tag: &str| BTreeSet::from([tag.to_owned()]);
        set_tags(&repository, id, &tags("old"), tags("new")).unwrap();
        let report = gc(&repository, &GcOptions { now: true, ..GcOptions::default() }, &Silent).unwrap();
        assert_eq!(report.regions[0].finished.len(), 1, "{:?}", report.regions[0].failure);
    };
    let keeper = world.as_slot(&identity);
    act(&keeper);
    let repository = world.open(&[0]).unwrap();
    designate(&repository, &repository.regions[0], slot, "there").unwrap();
    assert_eq!(found(&world), []);
    let told = read(&repository).unwrap().timeline;
    let reason = |action| told.iter().find(|at| at.entry.action == action).unwrap().entry.reason.clone();
    assert_eq!(reason(Action::Tag), "removed 'old'; added 'new'");
    assert_eq!(reason(Action::Designate), format!("slot {slot} on host 'there'"));
    // The end of the maintainer's chain is cut off.
    let entries: Vec<String> = names(&world, 0).into_iter().filter(|name| name.contains(&slot.to_string())).collect();
    assert_eq!(entries.len(), 2, "{entries:?}");
    entries.iter().for_each(|name| memory(&world, 0).delete(name).unwrap());
    let told = found(&world);
    assert!(told.iter().all(|finding| finding.kind == FindingKind::Unrecorded && finding.slot == Some(slot)));
    let details: Vec<&str> = told.iter().map(|finding| finding.detail.as_str()).collect();
    assert!(details.len() == 2 && details[0].starts_with("tags/") && details[1].starts_with("gc/"), "{details:?}");
    // And the owner's.
    let owner = repository.secrets.slot;
    let last = names(&world, 0).into_iter().rfind(|name| name.contains(&owner.to_string())).unwrap();
    memory(&world, 0).delete(&last).unwrap();
    let told = found(&world);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[2].detail.starts_with("collector/") && told[2].slot == Some(owner), "AUDIT-10: {told:?}");
}

/// Somebody who forgets and collects while the chains are read is not taken for one who left no entry.
#[test]
fn who_acts_meanwhile_is_no_finding() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 10_000));
    let id = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    note(&world, &[0], "an entry");
    let calls = {
        let repository = world.open(&[0]).unwrap();
        world.calls_of(|| _ = examine(&repository).unwrap())
    };
    for number in 1..=calls {
        let world = world.fork();
        let repository = world.open(&[0]).unwrap();
        world.visit_at(number, move |world| {
            let repository = world.open(&[0]).unwrap();
            verdicts::put(&repository, &BTreeSet::from([id]), &Decree::new(Ruling::Forget, "")).unwrap();
            set_tags(&repository, id, &BTreeSet::new(), BTreeSet::from(["tag".to_owned()])).unwrap();
            let report = gc(&repository, &GcOptions { now: true, ..GcOptions::default() }, &Silent).unwrap();
            assert_eq!(report.regions[0].finished.len(), 1);
        });
        let found = examine(&repository).unwrap().findings;
        assert!(found.iter().all(|finding| finding.kind != FindingKind::Unrecorded), "call {number}: {found:?}");
    }
}

/// AUDIT-9: a store that overwrites loses no entry, since every entry there has a name of its own.
#[test]
fn stores_without_put_if_absent_overwrite_no_entry() {
    let world = World::new(1);
    let store = memory(&world, 0).clone().without_put_if_absent();
    let repository = world.open(&[0]).unwrap();
    let first = names(&world, 0);
    let mut region = repository.regions[0].clone();
    region.store = Arc::new(store);
    region.info.put_if_absent = false;
    let overwriting = || Repository { regions: vec![region.clone()], ..world.open(&[0]).unwrap() };
    let (a, b) = (overwriting(), overwriting());
    let race = std::thread::scope(|scope| {
        let other = scope.spawn(|| (0..10).for_each(|at| _ = record(&b, &act(&format!("b{at}"))).unwrap()));
        (0..10).for_each(|at| _ = record(&a, &act(&format!("a{at}"))).unwrap());
        other.join()
    });
    race.unwrap();
    let reasons: BTreeSet<String> =
        read(&a).unwrap().timeline.into_iter().map(|recorded| recorded.entry.reason).collect();
    assert_eq!(reasons.len(), 21);
    // The next entry joins what the race has split.
    record(&a, &act("last")).unwrap();
    assert!(sound(&read(&a).unwrap()), "{:?}", read(&a).unwrap().findings);
    assert_eq!(first.len(), 1);
    world.forget_history();
}

/// AUDIT-4: what a slot recorded stays in the record when the slot is revoked, and says so.
#[test]
fn a_revoked_slots_entries_stay() {
    let mut world = World::new(1);
    let mut repository = world.open(&[0]).unwrap();
    let (secret, recipient) = identity();
    let second = repository.add_slot(Role::Owner, "second", &Wrapping::Recipient(recipient)).unwrap();
    let owner = std::mem::replace(&mut world.identity, secret);
    note(&world, &[0], "by the second");
    world.identity = owner;
    let mut slots = repository.roster.slots.clone();
    slots.iter_mut().filter(|slot| slot.slot == second).for_each(|slot| slot.state = SlotState::Revoked);
    let roster = Roster { number: repository.roster.number + 1, slots, ..repository.roster.clone() };
    let root = Signer { slot: SlotId::default(), private: repository.secrets.root_private.as_ref().unwrap() };
    let (bytes, digest) = build_signed(ObjectKind::Roster, repository.config.repository, &root, &roster.encode());
    let name = format!("roster/{}-{digest}", number_name(roster.number));
    memory(&world, 0).put_new(&name, &bytes.into()).unwrap();
    let found = chains(&world, &[0]);
    assert_eq!(found.findings, []);
    let entry = found.timeline.iter().find(|recorded| recorded.entry.slot == second).unwrap();
    assert!(entry.revoked && entry.entry.label == "second");
    repository.roster = roster;
}

#[test]
fn the_program_shows_and_verifies_the_chains() {
    let program = Program::new();
    let shown = program.run(["--json", "audit"]).expect(0).json();
    assert_eq!((&shown["sound"], &shown["chains"], &shown["entries_total"]), (&true.into(), &1.into(), &1.into()));
    let entry = &shown["entries"][0];
    assert_eq!((&entry["action"], &entry["number"], &entry["subject"]), (&"init".into(), &1.into(), &"slot".into()));
    assert_eq!((entry["regions"].as_array().unwrap().len(), &entry["subjects"][0]), (2, &entry["slot"]));
    let slot = entry["slot"].as_str().unwrap().to_owned();
    for chosen in [&slot[..8], entry["label"].as_str().unwrap()] {
        assert_eq!(program.run(["--json", "audit", "--slot", chosen]).expect(0).json()["entries_total"], 1);
    }
    assert_eq!(program.run(["--json", "audit", "--slot", "nobody"]).expect(12).error()["class"], "missing");
    program.run(["audit", "--since", "never"]).expect(2);
    let later = program.run(["--json", "audit", "--since", "2200-01-01"]).expect(0).json();
    assert_eq!((&later["entries"], &later["entries_total"]), (&serde_json::json!([]), &1.into()));
    assert!(program.run(["audit"]).expect(0).stdout.contains("1 entry in 1 chain: whole"));

    let name = format!("audit/{slot}/{:016x}", 1);
    std::fs::write(program.path("one").join(&name), b"damage").unwrap();
    let broken = program.run(["--json", "audit", "--verify"]).expect(11).json();
    assert_eq!((&broken["sound"], &broken["findings"][0]["kind"]), (&false.into(), &"damaged".into()));
    // Region two still tells what region one lost.
    assert_eq!(program.run(["--json", "audit"]).expect(11).json()["entries_total"], 1);
    assert!(program.run(["audit"]).expect(11).stdout.contains("NOT WHOLE"));
}

/// A region that isn't reached may hold what the others lost of the chains: its silence isn't taken for soundness.
#[test]
fn a_region_that_was_not_looked_at_is_told() {
    let program = Program::new();
    assert_eq!(program.run(["--json", "audit"]).expect(0).json()["unchecked"], serde_json::json!([]));
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    for arguments in [&["audit"][..], &["audit", "--verify"]] {
        let told = program.run([&["--json"], arguments].concat()).expect(14).json();
        assert_eq!((&told["unchecked"][0]["name"], &told["sound"]), (&"two".into(), &true.into()), "{told}");
        assert!(!told["unchecked"][0]["reason"].as_str().unwrap().is_empty());
        let text = program.run(arguments).expect(14).stdout;
        assert!(text.contains("Region 'two' was NOT looked at") && !text.contains("chain: whole\n"), "{text}");
    }
    // What is found is graver than what wasn't looked at.
    let slot = std::fs::read_dir(program.path("one/audit")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(std::fs::read_dir(slot).unwrap().next().unwrap().unwrap().path(), b"damage").unwrap();
    program.run(["audit"]).expect(11);
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
}

/// What is recorded names the machine as it was told to call itself, whatever the command.
#[test]
fn one_name_of_the_machine_is_recorded_by_every_command() {
    let program = Program::bare();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let on = |host: Option<&str>, arguments: &[&str]| {
        let mut command = program.command(arguments);
        host.into_iter().for_each(|host| _ = command.env("KEEPSTONE_HOST", host));
        crate::program::Ended::new(command.output().unwrap()).expect(0)
    };
    let on_box = |arguments: &[&str]| on(Some("box"), arguments);
    on_box(&[
        "--region",
        &program.region("one"),
        "--region",
        &program.region("two"),
        "init",
        "--recipient",
        &recipient,
    ]);
    program.write("a", b"one");
    let source = program.source().display().to_string();
    let saved = on_box(&["--json", "backup", &source]).json();
    assert_eq!(saved["host"], "box");
    on_box(&["key", "add", "--role", "writer", "--recipient", &identity().1]);
    on_box(&["tag", "latest", "--set", "x"]);
    on_box(&["hold", "latest", "--reason", "y"]);
    on_box(&["release", "latest"]);
    on_box(&["forget", &crate::program::id(&saved), "--break-floor", "--confirm", "default"]);
    on_box(&["gc", "--now"]);
    on_box(&["check", "--read-data"]);
    on_box(&["key", "rotate"]);
    let recorded = || {
        let entries = program.run(["--json", "audit"]).expect(0).json();
        let entries = entries["entries"].as_array().expect("entries").clone();
        let of = |entry: &serde_json::Value, field: &str| entry[field].as_str().unwrap().to_owned();
        entries.iter().map(|entry| (of(entry, "action"), of(entry, "host"))).collect::<Vec<_>>()
    };
    let before = recorded();
    for action in ["init", "key-add", "tag", "hold", "release", "forget", "gc-final", "key-rotate"] {
        assert!(before.iter().any(|(done, _)| done == action), "{action}: {before:?}");
    }
    assert!(before.iter().all(|(_, host)| host == "box"), "{before:?}");
    // The file's, which the environment goes before; else what the machine calls itself.
    let act = |host: Option<&str>| {
        on(host, &["key", "rotate"]);
        recorded().pop().unwrap().1
    };
    assert_eq!(act(None), keepstone::env::host_name());
    let file = program.path("keepstone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[backup]\nhost = \"laptop\"\n")).unwrap();
    assert_eq!(act(None), "laptop");
    assert_eq!(act(Some("other")), "other");
}

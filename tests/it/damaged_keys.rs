//! Damaged key objects: what another region has whole is given back in place, what may not be replaced has something
//! beside it, and what is damaged beside a whole one is told without being an error for ever.

use crate::fixture::{World, identity, noise, write};
use crate::program::Program;
use keepstone::check::{CheckReport, ScrubReport, check, scrub};
use keepstone::crypto::slot::Wrapping;
use keepstone::format::ids::{SlotId, number_name};
use keepstone::format::roster::Role;
use keepstone::replicate::{Depth, Replicated, replicate};
use keepstone::repo::Repository;
use keepstone::repo::accepted::Acceptance;
use keepstone::report::{IssueKind, Silent};
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::collections::BTreeMap;

/// What becomes of an object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flipped,
    Cut,
    Emptied,
    Garbage,
    /// Larger than any object of keys may be.
    Grown,
}

const HARMS: [Harm; 5] = [Harm::Flipped, Harm::Cut, Harm::Emptied, Harm::Garbage, Harm::Grown];

impl Harm {
    fn befalls(self, world: &World, at: usize, name: &str) {
        let mut bytes = memory(world, at).get(name, 64 << 20).unwrap();
        let half = bytes.len() / 2;
        match self {
            Harm::Flipped => bytes[half] ^= 1,
            Harm::Cut => bytes.truncate(half),
            Harm::Emptied => bytes.clear(),
            Harm::Garbage => bytes.fill(b'Z'),
            Harm::Grown => bytes.resize((16 << 20) + 1, 0),
        }
        memory(world, at).heal(name, &bytes.into()).unwrap();
    }
}

fn memory(world: &World, at: usize) -> &MemoryStore {
    &world.stores[at].inner().memory
}

fn names(world: &World, at: usize, prefix: &str) -> Vec<String> {
    list_sorted(memory(world, at), prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

/// Everything of keys that a region holds.
fn keys_of(world: &World, at: usize) -> BTreeMap<String, Vec<u8>> {
    let all = ["keys/", "ring/", "roster/"].iter().flat_map(|prefix| names(world, at, prefix));
    all.map(|name| (name.clone(), memory(world, at).get(&name, 64 << 20).unwrap())).collect()
}

fn level_in(world: &World, which: &[usize]) -> Replicated {
    let repository = world.open(which).unwrap();
    replicate(&repository, &world.list(which).snapshots, Depth::Content, None, 64 << 20, &Silent).unwrap()
}

fn level(world: &World) -> Replicated {
    level_in(world, &world.all())
}

fn checked(world: &World, which: &[usize]) -> CheckReport {
    check(&world.open(which).unwrap(), None, &Default::default(), &Silent).unwrap()
}

fn scrubbed(world: &World, at: usize) -> ScrubReport {
    scrub("alone", memory(world, at), 1, &Silent).unwrap()
}

fn subjects(issues: &[keepstone::report::Issue]) -> Vec<String> {
    issues.iter().map(|issue| String::from_utf8(issue.subject.clone()).unwrap()).collect()
}

fn ring(slot: SlotId) -> String {
    format!("ring/{}/{slot}", number_name(1))
}

fn own_slot(world: &World) -> SlotId {
    world.open(&world.all()).unwrap().secrets.slot
}

/// Nobody may replace anything in a region.
fn irreplaceable(world: &World, at: usize) {
    world.stores[at].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
}

/// Nothing is wrong, and nothing is told.
fn assert_whole(world: &World) {
    let report = checked(world, &world.all());
    assert_eq!((report.issues, report.notices), (vec![], vec![]));
    for at in world.all() {
        let report = scrubbed(world, at);
        assert_eq!((report.issues, report.notices), (vec![], vec![]), "region {at}");
    }
}

/// RING-9: a ring of any slot, or of all, in either region, gets its bytes back under its own name, and nothing is put
/// beside it; again the next time.
#[test]
fn ring_9_a_damaged_ring_is_replaced_by_its_own_bytes() {
    let world = World::new(2);
    let identities: Vec<String> =
        [Role::Writer, Role::Owner, Role::Maintainer].into_iter().map(|role| world.add_slot(role, "added").1).collect();
    let whole = keys_of(&world, 0);
    let rings = names(&world, 0, "ring/");
    assert_eq!(rings.len(), 4);
    for (round, harm) in HARMS.into_iter().enumerate() {
        let region = round % 2;
        for damaged in rings.iter().map(std::slice::from_ref).chain([&rings[..]]) {
            damaged.iter().for_each(|name| harm.befalls(&world, region, name));
            let told: Vec<String> = damaged.iter().map(|name| format!("r{region}:{name}")).collect();
            assert_eq!(subjects(&checked(&world, &[0, 1]).issues), told, "{harm:?}");
            assert_eq!(scrubbed(&world, region).issues.len(), damaged.len(), "{harm:?}");
            let done = level(&world);
            assert_eq!((done.healed, done.issues), (damaged.len() as u64, vec![]), "{harm:?}");
            assert_eq!((keys_of(&world, 0), keys_of(&world, 1)), (whole.clone(), whole.clone()), "{harm:?}");
        }
        assert_whole(&world);
    }
    for identity in &identities {
        (0..2).for_each(|region| drop(world.as_slot(identity).open(&[region]).unwrap()));
    }
    world.forget_history();
    assert_eq!((level(&world).healed, world.stores[1].written()), (0, vec![]), "once is enough");
}

/// RING-9: the program, of every slot's ring in one region.
#[test]
fn ring_9_the_program_mends_damaged_rings() {
    let program = Program::new();
    program.write("file", b"content");
    program.add_slot("writer");
    program.backup(&[]);
    let epoch = program.path(&format!("two/ring/{}", number_name(1)));
    let rings: Vec<_> = std::fs::read_dir(&epoch).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(rings.len(), 2);
    let source = program.source().display().to_string();
    for command in [&["replicate"][..], &["backup", &source]] {
        for ring in &rings {
            let mut bytes = std::fs::read(ring).unwrap();
            let half = bytes.len() / 2;
            bytes[half..half + 2].copy_from_slice(b"ZZ");
            std::fs::write(ring, bytes).unwrap();
        }
        program.run(["check"]).expect(11);
        program.run(["scrub", "two"]).expect(11);
        let mended = program.run(command).expect(0);
        assert!(mended.stderr.contains("region 'two' held damaged rings, 2 in number"), "{}", mended.stderr);
        for again in [&["check"][..], &["scrub", "two"], &["replicate"]] {
            let ended = program.run(again).expect(0);
            assert!(!ended.stderr.contains("ring"), "{}", ended.stderr);
        }
    }
    assert_eq!(std::fs::read_dir(&epoch).unwrap().count(), 2, "nothing lies beside them");
}

/// RING-9: a change of keys mends what it meets, as a replication does.
#[test]
fn ring_9_a_change_of_keys_mends_rings() {
    type Change = fn(&mut Repository, SlotId);
    let changes: [Change; 3] = [
        |owner, _| assert_eq!(owner.rotate(false).unwrap(), 2),
        |owner, slot| {
            assert_ne!(owner.add_slot(Role::Writer, "new", &Wrapping::Recipient(identity().1)).unwrap(), slot);
        },
        |owner, slot| assert_eq!(owner.remove_slot(slot).unwrap(), 0),
    ];
    let base = World::new(2);
    let (writer, _) = base.add_slot(Role::Writer, "w");
    for change in changes {
        for region in 0..2 {
            let world = base.fork();
            names(&world, region, "ring/").iter().for_each(|name| Harm::Flipped.befalls(&world, region, name));
            let mut owner = world.open(&[0, 1]).unwrap();
            change(&mut owner, writer);
            assert_eq!(owner.key_issues, []);
            assert_eq!(keys_of(&world, 0), keys_of(&world, 1));
            assert_whole(&world);
        }
    }
}

/// Where nothing may be replaced, a whole ring beside the damaged one is enough: a notice, for a check and a scrub. With
/// that one damaged, too, it is told with its remedy, and keeps the region from nothing; and all of it is mended as
/// soon as that is allowed.
#[test]
fn ring_9_what_may_not_be_replaced_keeps_a_region_from_nothing() {
    let (world, source) = (World::new(2), tempfile::tempdir().unwrap());
    write(source.path(), "a", &noise(1, 50_000));
    let (writer, identity) = world.add_slot(Role::Writer, "w");
    let own = own_slot(&world);
    let rings = [ring(writer), ring(own)];
    rings.iter().for_each(|name| Harm::Flipped.befalls(&world, 1, name));
    irreplaceable(&world, 1);
    let done = level(&world);
    assert_eq!((done.healed, done.issues), (0, vec![]));
    let beside: Vec<String> = names(&world, 1, "ring/").into_iter().filter(|name| name.contains('-')).collect();
    assert_eq!(beside.len(), 2);
    for (report, notices) in [
        (checked(&world, &[0, 1]).issues, checked(&world, &[0, 1]).notices),
        (scrubbed(&world, 1).issues, scrubbed(&world, 1).notices),
        (checked(&world.as_slot(&identity), &[1]).issues, checked(&world.as_slot(&identity), &[1]).notices),
    ] {
        assert_eq!(report, []);
        assert_eq!(notices.len(), 2, "{notices:?}");
        for name in &rings {
            let of_it = notices.iter().find(|notice| notice.contains(&format!(":{name} is damaged"))).unwrap();
            assert!(of_it.contains("keepstone replicate"), "{of_it}");
        }
    }
    for who in [&world.identity, &identity] {
        world.as_slot(who).open(&[1]).unwrap();
    }
    // The copies, too.
    beside.iter().for_each(|name| Harm::Flipped.befalls(&world, 1, name));
    for _ in 0..2 {
        let done = level(&world);
        let told: Vec<String> = rings.iter().map(|name| format!("r1:{name}")).collect();
        let mut named = subjects(&done.issues);
        named.sort();
        assert_eq!(named, {
            let mut told = told;
            told.sort();
            told
        });
        assert!(done.issues.iter().all(|issue| issue.kind == IssueKind::Damaged), "{:?}", done.issues);
        for issue in &done.issues {
            assert!(issue.detail.contains("an owner's `keepstone replicate`"), "{issue:?}");
        }
    }
    assert_eq!(checked(&world, &[0, 1]).issues.len(), 4, "none of them is whole");
    assert_eq!(scrubbed(&world, 1).issues.len(), 4);
    let saved = world.backup(&[0, 1], source.path(), 0).unwrap();
    assert_eq!(world.list(&[0, 1]).snapshots[0].regions, [0, 1], "{saved:?}");
    world.open(&[0, 1]).unwrap().rotate(false).unwrap();
    world.stores[1].revive();
    assert_eq!(level(&world).healed, 4);
    assert_whole(&world);
    for who in [&world.identity, &identity] {
        world.as_slot(who).open(&[1]).unwrap();
    }
}

/// RING-9: a ring that is whole isn't replaced because it was once read with wrong bytes.
#[test]
fn ring_9_nothing_is_replaced_for_one_bad_read() {
    let world = World::new(2);
    let (writer, _) = world.add_slot(Role::Writer, "w");
    let whole = keys_of(&world, 1);
    for name in [ring(writer), ring(own_slot(&world))] {
        let repository = world.open(&[0, 1]).unwrap();
        world.forget_history();
        world.stores[1].inject(Trigger::on(Operation::Get).under(&name).times(1), Fault::FlipBit(100));
        let levelled = repository.level_all_keys(true);
        assert!(levelled.iter().all(|done| done.as_ref().unwrap().issues.is_empty()));
        assert_eq!(world.stores[1].count(Operation::Heal), 0, "{name}");
        assert_eq!(keys_of(&world, 1), whole, "{name}");
        world.stores[1].revive();
    }
}

/// With one region alone: what lies beside a ring mends it if it is the same, and what stands alone stays damage.
#[test]
fn a_region_alone_mends_a_ring_from_what_lies_beside_it() {
    let world = World::new(2);
    let (writer, _) = world.add_slot(Role::Writer, "w");
    let own = own_slot(&world);
    for name in [ring(writer), ring(own)] {
        let world = world.fork();
        Harm::Flipped.befalls(&world, 1, &name);
        irreplaceable(&world, 1);
        assert_eq!(level(&world).issues, []);
        world.stores[1].revive();
        let done = level_in(&world, &[1]);
        assert_eq!((done.healed, done.issues), (1, vec![]), "{name}");
        assert_whole(&world);
        // Cut short, nothing says that it was the same.
        Harm::Cut.befalls(&world, 1, &name);
        assert_eq!(level_in(&world, &[1]).healed, 0);
        let report = checked(&world, &[1]);
        assert_eq!((report.issues, report.notices.len()), (vec![], 1), "{name}");
        assert_eq!(level(&world).healed, 1);
        assert_whole(&world);
    }
    Harm::Flipped.befalls(&world, 1, &ring(writer));
    level_in(&world, &[1]);
    assert_eq!(subjects(&checked(&world, &[1]).issues), [format!("r1:{}", ring(writer))]);
    assert_eq!(scrubbed(&world, 1).issues.len(), 1);
}

/// A slot that is not in use any more has rings still: they are mended, and where they can't be, nothing needs them.
#[test]
fn a_damaged_ring_of_a_removed_slot_is_no_damage() {
    let world = World::new(2);
    let (writer, _) = world.add_slot(Role::Writer, "w");
    world.open(&[0, 1]).unwrap().remove_slot(writer).unwrap();
    let whole = keys_of(&world, 0);
    Harm::Flipped.befalls(&world, 1, &ring(writer));
    let report = checked(&world, &[0, 1]);
    assert_eq!((report.issues, report.notices.len()), (vec![], 1));
    assert!(report.notices[0].contains("nothing needs it"), "{:?}", report.notices);
    let done = level(&world);
    assert_eq!((done.healed, done.issues), (1, vec![]));
    assert_eq!(keys_of(&world, 1), whole);
    assert_whole(&world);
}

/// A ring that no region has whole keeps a region that missed a change of keys out, and no other.
#[test]
fn a_ring_that_is_whole_nowhere_keeps_only_the_region_out_that_is_behind() {
    let (world, source) = (World::new(2), tempfile::tempdir().unwrap());
    write(source.path(), "a", &noise(1, 50_000));
    let (writer, _) = world.add_slot(Role::Writer, "w");
    world.open(&[0]).unwrap().rotate(false).unwrap();
    (0..2).for_each(|region| Harm::Flipped.befalls(&world, region, &ring(writer)));
    world.backup(&[0, 1], source.path(), 0).unwrap();
    assert_eq!(world.list(&[0, 1]).snapshots[0].regions, [0]);
    let done = level(&world);
    let told = done.issues.iter().find(|issue| issue.subject == b"r1:roster/").unwrap();
    assert!(told.detail.contains("keepstone key remove"), "{told:?}");
    // The remedy that it names.
    world.open(&[0]).unwrap().remove_slot(writer).unwrap();
    assert_eq!(level(&world).issues, []);
    assert_eq!(world.list(&[0, 1]).snapshots[0].regions, [0, 1]);
    assert_eq!(checked(&world, &[0, 1]).issues, []);
}

/// HEAL-2: a damaged part of an accepted list gets the bytes that the roster states, and a check is silent then.
#[test]
fn heal_2_a_damaged_accepted_list_gets_its_right_bytes() {
    let (world, source) = (World::new(2), tempfile::tempdir().unwrap());
    write(source.path(), "a", &noise(1, 50_000));
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    world.open(&[0, 1]).unwrap().revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
    let part = names(&world, 0, "roster/accepted/").remove(0);
    let whole = keys_of(&world, 0);
    for (round, harm) in HARMS.into_iter().enumerate() {
        let region = round % 2;
        harm.befalls(&world, region, &part);
        assert_eq!(subjects(&checked(&world, &[0, 1]).issues), [format!("r{region}:{part}")], "{harm:?}");
        irreplaceable(&world, region);
        let done = level(&world);
        assert_eq!(subjects(&done.issues), [format!("r{region}:{part}")], "{harm:?}");
        assert!(done.issues[0].detail.contains("an owner's `keepstone replicate`"), "{:?}", done.issues);
        world.stores[region].revive();
        let done = level(&world);
        assert_eq!((done.healed, done.issues), (1, vec![]), "{harm:?}");
        assert_eq!(keys_of(&world, region), whole, "{harm:?}");
        assert_whole(&world);
    }
    (0..2).for_each(|region| Harm::Flipped.befalls(&world, region, &part));
    let done = level(&world);
    let of_it: Vec<_> = done.issues.iter().filter(|issue| issue.subject.ends_with(part.as_bytes())).collect();
    assert_eq!(of_it.len(), 2, "{:?}", done.issues);
    assert!(of_it.iter().all(|issue| issue.detail.contains("revoking the slot again")), "{of_it:?}");
}

/// A key file that has not even the form of one opens for nobody: it gets the other region's bytes, the own slot's and
/// any other's. One that has the form is told: it may be what another passphrase opens.
#[test]
fn a_key_file_without_the_form_of_one_is_replaced() {
    let world = World::new(2);
    let (writer, identity) = world.add_slot(Role::Writer, "w");
    let whole = keys_of(&world, 0);
    for slot in [writer, own_slot(&world)] {
        let name = format!("keys/{slot}/{}.age", number_name(1));
        for (round, harm) in [Harm::Emptied, Harm::Garbage, Harm::Grown].into_iter().enumerate() {
            let region = round % 2;
            harm.befalls(&world, region, &name);
            assert!(!checked(&world, &[0, 1]).issues.is_empty(), "{harm:?}");
            irreplaceable(&world, region);
            let done = level(&world);
            assert_eq!(subjects(&done.issues), [format!("r{region}:{name}")], "{harm:?}");
            world.stores[region].revive();
            let done = level(&world);
            assert_eq!((done.healed, done.issues), (1, vec![]), "{harm:?}");
            assert_eq!((keys_of(&world, 0), keys_of(&world, 1)), (whole.clone(), whole.clone()), "{harm:?}");
            assert_whole(&world);
        }
        (0..2).for_each(|region| drop(world.as_slot(&identity).open(&[region]).unwrap()));
    }
    // Of the same form, and other bytes.
    let name = format!("keys/{}/{}.age", own_slot(&world), number_name(1));
    let other = format!("keys/{writer}/{}.age", number_name(1));
    let bytes = memory(&world, 0).get(&other, 1 << 20).unwrap();
    memory(&world, 1).heal(&name, &bytes.clone().into()).unwrap();
    let done = level(&world);
    assert_eq!((done.healed, subjects(&done.issues)), (0, vec![format!("r1:{name}")]));
    assert_eq!(memory(&world, 1).get(&name, 1 << 20).unwrap(), bytes);
}

//! Regions that hold different things of keys: what was interrupted or lost is levelled, and what was changed
//! in two places, each without knowing of the other, is refused until an owner merges it.

use crate::fixture::{World, identity, noise, write};
use crate::program::Program;
use keepstone::check::{CheckReport, check};
use keepstone::crypto::object::{Signer, build_signed};
use keepstone::crypto::slot::{Unlock, Wrapping};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{Digest, SlotId, SnapshotId, number_name};
use keepstone::format::roster::{Role, Roster, SlotState};
use keepstone::replicate::{Replicated, replicate};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::{Located, RepoError, Repository};
use keepstone::report::{Issue, IssueKind, Silent};
use keepstone::store::faults::{Fault, Logged, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tempfile::TempDir;
use zeroize::Zeroizing;

fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 50_000));
    source
}

fn memory(world: &World, region: usize) -> &MemoryStore {
    &world.stores[region].inner().memory
}

fn read(world: &World, region: usize, name: &str) -> Option<Vec<u8>> {
    memory(world, region).get(name, 64 << 20).ok()
}

fn names(world: &World, region: usize, prefix: &str) -> BTreeSet<String> {
    list_sorted(memory(world, region), prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

/// Everything of keys that a region holds.
fn keys_of(world: &World, region: usize) -> BTreeMap<String, Vec<u8>> {
    let all = ["keys/", "ring/", "roster/"].iter().flat_map(|prefix| names(world, region, prefix));
    all.map(|name| (name.clone(), read(world, region, &name).unwrap())).collect()
}

fn level(world: &World) -> Replicated {
    let all = world.all();
    let listing = world.list(&all);
    replicate(
        &world.open(&all).unwrap(),
        &listing.snapshots,
        keepstone::replicate::Depth::Content,
        None,
        64 << 20,
        &Silent,
    )
    .unwrap()
}

fn checked(world: &World, which: &[usize]) -> CheckReport {
    check(&world.open(which).unwrap(), None, &Default::default(), &Silent).unwrap()
}

fn subjects(report: &CheckReport) -> Vec<String> {
    report.issues.iter().map(|issue| String::from_utf8(issue.subject.clone()).unwrap()).collect()
}

/// What another process of `world` does that knows of one region only.
fn with_one(world: &World, region: usize, change: impl FnOnce(&mut Repository)) {
    change(&mut world.open(&[region]).unwrap());
}

fn is_fork(world: &World) -> bool {
    match Located::open(&world.specs(&world.all()), Some(world.pin)).map(|_| ()) {
        Ok(()) => false,
        Err(RepoError::TwoRosters { digests, .. }) => digests.len() > 1,
        Err(other) => panic!("{other}"),
    }
}

fn to_merge(world: &World, take: Option<&str>) -> Result<Repository, RepoError> {
    let located = Located::open_to_merge(&world.specs(&world.all()), Some(world.pin), take)?;
    let unlock = Unlock::Identities(Zeroizing::new(world.identity.clone()));
    located.unlock(&unlock, world.clock.clone(), Arc::clone(&world.random))
}

/// The digest of a region's newest roster.
fn newest(world: &World, region: usize) -> String {
    let rosters = names(world, region, "roster/");
    rosters.iter().rfind(|name| !name.contains("accepted")).unwrap().split_once('-').unwrap().1.to_owned()
}

fn add(repository: &mut Repository, role: Role) -> String {
    let (identity, recipient) = identity();
    repository.add_slot(role, "added", &Wrapping::Recipient(recipient)).unwrap();
    identity
}

/// ROSTER-9: a change of what wraps a slot, cut off at each of its calls, is told of by whoever checks, and completed
/// by the slot itself; the old secret then opens no region any more.
#[test]
fn an_interrupted_change_of_a_secret_is_completed() {
    let base = World::new(2);
    let (slot, old) = base.add_slot(Role::Owner, "changing");
    let (new, recipient) = identity();
    let change = |world: &World| {
        world.as_slot(&old).open(&[0, 1]).and_then(|mut open| open.rewrap(&Wrapping::Recipient(recipient.clone())))
    };
    let counted = base.fork();
    let calls = counted.calls_of(|| _ = change(&counted).unwrap());
    let mut begun = 0;
    for call in 0..calls {
        let world = base.fork();
        world.die_after(call);
        assert!(change(&world).is_err(), "call {call} of {calls}");
        world.live_again();
        let changed = world.as_slot(&new).open(&[0, 1]).is_ok();
        let split = (0..2).filter(|at| world.as_slot(&new).open(&[*at]).is_ok()).count() == 1;
        if split {
            begun += 1;
            // Told of before it is mended.
            let report = checked(&world, &[0, 1]);
            assert_eq!(subjects(&report), [format!("r1:keys/{slot}/{}.age", number_name(2))], "call {call}");
            assert_eq!(world.open(&[0, 1]).unwrap().key_differences().unwrap().len(), 1);
            // Another slot's run leaves it alone: it can't tell a new file from a planted one.
            let before = keys_of(&world, 1);
            assert!(level(&world).issues.is_empty());
            assert_eq!(keys_of(&world, 1), before, "call {call}");
        }
        let (opens, not) = if changed { (&new, &old) } else { (&old, &new) };
        assert!(level(&world.as_slot(opens)).issues.is_empty());
        for region in 0..2 {
            assert!(world.as_slot(opens).open(&[region]).is_ok(), "call {call}, region {region}");
            assert!(world.as_slot(not).open(&[region]).is_err(), "call {call}, region {region}");
            assert_eq!(names(&world, region, &format!("keys/{slot}/")).len(), 1, "the old file went, too");
        }
    }
    assert!(begun > 0, "it was cut off between the regions");
}

/// Whoever can write to one region can put a key file with a higher number there, in the form of one: the slot still
/// opens the others, since no other slot spreads it.
#[test]
fn a_planted_key_file_is_not_spread() {
    let world = World::new(2);
    let (slot, identity) = world.add_slot(Role::Writer, "w");
    let (other, _) = world.add_slot(Role::Writer, "other");
    let planted = format!("keys/{slot}/{}.age", number_name(9));
    let others = read(&world, 1, &format!("keys/{other}/{}.age", number_name(1))).unwrap();
    for content in [b"garbage".to_vec(), others] {
        let world = world.fork();
        memory(&world, 1).put_new(&planted, &content.into()).unwrap();
        assert_eq!(level(&world).issues, []);
        assert_eq!(read(&world, 0, &planted), None);
        assert!(world.as_slot(&identity).open(&[0]).is_ok());
        assert!(!checked(&world, &[0, 1]).issues.is_empty(), "and it is told");
    }
}

/// ROSTER-9: whatever one region lost of keys comes back from another, also where it has the newest roster.
#[test]
fn what_a_region_lost_of_keys_comes_back() {
    let (world, source) = (World::new(2), source());
    let (writer, identity) = world.add_slot(Role::Writer, "w");
    world.add_slot(Role::Maintainer, "m");
    world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    world.open(&[0, 1]).unwrap().revoke_slot(writer, &Acceptance::default(), &Silent).unwrap();
    world.open(&[0, 1]).unwrap().rotate(false).unwrap();
    let whole = keys_of(&world, 0);
    assert!(whole.keys().any(|name| name.contains("accepted/")));
    let revoked = |name: &str| name.starts_with("ring/") && name.ends_with(&writer.to_string());
    let relied_on: Vec<&String> = whole.keys().filter(|name| !revoked(name)).collect();
    assert!(relied_on.len() >= 12, "{relied_on:?}");
    for name in relied_on {
        memory(&world, 0).delete(name).unwrap();
        let earlier = name.starts_with("roster/0") && !name.contains(&newest(&world, 1));
        // A region by itself needs no earlier roster.
        let told = |report: CheckReport| !(report.issues.is_empty() && report.differences.is_empty());
        assert_eq!(told(checked(&world, &[0, 1])), !earlier, "{name}");
        assert_eq!(level(&world).issues, [], "{name}");
        assert_eq!(keys_of(&world, 0), whole, "{name}");
    }
    assert_eq!(checked(&world, &[0, 1]).issues, []);
}

/// A rotation that is cut off after `rings` rings reached region 0; then region 1 alone is rotated.
fn two_rotations(rings: usize) -> (World, TempDir, String, SnapshotId) {
    let (world, source) = (World::new(2), source());
    let (_, writer) = world.add_slot(Role::Writer, "w");
    world.backup(&[0, 1], source.path(), 0).unwrap();
    let cut_off = world.fork();
    with_one(&cut_off, 0, |one| _ = one.rotate(false).unwrap());
    for name in names(&cut_off, 0, "ring/0000000000000002/").into_iter().take(rings) {
        let bytes = read(&cut_off, 0, &name).unwrap();
        memory(&world, 0).put_new(&name, &bytes.into()).unwrap();
    }
    with_one(&world, 1, |one| _ = one.rotate(false).unwrap());
    let saved = world.backup(&[1], source.path(), 0).unwrap().snapshot.unwrap();
    (world, source, writer, saved)
}

/// RING-7: a ring of another rotation under the same name is not taken for the right one, which then lies beside
/// it: each region opens by itself.
#[test]
fn a_ring_of_another_rotation_gets_the_right_one_beside_it() {
    for rings in [1, 2] {
        let (world, source, writer, saved) = two_rotations(rings);
        assert!(!is_fork(&world));
        assert_eq!(level(&world).issues, []);
        assert_eq!(level(&world.as_slot(&writer)).issues, []);
        for region in 0..2 {
            world.assert_restores(&[region], saved, source.path(), 0);
            let epochs = world.as_slot(&writer).open(&[region]).unwrap().keyring.current_epoch();
            assert_eq!(epochs, 2, "region {region}");
            assert!(checked(&world, &[region]).issues.is_empty());
            assert!(checked(&world.as_slot(&writer), &[region]).issues.is_empty());
        }
        assert_eq!(names(&world, 0, "ring/").iter().filter(|name| name.contains('-')).count(), rings);
        assert_eq!(checked(&world, &[0, 1]).differences, Vec::<String>::new());
        // Once is enough.
        world.forget_history();
        assert_eq!(level(&world).issues, []);
        assert_eq!(world.stores[0].written(), Vec::<String>::new());
        // The next epoch's number is above all of them.
        assert_eq!(world.open(&[0, 1]).unwrap().rotate(false).unwrap(), 3);
        assert!(world.open(&[0]).is_ok());
    }
}

/// RING-9: of two rings of one epoch that are whole neither is replaced; one that is damaged gets the bytes that its
/// trailer states, wherever they lie, and where that can't be read what another region has, while the right one comes
/// beside it. Each region opens by itself, whoever levels first.
#[test]
fn ring_9_a_damaged_ring_among_two_rotations_gets_its_own_bytes() {
    let (world, _source, writer, _) = two_rotations(2);
    // Each slot spreads what others may need: then both regions hold all four.
    for identity in [&world.identity, &writer] {
        assert_eq!(level(&world.as_slot(identity)).issues, []);
    }
    let whole = [keys_of(&world, 0), keys_of(&world, 1)];
    for region in 0..2 {
        let rings = names(&world, region, "ring/0000000000000002/");
        assert_eq!(rings.len(), 4);
        for (round, (name, cut)) in rings.iter().flat_map(|name| [(name, false), (name, true)]).enumerate() {
            // Whoever comes first, in turns.
            let first = if (round / 2 + region) % 2 == usize::from(cut) { &world.identity } else { &writer };
            let world = world.fork();
            let mut bytes = read(&world, region, name).unwrap();
            bytes[100] ^= 1;
            bytes.truncate(if cut { 200 } else { bytes.len() });
            memory(&world, region).heal(name, &bytes.into()).unwrap();
            let done = level(&world.as_slot(first));
            assert_eq!((done.healed, done.issues), (1, vec![]), "{region} {name} {cut}");
            for identity in [&world.identity, &writer] {
                let world = world.as_slot(identity);
                assert_eq!(level(&world).issues, [], "{region} {name} {cut}");
                let opened = world.open(&[region]).unwrap();
                assert_eq!(opened.keyring.current_epoch(), 2, "{region} {name} {cut}");
            }
            if !cut || name.contains('-') {
                assert_eq!(keys_of(&world, region), whole[region], "{region} {name} {cut}");
            }
            assert_eq!(keys_of(&world, 1 - region), whole[1 - region], "{region} {name} {cut}");
            for identity in [&world.identity, &writer] {
                let report = checked(&world.as_slot(identity), &[0, 1]);
                assert_eq!((report.issues, report.notices), (vec![], vec![]), "{region} {name} {cut}");
            }
        }
    }
}

/// RING-5: a check opens each region by itself, whatever another one holds.
#[test]
fn a_check_names_the_ring_with_which_a_region_does_not_open() {
    let (world, ..) = two_rotations(2);
    // The right roster came without its rings: as programs did that took a name for the object.
    let roster = format!("roster/{}-{}", number_name(3), newest(&world, 1));
    memory(&world, 0).put_new(&roster, &read(&world, 1, &roster).unwrap().into()).unwrap();
    assert!(matches!(world.open(&[0]).map(drop), Err(RepoError::Object { .. })));
    let report = checked(&world, &[0, 1]);
    let own = world.open(&[0, 1]).unwrap().secrets.slot;
    let rings = names(&world, 0, "ring/0000000000000002/");
    for ring in &rings {
        assert!(subjects(&report).contains(&format!("r0:{ring}")), "{:?}", report.issues);
    }
    let issue = report.issues.iter().find(|issue| issue.subject.ends_with(own.to_string().as_bytes())).unwrap();
    assert!(issue.detail.contains("RING-5") && issue.kind == IssueKind::Damaged, "{issue:?}");
    assert_eq!(rings.len(), 2);
    // By the bytes, although the region has the newest roster and every name.
    let levelled = world.open(&[0, 1]).unwrap().level_all_keys(true);
    assert!(levelled.iter().all(|levelled| levelled.as_ref().unwrap().issues.is_empty()));
    assert!(world.open(&[0]).is_ok());
    assert_eq!(checked(&world, &[0, 1]).issues, []);
}

/// A damaged ring gets a whole one's bytes, and where no region has one, that is damage.
#[test]
fn a_damaged_ring_is_told_or_mended() {
    let world = World::new(2);
    let (owner, identity) = world.add_slot(Role::Owner, "second");
    let ring = format!("ring/{}/{owner}", number_name(1));
    let damage = |region| {
        let mut bytes = read(&world, region, &ring).unwrap();
        bytes[100] ^= 1;
        memory(&world, region).heal(&ring, &bytes.into()).unwrap();
    };
    damage(0);
    assert_eq!(subjects(&checked(&world, &[0, 1])), [format!("r0:{ring}")]);
    assert_eq!(level(&world).issues, []);
    assert!(world.as_slot(&identity).open(&[0]).is_ok());
    assert_eq!(checked(&world, &[0, 1]).issues, []);
    damage(0);
    damage(1);
    let done = level(&world);
    assert!(done.is_damaged(), "{:?}", done.issues);
    let named: BTreeSet<Vec<u8>> = done.issues.into_iter().map(|issue| issue.subject).collect();
    assert_eq!(named, BTreeSet::from([format!("r0:{ring}").into_bytes(), format!("r1:{ring}").into_bytes()]));
}

/// One region's unreadable ring is that region's fault.
#[test]
fn a_ring_that_one_region_cannot_read_does_not_stop_the_others() {
    for loses in [false, true] {
        let world = World::new(3);
        let (owner, identity) = world.add_slot(Role::Owner, "second");
        let ring = format!("ring/{}/{owner}", number_name(1));
        if loses {
            memory(&world, 0).delete(&ring).unwrap();
        }
        world.stores[1].inject(Trigger::on(Operation::Get).under(&ring), Fault::Fail(StoreErrorKind::Unavailable));
        let done = level(&world);
        let named: BTreeSet<Vec<u8>> = done.issues.iter().map(|issue| issue.subject.clone()).collect();
        assert_eq!(named, BTreeSet::from([format!("r1:{ring}").into_bytes(), b"r1:roster/".to_vec()]));
        assert_eq!(done.issues.len(), 2, "each once: {:?}", done.issues);
        assert!(world.as_slot(&identity).open(&[0]).is_ok());
    }
}

/// ROSTER-12: an old roster that nobody has whole counts as one that is gone. It hides no fork, and doesn't keep the
/// repository shut.
#[test]
fn a_damaged_roster_on_the_way_is_as_one_that_is_gone() {
    for gone in [false, true] {
        let world = World::new(2);
        for _ in 0..3 {
            with_one(&world, 0, |one| drop(add(one, Role::Writer)));
        }
        let third = names(&world, 0, "roster/").into_iter().nth(2).unwrap();
        assert!(!is_fork(&world));
        let bytes = read(&world, 0, &third).unwrap();
        memory(&world, 0).delete(&third).unwrap();
        if !gone {
            memory(&world, 0).put_new(&third, &bytes[..bytes.len() - 1].to_vec().into()).unwrap();
        }
        // The way from the newest to the other region's newest is cut.
        assert!(is_fork(&world));
        let mut merging = to_merge(&world, None).unwrap();
        let told: Vec<_> = merging.key_issues.iter().map(|issue| String::from_utf8_lossy(&issue.subject)).collect();
        assert_eq!(told, if gone { vec![] } else { vec![format!("r0:{third}")] });
        merging.merge_rosters().unwrap();
        let repository = world.open(&[0, 1]).unwrap();
        assert_eq!((repository.roster.number, repository.roster.slots.len()), (5, 4));
        let damaged = repository.damaged_rosters().unwrap();
        assert_eq!(damaged.len(), usize::from(!gone), "{damaged:?}");
        assert_eq!(subjects(&checked(&world, &[0, 1])), damaged.iter().map(subject).collect::<Vec<_>>());
    }
}

fn subject(issue: &Issue) -> String {
    String::from_utf8_lossy(&issue.subject).into_owned()
}

/// ROSTER-12: a revocation in one region and two other changes in another are a fork, though the numbers differ, and
/// the merge undoes no revocation.
#[test]
fn rosters_of_different_numbers_that_diverged_are_refused() {
    let (world, source) = (World::new(2), source());
    let (stolen, thief) = world.add_slot(Role::Writer, "stolen");
    world.as_slot(&thief).backup(&[0, 1], source.path(), 0).unwrap();
    with_one(&world, 0, |one| drop(one.revoke_slot(stolen, &Acceptance::default(), &Silent).unwrap()));
    let mut added = Vec::new();
    with_one(&world, 1, |two| added = vec![add(two, Role::Writer), add(two, Role::Writer)]);
    assert!(is_fork(&world));
    // The lower one can be taken as it is, and is then above both.
    let lower = world.fork();
    to_merge(&lower, Some(&newest(&lower, 0))).unwrap().merge_rosters().unwrap();
    for region in 0..2 {
        let roster = lower.open(&[region]).unwrap().roster;
        assert_eq!((roster.number, roster.slots.len()), (5, 2));
    }
    assert!(!is_fork(&lower));
    for who in [&world.identity, &thief] {
        assert!(matches!(world.as_slot(who).open(&[0, 1]).map(drop), Err(RepoError::TwoRosters { number: 4, .. })));
    }
    to_merge(&world, None).unwrap().merge_rosters().unwrap();
    for which in [&[0][..], &[1], &[0, 1]] {
        let repository = world.open(which).unwrap();
        assert_eq!((repository.roster.number, repository.roster.previous.len()), (5, 2));
        assert_eq!(repository.roster.slot(stolen).unwrap().state, SlotState::Revoked);
        assert!(world.as_slot(&thief).open(which).is_err());
        added.iter().for_each(|added| drop(world.as_slot(added).open(which).unwrap()));
    }
    assert_eq!(level(&world).issues, []);
    assert_eq!((world.ids(&[0]).len(), world.ids(&[1]).len()), (1, 1));
    let report = checked(&world, &[0, 1]);
    assert_eq!((report.issues, report.differences), (vec![], vec![]));
    // What follows from both is no fork, also where a region has only one of them behind it.
    world.open(&[0, 1]).unwrap().rotate(false).unwrap();
    assert!(!is_fork(&world));
}

/// ROSTER-12: a region that is behind is no fork, however far, and whether rosters say what they follow or not.
#[test]
fn a_roster_that_the_newest_follows_from_is_behind_only() {
    let mut old = World::new(2);
    for _ in 0..3 {
        with_one(&old, 0, |one| drop(add(one, Role::Writer)));
    }
    assert!(!is_fork(&old));
    assert_eq!(level(&old).issues, []);
    assert_eq!(keys_of(&old, 0), keys_of(&old, 1), "the way to the newest came, too");
    old = World::new(2);
    // As programs wrote them that didn't know the field.
    let repository = old.open(&[0]).unwrap();
    let root = Signer { slot: SlotId::default(), private: repository.secrets.root_private.as_ref().unwrap() };
    for (number, regions) in [(2, vec![0, 1]), (3, vec![0]), (4, vec![0])] {
        let roster = Roster { number, ..repository.roster.clone() };
        assert!(roster.previous.is_empty());
        let (bytes, digest) = build_signed(ObjectKind::Roster, repository.config.repository, &root, &roster.encode());
        for region in regions {
            let name = format!("roster/{}-{digest}", number_name(number));
            memory(&old, region).put_new(&name, &bytes.clone().into()).unwrap();
        }
    }
    assert!(!is_fork(&old));
    assert_eq!(old.open(&[0, 1]).unwrap().roster.number, 4);
    let before = newest(&old, 0);
    old.open(&[0, 1]).unwrap().rotate(false).unwrap();
    let roster = old.open(&[1]).unwrap().roster;
    assert_eq!((roster.number, roster.previous), (5, vec![Digest::from_hex(&before).unwrap()]));
}

/// ROSTER-5: who has seen a roster takes none that doesn't follow from it.
#[test]
fn a_roster_that_does_not_follow_from_the_one_seen_is_refused() {
    let world = World::new(2);
    with_one(&world, 0, |one| drop(add(one, Role::Writer)));
    let seen = world.open(&[0]).unwrap();
    let (number, digest) = (seen.roster.number, Some(seen.roster_digest));
    for _ in 0..2 {
        with_one(&world, 1, |two| drop(add(two, Role::Writer)));
    }
    let other = Located::open(&world.specs(&[1]), Some(world.pin)).unwrap();
    assert!(other.require_roster(number, None).is_ok(), "the number alone says nothing");
    let refused = other.require_roster(number, digest).unwrap_err();
    assert!(matches!(refused, RepoError::AnotherHistory { .. }) && refused.to_string().contains("ROSTER-5"));
    let first = Digest::from_hex(names(&world, 1, "roster/").first().unwrap().split_once('-').unwrap().1).unwrap();
    assert!(other.require_roster(1, Some(first)).is_ok());
    let own = Located::open(&world.specs(&[0]), Some(world.pin)).unwrap();
    assert!(own.require_roster(number, digest).is_ok());
    let both = Located::open_to_merge(&world.specs(&[0, 1]), Some(world.pin), None).unwrap();
    assert!(both.require_roster(number, digest).is_ok());
    drop(both);
    to_merge(&world, None).unwrap().merge_rosters().unwrap();
    assert!(Located::open(&world.specs(&[1]), Some(world.pin)).unwrap().require_roster(number, digest).is_ok());
}

/// ACCEPT-5: two revocations that accept different things are two rosters, though everything else is the same.
#[test]
fn lists_that_accept_different_things_make_different_rosters() {
    let (world, source) = (World::new(2), source());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let mut saved = Vec::new();
    for number in 0..2 {
        write(source.path(), &format!("file {number}"), &noise(10 + number, 3000));
        saved.push(world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap());
    }
    let except = Acceptance { except: BTreeSet::from([saved[0]]), ..Acceptance::default() };
    with_one(&world, 0, |one| drop(one.revoke_slot(slot, &except, &Silent).unwrap()));
    with_one(&world, 1, |two| drop(two.revoke_slot(slot, &Acceptance::default(), &Silent).unwrap()));
    assert!(is_fork(&world));
    // Under one name each region holds another list.
    let part = format!("roster/accepted/{slot}/{}", number_name(1));
    assert_ne!(read(&world, 0, &part), read(&world, 1, &part));
    for take in [None, Some(newest(&world, 0)), Some(newest(&world, 1))] {
        let world = world.fork();
        to_merge(&world, take.as_deref()).unwrap().merge_rosters().unwrap();
        let both = world.ids(&[0, 1]);
        assert!(both.contains(&saved[1]), "{take:?}");
        // Which commits of the slot count is what that owner saw; the snapshots are brought where none does.
        assert_eq!(level(&world).issues, []);
        for region in 0..2 {
            assert_eq!(world.ids(&[region]), both, "region {region}");
            assert!(checked(&world, &[region]).issues.is_empty());
        }
    }
    // What each saw of what others rest on stays, and of the snapshots those that both accept.
    to_merge(&world, None).unwrap().merge_rosters().unwrap();
    for region in 0..2 {
        assert_eq!(world.ids(&[region]), [saved[1]]);
    }
}

/// ACCEPT-5: a part that isn't the one that the roster states is no part of the list.
#[test]
fn a_part_of_another_list_is_damage() {
    let (world, source) = (World::new(2), source());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    let other = world.fork();
    with_one(&other, 0, |one| {
        drop(one.revoke_slot(slot, &Acceptance { none: true, ..Acceptance::default() }, &Silent).unwrap());
    });
    world.open(&[0, 1]).unwrap().revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
    let part = format!("roster/accepted/{slot}/{}", number_name(1));
    memory(&world, 0).heal(&part, &read(&other, 0, &part).unwrap().into()).unwrap();
    assert_eq!(world.ids(&[0, 1]).len(), 1, "the other region's is right");
    let report = checked(&world, &[0, 1]);
    assert_eq!(subjects(&report), [format!("r0:{part}")]);
    assert!(report.issues[0].detail.contains("ACCEPT-5"), "{:?}", report.issues);
    let levelled = world.open(&[0, 1]).unwrap().level_all_keys(true);
    assert_eq!(levelled[0].as_ref().unwrap().issues.len(), 1);
    let of_other_size = world.open(&[0, 1]).unwrap().level_all_keys(false);
    assert_eq!(of_other_size[0].as_ref().unwrap().issues.len(), 1, "its size gives it away");
    // The remedy that it names.
    world.open(&[0, 1]).unwrap().revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
    assert!(checked(&world, &[0, 1]).issues.is_empty());
    assert_eq!((world.ids(&[0]).len(), world.ids(&[1]).len()), (1, 1));
    // Lists may be large: only whoever looks at everything reads them once more than opening does.
    let repository = world.open(&[0, 1]).unwrap();
    for thorough in [false, true] {
        world.forget_history();
        assert!(repository.level_all_keys(thorough).iter().all(|done| done.as_ref().unwrap().issues.is_empty()));
        let is_read = |call: &Logged| call.operation == Operation::Get && call.name.starts_with("roster/accepted/");
        let reads: Vec<usize> =
            world.stores.iter().map(|store| store.log().iter().filter(|call| is_read(call)).count()).collect();
        assert_eq!(reads, if thorough { [1, 1] } else { [0, 0] });
    }
}

/// RING-8: a merge drops no epoch under which anything is sealed.
#[test]
fn a_merge_does_not_take_away_what_something_is_sealed_under() {
    let (world, source) = (World::new(2), source());
    world.backup(&[0, 1], source.path(), 0).unwrap();
    for region in 0..2 {
        with_one(&world, region, |one| _ = one.rotate(false).unwrap());
    }
    assert!(is_fork(&world));
    let refused = to_merge(&world, None).map(drop).unwrap_err().to_string();
    assert!(refused.contains("different secrets of epoch 2") && refused.contains("--take"), "{refused}");
    let (first, second) = (newest(&world, 0), newest(&world, 1));
    // Nothing is sealed under either: each may go, and every region opens by itself afterwards.
    for take in [&first, &second] {
        let world = world.fork();
        to_merge(&world, Some(take)).unwrap().merge_rosters().unwrap();
        write(source.path(), "new", &noise(5, 20_000));
        let saved = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
        for region in 0..2 {
            world.assert_restores(&[region], saved, source.path(), 0);
            assert!(checked(&world, &[region]).issues.is_empty());
        }
    }
    write(source.path(), "newer", &noise(6, 20_000));
    let saved = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let refused = to_merge(&world, Some(&second)).unwrap().merge_rosters().unwrap_err().to_string();
    assert!(refused.contains("'r0'") && refused.contains("epoch 2"), "{refused}");
    assert!(is_fork(&world), "nothing was changed");
    world.assert_restores(&[0], saved, source.path(), 0);
    to_merge(&world, Some(&first)).unwrap().merge_rosters().unwrap();
    assert_eq!(level(&world).issues, []);
    for region in 0..2 {
        world.assert_restores(&[region], saved, source.path(), 0);
    }
}

/// A change that another one overtook says so: its roster would be hidden by the higher one.
#[test]
fn a_change_that_was_overtaken_is_told() {
    let world = World::new(1);
    let mut slow = world.open(&[0]).unwrap();
    for _ in 0..2 {
        drop(add(&mut world.open(&[0]).unwrap(), Role::Writer));
    }
    let refused = slow.rotate(false).unwrap_err().to_string();
    assert!(refused.contains("changed meanwhile"), "{refused}");
    assert_eq!(world.open(&[0]).unwrap().roster.number, 3);
    assert_eq!(names(&world, 0, "roster/").len(), 3, "none was put that nobody would see");
}

#[test]
fn the_program_tells_of_what_a_region_holds_wrong_of_keys() {
    let program = Program::new();
    program.write("file", b"content");
    let slot = program.add_slot("writer")["slot"].as_str().unwrap().to_owned();
    let source = program.source().display().to_string();
    let ring = format!("ring/{}/{slot}", number_name(1));
    let path = |region: &str| program.path(region).join(&ring);
    let whole = std::fs::read(path("one")).unwrap();
    std::fs::remove_file(path("one")).unwrap();
    let listed = program.run(["key", "list"]).expect(0);
    assert!(listed.stderr.contains(&format!("region 'one' lacks {ring}")), "{}", listed.stderr);
    program.run(["check"]).expect(11);
    program.run(["replicate"]).expect(0);
    assert_eq!(std::fs::read(path("one")).unwrap(), whole);
    assert!(!program.run(["key", "list"]).expect(0).stderr.contains("lacks"));
    let mut damaged = whole;
    damaged[100] ^= 1;
    for region in ["one", "two"] {
        std::fs::remove_file(path(region)).unwrap();
        std::fs::write(path(region), &damaged).unwrap();
    }
    for arguments in [&["backup", &source][..], &["replicate"], &["check"]] {
        let ended = program.run(arguments).expect(11);
        for region in ["one", "two"] {
            assert!(ended.stderr.contains(&format!("{region}:{ring}")), "{arguments:?}: {}", ended.stderr);
        }
    }
    assert_eq!(program.snapshots(&[]).len(), 1, "the owner's backup is saved all the same");
    // A change of keys goes on, and says what it met.
    let (_, recipient) = identity();
    let changed = program.run(["key", "add", "--role", "writer", "--recipient", &recipient]).expect(0);
    for region in ["one", "two"] {
        assert!(changed.stderr.contains(&format!("damaged: {region}:{ring}")), "{}", changed.stderr);
    }
    let rosters = std::fs::read_dir(program.path("two/roster")).unwrap();
    let mut rosters: Vec<_> = rosters.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    rosters.sort();
    assert!(rosters.len() > 2);
    std::fs::remove_file(&rosters[0]).unwrap();
    std::fs::write(&rosters[0], b"not a roster").unwrap();
    let name = rosters[0].file_name().unwrap().to_str().unwrap();
    let listed = program.run(["key", "list"]).expect(11);
    assert!(listed.stderr.contains(&format!("damaged: two:roster/{name}")), "{}", listed.stderr);
}

/// Puts what a process that knew nothing of the others made since `base` into the stores.
fn arrive(world: &World, other: &World) {
    for (at, store) in other.stores.iter().enumerate() {
        let memory = &store.inner().memory;
        for listed in list_sorted(memory, "").unwrap() {
            let bytes = memory.get(&listed.name, 1 << 30).unwrap();
            let _ = world.stores[at].inner().memory.put_new(&listed.name, &bytes.into());
        }
    }
}

fn states(world: &World) -> Vec<(String, SlotState)> {
    let roster = world.open(&world.all()).unwrap().roster;
    roster.slots.into_iter().map(|slot| (slot.label, slot.state)).collect()
}

fn add_named(world: &World, name: &str) -> Result<SlotId, RepoError> {
    let mut repository = world.open(&world.all())?;
    repository.add_slot(Role::Writer, name, &Wrapping::Recipient(identity().1))
}

/// ROSTER-13: what was put beside a roster that another one follows already is a fork, and a merge takes it in: here the
/// revocation that a third change, made at the same time, would undo.
#[test]
fn a_change_beside_one_that_was_followed_is_a_fork() {
    let world = World::new(2);
    let (stolen, _) = world.add_slot(Role::Writer, "stolen");
    let beside = world.fork();
    beside.open(&[0, 1]).unwrap().revoke_slot(stolen, &Acceptance::default(), &Silent).unwrap();
    add_named(&world, "first").unwrap();
    add_named(&world, "second").unwrap();
    assert!(!is_fork(&world));
    arrive(&world, &beside);
    assert!(is_fork(&world), "two numbers later");
    let mut repository = to_merge(&world, None).unwrap();
    repository.merge_rosters().unwrap();
    let merged = states(&world);
    for (label, state) in [("stolen", SlotState::Revoked), ("first", SlotState::Active), ("second", SlotState::Active)]
    {
        assert!(merged.contains(&(label.to_owned(), state)), "{merged:?}");
    }
    // What was merged stays so, whatever follows.
    for name in ["third", "fourth"] {
        add_named(&world, name).unwrap();
        assert!(!is_fork(&world));
    }
    // What root didn't sign is no roster, and keeps nobody out.
    for store in &world.stores {
        let name = format!("roster/{:016x}-{}", 3, "ab".repeat(32));
        store.inner().memory.put_new(&name, &b"no roster".to_vec().into()).unwrap();
    }
    assert!(!is_fork(&world));
    add_named(&world, "fifth").unwrap();
}

/// ROSTER-13: of changes made at the same time each that reported success is in the roster, at the latest after a merge.
#[test]
fn no_change_made_at_the_same_time_is_lost() {
    let base = World::new(2);
    let calls = {
        let world = base.fork();
        world.calls_of(|| {
            add_named(&world, "counted").unwrap();
        })
    };
    let (mut forks, mut refused) = (0, 0);
    for call in 1..=calls {
        let world = base.fork();
        world.visit_at(call, |other| {
            ["first", "second"].iter().for_each(|name| {
                add_named(other, name).unwrap();
            })
        });
        let mut expected = vec!["first", "second"];
        match add_named(&world, "beside") {
            Ok(_) => expected.push("beside"),
            Err(RepoError::Keys(_)) => refused += 1,
            Err(error) => panic!("{error} at call {call} of {calls}"),
        }
        if is_fork(&world) {
            forks += 1;
            to_merge(&world, None).unwrap().merge_rosters().unwrap();
        }
        let found = states(&world);
        for name in expected {
            assert!(found.iter().any(|(label, _)| label == name), "{name} at call {call} of {calls}: {found:?}");
        }
    }
    assert!(forks > 0 && refused > 0, "{forks} forks, {refused} refused");
    // Who opened the repository before what is beside its roster came doesn't hide it.
    let (world, beside) = (base.fork(), base.fork());
    add_named(&world, "first").unwrap();
    let mut late = world.open(&[0, 1]).unwrap();
    add_named(&beside, "beside").unwrap();
    arrive(&world, &beside);
    let refused = late.add_slot(Role::Writer, "second", &Wrapping::Recipient(identity().1)).unwrap_err();
    assert!(refused.to_string().contains("keys were changed meanwhile"), "{refused}");
}

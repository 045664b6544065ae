//! Changes of keys and regions that die at any of their calls: every slot that should opens the repository, in each
//! region, with the old keys or the new ones; nothing counted is lost; the same command again, or what runs next,
//! completes it; and then the regions agree.

use crate::fixture::{World, identity, noise, write};
use keepstone::check::check;
use keepstone::crypto::slot::{Unlock, Wrapping};
use keepstone::format::audit::Action;
use keepstone::format::ids::{SlotId, SnapshotId};
use keepstone::format::roster::{Role, SlotState};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::unrecorded::unrecorded;
use keepstone::repo::{Located, RegionSpec, RepoError, Repository, audit};
use keepstone::report::{Issue, Silent};
use keepstone::store::{Store, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tempfile::TempDir;

/// Two regions with a snapshot of a writer's and one of the target's, and a slot of each kind.
struct Scene {
    world: World,
    source: TempDir,
    snapshots: Vec<SnapshotId>,
    writer: String,
    /// The slot that a change is about.
    target: (SlotId, String),
    /// Others that open whatever happens.
    others: Vec<String>,
}

impl Scene {
    fn new(target: Role) -> Scene {
        let world = World::new(2);
        let source = tempfile::tempdir().unwrap();
        write(source.path(), "a", &noise(1, 20_000));
        write(source.path(), "b/c", b"small");
        let (_, writer) = world.add_slot(Role::Writer, "writer");
        let target = world.add_slot(target, "target");
        let others = vec![
            world.identity.clone(),
            world.add_slot(Role::Owner, "second").1,
            world.add_slot(Role::Maintainer, "keeper").1,
            writer.clone(),
        ];
        let backup = |identity| world.as_slot(identity).backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
        let snapshots = vec![backup(&writer), backup(&target.1)];
        Scene { world, source, snapshots, writer, target, others }
    }
}

type Run<'a> = &'a dyn Fn(&World) -> Result<(), RepoError>;

/// What a change does, and how it may end.
struct Change<'a> {
    action: Action,
    /// Runs the command, from opening the repository on.
    run: Run<'a>,
    /// What the command says when it had been done already.
    already: &'a str,
    /// Whoever opens before it, after it, or both; of each, one must open at any time.
    openers: Vec<Vec<String>>,
    /// Whoever opens no more at the end.
    shut: Vec<String>,
}

/// Whether all is as it should be; `meanwhile`, what check may tell of a change that isn't complete.
fn is_sound(repository: &Repository, meanwhile: Option<&str>, at: &str) {
    let chains = audit::read(repository).unwrap();
    assert!(!chains.findings.iter().any(|finding| finding.kind.breaks()), "{at}: {:?}", chains.findings);
    assert_eq!(unrecorded(repository, &chains).unwrap(), [], "{at}");
    let report = check(repository, None, &Default::default(), &Silent).unwrap();
    let expected = |issue: &&Issue| meanwhile.is_some_and(|meanwhile| issue.detail.contains(meanwhile));
    assert_eq!(report.issues.iter().filter(|issue| !expected(issue)).collect::<Vec<_>>(), [] as [&Issue; 0], "{at}");
}

fn opens(world: &World, identity: &str, which: &[usize]) -> bool {
    match world.as_slot(identity).open(which) {
        Ok(_) => true,
        Err(RepoError::WrongSecret) => false,
        Err(error) => panic!("{which:?}: {error}"),
    }
}

/// The regions that there are: one that is being added is none before its `config`.
fn regions(world: &World) -> Vec<usize> {
    let made = |at: &usize| world.stores[*at].inner().memory.size("config").unwrap().is_some();
    world.all().into_iter().filter(made).collect()
}

/// Whether two rosters stand against each other in these regions.
fn is_forked(world: &World, which: &[usize]) -> bool {
    matches!(Located::open(&world.specs(which), Some(world.pin)), Err(RepoError::TwoRosters { .. }))
}

fn names(world: &World, at: usize, prefix: &str) -> Vec<String> {
    let listed = list_sorted(&world.stores[at].inner().memory, prefix).unwrap();
    listed.into_iter().map(|listed| listed.name).collect()
}

/// How many objects there are, by region and kind: what a death at a read leaves is what the one before left.
fn left(world: &World) -> BTreeMap<(usize, String), usize> {
    let mut counts = BTreeMap::new();
    for at in world.all() {
        for name in names(world, at, "").into_iter().filter(|name| !name.starts_with("probe/")) {
            let kind = name.split('/').next().unwrap().to_owned();
            *counts.entry((at, kind)).or_default() += 1;
        }
    }
    counts
}

/// Lets the change die before each of its calls; gives how many there were, and how many different states they left.
fn dies_anywhere(scene: &Scene, change: &Change<'_>) -> (u64, usize) {
    let forked_before = is_forked(&scene.world, &regions(&scene.world));
    // Calls of a probe, which races with itself, vary in number: past the last one nothing dies.
    let (mut call, mut whole, mut states) = (0, 0, Vec::new());
    while whole < 3 {
        let at = format!("{}, call {call}", change.action.name());
        let world = scene.world.fork();
        world.die_after(call);
        let died = (change.run)(&world);
        world.live_again();
        whole += u32::from(died.is_ok());
        call += 1;
        let state = left(&world);
        if states.last() == Some(&state) {
            continue;
        }
        states.push(state);
        stands(scene, change, &world, forked_before, &at);
        match (change.run)(&world) {
            Ok(()) => {}
            Err(error) => {
                assert!(!change.already.is_empty() && error.to_string().contains(change.already), "{at}: {error}")
            }
        }
        ends(scene, change, &world, &at);
    }
    (call - 3, states.len())
}

/// After the death.
fn stands(scene: &Scene, change: &Change<'_>, world: &World, forked: bool, at: &str) {
    let made = regions(world);
    let mut ways: Vec<Vec<usize>> = made.iter().map(|region| vec![*region]).collect();
    ways.push(made);
    for which in &ways {
        if forked && is_forked(world, which) {
            continue;
        }
        for openers in &change.openers {
            assert!(openers.iter().any(|identity| opens(world, identity, which)), "{at}: from {which:?}");
        }
        let open = change.openers[0].iter().find(|identity| opens(world, identity, which)).unwrap();
        let owner = world.as_slot(open);
        let meanwhile = (change.action == Action::KeyRewrap).then_some("opens this region still");
        is_sound(&owner.open(which).unwrap(), meanwhile, at);
        // A region that is new holds nothing yet.
        if !owner.list(which).snapshots.is_empty() || which.contains(&0) {
            assert_eq!(owner.ids(which), scene.snapshots, "{at}: {which:?}");
            owner.assert_restores(which, scene.snapshots[0], scene.source.path(), 0);
            owner.assert_restores(which, scene.snapshots[1], scene.source.path(), 0);
        }
    }
}

/// After it was run again: with the next replication the regions agree.
fn ends(scene: &Scene, change: &Change<'_>, world: &World, at: &str) {
    let host = world.as_slot(change.openers[0].last().unwrap());
    let repository = host.open(&[0, 1]).unwrap();
    let counted = host.list(&[0, 1]).snapshots;
    let replicated = keepstone::replicate::replicate(
        &repository,
        &counted,
        keepstone::replicate::Depth::Content,
        None,
        64 << 20,
        &Silent,
    )
    .unwrap();
    assert_eq!(replicated.issues, [], "{at}");
    let last = world.as_slot(&scene.writer).backup(&[0, 1], scene.source.path(), 0).unwrap().snapshot.unwrap();
    let newest: Vec<u64> = (0..2).map(|region| host.open(&[region]).unwrap().roster.number).collect();
    assert_eq!(newest[0], newest[1], "{at}");
    for region in 0..2 {
        for openers in &change.openers {
            let newest = openers.last().unwrap();
            assert!(opens(world, newest, &[region]), "{at}: region {region}");
            openers[..openers.len() - 1].iter().for_each(|old| assert!(!opens(world, old, &[region]), "{at}"));
        }
        change.shut.iter().for_each(|shut| assert!(!opens(world, shut, &[region]), "{at}: region {region}"));
        let owner = world.as_slot(change.openers[0].last().unwrap());
        let repository = owner.open(&[region]).unwrap();
        let roster = &repository.roster;
        for slot in &roster.slots {
            let files = names(world, region, &format!("keys/{}/", slot.slot));
            assert_eq!(files.len(), usize::from(slot.state == SlotState::Active), "{at}: {files:?}");
        }
        let epochs = repository.ring_epochs().unwrap();
        let active = roster.slots.iter().filter(|slot| slot.state == SlotState::Active);
        active.for_each(|slot| assert_eq!(epochs[&slot.slot].len(), roster.epochs.len().max(1), "{at}"));
        let ids: BTreeSet<SnapshotId> = owner.ids(&[region]).into_iter().collect();
        let expected = scene.snapshots.iter().copied().chain([last]).collect();
        assert_eq!(ids, expected, "{at}: region {region}");
        ids.iter().for_each(|id| owner.assert_restores(&[region], *id, scene.source.path(), 0));
    }
    let owner = world.as_slot(change.openers[0].last().unwrap());
    let repository = owner.open(&[0, 1]).unwrap();
    is_sound(&repository, None, at);
    let report = check(&repository, None, &Default::default(), &Silent).unwrap();
    assert!(report.differences.is_empty() && report.pending.is_empty(), "{at}: {:?}", report.differences);
    let chains = audit::read(&repository).unwrap();
    assert!(chains.timeline.iter().any(|recorded| recorded.entry.action == change.action), "{at}: recorded");
}

fn each(identities: &[String]) -> Vec<Vec<String>> {
    identities.iter().map(|identity| vec![identity.clone()]).collect()
}

/// Runs it as the first owner, on both regions.
fn change<'a>(scene: &Scene, action: Action, run: Run<'a>) -> Change<'a> {
    Change { action, run, already: "", openers: each(&scene.others), shut: Vec::new() }
}

fn told(action: &str, (calls, states): (u64, usize), at_least: usize) {
    eprintln!("{action}: died before each of {calls} calls, which left {states} different states");
    assert!(calls > 20 && states >= at_least, "{action}: {calls} calls, {states} states");
}

#[test]
fn whenever_a_slots_addition_dies_it_is_out_or_in() {
    let scene = Scene::new(Role::Writer);
    let run = |world: &World| {
        let wrapping = Wrapping::Recipient(identity().1);
        world.open(&[0, 1])?.add_slot(Role::Writer, "new", &wrapping).map(drop)
    };
    let mut change = change(&scene, Action::KeyAdd, &run);
    change.openers.push(vec![scene.target.1.clone()]);
    told("key add", dies_anywhere(&scene, &change), 9);
}

#[test]
fn whenever_a_slots_removal_dies_it_is_in_or_out() {
    let scene = Scene::new(Role::Owner);
    let run = |world: &World| world.open(&[0, 1])?.remove_slot(scene.target.0).map(drop);
    let change = Change {
        already: "there is no active slot",
        shut: vec![scene.target.1.clone()],
        ..change(&scene, Action::KeyRemove, &run)
    };
    told("key remove", dies_anywhere(&scene, &change), 7);
}

#[test]
fn whenever_a_revocation_dies_the_slot_is_in_or_out() {
    let scene = Scene::new(Role::Writer);
    let run = |world: &World| {
        let mut repository = world.open(&[0, 1])?;
        let (decided, _) = repository.revoke_slot(scene.target.0, &Acceptance::default(), &Silent)?;
        decided.late.unlooked.map_or(Ok(()), |why| Err(RepoError::Keys(why)))
    };
    let mut base = change(&scene, Action::KeyRevoke, &run);
    base.shut = vec![scene.target.1.clone()];
    told("key revoke", dies_anywhere(&scene, &base), 9);
}

#[test]
fn whenever_a_rotation_dies_the_old_epoch_is_in_use_or_the_new() {
    for renew_ids in [false, true] {
        let scene = Scene::new(Role::Writer);
        let run = |world: &World| world.open(&[0, 1])?.rotate(renew_ids).map(drop);
        let mut change = change(&scene, Action::KeyRotate, &run);
        change.openers.push(vec![scene.target.1.clone()]);
        told(if renew_ids { "key rotate --ids" } else { "key rotate" }, dies_anywhere(&scene, &change), 15);
    }
}

/// With the secret that the slot had, or the new one; in the end the new one alone.
#[test]
fn whenever_a_change_of_what_wraps_a_key_dies_the_old_secret_opens_or_the_new() {
    let scene = Scene::new(Role::Owner);
    let (new, recipient) = identity();
    let old = scene.target.1.clone();
    let run = |world: &World| {
        // Whoever runs it again tries the old secret first.
        let repository = world.as_slot(&old).open(&[0, 1]);
        let repository = match repository {
            Err(RepoError::WrongSecret) => world.as_slot(&new).open(&[0, 1]),
            opened => opened,
        };
        repository?.rewrap(&Wrapping::Recipient(recipient.clone())).map(drop)
    };
    let mut change = change(&scene, Action::KeyRewrap, &run);
    change.openers.push(vec![old.clone(), new.clone()]);
    told("key passwd", dies_anywhere(&scene, &change), 7);
}

fn open_to_merge(world: &World) -> Result<Repository, RepoError> {
    let located = Located::open_to_merge(&world.specs(&world.all()), Some(world.pin), None)?;
    let unlock = Unlock::Identities(zeroize::Zeroizing::new(world.identity.clone()));
    located.unlock(&unlock, world.clock.clone(), Arc::clone(&world.random))
}

#[test]
fn whenever_a_merge_dies_the_fork_is_there_or_ended() {
    let scene = Scene::new(Role::Writer);
    let [mut one, mut two, mut three, mut four] = std::array::from_fn(|_| scene.world.open(&[0, 1]).unwrap());
    let added = [identity(), identity()];
    // One each: a second change would find a roster that it doesn't follow, and isn't made.
    one.add_slot(Role::Writer, "new", &Wrapping::Recipient(added[0].1.clone())).unwrap();
    two.revoke_slot(scene.target.0, &Acceptance::default(), &Silent).unwrap();
    three.add_slot(Role::Writer, "new", &Wrapping::Recipient(added[1].1.clone())).unwrap();
    // The merge gives the new slots their rings of this epoch.
    four.rotate(false).unwrap();
    let run = |world: &World| open_to_merge(world)?.merge_rosters();
    let mut change = Change {
        already: "nothing is to be merged",
        shut: vec![scene.target.1.clone()],
        ..change(&scene, Action::RosterMerge, &run)
    };
    change.openers.extend(added.map(|(new, _)| vec![new]));
    told("key merge", dies_anywhere(&scene, &change), 9);
}

#[test]
fn whenever_an_addition_of_a_region_dies_it_is_none_or_whole() {
    let scene = Scene::new(Role::Writer);
    let memory = &scene.world.stores[1].inner().memory;
    names(&scene.world, 1, "").iter().for_each(|name| memory.delete(name).unwrap());
    let spec = |world: &World| -> RegionSpec { world.specs(&[1]).remove(0) };
    let run = |world: &World| world.open(&[0])?.add_region(&spec(world)).map(drop);
    let mut change = Change { already: "already holds a repository", ..change(&scene, Action::RegionAdd, &run) };
    change.openers.push(vec![scene.target.1.clone()]);
    told("region add", dies_anywhere(&scene, &change), 18);
}

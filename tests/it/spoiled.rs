//! Packs that are there in their size and whose bytes changed: they hold up nothing else, and no other copy is taken
//! for them that isn't one.

use crate::fixture::{World, noise, options, write};
use crate::gc::{collect, thorough};
use crate::program::Program;
use keepstone::backup::{Backup, DedupTrust};
use keepstone::check::{self, CheckReport, check};
use keepstone::format::ids::{PackId, SnapshotId};
use keepstone::format::roster::Role;
use keepstone::index::MemoryIndex;
use keepstone::index::segment::segment_name;
use keepstone::pack::reader::pack_name;
use keepstone::replicate::{Copied, DamagedPacks, Depth, Replicated, heal, mend, replicate};
use keepstone::repo::RepoError;
use keepstone::repo::attest;
use keepstone::repo::presence::look;
use keepstone::repo::snapshots::{list, snapshot_name};
use keepstone::repo::sync::{list_packs, list_segments, read_segment, sync};
use keepstone::report::{Issue, IssueKind, Monitor, Phase, Silent};
use keepstone::store::faults::{Fault, Logged, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

fn memory(world: &World, at: usize) -> &MemoryStore {
    &world.stores[at].inner().memory
}

fn packs(world: &World, at: usize) -> Vec<PackId> {
    let listed = list_packs(&world.open(&world.all()).unwrap().regions[at]).unwrap();
    listed.into_iter().map(|(pack, _)| pack).collect()
}

/// Another byte at that share of its length, in hundredths.
fn spoil(world: &World, at: usize, pack: &PackId, hundredths: usize) {
    let name = pack_name(pack);
    let mut bytes = memory(world, at).get(&name, 1 << 30).unwrap();
    let place = bytes.len() * hundredths / 100;
    bytes[place] ^= 0x55;
    memory(world, at).heal(&name, &bytes.into()).unwrap();
}

fn lose_packs_and_segments(world: &World, at: usize) {
    packs(world, at).iter().for_each(|pack| memory(world, at).delete(&pack_name(pack)).unwrap());
    for id in list_segments(&world.open(&world.all()).unwrap().regions[at]).unwrap().into_keys() {
        memory(world, at).delete(&segment_name(&id)).unwrap();
    }
}

fn replicated(world: &World, depth: Depth) -> Replicated {
    let repository = world.open(&world.all()).unwrap();
    let listing = list(&repository).unwrap();
    replicate(&repository, &listing.snapshots, depth, None, 64 << 20, &Silent).unwrap()
}

fn source(seed: u64) -> TempDir {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "file", &noise(seed, 20_000));
    source
}

/// The snapshots that are named as needing this pack.
fn named(issues: &[Issue], pack: &PackId, of: &[SnapshotId]) -> Vec<SnapshotId> {
    let names = |id: &&SnapshotId| {
        let subject = snapshot_name(id).into_bytes();
        let is = |issue: &&Issue| issue.subject.ends_with(&subject) && issue.detail.contains(&pack.to_string());
        issues.iter().filter(is).inspect(|issue| assert_eq!(issue.kind, IssueKind::Damaged)).count() > 0
    };
    of.iter().filter(names).copied().collect()
}

/// Those that count in a region and that it restores by itself.
fn restored(world: &World, at: usize, snapshots: &[(SnapshotId, TempDir)]) -> BTreeSet<SnapshotId> {
    let comes_back = |(id, source): &&(SnapshotId, TempDir)| {
        let to = tempfile::tempdir().unwrap();
        let done = world.restore(&[at], *id, &to.path().join("t"), 0);
        let is_whole = done.is_ok_and(|summary| summary.issues.is_empty());
        let bytes = |root: &std::path::Path| std::fs::read(root.join("file")).ok();
        is_whole && bytes(&to.path().join("t")) == bytes(source.path())
    };
    let here = world.ids(&[at]);
    snapshots.iter().filter(|(id, _)| here.contains(id)).filter(comes_back).map(|(id, _)| *id).collect()
}

/// Whichever pack it is: a region that lost its packs and segments gets back all that doesn't need it, at once.
#[test]
fn heal_3_one_damaged_pack_keeps_nothing_else_from_a_region_that_lost_all() {
    let world = World::new(2);
    let snapshots: Vec<(SnapshotId, TempDir)> = (0..3)
        .map(|seed| {
            let source = source(seed);
            (world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap(), source)
        })
        .collect();
    let ids: Vec<SnapshotId> = snapshots.iter().map(|(id, _)| *id).collect();
    for bad in packs(&world, 0) {
        let world = world.fork();
        lose_packs_and_segments(&world, 1);
        spoil(&world, 0, &bad, 50);
        let done = replicated(&world, Depth::Content);
        let needing = named(&done.issues, &bad, &ids);
        assert_eq!(needing.len(), 1, "they share nothing: {:?}", done.issues);
        assert!(done.is_damaged() && done.whole.is_empty() && done.lost.len() == 2, "{:?}", done.issues);
        let tells = |issue: &&Issue| issue.subject == format!("r0:{}", pack_name(&bad)).into_bytes();
        let told: Vec<&Issue> = done.issues.iter().filter(tells).collect();
        assert_eq!((told.len(), told[0].kind), (1, IssueKind::Damaged), "once, as what it is");
        let whole = restored(&world, 1, &snapshots);
        assert_eq!(whole, ids.iter().filter(|id| !needing.contains(id)).copied().collect());
        assert_eq!(packs(&world, 1).len(), packs(&world, 0).len() - 1);
        // What was brought stays, and isn't brought again.
        let again = replicated(&world, Depth::Content);
        assert_eq!((again.packs, again.segments, again.is_damaged()), (0, 0, true));
        assert_eq!(named(&again.issues, &bad, &ids), needing);
    }
}

/// A further region gets every snapshot that the last one has whole; what others share with them comes once.
#[test]
fn heal_3_one_damaged_pack_keeps_no_other_snapshot_from_a_new_region() {
    for depth in [Depth::Commits, Depth::Content] {
        let world = World::new(2);
        let common = noise(99, 30_000);
        let snapshots: Vec<(SnapshotId, TempDir)> = (0..4)
            .map(|seed| {
                let source = source(seed);
                if seed > 0 {
                    write(source.path(), "shared", &common);
                }
                (world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap(), source)
            })
            .collect();
        let ids: Vec<SnapshotId> = snapshots.iter().map(|(id, _)| *id).collect();
        for bad in packs(&world, 0) {
            let world = world.fork();
            spoil(&world, 0, &bad, 50);
            let done = replicated(&world, depth);
            let needing = named(&done.issues, &bad, &ids);
            assert!([1, 3].contains(&needing.len()) && done.is_damaged(), "{:?}", done.issues);
            assert_eq!(done.commits as usize, ids.len() - needing.len());
            let here: BTreeSet<SnapshotId> = world.ids(&[1]).into_iter().collect();
            assert_eq!(here, ids.iter().filter(|id| !needing.contains(id)).copied().collect());
            assert_eq!(restored(&world, 1, &snapshots[..]), here);
            assert_eq!(done.packs as usize, packs(&world, 1).len(), "each once");
            let again = replicated(&world, depth);
            assert_eq!((again.packs, again.commits, again.is_damaged()), (0, 0, true), "{:?}", again.issues);
            // A backup stores again what was damaged, and what was brought is of use to the others.
            if needing.len() == 3 {
                world.backup(&[0, 1], snapshots[1].1.path(), 0).unwrap();
                replicated(&world, depth);
                assert_eq!(restored(&world, 1, &snapshots[..]).len(), ids.len());
            }
        }
    }
}

/// The same chunks in another pack of the same slot serve as well.
#[test]
fn what_a_damaged_pack_held_comes_from_another_pack() {
    let world = World::new(3);
    let source = source(7);
    let snapshots: Vec<(SnapshotId, TempDir)> =
        [0, 1].map(|at| (world.backup(&[at], source.path(), 0).unwrap().snapshot.unwrap(), self::source(7))).into();
    for (from, depth) in [(0, Depth::Commits), (0, Depth::Content), (1, Depth::Commits), (1, Depth::Content)] {
        for bad in packs(&world, from) {
            let world = world.fork();
            spoil(&world, from, &bad, 50);
            let done = replicated(&world, depth);
            let whole: BTreeSet<SnapshotId> = world.ids(&[2]).into_iter().collect();
            assert_eq!(whole.len(), 2, "{from} {bad}");
            for (id, _) in &snapshots {
                world.assert_restores(&[2], *id, source.path(), 0);
                // The region that holds the damaged one as well, if it was read.
                if depth == Depth::Content && done.is_damaged() {
                    world.assert_restores(&[from], *id, source.path(), 0);
                }
            }
        }
    }
}

/// One pack, damaged in each region elsewhere: no region has it whole, together they do.
#[test]
fn heal_1_a_pack_that_no_region_has_whole_is_put_together() {
    let world = World::new(3);
    let source = source(5);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let whole = memory(&world, 0).fork();
    for places in [&[(0, 50), (1, 97)][..], &[(0, 2), (1, 50)], &[(0, 97), (0, 60), (1, 99), (1, 40)]] {
        let world = world.fork();
        for (at, hundredths) in places {
            packs(&world, 0).iter().for_each(|pack| spoil(&world, *at, pack, *hundredths));
        }
        let done = replicated(&world, Depth::Content);
        assert_eq!((done.commits, done.issues.len()), (1, 0), "{places:?}: {:?}", done.issues);
        assert_eq!(done.healed as usize, 2 * packs(&world, 0).len(), "{places:?}");
        for at in world.all() {
            for pack in packs(&world, at) {
                let bytes = |memory: &MemoryStore| memory.get(&pack_name(&pack), 1 << 30).unwrap();
                assert_eq!(bytes(memory(&world, at)), bytes(&whole), "{places:?}, region {at}");
            }
            world.assert_restores(&[at], id, source.path(), 0);
        }
    }
    // Nor need the frames be opened for it, where little is damaged.
    let (_, keeper) = world.add_slot(Role::Maintainer, "keeper");
    let fork = world.fork();
    packs(&fork, 0).iter().for_each(|pack| [(0, 40), (1, 97)].iter().for_each(|(at, h)| spoil(&fork, *at, pack, *h)));
    let done = replicated(&fork.as_slot(&keeper), Depth::Content);
    assert_eq!((done.commits, done.issues.len()), (1, 0), "{:?}", done.issues);
    fork.assert_restores(&[0], id, source.path(), 0);
    // At the same place in both there is nothing to put together.
    let world = world.fork();
    packs(&world, 0).iter().for_each(|pack| [0, 1].iter().for_each(|at| spoil(&world, *at, pack, 50)));
    let before: Vec<MemoryStore> = [0, 1].map(|at| memory(&world, at).fork()).into();
    let done = replicated(&world, Depth::Content);
    assert!(done.is_damaged() && done.commits == 0 && done.healed == 0);
    for (at, before) in before.iter().enumerate() {
        for pack in packs(&world, at) {
            let bytes = |memory: &MemoryStore| memory.get(&pack_name(&pack), 1 << 30).unwrap();
            assert_eq!(bytes(memory(&world, at)), bytes(before));
        }
    }
}

/// A damaged copy that is met gets the bytes that another region has; where that is denied it is told, with whether it
/// may be removed.
#[test]
fn heal_1_a_damaged_copy_that_is_met_is_put_right() {
    let world = World::new(3);
    let source = source(6);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let names = packs(&world, 0);
    for may_replace in [true, false] {
        let world = world.fork();
        names.iter().for_each(|pack| spoil(&world, 0, pack, 50));
        if !may_replace {
            world.stores[0].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
        }
        let done = replicated(&world, Depth::Content);
        assert_eq!(done.commits, 1);
        world.assert_restores(&[2], id, source.path(), 0);
        match may_replace {
            true => {
                assert_eq!((done.healed as usize, done.issues.len()), (names.len(), 0), "{:?}", done.issues);
                world.assert_restores(&[0], id, source.path(), 0);
            }
            false => {
                assert!(done.is_damaged() && done.healed == 0 && done.issues.len() == names.len());
                let told = |issue: &Issue| issue.detail.contains("read whole in region 'r1'");
                assert!(done.issues.iter().all(told), "{:?}", done.issues);
            }
        }
    }
}

/// What a check that reads hands on is put right, and says what it is where it can't be.
#[test]
fn what_a_check_found_damaged_is_put_right_from_what_regions_have() {
    let world = World::new(2);
    let source = source(8);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    for (places, comes_back) in [(&[(0, 50)][..], true), (&[(0, 50), (1, 97)], true), (&[(0, 50), (1, 50)], false)] {
        let world = world.fork();
        for (at, hundredths) in places {
            packs(&world, *at).iter().for_each(|pack| spoil(&world, *at, pack, *hundredths));
        }
        let repository = world.open(&world.all()).unwrap();
        let options = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
        let report = check(&repository, None, &options, &Silent).unwrap();
        let damaged: DamagedPacks = report
            .damaged_packs
            .iter()
            .map(|pack| (pack.entry.id, (Copied::from_entry(&pack.entry, pack.held.clone()), pack.regions.clone())))
            .collect();
        assert_eq!(damaged.len(), packs(&world, 0).len());
        let mended = mend(&repository, &damaged, &Silent).unwrap();
        let copies = places.len() * damaged.len();
        let whole = check(&repository, None, &options, &Silent).unwrap().is_sound();
        match comes_back {
            true => {
                assert_eq!((mended.healed as usize, mended.issues.len(), whole), (copies, 0, true));
                world.all().iter().for_each(|at| world.assert_restores(&[*at], id, source.path(), 0));
            }
            false => {
                assert_eq!((mended.healed, mended.issues.len(), whole), (0, copies, false));
                assert!(mended.issues.iter().all(|issue| issue.detail.contains("don't remove it")));
            }
        }
    }
}

/// So many hundredths of its length: cut short, or with bytes that it had not.
fn resize(world: &World, at: usize, pack: &PackId, hundredths: usize) {
    let name = pack_name(pack);
    let mut bytes = memory(world, at).get(&name, 1 << 30).unwrap();
    bytes.resize(bytes.len() * hundredths / 100, 0x77);
    memory(world, at).heal(&name, &bytes.into()).unwrap();
}

/// Finds damaged packs by reading, and puts them right; true if nothing stays damaged.
fn check_and_mend(world: &World) -> bool {
    let report = looked_at(world);
    let copied = |pack: check::DamagedPack| (pack.entry.id, (Copied::from_entry(&pack.entry, pack.held), pack.regions));
    let damaged: DamagedPacks = report.damaged_packs.into_iter().map(copied).collect();
    mend(&world.open(&world.all()).unwrap(), &damaged, &Silent).unwrap().issues.is_empty()
}

/// As the program does it: what was lost first, under its own name.
fn heal_and_replicate(world: &World) -> bool {
    let repository = world.open(&world.all()).unwrap();
    let index = MemoryIndex::new();
    sync(&repository, &index, &Silent).unwrap();
    let mut lacking = look(&repository, &index).unwrap();
    heal(&repository, &index, &mut lacking, &Silent).unwrap();
    let done = replicated(world, Depth::Content);
    !done.is_damaged() && done.lost.is_empty()
}

/// HEAL-1: what is cut short or too long is a copy of what it has, by whichever way it is met; and has its size wrong, if
/// nothing else.
#[test]
fn heal_1_copies_of_another_size_help_to_put_a_pack_together() {
    let world = World::new(2);
    let source = source(9);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let names = packs(&world, 0);
    let whole = memory(&world, 0).fork();
    let bytes = |memory: &MemoryStore, pack: &PackId| memory.get(&pack_name(pack), 1 << 30).unwrap();
    // What is spoiled where, and how long it is then, in hundredths.
    type Case<'a> = (&'a [(usize, usize)], &'a [(usize, usize)], bool);
    let cases: [Case; 8] = [
        (&[(1, 10)], &[(0, 90)], true),
        (&[(0, 20), (1, 10)], &[(0, 90)], true),
        (&[(0, 20), (1, 10)], &[(0, 110)], true),
        (&[], &[(0, 10)], true),
        (&[], &[(0, 101)], true),
        // Nowhere in its size.
        (&[(0, 10)], &[(0, 101), (1, 90)], true),
        (&[], &[(0, 110), (1, 0)], true),
        // What the one lacks the other has wrong.
        (&[(1, 60)], &[(0, 50)], false),
    ];
    for (spoiled, resized, comes_back) in cases {
        for way in [check_and_mend, heal_and_replicate] {
            let world = world.fork();
            for pack in &names {
                spoiled.iter().for_each(|(at, hundredths)| spoil(&world, *at, pack, *hundredths));
                resized.iter().for_each(|(at, hundredths)| resize(&world, *at, pack, *hundredths));
            }
            let before: Vec<MemoryStore> = [0, 1].map(|at| memory(&world, at).fork()).into();
            assert_eq!(way(&world), comes_back, "{spoiled:?} {resized:?}");
            for (at, before) in before.iter().enumerate() {
                let expected = if comes_back { &whole } else { before };
                for pack in &names {
                    assert!(bytes(memory(&world, at), pack) == bytes(expected, pack), "{at}: {spoiled:?} {resized:?}");
                }
                if comes_back {
                    world.assert_restores(&[at], id, source.path(), 0);
                }
            }
            assert_eq!(looked_at(&world).is_sound(), comes_back);
        }
    }
}

/// Counts what it is told, and asks to stop after so many looks.
#[derive(Default)]
struct Watcher {
    looks_left: Option<AtomicU64>,
    entries: AtomicU64,
    phases: AtomicU64,
}

impl Monitor for Watcher {
    fn phase(&self, _: Phase, entries: Option<u64>, _: Option<u64>) {
        self.phases.fetch_add(entries.unwrap(), Ordering::SeqCst);
    }

    fn advance(&self, entries: u64, _: u64) {
        self.entries.fetch_add(entries, Ordering::SeqCst);
    }

    fn cancelled(&self) -> bool {
        let looks =
            |left: &AtomicU64| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        self.looks_left.as_ref().is_some_and(|left| looks(left).is_err())
    }
}

/// However many regions hold it damaged, a pack is read and tried once; the run says how far it is, and stops when asked,
/// also within a pack.
#[test]
fn damaged_packs_are_tried_once_for_all_regions_and_stop_when_asked() {
    let world = World::new(3);
    let source = source(18);
    world.backup(&[0, 1, 2], source.path(), 0).unwrap();
    let names = packs(&world, 0);
    for (places, comes_back) in [([30, 45, 60], false), ([40, 60, 80], true)] {
        let world = world.fork();
        for (at, hundredths) in places.iter().enumerate() {
            names.iter().for_each(|pack| spoil(&world, at, pack, *hundredths));
        }
        if !comes_back {
            // And one place that is wrong everywhere.
            world.all().iter().for_each(|at| names.iter().for_each(|pack| spoil(&world, *at, pack, 70)));
        }
        let copied =
            |pack: check::DamagedPack| (pack.entry.id, (Copied::from_entry(&pack.entry, pack.held), pack.regions));
        let damaged: DamagedPacks = looked_at(&world).damaged_packs.into_iter().map(copied).collect();
        assert_eq!(damaged.len(), names.len());
        let repository = world.open(&world.all()).unwrap();
        let mut looks = 0;
        loop {
            let world = world.fork();
            let watcher = Watcher { looks_left: Some(AtomicU64::new(looks)), ..Watcher::default() };
            match mend(&world.open(&world.all()).unwrap(), &damaged, &watcher) {
                Err(RepoError::Cancelled) => looks += 1,
                ended => break assert_eq!(ended.unwrap().healed > 0, comes_back),
            }
            assert!(looks < 10_000);
        }
        assert!(looks > 2 * names.len() as u64, "{looks}");
        world.forget_history();
        let watcher = Watcher::default();
        let mended = mend(&repository, &damaged, &watcher).unwrap();
        assert_eq!((mended.issues.is_empty(), mended.healed > 0), (comes_back, comes_back));
        assert_eq!(watcher.phases.load(Ordering::SeqCst), names.len() as u64);
        assert_eq!(watcher.entries.load(Ordering::SeqCst), names.len() as u64);
        for at in world.all() {
            let log = world.stores[at].log();
            let is_read = |call: &&Logged| call.operation == Operation::Get && call.name.starts_with("packs/");
            assert_eq!(log.iter().filter(is_read).count(), names.len(), "region {at}");
        }
    }
}

/// A listing that states another size than the pack has gets nothing replaced, and keeps nothing from being put together.
#[test]
fn a_false_size_in_a_segment_spoils_no_copy() {
    let world = World::new(2);
    let source = source(10);
    world.backup(&[0, 1], source.path(), 0).unwrap();
    let whole = memory(&world, 0).fork();
    let bytes = |memory: &MemoryStore, pack: &PackId| memory.get(&pack_name(pack), 1 << 30).unwrap();
    let entries = {
        packs(&world, 0)
            .iter()
            .for_each(|pack| [(0, 40), (1, 97)].iter().for_each(|(at, h)| spoil(&world, *at, pack, *h)));
        looked_at(&world).damaged_packs
    };
    for size in [0, 1, 100, 1 << 20, u64::MAX] {
        let world = world.fork();
        let lied = |pack: &check::DamagedPack| {
            let copied = Copied { size, ..Copied::from_entry(&pack.entry, Vec::new()) };
            (pack.entry.id, (copied, pack.regions.clone()))
        };
        let damaged: DamagedPacks = entries.iter().map(lied).collect();
        for _ in 0..2 {
            assert!(mend(&world.open(&world.all()).unwrap(), &damaged, &Silent).unwrap().issues.is_empty(), "{size}");
            for (at, pack) in
                [0, 1].into_iter().flat_map(|at| packs(&world, at).into_iter().map(move |pack| (at, pack)))
            {
                assert!(bytes(memory(&world, at), &pack) == bytes(&whole, &pack), "{size}");
            }
        }
    }
}

/// An owner and a writer who back up the same, each for itself; gives the writer's packs and the owner's.
fn beside_a_writer(source: &TempDir) -> (World, Vec<PackId>, Vec<PackId>) {
    let world = World::new(2);
    let (_, identity) = world.add_slot(Role::Writer, "writer");
    world.as_slot(&identity).backup(&[0, 1], source.path(), 0).unwrap();
    let theirs = packs(&world, 0);
    world.backup(&[0, 1], source.path(), 0).unwrap();
    let own = packs(&world, 0).into_iter().filter(|pack| !theirs.contains(pack)).collect();
    (world, theirs, own)
}

fn looked_at(world: &World) -> CheckReport {
    let options = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
    check(&world.open(&world.all()).unwrap(), None, &options, &Silent).unwrap()
}

fn dead(world: &World, at: usize) -> BTreeSet<PackId> {
    let repository = world.open(&world.all()).unwrap();
    keepstone::repo::gclog::read(&repository, &repository.regions[at]).unwrap().dead.into_iter().collect()
}

/// COLLECT-18, HEAL-2: what a slot lost everywhere isn't made up for by another slot's word, until an owner has looked.
#[test]
fn collect_18_a_lost_pack_is_waited_for_while_only_another_slot_claims_its_chunks() {
    let source = source(11);
    let (world, _, own) = beside_a_writer(&source);
    for segments_too in [false, true] {
        let world = world.fork();
        for at in world.all() {
            own.iter().for_each(|pack| memory(&world, at).delete(&pack_name(pack)).unwrap());
            let repository = world.open(&world.all()).unwrap();
            for id in list_segments(&repository.regions[at]).unwrap().into_keys().filter(|_| segments_too) {
                let listed = read_segment(&repository, &repository.regions[at], id).unwrap().segment;
                if listed.packs.iter().any(|pack| own.contains(&pack.pack)) {
                    memory(&world, at).delete(&segment_name(&id)).unwrap();
                }
            }
        }
        let told = |done: &Replicated| {
            let claims = done.issues.iter().filter(|issue| issue.detail.contains("by the word of other slots")).count();
            (claims, done.whole.len(), done.lost.len(), done.by_word.len())
        };
        for _ in 0..4 {
            // Where no listing is left that says that it stored them itself, who saw it vanish has to say so.
            let expected = if segments_too { (0, 2, 0, 2) } else { (2, 0, 2, 0) };
            assert_eq!(told(&replicated(&world, Depth::Content)), expected);
            // Nor does a collection take the evidence away.
            collect(&world, &thorough());
        }
        assert!(own.iter().all(|pack| !dead(&world, 1).contains(pack)));
        let report = looked_at(&world);
        assert_eq!(report.is_sound(), segments_too, "{:?}", report.issues);
        attest::publish(&world.open(&world.all()).unwrap(), &report.verified).unwrap();
        assert_eq!(told(&replicated(&world, Depth::Content)), (0, 2, 0, 0), "an owner has looked");
        assert!(looked_at(&world).is_sound(), "and nothing needs the lost ones");
        (0..3).for_each(|_| drop(collect(&world, &thorough())));
        assert!(segments_too || own.iter().all(|pack| dead(&world, 1).contains(pack)));
        assert_eq!(told(&replicated(&world, Depth::Content)), (0, 2, 0, 0));
    }
}

/// What is no more than a claim is attested by nobody, however often it is looked at.
#[test]
fn a_false_claim_of_lost_chunks_is_never_taken() {
    let source = source(12);
    let (world, theirs, own) = beside_a_writer(&source);
    for at in world.all() {
        own.iter().for_each(|pack| memory(&world, at).delete(&pack_name(pack)).unwrap());
        theirs.iter().for_each(|pack| spoil(&world, at, pack, 50));
    }
    for _ in 0..3 {
        let report = looked_at(&world);
        assert!(!report.is_sound());
        attest::publish(&world.open(&world.all()).unwrap(), &report.verified).unwrap();
        assert!(replicated(&world, Depth::Content).whole.is_empty());
        collect(&world, &thorough());
    }
    assert!(own.iter().all(|pack| !dead(&world, 0).contains(pack)));
}

/// What a slot relied on while it trusted every slot is no claim: its own listings refer to it.
#[test]
fn what_was_relied_on_where_all_are_trusted_counts_as_held() {
    let world = World::new(3);
    let source = source(13);
    let theirs = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let (_, identity) = world.add_slot(Role::Writer, "writer");
    write(source.path(), "more", &noise(14, 20_000));
    let writer = world.as_slot(&identity);
    let trusting = Backup { trust: DedupTrust::All, ..options(0) };
    let summary = writer.backup_as(&[0, 1], source.path(), &trusting).unwrap();
    assert!(summary.new_bytes < 30_000, "it relies on the owner's: {}", summary.new_bytes);
    let done = replicated(&world, Depth::Content);
    assert_eq!((done.commits, done.issues.len(), done.is_damaged()), (2, 0, false), "{:?}", done.issues);
    assert_eq!(replicated(&world, Depth::Content).whole.len(), 3);
    assert!(world.ids(&[2]).contains(&theirs));
    world.assert_restores(&[2], summary.snapshot.unwrap(), source.path(), 0);
}

/// HEAL-2: a slot that trusts every slot and stores nothing, since another one has backed up the same tree, relied on
/// that by its snapshot's word. All who look agree, and a new region gets it.
#[test]
fn heal_2_two_slots_with_one_tree_and_full_trust_are_sound() {
    for owner_first in [true, false] {
        let world = World::new(3);
        let source = source(15);
        let (_, identity) = world.add_slot(Role::Writer, "writer");
        let trusting = Backup { trust: DedupTrust::All, ..options(0) };
        let (owner, writer) = (world.as_slot(&world.identity), world.as_slot(&identity));
        let (first, second) = if owner_first { (owner, writer) } else { (writer, owner) };
        first.backup_as(&[0, 1], source.path(), &trusting).unwrap();
        let summary = second.backup_as(&[0, 1], source.path(), &trusting).unwrap();
        assert_eq!(summary.new_bytes, 0, "its root is the other's");
        let done = replicated(&world, Depth::Content);
        assert_eq!((done.commits, done.issues.len(), done.is_damaged()), (2, 0, false), "{:?}", done.issues);
        let done = replicated(&world, Depth::Content);
        assert_eq!((done.whole.len(), done.by_word.len(), done.is_damaged()), (3, 3, false));
        // A collection and a check without data say the same, and keep it so.
        assert!(
            check(&world.open(&world.all()).unwrap(), None, &check::Options::default(), &Silent).unwrap().is_sound()
        );
        let before = packs(&world, 0);
        (0..2).for_each(|_| drop(collect(&world, &thorough())));
        assert_eq!(packs(&world, 0), before);
        let report = looked_at(&world);
        assert!(report.is_sound(), "{:?}", report.issues);
        attest::publish(&world.open(&world.all()).unwrap(), &report.verified).unwrap();
        assert!(replicated(&world, Depth::Content).by_word.is_empty(), "an owner has looked");
        world.all().iter().for_each(|at| world.assert_restores(&[*at], summary.snapshot.unwrap(), source.path(), 0));
        // What then is lost in every region is told as lost.
        for at in world.all() {
            packs(&world, at).iter().for_each(|pack| memory(&world, at).delete(&pack_name(pack)).unwrap());
        }
        let done = replicated(&world, Depth::Content);
        assert!(done.whole.is_empty() && done.lost.len() == 3, "{:?}", done.issues);
    }
}

/// HEAL-2: the program, which ends with 0 over two hosts' one tree, and with 11 where it saw the listings vanish of what
/// only another slot's word holds.
#[test]
fn heal_2_another_slots_word_hides_no_listing_that_was_seen_to_vanish() {
    let program = Program::new();
    let trusted = "dedup_trust = \"all\"\n".to_owned();
    let configuration = trusted + &std::fs::read_to_string(program.path("keepstone.toml")).unwrap();
    std::fs::write(program.path("keepstone.toml"), configuration).unwrap();
    program.write("a", &noise(16, 300_000));
    let source = program.source().display().to_string();
    program.add_slot("writer");
    program.run_as("writer", ["--cache-dir", "other", "backup", &source]).expect(0);
    assert_eq!(program.backup(&[])["new_bytes"], 0);
    for _ in 0..2 {
        program.run(["replicate"]).expect(0);
        program.run(["backup", &source]).expect(0);
    }
    program.run(["check"]).expect(0);

    // The owner for itself, and all that it stored gone everywhere.
    let program = Program::new();
    program.write("a", &noise(16, 300_000));
    let source = program.source().display().to_string();
    program.add_slot("writer");
    program.run_as("writer", ["--cache-dir", "other", "backup", &source]).expect(0);
    let theirs = stored(&program);
    program.backup(&[]);
    let own: Vec<_> = stored(&program).into_iter().filter(|path| !theirs.contains(path)).collect();
    own.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    for _ in 0..2 {
        let ended = program.run(["replicate"]).expect(11);
        assert!(ended.stderr.contains("by the word of other slots alone"), "{}", ended.stderr);
    }
    program.run(["check", "--read-data"]).expect(0);
    program.run(["replicate"]).expect(0);
    program.run(["backup", &source]).expect(0);
}

/// Packs and segments of both regions.
fn stored(program: &Program) -> BTreeSet<std::path::PathBuf> {
    let mut found = BTreeSet::new();
    let mut open: Vec<_> = ["one/packs", "one/index", "two/packs", "two/index"].map(|name| program.path(name)).into();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(found.insert(path)),
            }
        }
    }
    found
}

/// Packs that are gone and that nothing needs: one answer of all who look.
#[test]
fn what_is_lost_and_not_needed_is_no_damage_to_check_backup_or_replicate() {
    let program = Program::new();
    (0..3u64).for_each(|at| drop(program.write(&at.to_string(), &noise(at, 200_000))));
    let source = program.source().display().to_string();
    // The same content twice, in packs of other names.
    for region in ["one", "two"] {
        program.run(["--region", region, "backup", &source]).expect(3);
        std::fs::remove_dir_all(program.path("cache")).unwrap();
    }
    program.run(["replicate"]).expect(0);
    program.run(["check"]).expect(0);
    std::fs::remove_dir_all(program.path("two/packs")).unwrap();
    // What only region two had comes under its own name, the rest in the packs of region one.
    program.run(["check"]).expect(11);
    program.run(["replicate"]).expect(0);
    let ended = program.run(["check"]).expect(0);
    assert!(ended.stderr.contains("No snapshot needs them any more"), "{}", ended.stderr);
    program.run(["backup", &source]).expect(0);
    program.run(["replicate"]).expect(0);
    program.run(["check", "--read-data"]).expect(0);
    program.run(["--region", "two", "restore", "latest", "--to", "out", "--verify"]).expect(0);
}

/// The program: a check that reads puts right what it can, and says of the rest that it must stay.
#[test]
fn a_check_that_reads_puts_damaged_packs_right() {
    let program = Program::new();
    program.write("a", &noise(1, 300_000));
    program.backup(&[]);
    let largest = |region: &str| {
        let mut found: Vec<(u64, std::path::PathBuf)> = Vec::new();
        for directory in std::fs::read_dir(program.path(region).join("packs")).unwrap() {
            for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
                let file = file.unwrap();
                found.push((file.metadata().unwrap().len(), file.path()));
            }
        }
        found.into_iter().max().unwrap().1
    };
    let spoil = |region: &str, hundredths: usize| {
        let path = largest(region);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = bytes.len() * hundredths / 100;
        bytes[place] ^= 1;
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        std::fs::set_permissions(&path, permissions).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    spoil("one", 40);
    spoil("two", 98);
    let ended = program.run(["--json", "check", "--read-data"]).expect(11);
    assert_eq!(ended.json()["healed"], 2, "{}", ended.stderr);
    program.run(["check", "--read-data"]).expect(0);
    spoil("one", 40);
    spoil("two", 40);
    let ended = program.run(["check", "--read-data"]).expect(11);
    assert!(ended.stdout.contains("don't remove it"), "{}", ended.stdout);
    program.run(["check", "--read-data"]).expect(11);
}

//! Collections settle: what is taken out of mostly dead packs can be read, is taken out once, and a repository that
//! nobody changes stops changing.

use crate::fixture::{World, noise, options, write};
use crate::gc::{collect, rule, stored_bytes, thorough};
use keepstone::backup::{Backup, DedupTrust, backup_tree};
use keepstone::check::{self, check};
use keepstone::format::ids::SnapshotId;
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::index::MemoryIndex;
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::sync;
use keepstone::report::Silent;
use keepstone::source::{Walk, WalkOptions};
use keepstone::store::list_sorted;
use std::path::Path;
use tempfile::TempDir;

fn stored(world: &World) -> Vec<(String, u64)> {
    let listed = list_sorted(&world.stores[0].inner().memory, "packs/").unwrap();
    listed.into_iter().map(|listed| (listed.name, listed.size)).collect()
}

/// After a few collections further ones change nothing.
fn assert_settles(world: &World) {
    (0..4).for_each(|_| drop(collect(world, &thorough())));
    let settled = stored(world);
    for _ in 0..3 {
        let report = collect(world, &thorough());
        assert_eq!(report.regions[0].repacked_bytes, 0, "{:?}", report.regions[0]);
        assert_eq!(stored(world), settled);
    }
}

fn assert_sound(world: &World, kept: &[(SnapshotId, &Path)]) {
    let read = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
    let report = check(&world.open(&[0]).unwrap(), None, &read, &Silent).unwrap();
    assert!(report.is_sound(), "{:?}", report.issues);
    for (id, source) in kept {
        world.assert_restores(&[0], *id, source, 0);
    }
}

/// Files in one frame, every third of which the second snapshot still has.
fn thin() -> (World, TempDir, SnapshotId) {
    let (world, source) = (World::new(1), tempfile::tempdir().unwrap());
    for at in 0..120 {
        write(source.path(), &at.to_string(), &noise(at, 20_000));
    }
    let first = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    for at in (0..120).filter(|at| at % 3 != 0) {
        std::fs::remove_file(source.path().join(at.to_string())).unwrap();
    }
    let second = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    rule(&world, first, 1, Ruling::Forget);
    (world, source, second)
}

/// COLLECT-17: with new ids, with a new epoch alone, and with one after the other.
#[test]
fn what_is_packed_anew_after_a_rotation_is_found_under_its_id() {
    for rotations in [&[true][..], &[false], &[false, true], &[true, false]] {
        let (world, source, second) = thin();
        let before = stored_bytes(&world);
        for renew_ids in rotations {
            world.open(&[0]).unwrap().rotate(*renew_ids).unwrap();
        }
        assert_settles(&world);
        assert!(stored_bytes(&world) < before / 2, "{rotations:?}: {} of {before} bytes left", stored_bytes(&world));
        assert_sound(&world, &[(second, source.path())]);
        // A backup after it is as good as before, whether it finds its chunks again or not.
        let third = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
        assert_settles(&world);
        assert_sound(&world, &[(second, source.path()), (third, source.path())]);
    }
}

/// Two backups that ran at once stored what their sources share twice: one copy goes, once.
#[test]
fn second_copies_are_taken_out_once() {
    let (world, one, two) = (World::new(1), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for at in 0..150 {
        // Shared and own files take turns, so that no frame is of one sort.
        for (number, source) in [(0, &one), (1, &two)] {
            if at % 2 == 0 || at % 4 == 2 * number + 1 {
                write(source.path(), &at.to_string(), &noise(at, 20_000));
            }
        }
    }
    let repository = world.open(&[0]).unwrap();
    let index = MemoryIndex::new();
    assert!(sync(&repository, &index, &Silent).unwrap().is_empty());
    let first = world.backup(&[0], one.path(), 0).unwrap().snapshot.unwrap();
    let sources = [two.path().to_path_buf()];
    let walk = Walk::new(&sources, WalkOptions::default()).unwrap();
    let listing = list(&repository).unwrap();
    let second = backup_tree(&repository, &index, &options(0), walk, &listing.snapshots, &Silent);
    let second = second.unwrap().snapshot.unwrap();
    let before = stored_bytes(&world);
    assert_settles(&world);
    let shared = 75 * 20_000;
    assert!(stored_bytes(&world) < before - shared * 9 / 10, "{} of {before} bytes left", stored_bytes(&world));
    assert_sound(&world, &[(first, one.path()), (second, two.path())]);
}

/// Who relies on another slot's packs keeps one copy, not every one that collections make of it.
#[test]
fn what_another_slot_relies_on_is_moved_once() {
    let (world, source) = (World::new(1), tempfile::tempdir().unwrap());
    let (_, writer) = world.add_slot(Role::Writer, "writer");
    for at in 0..5 {
        write(source.path(), &format!("large/{at}"), &noise(at, 2 << 20));
    }
    write(source.path(), "small", &noise(9, 1 << 20));
    let first = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    std::fs::remove_dir_all(source.path().join("large")).unwrap();
    let trusting = Backup { trust: DedupTrust::All, ..options(0) };
    let summary = world.as_slot(&writer).backup_as(&[0], source.path(), &trusting).unwrap();
    assert!(summary.new_bytes < 100_000, "it relies on the owner's packs");
    rule(&world, first, 1, Ruling::Forget);
    assert_settles(&world);
    assert!(stored_bytes(&world) < 3 << 20, "{} bytes left", stored_bytes(&world));
    assert_sound(&world, &[(summary.snapshot.unwrap(), source.path())]);
}

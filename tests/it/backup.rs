//! Backup and restore of whole trees through the library: what comes back is what went in, and what
//! is stored again is little.

use crate::fixture::{World, assert_same, noise, options, quick_target, write};
use keepstone::format::config::Suite;
use keepstone::restore::Restore;
use keepstone::restore::target::{Overwrite, TargetOptions};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, mkdirat, mknodat, openat};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// One of everything that a backup promises to keep.
fn everything(root: &Path) {
    write(root, "plain", b"some text\n");
    write(root, "empty", b"");
    write(root, "large", &noise(1, 3_000_000));
    write(root, "repeats", &noise(2, 64 << 10).repeat(20));
    write(root, "zeros", &vec![0; 1 << 20]);
    std::fs::create_dir_all(root.join("nothing/in/here")).unwrap();

    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&noise(3, 100_000), 8 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    std::fs::File::create(root.join("one hole")).unwrap().set_len(1 << 20).unwrap();
    // Enough extents for a list instead of inline records.
    let holes = std::fs::File::create(root.join("many holes")).unwrap();
    for at in 0..40u64 {
        holes.write_all_at(&noise(at, 5000), at * (1 << 16)).unwrap();
    }

    for (name, target) in [("link", "plain"), ("dangling", "no/such/thing"), ("absolute", "/etc/passwd")] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(&[b'\xff'; 1000]), root.join("long link")).unwrap();
    write(root, "b/first", b"several names");
    std::fs::hard_link(root.join("b/first"), root.join("b/second")).unwrap();
    std::fs::hard_link(root.join("b/first"), root.join("a third")).unwrap();
    write(root, "e1", b"");
    std::fs::hard_link(root.join("e1"), root.join("e2")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();

    for name in [&[0xff, 0xfe, b'x'][..], &[0xe9; 255], b"new\nline", b" ", b"-rf", b"\\", &[1], b"root"] {
        std::fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for (mode, name) in [(0o4755, "setuid"), (0o2750, "setgid"), (0o000, "closed"), (0o777, "open")] {
        let path = write(root, name, name.as_bytes());
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::create_dir(root.join("sticky")).unwrap();
    std::fs::set_permissions(root.join("sticky"), PermissionsExt::from_mode(0o1777)).unwrap();
    write(root, "readonly/child", b"in a directory without write permission");
    std::fs::set_permissions(root.join("readonly"), PermissionsExt::from_mode(0o555)).unwrap();

    for (name, key, value) in [
        ("plain", "user.comment", &b"\0\xffbinary"[..]),
        ("plain", "user.empty", b""),
        ("plain", "user.long", &[7; 2000]),
        ("nothing", "user.directory", b"too"),
    ] {
        // A file system without attributes still has everything else to test.
        let _ = rustix::fs::setxattr(root.join(name), key, value, XattrFlags::empty());
    }
    if rustix::process::geteuid().is_root() {
        mknodat(CWD, root.join("char"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0x0103).unwrap();
        mknodat(CWD, root.join("block"), FileType::BlockDevice, Mode::from_raw_mode(0o660), 0x0700).unwrap();
        for (name, uid, gid) in [("plain", 4_000_000_000, 12_345), ("b/first", 1, 2), ("link", 3, 4), ("sticky", 5, 6)]
        {
            std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
        }
    }
    for (name, seconds, nanoseconds) in [
        ("plain", 1, 999_999_999),
        ("empty", -5, 1),
        ("link", 4_000_000_000, 123_456_789),
        ("b", 77, 7),
        ("fifo", 0, 0),
    ] {
        touch(&root.join(name), seconds, nanoseconds);
    }
    touch(root, 1_234_567_890, 42);
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn round_trip(suite: Suite, threads: usize) {
    let source = tempfile::tempdir().unwrap();
    everything(source.path());
    let world = World::with(2, suite);
    let summary = world.backup(&[0, 1], source.path(), threads).unwrap();
    assert_eq!(summary.issues, []);
    assert!(!summary.partial() && !summary.pending() && !summary.unchanged);
    let id = summary.snapshot.unwrap();
    for which in [&[0, 1][..], &[0], &[1]] {
        assert_eq!(world.ids(which), [id]);
        world.assert_restores(which, id, source.path(), threads);
    }
}

#[test]
fn everything_comes_back_on_one_thread() {
    round_trip(Suite::ChaCha20Poly1305, 0);
}

#[test]
fn everything_comes_back_on_several_threads() {
    round_trip(Suite::Aes256Gcm, 3);
}

#[test]
fn a_path_of_four_thousand_bytes_comes_back() {
    let source = tempfile::tempdir().unwrap();
    let mut directory = rustix::fs::open(source.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for depth in 0..20u8 {
        let name = [b'a' + depth; 200];
        mkdirat(&directory, &name[..], Mode::from_raw_mode(0o755)).unwrap();
        directory = openat(&directory, &name[..], OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let file = openat(&directory, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"down here").unwrap();
    drop((file, directory));
    let world = World::new(1);
    let summary = world.backup(&[0], source.path(), 3).unwrap();
    assert_eq!(summary.counts.files, 1);
    world.assert_restores(&[0], summary.snapshot.unwrap(), source.path(), 3);
}

#[test]
fn an_unchanged_tree_stores_nothing_and_a_changed_file_little() {
    for threads in [0, 3] {
        let source = tempfile::tempdir().unwrap();
        for at in 0..300 {
            write(source.path(), &format!("{}/{at}", at % 7), &noise(at, 10_000));
        }
        write(source.path(), "big", &noise(1000, 4 << 20));
        let world = World::new(2);
        let first = world.backup(&[0, 1], source.path(), threads).unwrap();
        assert!(first.stored_bytes > 7_000_000 && first.new_bytes > 7_000_000);
        let second = world.backup(&[0, 1], source.path(), threads).unwrap();
        assert_eq!((second.new_chunks, second.new_bytes, second.stored_bytes), (0, 0, 0), "{threads} threads");
        assert_ne!(first.snapshot, second.snapshot);

        let big = std::fs::OpenOptions::new().write(true).open(source.path().join("big")).unwrap();
        big.write_all_at(b"changed", 2_000_000).unwrap();
        let third = world.backup(&[0, 1], source.path(), threads).unwrap();
        assert!(third.new_bytes > 0 && third.new_bytes < 300_000, "{} bytes are new", third.new_bytes);
        assert_eq!(world.ids(&[0]).len(), 3);
        world.assert_restores(&[1], third.snapshot.unwrap(), source.path(), threads);
    }
}

#[test]
fn the_same_content_is_stored_once_however_many_threads_race() {
    let source = tempfile::tempdir().unwrap();
    for at in 0..64 {
        write(source.path(), &format!("copy {at}"), &noise(5, 1 << 20));
    }
    let world = World::new(1);
    let summary = world.backup(&[0], source.path(), 4).unwrap();
    assert!(summary.new_bytes < 1_200_000, "{} bytes are new", summary.new_bytes);
    world.assert_restores(&[0], summary.snapshot.unwrap(), source.path(), 4);
}

#[test]
fn a_directory_of_many_entries_changes_little_by_one_more() {
    let source = tempfile::tempdir().unwrap();
    for at in 0..20_000 {
        write(source.path(), &format!("d/entry-{at:05}"), b"");
    }
    let world = World::new(1);
    let first = world.backup(&[0], source.path(), 2).unwrap();
    assert_eq!(first.counts.files, 20_000);
    write(source.path(), "d/entry-10000x", b"");
    let second = world.backup(&[0], source.path(), 2).unwrap();
    assert!(second.new_bytes < 300_000, "{} bytes are new for one entry", second.new_bytes);
    world.assert_restores(&[0], second.snapshot.unwrap(), source.path(), 2);
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    for threads in [0, 3] {
        let source = tempfile::tempdir().unwrap();
        everything(source.path());
        let world = World::new(2);
        let mut wanted = options(threads);
        wanted.dry_run = true;
        let dry = world.backup_as(&[0, 1], source.path(), &wanted).unwrap();
        for store in &world.stores {
            assert_eq!(store.written(), Vec::<String>::new());
        }
        let real = world.backup(&[0, 1], source.path(), threads).unwrap();
        assert_eq!((dry.counts, dry.new_bytes, dry.new_chunks), (real.counts, real.new_bytes, real.new_chunks));
        assert_eq!(dry.snapshot, None);
    }
}

#[test]
fn an_unchanged_tree_can_be_skipped_and_a_partial_one_is_not() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", b"a");
    let world = World::new(1);
    let mut wanted = options(0);
    wanted.skip_if_unchanged = true;
    assert!(world.backup_as(&[0], source.path(), &wanted).unwrap().snapshot.is_some());
    let skipped = world.backup_as(&[0], source.path(), &wanted).unwrap();
    assert!(skipped.unchanged && skipped.snapshot.is_none());
    // Another dataset has no earlier snapshot to be the same as.
    wanted.dataset = "other".into();
    assert!(world.backup_as(&[0], source.path(), &wanted).unwrap().snapshot.is_some());
    // Only the directory's time differs.
    wanted.dataset = "default".into();
    touch(source.path(), 99, 0);
    assert!(world.backup_as(&[0], source.path(), &wanted).unwrap().snapshot.is_some());
}

#[test]
fn a_restore_twice_into_the_same_target_changes_nothing() {
    let source = tempfile::tempdir().unwrap();
    everything(source.path());
    let world = World::new(1);
    let id = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let target = tempfile::tempdir().unwrap();
    let first = world.restore(&[0], id, target.path(), 0).unwrap();
    let second = world.restore(&[0], id, target.path(), 0).unwrap();
    assert_eq!((first.issues, second.issues), (vec![], vec![]));
    assert_eq!((second.files, second.bytes), (0, 0));
    assert_same(source.path(), target.path());
}

/// Its frames go to whichever worker has nothing to do, until the last one is sealed.
#[test]
fn the_frames_of_one_large_file_are_shared_among_workers() {
    let source = tempfile::tempdir().expect("a directory");
    let mut content = noise(9, 12 << 20);
    content.extend_from_slice(&b"what compresses takes longest, ".repeat(400_000));
    content.extend_from_slice(&noise(10, 5 << 20));
    write(source.path(), "large", &content);
    for threads in [1, 2, 5] {
        let world = World::new(1);
        let summary = world.backup(&[0], source.path(), threads).expect("backed up");
        assert_eq!((summary.counts.bytes, summary.counts.issues), (content.len() as u64, 0));
        world.assert_restores(&[0], summary.snapshot.expect("saved"), source.path(), 1);
    }
}

/// Whichever windows the chunks of a file fall into, and whether it is put together in memory or in pieces.
#[test]
fn files_of_several_chunks_are_restored_in_windows_of_any_size() {
    let source = tempfile::tempdir().unwrap();
    for at in 0..12 {
        write(source.path(), &format!("{at:02}"), &noise(at, (20 + 90 * at as usize) << 10));
    }
    // The same chunks wait in several files at once.
    for copy in ["same/a", "same/b", "same/c"] {
        write(source.path(), copy, &noise(99, 900 << 10));
    }
    let mut twice = noise(5, 300 << 10);
    twice.extend_from_within(..);
    write(source.path(), "twice", &twice);
    let sparse = File::create(source.path().join("sparse")).unwrap();
    for at in 0..12 {
        sparse.write_all_at(&noise(100 + at, 30 << 10), at << 18).unwrap();
    }
    sparse.set_len(1 << 20).unwrap();
    drop(sparse);
    let world = World::new(1);
    let id = world.backup(&[0], source.path(), 2).unwrap().snapshot.unwrap();
    // So that chunks of one file lie in frames of two snapshots.
    for at in 0..12 {
        let path = source.path().join(format!("{at:02}"));
        File::options().write(true).open(path).unwrap().write_all_at(b"changed", 10 << 10).unwrap();
    }
    let second = world.backup(&[0], source.path(), 2).unwrap().snapshot.unwrap();
    assert_ne!(id, second);
    for threads in [0, 2] {
        for memory_bytes in [0, 256 << 10, 64 << 20] {
            let target = tempfile::tempdir().unwrap();
            let wanted = Restore { threads, memory_bytes, verify: true, ..Restore::default() };
            let how = TargetOptions { numeric_ids: true, ..quick_target() };
            let summary = world.restore_as(&[0], second, target.path(), &wanted, how).unwrap();
            assert_eq!(summary.issues, [], "{threads} threads, {memory_bytes} bytes");
            assert_same(source.path(), target.path());
            let blocks = |root: &Path| std::fs::metadata(root.join("sparse")).unwrap().blocks();
            assert!(blocks(target.path()) <= blocks(source.path()), "its holes are kept");
        }
    }
}

/// TREE-8: symbolic links, fifos and devices with several names are one entry with these names, also where some of them
/// are there already, and across directories.
#[test]
fn special_entries_keep_their_names_together() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    std::fs::create_dir_all(root.join("below")).unwrap();
    symlink("nowhere", root.join("a link")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let mut all = vec!["a link", "fifo"];
    let null = rustix::fs::makedev(1, 3);
    if mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), null).is_ok() {
        all.push("null");
    }
    for name in &all {
        // `hard_link` follows no link.
        std::fs::hard_link(root.join(name), root.join(format!("z {name}"))).unwrap();
        std::fs::hard_link(root.join(name), root.join("below").join(name)).unwrap();
    }
    let world = World::new(1);
    let id = world.backup(&[0], root, 2).unwrap().snapshot.unwrap();
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("t");
    let restored = |overwrite| {
        let options = Restore { threads: 2, ..Restore::default() };
        let how = TargetOptions { numeric_ids: true, overwrite, ..quick_target() };
        let summary = world.restore_as(&[0], id, &target, &options, how).unwrap();
        assert_eq!(summary.issues, []);
        (summary.others, summary.links)
    };
    let count = all.len() as u64;
    assert_eq!(restored(Overwrite::IfDifferent), (count, 2 * count));
    assert_same(root, &target);
    assert_eq!(restored(Overwrite::IfDifferent), (0, 0));
    assert_same(root, &target);
    // One of its own in the place of a further name, and of the first one.
    for name in ["z fifo", "below/fifo", "fifo"] {
        std::fs::remove_file(target.join(name)).unwrap();
        mknodat(CWD, target.join(name), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        restored(Overwrite::IfDifferent);
        assert_same(root, &target);
    }
    // What an interrupted restore didn't come to: names that follow one that is kept.
    let (since, below) = (std::fs::metadata(root).unwrap(), std::fs::metadata(root.join("below")).unwrap());
    for name in ["z a link", "below/a link", "fifo", "z fifo"] {
        std::fs::remove_file(target.join(name)).unwrap();
        restored(Overwrite::Never);
        for (directory, at) in [("", &since), ("below", &below)] {
            File::open(target.join(directory)).unwrap().set_modified(at.modified().unwrap()).unwrap();
        }
        assert_same(root, &target);
    }
    assert_eq!(restored(Overwrite::Always), (count, 2 * count));
    assert_same(root, &target);
}

//! Nothing leads out of a target, and nothing half-written stays in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Mounted, Outside, clean, directory_node, file_node, kind_of, names_in, node, open, options, symlink_node};
use crate::format::node::{Node, NodeKind};
use crate::limits::TREE_DEPTH_MAX;
use crate::restore::target::beneath::Opener;
use crate::restore::target::directory::OpenDirectories;
use crate::restore::target::{Decision, Overwrite, Room, Target, TargetError, TargetErrorKind, TargetOptions};

#[test]
fn names_of_any_bytes_but_never_a_path() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(&scratch.path().join("target"));
    let longest: Vec<u8> = (1..=255u8).map(|byte| if byte == b'/' { b'_' } else { byte }).collect();
    clean(target.write_small_file(&target.root(), &file_node(&longest, 1), b"x"));
    let fresh = target.enter_directory(&target.root(), &directory_node(b"fresh\n")).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b", &[b'x'; 256]] {
        let file = file_node(name, 1);
        for parent in [target.root(), fresh.clone()] {
            assert_eq!(kind_of(target.write_small_file(&parent, &file, b"x")), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.create_file(&parent, &file, Room::Dense)), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.enter_directory(&parent, &directory_node(name))), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.write_special(&parent, &symlink_node(name, b"x"))), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.decide(&parent, &file)), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.fix_metadata(&parent, &file)), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.link(&parent, &file)), TargetErrorKind::Invalid);
            assert_eq!(kind_of(target.open_existing(&parent, name)), TargetErrorKind::Invalid);
        }
    }
    assert_eq!(names_in(scratch.path()), ["target"]);
    assert_eq!(names_in(&scratch.path().join("target")).len(), 2);
    let error = target.write_small_file(&fresh, &file_node(b"..", 1), b"x").unwrap_err();
    assert!(error.to_string().contains("fresh\\n"), "{error}");
    assert_eq!(error.issue().subject, fresh.path());
}

#[test]
fn paths_longer_than_the_system_takes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut target = open(scratch.path());
    // Few enough that most directories are closed and opened again.
    target.open_directories = OpenDirectories::new(3);
    let mut chain = vec![target.root()];
    let name = vec![b'd'; 255];
    for _ in 0..40 {
        let inner = target.enter_directory(chain.last().unwrap(), &directory_node(&name)).unwrap();
        chain.push(inner);
    }
    let deepest = chain.last().unwrap();
    assert!(deepest.path().len() > 10_000);
    clean(target.write_small_file(deepest, &file_node(b"file", 4), b"deep"));
    clean(target.write_small_file(&chain[20], &file_node(b"file", 6), b"middle"));
    let mut content = String::new();
    target.open_existing(deepest, b"file").unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "deep");
    let path = deepest.path();
    for directory in chain.drain(..).skip(1).rev() {
        assert!(clean(target.finish_directory(&directory, &directory_node(&name))));
    }
    drop(target);
    // The target's own path may be as long.
    let inner = open(Path::new(OsStr::from_bytes(&path)));
    assert_eq!(inner.root().decision(), Decision::Skip);
    assert_eq!(inner.decide(&inner.root(), &file_node(b"file", 4)).unwrap(), Decision::Skip);
    drop(inner);
    let delete = TargetOptions { delete: true, ..TargetOptions::default() };
    let target = Target::open(scratch.path(), delete).unwrap();
    let removed = target.remove_unlisted::<&[u8]>(&target.root(), &[], Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (42, 0));
    assert!(names_in(scratch.path()).is_empty());
}

#[test]
fn deep_nesting_needs_few_descriptors_and_little_stack() {
    // In memory where possible: disks spread directories, and thousands take seconds.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let delete = TargetOptions { delete: true, ..TargetOptions::default() };
    let mut target = Target::open(scratch.path(), delete).unwrap();
    target.open_directories = OpenDirectories::new(64);
    let mut innermost = target.root();
    for _ in 0..TREE_DEPTH_MAX {
        innermost = target.enter_directory(&innermost, &directory_node(b"d")).unwrap();
    }
    assert_eq!(kind_of(target.enter_directory(&innermost, &directory_node(b"d"))), TargetErrorKind::Invalid);
    drop(innermost);
    assert_eq!(target.remove_unlisted::<&[u8]>(&target.root(), &[], Some(&[])).unwrap().entries, TREE_DEPTH_MAX as u64);
    assert!(names_in(scratch.path()).is_empty());
}

/// Every place where a planted link could lead out, with and without `openat2`.
#[test]
fn planted_links_lead_nowhere() {
    for openat2 in [true, false] {
        let outside = Outside::new();
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let plant = |name: &str, to: &Path| symlink(to, at(name)).unwrap();
        let precious = outside.path().join("precious");
        plant("directory", outside.path());
        plant("kept-directory", outside.path());
        plant("file", &precious);
        plant("large", &precious);
        plant("dangling", &outside.path().join("new"));
        plant("link", &precious);
        plant("fifo", &precious);

        let mut target = Target::open(scratch.path(), options(Overwrite::Never)).unwrap();
        if !openat2 {
            target.opener = Opener::without_openat2();
        }
        let root = target.root();
        let refused = target.enter_directory(&root, &directory_node(b"kept-directory"));
        assert_eq!(kind_of(refused), TargetErrorKind::Occupied);
        assert_eq!(kind_of(target.write_small_file(&root, &file_node(b"file", 1), b"x")), TargetErrorKind::Occupied);
        assert_eq!(kind_of(target.open_existing(&root, b"file")), TargetErrorKind::Unsafe);
        outside.assert_untouched();
        drop((target, root));

        let delete = TargetOptions { delete: true, ..TargetOptions::default() };
        let mut target = Target::open(scratch.path(), delete).unwrap();
        if !openat2 {
            target.opener = Opener::without_openat2();
        }
        let root = target.root();
        assert_eq!(kind_of(target.fix_metadata(&root, &file_node(b"file", 8))), TargetErrorKind::Unsafe);
        let directory = target.enter_directory(&root, &directory_node(b"directory")).unwrap();
        assert_eq!(directory.decision(), Decision::Replace);
        clean(target.write_small_file(&directory, &file_node(b"precious", 4), b"mine"));
        clean(target.finish_directory(&directory, &directory_node(b"directory")));
        for name in [&b"file"[..], b"dangling"] {
            assert_eq!(target.decide(&root, &file_node(name, 1)).unwrap(), Decision::Replace);
            clean(target.write_small_file(&root, &Node { mode: 0o777, ..file_node(name, 1) }, b"x"));
        }
        let large = file_node(b"large", 1);
        let handle = target.create_file(&root, &large, Room::Dense).unwrap();
        handle.write_at(b"x", 0).unwrap();
        clean(target.finish_file(handle, &large));
        clean(target.write_special(&root, &symlink_node(b"link", b"new")));
        clean(target.write_special(&root, &node(b"fifo", NodeKind::Fifo)));
        outside.assert_untouched();
        assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o111, 0, "no mode was set through a link");
        assert!(fs::symlink_metadata(at("file")).unwrap().is_file());
        assert_eq!(names_in(&at("directory")), ["precious"]);
        // The link that was kept goes, what it leads to stays.
        fs::create_dir(at("surplus")).unwrap();
        symlink(outside.path(), at("surplus").join("way-out")).unwrap();
        let keep: [&[u8]; 6] = [b"dangling", b"directory", b"fifo", b"file", b"large", b"link"];
        assert_eq!(target.remove_unlisted(&root, &keep, Some(&[])).unwrap().entries, 3);
        outside.assert_untouched();
    }
}

#[test]
fn a_directory_swapped_midway_is_refused() {
    for openat2 in [true, false] {
        let outside = Outside::new();
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let mut target = open(scratch.path());
        target.open_directories = OpenDirectories::new(1);
        if !openat2 {
            target.opener = Opener::without_openat2();
        }
        let root = target.root();
        let open_still = target.enter_directory(&root, &directory_node(b"open")).unwrap();
        fs::rename(at("open"), at("moved")).unwrap();
        symlink(outside.path(), at("open")).unwrap();
        clean(target.write_small_file(&open_still, &file_node(b"file", 1), b"x"));
        assert_eq!(names_in(&at("moved")), ["file"], "an open directory is held by descriptor, not by name");

        let by_link = target.enter_directory(&root, &directory_node(b"by-link")).unwrap();
        let by_directory = target.enter_directory(&root, &directory_node(b"by-directory")).unwrap();
        for n in 0..4 {
            target.enter_directory(&root, &directory_node(format!("evict-{n}").as_bytes())).unwrap();
        }
        fs::rename(at("by-link"), at("by-link.moved")).unwrap();
        symlink(outside.path(), at("by-link")).unwrap();
        fs::rename(at("by-directory"), at("by-directory.moved")).unwrap();
        fs::create_dir(at("by-directory")).unwrap();
        for directory in [by_link, by_directory] {
            let file = file_node(b"file", 1);
            assert_eq!(kind_of(target.write_small_file(&directory, &file, b"x")), TargetErrorKind::Unsafe);
            assert_eq!(kind_of(target.finish_directory(&directory, &directory_node(b"x"))), TargetErrorKind::Unsafe);
        }
        assert!(names_in(&at("by-directory")).is_empty());
        outside.assert_untouched();
    }
}

/// A region is known by what it holds, wherever it is met: in the directory itself, in one that is to go, or in one that
/// stands in an entry's way.
#[test]
fn what_is_marked_as_a_region_stays() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |path: &str| scratch.path().join(path);
    for (directory, beginning) in [("deep/region", "KSTN ours, more"), ("other", "KSTN others"), ("short", "KSTN")] {
        fs::create_dir_all(at(directory).join("packs")).unwrap();
        fs::write(at(directory).join("packs/p"), "x").unwrap();
        fs::write(at(directory).join("config"), beginning).unwrap();
    }
    let options = TargetOptions { delete: true, ..TargetOptions::default() };
    let mut target = Target::open(scratch.path(), options).unwrap();
    target.spare_regions(b"config", b"KSTN ours");
    // In the way of a file: nothing of it goes.
    let file = file_node(b"deep", 1);
    assert_eq!(kind_of(target.in_the_way(&target.root(), &file)), TargetErrorKind::Unsafe);
    assert_eq!(kind_of(target.write_small_file(&target.root(), &file, b"x")), TargetErrorKind::Unsafe);
    assert_eq!(names_in(&at("deep/region")), ["config", "packs"]);
    let removed = target.remove_unlisted::<&[u8]>(&target.root(), &[], Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (8, 1));
    assert_eq!(removed.problems[0].path(), at("deep/region").as_os_str().as_bytes());
    assert_eq!((names_in(scratch.path()), names_in(&at("deep/region/packs"))), (vec!["deep".into()], vec!["p".into()]));
    drop(target);
    let mut target = Target::open(&at("deep/region"), options).unwrap();
    target.spare_regions(b"config", b"KSTN ours");
    let removed = target.remove_unlisted::<&[u8]>(&target.root(), &[], Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (0, 1));
    let removed = target.remove_unlisted::<&[u8]>(&target.root(), &[], None).unwrap();
    assert_eq!((removed.entries, removed.problems.len(), removed.spared), (0, 0, 2));
}

#[test]
fn deletion_takes_only_what_is_not_listed() {
    let scratch = tempfile::tempdir().unwrap();
    let fill = || {
        fs::create_dir_all(scratch.path().join("gone/a/b")).unwrap();
        fs::create_dir_all(scratch.path().join("gone/c")).unwrap();
        fs::write(scratch.path().join("gone/a/b/file"), "x").unwrap();
        fs::write(scratch.path().join("gone/a/other"), "x").unwrap();
        fs::write(scratch.path().join("gone-too"), "x").unwrap();
        fs::create_dir_all(scratch.path().join("kept/inner")).unwrap();
    };
    fill();
    let keep: [&[u8]; 2] = [b"absent", b"kept"];
    let target = open(scratch.path());
    assert_eq!(target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap().entries, 0, "not asked for");
    drop(target);
    let dry = TargetOptions { delete: true, dry_run: true, ..TargetOptions::default() };
    let target = Target::open(scratch.path(), dry).unwrap();
    assert_eq!(target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap().entries, 7);
    assert_eq!(names_in(scratch.path()), ["gone", "gone-too", "kept"]);
    drop(target);
    let target = Target::open(scratch.path(), TargetOptions { dry_run: false, ..dry }).unwrap();
    let unsorted: [&[u8]; 2] = [b"kept", b"absent"];
    assert_eq!(kind_of(target.remove_unlisted(&target.root(), &unsorted, Some(&[]))), TargetErrorKind::Invalid);
    let removed = target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len(), target.counts().removed.get()), (7, 0, 7));
    assert_eq!(names_in(scratch.path()), ["kept"]);
    assert_eq!(names_in(&scratch.path().join("kept")), ["inner"]);

    // What is spared by name, with all that it holds, and by what it is, wherever that lies.
    fill();
    let removed = target.remove_unlisted(&target.root(), &keep, Some(&[b"gone"])).unwrap();
    assert_eq!((removed.entries, removed.spared), (1, 1));
    assert_eq!(target.remove_unlisted(&target.root(), &keep, None).unwrap().spared, 1);
    let unsorted: [&[u8]; 2] = [b"gone", b"a"];
    assert_eq!(kind_of(target.remove_unlisted(&target.root(), &keep, Some(&unsorted))), TargetErrorKind::Invalid);
    drop(target);
    let mut target = Target::open(scratch.path(), TargetOptions { dry_run: false, ..dry }).unwrap();
    let own = scratch.path().join("gone/a/b");
    target.spare_directories(&[own.join("../b"), scratch.path().join("absent")]).unwrap();
    let removed = target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (2, 1));
    assert_eq!(removed.problems[0].path(), own.as_os_str().as_bytes());
    assert_eq!(names_in(&own), ["file"]);
    drop(target);
    let mut target = Target::open(scratch.path(), TargetOptions { dry_run: false, ..dry }).unwrap();
    target.spare_directories(&[scratch.path()]).unwrap();
    let removed = target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (0, 1), "nothing in a region, either");
    drop(target);
    let target = Target::open(scratch.path(), TargetOptions { dry_run: false, ..dry }).unwrap();
    assert_eq!(target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap().entries, 4);

    // What is mounted inside is not the target's to delete.
    fill();
    let mounted_at = scratch.path().join("gone/c");
    let Some(_mounted) = Mounted::tmpfs(&mounted_at, "size=1m") else { return };
    fs::write(mounted_at.join("precious"), "x").unwrap();
    let removed = target.remove_unlisted(&target.root(), &keep, Some(&[])).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (5, 1));
    assert_eq!(removed.problems[0].path(), mounted_at.as_os_str().as_bytes());
    assert_eq!(names_in(&mounted_at), ["precious"]);
}

#[test]
fn unfinished_files_never_appear() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(scratch.path());
    let root = target.root();
    let file = file_node(b"file", 10);
    for room in [Room::Dense, Room::Sparse] {
        let handle = target.create_file(&root, &file, room).unwrap();
        handle.write_at(b"half", 6).unwrap();
        assert!(names_in(scratch.path())[0].starts_with(".keepstone-partial-"));
        let error = target.finish_file(handle, &file).unwrap_err();
        assert!(matches!(error, TargetError::Incomplete { expected: 10, actual: 4, .. }), "{error}");
        drop(target.create_file(&root, &file, room).unwrap());
        assert!(names_in(scratch.path()).is_empty());
    }
    assert_eq!(kind_of(target.write_small_file(&root, &file, b"short")), TargetErrorKind::Incomplete);
    assert!(names_in(scratch.path()).is_empty());
}

#[test]
fn leftovers_are_swept_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(scratch.path());
    let inner = target.enter_directory(&target.root(), &directory_node(b"inner")).unwrap();
    // What a killed process leaves.
    for directory in ["", "inner"] {
        let name = ".keepstone-partial-0123456789abcdef-0000000f";
        fs::write(scratch.path().join(directory).join(name), "half").unwrap();
    }
    let own = target.create_file(&inner, &file_node(b"file", 10), Room::Sparse).unwrap();
    target.enter_directory(&target.root(), &directory_node(b"inner")).unwrap();
    assert_eq!(names_in(&scratch.path().join("inner")).len(), 1, "this run's own stays");
    assert_eq!(target.counts().swept.get(), 1);
    fs::write(scratch.path().join("inner/.keepstone-partial-0123456789abcdef-00000001"), "half").unwrap();
    drop(own);
    let spared = [
        ".keepstone-partial-0123456789abcdef",
        ".keepstone-partial-0123456789abcdeX-00000000",
        ".keepstone-partial-0123456789abcdef_00000000",
        ".keepstone-partial-0123456789abcdef-00000000.txt",
    ];
    for name in spared {
        fs::write(scratch.path().join(name), "mine").unwrap();
    }
    assert_eq!(kind_of(Target::open(scratch.path(), TargetOptions::default())), TargetErrorKind::Busy);
    // The lock goes with the target, not with its last handle.
    drop(target);
    let target = Target::open(scratch.path(), options(Overwrite::Never)).unwrap();
    target.enter_directory(&target.root(), &directory_node(b"inner")).unwrap();
    assert_eq!(target.counts().swept.get(), 2);
    assert_eq!(names_in(scratch.path()).len(), spared.len() + 1);
    assert!(names_in(&scratch.path().join("inner")).is_empty());
}

/// A killed process leaves a file that is cut under its final name in a directory that it made: only that is replaced
/// where everything is to be kept.
#[test]
fn a_cut_file_of_an_unfinished_directory_is_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("target");
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o7777;
    let set_mode = |name: &str, mode| fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    let (file, sticky) = (file_node(b"second", 4), Node { mode: 0o1600, ..file_node(b"second", 4) });
    let (made_node, sticky_node) = (directory_node(b"made"), Node { mode: 0o1700, ..directory_node(b"made") });
    for overwrite in [Overwrite::Never, Overwrite::IfDifferent, Overwrite::Always] {
        // As it is before each of the last calls: nothing or part of the content written, the time set.
        for (content, timed) in [("", false), ("do", false), ("done", false), ("done", true)] {
            let target = Target::open(&path, options(overwrite)).unwrap();
            let made = target.enter_directory(&target.root(), &made_node).unwrap();
            clean(target.write_small_file(&made, &file_node(b"first", 4), b"done"));
            clean(target.write_small_file(&made, &file, b"done"));
            assert_eq!((mode("made"), mode("made/first"), mode("made/second")), (0o1700, 0o640, 0o640));
            let whole = fs::metadata(path.join("made/second")).unwrap().modified().unwrap();
            fs::write(path.join("made/second"), content).unwrap();
            set_mode("made/second", 0o1600);
            if timed {
                fs::File::open(path.join("made/second")).unwrap().set_modified(whole).unwrap();
            }
            drop((made, target));
            let target = Target::open(&path, options(overwrite)).unwrap();
            let keep = |node: &Node| {
                // What nobody left: its mode is its own, its directory's is, or it has another name.
                let kept = target.decide(&target.enter_directory(&target.root(), &made_node).unwrap(), node).unwrap();
                kept == Decision::Keep
            };
            if overwrite == Overwrite::Never {
                assert!(keep(&sticky));
                fs::hard_link(path.join("made/second"), path.join("made/name")).unwrap();
                assert!(keep(&file));
                fs::remove_file(path.join("made/name")).unwrap();
                let own = target.enter_directory(&target.root(), &sticky_node).unwrap();
                assert_eq!(target.decide(&own, &file).unwrap(), Decision::Keep);
                assert_eq!(kind_of(target.write_small_file(&own, &file, b"done")), TargetErrorKind::Occupied);
            }
            let made = target.enter_directory(&target.root(), &made_node).unwrap();
            assert_eq!(target.decide(&made, &file).unwrap(), Decision::Replace);
            clean(target.write_small_file(&made, &file, b"done"));
            assert_eq!((mode("made/second"), names_in(&path.join("made")).len()), (0o640, 2));
            assert_eq!(fs::read(path.join("made/second")).unwrap(), b"done");
            clean(target.finish_directory(&made, &made_node));
            assert_eq!(mode("made"), 0o755);
            // Of a directory that is finished nobody says that.
            set_mode("made/second", 0o1600);
            if overwrite == Overwrite::Never {
                assert!(keep(&file));
            }
            drop((made, target));
            fs::remove_dir_all(&path).unwrap();
        }
    }
}

/// Where a mode doesn't tell what is complete, files get their names when they are.
#[test]
fn names_come_last_where_modes_belong_to_the_nodes() {
    let scratch = tempfile::tempdir().unwrap();
    let target = Target::open(&scratch.path().join("target"), options(Overwrite::Never)).unwrap();
    let acl = [
        2u32.to_le_bytes().as_slice(),
        &[1, 0, 6, 0],
        &[0xff; 4],
        &[4, 0, 4, 0],
        &[0xff; 4],
        &[0x20, 0, 4, 0],
        &[0xff; 4],
    ]
    .concat();
    let with_acl = Node { xattrs: vec![(b"system.posix_acl_access".to_vec(), acl)], ..file_node(b"file", 1) };
    for (directory, file, named) in [
        (directory_node(b"one"), file_node(b"file", 1), true),
        (directory_node(b"two"), Node { mode: 0o1600, ..file_node(b"file", 1) }, false),
        (Node { mode: 0o1700, ..directory_node(b"three") }, file_node(b"file", 1), false),
        (directory_node(b"four"), with_acl, false),
    ] {
        let made = target.enter_directory(&target.root(), &directory).unwrap();
        assert!(target.create_named(&made, &file).unwrap().is_none(), "the first shows whether the mode is kept");
        clean(target.write_small_file(&made, &file_node(b"first", 1), b"x"));
        assert_eq!(target.create_named(&made, &file).unwrap().is_some(), named, "{:?}", directory.name);
    }
    clean(target.write_small_file(&target.root(), &file_node(b"first", 1), b"x"));
    assert!(
        target.create_named(&target.root(), &file_node(b"file", 1)).unwrap().is_none(),
        "of the root no mode is known"
    );
}

/// Names that differ for the snapshot may be one for the file system, and nothing is replaced that must stay.
#[test]
fn a_name_that_is_taken_in_a_directory_made_is_treated_as_elsewhere() {
    for overwrite in [Overwrite::Never, Overwrite::IfDifferent] {
        let scratch = tempfile::tempdir().unwrap();
        let target = Target::open(scratch.path(), options(overwrite)).unwrap();
        let made = target.enter_directory(&target.root(), &directory_node(b"made")).unwrap();
        clean(target.write_small_file(&made, &file_node(b"first", 5), b"first"));
        let taken = scratch.path().join("made/taken");
        fs::write(&taken, "another's").unwrap();
        let restored = target.write_small_file(&made, &file_node(b"taken", 3), b"new");
        if overwrite == Overwrite::Never {
            assert_eq!(kind_of(restored), TargetErrorKind::Occupied);
            assert_eq!(fs::read(&taken).unwrap(), b"another's");
        } else {
            clean(restored);
            assert_eq!(fs::read(&taken).unwrap(), b"new");
        }
        assert_eq!(names_in(&scratch.path().join("made")), ["first", "taken"]);
    }
}

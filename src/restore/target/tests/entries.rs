//! Every kind of entry, the overwrite policies, dry runs, and disks that are full or read-only.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, symlink};
use std::process::Command;
use std::time::Duration;

use super::{
    Mounted, Outside, clean, directory_node, file_node, is_root, kind_of, names_in, node, open, options, symlink_node,
};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Extent, Node, NodeKind, Timestamp};
use crate::restore::target::directory::OpenDirectories;
use crate::restore::target::{Decision, Linked, Overwrite, Room, Target, TargetErrorKind, TargetOptions};

#[test]
fn every_kind_round_trips() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a/b/target");
    let target = open(&path);
    assert_eq!(target.root().decision(), Decision::Write);
    let directory_node = directory_node(b"directory");
    let directory = target.enter_directory(&target.root(), &directory_node).unwrap();
    assert_eq!(directory.decision(), Decision::Write);
    assert_eq!(fs::metadata(path.join("directory")).unwrap().mode() & 0o7777, 0o1700);

    let small = file_node(b"small", 5);
    assert!(clean(target.write_small_file(&directory, &small, b"small")));
    clean(target.write_small_file(&directory, &file_node(b"empty", 0), b""));
    let large = file_node(b"large", 6 << 20);
    let handle = target.create_file(&directory, &large, Room::Dense).unwrap();
    std::thread::scope(|scope| {
        for part in 0..6u8 {
            let handle = &handle;
            scope.spawn(move || handle.write_at(&vec![part; 1 << 20], u64::from(part) << 20).unwrap());
        }
    });
    clean(target.finish_file(handle, &large));
    clean(target.write_special(&directory, &symlink_node(b"link", b"../else\xff/where")));
    clean(target.write_special(&directory, &node(b"fifo", NodeKind::Fifo)));
    let device = node(b"device", NodeKind::CharacterDevice { major: 1, minor: 300 });
    let block = node(b"block", NodeKind::BlockDevice { major: 259, minor: 70_000 });
    if is_root() {
        clean(target.write_special(&directory, &device));
        clean(target.write_special(&directory, &block));
        let absurd = node(b"absurd", NodeKind::BlockDevice { major: 1 << 20, minor: u32::MAX });
        target.write_special(&directory, &absurd).unwrap_err();
        let found = fs::symlink_metadata(path.join("directory/block")).unwrap();
        assert!(found.file_type().is_block_device());
        assert_eq!((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())), (259, 70_000));
        assert_eq!(found.mode() & 0o7777, 0o640);
    } else {
        let error = target.write_special(&directory, &device).unwrap_err();
        assert_eq!(error.kind(), TargetErrorKind::Denied);
        assert!(!error.stops_run());
    }
    clean(target.finish_directory(&directory, &directory_node));
    clean(target.finish_directory(&target.root(), &Node { name: Vec::new(), ..directory_node.clone() }));
    target.sync().unwrap();
    assert!(target.notices().is_empty(), "{:?}", target.notices());

    let at = path.join("directory");
    assert_eq!(fs::read(at.join("small")).unwrap(), b"small");
    assert_eq!(fs::metadata(at.join("empty")).unwrap().len(), 0);
    assert!(fs::read(at.join("large")).unwrap().chunks(1 << 20).zip(0..6u8).all(|(part, byte)| part[77] == byte));
    assert_eq!(fs::read_link(at.join("link")).unwrap().as_os_str().as_bytes(), b"../else\xff/where");
    assert!(fs::metadata(at.join("fifo")).unwrap().file_type().is_fifo());
    for name in ["small", "empty", "large", "link", "fifo", "."] {
        let found = fs::symlink_metadata(at.join(name)).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_000, 123_456_789), "{name}");
        let mode = if name == "." { 0o755 } else { 0o640 };
        assert!(name == "link" || found.mode() & 0o7777 == mode, "{name}");
    }
    let expected = if is_root() { 7 } else { 5 };
    assert_eq!(names_in(&at).len(), expected, "no partial entries remain");

    // Once more: everything is there already and nothing changes.
    drop((target, directory));
    let target = open(&path);
    let directory = target.enter_directory(&target.root(), &directory_node).unwrap();
    assert_eq!(directory.decision(), Decision::Skip);
    let link = symlink_node(b"link", b"../else\xff/where");
    let mut nodes = vec![small, large, link, node(b"fifo", NodeKind::Fifo)];
    if is_root() {
        nodes.extend([device, block]);
    }
    for node in &nodes {
        assert_eq!(target.decide(&directory, node).unwrap(), Decision::Skip);
        assert!(!clean(target.fix_metadata(&directory, node)));
    }
    let mut content = String::new();
    target.open_existing(&directory, b"small").unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "small");
    assert_eq!(kind_of(target.open_existing(&directory, b"link")), TargetErrorKind::Unsafe);
    assert_eq!(kind_of(target.open_existing(&directory, b"fifo")), TargetErrorKind::Unsafe);
}

#[test]
fn overwrite_policies() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().join("file");
    let same = file_node(b"file", 3);
    let longer = file_node(b"file", 4);
    let newer = Node { modified_at: Timestamp { seconds: 2_000_000_000, nanoseconds: 0 }, ..same.clone() };
    let target = open(scratch.path());
    clean(target.write_small_file(&target.root(), &same, b"old"));
    drop(target);

    let target = Target::open(scratch.path(), options(Overwrite::Never)).unwrap();
    let root = target.root();
    assert_eq!(root.decision(), Decision::Keep);
    for node in [&same, &longer, &newer] {
        assert_eq!(target.decide(&root, node).unwrap(), Decision::Keep);
    }
    assert_eq!(kind_of(target.write_small_file(&root, &longer, b"newx")), TargetErrorKind::Occupied);
    assert!(!clean(target.fix_metadata(&root, &Node { mode: 0o777, ..same.clone() })));
    assert_eq!(fs::read(&at).unwrap(), b"old");
    fs::create_dir(scratch.path().join("kept")).unwrap();
    let before = fs::metadata(scratch.path().join("kept")).unwrap();
    let kept = target.enter_directory(&root, &directory_node(b"kept")).unwrap();
    assert_eq!(kept.decision(), Decision::Keep);
    clean(target.finish_directory(&kept, &Node { mode: 0o711, ..directory_node(b"kept") }));
    assert_eq!(fs::metadata(scratch.path().join("kept")).unwrap().mtime(), before.mtime());
    assert_eq!(names_in(scratch.path()), ["file", "kept"]);
    drop((target, root, kept));

    let target = open(scratch.path());
    let root = target.root();
    assert_eq!(target.decide(&root, &same).unwrap(), Decision::Skip);
    assert_eq!(target.decide(&root, &longer).unwrap(), Decision::Replace);
    assert_eq!(target.decide(&root, &newer).unwrap(), Decision::Replace);
    assert_eq!(target.decide(&root, &file_node(b"absent", 0)).unwrap(), Decision::Write);
    assert_eq!(target.decide(&root, &symlink_node(b"file", b"x")).unwrap(), Decision::Replace);
    assert_eq!(target.decide(&root, &directory_node(b"kept")).unwrap(), Decision::Skip);
    // Another name of the replaced file keeps its content.
    fs::hard_link(&at, scratch.path().join("other")).unwrap();
    clean(target.write_small_file(&target.root(), &longer, b"newx"));
    assert_eq!(fs::read(&at).unwrap(), b"newx");
    assert_eq!(fs::read(scratch.path().join("other")).unwrap(), b"old");
    // An empty directory gives way to a file, a filled one only to --delete.
    clean(target.write_small_file(&target.root(), &file_node(b"kept", 1), b"x"));
    fs::create_dir_all(scratch.path().join("filled/inner")).unwrap();
    let filled = file_node(b"filled", 1);
    assert_eq!(kind_of(target.write_small_file(&target.root(), &filled, b"x")), TargetErrorKind::Occupied);
    assert_eq!(
        kind_of(target.write_special(&target.root(), &symlink_node(b"filled", b"x"))),
        TargetErrorKind::Occupied
    );
    assert_eq!(names_in(scratch.path()), ["file", "filled", "kept", "other"]);
    drop((target, root));
    let always = TargetOptions { delete: true, ..options(Overwrite::Always) };
    let target = Target::open(scratch.path(), always).unwrap();
    assert_eq!(target.decide(&target.root(), &longer).unwrap(), Decision::Replace);
    clean(target.write_small_file(&target.root(), &filled, b"x"));
    assert_eq!(target.counts().removed.get(), 2);
    // A file gives way to a directory.
    let replaced = target.enter_directory(&target.root(), &directory_node(b"filled")).unwrap();
    assert_eq!(replaced.decision(), Decision::Replace);
}

#[test]
fn a_dry_run_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let dry = TargetOptions { dry_run: true, delete: true, ..TargetOptions::default() };
    fs::create_dir(scratch.path().join("there")).unwrap();
    fs::write(scratch.path().join("there/file"), "x").unwrap();
    fs::write(scratch.path().join("there/.keepstone-partial-0123456789abcdef-00000000"), "x").unwrap();
    symlink("/", scratch.path().join("in-the-way")).unwrap();
    let list = || {
        let listed = Command::new("find").arg(scratch.path()).args(["-printf", "%p %m %u %T@ %C@\n"]).output().unwrap();
        assert!(listed.status.success());
        listed.stdout
    };
    let before = list();
    for path in [scratch.path().to_path_buf(), scratch.path().join("absent/target")] {
        let target = Target::open(&path, dry).unwrap();
        let root = target.root();
        for name in [&b"there"[..], b"new", b"in-the-way"] {
            let directory = target.enter_directory(&root, &directory_node(name)).unwrap();
            let _ = target.decide(&directory, &file_node(b"file", 9)).unwrap();
            let linked = Node { link_group: Some(b"there/file".to_vec()), ..file_node(b"file", 1) };
            clean(target.write_small_file(&directory, &linked, b"y"));
            assert_eq!(target.link(&directory, &Node { name: b"again".to_vec(), ..linked }).unwrap(), Linked::Done);
            let large = file_node(b"large", 2);
            let handle = target.create_file(&directory, &large, Room::Sparse).unwrap();
            handle.write_at(b"yy", 0).unwrap();
            clean(target.finish_file(handle, &large));
            clean(target.write_special(&directory, &symlink_node(b"link", b"x")));
            let _ = target.remove_unlisted(&directory, &[b"large"], Some(&[])).unwrap();
            clean(target.finish_directory(&directory, &directory_node(name)));
        }
        if path == scratch.path() {
            let in_the_way = directory_node(b"in-the-way");
            assert_eq!(target.enter_directory(&root, &in_the_way).unwrap().decision(), Decision::Replace);
            assert_eq!(target.decide(&root, &file_node(b"there", 0)).unwrap(), Decision::Replace);
            let there = target.enter_directory(&root, &directory_node(b"there")).unwrap();
            assert_eq!(there.decision(), Decision::Skip);
            clean(target.fix_metadata(&there, &file_node(b"file", 1)));
        }
        target.sync().unwrap();
    }
    assert_eq!(list(), before);
}

#[test]
fn hard_links_join_and_replace() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let target = open(scratch.path());
    let root = target.root();
    let member = |name: &[u8], group: &[u8]| Node { link_group: Some(group.to_vec()), ..file_node(name, 4) };
    assert_eq!(target.link(&root, &file_node(b"alone", 0)).unwrap(), Linked::NoneRestored);
    assert!(target.claim_link_group(b"first"));
    assert!(!target.claim_link_group(b"first"));
    assert_eq!(target.link(&root, &member(b"second", b"first")).unwrap(), Linked::NoneRestored);
    let first = member(b"first", b"first");
    clean(target.write_small_file(&root, &first, b"link"));
    fs::write(at("second"), "in the way").unwrap();
    assert_eq!(target.link(&root, &member(b"second", b"first")).unwrap(), Linked::Done);
    assert_eq!(target.link(&root, &member(b"second", b"first")).unwrap(), Linked::Already);
    // A name whose content the snapshot states otherwise is no name of this file, whatever its group says.
    let mut other = member(b"other", b"first");
    other.kind = NodeKind::File {
        size: 4,
        content: Content::Inline(vec![Extent::Chunk { id: ChunkId([9; 32]), length: 4 }]),
        inconsistent: false,
    };
    assert_eq!(target.link(&root, &other).unwrap(), Linked::NoneRestored);
    let inner = target.enter_directory(&root, &directory_node(b"inner")).unwrap();
    assert_eq!(target.link(&inner, &member(b"third", b"first")).unwrap(), Linked::Done);
    let inode = fs::metadata(at("first")).unwrap().ino();
    for name in ["second", "inner/third"] {
        assert_eq!(fs::metadata(at(name)).unwrap().ino(), inode);
    }
    assert_eq!(fs::metadata(at("first")).unwrap().nlink(), 3);
    // A large file, finished in pieces, and one that was right already count as restored too.
    let pieces = member(b"pieces", b"pieces");
    let handle = target.create_file(&root, &pieces, Room::Dense).unwrap();
    handle.write_at(b"link", 0).unwrap();
    clean(target.finish_file(handle, &pieces));
    assert_eq!(target.link(&inner, &member(b"pieces", b"pieces")).unwrap(), Linked::Done);
    drop((target, root, inner));
    let target = open(scratch.path());
    clean(target.fix_metadata(&target.root(), &first));
    assert_eq!(target.link(&target.root(), &member(b"second", b"first")).unwrap(), Linked::Already);
    // The first name was swapped for a link to elsewhere: nothing is linked to that.
    let outside = Outside::new();
    fs::remove_file(at("first")).unwrap();
    symlink(outside.path().join("precious"), at("first")).unwrap();
    assert_eq!(kind_of(target.link(&target.root(), &member(b"fourth", b"first"))), TargetErrorKind::Unsafe);
    assert_eq!(names_in(scratch.path()), ["first", "inner", "pieces", "second"]);

    // Another file system: the driver restores the content there instead.
    fs::create_dir(at("mounted")).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&at("mounted"), "size=1m") else { return };
    let mounted = target.enter_directory(&target.root(), &directory_node(b"mounted")).unwrap();
    clean(target.fix_metadata(&target.root(), &pieces));
    assert_eq!(kind_of(target.link(&mounted, &member(b"x", b"pieces"))), TargetErrorKind::Unlinkable);
    assert_eq!(target.file_systems.lock().unwrap().len(), 2);
    target.sync().unwrap();
}

#[test]
fn a_sparse_tebibyte_takes_no_room() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(scratch.path());
    let size = 1u64 << 40;
    let image = file_node(b"image", size);
    let handle = target.create_file(&target.root(), &image, Room::Sparse).unwrap();
    handle.write_at(b"begin", 0).unwrap();
    handle.hole(5, size - 8).unwrap();
    handle.write_at(b"end", size - 3).unwrap();
    assert_eq!(kind_of(handle.write_at(b"end", size - 2)), TargetErrorKind::Invalid);
    assert_eq!(kind_of(handle.hole(u64::MAX, 2)), TargetErrorKind::Invalid);
    clean(target.finish_file(handle, &image));
    let found = fs::metadata(scratch.path().join("image")).unwrap();
    assert_eq!(found.len(), size);
    assert!(found.blocks() < 1000);
}

#[test]
fn a_full_disk_stops_the_run() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::tmpfs(scratch.path(), "size=1m") else { return };
    let target = open(scratch.path());
    let size = 8 << 20;
    let file = file_node(b"file", size);
    let error = target.create_file(&target.root(), &file, Room::Dense).unwrap_err();
    assert_eq!((error.kind(), error.stops_run()), (TargetErrorKind::Full, true));
    let error = target.write_small_file(&target.root(), &file, &vec![1; size as usize]).unwrap_err();
    assert_eq!(error.kind(), TargetErrorKind::Full);
    assert!(names_in(scratch.path()).is_empty(), "nothing half-written remains");
    // Another test's fork may share the removed file's descriptor, and so its room, until it runs its program.
    let fits = file_node(b"fits", 1);
    let attempts = std::iter::repeat_with(|| target.write_small_file(&target.root(), &fits, b"x"));
    let pause = |answer: &Result<_, _>| answer.is_err().then(|| std::thread::sleep(Duration::from_millis(10)));
    assert!(attempts.take(500).any(|answer| pause(&answer).is_none()), "the room is free again");
}

#[test]
fn a_read_only_target_stops_the_run() {
    let scratch = tempfile::tempdir().unwrap();
    if let Some(_mounted) = Mounted::tmpfs(scratch.path(), "size=1m,ro") {
        let error = Target::open(scratch.path(), TargetOptions::default()).unwrap_err();
        assert_eq!((error.kind(), error.stops_run()), (TargetErrorKind::ReadOnly, true));
        let error = Target::open(&scratch.path().join("new"), TargetOptions::default()).unwrap_err();
        assert_eq!(error.kind(), TargetErrorKind::ReadOnly);
    }
    fs::write(scratch.path().join("file"), "x").unwrap();
    let occupied = Target::open(&scratch.path().join("file"), TargetOptions::default());
    assert_eq!(kind_of(occupied), TargetErrorKind::Occupied);
    if !is_root() {
        let closed = scratch.path().join("closed");
        fs::DirBuilder::new().mode(0o500).create(&closed).unwrap();
        let target = open(&closed);
        let denied = target.write_small_file(&target.root(), &file_node(b"file", 0), b"");
        assert_eq!(kind_of(denied), TargetErrorKind::Denied);
    }
}

#[test]
fn many_threads_share_a_target() {
    let scratch = tempfile::tempdir().unwrap();
    let mut target = open(scratch.path());
    target.open_directories = OpenDirectories::new(4);
    let target = &target;
    let (threads, directories, files) = (8, 12, 6);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                // Every thread enters the same directories and writes files of its own.
                let entered: Vec<_> = (0..directories)
                    .map(|n| {
                        let name = format!("directory-{n}");
                        let outer = target.enter_directory(&target.root(), &directory_node(name.as_bytes())).unwrap();
                        target.enter_directory(&outer, &directory_node(b"inner")).unwrap()
                    })
                    .collect();
                for n in 0..files {
                    for directory in &entered {
                        let name = format!("file-{thread}-{n}");
                        clean(target.write_small_file(directory, &file_node(name.as_bytes(), 4), b"text"));
                    }
                }
            });
        }
    });
    for n in 0..directories {
        let names = names_in(&scratch.path().join(format!("directory-{n}/inner")));
        assert_eq!(names.len(), threads * files);
        assert!(names.iter().all(|name| name.starts_with("file-")));
    }
}

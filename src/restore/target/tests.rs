use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr_query, lsetxattr};
use tempfile::TempDir;

use super::beneath::Opener;

use super::{
    Decision, Linked, Node, NodeKind, OpenDirectories, Overwrite, Restored, Room, Target, TargetError, TargetErrorKind,
    TargetOptions,
};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Timestamp};
use crate::limits::TREE_DEPTH_MAX;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn node(name: &[u8], kind: NodeKind) -> Node {
    Node {
        name: name.to_vec(),
        kind,
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: Vec::new(),
        group: Vec::new(),
        modified_at: Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 },
        xattrs: Vec::new(),
        link_group: None,
    }
}

fn file_node(name: &[u8], size: u64) -> Node {
    node(name, NodeKind::File { size, content: Content::Inline(Vec::new()), inconsistent: false })
}

fn directory_node(name: &[u8]) -> Node {
    Node { mode: 0o755, ..node(name, NodeKind::Directory { tree: ChunkId::default() }) }
}

fn symlink_node(name: &[u8], target: &[u8]) -> Node {
    node(name, NodeKind::Symlink { target: target.to_vec() })
}

fn options(overwrite: Overwrite) -> TargetOptions {
    TargetOptions { overwrite, ..TargetOptions::default() }
}

fn open(path: &Path) -> Target {
    Target::open(path, TargetOptions::default()).unwrap()
}

/// Asserts that a restore had no problem.
#[track_caller]
fn clean(restored: Result<Restored, TargetError>) -> bool {
    let restored = restored.unwrap();
    assert!(restored.problems.is_empty(), "{:?}", restored.problems);
    restored.changed
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(answer: Result<T, TargetError>) -> TargetErrorKind {
    answer.unwrap_err().kind()
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A directory outside of the target with one file, which must stay as it is.
struct Outside {
    directory: TempDir,
}

impl Outside {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("precious"), "precious").unwrap();
        Outside { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn assert_untouched(&self) {
        assert_eq!(names_in(self.path()), ["precious"]);
        assert_eq!(fs::read_to_string(self.path().join("precious")).unwrap(), "precious");
    }
}

/// A file system mounted for one test; `None` where that takes rights that the test lacks.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, mount_options: &str) -> Option<Self> {
        let arguments = ["-t", "tmpfs", "-o", mount_options, "keepstone-test"];
        let output = Command::new("mount").args(arguments).arg(at).output();
        let mounted = output.is_ok_and(|output| output.status.success());
        mounted.then(|| Mounted(at.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn every_kind_round_trips() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a/b/target");
    let target = open(&path);
    assert_eq!(target.root().decision(), Decision::Write);
    let directory_node = directory_node(b"directory");
    let directory = target.enter_directory(&target.root(), &directory_node).unwrap();
    assert_eq!(directory.decision(), Decision::Write);
    assert_eq!(fs::metadata(path.join("directory")).unwrap().mode() & 0o7777, 0o700);

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
fn owners_set_id_bits_and_names() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(scratch.path());
    let root = target.root();
    let foreign = Node { uid: 12_345, gid: 23_456, mode: 0o6755, ..file_node(b"foreign", 1) };
    let mine = Node { mode: 0o4711, ..file_node(b"mine", 1) };
    let _ = target.write_small_file(&root, &foreign, b"x").unwrap();
    clean(target.write_small_file(&root, &mine, b"x"));
    let stat = |name: &str| fs::symlink_metadata(scratch.path().join(name)).unwrap();
    assert_eq!(stat("mine").mode() & 0o7777, 0o4711);
    if !is_root() {
        assert_eq!(stat("foreign").mode() & 0o7777, 0o755, "a set-id bit without its owner is a hole");
        assert_eq!((target.counts().ownership_skipped.get(), target.counts().set_id_dropped.get()), (1, 1));
        assert_eq!(target.notices().len(), 2);
        return;
    }
    let found = stat("foreign");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12_345, 23_456, 0o6755));
    clean(target.write_special(&root, &Node { uid: 12_345, ..symlink_node(b"link", b"foreign") }));
    assert_eq!((stat("link").uid(), stat("foreign").uid()), (12_345, 12_345));
    // What only differs in its owner and mode is mended in place.
    let mended = Node { uid: 1, gid: 1, mode: 0o2711, ..foreign };
    assert_eq!(target.decide(&root, &mended).unwrap(), Decision::Skip);
    let inode = stat("foreign").ino();
    assert!(clean(target.fix_metadata(&root, &mended)));
    let found = stat("foreign");
    assert_eq!((found.ino(), found.uid(), found.mode() & 0o7777), (inode, 1, 0o2711));
    // By name where this host knows it.
    if let Some(daemon) = uzers::get_user_by_name("daemon") {
        let named = Node { uid: 54_321, user: b"daemon".to_vec(), ..file_node(b"named", 0) };
        clean(target.write_small_file(&root, &named, b""));
        assert_eq!(stat("named").uid(), daemon.uid());
        let unknown = Node { uid: 54_321, user: b"nobody-has-this".to_vec(), ..file_node(b"unknown", 0) };
        clean(target.write_small_file(&root, &unknown, b""));
        assert_eq!(stat("unknown").uid(), 54_321);
    }
    // The number that means "unchanged" to the kernel is a problem, not an owner, and takes the set-id bits along.
    let nobody = Node { uid: u32::MAX, mode: 0o4755, ..file_node(b"reserved", 0) };
    assert_eq!(target.write_small_file(&root, &nobody, b"").unwrap().problems.len(), 1);
    assert_eq!(stat("reserved").mode() & 0o7777, 0o755);
}

#[test]
fn owners_in_a_set_group_id_directory() {
    if !is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    rustix::fs::chown(scratch.path(), None, Some(rustix::fs::Gid::from_raw(777))).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let target = open(scratch.path());
    for name in [&b"first"[..], b"second"] {
        clean(target.write_small_file(&target.root(), &file_node(name, 0), b""));
        let found = fs::metadata(scratch.path().join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(found.gid(), 0, "the inherited group is not the node's");
    }
    let inner = target.enter_directory(&target.root(), &directory_node(b"inner")).unwrap();
    clean(target.finish_directory(&inner, &directory_node(b"inner")));
    let found = fs::metadata(scratch.path().join("inner")).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o7777), (0, 0o755));
}

#[test]
fn times_before_the_epoch_and_beyond_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let target = open(scratch.path());
    let old = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
    let early = Node { modified_at: old, ..file_node(b"early", 0) };
    clean(target.write_small_file(&target.root(), &early, b""));
    let found = fs::metadata(scratch.path().join("early")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (-5, 999_999_999));
    assert_eq!(target.decide(&target.root(), &early).unwrap(), Decision::Skip);
    for nanoseconds in [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe] {
        let odd = Node { modified_at: Timestamp { seconds: 1, nanoseconds }, ..file_node(b"odd", 0) };
        let restored = target.write_small_file(&target.root(), &odd, b"").unwrap();
        assert_eq!(restored.problems[0].kind(), TargetErrorKind::Invalid);
    }
}

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
    let removed = target.remove_unlisted::<&[u8]>(&target.root(), &[]).unwrap();
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
    assert_eq!(target.remove_unlisted::<&[u8]>(&target.root(), &[]).unwrap().entries, TREE_DEPTH_MAX as u64);
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
        assert_eq!(target.remove_unlisted(&root, &keep).unwrap().entries, 3);
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
    assert_eq!(target.remove_unlisted(&target.root(), &keep).unwrap().entries, 0, "not asked for");
    drop(target);
    let dry = TargetOptions { delete: true, dry_run: true, ..TargetOptions::default() };
    let target = Target::open(scratch.path(), dry).unwrap();
    assert_eq!(target.remove_unlisted(&target.root(), &keep).unwrap().entries, 7);
    assert_eq!(names_in(scratch.path()), ["gone", "gone-too", "kept"]);
    drop(target);
    let target = Target::open(scratch.path(), TargetOptions { dry_run: false, ..dry }).unwrap();
    let unsorted: [&[u8]; 2] = [b"kept", b"absent"];
    assert_eq!(kind_of(target.remove_unlisted(&target.root(), &unsorted)), TargetErrorKind::Invalid);
    let removed = target.remove_unlisted(&target.root(), &keep).unwrap();
    assert_eq!((removed.entries, removed.problems.len(), target.counts().removed.get()), (7, 0, 7));
    assert_eq!(names_in(scratch.path()), ["kept"]);
    assert_eq!(names_in(&scratch.path().join("kept")), ["inner"]);

    // What is mounted inside is not the target's to delete.
    fill();
    let mounted_at = scratch.path().join("gone/c");
    let Some(_mounted) = Mounted::tmpfs(&mounted_at, "size=1m") else { return };
    fs::write(mounted_at.join("precious"), "x").unwrap();
    let removed = target.remove_unlisted(&target.root(), &keep).unwrap();
    assert_eq!((removed.entries, removed.problems.len()), (5, 1));
    assert_eq!(removed.problems[0].path(), mounted_at.as_os_str().as_bytes());
    assert_eq!(names_in(&mounted_at), ["precious"]);
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
            let _ = target.remove_unlisted(&directory, &[b"large"]).unwrap();
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
    drop((target, inner));
    let target = Target::open(scratch.path(), options(Overwrite::Never)).unwrap();
    target.enter_directory(&target.root(), &directory_node(b"inner")).unwrap();
    assert_eq!(target.counts().swept.get(), 2);
    assert_eq!(names_in(scratch.path()).len(), spared.len() + 1);
    assert!(names_in(&scratch.path().join("inner")).is_empty());
}

#[test]
fn attributes_are_set_kept_and_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("file");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8]| lsetxattr(&path, name, value, XattrFlags::empty());
    if set("user.probe", b"x").is_err() {
        return;
    }
    let target = open(scratch.path());
    let root = target.root();
    let file = Node {
        mode: 0o444,
        xattrs: vec![
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.large".to_vec(), vec![7; 2000]),
            (b"user.\xff".to_vec(), b"v".to_vec()),
        ],
        ..file_node(b"file", 1)
    };
    let holds = |name: &[u8], value: &[u8]| {
        let mut found = vec![0u8; 4096];
        let length = lgetxattr(&path, name, &mut found[..]).unwrap();
        assert_eq!(&found[..length], value);
    };
    clean(target.write_small_file(&root, &file, b"x"));
    holds(b"user.empty", b"");
    holds(b"user.large", &[7; 2000]);
    holds(b"user.\xff", b"v");
    assert!(!clean(target.fix_metadata(&root, &file)));
    // The file is read-only by now; an unprivileged owner's restore mends it nonetheless.
    let other = Node { xattrs: vec![(b"user.large".to_vec(), vec![7; 1999])], ..file };
    assert!(clean(target.fix_metadata(&root, &other)));
    holds(b"user.large", &[7; 1999]);
    assert!(lgetxattr(&path, "user.empty", &mut [0u8; 8][..]).is_err());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o444);
    // Invalid and too large ones are problems of the entry, and never a full disk.
    for (name, value) in [(&b"user.a\0b"[..], vec![]), (b"user.huge", vec![0; 60_000]), (b"nonsense", vec![])] {
        let odd = Node { xattrs: vec![(name.to_vec(), value)], ..file_node(b"odd", 0) };
        let restored = target.write_small_file(&root, &odd, b"").unwrap();
        assert!(restored.problems.iter().all(|problem| !problem.stops_run()), "{:?}", restored.problems);
        assert!(restored.problems.len() <= 1 && (restored.problems.len() == 1 || name == b"user.huge"));
    }
    let trusted = Node { xattrs: vec![(b"trusted.x".to_vec(), b"1".to_vec())], ..file_node(b"trusted", 0) };
    let restored = target.write_small_file(&root, &trusted, b"").unwrap();
    assert!(is_root() || (restored.problems.is_empty() && target.counts().trusted_skipped.get() == 1));
}

/// version 2; user::rwx, user:12345:r, group::r, mask::r, other::-
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\x39\x30\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

#[test]
fn acls_come_from_the_node_not_from_the_target() {
    let scratch = tempfile::tempdir().unwrap();
    if lsetxattr(scratch.path(), "system.posix_acl_default", ACL, XattrFlags::empty()).is_err() {
        return;
    }
    let target = open(scratch.path());
    let inner_node = directory_node(b"inner");
    let inner = target.enter_directory(&target.root(), &inner_node).unwrap();
    let plain = Node { mode: 0o664, ..file_node(b"plain", 0) };
    for parent in [target.root(), inner.clone()] {
        clean(target.write_small_file(&parent, &plain, b""));
        clean(target.write_special(&parent, &Node { mode: 0o664, ..node(b"fifo", NodeKind::Fifo) }));
    }
    let listed = Node {
        mode: 0o740,
        xattrs: vec![(b"system.posix_acl_access".to_vec(), ACL.to_vec())],
        ..file_node(b"listed", 0)
    };
    clean(target.write_small_file(&inner, &listed, b""));
    clean(target.finish_directory(&inner, &inner_node));
    for name in ["plain", "fifo", "inner", "inner/plain", "inner/fifo"] {
        let path = scratch.path().join(name);
        assert_eq!(llistxattr_query(&path).unwrap(), 0, "{name}");
        let mode = if name == "inner" { 0o755 } else { 0o664 };
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
    }
    let mut found = [0u8; 100];
    let path = scratch.path().join("inner/listed");
    let length = lgetxattr(&path, "system.posix_acl_access", &mut found[..]).unwrap();
    assert_eq!(&found[..length], ACL);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o740);
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
    clean(target.write_small_file(&target.root(), &file_node(b"fits", 1), b"x"));
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

/// Directories that withhold rights even from their owner are restored, and restored into again.
#[test]
fn closed_directories_open_for_their_owner() {
    let scratch = tempfile::tempdir().unwrap();
    let closed = Node { mode: 0o000, ..directory_node(b"closed") };
    for round in 0..2 {
        let target = open(scratch.path());
        let directory = target.enter_directory(&target.root(), &closed).unwrap();
        let file = Node { mode: 0o000, ..file_node(b"file", 1) };
        if round == 1 {
            assert_eq!(target.decide(&directory, &file).unwrap(), Decision::Skip);
            assert!(!clean(target.fix_metadata(&directory, &file)));
        }
        clean(target.write_small_file(&directory, &file, b"x"));
        clean(target.finish_directory(&directory, &closed));
        assert_eq!(fs::metadata(scratch.path().join("closed")).unwrap().mode() & 0o7777, 0);
    }
    let delete = TargetOptions { delete: true, ..TargetOptions::default() };
    fs::set_permissions(scratch.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let target = Target::open(scratch.path(), delete).unwrap();
    assert_eq!(target.remove_unlisted::<&[u8]>(&target.root(), &[]).unwrap().entries, 2);
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

#[test]
#[ignore]
fn zz_measure() {
    let count = 78_600u32;
    let bytes = vec![7u8; 4096];
    for threads in [1usize, 2] {
        let scratch = tempfile::tempdir().unwrap();
        let target = open(&scratch.path().join("t"));
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (target, bytes) = (&target, &bytes);
                scope.spawn(move || {
                    let mut directory = target.root();
                    for n in 0..count / threads as u32 {
                        if n % 16 == 0 {
                            directory = target
                                .enter_directory(&target.root(), &directory_node(format!("d{thread}-{n}").as_bytes()))
                                .unwrap();
                        }
                        let node = file_node(format!("f{n}").as_bytes(), 4096);
                        if target.decide(&directory, &node).unwrap() != Decision::Skip {
                            clean(target.write_small_file(&directory, &node, bytes));
                        }
                    }
                });
            }
        });
        println!("{threads} threads, target: {:?}", start.elapsed());
        let scratch = tempfile::tempdir().unwrap();
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (scratch, bytes) = (&scratch, &bytes);
                scope.spawn(move || {
                    use rustix::fs::*;
                    let mut fd = None;
                    for n in 0..count / threads as u32 {
                        if n % 16 == 0 {
                            let path = scratch.path().join(format!("d{thread}-{n}"));
                            fs::create_dir(&path).unwrap();
                            fd = Some(rustix::fs::open(&path, OFlags::DIRECTORY, Mode::empty()).unwrap());
                        }
                        let dir = fd.as_ref().unwrap();
                        let f = openat(
                            dir,
                            format!("f{n}"),
                            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
                            Mode::from_raw_mode(0o600),
                        )
                        .unwrap();
                        rustix::io::write(&f, bytes).unwrap();
                        fchmod(&f, Mode::from_raw_mode(0o640)).unwrap();
                        let t = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
                        futimens(&f, &Timestamps { last_access: t, last_modification: t }).unwrap();
                    }
                });
            }
        });
        println!("{threads} threads, bare, no rename: {:?}", start.elapsed());
    }
}

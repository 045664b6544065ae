//! Owners, modes, times, attributes and ACLs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{XattrFlags, lgetxattr, llistxattr_query, lsetxattr};

use super::{clean, directory_node, file_node, is_root, node, open, symlink_node};
use crate::format::node::{Node, NodeKind, Timestamp};
use crate::restore::target::{Decision, Target, TargetErrorKind, TargetOptions};

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

/// As Linux stores it: the version, then tag, permissions and id of each entry.
const ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x07\0\xff\xff\xff\xff\
    \x02\0\x04\0\x39\x30\0\0\
    \x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\
    \x20\0\0\0\xff\xff\xff\xff";

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
    assert_eq!(target.remove_unlisted::<&[u8]>(&target.root(), &[], Some(&[])).unwrap().entries, 2);
}

//! Tests of the local store: contract, races, leftovers, links, permissions.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, SystemTime};

use super::*;
use crate::env::SeededRandom;
use crate::store::contract::check_contract;
use crate::store::list_sorted;
use crate::store::probe::probe;

fn region() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = LocalStore::create(&directory.path().join("region")).expect("region");
    (directory, store)
}

fn kind<T>(result: Result<T, StoreError>) -> Option<StoreErrorKind> {
    result.err().map(|error| error.kind)
}

fn bytes(value: &[u8]) -> Payload {
    value.to_vec().into()
}

#[test]
fn keeps_the_contract() {
    let (_directory, store) = region();
    check_contract(&store, &SeededRandom::new(1)).expect("contract");
    let found = probe(&store, &SeededRandom::new(2)).expect("probe");
    assert!(found.put_if_absent && found.deletes);
}

#[test]
fn a_missing_region_is_not_an_empty_one() {
    let (directory, store) = region();
    let missing = directory.path().join("elsewhere");
    let error = LocalStore::open(&missing).err().expect("missing");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.detail.contains("is the disk mounted?"), "{error}");
    assert_eq!(kind(LocalStore::open(Path::new("relative"))), Some(StoreErrorKind::Invalid));
    assert_eq!(kind(LocalStore::create(Path::new("relative"))), Some(StoreErrorKind::Invalid));

    store.put_new("a", &bytes(b"1")).expect("put");
    fs::remove_dir_all(directory.path().join("region")).expect("remove");
    assert_eq!(kind(list_sorted(&store, "")), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(list_sorted(&store, "packs/")), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(store.get("a", 9)), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(store.get("a/b", 9)), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(store.size("a")), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(store.delete("a")), Some(StoreErrorKind::Unavailable));
    assert!(store.put_new("a", &bytes(b"1")).is_err());
}

#[test]
fn create_makes_parents_and_accepts_what_is_there() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("a/b/c");
    LocalStore::create(&path).expect("create").put_new("x", &bytes(b"1")).expect("put");
    let again = LocalStore::create(&path).expect("again");
    assert_eq!(again.get("x", 1).expect("get"), b"1");
    fs::write(directory.path().join("file"), b"").expect("file");
    assert_eq!(kind(LocalStore::open(&directory.path().join("file"))), Some(StoreErrorKind::Invalid));
}

#[test]
fn racing_puts_have_one_winner() {
    let (directory, _) = region();
    let path = directory.path().join("region");
    for round in 0..20 {
        let start = Arc::new(Barrier::new(6));
        let racers: Vec<_> = (0..6u8)
            .map(|racer| {
                // Stores of their own, as separate processes have.
                let (store, start) = (LocalStore::open(&path).expect("open"), start.clone());
                thread::spawn(move || {
                    start.wait();
                    store.put_new(&format!("new-{round}/object"), &bytes(&[racer; 5000]))
                })
            })
            .collect();
        let outcomes: Vec<_> = racers.into_iter().map(|racer| racer.join().expect("racer")).collect();
        let winners: Vec<_> = (0..6u8).filter(|racer| matches!(outcomes[*racer as usize], Ok(Put::Created))).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        for outcome in outcomes {
            assert!(matches!(kind(outcome), None | Some(StoreErrorKind::AlreadyExists)));
        }
        let store = LocalStore::open(&path).expect("open");
        assert_eq!(store.get(&format!("new-{round}/object"), 5000).expect("get"), [winners[0]; 5000]);
    }
    assert_eq!(fs::read_dir(path.join(TEMPORARY)).expect("temporary").count(), 0, "losers tidy up");
}

#[test]
fn racing_puts_of_the_same_bytes_all_succeed() {
    let (_directory, store) = region();
    let outcomes: Vec<Put> = thread::scope(|scope| {
        let put = || store.put_new("same/object", &bytes(&[7; 100_000])).expect("put");
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(put)).collect();
        racers.into_iter().map(|racer| racer.join().expect("racer")).collect()
    });
    assert_eq!(outcomes.iter().filter(|put| **put == Put::Created).count(), 1);
}

#[test]
fn the_hard_link_fallback_refuses_to_replace() {
    let (directory, store) = region();
    let call = Call { operation: "put", address: "test", name: "object" };
    let parent = store.made_directory(&call, "linked").expect("directory");
    for (content, wins) in [(&b"first"[..], true), (b"second", false)] {
        let temporary = store.write_temporary(&call, &bytes(content)).expect("temporary");
        let linked = link(&call, &temporary.directory, &temporary.leaf, &parent, "object").expect("link");
        assert_eq!(linked, wins);
    }
    assert_eq!(store.get("linked/object", 10).expect("get"), b"first");
    let left = fs::read_dir(directory.path().join("region").join(TEMPORARY)).expect("temporary").count();
    assert_eq!(left, 0);
}

#[test]
fn leftovers_are_not_objects_and_only_old_ones_are_swept() {
    let (directory, store) = region();
    store.put_new("a", &bytes(b"1")).expect("put");
    let temporary = directory.path().join("region").join(TEMPORARY);
    for (leaf, age) in [("1-0", 3), ("1-1", 30)] {
        let file = fs::File::create(temporary.join(leaf)).expect("leftover");
        file.set_modified(SystemTime::now() - Duration::from_secs(age * 3600)).expect("age");
    }
    let store = LocalStore::open(&directory.path().join("region")).expect("open");
    let names: BTreeSet<_> =
        fs::read_dir(&temporary).expect("read").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names, BTreeSet::from(["1-0".into()]));
    let listed = list_sorted(&store, "").expect("list");
    assert_eq!(listed, [Listed { name: "a".to_owned(), size: 1 }]);
    // A name in use by a leftover is stepped over.
    let own = temporary.join(format!("{}-0", std::process::id()));
    fs::write(own, b"other host").expect("leftover");
    LocalStore::open(&directory.path().join("region")).expect("open").put_new("b", &bytes(b"2")).expect("put");
}

#[test]
fn links_lead_nowhere() {
    let (directory, store) = region();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).expect("directory");
    fs::write(outside.join("secret"), b"secret").expect("file");
    let region = directory.path().join("region");
    symlink(outside.join("secret"), region.join("object")).expect("link");
    symlink(outside.join("new"), region.join("dangling")).expect("link");
    symlink(&outside, region.join("packs")).expect("link");
    for name in ["object", "dangling", "packs/secret"] {
        assert_eq!(kind(store.get(name, 99)), Some(StoreErrorKind::Other), "{name}");
        assert_eq!(kind(store.get_range(name, 0, 1)), Some(StoreErrorKind::Other), "{name}");
        assert_eq!(kind(store.size(name)), Some(StoreErrorKind::Other), "{name}");
        assert_eq!(kind(store.put_new(name, &bytes(b"x"))), Some(StoreErrorKind::Other), "{name}");
    }
    assert_eq!(kind(store.heal("packs/secret", &bytes(b"x"))), Some(StoreErrorKind::Other));
    assert_eq!(kind(store.delete("packs/secret")), Some(StoreErrorKind::Other));
    assert_eq!(kind(list_sorted(&store, "packs/")), Some(StoreErrorKind::Other));
    assert_eq!(kind(list_sorted(&store, "")), Some(StoreErrorKind::Other));
    // Healing replaces the link itself; deleting removes it.
    store.heal("object", &bytes(b"own")).expect("heal");
    store.delete("dangling").expect("delete");
    assert_eq!(fs::read(outside.join("secret")).expect("read"), b"secret");
    assert!(!outside.join("new").exists());
}

#[test]
fn a_file_or_fifo_in_the_way_is_an_error() {
    let (directory, store) = region();
    let region = directory.path().join("region");
    fs::write(region.join("packs"), b"").expect("file");
    assert_eq!(kind(store.put_new("packs/a", &bytes(b"x"))), Some(StoreErrorKind::Other));
    assert_eq!(kind(store.get("packs/a", 9)), Some(StoreErrorKind::Other));
    rustix::fs::mknodat(CWD, region.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("fifo");
    assert_eq!(kind(store.get("fifo", 9)), Some(StoreErrorKind::Other));
    assert_eq!(kind(list_sorted(&store, "")), Some(StoreErrorKind::Other));
    fs::create_dir(region.join("directory")).expect("directory");
    assert_eq!(kind(store.get("directory", 9)), Some(StoreErrorKind::NotFound));
    assert_eq!(store.size("directory").expect("size"), None);
    store.delete("directory").expect("no object to delete");
    assert!(region.join("directory").exists());
}

#[test]
fn foreign_entries_are_left_out_of_listings() {
    let (directory, store) = region();
    let region = directory.path().join("region");
    fs::create_dir(region.join("lost+found")).expect("directory");
    fs::write(region.join(".DS_Store"), b"").expect("file");
    store.put_new("packs/00/a", &bytes(b"x")).expect("put");
    assert_eq!(list_sorted(&store, "").expect("list").len(), 1);
}

#[test]
fn what_may_not_be_read_is_denied_not_empty() {
    if rustix::process::geteuid().is_root() {
        // Permissions don't bind root; the mapping is tested below.
        return;
    }
    let (directory, store) = region();
    store.put_new("packs/00/a", &bytes(b"x")).expect("put");
    let closed = directory.path().join("region/packs/00");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("close");
    assert_eq!(kind(list_sorted(&store, "")), Some(StoreErrorKind::Denied));
    assert_eq!(kind(store.get("packs/00/a", 9)), Some(StoreErrorKind::Denied));
    assert_eq!(kind(store.put_new("packs/00/b", &bytes(b"x"))), Some(StoreErrorKind::Denied));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).expect("open");
}

#[test]
fn system_errors_map_to_kinds() {
    for (errno, kind) in [
        (Errno::NOSPC, StoreErrorKind::Full),
        (Errno::DQUOT, StoreErrorKind::Full),
        (Errno::ACCESS, StoreErrorKind::Denied),
        (Errno::PERM, StoreErrorKind::Denied),
        (Errno::ROFS, StoreErrorKind::Full),
        (Errno::STALE, StoreErrorKind::Unavailable),
        (Errno::IO, StoreErrorKind::Other),
    ] {
        assert_eq!(kind_of(errno), kind);
    }
}

#[test]
fn a_full_disk_is_full_and_leaves_nothing() {
    // A small file system of our own needs privileges and a mount namespace: skipped without them.
    let directory = tempfile::tempdir().expect("temporary directory");
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new("mount").args(arguments).arg(directory.path()).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !rustix::process::geteuid().is_root() || !mount(&["-t", "tmpfs", "-o", "size=256k", "keepstone-test"]) {
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0).status();
        }
    }
    let _unmount = Unmount(directory.path());
    let store = LocalStore::open(directory.path()).expect("open");
    assert_eq!(kind(store.put_new("big", &bytes(&[1; 1 << 20]))), Some(StoreErrorKind::Full));
    assert_eq!(store.size("big").expect("size"), None);
    store.put_new("small", &bytes(&[1; 100_000])).expect("room again once the failed put is gone");

    // As a server puts: what still comes is read, told once, and the connection goes on.
    use crate::store::remote::message::{Reply, Request, read_frame, write_frame};
    use crate::store::remote::server::{Served, serve};
    let mut input = Vec::new();
    let mut say = |request: Request<'_>| write_frame(&mut input, &request.encode()).expect("memory");
    say(Request::Hello { version_min: 1, version_max: 1, create: false, path: "" });
    say(Request::Put { name: "big", heal: false, length: 1 << 20, first: b"" });
    (0..16).for_each(|_| say(Request::Piece(&[1; 1 << 16])));
    say(Request::Put { name: "other", heal: false, length: 50_000, first: &[2; 50_000] });
    let path = directory.path().to_owned();
    let role = crate::format::roster::Role::Owner;
    let mut output = Vec::new();
    serve(&Served { path, home: None, role, dataset: None, gate: None }, &mut &input[..], &mut output).expect("served");
    let (mut output, mut body, mut replies) = (&output[..], Vec::new(), Vec::new());
    while read_frame(&mut output, &mut body).expect("messages") {
        replies.push(match Reply::decode(&body).expect("a reply") {
            Reply::Failed { kind, .. } => format!("{kind:?}"),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(replies[1..], ["Ready", "Full", "Done { created: true }"]);
    assert_eq!(store.size("big").expect("size"), None);
}

#[test]
fn a_short_spool_file_is_an_error_and_leaves_nothing() {
    let (_directory, store) = region();
    let spool = tempfile::tempfile().expect("spool");
    spool.set_len(10).expect("length");
    let payload = Payload::File { file: Arc::new(spool), length: 11 };
    assert_eq!(kind(store.put_new("a", &payload)), Some(StoreErrorKind::Other));
    assert_eq!(store.size("a").expect("size"), None);
}

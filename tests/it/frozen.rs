//! Frozen repositories: what an earlier version wrote must stay readable for ever.
//!
//! `KEEPSTONE_WRITE_GOLDEN=1 cargo test --test it frozen` writes them anew under `tests/golden/`; only a
//! format that was never released may be written anew.

use crate::fixture::{World, noise, options, quick_target, write};
use keepstone::crypto::slot::Unlock;
use keepstone::env::{SeededRandom, StepClock, SystemClock, SystemRandom};
use keepstone::format::config::Suite;
use keepstone::index::MemoryIndex;
use keepstone::repo::fetch::Fetcher;
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::sync;
use keepstone::repo::{Located, RegionSpec};
use keepstone::report::Silent;
use keepstone::restore::target::Target;
use keepstone::restore::{Restore, restore};
use keepstone::store::local::LocalStore;
use keepstone::store::{Store, list_sorted};
use std::fmt::Write as _;
use std::fs::{create_dir_all, read_to_string, remove_dir_all};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

fn golden(suite: Suite) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1-suite{}", suite as u8))
}

fn source(root: &Path) {
    write(root, "text", b"What was written once is read for ever.\n");
    write(root, "empty", b"");
    write(root, "noise", &noise(1, 40_000));
    write(root, "a/b/c/deep", b"deep");
    write(root, "a/list", &noise(2, 3000).repeat(100));
    std::fs::hard_link(root.join("text"), root.join("a/again")).unwrap();
    std::os::unix::fs::symlink("../text", root.join("a/link")).unwrap();
    std::fs::write(root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\n")), b"odd")
        .unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 500_000).unwrap();
    std::fs::set_permissions(root.join("text"), PermissionsExt::from_mode(0o640)).unwrap();
    create_dir_all(root.join("nothing")).unwrap();
    let mut directories = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    let at = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
    for path in paths.iter().map(PathBuf::as_path).chain([root]) {
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What anybody's restore must give on any file system: no owners, no holes.
fn manifest(root: &Path) -> String {
    let mut text = String::new();
    for (path, fact) in crate::facts::facts(root) {
        let words: Vec<&str> = fact.split(' ').collect();
        let kept = words.iter().enumerate().filter(|(at, word)| {
            let owner = word.contains(':') && *at < 3;
            let hole = **word == "hole" || word.contains("..") && word.starts_with(|c: char| c.is_ascii_digit());
            !owner && !hole
        });
        let kept: Vec<&str> = kept.map(|(_, word)| *word).collect();
        writeln!(text, "{} {}", path.escape_ascii(), kept.join(" ")).unwrap();
    }
    text
}

/// Writes a repository of two snapshots. What age and HPKE draw by themselves differs from run to run.
fn freeze(suite: Suite) {
    let golden = golden(suite);
    if golden.exists() {
        remove_dir_all(&golden).unwrap();
    }
    create_dir_all(golden.join("region")).unwrap();
    let mut world = World::with_random(1, suite, Arc::new(SeededRandom::new(suite as u64)));
    world.clock = Arc::new(StepClock::starting_at(1_700_000_000));
    let directory = tempfile::tempdir().unwrap();
    source(directory.path());
    for tag in ["first", "second"] {
        let mut wanted = options(0);
        wanted.tags.insert(tag.to_owned());
        world.backup_as(&[0], directory.path(), &wanted).unwrap();
        std::fs::write(golden.join(format!("{tag}.manifest")), manifest(directory.path())).unwrap();
        write(directory.path(), "added", b"in the second snapshot");
        source_again(directory.path());
    }
    let store = &world.stores[0];
    for listed in list_sorted(store, "").unwrap() {
        let bytes = store.get(&listed.name, u64::MAX).unwrap();
        write(&golden.join("region"), &listed.name, &bytes);
    }
    std::fs::write(golden.join("identity"), format!("{}\n", world.identity)).unwrap();
    let pin = keepstone::format::ids::Digest(world.pin).to_string();
    std::fs::write(golden.join("pin"), format!("{pin}\n")).unwrap();
}

/// The times of what was added are fixed, too.
fn source_again(root: &Path) {
    let at = rustix::fs::Timespec { tv_sec: 1_600_000_001, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
    for path in [root.join("added"), root.to_owned()] {
        let none = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, none).unwrap();
    }
}

fn check(suite: Suite) {
    let golden = golden(suite);
    if std::env::var_os("KEEPSTONE_WRITE_GOLDEN").is_some() {
        freeze(suite);
    }
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&golden.join("region")).unwrap());
    let total: u64 = list_sorted(&store, "").unwrap().iter().map(|listed| listed.size).sum();
    assert!(total < 200 << 10, "{total} bytes are much for a repository that is kept for ever");
    let pin = read_to_string(golden.join("pin")).unwrap();
    let pin = keepstone::format::ids::Digest::from_hex(pin.trim()).unwrap().0;
    let located = Located::open(&[RegionSpec { name: "frozen".into(), store }], Some(pin)).unwrap();
    let unlock = Unlock::Identities(Zeroizing::new(read_to_string(golden.join("identity")).unwrap()));
    let repository = located.unlock(&unlock, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
    let index = MemoryIndex::new();
    assert_eq!(sync(&repository, &index, &Silent).unwrap(), []);
    let listing = list(&repository).unwrap();
    assert_eq!((listing.issues, listing.snapshots.len()), (vec![], 2));
    for (info, tag) in listing.snapshots.iter().zip(["first", "second"]) {
        assert_eq!(info.tags, [tag]);
        let fetcher = Fetcher::new(&repository, &index, &Silent, 1 << 20);
        let to = tempfile::tempdir().unwrap();
        let target = Target::open(&to.path().join("t"), quick_target()).unwrap();
        let wanted = Restore { verify: true, ..Restore::default() };
        let summary = restore(&fetcher, info.snapshot.root, &target, &wanted, &Silent, (0, 0)).unwrap();
        assert_eq!(summary.issues, []);
        let expected = read_to_string(golden.join(format!("{tag}.manifest"))).unwrap();
        assert_eq!(manifest(&to.path().join("t")), expected);
    }
}

#[test]
fn suite_1_is_read_for_ever() {
    check(Suite::ChaCha20Poly1305);
}

#[test]
fn suite_2_is_read_for_ever() {
    check(Suite::Aes256Gcm);
}

//! Damage: each kind of stored object × each thing that can happen to it.
//!
//! Whatever happens to an object of one region, nothing panics, no wrong byte is restored, and it is
//! named: by scrub where the bytes show it, by opening, or by check.

#[path = "../support/mod.rs"]
mod support;

use keepstone::check::{CheckError, CheckReport, Options, Subset, check, scrub};
use keepstone::format::ids::SnapshotId;
use keepstone::report::{IssueKind, Monitor, Silent};
use keepstone::store::faults::{Fault, FaultyStore, Operation, Trigger};
use keepstone::store::{Store, StoreErrorKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use support::{World, bytes, files, names, overwrite, source_tree, write};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Truncate,
    /// Cut to nothing.
    Empty,
    /// One bit in the byte this many thousandths into the object.
    Flip(usize),
    /// The bytes of another object of the kind.
    Swap,
    Delete,
}

const ACTIONS: [Action; 8] = [
    Action::Truncate,
    Action::Empty,
    Action::Flip(0),
    Action::Flip(130),
    Action::Flip(500),
    Action::Flip(999),
    Action::Swap,
    Action::Delete,
];

/// Prefixes of the kinds.
const KINDS: [&str; 10] =
    ["config", "region", "roster/", "ring/", "keys/", "packs/", "index/", "sessions/", "snapshots/", "commits/"];

struct Sample {
    world: World,
    /// Another repository with as many objects.
    foreign: World,
    snapshots: Vec<SnapshotId>,
    /// What the last snapshot holds.
    expected: BTreeMap<PathBuf, Vec<u8>>,
}

fn sample() -> Sample {
    let source = source_tree();
    let world = World::new(&["near", "far"], 1);
    let foreign = World::new(&["near", "far"], 2);
    let mut snapshots = Vec::new();
    for world in [&foreign, &world] {
        write(&source.path().join("hello"), b"hello\n");
        snapshots = vec![world.backup(source.path()).snapshot.expect("saved")];
        write(&source.path().join("hello"), b"hello again\n");
        snapshots.push(world.backup(source.path()).snapshot.expect("saved"));
    }
    Sample { world, foreign, snapshots, expected: files(source.path()) }
}

fn checked(world: &World, read_data: bool) -> Result<CheckReport, String> {
    let repository = world.open().map_err(|error| error.to_string())?;
    // Either way of keeping what refers to what: in memory, or put aside as soon as possible.
    let spill = (!read_data).then(std::env::temp_dir);
    let options = Options { read_data: read_data.then_some(Subset::All), threads: 2, memory_bytes: 0, spill };
    check(&repository, None, &options, &Silent).map_err(|error| error.to_string())
}

/// Does it to an object of a kind.
fn damage(store: &dyn Store, foreign: &dyn Store, kind: &str, name: &str, action: Action) {
    let whole = bytes(store, name);
    let changed = match action {
        Action::Delete => {
            store.delete(name).expect("deleted");
            return;
        }
        Action::Truncate => whole[..whole.len() - 1].to_vec(),
        Action::Empty => Vec::new(),
        Action::Flip(thousandths) => {
            let mut flipped = whole.clone();
            let at = whole.len() * thousandths / 1000;
            flipped[at] ^= 1 << (thousandths % 8);
            flipped
        }
        Action::Swap => match names(store, kind).iter().find(|other| *other != name) {
            Some(other) => bytes(store, other),
            None => bytes(foreign, &names(foreign, kind)[0]),
        },
    };
    assert_ne!(changed, whole);
    overwrite(store, name, changed);
}

/// True where only comparing the whole repository, or nothing at all, shows it.
fn invisible_to_scrub(kind: &str, action: Action) -> bool {
    match action {
        // Absence can't be seen, but for the two objects that every region has.
        Action::Delete => !matches!(kind, "config" | "region"),
        // A region's own config can't tell that it is another repository's; all else then looks foreign.
        // Sessions and commits of one repository carry no digest in their names.
        Action::Swap => matches!(kind, "sessions/" | "commits/" | "keys/"),
        // Key files carry no digest: only their first line is looked at.
        Action::Flip(thousandths) => kind == "keys/" && thousandths > 0,
        Action::Truncate => kind == "keys/",
        Action::Empty => false,
    }
}

#[test]
fn a_whole_repository_is_sound() {
    let sample = sample();
    for read_data in [false, true] {
        let report = checked(&sample.world, read_data).expect("checked");
        assert!(report.is_sound() && !report.is_pending(), "{report:?}");
        assert!(report.notices.is_empty(), "{:?}", report.notices);
        for region in &report.regions {
            assert_eq!((region.snapshots, region.packs_missing, region.packs_orphan), (2, 0, 0));
            assert_eq!(region.chunks_reached, region.chunks, "nothing is stored twice here");
            assert_eq!(region.packs_read, if read_data { region.packs } else { 0 });
            assert_eq!(region.chunks_verified, if read_data { region.chunks } else { 0 });
        }
    }
    for (name, store) in &sample.world.regions {
        let report = scrub(name, store, 2, &Silent).expect("scrubbed");
        assert_eq!((report.issues_total, report.notices.len()), (0, 0), "{report:?}");
        assert_eq!(report.objects, names(store, "").len() as u64);
    }
}

#[test]
fn every_damage_is_named_and_no_wrong_byte_is_restored() {
    let sample = sample();
    let mut failures = Vec::new();
    let mut cases = Vec::new();
    for kind in KINDS {
        let listed = names(sample.world.store("near"), kind);
        assert!(!listed.is_empty(), "there is one of each kind");
        // Packs and segments differ in what they hold; of the others one stands for all.
        let count = if matches!(kind, "packs/" | "index/") { listed.len() } else { 1 };
        for name in &listed[..count] {
            cases.extend(ACTIONS.map(|action| (kind, name.clone(), action)));
        }
    }
    for (kind, name, action) in cases {
        let case = format!("{action:?} {name}");
        let world = sample.world.fork();
        let (near, foreign) = (world.store("near").clone(), sample.foreign.store("near"));
        damage(&near, foreign, kind, &name, action);

        let scrubbed = scrub("near", &near, 1, &Silent).expect("a memory store answers");
        let seen = scrubbed.issues_total > 0;
        if seen == invisible_to_scrub(kind, action) {
            failures.push(format!("{case}: scrub: {:?}", scrubbed.issues));
        }

        // Both regions, then the damaged one by itself.
        for world in [world.clone(), world.only(&["near"])] {
            let alone = world.regions.len() == 1;
            for read_data in [false, true] {
                match checked(&world, read_data) {
                    // An error that stops everything names the object or what it stands for.
                    Err(error) => {
                        let prefix = kind.trim_end_matches('/');
                        let told = error.contains(prefix) || (prefix == "keys" && error.contains("key"));
                        let told = told || error.contains("no repository") || error.contains("pinned");
                        if !told {
                            failures.push(format!("{case}: read {read_data}: unclear: {error}"));
                        }
                    }
                    Ok(report) => {
                        let named = report.issues.iter().any(|issue| {
                            String::from_utf8_lossy(&issue.subject).contains(name.trim_end_matches(".age"))
                        });
                        let undetectable = match (kind, action) {
                            // Nothing refers to a session's state, or to a lone region's commit.
                            ("sessions/", Action::Delete) => true,
                            ("commits/", Action::Delete) => alone || report.is_pending(),
                            // Then it counts as not reached, which the program tells, while another one is.
                            ("config", Action::Delete) => !alone,
                            // Only reading shows damage inside a pack that keeps its length.
                            ("packs/", Action::Flip(_)) => !read_data,
                            // Told as roster/<n>-* and keys/<slot>/*.age, or as what is not listed any more.
                            ("roster/" | "keys/" | "index/", Action::Delete) => !report.is_sound(),
                            _ => false,
                        };
                        if !named && !undetectable {
                            failures.push(format!("{case}: alone {alone}, read {read_data}: {:?}", report.issues));
                        }
                    }
                }
            }
            restored_is_right(&sample, &world, &case, alone, kind, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Restores the last snapshot: every file is right, or is an issue, or nothing is restored at all.
fn restored_is_right(sample: &Sample, world: &World, case: &str, alone: bool, kind: &str, failures: &mut Vec<String>) {
    let target = tempfile::tempdir().expect("a temporary directory");
    let last = *sample.snapshots.last().expect("two");
    match world.restore(last, target.path()) {
        Ok(summary) => {
            let restored = files(target.path());
            let said = |path: &PathBuf| {
                let path = path.as_os_str().as_encoded_bytes();
                // A directory that can't be read stands for all that is below it.
                summary.issues.iter().any(|issue| path.starts_with(&issue.subject))
            };
            for (path, content) in &sample.expected {
                match restored.get(path) {
                    Some(found) if found == content => {}
                    Some(_) => failures.push(format!("{case}: alone {alone}: {path:?} is restored wrongly")),
                    None if said(path) => {}
                    None => failures.push(format!("{case}: alone {alone}: {path:?} is missing and not said")),
                }
            }
            // The other region holds everything.
            if !alone && !summary.issues.is_empty() {
                failures.push(format!("{case}: both regions: {:?}", summary.issues));
            }
        }
        Err(error) => {
            // Another repository's config makes two repositories of one.
            let other_helps = kind != "config" || !case.starts_with("Swap");
            if !alone && other_helps {
                failures.push(format!("{case}: both regions: nothing is restored: {error}"));
            }
        }
    }
}

#[test]
fn a_lost_segment_breaks_the_snapshots_that_need_it() {
    let sample = sample();
    let world = sample.world.fork();
    let near = world.store("near");
    names(near, "index/").iter().for_each(|name| near.delete(name).expect("deleted"));
    let report = checked(&world, false).expect("checked");
    let region = &report.regions[0];
    assert_eq!(region.snapshots_broken.len(), 2, "{report:?}");
    assert_eq!(region.packs_orphan, names(near, "packs/").len() as u64);
    assert!(report.regions[1].snapshots_broken.is_empty());
    assert!(!report.is_sound());
}

#[test]
fn a_lost_data_pack_breaks_only_what_refers_to_it() {
    let sample = sample();
    let world = sample.world.fork();
    let near = world.store("near");
    let mut broken = Vec::new();
    for name in names(near, "packs/") {
        let whole = bytes(near, &name);
        near.delete(&name).expect("deleted");
        let report = checked(&world, false).expect("checked");
        assert_eq!(report.regions[0].packs_missing, 1);
        broken.push(report.regions[0].snapshots_broken.len());
        overwrite(near, &name, whole);
    }
    broken.sort_unstable();
    // What each backup stored anew is its own; what the first stored is shared.
    assert_eq!(broken.iter().filter(|count| **count == 0).count(), 0, "{broken:?}");
    assert!(broken.contains(&1) && broken.contains(&2), "{broken:?}");
}

#[test]
fn a_region_that_lacks_a_commit_is_pending() {
    let sample = sample();
    let world = sample.world.fork();
    let far = world.store("far");
    far.delete(&names(far, "commits/")[0]).expect("deleted");
    let report = checked(&world, true).expect("checked");
    assert!(report.is_sound() && report.is_pending(), "{report:?}");
    assert_eq!(report.pending[0].regions, ["far"]);
}

#[test]
fn a_part_of_the_data_is_read_and_all_parts_are_everything() {
    let sample = sample();
    let repository = sample.world.open().expect("opens");
    let mut read = 0;
    for part in 1..=3 {
        let options = Options { read_data: Some(Subset::Part { part, of: 3 }), threads: 1, ..Options::default() };
        let report = check(&repository, None, &options, &Silent).expect("checked");
        read += report.regions[0].packs_read;
    }
    assert_eq!(read, names(sample.world.store("near"), "packs/").len() as u64);
}

#[test]
fn a_slot_without_payload_keys_checks_the_structure_only() {
    use keepstone::crypto::keyring::Keyring;
    let sample = sample();
    let mut repository = sample.world.open().expect("opens");
    let mut rings = repository.keyring.rings().clone();
    rings.values_mut().for_each(|ring| ring.seal_private = None);
    let keyring = Keyring::new(repository.config.repository, repository.config.suite, rings);
    repository.keyring = std::sync::Arc::new(keyring.expect("a ring"));
    let report = check(&repository, None, &Options::default(), &Silent).expect("checked");
    assert!(report.is_sound() && report.regions[0].chunks_reached > 0, "{report:?}");
    let options = Options { read_data: Some(Subset::All), threads: 1, ..Options::default() };
    let refused = check(&repository, None, &options, &Silent);
    assert!(matches!(refused, Err(CheckError::NotPermitted)));
}

#[test]
#[allow(clippy::result_large_err, reason = "an error is made once a check, not in a loop")]
fn a_store_that_stops_answering_is_never_sound() {
    let sample = sample();
    let failing = |kind| {
        let store = FaultyStore::new(sample.world.store("near").fork());
        store.inject(Trigger::on(Operation::GetRange).under("packs/").nth(2), Fault::Fail(kind));
        scrub("near", &store, 1, &Silent)
    };
    assert!(matches!(failing(StoreErrorKind::Unavailable), Err(CheckError::Store { .. })));
    // A medium that can't read one object is that object's damage; the others are checked.
    let report = failing(StoreErrorKind::Other).expect("the rest is scrubbed");
    assert_eq!((report.issues_total, report.issues[0].kind), (1, IssueKind::Unreadable));
    // What reads come back as counts, not what is stored.
    let store = FaultyStore::new(sample.world.store("near").fork());
    store.inject(Trigger::on(Operation::GetRange).under("index/").nth(1), Fault::FlipBit(77));
    assert_eq!(scrub("near", &store, 1, &Silent).expect("scrubbed").issues_total, 1);
}

#[test]
fn a_check_that_cannot_put_aside_what_it_must_is_no_check() {
    let sample = sample();
    let repository = sample.world.open().expect("opens");
    let directory = std::env::temp_dir().join("keepstone-that-is-not-there");
    let options = Options { memory_bytes: 0, spill: Some(directory.clone()), ..Options::default() };
    match check(&repository, None, &options, &Silent) {
        Err(error @ CheckError::Graph(_)) => assert!(error.to_string().contains(&directory.display().to_string())),
        other => panic!("{other:?}"),
    }
    // With memory enough it asks for no room.
    let options = Options { memory_bytes: 16 << 20, ..options };
    assert!(check(&repository, None, &options, &Silent).expect("checked").is_sound());
}

#[test]
fn a_stop_is_an_error() {
    struct Stopped;
    impl Monitor for Stopped {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let sample = sample();
    let stopped = scrub("near", sample.world.store("near"), 1, &Stopped);
    assert!(matches!(stopped, Err(CheckError::Cancelled)));
    let repository = sample.world.open().expect("opens");
    assert!(matches!(check(&repository, None, &Options::default(), &Stopped), Err(CheckError::Cancelled)));
}

#[test]
fn strangers_and_leftovers_are_notices() {
    let sample = sample();
    let world = sample.world.fork();
    let near = world.store("near");
    near.put_new("probe/00/object", &vec![1].into()).expect("put");
    near.put_new("attest/x", &vec![1].into()).expect("put");
    let report = scrub("near", near, 1, &Silent).expect("scrubbed");
    assert_eq!((report.issues_total, report.notices.len()), (0, 2), "{report:?}");
}

#[test]
fn an_index_that_says_other_things_is_noticed() {
    use keepstone::index::{Index, MemoryIndex};
    use keepstone::repo::sync;
    let sample = sample();
    let repository = sample.world.open().expect("opens");
    let index = MemoryIndex::new();
    sync::sync(&repository, &index, &Silent).expect("synced");
    let options = Options::default();
    let report = check(&repository, Some(&index), &options, &Silent).expect("checked");
    assert!(!report.index_stale, "{:?}", report.notices);
    // One that takes a segment for known without knowing its packs.
    let wrong = MemoryIndex::new();
    let region = repository.regions[0].info.region;
    for id in index.segments(region).expect("segments").into_keys() {
        wrong.ingest(id, 100, &Default::default(), &[region]).expect("ingested");
    }
    let report = check(&repository, Some(&wrong), &options, &Silent).expect("checked");
    assert!(report.index_stale && report.is_sound());
    assert!(report.notices[0].contains("cache rebuild"), "{:?}", report.notices);
}

//! What a snapshot has no room for: refused before anything is read, or counted and not listed; never stored
//! so that nobody can read it again.

use crate::fixture::{World, noise};
use crate::program::Program;
use keepstone::crypto::CryptoError;
use keepstone::crypto::object::build_sealed;
use keepstone::format::envelope::ObjectKind;
use keepstone::format::snapshot::{NotCaptured, NotCapturedList, SnapshotPrivate, has_room_for_sources};
use keepstone::limits::{NOT_CAPTURED_LISTED_MAX, OBJECT_BYTES_MAX, PATH_BYTES_MAX, SOURCES_BYTES_TARGET, SOURCES_MAX};
use keepstone::repo::snapshots::{list, open_private, seal_private};

/// A path that doesn't compress.
fn path(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).into_iter().map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte }).collect()
}

#[test]
fn more_sources_than_a_snapshot_names_are_refused_before_any_is_looked_at() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    let before = program.listing("one");
    // None of them exists, which would be exit code 12.
    let listed: Vec<Vec<u8>> = (0..80_000u32).map(|number| format!("/none/{number:0>150}\0").into_bytes()).collect();
    std::fs::write(program.path("list"), listed.concat()).unwrap();
    let error = program.run(["--json", "backup", "--files-from0", "list"]).expect(15).error();
    assert_eq!(error["class"], "limit");
    let (message, hint) = (error["message"].as_str().unwrap(), error["hint"].as_str().unwrap());
    assert!(message.contains("80000 source paths") && hint.contains("--exclude"), "{message}; {hint}");
    assert_eq!(before, program.listing("one"));
    program.run(["snapshots", "--details"]).expect(0);
}

#[test]
fn what_is_listed_as_not_captured_is_cut_by_its_bytes_and_counted_whole() {
    let program = Program::new();
    let directory = (0..9).map(|_| "d".repeat(250)).collect::<Vec<_>>().join("/");
    let first = program.write(&format!("{directory}/kept"), b"content");
    for number in 0..1200 {
        std::fs::write(first.with_file_name(format!("{number:0>248}.x")), b"").unwrap();
    }
    let saved = program.backup(&["--exclude", "*.x"]);
    assert_eq!((&saved["omitted"], &saved["files"]), (&1200.into(), &1.into()));
    let details = program.snapshots(&["--details"])[0]["details"].clone();
    let shown = details["omitted"].as_array().unwrap().len();
    assert!((700..1200).contains(&shown), "{shown} are listed");
    program.run(["check"]).expect(0);
}

#[test]
fn a_list_takes_what_has_room_in_order_and_shortens_what_no_reader_takes() {
    let item = |length| NotCaptured { path: path(1, length), why: "é".repeat(200), detail: "é".repeat(3000) };
    let mut list = NotCapturedList::default();
    [PATH_BYTES_MAX + 300, 10].into_iter().for_each(|length| list.push(item(length)));
    let listed = list.into_listed();
    assert_eq!(listed.iter().map(|item| item.path.len()).collect::<Vec<_>>(), [PATH_BYTES_MAX, 10]);
    let private = SnapshotPrivate { issues: listed, ..SnapshotPrivate::default() };
    assert_eq!(SnapshotPrivate::decode(&private.encode()).unwrap(), private);

    let mut list = NotCapturedList::default();
    let small = || NotCaptured { path: b"small".to_vec(), why: "socket".into(), detail: String::new() };
    (0..100).for_each(|_| list.push(item(PATH_BYTES_MAX)));
    // What comes later isn't listed past a gap.
    list.push(small());
    let listed = list.into_listed();
    assert!((20..40).contains(&listed.len()) && listed.iter().all(|item| item.path.len() == PATH_BYTES_MAX));
    let mut list = NotCapturedList::default();
    (0..NOT_CAPTURED_LISTED_MAX + 1).for_each(|_| list.push(small()));
    assert_eq!(list.into_listed().len(), NOT_CAPTURED_LISTED_MAX);
}

#[test]
fn the_fullest_snapshot_that_is_stored_can_be_read_again() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    world.backup(&[0], source.path(), 0).unwrap();
    let repository = world.open(&[0]).unwrap();
    let mut snapshot = list(&repository).unwrap().snapshots.remove(0).snapshot;
    let full = || {
        let mut list = NotCapturedList::default();
        let item = |seed| NotCaptured { path: path(seed, 1000), why: "socket".into(), detail: "x".repeat(1000) };
        (0..5000).for_each(|seed| list.push(item(seed)));
        list.into_listed()
    };
    let sources: Vec<Vec<u8>> = (0..).map(|seed| path(seed, 4000)).take(SOURCES_BYTES_TARGET / 4005).collect();
    assert!(has_room_for_sources(sources.iter().map(Vec::len)));
    assert!(!has_room_for_sources(sources.iter().map(Vec::len).chain([4000])));
    assert!(!has_room_for_sources([PATH_BYTES_MAX + 1].into_iter()));
    assert!(!has_room_for_sources(std::iter::repeat_n(1, SOURCES_MAX + 1)));
    let (root_path, command) = (path(1, PATH_BYTES_MAX), path(2, PATH_BYTES_MAX));
    let private = SnapshotPrivate { sources, root_path, command, omitted: full(), issues: full() };
    snapshot.private = seal_private(&repository, &private).unwrap();
    assert_eq!(open_private(&repository, &snapshot).unwrap(), private);
    let (keyring, random) = (&repository.keyring, &*repository.random);
    let built = |payload| build_sealed(ObjectKind::Snapshot, keyring, &repository.signer(), payload, random);
    assert!(built(snapshot.encode()).unwrap().0.len() <= OBJECT_BYTES_MAX);

    // Plain text that compresses well would be stored, and never be read.
    let private = SnapshotPrivate { sources: vec![vec![b'x'; 4000]; 4200], ..SnapshotPrivate::default() };
    let refused = seal_private(&repository, &private).unwrap_err();
    assert!(matches!(refused, CryptoError::TooLarge { bytes_max: OBJECT_BYTES_MAX, .. }), "{refused}");
    let private = SnapshotPrivate { root_path: vec![b'x'; PATH_BYTES_MAX + 1], ..SnapshotPrivate::default() };
    assert!(seal_private(&repository, &private).is_err());
    assert!(matches!(built(vec![0; OBJECT_BYTES_MAX]).unwrap_err(), CryptoError::TooLarge { .. }));
}

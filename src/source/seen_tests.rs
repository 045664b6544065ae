//! Tests of the cache of seen files: round trips, order, and that no damage is ever taken for a record.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Identity;
use super::seen::{SeenEntry, SeenError, SeenReader, SeenRecord, SeenStamp, SeenWriter, is_unchanged, seen_end};
use super::seen_record::path_order;
use crate::format::ids::{ChunkId, RepositoryId, SnapshotId};
use crate::format::node::{Content, Extent, Timestamp};

const STARTED_AT: i64 = 1_700_000_000_000_000_000;

fn stamp() -> SeenStamp {
    SeenStamp::new(RepositoryId([1; 16]), "home", Path::new("/home"), b"epoch 1")
}

fn time(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp { seconds, nanoseconds }
}

fn sample(number: u64) -> (Vec<u8>, SeenEntry) {
    let path = format!("dir {:04}/file {:06}", number / 20, number).into_bytes();
    let id = |salt: u64| ChunkId(*blake3::hash(&(number * 3 + salt).to_le_bytes()).as_bytes());
    let chunk = |salt, length| Extent::Chunk { id: id(salt), length };
    let (content, size) = match number % 5 {
        0 => (Content::Inline(vec![]), 0),
        1 => (Content::List(id(0)), u64::MAX - number),
        2 => (Content::Inline(vec![chunk(0, 5), Extent::Hole { length: 1 << 50 }, chunk(1, 7)]), (1 << 50) + 12),
        _ => (Content::Inline(vec![chunk(0, 4096)]), 4096),
    };
    let identity = Identity {
        device: 64 + number / 100,
        inode: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        size,
        modified_at: time(number as i64 - 500, 123),
        changed_at: if number.is_multiple_of(2) { time(number as i64 - 500, 123) } else { time(i64::MIN, 999_999_999) },
    };
    (path, SeenEntry { identity, content, plain: number.is_multiple_of(3) })
}

fn write(path: &Path, count: u64) {
    let mut writer = SeenWriter::create(path, &stamp(), STARTED_AT).unwrap();
    for number in 0..count {
        let (path, entry) = sample(number);
        writer
            .append(&SeenRecord { path: &path, identity: &entry.identity, content: &entry.content, plain: entry.plain })
            .unwrap();
    }
    writer.commit(SnapshotId([9; 32])).unwrap();
}

fn cache() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seen");
    (directory, path)
}

#[test]
fn what_was_written_is_found_and_nothing_else() {
    let (_directory, path) = cache();
    write(&path, 3000);
    let mut reader = SeenReader::open(&path, &stamp()).unwrap();
    assert_eq!((reader.base(), reader.scan_started_at()), (SnapshotId([9; 32]), STARTED_AT));
    assert_eq!(reader.lookup(b"absent before all"), None);
    for number in (0..3000).filter(|number| number % 3 != 1) {
        let (path, entry) = sample(number);
        assert_eq!(reader.lookup(&path).as_ref(), Some(&entry));
        assert_eq!(reader.lookup(&path).as_ref(), Some(&entry), "asking twice is allowed");
        assert_eq!(reader.lookup(&[&path[..], b"+"].concat()), None);
    }
    assert_eq!(reader.lookup(b"z"), None);
    assert!(reader.stopped().is_none());
}

#[test]
fn the_order_is_that_of_the_walk() {
    let ascending: [&[u8]; 8] = [b"a", b"a/b", b"a/b/c", b"a\x01", b"a-b", b"a.b/c", b"ab", b"\xff"];
    for (i, a) in ascending.iter().enumerate() {
        for (j, b) in ascending.iter().enumerate() {
            assert_eq!(path_order(a, b), i.cmp(&j), "{a:?} {b:?}");
            let by_name = a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/'));
            assert_eq!(path_order(a, b), by_name);
        }
    }
    assert_eq!(path_order(b"long enough for words/x", b"long enough for words.x"), Ordering::Less);
}

#[test]
fn records_and_lookups_out_of_order_find_nothing_wrong() {
    let (_directory, path) = cache();
    let (_, entry) = sample(3);
    let mut writer = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    let record = |path| SeenRecord { path, identity: &entry.identity, content: &entry.content, plain: entry.plain };
    writer.append(&record(b"b")).unwrap();
    for late in [&b"b"[..], b"a", b"a/z"] {
        assert!(matches!(writer.append(&record(late)), Err(SeenError::Order { .. })));
    }
    writer.append(&record(b"b/a")).unwrap();
    writer.append(&record(b"b.a")).unwrap();
    writer.commit(SnapshotId::default()).unwrap();

    let mut reader = SeenReader::open(&path, &stamp()).unwrap();
    assert!(reader.lookup(b"b/a").is_some());
    assert_eq!(reader.lookup(b"b"), None);
    assert!(reader.lookup(b"b.a").is_some());
    assert!(reader.stopped().is_none());
}

#[test]
fn content_that_does_not_add_up_is_not_recorded() {
    let (_directory, path) = cache();
    let (_, mut entry) = sample(3);
    entry.identity.size += 1;
    let mut writer = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    writer
        .append(&SeenRecord { path: b"a", identity: &entry.identity, content: &entry.content, plain: entry.plain })
        .unwrap();
    writer.commit(SnapshotId::default()).unwrap();
    assert_eq!(SeenReader::open(&path, &stamp()).unwrap().lookup(b"a"), None);
}

#[test]
fn foreign_missing_and_unfinished_caches_are_absent() {
    let (directory, path) = cache();
    assert!(matches!(SeenReader::open(&path, &stamp()), Err(SeenError::Missing { .. })));
    write(&path, 10);
    let others = [
        SeenStamp::new(RepositoryId([2; 16]), "home", Path::new("/home"), b"epoch 1"),
        SeenStamp::new(RepositoryId([1; 16]), "hom", Path::new("e/home"), b"epoch 1"),
        SeenStamp::new(RepositoryId([1; 16]), "home", Path::new("/home"), b"epoch 2"),
    ];
    for other in others {
        assert!(matches!(SeenReader::open(&path, &other), Err(SeenError::Foreign { .. })));
    }
    // A writer that is dropped leaves the last cache and nothing else.
    let writer = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    drop(writer);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(SeenReader::open(&path, &stamp()).unwrap().lookup(&sample(0).0).is_some());

    // What a crash left is removed, what another writer is at is not.
    fs::write(directory.path().join("seen.unfinished-1-0"), b"left").unwrap();
    let first = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    let second = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    first.commit(SnapshotId([1; 32])).unwrap();
    second.commit(SnapshotId([2; 32])).unwrap();
    assert_eq!(SeenReader::open(&path, &stamp()).unwrap().base(), SnapshotId([2; 32]));
}

/// Reads all of a damaged cache; every answer must be right or absent. True if the damage was noticed.
fn reads_nothing_wrong(path: &Path, samples: &[(Vec<u8>, SeenEntry)]) -> bool {
    let Ok(mut reader) = SeenReader::open(path, &stamp()) else { return true };
    for (path, entry) in samples {
        if let Some(found) = reader.lookup(path) {
            assert_eq!(found, *entry);
        }
    }
    reader.lookup(b"z");
    reader.stopped().is_some()
}

#[test]
fn no_damage_is_taken_for_a_record() {
    let (_directory, path) = cache();
    let count = 2000;
    write(&path, count);
    let samples: Vec<_> = (0..count).map(sample).collect();
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 100_000, "several blocks");
    let everywhere = (0..400).chain((400..whole.len() - 400).step_by(997)).chain(whole.len() - 400..whole.len());
    for at in everywhere {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        assert!(reads_nothing_wrong(&path, &samples), "a flip at {at} went unnoticed");
    }
    for length in (0..whole.len()).step_by(1009) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(reads_nothing_wrong(&path, &samples), "a cut at {length} went unnoticed");
    }
    // The same block twice, each with a matching check.
    let block_length = u32::from_le_bytes(whole[116..120].try_into().unwrap()) as usize + 20;
    let mut doubled = whole[..116 + block_length].to_vec();
    doubled.extend_from_slice(&whole[116..]);
    fs::write(&path, &doubled).unwrap();
    assert!(reads_nothing_wrong(&path, &samples));
}

#[test]
fn only_an_equal_and_settled_identity_is_unchanged() {
    let started = 1000 * 1_000_000_000i64;
    let seen = Identity { device: 1, inode: 2, size: 3, modified_at: time(900, 5), changed_at: time(950, 5) };
    assert!(is_unchanged(&seen, &seen, started, false));
    let changes: [fn(&mut Identity); 4] = [
        |identity| identity.inode += 1,
        |identity| identity.size += 1,
        |identity| identity.modified_at.nanoseconds += 1,
        |identity| identity.changed_at.seconds += 1,
    ];
    for change in changes {
        let mut now = seen;
        change(&mut now);
        assert!(!is_unchanged(&now, &seen, started, true));
    }
    let moved = Identity { device: 7, ..seen };
    assert!(is_unchanged(&moved, &seen, started, true) && !is_unchanged(&moved, &seen, started, false));
    for (racy, expected) in [
        (time(1000, 0), false),
        (time(1000, 1), false),
        (time(2000, 1), false),
        (time(999, 995_000_000), false),
        (time(999, 980_000_000), true),
        // Without fractions, a second that a file system rounded down.
        (time(999, 0), false),
        (time(997, 0), true),
        (time(i64::MIN, 0), true),
    ] {
        let by_change = Identity { changed_at: racy, ..seen };
        assert_eq!(is_unchanged(&by_change, &by_change, started, false), expected, "{racy:?}");
        let by_modification = Identity { modified_at: racy, ..seen };
        assert_eq!(is_unchanged(&by_modification, &by_modification, started, false), expected, "{racy:?}");
    }
}

/// Prints records a second; run alone, optimized.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_seen_cache() {
    let (_directory, path) = cache();
    let count = 2_000_000u64;
    let id = ChunkId([7; 32]);
    let content = Content::Inline(vec![Extent::Chunk { id, length: 4096 }]);
    let identity = Identity {
        device: 1,
        inode: 99_999,
        size: 4096,
        modified_at: time(1_690_000_000, 5),
        changed_at: time(1_690_000_001, 5),
    };
    let paths: Vec<Vec<u8>> =
        (0..count).map(|n| format!("usr/share/doc/package-{:05}/some file {:07}", n / 20, n).into_bytes()).collect();
    let started = Instant::now();
    let mut writer = SeenWriter::create(&path, &stamp(), STARTED_AT).unwrap();
    for path in &paths {
        writer.append(&SeenRecord { path, identity: &identity, content: &content, plain: true }).unwrap();
    }
    writer.commit(SnapshotId::default()).unwrap();
    println!("write: {:.1} M/s", count as f64 / started.elapsed().as_secs_f64() / 1e6);
    let started = Instant::now();
    let mut reader = SeenReader::open(&path, &stamp()).unwrap();
    let found = paths.iter().filter(|path| reader.lookup(path).is_some()).count();
    assert_eq!(found as u64, count);
    println!(
        "read: {:.1} M/s, {} bytes",
        count as f64 / started.elapsed().as_secs_f64() / 1e6,
        fs::metadata(&path).unwrap().len()
    );
}

#[test]
fn a_directory_s_own_record_comes_behind_all_that_is_in_it() {
    let longest = [b"a/".to_vec(), vec![0xff; crate::limits::NAME_BYTES_MAX]].concat();
    let inside = [longest.clone(), b"/x".to_vec()].concat();
    let order =
        [&b"a"[..], b"a/b", &longest, &inside, &seen_end(&longest), &seen_end(b"a"), b"a-", b"b", &seen_end(b"")];
    for pair in order.windows(2) {
        assert_eq!(path_order(pair[0], pair[1]), Ordering::Less, "{} {}", pair[0].len(), pair[1].len());
    }
}

//! The index on disk: taking segments in, opening it, finding chunks in random order. The kernel's cache of
//! files is warm.

use super::measure::{Figure, Places, Spent, forget_peak, peak, timed};
use super::segments::{count, id, pick, segment};
use keepstone::format::ids::{ChunkId, RegionId, RepositoryId, SegmentId, SlotId};
use keepstone::index::{Index, RocksIndex};
use std::path::Path;
use std::time::{Duration, Instant};

const REGION: RegionId = RegionId([1; 16]);
const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
/// Chunks asked for at once: about as many as a read window has.
const BATCH: u64 = 64;
/// How long chunks are looked up.
const LOOKUPS: Duration = Duration::from_secs(3);
const LOOKUPS_MAX: u64 = 500_000;

/// How many a second by the clock, and how many a second of processor time.
fn lookups(index: &RocksIndex, chunks: u64, first: u64) -> [f64; 2] {
    let (mut asked, mut found, mut took) = (0u64, 0u64, Spent::default());
    let began = Instant::now();
    while began.elapsed() < LOOKUPS && asked < LOOKUPS_MAX {
        let batch: Vec<ChunkId> = (0..BATCH).map(|at| id(first + pick(asked + at, chunks))).collect();
        let (places, once) = timed(|| index.places(&batch).expect("it can be read"));
        took += once;
        found += places.iter().filter(|places| !places.is_empty()).count() as u64;
        asked += BATCH;
    }
    assert_eq!(found, if first == 0 { asked } else { 0 }, "what is there is found, and nothing else");
    [took.wall, took.computed].map(|took| asked as f64 / took.as_secs_f64())
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("it is there");
    entries.map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |metadata| metadata.len())).sum()
}

pub fn measure(chunks: u64, places: &Places) -> Vec<Figure> {
    let directory = tempfile::tempdir_in(&places.disk).expect("a directory");
    // The share that the program gives it.
    let cache_bytes = places.memory_bytes / 8;
    let index = RocksIndex::open(directory.path(), REPOSITORY, cache_bytes).expect("made");
    let (mut ingested, mut slowest) = (Spent::default(), Duration::ZERO);
    for at in 0..count(chunks) {
        let listed = segment(at, chunks, SlotId([3; 16]));
        let name = SegmentId(id(u64::MAX / 2 + at).0);
        let ((), took) = timed(|| index.ingest(name, 100, &listed, &[REGION]).expect("ingested"));
        ingested += took;
        slowest = slowest.max(took.wall);
    }
    assert_eq!(index.chunk_count(), chunks);
    drop(index);
    let ingest_peak = peak();
    forget_peak();
    let (index, opened) =
        timed(|| RocksIndex::inspect(directory.path(), REPOSITORY, cache_bytes).expect("it stays whole"));
    let first = timed(|| index.places(&[id(0)]).expect("read")).1;
    let hits = lookups(&index, chunks, 0);
    let misses = lookups(&index, chunks, 1 << 40);
    let mut figures = Vec::from(ingested.figures("taking in"));
    figures.extend([
        Figure::new("taken in a second", "chunks", chunks as f64 / ingested.wall.as_secs_f64()),
        Figure::time("the slowest segment", slowest),
        Figure::mebibytes("peak memory, taking in", ingest_peak),
        Figure::mebibytes("on disk", bytes_below(directory.path())),
        Figure::time("opening and the first look-up", opened.wall + first.wall),
        Figure::new("found a second", "chunks", hits[0]),
        Figure::new("found a second of processor", "chunks", hits[1]),
        Figure::new("known absent a second", "chunks", misses[0]),
        Figure::new("known absent a second of processor", "chunks", misses[1]),
        Figure::mebibytes("peak memory, looking up", peak()),
    ]);
    figures
}

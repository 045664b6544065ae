//! Look-ups in the index on disk: chunks that it has, and chunks that it hasn't.

use super::input;
use criterion::{Criterion, Throughput};
use keepstone::format::ids::{ChunkId, RegionId, RepositoryId, SegmentId};
use keepstone::index::{Index, RocksIndex};

const SEGMENT_CHUNKS: u64 = 1 << 16;
const SEGMENTS: u64 = 16;
const BATCH: u64 = 64;

pub fn bench(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let index = RocksIndex::open(directory.path(), RepositoryId([1; 16]), 32 << 20).expect("an index");
    for number in 0..SEGMENTS {
        let segment = input::segment(number * SEGMENT_CHUNKS, SEGMENT_CHUNKS);
        index.ingest(SegmentId([number as u8; 32]), 100, &segment, &[RegionId([1; 16])]).expect("ingested");
    }
    let batches = |first: u64| -> Vec<Vec<ChunkId>> {
        // Spread over the whole index, as a tree's chunks are after years of backups.
        let batch =
            |at: u64| (0..BATCH).map(move |n| input::id(first + (at * BATCH + n) * 7919 % (SEGMENTS * SEGMENT_CHUNKS)));
        (0..256).map(|at| batch(at).collect()).collect()
    };
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(BATCH));
    for (name, batches) in [("hit", batches(0)), ("miss", batches(1 << 40))] {
        let mut next = batches.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| index.places(next.next().expect("a cycle")).expect("read").len());
        });
    }
    group.finish();
}

//! Content-defined boundaries, at the average sizes that datasets use.

use super::input;
use criterion::{BenchmarkId, Criterion, Throughput};
use keepstone::chunker::Chunker;

pub fn bench(criterion: &mut Criterion) {
    let bytes = input::noise(16 << 20);
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for average in [8 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let chunker = Chunker::new(&[7; 32], average).expect("a size that is possible");
        group.bench_with_input(BenchmarkId::from_parameter(average), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let (mut at, mut count) = (0, 0);
                while at < bytes.len() {
                    let end = (at + chunker.max()).min(bytes.len());
                    at += chunker.cut(&bytes[at..end]);
                    count += 1;
                }
                count
            });
        });
    }
    group.finish();
}

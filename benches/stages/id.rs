//! ChunkIds of chunks of the default average size.

use super::input;
use criterion::{Criterion, Throughput};
use keepstone::format::config::Suite;
use keepstone::format::ids::ChunkKind;

pub fn bench(criterion: &mut Criterion) {
    let bytes = input::noise(16 << 20);
    let keyring = input::keyring(Suite::ChaCha20Poly1305);
    let hasher = keyring.ids(keyring.current_epoch()).expect("the ring may");
    let mut group = criterion.benchmark_group("id");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("16 KiB chunks", |bencher| {
        bencher.iter(|| bytes.chunks(16 << 10).map(|chunk| hasher.id(ChunkKind::Data, chunk).0[0]).max());
    });
    group.finish();
}

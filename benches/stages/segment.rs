//! A segment of the usual size, encoded, sealed, opened and decoded.

use super::input;
use criterion::{Criterion, Throughput};
use keepstone::crypto::object::Signer;
use keepstone::env::SeededRandom;
use keepstone::format::config::Suite;
use keepstone::format::ids::SlotId;
use keepstone::index::segment::{open, seal};

const CHUNKS: u64 = 1 << 16;

pub fn bench(criterion: &mut Criterion) {
    let keyring = input::keyring(Suite::ChaCha20Poly1305);
    let segment = input::segment(0, CHUNKS);
    let signer = Signer { slot: SlotId([3; 16]), private: &[5; 32] };
    let random = SeededRandom::new(6);
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Elements(CHUNKS));
    group.sample_size(20);
    group.bench_function("seal", |bencher| {
        bencher.iter(|| seal(&segment, &keyring, &signer, &random).expect("the ring may").0.len());
    });
    let (bytes, id) = seal(&segment, &keyring, &signer, &random).expect("the ring may");
    group.bench_function("open", |bencher| {
        bencher.iter(|| open(id, &bytes, &keyring, &|_| Ok(())).expect("what was sealed").segment.packs.len());
    });
    group.finish();
}

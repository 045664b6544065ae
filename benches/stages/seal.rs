//! Frames sealed and opened, in both suites.

use super::input;
use criterion::{BatchSize, Criterion, Throughput};
use keepstone::env::SeededRandom;
use keepstone::format::config::Suite;

pub fn bench(criterion: &mut Criterion) {
    let bytes = input::noise(1 << 20);
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, suite) in [("ChaCha20-Poly1305", Suite::ChaCha20Poly1305), ("AES-256-GCM", Suite::Aes256Gcm)] {
        let (_, key) = input::keyring(suite).create_section(&SeededRandom::new(3)).expect("the ring may");
        let with_room = || {
            let mut copy = Vec::with_capacity(bytes.len() + 16);
            copy.extend_from_slice(&bytes);
            copy
        };
        group.bench_function(format!("{name}, seal"), |bencher| {
            bencher.iter_batched_ref(with_room, |frame| key.seal(1, 1 << 20, frame), BatchSize::LargeInput);
        });
        let mut sealed = bytes.clone();
        key.seal(1, 1 << 20, &mut sealed);
        group.bench_function(format!("{name}, open"), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |frame| key.open(1, 1 << 20, frame).expect("what was sealed"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

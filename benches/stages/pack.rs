//! Frames compressed, sealed, spooled in memory and completed into a pack.

use super::input;
use criterion::{BatchSize, Criterion, Throughput};
use keepstone::compress::Compression;
use keepstone::env::SeededRandom;
use keepstone::format::config::Suite;
use keepstone::format::ids::{ChunkKind, SessionId};
use keepstone::pack::{FrameBuilder, PackWriter, SpoolSpace};
use std::sync::Arc;

pub fn bench(criterion: &mut Criterion) {
    let bytes = input::text(16 << 20);
    let keyring = input::keyring(Suite::ChaCha20Poly1305);
    let chunks: Vec<_> = bytes.chunks(16 << 10).enumerate().map(|(at, chunk)| (input::id(at as u64), chunk)).collect();
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.sample_size(20);
    for (name, compression) in [("stored", Compression::Off), ("default", Compression::Default)] {
        let writer = || {
            let random = Arc::new(SeededRandom::new(4));
            let sink = Arc::new(drop);
            let space = SpoolSpace::Memory;
            PackWriter::new(Arc::clone(&keyring), random, space, SessionId([1; 16]), false, compression, sink)
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                writer,
                |writer| {
                    let mut frame = FrameBuilder::new();
                    for (id, chunk) in &chunks {
                        frame.add(&writer, *id, ChunkKind::Data, chunk, Vec::new()).expect("memory takes it");
                    }
                    frame.flush(&writer).and_then(|()| writer.finish()).expect("memory takes it");
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

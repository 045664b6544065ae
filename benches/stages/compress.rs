//! Frames through zstd and back.

use super::input;
use criterion::{Criterion, Throughput};
use keepstone::compress::{Compression, compress, decompress};

pub fn bench(criterion: &mut Criterion) {
    let (text, noise) = (input::text(1 << 20), input::noise(1 << 20));
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(1 << 20));
    for (name, compression) in
        [("fast", Compression::Fast), ("default", Compression::Default), ("max", Compression::Max)]
    {
        group.bench_function(format!("text, {name}"), |bencher| bencher.iter(|| compress(&text, compression).len()));
    }
    group.bench_function("noise, default", |bencher| bencher.iter(|| compress(&noise, Compression::Default).len()));
    let packed = compress(&text, Compression::Default);
    group.bench_function("text, decompress", |bencher| {
        bencher.iter(|| decompress(&packed, text.len()).expect("what was compressed").len());
    });
    group.finish();
}

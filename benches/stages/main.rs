//! One module per stage of the pipeline, with its throughput: a loss of speed is found at its stage.
//! Run one with `cargo bench --bench stages -- chunk`; whole runs beside other programs are
//! `compare.py`'s business.

mod chunk;
mod compress;
mod id;
mod index;
mod input;
mod pack;
mod restore;
mod seal;
mod segment;
mod tree;

#[path = "../../tests/support/mod.rs"]
mod support;

criterion::criterion_group!(
    stages,
    chunk::bench,
    id::bench,
    compress::bench,
    seal::bench,
    pack::bench,
    index::bench,
    segment::bench,
    tree::bench,
    restore::bench
);
criterion::criterion_main!(stages);

//! The list of a file's chunks, as it is written for the file and again after an append of 100 chunks. A file
//! of 1 TiB has 6.7 × 10^7 chunks of 16 KiB.

use super::measure::{Figure, Places, Spent, peak, timed};
use super::segments::id;
use keepstone::crypto::keyring::{ChunkHasher, Keyring};
use keepstone::env::SeededRandom;
use keepstone::format::config::Suite;
use keepstone::format::ids::{ChunkId, ChunkKind, RepositoryId};
use keepstone::format::node::Extent;
use keepstone::pack::{ChunkSink, PackError, SequenceWriter};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

const APPENDED: u64 = 100;

/// Chunks of lists: those known, and what came new.
#[derive(Default)]
struct Known {
    ids: HashSet<ChunkId>,
    chunks: u64,
    bytes: u64,
}

#[derive(Default)]
struct Sink(RefCell<Known>);

impl ChunkSink for Sink {
    fn structural(&self, _: ChunkKind, id: ChunkId, bytes: &[u8], _: Vec<ChunkId>) -> Result<(), PackError> {
        let mut known = self.0.borrow_mut();
        if known.ids.insert(id) {
            known.chunks += 1;
            known.bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

fn hasher() -> ChunkHasher {
    let secrets = Keyring::generate(&SeededRandom::new(2));
    let keyring = Keyring::new(RepositoryId([1; 16]), Suite::ChaCha20Poly1305, BTreeMap::from([(1, secrets)]));
    keyring.expect("a ring").ids(1).expect("it has ids")
}

/// Writes the whole list, as a backup does that has read the file; gives what came new and how long it took
/// without making up the ids.
fn write(chunks: u64, hasher: &ChunkHasher, sink: &Sink) -> (u64, u64, Spent) {
    let before = (sink.0.borrow().chunks, sink.0.borrow().bytes);
    let mut took = Spent::default();
    let mut writer = SequenceWriter::new(ChunkKind::List, hasher);
    for first in (0..chunks).step_by(4096) {
        let extents: Vec<Extent> = (first..chunks.min(first + 4096))
            .map(|number| Extent::Chunk { id: id(number), length: 16 << 10 })
            .collect();
        took += timed(|| extents.iter().for_each(|extent| writer.push_extent(extent, sink).expect("pushed"))).1;
    }
    took += timed(|| writer.finish(sink).expect("finished")).1;
    let known = sink.0.borrow();
    (known.chunks - before.0, known.bytes - before.1, took)
}

pub fn measure(chunks: u64, _: &Places) -> Vec<Figure> {
    let (hasher, sink) = (hasher(), Sink::default());
    let (first_chunks, first_bytes, first_took) = write(chunks, &hasher, &sink);
    let (added_chunks, added_bytes, took) = write(chunks + APPENDED, &hasher, &sink);
    assert!(first_chunks > 0 && added_chunks > 0);
    let mut figures = Vec::from(first_took.figures("writing the list"));
    figures.push(Figure::mebibytes("the list", first_bytes));
    figures.extend(took.figures("writing it after an append"));
    figures.extend([
        Figure::new("added by the append", "chunks", added_chunks as f64),
        Figure::new("added by the append", "KiB", added_bytes as f64 / 1024.0),
        Figure::mebibytes("peak memory (the known ids are this program's)", peak()),
    ]);
    figures
}

//! A directory's listing cut into tree chunks.

use super::input;
use criterion::{Criterion, Throughput};
use keepstone::format::config::Suite;
use keepstone::format::ids::{ChunkId, ChunkKind};
use keepstone::format::node::{Content, Extent, Node, NodeKind, Timestamp};
use keepstone::pack::{ChunkSink, PackError, SequenceWriter};
use std::cell::Cell;

const ENTRIES: u64 = 10_000;

struct Counting(Cell<usize>);

impl ChunkSink for Counting {
    fn structural(&self, _: ChunkKind, _: ChunkId, bytes: &[u8], _: Vec<ChunkId>) -> Result<(), PackError> {
        self.0.set(self.0.get() + bytes.len());
        Ok(())
    }
}

pub fn bench(criterion: &mut Criterion) {
    let keyring = input::keyring(Suite::ChaCha20Poly1305);
    let hasher = keyring.ids(keyring.current_epoch()).expect("the ring may");
    let nodes: Vec<Node> = (0..ENTRIES)
        .map(|number| {
            let content = Content::Inline(vec![Extent::Chunk { id: input::id(number), length: 9000 }]);
            Node {
                name: format!("file-{number:08}.rs").into_bytes(),
                mode: 0o644,
                kind: NodeKind::File { size: 9000, content, inconsistent: false },
                uid: 1000,
                gid: 1000,
                user: b"somebody".to_vec(),
                group: b"users".to_vec(),
                modified_at: Timestamp { seconds: 1_700_000_000 + number as i64, nanoseconds: 5 },
                xattrs: Vec::new(),
                link_group: None,
            }
        })
        .collect();
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let sink = Counting(Cell::new(0));
            let mut writer = SequenceWriter::new(ChunkKind::Tree, &hasher);
            for node in &nodes {
                writer.push_node(node, &sink).expect("it fits");
            }
            writer.finish(&sink).expect("it fits");
            sink.0.get()
        });
    });
    group.finish();
}

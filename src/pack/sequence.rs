//! Writes sequences: records cut into structural chunks by the keyed hash of each record's key, with
//! as many levels as needed, so that one change rewrites a few chunks. Page: `format-spec/tree.md`.

use super::PackError;
use crate::crypto::keyring::ChunkHasher;
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Extent, Node, NodeKind};
use crate::format::sequence::{Child, encode_child, encode_chunk, encode_extent, encode_node};
use crate::limits::{
    RECORD_BYTES_MAX, SEQUENCE_BYTES_MAX, SEQUENCE_BYTES_MIN, SEQUENCE_CUT_EVERY, SEQUENCE_LEVELS_MAX,
};

/// Takes finished chunks: deduplicates and stores them.
pub trait ChunkSink {
    /// Stores a structural chunk unless it is known.
    ///
    /// # Errors
    /// When it can't be stored.
    fn structural(&self, kind: ChunkKind, id: ChunkId, bytes: &[u8], references: Vec<ChunkId>)
    -> Result<(), PackError>;
}

/// Writes one sequence; memory is one open chunk a level.
pub struct SequenceWriter<'a> {
    kind: ChunkKind,
    hasher: &'a ChunkHasher,
    levels: Vec<Level>,
    /// Room for one record.
    record: Vec<u8>,
}

#[derive(Default)]
struct Level {
    body: Vec<u8>,
    records: usize,
    weight: u64,
    last_name: Vec<u8>,
    references: Vec<ChunkId>,
    chunks: u64,
}

impl<'a> SequenceWriter<'a> {
    /// A tree or list with no records yet.
    pub fn new(kind: ChunkKind, hasher: &'a ChunkHasher) -> Self {
        debug_assert!(kind.is_structural());
        SequenceWriter { kind, hasher, levels: vec![Level::default()], record: Vec::new() }
    }

    /// Appends an entry; names come in ascending raw-byte order.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] for a record past the format's bound; what `sink` reports.
    pub fn push_node(&mut self, node: &Node, sink: &dyn ChunkSink) -> Result<(), PackError> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        encode_node(node, &mut record);
        let many: Vec<ChunkId>;
        let references = match &node.kind {
            NodeKind::File { content: Content::Inline(extents), .. } => match &extents[..] {
                [Extent::Chunk { id, .. }] => std::slice::from_ref(id),
                extents => {
                    many = extents.iter().filter_map(chunk_of).collect();
                    &many
                }
            },
            NodeKind::File { content: Content::List(id), .. } => std::slice::from_ref(id),
            NodeKind::Directory { tree } => std::slice::from_ref(tree),
            _ => &[],
        };
        let pushed = self.push(0, &record, &node.name, &node.name, 1, references, sink);
        self.record = record;
        pushed
    }

    /// Appends an extent of a file, in file order.
    ///
    /// # Errors
    /// What `sink` reports.
    pub fn push_extent(&mut self, extent: &Extent, sink: &dyn ChunkSink) -> Result<(), PackError> {
        let mut record = Vec::with_capacity(40);
        encode_extent(extent, &mut record);
        match extent {
            Extent::Chunk { id, .. } => self.push(0, &record, &id.0, &[], extent.length(), &[*id], sink),
            Extent::Hole { .. } => self.push(0, &record, &record, &[], extent.length(), &[], sink),
        }
    }

    #[allow(clippy::too_many_arguments)] // One record's fields; a struct would be built only here.
    fn push(
        &mut self,
        level: usize,
        record: &[u8],
        key: &[u8],
        last_name: &[u8],
        weight: u64,
        references: &[ChunkId],
        sink: &dyn ChunkSink,
    ) -> Result<(), PackError> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(PackError::TooLarge { what: "an entry with its extended attributes", limit: RECORD_BYTES_MAX });
        }
        if level == self.levels.len() {
            if level > usize::from(SEQUENCE_LEVELS_MAX) {
                return Err(PackError::TooLarge { what: "a sequence", limit: usize::from(SEQUENCE_LEVELS_MAX) });
            }
            self.levels.push(Level::default());
        }
        let open = &self.levels[level];
        if open.records > 0 && open.body.len() + record.len() > SEQUENCE_BYTES_MAX {
            self.cut(level, sink)?;
        }
        let open = &mut self.levels[level];
        open.body.extend_from_slice(record);
        open.records += 1;
        open.weight += weight;
        open.last_name.clear();
        open.last_name.extend_from_slice(last_name);
        open.references.extend_from_slice(references);
        if open.body.len() >= SEQUENCE_BYTES_MIN {
            // The level is part of what is hashed: else every record of a higher level would cut again.
            let mut keyed = vec![level as u8];
            keyed.extend_from_slice(key);
            if self.hasher.cut_hash(&keyed).is_multiple_of(SEQUENCE_CUT_EVERY) {
                self.cut(level, sink)?;
            }
        }
        Ok(())
    }

    /// Ends the open chunk of a level and records it one level up.
    fn cut(&mut self, level: usize, sink: &dyn ChunkSink) -> Result<(), PackError> {
        let child = self.emit(level, sink)?;
        let mut record = Vec::with_capacity(64);
        encode_child(self.kind, &child, &mut record);
        let key = if self.kind == ChunkKind::Tree { child.last_name.clone() } else { child.id.0.to_vec() };
        self.push(level + 1, &record, &key, &child.last_name, child.weight, &[child.id], sink)
    }

    fn emit(&mut self, level: usize, sink: &dyn ChunkSink) -> Result<Child, PackError> {
        let open = &mut self.levels[level];
        let done = std::mem::replace(open, Level { chunks: open.chunks + 1, ..Level::default() });
        let bytes = encode_chunk(level as u8, done.records, &done.body);
        let id = self.hasher.id(self.kind, &bytes);
        let mut seen = std::collections::HashSet::with_capacity(done.references.len());
        let mut references = done.references;
        references.retain(|id| seen.insert(*id));
        sink.structural(self.kind, id, &bytes, references)?;
        let last_name = if self.kind == ChunkKind::Tree { done.last_name } else { Vec::new() };
        Ok(Child { id, last_name, weight: done.weight })
    }

    /// Ends the sequence; gives its top chunk.
    ///
    /// # Errors
    /// What `sink` reports.
    pub fn finish(mut self, sink: &dyn ChunkSink) -> Result<ChunkId, PackError> {
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            let open = &self.levels[level];
            if top && open.chunks == 0 {
                // A lone record above level 0 is the whole sequence's top already.
                if level > 0 && open.records == 1 {
                    let mut first = [0u8; 32];
                    first.copy_from_slice(&open.body[..32]);
                    return Ok(ChunkId(first));
                }
                return Ok(self.emit(level, sink)?.id);
            }
            if open.records > 0 {
                self.cut(level, sink)?;
            }
            level += 1;
        }
    }
}

fn chunk_of(extent: &Extent) -> Option<ChunkId> {
    match extent {
        Extent::Chunk { id, .. } => Some(*id),
        Extent::Hole { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keyring::Keyring;
    use crate::env::SeededRandom;
    use crate::format::config::Suite;
    use crate::format::ids::RepositoryId;
    use crate::format::node::Timestamp;
    use crate::format::sequence::{SequenceChunk, decode_chunk, references};
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};

    #[derive(Default)]
    struct Kept(RefCell<HashMap<ChunkId, Vec<u8>>>);

    impl ChunkSink for Kept {
        fn structural(
            &self,
            kind: ChunkKind,
            id: ChunkId,
            bytes: &[u8],
            stated: Vec<ChunkId>,
        ) -> Result<(), PackError> {
            let decoded = decode_chunk(kind, bytes).expect("what is written decodes");
            assert_eq!(references(&decoded), stated);
            self.0.borrow_mut().insert(id, bytes.to_vec());
            Ok(())
        }
    }

    fn hasher() -> ChunkHasher {
        let ring = Keyring::generate(&SeededRandom::new(1));
        let keyring = Keyring::new(RepositoryId([9; 16]), Suite::ChaCha20Poly1305, BTreeMap::from([(1, ring)]));
        keyring.expect("a ring").ids(1).expect("ids")
    }

    fn node(name: String, mtime: i64) -> Node {
        Node {
            name: name.into_bytes(),
            kind: NodeKind::Fifo,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: b"root".to_vec(),
            group: b"root".to_vec(),
            modified_at: Timestamp { seconds: mtime, nanoseconds: 0 },
            xattrs: Vec::new(),
            link_group: None,
        }
    }

    fn names(kept: &Kept, id: ChunkId, out: &mut Vec<Vec<u8>>) {
        let bytes = kept.0.borrow()[&id].clone();
        match decode_chunk(ChunkKind::Tree, &bytes).expect("decodes") {
            SequenceChunk::Nodes(nodes) => out.extend(nodes.into_iter().map(|node| node.name)),
            SequenceChunk::Children { children, .. } => children.iter().for_each(|child| names(kept, child.id, out)),
            SequenceChunk::Extents(_) => panic!("a list in a tree"),
        }
    }

    #[test]
    fn a_change_in_a_directory_of_many_entries_rewrites_few_chunks() {
        let hasher = hasher();
        let kept = Kept::default();
        let write = |changed: usize| {
            let mut writer = SequenceWriter::new(ChunkKind::Tree, &hasher);
            for at in 0..50_000 {
                writer.push_node(&node(format!("{at:08}"), i64::from(at == changed)), &kept).expect("pushed");
            }
            writer.finish(&kept).expect("finished")
        };
        let top = write(usize::MAX);
        let mut found = Vec::new();
        names(&kept, top, &mut found);
        assert_eq!(found, (0..50_000).map(|at| format!("{at:08}").into_bytes()).collect::<Vec<_>>());
        let before = kept.0.borrow().len();
        assert!(before > 100, "{before}");
        write(25_000);
        let rewritten = kept.0.borrow().len() - before;
        assert!((2..=4).contains(&rewritten), "{rewritten} chunks rewritten");
    }

    #[test]
    fn an_append_to_a_long_list_rewrites_few_chunks() {
        let hasher = hasher();
        let kept = Kept::default();
        let write = |count: u32| {
            let mut writer = SequenceWriter::new(ChunkKind::List, &hasher);
            for at in 0..count {
                let id = hasher.id(ChunkKind::Data, &at.to_le_bytes());
                writer.push_extent(&Extent::Chunk { id, length: 16384 }, &kept).expect("pushed");
            }
            writer.push_extent(&Extent::Hole { length: 1 << 40 }, &kept).expect("pushed");
            writer.finish(&kept).expect("finished")
        };
        write(200_000);
        let before = kept.0.borrow().len();
        write(200_100);
        assert!(kept.0.borrow().len() - before <= 5);
    }

    #[test]
    fn an_empty_directory_is_one_chunk() {
        let (hasher, kept) = (hasher(), Kept::default());
        let id = SequenceWriter::new(ChunkKind::Tree, &hasher).finish(&kept).expect("finished");
        let bytes = kept.0.borrow()[&id].clone();
        assert_eq!(decode_chunk(ChunkKind::Tree, &bytes), Ok(SequenceChunk::Nodes(Vec::new())));
    }
}

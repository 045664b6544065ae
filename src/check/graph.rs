//! What refers to what, as segments state it: enough to walk every snapshot without reading a pack.
//!
//! Chunks are known by the first 8 bytes of their ids, the length that segments refer with: a reference
//! then means every chunk that begins so. Two ids that share these bytes count as one here; what that
//! could hide is a lost chunk whose pack is missing, and a missing pack is an issue by itself. Memory:
//! 8 bytes a listed chunk and 8 bytes a reference of the region, and 24 a structural chunk; about
//! 16 bytes a chunk together (10 million chunks, 600 GiB at the default chunk size: 160 MB).

use crate::format::ids::ChunkId;
use crate::format::segment::{Reference, Segment};
use std::collections::HashSet;

/// The first 8 bytes of a ChunkId.
pub(super) type Key = u64;

/// A chunk's key.
pub(super) fn key(id: &ChunkId) -> Key {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&id.0[..8]);
    Key::from_be_bytes(bytes)
}

struct Node {
    key: Key,
    start: usize,
    length: u32,
}

/// A region's chunks and references.
#[derive(Default)]
pub(super) struct Graph {
    /// Chunks in present packs; sorted once finished.
    present: Vec<Key>,
    /// Chunks listed in packs that are absent or known to be damaged.
    lost: Vec<Key>,
    nodes: Vec<Node>,
    references: Vec<Key>,
}

/// Why a reached chunk can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// No segment of the region lists it.
    Unlisted,
    /// Every pack that a segment lists it in is absent or damaged.
    Lost,
}

/// Bits by position.
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn new(length: usize) -> Self {
        Bits(vec![0; length.div_ceil(64)])
    }

    /// Sets a bit; true when it was not set.
    fn set(&mut self, at: usize) -> bool {
        let bit = 1u64 << (at % 64);
        let fresh = self.0[at / 64] & bit == 0;
        self.0[at / 64] |= bit;
        fresh
    }

    /// How many are set.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// Which chunks walks have reached so far.
pub(super) struct Marks {
    nodes: Bits,
    /// Chunks in present packs.
    pub(super) present: Bits,
}

impl Graph {
    /// Takes a segment in; `present` says for each of its packs whether it can be read.
    pub(super) fn add(&mut self, segment: &Segment, present: &[bool]) {
        let ids: Vec<Key> = segment.chunks().map(|chunk| key(&chunk.id)).collect();
        let mut at = 0;
        for (pack, present) in segment.packs.iter().zip(present) {
            for chunk in pack.frames.iter().flat_map(|frame| &frame.chunks) {
                match present {
                    true => self.present.push(ids[at]),
                    false => self.lost.push(ids[at]),
                }
                if chunk.kind.is_structural() {
                    let node = Node {
                        key: ids[at],
                        start: self.references.len(),
                        length: chunk.references.len() as u32, // CHUNK_REFERENCES_MAX
                    };
                    self.references.extend(chunk.references.iter().map(|reference| match reference {
                        // The segment's decoder checked that the ordinal exists.
                        Reference::Ordinal(ordinal) => ids[*ordinal as usize],
                        Reference::Prefix(prefix) => Key::from_be_bytes(*prefix),
                    }));
                    self.nodes.push(node);
                }
                at += 1;
            }
        }
    }

    /// Sorts what was added; before this nothing can be walked.
    pub(super) fn finish(&mut self) {
        for list in [&mut self.present, &mut self.lost] {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        self.nodes.sort_unstable_by_key(|node| node.key);
    }

    /// No marks.
    pub(super) fn marks(&self) -> Marks {
        Marks { nodes: Bits::new(self.nodes.len()), present: Bits::new(self.present.len()) }
    }

    /// Walks from `root` over what is not marked yet, marks it, and calls `lacking` for each reference
    /// to a chunk that can't be had: the chunk that refers (none for the root) and the one referred to.
    pub(super) fn walk(&self, root: Key, marks: &mut Marks, lacking: &mut dyn FnMut(Option<Key>, Key, Lack)) {
        self.reach(None, root, marks, lacking);
        let mut open = vec![root];
        while let Some(from) = open.pop() {
            let first = self.nodes.partition_point(|node| node.key < from);
            for (at, node) in self.nodes.iter().enumerate().skip(first).take_while(|(_, node)| node.key == from) {
                if !marks.nodes.set(at) {
                    continue;
                }
                for to in &self.references[node.start..node.start + node.length as usize] {
                    if self.reach(Some(from), *to, marks, lacking) && self.is_structural(*to) {
                        open.push(*to);
                    }
                }
            }
        }
    }

    fn is_structural(&self, key: Key) -> bool {
        self.nodes.binary_search_by_key(&key, |node| node.key).is_ok()
    }

    /// Marks a chunk; true when there may be something below it that was not walked.
    fn reach(
        &self,
        from: Option<Key>,
        to: Key,
        marks: &mut Marks,
        lacking: &mut dyn FnMut(Option<Key>, Key, Lack),
    ) -> bool {
        match (self.present.binary_search(&to), self.lost.binary_search(&to)) {
            (Ok(at), _) => marks.present.set(at),
            (Err(_), Ok(_)) => {
                lacking(from, to, Lack::Lost);
                true
            }
            (Err(_), Err(_)) => {
                lacking(from, to, Lack::Unlisted);
                false
            }
        }
    }

    /// True when a walk from `root` reaches a chunk that can't be had or is in `damaged`.
    pub(super) fn is_broken(&self, root: Key, damaged: &HashSet<Key>) -> bool {
        let mut broken = damaged.contains(&root);
        let mut marks = self.marks();
        self.walk(root, &mut marks, &mut |_, _, _| broken = true);
        broken || damaged.iter().any(|key| self.present.binary_search(key).is_ok_and(|at| !marks.present.set(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{ChunkKind, PackId, SectionId, SessionId, SlotId};
    use crate::format::segment::{SegmentChunk, SegmentFrame, SegmentPack};

    fn pack(number: u8, metadata: bool, chunks: Vec<(u8, Vec<Reference>)>) -> SegmentPack {
        let kind = if metadata { ChunkKind::Tree } else { ChunkKind::Data };
        let chunks = chunks
            .into_iter()
            .map(|(id, references)| SegmentChunk { id: ChunkId([id; 32]), kind, length: 1, references })
            .collect();
        SegmentPack {
            pack: PackId([number; 32]),
            size: 1,
            session: SessionId::default(),
            origin: SlotId::default(),
            metadata,
            sections: vec![SectionId::default()],
            frames: vec![SegmentFrame { section: 0, number: 0, sealed_length: 1, chunks }],
        }
    }

    /// Root 1 → tree 2 → data 10 (same segment) and 11 (another segment).
    fn graph(second_present: bool) -> Graph {
        let mut graph = Graph::default();
        let trees = pack(
            1,
            true,
            vec![(1, vec![Reference::Ordinal(1)]), (2, vec![Reference::Ordinal(2), Reference::Prefix([11; 8])])],
        );
        let first = Segment { supersedes: Vec::new(), packs: vec![trees, pack(2, false, vec![(10, Vec::new())])] };
        graph.add(&first, &[true, true]);
        let second = Segment { supersedes: Vec::new(), packs: vec![pack(3, false, vec![(11, Vec::new())])] };
        graph.add(&second, &[second_present]);
        graph.finish();
        graph
    }

    fn walk(graph: &Graph, root: u8) -> (u64, Vec<(Key, Lack)>) {
        let mut marks = graph.marks();
        let mut lacks = Vec::new();
        graph.walk(key(&ChunkId([root; 32])), &mut marks, &mut |_, to, lack| lacks.push((to, lack)));
        (marks.present.count(), lacks)
    }

    #[test]
    fn everything_reached_is_marked_once() {
        let graph = graph(true);
        assert_eq!(walk(&graph, 1), (4, vec![]));
        assert_eq!(walk(&graph, 2), (3, vec![]));
        assert!(!graph.is_broken(key(&ChunkId([1; 32])), &HashSet::new()));
        assert!(graph.is_broken(key(&ChunkId([1; 32])), &HashSet::from([key(&ChunkId([11; 32]))])));
        assert!(!graph.is_broken(key(&ChunkId([10; 32])), &HashSet::from([key(&ChunkId([11; 32]))])));
    }

    #[test]
    fn lost_and_unlisted_chunks_are_told_apart() {
        let eleven = key(&ChunkId([11; 32]));
        assert_eq!(walk(&graph(false), 1), (3, vec![(eleven, Lack::Lost)]));
        let unlisted = key(&ChunkId([99; 32]));
        assert_eq!(walk(&graph(true), 99), (0, vec![(unlisted, Lack::Unlisted)]));
    }

    #[test]
    fn one_good_copy_is_enough() {
        let mut graph = Graph::default();
        let copies =
            |number| Segment { supersedes: Vec::new(), packs: vec![pack(number, false, vec![(7, Vec::new())])] };
        graph.add(&copies(1), &[false]);
        graph.add(&copies(2), &[true]);
        graph.finish();
        assert_eq!(walk(&graph, 7), (1, vec![]));
    }
}

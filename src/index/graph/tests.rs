//! Tests of the graph.

use super::{ChunkCopy, Graph, GraphBuilder, Key, Lack, key};
use crate::format::ids::{ChunkId, ChunkKind, PackId, SectionId, SessionId, SlotId};
use crate::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};

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

fn segment(packs: Vec<SegmentPack>) -> Segment {
    Segment { supersedes: Vec::new(), packs }
}

/// Root 1 → tree 2 → data 10 (same segment) and 11 (another segment).
fn graph(second_present: bool) -> Graph {
    let mut graph = GraphBuilder::new(None, 0);
    let trees = pack(
        1,
        true,
        vec![(1, vec![Reference::Ordinal(1)]), (2, vec![Reference::Ordinal(2), Reference::Prefix([11; 8])])],
    );
    graph.add(&segment(vec![trees, pack(2, false, vec![(10, Vec::new())])]), &[0, 1], &[true, true]).expect("added");
    graph.add(&segment(vec![pack(3, false, vec![(11, Vec::new())])]), &[2], &[second_present]).expect("added");
    graph.finish().expect("finished")
}

fn walk(graph: &Graph, root: u8) -> (u64, Vec<(Key, Lack)>) {
    let mut marks = graph.marks();
    let mut lacks = Vec::new();
    let root = ChunkId([root; 32]);
    graph.walk(&root, &mut marks, &mut |_, to, lack| lacks.push((to, lack))).expect("walked");
    (marks.count() - marks.lost(), lacks)
}

#[test]
fn everything_reached_is_marked_once() {
    let graph = graph(true);
    assert_eq!(walk(&graph, 1), (4, vec![]));
    assert_eq!(walk(&graph, 2), (3, vec![]));
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
    let mut graph = GraphBuilder::new(None, 0);
    let copies = |number| segment(vec![pack(number, false, vec![(7, Vec::new())])]);
    graph.add(&copies(1), &[1], &[false]).expect("added");
    graph.add(&copies(2), &[2], &[true]).expect("added");
    let graph = graph.finish().expect("finished");
    assert_eq!(walk(&graph, 7), (1, vec![]));
    let copy = |pack: u32, present| ChunkCopy { pack, frame: 0, length: 1, structural: false, present };
    let mut visited = Vec::new();
    graph
        .each_chunk(&graph.marks(), &mut |name, reached, copies| visited.push((*name, reached, copies.to_vec())))
        .expect("read");
    assert_eq!(visited, [([7; 16], false, vec![copy(1, false), copy(2, true)])]);
}

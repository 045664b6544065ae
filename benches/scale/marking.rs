//! Marking what snapshots reach, as a collection does: over a graph that spills into files past its share of
//! memory, one snapshot for each segment.

use super::measure::{Figure, Places, peak, timed};
use super::segments::{count, id, root, segment};
use keepstone::format::ids::{ChunkId, SlotId};
use keepstone::index::graph::GraphBuilder;
use std::time::Duration;

pub fn measure(chunks: u64, places: &Places) -> Vec<Figure> {
    let directory = tempfile::tempdir_in(&places.disk).expect("a directory");
    // The share that `gc` gives it.
    let mut builder = GraphBuilder::new(Some(directory.path().to_owned()), places.memory_bytes / 2);
    let (mut built, mut packs) = (Duration::ZERO, 0u32);
    for at in 0..count(chunks) {
        let listed = segment(at, chunks, SlotId([3; 16]));
        let numbers: Vec<u32> = (packs..).take(listed.packs.len()).collect();
        packs += numbers.len() as u32;
        built += timed(|| builder.add(&listed, &numbers, &vec![true; numbers.len()]).expect("room")).1;
    }
    let (graph, sorted) = timed(|| builder.finish().expect("room"));
    let roots: Vec<ChunkId> = (0..count(chunks)).map(|at| id(root(at, chunks))).collect();
    let mut lacks = 0;
    let mut marks = graph.marks();
    let ((), apart) = timed(|| {
        roots.iter().for_each(|root| graph.walk(root, &mut marks, &mut |_, _, _| lacks += 1).expect("readable"));
    });
    let mut together = graph.marks();
    let ((), at_once) = timed(|| graph.walk_all(&roots, &mut together, &mut |_, _, _| lacks += 1).expect("readable"));
    assert_eq!((marks.count(), together.count(), lacks), (chunks, chunks, 0), "everything is reached");
    let mut reached = 0u64;
    let ((), visited) = timed(|| {
        graph.each_chunk(&marks, &mut |_, marked, _| reached += u64::from(marked)).expect("readable");
    });
    assert_eq!(reached, chunks);
    vec![
        Figure::time("taking segments in and sorting", built + sorted),
        Figure::time("marking, snapshot by snapshot", apart),
        Figure::time("marking, all snapshots at once", at_once),
        Figure::time("visiting every chunk", visited),
        Figure::mebibytes("peak memory", peak()),
    ]
}

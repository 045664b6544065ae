//! Marking what snapshots reach, as a collection does: over a graph that spills into files past its share of
//! memory, one snapshot for each segment.

use super::measure::{Figure, Places, Spent, peak, timed};
use super::segments::{count, id, root, segment};
use keepstone::format::ids::{ChunkId, SlotId};
use keepstone::index::graph::GraphBuilder;

/// Past this it takes hours and shows nothing more.
const APART_MAX: u64 = 10_000_000;

pub fn measure(chunks: u64, places: &Places) -> Vec<Figure> {
    let directory = tempfile::tempdir_in(&places.disk).expect("a directory");
    // The share that `gc` gives it.
    let mut builder = GraphBuilder::new(Some(directory.path().to_owned()), places.memory_bytes / 2);
    let (mut built, mut packs) = (Spent::default(), 0u32);
    for at in 0..count(chunks) {
        let listed = segment(at, chunks, SlotId([3; 16]));
        let numbers: Vec<u32> = (packs..).take(listed.packs.len()).collect();
        packs += numbers.len() as u32;
        built += timed(|| builder.add(&listed, &numbers, &vec![true; numbers.len()]).expect("room")).1;
    }
    let (graph, sorted) = timed(|| builder.finish().expect("room"));
    built += sorted;
    let roots: Vec<ChunkId> = (0..count(chunks)).map(|at| id(root(at, chunks))).collect();
    let (mut marks, mut lacks) = (graph.marks(), 0);
    let ((), at_once) = timed(|| graph.walk_all(&roots, &mut marks, &mut |_, _, _| lacks += 1).expect("readable"));
    assert_eq!((marks.count(), lacks), (chunks, 0), "everything is reached");
    let apart = (chunks <= APART_MAX).then(|| {
        let mut marks = graph.marks();
        let ((), apart) = timed(|| {
            roots.iter().for_each(|root| graph.walk(root, &mut marks, &mut |_, _, _| lacks += 1).expect("readable"));
        });
        assert_eq!((marks.count(), lacks), (chunks, 0), "everything is reached");
        apart
    });
    let mut reached = 0u64;
    let ((), visited) = timed(|| {
        graph.each_chunk(&marks, &mut |_, marked, _| reached += u64::from(marked)).expect("readable");
    });
    assert_eq!(reached, chunks);
    let mut figures = Vec::from(built.figures("taking segments in and sorting"));
    figures.extend(at_once.figures("marking, all snapshots at once, as gc does"));
    figures.extend(apart.iter().flat_map(|apart| apart.figures("marking, snapshot by snapshot")));
    figures.extend(visited.figures("visiting every chunk"));
    figures.push(Figure::mebibytes("peak memory", peak()));
    figures
}

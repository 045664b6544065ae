//! Tests of the graph: by hand, and against a plain model on random regions, in memory and spilled.

use super::pages::PAGE_BYTES;
use super::sorted::{Record, Sorted, Sorter};
use super::{ChunkCopy, ChunkName, Graph, GraphBuilder, GraphError, Key, Lack, Marks, chunk_name, key, key_of};
use crate::format::ids::{ChunkId, ChunkKind, PackId, SectionId, SessionId, SlotId};
use crate::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use crate::pack::{PackError, SpoolSpace};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

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

/// An id whose first 8 bytes stand for `family`, the next 8 for `member`, and the last 16 for `twin`.
fn id(family: u16, member: u8, twin: u8) -> ChunkId {
    let mut bytes = [twin; 32];
    bytes[..8].copy_from_slice(&blake3::hash(&family.to_le_bytes()).as_bytes()[..8]);
    bytes[8..16].fill(member);
    ChunkId(bytes)
}

/// COLLECT-4: a prefix keeps every chunk it matches. A root is one chunk.
#[test]
fn a_reference_keeps_every_chunk_that_begins_so_and_a_root_the_one_it_names() {
    let chunk = |id, kind, references| SegmentChunk { id, kind, length: 1, references };
    let mut trees = pack(1, true, Vec::new());
    trees.frames[0].chunks = vec![
        chunk(id(1, 1, 0), ChunkKind::Tree, vec![Reference::Prefix(id(2, 0, 0).0[..8].try_into().unwrap())]),
        chunk(id(1, 2, 0), ChunkKind::Tree, Vec::new()),
    ];
    let mut data = pack(2, false, Vec::new());
    data.frames[0].chunks = (0..3).map(|member| chunk(id(2, member, 0), ChunkKind::Data, Vec::new())).collect();
    let mut lost = pack(3, false, Vec::new());
    lost.frames[0].chunks = vec![chunk(id(2, 9, 0), ChunkKind::Data, Vec::new())];
    let mut builder = GraphBuilder::new(None, 0);
    builder.add(&segment(vec![trees, data, lost]), &[0, 1, 2], &[true, true, false]).unwrap();
    let graph = builder.finish().unwrap();
    let mut marks = graph.marks();
    let mut lacks = Vec::new();
    graph.walk(&id(1, 1, 0), &mut marks, &mut |from, to, lack| lacks.push((from, to, lack))).unwrap();
    // The root, and four chunks of one prefix of which one is lost.
    assert_eq!((marks.count(), marks.lost()), (5, 1));
    assert_eq!(lacks, [(Some(key(&id(1, 1, 0))), key(&id(2, 0, 0)), Lack::Lost)]);
    assert!(!graph.is_reached(&marks, &id(1, 2, 0)).unwrap());
    assert!(graph.is_reached(&marks, &id(2, 9, 0)).unwrap());
    // Another chunk of the root's prefix is listed; the root itself isn't.
    let mut lacks = Vec::new();
    graph.walk(&id(1, 7, 0), &mut graph.marks(), &mut |from, to, lack| lacks.push((from, to, lack))).unwrap();
    assert_eq!(lacks, [(None, key(&id(1, 7, 0)), Lack::Unlisted)]);
}

#[test]
fn a_second_listing_of_a_pack_counts_once_and_takes_nothing_away() {
    let honest =
        segment(vec![pack(1, true, vec![(1, vec![Reference::Prefix([2; 8])])]), pack(2, false, vec![(2, vec![])])]);
    // The same pack, said to refer to nothing.
    let lie = segment(vec![pack(1, true, vec![(1, Vec::new())])]);
    let mut builder = GraphBuilder::new(None, 0);
    builder.add(&lie, &[0], &[true]).unwrap();
    builder.add(&honest, &[0, 1], &[true, true]).unwrap();
    builder.add(&honest, &[0, 1], &[true, true]).unwrap();
    let graph = builder.finish().unwrap();
    assert_eq!(walk(&graph, 1), (2, vec![]));
    let mut copies_seen = Vec::new();
    graph.each_chunk(&graph.marks(), &mut |_, _, copies| copies_seen.push(copies.len())).unwrap();
    assert_eq!(copies_seen, [1, 1]);
}

#[test]
fn a_chain_of_any_depth_and_a_circle_are_walked() {
    let depth = 30_000u32;
    let chunks = (0..depth).map(|at| SegmentChunk {
        id: ChunkId(blake3::hash(&at.to_le_bytes()).into()),
        kind: ChunkKind::List,
        length: 1,
        references: vec![Reference::Ordinal((at + 1) % depth)],
    });
    let mut deep = pack(1, true, Vec::new());
    deep.frames[0].chunks = chunks.collect();
    let root = deep.frames[0].chunks[17].id;
    let mut builder = GraphBuilder::with_space(Some(SpoolSpace::Memory), 0);
    builder.add(&segment(vec![deep]), &[0], &[true]).unwrap();
    let graph = builder.finish().unwrap();
    let mut marks = graph.marks();
    graph.walk(&root, &mut marks, &mut |_, _, lack| panic!("{lack:?}")).unwrap();
    assert_eq!(marks.count(), u64::from(depth));
}

/// A chunk of a random region: id, structural, references.
type Chunk = (ChunkId, Vec<Target>);

/// A reference of a random region: an ordinal (modulo the segment's chunks), or a family's prefix.
#[derive(Clone, Debug)]
enum Target {
    Ordinal(u32),
    Family(u16),
}

/// A pack of a random region: its number, whether it is present, structural, its frames.
#[derive(Clone, Debug)]
struct Pack {
    ordinal: u32,
    present: bool,
    structural: bool,
    frames: Vec<Vec<Chunk>>,
}

#[derive(Clone, Debug)]
struct Region {
    segments: Vec<Vec<Pack>>,
    /// Segments that are added a second time, modulo their number.
    twice: Vec<usize>,
    roots: Vec<ChunkId>,
}

/// Families from here on are in no pack.
const FAMILIES: u16 = 400;

fn any_id() -> impl Strategy<Value = ChunkId> {
    let member = prop_oneof![8 => Just(0u8), 1 => 1u8..3];
    (0..FAMILIES, member, prop_oneof![20 => Just(0u8), 1 => Just(1u8)])
        .prop_map(|(family, member, twin)| id(family, member, twin))
}

fn any_region() -> impl Strategy<Value = Region> {
    let target = prop_oneof![
        2 => any::<u32>().prop_map(Target::Ordinal),
        4 => (0..FAMILIES).prop_map(Target::Family),
        1 => (FAMILIES..FAMILIES + 3).prop_map(Target::Family),
    ];
    let frames = vec(vec((any_id(), vec(target, 0..6)), 1..20), 0..6);
    let pack = (0u32..12, prop_oneof![9 => Just(true), 1 => Just(false)], any::<bool>(), frames)
        .prop_map(|(ordinal, present, structural, frames)| Pack { ordinal, present, structural, frames });
    (vec(vec(pack, 0..4), 0..12), vec(any::<usize>(), 0..3), vec(any_id(), 1..6))
        .prop_map(|(segments, twice, roots)| Region { segments, twice, roots })
}

impl Region {
    fn segment(&self, at: usize) -> (Segment, Vec<u32>, Vec<bool>) {
        let packs = &self.segments[at];
        let chunks: usize = packs.iter().flat_map(|pack| &pack.frames).map(Vec::len).sum();
        let reference = |target: &Target| match target {
            Target::Ordinal(ordinal) => Reference::Ordinal(ordinal % chunks as u32),
            Target::Family(family) => Reference::Prefix(key(&id(*family, 0, 0)).to_be_bytes()),
        };
        let listed = packs.iter().map(|random| {
            let mut listed = pack(random.ordinal as u8, random.structural, Vec::new());
            let kind = if random.structural { ChunkKind::List } else { ChunkKind::Data };
            let frame = |chunks: &Vec<Chunk>| SegmentFrame {
                section: 0,
                number: 0,
                sealed_length: 1,
                chunks: chunks
                    .iter()
                    .map(|(id, targets)| SegmentChunk {
                        id: *id,
                        kind,
                        length: 1 + u32::from(id.0[0]),
                        references: targets.iter().filter(|_| random.structural).map(reference).collect(),
                    })
                    .collect(),
            };
            listed.frames = random.frames.iter().map(frame).collect();
            listed
        });
        let ordinals = packs.iter().map(|pack| pack.ordinal).collect();
        (segment(listed.collect()), ordinals, packs.iter().map(|pack| pack.present).collect())
    }

    fn build(&self, mut builder: GraphBuilder) -> Result<Graph, GraphError> {
        let again = self.twice.iter().filter_map(|at| at.checked_rem(self.segments.len()));
        for at in (0..self.segments.len()).chain(again) {
            let (segment, packs, present) = self.segment(at);
            builder.add(&segment, &packs, &present)?;
        }
        builder.finish()
    }
}

/// What is told of a chunk: reached, and the copies as numbers.
type Told = (bool, BTreeSet<(u32, u32, u32, bool, bool)>);
/// What cannot be had: who refers to it, it, and why.
type Lacks = BTreeSet<(Option<Key>, Key, bool)>;

/// Everything that a graph tells of a region.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    chunks: BTreeMap<ChunkName, Told>,
    lacks: Lacks,
    count: u64,
    lost: u64,
}

fn numbers(copy: &ChunkCopy) -> (u32, u32, u32, bool, bool) {
    (copy.pack, copy.frame, copy.length, copy.structural, copy.present)
}

fn answer(region: &Region, graph: &Graph) -> Result<Answer, GraphError> {
    let mut marks = graph.marks();
    let mut lacks = Lacks::new();
    // The last roots one by one, the others together.
    let (together, single) = region.roots.split_at(region.roots.len().min(2));
    for roots in [together].into_iter().chain(single.chunks(1)) {
        graph.walk_all(roots, &mut marks, &mut |from, to, lack| {
            lacks.insert((from, to, lack == Lack::Lost));
        })?;
    }
    let mut chunks = BTreeMap::new();
    let mut last: Option<ChunkName> = None;
    graph.each_chunk(&marks, &mut |name, reached, copies| {
        assert!(last.is_none_or(|last| last < *name), "ascending, each once");
        last = Some(*name);
        let told: BTreeSet<_> = copies.iter().map(numbers).collect();
        assert_eq!(told.len(), copies.len(), "no copy twice");
        chunks.insert(*name, (reached, told));
    })?;
    Ok(Answer { chunks, lacks, count: marks.count(), lost: marks.lost() })
}

/// That single chunks are told as all together are.
fn assert_single(region: &Region, graph: &Graph, expected: &Answer) {
    let mut marks = graph.marks();
    region.roots.iter().for_each(|root| graph.walk(root, &mut marks, &mut |_, _, _| {}).unwrap());
    for family in 0..FAMILIES + 2 {
        let reached = expected.chunks.get(&chunk_name(&id(family, 0, 0))).is_some_and(|told| told.0);
        assert_eq!(graph.is_reached(&marks, &id(family, 0, 1)).unwrap(), reached);
    }
    // Marking without walking, and what two marks have in common.
    let (mut some, mut others) = (graph.marks(), graph.marks());
    let ids: Vec<ChunkId> = (0..40).map(|family| id(family, 0, 0)).collect();
    graph.mark(&mut some, &ids).unwrap();
    graph.mark(&mut others, &ids[30..]).unwrap();
    let listed = |family: u16| expected.chunks.contains_key(&chunk_name(&id(family, 0, 0)));
    assert_eq!(some.count(), (0..40).filter(|family| listed(*family)).count() as u64);
    assert_eq!(some.meets(&others), (30..40).any(listed));
    let reached = |family: u16| expected.chunks.get(&chunk_name(&id(family, 0, 0))).is_some_and(|told| told.0);
    assert_eq!(some.meets(&marks), (0..40).any(reached));
}

/// The same by plain means.
fn model(region: &Region) -> Answer {
    let mut chunks: BTreeMap<ChunkName, Told> = BTreeMap::new();
    let mut references: BTreeMap<ChunkName, BTreeSet<Key>> = BTreeMap::new();
    for at in 0..region.segments.len() {
        let (segment, packs, present) = region.segment(at);
        let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
        for ((pack, ordinal), present) in segment.packs.iter().zip(packs).zip(present) {
            for (frame, listed) in pack.frames.iter().enumerate() {
                for chunk in &listed.chunks {
                    let structural = chunk.kind.is_structural();
                    let copy = (ordinal, frame as u32, chunk.length, structural, present);
                    chunks.entry(chunk_name(&chunk.id)).or_default().1.insert(copy);
                    let to = chunk.references.iter().map(|reference| match reference {
                        Reference::Ordinal(ordinal) => key(&ids[*ordinal as usize]),
                        Reference::Prefix(prefix) => Key::from_be_bytes(*prefix),
                    });
                    references.entry(chunk_name(&chunk.id)).or_default().extend(to);
                }
            }
        }
    }
    let is_lost = |told: &Told| told.1.iter().all(|copy| !copy.4);
    let mut lacks = Lacks::new();
    // Names to be walked with who refers to them; a reference stands for all names of its key.
    let mut open: Vec<(Option<Key>, Key, Option<ChunkName>)> =
        region.roots.iter().map(|root| (None, key(root), Some(chunk_name(root)))).collect();
    while let Some((from, to, only)) = open.pop() {
        let mut found = 0;
        for (name, told) in &mut chunks {
            if key_of(name) != to || only.is_some_and(|only| only != *name) {
                continue;
            }
            found += 1;
            if is_lost(told) {
                lacks.insert((from, to, true));
            }
            if !told.0 {
                told.0 = true;
                open.extend(references[name].iter().map(|target| (Some(to), *target, None)));
            }
        }
        if found == 0 {
            lacks.insert((from, to, false));
        }
    }
    let count = chunks.values().filter(|told| told.0).count() as u64;
    let lost = chunks.values().filter(|told| told.0 && is_lost(told)).count() as u64;
    Answer { chunks, lacks, count, lost }
}

fn few(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(few(64))]

    #[test]
    fn spilled_or_not_a_graph_tells_what_the_model_tells(region in any_region(), memory_bytes in 0usize..60_000) {
        let expected = model(&region);
        let in_memory = region.build(GraphBuilder::new(None, 0)).unwrap();
        prop_assert!(matches!(in_memory.listed, Sorted::Memory(_)));
        prop_assert_eq!(&answer(&region, &in_memory).unwrap(), &expected);
        assert_single(&region, &in_memory, &expected);
        let directory = tempfile::tempdir().unwrap();
        for memory_bytes in [0, memory_bytes] {
            let spilled = region.build(GraphBuilder::new(Some(directory.path().to_owned()), memory_bytes)).unwrap();
            prop_assert_eq!(&answer(&region, &spilled).unwrap(), &expected);
            assert_single(&region, &spilled, &expected);
        }
        prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    /// Whatever room there is: the right answer or an error, and nothing usable after an error.
    #[test]
    fn a_spool_that_is_full_is_an_error(region in any_region(), room in 0u64..600_000) {
        let space = || SpoolSpace::Bounded(Arc::new(AtomicU64::new(room)));
        let expected = model(&region);
        match region.build(GraphBuilder::with_space(Some(space()), 0)) {
            Err(GraphError::Spool(PackError::Spool { .. })) => {}
            Err(error) => panic!("{error}"),
            Ok(graph) => match answer(&region, &graph) {
                Err(GraphError::Spool(PackError::Spool { .. })) => {}
                Err(error) => panic!("{error}"),
                Ok(answer) => prop_assert_eq!(&answer, &expected),
            },
        }
    }

    /// Spilled or not, a cursor stands where a plain search says, however it is moved.
    #[test]
    fn cursors_find_the_first_of_a_key(keys in vec(0u64..3000, 0..3000), wanted in vec(0u64..3100, 1..60)) {
        let sorted = |space: Option<SpoolSpace>| {
            let mut sorter = Sorter::new(space, 0);
            keys.iter().for_each(|key| sorter.push(Number(*key / 3, *key)).unwrap());
            sorter.finish().unwrap()
        };
        let plain: Vec<Number> = keys.iter().map(|key| Number(*key / 3, *key)).collect::<BTreeSet<_>>().into_iter().collect();
        for sorted in [sorted(None), sorted(Some(SpoolSpace::Memory))] {
            prop_assert_eq!(sorted.len(), plain.len() as u64);
            let mut cursor = sorted.cursor();
            for key in &wanted {
                cursor.seek(*key / 3).unwrap();
                let expected = plain.partition_point(|number| number.0 < *key / 3);
                prop_assert_eq!(cursor.position(), expected as u64);
                for expected in &plain[expected..plain.len().min(expected + 3)] {
                    prop_assert_eq!(cursor.peek().unwrap(), Some(*expected));
                    cursor.advance();
                }
            }
            let mut cursor = sorted.cursor();
            for expected in &plain {
                prop_assert_eq!(cursor.peek().unwrap(), Some(*expected));
                cursor.advance();
            }
            prop_assert_eq!(cursor.peek().unwrap(), None);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number(u64, u64);

impl Record for Number {
    const BYTES: usize = 16;

    fn key(&self) -> u64 {
        self.0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
        out.extend_from_slice(&self.1.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        Number(number(&bytes[..8]), number(&bytes[8..16]))
    }
}

/// Many chunks below one root, in several pages of every kind.
fn wide() -> Region {
    let targets = |from: u16| (from..from + 40).map(Target::Family).collect();
    let lists = (300..308u16).map(|family| (id(family, 0, 0), targets((family - 300) * 37)));
    let mut chunks: Vec<Chunk> = lists.collect();
    chunks.push((id(399, 0, 0), (300..308).map(Target::Family).collect()));
    chunks.extend((0..1200).map(|at| (id(310 + at % 80, 3 + (at / 80) as u8, 0), targets(0))));
    let structural = Pack { ordinal: 1, present: true, structural: true, frames: vec![chunks] };
    let data = (0..300u16).map(|family| (id(family, 0, 0), Vec::new())).collect();
    let data = Pack { ordinal: 2, present: true, structural: false, frames: vec![data] };
    Region { segments: vec![vec![structural, data]], twice: Vec::new(), roots: vec![id(399, 0, 0)] }
}

#[test]
fn a_spool_that_cannot_be_made_or_filled_is_named_and_ends_the_builder() {
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("gone");
    let region = wide();
    let (segment, packs, present) = region.segment(0);
    let mut builder = GraphBuilder::new(Some(gone.clone()), 0);
    let error = builder.add(&segment, &packs, &present).unwrap_err();
    assert!(matches!(error, GraphError::Spool(PackError::Spool { .. })));
    assert!(error.to_string().contains(&gone.display().to_string()), "{error}");
    assert!(matches!(builder.add(&segment, &packs, &present), Err(GraphError::Incomplete)));
    assert!(matches!(builder.finish(), Err(GraphError::Incomplete)));
    // With memory enough the directory is not asked for.
    let graph = region.build(GraphBuilder::new(Some(gone), 64 << 20)).unwrap();
    assert_eq!(answer(&region, &graph).unwrap(), model(&region));
}

/// Every byte of every spool, one at a time: the right answer or an error, and marks that are worth nothing
/// can't be used.
#[test]
fn what_reads_otherwise_than_it_was_written_is_never_believed() {
    let region = wide();
    let expected = model(&region);
    let graph = region.build(GraphBuilder::with_space(Some(SpoolSpace::Memory), 0)).unwrap();
    let (Sorted::Spilled { pages: listed, .. }, Sorted::Spilled { pages: nodes, .. }, Some(references)) =
        (&graph.listed, &graph.nodes, &graph.references.pages)
    else {
        panic!("all is spilled")
    };
    assert!(listed.count() > 4 && nodes.count() > 3 && references.count() > 3);
    assert_eq!(answer(&region, &graph).unwrap(), expected);
    let mut noticed = 0;
    for pages in [listed, nodes, references] {
        for at in (0..pages.count() * PAGE_BYTES as u64).step_by(1499) {
            let mut byte = [0u8];
            pages.spool().read_at(&mut byte, at).unwrap();
            pages.spool().write_at(&[byte[0] ^ 4], at).unwrap();
            match answer(&region, &graph) {
                Ok(answer) => assert_eq!(answer, expected),
                Err(GraphError::Altered { .. }) => noticed += 1,
                Err(error) => panic!("{error}"),
            }
            pages.spool().write_at(&byte, at).unwrap();
        }
        // Each page in the next one's place.
        let mut misplaced = 0;
        for number in 0..pages.count() {
            let next = (number + 1) % pages.count();
            let (mut page, mut other) = (vec![0u8; PAGE_BYTES], vec![0u8; PAGE_BYTES]);
            pages.spool().read_at(&mut page, number * PAGE_BYTES as u64).unwrap();
            pages.spool().read_at(&mut other, next * PAGE_BYTES as u64).unwrap();
            pages.spool().write_at(&other, number * PAGE_BYTES as u64).unwrap();
            match answer(&region, &graph) {
                Ok(answer) => assert_eq!(answer, expected),
                Err(GraphError::Altered { .. }) => misplaced += 1,
                Err(error) => panic!("{error}"),
            }
            pages.spool().write_at(&page, number * PAGE_BYTES as u64).unwrap();
        }
        assert!(misplaced > 0);
    }
    assert!(noticed > 30, "{noticed}");
    // After a failed walk its marks tell nothing.
    let mut marks: Marks = graph.marks();
    listed.spool().write_at(&[1, 2, 3], 100).unwrap();
    assert!(graph.each_chunk(&marks, &mut |_, _, _| {}).is_err());
    for root in graph_roots() {
        let _ = graph.walk(&root, &mut marks, &mut |_, _, _| {});
    }
    assert!(matches!(graph.walk(&region.roots[0], &mut marks, &mut |_, _, _| {}), Err(GraphError::Incomplete)));
    assert!(matches!(graph.is_reached(&marks, &region.roots[0]), Err(GraphError::Incomplete)));
    assert!(matches!(graph.each_chunk(&marks, &mut |_, _, _| {}), Err(GraphError::Incomplete)));
}

/// Every family, so that some walk meets the first page.
fn graph_roots() -> impl Iterator<Item = ChunkId> {
    (0..FAMILIES).map(|family| id(family, 0, 0))
}

//! Generated segments, shaped as those of a backup of large files: 16 packs of 1,024 chunks, of which one
//! pack holds the trees. Each stands for one snapshot, whose root refers to its own trees and to earlier ones.

use keepstone::format::ids::{ChunkId, ChunkKind, PackId, SectionId, SessionId, SlotId};
use keepstone::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use keepstone::index::segment::prefix;

const PACK_CHUNKS: u64 = 1024;
/// Data chunks in a full segment.
const DATA: u64 = 15 * PACK_CHUNKS;
/// Data chunks that a tree refers to.
const TREE_REFERENCES: u64 = 240;
/// Trees in a full segment.
const TREES: u64 = DATA / TREE_REFERENCES;
/// Earlier trees that a root refers to.
const EARLIER: u64 = 192;
/// Chunks in a full segment: data, trees, the root.
pub const CHUNKS: u64 = DATA + TREES + 1;
const FRAME_CHUNKS: usize = 32;
pub const CHUNK_BYTES: u32 = 32 << 10;

/// A ChunkId that is as random as a real one.
pub fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// One of `below` numbers, the same for a `draw`.
pub fn pick(draw: u64, below: u64) -> u64 {
    let mut mixed = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) % below
}

/// How many segments hold so many chunks; the last is shorter.
pub fn count(chunks: u64) -> u64 {
    chunks.div_ceil(CHUNKS)
}

/// The number of a segment's root, in a repository of so many chunks.
pub fn root(at: u64, chunks: u64) -> u64 {
    (at * CHUNKS + CHUNKS).min(chunks) - 1
}

fn pack(number: u64, metadata: bool, origin: SlotId, chunks: Vec<SegmentChunk>) -> SegmentPack {
    let frames = chunks.chunks(FRAME_CHUNKS).zip(0..).map(|(chunks, number)| SegmentFrame {
        section: 0,
        number,
        sealed_length: 400_000,
        chunks: chunks.to_vec(),
    });
    SegmentPack {
        pack: PackId(id(u64::MAX - number).0),
        size: 32 << 20,
        session: SessionId([2; 16]),
        origin,
        metadata,
        sections: vec![SectionId([4; 16])],
        frames: frames.collect(),
    }
}

/// Segment `at` of a repository of so many chunks.
pub fn segment(at: u64, chunks: u64, origin: SlotId) -> Segment {
    let first = at * CHUNKS;
    let here = CHUNKS.min(chunks - first);
    // Of a short one as many are trees: the last chunk is the root.
    let trees = ((here - 1) / (TREE_REFERENCES + 1)).max(1);
    let data = here - 1 - trees;
    let chunk = |number: u64, references: Vec<Reference>| SegmentChunk {
        id: id(first + number),
        kind: if number < data { ChunkKind::Data } else { ChunkKind::Tree },
        length: CHUNK_BYTES,
        references,
    };
    let mut packs: Vec<SegmentPack> = (0..data)
        .step_by(PACK_CHUNKS as usize)
        .map(|start| {
            let listed = (start..data.min(start + PACK_CHUNKS)).map(|number| chunk(number, Vec::new())).collect();
            pack(first + start, false, origin, listed)
        })
        .collect();
    let ordinals = |from: u64, to: u64| (from..to).map(|ordinal| Reference::Ordinal(ordinal as u32));
    let mut listed: Vec<SegmentChunk> = (0..trees)
        .map(|tree| {
            let end = if tree + 1 == trees { data } else { (tree + 1) * TREE_REFERENCES };
            chunk(data + tree, ordinals(tree * TREE_REFERENCES, end).collect())
        })
        .collect();
    // Earlier segments are full ones.
    let earlier = (0..if at == 0 { 0 } else { EARLIER }).map(|draw| {
        let draw = at * EARLIER + draw;
        prefix(&id(pick(draw, at) * CHUNKS + DATA + pick(draw ^ 1 << 63, TREES)))
    });
    listed.push(chunk(here - 1, ordinals(data, data + trees).chain(earlier).collect()));
    packs.push(pack(first + data, true, origin, listed));
    Segment { supersedes: Vec::new(), packs }
}

//! Inputs that every run makes alike, and the keys that the stages need.

use keepstone::crypto::keyring::Keyring;
use keepstone::env::{Random, SeededRandom};
use keepstone::format::config::Suite;
use keepstone::format::ids::{ChunkId, ChunkKind, PackId, RepositoryId, SectionId, SessionId, SlotId};
use keepstone::format::segment::{Segment, SegmentChunk, SegmentFrame, SegmentPack};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that don't compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SeededRandom::new(1).fill(&mut bytes);
    bytes
}

/// Text that compresses about as source code does: words drawn from a small vocabulary.
pub fn text(length: usize) -> Vec<u8> {
    let draws = noise(length / 3 + 2);
    let words: Vec<Vec<u8>> = noise(4096).chunks(5).map(|word| word.iter().map(|b| b'a' + b % 26).collect()).collect();
    let mut out = Vec::with_capacity(length + 16);
    for pair in draws.chunks_exact(2) {
        // Squaring makes a few words frequent, as in any text.
        let draw = usize::from(pair[0]) * usize::from(pair[0]) * words.len() / 65_536;
        out.extend_from_slice(&words[draw]);
        out.push(if pair[1] < 30 { b'\n' } else { b' ' });
        if out.len() >= length {
            break;
        }
    }
    out.resize(length, b' ');
    out
}

/// A keyring of one epoch.
pub fn keyring(suite: Suite) -> Arc<Keyring> {
    let secrets = Keyring::generate(&SeededRandom::new(2));
    Arc::new(Keyring::new(RepositoryId([1; 16]), suite, BTreeMap::from([(1, secrets)])).expect("a ring"))
}

/// A ChunkId that is as random as a real one.
pub fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A segment that lists so many chunks of 16 KiB, from `first` on, in packs of 2,048.
pub fn segment(first: u64, chunks: u64) -> Segment {
    let chunk =
        |number| SegmentChunk { id: id(number), kind: ChunkKind::Data, length: 16 << 10, references: Vec::new() };
    let frame = |start: u64, number: u64| SegmentFrame {
        section: 0,
        number,
        sealed_length: 300_000,
        chunks: (start..start + 64).map(chunk).collect(),
    };
    let pack = |start: u64| SegmentPack {
        pack: PackId(id(u64::MAX - start).0),
        size: 32 << 20,
        session: SessionId([2; 16]),
        origin: SlotId([3; 16]),
        metadata: false,
        sections: vec![SectionId([4; 16])],
        frames: (0..32).map(|number| frame(start + number * 64, number)).collect(),
    };
    let packs = (first..first + chunks).step_by(2048).map(pack).collect();
    Segment { supersedes: Vec::new(), packs }
}

//! Builds segments from finished packs, seals them, opens them again. Page: `format-spec/segment.md`.

use super::IndexError;
use crate::compress::{Compression, compress, decompress};
use crate::crypto::CryptoError;
use crate::crypto::keyring::Keyring;
use crate::crypto::object::{self, Signer};
use crate::env::Random;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{ChunkId, PackId, SegmentId, SessionId, SlotId};
use crate::format::segment::{REFERENCE_PREFIX_BYTES, Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use crate::format::wire::{DecodeError, Reader};
use crate::limits::SEGMENT_RAW_BYTES_MAX;
use crate::pack::FinishedPack;
use std::collections::HashMap;

/// The object's name of a segment.
pub fn segment_name(id: &SegmentId) -> String {
    format!("index/{id}")
}

/// Lists packs in a segment; references become ordinals where their target is listed too.
pub fn build(packs: Vec<FinishedPack>, session: SessionId, origin: SlotId) -> Segment {
    let mut ordinals: HashMap<ChunkId, u32> = HashMap::new();
    let listed = packs.iter().flat_map(|pack| &pack.frames).flat_map(|frame| &frame.chunks);
    for (ordinal, chunk) in listed.enumerate() {
        ordinals.entry(chunk.id).or_insert(ordinal as u32);
    }
    let reference = |id: &ChunkId| match ordinals.get(id) {
        Some(ordinal) => Reference::Ordinal(*ordinal),
        None => prefix(id),
    };
    let packs = packs.iter().map(|pack| SegmentPack {
        pack: pack.id,
        size: pack.size,
        session,
        origin,
        metadata: pack.metadata,
        sections: pack.sections.iter().map(|record| record.section).collect(),
        frames: pack
            .frames
            .iter()
            .map(|frame| SegmentFrame {
                section: frame.section,
                number: frame.number,
                sealed_length: frame.sealed_length,
                chunks: frame
                    .chunks
                    .iter()
                    .map(|chunk| SegmentChunk {
                        id: chunk.id,
                        kind: chunk.kind,
                        length: chunk.length,
                        references: chunk.references.iter().map(reference).collect(),
                    })
                    .collect(),
            })
            .collect(),
    });
    Segment { supersedes: Vec::new(), packs: packs.collect() }
}

/// One segment that replaces several: it lists those of their packs that `keeps` says, each once. What refers
/// to a chunk of a pack that is left out keeps the first bytes of its id.
pub fn merge(segments: &[(SegmentId, Segment)], keeps: &dyn Fn(&SegmentId, &SegmentPack) -> bool) -> Segment {
    let mut packs: Vec<SegmentPack> = Vec::new();
    // The first ordinal of each pack that is kept.
    let mut starts: HashMap<PackId, u32> = HashMap::new();
    let mut end = 0u32;
    // By segment and old ordinal: the new one.
    let mut moved: Vec<Vec<Option<u32>>> = Vec::new();
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for (at, (id, segment)) in segments.iter().enumerate() {
        let mut ordinals = Vec::with_capacity(segment.chunk_count());
        for (position, pack) in segment.packs.iter().enumerate() {
            let count: usize = pack.frames.iter().map(|frame| frame.chunks.len()).sum();
            if !keeps(id, pack) {
                ordinals.resize(ordinals.len() + count, None);
                continue;
            }
            let start = *starts.entry(pack.pack).or_insert_with(|| {
                let start = end;
                end += count as u32;
                taken.push((at, position));
                start
            });
            ordinals.extend((start..).take(count).map(Some));
        }
        moved.push(ordinals);
    }
    for (at, position) in taken {
        let segment = &segments[at].1;
        let ids: Vec<&ChunkId> = segment.chunks().map(|chunk| &chunk.id).collect();
        let mut pack = segment.packs[position].clone();
        for chunk in pack.frames.iter_mut().flat_map(|frame| &mut frame.chunks) {
            for reference in &mut chunk.references {
                if let Reference::Ordinal(old) = *reference {
                    *reference = match moved[at][old as usize] {
                        Some(new) => Reference::Ordinal(new),
                        None => prefix(ids[old as usize]),
                    };
                }
            }
        }
        packs.push(pack);
    }
    let mut supersedes: Vec<SegmentId> = segments.iter().map(|(id, _)| *id).collect();
    supersedes.sort_unstable();
    Segment { supersedes, packs }
}

/// A reference to a chunk of any segment.
pub fn prefix(id: &ChunkId) -> Reference {
    let mut prefix = [0u8; REFERENCE_PREFIX_BYTES];
    prefix.copy_from_slice(&id.0[..REFERENCE_PREFIX_BYTES]);
    Reference::Prefix(prefix)
}

/// Encodes, compresses, seals and signs a segment; gives its bytes and id.
///
/// # Errors
/// When this slot's ring can't seal metadata.
pub fn seal(
    segment: &Segment,
    keyring: &Keyring,
    signer: &Signer<'_>,
    random: &dyn Random,
) -> Result<(Vec<u8>, SegmentId), CryptoError> {
    let columns = segment.encode();
    let mut payload = (columns.len() as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(&compress(&columns, Compression::Default));
    let (bytes, digest) = object::build_sealed(ObjectKind::Segment, keyring, signer, payload, random)?;
    Ok((bytes, SegmentId(digest.0)))
}

/// An opened segment and who signed it.
pub struct OpenedSegment {
    /// The list.
    pub segment: Segment,
    /// Who signed it.
    pub signer: SlotId,
    /// Its size as it is stored, in bytes.
    pub size: u64,
}

/// Checks digest and name, verifies the signature with `verify`, opens and decodes.
///
/// # Errors
/// [`IndexError::Segment`] naming what is wrong; [`IndexError::Refused`].
pub fn open(
    id: SegmentId,
    bytes: &[u8],
    keyring: &Keyring,
    verify: &dyn Fn(&crate::format::envelope::SignedObject<'_>) -> Result<(), CryptoError>,
) -> Result<OpenedSegment, IndexError> {
    let fail = |detail: String| IndexError::Segment { segment: id, detail };
    let signed = object::decode(ObjectKind::Segment, keyring.repository, bytes).map_err(|e| fail(e.to_string()))?;
    if signed.digest.0 != id.0 {
        return Err(fail(format!("OBJ-10: its bytes are those of {}", signed.digest)));
    }
    verify(&signed).map_err(|error| match error {
        CryptoError::Revoked { .. } => IndexError::Refused { segment: id, detail: error.to_string() },
        error => fail(error.to_string()),
    })?;
    let payload = object::open_payload(keyring, &signed).map_err(|e| fail(e.to_string()))?;
    let columns = unpack(&payload).map_err(|e| fail(e.to_string()))?;
    let segment = Segment::decode(&columns).map_err(|e| fail(e.to_string()))?;
    Ok(OpenedSegment { segment, signer: signed.envelope.signer, size: bytes.len() as u64 })
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut reader = Reader::new(payload, "SEG-1");
    let raw_length = reader.u32()? as usize;
    if raw_length > SEGMENT_RAW_BYTES_MAX {
        return Err(DecodeError::new("SEG-8", format!("{raw_length} bytes after decompression")));
    }
    let rest = reader.take(reader.remaining())?;
    decompress(rest, raw_length).map_err(|error| DecodeError::new("SEG-8", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{merge, prefix};
    use crate::format::ids::{ChunkId, ChunkKind, PackId, SectionId, SegmentId, SessionId, SlotId};
    use crate::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};

    fn pack(number: u8, kind: ChunkKind, chunks: Vec<(u8, Vec<Reference>)>) -> SegmentPack {
        let chunk = |(id, references)| SegmentChunk { id: ChunkId([id; 32]), kind, length: 9, references };
        SegmentPack {
            pack: PackId([number; 32]),
            size: 4096,
            session: SessionId([number; 16]),
            origin: SlotId([7; 16]),
            metadata: kind.is_structural(),
            sections: vec![SectionId([number; 16])],
            frames: vec![SegmentFrame {
                section: 0,
                number: 0,
                sealed_length: 60,
                chunks: chunks.into_iter().map(chunk).collect(),
            }],
        }
    }

    /// COLLECT-4: what refers to a chunk of a pack that is left out keeps the first bytes of its id, and so
    /// every chunk that begins with them.
    #[test]
    fn a_merged_segment_lists_the_rest_once_and_refers_to_the_same_chunks() {
        let (data, tree) = (ChunkKind::Data, ChunkKind::Tree);
        let first = Segment {
            supersedes: vec![SegmentId([1; 32])],
            packs: vec![
                pack(1, data, vec![(10, vec![]), (11, vec![])]),
                pack(2, data, vec![(12, vec![])]),
                pack(3, tree, vec![(13, [0, 2, 1].map(Reference::Ordinal).into())]),
            ],
        };
        let second = Segment {
            supersedes: Vec::new(),
            packs: vec![
                pack(4, tree, vec![(14, vec![Reference::Ordinal(1), prefix(&ChunkId([12; 32]))])]),
                pack(2, data, vec![(12, vec![])]),
            ],
        };
        let segments = [(SegmentId([9; 32]), first), (SegmentId([8; 32]), second)];
        let merged = merge(&segments, &|_, pack| pack.pack != PackId([1; 32]));
        assert_eq!(merged.supersedes, [SegmentId([8; 32]), SegmentId([9; 32])], "SEG-7");
        let packs: Vec<u8> = merged.packs.iter().map(|pack| pack.pack.0[0]).collect();
        assert_eq!(packs, [2, 3, 4], "SEG-5");
        let references = |at: usize| &merged.packs[at].frames[0].chunks[0].references;
        let (ten, eleven) = (prefix(&ChunkId([10; 32])), prefix(&ChunkId([11; 32])));
        assert_eq!(*references(1), [ten, Reference::Ordinal(0), eleven]);
        assert_eq!(*references(2), [Reference::Ordinal(0), prefix(&ChunkId([12; 32]))]);
        assert_eq!(Segment::decode(&merged.encode()), Ok(merged));
    }
}

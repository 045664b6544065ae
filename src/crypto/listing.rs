//! The digest of what a segment states of one pack: what an owner attests, and what others compare before
//! they rely on the pack. Page: `format-spec/attestation.md`.

use crate::format::ids::{ChunkId, Digest};
use crate::format::segment::{REFERENCE_PREFIX_BYTES, Reference, Segment};

const LABEL: &str = "keepstone/1 pack listing";

/// The digest of each pack's entry, in the segment's order. It doesn't cover the origin, and it is the same
/// for two segments that state the same of a pack: references count as the first bytes of their target's
/// id, however they are written (`ATTEST-3`).
pub fn listings(segment: &Segment) -> Vec<Digest> {
    let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
    segment.packs.iter().map(|pack| listing(pack, &ids)).collect()
}

fn listing(pack: &crate::format::segment::SegmentPack, ids: &[ChunkId]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(LABEL);
    let mut bytes = Vec::with_capacity(4096);
    bytes.extend_from_slice(&pack.pack.0);
    bytes.extend_from_slice(&pack.session.0);
    bytes.extend_from_slice(&pack.size.to_le_bytes());
    bytes.push(u8::from(pack.metadata));
    bytes.extend_from_slice(&(pack.sections.len() as u32).to_le_bytes());
    pack.sections.iter().for_each(|section| bytes.extend_from_slice(&section.0));
    bytes.extend_from_slice(&(pack.frames.len() as u32).to_le_bytes());
    for frame in &pack.frames {
        bytes.extend_from_slice(&frame.section.to_le_bytes());
        bytes.extend_from_slice(&frame.number.to_le_bytes());
        bytes.extend_from_slice(&frame.sealed_length.to_le_bytes());
        bytes.extend_from_slice(&(frame.chunks.len() as u32).to_le_bytes());
        for chunk in &frame.chunks {
            bytes.extend_from_slice(&chunk.id.0);
            bytes.push(chunk.kind as u8);
            bytes.extend_from_slice(&chunk.length.to_le_bytes());
            bytes.extend_from_slice(&(chunk.references.len() as u32).to_le_bytes());
            for reference in &chunk.references {
                match reference {
                    Reference::Prefix(prefix) => bytes.extend_from_slice(prefix),
                    // SEG-4 made sure that there is such a chunk; a segment built by hand may lack it.
                    Reference::Ordinal(ordinal) => match ids.get(*ordinal as usize) {
                        Some(id) => bytes.extend_from_slice(&id.0[..REFERENCE_PREFIX_BYTES]),
                        None => bytes.extend_from_slice(&[0; REFERENCE_PREFIX_BYTES]),
                    },
                }
            }
            hasher.update(&bytes);
            bytes.clear();
        }
    }
    hasher.update(&bytes);
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{ChunkKind, PackId, SectionId, SessionId, SlotId};
    use crate::format::segment::{SegmentChunk, SegmentFrame, SegmentPack};

    fn segment(reference: Reference) -> Segment {
        let chunk = |byte, kind, references| SegmentChunk { id: ChunkId([byte; 32]), kind, length: 9, references };
        let pack = |byte, metadata, chunk| SegmentPack {
            pack: PackId([byte; 32]),
            size: 4096,
            session: SessionId([1; 16]),
            origin: SlotId([2; 16]),
            metadata,
            sections: vec![SectionId([3; 16])],
            frames: vec![SegmentFrame { section: 0, number: 4, sealed_length: 50, chunks: vec![chunk] }],
        };
        let packs = vec![
            pack(5, false, chunk(6, ChunkKind::Data, vec![])),
            pack(7, true, chunk(8, ChunkKind::Tree, vec![reference])),
        ];
        Segment { supersedes: Vec::new(), packs }
    }

    #[test]
    fn attest_3_covers_what_is_stated_but_the_origin_and_the_form_of_references() {
        let by_ordinal = listings(&segment(Reference::Ordinal(0)));
        assert_eq!(by_ordinal, listings(&segment(Reference::Prefix([6; 8]))));
        let mut origin = segment(Reference::Ordinal(0));
        origin.packs[1].origin = SlotId([9; 16]);
        assert_eq!(by_ordinal, listings(&origin));
        let changes: [fn(&mut SegmentPack); 9] = [
            |pack| pack.pack.0[0] ^= 1,
            |pack| pack.session.0[0] ^= 1,
            |pack| pack.size += 1,
            |pack| pack.metadata = false,
            |pack| pack.sections[0].0[0] ^= 1,
            |pack| pack.frames[0].number += 1,
            |pack| pack.frames[0].sealed_length += 1,
            |pack| pack.frames[0].chunks[0].id.0[31] ^= 1,
            |pack| pack.frames[0].chunks[0].references.clear(),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut altered = segment(Reference::Ordinal(0));
            change(&mut altered.packs[1]);
            assert_ne!(by_ordinal[1], listings(&altered)[1], "change {at}");
        }
    }
}

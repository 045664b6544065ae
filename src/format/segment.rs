//! `index/<id>`: a segment lists packs with their frames and chunks, and what structural chunks
//! refer to, in columns. Page: `format-spec/segment.md`.

use super::ids::{ChunkId, ChunkKind, PackId, SectionId, SegmentId, SessionId, SlotId};
use super::wire::{DecodeError, Reader, put_varint};
use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_REFERENCES_MAX, FRAME_RAW_BYTES_MAX, FRAME_SEALED_BYTES_MAX, PACK_BYTES_MAX,
    PACK_CHUNKS_MAX, PACK_FRAMES_MAX, PACK_SECTIONS_MAX, REFERENCES_PER_CHUNK, SEGMENT_CHUNKS_MAX, SEGMENT_PACKS_MAX,
    SEGMENT_REFERENCES_MAX,
};
use std::collections::HashMap;

/// Bytes of a reference's prefix.
pub const REFERENCE_PREFIX_BYTES: usize = 8;
const SUPERSEDES_MAX: usize = 65_536;
/// Stands for a reference by prefix; a segment has fewer chunks.
const BY_PREFIX: u32 = u32::MAX;

/// What a structural chunk refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A chunk of the same segment, by its ordinal there.
    Ordinal(u32),
    /// Every ChunkId that begins with these bytes.
    Prefix([u8; REFERENCE_PREFIX_BYTES]),
}

/// One chunk of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its kind.
    pub kind: ChunkKind,
    /// Plaintext length in bytes.
    pub length: u32,
    /// What it refers to; empty for data.
    pub references: Vec<Reference>,
}

/// One frame of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFrame {
    /// Index into the pack's sections.
    pub section: u32,
    /// The frame's number in its section.
    pub number: u64,
    /// Bytes in the pack, tag included.
    pub sealed_length: u32,
    /// The chunks, in order.
    pub chunks: Vec<SegmentChunk>,
}

/// One pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPack {
    /// Its id.
    pub pack: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// The session in its header.
    pub session: SessionId,
    /// The slot that first wrote its frames.
    pub origin: SlotId,
    /// True for tree and list chunks.
    pub metadata: bool,
    /// Its sections, in header order.
    pub sections: Vec<SectionId>,
    /// Its frames, in stored order.
    pub frames: Vec<SegmentFrame>,
}

/// A list of packs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Segments that this one replaces, ascending.
    pub supersedes: Vec<SegmentId>,
    /// The packs.
    pub packs: Vec<SegmentPack>,
}

impl SegmentPack {
    /// Its chunks, and every so many references as one more: what counts where segments are written.
    pub fn weight(&self) -> usize {
        let frames = self.frames.iter();
        frames.map(|frame| weight(frame.chunks.iter().map(|chunk| chunk.references.len()))).sum()
    }
}

/// The weight of a frame's chunks, by what each refers to.
pub fn weight(references: impl ExactSizeIterator<Item = usize>) -> usize {
    references.len() + references.sum::<usize>().div_ceil(REFERENCES_PER_CHUNK)
}

impl Segment {
    /// What its packs weigh.
    pub fn weight(&self) -> usize {
        self.packs.iter().map(SegmentPack::weight).sum()
    }

    /// How many chunks it lists.
    pub fn chunk_count(&self) -> usize {
        self.packs.iter().flat_map(|pack| &pack.frames).map(|frame| frame.chunks.len()).sum()
    }

    /// Every chunk with its ordinal order.
    pub fn chunks(&self) -> impl Iterator<Item = &SegmentChunk> {
        self.packs.iter().flat_map(|pack| &pack.frames).flat_map(|frame| &frame.chunks)
    }

    /// The segment's bytes before compression and sealing: columns, so that like stands by like.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.supersedes.len() as u64);
        self.supersedes.iter().for_each(|id| out.extend_from_slice(&id.0));
        put_varint(&mut out, self.packs.len() as u64);
        self.packs.iter().for_each(|pack| out.extend_from_slice(&pack.pack.0));
        self.packs.iter().for_each(|pack| out.extend_from_slice(&pack.session.0));
        self.packs.iter().for_each(|pack| out.extend_from_slice(&pack.origin.0));
        self.packs.iter().for_each(|pack| put_varint(&mut out, pack.size));
        self.packs.iter().for_each(|pack| out.push(u8::from(pack.metadata)));
        self.packs.iter().for_each(|pack| put_varint(&mut out, pack.sections.len() as u64));
        self.packs.iter().flat_map(|pack| &pack.sections).for_each(|id| out.extend_from_slice(&id.0));
        self.packs.iter().for_each(|pack| put_varint(&mut out, pack.frames.len() as u64));
        let frames = || self.packs.iter().flat_map(|pack| &pack.frames);
        frames().for_each(|frame| put_varint(&mut out, u64::from(frame.section)));
        frames().for_each(|frame| put_varint(&mut out, frame.number));
        frames().for_each(|frame| put_varint(&mut out, u64::from(frame.sealed_length)));
        frames().for_each(|frame| put_varint(&mut out, frame.chunks.len() as u64));
        self.chunks().for_each(|chunk| put_varint(&mut out, u64::from(chunk.length) << 2 | chunk.kind as u64));
        self.chunks().for_each(|chunk| out.extend_from_slice(&chunk.id.0));
        let structural = || self.chunks().filter(|chunk| chunk.kind.is_structural());
        structural().for_each(|chunk| put_varint(&mut out, chunk.references.len() as u64));
        // References run mostly forward through the segment, so the step from the last one is small.
        let mut last = 0i64;
        let mut prefixes = Vec::new();
        for reference in structural().flat_map(|chunk| &chunk.references) {
            match reference {
                Reference::Ordinal(ordinal) => {
                    let step = i64::from(*ordinal) - last;
                    put_varint(&mut out, 1 + ((step << 1) ^ (step >> 63)) as u64);
                    last = i64::from(*ordinal);
                }
                Reference::Prefix(prefix) => {
                    out.push(0);
                    prefixes.extend_from_slice(prefix);
                }
            }
        }
        out.extend_from_slice(&prefixes);
        out
    }

    /// # Errors
    /// `SEG-1` cut short or a count out of bounds, `SEG-2` chunk length or kind, `SEG-3` pack or frame
    /// length, `SEG-4` an ordinal that doesn't exist, `SEG-5` a pack that stands twice, `SEG-6` kinds
    /// mixed in a pack, `SEG-7` supersedes not ascending.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "SEG-1");
        let count = reader.count(SUPERSEDES_MAX, "supersedes count")?;
        let mut supersedes: Vec<SegmentId> = Vec::new();
        for _ in 0..count {
            let id = SegmentId(reader.array()?);
            if supersedes.last().is_some_and(|last| *last >= id) {
                return Err(DecodeError::new("SEG-7", "superseded segments not in ascending order"));
            }
            supersedes.push(id);
        }
        let count = reader.count(SEGMENT_PACKS_MAX, "pack count")?;
        let ids: Vec<PackId> = collect(count, || Ok(PackId(reader.array()?)))?;
        let sessions = collect(count, || Ok(SessionId(reader.array()?)))?;
        let origins = collect(count, || Ok(SlotId(reader.array()?)))?;
        let sizes = collect(count, || reader.count(PACK_BYTES_MAX as usize, "pack size"))?;
        let kinds = collect(count, || match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            code => Err(DecodeError::new("SEG-3", format!("unknown pack kind {code}"))),
        })?;
        let section_counts = collect(count, || reader.count(PACK_SECTIONS_MAX, "section count"))?;
        at_most(section_counts.iter().sum(), "sections")?;
        let mut sections = Vec::new();
        for sections_of_pack in &section_counts {
            sections.push(collect(*sections_of_pack, || Ok(SectionId(reader.array()?)))?);
        }
        let frame_counts = collect(count, || reader.count(PACK_FRAMES_MAX, "frame count"))?;
        let frames: usize = frame_counts.iter().sum();
        at_most(frames, "frames")?;
        let frame_sections = collect(frames, || reader.count(PACK_SECTIONS_MAX, "section index"))?;
        let frame_numbers = collect(frames, || reader.varint())?;
        let frame_lengths = collect(frames, || reader.count(FRAME_SEALED_BYTES_MAX, "sealed frame length"))?;
        let chunk_counts = collect(frames, || reader.count(PACK_CHUNKS_MAX, "chunk count"))?;
        let chunks: usize =
            chunk_counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count)).unwrap_or(usize::MAX);
        at_most(chunks, "chunks")?;
        // A chunk takes at least 33 bytes here: whatever states more is cut short.
        if chunks > reader.remaining() / 33 {
            return Err(DecodeError::new("SEG-1", format!("{chunks} chunks stated, too few bytes left")));
        }
        let coded = collect(chunks, || {
            let coded = reader.varint()?;
            let kind = ChunkKind::from_code((coded & 3) as u8);
            match (kind, usize::try_from(coded >> 2)) {
                (Some(kind), Ok(length @ 1..=CHUNK_BYTES_MAX)) => Ok((kind, length as u32)),
                _ => Err(DecodeError::new("SEG-2", format!("chunk coded as {coded:#x}"))),
            }
        })?;
        let chunk_ids = collect(chunks, || Ok(ChunkId(reader.array()?)))?;
        let structural = coded.iter().filter(|(kind, _)| kind.is_structural()).count();
        let reference_counts = collect(structural, || reader.count(CHUNK_REFERENCES_MAX, "reference count"))?;
        let references: usize = reference_counts.iter().sum();
        if references > SEGMENT_REFERENCES_MAX {
            return Err(DecodeError::new("LIMIT-1", format!("{references} references in a segment")));
        }
        if references > reader.remaining() {
            return Err(DecodeError::new("SEG-1", format!("{references} references stated, too few bytes left")));
        }
        let mut last = 0i64;
        let steps = collect(references, || match reader.varint()? {
            0 => Ok(BY_PREFIX),
            coded => {
                let coded = coded - 1;
                let step = (coded >> 1) as i64 ^ -((coded & 1) as i64);
                last = last.checked_add(step).unwrap_or(-1);
                match u32::try_from(last) {
                    Ok(ordinal) if (ordinal as usize) < chunks => Ok(ordinal),
                    _ => Err(DecodeError::new("SEG-4", format!("reference to chunk {last} of {chunks}"))),
                }
            }
        })?;
        let mut steps = steps.into_iter();
        let mut resolve = |count: usize| {
            let resolved = steps.by_ref().take(count).map(|step| match step {
                BY_PREFIX => Ok(Reference::Prefix(reader.array()?)),
                ordinal => Ok(Reference::Ordinal(ordinal)),
            });
            resolved.collect::<Result<Vec<_>, DecodeError>>()
        };

        let mut reference_counts = reference_counts.into_iter();
        let mut chunk = coded.into_iter().zip(chunk_ids);
        let mut frame = 0;
        let mut packs = Vec::with_capacity(count);
        let mut seen = HashMap::new();
        for (at, sections) in sections.into_iter().enumerate() {
            if seen.insert(ids[at], at).is_some() {
                return Err(DecodeError::new("SEG-5", format!("pack {} stands twice", ids[at])));
            }
            let mut pack = SegmentPack {
                pack: ids[at],
                size: sizes[at] as u64,
                session: sessions[at],
                origin: origins[at],
                metadata: kinds[at],
                sections,
                frames: Vec::with_capacity(frame_counts[at]),
            };
            let mut stored = super::pack::PackHeader::length(pack.sections.len()) as u64;
            for _ in 0..frame_counts[at] {
                if frame_sections[frame] >= pack.sections.len() {
                    return Err(DecodeError::new("SEG-3", "a frame of a section that the pack doesn't have"));
                }
                let mut raw_length = 0usize;
                let mut chunks = Vec::with_capacity(chunk_counts[frame]);
                for ((kind, length), id) in chunk.by_ref().take(chunk_counts[frame]) {
                    if kind.is_structural() != pack.metadata {
                        return Err(DecodeError::new("SEG-6", "data and structural chunks share a pack"));
                    }
                    raw_length += length as usize;
                    let references = match kind.is_structural() {
                        true => resolve(reference_counts.next().unwrap_or(0))?,
                        false => Vec::new(),
                    };
                    chunks.push(SegmentChunk { id, kind, length, references });
                }
                if raw_length > FRAME_RAW_BYTES_MAX || chunks.is_empty() {
                    return Err(DecodeError::new("SEG-3", format!("frame of {raw_length} plaintext bytes")));
                }
                stored += frame_lengths[frame] as u64;
                pack.frames.push(SegmentFrame {
                    section: frame_sections[frame] as u32,
                    number: frame_numbers[frame],
                    sealed_length: frame_lengths[frame] as u32,
                    chunks,
                });
                frame += 1;
            }
            if stored > pack.size {
                return Err(DecodeError::new("SEG-3", "the frames don't fit into the pack"));
            }
            packs.push(pack);
        }
        reader.end()?;
        Ok(Segment { supersedes, packs })
    }
}

/// Before any of them is read.
fn at_most(count: usize, what: &str) -> Result<(), DecodeError> {
    match count <= SEGMENT_CHUNKS_MAX {
        true => Ok(()),
        false => Err(DecodeError::new("LIMIT-1", format!("{count} {what} in a segment"))),
    }
}

/// Reads `count` items, growing as they come: a stated count alone allocates nothing.
fn collect<T>(count: usize, mut read: impl FnMut() -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::with_capacity(count.min(4096));
    for _ in 0..count {
        items.push(read()?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Segment {
        let chunk =
            |byte: u8, kind, references| SegmentChunk { id: ChunkId([byte; 32]), kind, length: 100, references };
        let data = SegmentPack {
            pack: PackId([1; 32]),
            size: 1 << 20,
            session: SessionId([2; 16]),
            origin: SlotId([3; 16]),
            metadata: false,
            sections: vec![SectionId([4; 16]), SectionId([5; 16])],
            frames: vec![SegmentFrame {
                section: 1,
                number: 9,
                sealed_length: 77,
                chunks: vec![chunk(10, ChunkKind::Data, vec![]), chunk(11, ChunkKind::Data, vec![])],
            }],
        };
        let tree = SegmentPack {
            pack: PackId([6; 32]),
            metadata: true,
            sections: vec![SectionId([7; 16])],
            frames: vec![SegmentFrame {
                section: 0,
                number: 0,
                sealed_length: 50,
                chunks: vec![
                    chunk(
                        12,
                        ChunkKind::Tree,
                        vec![Reference::Ordinal(1), Reference::Prefix([8; 8]), Reference::Ordinal(0)],
                    ),
                    chunk(13, ChunkKind::List, vec![]),
                ],
            }],
            ..data.clone()
        };
        Segment { supersedes: vec![SegmentId([0; 32])], packs: vec![data, tree] }
    }

    #[test]
    fn a_segment_round_trips_and_no_truncation_passes() {
        let segment = sample();
        let bytes = segment.encode();
        assert_eq!(Segment::decode(&bytes), Ok(segment));
        for cut in 0..bytes.len() {
            assert!(Segment::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    /// LIMIT-1: each takes one byte as it is stored, and twelve when it is read.
    #[test]
    fn a_segment_of_very_many_references_is_refused() {
        for (more, refused) in [(0, false), (1, true)] {
            let mut segment = sample();
            let frame = &mut segment.packs[1].frames[0];
            frame.chunks = (0..5)
                .map(|at| SegmentChunk {
                    id: ChunkId([20 + at; 32]),
                    kind: ChunkKind::Tree,
                    length: 100,
                    references: vec![Reference::Ordinal(0); if at < 4 { SEGMENT_REFERENCES_MAX / 4 } else { more }],
                })
                .collect();
            let decoded = Segment::decode(&segment.encode());
            assert_eq!(decoded.as_ref().err().map(|error| error.rule), refused.then_some("LIMIT-1"));
            assert!(refused || decoded == Ok(segment));
        }
    }

    /// LIMIT-1: they compress to next to nothing.
    #[test]
    fn a_segment_of_very_many_chunks_is_refused() {
        for (count, refused) in [(SEGMENT_CHUNKS_MAX, false), (SEGMENT_CHUNKS_MAX + 1, true)] {
            let mut segment = sample();
            let here = count - segment.chunk_count() + segment.packs[0].frames[0].chunks.len();
            let frame = &mut segment.packs[0].frames[0];
            frame.chunks = vec![SegmentChunk { length: 1, ..frame.chunks[0].clone() }; here];
            let decoded = Segment::decode(&segment.encode());
            assert_eq!(decoded.as_ref().err().map(|error| error.rule), refused.then_some("LIMIT-1"));
            assert!(refused || decoded == Ok(segment));
        }
    }

    /// SEG-1
    #[test]
    fn nothing_stands_behind_the_columns() {
        let mut bytes = sample().encode();
        bytes.push(0);
        assert_eq!(Segment::decode(&bytes).map_err(|error| error.rule), Err("SEG-1"));
    }

    #[test]
    fn references_weigh_less_than_chunks() {
        let segment = sample();
        // Each frame's are counted together: 2 data chunks, and 2 structural ones with 3 references.
        assert_eq!((segment.chunk_count(), segment.weight()), (4, 5));
        assert_eq!(weight([16, 17].into_iter()), 5);
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = Segment::decode(&flipped);
            }
        }
    }
}

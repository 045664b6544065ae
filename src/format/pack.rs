//! Packs: the header with its sections, the directory and the footer.
//! Page: `format-spec/pack.md`.
//!
//! ```text
//! header | section records | frames | directory (sealed) | padding | footer (sealed) | digest
//! ```

use super::envelope::{FORMAT_VERSION, MAGIC, ObjectKind, TAG_BYTES, TRAILER_BYTES, decode_preamble};
use super::ids::{ChunkKind, RepositoryId, SectionId, SessionId};
use super::ring::ENCAPSULATED_BYTES;
use super::wire::{DecodeError, Reader, put_varint};
use crate::limits::{
    CHUNK_BYTES_MAX, FRAME_RAW_BYTES_MAX, FRAME_SEALED_BYTES_MAX, PACK_BYTES_MAX, PACK_CHUNKS_MAX, PACK_FRAMES_MAX,
    PACK_SECTIONS_MAX,
};

/// Bytes of the header before the section records.
pub const PACK_HEADER_BYTES: usize = 84;
/// Bytes of one section record.
pub const SECTION_RECORD_BYTES: usize = 16 + 8 + ENCAPSULATED_BYTES + 48 + 32;
/// Bytes of the sealed footer.
pub const FOOTER_BYTES: usize = 16 + TAG_BYTES;
const FLAG_METADATA: u16 = 1;

/// A section: frames sealed under one secret, and that secret sealed to the payload key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionRecord {
    /// Random identity, bound into every frame.
    pub section: SectionId,
    /// The ring whose `seal` key the secret is sealed to.
    pub epoch: u64,
    /// HPKE encapsulated key.
    pub encapsulated: [u8; ENCAPSULATED_BYTES],
    /// HPKE ciphertext of the 32-byte secret.
    pub sealed_secret: [u8; 48],
    /// Commitment to the section key, compared before the key is used.
    pub commitment: [u8; 32],
}

impl SectionRecord {
    /// Appends the record's bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.section.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.encapsulated);
        out.extend_from_slice(&self.sealed_secret);
        out.extend_from_slice(&self.commitment);
    }

    /// # Errors
    /// The reader's rule when bytes run short.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(SectionRecord {
            section: SectionId(reader.array()?),
            epoch: reader.u64()?,
            encapsulated: reader.array()?,
            sealed_secret: reader.array()?,
            commitment: reader.array()?,
        })
    }
}

/// A pack's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// True for packs of tree and list chunks.
    pub metadata: bool,
    /// Whose it is.
    pub repository: RepositoryId,
    /// The session that wrote it.
    pub session: SessionId,
    /// The ring whose `meta` secret seals directory and footer.
    pub epoch: u64,
    /// Random; the directory's key derives from it.
    pub salt: [u8; 32],
    /// The sections of its frames.
    pub sections: Vec<SectionRecord>,
}

impl PackHeader {
    /// Length in bytes, section records included.
    pub fn length(sections: usize) -> usize {
        PACK_HEADER_BYTES + sections * SECTION_RECORD_BYTES
    }

    /// The header's bytes, section records included.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::length(self.sections.len()));
        out.extend_from_slice(&MAGIC);
        out.push(ObjectKind::Pack as u8);
        out.push(FORMAT_VERSION);
        out.extend_from_slice(&(if self.metadata { FLAG_METADATA } else { 0 }).to_le_bytes());
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        self.sections.iter().for_each(|section| section.encode_into(&mut out));
        out
    }

    /// Reads the fixed part and tells how many section records follow.
    ///
    /// # Errors
    /// `OBJ` rules; `PACK-1` too short; `PACK-2` no section or too many; `OBJ-5` unknown flags.
    pub fn decode_fixed(bytes: &[u8]) -> Result<(PackHeader, usize), DecodeError> {
        let mut reader = Reader::new(bytes, "PACK-1");
        let (kind, flags) = decode_preamble(&mut reader)?;
        if kind != ObjectKind::Pack {
            return Err(DecodeError::new("OBJ-4", format!("a {} stands where a pack belongs", kind.name())));
        }
        if flags & !FLAG_METADATA != 0 {
            return Err(DecodeError::new("OBJ-5", format!("unknown flags {flags:#06x}")));
        }
        let header = PackHeader {
            metadata: flags & FLAG_METADATA != 0,
            repository: RepositoryId(reader.array()?),
            session: SessionId(reader.array()?),
            epoch: reader.u64()?,
            salt: reader.array()?,
            sections: Vec::new(),
        };
        match reader.u32()? as usize {
            count @ 1..=PACK_SECTIONS_MAX => Ok((header, count)),
            count => Err(DecodeError::new("PACK-2", format!("{count} sections, 1 to {PACK_SECTIONS_MAX} allowed"))),
        }
    }

    /// Reads the whole header from the start of a pack.
    ///
    /// # Errors
    /// As [`PackHeader::decode_fixed`]; `PACK-3` when a section stands twice.
    pub fn decode(bytes: &[u8]) -> Result<PackHeader, DecodeError> {
        let (mut header, count) = Self::decode_fixed(bytes)?;
        let mut reader = Reader::new(bytes, "PACK-1");
        reader.take(PACK_HEADER_BYTES)?;
        if reader.remaining() < count * SECTION_RECORD_BYTES {
            return Err(DecodeError::new("PACK-1", "section records cut short"));
        }
        for _ in 0..count {
            let section = SectionRecord::decode(&mut reader)?;
            if header.sections.iter().any(|other| other.section == section.section) {
                return Err(DecodeError::new("PACK-3", format!("section {} stands twice", section.section)));
            }
            header.sections.push(section);
        }
        Ok(header)
    }
}

/// One chunk as a directory states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryChunk {
    /// Its kind.
    pub kind: ChunkKind,
    /// Plaintext length in bytes.
    pub length: u32,
}

/// One frame: where its section is, its number there, its lengths and its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryFrame {
    /// Index into the header's sections.
    pub section: u32,
    /// The frame's number in its section: the AEAD nonce.
    pub number: u64,
    /// Bytes in the pack, tag included.
    pub sealed_length: u32,
    /// Plaintext bytes: the sum of its chunks.
    pub raw_length: u32,
    /// The chunks, in order.
    pub chunks: Vec<DirectoryChunk>,
}

/// A pack's frames in stored order; they stand one after another from the header's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The frames.
    pub frames: Vec<DirectoryFrame>,
}

impl Directory {
    /// The directory's bytes before sealing.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.frames.len() as u64);
        for frame in &self.frames {
            put_varint(&mut out, u64::from(frame.section));
            put_varint(&mut out, frame.number);
            put_varint(&mut out, u64::from(frame.sealed_length));
            put_varint(&mut out, frame.chunks.len() as u64);
            for chunk in &frame.chunks {
                // Kind in the low bits: data packs stay at one varint a chunk.
                put_varint(&mut out, u64::from(chunk.length) << 2 | chunk.kind as u64);
            }
        }
        out
    }

    /// Reads a directory of a pack with `sections` sections.
    ///
    /// # Errors
    /// `DIR-1` cut short or a count out of bounds, `DIR-2` chunk length or kind, `DIR-3` frame length,
    /// `DIR-4` a data chunk in a metadata pack or the reverse, `DIR-5` a frame number used twice.
    pub fn decode(bytes: &[u8], sections: usize, metadata: bool) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "DIR-1");
        let count = reader.count(PACK_FRAMES_MAX, "frame count")?;
        let mut frames = Vec::new();
        let mut chunks_left = PACK_CHUNKS_MAX;
        let mut numbers = std::collections::HashSet::new();
        for _ in 0..count {
            let section = reader.count(sections.saturating_sub(1), "section index")? as u32;
            let number = reader.varint()?;
            if !numbers.insert((section, number)) {
                return Err(DecodeError::new("DIR-5", format!("frame number {number} stands twice in a section")));
            }
            let sealed_length = reader.count(FRAME_SEALED_BYTES_MAX, "sealed frame length")?;
            if sealed_length <= TAG_BYTES {
                return Err(DecodeError::new("DIR-3", "sealed frame shorter than its tag"));
            }
            let chunk_count = reader.count(chunks_left, "chunk count")?;
            chunks_left -= chunk_count;
            let mut chunks = Vec::new();
            let mut raw_length = 0usize;
            for _ in 0..chunk_count {
                let coded = reader.varint()?;
                let kind = ChunkKind::from_code((coded & 3) as u8)
                    .ok_or_else(|| DecodeError::new("DIR-2", "unknown chunk kind"))?;
                if kind.is_structural() != metadata {
                    return Err(DecodeError::new("DIR-4", "data and structural chunks share a pack"));
                }
                let length = match usize::try_from(coded >> 2) {
                    Ok(length @ 1..=CHUNK_BYTES_MAX) => length,
                    _ => return Err(DecodeError::new("DIR-2", format!("chunk of {} bytes", coded >> 2))),
                };
                raw_length += length;
                if raw_length > FRAME_RAW_BYTES_MAX {
                    return Err(DecodeError::new("DIR-3", "frame larger than allowed"));
                }
                chunks.push(DirectoryChunk { kind, length: length as u32 });
            }
            if chunks.is_empty() {
                return Err(DecodeError::new("DIR-3", "frame without chunks"));
            }
            frames.push(DirectoryFrame {
                section,
                number,
                sealed_length: sealed_length as u32,
                raw_length: raw_length as u32,
                chunks,
            });
        }
        reader.end()?;
        Ok(Directory { frames })
    }
}

/// Where the sealed directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Offset from the pack's start, in bytes.
    pub directory_offset: u64,
    /// Length with its tag, in bytes.
    pub directory_length: u64,
}

impl Footer {
    /// The footer's bytes before sealing.
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0u8; 16];
        out[..8].copy_from_slice(&self.directory_offset.to_le_bytes());
        out[8..].copy_from_slice(&self.directory_length.to_le_bytes());
        out
    }

    /// Reads the footer of a pack of `pack_length` bytes.
    ///
    /// # Errors
    /// `PACK-4` when it points outside the pack.
    pub fn decode(bytes: &[u8], pack_length: u64) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "PACK-4");
        let footer = Footer { directory_offset: reader.u64()?, directory_length: reader.u64()? };
        reader.end()?;
        let end = footer.directory_offset.checked_add(footer.directory_length);
        let room = pack_length.saturating_sub((FOOTER_BYTES + TRAILER_BYTES) as u64);
        let after_header = footer.directory_offset >= PackHeader::length(1) as u64;
        if !after_header || end.is_none_or(|end| end > room) || footer.directory_length <= TAG_BYTES as u64 {
            return Err(DecodeError::new("PACK-4", "the footer points outside the pack"));
        }
        Ok(footer)
    }
}

/// The next Padmé length at or above `length` (Nikitin et al., PURBs, 2019, section 4): at most
/// 12 % more, and only O(log log) bits of the length leak.
pub fn padme(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1).min(exponent);
    let mask = (1u64 << low_bits) - 1;
    (length + mask) & !mask
}

const _: () = assert!(PACK_BYTES_MAX < u32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_rounds_up_by_at_most_an_eighth_and_keeps_powers_of_two() {
        for length in (1..100_000u64).chain((1 << 25) - 5..(1 << 25) + 5) {
            let padded = padme(length);
            assert!(padded >= length && padded - length <= length / 8 + 1, "{length} -> {padded}");
            assert_eq!(padme(padded), padded);
        }
        assert_eq!(padme(32 << 20), 32 << 20);
    }

    #[test]
    fn a_directory_round_trips_and_no_truncation_passes() {
        let frame = |number| DirectoryFrame {
            section: 0,
            number,
            sealed_length: 900,
            raw_length: 3000,
            chunks: vec![
                DirectoryChunk { kind: ChunkKind::Tree, length: 1000 },
                DirectoryChunk { kind: ChunkKind::List, length: 2000 },
            ],
        };
        let directory = Directory { frames: vec![frame(0), frame(7)] };
        let bytes = directory.encode();
        assert_eq!(Directory::decode(&bytes, 1, true), Ok(directory));
        for cut in 0..bytes.len() {
            assert!(Directory::decode(&bytes[..cut], 1, true).is_err(), "cut at {cut}");
        }
        assert_eq!(Directory::decode(&bytes, 1, false).map_err(|e| e.rule), Err("DIR-4"));
        let twice = Directory { frames: vec![frame(7), frame(7)] }.encode();
        assert_eq!(Directory::decode(&twice, 1, true).map_err(|e| e.rule), Err("DIR-5"));
    }
}

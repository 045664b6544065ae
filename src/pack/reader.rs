//! Reads packs: the header's sections, single frames by range, or a whole pack with its directory.
//! Page: `format-spec/pack.md`.

use super::{FinishedPack, PackError};
use crate::compress::decompress_into;
use crate::crypto::keyring::{Keyring, SectionKey};
use crate::crypto::object::check_digest;
use crate::format::envelope::{ObjectKind, TRAILER_BYTES, split_trailer};
use crate::format::ids::PackId;
use crate::format::pack::{Directory, FOOTER_BYTES, Footer, PACK_HEADER_BYTES, PackHeader, SECTION_RECORD_BYTES};
use crate::format::wire::DecodeError;
use crate::store::Store;
use crate::timing::{Stage, Timer};

/// The opened sections of one pack.
pub struct PackReader {
    /// The pack.
    pub pack: PackId,
    /// Its header.
    pub header: PackHeader,
    sections: Vec<SectionKey>,
    timer: Timer,
}

/// The object's name of a pack.
pub fn pack_name(pack: &PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}", &hex[..2])
}

/// What [`pack_name`] was given; `None` for any other name.
pub fn parse_pack_name(name: &str) -> Option<PackId> {
    let id = PackId::from_hex(name.rsplit('/').next()?)?;
    (pack_name(&id) == name).then_some(id)
}

/// Reads a pack's header from a store.
///
/// # Errors
/// When the store fails or the header breaks a rule.
pub fn read_header(store: &dyn Store, pack: PackId) -> Result<PackHeader, PackError> {
    let name = pack_name(&pack);
    // Nearly every pack has one or two sections: this one read is enough for both.
    let probable = PackHeader::length(2) as u64;
    let decode = |source| PackError::Decode { pack, source };
    let mut bytes = match store.get_range(&name, 0, probable) {
        Err(error) if error.kind == crate::store::StoreErrorKind::Range => {
            store.get_range(&name, 0, PACK_HEADER_BYTES as u64)?
        }
        read => read?,
    };
    let (_, sections) = PackHeader::decode_fixed(&bytes).map_err(decode)?;
    let length = PACK_HEADER_BYTES + sections * SECTION_RECORD_BYTES;
    if bytes.len() < length {
        let rest = store.get_range(&name, bytes.len() as u64, (length - bytes.len()) as u64)?;
        bytes.extend_from_slice(&rest);
    }
    PackHeader::decode(&bytes[..length]).map_err(decode)
}

impl PackReader {
    /// Opens the sections of a pack's header.
    ///
    /// # Errors
    /// When the pack is another repository's, or its sections don't open with this ring.
    pub fn open(pack: PackId, header: PackHeader, keyring: &Keyring) -> Result<Self, PackError> {
        if header.repository != keyring.repository {
            let detail = format!("it belongs to repository {}", header.repository);
            return Err(PackError::Decode { pack, source: DecodeError::new("OBJ-9", detail) });
        }
        let sections: Result<Vec<_>, _> = header.sections.iter().map(|record| keyring.open_section(record)).collect();
        Ok(PackReader { pack, header, sections: sections?, timer: Timer::off() })
    }

    /// Has its stages timed.
    pub fn timed(self, timer: Timer) -> Self {
        PackReader { timer, ..self }
    }

    /// Opens one sealed frame in place; its plaintext takes the place of what `out` held.
    ///
    /// # Errors
    /// When it was altered, is another one, or doesn't decompress to `raw_length` bytes.
    pub fn open_frame(
        &self,
        position: usize,
        section: u32,
        number: u64,
        raw_length: u32,
        sealed: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let pack = self.pack;
        let key = self.sections.get(section as usize).ok_or_else(|| PackError::Decode {
            pack,
            source: DecodeError::new("SEG-3", format!("section {section} of {}", self.sections.len())),
        })?;
        let timer = &self.timer;
        timer.bytes(Stage::Unseal, sealed.len() as u64);
        let length = timer.run(Stage::Unseal, || key.open(number, raw_length, sealed));
        let length = length.map_err(|source| PackError::Frame { pack, frame: position, source })?;
        timer.bytes(Stage::Decompress, u64::from(raw_length));
        let sealed = &sealed[..length];
        timer
            .run(Stage::Decompress, || decompress_into(sealed, raw_length as usize, out))
            .map_err(|source| PackError::Decompress { pack, frame: position, source })
    }
}

/// Reads a finished pack back as its readers will: its digest, its directory, each frame, and the id of each
/// chunk. For packs that are to take others' place; their packs can only be given up once this holds.
///
/// # Errors
/// What a reader would say; `Spool` when its bytes can't be read.
pub fn verify(pack: &FinishedPack, keyring: &Keyring) -> Result<(), PackError> {
    let decode = |source| PackError::Decode { pack: pack.id, source };
    let mut bytes = vec![0; usize::try_from(pack.size).unwrap_or(usize::MAX)];
    let spool = |source| PackError::Spool { directory: "the cache directory".to_owned(), source };
    pack.payload.read_exact_at(&mut bytes, 0).map_err(spool)?;
    let digest = check_digest(&bytes).map_err(decode)?;
    if digest.0 != pack.id.0 {
        return Err(decode(DecodeError::new("OBJ-10", format!("its bytes are those of {digest}"))));
    }
    let (header, directory) = decode_directory(pack.id, &bytes, keyring)?;
    let mut offset = PackHeader::length(header.sections.len());
    let epochs: Vec<u64> = header.sections.iter().map(|section| section.epoch).collect();
    let reader = PackReader::open(pack.id, header, keyring)?;
    if directory.frames.len() != pack.frames.len() {
        return Err(decode(DecodeError::new("PACK-5", "it has other frames than were written")));
    }
    let mut plain = Vec::new();
    for (position, (entry, frame)) in directory.frames.iter().zip(&pack.frames).enumerate() {
        let sealed = &mut bytes[offset..offset + entry.sealed_length as usize];
        offset += sealed.len();
        reader.open_frame(position, entry.section, entry.number, entry.raw_length, sealed, &mut plain)?;
        let hasher = keyring.ids(epochs[entry.section as usize])?;
        let mut start = 0;
        for chunk in &frame.chunks {
            let content = plain.get(start..start + chunk.length as usize);
            let content = content.ok_or_else(|| decode(DecodeError::new("SEG-3", "a frame is too short")))?;
            start += content.len();
            let actual = hasher.id(chunk.kind, content);
            if actual != chunk.id {
                return Err(PackError::WrongChunk { pack: pack.id, expected: chunk.id, actual });
            }
        }
    }
    Ok(())
}

/// Decodes a whole pack's header and directory; its digest must be compared already. Needs `meta`, no
/// payload key.
///
/// # Errors
/// `PACK` and `DIR` rules; unauthentic directory.
pub fn decode_directory(pack: PackId, bytes: &[u8], keyring: &Keyring) -> Result<(PackHeader, Directory), PackError> {
    let decode = |source| PackError::Decode { pack, source };
    let (body, _) = split_trailer(bytes).map_err(decode)?;
    let header = PackHeader::decode(body).map_err(decode)?;
    let directory = open_directory(pack, &header, bytes.len() as u64, body, keyring)?;
    Ok((header, directory))
}

/// Opens the directory of a pack of `length` bytes out of its end: `tail` holds, at least from the end
/// of the frames on, all bytes before the trailer. So a reader of frames needs no whole pack in memory.
///
/// # Errors
/// As [`decode_directory`]; `PACK-5` when the directory begins before `tail`.
pub fn open_directory(
    pack: PackId,
    header: &PackHeader,
    length: u64,
    tail: &[u8],
    keyring: &Keyring,
) -> Result<Directory, PackError> {
    let decode = |source| PackError::Decode { pack, source };
    if header.repository != keyring.repository {
        let detail = format!("it belongs to repository {}", header.repository);
        return Err(decode(DecodeError::new("OBJ-9", detail)));
    }
    let kind = ObjectKind::Pack as u8;
    let cipher = keyring.metadata_cipher(header.epoch, kind, &header.salt)?;
    let context = keyring.metadata_context(header.epoch, kind);
    let footer_at =
        tail.len().checked_sub(FOOTER_BYTES).ok_or_else(|| decode(DecodeError::new("PACK-1", "no footer")))?;
    let mut footer = tail[footer_at..].to_vec();
    let footer_length = cipher.open("a pack's footer", 1, &context, &mut footer)?;
    let footer = Footer::decode(&footer[..footer_length], length).map_err(decode)?;
    let tail_at = length.saturating_sub((tail.len() + TRAILER_BYTES) as u64);
    let begins_before = || decode(DecodeError::new("PACK-5", "the directory begins before the frames end"));
    let start = footer.directory_offset.checked_sub(tail_at).ok_or_else(begins_before)?;
    let sealed = usize::try_from(start)
        .ok()
        .zip(usize::try_from(start + footer.directory_length).ok())
        .and_then(|(start, end)| tail.get(start..end))
        .ok_or_else(|| decode(DecodeError::new("PACK-4", "the footer points outside the pack")))?;
    let mut sealed = sealed.to_vec();
    let plain_length = cipher.open("a pack's directory", 0, &context, &mut sealed)?;
    let directory =
        Directory::decode(&sealed[..plain_length], header.sections.len(), header.metadata).map_err(decode)?;
    let frames: u64 = directory.frames.iter().map(|frame| u64::from(frame.sealed_length)).sum();
    if PackHeader::length(header.sections.len()) as u64 + frames != footer.directory_offset {
        return Err(decode(DecodeError::new("PACK-5", "the frames don't end where the directory begins")));
    }
    Ok(directory)
}

//! Puts a pack's frames into a new pack, verbatim: for one whose name may not be written again.
//! Page: `format-spec/pack.md`.
//!
//! Guarantees: frames keep their section, number and bytes, so nothing is opened; header, directory,
//! padding and footer are new, and so is the name. Needs `meta`, no payload key.

use super::PackError;
use super::reader::decode_directory;
use crate::crypto::digest;
use crate::crypto::keyring::Keyring;
use crate::env::{Random, random_bytes};
use crate::format::envelope::{ObjectKind, TRAILER_BYTES};
use crate::format::ids::{PackId, SessionId};
use crate::format::pack::{FOOTER_BYTES, Footer, PackHeader, padme};

/// A new pack of `session` with the frames of `pack`, whose digest must be compared already.
///
/// # Errors
/// `PACK` and `DIR` rules; when the directory can't be opened or sealed.
pub fn reenvelope(
    pack: PackId,
    bytes: &[u8],
    keyring: &Keyring,
    random: &dyn Random,
    session: SessionId,
) -> Result<(PackId, Vec<u8>), PackError> {
    let (old, directory) = decode_directory(pack, bytes, keyring)?;
    let frames_at = PackHeader::length(old.sections.len());
    let frames: u64 = directory.frames.iter().map(|frame| u64::from(frame.sealed_length)).sum();
    // Decoding has compared their sum with where the directory begins.
    let frames = &bytes[frames_at..frames_at + frames as usize];
    let epoch = keyring.current_epoch();
    let header = PackHeader { session, epoch, salt: random_bytes(random), ..old };
    let kind = ObjectKind::Pack as u8;
    let cipher = keyring.metadata_cipher(epoch, kind, &header.salt)?;
    let context = keyring.metadata_context(epoch, kind);

    let mut out = header.encode();
    out.extend_from_slice(frames);
    let mut directory = directory.encode();
    cipher.seal(0, &context, &mut directory);
    let footer = Footer { directory_offset: out.len() as u64, directory_length: directory.len() as u64 };
    out.extend_from_slice(&directory);
    let length = padme((out.len() + FOOTER_BYTES + TRAILER_BYTES) as u64) as usize;
    let padding_at = out.len();
    out.resize(length - FOOTER_BYTES - TRAILER_BYTES, 0);
    keyring.padding(epoch, &header.salt)?.fill(&mut out[padding_at..]);
    let mut footer = footer.encode().to_vec();
    cipher.seal(1, &context, &mut footer);
    out.extend_from_slice(&footer);
    let id = PackId(digest(&out));
    out.extend_from_slice(&id.0);
    Ok((id, out))
}

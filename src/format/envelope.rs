//! The frame around every metadata object: header, payload, signature, digest.
//! Page: `format-spec/envelope.md`. Packs have a layout of their own (`pack.rs`).
//!
//! Guarantees: whatever is decoded here is whole (its digest matches) and of the expected kind and
//! repository; whether its signature counts is for the caller to check.

use super::ids::{Digest, RepositoryId, SlotId};
use super::wire::{DecodeError, Reader};

/// The first four bytes of every stored object but the age files.
pub const MAGIC: [u8; 4] = *b"KSTN";
/// The version of the format that this program reads and writes.
pub const FORMAT_VERSION: u8 = 1;
/// Bytes of the digest at an object's end.
pub const TRAILER_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 88;
/// Bytes of an AEAD tag.
pub const TAG_BYTES: usize = 16;
const FLAG_SEALED: u16 = 1;

/// The kinds of stored objects, as their code in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ObjectKind {
    Config = 1,
    Region = 2,
    Roster = 3,
    Ring = 4,
    Pack = 5,
    Segment = 6,
    Session = 7,
    SessionEnd = 8,
    Snapshot = 9,
    Commit = 10,
    Verdict = 11,
    Condemn = 12,
    Fence = 13,
    Final = 14,
    Tags = 15,
    Audit = 16,
    Accepted = 17,
    Attestation = 18,
    Designation = 19,
}

impl ObjectKind {
    const ALL: [ObjectKind; 19] = [
        ObjectKind::Config,
        ObjectKind::Region,
        ObjectKind::Roster,
        ObjectKind::Ring,
        ObjectKind::Pack,
        ObjectKind::Segment,
        ObjectKind::Session,
        ObjectKind::SessionEnd,
        ObjectKind::Snapshot,
        ObjectKind::Commit,
        ObjectKind::Verdict,
        ObjectKind::Condemn,
        ObjectKind::Fence,
        ObjectKind::Final,
        ObjectKind::Tags,
        ObjectKind::Audit,
        ObjectKind::Accepted,
        ObjectKind::Attestation,
        ObjectKind::Designation,
    ];

    /// The kind for a stored code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The kind's name in messages and in the spec.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Config => "config",
            ObjectKind::Region => "region",
            ObjectKind::Roster => "roster",
            ObjectKind::Ring => "ring",
            ObjectKind::Pack => "pack",
            ObjectKind::Segment => "segment",
            ObjectKind::Session => "session",
            ObjectKind::SessionEnd => "session end",
            ObjectKind::Snapshot => "snapshot",
            ObjectKind::Commit => "commit",
            ObjectKind::Verdict => "verdict",
            ObjectKind::Condemn => "condemn",
            ObjectKind::Fence => "fence",
            ObjectKind::Final => "final",
            ObjectKind::Tags => "tags",
            ObjectKind::Audit => "audit entry",
            ObjectKind::Accepted => "accepted list",
            ObjectKind::Attestation => "attestation",
            ObjectKind::Designation => "designation",
        }
    }
}

/// The salt and epoch of a sealed payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// The ring whose `meta` secret seals it.
    pub epoch: u64,
    /// Random; the object's key derives from it.
    pub salt: [u8; 32],
}

/// An object's header fields and payload, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the payload is.
    pub kind: ObjectKind,
    /// Whose it is.
    pub repository: RepositoryId,
    /// Who signed it; all zeros for the root key.
    pub signer: SlotId,
    /// Present when the payload is sealed.
    pub sealing: Option<Sealing>,
    /// Canonical CBOR or the kind's own layout; ciphertext and tag when sealed.
    pub payload: &'a [u8],
}

impl Envelope<'_> {
    /// Header and payload: the bytes that the signature covers.
    pub fn encode_signed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.payload.len() + SIGNATURE_BYTES + TRAILER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(self.kind as u8);
        out.push(FORMAT_VERSION);
        let flags = if self.sealing.is_some() { FLAG_SEALED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(&self.signer.0);
        let sealing = self.sealing.unwrap_or(Sealing { epoch: 0, salt: [0; 32] });
        out.extend_from_slice(&sealing.epoch.to_le_bytes());
        out.extend_from_slice(&sealing.salt);
        out.extend_from_slice(&(self.payload.len() as u64).to_le_bytes());
        out.extend_from_slice(self.payload);
        out
    }
}

/// A decoded object with what is needed to check its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedObject<'a> {
    /// The header and payload.
    pub envelope: Envelope<'a>,
    /// The bytes under the signature.
    pub signed_part: &'a [u8],
    /// Ed25519 over the domain label and `signed_part`.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The object's digest, as its trailer states it; already compared.
    pub digest: Digest,
}

/// Splits any stored object into its body and its trailer, without looking further.
///
/// # Errors
/// `OBJ-1` when it is shorter than a trailer.
pub fn split_trailer(bytes: &[u8]) -> Result<(&[u8], Digest), DecodeError> {
    match bytes.len().checked_sub(TRAILER_BYTES) {
        Some(body) => {
            let mut digest = [0u8; TRAILER_BYTES];
            digest.copy_from_slice(&bytes[body..]);
            Ok((&bytes[..body], Digest(digest)))
        }
        None => Err(DecodeError::new("OBJ-1", format!("{} bytes are too few for an object", bytes.len()))),
    }
}

/// Checks the first eight bytes of any object; gives its kind and flags.
///
/// # Errors
/// `OBJ-2` wrong magic, `OBJ-3` unknown version, `OBJ-4` unknown kind.
pub fn decode_preamble(reader: &mut Reader<'_>) -> Result<(ObjectKind, u16), DecodeError> {
    let magic: [u8; 4] = reader.array()?;
    if magic != MAGIC {
        return Err(DecodeError::new("OBJ-2", format!("the magic is {magic:02x?}, not that of this format")));
    }
    let kind = reader.u8()?;
    let version = reader.u8()?;
    if version != FORMAT_VERSION {
        return Err(DecodeError::new(
            "OBJ-3",
            format!("format version {version}; this program reads version {FORMAT_VERSION}: use a newer program"),
        ));
    }
    let kind = ObjectKind::from_code(kind)
        .ok_or_else(|| DecodeError::new("OBJ-4", format!("object kind {kind} is unknown: use a newer program")))?;
    Ok((kind, reader.u16()?))
}

/// Decodes an object of kind `kind`. The digest must have been compared with the bytes already
/// ([`split_trailer`] and a BLAKE3 of the body); this checks the layout.
///
/// # Errors
/// The `OBJ` rule that is broken.
pub fn decode<'a>(kind: ObjectKind, bytes: &'a [u8]) -> Result<SignedObject<'a>, DecodeError> {
    let (body, digest) = split_trailer(bytes)?;
    let mut reader = Reader::new(body, "OBJ-1");
    let (found, flags) = decode_preamble(&mut reader)?;
    if found != kind {
        return Err(DecodeError::new("OBJ-4", format!("a {} stands where a {} belongs", found.name(), kind.name())));
    }
    if flags & !FLAG_SEALED != 0 {
        return Err(DecodeError::new("OBJ-5", format!("unknown flags {flags:#06x}")));
    }
    let repository = RepositoryId(reader.array()?);
    let signer = SlotId(reader.array()?);
    let sealing = Sealing { epoch: reader.u64()?, salt: reader.array()? };
    let sealed = flags & FLAG_SEALED != 0;
    let seals = matches!(
        kind,
        ObjectKind::Segment | ObjectKind::Snapshot | ObjectKind::Verdict | ObjectKind::Tags | ObjectKind::Audit
    );
    if sealed != seals {
        let found = if sealed { "sealed" } else { "not sealed" };
        return Err(DecodeError::new("OBJ-6", format!("a {} whose payload is {found}", kind.name())));
    }
    if !sealed && sealing != (Sealing { epoch: 0, salt: [0; 32] }) {
        return Err(DecodeError::new("OBJ-6", "epoch or salt in an object that is not sealed"));
    }
    let length = reader.u64()?;
    if length != (reader.remaining() as u64).saturating_sub(SIGNATURE_BYTES as u64) {
        return Err(DecodeError::new("OBJ-7", format!("payload length {length} doesn't fit the object's size")));
    }
    let payload = reader.take(length as usize)?;
    let signed_part = &body[..reader.offset()];
    let signature = reader.array()?;
    reader.end()?;
    if sealed && payload.len() < TAG_BYTES {
        return Err(DecodeError::new("OBJ-7", "sealed payload shorter than its tag"));
    }
    let envelope = Envelope { kind, repository, signer, sealing: sealed.then_some(sealing), payload };
    Ok(SignedObject { envelope, signed_part, signature, digest })
}

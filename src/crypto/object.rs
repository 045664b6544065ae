//! Seals, signs, opens and verifies the metadata objects' envelopes. Page: `format-spec/envelope.md`.

use super::keyring::Keyring;
use super::{CryptoError, digest, sign};
use crate::env::{Random, random_bytes};
use crate::format::envelope::{self, Envelope, ObjectKind, Sealing, SignedObject, TAG_BYTES};
use crate::format::ids::{Digest, RepositoryId, SlotId};
use crate::format::wire::DecodeError;
use crate::limits::{OBJECT_BYTES_MAX, SEGMENT_BYTES_MAX};

/// Who signs: a slot, or root (slot id all zeros).
pub struct Signer<'a> {
    /// The slot.
    pub slot: SlotId,
    /// Its private key.
    pub private: &'a [u8; 32],
}

/// Builds a signed object; gives its bytes and digest.
pub fn build_signed(
    kind: ObjectKind,
    repository: RepositoryId,
    signer: &Signer<'_>,
    payload: &[u8],
) -> (Vec<u8>, Digest) {
    finish(&Envelope { kind, repository, signer: signer.slot, sealing: None, payload }, signer)
}

/// Builds an object whose payload is sealed under `meta` of the current epoch.
///
/// # Errors
/// [`CryptoError::NotPermitted`] when the ring is not there; [`CryptoError::TooLarge`] for an
/// object that no reader would take.
pub fn build_sealed(
    kind: ObjectKind,
    keyring: &Keyring,
    signer: &Signer<'_>,
    mut payload: Vec<u8>,
    random: &dyn Random,
) -> Result<(Vec<u8>, Digest), CryptoError> {
    let sealing = Sealing { epoch: keyring.current_epoch(), salt: random_bytes(random) };
    let cipher = keyring.metadata_cipher(sealing.epoch, kind as u8, &sealing.salt)?;
    cipher.seal(0, &keyring.metadata_context(sealing.epoch, kind as u8), &mut payload);
    let envelope = Envelope {
        kind,
        repository: keyring.repository,
        signer: signer.slot,
        sealing: Some(sealing),
        payload: &payload,
    };
    let (bytes, digest) = finish(&envelope, signer);
    let bytes_max = if kind == ObjectKind::Segment { SEGMENT_BYTES_MAX } else { OBJECT_BYTES_MAX };
    if bytes.len() > bytes_max {
        return Err(CryptoError::TooLarge { what: kind.name(), bytes: bytes.len(), bytes_max });
    }
    Ok((bytes, digest))
}

fn finish(envelope: &Envelope<'_>, signer: &Signer<'_>) -> (Vec<u8>, Digest) {
    let mut bytes = envelope.encode_signed_part();
    let signature = sign::sign(signer.private, &bytes);
    bytes.extend_from_slice(&signature);
    let digest = digest(&bytes);
    bytes.extend_from_slice(&digest);
    (bytes, Digest(digest))
}

/// Checks that an object's digest is that of its bytes. Needs no key.
///
/// # Errors
/// `OBJ-1` too short; `OBJ-8` when the digest differs.
pub fn check_digest(bytes: &[u8]) -> Result<Digest, DecodeError> {
    let (body, stated) = envelope::split_trailer(bytes)?;
    let actual = Digest(digest(body));
    match actual == stated {
        true => Ok(stated),
        false => Err(DecodeError::new("OBJ-8", format!("the bytes' digest is {actual}, the trailer says {stated}"))),
    }
}

/// Checks digest, kind and repository; the signature is not looked at.
///
/// # Errors
/// `OBJ` rules; `OBJ-9` when the object is another repository's.
pub fn decode<'a>(
    kind: ObjectKind,
    repository: RepositoryId,
    bytes: &'a [u8],
) -> Result<SignedObject<'a>, DecodeError> {
    check_digest(bytes)?;
    let object = envelope::decode(kind, bytes)?;
    if object.envelope.repository != repository {
        return Err(DecodeError::new(
            "OBJ-9",
            format!("it belongs to repository {}, not {repository}", object.envelope.repository),
        ));
    }
    Ok(object)
}

/// Opens the sealed payload of a decoded object.
///
/// # Errors
/// `OBJ-6` when it is not sealed; [`CryptoError::Unauthentic`].
pub fn open_payload(keyring: &Keyring, object: &SignedObject<'_>) -> Result<Vec<u8>, CryptoError> {
    let kind = object.envelope.kind;
    let sealing = object
        .envelope
        .sealing
        .ok_or_else(|| DecodeError::new("OBJ-6", format!("a {} whose payload is not sealed", kind.name())))?;
    let cipher = keyring.metadata_cipher(sealing.epoch, kind as u8, &sealing.salt)?;
    let mut payload = object.envelope.payload.to_vec();
    let context = keyring.metadata_context(sealing.epoch, kind as u8);
    let length = cipher.open(kind.name(), 0, &context, &mut payload)?;
    debug_assert_eq!(length + TAG_BYTES, payload.len());
    payload.truncate(length);
    Ok(payload)
}

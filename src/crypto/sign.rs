//! Ed25519 signatures over stored objects, and the fingerprint that clients pin.

use super::CryptoError;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

const SIGNATURE_LABEL: &[u8] = b"keepstone/1 signature\0";

/// The public key for a private one.
pub fn public_key(private: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(private).verifying_key().to_bytes()
}

/// Signs an object's header and payload.
pub fn sign(private: &[u8; 32], signed_part: &[u8]) -> [u8; 64] {
    SigningKey::from_bytes(private).sign(&labelled(signed_part)).to_bytes()
}

/// Checks a signature strictly (no weak keys, no malleable forms).
///
/// # Errors
/// [`CryptoError::Signature`] naming `what` and `signer`.
pub fn verify(
    public: &[u8; 32],
    signed_part: &[u8],
    signature: &[u8; 64],
    what: &str,
    signer: &str,
) -> Result<(), CryptoError> {
    VerifyingKey::from_bytes(public)
        .and_then(|key| key.verify_strict(&labelled(signed_part), &Signature::from_bytes(signature)))
        .map_err(|_| CryptoError::Signature { what: what.to_owned(), signer: signer.to_owned() })
}

fn labelled(signed_part: &[u8]) -> Vec<u8> {
    // Large objects are signed by their digest, so that the label and the digest are what is signed.
    let mut message = SIGNATURE_LABEL.to_vec();
    message.extend_from_slice(&super::digest(signed_part));
    message
}

/// What clients pin: BLAKE3-256 of the root public key under its own label.
pub fn fingerprint(root_public: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("keepstone/1 root fingerprint", root_public)
}

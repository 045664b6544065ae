//! Keyed ids, ciphers, sealing, signatures, the key ring and slots. Page: `format-spec/crypto.md`.
//!
//! Guarantees: every key is used for one purpose, named by a label; every decrypted byte was
//! authenticated; secrets are wiped when dropped.

pub mod aead;
pub mod keyring;
pub mod listing;
pub mod object;
pub mod sign;
pub mod slot;

/// What goes wrong in cryptography, without ever saying more than a reader may know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// A ciphertext was not sealed with this key, or was altered.
    #[error("{what} can't be opened: it was altered, or sealed with another key")]
    Unauthentic {
        /// What was opened.
        what: &'static str,
    },
    /// A commitment or digest differs.
    #[error("{what}: {expected} expected, {actual} found")]
    Mismatch {
        /// What was compared.
        what: &'static str,
        /// Expected value in hexadecimal.
        expected: String,
        /// Actual value in hexadecimal.
        actual: String,
    },
    /// A signature doesn't verify.
    #[error("the signature of {what} is not that of {signer}")]
    Signature {
        /// The signed object.
        what: String,
        /// Who should have signed.
        signer: String,
    },
    /// This slot's ring lacks the secret for that.
    #[error("this key slot can't {action}: its role doesn't hold the secret (epoch {epoch})")]
    NotPermitted {
        /// What was asked.
        action: &'static str,
        /// The epoch concerned.
        epoch: u64,
    },
    /// A stored public key or other key material is unusable.
    #[error("{what} is not a usable key")]
    BadKey {
        /// Which one.
        what: &'static str,
    },
    /// Neither passphrase nor identity opens the key file.
    #[error("the key file is not opened by this passphrase or identity")]
    WrongSecret,
    /// The identity file that was given is none.
    #[error("the identity file is unusable: {detail}")]
    Identity {
        /// What is wrong with it.
        detail: String,
    },
    /// The key file is damaged or not one.
    #[error("the key file is unusable: {detail}")]
    KeyFile {
        /// What is wrong with it.
        detail: String,
    },
    /// The signer was revoked and the object isn't on the list of what stays accepted: no damage, it just
    /// doesn't count.
    #[error("SIGN-3: slot {slot} ({label}) was revoked, and this isn't on the list of what stays accepted")]
    Revoked {
        /// The slot.
        slot: crate::format::ids::SlotId,
        /// Its label.
        label: String,
    },
    /// Something to be stored is larger than readers accept.
    #[error("{what} would take {bytes} bytes, and at most {bytes_max} are allowed (LIMIT-1)")]
    TooLarge {
        /// What was to be stored.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The bound in bytes.
        bytes_max: usize,
    },
    /// Stored bytes break a rule of the format.
    #[error(transparent)]
    Decode(#[from] crate::format::wire::DecodeError),
}

/// BLAKE3-256: the digest at the end of every object, and the names of content-named ones.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

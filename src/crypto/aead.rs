//! The AEAD of a suite behind one trait. Two implementations of ChaCha20-Poly1305 exist: aws-lc-rs
//! seals in bulk (about twice as fast), RustCrypto's is the reference that tests hold it against.

use super::CryptoError;
use crate::format::config::Suite;
use crate::format::envelope::TAG_BYTES;
use aws_lc_rs::aead as lc;

/// Authenticated encryption with a 96-bit nonce that callers never repeat under one key.
pub trait Aead: Send + Sync {
    /// Encrypts `bytes` in place and appends the 16-byte tag.
    fn seal(&self, nonce: u64, additional: &[u8], bytes: &mut Vec<u8>);

    /// Decrypts `bytes` (ciphertext and tag) in place and gives the plaintext's length.
    ///
    /// # Errors
    /// [`CryptoError::Unauthentic`] naming `what`; the buffer's content is then meaningless.
    fn open(&self, what: &'static str, nonce: u64, additional: &[u8], bytes: &mut [u8]) -> Result<usize, CryptoError>;
}

/// The 96-bit nonce for a number: four zero bytes, then the number in little endian.
fn nonce_bytes(number: u64) -> [u8; 12] {
    let mut nonce = [0u8; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// The suite's AEAD under `key`.
pub fn aead(suite: Suite, key: &[u8; 32]) -> Box<dyn Aead> {
    let algorithm = match suite {
        Suite::ChaCha20Poly1305 => &lc::CHACHA20_POLY1305,
        Suite::Aes256Gcm => &lc::AES_256_GCM,
    };
    // A 32-byte key fits both algorithms, the only reason for this to fail.
    let key = lc::UnboundKey::new(algorithm, key).expect("a 32-byte key");
    Box::new(AwsLc(lc::LessSafeKey::new(key)))
}

struct AwsLc(lc::LessSafeKey);

impl Aead for AwsLc {
    fn seal(&self, nonce: u64, additional: &[u8], bytes: &mut Vec<u8>) {
        let nonce = lc::Nonce::assume_unique_for_key(nonce_bytes(nonce));
        // Fails only past 2^36 bytes; frames and objects are bounded far below.
        self.0.seal_in_place_append_tag(nonce, lc::Aad::from(additional), bytes).expect("within the AEAD's bound");
    }

    fn open(&self, what: &'static str, nonce: u64, additional: &[u8], bytes: &mut [u8]) -> Result<usize, CryptoError> {
        if bytes.len() < TAG_BYTES {
            return Err(CryptoError::Unauthentic { what });
        }
        let nonce = lc::Nonce::assume_unique_for_key(nonce_bytes(nonce));
        let opened = self.0.open_in_place(nonce, lc::Aad::from(additional), bytes);
        opened.map(|plain| plain.len()).map_err(|_| CryptoError::Unauthentic { what })
    }
}

/// RustCrypto's ChaCha20-Poly1305: the reference for suite 1.
pub struct Reference(chacha20poly1305::ChaCha20Poly1305);

impl Reference {
    /// Under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        use chacha20poly1305::KeyInit;
        Reference(chacha20poly1305::ChaCha20Poly1305::new(key.into()))
    }
}

impl Aead for Reference {
    fn seal(&self, nonce: u64, additional: &[u8], bytes: &mut Vec<u8>) {
        use chacha20poly1305::aead::AeadInOut;
        let nonce = nonce_bytes(nonce);
        self.0.encrypt_in_place((&nonce).into(), additional, bytes).expect("within the AEAD's bound");
    }

    fn open(&self, what: &'static str, nonce: u64, additional: &[u8], bytes: &mut [u8]) -> Result<usize, CryptoError> {
        use chacha20poly1305::aead::AeadInOut;
        let nonce = nonce_bytes(nonce);
        let mut copy = bytes.to_vec();
        self.0
            .decrypt_in_place((&nonce).into(), additional, &mut copy)
            .map_err(|_| CryptoError::Unauthentic { what })?;
        bytes[..copy.len()].copy_from_slice(&copy);
        Ok(copy.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_implementations_of_suite_1_give_the_same_bytes() {
        let key = [7u8; 32];
        let (fast, reference) = (aead(Suite::ChaCha20Poly1305, &key), Reference::new(&key));
        for length in [0usize, 1, 15, 16, 17, 1000, 1 << 20] {
            let plain: Vec<u8> = (0..length).map(|at| (at * 31) as u8).collect();
            let (mut one, mut two) = (plain.clone(), plain.clone());
            fast.seal(length as u64, b"context", &mut one);
            reference.seal(length as u64, b"context", &mut two);
            assert_eq!(one, two);
            assert_eq!(reference.open("sample", length as u64, b"context", &mut one), Ok(length));
            assert_eq!(fast.open("sample", length as u64, b"context", &mut two), Ok(length));
            assert_eq!((&one[..length], &two[..length]), (&plain[..], &plain[..]));
        }
    }

    #[test]
    fn an_altered_byte_nonce_or_context_is_refused_by_both_suites() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let cipher = aead(suite, &[1; 32]);
            let mut sealed = b"chunk".to_vec();
            cipher.seal(5, b"a", &mut sealed);
            for at in 0..sealed.len() {
                let mut altered = sealed.clone();
                altered[at] ^= 1;
                assert!(cipher.open("sample", 5, b"a", &mut altered).is_err());
            }
            assert!(cipher.open("sample", 6, b"a", &mut sealed.clone()).is_err());
            assert!(cipher.open("sample", 5, b"b", &mut sealed.clone()).is_err());
            assert!(cipher.open("sample", 5, b"a", &mut sealed[..10].to_vec()).is_err());
            assert_eq!(cipher.open("sample", 5, b"a", &mut sealed), Ok(5));
        }
    }
}

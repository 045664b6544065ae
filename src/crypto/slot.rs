//! Key files: a slot's secrets wrapped as an age file. Page: `format-spec/keys.md`.

use super::CryptoError;
use crate::format::ring::SlotSecrets;
use crate::limits::{KEY_FILE_BYTES_MAX, SCRYPT_LOG_N, SCRYPT_LOG_N_MAX};
use age::secrecy::SecretString;
use std::io::{Read, Write};
use zeroize::Zeroizing;

/// What a key file is wrapped for.
pub enum Wrapping {
    /// A passphrase, stretched with scrypt.
    Passphrase(Zeroizing<String>),
    /// An age X25519 recipient, `age1…`.
    Recipient(String),
}

impl Wrapping {
    /// The name that the roster records.
    pub fn name(&self) -> &'static str {
        match self {
            Wrapping::Passphrase(_) => "passphrase",
            Wrapping::Recipient(_) => "x25519",
        }
    }
}

/// What opens a key file.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The text of an age identity file: lines `AGE-SECRET-KEY-1…` and comments.
    Identities(Zeroizing<String>),
}

impl Unlock {
    /// True when it opens what is wrapped for this recipient.
    pub fn opens(&self, recipient: &str) -> bool {
        let Unlock::Identities(text) = self else { return false };
        let identities = parse_identities(text).unwrap_or_default();
        identities.iter().any(|identity| identity.to_public().to_string() == recipient)
    }
}

/// Wraps a slot's secrets.
///
/// # Errors
/// [`CryptoError::BadKey`] when the recipient is not an age X25519 one.
pub fn wrap(secrets: &SlotSecrets, wrapping: &Wrapping) -> Result<Vec<u8>, CryptoError> {
    let recipient: Box<dyn age::Recipient> = match wrapping {
        Wrapping::Passphrase(passphrase) => {
            let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.as_str()));
            recipient.set_work_factor(SCRYPT_LOG_N);
            Box::new(recipient)
        }
        Wrapping::Recipient(text) => {
            Box::new(text.parse::<age::x25519::Recipient>().map_err(|_| CryptoError::BadKey { what: "age recipient" })?)
        }
    };
    let failed = |error: &dyn std::fmt::Display| CryptoError::KeyFile { detail: error.to_string() };
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&*recipient)).map_err(|e| failed(&e))?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(|e| failed(&e))?;
    writer.write_all(&secrets.encode()).and_then(|()| writer.finish()).map_err(|e| failed(&e))?;
    Ok(file)
}

/// True for what has the form of a key file.
pub fn is_key_file(file: &[u8]) -> bool {
    age::Decryptor::new_buffered(file).is_ok()
}

/// True for a key file that a passphrase wraps.
pub fn is_passphrase_file(file: &[u8]) -> bool {
    age::Decryptor::new_buffered(file).is_ok_and(|decryptor| decryptor.is_scrypt())
}

/// Opens a key file.
///
/// # Errors
/// [`CryptoError::WrongSecret`] when the secret is not the right one; [`CryptoError::Identity`] when it can't
/// be one; [`CryptoError::KeyFile`] when the file is damaged, asks for more work than [`SCRYPT_LOG_N_MAX`] allows, or isn't an age file.
pub fn unwrap(file: &[u8], unlock: &Unlock) -> Result<SlotSecrets, CryptoError> {
    let damaged = |error: &dyn std::fmt::Display| CryptoError::KeyFile { detail: error.to_string() };
    let decryptor = age::Decryptor::new_buffered(file).map_err(|e| damaged(&e))?;
    let opened = match unlock {
        Unlock::Passphrase(passphrase) => {
            if !decryptor.is_scrypt() {
                return Err(CryptoError::WrongSecret);
            }
            let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.as_str()));
            identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
            decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
        }
        Unlock::Identities(text) => {
            let identities = parse_identities(text)?;
            decryptor.decrypt(identities.iter().map(|identity| identity as &dyn age::Identity))
        }
    };
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(age::DecryptError::NoMatchingKeys | age::DecryptError::DecryptionFailed) => {
            return Err(CryptoError::WrongSecret);
        }
        Err(error) => return Err(damaged(&error)),
    };
    let mut plain = Zeroizing::new(Vec::new());
    reader.by_ref().take(KEY_FILE_BYTES_MAX as u64).read_to_end(&mut plain).map_err(|e| damaged(&e))?;
    Ok(SlotSecrets::decode(&plain)?)
}

/// The identities in an age identity file.
///
/// # Errors
/// [`CryptoError::Identity`] when a line is neither a comment nor an X25519 identity, or none is there.
fn parse_identities(text: &str) -> Result<Vec<age::x25519::Identity>, CryptoError> {
    let mut identities = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = line
            .parse::<age::x25519::Identity>()
            .map_err(|detail| CryptoError::Identity { detail: format!("line {}: {detail}", number + 1) })?;
        identities.push(identity);
    }
    if identities.is_empty() {
        return Err(CryptoError::Identity { detail: "it holds none".to_owned() });
    }
    Ok(identities)
}

//! `config` and `region`: what a repository is and which region this is. Both are signed by root.
//! Page: `format-spec/config.md`.

use super::envelope::{FORMAT_VERSION, MAGIC, ObjectKind};
use super::ids::{RegionId, RepositoryId};
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::LABEL_BYTES_MAX;

/// The only chunking algorithm of format version 1.
pub const CHUNKING_FASTCDC: &str = "fastcdc-2020-keyed";

/// The ciphers of a repository, fixed at `init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// ChaCha20-Poly1305; the default.
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM, for policies that name AES-256.
    Aes256Gcm = 2,
}

impl Suite {
    /// The suite for a stored code.
    pub fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Suite::ChaCha20Poly1305),
            2 => Some(Suite::Aes256Gcm),
            _ => None,
        }
    }

    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
            Suite::Aes256Gcm => "aes-256-gcm",
        }
    }
}

/// The name of a region's `config` object.
pub const CONFIG_NAME: &str = "config";

/// How the `config` object of a repository begins: whoever finds these bytes in a file of that name has met a region.
pub fn config_beginning(repository: RepositoryId) -> Vec<u8> {
    let kind = [ObjectKind::Config as u8, FORMAT_VERSION, 0, 0];
    [&MAGIC[..], &kind, &repository.0].concat()
}

/// What a repository is. The same bytes in every region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The repository's identity.
    pub repository: RepositoryId,
    /// Its ciphers.
    pub suite: Suite,
    /// The root's Ed25519 public key; its fingerprint is what clients pin.
    pub root_public_key: [u8; 32],
    /// When it was made, nanoseconds since the Unix epoch.
    pub created_at: i64,
}

impl Config {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(6).uint(1).bytes(&self.repository.0);
        cbor.uint(2).uint(self.suite as u64);
        cbor.uint(3).text(CHUNKING_FASTCDC);
        // Feature flags that a reader must know; version 1 has none.
        cbor.uint(4).array(0);
        cbor.uint(5).bytes(&self.root_public_key);
        cbor.uint(6).int(self.created_at);
        cbor.finish()
    }

    /// # Errors
    /// `CONFIG-1` unsupported suite, `CONFIG-2` unknown chunking, `CONFIG-3` unknown required flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let repository = RepositoryId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let code = cbor.uint()?;
        let suite = Suite::from_code(code).ok_or_else(|| {
            DecodeError::new("CONFIG-1", format!("suite {code} is not supported: use a newer program"))
        })?;
        cbor.field(&mut fields, 3)?;
        let chunking = cbor.text(LABEL_BYTES_MAX)?;
        if chunking != CHUNKING_FASTCDC {
            return Err(DecodeError::new("CONFIG-2", format!("chunking '{chunking}' is unknown: use a newer program")));
        }
        cbor.field(&mut fields, 4)?;
        if cbor.array(64)? > 0 {
            let flag = cbor.text(LABEL_BYTES_MAX)?;
            return Err(DecodeError::new(
                "CONFIG-3",
                format!("the repository requires '{flag}', which this program doesn't know: use a newer program"),
            ));
        }
        cbor.field(&mut fields, 5)?;
        let root_public_key = cbor.fixed()?;
        cbor.field(&mut fields, 6)?;
        let created_at = cbor.int()?;
        cbor.no_more(&fields)?;
        let config = Config { repository, suite, root_public_key, created_at };
        canonical(bytes, &config.encode())?;
        Ok(config)
    }
}

/// Which region of the repository a store is, and what its store was found to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// This region's identity.
    pub region: RegionId,
    /// Its store refuses to create a name twice, found by racing creates.
    pub put_if_absent: bool,
    /// The credentials at `init` could delete.
    pub deletes: bool,
    /// When it was made, nanoseconds since the Unix epoch.
    pub created_at: i64,
}

impl Region {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(4).uint(1).bytes(&self.region.0);
        cbor.uint(2).bool(self.put_if_absent).uint(3).bool(self.deletes).uint(4).int(self.created_at);
        cbor.finish()
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let put_if_absent = cbor.bool()?;
        cbor.field(&mut fields, 3)?;
        let deletes = cbor.bool()?;
        cbor.field(&mut fields, 4)?;
        let created_at = cbor.int()?;
        cbor.no_more(&fields)?;
        let region = Region { region, put_if_absent, deletes, created_at };
        canonical(bytes, &region.encode())?;
        Ok(region)
    }
}

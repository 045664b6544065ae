//! `attest/<digest>`: an owner's word that it verified every byte of packs against what segments state of
//! them. Page: `format-spec/attestation.md`.

use super::ids::Digest;
use super::session::ascending;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::ATTESTED_LISTINGS_MAX;

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Listing digests, each of one pack as a segment states it; ascending.
    pub listings: Vec<Digest>,
    /// When, nanoseconds since the Unix epoch; for display.
    pub attested_at: i64,
}

impl Attestation {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(2).uint(1).array(self.listings.len());
        self.listings.iter().for_each(|listing| {
            cbor.bytes(&listing.0);
        });
        cbor.uint(2).int(self.attested_at);
        cbor.finish()
    }

    /// # Errors
    /// `ATTEST-1` when the listings are not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let listings = ascending(&mut cbor, ATTESTED_LISTINGS_MAX, "ATTEST-1", Digest)?;
        cbor.field(&mut fields, 2)?;
        let attested_at = cbor.int()?;
        cbor.no_more(&fields)?;
        let attestation = Attestation { listings, attested_at };
        canonical(bytes, &attestation.encode())?;
        Ok(attestation)
    }
}

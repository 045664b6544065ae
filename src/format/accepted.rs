//! `roster/accepted/<slot>/<n>`: digests of what stays valid of a revoked slot. Signed by root.
//! Page: `format-spec/keys.md`.

use super::ids::{Digest, SlotId, number_name};
use super::session::ascending;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::ACCEPTED_DIGESTS_MAX;

/// One part of a list; the roster says which parts count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The revoked slot, as in the name.
    pub slot: SlotId,
    /// The number in the name.
    pub number: u64,
    /// Digests of objects that the slot signed, ascending.
    pub digests: Vec<Digest>,
}

impl Accepted {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(3).uint(1).bytes(&self.slot.0).uint(2).uint(self.number).uint(3).array(self.digests.len());
        self.digests.iter().for_each(|digest| {
            cbor.bytes(&digest.0);
        });
        cbor.finish()
    }

    /// # Errors
    /// `ACCEPT-1` when the digests are not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let slot = SlotId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 3)?;
        let digests = ascending(&mut cbor, ACCEPTED_DIGESTS_MAX, "ACCEPT-1", Digest)?;
        cbor.no_more(&fields)?;
        let accepted = Accepted { slot, number, digests };
        canonical(bytes, &accepted.encode())?;
        Ok(accepted)
    }
}

/// The object's name of a part.
pub fn accepted_name(slot: SlotId, number: u64) -> String {
    format!("roster/accepted/{slot}/{}", number_name(number))
}

/// What [`accepted_name`] was given; `None` for any other name.
pub fn parse_accepted_name(name: &str) -> Option<(SlotId, u64)> {
    let (slot, number) = name.strip_prefix("roster/accepted/")?.split_once('/')?;
    Some((SlotId::from_hex(slot)?, super::ids::number_from_name(number)?))
}

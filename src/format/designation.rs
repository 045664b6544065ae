//! `collector/<n>-<digest>`: which slot on which host collects in a region whose store can't refuse a second
//! put of one name. Page: `format-spec/gc.md`.

use super::ids::{RegionId, SlotId};
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::LABEL_BYTES_MAX;

/// Who collects; the highest number counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designation {
    /// The number in its name.
    pub number: u64,
    /// The region.
    pub region: RegionId,
    /// The slot.
    pub slot: SlotId,
    /// The machine, as it calls itself.
    pub host: String,
    /// When it was decided, nanoseconds since the Unix epoch; for display only.
    pub decided_at: i64,
}

impl Designation {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(5).uint(1).uint(self.number).uint(2).bytes(&self.region.0).uint(3).bytes(&self.slot.0);
        cbor.uint(4).text(&self.host).uint(5).int(self.decided_at);
        cbor.finish()
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let slot = SlotId(cbor.fixed()?);
        cbor.field(&mut fields, 4)?;
        let host = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 5)?;
        let decided_at = cbor.int()?;
        cbor.no_more(&fields)?;
        let designation = Designation { number, region, slot, host, decided_at };
        canonical(bytes, &designation.encode())?;
        Ok(designation)
    }
}

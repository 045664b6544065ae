//! `ring/<epoch>/<slot>`: an epoch's secrets, sealed to a slot; and the slot's own secrets, which
//! its age file wraps. Page: `format-spec/keys.md`.

use super::ids::{RepositoryId, SlotId};
use super::roster::KEM_PUBLIC_BYTES;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of an HPKE encapsulated key for X-Wing.
pub const ENCAPSULATED_BYTES: usize = 1120;
const SEALED_RING_BYTES_MAX: usize = 64 << 10;

/// The stored ring: an HPKE ciphertext for one slot. Signed by root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The epoch in its name.
    pub epoch: u64,
    /// The slot in its name.
    pub slot: SlotId,
    /// HPKE encapsulated key.
    pub encapsulated: Vec<u8>,
    /// HPKE ciphertext of [`RingSecrets`].
    pub sealed: Vec<u8>,
}

impl Ring {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(4).uint(1).uint(self.epoch).uint(2).bytes(&self.slot.0);
        cbor.uint(3).bytes(&self.encapsulated).uint(4).bytes(&self.sealed);
        cbor.finish()
    }

    /// # Errors
    /// `RING-1` when the encapsulated key has the wrong size.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let epoch = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let slot = SlotId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let encapsulated = cbor.bytes(ENCAPSULATED_BYTES)?.to_vec();
        if encapsulated.len() != ENCAPSULATED_BYTES {
            return Err(DecodeError::new("RING-1", format!("an encapsulated key of {} bytes", encapsulated.len())));
        }
        cbor.field(&mut fields, 4)?;
        let sealed = cbor.bytes(SEALED_RING_BYTES_MAX)?.to_vec();
        cbor.no_more(&fields)?;
        let ring = Ring { epoch, slot, encapsulated, sealed };
        canonical(bytes, &ring.encode())?;
        Ok(ring)
    }
}

/// An epoch's secrets, as far as a role may have them.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RingSecrets {
    /// Key of the chunk ids; owners and writers.
    pub id: Option<[u8; 32]>,
    /// Seed of the chunker's table; owners and writers.
    pub gear: Option<[u8; 32]>,
    /// Key of the metadata objects; every role.
    pub meta: [u8; 32],
    /// X-Wing public key that payloads are sealed to; owners and writers.
    pub seal_public: Option<Vec<u8>>,
    /// Its private key; owners.
    pub seal_private: Option<[u8; 32]>,
}

impl RingSecrets {
    /// Canonical CBOR.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut cbor = CborWriter::new();
        let optional =
            [self.id.is_some(), self.gear.is_some(), self.seal_public.is_some(), self.seal_private.is_some()];
        cbor.map(1 + optional.into_iter().filter(|present| *present).count());
        if let Some(id) = &self.id {
            cbor.uint(1).bytes(id);
        }
        if let Some(gear) = &self.gear {
            cbor.uint(2).bytes(gear);
        }
        cbor.uint(3).bytes(&self.meta);
        if let Some(public) = &self.seal_public {
            cbor.uint(4).bytes(public);
        }
        if let Some(private) = &self.seal_private {
            cbor.uint(5).bytes(private);
        }
        Zeroizing::new(cbor.finish())
    }

    /// # Errors
    /// `RING-2` when a key has the wrong size; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        let id = if cbor.optional(&mut fields, 1)? { Some(cbor.fixed()?) } else { None };
        let gear = if cbor.optional(&mut fields, 2)? { Some(cbor.fixed()?) } else { None };
        cbor.field(&mut fields, 3)?;
        let meta = cbor.fixed()?;
        let seal_public =
            if cbor.optional(&mut fields, 4)? { Some(cbor.bytes(KEM_PUBLIC_BYTES)?.to_vec()) } else { None };
        if seal_public.as_ref().is_some_and(|public| public.len() != KEM_PUBLIC_BYTES) {
            return Err(DecodeError::new("RING-2", "a payload key of the wrong size"));
        }
        let seal_private = if cbor.optional(&mut fields, 5)? { Some(cbor.fixed()?) } else { None };
        cbor.no_more(&fields)?;
        let secrets = RingSecrets { id, gear, meta, seal_public, seal_private };
        canonical(bytes, &secrets.encode())?;
        Ok(secrets)
    }
}

/// What a slot's age file wraps.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SlotSecrets {
    /// The repository it belongs to.
    #[zeroize(skip)]
    pub repository: RepositoryId,
    /// The slot.
    #[zeroize(skip)]
    pub slot: SlotId,
    /// X-Wing private key (a 32-byte seed) that opens the slot's rings.
    pub kem_private: [u8; 32],
    /// Ed25519 private key that signs the slot's objects.
    pub signing_private: [u8; 32],
    /// The root's Ed25519 private key; owners only.
    pub root_private: Option<[u8; 32]>,
}

impl SlotSecrets {
    /// Canonical CBOR.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut cbor = CborWriter::new();
        cbor.map(4 + usize::from(self.root_private.is_some()));
        cbor.uint(1).bytes(&self.repository.0).uint(2).bytes(&self.slot.0);
        cbor.uint(3).bytes(&self.kem_private).uint(4).bytes(&self.signing_private);
        if let Some(root) = &self.root_private {
            cbor.uint(5).bytes(root);
        }
        Zeroizing::new(cbor.finish())
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let repository = RepositoryId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let slot = SlotId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let kem_private = cbor.fixed()?;
        cbor.field(&mut fields, 4)?;
        let signing_private = cbor.fixed()?;
        let root_private = if cbor.optional(&mut fields, 5)? { Some(cbor.fixed()?) } else { None };
        cbor.no_more(&fields)?;
        let secrets = SlotSecrets { repository, slot, kem_private, signing_private, root_private };
        canonical(bytes, &secrets.encode())?;
        Ok(secrets)
    }
}

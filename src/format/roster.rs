//! `roster/<n>-<hash>`: which slots there are, in which role, with which public keys. Signed by root.
//! Page: `format-spec/keys.md`.

use super::ids::SlotId;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::{LABEL_BYTES_MAX, SLOTS_MAX};

/// Bytes of an X-Wing public key.
pub const KEM_PUBLIC_BYTES: usize = 1216;

/// What a slot may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Everything.
    Owner = 1,
    /// Back up, deduplicate, list snapshots; neither restore nor destroy.
    Writer = 2,
    /// Forget, collect, replicate, scrub; read neither content nor names.
    Maintainer = 3,
}

impl Role {
    fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Role::Owner),
            2 => Some(Role::Writer),
            3 => Some(Role::Maintainer),
            _ => None,
        }
    }

    /// `owner`, `writer` or `maintainer`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Writer => "writer",
            Role::Maintainer => "maintainer",
        }
    }
}

/// Whether a slot's new objects count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotState {
    /// They do.
    Active = 0,
    /// Only the objects that `roster/accepted/` lists do.
    Revoked = 1,
    /// Its key file was removed; what it signed stays accepted.
    Retired = 2,
}

/// One slot as the roster states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterSlot {
    /// The slot.
    pub slot: SlotId,
    /// Its role.
    pub role: Role,
    /// Its state.
    pub state: SlotState,
    /// A name for people.
    pub label: String,
    /// How its key file is wrapped: `passphrase` or `x25519`.
    pub wrapping: String,
    /// X-Wing public key that rings are sealed to.
    pub kem_public: Vec<u8>,
    /// Ed25519 public key that its objects are checked with.
    pub signing_public: [u8; 32],
    /// When it was added, nanoseconds since the Unix epoch.
    pub created_at: i64,
}

/// All slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The number in its name; the highest counts.
    pub number: u64,
    /// Slots, ascending by id.
    pub slots: Vec<RosterSlot>,
}

impl Roster {
    /// The slot of this id.
    pub fn slot(&self, id: SlotId) -> Option<&RosterSlot> {
        self.slots.iter().find(|slot| slot.slot == id)
    }

    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(2).uint(1).uint(self.number).uint(2).array(self.slots.len());
        for slot in &self.slots {
            cbor.array(8).bytes(&slot.slot.0).uint(slot.role as u64).uint(slot.state as u64);
            cbor.text(&slot.label).text(&slot.wrapping).bytes(&slot.kem_public).bytes(&slot.signing_public);
            cbor.int(slot.created_at);
        }
        cbor.finish()
    }

    /// # Errors
    /// `ROSTER-1` unknown role or state, `ROSTER-2` slots not ascending, `ROSTER-3` a key of the wrong size.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let mut slots: Vec<RosterSlot> = Vec::new();
        for _ in 0..cbor.array(SLOTS_MAX)? {
            cbor.tuple(8)?;
            let slot = SlotId(cbor.fixed()?);
            let code = cbor.uint()?;
            let role =
                Role::from_code(code).ok_or_else(|| DecodeError::new("ROSTER-1", format!("unknown role {code}")))?;
            let state = match cbor.uint()? {
                0 => SlotState::Active,
                1 => SlotState::Revoked,
                2 => SlotState::Retired,
                code => return Err(DecodeError::new("ROSTER-1", format!("unknown state {code}"))),
            };
            let label = cbor.text(LABEL_BYTES_MAX)?;
            let wrapping = cbor.text(LABEL_BYTES_MAX)?;
            let kem_public = cbor.bytes(KEM_PUBLIC_BYTES)?.to_vec();
            if kem_public.len() != KEM_PUBLIC_BYTES {
                return Err(DecodeError::new("ROSTER-3", format!("a receiving key of {} bytes", kem_public.len())));
            }
            let signing_public = cbor.fixed()?;
            let created_at = cbor.int()?;
            if slots.last().is_some_and(|last| last.slot >= slot) {
                return Err(DecodeError::new("ROSTER-2", "slots not in ascending order"));
            }
            slots.push(RosterSlot { slot, role, state, label, wrapping, kem_public, signing_public, created_at });
        }
        cbor.no_more(&fields)?;
        let roster = Roster { number, slots };
        canonical(bytes, &roster.encode())?;
        Ok(roster)
    }
}

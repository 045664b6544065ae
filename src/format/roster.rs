//! `roster/<n>-<hash>`: which slots there are, in which role, with which public keys. Signed by root.
//! Page: `format-spec/keys.md`.

use super::ids::{Digest, SlotId};
use super::session::ascending;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::{ACCEPTED_PARTS_MAX, EPOCHS_MAX, LABEL_BYTES_MAX, ROSTERS_FOLLOWED_MAX, SLOTS_MAX};

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
    /// Only the objects that [`Roster::accepted`] lists do.
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

/// An epoch in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterEpoch {
    /// The epoch.
    pub epoch: u64,
    /// What its `meta` must give (`RING-5`).
    pub commitment: [u8; 32],
}

/// Which parts list what stays accepted of a revoked slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedParts {
    /// The slot.
    pub slot: SlotId,
    /// The first part's number.
    pub first: u64,
    /// How many parts there are, from 1.
    pub count: u64,
    /// The digest of each part's object (`ACCEPT-5`); empty in a roster that doesn't state them.
    pub digests: Vec<Digest>,
}

impl AcceptedParts {
    /// The parts' numbers.
    pub fn numbers(&self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(self.count)
    }

    /// What the part of this number must be; `None` when that isn't stated.
    pub fn digest(&self, number: u64) -> Option<Digest> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.digests.get(at).copied()
    }
}

/// All slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The number in its name; the highest counts.
    pub number: u64,
    /// Slots, ascending by id.
    pub slots: Vec<RosterSlot>,
    /// Epochs in use, ascending; empty before the first rotation, when it is epoch 1 alone.
    pub epochs: Vec<RosterEpoch>,
    /// What stays accepted of revoked slots, ascending by slot; one that is not here has nothing left.
    pub accepted: Vec<AcceptedParts>,
    /// Digests of the rosters that it follows, ascending: one, or with a merge all that were merged. Empty in
    /// the first one, and in one that doesn't say.
    pub previous: Vec<Digest>,
}

impl Roster {
    /// The slot of this id.
    pub fn slot(&self, id: SlotId) -> Option<&RosterSlot> {
        self.slots.iter().find(|slot| slot.slot == id)
    }

    /// The newest epoch in use: new objects are sealed under it.
    pub fn current_epoch(&self) -> u64 {
        self.epochs.last().map_or(1, |epoch| epoch.epoch)
    }

    /// Whether an epoch is in use.
    pub fn has_epoch(&self, epoch: u64) -> bool {
        match self.epochs.is_empty() {
            true => epoch == 1,
            false => self.epochs.iter().any(|known| known.epoch == epoch),
        }
    }

    /// What the `meta` of an epoch must give; `None` for one that states nothing.
    pub fn commitment(&self, epoch: u64) -> Option<[u8; 32]> {
        self.epochs.iter().find(|known| known.epoch == epoch).map(|known| known.commitment)
    }

    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        let digests = self.accepted.iter().any(|parts| !parts.digests.is_empty());
        let optional = [!self.epochs.is_empty(), !self.accepted.is_empty(), !self.previous.is_empty(), digests];
        cbor.map(2 + optional.into_iter().filter(|present| *present).count());
        cbor.uint(1).uint(self.number).uint(2).array(self.slots.len());
        for slot in &self.slots {
            cbor.array(8).bytes(&slot.slot.0).uint(slot.role as u64).uint(slot.state as u64);
            cbor.text(&slot.label).text(&slot.wrapping).bytes(&slot.kem_public).bytes(&slot.signing_public);
            cbor.int(slot.created_at);
        }
        if !self.epochs.is_empty() {
            cbor.uint(3).array(self.epochs.len());
            for epoch in &self.epochs {
                cbor.array(2).uint(epoch.epoch).bytes(&epoch.commitment);
            }
        }
        if !self.accepted.is_empty() {
            cbor.uint(4).array(self.accepted.len());
            for parts in &self.accepted {
                cbor.array(3).bytes(&parts.slot.0).uint(parts.first).uint(parts.count);
            }
        }
        if !self.previous.is_empty() {
            cbor.uint(5).array(self.previous.len());
            self.previous.iter().for_each(|digest| {
                cbor.bytes(&digest.0);
            });
        }
        if digests {
            cbor.uint(6).array(self.accepted.len());
            for parts in &self.accepted {
                cbor.array(parts.digests.len());
                parts.digests.iter().for_each(|digest| {
                    cbor.bytes(&digest.0);
                });
            }
        }
        cbor.finish()
    }

    /// # Errors
    /// `ROSTER-1` unknown role or state, `ROSTER-2` slots not ascending, `ROSTER-3` a key of the wrong size,
    /// `ROSTER-6` epochs, `ROSTER-7` accepted lists that can't be, `ROSTER-10` rosters that it follows,
    /// `ROSTER-11` digests of parts.
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
        let mut epochs: Vec<RosterEpoch> = Vec::new();
        if cbor.optional(&mut fields, 3)? {
            for _ in 0..cbor.array(EPOCHS_MAX)? {
                cbor.tuple(2)?;
                let epoch = RosterEpoch { epoch: cbor.uint()?, commitment: cbor.fixed()? };
                if epoch.epoch <= epochs.last().map_or(0, |last| last.epoch) {
                    return Err(DecodeError::new("ROSTER-6", "epochs not in ascending order from 1"));
                }
                epochs.push(epoch);
            }
        }
        let mut accepted: Vec<AcceptedParts> = Vec::new();
        if cbor.optional(&mut fields, 4)? {
            for _ in 0..cbor.array(SLOTS_MAX)? {
                cbor.tuple(3)?;
                let (slot, first, count) = (SlotId(cbor.fixed()?), cbor.uint()?, cbor.uint()?);
                let parts = AcceptedParts { slot, first, count, digests: Vec::new() };
                let revoked = slots.iter().any(|slot| slot.slot == parts.slot && slot.state == SlotState::Revoked);
                let ordered = accepted.last().is_none_or(|last| last.slot < parts.slot);
                let counted = (1..=ACCEPTED_PARTS_MAX).contains(&parts.count);
                if !revoked || !ordered || !counted || parts.first.checked_add(parts.count).is_none() {
                    let detail = format!("the accepted list of slot {} can't be", parts.slot);
                    return Err(DecodeError::new("ROSTER-7", detail));
                }
                accepted.push(parts);
            }
        }
        let mut previous = Vec::new();
        if cbor.optional(&mut fields, 5)? {
            previous = ascending(&mut cbor, ROSTERS_FOLLOWED_MAX, "ROSTER-10", Digest)?;
        }
        if cbor.optional(&mut fields, 6)? {
            let stated = cbor.array(SLOTS_MAX)?;
            if stated != accepted.len() {
                let detail = format!("{stated} lists of digests for {} accepted lists", accepted.len());
                return Err(DecodeError::new("ROSTER-11", detail));
            }
            for parts in &mut accepted {
                let count = cbor.array(ACCEPTED_PARTS_MAX as usize)?;
                if count != 0 && count as u64 != parts.count {
                    let detail = format!("{count} digests for {} parts of slot {}", parts.count, parts.slot);
                    return Err(DecodeError::new("ROSTER-11", detail));
                }
                for _ in 0..count {
                    parts.digests.push(Digest(cbor.fixed()?));
                }
            }
        }
        cbor.no_more(&fields)?;
        let roster = Roster { number, slots, epochs, accepted, previous };
        canonical(bytes, &roster.encode())?;
        Ok(roster)
    }
}

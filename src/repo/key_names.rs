//! The names of key files, rings and rosters. Page: `format-spec/keys.md`.

use crate::format::ids::{Digest, SlotId, number_from_name, number_name};

/// Name of a slot's key file.
pub(crate) fn key_name(slot: SlotId, number: u64) -> String {
    format!("keys/{slot}/{}.age", number_name(number))
}

/// What [`key_name`] was given; `None` for any other name.
pub(crate) fn parse_key_name(name: &str) -> Option<(SlotId, u64)> {
    let (slot, file) = name.strip_prefix("keys/")?.split_once('/')?;
    Some((SlotId::from_hex(slot)?, number_from_name(file.strip_suffix(".age")?)?))
}

/// Name of an epoch's ring for a slot.
pub(crate) fn ring_name(epoch: u64, slot: SlotId) -> String {
    format!("ring/{}/{slot}", number_name(epoch))
}

/// Name of a ring beside another one of its epoch and slot (`RING-7`).
pub(crate) fn ring_name_beside(epoch: u64, slot: SlotId, digest: &Digest) -> String {
    format!("{}-{digest}", ring_name(epoch, slot))
}

/// What [`ring_name`] or [`ring_name_beside`] was given; `None` for any other name.
pub(crate) fn parse_ring_name(name: &str) -> Option<(u64, SlotId)> {
    let (epoch, slot) = name.strip_prefix("ring/")?.split_once('/')?;
    let slot = match slot.split_once('-') {
        Some((slot, digest)) => Digest::from_hex(digest).map(|_| slot)?,
        None => slot,
    };
    Some((number_from_name(epoch)?, SlotId::from_hex(slot)?))
}

/// The digest that a ring's name states: of one that lies beside another.
pub(crate) fn ring_digest(name: &str) -> Option<Digest> {
    name.rsplit_once('-').and_then(|(_, stated)| Digest::from_hex(stated))
}

/// Name of a roster.
pub(crate) fn roster_name(number: u64, digest: &Digest) -> String {
    format!("roster/{}-{digest}", number_name(number))
}

/// What a roster's name says; `None` for any other name.
pub(crate) fn parse_roster_name(name: &str) -> Option<(u64, Digest)> {
    let (number, digest) = name.strip_prefix("roster/")?.split_once('-')?;
    Some((number_from_name(number)?, Digest::from_hex(digest)?))
}

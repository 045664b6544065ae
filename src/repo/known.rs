//! What a client read and verified of the small objects that a listing consists of, so that its next listing needn't
//! fetch and verify them again: a repository of years holds thousands of commits, snapshots and verdicts.
//!
//! Guarantees: only what was verified is remembered, sealed under `meta`, so that who can write the client's cache but
//! holds no key makes nothing count. It stands for an object that a region lists in the same size (`HEAL-2`); who
//! may sign, and what of a revoked slot counts, is judged anew each time. For those who look for a snapshot; a check, a
//! collection, a replication and whoever decides over snapshots read what is there. Called by `cli/workspace`.

use super::open::Repository;
use crate::crypto::CryptoError;
use crate::crypto::keyring::Keyring;
use crate::env::random_bytes;
use crate::format::ids::{Digest, RegionId, SlotId};
use crate::format::roster::{Role, SlotState};
use crate::format::wire::{DecodeError, Reader, put_varint};
use crate::limits::OBJECT_BYTES_MAX;
use crate::store::Listed;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// So many objects are remembered, those of 10,000 snapshots in two regions, of about 1.5 KiB each in memory while they
/// are read and written; what is beyond is read at each listing.
pub const OBJECTS_MAX: usize = 30_000;

/// Stands where objects of the format have their kind, so that no such object is taken for what is remembered.
const KIND: u8 = 255;
/// Of the layout below; another one is forgotten.
const VERSION: u8 = 1;
const RULE: &str = "known objects";

/// An object that was verified.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownObject {
    size: u64,
    signer: SlotId,
    /// The public key that verified it.
    signed_with: [u8; 32],
    digest: Digest,
    /// Its payload, opened; of a snapshot without the private part.
    payload: Vec<u8>,
}

type Objects = HashMap<(RegionId, String), Arc<KnownObject>>;

/// What a client knows.
#[derive(Debug, Default)]
pub struct KnownObjects {
    before: Objects,
    /// What this run's listings met.
    met: Mutex<Objects>,
}

impl KnownObjects {
    /// Opens what [`KnownObjects::seal`] made. Whatever can't be opened or read is nothing known.
    pub fn open(keyring: &Keyring, sealed: &[u8]) -> Self {
        KnownObjects { before: open(keyring, sealed).unwrap_or_default(), met: Mutex::default() }
    }

    /// What this run's listings met, to be remembered; `None` when that is what was known before.
    ///
    /// # Errors
    /// [`CryptoError::NotPermitted`] when the current ring is not there.
    pub fn seal(&self, repository: &Repository) -> Result<Option<Vec<u8>>, CryptoError> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let is_absent = |id: &RegionId| repository.regions.iter().all(|region| region.info.region != *id);
        // A region that took no part may take part in the next run.
        let absent = self.before.iter().filter(|((region, _), _)| is_absent(region));
        let kept: BTreeMap<_, _> = met.iter().chain(absent).take(OBJECTS_MAX).collect();
        if kept.len() == self.before.len() && kept.iter().all(|(key, object)| self.before.get(key) == Some(object)) {
            return Ok(None);
        }
        let keyring = &repository.keyring;
        let mut plain = vec![VERSION];
        put_varint(&mut plain, kept.len() as u64);
        for ((region, name), object) in kept {
            plain.extend_from_slice(&region.0);
            put_varint(&mut plain, name.len() as u64);
            plain.extend_from_slice(name.as_bytes());
            plain.extend_from_slice(&object.size.to_le_bytes());
            plain.extend_from_slice(&object.signer.0);
            plain.extend_from_slice(&object.signed_with);
            plain.extend_from_slice(&object.digest.0);
            put_varint(&mut plain, object.payload.len() as u64);
            plain.extend_from_slice(&object.payload);
        }
        let (epoch, salt) = (keyring.current_epoch(), random_bytes::<32>(&*repository.random));
        let cipher = keyring.metadata_cipher(epoch, KIND, &salt)?;
        cipher.seal(0, &keyring.metadata_context(epoch, KIND), &mut plain);
        let mut sealed = epoch.to_le_bytes().to_vec();
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&plain);
        Ok(Some(sealed))
    }

    /// The payload and signer of what a region lists now, where it is known and still counts.
    pub(super) fn get(
        &self,
        repository: &Repository,
        region: RegionId,
        listed: &Listed,
        roles: &[Role],
    ) -> Option<(Vec<u8>, SlotId)> {
        let key = (region, listed.name.clone());
        let object = self.before.get(&key).filter(|object| object.size == listed.size)?;
        let slot = repository.roster.slot(object.signer)?;
        let may_sign = slot.signing_public == object.signed_with && roles.contains(&slot.role);
        // What can't be told is read, and fails there.
        let accepted = || repository.accepted.contains(slot.slot, &object.digest).unwrap_or(false);
        if !may_sign || slot.state == SlotState::Revoked && !accepted() {
            return None;
        }
        self.remember(key, object.clone());
        Some((object.payload.clone(), object.signer))
    }

    /// Takes note of what was verified just now.
    pub(super) fn put(
        &self,
        repository: &Repository,
        region: RegionId,
        listed: &Listed,
        signer: SlotId,
        digest: Digest,
        payload: &[u8],
    ) {
        let Some(slot) = repository.roster.slot(signer) else { return };
        let (signed_with, payload) = (slot.signing_public, payload.to_vec());
        let object = KnownObject { size: listed.size, signer, signed_with, digest, payload };
        self.remember((region, listed.name.clone()), Arc::new(object));
    }

    fn remember(&self, key: (RegionId, String), object: Arc<KnownObject>) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() < OBJECTS_MAX || met.contains_key(&key) {
            met.insert(key, object);
        }
    }
}

fn open(keyring: &Keyring, sealed: &[u8]) -> Result<Objects, CryptoError> {
    let mut outer = Reader::new(sealed, RULE);
    let (epoch, salt) = (outer.u64()?, outer.array::<32>()?);
    let mut plain = outer.take(outer.remaining())?.to_vec();
    let cipher = keyring.metadata_cipher(epoch, KIND, &salt)?;
    let length = cipher.open("known objects", 0, &keyring.metadata_context(epoch, KIND), &mut plain)?;
    let mut reader = Reader::new(&plain[..length], RULE);
    if reader.u8()? != VERSION {
        return Err(DecodeError::new(RULE, "another version").into());
    }
    let mut objects = Objects::new();
    for _ in 0..reader.count(OBJECTS_MAX, "objects")? {
        let region = RegionId(reader.array()?);
        let length = reader.count(usize::from(u16::MAX), "bytes of a name")?;
        let name = String::from_utf8_lossy(reader.take(length)?).into_owned();
        let (size, signer) = (reader.u64()?, SlotId(reader.array()?));
        let (signed_with, digest) = (reader.array()?, Digest(reader.array()?));
        let length = reader.count(OBJECT_BYTES_MAX, "bytes of a payload")?;
        let payload = reader.take(length)?.to_vec();
        objects.insert((region, name), Arc::new(KnownObject { size, signer, signed_with, digest, payload }));
    }
    reader.end()?;
    Ok(objects)
}

//! Key slots: list, add, remove, change what wraps them, and the emergency sheet.
//! Page: `format-spec/keys.md`.

use super::RepoError;
use super::init::{build_ring, build_roster};
use super::open::{RegionHandle, Repository, key_name, parse_key_name};
use crate::crypto::keyring::KemKeyPair;
use crate::crypto::sign;
use crate::crypto::slot::{Wrapping, wrap};
use crate::env::random_bytes;
use crate::format::ids::SlotId;
use crate::format::ring::SlotSecrets;
use crate::format::roster::{Role, Roster, RosterSlot, SlotState};
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};

impl Repository {
    fn root_private(&self) -> Result<&[u8; 32], RepoError> {
        self.require(&[Role::Owner], "change the key slots")?;
        let lacking = || RepoError::Keys("KEY-4: the key file of this owner's slot lacks the root key".to_owned());
        self.secrets.root_private.as_ref().ok_or_else(lacking)
    }

    /// Every region must be there: a roster that one region lacks would split the repository.
    fn all_regions(&self) -> Result<(), RepoError> {
        match self.unreachable.first() {
            None => Ok(()),
            Some((name, error)) => Err(RepoError::Keys(format!(
                "keys are changed in all regions or in none, and region '{name}' can't be reached: {error}"
            ))),
        }
    }

    fn put_everywhere(&self, name: &str, bytes: &[u8]) -> Result<(), RepoError> {
        for region in &self.regions {
            put_with_retries(&*region.store, name, &bytes.to_vec().into()).map_err(|e| region.error(e))?;
        }
        Ok(())
    }

    fn publish_roster(&self, slots: Vec<RosterSlot>) -> Result<Roster, RepoError> {
        let roster = Roster { number: self.roster.number + 1, slots };
        let (name, bytes) = build_roster(self.config.repository, &roster, self.root_private()?);
        self.put_everywhere(&name, &bytes)?;
        Ok(roster)
    }

    /// Adds a slot. Key file and rings go first, the roster last: until then nothing counts. It gets the
    /// rings of all epochs, each with what its role may have; owners get the root key, too.
    ///
    /// # Errors
    /// When this slot is no owner's, a region is missing, or a store fails.
    pub fn add_slot(&mut self, role: Role, label: &str, wrapping: &Wrapping) -> Result<SlotId, RepoError> {
        let root = *self.root_private()?;
        self.all_regions()?;
        let random = &*self.random;
        let slot = SlotId(random_bytes(random));
        let kem = KemKeyPair::generate(random);
        let secrets = SlotSecrets {
            repository: self.config.repository,
            slot,
            kem_private: *kem.private,
            signing_private: random_bytes(random),
            root_private: (role == Role::Owner).then_some(root),
        };
        let entry = RosterSlot {
            slot,
            role,
            state: SlotState::Active,
            label: label.to_owned(),
            wrapping: wrapping.name().to_owned(),
            kem_public: kem.public,
            signing_public: sign::public_key(&secrets.signing_private),
            created_at: self.clock.now_ns(),
        };
        self.put_everywhere(&key_name(slot, 1), &wrap(&secrets, wrapping)?)?;
        for (epoch, ring) in self.keyring.rings() {
            let (name, bytes) = build_ring(&self.config, *epoch, &entry, ring, &root, random)?;
            self.put_everywhere(&name, &bytes)?;
        }
        let mut slots = self.roster.slots.clone();
        slots.push(entry);
        slots.sort_by_key(|slot| slot.slot);
        self.roster = self.publish_roster(slots)?;
        Ok(slot)
    }

    /// Retires a slot: the roster says so, then its key files go where the store allows. Gives how many
    /// key files a store refused to delete.
    ///
    /// # Errors
    /// For an unknown slot, the one in use, or the last active owner.
    pub fn remove_slot(&mut self, slot: SlotId) -> Result<usize, RepoError> {
        self.root_private()?;
        self.all_regions()?;
        let entry = self
            .roster
            .slot(slot)
            .filter(|entry| entry.state == SlotState::Active)
            .ok_or_else(|| RepoError::Keys(format!("there is no active slot {slot}")))?;
        let owners =
            self.roster.slots.iter().filter(|slot| slot.role == Role::Owner && slot.state == SlotState::Active).count();
        if entry.role == Role::Owner && owners == 1 {
            return Err(RepoError::Keys(format!(
                "slot {slot} is the last owner: without it nothing could be restored"
            )));
        }
        if slot == self.secrets.slot {
            return Err(RepoError::Keys(format!("slot {slot} is the one in use; open the repository with another")));
        }
        let mut slots = self.roster.slots.clone();
        slots.iter_mut().filter(|entry| entry.slot == slot).for_each(|entry| entry.state = SlotState::Retired);
        self.roster = self.publish_roster(slots)?;
        self.delete_key_files(slot, u64::MAX)
    }

    /// Wraps a slot's secrets anew: the new key file goes first, then the old ones. Gives how many old
    /// key files a store refused to delete; those stay openable by the old secret.
    ///
    /// # Errors
    /// When a region is missing or a store fails.
    pub fn rewrap(&mut self, wrapping: &Wrapping) -> Result<usize, RepoError> {
        self.all_regions()?;
        let slot = self.secrets.slot;
        let mut newest = 0;
        for region in &self.regions {
            for listed in list_sorted(&*region.store, &format!("keys/{slot}/")).map_err(|e| region.error(e))? {
                newest = newest.max(parse_key_name(&listed.name).map_or(0, |(_, number)| number));
            }
        }
        let entry = self.roster.slot(slot).ok_or_else(|| RepoError::Keys(format!("slot {slot} left the roster")))?;
        let rewrapped_as = wrapping.name();
        if entry.wrapping != rewrapped_as {
            let mut slots = self.roster.slots.clone();
            let found = slots.iter_mut().find(|entry| entry.slot == slot);
            found.into_iter().for_each(|entry| entry.wrapping = rewrapped_as.to_owned());
            self.put_everywhere(&key_name(slot, newest + 1), &wrap(&self.secrets, wrapping)?)?;
            self.roster = self.publish_roster(slots)?;
        } else {
            self.put_everywhere(&key_name(slot, newest + 1), &wrap(&self.secrets, wrapping)?)?;
        }
        self.delete_key_files(slot, newest)
    }

    fn delete_key_files(&self, slot: SlotId, up_to: u64) -> Result<usize, RepoError> {
        let mut refused = 0;
        for region in &self.regions {
            for listed in list_sorted(&*region.store, &format!("keys/{slot}/")).map_err(|e| region.error(e))? {
                if parse_key_name(&listed.name).is_none_or(|(_, number)| number > up_to) {
                    continue;
                }
                match region.store.delete(&listed.name) {
                    Ok(()) => {}
                    Err(error) if error.kind == StoreErrorKind::Denied => refused += 1,
                    Err(error) => return Err(region.error(error)),
                }
            }
        }
        Ok(refused)
    }

    /// A slot's newest key file, with its name, for the emergency sheet.
    ///
    /// # Errors
    /// When no reached region has one or it can't be read.
    pub fn key_file(&self, slot: SlotId) -> Result<(String, Vec<u8>), RepoError> {
        let mut newest: Option<(u64, &RegionHandle, String)> = None;
        for region in &self.regions {
            for listed in list_sorted(&*region.store, &format!("keys/{slot}/")).map_err(|e| region.error(e))? {
                let Some((_, number)) = parse_key_name(&listed.name) else { continue };
                if newest.as_ref().is_none_or(|(known, ..)| *known < number) {
                    newest = Some((number, region, listed.name));
                }
            }
        }
        let (_, region, name) = newest.ok_or(RepoError::NoKeyFiles)?;
        let file = region.get(&name)?;
        Ok((name, file))
    }
}

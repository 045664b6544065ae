//! Key slots: add, remove, revoke, rotate, merge, change what wraps them; the emergency sheet's key file.
//! Page: `format-spec/keys.md`.
//!
//! Guarantees: keys are changed in all regions or not at all as far as anybody sees: what a roster relies on
//! is in every region before the roster is in any (`ROSTER-8`), so an interrupted change leaves the old keys
//! or the new ones, and the next change completes it.

use super::RepoError;
use super::accepted::{self, Acceptance, AcceptedObjects, Decided, read_part};
use super::audit::{Act, record};
use super::init::{build_ring, build_roster, root_signer};
use super::key_names::{key_name, parse_key_name, parse_ring_name, ring_name};
use super::level::{Levelled, Levelling};
use super::lineage::newest;
use super::open::{RegionHandle, RegionSpec, Repository, WRAPPING_UNSURE, read_root_signed};
use crate::crypto::keyring::{KemKeyPair, Keyring, epoch_commitment};
use crate::crypto::object::{build_signed, check_digest, decode as decode_object, open_payload};
use crate::crypto::sign;
use crate::crypto::slot::{Wrapping, is_passphrase_file, wrap};
use crate::env::random_bytes;
use crate::format::accepted::{Accepted, accepted_name, parse_accepted_name};
use crate::format::audit::Action;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SlotId};
use crate::format::ring::{RingSecrets, SlotSecrets};
use crate::format::roster::{AcceptedParts, Role, Roster, RosterEpoch, RosterSlot, SlotState};
use crate::format::wire::DecodeError;
use crate::limits::{ACCEPTED_DIGESTS_MAX, ACCEPTED_PARTS_MAX, SEGMENT_BYTES_MAX};
use crate::report::Monitor;
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What holds sealed payloads, and is needed for longer than a run.
const SEALED: [(&str, ObjectKind); 4] = [
    ("snapshots/", ObjectKind::Snapshot),
    ("index/", ObjectKind::Segment),
    ("verdicts/", ObjectKind::Verdict),
    ("tags/", ObjectKind::Tags),
];

/// Reads a whole copy of an object from a region; `None` where it isn't there.
pub(super) type ReadWhole<'a> = dyn Fn(&RegionHandle, &str) -> Result<Option<Vec<u8>>, RepoError> + 'a;

impl Repository {
    fn root_private(&self) -> Result<&[u8; 32], RepoError> {
        self.root_for("change the key slots")
    }

    /// The root key, which an owner's slot holds, to do what `action` says.
    pub(super) fn root_for(&self, action: &'static str) -> Result<&[u8; 32], RepoError> {
        self.require(&[Role::Owner], action)?;
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

    fn publish_roster(&mut self, roster: Roster) -> Result<(), RepoError> {
        let mut previous: Vec<Digest> = self.forks.iter().map(|fork| fork.digest).collect();
        if previous.is_empty() {
            previous.push(self.roster_digest);
        }
        previous.sort_unstable();
        // The one that a merge takes may be lower than another.
        let merged = self.forks.iter().map(|fork| fork.roster.number);
        let number = merged.chain([self.roster.number]).max().unwrap_or_default() + 1;
        let roster = Roster { number, previous, ..roster };
        self.nothing_beside(&roster)?;
        let (name, bytes, digest) = build_roster(self.config.repository, &roster, self.root_private()?);
        self.put_everywhere(&name, &bytes)?;
        self.accepted = AcceptedObjects::read(&self.regions, &self.config, &roster);
        self.roster = roster;
        self.roster_digest = digest;
        self.forks.clear();
        // Another one that was put since is a fork, which whoever opens the repository meets; but of a higher one this
        // change was overtaken.
        self.nothing_new(|_, other| other.number > self.roster.number)
    }

    /// Refuses a change where another one was made since the repository was opened that a roster of this number would
    /// hide. One of the same number makes a fork with it, as two do that are put at the same moment.
    fn nothing_beside(&self, next: &Roster) -> Result<(), RepoError> {
        self.nothing_new(|digest, other| other.number != next.number && !next.previous.contains(digest))
    }

    fn nothing_new(&self, is_new: impl Fn(&Digest, &Roster) -> bool) -> Result<(), RepoError> {
        let all = newest(&self.regions, &self.config, &mut Vec::new())?;
        match all.iter().find(|(digest, other)| is_new(digest, other)) {
            None => Ok(()),
            Some((digest, other)) => Err(RepoError::Keys(format!(
                "keys were changed meanwhile: there is key roster {} ({digest}), which doesn't know of this change; look \
                 at what stands now, and make it again",
                other.number
            ))),
        }
    }

    /// What every change of keys begins with: an owner's key, every region, and in each the newest keys. What some
    /// region lacks or holds wrong all the same is in [`Repository::key_issues`] then.
    fn begin_change(&mut self) -> Result<[u8; 32], RepoError> {
        let root = *self.root_private()?;
        self.all_regions()?;
        for levelled in self.level_all_keys(true) {
            self.key_issues.extend(levelled?.issues);
        }
        Ok(root)
    }

    /// Copies an object that root signed from the first other region whose copy is whole.
    pub(super) fn copy_signed(&self, to: &RegionHandle, kind: ObjectKind, name: &str) -> Result<u64, RepoError> {
        self.copy(to, name, &|region, name| {
            let spec = RegionSpec::from(region);
            let Some((_, digest)) = read_root_signed(&spec, kind, name, Some(&self.config))? else { return Ok(None) };
            let bytes = region.get(name)?;
            match check_digest(&bytes).map_err(|source| region.object_error(name, source))? == digest {
                true => Ok(Some(bytes)),
                false => Err(region.object_error(name, DecodeError::new("OBJ-8", "it changed while it was read"))),
            }
        })
    }

    pub(super) fn copy(&self, to: &RegionHandle, name: &str, read: &ReadWhole<'_>) -> Result<u64, RepoError> {
        if to.store.size(name).map_err(|e| to.error(e))?.is_some() {
            return Ok(0);
        }
        let mut failure = None;
        for from in self.regions.iter().filter(|from| from.info.region != to.info.region) {
            match read(from, name) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    put_with_retries(&*to.store, name, &bytes.into()).map_err(|e| to.error(e))?;
                    return Ok(1);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| RepoError::Missing { region: to.name.clone(), name: name.to_owned() }))
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &RosterSlot> {
        self.roster.slots.iter().filter(|slot| slot.state == SlotState::Active)
    }

    /// The epochs in use.
    pub(super) fn epochs(&self) -> Vec<u64> {
        match self.roster.epochs.is_empty() {
            true => vec![1],
            false => self.roster.epochs.iter().map(|epoch| epoch.epoch).collect(),
        }
    }

    /// Adds a slot. Key file and rings go first, the roster last: until then nothing counts. It gets the
    /// rings of all epochs, each with what its role may have; owners get the root key, too.
    ///
    /// # Errors
    /// When this slot is no owner's, a region is missing, or a store fails.
    pub fn add_slot(&mut self, role: Role, label: &str, wrapping: &Wrapping) -> Result<SlotId, RepoError> {
        let root = self.begin_change()?;
        let rings = self.all_rings()?;
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
        let key_file = wrap(&secrets, wrapping)?;
        record(self, &Act::new(Action::KeyAdd).on(&slot.0).because(role.name()))?;
        self.put_everywhere(&key_name(slot, 1), &key_file)?;
        for (epoch, ring) in rings {
            let (name, bytes) = build_ring(&self.config, epoch, &entry, &ring, &root, random)?;
            self.put_everywhere(&name, &bytes)?;
        }
        let mut roster = self.roster.clone();
        roster.slots.push(entry);
        roster.slots.sort_by_key(|slot| slot.slot);
        self.publish_roster(roster)?;
        Ok(slot)
    }

    /// Retires a slot: the roster says so, then its key files go where the store allows. Of one that is retired
    /// already those go that an interrupted removal left. Gives how many key files a store refused to delete.
    ///
    /// # Errors
    /// For an unknown slot, the one in use, the last active owner, or one that nothing is left of.
    pub fn remove_slot(&mut self, slot: SlotId) -> Result<usize, RepoError> {
        self.begin_change()?;
        if self.is_half_removed(slot)? {
            return self.delete_key_files(slot, u64::MAX);
        }
        self.may_go(slot, &[SlotState::Active])?;
        record(self, &Act::new(Action::KeyRemove).on(&slot.0))?;
        let roster = self.with_state(slot, SlotState::Retired);
        self.publish_roster(roster)?;
        self.delete_key_files(slot, u64::MAX)
    }

    /// Whether a slot is retired, and some reached region still has a key file of it: a removal was interrupted, or
    /// the store denied the delete.
    ///
    /// # Errors
    /// When a region can't be listed.
    pub fn is_half_removed(&self, slot: SlotId) -> Result<bool, RepoError> {
        if self.roster.slot(slot).is_none_or(|entry| entry.state != SlotState::Retired) {
            return Ok(false);
        }
        for region in &self.regions {
            if !list_sorted(&*region.store, &format!("keys/{slot}/")).map_err(|e| region.error(e))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Revokes a slot: nothing that it signs counts from now on, and of what it signed only what
    /// `acceptance` leaves. The list goes first, into every region, then the roster that names it, then the
    /// key files go; then it looks again for what the slot put meanwhile. A slot that is revoked already can only
    /// lose more. Gives what was decided, and how many key files a store refused to delete.
    ///
    /// # Errors
    /// As [`Repository::remove_slot`]; when something can't be listed or read. Nothing is changed then.
    pub fn revoke_slot(
        &mut self,
        slot: SlotId,
        acceptance: &Acceptance,
        monitor: &dyn Monitor,
    ) -> Result<(Decided, usize), RepoError> {
        self.begin_change()?;
        self.may_go(slot, &[SlotState::Active, SlotState::Retired, SlotState::Revoked])?;
        let (mut decided, looked) = accepted::decide(self, slot, acceptance, monitor)?;
        let refused = decided.refused.values().sum();
        let act = Act::new(Action::KeyRevoke).on(&slot.0).figure("digests-kept", decided.digests.len() as u64);
        record(self, &act.figure("digests-refused", refused))?;
        let parts = self.publish_accepted(slot, &decided.digests)?;
        let mut roster = self.with_state(slot, SlotState::Revoked);
        roster.accepted.retain(|parts| parts.slot != slot);
        roster.accepted.extend(parts);
        roster.accepted.sort_by_key(|parts| parts.slot);
        self.publish_roster(roster)?;
        let refused = self.delete_key_files(slot, u64::MAX)?;
        looked.again(self, slot, monitor, &mut decided);
        Ok((decided, refused))
    }

    /// Puts the parts of a list under numbers that no region has; `None` for an empty list.
    fn publish_accepted(&self, slot: SlotId, digests: &[Digest]) -> Result<Option<AcceptedParts>, RepoError> {
        if digests.is_empty() {
            return Ok(None);
        }
        let mut first = 1;
        for region in &self.regions {
            let prefix = format!("roster/accepted/{slot}/");
            for listed in list_sorted(&*region.store, &prefix).map_err(|e| region.error(e))? {
                first = first.max(parse_accepted_name(&listed.name).map_or(0, |(_, number)| number + 1));
            }
        }
        let (mut count, mut parts) = (0, Vec::new());
        for part in digests.chunks(ACCEPTED_DIGESTS_MAX) {
            let number = first + count;
            let part = Accepted { slot, number, digests: part.to_vec() };
            let signer = root_signer(self.root_private()?);
            let (bytes, digest) = build_signed(ObjectKind::Accepted, self.config.repository, &signer, &part.encode());
            self.put_everywhere(&accepted_name(slot, number), &bytes)?;
            parts.push(digest);
            count += 1;
        }
        match count <= ACCEPTED_PARTS_MAX {
            true => Ok(Some(AcceptedParts { slot, first, count, digests: parts })),
            false => Err(RepoError::Keys(format!("slot {slot} has signed more objects than a list can hold"))),
        }
    }

    /// Whether a slot in one of these states may be taken out of use.
    fn may_go(&self, slot: SlotId, states: &[SlotState]) -> Result<(), RepoError> {
        let entry = self
            .roster
            .slot(slot)
            .filter(|entry| states.contains(&entry.state))
            .ok_or_else(|| RepoError::Keys(format!("there is no active slot {slot}")))?;
        let last = self.active().filter(|slot| slot.role == Role::Owner).all(|owner| owner.slot == slot);
        if entry.role == Role::Owner && entry.state == SlotState::Active && last {
            return Err(RepoError::Keys(format!(
                "slot {slot} is the last owner: without it nothing could be restored"
            )));
        }
        if slot == self.secrets.slot {
            return Err(RepoError::Keys(format!("slot {slot} is the one in use; open the repository with another")));
        }
        Ok(())
    }

    fn with_state(&self, slot: SlotId, state: SlotState) -> Roster {
        let mut roster = self.roster.clone();
        roster.slots.iter_mut().filter(|entry| entry.slot == slot).for_each(|entry| entry.state = state);
        roster
    }

    /// Begins an epoch: new `meta` and `seal`, and with `renew_ids` new `id` and `gear`, so that nothing that
    /// is stored deduplicates any more. Every active slot gets its ring, in every region, before the roster
    /// says that the epoch is in use; nothing is rewritten. Gives the epoch.
    ///
    /// # Errors
    /// When this slot is no owner's or lacks a ring, a region is missing, or a store fails.
    pub fn rotate(&mut self, renew_ids: bool) -> Result<u64, RepoError> {
        let root = self.begin_change()?;
        let known = self.all_rings()?;
        let current = self.roster.current_epoch();
        // A number that an interrupted rotation used is not used again: its rings hold other secrets.
        let mut epoch = current;
        for region in &self.regions {
            for listed in list_sorted(&*region.store, "ring/").map_err(|e| region.error(e))? {
                epoch = epoch.max(parse_ring_name(&listed.name).map_or(0, |(epoch, _)| epoch));
            }
        }
        epoch += 1;
        let mut secrets = Keyring::generate(&*self.random);
        if let Some(before) = known.get(&current).filter(|_| !renew_ids) {
            secrets.id = before.id;
            secrets.gear = before.gear;
        }
        let act = Act::new(Action::KeyRotate).figure("epoch", epoch).figure("ids-renewed", u64::from(renew_ids));
        record(self, &self.active().fold(act, |act, slot| act.on(&slot.slot.0)))?;
        for slot in self.active() {
            let (name, bytes) = build_ring(&self.config, epoch, slot, &secrets, &root, &*self.random)?;
            self.put_everywhere(&name, &bytes)?;
        }
        let mut rings = known;
        rings.insert(epoch, secrets);
        let mut roster = self.roster.clone();
        roster.epochs = self.stated_epochs(&rings);
        self.publish_roster(roster)?;
        self.keyring = Arc::new(
            Keyring::new(self.config.repository, self.config.suite, rings)
                .ok_or_else(|| RepoError::Keys("there is no ring".to_owned()))?,
        );
        Ok(epoch)
    }

    fn stated_epochs(&self, rings: &BTreeMap<u64, RingSecrets>) -> Vec<RosterEpoch> {
        let commitment = |epoch, ring| epoch_commitment(self.config.repository, epoch, ring);
        rings.iter().map(|(epoch, ring)| RosterEpoch { epoch: *epoch, commitment: commitment(*epoch, ring) }).collect()
    }

    /// This slot's rings, which must be those of every epoch in use: what an owner hands on must be whole.
    fn all_rings(&self) -> Result<BTreeMap<u64, RingSecrets>, RepoError> {
        for epoch in self.epochs() {
            if !self.keyring.rings().contains_key(&epoch) {
                return Err(RepoError::Missing {
                    region: self.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join("', '"),
                    name: ring_name(epoch, self.secrets.slot),
                });
            }
        }
        Ok(self.keyring.rings().clone())
    }

    /// Ends a fork of the roster: publishes, under the next number, what [`Located::open_to_merge`] made of
    /// it. Slots that lack a ring get it first; what stays accepted of a slot that was revoked on several sides
    /// is what [`accepted::merge`] makes of their lists.
    ///
    /// # Errors
    /// When this slot is no owner's or lacks a ring, a region is missing, or a store fails.
    pub fn merge_rosters(&mut self) -> Result<(), RepoError> {
        let root = *self.root_private()?;
        self.all_regions()?;
        let known = self.all_rings()?;
        self.nothing_goes()?;
        let mut roster = self.roster.clone();
        for slot in &mut roster.slots {
            if slot.wrapping == WRAPPING_UNSURE {
                let (_, file) = self.key_file(slot.slot)?;
                let scrypt = is_passphrase_file(&file);
                slot.wrapping = if scrypt { "passphrase" } else { "x25519" }.to_owned();
            }
        }
        let act =
            Act::new(Action::RosterMerge).figure("taken", self.forks.iter().filter(|fork| fork.counts).count() as u64);
        record(self, &self.forks.iter().fold(act, |act, fork| act.on(&fork.digest.0)))?;
        for slot in self.active() {
            for (epoch, secrets) in &known {
                let name = ring_name(*epoch, slot.slot);
                let mut holders = 0;
                for region in &self.regions {
                    holders += usize::from(region.store.size(&name).map_err(|e| region.error(e))?.is_some());
                }
                if holders == 0 {
                    let (name, bytes) = build_ring(&self.config, *epoch, slot, secrets, &root, &*self.random)?;
                    self.put_everywhere(&name, &bytes)?;
                }
            }
        }
        let mut levelling = Levelling::new(self, true);
        let mut levelled = Levelled::default();
        for at in 0..self.regions.len() {
            levelling.rings(at, true, &mut levelled)?;
            levelling.key_files(at, true, &mut levelled)?;
        }
        self.key_issues.extend(levelled.issues);
        let mut parts = Vec::new();
        for slot in roster.slots.iter().filter(|slot| slot.state == SlotState::Revoked) {
            let sides: Vec<&Roster> = self
                .forks
                .iter()
                .filter(|fork| fork.counts)
                .map(|fork| &fork.roster)
                .filter(|fork| fork.slot(slot.slot).is_some_and(|entry| entry.state == SlotState::Revoked))
                .collect();
            parts.extend(self.merge_accepted(slot.slot, &sides)?);
        }
        roster.accepted = parts;
        self.publish_roster(roster)?;
        // A region that knew nothing of a revocation has kept the slot's key files.
        let gone = self.roster.slots.iter().filter(|slot| slot.state != SlotState::Active);
        for slot in gone.map(|slot| slot.slot).collect::<Vec<SlotId>>() {
            self.delete_key_files(slot, u64::MAX)?;
        }
        Ok(())
    }

    /// Refuses to take a roster that drops an epoch of another one's under which anything is sealed: nobody
    /// could open that any more.
    fn nothing_goes(&self) -> Result<(), RepoError> {
        let stays = |epoch: &RosterEpoch| self.roster.commitment(epoch.epoch) == Some(epoch.commitment);
        let stated = self.forks.iter().filter(|fork| !fork.counts).flat_map(|fork| &fork.roster.epochs);
        let going: BTreeSet<u64> = stated.filter(|epoch| !stays(epoch)).map(|epoch| epoch.epoch).collect();
        if going.is_empty() {
            return Ok(());
        }
        let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for region in &self.regions {
            for (prefix, kind) in SEALED {
                for listed in list_sorted(&*region.store, prefix).map_err(|e| region.error(e))? {
                    let name = listed.name;
                    if self.is_sealed_apart(region, kind, &name, &going)? {
                        lost.entry(region.name.clone()).or_default().push(name);
                    }
                }
            }
        }
        let Some((region, names)) = lost.first_key_value() else { return Ok(()) };
        let epochs: Vec<String> = going.iter().map(u64::to_string).collect();
        Err(RepoError::Keys(format!(
            "with the other roster an epoch {} goes under which {} objects are sealed in region '{region}', such as {}: \
             nobody could open them any more. Take the other roster instead; or, if something is sealed under both, open \
             the region alone (configured as the only one), restore from it what only it has, make the region anew with \
             `keepstone region add` in an empty store, and back up again what was restored",
            epochs.join(", "),
            names.len(),
            names[0],
        )))
    }

    /// Whether an object is sealed under one of these epochs, and not with the secrets that this slot has of it.
    fn is_sealed_apart(
        &self,
        region: &RegionHandle,
        kind: ObjectKind,
        name: &str,
        epochs: &BTreeSet<u64>,
    ) -> Result<bool, RepoError> {
        let bytes = match region.store.get(name, SEGMENT_BYTES_MAX as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(region.error(error)),
        };
        // What is damaged nobody can open with any roster; a check names it.
        let Ok(signed) = decode_object(kind, self.config.repository, &bytes) else { return Ok(false) };
        let sealed = signed.envelope.sealing.is_some_and(|sealing| epochs.contains(&sealing.epoch));
        Ok(sealed && open_payload(&self.keyring, &signed).is_err())
    }

    fn merge_accepted(&self, slot: SlotId, sides: &[&Roster]) -> Result<Option<AcceptedParts>, RepoError> {
        let stated = |side: &Roster| side.accepted.iter().find(|parts| parts.slot == slot).cloned();
        let Some(first) = sides.first() else { return Ok(None) };
        if sides.iter().all(|side| stated(side) == stated(first)) {
            let Some(parts) = stated(first) else { return Ok(None) };
            let mut whole = true;
            for number in parts.numbers() {
                for to in &self.regions {
                    // The fork may have left it in one region only, and another list under its name elsewhere.
                    self.copy_accepted(to, &parts, number)?;
                    whole &= read_part(std::slice::from_ref(to), &self.config, &parts, number).is_ok();
                }
            }
            if whole {
                return Ok(Some(parts));
            }
        }
        let mut found: Vec<Vec<Digest>> = Vec::new();
        for side in sides {
            let lists = AcceptedObjects::read(&self.regions, &self.config, side);
            found.push(lists.whole(slot).map_err(|source| RepoError::Key(source.into()))?.to_vec());
        }
        self.publish_accepted(slot, &accepted::merge(self, slot, &found)?)
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
        let next = newest.checked_add(1).ok_or_else(|| {
            RepoError::Keys(format!(
                "a key file of slot {slot} has the highest number that there is: delete it by hand"
            ))
        })?;
        let rewrapped_as = wrapping.name();
        let rewrapped = entry.wrapping != rewrapped_as;
        record(self, &Act::new(Action::KeyRewrap).on(&slot.0).because(rewrapped_as))?;
        if rewrapped {
            self.begin_change()?;
            let mut roster = self.roster.clone();
            let found = roster.slots.iter_mut().find(|entry| entry.slot == slot);
            found.into_iter().for_each(|entry| entry.wrapping = rewrapped_as.to_owned());
            self.put_everywhere(&key_name(slot, next), &wrap(&self.secrets, wrapping)?)?;
            self.publish_roster(roster)?;
        } else {
            self.put_everywhere(&key_name(slot, next), &wrap(&self.secrets, wrapping)?)?;
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

    /// For each slot the epochs in use that some reached region has a ring of.
    ///
    /// # Errors
    /// When a region can't be listed.
    pub fn ring_epochs(&self) -> Result<BTreeMap<SlotId, BTreeSet<u64>>, RepoError> {
        let mut epochs: BTreeMap<SlotId, BTreeSet<u64>> = BTreeMap::new();
        for region in &self.regions {
            for listed in list_sorted(&*region.store, "ring/").map_err(|e| region.error(e))? {
                if let Some((epoch, slot)) = parse_ring_name(&listed.name).filter(|(e, _)| self.roster.has_epoch(*e)) {
                    epochs.entry(slot).or_default().insert(epoch);
                }
            }
        }
        Ok(epochs)
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

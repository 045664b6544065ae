//! Opening: config, roster and rings are verified from root down before anything is believed.
//! Page: `format-spec/keys.md`.

use super::RepoError;
use super::accepted::AcceptedObjects;
use super::gclog::GcLog;
use super::key_names::{key_name, parse_key_name, parse_ring_name, ring_digest, roster_name};
use super::lineage::{Follows, Rosters, newest};
use crate::crypto::keyring::{Keyring, epoch_commitment, open_ring};
use crate::crypto::object::{self, Signer};
use crate::crypto::slot::{Unlock, unwrap};
use crate::crypto::{CryptoError, sign};
use crate::env::{Clock, Random, host_name};
use crate::format::config::{Config, Region};
use crate::format::envelope::{ObjectKind, SignedObject};
use crate::format::ids::{Digest, SlotId, number_name};
use crate::format::ring::{Ring, RingSecrets, SlotSecrets};
use crate::format::roster::{AcceptedParts, Role, Roster, RosterEpoch, RosterSlot, SlotState};
use crate::format::wire::DecodeError;
use crate::limits::{KEY_FILE_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::report::Issue;
use crate::store::{Store, StoreError, StoreErrorKind, list_sorted};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A configured region: its name and its store.
#[derive(Clone)]
pub struct RegionSpec {
    /// The name in the configuration.
    pub name: String,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// A region that was reached and verified.
#[derive(Clone)]
pub struct RegionHandle {
    /// The name in the configuration.
    pub name: String,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What its `region` object says.
    pub info: Region,
    /// What this process read of its collection log so far.
    pub(super) log: Arc<Mutex<GcLog>>,
}

impl RegionHandle {
    pub(super) fn new(name: &str, store: &Arc<dyn Store>, info: Region) -> Self {
        RegionHandle { name: name.to_owned(), store: Arc::clone(store), info, log: Arc::default() }
    }

    /// Wraps a store's failure with the region's name.
    pub fn error(&self, source: StoreError) -> RepoError {
        RepoError::Store { region: self.name.clone(), source }
    }

    /// Wraps a broken rule with region and object.
    pub fn object_error(&self, name: &str, source: DecodeError) -> RepoError {
        RepoError::Object { region: self.name.clone(), name: name.to_owned(), source }
    }

    /// Wraps a cryptographic failure with region and object.
    pub fn crypto_error(&self, name: &str, source: CryptoError) -> RepoError {
        match source {
            CryptoError::Decode(source) => self.object_error(name, source),
            source => RepoError::Crypto { region: self.name.clone(), name: name.to_owned(), source },
        }
    }

    /// Reads a metadata object.
    ///
    /// # Errors
    /// [`RepoError::Missing`] when it is absent, [`RepoError::Object`] when it is larger than any may be,
    /// [`RepoError::Store`] otherwise.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, RepoError> {
        self.store.get(name, OBJECT_BYTES_MAX as u64).map_err(|error| match error.kind {
            StoreErrorKind::NotFound => RepoError::Missing { region: self.name.clone(), name: name.to_owned() },
            // One object that nobody can use; the store is fine, and so is the rest.
            StoreErrorKind::Range => self.object_error(name, DecodeError::new("LIMIT-1", error.detail)),
            _ => self.error(error),
        })
    }

    /// Whether an object's bytes aren't even those that its own digest states: nobody wrote it so. What is whole and
    /// wrong was written by somebody, and is to be seen by whoever asks who it was.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn is_damaged(&self, name: &str) -> Result<bool, RepoError> {
        match self.get(name) {
            Ok(bytes) => Ok(object::check_digest(&bytes).is_err()),
            Err(RepoError::Missing { .. }) => Ok(false),
            Err(RepoError::Object { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// A region whose `config` or `region` object can't be used, while another region's can: it takes no part.
#[derive(Clone, Debug)]
pub struct DamagedRegion {
    /// The region's name in the configuration.
    pub region: String,
    /// Which of the two.
    pub object: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

/// A repository that was found and verified against root, still locked.
pub struct Located {
    /// What it is.
    pub config: Config,
    /// The regions that were reached.
    pub regions: Vec<RegionHandle>,
    /// The regions that were not.
    pub unreachable: Vec<(String, StoreError)>,
    /// Those of them that were reached, and are damaged.
    pub damaged: Vec<DamagedRegion>,
    /// The slots.
    pub roster: Roster,
    /// The roster's object.
    pub roster_digest: Digest,
    /// What stays valid of revoked slots.
    pub accepted: AcceptedObjects,
    /// The newest rosters, where there are several: [`Located::open_to_merge`].
    pub forks: Vec<Fork>,
    /// What is damaged of keys and stood in nobody's way: older rosters.
    pub key_issues: Vec<Issue>,
    /// Whose slot is taken where a secret opens several and none is an owner's; a maintainer's unless told otherwise.
    pub preferred: Role,
}

/// One of several newest rosters.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The object's digest.
    pub digest: Digest,
    /// What it says.
    pub roster: Roster,
    /// False when another one is taken as it is.
    pub counts: bool,
}

/// A key file's number and bytes.
pub type KeyFile = (u64, Vec<u8>);

/// An open repository.
pub struct Repository {
    /// What it is.
    pub config: Config,
    /// The regions that were reached.
    pub regions: Vec<RegionHandle>,
    /// The regions that were not.
    pub unreachable: Vec<(String, StoreError)>,
    /// Those of them that were reached, and are damaged.
    pub damaged: Vec<DamagedRegion>,
    /// The slots.
    pub roster: Roster,
    /// The roster's object.
    pub roster_digest: Digest,
    /// What stays valid of revoked slots.
    pub accepted: AcceptedObjects,
    /// The newest rosters, where there are several.
    pub forks: Vec<Fork>,
    /// What is damaged or lacking of keys and stood in nobody's way: older rosters, and what a change of keys met
    /// in the regions before it began. For whoever shows or changes keys to tell.
    pub key_issues: Vec<Issue>,
    /// The secrets.
    pub keyring: Arc<Keyring>,
    /// The slot that opened it.
    pub secrets: SlotSecrets,
    /// The machine's name in what is recorded and designated: as it calls itself, unless whoever opened it says
    /// otherwise. At most 255 bytes.
    pub host: String,
    /// The key file that did.
    pub key_file: KeyFile,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

/// Reads an object signed by root and checks it; `None` when it is absent.
///
/// # Errors
/// When it can't be read, breaks a rule, or root didn't sign it.
pub(crate) fn read_root_signed(
    spec: &RegionSpec,
    kind: ObjectKind,
    name: &str,
    root: Option<&Config>,
) -> Result<Option<(Vec<u8>, Digest)>, RepoError> {
    let region = || spec.name.clone();
    let object_error = |source| RepoError::Object { region: region(), name: name.to_owned(), source };
    let bytes = match spec.store.get(name, OBJECT_BYTES_MAX as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        // One object that nobody can use; the store is fine.
        Err(error) if error.kind == StoreErrorKind::Range => {
            return Err(object_error(DecodeError::new("LIMIT-1", error.detail)));
        }
        Err(source) => return Err(RepoError::Store { region: region(), source }),
    };
    object::check_digest(&bytes).map_err(object_error)?;
    let signed = crate::format::envelope::decode(kind, &bytes).map_err(object_error)?;
    let own;
    let config = match root {
        Some(config) => config,
        // The config vouches for itself: its root key signs it, and the pin vouches for the root key.
        None => {
            own = Config::decode(signed.envelope.payload).map_err(object_error)?;
            &own
        }
    };
    if signed.envelope.repository != config.repository {
        return Err(object_error(DecodeError::new(
            "OBJ-9",
            format!("it belongs to repository {}, not {}", signed.envelope.repository, config.repository),
        )));
    }
    if signed.envelope.signer != SlotId::default() {
        return Err(object_error(DecodeError::new("OBJ-11", "root must sign it, and a slot did")));
    }
    sign::verify(&config.root_public_key, signed.signed_part, &signed.signature, name, "the root key")
        .map_err(|source| RepoError::Crypto { region: region(), name: name.to_owned(), source })?;
    Ok(Some((signed.envelope.payload.to_vec(), signed.digest)))
}

impl Located {
    /// Reads and verifies config, region objects and roster.
    ///
    /// # Errors
    /// When no region is reached, or those that are hold no repository, or objects that are damaged or that root
    /// didn't sign; when one holds another repository; when `pin` is given and is not the root's fingerprint.
    pub fn open(specs: &[RegionSpec], pin: Option<[u8; 32]>) -> Result<Self, RepoError> {
        let (mut located, mut rosters) = Self::open_regions(specs, pin)?;
        if rosters.len() > 1 {
            let number = rosters.iter().map(|(_, roster)| roster.number).max().unwrap_or_default();
            let digests = rosters.iter().map(|(digest, _)| *digest).collect();
            return Err(RepoError::TwoRosters { number, digests });
        }
        if let Some((digest, roster)) = rosters.pop() {
            located.accept(digest, roster);
        }
        Ok(located)
    }

    /// As [`Located::open`], where there are several newest rosters (`ROSTER-4`): the slots are what all of
    /// them come to, or, with `take`, what the one of this digest says.
    ///
    /// # Errors
    /// As [`Located::open`]; when there is only one roster, or they can't be brought together.
    pub fn open_to_merge(specs: &[RegionSpec], pin: Option<[u8; 32]>, take: Option<&str>) -> Result<Self, RepoError> {
        let (mut located, rosters) = Self::open_regions(specs, pin)?;
        if rosters.len() < 2 {
            return Err(RepoError::Keys(
                "there is only one key roster: nothing is to be merged. Regions that lack it get it by the next \
                 backup, change of keys or `replicate`"
                    .to_owned(),
            ));
        }
        let (digest, roster) = match take {
            None => (Digest::default(), merged(rosters.iter().map(|(_, roster)| roster))?),
            Some(prefix) => {
                let mut fitting = rosters.iter().filter(|(digest, _)| digest.to_string().starts_with(prefix));
                match (fitting.next(), fitting.next()) {
                    (Some((digest, roster)), None) => (*digest, roster.clone()),
                    _ => return Err(RepoError::Keys(format!("{prefix} begins the digest of none or several rosters"))),
                }
            }
        };
        let fork = |(digest, fork)| Fork { digest, counts: take.is_none() || fork == roster, roster: fork };
        located.forks = rosters.into_iter().map(fork).collect();
        located.accept(digest, roster);
        Ok(located)
    }

    fn accept(&mut self, digest: Digest, roster: Roster) {
        self.accepted = AcceptedObjects::read(&self.regions, &self.config, &roster);
        self.roster = roster;
        self.roster_digest = digest;
    }

    /// Refuses a roster that is older than one this client has seen, or that doesn't follow from it
    /// (`ROSTER-5`).
    ///
    /// # Errors
    /// [`RepoError::RolledBack`], [`RepoError::AnotherHistory`]; when rosters can't be read.
    pub fn require_roster(&self, known: u64, digest: Option<Digest>) -> Result<(), RepoError> {
        let found = self.roster.number;
        if found < known {
            return Err(RepoError::RolledBack { found, known });
        }
        let Some(digest) = digest else { return Ok(()) };
        // What is about to be merged stands for all of its sides.
        let mut sides: Vec<(Digest, &Roster)> = self.forks.iter().map(|fork| (fork.digest, &fork.roster)).collect();
        if sides.is_empty() {
            sides.push((self.roster_digest, &self.roster));
        }
        if sides.iter().any(|(side, _)| *side == digest) {
            return Ok(());
        }
        let rosters = Rosters::list(&self.regions)?;
        for (_, side) in sides.iter().filter(|(_, side)| side.number > known) {
            if rosters.follows(&self.config, side, (known, digest), &mut Vec::new())? == Follows::Yes {
                return Ok(());
            }
        }
        Err(RepoError::AnotherHistory { found, known, digest })
    }

    /// Everything but the choice of a roster.
    fn open_regions(specs: &[RegionSpec], pin: Option<[u8; 32]>) -> Result<(Self, Vec<(Digest, Roster)>), RepoError> {
        let mut regions: Vec<RegionHandle> = Vec::new();
        let mut unreachable = Vec::new();
        let mut damaged: Vec<(&RegionSpec, &'static str, RepoError)> = Vec::new();
        let mut found: Option<(Config, String)> = None;
        let mut empty: Vec<&RegionSpec> = Vec::new();
        if specs.is_empty() {
            return Err(RepoError::NoRegions);
        }
        for spec in specs {
            let payload = match read_root_signed(spec, ObjectKind::Config, "config", None) {
                Ok(Some((payload, _))) => payload,
                Ok(None) => {
                    empty.push(spec);
                    continue;
                }
                Err(RepoError::Store { source, .. }) => {
                    unreachable.push((spec.name.clone(), source));
                    continue;
                }
                Err(error) => {
                    damaged.push((spec, "config", error));
                    continue;
                }
            };
            let object =
                |name: &str, source| RepoError::Object { region: spec.name.clone(), name: name.to_owned(), source };
            let config = match Config::decode(&payload) {
                Ok(config) => config,
                Err(source) => {
                    damaged.push((spec, "config", object("config", source)));
                    continue;
                }
            };
            let fingerprint = sign::fingerprint(&config.root_public_key);
            if let Some(pinned) = pin.filter(|pinned| *pinned != fingerprint) {
                return Err(RepoError::WrongPin {
                    region: spec.name.clone(),
                    pinned: Digest(pinned).to_string(),
                    found: Digest(fingerprint).to_string(),
                });
            }
            match &found {
                Some((other, first)) if *other != config => {
                    return Err(RepoError::DifferentRepositories { first: first.clone(), second: spec.name.clone() });
                }
                Some(_) => {}
                None => found = Some((config.clone(), spec.name.clone())),
            }
            let payload = match read_root_signed(spec, ObjectKind::Region, "region", Some(&config)) {
                Ok(Some((payload, _))) => payload,
                Ok(None) => {
                    let missing = RepoError::Missing { region: spec.name.clone(), name: "region".to_owned() };
                    damaged.push((spec, "region", missing));
                    continue;
                }
                Err(RepoError::Store { source, .. }) => {
                    unreachable.push((spec.name.clone(), source));
                    continue;
                }
                Err(error) => {
                    damaged.push((spec, "region", error));
                    continue;
                }
            };
            let info = match Region::decode(&payload) {
                Ok(info) => info,
                Err(source) => {
                    damaged.push((spec, "region", object("region", source)));
                    continue;
                }
            };
            if let Some(twin) = regions.iter().find(|other| other.info.region == info.region) {
                return Err(RepoError::SameRegion {
                    first: twin.name.clone(),
                    second: spec.name.clone(),
                    detail: format!("both say they are {}", info.region),
                });
            }
            regions.push(RegionHandle::new(&spec.name, &spec.store, info));
        }
        let Some((config, _)) = found.filter(|_| !regions.is_empty()) else {
            if !damaged.is_empty() {
                return Err(damaged.swap_remove(0).2);
            }
            return Err(match empty.first() {
                Some(spec) => {
                    RepoError::NotARepository { region: spec.name.clone(), address: spec.store.address().to_owned() }
                }
                None => RepoError::Unreachable(unreachable),
            });
        };
        // A directory on which its disk isn't mounted looks so; another region vouches for the repository.
        unreachable.extend(empty.into_iter().map(|spec| {
            let detail = "it holds no repository; is the disk mounted, and the address right?".to_owned();
            let error = StoreError::new(StoreErrorKind::Unavailable, "open", spec.store.address(), "", detail);
            (spec.name.clone(), error)
        }));
        let mut reported = Vec::new();
        for (spec, object, error) in damaged {
            let detail = error.to_string();
            let kind = StoreErrorKind::Other;
            unreachable.push((spec.name.clone(), StoreError::new(kind, "open", spec.store.address(), "", detail)));
            reported.push(DamagedRegion { region: spec.name.clone(), object, detail: error.to_string() });
        }
        let mut key_issues = Vec::new();
        let rosters = loop {
            match newest(&regions, &config, &mut key_issues) {
                // It went away since: the others have the same roster.
                Err(RepoError::Store { region, source }) if regions.len() > 1 => {
                    regions.retain(|other| other.name != region);
                    unreachable.push((region, source));
                }
                read => break read?,
            }
        };
        let roster =
            Roster { number: 0, slots: Vec::new(), epochs: Vec::new(), accepted: Vec::new(), previous: Vec::new() };
        let roster_digest = Digest::default();
        let accepted = AcceptedObjects::default();
        let forks = Vec::new();
        let located = Located {
            config,
            regions,
            unreachable,
            damaged: reported,
            roster,
            roster_digest,
            accepted,
            forks,
            key_issues,
            preferred: Role::Maintainer,
        };
        Ok((located, rosters))
    }

    /// The root's fingerprint.
    pub fn fingerprint(&self) -> Digest {
        Digest(sign::fingerprint(&self.config.root_public_key))
    }

    /// Opens a slot and its rings.
    ///
    /// # Errors
    /// [`RepoError::WrongSecret`] when none opens; what is wrong with a ring otherwise.
    pub fn unlock(
        mut self,
        unlock: &Unlock,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Repository, RepoError> {
        let (secrets, key_file, keyring) = loop {
            match self.open_keyring(unlock) {
                // It broke since: the others have the same keys.
                Err(RepoError::Store { region, source }) if self.regions.len() > 1 => {
                    self.regions.retain(|other| other.name != region);
                    self.unreachable.push((region, source));
                }
                opened => break opened?,
            }
        };
        let Located {
            config, regions, unreachable, damaged, roster, roster_digest, accepted, forks, key_issues, ..
        } = self;
        let keyring = Arc::new(keyring);
        Ok(Repository {
            config,
            regions,
            unreachable,
            damaged,
            roster,
            roster_digest,
            accepted,
            forks,
            key_issues,
            keyring,
            secrets,
            host: host_name(),
            key_file,
            clock,
            random,
        })
    }

    fn open_keyring(&self, unlock: &Unlock) -> Result<(SlotSecrets, KeyFile, Keyring), RepoError> {
        let (secrets, key_file) = self.open_slot(unlock)?;
        let mut rings = BTreeMap::new();
        let mut damaged: BTreeMap<u64, RepoError> = BTreeMap::new();
        for region in &self.regions {
            for listed in list_sorted(&*region.store, "ring/").map_err(|e| region.error(e))? {
                let Some((epoch, slot)) = parse_ring_name(&listed.name) else { continue };
                // An epoch that the roster doesn't state is one of a rotation that didn't end.
                if slot != secrets.slot || rings.contains_key(&epoch) || !self.roster.has_epoch(epoch) {
                    continue;
                }
                match read_ring(&self.config, &self.roster, region, &listed.name, &secrets) {
                    Ok(Some(ring)) => {
                        rings.insert(epoch, ring);
                    }
                    Ok(None) => {}
                    Err(error @ RepoError::Store { .. }) => return Err(error),
                    // Another region's copy may be whole.
                    Err(error) => {
                        damaged.entry(epoch).or_insert(error);
                    }
                }
            }
        }
        if let Some((_, error)) = damaged.into_iter().find(|(epoch, _)| !rings.contains_key(epoch)) {
            return Err(error);
        }
        let current = self.roster.current_epoch();
        if !rings.contains_key(&current) {
            // Sealing under an older epoch would undo a rotation (RING-6).
            return Err(self.missing_everywhere(format!("ring/{}/{}", number_name(current), secrets.slot)));
        }
        let keyring = Keyring::new(self.config.repository, self.config.suite, rings)
            .ok_or_else(|| self.missing_everywhere(format!("ring/*/{}", secrets.slot)))?;
        Ok((secrets, key_file, keyring))
    }

    fn missing_everywhere(&self, name: String) -> RepoError {
        let region = self.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join("', '");
        RepoError::Missing { region, name }
    }

    /// Key files by slot: the highest number of each that the roster still lists as active, from every
    /// region that has it. Copies that differ follow one another: one of them is damaged.
    pub(super) fn key_files(&self) -> Result<Vec<(SlotId, u64, Vec<u8>)>, RepoError> {
        let mut newest: BTreeMap<SlotId, (u64, Vec<&RegionHandle>)> = BTreeMap::new();
        for region in &self.regions {
            for listed in list_sorted(&*region.store, "keys/").map_err(|e| region.error(e))? {
                let Some((slot, number)) = parse_key_name(&listed.name) else { continue };
                if !self.roster.slot(slot).is_some_and(|slot| slot.state == SlotState::Active) {
                    continue;
                }
                match newest.get_mut(&slot) {
                    Some((known, _)) if *known > number => {}
                    Some((known, regions)) if *known == number => regions.push(region),
                    _ => {
                        newest.insert(slot, (number, vec![region]));
                    }
                }
            }
        }
        let mut files: Vec<(SlotId, u64, Vec<u8>)> = Vec::new();
        for (slot, (number, regions)) in newest {
            for region in regions {
                let name = key_name(slot, number);
                let file = match region.store.get(&name, KEY_FILE_BYTES_MAX as u64) {
                    Ok(file) => file,
                    // Too large to be one: another region's copy may be whole.
                    Err(error) if error.kind == StoreErrorKind::Range => Vec::new(),
                    Err(error) => return Err(region.error(error)),
                };
                if !files.iter().any(|(other, _, bytes)| *other == slot && *bytes == file) {
                    files.push((slot, number, file));
                }
            }
        }
        Ok(files)
    }

    fn open_slot(&self, unlock: &Unlock) -> Result<(SlotSecrets, KeyFile), RepoError> {
        let mut files = self.key_files()?;
        // One secret may open several slots: an owner's may most, or an owner who made a writer's slot for the own secret
        // might be locked out by it. Of the others none may all that another may.
        let role = |(slot, ..): &(SlotId, u64, Vec<u8>)| self.roster.slot(*slot).map(|entry| entry.role);
        files.sort_by_key(|file| match role(file) {
            Some(Role::Owner) => 0,
            Some(role) if role == self.preferred => 1,
            _ => 2,
        });
        if files.is_empty() {
            return Err(RepoError::NoKeyFiles);
        }
        let mut damaged = None;
        for (slot, number, file) in files {
            let Some(entry) = self.roster.slot(slot) else { continue };
            // Each passphrase slot costs about a second to try; identities cost nothing.
            let unsure = entry.wrapping == WRAPPING_UNSURE;
            if !unsure && matches!(unlock, Unlock::Passphrase(_)) != (entry.wrapping == "passphrase") {
                continue;
            }
            match unwrap(&file, unlock) {
                Ok(secrets) => {
                    check_secrets(&secrets, entry, &self.config)?;
                    return Ok((secrets, (number, file)));
                }
                Err(CryptoError::WrongSecret) => {}
                Err(error) => damaged = Some(error),
            }
        }
        // A damaged key file is said, but only when no other one opens.
        Err(damaged.map_or(RepoError::WrongSecret, RepoError::Key))
    }
}

/// Reads a ring of a slot and opens it with the slot's secrets; `None` when it went away.
///
/// # Errors
/// As [`read_sealed_ring`]; `RING-3`, `RING-4`; `RING-5` when it is of another rotation than the roster states.
pub(crate) fn read_ring(
    config: &Config,
    roster: &Roster,
    region: &RegionHandle,
    name: &str,
    secrets: &SlotSecrets,
) -> Result<Option<RingSecrets>, RepoError> {
    let Some((ring, _)) = read_sealed_ring(config, region, name)? else { return Ok(None) };
    let epoch = ring.epoch;
    if ring.slot != secrets.slot {
        let detail = format!("it is the ring of slot {}", ring.slot);
        return Err(region.object_error(name, DecodeError::new("OBJ-10", detail)));
    }
    let opened = open_ring(config.suite, config.repository, &ring, &secrets.kem_private)
        .map_err(|source| region.crypto_error(name, source))?;
    if let (Some(private), Some(public)) = (&opened.seal_private, &opened.seal_public)
        && crate::crypto::keyring::kem_public(private)? != *public
    {
        let detail = "the halves of the payload key don't belong together";
        return Err(region.object_error(name, DecodeError::new("RING-4", detail)));
    }
    let commitment = epoch_commitment(config.repository, epoch, &opened);
    if roster.commitment(epoch).is_some_and(|stated| stated != commitment) {
        let detail = "it holds other secrets than the roster states of its epoch: it is of another rotation";
        return Err(region.object_error(name, DecodeError::new("RING-5", detail)));
    }
    Ok(Some(opened))
}

/// Reads a ring of any slot from one region, still sealed, with the object's digest; `None` when it went away.
///
/// # Errors
/// When it can't be read, isn't what its name says, or root didn't sign it.
pub(crate) fn read_sealed_ring(
    config: &Config,
    region: &RegionHandle,
    name: &str,
) -> Result<Option<(Ring, Digest)>, RepoError> {
    let spec = RegionSpec::from(region);
    let Some((payload, digest)) = read_root_signed(&spec, ObjectKind::Ring, name, Some(config))? else {
        return Ok(None);
    };
    let ring = Ring::decode(&payload).map_err(|source| region.object_error(name, source))?;
    let named = ring_digest(name).is_none_or(|stated| stated == digest);
    if parse_ring_name(name) != Some((ring.epoch, ring.slot)) || !named {
        let detail = format!("it is the ring of epoch {} for slot {}, of digest {digest}", ring.epoch, ring.slot);
        return Err(region.object_error(name, DecodeError::new("OBJ-10", detail)));
    }
    Ok(Some((ring, digest)))
}

/// The slot's keys must be those that root put into the roster: else a swapped key file would count.
fn check_secrets(secrets: &SlotSecrets, entry: &RosterSlot, config: &Config) -> Result<(), RepoError> {
    let same = secrets.slot == entry.slot
        && secrets.repository == config.repository
        && sign::public_key(&secrets.signing_private) == entry.signing_public
        && crate::crypto::keyring::kem_public(&secrets.kem_private)? == entry.kem_public;
    let root = secrets.root_private.as_ref().is_none_or(|root| sign::public_key(root) == config.root_public_key);
    match same && root {
        true => Ok(()),
        false => Err(RepoError::Keys(format!(
            "KEY-4: the key file of slot {} holds other keys than roster and config state: it was swapped",
            entry.slot
        ))),
    }
}

/// One roster, from the first of its holders whose copy is whole.
pub(super) fn read_roster(
    holders: &[&RegionHandle],
    config: &Config,
    number: u64,
    digest: Digest,
) -> Result<Roster, RepoError> {
    let name = roster_name(number, &digest);
    let missing = |region: &str| RepoError::Missing { region: region.to_owned(), name: name.clone() };
    let mut failure = None;
    for region in holders.iter().copied() {
        let read = || {
            let (payload, actual) =
                read_root_signed(&RegionSpec::from(region), ObjectKind::Roster, &name, Some(config))?
                    .ok_or_else(|| missing(&region.name))?;
            let roster = Roster::decode(&payload).map_err(|source| region.object_error(&name, source))?;
            if actual != digest || roster.number != number {
                let detail = format!("it holds roster {} of digest {actual}", roster.number);
                return Err(region.object_error(&name, DecodeError::new("OBJ-10", detail)));
            }
            Ok(roster)
        };
        match read() {
            Ok(roster) => return Ok(roster),
            Err(error @ RepoError::Store { .. }) => return Err(error),
            // The same name holds the same bytes elsewhere: another region's copy may be whole.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| missing("*")))
}

/// What several newest rosters come to: every slot of any of them, each in the gravest state that one
/// gives it; every epoch. What stays accepted of a slot is decided by whoever publishes it.
fn merged<'a>(rosters: impl Iterator<Item = &'a Roster> + Clone) -> Result<Roster, RepoError> {
    let clash = |what: String| {
        RepoError::Keys(format!("{what}: choose one with `key merge --take DIGEST`, and do the other's changes again"))
    };
    let grave = |state: SlotState| match state {
        SlotState::Active => 0,
        SlotState::Retired => 1,
        SlotState::Revoked => 2,
    };
    let mut slots: BTreeMap<SlotId, RosterSlot> = BTreeMap::new();
    let mut epochs: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
    let mut accepted: BTreeMap<SlotId, AcceptedParts> = BTreeMap::new();
    let mut number = 0;
    for roster in rosters.clone() {
        number = roster.number.max(number);
        for slot in &roster.slots {
            let Some(known) = slots.get_mut(&slot.slot) else {
                slots.insert(slot.slot, slot.clone());
                continue;
            };
            let keys = |slot: &RosterSlot| (slot.role, slot.kem_public.clone(), slot.signing_public);
            if keys(known) != keys(slot) {
                return Err(clash(format!("the rosters state different keys or roles of slot {}", slot.slot)));
            }
            if grave(slot.state) > grave(known.state) {
                known.state = slot.state;
            }
            // A slot whose wrapping was changed in one of them: the newest key file says which it is.
            if known.wrapping != slot.wrapping {
                known.wrapping = WRAPPING_UNSURE.to_owned();
            }
        }
        for epoch in &roster.epochs {
            if epochs.insert(epoch.epoch, epoch.commitment).is_some_and(|known| known != epoch.commitment) {
                return Err(clash(format!("the rosters state different secrets of epoch {}", epoch.epoch)));
            }
        }
        accepted.extend(roster.accepted.iter().map(|parts| (parts.slot, parts.clone())));
    }
    let slots: Vec<RosterSlot> = slots.into_values().collect();
    if !slots.iter().any(|slot| slot.role == Role::Owner && slot.state == SlotState::Active) {
        return Err(clash("together the rosters leave no owner".to_owned()));
    }
    let epochs = epochs.into_iter().map(|(epoch, commitment)| RosterEpoch { epoch, commitment }).collect();
    Ok(Roster { number, slots, epochs, accepted: accepted.into_values().collect(), previous: Vec::new() })
}

/// How a slot is opened while two rosters disagree on it: by either secret, until they are merged.
pub(super) const WRAPPING_UNSURE: &str = "passphrase or x25519";

impl Repository {
    /// Signs as the slot that opened the repository.
    pub fn signer(&self) -> Signer<'_> {
        Signer { slot: self.secrets.slot, private: &self.secrets.signing_private }
    }

    /// Has regions take no part in what follows, each for this reason, as if they had not been reached; unless
    /// none were left. Gives the names of those that take none. What was listed before speaks of other indices.
    pub fn set_aside(&mut self, failures: BTreeMap<usize, StoreError>) -> Vec<String> {
        if failures.len() >= self.regions.len() {
            return Vec::new();
        }
        let aside: Vec<(String, StoreError)> =
            failures.into_iter().map(|(at, error)| (self.regions[at].name.clone(), error)).collect();
        let names: Vec<String> = aside.iter().map(|(name, _)| name.clone()).collect();
        self.regions.retain(|region| !names.contains(&region.name));
        self.unreachable.extend(aside);
        names
    }

    /// The role of the slot that opened it.
    pub fn role(&self) -> Role {
        // The slot came out of the roster; should it have vanished, the least is assumed.
        self.roster.slot(self.secrets.slot).map_or(Role::Writer, |slot| slot.role)
    }

    /// Refuses what the role of the slot that opened the repository doesn't allow.
    ///
    /// # Errors
    /// [`RepoError::NotPermitted`] unless its role is one of `needed`.
    pub fn require(&self, needed: &'static [Role], action: &'static str) -> Result<(), RepoError> {
        let role = self.role();
        match needed.contains(&role) {
            true => Ok(()),
            false => Err(RepoError::NotPermitted { role, action, needed }),
        }
    }

    /// The root's fingerprint.
    pub fn fingerprint(&self) -> Digest {
        Digest(sign::fingerprint(&self.config.root_public_key))
    }

    /// Checks that an object was signed by a slot whose role allows it, and that it counts: of a revoked
    /// slot only what a list names does.
    ///
    /// # Errors
    /// `SIGN-1` unknown slot, `SIGN-2` a role that may not; [`CryptoError::Revoked`]; `ACCEPT-4` when a list
    /// can't be read; [`CryptoError::Signature`].
    pub fn verify_slot(&self, signed: &SignedObject<'_>, roles: &[Role]) -> Result<(), CryptoError> {
        let slot = signed.envelope.signer;
        let what = signed.envelope.kind.name();
        let entry = self.signer_of(signed)?;
        if !roles.contains(&entry.role) {
            let detail = format!("slot {slot} is a {}, which may not sign a {what}", entry.role.name());
            return Err(DecodeError::new("SIGN-2", detail).into());
        }
        // Before anything is made of the revocation: a forged object is not one of the slot's.
        self.verify_author(signed)?;
        if entry.state == SlotState::Revoked && !self.accepted.contains(slot, &signed.digest)? {
            return Err(CryptoError::Revoked { slot, label: entry.label.clone() });
        }
        Ok(())
    }

    /// Refuses what this slot has just signed if the slot was revoked since the repository was opened and the
    /// revocation doesn't accept it: it is stored, and counts nowhere.
    ///
    /// # Errors
    /// [`CryptoError::Revoked`]; when the region's rosters can't be read.
    pub(super) fn require_accepted(
        &self,
        region: &RegionHandle,
        name: &str,
        signed: &[Digest],
    ) -> Result<(), RepoError> {
        let slot = self.secrets.slot;
        for (_, roster) in newest(std::slice::from_ref(region), &self.config, &mut Vec::new())? {
            let revoked = roster.slot(slot).filter(|entry| entry.state == SlotState::Revoked);
            let Some(entry) = revoked else { continue };
            let accepted = AcceptedObjects::read(&self.regions, &self.config, &roster);
            for digest in signed {
                if !accepted.contains(slot, digest).map_err(|error| region.object_error(name, error))? {
                    let source = CryptoError::Revoked { slot, label: entry.label.clone() };
                    return Err(region.crypto_error(name, source));
                }
            }
        }
        Ok(())
    }

    /// Checks the signature alone: whose the object is, not whether it counts.
    ///
    /// # Errors
    /// `SIGN-1`; [`CryptoError::Signature`].
    pub(super) fn verify_author(&self, signed: &SignedObject<'_>) -> Result<(), CryptoError> {
        let entry = self.signer_of(signed)?;
        let signer = format!("slot {} ({})", entry.slot, entry.label);
        let what = signed.envelope.kind.name();
        sign::verify(&entry.signing_public, signed.signed_part, &signed.signature, what, &signer)
    }

    fn signer_of(&self, signed: &SignedObject<'_>) -> Result<&RosterSlot, CryptoError> {
        let slot = signed.envelope.signer;
        let unknown = || DecodeError::new("SIGN-1", format!("slot {slot} is not in the roster")).into();
        self.roster.slot(slot).ok_or_else(unknown)
    }
}

/// Who may sign a segment that lists packs of its own.
pub const WRITERS: [Role; 3] = [Role::Owner, Role::Writer, Role::Maintainer];
/// Who may sign a snapshot: it vouches for content that its signer must have read.
pub const AUTHORS: [Role; 2] = [Role::Owner, Role::Writer];
/// Who may sign what decides over snapshots.
pub const DECIDERS: [Role; 2] = [Role::Owner, Role::Maintainer];

//! Making a repository: root key, owner slot, first ring; every object in every region.

use super::RepoError;
use super::audit;
use super::key_names::{key_name, roster_name};
use super::open::{RegionHandle, RegionSpec};
use crate::crypto::keyring::{KemKeyPair, Keyring, seal_ring};
use crate::crypto::object::{Signer, build_signed};
use crate::crypto::sign;
use crate::crypto::slot::{Wrapping, wrap};
use crate::env::{Clock, Random, random_bytes};
use crate::format::config::{Config, Region, Suite};
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, RegionId, RepositoryId, SlotId, number_name};
use crate::format::ring::{Ring, RingSecrets, SlotSecrets};
use crate::format::roster::{Role, Roster, RosterSlot, SlotState};
use crate::store::probe::{Probe, probe};
use crate::store::{Store, StoreErrorKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Whatever of this a store holds makes it no empty one.
const FOUND_IN_REPOSITORIES: [&str; 10] =
    ["config", "snapshots/", "packs/", "commits/", "index/", "sessions/", "verdicts/", "tags/", "gc/", "collector/"];

/// How a repository is made.
pub struct InitOptions {
    /// Its ciphers.
    pub suite: Suite,
    /// How the first owner's key file is wrapped.
    pub wrapping: Wrapping,
    /// A name for that slot.
    pub label: String,
    /// The name of the machine on which it is made, for the audit chain; at most 255 bytes.
    pub host: String,
}

/// What was made.
pub struct Initialised {
    /// Its identity.
    pub repository: RepositoryId,
    /// The root's fingerprint, to be pinned by every client.
    pub fingerprint: Digest,
    /// Each region with what its store was found to do.
    pub regions: Vec<(String, RegionId, Probe)>,
}

/// Signs as root.
pub(super) fn root_signer(private: &[u8; 32]) -> Signer<'_> {
    Signer { slot: SlotId::default(), private }
}

/// Probes every region, and that none is another under a second name, then writes the repository's first objects into each, `config` last: a region
/// without it is not yet one, so that an interrupted `init` can be run again.
///
/// # Errors
/// When a region holds a repository already, is another one's store, can't be reached, or fails the probe.
pub fn init(
    specs: &[RegionSpec],
    options: &InitOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<Initialised, RepoError> {
    if specs.is_empty() {
        return Err(RepoError::NoRegions);
    }
    for spec in specs {
        require_empty(spec)?;
        // Of an earlier one that did not end: a second roster beside it would be read as a fork of it.
        require_none(spec, "roster/").map_err(|error| match error {
            RepoError::AlreadyARepository { region, address, .. } => {
                let found = "there is roster/: perhaps an init did not end; clear the region by hand then".to_owned();
                RepoError::AlreadyARepository { region, address, found }
            }
            error => error,
        })?;
    }
    for (at, spec) in specs.iter().enumerate() {
        require_distinct(spec, &specs[at + 1..], random)?;
    }
    let mut probes = Vec::new();
    for spec in specs {
        probes.push(
            probe(&*spec.store, random).map_err(|source| RepoError::Store { region: spec.name.clone(), source })?,
        );
    }

    let now = clock.now_ns();
    let repository = RepositoryId(random_bytes(random));
    let root = Zeroizing::new(random_bytes::<32>(random));
    let config = Config { repository, suite: options.suite, root_public_key: sign::public_key(&root), created_at: now };
    let slot = SlotId(random_bytes(random));
    let kem = KemKeyPair::generate(random);
    let secrets = SlotSecrets {
        repository,
        slot,
        kem_private: *kem.private,
        signing_private: random_bytes(random),
        root_private: Some(*root),
    };
    let entry = RosterSlot {
        slot,
        role: Role::Owner,
        state: SlotState::Active,
        label: options.label.clone(),
        wrapping: options.wrapping.name().to_owned(),
        kem_public: kem.public,
        signing_public: sign::public_key(&secrets.signing_private),
        created_at: now,
    };
    let key_file = wrap(&secrets, &options.wrapping)?;
    let ring = Keyring::generate(random);
    let keyring = Keyring::new(repository, options.suite, BTreeMap::from([(1, ring.clone())]))
        .ok_or_else(|| RepoError::Keys("a ring was not made".to_owned()))?;
    let (ring_name, ring_bytes) = build_ring(&config, 1, &entry, &ring, &root, random)?;
    let roster =
        Roster { number: 1, slots: vec![entry], epochs: Vec::new(), accepted: Vec::new(), previous: Vec::new() };
    let (roster_name, roster_bytes, _) = build_roster(repository, &roster, &root);
    let (config_bytes, _) = build_signed(ObjectKind::Config, repository, &root_signer(&root), &config.encode());

    let signer = Signer { slot, private: &secrets.signing_private };
    let (audit_bytes, audit_digest) =
        audit::first_entry(&keyring, &signer, &options.label, &options.host, specs.len(), clock, random)?;

    let mut regions = Vec::new();
    for (spec, probe) in specs.iter().zip(probes) {
        let info = Region {
            region: RegionId(random_bytes(random)),
            put_if_absent: probe.put_if_absent,
            deletes: probe.deletes,
            created_at: now,
        };
        let (region_bytes, _) = build_signed(ObjectKind::Region, repository, &root_signer(&root), &info.encode());
        let objects = [
            (key_name(slot, 1), key_file.clone()),
            (ring_name.clone(), ring_bytes.clone()),
            (roster_name.clone(), roster_bytes.clone()),
            (audit::name_where(probe.put_if_absent, slot, 1, &audit_digest), audit_bytes.clone()),
            ("region".to_owned(), region_bytes),
            ("config".to_owned(), config_bytes.clone()),
        ];
        for (name, bytes) in objects {
            put(&spec.name, &*spec.store, &name, bytes)?;
        }
        regions.push((spec.name.clone(), info.region, probe));
    }
    Ok(Initialised { repository, fingerprint: Digest(sign::fingerprint(&config.root_public_key)), regions })
}

/// Refuses a store that holds a repository, or what is left of one. What an `init` or an addition of a region
/// writes before the end is not looked for.
pub(super) fn require_empty(spec: &RegionSpec) -> Result<(), RepoError> {
    FOUND_IN_REPOSITORIES.iter().try_for_each(|prefix| require_none(spec, prefix))
}

/// Refuses a store that holds an object of this name, or any below it if it ends with a slash.
fn require_none(spec: &RegionSpec, prefix: &str) -> Result<(), RepoError> {
    let store_error = |source| RepoError::Store { region: spec.name.clone(), source };
    let present = match prefix.ends_with('/') {
        false => spec.store.size(prefix).map_err(store_error)?.is_some(),
        true => {
            let mut any = false;
            spec.store.list(prefix, &mut |_| any = true).map_err(store_error)?;
            any
        }
    };
    match present {
        false => Ok(()),
        true => Err(RepoError::AlreadyARepository {
            region: spec.name.clone(),
            address: spec.store.address().to_owned(),
            found: format!("there is {prefix}"),
        }),
    }
}

/// Refuses a store that is one of `others` under another name: what is put into it must not be in them.
fn require_distinct(spec: &RegionSpec, others: &[RegionSpec], random: &dyn Random) -> Result<(), RepoError> {
    if others.is_empty() {
        return Ok(());
    }
    let error = |spec: &RegionSpec, source| RepoError::Store { region: spec.name.clone(), source };
    let name = format!("probe/{:032x}/mark", u128::from_le_bytes(random_bytes(random)));
    spec.store.put_new(&name, &random_bytes::<16>(random).to_vec().into()).map_err(|e| error(spec, e))?;
    let mut twin = Ok(None);
    for other in others {
        match other.store.size(&name) {
            Ok(None) => {}
            Ok(Some(_)) => twin = Ok(Some(other)),
            Err(source) => twin = Err(error(other, source)),
        }
        if !matches!(twin, Ok(None)) {
            break;
        }
    }
    // Tidying comes first; where deletes are denied, the mark stays beside the probe's objects.
    let tidied = spec.store.delete(&name);
    if let Some(twin) = twin? {
        return Err(RepoError::SameRegion {
            first: spec.name.clone(),
            second: twin.name.clone(),
            detail: "what is put into one is there in the other".to_owned(),
        });
    }
    match tidied {
        Err(source) if source.kind != StoreErrorKind::Denied => Err(error(spec, source)),
        _ => Ok(()),
    }
}

fn put(region: &str, store: &dyn Store, name: &str, bytes: Vec<u8>) -> Result<(), RepoError> {
    match crate::ship::put_with_retries(store, name, &bytes.into()) {
        Ok(()) => Ok(()),
        // A region object of an init that didn't end: nothing refers to it yet, so it may go.
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => Err(RepoError::AlreadyARepository {
            region: region.to_owned(),
            address: store.address().to_owned(),
            found: format!("there is {name}, left by an init that did not end; empty the region and try again"),
        }),
        Err(source) => Err(RepoError::Store { region: region.to_owned(), source }),
    }
}

/// Builds a roster's object; gives name, bytes and digest.
pub(super) fn build_roster(repository: RepositoryId, roster: &Roster, root: &[u8; 32]) -> (String, Vec<u8>, Digest) {
    let (bytes, digest) = build_signed(ObjectKind::Roster, repository, &root_signer(root), &roster.encode());
    (roster_name(roster.number, &digest), bytes, digest)
}

/// Builds the ring of an epoch for a slot, with what its role may have; gives name and bytes.
pub(super) fn build_ring(
    config: &Config,
    epoch: u64,
    slot: &RosterSlot,
    secrets: &RingSecrets,
    root: &[u8; 32],
    random: &dyn Random,
) -> Result<(String, Vec<u8>), RepoError> {
    let mut part = secrets.clone();
    if slot.role != Role::Owner {
        part.seal_private = None;
    }
    if slot.role == Role::Maintainer {
        part.id = None;
        part.gear = None;
        part.seal_public = None;
    }
    let (encapsulated, sealed) =
        seal_ring(config.suite, config.repository, epoch, slot.slot, &slot.kem_public, &part, random)?;
    let ring = Ring { epoch, slot: slot.slot, encapsulated, sealed };
    let (bytes, _) = build_signed(ObjectKind::Ring, config.repository, &root_signer(root), &ring.encode());
    Ok((format!("ring/{}/{}", number_name(epoch), slot.slot), bytes))
}

/// A region's handle as a spec.
impl From<&RegionHandle> for RegionSpec {
    fn from(region: &RegionHandle) -> Self {
        RegionSpec { name: region.name.clone(), store: Arc::clone(&region.store) }
    }
}

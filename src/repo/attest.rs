//! Attestations: reading what owners vouch for, and publishing what a check verified.
//! Page: `format-spec/attestation.md`.
//!
//! Guarantees: only an owner's word that verifies counts; one that can't be read vouches for nothing.
//! Memory: 32 bytes a pack, about 40 with the set.

use super::RepoError;
use super::audit::{Act, NoRoom, record_where_room};
use super::open::{RegionHandle, Repository};
use crate::crypto::CryptoError;
use crate::crypto::listing::listings;
use crate::crypto::object::{self, build_signed};
use crate::format::attestation::Attestation;
use crate::format::audit::Action;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SlotId};
use crate::format::roster::Role;
use crate::format::segment::Segment;
use crate::format::wire::DecodeError;
use crate::limits::ATTESTED_LISTINGS_MAX;
use crate::report::{Issue, IssueKind};
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeSet, HashSet};

/// Once a slot has so many attestations in a region, the next one holds them all and they go: each is read
/// at the beginning of every backup.
const MERGED_FROM: usize = 64;

/// Who may attest.
pub const ATTESTERS: [Role; 1] = [Role::Owner];

/// One attestation of a region.
struct Found {
    name: String,
    signer: SlotId,
    listings: Vec<Digest>,
}

/// What owners vouch for, over all reached regions, and what of it could not be read: a region that fails
/// vouches for nothing, so that what only it vouches for is stored once more, and nothing is lost.
pub fn read(repository: &Repository) -> (HashSet<Digest>, Vec<Issue>) {
    let (mut attested, mut issues, mut seen) = (HashSet::new(), Vec::new(), HashSet::new());
    for region in &repository.regions {
        match read_region(repository, region, &mut |name| !seen.contains(name)) {
            Ok(all) => {
                issues.extend(all.issues(region));
                all.found.into_iter().for_each(|found| {
                    attested.extend(found.listings);
                    seen.insert(found.name);
                });
            }
            Err(error) => issues.push(Issue {
                kind: IssueKind::Unreadable,
                subject: format!("{}:attest/", region.name).into_bytes(),
                detail: error.to_string(),
            }),
        }
    }
    (attested, issues)
}

/// As [`read`], for whoever asks which slot's word stands for another's: nothing where there is only one slot to ask
/// of. What can't be read vouches for nothing.
pub fn read_for_many(repository: &Repository) -> HashSet<Digest> {
    if repository.roster.slots.len() < 2 {
        return HashSet::new();
    }
    let (attested, issues) = read(repository);
    issues.iter().for_each(|issue| tracing::warn!(detail = issue.detail, "an attestation is not used"));
    attested
}

/// For each pack of a segment, whether what is stated of it is among the attested listings.
pub fn vouched(attested: &HashSet<Digest>, segment: &Segment) -> Vec<bool> {
    // The digests take time, and few repositories attest.
    match attested.is_empty() {
        true => vec![false; segment.packs.len()],
        false => listings(segment).iter().map(|listing| attested.contains(listing)).collect(),
    }
}

/// Verifies a region's own copies: how many count, and what is wrong with others.
///
/// # Errors
/// When the region can't be listed or stops answering.
pub fn verify_region(repository: &Repository, region: &RegionHandle) -> Result<(u64, Vec<Issue>), RepoError> {
    let all = read_region(repository, region, &mut |_| true)?;
    Ok((all.found.len() as u64, all.issues(region).collect()))
}

/// What a region's attestations came to.
#[derive(Default)]
struct Attestations {
    found: Vec<Found>,
    /// Names of those that can't be used, and why.
    unusable: Vec<(String, RepoError)>,
}

impl Attestations {
    fn issues(&self, region: &RegionHandle) -> impl Iterator<Item = Issue> {
        self.unusable.iter().map(|(name, error)| Issue {
            kind: IssueKind::Damaged,
            subject: format!("{}:{name}", region.name).into_bytes(),
            detail: format!("{error}; {REMEDY}"),
        })
    }
}

const REMEDY: &str = "nothing needs it: `keepstone replicate` puts it right from a region that has it whole, and an \
                      owner's `keepstone check --read-data` removes one that none has";

fn read_region(
    repository: &Repository,
    region: &RegionHandle,
    wanted: &mut dyn FnMut(&str) -> bool,
) -> Result<Attestations, RepoError> {
    let mut all = Attestations::default();
    for listed in list_sorted(&*region.store, "attest/").map_err(|e| region.error(e))? {
        let Some(digest) = listed.name.strip_prefix("attest/").and_then(Digest::from_hex) else { continue };
        if !wanted(&listed.name) {
            continue;
        }
        match read_one(repository, region, &listed.name, digest) {
            Ok(found) => all.found.push(found),
            // Merged into another one meanwhile, or of a slot that was revoked.
            Err(RepoError::Missing { .. } | RepoError::Crypto { source: CryptoError::Revoked { .. }, .. }) => {}
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(error) => all.unusable.push((listed.name, error)),
        }
    }
    Ok(all)
}

fn read_one(repository: &Repository, region: &RegionHandle, name: &str, digest: Digest) -> Result<Found, RepoError> {
    let bytes = region.get(name)?;
    let decode = |source| region.object_error(name, source);
    let signed = object::decode(ObjectKind::Attestation, repository.config.repository, &bytes).map_err(decode)?;
    if signed.digest != digest {
        return Err(decode(DecodeError::new("OBJ-10", format!("its bytes are those of {}", signed.digest))));
    }
    repository.verify_slot(&signed, &ATTESTERS).map_err(|source| region.crypto_error(name, source))?;
    let listings = Attestation::decode(signed.envelope.payload).map_err(decode)?.listings;
    Ok(Found { name: name.to_owned(), signer: signed.envelope.signer, listings })
}

/// Vouches for listings that were verified (`ATTEST-4`), in every reached region that doesn't say so yet and has
/// room for it, and removes what is damaged in every region that holds it. Gives how many nobody vouched for before.
///
/// # Errors
/// When this slot is no owner's, or a region fails.
pub fn publish(repository: &Repository, verified: &[Digest]) -> Result<u64, RepoError> {
    repository.require(&ATTESTERS, "attest packs")?;
    let mut regions = Vec::new();
    for region in &repository.regions {
        // What can't be read vouches for nothing, and is attested anew.
        regions.push(read_region(repository, region, &mut |_| true)?);
    }
    let found = regions.iter().flat_map(|all| &all.found);
    let known: BTreeSet<Digest> = found.clone().flat_map(|found| &found.listings).copied().collect();
    let whole: HashSet<&str> = found.map(|found| found.name.as_str()).collect();
    let mut all: BTreeSet<Digest> = verified.iter().copied().collect();
    let fresh = all.iter().filter(|listing| !known.contains(listing)).count() as u64;
    all.extend(known);
    let mut no_room = NoRoom::new();
    if fresh > 0 {
        no_room = record_where_room(repository, &Act::new(Action::Attest).figure("packs", fresh))?.no_room;
    }
    let attested_at = repository.clock.now_ns();
    let with_room = repository.regions.iter().zip(&regions).enumerate().filter(|(at, _)| !no_room.contains_key(at));
    'regions: for (_, (region, Attestations { found, unusable })) in with_room {
        let here: HashSet<Digest> = found.iter().flat_map(|found| &found.listings).copied().collect();
        let mut lacking: BTreeSet<Digest> = all.iter().filter(|listing| !here.contains(listing)).copied().collect();
        let own: Vec<&Found> = found.iter().filter(|found| found.signer == repository.secrets.slot).collect();
        let merge = !lacking.is_empty() && own.len() >= MERGED_FROM;
        if merge {
            lacking.extend(own.iter().flat_map(|found| &found.listings));
        }
        let lacking: Vec<Digest> = lacking.into_iter().collect();
        for part in lacking.chunks(ATTESTED_LISTINGS_MAX) {
            let attestation = Attestation { listings: part.to_vec(), attested_at };
            let signer = repository.signer();
            let repository = repository.config.repository;
            let (bytes, digest) = build_signed(ObjectKind::Attestation, repository, &signer, &attestation.encode());
            match put_with_retries(&*region.store, &format!("attest/{digest}"), &bytes.into()) {
                Ok(()) => {}
                // It doesn't vouch for these: what others say is believed, too, and the next check says it here.
                Err(error) if error.kind == StoreErrorKind::Full => {
                    tracing::warn!(region = region.name, %error, "no room for an attestation");
                    continue 'regions;
                }
                Err(error) => return Err(region.error(error)),
            }
        }
        let damaged = unusable.iter().map(|(name, _)| name).filter(|name| !whole.contains(name.as_str()));
        let mut gone: Vec<&String> = own.iter().filter(|_| merge).map(|old| &old.name).collect();
        for name in damaged {
            // What is whole and forged was written by somebody: that stays to be seen.
            if region.is_damaged(name)? {
                gone.push(name);
            }
        }
        for name in gone {
            match region.store.delete(name) {
                Err(error) if error.kind != StoreErrorKind::Denied => return Err(region.error(error)),
                // One that may not be deleted costs a read each time, no more.
                _ => {}
            }
        }
    }
    Ok(fresh)
}

/// Copies to a region every attestation that counts in another.
///
/// # Errors
/// When a region can't be listed, read or written.
pub(super) fn level(repository: &Repository, at: usize) -> Result<(), RepoError> {
    let to = &repository.regions[at];
    let listed = list_sorted(&*to.store, "attest/").map_err(|e| to.error(e))?;
    let mut there: BTreeSet<String> = listed.into_iter().map(|listed| listed.name).collect();
    for (_, from) in repository.regions.iter().enumerate().filter(|(other, _)| *other != at) {
        for found in read_region(repository, from, &mut |name| !there.contains(name))?.found {
            let bytes = from.get(&found.name)?;
            // The name is the digest: another read than the one that was verified may give other bytes.
            if object::check_digest(&bytes).is_ok_and(|digest| found.name == format!("attest/{digest}")) {
                put_with_retries(&*to.store, &found.name, &bytes.into()).map_err(|e| to.error(e))?;
                there.insert(found.name);
            }
        }
    }
    Ok(())
}

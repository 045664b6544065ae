//! The audit chains: who was about to destroy or grant what, and why. Page: `format-spec/audit.md`.
//!
//! Guarantees: [`record`] returns only when the entry is durable in every reached region, [`record_where_room`] when
//! it is in every one that has room for it, so that who calls them **before** the act, and acts only there, leaves no
//! act unrecorded; a chain's entries name those that they follow, so that none can be taken out of its middle
//! unnoticed. Called by whatever forgets, collects or changes keys.

use super::RepoError;
use super::open::{RegionHandle, Repository, WRITERS};
use crate::crypto::keyring::Keyring;
use crate::crypto::object::{self, Signer};
use crate::crypto::{CryptoError, sign};
use crate::env::{Clock, Random};
use crate::format::audit::{Action, AuditEntry, PREVIOUS_MAX, REASON_BYTES_MAX};
use crate::format::envelope::{ObjectKind, SignedObject};
use crate::format::ids::{Digest, SlotId, number_from_name, number_name};
use crate::format::roster::SlotState;
use crate::format::wire::DecodeError;
use crate::limits::AUDIT_SUBJECTS_MAX;
use crate::ship::put_with_retries;
use crate::store::{StoreError, StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};

/// How often a number is tried that other processes of the same slot take first.
const RACES_MAX: usize = 256;

/// What is about to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    action: Action,
    subjects: BTreeSet<Vec<u8>>,
    figures: BTreeMap<String, u64>,
    reason: String,
}

impl Act {
    /// An act without subjects, figures and reason.
    pub fn new(action: Action) -> Self {
        Act { action, subjects: BTreeSet::new(), figures: BTreeMap::new(), reason: String::new() }
    }

    /// To this: an identifier's bytes, of the kind that [`Action`] says. Any number of them.
    pub fn on(mut self, subject: &[u8]) -> Self {
        self.subjects.insert(subject.to_vec());
        self
    }

    /// With this number beside it, such as `packs-deleted`.
    pub fn figure(mut self, name: &str, value: u64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }

    /// For this reason, at most 4096 bytes.
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = reason.to_owned();
        self
    }
}

/// Regions that have no room for what was to be put there, by index, and what each said: they are treated like
/// regions that weren't reached, and levelled by a later run.
pub type NoRoom = BTreeMap<usize, StoreError>;

/// Where an act is recorded.
#[derive(Debug)]
#[must_use = "the act must not be done where it isn't recorded"]
pub struct Recording {
    /// The entry's number; of an act with more subjects than an entry holds, that of the last.
    pub number: u64,
    /// Where it is not: there the act must not be done.
    pub no_room: NoRoom,
}

impl Recording {
    /// # Errors
    /// What this region said, if it had no room.
    pub fn require(mut self, repository: &Repository, region: &RegionHandle) -> Result<Self, RepoError> {
        let at = repository.regions.iter().position(|other| other.info.region == region.info.region);
        match at.and_then(|at| self.no_room.remove(&at)) {
            None => Ok(self),
            Some(error) => Err(region.error(error)),
        }
    }
}

/// Records an act in the chain of the slot that opened the repository, in every reached region, and returns
/// once it is durable there. Call it **before** the act, and don't act when it fails. Gives the entry's
/// number; of an act with more subjects than an entry holds, that of the last.
///
/// # Errors
/// When a reached region can't be listed or written: then the act must not be done.
pub fn record(repository: &Repository, act: &Act) -> Result<u64, RepoError> {
    let mut recording = record_where_room(repository, act)?;
    match recording.no_room.pop_first() {
        None => Ok(recording.number),
        Some((at, error)) => Err(repository.regions[at].error(error)),
    }
}

/// As [`record`], but a region that is full is left out: act in the others only.
///
/// # Errors
/// When no region has room, or one can't be listed or written for another reason: then the act must not be done.
pub fn record_where_room(repository: &Repository, act: &Act) -> Result<Recording, RepoError> {
    if act.reason.len() > REASON_BYTES_MAX {
        return Err(RepoError::Audit(format!("a reason has at most {REASON_BYTES_MAX} bytes")));
    }
    let slot = repository.secrets.slot;
    let label = repository.roster.slot(slot).map_or_else(String::new, |entry| entry.label.clone());
    let subjects: Vec<Vec<u8>> = act.subjects.iter().cloned().collect();
    let mut parts: Vec<&[Vec<u8>]> = subjects.chunks(AUDIT_SUBJECTS_MAX).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let mut recording = Recording { number: 0, no_room: NoRoom::new() };
    for part in parts {
        let entry = AuditEntry {
            slot,
            number: 0,
            previous: Vec::new(),
            label: label.clone(),
            host: repository.host.clone(),
            recorded_at: repository.clock.now_ns(),
            action: act.action,
            subjects: part.to_vec(),
            figures: act.figures.iter().map(|(name, value)| (name.clone(), *value)).collect(),
            reason: act.reason.clone(),
        };
        recording.number = append(repository, entry, &mut recording.no_room)?;
    }
    Ok(recording)
}

/// Leaves a region out that refused for want of room; any other failure, or that of the last region, stays one.
fn leave_out(
    repository: &Repository,
    regions: &mut Vec<usize>,
    at: usize,
    error: RepoError,
    no_room: &mut NoRoom,
) -> Result<(), RepoError> {
    match error {
        RepoError::Store { source, .. } if source.kind == StoreErrorKind::Full && regions.len() > 1 => {
            let region = &repository.regions[at].name;
            tracing::warn!(region, error = %source, "no room for an audit entry: what it tells of isn't done there");
            regions.retain(|other| *other != at);
            no_room.insert(at, source);
            Ok(())
        }
        error => Err(error),
    }
}

/// Puts an entry behind everything that the reached regions hold of its chain (`AUDIT-5`, `AUDIT-6`).
fn append(repository: &Repository, mut entry: AuditEntry, no_room: &mut NoRoom) -> Result<u64, RepoError> {
    let mut regions: Vec<usize> = (0..repository.regions.len()).filter(|at| !no_room.contains_key(at)).collect();
    // One order for all processes: two of one slot that reach a common region meet there first.
    regions.sort_by_key(|at| repository.regions[*at].info.region);
    for _ in 0..RACES_MAX {
        let ends = bring_together(repository, &mut regions, entry.slot, no_room)?;
        entry.number = ends.next;
        entry.previous = ends.digests;
        let (bytes, digest) = object::build_sealed(
            ObjectKind::Audit,
            &repository.keyring,
            &repository.signer(),
            entry.encode(),
            &*repository.random,
        )?;
        let mut lost = false;
        // They meet at the first that has room.
        let mut first = true;
        for at in regions.clone() {
            let strictly = first && !ends.obstructed;
            match put(&repository.regions[at], entry.slot, entry.number, &digest, &bytes, strictly) {
                Ok(true) => first = false,
                // Something stands there that can't be replaced: sealed anew, the entry has another name.
                Ok(false) => lost = true,
                Err(error) if strictly && is_taken(&error) => lost = true,
                Err(error) => leave_out(repository, &mut regions, at, error, no_room)?,
            }
            if lost {
                break;
            }
        }
        if !lost {
            return Ok(entry.number);
        }
    }
    Err(RepoError::Audit(format!("{RACES_MAX} other entries of slot {} came first; try again", entry.slot)))
}

fn is_taken(error: &RepoError) -> bool {
    matches!(error, RepoError::Store { source, .. } if source.kind == StoreErrorKind::AlreadyExists)
}

/// Puts an entry into a region. A number that another entry has there is an error if `strictly`, else the
/// entry goes beside it (`AUDIT-9`). What has that name, which states the digest, and other bytes is no entry, and is
/// replaced; false where that is denied.
fn put(
    region: &RegionHandle,
    slot: SlotId,
    number: u64,
    digest: &Digest,
    bytes: &[u8],
    strictly: bool,
) -> Result<bool, RepoError> {
    let name = name_where(region.info.put_if_absent, slot, number, digest);
    let taken = match put_with_retries(&*region.store, &name, &bytes.to_vec().into()) {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists && !strictly => error,
        put => return put.map(|()| true).map_err(|e| region.error(e)),
    };
    let beside = name_where(false, slot, number, digest);
    match put_with_retries(&*region.store, &beside, &bytes.to_vec().into()) {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
        put => return put.map(|()| true).map_err(|e| region.error(e)),
    }
    match region.store.heal(&beside, &bytes.to_vec().into()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::Denied => {
            tracing::warn!(region = region.name, error = %taken, "what is no audit entry stands in an entry's place");
            Ok(false)
        }
        Err(error) => Err(region.error(error)),
    }
}

/// An entry's name in a store that puts only if absent, or in one that doesn't: that would overwrite, so
/// there every entry has its digest in its name.
pub(super) fn name_where(put_if_absent: bool, slot: SlotId, number: u64, digest: &Digest) -> String {
    match put_if_absent {
        true => entry_name(slot, number),
        false => format!("{}-{digest}", entry_name(slot, number)),
    }
}

/// The object's name of an entry, without the digest that a branch's has.
pub fn entry_name(slot: SlotId, number: u64) -> String {
    format!("audit/{slot}/{}", number_name(number))
}

/// What [`entry_name`] was given, with the digest behind it if there is one.
pub(crate) fn parse_entry_name(name: &str) -> Option<(SlotId, u64, Option<Digest>)> {
    let (slot, rest) = name.strip_prefix("audit/")?.split_once('/')?;
    let (number, digest) = match rest.split_once('-') {
        Some((number, digest)) => (number, Some(Digest::from_hex(digest)?)),
        None => (rest, None),
    };
    Some((SlotId::from_hex(slot)?, number_from_name(number)?, digest))
}

/// Where a chain goes on.
struct Ends {
    /// The next number.
    next: u64,
    /// The entries that no other follows.
    digests: Vec<Digest>,
    /// Something that is no entry of the chain has the next number in some region already.
    obstructed: bool,
}

/// Reads what the regions hold of a slot's chain, from the end of the shortest or the first branch on, copies
/// to each what it lacks of that, and gives the chain's ends. What is damaged is no reason not to record: the
/// chain goes on beside it, and [`read`] reports it. A region without room for that is left out.
fn bring_together(
    repository: &Repository,
    regions: &mut Vec<usize>,
    slot: SlotId,
    no_room: &mut NoRoom,
) -> Result<Ends, RepoError> {
    type Copy = (AuditEntry, Vec<u8>, BTreeSet<usize>);
    let mut read: BTreeMap<(u64, Digest), Copy> = BTreeMap::new();
    let mut unread: Vec<Vec<(u64, String)>> = Vec::new();
    let mut take = |at: usize, name: &str| match read_entry(repository, &repository.regions[at], name) {
        Ok((entry, digest, bytes, _)) => {
            let number = entry.number;
            let found = read.entry((number, digest)).or_insert_with(|| (entry, bytes, BTreeSet::new()));
            found.2.insert(at);
            Ok(Some(number))
        }
        Err(error @ RepoError::Store { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "an audit entry can't be used; the chain goes on beside it");
            Ok(None)
        }
    };
    let mut names = BTreeSet::new();
    let mut shared = u64::MAX;
    for at in regions.iter().copied() {
        let region = &repository.regions[at];
        let listed = list_sorted(&*region.store, &format!("audit/{slot}/")).map_err(|e| region.error(e))?;
        let mut own: Vec<(u64, String)> = listed
            .into_iter()
            .filter_map(|listed| parse_entry_name(&listed.name).map(|(_, number, _)| (number, listed.name)))
            .collect();
        names.extend(own.iter().map(|(number, _)| *number));
        // Two names of one number: a branch was brought here, and whether an entry follows it must be seen.
        let branched = own.windows(2).find(|pair| pair[0].0 == pair[1].0);
        shared = shared.min(branched.map_or(u64::MAX, |pair| pair[0].0));
        // Numbers in names prove nothing: the end is the last entry that can be read.
        let mut end = 0;
        while let Some((_, name)) = own.pop() {
            if let Some(number) = take(at, &name)? {
                end = number;
                break;
            }
        }
        shared = shared.min(end);
        unread.push(own);
    }
    // What comes before the end of the shortest was brought together when it was the end.
    for (at, own) in regions.iter().copied().zip(&unread) {
        for (_, name) in own.iter().filter(|(number, _)| *number >= shared) {
            take(at, name)?;
        }
    }
    let followed: BTreeSet<Digest> = read.values().flat_map(|(entry, ..)| entry.previous.iter().copied()).collect();
    for ((number, digest), (_, bytes, holders)) in &read {
        for at in regions.clone().into_iter().filter(|at| !holders.contains(at)) {
            // What can't be put because junk stands there is passed by: it must not keep anybody from revoking a key.
            if let Err(error) = put(&repository.regions[at], slot, *number, digest, bytes, false) {
                leave_out(repository, regions, at, error, no_room)?;
            }
        }
    }
    let mut digests: Vec<Digest> =
        read.keys().map(|(_, digest)| *digest).filter(|digest| !followed.contains(digest)).collect();
    digests.sort_unstable();
    digests.truncate(PREVIOUS_MAX);
    let highest = read.keys().next_back().map_or(0, |(number, _)| *number);
    let next = highest
        .checked_add(1)
        .ok_or_else(|| RepoError::Audit(format!("the chain of slot {slot} has no number left")))?;
    Ok(Ends { next, digests, obstructed: names.contains(&next) })
}

/// Reads an entry and checks that it is the one its name says, signed by its slot. Gives it with its digest,
/// its bytes, and whether the slot was revoked since: what that slot recorded before stays recorded
/// (`AUDIT-4`).
fn read_entry(
    repository: &Repository,
    region: &RegionHandle,
    name: &str,
) -> Result<(AuditEntry, Digest, Vec<u8>, bool), RepoError> {
    let decode = |source| region.object_error(name, source);
    let misnamed = |detail: String| decode(DecodeError::new("OBJ-10", detail));
    let (slot, number, stated) =
        parse_entry_name(name).ok_or_else(|| decode(DecodeError::new("NAME-1", "this names no audit entry")))?;
    let bytes = region.get(name)?;
    let signed = object::decode(ObjectKind::Audit, repository.config.repository, &bytes).map_err(decode)?;
    let digest = signed.digest;
    if stated.is_some_and(|stated| stated != digest) {
        return Err(misnamed(format!("its bytes are those of {digest}")));
    }
    if signed.envelope.signer != slot {
        let detail = format!("slot {} signed it, and it is in the chain of slot {slot}", signed.envelope.signer);
        return Err(decode(DecodeError::new("AUDIT-4", detail)));
    }
    let revoked = verify(repository, &signed).map_err(|source| region.crypto_error(name, source))?;
    let payload =
        object::open_payload(&repository.keyring, &signed).map_err(|source| region.crypto_error(name, source))?;
    let entry = AuditEntry::decode(&payload).map_err(decode)?;
    if entry.slot != slot || entry.number != number {
        return Err(misnamed(format!("it is entry {} of slot {}", entry.number, entry.slot)));
    }
    Ok((entry, digest, bytes, revoked))
}

/// As [`Repository::verify_slot`], whatever became of the slot: gives whether it was revoked.
fn verify(repository: &Repository, signed: &SignedObject<'_>) -> Result<bool, CryptoError> {
    let slot = signed.envelope.signer;
    let revoked = repository.roster.slot(slot).filter(|entry| entry.state == SlotState::Revoked);
    let Some(entry) = revoked else {
        return repository.verify_slot(signed, &WRITERS).map(|()| false);
    };
    let signer = format!("slot {slot} ({})", entry.label);
    sign::verify(&entry.signing_public, signed.signed_part, &signed.signature, "audit entry", &signer)?;
    Ok(true)
}

/// An entry with where it was found.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What it says.
    pub entry: AuditEntry,
    /// Its digest: what the next entry names.
    pub digest: Digest,
    /// Its slot was revoked since: who held its key then can have written it at any time.
    pub revoked: bool,
    /// Indices into the repository's regions that hold it.
    pub regions: Vec<usize>,
}

/// What is odd in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// An object that breaks a rule, isn't signed as it must be, or can't be opened.
    Damaged,
    /// An entry that must be there is absent, in all regions (`AUDIT-7`) or in one that holds later ones (`AUDIT-9`).
    Gap,
    /// Two branches that no later entry follows both of (`AUDIT-8`).
    Fork,
    /// Two branches, both followed by a later entry: what one slot recorded in regions that it didn't reach
    /// at the same time.
    Joined,
    /// A region lacks entries at a chain's end that another has (`AUDIT-9`).
    Behind,
    /// Something was done that its signer's chain doesn't tell of (`AUDIT-10`).
    Unrecorded,
}

impl FindingKind {
    /// The kind's name in output.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Damaged => "damaged",
            FindingKind::Gap => "gap",
            FindingKind::Fork => "fork",
            FindingKind::Joined => "joined-fork",
            FindingKind::Behind => "behind",
            FindingKind::Unrecorded => "unrecorded",
        }
    }

    /// True when a chain isn't what it must be; the rest is worth a word, and mends by itself.
    pub fn breaks(self) -> bool {
        !matches!(self, FindingKind::Joined | FindingKind::Behind)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// In whose chain; `None` for an object whose name doesn't say.
    pub slot: Option<SlotId>,
    /// At which entry.
    pub number: u64,
    /// For a person.
    pub detail: String,
}

/// All chains, as the reached regions hold them together.
#[derive(Debug, Default)]
pub struct Chains {
    /// Every entry, in an order that keeps each chain's own and otherwise follows the clocks.
    pub timeline: Vec<Recorded>,
    /// What is odd, by slot and number.
    pub findings: Vec<Finding>,
    /// Objects whose bytes aren't what they were: the region's index into the repository's, and the name.
    damaged: Vec<(usize, String)>,
}

/// Reads all chains out of all reached regions and examines them.
///
/// # Errors
/// When a region can't be listed or read. What single objects say becomes a finding.
pub fn read(repository: &Repository) -> Result<Chains, RepoError> {
    let mut chains: BTreeMap<SlotId, BTreeMap<(u64, Digest), Recorded>> = BTreeMap::new();
    let (mut findings, mut damaged) = (Vec::new(), Vec::new());
    for (at, region) in repository.regions.iter().enumerate() {
        for listed in list_sorted(&*region.store, "audit/").map_err(|e| region.error(e))? {
            match read_entry(repository, region, &listed.name) {
                Ok((entry, digest, _, revoked)) => {
                    let chain = chains.entry(entry.slot).or_default();
                    let recorded = chain.entry((entry.number, digest)).or_insert_with(|| Recorded {
                        entry,
                        digest,
                        revoked,
                        regions: Vec::new(),
                    });
                    if !recorded.regions.contains(&at) {
                        recorded.regions.push(at);
                    }
                }
                Err(error @ (RepoError::Missing { .. } | RepoError::Object { .. } | RepoError::Crypto { .. })) => {
                    let named = parse_entry_name(&listed.name);
                    if region.is_damaged(&listed.name)? {
                        damaged.push((at, listed.name));
                    }
                    findings.push(Finding {
                        kind: FindingKind::Damaged,
                        slot: named.map(|(slot, ..)| slot),
                        number: named.map_or(0, |(_, number, _)| number),
                        detail: error.to_string(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
    for (slot, chain) in &chains {
        examine(*slot, chain, &mut findings);
        for (at, region) in repository.regions.iter().enumerate() {
            compare(*slot, chain, at, &region.name, &mut findings);
        }
    }
    findings.sort_by_key(|finding| (finding.slot, finding.number, finding.kind));
    Ok(Chains { timeline: timeline(chains), findings, damaged })
}

/// What a region lacks of a chain that another one holds (`AUDIT-9`): it is behind where that is the chain's end, and
/// has lost what an entry follows that it holds.
fn compare(
    slot: SlotId,
    chain: &BTreeMap<(u64, Digest), Recorded>,
    at: usize,
    region: &str,
    findings: &mut Vec<Finding>,
) {
    let mut found = |kind, number, detail| findings.push(Finding { kind, slot: Some(slot), number, detail });
    let (mut followed, mut behind, mut first): (BTreeSet<Digest>, usize, u64) = (BTreeSet::new(), 0, 0);
    for ((number, digest), recorded) in chain.iter().rev() {
        let is_here = recorded.regions.contains(&at);
        let is_followed = followed.contains(digest);
        if is_here || is_followed {
            followed.extend(recorded.entry.previous.iter().copied());
        }
        if is_followed && !is_here {
            let detail = format!(
                "region '{region}' lacks entry {number} ({digest}), though it holds later ones; `keepstone replicate` \
                 copies it there from another region"
            );
            found(FindingKind::Gap, *number, detail);
        } else if !is_here {
            (behind, first) = (behind + 1, *number);
        }
    }
    if behind > 0 {
        let detail = format!("region '{region}' lacks {behind} of {} entries", chain.len());
        found(FindingKind::Behind, first, detail);
    }
}

/// Whether a chain is one: `AUDIT-7` and `AUDIT-8`.
fn examine(slot: SlotId, chain: &BTreeMap<(u64, Digest), Recorded>, findings: &mut Vec<Finding>) {
    let mut found = |kind, number, detail: String| {
        findings.push(Finding { kind, slot: Some(slot), number, detail });
    };
    let numbers: BTreeMap<Digest, u64> = chain.keys().map(|(number, digest)| (*digest, *number)).collect();
    let mut followed: BTreeSet<Digest> = BTreeSet::new();
    let mut expected = 1;
    for (number, _) in chain.keys() {
        if *number > expected {
            let missing = if *number == expected + 1 {
                format!("entry {expected} is missing")
            } else {
                format!("entries {expected} to {} are missing", number - 1)
            };
            found(FindingKind::Gap, expected, missing);
        }
        expected = expected.max(number + 1);
    }
    for ((number, digest), recorded) in chain {
        let previous = &recorded.entry.previous;
        followed.extend(previous.iter().copied());
        for wanted in previous {
            match numbers.get(wanted) {
                None => {
                    let detail = format!("entry {number} ({digest}) follows {wanted}, which no reached region holds");
                    found(FindingKind::Gap, *number, detail);
                }
                Some(other) if other >= number => {
                    let detail = format!("entry {number} ({digest}) says that it follows entry {other}");
                    found(FindingKind::Damaged, *number, detail);
                }
                Some(_) => {}
            }
        }
        let follows = previous.iter().filter_map(|wanted| numbers.get(wanted)).max().copied();
        if *number > 1 && previous.is_empty() || follows.is_some_and(|follows| follows + 1 != *number) {
            let detail = format!("entry {number} ({digest}) doesn't say which entry {} it follows", number - 1);
            found(FindingKind::Gap, *number, detail);
        }
    }
    let ends: Vec<&(u64, Digest)> = chain.keys().filter(|(_, digest)| !followed.contains(digest)).collect();
    let mut forked: Option<(u64, usize)> = None;
    let mut forks = Vec::new();
    for (number, _) in chain.keys() {
        match &mut forked {
            Some((known, count)) if known == number => *count += 1,
            _ => {
                forks.extend(forked.filter(|(_, count)| *count > 1));
                forked = Some((*number, 1));
            }
        }
    }
    forks.extend(forked.filter(|(_, count)| *count > 1));
    if ends.len() > 1 {
        let list = ends.iter().map(|(number, digest)| format!("{number} ({digest})")).collect::<Vec<_>>().join(", ");
        found(FindingKind::Fork, ends[0].0, format!("the chain has {} ends: entries {list}", ends.len()));
    }
    for (number, count) in forks {
        let (kind, more) = match ends.len() > 1 {
            true => (FindingKind::Fork, "and no later entry follows all of them"),
            false => (FindingKind::Joined, "joined by a later entry"),
        };
        found(kind, number, format!("there are {count} entries {number}, {more}"));
    }
}

/// Merges chains by their clocks; no entry comes before one of its own chain that has a lower number.
fn timeline(chains: BTreeMap<SlotId, BTreeMap<(u64, Digest), Recorded>>) -> Vec<Recorded> {
    let mut keyed = Vec::new();
    for chain in chains.into_values() {
        let mut not_before = i64::MIN;
        for recorded in chain.into_values() {
            not_before = not_before.max(recorded.entry.recorded_at);
            keyed.push((not_before, recorded));
        }
    }
    // Stable, so that a chain's entries of one moment stay in order.
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, recorded)| recorded).collect()
}

/// What bringing chains together came to.
#[derive(Debug, Default)]
pub struct Merged {
    /// Entries copied to a region that lacked them.
    pub copied: u64,
    /// Entries that were damaged in a region and are right again there.
    pub healed: u64,
    /// Regions that have no room, with what they said.
    pub no_room: NoRoom,
}

/// Copies every entry to every reached region that lacks it and has room, and gives damaged ones their bytes again
/// (`AUDIT-9`).
///
/// # Errors
/// When a region can't be listed, read or written. A damaged entry stays where no region holds it whole, or more than
/// one that it may have been, and where the access allows no replacing.
pub fn merge(repository: &Repository) -> Result<Merged, RepoError> {
    let mut merged = Merged::default();
    let chains = read(repository)?;
    // What each damaged object is to be, by the digest in its name or as the only entry of its number.
    let mut wanted: BTreeMap<(SlotId, u64), Vec<&Recorded>> = BTreeMap::new();
    for recorded in &chains.timeline {
        wanted.entry((recorded.entry.slot, recorded.entry.number)).or_default().push(recorded);
    }
    for (at, name) in &chains.damaged {
        let Some((slot, number, stated)) = parse_entry_name(name) else { continue };
        let entries = wanted.get(&(slot, number)).map_or(&[][..], Vec::as_slice);
        let mut fitting = entries.iter().filter(|recorded| stated.is_none_or(|digest| digest == recorded.digest));
        let (Some(only), None) = (fitting.next(), fitting.next()) else { continue };
        let Some(bytes) = whole_bytes(repository, only)? else { continue };
        let region = &repository.regions[*at];
        // It may be what is left of an entry that no region has whole: then it stays, and is told.
        let is_of_it = |left: &[u8]| left.ends_with(&only.digest.0) || bytes.starts_with(left);
        if stated.is_none() && !region.get(name).is_ok_and(|left| is_of_it(&left)) {
            continue;
        }
        match region.store.heal(name, &bytes.into()) {
            Ok(()) => merged.healed += 1,
            Err(error) if error.kind == StoreErrorKind::Denied => {}
            Err(error) if error.kind == StoreErrorKind::Full => drop(merged.no_room.insert(*at, error)),
            Err(error) => return Err(region.error(error)),
        }
    }
    for recorded in &chains.timeline {
        let (slot, number, digest) = (recorded.entry.slot, recorded.entry.number, recorded.digest);
        let is_lacking = |at: &usize| !recorded.regions.contains(at) && !merged.no_room.contains_key(at);
        let lacking: Vec<usize> = (0..repository.regions.len()).filter(is_lacking).collect();
        if lacking.is_empty() {
            continue;
        }
        let Some(bytes) = whole_bytes(repository, recorded)? else { continue };
        for at in lacking {
            let to = &repository.regions[at];
            // Put right just now.
            let plain = entry_name(slot, number);
            if chains.damaged.contains(&(at, plain.clone())) && to.get(&plain).is_ok_and(|found| found == bytes) {
                continue;
            }
            match put(to, slot, number, &digest, &bytes, false) {
                Ok(true) => merged.copied += 1,
                Ok(false) => {}
                Err(RepoError::Store { source, .. }) if source.kind == StoreErrorKind::Full => {
                    merged.no_room.insert(at, source);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(merged)
}

/// An entry's bytes, from a region that holds it: under one of its two names it is there, and its bytes say which.
fn whole_bytes(repository: &Repository, recorded: &Recorded) -> Result<Option<Vec<u8>>, RepoError> {
    let plain = entry_name(recorded.entry.slot, recorded.entry.number);
    let beside = format!("{plain}-{}", recorded.digest);
    let Some(from) = recorded.regions.first().map(|at| &repository.regions[*at]) else { return Ok(None) };
    for name in [plain, beside] {
        match read_entry(repository, from, &name) {
            Ok((_, found, bytes, _)) if found == recorded.digest => return Ok(Some(bytes)),
            Ok(_) | Err(RepoError::Missing { .. } | RepoError::Object { .. } | RepoError::Crypto { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The first entry of a repository's first chain: who made it. Gives its bytes and digest.
///
/// # Errors
/// When the ring can't seal, which a fresh one can.
pub(super) fn first_entry(
    keyring: &Keyring,
    signer: &Signer<'_>,
    label: &str,
    host: &str,
    regions: usize,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<(Vec<u8>, Digest), RepoError> {
    let entry = AuditEntry {
        slot: signer.slot,
        number: 1,
        previous: Vec::new(),
        label: label.to_owned(),
        host: host.to_owned(),
        recorded_at: clock.now_ns(),
        action: Action::Init,
        subjects: vec![signer.slot.0.to_vec()],
        figures: vec![("regions".to_owned(), regions as u64)],
        reason: String::new(),
    };
    Ok(object::build_sealed(ObjectKind::Audit, keyring, signer, entry.encode(), random)?)
}

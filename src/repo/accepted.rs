//! What stays valid of revoked slots: reading the lists that the roster names, and deciding, at a
//! revocation, what goes on one. Page: `format-spec/keys.md`.
//!
//! Guarantees: of a revoked slot nothing counts but what a list names by digest; a list that can't be read
//! is never taken for an empty one (`ACCEPT-4`).

use super::RepoError;
use super::open::{RegionHandle, RegionSpec, Repository, read_root_signed};
use crate::crypto::object;
use crate::format::accepted::{Accepted, accepted_name};
use crate::format::config::Config;
use crate::format::envelope::{ObjectKind, SignedObject};
use crate::format::ids::{Digest, SlotId, SnapshotId};
use crate::format::roster::{AcceptedParts, Roster, SlotState};
use crate::format::session::Commit;
use crate::format::snapshot::Snapshot;
use crate::format::verdict::Verdict;
use crate::format::wire::DecodeError;
use crate::limits::SEGMENT_BYTES_MAX;
use crate::report::{Issue, IssueKind, Monitor, Silent};
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The lists of all revoked slots.
#[derive(Clone, Debug, Default)]
pub struct AcceptedObjects {
    /// Digests by slot, ascending.
    lists: BTreeMap<SlotId, Vec<Digest>>,
    /// Slots with a part that can't be read, and why.
    unreadable: BTreeMap<SlotId, String>,
}

impl AcceptedObjects {
    /// Reads the lists that a roster names, each part from whichever region has it whole.
    pub(super) fn read(regions: &[RegionHandle], config: &Config, roster: &Roster) -> Self {
        let mut accepted = AcceptedObjects::default();
        for parts in &roster.accepted {
            let mut digests = Vec::new();
            for number in parts.numbers() {
                match read_part(regions, config, parts, number) {
                    Ok((part, _)) => digests.extend(part.digests),
                    Err(error) => {
                        accepted.unreadable.entry(parts.slot).or_insert_with(|| error.to_string());
                    }
                }
            }
            digests.sort_unstable();
            digests.dedup();
            accepted.lists.insert(parts.slot, digests);
        }
        accepted
    }

    /// Whether an object of a revoked slot counts all the same.
    ///
    /// # Errors
    /// `ACCEPT-4` when it is on no list that could be read, and one could not.
    pub fn contains(&self, slot: SlotId, digest: &Digest) -> Result<bool, DecodeError> {
        if self.lists.get(&slot).is_some_and(|digests| digests.binary_search(digest).is_ok()) {
            return Ok(true);
        }
        match self.unreadable.get(&slot) {
            None => Ok(false),
            Some(why) => {
                let detail = format!("slot {slot} was revoked, and what stays accepted of it can't be read: {why}");
                Err(DecodeError::new("ACCEPT-4", detail))
            }
        }
    }

    /// The digests of a slot's list, ascending.
    ///
    /// # Errors
    /// `ACCEPT-4` when a part of it can't be read.
    pub(super) fn whole(&self, slot: SlotId) -> Result<&[Digest], DecodeError> {
        match self.unreadable.get(&slot) {
            None => Ok(self.lists.get(&slot).map_or(&[], |digests| digests)),
            Some(why) => {
                Err(DecodeError::new("ACCEPT-4", format!("what stays accepted of slot {slot} can't be read: {why}")))
            }
        }
    }
}

/// Reads a part, from the first region whose copy is what the roster states; gives the object's digest, too.
pub(crate) fn read_part(
    regions: &[RegionHandle],
    config: &Config,
    parts: &AcceptedParts,
    number: u64,
) -> Result<(Accepted, Digest), RepoError> {
    let name = accepted_name(parts.slot, number);
    let mut failure = None;
    for region in regions {
        let read = || {
            let missing = || RepoError::Missing { region: region.name.clone(), name: name.clone() };
            let found = read_root_signed(&RegionSpec::from(region), ObjectKind::Accepted, &name, Some(config))?;
            let (payload, digest) = found.ok_or_else(missing)?;
            let part = Accepted::decode(&payload).map_err(|source| region.object_error(&name, source))?;
            if part.slot != parts.slot || part.number != number {
                let detail = format!("it is part {} of slot {}", part.number, part.slot);
                return Err(region.object_error(&name, DecodeError::new("OBJ-10", detail)));
            }
            if parts.digest(number).is_some_and(|stated| stated != digest) {
                let detail = "it is another list than the roster states";
                return Err(region.object_error(&name, DecodeError::new("ACCEPT-5", detail)));
            }
            Ok((part, digest))
        };
        match read() {
            Ok(part) => return Ok(part),
            // Damage says more than absence.
            Err(error @ RepoError::Missing { .. }) => failure = failure.or(Some(error)),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or(RepoError::NoRegions))
}

/// What of a slot's objects stays accepted. Whatever is chosen, its segments, sessions, log objects and its
/// commits of other slots' snapshots do: others' snapshots rest on them, and none of them can make a false
/// chunk pass.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    /// None of its snapshots, verdicts, tags and attestations.
    pub none: bool,
    /// Of these, only those that say they were made before this time, nanoseconds since the Unix epoch. The
    /// time is the slot's own word.
    pub before: Option<i64>,
    /// None of these snapshots.
    pub except: BTreeSet<SnapshotId>,
}

impl Acceptance {
    fn takes(&self, said_at: Option<i64>) -> bool {
        !self.none && self.before.is_none_or(|before| said_at.is_none_or(|at| at < before))
    }
}

/// What a revocation decides.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// Digests of what stays accepted, ascending.
    pub digests: Vec<Digest>,
    /// How many of these there are, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How many objects of the slot don't stay, by kind.
    pub refused: BTreeMap<&'static str, u64>,
    /// Its snapshots that count no more.
    pub snapshots_refused: Vec<SnapshotId>,
    /// Objects under its name that can't be read or verified: they don't stay either.
    pub issues: Vec<Issue>,
    /// What the slot put while this was decided and carried out: it isn't on the list, so it doesn't count.
    pub late: Late,
}

/// What of a slot came while it was revoked, too late to be decided about.
#[derive(Clone, Debug, Default)]
pub struct Late {
    /// How many objects, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The snapshots among them, and those that commits among them name: these don't count where they would have.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Why it isn't known whether there is more: the revocation itself stands. Revoking again tells.
    pub unlooked: Option<String>,
}

/// Where a slot's objects are; what it recorded in its audit chain stays recorded anyway (`AUDIT-4`). What rests
/// on others comes before them: of a backup or a collection that ends meanwhile, no commit and no final stays
/// without its segments (`ACCEPT-3`).
const PREFIXES: [&str; 8] = ["commits/", "gc/", "snapshots/", "index/", "sessions/", "verdicts/", "tags/", "attest/"];

/// An object of the slot that passes every check.
struct Own {
    kind: ObjectKind,
    digest: Digest,
    /// When it says it was made, where it says so.
    said_at: Option<i64>,
    /// The snapshot that a commit names.
    names: Option<SnapshotId>,
}

/// What of a slot's objects was looked at.
#[derive(Default)]
pub(super) struct Looked {
    own: BTreeMap<Digest, Own>,
    /// Names by region; none for what is the same in every region, of which one sound copy will do.
    names: HashSet<(Option<usize>, String)>,
}

impl Looked {
    /// Reads whatever the slot has signed in every region and wasn't looked at before; gives the digests of what
    /// is new.
    ///
    /// # Errors
    /// When a region can't be listed or stops answering, or the user stops it.
    fn look(
        &mut self,
        repository: &Repository,
        slot: SlotId,
        monitor: &dyn Monitor,
        issues: &mut Vec<Issue>,
    ) -> Result<BTreeSet<Digest>, RepoError> {
        let mut new = BTreeSet::new();
        for (at, region) in repository.regions.iter().enumerate() {
            for prefix in PREFIXES {
                let shared = !matches!(prefix, "sessions/" | "commits/" | "gc/");
                for listed in list_sorted(&*region.store, prefix).map_err(|e| region.error(e))? {
                    let here = (Some(at), listed.name.clone());
                    let everywhere = (None, listed.name.clone());
                    if self.names.contains(&everywhere) || self.names.contains(&here) {
                        continue;
                    }
                    if monitor.cancelled() {
                        return Err(RepoError::Cancelled);
                    }
                    match read_own(repository, region, slot, &listed.name) {
                        Ok(object) => {
                            self.names.insert(if shared { everywhere } else { here });
                            if let Some(object) = object
                                && !self.own.contains_key(&object.digest)
                            {
                                new.insert(object.digest);
                                self.own.insert(object.digest, object);
                            }
                        }
                        Err(error @ RepoError::Store { .. }) => return Err(error),
                        Err(error) => {
                            self.names.insert(here);
                            let subject = format!("{}:{}", region.name, listed.name).into_bytes();
                            let issue = Issue { kind: IssueKind::Damaged, subject, detail: error.to_string() };
                            monitor.issue(&issue);
                            issues.push(issue);
                        }
                    }
                }
            }
        }
        Ok(new)
    }

    /// Looks again once the roster says that the slot is revoked: what is new by then came too late. What can't be
    /// read is said in the result, since the revocation stands.
    pub(super) fn again(mut self, repository: &Repository, slot: SlotId, monitor: &dyn Monitor, decided: &mut Decided) {
        match self.look(repository, slot, monitor, &mut decided.issues) {
            Err(error) => decided.late.unlooked = Some(error.to_string()),
            Ok(new) => {
                for object in new.iter().filter_map(|digest| self.own.get(digest)) {
                    *decided.late.kinds.entry(object.kind.name()).or_default() += 1;
                    let snapshot = (object.kind == ObjectKind::Snapshot).then_some(SnapshotId(object.digest.0));
                    decided.late.snapshots.extend(snapshot.or(object.names));
                }
            }
        }
    }
}

/// Reads whatever the slot has signed in every region and decides what stays. A slot that is revoked already
/// can only lose more: what it signed since must not come in.
///
/// # Errors
/// When a region can't be listed or stops answering, or the user stops it; nothing was decided then.
pub(super) fn decide(
    repository: &Repository,
    slot: SlotId,
    acceptance: &Acceptance,
    monitor: &dyn Monitor,
) -> Result<(Decided, Looked), RepoError> {
    let revoked = repository.roster.slot(slot).is_some_and(|entry| entry.state == SlotState::Revoked);
    let mut decided = Decided::default();
    let mut looked = Looked::default();
    looked.look(repository, slot, monitor, &mut decided.issues)?;
    let own = &looked.own;
    let stays_listed = |digest: &Digest| match revoked {
        true => repository.accepted.contains(slot, digest).map_err(|source| RepoError::Key(source.into())),
        false => Ok(true),
    };
    let excepted = |id: &SnapshotId| acceptance.except.contains(id);
    let mut refused_snapshots = BTreeSet::new();
    for object in own.values().filter(|object| object.kind == ObjectKind::Snapshot) {
        let id = SnapshotId(object.digest.0);
        if !acceptance.takes(object.said_at) || excepted(&id) || !stays_listed(&object.digest)? {
            refused_snapshots.insert(id);
        }
    }
    for (digest, object) in own {
        let chosen = match object.kind {
            ObjectKind::Snapshot => !refused_snapshots.contains(&SnapshotId(digest.0)),
            ObjectKind::Commit => !object.names.is_some_and(|id| refused_snapshots.contains(&id) || excepted(&id)),
            ObjectKind::Verdict | ObjectKind::Tags | ObjectKind::Attestation => acceptance.takes(object.said_at),
            _ => true,
        };
        let stays = chosen && stays_listed(digest)?;
        *if stays { &mut decided.kinds } else { &mut decided.refused }.entry(object.kind.name()).or_default() += 1;
        if stays {
            decided.digests.push(*digest);
        }
    }
    decided.snapshots_refused = refused_snapshots.into_iter().collect();
    Ok((decided, looked))
}

/// What stays of a slot that several revoked, each by the list that it decided: of what others rest on whatever
/// any of them holds, since each saw the regions that it knew; of the rest what all of them hold.
///
/// # Errors
/// When a region can't be listed or read.
pub(super) fn merge(repository: &Repository, slot: SlotId, lists: &[Vec<Digest>]) -> Result<Vec<Digest>, RepoError> {
    let any: BTreeSet<Digest> = lists.iter().flatten().copied().collect();
    let in_all = |digest: &Digest| lists.iter().all(|list| list.binary_search(digest).is_ok());
    let (mut stays, undecided): (Vec<Digest>, Vec<Digest>) = any.into_iter().partition(in_all);
    if !undecided.is_empty() {
        let mut looked = Looked::default();
        looked.look(repository, slot, &Silent, &mut Vec::new())?;
        let own = &looked.own;
        let chosen = [ObjectKind::Snapshot, ObjectKind::Verdict, ObjectKind::Tags, ObjectKind::Attestation];
        let rested_on = |digest: &Digest| own.get(digest).is_some_and(|object| !chosen.contains(&object.kind));
        stays.extend(undecided.into_iter().filter(rested_on));
        stays.sort_unstable();
    }
    Ok(stays)
}

/// Reads an object if the slot signed it; `None` for another signer's or a name of no known form.
fn read_own(
    repository: &Repository,
    region: &RegionHandle,
    slot: SlotId,
    name: &str,
) -> Result<Option<Own>, RepoError> {
    /// Up to the end of the signer.
    const HEAD: u64 = 40;
    let get = |limit: u64| match region.store.get(name, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        // A collection that goes on meanwhile may have deleted it.
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(region.error(error)),
    };
    if name.starts_with("index/") {
        // Most segments are others' and large: the header says whose it is.
        match region.store.get_range(name, 0, HEAD) {
            Ok(head) if head.get(24..40) != Some(&slot.0[..]) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind == StoreErrorKind::Range => {
                let detail = DecodeError::new("OBJ-1", "too few bytes for an object");
                return Err(region.object_error(name, detail));
            }
            Err(error) => return Err(region.error(error)),
        }
    }
    let Some(bytes) = get(SEGMENT_BYTES_MAX as u64)? else { return Ok(None) };
    if bytes.get(24..40) != Some(&slot.0[..]) {
        return Ok(None);
    }
    let Some(kind) = bytes.get(4).copied().and_then(ObjectKind::from_code) else { return Ok(None) };
    let decode = |source| region.object_error(name, source);
    let crypto = |source| region.crypto_error(name, source);
    let signed = object::decode(kind, repository.config.repository, &bytes).map_err(decode)?;
    repository.verify_author(&signed).map_err(crypto)?;
    let plain = |signed: &SignedObject<'_>| object::open_payload(&repository.keyring, signed).map_err(crypto);
    let (mut said_at, mut names) = (None, None);
    match kind {
        ObjectKind::Snapshot => said_at = Some(Snapshot::decode(&plain(&signed)?).map_err(decode)?.started_at),
        ObjectKind::Verdict => said_at = Some(Verdict::decode(&plain(&signed)?).map_err(decode)?.decided_at),
        ObjectKind::Commit => names = Some(Commit::decode(signed.envelope.payload).map_err(decode)?.snapshot),
        ObjectKind::Attestation => {
            let attestation = crate::format::attestation::Attestation::decode(signed.envelope.payload);
            said_at = Some(attestation.map_err(decode)?.attested_at);
        }
        _ => {}
    }
    Ok(Some(Own { kind, digest: signed.digest, said_at, names }))
}

//! Which snapshots count, and reading and writing them. Page: `format-spec/snapshot.md`.
//!
//! A snapshot counts in a region if a commit there names it that no final fenced or collected, and its
//! verdict isn't forget (`COUNT-1`). A commit that an open fence names is shown to nobody (`COUNT-2`).

use super::RepoError;
use super::at_once::at_once;
use super::gclog;
use super::known::KnownObjects;
use super::open::{AUTHORS, DECIDERS, RegionHandle, Repository, WRITERS};
use super::verdicts::Effective;
use crate::compress::{Compression, compress, decompress};
use crate::crypto::CryptoError;
use crate::crypto::object;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SessionId, SlotId, SnapshotId, number_from_name};
use crate::format::pack::SectionRecord;
use crate::format::session::Commit;
use crate::format::snapshot::{Snapshot, SnapshotPrivate};
use crate::format::verdict::{Ruling, Tags, Verdict};
use crate::format::wire::{DecodeError, Reader};
use crate::limits::OBJECT_BYTES_MAX;
use crate::report::{Issue, IssueKind};
use crate::store::{Listed, list_sorted};
use std::collections::{BTreeMap, BTreeSet};

/// A snapshot with what the repository says of it.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// What every role sees. Its private part is left out, since a listing may hold 100,000 of them; [`details`]
    /// reads it.
    pub snapshot: Snapshot,
    /// The slot that signed it.
    pub slot: SlotId,
    /// Its tags: those given at the backup, or the newest that replaced them.
    pub tags: Vec<String>,
    /// Indices into the repository's regions where it counts: a commit there names it, and it is there in its size.
    pub regions: Vec<usize>,
    /// Indices of the regions that have a commit of it and lost it, or hold it damaged (`COUNT-4`).
    pub lost: Vec<usize>,
    /// The verdict that decides over it.
    pub verdict: Option<Effective>,
    /// The commits by which it counts: region, as above, and session.
    pub commits: Vec<(usize, SessionId)>,
}

/// All snapshots that count, oldest first, and what could not be read.
pub struct Listing {
    /// The snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// Those that a [`list`] leaves out: forgotten, and not yet collected.
    pub forgotten: Vec<SnapshotInfo>,
    /// Those that commits name and no region has whole, with what was decided: a verdict needs no more than an id. They
    /// are among the issues, unless they are forgotten.
    pub unreadable: BTreeMap<SnapshotId, Option<Effective>>,
    /// Objects that are damaged or missing: whatever they said is not in the list.
    pub issues: Vec<Issue>,
    /// The regions whose collection log is damaged, by index, and what is wrong with it: it is among the issues, what
    /// else the log says was heeded, and nobody may write or collect there (`GC-4`).
    pub damaged_logs: BTreeMap<usize, String>,
}

impl Listing {
    /// One that no region has whole, by all of its id, in hexadecimal: nothing else is known of it.
    pub fn unreadable_by(&self, id_hex: &str) -> Option<(SnapshotId, Option<&Effective>)> {
        let id = SnapshotId::from_hex(id_hex)?;
        self.unreadable.get(&id).map(|verdict| (id, verdict.as_ref()))
    }

    /// What to tell of those that are forgotten and that no region has whole (`COUNT-4`).
    pub fn lost_and_forgotten(&self) -> impl Iterator<Item = String> + '_ {
        let forgotten = self.unreadable.iter().filter(|(_, verdict)| verdict.as_ref().is_some_and(Effective::forgets));
        forgotten.map(|(id, _)| {
            format!(
                "snapshot {id} is forgotten, and no region that was reached has it whole: it can't be brought back, and \
                 collections wait for the end of its window"
            )
        })
    }
}

/// What helps a region whose collection log is damaged.
pub const LOG_REMEDY: &str = "nothing can be stored or collected in this region any more, and all can be read: make another \
                              region with `keepstone region add` and fill it with `keepstone replicate`, then take this one \
                              out of the configuration, or empty its storage and add it again. \
                              An object that breaks SIGN-2 is forged: an owner deletes it, and all is as before";

/// The object's name of a snapshot.
pub fn snapshot_name(id: &SnapshotId) -> String {
    format!("snapshots/{id}")
}

fn issue(kind: IssueKind, region: &RegionHandle, name: &str, detail: impl ToString) -> Issue {
    Issue { kind, subject: format!("{}:{name}", region.name).into_bytes(), detail: detail.to_string() }
}

/// Keeps going past single damaged objects, stops when a store fails.
pub(super) fn note(
    error: RepoError,
    region: &RegionHandle,
    name: &str,
    issues: &mut Vec<Issue>,
) -> Result<(), RepoError> {
    match &error {
        // Of a revoked slot, and not accepted: it doesn't count, and that is no damage.
        RepoError::Crypto { source: CryptoError::Revoked { .. }, .. } => {}
        RepoError::Missing { .. } => issues.push(issue(IssueKind::Missing, region, name, &error)),
        RepoError::Object { .. } | RepoError::Crypto { .. } => {
            issues.push(issue(IssueKind::Damaged, region, name, &error));
        }
        _ => return Err(error),
    }
    Ok(())
}

/// As [`note`]: `None` for what was noted.
fn noted<T>(
    read: Result<T, RepoError>,
    region: &RegionHandle,
    name: &str,
    issues: &mut Vec<Issue>,
) -> Result<Option<T>, RepoError> {
    read.map(Some).or_else(|error| note(error, region, name, issues).map(|()| None))
}

/// Reads a commit and checks that it speaks for this region and name.
fn read_commit(
    repository: &Repository,
    region: &RegionHandle,
    listed: &Listed,
    known: Option<&KnownObjects>,
) -> Result<Commit, RepoError> {
    let name = listed.name.as_str();
    let decode = |source| region.object_error(name, source);
    let commit = match known.and_then(|known| known.get(repository, region.info.region, listed, &WRITERS)) {
        Some((payload, _)) => Commit::decode(&payload).map_err(decode)?,
        None => {
            let bytes = region.get(name)?;
            let signed = object::decode(ObjectKind::Commit, repository.config.repository, &bytes).map_err(decode)?;
            repository.verify_slot(&signed, &WRITERS).map_err(|source| region.crypto_error(name, source))?;
            let (signer, payload) = (signed.envelope.signer, signed.envelope.payload);
            let commit = Commit::decode(payload).map_err(decode)?;
            if let Some(known) = known {
                known.put(repository, region.info.region, listed, signer, signed.digest, payload);
            }
            commit
        }
    };
    if commit.region != region.info.region {
        return Err(decode(DecodeError::new("COUNT-3", format!("it speaks for region {}", commit.region))));
    }
    if name != super::session::commit_name(commit.session) {
        return Err(decode(DecodeError::new("OBJ-10", format!("it is the commit of session {}", commit.session))));
    }
    Ok(commit)
}

/// Reads a snapshot from a region and verifies it.
///
/// # Errors
/// When it is absent, damaged, not what its name says, or not signed by a slot that may.
pub fn read_snapshot(
    repository: &Repository,
    region: &RegionHandle,
    id: SnapshotId,
) -> Result<(Snapshot, SlotId), RepoError> {
    let name = snapshot_name(&id);
    let bytes = region.get(&name)?;
    open_snapshot(repository, region, id, &bytes)
}

fn open_snapshot(
    repository: &Repository,
    region: &RegionHandle,
    id: SnapshotId,
    bytes: &[u8],
) -> Result<(Snapshot, SlotId), RepoError> {
    let name = snapshot_name(&id);
    let decode = |source| region.object_error(&name, source);
    let signed = object::decode(ObjectKind::Snapshot, repository.config.repository, bytes).map_err(decode)?;
    if signed.digest.0 != id.0 {
        return Err(decode(DecodeError::new("OBJ-10", format!("its bytes are those of {}", signed.digest))));
    }
    repository.verify_slot(&signed, &AUTHORS).map_err(|source| region.crypto_error(&name, source))?;
    let payload =
        object::open_payload(&repository.keyring, &signed).map_err(|source| region.crypto_error(&name, source))?;
    let snapshot = Snapshot::decode(&payload).map_err(decode)?;
    Ok((snapshot, signed.envelope.signer))
}

/// The ids of all snapshots that some reached region holds, whether they count or not.
///
/// # Errors
/// When a region can't be listed.
pub fn list_ids(repository: &Repository) -> Result<BTreeSet<SnapshotId>, RepoError> {
    let mut ids = BTreeSet::new();
    for region in &repository.regions {
        ids.extend(list_manifests(region)?.into_keys());
    }
    Ok(ids)
}

/// The snapshots that a region holds, with their sizes in bytes.
fn list_manifests(region: &RegionHandle) -> Result<BTreeMap<SnapshotId, u64>, RepoError> {
    let listed = list_sorted(&*region.store, "snapshots/").map_err(|e| region.error(e))?;
    let manifest =
        |object: &Listed| Some((SnapshotId::from_hex(object.name.strip_prefix("snapshots/")?)?, object.size));
    Ok(listed.iter().filter_map(manifest).collect())
}

/// All snapshots that count in some reached region.
///
/// # Errors
/// When a region can't be listed. Single damaged objects become issues.
pub fn list(repository: &Repository) -> Result<Listing, RepoError> {
    list_counting(repository, None)
}

/// As [`list`], for those who look for a snapshot: what this client knows is taken for what lies there in the same
/// size, and isn't read again.
///
/// # Errors
/// As [`list`].
pub fn list_knowing(repository: &Repository, known: &KnownObjects) -> Result<Listing, RepoError> {
    list_counting(repository, Some(known))
}

fn list_counting(repository: &Repository, known: Option<&KnownObjects>) -> Result<Listing, RepoError> {
    let mut listing = read_all(repository, known)?;
    let (forgotten, snapshots) = listing.snapshots.into_iter().partition(SnapshotInfo::is_forgotten);
    (listing.snapshots, listing.forgotten) = (snapshots, forgotten);
    Ok(listing)
}

/// As [`list`], with those that are forgotten and not yet collected.
///
/// # Errors
/// As [`list`].
pub fn list_all(repository: &Repository) -> Result<Listing, RepoError> {
    read_all(repository, None)
}

fn read_all(repository: &Repository, known: Option<&KnownObjects>) -> Result<Listing, RepoError> {
    let mut issues = Vec::new();
    let mut counted: BTreeMap<SnapshotId, Vec<(usize, SessionId)>> = BTreeMap::new();
    let (mut manifests, mut damaged_logs) = (Vec::new(), BTreeMap::new());
    for (at, region) in repository.regions.iter().enumerate() {
        // Commits first, then the log: a commit that a later final fences is seen as fenced.
        let commits = list_sorted(&*region.store, "commits/").map_err(|e| region.error(e))?;
        let (log, damage) = gclog::read_what_is_whole(repository, region)?;
        if let Some(error) = damage {
            issues.push(issue(IssueKind::Damaged, region, "gc/", format!("{error}; {LOG_REMEDY}")));
            damaged_logs.insert(at, error.to_string());
        }
        let counting: Vec<(SessionId, Listed)> = commits
            .into_iter()
            .filter_map(|listed| {
                let sid = listed.name.strip_prefix("commits/").and_then(SessionId::from_hex)?;
                let counts = !log.is_dead_session(&sid) && !log.is_doubtful_session(&sid);
                counts.then_some((sid, listed))
            })
            .collect();
        let read = at_once(&counting, |(_, listed)| {
            let mut issues = Vec::new();
            let read = match read_commit(repository, region, listed, known) {
                Err(error @ RepoError::Missing { .. }) => Err(error),
                read => Ok(noted(read, region, &listed.name, &mut issues)?),
            };
            Ok((read, issues))
        })?;
        let mut gone = Vec::new();
        for ((sid, listed), (read, noted)) in counting.iter().zip(read) {
            issues.extend(noted);
            match read {
                Ok(Some(commit)) => counted.entry(commit.snapshot).or_default().push((at, *sid)),
                Ok(None) => {}
                Err(error) => gone.push((sid, listed, error)),
            }
        }
        if !gone.is_empty() {
            // A collection may have ended since the log was read (COUNT-5): what its final lists isn't lost.
            let (log, _) = gclog::read_what_is_whole(repository, region)?;
            for (_, listed, error) in gone.into_iter().filter(|(sid, ..)| !log.is_dead_session(sid)) {
                note(error, region, &listed.name, &mut issues)?;
            }
        }
        // After the commits: what they name was there before them.
        manifests.push(list_manifests(region)?);
    }
    let decisions = read_decisions(repository, "", known, &mut issues)?;
    let counted: Vec<(SnapshotId, Vec<(usize, SessionId)>)> = counted.into_iter().collect();
    let read = at_once(&counted, |(id, commits)| {
        // Any region's copy will do to read it; what the others hold is judged by its name and size (HEAL-2).
        let mut read = Manifest::default();
        let name = snapshot_name(id);
        for at in regions_of(commits) {
            let region = &repository.regions[at];
            let looked = match (manifests[at].get(id), &read.found) {
                (None, _) => Err(RepoError::Missing { region: region.name.clone(), name: name.clone() }),
                (Some(size), Some((.., whole))) if size != whole => {
                    let detail = format!("it is {size} bytes long there, and {whole} where it is whole");
                    Err(region.object_error(&name, DecodeError::new("OBJ-8", detail)))
                }
                (Some(_), Some(_)) => Ok(None),
                (Some(size), None) => {
                    let listed = Listed { name: name.clone(), size: *size };
                    read_manifest(repository, region, *id, &listed, known).map(Some)
                }
            };
            read.closed |= matches!(&looked, Err(RepoError::Crypto { source: CryptoError::NotPermitted { .. }, .. }));
            match noted(looked, region, &name, &mut read.issues)? {
                Some(found) => {
                    read.found = read.found.or(found);
                    read.regions.push(at);
                }
                None => read.lost.push(at),
            }
        }
        // Where all that have a commit lost it, one that collected it has it still (COLLECT-3).
        for (at, region) in repository.regions.iter().enumerate().filter(|_| !read.lost.is_empty()) {
            if let Some(size) = manifests[at].get(id).filter(|_| read.found.is_none() && !read.lost.contains(&at)) {
                let listed = Listed { name: name.clone(), size: *size };
                let looked = read_manifest(repository, region, *id, &listed, known);
                read.found = noted(looked, region, &name, &mut read.issues)?;
            }
        }
        Ok(read)
    })?;
    let (mut snapshots, mut unreadable) = (Vec::new(), BTreeMap::new());
    for ((id, commits), Manifest { found, issues: mut noted, regions, lost, closed }) in counted.into_iter().zip(read) {
        let verdict = decisions.get(&id).and_then(Decision::effective);
        if let (None, Some(first), false) = (&found, noted.first_mut(), closed) {
            let commits = commits.iter().map(|(at, session)| {
                format!("{}:{}", repository.regions[*at].name, super::session::commit_name(*session))
            });
            first.detail += &format!(
                "; no region that was reached has it whole, and {} names it: where it can't come back, `keepstone forget \
                 {id}` gives it up",
                commits.collect::<Vec<_>>().join(", ")
            );
            // Told by itself: what only a forgotten one needs ends no run.
            if verdict.as_ref().is_some_and(Effective::forgets) {
                noted.clear();
            }
            unreadable.insert(id, verdict.clone());
        }
        issues.extend(noted);
        if let Some((snapshot, slot, _)) = found {
            let tags = match decisions.get(&id).and_then(|decision| decision.tags.as_ref()) {
                Some((_, tags)) => tags.iter().cloned().collect(),
                None => snapshot.tags.clone(),
            };
            snapshots.push(SnapshotInfo { id, snapshot, slot, tags, regions, lost, verdict, commits });
        }
    }
    snapshots.sort_by_key(|info| (info.snapshot.started_at, info.id));
    Ok(Listing { snapshots, forgotten: Vec::new(), unreadable, issues, damaged_logs })
}

/// A snapshot without its private part, the slot that signed it, and its size in bytes.
fn read_manifest(
    repository: &Repository,
    region: &RegionHandle,
    id: SnapshotId,
    listed: &Listed,
    known: Option<&KnownObjects>,
) -> Result<(Snapshot, SlotId, u64), RepoError> {
    let name = listed.name.as_str();
    if let Some((payload, slot)) = known.and_then(|known| known.get(repository, region.info.region, listed, &AUTHORS)) {
        let snapshot = Snapshot::decode(&payload).map_err(|source| region.object_error(name, source))?;
        return Ok((snapshot, slot, listed.size));
    }
    let bytes = region.get(name)?;
    let (snapshot, slot) = open_snapshot(repository, region, id, &bytes)?;
    let snapshot = Snapshot { private: Vec::new(), ..snapshot };
    if let Some(known) = known {
        known.put(repository, region.info.region, listed, slot, Digest(id.0), &snapshot.encode());
    }
    Ok((snapshot, slot, bytes.len() as u64))
}

/// What the regions that have a commit of a snapshot hold of it.
#[derive(Default)]
struct Manifest {
    /// Out of the first one whose copy is whole, without its private part; the slot that signed it, its size in bytes.
    found: Option<(Snapshot, SlotId, u64)>,
    issues: Vec<Issue>,
    regions: Vec<usize>,
    lost: Vec<usize>,
    /// One that may be whole can't be opened by this client.
    closed: bool,
}

/// The regions of these commits.
fn regions_of(commits: &[(usize, SessionId)]) -> Vec<usize> {
    let mut regions: Vec<usize> = commits.iter().map(|(at, _)| *at).collect();
    regions.dedup();
    regions
}

/// What was said of a snapshot after it was written.
#[derive(Default)]
pub(super) struct Decision {
    /// The verdicts of the highest number, with their signers.
    verdict: Option<(u64, Vec<(Verdict, SlotId)>)>,
    tags: Option<(u64, BTreeSet<String>)>,
}

impl Decision {
    /// The verdict that counts.
    pub(super) fn effective(&self) -> Option<Effective> {
        self.verdict.as_ref().and_then(|(_, verdicts)| Effective::of(verdicts))
    }

    /// What those of the highest number say.
    pub(super) fn rulings(&self) -> impl Iterator<Item = Ruling> {
        self.verdict.iter().flat_map(|(_, verdicts)| verdicts.iter().map(|(verdict, _)| verdict.ruling))
    }
}

impl SnapshotInfo {
    /// True for a region where a commit by which it counts names it, whether or not it lies there.
    pub fn is_committed_in(&self, at: usize) -> bool {
        self.regions.contains(&at) || self.lost.contains(&at)
    }

    /// Indices of the regions, of so many, that may have the object whole: where it counts, then those that may have
    /// collected it (`COLLECT-3`).
    pub fn may_hold(&self, regions: usize) -> impl Iterator<Item = usize> + '_ {
        let others = (0..regions).filter(|at| !self.is_committed_in(*at));
        self.regions.iter().copied().chain(others)
    }

    /// True when its verdict is *forget*.
    pub fn is_forgotten(&self) -> bool {
        self.verdict.as_ref().is_some_and(Effective::forgets)
    }

    /// The hold that it is on at this time.
    pub fn hold(&self, now: i64) -> Option<&Effective> {
        self.verdict.as_ref().filter(|verdict| verdict.holds(now))
    }
}

/// True when the verdicts of all reached regions together say that a snapshot is forgotten. One that
/// can't be read says nothing (`VERDICT-5`).
///
/// # Errors
/// When a region can't be listed or read.
pub fn is_forgotten(repository: &Repository, id: SnapshotId) -> Result<bool, RepoError> {
    let decisions = read_decisions(repository, &format!("{id}/"), None, &mut Vec::new())?;
    Ok(decisions.get(&id).and_then(Decision::effective).is_some_and(|verdict| verdict.forgets()))
}

/// Verdicts and tags whose names go on so; they merge over all regions, as growing sets.
pub(super) fn read_decisions(
    repository: &Repository,
    under: &str,
    known: Option<&KnownObjects>,
    issues: &mut Vec<Issue>,
) -> Result<BTreeMap<SnapshotId, Decision>, RepoError> {
    let mut decisions: BTreeMap<SnapshotId, Decision> = BTreeMap::new();
    // What is in the list, with its size in bytes.
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for region in &repository.regions {
        for (prefix, kind) in [("verdicts/", ObjectKind::Verdict), ("tags/", ObjectKind::Tags)] {
            let listing = list_sorted(&*region.store, &format!("{prefix}{under}")).map_err(|e| region.error(e))?;
            let mut unread: Vec<(Listed, (SnapshotId, u64, Digest))> = Vec::new();
            for listed in listing {
                let Some(parsed) = parse_numbered(&listed.name, prefix) else { continue };
                match seen.get(&listed.name) {
                    None => unread.push((listed, parsed)),
                    Some(size) if *size == listed.size => {}
                    // Read elsewhere; this region's own copy is judged by its size at least (HEAL-2).
                    Some(size) => {
                        let detail = format!("it is {} bytes long there, and {size} where it is whole", listed.size);
                        let error = region.object_error(&listed.name, DecodeError::new("OBJ-8", detail));
                        note(error, region, &listed.name, issues)?;
                    }
                }
            }
            let read = at_once(&unread, |(listed, (_, _, digest))| {
                let mut issues = Vec::new();
                let read = match known.and_then(|known| known.get(repository, region.info.region, listed, &DECIDERS)) {
                    Some(read) => Ok(read),
                    None => {
                        read_numbered(repository, region, &listed.name, kind, *digest).inspect(|(payload, signer)| {
                            if let Some(known) = known {
                                known.put(repository, region.info.region, listed, *signer, *digest, payload);
                            }
                        })
                    }
                };
                Ok((noted(read, region, &listed.name, &mut issues)?, issues))
            })?;
            for ((Listed { name, size }, (id, number, _)), (read, noted)) in unread.into_iter().zip(read) {
                issues.extend(noted);
                // The same name in another region holds the same bytes: what is damaged here may be whole there.
                let Some((payload, signer)) = read else { continue };
                let outcome = decisions.entry(id).or_default().take(kind, id, number, &payload, signer);
                if let Err(source) = outcome {
                    note(region.object_error(&name, source), region, &name, issues)?;
                }
                seen.insert(name, size);
            }
        }
    }
    Ok(decisions)
}

impl Decision {
    fn take(
        &mut self,
        kind: ObjectKind,
        id: SnapshotId,
        number: u64,
        payload: &[u8],
        signer: SlotId,
    ) -> Result<(), DecodeError> {
        let misnamed = || DecodeError::new("OBJ-10", "it speaks of another snapshot or number");
        if kind == ObjectKind::Verdict {
            let verdict = Verdict::decode(payload)?;
            if verdict.snapshot != id || verdict.number != number {
                return Err(misnamed());
            }
            match &mut self.verdict {
                Some((known, _)) if *known > number => {}
                Some((known, verdicts)) if *known == number => verdicts.push((verdict, signer)),
                slot => *slot = Some((number, vec![(verdict, signer)])),
            }
        } else {
            let tags = Tags::decode(payload)?;
            if tags.snapshot != id || tags.number != number {
                return Err(misnamed());
            }
            match &mut self.tags {
                Some((known, _)) if *known > number => {}
                Some((known, all)) if *known == number => all.extend(tags.tags),
                slot => *slot = Some((number, tags.tags.into_iter().collect())),
            }
        }
        Ok(())
    }
}

/// A verdict's or tags' bytes from the first of these regions where they are whole; `None` when nobody who may
/// has signed them, or their name isn't one.
///
/// # Errors
/// When no region's copy can be read.
pub fn read_decision(
    repository: &Repository,
    regions: &[usize],
    name: &str,
    kind: ObjectKind,
) -> Result<Option<Vec<u8>>, RepoError> {
    let prefix = if kind == ObjectKind::Verdict { "verdicts/" } else { "tags/" };
    let Some((_, _, digest)) = parse_numbered(name, prefix) else { return Ok(None) };
    let mut failure = None;
    for region in regions.iter().map(|at| &repository.regions[*at]) {
        match read_numbered(repository, region, name, kind, digest).and_then(|_| region.get(name)) {
            Ok(bytes) if object::check_digest(&bytes).is_ok_and(|found| found == digest) => return Ok(Some(bytes)),
            Ok(_) | Err(RepoError::Crypto { .. }) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(None), Err)
}

/// The snapshot, number and digest in the name of a verdict or of tags.
pub(crate) fn parse_numbered(name: &str, prefix: &str) -> Option<(SnapshotId, u64, Digest)> {
    let (id, rest) = name.strip_prefix(prefix)?.split_once('/')?;
    let (number, digest) = rest.split_once('-')?;
    Some((SnapshotId::from_hex(id)?, number_from_name(number)?, Digest::from_hex(digest)?))
}

/// The payload of a verdict or of tags.
///
/// # Errors
/// When it is absent, damaged, misnamed, or not signed by who may decide.
pub(crate) fn read_numbered(
    repository: &Repository,
    region: &RegionHandle,
    name: &str,
    kind: ObjectKind,
    digest: Digest,
) -> Result<(Vec<u8>, SlotId), RepoError> {
    let bytes = region.get(name)?;
    let decode = |source| region.object_error(name, source);
    let signed = object::decode(kind, repository.config.repository, &bytes).map_err(decode)?;
    if signed.digest != digest {
        return Err(decode(DecodeError::new("OBJ-10", format!("its bytes are those of {}", signed.digest))));
    }
    repository.verify_slot(&signed, &DECIDERS).map_err(|source| region.crypto_error(name, source))?;
    let payload = object::open_payload(&repository.keyring, &signed);
    Ok((payload.map_err(|source| region.crypto_error(name, source))?, signed.envelope.signer))
}

/// Seals a snapshot's private part like payload.
///
/// # Errors
/// When this slot may not store payloads; [`CryptoError::TooLarge`] or a `CBOR` rule for what no reader would
/// take.
pub fn seal_private(repository: &Repository, private: &SnapshotPrivate) -> Result<Vec<u8>, CryptoError> {
    let plain = private.encode();
    if plain.len() > OBJECT_BYTES_MAX {
        let (what, bytes) = ("the private part of a snapshot", plain.len());
        return Err(CryptoError::TooLarge { what, bytes, bytes_max: OBJECT_BYTES_MAX });
    }
    SnapshotPrivate::decode(&plain)?;
    let (record, key) = repository.keyring.create_section(&*repository.random)?;
    let mut sealed = compress(&plain, Compression::Default);
    key.seal(0, plain.len() as u32, &mut sealed);
    let mut out = Vec::with_capacity(sealed.len() + 1300);
    record.encode_into(&mut out);
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Opens a snapshot's private part.
///
/// # Errors
/// [`CryptoError::NotPermitted`] for slots that can't read payloads; `SNAPSHOT-2` for a bad layout.
pub fn open_private(repository: &Repository, snapshot: &Snapshot) -> Result<SnapshotPrivate, CryptoError> {
    let mut reader = Reader::new(&snapshot.private, "SNAPSHOT-2");
    let record = SectionRecord::decode(&mut reader)?;
    let raw_length = reader.u32()?;
    if raw_length as usize > OBJECT_BYTES_MAX {
        return Err(DecodeError::new("SNAPSHOT-2", format!("a private part of {raw_length} bytes")).into());
    }
    let mut sealed = reader.take(reader.remaining())?.to_vec();
    let length = repository.keyring.open_section(&record)?.open(0, raw_length, &mut sealed)?;
    let plain = decompress(&sealed[..length], raw_length as usize)
        .map_err(|error| DecodeError::new("SNAPSHOT-2", error.to_string()))?;
    Ok(SnapshotPrivate::decode(&plain)?)
}

/// The private part of a listed snapshot, out of the first of its regions whose copy is whole.
///
/// # Errors
/// When no copy is; as [`open_private`].
pub fn details(repository: &Repository, info: &SnapshotInfo) -> Result<SnapshotPrivate, RepoError> {
    let mut failure = None;
    for region in info.may_hold(repository.regions.len()).map(|at| &repository.regions[at]) {
        match read_snapshot(repository, region, info.id) {
            Ok((snapshot, _)) => return Ok(open_private(repository, &snapshot)?),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or(RepoError::NoRegions))
}

/// What names one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The newest but so many, as of `now_ns`, nanoseconds since the Unix epoch. A snapshot that claims to be from
    /// the future was taken by a wrong clock and would be the newest for years: it counts only where all do, for
    /// then it is this host's clock that is wrong.
    Latest {
        /// How many newer ones to pass by.
        back: usize,
        /// The present.
        now_ns: i64,
    },
    /// The first digits of an id.
    Prefix(String),
    /// The newest begun at or before this time, nanoseconds since the Unix epoch.
    At(i64),
}

/// How far hosts' clocks may differ, in nanoseconds: an hour.
const CLOCKS_DIFFER_NS: i64 = 3_600_000_000_000;

/// True for a snapshot that claims to have begun later than it is now.
pub fn is_from_the_future(info: &SnapshotInfo, now_ns: i64) -> bool {
    info.snapshot.started_at > now_ns.saturating_add(CLOCKS_DIFFER_NS)
}

/// Finds one snapshot among `snapshots` (oldest first).
///
/// # Errors
/// [`RepoError::NoSnapshot`], [`RepoError::Ambiguous`].
pub fn select<'a>(snapshots: &'a [SnapshotInfo], selector: &Selector) -> Result<&'a SnapshotInfo, RepoError> {
    match selector {
        Selector::Latest { back, now_ns } => {
            let all_are = snapshots.iter().all(|info| is_from_the_future(info, *now_ns));
            let mut counted = snapshots.iter().rev().filter(|info| all_are || !is_from_the_future(info, *now_ns));
            counted.nth(*back).ok_or_else(|| RepoError::NoSnapshot {
                wanted: format!("latest~{back}: there are {}", snapshots.len()),
            })
        }
        Selector::At(time) => snapshots
            .iter()
            .rev()
            .find(|info| info.snapshot.started_at <= *time)
            .ok_or_else(|| RepoError::NoSnapshot { wanted: "was taken at or before that time".to_owned() }),
        Selector::Prefix(prefix) => {
            let mut fitting = snapshots.iter().filter(|info| info.id.to_string().starts_with(prefix));
            match (fitting.next(), fitting.count()) {
                (Some(info), 0) => Ok(info),
                (Some(_), more) => Err(RepoError::Ambiguous { prefix: prefix.clone(), count: more + 1 }),
                (None, _) => Err(RepoError::NoSnapshot { wanted: format!("has an id that begins with {prefix}") }),
            }
        }
    }
}

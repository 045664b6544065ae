//! Every stored byte of one region against the digests that the objects carry; needs no key.
//!
//! Sees: bytes that rotted, objects cut short, objects under a name that isn't theirs, another
//! repository's objects. Doesn't see: what is absent, an old state put back, who signed.
//! Memory: one piece of an object a thread, and the listing (about 150 bytes an object).

use super::CheckError;
use super::objects::{AGE_FIRST_LINE, BESIDE_A_WHOLE_ONE};
use super::run::Findings;
use crate::format::accepted::parse_accepted_name;
use crate::format::envelope::{ObjectKind, TRAILER_BYTES, decode_preamble};
use crate::format::ids::{Digest, RepositoryId, SessionId, SlotId, SnapshotId, number_from_name};
use crate::format::wire::Reader;
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::pack::reader::parse_pack_name;
use crate::repo::key_names::parse_ring_name;
use crate::report::{Issue, IssueKind, Monitor, Phase};
use crate::store::{Listed, Store, StoreError, StoreErrorKind, list_sorted};
use crate::timing::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PIECE_BYTES: u64 = 4 << 20;
/// The preamble and the repository's id.
const HEAD_BYTES: usize = 24;

/// How many objects of one kind there are, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a scrub found.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// Objects whose bytes were compared.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same by kind: `pack`, `segment`, `key file` and so on.
    pub kinds: BTreeMap<&'static str, Tally>,
    /// Damaged objects, the first [`super::ISSUES_LISTED_MAX`]; subjects are `region:object`.
    pub issues: Vec<Issue>,
    /// How many are damaged.
    pub issues_total: u64,
    /// What a person should know that is no damage.
    pub notices: Vec<String>,
}

/// What an object's name says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// An object with a preamble and a trailer; its digest where the name states it.
    Object(ObjectKind, Option<[u8; 32]>),
    /// A slot's key file.
    KeyFile,
    /// Left by `init`'s probe.
    Probe,
    /// Nothing that this version knows.
    Unknown,
}

fn parse(name: &str) -> Named {
    parse_known(name).unwrap_or(match name.starts_with("probe/") {
        true => Named::Probe,
        false => Named::Unknown,
    })
}

fn parse_known(name: &str) -> Option<Named> {
    let object = |kind| Some(Named::Object(kind, None));
    let digest = |text: &str| Digest::from_hex(text).map(|digest| digest.0);
    let numbered = |text: &str| {
        let (number, hex) = text.split_once('-')?;
        number_from_name(number).and_then(|_| digest(hex))
    };
    let Some((prefix, rest)) = name.split_once('/') else {
        return match name {
            "config" => object(ObjectKind::Config),
            "region" => object(ObjectKind::Region),
            _ => None,
        };
    };
    let pair = rest.split_once('/');
    match prefix {
        "keys" => crate::repo::key_names::parse_key_name(name).map(|_| Named::KeyFile),
        "roster" if rest.starts_with("accepted/") => {
            parse_accepted_name(name).and_then(|_| object(ObjectKind::Accepted))
        }
        "attest" => Some(Named::Object(ObjectKind::Attestation, Some(digest(rest)?))),
        "roster" => Some(Named::Object(ObjectKind::Roster, Some(numbered(rest)?))),
        "ring" => {
            let (epoch, slot) = pair?;
            number_from_name(epoch)?;
            match slot.split_once('-') {
                None => SlotId::from_hex(slot).and_then(|_| object(ObjectKind::Ring)),
                Some((slot, beside)) => {
                    SlotId::from_hex(slot)?;
                    Some(Named::Object(ObjectKind::Ring, Some(digest(beside)?)))
                }
            }
        }
        "packs" => {
            let id = parse_pack_name(name)?;
            Some(Named::Object(ObjectKind::Pack, Some(id.0)))
        }
        "index" => Some(Named::Object(ObjectKind::Segment, Some(digest(rest)?))),
        "snapshots" => Some(Named::Object(ObjectKind::Snapshot, Some(digest(rest)?))),
        "commits" => SessionId::from_hex(rest).and_then(|_| object(ObjectKind::Commit)),
        "sessions" => {
            let (sid, part) = pair?;
            SessionId::from_hex(sid)?;
            match part {
                "end" => object(ObjectKind::SessionEnd),
                number => number_from_name(number).and_then(|_| object(ObjectKind::Session)),
            }
        }
        "verdicts" | "tags" => {
            let (snapshot, rest) = pair?;
            SnapshotId::from_hex(snapshot)?;
            let kind = if prefix == "tags" { ObjectKind::Tags } else { ObjectKind::Verdict };
            Some(Named::Object(kind, Some(numbered(rest)?)))
        }
        "audit" => {
            let (slot, rest) = pair?;
            SlotId::from_hex(slot)?;
            match rest.contains('-') {
                true => Some(Named::Object(ObjectKind::Audit, Some(numbered(rest)?))),
                false => number_from_name(rest).and_then(|_| object(ObjectKind::Audit)),
            }
        }
        "collector" => Some(Named::Object(ObjectKind::Designation, Some(numbered(rest)?))),
        "gc" => {
            let (number, part) = pair?;
            number_from_name(number)?;
            match part {
                "condemn" => object(ObjectKind::Condemn),
                "fence" => object(ObjectKind::Fence),
                "final" => object(ObjectKind::Final),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Why one object isn't right.
enum Fault {
    Store(StoreError),
    Damaged(String),
    Cancelled,
}

struct Scrub<'a> {
    region: &'a str,
    store: &'a dyn Store,
    findings: Findings<'a>,
    /// As the config states it; `None` while that is read, or when it is damaged.
    repository: Option<RepositoryId>,
    kinds: Mutex<BTreeMap<&'static str, Tally>>,
    rings: Mutex<Rings>,
}

/// Rings, which may lie beside one another: by epoch and slot the whole ones, and what is wrong with others by name.
#[derive(Default)]
struct Rings {
    whole: BTreeSet<(u64, SlotId)>,
    damaged: BTreeMap<String, String>,
}

/// Reads every object of one region and compares it with the digest that it carries.
///
/// # Errors
/// When the region can't be listed or stops answering, holds no object of this format, or the user
/// stops it. Single objects that can't be read are issues.
pub fn scrub(
    region: &str,
    store: &dyn Store,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<ScrubReport, CheckError> {
    let store_error = |source| CheckError::Store { region: region.to_owned(), source };
    let listed = list_sorted(store, "").map_err(store_error)?;
    if !listed.iter().any(|object| matches!(parse(&object.name), Named::Object(..) | Named::KeyFile)) {
        return Err(CheckError::NotARepository { region: region.to_owned(), address: store.address().to_owned() });
    }
    let findings = Findings::new(monitor);
    let mut scrub =
        Scrub { region, store, findings, repository: None, kinds: Mutex::default(), rings: Mutex::default() };
    scrub.repository = scrub.stated_repository(&listed);
    let bytes = listed.iter().map(|object| object.size).sum();
    monitor.phase(Phase::Check, Some(listed.len() as u64), Some(bytes));
    scrub.findings.parallel(Stage::Fetch, threads.max(1), listed.len(), &|at| scrub.object(&listed[at]))?;
    scrub.judge_rings();
    scrub.notices(&listed);

    let state = scrub.findings.into_found();
    let kinds = scrub.kinds.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(ScrubReport {
        objects: kinds.values().map(|tally| tally.objects).sum(),
        bytes: kinds.values().map(|tally| tally.bytes).sum(),
        kinds,
        issues: state.issues,
        issues_total: state.total,
        notices: state.notices,
    })
}

impl Scrub<'_> {
    /// The repository that a whole config states. A missing config is an issue: without it nothing opens.
    fn stated_repository(&self, listed: &[Listed]) -> Option<RepositoryId> {
        for name in ["config", "region"] {
            if listed.binary_search_by(|object| object.name.as_str().cmp(name)).is_err() {
                let detail = "without it this region can't be opened";
                self.findings.issue(IssueKind::Missing, self.region, name, detail);
            }
        }
        let bytes = self.store.get("config", crate::limits::OBJECT_BYTES_MAX as u64).ok()?;
        crate::crypto::object::check_digest(&bytes).ok()?;
        let signed = crate::format::envelope::decode(ObjectKind::Config, &bytes).ok()?;
        Some(signed.envelope.repository)
    }

    fn object(&self, listed: &Listed) -> Result<(), CheckError> {
        let (kind, outcome) = match parse(&listed.name) {
            Named::Object(kind, digest) => (kind.name(), self.digested(listed, kind, digest)),
            Named::KeyFile => ("key file", self.key_file(listed)),
            Named::Probe | Named::Unknown => {
                self.findings.monitor.advance(1, listed.size);
                return Ok(());
            }
        };
        let issue = |kind, detail: &dyn std::fmt::Display| {
            self.findings.issue(kind, self.region, &listed.name, detail);
        };
        let ring = parse_ring_name(&listed.name);
        match outcome {
            Ok(()) => {
                if let Some(of) = ring {
                    self.rings().whole.insert(of);
                }
            }
            Err(Fault::Damaged(detail)) if ring.is_some() => {
                self.rings().damaged.insert(listed.name.clone(), detail);
            }
            Err(Fault::Cancelled) => return Err(CheckError::Cancelled),
            Err(Fault::Damaged(detail)) => issue(IssueKind::Damaged, &detail),
            Err(Fault::Store(error)) if error.kind == StoreErrorKind::NotFound => {
                // It was listed: a collection may have deleted it since.
                self.findings.notice(format!("{}:{} was deleted while the scrub ran", self.region, listed.name));
                return Ok(());
            }
            Err(Fault::Store(error)) => match error.kind.issue_kind() {
                Some(kind) => issue(kind, &error),
                None => return Err(CheckError::Store { region: self.region.to_owned(), source: error }),
            },
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = kinds.entry(kind).or_default();
        tally.objects += 1;
        tally.bytes += listed.size;
        drop(kinds);
        self.findings.monitor.advance(1, 0);
        Ok(())
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A damaged ring is no damage of its region where a whole one of its slot and epoch lies beside it.
    fn judge_rings(&self) {
        let Rings { whole, damaged } = std::mem::take(&mut *self.rings());
        for (name, detail) in damaged {
            match parse_ring_name(&name).is_some_and(|of| whole.contains(&of)) {
                true => {
                    self.findings.notice(format!("{}:{name} is damaged: {BESIDE_A_WHOLE_ONE} ({detail})", self.region))
                }
                false => self.findings.issue(IssueKind::Damaged, self.region, &name, detail),
            }
        }
    }

    fn piece(&self, listed: &Listed, offset: u64, length: u64) -> Result<Vec<u8>, Fault> {
        if self.findings.monitor.cancelled() {
            return Err(Fault::Cancelled);
        }
        let piece = self.store.get_range(&listed.name, offset, length).map_err(Fault::Store)?;
        self.findings.monitor.advance(0, piece.len() as u64);
        Ok(piece)
    }

    fn key_file(&self, listed: &Listed) -> Result<(), Fault> {
        if listed.size > KEY_FILE_BYTES_MAX as u64 || listed.size <= AGE_FIRST_LINE.len() as u64 {
            return Err(Fault::Damaged(format!("a key file of {} bytes", listed.size)));
        }
        match self.piece(listed, 0, listed.size)?.starts_with(AGE_FIRST_LINE) {
            true => Ok(()),
            false => Err(Fault::Damaged("it does not begin as an age file does".to_owned())),
        }
    }

    fn digested(&self, listed: &Listed, kind: ObjectKind, named: Option<[u8; 32]>) -> Result<(), Fault> {
        let damaged = |detail: String| Err(Fault::Damaged(detail));
        let Some(body) = listed.size.checked_sub(TRAILER_BYTES as u64).filter(|body| *body >= HEAD_BYTES as u64) else {
            return damaged(format!("OBJ-1: {} bytes are too few for an object", listed.size));
        };
        let mut hasher = blake3::Hasher::new();
        let (mut head, mut trailer) = (Vec::new(), Vec::new());
        let mut offset = 0;
        while offset < listed.size {
            let piece = self.piece(listed, offset, PIECE_BYTES.min(listed.size - offset))?;
            // A piece may hold the end of the body and the beginning of the trailer.
            let hashed = usize::try_from(body.saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.len());
            hasher.update(&piece[..hashed]);
            trailer.extend_from_slice(&piece[hashed..]);
            head.extend(piece.iter().take(HEAD_BYTES - head.len()));
            offset += piece.len() as u64;
        }
        let actual = *hasher.finalize().as_bytes();
        if trailer != actual {
            return damaged(format!("OBJ-8: the bytes' digest is {}, the trailer differs", Digest(actual)));
        }
        if named.is_some_and(|named| named != actual) {
            return damaged(format!("OBJ-10: its bytes are whole, but those of {}", Digest(actual)));
        }
        let mut reader = Reader::new(&head, "OBJ-1");
        match decode_preamble(&mut reader) {
            Ok((found, _)) if found == kind => {}
            Ok((found, _)) => {
                return damaged(format!("OBJ-4: a {} stands where a {} belongs", found.name(), kind.name()));
            }
            Err(error) => return damaged(error.to_string()),
        }
        match (self.repository, reader.array().map(RepositoryId)) {
            (Some(own), Ok(stated)) if stated != own => {
                damaged(format!("OBJ-9: it belongs to repository {stated}, not {own}"))
            }
            _ => Ok(()),
        }
    }

    /// Counts what this version doesn't know, by prefix.
    fn notices(&self, listed: &[Listed]) {
        let mut unknown: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for object in listed {
            let prefix = object.name.split_once('/').map_or(object.name.as_str(), |(prefix, _)| prefix);
            if matches!(parse(&object.name), Named::Probe | Named::Unknown) {
                unknown.entry(prefix).or_insert((0, &object.name)).0 += 1;
            }
        }
        for (prefix, (count, first)) in unknown {
            self.findings.notice(match prefix {
                "probe" => format!("{count} objects under probe/ are left of an init's probe; they can be deleted"),
                _ => format!(
                    "{count} objects under '{prefix}' have names that this version doesn't know ({first}): not checked"
                ),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let hex = |count: usize| "ab".repeat(count);
        let known = [
            ("config".to_owned(), ObjectKind::Config, false),
            (format!("packs/ab/{}", hex(32)), ObjectKind::Pack, true),
            (format!("index/{}", hex(32)), ObjectKind::Segment, true),
            (format!("roster/{}-{}", hex(8), hex(32)), ObjectKind::Roster, true),
            (format!("ring/{}/{}", hex(8), hex(16)), ObjectKind::Ring, false),
            (format!("ring/{}/{}-{}", hex(8), hex(16), hex(32)), ObjectKind::Ring, true),
            (format!("commits/{}", hex(16)), ObjectKind::Commit, false),
            (format!("roster/accepted/{}/{}", hex(16), hex(8)), ObjectKind::Accepted, false),
            (format!("attest/{}", hex(32)), ObjectKind::Attestation, true),
            (format!("sessions/{}/end", hex(16)), ObjectKind::SessionEnd, false),
            (format!("tags/{}/{}-{}", hex(32), hex(8), hex(32)), ObjectKind::Tags, true),
            (format!("gc/{}/final", hex(8)), ObjectKind::Final, false),
            (format!("collector/{}-{}", hex(8), hex(32)), ObjectKind::Designation, true),
            (format!("audit/{}/{}", hex(16), hex(8)), ObjectKind::Audit, false),
            (format!("audit/{}/{}-{}", hex(16), hex(8), hex(32)), ObjectKind::Audit, true),
        ];
        for (name, kind, digest) in known {
            assert_eq!(parse(&name), Named::Object(kind, digest.then_some([0xab; 32])), "{name}");
        }
        assert_eq!(parse(&format!("keys/{}/{}.age", hex(16), hex(8))), Named::KeyFile);
        assert_eq!(parse("probe/00/race-0"), Named::Probe);
        for name in [format!("packs/cd/{}", hex(32)), "index/x".to_owned(), "attest/1".to_owned(), "gc/1".to_owned()] {
            assert_eq!(parse(&name), Named::Unknown, "{name}");
        }
    }
}

//! Levelling: every region gets what any other holds of keys. Page: `format-spec/keys.md`.
//!
//! Guarantees: nothing that is whole is overwritten; a name that is there is not taken for the object; what is damaged
//! gets bytes that digest and root's signature prove (`HEAL-2`, `RING-9`). Old key files go only where the newer one
//! lies that opened the repository now.

use super::RepoError;
use super::accepted::read_part;
use super::key_names::{
    key_name, parse_key_name, parse_ring_name, parse_roster_name, ring_digest, ring_name, ring_name_beside, roster_name,
};
use super::open::{RegionHandle, Repository, read_ring, read_roster, read_sealed_ring};
use crate::crypto::object::check_digest;
use crate::crypto::slot::is_key_file;
use crate::format::accepted::accepted_name;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SlotId};
use crate::format::roster::{AcceptedParts, Role, RosterSlot};
use crate::format::wire::DecodeError;
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::report::{Issue, IssueKind};
use crate::ship::put_with_retries;
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};

/// So many rings in a region are compared by their bytes in every run; of more only some, unless it is asked for.
const RINGS_COMPARED: usize = 32;

/// What levelling one region came to.
#[derive(Debug, Default)]
pub struct Levelled {
    /// Objects copied.
    pub copied: u64,
    /// What was damaged here and is right again: how many objects of each kind, in the plural.
    pub healed: BTreeMap<&'static str, u64>,
    /// What this region still lacks or holds wrong.
    pub issues: Vec<Issue>,
}

/// The names of what one region holds of keys.
#[derive(Default)]
struct Names {
    files: BTreeMap<SlotId, BTreeSet<u64>>,
    rings: BTreeMap<(u64, SlotId), BTreeSet<String>>,
    /// Rosters by number, and parts of accepted lists with their sizes.
    rosters: BTreeSet<(u64, String)>,
    accepted: BTreeMap<String, u64>,
}

impl Levelled {
    fn mended(&mut self, kind: &'static str) {
        *self.healed.entry(kind).or_default() += 1;
    }
}

impl Names {
    fn read(region: &RegionHandle) -> Result<Self, RepoError> {
        let list = |prefix: &str| list_sorted(&*region.store, prefix).map_err(|e| region.error(e));
        let mut names = Names::default();
        for listed in list("keys/")? {
            if let Some((slot, number)) = parse_key_name(&listed.name) {
                names.files.entry(slot).or_default().insert(number);
            }
        }
        for listed in list("ring/")? {
            if let Some(of) = parse_ring_name(&listed.name) {
                names.rings.entry(of).or_default().insert(listed.name);
            }
        }
        for listed in list("roster/")? {
            match parse_roster_name(&listed.name) {
                Some((number, _)) => drop(names.rosters.insert((number, listed.name))),
                None => drop(names.accepted.insert(listed.name, listed.size)),
            }
        }
        Ok(names)
    }
}

/// A ring as a region holds it: its digest, or what is wrong with it.
type HeldRing = Result<Digest, String>;

/// The rings of one epoch and slot: their names in the region that is levelled, and in the others.
struct RingCopies {
    epoch: u64,
    slot: SlotId,
    held: BTreeSet<String>,
    elsewhere: Vec<(usize, String)>,
}

/// One levelling of all regions: what was listed and read serves for each of them.
pub(super) struct Levelling<'a> {
    repository: &'a Repository,
    /// Of each region; `None` for one that could not be listed.
    names: Vec<Option<Names>>,
    /// Rings that were read, by region and name.
    rings: BTreeMap<(usize, String), HeldRing>,
    /// Every ring is compared; else those of this slot and of owners, who alone can restore.
    thorough: bool,
    /// Other slots' key files are read, and so are rings that nothing rests on. Lists of what stays accepted are read
    /// whole; else, since they may be large, only where regions hold some in different sizes.
    reads_all: bool,
    /// What was told already, of a region that isn't the one that is levelled.
    told: BTreeSet<Vec<u8>>,
}

const OWNERS_REMEDY: &str = "another region has it whole, and an owner's `keepstone replicate` puts it right";

fn lacking(region: &RegionHandle, name: &str, kind: IssueKind, detail: impl ToString) -> Issue {
    Issue { kind, subject: format!("{}:{name}", region.name).into_bytes(), detail: detail.to_string() }
}

impl<'a> Levelling<'a> {
    pub(super) fn new(repository: &'a Repository, thorough: bool) -> Self {
        let names = repository.regions.iter().map(|region| Names::read(region).ok()).collect();
        let few = repository.active().count() * repository.epochs().len() <= RINGS_COMPARED;
        Levelling {
            repository,
            names,
            rings: BTreeMap::new(),
            thorough: thorough || few,
            reads_all: thorough,
            told: BTreeSet::new(),
        }
    }

    fn others(&self, at: usize) -> impl Iterator<Item = (usize, &'a RegionHandle, &Names)> {
        let regions = self.repository.regions.iter().enumerate();
        let listed = regions.zip(&self.names).filter_map(|((at, region), names)| Some((at, region, names.as_ref()?)));
        listed.filter(move |(other, ..)| *other != at)
    }

    /// Levels one region. Rings, key files and lists go first, the newest roster last.
    ///
    /// # Errors
    /// When it can't be listed or written, or, where it lacks the newest roster, none has a whole copy of what
    /// that one relies on.
    pub(super) fn region(&mut self, at: usize) -> Result<Levelled, RepoError> {
        let repository = self.repository;
        let to = &repository.regions[at];
        if self.names[at].is_none() {
            self.names[at] = Some(Names::read(to)?);
        }
        let newest = roster_name(repository.roster.number, &repository.roster_digest);
        let current = (repository.roster.number, newest.clone());
        let behind = self.names[at].as_ref().is_none_or(|names| !names.rosters.contains(&current));
        let mut done = Levelled::default();
        self.accepted(at, behind, &mut done)?;
        self.rings(at, behind, &mut done)?;
        self.key_files(at, behind, &mut done)?;
        // Earlier ones tell what the newest follows from.
        let held = |names: &Names| names.rosters.clone();
        let own = self.names[at].as_ref().map(held).unwrap_or_default();
        self.heal_rosters(at, &own, &mut done)?;
        let all: BTreeSet<(u64, String)> = self.others(at).flat_map(|(_, _, names)| held(names)).collect();
        for (number, name) in all.difference(&own) {
            match repository.copy_signed(to, ObjectKind::Roster, name) {
                Ok(copied) => done.copied += copied,
                Err(error) if behind && *number == repository.roster.number => return Err(error),
                Err(error @ RepoError::Store { .. }) if is_of(&error, to) && !is_denied(&error) => return Err(error),
                Err(error) if is_elsewhere(&error, to) => self.unread(name, &error, &mut done),
                // Nothing rests on it, and a check names it where it is damaged.
                Err(_) => {}
            }
        }
        Ok(done)
    }

    /// A roster that has its name and not its bytes gets these from another region (`HEAL-2`): the newest, without
    /// which this region doesn't open alone, and in a thorough levelling each.
    fn heal_rosters(&mut self, at: usize, own: &BTreeSet<(u64, String)>, done: &mut Levelled) -> Result<(), RepoError> {
        let repository = self.repository;
        let (to, config) = (&repository.regions[at], &repository.config);
        for (number, name) in own {
            let is_newest = *number == repository.roster.number;
            let Some((_, digest)) = parse_roster_name(name).filter(|_| is_newest || self.thorough) else { continue };
            let damage = match read_roster(&[to], config, *number, digest) {
                Ok(_) => continue,
                Err(error @ RepoError::Store { .. }) => return Err(error),
                Err(error) => error,
            };
            let held = self.others(at).filter(|(_, _, names)| names.rosters.contains(&(*number, name.clone())));
            let whole = held.filter(|(_, from, _)| read_roster(&[from], config, *number, digest).is_ok());
            let bytes = whole.map(|(_, from, _)| get_unchanged(from, name, &digest)).find_map(Result::ok);
            let remedy = match bytes.map(|bytes| replace(to, name, bytes)).transpose()? {
                Some(true) => {
                    done.mended("rosters");
                    continue;
                }
                Some(false) => OWNERS_REMEDY,
                None => "no reached region has it whole; a change of keys, as `keepstone key rotate`, writes a new one",
            };
            // Nothing rests on an older one, and a check names it where it is damaged.
            if is_newest {
                done.issues.push(lacking(to, name, IssueKind::Damaged, format!("{damage}; {remedy}")));
            }
        }
        Ok(())
    }

    /// Another region's copy can't be read: that is that region's fault, and the one that is levelled goes on.
    fn unread(&mut self, name: &str, error: &RepoError, done: &mut Levelled) {
        let RepoError::Store { region, source } = error else { return };
        let subject = format!("{region}:{name}").into_bytes();
        if self.told.insert(subject.clone()) {
            let detail = format!("it can't be read, so that it was not compared: {source}");
            done.issues.push(Issue { kind: IssueKind::Unreadable, subject, detail });
        }
    }

    /// What a region lacks stops it where it lacks the newest roster, too: that one relies on it. Where it
    /// works already, it goes on working.
    fn settle(
        &mut self,
        at: usize,
        name: &str,
        behind: bool,
        outcome: Result<u64, RepoError>,
        done: &mut Levelled,
    ) -> Result<(), RepoError> {
        let to = &self.repository.regions[at];
        match outcome {
            Ok(copied) => done.copied += copied,
            Err(error) if behind => return Err(error),
            Err(error) if is_denied(&error) => {
                let detail =
                    format!("another region holds it; an owner's `keepstone replicate` brings it here: {error}");
                done.issues.push(lacking(to, name, IssueKind::Missing, detail));
            }
            Err(error) if is_taken(&error) => {
                let detail = format!(
                    "what has the name is damaged, and may not be replaced with this access; {OWNERS_REMEDY}: {error}"
                );
                done.issues.push(lacking(to, name, IssueKind::Damaged, detail));
            }
            Err(error) if is_elsewhere(&error, to) => {
                self.unread(name, &error, done);
                let detail = format!("it isn't here, and where it is it can't be read: {error}");
                done.issues.push(lacking(to, name, IssueKind::Missing, detail));
            }
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(error @ RepoError::Missing { .. }) => done.issues.push(lacking(to, name, IssueKind::Missing, error)),
            Err(error) => done.issues.push(lacking(to, name, IssueKind::Damaged, error)),
        }
        Ok(())
    }

    fn accepted(&mut self, at: usize, behind: bool, done: &mut Levelled) -> Result<(), RepoError> {
        let repository = self.repository;
        let to = &repository.regions[at];
        for parts in &repository.roster.accepted {
            for number in parts.numbers() {
                let name = accepted_name(parts.slot, number);
                let size = |names: &Names| names.accepted.get(&name).copied();
                let held = self.names[at].as_ref().and_then(size);
                let differs = || self.others(at).any(|(.., names)| size(names).is_some_and(|size| Some(size) != held));
                if held.is_none() {
                    let outcome = repository.copy_accepted(to, parts, number);
                    self.settle(at, &name, behind, outcome, done)?;
                } else if self.reads_all || behind || differs() {
                    let damage = match read_part(std::slice::from_ref(to), &repository.config, parts, number) {
                        Ok(_) => continue,
                        Err(error @ RepoError::Store { .. }) => return Err(error),
                        Err(error) => error,
                    };
                    let remedy = match self.heal_part(at, parts, number, &damage)? {
                        Healing::Done => {
                            done.mended("accepted lists");
                            continue;
                        }
                        Healing::Denied => OWNERS_REMEDY,
                        Healing::Nowhere => "revoking the slot again writes its list anew",
                    };
                    done.issues.push(lacking(to, &name, IssueKind::Damaged, format!("{damage}; {remedy}")));
                }
            }
        }
        Ok(())
    }

    /// Gives a damaged part the bytes of another region's, which root signed and, where it states them, the roster
    /// proves. One that is whole and of another decision stays: that is no damage of its bytes.
    fn heal_part(
        &self,
        at: usize,
        parts: &AcceptedParts,
        number: u64,
        damage: &RepoError,
    ) -> Result<Healing, RepoError> {
        if matches!(damage, RepoError::Object { source, .. } if source.rule == "ACCEPT-5") {
            return Ok(Healing::Nowhere);
        }
        let (to, name) = (&self.repository.regions[at], accepted_name(parts.slot, number));
        let holders = self.others(at).filter(|(.., names)| names.accepted.contains_key(&name));
        for (_, from, _) in holders {
            let read = read_part(std::slice::from_ref(from), &self.repository.config, parts, number);
            let Ok(bytes) = read.and_then(|(_, digest)| get_unchanged(from, &name, &digest)) else { continue };
            return Ok(if replace(to, &name, bytes)? { Healing::Done } else { Healing::Denied });
        }
        Ok(Healing::Nowhere)
    }

    /// Brings the rings of all stated epochs to a region. One that is damaged there is replaced. One that it has under
    /// the name, whole, but with other bytes than another region, may be of another rotation: the others' then lie
    /// beside it, and readers take the one that is what the roster states (`RING-7`).
    pub(super) fn rings(&mut self, at: usize, behind: bool, done: &mut Levelled) -> Result<(), RepoError> {
        let repository = self.repository;
        let own = repository.secrets.slot;
        for slot in repository.active() {
            for epoch in repository.epochs() {
                let name = ring_name(epoch, slot.slot);
                let of = (epoch, slot.slot);
                let names = |names: &Names| names.rings.get(&of).cloned().unwrap_or_default();
                let held = self.names[at].as_ref().map(names).unwrap_or_default();
                let compared = self.thorough || behind || slot.slot == own || slot.role == Role::Owner;
                // Alone a region has what mends one only where it holds several.
                let comparable = repository.regions.len() > 1 || held.len() > 1;
                let nothing_to_do = !(held.is_empty() || compared && comparable);
                if nothing_to_do {
                    continue;
                }
                let copies = self.copies_of(at, of);
                let outcome = match slot.slot == own {
                    true => self.own_ring(at, &copies, done),
                    false => self.ring(at, &copies, done),
                };
                self.settle(at, &name, behind, outcome, done)?;
            }
        }
        if self.reads_all { self.rings_at_rest(at, done) } else { Ok(()) }
    }

    fn copies_of(&self, at: usize, of: (u64, SlotId)) -> RingCopies {
        let names = |names: &Names| names.rings.get(&of).cloned().unwrap_or_default();
        let held = self.names[at].as_ref().map(names).unwrap_or_default();
        let others = self.others(at);
        let elsewhere = others.flat_map(|(from, _, listed)| names(listed).into_iter().map(move |name| (from, name)));
        RingCopies { epoch: of.0, slot: of.1, held, elsewhere: elsewhere.collect() }
    }

    /// Rings of slots that are not in use any more and of epochs that the roster doesn't state are mended where another
    /// region has them whole: nothing rests on them, but a scrub can't tell.
    fn rings_at_rest(&mut self, at: usize, done: &mut Levelled) -> Result<(), RepoError> {
        let repository = self.repository;
        let is_active = |of: SlotId| repository.active().any(|slot| slot.slot == of);
        let in_use = |(epoch, slot): (u64, SlotId)| is_active(slot) && repository.roster.has_epoch(epoch);
        let held = self.names[at].as_ref().map(|names| names.rings.keys().copied().collect::<Vec<_>>());
        for of in held.unwrap_or_default().into_iter().filter(|of| !in_use(*of)) {
            let copies = self.copies_of(at, of);
            for name in copies.held.iter().filter(|_| copies.held.len() + copies.elsewhere.len() > 1) {
                if self.held_ring(at, name)?.is_err() {
                    self.mend_ring(at, &copies, name, done)?;
                }
            }
        }
        Ok(())
    }

    /// Gives a damaged ring whole bytes that root signed for its epoch and slot (`RING-9`): those that its name
    /// states; under the plain name, which states none, those that its trailer states, or what another region has.
    /// Gives the digest; `None` where none are there, or the store denies it: then a whole one beside it has to do.
    fn mend_ring(
        &mut self,
        at: usize,
        copies: &RingCopies,
        name: &str,
        done: &mut Levelled,
    ) -> Result<Option<Digest>, RepoError> {
        let repository = self.repository;
        let to = &repository.regions[at];
        // A medium or a server may give wrong bytes once: nothing is replaced for that.
        self.rings.remove(&(at, name.to_owned()));
        if let Ok(digest) = self.held_ring(at, name)? {
            return Ok(Some(digest));
        }
        let named = ring_digest(name);
        let exact = match named {
            Some(named) => Some(named),
            None => match to.get(name) {
                Ok(bytes) => bytes.last_chunk().copied().map(Digest),
                Err(error @ RepoError::Store { .. }) => return Err(error),
                Err(_) => None,
            },
        };
        let beside = copies.held.iter().filter(|held| *held != name).map(|held| (at, held.clone()));
        let candidates: Vec<(usize, String)> = copies.elsewhere.iter().cloned().chain(beside).collect();
        let mut found: Option<(usize, String, Digest)> = None;
        for (from, candidate) in candidates {
            let digest = match self.held_ring(from, &candidate) {
                Ok(Ok(digest)) => digest,
                Ok(Err(_)) => continue,
                Err(error) if is_elsewhere(&error, to) => {
                    self.unread(&candidate, &error, done);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if exact == Some(digest) {
                found = Some((from, candidate, digest));
                break;
            }
            // Of another rotation perhaps, but what stood here can't be told any more; of its own slot it can.
            let source = &repository.regions[from];
            let is_right = || {
                copies.slot != repository.secrets.slot
                    || read_ring(&repository.config, &repository.roster, source, &candidate, &repository.secrets)
                        .is_ok()
            };
            if named.is_none() && from != at && found.is_none() && is_right() {
                found = Some((from, candidate, digest));
            }
        }
        let Some((from, candidate, digest)) = found else { return Ok(None) };
        let bytes = match get_unchanged(&repository.regions[from], &candidate, &digest) {
            Ok(bytes) => bytes,
            Err(error) if is_of(&error, to) => return Err(error),
            Err(_) => return Ok(None),
        };
        if !replace(to, name, bytes)? {
            return Ok(None);
        }
        done.mended("rings");
        self.rings.insert((at, name.to_owned()), Ok(digest));
        Ok(Some(digest))
    }

    /// A ring of the slot in use: what the roster states of it can be seen.
    fn own_ring(&mut self, at: usize, copies: &RingCopies, done: &mut Levelled) -> Result<u64, RepoError> {
        let repository = self.repository;
        let right = |at: usize, name: &str| {
            let region = &repository.regions[at];
            read_ring(&repository.config, &repository.roster, region, name, &repository.secrets)
        };
        let (mut failure, mut is_here) = (None, false);
        for name in &copies.held {
            match right(at, name) {
                Ok(found) => is_here |= found.is_some(),
                Err(error @ RepoError::Store { .. }) => return Err(error),
                Err(error) => {
                    if self.held_ring(at, name)?.is_ok() || self.mend_ring(at, copies, name, done)?.is_some() {
                        is_here |= matches!(right(at, name), Ok(Some(_)));
                    }
                    failure = Some(error);
                }
            }
        }
        if is_here {
            return Ok(0);
        }
        for (from, name) in &copies.elsewhere {
            let brought = match right(*from, name).and_then(|ring| Ok((ring, self.held_ring(*from, name)?))) {
                Ok((Some(_), Ok(digest))) => self.put_ring(at, copies, &copies.held, (*from, name, &digest), done),
                Err(error @ RepoError::Store { .. }) => Err(error),
                _ => continue,
            };
            match brought {
                Err(error) if is_elsewhere(&error, &repository.regions[at]) => {
                    self.unread(name, &error, done);
                    failure = failure.or(Some(error));
                }
                brought => return brought,
            }
        }
        Err(failure.unwrap_or_else(|| self.missing(at, copies)))
    }

    /// Another slot's ring: only that slot can tell which one is right, so it gets each that root signed.
    fn ring(&mut self, at: usize, copies: &RingCopies, done: &mut Levelled) -> Result<u64, RepoError> {
        let to = &self.repository.regions[at];
        let (mut sound, mut damage, mut unread, mut refused, mut copied) = (BTreeSet::new(), None, None, None, 0);
        for name in &copies.held {
            let detail = match self.held_ring(at, name)? {
                Ok(digest) => {
                    sound.insert(digest);
                    continue;
                }
                Err(detail) => detail,
            };
            match self.mend_ring(at, copies, name, done)? {
                Some(digest) => drop(sound.insert(digest)),
                None => damage = Some(detail),
            }
        }
        let mut taken = copies.held.clone();
        for (from, name) in &copies.elsewhere {
            let brought = match self.held_ring(*from, name) {
                Ok(Ok(digest)) if !sound.contains(&digest) => {
                    let put = self.put_ring(at, copies, &taken, (*from, name, &digest), done);
                    put.inspect(|_| sound.extend([digest]))
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match brought {
                Ok(put) => {
                    copied += put;
                    taken.insert(ring_name(copies.epoch, copies.slot));
                }
                Err(error) if is_elsewhere(&error, to) => {
                    self.unread(name, &error, done);
                    unread = Some(error);
                }
                // Another one may find its place.
                Err(error) if is_taken(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        match damage {
            Some(detail) if sound.is_empty() => {
                let name = ring_name(copies.epoch, copies.slot);
                let detail = format!(
                    "{detail}; no reached region has a whole one: if none has, `keepstone key remove` and then `key add` \
                     give the slot's holder a new slot"
                );
                Err(to.object_error(&name, DecodeError::new("OBJ-8", detail)))
            }
            _ if sound.is_empty() => Err(unread.unwrap_or_else(|| self.missing(at, copies))),
            _ => Ok(copied),
        }
    }

    fn missing(&self, at: usize, copies: &RingCopies) -> RepoError {
        let name = ring_name(copies.epoch, copies.slot);
        RepoError::Missing { region: self.repository.regions[at].name.clone(), name }
    }

    fn held_ring(&mut self, at: usize, name: &str) -> Result<HeldRing, RepoError> {
        let key = (at, name.to_owned());
        if let Some(known) = self.rings.get(&key) {
            return Ok(known.clone());
        }
        let held = match read_sealed_ring(&self.repository.config, &self.repository.regions[at], name) {
            Ok(Some((_, digest))) => Ok(digest),
            Ok(None) => Err("it went away".to_owned()),
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        self.rings.insert(key, held.clone());
        Ok(held)
    }

    /// Puts a ring from another region under the plain name, or beside what has that: region, name and digest there.
    /// What has the name with its digest, and other bytes, is damaged, and replaced.
    fn put_ring(
        &mut self,
        at: usize,
        copies: &RingCopies,
        taken: &BTreeSet<String>,
        (from, name, digest): (usize, &str, &Digest),
        done: &mut Levelled,
    ) -> Result<u64, RepoError> {
        let to = &self.repository.regions[at];
        let bytes = get_unchanged(&self.repository.regions[from], name, digest)?;
        let payload = bytes.clone().into();
        let plain = ring_name(copies.epoch, copies.slot);
        let beside = ring_name_beside(copies.epoch, copies.slot, digest);
        if !taken.contains(&plain) {
            match put_with_retries(&*to.store, &plain, &payload) {
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
                put => return put.map(|()| 1).map_err(|e| to.error(e)),
            }
        }
        let taken = match put_with_retries(&*to.store, &beside, &payload) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => error,
            put => return put.map(|()| 1).map_err(|e| to.error(e)),
        };
        if !replace(to, &beside, bytes)? {
            return Err(to.error(taken));
        }
        done.mended("rings");
        Ok(0)
    }

    pub(super) fn key_files(&mut self, at: usize, behind: bool, done: &mut Levelled) -> Result<(), RepoError> {
        let repository = self.repository;
        let to = &repository.regions[at];
        let own = self.names[at].as_ref().map(|names| names.files.clone()).unwrap_or_default();
        for slot in repository.active() {
            let held = own.get(&slot.slot).and_then(|numbers| numbers.last());
            let listed = self.others(at).filter_map(|(_, _, names)| names.files.get(&slot.slot)).flatten();
            // Of its own slot the file that it opened. Of others, whose files it can't judge, only where there is none:
            // else whoever can write to one region could lock a slot out of all of them with a higher number.
            let opened = (slot.slot == repository.secrets.slot).then_some(repository.key_file.0);
            let missing = |number: &u64| match (held, opened) {
                (None, _) => true,
                (Some(held), Some(opened)) => held < number && *number == opened,
                (Some(_), None) => false,
            };
            let newer: BTreeSet<u64> = listed.copied().filter(missing).collect();
            let mut outcome = Ok(0);
            // One that is whole, though a higher one isn't: without any the region doesn't open.
            for number in newer.iter().rev() {
                outcome = self.key_file(at, slot, *number);
                if matches!(outcome, Ok(_) | Err(RepoError::Store { .. })) {
                    break;
                }
            }
            let number = newer.last().copied().unwrap_or_default();
            self.settle(at, &key_name(slot.slot, number), behind, outcome, done)?;
            if let Some(held) = held.filter(|_| self.reads_all && opened.is_none()) {
                self.heal_key_file(at, slot.slot, *held, done)?;
            }
        }
        // The file that opened the repository lies here: what older ones open shall not open it any more.
        let (number, bytes) = (repository.key_file.0, &repository.key_file.1);
        let slot = repository.secrets.slot;
        let older = own.get(&slot).into_iter().flatten().filter(|held| **held < number);
        let older: Vec<u64> = older.copied().collect();
        if older.is_empty() && repository.regions.len() < 2 {
            return Ok(());
        }
        let name = key_name(slot, number);
        match to.store.get(&name, KEY_FILE_BYTES_MAX as u64) {
            Ok(held) if held == *bytes => {
                // Where the store denies it they stay, as after a change that wasn't interrupted.
                older.iter().for_each(|number| drop(to.store.delete(&key_name(slot, *number))));
            }
            Ok(held) if is_key_file(&held) => {
                let detail = "it differs from the one that opened the repository now, in another region: it is damaged, or \
                              two changes of the passphrase met; changing it once more replaces both";
                done.issues.push(lacking(to, &name, IssueKind::Damaged, detail));
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) if error.kind != StoreErrorKind::Range => return Err(to.error(error)),
            // Nothing opens what has not even the form of one.
            Ok(_) | Err(_) => self.put_key_file(at, &name, bytes.clone(), done)?,
        }
        Ok(())
    }

    /// Another slot's key file that has not even the form of one, which no secret opens, gets the bytes of the same
    /// number from another region. More can't be told: it has no digest.
    fn heal_key_file(&self, at: usize, slot: SlotId, number: u64, done: &mut Levelled) -> Result<(), RepoError> {
        let name = key_name(slot, number);
        let read = |region: &RegionHandle| match region.store.get(&name, KEY_FILE_BYTES_MAX as u64) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| is_key_file(bytes))),
            Err(error) if error.kind == StoreErrorKind::Range => Ok(None),
            Err(error) => Err(region.error(error)),
        };
        let mut holders = self
            .others(at)
            .filter(|(.., names)| names.files.get(&slot).is_some_and(|numbers| numbers.contains(&number)));
        match read(&self.repository.regions[at]) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => match holders.find_map(|(_, from, _)| read(from).ok().flatten()) {
                Some(bytes) => self.put_key_file(at, &name, bytes, done),
                None => Ok(()),
            },
            // Its slot replaced it meanwhile.
            Err(RepoError::Store { source, .. }) if source.kind == StoreErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn put_key_file(&self, at: usize, name: &str, bytes: Vec<u8>, done: &mut Levelled) -> Result<(), RepoError> {
        let to = &self.repository.regions[at];
        if replace(to, name, bytes)? {
            done.mended("key files");
        } else {
            let detail = format!("KEY-1: it is no whole key file; {OWNERS_REMEDY}");
            done.issues.push(lacking(to, name, IssueKind::Damaged, detail));
        }
        Ok(())
    }

    fn key_file(&self, at: usize, slot: &RosterSlot, number: u64) -> Result<u64, RepoError> {
        let repository = self.repository;
        let (to, name) = (&repository.regions[at], key_name(slot.slot, number));
        let mut failure = None;
        for (_, from, names) in self.others(at) {
            if !names.files.get(&slot.slot).is_some_and(|numbers| numbers.contains(&number)) {
                continue;
            }
            let bytes = match from.store.get(&name, KEY_FILE_BYTES_MAX as u64) {
                Ok(bytes) => bytes,
                Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Range) => continue,
                Err(error) => {
                    failure = Some(from.error(error));
                    continue;
                }
            };
            let own = slot.slot == repository.secrets.slot && number == repository.key_file.0;
            if !is_key_file(&bytes) || own && bytes != repository.key_file.1 {
                failure = Some(from.object_error(&name, DecodeError::new("KEY-1", "it is no whole key file")));
                continue;
            }
            put_with_retries(&*to.store, &name, &bytes.into()).map_err(|e| to.error(e))?;
            return Ok(1);
        }
        Err(failure.unwrap_or_else(|| RepoError::Missing { region: to.name.clone(), name }))
    }
}

/// An object's bytes, once more, which were verified by this digest.
fn get_unchanged(from: &RegionHandle, name: &str, digest: &Digest) -> Result<Vec<u8>, RepoError> {
    let bytes = from.get(name)?;
    match check_digest(&bytes).map_err(|source| from.object_error(name, source))? == *digest {
        true => Ok(bytes),
        false => Err(from.object_error(name, DecodeError::new("OBJ-8", "it changed while it was read"))),
    }
}

/// What came of a damaged part of an accepted list.
enum Healing {
    Done,
    /// The access allows no replacing.
    Denied,
    /// No reached region has it whole.
    Nowhere,
}

/// Gives a damaged object bytes that are proven to be right; the caller has seen that what is there is not whole.
/// False where the access allows no replacing.
fn replace(to: &RegionHandle, name: &str, bytes: Vec<u8>) -> Result<bool, RepoError> {
    match to.store.heal(name, &bytes.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::Denied => Ok(false),
        Err(error) => Err(to.error(error)),
    }
}

/// What has the name has other bytes.
fn is_taken(error: &RepoError) -> bool {
    matches!(error, RepoError::Store { source, .. } if source.kind == StoreErrorKind::AlreadyExists)
}

/// What a region's store said.
fn is_of(error: &RepoError, to: &RegionHandle) -> bool {
    matches!(error, RepoError::Store { region, .. } if *region == to.name)
}

/// What another region's store said.
fn is_elsewhere(error: &RepoError, to: &RegionHandle) -> bool {
    matches!(error, RepoError::Store { region, .. } if *region != to.name)
}

fn is_denied(error: &RepoError) -> bool {
    matches!(error, RepoError::Store { source, .. } if source.kind == StoreErrorKind::Denied)
}

impl Repository {
    /// Brings one region's keys up to the newest roster, if it lacks that: a change that was interrupted, or
    /// made while the region was not configured. Rings, key files and lists go first, the roster last. Needs no
    /// owner's key, since everything is copied as it stands. Gives how many objects were copied.
    ///
    /// # Errors
    /// When a region fails, or none has a whole copy of what this one lacks.
    pub fn level_keys(&self, at: usize) -> Result<u64, RepoError> {
        let to = &self.regions[at];
        let newest = roster_name(self.roster.number, &self.roster_digest);
        if to.store.size(&newest).map_err(|e| to.error(e))?.is_some() {
            return Ok(0);
        }
        Levelling::new(self, true).region(at).map(|done| done.copied)
    }

    /// Brings to each region what another holds of keys and it lacks, also where it has the newest roster; gives
    /// of each what it came to. Rings are compared by their bytes: those of all slots if `thorough` or if they are
    /// few, else those of the slot in use and of owners.
    pub fn level_all_keys(&self, thorough: bool) -> Vec<Result<Levelled, RepoError>> {
        let mut levelling = Levelling::new(self, thorough);
        (0..self.regions.len()).map(|at| levelling.region(at)).collect()
    }

    /// The rosters, older ones too, that some region doesn't hold as they were put.
    ///
    /// # Errors
    /// When a region can't be listed or read.
    pub fn damaged_rosters(&self) -> Result<Vec<Issue>, RepoError> {
        let mut found = Vec::new();
        for region in &self.regions {
            for (_, name) in Names::read(region)?.rosters {
                let Some((number, digest)) = parse_roster_name(&name) else { continue };
                match read_roster(&[region], &self.config, number, digest) {
                    Ok(_) => {}
                    Err(error @ RepoError::Store { .. }) => return Err(error),
                    Err(error) => found.push(lacking(region, &name, IssueKind::Damaged, error)),
                }
            }
        }
        Ok(found)
    }

    /// What regions lack of keys that others hold, by the names alone, for a person.
    ///
    /// # Errors
    /// When a region can't be listed.
    pub fn key_differences(&self) -> Result<Vec<String>, RepoError> {
        let names = self.regions.iter().map(Names::read).collect::<Result<Vec<Names>, RepoError>>()?;
        let mut found = Vec::new();
        for (region, own) in self.regions.iter().zip(&names) {
            let mut lacks = |what: String| found.push(format!("region '{}' lacks {what}", region.name));
            let newest = roster_name(self.roster.number, &self.roster_digest);
            if !own.rosters.contains(&(self.roster.number, newest.clone())) {
                lacks(newest);
            }
            for slot in self.active() {
                let last = |names: &Names| names.files.get(&slot.slot).and_then(|numbers| numbers.last()).copied();
                if let Some(newest) = names.iter().filter_map(last).max().filter(|newest| last(own) != Some(*newest)) {
                    lacks(format!("{}: what opened the slot before opens it there still", key_name(slot.slot, newest)));
                }
                for epoch in self.epochs() {
                    if !own.rings.contains_key(&(epoch, slot.slot)) {
                        lacks(ring_name(epoch, slot.slot));
                    }
                }
            }
            for parts in &self.roster.accepted {
                let named = parts.numbers().map(|number| accepted_name(parts.slot, number));
                named.filter(|name| !own.accepted.contains_key(name)).for_each(&mut lacks);
            }
        }
        Ok(found)
    }

    /// Copies a part of an accepted list from the first other region whose copy is what the roster states.
    pub(super) fn copy_accepted(
        &self,
        to: &RegionHandle,
        parts: &AcceptedParts,
        number: u64,
    ) -> Result<u64, RepoError> {
        let name = accepted_name(parts.slot, number);
        self.copy(to, &name, &|from, name| {
            let (_, digest) = match read_part(std::slice::from_ref(from), &self.config, parts, number) {
                Err(RepoError::Missing { .. }) => return Ok(None),
                read => read?,
            };
            get_unchanged(from, name, &digest).map(Some)
        })
    }
}

//! Reads packs whole: from whichever region has them so, or out of several regions' copies.
//!
//! Guarantees: what is given has the digest that its name states; a pack that can't be had is told once, with what
//! each copy's trouble is, and holds up no other; a copy that turned out to be damaged gets the pack's bytes, where it
//! may be replaced, as a pack that was cut short does (`HEAL-1`).

use super::heal::replace;
use super::join::{Apart, Effort, join};
use super::{Pending, Relied, Replicated, misnamed, note_as, stop_if_asked, watch};
use crate::crypto::object::check_digest;
use crate::format::ids::{Digest, PackId, SessionId};
use crate::format::pack::PackHeader;
use crate::format::segment::SegmentPack;
use crate::index::{FrameEntry, PackEntry};
use crate::limits::PACK_BYTES_MAX;
use crate::pack::reader::pack_name;
use crate::repo::open::RegionHandle;
use crate::repo::{RepoError, Repository, Session};
use crate::report::{Issue, IssueKind, Monitor, Phase};
use crate::store::{Payload, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A pack as a segment states it, and where it is.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The session in its header.
    pub session: SessionId,
    /// Its size in bytes.
    pub size: u64,
    /// Where its frames are.
    pub frames: Vec<FrameEntry>,
    /// The regions that list it and have it in this size, by index into the repository's.
    pub held: Vec<usize>,
}

impl Copied {
    /// As a segment states it.
    pub fn from_segment(pack: &SegmentPack, held: Vec<usize>) -> Self {
        Self::from_entry(&PackEntry::from_segment(pack, Digest::default(), &[]), held)
    }

    /// As the index knows it.
    pub fn from_entry(entry: &PackEntry, held: Vec<usize>) -> Self {
        Copied { session: entry.session, size: entry.size, frames: entry.frames.clone(), held }
    }
}

/// Packs that some region holds damaged.
pub type DamagedPacks = BTreeMap<PackId, (Copied, BTreeSet<usize>)>;

/// What packs turned out to be where they were read.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Those that can't, with why.
    spoiled: BTreeMap<PackId, String>,
    /// Those that can be had, and the regions whose copy is damaged.
    damaged: DamagedPacks,
}

impl Whole {
    /// True for a pack that was read, and that can't be had whole.
    pub fn is_spoiled(&self, pack: &PackId) -> bool {
        self.spoiled.contains_key(pack)
    }

    /// Why it can't.
    pub fn why_spoiled(&self, pack: &PackId) -> Option<&str> {
        self.spoiled.get(pack).map(String::as_str)
    }

    /// Nobody need try again.
    pub fn found_spoiled(&mut self, pack: PackId, troubles: &[Trouble]) {
        let details: Vec<&str> = troubles.iter().map(|trouble| trouble.detail.as_str()).collect();
        self.spoiled.insert(pack, details.join("; "));
    }

    /// True when there is such a pack.
    pub fn is_any_spoiled(&self) -> bool {
        !self.spoiled.is_empty()
    }

    /// Some regions' copies of a pack that was had are damaged.
    pub fn found_damaged(&mut self, pack: PackId, copied: &Copied, regions: &[usize]) {
        if !regions.is_empty() {
            self.damaged.entry(pack).or_insert_with(|| (copied.clone(), BTreeSet::new())).1.extend(regions);
        }
    }

    /// The packs to be put right.
    pub fn take_damaged(&mut self) -> DamagedPacks {
        std::mem::take(&mut self.damaged)
    }
}

/// A pack's bytes.
pub(super) struct Read {
    pub bytes: Vec<u8>,
    /// The regions whose copy has other ones.
    pub damaged: Vec<usize>,
    /// The one that has it whole; none where it was put together from several.
    pub whole_in: Option<usize>,
}

/// Why a pack was not read.
pub(super) enum Unread {
    /// No region that lists it has it whole, and it can't be put together: each copy's trouble.
    Spoiled(Vec<Trouble>),
    /// A region doesn't answer, or gives this slot no packs, or the user stopped it: that says nothing about the pack.
    Region(RepoError),
}

/// What is wrong with a region's copy of a pack.
pub(super) struct Trouble {
    pub at: usize,
    pub kind: IssueKind,
    pub detail: String,
}

/// A pack's bytes from the first region whose copy is whole; else put together from copies that are damaged each
/// elsewhere, cut short or too long ones included, in whichever region these are: the name proves what comes of them.
pub(super) fn read_pack(
    repository: &Repository,
    pack: PackId,
    copied: &Copied,
    monitor: &dyn Monitor,
) -> Result<Read, Unread> {
    let (mut troubles, mut unanswered) = (Vec::new(), None);
    let (mut copies, mut damaged) = (Vec::new(), Vec::new());
    let others = (0..repository.regions.len()).filter(|at| !copied.held.contains(at));
    for at in copied.held.iter().copied().chain(others) {
        let region = &repository.regions[at];
        let is_held = copied.held.contains(&at);
        let bytes = match region.store.get(&pack_name(&pack), PACK_BYTES_MAX) {
            Ok(bytes) => bytes,
            // Nobody says that it has the pack.
            Err(_) if !is_held => continue,
            Err(source) => {
                let kind = match source.kind {
                    // No access to one object is none to the others.
                    StoreErrorKind::Denied => None,
                    kind => kind.issue_kind(),
                };
                let error = region.error(source);
                match kind {
                    Some(kind) => troubles.push(Trouble { at, kind, detail: error.to_string() }),
                    None => unanswered = Some(error),
                }
                continue;
            }
        };
        match compare(region, pack, &bytes) {
            Ok(()) => return Ok(Read { bytes, damaged, whole_in: Some(at) }),
            Err(error) => {
                if is_held {
                    troubles.push(Trouble { at, kind: IssueKind::Damaged, detail: error.to_string() });
                    damaged.push(at);
                }
                if !copies.contains(&bytes) {
                    copies.push(bytes);
                }
            }
        }
    }
    // What is stated of its size may be a lie, as what a copy has of it may be damage.
    let stated = usize::try_from(copied.size).ok().filter(|size| *size as u64 <= PACK_BYTES_MAX);
    let mut lengths: Vec<usize> = stated.into_iter().collect();
    for copy in &copies {
        if !lengths.contains(&copy.len()) {
            lengths.push(copy.len());
        }
    }
    let mut effort = Effort::new(monitor);
    for length in lengths {
        match join(&repository.keyring, pack, length, &copies, &copied.frames, &mut effort) {
            Ok(bytes) => return Ok(Read { bytes, damaged, whole_in: None }),
            Err(Apart::Cancelled) => return Err(Unread::Region(RepoError::Cancelled)),
            Err(Apart::Hopeless) => {}
        }
    }
    Err(unanswered.map_or(Unread::Spoiled(troubles), Unread::Region))
}

fn compare(from: &RegionHandle, pack: PackId, bytes: &[u8]) -> Result<(), RepoError> {
    let name = pack_name(&pack);
    let digest = check_digest(bytes).map_err(|source| from.object_error(&name, source))?;
    match digest.0 == pack.0 {
        true => Ok(()),
        false => Err(misnamed(from, &name)),
    }
}

/// Tells of a pack that can't be had whole, and remembers it.
pub(super) fn pass_over(
    repository: &Repository,
    pack: PackId,
    troubles: Vec<Trouble>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) {
    done.packs_read.found_spoiled(pack, &troubles);
    for Trouble { at, kind, detail } in troubles {
        let subject = format!("{}:{}", repository.regions[at].name, pack_name(&pack)).into_bytes();
        // One that is gone since it was listed may be in its place again.
        done.lasting |= kind != IssueKind::Missing;
        note_as(kind, &mut done.issues, monitor, subject, &detail);
    }
}

/// What became of damaged packs.
#[derive(Debug, Default)]
pub struct Mended {
    /// Copies that have their right bytes again.
    pub healed: u64,
    /// Copies that stay damaged, and why.
    pub issues: Vec<Issue>,
}

/// Gives damaged copies of packs the bytes that their name proves, from a region that has them whole or put together
/// from several, as an ordinary writer there (`HEAL-1`). Each pack is read once, for all regions that hold it damaged.
///
/// # Errors
/// [`RepoError::Cancelled`] when the user stops it. What single packs and regions say becomes an issue.
pub fn mend(repository: &Repository, damaged: &DamagedPacks, monitor: &dyn Monitor) -> Result<Mended, RepoError> {
    let mut mended = Mended::default();
    if damaged.is_empty() {
        return Ok(mended);
    }
    monitor.phase(Phase::Check, Some(damaged.len() as u64), None);
    let mut writing: BTreeMap<usize, Writing> = BTreeMap::new();
    let outcome = (|| {
        for at in damaged.values().flat_map(|(_, regions)| regions).copied().collect::<BTreeSet<usize>>() {
            let here = damaged.values().filter(|(_, regions)| regions.contains(&at));
            match Writing::begin(repository, at, here.map(|(copied, _)| copied.session)) {
                Ok(begun) => drop(writing.insert(at, begun)),
                Err(error) => given_up(repository, at, error, &mut mended, monitor)?,
            }
        }
        for (pack, (copied, regions)) in damaged {
            stop_if_asked(monitor)?;
            // Where the name is dead nothing needs it, or what does has another copy (`NAME-3`).
            let takes = |at: &usize| writing.get(at).is_some_and(|begun| !begun.missing.contains(pack));
            let regions: Vec<usize> = regions.iter().copied().filter(takes).collect();
            if !regions.is_empty() {
                mend_pack(repository, *pack, copied, &regions, &mut writing, &mut mended, monitor)?;
            }
            monitor.advance(1, 0);
        }
        Ok(())
    })();
    for (at, mut begun) in writing {
        let watched = outcome.is_ok().then(|| watch(repository, &mut begun.session, &begun.relied));
        begun.session.end(repository);
        if let Some(Err(error)) = watched {
            given_up(repository, at, error, &mut mended, monitor)?;
        }
    }
    outcome.map(|()| mended)
}

/// What keeps a collection of a region from the packs that are put right there.
struct Writing {
    session: Session,
    relied: Relied,
    missing: HashSet<PackId>,
}

impl Writing {
    fn begin(
        repository: &Repository,
        at: usize,
        adopted: impl IntoIterator<Item = SessionId>,
    ) -> Result<Self, Pending> {
        let session = Session::open_in(repository, at)?;
        let mut begun = Writing { session, relied: Relied::default(), missing: HashSet::new() };
        if let Err(error) = begun.adopt(repository, adopted) {
            begun.session.end(repository);
            return Err(error);
        }
        begun.missing = begun.session.missing();
        Ok(begun)
    }

    fn adopt(&mut self, repository: &Repository, sessions: impl IntoIterator<Item = SessionId>) -> Result<(), Pending> {
        self.session.adopt(repository, sessions)?;
        watch(repository, &mut self.session, &self.relied)
    }
}

/// Nothing more is put right in a region.
fn given_up(
    repository: &Repository,
    at: usize,
    error: Pending,
    mended: &mut Mended,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    if let Pending::Repo(RepoError::Cancelled) = error {
        return Err(RepoError::Cancelled);
    }
    let subject = format!("{}:packs/", repository.regions[at].name).into_bytes();
    let detail = format!("damaged packs were not put right: {error}");
    note_as(IssueKind::Damaged, &mut mended.issues, monitor, subject, &detail);
    Ok(())
}

fn mend_pack(
    repository: &Repository,
    pack: PackId,
    copied: &Copied,
    regions: &[usize],
    writing: &mut BTreeMap<usize, Writing>,
    mended: &mut Mended,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    let name = pack_name(&pack);
    let subject = |at: usize| format!("{}:{name}", repository.regions[at].name).into_bytes();
    let tell = |at: usize, detail: String, mended: &mut Mended| {
        note_as(IssueKind::Damaged, &mut mended.issues, monitor, subject(at), &detail);
    };
    let read = match read_pack(repository, pack, copied, monitor) {
        Ok(read) => read,
        Err(Unread::Region(RepoError::Cancelled)) => return Err(RepoError::Cancelled),
        Err(Unread::Region(error)) => {
            let detail = format!("it is damaged, and was not put right: {error}");
            regions.iter().for_each(|at| tell(*at, detail.clone(), mended));
            return Ok(());
        }
        Err(Unread::Spoiled(_)) => {
            regions.iter().for_each(|at| tell(*at, format!("it is damaged; {KEEP}"), mended));
            return Ok(());
        }
    };
    let stated = PackHeader::decode_fixed(&read.bytes).map(|(header, _)| header.session);
    let bytes = bytes::Bytes::from(read.bytes);
    let from = match read.whole_in {
        Some(whole) => format!("it was read whole in region '{}'", repository.regions[whole].name),
        None => "it was put together from several regions' copies".to_owned(),
    };
    for at in regions.iter().copied().filter(|at| read.whole_in != Some(*at)) {
        let Some(begun) = writing.get_mut(&at) else { continue };
        begun.relied.add(pack);
        if let Ok(session) = stated
            && session != copied.session
            // A segment may state another one than the header, which a collector goes by.
            && let Err(error) = begun.adopt(repository, [session])
        {
            begun.session.end(repository);
            writing.remove(&at);
            given_up(repository, at, error, mended, monitor)?;
            continue;
        }
        match replace(&repository.regions[at], &name, &Payload::Bytes(bytes.clone())) {
            Ok(true) => {
                mended.healed += 1;
                let detail = format!("its bytes were not those of its name: it has them again, {from}");
                monitor.issue(&Issue { kind: IssueKind::Damaged, subject: subject(at), detail });
            }
            Ok(false) => {
                let remove = match read.whole_in {
                    Some(_) => ": `keepstone replicate` brings it back once this copy is removed",
                    None => ", so don't remove it: other parts of it are needed",
                };
                let denied = "its bytes are not those of its name, and this access may not replace them";
                tell(at, format!("{denied}; {from}{remove}"), mended);
            }
            Err(error) => tell(at, format!("it is damaged, and was not put right: {error}"), mended),
        }
    }
    Ok(())
}

/// What is said of a pack that can't be had whole.
pub const KEEP: &str = "no reached region has it whole, and together they don't: don't remove it, other parts of it are \
                        needed";

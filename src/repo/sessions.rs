//! Reads every session of a region, as a collector must know them: who is at work, what it has observed,
//! what it relies on. Page: `format-spec/sessions.md`.
//!
//! Guarantees: an object that is damaged is never taken for one that is absent. What is whole but not signed
//! by whom it claims, or copied from elsewhere, counts for nobody and is left out (`SESSION-2`, `COUNT-3`).

use super::RepoError;
use super::at_once::at_once;
use super::open::{RegionHandle, Repository, WRITERS};
use crate::crypto::CryptoError;
use crate::crypto::object;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{PackId, SessionId, SlotId, SnapshotId, number_from_name, number_name};
use crate::format::session::{Commit, Session, SessionEnd};
use crate::format::wire::DecodeError;
use crate::store::list_sorted;
use std::collections::BTreeMap;

/// What a region holds of one session.
#[derive(Debug)]
pub struct SessionRecord {
    /// The slot that signed its first state that is left; none when no state is.
    pub signer: Option<SlotId>,
    /// The newest generation that it has taken into account.
    pub observed: u64,
    /// Condemned packs that it relies on.
    pub needs: Vec<PackId>,
    /// Sessions whose packs it adopts.
    pub adopts: Vec<SessionId>,
    /// Snapshots whose chunks it relies on.
    pub bases: Vec<SnapshotId>,
    /// When it was opened by its host's clock, nanoseconds since the Unix epoch; for display only.
    pub started_at: i64,
    /// It said that it ended.
    pub ended: bool,
    /// A state or its end that can't be read: what the session relies on isn't known.
    pub damage: Option<RepoError>,
    /// The names of its objects, the end last.
    pub objects: Vec<String>,
}

/// True for an object that is whole and yet signed by nobody who may, or by a slot that was revoked and whose
/// list doesn't name it (`COLLECT-7`): no program will count it.
pub fn is_forged(error: &CryptoError) -> bool {
    match error {
        CryptoError::Signature { .. } | CryptoError::Revoked { .. } => true,
        CryptoError::Decode(source) => matches!(source.rule, "SIGN-2" | "OBJ-9"),
        _ => false,
    }
}

/// What reading one object came to.
enum Read<T> {
    Valid(SlotId, T),
    /// Gone since it was listed, forged, or copied from elsewhere.
    Nothing,
    Damaged(RepoError),
}

fn read_object<T>(
    repository: &Repository,
    region: &RegionHandle,
    name: &str,
    kind: ObjectKind,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    fits: impl Fn(&T) -> bool,
) -> Result<Read<T>, RepoError> {
    let bytes = match region.get(name) {
        Ok(bytes) => bytes,
        Err(RepoError::Missing { .. }) => return Ok(Read::Nothing),
        Err(error) => return Err(error),
    };
    let signed = match object::decode(kind, repository.config.repository, &bytes) {
        Ok(signed) => signed,
        Err(source) if source.rule == "OBJ-9" => return Ok(Read::Nothing),
        Err(source) => return Ok(Read::Damaged(region.object_error(name, source))),
    };
    match repository.verify_slot(&signed, &WRITERS) {
        Ok(()) => {}
        Err(error) if is_forged(&error) => return Ok(Read::Nothing),
        Err(error) => return Ok(Read::Damaged(region.crypto_error(name, error))),
    }
    Ok(match decode(signed.envelope.payload) {
        Ok(value) if fits(&value) => Read::Valid(signed.envelope.signer, value),
        Ok(_) => Read::Nothing,
        Err(source) => Read::Damaged(region.object_error(name, source)),
    })
}

#[derive(Default)]
struct Names {
    states: Vec<u64>,
    end: bool,
}

/// Reads all sessions of a region: the highest state of each, as its first signer wrote it.
///
/// # Errors
/// When the region can't be listed or stops answering. What a damaged object keeps from being known is in
/// the session's record.
pub fn read(repository: &Repository, region: &RegionHandle) -> Result<BTreeMap<SessionId, SessionRecord>, RepoError> {
    let mut listed: BTreeMap<SessionId, Names> = BTreeMap::new();
    for object in list_sorted(&*region.store, "sessions/").map_err(|e| region.error(e))? {
        let parts = object.name.strip_prefix("sessions/").and_then(|name| name.split_once('/'));
        let Some((Some(id), part)) = parts.map(|(id, part)| (SessionId::from_hex(id), part)) else { continue };
        match (part, number_from_name(part)) {
            ("end", _) => listed.entry(id).or_default().end = true,
            (_, Some(number)) => listed.entry(id).or_default().states.push(number),
            _ => {}
        }
    }
    let listed: Vec<(SessionId, Names)> = listed.into_iter().collect();
    let records = at_once(&listed, |(id, names)| read_session(repository, region, *id, names))?;
    Ok(listed.iter().zip(records).filter_map(|((id, _), record)| Some((*id, record?))).collect())
}

fn read_session(
    repository: &Repository,
    region: &RegionHandle,
    id: SessionId,
    names: &Names,
) -> Result<Option<SessionRecord>, RepoError> {
    let mut objects: Vec<String> = names.states.iter().map(|number| state_name(id, *number)).collect();
    let mut damage = None;
    let mut read_state = |number: u64| {
        let fits =
            |state: &Session| state.session == id && state.number == number && state.region == region.info.region;
        let name = state_name(id, number);
        Ok::<_, RepoError>(match read_object(repository, region, &name, ObjectKind::Session, Session::decode, fits)? {
            Read::Valid(signer, state) => Some((signer, state)),
            Read::Nothing => None,
            Read::Damaged(error) => {
                damage.get_or_insert(error);
                None
            }
        })
    };
    // Whoever signed the first state owns the session; what others put beside it says nothing.
    let mut first = None;
    for number in &names.states {
        first = read_state(*number)?;
        if first.is_some() {
            break;
        }
    }
    let mut signer = first.as_ref().map(|(signer, _)| *signer);
    let mut newest = None;
    for number in names.states.iter().rev() {
        if first.as_ref().is_some_and(|(_, state)| state.number == *number) {
            break;
        }
        newest = read_state(*number)?.filter(|(other, _)| Some(*other) == signer);
        if newest.is_some() {
            break;
        }
    }
    let state = newest.or(first).map(|(_, state)| state);
    let mut ended = false;
    if names.end {
        let name = format!("sessions/{id}/end");
        let fits = |end: &SessionEnd| end.session == id && end.region == region.info.region;
        match read_object(repository, region, &name, ObjectKind::SessionEnd, SessionEnd::decode, fits)? {
            Read::Valid(other, _) => {
                ended = signer.is_none_or(|signer| signer == other);
                signer = signer.or(Some(other));
            }
            Read::Nothing => {}
            Read::Damaged(error) => {
                damage.get_or_insert(error);
            }
        }
        objects.push(name);
    }
    if state.is_none() && !ended && damage.is_none() {
        return Ok(None);
    }
    let state = state.unwrap_or(Session {
        session: id,
        number: 0,
        region: region.info.region,
        observed: 0,
        needs: Vec::new(),
        adopts: Vec::new(),
        started_at: 0,
        bases: Vec::new(),
    });
    Ok(Some(SessionRecord {
        signer,
        observed: state.observed,
        needs: state.needs,
        adopts: state.adopts,
        bases: state.bases,
        started_at: state.started_at,
        ended,
        damage,
        objects,
    }))
}

fn state_name(id: SessionId, number: u64) -> String {
    format!("sessions/{id}/{}", number_name(number))
}

/// The commits of a region.
#[derive(Debug, Default)]
pub struct Commits {
    /// By session, with their signers.
    pub live: BTreeMap<SessionId, (Commit, SlotId)>,
    /// Those that were not to be read.
    pub skipped: Vec<SessionId>,
}

/// The commits of a region, but those of sessions that `skip` names. `known` holds what was read before: a commit never changes.
///
/// # Errors
/// When the region can't be listed, or a commit is damaged or of a slot that isn't in the roster: it could
/// name what is still needed.
pub fn read_commits(
    repository: &Repository,
    region: &RegionHandle,
    known: &mut BTreeMap<SessionId, (Commit, SlotId)>,
    skip: &dyn Fn(&SessionId) -> bool,
) -> Result<Commits, RepoError> {
    let (mut commits, mut unread) = (Commits::default(), Vec::new());
    for object in list_sorted(&*region.store, "commits/").map_err(|e| region.error(e))? {
        let id = object.name.strip_prefix("commits/").and_then(SessionId::from_hex);
        let Some(id) = id else { continue };
        if skip(&id) {
            commits.skipped.push(id);
            continue;
        }
        match known.get(&id) {
            Some(commit) => drop(commits.live.insert(id, *commit)),
            None => unread.push((id, object.name)),
        }
    }
    let read = at_once(&unread, |(id, name)| {
        let fits = |commit: &Commit| commit.session == *id && commit.region == region.info.region;
        match read_object(repository, region, name, ObjectKind::Commit, Commit::decode, fits)? {
            Read::Valid(signer, commit) => Ok(Some((commit, signer))),
            Read::Nothing => Ok(None),
            Read::Damaged(error) => Err(error),
        }
    })?;
    for ((id, _), commit) in unread.into_iter().zip(read) {
        if let Some(commit) = commit {
            known.insert(id, commit);
            commits.live.insert(id, commit);
        }
    }
    Ok(commits)
}

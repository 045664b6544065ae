//! Which snapshots are forgotten, and since when, as a collector may believe it. Page: `format-spec/verdict.md`.
//!
//! Guarantees: whatever can't be read speaks for keeping.

use crate::format::envelope::ObjectKind;
use crate::format::ids::SnapshotId;
use crate::format::verdict::{Ruling, Verdict};
use crate::repo::sessions::is_forged;
use crate::repo::snapshots::{parse_numbered, read_numbered};
use crate::repo::verdicts::{Placed, kept_apart, placed};
use crate::repo::{RepoError, Repository};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// What was ruled on one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Forgotten; the newest of the rulings was made at this time, by its maker's clock.
    Forgotten(i64),
    /// On hold.
    Held,
    /// Neither.
    Kept,
    /// Some ruling can't be read: it may be one to keep.
    Unreadable,
}

/// A verdict never changes: one that was read is not read again. `None`: nobody who may has signed it.
pub type Known = HashMap<String, Option<(Ruling, i64)>>;

/// What all reached regions' verdicts come to, for every snapshot that has one.
///
/// # Errors
/// When a region can't be listed or stops answering.
pub fn read(repository: &Repository, known: &mut Known) -> Result<BTreeMap<SnapshotId, Standing>, RepoError> {
    let mut standings = BTreeMap::new();
    for (id, mut placed) in placed(repository, None)? {
        placed.sort_by_key(|at| Reverse(at.number));
        let mut standing = standing(repository, id, &placed, known)?;
        // A region may have what keeps it, of which those that say that it is forgotten can't have known (`VERDICT-11`).
        if matches!(standing, Standing::Forgotten(_)) && kept_apart(repository, &placed)?.is_some() {
            standing = Standing::Held;
        }
        standings.insert(id, standing);
    }
    Ok(standings)
}

/// What one snapshot's verdicts come to, given the highest number first.
fn standing(
    repository: &Repository,
    id: SnapshotId,
    placed: &[Placed],
    known: &mut Known,
) -> Result<Standing, RepoError> {
    for of_number in placed.chunk_by(|one, next| one.number == next.number) {
        let mut rulings = Vec::new();
        for at in of_number {
            let ruling = match known.get(&at.name) {
                Some(ruling) => *ruling,
                None => match read_verdict(repository, id, at)? {
                    Some(ruling) => *known.entry(at.name.clone()).or_insert(ruling),
                    None => return Ok(Standing::Unreadable),
                },
            };
            rulings.extend(ruling);
        }
        // Several of one number resolve to keep (VERDICT-3); what nobody may have signed is passed over (VERDICT-5).
        if rulings.iter().any(|(ruling, _)| *ruling == Ruling::Hold) {
            return Ok(Standing::Held);
        }
        if !rulings.is_empty() {
            let forgotten = rulings.iter().all(|(ruling, _)| *ruling == Ruling::Forget);
            let newest = rulings.iter().map(|(_, at)| *at).max().unwrap_or(i64::MAX);
            return Ok(if forgotten { Standing::Forgotten(newest) } else { Standing::Kept });
        }
    }
    Ok(Standing::Kept)
}

/// `None` when no region's copy can be read.
fn read_verdict(
    repository: &Repository,
    id: SnapshotId,
    placed: &Placed,
) -> Result<Option<Option<(Ruling, i64)>>, RepoError> {
    let Placed { number, name, regions } = placed;
    let Some((_, _, digest)) = parse_numbered(name, "verdicts/") else { return Ok(None) };
    for at in regions {
        match read_numbered(repository, &repository.regions[*at], name, ObjectKind::Verdict, digest) {
            Ok((payload, _)) => {
                let verdict = Verdict::decode(&payload).ok();
                let verdict = verdict.filter(|verdict| verdict.snapshot == id && verdict.number == *number);
                return Ok(verdict.map(|verdict| Some((verdict.ruling, verdict.decided_at))));
            }
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(RepoError::Crypto { source, .. }) if is_forged(&source) => return Ok(Some(None)),
            Err(RepoError::Object { source, .. }) if matches!(source.rule, "SIGN-2" | "SIGN-3") => {
                return Ok(Some(None));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

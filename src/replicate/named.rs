//! What no snapshot that counts needs, and is told all the same where it is damaged: attestations, and snapshots that
//! were collected. Their names state their digests, so that one region's bytes prove to be right for another
//! (`HEAL-2`).

use super::heal::replace;
use super::{Replicated, note, stop_if_asked};
use crate::crypto::object::check_digest;
use crate::format::ids::Digest;
use crate::repo::at_once::at_once;
use crate::repo::snapshots::{SnapshotInfo, snapshot_name};
use crate::repo::{RepoError, Repository};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, HashSet};

/// Gives each region that holds one damaged the bytes of another one. `counted` are left out: who puts lost snapshots
/// back looks at them. What nobody holds whole, and what may not be replaced, stays as it is: nothing rests on it.
///
/// # Errors
/// When a region can't be listed or read, or the user stops it.
pub(super) fn heal_named(
    repository: &Repository,
    counted: &[SnapshotInfo],
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    let counted: HashSet<String> = counted.iter().map(|info| snapshot_name(&info.id)).collect();
    for prefix in ["attest/", "snapshots/"] {
        let mut holders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, region) in repository.regions.iter().enumerate() {
            let listed = list_sorted(&*region.store, prefix).map_err(|e| region.error(e))?;
            for listed in listed.into_iter().filter(|listed| !counted.contains(&listed.name)) {
                holders.entry(listed.name).or_default().push(at);
            }
        }
        // Alone nobody can put it right.
        holders.retain(|_, held| held.len() > 1);
        let held: Vec<(String, Vec<usize>)> = holders.into_iter().collect();
        let looked = at_once(&held, |(name, held)| look(repository, prefix, name, held))?;
        for ((name, _), Looked { damaged, whole }) in held.iter().zip(looked) {
            let Some(bytes) = whole.filter(|_| !damaged.is_empty()) else { continue };
            stop_if_asked(monitor)?;
            for at in damaged {
                let to = &repository.regions[at];
                let subject = format!("{}:{name}", to.name).into_bytes();
                match replace(to, name, &bytes.clone().into()) {
                    Ok(true) => {
                        let detail = "its bytes were not those of its name: it has them again, from another region";
                        monitor.issue(&Issue { kind: IssueKind::Damaged, subject, detail: detail.to_owned() });
                        done.healed += 1;
                    }
                    Ok(false) => {}
                    // Nothing rests on it: the rest is copied all the same.
                    Err(error) => note(done, monitor, subject, &error),
                }
            }
        }
    }
    Ok(())
}

/// What the regions hold under one name.
#[derive(Default)]
struct Looked {
    /// Indices of those whose bytes aren't the name's.
    damaged: Vec<usize>,
    /// The right bytes, if any region is damaged.
    whole: Option<Vec<u8>>,
}

fn look(repository: &Repository, prefix: &str, name: &str, held: &[usize]) -> Result<Looked, RepoError> {
    let mut looked = Looked::default();
    let Some(digest) = name.strip_prefix(prefix).and_then(Digest::from_hex) else { return Ok(looked) };
    let mut whole = None;
    for at in held {
        match repository.regions[*at].get(name) {
            Ok(bytes) if check_digest(&bytes).is_ok_and(|found| found == digest) => whole = Some(bytes),
            Err(RepoError::Store { region, source }) if source.kind == StoreErrorKind::Unavailable => {
                return Err(RepoError::Store { region, source });
            }
            // It went meanwhile, or this access may not read it.
            Err(RepoError::Missing { .. } | RepoError::Store { .. }) => {}
            Ok(_) | Err(_) => looked.damaged.push(*at),
        }
    }
    looked.whole = whole.filter(|_| !looked.damaged.is_empty());
    Ok(looked)
}

//! Reads packs whole, from whichever region has them so.
//!
//! Guarantees: what is given has the digest that its name states; a pack that no region has whole is told once, with
//! what each copy's trouble is, and holds up no other.

use super::{Replicated, misnamed};
use crate::crypto::object::check_digest;
use crate::format::ids::PackId;
use crate::limits::PACK_BYTES_MAX;
use crate::pack::reader::pack_name;
use crate::repo::open::RegionHandle;
use crate::repo::{RepoError, Repository};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::StoreErrorKind;
use std::collections::BTreeSet;

/// What packs turned out to be where they were read.
#[derive(Debug, Default)]
pub(super) struct Whole {
    spoiled: BTreeSet<PackId>,
}

impl Whole {
    /// True for a pack that was read, and that no region has whole.
    pub fn is_spoiled(&self, pack: &PackId) -> bool {
        self.spoiled.contains(pack)
    }

    /// True when there is such a pack.
    pub fn is_any_spoiled(&self) -> bool {
        !self.spoiled.is_empty()
    }
}

/// Why a pack was not read.
pub(super) enum Unread {
    /// No region that lists it has it whole: each copy's trouble.
    Spoiled(Vec<Trouble>),
    /// A region doesn't answer, or gives this slot no packs: that says nothing about the pack.
    Region(RepoError),
}

/// What is wrong with a region's copy of a pack.
pub(super) struct Trouble {
    pub at: usize,
    pub kind: IssueKind,
    pub detail: String,
}

/// A pack's bytes from the first region whose copy is whole.
pub(super) fn read_pack(repository: &Repository, held: &[usize], pack: PackId) -> Result<Vec<u8>, Unread> {
    let (mut troubles, mut unanswered) = (Vec::new(), None);
    for at in held {
        let error = match read_copy(&repository.regions[*at], pack) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        let kind = match &error {
            RepoError::Store { source, .. } => match source.kind {
                StoreErrorKind::NotFound => IssueKind::Missing,
                StoreErrorKind::Range => IssueKind::Damaged,
                // A medium's fault in one object; the others may be whole.
                StoreErrorKind::Other => IssueKind::Unreadable,
                _ => {
                    unanswered = Some(error);
                    continue;
                }
            },
            _ => IssueKind::Damaged,
        };
        troubles.push(Trouble { at: *at, kind, detail: error.to_string() });
    }
    match unanswered {
        Some(error) => Err(Unread::Region(error)),
        None => Err(Unread::Spoiled(troubles)),
    }
}

fn read_copy(from: &RegionHandle, pack: PackId) -> Result<Vec<u8>, RepoError> {
    let name = pack_name(&pack);
    let bytes = from.store.get(&name, PACK_BYTES_MAX).map_err(|e| from.error(e))?;
    let digest = check_digest(&bytes).map_err(|source| from.object_error(&name, source))?;
    match digest.0 == pack.0 {
        true => Ok(bytes),
        false => Err(misnamed(from, &name)),
    }
}

/// Tells of a pack that no region has whole, and remembers it.
pub(super) fn pass_over(
    repository: &Repository,
    pack: PackId,
    troubles: Vec<Trouble>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) {
    done.packs_read.spoiled.insert(pack);
    for Trouble { at, kind, detail } in troubles {
        let subject = format!("{}:{}", repository.regions[at].name, pack_name(&pack)).into_bytes();
        let issue = Issue { kind, subject, detail };
        monitor.issue(&issue);
        done.issues.push(issue);
    }
}

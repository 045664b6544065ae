//! What was done that its signer's audit chain doesn't tell of (`AUDIT-10`). Page: `format-spec/audit.md`.
//!
//! Guarantees: what can't be read as what it should be is passed over, since it has no effect either and `check`
//! reports it; a region that fails is an error. Called by `cli/audit`.

use super::audit::{self, Chains, Finding, FindingKind};
use super::gclog;
use super::open::{RegionHandle, Repository};
use super::retention::GENERATION;
use super::snapshots::{note, parse_numbered, read_numbered};
use super::verdicts::action_of;
use super::{RepoError, designation};
use crate::format::audit::Action;
use crate::format::envelope::ObjectKind;
use crate::format::gc::Final;
use crate::format::ids::{RegionId, SlotId};
use crate::format::verdict::Verdict;
use crate::store::list_sorted;
use std::collections::BTreeSet;

/// What the chains tell of.
struct Told<'a> {
    acts: BTreeSet<(SlotId, Action, &'a [u8])>,
    finals: BTreeSet<(SlotId, RegionId, u64)>,
}

impl<'a> Told<'a> {
    fn by(chains: &'a Chains) -> Self {
        let mut told = Told { acts: BTreeSet::new(), finals: BTreeSet::new() };
        for entry in chains.timeline.iter().map(|recorded| &recorded.entry) {
            told.acts.extend(entry.subjects.iter().map(|subject| (entry.slot, entry.action, subject.as_slice())));
            let generation = entry.figures.iter().find(|(name, _)| name == GENERATION).map(|(_, value)| *value);
            if let (Action::GcFinal, Some(generation)) = (entry.action, generation) {
                let regions = entry.subjects.iter().filter_map(|subject| subject.as_slice().try_into().ok());
                told.finals.extend(regions.map(|region| (entry.slot, RegionId(region), generation)));
            }
        }
        told
    }
}

/// All chains, with what is odd in them and what they don't tell of. Somebody may act meanwhile: what has no entry
/// is judged again by chains that are read after it, since its entry came first (`AUDIT-6`).
///
/// # Errors
/// As [`audit::read`] and [`unrecorded`].
pub fn examine(repository: &Repository) -> Result<Chains, RepoError> {
    let mut chains = audit::read(repository)?;
    let mut untold = unrecorded(repository, &chains)?;
    if !untold.is_empty() {
        chains = audit::read(repository)?;
        let again = unrecorded(repository, &chains)?;
        untold.retain(|finding| again.contains(finding));
    }
    chains.findings.extend(untold);
    Ok(chains)
}

/// Verdicts, tags, finals and designations that their signer's chain doesn't tell of.
///
/// # Errors
/// When a region can't be listed or read.
pub fn unrecorded(repository: &Repository, chains: &Chains) -> Result<Vec<Finding>, RepoError> {
    let told = Told::by(chains);
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for region in &repository.regions {
        for (prefix, kind) in [("verdicts/", ObjectKind::Verdict), ("tags/", ObjectKind::Tags)] {
            for listed in list_sorted(&*region.store, prefix).map_err(|e| region.error(e))? {
                if seen.contains(&listed.name) {
                    continue;
                }
                if let Some(finding) = decided(repository, region, &listed.name, prefix, kind, &told)? {
                    findings.extend(finding);
                    seen.insert(listed.name);
                }
            }
        }
        for number in gclog::finals(region)? {
            let name = gclog::entry_name(number, "final");
            match gclog::read_signed::<Final>(repository, region, number) {
                Ok((_, slot)) if told.finals.contains(&(slot, region.info.region, number)) => {}
                Ok((_, slot)) => findings.push(finding(slot, format!("{name} in region '{}'", region.name))),
                Err(error) => note(error, region, &name, &mut Vec::new())?,
            }
        }
        for (name, slot) in designation::signed(repository, region)? {
            if !told.acts.contains(&(slot, Action::Designate, &region.info.region.0)) {
                findings.push(finding(slot, format!("{name} in region '{}'", region.name)));
            }
        }
    }
    Ok(findings)
}

fn finding(slot: SlotId, what: String) -> Finding {
    let detail = format!("{what} has no entry");
    Finding { kind: FindingKind::Unrecorded, slot: Some(slot), number: 0, detail }
}

/// A verdict's or tags' finding, if there is one; `None` for what is neither.
fn decided(
    repository: &Repository,
    region: &RegionHandle,
    name: &str,
    prefix: &str,
    kind: ObjectKind,
    told: &Told<'_>,
) -> Result<Option<Option<Finding>>, RepoError> {
    let Some((snapshot, _, digest)) = parse_numbered(name, prefix) else { return Ok(None) };
    let (payload, slot) = match read_numbered(repository, region, name, kind, digest) {
        Ok(read) => read,
        Err(error) => return note(error, region, name, &mut Vec::new()).map(|()| None),
    };
    let (action, what, snapshot) = match kind {
        ObjectKind::Tags => (Action::Tag, String::new(), snapshot),
        _ => match Verdict::decode(&payload) {
            Ok(verdict) => (action_of(verdict.ruling), format!(" ({})", verdict.ruling.name()), verdict.snapshot),
            Err(_) => return Ok(None),
        },
    };
    let is_told = told.acts.contains(&(slot, action, &snapshot.0));
    Ok(Some((!is_told).then(|| finding(slot, format!("{name}{what}")))))
}

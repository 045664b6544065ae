//! Which roster follows from which, and which are the newest. Page: `format-spec/keys.md`.
//!
//! Guarantees: a region's newest roster that the newest of all doesn't follow from is a fork, whatever its
//! number (`ROSTER-4`): what it decided is never passed over.

use super::RepoError;
use super::open::{RegionHandle, parse_roster_name, read_roster, roster_name};
use crate::format::config::Config;
use crate::format::ids::Digest;
use crate::format::roster::Roster;
use crate::report::{Issue, IssueKind};
use crate::store::list_sorted;
use std::collections::{BTreeMap, BTreeSet};

/// The rosters of all regions, by name.
pub(super) struct Rosters<'a> {
    /// By digest the number, and who holds it.
    holders: BTreeMap<Digest, (u64, Vec<&'a RegionHandle>)>,
    /// Each region's newest, the highest number last.
    newest: BTreeSet<(u64, Digest)>,
}

impl<'a> Rosters<'a> {
    /// # Errors
    /// When a region can't be listed.
    pub(super) fn list(regions: &'a [RegionHandle]) -> Result<Self, RepoError> {
        let mut rosters = Rosters { holders: BTreeMap::new(), newest: BTreeSet::new() };
        for region in regions {
            let mut own: Vec<(u64, Digest)> = Vec::new();
            for listed in list_sorted(&*region.store, "roster/").map_err(|e| region.error(e))? {
                let Some((number, digest)) = parse_roster_name(&listed.name) else { continue };
                rosters.holders.entry(digest).or_insert_with(|| (number, Vec::new())).1.push(region);
                own.push((number, digest));
            }
            let highest = own.iter().map(|(number, _)| *number).max();
            rosters.newest.extend(own.into_iter().filter(|(number, _)| Some(*number) == highest));
        }
        Ok(rosters)
    }

    fn read(&self, config: &Config, number: u64, digest: Digest) -> Result<Roster, RepoError> {
        let holders = self.holders.get(&digest).map_or(&[][..], |(_, holders)| holders);
        read_roster(holders, config, number, digest)
    }

    /// Whether a roster follows from an earlier one. Where one on the way doesn't say what it follows, it is
    /// taken to; where one on the way isn't there, or no region has it whole, it is not: what it followed nobody
    /// knows. Such damage goes into `damaged`.
    ///
    /// # Errors
    /// When a region can't be read.
    pub(super) fn follows(
        &self,
        config: &Config,
        roster: &Roster,
        (number, digest): (u64, Digest),
        damaged: &mut Vec<Issue>,
    ) -> Result<bool, RepoError> {
        let mut seen = BTreeSet::new();
        let mut pending = vec![roster.clone()];
        while let Some(roster) = pending.pop() {
            if roster.previous.is_empty() || roster.previous.contains(&digest) {
                return Ok(true);
            }
            for before in roster.previous {
                match self.holders.get(&before) {
                    Some((at, holders)) if *at > number && seen.insert(before) => {
                        match self.read(config, *at, before) {
                            Ok(roster) => pending.push(roster),
                            Err(error @ RepoError::Store { .. }) => return Err(error),
                            Err(error) => {
                                let regions: Vec<&str> = holders.iter().map(|region| region.name.as_str()).collect();
                                let subject = format!("{}:{}", regions.join(","), roster_name(*at, &before));
                                let (subject, detail) = (subject.into_bytes(), error.to_string());
                                let issue = Issue { kind: IssueKind::Damaged, subject, detail };
                                if !damaged.contains(&issue) {
                                    damaged.push(issue);
                                }
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(false)
    }
}

/// The rosters that count, with their digests: more than one when keys were changed in two places, each
/// without knowing of the other. Older ones that are damaged and on the way from one to another go into `damaged`.
///
/// # Errors
/// When a region can't be listed, or there is no roster that can be read.
pub(super) fn newest(
    regions: &[RegionHandle],
    config: &Config,
    damaged: &mut Vec<Issue>,
) -> Result<Vec<(Digest, Roster)>, RepoError> {
    let rosters = Rosters::list(regions)?;
    if rosters.newest.is_empty() {
        let region = regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join("', '");
        return Err(RepoError::Missing { region, name: "roster/*".to_owned() });
    }
    let mut found: Vec<(Digest, Roster)> = Vec::new();
    for (number, digest) in rosters.newest.iter().rev() {
        let mut known = false;
        for (_, later) in found.iter().filter(|(_, later)| later.number > *number) {
            known |= rosters.follows(config, later, (*number, *digest), damaged)?;
        }
        if !known {
            found.push((*digest, rosters.read(config, *number, *digest)?));
        }
    }
    found.sort_by_key(|(digest, _)| *digest);
    Ok(found)
}

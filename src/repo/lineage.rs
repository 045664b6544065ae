//! Which roster follows from which, and which are the newest. Page: `format-spec/keys.md`.
//!
//! Guarantees: a region's newest roster that the newest of all doesn't follow from is a fork, whatever its
//! number (`ROSTER-4`), and so is one that was put beside what others followed already (`ROSTER-13`): what it decided is
//! never passed over.

use super::RepoError;
use super::key_names::{parse_roster_name, roster_name};
use super::open::{RegionHandle, read_roster};
use crate::format::config::Config;
use crate::format::ids::Digest;
use crate::format::roster::Roster;
use crate::report::{Issue, IssueKind};
use crate::store::list_sorted;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Below the highest number, so many are looked at for rosters that nothing follows from. More can't follow before
/// somebody meets the fork, since whoever opens the repository then refuses it.
pub const BESIDE_MAX: u64 = 64;

/// The rosters of all regions, by name.
pub(super) struct Rosters<'a> {
    /// By digest the number, and who holds it.
    holders: BTreeMap<Digest, (u64, Vec<&'a RegionHandle>)>,
    /// Each region's newest, the highest number last.
    newest: BTreeSet<(u64, Digest)>,
    /// Others of one number, of the last [`BESIDE_MAX`], the highest number last.
    beside: BTreeSet<(u64, Digest)>,
    /// What was read.
    read: RefCell<BTreeMap<Digest, Roster>>,
}

/// Whether a roster follows from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    No,
    /// One on the way isn't there, or no region has it whole.
    Unknown,
}

impl<'a> Rosters<'a> {
    /// # Errors
    /// When a region can't be listed.
    pub(super) fn list(regions: &'a [RegionHandle]) -> Result<Self, RepoError> {
        let (holders, newest, beside) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut rosters = Rosters { holders, newest, beside, read: RefCell::default() };
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
        let mut by_number: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
        for (digest, (number, _)) in &rosters.holders {
            by_number.entry(*number).or_default().push(*digest);
        }
        let highest = by_number.keys().next_back().copied().unwrap_or_default();
        for (number, digests) in by_number.range(highest.saturating_sub(BESIDE_MAX)..) {
            if digests.len() > 1 {
                rosters.beside.extend(digests.iter().map(|digest| (*number, *digest)));
            }
        }
        Ok(rosters)
    }

    fn read(&self, config: &Config, number: u64, digest: Digest) -> Result<Roster, RepoError> {
        if let Some(roster) = self.read.borrow().get(&digest) {
            return Ok(roster.clone());
        }
        let holders = self.holders.get(&digest).map_or(&[][..], |(_, holders)| holders);
        let roster = read_roster(holders, config, number, digest)?;
        self.read.borrow_mut().insert(digest, roster.clone());
        Ok(roster)
    }

    fn damage(&self, number: u64, digest: &Digest, error: &RepoError) -> Issue {
        let holders = self.holders.get(digest).map_or(&[][..], |(_, holders)| holders);
        let regions: Vec<&str> = holders.iter().map(|region| region.name.as_str()).collect();
        let subject = format!("{}:{}", regions.join(","), roster_name(number, digest));
        Issue { kind: IssueKind::Damaged, subject: subject.into_bytes(), detail: error.to_string() }
    }

    /// Whether a roster follows from an earlier one. Where one on the way doesn't say what it follows, it is
    /// taken to. Damage on the way goes into `damaged`.
    ///
    /// # Errors
    /// When a region can't be read.
    pub(super) fn follows(
        &self,
        config: &Config,
        roster: &Roster,
        (number, digest): (u64, Digest),
        damaged: &mut Vec<Issue>,
    ) -> Result<Follows, RepoError> {
        let mut unknown = false;
        let mut seen = BTreeSet::new();
        let mut pending = vec![roster.clone()];
        while let Some(roster) = pending.pop() {
            if roster.previous.is_empty() || roster.previous.contains(&digest) {
                return Ok(Follows::Yes);
            }
            for before in roster.previous {
                match self.holders.get(&before) {
                    Some((at, _)) if *at > number && seen.insert(before) => match self.read(config, *at, before) {
                        Ok(roster) => pending.push(roster),
                        Err(error @ RepoError::Store { .. }) => return Err(error),
                        Err(error) => {
                            unknown = true;
                            let issue = self.damage(*at, &before, &error);
                            if !damaged.contains(&issue) {
                                damaged.push(issue);
                            }
                        }
                    },
                    Some(_) => {}
                    None => unknown = true,
                }
            }
        }
        Ok(if unknown { Follows::Unknown } else { Follows::No })
    }
}

/// The rosters that count, with their digests: more than one when keys were changed in two places or at the same time,
/// each without knowing of the other. Older ones that are damaged and on the way from one to another go into `damaged`.
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
    let leaves: Vec<&(u64, Digest)> = rosters.newest.union(&rosters.beside).collect();
    for (number, digest) in leaves.into_iter().rev() {
        // What an unknown roster followed nobody knows. Where a region ends with this one it is a fork; where all have
        // gone on, to refuse them all for an old one that is damaged would help nobody.
        let passed = |follows| match follows {
            Follows::Yes => true,
            Follows::No => false,
            Follows::Unknown => !rosters.newest.contains(&(*number, *digest)),
        };
        let mut known = false;
        for (_, later) in found.iter().filter(|(_, later)| later.number > *number) {
            known |= passed(rosters.follows(config, later, (*number, *digest), damaged)?);
        }
        if known {
            continue;
        }
        match rosters.read(config, *number, *digest) {
            Ok(roster) => found.push((*digest, roster)),
            // It is no roster that root signed, or none any more; what follows from the others goes on.
            Err(error)
                if !rosters.newest.contains(&(*number, *digest)) && !matches!(error, RepoError::Store { .. }) =>
            {
                damaged.push(rosters.damage(*number, digest, &error));
            }
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|(digest, _)| *digest);
    Ok(found)
}

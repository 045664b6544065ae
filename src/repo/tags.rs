//! Changing a snapshot's tags. Page: `format-spec/verdict.md`.
//!
//! Guarantees: only owners and maintainers; the audit entry goes before the tags (`AUDIT-6`); a change that returned
//! well isn't lost to another one at the same time, whoever puts first (`TAGS-2`).

use super::RepoError;
use super::audit::{Act, NoRoom, record_where_room};
use super::open::{DECIDERS, Repository};
use super::snapshots::{note, parse_numbered, read_numbered};
use super::verdicts::{PUTS_MAX, pause, put_where_room};
use crate::crypto::object;
use crate::format::audit::{Action, REASON_BYTES_MAX};
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SnapshotId, number_name};
use crate::format::verdict::Tags;
use crate::limits::TAGS_MAX;
use crate::store::list_sorted;
use std::collections::{BTreeMap, BTreeSet};

/// What a change of tags came to.
#[derive(Debug)]
pub struct Tagged {
    /// All tags that the snapshot has now, with what others changed meanwhile.
    pub tags: BTreeSet<String>,
    /// The regions that have no room, where they aren't: a replication brings them there.
    pub no_room: NoRoom,
}

/// What is to become of tags.
struct Change {
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Change {
    fn on(&self, tags: &BTreeSet<String>) -> BTreeSet<String> {
        tags.difference(&self.removed).chain(&self.added).cloned().collect()
    }

    /// What becomes of the tags, for people; as much of it as a reason holds.
    fn reason(&self) -> String {
        let list = |verb: &str, tags: &BTreeSet<String>| match tags.is_empty() {
            true => None,
            false => {
                let tags: Vec<String> = tags.iter().map(|tag| format!("'{tag}'")).collect();
                Some(format!("{verb} {}", tags.join(", ")))
            }
        };
        // What is removed may be all that kept the snapshot, so it comes first.
        let (removed, added) = (list("removed", &self.removed), list("added", &self.added));
        let mut text = removed.into_iter().chain(added).collect::<Vec<_>>().join("; ");
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text
    }
}

/// The tags objects of one snapshot in all reached regions, by number and name.
type Levels = BTreeMap<u64, BTreeMap<String, Found>>;

/// A number, and the sets of tags that were read there.
type Level = (u64, Vec<BTreeSet<String>>);

struct Found {
    digest: Digest,
    /// Indices of the regions that hold it.
    regions: Vec<usize>,
}

/// Records in the audit chain what is about to be added and removed, then puts a snapshot's tags, in every reached
/// region that has room. `before` are those that the caller read, `tags` what is to become of them: the difference is
/// applied to those that stand now, and again to what others put at the same time.
///
/// # Errors
/// When this slot may not decide, there would be too many tags, or a region can't be read or written;
/// [`RepoError::Contended`] when others go on changing them. What is put by then may stand or not: doing it again is
/// safe.
pub fn set_tags(
    repository: &Repository,
    id: SnapshotId,
    before: &BTreeSet<String>,
    tags: BTreeSet<String>,
) -> Result<Tagged, RepoError> {
    repository.require(&DECIDERS, "change tags")?;
    let difference = |from: &BTreeSet<String>, to: &BTreeSet<String>| from.difference(to).cloned().collect();
    let change = Change { added: difference(&tags, before), removed: difference(before, &tags) };
    let mut reader = Reader { repository, id, read: BTreeMap::new() };
    let mut levels = reader.list()?;
    // Where nothing was said before, what the caller read are the snapshot's own.
    let own = levels.is_empty().then_some(before);
    let mut mine: BTreeSet<String> = BTreeSet::new();
    let mut no_room = None;
    for puts in 0..PUTS_MAX {
        let base = reader.merged(&levels, &mine, own)?.unwrap_or_else(|| before.clone());
        let wanted = change.on(&base);
        if wanted.len() > TAGS_MAX {
            return Err(RepoError::TooManyTags { id, count: wanted.len() });
        }
        let number = match levels.last_key_value() {
            None => 0,
            Some((highest, _)) => highest
                .checked_add(1)
                .ok_or_else(|| RepoError::Verdict(format!("snapshot {id} has no number of tags left")))?,
        };
        if no_room.is_none() {
            let act = Act::new(Action::Tag).on(&id.0).because(&change.reason());
            no_room = Some(record_where_room(repository, &act)?.no_room);
        }
        let no_room = no_room.get_or_insert_default();
        let name = put(repository, id, number, &wanted, no_room)?;
        mine.insert(name);
        let now = reader.list()?;
        let is_strange = |number: &u64, name: &String| {
            !mine.contains(name) && !levels.get(number).is_some_and(|known| known.contains_key(name))
        };
        // What isn't below what was followed, and wasn't read.
        let followed = number.saturating_sub(1);
        let lowest = now.range(followed..).find(|(at, found)| found.keys().any(|name| is_strange(at, name)));
        let stands = match lowest {
            None => Some(wanted),
            Some((lowest, _)) if *lowest < number => None,
            Some(_) => reader.agreed(&now)?.filter(|tags| change.on(tags) == *tags),
        };
        if let Some(tags) = stands {
            return Ok(Tagged { tags, no_room: std::mem::take(no_room) });
        }
        levels = now;
        pause(repository, puts);
    }
    Err(RepoError::Contended { what: format!("the tags of snapshot {id}") })
}

/// Puts a set of tags and gives its object's name.
fn put(
    repository: &Repository,
    id: SnapshotId,
    number: u64,
    tags: &BTreeSet<String>,
    no_room: &mut NoRoom,
) -> Result<String, RepoError> {
    let tags = Tags { snapshot: id, number, tags: tags.iter().cloned().collect() };
    let (bytes, digest) = object::build_sealed(
        ObjectKind::Tags,
        &repository.keyring,
        &repository.signer(),
        tags.encode(),
        &*repository.random,
    )?;
    let name = format!("tags/{id}/{}-{digest}", number_name(number));
    put_where_room(repository, &name, &bytes, no_room)?;
    Ok(name)
}

/// Reads the tags objects of one snapshot, each once.
struct Reader<'a> {
    repository: &'a Repository,
    id: SnapshotId,
    /// By name; `None` for what says nothing: it is damaged wherever it was found, or nobody signed it who may.
    read: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Reader<'_> {
    fn list(&self) -> Result<Levels, RepoError> {
        let mut levels = Levels::new();
        for (at, region) in self.repository.regions.iter().enumerate() {
            let prefix = format!("tags/{}/", self.id);
            for listed in list_sorted(&*region.store, &prefix).map_err(|e| region.error(e))? {
                let Some((_, number, digest)) = parse_numbered(&listed.name, "tags/") else { continue };
                let found = levels.entry(number).or_default().entry(listed.name);
                found.or_insert(Found { digest, regions: Vec::new() }).regions.push(at);
            }
        }
        Ok(levels)
    }

    fn tags(&mut self, number: u64, name: &str, found: &Found) -> Result<Option<BTreeSet<String>>, RepoError> {
        if let Some(read) = self.read.get(name) {
            return Ok(read.clone());
        }
        let mut tags = None;
        for region in found.regions.iter().map(|at| &self.repository.regions[*at]) {
            let read = read_numbered(self.repository, region, name, ObjectKind::Tags, found.digest);
            let decoded = read
                .and_then(|(payload, _)| Tags::decode(&payload).map_err(|source| region.object_error(name, source)));
            match decoded {
                Ok(read) if read.snapshot == self.id && read.number == number => {
                    tags = Some(read.tags.into_iter().collect());
                    break;
                }
                Ok(_) => {}
                // Whoever lists snapshots is told of it.
                Err(error) => note(error, region, name, &mut Vec::new())?,
            }
        }
        self.read.insert(name.to_owned(), tags.clone());
        Ok(tags)
    }

    /// The highest number below `below` at which something can be read that isn't `left_out`, and what is there.
    fn highest(
        &mut self,
        levels: &Levels,
        below: Option<u64>,
        left_out: &BTreeSet<String>,
    ) -> Result<Option<Level>, RepoError> {
        for (number, level) in levels.iter().rev().filter(|(number, _)| below.is_none_or(|below| **number < below)) {
            let mut sets = Vec::new();
            for (name, found) in level.iter().filter(|(name, _)| !left_out.contains(*name)) {
                sets.extend(self.tags(*number, name, found)?);
            }
            if !sets.is_empty() {
                return Ok(Some((*number, sets)));
            }
        }
        Ok(None)
    }

    /// What others' objects come to; `None` where there are none. Several at the highest number unite, but for what one
    /// of them removed: what it lacks, and all of those that it can have followed have. One that followed only some of
    /// them doesn't remove what the others added.
    fn merged(
        &mut self,
        levels: &Levels,
        mine: &BTreeSet<String>,
        own: Option<&BTreeSet<String>>,
    ) -> Result<Option<BTreeSet<String>>, RepoError> {
        let Some((number, beside)) = self.highest(levels, None, mine)? else { return Ok(None) };
        let mut union: BTreeSet<String> = beside.iter().flatten().cloned().collect();
        let followed = match self.highest(levels, Some(number), &BTreeSet::new())? {
            Some((_, sets)) => sets,
            None => own.cloned().into_iter().collect(),
        };
        if !followed.is_empty() {
            union.retain(|tag| {
                let all_had = followed.iter().all(|tags| tags.contains(tag));
                !all_had || beside.iter().all(|tags| tags.contains(tag))
            });
        }
        Ok(Some(union))
    }

    /// What all objects of the highest number say, if they can be read and say the same.
    fn agreed(&mut self, levels: &Levels) -> Result<Option<BTreeSet<String>>, RepoError> {
        let Some((number, level)) = levels.last_key_value() else { return Ok(None) };
        let mut agreed: Option<BTreeSet<String>> = None;
        for (name, found) in level {
            match (self.tags(*number, name, found)?, &agreed) {
                (None, _) => return Ok(None),
                (Some(tags), None) => agreed = Some(tags),
                (Some(tags), Some(others)) if tags == *others => {}
                (Some(_), Some(_)) => return Ok(None),
            }
        }
        Ok(agreed)
    }
}

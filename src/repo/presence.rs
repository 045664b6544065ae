//! Which packs that a region's segments list are not in it, or not whole: nothing may be said to be there
//! because of them (`ORDER-8`).
//!
//! Guarantees: what is told as lacking was listed before the region's packs were, and no final that was there
//! afterwards deleted it; so neither a collection nor an upload at work looks like a loss. A listing that fails
//! is an error and never an empty region. Memory: 16 bytes and a bit for each pack that the index lists.

use super::RepoError;
use super::gclog;
use super::open::{RegionHandle, Repository};
use super::snapshots::SnapshotInfo;
use crate::format::ids::{PackId, RegionId};
use crate::index::{Index, IndexError, PackEntry};
use crate::pack::reader::{pack_name, parse_pack_name};
use crate::report::{Issue, IssueKind, Monitor};
use std::collections::{BTreeMap, BTreeSet};

/// A pack that a region's segments list and that isn't there as they state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LackingPack {
    /// Its id.
    pub id: PackId,
    /// Another statement of the region's segments fits what is there: this one is wrong, and nothing is lost.
    pub misstated: bool,
}

/// What the reached regions lack of what their segments list; by region, and by the pack's ordinal in the index
/// that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    regions: BTreeMap<RegionId, BTreeMap<u32, LackingPack>>,
}

impl Lacking {
    /// True when every pack that a region's segments list is there.
    pub fn is_empty(&self) -> bool {
        self.regions.values().flat_map(BTreeMap::values).all(|pack| pack.misstated)
    }

    /// True when a region doesn't have a pack as this ordinal's listing states it.
    pub fn is_lacking(&self, region: &RegionId, ordinal: u32) -> bool {
        self.regions.get(region).is_some_and(|packs| packs.contains_key(&ordinal))
    }

    /// What a region lost, by ordinal.
    pub fn lost(&self, region: &RegionId) -> impl Iterator<Item = (u32, &LackingPack)> {
        let packs = self.regions.get(region).into_iter().flatten();
        packs.map(|(ordinal, pack)| (*ordinal, pack)).filter(|(_, pack)| !pack.misstated)
    }

    /// Every ordinal that some region lacks, with the regions.
    pub fn ordinals(&self) -> BTreeMap<u32, Vec<RegionId>> {
        let mut found: BTreeMap<u32, Vec<RegionId>> = BTreeMap::new();
        for (region, packs) in &self.regions {
            packs.keys().for_each(|ordinal| found.entry(*ordinal).or_default().push(*region));
        }
        found
    }

    /// A region has a pack again.
    pub fn found(&mut self, region: &RegionId, ordinal: u32) {
        if let Some(packs) = self.regions.get_mut(region) {
            packs.remove(&ordinal);
        }
        self.regions.retain(|_, packs| !packs.is_empty());
    }

    /// Tells of each region that lacks something, once.
    pub fn tell(&self, repository: &Repository, monitor: &dyn Monitor) {
        for region in &repository.regions {
            let mut lost = self.lost(&region.info.region).map(|(_, pack)| pack);
            let Some(first) = lost.next() else { continue };
            let more = match lost.count() {
                0 => String::new(),
                more => format!("; so it is with {more} more"),
            };
            let subject = format!("{}:{}", region.name, pack_name(&first.id)).into_bytes();
            let detail = format!("a segment lists this pack, and it is gone or of another size{more}");
            monitor.issue(&Issue { kind: IssueKind::Missing, subject, detail });
        }
    }
}

/// The packs of the index, by a name of 8 bytes each that its size goes into: a pack is there only in the size
/// that is stated.
struct Wanted {
    /// Ascending.
    names: Vec<(u64, u32)>,
    /// By region, a bit for each ordinal that the region lists and that was not found.
    regions: Vec<Vec<u64>>,
}

/// PackIds are digests, so their first bytes are as good a name as any. That those of a pack that is missing are
/// another's by chance is out of the question; who makes two such packs harms his own.
fn short_name(id: &PackId, size: u64) -> u64 {
    let mut first = [0u8; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(first) ^ size.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Wanted {
    fn of(repository: &Repository, index: &dyn Index) -> Result<Self, IndexError> {
        let mut wanted = Wanted { names: Vec::new(), regions: vec![Vec::new(); repository.regions.len()] };
        index.each_pack(&mut |ordinal, pack: &PackEntry| {
            let (word, bit) = ((ordinal / 64) as usize, 1u64 << (ordinal % 64));
            for (bits, region) in wanted.regions.iter_mut().zip(&repository.regions) {
                if pack.regions.contains(&region.info.region) {
                    if bits.len() <= word {
                        bits.resize(word + 1, 0);
                    }
                    bits[word] |= bit;
                }
            }
            wanted.names.push((short_name(&pack.id, pack.size), ordinal));
            Ok(())
        })?;
        wanted.names.sort_unstable();
        Ok(wanted)
    }

    /// Lists the region; gives the ordinals that were not found.
    fn missing_in(&mut self, at: usize, region: &RegionHandle) -> Result<Vec<u32>, RepoError> {
        let (names, bits) = (&self.names, &mut self.regions[at]);
        if bits.iter().all(|word| *word == 0) {
            return Ok(Vec::new());
        }
        let listing = region.store.list("packs/", &mut |listed| {
            let Some(id) = parse_pack_name(&listed.name) else { return };
            let name = short_name(&id, listed.size);
            let from = names.partition_point(|(known, _)| *known < name);
            for (_, ordinal) in names[from..].iter().take_while(|(known, _)| *known == name) {
                if let Some(word) = bits.get_mut((ordinal / 64) as usize) {
                    *word &= !(1u64 << (ordinal % 64));
                }
            }
        });
        listing.map_err(|error| region.error(error))?;
        let words = bits.iter().zip(0u32..).filter(|(word, _)| **word != 0);
        let bits_of = |(word, at): (&u64, u32)| {
            let word = *word;
            (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| at * 64 + bit)
        };
        Ok(words.flat_map(bits_of).collect())
    }
}

/// How many roots are looked up together.
const ROOTS_AT_ONCE: usize = 4096;

/// The reached regions that list, in no segment, the root of some snapshot that counts there: they lost segments,
/// and it shows even to an index that never knew these. `snapshots` are newer than what the index was brought up
/// to, so one that was committed meanwhile looks so, too.
///
/// # Errors
/// When the index can't be read.
pub fn unlisted_roots(
    repository: &Repository,
    index: &dyn Index,
    snapshots: &[SnapshotInfo],
) -> Result<BTreeSet<RegionId>, IndexError> {
    let mut found = BTreeSet::new();
    for some in snapshots.chunks(ROOTS_AT_ONCE) {
        let roots: Vec<_> = some.iter().map(|info| info.snapshot.root).collect();
        for (info, places) in some.iter().zip(index.places(&roots)?) {
            let packs = places.iter().map(|place| index.pack(place.pack)).collect::<Result<Vec<_>, _>>()?;
            let regions = info.regions.iter().map(|at| repository.regions[*at].info.region);
            found.extend(regions.filter(|region| !packs.iter().any(|pack| pack.regions.contains(region))));
        }
    }
    Ok(found)
}

/// Compares what the index knows of each reached region with the packs that the region lists. The index is
/// brought up to the regions before.
///
/// # Errors
/// When a region or its log can't be read, or the index can't.
pub fn look(repository: &Repository, index: &dyn Index) -> Result<Lacking, RepoError> {
    let mut lacking = Lacking::default();
    // The index first: what another process takes in meanwhile isn't missed in an older listing.
    let mut wanted = Wanted::of(repository, index)?;
    for (at, region) in repository.regions.iter().enumerate() {
        let missing = wanted.missing_in(at, region)?;
        if missing.is_empty() {
            continue;
        }
        // The log after the packs: whatever a collection deleted before they were listed is in it.
        let (log, damage) = gclog::read_what_is_whole(repository, region)?;
        if damage.is_some() {
            // What was deleted isn't known, so neither is what was lost; and nobody may put anything back (GC-4).
            continue;
        }
        let dead = log.dead;
        let mut lost = BTreeMap::new();
        let unfound: BTreeSet<u32> = missing.iter().copied().collect();
        for ordinal in missing {
            let pack = index.pack(ordinal)?;
            if dead.contains(&pack.id) {
                continue;
            }
            let mut misstated = false;
            for other in index.ordinals(&pack.id)?.into_iter().filter(|other| !unfound.contains(other)) {
                misstated |= index.pack(other)?.regions.contains(&region.info.region);
            }
            lost.insert(ordinal, LackingPack { id: pack.id, misstated });
        }
        if !lost.is_empty() {
            lacking.regions.insert(region.info.region, lost);
        }
    }
    Ok(lacking)
}

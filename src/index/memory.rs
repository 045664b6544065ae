//! The index in memory: for tests, simulations and one-off runs without a cache directory.

use super::record::{PackEntry, Place, Replaced};
use super::{Detached, EachPack, Index, IndexError};
use crate::crypto::listing::listings;
use crate::env::{SystemRandom, random_bytes};
use crate::format::ids::{ChunkId, Digest, PackId, RegionId, SegmentId};
use crate::format::segment::Segment;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds everything in hash maps.
pub struct MemoryIndex(Mutex<State>);

#[derive(Default)]
struct State {
    chunks: HashMap<ChunkId, Vec<Place>>,
    packs: Vec<Arc<PackEntry>>,
    ordinals: HashMap<PackId, Vec<u32>>,
    /// By region, with the segment's size and its packs.
    segments: HashMap<RegionId, HashMap<SegmentId, (u64, Vec<u32>)>>,
    incarnation: Vec<u8>,
    doubted: BTreeSet<RegionId>,
}

impl State {
    fn is_listed(&self, ordinal: u32) -> bool {
        self.packs.get(ordinal as usize).is_none_or(|pack| !pack.regions.is_empty())
    }

    fn listed<'a>(&'a self, places: &'a [Place]) -> impl Iterator<Item = Place> + 'a {
        places.iter().filter(|place| self.is_listed(place.pack)).copied()
    }
}

impl Default for MemoryIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryIndex {
    /// An empty index.
    pub fn new() -> Self {
        let incarnation = random_bytes::<16>(&SystemRandom).to_vec();
        MemoryIndex(Mutex::new(State { incarnation, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places of a pack's chunks, in order.
pub(super) fn places_of(
    pack: u32,
    listed: &crate::format::segment::SegmentPack,
) -> impl Iterator<Item = (ChunkId, Place)> + '_ {
    listed.frames.iter().enumerate().flat_map(move |(frame, entry)| {
        let mut offset = 0;
        entry.chunks.iter().map(move |chunk| {
            let place = Place { pack, frame: frame as u32, offset, length: chunk.length };
            offset += chunk.length;
            (chunk.id, place)
        })
    })
}

impl Index for MemoryIndex {
    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, IndexError> {
        let state = self.state();
        let places = |id| state.chunks.get(id).map_or(Vec::new(), |places| state.listed(places).collect());
        Ok(ids.iter().map(places).collect())
    }

    fn pack(&self, ordinal: u32) -> Result<Arc<PackEntry>, IndexError> {
        self.state().packs.get(ordinal as usize).cloned().ok_or_else(|| IndexError::Damaged {
            path: "memory".to_owned(),
            detail: format!("no pack of ordinal {ordinal}"),
        })
    }

    fn ordinals(&self, pack: &PackId) -> Result<Vec<u32>, IndexError> {
        Ok(self.state().ordinals.get(pack).cloned().unwrap_or_default())
    }

    fn each_pack(&self, each: &mut EachPack<'_>) -> Result<(), IndexError> {
        // Not under the lock: whoever takes them may ask for more.
        let packs = self.state().packs.clone();
        let mut listed = packs.iter().zip(0u32..).filter(|(pack, _)| !pack.regions.is_empty());
        listed.try_for_each(|(pack, ordinal)| each(ordinal, pack))
    }

    fn pack_count(&self) -> u32 {
        self.state().packs.len() as u32
    }

    fn unlisted_count(&self) -> u32 {
        self.state().packs.iter().filter(|pack| pack.regions.is_empty()).count() as u32
    }

    fn chunk_count(&self) -> u64 {
        self.state().chunks.len() as u64
    }

    fn chunk_bytes(&self) -> u64 {
        self.state().chunks.values().filter_map(|places| places.first()).map(|place| u64::from(place.length)).sum()
    }

    fn chunk_totals(&self) -> Result<(u64, u64), IndexError> {
        let state = self.state();
        let first = state.chunks.values().filter_map(|places| state.listed(places).next());
        Ok(first.fold((0, 0), |(count, bytes), place| (count + 1, bytes + u64::from(place.length))))
    }

    fn regions(&self) -> Result<BTreeSet<RegionId>, IndexError> {
        let state = self.state();
        let known = state.segments.iter().filter(|(_, segments)| !segments.is_empty());
        Ok(known.map(|(region, _)| *region).collect())
    }

    fn segments(&self, region: RegionId) -> Result<HashMap<SegmentId, u64>, IndexError> {
        let state = self.state();
        let known = state.segments.get(&region).into_iter().flatten();
        Ok(known.map(|(id, (size, _))| (*id, *size)).collect())
    }

    fn ingest(&self, id: SegmentId, size: u64, segment: &Segment, regions: &[RegionId]) -> Result<(), IndexError> {
        let mut state = self.state();
        let mut ordinals = Vec::with_capacity(segment.packs.len());
        for (listed, listing) in segment.packs.iter().zip(listings(segment)) {
            let known = state.ordinals.get(&listed.pack).into_iter().flatten().copied();
            let mut same = known.filter(|ordinal| state.packs[*ordinal as usize].says(listed, &listing));
            if let Some(ordinal) = same.next() {
                Arc::make_mut(&mut state.packs[ordinal as usize]).add_regions(regions);
                ordinals.push(ordinal);
                continue;
            }
            let ordinal = state.packs.len() as u32;
            state.packs.push(Arc::new(PackEntry::from_segment(listed, listing, regions)));
            state.ordinals.entry(listed.pack).or_default().push(ordinal);
            ordinals.push(ordinal);
            for (chunk, place) in places_of(ordinal, listed) {
                state.chunks.entry(chunk).or_default().push(place);
            }
        }
        for region in regions {
            state.segments.entry(*region).or_default().insert(id, (size, ordinals.clone()));
        }
        Ok(())
    }

    fn detach(
        &self,
        region: RegionId,
        vanished: &HashSet<SegmentId>,
        dead: &HashSet<PackId>,
        attested: &HashSet<Digest>,
    ) -> Result<Detached, IndexError> {
        let mut state = self.state();
        let state = &mut *state;
        let segments = state.segments.entry(region).or_default();
        let of = |gone: bool| {
            let chosen = segments.iter().filter(move |(id, _)| vanished.contains(*id) == gone);
            chosen.flat_map(|(_, (_, listed))| listed.iter().copied()).collect::<HashSet<u32>>()
        };
        let (mut lost, standing) = (of(true), of(false));
        lost.retain(|ordinal| !standing.contains(ordinal));
        let mut disproved = false;
        for ordinal in &lost {
            let pack = &state.packs[*ordinal as usize];
            if dead.contains(&pack.id) {
                continue;
            }
            let beside = state.ordinals.get(&pack.id).into_iter().flatten().filter(|other| standing.contains(other));
            match pack.replaced_by(beside.map(|other| &*state.packs[*other as usize]), attested) {
                Some(replaced) => disproved |= replaced == Replaced::Disproved,
                None => return Ok(Detached::Unexplained(pack.id)),
            }
        }
        if disproved {
            state.incarnation = random_bytes::<16>(&SystemRandom).to_vec();
        }
        segments.retain(|id, _| !vanished.contains(id));
        lost.extend(dead.iter().filter_map(|pack| state.ordinals.get(pack)).flatten());
        let mut taken = 0;
        for ordinal in lost {
            taken += u64::from(Arc::make_mut(&mut state.packs[ordinal as usize]).remove_region(region));
        }
        Ok(Detached::Taken(taken))
    }

    fn incarnation(&self) -> Vec<u8> {
        self.state().incarnation.clone()
    }

    fn resume(&self, incarnation: &[u8]) -> Result<(), IndexError> {
        self.state().incarnation = incarnation.to_vec();
        Ok(())
    }

    fn clear(&self) -> Result<(), IndexError> {
        let incarnation = random_bytes::<16>(&SystemRandom).to_vec();
        let mut state = self.state();
        let doubted = std::mem::take(&mut state.doubted);
        *state = State { incarnation, doubted, ..State::default() };
        Ok(())
    }

    fn doubted(&self) -> Result<BTreeSet<RegionId>, IndexError> {
        Ok(self.state().doubted.clone())
    }

    fn doubt(&self, region: RegionId, is_doubted: bool) -> Result<(), IndexError> {
        let doubted = &mut self.state().doubted;
        match is_doubted {
            true => doubted.insert(region),
            false => doubted.remove(&region),
        };
        Ok(())
    }
}

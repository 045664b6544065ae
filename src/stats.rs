//! How much is stored, and what deduplication and compression save.
//!
//! Numbers come from the local index, the snapshots that count, and a listing of every region; no pack is
//! read. Called by `cli::stats`.

use crate::index::Index;
use crate::repo::open::RegionHandle;
use crate::repo::{RepoError, Repository, SnapshotInfo};
use std::collections::BTreeMap;

/// Packs of one kind, each counted once however many regions hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackTotals {
    /// How many.
    pub packs: u64,
    /// Their sizes in bytes, padding and directories included.
    pub bytes: u64,
    /// Their frames.
    pub frames: u64,
    /// Plaintext bytes of their frames; a chunk that two packs hold counts twice.
    pub raw_bytes: u64,
    /// Bytes of their frames after compression and sealing.
    pub sealed_bytes: u64,
}

/// One region's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionTotals {
    /// The region's name.
    pub region: String,
    /// Objects by the first part of their names (`packs`, `index`, …): how many, and bytes.
    pub objects: BTreeMap<String, (u64, u64)>,
}

impl RegionTotals {
    /// All objects: how many, and bytes.
    pub fn total(&self) -> (u64, u64) {
        self.objects.values().fold((0, 0), |sum, (count, bytes)| (sum.0 + count, sum.1 + bytes))
    }
}

/// One series of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatasetTotals {
    /// How many snapshots.
    pub snapshots: u64,
    /// The sum of their files' sizes in bytes.
    pub logical_bytes: u64,
    /// The newest one's files' sizes in bytes.
    pub newest_bytes: u64,
    /// When the newest was begun, nanoseconds since the Unix epoch.
    pub newest_at: i64,
}

/// Everything that `stats` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Snapshots that count.
    pub snapshots: u64,
    /// The sum of all snapshots' files' sizes in bytes.
    pub logical_bytes: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plaintext bytes.
    pub chunk_bytes: u64,
    /// Packs of file content.
    pub data: PackTotals,
    /// Packs of directory listings and chunk lists.
    pub metadata: PackTotals,
    /// Every reached region.
    pub regions: Vec<RegionTotals>,
    /// By dataset.
    pub datasets: BTreeMap<String, DatasetTotals>,
}

impl Stats {
    /// All packs' bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.data.bytes + self.metadata.bytes
    }

    /// Plaintext bytes over bytes as sealed; `None` before anything is stored.
    pub fn compression_ratio(&self) -> Option<f64> {
        ratio(self.data.raw_bytes + self.metadata.raw_bytes, self.data.sealed_bytes + self.metadata.sealed_bytes)
    }

    /// All snapshots' bytes over the bytes of distinct chunks; `None` before anything is stored.
    pub fn dedup_ratio(&self) -> Option<f64> {
        ratio(self.logical_bytes, self.chunk_bytes)
    }

    /// All snapshots' bytes over the bytes that one region's packs take; `None` before anything is stored.
    pub fn total_ratio(&self) -> Option<f64> {
        ratio(self.logical_bytes, self.stored_bytes())
    }
}

fn ratio(whole: u64, part: u64) -> Option<f64> {
    (part > 0).then(|| whole as f64 / part as f64)
}

fn region(region: &RegionHandle) -> Result<RegionTotals, RepoError> {
    let mut totals = RegionTotals { region: region.name.clone(), objects: BTreeMap::new() };
    let each = &mut |listed: crate::store::Listed| {
        let kind = listed.name.split('/').next().unwrap_or_default();
        let sum = match totals.objects.get_mut(kind) {
            Some(sum) => sum,
            None => totals.objects.entry(kind.to_owned()).or_default(),
        };
        *sum = (sum.0 + 1, sum.1 + listed.size);
    };
    region.store.list("", each).map_err(|error| region.error(error))?;
    Ok(totals)
}

/// Adds everything up.
///
/// # Errors
/// When a region can't be listed or the index can't be read.
pub fn stats(repository: &Repository, index: &dyn Index, snapshots: &[SnapshotInfo]) -> Result<Stats, RepoError> {
    let (chunks, chunk_bytes) = index.chunk_totals()?;
    let mut stats = Stats { snapshots: snapshots.len() as u64, chunks, chunk_bytes, ..Stats::default() };
    for ordinal in 0..index.pack_count() {
        let pack = index.pack(ordinal)?;
        // Collected everywhere.
        if pack.regions.is_empty() {
            continue;
        }
        let totals = if pack.metadata { &mut stats.metadata } else { &mut stats.data };
        totals.packs += 1;
        totals.bytes += pack.size;
        totals.frames += pack.frames.len() as u64;
        for frame in &pack.frames {
            totals.raw_bytes += u64::from(frame.raw_length);
            totals.sealed_bytes += u64::from(frame.sealed_length);
        }
    }
    for info in snapshots {
        let bytes = info.snapshot.counts.bytes;
        stats.logical_bytes = stats.logical_bytes.saturating_add(bytes);
        let dataset = stats.datasets.entry(info.snapshot.dataset.clone()).or_default();
        dataset.snapshots += 1;
        dataset.logical_bytes = dataset.logical_bytes.saturating_add(bytes);
        if dataset.snapshots == 1 || info.snapshot.started_at >= dataset.newest_at {
            (dataset.newest_at, dataset.newest_bytes) = (info.snapshot.started_at, bytes);
        }
    }
    stats.regions = repository.regions.iter().map(region).collect::<Result<_, _>>()?;
    Ok(stats)
}

//! The local index: which chunk is where. A cache that any run can rebuild from the regions' segments.
//!
//! Two implementations: [`rocks::RocksIndex`] on disk and [`memory::MemoryIndex`]. Both hold durable
//! segments only; what is still in flight is [`inflight::InFlight`]'s business. [`graph`] is made from one
//! region's segments for one run: what its snapshots reach.

pub mod graph;
pub mod inflight;
pub mod memory;
pub mod record;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod segment;

pub use inflight::InFlight;
pub use memory::MemoryIndex;
pub use record::{FrameEntry, PackEntry, Place};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksIndex;

use crate::format::ids::{ChunkId, PackId, RegionId, SegmentId};
use crate::format::segment::Segment;
use std::collections::HashSet;
use std::sync::Arc;

/// What goes wrong with the local index. It never loses data: the remedy is to rebuild it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database can't be opened, read or written.
    #[error("the local index at {path} failed: {detail}; `keepstone cache rebuild` makes it anew")]
    Database {
        /// Its directory.
        path: String,
        /// What the database said.
        detail: String,
    },
    /// A record in it can't be decoded.
    #[error("the local index at {path} is damaged: {detail}; `keepstone cache rebuild` makes it anew")]
    Damaged {
        /// Its directory.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// Another process is writing it.
    #[error("the local index at {path} is being written by {holder}; wait for it, or use another --cache-dir")]
    Busy {
        /// Its directory.
        path: String,
        /// Who holds it.
        holder: String,
    },
    /// A segment of a revoked slot that doesn't stay accepted: no damage, it just doesn't count.
    #[error("segment {segment}: {detail}")]
    Refused {
        /// The segment.
        segment: SegmentId,
        /// Whose it is.
        detail: String,
    },
    /// A segment can't be used.
    #[error("segment {segment}: {detail}")]
    Segment {
        /// The segment.
        segment: SegmentId,
        /// What is wrong.
        detail: String,
    },
}

/// Finds chunks in packs, and remembers which segments of which region it knows.
pub trait Index: Send + Sync {
    /// Every place of each chunk, in the order asked; empty for an unknown one.
    ///
    /// # Errors
    /// When the index can't be read: never reported as "unknown".
    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, IndexError>;

    /// A pack by its ordinal in this index.
    ///
    /// # Errors
    /// When there is none of this ordinal or it can't be read.
    fn pack(&self, ordinal: u32) -> Result<Arc<PackEntry>, IndexError>;

    /// A pack's ordinals, ascending: one for each different thing that segments state of it, so one unless
    /// somebody lies.
    ///
    /// # Errors
    /// When the index can't be read.
    fn ordinals(&self, pack: &PackId) -> Result<Vec<u32>, IndexError>;

    /// How many packs there are; ordinals run from 0.
    fn pack_count(&self) -> u32;

    /// How many chunks there are, about.
    fn chunk_count(&self) -> u64;

    /// Plaintext bytes of these chunks, each counted once.
    fn chunk_bytes(&self) -> u64;

    /// The segments known of a region.
    ///
    /// # Errors
    /// When the index can't be read.
    fn segments(&self, region: RegionId) -> Result<HashSet<SegmentId>, IndexError>;

    /// Takes a durable segment in as present in `regions`; knowing it already is no error.
    ///
    /// # Errors
    /// When the index can't be written.
    fn ingest(&self, id: SegmentId, segment: &Segment, regions: &[RegionId]) -> Result<(), IndexError>;

    /// Changes whenever the index is made anew: what was remembered beside it no longer holds.
    fn incarnation(&self) -> Vec<u8>;

    /// Forgets everything.
    ///
    /// # Errors
    /// When the index can't be written.
    fn clear(&self) -> Result<(), IndexError>;
}

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

use crate::format::ids::{ChunkId, Digest, PackId, RegionId, SegmentId};
use crate::format::segment::Segment;
use std::collections::{BTreeSet, HashMap, HashSet};
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
    #[error(
        "the local index at {path} is damaged: {detail}; the next run makes it anew, as `keepstone cache rebuild` does"
    )]
    Damaged {
        /// Its directory.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// There is no room for it.
    #[error("there is no room for the local index at {path}: {detail}")]
    Full {
        /// Its directory.
        path: String,
        /// What the database said.
        detail: String,
    },
    /// The system doesn't give what it takes to open it: files, memory. That says nothing about it.
    #[error("the system doesn't give what the local index at {path} needs: {detail}")]
    Limited {
        /// Its directory.
        path: String,
        /// What the database said.
        detail: String,
    },
    /// Another process made it anew: what this one knows of it by numbers no longer holds.
    #[error("the local index at {path} was made anew by another process meanwhile; run the command again")]
    Remade {
        /// Its directory.
        path: String,
    },
    /// Another process is writing it, or relies on it while it would be made anew.
    #[error("the local index at {path} is held by {holder}; wait for it, or use another --cache-dir")]
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

/// A durable segment that is to be taken in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its id.
    pub id: SegmentId,
    /// Its size in bytes.
    pub size: u64,
    /// What it lists.
    pub segment: Segment,
    /// The regions that have it.
    pub regions: Vec<RegionId>,
}

/// What taking out what a region lost came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// So many listings of packs lost the region.
    Taken(u64),
    /// Nothing was changed: this pack is dead by no final, and nothing that is known to be true lists it any more.
    Unexplained(PackId),
}

/// Takes a pack and its ordinal.
pub type EachPack<'a> = dyn FnMut(u32, &PackEntry) -> Result<(), IndexError> + 'a;

/// Finds chunks in packs, and remembers which segments of which region it knows, and what they list.
///
/// A pack that lost its last region keeps its ordinal, and may get a region again; until then none of its
/// places is told to anybody.
pub trait Index: Send + Sync {
    /// Every place of each chunk in packs that some region has, in the order asked; empty for an unknown one.
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

    /// Calls `each` for every pack that some region has, with its ordinal, in no stated order; some may be told
    /// more than once.
    ///
    /// # Errors
    /// When the index can't be read, and whatever `each` gives.
    fn each_pack(&self, each: &mut EachPack<'_>) -> Result<(), IndexError>;

    /// How many packs there are, those without a region among them; ordinals run from 0.
    fn pack_count(&self) -> u32;

    /// How many of them no region has any more.
    fn unlisted_count(&self) -> u32;

    /// How many chunks there are, about: those that only packs without a region hold are counted too.
    fn chunk_count(&self) -> u64;

    /// Plaintext bytes of these chunks, each counted once.
    fn chunk_bytes(&self) -> u64;

    /// How many chunks are in packs that some region has, and their plaintext bytes, exactly. Reads the whole
    /// index if some pack has none.
    ///
    /// # Errors
    /// When the index can't be read.
    fn chunk_totals(&self) -> Result<(u64, u64), IndexError>;

    /// The regions of which it knows segments.
    ///
    /// # Errors
    /// When the index can't be read.
    fn regions(&self) -> Result<BTreeSet<RegionId>, IndexError>;

    /// The segments known of a region, with their sizes in bytes: one that is listed in another size isn't there.
    ///
    /// # Errors
    /// When the index can't be read.
    fn segments(&self, region: RegionId) -> Result<HashMap<SegmentId, u64>, IndexError>;

    /// Takes a durable segment of `size` bytes in as present in `regions`; knowing it already is no error.
    ///
    /// # Errors
    /// When the index can't be written.
    fn ingest(&self, id: SegmentId, size: u64, segment: &Segment, regions: &[RegionId]) -> Result<(), IndexError>;

    /// Takes several in together, all or none where it is on disk: far quicker there than one after another.
    ///
    /// # Errors
    /// When the index can't be written.
    fn ingest_all(&self, arrivals: &[Arrival]) -> Result<(), IndexError> {
        let mut each = arrivals.iter();
        each.try_for_each(|arrival| self.ingest(arrival.id, arrival.size, &arrival.segment, &arrival.regions))
    }

    /// Takes out what a region no longer has: it lists the segments in `vanished` no more, and the packs in
    /// `dead` are deleted by its finals, whatever still lists them. A listing of a pack that was in a vanished
    /// segment, and that no other one of the region states, must be of a dead pack, or the region must state the
    /// same of it with another origin, or something else; and what it states still must be among the `attested`
    /// listings: else something was lost, and nothing is changed. What went though something else is attested was
    /// false (COLLECT-19): whatever was remembered by it no longer holds, so that the incarnation changes. Where
    /// different things are attested, nothing is explained.
    ///
    /// # Errors
    /// When the index can't be read or written.
    fn detach(
        &self,
        region: RegionId,
        vanished: &HashSet<SegmentId>,
        dead: &HashSet<PackId>,
        attested: &HashSet<Digest>,
    ) -> Result<Detached, IndexError>;

    /// Stays while everything that the index ever held is there still or was collected; changes with
    /// [`Index::clear`], and where something turned out to be false: what was remembered beside it no longer holds.
    fn incarnation(&self) -> Vec<u8>;

    /// Takes an earlier incarnation up again: the index was emptied and filled, and all that it held is in it,
    /// or was collected.
    ///
    /// # Errors
    /// When the index can't be written.
    fn resume(&self, incarnation: &[u8]) -> Result<(), IndexError>;

    /// Forgets everything but which regions are in doubt, under a new incarnation.
    ///
    /// # Errors
    /// When the index can't be written.
    fn clear(&self) -> Result<(), IndexError>;

    /// The regions that lost segments, or seem to have, and of which nobody has found since that they list what
    /// their snapshots need. [`Index::clear`] doesn't forget it.
    ///
    /// # Errors
    /// When it can't be read.
    fn doubted(&self) -> Result<BTreeSet<RegionId>, IndexError>;

    /// Says whether a region is in doubt.
    ///
    /// # Errors
    /// When it can't be written.
    fn doubt(&self, region: RegionId, is_doubted: bool) -> Result<(), IndexError>;
}

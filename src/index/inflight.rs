//! Chunks that this run has taken on and that no durable segment lists yet.
//!
//! Guarantees: of several threads that meet the same new chunk, exactly one stores it. Claims leave
//! once the index holds the chunk, so memory depends on what is in flight, not on the repository.

use crate::format::ids::ChunkId;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 64;

/// ChunkIds are uniformly distributed already: their first bytes are the hash.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The array's length prefix carries nothing.
    fn write_usize(&mut self, _: usize) {}
}

/// A set of ChunkIds that hashes by their own bytes.
pub type IdSet = HashSet<ChunkId, BuildHasherDefault<IdHasher>>;

/// The claims of one run.
pub struct InFlight(Vec<Mutex<IdSet>>);

impl Default for InFlight {
    fn default() -> Self {
        InFlight((0..SHARDS).map(|_| Mutex::new(IdSet::default())).collect())
    }
}

impl InFlight {
    /// No claims.
    pub fn new() -> Self {
        Self::default()
    }

    fn shard(&self, id: &ChunkId) -> &Mutex<IdSet> {
        &self.0[usize::from(id.0[31]) % SHARDS]
    }

    /// True when the caller is the first and must store the chunk.
    pub fn claim(&self, id: ChunkId) -> bool {
        self.shard(&id).lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    /// True when somebody claimed it.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Gives a claim back: the index holds the chunk now.
    pub fn release(&self, id: &ChunkId) {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

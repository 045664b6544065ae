//! What is written to the index at once.

use crate::format::ids::ChunkId;
use crate::index::record::{Place, put_places};
use std::collections::BTreeMap;

/// What a change writes, family by family: a key without a value goes.
#[derive(Default)]
pub(super) struct Change {
    pub(super) chunks: ChunkRecords,
    pub(super) ordinals: Records,
    pub(super) packs: Records,
    pub(super) meta: Records,
    pub(super) segments: Records,
}

pub(super) type Records = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub(super) type Record<'a> = (&'a [u8], Option<&'a [u8]>);

/// The values of chunks, in the order of their ids, each once. A change has a hundred thousand of them: their bytes
/// lie one after another.
#[derive(Default)]
pub(super) struct ChunkRecords {
    /// Each with the end of its value.
    ids: Vec<(ChunkId, usize)>,
    values: Vec<u8>,
}

impl ChunkRecords {
    /// Behind the last one, whose id is lower.
    pub(super) fn push(&mut self, id: ChunkId, places: &[Place]) {
        debug_assert!(self.ids.last().is_none_or(|(last, _)| *last < id), "in the order of ids");
        put_places(&mut self.values, places);
        self.ids.push((id, self.values.len()));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.ids.iter().map(move |(id, end)| (&id.0[..], Some(&self.values[std::mem::replace(&mut start, *end)..*end])))
    }
}

/// In the order of their keys.
pub(super) fn in_order(records: &Records) -> impl Iterator<Item = Record<'_>> {
    records.iter().map(|(key, value)| (&key[..], value.as_deref()))
}

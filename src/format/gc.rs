//! `gc/<n>/condemn`, `fence` and `final`: a region's collection log. Page: `format-spec/gc.md`.
//!
//! Writers read the log before they rely on a pack; collection itself is the room `gc`.

use super::ids::{PackId, RegionId, SessionId, SnapshotId};
use super::session::ascending;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};

/// Entries of each list of a log entry. What is more waits for the next generation.
pub const ENTRIES_MAX: usize = 1 << 16;

/// Packs that will go unless somebody needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemn {
    /// The generation in its name.
    pub generation: u64,
    /// The region whose log it is in.
    pub region: RegionId,
    /// The packs, ascending.
    pub packs: Vec<PackId>,
    /// Snapshots that were forgotten at this moment, ascending, each with the time at which a collector first
    /// saw it so, by its own clock: a later generation may collect them.
    pub forgotten: Vec<(SnapshotId, i64)>,
}

/// Who is too late to object, and what is past its window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The generation in its name.
    pub generation: u64,
    /// The region whose log it is in.
    pub region: RegionId,
    /// Sessions that had observed less and had no commit, ascending.
    pub sessions: Vec<SessionId>,
    /// Forgotten snapshots past their window, ascending.
    pub snapshots: Vec<SnapshotId>,
}

/// What a generation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Final {
    /// The generation in its name.
    pub generation: u64,
    /// The region whose log it is in.
    pub region: RegionId,
    /// Packs deleted, ascending.
    pub deleted: Vec<PackId>,
    /// Packs condemned and kept, ascending.
    pub rescued: Vec<PackId>,
    /// Sessions fenced for good, ascending.
    pub fenced: Vec<SessionId>,
    /// Sessions whose commits were collected, ascending.
    pub collected: Vec<SessionId>,
    /// Snapshots that counted when this generation was marked and in no earlier one, ascending.
    pub seen: Vec<SnapshotId>,
}

fn put_ids<'a>(cbor: &mut CborWriter, ids: impl ExactSizeIterator<Item = &'a [u8]>) {
    cbor.array(ids.len());
    ids.for_each(|id| {
        cbor.bytes(id);
    });
}

impl Condemn {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(if self.forgotten.is_empty() { 3 } else { 4 });
        cbor.uint(1).uint(self.generation).uint(2).bytes(&self.region.0).uint(3);
        put_ids(&mut cbor, self.packs.iter().map(|id| &id.0[..]));
        if !self.forgotten.is_empty() {
            cbor.uint(4).array(self.forgotten.len());
            for (snapshot, seen_at) in &self.forgotten {
                cbor.array(2).bytes(&snapshot.0).int(*seen_at);
            }
        }
        cbor.finish()
    }

    /// # Errors
    /// `GC-1` when a list is not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let generation = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let packs = ascending(&mut cbor, ENTRIES_MAX, "GC-1", PackId)?;
        let mut forgotten: Vec<(SnapshotId, i64)> = Vec::new();
        if cbor.optional(&mut fields, 4)? {
            for _ in 0..cbor.array(ENTRIES_MAX)? {
                cbor.tuple(2)?;
                let snapshot = SnapshotId(cbor.fixed()?);
                if forgotten.last().is_some_and(|(last, _)| *last >= snapshot) {
                    return Err(DecodeError::new("GC-1", "forgotten snapshots not in ascending order"));
                }
                forgotten.push((snapshot, cbor.int()?));
            }
        }
        cbor.no_more(&fields)?;
        let condemn = Condemn { generation, region, packs, forgotten };
        canonical(bytes, &condemn.encode())?;
        Ok(condemn)
    }
}

impl Fence {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(4).uint(1).uint(self.generation).uint(2).bytes(&self.region.0).uint(3);
        put_ids(&mut cbor, self.sessions.iter().map(|id| &id.0[..]));
        cbor.uint(4);
        put_ids(&mut cbor, self.snapshots.iter().map(|id| &id.0[..]));
        cbor.finish()
    }

    /// # Errors
    /// `GC-1` when a list is not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let generation = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let sessions = ascending(&mut cbor, ENTRIES_MAX, "GC-1", SessionId)?;
        cbor.field(&mut fields, 4)?;
        let snapshots = ascending(&mut cbor, ENTRIES_MAX, "GC-1", SnapshotId)?;
        cbor.no_more(&fields)?;
        let fence = Fence { generation, region, sessions, snapshots };
        canonical(bytes, &fence.encode())?;
        Ok(fence)
    }
}

impl Final {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(7).uint(1).uint(self.generation).uint(2).bytes(&self.region.0).uint(3);
        put_ids(&mut cbor, self.deleted.iter().map(|id| &id.0[..]));
        cbor.uint(4);
        put_ids(&mut cbor, self.rescued.iter().map(|id| &id.0[..]));
        cbor.uint(5);
        put_ids(&mut cbor, self.fenced.iter().map(|id| &id.0[..]));
        cbor.uint(6);
        put_ids(&mut cbor, self.collected.iter().map(|id| &id.0[..]));
        cbor.uint(7);
        put_ids(&mut cbor, self.seen.iter().map(|id| &id.0[..]));
        cbor.finish()
    }

    /// # Errors
    /// `GC-1` when a list is not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let generation = cbor.uint()?;
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let deleted = ascending(&mut cbor, ENTRIES_MAX, "GC-1", PackId)?;
        cbor.field(&mut fields, 4)?;
        let rescued = ascending(&mut cbor, ENTRIES_MAX, "GC-1", PackId)?;
        cbor.field(&mut fields, 5)?;
        let fenced = ascending(&mut cbor, ENTRIES_MAX, "GC-1", SessionId)?;
        cbor.field(&mut fields, 6)?;
        let collected = ascending(&mut cbor, ENTRIES_MAX, "GC-1", SessionId)?;
        cbor.field(&mut fields, 7)?;
        let seen = ascending(&mut cbor, ENTRIES_MAX, "GC-1", SnapshotId)?;
        cbor.no_more(&fields)?;
        let entry = Final { generation, region, deleted, rescued, fenced, collected, seen };
        canonical(bytes, &entry.encode())?;
        Ok(entry)
    }
}

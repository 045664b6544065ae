//! Pages in a spool, each with a sum that is compared when it is read: what a disk gives back otherwise
//! than it was written must never decide what a collector deletes.

use super::GraphError;
use crate::pack::spool::{Spool, SpoolSpace};

/// A page in the spool.
pub(super) const PAGE_BYTES: usize = 4096;
const SUM_BYTES: usize = 8;
/// What a page holds.
pub(super) const PAYLOAD_BYTES: usize = PAGE_BYTES - SUM_BYTES;
/// Pages that are written at once.
const WRITE_PAGES: usize = 64;

/// Pages in the order they were pushed; they can be read once they were flushed.
pub(super) struct Pages {
    spool: Spool,
    written: u64,
    pending: Vec<u8>,
}

impl Pages {
    pub(super) fn create(space: &SpoolSpace) -> Result<Self, GraphError> {
        Ok(Pages { spool: space.create()?, written: 0, pending: Vec::new() })
    }

    /// The next page's number.
    pub(super) fn count(&self) -> u64 {
        self.written + (self.pending.len() / PAGE_BYTES) as u64
    }

    /// Adds a page of up to [`PAYLOAD_BYTES`]; the rest of it is zeros.
    pub(super) fn push(&mut self, payload: &[u8]) -> Result<(), GraphError> {
        let (number, start) = (self.count(), self.pending.len());
        self.pending.extend_from_slice(payload);
        self.pending.resize(start + PAYLOAD_BYTES, 0);
        let sum = sum(number, &self.pending[start..]);
        self.pending.extend_from_slice(&sum);
        match self.pending.len() / PAGE_BYTES >= WRITE_PAGES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what was not written yet.
    pub(super) fn flush(&mut self) -> Result<(), GraphError> {
        self.spool.write_at(&self.pending, self.written * PAGE_BYTES as u64)?;
        self.written = self.count();
        self.pending.clear();
        Ok(())
    }

    /// Reads pages and gives their payloads, one after the other with their padding.
    pub(super) fn read(&self, first: u64, count: usize, out: &mut Vec<u8>) -> Result<(), GraphError> {
        out.resize(count * PAGE_BYTES, 0);
        self.spool.read_at(out, first * PAGE_BYTES as u64)?;
        for at in 0..count {
            let from = at * PAGE_BYTES;
            let (payload, stored) = out[from..from + PAGE_BYTES].split_at(PAYLOAD_BYTES);
            if sum(first + at as u64, payload) != stored {
                return Err(GraphError::Altered { directory: self.directory() });
            }
            out.copy_within(from..from + PAYLOAD_BYTES, at * PAYLOAD_BYTES);
        }
        out.truncate(count * PAYLOAD_BYTES);
        Ok(())
    }

    fn directory(&self) -> String {
        match &self.spool {
            Spool::File { directory, .. } => directory.display().to_string(),
            Spool::Memory(..) => "memory".to_owned(),
        }
    }

    /// The spool, for tests that damage it.
    #[cfg(test)]
    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }
}

/// Covers the page's number too: a page of another place is no page of this one.
fn sum(number: u64, payload: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(payload);
    let mut sum = [0u8; SUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_BYTES]);
    sum
}

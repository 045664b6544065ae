//! Packs made of other packs' frames, moved as they are: nothing is opened, so that whoever collects need not
//! be able to read. A frame keeps its section and its number there (`format-spec/crypto.md`).

use super::PackError;
use super::spool::{Spool, SpoolSpace};
use super::writer::{FinishedPack, PendingChunk, WrittenFrame, chunk_count, finished_length, seal_around};
use crate::crypto::keyring::Keyring;
use crate::env::{Random, random_bytes};
use crate::format::ids::{SectionId, SessionId};
use crate::format::pack::{PackHeader, SectionRecord};
use crate::limits::{PACK_BYTES_TARGET, PACK_CHUNKS_TARGET, PACK_FRAMES_MAX, PACK_SECTIONS_MAX};
use std::collections::HashMap;
use std::sync::Arc;

const COPY_BYTES: u64 = 1 << 20;

/// A pack that frames are moved into.
pub struct FrameMover {
    keyring: Arc<Keyring>,
    random: Arc<dyn Random>,
    spools: SpoolSpace,
    session: SessionId,
    metadata: bool,
    spool: Spool,
    end: u64,
    sections: Vec<SectionRecord>,
    positions: HashMap<SectionId, u32>,
    frames: Vec<WrittenFrame>,
}

impl FrameMover {
    /// An empty pack of one kind for one session.
    ///
    /// # Errors
    /// When the spool fails.
    pub fn new(
        keyring: Arc<Keyring>,
        random: Arc<dyn Random>,
        spools: SpoolSpace,
        session: SessionId,
        metadata: bool,
    ) -> Result<Self, PackError> {
        let spool = spools.create()?;
        let (sections, frames) = (Vec::new(), Vec::new());
        let positions = HashMap::new();
        Ok(FrameMover { keyring, random, spools, session, metadata, spool, end: 0, sections, positions, frames })
    }

    /// True while it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True when a frame of this section and so many bytes still fits.
    pub fn has_room(&self, section: &SectionId, sealed_length: u32, chunks: &Vec<PendingChunk>) -> bool {
        let sections = self.sections.len() + usize::from(!self.positions.contains_key(section));
        let end = PackHeader::length(sections) as u64 + self.end + u64::from(sealed_length);
        sections <= PACK_SECTIONS_MAX
            && self.frames.len() < PACK_FRAMES_MAX
            && chunk_count(&self.frames) + chunks.len() <= PACK_CHUNKS_TARGET
            && finished_length(end, &self.frames, Some(chunks)) <= PACK_BYTES_TARGET
    }

    /// Appends a frame; false for one that is there already (`DIR-5`).
    ///
    /// # Errors
    /// When the spool fails.
    pub fn push(
        &mut self,
        section: &SectionRecord,
        number: u64,
        sealed: &[u8],
        chunks: Vec<PendingChunk>,
    ) -> Result<bool, PackError> {
        let position = match self.positions.get(&section.section) {
            Some(position) => *position,
            None => {
                let position = self.sections.len() as u32;
                self.sections.push(section.clone());
                self.positions.insert(section.section, position);
                position
            }
        };
        if self.frames.iter().any(|frame| frame.section == position && frame.number == number) {
            return Ok(false);
        }
        self.spool.write_at(sealed, self.end)?;
        self.end += sealed.len() as u64;
        self.frames.push(WrittenFrame { section: position, number, sealed_length: sealed.len() as u32, chunks });
        Ok(true)
    }

    /// Completes the pack.
    ///
    /// # Errors
    /// When the spool fails.
    pub fn finish(self) -> Result<FinishedPack, PackError> {
        let header = PackHeader {
            metadata: self.metadata,
            repository: self.keyring.repository,
            session: self.session,
            epoch: self.keyring.current_epoch(),
            salt: random_bytes(&*self.random),
            sections: self.sections,
        };
        // How long the header is was not known before the last section.
        let start = PackHeader::length(header.sections.len()) as u64;
        let whole = self.spools.create()?;
        let mut at = 0;
        let mut buffer = Vec::new();
        while at < self.end {
            buffer.resize(COPY_BYTES.min(self.end - at) as usize, 0);
            self.spool.read_at(&mut buffer, at)?;
            whole.write_at(&buffer, start + at)?;
            at += buffer.len() as u64;
        }
        seal_around(&self.keyring, &whole, header, self.frames, start + self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededRandom;
    use crate::format::config::Suite;
    use crate::format::ids::{ChunkId, ChunkKind, RepositoryId};
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU64;

    /// LIMIT-1: frames of tiny chunks are far from the size of a pack, and no segment could list them all.
    #[test]
    fn a_pack_is_full_of_tiny_chunks_before_a_segment_is() {
        let rings = BTreeMap::from([(1, Keyring::generate(&SeededRandom::new(1)))]);
        let keyring = Arc::new(Keyring::new(RepositoryId([1; 16]), Suite::ChaCha20Poly1305, rings).expect("a ring"));
        let random = Arc::new(SeededRandom::new(2));
        let section = keyring.create_section(&*random).expect("a section").0;
        let space = SpoolSpace::Bounded(Arc::new(AtomicU64::new(1 << 20)));
        let mut mover = FrameMover::new(keyring, random, space, SessionId([2; 16]), false).expect("a spool");
        let chunk = PendingChunk { id: ChunkId([3; 32]), kind: ChunkKind::Data, length: 20, references: Vec::new() };
        let chunks = vec![chunk; PACK_CHUNKS_TARGET / 2];
        for number in 0..2 {
            assert!(mover.has_room(&section.section, 100, &chunks));
            assert!(mover.push(&section, number, &[0; 100], chunks.clone()).expect("there is room"));
        }
        assert!(!mover.has_room(&section.section, 100, &chunks[..1].to_vec()));
    }
}

//! What every worker of a backup shares: identify chunks, look them up, store the new ones.
//!
//! Guarantees: of racing workers one stores a chunk; a chunk counts as known only where every region
//! of the run holds it in a pack that this slot trusts and that no collector condemned.

use super::BackupError;
use super::usable::UsablePacks;
use super::watch::Watch;
use crate::chunker::Chunker;
use crate::crypto::keyring::ChunkHasher;
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Extent};
use crate::index::{InFlight, Index};
use crate::limits::INLINE_RECORDS_MAX;
use crate::pack::{ChunkSink, FrameBuilder, PackError, PackWriter, SequenceWriter};
use crate::report::Counter;
use crate::timing::{Stage, Timer};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Whose packs a backup deduplicates against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DedupTrust {
    /// Packs that this slot wrote, and attested ones.
    #[default]
    Own,
    /// Every slot's packs.
    All,
}

/// A chunk of content.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The snapshot from which unchanged files are taken over has it: it needs no look-up.
    pub in_base: bool,
}

/// Shared by all workers of one backup.
pub struct Engine<'a> {
    /// Finds chunks of earlier runs.
    pub index: &'a dyn Index,
    /// Claims of this run.
    pub in_flight: Arc<InFlight>,
    /// Takes data frames.
    pub data: PackWriter,
    /// Takes frames of structural chunks.
    pub metadata: PackWriter,
    /// The open frame of structural chunks.
    pub metadata_frame: Mutex<FrameBuilder>,
    /// Computes ids.
    pub hasher: ChunkHasher,
    /// Cuts streams and large files.
    pub chunker: Chunker,
    /// Cuts the others.
    pub fine_chunker: Chunker,
    /// Which packs may be relied on.
    pub usable: &'a UsablePacks<'a>,
    /// Says when the pass is to end: whoever reads something long asks it.
    pub watch: &'a Watch<'a>,
    /// No thread watches the collection logs: whoever reads something long does.
    pub watches: bool,
    /// Asked whether the user wants to stop.
    pub monitor: &'a dyn crate::report::Monitor,
    /// Takes the times of the stages.
    pub timer: Timer,
    /// Count only.
    pub dry_run: bool,
    /// Plaintext bytes of chunks that were new.
    pub new_bytes: &'a Counter,
    /// How many chunks were new.
    pub new_chunks: &'a Counter,
    /// Issues of entries that are in the snapshot all the same.
    pub kept_issues: Mutex<Vec<crate::report::Issue>>,
}

impl Engine<'_> {
    /// True when what is being read is to be left: the pass ends, or the user wants to stop. Asked at
    /// every step of something long.
    pub fn interrupted(&self) -> bool {
        if self.watches {
            self.watch.poll();
        }
        self.monitor.cancelled() || self.watch.stop.load(Ordering::Relaxed)
    }

    /// Which of `ids` need not be stored.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn known(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BackupError> {
        self.timer.run(Stage::LookUp, || self.known_now(ids))
    }

    fn known_now(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BackupError> {
        let mut known: Vec<bool> = ids.iter().map(|id| self.in_flight.contains(id)).collect();
        let asked: Vec<usize> = (0..ids.len()).filter(|at| !known[*at]).collect();
        let wanted: Vec<ChunkId> = asked.iter().map(|at| ids[*at]).collect();
        for (at, places) in asked.into_iter().zip(self.index.places(&wanted)?) {
            for place in places {
                if self.usable.rely(place.pack)? {
                    known[at] = true;
                    break;
                }
            }
        }
        Ok(known)
    }

    /// Stores those of `pieces` that are new.
    ///
    /// # Errors
    /// When the index or the spool fails.
    pub fn store(&self, frame: &mut FrameBuilder, pieces: &[Piece<'_>]) -> Result<(), BackupError> {
        self.timer.bytes(Stage::LookUp, pieces.iter().map(|piece| piece.bytes.len() as u64).sum());
        let asked = || pieces.iter().filter(|piece| !piece.in_base);
        let ids: Vec<ChunkId> = asked().map(|piece| piece.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        for (Piece { id, bytes, .. }, known) in asked().zip(self.known(&ids)?) {
            if known || !self.in_flight.claim(*id) {
                continue;
            }
            self.new_chunks.add(1);
            self.new_bytes.add(bytes.len() as u64);
            self.timer.bytes(Stage::Frame, bytes.len() as u64);
            if !self.dry_run {
                frame.add(&self.data, *id, ChunkKind::Data, bytes, Vec::new())?;
            }
        }
        Ok(())
    }

    /// What cuts a file of so many bytes.
    pub fn chunker_for(&self, file_bytes: u64) -> &Chunker {
        if file_bytes < self.chunker.fine_below() { &self.fine_chunker } else { &self.chunker }
    }

    /// The first chunk of `left`: its id and its length in bytes.
    pub fn cut(&self, chunker: &Chunker, left: &[u8]) -> (ChunkId, usize) {
        let window = &left[..left.len().min(chunker.max())];
        let length = self.timer.run(Stage::Chunk, || chunker.cut(window));
        self.timer.bytes(Stage::Chunk, length as u64);
        self.timer.bytes(Stage::Id, length as u64);
        (self.timer.run(Stage::Id, || self.hasher.id(ChunkKind::Data, &left[..length])), length)
    }

    /// Cuts, identifies and stores `window`, all of it when `last`, else up to the last sure boundary.
    /// Gives the bytes consumed.
    ///
    /// # Errors
    /// As [`Engine::store`].
    pub fn store_window(
        &self,
        chunker: &Chunker,
        frame: &mut FrameBuilder,
        window: &[u8],
        last: bool,
        extents: &mut ExtentCollector<'_>,
    ) -> Result<usize, BackupError> {
        let mut at = 0;
        let mut pieces = Vec::new();
        while at < window.len() {
            let left = &window[at..];
            if !last && left.len() < chunker.max() {
                break;
            }
            let (id, length) = self.cut(chunker, left);
            pieces.push(Piece { id, bytes: &left[..length], in_base: false });
            at += length;
        }
        self.store(frame, &pieces)?;
        for Piece { id, bytes, .. } in pieces {
            extents.push(Extent::Chunk { id, length: bytes.len() as u32 }, self)?;
        }
        Ok(at)
    }
}

impl ChunkSink for Engine<'_> {
    fn structural(
        &self,
        kind: ChunkKind,
        id: ChunkId,
        bytes: &[u8],
        references: Vec<ChunkId>,
    ) -> Result<(), PackError> {
        // The trait speaks of packs only; an index that can't be read is carried as its own kind.
        let known = self.known(&[id]).map_err(|error| PackError::Sink(Box::new(error)))?;
        if known[0] || !self.in_flight.claim(id) {
            return Ok(());
        }
        self.new_chunks.add(1);
        self.new_bytes.add(bytes.len() as u64);
        if self.dry_run {
            return Ok(());
        }
        let mut frame = self.metadata_frame.lock().unwrap_or_else(PoisonError::into_inner);
        frame.add(&self.metadata, id, kind, bytes, references)
    }
}

/// Collects a file's extents: inline while they are few, then as a list sequence, so that a file of
/// any size takes little memory.
pub struct ExtentCollector<'a> {
    few: Vec<Extent>,
    list: Option<SequenceWriter<'a>>,
    hasher: &'a ChunkHasher,
    length: u64,
}

impl<'a> ExtentCollector<'a> {
    /// For a file with nothing read yet.
    pub fn new(hasher: &'a ChunkHasher) -> Self {
        ExtentCollector { few: Vec::new(), list: None, hasher, length: 0 }
    }

    /// Appends the next extent.
    ///
    /// # Errors
    /// When a list chunk can't be stored.
    pub fn push(&mut self, extent: Extent, sink: &dyn ChunkSink) -> Result<(), BackupError> {
        self.length += extent.length();
        if let Some(list) = &mut self.list {
            list.push_extent(&extent, sink)?;
            return Ok(());
        }
        if self.few.len() < INLINE_RECORDS_MAX {
            self.few.push(extent);
            return Ok(());
        }
        let mut list = SequenceWriter::new(ChunkKind::List, self.hasher);
        for earlier in self.few.drain(..) {
            list.push_extent(&earlier, sink)?;
        }
        list.push_extent(&extent, sink)?;
        self.list = Some(list);
        Ok(())
    }

    /// The file's size in bytes and its content.
    ///
    /// # Errors
    /// When a list chunk can't be stored.
    pub fn finish(self, sink: &dyn ChunkSink) -> Result<(u64, Content), BackupError> {
        let content = match self.list {
            Some(list) => Content::List(list.finish(sink)?),
            None => Content::Inline(self.few),
        };
        Ok((self.length, content))
    }
}

//! Reads one file or stream through the engine: spans, holes, and what to do when it changes meanwhile.

use super::BackupError;
use super::engine::{Engine, ExtentCollector, Piece};
use crate::chunker::{Chunker, max_of};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Extent, NodeKind};
use crate::limits::FRAME_RAW_BYTES_TARGET;
use crate::pack::FrameBuilder;
use crate::report::{Issue, IssueKind};
use crate::source::{Entry, FileReader, Identity, ReadError, ReadOutcome, SMALL_BYTES_MAX, Span, XattrReader};
use crate::timing::Stage;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsFd;

/// What reading a file came to.
pub enum Captured {
    /// The entry is complete; the identity is what change detection may remember, if it is consistent.
    Whole(Option<Identity>, Option<Issue>),
    /// The entry is not in the snapshot.
    Lost(Issue),
}

/// What a worker holds at most, in bytes, when it cuts to this average: its buffer, an open frame, one that another
/// worker handed over, and the sealed copy of one.
pub const fn worker_bytes(chunk_average: usize) -> usize {
    let chunk_max = max_of(chunk_average);
    buffer_bytes(chunk_max) + 3 * (FRAME_RAW_BYTES_TARGET + chunk_max)
}

/// Room for several of the largest chunks.
const fn buffer_bytes(chunk_max: usize) -> usize {
    if chunk_max > 1 << 19 { 2 * chunk_max } else { 1 << 20 }
}

/// A worker's own buffers.
pub struct Worker {
    /// Its open data frame.
    pub frame: FrameBuilder,
    buffer: Vec<u8>,
    xattrs: XattrReader,
    /// Small files whose content is in the buffer, up to `filled`, and their chunks.
    small: Vec<SmallFile>,
    pieces: Vec<SmallPiece>,
    filled: usize,
}

/// A chunk of a small file: its id, where it lies in the buffer, and whether the base snapshot has it.
struct SmallPiece(ChunkId, Range<usize>, bool);

/// A file that was read and not stored yet.
struct SmallFile {
    at: usize,
    pieces: usize,
    issue: Option<Issue>,
}

/// Takes a small file that is stored: its place in the block, its content, and what is wrong with its metadata.
pub type SmallDone<'a> = dyn FnMut(usize, Content, Option<Issue>) + 'a;

impl Worker {
    /// For chunks of up to so many bytes.
    pub fn new(chunk_max: usize) -> Self {
        Worker {
            frame: FrameBuilder::new(),
            buffer: vec![0; buffer_bytes(chunk_max)],
            xattrs: XattrReader::default(),
            small: Vec::new(),
            pieces: Vec::new(),
            filled: 0,
        }
    }

    /// Forgets small files that were read.
    pub fn clear(&mut self) {
        self.small.clear();
        self.pieces.clear();
        self.filled = 0;
    }

    /// False when a small file of this size must wait until the others are stored.
    pub fn has_room(&self, entry: &Entry) -> bool {
        entry.identity.size >= SMALL_BYTES_MAX as u64 || self.buffer.len() - self.filled > SMALL_BYTES_MAX
    }

    /// Reads, cuts and identifies a small file, whose place in the block is `at`, and which had the chunks `base`
    /// in the snapshot from which unchanged files are taken over: it often has them still. False if it isn't one,
    /// or not as the walk saw it: then it is to be captured as any other.
    pub fn read_small(
        &mut self,
        engine: &Engine<'_>,
        directory: impl AsFd,
        at: usize,
        entry: &mut Entry,
        base: &[ChunkId],
    ) -> bool {
        let room = &mut self.buffer[self.filled..];
        let xattrs = &mut self.xattrs;
        let read = engine.timer.run(Stage::Read, || FileReader::read_small(directory, entry, room, xattrs));
        let Some((length, issue)) = read else { return false };
        engine.timer.bytes(Stage::Read, length as u64);
        let before = self.pieces.len();
        let mut start = self.filled;
        let end = start + length;
        while start < end {
            let (id, length) = engine.cut(&engine.fine_chunker, &self.buffer[start..end]);
            self.pieces.push(SmallPiece(id, start..start + length, base.contains(&id)));
            start += length;
        }
        self.filled = end;
        self.small.push(SmallFile { at, pieces: self.pieces.len() - before, issue });
        true
    }

    /// Stores what is new of the small files that were read, and hands each over.
    ///
    /// # Errors
    /// As [`Engine::store`].
    pub fn store_small(&mut self, engine: &Engine<'_>, done: &mut SmallDone<'_>) -> Result<(), BackupError> {
        let piece = |SmallPiece(id, range, in_base): &SmallPiece| Piece {
            id: *id,
            bytes: &self.buffer[range.clone()],
            in_base: *in_base,
        };
        let pieces: Vec<Piece<'_>> = self.pieces.iter().map(piece).collect();
        engine.store(&mut self.frame, &pieces)?;
        let mut left = &pieces[..];
        for SmallFile { at, pieces, issue } in self.small.drain(..) {
            let (own, rest) = left.split_at(pieces);
            left = rest;
            let mut extents = ExtentCollector::new(&engine.hasher);
            for Piece { id, bytes, .. } in own {
                extents.push(Extent::Chunk { id: *id, length: bytes.len() as u32 }, engine)?;
            }
            done(at, extents.finish(engine)?.1, issue);
        }
        self.clear();
        Ok(())
    }

    /// Reads a file's content into `entry`. A file that changes while it is read is read once more; if
    /// it changes again, it is kept and marked inconsistent.
    ///
    /// # Errors
    /// What stops the whole run; what concerns this file alone is in [`Captured`].
    pub fn capture(
        &mut self,
        engine: &Engine<'_>,
        directory: impl AsFd + Copy,
        entry: &mut Entry,
    ) -> Result<Captured, BackupError> {
        let xattrs = entry.xattrs;
        for attempt in 0.. {
            let opened =
                engine.timer.run(Stage::Read, || FileReader::open(directory, &entry.node.name, &entry.identity));
            let mut reader = match opened {
                Ok(reader) => reader,
                Err(error) => return Ok(Captured::Lost(error.into_issue(&entry.path))),
            };
            let metadata_issue = reader.refresh(entry, &mut self.xattrs);
            let identity = *reader.identity();
            let (size, content) = match self.read_file(engine, &mut reader)? {
                Ok(read) => read,
                Err(error) => return Ok(Captured::Lost(error.into_issue(&entry.path))),
            };
            let outcome = match engine.timer.run(Stage::Read, || reader.finish()) {
                Ok(outcome) => outcome,
                Err(error) => return Ok(Captured::Lost(error.into_issue(&entry.path))),
            };
            match outcome {
                ReadOutcome::Changed(_) if attempt == 0 => entry.xattrs = xattrs,
                ReadOutcome::Changed(what) => {
                    entry.node.kind = NodeKind::File { size, content, inconsistent: true };
                    let detail = format!("it changed while it was read, twice: {what}");
                    let issue = Issue { kind: IssueKind::Inconsistent, subject: entry.path.clone(), detail };
                    return Ok(Captured::Whole(None, Some(issue)));
                }
                ReadOutcome::Unchanged => {
                    entry.node.kind = NodeKind::File { size, content, inconsistent: false };
                    return Ok(Captured::Whole(Some(identity), metadata_issue));
                }
            }
        }
        unreachable!("the loop returns at its second pass")
    }

    /// Reads all spans; the inner error is the file's, the outer one the run's.
    fn read_file(
        &mut self,
        engine: &Engine<'_>,
        reader: &mut FileReader,
    ) -> Result<Result<(u64, Content), ReadError>, BackupError> {
        let mut extents = ExtentCollector::new(&engine.hasher);
        let chunker = engine.chunker_for(reader.identity().size);
        loop {
            match reader.next_span() {
                Ok(None) => return Ok(Ok(extents.finish(engine)?)),
                Ok(Some(Span::Hole { length, .. })) => extents.push(Extent::Hole { length }, engine)?,
                Ok(Some(Span::Data { .. })) => {
                    // Content is cut anew after a hole, so that what is before it has no say.
                    if let Err(error) = self.pump(engine, chunker, &mut extents, |buffer| reader.read(buffer))? {
                        return Ok(Err(error));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Reads a stream to its end; gives its length and content.
    ///
    /// # Errors
    /// When reading or storing fails.
    pub fn capture_stream(
        &mut self,
        engine: &Engine<'_>,
        stream: &mut dyn Read,
        progress: &dyn Fn(u64),
    ) -> Result<(u64, Content), BackupError> {
        let mut extents = ExtentCollector::new(&engine.hasher);
        let pumped = self.pump(engine, &engine.chunker, &mut extents, |buffer| {
            loop {
                match stream.read(buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(read) => {
                        progress(read as u64);
                        break Ok(read);
                    }
                    error => break error,
                }
            }
        })?;
        pumped.map_err(BackupError::Stream)?;
        extents.finish(engine)
    }

    /// Fills the buffer, cuts what is sure, and goes on until `read` gives nothing more.
    fn pump<E>(
        &mut self,
        engine: &Engine<'_>,
        chunker: &Chunker,
        extents: &mut ExtentCollector<'_>,
        mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Result<(), E>, BackupError> {
        let mut filled = 0;
        loop {
            let mut ended = false;
            while filled < self.buffer.len() {
                match engine.timer.run(Stage::Read, || read(&mut self.buffer[filled..])) {
                    Ok(0) => {
                        ended = true;
                        break;
                    }
                    Ok(count) => {
                        engine.timer.bytes(Stage::Read, count as u64);
                        filled += count;
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
            if engine.interrupted() {
                return Err(BackupError::Cancelled);
            }
            let consumed = engine.store_window(chunker, &mut self.frame, &self.buffer[..filled], ended, extents)?;
            if ended {
                return Ok(Ok(()));
            }
            self.buffer.copy_within(consumed..filled, 0);
            filled -= consumed;
        }
    }
}

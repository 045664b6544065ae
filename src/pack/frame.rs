//! Chunks join into frames of about four megabytes that are compressed as one and sealed as one: small
//! files compress as in a tar, yet deduplicate one by one.

use super::PackError;
use super::writer::{PackWriter, PendingChunk};
use crate::format::ids::{ChunkId, ChunkKind};
use crate::limits::{FRAME_CHUNKS_TARGET, FRAME_RAW_BYTES_MAX, FRAME_RAW_BYTES_TARGET};

/// A full frame that another thread is to compress and seal.
pub struct PendingFrame {
    bytes: Vec<u8>,
    chunks: Vec<PendingChunk>,
}

impl PendingFrame {
    /// Seals it into a pack of `writer`.
    ///
    /// # Errors
    /// As [`PackWriter::add_frame`].
    pub fn add_to(self, writer: &PackWriter) -> Result<(), PackError> {
        writer.add_frame(&self.bytes, self.chunks)
    }
}

/// One open frame; each worker has its own, so that neighbours in the tree stay neighbours.
#[derive(Default)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    chunks: Vec<PendingChunk>,
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a chunk; once the frame is full it is sealed into a pack of `writer`, here or by a thread without work.
    ///
    /// # Errors
    /// As [`PackWriter::add_frame`]; what fails in another thread is told there.
    pub fn add(
        &mut self,
        writer: &PackWriter,
        id: ChunkId,
        kind: ChunkKind,
        bytes: &[u8],
        references: Vec<ChunkId>,
    ) -> Result<(), PackError> {
        if self.bytes.len() + bytes.len() > FRAME_RAW_BYTES_MAX {
            self.flush(writer)?;
        }
        self.bytes.extend_from_slice(bytes);
        self.chunks.push(PendingChunk { id, kind, length: bytes.len() as u32, references });
        if self.bytes.len() >= FRAME_RAW_BYTES_TARGET || self.chunks.len() >= FRAME_CHUNKS_TARGET {
            self.flush(writer)?;
        }
        Ok(())
    }

    /// Seals what there is.
    ///
    /// # Errors
    /// As [`PackWriter::add_frame`].
    pub fn flush(&mut self, writer: &PackWriter) -> Result<(), PackError> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let (bytes, chunks) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.chunks));
        let Some(frame) = writer.hand_over(PendingFrame { bytes, chunks }) else {
            self.bytes.reserve(FRAME_RAW_BYTES_TARGET + FRAME_RAW_BYTES_TARGET / 8);
            return Ok(());
        };
        self.bytes = frame.bytes;
        let result = writer.add_frame(&self.bytes, frame.chunks);
        self.bytes.clear();
        // One huge chunk must not leave every worker with a huge buffer.
        if self.bytes.capacity() > 4 * FRAME_RAW_BYTES_TARGET {
            self.bytes = Vec::new();
        }
        result
    }
}

//! Frames and packs: assemble, seal, spool, read; and sequences, the structural chunks.
//!
//! Data flow: chunks → [`frame::FrameBuilder`] → [`writer::PackWriter`] → [`writer::FinishedPack`].

pub mod frame;
pub mod mover;
pub mod reader;
pub mod reenvelope;
pub mod sequence;
pub mod spool;
pub mod writer;

pub use frame::{FrameBuilder, PendingFrame};
pub use mover::FrameMover;
pub use reader::{PackReader, read_header};
pub use sequence::{ChunkSink, SequenceWriter};
pub use spool::SpoolSpace;
pub use writer::{FinishedPack, PackWriter, PendingChunk};

use crate::crypto::CryptoError;
use crate::format::ids::{ChunkId, PackId};

/// What goes wrong while packs are assembled or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The spool can't be written or read.
    #[error("the spool in {directory} failed: {source}")]
    Spool {
        /// The cache directory.
        directory: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key is missing or bytes were altered.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// Stored bytes break a rule of the format.
    #[error("pack {pack}: {source}")]
    Decode {
        /// The pack.
        pack: PackId,
        /// The rule.
        source: crate::format::wire::DecodeError,
    },
    /// A frame doesn't decompress.
    #[error("pack {pack}, frame {frame}: {source}")]
    Decompress {
        /// The pack.
        pack: PackId,
        /// The frame's position.
        frame: usize,
        /// The rule.
        source: crate::compress::DecompressError,
    },
    /// A frame can't be opened.
    #[error("pack {pack}, frame {frame}: {source}")]
    Frame {
        /// The pack.
        pack: PackId,
        /// The frame's position.
        frame: usize,
        /// Why.
        source: CryptoError,
    },
    /// A chunk's bytes don't have the id under which they are listed.
    #[error("CHUNK-1: pack {pack} holds {actual} where chunk {expected} is listed")]
    WrongChunk {
        /// The pack.
        pack: PackId,
        /// The id listed.
        expected: ChunkId,
        /// The id of the bytes.
        actual: ChunkId,
    },
    /// A frame didn't open when it was read before.
    #[error("{0}")]
    Unopened(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Whoever takes the chunks failed.
    #[error(transparent)]
    Sink(Box<dyn std::error::Error + Send + Sync>),
    /// A structural chunk would be too large.
    #[error("{what} is larger than the format allows ({limit} bytes)")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound in bytes.
        limit: usize,
    },
}

//! What is backed up: a directory tree walked in order, or a stream of bytes.
//!
//! The walk yields entries depth first, names in raw-byte order, so that a tree's chunks can be
//! written while it goes on and memory stays flat. Nothing is skipped silently: what is not
//! captured comes out as an event of its own.

mod ahead;
mod listing;
mod metadata;
mod patterns;
mod read;
mod rules;
mod seen;
mod seen_record;
#[cfg(test)]
mod seen_tests;
mod sources;
mod stream;
mod trusted;
mod walk;
#[cfg(test)]
mod walk_tests;

pub use metadata::{XattrReader, sees_all_xattrs};
pub use patterns::{PatternBuilder, Refusal};
pub use read::{FileReader, ReadError, ReadOutcome, SMALL_BYTES_MAX, Span};
pub use rules::WalkOptions;
pub use seen::{SeenEntry, SeenError, SeenReader, SeenRecord, SeenStamp, SeenWriter, is_unchanged, seen_end};
pub use sources::SourceError;
pub use stream::{CommandStream, Interruptible, StreamError, stdin_stream, stream_node};
pub use trusted::{TrustNumber, Trusted, trust_number};
pub use walk::{DIRECTORIES_OPEN_MAX, Walk};

use crate::format::node::{Node, Timestamp};
use crate::report::Issue;

/// What tells whether a file changed since it was last seen. Never stored in a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Content modification time.
    pub modified_at: Timestamp,
    /// Inode change time.
    pub changed_at: Timestamp,
}

/// One entry as the walk met it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path from the snapshot's root, `/`-separated raw bytes, no leading `/`; empty for the root itself.
    pub path: Vec<u8>,
    /// The entry's metadata. A file's content is empty inline and a directory's tree is all zeros
    /// until the backup fills them in.
    pub node: Node,
    /// For change detection.
    pub identity: Identity,
    /// What is known of the extended attributes in `node`.
    pub xattrs: XattrsRead,
}

/// How far an entry's extended attributes were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrsRead {
    /// They are in the node, all of them.
    All,
    /// Some could not be read, or they are not wanted.
    NotAll,
    /// Whoever opens the file is to read them ([`Walk::leave_file_xattrs`]).
    Later,
}

/// Why an entry was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Omission {
    /// An `--exclude` or `--exclude-from` pattern, or an ignore file, names it.
    Excluded,
    /// Larger than `--exclude-larger-than`.
    TooLarge,
    /// Its directory holds a file named by `--exclude-if-present`.
    MarkerPresent,
    /// Its directory is tagged as a cache (`CACHEDIR.TAG`).
    CacheDirectory,
    /// On another file system, under `--one-file-system`.
    OtherFileSystem,
    /// A region of the repository, or its cache ([`Walk::leave_out_own`]).
    OwnRepository,
    /// A socket: has no content and means nothing without its process.
    Socket,
    /// A name or path too long for the format, or of an unknown type.
    Unsupported,
}

impl Omission {
    /// The stable name, stored in snapshots.
    pub fn name(self) -> &'static str {
        match self {
            Omission::Excluded => "excluded",
            Omission::TooLarge => "too-large",
            Omission::MarkerPresent => "marker-present",
            Omission::CacheDirectory => "cache-directory",
            Omission::OtherFileSystem => "other-file-system",
            Omission::OwnRepository => "own-repository",
            Omission::Socket => "socket",
            Omission::Unsupported => "unsupported",
        }
    }
}

/// What a walk yields, in order.
#[derive(Debug)]
pub enum Event {
    /// A directory; its children follow, then its `Leave`. The first event is the root's `Enter`.
    Enter(Entry),
    /// The innermost entered directory is complete.
    Leave,
    /// Anything that is no directory.
    Leaf(Entry),
    /// An entry deliberately left out.
    Omitted {
        /// Path from the snapshot's root.
        path: Vec<u8>,
        /// Why.
        why: Omission,
    },
    /// An entry that should have been captured and could not be.
    Failed(Issue),
}

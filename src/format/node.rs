//! A node: one entry of a directory's listing. Page: `format-spec/tree.md`.
//!
//! Nodes hold what a restore needs and nothing that changes by itself: no inode, atime or ctime.

use super::ids::ChunkId;

/// Modification time as the file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the Unix epoch, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// One part of a file's content, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A chunk of `length` plaintext bytes.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its plaintext length in bytes, at least 1.
        length: u32,
    },
    /// A hole: `length` bytes that read as zeros and take no room.
    Hole {
        /// Its length in bytes, at least 1.
        length: u64,
    },
}

impl Extent {
    /// Length in bytes of the file's range that this covers.
    pub fn length(&self) -> u64 {
        match self {
            Extent::Chunk { length, .. } => u64::from(*length),
            Extent::Hole { length } => *length,
        }
    }
}

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Up to [`crate::limits::INLINE_RECORDS_MAX`] extents; none for an empty file.
    Inline(Vec<Extent>),
    /// The top chunk of a list sequence.
    List(ChunkId),
}

/// What kind of entry, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File {
        /// Size in bytes: the sum of its extents' lengths.
        size: u64,
        /// Its content.
        content: Content,
        /// The file changed while it was read: the content mixes several moments.
        inconsistent: bool,
    },
    /// A directory; its listing is the tree sequence with this top chunk.
    Directory {
        /// The top chunk of the directory's tree.
        tree: ChunkId,
    },
    /// A symbolic link.
    Symlink {
        /// The target, raw bytes.
        target: Vec<u8>,
    },
    /// A character device.
    CharacterDevice {
        /// Device major number.
        major: u32,
        /// Device minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Device major number.
        major: u32,
        /// Device minor number.
        minor: u32,
    },
    /// A fifo.
    Fifo,
}

impl NodeKind {
    /// The kind's stable name: `file`, `directory`, `symlink`, `character-device`, `block-device`, `fifo`.
    pub fn name(&self) -> &'static str {
        match self {
            NodeKind::File { .. } => "file",
            NodeKind::Directory { .. } => "directory",
            NodeKind::Symlink { .. } => "symlink",
            NodeKind::CharacterDevice { .. } => "character-device",
            NodeKind::BlockDevice { .. } => "block-device",
            NodeKind::Fifo => "fifo",
        }
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// File name: 1 to 255 raw bytes, without `/` and NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// Kind and what belongs to it.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits (0o7777).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The owner's name on the source host; empty when it has none.
    pub user: Vec<u8>,
    /// The group's name on the source host; empty when it has none.
    pub group: Vec<u8>,
    /// Modification time.
    pub modified_at: Timestamp,
    /// Extended attributes, ACLs among them (`system.posix_acl_access`), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a file with several names in this snapshot: the path of the first, from the snapshot's
    /// root, `/`-separated without a leading one. The same in every name's node.
    pub link_group: Option<Vec<u8>>,
}

impl Node {
    /// An entry without metadata: mode 0, of user and group 0, from the epoch.
    pub fn bare(name: Vec<u8>, kind: NodeKind) -> Self {
        Node {
            name,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            modified_at: Timestamp::default(),
            xattrs: Vec::new(),
            link_group: None,
        }
    }
}

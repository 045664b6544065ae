//! The identifiers of the format, as newtypes over fixed byte arrays. Page: `format-spec/conventions.md`.

use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// Reads exactly `2 * LENGTH` lower-case hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0u8; $length];
                decode_hex(text, &mut bytes).then_some($name(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                write_hex(&self.0, f)?;
                f.write_str(")")
            }
        }
    };
}

identifier!(
    /// Keyed BLAKE3 of a chunk's plaintext, domain-separated by [`ChunkKind`].
    ChunkId, 32
);
identifier!(
    /// BLAKE3-256 of a pack's bytes before its trailer.
    PackId, 32
);
identifier!(
    /// BLAKE3-256 of a segment's bytes before its trailer.
    SegmentId, 32
);
identifier!(
    /// BLAKE3-256 of a snapshot object's bytes before its trailer.
    SnapshotId, 32
);
identifier!(
    /// One writer's attempt at one commit in one region; random.
    SessionId, 16
);
identifier!(
    /// A key slot; random.
    SlotId, 16
);
identifier!(
    /// A repository; random, the same in every region.
    RepositoryId, 16
);
identifier!(
    /// A region of a repository; random.
    RegionId, 16
);
identifier!(
    /// A section of packs: frames sealed under one secret; random.
    SectionId, 16
);
identifier!(
    /// Digest of a stored object: BLAKE3-256 of the bytes before its trailer.
    Digest, 32
);

/// What a chunk holds; part of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkKind {
    /// File or stream content.
    Data = 0,
    /// A structural chunk of a directory's listing.
    Tree = 1,
    /// A structural chunk of a large file's chunk list.
    List = 2,
}

impl ChunkKind {
    /// The kind for a stored code, or `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(ChunkKind::Data),
            1 => Some(ChunkKind::Tree),
            2 => Some(ChunkKind::List),
            _ => None,
        }
    }

    /// True for chunks that refer to other chunks.
    pub fn is_structural(self) -> bool {
        self != ChunkKind::Data
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn decode_hex(text: &str, bytes: &mut [u8]) -> bool {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    text.len() == bytes.len() * 2
        && text.chunks_exact(2).zip(bytes).all(|(pair, byte)| match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => {
                *byte = high << 4 | low;
                true
            }
            _ => false,
        })
}

/// The 16 hexadecimal digits that numbers in object names are written with.
pub fn number_name(number: u64) -> String {
    format!("{number:016x}")
}

/// Reads [`number_name`]'s form and nothing else.
pub fn number_from_name(text: &str) -> Option<u64> {
    let mut bytes = [0u8; 8];
    decode_hex(text, &mut bytes).then(|| u64::from_be_bytes(bytes))
}

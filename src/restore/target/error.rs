//! What can go wrong while restored entries are written. Called by every part of [`super`].

use std::fmt;
use std::io;

use crate::report::{Issue, IssueKind};

/// The closed set of classes of [`TargetError`], for a driver that has to choose between stopping and going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetErrorKind {
    /// No room: file system full or quota reached.
    Full,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The permissions of this process don't allow it.
    Denied,
    /// Going on would have followed a symbolic link or left the target.
    Unsafe,
    /// Something that may not be overwritten stands in the way.
    Occupied,
    /// The hard link can't be made here; restore the file's content instead.
    Unlinkable,
    /// The node or the call is unusable.
    Invalid,
    /// A file was to be finished before all of its bytes were written.
    Incomplete,
    /// Another restore writes to this target.
    Busy,
    /// Anything else.
    Other,
}

/// A failed operation on the target: which path, which operation, what happened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The operating system refused.
    #[error("{operation} {}: {source}", Escaped(.path))]
    Io {
        /// The class, from the error code and the operation.
        kind: TargetErrorKind,
        /// What was tried, as a verb: `open`, `rename`, `set owner of`.
        operation: &'static str,
        /// Path of the entry, raw bytes, beginning with the target's own path.
        path: Vec<u8>,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The target is not what it was, or holds a link where a directory or file is needed.
    #[error("refusing to touch {}: {detail}", Escaped(.path))]
    Unsafe {
        /// Path of the entry, raw bytes.
        path: Vec<u8>,
        /// What was found.
        detail: &'static str,
    },
    /// An existing entry stands in the way and may not be removed.
    #[error("{} is taken by an existing {found}", Escaped(.path))]
    Occupied {
        /// Path of the entry, raw bytes.
        path: Vec<u8>,
        /// What is there.
        found: &'static str,
    },
    /// The node or the call is unusable.
    #[error("can't restore {}: {detail}", Escaped(.path))]
    Invalid {
        /// Path of the entry or of its directory, raw bytes.
        path: Vec<u8>,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// Bytes written and declared holes don't add up to the file's size.
    #[error("{}: {actual} of {expected} bytes were restored", Escaped(.path))]
    Incomplete {
        /// Path of the entry, raw bytes.
        path: Vec<u8>,
        /// The node's size in bytes.
        expected: u64,
        /// Bytes written or declared as holes, or the size found on disk.
        actual: u64,
    },
    /// Another process holds the target's lock.
    #[error("another restore is writing to {}", Escaped(.path))]
    Busy {
        /// The target's path, raw bytes.
        path: Vec<u8>,
    },
}

impl TargetError {
    /// An operating system's refusal, classed by its code.
    pub(super) fn io(operation: &'static str, path: Vec<u8>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        TargetError::Io { kind: kind_of(&source), operation, path, source }
    }

    /// Like [`TargetError::io`] for metadata, where a full disk's code often means only that this one
    /// attribute is too large (ext4), which must not stop a restore.
    pub(super) fn metadata(operation: &'static str, path: Vec<u8>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match kind_of(&source) {
            TargetErrorKind::Full => TargetErrorKind::Other,
            kind => kind,
        };
        TargetError::Io { kind, operation, path, source }
    }

    /// The error's class.
    pub fn kind(&self) -> TargetErrorKind {
        match self {
            TargetError::Io { kind, .. } => *kind,
            TargetError::Unsafe { .. } => TargetErrorKind::Unsafe,
            TargetError::Occupied { .. } => TargetErrorKind::Occupied,
            TargetError::Invalid { .. } => TargetErrorKind::Invalid,
            TargetError::Incomplete { .. } => TargetErrorKind::Incomplete,
            TargetError::Busy { .. } => TargetErrorKind::Busy,
        }
    }

    /// Path of the entry, raw bytes, beginning with the target's own path.
    pub fn path(&self) -> &[u8] {
        match self {
            TargetError::Io { path, .. }
            | TargetError::Unsafe { path, .. }
            | TargetError::Occupied { path, .. }
            | TargetError::Invalid { path, .. }
            | TargetError::Incomplete { path, .. }
            | TargetError::Busy { path } => path,
        }
    }

    /// True where every further entry would meet the same fate, so that the run should stop.
    pub fn stops_run(&self) -> bool {
        matches!(self.kind(), TargetErrorKind::Full | TargetErrorKind::ReadOnly | TargetErrorKind::Busy)
    }

    /// The error as an item-level failure of a run that goes on.
    pub fn issue(&self) -> Issue {
        Issue { kind: IssueKind::NotRestored, subject: self.path().to_vec(), detail: self.to_string() }
    }
}

fn kind_of(source: &io::Error) -> TargetErrorKind {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TargetErrorKind::Full,
        io::ErrorKind::ReadOnlyFilesystem => TargetErrorKind::ReadOnly,
        io::ErrorKind::PermissionDenied => TargetErrorKind::Denied,
        _ => TargetErrorKind::Other,
    }
}

/// Shows a raw path: UTF-8 as it is, control characters escaped, all other bytes as `\xNN`.
pub(super) struct Escaped<'a>(pub(super) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for character in part.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            part.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

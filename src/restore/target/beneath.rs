//! Opening entries of a directory without ever leaving it.
//!
//! Every open takes one name and the descriptor of the directory that holds it. A single component can't
//! leave that directory but through a symbolic link, and none is followed: `openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS` where the kernel has it, `O_NOFOLLOW` always.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::TargetError;
use crate::format::node::Timestamp;
use crate::limits::NAME_BYTES_MAX;

/// Device and inode number: tells whether a directory is still the one that was entered.
pub(super) type FileIdentity = (u64, u64);

/// How this kernel and sandbox let one open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opener {
    openat2: bool,
}

impl Opener {
    /// Finds out whether `openat2` works: old kernels lack it, some sandboxes forbid it with EPERM.
    pub(super) fn probe(directory: BorrowedFd<'_>) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let answer = rustix::fs::openat2(directory, c".", flags, Mode::empty(), RESOLVE);
        Opener { openat2: !matches!(answer, Err(Errno::NOSYS | Errno::PERM)) }
    }

    /// For tests of the way that old kernels take.
    #[cfg(test)]
    pub(super) fn without_openat2() -> Self {
        Opener { openat2: false }
    }

    /// Opens `name` in `directory`, itself and not what it may point to.
    pub(super) fn open(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        self.open_resolving(directory, name, flags, mode, RESOLVE)
    }

    /// Opens the directory `name` for listing.
    pub(super) fn open_directory(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(directory, name, DIRECTORY, Mode::empty())
    }

    /// Like [`Opener::open_directory`], but a mount point gives EXDEV: deleting must not cross into
    /// another file system.
    pub(super) fn open_directory_same_mount(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        device: u64,
    ) -> Result<OwnedFd, Errno> {
        let fd =
            self.open_resolving(directory, name, DIRECTORY, Mode::empty(), RESOLVE.union(ResolveFlags::NO_XDEV))?;
        // Without openat2 this sees only mounts of other devices; a bind mount of the same one goes unnoticed.
        if rustix::fs::fstat(&fd)?.st_dev != device { Err(Errno::XDEV) } else { Ok(fd) }
    }

    /// A descriptor that only pins the entry: nothing is read, no device woken, no permission on it needed.
    pub(super) fn pin(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    fn open_resolving(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW;
        loop {
            let answer = if self.openat2 {
                rustix::fs::openat2(directory, name, flags, mode, resolve)
            } else {
                rustix::fs::openat(directory, name, flags, mode)
            };
            match answer {
                // EAGAIN: a rename elsewhere kept the kernel from being certain that it stayed beneath.
                Err(Errno::INTR | Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Refuses what can't be the name of one entry: the decoder checks too, but this is the last line.
pub(super) fn check_name(name: &[u8], directory_path: impl FnOnce() -> Vec<u8>) -> Result<(), TargetError> {
    let detail = match name {
        [] => "an entry's name is empty",
        b"." | b".." => "an entry is named . or ..",
        _ if name.len() > NAME_BYTES_MAX => "an entry's name is longer than 255 bytes",
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => "an entry's name holds a slash or NUL",
        _ => return Ok(()),
    };
    Err(TargetError::Invalid { path: directory_path(), detail })
}

/// The entry's own status, or `None` where there is none of that name.
pub(super) fn stat_name(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names in a directory, with their types where the file system tells them; in no order, without `.` and `..`.
pub(super) fn list(directory: impl AsFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Device and inode number of a status.
pub(super) fn identity_of(stat: &Stat) -> FileIdentity {
    (stat.st_dev, stat.st_ino)
}

/// Modification time of a status.
pub(super) fn modified_at(stat: &Stat) -> Timestamp {
    // The kernel keeps nanoseconds below 10^9, which fit.
    Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// The type in a status.
pub(super) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A type's name in messages.
pub(super) fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "entry of unknown type",
    }
}

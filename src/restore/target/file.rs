//! Regular files: written beside their final name, completed, then renamed over it.
//!
//! Guarantees: under its final name a file is either what was there before or wholly restored, metadata
//! included; other hard links of a replaced file keep their content; an interrupted restore leaves only
//! partial files of a recognizable name, swept by the next one. That holds for a killed process. After a power
//! loss before [`Target::sync`] a file's name and time may have reached the disk before its bytes did.
//!
//! One exception, for a tenth of a restore's time: where a directory that this run made has its
//! [`UNFINISHED_MODE`](super::directory::UNFINISHED_MODE), until all is in it, a file that is written in one go has its
//! final name at once, and [`PARTIAL_MODE`] until its very last call. A killed process leaves one of them a thread at
//! most, in a directory that only its owner may enter; [`is_cut`] knows it, and the next restore replaces it whatever
//! is to be kept. Nodes to which these modes belong are restored by way of a temporary name.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::beneath::{FileIdentity, check_name, identity_of, stat_name, type_name, type_of};
use super::directory::DirHandle;
use super::error::TargetError;
use super::metadata::{ACL_PREFIX, Current, MODE_BITS, Subject, is_ours_to_remove};
use super::{Overwrite, Restored, Target};
use crate::format::node::{Node, NodeKind};

const PARTIAL_PREFIX: &str = ".keepstone-partial-";
/// Digits of the run's random part and of the number within the run.
const PARTIAL_DIGITS: (usize, usize) = (16, 8);
/// Mode of a file while it is restored: nobody else may look before its owner is set. The sticky bit, which means
/// nothing on a file, tells one that is not complete.
pub(super) const PARTIAL_MODE: u32 = 0o1600;
/// Bytes of what should be a hole that are read back at once.
const ZEROS_READ_BYTES: u64 = 1 << 20;
/// Smaller files gain nothing from having their room reserved.
const RESERVE_BYTES_MIN: u64 = 4 << 20;
/// Stands for a file that a dry run did not make.
const DRY_RUN: FileIdentity = (0, 0);

/// How room for a file's content is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Every byte will be written: a large file's room is reserved at once, which keeps it in one piece and
    /// finds a full disk early.
    Dense,
    /// Some ranges are holes and will not be written.
    Sparse,
}

/// A file being restored; threads may write different ranges of it at once. Holds two descriptors.
///
/// Dropped without [`Target::finish_file`], it removes what was written.
#[derive(Debug)]
pub struct FileHandle {
    parent: DirHandle,
    name: Vec<u8>,
    size: u64,
    /// Bytes written and bytes declared as holes.
    accounted: AtomicU64,
    /// `None` in a dry run.
    partial: Option<Partial>,
}

impl FileHandle {
    /// Writes `bytes` at `offset` bytes into the file. Each range is to be written once.
    ///
    /// # Errors
    /// `Invalid` for a range beyond the node's size, `Full` when the disk is full.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), TargetError> {
        self.check_range(offset, bytes.len() as u64)?;
        if let Some(partial) = &self.partial {
            partial.file.write_all_at(bytes, offset).map_err(|error| TargetError::io("write", self.path(), error))?;
        }
        self.accounted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Declares that `length` bytes from `offset` are a hole of a file made as [`Room::Sparse`].
    ///
    /// # Errors
    /// `Invalid` for a range beyond the node's size.
    pub fn hole(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        self.check_range(offset, length)?;
        self.accounted.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// The file's path as raw bytes; for messages only.
    pub fn path(&self) -> Vec<u8> {
        self.parent.path_of(&self.name)
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(TargetError::Invalid { path: self.path(), detail: "its content is longer than its size" }),
        }
    }
}

/// A file that isn't complete; removed when dropped, unless it was installed.
#[derive(Debug)]
pub(super) struct Partial {
    directory: Arc<OwnedFd>,
    /// Its temporary name, or its final one; empty once it is installed.
    name: Vec<u8>,
    is_named: bool,
    file: File,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What can't be removed now is swept by the next restore.
            let _ = rustix::fs::unlinkat(&self.directory, self.name.as_slice(), AtFlags::empty());
        }
    }
}

/// Whether an entry is what an interrupted restore left under a file's final name: neither it nor its directory has the
/// mode that its node says, but those of what isn't complete. Content is all that it may have besides.
pub(super) fn is_cut(parent: &DirHandle, node: &Node, stat: &Stat) -> bool {
    parent.tells_partial()
        && type_of(stat) == FileType::RegularFile
        && stat.st_mode & MODE_BITS == PARTIAL_MODE
        && node.mode & MODE_BITS != PARTIAL_MODE
        && stat.st_nlink == 1
}

/// True for the names that partial entries have, of any run.
pub(super) fn is_leftover(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(PARTIAL_PREFIX.as_bytes()) else { return false };
    let (run, number) = PARTIAL_DIGITS;
    rest.len() == run + 1 + number
        && rest.iter().enumerate().all(|(position, byte)| match position == run {
            true => *byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

impl Target {
    /// A name that no entry of this or another run has.
    pub(super) fn partial_name(&self) -> String {
        let number = self.partials.fetch_add(1, Ordering::Relaxed);
        format!("{PARTIAL_PREFIX}{:016x}-{number:08x}", self.run)
    }

    /// True for the names that this run gives to partial entries.
    pub(super) fn is_own_partial(&self, name: &[u8]) -> bool {
        name.strip_prefix(PARTIAL_PREFIX.as_bytes())
            .is_some_and(|rest| rest.starts_with(format!("{:016x}-", self.run).as_bytes()))
    }

    /// Restores a file whose content fits into memory, in as few system calls as it takes.
    ///
    /// # Errors
    /// `Incomplete` if `bytes` is not as long as the node says, `Occupied` if something may not be replaced,
    /// `Full` when the disk is full. Metadata that can't be set is a problem of the [`Restored`].
    pub fn write_small_file(&self, parent: &DirHandle, node: &Node, bytes: &[u8]) -> Result<Restored, TargetError> {
        let size = file_size(parent, node)?;
        if bytes.len() as u64 != size {
            let (path, actual) = (parent.path_of(&node.name), bytes.len() as u64);
            return Err(TargetError::Incomplete { path, expected: size, actual });
        }
        if self.options.dry_run {
            self.remember_link(parent, node, DRY_RUN);
            return Ok(Restored::default());
        }
        let partial = match self.create_named(parent, node)? {
            Some(named) => named,
            None => self.create_partial(parent, &node.name)?,
        };
        if !bytes.is_empty() {
            let written = partial.file.write_all_at(bytes, 0);
            written.map_err(|error| TargetError::io("write", parent.path_of(&node.name), error))?;
        }
        self.complete(parent, node, partial)
    }

    /// Begins a file that is written in pieces. In a dry run what is written to it is discarded.
    ///
    /// # Errors
    /// If it can't be made, or `Full` if its room can't be reserved.
    pub fn create_file(&self, parent: &DirHandle, node: &Node, room: Room) -> Result<FileHandle, TargetError> {
        let size = file_size(parent, node)?;
        let partial = if self.options.dry_run { None } else { Some(self.create_partial(parent, &node.name)?) };
        if let Some(partial) = &partial {
            let failed = |error| TargetError::io("make room for", parent.path_of(&node.name), error);
            match room {
                Room::Sparse => rustix::fs::ftruncate(&partial.file, size).map_err(failed)?,
                Room::Dense if size >= RESERVE_BYTES_MIN => {
                    // Not every file system can reserve room; then writing will show whether there is any.
                    let reserved = rustix::fs::fallocate(&partial.file, FallocateFlags::KEEP_SIZE, 0, size);
                    if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = reserved {
                        return Err(failed(error));
                    }
                }
                Room::Dense => {}
            }
        }
        Ok(FileHandle { parent: parent.clone(), name: node.name.clone(), size, accounted: AtomicU64::new(0), partial })
    }

    /// Completes a file: metadata, then its final name.
    ///
    /// # Errors
    /// `Incomplete` unless every byte was written or declared a hole, `Occupied` if something may not be
    /// replaced. Metadata that can't be set is a problem of the [`Restored`].
    pub fn finish_file(&self, handle: FileHandle, node: &Node) -> Result<Restored, TargetError> {
        let FileHandle { parent, name, size, accounted, partial } = handle;
        if name != node.name || file_size(&parent, node)? != size {
            let detail = "the node is not the one that the file was made for";
            return Err(TargetError::Invalid { path: parent.path_of(&name), detail });
        }
        let mut actual = accounted.into_inner();
        let Some(partial) = partial else {
            self.remember_link(&parent, node, DRY_RUN);
            return Ok(Restored::default());
        };
        if actual == size {
            let stat = rustix::fs::fstat(&partial.file);
            let stat = stat.map_err(|error| TargetError::io("stat", parent.path_of(&name), error))?;
            actual = u64::try_from(stat.st_size).unwrap_or(0);
        }
        if actual != size {
            return Err(TargetError::Incomplete { path: parent.path_of(&name), expected: size, actual });
        }
        self.complete(&parent, node, partial)
    }

    fn create_partial(&self, parent: &DirHandle, name: &[u8]) -> Result<Partial, TargetError> {
        let directory = self.fd(parent)?;
        let partial_name = self.partial_name().into_bytes();
        let file = self
            .create(&directory, &partial_name)
            .map_err(|error| TargetError::io("create", parent.path_of(name), error))?;
        Ok(Partial { directory, name: partial_name, is_named: false, file })
    }

    /// Makes a file under its final name, where its mode and its directory's tell until its last call that it isn't
    /// complete. `None` where they don't, or where there is an entry of that name, say since the file system takes two
    /// names for one.
    pub(super) fn create_named(&self, parent: &DirHandle, node: &Node) -> Result<Option<Partial>, TargetError> {
        // The first file of each directory shows whether the file system keeps the mode.
        let keeps = || parent.0.birth.get().is_some_and(|birth| birth.mode == PARTIAL_MODE);
        // An ACL changes the mode before the file is complete.
        let has_acl = || node.xattrs.iter().any(|(name, _)| name.starts_with(ACL_PREFIX));
        let tells = parent.is_fresh() && parent.tells_partial() && node.mode & MODE_BITS != PARTIAL_MODE;
        if !tells || !keeps() || has_acl() {
            return Ok(None);
        }
        let directory = self.fd(parent)?;
        match self.create(&directory, &node.name) {
            Ok(file) => Ok(Some(Partial { directory, name: node.name.clone(), is_named: true, file })),
            Err(Errno::EXIST) => Ok(None),
            Err(error) => Err(TargetError::io("create", parent.path_of(&node.name), error)),
        }
    }

    /// A file that nobody else may open.
    fn create(&self, directory: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(PARTIAL_MODE);
        self.opener.open(directory.as_fd(), name, flags, mode).map(File::from)
    }

    fn complete(&self, parent: &DirHandle, node: &Node, mut partial: Partial) -> Result<Restored, TargetError> {
        let path = || parent.path_of(&node.name);
        let fd = partial.file.as_fd();
        let birth = match parent.0.birth.get() {
            Some(birth) => *birth,
            // The system decides what owner, mode and inherited ACL a new file has (set-group-id directories,
            // default ACLs, squashed network users): ask once a directory rather than guess or ask every time.
            None => {
                let subject = Subject::Open(fd);
                let stat = subject.stat().map_err(|error| TargetError::io("stat", path(), error))?;
                let may_have_xattrs = match subject.xattr_names() {
                    Ok(names) => names.iter().any(|name| is_ours_to_remove(name)),
                    // What can't be listed here is listed, and reported, file by file.
                    Err(error) => error != Errno::OPNOTSUPP,
                };
                let birth = Current { modified_at: None, may_have_xattrs, ..Current::existing(&stat) };
                *parent.0.birth.get_or_init(|| birth)
            }
        };
        let restored = self.apply_metadata(&Subject::Open(fd), birth, node, &path);
        let identity = match node.link_group {
            Some(_) => Some(rustix::fs::fstat(fd).map_err(|error| TargetError::io("stat", path(), error))?),
            None => None,
        };
        if !partial.is_named {
            self.install(parent, partial.directory.as_fd(), &partial.name, node)?;
        }
        // Nothing is to be removed any more.
        partial.name.clear();
        if let Some(stat) = identity {
            self.remember_link(parent, node, identity_of(&stat));
        }
        Ok(Restored { changed: true, ..restored })
    }

    /// Gives a complete entry its final name, in place of what may be replaced.
    pub(super) fn install(
        &self,
        parent: &DirHandle,
        directory: BorrowedFd<'_>,
        partial_name: &[u8],
        node: &Node,
    ) -> Result<(), TargetError> {
        let name = node.name.as_slice();
        let failed = |error| TargetError::io("rename", parent.path_of(name), error);
        if self.options.overwrite == Overwrite::Never {
            return match rustix::fs::renameat_with(directory, partial_name, directory, name, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                // Something is there, or the file system can't: look first.
                Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => match stat_name(directory, name) {
                    Ok(Some(stat)) if !is_cut(parent, node, &stat) => Err(self.occupied(parent, directory, name)),
                    Ok(_) => rustix::fs::renameat(directory, partial_name, directory, name).map_err(failed),
                    Err(error) => Err(failed(error)),
                },
                Err(error) => Err(failed(error)),
            };
        }
        match rustix::fs::renameat(directory, partial_name, directory, name) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                self.clear_directory(parent, directory, name)?;
                rustix::fs::renameat(directory, partial_name, directory, name).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn occupied(&self, parent: &DirHandle, directory: BorrowedFd<'_>, name: &[u8]) -> TargetError {
        match stat_name(directory, name) {
            Ok(Some(stat)) => TargetError::Occupied { path: parent.path_of(name), found: type_name(type_of(&stat)) },
            _ => TargetError::Occupied { path: parent.path_of(name), found: "entry" },
        }
    }

    /// Opens an existing regular file for reading, to compare what was restored; never follows a link.
    ///
    /// # Errors
    /// `Unsafe` for anything but a regular file, else what the operating system refuses.
    pub fn open_existing(&self, parent: &DirHandle, name: &[u8]) -> Result<File, TargetError> {
        check_name(name, || parent.path())?;
        let directory = self.fd(parent)?;
        let failed = |error| TargetError::io("open", parent.path_of(name), error);
        let no_file = || TargetError::Unsafe { path: parent.path_of(name), detail: "it is no regular file" };
        // Looking first keeps devices from being opened; looking again catches a swap in between.
        match stat_name(directory.as_fd(), name).map_err(failed)? {
            Some(stat) if type_of(&stat) == FileType::RegularFile => {}
            Some(_) => return Err(no_file()),
            None => return Err(failed(Errno::NOENT)),
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match self.opener.open(directory.as_fd(), name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(no_file()),
            answer => answer.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if type_of(&stat) == FileType::RegularFile { Ok(File::from(fd)) } else { Err(no_file()) }
    }
}

/// The size of a file's node, with its name checked.
fn file_size(parent: &DirHandle, node: &Node) -> Result<u64, TargetError> {
    check_name(&node.name, || parent.path())?;
    match node.kind {
        NodeKind::File { size, .. } => Ok(size),
        _ => Err(TargetError::Invalid { path: parent.path_of(&node.name), detail: "it is no regular file" }),
    }
}

/// Where the first byte that isn't zero lies between two offsets of a file. What it holds no data for isn't read.
///
/// # Errors
/// As the operating system; also when the file ends before.
pub fn first_nonzero(file: &File, from: u64, to: u64, buffer: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    let mut at = from;
    while at < to {
        match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) if data >= to => return Ok(None),
            Ok(data) => at = data,
            // No data up to its end.
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // Not every file system can tell: then all is read.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        buffer.resize(ZEROS_READ_BYTES.min(to - at) as usize, 0);
        file.read_exact_at(buffer, at)?;
        if let Some(found) = buffer.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + found as u64));
        }
        at += buffer.len() as u64;
    }
    Ok(None)
}

//! The target of a restore: the only code that writes restored entries to a file system.
//!
//! It is given nodes and bytes and knows nothing of repositories. Guarantees: nothing is written, changed or
//! removed outside the directory that was opened, whatever names a repository holds and whatever links are
//! planted in the target; an entry appears under its name only when it is complete, or both it and its directory
//! tell by their modes that it isn't; what exists is treated by the [`Overwrite`] policy; a dry run decides the same and changes nothing. Everything may be called from
//! several threads. The restore drives it like this:
//!
//! ```text
//! open → root → enter_directory (parents first)
//!   file       decide → write_small_file | create_file, write_at…, finish_file | fix_metadata if right already
//!   other      decide → write_special | fix_metadata
//!   more names link, once the group's first name is done
//!   remove_unlisted → finish_directory (children first) → sync → notices
//! ```

mod beneath;
mod delete;
mod directory;
mod error;
mod file;
mod metadata;
mod special;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

pub use self::delete::Removed;
pub use self::directory::DirHandle;
pub use self::error::{TargetError, TargetErrorKind};
use self::file::is_cut;
pub use self::file::{FileHandle, Room, first_nonzero};
pub use self::special::Linked;

use self::beneath::{FileIdentity, Opener, check_name, identity_of, modified_at, stat_name, type_of};
use self::directory::{OpenDirectories, UNFINISHED_MODE};
use self::metadata::{Current, Owners, Privileges, Subject};
use self::special::{Links, is_same_special};
use super::patterns::Patterns;
use crate::env::{SystemRandom, random_bytes};
use crate::format::node::{Node, NodeKind};
use crate::report::Counter;

/// What to do about entries that the target already holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave every existing entry exactly as it is, directories' metadata included; restore what is absent.
    Never,
    /// Leave the content of files of the same size and modification time; replace what differs.
    #[default]
    IfDifferent,
    /// Write everything anew.
    Always,
}

/// How a target is to be written.
#[derive(Clone, Copy, Debug)]
pub struct TargetOptions {
    /// What to do about existing entries.
    pub overwrite: Overwrite,
    /// Allow the removal of entries that the snapshot doesn't have, and of filled directories in the way.
    pub delete: bool,
    /// Decide and count, change nothing.
    pub dry_run: bool,
    /// Use the stored user and group numbers even where this host knows their names.
    pub numeric_ids: bool,
    /// Flush the file systems written to when [`Target::sync`] is called.
    pub sync: bool,
}

impl Default for TargetOptions {
    fn default() -> Self {
        let overwrite = Overwrite::default();
        TargetOptions { overwrite, delete: false, dry_run: false, numeric_ids: false, sync: true }
    }
}

/// What is to be done about one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is there: write it.
    Write,
    /// Something else is there, or the policy is [`Overwrite::Always`]: write it, which replaces that.
    Replace,
    /// It is there already: only its metadata may need [`Target::fix_metadata`].
    Skip,
    /// Something is there that [`Overwrite::Never`] keeps: do nothing.
    Keep,
}

/// An entry that was restored, perhaps not in every detail.
#[derive(Debug, Default)]
#[must_use]
pub struct Restored {
    /// Something was written or set.
    pub changed: bool,
    /// Metadata that could not be set; the entry stands nonetheless.
    pub problems: Vec<TargetError>,
}

/// Counts over the whole run.
#[derive(Debug, Default)]
pub struct TargetCounts {
    /// Entries removed because the snapshot doesn't have them; in a dry run, that would be.
    pub removed: Counter,
    /// Of these, entries that stood where one of another kind is now, when deletion was asked for.
    pub displaced: Counter,
    /// Partial entries of interrupted restores that were removed.
    pub swept: Counter,
    /// Partial entries of interrupted restores that could not be removed.
    pub sweep_failed: Counter,
    /// Entries whose owner or group could not be set for lack of privileges.
    pub ownership_skipped: Counter,
    /// Entries that were denied their set-id bits or capabilities because their owner could not be set.
    pub set_id_dropped: Counter,
    /// Attributes `security.*` that this process or file system can't set.
    pub security_skipped: Counter,
    /// Attributes `trusted.*` that this process can't set.
    pub trusted_skipped: Counter,
}

/// A directory that a restore writes into; shared by reference among threads.
#[derive(Debug)]
pub struct Target {
    options: TargetOptions,
    root: DirHandle,
    opener: Opener,
    privileges: Privileges,
    owners: Owners,
    open_directories: OpenDirectories,
    links: Links,
    /// One directory of every file system that was entered, by device, to flush them.
    file_systems: Mutex<HashMap<u64, DirHandle>>,
    counts: TargetCounts,
    /// Directories that are never removed.
    spared: Vec<FileIdentity>,
    /// A file's name and first bytes: a directory that holds such a one is never removed, nor what is in it.
    region_marker: Option<(Vec<u8>, Vec<u8>)>,
    /// What they name is never removed.
    patterns: Mutex<Option<Arc<Patterns>>>,
    /// Random, so that names of partial entries differ from those of other runs.
    run: u64,
    /// Partial entries named so far.
    partials: AtomicU32,
}

/// Directories held open at most, and the part of the process's descriptors that they may take.
const OPEN_DIRECTORIES_MAX: u64 = 1024;
const OPEN_DIRECTORIES_MIN: u64 = 8;
const DESCRIPTORS_PART: u64 = 4;

impl Target {
    /// Opens the directory that is restored into; makes it, and its parents, unless this is a dry run. Links
    /// in `path` itself are the caller's choice and are followed; from there on none is.
    ///
    /// # Errors
    /// `Busy` if another restore writes to it, `ReadOnly` if its file system is, `Occupied` if it is no
    /// directory, else what the operating system refuses.
    pub fn open(path: &Path, options: TargetOptions) -> Result<Target, TargetError> {
        let raw_path = path.as_os_str().as_bytes().to_vec();
        let failed = |operation, error| TargetError::io(operation, raw_path.clone(), error);
        let opened = match open_path(path, options.dry_run) {
            Ok(opened) => opened,
            Err(Errno::NOTDIR) => return Err(TargetError::Occupied { path: raw_path, found: "entry" }),
            Err(error) => return Err(failed("open", error)),
        };
        let (decision, fd) = match opened {
            Some((fd, true)) => (Decision::Write, Some(fd)),
            Some((fd, false)) if options.overwrite == Overwrite::Never => (Decision::Keep, Some(fd)),
            Some((fd, false)) => (Decision::Skip, Some(fd)),
            None => (Decision::Write, None),
        };
        let mut opener = Opener::probe(rustix::fs::CWD);
        let mut root_fd = None;
        if let Some(fd) = fd {
            opener = Opener::probe(fd.as_fd());
            if !options.dry_run {
                lock(&fd, &raw_path)?;
                let flags = rustix::fs::fstatvfs(&fd).map_err(|error| failed("stat", error))?.f_flag;
                if flags.contains(StatVfsMountFlags::RDONLY) {
                    return Err(failed("write to", Errno::ROFS));
                }
            }
            let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat", error))?;
            root_fd = Some((fd, stat));
        }
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let capacity = descriptors.unwrap_or(u64::MAX) / DESCRIPTORS_PART;
        let target = Target {
            options,
            root: DirHandle::root(raw_path, root_fd, decision),
            opener,
            privileges: Privileges::of_this_process(),
            owners: Owners::default(),
            // The bounds make it fit.
            open_directories: OpenDirectories::new(capacity.clamp(OPEN_DIRECTORIES_MIN, OPEN_DIRECTORIES_MAX) as usize),
            links: Links::default(),
            file_systems: Mutex::default(),
            counts: TargetCounts::default(),
            spared: Vec::new(),
            region_marker: None,
            patterns: Mutex::default(),
            run: u64::from_le_bytes(random_bytes(&SystemRandom)),
            partials: AtomicU32::new(0),
        };
        if !target.root.is_absent() {
            target.note_file_system(&target.root);
            if !target.root.is_fresh() {
                target.sweep(&target.root, target.fd(&target.root)?.as_fd())?;
            }
        }
        Ok(target)
    }

    /// Has directories stay whatever is deleted, under whichever path they are met: bind mounts give them several.
    /// One that isn't there now needs no sparing.
    ///
    /// # Errors
    /// If a directory can't be looked at: it might be in the way later.
    pub fn spare_directories<P: AsRef<Path>>(&mut self, directories: &[P]) -> Result<(), TargetError> {
        for directory in directories.iter().map(AsRef::as_ref) {
            match rustix::fs::stat(directory) {
                Ok(stat) => self.spared.push(identity_of(&stat)),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(TargetError::io("stat", directory.as_os_str().as_bytes().to_vec(), error)),
            }
        }
        Ok(())
    }

    /// Has directories stay with all that they hold whose file `name` begins with these bytes: regions, by whichever way
    /// they are reached.
    pub fn spare_regions(&mut self, name: &[u8], beginning: &[u8]) {
        self.region_marker = Some((name.to_vec(), beginning.to_vec()));
    }

    /// Has what the patterns name stay whatever is deleted, until the next call.
    pub(super) fn spare_named(&self, patterns: Option<Patterns>) {
        *self.patterns.lock().unwrap_or_else(PoisonError::into_inner) = patterns.map(Arc::new);
    }

    fn patterns(&self) -> Option<Arc<Patterns>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The target directory itself.
    pub fn root(&self) -> DirHandle {
        self.root.clone()
    }

    /// How many files should be under way at once; with the directories held open they leave half of the
    /// process's descriptors to others.
    pub fn open_files_max(&self) -> usize {
        self.open_directories.capacity() / 2
    }

    /// How this target is written.
    pub fn options(&self) -> TargetOptions {
        self.options
    }

    /// Counts so far.
    pub fn counts(&self) -> &TargetCounts {
        &self.counts
    }

    /// What is to be done about an entry, by its policy and what the target holds; reads, never writes.
    ///
    /// # Errors
    /// `Invalid` for an unusable name, else what the operating system refuses.
    pub fn decide(&self, parent: &DirHandle, node: &Node) -> Result<Decision, TargetError> {
        check_name(&node.name, || parent.path())?;
        // Nobody but this run puts anything into a directory that it made a moment ago.
        if parent.is_absent() || parent.is_fresh() {
            return Ok(Decision::Write);
        }
        let fd = self.fd(parent)?;
        let failed = |operation, error| TargetError::io(operation, parent.path_of(&node.name), error);
        let Some(stat) = stat_name(fd.as_fd(), &node.name).map_err(|error| failed("stat", error))? else {
            return Ok(Decision::Write);
        };
        if is_cut(parent, node, &stat) {
            return Ok(Decision::Replace);
        }
        match self.options.overwrite {
            Overwrite::Never => return Ok(Decision::Keep),
            Overwrite::Always => return Ok(Decision::Replace),
            Overwrite::IfDifferent => {}
        }
        let same = match &node.kind {
            NodeKind::File { size, .. } => {
                type_of(&stat) == FileType::RegularFile
                    && u64::try_from(stat.st_size) == Ok(*size)
                    && modified_at(&stat) == node.modified_at
                    // Its other names, which may lie outside the target, are none of this entry's.
                    && (stat.st_nlink == 1 || node.link_group.is_some())
            }
            NodeKind::Directory { .. } => type_of(&stat) == FileType::Directory,
            NodeKind::Symlink { target } if type_of(&stat) == FileType::Symlink => {
                let found = rustix::fs::readlinkat(&fd, node.name.as_slice(), Vec::new());
                found.map_err(|error| failed("read link", error))?.as_bytes() == target
            }
            _ => is_same_special(&stat, node),
        };
        Ok(if same { Decision::Skip } else { Decision::Replace })
    }

    /// Sets what differs in the metadata of an entry that [`Decision::Skip`] left, and notes a file with
    /// several names for [`Target::link`].
    ///
    /// # Errors
    /// `Unsafe` if the entry is no longer what was decided about, else what the operating system refuses.
    /// Metadata that can't be set is a problem of the [`Restored`].
    pub fn fix_metadata(&self, parent: &DirHandle, node: &Node) -> Result<Restored, TargetError> {
        check_name(&node.name, || parent.path())?;
        if parent.is_absent() || self.options.overwrite == Overwrite::Never {
            return Ok(Restored::default());
        }
        let directory = self.fd(parent)?;
        let path = || parent.path_of(&node.name);
        let is_file = matches!(node.kind, NodeKind::File { .. });
        // Files are opened where possible, which works without /proc; opening a device or fifo could wake it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = is_file.then(|| self.opener.open(directory.as_fd(), &node.name, flags, Mode::empty()));
        let (fd, is_open) = match opened {
            Some(Ok(fd)) => (fd, true),
            _ => {
                let pin = self.opener.pin(directory.as_fd(), &node.name);
                (pin.map_err(|error| TargetError::io("open", path(), error))?, false)
            }
        };
        let subject = if is_open { Subject::Open(fd.as_fd()) } else { Subject::Pinned(fd.as_fd()) };
        let stat = subject.stat().map_err(|error| TargetError::io("stat", path(), error))?;
        let same = match &node.kind {
            NodeKind::File { size, .. } => {
                type_of(&stat) == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(*size)
            }
            NodeKind::Directory { .. } => type_of(&stat) == FileType::Directory,
            _ => is_same_special(&stat, node),
        };
        if !same {
            let detail = "the entry was replaced during the restore";
            return Err(TargetError::Unsafe { path: path(), detail });
        }
        self.remember_link(parent, node, identity_of(&stat));
        if self.options.dry_run {
            return Ok(Restored::default());
        }
        Ok(self.apply_metadata(&subject, Current::existing(&stat), node, &path))
    }

    /// Flushes every file system that was written to, if [`TargetOptions::sync`] asks for it; returns when
    /// all restored entries are durable.
    ///
    /// # Errors
    /// If a write that had seemed to succeed did not reach the disk: the restore is not to be trusted.
    pub fn sync(&self) -> Result<(), TargetError> {
        if !self.options.sync || self.options.dry_run {
            return Ok(());
        }
        let directories: Vec<DirHandle> =
            self.file_systems.lock().expect("no panic while noting").values().cloned().collect();
        for directory in directories {
            let fd = self.fd(&directory)?;
            rustix::fs::syncfs(&fd).map_err(|error| TargetError::io("flush", directory.path(), error))?;
        }
        Ok(())
    }

    /// What a person should know at the end though no single entry failed, one sentence each.
    pub fn notices(&self) -> Vec<String> {
        let counts = &self.counts;
        let said = [
            (&counts.ownership_skipped, "entries keep this process's owner or group: it may not change theirs"),
            (&counts.set_id_dropped, "entries lost set-id bits or capabilities, as their owner could not be set"),
            (&counts.security_skipped, "security.* attributes can't be set by this process or on this file system"),
            (&counts.trusted_skipped, "trusted.* attributes can't be set without privileges"),
            (&counts.swept, "partial files of interrupted restores were removed"),
            (&counts.sweep_failed, "partial files of interrupted restores could not be removed"),
        ];
        let said = said.into_iter().filter(|(count, _)| count.get() > 0);
        said.map(|(count, text)| format!("{} {text}", count.get())).collect()
    }

    fn note_file_system(&self, directory: &DirHandle) {
        if let Some(device) = directory.device() {
            let mut file_systems = self.file_systems.lock().expect("no panic while noting");
            file_systems.entry(device).or_insert_with(|| directory.clone());
        }
    }
}

impl Drop for Target {
    /// Gives the lock back by name: closing would not, while a handle or a process just forked shares it.
    fn drop(&mut self) {
        if !self.options.dry_run
            && let Ok(fd) = self.fd(&self.root)
        {
            // The lock ends with this process at the latest.
            let _ = rustix::fs::flock(&fd, FlockOperation::Unlock);
        }
    }
}

/// Opens the target step by step, so that its path may be longer than the system takes at once, making what
/// is absent. True if the last step was made; `None` where a dry run would make something.
fn open_path(path: &Path, dry_run: bool) -> Result<Option<(OwnedFd, bool)>, Errno> {
    let pass = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut made = false;
    let mut fd = rustix::fs::open(c".", pass, Mode::empty())?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let name = match component {
            Component::RootDir => OsStr::new("/"),
            component => component.as_os_str(),
        };
        // Parents as any program makes them; the target itself is closed to others until it is finished.
        let mode = if components.peek().is_some() { 0o777 } else { UNFINISHED_MODE };
        fd = loop {
            match rustix::fs::openat(&fd, name, pass, Mode::empty()) {
                Err(Errno::NOENT) if dry_run => return Ok(None),
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(mode)) {
                    Ok(()) => made = true,
                    Err(Errno::EXIST) if stat_name(fd.as_fd(), name.as_bytes())?.is_none() => {}
                    // A link that leads nowhere.
                    Err(Errno::EXIST) => return Err(Errno::NOENT),
                    Err(error) => return Err(error),
                },
                answer => break answer?,
            }
        };
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Some((rustix::fs::openat(&fd, c".", flags, Mode::empty())?, made)))
}

/// Takes the target for this process: two restores would sweep each other's partial files.
fn lock(fd: &OwnedFd, path: &[u8]) -> Result<(), TargetError> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(TargetError::Busy { path: path.to_vec() }),
        // Some network file systems can't lock directories; that is no reason not to restore.
        Ok(()) | Err(_) => Ok(()),
    }
}

//! Directories of the target: handles that keep their place without keeping a descriptor each.
//!
//! A [`DirHandle`] knows its parent, its name and which directory (device and inode) it entered. Descriptors
//! are cached up to a limit and opened again component by component, so paths of any length and depth work
//! under any descriptor limit. A directory that was swapped for another in between is noticed and refused.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::beneath::{self, FileIdentity, check_name, identity_of, type_name, type_of};
use super::error::TargetError;
use super::file::is_leftover;
use super::metadata::{Current, MODE_BITS, Subject};
use super::{Decision, Overwrite, Restored, Target};
use crate::format::node::{Node, NodeKind};
use crate::limits::TREE_DEPTH_MAX;

/// Mode of a directory while its entries are restored: nobody else may look before its owner is set. The
/// sticky bit, which means nothing without access for others, tells one that an interrupted restore left.
pub(super) const UNFINISHED_MODE: u32 = 0o1700;
/// What its owner needs to restore entries in it.
const OWNER_ACCESS: u32 = 0o700;
/// How often an entry that reappears in a directory's place is removed before giving up.
const REPLACE_ATTEMPTS: usize = 3;

/// A directory being restored; cheap to clone and to keep.
#[derive(Clone)]
pub struct DirHandle(pub(super) Arc<Directory>);

/// What a [`DirHandle`] shares.
pub(super) struct Directory {
    parent: Option<DirHandle>,
    /// The entry's name; the target's own path for the root.
    name: Vec<u8>,
    depth: usize,
    /// `None` for a directory that a dry run would have made.
    identity: Option<FileIdentity>,
    decision: Decision,
    /// It had [`UNFINISHED_MODE`] when it was entered.
    unfinished: bool,
    /// That mode isn't its own, and so tells that its files may not be complete.
    tells: bool,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Set at every use, for the cache's second chance.
    used: AtomicBool,
    /// What a file newly made here gets, learned from the first one.
    pub(super) birth: OnceLock<Current>,
}

impl DirHandle {
    /// The target itself; without descriptor and status in a dry run that would make it.
    pub(super) fn root(path: Vec<u8>, found: Option<(OwnedFd, Stat)>, decision: Decision) -> Self {
        match found {
            Some((fd, stat)) => DirHandle::new(None, path, Some(&stat), None, decision, Some(Arc::new(fd))),
            None => DirHandle::new(None, path, None, None, decision, None),
        }
    }

    fn new(
        parent: Option<&DirHandle>,
        name: Vec<u8>,
        stat: Option<&Stat>,
        node: Option<&Node>,
        decision: Decision,
        fd: Option<Arc<OwnedFd>>,
    ) -> Self {
        let unfinished = stat.is_some_and(is_unfinished);
        let tells = unfinished && node.is_some_and(|node| node.mode & MODE_BITS != UNFINISHED_MODE);
        // One that an interrupted restore made is not somebody's to be kept as it is.
        let decision = if unfinished && decision == Decision::Keep { Decision::Skip } else { decision };
        DirHandle(Arc::new(Directory {
            parent: parent.cloned(),
            name,
            depth: parent.map_or(0, |parent| parent.0.depth + 1),
            identity: stat.map(identity_of),
            decision,
            unfinished,
            tells,
            fd: Mutex::new(fd),
            used: AtomicBool::new(true),
            birth: OnceLock::new(),
        }))
    }

    /// What entering it did: `Write` made it, `Replace` removed something else first, `Skip` found it, and
    /// `Keep` found it under [`Overwrite::Never`].
    pub fn decision(&self) -> Decision {
        self.0.decision
    }

    /// Its path as raw bytes, beginning with the target's own; for messages only.
    pub fn path(&self) -> Vec<u8> {
        let mut names = vec![&self.0.name];
        let mut directory = self;
        while let Some(parent) = &directory.0.parent {
            names.push(&parent.0.name);
            directory = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            if !path.is_empty() && path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    /// The path of an entry in it; for messages only.
    pub(in crate::restore) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The path of an entry in it from the target's root, which is the snapshot's.
    pub(in crate::restore) fn relative_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut directory = self;
        while let Some(parent) = &directory.0.parent {
            names.push(&directory.0.name);
            directory = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// True for a directory that a dry run would have made: it holds nothing and can't be opened.
    pub(super) fn is_absent(&self) -> bool {
        self.0.identity.is_none()
    }

    /// True if this run made it, so that what it holds came from this run.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.0.decision, Decision::Write | Decision::Replace)
    }

    /// True if an interrupted restore left it, and this run hasn't made it anew.
    pub(in crate::restore) fn was_left(&self) -> bool {
        self.0.unfinished && !self.is_fresh()
    }

    /// Whether its mode tells that its files may not be complete, which their modes tell then.
    pub(super) fn tells_partial(&self) -> bool {
        self.0.tells
    }

    pub(super) fn device(&self) -> Option<u64> {
        self.0.identity.map(|(device, _)| device)
    }

    pub(super) fn identity(&self) -> Option<FileIdentity> {
        self.0.identity
    }

    fn cached(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.0.fd.lock().expect("no panic while holding a descriptor").clone();
        if fd.is_some() {
            self.0.used.store(true, Ordering::Relaxed);
        }
        fd
    }
}

impl fmt::Debug for DirHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirHandle({})", super::error::Escaped(&self.path()))
    }
}

impl Drop for Directory {
    /// Takes a long chain of parents apart in a loop: recursion would follow every level on the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(DirHandle(directory)) = next {
            next = Arc::into_inner(directory).and_then(|mut directory| directory.parent.take());
        }
    }
}

/// Which directories hold an open descriptor, oldest first.
#[derive(Debug)]
pub(super) struct OpenDirectories {
    capacity: usize,
    queue: Mutex<VecDeque<Weak<Directory>>>,
}

impl OpenDirectories {
    pub(super) fn new(capacity: usize) -> Self {
        OpenDirectories { capacity, queue: Mutex::default() }
    }

    /// How many are held open at most.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Keeps `fd` for `directory` and closes others that were not used lately beyond the capacity.
    fn keep(&self, directory: &DirHandle, fd: Arc<OwnedFd>) {
        *directory.0.fd.lock().expect("no panic while holding a descriptor") = Some(fd);
        let mut queue = self.queue.lock().expect("no panic while choosing");
        queue.push_back(Arc::downgrade(&directory.0));
        let mut chances = queue.len();
        while queue.len() > self.capacity {
            let Some(oldest) = queue.pop_front() else { break };
            let Some(candidate) = oldest.upgrade() else { continue };
            if chances > 0 && candidate.used.swap(false, Ordering::Relaxed) {
                chances -= 1;
                queue.push_back(oldest);
            } else {
                *candidate.fd.lock().expect("no panic while holding a descriptor") = None;
            }
        }
    }
}

impl Target {
    /// Makes the directory `node` in `parent`, or enters the one that is there; safe from several threads.
    ///
    /// A new one has mode 01700 until [`Target::finish_directory`]; one that is found with that mode was left
    /// by an interrupted restore and is finished, [`Overwrite::Never`] or not. A link or other entry in its place is
    /// removed, but for [`Overwrite::Never`]. Partial files of interrupted restores are swept from an
    /// existing one. In a dry run nothing is made or changed.
    ///
    /// # Errors
    /// `Occupied` if something else stays in its place, `Invalid` for an unusable name or a depth beyond
    /// [`TREE_DEPTH_MAX`], and what the operating system refuses.
    pub fn enter_directory(&self, parent: &DirHandle, node: &Node) -> Result<DirHandle, TargetError> {
        check_name(&node.name, || parent.path())?;
        if !matches!(node.kind, NodeKind::Directory { .. }) {
            return Err(TargetError::Invalid { path: parent.path_of(&node.name), detail: "it is no directory" });
        }
        if parent.0.depth >= TREE_DEPTH_MAX {
            let detail = "it lies deeper than 4,096 directories";
            return Err(TargetError::Invalid { path: parent.path_of(&node.name), detail });
        }
        let child = |stat, decision| DirHandle::new(Some(parent), node.name.clone(), stat, Some(node), decision, None);
        if parent.is_absent() {
            return Ok(child(None, Decision::Write));
        }
        let parent_fd = self.fd(parent)?;
        let Some((fd, decision)) = self.make_or_open(parent, parent_fd.as_fd(), &node.name)? else {
            // Only a dry run gets here.
            let decision = self.decide(parent, node)?;
            return Ok(child(None, decision));
        };
        let stat =
            rustix::fs::fstat(&fd).map_err(|error| TargetError::io("stat", parent.path_of(&node.name), error))?;
        let fd = Arc::new(fd);
        let directory = child(Some(&stat), decision);
        self.open_directories.keep(&directory, fd.clone());
        if !directory.is_fresh() {
            self.sweep(&directory, fd.as_fd())?;
        }
        if directory.device() != parent.device() {
            self.note_file_system(&directory);
        }
        Ok(directory)
    }

    /// The directory `name`, made if need be; `None` where a dry run would make it.
    fn make_or_open(
        &self,
        parent: &DirHandle,
        parent_fd: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Option<(OwnedFd, Decision)>, TargetError> {
        let failed = |operation, error| TargetError::io(operation, parent.path_of(name), error);
        let keep = self.options.overwrite == Overwrite::Never;
        let mut made = Decision::Write;
        for _ in 0..REPLACE_ATTEMPTS {
            let mut found = Decision::Skip;
            if !self.options.dry_run {
                match rustix::fs::mkdirat(parent_fd, name, Mode::from_raw_mode(UNFINISHED_MODE)) {
                    Ok(()) => found = made,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed("make directory", error)),
                }
            }
            if found == Decision::Skip && keep {
                found = Decision::Keep;
            }
            match self.open_existing_directory(parent_fd, name, found) {
                Ok(fd) => return Ok(Some((fd, found))),
                Err(Errno::NOENT) if self.options.dry_run => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(failed("open directory", error)),
            }
            if keep {
                let stat = beneath::stat_name(parent_fd, name).map_err(|error| failed("stat", error))?;
                let found = stat.map_or("entry", |stat| type_name(type_of(&stat)));
                return Err(TargetError::Occupied { path: parent.path_of(name), found });
            }
            if self.options.dry_run {
                return Ok(None);
            }
            match rustix::fs::unlinkat(parent_fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {
                    self.note_displaced(1);
                    made = Decision::Replace;
                }
                // A directory took its place meanwhile; the next round enters it.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(failed("remove", error)),
            }
        }
        let detail = "another entry keeps appearing in this directory's place";
        Err(TargetError::Unsafe { path: parent.path_of(name), detail })
    }

    /// Opens a directory, giving an unprivileged owner back the rights that its mode withholds: restored
    /// directories may well be read-only. [`Target::finish_directory`] sets the mode again.
    fn open_existing_directory(
        &self,
        parent_fd: BorrowedFd<'_>,
        name: &[u8],
        found: Decision,
    ) -> Result<OwnedFd, Errno> {
        let hands_off = self.options.dry_run || self.privileges.dac_override || found != Decision::Skip;
        match self.opener.open_directory(parent_fd, name) {
            Ok(fd) => {
                if !hands_off {
                    self.give_owner_access(&Subject::Open(fd.as_fd()))?;
                }
                Ok(fd)
            }
            Err(Errno::ACCESS) if !hands_off => {
                let pin = self.opener.pin(parent_fd, name)?;
                self.give_owner_access(&Subject::Pinned(pin.as_fd()))?;
                self.opener.open_directory(parent_fd, name)
            }
            Err(error) => Err(error),
        }
    }

    fn give_owner_access(&self, directory: &Subject<'_>) -> Result<(), Errno> {
        let stat = directory.stat()?;
        let withheld = stat.st_mode & OWNER_ACCESS != OWNER_ACCESS;
        if withheld && stat.st_uid == self.privileges.uid && type_of(&stat) == FileType::Directory {
            directory.chmod(stat.st_mode & 0o7777 | OWNER_ACCESS)?;
        }
        Ok(())
    }

    /// Sets a directory's owner, attributes, mode and time once all of its entries are done. Finish children
    /// before parents; a directory kept under [`Overwrite::Never`] stays as it is.
    ///
    /// # Errors
    /// If the directory can't be opened again or was replaced; metadata that can't be set is a problem of the
    /// [`Restored`].
    pub fn finish_directory(&self, directory: &DirHandle, node: &Node) -> Result<Restored, TargetError> {
        if self.options.dry_run || directory.0.decision == Decision::Keep {
            return Ok(Restored::default());
        }
        let fd = self.fd(directory)?;
        let subject = Subject::Open(fd.as_fd());
        let stat = subject.stat().map_err(|error| TargetError::io("stat", directory.path(), error))?;
        Ok(self.apply_metadata(&subject, Current::existing(&stat), node, &|| directory.path()))
    }

    /// An open descriptor of a directory, from the cache or opened again from its nearest open ancestor.
    pub(super) fn fd(&self, directory: &DirHandle) -> Result<Arc<OwnedFd>, TargetError> {
        let mut closed = Vec::new();
        let mut next = directory;
        let mut fd = loop {
            if let Some(fd) = next.cached() {
                break fd;
            }
            closed.push(next);
            let Some(parent) = &next.0.parent else {
                let detail = "a dry run has not made it";
                return Err(TargetError::Invalid { path: directory.path(), detail });
            };
            next = parent;
        };
        for step in closed.into_iter().rev() {
            let opened = match self.opener.open_directory(fd.as_fd(), &step.0.name) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(replaced(step)),
                Err(error) => return Err(TargetError::io("open directory", step.path(), error)),
            };
            let stat = rustix::fs::fstat(&opened).map_err(|error| TargetError::io("stat", step.path(), error))?;
            if step.0.identity != Some(identity_of(&stat)) {
                return Err(replaced(step));
            }
            fd = Arc::new(opened);
            self.open_directories.keep(step, fd.clone());
        }
        Ok(fd)
    }

    /// Removes partial files that interrupted restores left in an existing directory. One that can't be
    /// removed is counted for a notice: it harms nothing but the room it takes.
    pub(super) fn sweep(&self, directory: &DirHandle, fd: BorrowedFd<'_>) -> Result<(), TargetError> {
        if self.options.dry_run {
            return Ok(());
        }
        let names = beneath::list(fd).map_err(|error| TargetError::io("list", directory.path(), error))?;
        for (name, _) in names {
            if is_leftover(&name) && !self.is_own_partial(&name) {
                match rustix::fs::unlinkat(fd, &name, AtFlags::empty()) {
                    Ok(()) => self.counts.swept.add(1),
                    Err(Errno::NOENT) => {}
                    Err(Errno::ROFS) => {
                        return Err(TargetError::io("remove", directory.path_of(&name), Errno::ROFS));
                    }
                    Err(_) => self.counts.sweep_failed.add(1),
                }
            }
        }
        Ok(())
    }
}

fn is_unfinished(stat: &Stat) -> bool {
    stat.st_mode & MODE_BITS == UNFINISHED_MODE
}

fn replaced(directory: &DirHandle) -> TargetError {
    let detail = "the directory was moved or replaced during the restore";
    TargetError::Unsafe { path: directory.path(), detail }
}

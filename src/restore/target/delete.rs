//! Removing what a restored directory holds beyond its snapshot, and what stands in the way of an entry.
//!
//! Guarantees: nothing is removed recursively unless [`TargetOptions::delete`](super::TargetOptions) is set; no
//! link is followed; no mount point is entered; directories that are to be spared are known by what they are, not by their path; descriptors in use don't grow with depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Target;
use super::beneath::{self, FileIdentity, identity_of, stat_name, type_of};
use super::directory::DirHandle;
use super::error::TargetError;

/// What was removed, or in a dry run would be.
#[derive(Debug, Default)]
pub struct Removed {
    /// Entries of all kinds, directories and what they held included.
    pub entries: u64,
    /// Entries that the snapshot doesn't have and that were spared; what is in a directory isn't counted.
    pub spared: u64,
    /// In a dry run the paths of what would go, directories with a slash at the end and not what is in them.
    pub named: Vec<Vec<u8>>,
    /// What could not be removed.
    pub problems: Vec<TargetError>,
}

/// A directory on the way down.
struct Level {
    name: Vec<u8>,
    identity: FileIdentity,
    /// Directories in it that are still to be emptied.
    pending: Vec<Vec<u8>>,
    /// Something in it could not be removed, so that it will not be empty.
    stuck: bool,
}

impl Target {
    /// Removes the entries of a directory that neither `keep` nor `spare` names, with all that they hold. Does
    /// nothing unless [`TargetOptions::delete`](super::TargetOptions) is set; in a dry run it counts and names.
    /// Directories that [`Target::spare_directories`] was told of stay, wherever they are met.
    ///
    /// Both lists are sorted by raw bytes; `spare` is `None` to spare all.
    ///
    /// # Errors
    /// If the directory can't be listed, a directory is swapped meanwhile, or the file system is read-only;
    /// `Invalid` if a list isn't sorted. Single entries that can't be removed are problems of the [`Removed`].
    pub fn remove_unlisted<N: AsRef<[u8]>>(
        &self,
        directory: &DirHandle,
        keep: &[N],
        spare: Option<&[&[u8]]>,
    ) -> Result<Removed, TargetError> {
        let mut removed = Removed::default();
        if !self.options.delete || directory.is_absent() {
            return Ok(removed);
        }
        let sorted = keep.is_sorted_by(|left, right| left.as_ref() <= right.as_ref());
        if !sorted || !spare.is_none_or(<[_]>::is_sorted) {
            // Looking up names in an unsorted list would miss some and delete what should stay.
            let detail = "the names to keep are not sorted";
            return Err(TargetError::Invalid { path: directory.path(), detail });
        }
        if directory.identity().is_some_and(|identity| self.spared.contains(&identity)) {
            note(own(directory.path()), &mut removed)?;
            return Ok(removed);
        }
        let fd = self.fd(directory)?;
        let names = beneath::list(fd.as_fd()).map_err(|error| TargetError::io("list", directory.path(), error))?;
        for (name, file_type) in names {
            let listed = keep.binary_search_by(|kept| kept.as_ref().cmp(&name)).is_ok();
            if listed || self.is_own_partial(&name) {
                continue;
            }
            if spare.is_none_or(|spare| spare.binary_search(&&name[..]).is_ok()) {
                removed.spared += 1;
                continue;
            }
            self.remove_entry(directory, &fd, &name, file_type, &mut removed)?;
        }
        self.counts.removed.add(removed.entries);
        Ok(removed)
    }

    /// Removes a directory that stands in the way of another entry: an empty one always, a filled one only
    /// where the user asked for deletion.
    pub(super) fn clear_directory(
        &self,
        parent: &DirHandle,
        fd: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), TargetError> {
        match rustix::fs::unlinkat(fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.counts.removed.add(1);
                return Ok(());
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.options.delete => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => return Err(self.occupied(parent, fd, name)),
            Err(error) => return Err(TargetError::io("remove directory", parent.path_of(name), error)),
        }
        let mut removed = Removed::default();
        self.remove_tree(parent, fd, name, &mut removed)?;
        self.counts.removed.add(removed.entries);
        removed.problems.into_iter().next().map_or(Ok(()), Err)
    }

    fn remove_entry(
        &self,
        parent: &DirHandle,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        file_type: FileType,
        removed: &mut Removed,
    ) -> Result<(), TargetError> {
        let name_it = |removed: &mut Removed, end: &[u8]| {
            if self.options.dry_run {
                removed.named.push([&parent.path_of(name)[..], end].concat());
            }
        };
        match self.remove_leaf(fd.as_fd(), name, file_type) {
            Ok(true) => {
                removed.entries += 1;
                name_it(removed, b"");
            }
            Ok(false) => {
                name_it(removed, b"/");
                self.remove_tree(parent, fd.as_fd(), name, removed)?;
            }
            Err(error) => note(TargetError::io("remove", parent.path_of(name), error), removed)?,
        }
        Ok(())
    }

    /// Removes anything but a directory; false if it is one.
    fn remove_leaf(&self, fd: BorrowedFd<'_>, name: &[u8], file_type: FileType) -> Result<bool, Errno> {
        let file_type = match file_type {
            FileType::Unknown => match stat_name(fd, name)? {
                Some(stat) => type_of(&stat),
                None => return Ok(true),
            },
            known => known,
        };
        if file_type == FileType::Directory {
            return Ok(false);
        }
        if self.options.dry_run {
            return Ok(true);
        }
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a directory and what it holds. One descriptor is open at a time: the way up is `..`, checked
    /// against the directory that it led down from.
    fn remove_tree(
        &self,
        parent: &DirHandle,
        parent_fd: BorrowedFd<'_>,
        name: &[u8],
        removed: &mut Removed,
    ) -> Result<(), TargetError> {
        let base = parent.path_of(name);
        let path = |levels: &[Level], name: Option<&[u8]>| {
            let names = levels.iter().skip(1).map(|level| level.name.as_slice()).chain(name);
            names.fold(base.clone(), |mut path, name| {
                path.push(b'/');
                path.extend_from_slice(name);
                path
            })
        };
        let mut levels: Vec<Level> = Vec::new();
        let mut current = match self.descend(parent_fd, name, removed, &|| base.clone())? {
            Some((fd, level)) => {
                levels.push(level);
                fd
            }
            None => return Ok(()),
        };
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pending.pop() {
                let below = || path(&levels, Some(&name));
                match self.descend(current.as_fd(), &name, removed, &below)? {
                    Some((fd, level)) => {
                        current = fd;
                        levels.push(level);
                    }
                    None => set_stuck(&mut levels),
                }
                continue;
            }
            let Some(done) = levels.pop() else { break };
            let holder = match levels.last() {
                Some(above) => Some(
                    climb(current.as_fd(), above.identity)
                        .map_err(|error| TargetError::io("leave directory", path(&levels, Some(&done.name)), error))?
                        .ok_or_else(|| {
                            let detail = "a directory was moved while it was being deleted";
                            TargetError::Unsafe { path: path(&levels, Some(&done.name)), detail }
                        })?,
                ),
                None => None,
            };
            let holder_fd = holder.as_ref().map_or(parent_fd, |fd| fd.as_fd());
            if done.stuck {
                set_stuck(&mut levels);
            } else if self.options.dry_run {
                removed.entries += 1;
            } else {
                match rustix::fs::unlinkat(holder_fd, done.name.as_slice(), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => removed.entries += 1,
                    Err(error) => {
                        let at = if levels.is_empty() { base.clone() } else { path(&levels, Some(&done.name)) };
                        note(TargetError::io("remove directory", at, error), removed)?;
                        set_stuck(&mut levels);
                    }
                }
            }
            if let Some(holder) = holder {
                current = holder;
            }
        }
        Ok(())
    }

    /// Opens a directory that is to go and removes all in it but directories. `None` if it can't be entered,
    /// which is noted.
    fn descend(
        &self,
        holder: BorrowedFd<'_>,
        name: &[u8],
        removed: &mut Removed,
        path: &dyn Fn() -> Vec<u8>,
    ) -> Result<Option<(OwnedFd, Level)>, TargetError> {
        let entered = rustix::fs::fstat(holder)
            .and_then(|stat| self.opener.open_directory_same_mount(holder, name, stat.st_dev))
            .and_then(|fd| Ok((identity_of(&rustix::fs::fstat(&fd)?), beneath::list(&fd)?, fd)));
        let (identity, names, fd) = match entered {
            Ok(entered) => entered,
            Err(Errno::XDEV) => {
                let detail = "another file system is mounted here and is not deleted";
                note(TargetError::Unsafe { path: path(), detail }, removed)?;
                return Ok(None);
            }
            Err(error) => {
                note(TargetError::io("delete", path(), error), removed)?;
                return Ok(None);
            }
        };
        if self.spared.contains(&identity) {
            note(own(path()), removed)?;
            return Ok(None);
        }
        let mut level = Level { name: name.to_vec(), identity, pending: Vec::new(), stuck: false };
        for (name, file_type) in names {
            match self.remove_leaf(fd.as_fd(), &name, file_type) {
                Ok(true) => removed.entries += 1,
                Ok(false) => level.pending.push(name),
                Err(error) => {
                    let path = [&path()[..], b"/", &name].concat();
                    note(TargetError::io("remove", path, error), removed)?;
                    level.stuck = true;
                }
            }
        }
        Ok(Some((fd, level)))
    }
}

/// The directory that holds `below`, or `None` if it is not the one with this identity.
fn climb(below: BorrowedFd<'_>, identity: FileIdentity) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = rustix::fs::openat(below, c"..", flags, Mode::empty())?;
    Ok((identity_of(&rustix::fs::fstat(&above)?) == identity).then_some(above))
}

fn own(path: Vec<u8>) -> TargetError {
    TargetError::Unsafe { path, detail: "a region or the cache is here, by whichever path, and is not deleted" }
}

fn set_stuck(levels: &mut [Level]) {
    if let Some(level) = levels.last_mut() {
        level.stuck = true;
    }
}

/// Keeps an entry's failure for the report, or stops where all further ones would fail too.
fn note(error: TargetError, removed: &mut Removed) -> Result<(), TargetError> {
    if error.stops_run() {
        return Err(error);
    }
    removed.problems.push(error);
    Ok(())
}

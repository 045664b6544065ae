//! Removing what a restored directory holds beyond its snapshot, and what stands in the way of an entry.
//!
//! Guarantees: nothing is removed recursively unless [`TargetOptions::delete`](super::TargetOptions) is set; no
//! link is followed; no mount point is entered; directories that are to be spared are known by what they are, not by their path; descriptors in use don't grow with depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{self, FileIdentity, check_name, identity_of, stat_name, type_of};
use super::directory::DirHandle;
use super::error::TargetError;
use super::{Overwrite, Target};
use crate::format::node::{Node, NodeKind};
use crate::restore::patterns::Patterns;

/// What was removed, or in a dry run would be.
#[derive(Debug, Default)]
pub struct Removed {
    /// Entries of all kinds, directories and what they held included.
    pub entries: u64,
    /// Entries that the snapshot doesn't have and that were spared; what is in a directory isn't counted.
    pub spared: u64,
    /// In a dry run the paths of what would go, directories with a slash at the end; not what is in them, unless
    /// something in them stays.
    pub named: Vec<Vec<u8>>,
    /// What could not be removed.
    pub problems: Vec<TargetError>,
}

/// What a walk does to what it meets.
#[derive(Clone, Copy)]
struct Pass {
    /// It looks and counts, and removes nothing.
    looks_only: bool,
    /// It names everything, not only where it began.
    names: bool,
}

const LOOK: Pass = Pass { looks_only: true, names: false };

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
        // Where all stays anyway, there is nothing to tell.
        let is_region = if spare.is_some() { self.is_region(fd.as_fd(), &names) } else { Ok(false) };
        match is_region {
            Ok(false) => {}
            Ok(true) => {
                note(own(directory.path()), &mut removed)?;
                return Ok(removed);
            }
            Err(error) => {
                note(TargetError::io("look for a region in", directory.path(), error), &mut removed)?;
                return Ok(removed);
            }
        }
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

    /// Whether the target directory holds an entry of this name.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn holds(&self, name: &[u8]) -> Result<bool, TargetError> {
        let root = self.root();
        if root.is_absent() {
            return Ok(false);
        }
        match stat_name(self.fd(&root)?.as_fd(), name) {
            Ok(stat) => Ok(stat.is_some()),
            Err(Errno::NAMETOOLONG) => Ok(false),
            Err(error) => Err(TargetError::io("stat", root.path_of(name), error)),
        }
    }

    /// What stands where an entry of another kind is to be, and goes with all that it holds; `None` where nothing does.
    /// Changes nothing, and says nothing unless [`TargetOptions::delete`](super::TargetOptions) is set.
    ///
    /// # Errors
    /// `Occupied` or `Unsafe` when something in it has to stay, else what the operating system refuses.
    pub fn in_the_way(&self, parent: &DirHandle, node: &Node) -> Result<Option<Removed>, TargetError> {
        check_name(&node.name, || parent.path())?;
        let never = !self.options.delete || self.options.overwrite == Overwrite::Never;
        if never || parent.is_absent() || parent.is_fresh() {
            return Ok(None);
        }
        let fd = self.fd(parent)?;
        let found = stat_name(fd.as_fd(), &node.name)
            .map_err(|error| TargetError::io("stat", parent.path_of(&node.name), error))?;
        let Some(found) = found.map(|stat| type_of(&stat)) else { return Ok(None) };
        let wanted = matches!(node.kind, NodeKind::Directory { .. });
        let path = parent.path_of(&node.name);
        match (found == FileType::Directory, wanted) {
            (true, false) => {
                let mut removed = self.look_through(parent, fd.as_fd(), &node.name)?;
                removed.named.push([&path[..], b"/"].concat());
                Ok(Some(removed))
            }
            (false, true) => Ok(Some(Removed { entries: 1, named: vec![path], ..Removed::default() })),
            _ => Ok(None),
        }
    }

    /// What a directory holds, if all of it may go.
    fn look_through(&self, parent: &DirHandle, fd: BorrowedFd<'_>, name: &[u8]) -> Result<Removed, TargetError> {
        let mut found = Removed::default();
        self.remove_tree(parent, fd, name, LOOK, &mut found)?;
        if let Some(problem) = found.problems.pop() {
            return Err(problem);
        }
        if found.spared > 0 {
            return Err(self.occupied(parent, fd, name));
        }
        Ok(found)
    }

    /// Removes a directory that stands in the way of another entry: an empty one always, a filled one only
    /// where the user asked for deletion, and nothing of it where something in it has to stay.
    pub(super) fn clear_directory(
        &self,
        parent: &DirHandle,
        fd: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), TargetError> {
        match rustix::fs::unlinkat(fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.note_displaced(1);
                return Ok(());
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.options.delete => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => return Err(self.occupied(parent, fd, name)),
            Err(error) => return Err(TargetError::io("remove directory", parent.path_of(name), error)),
        }
        self.look_through(parent, fd, name)?;
        let mut removed = Removed::default();
        self.remove_tree(parent, fd, name, Pass { looks_only: false, names: false }, &mut removed)?;
        self.note_displaced(removed.entries);
        removed.problems.into_iter().next().map_or(Ok(()), Err)
    }

    /// Counts what went because it stood in the way.
    pub(super) fn note_displaced(&self, entries: u64) {
        self.counts.removed.add(entries);
        if self.options.delete {
            self.counts.displaced.add(entries);
        }
    }

    fn remove_entry(
        &self,
        parent: &DirHandle,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        file_type: FileType,
        removed: &mut Removed,
    ) -> Result<(), TargetError> {
        let dry = self.options.dry_run;
        let pass = Pass { looks_only: dry, names: false };
        let path = || parent.path_of(name);
        let patterns = self.patterns();
        match self.remove_leaf(fd.as_fd(), name, file_type, pass, &spares(&patterns, || parent.relative_of(name))) {
            Ok(Met::Removed) => {
                removed.entries += 1;
                if dry {
                    removed.named.push(path());
                }
            }
            Ok(Met::Spared) => removed.spared += 1,
            Ok(Met::Directory) => {
                let before = (removed.spared, removed.problems.len());
                self.remove_tree(parent, fd.as_fd(), name, pass, removed)?;
                if dry && (removed.spared, removed.problems.len()) == before {
                    removed.named.push([&path()[..], b"/"].concat());
                } else if dry {
                    // Something in it stays, and so does it.
                    let mut again = Removed::default();
                    self.remove_tree(parent, fd.as_fd(), name, Pass { names: true, ..pass }, &mut again)?;
                    removed.named.append(&mut again.named);
                }
            }
            Err(error) => note(TargetError::io("remove", path(), error), removed)?,
        }
        Ok(())
    }

    /// Removes anything but a directory, and but what `spared` is true for.
    fn remove_leaf(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        file_type: FileType,
        pass: Pass,
        spared: &dyn Fn(bool) -> bool,
    ) -> Result<Met, Errno> {
        let file_type = match file_type {
            FileType::Unknown => match stat_name(fd, name)? {
                Some(stat) => type_of(&stat),
                None => return Ok(Met::Removed),
            },
            known => known,
        };
        if spared(file_type == FileType::Directory) {
            return Ok(Met::Spared);
        }
        if file_type == FileType::Directory {
            return Ok(Met::Directory);
        }
        if pass.looks_only {
            return Ok(Met::Removed);
        }
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(Met::Removed),
            // It took another's place just now, and its name is that one's.
            Err(Errno::ISDIR) if spared(true) => Ok(Met::Spared),
            Err(Errno::ISDIR) => Ok(Met::Directory),
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
        pass: Pass,
        removed: &mut Removed,
    ) -> Result<(), TargetError> {
        let base = parent.path_of(name);
        let beginning = parent.relative_of(name);
        let patterns = self.patterns();
        // From the snapshot's root, as patterns mean it.
        let is_spared = |path: &[u8], directory: bool| {
            spares(&patterns, || [&beginning[..], &path[base.len()..]].concat())(directory)
        };
        let path = |levels: &[Level], name: Option<&[u8]>| {
            let names = levels.iter().skip(1).map(|level| level.name.as_slice()).chain(name);
            names.fold(base.clone(), |mut path, name| {
                path.push(b'/');
                path.extend_from_slice(name);
                path
            })
        };
        let mut levels: Vec<Level> = Vec::new();
        let mut current = match self.descend(parent_fd, name, pass, removed, &|| base.clone(), &is_spared)? {
            Some((fd, level)) => {
                levels.push(level);
                fd
            }
            None => return Ok(()),
        };
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pending.pop() {
                let below = || path(&levels, Some(&name));
                match self.descend(current.as_fd(), &name, pass, removed, &below, &is_spared)? {
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
            let at = || if levels.is_empty() { base.clone() } else { path(&levels, Some(&done.name)) };
            let holder_fd = holder.as_ref().map_or(parent_fd, |fd| fd.as_fd());
            if pass.names && !done.stuck {
                removed.named.push([&at()[..], b"/"].concat());
            }
            if done.stuck {
                set_stuck(&mut levels);
            } else if pass.looks_only {
                removed.entries += 1;
            } else {
                match rustix::fs::unlinkat(holder_fd, done.name.as_slice(), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => removed.entries += 1,
                    Err(error) => {
                        note(TargetError::io("remove directory", at(), error), removed)?;
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

    /// Whether a directory of these names is a region. What can't be read might be one.
    fn is_region(&self, fd: BorrowedFd<'_>, names: &[(Vec<u8>, FileType)]) -> Result<bool, Errno> {
        let Some((marker, beginning)) = &self.region_marker else { return Ok(false) };
        if !names.iter().any(|(name, _)| name == marker) {
            return Ok(false);
        }
        // Opening a device or fifo could wake it, and neither marks anything.
        match stat_name(fd, marker)? {
            Some(stat) if type_of(&stat) == FileType::RegularFile => {}
            _ => return Ok(false),
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.opener.open(fd, marker, flags, Mode::empty())?;
        let mut start = vec![0; beginning.len()];
        let mut at = 0;
        while at < start.len() {
            match rustix::io::pread(&file, &mut start[at..], at as u64) {
                Ok(0) => return Ok(false),
                Ok(length) => at += length,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(start == *beginning)
    }

    /// Opens a directory that is to go and removes all in it but directories. `None` if it can't be entered,
    /// which is noted.
    fn descend(
        &self,
        holder: BorrowedFd<'_>,
        name: &[u8],
        pass: Pass,
        removed: &mut Removed,
        path: &dyn Fn() -> Vec<u8>,
        is_spared: &dyn Fn(&[u8], bool) -> bool,
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
        let is_own = match self.spared.contains(&identity) {
            true => Ok(true),
            false => self.is_region(fd.as_fd(), &names),
        };
        match is_own {
            Ok(false) => {}
            Ok(true) => {
                note(own(path()), removed)?;
                return Ok(None);
            }
            Err(error) => {
                note(TargetError::io("look for a region in", path(), error), removed)?;
                return Ok(None);
            }
        }
        let mut level = Level { name: name.to_vec(), identity, pending: Vec::new(), stuck: false };
        for (name, file_type) in names {
            let path = || [&path()[..], b"/", &name].concat();
            match self.remove_leaf(fd.as_fd(), &name, file_type, pass, &|directory| is_spared(&path(), directory)) {
                Ok(Met::Removed) => {
                    removed.entries += 1;
                    if pass.names {
                        removed.named.push(path());
                    }
                }
                Ok(Met::Directory) => level.pending.push(name),
                Ok(Met::Spared) => {
                    removed.spared += 1;
                    level.stuck = true;
                }
                Err(error) => {
                    note(TargetError::io("remove", path(), error), removed)?;
                    level.stuck = true;
                }
            }
        }
        Ok(Some((fd, level)))
    }
}

/// What became of an entry.
enum Met {
    Removed,
    Spared,
    /// Nothing yet.
    Directory,
}

/// Whether a pattern names what is at `path` from the snapshot's root, asked with whether that is a directory.
fn spares(patterns: &Option<Arc<Patterns>>, path: impl Fn() -> Vec<u8>) -> impl Fn(bool) -> bool {
    move |directory| patterns.as_ref().is_some_and(|patterns| patterns.name(&path(), directory))
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

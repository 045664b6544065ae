//! Everything but files and directories: symbolic links, fifos, devices, and further names of files.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::beneath::{FileIdentity, check_name, identity_of, stat_name, type_of};
use super::directory::DirHandle;
use super::error::{TargetError, TargetErrorKind};
use super::metadata::{Current, Subject};
use super::{Overwrite, Restored, Target};
use crate::format::node::{Node, NodeKind};
use crate::format::sequence::encode_node;

/// What became of a further name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// The name is now a hard link to the restored file.
    Done,
    /// It already was one.
    Already,
    /// Something was there that [`Overwrite::Never`] keeps.
    Kept,
    /// No name of this file has been restored in this run: restore its content under this one.
    NoneRestored,
}

/// The first restored name of each file that has several, by the group's stored name.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<Short, Link>>);

/// Stands for what is longer, since a snapshot may have millions of groups.
type Short = [u8; 16];

fn short(bytes: &[u8]) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..size_of::<Short>()]);
    short
}

/// What the snapshot says an entry is, whatever its name and metadata.
fn kind_of(node: &Node) -> Short {
    let mut bytes = Vec::new();
    encode_node(&Node::bare(Vec::new(), node.kind.clone()), &mut bytes);
    short(&bytes)
}

#[derive(Clone, Debug)]
enum Link {
    /// Somebody is restoring its content.
    Claimed,
    Restored {
        parent: DirHandle,
        name: Box<[u8]>,
        identity: FileIdentity,
        /// What the snapshot says the file is: a name of other content is no name of this file.
        kind: Short,
    },
}

impl Target {
    /// True for the first caller with this group: it restores the content, all others link once that is done.
    pub fn claim_link_group(&self, group: &[u8]) -> bool {
        let mut links = self.links.0.lock().expect("no panic while looking up");
        let group = short(group);
        let fresh = !links.contains_key(&group);
        if fresh {
            links.insert(group, Link::Claimed);
        }
        fresh
    }

    /// Notes a file's first restored name for later ones; the first one stays.
    pub(super) fn remember_link(&self, parent: &DirHandle, node: &Node, identity: FileIdentity) {
        let Some(group) = &node.link_group else { return };
        let (group, name, kind) = (short(group), node.name.clone().into(), kind_of(node));
        let mut links = self.links.0.lock().expect("no panic while looking up");
        if !matches!(links.get(&group), Some(Link::Restored { .. })) {
            links.insert(group, Link::Restored { parent: parent.clone(), name, identity, kind });
        }
    }

    /// Notes a kept file that is as the snapshot has it as its group's first name, so that names which an
    /// interrupted restore didn't come to are linked to it. What can't be looked at is left to be restored anew.
    pub fn keep_link(&self, parent: &DirHandle, node: &Node) {
        if let Some(group) = &node.link_group
            && let Ok(directory) = self.fd(parent)
            && let Ok(Some(stat)) = stat_name(directory.as_fd(), &node.name)
        {
            self.claim_link_group(group);
            self.remember_link(parent, node, identity_of(&stat));
        }
    }

    /// True where the target holds the symbolic link, fifo or device that the node describes. What can't be looked at
    /// isn't it.
    pub fn holds_special(&self, parent: &DirHandle, node: &Node) -> bool {
        let Ok(directory) = self.fd(parent) else { return false };
        let Ok(Some(stat)) = stat_name(directory.as_fd(), &node.name) else { return false };
        is_same_special(&stat, node)
            && match &node.kind {
                NodeKind::Symlink { target } => {
                    let found = rustix::fs::readlinkat(&directory, node.name.as_slice(), Vec::new());
                    found.is_ok_and(|found| found.as_bytes() == target)
                }
                _ => true,
            }
    }

    /// Makes `node` another name of its group's file, if one has been restored in this run: by
    /// [`Target::write_small_file`], [`Target::finish_file`], [`Target::write_special`], or [`Target::fix_metadata`].
    ///
    /// # Errors
    /// `Unlinkable` where the file system can't (another device, too many links, no support): restore the
    /// content instead. `Unsafe` if the first name no longer leads to the restored file.
    pub fn link(&self, parent: &DirHandle, node: &Node) -> Result<Linked, TargetError> {
        check_name(&node.name, || parent.path())?;
        let Some(group) = &node.link_group else { return Ok(Linked::NoneRestored) };
        let link = self.links.0.lock().expect("no panic while looking up").get(&short(group)).cloned();
        let Some(Link::Restored { parent: from, name, identity, kind }) = link else {
            return Ok(Linked::NoneRestored);
        };
        if kind != kind_of(node) {
            return Ok(Linked::NoneRestored);
        }
        if self.options.dry_run {
            let there =
                if parent.is_absent() { None } else { stat_name(self.fd(parent)?.as_fd(), &node.name).ok().flatten() };
            let already = there.is_some_and(|stat| identity_of(&stat) == identity);
            return Ok(if already { Linked::Already } else { Linked::Done });
        }
        let (from_fd, to_fd) = (self.fd(&from)?, self.fd(parent)?);
        let (from_fd, to_fd) = (from_fd.as_fd(), to_fd.as_fd());
        let failed = |operation, error| TargetError::io(operation, parent.path_of(&node.name), error);
        let existing = stat_name(to_fd, &node.name).map_err(|error| failed("stat", error))?;
        match existing {
            Some(stat) if identity_of(&stat) == identity => return Ok(Linked::Already),
            Some(_) if self.options.overwrite == Overwrite::Never => return Ok(Linked::Kept),
            _ => {}
        }
        // Under a temporary name first: what is there is replaced in one step, and only by the right file.
        let partial_name = self.partial_name();
        rustix::fs::linkat(from_fd, &*name, to_fd, partial_name.as_str(), AtFlags::empty()).map_err(|error| {
            let path = parent.path_of(&node.name);
            match error {
                Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS => {
                    TargetError::Io { kind: TargetErrorKind::Unlinkable, operation: "link", path, source: error.into() }
                }
                error => TargetError::io("link", path, error),
            }
        })?;
        let installed = match stat_name(to_fd, partial_name.as_bytes()) {
            Ok(Some(stat)) if identity_of(&stat) == identity => {
                self.install(parent, to_fd, partial_name.as_bytes(), node)
            }
            Ok(_) => {
                let detail = "the file that it should link to was replaced during the restore";
                Err(TargetError::Unsafe { path: parent.path_of(&node.name), detail })
            }
            Err(error) => Err(failed("stat", error)),
        };
        if installed.is_err() {
            let _ = rustix::fs::unlinkat(to_fd, partial_name.as_str(), AtFlags::empty());
        }
        installed.map(|()| Linked::Done)
    }

    /// Restores a symbolic link, fifo or device with its metadata.
    ///
    /// # Errors
    /// `Denied` for devices without the privilege to make them, `Occupied` if something may not be replaced.
    /// Metadata that can't be set is a problem of the [`Restored`].
    pub fn write_special(&self, parent: &DirHandle, node: &Node) -> Result<Restored, TargetError> {
        check_name(&node.name, || parent.path())?;
        if matches!(node.kind, NodeKind::File { .. } | NodeKind::Directory { .. }) {
            let detail = "it is neither a link nor a fifo nor a device";
            return Err(TargetError::Invalid { path: parent.path_of(&node.name), detail });
        }
        if self.options.dry_run {
            return Ok(Restored::default());
        }
        let directory = self.fd(parent)?;
        let directory = directory.as_fd();
        let partial_name = self.partial_name();
        make_special(directory, &partial_name, node)
            .map_err(|error| TargetError::io("create", parent.path_of(&node.name), error))?;
        let done = self.complete_special(parent, directory, &partial_name, node);
        if done.is_err() {
            let _ = rustix::fs::unlinkat(directory, partial_name.as_str(), AtFlags::empty());
        }
        done
    }

    fn complete_special(
        &self,
        parent: &DirHandle,
        directory: BorrowedFd<'_>,
        partial_name: &str,
        node: &Node,
    ) -> Result<Restored, TargetError> {
        let path = || parent.path_of(&node.name);
        let pin = self.opener.pin(directory, partial_name.as_bytes());
        let pin = pin.map_err(|error| TargetError::io("open", path(), error))?;
        let subject = Subject::Pinned(pin.as_fd());
        let stat = subject.stat().map_err(|error| TargetError::io("stat", path(), error))?;
        if !is_same_special(&stat, node) {
            let detail = "this system has no such device number";
            return Err(TargetError::Invalid { path: path(), detail });
        }
        let is_link = matches!(node.kind, NodeKind::Symlink { .. });
        let current = Current { modified_at: None, may_have_xattrs: !is_link, ..Current::existing(&stat) };
        let restored = self.apply_metadata(&subject, current, node, &path);
        self.install(parent, directory, partial_name.as_bytes(), node)?;
        if node.link_group.is_some() {
            self.remember_link(parent, node, identity_of(&stat));
        }
        Ok(Restored { changed: true, ..restored })
    }
}

fn make_special(directory: BorrowedFd<'_>, name: &str, node: &Node) -> Result<(), Errno> {
    let make = |file_type, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(directory, name, file_type, Mode::from_raw_mode(0o600), device)
    };
    match &node.kind {
        NodeKind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), directory, name),
        NodeKind::Fifo => make(FileType::Fifo, 0, 0),
        NodeKind::CharacterDevice { major, minor } => make(FileType::CharacterDevice, *major, *minor),
        NodeKind::BlockDevice { major, minor } => make(FileType::BlockDevice, *major, *minor),
        NodeKind::File { .. } | NodeKind::Directory { .. } => Err(Errno::INVAL),
    }
}

/// True if an entry has a special node's type and, for a device, its number.
pub(super) fn is_same_special(stat: &rustix::fs::Stat, node: &Node) -> bool {
    let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match (type_of(stat), &node.kind) {
        (FileType::Symlink, NodeKind::Symlink { .. }) | (FileType::Fifo, NodeKind::Fifo) => true,
        (FileType::CharacterDevice, NodeKind::CharacterDevice { major, minor })
        | (FileType::BlockDevice, NodeKind::BlockDevice { major, minor }) => numbers == (*major, *minor),
        _ => false,
    }
}

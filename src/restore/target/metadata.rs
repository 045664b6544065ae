//! Owner, extended attributes, modification time and mode of restored entries, in that order.
//!
//! The order matters: changing the owner clears set-id bits and capabilities, setting an ACL changes mode
//! bits, and the mode comes last because until then it marks what is not complete. Set-id bits and file
//! capabilities are given only to entries whose owner could be restored. What merely needs privileges that
//! this process lacks is counted for one notice; what fails otherwise is a problem of that entry. Owners are
//! mapped by name; the numbers inside ACLs are restored as they were stored.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::RwLock;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::beneath::modified_at;
use super::error::TargetError;
use super::{Restored, Target};
use crate::format::node::{Node, NodeKind, Timestamp};

pub(super) const MODE_BITS: u32 = 0o7777;
const SET_ID_BITS: u32 = 0o6000;
const OWNER_READ_WRITE: u32 = 0o600;
pub(super) const ACL_PREFIX: &[u8] = b"system.posix_acl_";
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const CAPABILITY: &[u8] = b"security.capability";

/// An entry whose metadata is read or set, held by descriptor so that no name can be swapped under us.
pub(super) enum Subject<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`: symbolic links, devices, and what this process may not open.
    Pinned(BorrowedFd<'a>),
}

impl Subject<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Subject::Open(fd) | Subject::Pinned(fd) => *fd,
        }
    }

    /// The magic link by which calls that take no `O_PATH` descriptor reach a pinned entry: it jumps to the
    /// pinned inode itself, so nothing is looked up or followed in the target.
    fn magic_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::fstat(self.fd())
    }

    fn chown(&self, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
        match self {
            Subject::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Subject::Pinned(fd) => rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    pub(super) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Subject::Open(fd) => rustix::fs::fchmod(fd, mode),
            Subject::Pinned(_) => rustix::fs::chmodat(CWD, self.magic_path(), mode, AtFlags::empty()),
        }
    }

    fn set_modified_at(&self, time: Timestamp) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        };
        match self {
            Subject::Open(fd) => rustix::fs::futimens(fd, &times),
            Subject::Pinned(fd) => match rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
                // Linux before 5.8 knows no empty path here.
                Err(Errno::INVAL) => rustix::fs::utimensat(CWD, self.magic_path(), &times, AtFlags::empty()),
                answer => answer,
            },
        }
    }

    pub(super) fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        loop {
            let length = match self {
                Subject::Open(fd) => rustix::fs::flistxattr_query(fd)?,
                Subject::Pinned(_) => rustix::fs::listxattr_query(self.magic_path())?,
            };
            if length == 0 {
                return Ok(Vec::new());
            }
            let mut names = vec![0u8; length];
            let answer = match self {
                Subject::Open(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
                Subject::Pinned(_) => rustix::fs::listxattr(self.magic_path(), &mut names[..]),
            };
            match answer {
                Ok(length) => {
                    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
                    return Ok(names.map(<[u8]>::to_vec).collect());
                }
                // Another attribute appeared between the two calls.
                Err(Errno::RANGE) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn xattr_equals(&self, name: &[u8], value: &[u8]) -> Result<bool, Errno> {
        // One byte more than expected, so that a longer value shows.
        let mut found = vec![0u8; value.len() + 1];
        let answer = match self {
            Subject::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut found[..]),
            Subject::Pinned(_) => rustix::fs::getxattr(self.magic_path(), name, &mut found[..]),
        };
        match answer {
            Ok(length) => Ok(found[..length] == *value),
            Err(Errno::RANGE | Errno::NODATA) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Subject::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Subject::Pinned(_) => rustix::fs::setxattr(self.magic_path(), name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let answer = match self {
            Subject::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Subject::Pinned(_) => rustix::fs::removexattr(self.magic_path(), name),
        };
        match answer {
            Err(Errno::NODATA) => Ok(()),
            answer => answer,
        }
    }
}

/// What an entry's metadata is before it is restored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// `None` for an entry just written: its time is now.
    pub(super) modified_at: Option<Timestamp>,
    /// False saves the listing of attributes.
    pub(super) may_have_xattrs: bool,
}

impl Current {
    /// Of an entry that was there before.
    pub(super) fn existing(stat: &Stat) -> Self {
        Current {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & MODE_BITS,
            modified_at: Some(modified_at(stat)),
            may_have_xattrs: true,
        }
    }
}

/// What this process may do, read once when the target is opened.
#[derive(Debug)]
pub(super) struct Privileges {
    pub(super) uid: u32,
    groups: Vec<u32>,
    /// May give files away (CAP_CHOWN).
    pub(super) chown: bool,
    /// Is not bound by permission bits (CAP_DAC_OVERRIDE).
    pub(super) dac_override: bool,
    /// May set `trusted.*` and most of `security.*` (CAP_SYS_ADMIN).
    admin: bool,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let mut groups = vec![rustix::process::getegid().as_raw()];
        // Without the list only the own group can be given, which fails on the safe side.
        groups.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw));
        let effective = match rustix::thread::capabilities(None) {
            Ok(sets) => sets.effective,
            Err(_) if uid == 0 => CapabilitySet::all(),
            Err(_) => CapabilitySet::empty(),
        };
        Privileges {
            uid,
            groups,
            chown: effective.contains(CapabilitySet::CHOWN),
            dac_override: effective.contains(CapabilitySet::DAC_OVERRIDE),
            admin: effective.contains(CapabilitySet::SYS_ADMIN),
        }
    }
}

/// Local ids for the owner names in nodes; each name is asked of the system once.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: RwLock<HashMap<Vec<u8>, Option<u32>>>,
    groups: RwLock<HashMap<Vec<u8>, Option<u32>>>,
}

impl Owners {
    /// The local user and group for a node: by name where this host knows it, else the stored numbers.
    fn resolve(&self, node: &Node) -> (u32, u32) {
        let user = |name: &OsStr| uzers::get_user_by_name(name).map(|user| user.uid());
        let group = |name: &OsStr| uzers::get_group_by_name(name).map(|group| group.gid());
        (
            local_id(&self.users, &node.user, user).unwrap_or(node.uid),
            local_id(&self.groups, &node.group, group).unwrap_or(node.gid),
        )
    }
}

fn local_id(
    known: &RwLock<HashMap<Vec<u8>, Option<u32>>>,
    name: &[u8],
    ask: impl FnOnce(&OsStr) -> Option<u32>,
) -> Option<u32> {
    if name.is_empty() {
        return None;
    }
    if let Some(id) = known.read().expect("no panic while reading names").get(name) {
        return *id;
    }
    let id = ask(OsStr::from_bytes(name));
    known.write().expect("no panic while adding a name").insert(name.to_vec(), id);
    id
}

impl Target {
    /// Puts the numbers that this host has for an entry's owner and group in place of their names, as a restore of
    /// the entry would.
    pub(in crate::restore) fn localize(&self, node: &mut Node) {
        if !self.options.numeric_ids {
            (node.uid, node.gid) = self.owners.resolve(node);
        }
        (node.user, node.group) = (Vec::new(), Vec::new());
    }

    /// Brings an entry's owner, attributes, time and mode to what the node says, touching only what differs.
    pub(super) fn apply_metadata(
        &self,
        subject: &Subject<'_>,
        current: Current,
        node: &Node,
        path: &dyn Fn() -> Vec<u8>,
    ) -> Restored {
        let mut work = Application { target: self, subject, current, node, path, mode: Some(current.mode) };
        let mut restored = Restored::default();
        let owned = work.restore_owner(&mut restored);
        work.restore_xattrs(owned, &mut restored);
        work.restore_time(&mut restored);
        if !matches!(node.kind, NodeKind::Symlink { .. }) {
            work.restore_mode(owned, &mut restored);
        }
        restored
    }
}

/// One entry's metadata being applied.
struct Application<'a> {
    target: &'a Target,
    subject: &'a Subject<'a>,
    current: Current,
    node: &'a Node,
    path: &'a dyn Fn() -> Vec<u8>,
    /// The mode as far as known; `None` once a step may have changed it.
    mode: Option<u32>,
}

impl Application<'_> {
    fn note(&self, operation: &'static str, answer: Result<(), Errno>, restored: &mut Restored) -> bool {
        match answer {
            Ok(()) => restored.changed = true,
            Err(error) => restored.problems.push(TargetError::metadata(operation, (self.path)(), error)),
        }
        answer.is_ok()
    }

    /// True if the entry now belongs to whom it should.
    fn restore_owner(&mut self, restored: &mut Restored) -> bool {
        let (uid, gid) = if self.target.options.numeric_ids {
            (self.node.uid, self.node.gid)
        } else {
            self.target.owners.resolve(self.node)
        };
        let (same_user, same_group) = (self.current.uid == uid, self.current.gid == gid);
        if same_user && same_group {
            return true;
        }
        if uid == u32::MAX || gid == u32::MAX {
            // chown takes this number for "leave as it is".
            let detail = "the owner 4294967295 is reserved by the system";
            restored.problems.push(TargetError::Invalid { path: (self.path)(), detail });
            return false;
        }
        if self.current.mode & SET_ID_BITS != 0 {
            self.mode = None;
        }
        let privileges = &self.target.privileges;
        let new_group = (!same_group).then(|| Gid::from_raw(gid));
        if privileges.chown {
            let new_user = (!same_user).then(|| Uid::from_raw(uid));
            return self.note("set owner of", self.subject.chown(new_user, new_group), restored);
        }
        // Without privileges an owner may still hand a file to another of his own groups.
        let mine = self.current.uid == privileges.uid && privileges.groups.contains(&gid);
        let group_done = same_group || (mine && self.subject.chown(None, new_group).is_ok());
        restored.changed |= group_done && !same_group;
        if same_user && group_done {
            return true;
        }
        self.target.counts.ownership_skipped.add(1);
        false
    }

    fn restore_xattrs(&mut self, owned: bool, restored: &mut Restored) {
        let existing = if self.current.may_have_xattrs {
            match self.subject.xattr_names() {
                Ok(names) => names,
                Err(Errno::OPNOTSUPP) => Vec::new(),
                Err(error) => {
                    let problem = TargetError::metadata("list attributes of", (self.path)(), error);
                    restored.problems.push(problem);
                    return;
                }
            }
        } else {
            Vec::new()
        };
        let wanted = |name: &[u8]| self.node.xattrs.iter().any(|(wanted, _)| wanted == name);
        let surplus: Vec<_> = existing.iter().filter(|name| is_ours_to_remove(name) && !wanted(name)).collect();
        let due = |(name, value): &&(Vec<u8>, Vec<u8>)| {
            !existing.contains(name) || self.subject.xattr_equals(name, value) != Ok(true)
        };
        let due: Vec<_> = self.node.xattrs.iter().filter(due).collect();
        if surplus.is_empty() && due.is_empty() {
            return;
        }
        let privileges = &self.target.privileges;
        let is_link = matches!(self.node.kind, NodeKind::Symlink { .. });
        if !privileges.dac_override && !is_link && self.current.mode & OWNER_READ_WRITE != OWNER_READ_WRITE {
            // `user.*` obeys the permission bits even for the owner. A refusal shows below, attribute by attribute.
            let _ = self.subject.chmod(self.current.mode & 0o777 | OWNER_READ_WRITE);
            self.mode = None;
        }
        for name in surplus {
            self.note_xattr(name, "remove an attribute of", self.subject.remove_xattr(name), restored);
        }
        for (name, value) in due {
            if name == CAPABILITY && !owned {
                // Like set-id bits: a privilege that was given to another owner's file.
                self.target.counts.set_id_dropped.add(1);
                continue;
            }
            self.note_xattr(name, "set an attribute of", self.subject.set_xattr(name, value), restored);
        }
    }

    fn note_xattr(&mut self, name: &[u8], operation: &'static str, answer: Result<(), Errno>, restored: &mut Restored) {
        if name == ACL_ACCESS {
            self.mode = None;
        }
        let refused = matches!(answer, Err(Errno::PERM | Errno::ACCESS)) && !self.target.privileges.admin;
        let counts = &self.target.counts;
        if name.starts_with(b"security.") && (refused || answer == Err(Errno::OPNOTSUPP)) {
            counts.security_skipped.add(1);
        } else if name.starts_with(b"trusted.") && refused {
            counts.trusted_skipped.add(1);
        } else {
            self.note(operation, answer, restored);
        }
    }

    fn restore_mode(&mut self, owned: bool, restored: &mut Restored) {
        let mut mode = self.node.mode & MODE_BITS;
        if !owned && mode & SET_ID_BITS != 0 {
            mode &= !SET_ID_BITS;
            self.target.counts.set_id_dropped.add(1);
        }
        if self.mode != Some(mode) {
            self.note("set mode of", self.subject.chmod(mode), restored);
        }
    }

    fn restore_time(&mut self, restored: &mut Restored) {
        let time = self.node.modified_at;
        if self.current.modified_at == Some(time) {
            return;
        }
        if time.nanoseconds >= 1_000_000_000 {
            // Among these are the kernel's codes for "now" and "leave as it is".
            let detail = "its modification time has 10^9 or more nanoseconds";
            restored.problems.push(TargetError::Invalid { path: (self.path)(), detail });
            return;
        }
        self.note("set time of", self.subject.set_modified_at(time), restored);
    }
}

/// Attributes that a restore removes where the node has none: what users and ACLs put there. Security labels
/// and file-system specific attributes are given by the system and stay.
pub(super) fn is_ours_to_remove(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || name.starts_with(ACL_PREFIX) || name == CAPABILITY
}

//! What an entry is apart from its content: its stat, owner names and extended attributes.
//!
//! Everything is read relative to a directory's file descriptor, so that neither a path's length nor a renamed
//! parent matters. Called by the walk and by the file reader.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, fgetxattr, flistxattr, getxattr, lgetxattr, listxattr, llistxattr,
    makedev, openat, statx,
};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::{Entry, Identity, XattrsRead};
use crate::format::node::Timestamp;
use crate::limits::XATTRS_BYTES_MAX;
use crate::report::{Issue, IssueKind};

/// The kernel's own bound on one value and on a list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_BYTES_MAX: usize = 64 << 10;
/// First buffer tried: the kernel allocates and clears as much as it is offered, and most lists are empty.
const XATTR_BYTES_FIRST: usize = 512;

/// Whether this process is told of all attributes: `trusted.*` are hidden from others.
pub fn sees_all_xattrs() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// One entry's stat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) identity: Identity,
    pub(super) kind: FileType,
    /// Permission, set-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names of this inode.
    pub(super) links: u32,
    /// Device number that a device node stands for.
    pub(super) device_number: (u32, u32),
    /// Bytes that the content takes on disk.
    pub(super) allocated: u64,
}

impl Stat {
    /// The entry `name` in `directory`; `follow` a symbolic link to what it names.
    pub(super) fn at(directory: impl AsFd, name: &[u8], follow: bool) -> Result<Stat, Errno> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        // Looking at an automount point must not mount it.
        statx(directory, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS).map(Stat::from_statx)
    }

    /// What is open as `fd`.
    pub(super) fn of(fd: impl AsFd) -> Result<Stat, Errno> {
        statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(Stat::from_statx)
    }

    fn from_statx(stat: rustix::fs::Statx) -> Stat {
        let timestamp = |time: rustix::fs::StatxTimestamp| Timestamp {
            seconds: time.tv_sec,
            // A user-space file system may answer more; a node can't hold it.
            nanoseconds: time.tv_nsec.min(999_999_999),
        };
        Stat {
            identity: Identity {
                device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
                inode: stat.stx_ino,
                size: stat.stx_size,
                modified_at: timestamp(stat.stx_mtime),
                changed_at: timestamp(stat.stx_ctime),
            },
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            device_number: (stat.stx_rdev_major, stat.stx_rdev_minor),
            allocated: stat.stx_blocks.saturating_mul(512),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// True if both are the same inode.
    pub(super) fn is_same(&self, other: &Identity) -> bool {
        self.identity.inode == other.inode && self.identity.device == other.device
    }
}

/// Opens without leaving a trace in access times, where that is allowed.
pub(super) fn open_quietly(directory: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    match openat(directory.as_fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner and root may ask for it.
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        answer => answer,
    }
}

/// User and group names by number, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: NamesById,
    groups: NamesById,
}

#[derive(Debug, Default)]
struct NamesById {
    all: HashMap<u32, Vec<u8>>,
    /// Neighbours mostly have the same owner.
    last: Option<(u32, Vec<u8>)>,
}

impl NamesById {
    fn get(&mut self, id: u32, look_up: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        match &self.last {
            Some((last, name)) if *last == id => name.clone(),
            _ => {
                let name = self.all.entry(id).or_insert_with(look_up).clone();
                self.last = Some((id, name.clone()));
                name
            }
        }
    }
}

impl Owners {
    /// The user's name, empty where it has none.
    pub(super) fn user(&mut self, uid: u32) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let look_up = || uzers::get_user_by_uid(uid).map_or_else(Vec::new, |user| user.name().as_bytes().to_vec());
        self.users.get(uid, look_up)
    }

    /// The group's name, empty where it has none.
    pub(super) fn group(&mut self, gid: u32) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let look_up = || uzers::get_group_by_gid(gid).map_or_else(Vec::new, |group| group.name().as_bytes().to_vec());
        self.groups.get(gid, look_up)
    }
}

/// Extended attributes of one entry, sorted by name, and what could not be read of them.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    pub(super) pairs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) failure: Option<String>,
}

impl Entry {
    /// Puts into the node what was read; what could not be comes back as an issue.
    pub(super) fn take_xattrs(&mut self, xattrs: Xattrs) -> Option<Issue> {
        self.node.xattrs = xattrs.pairs;
        self.xattrs = if xattrs.failure.is_none() { XattrsRead::All } else { XattrsRead::NotAll };
        let kind = IssueKind::MetadataUnreadable;
        xattrs.failure.map(|detail| Issue { kind, subject: self.path.clone(), detail })
    }
}

/// What attributes are read of.
#[derive(Clone, Copy)]
enum Subject<'a> {
    /// An open file or directory: nothing is looked up, which takes a third of the time.
    Open(BorrowedFd<'a>),
    /// What is open, but for its path only.
    Opened(&'a [u8]),
    /// A path whose last name isn't followed.
    Named(&'a [u8]),
}

impl Subject<'_> {
    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Subject::Open(fd) => flistxattr(fd, buffer),
            Subject::Opened(path) => listxattr(path, buffer),
            Subject::Named(path) => llistxattr(path, buffer),
        }
    }

    fn get(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Subject::Open(fd) => fgetxattr(fd, name, buffer),
            Subject::Opened(path) => getxattr(path, name, buffer),
            Subject::Named(path) => lgetxattr(path, name, buffer),
        }
    }
}

/// Reads extended attributes; of what isn't open through `/proc/self/fd`, since no call takes a directory and a name.
#[derive(Debug, Default)]
pub struct XattrReader {
    /// File systems that answered that they have none.
    without: Vec<u64>,
    /// `/proc/self/fd/<fd>/`, then the name.
    path: Vec<u8>,
    path_fd: Option<RawFd>,
    prefix_length: usize,
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    /// True if `/proc/self/fd` answers for `fd`; nothing can be read without it.
    pub(super) fn is_usable(fd: impl AsFd) -> bool {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let (there, here) = (Stat::at(rustix::fs::CWD, path.as_bytes(), true), Stat::of(fd));
        there.is_ok_and(|there| here.is_ok_and(|here| there.is_same(&here.identity)))
    }

    /// Attributes of the entry `name` in `directory`, which isn't followed.
    pub(super) fn read_at(&mut self, device: u64, directory: BorrowedFd<'_>, name: &[u8]) -> Xattrs {
        if self.without.contains(&device) {
            return Xattrs::default();
        }
        self.set_prefix(directory.as_raw_fd());
        self.path.truncate(self.prefix_length);
        self.path.extend_from_slice(name);
        let (xattrs, none) = self.buffers.read(Subject::Named(&self.path));
        self.note(device, none);
        xattrs
    }

    /// Attributes of what is open as `fd`.
    pub(super) fn read_open(&mut self, device: u64, fd: BorrowedFd<'_>) -> Xattrs {
        if self.without.contains(&device) {
            return Xattrs::default();
        }
        let (xattrs, none) = match self.buffers.list(Subject::Open(fd)) {
            // Open for its path only.
            Err(Errno::BADF) => {
                self.set_prefix(fd.as_raw_fd());
                // Without the slash the link is followed without searching the directory, which may not be allowed.
                self.path.truncate(self.prefix_length - 1);
                self.path_fd = None;
                self.buffers.read(Subject::Opened(&self.path))
            }
            listed => self.buffers.values(Subject::Open(fd), listed),
        };
        self.note(device, none);
        xattrs
    }

    fn note(&mut self, device: u64, without: bool) {
        if without {
            self.without.push(device);
        }
    }

    fn set_prefix(&mut self, fd: RawFd) {
        if self.path_fd != Some(fd) {
            self.path.clear();
            // Writing to a vector doesn't fail.
            let _ = write!(self.path, "/proc/self/fd/{fd}/");
            self.prefix_length = self.path.len();
            self.path_fd = Some(fd);
        }
    }
}

impl Buffers {
    /// Fills the list of names; its length.
    fn list(&mut self, subject: Subject<'_>) -> Result<usize, Errno> {
        fill(&mut self.list, |buffer| subject.list(buffer))
    }

    /// The attributes, and whether the file system has none at all.
    fn read(&mut self, subject: Subject<'_>) -> (Xattrs, bool) {
        let listed = self.list(subject);
        self.values(subject, listed)
    }

    fn values(&mut self, subject: Subject<'_>, listed: Result<usize, Errno>) -> (Xattrs, bool) {
        let mut xattrs = Xattrs::default();
        let length = match listed {
            Ok(0) => return (xattrs, false),
            Ok(length) => length,
            Err(Errno::NOTSUP) => return (xattrs, true),
            Err(error) => {
                xattrs.failure = Some(format!("listing extended attributes: {error}"));
                return (xattrs, false);
            }
        };
        let mut total = 0usize;
        for name in self.list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match fill(&mut self.value, |buffer| subject.get(name, buffer)) {
                Ok(length) if total + name.len() + length <= XATTRS_BYTES_MAX => {
                    total += name.len() + length;
                    xattrs.pairs.push((name.to_vec(), self.value[..length].to_vec()));
                }
                Ok(_) => {
                    xattrs.failure.get_or_insert(format!("more than {XATTRS_BYTES_MAX} bytes of extended attributes"));
                }
                // Removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(error) => {
                    let name = String::from_utf8_lossy(name);
                    xattrs.failure.get_or_insert(format!("extended attribute {name}: {error}"));
                }
            }
        }
        xattrs.pairs.sort_unstable();
        (xattrs, false)
    }
}

/// Calls with a small buffer, then with the largest the kernel fills.
fn fill(buffer: &mut Vec<u8>, mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    if buffer.len() < XATTR_BYTES_FIRST {
        buffer.resize(XATTR_BYTES_FIRST, 0);
    }
    match call(&mut buffer[..XATTR_BYTES_FIRST]) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_BYTES_MAX, 0);
            call(buffer)
        }
        answer => answer,
    }
}

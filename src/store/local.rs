//! A region as a directory tree on a local disk (`file:///path`).
//!
//! Guarantees: an acknowledged put survives a power cut, and no put is ever seen half. Bytes go to a
//! temporary file, which is synced and then given its name by a rename that refuses to replace
//! (where the file system has none: a hard link); then the directory is synced, and so is each
//! directory on the way down until this process knows its entry durable. All paths are opened
//! relative to the region's directory, held open, without following symbolic links.
//!
//! On NFS, calls of one host see one another; hosts that share a region need `lookupcache=none` and
//! `noac`, since a client's caches otherwise hide what another client made.
//!
//! Called through [`super::open::open_store`]. Page: `format-spec/store.md`.

mod incoming;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, name};
pub use incoming::Incoming;

/// Where unfinished puts live; a leading dot keeps it out of the objects' names.
const TEMPORARY: &str = ".tmp";
/// Unfinished puts untouched for this long belong to crashed writers.
const STALE_SECONDS: i64 = 24 * 60 * 60;
/// Payloads are copied and compared in pieces of this many bytes.
const BUFFER_BYTES: usize = 256 << 10;

// Non-blocking, so that a FIFO in an object's place fails instead of hanging.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
// The user's umask decides who else may read; what needs secrecy is sealed.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);

/// A directory that holds one region.
pub struct LocalStore {
    root: OwnedFd,
    address: String,
    // Directories whose own entry this process has synced; one made by another process may not be yet.
    settled: Mutex<HashSet<String>>,
    next_temporary: AtomicU64,
}

impl LocalStore {
    /// Opens an existing directory and removes what crashed puts left there more than a day ago.
    ///
    /// # Errors
    /// `Unavailable` when the directory doesn't exist (a disk that isn't mounted looks the same),
    /// `Invalid` when the path is relative or no directory, `Denied` without permission.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let address = format!("file://{}", path.display());
        let call = Call { operation: "open", address: &address, name: "" };
        if !path.is_absolute() {
            return Err(call.error(StoreErrorKind::Invalid, "the path of a region must be absolute".to_owned()));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => {
                let detail = format!("region directory {} does not exist; is the disk mounted?", path.display());
                call.error(StoreErrorKind::Unavailable, detail)
            }
            Errno::NOTDIR => call.error(StoreErrorKind::Invalid, format!("{} is no directory", path.display())),
            errno => call.failed("opening the region directory", errno),
        })?;
        let store = LocalStore { root, address, settled: Mutex::default(), next_temporary: AtomicU64::new(0) };
        store.sweep();
        Ok(store)
    }

    /// Makes the directory and its missing parents, durably, and opens it.
    ///
    /// # Errors
    /// As [`LocalStore::open`], and when a directory can't be made.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let address = format!("file://{}", path.display());
        let call = Call { operation: "open", address: &address, name: "" };
        if path.is_absolute() {
            make_directories(path).map_err(|error| call.failed_io("making the region directory", &error))?;
        }
        LocalStore::open(path)
    }

    /// Opens an object for reading and gives its size in bytes.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn open_object(&self, name: &str) -> Result<(File, u64), StoreError> {
        self.existing(&self.call("get", name)?)
    }

    fn call<'a>(&'a self, operation: &'static str, name: &'a str) -> Result<Call<'a>, StoreError> {
        name::check(operation, &self.address, name)?;
        Ok(Call { operation, address: &self.address, name })
    }

    fn settled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Opens a directory of the region; `None` when it doesn't exist but the region does.
    fn directory(&self, call: &Call<'_>, directory: &str) -> Result<Option<OwnedFd>, StoreError> {
        let opening = |errno| call.failed("opening the directory", errno);
        let mut current = rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty()).map_err(opening)?;
        for component in directory.split('/').filter(|component| !component.is_empty()) {
            current = match rustix::fs::openat(&current, component, DIRECTORY, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return self.root_present(call).map(|()| None),
                Err(errno) => return Err(opening(errno)),
            };
        }
        Ok(Some(current))
    }

    // Opens a directory of the region, making what is missing; every entry on the way is durable then.
    fn made_directory(&self, call: &Call<'_>, directory: &str) -> Result<OwnedFd, StoreError> {
        let opening = |errno| call.failed("opening the directory", errno);
        let mut current = rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty()).map_err(opening)?;
        let mut so_far = String::new();
        for component in directory.split('/').filter(|component| !component.is_empty()) {
            so_far.push_str(component);
            so_far.push('/');
            let (next, missing) = match rustix::fs::openat(&current, component, DIRECTORY, Mode::empty()) {
                Ok(next) => (next, false),
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&current, component, DIRECTORY_MODE) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(call.failed("making the directory", errno)),
                    }
                    let next = rustix::fs::openat(&current, component, DIRECTORY, Mode::empty()).map_err(opening)?;
                    (next, true)
                }
                Err(errno) => return Err(opening(errno)),
            };
            // Someone else may have made it a moment ago, or crashed before syncing: looking isn't enough.
            if missing || !self.settled().contains(&so_far) {
                sync(call, &current)?;
                self.settled().insert(so_far.clone());
            }
            current = next;
        }
        Ok(current)
    }

    // A region directory deleted under our feet must not make every object look absent.
    fn root_present(&self, call: &Call<'_>) -> Result<(), StoreError> {
        let stat = rustix::fs::fstat(&self.root).map_err(|errno| call.failed("looking at the region", errno))?;
        if stat.st_nlink == 0 {
            return Err(call.error(StoreErrorKind::Unavailable, "the region directory was removed".to_owned()));
        }
        Ok(())
    }

    // Opens an object; `None` when there is none.
    fn object(&self, call: &Call<'_>) -> Result<Option<(File, u64)>, StoreError> {
        let (directory, leaf) = split(call.name);
        let Some(directory) = self.directory(call, directory)? else { return Ok(None) };
        let found = open_object(call, &directory, leaf)?;
        if found.is_none() {
            self.root_present(call)?;
        }
        Ok(found)
    }

    fn existing(&self, call: &Call<'_>) -> Result<(File, u64), StoreError> {
        self.object(call)?.ok_or_else(|| call.error(StoreErrorKind::NotFound, "no such object".to_owned()))
    }

    // Writes the payload to a synced temporary file.
    fn write_temporary(&self, call: &Call<'_>, payload: &Payload) -> Result<Temporary, StoreError> {
        let mut temporary = self.new_temporary(call)?;
        let mut buffer = vec![0u8; BUFFER_BYTES];
        let length = payload.length();
        let mut offset = 0;
        while offset < length {
            let piece = piece(&mut buffer, length - offset);
            payload.read_exact_at(piece, offset).map_err(|error| call.spool(&error))?;
            temporary.file.write_all(piece).map_err(|error| call.failed_io("writing", &error))?;
            offset += piece.len() as u64;
        }
        sync(call, &temporary.file)?;
        Ok(temporary)
    }

    fn new_temporary(&self, call: &Call<'_>) -> Result<Temporary, StoreError> {
        // Not synced: what is in here is only ever removed or renamed away.
        match rustix::fs::mkdirat(&self.root, TEMPORARY, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(call.failed("making the directory for temporary files", errno)),
        }
        let directory = rustix::fs::openat(&self.root, TEMPORARY, DIRECTORY, Mode::empty())
            .map_err(|errno| call.failed("opening the directory for temporary files", errno))?;
        // Read, too: a put that came in pieces is compared with what has its name already.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let process = std::process::id();
        loop {
            // Other hosts may count the same; the file system decides who gets the name.
            let leaf = format!("{process}-{}", self.next_temporary.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::openat(&directory, &leaf, flags, FILE_MODE) {
                Ok(file) => return Ok(Temporary { file: file.into(), directory, leaf, published: false }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(call.failed("making a temporary file", errno)),
            }
        }
    }

    // Leftovers cost room and nothing else, so failing to remove them is no failure of the store.
    fn sweep(&self) {
        let call = Call { operation: "open", address: &self.address, name: "" };
        let Ok(directory) = rustix::fs::openat(&self.root, TEMPORARY, DIRECTORY, Mode::empty()) else { return };
        let Ok(entries) = Dir::read_from(&directory) else { return };
        let entries: Vec<_> =
            entries.flatten().filter(|entry| !entry.file_name().to_bytes().starts_with(b".")).collect();
        if entries.is_empty() {
            return;
        }
        // A new file's time is the file system's clock, the only one that the others were stamped with.
        let Ok(now) = self.new_temporary(&call).and_then(|now| {
            rustix::fs::fstat(&now.file).map_err(|errno| call.failed("looking at a temporary file", errno))
        }) else {
            return;
        };
        for entry in entries {
            let stat = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| now.st_mtime.saturating_sub(stat.st_mtime) > STALE_SECONDS) {
                let _ = rustix::fs::unlinkat(&directory, entry.file_name(), AtFlags::empty());
            }
        }
    }
}

impl Store for LocalStore {
    fn address(&self) -> &str {
        &self.address
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        let call = self.call("put", name)?;
        let (directory, leaf) = split(name);
        let parent = self.made_directory(&call, directory)?;
        if open_object(&call, &parent, leaf)?.is_none() {
            let mut temporary = self.write_temporary(&call, payload)?;
            if publish(&call, &mut temporary, &parent, leaf)? {
                sync(&call, &parent)?;
                return Ok(Put::Created);
            }
        }
        identical(&call, &parent, leaf, payload)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let call = self.call("get", name)?;
        let (file, size) = self.existing(&call)?;
        if size > bytes_max {
            let detail = format!("holds {size} bytes, at most {bytes_max} expected");
            return Err(call.error(StoreErrorKind::Range, detail));
        }
        let mut bytes = call.room(size)?;
        let read = file.take(size).read_to_end(&mut bytes).map_err(|error| call.failed_io("reading", &error))?;
        if read as u64 != size {
            let detail = format!("ended after {read} of {size} bytes");
            return Err(call.error(StoreErrorKind::Other, detail));
        }
        Ok(bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let call = self.call("get", name)?;
        let (file, size) = self.existing(&call)?;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let detail = format!("{length} bytes at {offset} don't lie within its {size} bytes");
            return Err(call.error(StoreErrorKind::Range, detail));
        }
        let mut bytes = call.room(length)?;
        while (bytes.len() as u64) < length {
            let at = offset + bytes.len() as u64;
            // Into memory that isn't zeroed first; the room may be larger than what was asked for.
            match rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(call.failed_io("reading", &io::ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(call.failed("reading", errno)),
            }
        }
        bytes.truncate(length as usize);
        Ok(bytes)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let call = self.call("size", name)?;
        let (directory, leaf) = split(name);
        let Some(directory) = self.directory(&call, directory)? else { return Ok(None) };
        match rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => object_size(&call, &stat),
            Err(Errno::NOENT) => self.root_present(&call).map(|()| None),
            Err(errno) => Err(call.failed("looking at the object", errno)),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        name::check_prefix(&self.address, prefix)?;
        self.root_present(&Call { operation: "list", address: &self.address, name: prefix })?;
        let mut pending = vec![prefix.to_owned()];
        while let Some(prefix) = pending.pop() {
            let call = Call { operation: "list", address: &self.address, name: &prefix };
            let Some(directory) = self.directory(&call, &prefix)? else { continue };
            let entries = Dir::read_from(&directory).map_err(|errno| call.failed("reading the directory", errno))?;
            for entry in entries {
                let entry = entry.map_err(|errno| call.failed("reading the directory", errno))?;
                // What can't be an object's name is not ours: `.tmp`, `lost+found`, a desktop's droppings.
                let leaf = entry.file_name();
                let Some(text) = leaf.to_str().ok().filter(|leaf| name::is_component(leaf)) else { continue };
                let full = format!("{prefix}{text}");
                if entry.file_type() == FileType::Directory {
                    pending.push(full + "/");
                    continue;
                }
                let call = Call { name: &full, ..call };
                match rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => match object_size(&call, &stat)? {
                        Some(size) => each(Listed { name: full, size }),
                        None => pending.push(full + "/"),
                    },
                    // Deleted since the directory was read.
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(call.failed("looking at the object", errno)),
                }
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let call = self.call("delete", name)?;
        let (directory, leaf) = split(name);
        let Some(directory) = self.directory(&call, directory)? else { return Ok(()) };
        match rustix::fs::unlinkat(&directory, leaf, AtFlags::empty()) {
            Ok(()) => sync(&call, &directory),
            // A directory of that name is no object.
            Err(Errno::NOENT | Errno::ISDIR) => self.root_present(&call),
            Err(errno) => Err(call.failed("removing", errno)),
        }
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        let call = self.call("heal", name)?;
        let (directory, leaf) = split(name);
        let parent = self.made_directory(&call, directory)?;
        let mut temporary = self.write_temporary(&call, payload)?;
        replace(&call, &mut temporary, &parent, leaf)
    }
}

// A call under way, for its errors.
#[derive(Clone, Copy)]
struct Call<'a> {
    operation: &'static str,
    address: &'a str,
    name: &'a str,
}

impl Call<'_> {
    fn error(&self, kind: StoreErrorKind, detail: String) -> StoreError {
        StoreError::new(kind, self.operation, self.address, self.name, detail)
    }

    fn failed(&self, doing: &str, errno: Errno) -> StoreError {
        let kind = kind_of(errno);
        let hint = match errno {
            Errno::LOOP | Errno::NOTDIR => "; a symbolic link or file stands in its way (use a bind mount instead)",
            Errno::XDEV => "; it lies on another file system than the region directory",
            Errno::MFILE | Errno::NFILE => "; raise the limit of open files",
            Errno::FBIG => "; raise the limit of a file's size (`ulimit -f`), unless it is the file system's",
            Errno::ROFS => "; the disk is mounted read-only, perhaps after an error",
            _ => "",
        };
        self.error(kind, format!("{doing}: {}{hint}", io::Error::from(errno)))
    }

    fn failed_io(&self, doing: &str, error: &io::Error) -> StoreError {
        match Errno::from_io_error(error) {
            Some(errno) => self.failed(doing, errno),
            None => self.error(StoreErrorKind::Other, format!("{doing}: {error}")),
        }
    }

    fn spool(&self, error: &io::Error) -> StoreError {
        self.error(StoreErrorKind::Other, format!("reading the payload's spool file: {error}"))
    }

    // An empty vector with room for so many bytes.
    fn room(&self, length: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let reserved = usize::try_from(length).is_ok_and(|length| bytes.try_reserve_exact(length).is_ok());
        if !reserved {
            return Err(self.error(StoreErrorKind::Other, format!("no memory for {length} bytes")));
        }
        Ok(bytes)
    }
}

fn kind_of(errno: Errno) -> StoreErrorKind {
    match errno {
        // A disk that was mounted read-only, too, takes nothing more, whoever asks.
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS => StoreErrorKind::Full,
        Errno::ACCESS | Errno::PERM => StoreErrorKind::Denied,
        // Network file systems that lost their server, and limits that pass.
        Errno::STALE | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NOTCONN => {
            StoreErrorKind::Unavailable
        }
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => StoreErrorKind::Unavailable,
        Errno::NAMETOOLONG => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Other,
    }
}

// A temporary file; removed when dropped, unless it was given its name.
struct Temporary {
    file: File,
    directory: OwnedFd,
    leaf: String,
    published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays is swept a day later.
            let _ = rustix::fs::unlinkat(&self.directory, &self.leaf, AtFlags::empty());
        }
    }
}

// Gives the file its name; false when the name is taken.
fn publish(call: &Call<'_>, temporary: &mut Temporary, parent: &OwnedFd, leaf: &str) -> Result<bool, StoreError> {
    let Temporary { directory, leaf: from, .. } = &*temporary;
    match rustix::fs::renameat_with(directory, from, parent, leaf, RenameFlags::NOREPLACE) {
        Ok(()) => {
            temporary.published = true;
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        // NFS and some FUSE file systems know no such rename. The link's old name goes when dropped.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link(call, directory, from, parent, leaf),
        Err(errno) => Err(call.failed("naming the object", errno)),
    }
}

// Gives the file its name, whatever had it before.
fn replace(call: &Call<'_>, temporary: &mut Temporary, parent: &OwnedFd, leaf: &str) -> Result<(), StoreError> {
    rustix::fs::renameat(&temporary.directory, &temporary.leaf, parent, leaf)
        .map_err(|errno| call.failed("replacing the object", errno))?;
    temporary.published = true;
    sync(call, parent)
}

// The end of a put whose name was taken before.
fn identical(call: &Call<'_>, parent: &OwnedFd, leaf: &str, payload: &Payload) -> Result<Put, StoreError> {
    let Some((file, size)) = open_object(call, parent, leaf)? else {
        let detail = "the name was taken by a directory, or by an object that was removed meanwhile";
        return Err(call.error(StoreErrorKind::Unavailable, detail.to_owned()));
    };
    compare(call, &file, size, payload)?;
    // Whoever put it may not have come to this point: it is ours to make durable now.
    sync(call, &file)?;
    sync(call, parent)?;
    Ok(Put::Identical)
}

fn link(call: &Call<'_>, directory: &OwnedFd, from: &str, parent: &OwnedFd, leaf: &str) -> Result<bool, StoreError> {
    match rustix::fs::linkat(directory, from, parent, leaf, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let detail =
                "this file system can neither rename without replacing nor hard-link, so it can't keep a region";
            Err(call.error(StoreErrorKind::Invalid, detail.to_owned()))
        }
        Err(errno) => Err(call.failed("naming the object by a hard link", errno)),
    }
}

fn sync(call: &Call<'_>, file: impl AsFd) -> Result<(), StoreError> {
    retry_on_intr(|| rustix::fs::fsync(&file)).map_err(|errno| call.failed("syncing to disk", errno))
}

fn open_object(call: &Call<'_>, directory: &OwnedFd, leaf: &str) -> Result<Option<(File, u64)>, StoreError> {
    let file = match rustix::fs::openat(directory, leaf, READ, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(call.failed("opening the object", errno)),
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| call.failed("looking at the object", errno))?;
    Ok(object_size(call, &stat)?.map(|size| (file.into(), size)))
}

// The size of a regular file; `None` for a directory, which is no object.
fn object_size(call: &Call<'_>, stat: &Stat) -> Result<Option<u64>, StoreError> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => match u64::try_from(stat.st_size) {
            Ok(size) => Ok(Some(size)),
            Err(_) => Err(call.error(StoreErrorKind::Other, format!("has a size of {}", stat.st_size))),
        },
        FileType::Directory => Ok(None),
        // A link here could hide a whole tree from a listing, and what isn't listed may be collected.
        other => {
            let detail = format!("is no regular file but a {other:?}; a region may not hold one (use a bind mount)");
            Err(call.error(StoreErrorKind::Other, detail))
        }
    }
}

fn compare(call: &Call<'_>, file: &File, size: u64, payload: &Payload) -> Result<(), StoreError> {
    let other = || call.error(StoreErrorKind::AlreadyExists, "holds other bytes".to_owned());
    if size != payload.length() {
        return Err(other());
    }
    let (mut ours, mut theirs) = (vec![0u8; BUFFER_BYTES], vec![0u8; BUFFER_BYTES]);
    let mut offset = 0;
    while offset < size {
        let (ours, theirs) = (piece(&mut ours, size - offset), piece(&mut theirs, size - offset));
        payload.read_exact_at(ours, offset).map_err(|error| call.spool(&error))?;
        file.read_exact_at(theirs, offset).map_err(|error| call.failed_io("reading", &error))?;
        if ours != theirs {
            return Err(other());
        }
        offset += ours.len() as u64;
    }
    Ok(())
}

// The front of the buffer, as much as is still needed.
fn piece(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    &mut buffer[..length]
}

fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

fn make_directories(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path;
    while !at.try_exists()? {
        missing.push(at.to_owned());
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for directory in missing.iter().rev() {
        match std::fs::create_dir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if let Some(parent) = directory.parent() {
            let parent =
                rustix::fs::openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            retry_on_intr(|| rustix::fs::fsync(&parent))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

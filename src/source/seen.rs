//! What the last backup of a source saw: per file its identity and where its content is, so that a file that didn't
//! change isn't opened again.
//!
//! One sequential file per repository, dataset and root, in the order of the walk, read beside the next walk as a
//! merge. It is a cache: missing, foreign or damaged means absent, with a reason for a log. Guarantees: no byte that
//! was damaged, cut or mixed in from another such file is ever taken for a record, and a file gets its name only by
//! [`SeenWriter::commit`], once its snapshot is saved. Called by the backup.
//!
//! Layout, little-endian: a header (magic, version, repository, scope, start of the scan), the base snapshot's id and
//! a check over both; blocks (length, records, check), each check the first 16 bytes of BLAKE3 over the header's
//! digest, the block's number and length, and the records; a block of length 0 whose eight bytes are the number of
//! records. Records are coded in `seen_record`.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Identity;
use super::seen_record::{Decoder, RECORD_BYTES_MAX, encode, is_recordable, path_order};
use crate::format::ids::{RepositoryId, SnapshotId};
use crate::format::node::{Content, Timestamp};
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

const MAGIC: &[u8; 8] = b"kstnseen";
const VERSION: u32 = 2;
const CHECK_BYTES: usize = 16;
/// Magic, version, repository, scope, start of the scan.
const HEADER_BYTES: usize = 8 + 4 + 16 + 32 + 8;
/// The header, the base snapshot's id and a check.
const HEAD_BYTES: usize = HEADER_BYTES + SnapshotId::LENGTH + CHECK_BYTES;
/// A block is closed once its records reach this size.
const BLOCK_BYTES_TARGET: usize = 64 << 10;
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_TARGET + RECORD_BYTES_MAX;

/// How far a file's time may lag behind the clock when it is set: a tick of the kernel's clock,
/// and whole seconds (two on FAT) where a file system keeps no fractions.
const LAG_FINE_NS: i128 = 10_000_000;
const LAG_COARSE_NS: i128 = 2_000_000_000;

/// Why a cache of seen files can't be used, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    /// There is none.
    #[error("{path}: no earlier backup of this source is remembered here")]
    Missing {
        /// The cache file.
        path: PathBuf,
    },
    /// It belongs to another repository, dataset, root or version.
    #[error("{path}: belongs to {what}")]
    Foreign {
        /// The cache file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// Its bytes are not what was written.
    #[error("{path}: damaged at byte {offset}: {what}")]
    Damaged {
        /// The cache file.
        path: PathBuf,
        /// Where the damaged part begins.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("{path}: {doing}: {error}")]
    Io {
        /// The cache file.
        path: PathBuf,
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Records must come in the order of the walk.
    #[error("{path}: record out of order: {record:?}")]
    Order {
        /// The cache file.
        path: PathBuf,
        /// The path of the record that came too late, or twice.
        record: String,
    },
}

/// What a cache of seen files is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenStamp {
    repository: RepositoryId,
    scope: [u8; 32],
}

impl SeenStamp {
    /// `parameters` is whatever else the chunk ids of a content hang on: the epoch of the id key, the chunk size.
    pub fn new(repository: RepositoryId, dataset: &str, root: &Path, parameters: &[u8]) -> SeenStamp {
        let mut hasher = blake3::Hasher::new();
        for part in [dataset.as_bytes(), root.as_os_str().as_bytes(), parameters] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        SeenStamp { repository, scope: *hasher.finalize().as_bytes() }
    }

    fn header(&self, scan_started_at: i64) -> [u8; HEADER_BYTES] {
        let mut header = [0u8; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..28].copy_from_slice(&self.repository.0);
        header[28..60].copy_from_slice(&self.scope);
        header[60..].copy_from_slice(&scan_started_at.to_le_bytes());
        header
    }
}

/// A file to remember. Only for one that was captured without inconsistency, with the identity it had when it was opened.
#[derive(Clone, Copy, Debug)]
pub struct SeenRecord<'a> {
    /// Path from the snapshot's root.
    pub path: &'a [u8],
    /// The file as it was when it was read.
    pub identity: &'a Identity,
    /// Where its content is.
    pub content: &'a Content,
    /// It has no extended attributes, for certain. Setting one sets the inode's change time, so an unchanged file
    /// has none still.
    pub plain: bool,
}

/// A file that the last backup saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEntry {
    /// The file as it was then.
    pub identity: Identity,
    /// Where its content is.
    pub content: Content,
    /// It had no extended attributes.
    pub plain: bool,
}

/// True if a file is surely the one seen before: inode, size and both times are equal, the device too unless
/// `ignore_device`, and both times lie before the start of the scan that saw it (nanoseconds since the Unix epoch),
/// so that no later change can have got the same ones. What sets no time isn't seen: a write through a shared memory
/// mapping into a page that is dirty already, until the kernel has written that page back.
pub fn is_unchanged(now: &Identity, seen: &Identity, scan_started_at: i64, ignore_device: bool) -> bool {
    let settled = |time: &Timestamp| {
        let lag = if time.nanoseconds == 0 { LAG_COARSE_NS } else { LAG_FINE_NS };
        let at = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        at + lag < i128::from(scan_started_at)
    };
    now.inode == seen.inode
        && now.size == seen.size
        && now.modified_at == seen.modified_at
        && now.changed_at == seen.changed_at
        && (ignore_device || now.device == seen.device)
        && settled(&seen.modified_at)
        && settled(&seen.changed_at)
}

/// The path of a directory's own record, whose content is the list [`Content::List`] of its tree: behind all that is in
/// it, since its tree is known last. No entry can have such a name, which is longer than any may be.
pub fn seen_end(directory: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.resize(path.len() + NAME_BYTES_MAX + 1, 0xff);
    path
}

fn check(digest: &blake3::Hash, number: u64, records: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(digest.as_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(&(records.len() as u64).to_le_bytes());
    hasher.update(records);
    first_bytes(&hasher.finalize())
}

/// The trailer's length is told apart from any block's.
fn check_end(digest: &blake3::Hash, number: u64, count: u64) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(digest.as_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(&u64::MAX.to_le_bytes());
    hasher.update(&count.to_le_bytes());
    first_bytes(&hasher.finalize())
}

fn check_head(header: &[u8], base: &SnapshotId) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(&base.0);
    first_bytes(&hasher.finalize())
}

fn first_bytes(hash: &blake3::Hash) -> [u8; CHECK_BYTES] {
    let mut bytes = [0u8; CHECK_BYTES];
    bytes.copy_from_slice(&hash.as_bytes()[..CHECK_BYTES]);
    bytes
}

/// Writes a cache of seen files beside the one in use, and takes its place at the end.
#[derive(Debug)]
pub struct SeenWriter {
    path: PathBuf,
    /// Where it is written; removed unless committed.
    unfinished: PathBuf,
    file: File,
    header: [u8; HEADER_BYTES],
    digest: blake3::Hash,
    block: Vec<u8>,
    /// The last record's path and device in this block.
    last_path: Vec<u8>,
    last_device: u64,
    block_is_fresh: bool,
    blocks: u64,
    records: u64,
    committed: bool,
}

impl SeenWriter {
    /// Begins a new cache that is to replace `path`, whose directory must exist. `scan_started_at` is when the walk began,
    /// in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn create(path: &Path, stamp: &SeenStamp, scan_started_at: i64) -> Result<SeenWriter, SeenError> {
        remove_abandoned(path);
        let io = |doing| move |error| SeenError::Io { path: path.to_path_buf(), doing, error };
        let (unfinished, file) = create_unfinished(path).map_err(io("creating it"))?;
        let header = stamp.header(scan_started_at);
        let mut writer = SeenWriter {
            path: path.to_path_buf(),
            unfinished,
            file,
            header,
            digest: blake3::hash(&header),
            block: Vec::with_capacity(BLOCK_BYTES_TARGET + 4096),
            last_path: Vec::new(),
            last_device: 0,
            block_is_fresh: true,
            blocks: 0,
            records: 0,
            committed: false,
        };
        // The head is all zeros, and so invalid, until the commit.
        writer.file.write_all(&[0; HEAD_BYTES]).map_err(io("writing"))?;
        Ok(writer)
    }

    /// Adds a file; paths come in the order of the walk, each once. What can't be trusted later is passed over:
    /// content whose length isn't the size in the identity, and paths beyond the format's limits.
    ///
    /// # Errors
    /// When the path comes too late, and when writing fails.
    pub fn append(&mut self, record: &SeenRecord<'_>) -> Result<(), SeenError> {
        if self.records > 0 && path_order(&self.last_path, record.path) != Ordering::Less {
            return Err(SeenError::Order {
                path: self.path.clone(),
                record: String::from_utf8_lossy(record.path).into_owned(),
            });
        }
        if record.path.len() > PATH_BYTES_MAX || !is_recordable(record.identity, record.content) {
            return Ok(());
        }
        let (previous, device) = match self.block_is_fresh {
            // A block stands alone.
            true => (&[][..], 0),
            false => (&self.last_path[..], self.last_device),
        };
        let shared = encode(&mut self.block, previous, device, record);
        self.block_is_fresh = false;
        self.last_path.truncate(shared);
        self.last_path.extend_from_slice(&record.path[shared..]);
        self.last_device = record.identity.device;
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES_TARGET {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SeenError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = self.block.len() as u32;
        let check = check(&self.digest, self.blocks, &self.block);
        self.block.extend_from_slice(&check);
        let written = self.file.write_all(&length.to_le_bytes()).and_then(|()| self.file.write_all(&self.block));
        written.map_err(|error| self.io("writing", error))?;
        self.block.clear();
        self.block_is_fresh = true;
        self.blocks += 1;
        Ok(())
    }

    /// Ends the cache and puts it in the place of the last one. `base` is the snapshot that was committed and holds what
    /// the records refer to.
    ///
    /// # Errors
    /// When writing or renaming fails; the last cache then stays.
    pub fn commit(mut self, base: SnapshotId) -> Result<(), SeenError> {
        self.flush()?;
        let mut end = vec![0u8; 4];
        end.extend_from_slice(&self.records.to_le_bytes());
        end.extend_from_slice(&check_end(&self.digest, self.blocks, self.records));
        let mut head = self.header.to_vec();
        head.extend_from_slice(&base.0);
        head.extend_from_slice(&check_head(&self.header, &base));
        // Not synced: what a power cut leaves of it fails its checks, and costs one slower backup.
        let written = self
            .file
            .write_all(&end)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .and_then(|_| self.file.write_all(&head))
            .and_then(|()| fs::rename(&self.unfinished, &self.path));
        written.map_err(|error| self.io("committing it", error))?;
        self.committed = true;
        Ok(())
    }

    fn io(&self, doing: &'static str, error: io::Error) -> SeenError {
        SeenError::Io { path: self.path.clone(), doing, error }
    }
}

impl Drop for SeenWriter {
    fn drop(&mut self) {
        if !self.committed {
            // If it stays, the next writer removes it.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn unfinished_prefix(path: &Path) -> Option<OsString> {
    let mut prefix = path.file_name()?.to_os_string();
    prefix.push(".unfinished-");
    Some(prefix)
}

/// Makes a file of its own for this writer, locked as long as the writer lives. Names of paths are private.
fn create_unfinished(path: &Path) -> io::Result<(PathBuf, File)> {
    let prefix = unfinished_prefix(path).ok_or(io::ErrorKind::InvalidFilename)?;
    for attempt in 0..1000 {
        let mut name = prefix.clone();
        name.push(format!("{}-{attempt}", std::process::id()));
        let unfinished = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                // Where locks don't work, another writer may take it away, and its commit fails: a lost cache.
                let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
                return Ok((unfinished, file));
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes what crashed writers left: their files are locked by nobody. Failing to costs room alone.
fn remove_abandoned(path: &Path) {
    let Some(prefix) = unfinished_prefix(path) else { return };
    let Some(directory) = path.parent() else { return };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes())
            && let Ok(file) = File::open(entry.path())
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Reads a cache of seen files beside a walk.
#[derive(Debug)]
pub struct SeenReader {
    path: PathBuf,
    file: BufReader<File>,
    digest: blake3::Hash,
    base: SnapshotId,
    scan_started_at: i64,
    /// Where the next block begins.
    offset: u64,
    blocks: u64,
    records: u64,
    block: Vec<u8>,
    decoder: Decoder,
    /// The decoder stands on a record.
    has_record: bool,
    ended: bool,
    stopped: Option<SeenError>,
}

impl SeenReader {
    /// Opens the cache at `path`, if it is for `stamp`.
    ///
    /// # Errors
    /// When there is none, or it is foreign, damaged or unreadable: the backup then goes on without, and the error is for
    /// a log.
    pub fn open(path: &Path, stamp: &SeenStamp) -> Result<SeenReader, SeenError> {
        let io = |doing, error| SeenError::Io { path: path.to_path_buf(), doing, error };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SeenError::Missing { path: path.to_path_buf() },
            _ => io("opening it", error),
        })?;
        let mut file = BufReader::with_capacity(256 << 10, file);
        let mut head = [0u8; HEAD_BYTES];
        let damaged = |what| SeenError::Damaged { path: path.to_path_buf(), offset: 0, what };
        file.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("shorter than its header"),
            _ => io("reading", error),
        })?;
        let (header, rest) = head.split_at(HEADER_BYTES);
        let (base, found) = rest.split_at(SnapshotId::LENGTH);
        let mut base_id = SnapshotId::default();
        base_id.0.copy_from_slice(base);
        if check_head(header, &base_id) != found {
            return Err(damaged("the header's check doesn't match"));
        }
        let mut scan_started_at = [0u8; 8];
        scan_started_at.copy_from_slice(&header[60..]);
        let scan_started_at = i64::from_le_bytes(scan_started_at);
        let expected = stamp.header(scan_started_at);
        let foreign = |what| Err(SeenError::Foreign { path: path.to_path_buf(), what });
        match () {
            () if header[..12] != expected[..12] => return foreign("another version of the program"),
            () if header[12..28] != expected[12..28] => return foreign("another repository"),
            () if header != expected => return foreign("another dataset, root, id epoch or chunk size"),
            () => {}
        }
        Ok(SeenReader {
            path: path.to_path_buf(),
            file,
            digest: blake3::hash(header),
            base: base_id,
            scan_started_at,
            offset: HEAD_BYTES as u64,
            blocks: 0,
            records: 0,
            block: Vec::new(),
            decoder: Decoder::default(),
            has_record: false,
            ended: false,
            stopped: None,
        })
    }

    /// The snapshot that holds what the records refer to.
    pub fn base(&self) -> SnapshotId {
        self.base
    }

    /// When the walk behind it began, in nanoseconds since the Unix epoch; for [`is_unchanged`].
    pub fn scan_started_at(&self) -> i64 {
        self.scan_started_at
    }

    /// Why the rest of the cache can't be used, if it turned out so.
    pub fn stopped(&self) -> Option<&SeenError> {
        self.stopped.as_ref()
    }

    /// The file at `path` as the last backup saw it. Calls come in the order of the walk; one that comes too late finds
    /// nothing.
    pub fn lookup(&mut self, path: &[u8]) -> Option<SeenEntry> {
        loop {
            if !self.has_record && !self.advance() {
                return None;
            }
            match path_order(self.decoder.path(), path) {
                Ordering::Less => self.has_record = false,
                Ordering::Equal => return self.decoder.entry(&self.block),
                Ordering::Greater => return None,
            }
        }
    }

    /// Steps to the next record; false at the end, which damage is too.
    fn advance(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let stepped = match self.decoder.is_at_end(&self.block) {
            true => self.next_block().map(|more| more && self.decoder.next(&self.block)),
            false => Ok(self.decoder.next(&self.block)),
        };
        match stepped {
            Ok(true) => {
                self.records += 1;
                self.has_record = true;
                return true;
            }
            Ok(false) if self.ended => {}
            Ok(false) => {
                self.stopped = Some(self.damaged("a record can't be decoded or is out of order"));
            }
            Err(error) => self.stopped = Some(error),
        }
        self.ended = true;
        false
    }

    /// Reads and verifies the next block; false, with `ended` set, behind the last.
    fn next_block(&mut self) -> Result<bool, SeenError> {
        let length = u32::from_le_bytes(self.read_array()?) as usize;
        if length == 0 {
            let count = u64::from_le_bytes(self.read_array()?);
            let found: [u8; CHECK_BYTES] = self.read_array()?;
            if found != check_end(&self.digest, self.blocks, count) || count != self.records {
                return Err(self.damaged("the end's check doesn't match"));
            }
            self.ended = true;
            return Ok(false);
        }
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block is longer than any"));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(length, 0);
        let read = self.file.read_exact(&mut block);
        self.block = block;
        read.map_err(|error| self.unreadable(error))?;
        let found: [u8; CHECK_BYTES] = self.read_array()?;
        if found != check(&self.digest, self.blocks, &self.block) {
            return Err(self.damaged("a block's check doesn't match"));
        }
        self.offset += (4 + length + CHECK_BYTES) as u64;
        self.blocks += 1;
        self.decoder.begin_block();
        Ok(true)
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N], SeenError> {
        let mut bytes = [0u8; N];
        self.file.read_exact(&mut bytes).map_err(|error| self.unreadable(error))?;
        Ok(bytes)
    }

    fn unreadable(&self, error: io::Error) -> SeenError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it was cut short"),
            _ => SeenError::Io { path: self.path.clone(), doing: "reading", error },
        }
    }

    fn damaged(&self, what: &'static str) -> SeenError {
        SeenError::Damaged { path: self.path.clone(), offset: self.offset, what }
    }
}

//! Reading one file's content faithfully: data and holes in order, and whether it held still meanwhile.
//!
//! Guarantees: at most as many bytes as the file had when it was opened, so a file that grows or shrinks ends all
//! the same; holes of sparse files are told, not read; a change between opening and the end is noticed. Access
//! times stay as they were, where the system allows that. Called by the backup's readers, from many threads.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Advice, FileType, OFlags, SeekFrom, fadvise, seek};
use rustix::io::{Errno, pread};

use super::metadata::{Owners, Stat, XattrReader, open_quietly};
use super::{Entry, Identity, XattrsRead};
use crate::format::node::NodeKind;
use crate::report::{Issue, IssueKind};

/// Files from this size on are announced to the kernel as read in sequence.
const SEQUENTIAL_BYTES_MIN: u64 = 1 << 20;
/// Smaller files are read whole, holes or not: a hole must spare more than looking for it costs.
const SPARSE_BYTES_MIN: u64 = 64 << 10;
/// Files below this size are read by [`FileReader::read_small`]; none of them has holes that would be told.
pub const SMALL_BYTES_MAX: usize = SPARSE_BYTES_MIN as usize;
/// NONBLOCK: a fifo that took the name meanwhile must not hold up the reader.
const OPEN_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The name is gone.
    #[error("it disappeared before it was opened")]
    Vanished,
    /// The name stands for something else than a regular file by now.
    #[error("it is no regular file any more")]
    Replaced,
    /// Opening or reading failed.
    #[error("{doing} at byte {offset}: {error}")]
    Unreadable {
        /// The step that failed.
        doing: &'static str,
        /// Where in the file.
        offset: u64,
        /// What the system said.
        error: std::io::Error,
    },
}

impl ReadError {
    fn unreadable(doing: &'static str, offset: u64, error: Errno) -> Self {
        ReadError::Unreadable { doing, offset, error: error.into() }
    }

    /// The issue that this is for the entry at `path`.
    pub fn into_issue(self, path: &[u8]) -> Issue {
        let kind = match &self {
            ReadError::Vanished | ReadError::Replaced => IssueKind::Vanished,
            ReadError::Unreadable { .. } => IssueKind::Unreadable,
        };
        Issue { kind, subject: path.to_vec(), detail: self.to_string() }
    }
}

/// A stretch of a file, in file order without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Bytes to read.
    Data {
        /// Where it begins.
        offset: u64,
        /// How many bytes, at least 1.
        length: u64,
    },
    /// Bytes that read as zeros and take no room.
    Hole {
        /// How many bytes, at least 1.
        length: u64,
    },
}

/// Whether what was read is one moment's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Size and times are as they were at the opening, and that many bytes were read.
    Unchanged,
    /// The content may mix several moments; the text says what moved.
    Changed(&'static str),
}

/// An open file, read once from its beginning to its end.
#[derive(Debug)]
pub struct FileReader {
    fd: OwnedFd,
    opened: Stat,
    refreshed: bool,
    position: u64,
    span_end: u64,
    sparse: bool,
    /// How the file was found not to end where it ended at the opening.
    moved_end: Option<&'static str>,
}

impl FileReader {
    /// Opens the file `name` in `directory`. `expected` is what the walk saw; if the name stands for another file or
    /// state by now, that one is read, and [`FileReader::refresh`] brings its entry up to date.
    ///
    /// # Errors
    /// When the name is gone or no regular file any more, and when opening fails.
    pub fn open(directory: impl AsFd, name: &[u8], expected: &Identity) -> Result<FileReader, ReadError> {
        let fd = open_quietly(directory, name, OPEN_FLAGS).map_err(|error| match error {
            Errno::NOENT => ReadError::Vanished,
            // A symbolic link, or a socket or device without a driver.
            Errno::LOOP | Errno::NXIO | Errno::NODEV => ReadError::Replaced,
            error => ReadError::unreadable("opening", 0, error),
        })?;
        let opened = Stat::of(&fd).map_err(|error| ReadError::unreadable("reading its metadata", 0, error))?;
        if opened.kind != FileType::RegularFile {
            return Err(ReadError::Replaced);
        }
        let size = opened.identity.size;
        if size >= SEQUENTIAL_BYTES_MIN {
            // Advice only.
            let _ = fadvise(&fd, 0, None, Advice::Sequential);
        }
        Ok(FileReader {
            fd,
            opened,
            refreshed: opened.identity == *expected,
            position: 0,
            span_end: 0,
            sparse: size >= SPARSE_BYTES_MIN && opened.allocated < size,
            moved_end: None,
        })
    }

    /// The file as it was when it was opened; what change detection is to remember.
    pub fn identity(&self) -> &Identity {
        &self.opened.identity
    }

    /// Makes `entry` (path, name and link group apart) describe the file as it was opened, if that is not what the walk saw;
    /// what could not be read of it comes back as an issue. Extended attributes that were left for later are read.
    pub fn refresh(&mut self, entry: &mut Entry, xattrs: &mut XattrReader) -> Option<Issue> {
        let device = self.opened.identity.device;
        if std::mem::replace(&mut self.refreshed, true) {
            return match entry.xattrs {
                XattrsRead::Later => entry.take_xattrs(xattrs.read_open(device, self.fd.as_fd())),
                XattrsRead::All | XattrsRead::NotAll => None,
            };
        }
        let now = &self.opened;
        let same_inode = now.is_same(&entry.identity);
        let node = &mut entry.node;
        if let NodeKind::File { size, .. } = &mut node.kind {
            *size = now.identity.size;
        }
        let mut owners = Owners::default();
        if node.uid != now.uid {
            node.user = owners.user(now.uid);
        }
        if node.gid != now.gid {
            node.group = owners.group(now.gid);
        }
        (node.mode, node.uid, node.gid) = (now.mode, now.uid, now.gid);
        node.modified_at = now.identity.modified_at;
        if !same_inode {
            // Another file: what names the old one has says nothing about it.
            node.link_group = None;
        }
        entry.identity = now.identity;
        entry.take_xattrs(xattrs.read_open(device, self.fd.as_fd()))
    }

    /// Reads a small file whole, with as few calls as can tell that it is what the walk saw, before and after: fills
    /// the beginning of `buffer`, of more bytes than the file has, and completes `entry`. What could not be read of
    /// its metadata comes back as an issue. `None` where anything is not as expected, or the file isn't small; then
    /// nothing is known, and it is to be opened as any other.
    pub fn read_small(
        directory: impl AsFd,
        entry: &mut Entry,
        buffer: &mut [u8],
        xattrs: &mut XattrReader,
    ) -> Option<(usize, Option<Issue>)> {
        let size = usize::try_from(entry.identity.size).ok().filter(|size| *size < SMALL_BYTES_MAX)?;
        // With room for one byte more, a file that has more of them than it says is noticed by the same call.
        let room = buffer.get_mut(..=size)?;
        let fd = open_quietly(directory, &entry.node.name, OPEN_FLAGS).ok()?;
        let mut filled = 0;
        loop {
            match pread(&fd, &mut room[filled..], filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            }
            if filled >= size {
                break;
            }
        }
        let device = entry.identity.device;
        let found = (entry.xattrs == XattrsRead::Later).then(|| xattrs.read_open(device, fd.as_fd()));
        // Size, times and inode are those that the walk saw: neither content nor metadata changed since.
        let after = Stat::of(&fd).ok()?;
        let is_same = after.kind == FileType::RegularFile && after.identity == entry.identity && filled == size;
        is_same.then(|| (size, found.and_then(|found| entry.take_xattrs(found))))
    }

    /// The next stretch, or `None` at the end. What was not read of the last one is passed over.
    ///
    /// # Errors
    /// When the system fails to tell data from holes, or to read.
    pub fn next_span(&mut self) -> Result<Option<Span>, ReadError> {
        let size = self.opened.identity.size;
        if self.position < self.span_end {
            self.moved_end.get_or_insert("not all of it was read");
            self.position = self.span_end;
        }
        if self.moved_end.is_some() {
            return Ok(None);
        }
        let start = self.position;
        if start >= size {
            self.look_past_the_end()?;
            return Ok(None);
        }
        let data = self.boundary(SeekFrom::Data(start), start)?.min(size);
        if data > start {
            (self.position, self.span_end) = (data, data);
            return Ok(Some(Span::Hole { length: data - start }));
        }
        let end = self.boundary(SeekFrom::Hole(start), size)?.min(size);
        // Data that ends where it starts would never end: the file changes right now.
        self.span_end = if end > start { end } else { size };
        Ok(Some(Span::Data { offset: start, length: self.span_end - start }))
    }

    /// Fills `buffer` from the current data stretch; answers the bytes read, 0 at the stretch's end or where the file
    /// ends by now.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let left = usize::try_from(self.span_end - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let mut filled = 0;
        while filled < wanted {
            match pread(&self.fd, &mut buffer[filled..wanted], self.position) {
                Ok(0) => {
                    self.moved_end = Some("it became shorter");
                    self.span_end = self.position;
                    break;
                }
                Ok(length) => {
                    filled += length;
                    self.position += length as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(ReadError::unreadable("reading", self.position, error)),
            }
        }
        Ok(filled)
    }

    /// Compares the file with what it was at the opening.
    ///
    /// # Errors
    /// When its metadata can't be read any more.
    pub fn finish(self) -> Result<ReadOutcome, ReadError> {
        let position = self.position;
        let now = Stat::of(&self.fd).map_err(|error| ReadError::unreadable("reading its metadata", position, error))?;
        let (before, now) = (&self.opened.identity, &now.identity);
        Ok(if let Some(what) = self.moved_end {
            ReadOutcome::Changed(what)
        } else if now.size != before.size {
            ReadOutcome::Changed("its size changed")
        } else if now.modified_at != before.modified_at || now.changed_at != before.changed_at {
            ReadOutcome::Changed("it was changed")
        } else if position != before.size {
            ReadOutcome::Changed("not all of it was read")
        } else {
            ReadOutcome::Unchanged
        })
    }

    /// Where the next data or hole is; `dense` for a file that isn't sparse and where the file system can't tell.
    fn boundary(&mut self, wanted: SeekFrom, dense: u64) -> Result<u64, ReadError> {
        if !self.sparse {
            return Ok(dense);
        }
        match seek(&self.fd, wanted) {
            Ok(offset) => Ok(offset),
            // Nothing but a hole up to the end, or the file ends before by now, which `finish` notices.
            Err(Errno::NXIO) => Ok(self.opened.identity.size),
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => {
                self.sparse = false;
                Ok(dense)
            }
            Err(error) => Err(ReadError::unreadable("looking for holes", self.position, error)),
        }
    }

    /// Reads a byte behind the stated size: some file systems state 0 for files that have content, and an empty file
    /// is not what those are.
    fn look_past_the_end(&mut self) -> Result<(), ReadError> {
        loop {
            match pread(&self.fd, &mut [0u8; 1], self.position) {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    self.moved_end = Some("it has more bytes than its size says");
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(ReadError::unreadable("reading", self.position, error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::io::{Seek, Write};
    use std::path::Path;

    fn open(directory: &Path, name: &str) -> FileReader {
        let fd = File::open(directory).unwrap();
        let expected = Stat::at(&fd, name.as_bytes(), false).unwrap().identity;
        FileReader::open(&fd, name.as_bytes(), &expected).unwrap()
    }

    fn read_all(reader: &mut FileReader) -> (Vec<Span>, Vec<u8>) {
        let (mut spans, mut bytes) = (Vec::new(), Vec::new());
        let mut buffer = vec![0u8; 10_000];
        while let Some(span) = reader.next_span().unwrap() {
            spans.push(span);
            if let Span::Data { .. } = span {
                loop {
                    match reader.read(&mut buffer).unwrap() {
                        0 => break,
                        length => bytes.extend_from_slice(&buffer[..length]),
                    }
                }
            }
        }
        (spans, bytes)
    }

    #[test]
    fn a_plain_file_and_an_empty_one_read_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
        fs::write(directory.path().join("full"), &content).unwrap();
        fs::write(directory.path().join("empty"), b"").unwrap();
        let mut reader = open(directory.path(), "full");
        let (spans, bytes) = read_all(&mut reader);
        assert_eq!(spans, [Span::Data { offset: 0, length: 300_000 }]);
        assert_eq!(bytes, content);
        assert_eq!(reader.finish().unwrap(), ReadOutcome::Unchanged);

        let mut reader = open(directory.path(), "empty");
        assert_eq!(read_all(&mut reader), (vec![], vec![]));
        assert_eq!(reader.finish().unwrap(), ReadOutcome::Unchanged);
    }

    #[test]
    fn a_tebibyte_of_holes_is_told_and_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::create(directory.path().join("sparse")).unwrap();
        let size = 1u64 << 40;
        file.set_len(size).unwrap();
        file.seek(std::io::SeekFrom::Start(1 << 39)).unwrap();
        file.write_all(&[7; 4096]).unwrap();
        drop(file);
        let mut reader = open(directory.path(), "sparse");
        let (spans, bytes) = read_all(&mut reader);
        assert_eq!(reader.finish().unwrap(), ReadOutcome::Unchanged);
        let holes = spans.iter().filter(|span| matches!(span, Span::Hole { .. })).count();
        let total: u64 = spans
            .iter()
            .map(|span| match span {
                Span::Data { length, .. } | Span::Hole { length } => *length,
            })
            .sum();
        assert_eq!((holes, total), (2, size));
        assert!(bytes.len() < 1 << 20 && bytes.windows(4096).any(|window| window == [7; 4096]));
    }

    #[test]
    fn changes_while_reading_are_noticed_and_end() {
        type Change = fn(&Path);
        let changes: [(Change, bool); 4] = [
            (|path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(), true),
            (|path| OpenOptions::new().write(true).open(path).unwrap().set_len(20_000).unwrap(), false),
            (|path| OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap(), false),
            (|path| fs::write(path, vec![9u8; 100_000]).unwrap(), true),
        ];
        for (change, whole) in changes {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            fs::write(&path, vec![1u8; 100_000]).unwrap();
            // The kernel's clock for times is coarse: a change within one tick of it leaves them as they were.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mut reader = open(directory.path(), "file");
            reader.next_span().unwrap();
            assert_eq!(reader.read(&mut [0u8; 10_000]).unwrap(), 10_000);
            change(&path);
            let mut rest = vec![0u8; 200_000];
            let length = reader.read(&mut rest).unwrap();
            assert_eq!(length == 90_000, whole);
            assert_eq!(reader.next_span().unwrap(), None);
            assert!(matches!(reader.finish().unwrap(), ReadOutcome::Changed(_)));
        }
    }

    #[test]
    fn what_was_not_read_is_not_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), b"content").unwrap();
        let mut reader = open(directory.path(), "file");
        reader.next_span().unwrap();
        assert_eq!(reader.next_span().unwrap(), None);
        assert!(matches!(reader.finish().unwrap(), ReadOutcome::Changed(_)));
        assert!(matches!(open(directory.path(), "file").finish().unwrap(), ReadOutcome::Changed(_)));
    }

    #[test]
    fn content_behind_a_stated_size_of_zero_is_not_taken_for_empty() {
        let mut reader = open(Path::new("/proc/self"), "status");
        assert_eq!(reader.identity().size, 0);
        assert_eq!(reader.next_span().unwrap(), None);
        assert!(matches!(reader.finish().unwrap(), ReadOutcome::Changed(_)));
    }

    #[test]
    fn what_replaced_the_file_is_refused_unless_it_is_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        let expected = Identity::default();
        rustix::fs::mkfifoat(&fd, "fifo", rustix::fs::Mode::RUSR).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        for name in ["fifo", "link", "socket", "directory"] {
            let refused = FileReader::open(&fd, name.as_bytes(), &expected);
            assert!(matches!(refused, Err(ReadError::Replaced)), "{name}");
        }
        let gone = FileReader::open(&fd, b"gone", &expected).unwrap_err();
        assert_eq!(gone.into_issue(b"a/gone").kind, IssueKind::Vanished);
    }

    #[test]
    fn refresh_describes_the_file_that_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"old").unwrap();
        let mut walk = super::super::Walk::new(&[directory.path().to_path_buf()], Default::default()).unwrap();
        let mut entry = walk
            .find_map(|event| match event {
                super::super::Event::Leaf(entry) => Some(entry),
                _ => None,
            })
            .unwrap();
        let held = walk.directory().unwrap();
        fs::write(directory.path().join("new"), b"newer").unwrap();
        fs::set_permissions(directory.path().join("new"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        let mut reader = FileReader::open(&held, &entry.node.name, &entry.identity).unwrap();
        assert_ne!(*reader.identity(), entry.identity);
        assert_eq!(reader.refresh(&mut entry, &mut XattrReader::default()), None);
        assert_eq!(entry.identity, *reader.identity());
        assert_eq!(entry.node.mode, 0o600);
        assert!(matches!(entry.node.kind, NodeKind::File { size: 5, .. }));
    }
}

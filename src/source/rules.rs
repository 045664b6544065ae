//! Which entries a walk leaves out: patterns, sizes, markers and file systems.
//!
//! Rules decide about what lies inside a source, never about a source itself: what was named is captured. Patterns
//! have the syntax of `.gitignore`; those of the command line come before those of ignore files, and among ignore
//! files the deeper directory's, then the later in the list of names, decides. A line of an ignore file that can't be
//! understood, and an ignore file that can't be read, leave nothing out: too much is captured, never too little.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{CWD, FileType, OFlags};

use super::listing::Names;
use super::metadata::{Stat, open_quietly};
use super::patterns::PatternBuilder;
use super::sources::SourceError;
use super::{Identity, Omission};

/// The tag of a cache directory and the bytes it begins with (<https://bford.info/cachedir/>).
const CACHE_TAG: (&[u8], &[u8]) = (b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");
/// Larger ignore files are not read.
const IGNORE_FILE_BYTES_MAX: u64 = 1 << 20;
/// Larger files of exclude patterns are refused.
const PATTERN_FILE_BYTES_MAX: u64 = 64 << 20;

/// What a walk leaves out and what it records.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// Patterns in the syntax of `.gitignore`, as [`PatternBuilder`] takes them: relative to the snapshot's root, or
    /// with its absolute path before them.
    pub excludes: Vec<OsString>,
    /// Files of such patterns, one a line.
    pub exclude_from: Vec<PathBuf>,
    /// Names of files whose patterns hold for the directory they lie in and below, such as `.gitignore`.
    pub ignore_files: Vec<OsString>,
    /// Regular files of more than so many bytes are left out.
    pub exclude_larger_than: Option<u64>,
    /// Of a directory that holds a file of such a name, beginning with the given bytes if any, only the directory
    /// and that file are captured.
    pub exclude_if_present: Vec<(OsString, Option<Vec<u8>>)>,
    /// The same for directories tagged by a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Of a directory on another file system than its parent, only the directory is captured.
    pub one_file_system: bool,
    /// Whether extended attributes, ACLs among them, are recorded. On by default.
    pub xattrs: bool,
    /// Further sources, of which one that isn't there is told as not captured: who listed them did so some time before.
    pub listed: Vec<PathBuf>,
}

impl Default for WalkOptions {
    fn default() -> Self {
        WalkOptions {
            excludes: Vec::new(),
            exclude_from: Vec::new(),
            ignore_files: Vec::new(),
            exclude_larger_than: None,
            exclude_if_present: Vec::new(),
            exclude_caches: false,
            one_file_system: false,
            xattrs: true,
            listed: Vec::new(),
        }
    }
}

/// A file whose presence says that its directory's contents are to be left out.
#[derive(Debug)]
struct Marker {
    name: Vec<u8>,
    header: Vec<u8>,
    why: Omission,
}

/// The patterns of one ignore file, in force below the directory that holds it.
#[derive(Debug)]
struct Layer {
    /// How many directories were entered when it was read.
    depth: usize,
    /// Bytes of a path that lead to what its patterns are relative to.
    skip: usize,
    patterns: Gitignore,
}

/// The rules of one walk.
#[derive(Debug)]
pub(super) struct Rules {
    patterns: Gitignore,
    layers: Vec<Layer>,
    markers: Vec<Marker>,
    ignore_files: Vec<Vec<u8>>,
    larger_than: Option<u64>,
    pub(super) one_file_system: bool,
    /// Device and inode of directories that the backup writes to.
    own: Vec<(u64, u64)>,
}

/// For patterns of a walk with this root. One that was named by way of a link is also what the link leads to.
pub(super) fn pattern_builder(root: &Path) -> PatternBuilder {
    let led_to = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    PatternBuilder::new(&[root, &led_to])
}

impl Rules {
    /// # Errors
    /// On a pattern that can't be understood and on a file of patterns that can't be read.
    pub(super) fn new(options: &WalkOptions, root: &Path) -> Result<Rules, SourceError> {
        let mut builder = pattern_builder(root);
        let refuse = |line: &[u8], origin: String, reason| SourceError::Pattern {
            pattern: String::from_utf8_lossy(line).into_owned(),
            origin,
            reason,
        };
        for pattern in options.excludes.iter().map(|pattern| pattern.as_bytes()) {
            builder.add(pattern).map_err(|reason| refuse(pattern, String::new(), reason))?;
        }
        for path in &options.exclude_from {
            let error = |error| SourceError::PatternFile { path: path.clone(), error };
            let mut text = Vec::new();
            let file = File::open(path).map_err(error)?;
            file.take(PATTERN_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(error)?;
            if text.len() as u64 > PATTERN_FILE_BYTES_MAX {
                return Err(error(std::io::Error::from(std::io::ErrorKind::FileTooLarge)));
            }
            for (number, line) in lines(&text).enumerate() {
                builder
                    .add_line(line)
                    .map_err(|reason| refuse(line, format!(" in {}, line {}", path.display(), number + 1), reason))?;
            }
        }
        let patterns = builder.build().map_err(|reason| refuse(b"all together", String::new(), reason))?;
        let given = options.exclude_if_present.iter().map(|(name, header)| Marker {
            name: name.as_bytes().to_vec(),
            header: header.clone().unwrap_or_default(),
            why: Omission::MarkerPresent,
        });
        let cache = options.exclude_caches.then(|| Marker {
            name: CACHE_TAG.0.to_vec(),
            header: CACHE_TAG.1.to_vec(),
            why: Omission::CacheDirectory,
        });
        Ok(Rules {
            patterns,
            layers: Vec::new(),
            markers: given.chain(cache).collect(),
            ignore_files: options.ignore_files.iter().map(|name| name.as_bytes().to_vec()).collect(),
            larger_than: options.exclude_larger_than,
            one_file_system: options.one_file_system,
            own: Vec::new(),
        })
    }

    /// Has the contents of these directories left out; one that isn't there can't be met.
    pub(super) fn leave_out(&mut self, own: &[PathBuf]) {
        let stats = own.iter().filter_map(|path| Stat::at(CWD, path.as_os_str().as_bytes(), true).ok());
        self.own = stats.map(|stat| (stat.identity.device, stat.identity.inode)).collect();
    }

    /// Has the contents of directories left out whose file of this name begins so: regions, by whichever way they are
    /// reached. Before all other markers: theirs would have that file captured.
    pub(super) fn leave_out_marked(&mut self, name: &[u8], beginning: &[u8]) {
        let marker = Marker { name: name.to_vec(), header: beginning.to_vec(), why: Omission::OwnRepository };
        self.markers.insert(0, marker);
    }

    /// Whether this is one of the directories that the backup writes to.
    pub(super) fn is_own(&self, identity: &Identity) -> bool {
        self.own.contains(&(identity.device, identity.inode))
    }

    /// Whether a pattern leaves out the entry at `path` (from the snapshot's root).
    pub(super) fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        match self.patterns.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
        for layer in self.layers.iter().rev() {
            match layer.patterns.matched(Path::new(OsStr::from_bytes(&path[layer.skip..])), is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }

    /// Whether a file of this size is left out.
    pub(super) fn is_too_large(&self, stat: &Stat) -> bool {
        stat.kind == FileType::RegularFile && self.larger_than.is_some_and(|limit| stat.identity.size > limit)
    }

    /// The markers that a directory holds and what they say.
    pub(super) fn markers<'a>(&'a self, directory: impl AsFd, names: &Names) -> Option<(Omission, Vec<&'a [u8]>)> {
        let mut present = self
            .markers
            .iter()
            .filter(|marker| names.contains(&marker.name))
            .filter(|marker| marker.header.is_empty() || begins_with(&directory, &marker.name, &marker.header));
        let first = present.next()?;
        if first.why == Omission::OwnRepository {
            return Some((first.why, Vec::new()));
        }
        Some((first.why, std::iter::once(first).chain(present).map(|marker| &marker.name[..]).collect()))
    }

    /// Puts the ignore files of a directory in force; `path` is its own, `depth` counts the directories entered.
    pub(super) fn enter(&mut self, directory: impl AsFd, names: &Names, path: &[u8], depth: usize) {
        for name in &self.ignore_files {
            if !names.contains(name) {
                continue;
            }
            let Some(text) = read_small(&directory, name, IGNORE_FILE_BYTES_MAX) else { continue };
            let mut builder = GitignoreBuilder::new("");
            for line in lines(&text).filter_map(|line| std::str::from_utf8(line).ok()) {
                // A bad line leaves nothing out.
                let _ = builder.add_line(None, line);
            }
            if let Ok(patterns) = builder.build() {
                let skip = if path.is_empty() { 0 } else { path.len() + 1 };
                self.layers.push(Layer { depth, skip, patterns });
            }
        }
    }

    /// Ends the force of what was put in force at `depth`.
    pub(super) fn leave(&mut self, depth: usize) {
        while self.layers.last().is_some_and(|layer| layer.depth >= depth) {
            self.layers.pop();
        }
    }
}

/// Lines without their ends, of which a carriage return is a part.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn begins_with(directory: impl AsFd, name: &[u8], header: &[u8]) -> bool {
    open_regular(directory, name).is_some_and(|(file, _)| {
        let mut start = Vec::with_capacity(header.len());
        file.take(header.len() as u64).read_to_end(&mut start).is_ok() && start == header
    })
}

fn read_small(directory: impl AsFd, name: &[u8], bytes_max: u64) -> Option<Vec<u8>> {
    let (file, size) = open_regular(directory, name)?;
    let mut text = Vec::new();
    (size <= bytes_max && file.take(bytes_max).read_to_end(&mut text).is_ok()).then_some(text)
}

fn open_regular(directory: impl AsFd, name: &[u8]) -> Option<(File, u64)> {
    // Without NONBLOCK a fifo of this name would hold up the walk.
    let fd = open_quietly(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).ok()?;
    let stat = Stat::of(&fd).ok()?;
    (stat.kind == FileType::RegularFile).then(|| (File::from(fd), stat.identity.size))
}

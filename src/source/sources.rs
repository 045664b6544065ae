//! What was asked to be backed up: source paths, resolved to one root and a tree of names below it.
//!
//! The root is the deepest directory that contains every source path: one directory is its own root; one file has
//! its parent as root, holding only it; several have their deepest common directory, and the directories between
//! are captured with their metadata and nothing but what leads to a source.
//!
//! Symbolic links: a single source that is a link to a directory is followed, for the root only. As one of
//! several, or as a link to anything else, it is stored as the link it is. Links above a source are followed, as any
//! path does; but a source inside another one may not lie behind a link there, for the link itself is what is stored
//! at that place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, RawDir, accessat, openat};
use rustix::io::Errno;

use super::metadata::Stat;

/// Paths are opened in pieces of at most this many bytes, below the kernel's 4,096.
const PIECE_BYTES_MAX: usize = 3500;

/// A source that can't be walked as asked; nothing was captured and no snapshot may be saved.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No path at all.
    #[error("no source path was given")]
    NoSources,
    /// There is nothing at this path.
    #[error("source {path} doesn't exist")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is there and can't be read.
    #[error("source {path} can't be read: {error}")]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// `..` behind a symbolic link: reading the path by its text and following it lead to different places.
    #[error("source {path} is ambiguous: its `..` follows a symbolic link; give the path without `..`")]
    Ambiguous {
        /// The path as given.
        path: PathBuf,
    },
    /// The path runs through a symbolic link that another source stores as a link.
    #[error("source {path} lies behind the symbolic link {link}, inside another source; give the place it leads to")]
    BehindSymlink {
        /// The source.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// The current directory, which a relative source starts from, isn't known.
    #[error("the current directory can't be determined: {error}")]
    WorkingDirectory {
        /// What the system said.
        error: io::Error,
    },
    /// An exclude pattern that can't be understood.
    #[error("exclude pattern {pattern:?}{origin}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// ` in <file>, line <n>`, or empty for one from the command line.
        origin: String,
        /// Why.
        reason: String,
    },
    /// A file of exclude patterns that can't be read.
    #[error("file of exclude patterns {path} can't be read: {error}")]
    PatternFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Extended attributes are read through `/proc`.
    #[error("/proc isn't mounted, so extended attributes can't be read; mount it, or leave them out expressly")]
    ProcMissing,
}

impl SourceError {
    fn from_errno(path: &Path, error: Errno) -> Self {
        let path = path.to_path_buf();
        match error {
            Errno::NOENT | Errno::NOTDIR => SourceError::Missing { path },
            error => SourceError::Unreadable { path, error: error.into() },
        }
    }
}

/// Where in the tree of source names a directory stands.
pub(super) type Place = usize;

/// The root's [`Place`].
pub(super) const ROOT: Place = 0;

#[derive(Debug, Default)]
struct Branch {
    children: BTreeMap<Vec<u8>, Place>,
    is_source: bool,
}

/// The resolved sources.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) root: PathBuf,
    /// Absolute, by their text, in order.
    pub(super) paths: Vec<PathBuf>,
    branches: Vec<Branch>,
    pub(super) empty: Vec<PathBuf>,
    /// Listed ones that aren't there: from the root where they would be below it, else absolute.
    pub(super) missing: Vec<Vec<u8>>,
}

impl Sources {
    /// Resolves `paths` and makes sure that each can be read. Of `listed` ones some may be missing, as long as there is
    /// any source at all.
    ///
    /// # Errors
    /// Names the first path that is missing, unreadable or ambiguous.
    pub(super) fn resolve(paths: &[PathBuf], listed: &[PathBuf]) -> Result<Sources, SourceError> {
        let mut found = BTreeMap::new();
        let mut gone = Vec::new();
        let all = paths.iter().map(|path| (path, false)).chain(listed.iter().map(|path| (path, true)));
        for (path, may_be_missing) in all {
            let looked = absolute(path).and_then(|names| match stat(&names) {
                Ok(stat) => Ok((names, stat.kind)),
                Err(error) => Err(SourceError::from_errno(path, error)),
            });
            match looked {
                Ok((names, kind)) => drop(found.insert(names, (path, kind))),
                Err(SourceError::Missing { .. }) if may_be_missing => gone.push(path),
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            let missing = |path: &&PathBuf| SourceError::Missing { path: path.to_path_buf() };
            return Err(gone.first().map_or(SourceError::NoSources, missing));
        }
        if found.len() == 1
            && let Some((names, (_, kind))) = found.iter_mut().next()
            && *kind == FileType::Symlink
            && open_directory(names, OFlags::PATH).is_ok()
        {
            *kind = FileType::Directory;
        }
        let mut empty = Vec::new();
        for (names, (path, kind)) in &found {
            if is_empty_directory(names, *kind).map_err(|error| SourceError::from_errno(path, error))? {
                empty.push((*path).clone());
            }
        }

        let mut containers = found.iter().map(|(names, (_, kind))| match kind {
            FileType::Directory => &names[..],
            _ => &names[..names.len().saturating_sub(1)],
        });
        let mut root = containers.next().unwrap_or_default();
        for container in containers {
            let common = root.iter().zip(container).take_while(|(a, b)| a == b).count();
            root = &root[..common];
        }
        let paths = found.keys().map(|names| to_path(names)).collect();
        let missing = gone.into_iter().map(|path| place_of(path, root)).collect();
        let mut sources = Sources { root: to_path(root), paths, branches: vec![Branch::default()], empty, missing };
        for (names, (path, _)) in &found {
            sources.add(root, names, path)?;
        }
        Ok(sources)
    }

    fn add(&mut self, root: &[Vec<u8>], names: &[Vec<u8>], path: &Path) -> Result<(), SourceError> {
        let mut place = ROOT;
        // In order of names, a source that contains this one was added before.
        let mut inside = self.branches[ROOT].is_source;
        for depth in root.len()..names.len() {
            if inside && depth > root.len() {
                let link = &names[..depth];
                let stat = stat(link).map_err(|error| SourceError::from_errno(path, error))?;
                if stat.kind == FileType::Symlink {
                    return Err(SourceError::BehindSymlink { path: path.to_path_buf(), link: to_path(link) });
                }
            }
            let next = self.branches.len();
            place = *self.branches[place].children.entry(names[depth].clone()).or_insert(next);
            if place == next {
                self.branches.push(Branch::default());
            }
            inside |= self.branches[place].is_source;
        }
        self.branches[place].is_source = true;
        Ok(())
    }

    /// The place of `name` below `place`, if a source is there or further down.
    pub(super) fn child(&self, place: Place, name: &[u8]) -> Option<Place> {
        self.branches[place].children.get(name).copied()
    }

    /// The names below `place` that lead to sources.
    pub(super) fn names(&self, place: Place) -> impl Iterator<Item = &[u8]> {
        self.branches[place].children.keys().map(Vec::as_slice)
    }

    /// True if a source was named at exactly this place.
    pub(super) fn is_source(&self, place: Place) -> bool {
        self.branches[place].is_source
    }
}

/// Splits a path into names from `/`, taking it at its text: symbolic links aren't resolved.
fn absolute(path: &Path) -> Result<Vec<Vec<u8>>, SourceError> {
    if path.as_os_str().is_empty() {
        return Err(SourceError::Missing { path: path.to_path_buf() });
    }
    let whole = match path.is_absolute() {
        true => path.to_path_buf(),
        false => std::env::current_dir().map_err(|error| SourceError::WorkingDirectory { error })?.join(path),
    };
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut climbs = false;
    for component in whole.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir => {
                climbs = true;
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if climbs {
        let there =
            Stat::at(CWD, whole.as_os_str().as_bytes(), true).map_err(|error| SourceError::from_errno(path, error))?;
        let by_text = Stat::at(CWD, to_path(&names).as_os_str().as_bytes(), true);
        if !by_text.is_ok_and(|stat| stat.is_same(&there.identity)) {
            return Err(SourceError::Ambiguous { path: path.to_path_buf() });
        }
    }
    Ok(names)
}

/// A path below `root` from there, another one as it is.
fn place_of(path: &Path, root: &[Vec<u8>]) -> Vec<u8> {
    let given = path.as_os_str().as_bytes().to_vec();
    // With `..` in it nobody can say any more where it led.
    let Ok(names) = absolute(path) else { return given };
    match names.strip_prefix(root) {
        Some(below) if !below.is_empty() => below.join(&b'/'),
        _ => to_path(&names).into_os_string().into_vec(),
    }
}

fn to_path(names: &[Vec<u8>]) -> PathBuf {
    let mut bytes = Vec::new();
    for name in names {
        bytes.push(b'/');
        bytes.extend_from_slice(name);
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn stat(names: &[Vec<u8>]) -> Result<Stat, Errno> {
    match names.split_last() {
        None => Stat::at(CWD, b"/", false),
        Some((name, parents)) => Stat::at(open_directory(parents, OFlags::PATH)?, name, false),
    }
}

/// Opens the directory at `names` from `/`, in pieces, so that its path may be longer than the kernel takes.
pub(super) fn open_directory(names: &[Vec<u8>], flags: OFlags) -> Result<OwnedFd, Errno> {
    let always = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut piece: Vec<u8> = b"/".to_vec();
    for name in names {
        if piece.len() + name.len() > PIECE_BYTES_MAX {
            let through = OFlags::PATH | always;
            at = Some(match &at {
                None => openat(CWD, &piece[..], through, Mode::empty())?,
                Some(directory) => openat(directory, &piece[..], through, Mode::empty())?,
            });
            piece.clear();
        }
        piece.extend_from_slice(name);
        piece.push(b'/');
    }
    match &at {
        None => openat(CWD, &piece[..], flags | always, Mode::empty()),
        Some(directory) => openat(directory, &piece[..], flags | always, Mode::empty()),
    }
}

/// [`open_directory`] for an absolute path without `.` and `..`.
pub(super) fn open_directory_path(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let names: Vec<Vec<u8>> = path.iter().skip(1).map(OsStr::as_bytes).map(<[u8]>::to_vec).collect();
    open_directory(&names, flags)
}

/// Whether a source is a directory without entries.
///
/// # Errors
/// When the source, of whichever kind, can't be read.
fn is_empty_directory(names: &[Vec<u8>], kind: FileType) -> Result<bool, Errno> {
    match kind {
        FileType::Directory => {
            let directory = open_directory(names, OFlags::RDONLY)?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut listing = RawDir::new(directory, &mut buffer);
            while let Some(entry) = listing.next() {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        FileType::RegularFile => {
            let (name, parents) = names.split_last().ok_or(Errno::NOENT)?;
            let parent = open_directory(parents, OFlags::PATH)?;
            accessat(&parent, &name[..], Access::READ_OK, AtFlags::EACCESS)?;
            Ok(false)
        }
        _ => Ok(false),
    }
}

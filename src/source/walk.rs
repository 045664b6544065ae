//! The walk: a source's entries in the order in which its trees are written.
//!
//! Depth first, names in raw-byte order within a directory, directories and other entries interleaved. Guarantees:
//! every listed name comes out as exactly one of `Enter`, `Leaf`, `Omitted` or `Failed`; a directory of which a part
//! could not be read, or is left out, comes out as `Enter` with the `Failed` or `Omitted` for its contents right behind
//! it. Symbolic links are never followed below the root, and everything is done relative to open directories, so that
//! neither the length of a path nor a directory renamed meanwhile leads elsewhere. Content is not read.
//!
//! Memory holds the names of the directories on the way from the root to the current one, and for each inode of which
//! not all names were met yet, its first path. At most [`DIRECTORIES_OPEN_MAX`] directories are open, plus those
//! that the caller holds through [`Walk::directory`].
//!
//! Called by the backup.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::ahead::{Ahead, Found, Ticket, first_stats};
use super::listing::{Names, Scratch};
use super::metadata::{Owners, Stat, XattrReader, Xattrs, open_quietly};
use super::rules::{Rules, WalkOptions, pattern_builder};
use super::sources::{Place, ROOT, SourceError, Sources, open_directory_path};
use super::{Entry, Event, Identity, Omission, XattrsRead};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Node, NodeKind, Timestamp};
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, SYMLINK_BYTES_MAX, TREE_DEPTH_MAX};
use crate::report::{Issue, IssueKind};

/// Directories that a walk keeps open: the root and the deepest ones.
pub const DIRECTORIES_OPEN_MAX: usize = 64;
/// Of directories deeper than this nothing is read ahead: whatever waits for that holds its parent open.
const AHEAD_DEPTH_MAX: usize = 32;

/// How much of a directory belongs to the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    /// Above the sources: only what leads to them.
    Above,
    /// All that the rules let through.
    Whole,
    /// Inside a source, but left out: only markers and what leads to further sources.
    Remnant,
}

/// A directory that the walk is in.
#[derive(Debug)]
struct Frame {
    /// Closed while too many deeper ones are open.
    fd: Option<Arc<OwnedFd>>,
    identity: Identity,
    names: Names,
    /// The next name's index.
    next: usize,
    /// Bytes of the walk's path that are this directory's.
    path_length: usize,
    cover: Cover,
    /// Its place among the names that lead to sources, if it has one.
    place: Option<Place>,
    /// What its first entries are, where that was read ahead.
    stats: Vec<Stat>,
    /// Which of its directories are read ahead, by the names' indices.
    tickets: VecDeque<(usize, Ticket)>,
    met: Met,
}

/// What became of what was found in a directory and below.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    /// Something other than a directory was captured, or should have been.
    left: bool,
    /// Something was left out by a pattern or for its size.
    taken: bool,
}

/// An open directory, and what is in it where that was read ahead.
#[derive(Debug)]
struct Opened {
    fd: OwnedFd,
    stat: Stat,
    names: Option<Names>,
    xattrs: Option<Xattrs>,
    stats: Vec<Stat>,
}

/// An inode with several names of which some are still to come.
#[derive(Debug)]
struct Linked {
    names_left: u32,
    first: Vec<u8>,
    /// As first seen: an inode may be freed and given to another file while the walk goes on.
    size: u64,
    modified_at: Timestamp,
}

/// Walks one or more sources; see the module's documentation for the order and the guarantees.
#[derive(Debug)]
pub struct Walk {
    /// What [`Walk::new`] was given.
    given: (Vec<PathBuf>, WalkOptions),
    /// Directories that the backup writes to.
    own: Vec<PathBuf>,
    /// How the file that marks a region begins.
    region_marker: Option<(Vec<u8>, Vec<u8>)>,
    sources: Sources,
    rules: Rules,
    root_fd: Option<OwnedFd>,
    frames: Vec<Frame>,
    /// Path of the entry at hand, from the snapshot's root.
    path: Vec<u8>,
    /// Events found and not handed out yet.
    pending: VecDeque<Event>,
    links: HashMap<(u64, u64), Linked>,
    owners: Owners,
    xattrs: Option<XattrReader>,
    /// Those of regular files are left to whoever opens them.
    leaves_file_xattrs: bool,
    ahead: Option<Ahead>,
    ahead_threads: usize,
    scratch: Scratch,
    emptied: Vec<PathBuf>,
}

impl Walk {
    /// Resolves `paths` to a root and prepares the walk; see [`Walk::root`].
    ///
    /// # Errors
    /// When a source is missing, unreadable or ambiguous, or an exclude pattern can't be used. No snapshot may be
    /// saved then.
    pub fn new(paths: &[PathBuf], options: WalkOptions) -> Result<Walk, SourceError> {
        let sources = Sources::resolve(paths, &options.listed)?;
        let rules = Rules::new(&options, &sources.root)?;
        let access = if sources.is_source(ROOT) { OFlags::RDONLY } else { OFlags::PATH };
        let root_fd = open_directory_path(&sources.root, access)
            .map_err(|error| SourceError::Unreadable { path: sources.root.clone(), error: error.into() })?;
        if options.xattrs && !XattrReader::is_usable(&root_fd) {
            return Err(SourceError::ProcMissing);
        }
        let xattrs = options.xattrs;
        Ok(Walk {
            given: (paths.to_vec(), options),
            own: Vec::new(),
            region_marker: None,
            sources,
            rules,
            root_fd: Some(root_fd),
            frames: Vec::new(),
            path: Vec::new(),
            pending: VecDeque::new(),
            links: HashMap::new(),
            owners: Owners::default(),
            xattrs: xattrs.then(XattrReader::default),
            leaves_file_xattrs: false,
            ahead: None,
            ahead_threads: 0,
            scratch: Scratch::new(),
            emptied: Vec::new(),
        })
    }

    /// A walk of the same sources from their beginning, as they are now.
    ///
    /// # Errors
    /// As [`Walk::new`].
    pub fn again(&self) -> Result<Walk, SourceError> {
        let mut again = Walk::new(&self.given.0, self.given.1.clone())?;
        again.leave_out_own(self.own.clone());
        if let Some((name, beginning)) = &self.region_marker {
            again.leave_out_regions(name, beginning);
        }
        again.leaves_file_xattrs = self.leaves_file_xattrs;
        again.read_ahead(self.ahead_threads);
        Ok(again)
    }

    /// Has so many threads open and list directories before the walk comes to them. What comes out, and in which
    /// order, is the same.
    pub fn read_ahead(&mut self, threads: usize) {
        self.ahead_threads = threads;
        self.ahead = (threads > 0).then(|| Ahead::new(threads, self.xattrs.is_some()));
    }

    /// Leaves the extended attributes of regular files to whoever opens them, by [`FileReader`] or
    /// [`Walk::read_xattrs`]: reading them by name takes as long as all else of a walk.
    ///
    /// [`FileReader`]: super::FileReader
    pub fn leave_file_xattrs(&mut self) {
        self.leaves_file_xattrs = self.xattrs.is_some();
    }

    /// Reads the extended attributes that were left out of the last [`Event::Leaf`]; what could not be read of them
    /// comes back as an issue.
    pub fn read_xattrs(&mut self, entry: &mut Entry) -> Option<Issue> {
        let reader = self.xattrs.as_mut().filter(|_| entry.xattrs == XattrsRead::Later)?;
        let directory = self.frames.last().and_then(|frame| frame.fd.as_ref())?;
        entry.take_xattrs(reader.read_at(entry.identity.device, directory.as_fd(), &entry.node.name))
    }

    /// Of directories that the backup itself writes to, met by whichever path, only the directory is captured, or
    /// each run would store what the run before has stored. One that is named as a source is captured whole.
    pub fn leave_out_own(&mut self, directories: Vec<PathBuf>) {
        self.rules.leave_out(&directories);
        self.own = directories;
    }

    /// The same for directories whose file `name` begins with these bytes: regions that are written to by another way
    /// than their path, such as a server's on this machine.
    pub fn leave_out_regions(&mut self, name: &[u8], beginning: &[u8]) {
        self.rules.leave_out_marked(name, beginning);
        self.region_marker = Some((name.to_vec(), beginning.to_vec()));
    }

    /// The snapshot's root: the deepest directory that contains every source, absolute.
    pub fn root(&self) -> &Path {
        &self.sources.root
    }

    /// The sources, absolute, each once.
    pub fn source_paths(&self) -> &[PathBuf] {
        &self.sources.paths
    }

    /// Whether an exclude pattern leads, by a slash before its end, to where the root holds nothing now.
    pub fn leads_astray(&self, pattern: &str) -> bool {
        let first = pattern_builder(&self.sources.root).leads_to(pattern);
        first.is_some_and(|first| {
            let found = std::fs::symlink_metadata(self.sources.root.join(first));
            found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        })
    }

    /// Whether an exclude pattern can name nothing in any source, whatever they come to hold.
    pub fn leads_into_no_source(&self, pattern: &str) -> bool {
        let builder = pattern_builder(&self.sources.root);
        !self.sources.paths.iter().any(|source| {
            let below = source.strip_prefix(&self.sources.root).unwrap_or(Path::new(""));
            let names: Vec<&[u8]> = below.iter().map(OsStrExt::as_bytes).collect();
            builder.leads_into(pattern, &names)
        })
    }

    /// The sources that were directories without any entry when the walk was made; perhaps a file system isn't mounted.
    pub fn empty_sources(&self) -> &[PathBuf] {
        &self.sources.empty
    }

    /// The sources gone through so far of which patterns and sizes left nothing but directories.
    pub fn emptied_sources(&self) -> &[PathBuf] {
        &self.emptied
    }

    /// The directory that holds the entry of the last [`Event::Leaf`], for opening the file by its name there, from any
    /// thread. `None` before the first event and after the last.
    pub fn directory(&self) -> Option<Arc<OwnedFd>> {
        self.frames.last().and_then(|frame| frame.fd.clone())
    }

    fn start(&mut self, fd: OwnedFd) {
        let stat = match Stat::of(&fd) {
            Ok(stat) => stat,
            Err(error) => return self.fail(IssueKind::Unreadable, format!("reading its metadata: {error}")),
        };
        let cover = if self.sources.is_source(ROOT) { Cover::Whole } else { Cover::Above };
        let opened = Opened { fd, stat, names: None, xattrs: None, stats: Vec::new() };
        self.enter(opened, 0, cover, Some(ROOT), None, true);
        for subject in std::mem::take(&mut self.sources.missing) {
            let detail = "it was listed, and isn't there".to_owned();
            self.pending.push_back(Event::Failed(Issue { kind: IssueKind::Vanished, subject, detail }));
        }
    }

    /// Deals with the next name of the innermost directory; false once nothing is left.
    fn step(&mut self) -> bool {
        let depth = self.frames.len();
        let Some(frame) = self.frames.last_mut() else { return false };
        self.path.truncate(frame.path_length);
        let Some(name) = frame.names.get(frame.next) else {
            self.leave();
            return true;
        };
        if frame.path_length > 0 {
            self.path.push(b'/');
        }
        let name_start = self.path.len();
        self.path.extend_from_slice(name);
        let index = frame.next;
        frame.next += 1;
        let known = frame.stats.get(index).copied();
        let ahead = match frame.tickets.front() {
            Some((at, ticket)) if *at == index => Some(*ticket),
            _ => None,
        };
        if ahead.is_some() {
            frame.tickets.pop_front();
        }

        let place = frame.place.and_then(|place| self.sources.child(place, name));
        let cover = frame.cover;
        let parent_device = frame.identity.device;
        let Some(directory) = frame.fd.clone() else {
            // `leave` reopened it, or reported that it can't be and used up its names.
            self.fail(IssueKind::Unreadable, "its directory was closed".into());
            return true;
        };
        if name.len() > NAME_BYTES_MAX || self.path.len() > PATH_BYTES_MAX || depth > TREE_DEPTH_MAX {
            self.fail(IssueKind::Unreadable, "its name, path or depth is over the format's limit".into());
            return true;
        }

        let is_source = place.is_some_and(|place| self.sources.is_source(place));
        let follow = cover == Cover::Above && !is_source;
        match known.map_or_else(|| Stat::at(&*directory, &self.path[name_start..], follow), Ok) {
            Err(error) => self.fail_errno(error, "reading its metadata"),
            Ok(stat) if stat.is_directory() => {
                self.directory_met(&directory, stat, name_start, place, is_source, cover, parent_device, ahead);
            }
            Ok(_) if follow => self.fail(IssueKind::Vanished, "it is no directory any more".into()),
            Ok(stat) => self.leaf_met(&directory, stat, name_start, !is_source && cover == Cover::Whole),
        }
        true
    }

    #[expect(clippy::too_many_arguments, reason = "all of it describes one entry, and only `step` calls")]
    fn directory_met(
        &mut self,
        parent: &OwnedFd,
        mut stat: Stat,
        name_start: usize,
        place: Option<Place>,
        is_source: bool,
        parent_cover: Cover,
        parent_device: u64,
        ahead: Option<Ticket>,
    ) {
        let ruled = parent_cover == Cover::Whole && !is_source;
        let mut why = None;
        if ruled && self.rules.excludes(&self.path, true) {
            why = Some(Omission::Excluded);
            if place.is_none() {
                return self.omit(Omission::Excluded);
            }
        }
        let closed = |stat: &Stat, rules: &Rules| match ruled {
            true if rules.is_own(&stat.identity) => Some(Omission::OwnRepository),
            true if rules.one_file_system && stat.identity.device != parent_device => Some(Omission::OtherFileSystem),
            _ => None,
        };
        if let Some(omission) = closed(&stat, &self.rules) {
            why = Some(omission);
            if place.is_none() {
                // Not even opened: that could mount something, or wait for a server.
                let xattrs = self.xattrs_at(&stat, parent, name_start);
                self.directory_event(&stat, name_start, xattrs);
                self.omit(omission);
                self.pending.push_back(Event::Leave);
                return;
            }
        }
        let mut cover = match (is_source, parent_cover) {
            (true, _) => Cover::Whole,
            (false, cover) => cover,
        };
        if why.is_some() {
            cover = Cover::Remnant;
        }
        let follow = parent_cover == Cover::Above && !is_source;
        let found = ahead.and_then(|ticket| self.ahead.as_ref()?.take(ticket));
        let opened = match found.map(|found| *found) {
            Some(Found { fd, stat, names, xattrs, stats }) => {
                Ok(Opened { fd, stat, names: Some(names), xattrs, stats })
            }
            None => open_below(parent, &self.path[name_start..], cover, follow).and_then(|fd| {
                let stat = Stat::of(&fd)?;
                Ok(Opened { fd, stat, names: None, xattrs: None, stats: Vec::new() })
            }),
        };
        match opened {
            Ok(opened) => {
                // What is open counts, should another directory have come to this name, or one been mounted on it.
                stat = opened.stat;
                if why.is_none()
                    && let Some(omission) = closed(&stat, &self.rules)
                {
                    (why, cover) = (Some(omission), Cover::Remnant);
                }
                self.enter(opened, name_start, cover, place, why, is_source);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.fail(IssueKind::Vanished, "it disappeared before it was opened".into());
            }
            Err(error) => {
                let xattrs = self.xattrs_at(&stat, parent, name_start);
                self.directory_event(&stat, name_start, xattrs);
                self.fail(IssueKind::Unreadable, format!("opening the directory: {error}"));
                self.pending.push_back(Event::Leave);
            }
        }
    }

    /// Enters an open directory: its names, what of them is left out, its own entry.
    fn enter(
        &mut self,
        opened: Opened,
        name_start: usize,
        mut cover: Cover,
        place: Option<Place>,
        mut why: Option<Omission>,
        is_source: bool,
    ) {
        let Opened { fd, stat, names: listed, xattrs, mut stats } = opened;
        let mut names = Names::default();
        let mut failure = None;
        let mut kept: Vec<&[u8]> = Vec::new();
        if cover == Cover::Whole {
            (names, failure) = match listed {
                Some(names) => (names, None),
                None => Names::list_steadily(fd.as_fd(), &mut self.scratch),
            };
            if !is_source && let Some((marked, markers)) = self.rules.markers(&fd, &names) {
                (why, cover, kept) = (Some(marked), Cover::Remnant, markers);
            }
        }
        if cover != Cover::Whole {
            let leading = place.into_iter().flat_map(|place| self.sources.names(place));
            names = Names::from_names(leading.chain(kept));
            stats.clear();
        }
        let read = |reader: &mut XattrReader| reader.read_open(stat.identity.device, fd.as_fd());
        let xattrs = xattrs.or_else(|| self.xattrs.as_mut().map(read));
        self.directory_event(&stat, name_start, xattrs);
        if let Some(error) = failure {
            self.fail(IssueKind::Unreadable, format!("listing the directory: {error}"));
        }
        if let Some(why) = why {
            self.omit(why);
        }
        let depth = self.frames.len() + 1;
        if cover == Cover::Whole {
            self.rules.enter(&fd, &names, &self.path, depth);
        }
        let fd = Arc::new(fd);
        let mut tickets = VecDeque::new();
        if cover == Cover::Whole && depth <= AHEAD_DEPTH_MAX && self.ahead.is_some() {
            if stats.is_empty() {
                stats = first_stats(&fd, &names);
            }
            tickets = self.ask_ahead(&fd, &stat.identity, &names, &stats, place);
        }
        self.frames.push(Frame {
            fd: Some(fd),
            identity: stat.identity,
            names,
            next: 0,
            path_length: self.path.len(),
            cover,
            place,
            stats,
            tickets,
            met: Met::default(),
        });
        if depth > DIRECTORIES_OPEN_MAX {
            // Never the root: whatever moves, the way down starts there.
            let closing = depth - DIRECTORIES_OPEN_MAX;
            self.frames[closing].fd = None;
        }
    }

    /// Asks for the directories in `directory`, whose path is the walk's, but for those that may be left out.
    fn ask_ahead(
        &mut self,
        directory: &Arc<OwnedFd>,
        identity: &Identity,
        names: &Names,
        stats: &[Stat],
        place: Option<Place>,
    ) -> VecDeque<(usize, Ticket)> {
        let Some(ahead) = &self.ahead else { return VecDeque::new() };
        let length = self.path.len();
        let (mut indices, mut asked) = (Vec::new(), Vec::new());
        for (at, stat) in stats.iter().enumerate().filter(|(_, stat)| stat.is_directory()) {
            let Some(name) = names.get(at) else { break };
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let left_out = place.is_some_and(|place| self.sources.child(place, name).is_some())
                || name.len() > NAME_BYTES_MAX
                || self.path.len() > PATH_BYTES_MAX
                || self.rules.is_own(&stat.identity)
                || (self.rules.one_file_system && stat.identity.device != identity.device)
                || self.rules.excludes(&self.path, true);
            self.path.truncate(length);
            if !left_out {
                indices.push(at);
                asked.push(name.to_vec());
            }
        }
        indices.into_iter().zip(ahead.ask(directory, asked)).collect()
    }

    fn leave(&mut self) {
        let Some(left) = self.frames.pop() else { return };
        if let Some(ahead) = &self.ahead {
            // Only where the walk could not go on here.
            left.tickets.iter().for_each(|(_, ticket)| drop(ahead.take(*ticket)));
        }
        self.rules.leave(self.frames.len() + 1);
        self.pending.push_back(Event::Leave);
        if left.met.taken && !left.met.left && left.place.is_some_and(|place| self.sources.is_source(place)) {
            let below = OsStr::from_bytes(&self.path[..left.path_length]);
            let root = &self.sources.root;
            self.emptied.push(if below.is_empty() { root.clone() } else { root.join(below) });
        }
        let Some(frame) = self.frames.last_mut() else { return };
        frame.met.left |= left.met.left;
        frame.met.taken |= left.met.taken;
        if frame.fd.is_some() {
            return;
        }
        let reopened = left.fd.as_ref().and_then(|child| self.reopen(child));
        let Some(frame) = self.frames.last_mut() else { return };
        match reopened {
            Some(fd) => frame.fd = Some(Arc::new(fd)),
            None => {
                let missed = frame.names.get(frame.next).is_some();
                frame.next = usize::MAX;
                self.path.truncate(frame.path_length);
                if missed {
                    self.fail(IssueKind::Vanished, "it was moved during the walk; its last entries are missing".into());
                }
            }
        }
    }

    /// Opens the innermost directory again, whose names are known already: as the parent of `child`, else along its path from the root.
    fn reopen(&self, child: &OwnedFd) -> Option<OwnedFd> {
        let frame = self.frames.last()?;
        let is_it = |fd: &OwnedFd| Stat::of(fd).is_ok_and(|stat| stat.is_same(&frame.identity));
        if let Ok(fd) = open_below(child, b"..", Cover::Remnant, false)
            && is_it(&fd)
        {
            return Some(fd);
        }
        let mut at: Option<OwnedFd> = None;
        let root = self.frames.first()?.fd.as_ref()?;
        for name in self.path[..frame.path_length].split(|byte| *byte == b'/') {
            let from = at.as_ref().unwrap_or(root);
            at = Some(open_below(from, name, Cover::Remnant, frame.cover == Cover::Above).ok()?);
        }
        at.filter(is_it)
    }

    fn leaf_met(&mut self, directory: &OwnedFd, stat: Stat, name_start: usize, ruled: bool) {
        if ruled {
            if self.rules.excludes(&self.path, false) {
                return self.omit(Omission::Excluded);
            }
            if self.rules.is_too_large(&stat) {
                return self.omit(Omission::TooLarge);
            }
        }
        let (major, minor) = stat.device_number;
        let kind = match stat.kind {
            FileType::RegularFile => {
                NodeKind::File { size: stat.identity.size, content: Content::Inline(Vec::new()), inconsistent: false }
            }
            FileType::Symlink => match readlinkat(directory, &self.path[name_start..], Vec::new()) {
                Ok(target) if target.as_bytes().len() <= SYMLINK_BYTES_MAX => {
                    NodeKind::Symlink { target: target.into_bytes() }
                }
                Ok(_) => {
                    return self.fail(IssueKind::Unreadable, "the link's target is over the format's limit".into());
                }
                Err(Errno::INVAL) => return self.fail(IssueKind::Vanished, "it is no symbolic link any more".into()),
                Err(error) => return self.fail_errno(error, "reading the link's target"),
            },
            FileType::CharacterDevice => NodeKind::CharacterDevice { major, minor },
            FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => return self.omit(Omission::Socket),
            _ => return self.omit(Omission::Unsupported),
        };
        let later = self.leaves_file_xattrs && stat.kind == FileType::RegularFile;
        let xattrs = if later { None } else { self.xattrs_at(&stat, directory, name_start) };
        let (mut entry, failure) = self.entry(&stat, name_start, kind, xattrs);
        if later {
            entry.xattrs = XattrsRead::Later;
        }
        entry.node.link_group = self.link_group(&stat);
        self.pending.push_back(Event::Leaf(entry));
        self.pending.extend(failure);
        self.met(|met| met.left = true);
    }

    fn directory_event(&mut self, stat: &Stat, name_start: usize, xattrs: Option<Xattrs>) {
        let kind = NodeKind::Directory { tree: ChunkId::default() };
        let (entry, failure) = self.entry(stat, name_start, kind, xattrs);
        self.pending.push_back(Event::Enter(entry));
        self.pending.extend(failure);
    }

    fn link_group(&mut self, stat: &Stat) -> Option<Vec<u8>> {
        if stat.links < 2 {
            return None;
        }
        let key = (stat.identity.device, stat.identity.inode);
        let first = match self.links.get_mut(&key) {
            Some(linked) if linked.size != stat.identity.size || linked.modified_at != stat.identity.modified_at => {
                let (size, modified_at) = (stat.identity.size, stat.identity.modified_at);
                *linked = Linked { names_left: stat.links - 1, first: self.path.clone(), size, modified_at };
                self.path.clone()
            }
            Some(linked) if linked.names_left == 1 => return self.links.remove(&key).map(|linked| linked.first),
            Some(linked) => {
                linked.names_left -= 1;
                linked.first.clone()
            }
            None => {
                let (size, modified_at) = (stat.identity.size, stat.identity.modified_at);
                let linked = Linked { names_left: stat.links - 1, first: self.path.clone(), size, modified_at };
                self.links.insert(key, linked);
                self.path.clone()
            }
        };
        Some(first)
    }

    fn xattrs_at(&mut self, stat: &Stat, directory: &OwnedFd, name_start: usize) -> Option<Xattrs> {
        let reader = self.xattrs.as_mut()?;
        Some(reader.read_at(stat.identity.device, directory.as_fd(), &self.path[name_start..]))
    }

    /// The entry at hand, and the failure of its attributes.
    fn entry(
        &mut self,
        stat: &Stat,
        name_start: usize,
        kind: NodeKind,
        xattrs: Option<Xattrs>,
    ) -> (Entry, Option<Event>) {
        let mut entry = Entry {
            path: self.path.clone(),
            node: Node {
                name: self.path[name_start..].to_vec(),
                kind,
                mode: stat.mode,
                uid: stat.uid,
                gid: stat.gid,
                user: self.owners.user(stat.uid),
                group: self.owners.group(stat.gid),
                modified_at: stat.identity.modified_at,
                xattrs: Vec::new(),
                link_group: None,
            },
            identity: stat.identity,
            xattrs: XattrsRead::NotAll,
        };
        let failure = xattrs.and_then(|xattrs| entry.take_xattrs(xattrs));
        let failure = failure.map(|issue| self.failure(issue.kind, issue.detail));
        (entry, failure)
    }

    /// Notes something of the innermost directory.
    fn met(&mut self, note: impl FnOnce(&mut Met)) {
        if let Some(frame) = self.frames.last_mut() {
            note(&mut frame.met);
        }
    }

    fn omit(&mut self, why: Omission) {
        self.met(|met| met.taken |= matches!(why, Omission::Excluded | Omission::TooLarge));
        self.pending.push_back(Event::Omitted { path: self.path.clone(), why });
    }

    fn fail_errno(&mut self, error: Errno, doing: &str) {
        match error {
            Errno::NOENT => self.fail(IssueKind::Vanished, "it disappeared during the walk".into()),
            error => self.fail(IssueKind::Unreadable, format!("{doing}: {error}")),
        }
    }

    fn fail(&mut self, kind: IssueKind, detail: String) {
        self.met(|met| met.left = true);
        let failure = self.failure(kind, detail);
        self.pending.push_back(failure);
    }

    fn failure(&self, kind: IssueKind, detail: String) -> Event {
        // The root has no path from itself.
        let subject = match self.path.is_empty() {
            true => self.sources.root.as_os_str().as_bytes().to_vec(),
            false => self.path.clone(),
        };
        Event::Failed(Issue { kind, subject, detail })
    }
}

impl Iterator for Walk {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if let Some(fd) = self.root_fd.take() {
            self.start(fd);
        }
        while self.pending.is_empty() {
            if !self.step() {
                return None;
            }
        }
        self.pending.pop_front()
    }
}

/// Opens a directory below `parent`, for listing where all of it is wanted.
fn open_below(parent: impl AsFd, name: &[u8], cover: Cover, follow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    match cover {
        Cover::Whole => open_quietly(parent, name, OFlags::RDONLY | flags),
        // Searching is enough for the others, and may be all that is allowed.
        Cover::Above | Cover::Remnant => openat(parent, name, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty()),
    }
}

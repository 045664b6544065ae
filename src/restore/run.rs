//! Drives a restore: walks the trees, decides about each entry, and fills windows of content.

use super::RestoreError;
use super::patterns::{Astray, Patterns, astray};
use super::scope::Scope;
use super::target::{Decision, DirHandle, Linked, Room, Target, TargetError, TargetErrorKind, first_nonzero};
use super::window::{GATHER_BYTES_MAX, OpenFile, Outcome, Queue, Window, attributes_bytes, release};
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Extent, Node, NodeKind};
use crate::repo::fetch::{FetchError, Fetcher};
use crate::repo::walk::{Extents, Nodes, find_name, root_node};
use crate::report::{Issue, IssueKind, Monitor, Phase};
use crate::timing::Stage;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::PoisonError;

/// Two windows are under way at a time: one being fetched, one being filled.
const WINDOW_BYTES: u64 = 1 << 30;
/// The first one is small, as nothing is fetched while it is filled; each is four times as large as the one before.
const FIRST_WINDOW_BYTES: u64 = 16 << 20;
/// Directories, further names, and files to read back that wait, each: some 600 bytes. The workers run out of work while
/// those that wait are finished.
const WAITING_MAX: usize = 16 << 10;
/// Extended attributes of directories and further names that wait take so many bytes at least before they are done.
const ATTRIBUTES_WAITING_BYTES_MIN: usize = 1 << 20;
/// What a thread of a restore holds at most with frames of the usual size, in bytes: sealed frames read at once, and
/// one that is opened.
pub const WORKER_BYTES: usize = 8 << 20;

/// What to restore of a snapshot, and how.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    /// Paths from the snapshot's root; empty for all of it.
    pub paths: Vec<Vec<u8>>,
    /// Only entries that one of these patterns names, `.gitignore` syntax; empty for all.
    pub include: Vec<String>,
    /// No entry that one of these patterns names; what they name in the target isn't removed either.
    pub exclude: Vec<String>,
    /// Directories whose absolute paths stand for the snapshot's root in the patterns: what was backed up, and the target.
    pub roots: Vec<PathBuf>,
    /// What of the target may be removed where [`TargetOptions::delete`](super::target::TargetOptions) is set.
    pub scope: Scope,
    /// Read back what was written or skipped and compare it with its chunk ids.
    pub verify: bool,
    /// Threads that fetch and write.
    pub threads: usize,
    /// For what was asked for and isn't there yet, in bytes.
    pub memory_bytes: usize,
}

/// What a restore came to.
#[derive(Debug, Default)]
pub struct RestoreSummary {
    /// Files written.
    pub files: u64,
    /// Files that were right already.
    pub files_skipped: u64,
    /// Entries that were there and kept as they are.
    pub kept: u64,
    /// Directories entered.
    pub directories: u64,
    /// Symlinks, devices and fifos written.
    pub others: u64,
    /// Names linked to a file, or another entry that is no directory, restored under another.
    pub links: u64,
    /// Content bytes written.
    pub bytes: u64,
    /// Entries removed; in a dry run, that would be. Those that stood where one of another kind is now count, too.
    pub removed: u64,
    /// Entries that the snapshot doesn't have, and that stay because of [`Restore::scope`].
    pub spared: u64,
    /// In a dry run, what would be removed; of directories only themselves, with a slash at the end.
    pub would_remove: Vec<Vec<u8>>,
    /// Files read back and found right.
    pub verified: u64,
    /// What failed, item by item.
    pub issues: Vec<Issue>,
    /// What a person should know.
    pub notices: Vec<String>,
}

struct Run<'a> {
    target: &'a Target,
    fetcher: &'a Fetcher<'a>,
    queue: &'a Queue<'a>,
    monitor: &'a dyn Monitor,
    options: &'a Restore,
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    window: Window,
    window_bytes: u64,
    outcome: &'a Outcome,
    summary: RestoreSummary,
    /// Directories whose entries have all been asked for, children before parents.
    directories: Vec<(DirHandle, Node)>,
    /// Further names of files that may still be under way.
    links: Vec<(DirHandle, Node, Vec<u8>)>,
    /// What the extended attributes of both take, in bytes.
    attributes: usize,
    /// An entry was neither excluded nor passed by.
    included: bool,
    /// Files to read back.
    verify: Vec<(DirHandle, Node, Vec<u8>)>,
}

/// Restores a snapshot, or some paths of it, into `target`. The root's entries land in the target
/// directory itself; with paths, each lands under its path from the root.
///
/// # Errors
/// What stops it; item-level failures are in the summary, and the rest is restored all the same.
pub fn restore(
    fetcher: &Fetcher<'_>,
    root: ChunkId,
    target: &Target,
    options: &Restore,
    monitor: &dyn Monitor,
    totals: (u64, u64),
) -> Result<RestoreSummary, RestoreError> {
    let exclude = Patterns::of(&options.exclude, &options.roots)?;
    target.spare_named(exclude.clone());
    let timer = monitor.timer();
    let outcome = Outcome { timer: timer.clone(), ..Outcome::default() };
    let queue = Queue::new(target, fetcher, &outcome, monitor, options.threads);
    let run = Run {
        target,
        fetcher,
        queue: &queue,
        monitor,
        options,
        include: Patterns::of(&options.include, &options.roots)?,
        exclude,
        window: Window::default(),
        window_bytes: FIRST_WINDOW_BYTES,
        outcome: &outcome,
        summary: RestoreSummary::default(),
        directories: Vec::new(),
        links: Vec::new(),
        attributes: 0,
        included: false,
        verify: Vec::new(),
    };
    let (mut summary, nothing) = queue
        .beside(|| timer.run(Stage::Walk, || run.all(root, totals)))
        .map_err(|error| RestoreError::Threads { count: options.threads, error })??;
    summary.removed += target.counts().displaced.get();
    summary.files += outcome.files.get();
    summary.bytes = outcome.bytes.get();
    summary.issues.extend(outcome.issues.into_inner().unwrap_or_else(PoisonError::into_inner));
    summary.notices.extend(target.notices());
    // Where something could not be read, it may have held what was wanted: the issues tell that.
    if nothing && summary.issues.is_empty() {
        return Err(RestoreError::NothingIncluded(options.include.join(" --include ")));
    }
    Ok(summary)
}

/// A directory being walked.
struct Open<'f, 'a> {
    handle: DirHandle,
    node: Node,
    path: Vec<u8>,
    nodes: Nodes<'f, 'a>,
    names: Vec<Vec<u8>>,
}

/// A path's names from the snapshot's root.
fn names_of(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect()
}

/// What a path names, with the directories above it from the root on.
fn find_path(fetcher: &Fetcher<'_>, root: &Node, path: &[u8]) -> Result<(Vec<Node>, Node), RestoreError> {
    let missing = || RestoreError::NoSuchPath(String::from_utf8_lossy(path).into_owned());
    let (mut parents, mut node) = (Vec::new(), root.clone());
    for name in names_of(path) {
        let NodeKind::Directory { tree } = node.kind else { return Err(missing()) };
        let found = find_name(fetcher, tree, name)?.ok_or_else(missing)?;
        parents.push(std::mem::replace(&mut node, found));
    }
    Ok((parents, node))
}

/// Makes sure that the snapshot has all the paths, before a target is made for them.
///
/// # Errors
/// For the first that it doesn't have, or that can't be looked up.
pub fn require_paths(fetcher: &Fetcher<'_>, root: ChunkId, paths: &[Vec<u8>]) -> Result<(), RestoreError> {
    if paths.is_empty() {
        return Ok(());
    }
    let (root, _) = root_node(fetcher, root)?;
    paths.iter().try_for_each(|path| find_path(fetcher, &root, path).map(drop))
}

impl Run<'_> {
    /// Restores everything asked for; also says whether the patterns left nothing of it.
    fn all(mut self, root: ChunkId, totals: (u64, u64)) -> Result<(RestoreSummary, bool), RestoreError> {
        let (root, tree) = root_node(self.fetcher, root)?;
        self.tell_astray(tree)?;
        self.monitor.phase(Phase::Restore, Some(totals.0), Some(totals.1));
        if self.options.paths.is_empty() {
            self.directory(self.target.root(), root, tree, Vec::new())?;
        } else {
            self.paths(root)?;
        }
        self.flush()?;
        self.read_back()?;
        if !self.target.options().dry_run {
            self.written(|target| target.sync())?;
        }
        let nothing = self.include.is_some() && !self.included;
        Ok((self.summary, nothing))
    }

    /// Tells of patterns that can name nothing of what is restored, in the snapshot or in the target.
    ///
    /// # Errors
    /// Where such a pattern was to spare something that is deleted otherwise.
    fn tell_astray(&mut self, tree: ChunkId) -> Result<(), RestoreError> {
        let options = self.options;
        let paths: Vec<Vec<&[u8]>> = options.paths.iter().map(|path| names_of(path)).collect();
        for (list, option) in [(&options.exclude, "--exclude"), (&options.include, "--include")] {
            for Astray { pattern, first, beside } in astray(list, &options.roots, &paths) {
                let text = match first {
                    Some(first) if !self.is_known(tree, first.as_bytes())? => {
                        let roots: Vec<String> = options.roots.iter().map(|root| root.display().to_string()).collect();
                        let path = match pattern.trim_start_matches('!').starts_with('/') {
                            true => format!(
                                ", and as a path of the file system it doesn't lead into {}",
                                roots.join(" or ")
                            ),
                            false => String::new(),
                        };
                        format!(
                            "{option} '{pattern}' names nothing: neither the snapshot nor the target holds '{first}'{path}"
                        )
                    }
                    _ if beside => {
                        let paths: Vec<_> = options.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
                        let paths = paths.join("', '");
                        format!(
                            "{option} '{pattern}' names nothing in '{paths}': with a / in it, a pattern is matched from \
                             the snapshot's root"
                        )
                    }
                    _ => continue,
                };
                if self.target.options().delete {
                    return Err(RestoreError::PatternAstray(text));
                }
                self.summary.notices.push(text);
            }
        }
        Ok(())
    }

    /// Whether the snapshot's root holds something of this name, held it and left it out, or the target does.
    fn is_known(&self, tree: ChunkId, name: &[u8]) -> Result<bool, RestoreError> {
        let spared = self.options.scope.spared(b"").is_some_and(|names| names.contains(&name));
        // Of what can't be read nobody knows what it holds.
        let held = find_name(self.fetcher, tree, name).map_or(true, |node| node.is_some());
        Ok(spared || held || self.target.holds(name)?)
    }

    /// Restores a directory and everything below it; an explicit stack, since depth is the source's.
    fn directory(&mut self, handle: DirHandle, node: Node, tree: ChunkId, path: Vec<u8>) -> Result<(), RestoreError> {
        let fetcher = self.fetcher;
        let delete = self.target.options().delete;
        let mut stack = vec![Open { handle, node, path, nodes: Nodes::of(fetcher, tree), names: Vec::new() }];
        while let Some(open) = stack.last_mut() {
            if self.monitor.cancelled() {
                return Err(RestoreError::Cancelled);
            }
            match open.nodes.next() {
                Ok(Some(child)) => {
                    if delete {
                        open.names.push(child.name.clone());
                    }
                    let mut path = open.path.clone();
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&child.name);
                    let parent = open.handle.clone();
                    if let NodeKind::Directory { tree } = child.kind {
                        if self.excluded(&path, true) {
                            continue;
                        }
                        self.included |= self.include.as_ref().is_some_and(|patterns| patterns.name(&path, true));
                        if !self.clears_the_way(&parent, &child, &path)? {
                            continue;
                        }
                        match self.written(|target| target.enter_directory(&parent, &child)) {
                            Ok(handle) => {
                                let nodes = Nodes::of(fetcher, tree);
                                stack.push(Open { handle, node: child, path, nodes, names: Vec::new() });
                            }
                            Err(error) => self.target_error(error)?,
                        }
                    } else {
                        self.entry(&parent, child, path)?;
                    }
                }
                Ok(None) => {
                    let Some(done) = stack.pop() else { break };
                    self.leave(done, delete)?;
                }
                Err(error) if error.ends_run() => return Err(error.into()),
                Err(error) => {
                    // The rest of this directory is unknown: nothing in it is deleted, and that is said.
                    let Some(mut done) = stack.pop() else { break };
                    done.names.clear();
                    let subject = if done.path.is_empty() { b".".to_vec() } else { done.path.clone() };
                    let detail = format!("the rest of this directory can't be listed: {error}");
                    self.outcome.issue(Issue { kind: error.issue_kind(), subject, detail });
                    self.leave(done, false)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an entry may be restored where something of another kind is, if it is: names and counts that. Nothing
    /// of a directory goes of which something has to stay, by the scope or the patterns.
    fn clears_the_way(&mut self, parent: &DirHandle, node: &Node, path: &[u8]) -> Result<bool, RestoreError> {
        let found = match self.target.in_the_way(parent, node) {
            Ok(None) => return Ok(true),
            Ok(Some(found)) => found,
            Err(error) => return self.target_error(error).map(|()| false),
        };
        // More than itself: a directory that isn't empty.
        if found.entries > 1 && self.options.scope.spared(path).is_none_or(|names| !names.is_empty()) {
            let occupied = TargetError::Occupied { path: parent.path_of(&node.name), found: "directory" };
            return self.target_error(occupied).map(|()| false);
        }
        if self.target.options().dry_run {
            self.summary.removed += found.entries;
            self.summary.would_remove.extend(found.named);
        }
        Ok(true)
    }

    fn leave(&mut self, done: Open<'_, '_>, delete: bool) -> Result<(), RestoreError> {
        if delete && self.include.is_none() {
            let spared = self.options.scope.spared(&done.path);
            let removed = self.target.remove_unlisted(&done.handle, &done.names, spared.as_deref())?;
            self.summary.removed += removed.entries;
            self.summary.spared += removed.spared;
            self.summary.would_remove.extend(removed.named);
            removed.problems.iter().for_each(|problem| self.outcome.issue(problem.issue()));
        }
        self.summary.directories += 1;
        self.monitor.advance(1, 0);
        self.attributes += attributes_bytes(&done.node);
        self.directories.push((done.handle, done.node));
        if self.directories.len() >= WAITING_MAX || self.attributes_are_full() {
            self.flush()?;
        }
        Ok(())
    }

    /// Restores chosen paths, each with the directories above it.
    fn paths(&mut self, root: Node) -> Result<(), RestoreError> {
        let all: Vec<Vec<&[u8]>> = self.options.paths.iter().map(|path| names_of(path)).collect();
        for (at, (wanted, names)) in self.options.paths.iter().zip(&all).enumerate() {
            // What another path covers is restored with it; a second time it would be in its own way.
            let covered = all
                .iter()
                .enumerate()
                .any(|(other, prefix)| names.starts_with(prefix) && (names.len() > prefix.len() || other < at));
            let (parents, node) = find_path(self.fetcher, &root, wanted)?;
            if covered {
                continue;
            }
            // The first parent is the target itself.
            let mut handle = self.target.root();
            let mut above: Vec<(DirHandle, Node)> = Vec::new();
            let mut taken = false;
            for (depth, parent) in parents.into_iter().skip(1).enumerate() {
                if !self.clears_the_way(&handle, &parent, &names[..=depth].join(&b'/'))? {
                    taken = true;
                    break;
                }
                handle = self.target.enter_directory(&handle, &parent)?;
                above.push((handle.clone(), parent));
            }
            let path = names.join(&b'/');
            match node.kind {
                // Told already; what is above is as it was.
                _ if taken => {}
                NodeKind::Directory { tree } if names.is_empty() => self.directory(handle, node, tree, path)?,
                NodeKind::Directory { .. } if !self.clears_the_way(&handle, &node, &path)? => {}
                NodeKind::Directory { tree } => {
                    let handle = self.target.enter_directory(&handle, &node)?;
                    self.directory(handle, node, tree, path)?;
                }
                _ => self.entry(&handle, node, path)?,
            }
            self.directories.extend(above.into_iter().rev());
        }
        // A target made for these paths, by this run or one that was interrupted, gets the root's metadata; one that was
        // there is not the root's.
        let target = self.target.root();
        if target.decision() == Decision::Write || target.was_left() {
            self.directories.push((target, root));
        }
        Ok(())
    }

    fn excluded(&self, path: &[u8], directory: bool) -> bool {
        if self.exclude.as_ref().is_some_and(|patterns| patterns.name(path, directory)) {
            return true;
        }
        // A directory may hold something that an include pattern names.
        !directory && self.include.as_ref().is_some_and(|patterns| !patterns.name(path, false))
    }

    /// Restores one entry that is no directory.
    fn entry(&mut self, parent: &DirHandle, node: Node, path: Vec<u8>) -> Result<(), RestoreError> {
        if self.excluded(&path, false) {
            return Ok(());
        }
        self.included = true;
        if self.links.len().max(self.verify.len()) >= WAITING_MAX {
            self.flush()?;
            self.read_back()?;
        }
        let decision = match self.target.decide(parent, &node) {
            Ok(decision) => decision,
            Err(error) => return self.target_error(error),
        };
        self.monitor.advance(1, 0);
        if decision == Decision::Replace && !self.clears_the_way(parent, &node, &path)? {
            return Ok(());
        }
        if !matches!(node.kind, NodeKind::File { .. }) {
            return self.special(parent, node, decision, path);
        }
        match decision {
            Decision::Keep => {
                self.summary.kept += 1;
                if self.looks_same(parent, &node) {
                    self.target.keep_link(parent, &node);
                    self.verify_later(parent, &node, &path);
                } else {
                    // Kept as asked, but whoever reads the result must not take it for restored.
                    let detail = "another file is there and is kept; `--overwrite if-different` replaces it".to_owned();
                    let issue = Issue { kind: IssueKind::NotRestored, subject: path, detail };
                    self.monitor.issue(&issue);
                    self.outcome.issue(issue);
                }
                return Ok(());
            }
            Decision::Skip => {
                self.verify_later(parent, &node, &path);
                // Right as it is, and yet perhaps another file than the group's first name, which may be under way.
                if let Some(group) = &node.link_group
                    && !self.target.claim_link_group(group)
                {
                    return self.link_later(parent, node, path);
                }
                self.summary.files_skipped += 1;
                if let NodeKind::File { size, .. } = node.kind {
                    self.monitor.advance(0, size);
                }
                match self.target.fix_metadata(parent, &node) {
                    Ok(restored) => self.outcome.restored(restored),
                    Err(error) => return self.target_error(error),
                }
                return Ok(());
            }
            Decision::Write | Decision::Replace => {}
        }
        if let Some(group) = &node.link_group
            && !self.target.claim_link_group(group)
        {
            self.verify_later(parent, &node, &path);
            return self.link_later(parent, node, path);
        }
        self.content(parent, node, path)
    }

    /// Restores a symbolic link, fifo or device, or links it to its group's first name (`TREE-8`).
    fn special(
        &mut self,
        parent: &DirHandle,
        node: Node,
        decision: Decision,
        path: Vec<u8>,
    ) -> Result<(), RestoreError> {
        if decision == Decision::Keep {
            self.summary.kept += 1;
            if node.link_group.is_some() && self.target.holds_special(parent, &node) {
                self.target.keep_link(parent, &node);
            }
            return Ok(());
        }
        if let Some(group) = &node.link_group
            && !self.target.claim_link_group(group)
        {
            return self.link_later(parent, node, path);
        }
        if decision != Decision::Skip {
            return self.write_special(parent, &node);
        }
        match self.target.fix_metadata(parent, &node) {
            Ok(restored) => self.outcome.restored(restored),
            Err(error) => return self.target_error(error),
        }
        Ok(())
    }

    fn write_special(&mut self, parent: &DirHandle, node: &Node) -> Result<(), RestoreError> {
        match self.written(|target| target.write_special(parent, node)) {
            Ok(restored) => {
                self.summary.others += 1;
                self.outcome.restored(restored);
                Ok(())
            }
            Err(error) => self.target_error(error),
        }
    }

    fn verify_later(&mut self, parent: &DirHandle, node: &Node, path: &[u8]) {
        if self.options.verify && !self.target.options().dry_run {
            let mut node = node.clone();
            // The content alone is compared.
            node.xattrs = Vec::new();
            self.verify.push((parent.clone(), node, path.to_vec()));
        }
    }

    /// A further name of a file waits until that is there.
    fn link_later(&mut self, parent: &DirHandle, node: Node, path: Vec<u8>) -> Result<(), RestoreError> {
        self.attributes += attributes_bytes(&node);
        self.links.push((parent.clone(), node, path));
        if self.attributes_are_full() { self.flush() } else { Ok(()) }
    }

    fn attributes_are_full(&self) -> bool {
        self.attributes >= (self.options.memory_bytes / 4).max(ATTRIBUTES_WAITING_BYTES_MIN)
    }

    /// True when a file of the node's size and modification time is there.
    fn looks_same(&self, parent: &DirHandle, node: &Node) -> bool {
        use std::os::unix::fs::MetadataExt;
        let NodeKind::File { size, .. } = node.kind else { return false };
        // Whatever can't be looked at is no restored file either.
        let Ok(found) = self.target.open_existing(parent, &node.name) else { return false };
        found.metadata().is_ok_and(|found| {
            found.len() == size
                && found.mtime() == node.modified_at.seconds
                && u32::try_from(found.mtime_nsec()) == Ok(node.modified_at.nanoseconds)
        })
    }

    /// Asks for a file's content.
    fn content(&mut self, parent: &DirHandle, node: Node, path: Vec<u8>) -> Result<(), RestoreError> {
        let NodeKind::File { content, size, .. } = &node.kind else { return Ok(()) };
        self.verify_later(parent, &node, &path);
        if self.target.options().dry_run {
            self.summary.files += 1;
            self.outcome.bytes.add(*size);
            return Ok(());
        }
        if let Content::Inline(extents) = content {
            match &extents[..] {
                [] => {
                    match self.written(|target| target.write_small_file(parent, &node, &[])) {
                        Ok(restored) => self.outcome.restored(restored),
                        Err(error) => return self.target_error(error),
                    }
                    self.summary.files += 1;
                    return Ok(());
                }
                &[Extent::Chunk { id, length }] => {
                    let file = OpenFile::small(self.target, parent, node);
                    self.ask(&file, 0, id, length)?;
                    self.close(&file, true);
                    return Ok(());
                }
                _ => {}
            }
        }
        let content = match self.read_whole(*size, content) {
            Ok(content) => content.into_owned(),
            Err(error) if error.ends_run() => return Err(error.into()),
            Err(error) => {
                let issue = Issue { kind: error.issue_kind(), subject: path, detail: error.to_string() };
                self.outcome.issue(issue);
                return Ok(());
            }
        };
        let sparse = match &content {
            Content::Inline(extents) => extents.iter().any(|extent| matches!(extent, Extent::Hole { .. })),
            // Not known before the list is read: a list's holes need the file's size set first.
            Content::List(_) => true,
        };
        let room = if sparse { Room::Sparse } else { Room::Dense };
        let file = match OpenFile::begin(self.target, parent, node, room) {
            Ok(file) => file,
            Err(error) => return self.target_error(error),
        };
        if sparse {
            self.window.note_open();
        }
        let mut extents = Extents::of(self.fetcher, &content);
        let mut offset = 0;
        loop {
            match extents.next() {
                Ok(None) => break,
                Ok(Some(Extent::Hole { length })) => {
                    if let Err(error) = file.hole(offset, length) {
                        file.abandon();
                        return self.target_error(error);
                    }
                    offset += length;
                }
                Ok(Some(Extent::Chunk { id, length })) => {
                    self.ask(&file, offset, id, length)?;
                    offset += u64::from(length);
                }
                Err(error) => {
                    self.close(&file, false);
                    if error.ends_run() {
                        return Err(error.into());
                    }
                    let issue = Issue { kind: error.issue_kind(), subject: file.path(), detail: error.to_string() };
                    self.outcome.issue(issue);
                    return Ok(());
                }
            }
        }
        self.close(&file, true);
        Ok(())
    }

    /// The extents of a file that may be put together in memory, for which its list is read; of others what was given.
    fn read_whole<'c>(&self, size: u64, content: &'c Content) -> Result<Cow<'c, Content>, FetchError> {
        if matches!(content, Content::Inline(_)) || size > GATHER_BYTES_MAX {
            return Ok(Cow::Borrowed(content));
        }
        let (mut list, mut extents, mut length) = (Extents::of(self.fetcher, content), Vec::new(), 0);
        while let Some(extent) = list.next()? {
            length += extent.length();
            if length > size {
                // Said where it is written.
                return Ok(Cow::Borrowed(content));
            }
            extents.push(extent);
        }
        Ok(Cow::Owned(Content::Inline(extents)))
    }

    /// Asks for a chunk; one that no segment lists is an issue of its file.
    fn ask(
        &mut self,
        file: &std::sync::Arc<OpenFile>,
        offset: u64,
        id: ChunkId,
        length: u32,
    ) -> Result<(), RestoreError> {
        self.window.want(file, offset, id, length);
        let full = self.window.bytes() >= self.window_bytes
            || self.window.takes(self.options.memory_bytes / 2)
            || self.window.open() >= self.target.open_files_max();
        if full {
            self.fetch()?;
        }
        Ok(())
    }

    /// All that is wanted of the file has been asked for; unless that is the whole of it, it is given up.
    fn close(&self, file: &std::sync::Arc<OpenFile>, whole: bool) {
        if !whole {
            file.abandon();
        }
        release(self.target, file, self.outcome);
    }

    /// Has fetched what was asked for, while more is asked for.
    fn fetch(&mut self) -> Result<(), RestoreError> {
        self.stop_if_ended()?;
        self.window_bytes = (self.window_bytes * 4).min(WINDOW_BYTES);
        self.window.flush(self.queue)?;
        self.stop_if_ended()
    }

    /// Returns when all that was asked for is written.
    fn settle(&mut self) -> Result<(), RestoreError> {
        self.fetch()?;
        self.queue.drain();
        self.stop_if_ended()
    }

    /// Stops where the user wants it to, or where the target or every region failed.
    fn stop_if_ended(&self) -> Result<(), RestoreError> {
        if self.monitor.cancelled() {
            return Err(RestoreError::Cancelled);
        }
        match self.outcome.fatal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Fetches what was asked for, then links, then finishes directories, children before parents.
    fn flush(&mut self) -> Result<(), RestoreError> {
        self.settle()?;
        for (parent, node, path) in std::mem::take(&mut self.links) {
            match self.written(|target| target.link(&parent, &node)) {
                Ok(Linked::Done) => self.summary.links += 1,
                Ok(Linked::Already) if matches!(node.kind, NodeKind::File { .. }) => self.summary.files_skipped += 1,
                Ok(Linked::Already) => {}
                Ok(Linked::Kept) => self.summary.kept += 1,
                Ok(Linked::NoneRestored) => self.copy(&parent, node, path)?,
                Err(error) if error.kind() == TargetErrorKind::Unlinkable => {
                    self.copy(&parent, node, path)?;
                }
                Err(error) => self.target_error(error)?,
            }
        }
        self.settle()?;
        self.attributes = 0;
        for (handle, node) in std::mem::take(&mut self.directories) {
            match self.written(|target| target.finish_directory(&handle, &node)) {
                Ok(restored) => self.outcome.restored(restored),
                Err(error) => self.target_error(error)?,
            }
        }
        Ok(())
    }

    /// A further name whose file can't be linked to becomes one of its own.
    fn copy(&mut self, parent: &DirHandle, node: Node, path: Vec<u8>) -> Result<(), RestoreError> {
        match node.kind {
            NodeKind::File { .. } => self.content(parent, node, path),
            _ => self.write_special(parent, &node),
        }
    }

    /// What writes to the target, timed as that.
    fn written<T>(&self, write: impl FnOnce(&Target) -> T) -> T {
        self.outcome.timer.run(Stage::Write, || write(self.target))
    }

    fn target_error(&mut self, error: TargetError) -> Result<(), RestoreError> {
        if error.stops_run() {
            return Err(error.into());
        }
        let issue = error.issue();
        self.monitor.issue(&issue);
        self.outcome.issue(issue);
        Ok(())
    }

    /// Reads every file back and compares each chunk with its id.
    fn read_back(&mut self) -> Result<(), RestoreError> {
        let failed: HashSet<Vec<u8>> = {
            let issues = self.outcome.issues.lock().unwrap_or_else(PoisonError::into_inner);
            issues.iter().map(|issue| issue.subject.clone()).collect()
        };
        for (parent, node, path) in std::mem::take(&mut self.verify) {
            if self.monitor.cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let NodeKind::File { content, size, .. } = &node.kind else { continue };
            match self.compare(&parent, &node, content, *size) {
                Ok(None) => self.summary.verified += 1,
                Ok(Some(detail)) => {
                    self.outcome.issue(Issue { kind: IssueKind::NotRestored, subject: path, detail });
                }
                Err(RestoreError::Fetch(error)) if error.ends_run() => return Err(error.into()),
                // That it couldn't be restored is told already.
                Err(_) if failed.contains(&path) => {}
                Err(error) => {
                    let detail = error.to_string();
                    self.outcome.issue(Issue { kind: IssueKind::NotRestored, subject: path, detail });
                }
            }
        }
        Ok(())
    }

    fn compare(
        &self,
        parent: &DirHandle,
        node: &Node,
        content: &Content,
        size: u64,
    ) -> Result<Option<String>, RestoreError> {
        use std::os::unix::fs::FileExt;
        let file = self.target.open_existing(parent, &node.name)?;
        let length = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
        if length != size {
            return Ok(Some(format!("read back: {size} bytes expected, {length} found")));
        }
        let mut extents = Extents::of(self.fetcher, content);
        let (mut offset, mut buffer) = (0, Vec::new());
        while let Some(extent) = extents.next()? {
            if let Extent::Hole { length } = extent {
                match first_nonzero(&file, offset, offset.saturating_add(length), &mut buffer) {
                    Ok(None) => {}
                    Ok(Some(at)) => return Ok(Some(format!("read back: zeros expected at byte {at}"))),
                    Err(error) => return Ok(Some(format!("read back at byte {offset}: {error}"))),
                }
            }
            if let Extent::Chunk { id, length } = extent {
                buffer.resize(length as usize, 0);
                if let Err(error) = file.read_exact_at(&mut buffer, offset) {
                    return Ok(Some(format!("read back at byte {offset}: {error}")));
                }
                let mut epochs = self.fetcher.repository.keyring.rings().keys();
                let right = epochs.any(|epoch| {
                    let ids = self.fetcher.repository.keyring.ids(*epoch);
                    ids.is_ok_and(|ids| ids.id(ChunkKind::Data, &buffer) == id)
                });
                if !right {
                    return Ok(Some(format!("read back: the bytes from {offset} on differ from the snapshot")));
                }
            }
            offset = offset.saturating_add(extent.length());
        }
        Ok((offset != size).then(|| format!("read back: {size} bytes expected, its extents come to {offset}")))
    }
}

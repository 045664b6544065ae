//! Finds entries by name or path in many snapshots.
//!
//! Guarantees: a directory that a snapshot shares with the one looked at before it is not read again;
//! memory depends on what is found. A snapshot that can't be read whole is reported, and the others are
//! searched all the same. Called by `cli::find`.

use crate::format::ids::{ChunkId, SnapshotId};
use crate::format::node::{Node, NodeKind};
use crate::repo::fetch::{FetchError, Fetcher};
use crate::repo::pairs::{Step, walk_pairs};
use crate::repo::walk::root_node;
use crate::report::Monitor;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why a search can't go on.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The pattern can't be understood.
    #[error("the pattern '{pattern}' can't be used: {detail}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        detail: String,
    },
    /// Trees can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The user stopped it.
    #[error("stopped before the end")]
    Cancelled,
}

/// A glob. Without `/` it is matched against names, with `/` against whole paths from the root; a `/`
/// at its end restricts it to directories. `**` stands for any number of directories.
pub struct Pattern(Gitignore);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`FindError::Pattern`].
    pub fn new(text: &str, ignore_case: bool) -> Result<Self, FindError> {
        let bad = |detail: String| FindError::Pattern { pattern: text.to_owned(), detail };
        if text.trim_matches('/').is_empty() {
            return Err(bad("it names nothing".to_owned()));
        }
        // The matcher is one for lists of patterns, where these have a meaning of their own.
        let mut line = text.to_owned();
        if line.starts_with(['!', '#']) {
            line.insert(0, '\\');
        }
        if line.ends_with(' ') && !line.ends_with("\\ ") {
            line.insert(line.len() - 1, '\\');
        }
        let mut builder = GitignoreBuilder::new("/");
        // Taken as it stands, a class that doesn't end would name nothing.
        builder.allow_unclosed_class(false);
        builder.case_insensitive(ignore_case).map_err(|error| bad(error.to_string()))?;
        builder.add_line(None, &line).map_err(|error| bad(error.to_string()))?;
        builder.build().map(Pattern).map_err(|error| bad(error.to_string()))
    }

    /// True when the entry at this path fits.
    pub fn fits(&self, path: &[u8], node: &Node) -> bool {
        let is_directory = matches!(node.kind, NodeKind::Directory { .. });
        self.0.matched(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }
}

/// One version of an entry: the same content and metadata wherever it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The entry. A directory's tree is left out, since what is below it doesn't make another version.
    pub node: Node,
    /// The snapshots that hold it, as positions in the list that was searched, ascending.
    pub snapshots: Vec<usize>,
}

/// What a search found.
#[derive(Default)]
pub struct Found {
    /// Versions by path, raw bytes, each path's in the order of the snapshots.
    pub entries: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Snapshots that could not be searched whole: position and reason.
    pub failed: Vec<(usize, FetchError)>,
}

impl Found {
    fn record(&mut self, path: &[u8], node: &Node, snapshot: usize) {
        let mut node = node.clone();
        if let NodeKind::Directory { tree } = &mut node.kind {
            *tree = ChunkId::default();
        }
        let versions = self.entries.entry(path.to_vec()).or_default();
        match versions.iter_mut().find(|version| version.node == node) {
            // A walk that is repeated finds the same once more.
            Some(version) if version.snapshots.last() == Some(&snapshot) => {}
            Some(version) => version.snapshots.push(snapshot),
            None => versions.push(Version { node, snapshots: vec![snapshot] }),
        }
    }

    /// What `before` holds below a directory, `snapshot` holds, too.
    fn carry(&mut self, directory: &[u8], before: usize, snapshot: usize) {
        let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        for (path, versions) in self.entries.range_mut(prefix.clone()..) {
            if !path.starts_with(&prefix) {
                break;
            }
            // The root's own entry is recorded by itself.
            if !path.is_empty() {
                let held = versions.iter_mut().filter(|version| version.snapshots.last() == Some(&before));
                held.for_each(|version| version.snapshots.push(snapshot));
            }
        }
    }
}

/// Searches snapshots, given as id and root. Neighbours in the list should resemble each other.
///
/// # Errors
/// [`FindError::Cancelled`]; when the index can't be read. A snapshot whose trees can't be read is listed
/// in the result instead.
pub fn find(
    fetcher: &Fetcher<'_>,
    snapshots: &[(SnapshotId, ChunkId)],
    pattern: &Pattern,
    monitor: &dyn Monitor,
) -> Result<Found, FindError> {
    let mut found = Found::default();
    let mut before: Option<usize> = None;
    for (at, (_, root)) in snapshots.iter().enumerate() {
        let mut searched = search(fetcher, snapshots, before, *root, at, pattern, monitor, &mut found);
        if let (Err(FindError::Fetch(_)), Some(_)) = (&searched, before) {
            // It may be the one before that can't be read: look at this one alone.
            searched = search(fetcher, snapshots, None, *root, at, pattern, monitor, &mut found);
        }
        before = match searched {
            Ok(()) => Some(at),
            Err(FindError::Fetch(error)) if !error.ends_run() => {
                found.failed.push((at, error));
                None
            }
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

#[allow(clippy::too_many_arguments, reason = "one call site; a struct would only repeat the names")]
fn search(
    fetcher: &Fetcher<'_>,
    snapshots: &[(SnapshotId, ChunkId)],
    before: Option<usize>,
    root: ChunkId,
    at: usize,
    pattern: &Pattern,
    monitor: &dyn Monitor,
    found: &mut Found,
) -> Result<(), FindError> {
    let old = match before {
        Some(before) => Some(root_node(fetcher, snapshots[before].1)?.0),
        None => None,
    };
    let (new, _) = root_node(fetcher, root)?;
    walk_pairs(fetcher, b"", old, Some(new), &mut |pair| {
        if monitor.cancelled() {
            return Err(FindError::Cancelled);
        }
        let Some(node) = pair.new else { return Ok(Step::Over) };
        // The root has no name of its own.
        if !pair.path.is_empty() && pattern.fits(pair.path, node) {
            found.record(pair.path, node, at);
        }
        match before {
            Some(before) if pair.same_tree() => {
                found.carry(pair.path, before, at);
                Ok(Step::Over)
            }
            _ => Ok(Step::Into),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::Pattern;
    use crate::format::node::{Content, Node, NodeKind};

    fn fits(pattern: &str, ignore_case: bool, path: &[u8]) -> bool {
        let kind = NodeKind::File { size: 0, content: Content::Inline(Vec::new()), inconsistent: false };
        Pattern::new(pattern, ignore_case).expect("a pattern").fits(path, &Node::bare(Vec::new(), kind))
    }

    #[test]
    fn names_and_paths() {
        assert!(fits("*.odt", false, b"home/anna/a.odt"));
        assert!(!fits("*.odt", false, b"home/anna/a.ODT"));
        assert!(fits("*.odt", true, b"home/anna/a.ODT"));
        assert!(fits("home/*/a.odt", false, b"home/anna/a.odt"));
        assert!(fits("/home/**/a.odt", false, b"home/anna/x/y/a.odt"));
        assert!(!fits("anna/a.odt", false, b"home/anna/a.odt"));
        assert!(!fits("anna", false, b"home/anna/a.odt"));
        assert!(!fits("*.odt/", false, b"a.odt"));
        assert!(fits("*", false, b"\xff\x1b"));
    }

    #[test]
    fn signs_of_pattern_lists_are_plain_here() {
        assert!(fits("!a", false, b"x/!a") && !fits("!a", false, b"a"));
        assert!(fits("#a", false, b"#a"));
        assert!(fits("a ", false, b"a ") && !fits("a ", false, b"a"));
        assert!(Pattern::new("[z-a]", false).is_err() && Pattern::new("[", false).is_err());
        assert!(Pattern::new("", false).is_err());
    }
}

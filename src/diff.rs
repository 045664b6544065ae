//! What changed between two trees.
//!
//! Guarantees: entries come depth first in raw-byte order of their names; directories with the same
//! listing are never opened; memory is flat. Content is compared by the ids and lengths of its chunks:
//! the same bytes cut with another chunk size count as modified. Called by `cli::diff`.

use crate::format::node::{Node, NodeKind};
use crate::repo::fetch::{FetchError, Fetcher};
use crate::repo::pairs::{Pair, Step, walk_pairs};

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Only in the new tree.
    Added,
    /// Only in the old tree.
    Removed,
    /// Content, link target or device number differ.
    Modified,
    /// Only mode, owner, time, extended attributes or hard links differ.
    Metadata,
    /// It is another kind of entry.
    Type,
}

impl Change {
    /// The stable name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Modified => "modified",
            Change::Metadata => "metadata",
            Change::Type => "type",
        }
    }

    /// The letter used in text.
    pub fn letter(self) -> char {
        match self {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Modified => 'M',
            Change::Metadata => 'U',
            Change::Type => 'T',
        }
    }

    /// How a pair differs, if it does. A directory's own entry differs in metadata only: what is below
    /// it has pairs of its own.
    pub fn of(old: Option<&Node>, new: Option<&Node>) -> Option<Change> {
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old, new),
            (None, Some(_)) => return Some(Change::Added),
            (Some(_), None) => return Some(Change::Removed),
            (None, None) => return None,
        };
        let same = match (&old.kind, &new.kind) {
            (NodeKind::File { content: a, .. }, NodeKind::File { content: b, .. }) => a == b,
            (NodeKind::Directory { .. }, NodeKind::Directory { .. }) => true,
            (a, b) if a.name() != b.name() => return Some(Change::Type),
            (a, b) => a == b,
        };
        if !same {
            return Some(Change::Modified);
        }
        let metadata = |node: &Node| {
            let inconsistent = matches!(node.kind, NodeKind::File { inconsistent: true, .. });
            (node.mode & 0o7777, node.uid, node.gid, node.modified_at, inconsistent)
        };
        let same = metadata(old) == metadata(new)
            && (&old.user, &old.group, &old.xattrs, &old.link_group)
                == (&new.user, &new.group, &new.xattrs, &new.link_group);
        (!same).then_some(Change::Metadata)
    }
}

/// The differences in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffSummary {
    /// Entries only in the new tree.
    pub added: u64,
    /// Entries only in the old tree.
    pub removed: u64,
    /// Entries whose content differs.
    pub modified: u64,
    /// Entries of which only the metadata differ.
    pub metadata: u64,
    /// Entries that are of another kind.
    pub types: u64,
    /// Bytes of the new tree's files that are added, modified or were another kind of entry.
    pub bytes_new: u64,
    /// Bytes of the old tree's files that are removed, modified or became another kind of entry.
    pub bytes_old: u64,
}

impl DiffSummary {
    fn count(&mut self, change: Change, pair: &Pair<'_>) {
        let counter = match change {
            Change::Added => &mut self.added,
            Change::Removed => &mut self.removed,
            Change::Modified => &mut self.modified,
            Change::Metadata => &mut self.metadata,
            Change::Type => &mut self.types,
        };
        *counter += 1;
        if change != Change::Metadata {
            self.bytes_new = self.bytes_new.saturating_add(size_of(pair.new));
            self.bytes_old = self.bytes_old.saturating_add(size_of(pair.old));
        }
    }
}

fn size_of(node: Option<&Node>) -> u64 {
    match node.map(|node| &node.kind) {
        Some(NodeKind::File { size, .. }) => *size,
        _ => 0,
    }
}

/// Compares the entries at `path`, and all below them; calls `each` for every difference.
///
/// # Errors
/// What `each` gives, or when a tree can't be read.
pub fn diff<E: From<FetchError>>(
    fetcher: &Fetcher<'_>,
    path: &[u8],
    old: Option<Node>,
    new: Option<Node>,
    each: &mut dyn FnMut(Change, &Pair<'_>) -> Result<(), E>,
) -> Result<DiffSummary, E> {
    let mut summary = DiffSummary::default();
    walk_pairs(fetcher, path, old, new, &mut |pair| {
        if let Some(change) = Change::of(pair.old, pair.new) {
            summary.count(change, pair);
            each(change, pair)?;
        }
        Ok::<Step, E>(if pair.same_tree() { Step::Over } else { Step::Into })
    })?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::Change;
    use crate::format::ids::ChunkId;
    use crate::format::node::{Content, Extent, Node, NodeKind};

    fn node(kind: NodeKind) -> Node {
        Node { mode: 0o644, uid: 1, gid: 1, ..Node::bare(b"n".to_vec(), kind) }
    }

    fn file(id: u8) -> Node {
        let content = Content::Inline(vec![Extent::Chunk { id: ChunkId([id; 32]), length: 1 }]);
        node(NodeKind::File { size: 1, content, inconsistent: false })
    }

    #[test]
    fn each_kind_of_change_has_its_name() {
        let link = |target: &[u8]| node(NodeKind::Symlink { target: target.to_vec() });
        let directory = |tree| node(NodeKind::Directory { tree: ChunkId([tree; 32]) });
        let mut touched = file(1);
        touched.modified_at.nanoseconds = 1;
        let mut marked = file(1);
        marked.xattrs.push((b"user.a".to_vec(), b"b".to_vec()));
        for (old, new, change) in [
            (None, Some(file(1)), Some(Change::Added)),
            (Some(file(1)), None, Some(Change::Removed)),
            (Some(file(1)), Some(file(1)), None),
            (Some(file(1)), Some(file(2)), Some(Change::Modified)),
            (Some(file(1)), Some(touched), Some(Change::Metadata)),
            (Some(file(1)), Some(marked), Some(Change::Metadata)),
            (Some(file(1)), Some(link(b"a")), Some(Change::Type)),
            (Some(link(b"a")), Some(link(b"b")), Some(Change::Modified)),
            (Some(directory(1)), Some(directory(2)), None),
            (Some(directory(1)), Some(node(NodeKind::Fifo)), Some(Change::Type)),
        ] {
            assert_eq!(Change::of(old.as_ref(), new.as_ref()), change);
        }
    }
}

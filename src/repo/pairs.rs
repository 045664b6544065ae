//! Walks one or two trees side by side, depth first, entries paired by name in raw-byte order.
//!
//! Guarantees: memory depends on depth, not on the number of entries; a directory whose listing is the
//! same on both sides is one pair, and its caller decides whether to look inside; what can't be read
//! ends the walk with an error, never as if there were nothing. Called by `diff`, `find` and `cli::ls`.

use super::fetch::{FetchError, Fetcher};
use super::walk::Nodes;
use crate::format::ids::ChunkId;
use crate::format::node::{Node, NodeKind};
use crate::format::wire::DecodeError;
use crate::limits::TREE_DEPTH_MAX;
use std::cmp::Ordering;

/// The entries of one path on both sides; at least one is there.
#[derive(Clone, Copy)]
pub struct Pair<'p> {
    /// The path from the snapshot's root, raw bytes, `/`-separated; empty for the root itself.
    pub path: &'p [u8],
    /// The entry on the old side.
    pub old: Option<&'p Node>,
    /// The entry on the new side.
    pub new: Option<&'p Node>,
}

impl Pair<'_> {
    /// True for two directories with the same listing: nothing below them differs in any way.
    pub fn same_tree(&self) -> bool {
        tree_of(self.old).is_some() && tree_of(self.old) == tree_of(self.new)
    }
}

/// Whether to walk the entries below a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Walk them; nothing happens where neither side is a directory.
    Into,
    /// Go on with the next entry beside it.
    Over,
}

fn tree_of(node: Option<&Node>) -> Option<ChunkId> {
    match node?.kind {
        NodeKind::Directory { tree } => Some(tree),
        _ => None,
    }
}

/// One side of one directory.
struct Side<'f, 'a> {
    nodes: Option<Nodes<'f, 'a>>,
    next: Option<Node>,
}

impl<'f, 'a> Side<'f, 'a> {
    fn of(fetcher: &'f Fetcher<'a>, tree: Option<ChunkId>) -> Result<Self, FetchError> {
        let mut side = Side { nodes: tree.map(|tree| Nodes::of(fetcher, tree)), next: None };
        side.advance()?;
        Ok(side)
    }

    fn advance(&mut self) -> Result<(), FetchError> {
        if let Some(nodes) = &mut self.nodes {
            self.next = nodes.next()?;
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Node>, FetchError> {
        let taken = self.next.take();
        self.advance()?;
        Ok(taken)
    }
}

struct Level<'f, 'a> {
    old: Side<'f, 'a>,
    new: Side<'f, 'a>,
    path_length: usize,
}

impl Level<'_, '_> {
    /// The entry, or two of one name, that comes next.
    fn next(&mut self) -> Result<(Option<Node>, Option<Node>), FetchError> {
        let order = match (&self.old.next, &self.new.next) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let old = if order.is_le() { self.old.take()? } else { None };
        let new = if order.is_ge() { self.new.take()? } else { None };
        Ok((old, new))
    }
}

/// Calls `each` for the given pair, then for all that it says to walk below it.
///
/// # Errors
/// What `each` gives, or when a tree can't be read.
pub fn walk_pairs<E: From<FetchError>>(
    fetcher: &Fetcher<'_>,
    path: &[u8],
    old: Option<Node>,
    new: Option<Node>,
    each: &mut dyn FnMut(&Pair<'_>) -> Result<Step, E>,
) -> Result<(), E> {
    let mut path = path.to_vec();
    let mut levels: Vec<Level<'_, '_>> = Vec::new();
    let mut pair = (old, new);
    loop {
        let (old, new) = (pair.0.as_ref(), pair.1.as_ref());
        if old.is_some() || new.is_some() {
            let step = each(&Pair { path: &path, old, new })?;
            let (old, new) = (tree_of(old), tree_of(new));
            if let (Step::Into, Some(below)) = (step, old.or(new)) {
                if levels.len() > TREE_DEPTH_MAX {
                    let source = DecodeError::new("TREE-4", format!("more than {TREE_DEPTH_MAX} directories deep"));
                    return Err(FetchError::Decode { id: below, source }.into());
                }
                let (old, new) = (Side::of(fetcher, old)?, Side::of(fetcher, new)?);
                levels.push(Level { old, new, path_length: path.len() });
            }
        }
        pair = loop {
            let Some(level) = levels.last_mut() else { return Ok(()) };
            path.truncate(level.path_length);
            let next = level.next()?;
            if let Some(node) = next.0.as_ref().or(next.1.as_ref()) {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&node.name);
                break next;
            }
            levels.pop();
        };
    }
}

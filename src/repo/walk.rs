//! Walks a snapshot's trees: entries depth first, in order of names.

use super::fetch::{FetchError, Fetcher};
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Extent, Node, NodeKind};
use crate::format::sequence::SequenceChunk;
use crate::limits::SEQUENCE_LEVELS_MAX;

/// Reads a sequence front to back, one chunk of each level in memory.
struct Cursor<'f, 'a> {
    fetcher: &'f Fetcher<'a>,
    kind: ChunkKind,
    levels: Vec<std::vec::IntoIter<ChunkId>>,
}

impl<'f, 'a> Cursor<'f, 'a> {
    fn new(fetcher: &'f Fetcher<'a>, kind: ChunkKind, top: ChunkId) -> Self {
        Cursor { fetcher, kind, levels: vec![vec![top].into_iter()] }
    }

    /// The next chunk of level 0.
    fn next(&mut self) -> Result<Option<SequenceChunk>, FetchError> {
        while let Some(level) = self.levels.last_mut() {
            let Some(id) = level.next() else {
                self.levels.pop();
                continue;
            };
            match self.fetcher.structural(self.kind, id)? {
                SequenceChunk::Children { children, .. } => {
                    if self.levels.len() > usize::from(SEQUENCE_LEVELS_MAX) {
                        let detail = "more levels than allowed";
                        let source = crate::format::wire::DecodeError::new("SEQ-2", detail);
                        return Err(FetchError::Decode { id, source });
                    }
                    let below: Vec<ChunkId> = children.into_iter().map(|child| child.id).collect();
                    self.levels.push(below.into_iter());
                }
                leaf => return Ok(Some(leaf)),
            }
        }
        Ok(None)
    }
}

/// The entries of one directory, in order, without holding them all.
pub struct Nodes<'f, 'a> {
    cursor: Cursor<'f, 'a>,
    here: std::vec::IntoIter<Node>,
}

impl<'f, 'a> Nodes<'f, 'a> {
    /// Of the directory whose tree has this top chunk.
    pub fn of(fetcher: &'f Fetcher<'a>, tree: ChunkId) -> Self {
        Nodes { cursor: Cursor::new(fetcher, ChunkKind::Tree, tree), here: Vec::new().into_iter() }
    }

    /// The next entry.
    ///
    /// # Errors
    /// When a tree chunk can't be read: the rest of the directory is then unknown.
    #[allow(clippy::should_implement_trait, reason = "an iterator would let a failure pass for the end")]
    pub fn next(&mut self) -> Result<Option<Node>, FetchError> {
        loop {
            if let Some(node) = self.here.next() {
                return Ok(Some(node));
            }
            match self.cursor.next()? {
                Some(SequenceChunk::Nodes(nodes)) => self.here = nodes.into_iter(),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

/// A file's extents in order, without holding them all.
pub struct Extents<'f, 'a> {
    cursor: Option<Cursor<'f, 'a>>,
    here: std::vec::IntoIter<Extent>,
}

impl<'f, 'a> Extents<'f, 'a> {
    /// Of this content.
    pub fn of(fetcher: &'f Fetcher<'a>, content: &Content) -> Self {
        match content {
            Content::Inline(extents) => Extents { cursor: None, here: extents.clone().into_iter() },
            Content::List(top) => {
                Extents { cursor: Some(Cursor::new(fetcher, ChunkKind::List, *top)), here: Vec::new().into_iter() }
            }
        }
    }

    /// The next extent.
    ///
    /// # Errors
    /// When a list chunk can't be read.
    #[allow(clippy::should_implement_trait, reason = "an iterator would let a failure pass for the end")]
    pub fn next(&mut self) -> Result<Option<Extent>, FetchError> {
        loop {
            if let Some(extent) = self.here.next() {
                return Ok(Some(extent));
            }
            let Some(cursor) = &mut self.cursor else { return Ok(None) };
            match cursor.next()? {
                Some(SequenceChunk::Extents(extents)) => self.here = extents.into_iter(),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

/// The root directory's node of a snapshot.
///
/// # Errors
/// When it can't be read, or is no directory (`SNAPSHOT-3`).
pub fn root_node(fetcher: &Fetcher<'_>, root: ChunkId) -> Result<(Node, ChunkId), FetchError> {
    let mut nodes = Nodes::of(fetcher, root);
    let broken = |detail: &str| FetchError::Decode {
        id: root,
        source: crate::format::wire::DecodeError::new("SNAPSHOT-3", detail.to_owned()),
    };
    let node = nodes.next()?.ok_or_else(|| broken("the snapshot has no root directory"))?;
    match &node.kind {
        NodeKind::Directory { tree } => {
            let tree = *tree;
            Ok((node, tree))
        }
        _ => Err(broken("the snapshot's root is no directory")),
    }
}

/// Finds the node at a path from the snapshot's root; `None` when there is none. An empty path is the
/// root itself.
///
/// # Errors
/// When a tree on the way can't be read.
pub fn find_path(fetcher: &Fetcher<'_>, root: ChunkId, path: &[u8]) -> Result<Option<Node>, FetchError> {
    let (mut node, _) = root_node(fetcher, root)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        let NodeKind::Directory { tree } = node.kind else { return Ok(None) };
        match find_name(fetcher, tree, name)? {
            Some(found) => node = found,
            None => return Ok(None),
        }
    }
    Ok(Some(node))
}

/// Finds one name in a directory, descending only where it can be.
///
/// # Errors
/// When a tree on the way can't be read.
pub fn find_name(fetcher: &Fetcher<'_>, tree: ChunkId, name: &[u8]) -> Result<Option<Node>, FetchError> {
    let mut id = tree;
    for _ in 0..=SEQUENCE_LEVELS_MAX {
        match fetcher.structural(ChunkKind::Tree, id)? {
            SequenceChunk::Nodes(nodes) => return Ok(nodes.into_iter().find(|node| node.name == name)),
            SequenceChunk::Children { children, .. } => {
                match children.into_iter().find(|child| child.last_name.as_slice() >= name) {
                    Some(child) => id = child.id,
                    None => return Ok(None),
                }
            }
            SequenceChunk::Extents(_) => return Ok(None),
        }
    }
    Ok(None)
}

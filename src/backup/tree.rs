//! Builds the snapshot's trees from the walk's events, in order; memory is one open chunk for each
//! directory on the current path.

use super::BackupError;
use crate::crypto::keyring::ChunkHasher;
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::Counts;
use crate::pack::{ChunkSink, SequenceWriter};

/// The name of the one node above the source's root directory (`format-spec/snapshot.md`).
pub const ROOT_NAME: &[u8] = b"root";

/// Takes entries depth first and in order of names.
pub struct TreeBuilder<'a> {
    hasher: &'a ChunkHasher,
    open: Vec<(Node, SequenceWriter<'a>)>,
    root: Option<Node>,
    /// What went in so far.
    pub counts: Counts,
}

impl<'a> TreeBuilder<'a> {
    /// With nothing in it.
    pub fn new(hasher: &'a ChunkHasher) -> Self {
        TreeBuilder { hasher, open: Vec::new(), root: None, counts: Counts::default() }
    }

    /// A directory begins; the first one is the root.
    pub fn enter(&mut self, mut node: Node) {
        if self.open.is_empty() {
            node.name = ROOT_NAME.to_vec();
        }
        self.counts.directories += 1;
        self.open.push((node, SequenceWriter::new(ChunkKind::Tree, self.hasher)));
    }

    /// An entry of the innermost open directory.
    ///
    /// # Errors
    /// When a tree chunk can't be stored.
    pub fn leaf(&mut self, node: &Node, sink: &dyn ChunkSink) -> Result<(), BackupError> {
        match &node.kind {
            NodeKind::File { size, .. } => {
                self.counts.files += 1;
                self.counts.bytes += size;
            }
            _ => self.counts.others += 1,
        }
        if let Some((_, writer)) = self.open.last_mut() {
            writer.push_node(node, sink)?;
        }
        Ok(())
    }

    /// The innermost open directory is complete; gives its tree.
    ///
    /// # Errors
    /// When a tree chunk can't be stored.
    pub fn leave(&mut self, sink: &dyn ChunkSink) -> Result<Option<ChunkId>, BackupError> {
        let Some((mut node, writer)) = self.open.pop() else { return Ok(None) };
        let tree = writer.finish(sink)?;
        node.kind = NodeKind::Directory { tree };
        match self.open.last_mut() {
            Some((_, parent)) => parent.push_node(&node, sink)?,
            None => self.root = Some(node),
        }
        Ok(Some(tree))
    }

    /// The snapshot's root: the top chunk of a tree that holds the root directory alone.
    ///
    /// # Errors
    /// When the walk ended inside a directory, or a tree chunk can't be stored.
    pub fn finish(&mut self, sink: &dyn ChunkSink) -> Result<ChunkId, BackupError> {
        let root = self.root.take().filter(|_| self.open.is_empty()).ok_or(BackupError::WalkEndedEarly)?;
        let mut top = SequenceWriter::new(ChunkKind::Tree, self.hasher);
        top.push_node(&root, sink)?;
        Ok(top.finish(sink)?)
    }
}

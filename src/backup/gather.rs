//! The tree's end of the pipeline: takes blocks in walk order, builds the tree, remembers what was
//! seen, lists what is missing.

use super::BackupError;
use super::drive::{Block, Item, Shared};
use super::engine::Engine;
use super::tree::TreeBuilder;
use crate::crypto::keyring::ChunkHasher;
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, NodeKind};
use crate::format::snapshot::{Counts, NotCaptured, NotCapturedList};
use crate::pack::{ChunkSink, PackError};
use crate::report::Issue;
use crate::source::{Identity, SeenRecord, SeenWriter, XattrsRead, seen_end};
use crate::timing::Stage;

/// What the walk and the tree leave behind.
pub(super) struct Gathered {
    pub(super) root: ChunkId,
    pub(super) counts: Counts,
    pub(super) omitted: Vec<NotCaptured>,
    pub(super) issues: Vec<Issue>,
    pub(super) files: [u64; 3],
}

/// Takes blocks in walk order: builds the tree, remembers what was seen, lists what is missing.
pub(super) struct Gatherer<'a> {
    pub(super) tree: TreeBuilder<'a>,
    pub(super) root: Option<ChunkId>,
    /// The root of the snapshot from which unchanged files are taken over.
    base_root: Option<ChunkId>,
    pub(super) omitted: NotCapturedList,
    pub(super) omitted_count: u64,
    pub(super) issues: Vec<Issue>,
}

impl<'a> Gatherer<'a> {
    /// With a root that is known already, no entry is awaited.
    pub(super) fn new(hasher: &'a ChunkHasher, known_root: Option<ChunkId>, base_root: Option<ChunkId>) -> Self {
        Gatherer {
            tree: TreeBuilder::new(hasher),
            root: known_root,
            base_root,
            omitted: NotCapturedList::default(),
            omitted_count: 0,
            issues: Vec::new(),
        }
    }

    /// Leaves in the block what it need not keep, for the thread that made it.
    pub(super) fn take(
        &mut self,
        block: &mut Block,
        shared: &Shared<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
    ) -> Result<(), BackupError> {
        for item in &mut block.items {
            match item {
                Item::Known(entry, identity) => {
                    self.tree.leaf(&entry.node, &shared.engine)?;
                    if let (Some(identity), Some(Some(writer))) =
                        (identity, seen.as_deref_mut().map(|seen| seen.as_mut()))
                        && let NodeKind::File { content, .. } = &entry.node.kind
                    {
                        let plain = entry.xattrs == XattrsRead::All && entry.node.xattrs.is_empty();
                        let record = SeenRecord { path: &entry.path, identity, content, plain };
                        remember(writer, &record, shared)?;
                    }
                }
                Item::Leave(path, seen_tree) => {
                    let sink = Unless { engine: &shared.engine, known: *seen_tree };
                    let tree = self.tree.leave(&sink)?;
                    if let (Some(tree), Some(Some(writer))) = (tree, seen.as_deref_mut().map(|seen| seen.as_mut())) {
                        let (path, content) = (seen_end(path), Content::List(tree));
                        let identity = Identity::default();
                        let record = SeenRecord { path: &path, identity: &identity, content: &content, plain: false };
                        remember(writer, &record, shared)?;
                    }
                }
                Item::Enter(entry) => self.tree.enter(entry.node.clone()),
                Item::Omitted(path, why) => {
                    self.omitted_count += 1;
                    let (path, why) = (std::mem::take(path), (*why).to_owned());
                    self.omitted.push(NotCaptured { path, why, detail: String::new() });
                }
                Item::Failed(issue) => self.issues.push(issue.clone()),
                // Only a stopped run leaves something unread, and its blocks are not taken.
                Item::Read(..) => return Err(BackupError::WalkEndedEarly),
            }
        }
        shared.monitor.advance(block.items.len() as u64, 0);
        Ok(())
    }

    pub(super) fn finish(&mut self, shared: &Shared<'_>) -> Result<(), BackupError> {
        if self.root.is_none() {
            let sink = Unless { engine: &shared.engine, known: self.base_root };
            self.root = Some(self.tree.finish(&sink)?);
        }
        Ok(())
    }
}

/// The engine, for a sequence of which the last run stored this top chunk: it needs no look-up, being in a snapshot
/// that counts in every region of the run.
struct Unless<'a, 'b> {
    engine: &'a Engine<'b>,
    known: Option<ChunkId>,
}

impl ChunkSink for Unless<'_, '_> {
    fn structural(
        &self,
        kind: ChunkKind,
        id: ChunkId,
        bytes: &[u8],
        references: Vec<ChunkId>,
    ) -> Result<(), PackError> {
        match self.known == Some(id) {
            true => Ok(()),
            false => self.engine.structural(kind, id, bytes, references),
        }
    }
}

fn remember(writer: &mut SeenWriter, record: &SeenRecord<'_>, shared: &Shared<'_>) -> Result<(), BackupError> {
    shared.engine.timer.run(Stage::Remember, || writer.append(record)).map_err(|error| BackupError::Cache {
        directory: "the change-detection cache".to_owned(),
        detail: error.to_string(),
    })
}

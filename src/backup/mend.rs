//! Stores again what a snapshot reaches and no pack that may be relied on holds, out of whatever copy can
//! still be read: for a stream, which can't be read a second time.
//!
//! Guarantees: every chunk that the root reaches is looked up or stored, or the run fails. Only a slot that
//! opens payloads can read them.

use super::BackupError;
use super::drive::Shared;
use super::engine::Piece;
use super::file::Worker;
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Extent, NodeKind};
use crate::format::sequence::{SequenceChunk, decode_chunk, references};
use crate::index::inflight::IdSet;
use crate::pack::ChunkSink;
use crate::repo::fetch::{FetchError, Fetcher};

/// Opened frames kept, in bytes.
const FETCH_CACHE_BYTES: usize = 16 << 20;
/// Chunks looked up at once.
const BATCH: usize = 1024;

/// Visits everything below `root` and stores what is missing.
///
/// # Errors
/// [`BackupError::Lost`] when a chunk that is missing can't be read any more, or not by this slot.
pub(super) fn mend(fetcher: &Fetcher<'_>, shared: &Shared<'_>, root: ChunkId) -> Result<(), BackupError> {
    let mut visited = IdSet::default();
    let mut open = vec![(ChunkKind::Tree, root)];
    let mut worker = Worker::new(shared.engine.chunker.max());
    while let Some((kind, id)) = open.pop() {
        if !visited.insert(id) {
            continue;
        }
        let bytes = fetcher.chunk(kind, id).map_err(lost)?;
        let chunk = decode_chunk(kind, &bytes).map_err(|source| lost(FetchError::Decode { id, source }))?;
        shared.engine.structural(kind, id, &bytes, references(&chunk))?;
        match chunk {
            SequenceChunk::Children { children, .. } => open.extend(children.iter().map(|child| (kind, child.id))),
            SequenceChunk::Extents(extents) => data(fetcher, shared, &mut worker, &extents)?,
            SequenceChunk::Nodes(nodes) => {
                for node in nodes {
                    match node.kind {
                        NodeKind::Directory { tree } => open.push((ChunkKind::Tree, tree)),
                        NodeKind::File { content: Content::List(list), .. } => open.push((ChunkKind::List, list)),
                        NodeKind::File { content: Content::Inline(extents), .. } => {
                            data(fetcher, shared, &mut worker, &extents)?;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    worker.frame.flush(&shared.engine.data)?;
    Ok(())
}

fn data(
    fetcher: &Fetcher<'_>,
    shared: &Shared<'_>,
    worker: &mut Worker,
    extents: &[Extent],
) -> Result<(), BackupError> {
    let ids: Vec<ChunkId> = extents
        .iter()
        .filter_map(|extent| match extent {
            Extent::Chunk { id, .. } => Some(*id),
            Extent::Hole { .. } => None,
        })
        .collect();
    for batch in ids.chunks(BATCH) {
        for (id, known) in batch.iter().zip(shared.engine.known(batch)?) {
            if shared.engine.interrupted() {
                return Err(BackupError::Cancelled);
            }
            if !known {
                let bytes = fetcher.chunk(ChunkKind::Data, *id).map_err(lost)?;
                shared.engine.store(&mut worker.frame, &[Piece { id: *id, bytes: &bytes, in_base: false }])?;
            }
        }
    }
    Ok(())
}

fn lost(error: FetchError) -> BackupError {
    match error {
        FetchError::Index(error) => error.into(),
        error => BackupError::Lost { detail: error.to_string() },
    }
}

impl Shared<'_> {
    /// As [`mend`], reading through a cache of its own.
    pub(super) fn mend(&self, root: ChunkId) -> Result<(), BackupError> {
        let fetcher = Fetcher::new(self.engine.watch.repository, self.engine.index, self.monitor, FETCH_CACHE_BYTES);
        mend(&fetcher, self, root)
    }
}

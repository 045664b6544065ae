//! The walk's end of the pipeline: entries become blocks, and a file that the last run saw unchanged is
//! not opened again.

use super::BackupError;
use super::drive::{Blocks, Item, Shared, blocks_under_way};
use super::run::{Backup, Basis, Run};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Extent, NodeKind};
use crate::index::Index;
use crate::repo::{Repository, SnapshotInfo};
use crate::source::{
    Entry, Event, SeenEntry, SeenReader, SeenStamp, SeenWriter, Walk, XattrsRead, is_unchanged, seen_end,
    sees_all_xattrs,
};
use crate::timing::Stage;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const BLOCK_ENTRIES_MAX: usize = 1024;
/// Some frames, so that neighbours in the tree become neighbours in frames.
const BLOCK_BYTES_TARGET: u64 = 4 << 20;

/// Directories that blocks under way hold open, all together. A process may often have no more than 1024 files open,
/// and the walk, the index and the stores need theirs.
const DIRECTORIES_UNDER_WAY: usize = 320;

/// Where the change-detection cache of this source is, and the snapshot on which the last one rests.
pub(super) struct Remembered<'e> {
    place: Option<(PathBuf, SeenStamp)>,
    /// A state must name it before the log is listed, so it is known before the session (`ORDER-7`).
    pub(super) base: Option<&'e SnapshotInfo>,
}

/// The last run's change-detection cache, read along; the next one's is written along.
pub(super) struct Seen {
    reader: Option<SeenReader>,
    previous_started_at: i64,
}

impl<'e> Remembered<'e> {
    /// Finds what the last run of this source remembered. `earlier` are the snapshots that count.
    ///
    /// # Errors
    /// When the index can't be read.
    pub(super) fn find(
        repository: &Repository,
        index: &dyn Index,
        options: &Backup,
        basis: &Basis,
        root_path: &[u8],
        earlier: &'e [SnapshotInfo],
    ) -> Result<Self, BackupError> {
        let Some(directory) = &options.seen_directory else { return Ok(Remembered { place: None, base: None }) };
        // Other hosts, chunk sizes and epochs give other content for the same file. Who may not see all attributes
        // remembers files as having none that do.
        let chunk_average = (options.chunk_average as u64).to_le_bytes();
        let epoch = repository.keyring.current_epoch().to_le_bytes();
        let sees_all = [u8::from(sees_all_xattrs())];
        let series = [options.host.as_bytes(), &chunk_average, &epoch, &sees_all].concat();
        // An index that was made anew holds what the regions list now, which may be less than was
        // there when this was remembered: then every file is read, and what is gone is stored again.
        // So it is when packs that it may rest on are trusted no more, or are listed and not there: the next
        // one is valid as long as no more of them are lost.
        let trust = basis.trust.stamp(index, directory, &*repository.random, options.dry_run)?;
        let lacking = basis.trust.digest_of_lacking(&basis.lacking, index)?;
        let parameters = [&series[..], &trust, &lacking, &index.incarnation()].concat();
        let root = Path::new(std::ffi::OsStr::from_bytes(root_path));
        let stamp = SeenStamp::new(repository.config.repository, &options.dataset, root, &parameters);
        let mut key = blake3::Hasher::new_derive_key("keepstone seen file");
        for part in [options.dataset.as_bytes(), root_path, &series] {
            key.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let path = directory.join(format!("{}.seen", key.finalize().to_hex()));
        let base = match SeenReader::open(&path, &stamp) {
            Ok(reader) => earlier.iter().find(|info| {
                info.id == reader.base()
                    && info.slot == repository.secrets.slot
                    && info.snapshot.chunk_average_bytes == options.chunk_average as u64
            }),
            Err(reason) => {
                tracing::debug!(%reason, "no earlier change-detection cache");
                None
            }
        };
        Ok(Remembered { place: Some((path, stamp)), base })
    }

    /// For one pass. What is remembered is used without look-ups if its snapshot, named by the session's
    /// states, counts in every region of the run still; gives that snapshot then.
    pub(super) fn open(&self, run: &Run<'_>) -> (Seen, Option<SeenWriter>, Option<&'e SnapshotInfo>) {
        let mut seen = Seen { reader: None, previous_started_at: 0 };
        let Some((path, stamp)) = &self.place else { return (seen, None, None) };
        let mut session = run.session();
        let base = self.base.filter(|base| {
            session.holds_base(run.repository, base).unwrap_or_else(|error| {
                tracing::warn!(%error, "the verdicts can't be read; every file is");
                false
            })
        });
        let reader = base.and_then(|base| {
            let reader = SeenReader::open(path, stamp).ok();
            reader.filter(|reader| reader.base() == base.id)
        });
        let base = base.filter(|_| reader.is_some());
        if let Some(reader) = reader {
            seen.previous_started_at = reader.scan_started_at();
            seen.reader = Some(reader);
        } else if !run.options.dry_run {
            session.drop_bases(run.repository);
        }
        let mut writer = None;
        if !run.options.dry_run {
            match SeenWriter::create(path, stamp, run.started_at) {
                Ok(created) => writer = Some(created),
                Err(error) => run.monitor.notice(&format!("changes can't be remembered for the next run: {error}")),
            }
        }
        (seen, writer, base)
    }
}

impl Seen {
    /// What the last run stored for this file, if nothing says that it changed since.
    fn unchanged(&mut self, entry: &Entry) -> Known {
        let Some(reader) = &mut self.reader else { return Known::New };
        match reader.lookup(&entry.path) {
            None => Known::New,
            Some(record) if is_unchanged(&entry.identity, &record.identity, self.previous_started_at, false) => {
                Known::Unmodified(record)
            }
            Some(record) => Known::Changed(record.content),
        }
    }
}

impl Seen {
    /// The tree that the last run stored for this directory. It is in a snapshot that counts, as the content of
    /// unchanged files is.
    fn tree(&mut self, path: &[u8]) -> Option<ChunkId> {
        match self.reader.as_mut()?.lookup(&seen_end(path))?.content {
            Content::List(tree) => Some(tree),
            Content::Inline(_) => None,
        }
    }
}

fn chunks_of(content: &Content) -> Vec<ChunkId> {
    let chunk = |extent: &Extent| match extent {
        Extent::Chunk { id, .. } => Some(*id),
        Extent::Hole { .. } => None,
    };
    match content {
        Content::Inline(extents) => extents.iter().filter_map(chunk).collect(),
        Content::List(_) => Vec::new(),
    }
}

enum Known {
    New,
    Changed(Content),
    Unmodified(SeenEntry),
}

pub(super) fn produce(
    walk: &mut Walk,
    seen: &mut Seen,
    shared: &Shared<'_>,
    blocks: &mut Blocks<'_, '_>,
) -> Result<(), BackupError> {
    let mut items = Vec::new();
    let mut bytes = 0u64;
    let mut entered: Vec<Vec<u8>> = Vec::new();
    // What is to be read holds its directory open, and the system allows so many only.
    let mut directories = 0;
    let mut last_directory = None;
    let directories_max = (DIRECTORIES_UNDER_WAY / blocks_under_way(shared.threads)).max(1);
    let timer = &shared.engine.timer;
    while let Some(event) = timer.run(Stage::Walk, || walk.next()) {
        if shared.monitor.cancelled() {
            shared.fail(BackupError::Cancelled);
        }
        if shared.stopped() {
            return Ok(());
        }
        let item = match event {
            Event::Enter(entry) => {
                entered.push(entry.path.clone());
                Item::Enter(entry)
            }
            Event::Leave => {
                let path = entered.pop().unwrap_or_default();
                let tree = timer.run(Stage::Compare, || seen.tree(&path));
                Item::Leave(path, tree)
            }
            Event::Omitted { path, why } => Item::Omitted(path, why.name()),
            Event::Failed(issue) => {
                shared.monitor.issue(&issue);
                Item::Failed(issue)
            }
            Event::Leaf(mut entry) => {
                let size = match &entry.node.kind {
                    NodeKind::File { size, .. } => Some(*size),
                    _ => None,
                };
                match (size, walk.directory()) {
                    (Some(size), Some(directory)) => match timer.run(Stage::Compare, || seen.unchanged(&entry)) {
                        Known::Unmodified(SeenEntry { content, plain, .. }) => {
                            blocks.unmodified += 1;
                            let identity = entry.identity;
                            entry.node.kind = NodeKind::File { size, content, inconsistent: false };
                            shared.monitor.advance(0, size);
                            let issue = match plain {
                                true => {
                                    entry.xattrs = XattrsRead::All;
                                    None
                                }
                                false => timer.run(Stage::Walk, || walk.read_xattrs(&mut entry)),
                            };
                            let known = Item::Known(entry, Some(identity));
                            match issue {
                                None => known,
                                Some(issue) => {
                                    items.push(known);
                                    shared.monitor.issue(&issue);
                                    Item::Failed(issue)
                                }
                            }
                        }
                        other => {
                            // A file that was written anew often is what it was.
                            let base = match other {
                                Known::Changed(content) => Some(chunks_of(&content)),
                                _ => None,
                            };
                            bytes += size;
                            let number = directory.as_raw_fd();
                            if last_directory.replace(number) != Some(number) {
                                directories += 1;
                            }
                            Item::Read(entry, directory, base)
                        }
                    },
                    _ => Item::Known(entry, None),
                }
            }
        };
        items.push(item);
        if items.len() >= BLOCK_ENTRIES_MAX || bytes >= BLOCK_BYTES_TARGET || directories >= directories_max {
            blocks.send(&mut items);
            (bytes, directories, last_directory) = (0, 0, None);
        }
    }
    blocks.send(&mut items);
    Ok(())
}

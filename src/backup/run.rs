//! One backup: its options, the two entry points, and what their parts share.
//!
//! `drive` runs the pipeline, `produce` feeds it from a walk, `gather` builds the trees, `conclude` writes
//! snapshot and commits.

use super::drive::{Block, Item};
use super::engine::DedupTrust;
use super::file::Worker;
use super::produce::{Seen, produce};
use super::{BackupError, BackupSummary, check_dataset};
use crate::compress::Compression;
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::{SnapshotPrivate, SourceKind};
use crate::index::Index;
use crate::limits::{LABEL_BYTES_MAX, TAGS_MAX};
use crate::pack::SpoolSpace;
use crate::repo::open::AUTHORS;
use crate::repo::{Repository, Session, SnapshotInfo};
use crate::report::{Monitor, Phase};
use crate::ship::Destination;
use crate::source::{Entry, Identity, Walk};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How to back up.
#[derive(Clone)]
pub struct Backup {
    /// The series that the snapshot belongs to.
    pub dataset: String,
    /// The host it is taken on.
    pub host: String,
    /// Tags.
    pub tags: BTreeSet<String>,
    /// Average chunk size in bytes.
    pub chunk_average: usize,
    /// How hard to compress.
    pub compression: Compression,
    /// Count, store nothing.
    pub dry_run: bool,
    /// Save no snapshot when the tree is as the last one of this dataset and host has it.
    pub skip_if_unchanged: bool,
    /// A source with nothing in it is no error.
    pub allow_empty: bool,
    /// Whose packs to deduplicate against.
    pub trust: DedupTrust,
    /// Worker threads; 0 runs everything on the caller's.
    pub threads: usize,
    /// Where open packs are spooled.
    pub spools: SpoolSpace,
    /// Where the change-detection cache is; `None` for none.
    pub seen_directory: Option<PathBuf>,
}

/// Everything that one run needs besides its source.
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: &'a dyn Index,
    pub(super) options: &'a Backup,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) session: Session,
    pub(super) started_at: i64,
}

impl<'a> Run<'a> {
    fn open(
        repository: &'a Repository,
        index: &'a dyn Index,
        options: &'a Backup,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, BackupError> {
        // A slot that may not back up leaves no session behind.
        repository.require(&AUTHORS, "back up")?;
        let started_at = repository.clock.now_ns();
        let session = if options.dry_run { Session::rehearse(repository)? } else { Session::open(repository)? };
        Ok(Run { repository, index, options, monitor, session, started_at })
    }

    pub(super) fn destinations(&self) -> Vec<Destination> {
        let regions = self.repository.regions.iter();
        regions.map(|region| Destination { name: region.name.clone(), store: Arc::clone(&region.store) }).collect()
    }
}

fn check_labels(options: &Backup) -> Result<(), BackupError> {
    let check = |what, length: usize, max: usize| match length {
        1.. if length <= max => Ok(()),
        _ => Err(BackupError::TooLong { what, length, max }),
    };
    check("the dataset's name", options.dataset.len(), LABEL_BYTES_MAX)?;
    check("the host's name", options.host.len(), LABEL_BYTES_MAX)?;
    options.tags.iter().try_for_each(|tag| check("a tag", tag.len(), LABEL_BYTES_MAX))?;
    match options.tags.len() {
        0..=TAGS_MAX => Ok(()),
        length => Err(BackupError::TooLong { what: "the list of tags", length, max: TAGS_MAX }),
    }
}

/// Backs up a directory tree. `earlier` are the snapshots that count now; `walk` is the source.
///
/// # Errors
/// When no snapshot was saved.
pub fn backup_tree(
    repository: &Repository,
    index: &dyn Index,
    options: &Backup,
    sources: &[PathBuf],
    mut walk: Walk,
    earlier: &[SnapshotInfo],
    monitor: &dyn Monitor,
) -> Result<BackupSummary, BackupError> {
    check_labels(options)?;
    check_dataset(repository, &options.dataset)?;
    if let Some(empty) = walk.empty_sources().first().filter(|_| !options.allow_empty) {
        return Err(BackupError::EmptySource { path: empty.display().to_string() });
    }
    let root_path = walk.root().as_os_str().as_bytes().to_vec();
    let private = SnapshotPrivate {
        sources: sources.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
        root_path: root_path.clone(),
        ..SnapshotPrivate::default()
    };
    let mut run = Run::open(repository, index, options, monitor)?;
    let (mut seen, mut writer) = Seen::open(&run, &root_path, earlier);
    monitor.phase(Phase::Backup, None, None);
    let done = run.drive(|shared, blocks| produce(&mut walk, &mut seen, shared, blocks), Some(&mut writer))?;
    let summary = run.conclude(done, private, SourceKind::Tree, earlier)?;
    if let Some(id) = summary.snapshot
        && !summary.pending()
        && let Some(writer) = writer
        && let Err(error) = writer.commit(id)
    {
        tracing::warn!(%error, "the change-detection cache was not written; the next run reads all files");
    }
    Ok(summary)
}

/// Backs up one stream as a tree of one file named `node.name`.
///
/// # Errors
/// When no snapshot was saved; `finish` reports a failed command, after which nothing is kept.
#[allow(clippy::too_many_arguments)] // One call from one place; a struct would only rename them.
pub fn backup_stream<S: std::io::Read + Send>(
    repository: &Repository,
    index: &dyn Index,
    options: &Backup,
    mut node: Node,
    command: Vec<u8>,
    mut stream: S,
    finish: impl FnOnce(S) -> Result<(), BackupError> + Send,
    earlier: &[SnapshotInfo],
    monitor: &dyn Monitor,
) -> Result<BackupSummary, BackupError> {
    check_labels(options)?;
    check_dataset(repository, &options.dataset)?;
    let private = SnapshotPrivate { sources: vec![node.name.clone()], command, ..SnapshotPrivate::default() };
    let mut run = Run::open(repository, index, options, monitor)?;
    monitor.phase(Phase::Backup, None, None);
    let name = String::from_utf8_lossy(&node.name).into_owned();
    let mut stream_error = None;
    let done = run.drive(
        |shared, blocks| {
            let mut worker = Worker::new(shared.engine.chunker.max());
            let mut root = node.clone();
            root.mode = 0o700;
            let stopped = &mut stream_error;
            let pass = move |worker: &mut Worker, node: &mut Node| -> Result<(), BackupError> {
                let mut cancellable = Cancellable { inner: &mut stream, monitor };
                let progress = |bytes| monitor.advance(0, bytes);
                let (size, content) = match worker.capture_stream(&shared.engine, &mut cancellable, &progress) {
                    Err(BackupError::Stream(_)) if monitor.cancelled() => return Err(BackupError::Cancelled),
                    captured => captured?,
                };
                finish(stream)?;
                if size == 0 && !options.allow_empty {
                    return Err(BackupError::EmptyStream { name });
                }
                node.kind = NodeKind::File { size, content, inconsistent: false };
                worker.frame.flush(&shared.engine.data)?;
                Ok(())
            };
            match pass(&mut worker, &mut node) {
                Ok(()) => {
                    let directory = Entry { path: Vec::new(), node: root, identity: Identity::default() };
                    let path = node.name.clone();
                    let file = Entry { path, node: node.clone(), identity: Identity::default() };
                    let items = vec![Item::Enter(directory), Item::Known(file, None), Item::Leave];
                    blocks.send(Block { number: 0, items });
                }
                Err(error) => {
                    // What was cut so far is stored: the next run of the same stream is quicker by it.
                    let flushed = worker.frame.flush(&shared.engine.data);
                    *stopped = Some(error);
                    shared.engine.stop.store(true, Ordering::Relaxed);
                    flushed?;
                }
            }
            Ok(())
        },
        None,
    );
    if let Some(error) = stream_error {
        // What made the reader stop is the error to tell, unless it was the user.
        if matches!(error, BackupError::Cancelled) && !monitor.cancelled() {
            done?;
            return Err(error);
        }
        if !options.dry_run && !matches!(error, BackupError::Cancelled) {
            run.session.end(repository);
        }
        return Err(error);
    }
    run.conclude(done?, private, SourceKind::Stream, earlier)
}

/// A reader that ends in an error once the user asked to stop.
struct Cancellable<'a> {
    inner: &'a mut (dyn std::io::Read + Send),
    monitor: &'a dyn Monitor,
}

impl std::io::Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.monitor.cancelled() {
            true => Err(std::io::Error::other("stopped")),
            false => self.inner.read(buffer),
        }
    }
}

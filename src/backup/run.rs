//! Drives one backup: workers, the walk, the tree, the finisher, and the commits at the end.
//!
//! Blocks of consecutive entries go from the walk to workers and, in order, to the tree builder; how
//! many are under way is bounded, and so is memory. With no threads, each step runs in turn on the
//! caller's thread, so that a simulation can drive it.

use super::engine::{DedupTrust, Engine, UsablePacks};
use super::file::{Captured, Worker};
use super::finish::Finisher;
use super::tree::TreeBuilder;
use super::{BackupError, BackupSummary, RegionOutcome};
use crate::chunker::Chunker;
use crate::compress::Compression;
use crate::env::Random;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{ChunkId, SnapshotId};
use crate::format::node::{Content, Node, NodeKind};
use crate::format::snapshot::{Counts, NotCaptured, Snapshot, SnapshotPrivate, SourceKind};
use crate::index::{InFlight, Index};
use crate::limits::{LABEL_BYTES_MAX, NOT_CAPTURED_LISTED_MAX, TAGS_MAX};
use crate::pack::{FinishedPack, FrameBuilder, PackWriter, SpoolSpace};
use crate::repo::open::AUTHORS;
use crate::repo::snapshots::{seal_private, snapshot_name};
use crate::repo::{Repository, Session, SnapshotInfo};
use crate::report::{Issue, Monitor, Phase};
use crate::ship::{Destination, Shipper};
use crate::source::{Entry, Event, Identity, SeenReader, SeenRecord, SeenStamp, SeenWriter, Walk, is_unchanged};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const BLOCK_ENTRIES_MAX: usize = 256;
const BLOCK_BYTES_TARGET: u64 = 1 << 20;
const BLOCKS_UNDER_WAY: usize = 64;
const PACKS_WAITING: usize = 2;
const UPLOADS_WAITING: usize = 2;

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

/// Entries on their way through the pipeline, in walk order.
struct Block {
    number: u64,
    items: Vec<Item>,
}

enum Item {
    Enter(Entry),
    Leave,
    /// Complete: no regular file, or one whose content is known.
    Known(Entry, Option<Identity>),
    /// To be read.
    Read(Entry, Arc<OwnedFd>),
    Omitted(Vec<u8>, &'static str),
    Failed(Issue),
}

struct Shared<'a> {
    engine: Engine<'a>,
    monitor: &'a dyn Monitor,
    failure: Mutex<Option<BackupError>>,
}

impl Shared<'_> {
    fn fail(&self, error: BackupError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.engine.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.engine.stop.load(Ordering::Relaxed)
    }

    fn take_failure(&self) -> Option<BackupError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads what is to be read in a block.
    fn work(&self, worker: &mut Worker, block: &mut Block) -> Result<(), BackupError> {
        for item in &mut block.items {
            if self.stopped() {
                return Ok(());
            }
            let Item::Read(entry, directory) = item else { continue };
            self.monitor.current(&entry.path);
            let captured = worker.capture(&self.engine, &**directory, entry)?;
            *item = match captured {
                Captured::Lost(issue) => Item::Failed(issue),
                Captured::Whole(identity, issue) => {
                    if let Some(issue) = issue {
                        // The entry is kept and the issue is counted besides it.
                        self.monitor.issue(&issue);
                        let entry = entry.clone();
                        let inconsistent = Item::Known(entry, identity);
                        self.issues_push(issue);
                        inconsistent
                    } else {
                        Item::Known(entry.clone(), identity)
                    }
                }
            };
            if let Item::Known(entry, _) = item
                && let NodeKind::File { size, .. } = &entry.node.kind
            {
                self.monitor.advance(0, *size);
            }
        }
        Ok(())
    }

    fn issues_push(&self, issue: Issue) {
        self.engine.kept_issues.lock().unwrap_or_else(PoisonError::into_inner).push(issue);
    }
}

/// What the walk and the tree leave behind.
struct Gathered {
    root: ChunkId,
    counts: Counts,
    omitted: Vec<NotCaptured>,
    issues: Vec<Issue>,
    files: [u64; 3],
}

/// Everything that one run needs besides its source.
struct Run<'a> {
    repository: &'a Repository,
    index: &'a dyn Index,
    options: &'a Backup,
    monitor: &'a dyn Monitor,
    session: Session,
    started_at: i64,
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

/// The last run's change-detection cache, read along; the next one's is written along.
struct Seen {
    reader: Option<SeenReader>,
    previous_started_at: i64,
}

impl Seen {
    fn open(run: &Run<'_>, root_path: &[u8], earlier: &[SnapshotInfo]) -> (Seen, Option<SeenWriter>) {
        let mut seen = Seen { reader: None, previous_started_at: 0 };
        let Some(directory) = &run.options.seen_directory else { return (seen, None) };
        // Other hosts, chunk sizes and epochs give other content for the same file.
        let chunk_average = (run.options.chunk_average as u64).to_le_bytes();
        let epoch = run.repository.keyring.current_epoch().to_le_bytes();
        let series = [run.options.host.as_bytes(), &chunk_average, &epoch].concat();
        // An index that was made anew holds what the regions list now, which may be less than was
        // there when this was remembered: then every file is read, and what is gone is stored again.
        let parameters = [&series[..], &run.index.incarnation()].concat();
        let root = Path::new(std::ffi::OsStr::from_bytes(root_path));
        let repository = run.repository.config.repository;
        let stamp = SeenStamp::new(repository, &run.options.dataset, root, &parameters);
        let mut key = blake3::Hasher::new_derive_key("keepstone seen file");
        for part in [run.options.dataset.as_bytes(), root_path, &series] {
            key.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let path = directory.join(format!("{}.seen", key.finalize().to_hex()));
        match SeenReader::open(&path, &stamp) {
            Ok(reader) => {
                // What it remembers needs no look-up while its snapshot counts in every region of the
                // run and no pack is condemned in any.
                let base = earlier.iter().find(|info| info.id == reader.base());
                let whole = base.is_some_and(|info| {
                    info.regions.len() == run.repository.regions.len()
                        && info.slot == run.repository.secrets.slot
                        && info.snapshot.chunk_average_bytes == run.options.chunk_average as u64
                });
                if whole && run.session.missing().is_empty() {
                    seen.previous_started_at = reader.scan_started_at();
                    seen.reader = Some(reader);
                }
            }
            Err(reason) => tracing::debug!(%reason, "no earlier change-detection cache"),
        }
        let mut writer = None;
        if !run.options.dry_run {
            match SeenWriter::create(&path, &stamp, run.started_at) {
                Ok(created) => writer = Some(created),
                Err(error) => run.monitor.notice(&format!("changes can't be remembered for the next run: {error}")),
            }
        }
        (seen, writer)
    }

    /// What the last run stored for this file, if nothing says that it changed since.
    fn unchanged(&mut self, entry: &Entry) -> Known {
        let Some(reader) = &mut self.reader else { return Known::New };
        match reader.lookup(&entry.path) {
            None => Known::New,
            Some(record) if is_unchanged(&entry.identity, &record.identity, self.previous_started_at, false) => {
                Known::Unmodified(record.content)
            }
            Some(_) => Known::Changed,
        }
    }
}

enum Known {
    New,
    Changed,
    Unmodified(Content),
}

/// Where the walk hands its blocks.
struct Blocks<'a, 'b> {
    number: u64,
    send: &'b mut (dyn FnMut(Block) + 'a),
    files: [u64; 3],
}

impl Blocks<'_, '_> {
    fn send(&mut self, mut block: Block) {
        block.number = self.number;
        self.number += 1;
        (self.send)(block);
    }
}

fn produce(
    walk: &mut Walk,
    seen: &mut Seen,
    shared: &Shared<'_>,
    blocks: &mut Blocks<'_, '_>,
) -> Result<(), BackupError> {
    let mut items = Vec::new();
    let mut bytes = 0u64;
    while let Some(event) = walk.next() {
        if shared.monitor.cancelled() {
            shared.fail(BackupError::Cancelled);
        }
        if shared.stopped() {
            return Ok(());
        }
        let item = match event {
            Event::Enter(entry) => Item::Enter(entry),
            Event::Leave => Item::Leave,
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
                    (Some(size), Some(directory)) => match seen.unchanged(&entry) {
                        Known::Unmodified(content) => {
                            blocks.files[2] += 1;
                            let identity = entry.identity;
                            entry.node.kind = NodeKind::File { size, content, inconsistent: false };
                            shared.monitor.advance(0, size);
                            Item::Known(entry, Some(identity))
                        }
                        other => {
                            blocks.files[usize::from(matches!(other, Known::Changed))] += 1;
                            bytes += size;
                            Item::Read(entry, directory)
                        }
                    },
                    _ => Item::Known(entry, None),
                }
            }
        };
        items.push(item);
        if items.len() >= BLOCK_ENTRIES_MAX || bytes >= BLOCK_BYTES_TARGET {
            blocks.send(Block { number: 0, items: std::mem::take(&mut items) });
            bytes = 0;
        }
    }
    blocks.send(Block { number: 0, items });
    Ok(())
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

    fn destinations(&self) -> Vec<Destination> {
        let regions = self.repository.regions.iter();
        regions.map(|region| Destination { name: region.name.clone(), store: Arc::clone(&region.store) }).collect()
    }

    /// Runs producer, workers, tree builder and finisher to their end.
    fn drive(
        &mut self,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError> + Send,
        mut seen: Option<&mut Option<SeenWriter>>,
    ) -> Result<(Gathered, Shipper, u64, u64, u64), BackupError> {
        let failed = std::mem::take(&mut self.session.failed);
        let options = self.options;
        let keyring = &self.repository.keyring;
        let (pack_sender, pack_receiver) =
            if options.threads == 0 { unbounded() } else { bounded::<FinishedPack>(PACKS_WAITING) };
        let writer = |metadata| {
            let sender: Sender<FinishedPack> = pack_sender.clone();
            // The finisher lives until every sender is gone; a send that fails means it failed already.
            let sink = Arc::new(move |pack| drop(sender.send(pack)));
            let random: Arc<dyn Random> = Arc::clone(&self.repository.random);
            let spools = options.spools.clone();
            PackWriter::new(Arc::clone(keyring), random, spools, self.session.id, metadata, options.compression, sink)
        };
        let in_flight = Arc::new(InFlight::new());
        // A region that took no session gets nothing, so what it lacks need not be stored for it.
        let out = |at: &usize| failed.iter().any(|(failed, _)| failed == at);
        let taking = (0..self.repository.regions.len()).filter(|at| !out(at));
        let regions = taking.map(|at| self.repository.regions[at].info.region).collect();
        let missing: HashSet<_> = self.session.missing();
        let engine = Engine {
            index: self.index,
            in_flight: Arc::clone(&in_flight),
            data: writer(false),
            metadata: writer(true),
            metadata_frame: Mutex::new(FrameBuilder::new()),
            hasher: keyring.ids(keyring.current_epoch())?,
            chunker: Chunker::new(&keyring.gear()?, options.chunk_average)?,
            usable: UsablePacks::new(self.repository, self.index, regions, missing, options.trust),
            stop: AtomicBool::new(false),
            monitor: self.monitor,
            dry_run: options.dry_run,
            new_bytes: crate::report::Counter::default(),
            new_chunks: crate::report::Counter::default(),
            kept_issues: Mutex::new(Vec::new()),
        };
        drop(pack_sender);
        let upload_threads = if options.threads == 0 { 0 } else { 2 * self.repository.regions.len().min(2) };
        let shipper = Shipper::new(self.destinations(), upload_threads, UPLOADS_WAITING);
        failed.into_iter().for_each(|(at, error)| shipper.fail(at, error));
        let finisher = Finisher::new(self.repository, self.index, in_flight, &shipper, self.session.id);
        let shared = Shared { engine, monitor: self.monitor, failure: Mutex::new(None) };
        let hasher = shared.engine.hasher.clone();
        let mut gather = Gatherer::new(&hasher);
        let (files, stored) = if options.threads == 0 {
            self.drive_inline(&shared, &mut gather, &mut seen, finisher, &pack_receiver, produce)?
        } else {
            self.drive_threads(&shared, &mut gather, &mut seen, finisher, pack_receiver, produce)?
        };
        if let Some(error) = shared.take_failure() {
            return Err(error);
        }
        let Shared { engine, .. } = shared;
        let root = gather.root.ok_or(BackupError::WalkEndedEarly)?;
        let mut counts = gather.tree.counts;
        let kept = engine.kept_issues.into_inner().unwrap_or_else(PoisonError::into_inner);
        counts.omitted = gather.omitted_count;
        counts.issues = gather.issues.len() as u64 + kept.len() as u64;
        let mut issues = gather.issues;
        issues.extend(kept);
        let gathered = Gathered { root, counts, omitted: gather.omitted, issues, files };
        Ok((gathered, shipper, stored, engine.new_bytes.get(), engine.new_chunks.get()))
    }

    fn drive_inline(
        &self,
        shared: &Shared<'_>,
        gather: &mut Gatherer<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
        mut finisher: Finisher<'_>,
        packs: &Receiver<FinishedPack>,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError>,
    ) -> Result<([u64; 3], u64), BackupError> {
        let mut worker = Worker::new(shared.engine.chunker.max());
        let mut step = |mut block: Block| {
            let result = shared
                .work(&mut worker, &mut block)
                .and_then(|()| gather.take(block, shared, seen))
                .and_then(|()| packs.try_iter().try_for_each(|pack| finisher.accept(pack)));
            if let Err(error) = result {
                shared.fail(error);
            }
        };
        let mut blocks = Blocks { number: 0, send: &mut step, files: [0; 3] };
        let produced = produce(shared, &mut blocks);
        let files = blocks.files;
        let note = |result: Result<(), BackupError>| result.unwrap_or_else(|error| shared.fail(error));
        note(produced);
        note(worker.frame.flush(&shared.engine.data).map_err(BackupError::from));
        if !shared.stopped() {
            note(gather.finish(shared));
        }
        // Also after a failure or a stop: what is finished is shipped, and the next run finds it.
        note(close_writers(&shared.engine));
        note(packs.try_iter().try_for_each(|pack| finisher.accept(pack)));
        note(finisher.flush());
        // The first failure is the one to tell; the others may only be what it led to.
        shared.take_failure().map_or(Ok((files, finisher.pack_bytes)), Err)
    }

    fn drive_threads(
        &self,
        shared: &Shared<'_>,
        gather: &mut Gatherer<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
        mut finisher: Finisher<'_>,
        packs: Receiver<FinishedPack>,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError> + Send,
    ) -> Result<([u64; 3], u64), BackupError> {
        let (to_workers, work) = bounded::<Block>(BLOCKS_UNDER_WAY);
        let (to_tree, done) = unbounded::<Block>();
        // One permit for each block under way, given back once the tree has it.
        let (permits, permitted) = bounded::<()>(BLOCKS_UNDER_WAY);
        std::thread::scope(|scope| {
            let finishing = scope.spawn(move || -> u64 {
                let mut failed = false;
                for pack in &packs {
                    // After a failure the queue is drained all the same: senders must not wait for ever.
                    if !failed && let Err(error) = finisher.accept(pack) {
                        failed = true;
                        shared.fail(error);
                    }
                }
                if !failed && let Err(error) = finisher.flush() {
                    shared.fail(error);
                }
                finisher.pack_bytes
            });
            let workers: Vec<_> = (0..self.options.threads)
                .map(|_| {
                    let (work, to_tree) = (work.clone(), to_tree.clone());
                    scope.spawn(move || {
                        let mut worker = Worker::new(shared.engine.chunker.max());
                        for mut block in &work {
                            if let Err(error) = shared.work(&mut worker, &mut block) {
                                shared.fail(error);
                            }
                            // The tree builder lives as long as there are workers.
                            let _ = to_tree.send(block);
                        }
                        if let Err(error) = worker.frame.flush(&shared.engine.data) {
                            shared.fail(error.into());
                        }
                    })
                })
                .collect();
            drop((work, to_tree));
            let producing = scope.spawn(move || {
                let mut send = |block: Block| {
                    // Both fail only when the other side is gone, after a panic there.
                    let _ = permits.send(());
                    let _ = to_workers.send(block);
                };
                let mut blocks = Blocks { number: 0, send: &mut send, files: [0; 3] };
                if let Err(error) = produce(shared, &mut blocks) {
                    shared.fail(error);
                }
                blocks.files
            });
            // Blocks come back in any order and are taken in walk order.
            let mut early: BTreeMap<u64, Block> = BTreeMap::new();
            let mut next = 0;
            for block in &done {
                early.insert(block.number, block);
                while let Some(block) = early.remove(&next) {
                    next += 1;
                    if !shared.stopped()
                        && let Err(error) = gather.take(block, shared, seen)
                    {
                        shared.fail(error);
                    }
                    let _ = permitted.recv();
                }
            }
            let files = joined(producing.join());
            workers.into_iter().for_each(|worker| joined(worker.join()));
            if !shared.stopped()
                && let Err(error) = gather.finish(shared)
            {
                shared.fail(error);
            }
            // Also after a failure or a stop: what is finished is shipped, and the next run finds it.
            if let Err(error) = close_writers(&shared.engine) {
                shared.fail(error);
            }
            shared.engine.data.close();
            shared.engine.metadata.close();
            Ok((files, joined(finishing.join())))
        })
    }

    /// Writes the snapshot, then the commit in each region that has everything.
    fn conclude(
        &self,
        (gathered, shipper, stored_bytes, new_bytes, new_chunks): (Gathered, Shipper, u64, u64, u64),
        mut private: SnapshotPrivate,
        source: SourceKind,
        earlier: &[SnapshotInfo],
    ) -> Result<BackupSummary, BackupError> {
        let options = self.options;
        let finished_at = self.repository.clock.now_ns();
        let mut summary = BackupSummary {
            snapshot: None,
            unchanged: false,
            counts: gathered.counts,
            files_new: gathered.files[0],
            files_changed: gathered.files[1],
            files_unmodified: gathered.files[2],
            new_bytes,
            new_chunks,
            stored_bytes,
            issues: gathered.issues,
            regions: Vec::new(),
            started_at: self.started_at,
            finished_at,
        };
        if options.dry_run {
            return Ok(summary);
        }
        let last = earlier
            .iter()
            .rev()
            .find(|info| info.snapshot.dataset == options.dataset && info.snapshot.host == options.host);
        let same = last.filter(|info| info.snapshot.root == gathered.root && !info.snapshot.partial);
        if let Some(info) = same.filter(|_| options.skip_if_unchanged && summary.counts.issues == 0) {
            self.session.end(self.repository);
            summary.unchanged = true;
            // A region that lacks the last snapshot is as pending as if there were a new one.
            for (at, region) in self.repository.regions.iter().enumerate() {
                summary.regions.push(RegionOutcome {
                    name: region.name.clone(),
                    committed: info.regions.contains(&at) && shipper.failure(at).is_none(),
                    shipped_bytes: shipper.shipped_bytes(at),
                    failure: shipper.failure(at),
                });
            }
            return Ok(summary);
        }
        private.omitted = gathered.omitted;
        private.issues = summary.issues.iter().take(NOT_CAPTURED_LISTED_MAX).map(not_captured).collect();
        let snapshot = Snapshot {
            dataset: options.dataset.clone(),
            host: options.host.clone(),
            started_at: self.started_at,
            finished_at,
            tags: options.tags.iter().cloned().collect(),
            source,
            root: gathered.root,
            counts: summary.counts,
            partial: summary.counts.issues > 0,
            chunk_average_bytes: options.chunk_average as u64,
            program: concat!("keepstone ", env!("CARGO_PKG_VERSION")).to_owned(),
            private: seal_private(self.repository, &private)?,
        };
        let (bytes, digest) = crate::crypto::object::build_sealed(
            ObjectKind::Snapshot,
            &self.repository.keyring,
            &self.repository.signer(),
            snapshot.encode(),
            &*self.repository.random,
        )?;
        let id = SnapshotId(digest.0);
        self.monitor.phase(Phase::Commit, Some(self.repository.regions.len() as u64), None);
        shipper.ship_after(&[], &snapshot_name(&id), &bytes.into())?;
        let mut commit_failures: BTreeMap<usize, (crate::store::StoreErrorKind, String)> = BTreeMap::new();
        let mut committed = BTreeSet::new();
        for at in shipper.alive() {
            match self.session.commit(self.repository, at, id) {
                Ok(()) => drop(committed.insert(at)),
                Err(crate::repo::RepoError::Store { source, .. }) => {
                    commit_failures.insert(at, (source.kind, source.to_string()));
                }
                Err(error) => {
                    commit_failures.insert(at, (crate::store::StoreErrorKind::Other, error.to_string()));
                }
            }
            self.monitor.advance(1, 0);
        }
        for (at, region) in self.repository.regions.iter().enumerate() {
            summary.regions.push(RegionOutcome {
                name: region.name.clone(),
                committed: committed.contains(&at),
                shipped_bytes: shipper.shipped_bytes(at),
                failure: shipper.failure(at).or_else(|| commit_failures.remove(&at)),
            });
        }
        for (name, error) in &self.repository.unreachable {
            summary.regions.push(RegionOutcome {
                name: name.clone(),
                committed: false,
                shipped_bytes: 0,
                failure: Some((error.kind, error.to_string())),
            });
        }
        if committed.is_empty() {
            let failures = summary.regions.iter().map(|region| {
                let why = region.failure.as_ref().map_or_else(|| "no commit".to_owned(), |(_, why)| why.clone());
                (region.name.clone(), why)
            });
            return Err(crate::ship::ShipError::NoRegionLeft(failures.collect()).into());
        }
        summary.snapshot = Some(id);
        Ok(summary)
    }
}

/// A panicked thread is a programmer's error: it goes on here.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Completes frames and packs; no worker may be storing.
fn close_writers(engine: &Engine<'_>) -> Result<(), BackupError> {
    engine.data.finish()?;
    engine.metadata_frame.lock().unwrap_or_else(PoisonError::into_inner).flush(&engine.metadata)?;
    engine.metadata.finish()?;
    Ok(())
}

fn not_captured(issue: &Issue) -> NotCaptured {
    NotCaptured {
        path: issue.subject.clone(),
        why: issue.kind.name().to_owned(),
        detail: issue.detail.chars().take(1000).collect(),
    }
}

/// Takes blocks in walk order: builds the tree, remembers what was seen, lists what is missing.
struct Gatherer<'a> {
    tree: TreeBuilder<'a>,
    root: Option<ChunkId>,
    omitted: Vec<NotCaptured>,
    omitted_count: u64,
    issues: Vec<Issue>,
}

impl<'a> Gatherer<'a> {
    fn new(hasher: &'a crate::crypto::keyring::ChunkHasher) -> Self {
        Gatherer {
            tree: TreeBuilder::new(hasher),
            root: None,
            omitted: Vec::new(),
            omitted_count: 0,
            issues: Vec::new(),
        }
    }

    fn take(
        &mut self,
        block: Block,
        shared: &Shared<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
    ) -> Result<(), BackupError> {
        let entries = block.items.len() as u64;
        for item in block.items {
            match item {
                Item::Enter(entry) => self.tree.enter(entry.node),
                Item::Leave => self.tree.leave(&shared.engine)?,
                Item::Known(entry, identity) => {
                    self.tree.leaf(&entry.node, &shared.engine)?;
                    if let (Some(identity), Some(Some(writer))) =
                        (identity, seen.as_deref_mut().map(|seen| seen.as_mut()))
                        && let NodeKind::File { content, .. } = entry.node.kind
                    {
                        let record = SeenRecord { path: &entry.path, identity: &identity, content: &content };
                        writer.append(&record).map_err(|error| BackupError::Cache {
                            directory: "the change-detection cache".to_owned(),
                            detail: error.to_string(),
                        })?;
                    }
                }
                Item::Omitted(path, why) => {
                    self.omitted_count += 1;
                    if self.omitted.len() < NOT_CAPTURED_LISTED_MAX {
                        self.omitted.push(NotCaptured { path, why: why.to_owned(), detail: String::new() });
                    }
                }
                Item::Failed(issue) => self.issues.push(issue),
                // Only a stopped run leaves something unread, and its blocks are not taken.
                Item::Read(..) => return Err(BackupError::WalkEndedEarly),
            }
        }
        shared.monitor.advance(entries, 0);
        Ok(())
    }

    fn finish(&mut self, shared: &Shared<'_>) -> Result<(), BackupError> {
        self.root = Some(self.tree.finish(&shared.engine)?);
        Ok(())
    }
}

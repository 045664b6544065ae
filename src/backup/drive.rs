//! The pipeline of one run: workers, the tree builder, the finisher.
//!
//! Blocks of consecutive entries go from the walk to workers and, in order, to the tree builder; how
//! many are under way is bounded, and so is memory. With no threads, each step runs in turn on the
//! caller's thread, so that a simulation can drive it.

use super::BackupError;
use super::engine::Engine;
use super::file::{Captured, Worker};
use super::finish::Finisher;
use super::gather::{Gathered, Gatherer};
use super::run::Run;
use super::watch::Watch;
use crate::chunker::Chunker;
use crate::env::{Random, can_begin_threads};
use crate::format::ids::ChunkId;
use crate::format::node::NodeKind;
use crate::index::InFlight;
use crate::pack::{FinishedPack, FrameBuilder, PackWriter, PendingFrame};
use crate::report::{Counter, Issue, Monitor};
use crate::source::{Entry, Identity, SeenWriter};
use crate::timing::Stage;
use crossbeam_channel::{Receiver, RecvError, Sender, bounded, select, unbounded};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

const PACKS_WAITING: usize = 2;

/// Blocks between the walk and the tree builder; enough that no thread waits while another has a large file.
pub(super) fn blocks_under_way(threads: usize) -> usize {
    (3 * threads).clamp(16, 64)
}

/// Entries on their way through the pipeline, in walk order.
pub(super) struct Block {
    pub(super) number: u64,
    pub(super) items: Vec<Item>,
}

pub(super) enum Item {
    Enter(Entry),
    /// A directory is complete: its path, and the tree that it had when the last run saw it.
    Leave(Vec<u8>, Option<ChunkId>),
    /// Complete: no regular file, or one whose content is known.
    Known(Entry, Option<Identity>),
    /// To be read. Chunks that it had in the snapshot from which unchanged files are taken over, if it was in that.
    Read(Entry, Arc<OwnedFd>, Option<Vec<ChunkId>>),
    Omitted(Vec<u8>, &'static str),
    Failed(Issue),
}

pub(super) struct Shared<'a> {
    pub(super) engine: Engine<'a>,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) failure: Mutex<Option<BackupError>>,
    pub(super) threads: usize,
    /// How many files were read: new ones, and others.
    files: [Counter; 2],
    /// Full frames that a worker without work may compress.
    pending: Receiver<PendingFrame>,
}

impl Shared<'_> {
    pub(super) fn fail(&self, error: BackupError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.engine.watch.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.engine.watch.stop.load(Ordering::Relaxed)
    }

    fn take_failure(&self) -> Option<BackupError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads what is to be read in a block. Small files are read one after the other and looked up together.
    fn work(&self, worker: &mut Worker, block: &mut Block) -> Result<(), BackupError> {
        worker.clear();
        for at in 0..block.items.len() {
            if self.engine.interrupted() {
                return Err(BackupError::Cancelled);
            }
            let Item::Read(entry, ..) = &mut block.items[at] else { continue };
            self.monitor.current(&entry.path);
            if !worker.has_room(entry) {
                self.settle(worker, block)?;
            }
            let Item::Read(entry, directory, base) = &mut block.items[at] else { continue };
            let base = base.as_deref().unwrap_or_default();
            if worker.read_small(&self.engine, &**directory, at, entry, base) {
                continue;
            }
            // What lies together in the tree lies together in frames.
            self.settle(worker, block)?;
            let Item::Read(entry, directory, _) = &mut block.items[at] else { continue };
            let captured = worker.capture(&self.engine, &**directory, entry)?;
            self.done(&mut block.items[at], captured);
        }
        self.settle(worker, block)
    }

    /// Stores the small files that were read.
    fn settle(&self, worker: &mut Worker, block: &mut Block) -> Result<(), BackupError> {
        worker.store_small(&self.engine, &mut |at, content, issue| {
            let Item::Read(entry, ..) = &mut block.items[at] else { return };
            entry.node.kind = NodeKind::File { size: entry.identity.size, content, inconsistent: false };
            let identity = entry.identity;
            self.done(&mut block.items[at], Captured::Whole(Some(identity), issue));
        })
    }

    fn done(&self, item: &mut Item, captured: Captured) {
        let Item::Read(entry, _, base) = std::mem::replace(item, Item::Leave(Vec::new(), None)) else { return };
        *item = match captured {
            Captured::Lost(issue) => {
                self.monitor.issue(&issue);
                Item::Failed(issue)
            }
            Captured::Whole(identity, issue) => {
                if let Some(issue) = issue {
                    // The entry is kept and the issue is counted besides it.
                    self.monitor.issue(&issue);
                    self.issues_push(issue);
                }
                self.files[usize::from(base.is_some())].add(1);
                if let NodeKind::File { size, .. } = &entry.node.kind {
                    self.monitor.advance(0, *size);
                }
                Item::Known(entry, identity)
            }
        };
    }

    fn issues_push(&self, issue: Issue) {
        self.engine.kept_issues.lock().unwrap_or_else(PoisonError::into_inner).push(issue);
    }
}

/// Where the walk hands its blocks. What the tree has done with comes back here, since memory is freed fastest by
/// the thread that took it: with glibc another one waits for its lock.
pub(super) struct Blocks<'a, 'b> {
    pub(super) number: u64,
    /// Gives room for the next block's items.
    pub(super) send: &'b mut (dyn FnMut(Block) -> Vec<Item> + 'a),
    /// Files that are taken over unread.
    pub(super) unmodified: u64,
}

impl Blocks<'_, '_> {
    /// Hands on what is in `items`, which is empty then.
    pub(super) fn send(&mut self, items: &mut Vec<Item>) {
        let block = Block { number: self.number, items: std::mem::take(items) };
        self.number += 1;
        *items = (self.send)(block);
    }
}

/// The room that a block's items took.
fn emptied(mut block: Block) -> Vec<Item> {
    block.items.clear();
    block.items
}

impl Run<'_> {
    /// Runs producer, workers, tree builder and finisher to their end.
    pub(super) fn drive(
        &self,
        watch: &Watch<'_>,
        known_root: Option<ChunkId>,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError> + Send,
        mut seen: Option<&mut Option<SeenWriter>>,
    ) -> Result<Gathered, BackupError> {
        let options = self.options;
        let keyring = &self.repository.keyring;
        let session = watch.session().id;
        let (pack_sender, pack_receiver) =
            if options.threads == 0 { unbounded() } else { bounded::<FinishedPack>(PACKS_WAITING) };
        let writer = |metadata| {
            let sender: Sender<FinishedPack> = pack_sender.clone();
            // The finisher lives until every sender is gone; a send that fails means it failed already.
            let sink = Arc::new(move |pack| drop(sender.send(pack)));
            let random: Arc<dyn Random> = Arc::clone(&self.repository.random);
            let spools = options.spools.clone();
            PackWriter::new(Arc::clone(keyring), random, spools, session, metadata, options.compression, sink)
                .timed(self.monitor.timer())
        };
        // Without room: a frame goes over only to a worker that waits for it at that moment.
        let (idle, pending) = bounded::<PendingFrame>(0);
        let in_flight = Arc::new(InFlight::new());
        let chunker = Chunker::new(&keyring.gear()?, options.chunk_average)?;
        let engine = Engine {
            index: self.index,
            in_flight: Arc::clone(&in_flight),
            data: writer(false).helped(idle),
            metadata: writer(true),
            metadata_frame: Mutex::new(FrameBuilder::new()),
            hasher: keyring.ids(keyring.current_epoch())?,
            fine_chunker: chunker.fine(),
            chunker,
            usable: watch.usable,
            watch,
            watches: options.threads == 0,
            monitor: self.monitor,
            timer: self.monitor.timer(),
            dry_run: options.dry_run,
            new_bytes: &self.totals.new_bytes,
            new_chunks: &self.totals.new_chunks,
            kept_issues: Mutex::new(Vec::new()),
        };
        drop(pack_sender);
        let finisher = Finisher::new(
            self.repository,
            self.index,
            in_flight,
            &self.shipper,
            watch.usable,
            session,
            &self.totals.stored_bytes,
        )
        .timed(self.monitor.timer());
        let shared = Shared {
            engine,
            monitor: self.monitor,
            failure: Mutex::new(None),
            threads: options.threads,
            files: Default::default(),
            pending,
        };
        let hasher = shared.engine.hasher.clone();
        let base_root = watch.base.map(|base| base.snapshot.root);
        let mut gather = Gatherer::new(&hasher, known_root, base_root);
        let unmodified = if options.threads == 0 {
            self.drive_inline(&shared, &mut gather, &mut seen, finisher, &pack_receiver, produce)
        } else {
            self.drive_threads(&shared, &mut gather, &mut seen, finisher, pack_receiver, produce)
        };
        // What the watch stopped fails in other ways too; what the user stopped isn't repeated.
        if let Some(error) = watch.take_failure().filter(|_| !self.monitor.cancelled()) {
            return Err(error);
        }
        // The first failure is the one to tell; the others may only be what it led to.
        if let Some(error) = shared.take_failure() {
            return Err(error);
        }
        let Shared { engine, files: [new, changed], .. } = shared;
        let files = [new.get(), changed.get(), unmodified];
        let root = gather.root.ok_or(BackupError::WalkEndedEarly)?;
        let mut counts = gather.tree.counts;
        let kept = engine.kept_issues.into_inner().unwrap_or_else(PoisonError::into_inner);
        counts.omitted = gather.omitted_count;
        counts.issues = gather.issues.len() as u64 + kept.len() as u64;
        let mut issues = gather.issues;
        issues.extend(kept);
        Ok(Gathered { root, counts, omitted: gather.omitted.into_listed(), issues, files })
    }

    fn drive_inline(
        &self,
        shared: &Shared<'_>,
        gather: &mut Gatherer<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
        mut finisher: Finisher<'_>,
        packs: &Receiver<FinishedPack>,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError>,
    ) -> u64 {
        let mut worker = Worker::new(shared.engine.chunker.max());
        let mut step = |mut block: Block| {
            shared.engine.watch.poll();
            let result = shared
                .work(&mut worker, &mut block)
                .and_then(|()| gather.take(&mut block, shared, seen))
                .and_then(|()| packs.try_iter().try_for_each(|pack| finisher.accept(pack)));
            if let Err(error) = result {
                shared.fail(error);
            }
            emptied(block)
        };
        let mut blocks = Blocks { number: 0, send: &mut step, unmodified: 0 };
        let produced = produce(shared, &mut blocks);
        let unmodified = blocks.unmodified;
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
        unmodified
    }

    fn drive_threads(
        &self,
        shared: &Shared<'_>,
        gather: &mut Gatherer<'_>,
        seen: &mut Option<&mut Option<SeenWriter>>,
        mut finisher: Finisher<'_>,
        packs: Receiver<FinishedPack>,
        produce: impl FnOnce(&Shared<'_>, &mut Blocks<'_, '_>) -> Result<(), BackupError> + Send,
    ) -> u64 {
        // One that is missing later would leave the others waiting for it.
        let count = self.options.threads + 3;
        if let Err(error) = can_begin_threads(count) {
            shared.fail(BackupError::Threads { count, error });
            return 0;
        }
        let under_way = blocks_under_way(self.options.threads);
        let (to_workers, work) = bounded::<Block>(under_way);
        let (to_tree, done) = unbounded::<Block>();
        // One permit for each block under way, given back once the tree has it.
        let (permits, permitted) = bounded::<()>(under_way);
        let (to_producer, spent) = unbounded::<Block>();
        std::thread::scope(|scope| {
            let (running, ended) = bounded::<()>(0);
            // Others took them since: nothing has begun yet, and what was begun ends with the channels.
            let refused = |error| {
                shared.fail(BackupError::Threads { count, error });
                shared.engine.data.close();
                shared.engine.metadata.close();
                0
            };
            let begin = std::thread::Builder::new;
            if let Err(error) = begin().spawn_scoped(scope, move || shared.engine.watch.keep_watch(&ended)) {
                return refused(error);
            }
            let finishing = begin().spawn_scoped(scope, move || {
                let mut failed = false;
                let timer = shared.engine.timer.clone();
                while let Ok(pack) = timer.wait(Stage::Segment, || packs.recv()) {
                    // After a failure the queue is drained all the same: senders must not wait for ever.
                    if !failed && let Err(error) = finisher.accept(pack) {
                        failed = true;
                        shared.fail(error);
                    }
                }
                if !failed && let Err(error) = finisher.flush() {
                    shared.fail(error);
                }
            });
            let finishing = match finishing {
                Ok(finishing) => finishing,
                Err(error) => return refused(error),
            };
            // Held by each worker that may still fill frames.
            let (filling, filled) = bounded::<()>(0);
            let workers: io::Result<Vec<_>> = (0..self.options.threads)
                .map(|_| {
                    let (work, to_tree) = (work.clone(), to_tree.clone());
                    let (filling, filled) = (filling.clone(), filled.clone());
                    begin().spawn_scoped(scope, move || worker_thread(shared, work, to_tree, filling, &filled))
                })
                .collect();
            let workers = match workers {
                Ok(workers) => workers,
                Err(error) => return refused(error),
            };
            drop(filling);
            drop((work, to_tree));
            let producing = begin().spawn_scoped(scope, move || {
                let mut send = |block: Block| {
                    shared.engine.timer.wait(Stage::Walk, || {
                        // Both fail only when the other side is gone, after a panic there.
                        let _ = permits.send(());
                        let _ = to_workers.send(block);
                    });
                    spent.try_iter().map(emptied).last().unwrap_or_default()
                };
                let mut blocks = Blocks { number: 0, send: &mut send, unmodified: 0 };
                if let Err(error) = produce(shared, &mut blocks) {
                    shared.fail(error);
                }
                blocks.unmodified
            });
            let producing = match producing {
                Ok(producing) => producing,
                Err(error) => return refused(error),
            };
            // Blocks come back in any order and are taken in walk order.
            let mut early: BTreeMap<u64, Block> = BTreeMap::new();
            let mut next = 0;
            let timer = &shared.engine.timer;
            while let Ok(block) = timer.wait(Stage::Tree, || done.recv()) {
                early.insert(block.number, block);
                while let Some(mut block) = early.remove(&next) {
                    next += 1;
                    if !shared.stopped()
                        && let Err(error) = timer.run(Stage::Tree, || gather.take(&mut block, shared, seen))
                    {
                        shared.fail(error);
                    }
                    // Its end fails once the walk is over: then it is dropped here.
                    let _ = to_producer.send(block);
                    let _ = permitted.recv();
                }
            }
            let unmodified = joined(producing.join());
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
            joined(finishing.join());
            drop(running);
            unmodified
        })
    }
}

/// Reads what is in blocks, and helps others with full frames: one large file has its frames compressed by all.
fn worker_thread(
    shared: &Shared<'_>,
    work: Receiver<Block>,
    to_tree: Sender<Block>,
    filling: Sender<()>,
    filled: &Receiver<()>,
) {
    let timer = &shared.engine.timer;
    let mut worker = Worker::new(shared.engine.chunker.max());
    let help = |frame: PendingFrame| {
        if let Err(error) = timer.run(Stage::Frame, || frame.add_to(&shared.engine.data)) {
            shared.fail(error.into());
        }
    };
    loop {
        let next = timer.wait(Stage::Read, || {
            select! {
                recv(work) -> block => block.map(Err),
                // The engine holds the other end.
                recv(shared.pending) -> frame => frame.map(Ok),
            }
        });
        match next {
            Ok(Ok(frame)) => help(frame),
            Ok(Err(mut block)) => {
                if let Err(error) = timer.run(Stage::Frame, || shared.work(&mut worker, &mut block)) {
                    shared.fail(error);
                }
                // The tree builder lives as long as there are workers.
                let _ = to_tree.send(block);
            }
            Err(_) => break,
        }
    }
    drop(to_tree);
    if let Err(error) = worker.frame.flush(&shared.engine.data) {
        shared.fail(error.into());
    }
    drop((worker, filling));
    loop {
        let next = timer.wait(Stage::Read, || {
            select! {
                recv(shared.pending) -> frame => frame,
                // Nothing is sent here: it ends when the last worker has filled its frames.
                recv(filled) -> end => end.and(Err(RecvError)),
            }
        });
        match next {
            Ok(frame) => help(frame),
            Err(_) => break,
        }
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

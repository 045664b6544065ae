//! One backup: its options, the two entry points, and what their parts share.
//!
//! `drive` runs the pipeline, `produce` feeds it from a walk, `gather` builds the trees, `conclude` writes
//! snapshot and commits.

use super::drive::Item;
use super::engine::DedupTrust;
use super::file::Worker;
use super::produce::{Remembered, produce};
use super::usable::{Trust, UsablePacks};
use super::watch::{OnLoss, Watch, overtaken};
use super::{BackupError, BackupSummary, check_dataset, check_sources};
use crate::compress::Compression;
use crate::format::ids::{ChunkId, SnapshotId};
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::{Counts, SnapshotPrivate, SourceKind};
use crate::index::Index;
use crate::limits::{LABEL_BYTES_MAX, TAGS_MAX};
use crate::pack::SpoolSpace;
use crate::repo::open::AUTHORS;
use crate::repo::presence::{self, Lacking};
use crate::repo::session::Foundation;
use crate::repo::{RegionHandle, Repository, Session, SnapshotInfo};
use crate::report::{Counter, Monitor, Phase};
use crate::ship::{Destination, Shipper};
use crate::source::{Entry, Identity, Walk, XattrsRead};
use crate::timing::Stage;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// Packs that regions list and don't have: nothing counts as stored because of them. `None` has the run look
    /// itself.
    pub lacking: Option<Lacking>,
    /// Worker threads; 0 runs everything on the caller's.
    pub threads: usize,
    /// Where open packs are spooled.
    pub spools: SpoolSpace,
    /// Where the change-detection cache is; `None` for none.
    pub seen_directory: Option<PathBuf>,
    /// How often the regions' collection logs are looked at while the run goes on; "every few minutes" at
    /// most (`ORDER-4`).
    pub watch_interval: Duration,
}

/// How often the regions' collection logs are looked at, unless another interval is asked for.
pub const WATCH_INTERVAL_DEFAULT: Duration = Duration::from_secs(120);

/// How often a source is gone through when collections take what was relied on.
const PASSES_MAX: u32 = 3;
const UPLOADS_WAITING: usize = 2;
/// Threads that read directories ahead of the walk: more than these find nothing to do.
const WALK_THREADS_MAX: usize = 4;

/// What all passes of a run store together.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) new_bytes: Counter,
    pub(super) new_chunks: Counter,
    pub(super) stored_bytes: Counter,
}

/// Everything that one run needs besides its source.
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: &'a dyn Index,
    pub(super) options: &'a Backup,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) shipper: Shipper,
    pub(super) totals: Totals,
    pub(super) started_at: i64,
    /// The snapshot that was put last, with what it says.
    pub(super) saved: Mutex<Option<(ChunkId, Counts, SnapshotId)>>,
    session: Mutex<Session>,
    basis: &'a Basis,
}

/// What a run judges packs by, found before it begins.
pub(super) struct Basis {
    pub(super) trust: Trust,
    pub(super) lacking: Lacking,
}

impl Basis {
    fn find(repository: &Repository, index: &dyn Index, options: &Backup) -> Result<Self, BackupError> {
        // A slot that may not back up looks at nothing, and leaves no session behind.
        repository.require(&AUTHORS, "back up")?;
        let lacking = match &options.lacking {
            Some(lacking) => lacking.clone(),
            None => presence::look(repository, index)?,
        };
        Ok(Basis { trust: Trust::of(repository, options.trust), lacking })
    }
}

impl<'a> Run<'a> {
    /// Opens the session, which relies on `base` from its first state on (`ORDER-7`).
    fn open(
        repository: &'a Repository,
        index: &'a dyn Index,
        options: &'a Backup,
        monitor: &'a dyn Monitor,
        basis: &'a Basis,
        base: Option<SnapshotId>,
    ) -> Result<Self, BackupError> {
        let started_at = repository.clock.now_ns();
        let foundation = Foundation { bases: base.into_iter().collect(), adopts_earlier: true };
        let mut session = match options.dry_run {
            true => Session::rehearse(repository, &foundation)?,
            false => Session::open_on(repository, &foundation)?,
        };
        let destination =
            |region: &RegionHandle| Destination { name: region.name.clone(), store: Arc::clone(&region.store) };
        let destinations: Vec<Destination> = repository.regions.iter().map(destination).collect();
        let upload_threads = if options.threads == 0 { 0 } else { 2 * destinations.len().min(2) };
        let shipper = Shipper::timed(destinations, upload_threads, UPLOADS_WAITING, monitor.timer());
        std::mem::take(&mut session.failed).into_iter().for_each(|(at, error)| shipper.fail(at, error));
        let (totals, saved, session) = (Totals::default(), Mutex::new(None), Mutex::new(session));
        Ok(Run { repository, index, options, monitor, shipper, totals, started_at, saved, session, basis })
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pass that begins now may rely on. A region that takes nothing gets nothing, so what it lacks
    /// need not be stored for it.
    fn usable(&self) -> UsablePacks<'_> {
        let regions = self.shipper.alive().into_iter().map(|at| self.repository.regions[at].info.region).collect();
        UsablePacks::new(self.index, regions, self.session().missing(), &self.basis.lacking, &self.basis.trust)
    }

    fn watch<'w>(&'w self, usable: &'w UsablePacks<'w>, base: Option<&'w SnapshotInfo>, on_loss: OnLoss) -> Watch<'w> {
        let interval = (!self.options.dry_run).then_some(self.options.watch_interval);
        Watch::new(self.repository, self.monitor, &self.shipper, &self.session, usable, base, on_loss, interval)
    }

    /// True when a pass that ended so is to be repeated.
    fn repeats(&self, outcome: &Result<BackupSummary, BackupError>, pass: u32) -> bool {
        let repeats =
            matches!(outcome, Err(BackupError::Overtaken { .. })) && pass < PASSES_MAX && !self.monitor.cancelled();
        if repeats {
            self.monitor.notice("a collection took what this backup relied on: that is stored again");
        }
        repeats
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
    mut walk: Walk,
    earlier: &[SnapshotInfo],
    monitor: &dyn Monitor,
) -> Result<BackupSummary, BackupError> {
    check_labels(options)?;
    check_dataset(repository, &options.dataset)?;
    check_sources(walk.source_paths())?;
    if let Some(empty) = walk.empty_sources().first().filter(|_| !options.allow_empty) {
        return Err(BackupError::EmptySource { path: empty.display().to_string() });
    }
    let root_path = walk.root().as_os_str().as_bytes().to_vec();
    let private = SnapshotPrivate {
        sources: walk.source_paths().iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
        root_path: root_path.clone(),
        ..SnapshotPrivate::default()
    };
    let basis = Basis::find(repository, index, options)?;
    let remembered = Remembered::find(repository, index, options, &basis, &root_path, earlier)?;
    walk.leave_file_xattrs();
    walk.read_ahead(options.threads.min(WALK_THREADS_MAX));
    let run = Run::open(repository, index, options, monitor, &basis, remembered.base.map(|base| base.id))?;
    for pass in 1.. {
        let (mut seen, mut writer, base) = remembered.open(&run);
        let usable = run.usable();
        let watch = run.watch(&usable, base, OnLoss::Stop);
        monitor.phase(Phase::Backup, None, None);
        let outcome = run
            .drive(&watch, None, |shared, blocks| produce(&mut walk, &mut seen, shared, blocks), Some(&mut writer))
            .and_then(|gathered| {
                // What is left counts, not what was found.
                if let Some(emptied) = walk.emptied_sources().first().filter(|_| !options.allow_empty) {
                    if !options.dry_run {
                        run.session().end(repository);
                    }
                    return Err(BackupError::AllLeftOut { path: emptied.display().to_string() });
                }
                let conclude = || run.conclude(&watch, &gathered, &private, SourceKind::Tree, earlier);
                monitor.timer().run(Stage::Commit, conclude)
            });
        if run.repeats(&outcome, pass) {
            walk = walk.again()?;
            continue;
        }
        let summary = outcome?;
        if let Some(id) = summary.snapshot
            && !summary.pending()
            && let Some(writer) = writer
            && let Err(error) = writer.commit(id)
        {
            tracing::warn!(%error, "the change-detection cache was not written; the next run reads all files");
        }
        return Ok(summary);
    }
    Err(BackupError::WalkEndedEarly)
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
    let basis = Basis::find(repository, index, options)?;
    let run = Run::open(repository, index, options, monitor, &basis, None)?;
    let usable = run.usable();
    let watch = run.watch(&usable, None, OnLoss::GoOn);
    monitor.phase(Phase::Backup, None, None);
    let name = String::from_utf8_lossy(&node.name).into_owned();
    let mut stream_error = None;
    let done = run.drive(
        &watch,
        None,
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
                match finish(stream) {
                    // What it says then is that it was stopped, too.
                    Err(_) if monitor.cancelled() => return Err(BackupError::Cancelled),
                    finished => finished?,
                }
                if size == 0 && !options.allow_empty {
                    return Err(BackupError::EmptyStream { name });
                }
                node.kind = NodeKind::File { size, content, inconsistent: false };
                worker.frame.flush(&shared.engine.data)?;
                Ok(())
            };
            match pass(&mut worker, &mut node) {
                Ok(()) => {
                    let directory =
                        Entry { path: Vec::new(), node: root, identity: Identity::default(), xattrs: XattrsRead::All };
                    let path = node.name.clone();
                    let file =
                        Entry { path, node: node.clone(), identity: Identity::default(), xattrs: XattrsRead::All };
                    let mut items =
                        vec![Item::Enter(directory), Item::Known(file, None), Item::Leave(Vec::new(), None)];
                    blocks.send(&mut items);
                }
                Err(error) => {
                    // What was cut so far is stored: the next run of the same stream is quicker by it.
                    let flushed = worker.frame.flush(&shared.engine.data);
                    *stopped = Some(error);
                    shared.engine.watch.stop.store(true, Ordering::Relaxed);
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
            run.session().end(repository);
        }
        return Err(error);
    }
    let gathered = done?;
    let mut outcome = match watch.has_lost() {
        true => Err(overtaken("it took what the stream has in common with earlier ones")),
        false => {
            let conclude = || run.conclude(&watch, &gathered, &private, SourceKind::Stream, earlier);
            monitor.timer().run(Stage::Commit, conclude)
        }
    };
    let mut pass = 1;
    while run.repeats(&outcome, pass) {
        pass += 1;
        let usable = run.usable();
        let watch = run.watch(&usable, None, OnLoss::Stop);
        outcome = run
            .drive(&watch, Some(gathered.root), |shared, _| shared.mend(gathered.root), None)
            .and_then(|_| run.conclude(&watch, &gathered, &private, SourceKind::Stream, earlier));
    }
    outcome
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

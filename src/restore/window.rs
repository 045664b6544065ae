//! The files whose content is being fetched: sorted by where it is, read in long stretches, written by
//! several threads, each file completed by whoever writes its last byte.
//!
//! The window bounds memory: how much is asked for before it is fetched.

use super::target::{DirHandle, FileHandle, Restored, Room, Target, TargetError};
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::Node;
use crate::index::{PackEntry, Place};
use crate::repo::fetch::{FetchError, Fetcher};
use crate::report::{Issue, IssueKind};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const STRETCH_BYTES_MAX: u64 = 4 << 20;
const STRETCH_GAP_BYTES_MAX: u64 = 128 << 10;

/// A file under way.
pub struct OpenFile {
    pub node: Node,
    pub parent: DirHandle,
    pub path: Vec<u8>,
    /// `None` while it is small enough to be written in one go.
    handle: Mutex<Option<FileHandle>>,
    /// Chunks asked for and not yet written, plus one until all are asked for.
    left: AtomicUsize,
    failed: AtomicBool,
}

impl OpenFile {
    /// A file written in pieces.
    pub fn begin(
        target: &Target,
        parent: &DirHandle,
        node: &Node,
        path: Vec<u8>,
        room: Room,
    ) -> Result<Arc<Self>, TargetError> {
        let handle = target.create_file(parent, node, room)?;
        Ok(Self::new(parent, node, path, Some(handle)))
    }

    /// A file of one chunk.
    pub fn small(parent: &DirHandle, node: &Node, path: Vec<u8>) -> Arc<Self> {
        Self::new(parent, node, path, None)
    }

    fn new(parent: &DirHandle, node: &Node, path: Vec<u8>, handle: Option<FileHandle>) -> Arc<Self> {
        Arc::new(OpenFile {
            node: node.clone(),
            parent: parent.clone(),
            path,
            handle: Mutex::new(handle),
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
        })
    }

    /// Declares a hole.
    pub fn hole(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        match &*self.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(handle) => handle.hole(offset, length),
            None => Ok(()),
        }
    }
}

/// A chunk that a file waits for.
struct Want {
    file: Arc<OpenFile>,
    file_offset: u64,
    id: ChunkId,
    place: Place,
}

/// What the threads of a window report.
#[derive(Default)]
pub struct Outcome {
    /// Item-level failures.
    pub issues: Mutex<Vec<Issue>>,
    /// What stops the run.
    pub fatal: Mutex<Option<TargetError>>,
    /// Files completed.
    pub files: crate::report::Counter,
    /// Bytes written.
    pub bytes: crate::report::Counter,
}

impl Outcome {
    fn target_error(&self, error: TargetError) {
        if error.stops_run() {
            self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        } else {
            self.issue(error.issue());
        }
    }

    /// Notes an item-level failure.
    pub fn issue(&self, issue: Issue) {
        self.issues.lock().unwrap_or_else(PoisonError::into_inner).push(issue);
    }

    fn stopped(&self) -> bool {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Notes what an entry's metadata lacks.
    pub fn restored(&self, restored: Restored) {
        restored.problems.iter().for_each(|problem| self.issue(problem.issue()));
    }
}

/// Collects wants, then fetches them.
#[derive(Default)]
pub struct Window {
    wants: Vec<Want>,
    bytes: u64,
}

impl Window {
    /// Asks for a chunk of a file.
    ///
    /// # Errors
    /// When no segment lists it.
    pub fn want(
        &mut self,
        fetcher: &Fetcher<'_>,
        file: &Arc<OpenFile>,
        file_offset: u64,
        id: ChunkId,
        length: u32,
    ) -> Result<(), FetchError> {
        let places = fetcher.index.places(&[id])?.pop().unwrap_or_default();
        // Any will do for the first try; a chunk whose place fails is looked for everywhere.
        let place = fetcher.best_place(&places)?.ok_or(FetchError::Unlisted(id))?;
        file.left.fetch_add(1, Ordering::Relaxed);
        self.bytes += u64::from(length);
        self.wants.push(Want { file: Arc::clone(file), file_offset, id, place });
        Ok(())
    }

    /// All chunks of the file have been asked for.
    pub fn complete(&mut self, target: &Target, file: &Arc<OpenFile>, outcome: &Outcome) {
        release(target, file, outcome);
    }

    /// The file can't be restored; what was written of it goes.
    pub fn abandon(&mut self, file: &Arc<OpenFile>) {
        file.failed.store(true, Ordering::Relaxed);
    }

    /// Plaintext bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many chunks were asked for.
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    /// Fetches everything and writes it, with so many threads.
    pub fn flush(&mut self, target: &Target, fetcher: &Fetcher<'_>, threads: usize, outcome: &Outcome) {
        let mut wants = std::mem::take(&mut self.wants);
        self.bytes = 0;
        wants.sort_by_key(|want| (want.place.pack, want.place.frame, want.place.offset));
        let mut stretches = self::stretches(wants, fetcher, outcome);
        stretches.reverse();
        let queue = Mutex::new(stretches);
        let work = || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                match next {
                    Some(stretch) if !outcome.stopped() => stretch.run(target, fetcher, outcome),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        if threads <= 1 {
            work();
        } else {
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        }
    }
}

/// Neighbouring frames of one pack, read in one go.
struct Stretch {
    pack: Arc<PackEntry>,
    frames: BTreeMap<u32, Vec<Want>>,
}

fn stretches(wants: Vec<Want>, fetcher: &Fetcher<'_>, outcome: &Outcome) -> Vec<Stretch> {
    let mut all: Vec<(u32, Stretch, u64, u64)> = Vec::new();
    for want in wants {
        let ordinal = want.place.pack;
        if let Some((last, stretch, start, end)) = all.last_mut()
            && *last == ordinal
            && let Some(frame) = stretch.pack.frames.get(want.place.frame as usize)
        {
            let frame_end = frame.offset + u64::from(frame.sealed_length);
            let near = frame.offset <= *end + STRETCH_GAP_BYTES_MAX && frame_end - *start <= STRETCH_BYTES_MAX;
            if near || stretch.frames.contains_key(&want.place.frame) {
                *end = (*end).max(frame_end);
                stretch.frames.entry(want.place.frame).or_default().push(want);
                continue;
            }
        }
        match fetcher.index.pack(ordinal) {
            Ok(pack) => {
                let Some(frame) = pack.frames.get(want.place.frame as usize).copied() else {
                    fail(&want.file, outcome, IssueKind::Damaged, "the index names a frame that its pack lacks");
                    continue;
                };
                let frames = BTreeMap::from([(want.place.frame, vec![want])]);
                let end = frame.offset + u64::from(frame.sealed_length);
                all.push((ordinal, Stretch { pack, frames }, frame.offset, end));
            }
            Err(error) => fail(&want.file, outcome, IssueKind::Missing, &error.to_string()),
        }
    }
    all.into_iter().map(|(_, stretch, ..)| stretch).collect()
}

fn fail(file: &OpenFile, outcome: &Outcome, kind: IssueKind, detail: &str) {
    // One issue a file is enough, however many of its chunks are gone.
    if !file.failed.swap(true, Ordering::Relaxed) {
        outcome.issue(Issue { kind, subject: file.path.clone(), detail: detail.to_owned() });
    }
}

impl Stretch {
    fn run(mut self, target: &Target, fetcher: &Fetcher<'_>, outcome: &Outcome) {
        let positions: Vec<u32> = self.frames.keys().copied().collect();
        let read = fetcher.frames(&self.pack, &positions, &mut |position, epoch, frame| {
            let Ok(hasher) = fetcher.repository.keyring.ids(epoch) else { return };
            let wants = self.frames.remove(&position).unwrap_or_default();
            for want in wants {
                let start = want.place.offset as usize;
                let bytes = frame.get(start..start + want.place.length as usize);
                match bytes.filter(|bytes| hasher.id(ChunkKind::Data, bytes) == want.id) {
                    Some(bytes) => write(target, &want, bytes, outcome),
                    None => slow(target, fetcher, &want, outcome),
                }
            }
        });
        if let Err(error) = read {
            tracing::debug!(%error, "a stretch of frames is read one by one");
        }
        // What the one read didn't give is looked for in every region and every pack.
        for want in self.frames.into_values().flatten() {
            slow(target, fetcher, &want, outcome);
        }
    }
}

fn slow(target: &Target, fetcher: &Fetcher<'_>, want: &Want, outcome: &Outcome) {
    match fetcher.chunk(ChunkKind::Data, want.id) {
        Ok(bytes) => write(target, want, &bytes, outcome),
        Err(error) => {
            fail(&want.file, outcome, IssueKind::Damaged, &error.to_string());
            release(target, &want.file, outcome);
        }
    }
}

fn write(target: &Target, want: &Want, bytes: &[u8], outcome: &Outcome) {
    let file = &want.file;
    if !file.failed.load(Ordering::Relaxed) {
        let held = file.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &*held {
            Some(handle) => handle.write_at(bytes, want.file_offset),
            None => target.write_small_file(&file.parent, &file.node, bytes).map(|restored| outcome.restored(restored)),
        };
        drop(held);
        match written {
            Ok(()) => outcome.bytes.add(bytes.len() as u64),
            Err(error) => {
                file.failed.store(true, Ordering::Relaxed);
                outcome.target_error(error);
            }
        }
    }
    release(target, file, outcome);
}

/// One thing less to wait for; the last one completes the file.
fn release(target: &Target, file: &Arc<OpenFile>, outcome: &Outcome) {
    if file.left.fetch_sub(1, Ordering::AcqRel) != 1 || file.failed.load(Ordering::Relaxed) {
        return;
    }
    let handle = file.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(handle) = handle {
        match target.finish_file(handle, &file.node) {
            Ok(restored) => outcome.restored(restored),
            Err(error) => return outcome.target_error(error),
        }
    }
    outcome.files.add(1);
}

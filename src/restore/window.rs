//! The files whose content is being fetched: sorted by where it is, read in long stretches, written by
//! several threads, each file completed by whoever writes its last byte.
//!
//! The window bounds memory and open files: how much is asked for before it is fetched. While the workers
//! fetch one window the walk fills the next. A frame whose chunks two windows ask for is opened for each, so the
//! windows are large.

use super::RestoreError;
use super::target::{DirHandle, FileHandle, Restored, Room, Target, TargetError};
use crate::format::ids::{ChunkId, ChunkKind};
use crate::format::node::{Content, Node, NodeKind};
use crate::index::{PackEntry, Place};
use crate::repo::fetch::{FetchError, Fetcher};
use crate::report::{Issue, IssueKind, Monitor};
use crate::timing::{Stage, Timer};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const STRETCH_BYTES_MAX: u64 = 4 << 20;
const STRETCH_GAP_BYTES_MAX: u64 = 128 << 10;
/// Files up to this size are put together in memory where that needs one frame only.
pub const GATHER_BYTES_MAX: u64 = 1 << 20;
/// 32 MiB of large files in a window: more would be incomplete together, and a restore that is killed begins them again.
const LARGE_WEIGHT: u64 = 32;
/// Larger files than this are incomplete for longer than a window anyway: 128 MiB of them, since the frames at a window's
/// ends are opened twice.
const HUGE_BYTES_MIN: u64 = 128 << 20;
const HUGE_WEIGHT: u64 = 8;

/// A file under way.
pub struct OpenFile {
    /// Without what only the walk needs: as small as may be, since tens of thousands wait at a time.
    node: Node,
    parent: DirHandle,
    state: Mutex<State>,
    /// Chunks asked for and not yet written, plus one until all are asked for.
    left: AtomicUsize,
    failed: AtomicBool,
}

enum State {
    /// One chunk: written in one go.
    Small,
    /// Several chunks and no holes: made when the first of them comes, so that few are open at once.
    Unmade,
    /// Several chunks of one frame, one after the other: what came of them so far. Written in one go.
    Gathered(Vec<u8>),
    /// Written in pieces, by several threads at a time.
    Made(Arc<FileHandle>),
    /// Completed.
    Done,
}

impl OpenFile {
    /// A file written in pieces. One with holes is made now, since its size must be set before they are known.
    ///
    /// # Errors
    /// As [`Target::create_file`].
    pub fn begin(target: &Target, parent: &DirHandle, node: Node, room: Room) -> Result<Arc<Self>, TargetError> {
        let state = match room {
            Room::Sparse => State::Made(Arc::new(target.create_file(parent, &node, room)?)),
            Room::Dense => State::Unmade,
        };
        Ok(Self::new(target, parent, node, state))
    }

    /// A file of one chunk.
    pub fn small(target: &Target, parent: &DirHandle, node: Node) -> Arc<Self> {
        Self::new(target, parent, node, State::Small)
    }

    fn new(target: &Target, parent: &DirHandle, mut node: Node, state: State) -> Arc<Self> {
        target.localize(&mut node);
        if let NodeKind::File { content, .. } = &mut node.kind
            // Its chunks are asked for one by one; further names are compared with what the first one's node says.
            && node.link_group.is_none()
        {
            *content = Content::Inline(Vec::new());
        }
        Arc::new(OpenFile {
            node,
            parent: parent.clone(),
            state: Mutex::new(state),
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often its bytes count. A large file shares few frames with others, so that a large window is of no use to
    /// it, and stays incomplete until the window's end.
    fn weight(&self) -> u64 {
        match self.node.kind {
            NodeKind::File { size, .. } if size >= HUGE_BYTES_MIN => HUGE_WEIGHT,
            NodeKind::File { size, .. } if size > GATHER_BYTES_MAX => LARGE_WEIGHT,
            _ => 1,
        }
    }

    /// Its path from the snapshot's root.
    pub fn path(&self) -> Vec<u8> {
        self.parent.relative_of(&self.node.name)
    }

    /// The file can't be restored; what was written of it goes.
    pub fn abandon(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Declares a hole.
    ///
    /// # Errors
    /// As [`FileHandle::hole`].
    pub fn hole(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        match &*self.state() {
            State::Made(handle) => handle.hole(offset, length),
            _ => Ok(()),
        }
    }

    /// Writes chunks that follow one another where the first of them belongs.
    fn write(&self, target: &Target, bytes: &[u8], offset: u64, outcome: &Outcome) -> Result<(), TargetError> {
        let mut state = self.state();
        if let State::Small = *state {
            let restored = target.write_small_file(&self.parent, &self.node, bytes)?;
            outcome.restored(restored);
            return Ok(());
        }
        if let State::Unmade = *state {
            *state = State::Made(Arc::new(target.create_file(&self.parent, &self.node, Room::Dense)?));
        }
        match &mut *state {
            State::Made(handle) => {
                let handle = Arc::clone(handle);
                // The others needn't wait until it is written.
                drop(state);
                handle.write_at(bytes, offset)
            }
            State::Gathered(before) if before.len() as u64 == offset => {
                before.extend_from_slice(bytes);
                Ok(())
            }
            State::Gathered(before) => {
                let (path, actual) = (self.parent.path_of(&self.node.name), before.len() as u64);
                Err(TargetError::Incomplete { path, expected: offset, actual })
            }
            State::Small | State::Unmade | State::Done => Ok(()),
        }
    }

    /// What is written of it at a time, when these are all chunks that it has: all at once, or in pieces.
    fn gather(&self, wants: &[Want]) -> Pieces {
        let mut state = self.state();
        let State::Unmade = *state else { return Pieces::One };
        let NodeKind::File { size, .. } = self.node.kind else { return Pieces::Many };
        let whole = wants.iter().map(|want| u64::from(want.place.length)).sum::<u64>() == size;
        let one_frame = |pair: &[Want]| pair[0].frame() == pair[1].frame();
        if !whole || size > GATHER_BYTES_MAX || !wants.windows(2).all(one_frame) {
            return Pieces::Many;
        }
        *state = State::Gathered(Vec::new());
        Pieces::One
    }
}

/// How a file is written.
#[derive(PartialEq, Eq)]
enum Pieces {
    One,
    /// It stays open meanwhile.
    Many,
}

/// A chunk that a file waits for.
struct Want {
    wish: Wish,
    place: Place,
}

impl Want {
    fn frame(&self) -> (u32, u32) {
        (self.place.pack, self.place.frame)
    }

    /// Where it ends in its frame.
    fn end(&self) -> usize {
        self.place.offset as usize + self.place.length as usize
    }

    /// Whether the other one follows it, in their frame and in their file.
    fn runs_on_in(&self, other: &Want) -> bool {
        Arc::ptr_eq(&self.wish.file, &other.wish.file)
            && self.end() == other.place.offset as usize
            && self.wish.file_offset.checked_add(u64::from(self.place.length)) == Some(other.wish.file_offset)
    }
}

/// A chunk whose place is not looked up yet.
struct Wish {
    file: Arc<OpenFile>,
    file_offset: u64,
    id: ChunkId,
    /// How many were asked for before.
    number: usize,
}

/// What the threads of a window report.
#[derive(Default)]
pub struct Outcome {
    /// Item-level failures.
    pub issues: Mutex<Vec<Issue>>,
    /// What stops the run.
    pub fatal: Mutex<Option<RestoreError>>,
    /// Files completed.
    pub files: crate::report::Counter,
    /// Bytes written.
    pub bytes: crate::report::Counter,
    /// Where their time goes.
    pub timer: Timer,
}

impl Outcome {
    fn target_error(&self, error: TargetError) {
        if error.stops_run() {
            self.stop(error.into());
        } else {
            self.issue(error.issue());
        }
    }

    fn stop(&self, error: RestoreError) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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

/// Collects what files wish for, then has it fetched.
#[derive(Default)]
pub struct Window {
    wishes: Vec<Wish>,
    bytes: u64,
    open: usize,
    attributes: usize,
}

/// What a chunk that was asked for takes with its file, in bytes: node, names, places; not the node's attributes.
const WISH_BYTES: usize = 640;
/// A window holds so many chunks at least, of files without large attributes.
const CHUNKS_MIN: usize = 64;

/// What a node's extended attributes take, in bytes.
pub fn attributes_bytes(node: &Node) -> usize {
    const EACH: usize = 2 * size_of::<Vec<u8>>();
    node.xattrs.iter().map(|(name, value)| name.len() + value.len() + EACH).sum()
}

impl Window {
    /// Asks for a chunk of a file.
    pub fn want(&mut self, file: &Arc<OpenFile>, file_offset: u64, id: ChunkId, length: u32) {
        // Its first chunk: one more than the walk's own hold on it.
        if file.left.fetch_add(1, Ordering::Relaxed) == 1 {
            self.attributes += attributes_bytes(&file.node);
        }
        self.bytes += u64::from(length) * file.weight();
        self.wishes.push(Wish { file: Arc::clone(file), file_offset, id, number: self.wishes.len() });
    }

    /// Notes that a file is open already.
    pub fn note_open(&mut self) {
        self.open += 1;
    }

    /// Plaintext bytes asked for, those of large files several times.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when what was asked for takes so many bytes, the files' nodes included.
    pub fn takes(&self, memory_bytes: usize) -> bool {
        self.wishes.len() * WISH_BYTES + self.attributes >= memory_bytes.max(CHUNKS_MIN * WISH_BYTES)
    }

    /// How many files are open already.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Looks up what was asked for and gives it to the workers.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn flush(&mut self, queue: &Queue<'_>) -> Result<(), FetchError> {
        let mut wishes = std::mem::take(&mut self.wishes);
        (self.bytes, self.open, self.attributes) = (0, 0, 0);
        // In the order of their ids neighbours lie in one part of the index.
        wishes.sort_unstable_by_key(|wish| wish.id);
        let ids: Vec<ChunkId> = wishes.iter().map(|wish| wish.id).collect();
        let places = queue.outcome.timer.run(Stage::LookUp, || queue.fetcher.index.places(&ids))?;
        drop(ids);
        let mut wants = Vec::with_capacity(wishes.len());
        for (wish, places) in wishes.into_iter().zip(places) {
            // Any will do for the first try; a chunk whose place fails is looked for everywhere.
            match queue.fetcher.best_place(&places)? {
                Some(place) => wants.push(Want { wish, place }),
                None => {
                    fail(&wish.file, queue.outcome, IssueKind::Missing, &FetchError::Unlisted(wish.id).to_string());
                    release(queue.target, &wish.file, queue.outcome);
                }
            }
        }
        wants.sort_unstable_by_key(|want| want.wish.number);
        let mut open = 0;
        let mut part = Vec::new();
        let mut wants = wants.into_iter().peekable();
        let mut of_file = Vec::new();
        while let Some(want) = wants.next() {
            let more = wants.peek().is_some_and(|next| Arc::ptr_eq(&next.wish.file, &want.wish.file));
            of_file.push(want);
            if more {
                continue;
            }
            if of_file[0].wish.file.gather(&of_file) == Pieces::Many {
                open += 1;
            }
            part.append(&mut of_file);
            if open >= queue.target.open_files_max() {
                queue.push_all(std::mem::take(&mut part));
                open = 0;
            }
        }
        queue.push_all(part);
        Ok(())
    }
}

/// What waits to be fetched, and the threads that do it. Without threads whoever pushes does it.
pub struct Queue<'a> {
    pub target: &'a Target,
    pub fetcher: &'a Fetcher<'a>,
    pub outcome: &'a Outcome,
    monitor: &'a dyn Monitor,
    threads: usize,
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    stretches: VecDeque<Stretch>,
    /// Stretches being fetched.
    busy: usize,
    closed: bool,
}

impl<'a> Queue<'a> {
    /// For so many threads that call [`Queue::work`]; one or none stands for the caller's own.
    pub fn new(
        target: &'a Target,
        fetcher: &'a Fetcher<'a>,
        outcome: &'a Outcome,
        monitor: &'a dyn Monitor,
        threads: usize,
    ) -> Self {
        Queue { target, fetcher, outcome, monitor, threads, pending: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs `walk` here and the workers beside it; returns when both have ended.
    ///
    /// # Errors
    /// When the system refuses one of the threads: then `walk` doesn't run.
    pub fn beside<T>(&self, walk: impl FnOnce() -> T) -> io::Result<T> {
        std::thread::scope(|scope| {
            // Closed whatever happens, else the workers would wait for ever.
            let _closing = Closing(self);
            if self.threads > 1 {
                for _ in 0..self.threads {
                    std::thread::Builder::new().name("restore".into()).spawn_scoped(scope, || self.work())?;
                }
            }
            Ok(walk())
        })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these fetched frame by frame, and in each frame file by file.
    fn push_all(&self, mut wants: Vec<Want>) {
        wants.sort_unstable_by_key(|want| (want.frame(), want.wish.number));
        self.push(stretches(wants, self));
    }

    /// Waits until the workers are about to run out of work, then gives them more.
    fn push(&self, stretches: Vec<Stretch>) {
        if self.threads <= 1 {
            let mut room = Vec::new();
            stretches.into_iter().for_each(|stretch| stretch.run(self, &mut room));
            return;
        }
        let waiting = |pending: &mut Pending| pending.stretches.len() >= self.threads;
        let held = self.outcome.timer.wait(Stage::Walk, || self.changed.wait_while(self.pending(), waiting));
        held.unwrap_or_else(PoisonError::into_inner).stretches.extend(stretches);
        self.changed.notify_all();
    }

    /// Returns when everything pushed has been fetched.
    pub fn drain(&self) {
        let waiting = |pending: &mut Pending| pending.busy > 0 || !pending.stretches.is_empty();
        drop(self.outcome.timer.wait(Stage::Walk, || self.changed.wait_while(self.pending(), waiting)));
    }

    fn work(&self) {
        let idle = |pending: &mut Pending| pending.stretches.is_empty() && !pending.closed;
        let mut room = Vec::new();
        loop {
            let pending = self.outcome.timer.wait(Stage::Fetch, || self.changed.wait_while(self.pending(), idle));
            let mut pending = pending.unwrap_or_else(PoisonError::into_inner);
            let Some(stretch) = pending.stretches.pop_front() else { return };
            pending.busy += 1;
            drop(pending);
            let _busy = Busy(self);
            self.changed.notify_all();
            stretch.run(self, &mut room);
        }
    }
}

struct Closing<'q, 'a>(&'q Queue<'a>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        pending.closed = true;
        // Only a run that ends early leaves something.
        pending.stretches.clear();
        drop(pending);
        self.0.changed.notify_all();
    }
}

/// A stretch being fetched.
struct Busy<'q, 'a>(&'q Queue<'a>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        self.0.pending().busy -= 1;
        self.0.changed.notify_all();
    }
}

/// Neighbouring frames of one pack, read in one go.
struct Stretch {
    pack: Arc<PackEntry>,
    frames: BTreeMap<u32, Vec<Want>>,
}

fn stretches(wants: Vec<Want>, queue: &Queue<'_>) -> Vec<Stretch> {
    let Queue { target, fetcher, outcome, .. } = queue;
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
                    fail(&want.wish.file, outcome, IssueKind::Damaged, "the index names a frame that its pack lacks");
                    release(target, &want.wish.file, outcome);
                    continue;
                };
                let frames = BTreeMap::from([(want.place.frame, vec![want])]);
                let end = frame.offset + u64::from(frame.sealed_length);
                all.push((ordinal, Stretch { pack, frames }, frame.offset, end));
            }
            Err(error) => {
                fail(&want.wish.file, outcome, IssueKind::Missing, &error.to_string());
                release(target, &want.wish.file, outcome);
            }
        }
    }
    all.into_iter().map(|(_, stretch, ..)| stretch).collect()
}

fn fail(file: &OpenFile, outcome: &Outcome, kind: IssueKind, detail: &str) {
    // One issue a file is enough, however many of its chunks are gone.
    if !file.failed.swap(true, Ordering::Relaxed) {
        outcome.issue(Issue { kind, subject: file.path(), detail: detail.to_owned() });
    }
}

impl Stretch {
    /// Frames are opened in `room`.
    fn run(mut self, queue: &Queue<'_>, room: &mut Vec<u8>) {
        let Queue { fetcher, outcome, .. } = queue;
        if outcome.stopped() {
            return;
        }
        let positions: Vec<u32> = self.frames.keys().copied().collect();
        let read = fetcher.frames(&self.pack, &positions, room, &mut |position, epoch, frame| {
            let Ok(hasher) = fetcher.repository.keyring.ids(epoch) else { return };
            let wants = self.frames.remove(&position).unwrap_or_default();
            let verified = |want: Want| {
                let bytes = frame.get(want.place.offset as usize..want.end());
                let is_right = bytes.is_some_and(|bytes| hasher.id(ChunkKind::Data, bytes) == want.wish.id);
                (want, is_right)
            };
            let asked: u64 = wants.iter().map(|want| u64::from(want.place.length)).sum();
            outcome.timer.bytes(Stage::Id, asked);
            let wants = outcome.timer.run(Stage::Id, || wants.into_iter().map(verified).collect::<Vec<(Want, bool)>>());
            // Neighbours are written in one go: a large file's chunks are many and small.
            for joined in wants.chunk_by(|(a, right), (b, also)| *right && *also && a.runs_on_in(b)) {
                match joined {
                    [(want, false), ..] => slow(queue, want),
                    [(first, true), ..] => {
                        let end = joined.last().map_or(first.end(), |(last, _)| last.end());
                        write(queue, &first.wish, joined.len(), &frame[first.place.offset as usize..end]);
                    }
                    [] => {}
                }
            }
        });
        if let Err(error) = read {
            tracing::debug!(%error, "a stretch of frames is read one by one");
        }
        // What the one read didn't give is looked for in every region and every pack.
        for want in self.frames.into_values().flatten() {
            slow(queue, &want);
        }
    }
}

fn slow(queue: &Queue<'_>, want: &Want) {
    let Queue { target, fetcher, outcome, .. } = queue;
    match fetcher.chunk(ChunkKind::Data, want.wish.id) {
        Ok(bytes) => write(queue, &want.wish, 1, &bytes),
        Err(error) => {
            let file = &want.wish.file;
            if error.ends_run() {
                file.failed.store(true, Ordering::Relaxed);
                outcome.stop(error.into());
            } else {
                fail(file, outcome, error.issue_kind(), &error.to_string());
            }
            release(target, file, outcome);
        }
    }
}

/// Writes so many chunks of a file, one after the other, from where the first of them belongs.
fn write(queue: &Queue<'_>, first: &Wish, count: usize, bytes: &[u8]) {
    let Queue { target, outcome, .. } = queue;
    let Wish { file, file_offset, .. } = first;
    if !file.failed.load(Ordering::Relaxed) {
        match outcome.timer.run(Stage::Write, || file.write(target, bytes, *file_offset, outcome)) {
            Ok(()) => {
                outcome.bytes.add(bytes.len() as u64);
                queue.monitor.advance(0, bytes.len() as u64);
                outcome.timer.bytes(Stage::Write, bytes.len() as u64);
            }
            Err(error) => {
                file.failed.store(true, Ordering::Relaxed);
                outcome.target_error(error);
            }
        }
    }
    (0..count).for_each(|_| release(target, file, outcome));
}

/// One thing less to wait for, a chunk or that all were asked for; the last one completes the file.
pub fn release(target: &Target, file: &Arc<OpenFile>, outcome: &Outcome) {
    if file.left.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    // Dropped with the file's handle, what was written of a failed file goes.
    let state = std::mem::replace(&mut *file.state(), State::Done);
    if file.failed.load(Ordering::Relaxed) {
        return;
    }
    let finished = outcome.timer.run(Stage::Write, || match state {
        State::Made(handle) => match Arc::into_inner(handle) {
            Some(handle) => target.finish_file(handle, &file.node),
            // Whoever writes gives it back before it counts as written.
            None => Err(TargetError::Invalid {
                path: file.parent.path_of(&file.node.name),
                detail: "it is still being written",
            }),
        },
        // Every byte of it would have made it: its node says more than its extents hold.
        State::Unmade => target
            .create_file(&file.parent, &file.node, Room::Dense)
            .and_then(|handle| target.finish_file(handle, &file.node)),
        State::Gathered(bytes) => target.write_small_file(&file.parent, &file.node, &bytes),
        State::Small | State::Done => Ok(Restored::default()),
    });
    match finished {
        Ok(restored) => {
            outcome.restored(restored);
            outcome.files.add(1);
        }
        Err(error) => outcome.target_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::target::TargetOptions;

    fn node(name: &[u8], xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Node {
        let kind = NodeKind::Directory { tree: ChunkId::default() };
        Node { mode: 0o640, xattrs, ..Node::bare(name.to_vec(), kind) }
    }

    #[test]
    fn extended_attributes_count_in_a_windows_memory() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = Target::open(directory.path(), TargetOptions::default()).expect("a target");
        let filled = |value: usize, files: usize, chunks: u64| {
            let mut window = Window::default();
            for _ in 0..files {
                let node = node(b"file", vec![(b"user.large".to_vec(), vec![7; value])]);
                let file = OpenFile::small(&target, &target.root(), node.clone());
                (0..chunks).for_each(|at| window.want(&file, at, ChunkId::default(), 1));
            }
            window
        };
        assert!(!filled(10, 100, 1).takes(8 << 20));
        assert!(!filled(64 << 10, 100, 1).takes(8 << 20));
        assert!(filled(64 << 10, 128, 1).takes(8 << 20));
        assert!(!filled(64 << 10, 1, 1000).takes(8 << 20), "a file's count once");
        assert!(filled(0, 1, 20_000).takes(8 << 20), "and chunks as before");
    }
}

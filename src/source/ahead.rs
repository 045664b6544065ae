//! Opens and lists directories, and reads what their entries are, on other threads before the walk comes to them.
//!
//! Guarantees: the walk gets from here only what it would have found itself a little later, asks for nothing that
//! the rules leave out, and waits for nothing that isn't under way; what could not be read is left to it. Which
//! directories were read ahead depends on how the threads run, what comes out of the walk doesn't. Called by the
//! walk alone.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::OFlags;

use super::listing::{Names, Scratch};
use super::metadata::{Stat, XattrReader, Xattrs, open_quietly};

/// Directories that are open and wait for the walk, and entries in them of which metadata is held.
const DIRECTORIES_MAX: usize = 64;
const ENTRIES_MAX: usize = 16 << 10;
/// Of a larger directory, the walk reads the rest itself.
pub(super) const ENTRIES_EACH_MAX: usize = 2048;

/// A directory that was read ahead.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
    pub(super) names: Names,
    pub(super) xattrs: Option<Xattrs>,
    /// Of the first names, as many as were read.
    pub(super) stats: Vec<Stat>,
}

/// Metadata of the first entries of a directory, up to one whose can't be read.
pub(super) fn first_stats(directory: impl AsFd, names: &Names) -> Vec<Stat> {
    (0..ENTRIES_EACH_MAX).map_while(|at| Stat::at(&directory, names.get(at)?, false).ok()).collect()
}

/// Names a directory that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Wanted {
    ticket: Ticket,
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
}

#[derive(Debug)]
enum Progress {
    UnderWay,
    /// `None` if the walk is to try itself.
    Done(Option<Box<Found>>),
}

#[derive(Debug, Default)]
struct State {
    /// The walk comes to the last one first.
    wanted: Vec<Wanted>,
    progress: HashMap<Ticket, Progress>,
    /// Entries of all directories that are done.
    entries: usize,
    next: u64,
    ended: bool,
    /// Threads that have nothing to read, or no room for it.
    idle: usize,
    /// What the walk waits for.
    awaited: Option<Ticket>,
}

impl State {
    /// Whether one of so many parts of all room is left.
    fn has_room(&self, parts: usize) -> bool {
        self.progress.len() + DIRECTORIES_MAX / parts <= DIRECTORIES_MAX
            && self.entries + ENTRIES_MAX / parts <= ENTRIES_MAX
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There may be something to do.
    work: Condvar,
    /// What the walk waits for is done.
    done: Condvar,
}

/// Reads directories ahead of one walk.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes threads that wait, where that is worth it: once some are idle that have room for more than a directory,
    /// or each step of the walk would wake one.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let worth = state.idle > 0 && !state.wanted.is_empty() && state.has_room(2);
        drop(state);
        if worth {
            self.work.notify_all();
        }
    }

    fn work(&self, with_xattrs: bool) {
        let mut scratch = Scratch::new();
        let mut xattrs = with_xattrs.then(XattrReader::default);
        let mut state = self.state();
        loop {
            if state.ended {
                return;
            }
            let has_room = state.has_room(DIRECTORIES_MAX);
            let Some(wanted) = has_room.then(|| state.wanted.pop()).flatten() else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state.progress.insert(wanted.ticket, Progress::UnderWay);
            drop(state);
            let mut answer = Answer { shared: self, ticket: wanted.ticket, found: None };
            answer.found = read(&wanted, &mut scratch, &mut xattrs).map(Box::new);
            drop(answer);
            state = self.state();
        }
    }
}

/// What the walk may be waiting for; it gets an answer even from a thread that panics.
struct Answer<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    found: Option<Box<Found>>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let found = self.found.take();
        let mut state = self.shared.state();
        state.entries += found.as_ref().map_or(0, |found| found.stats.len());
        state.progress.insert(self.ticket, Progress::Done(found));
        let awaited = state.awaited == Some(self.ticket);
        drop(state);
        if awaited {
            self.shared.done.notify_all();
        }
    }
}

fn read(wanted: &Wanted, scratch: &mut Scratch, xattrs: &mut Option<XattrReader>) -> Option<Found> {
    let fd = open_quietly(&wanted.parent, &wanted.name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW).ok()?;
    let stat = Stat::of(&fd).ok()?;
    let (names, failure) = Names::list_steadily(fd.as_fd(), scratch);
    if failure.is_some() {
        return None;
    }
    let stats = first_stats(&fd, &names);
    let xattrs = xattrs.as_mut().map(|reader| reader.read_open(stat.identity.device, fd.as_fd()));
    Some(Found { fd, stat, names, xattrs, stats })
}

impl Ahead {
    /// With so many threads; `with_xattrs` if extended attributes of the directories are wanted.
    pub(super) fn new(threads: usize, with_xattrs: bool) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..threads)
            .map_while(|_| {
                let shared = Arc::clone(&shared);
                // Where there are no more threads to be had, the walk reads all by itself.
                std::thread::Builder::new().name("walk ahead".into()).spawn(move || shared.work(with_xattrs)).ok()
            })
            .collect();
        Ahead { shared, threads }
    }

    /// Asks for directories of `parent`, which the walk comes to in this order and before any asked for earlier.
    pub(super) fn ask(&self, parent: &Arc<OwnedFd>, names: Vec<Vec<u8>>) -> Vec<Ticket> {
        let mut state = self.shared.state();
        let first = state.next;
        state.next += names.len() as u64;
        let tickets: Vec<Ticket> = (first..state.next).map(Ticket).collect();
        let wanted = tickets.iter().zip(names).rev();
        state.wanted.extend(wanted.map(|(ticket, name)| Wanted { ticket: *ticket, parent: Arc::clone(parent), name }));
        self.shared.wake(state);
        tickets
    }

    /// What was found; `None` if nobody has begun to read it, or it could not be read.
    pub(super) fn take(&self, ticket: Ticket) -> Option<Box<Found>> {
        let mut state = self.shared.state();
        loop {
            match state.progress.get(&ticket) {
                None => {
                    // The walk comes to the last asked for first: it is near the end.
                    if let Some(at) = state.wanted.iter().rposition(|wanted| wanted.ticket == ticket) {
                        state.wanted.remove(at);
                    }
                    return None;
                }
                Some(Progress::UnderWay) => {
                    state.awaited = Some(ticket);
                    state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.awaited = None;
                }
                Some(Progress::Done(_)) => break,
            }
        }
        let Some(Progress::Done(found)) = state.progress.remove(&ticket) else { return None };
        state.entries -= found.as_ref().map_or(0, |found| found.stats.len());
        self.shared.wake(state);
        found
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there is a programmer's error; the walk has waited for nothing from it since.
            let _ = thread.join();
        }
    }
}

//! Ships packs and segments to every region of a run, bounded and with retries, and owns the write
//! order: in each region a segment goes only when every pack that it lists is there (`ORDER-1`).
//!
//! A region that fails is dropped for the rest of the run and the others go on; the run ends in error
//! only when none is left.

use crate::store::{Payload, Store, StoreError, StoreErrorKind};
use crate::timing::{Stage, Timer};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A region as the shipper sees it.
#[derive(Clone)]
pub struct Destination {
    /// Its name, for messages.
    pub name: String,
    /// Its store.
    pub store: Arc<dyn Store>,
}

/// What went wrong while shipping.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// Every region of the run failed.
    #[error("no region takes what is stored: {}", join(.0))]
    NoRegionLeft(Vec<(String, StoreErrorKind, String)>),
}

impl ShipError {
    /// Every region refused it: trying again changes nothing.
    pub fn denied(&self) -> bool {
        let ShipError::NoRegionLeft(failures) = self;
        failures.iter().all(|(_, kind, _)| *kind == StoreErrorKind::Denied)
    }
}

fn join(failures: &[(String, StoreErrorKind, String)]) -> String {
    failures.iter().map(|(name, _, error)| format!("region '{name}': {error}")).collect::<Vec<_>>().join("; ")
}

/// One object on its way to all regions.
struct Task {
    name: String,
    payload: Payload,
    region: usize,
    ticket: Arc<Ticket>,
}

/// Counts the puts of one object that have not ended.
struct Ticket {
    left: Mutex<usize>,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    closed: bool,
}

struct Shared {
    destinations: Vec<Destination>,
    failures: Mutex<Vec<Option<StoreError>>>,
    queue: Mutex<Queue>,
    changed: Condvar,
    bound: usize,
    shipped_bytes: Vec<crate::report::Counter>,
    timer: Timer,
}

/// Ships to every region. With no threads, every call does its work before it returns.
pub struct Shipper {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Handle to wait for one object's puts.
pub struct Shipment(Arc<Ticket>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shipper {
    /// To `destinations` with so many threads; at most `bound` puts wait.
    pub fn new(destinations: Vec<Destination>, threads: usize, bound: usize) -> Self {
        Self::timed(destinations, threads, bound, Timer::off())
    }

    /// As [`Shipper::new`]; takes the times of the puts.
    pub fn timed(destinations: Vec<Destination>, threads: usize, bound: usize, timer: Timer) -> Self {
        let shared = Arc::new(Shared {
            failures: Mutex::new(destinations.iter().map(|_| None).collect()),
            shipped_bytes: destinations.iter().map(|_| crate::report::Counter::default()).collect(),
            destinations,
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
            bound: bound.max(1),
            timer,
        });
        let threads = (0..threads)
            .map_while(|_| {
                let shared = Arc::clone(&shared);
                // With fewer threads it takes longer; with none, whoever ships puts.
                std::thread::Builder::new().name("ship".into()).spawn(move || shared.work()).ok()
            })
            .collect();
        Shipper { shared, threads }
    }

    /// Puts an object into every region; blocks while too many wait.
    pub fn ship(&self, name: &str, payload: &Payload) -> Shipment {
        let regions = self.shared.destinations.len();
        let ticket = Arc::new(Ticket { left: Mutex::new(regions), done: Condvar::new() });
        for region in 0..regions {
            let task = Task { name: name.to_owned(), payload: payload.clone(), region, ticket: Arc::clone(&ticket) };
            if self.threads.is_empty() {
                self.shared.run(task);
                continue;
            }
            let mut queue = locked(&self.shared.queue);
            while queue.tasks.len() >= self.shared.bound {
                queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.tasks.push_back(task);
            self.shared.changed.notify_all();
        }
        Shipment(ticket)
    }

    /// Puts an object into every region that holds all of `after`; returns when it is there.
    ///
    /// # Errors
    /// When no region is left.
    pub fn ship_after(&self, after: &[Shipment], name: &str, payload: &Payload) -> Result<(), ShipError> {
        after.iter().for_each(Shipment::wait);
        // A region that lost one of them has failed, and takes nothing more in this run.
        self.ship(name, payload).wait();
        self.check()
    }

    /// The regions that still take objects, by index into the destinations.
    pub fn alive(&self) -> Vec<usize> {
        locked(&self.shared.failures)
            .iter()
            .enumerate()
            .filter(|(_, error)| error.is_none())
            .map(|(at, _)| at)
            .collect()
    }

    /// The failure of a region, for a person.
    pub fn failure(&self, region: usize) -> Option<(StoreErrorKind, String)> {
        locked(&self.shared.failures)[region].as_ref().map(|error| (error.kind, error.to_string()))
    }

    /// Marks a region failed: it takes nothing more in this run.
    pub fn fail(&self, region: usize, error: StoreError) {
        locked(&self.shared.failures)[region].get_or_insert(error);
    }

    /// Bytes put into a region.
    pub fn shipped_bytes(&self, region: usize) -> u64 {
        self.shared.shipped_bytes[region].get()
    }

    /// # Errors
    /// When no region is left.
    pub fn check(&self) -> Result<(), ShipError> {
        let failures = locked(&self.shared.failures);
        if failures.iter().any(Option::is_none) {
            return Ok(());
        }
        let list = self.shared.destinations.iter().zip(failures.iter());
        Err(ShipError::NoRegionLeft(
            list.filter_map(|(to, error)| Some((to.name.clone(), error.as_ref()?.kind, error.as_ref()?.to_string())))
                .collect(),
        ))
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        locked(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panicked uploader has left its ticket open only if its put panicked: nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Shipment {
    /// Returns when every region has the object or has failed.
    pub fn wait(&self) {
        let mut left = locked(&self.0.left);
        while *left > 0 {
            left = self.0.done.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut queue = locked(&self.queue);
            let task = loop {
                if let Some(task) = queue.tasks.pop_front() {
                    break task;
                }
                if queue.closed {
                    return;
                }
                queue =
                    self.timer.wait(Stage::Ship, || self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner));
            };
            drop(queue);
            self.changed.notify_all();
            self.run(task);
        }
    }

    fn run(&self, task: Task) {
        let failed = locked(&self.failures)[task.region].is_some();
        if !failed {
            let store = &*self.destinations[task.region].store;
            match self.timer.run(Stage::Ship, || put_with_retries(store, &task.name, &task.payload)) {
                Ok(()) => {
                    self.shipped_bytes[task.region].add(task.payload.length());
                    self.timer.bytes(Stage::Ship, task.payload.length());
                }
                Err(error) => {
                    locked(&self.failures)[task.region].get_or_insert(error);
                }
            }
        }
        *locked(&task.ticket.left) -= 1;
        task.ticket.done.notify_all();
    }
}

/// Puts an object, trying again after passing faults with growing pauses.
///
/// # Errors
/// What the last attempt said.
pub fn put_with_retries(store: &dyn Store, name: &str, payload: &Payload) -> Result<(), StoreError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match store.put_new(name, payload) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == StoreErrorKind::Unavailable && attempt < ATTEMPTS => {
                tracing::warn!(%error, attempt, "a put failed and is tried again");
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop returns")
}

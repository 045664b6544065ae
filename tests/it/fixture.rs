//! What the tests of backup and restore share: a repository over stores that can be told to fail, and
//! an independent comparison of two directory trees.

use keepstone::backup::{Backup, BackupError, BackupSummary, DedupTrust, backup_tree};
use keepstone::compress::Compression;
use keepstone::crypto::slot::{Unlock, Wrapping};
use keepstone::env::{Clock, Random, StepClock, SystemRandom};
use keepstone::format::config::Suite;
use keepstone::format::ids::{SlotId, SnapshotId};
use keepstone::format::roster::Role;
use keepstone::index::MemoryIndex;
use keepstone::pack::SpoolSpace;
use keepstone::repo::fetch::Fetcher;
use keepstone::repo::snapshots::{Listing, list};
use keepstone::repo::sync::sync;
use keepstone::repo::{InitOptions, Located, RegionSpec, RepoError, Repository, init};
use keepstone::report::Silent;
use keepstone::restore::target::{Target, TargetOptions};
use keepstone::restore::{Restore, RestoreError, RestoreSummary, restore};
use keepstone::source::{Walk, WalkOptions};
use keepstone::store::faults::FaultyStore;
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Listed, Payload, Put, Store, StoreError, StoreErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// A put as the innermost store saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Began(String),
    Ended(String),
}

/// A memory store that records when each put began and ended, and that dies with its process: once
/// the shared fuse has burnt down, nothing is performed any more.
pub struct Recorder {
    pub memory: MemoryStore,
    pub steps: Mutex<Vec<Step>>,
    pub pack_delay_ms: AtomicU64,
    fuse: Arc<AtomicI64>,
    visitor: Arc<Visitor>,
}

/// Somebody who does something in the middle of another's work: at the call of this number, counted down.
#[derive(Default)]
struct Visitor {
    calls_left: AtomicI64,
    visit: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Recorder {
    fn new(memory: MemoryStore, fuse: Arc<AtomicI64>, visitor: Arc<Visitor>) -> Self {
        Recorder { memory, steps: Mutex::default(), pack_delay_ms: AtomicU64::new(0), fuse, visitor }
    }

    fn burn(&self, operation: &'static str, name: &str) -> Result<(), StoreError> {
        if self.visitor.calls_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let visit = self.visitor.visit.lock().unwrap().take();
            visit.into_iter().for_each(|visit| visit());
        }
        match self.fuse.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(StoreError::new(StoreErrorKind::Other, operation, "recorder", name, "the process died".into())),
        }
    }
}

impl Store for Recorder {
    fn address(&self) -> &str {
        self.memory.address()
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        self.burn("put", name)?;
        self.steps.lock().unwrap().push(Step::Began(name.to_owned()));
        if name.starts_with("packs/") {
            std::thread::sleep(Duration::from_millis(self.pack_delay_ms.load(Ordering::Relaxed)));
        }
        let put = self.memory.put_new(name, payload);
        self.steps.lock().unwrap().push(Step::Ended(name.to_owned()));
        put
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.burn("get", name)?;
        self.memory.get(name, bytes_max)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.burn("get", name)?;
        self.memory.get_range(name, offset, length)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.burn("size", name)?;
        self.memory.size(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.burn("list", prefix)?;
        self.memory.list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.burn("delete", name)?;
        self.memory.delete(name)
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        self.burn("heal", name)?;
        self.memory.heal(name, payload)
    }
}

pub type Faulty = FaultyStore<Recorder>;

const NEVER: i64 = i64::MAX / 2;

/// A repository over regions in memory, and what opens it.
pub struct World {
    pub stores: Vec<Arc<Faulty>>,
    pub identity: String,
    pub pin: [u8; 32],
    pub clock: Arc<StepClock>,
    pub random: Arc<dyn Random>,
    fuse: Arc<AtomicI64>,
    visitor: Arc<Visitor>,
}

/// An age identity and its recipient.
pub fn identity() -> (String, String) {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
}

impl World {
    pub fn new(regions: usize) -> World {
        World::with(regions, Suite::ChaCha20Poly1305)
    }

    pub fn with(regions: usize, suite: Suite) -> World {
        World::with_random(regions, suite, Arc::new(SystemRandom))
    }

    pub fn with_random(regions: usize, suite: Suite, random: Arc<dyn Random>) -> World {
        World::over((0..regions).map(|_| MemoryStore::new()).collect(), suite, random)
    }

    /// One region in a store that overwrites what it should refuse.
    pub fn without_put_if_absent() -> World {
        let store = MemoryStore::new().without_put_if_absent();
        World::over(vec![store], Suite::ChaCha20Poly1305, Arc::new(SystemRandom))
    }

    fn over(stores: Vec<MemoryStore>, suite: Suite, random: Arc<dyn Random>) -> World {
        let (identity, recipient) = identity();
        let (fuse, visitor) = (Arc::new(AtomicI64::new(NEVER)), Arc::new(Visitor::default()));
        let store = |memory| Arc::new(FaultyStore::new(Recorder::new(memory, Arc::clone(&fuse), Arc::clone(&visitor))));
        let stores: Vec<_> = stores.into_iter().map(store).collect();
        let clock = Arc::new(StepClock::starting_at(1_700_000_000));
        let mut world = World { stores, identity, pin: [0; 32], clock, random, fuse, visitor };
        let options =
            InitOptions { suite, wrapping: Wrapping::Recipient(recipient), label: "test".into(), host: "maker".into() };
        let made = init(&world.specs(&world.all()), &options, &*world.clock, &*world.random).unwrap();
        world.pin = made.fingerprint.0;
        world.forget_history();
        world
    }

    /// The same repository in stores of its own, without faults.
    pub fn fork(&self) -> World {
        self.over_stores(|memory| memory.fork())
    }

    /// The same world seen by another process: faults, logs and deaths are its own.
    pub fn beside(&self) -> World {
        self.over_stores(Clone::clone)
    }

    fn over_stores(&self, memory: impl Fn(&MemoryStore) -> MemoryStore) -> World {
        let (fuse, visitor) = (Arc::new(AtomicI64::new(NEVER)), Arc::new(Visitor::default()));
        let forked = |store: &Arc<Faulty>| {
            let memory = memory(&store.inner().memory);
            Arc::new(FaultyStore::new(Recorder::new(memory, Arc::clone(&fuse), Arc::clone(&visitor))))
        };
        let seconds = u64::try_from(self.clock.now_ns() / 1_000_000_000).unwrap();
        World {
            stores: self.stores.iter().map(forked).collect(),
            identity: self.identity.clone(),
            pin: self.pin,
            clock: Arc::new(StepClock::starting_at(seconds)),
            random: Arc::clone(&self.random),
            fuse,
            visitor,
        }
    }

    /// Has another process do something just before the `call`-th call from now, counted from 1.
    pub fn visit_at(&self, call: u64, visit: impl FnOnce(&World) + Send + 'static) {
        let other = self.beside();
        *self.visitor.visit.lock().unwrap() = Some(Box::new(move || visit(&other)));
        self.visitor.calls_left.store(i64::try_from(call).unwrap(), Ordering::SeqCst);
    }

    /// The process dies before its `operation`-th call from now, counted over all stores from 0.
    pub fn die_after(&self, operations: u64) {
        self.fuse.store(i64::try_from(operations).unwrap(), Ordering::SeqCst);
    }

    /// How many calls were made since [`World::die_after`] with plenty.
    pub fn live_again(&self) {
        self.fuse.store(NEVER, Ordering::SeqCst);
    }

    /// Calls over all stores that `run` makes.
    pub fn calls_of(&self, run: impl FnOnce()) -> u64 {
        self.live_again();
        run();
        u64::try_from(NEVER - self.fuse.load(Ordering::SeqCst)).unwrap()
    }

    pub fn forget_history(&self) {
        for store in &self.stores {
            store.clear_log();
            store.inner().steps.lock().unwrap().clear();
        }
    }

    pub fn all(&self) -> Vec<usize> {
        (0..self.stores.len()).collect()
    }

    pub fn specs(&self, which: &[usize]) -> Vec<RegionSpec> {
        let spec = |at: &usize| RegionSpec { name: format!("r{at}"), store: self.stores[*at].clone() };
        which.iter().map(spec).collect()
    }

    pub fn open(&self, which: &[usize]) -> Result<Repository, RepoError> {
        let unlock = Unlock::Identities(Zeroizing::new(self.identity.clone()));
        let located = Located::open(&self.specs(which), Some(self.pin))?;
        let clock: Arc<dyn Clock> = self.clock.clone();
        located.unlock(&unlock, clock, Arc::clone(&self.random))
    }

    /// Adds a slot of this role; gives it with the identity that opens it.
    pub fn add_slot(&self, role: Role, label: &str) -> (SlotId, String) {
        let (identity, recipient) = identity();
        let mut repository = self.open(&self.all()).unwrap();
        (repository.add_slot(role, label, &Wrapping::Recipient(recipient)).unwrap(), identity)
    }

    /// The same repository in the same stores, opened by another slot's identity.
    pub fn as_slot(&self, identity: &str) -> World {
        World {
            stores: self.stores.clone(),
            identity: identity.to_owned(),
            pin: self.pin,
            clock: self.clock.clone(),
            random: Arc::clone(&self.random),
            fuse: Arc::clone(&self.fuse),
            visitor: Arc::clone(&self.visitor),
        }
    }

    /// Backs up with a fresh index, as a host without a cache does.
    pub fn backup(&self, which: &[usize], source: &Path, threads: usize) -> Result<BackupSummary, BackupError> {
        self.backup_as(which, source, &options(threads))
    }

    pub fn backup_as(&self, which: &[usize], source: &Path, options: &Backup) -> Result<BackupSummary, BackupError> {
        let repository = self.open(which)?;
        let index = MemoryIndex::new();
        assert!(sync(&repository, &index, &Silent)?.is_empty(), "damaged segments");
        let listing = list(&repository)?;
        assert_eq!(listing.issues, [], "damaged snapshots");
        let sources = [source.to_path_buf()];
        let walk = Walk::new(&sources, WalkOptions::default())?;
        backup_tree(&repository, &index, options, walk, &listing.snapshots, &Silent)
    }

    pub fn list(&self, which: &[usize]) -> Listing {
        list(&self.open(which).unwrap()).unwrap()
    }

    /// The ids of the snapshots that count in these regions.
    pub fn ids(&self, which: &[usize]) -> Vec<SnapshotId> {
        let listing = self.list(which);
        assert_eq!(listing.issues, []);
        listing.snapshots.iter().map(|info| info.id).collect()
    }

    pub fn restore(
        &self,
        which: &[usize],
        id: SnapshotId,
        to: &Path,
        threads: usize,
    ) -> Result<RestoreSummary, RestoreError> {
        let options = Restore { threads, verify: true, ..Restore::default() };
        self.restore_as(which, id, to, &options, TargetOptions { numeric_ids: true, ..quick_target() })
    }

    pub fn restore_as(
        &self,
        which: &[usize],
        id: SnapshotId,
        to: &Path,
        options: &Restore,
        target: TargetOptions,
    ) -> Result<RestoreSummary, RestoreError> {
        let repository = self.open(which).unwrap();
        let index = MemoryIndex::new();
        assert_eq!(sync(&repository, &index, &Silent).unwrap(), []);
        let listing = list(&repository).unwrap();
        let info = listing.snapshots.iter().find(|info| info.id == id).expect("the snapshot counts here");
        let fetcher = Fetcher::new(&repository, &index, &Silent, 16 << 20);
        let target = Target::open(to, target)?;
        restore(&fetcher, info.snapshot.root, &target, options, &Silent, (0, 0))
    }

    /// Restores a snapshot from these regions into a new directory and asserts that it is `source`.
    pub fn assert_restores(&self, which: &[usize], id: SnapshotId, source: &Path, threads: usize) {
        let to = tempfile::tempdir().unwrap();
        let target = to.path().join("t");
        let summary = self.restore(which, id, &target, threads).unwrap();
        assert_eq!(summary.issues, [], "restored from {which:?}");
        assert_same(source, &target);
    }
}

/// A target that isn't flushed: a test's files need not outlive the machine.
pub fn quick_target() -> TargetOptions {
    TargetOptions { sync: false, ..TargetOptions::default() }
}

pub fn options(threads: usize) -> Backup {
    Backup {
        dataset: "default".into(),
        host: "host".into(),
        tags: Default::default(),
        chunk_average: keepstone::limits::CHUNK_AVERAGE_BYTES_MIN,
        compression: Compression::Default,
        dry_run: false,
        skip_if_unchanged: false,
        allow_empty: true,
        trust: DedupTrust::Own,
        lacking: None,
        threads,
        spools: SpoolSpace::Memory,
        seen_directory: None,
        watch_interval: keepstone::backup::WATCH_INTERVAL_DEFAULT,
    }
}

/// Bytes that don't compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes a file with its parents.
pub fn write(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

pub use crate::facts::assert_same;

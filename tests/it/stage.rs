//! A stage for the protocol of writers and collectors: stores that tell a test of every call, and the hand of a
//! collector that puts log entries at chosen moments, deletes what a final lists, and never keeps what it need
//! not.

use crate::fixture::{World, noise, options, write};
use keepstone::backup::{Backup, BackupError, BackupSummary, backup_stream, backup_tree};
use keepstone::crypto::object::{self, build_sealed, build_signed};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::gc::{Condemn, Fence, Final};
use keepstone::format::ids::{PackId, RegionId, SegmentId, SessionId, SnapshotId, number_name};
use keepstone::format::node::Timestamp;
use keepstone::format::roster::Role;
use keepstone::format::session::Session as SessionState;
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::index::MemoryIndex;
use keepstone::pack::reader::pack_name;
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::{read_segment, sync};
use keepstone::repo::{RegionSpec, Repository};
use keepstone::report::{Monitor, Silent};
use keepstone::source::{Walk, WalkOptions, stream_node};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, list_sorted};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// A store call, seen before it is made and once more after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub region: usize,
    pub operation: &'static str,
    pub name: String,
    pub after: bool,
}

/// What a test does at a call.
pub enum Answer {
    Go,
    Fail,
    /// A listing that doesn't show this name.
    Hide(String),
}

pub type Hook = Box<dyn FnMut(&Call) -> Answer + Send>;

/// A region's store that tells a test of every call, and keeps one record for all regions.
pub struct Hooked {
    region: usize,
    memory: MemoryStore,
    calls: Arc<Mutex<Vec<Call>>>,
    hook: Arc<Mutex<Hook>>,
}

impl Hooked {
    fn call<T>(
        &self,
        operation: &'static str,
        name: &str,
        perform: impl FnOnce(Option<String>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut call = Call { region: self.region, operation, name: name.to_owned(), after: false };
        self.calls.lock().unwrap().push(call.clone());
        let hidden = match (self.hook.lock().unwrap())(&call) {
            Answer::Go => None,
            Answer::Hide(name) => Some(name),
            Answer::Fail => {
                let detail = "the test said so".to_owned();
                return Err(StoreError::new(StoreErrorKind::Other, operation, "hooked", name, detail));
            }
        };
        let result = perform(hidden);
        call.after = true;
        (self.hook.lock().unwrap())(&call);
        result
    }
}

impl Store for Hooked {
    fn address(&self) -> &str {
        self.memory.address()
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        self.call("put", name, |_| self.memory.put_new(name, payload))
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.call("get", name, |_| self.memory.get(name, bytes_max))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.call("get", name, |_| self.memory.get_range(name, offset, length))
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.call("size", name, |_| self.memory.size(name))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.call("list", prefix, |hidden| {
            self.memory.list(prefix, &mut |listed| {
                if Some(&listed.name) != hidden.as_ref() {
                    each(listed);
                }
            })
        })
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.call("delete", name, |_| self.memory.delete(name))
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        self.call("heal", name, |_| self.memory.heal(name, payload))
    }
}

/// Calls a test back at each file that is read.
pub struct AtFile<F>(pub F);

impl<F: Fn(&str) + Send + Sync> Monitor for AtFile<F> {
    fn current(&self, path: &[u8]) {
        (self.0)(&String::from_utf8_lossy(path));
    }
}

/// The hand of a collector: an owner's signer and the stores, past all hooks.
pub struct Collector {
    pub repository: Repository,
    pub memories: Vec<MemoryStore>,
}

pub fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<T>>().into_iter().collect()
}

impl Collector {
    pub fn names(&self, at: usize, prefix: &str) -> Vec<String> {
        list_sorted(&self.memories[at], prefix).unwrap().into_iter().map(|listed| listed.name).collect()
    }

    pub fn region(&self, at: usize) -> RegionId {
        self.repository.regions[at].info.region
    }

    pub fn put(&self, at: usize, generation: u64, part: &str, kind: ObjectKind, payload: &[u8]) {
        let (bytes, _) = build_signed(kind, self.repository.config.repository, &self.repository.signer(), payload);
        let name = format!("gc/{}/{part}", number_name(generation));
        self.memories[at].put_new(&name, &bytes.into()).unwrap();
    }

    pub fn condemn(&self, at: usize, generation: u64, packs: &[PackId]) {
        let condemn = Condemn {
            generation,
            region: self.region(at),
            packs: sorted(packs.iter().copied()),
            forgotten: Vec::new(),
        };
        self.put(at, generation, "condemn", ObjectKind::Condemn, &condemn.encode());
    }

    pub fn fence(&self, at: usize, generation: u64, sessions: &[SessionId], snapshots: &[SnapshotId]) {
        let sessions = sorted(sessions.iter().copied());
        let fence =
            Fence { generation, region: self.region(at), sessions, snapshots: sorted(snapshots.iter().copied()) };
        self.put(at, generation, "fence", ObjectKind::Fence, &fence.encode());
    }

    /// Puts the final and deletes for real: packs, and the segments that list no other ones.
    pub fn finish(&self, at: usize, generation: u64, deleted: &[PackId], rescued: &[PackId], fenced: &[SessionId]) {
        let entry = Final {
            generation,
            region: self.region(at),
            deleted: sorted(deleted.iter().copied()),
            rescued: sorted(rescued.iter().copied()),
            fenced: sorted(fenced.iter().copied()),
            collected: Vec::new(),
            seen: Vec::new(),
        };
        self.put(at, generation, "final", ObjectKind::Final, &entry.encode());
        for name in self.names(at, "index/") {
            let id = SegmentId::from_hex(name.strip_prefix("index/").unwrap()).unwrap();
            let opened = read_segment(&self.repository, &self.repository.regions[at], id).unwrap();
            if opened.segment.packs.iter().all(|pack| deleted.contains(&pack.pack)) {
                self.memories[at].delete(&name).unwrap();
            }
        }
        deleted.iter().for_each(|pack| self.memories[at].delete(&pack_name(pack)).unwrap());
    }

    /// One whole generation that takes these packs, whatever anybody needs, and fences who is open.
    pub fn collect(&self, at: usize, generation: u64, packs: &[PackId]) {
        self.condemn(at, generation, packs);
        let open = self.open_sessions(at);
        self.fence(at, generation, &open, &[]);
        self.finish(at, generation, packs, &[], &open);
    }

    pub fn packs(&self, at: usize) -> Vec<PackId> {
        let name = |name: &String| PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap();
        self.names(at, "packs/").iter().map(name).collect()
    }

    /// Sessions with neither commit nor end.
    pub fn open_sessions(&self, at: usize) -> Vec<SessionId> {
        let mut open = BTreeSet::new();
        let mut over = BTreeSet::new();
        for name in self.names(at, "sessions/") {
            let (session, part) = name.strip_prefix("sessions/").unwrap().split_once('/').unwrap();
            let session = SessionId::from_hex(session).unwrap();
            open.insert(session);
            if part == "end" {
                over.insert(session);
            }
        }
        over.extend(self.commits(at));
        open.difference(&over).copied().collect()
    }

    pub fn commits(&self, at: usize) -> Vec<SessionId> {
        let names = self.names(at, "commits/");
        names.iter().map(|name| SessionId::from_hex(name.strip_prefix("commits/").unwrap()).unwrap()).collect()
    }

    /// A session's states in order.
    pub fn states(&self, at: usize, session: SessionId) -> Vec<SessionState> {
        let names = self.names(at, &format!("sessions/{session}/")).into_iter().filter(|name| !name.ends_with("end"));
        names.map(|name| self.state(at, &name)).collect()
    }

    pub fn state(&self, at: usize, name: &str) -> SessionState {
        let bytes = self.memories[at].get(name, 1 << 20).unwrap();
        let signed = object::decode(ObjectKind::Session, self.repository.config.repository, &bytes).unwrap();
        SessionState::decode(signed.envelope.payload).unwrap()
    }

    pub fn rule(&self, at: usize, snapshot: SnapshotId, number: u64, ruling: Ruling) {
        let verdict = Verdict { snapshot, number, ruling, decided_at: 0, reason: String::new(), until: None };
        let repository = &self.repository;
        let (bytes, digest) = build_sealed(
            ObjectKind::Verdict,
            &repository.keyring,
            &repository.signer(),
            verdict.encode(),
            &*repository.random,
        )
        .unwrap();
        let name = format!("verdicts/{snapshot}/{}-{digest}", number_name(number));
        self.memories[at].put_new(&name, &bytes.into()).unwrap();
    }
}

/// A repository whose stores tell a test of every call.
pub struct Stage {
    pub world: World,
    pub stores: Vec<Arc<Hooked>>,
    pub calls: Arc<Mutex<Vec<Call>>>,
    pub hook: Arc<Mutex<Hook>>,
    pub index: MemoryIndex,
    pub collector: Arc<Collector>,
}

impl Stage {
    pub fn new(regions: usize) -> Stage {
        Stage::of(World::new(regions))
    }

    /// With a writer's slot; gives the identity that opens it.
    pub fn with_writer(regions: usize) -> (Stage, String) {
        let world = World::new(regions);
        let (_, identity) = world.add_slot(Role::Writer, "writer");
        (Stage::of(world), identity)
    }

    pub fn of(world: World) -> Stage {
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let hook: Arc<Mutex<Hook>> = Arc::new(Mutex::new(Box::new(|_| Answer::Go)));
        let memories: Vec<MemoryStore> = world.stores.iter().map(|store| store.inner().memory.clone()).collect();
        let stores = memories.iter().enumerate().map(|(region, memory)| {
            let (memory, calls, hook) = (memory.clone(), Arc::clone(&calls), Arc::clone(&hook));
            Arc::new(Hooked { region, memory, calls, hook })
        });
        let stores = stores.collect();
        let collector = Arc::new(Collector { repository: world.open(&world.all()).unwrap(), memories });
        Stage { world, stores, calls, hook, index: MemoryIndex::new(), collector }
    }

    /// As the slot that this identity opens.
    pub fn open_as(&self, identity: Option<&str>) -> Repository {
        use keepstone::crypto::slot::Unlock;
        let specs: Vec<RegionSpec> = self
            .stores
            .iter()
            .enumerate()
            .map(|(at, store)| RegionSpec { name: format!("r{at}"), store: store.clone() })
            .collect();
        let identity = identity.unwrap_or(&self.world.identity).to_owned();
        let located = keepstone::repo::Located::open(&specs, Some(self.world.pin)).unwrap();
        let clock = self.world.clock.clone();
        located.unlock(&Unlock::Identities(identity.into()), clock, Arc::clone(&self.world.random)).unwrap()
    }

    pub fn on(&self, hook: impl FnMut(&Call) -> Answer + Send + 'static) {
        *self.hook.lock().unwrap() = Box::new(hook);
    }

    pub fn quiet(&self) {
        self.on(|_| Answer::Go);
    }

    /// What a run needs besides its source; the record of calls begins here.
    pub fn prepared(&self, identity: Option<&str>) -> (Repository, Vec<keepstone::repo::SnapshotInfo>) {
        let repository = self.open_as(identity);
        sync(&repository, &self.index, &Silent).unwrap();
        let earlier = list(&repository).unwrap().snapshots;
        self.calls.lock().unwrap().clear();
        (repository, earlier)
    }

    pub fn backup_with(
        &self,
        source: &Path,
        options: &Backup,
        monitor: &dyn Monitor,
    ) -> Result<BackupSummary, BackupError> {
        let (repository, earlier) = self.prepared(None);
        let sources = [source.to_path_buf()];
        let walk = Walk::new(&sources, WalkOptions::default())?;
        backup_tree(&repository, &self.index, options, walk, &earlier, monitor)
    }

    pub fn backup(&self, source: &Path) -> BackupSummary {
        self.backup_with(source, &watching(), &Silent).unwrap()
    }

    pub fn stream(&self, identity: Option<&str>, stream: impl Read + Send) -> Result<BackupSummary, BackupError> {
        let (repository, earlier) = self.prepared(identity);
        let node = stream_node("stream".as_ref(), Timestamp { seconds: 0, nanoseconds: 0 }).unwrap();
        let done = |_| Ok(());
        backup_stream(&repository, &self.index, &watching(), node, Vec::new(), stream, done, &earlier, &Silent)
    }

    /// Calls of the last run, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The place of a call among those of its region, from a place on.
    pub fn place(&self, from: usize, region: usize, operation: &str, prefix: &str) -> usize {
        let calls = self.calls();
        let found =
            calls.iter().enumerate().skip(from).find(|(_, call)| {
                call.region == region && call.operation == operation && call.name.starts_with(prefix)
            });
        found.unwrap_or_else(|| panic!("no {operation} {prefix} from {from} on in {calls:#?}")).0
    }

    /// A snapshot of `source` that was forgotten: its packs are what a collector takes next.
    pub fn forgotten(&self, source: &Path) -> Vec<PackId> {
        let id = self.backup(source).snapshot.unwrap();
        self.collector.rule(0, id, 0, Ruling::Forget);
        self.collector.packs(0)
    }

    /// The snapshot counts in each of these regions and comes back from each alone.
    pub fn assert_restores(&self, which: &[usize], id: SnapshotId, source: &Path) {
        for at in which {
            assert!(self.world.ids(&[*at]).contains(&id), "region {at} counts it");
            self.world.assert_restores(&[*at], id, source, 0);
        }
    }
}

/// Looks at the log at every step.
pub fn watching() -> Backup {
    Backup { watch_interval: Duration::ZERO, ..plain() }
}

/// Without threads, and in chunks so large that no file needs a list of them, however small it is.
pub fn plain() -> Backup {
    Backup { chunk_average: 4 * keepstone::limits::CHUNK_AVERAGE_BYTES_TREE, ..options(0) }
}

/// Large enough that each file is looked up by itself; small ones are together.
pub const FILE_BYTES: usize = 70_000;

pub fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    for at in 0..6 {
        write(source.path(), &format!("file{at}"), &noise(at, FILE_BYTES));
    }
    source
}

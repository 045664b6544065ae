//! The local index follows collections: it says what one made anew would say, what is remembered beside it
//! holds, and what no collection explains is a loss.

use crate::fixture::{World, noise, options, write};
use crate::gc::thorough;
use keepstone::backup::{Backup, BackupSummary, backup_tree};
use keepstone::check::{self, check};
use keepstone::env::{Clock, StepClock};
use keepstone::format::ids::{ChunkId, Digest, PackId, RegionId, SegmentId, SnapshotId};
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::gc::{GcOptions, MaxUnused, gc};
use keepstone::index::segment::segment_name;
use keepstone::index::{Index, MemoryIndex, Place};
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::{list_segments, read_segment, sync};
use keepstone::repo::verdicts::{self, Decree};
use keepstone::report::Silent;
use keepstone::source::{Walk, WalkOptions};
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{Store, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A client that keeps its index and what it remembers of its sources.
struct Client {
    index: Box<dyn Index>,
    seen: TempDir,
    _directory: TempDir,
}

/// One of each kind of index.
fn clients(world: &World) -> Vec<Client> {
    let mut made = Vec::new();
    let mut add = |open: &dyn Fn(&Path) -> Box<dyn Index>| {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        made.push(Client { index, seen: tempfile::tempdir().unwrap(), _directory: directory });
    };
    add(&|_| Box::new(MemoryIndex::new()));
    #[cfg(feature = "rocksdb")]
    {
        let repository = world.open(&world.all()).unwrap().config.repository;
        add(&|path| Box::new(keepstone::index::RocksIndex::open(path, repository, 1 << 20).unwrap()));
    }
    #[cfg(not(feature = "rocksdb"))]
    let _ = world;
    made
}

impl Client {
    fn sync(&self, world: &World, which: &[usize]) {
        assert_eq!(sync(&world.open(which).unwrap(), &*self.index, &Silent).unwrap(), []);
    }

    fn backup(&self, world: &World, which: &[usize], source: &Path) -> BackupSummary {
        let repository = world.open(which).unwrap();
        assert_eq!(sync(&repository, &*self.index, &Silent).unwrap(), []);
        let listing = list(&repository).unwrap();
        let options = Backup { seen_directory: Some(self.seen.path().to_owned()), ..options(0) };
        let sources = [source.to_path_buf()];
        let walk = Walk::new(&sources, WalkOptions::default()).unwrap();
        backup_tree(&repository, &*self.index, &options, walk, &listing.snapshots, &Silent).unwrap()
    }
}

/// A world whose clock runs after the files' times, so that they count as unchanged.
fn world(regions: usize) -> World {
    let mut world = World::new(regions);
    world.clock = Arc::new(StepClock::starting_at(4_000_000_000));
    world
}

fn old_file(root: &Path, name: &str, bytes: &[u8]) {
    let file = std::fs::File::open(write(root, name, bytes)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

fn collect(world: &World, which: &[usize], options: &GcOptions) {
    let report = gc(&world.open(which).unwrap(), options, &Silent).unwrap();
    for region in &report.regions {
        assert!(region.failure.is_none(), "{:?}", region.failure);
    }
}

fn forget(world: &World, id: SnapshotId) {
    let decree = Decree::new(Ruling::Forget, "");
    verdicts::put(&world.open(&world.all()).unwrap(), &BTreeSet::from([id]), &decree).unwrap();
    world.clock.sleep(Duration::from_secs(1));
}

/// Pack, listing, the regions that have it; frame, offset and length.
type PlaceIn = (PackId, Digest, Vec<RegionId>, u32, u32, u32);

/// What an index says, in words that hold for another one too.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    places: BTreeMap<ChunkId, BTreeSet<PlaceIn>>,
    packs: BTreeSet<(PackId, Digest, Vec<RegionId>)>,
    segments: BTreeMap<RegionId, BTreeSet<SegmentId>>,
    totals: (u64, u64),
}

fn said(index: &dyn Index, chunks: &BTreeSet<ChunkId>, regions: &[RegionId]) -> Said {
    let asked: Vec<ChunkId> = chunks.iter().copied().collect();
    let place = |place: &Place| {
        let pack = index.pack(place.pack).unwrap();
        assert!(!pack.regions.is_empty());
        (pack.id, pack.listing, pack.regions.clone(), place.frame, place.offset, place.length)
    };
    let places = index.places(&asked).unwrap();
    let places = asked.iter().zip(&places).map(|(id, places)| (*id, places.iter().map(place).collect())).collect();
    let packs = (0..index.pack_count()).map(|ordinal| index.pack(ordinal).unwrap());
    let packs = packs.filter(|pack| !pack.regions.is_empty());
    let segments = |region: &RegionId| (*region, index.segments(*region).unwrap().into_keys().collect());
    Said {
        places,
        packs: packs.map(|pack| (pack.id, pack.listing, pack.regions.clone())).collect(),
        segments: regions.iter().map(segments).collect(),
        totals: index.chunk_totals().unwrap(),
    }
}

/// Brings the client's index up and compares it with one made anew. `chunks` grows by what the regions list.
fn assert_as_anew(world: &World, client: &Client, chunks: &mut BTreeSet<ChunkId>) {
    let repository = world.open(&world.all()).unwrap();
    for region in &repository.regions {
        for id in list_segments(region).unwrap().into_keys() {
            chunks.extend(read_segment(&repository, region, id).unwrap().segment.chunks().map(|chunk| chunk.id));
        }
    }
    client.sync(world, &world.all());
    let anew = MemoryIndex::new();
    assert_eq!(sync(&repository, &anew, &Silent).unwrap(), []);
    let regions: Vec<RegionId> = repository.regions.iter().map(|region| region.info.region).collect();
    let expected = said(&anew, chunks, &regions);
    assert!(said(&*client.index, chunks, &regions) == expected, "it differs from one that is made anew");
    let unlisted = client.index.unlisted_count();
    assert!(unlisted * 2 <= client.index.pack_count(), "{unlisted} of {}", client.index.pack_count());
    let report = check(&repository, Some(&*client.index), &check::Options::default(), &Silent).unwrap();
    assert!(report.is_sound() && !report.index_stale, "{:?}", report.issues);
}

const FILES: u64 = 6;

/// A source of small files beside what will be forgotten, so that everything that stays is moved.
fn mixed(world: &World) -> (TempDir, SnapshotId) {
    let source = tempfile::tempdir().unwrap();
    for at in 0..FILES {
        old_file(source.path(), &format!("kept{at}"), &noise(at, 20_000));
    }
    for at in 0..4 {
        old_file(source.path(), &format!("large/{at}"), &noise(100 + at, 300_000));
    }
    let first = world.backup(&world.all(), source.path(), 0).unwrap().snapshot.unwrap();
    std::fs::remove_dir_all(source.path().join("large")).unwrap();
    (source, first)
}

fn packs(world: &World, at: usize) -> BTreeSet<String> {
    let stored = keepstone::store::list_sorted(&world.stores[at].inner().memory, "packs/").unwrap();
    stored.into_iter().map(|listed| listed.name).collect()
}

#[test]
fn after_a_collection_that_rewrote_everything_unchanged_files_stay_closed() {
    for regions in 1..=2 {
        let world = world(regions);
        let (source, first) = mixed(&world);
        let clients = clients(&world);
        for client in &clients {
            assert_eq!(client.backup(&world, &world.all(), source.path()).files_unmodified, 0);
            assert_eq!(client.backup(&world, &world.all(), source.path()).files_unmodified, FILES);
        }
        let incarnations: Vec<_> = clients.iter().map(|client| client.index.incarnation()).collect();
        let before: Vec<_> = world.all().into_iter().map(|at| packs(&world, at)).collect();
        forget(&world, first);
        for _ in 0..4 {
            collect(&world, &world.all(), &thorough());
        }
        for (at, before) in before.iter().enumerate() {
            let after = packs(&world, at);
            let stay = before.intersection(&after).count();
            assert!(stay * 2 < before.len(), "{stay} of {} packs are the same", before.len());
        }
        for (client, incarnation) in clients.iter().zip(incarnations) {
            let summary = client.backup(&world, &world.all(), source.path());
            assert_eq!((summary.files_unmodified, summary.new_chunks), (FILES, 0));
            assert_eq!(client.index.incarnation(), incarnation);
            for at in world.all() {
                world.assert_restores(&[at], summary.snapshot.unwrap(), source.path(), 0);
            }
            assert_as_anew(&world, client, &mut BTreeSet::new());
        }
    }
}

#[test]
fn what_no_final_explains_is_a_loss_and_every_file_is_read_again() {
    // The segments that stay after a collection go; or those that the collector replaced go with what replaced them.
    for synced_between in [true, false] {
        let world = world(1);
        let (source, first) = mixed(&world);
        for client in clients(&world.fork()) {
            let world = world.fork();
            client.backup(&world, &[0], source.path());
            assert_eq!(client.backup(&world, &[0], source.path()).files_unmodified, FILES);
            let incarnation = client.index.incarnation();
            forget(&world, first);
            for _ in 0..4 {
                collect(&world, &[0], &GcOptions { max_unused: MaxUnused::Permyriad(10_000), ..thorough() });
            }
            if synced_between {
                client.sync(&world, &[0]);
                assert_eq!(client.index.incarnation(), incarnation);
            }
            let repository = world.open(&[0]).unwrap();
            for id in list_segments(&repository.regions[0]).unwrap().into_keys() {
                world.stores[0].inner().memory.delete(&segment_name(&id)).unwrap();
            }
            let summary = client.backup(&world, &[0], source.path());
            assert_ne!(client.index.incarnation(), incarnation);
            assert_eq!(summary.files_unmodified, 0);
            assert!(summary.new_bytes >= FILES * 20_000);
            world.assert_restores(&[0], summary.snapshot.unwrap(), source.path(), 0);
            assert_eq!(client.backup(&world, &[0], source.path()).files_unmodified, FILES, "and then no more");
        }
    }
}

#[test]
fn a_pack_that_is_dead_leaves_the_index_though_a_segment_lists_it_still() {
    let world = world(1);
    let (source, first) = mixed(&world);
    for client in clients(&world.fork()) {
        let world = world.fork();
        let base = client.backup(&world, &[0], source.path()).snapshot.unwrap();
        forget(&world, first);
        // A store that keeps its segments: they go on listing what finals deleted.
        let keeps = Trigger::on(Operation::Delete).under("index/");
        world.stores[0].inject(keeps, Fault::Fail(StoreErrorKind::Denied));
        let before = packs(&world, 0);
        for _ in 0..3 {
            collect(&world, &[0], &thorough());
        }
        assert!(before.difference(&packs(&world, 0)).count() > 0);
        assert_as_anew(&world, &client, &mut BTreeSet::new());
        let summary = client.backup(&world, &[0], source.path());
        assert_eq!((summary.files_unmodified, summary.new_chunks), (FILES, 0));
        world.assert_restores(&[0], base, source.path(), 0);
    }
}

#[test]
fn a_collection_between_any_two_calls_of_a_look_is_followed() {
    let world = world(1);
    let (source, first) = mixed(&world);
    let base = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    for which in 0..clients(&world).len() {
        let calls = {
            let (world, client) = (world.fork(), clients(&world).remove(which));
            client.sync(&world, &[0]);
            world.calls_of(|| client.sync(&world, &[0]))
        };
        for call in 1..=calls {
            let world = world.fork();
            let client = clients(&world).remove(which);
            client.sync(&world, &[0]);
            let incarnation = client.index.incarnation();
            forget(&world, first);
            world.visit_at(call, |other| (0..2).for_each(|_| collect(other, &[0], &thorough())));
            client.sync(&world, &[0]);
            assert_as_anew(&world, &client, &mut BTreeSet::new());
            assert_eq!(client.index.incarnation(), incarnation, "at call {call} of {calls}");
            world.assert_restores(&[0], base, source.path(), 0);
        }
    }
}

/// Any numbers, the same for the same seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }
}

#[test]
fn whatever_happened_the_index_says_what_one_made_anew_says() {
    for seed in 0..6u64 {
        let mut dice = Dice(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof());
        let regions = 1 + (seed % 2) as usize;
        let world = world(regions);
        let (_, identity) = world.add_slot(Role::Maintainer, "keeper");
        let keeper = world.as_slot(&identity);
        let (clients, source) = (clients(&world), tempfile::tempdir().unwrap());
        let mut chunks = BTreeSet::new();
        let mut history = Vec::new();
        for step in 0..25u64 {
            let which: Vec<usize> = match dice.below(4) {
                0 => vec![dice.below(regions as u64) as usize],
                _ => world.all(),
            };
            let event = dice.below(10);
            history.push((event, which.clone()));
            match event {
                0..=3 => {
                    let name = format!("file{}", dice.below(8));
                    let length = 1000 + dice.below(60_000) as usize;
                    write(source.path(), &name, &noise(dice.below(20), length));
                    if dice.below(3) == 0 {
                        let _ = std::fs::remove_file(source.path().join(format!("file{}", dice.below(8))));
                    }
                    let client = &clients[dice.below(clients.len() as u64) as usize];
                    client.backup(&world, &which, source.path());
                }
                4 | 5 => {
                    let ids = world.ids(&world.all());
                    if ids.len() > 1 {
                        forget(&world, ids[dice.below(ids.len() as u64 - 1) as usize]);
                    }
                }
                6 => collect(&keeper, &which, &thorough()),
                7 | 8 => collect(&world, &which, &thorough()),
                _ => clients[dice.below(clients.len() as u64) as usize].sync(&world, &which),
            }
            if step % 5 == 4 {
                let client = &clients[(step / 5) as usize % clients.len()];
                assert_as_anew(&world, client, &mut chunks);
            }
        }
        clients.iter().for_each(|client| assert_as_anew(&world, client, &mut chunks));
        let repository = world.open(&world.all()).unwrap();
        for info in list(&repository).unwrap().snapshots {
            for at in info.regions {
                let to = tempfile::tempdir().unwrap();
                let restored = world.restore(&[at], info.id, &to.path().join("t"), 0).unwrap();
                assert_eq!(restored.issues, [], "seed {seed}: {history:?}");
            }
        }
    }
}

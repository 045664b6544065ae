//! A whole restore planned without being written: every tree is fetched and opened, every place looked up.

use super::support::World;
use criterion::{Criterion, Throughput};
use keepstone::index::MemoryIndex;
use keepstone::repo::fetch::Fetcher;
use keepstone::repo::{snapshots, sync};
use keepstone::report::Silent;
use keepstone::restore::target::{Target, TargetOptions};
use keepstone::restore::{Restore, restore};

const FILES: usize = 4_000;

pub fn bench(criterion: &mut Criterion) {
    let source = tempfile::tempdir().expect("a directory");
    for number in 0..FILES {
        let directory = source.path().join(format!("{}", number / 100));
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join(format!("{number}")), format!("content {number} ").repeat(100)).expect("written");
    }
    let world = World::new(&["one"], 9);
    world.backup(source.path());
    let repository = world.open().expect("it opens");
    let index = MemoryIndex::new();
    sync::sync(&repository, &index, &Silent).expect("read");
    let listing = snapshots::list(&repository).expect("read");
    let root = listing.snapshots[0].snapshot.root;
    let empty = tempfile::tempdir().expect("a directory");
    let mut group = criterion.benchmark_group("restore");
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(20);
    group.bench_function("plan", |bencher| {
        bencher.iter(|| {
            let options = TargetOptions { dry_run: true, ..TargetOptions::default() };
            let target = Target::open(empty.path(), options).expect("opened");
            let fetcher = Fetcher::new(&repository, &index, &Silent, 16 << 20);
            restore(&fetcher, root, &target, &Restore::default(), &Silent, (0, 0)).expect("planned").files
        });
    });
    group.finish();
}

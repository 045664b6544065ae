//! A repository in memory and a small source tree, for tests that drive the library.
//!
//! Included by path (`#[path = "../support/mod.rs"] mod support;`). Everything but the age identity is
//! reproducible: time and randomness come from a seed.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use age::secrecy::ExposeSecret;
use keepstone::backup::{Backup, BackupSummary, DedupTrust, backup_tree};
use keepstone::compress::Compression;
use keepstone::crypto::slot::{Unlock, Wrapping};
use keepstone::env::{SeededRandom, StepClock};
use keepstone::format::config::Suite;
use keepstone::format::ids::{Digest, SnapshotId};
use keepstone::index::MemoryIndex;
use keepstone::pack::SpoolSpace;
use keepstone::repo::fetch::Fetcher;
use keepstone::repo::open::Located;
use keepstone::repo::{InitOptions, RegionSpec, RepoError, Repository, init, snapshots, sync};
use keepstone::report::Silent;
use keepstone::restore::target::{Target, TargetOptions};
use keepstone::restore::{Restore, RestoreError, RestoreSummary, restore};
use keepstone::source::{Walk, WalkOptions};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, list_sorted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A repository in memory stores, opened by an age identity (which costs no scrypt).
#[derive(Clone)]
pub struct World {
    /// Region names and stores, in the order of the configuration.
    pub regions: Vec<(String, MemoryStore)>,
    /// The text of the age identity file.
    pub identity: String,
    /// The root's fingerprint.
    pub pin: Digest,
    seed: u64,
}

impl World {
    /// Makes a repository in regions of these names.
    pub fn new(names: &[&str], seed: u64) -> Self {
        let identity = age::x25519::Identity::generate();
        let regions: Vec<_> = names.iter().map(|name| ((*name).to_owned(), MemoryStore::new())).collect();
        let options = InitOptions {
            suite: Suite::ChaCha20Poly1305,
            wrapping: Wrapping::Recipient(identity.to_public().to_string()),
            label: "test".to_owned(),
            host: "maker".to_owned(),
        };
        let made = init(&specs(&regions), &options, &StepClock::starting_at(1_700_000_000), &SeededRandom::new(seed))
            .expect("the repository is made");
        let identity = identity.to_string().expose_secret().to_owned();
        World { regions, identity, pin: made.fingerprint, seed }
    }

    /// The same with stores of its own, as they are now.
    pub fn fork(&self) -> Self {
        let regions = self.regions.iter().map(|(name, store)| (name.clone(), store.fork())).collect();
        World { regions, ..self.clone() }
    }

    /// The same with only the regions of these names configured.
    pub fn only(&self, names: &[&str]) -> Self {
        let mut world = self.clone();
        world.regions.retain(|(name, _)| names.contains(&name.as_str()));
        world
    }

    /// A region's store.
    pub fn store(&self, name: &str) -> &MemoryStore {
        &self.regions.iter().find(|(known, _)| known == name).expect("a region of the world").1
    }

    /// Opens it.
    pub fn open(&self) -> Result<Repository, RepoError> {
        let unlock = Unlock::Identities(Zeroizing::new(self.identity.clone()));
        let clock = Arc::new(StepClock::starting_at(1_800_000_000 + self.seed));
        // Sessions and salts must not repeat from one opening to the next.
        let seed = self.regions.iter().map(|(_, store)| names(store, "").len() as u64).sum::<u64>();
        let random = Arc::new(SeededRandom::new(self.seed << 32 | seed));
        Located::open(&specs(&self.regions), Some(self.pin.0))?.unlock(&unlock, clock, random)
    }

    /// Backs a directory up into every region.
    pub fn backup(&self, source: &Path) -> BackupSummary {
        let repository = self.open().expect("the repository opens");
        let index = MemoryIndex::new();
        sync::sync(&repository, &index, &Silent).expect("the index is brought up to date");
        let earlier = snapshots::list(&repository).expect("the snapshots are listed").snapshots;
        let sources = [source.to_owned()];
        let walk = Walk::new(&sources, WalkOptions::default()).expect("the source can be walked");
        backup_tree(&repository, &index, &backup_options(), walk, &earlier, &Silent).expect("the backup succeeds")
    }

    /// Restores a snapshot into a directory.
    pub fn restore(&self, id: SnapshotId, to: &Path) -> Result<RestoreSummary, Failed> {
        let repository = self.open()?;
        let index = MemoryIndex::new();
        sync::sync(&repository, &index, &Silent)?;
        let listing = snapshots::list(&repository)?;
        let wanted = snapshots::Selector::Prefix(id.to_string());
        let info = snapshots::select(&listing.snapshots, &wanted)?;
        let options = TargetOptions { sync: false, ..TargetOptions::default() };
        let target = Target::open(to, options).map_err(RestoreError::from)?;
        let fetcher = Fetcher::new(&repository, &index, &Silent, 16 << 20);
        Ok(restore(&fetcher, info.snapshot.root, &target, &Restore::default(), &Silent, (0, 0))?)
    }
}

/// What keeps a restore from giving anything.
#[derive(Debug)]
pub enum Failed {
    /// The repository.
    Repo(RepoError),
    /// The restore.
    Restore(RestoreError),
}

impl From<RepoError> for Failed {
    fn from(error: RepoError) -> Self {
        Failed::Repo(error)
    }
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Self {
        Failed::Restore(error)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Repo(error) => error.fmt(f),
            Failed::Restore(error) => error.fmt(f),
        }
    }
}

/// How the fixtures back up: on the caller's thread, small chunks, everything in memory.
pub fn backup_options() -> Backup {
    Backup {
        dataset: "set".to_owned(),
        host: "host".to_owned(),
        tags: Default::default(),
        chunk_average: 16 << 10,
        compression: Compression::Default,
        dry_run: false,
        skip_if_unchanged: false,
        allow_empty: false,
        trust: DedupTrust::Own,
        lacking: None,
        threads: 0,
        spools: SpoolSpace::Memory,
        seen_directory: None,
        watch_interval: keepstone::backup::WATCH_INTERVAL_DEFAULT,
    }
}

/// The regions' stores as the library takes them.
pub fn specs(regions: &[(String, MemoryStore)]) -> Vec<RegionSpec> {
    regions.iter().map(|(name, store)| RegionSpec { name: name.clone(), store: Arc::new(store.clone()) }).collect()
}

/// Names of all objects that begin so, sorted.
pub fn names(store: &dyn Store, beginning: &str) -> Vec<String> {
    let listed = list_sorted(store, "").expect("a memory store lists").into_iter();
    listed.map(|listed| listed.name).filter(|name| name.starts_with(beginning)).collect()
}

/// An object's bytes.
pub fn bytes(store: &dyn Store, name: &str) -> Vec<u8> {
    store.get(name, u64::MAX).expect("the object is there")
}

/// Replaces an object's bytes behind the library's back.
pub fn overwrite(store: &dyn Store, name: &str, bytes: Vec<u8>) {
    store.heal(name, &bytes.into()).expect("a memory store takes anything");
}

/// Bytes that don't compress, the same for a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    keepstone::env::Random::fill(&SeededRandom::new(seed), &mut bytes);
    bytes
}

/// A small tree: nested directories, an empty file, small files, a file with a list, a symlink.
pub fn source_tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(at("one/two")).expect("directories are made");
    write(&at("empty"), b"");
    write(&at("hello"), b"hello\n");
    write(&at("one/small"), &noise(1, 3000));
    write(&at("one/two/medium"), &noise(2, 60_000));
    write(&at("one/two/large"), &noise(3, 700_000));
    std::os::unix::fs::symlink("../hello", at("one/link")).expect("a symlink is made");
    directory
}

/// Writes a file.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the file is written");
}

/// Every regular file below a directory with its content, by path from there.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory is read") {
            let path = entry.expect("an entry").path();
            let kind = path.symlink_metadata().expect("its metadata").file_type();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let relative = path.strip_prefix(root).expect("it is below").to_owned();
                found.insert(relative, std::fs::read(&path).expect("the file is read"));
            }
        }
    }
    found
}

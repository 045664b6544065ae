//! The program over a repository of one region, and the same repository opened by the library to put
//! generated objects in.

use super::measure::{Figure, Places, children_computed, peak_of};
use age::secrecy::ExposeSecret;
use keepstone::crypto::slot::Unlock;
use keepstone::env::{SystemClock, SystemRandom};
use keepstone::repo::open::Located;
use keepstone::repo::{RegionSpec, Repository};
use keepstone::store::local::LocalStore;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// A home with an identity, a configuration and a region.
pub struct Home {
    directory: TempDir,
    identity: Zeroizing<String>,
    memory_bytes: usize,
    program: PathBuf,
}

/// How a run of the program went.
pub struct Run {
    pub took: Duration,
    /// On all processors together.
    pub computed: Duration,
    pub peak_bytes: u64,
    pub printed: String,
}

impl Run {
    /// Time, processor time and memory of what was run.
    pub fn figures(&self, what: &str) -> [Figure; 3] {
        [
            Figure::time(what, self.took),
            Figure::time(&format!("{what}: processor"), self.computed),
            Figure::mebibytes(&format!("{what}: peak memory"), self.peak_bytes),
        ]
    }
}

impl Home {
    pub fn new(below: &Path, places: &Places) -> Home {
        let directory = tempfile::tempdir_in(below).expect("a directory");
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        let identity = Zeroizing::new(identity.to_string().expose_secret().to_owned());
        std::fs::write(directory.path().join("identity"), identity.as_bytes()).expect("written");
        let home = Home { directory, identity, memory_bytes: places.memory_bytes, program: places.program.clone() };
        let region = format!("--region=one={}", home.region().display());
        home.run(&["--quiet", &region, "init", "--recipient", &recipient]);
        // What was forgotten is reclaimed at once.
        let configuration = home.path("keepstone.toml");
        let mut text = std::fs::read_to_string(&configuration).expect("init wrote it");
        text.push_str("\n[retention]\nforget_window = \"1 second\"\n");
        std::fs::write(configuration, text).expect("written");
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn region(&self) -> PathBuf {
        self.path("region")
    }

    /// Bytes of everything that the region holds.
    pub fn stored_bytes(&self) -> u64 {
        let (mut bytes, mut open) = (0, vec![self.region()]);
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).expect("it is there") {
                let entry = entry.expect("an entry");
                let metadata = entry.metadata().expect("its metadata");
                match metadata.is_dir() {
                    true => open.push(entry.path()),
                    false => bytes += metadata.len(),
                }
            }
        }
        bytes
    }

    /// Runs the program to its end, which must be a success.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let printed = self.path("printed");
        let out = std::fs::File::create(&printed).expect("a file");
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KEEPSTONE_CONFIG", self.path("keepstone.toml"));
        command.env("KEEPSTONE_CACHE_DIR", self.path("cache")).env("KEEPSTONE_IDENTITY", self.path("identity"));
        command.env("KEEPSTONE_MEMORY", format!("{}MiB", self.memory_bytes >> 20));
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::inherit());
        let (began, before) = (Instant::now(), children_computed());
        let mut child = command.spawn().expect("the program is there");
        let mut peak_bytes = 0;
        let status = loop {
            peak_bytes = peak_of(child.id()).unwrap_or(0).max(peak_bytes);
            match child.try_wait().expect("it can be waited for") {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let took = began.elapsed();
        assert!(status.success(), "{}: {status}", arguments.join(" "));
        let printed = std::fs::read_to_string(printed).expect("it prints UTF-8");
        Run { took, computed: children_computed() - before, peak_bytes, printed }
    }

    /// The repository, opened by the library.
    pub fn open(&self) -> Repository {
        let store = Arc::new(LocalStore::open(&self.region()).expect("the region"));
        let located = Located::open(&[RegionSpec { name: "one".to_owned(), store }], None).expect("a repository");
        let unlock = Unlock::Identities(self.identity.clone());
        located.unlock(&unlock, Arc::new(SystemClock), Arc::new(SystemRandom)).expect("its own identity")
    }
}

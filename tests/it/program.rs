//! The built program in a home of its own: configuration, cache, identity and two local regions.

use crate::fixture::identity;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A home directory in which the program is run, as a user would.
pub struct Program {
    pub home: TempDir,
    /// Run as this user: what root does can't be denied.
    pub user: Option<u32>,
    binary: PathBuf,
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in: {}", self.stdout))
    }

    /// The error that the run ended with, under `--json`.
    #[track_caller]
    pub fn error(&self) -> Value {
        let last = self.stderr.lines().last().expect("there is an error");
        let document: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in: {last}"));
        document["error"].clone()
    }
}

impl Program {
    /// A home without a repository.
    pub fn bare() -> Program {
        let home = tempfile::tempdir().unwrap();
        let (secret, recipient) = identity();
        std::fs::write(home.path().join("identity"), format!("# a comment\n{secret}\n")).unwrap();
        std::fs::write(home.path().join("recipient"), recipient).unwrap();
        Program { home, user: None, binary: PathBuf::from(env!("CARGO_BIN_EXE_keepstone")) }
    }

    /// A home with a repository in the regions `one` and `two`.
    pub fn new() -> Program {
        let program = Program::bare();
        program.init();
        program
    }

    /// As [`Program::new`], run by somebody who isn't root.
    pub fn nobody() -> Program {
        let mut program = Program::bare();
        if rustix::process::geteuid().is_root() {
            // Nobody may not be allowed to enter the directory that the program was built in.
            let binary = program.path("keepstone");
            // By another process: a child that another test begins would hold this one's descriptor, and what is open
            // for writing can't be run.
            let copied = Command::new("cp").args([&program.binary, &binary]).status().unwrap();
            assert!(copied.success());
            program.binary = binary;
            program.user = Some(65_534);
            std::os::unix::fs::chown(program.home.path(), program.user, program.user).unwrap();
        }
        program.init();
        program
    }

    fn init(&self) {
        let recipient = std::fs::read_to_string(self.path("recipient")).unwrap();
        self.run(["--region", &self.region("one"), "--region", &self.region("two"), "init", "--recipient", &recipient])
            .expect(0);
    }

    /// Adds a slot of this role; its identity file has the role's name.
    #[track_caller]
    pub fn add_slot(&self, role: &str) -> Value {
        let (secret, recipient) = identity();
        std::fs::write(self.path(role), secret).unwrap();
        self.run(["--json", "key", "add", "--role", role, "--recipient", &recipient]).expect(0).json()
    }

    /// Runs as the slot that this identity file opens.
    pub fn run_as<S: AsRef<OsStr>>(&self, slot: &str, arguments: impl IntoIterator<Item = S>) -> Ended {
        let mut command = self.command(arguments);
        command.env("KEEPSTONE_IDENTITY", self.path(slot));
        Ended::new(command.output().unwrap())
    }

    pub fn region(&self, name: &str) -> String {
        format!("{name}={}", self.path(name).display())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        crate::fixture::write(&self.source(), name, bytes)
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.home.path()).current_dir(self.home.path());
        command.env("KEEPSTONE_CONFIG", self.path("keepstone.toml"));
        command.env("KEEPSTONE_CACHE_DIR", self.path("cache"));
        command.env("KEEPSTONE_IDENTITY", self.path("identity"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs with so many files that may be open at once.
    pub fn run_with_descriptors(&self, descriptors: u32, arguments: &[&str]) -> Ended {
        self.run_limited(&format!("-n {descriptors}"), arguments)
    }

    /// Runs under a limit as `ulimit` takes it.
    pub fn run_limited(&self, limit: &str, arguments: &[&str]) -> Ended {
        let inner = self.command(arguments);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\""));
        shell.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        shell.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ended::new(shell.current_dir(self.home.path()).output().unwrap())
    }

    /// Runs with so many processes and threads of its user allowed.
    pub fn run_with_threads(&self, threads: u32, arguments: &[&str]) -> Ended {
        let inner = self.command(arguments);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nproc={threads}")).arg(inner.get_program()).args(inner.get_args());
        limited.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            limited.uid(user).gid(user);
        }
        Ended::new(limited.stdin(Stdio::null()).current_dir(self.home.path()).output().unwrap())
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        Ended::new(self.command(arguments).output().unwrap())
    }

    /// Backs up the source and gives the JSON result.
    #[track_caller]
    pub fn backup(&self, more: &[&str]) -> Value {
        self.backup_ending(0, more)
    }

    #[track_caller]
    pub fn backup_ending(&self, code: i32, more: &[&str]) -> Value {
        let source = self.source().display().to_string();
        let mut arguments = vec!["--json", "backup", &source];
        arguments.extend(more);
        self.run(arguments).expect(code).json()
    }

    /// Restores into a directory of this name with `--json`.
    pub fn restore(&self, to: &str, more: &[&str]) -> Ended {
        let mut arguments = vec!["--json", "restore", "--to", to];
        arguments.extend(more);
        self.run(arguments)
    }

    #[track_caller]
    pub fn snapshots(&self, more: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["--json", "snapshots"];
        arguments.extend(more);
        self.run(arguments).expect(0).json().as_array().expect("a list").clone()
    }

    /// What it verified of earlier listings is forgotten.
    pub fn know_nothing(&self) {
        for path in self.listing("cache").keys().filter(|path| path.ends_with("known")) {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Every file of a directory with its length.
    pub fn listing(&self, name: &str) -> BTreeMap<PathBuf, u64> {
        let mut files = BTreeMap::new();
        let mut directories = vec![self.path(name)];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                    Ok(metadata) => drop(files.insert(entry.path(), metadata.len())),
                    // A temporary file that is gone by now.
                    Err(_) => {}
                }
            }
        }
        files
    }

    pub fn bytes(&self, name: &str) -> u64 {
        self.listing(name).values().sum()
    }

    /// Waits until `done`, as long as the child runs.
    pub fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            assert!(begun.elapsed() < Duration::from_secs(120), "it takes too long");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Nothing but objects under their names: no temporary file is left.
    #[track_caller]
    pub fn assert_tidy(&self) {
        let known = [
            "config",
            "region",
            "keys",
            "roster",
            "ring",
            "audit",
            "packs",
            "index",
            "sessions",
            "snapshots",
            "commits",
        ];
        for region in ["one", "two"] {
            for path in self.listing(region).into_keys() {
                let name = path.strip_prefix(self.path(region)).unwrap().to_string_lossy().into_owned();
                let first = name.split('/').next().unwrap();
                let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"/-.".contains(&byte);
                let strange = name.bytes().any(odd) || name.contains("tmp") || name.contains("/.");
                assert!(known.contains(&first) && !strange, "left behind in region {region}: {name}");
            }
        }
    }
}

/// Sends a signal; TERM in the place of one that whoever started the tests has ignored, as a shell does for what runs in
/// the background: the program leaves it ignored, too.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let is_ignored = ignored.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1);
    let signal = if is_ignored { rustix::process::Signal::TERM } else { signal };
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// A snapshot's id out of a result.
#[track_caller]
pub fn id(result: &Value) -> String {
    result["snapshot"].as_str().expect("a snapshot was saved").to_owned()
}

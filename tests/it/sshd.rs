//! Regions behind a real OpenSSH server, with the built program on both sides: `serve.rs` has a shell in ssh's place.
//!
//! Each test starts a server of its own on a loopback port, with keys and files in the test's home, as whoever runs
//! the tests; it ends with the test, also by a panic. Run by root, sshd wants the directory /run/sshd, which is made if
//! there is none. `KEEPSTONE_TEST_SSHD=off` skips these tests, where OpenSSH is not to be had; nothing else does, so
//! that they aren't lost unnoticed.

use crate::fixture::{assert_same, noise};
use crate::program::{Ended, Program, id};
use keepstone::store::open::open_store;
use keepstone::store::{StoreErrorKind, list_sorted};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_keepstone");
const START_MAX: Duration = Duration::from_secs(60);

/// A running server; killed when dropped, with the sessions that it has.
struct Sshd {
    child: Child,
    port: u16,
    home: PathBuf,
}

fn keygen(file: &Path) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(file);
    let made = command.stdin(Stdio::null()).output();
    let made = made.unwrap_or_else(|error| panic!("ssh-keygen: {error}; {REMEDY}"));
    assert!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned()
}

const REMEDY: &str = "run tests/setup.sh test, or install OpenSSH's client and server, or set KEEPSTONE_TEST_SSHD=off";

/// By its whole path, which sshd insists on.
fn program() -> PathBuf {
    let elsewhere = std::env::var_os("PATH").unwrap_or_default();
    let directories = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from).into_iter();
    let found = directories.chain(std::env::split_paths(&elsewhere)).map(|path| path.join("sshd"));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("there is no sshd; {REMEDY}"))
}

impl Sshd {
    /// Starts a server that serves the directory `far`: to the key `writer` as a writer of dataset `db`, to `owner` as
    /// an owner, and to `login` whatever is asked for. `None` where these tests are switched off.
    fn start(program: &Program) -> Option<Sshd> {
        if std::env::var("KEEPSTONE_TEST_SSHD").is_ok_and(|value| value == "off") {
            eprintln!("skipped: KEEPSTONE_TEST_SSHD=off");
            return None;
        }
        let home = program.path("ssh");
        std::fs::create_dir(&home).unwrap();
        let far = program.path("far").display().to_string();
        let mut authorized = String::new();
        for (name, more) in [("writer", " --dataset db"), ("owner", "")] {
            let key = keygen(&home.join(name));
            let serve = format!("'{BINARY}' serve --stdio --role {name}{more} --path '{far}'");
            authorized.push_str(&format!("command=\"{serve}\",restrict {key}\n"));
        }
        authorized.push_str(&format!("{}\n", keygen(&home.join("login"))));
        std::fs::write(home.join("authorized_keys"), authorized).unwrap();
        keygen(&home.join("stranger"));
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let host = keygen(&home.join("host"));
        let begun = Instant::now();
        loop {
            // Somebody else may take the port before sshd does.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Sshd { child: spawn(&home, port), port, home: home.clone() };
            while TcpStream::connect(("127.0.0.1", port)).is_err() && server.child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < START_MAX, "sshd doesn't listen: {}", server.log());
                thread::sleep(Duration::from_millis(20));
            }
            if server.child.try_wait().unwrap().is_none() {
                server.know(&host);
                return Some(server);
            }
            let said = server.log();
            assert!(said.contains("in use") && begun.elapsed() < START_MAX, "sshd ended; {REMEDY}: {said}");
        }
    }

    /// Makes the client know the server by this key.
    fn know(&self, key: &str) {
        let line = format!("[127.0.0.1]:{} {key}\n", self.port);
        std::fs::write(self.home.join("known_hosts"), line).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// The command for ssh with one of the keys, and nothing of the configuration of whoever runs the tests.
    fn client(&self, key: &str) -> String {
        let at = |name: &str| self.home.join(name).display().to_string();
        let known = format!("UserKnownHostsFile={}", at("known_hosts"));
        let mut words = vec!["ssh".to_owned(), "-F".to_owned(), "none".to_owned(), "-i".to_owned(), at(key)];
        for option in ["IdentitiesOnly=yes", "IdentityAgent=none", "GlobalKnownHostsFile=/dev/null", &known] {
            words.extend(["-o".to_owned(), option.to_owned()]);
        }
        serde_json::json!(words).to_string()
    }

    /// The address of a directory there; empty for the one that the key is for.
    fn url(&self, path: &str) -> String {
        format!("ssh://127.0.0.1:{}/{}", self.port, path.trim_start_matches('/'))
    }

    fn command(&self, program: &Program, key: &str, arguments: &[&str]) -> Command {
        let mut command = program.command(arguments);
        command.env("KEEPSTONE_SSH_COMMAND", self.client(key));
        command
    }

    fn run(&self, program: &Program, key: &str, arguments: &[&str]) -> Ended {
        Ended::new(self.command(program, key, arguments).output().unwrap())
    }

    /// The server's own processes, one a connection.
    fn sessions(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // 'PID (NAME) STATE PPID …'
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            if parent == Some(self.child.id()) {
                found.extend(Pid::from_raw(number));
            }
        }
        found
    }

    /// Cuts every connection, in the way a machine that goes down does; gives how many there were.
    fn cut(&self) -> usize {
        let sessions = self.sessions();
        sessions.iter().filter(|pid| kill_process(**pid, Signal::KILL).is_ok()).count()
    }

    fn stop(&mut self) {
        // No new connection first.
        let _ = kill_process(Pid::from_child(&self.child), Signal::STOP);
        self.cut();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(home: &Path, port: u16) -> Child {
    let at = |name: &str| home.join(name).display().to_string();
    let bin = Path::new(BINARY).parent().unwrap().display();
    let lines = [
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}",
            at("host"),
            at("authorized_keys")
        ),
        // The directory for temporary files may be anybody's; the keys in it are this test's.
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no"
            .to_owned(),
        "PermitRootLogin yes\nPrintMotd no\nMaxStartups 100\nLogLevel VERBOSE".to_owned(),
        format!("SetEnv PATH={bin}:/usr/bin:/bin"),
    ];
    std::fs::write(home.join("config"), lines.join("\n") + "\n").unwrap();
    let log = std::fs::File::create(home.join("log")).unwrap();
    let mut command = Command::new(program());
    command.arg("-D").arg("-e").arg("-f").arg(home.join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("sshd starts")
}

/// A home with a repository that was made through a login without a forced command.
fn served() -> Option<(Program, Sshd)> {
    let program = Program::bare();
    let sshd = Sshd::start(&program)?;
    let far = format!("far={}", sshd.url(program.path("far").to_str().unwrap()));
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    sshd.run(&program, "login", &["--region", &far, "init", "--recipient", &recipient]).expect(0);
    assert!(program.path("far/config").is_file(), "the server made it");
    Some((program, sshd))
}

/// A writer's key, and a writer's access.
fn with_writer() -> Option<(Program, Sshd, String)> {
    let (program, sshd) = served()?;
    let (secret, recipient) = crate::fixture::identity();
    std::fs::write(program.path("writer"), secret).unwrap();
    let add = ["--json", "key", "add", "--role", "writer", "--recipient", &recipient];
    let slot = sshd.run(&program, "owner", &add).expect(0).json();
    Some((program, sshd, slot["slot"].as_str().unwrap().to_owned()))
}

fn as_writer(program: &Program, sshd: &Sshd, arguments: &[&str]) -> Ended {
    let mut command = sshd.command(program, "writer", arguments);
    command.env("KEEPSTONE_IDENTITY", program.path("writer"));
    Ended::new(command.output().unwrap())
}

fn message(ended: Ended, code: i32) -> String {
    ended.expect(code).error()["message"].as_str().unwrap().to_owned()
}

/// Without the audit chains, in which an attempt leaves its mark.
fn objects(program: &Program) -> BTreeMap<PathBuf, u64> {
    let mut listing = program.listing("far");
    listing.retain(|path, _| !path.starts_with(program.path("far/audit")));
    listing
}

// SERVE-3, SERVE-8
#[test]
fn serve_3_a_forced_command_lets_a_writer_back_up_and_do_no_harm() {
    let Some((program, sshd, slot)) = with_writer() else { return };
    program.write("a/b", b"content");
    program.write("big", &noise(1, 3_000_000));
    let source = program.source().display().to_string();
    let writer = |arguments: &[&str]| as_writer(&program, &sshd, arguments);
    let other = message(writer(&["--json", "backup", &source]), 10);
    assert!(other.contains("'db'") && other.contains("'default'"), "{other}");
    let first = writer(&["--json", "backup", &source, "--dataset", "db"]).expect(0).json();
    assert_eq!((&first["regions"][0]["committed"], &first["dataset"]), (&true.into(), &"db".into()));
    program.write("c", b"more");
    let second = writer(&["--json", "backup", &source, "--dataset", "db"]).expect(0).json();
    let listed = writer(&["--json", "snapshots"]).expect(0).json();
    let listed: Vec<&Value> = listed.as_array().unwrap().iter().map(|snapshot| &snapshot["id"]).collect();
    assert_eq!(listed, [&first["snapshot"], &second["snapshot"]]);

    let before = objects(&program);
    // The key that this client has is an owner's: it is the access that says no, and names its rule.
    let (first, snapshot) = (id(&first), id(&second));
    let access = |arguments: &[&str]| sshd.run(&program, "writer", &[&["--json"], arguments].concat());
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    for refused in [
        access(&["forget", &first]),
        access(&["tag", &first, "--set", "x"]),
        access(&["hold", &first, "--reason", "x"]),
        access(&["key", "add", "--recipient", &recipient]),
        access(&["key", "revoke", &slot]),
        access(&["key", "rotate"]),
        access(&["restore", &first, "--to", "out"]),
    ] {
        let text = message(refused, 10);
        assert!(text.contains("SERVE-3"), "{text}");
    }
    let collected = access(&["gc"]).expect(10).json();
    assert!(collected["regions"][0]["failure"].to_string().contains("SERVE-3"), "{collected}");
    assert_eq!(objects(&program), before);
    // With a writer's key the slot's role says so first.
    for arguments in [&["--json", "forget", &first][..], &["--json", "gc"], &["--json", "key", "rotate"]] {
        let text = message(writer(arguments), 10);
        assert!(text.contains("a writer slot may not"), "{text}");
    }
    // Whoever changes the client gets no further.
    let options = BTreeMap::from([("ssh_command".to_owned(), sshd.client("writer"))]);
    let store = open_store(&sshd.url(""), &options, false).unwrap();
    let pack = list_sorted(&store, "packs/").unwrap().remove(0).name;
    for name in [pack, "config".to_owned(), format!("snapshots/{snapshot}")] {
        for refused in [store.delete(&name), store.heal(&name, &vec![0; 100].into())] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
            assert!(error.detail.contains("SERVE-3") && error.to_string().contains(&name), "{error}");
        }
        assert!(store.put_new(&name, &vec![0; 100].into()).is_err(), "{name}");
    }
    assert_eq!(objects(&program), before);

    let owner = |arguments: &[&str]| sshd.run(&program, "owner", arguments);
    owner(&["restore", &snapshot, "--to", "out", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    owner(&["check", "--read-data"]).expect(0);
    owner(&["forget", &first]).expect(0);
    assert_eq!(owner(&["--json", "snapshots"]).expect(0).json().as_array().unwrap().len(), 1);
    // What the key is for isn't what the address asks for.
    let elsewhere = format!("far={}", sshd.url("/srv/elsewhere"));
    let text = message(owner(&["--json", "--region", &elsewhere, "snapshots"]), 2);
    assert!(text.contains("another directory"), "{text}");
}

#[test]
fn a_server_that_cannot_be_trusted_or_does_not_let_in_is_told_at_once() {
    let Some((program, sshd)) = served() else { return };
    let host = std::fs::read_to_string(sshd.home.join("host.pub")).unwrap();
    let other = std::fs::read_to_string(sshd.home.join("stranger.pub")).unwrap();
    let snapshots = |key: &str| sshd.run(&program, key, &["--json", "snapshots"]);
    std::fs::write(sshd.home.join("known_hosts"), "").unwrap();
    let unknown = message(snapshots("owner"), 10);
    assert!(unknown.contains("Host key verification failed") && unknown.contains("host key"), "{unknown}");
    sshd.know(&other);
    let changed = message(snapshots("owner"), 10);
    assert!(changed.contains("doesn't know the other side's host key, or knows another one"), "{changed}");
    sshd.know(&host);
    let stranger = message(snapshots("stranger"), 10);
    assert!(stranger.contains("Permission denied (publickey)") && stranger.contains("not let in"), "{stranger}");
    snapshots("owner").expect(0);

    // Beside a region that is reached, it is one that isn't: the snapshot is saved and pending.
    let near = program.region("near");
    let far = format!("far={}", sshd.url(""));
    let both = |more: &[&str]| {
        let mut arguments = vec!["--json", "--region", &near, "--region", &far];
        arguments.extend(more);
        sshd.run(&program, "owner", &arguments)
    };
    both(&["region", "add", "near"]).expect(0);
    program.write("a", b"content");
    let source = program.source().display().to_string();
    sshd.know(&other);
    let saved = both(&["backup", &source]).expect(3).json();
    let region = |name: &str| {
        let regions = saved["regions"].as_array().unwrap();
        regions.iter().find(|region| region["name"] == name).cloned().unwrap()
    };
    assert_eq!((&region("near")["committed"], &region("far")["committed"]), (&true.into(), &false.into()));
    assert!(region("far")["failure"].as_str().unwrap().contains("host key"), "{saved}");
    sshd.know(&host);
    both(&["backup", &source]).expect(0);
    snapshots("owner").expect(0).json().as_array().map(|listed| assert_eq!(listed.len(), 2)).unwrap();
}

/// A backup of a stream that is mostly read; `finish` gives it the rest.
struct Half {
    child: Child,
    bytes: Vec<u8>,
}

/// More than the packs that are open at a time hold: one of them has been shipped by then.
const HALF: usize = 72 << 20;
const WHOLE: usize = 80 << 20;

impl Half {
    fn begin(program: &Program, mut command: Command) -> Half {
        let bytes = noise(7, WHOLE);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&bytes[..HALF]).unwrap();
        let packs = || program.listing("far").into_keys().any(|path| path.starts_with(program.path("far/packs")));
        Program::wait_until(&mut child, packs);
        Half { child, bytes }
    }

    fn finish(mut self) -> Ended {
        let mut input = self.child.stdin.take().unwrap();
        // Who fails early hangs up.
        let _ = input.write_all(&self.bytes[HALF..]);
        drop(input);
        Ended::new(self.child.wait_with_output().unwrap())
    }
}

const STREAM: [&str; 7] = ["--json", "backup", "--stdin", "--as", "data", "--dataset", "db"];

// SERVE-6
#[test]
fn serve_6_connections_that_are_cut_in_the_middle_of_a_backup_are_made_anew() {
    let Some((program, sshd, _)) = with_writer() else { return };
    let mut command = sshd.command(&program, "writer", &STREAM);
    command.env("KEEPSTONE_IDENTITY", program.path("writer"));
    let half = Half::begin(&program, command);
    assert!(sshd.cut() > 0, "there was a connection");
    let whole = half.bytes.clone();
    let saved = half.finish().expect(0).json();
    assert_eq!((&saved["bytes"], &saved["regions"][0]["committed"]), (&WHOLE.into(), &true.into()));
    sshd.run(&program, "owner", &["check", "--read-data"]).expect(0);
    sshd.run(&program, "owner", &["restore", "latest", "--to", "out", "--verify"]).expect(0);
    assert!(std::fs::read(program.path("out/data")).unwrap() == whole);
}

// SERVE-6
#[test]
fn serve_6_a_server_that_goes_away_in_the_middle_of_a_backup_ends_it_and_leaves_nothing_that_counts() {
    let Some((program, mut sshd)) = served() else { return };
    let half = Half::begin(&program, sshd.command(&program, "owner", &STREAM));
    sshd.stop();
    let ended = half.finish().expect(14);
    let error = ended.error();
    assert_eq!(error["class"], "storage", "{error}");
    assert!(error["message"].as_str().unwrap().contains("'far'"), "{error}");
    // On the disk, as its owner sees it.
    let here = format!("far={}", program.path("far").display());
    let direct = |arguments: &[&str]| program.run([&["--json", "--region", &here], arguments].concat());
    assert_eq!(direct(&["snapshots"]).expect(0).json().as_array().unwrap().len(), 0);
    direct(&["check", "--read-data"]).expect(0);
    let far = program.path("far");
    let odd = |path: &PathBuf| path.strip_prefix(&far).unwrap().to_string_lossy().starts_with('.');
    assert_eq!(program.listing("far").into_keys().find(odd), None, "not even a temporary file");
    // The same again goes on from what arrived.
    let mut command = program.command([&["--region", &here][..], &STREAM].concat());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&noise(7, WHOLE)).unwrap();
    Ended::new(child.wait_with_output().unwrap()).expect(0);
    direct(&["restore", "latest", "--to", "out", "--verify"]).expect(0);
    assert!(std::fs::read(program.path("out/data")).unwrap() == noise(7, WHOLE));
}

//! Client and server together, over sockets in one process; and a server that lies.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::super::connection::{Connect, Link, Welcome};
use super::super::message::{MAGIC, Reply, Request, VERSION, read_frame, write_frame};
use super::super::server::{Gate, ServeError, Served, serve};
use super::*;
use crate::env::{Random, SeededRandom};
use crate::store::contract::check_contract;
use crate::store::list_sorted;
use crate::store::local::LocalStore;
use crate::store::probe::probe;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A directory, and servers for it as threads.
struct Host {
    directory: tempfile::TempDir,
    role: Role,
    dataset: Option<String>,
    gate: bool,
    connected: Arc<AtomicUsize>,
}

struct Refusing;

impl Gate for Refusing {
    fn admit(&self, name: &str, bytes: &[u8]) -> Result<(), (StoreErrorKind, String)> {
        Err((StoreErrorKind::Denied, format!("{} bytes of {name} were looked at", bytes.len())))
    }
}

impl Host {
    fn new(role: Role) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(directory.path().join("region")).expect("region");
        Host { directory, role, dataset: None, gate: false, connected: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("region")
    }

    fn local(&self) -> LocalStore {
        LocalStore::open(&self.path()).expect("region")
    }

    fn served(&self) -> Served {
        Served {
            path: self.path(),
            home: Some(self.directory.path().to_owned()),
            role: self.role,
            dataset: self.dataset.clone(),
            gate: self.gate.then(|| Box::new(Refusing) as Box<dyn Gate>),
        }
    }

    fn store(&self) -> RemoteStore {
        let connect = Threads {
            make: {
                let (path, home) = (self.path(), self.directory.path().to_owned());
                let (role, dataset, gate) = (self.role, self.dataset.clone(), self.gate);
                Box::new(move || Served {
                    path: path.clone(),
                    home: Some(home.clone()),
                    role,
                    dataset: dataset.clone(),
                    gate: gate.then(|| Box::new(Refusing) as Box<dyn Gate>),
                })
            },
            connected: Arc::clone(&self.connected),
            path: String::new(),
        };
        RemoteStore::over(Box::new(connect), "ssh://test".to_owned(), 3, &[], false).expect("connected")
    }

    /// What a server answers to these bytes, and how it ends.
    fn talk(&self, input: &[u8]) -> (Vec<u8>, Result<(), ServeError>) {
        let mut output = Vec::new();
        let outcome = serve(&self.served(), &mut &input[..], &mut output);
        (output, outcome)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).expect("read") {
                let path = entry.expect("entry").path();
                if path.is_dir() { open.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

struct Threads {
    make: Box<dyn Fn() -> Served + Send + Sync>,
    connected: Arc<AtomicUsize>,
    path: String,
}

impl Connect for Threads {
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)> {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let served_path = (self.make)();
        let (path, home, role) = (served_path.path, served_path.home, served_path.role);
        let (dataset, gate) = (served_path.dataset, served_path.gate.is_some());
        self.connected.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let gate = gate.then(|| Box::new(Refusing) as Box<dyn Gate>);
            let served = Served { path, home, role, dataset, gate };
            let mut input = theirs.try_clone().expect("socket");
            let mut output = theirs;
            let _ = serve(&served, &mut input, &mut output);
        });
        let mut link = Link::over(ours, TIMEOUT).expect("link");
        match link.greet(create, &self.path) {
            Ok(welcome) => Ok((link, welcome)),
            Err(Fault::Refused(kind, detail)) => Err((kind, detail)),
            Err(fault) => panic!("{fault:?}"),
        }
    }
}

fn kind<T>(result: Result<T, StoreError>) -> Option<StoreErrorKind> {
    result.err().map(|error| error.kind)
}

/// An object that ends in its digest, and the digest.
fn object(seed: u64, length: usize) -> (Vec<u8>, String) {
    let mut bytes = vec![0u8; length];
    SeededRandom::new(seed).fill(&mut bytes);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    (bytes, digest.to_hex().to_string())
}

fn pack(seed: u64, length: usize) -> (Vec<u8>, String) {
    let (bytes, digest) = object(seed, length);
    (bytes, format!("packs/{}/{digest}", &digest[..2]))
}

fn message(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &request.encode()).expect("memory");
    bytes
}

fn hello() -> Vec<u8> {
    message(&Request::Hello { version_min: 1, version_max: 1, create: false, path: "" })
}

/// The replies in what a server wrote, each in its own words.
fn replies(mut output: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut body = Vec::new();
    while read_frame(&mut output, &mut body).expect("whole messages") {
        found.push(format!("{:?}", Reply::decode(&body).expect("a reply")));
    }
    found
}

#[test]
fn keeps_the_contract() {
    let host = Host::new(Role::Owner);
    let store = host.store();
    assert_eq!((store.role(), store.only_dataset()), (Role::Owner, None));
    check_contract(&store, &SeededRandom::new(1)).expect("contract");
    let found = probe(&store, &SeededRandom::new(2)).expect("probe");
    assert!(found.put_if_absent && found.deletes);
    assert_eq!(host.files(), Vec::<PathBuf>::new(), "nothing is left behind");
    // Eight racers, and never more than three connections.
    assert!((2..=3).contains(&host.connected.load(Ordering::SeqCst)));
}

// SERVE-3
#[test]
fn serve_3_a_writer_makes_and_lists_and_neither_reads_packs_nor_removes() {
    let host = Host::new(Role::Writer);
    let store = host.store();
    let (bytes, name) = pack(1, 600_000);
    assert_eq!(store.put_new(&name, &bytes.clone().into()).expect("put"), Put::Created);
    assert_eq!(store.put_new(&name, &bytes.clone().into()).expect("again"), Put::Identical);
    assert_eq!(store.size(&name).expect("size"), Some(600_032));
    assert_eq!(list_sorted(&store, "packs/").expect("list").len(), 1);
    for refused in [
        store.get(&name, 1 << 20).err(),
        store.get_range(&name, 0, 1).err(),
        store.delete(&name).err(),
        store.heal(&name, &bytes.clone().into()).err(),
        store.put_new("config", &bytes.clone().into()).err(),
        store.put_new("probe/x/object", &bytes.clone().into()).err(),
        store.get("probe/x/object", 1).err(),
        store.put_new(&format!("gc/{:016x}/condemn", 1), &bytes.clone().into()).err(),
    ] {
        let error = refused.expect("refused");
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(error.detail.contains("SERVE-3") && error.detail.contains("owner's access"), "{error}");
    }
    assert_eq!(host.local().get(&name, 1 << 20).expect("kept"), bytes);
    // What it wrote beside packs it may read.
    let (segment, digest) = object(2, 100);
    let name = format!("index/{digest}");
    store.put_new(&name, &segment.clone().into()).expect("put");
    assert_eq!(store.get(&name, 1000).expect("get"), segment);
    // One connection was enough for all of that: a refusal doesn't end it.
    assert_eq!(host.connected.load(Ordering::SeqCst), 1);
}

// SERVE-3
#[test]
fn serve_3_a_maintainer_collects_and_leaves_what_is_signed_by_root() {
    let host = Host::new(Role::Maintainer);
    let store = host.store();
    let (bytes, name) = pack(1, 1000);
    store.put_new(&name, &bytes.clone().into()).expect("put");
    assert_eq!(store.get(&name, 2000).expect("get"), bytes);
    host.local().heal(&name, &b"damaged".to_vec().into()).expect("damage");
    store.heal(&name, &bytes.clone().into()).expect("heal");
    assert_eq!(store.get_range(&name, 0, 1032).expect("get"), bytes);
    store.delete(&name).expect("delete");
    assert_eq!(store.size(&name).expect("size"), None);
    host.local().put_new("config", &bytes.clone().into()).expect("put");
    assert_eq!(kind(store.delete("config")), Some(StoreErrorKind::Denied));
    assert_eq!(kind(store.heal("config", &bytes.into())), Some(StoreErrorKind::Denied));
}

// SERVE-7
#[test]
fn serve_7_no_role_overwrites() {
    for role in [Role::Owner, Role::Writer, Role::Maintainer] {
        let host = Host::new(role);
        let store = host.store();
        let name = format!("commits/{:032x}", 7);
        for length in [100, 200_000] {
            let name = format!("{}{length:06}", &name[..name.len() - 6]);
            let (first, second) = (object(1, length).0, object(2, length).0);
            store.put_new(&name, &first.clone().into()).expect("put");
            assert_eq!(kind(store.put_new(&name, &second.into())), Some(StoreErrorKind::AlreadyExists));
            assert_eq!(kind(store.put_new(&name, &object(2, 50).0.into())), Some(StoreErrorKind::AlreadyExists));
            assert_eq!(host.local().get(&name, 1 << 20).expect("kept"), first);
        }
    }
}

// SERVE-5
#[test]
fn serve_5_what_is_put_must_fit_its_name() {
    // An owner is held to it, too: it is damage on the way that this finds first.
    for role in [Role::Owner, Role::Writer] {
        let host = Host::new(role);
        let store = host.store();
        for length in [100, 70_000, 600_000] {
            let (bytes, name) = pack(3, length);
            for at in [0, length / 2, length - 1, length, length + 31] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                let error = store.put_new(&name, &damaged.into()).expect_err("refused");
                assert!(error.kind == StoreErrorKind::Other && error.detail.contains("SERVE-5"), "{error}");
            }
            let (_, other) = pack(4, length);
            let error = store.put_new(&other, &bytes.clone().into()).expect_err("refused");
            assert!(error.kind == StoreErrorKind::Other && error.detail.contains("SERVE-5"), "{error}");
            assert_eq!(host.files(), Vec::<PathBuf>::new());
            store.put_new(&name, &bytes.into()).expect("put");
            fs::remove_dir_all(host.path().join("packs")).expect("clean");
        }
        let session = format!("sessions/{:032x}/end", 1);
        for (name, length) in [(session.as_str(), 31), (session.as_str(), 0), (&session, (16 << 20) + 1)] {
            let error = store.put_new(name, &vec![0; length].into()).expect_err("refused");
            assert!(error.detail.contains("SERVE-5"), "{error}");
        }
        assert_eq!(host.files(), Vec::<PathBuf>::new());
    }
}

// SERVE-4
#[test]
fn serve_4_a_server_believes_no_name() {
    let host = Host::new(Role::Owner);
    fs::write(host.directory.path().join("secret"), b"secret").expect("write");
    let names = ["../secret", "/etc/passwd", "a/../../secret", "a//b", ".tmp/x", "a\0b", "", "..", "a b", "é"];
    for name in names {
        // The client refuses these itself, so they are sent without one.
        for request in [
            Request::Get { name, bytes_max: 100 },
            Request::GetRange { name, offset: 0, length: 1 },
            Request::Size { name },
            Request::Delete { name },
            Request::Put { name, heal: false, length: 1, first: b"x" },
            Request::Put { name, heal: true, length: 1, first: b"x" },
            Request::Put { name, heal: false, length: 1 << 20, first: b"" },
        ] {
            let (output, outcome) = host.talk(&[hello(), message(&request)].concat());
            outcome.expect("the connection goes on");
            let replies = replies(&output);
            assert_eq!(replies.len(), 2, "{name:?}: {replies:?}");
            assert!(replies[1].starts_with("Failed { kind: Invalid"), "{name:?}: {replies:?}");
        }
    }
    for prefix in ["/", "../", "packs", "a//"] {
        let (output, _) = host.talk(&[hello(), message(&Request::List { prefix })].concat());
        assert!(replies(&output)[1].starts_with("Failed { kind: Invalid"), "{prefix}");
    }
    let upper = format!("index/{}", "AB".repeat(32));
    let error = host.store().put_new(&upper, &vec![0; 64].into()).expect_err("refused");
    assert!(error.kind == StoreErrorKind::Invalid && error.detail.contains("SERVE-4"), "{error}");
    assert_eq!(host.files(), Vec::<PathBuf>::new());
    assert_eq!(fs::read(host.directory.path().join("secret")).expect("kept"), b"secret");
}

// SERVE-6
#[test]
fn serve_6_a_put_that_ends_early_leaves_nothing() {
    let host = Host::new(Role::Writer);
    let (bytes, name) = pack(5, 300_000);
    let begun = message(&Request::Put { name: &name, heal: false, length: bytes.len() as u64, first: b"" });
    let first = message(&Request::Piece(&bytes[..200_000]));
    let second = message(&Request::Piece(&bytes[200_000..]));
    let whole = [hello(), begun.clone(), first.clone(), second].concat();
    let cuts = [whole.len() - 1, whole.len() - 100_000, hello().len() + begun.len(), hello().len() + begun.len() + 3];
    for cut in cuts {
        let (output, outcome) = host.talk(&whole[..cut]);
        assert!(matches!(outcome, Err(ServeError::Connection(_))), "{cut}: {outcome:?}");
        assert!(!replies(&output).iter().any(|reply| reply.starts_with("Done")), "{cut}");
        assert_eq!(host.files(), Vec::<PathBuf>::new(), "{cut}");
    }
    // More than was said, or something else in between, ends the connection and leaves nothing either.
    let last = message(&Request::Piece(&bytes[..200_000]));
    for odd in [last, message(&Request::Size { name: &name })] {
        let (output, outcome) = host.talk(&[hello(), begun.clone(), first.clone(), odd].concat());
        assert!(matches!(outcome, Err(ServeError::Protocol(error)) if error.rule == "SERVE-2"));
        assert!(replies(&output).last().expect("told").starts_with("Failed"));
        assert_eq!(host.files(), Vec::<PathBuf>::new());
    }
    let (output, outcome) = host.talk(&whole);
    outcome.expect("whole");
    assert_eq!(replies(&output).last().map(String::as_str), Some("Done { created: true }"));
    assert_eq!(host.local().get(&name, 1 << 20).expect("there"), bytes);
}

// SERVE-1
#[test]
fn serve_1_garbage_ends_the_connection_and_changes_nothing() {
    let host = Host::new(Role::Owner);
    let random = SeededRandom::new(6);
    for round in 0..500usize {
        let mut bytes = vec![0u8; round % 97];
        random.fill(&mut bytes);
        let mut framed = Vec::new();
        write_frame(&mut framed, &bytes).expect("memory");
        for input in [bytes.clone(), [hello(), bytes.clone()].concat(), [hello(), framed.clone()].concat(), framed] {
            let (output, _) = host.talk(&input);
            replies(&output);
        }
    }
    for (input, rule) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "SERVE-1"),
        ([hello(), vec![0; 4]].concat(), "SERVE-1"),
        ([hello(), hello()].concat(), "SERVE-2"),
        (message(&Request::Size { name: "config" }), "SERVE-2"),
        ([hello(), message(&Request::Piece(b"x"))].concat(), "SERVE-2"),
    ] {
        match host.talk(&input).1 {
            Err(ServeError::Protocol(error)) => assert_eq!(error.rule, rule),
            other => panic!("{other:?}"),
        }
    }
    host.talk(b"").1.expect("a client that says nothing");
    assert_eq!(host.files(), Vec::<PathBuf>::new());
}

// SERVE-2
#[test]
fn serve_2_other_versions_and_directories_are_turned_away() {
    let host = Host::new(Role::Owner);
    let greet = |version_min, version_max, path: &str| {
        let hello = Request::Hello { version_min, version_max, create: false, path };
        let (output, outcome) = host.talk(&message(&hello));
        outcome.expect("no fault of the protocol");
        replies(&output).remove(0)
    };
    let path = host.path();
    let path = path.to_str().expect("text");
    for path in [path, &format!("{path}/"), "~/region", "~//region/", ""] {
        assert!(greet(1, 1, path).starts_with("Welcome"), "{path}");
    }
    assert!(greet(1, u16::MAX, "").starts_with("Welcome { version: 1"));
    for (min, max) in [(2, 9), (0, 0), (2, 1)] {
        let reply = greet(min, max, "");
        assert!(
            reply.contains("Invalid") && reply.contains("SERVE-2") && reply.contains("the same version"),
            "{reply}"
        );
    }
    for path in ["/", "/etc", "~/", "~/elsewhere", "region", "~/region/..", "~/region/../region", "~root/x"] {
        let reply = greet(1, 1, path);
        assert!(reply.contains("Invalid") && reply.contains("another directory"), "{path}: {reply}");
    }
    assert_eq!(VERSION, 1, "the versions above are told apart from it");
    assert!(MAGIC.ends_with(b"\n"));
}

#[test]
fn a_missing_directory_is_made_for_owners_alone() {
    for (role, made) in [(Role::Owner, true), (Role::Writer, false), (Role::Maintainer, false)] {
        let host = Host::new(role);
        fs::remove_dir(host.path()).expect("remove");
        let greet = |create| {
            let hello = Request::Hello { version_min: 1, version_max: 1, create, path: "" };
            replies(&host.talk(&message(&hello)).0).remove(0)
        };
        assert!(greet(false).starts_with("Failed { kind: Unavailable"), "is the disk mounted?");
        assert_eq!(greet(true).starts_with("Welcome"), made);
        assert_eq!(host.path().exists(), made);
    }
}

// SERVE-8
#[test]
fn serve_8_the_dataset_is_told_and_the_gate_is_asked() {
    let mut host = Host::new(Role::Writer);
    host.dataset = Some("db".to_owned());
    host.gate = true;
    let store = host.store();
    assert_eq!(store.only_dataset(), Some("db"));
    for length in [100, 300_000] {
        let (bytes, digest) = object(8, length);
        for name in [format!("snapshots/{digest}"), format!("commits/{:032x}", 1)] {
            let error = store.put_new(&name, &bytes.clone().into()).expect_err("refused");
            assert_eq!(error.kind, StoreErrorKind::Denied);
            assert!(error.detail.contains(&format!("{} bytes of {name}", length + 32)), "{error}");
        }
        assert_eq!(host.files(), Vec::<PathBuf>::new());
        store.put_new(&format!("index/{digest}"), &bytes.into()).expect("no matter of the gate's");
        fs::remove_dir_all(host.path().join("index")).expect("clean");
    }
}

/// Answers each connection with the next script: what to send for each message that comes.
struct Liar {
    scripts: Mutex<Vec<Vec<Vec<u8>>>>,
    connected: Arc<AtomicUsize>,
}

impl Connect for Liar {
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)> {
        self.connected.fetch_add(1, Ordering::SeqCst);
        let mut scripts = self.scripts.lock().expect("lock");
        if scripts.is_empty() {
            return Err((StoreErrorKind::Unavailable, "the host is gone".to_owned()));
        }
        let script = scripts.remove(0);
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        thread::spawn(move || {
            let mut body = Vec::new();
            for answer in script {
                if !read_frame(&mut theirs, &mut body).unwrap_or(false) || theirs.write_all(&answer).is_err() {
                    return;
                }
            }
        });
        let mut link = Link::over(ours, TIMEOUT).expect("link");
        match link.greet(create, "") {
            Ok(welcome) => Ok((link, welcome)),
            Err(fault) => panic!("{fault:?}"),
        }
    }
}

fn liar(scripts: Vec<Vec<Vec<Reply<'_>>>>) -> (RemoteStore, Arc<AtomicUsize>) {
    let welcome = Reply::Welcome { version: 1, role: Role::Owner, dataset: "" };
    let framed = |replies: Vec<Reply<'_>>| {
        let mut bytes = Vec::new();
        replies.iter().for_each(|reply| write_frame(&mut bytes, &reply.encode()).expect("memory"));
        bytes
    };
    let scripts = scripts
        .into_iter()
        .map(|script| {
            let first = std::iter::once(vec![welcome.clone()]);
            first.chain(script).map(framed).collect::<Vec<_>>()
        })
        .collect();
    let connected = Arc::new(AtomicUsize::new(0));
    let liar = Liar { scripts: Mutex::new(scripts), connected: Arc::clone(&connected) };
    (RemoteStore::over(Box::new(liar), "ssh://liar".to_owned(), 1, &[], false).expect("connected"), connected)
}

// SERVE-9
#[test]
fn serve_9_a_server_that_lies_is_found_out() {
    let listed = |name: &str| Reply::Entries(vec![Listed { name: name.to_owned(), size: 1 }]);
    let broken = |answer: Vec<Reply<'_>>, ask: &dyn Fn(&RemoteStore) -> Option<StoreError>| {
        let (store, _) = liar(vec![vec![answer]]);
        let error = ask(&store).expect("found out");
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
        assert!(error.detail.contains("SERVE-9") || error.detail.contains("SERVE-2"), "{error}");
    };
    let get = |store: &RemoteStore| store.get("a", 10).err();
    let range = |store: &RemoteStore| store.get_range("a", 0, 10).err();
    let list = |store: &RemoteStore| list_sorted(store, "a/").err();
    broken(vec![Reply::Bytes { length: 11 }], &get);
    broken(vec![Reply::Bytes { length: u64::MAX }], &get);
    broken(vec![Reply::Bytes { length: 9 }], &range);
    broken(vec![Reply::Bytes { length: 10 }, Reply::Piece(&[0; 11])], &range);
    broken(vec![Reply::Bytes { length: 10 }, Reply::Done { created: true }], &range);
    broken(vec![Reply::Size(Some(1))], &get);
    broken(vec![listed("b/x"), Reply::End { count: 1 }], &list);
    broken(vec![listed("a/../x"), Reply::End { count: 1 }], &list);
    broken(vec![listed("a/x"), Reply::End { count: 2 }], &list);
    broken(vec![Reply::End { count: 1 }], &list);
    broken(vec![Reply::Ready], &|store| store.delete("a").err());
    broken(vec![Reply::Size(None)], &|store| store.put_new("a", &vec![1].into()).err());
}

// SERVE-9
#[test]
fn serve_9_a_listing_without_its_end_is_an_error_and_passes_nothing_on() {
    let listed = Reply::Entries(vec![Listed { name: "a/x".to_owned(), size: 1 }]);
    let (store, _) = liar(vec![vec![vec![listed.clone()]]]);
    // The script ends there, and with it the connection; the next one can't be made.
    let mut seen = 0;
    let fd_closed = store.list("a/", &mut |_| seen += 1);
    assert_eq!((kind(fd_closed), seen), (Some(StoreErrorKind::Unavailable), 0));

    let failed = Reply::Failed { kind: StoreErrorKind::Other, detail: "a bad disk" };
    let (store, _) = liar(vec![vec![vec![listed, failed]]]);
    assert_eq!((kind(store.list("a/", &mut |_| seen += 1)), seen), (Some(StoreErrorKind::Other), 0));
}

// SERVE-6
#[test]
fn serve_6_a_lost_answer_is_asked_again_on_a_new_connection() {
    let size = || vec![Reply::Size(Some(7))];
    // The second question on the first connection gets no answer.
    let (store, connected) = liar(vec![vec![size(), vec![]], vec![size()]]);
    assert_eq!(store.size("a").expect("size"), Some(7));
    assert_eq!(connected.load(Ordering::SeqCst), 1);
    let again = thread::scope(|scope| scope.spawn(|| store.size("a")).join().expect("no panic"));
    assert_eq!(again.expect("size"), Some(7));
    assert_eq!(connected.load(Ordering::SeqCst), 2);
    // Now nobody answers: that is told, and is worth another try by whoever asked.
    let error = store.size("a").expect_err("gone");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.detail.contains("the host is gone"), "{error}");
}

// SERVE-6
#[test]
fn serve_6_a_put_whose_answer_was_lost_is_found_identical() {
    let host = Host::new(Role::Writer);
    let (bytes, name) = pack(9, 400_000);
    // A server whose connection is cut after the put is durable, before its answer arrives.
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let served = host.served();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut input = theirs.try_clone().expect("socket");
            let mut output = CutAfter { inner: theirs.try_clone().expect("socket"), left: 2 };
            let _ = serve(&served, &mut input, &mut output);
            theirs.shutdown(std::net::Shutdown::Both).expect("shut");
        });
        let mut link = Link::over(ours, TIMEOUT).expect("link");
        link.greet(false, "").expect("welcome");
        let outcome = send(&mut link, &name, &bytes.clone().into(), false);
        assert!(matches!(outcome, Err(Fault::Lost(_))), "{outcome:?}");
    });
    assert_eq!(host.store().put_new(&name, &bytes.into()).expect("again"), Put::Identical);
}

/// Lets so many messages through and then fails.
struct CutAfter {
    inner: UnixStream,
    left: usize,
}

impl Write for CutAfter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.left {
            0 => Err(std::io::ErrorKind::BrokenPipe.into()),
            _ => self.inner.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.left = self.left.saturating_sub(1);
        self.inner.flush()
    }
}

#[test]
fn several_threads_share_a_few_connections() {
    let host = Host::new(Role::Owner);
    let store = host.store();
    thread::scope(|scope| {
        for worker in 0..8u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10 {
                    let (bytes, name) = pack(worker * 100 + round, 80_000);
                    assert_eq!(store.put_new(&name, &bytes.clone().into()).expect("put"), Put::Created);
                    assert_eq!(store.get(&name, 1 << 20).expect("get"), bytes);
                }
            });
        }
    });
    assert_eq!(list_sorted(&store, "packs/").expect("list").len(), 80);
    assert!(host.connected.load(Ordering::SeqCst) <= 3);
    // A listing's reader may ask for more while it is called.
    let mut sizes = Vec::new();
    store.list("packs/", &mut |listed| sizes.push(store.size(&listed.name).expect("size"))).expect("list");
    assert_eq!(sizes, vec![Some(80_032); 80]);
}

#[test]
fn long_listings_come_in_parts() {
    let host = Host::new(Role::Writer);
    let local = host.local();
    for at in 0..2500 {
        local.put_new(&format!("sessions/{at:032x}/end"), &vec![0; at % 7].into()).expect("put");
    }
    let listed = list_sorted(&host.store(), "sessions/").expect("list");
    assert_eq!(listed, list_sorted(&local, "sessions/").expect("list"));
    let (output, _) = host.talk(&[hello(), message(&Request::List { prefix: "" })].concat());
    assert!(replies(&output).iter().filter(|reply| reply.starts_with("Entries")).count() > 1);
}

#[test]
fn a_silent_server_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let mut link = Link::over(ours, Duration::from_millis(50)).expect("link");
    match link.greet(false, "") {
        Err(Fault::Lost(detail)) => assert!(detail.contains("silent"), "{detail}"),
        other => panic!("{other:?}"),
    }
    assert!(theirs.read(&mut [0; 64]).expect("the greeting") > 0);
}

/// Greets, and answers nothing else.
struct Mute(Arc<AtomicUsize>);

impl Connect for Mute {
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)> {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        self.0.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let welcome = Reply::Welcome { version: VERSION, role: Role::Owner, dataset: "" }.encode();
            write_frame(&mut theirs, &welcome).expect("greeted");
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let mut link = Link::over(ours, Duration::from_millis(50)).expect("link");
        let welcome = link.greet(create, "").expect("greeted");
        Ok((link, welcome))
    }
}

#[test]
fn a_server_that_keeps_silent_is_asked_no_more() {
    let connected = Arc::new(AtomicUsize::new(0));
    let connect = Box::new(Mute(Arc::clone(&connected)));
    let store = RemoteStore::over(connect, "ssh://test".to_owned(), 3, &PAUSES, false).expect("connected");
    for _ in 0..3 {
        let error = store.get("config", 10).expect_err("silent");
        assert!(error.kind == StoreErrorKind::Unavailable && error.detail.contains("silent"), "{error}");
        let error = store.put_new("index/x", &vec![1].into()).expect_err("silent");
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
    }
    // Once more on a new connection, and then never again.
    assert_eq!(connected.load(Ordering::SeqCst), 2);
}

/// Lets in where nobody is away, and ends each connection after its first question.
struct Away(Arc<AtomicUsize>, Arc<AtomicBool>);

impl Connect for Away {
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)> {
        self.0.fetch_add(1, Ordering::SeqCst);
        if self.1.load(Ordering::SeqCst) {
            return Err((StoreErrorKind::Unavailable, "refused".to_owned()));
        }
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        thread::spawn(move || {
            let welcome = Reply::Welcome { version: VERSION, role: Role::Owner, dataset: "" }.encode();
            let mut ignored = [0; 4096];
            assert!(theirs.read(&mut ignored).expect("the greeting") > 0);
            write_frame(&mut theirs, &welcome).expect("greeted");
            let _ = theirs.read(&mut ignored);
            let _ = write_frame(&mut theirs, &Reply::Size(None).encode());
        });
        let mut link = Link::over(ours, Duration::from_secs(5)).expect("link");
        let welcome = link.greet(create, "").expect("greeted");
        Ok((link, welcome))
    }
}

#[test]
fn a_server_that_has_gone_is_waited_for_once_until_it_answers() {
    const BRIEF: [Duration; 3] = [Duration::from_millis(1); 3];
    let (connected, away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let connect = Box::new(Away(Arc::clone(&connected), Arc::clone(&away)));
    let store = RemoteStore::over(connect, "ssh://test".to_owned(), 1, &BRIEF, false).expect("connected");
    let tried = |call: &dyn Fn() -> Result<(), StoreError>| {
        connected.store(0, Ordering::SeqCst);
        let kind = call().err().map(|error| error.kind);
        (kind, connected.load(Ordering::SeqCst))
    };
    let size = || store.size("a").map(drop);
    let put = || store.put_new("index/x", &vec![1].into()).map(drop);
    let unavailable = Some(StoreErrorKind::Unavailable);
    for call in [&size as &dyn Fn() -> Result<(), StoreError>, &put] {
        assert_eq!(tried(&size).0, None);
        away.store(true, Ordering::SeqCst);
        assert_eq!(tried(call), (unavailable, 1 + BRIEF.len()));
        assert_eq!(tried(&size), (unavailable, 1));
        assert_eq!(tried(&put), (unavailable, 1));
        away.store(false, Ordering::SeqCst);
        assert_eq!(tried(&size), (None, 1));
    }
}

#[test]
fn a_server_that_answers_again_is_forgiven() {
    let store = Host::new(Role::Owner).store();
    store.was_silent();
    (0..ANSWERS_TO_FORGIVE).for_each(|_| drop(store.get("config", 10)));
    store.was_silent();
    assert!(!store.is_given_up());
    store.was_silent();
    assert!(store.is_given_up());
}

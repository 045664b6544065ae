//! The object store adaptor against a real HTTP service: moto, started by `tests/s3/serve.sh`.
//!
//! What moto can and can't judge stands in that script. `KEEPSTONE_TEST_S3=off` skips these tests, where
//! neither Python nor the network is to be had; nothing else does, so that they aren't lost unnoticed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_same, noise};
use crate::program::Program;
use keepstone::env::SystemRandom;
use keepstone::store::contract::check_contract;
use keepstone::store::open::open_store;
use keepstone::store::probe::probe;
use keepstone::store::{Payload, Put, Store, StoreError, StoreErrorKind, list_sorted};

/// The first start may have to install moto.
const START_MAX: Duration = Duration::from_secs(300);

/// A running server; killed when dropped, also by a panic.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts a server with one empty bucket `test`, or `None` where these tests are switched off.
    fn start() -> Option<Server> {
        if std::env::var("KEEPSTONE_TEST_S3").is_ok_and(|value| value == "off") {
            eprintln!("skipped: KEEPSTONE_TEST_S3=off");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/serve.sh");
        let child = Command::new(script)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that what the script starts ends with it.
            .process_group(0)
            .spawn()
            .expect("tests/s3/serve.sh starts");
        let mut server = Server { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = server.child.try_wait().expect("wait") {
                panic!("tests/s3/serve.sh ended ({status}); run it by hand to see why, or set KEEPSTONE_TEST_S3=off");
            }
            assert!(begun.elapsed() < START_MAX, "the server didn't start");
            thread::sleep(Duration::from_millis(50));
        }
        server.request("PUT", "/test");
        Some(server)
    }

    /// An unsigned request, which moto accepts.
    fn request(&self, method: &str, path: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    }

    fn options(&self) -> BTreeMap<String, String> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let pairs = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("region", "us-east-1"),
            ("access_key_id", "test-key"),
            ("secret_access_key", "test-secret-value"),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Store>, StoreError> {
        open_store(url, &self.options(), false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn the_contract_holds_over_http() {
    let Some(server) = Server::start() else { return };
    for url in ["s3://test", "s3://test/some/prefix"] {
        let store = server.open(url).expect("open");
        check_contract(&*store, &SystemRandom).expect("contract");
        let found = probe(&*store, &SystemRandom).expect("probe");
        assert!(found.put_if_absent && found.deletes, "{found:?}");
        assert_eq!(list_sorted(&*store, "").expect("list"), []);
    }
}

#[test]
fn packs_and_long_listings_pass_whole() {
    let Some(server) = Server::start() else { return };
    let store = server.open("s3://test/region").expect("open");

    let pack: Vec<u8> = (0..33u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let payload = Payload::from(pack.clone());
    assert_eq!(store.put_new("packs/00/a", &payload).expect("put"), Put::Created);
    assert_eq!(store.put_new("packs/00/a", &payload).expect("put again"), Put::Identical);
    assert_eq!(store.get("packs/00/a", pack.len() as u64).expect("get"), pack);
    assert_eq!(store.get_range("packs/00/a", 5_000_000, 77).expect("range"), pack[5_000_000..5_000_077]);

    // More than one page of a thousand.
    for number in 0..1100 {
        store.put_new(&format!("index/{number:04}"), &vec![1].into()).expect("put");
    }
    let listed = list_sorted(&*store, "index/").expect("list");
    assert_eq!(listed.len(), 1100);
    assert!(listed.windows(2).all(|pair| pair[0].name < pair[1].name), "each once");
}

#[test]
fn what_is_wrong_shows_when_opening_and_tells_no_secret() {
    let Some(server) = Server::start() else { return };
    let error = server.open("s3://absent/prefix").err().expect("no such bucket");
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
    assert!(error.detail.contains("create the bucket"), "{error}");

    let options = server.options();
    let store = server.open("s3://test").expect("open");
    drop(server);
    let begun = Instant::now();
    let errors = [
        store.get("a", 1).map(|_| ()),
        store.put_new("a", &vec![1].into()).map(|_| ()),
        store.size("a").map(|_| ()),
        store.list("", &mut |_| {}),
        store.delete("a"),
        open_store("s3://test", &options, false).map(|_| ()),
    ];
    for error in errors {
        let error = error.expect_err("the server is gone");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
        assert!(!error.to_string().contains("test-secret-value"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "a dead service is reported in time");
}

#[test]
fn the_program_backs_up_into_a_bucket_and_a_directory_and_restores_from_the_bucket_alone() {
    let Some(server) = Server::start() else { return };
    let program = Program::bare();
    let options: Vec<String> = server.options().iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    let options = options.join("\n").replace("allow_http = \"true\"", "allow_http = true");
    let regions = format!(
        "[[regions]]\nname = \"bucket\"\nurl = \"s3://test/backups\"\n{options}\n\n[[regions]]\nname = \"disk\"\nurl = \"{}\"\n",
        program.path("disk").display()
    );
    std::fs::write(program.path("keepstone.toml"), regions).unwrap();
    std::fs::set_permissions(program.path("keepstone.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    program.run(["init", "--recipient", &recipient]).expect(0);
    program.write("file", b"content");
    program.write("big", &noise(9, 40_000_000));
    let summary = program.backup(&[]);
    assert!(summary["regions"].as_array().unwrap().iter().all(|region| region["committed"] == true), "{summary}");

    std::fs::rename(program.path("disk"), program.path("gone")).unwrap();
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    program.restore("out", &["latest", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    let ended = program.run(["scrub", "bucket"]).expect(0);
    assert!(!ended.stdout.contains("test-secret-value") && !ended.stderr.contains("test-secret-value"));
}

//! The object store adaptor against a real HTTP service: moto, started by `tests/services/s3.sh`.
//!
//! What moto can and can't judge stands in that script. `KEEPSTONE_TEST_S3=off` skips these tests, where
//! neither Python nor the network is to be had; nothing else does, so that they aren't lost unnoticed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_same, noise};
use crate::program::{Program, id};
use crate::service::{Service, check_large_and_many};
use keepstone::crypto::slot::Unlock;
use keepstone::env::{StepClock, SystemRandom};
use keepstone::repo::designation::designate;
use keepstone::repo::{Located, RegionSpec};
use keepstone::store::contract::check_contract;
use keepstone::store::open::open_store;
use keepstone::store::probe::probe;
use keepstone::store::{Store, StoreError, StoreErrorKind, list_sorted};

struct Server {
    service: Service,
}

impl Server {
    /// Starts a server with one empty bucket `test`, or `None` where these tests are switched off.
    fn start() -> Option<Server> {
        let server = Server { service: Service::start("s3", "KEEPSTONE_TEST_S3")? };
        server.request("PUT", "/test");
        Some(server)
    }

    fn request(&self, method: &str, path: &str) {
        let answer = self.ask(method, path, "", "");
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    }

    /// A request with a signature that moto doesn't look at; gives the answer with its head. Each header ends with a
    /// line's end.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.service.port)).expect("connect");
        let length = body.len();
        let signed = "Authorization: AWS4-HMAC-SHA256 Credential=test-key/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";
        let head = format!("Host: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n{signed}\r\n{headers}");
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\n{body}").expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        answer
    }

    /// Passes what comes to this port on to the server, and keeps what clients say.
    fn listen_in(&self) -> (u16, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (port, to) = (listener.local_addr().expect("address").port(), self.service.port);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", to))) else { return };
                let (mut answers, mut back) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
                thread::spawn(move || std::io::copy(&mut answers, &mut back));
                let (keep, mut client, mut server) = (Arc::clone(&keep), client, server);
                thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(length @ 1..) = client.read(&mut buffer) {
                        keep.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if server.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                    let _ = server.shutdown(std::net::Shutdown::Write);
                });
            }
        });
        (port, heard)
    }

    /// A repository in this bucket alone, and what `init` said.
    fn repository(&self, bucket: &str, more: &str) -> (Program, serde_json::Value) {
        let program = Program::bare();
        let options = self.options();
        let options: Vec<String> = options.iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
        let options = options.join("\n").replace("allow_http = \"true\"", "allow_http = true");
        let path = program.path("keepstone.toml");
        let file = format!("[[regions]]\nname = \"bucket\"\nurl = \"s3://{bucket}/backups\"\n{options}\n{more}\n");
        std::fs::write(&path, format!("{file}\n[retention]\nforget_window = '1ns'\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
        let made = program.run(["--json", "init", "--recipient", &recipient]).expect(0).json();
        (program, made)
    }

    fn options(&self) -> BTreeMap<String, String> {
        let endpoint = format!("http://127.0.0.1:{}", self.service.port);
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
    check_large_and_many(&*store);
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
    // It answered a moment ago: it is waited for, once.
    let waited = store.get("a", 1).map(|_| ());
    assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    let errors = [
        waited,
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

fn failure(ended: &crate::program::Ended) -> String {
    ended.json()["regions"][0]["failure"].as_str().expect("the region failed").to_owned()
}

/// COLLECT-10: where a service overwrites what it should refuse, the designated slot and host collect, and nobody
/// else does.
#[test]
fn in_a_bucket_that_overwrites_one_host_collects() {
    let Some(server) = Server::start() else { return };
    let (program, made) = server.repository("test", "put_if_absent = false");
    assert_eq!(made["regions"][0]["put_if_absent"], false, "{made}");
    program.write("old", &noise(1, 2_000_000));
    let old = id(&program.backup(&[]));
    std::fs::remove_file(program.source().join("old")).unwrap();
    program.write("new", b"new");
    program.backup(&[]);
    program.run(["forget", &old]).expect(0);
    let refused = program.run(["--json", "gc", "--now"]).expect(10);
    assert!(failure(&refused).contains("nobody is designated"), "{}", failure(&refused));

    let said = program.run(["--json", "gc", "--designate"]).expect(0).json();
    assert_eq!(said["designated"], serde_json::json!(["bucket"]));
    let owner = said["slot"].as_str().unwrap().to_owned();
    let audit = program.run(["--json", "audit"]).expect(0).json();
    let last = audit["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["action"], &last["subject"]), (&"designate".into(), &"region".into()));
    assert!(last["reason"].as_str().unwrap().contains(&owner), "{last}");

    // Another slot on this host isn't the one.
    program.add_slot("maintainer");
    let refused = program.run_as("maintainer", ["--json", "gc", "--now"]).expect(10);
    assert!(failure(&refused).contains(&owner), "{}", failure(&refused));
    let mut deleted = 0;
    for _ in 0..4 {
        let done = program.run(["--json", "gc", "--now"]).expect(0).json();
        deleted += done["regions"][0]["deleted"]["bytes"].as_u64().unwrap();
    }
    assert!(deleted > 2_000_000, "{deleted} bytes");
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));

    // Neither is this slot, once another host is named.
    let identity = std::fs::read_to_string(program.path("identity")).unwrap();
    let store = server.open("s3://test/backups").expect("open");
    let spec = RegionSpec { name: "bucket".to_owned(), store };
    let unlock = Unlock::Identities(zeroize::Zeroizing::new(identity));
    let clock = Arc::new(StepClock::starting_at(1_700_000_000));
    let repository = Located::open(&[spec], None).unwrap().unlock(&unlock, clock, Arc::new(SystemRandom)).unwrap();
    designate(&repository, &repository.regions[0], repository.secrets.slot, "elsewhere").unwrap();
    let refused = program.run(["--json", "gc"]).expect(10);
    assert!(failure(&refused).contains("'elsewhere'"), "{}", failure(&refused));
    assert_eq!(program.run(["--json", "audit"]).expect(0).json()["sound"], true);
}

/// Object Lock keeps versions: a delete succeeds, hides the object, and takes no byte away before its time.
#[test]
fn what_is_collected_from_a_locked_bucket_stays_as_a_version() {
    let Some(server) = Server::start() else { return };
    let made = server.ask("PUT", "/locked", "x-amz-bucket-object-lock-enabled: true\r\n", "");
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    let (program, _) = server.repository("locked", "");
    program.write("old", &noise(1, 2_000_000));
    let old = id(&program.backup(&[]));
    let store = server.open("s3://locked/backups").expect("open");
    let packs: Vec<String> = list_sorted(&*store, "packs/").unwrap().into_iter().map(|listed| listed.name).collect();
    let until = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2199-01-01T00:00:00Z</RetainUntilDate></Retention>";
    for pack in &packs {
        let set = server.ask("PUT", &format!("/locked/backups/{pack}?retention"), "", until);
        assert!(set.starts_with("HTTP/1.1 200"), "{set}");
    }
    std::fs::remove_file(program.source().join("old")).unwrap();
    program.write("new", b"new");
    program.backup(&[]);
    program.run(["forget", &old]).expect(0);
    let mut gone = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let done = program.run(["--json", "gc", "--now"]).expect(0).json();
        let region = &done["regions"][0];
        assert_eq!((&region["deferred"]["packs"], &region["failure"]), (&0.into(), &serde_json::Value::Null));
        gone.extend(region["deleted_packs"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    assert!(!gone.is_empty() && packs.iter().any(|pack| gone.contains(pack.rsplit('/').next().unwrap())));
    assert!(list_sorted(&*store, "packs/").unwrap().iter().all(|left| !gone.iter().any(|id| left.name.ends_with(id))));
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    // The bytes are there, whoever asks for them to go.
    let versions = server.ask("GET", "/locked?versions&prefix=backups/packs/", "", "");
    for pack in packs.iter().filter(|pack| gone.contains(pack.rsplit('/').next().unwrap())) {
        let of = versions.split("<Version>").find(|of| of.contains(&format!("<Key>backups/{pack}</Key>")));
        let version =
            of.expect("a version").split("<VersionId>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
        let denied = server.ask("DELETE", &format!("/locked/backups/{pack}?versionId={version}"), "", "");
        assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    }
    // One that isn't locked does go.
    let free = server.ask("PUT", "/locked/free", "", "bytes").to_ascii_lowercase();
    let version = free.split("x-amz-version-id: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    server.request("DELETE", &format!("/locked/free?versionId={version}"));
}

/// A bucket with a default retention takes a put only with a checksum.
#[test]
fn puts_carry_the_checksum_that_is_asked_for() {
    let Some(server) = Server::start() else { return };
    let (port, heard) = server.listen_in();
    let count = |algorithm: Option<&str>| {
        let mut options = server.options();
        options.insert("endpoint".to_owned(), format!("http://127.0.0.1:{port}"));
        options.extend(algorithm.map(|name| ("checksum_algorithm".to_owned(), name.to_owned())));
        let store = open_store("s3://test/sums", &options, false)?;
        heard.lock().unwrap().clear();
        store.put_new(algorithm.unwrap_or("none"), &vec![7; 5000].into())?;
        assert_eq!(store.get(algorithm.unwrap_or("none"), 5000)?, [7; 5000]);
        let said = String::from_utf8_lossy(&heard.lock().unwrap()).to_ascii_lowercase();
        Ok::<usize, StoreError>(said.matches("x-amz-checksum-sha256: ").count())
    };
    assert_eq!(count(Some("sha256")).expect("put"), 1);
    assert_eq!(count(None).expect("put"), 0);
    let refused = count(Some("md4")).expect_err("no such algorithm");
    assert_eq!(refused.kind, StoreErrorKind::Invalid, "{refused}");
}

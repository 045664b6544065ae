//! Servers that tests start themselves, on a free port of the loopback device, and stop again.

use crate::fixture::noise;
use keepstone::store::{Payload, Put, Store, StoreErrorKind, list_sorted};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The first start may have to install the server.
const START_MAX: Duration = Duration::from_secs(300);

/// A running server; killed when dropped, also by a panic.
pub struct Service {
    script: String,
    child: Child,
    pub port: u16,
}

impl Service {
    /// Starts `tests/services/NAME.sh`, or gives `None` where `switch` is `off` in the environment: these tests need
    /// what not every machine has, and nothing else skips them, so that they aren't lost unnoticed.
    pub fn start(name: &str, switch: &str) -> Option<Service> {
        if std::env::var(switch).is_ok_and(|value| value == "off") {
            eprintln!("skipped: {switch}=off");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let script = format!("{}/tests/services/{name}.sh", env!("CARGO_MANIFEST_DIR"));
        let child = Command::new(&script)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that what the script starts ends with it.
            .process_group(0)
            .spawn()
            .expect("the script starts");
        let mut service = Service { script: format!("{script} (skipped with {switch}=off)"), child, port };
        service.wait_until(|port| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(service)
    }

    /// Waits until the server is as a test needs it.
    pub fn wait_until(&mut self, ready: impl Fn(u16) -> bool) {
        let begun = Instant::now();
        while !ready(self.port) {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended ({status}); run it by hand to see why", self.script);
            }
            assert!(begun.elapsed() < START_MAX, "{} didn't start", self.script);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A pack goes in and comes out whole, whatever else is put under its name, and so does a listing of more than one page
/// of a thousand.
pub fn check_large_and_many(store: &dyn Store) {
    let pack = noise(3, 33 << 20);
    let payload = Payload::from(pack.clone());
    assert_eq!(store.put_new("packs/00/a", &payload).expect("put"), Put::Created);
    assert_eq!(store.put_new("packs/00/a", &payload).expect("put again"), Put::Identical);
    let taken = store.put_new("packs/00/a", &vec![1].into()).expect_err("other bytes");
    assert_eq!(taken.kind, StoreErrorKind::AlreadyExists, "{taken}");
    assert_eq!(store.get("packs/00/a", pack.len() as u64).expect("get"), pack);
    assert_eq!(store.get_range("packs/00/a", 5_000_000, 77).expect("range"), pack[5_000_000..5_000_077]);
    for number in 0..1100 {
        store.put_new(&format!("index/{number:04}"), &vec![1].into()).expect("put");
    }
    let listed = list_sorted(store, "index/").expect("list");
    assert_eq!(listed.len(), 1100);
    assert!(listed.windows(2).all(|pair| pair[0].name < pair[1].name), "each once");
}

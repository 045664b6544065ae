//! Many snapshots: what lists them, restores the newest, backs up once more, forgets and collects.

use super::measure::{Figure, Places};
use super::program::{Home, Run};
use keepstone::crypto::object::{build_sealed, build_signed};
use keepstone::env::random_bytes;
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{SessionId, SnapshotId, number_name};
use keepstone::format::session::{Commit, Session};
use keepstone::repo::session::commit_name;
use keepstone::repo::snapshots::{list, read_snapshot, snapshot_name};

const HOUR_NS: i64 = 3_600_000_000_000;

/// Puts copies of the one snapshot, each an hour older than the one before, until there are so many; each with
/// its session and its commit, as a writer leaves them.
fn multiply(home: &Home, count: u64) {
    let repository = home.open();
    let region = &repository.regions[0];
    let id = list(&repository).expect("read").snapshots[0].id;
    let (made, _) = read_snapshot(&repository, region, id).expect("read");
    let put = |name: String, bytes: Vec<u8>| {
        let path = home.region().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, bytes).expect("written");
    };
    for number in 1..count {
        let mut snapshot = made.clone();
        snapshot.started_at -= HOUR_NS * number as i64;
        snapshot.finished_at -= HOUR_NS * number as i64;
        let payload = snapshot.encode();
        let signer = repository.signer();
        let sealed = build_sealed(ObjectKind::Snapshot, &repository.keyring, &signer, payload, &*repository.random);
        let (bytes, digest) = sealed.expect("an owner may");
        let id = SnapshotId(digest.0);
        put(snapshot_name(&id), bytes);
        let session = SessionId(random_bytes(&*repository.random));
        let state = Session {
            session,
            number: 0,
            region: region.info.region,
            observed: 0,
            needs: Vec::new(),
            adopts: Vec::new(),
            started_at: snapshot.started_at,
            bases: Vec::new(),
        };
        let (bytes, _) = build_signed(ObjectKind::Session, repository.config.repository, &signer, &state.encode());
        put(format!("sessions/{session}/{}", number_name(0)), bytes);
        let commit = Commit { session, region: region.info.region, snapshot: id, observed: 0 };
        let (bytes, _) = build_signed(ObjectKind::Commit, repository.config.repository, &signer, &commit.encode());
        put(commit_name(session), bytes);
    }
}

pub fn measure(count: u64, places: &Places) -> Vec<Figure> {
    let home = Home::new(&places.tmpfs, places);
    let source = home.path("source");
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("file"), "content").expect("written");
    let quiet = |arguments: &[&str]| -> Run {
        let arguments: Vec<&str> = ["--no-progress", "--quiet"].iter().chain(arguments).copied().collect();
        home.run(&arguments)
    };
    let backup = ["backup", source.to_str().expect("UTF-8")];
    quiet(&backup);
    multiply(&home, count);
    let listed = quiet(&["snapshots", "--json"]);
    let ids = listed.printed.matches("\"id\"").count() as u64;
    assert_eq!(ids, count, "all are listed");
    let shown = quiet(&["snapshots"]);
    let restored = home.path("restored");
    let restore = quiet(&["restore", "latest", "--to", restored.to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read(restored.join("file")).expect("restored"), b"content");
    let again = quiet(&backup);
    let planned = quiet(&["forget", "--keep-last", "30", "--dry-run"]);
    let forgotten = quiet(&["forget", "--keep-last", "30"]);
    let collected = quiet(&["gc", "--now"]);
    let mut figures = Vec::new();
    for (what, run) in [
        ("list as JSON", &listed),
        ("list as a table", &shown),
        ("restore of the latest, one file", &restore),
        ("backup of one file", &again),
        ("forget --keep-last 30 --dry-run", &planned),
        ("forget --keep-last 30", &forgotten),
        ("gc --now", &collected),
    ] {
        figures.extend(run.figures(what));
    }
    figures
}

//! A region that stops answering while it is read from.

use crate::fixture::{World, assert_same, noise, write};
use keepstone::repo::fetch::FetchError;
use keepstone::report::IssueKind;
use keepstone::restore::RestoreError;
use keepstone::store::StoreErrorKind;
use keepstone::store::faults::{Fault, Logged, Operation, Trigger};
use keepstone::store::open::open_store;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// Several frames' worth of files.
fn source() -> TempDir {
    let source = tempdir().unwrap();
    for number in 0..40 {
        write(source.path(), &format!("{}/{number}", number % 4), &noise(number, 400_000));
    }
    source
}

/// From the `call`-th read of a pack on, the region answers nothing.
fn falls_silent(world: &World, region: usize, call: u64) {
    let read = Trigger::on(Operation::GetRange).under("packs/").nth(call);
    world.stores[region].inject(read, Fault::Crash);
}

/// How often it was asked in vain.
fn refusals(world: &World, region: usize) -> usize {
    world.stores[region].log().iter().filter(|call| !call.performed).count()
}

fn target(directory: &Path) -> std::path::PathBuf {
    directory.join("t")
}

/// A store has tried for a minute by then: each further try would take as long.
#[test]
fn a_region_that_stops_answering_is_asked_no_more() {
    let source = source();
    let world = World::new(2);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    for threads in [0, 3] {
        for call in 1..6 {
            let to = tempdir().unwrap();
            let world = world.fork();
            falls_silent(&world, 0, call);
            let summary = world.restore(&[0, 1], id, &target(to.path()), threads).unwrap();
            assert_eq!(summary.issues, []);
            assert_same(source.path(), &target(to.path()));
            // Threads that were waiting already, and the walk: for a pack, and whether it answers at all.
            let asked = refusals(&world, 0);
            assert!(
                (2..=2 * (threads + 1)).contains(&asked),
                "{threads} threads, from call {call}: asked {asked} times"
            );
        }
    }
}

#[test]
fn a_restore_ends_where_no_region_answers_and_goes_on_when_one_does() {
    let source = source();
    for regions in [1, 2] {
        let world = World::new(regions);
        let all = world.all();
        let id = world.backup(&all, source.path(), 0).unwrap().snapshot.unwrap();
        for threads in [0, 3] {
            for call in 1..6 {
                let to = tempdir().unwrap();
                let world = world.fork();
                all.iter().for_each(|region| falls_silent(&world, *region, call));
                let error = world.restore(&all, id, &target(to.path()), threads).unwrap_err();
                let RestoreError::Fetch(FetchError::Unanswered(said)) = &error else { panic!("{error}") };
                assert!(all.iter().all(|region| said.contains(&format!("region 'r{region}'"))), "{said}");
                let asked: usize = all.iter().map(|region| refusals(&world, *region)).sum();
                // The last one that answers five times for one thing.
                assert!(asked <= 2 * regions * (threads + 1) * 5, "{threads} threads: asked {asked} times");
                all.iter().for_each(|region| world.stores[*region].revive());
                let summary = world.restore(&all, id, &target(to.path()), threads).unwrap();
                assert_eq!(summary.issues, []);
                assert_same(source.path(), &target(to.path()));
            }
        }
    }
}

/// What only the silent region has is out of reach, and nothing of it is called damaged; the rest is restored.
#[test]
fn what_a_silent_region_alone_has_is_called_unreadable() {
    let source = source();
    let world = World::new(2);
    world.backup(&[0, 1], source.path(), 0).unwrap();
    let added = noise(99, 3_000_000);
    write(source.path(), "only", &added);
    let id = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let to = tempdir().unwrap();
    // Once the trees are read: they are in one region, too.
    let reads = world.stores[0].log().len();
    world.restore(&[0, 1], id, &target(to.path()), 0).unwrap();
    let is_read = |call: &&Logged| call.operation == Operation::GetRange;
    let read = world.stores[0].log()[reads..].iter().filter(is_read).count() as u64;
    assert!(read > 0);
    let (mut unreadable, mut restored) = (0, 0);
    for call in 1..=read {
        let to = tempdir().unwrap();
        let world = world.fork();
        falls_silent(&world, 0, call);
        match world.restore(&[0, 1], id, &target(to.path()), 0) {
            Ok(summary) => {
                let kinds: Vec<IssueKind> = summary.issues.iter().map(|issue| issue.kind).collect();
                assert!(
                    kinds.iter().all(|kind| *kind == IssueKind::Unreadable),
                    "from call {call}: {:?}",
                    summary.issues
                );
                unreadable += kinds.len();
                restored += summary.files;
                let only = target(to.path()).join("only");
                assert!(!only.exists() || std::fs::read(only).unwrap() == added);
            }
            Err(RestoreError::Fetch(FetchError::Unreadable { kind, .. })) => {
                assert_eq!(kind, Some(StoreErrorKind::Unavailable), "from call {call}");
            }
            Err(error) => panic!("from call {call}: {error}"),
        }
    }
    assert!(unreadable > 0 && restored > 0, "{unreadable} unreadable, {restored} restored");
}

/// A region of which one pack can't be had answers all the same.
#[test]
fn a_pack_that_a_region_does_not_give_silences_no_region() {
    let source = source();
    let world = World::new(2);
    let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    let packs: Vec<String> = world.stores[0]
        .log()
        .into_iter()
        .filter(|call| call.name.starts_with("packs/"))
        .map(|call| call.name)
        .collect();
    assert!(packs.len() > 1);
    for pack in &packs {
        for (regions, threads) in [(&[0, 1][..], 0), (&[0, 1], 3), (&[0], 0), (&[0], 3)] {
            let to = tempdir().unwrap();
            let world = world.fork();
            let reads = Trigger::on(Operation::GetRange).under(pack);
            world.stores[0].inject(reads, Fault::Fail(StoreErrorKind::Unavailable));
            match world.restore(regions, id, &target(to.path()), threads) {
                Ok(summary) if regions.len() == 2 => {
                    assert_eq!(summary.issues, []);
                    assert_same(source.path(), &target(to.path()));
                }
                Ok(summary) => {
                    assert!(
                        summary.issues.iter().all(|issue| issue.kind == IssueKind::Unreadable),
                        "{:?}",
                        summary.issues
                    );
                    assert_eq!(summary.files as usize + summary.issues.len(), 40);
                }
                // The pack of the trees.
                Err(RestoreError::Fetch(FetchError::Unreadable { kind, .. })) if regions.len() == 1 => {
                    assert_eq!(kind, Some(StoreErrorKind::Unavailable));
                }
                Err(error) => panic!("{error}"),
            }
            // Each read waits for a while: a pack costs two of each thread.
            let asked = refusals(&world, 0);
            assert!(asked <= 2 * (threads + 1), "{asked} times");
        }
    }
}

/// A login page in the place of a service says 200 to everything: a listing that it isn't must not be an empty one, for
/// what isn't listed may be collected.
#[test]
fn a_page_that_is_no_listing_is_not_taken_for_an_empty_one() {
    let portal = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", portal.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in portal.incoming() {
            let mut client = client.unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && matches!(client.read(&mut byte), Ok(1)) {
                asked.push(byte[0]);
            }
            let page = "<html><body>Please sign in</body></html>";
            let length = page.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n");
            let _ = write!(client, "{head}Connection: close\r\n\r\n{page}");
        }
    });
    let options = [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("region", "us-east-1"),
        ("access_key_id", "key"),
        ("secret_access_key", "secret"),
        ("skip_signature", "true"),
    ];
    for (url, taken) in [("s3://test", &options[..5]), ("gs://test", &[options[0], options[1], options[5]])] {
        let taken = taken.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let error = open_store(url, &taken, false).map(drop).expect_err("no listing");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
        assert!(error.detail.contains("Please sign in") && error.detail.contains("proxy"), "{error}");
    }
}

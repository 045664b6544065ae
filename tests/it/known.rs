//! What a client verified before isn't read again, and nothing counts by it that wouldn't count without it.

use crate::fixture::{World, noise, write};
use crate::gc::{self, rule};
use keepstone::format::ids::SnapshotId;
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::repo::Repository;
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::known::KnownObjects;
use keepstone::repo::snapshots::{Listing, list, list_knowing, snapshot_name};
use keepstone::repo::tags::set_tags;
use keepstone::report::Silent;
use keepstone::store::faults::Operation;
use keepstone::store::{Store, list_sorted};
use std::collections::BTreeSet;
use tempfile::TempDir;

const LISTED: [&str; 4] = ["commits/", "snapshots/", "verdicts/", "tags/"];

/// Three snapshots in two regions, one of them forgotten, one with other tags.
fn world() -> (World, Vec<SnapshotId>, TempDir) {
    let (world, source) = (World::new(2), tempfile::tempdir().unwrap());
    let mut saved = Vec::new();
    for number in 0..3 {
        write(source.path(), &format!("file {number}"), &noise(number, 20_000));
        saved.push(world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap());
    }
    rule(&world, saved[0], 1, Ruling::Forget);
    let repository = world.open(&[0, 1]).unwrap();
    set_tags(&repository, saved[1], &BTreeSet::new(), BTreeSet::from(["kept".to_owned()])).unwrap();
    (world, saved, source)
}

fn sealed(repository: &Repository) -> Vec<u8> {
    let known = KnownObjects::default();
    list_knowing(repository, &known).unwrap();
    known.seal(repository).unwrap().expect("it was met for the first time")
}

fn open(repository: &Repository, sealed: &[u8]) -> KnownObjects {
    KnownObjects::open(&repository.keyring, sealed)
}

/// All that a listing says.
fn said(listing: &Listing) -> String {
    format!("{:?} {:?} {:?}", listing.snapshots, listing.forgotten, listing.issues)
}

/// Objects of a listing that were read since the history was forgotten.
fn reads(world: &World) -> usize {
    let listed = |name: &str| LISTED.iter().any(|prefix| name.starts_with(prefix));
    let log = world.stores.iter().flat_map(|store| store.log());
    log.filter(|call| call.operation == Operation::Get && listed(&call.name)).count()
}

/// Replaces an object's bytes in the store itself; `None` takes it away.
fn spoil(world: &World, at: usize, name: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
    let memory = &world.stores[at].inner().memory;
    let bytes = memory.get(name, 1 << 30).unwrap();
    memory.delete(name).unwrap();
    if let Some(bytes) = change(bytes) {
        memory.put_new(name, &bytes.into()).unwrap();
    }
}

#[test]
fn what_is_known_is_not_read_again_and_says_the_same() {
    let (world, saved, source) = world();
    let repository = world.open(&[0, 1]).unwrap();
    let strict = said(&list(&repository).unwrap());
    let sealed = sealed(&repository);
    let known = open(&repository, &sealed);
    world.forget_history();
    assert_eq!(said(&list_knowing(&repository, &known).unwrap()), strict);
    assert_eq!(reads(&world), 0);
    assert_eq!(known.seal(&repository).unwrap(), None, "nothing new");
    // What is new is read, and known the next time.
    let fourth = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    rule(&world, saved[0], 2, Ruling::Unforget);
    let repository = world.open(&[0, 1]).unwrap();
    let known = open(&repository, &sealed);
    world.forget_history();
    let listing = list_knowing(&repository, &known).unwrap();
    assert_eq!(listing.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), [&saved[..], &[fourth]].concat());
    assert_eq!(reads(&world), 2 + 1 + 1, "two commits, a snapshot, a verdict");
    let sealed = known.seal(&repository).unwrap().expect("there is something new");
    world.forget_history();
    assert_eq!(
        said(&list_knowing(&repository, &open(&repository, &sealed)).unwrap()),
        said(&list(&repository).unwrap())
    );
    // A region that takes no part stays known; what a region doesn't list any more is forgotten.
    let one = world.open(&[0]).unwrap();
    let known = open(&one, &sealed);
    list_knowing(&one, &known).unwrap();
    assert_eq!(known.seal(&one).unwrap(), None);
    for name in list_sorted(&*world.stores[0], "commits/").unwrap() {
        spoil(&world, 0, &name.name, |_| None);
    }
    let known = open(&one, &sealed);
    assert_eq!(list_knowing(&one, &known).unwrap().snapshots.len(), 0);
    assert!(known.seal(&one).unwrap().unwrap().len() < sealed.len());
}

/// HEAL-2, COUNT-4: what is gone or of another size is told by a client that knew it whole. What has the same size is
/// read by whoever checks.
#[test]
fn what_is_gone_or_cut_is_told_though_it_was_known() {
    let (world, saved, _source) = world();
    let repository = world.open(&[0, 1]).unwrap();
    let sealed = sealed(&repository);
    for at in [0, 1] {
        for name in [snapshot_name(&saved[2]), list_sorted(&*world.stores[at], "commits/").unwrap()[0].name.clone()] {
            let gone = world.fork();
            spoil(&gone, at, &name, |bytes| (!name.starts_with("snap")).then(|| bytes[1..].to_vec()));
            let repository = gone.open(&[0, 1]).unwrap();
            let knowing = list_knowing(&repository, &open(&repository, &sealed)).unwrap();
            assert_eq!(said(&knowing), said(&list(&repository).unwrap()));
            assert_eq!(knowing.issues.len(), 1, "{name}");
        }
    }
    let flipped = world.fork();
    let flip = |mut bytes: Vec<u8>| {
        bytes[80] ^= 1;
        Some(bytes)
    };
    spoil(&flipped, 0, &snapshot_name(&saved[2]), flip);
    let repository = flipped.open(&[0, 1]).unwrap();
    assert_eq!(list(&repository).unwrap().issues.len(), 1);
    let known = open(&repository, &sealed);
    assert_eq!(list_knowing(&repository, &known).unwrap().issues, []);
    // And it isn't taken into what is known by somebody who didn't know it.
    let fresh = KnownObjects::default();
    assert_eq!(list_knowing(&repository, &fresh).unwrap().issues.len(), 1);
    let fresh = open(&repository, &fresh.seal(&repository).unwrap().unwrap());
    assert_eq!(list_knowing(&repository, &fresh).unwrap().issues.len(), 1);
}

/// A cache that is damaged, another repository's or of keys that were rotated costs time, and a file that nobody with
/// keys sealed makes nothing count.
#[test]
fn only_what_was_sealed_is_known() {
    let (world, ..) = world();
    let repository = world.open(&[0, 1]).unwrap();
    let (strict, sealed) = (said(&list(&repository).unwrap()), sealed(&repository));
    let reads_with = |repository: &Repository, sealed: &[u8]| {
        world.forget_history();
        assert_eq!(said(&list_knowing(repository, &open(repository, sealed)).unwrap()), strict);
        reads(&world)
    };
    let all = reads_with(&repository, &[]);
    assert!(all > 10);
    for at in (0..sealed.len()).step_by(97) {
        let mut changed = sealed.clone();
        changed[at] ^= 0x40;
        assert_eq!(reads_with(&repository, &changed), all, "byte {at}");
    }
    for length in [0, 1, 8, 40, 56, sealed.len() - 1] {
        assert_eq!(reads_with(&repository, &sealed[..length]), all, "{length} bytes");
    }
    let (other, ..) = self::world();
    let other = other.open(&[0, 1]).unwrap();
    let known = KnownObjects::default();
    list_knowing(&other, &known).unwrap();
    assert_eq!(reads_with(&repository, &known.seal(&other).unwrap().unwrap()), all);
    assert_eq!(reads_with(&repository, &sealed), 0);
    // Older rings still open what was sealed under them.
    world.open(&[0, 1]).unwrap().rotate(false).unwrap();
    assert_eq!(reads_with(&world.open(&[0, 1]).unwrap(), &sealed), 0);
}

/// SIGN-3, ACCEPT-3: whether a slot may, and what of it counts once it was revoked, is judged anew.
#[test]
fn what_a_revoked_slot_signed_counts_as_it_does_for_all() {
    let (world, source) = (World::new(1), tempfile::tempdir().unwrap());
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let writer = world.as_slot(&identity);
    let mut saved = Vec::new();
    for number in 0..3 {
        write(source.path(), &format!("file {number}"), &noise(number, 20_000));
        saved.push(writer.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap());
    }
    let sealed = sealed(&world.open(&[0]).unwrap());
    for acceptance in [
        Acceptance::default(),
        Acceptance { none: true, ..Acceptance::default() },
        Acceptance { except: BTreeSet::from([saved[1]]), ..Acceptance::default() },
    ] {
        let world = world.fork();
        world.open(&[0]).unwrap().revoke_slot(slot, &acceptance, &Silent).unwrap();
        let repository = world.open(&[0]).unwrap();
        let knowing = list_knowing(&repository, &open(&repository, &sealed)).unwrap();
        assert_eq!(said(&knowing), said(&list(&repository).unwrap()));
        let counting = if acceptance.none { 0 } else { 3 - acceptance.except.len() };
        assert_eq!(knowing.snapshots.len(), counting);
    }
}

/// Entries never change, and a repository of years has a thousand of them.
#[test]
fn a_run_reads_each_entry_of_the_collection_log_once() {
    let (old, new) = (gc::tree(1), gc::tree(2));
    let world = World::new(1);
    let first = gc::backup(&world, old.path());
    gc::backup(&world, new.path());
    rule(&world, first, 1, Ruling::Forget);
    gc::quiet(&world);
    let finals: BTreeSet<String> =
        gc::names(&world, "gc/").into_iter().filter(|name| name.ends_with("/final")).collect();
    assert!(finals.len() >= 2, "{finals:?}");
    world.forget_history();
    write(new.path(), "more", &noise(9, 20_000));
    gc::backup(&world, new.path());
    let log = world.stores[0].log();
    let read = log.into_iter().filter(|call| call.operation == Operation::Get && finals.contains(&call.name));
    let mut read: Vec<String> = read.map(|call| call.name).collect();
    read.sort();
    assert_eq!(read, finals.into_iter().collect::<Vec<_>>());
}

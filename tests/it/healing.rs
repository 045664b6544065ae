//! What a region lost of packs and segments: nothing counts as stored because of it, other regions give it back,
//! and a collection takes what was lost for no copy.

use crate::fixture::{World, assert_same, noise, options, write};
use crate::gc::{collect, rule, thorough};
use crate::program::Program;
use keepstone::backup::{Backup, BackupSummary, DedupTrust, backup_tree};
use keepstone::check::{self, check};
use keepstone::env::StepClock;
use keepstone::format::ids::{PackId, SessionId, SnapshotId, number_name};
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::gc::{GcOptions, MaxUnused, gc};
use keepstone::index::MemoryIndex;
use keepstone::index::segment::segment_name;
use keepstone::pack::reader::pack_name;
use keepstone::replicate::{Depth, Healed, Replicated, heal, replicate};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::presence::look;
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::{list_packs, list_segments, sync};
use keepstone::repo::{Repository, attest};
use keepstone::report::Silent;
use keepstone::source::{Walk, WalkOptions};
use keepstone::store::faults::{Fault, Logged, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const FILES: u64 = 8;

/// A host with an index and a change-detection cache that it keeps.
struct Host {
    index: MemoryIndex,
    seen: TempDir,
}

impl Host {
    fn new() -> Host {
        Host { index: MemoryIndex::new(), seen: tempfile::tempdir().unwrap() }
    }

    fn backup(&self, world: &World, source: &Path) -> BackupSummary {
        self.backup_trusting(world, source, DedupTrust::Own)
    }

    fn backup_trusting(&self, world: &World, source: &Path, trust: DedupTrust) -> BackupSummary {
        let repository = world.open(&world.all()).unwrap();
        sync(&repository, &self.index, &Silent).unwrap();
        let listing = list(&repository).unwrap();
        let options = Backup { seen_directory: Some(self.seen.path().to_owned()), trust, ..options(0) };
        let sources = [source.to_path_buf()];
        let walk = Walk::new(&sources, WalkOptions::default()).unwrap();
        backup_tree(&repository, &self.index, &options, walk, &listing.snapshots, &Silent).unwrap()
    }
}

/// A world whose clock runs after the files' times, so that they count as unchanged.
fn world(regions: usize) -> World {
    let mut world = World::new(regions);
    world.clock = Arc::new(StepClock::starting_at(4_000_000_000));
    world
}

fn old_file(root: &Path, name: &str, seed: u64) {
    let file = std::fs::File::open(write(root, name, &noise(seed, 30_000))).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    (0..FILES).for_each(|at| old_file(source.path(), &format!("{}/file{at}", at % 2), at));
    source
}

fn memory(world: &World, at: usize) -> &MemoryStore {
    &world.stores[at].inner().memory
}

fn packs(world: &World, at: usize) -> Vec<(PackId, u64)> {
    list_packs(&world.open(&world.all()).unwrap().regions[at]).unwrap()
}

fn lose_packs(world: &World, at: usize) {
    for (pack, _) in packs(world, at) {
        memory(world, at).delete(&pack_name(&pack)).unwrap();
    }
}

/// The first half of it is there still.
fn cut(world: &World, at: usize, pack: &PackId) {
    let bytes = memory(world, at).get(&pack_name(pack), 1 << 30).unwrap();
    memory(world, at).delete(&pack_name(pack)).unwrap();
    memory(world, at).put_new(&pack_name(pack), &bytes[..bytes.len() / 2].to_vec().into()).unwrap();
}

fn lose_segments(world: &World, at: usize) {
    for id in list_segments(&world.open(&world.all()).unwrap().regions[at]).unwrap().into_keys() {
        memory(world, at).delete(&segment_name(&id)).unwrap();
    }
}

fn healed(repository: &Repository) -> (Healed, bool) {
    let index = MemoryIndex::new();
    sync(repository, &index, &Silent).unwrap();
    let mut lacking = look(repository, &index).unwrap();
    let done = heal(repository, &index, &mut lacking, &Silent).unwrap();
    assert_eq!(lacking, look(repository, &index).unwrap(), "what came back is known to be back");
    (done, lacking.is_empty())
}

fn replicated(repository: &Repository) -> Replicated {
    let listing = list(repository).unwrap();
    replicate(repository, &listing.snapshots, Depth::Content, None, 64 << 20, &Silent).unwrap()
}

fn lacks_nothing(world: &World) -> bool {
    let repository = world.open(&world.all()).unwrap();
    let index = MemoryIndex::new();
    sync(&repository, &index, &Silent).unwrap();
    look(&repository, &index).unwrap().is_empty()
}

/// Each region by itself: nothing is damaged, and these come back as they were.
fn assert_whole_alone(world: &World, snapshots: &[(SnapshotId, &Path)]) {
    for at in world.all() {
        let repository = world.open(&[at]).unwrap();
        let options = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
        let report = check(&repository, None, &options, &Silent).unwrap();
        assert!(report.is_sound(), "region {at}: {:?}", report.issues);
        for (id, source) in snapshots {
            world.assert_restores(&[at], *id, source, 0);
        }
    }
}

/// A copy of what is there now: a source to compare older snapshots with.
fn copy_of(source: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let done = std::process::Command::new("cp").arg("-a").arg(source.join(".")).arg(copy.path()).status().unwrap();
    assert!(done.success());
    copy
}

/// ORDER-8: in one region, in both; gone, cut short, and only some of them.
#[test]
fn order_8_what_a_region_lists_and_lacks_is_stored_again_once() {
    for regions in [&[1][..], &[0, 1]] {
        for how in ["all", "cut", "one"] {
            let (world, source, host) = (world(2), source(), Host::new());
            host.backup(&world, source.path());
            assert_eq!(host.backup(&world, source.path()).files_unmodified, FILES);
            for at in regions {
                match how {
                    "all" => lose_packs(&world, *at),
                    "cut" => packs(&world, *at).iter().for_each(|(pack, _)| cut(&world, *at, pack)),
                    _ => {
                        let largest = packs(&world, *at).into_iter().max_by_key(|(_, size)| *size).unwrap().0;
                        memory(&world, *at).delete(&pack_name(&largest)).unwrap();
                    }
                }
            }
            let summary = host.backup(&world, source.path());
            assert!(summary.regions.iter().all(|region| region.committed));
            assert_eq!(summary.files_unmodified, 0, "{how}: the base says nothing about what is lost");
            assert!(summary.new_bytes >= FILES * 20_000, "{how}: {}", summary.new_bytes);
            for at in [0, 1] {
                world.assert_restores(&[at], summary.snapshot.unwrap(), source.path(), 0);
            }
            let next = host.backup(&world, source.path());
            assert_eq!((next.files_unmodified, next.new_chunks), (FILES, 0), "{how}: and then no more");
            assert_eq!(Host::new().backup(&world, source.path()).new_chunks, 0, "{how}: nor by another cache");
        }
    }
}

/// ORDER-8: nobody calls a loss what a collection or an upload does meanwhile.
#[test]
fn order_8_a_collection_or_a_backup_at_any_call_is_no_loss() {
    let (world, source, host) = (world(2), source(), Host::new());
    let first = host.backup(&world, source.path()).snapshot.unwrap();
    std::fs::remove_dir_all(source.path().join("1")).unwrap();
    host.backup(&world, source.path());
    rule(&world, first, 0, Ruling::Forget);
    let extra = tempfile::tempdir().unwrap();
    write(extra.path(), "more", &noise(77, 50_000));
    let known = |world: &World| {
        let repository = world.open(&world.all()).unwrap();
        let index = MemoryIndex::new();
        sync(&repository, &index, &Silent).unwrap();
        (repository, index)
    };
    let calls = {
        let world = world.fork();
        let (repository, index) = known(&world);
        world.calls_of(|| drop(look(&repository, &index).unwrap()))
    };
    // Who meets a collection reads its log as well.
    for call in 1..=calls + 4 {
        let (world, extra) = (world.fork(), extra.path().to_owned());
        let (repository, index) = known(&world);
        let before = packs(&world, 1);
        world.visit_at(call, move |other| {
            collect(other, &thorough());
            other.backup(&other.all(), &extra, 0).unwrap();
            collect(other, &thorough());
        });
        let lacking = look(&repository, &index).unwrap();
        assert!(lacking.is_empty(), "call {call}: {lacking:?}");
        assert!(call > calls || packs(&world, 1) != before, "something was collected");
    }
}

/// A listing that breaks off says nothing about what is there.
#[test]
fn order_8_a_listing_that_fails_is_no_empty_region() {
    let (world, source, host) = (world(2), source(), Host::new());
    host.backup(&world, source.path());
    let repository = world.open(&world.all()).unwrap();
    world.stores[1].inject(Trigger::on(Operation::List).under("packs/"), Fault::Fail(StoreErrorKind::Unavailable));
    let error = look(&repository, &host.index).unwrap_err();
    assert!(error.to_string().contains("packs/"), "{error}");
}

#[test]
fn heal_1_lost_packs_come_back_under_their_own_names() {
    for how in ["all", "cut"] {
        let (world, source, host) = (world(2), source(), Host::new());
        let old = host.backup(&world, source.path()).snapshot.unwrap();
        let before = copy_of(source.path());
        old_file(source.path(), "0/file0", 1000);
        let new = host.backup(&world, source.path()).snapshot.unwrap();
        let (there, segments) = (packs(&world, 1), memory(&world, 1).clone());
        let segments_before = keepstone::store::list_sorted(&segments, "index/").unwrap();
        match how {
            "all" => lose_packs(&world, 1),
            _ => there.iter().for_each(|(pack, _)| cut(&world, 1, pack)),
        }
        assert!(!lacks_nothing(&world));
        let repository = world.open(&world.all()).unwrap();
        world.forget_history();
        let (done, whole) = healed(&repository);
        assert_eq!((done.packs, done.issues.len()), (there.len() as u64, 0), "{:?}", done.issues);
        // HEAL-1: what keeps a collection from the names, then its log, then the packs, then its log.
        let log = world.stores[1].log();
        let from = |from: usize, operation, prefix: &str| {
            let is = |call: &Logged| call.operation == operation && call.name.starts_with(prefix);
            from + log[from..].iter().position(is).unwrap_or_else(|| panic!("no {prefix} from {from} on in {log:?}"))
        };
        let session = world.stores[1].written().into_iter().find(|name| name.starts_with("sessions/")).unwrap();
        let session = SessionId::from_hex(session.split('/').nth(1).unwrap()).unwrap();
        let first = from(0, Operation::Put, &format!("sessions/{session}/{}", number_name(0)));
        let adopting = from(first + 1, Operation::Put, &format!("sessions/{session}/"));
        let looked = from(adopting, Operation::List, "gc/");
        let put = from(looked, Operation::Put, "packs/");
        assert_eq!(put, from(0, Operation::Put, "packs/"), "none before");
        let last = log.iter().rposition(|call| call.name.starts_with("packs/") && call.operation != Operation::List);
        from(last.unwrap(), Operation::List, "gc/");
        assert!(whole && packs(&world, 1) == there);
        assert_eq!(keepstone::store::list_sorted(&segments, "index/").unwrap(), segments_before);
        assert_whole_alone(&world, &[(old, before.path()), (new, source.path())]);
        // Nothing is lost, nothing is done; and unchanged files stay closed, as before the loss.
        assert_eq!(healed(&world.open(&world.all()).unwrap()).0.packs, 0);
        assert_eq!(host.backup(&world, source.path()).files_unmodified, FILES);
        collect(&world, &thorough());
        assert_whole_alone(&world, &[(old, before.path()), (new, source.path())]);
    }
}

/// NAME-3: a name that a generation condemned or deleted isn't written again.
#[test]
fn name_3_what_is_condemned_where_it_was_lost_stays_away() {
    let (world, source) = (world(2), source());
    let old = Host::new().backup(&world, source.path()).snapshot.unwrap();
    rule(&world, old, 0, Ruling::Forget);
    let condemning = GcOptions { now: false, ..thorough() };
    (0..3).for_each(|_| drop(collect(&world, &condemning)));
    let repository = world.open(&world.all()).unwrap();
    let log = keepstone::repo::gclog::read(&repository, &repository.regions[1]).unwrap();
    let condemned = log.missing();
    assert!(!condemned.is_empty(), "something is condemned");
    lose_packs(&world, 1);
    healed(&repository);
    assert!(packs(&world, 1).iter().all(|(pack, _)| !condemned.contains(pack)));
}

/// A damaged copy is nobody's remedy, and one region's fault not the other's.
#[test]
fn what_no_region_has_whole_is_told_and_the_rest_comes_back() {
    let (world, source) = (world(2), source());
    Host::new().backup(&world, source.path());
    let all = packs(&world, 1);
    let bad = &all[0].0;
    let mut bytes = memory(&world, 0).get(&pack_name(bad), 1 << 30).unwrap();
    bytes[100] ^= 1;
    memory(&world, 0).delete(&pack_name(bad)).unwrap();
    memory(&world, 0).put_new(&pack_name(bad), &bytes.into()).unwrap();
    lose_packs(&world, 1);
    let (done, whole) = healed(&world.open(&world.all()).unwrap());
    assert_eq!((done.packs, done.issues.len()), (all.len() as u64 - 1, 1), "{:?}", done.issues);
    assert!(!whole && String::from_utf8_lossy(&done.issues[0].subject).contains(&bad.to_string()));
}

/// Who may not read packs says so, and stores again.
#[test]
fn a_slot_that_may_not_read_packs_says_so() {
    let (world, source, host) = (world(2), source(), Host::new());
    host.backup(&world, source.path());
    lose_packs(&world, 1);
    world.stores[0].inject(Trigger::on(Operation::Get).under("packs/"), Fault::Fail(StoreErrorKind::Denied));
    let (done, _) = healed(&world.open(&world.all()).unwrap());
    assert_eq!((done.packs, done.issues.len()), (0, 1));
    assert!(done.issues[0].detail.contains("may not read packs"), "{}", done.issues[0].detail);
    world.stores[0].revive();
    let summary = host.backup(&world, source.path());
    world.assert_restores(&[1], summary.snapshot.unwrap(), source.path(), 0);
}

#[test]
fn lost_segments_are_made_up_for_and_older_snapshots_come_back() {
    for packs_too in [false, true] {
        let (world, source, host) = (world(2), source(), Host::new());
        let old = host.backup(&world, source.path()).snapshot.unwrap();
        let before = copy_of(source.path());
        old_file(source.path(), "0/file0", 1000);
        let new = host.backup(&world, source.path()).snapshot.unwrap();
        lose_segments(&world, 1);
        if packs_too {
            lose_packs(&world, 1);
        }
        let listing = list(&world.open(&world.all()).unwrap()).unwrap();
        let commits =
            replicate(&world.open(&world.all()).unwrap(), &listing.snapshots, Depth::Commits, None, 64 << 20, &Silent);
        assert_eq!(commits.unwrap().segments, 0, "by the commits nothing is missing");
        let done = replicated(&world.open(&world.all()).unwrap());
        assert_eq!((done.issues.len(), done.commits), (0, 0), "{:?}", done.issues);
        assert!(done.segments > 0);
        assert_whole_alone(&world, &[(old, before.path()), (new, source.path())]);
        let again = replicated(&world.open(&world.all()).unwrap());
        assert_eq!((again.packs, again.segments), (0, 0));
        collect(&world, &thorough());
        assert_whole_alone(&world, &[(old, before.path()), (new, source.path())]);
    }
}

#[test]
fn what_every_region_lost_is_told_by_a_replication_that_looks() {
    let (world, source) = (world(2), source());
    Host::new().backup(&world, source.path());
    world.all().into_iter().for_each(|at| lose_packs(&world, at));
    let done = replicated(&world.open(&world.all()).unwrap());
    assert_eq!(done.issues.len(), 2, "{:?}", done.issues);
    assert!(done.issues[0].detail.contains("no reached region lists or holds"));
}

/// COLLECT-18: the lost pack is no copy, and stops being listed once nothing waits for it.
#[test]
fn collect_18_of_a_lost_pack_and_a_new_one_the_new_one_stays() {
    for regions in [&[0, 1][..], &[1]] {
        let (world, source, host) = (world(2), source(), Host::new());
        let old = host.backup(&world, source.path()).snapshot.unwrap();
        let lost = packs(&world, 1);
        regions.iter().for_each(|at| lose_packs(&world, *at));
        let new = host.backup(&world, source.path()).snapshot.unwrap();
        for _ in 0..4 {
            collect(&world, &GcOptions { max_unused: MaxUnused::Permyriad(10_000), ..thorough() });
        }
        assert!(lacks_nothing(&world), "what is lost is listed no more");
        let repository = world.open(&world.all()).unwrap();
        let dead = keepstone::repo::gclog::read(&repository, &repository.regions[1]).unwrap().dead;
        assert!(lost.iter().all(|(pack, _)| dead.contains(pack)));
        // The content was the same, so what was stored anew serves the older one too.
        assert_whole_alone(&world, &[(old, source.path()), (new, source.path())]);
        let summary = host.backup(&world, source.path());
        if regions.len() == 2 {
            assert_eq!(summary.new_chunks, 0, "the same packs stay in both");
        }
        assert_whole_alone(&world, &[(summary.snapshot.unwrap(), source.path())]);
        assert_eq!(host.backup(&world, source.path()).files_unmodified, FILES);
    }
}

/// COLLECT-18: what only a forgotten snapshot needs may be put back, and the snapshot be called back.
#[test]
fn collect_18_a_lost_pack_that_a_forgotten_snapshot_needs_keeps_its_name() {
    let (world, source) = (world(2), source());
    let old = Host::new().backup(&world, source.path()).snapshot.unwrap();
    lose_packs(&world, 1);
    rule(&world, old, 0, Ruling::Forget);
    let waiting = GcOptions { forget_window: jiff::Span::new().days(30), ..thorough() };
    for _ in 0..3 {
        let report = gc(&world.open(&world.all()).unwrap(), &waiting, &Silent).unwrap();
        assert!(report.regions.iter().all(|region| region.failure.is_none()));
    }
    rule(&world, old, 1, Ruling::Unforget);
    let (done, whole) = healed(&world.open(&world.all()).unwrap());
    assert!(done.packs > 0 && whole, "{:?}", done.issues);
    assert_whole_alone(&world, &[(old, source.path())]);
}

/// What was relied on while all slots were trusted is judged again once they aren't.
#[test]
fn narrowed_trust_reaches_what_was_taken_over() {
    let (world, source) = (world(1), source());
    let (slot, writer) = world.add_slot(Role::Writer, "writer");
    Host::new().backup(&world.as_slot(&writer), source.path());
    let host = Host::new();
    let trusting = host.backup_trusting(&world, source.path(), DedupTrust::All);
    assert!(trusting.new_bytes < 20_000, "it relies on the writer's packs: {}", trusting.new_bytes);
    assert_eq!(host.backup_trusting(&world, source.path(), DedupTrust::All).files_unmodified, FILES);
    // The setting narrowed.
    let again = Host { index: MemoryIndex::new(), seen: copy_of(host.seen.path()) };
    sync(&world.open(&[0]).unwrap(), &again.index, &Silent).unwrap();
    {
        let world = world.fork();
        let narrowed = host.backup(&world, source.path());
        assert_eq!(narrowed.files_unmodified, 0);
        assert!(narrowed.new_bytes >= FILES * 30_000);
        let after = host.backup(&world, source.path());
        assert_eq!((after.files_unmodified, after.new_chunks), (FILES, 0));
        // A slot that isn't trusted anyway changes nothing by being revoked.
        world.open(&[0]).unwrap().revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
        assert_eq!(host.backup(&world, source.path()).files_unmodified, FILES);
    }
}

#[test]
fn a_revoked_slot_is_relied_on_no_more_through_what_was_taken_over() {
    let (world, source, host) = (world(1), source(), Host::new());
    let (slot, writer) = world.add_slot(Role::Writer, "writer");
    Host::new().backup(&world.as_slot(&writer), source.path());
    host.backup_trusting(&world, source.path(), DedupTrust::All);
    assert_eq!(host.backup_trusting(&world, source.path(), DedupTrust::All).files_unmodified, FILES);
    // Its snapshot stays accepted, and with it its packs: no loss makes the index anew.
    world.open(&[0]).unwrap().revoke_slot(slot, &Acceptance::default(), &Silent).unwrap();
    let incarnation = keepstone::index::Index::incarnation(&host.index);
    let revoked = host.backup_trusting(&world, source.path(), DedupTrust::All);
    assert_eq!(keepstone::index::Index::incarnation(&host.index), incarnation);
    assert_eq!(revoked.files_unmodified, 0);
    assert!(revoked.new_bytes >= FILES * 30_000);
    assert_eq!(host.backup_trusting(&world, source.path(), DedupTrust::All).files_unmodified, FILES);
}

#[test]
fn what_an_owner_vouched_for_counts_for_what_is_taken_over_as_long_as_it_does() {
    let (world, source) = (world(1), source());
    let (_, writer) = world.add_slot(Role::Writer, "writer");
    world.backup(&[0], source.path(), 0).unwrap();
    let owner = world.open(&[0]).unwrap();
    let options = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
    let report = check(&owner, None, &options, &Silent).unwrap();
    attest::publish(&owner, &report.verified).unwrap();
    let (theirs, host) = (world.as_slot(&writer), Host::new());
    assert_eq!(host.backup(&theirs, source.path()).new_bytes, 0);
    assert_eq!(host.backup(&theirs, source.path()).files_unmodified, FILES);
    // To vouch for more opens no file again.
    let more = tempfile::tempdir().unwrap();
    write(more.path(), "more", &noise(77, 50_000));
    world.backup(&[0], more.path(), 0).unwrap();
    let report = check(&owner, None, &options, &Silent).unwrap();
    assert!(attest::publish(&owner, &report.verified).unwrap() > 0);
    assert_eq!(host.backup(&theirs, source.path()).files_unmodified, FILES);
    for listed in keepstone::store::list_sorted(memory(&world, 0), "attest/").unwrap() {
        memory(&world, 0).delete(&listed.name).unwrap();
    }
    let after = host.backup(&theirs, source.path());
    assert_eq!(after.files_unmodified, 0);
    assert!(after.new_bytes >= FILES * 30_000);
}

/// The program: what it says, how it ends, and that a region that lost everything restores by itself again.
#[test]
fn a_backup_tells_of_what_a_region_lost_and_puts_it_back() {
    let lose = |program: &Program, what: &[&str]| {
        what.iter().for_each(|directory| std::fs::remove_dir_all(program.path(directory)).unwrap());
    };
    for what in [&["two/packs"][..], &["two/index"], &["two/packs", "two/index"]] {
        for heals in ["backup", "replicate"] {
            let program = Program::new();
            (0..4u64).for_each(|at| drop(program.write(&at.to_string(), &noise(at, 200_000))));
            let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
            let before = copy_of(&program.source());
            program.write("0", &noise(9, 200_000));
            program.backup(&[]);
            lose(&program, what);
            let source = program.source().display().to_string();
            let ended = program.run(match heals {
                "backup" => vec!["backup", &source],
                _ => vec!["replicate"],
            });
            let told =
                ended.stderr.contains("missing: two:packs/") && ended.stderr.contains("a segment lists this pack");
            // All of it is back before the run ends.
            ended.expect(0);
            // A lost segment lists nothing.
            assert_eq!(told, what == ["two/packs"]);
            program.run(["check", "--read-data"]).expect(0);
            let latest = program.backup(&[]);
            assert_eq!(latest["new_bytes"], 0);
            for (at, (id, source)) in [(&first[..], before.path()), ("latest", &program.source())].iter().enumerate() {
                let to = format!("out {at}");
                program.run(["--region", "two", "restore", id, "--to", &to, "--verify"]).expect(0);
                assert_same(source, &program.path(&to));
            }
        }
    }
}

/// What no region has is stored again, is told until it is off the lists, and then no more.
#[test]
fn what_every_region_lost_is_told_until_it_is_collected() {
    let program = Program::new();
    (0..4u64).for_each(|at| drop(program.write(&at.to_string(), &noise(at, 200_000))));
    let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    for region in ["one", "two"] {
        std::fs::remove_dir_all(program.path(region).join("packs")).unwrap();
    }
    program.write("0", &noise(9, 200_000));
    let saved = program.backup_ending(11, &[]);
    assert!(saved["new_bytes"].as_u64().unwrap() >= 800_000);
    // Nor does a cache made anew forget it: the older snapshot lacks the first state of one file.
    for keeps_cache in [true, false] {
        if !keeps_cache {
            std::fs::remove_dir_all(program.path("cache")).unwrap();
        }
        let saved = program.backup_ending(11, &[]);
        assert_eq!((&saved["new_bytes"], &saved["files"]), (&0.into(), &4.into()));
        program.run(["replicate"]).expect(11);
    }
    // Once nothing needs it the run is as good as any, though the lists still name it.
    program.run(["forget", &first]).expect(0);
    let ended = program.run(["backup", &program.source().display().to_string()]).expect(0);
    assert!(
        ended.stderr.contains("missing: one:packs/")
            && ended.stderr.contains("no snapshot needs what region 'one' lost")
    );
    program.run(["replicate"]).expect(0);
    let path = program.path("keepstone.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{settings}\n[retention]\nforget_window = '1ns'\n")).unwrap();
    (0..4).for_each(|_| drop(program.run(["gc", "--now"]).expect(0)));
    assert_eq!(program.backup(&[])["new_bytes"], 0);
    program.run(["replicate"]).expect(0);
    program.run(["check", "--read-data"]).expect(0);
    for region in ["one", "two"] {
        program.run(["--region", region, "restore", "latest", "--to", region_target(region), "--verify"]).expect(0);
        assert_same(&program.source(), &program.path(region_target(region)));
    }
}

/// HEAL-2: nor does damage stay to what no snapshot needs.
#[test]
fn damaged_attestations_entries_and_collected_snapshots_are_put_right() {
    let program = Program::new();
    program.write("a", &noise(1, 200_000));
    let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    program.write("a", &noise(2, 200_000));
    program.backup(&[]);
    program.run(["check", "--read-data"]).expect(0);
    program.run(["forget", &first]).expect(0);
    let path = program.path("keepstone.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{settings}\n[retention]\nforget_window = '1ns'\n")).unwrap();
    (0..4).for_each(|_| drop(program.run(["gc", "--now"]).expect(0)));
    let one_below = |directory: &str| {
        let mut at = program.path(&format!("two/{directory}"));
        while at.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            at = entries.swap_remove(0);
        }
        at
    };
    let damaged = [one_below("attest"), one_below("audit"), program.path(&format!("two/snapshots/{first}"))];
    for path in &damaged {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    program.run(["scrub", "two"]).expect(11);
    let told = program.run(["replicate"]).expect(0);
    assert!(told.stdout.contains("Put 3 damaged or lost objects right again"), "{}", told.stdout);
    program.run(["scrub", "two"]).expect(0);
    program.run(["check"]).expect(0);
    program.run(["audit"]).expect(0);
}

/// COLLECT-3, HEAL-2: the object of one that was collected is as good as any.
#[test]
fn a_snapshot_comes_back_from_a_region_that_collected_it() {
    let program = Program::new();
    program.write("a", &noise(1, 200_000));
    let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    let before = copy_of(&program.source());
    program.write("a", &noise(2, 200_000));
    program.backup(&[]);
    let path = program.path("keepstone.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{settings}\n[retention]\nforget_window = '1ns'\n")).unwrap();
    program.run(["--region", "one", "forget", &first]).expect(3);
    (0..4).for_each(|_| drop(program.run(["--region", "one", "gc", "--now"]).expect(0)));
    std::fs::write(&path, settings).unwrap();
    program.run(["replicate"]).expect(0);
    std::fs::remove_file(program.path(&format!("two/snapshots/{first}"))).unwrap();
    program.run(["check"]).expect(11);
    let told = program.run(["replicate"]).expect(0);
    assert!(told.stderr.contains(&format!("two:snapshots/{first}")), "{}", told.stderr);
    assert_eq!(program.run(["replicate"]).expect(0).stderr.matches("snapshots/").count(), 0);
    program.run(["check"]).expect(0);
    // The next replication brings it to the other one.
    program.run(["unforget", &first]).expect(3);
    program.run(["--region", "two", "restore", &first, "--to", program.path("out").to_str().unwrap()]).expect(0);
    assert_same(before.path(), &program.path("out"));
}

/// A region that lost segments doesn't pass for whole because somebody looked once, nor because a cache is gone.
#[test]
fn lost_segments_are_told_until_they_are_made_up_for() {
    let program = Program::new();
    let source = program.source().display().to_string();
    program.write("a", &noise(1, 200_000));
    let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    let before = copy_of(&program.source());
    program.write("a", &noise(2, 200_000));
    program.backup(&[]);
    std::fs::remove_dir_all(program.path("two/index")).unwrap();
    for run in 0..4 {
        match run {
            2 => std::fs::remove_dir_all(program.path("cache")).unwrap(),
            3 => drop(program.run(["cache", "rebuild"])),
            _ => {}
        }
        let ended = program.run(["--region", "two", "backup", &source]).expect(11);
        assert!(ended.stderr.contains("missing: two:index/: this region lost segments"), "{run}: {}", ended.stderr);
        assert!(ended.stderr.contains("no reached region lists or holds"), "{run}: {}", ended.stderr);
        program.run(["--region", "two", "backup", "--dry-run", &source]).expect(11);
        program.run(["--region", "two", "replicate"]).expect(11);
    }
    let ended = program.run(["backup", &source]).expect(0);
    assert!(ended.stderr.contains("missing: two:index/: this region lost segments"));
    program.run(["--region", "two", "restore", &first, "--to", "out", "--verify"]).expect(0);
    assert_same(before.path(), &program.path("out"));
    let ended = program.run(["backup", &source]).expect(0);
    assert!(!ended.stderr.contains("lost segments"), "{}", ended.stderr);
}

/// A region that was away while the cache was made anew is looked at when it is there again.
#[test]
fn a_loss_in_a_region_that_is_away_while_another_one_loses_something_is_noticed() {
    let (world, source, host) = (world(2), source(), Host::new());
    host.backup(&world, source.path());
    old_file(source.path(), "0/file0", 1000);
    host.backup(&world, source.path());
    // Of each region one segment of several, so that the newest root is listed still.
    let ids: Vec<_> = world.all().iter().map(|at| world.open(&[*at]).unwrap().regions[0].info.region).collect();
    lose_segments(&world, 0);
    lose_segments(&world, 1);
    sync(&world.open(&[0]).unwrap(), &host.index, &Silent).unwrap();
    use keepstone::index::Index;
    assert_eq!(host.index.doubted().unwrap(), ids.iter().copied().collect());
    for keeps_index in [true, false] {
        let index = if keeps_index { &host.index } else { &MemoryIndex::new() };
        let repository = world.open(&[0]).unwrap();
        sync(&repository, index, &Silent).unwrap();
        let listing = list(&repository).unwrap();
        let unlisted = keepstone::repo::presence::unlisted_roots(&repository, index, &listing.snapshots).unwrap();
        assert_eq!(unlisted.into_iter().collect::<Vec<_>>(), ids[..1]);
    }
}

/// NAME-3: where what is cut short may not be replaced, what is needed of it goes into a new pack, and the region
/// takes part as before.
#[test]
fn name_3_what_may_not_be_replaced_is_copied_into_another_pack() {
    for depth in [Depth::Commits, Depth::Content] {
        let (world, source, host) = (world(2), source(), Host::new());
        let old = host.backup(&world, source.path()).snapshot.unwrap();
        let before = copy_of(source.path());
        old_file(source.path(), "0/file0", 1000);
        let new = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
        for (pack, _) in packs(&world, 1) {
            cut(&world, 1, &pack);
        }
        if depth == Depth::Commits {
            // The manifest that is to be copied is there, cut short; its name can't be another.
            let name = keepstone::repo::snapshots::snapshot_name(&new);
            memory(&world, 1).put_new(&name, &b"cut"[..].to_vec().into()).unwrap();
        }
        world.stores[1].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
        let repository = world.open(&world.all()).unwrap();
        let (done, whole) = healed(&repository);
        assert!(done.packs == 0 && !done.issues.is_empty() && !whole);
        assert!(done.issues[0].detail.contains("may not be replaced"), "{}", done.issues[0].detail);
        let listing = list(&repository).unwrap();
        let done = replicate(&repository, &listing.snapshots, depth, None, 64 << 20, &Silent).unwrap();
        assert!(done.behind.is_empty() && done.packs > 0, "{:?}", done.behind);
        match depth {
            Depth::Commits => {
                assert_eq!((done.commits, done.issues.len()), (0, 1), "{:?}", done.issues);
                assert!(done.issues[0].detail.contains("may not be replaced"), "{}", done.issues[0].detail);
            }
            Depth::Content => {
                assert_eq!((done.commits, done.issues.len(), done.whole.len()), (1, 0, 2), "{:?}", done.issues);
                world.assert_restores(&[1], new, source.path(), 0);
                world.assert_restores(&[1], old, before.path(), 0);
            }
        }
        // A backup goes on there in either case.
        let summary = host.backup(&world, source.path());
        assert!(summary.regions.iter().all(|region| region.committed));
        world.assert_restores(&[1], summary.snapshot.unwrap(), source.path(), 0);
    }
}

fn region_target(region: &str) -> &'static str {
    if region == "one" { "out one" } else { "out two" }
}

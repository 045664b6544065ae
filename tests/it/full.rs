//! A region without room: the others go on, nothing is done where it can't be recorded, and what the log already
//! lists as deleted is freed all the same.

use crate::fixture::{World, noise, write};
use crate::gc::{at_once, backup, quick, tree};
use crate::program::{Program, id};
use crate::restore::Mounted;
use keepstone::crypto::slot::Wrapping;
use keepstone::format::roster::Role;
use keepstone::format::verdict::Ruling;
use keepstone::gc::{GcOptions, GcReport, MaxUnused, gc};
use keepstone::repo::audit::{self, FindingKind, merge};
use keepstone::repo::snapshots::list_all;
use keepstone::repo::tags::set_tags;
use keepstone::repo::verdicts::{Decree, put};
use keepstone::repo::{RepoError, Repository};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::{StoreErrorKind, list_sorted};
use std::collections::BTreeSet;

fn fill(world: &World, at: usize) {
    world.stores[at].inject(Trigger::on(Operation::Put), Fault::Fail(StoreErrorKind::Full));
}

fn names(world: &World, at: usize, prefix: &str) -> Vec<String> {
    let listed = list_sorted(&world.stores[at].inner().memory, prefix).unwrap();
    listed.into_iter().map(|listed| listed.name).collect()
}

fn open(world: &World) -> Repository {
    world.open(&world.all()).unwrap()
}

fn run(world: &World, options: &GcOptions) -> GcReport {
    gc(&open(world), options, &Silent).unwrap()
}

fn forget(ruling: Ruling) -> Decree {
    Decree::new(ruling, "a test")
}

/// AUDIT-6: what is decided is said where it is recorded; a region without room is levelled later.
#[test]
fn what_is_decided_goes_where_there_is_room() {
    for full in 0..2 {
        let world = World::new(2);
        let ids = [1, 2].map(|seed| backup(&world, tree(seed).path()));
        let before = (names(&world, full, "audit/"), names(&world, full, "packs/"));
        fill(&world, full);
        let no_room = put(&open(&world), &BTreeSet::from([ids[0]]), &forget(Ruling::Forget)).unwrap();
        assert_eq!(no_room.keys().collect::<Vec<_>>(), [&full]);
        let no_room = put(&open(&world), &BTreeSet::from([ids[1]]), &forget(Ruling::Hold)).unwrap();
        assert_eq!(no_room.keys().collect::<Vec<_>>(), [&full]);
        let tags = BTreeSet::from(["kept".to_owned()]);
        let no_room = set_tags(&open(&world), ids[1], &BTreeSet::new(), tags).unwrap().no_room;
        assert_eq!(no_room.keys().collect::<Vec<_>>(), [&full]);
        assert_eq!(world.ids(&world.all()), [ids[1]]);
        // Keys change everywhere or nowhere.
        let roster = names(&world, 1 - full, "roster/");
        let refused = open(&world).add_slot(Role::Writer, "w", &Wrapping::Recipient(crate::fixture::identity().1));
        let Err(RepoError::Store { region, source }) = refused else { panic!("{refused:?}") };
        assert_eq!((region, source.kind), (format!("r{full}"), StoreErrorKind::Full));
        assert_eq!(names(&world, 1 - full, "roster/"), roster);
        // The others are collected; in this one nothing is deleted, for nothing can be recorded there.
        let report = run(&world, &at_once());
        for (at, region) in report.regions.iter().enumerate() {
            match &region.failure {
                None => assert!(at != full && !region.finished.is_empty(), "{region:?}"),
                Some(error) => assert!(at == full && error.is_lack_of_room(), "{error}"),
            }
        }
        for _ in 0..2 {
            run(&world, &at_once());
        }
        assert!(names(&world, 1 - full, "packs/").len() < before.1.len());
        assert_eq!((names(&world, full, "audit/"), names(&world, full, "packs/")), before);
        // Nor does a replication end at it.
        let no_room = merge(&open(&world)).unwrap().no_room;
        assert_eq!(no_room.keys().collect::<Vec<_>>(), [&full]);
        let snapshots = list_all(&open(&world)).unwrap().snapshots;
        let done = keepstone::replicate::replicate(
            &open(&world),
            &snapshots,
            keepstone::replicate::Depth::Commits,
            None,
            1 << 20,
            &Silent,
        )
        .unwrap();
        assert!(done.behind.contains_key(&full) && !done.issues.is_empty(), "{done:?}");

        world.stores[full].revive();
        let behind = audit::read(&open(&world)).unwrap().findings;
        assert!(behind.iter().all(|finding| finding.kind == FindingKind::Behind) && !behind.is_empty(), "{behind:?}");
        let merged = merge(&open(&world)).unwrap();
        assert!(merged.copied > 0 && merged.no_room.is_empty());
        let done = keepstone::replicate::replicate(
            &open(&world),
            &[],
            keepstone::replicate::Depth::Commits,
            None,
            1 << 20,
            &Silent,
        )
        .unwrap();
        assert_eq!((done.decisions, done.issues.len()), (3, 0));
        assert_eq!(audit::read(&world.open(&[full]).unwrap()).unwrap().findings, []);
        for _ in 0..3 {
            assert!(run(&world, &at_once()).regions.iter().all(|region| region.failure.is_none()));
        }
        assert_eq!(names(&world, full, "packs/"), names(&world, 1 - full, "packs/"));
        assert_eq!(world.list(&[full]).snapshots[0].tags, ["kept"]);
    }
}

#[test]
fn where_no_region_has_room_nothing_is_decided() {
    let world = World::new(2);
    let id = backup(&world, tree(1).path());
    (0..2).for_each(|at| fill(&world, at));
    let refused = put(&open(&world), &BTreeSet::from([id]), &forget(Ruling::Forget)).unwrap_err();
    assert!(matches!(&refused, RepoError::Store { source, .. } if source.kind == StoreErrorKind::Full), "{refused}");
    assert_eq!(world.ids(&[0, 1]), [id]);
}

/// Packs that finals list as deleted are still there, and the region is full: they go, and with the room so made the
/// collection goes on.
#[test]
fn what_a_final_lists_is_freed_before_anything_is_put() {
    for lasting in [true, false] {
        let world = World::new(1);
        let id = backup(&world, tree(1).path());
        let kept = tree(2);
        backup(&world, kept.path());
        put(&open(&world), &BTreeSet::from([id]), &forget(Ruling::Forget)).unwrap();
        let denied = Trigger::on(Operation::Delete).under("packs/");
        world.stores[0].inject(denied, Fault::Fail(StoreErrorKind::Denied));
        while run(&world, &at_once()).regions[0].deferred.packs == 0 {}
        // A generation is open, so that the next run begins with something to put.
        let more = backup(&world, tree(3).path());
        put(&open(&world), &BTreeSet::from([more]), &forget(Ruling::Forget)).unwrap();
        assert!(run(&world, &quick()).regions[0].open.is_some());
        world.stores[0].revive();
        let before = names(&world, 0, "packs/").len();
        let full = Trigger::on(Operation::Put);
        let full = if lasting { full } else { full.times(1) };
        world.stores[0].inject(full, Fault::Fail(StoreErrorKind::Full));
        let report = run(&world, &quick());
        let region = &report.regions[0];
        assert!(region.deleted.packs > 0 && names(&world, 0, "packs/").len() < before, "{region:?}");
        assert_eq!(region.deleted.packs, region.deleted_packs.len() as u64);
        assert_eq!(region.failure.as_ref().is_some_and(|error| error.is_lack_of_room()), lasting, "{region:?}");
        world.stores[0].revive();
        let left = world.ids(&[0]);
        world.assert_restores(&[0], left[0], kept.path(), 0);
    }
}

/// No room to take out of mostly dead packs what is needed: what is dead as a whole goes all the same.
#[test]
fn what_is_dead_goes_where_nothing_can_be_moved() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    (0..12).for_each(|at| drop(write(source.path(), &format!("{at}"), &noise(at, 40_000))));
    let thin = backup(&world, source.path());
    (0..11).for_each(|at| std::fs::remove_file(source.path().join(format!("{at}"))).unwrap());
    let kept = backup(&world, source.path());
    let dead = backup(&world, tree(9).path());
    put(&open(&world), &BTreeSet::from([thin, dead]), &forget(Ruling::Forget)).unwrap();
    let options = GcOptions { max_unused: MaxUnused::Bytes(0), ..at_once() };
    world.stores[0].inject(Trigger::on(Operation::Put).under("packs/"), Fault::Fail(StoreErrorKind::Full));
    let (mut deleted, mut notices) = (0, Vec::new());
    for _ in 0..4 {
        let report = run(&world, &options);
        assert!(report.regions[0].failure.is_none(), "{:?}", report.regions[0].failure);
        deleted += report.regions[0].deleted.packs;
        notices.extend(report.regions[0].notices.clone());
    }
    assert!(deleted > 0 && notices.iter().any(|notice| notice.contains("mostly dead")), "{deleted}, {notices:?}");
    world.stores[0].revive();
    let before: u64 = list_sorted(&world.stores[0].inner().memory, "packs/").unwrap().iter().map(|at| at.size).sum();
    for _ in 0..3 {
        run(&world, &options);
    }
    let after: u64 = list_sorted(&world.stores[0].inner().memory, "packs/").unwrap().iter().map(|at| at.size).sum();
    assert!(after < before / 2, "{before} to {after}");
    world.assert_restores(&[0], kept, source.path(), 0);
}

#[test]
fn the_program_goes_on_without_a_full_region() {
    let program = Program::new();
    program.write("a", &noise(1, 300_000));
    let first = id(&program.backup(&[]));
    program.write("a", &noise(2, 300_000));
    let second = id(&program.backup(&[]));
    let small = program.path("small");
    let Some(mounted) = Mounted::tmpfs(&small, "size=4m") else { return };
    let file = program.path("keepstone.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str(&format!("\n[[regions]]\nname = 'small'\nurl = '{}'\n", small.join("region").display()));
    text.push_str("\n[retention]\nforget_window = '1ns'\nminimum_copies = 0\n");
    std::fs::write(&file, text).unwrap();
    program.run(["region", "add", "small"]).expect(0);
    program.run(["replicate"]).expect(0);
    // To the last byte.
    let fill = small.join("fill");
    let mut filling = std::fs::File::create(&fill).unwrap();
    while std::io::Write::write(&mut filling, &[0; 4096]).is_ok_and(|written| written > 0) {}
    // Open, it would keep its blocks.
    drop(filling);
    for arguments in [&["forget", &first][..], &["hold", &second, "--reason", "r"], &["tag", &second, "--add", "x"]] {
        let ended = program.run(arguments).expect(3);
        assert!(
            ended.stderr.contains("region 'small' takes no part") && ended.stderr.contains("replicate"),
            "{}",
            ended.stderr
        );
    }
    program.run(["release", &second]).expect(3);
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let refused = program.run(["--json", "key", "add", "--recipient", &recipient]).expect(14).error();
    assert!(refused["message"].as_str().unwrap().contains("small"), "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("quota"), "{refused}");
    let packs = program.bytes("one/packs");
    for _ in 0..3 {
        let report = program.run(["--json", "gc", "--now"]).expect(14).json();
        for region in report["regions"].as_array().unwrap() {
            assert_eq!(region["failure"].is_null(), region["name"] != "small", "{region}");
        }
    }
    assert!(program.bytes("one/packs") < packs, "nothing was collected");
    program.backup_ending(3, &[]);
    // Room again.
    std::fs::remove_file(fill).unwrap();
    program.run(["replicate"]).expect(0);
    program.run(["gc", "--now"]).expect(0);
    program.run(["audit"]).expect(0);
    program.run(["check", "--read-data"]).expect(0);
    drop(mounted);
}

//! What one region holds is judged by its own bytes, or at least its own names and sizes, and never by another region:
//! what is damaged or gone in one of them is told, and given the bytes that another one has.

use crate::fixture::{World, assert_same, noise, write};
use crate::program::Program;
use keepstone::check::{self, check};
use keepstone::format::ids::SnapshotId;
use keepstone::format::roster::Role;
use keepstone::index::{Index, MemoryIndex};
use keepstone::replicate::{Depth, Replicated, replicate};
use keepstone::repo::snapshots::list;
use keepstone::repo::sync::sync;
use keepstone::report::{IssueKind, Silent};
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Cut,
    Emptied,
    Flipped,
    Gone,
}

impl Harm {
    fn of(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let half = bytes.len() / 2;
        match self {
            Harm::Cut => Some(bytes[..half].to_vec()),
            Harm::Emptied => Some(Vec::new()),
            Harm::Flipped => Some([&bytes[..half], &[bytes[half] ^ 1], &bytes[half + 1..]].concat()),
            Harm::Gone => None,
        }
    }

    /// To each object of a region whose name begins so; gives how many there are.
    fn befalls(self, world: &World, at: usize, prefix: &str) -> u64 {
        let found = names(world, at, prefix);
        self.befalls_named(world, at, &found);
        assert!(!found.is_empty(), "nothing under {prefix}");
        found.len() as u64
    }

    fn befalls_named<'a>(self, world: &World, at: usize, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            let bytes = memory(world, at).get(name, 1 << 30).unwrap();
            memory(world, at).delete(name).unwrap();
            if let Some(bytes) = self.of(&bytes) {
                memory(world, at).put_new(name, &bytes.into()).unwrap();
            }
        }
    }

    /// To each file below a directory of the program's home.
    fn befalls_files(self, program: &Program, directory: &str) -> Vec<PathBuf> {
        let files = files_below(&program.path(directory));
        for file in &files {
            match self.of(&std::fs::read(file).unwrap()) {
                Some(bytes) => std::fs::write(file, bytes).unwrap(),
                None => std::fs::remove_file(file).unwrap(),
            }
        }
        assert!(!files.is_empty(), "nothing below {directory}");
        files
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn names(world: &World, at: usize, prefix: &str) -> Vec<String> {
    list_sorted(memory(world, at), prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

fn memory(world: &World, at: usize) -> &MemoryStore {
    &world.stores[at].inner().memory
}

fn source(seed: u64) -> TempDir {
    let source = tempfile::tempdir().unwrap();
    (0..4).for_each(|at| drop(write(source.path(), &format!("{at}"), &noise(seed + at, 30_000))));
    source
}

fn replicated(world: &World) -> Replicated {
    let repository = world.open(&world.all()).unwrap();
    let listing = list(&repository).unwrap();
    replicate(&repository, &listing.snapshots, Depth::Content, None, 64 << 20, &Silent).unwrap()
}

/// Each region by itself: nothing is damaged, and these come back as they were.
fn assert_whole_alone(world: &World, snapshots: &[(SnapshotId, &Path)]) {
    for at in world.all() {
        let options = check::Options { read_data: Some(check::Subset::All), ..check::Options::default() };
        let report = check(&world.open(&[at]).unwrap(), None, &options, &Silent).unwrap();
        assert!(report.is_sound(), "region {at}: {:?}", report.issues);
        assert_eq!(world.ids(&[at]).len(), snapshots.len(), "region {at}");
        for (id, source) in snapshots {
            world.assert_restores(&[at], *id, source, 0);
        }
    }
}

/// A program with two snapshots; the first one's id, and what it holds.
fn two_snapshots() -> (Program, String, TempDir) {
    let (program, before) = (Program::new(), tempfile::tempdir().unwrap());
    (0..4u64).for_each(|at| drop(program.write(&at.to_string(), &noise(1 + at, 30_000))));
    let first = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    let copied = std::process::Command::new("cp").arg("-a").arg(program.source().join(".")).arg(before.path()).status();
    assert!(copied.unwrap().success());
    program.write("0", &noise(9, 30_000));
    program.backup(&[]);
    (program, first, before)
}

fn assert_restores_alone(program: &Program, region: &str, id: &str, source: &Path) {
    let to = tempfile::tempdir().unwrap();
    let (to, cache) = (to.path().join("to").display().to_string(), to.path().join("cache").display().to_string());
    program.run(["--region", region, "--cache-dir", &cache, "restore", id, "--to", &to, "--verify"]).expect(0);
    assert_same(source, Path::new(&to));
}

/// HEAL-2: by a backup, which sees sizes, and by a replication, which reads; with the cache and without it.
#[test]
fn heal_2_damaged_segments_get_their_right_bytes() {
    for region in ["one", "two"] {
        for keeps_cache in [true, false] {
            for (harm, command) in [
                (Harm::Cut, "backup"),
                (Harm::Emptied, "backup"),
                (Harm::Cut, "replicate"),
                (Harm::Emptied, "replicate"),
                (Harm::Flipped, "replicate"),
            ] {
                let (program, first, before) = two_snapshots();
                harm.befalls_files(&program, &format!("{region}/index"));
                if !keeps_cache {
                    std::fs::remove_dir_all(program.path("cache")).unwrap();
                }
                let source = program.source().display().to_string();
                let run = || match command {
                    "backup" => program.run(["backup", &source]),
                    _ => program.run(["replicate"]),
                };
                let told = format!("damaged: {region}:index/");
                let ended = run().expect(0);
                assert!(ended.stderr.contains(&told), "{region} {harm:?} {command}: {}", ended.stderr);
                assert_restores_alone(&program, region, &first, before.path());
                assert_restores_alone(&program, region, "latest", &program.source());
                let ended = run().expect(0);
                assert!(!ended.stderr.contains("index/"), "{region} {harm:?} {command}: {}", ended.stderr);
                program.run(["check", "--read-data"]).expect(0);
            }
        }
    }
}

/// The only copy: told by every run until it is made up for, whatever the cache knows.
#[test]
fn a_segment_that_no_region_has_whole_is_told_each_time() {
    for harm in [Harm::Cut, Harm::Emptied] {
        let (program, ..) = two_snapshots();
        harm.befalls_files(&program, "two/index");
        let source = program.source().display().to_string();
        for _ in 0..3 {
            for arguments in [&["backup", &source][..], &["replicate"]] {
                let ended = program.run([&["--region", "two"], arguments].concat()).expect(11);
                assert!(ended.stderr.contains("damaged: two:index/"), "{}", ended.stderr);
            }
        }
    }
}

#[test]
fn a_segment_of_another_size_leaves_the_index_of_its_region_alone() {
    for at in [0, 1] {
        let (world, source) = (World::new(2), source(1));
        world.backup(&[0, 1], source.path(), 0).unwrap();
        let repository = world.open(&[0, 1]).unwrap();
        let index = MemoryIndex::new();
        assert_eq!(sync(&repository, &index, &Silent).unwrap().len(), 0);
        let count = Harm::Cut.befalls(&world, at, "index/");
        for _ in 0..2 {
            let issues = sync(&repository, &index, &Silent).unwrap();
            assert_eq!(issues.len() as u64, count, "{issues:?}");
            assert!(issues.iter().all(|issue| issue.kind == IssueKind::Damaged));
            let [here, there] = [at, 1 - at].map(|at| repository.regions[at].info.region);
            assert_eq!(index.doubted().unwrap().into_iter().collect::<Vec<_>>(), [here]);
            assert_eq!(index.segments(here).unwrap().len(), 0);
            assert_eq!(index.segments(there).unwrap().len() as u64, count);
        }
    }
}

#[test]
fn heal_2_of_three_regions_each_gets_what_any_has() {
    let (world, source) = (World::new(3), source(1));
    let id = world.backup(&[0, 1, 2], source.path(), 0).unwrap().snapshot.unwrap();
    let mut count = 0;
    for (at, harm) in [(0, Harm::Cut), (1, Harm::Flipped)] {
        count += harm.befalls(&world, at, "index/");
    }
    let done = replicated(&world);
    assert_eq!((done.healed, done.packs, done.issues.len(), done.whole.len()), (count, 0, 0, 3), "{:?}", done.issues);
    assert_whole_alone(&world, &[(id, source.path())]);
    // Nobody's copy is taken for another's where none is whole.
    for at in world.all() {
        Harm::Flipped.befalls(&world, at, "index/");
    }
    let done = replicated(&world);
    assert!(done.healed == 0 && done.whole.is_empty() && done.lost.len() == 3, "{:?}", done.whole);
}

/// HEAL-2: where nothing may be replaced, other segments list what the region's snapshots need; the damaged ones are
/// told all the same.
#[test]
fn heal_2_what_may_not_be_replaced_is_made_up_for() {
    for (harm, role) in [(Harm::Cut, Role::Owner), (Harm::Flipped, Role::Maintainer), (Harm::Cut, Role::Writer)] {
        let (world, source) = (World::new(2), source(1));
        let (_, identity) = world.add_slot(role, "other");
        let theirs = world.as_slot(&identity);
        let backing_up = if role == Role::Writer { &theirs } else { &world };
        let id = backing_up.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
        harm.befalls(&world, 1, "index/");
        world.stores[1].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
        for run in 0..2 {
            let done = replicated(&theirs);
            assert_eq!((done.healed, done.segments > 0, done.whole.len()), (0, run == 0, 2), "{role:?}");
            assert!(done.is_damaged() && done.issues.len() == 1, "{:?}", done.issues);
            assert!(done.issues[0].detail.contains("may not replace it"), "{}", done.issues[0].detail);
            // Nothing else is wrong with the region.
            let report = check(&world.open(&[1]).unwrap(), None, &check::Options::default(), &Silent).unwrap();
            assert_eq!((report.issues.len(), world.ids(&[1])), (1, vec![id]), "{:?}", report.issues);
        }
        world.stores[1].revive();
        let done = replicated(&world);
        assert_eq!((done.healed > 0, done.issues.len()), (true, 0), "{:?}", done.issues);
        assert_whole_alone(&world, &[(id, source.path())]);
    }
}

/// COUNT-4, HEAL-2: a snapshot that lies in one of its regions only isn't said to be in both, and comes back.
#[test]
fn count_4_a_lost_or_damaged_snapshot_is_told_and_put_back() {
    for region in ["one", "two"] {
        for (harm, command) in [
            (Harm::Gone, "backup"),
            (Harm::Cut, "backup"),
            (Harm::Gone, "replicate"),
            (Harm::Emptied, "replicate"),
            (Harm::Flipped, "replicate"),
        ] {
            let (program, first, before) = two_snapshots();
            // From here on this client knows both whole.
            program.run(["snapshots"]).expect(0);
            harm.befalls_files(&program, &format!("{region}/snapshots"));
            let told = format!("{region}:snapshots/");
            let is_seen = harm != Harm::Flipped;
            program.run(["check"]).expect(11);
            let ended = program.run(["--json", "snapshots"]).expect(if is_seen { 11 } else { 0 });
            assert_eq!(ended.stderr.contains(&told), is_seen, "{}", ended.stderr);
            let listed = ended.json();
            let regions = |info: &serde_json::Value| info["regions"].to_string();
            let counts: Vec<String> = listed.as_array().unwrap().iter().map(regions).collect();
            assert_eq!(counts.iter().all(|regions| !regions.contains(region)), is_seen, "{counts:?}");
            let source = program.source().display().to_string();
            let run = || match command {
                "backup" => program.run(["backup", &source]),
                _ => program.run(["replicate"]),
            };
            let ended = run().expect(0);
            assert!(ended.stderr.contains(&told), "{region} {harm:?} {command}: {}", ended.stderr);
            assert_restores_alone(&program, region, &first, before.path());
            assert_restores_alone(&program, region, "latest", &program.source());
            let ended = run().expect(0);
            assert!(!ended.stderr.contains("snapshots/"), "{region} {harm:?} {command}: {}", ended.stderr);
            program.run(["check"]).expect(0);
            program.run(["--region", region, "gc"]).expect(0);
        }
    }
}

/// So does one that is forgotten, which its window promises to bring back from each region.
#[test]
fn heal_2_a_forgotten_snapshot_comes_back_until_it_is_collected() {
    for command in ["backup", "replicate"] {
        for harm in [Harm::Gone, Harm::Cut] {
            let (program, first, before) = two_snapshots();
            program.run(["forget", &first]).expect(0);
            harm.befalls_files(&program, "two/snapshots");
            let source = program.source().display().to_string();
            let run = || match command {
                "backup" => program.run(["backup", &source]),
                _ => program.run(["replicate"]),
            };
            let ended = run().expect(0);
            assert!(ended.stderr.contains("two:snapshots/"), "{harm:?} {command}: {}", ended.stderr);
            assert!(!run().expect(0).stderr.contains("snapshots/"), "{harm:?} {command}");
            program.run(["unforget", &first]).expect(0);
            assert_restores_alone(&program, "two", &first, before.path());
        }
    }
}

/// Where no region has it whole it is told each time, and nothing says that all is held.
#[test]
fn count_4_a_snapshot_that_no_region_has_whole_is_told_each_time() {
    let (program, first, _) = two_snapshots();
    for (region, harm) in [("one", Harm::Gone), ("two", Harm::Cut)] {
        harm.befalls_files(&program, &format!("{region}/snapshots"));
    }
    let source = program.source().display().to_string();
    for arguments in [&["replicate"][..], &["backup", &source], &["replicate"]] {
        let ended = program.run(arguments).expect(11);
        assert!(
            ended.stderr.contains("two:snapshots/") && !ended.stdout.contains("regions hold all"),
            "{}",
            ended.stdout
        );
    }
    program.run(["restore", &first, "--to", "out"]).expect(12);
    program.run(["restore", "latest", "--to", "out", "--verify"]).expect(11);
}

/// COLLECT-1, COUNT-4: a lost object, or a thief's commit that names nothing, ends with a verdict under its id.
#[test]
fn what_no_region_has_whole_can_be_given_up() {
    for harm in [Harm::Gone, Harm::Emptied] {
        let (program, first, _) = two_snapshots();
        for region in ["one", "two"] {
            let path = program.path(&format!("{region}/snapshots/{first}"));
            match harm {
                Harm::Gone => std::fs::remove_file(path).unwrap(),
                _ => std::fs::write(path, b"").unwrap(),
            }
        }
        let source = program.source().display().to_string();
        let told = program.run(["snapshots"]).expect(11).stderr;
        assert!(told.contains(&format!("keepstone forget {first}")) && told.contains("one:commits/"), "{told}");
        program.run(["backup", &source]).expect(11);
        program.run(["gc", "--now"]).expect(11);
        program.run(["forget", &first[..12]]).expect(12);
        // Another region may have it; and a hold is a hold.
        program.run(["--region", "one", "forget", &first]).expect(14);
        program.run(["hold", &first, "--reason", "evidence"]).expect(11);
        program.run(["forget", &first]).expect(2);
        program.run(["release", &first]).expect(11);
        program.run(["forget", &first, "--dry-run"]).expect(11);
        program.run(["forget", &first]).expect(0);
        program.run(["forget", &first]).expect(12);
        program.run(["unforget", &first]).expect(12);
        let told = program.run(["snapshots"]).expect(0).stderr;
        assert!(told.contains(&first) && told.contains("can't be brought back"), "{told}");
        program.run(["check"]).expect(0);
        program.run(["backup", &source]).expect(0);
        program.run(["restore", "latest", "--to", program.path("out").to_str().unwrap()]).expect(0);
        let path = program.path("keepstone.toml");
        let settings = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{settings}\n[retention]\nforget_window = '1ns'\n")).unwrap();
        (0..4).for_each(|_| drop(program.run(["gc", "--now"]).expect(0)));
        program.run(["replicate"]).expect(0);
        program.run(["forget", &first]).expect(12);
    }
}

/// Of three regions, one that may not be changed: the others come back, and it is told.
#[test]
fn count_4_of_three_regions_each_gets_the_snapshots_back() {
    for harm in [Harm::Gone, Harm::Cut, Harm::Flipped] {
        let (world, source) = (World::new(3), source(1));
        let id = world.backup(&[0, 1, 2], source.path(), 0).unwrap().snapshot.unwrap();
        harm.befalls(&world, 0, "snapshots/");
        harm.befalls(&world, 2, "snapshots/");
        for operation in [Operation::Heal, Operation::Put] {
            world.stores[2].inject(Trigger::on(operation).under("snapshots/"), Fault::Fail(StoreErrorKind::Denied));
        }
        let done = replicated(&world);
        assert_eq!((done.healed, done.issues.len(), done.commits), (1, 1, 0), "{:?}", done.issues);
        assert!(done.is_damaged(), "{:?}", done.issues);
        world.stores[2].revive();
        let done = replicated(&world);
        assert_eq!((done.healed, done.issues.len(), done.commits), (1, 0, 0), "{:?}", done.issues);
        assert_whole_alone(&world, &[(id, source.path())]);
    }
}

/// COLLECT-11: what one slot lists is no other slot's copy, whatever it is worth.
#[test]
fn what_another_slot_claims_to_hold_replaces_nothing() {
    for lies in [true, false] {
        let (world, source) = (World::new(2), source(1));
        let (_, identity) = world.add_slot(Role::Writer, "writer");
        let theirs = world.as_slot(&identity);
        theirs.backup(&[0, 1], source.path(), 0).unwrap();
        let of_writer: Vec<String> = ["packs/", "index/"].map(|prefix| names(&world, 1, prefix)).concat();
        let id = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
        let all: Vec<String> = ["packs/", "index/"].map(|prefix| names(&world, 1, prefix)).concat();
        if lies {
            // In its size, with bytes that aren't what the segment states: as a writer may store them.
            Harm::Flipped.befalls_named(&world, 1, of_writer.iter().filter(|name| name.starts_with("packs/")));
        }
        let lost: Vec<&String> = all.iter().filter(|name| !of_writer.contains(name)).collect();
        assert!(lost.len() >= 2);
        Harm::Gone.befalls_named(&world, 1, lost.iter().copied());
        let done = replicated(&world);
        assert!(done.packs > 0 && done.issues.is_empty(), "{:?}", done.issues);
        assert!(
            lost.iter().filter(|name| name.starts_with("packs/")).all(|name| names(&world, 1, "packs/").contains(name))
        );
        assert_eq!(replicated(&world).packs, 0, "and then no more");
        world.assert_restores(&[1], id, source.path(), 0);
        assert_eq!(world.ids(&[1]).len(), 2);
    }
}

/// HEAL-2: without its newest roster a region doesn't open alone.
#[test]
fn heal_2_a_damaged_roster_gets_its_right_bytes() {
    for region in ["one", "two"] {
        for (harm, command) in [
            (Harm::Cut, "backup"),
            (Harm::Flipped, "backup"),
            (Harm::Emptied, "replicate"),
            (Harm::Flipped, "replicate"),
        ] {
            let (program, first, before) = two_snapshots();
            program.add_slot("writer");
            harm.befalls_files(&program, &format!("{region}/roster"));
            let source = program.source().display().to_string();
            let ended = match command {
                "backup" => program.run(["backup", &source]).expect(0),
                _ => program.run(["replicate"]).expect(0),
            };
            let told = format!("region '{region}' held damaged rosters");
            assert!(ended.stderr.contains(&told), "{region} {harm:?} {command}: {}", ended.stderr);
            assert_restores_alone(&program, region, &first, before.path());
            program.run(["check"]).expect(0);
            let ended = program.run(["replicate"]).expect(0);
            assert!(!ended.stderr.contains("roster"), "{}", ended.stderr);
        }
    }
}

#[test]
fn heal_2_a_roster_that_may_not_be_replaced_is_told() {
    let (world, source) = (World::new(3), source(1));
    world.backup(&[0, 1, 2], source.path(), 0).unwrap();
    Harm::Cut.befalls(&world, 1, "roster/");
    Harm::Cut.befalls(&world, 2, "roster/");
    world.stores[1].inject(Trigger::on(Operation::Heal), Fault::Fail(StoreErrorKind::Denied));
    let done = replicated(&world);
    assert_eq!((done.healed, done.issues.len()), (1, 1), "{:?}", done.issues);
    assert!(done.is_damaged() && done.issues[0].detail.contains("owner's `keepstone replicate`"), "{:?}", done.issues);
    world.open(&[2]).unwrap();
    assert!(world.open(&[1]).is_err());
    world.stores[1].revive();
    assert_eq!(replicated(&world).healed, 1);
    world.open(&[1]).unwrap();
}

/// HEAL-2: a hold and tags that one region holds damaged, wherever it stands in the list.
#[test]
fn heal_2_damaged_verdicts_and_tags_are_told_and_put_back() {
    for region in ["one", "two"] {
        for (harm, command) in
            [(Harm::Cut, "backup"), (Harm::Cut, "replicate"), (Harm::Flipped, "replicate"), (Harm::Gone, "replicate")]
        {
            let (program, first, _) = two_snapshots();
            program.run(["hold", &first, "--reason", "court"]).expect(0);
            program.run(["tag", &first, "--add", "kept"]).expect(0);
            for prefix in ["verdicts", "tags"] {
                harm.befalls_files(&program, &format!("{region}/{prefix}"));
                if harm != Harm::Gone {
                    let ended = program.run(["check"]).expect(11);
                    assert!(ended.stderr.contains(&format!("{region}:{prefix}/")), "{}", ended.stderr);
                }
            }
            let source = program.source().display().to_string();
            let ended = match command {
                "backup" => program.run(["backup", &source]).expect(0),
                _ => program.run(["replicate"]).expect(0),
            };
            assert!(harm == Harm::Gone || ended.stderr.contains(&format!("{region}:verdicts/")), "{}", ended.stderr);
            program.run(["check"]).expect(0);
            let listed = program.run(["--region", region, "--json", "snapshots"]).expect(0).json().to_string();
            assert!(listed.contains("court") && listed.contains("kept"), "{listed}");
            assert!(!program.run(["replicate"]).expect(0).stderr.contains("verdicts/"));
        }
    }
}

/// GC-4: one damaged object of a region's collection log keeps writers out of that region, and nobody from reading there;
/// the other regions go on.
#[test]
fn gc_4_a_damaged_log_closes_its_region_and_hides_nothing() {
    for (region, other) in [("one", "two"), ("two", "one")] {
        for part in ["condemn", "final"] {
            let (program, first, before) = two_snapshots();
            program.run(["gc"]).expect(0);
            if part == "final" {
                program.write("1", &noise(11, 30_000));
                program.backup(&[]);
                (0..3).for_each(|_| drop(program.run(["gc", "--now"]).expect(0)));
            }
            let log: Vec<PathBuf> = files_below(&program.path(&format!("{region}/gc")));
            let mut named = log.iter().filter(|file| file.ends_with(part));
            let damaged = named.next().unwrap_or_else(|| panic!("no {part} in {log:?}"));
            let bytes = std::fs::read(damaged).unwrap();
            std::fs::write(damaged, Harm::Flipped.of(&bytes).unwrap()).unwrap();
            let told = format!("damaged: {region}:gc/");
            let closed = format!("region '{region}' takes no part: its collection log is damaged");
            let source = program.source().display().to_string();

            // Who reads goes on, and is told.
            for arguments in [&["snapshots"][..], &["ls", "latest"], &["check"], &["stats"]] {
                let ended = program.run(arguments);
                assert!(
                    ended.stderr.contains(&told) && matches!(ended.code, Some(0 | 11)),
                    "{arguments:?}: {}",
                    ended.stderr
                );
            }
            assert_eq!(program.run(["snapshots"]).code, Some(11));
            let to = program.path("out").display().to_string();
            program.run(["restore", &first, "--to", &to, "--verify"]).expect(0);
            assert_same(before.path(), Path::new(&to));

            // Who writes does so in the other region.
            let ended = program.run(["--json", "backup", &source]).expect(11);
            assert!(ended.stderr.contains(&closed), "{}", ended.stderr);
            let committed = |name: &str| {
                let document = ended.json();
                let mut regions = document["regions"].as_array().unwrap().clone().into_iter();
                regions.any(|region| region["name"] == name && region["committed"] == true)
            };
            assert!(committed(other) && !committed(region));
            assert!(program.run(["hold", &first, "--reason", "x"]).expect(11).stderr.contains(&closed));
            program.run(["release", &first]).expect(11);
            assert!(program.run(["forget", &first]).expect(11).stderr.contains(&closed));
            let ended = program.run(["replicate"]).expect(11);
            assert!(ended.stderr.contains(&told) && !ended.stdout.contains("regions hold all"), "{}", ended.stdout);
            program.run(["gc"]).expect(11);

            // Alone it can be read, and not written.
            program.run(["--region", region, "restore", "latest", "--to", &format!("{to} 2")]).expect(11);
            let ended = program.run(["--region", region, "backup", &source]).expect(11);
            assert!(ended.stderr.contains("keepstone region add"), "{}", ended.stderr);
        }
    }
}

/// The remedy that is told, where the region is the only one that is left: another one, filled from it.
#[test]
fn a_region_with_a_damaged_log_fills_another_one() {
    let (program, first, before) = two_snapshots();
    program.run(["gc"]).expect(0);
    let log = files_below(&program.path("two/gc"));
    let bytes = std::fs::read(&log[0]).unwrap();
    std::fs::write(&log[0], Harm::Flipped.of(&bytes).unwrap()).unwrap();
    std::fs::remove_dir_all(program.path("one")).unwrap();
    std::fs::create_dir(program.path("one")).unwrap();
    program.run(["region", "add", "one"]).expect(0);
    let ended = program.run(["replicate"]).expect(11);
    assert!(ended.stderr.contains("damaged: two:gc/"), "{}", ended.stderr);
    assert_restores_alone(&program, "one", &first, before.path());
    assert_restores_alone(&program, "one", "latest", &program.source());
    let source = program.source().display().to_string();
    program.run(["--region", "one", "backup", &source]).expect(3);
    program.run(["--region", "one", "check", "--read-data"]).expect(0);
}

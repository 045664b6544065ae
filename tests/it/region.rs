//! Regions that are made in empty stores: in the place of lost ones, and beside the others. And what is refused
//! or told before anything is written.

use crate::fixture::{World, noise, write};
use crate::program::{Ended, Program, id, signal};
use keepstone::format::audit::Action;
use keepstone::repo::{RegionSpec, RepoError, audit};
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, list_sorted};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;

fn names(store: &MemoryStore) -> Vec<String> {
    list_sorted(store, "").unwrap().into_iter().map(|listed| listed.name).collect()
}

fn wipe(store: &MemoryStore) {
    names(store).iter().for_each(|name| store.delete(name).unwrap());
}

fn spec(world: &World) -> RegionSpec {
    world.specs(&[1]).remove(0)
}

fn is_occupied(added: Result<impl Sized, RepoError>, what: &str) {
    match added {
        Err(RepoError::AlreadyARepository { found, .. }) => assert!(found.contains(what), "{found}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was added over {what}"),
    }
}

#[test]
fn what_an_init_left_that_did_not_end_is_no_empty_store() {
    let program = Program::new();
    let rosters = program.path("one/roster");
    let other = Program::bare();
    std::fs::create_dir_all(other.path("one")).unwrap();
    assert!(std::process::Command::new("cp").arg("-r").args([rosters, other.path("one")]).status().unwrap().success());
    let recipient = std::fs::read_to_string(other.path("recipient")).unwrap();
    let arguments = ["--region", &other.region("one"), "init", "--recipient", &recipient];
    let refused = other.run(arguments).expect(2);
    assert!(refused.stderr.contains("perhaps an init did not end"), "{}", refused.stderr);
    std::fs::remove_dir_all(other.path("one/roster")).unwrap();
    other.run(arguments).expect(0);
}

#[test]
fn a_lost_region_is_made_again_and_filled() {
    let program = Program::new();
    program.write("file", &noise(1, 300_000));
    program.add_slot("writer");
    let first = id(&program.backup(&[]));
    program.run(["check", "--read-data"]).expect(0);
    program.run(["tag", &first, "--add", "kept"]).expect(0);
    std::fs::remove_dir_all(program.path("two")).unwrap();
    std::fs::create_dir(program.path("two")).unwrap();
    let missing = program.run(["--region", "two", "snapshots"]).expect(12);
    assert!(missing.stderr.contains("keepstone region add two"), "{}", missing.stderr);
    // Only an owner's key makes a region, and none is made by itself.
    let refused = program.run_as("writer", ["region", "add", "two"]).expect(10);
    assert!(refused.stderr.contains("a writer slot may not add a region"), "{}", refused.stderr);
    let alone = program.run(["--region", "two", "region", "add", "two"]).expect(2);
    assert!(alone.stderr.contains("no other region than 'two' is named"), "{}", alone.stderr);
    program.run(["region", "add", "three"]).expect(2);
    assert!(program.listing("two").is_empty());

    let made = program.run(["--json", "region", "add", "two"]).expect(0).json();
    assert_eq!((&made["region"]["name"], &made["configured"]), (&"two".into(), &true.into()));
    assert_eq!(
        std::fs::read(program.path("one/config")).unwrap(),
        std::fs::read(program.path("two/config")).unwrap(),
        "the same bytes"
    );
    assert_eq!(
        std::fs::read_dir(program.path("two/attest")).unwrap().count(),
        1,
        "what was vouched for is, there, too"
    );
    let again = program.run(["region", "add", "two"]).expect(2);
    assert!(again.stderr.contains("already holds a repository (there is config)"), "{}", again.stderr);

    let copied = program.run(["--json", "replicate"]).expect(0).json();
    assert_eq!((&copied["commits"], &copied["decisions"]), (&1.into(), &1.into()), "{copied}");
    assert_eq!(copied["issues"], serde_json::json!([]));
    let nothing = program.run(["--json", "replicate"]).expect(0).json();
    assert_eq!((&nothing["commits"], &nothing["packs"], &nothing["decisions"]), (&0.into(), &0.into(), &0.into()));

    // The new region stands alone.
    std::fs::rename(program.path("one"), program.path("away")).unwrap();
    let snapshots = program.snapshots(&["--region", "two"]);
    assert_eq!(snapshots[0]["tags"], serde_json::json!(["kept"]));
    program.run(["--region", "two", "restore", &first, "--to", "out", "--verify"]).expect(0);
    crate::fixture::assert_same(&program.source(), &program.path("out"));
    program.run(["--region", "two", "check", "--read-data"]).expect(0);
    program.run(["scrub", "two"]).expect(0);
    let recorded = program.run(["--region", "two", "--json", "audit"]).expect(0);
    let added = r#""action": "region-add""#;
    assert!(recorded.stdout.replace("\":\"", "\": \"").contains(added), "{}", recorded.stdout);
    program.run_as("writer", ["--region", "two", "snapshots"]).expect(0);
    std::fs::rename(program.path("away"), program.path("one")).unwrap();
    let unchanged = program.backup(&[]);
    assert_eq!(unchanged["new_chunks"], 0, "{unchanged}");
}

#[test]
fn a_further_region_is_given_on_the_command_line() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    let three = program.region("three");
    let told = program.run(["--region", "one", "--region", &three, "region", "add", "three"]).expect(0).stdout;
    let path = program.path("three");
    assert!(told.contains(&format!("[[regions]]\n  name = \"three\"\n  url = \"{}\"", path.display())), "{told}");
    program.run(["--region", "one", "--region", &three, "--region", "two", "replicate"]).expect(0);
    program.run(["--region", &three, "restore", "latest", "--to", "out"]).expect(0);
    crate::fixture::assert_same(&program.source(), &program.path("out"));
}

/// Whoever is told that a region was made is told of the one that is there.
#[test]
fn of_two_additions_at_once_one_makes_the_region() {
    let world = World::new(2);
    wipe(&world.stores[1].inner().memory);
    let mut refused = 0;
    for call in 1..400 {
        let world = world.fork();
        let made = std::sync::Arc::new(std::sync::Mutex::new(None));
        let theirs = std::sync::Arc::clone(&made);
        let mut repository = world.open(&[0]).unwrap();
        world.visit_at(call, move |other| {
            *theirs.lock().unwrap() = Some(other.open(&[0]).unwrap().add_region(&spec(other)).map(|(id, _)| id));
        });
        let mine = repository.add_region(&spec(&world)).map(|(id, _)| id);
        let Some(theirs) = made.lock().unwrap().take() else { break };
        let there = world.open(&[1]).unwrap().regions[0].info.region;
        assert!([&mine, &theirs].into_iter().flatten().all(|made| *made == there), "{call}: {mine:?} {theirs:?}");
        assert!(mine.is_ok() || theirs.is_ok(), "{call}: {mine:?} {theirs:?}");
        refused += u32::from(mine.is_err());
    }
    assert!(refused > 0);
}

#[test]
fn an_interrupted_addition_is_run_again() {
    let world = World::new(2);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(3, 50_000));
    let snapshot = world.backup(&[0, 1], source.path(), 0).unwrap().snapshot.unwrap();
    wipe(&world.stores[1].inner().memory);
    let mut whole = 0;
    let mut unfinished = 0;
    // The probe's races make the number of calls vary; past the last one nothing dies.
    for calls in (0..).step_by(2) {
        let world = world.fork();
        let mut repository = world.open(&[0]).unwrap();
        world.die_after(calls);
        let added = repository.add_region(&spec(&world)).map(drop);
        assert_eq!(repository.regions.len(), 1 + usize::from(added.is_ok()), "what isn't one is not in the list");
        world.live_again();
        let memory = &world.stores[1].inner().memory;
        if memory.size("config").unwrap().is_none() {
            assert!(added.is_err());
            unfinished += usize::from(memory.size("region").unwrap().is_some());
            let left = memory.get("region", 1 << 20).ok();
            world.open(&[0]).unwrap().add_region(&spec(&world)).unwrap();
            if let Some(left) = left {
                assert_eq!(memory.get("region", 1 << 20).unwrap(), left, "it keeps the id that it got first");
            }
        }
        let repository = world.open(&[0, 1]).unwrap();
        let counted = world.list(&[0, 1]).snapshots;
        let scratch = None;
        keepstone::replicate::replicate(
            &repository,
            &counted,
            keepstone::replicate::Depth::Commits,
            scratch,
            64 << 20,
            &keepstone::report::Silent,
        )
        .unwrap();
        assert_eq!(world.ids(&[1]), [snapshot], "after {calls} calls");
        let chains = audit::read(&world.open(&[1]).unwrap()).unwrap();
        assert!(!chains.findings.iter().any(|finding| finding.kind.breaks()), "{:?}", chains.findings);
        let added_entries = chains.timeline.iter().filter(|at| at.entry.action == Action::RegionAdd);
        assert!(added_entries.count() >= 1, "it was recorded before it was made");
        whole += usize::from(added.is_ok());
        if whole > 2 {
            break;
        }
    }
    assert!(unfinished > 0, "it died between `region` and `config`, too");
}

#[test]
fn a_region_is_made_in_an_empty_store_only() {
    let world = World::new(2);
    let memory = |world: &World| world.stores[1].inner().memory.clone();
    let key_file = names(&memory(&world)).into_iter().find(|name| name.starts_with("keys/")).unwrap();
    let other = World::new(1);
    let foreign = |prefix: &str| {
        let theirs = &other.stores[0].inner().memory;
        let name = names(theirs).into_iter().find(|name| name.starts_with(prefix)).unwrap();
        (name.clone(), theirs.get(&name, 1 << 20).unwrap())
    };
    let own_region = memory(&world).get("region", 1 << 20).unwrap();
    let first_region = world.stores[0].inner().memory.get("region", 1 << 20).unwrap();
    wipe(&memory(&world));
    for (name, bytes, what) in [
        ("packs/00/x".to_owned(), vec![1], "packs/"),
        ("index/x".to_owned(), vec![1], "index/"),
        (key_file.clone(), b"another key".to_vec(), "keys/"),
        (foreign("roster/").0, foreign("roster/").1, "roster/"),
        (foreign("ring/").0, foreign("ring/").1, "ring/"),
        (foreign("region").0, foreign("region").1, "region, damaged or of another repository"),
        ("region".to_owned(), first_region, "region, copied from region 'r0'"),
    ] {
        let world = world.fork();
        memory(&world).put_new(&name, &bytes.into()).unwrap();
        is_occupied(world.open(&[0]).unwrap().add_region(&spec(&world)), what);
        assert_eq!(names(&memory(&world)), [name], "nothing was written beside it");
        assert!(audit::read(&world.open(&[0]).unwrap()).unwrap().timeline.len() == 1, "nothing was done");
    }
    // Its own earlier `region` is what an interrupted addition leaves.
    memory(&world).put_new("region", &own_region.into()).unwrap();
    world.open(&[0]).unwrap().add_region(&spec(&world)).unwrap();
}

/// One store under two names is found out before anything of a repository is in it.
#[test]
fn one_directory_under_two_names_stays_empty() {
    let program = Program::bare();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    std::fs::create_dir(program.path("one")).unwrap();
    std::os::unix::fs::symlink(program.path("one"), program.path("two")).unwrap();
    let regions = [program.region("one"), program.region("two")];
    let init = ["--region", &regions[0], "--region", &regions[1], "init", "--recipient", &recipient];
    let refused = program.run(init).expect(2);
    assert!(refused.stderr.contains("regions 'one' and 'two' are the same"), "{}", refused.stderr);
    assert!(program.listing("one").is_empty(), "{:?}", program.listing("one"));
    std::fs::remove_file(program.path("two")).unwrap();
    program.run(init).expect(0);
}

#[test]
fn where_every_region_denies_the_write_the_class_is_access() {
    let program = Program::nobody();
    program.write("file", b"content");
    let deny = |mode| {
        for region in ["one", "two"] {
            let mut directories = vec![program.path(region)];
            while let Some(directory) = directories.pop() {
                std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
                directories.extend(
                    std::fs::read_dir(&directory).unwrap().flatten().map(|at| at.path()).filter(|path| path.is_dir()),
                );
            }
        }
    };
    deny(0o555);
    let ended = program.run(["--json", "backup", "source"]);
    deny(0o755);
    let error = ended.expect(10).error();
    assert_eq!(error["class"], "access");
    assert!(error["message"].as_str().unwrap().contains("every region denies it"), "{error}");
}

/// A signal before the repository is open ends the run with the code of the table, also in `init`.
#[test]
fn a_signal_on_the_way_to_the_regions_ends_with_the_documented_code() {
    let program = Program::bare();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let ssh = program.path("ssh");
    std::fs::write(&ssh, "#!/bin/sh\necho > \"$HOME/began\"\nexec sleep 20\n").unwrap();
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).unwrap();
    let began = program.path("began");
    for command in [&["init", "--recipient", recipient.as_str()][..], &["snapshots"]] {
        for asked in [Signal::TERM, Signal::INT, Signal::HUP] {
            let mut arguments = vec!["--region", "far=ssh://nowhere/region"];
            arguments.extend(command);
            let mut command = program.command(arguments);
            std::fs::write(program.path("keepstone.toml"), "").unwrap();
            // The stand-in for ssh outlives the program if it doesn't look at its input: it holds no pipe of ours.
            command.env("KEEPSTONE_SSH_COMMAND", &ssh).stderr(std::process::Stdio::null());
            let mut child = command.spawn().unwrap();
            Program::wait_until(&mut child, || began.exists());
            signal(&child, asked);
            Ended::new(child.wait_with_output().unwrap()).expect(130);
            std::fs::remove_file(&began).unwrap();
        }
    }
}

#[test]
fn patterns_that_name_nothing_are_told() {
    let program = Program::new();
    program.write("a/file.txt", b"content");
    program.write("b/other", b"content");
    program.backup(&[]);
    let none = program.run(["restore", "latest", "--to", "out", "--include", "*.odt"]).expect(12);
    assert!(none.stderr.contains("nothing is named by --include *.odt"), "{}", none.stderr);
    program.run(["restore", "latest", "--to", "out", "--include", "*.txt", "--exclude", "*.txt"]).expect(12);
    let unclosed = program.run(["restore", "latest", "--to", "out", "--include", "file[.txt"]).expect(2);
    assert!(unclosed.stderr.contains("can't be used"), "{}", unclosed.stderr);
    program.run(["restore", "latest", "--to", "out", "--delete", "--include", "*.txt"]).expect(2);
    // One that names a directory, or one of several that names something, is enough.
    program.run(["restore", "latest", "--to", "some", "--include", "*.odt", "--include", "*.txt"]).expect(0);
    program.run(["restore", "latest", "--to", "directory", "--include", "b/"]).expect(0);
    let files = |name: &str| program.listing(name).len();
    assert_eq!((files("some"), files("directory")), (1, 1));
}

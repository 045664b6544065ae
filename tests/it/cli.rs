//! The built program from the outside: exit codes, JSON, signals, and what it leaves behind.

use crate::fixture::{assert_same, noise};
use crate::program::{Ended, Program, id, signal};
use rustix::fs::XattrFlags;
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn a_tree_goes_in_and_comes_back() {
    let program = Program::new();
    program.write("a/b", b"content");
    program.write("big", &noise(1, 3_000_000));
    let first = program.backup(&["--tag", "x", "--host", "h"]);
    for field in [
        "snapshot",
        "dataset",
        "host",
        "dry_run",
        "unchanged",
        "partial",
        "started_at",
        "finished_at",
        "files",
        "directories",
        "others",
        "bytes",
        "files_new",
        "files_changed",
        "files_unmodified",
        "omitted",
        "issues",
        "new_chunks",
        "new_bytes",
        "stored_bytes",
        "regions",
    ] {
        assert!(first.get(field).is_some(), "no {field} in {first}");
    }
    assert_eq!(first["files"], 2);
    assert_eq!(first["bytes"], 3_000_007);
    assert_eq!(first["regions"].as_array().unwrap().len(), 2);
    let second = program.backup(&[]);
    assert_eq!(second["new_chunks"], 0, "{second}");
    let restored = program.restore("out", &["latest"]).expect(0).json();
    for field in [
        "snapshot",
        "target",
        "dry_run",
        "files",
        "files_skipped",
        "kept",
        "directories",
        "others",
        "links",
        "bytes",
        "removed",
        "verified",
        "issues",
        "damaged_copies",
    ] {
        assert!(restored.get(field).is_some(), "no {field} in {restored}");
    }
    assert_eq!(restored["snapshot"], second["snapshot"]);
    assert_same(&program.source(), &program.path("out"));
    let listed = program.snapshots(&[]);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["tags"][0], "x");
    assert_eq!(listed[0]["regions"].as_array().unwrap().len(), 2);
    program.assert_tidy();

    // Each region restores by itself, and so does a host without a cache.
    for region in ["one", "two"] {
        std::fs::remove_dir_all(program.path("cache")).unwrap();
        let to = format!("from {region}");
        program.run(["--region", region, "restore", "latest", "--to", &to, "--verify"]).expect(0);
        assert_same(&program.source(), &program.path(&to));
    }
}

#[test]
fn what_is_wrong_with_the_source_is_told_and_nothing_is_saved() {
    let program = Program::new();
    let ended = program.run(["--json", "backup", "no/such/path"]).expect(12);
    assert_eq!(ended.error()["class"], "missing");
    assert_eq!(ended.error()["code"], 12);
    std::fs::create_dir(program.source()).unwrap();
    let source = program.source().display().to_string();
    program.run(["backup", &source]).expect(1);
    assert!(program.snapshots(&[]).is_empty());
    let saved = program.backup(&["--allow-empty"]);
    assert_eq!(saved["files"], 0);
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    program.run(["backup"]).expect(2);
    program.run(["frobnicate"]).expect(2);
}

/// Whoever was revoked is told, where it is known whose secret it was, and a stranger nothing.
#[test]
fn a_revoked_slot_is_told_to_whom_it_was() {
    let program = Program::new();
    program.write("a", b"a");
    let refused = |slot: &str| program.run_as(slot, ["--json", "snapshots"]).expect(10).error();
    let mut slots = Vec::new();
    for (role, command) in [("writer", &["key", "revoke"][..]), ("maintainer", &["key", "remove"])] {
        let slot = program.add_slot(role)["slot"].as_str().unwrap().to_owned();
        program.run_as(role, ["snapshots"]).expect(0);
        program.run([command, &[&slot[..]]].concat()).expect(0);
        let error = refused(role);
        let verb = if role == "writer" { "was revoked" } else { "was removed" };
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&slot) && message.contains(verb), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("key add"), "{error}");
        slots.push(slot);
    }
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    let error = refused("writer").to_string();
    assert!(slots.iter().all(|slot| !error.contains(slot)) && error.contains("try again"), "{error}");
    // It is the slots that were opened here, and none that still opens.
    program.run(["snapshots"]).expect(0);
    assert_eq!(refused("writer").to_string(), error);
}

/// A backup isn't green that a mistake in what it leaves out made empty, and a pattern that is none is refused.
#[test]
fn what_leaves_out_everything_is_told_and_nothing_is_saved() {
    let program = Program::new();
    program.write("dir/letter", b"a letter");
    program.write("photo", &noise(1, 5000));
    crate::fixture::write(&program.path("second"), "dir/x.tmp", b"x");
    std::fs::write(program.path("patterns"), "\n# a comment\n*.tmp\n[\n").unwrap();
    let source = program.source().display().to_string();
    let refused = |code: i32, more: &[&str]| {
        let error = program.run([&["--json", "backup", &source][..], more].concat()).expect(code).error();
        assert!(program.snapshots(&[]).is_empty(), "{more:?}");
        error
    };
    for pattern in ["[", "", "!", "#x", "./dir", "/"] {
        for extra in [&[][..], &["--dry-run"]] {
            let error = refused(2, &[&["--exclude", pattern], extra].concat());
            assert!(error["message"].as_str().unwrap().contains(&format!("{pattern:?}")), "{error}");
        }
    }
    let error = refused(2, &["--exclude-from", "patterns"]);
    assert!(error["message"].as_str().unwrap().contains("patterns, line 4"), "{error}");
    // A size without a unit is bytes, and hardly ever meant so.
    let error = refused(2, &["--exclude-larger-than", "4"]);
    assert!(error["hint"].as_str().unwrap().contains("unit"), "{error}");
    let configured = std::fs::read_to_string(program.path("keepstone.toml")).unwrap();
    let with_size = format!("{configured}\n[backup]\nexclude_larger_than = \"4\"\n");
    std::fs::write(program.path("keepstone.toml"), with_size).unwrap();
    refused(2, &[]);
    std::fs::write(program.path("keepstone.toml"), &configured).unwrap();
    // What is left counts, in each source, and not what was found.
    for more in
        [&["--exclude", "*"][..], &["--exclude", "/dir", "--exclude", "photo"], &["second", "--exclude", "*.tmp"]]
    {
        for extra in [&[][..], &["--dry-run"]] {
            let error = refused(1, &[more, extra].concat());
            let named = if more[0] == "second" { "second" } else { "source" };
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&format!("/{named} holds")) && message.contains("--allow-empty"), "{error}");
        }
    }
    assert_eq!(program.backup(&["--exclude", "*", "--allow-empty"])["files"], 0);
    assert_eq!(program.backup(&["--exclude-larger-than", "4", "--allow-empty"])["files"], 0);
    let saved = program.backup(&["--exclude-larger-than", "4KiB"]);
    assert_eq!((&saved["files"], &saved["omitted"]), (&1.into(), &1.into()));
    // Nothing was left out of what held nothing but directories.
    std::fs::create_dir_all(program.path("bare/empty")).unwrap();
    program.run(["backup", "bare", "--exclude", "*.tmp"]).expect(0);
}

#[test]
fn what_cannot_be_read_makes_the_snapshot_partial() {
    let program = Program::nobody();
    program.write("fine", b"fine");
    let closed = program.write("closed", b"closed");
    program.write("closed directory/inside", b"inside");
    let directory = program.path("source/closed directory");
    for path in [&closed, &directory] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap();
    }
    let ended = program.run(["--json", "backup", "source"]).expect(4);
    let saved = ended.json();
    assert_eq!((&saved["partial"], &saved["issues"]), (&true.into(), &2.into()));
    for path in ["closed", "closed directory"] {
        let told = |line: &&str| line.contains(r#""type":"issue""#) && line.contains(&format!(r#""path":"{path}""#));
        assert_eq!(ended.stderr.lines().filter(told).count(), 1, "{path}: {}", ended.stderr);
    }
    assert_eq!(program.snapshots(&[])[0]["partial"], true);
    let restored = program.restore("out", &["latest"]);
    assert_eq!(std::fs::read(program.path("out/fine")).unwrap(), b"fine");
    assert!(!program.path("out/closed").exists());
    restored.expect(0);
    // With nothing new, a partial snapshot is no reason to skip the next one.
    assert!(program.backup_ending(4, &["--skip-if-unchanged"])["snapshot"].is_string());
}

/// `trusted.*` attributes are hidden from whoever isn't privileged: what such a run remembers of a file isn't all.
#[test]
fn what_an_unprivileged_run_remembers_hides_no_attributes_from_a_privileged_one() {
    let mut program = Program::nobody();
    let file = program.write("file", b"content");
    if rustix::fs::setxattr(&file, "trusted.kept", b"yes", rustix::fs::XattrFlags::empty()).is_err() {
        return;
    }
    program.backup(&[]);
    program.user = None;
    program.backup(&[]);
    program.restore("out", &["latest"]).expect(0);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(program.path("out/file"), "trusted.kept", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"yes");
}

#[test]
fn the_wrong_key_or_pin_is_refused() {
    let program = Program::new();
    program.write("a", b"a");
    std::fs::write(program.path("other"), crate::fixture::identity().0).unwrap();
    let refused = Ended::new(program.command(["--json", "snapshots", "--identity", "other"]).output().unwrap());
    // The environment's identity gives way to the one named.
    assert_eq!(refused.expect(10).error()["class"], "access");
    let pin = "00".repeat(32);
    program.run(["--pin", &pin, "snapshots"]).expect(10);
    program.run(["--identity", "absent", "snapshots"]).expect(12);
    std::fs::write(program.path("junk"), "not an identity").unwrap();
    let junk = program.run(["--identity", "junk", "snapshots"]);
    assert!(junk.expect(2).stderr.contains("identity file"));
    // Without any pin a script is refused, too.
    std::fs::write(program.path("bare.toml"), "").unwrap();
    let region = program.region("one");
    program.run(["--config", "bare.toml", "--region", &region, "snapshots"]).expect(10);
}

#[test]
fn a_missing_region_leaves_snapshots_pending() {
    let program = Program::new();
    program.write("a", &noise(1, 100_000));
    program.backup(&[]);
    std::fs::rename(program.path("two"), program.path("elsewhere")).unwrap();
    program.write("b", &noise(2, 100_000));
    let saved = program.backup_ending(3, &[]);
    let regions = saved["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 2, "{saved}");
    let two = regions.iter().find(|region| region["name"] == "two").unwrap();
    assert!(two["committed"] == false && two["failure"].is_string());
    assert!(!program.path("two").exists(), "a backup makes no region");
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));

    // A file or an empty directory in its place is no region either.
    std::fs::write(program.path("two"), "a file").unwrap();
    let with_file = program.run(["backup", "source"]);
    assert_eq!(with_file.code, Some(2), "an address that can't be one is not a region that is down");
    assert_eq!(std::fs::read(program.path("two")).unwrap(), b"a file");
    std::fs::remove_file(program.path("two")).unwrap();

    std::fs::rename(program.path("elsewhere"), program.path("two")).unwrap();
    program.backup(&[]);
    for region in ["one", "two"] {
        std::fs::remove_dir_all(program.path("cache")).unwrap();
        let to = format!("out {region}");
        program.run(["--region", region, "restore", "latest", "--to", &to]).expect(0);
        assert_same(&program.source(), &program.path(&to));
    }
    for region in ["one", "two"] {
        std::fs::remove_dir_all(program.path(region)).unwrap();
    }
    let gone = program.run(["backup", "source"]);
    assert!(matches!(gone.code, Some(12 | 14)), "{:?} {}", gone.code, gone.stderr);
}

#[test]
fn init_never_takes_over_a_region() {
    let program = Program::new();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let before = program.listing("one");
    let region = program.region("one");
    program.run(["--config", "new.toml", "--region", &region, "init", "--recipient", &recipient]).expect(2);
    assert_eq!(before, program.listing("one"));
    std::fs::write(program.path("file"), "x").unwrap();
    let region = program.region("file");
    let ended = program.run(["--config", "new.toml", "--region", &region, "init", "--recipient", &recipient]);
    assert!(ended.code != Some(0), "{}", ended.stdout);
}

#[test]
fn a_dry_run_leaves_every_region_as_it_is() {
    let program = Program::new();
    program.write("a", &noise(1, 100_000));
    let before = (program.listing("one"), program.listing("two"));
    let dry = program.backup(&["--dry-run"]);
    assert!(dry["snapshot"].is_null() && dry["dry_run"] == true);
    assert!(dry["new_bytes"].as_u64().unwrap() >= 100_000);
    assert_eq!(before, (program.listing("one"), program.listing("two")));
    let real = program.backup(&[]);
    assert_eq!(real["new_bytes"], dry["new_bytes"]);
    let before = (program.listing("one"), program.listing("two"));
    program.restore("out", &["latest", "--dry-run"]).expect(0);
    assert!(!program.path("out").exists());
    program.snapshots(&[]);
    assert_eq!(before, (program.listing("one"), program.listing("two")));
}

#[test]
fn snapshots_are_filtered_and_named() {
    let program = Program::new();
    program.write("a", b"one");
    let first = program.backup(&["--dataset", "d1", "--host", "h1", "--tag", "t1", "--tag", "t2"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let between = jiff::Timestamp::now().to_string();
    program.write("a", b"two");
    let second = program.backup(&["--dataset", "d1", "--host", "h2", "--tag", "t1"]);
    program.write("a", b"three");
    let third = program.backup(&["--dataset", "d2", "--host", "h1"]);
    let listed = |arguments: &[&str]| -> Vec<String> {
        program.snapshots(arguments).iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    };
    let (first, second, third) = (id(&first), id(&second), id(&third));
    let all = [first.clone(), second.clone(), third.clone()];
    assert_eq!(listed(&[]), all);
    assert_eq!(listed(&["--dataset", "d1"]), all[..2]);
    assert_eq!(listed(&["--host", "h1"]), [first.clone(), third.clone()]);
    assert_eq!(listed(&["--tag", "t1"]), all[..2]);
    assert_eq!(listed(&["--tag", "t1", "--tag", "t2"]), all[..1]);
    assert_eq!(listed(&["--at", &between]), all[..1]);
    assert_eq!(listed(&["--dataset", "d1", "--host", "h1"]), all[..1]);
    assert!(listed(&["--tag", "nothing"]).is_empty());
    assert_eq!(listed(&["--dataset", "d1", "--latest", "1"]).len(), 2, "the newest of each host and dataset");

    let content = |arguments: &[&str]| -> String {
        let target = tempfile::tempdir_in(program.home.path()).unwrap();
        let to = target.path().join("t").display().to_string();
        program.restore(&to, arguments).expect(0);
        std::fs::read_to_string(target.path().join("t/a")).unwrap()
    };
    assert_eq!(content(&["latest"]), "three");
    assert_eq!(content(&["latest~1"]), "two");
    assert_eq!(content(&["latest~2"]), "one");
    assert_eq!(content(&["latest", "--dataset", "d1"]), "two");
    assert_eq!(content(&["--at", &between]), "one");
    assert_eq!(content(&[&first[..12]]), "one");
    program.restore("out", &["latest~3"]).expect(12);
    program.restore("out", &["ffffffffffff"]).expect(12);
    program.restore("out", &["latest", "--dataset", "d3"]).expect(12);

    let unchanged = program.backup(&["--dataset", "d2", "--host", "h1", "--skip-if-unchanged"]);
    assert!(unchanged["unchanged"] == true && unchanged["snapshot"].is_null());
    assert_eq!(listed(&[]), all);
}

#[test]
fn where_no_snapshot_fits_it_is_told_what_there_is() {
    let program = Program::new();
    program.write("a", b"one");
    let told = |arguments: &[&str]| {
        let error = program.run([&["--json"], arguments].concat()).expect(12).error();
        assert!(!error["hint"].is_null(), "{error}");
        (error["message"].as_str().unwrap().to_owned(), error["hint"].as_str().unwrap().to_owned())
    };
    let restore = |more: &[&str]| told(&[&["restore", "--to", "out"], more].concat());
    let has = |text: &str, words: &[&str]| words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    let (text, hint) = restore(&["latest"]);
    assert_eq!((text.as_str(), hint.as_str()), ("there is no snapshot", "`keepstone backup` makes one"));

    let first = id(&program.backup(&["--dataset", "d1", "--host", "h1"]))[..12].to_owned();
    let second = id(&program.backup(&["--dataset", "d2", "--host", "h2"]))[..12].to_owned();
    let day = |id: &str| {
        let listed = program.snapshots(&[]);
        let found = listed.iter().find(|snapshot| snapshot["id"].as_str().unwrap().starts_with(id)).unwrap();
        let begun: jiff::Timestamp = found["started_at"].as_str().unwrap().parse().unwrap();
        begun.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
    };
    // Nothing that old: the oldest of what was asked for otherwise.
    let early = ["--at", "2001-02-03 04:05"];
    let (text, hint) = restore(&early);
    has(&text, &["begun at or before 2001-02-03 04:05:00", &first, &day(&first), "'d1'", "'h1'"]);
    has(&hint, &["later --at"]);
    let (text, _) = restore(&["latest", "--dataset", "d2", "--at", "2001-02-03 04:05"]);
    has(&text, &["of dataset 'd2' begun at", "the oldest of dataset 'd2' is", &second, &day(&second)]);
    // Nothing of that name: the oldest of all.
    let (text, hint) = restore(&["latest", "--dataset", "d3", "--host", "h1", "--tag", "t"]);
    has(
        &text,
        &["of dataset 'd3' made on host 'h1' with tag 't'", "the oldest that there is is", &first, &day(&first)],
    );
    has(&hint, &["keepstone snapshots"]);
    let (text, _) = restore(&["latest~2"]);
    has(&text, &["latest~2", "2 snapshots", &first, &day(&first)]);
    let (text, hint) = restore(&[&second, "--dataset", "d1"]);
    has(&text, &[&second, "isn't one of dataset 'd1'", "'d2'"]);
    has(&hint, &["without these filters"]);
    has(&restore(&["ffffffffffff"]).0, &["ffffffffffff"]);
    // Whatever takes the same filters.
    for arguments in [&["ls", "latest"][..], &["cat", "latest", "a"], &["diff", "latest", "latest"]] {
        has(&told(&[arguments, &early].concat()).0, &["2001-02-03 04:05:00", &first]);
    }
    // Of a region that takes no part nothing is known.
    let (_, hint) = told(&["--region", "one", "restore", "--to", "out", "latest", "--dataset", "d3"]);
    has(&hint, &["only region 'two' has"]);
    // A list may be empty; what there is is told beside it.
    let listed = program.run(["--json", "snapshots", "--dataset", "d3"]).expect(0);
    assert_eq!(listed.json(), serde_json::json!([]));
    has(&listed.stderr, &["of dataset 'd3'", &first]);
    assert_eq!(program.run(["snapshots"]).expect(0).stderr, "");
    let found = program.run(["--json", "find", "a", "--dataset", "d3"]).expect(0);
    assert_eq!(found.json()["entries"], serde_json::json!([]));
    has(&found.stderr, &["of dataset 'd3'", &first]);
}

#[test]
fn ctrl_c_keeps_what_was_shipped() {
    let program = Program::new();
    program.write("large", &noise(7, 300 << 20));
    let mut child = program.command(["--json", "backup", "source"]).spawn().unwrap();
    Program::wait_until(&mut child, || program.bytes("one") > 70 << 20);
    signal(&child, Signal::INT);
    let ended = Ended::new(child.wait_with_output().unwrap()).expect(130);
    assert_eq!(ended.error()["class"], "cancelled");
    assert!(program.snapshots(&[]).is_empty());
    program.assert_tidy();
    let saved = program.backup(&[]);
    let stored = saved["stored_bytes"].as_u64().unwrap();
    assert!(stored < 260 << 20, "{stored} bytes were stored again");
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn killed_at_any_moment_both_commands_go_on() {
    let program = Program::new();
    for at in 0..60u64 {
        program.write(&format!("{}/{at}", at % 6), &noise(at, 3 << 20));
    }
    program.write("large", &noise(7, 100 << 20));
    let mut child = program.command(["backup", "source"]).spawn().unwrap();
    Program::wait_until(&mut child, || program.bytes("two") > 40 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(program.snapshots(&[]).is_empty());
    program.backup(&[]);

    let mut child = program.command(["restore", "latest", "--to", "out"]).spawn().unwrap();
    Program::wait_until(&mut child, || program.bytes("out") > 80 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(program.bytes("out") < 280 << 20, "it was killed before its end");
    let resumed = program.restore("out", &["latest"]).expect(0).json();
    assert!(resumed["bytes"].as_u64().unwrap() < 280 << 20, "it went on: {resumed}");
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn a_passphrase_is_taken_from_everywhere_and_shown_nowhere() {
    let secret = "correct horse battery staple";
    let program = Program::bare();
    let (one, two) = (program.region("one"), program.region("two"));
    let mut shown = String::new();
    let mut run = |code: i32, arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = program.command(arguments);
        command.env_remove("KEEPSTONE_IDENTITY").env("KEEPSTONE_LOG", "trace");
        let ended = Ended::new(command.envs(variables.iter().copied()).output().unwrap()).expect(code);
        shown.push_str(&ended.stdout);
        shown.push_str(&ended.stderr);
    };
    run(0, &["--region", &one, "--region", &two, "init"], &[("KEEPSTONE_NEW_PASSPHRASE", secret)]);
    program.write("a", b"a");
    run(0, &["--json", "backup", "source"], &[("KEEPSTONE_PASSPHRASE", secret)]);
    std::fs::write(program.path("file"), format!("{secret}\n")).unwrap();
    std::fs::set_permissions(program.path("file"), PermissionsExt::from_mode(0o600)).unwrap();
    run(0, &["--passphrase-file", "file", "snapshots"], &[]);
    run(0, &["--passphrase-command", "cat file", "restore", "latest", "--to", "out", "-vv"], &[]);
    run(10, &["--json", "snapshots"], &[("KEEPSTONE_PASSPHRASE", "correct horse battery")]);
    run(10, &["snapshots"], &[]);
    assert!(!shown.contains("battery"), "the passphrase was shown");
    assert_same(&program.source(), &program.path("out"));
    // Nor does it lie anywhere on disk but in the file that the user made.
    let stored = ["one", "two", "cache"].map(|name| program.listing(name));
    for path in stored.into_iter().flatten().map(|(path, _)| path).chain([program.path("keepstone.toml")]) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"battery"), "in {}", path.display());
    }
}

#[test]
fn names_that_would_cheat_a_terminal_are_escaped() {
    let program = Program::new();
    program.write("\x1b[31mred", b"x");
    program.write("gone", b"x");
    let ended = program.run(["backup", "source", "-v"]).expect(0);
    assert!(!ended.stdout.contains('\x1b') && !ended.stderr.contains("\x1b[31mred"));
    let restored = program.run(["restore", "latest", "absent \x1b[31m", "--to", "out"]).expect(12);
    assert!(!restored.stderr.contains("\x1b[31m"));
}

#[test]
fn a_closed_output_ends_quietly() {
    let program = Program::new();
    program.write("a", b"a");
    program.backup(&[]);
    let mut child = program.command(["snapshots"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn what_a_region_no_longer_lists_is_stored_again() {
    let program = Program::new();
    program.write("a", &noise(7, 200_000));
    program.write("b", b"small");
    program.backup(&[]);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(program.backup(&[])["files_unmodified"], 2);
    for region in ["one/index", "two/index"] {
        for (path, _) in program.listing(region) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let again = program.backup_ending(11, &[]);
    assert!(again["new_bytes"].as_u64().unwrap() >= 200_000, "{again}");
    assert_eq!(program.backup(&[])["new_bytes"], 0);
    program.restore("out", &["latest", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn nothing_new_is_no_success_while_a_region_is_away() {
    let program = Program::new();
    program.write("a", b"x");
    program.backup(&["--skip-if-unchanged"]);
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    let away = program.backup_ending(3, &["--skip-if-unchanged"]);
    assert_eq!(away["unchanged"], true, "{away}");
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
    program.backup_ending(0, &["--skip-if-unchanged"]);
}

/// What the file lists is the repository; a variable that was exported once must not take a region out of every run in
/// silence.
#[test]
fn what_the_environment_leaves_out_is_left_out_and_told() {
    let program = Program::new();
    program.write("a", b"x");
    let with = |regions: &str, arguments: &[&str]| {
        Ended::new(program.command(arguments).env("KEEPSTONE_REGIONS", regions).output().unwrap())
    };
    let address = program.region("one");
    for regions in ["one", &address] {
        let told = with(regions, &["backup", "source"]).expect(3).stderr;
        assert!(told.contains("region 'two' takes no part: left out by KEEPSTONE_REGIONS"), "{told}");
        with(regions, &["key", "add", "--recipient", &crate::fixture::identity().1]).expect(14);
    }
    let by_option = program.run(["--region", "one", "key", "add", "--recipient", &crate::fixture::identity().1]);
    by_option.expect(14);
    assert_eq!(program.run(["--json", "key", "list"]).expect(0).json()["slots"].as_array().unwrap().len(), 1);
    // All of them, one at an address of its own: nothing is left out.
    std::fs::rename(program.path("two"), program.path("moved")).unwrap();
    let moved = format!("one two={}", program.path("moved").display());
    let told = with(&moved, &["backup", "source"]).expect(0).stderr;
    assert!(!told.contains("takes no part"), "{told}");
}

/// A part is the same at each run: whoever reads one part each day must be told that the others weren't.
#[test]
fn a_check_says_which_part_of_the_data_it_read() {
    let program = Program::new();
    program.write("file", &noise(1, 300_000));
    program.backup(&[]);
    let check = |subset: &str| program.run(["check", subset]).expect(0).stdout;
    let read = |subset: &str| program.run(["--json", "check", subset]).expect(0).json()["read_subset"].clone();
    let part = check("--read-data=2/7");
    assert!(part.contains("Part 2 of 7 was read; the other 6 parts were NOT"), "{part}");
    assert!(check("--read-data=2/2").contains("the other part was NOT: --read-data=1/2 reads it"));
    assert!(check("--read-data=12.5%").contains("A random 12.50% of the packs was read; the others were NOT"));
    for whole in ["--read-data", "--read-data=1/1", "--read-data=100%"] {
        assert!(!check(whole).contains("NOT"), "{whole}");
    }
    assert_eq!((read("--read-data=2/7"), read("--read-data=5%")), ("2/7".into(), "5%".into()));
    assert_eq!(read("--read-data"), "all");
    let structure = program.run(["--json", "check"]).expect(0).json();
    assert_eq!((&structure["read_data"], &structure["read_subset"]), (&false.into(), &serde_json::Value::Null));
    let days: Vec<u64> = (1..=7)
        .map(|day| program.run(["--json", "check", &format!("--read-data={day}/7")]).expect(0).json())
        .map(|day| day["regions"][0]["packs_read"].as_u64().unwrap())
        .collect();
    let all = program.run(["--json", "check", "--read-data"]).expect(0).json();
    assert_eq!(days.iter().sum::<u64>(), all["regions"][0]["packs_read"].as_u64().unwrap(), "{days:?}");
}

/// Many files of several chunks each must not all be open at once.
#[test]
fn a_low_limit_of_open_files_is_enough() {
    let program = Program::new();
    for at in 0..400 {
        program.write(&format!("{}/{at}", at % 7), &noise(at, 40_000));
    }
    let source = program.source();
    program.run_with_descriptors(128, &["backup", "--chunk-size", "16KiB", source.to_str().unwrap()]).expect(0);
    let out = program.path("out");
    program.run_with_descriptors(128, &["restore", "latest", "--to", out.to_str().unwrap()]).expect(0);
    assert_same(&source, &out);
}

#[test]
fn more_directories_than_may_be_open_are_captured_all() {
    let program = Program::new();
    let count = 3000;
    for number in 0..count {
        program.write(&format!("{:02}/{:02}/file", number / 100, number % 100), format!("{number}").as_bytes());
    }
    let source = program.source().display().to_string();
    // What many systems allow a process that didn't ask for more.
    let saved = program.run_with_descriptors(1024, &["--json", "--threads", "4", "backup", &source]).expect(0).json();
    assert_eq!((saved["files"].as_u64(), saved["issues"].as_u64()), (Some(count), Some(0)), "{saved}");
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn timings_say_where_the_time_went() {
    let program = Program::new();
    program.write("a", &noise(1, 300_000));
    assert!(program.backup(&[]).get("timings").is_none());
    program.write("b", &noise(2, 200_000));
    let timings = program.backup(&["--timings"])["timings"].clone();
    let of = |stage: &str| {
        let stages = timings["stages"].as_array().unwrap();
        stages.iter().find(|time| time["stage"] == stage).unwrap_or_else(|| panic!("no stage {stage}")).clone()
    };
    for stage in ["read", "chunk", "id", "frame", "compress"] {
        assert_eq!(
            of(stage)["bytes"].as_u64().filter(|bytes| *bytes >= 200_000),
            of(stage)["bytes"].as_u64(),
            "{stage}"
        );
    }
    assert_eq!(of("read")["bytes"], 200_000, "what did not change isn't read");
    for stage in
        ["open", "walk", "read", "chunk", "id", "look-up", "compress", "seal", "pack", "ship", "tree", "commit"]
    {
        assert!(of(stage)["busy_ns"].as_u64().unwrap() > 0, "{stage}");
    }
    assert!(timings["elapsed_ns"].as_u64().unwrap() > of("open")["busy_ns"].as_u64().unwrap());
    // Of what did not change nothing is looked up, and nothing is stored.
    std::thread::sleep(std::time::Duration::from_millis(50));
    program.backup(&[]);
    let unchanged = program.backup(&["--timings"]);
    assert_eq!((&unchanged["files_unmodified"], &unchanged["new_chunks"]), (&2.into(), &0.into()));
    let stages = unchanged["timings"]["stages"].as_array().unwrap();
    assert!(stages.iter().all(|time| time["stage"] != "look-up" || time["busy_ns"] == 0), "{unchanged}");
    // Nor of a small file that was written anew with what it had.
    program.write("small", b"the same again");
    program.backup(&[]);
    std::fs::remove_file(program.source().join("small")).unwrap();
    program.write("small", b"the same again");
    let again = program.backup(&["--timings"]);
    assert_eq!(
        (&again["files_changed"], &again["new_bytes"].as_u64().map(|bytes| bytes < 10_000)),
        (&1.into(), &Some(true))
    );
    let shown = program.run(["backup", &program.source().display().to_string(), "--timings"]).expect(0);
    assert!(shown.stderr.contains("STAGE") && shown.stderr.contains("\nwalk "), "{}", shown.stderr);
    assert!(!shown.stdout.contains("STAGE"));
}

#[test]
fn timings_say_where_a_restores_and_a_checks_time_went() {
    let program = Program::new();
    program.write("a", &noise(1, 300_000));
    program.write("b", &noise(2, 200_000));
    program.backup(&[]);
    let restored = program.restore("out", &["latest", "--timings"]).expect(0).json();
    let checked = program.run(["--json", "check", "--read-data", "--timings"]).expect(0).json();
    for (run, stages) in [
        (&restored, &["open", "walk", "look-up", "fetch", "unseal", "decompress", "id", "write"][..]),
        (&checked, &["open", "segment", "tree", "fetch", "unseal", "decompress", "id"]),
    ] {
        let listed = run["timings"]["stages"].as_array().unwrap();
        for stage in stages {
            let time = listed.iter().find(|time| time["stage"] == *stage).unwrap();
            assert!(time["busy_ns"].as_u64() > Some(0), "{stage}: {run}");
            let moves = ["fetch", "unseal", "decompress", "id", "write"].contains(stage);
            assert!(!moves || time["bytes"].as_u64() >= Some(500_000), "{stage}: {run}");
        }
    }
    for arguments in [&["check"][..], &["restore", "latest", "--to", "other"]] {
        let plain = program.run(["--json"].iter().chain(arguments)).expect(0).json();
        assert!(plain.get("timings").is_none(), "{plain}");
    }
    let shown = program.run(["check", "--timings"]).expect(0);
    assert!(shown.stderr.contains("STAGE") && !shown.stdout.contains("STAGE"), "{}", shown.stderr);
}

#[test]
fn content_is_compressed_as_hard_as_asked() {
    let mut stored = std::collections::BTreeMap::new();
    let text: Vec<u8> =
        (0..40_000u32).flat_map(|at| format!("{} {:x}\n", at / 3, at * at % 977).into_bytes()).collect();
    for how in ["off", "fast", "default", "max"] {
        let program = Program::new();
        program.write("text", &text);
        program.write("noise", &noise(1, 400_000));
        let saved = program.backup(&["--compression", how]);
        stored.insert(how, saved["stored_bytes"].as_u64().unwrap());
        program.restore("out", &["latest"]).expect(0);
        assert_same(&program.source(), &program.path("out"));
        // Another way to compress stores nothing again.
        let again = program.backup(&["--compression", "max"]);
        assert_eq!(again["new_bytes"], 0);
    }
    let raw = text.len() as u64 + 400_000;
    assert!(stored["off"] > raw && stored["fast"] < raw - raw / 4, "{stored:?}");
    assert!(stored["default"] <= stored["fast"] && stored["max"] < stored["default"], "{stored:?}");
}

/// Attributes of files that aren't opened are what they were, and what they became.
#[test]
fn attributes_of_files_that_did_not_change_are_kept_and_changes_noticed() {
    let program = Program::new();
    for name in ["plain", "with", "gains", "loses"] {
        program.write(name, name.as_bytes());
    }
    let path = |name: &str| program.source().join(name);
    let set = |name: &str| rustix::fs::lsetxattr(path(name), "user.colour", b"red", XattrFlags::empty());
    if set("with").is_err() {
        eprintln!("skipped: the file system has no user attributes");
        return;
    }
    set("loses").unwrap();
    // Times that lie before the scan by more than a file system's clock may lag.
    let settle = || std::thread::sleep(std::time::Duration::from_millis(50));
    let restored = |to: &str| {
        program.restore(to, &["latest"]).expect(0);
        assert_same(&program.source(), &program.path(to));
    };
    settle();
    assert_eq!(program.backup(&[])["files_new"], 4);
    assert_eq!(program.backup(&[])["files_unmodified"], 4);
    restored("first");
    set("gains").unwrap();
    rustix::fs::lremovexattr(path("loses"), "user.colour").unwrap();
    settle();
    let changed = program.backup(&[]);
    assert_eq!((&changed["files_unmodified"], &changed["files_changed"]), (&2.into(), &2.into()));
    assert_eq!(program.backup(&[])["files_unmodified"], 4);
    restored("second");
}

/// Past the limit of a file's size a write fails, and says so; the signal would end the program without a word.
#[test]
fn a_file_that_may_not_grow_is_told_as_any_failed_write() {
    let program = Program::new();
    program.write("file", &noise(1, 3_000_000));
    let source = program.source().display().to_string();
    let ended = program.run_limited("-f 1000", &["--json", "backup", &source]).expect(14);
    let error = ended.error().to_string();
    assert!(error.contains("File too large") && error.contains("ulimit -f"), "{error}");
    let saved = program.backup(&[]);
    let ended = program.run_limited("-f 1000", &["restore", "latest", "--to", "out"]).expect(4);
    assert!(ended.stderr.contains("file: ") && ended.stderr.contains("File too large"), "{}", ended.stderr);
    assert_eq!(saved["files"], 1);
}

/// A thread that can't be had is told before any other waits for it.
#[test]
fn threads_that_the_system_refuses_are_told() {
    let program = Program::new();
    program.write("file", &noise(1, 30_000));
    let source = program.source().display().to_string();
    let ended = program.run_limited("-v 400000", &["--json", "--threads", "250", "backup", &source]).expect(15);
    let error = ended.error().to_string();
    assert!(error.contains("threads can't be begun") && error.contains("ulimit -v"), "{error}");
}

/// What the system doesn't give says nothing about the index, which takes long to make anew.
#[test]
fn an_index_for_which_there_are_too_few_open_files_stays() {
    let program = Program::new();
    program.write("file", &noise(1, 30_000));
    program.backup(&[]);
    let identity = || {
        let cache = std::fs::read_dir(program.path("cache")).unwrap().next().unwrap().unwrap().path();
        std::fs::read(cache.join("index/IDENTITY")).unwrap()
    };
    let before = identity();
    let mut limited = 0;
    for files in (8..40).step_by(2) {
        let ended = program.run_limited(&format!("-n {files}"), &["--json", "ls", "latest"]);
        assert_eq!(identity(), before, "{files}: {}", ended.stderr);
        if ended.code == Some(15) {
            let error = ended.error().to_string();
            assert!(error.contains("open files"), "{error}");
            limited += usize::from(error.contains("local index") && error.contains("ulimit -n"));
        }
    }
    assert!(limited > 0);
    program.run(["ls", "latest"]).expect(0);
}

/// With however few threads, a command does its work or says what stands in its way: it never breaks off.
#[test]
fn no_command_breaks_off_for_want_of_threads() {
    let program = Program::nobody();
    for number in 0..6 {
        program.write(&format!("file{number}"), &noise(number, 60_000));
        program.backup(&[]);
    }
    let mut refused = 0;
    for threads in 1..=16 {
        for command in
            [&["scrub", "two"][..], &["check", "--read-data"], &["gc", "--dry-run"], &["restore", "latest", "--to"]]
        {
            let to = format!("out{threads}");
            let more = if command[0] == "restore" { &[&to[..]][..] } else { &[] };
            let arguments = [&["--json", "--threads", "4"], command, more].concat();
            let ended = program.run_with_threads(threads, &arguments);
            assert!(matches!(ended.code, Some(0 | 15)), "{threads} {command:?}: {:?}: {}", ended.code, ended.stderr);
            if ended.code == Some(15) {
                let error = ended.error();
                let text = error["message"].as_str().unwrap();
                assert!(text.contains("be begun") && error["hint"].is_string(), "{threads} {command:?}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "some of these limits are too low for anything");
}

/// What listed the paths did so some time before: one that has gone since is told, and the others are saved.
#[test]
fn a_listed_path_that_is_gone_makes_the_snapshot_partial() {
    let program = Program::new();
    program.write("a/one", b"one");
    program.write("b/two", b"two");
    for (option, end) in [("--files-from0", "\0"), ("--files-from", "\n")] {
        let list = |paths: &[&str]| {
            let list: String = paths.iter().map(|path| format!("{path}{end}")).collect();
            std::fs::write(program.path("list"), list).unwrap();
        };
        list(&["source/a/one", "source/a/gone", "source/b"]);
        let saved = program.run(["--json", "backup", option, "list"]).expect(4).json();
        assert_eq!((&saved["partial"], &saved["issues"]), (&true.into(), &1.into()), "{saved}");
        let listed = program.run(["--json", "snapshots", "--details"]).expect(0).json();
        let newest = listed.as_array().unwrap().last().unwrap().to_string();
        assert!(newest.contains("a/gone") && newest.contains("vanished"), "{newest}");
        program.restore("out", &["latest", "--overwrite", "always"]).expect(0);
        assert_same(&program.source().join("b"), &program.path("out/b"));
        list(&["source/nope", "source/nor/this"]);
        let none = program.run(["--json", "backup", option, "list"]).expect(12).error();
        assert!(none["message"].as_str().unwrap().contains("source/nope"), "{none}");
        // What is named on the command line must be there.
        list(&["source/a/one"]);
        program.run(["backup", option, "list", "source/gone"]).expect(12);
    }
}

#[test]
fn what_cannot_be_used_of_the_surroundings_is_told() {
    let program = Program::new();
    let refused = program.run(["--config", ".", "snapshots"]).expect(2);
    assert!(refused.stderr.contains("can't read the configuration file"), "{}", refused.stderr);
    let told = |log: &str| {
        Ended::new(program.command(["snapshots"]).env("KEEPSTONE_LOG", log).output().unwrap()).expect(0).stderr
    };
    assert!(told("garbage=[").contains("KEEPSTONE_LOG='garbage=[' is not used"), "{}", told("garbage=["));
    assert_eq!((told(""), told("keepstone=warn")), (String::new(), String::new()));
    program.write("file", b"x");
    program.backup(&[]);
    let kept = program.run(["forget", "--keep-tag", "typo", "--dry-run"]).expect(0).stderr;
    assert!(kept.contains("no snapshot has the tag 'typo'"), "{kept}");
}

/// A file that could not be opened is neither new nor changed.
#[test]
fn what_could_not_be_read_counts_as_failed_alone() {
    let program = Program::nobody();
    program.write("read", &noise(1, 300_000));
    let denied = program.write("denied", &noise(2, 300_000));
    let deny = |mode| std::fs::set_permissions(&denied, std::fs::Permissions::from_mode(mode)).unwrap();
    deny(0);
    std::fs::set_permissions(program.source(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let counts = |code| {
        // Past what a file's time may lag behind the clock.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let saved = program.backup_ending(code, &[]);
        ["files", "files_new", "files_changed", "files_unmodified", "issues"].map(|name| saved[name].as_u64().unwrap())
    };
    assert_eq!(counts(4), [1, 1, 0, 0, 1]);
    std::os::unix::fs::chown(&denied, program.user, None).unwrap();
    deny(0o600);
    assert_eq!(counts(0), [2, 1, 0, 1, 0]);
    std::fs::write(&denied, noise(3, 300_000)).unwrap();
    deny(0);
    assert_eq!(counts(4), [1, 0, 0, 1, 1]);
}

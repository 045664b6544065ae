//! What once looked whole and wasn't: outcomes lost on the way to the exit code, and single bad objects
//! that took the rest with them.

use crate::fixture::noise;
use crate::program::Program;
use std::fs::{metadata, read, remove_file, write};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

fn objects(program: &Program, region: &str, part: &str) -> Vec<std::path::PathBuf> {
    let named = |path: &std::path::PathBuf| path.components().any(|component| component.as_os_str() == part);
    program.listing(region).into_keys().filter(named).collect()
}

fn spoil(program: &Program, region: &str, part: &str) {
    for path in objects(program, region, part) {
        let mut bytes = read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        write(&path, bytes).unwrap();
    }
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let program = Program::new();
    program.write("file", &noise(1, 300_000));
    let ended = |arguments: &[&str]| {
        let mut command = program.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer).stderr(Stdio::null()).status().unwrap().code()
    };
    let source = program.source().display().to_string();
    assert_eq!(ended(&["backup", &source]), Some(0));
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    assert_eq!(ended(&["backup", &source]), Some(3));
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
    program.backup(&[]);
    assert_eq!(ended(&["check", "--read-data"]), Some(0));
    spoil(&program, "one", "packs");
    assert_eq!(ended(&["scrub", "one"]), Some(11));
    assert_eq!(ended(&["scrub", "two"]), Some(0));
    // It says what it found, and puts it right.
    assert_eq!(ended(&["check", "--read-data"]), Some(11));
    assert_eq!(ended(&["scrub", "one"]), Some(0));
    spoil(&program, "one", "packs");
    spoil(&program, "two", "packs");
    assert_eq!(ended(&["restore", "latest", "file", "--to", "out"]), Some(11));
    spoil(&program, "two", "snapshots");
    spoil(&program, "one", "snapshots");
    program.know_nothing();
    assert_eq!(ended(&["snapshots"]), Some(11));
}

#[test]
fn a_full_standard_output_is_told_with_what_was_saved() {
    let program = Program::new();
    program.write("file", b"content");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let source = program.source().display().to_string();
    let output = program.command(["backup", &source]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let id = program.run(["--json", "snapshots"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("snapshot {id} is saved")));
}

#[test]
fn a_restore_that_goes_on_links_what_the_first_one_did_not_come_to() {
    let program = Program::new();
    for (first, further) in [("a", "z"), ("m", "b")] {
        program.write(first, &noise(2, 100_000));
        std::fs::hard_link(program.source().join(first), program.source().join(further)).unwrap();
    }
    program.backup(&[]);
    let inode = |name: &str| metadata(program.path("out").join(name)).unwrap().ino();
    program.restore("out", &["latest"]).expect(0);
    for name in ["z", "m"] {
        remove_file(program.path("out").join(name)).unwrap();
    }
    program.restore("out", &["latest"]).expect(0);
    assert_eq!((inode("a"), inode("b")), (inode("z"), inode("m")));
    // A file that is another one by now is no first name.
    remove_file(program.path("out/z")).unwrap();
    write(program.path("out/a"), b"mine").unwrap();
    program.restore("out", &["latest"]).expect(4);
    assert_eq!(read(program.path("out/z")).unwrap(), noise(2, 100_000));
}

#[test]
fn an_object_too_large_to_be_read_is_told_and_the_rest_stays_usable() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    let huge = vec![0; (16 << 20) + 1];
    for name in ["snapshots", "commits", "index"] {
        let there = objects(&program, "one", name).remove(0);
        let hex = there.file_name().unwrap().to_str().unwrap().chars().map(|_| '0').collect::<String>();
        write(there.with_file_name(&hex), &huge).unwrap();
    }
    program.run(["snapshots"]).expect(11);
    program.restore("out", &["latest"]).expect(11);
    assert_eq!(read(program.path("out/file")).unwrap(), b"content");
    program.run(["check"]).expect(11);
}

#[test]
fn a_segment_damaged_in_one_region_does_not_count_there() {
    let program = Program::new();
    program.write("file", &noise(3, 200_000));
    program.backup(&[]);
    spoil(&program, "one", "index");
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    program.write("more", b"more");
    let healed = program.run(["backup", &program.source().display().to_string()]).expect(0).stderr;
    assert!(healed.contains("one:index/") && healed.contains("OBJ-8"), "it is told: {healed}");
    program.run(["scrub", "one"]).expect(0);
    program.backup(&[]);
    // In both regions nobody has the right bytes: told each time, not only while the index is made.
    spoil(&program, "one", "index");
    spoil(&program, "two", "index");
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    program.backup_ending(11, &[]);
    program.backup_ending(11, &[]);
    // What was committed since is whole in that region alone.
    let alone = program.run(["--region", "one", "restore", "latest", "--to", "alone"]);
    assert_eq!(alone.code, Some(0), "{}", alone.stderr);
    assert_eq!(read(program.path("alone/file")).unwrap(), noise(3, 200_000));
}

#[test]
fn deleting_never_reaches_a_region_or_the_cache() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    program.run(["snapshots"]).expect(0);
    program.run(["--region", "two", "snapshots"]).expect(0);
    let before = (program.listing("one"), program.listing("two"), program.listing("cache"));
    let home = program.home.path().display().to_string();
    for (to, path) in
        [("one", None), ("one/packs", None), ("cache", None), (home.as_str(), None), ("/", Some(home.as_str()))]
    {
        for region in [&[][..], &["--region", "two"]] {
            let mut arguments = region.to_vec();
            arguments.extend(["restore", "latest"]);
            arguments.extend(path);
            arguments.extend(["--to", to, "--delete", "--overwrite", "if-different"]);
            program.run(arguments).expect(2);
        }
    }
    assert_eq!(before, (program.listing("one"), program.listing("two"), program.listing("cache")));
    program.restore("out", &["latest", "--delete"]).expect(0);
}

#[test]
fn a_command_that_is_captured_is_not_told_the_passphrase() {
    let program = Program::new();
    let mut command = program.command(["backup", "--as", "env", "--", "env"]);
    let output = command.env("KEEPSTONE_PASSPHRASE", "hunter22").env("KEEPSTONE_NEW_PASSPHRASE", "hunter22").output();
    assert!(output.unwrap().status.success());
    let seen = program.run(["cat", "latest", "env"]).expect(0).stdout;
    assert!(seen.contains("KEEPSTONE_CONFIG") && !seen.contains("hunter22"), "{seen}");
}

#[test]
fn the_log_is_json_where_all_else_is() {
    let program = Program::new();
    program.write("file", b"content");
    let source = program.source().display().to_string();
    let mut command = program.command(["--json", "backup", &source]);
    let output = command.env("KEEPSTONE_LOG", "trace").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let documents: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    assert!(documents.iter().any(|document| document["log"].is_string()), "{text}");
    // Colours are for terminals.
    let output = program.command(["backup", &source]).env("KEEPSTONE_LOG", "trace").output().unwrap();
    assert!(!output.stderr.contains(&0x1b));
}

#[test]
fn a_file_with_names_of_its_own_shares_none_with_what_was_there() {
    use std::os::unix::fs::PermissionsExt;
    let program = Program::new();
    for (name, mode) in [("a", 0o600), ("b", 0o644)] {
        let path = program.write(name, b"same");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    }
    program.backup(&[]);
    program.restore("out", &["latest"]).expect(0);
    let (a, b, outside) = (program.path("out/a"), program.path("out/b"), program.path("outside"));
    remove_file(&b).unwrap();
    std::fs::hard_link(&a, &b).unwrap();
    std::fs::hard_link(&a, &outside).unwrap();
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o640)).unwrap();
    program.restore("out", &["latest", "--overwrite", "if-different"]).expect(0);
    crate::fixture::assert_same(&program.source(), &program.path("out"));
    assert_ne!(metadata(&a).unwrap().ino(), metadata(&b).unwrap().ino());
    assert_eq!(metadata(&outside).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn an_older_snapshot_is_not_taken_for_the_newest() {
    let program = Program::new();
    program.write("file", b"old");
    program.backup(&[]);
    program.write("file", b"newer");
    let newest = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    let older = program.snapshots(&[])[0]["id"].as_str().unwrap().to_owned();
    for region in ["one", "two"] {
        let path = program.path(region).join("snapshots").join(&newest);
        let mut bytes = read(&path).unwrap();
        bytes[200] ^= 1;
        write(path, bytes).unwrap();
    }
    // Who verified it before still knows its root.
    assert_eq!(program.run(["cat", "latest", "file"]).expect(0).stdout, "newer");
    program.know_nothing();
    for (snapshot, code) in [("latest", 11), (older.as_str(), 0)] {
        let cat = program.run(["cat", snapshot, "file"]).expect(code);
        assert_eq!(cat.stdout, "old");
        program.run(["ls", snapshot]).expect(code);
        program.run(["diff", snapshot, &older]).expect(code);
        program.restore("out", &[snapshot]).expect(code);
    }
}

#[test]
fn an_earlier_snapshot_that_a_region_cannot_get_is_told_as_damaged() {
    let program = Program::new();
    program.write("file", b"first");
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    program.backup_ending(3, &[]);
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
    spoil(&program, "one", "packs");
    program.write("file", b"second");
    program.write("another", b"third");
    // No later run heals that.
    program.backup_ending(11, &[]);
    program.run(["--region", "two", "restore", "latest", "--to", "out"]).expect(0);
    assert_eq!(read(program.path("out/file")).unwrap(), b"second");
}

/// Has a region of somebody who isn't root take no packs any more, or take them again.
pub fn set_packs_mode(program: &Program, region: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let packs = program.path(region).join("packs");
    let below = std::fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    for directory in below.chain([packs.clone()]) {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_region_that_stays_behind_has_nothing_stored_twice_in_the_others() {
    let program = Program::nobody();
    program.write("first", b"first");
    let backup = |code: i32| {
        let ended = program.run(["--json", "backup", &program.source().display().to_string()]).expect(code);
        (ended.json(), ended.stderr)
    };
    backup(0);
    set_packs_mode(&program, "two", 0o555);
    program.write("big", &noise(4, 3_000_000));
    backup(3);
    let before = program.bytes("one");
    for _ in 0..2 {
        let (saved, told) = backup(3);
        assert_eq!((&saved["new_chunks"], &saved["new_bytes"]), (&0.into(), &0.into()), "{saved}");
        let region = saved["regions"].as_array().unwrap().iter().find(|region| region["name"] == "two").unwrap();
        assert_eq!((&region["committed"], &region["shipped_bytes"]), (&false.into(), &0.into()));
        assert!(region["failure"].is_string() && told.contains("region 'two' takes no part"), "{saved} {told}");
    }
    assert!(program.bytes("one") - before < 100_000, "{} after {before}", program.bytes("one"));
    // Once it takes packs again, it gets all that it lacks.
    set_packs_mode(&program, "two", 0o755);
    let (saved, _) = backup(0);
    assert_eq!(saved["new_bytes"], 0);
    for region in saved["regions"].as_array().unwrap() {
        assert_eq!(region["committed"], true);
    }
    program.run(["--region", "two", "restore", "latest~1", "--to", "out", "--verify"]).expect(0);
    assert_eq!(read(program.path("out/big")).unwrap(), noise(4, 3_000_000));
}

#[test]
fn a_mount_point_without_its_disk_is_a_region_that_is_not_reached() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    std::fs::create_dir(program.path("two")).unwrap();
    let source = program.source().display().to_string();
    let ended = program.run(["--json", "backup", &source]).expect(3);
    let saved = ended.json();
    let region = saved["regions"].as_array().unwrap().iter().find(|region| region["name"] == "two").unwrap();
    let failure = region["failure"].as_str().unwrap();
    assert!(failure.contains("holds no repository") && failure.contains("mounted"), "{failure}");
    assert!(program.listing("two").is_empty(), "something was written into the mount point");
    program.restore("out", &["latest"]).expect(0);
    // None is left that vouches for the repository.
    program.run(["--region", "two", "snapshots"]).expect(12);
    std::fs::rename(program.path("one"), program.path("gone")).unwrap();
    std::fs::create_dir(program.path("one")).unwrap();
    let error = program.run(["--json", "backup", &source]).expect(12).error();
    assert!(error["message"].as_str().unwrap().contains("holds no repository"), "{error}");
    // Another repository there is one still.
    std::fs::remove_dir(program.path("two")).unwrap();
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
    let other = Program::new();
    std::fs::rename(other.path("one"), program.path("one/other")).unwrap();
    for name in ["config", "region"] {
        std::fs::rename(program.path("one/other").join(name), program.path("one").join(name)).unwrap();
    }
    program.run(["backup", &source]).expect(10);
}

#[test]
fn a_backup_does_not_store_what_it_has_stored() {
    let program = Program::new();
    program.write("file", &noise(5, 1_000_000));
    let home = program.home.path().display().to_string();
    let saved = |more: &[&str]| {
        let mut arguments = vec!["--json", "backup", &home];
        arguments.extend(more);
        program.run(arguments).expect(0).json()
    };
    let first = saved(&[]);
    // Both regions and the cache are counted, and listed by name.
    assert_eq!(first["omitted"], 3, "{first}");
    let details = program.snapshots(&["--details"])[0]["details"].clone();
    let mut omitted: Vec<(&str, &str)> = details["omitted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["path"].as_str().unwrap().split('/').next().unwrap(), item["why"].as_str().unwrap()))
        .collect();
    omitted.sort_unstable();
    assert_eq!(omitted, ["cache", "one", "two"].map(|name| (name, "own-repository")));
    let before = program.bytes("one");
    // Met by another way, and left out of the run: the same directory.
    std::os::unix::fs::symlink(program.path("one"), program.path("link")).unwrap();
    for more in [&[][..], &["--skip-if-unchanged"]] {
        saved(more);
    }
    program.run(["--region", "two", "backup", &home]).expect(3);
    assert!(program.bytes("one") - before < 200_000, "{} after {before}", program.bytes("one"));
    program.restore("out", &["latest"]).expect(0);
    assert!(program.path("out/one").is_dir() && program.listing("out/one").is_empty());
    assert_eq!(read(program.path("out/source/file")).unwrap(), noise(5, 1_000_000));
    // Named, it is captured.
    let one = program.path("one").display().to_string();
    let named = saved(&[&one]);
    assert_eq!(named["omitted"], 2, "{named}");
    assert!(named["new_bytes"].as_u64().unwrap() > 1_000_000);
}

#[test]
fn a_region_whose_config_is_damaged_keeps_nothing_from_the_others() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    for object in ["config", "region"] {
        let whole = read(program.path("two").join(object)).unwrap();
        spoil(&program, "two", object);
        program.write("file", object.as_bytes());
        let saved = program.backup_ending(3, &[]);
        let region = saved["regions"].as_array().unwrap().iter().find(|region| region["name"] == "two").unwrap();
        assert!(region["failure"].as_str().unwrap().contains(object), "{region}");
        program.run(["snapshots"]).expect(0);
        let checked = program.run(["--json", "check"]).expect(11).json();
        let issue = &checked["issues"][0];
        assert!(checked["sound"] == false && issue["kind"] == "damaged", "{checked}");
        assert!(
            issue["object"] == format!("two:{object}") && issue["detail"].as_str().unwrap().contains(object),
            "{checked}"
        );
        // Alone it can't be opened.
        program.run(["--region", "two", "snapshots"]).expect(11);
        write(program.path("two").join(object), whole).unwrap();
    }
    program.backup(&[]);
    program.run(["check"]).expect(0);
}

/// Whoever decides goes on in the others, too.
#[test]
fn decisions_leave_out_a_region_that_cannot_be_listed() {
    let program = Program::new();
    program.write("a", b"content");
    program.backup(&[]);
    let verdicts = program.path("two/verdicts");
    std::fs::create_dir_all(&verdicts).unwrap();
    std::os::unix::fs::symlink("/", verdicts.join("link")).unwrap();
    for command in [&["hold", "latest", "--reason", "evidence"][..], &["release", "latest"]] {
        let ended = program.run(command).expect(3);
        assert!(ended.stderr.contains("'two' takes no part"), "{}", ended.stderr);
    }
    std::fs::remove_file(verdicts.join("link")).unwrap();
    program.run(["replicate"]).expect(0);
    program.run(["hold", "latest", "--reason", "evidence"]).expect(0);
}

#[test]
fn a_region_that_breaks_after_it_was_opened_is_left_out() {
    for part in ["index", "snapshots", "keys", "verdicts", "sessions"] {
        let program = Program::nobody();
        program.write("file", &noise(1, 50_000));
        let first = crate::program::id(&program.backup(&[]));
        program.run(["hold", &first, "--reason", "so that there are verdicts"]).expect(0);
        let mode = |mode| {
            use std::os::unix::fs::PermissionsExt;
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(program.path("two").join(part), permissions).unwrap();
        };
        mode(0o000);
        program.write("file", &noise(2, 50_000));
        let saved = program.backup_ending(3, &[]);
        let region = |name: &str| saved["regions"].as_array().unwrap().iter().find(|at| at["name"] == name).cloned();
        assert_eq!(region("one").unwrap()["committed"], true, "{part}");
        assert_eq!(region("two").unwrap()["committed"], false, "{part}");
        program.run(["ls", "latest"]).expect(0);
        mode(0o755);
        program.backup(&[]);
        program.run(["check"]).expect(0);
    }
}

#[test]
fn under_json_each_line_of_the_standard_error_is_an_object() {
    let program = Program::new();
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    for arguments in [&["--json", "snapshots"][..], &["--json", "--region", "one", "snapshots"]] {
        let ended = program.run(arguments).expect(0);
        let lines: Vec<serde_json::Value> =
            ended.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let told =
            |line: &&serde_json::Value| line["text"].as_str().is_some_and(|text| text.contains("'two' takes no part"));
        assert_eq!(lines.iter().find(told).unwrap()["type"], "notice", "{}", ended.stderr);
    }
    assert_eq!(program.run(["--quiet", "snapshots"]).expect(0).stderr, "");
}

#[test]
fn a_signal_while_a_command_opens_is_told() {
    let program = Program::new();
    // It reads its passphrase from a pipe that nobody writes to.
    let pipe = program.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for json in [true, false] {
        let mut command = program.command(if json { &["--json", "snapshots"][..] } else { &["snapshots"] });
        command.env_remove("KEEPSTONE_IDENTITY").env("KEEPSTONE_PASSPHRASE_FILE", &pipe);
        let child = command.spawn().unwrap();
        // Opened for writing only once it is there to read.
        let held = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        crate::program::signal(&child, rustix::process::Signal::HUP);
        let ended = crate::program::Ended::new(child.wait_with_output().unwrap()).expect(130);
        match json {
            true => assert_eq!(ended.error()["class"], "cancelled"),
            false => assert!(ended.stderr.contains("stopped"), "{}", ended.stderr),
        }
        drop(held);
    }
}

#[test]
fn what_is_no_identity_file_is_not_read_without_end() {
    let program = Program::new();
    program.write("large", &vec![b'x'; 1 << 20]);
    for file in ["/dev/zero", program.source().join("large").to_str().unwrap()] {
        let error = program.run(["--json", "--identity", file, "snapshots"]).expect(2).error();
        assert!(error["message"].as_str().unwrap().contains("no identity file"), "{error}");
    }
}

#[test]
fn a_region_inside_another_one_is_refused_and_told() {
    let program = Program::new();
    let file = program.path("keepstone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let inner = program.path("one/./sub");
    std::fs::write(&file, format!("{text}\n[[regions]]\nname = 'sub'\nurl = '{}'\n", inner.display())).unwrap();
    let refused = program.run(["--json", "region", "add", "sub"]).expect(2).error();
    assert!(refused["message"].as_str().unwrap().contains("'sub' lies inside region 'one'"), "{refused}");
    assert!(!inner.exists());
    let ended = program.run(["snapshots"]).expect(0);
    assert!(ended.stderr.contains("lies inside region 'one'"), "{}", ended.stderr);
    std::fs::write(&file, text).unwrap();
    assert!(!program.run(["snapshots"]).expect(0).stderr.contains("lies inside"));
    let cache = program.path("two/cache").display().to_string();
    let ended = program.run(["--cache-dir", &cache, "snapshots"]).expect(0);
    assert!(ended.stderr.contains("cache directory") && ended.stderr.contains("'two'"), "{}", ended.stderr);
    // Nor does a new repository begin so.
    let other = Program::bare();
    let recipient = std::fs::read_to_string(other.path("recipient")).unwrap();
    std::os::unix::fs::symlink(other.path("a"), other.path("link")).unwrap();
    std::fs::create_dir(other.path("a")).unwrap();
    let (a, link) = (other.region("a"), format!("b={}", other.path("link/b").display()));
    other.run(["--region", &a, "--region", &link, "init", "--recipient", &recipient]).expect(2);
}

/// A cache without room is told as such, and where another one may be.
#[test]
fn a_cache_on_a_full_disk_has_a_class_of_its_own() {
    let program = Program::new();
    program.write("file", &noise(1, 300_000));
    program.backup(&[]);
    let small = program.path("small");
    let Some(mounted) = crate::restore::Mounted::tmpfs(&small, "size=1m") else { return };
    let mut filling = std::fs::File::create(small.join("fill")).unwrap();
    while std::io::Write::write(&mut filling, &[0; 4096]).is_ok_and(|written| written > 0) {}
    let cache = small.display().to_string();
    let source = program.source().display().to_string();
    for arguments in [&["backup", &source][..], &["restore", "latest", "--to", "out"], &["ls", "latest"]] {
        let error = program.run(["--json", "--cache-dir", &cache].iter().chain(arguments)).expect(14).error();
        assert!(error["hint"].as_str().unwrap().contains("--cache-dir"), "{error}");
        assert!(!error.to_string().contains("cache rebuild"), "{error}");
    }
    drop(filling);
    drop(mounted);
    program.restore("out", &["latest"]).expect(0);
}

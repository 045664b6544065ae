//! What a restore does to what is already there, and what it never does.

use crate::fixture::{assert_same, noise};
use crate::program::Program;
use std::fs::{create_dir_all, read, read_to_string, remove_file, set_permissions, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn filled() -> Program {
    let program = Program::new();
    program.write("home/anna/letter", b"dear");
    program.write("home/anna/photo.jpg", &noise(1, 200_000));
    program.write("home/bert/letter", b"hello");
    program.write("etc/conf", b"x = 1");
    std::fs::hard_link(program.path("source/etc/conf"), program.path("source/home/conf")).unwrap();
    program.backup(&[]);
    program
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = crate::facts::facts(root)
        .into_iter()
        .filter(|(_, fact)| !fact.starts_with("directory") && !fact.starts_with(|c: char| c.is_ascii_digit()))
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn single_paths_and_patterns_are_restored_alone() {
    let program = filled();
    program.restore("single", &["latest", "home/anna/letter"]).expect(0);
    assert_eq!(names(&program.path("single")), ["home/anna/letter"]);
    program.restore("several", &["latest", "home/anna", "etc"]).expect(0);
    assert_eq!(names(&program.path("several")), ["etc/conf", "home/anna/letter", "home/anna/photo.jpg"]);
    // Both names of a file, apart: the second one is linked or copied, never lost.
    program.restore("both", &["latest", "home/conf", "etc/conf"]).expect(0);
    assert_eq!(read_to_string(program.path("both/home/conf")).unwrap(), "x = 1");
    program.restore("second", &["latest", "home/conf"]).expect(0);
    assert_eq!(read_to_string(program.path("second/home/conf")).unwrap(), "x = 1");
    // A path given twice, or once more within another one, is no trouble.
    program.restore("twice", &["latest", "home/anna", "home/anna/letter", "home/conf", "home"]).expect(0);
    assert_same(&program.path("source/home"), &program.path("twice/home"));
    program.restore("letters", &["latest", "--include", "letter"]).expect(0);
    assert_eq!(names(&program.path("letters")), ["home/anna/letter", "home/bert/letter"]);
    program.restore("rest", &["latest", "--exclude", "home/anna"]).expect(0);
    assert_eq!(names(&program.path("rest")), ["etc/conf", "home/bert/letter", "home/conf"]);
    for path in ["no/such", "home/anna/letter/below", "../source"] {
        program.restore("none", &["latest", path]).expect(12);
        program.restore("none", &["latest", "home", path]).expect(12);
        assert!(!program.path("none").exists(), "of what isn't there nothing is made");
    }
}

/// A kill leaves the target and its directories with mode 01700, and a file of them cut with 01600.
#[test]
fn a_repetition_completes_what_a_kill_left() {
    let program = filled();
    let mode = |name: &str| std::fs::metadata(program.path(name)).unwrap().mode() & 0o7777;
    let set_mode = |name: &str, mode| set_permissions(program.path(name), PermissionsExt::from_mode(mode)).unwrap();
    for paths in [&["latest"][..], &["latest", "home/anna", "etc"]] {
        for overwrite in ["never", "if-different", "always"] {
            create_dir_all(program.path("out/home/anna")).unwrap();
            write(program.path("out/home/anna/photo.jpg"), noise(1, 1000)).unwrap();
            set_mode("out/home/anna/photo.jpg", 0o1600);
            ["out/home/anna", "out/home", "out"].iter().for_each(|directory| set_mode(directory, 0o1700));
            let shown = program.restore("out", &[paths, &["--overwrite", overwrite, "--dry-run"]].concat()).expect(0);
            assert_eq!(shown.json()["issues"], serde_json::json!([]), "{}", shown.stdout);
            program.restore("out", &[paths, &["--overwrite", overwrite]].concat()).expect(0);
            for name in ["", "/home", "/home/anna", "/home/anna/photo.jpg"] {
                let (left, right) = (format!("out{name}"), format!("source{name}"));
                assert_eq!(mode(&left), mode(&right), "{name}");
                let modified = |name: &str| std::fs::metadata(program.path(name)).unwrap().modified().unwrap();
                assert_eq!(modified(&left), modified(&right), "{name}");
            }
            assert_same(&program.path("source/home/anna"), &program.path("out/home/anna"));
            std::fs::remove_dir_all(program.path("out")).unwrap();
        }
    }
}

#[test]
fn what_is_there_is_kept_unless_told_otherwise() {
    let program = filled();
    let change = |to: &str| {
        create_dir_all(program.path(to).join("home/anna")).unwrap();
        write(program.path(to).join("home/anna/letter"), b"mine").unwrap();
        write(program.path(to).join("extra"), b"extra").unwrap();
    };
    change("never");
    // Kept as asked, but never taken for restored.
    let kept = program.restore("never", &["latest"]).expect(4).json();
    assert_eq!((&kept["kept"], kept["issues"].as_array().unwrap().len()), (&1.into(), 1), "{kept}");
    // What an earlier restore left as it should be is no trouble.
    let again = program.restore("again", &["latest"]).expect(0).json();
    let all = again["files"].as_u64().unwrap() + again["links"].as_u64().unwrap();
    assert_eq!(program.restore("again", &["latest"]).expect(0).json()["kept"], all);
    assert_eq!(read(program.path("never/home/anna/letter")).unwrap(), b"mine");
    assert_eq!(read(program.path("never/home/bert/letter")).unwrap(), b"hello");
    for (to, overwrite) in [("different", "if-different"), ("always", "always")] {
        change(to);
        program.restore(to, &["latest", "--overwrite", overwrite]).expect(0);
        assert_eq!(read(program.path(to).join("extra")).unwrap(), b"extra");
        let again =
            program.restore(to, &["latest", "--overwrite", overwrite, "--delete", "--dry-run"]).expect(0).json();
        assert_eq!(again["removed"], 1, "{again}");
        assert!(program.path(to).join("extra").exists());
        let files = program.restore(to, &["latest", "--overwrite", overwrite, "--delete"]).expect(0).json();
        assert_eq!(files["files"].as_u64().unwrap() == 0, overwrite == "if-different", "{files}");
        assert_same(&program.source(), &program.path(to));
    }
    // --delete with one path touches nothing beside it.
    change("beside");
    write(program.path("beside/home/anna/extra"), b"x").unwrap();
    program.restore("beside", &["latest", "home/anna", "--overwrite", "always", "--delete"]).expect(0);
    assert_eq!(names(&program.path("beside")), ["extra", "home/anna/letter", "home/anna/photo.jpg"]);
}

#[test]
fn what_a_backup_lacks_is_not_deleted() {
    let program = Program::nobody();
    let seal = |path: &str, mode| {
        set_permissions(program.source().join(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    for name in ["kept", "unreadable", "locked/in", "dir/x.tmp", "dir/sub/y.tmp", "gone"] {
        program.write(name, name.as_bytes());
    }
    let give = || {
        let Some(user) = program.user else { return };
        let status = std::process::Command::new("chown").arg("-R").arg(user.to_string()).arg(program.source()).status();
        assert!(status.unwrap().success());
    };
    give();
    seal("unreadable", 0o000);
    seal("locked", 0o000);
    remove_file(program.source().join("gone")).unwrap();
    let saved = program.backup_ending(4, &["--exclude", "*.tmp"]);
    assert_eq!(saved["partial"], true, "{saved}");
    write(program.source().join("gone"), "again").unwrap();
    create_dir_all(program.source().join("dir/new/deep")).unwrap();
    give();

    let arguments = ["latest", "--overwrite", "if-different", "--delete"];
    let before = names(&program.source());
    // A dry run takes no rights to look into what is locked.
    let dry = program.restore("source", &[&arguments[..], &["--dry-run"]].concat()).expect(4).json();
    let source = program.source();
    let named: Vec<_> = dry["would_remove"].as_array().unwrap().iter().map(|path| path["path"].clone()).collect();
    assert_eq!(named, ["source/dir/new/", "source/gone"], "{dry}");
    assert_eq!(names(&source), before);

    let done = program.restore("source", &arguments).expect(0).json();
    assert_eq!((&done["spared"], &done["removed"], &done["partial"]), (&4.into(), &3.into(), &true.into()), "{done}");
    seal("locked", 0o755);
    seal("unreadable", 0o644);
    assert_eq!(names(&source), ["dir/sub/y.tmp", "dir/x.tmp", "kept", "locked/in", "unreadable"]);

    let ended = program.run(["restore", "latest", "--to", "source", "--overwrite", "if-different", "--delete"]);
    let told = ended.expect(0).stdout;
    assert!(told.contains("this snapshot is PARTIAL") && told.contains("stay that the snapshot lacks"), "{told}");
    program.restore("source", &[&arguments[..], &["--delete-excluded"]].concat()).expect(0);
    assert_eq!(names(&source), ["kept", "locked/in", "unreadable"]);
}

/// What the own patterns name stays, at any depth, and what leads to it; the rest that is newer than the snapshot goes.
#[test]
fn what_the_own_patterns_name_is_not_deleted() {
    let program = Program::new();
    program.write("dir/kept", b"kept");
    program.backup(&["--exclude", "*.tmp"]);
    for name in
        ["dir/new.tmp", "dir/new", "build/deep/x.tmp", "build/deep/y", "build/z", "cache/CACHEDIR.TAG", "gone/x"]
    {
        program.write(name, b"newer");
    }
    let arguments = ["latest", "--overwrite", "if-different", "--delete", "--exclude", "*.tmp", "--exclude", "/cache"];
    let dry = program.restore("source", &[&arguments[..], &["--dry-run"]].concat()).expect(0).json();
    let mut named: Vec<_> =
        dry["would_remove"].as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["source/build/deep/y", "source/build/z", "source/dir/new", "source/gone/"], "{dry}");
    let done = program.restore("source", &arguments).expect(0).json();
    assert_eq!((&done["removed"], &done["removed"]), (&dry["removed"], &5.into()), "{done}");
    assert_eq!(done["spared"], 3, "{done}");
    assert_eq!(names(&program.source()), ["build/deep/x.tmp", "cache/CACHEDIR.TAG", "dir/kept", "dir/new.tmp"]);
    // Without them all of it goes that the backup didn't see: said in the help.
    let done = program.restore("source", &arguments[..4]).expect(0).json();
    assert_eq!(done["removed"], 6, "{done}");
    assert_eq!(names(&program.source()), ["dir/kept"]);
    program.run(["restore", "latest", "--to", "source", "--delete", "--include", "x"]).expect(2);
}

/// A pattern that was given to the backup spares the same when it is given to the restore, in whichever way it names it.
#[test]
fn patterns_mean_the_same_to_backup_and_restore() {
    let program = Program::new();
    let home = program.home.path().to_str().unwrap().to_owned();
    symlink("source", program.path("link")).unwrap();
    let (one, both) = (&["source"][..], &["source", "beside"][..]);
    let absolute = |end: &str| format!("{home}/source/{end}");
    for (sources, to, patterns) in [
        (one, "source", vec![absolute("cache"), absolute("sub/*.iso")]),
        (one, "source", vec![absolute("cache/"), absolute("**/*.iso")]),
        (one, "source", vec!["/cache".to_owned(), "/sub/*.iso".to_owned()]),
        (one, "source", vec!["cache/".to_owned(), "**/2.iso".to_owned()]),
        (one, "source", vec![format!("{home}/**/cache"), format!("{home}/*/sub/2.iso")]),
        (one, "source", vec![absolute("*"), format!("!{}", absolute("sub")), absolute("sub/*"), "!goes".to_owned()]),
        // The whole path of a source behind a link, and what that leads to.
        (&["link"], "link", vec![format!("{home}/link/cache"), absolute("sub/2.iso")]),
        (&["link/"], "source", vec![format!("{home}/link/cache"), format!("{home}/link/sub/2.iso")]),
        (&["./source/"], "./source/", vec![absolute("cache"), absolute("sub/2.iso")]),
        (both, ".", vec![absolute("cache"), absolute("sub/2.iso")]),
        (both, ".", vec!["/source/cache".to_owned(), "*.iso".to_owned()]),
    ] {
        for name in ["source", "beside"] {
            let _ = std::fs::remove_dir_all(program.path(name));
        }
        program.write("kept", b"kept");
        program.write("cache/old", b"old");
        program.write("sub/goes", b"old");
        program.write("sub/1.iso", b"1");
        write(program.path("beside"), b"a file").unwrap();
        let excludes: Vec<&str> = patterns.iter().flat_map(|pattern| ["--exclude", pattern]).collect();
        let saved = program.run([&["--json", "backup"], sources, &excludes].concat()).expect(0).json();
        assert!(saved["omitted"].as_u64().unwrap() >= 1, "{patterns:?}: {saved}");
        std::fs::remove_dir_all(program.source().join("cache")).unwrap();
        for name in ["cache/new", "sub/2.iso", "sub/goes", "gone"] {
            program.write(name, b"newer");
        }
        let all = names(&program.source());
        let arguments = ["latest", "--overwrite", "if-different", "--delete"];
        // Where the target is the home, what isn't a source is beside them, and stays.
        let arguments = if sources.len() > 1 { [&arguments[..], &["source"]].concat() } else { arguments.to_vec() };
        let dry = program.restore(to, &[&arguments[..], &excludes, &["--dry-run"]].concat()).expect(0).json();
        assert_eq!(names(&program.source()), all);
        let done = program.restore(to, &[&arguments[..], &excludes].concat()).expect(0).json();
        assert_eq!(done["removed"], dry["removed"], "{patterns:?}: {done}");
        let left = names(&program.source());
        for name in ["cache/new", "sub/2.iso", "kept"] {
            assert!(left.contains(&name.to_owned()), "{patterns:?} from {sources:?}: {name} is not in {left:?}");
        }
        // Nothing else is spared, but where the patterns name all.
        assert_eq!(left.contains(&"gone".to_owned()), patterns[0].ends_with('*'), "{patterns:?}: {left:?}");
    }
    // The path where it is restored to stands for the root, too, wherever it was taken.
    program.restore("elsewhere", &["latest", "source"]).expect(0);
    write(program.path("elsewhere/source/new"), b"new").unwrap();
    let pattern = format!("{home}/elsewhere/source/new");
    program.restore("elsewhere", &["latest", "source", "--delete", "--exclude", &pattern]).expect(0);
    assert!(program.path("elsewhere/source/new").exists());
}

/// A pattern that can spare nothing is a mistake: with --delete nothing goes, and without it is told.
#[test]
fn patterns_that_spare_nothing_delete_nothing() {
    let program = Program::new();
    program.write("dir/kept", b"kept");
    program.write("left/over", b"left out");
    program.backup(&["--exclude", "/left"]);
    std::fs::remove_dir_all(program.source().join("left")).unwrap();
    program.write("new", b"newer");
    let arguments = ["latest", "--overwrite", "if-different", "--delete"];
    let source = program.source().to_str().unwrap().to_owned();
    let beside = format!("{source}2/new");
    for pattern in [
        "",
        "!",
        "/",
        "#new",
        "./new",
        "../source/new",
        "a//b",
        "[",
        "/srv/nowhere/new",
        "nowhere/new",
        &source,
        &beside,
    ] {
        for extra in [&[][..], &["--dry-run"]] {
            let ended = program.restore("source", &[&arguments[..], &["--exclude", pattern], extra].concat()).expect(2);
            let message = ended.error()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(&format!("'{pattern}'")), "{message}");
            assert!(program.source().join("new").exists(), "{pattern}");
        }
    }
    let run = ["restore", "latest", "--to", "out", "--exclude", "/srv/nowhere/new"];
    let told = program.run(run).expect(0).stdout;
    assert!(told.contains("note: --exclude '/srv/nowhere/new' names nothing"), "{told}");
    assert_eq!(names(&program.path("out")), ["dir/kept"]);
    // Of what is restored alone: from there nobody means it.
    for pattern in ["/new", "new/x", "/left", &format!("{source}/new")] {
        let run = ["restore", "latest", "dir", "--to", "source", "--overwrite", "if-different", "--exclude", pattern];
        let refused = program.run([&run[..], &["--delete"]].concat()).expect(2).stderr;
        assert!(refused.contains("names nothing in 'dir'"), "{refused}");
        assert!(program.run(run).expect(0).stdout.contains("names nothing in 'dir'"));
    }
    for pattern in ["new", "/dir/x", "dir/x", "/dir", "**/x", &format!("{source}/dir/*.x")] {
        program.restore("source", &[&arguments[..], &["dir", "--exclude", pattern]].concat()).expect(0);
    }
    // What could be there and isn't is no mistake.
    for pattern in ["/left", "/left/over", "*.tmp", "nowhere/", "**/nowhere/new", "/dir/none", "dir/none", "/new/x"] {
        program.restore("source", &[&arguments[..], &["--exclude", pattern, "--exclude", "/new"]].concat()).expect(0);
    }
    assert!(program.source().join("new").exists());
}

/// A backup tells of a pattern that can leave nothing out, and goes on: one given for this run where the root holds
/// nothing of its name, one of the configuration only where it can name nothing in any of its sources.
#[test]
fn patterns_that_leave_nothing_out_are_told() {
    let program = Program::new();
    program.write("cache/file", b"x");
    program.write("kept", b"x");
    let source = program.source().to_str().unwrap().to_owned();
    let told = |arguments: &[&str]| {
        let ended = program.run([&["backup"], arguments].concat()).expect(0);
        let all = format!("{}{}", ended.stdout, ended.stderr);
        all.lines().filter(|line| line.contains("leaves nothing out")).map(str::to_owned).collect::<Vec<_>>()
    };
    for pattern in ["source/cache", "/srv/nowhere/x", &format!("{source}2/cache"), "!source/cache"] {
        let lines = told(&["source", "--exclude", pattern]);
        assert_eq!(lines.len(), 1, "{pattern}: {lines:?}");
        assert!(lines[0].contains(&format!("--exclude '{pattern}'")), "{lines:?}");
    }
    for pattern in ["cache", "/cache", "cache/none", "*.none", "none", "/none", "**/x/y", &format!("{source}/none/x")] {
        assert_eq!(told(&["source", "--exclude", pattern]), [""; 0], "{pattern}");
    }
    // Of two sources the root is what holds both, and what lies beside them isn't backed up.
    program.write("../beside/file", b"x");
    program.write("../second/file", b"x");
    for (pattern, count) in [("beside/file", 1), ("source/cache", 0), ("/second/none", 0), ("/beside", 1)] {
        assert_eq!(told(&["source", "second", "--exclude", pattern]).len(), count, "{pattern}");
    }
    // General ones are nobody's mistake.
    std::fs::write(program.path("patterns"), "source/cache\n/srv/nowhere/x\n").unwrap();
    assert_eq!(told(&["source", "--exclude-from", "patterns"]), [""; 0]);
    let file = program.path("keepstone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let second = program.path("second");
    let section = format!(
        "\n[backup]\npaths = [{source:?}, {second:?}]\nexclude = [\"beside/file\", \"source/none\", \"*.tmp\"]\n"
    );
    std::fs::write(&file, format!("{text}{section}")).unwrap();
    let lines = told(&[]);
    assert!(lines.len() == 1 && lines[0].contains("[backup] exclude 'beside/file'"), "{lines:?}");
    assert_eq!(told(&["source"]), [""; 0]);
}

/// A directory that stands where the snapshot has something else goes with all that it holds: named, counted, and only
/// where nothing in it has to stay.
#[test]
fn what_stands_in_the_way_is_named_and_counted() {
    let program = Program::new();
    program.write("dir/file", b"x");
    program.write("data", b"a file");
    symlink("/elsewhere", program.source().join("photos")).unwrap();
    program.backup(&[]);
    let turn = || {
        for name in ["photos", "data"] {
            let _ = remove_file(program.source().join(name));
        }
        for name in ["photos/a/1.jpg", "photos/a/2.jpg", "photos/3.jpg", "data/inner"] {
            program.write(name, b"precious");
        }
        let _ = std::fs::remove_dir_all(program.source().join("dir"));
        program.write("dir", b"a file now");
    };
    turn();
    let arguments = ["latest", "--overwrite", "if-different", "--delete"];
    let dry = program.restore("source", &[&arguments[..], &["--dry-run"]].concat()).expect(0).json();
    let mut named: Vec<_> =
        dry["would_remove"].as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!((named, &dry["removed"]), (vec!["source/data/", "source/dir", "source/photos/"], &8.into()), "{dry}");
    assert_eq!(read(program.source().join("photos/a/1.jpg")).unwrap(), b"precious");

    // Where something in it is to stay, nothing of it goes, and the entry isn't restored.
    for extra in [&[][..], &["--dry-run"]] {
        let spared = [&arguments[..], &["--exclude", "2.jpg"], extra].concat();
        let done = program.restore("source", &spared).expect(4).json();
        assert_eq!(done["issues"].as_array().unwrap().len(), 1, "{done}");
        assert!(done["issues"][0]["detail"].as_str().unwrap().contains("photos"), "{done}");
        assert_eq!(names(&program.source().join("photos")), ["3.jpg", "a/1.jpg", "a/2.jpg"]);
        turn();
    }
    let done = program.restore("source", &arguments).expect(0).json();
    assert_eq!((&done["removed"], &done["issues"]), (&8.into(), &serde_json::json!([])), "{done}");
    assert_eq!(read(program.source().join("data")).unwrap(), b"a file");
    assert_eq!(std::fs::read_link(program.source().join("photos")).unwrap(), Path::new("/elsewhere"));
    assert_eq!(read(program.source().join("dir/file")).unwrap(), b"x");
}

/// Where a region isn't reached the newest snapshot may be in it: what is newer than the newest of the others stays.
#[test]
fn the_newest_of_fewer_regions_is_told_and_deletes_nothing() {
    let program = filled();
    let known = program.backup(&[])["snapshot"].as_str().unwrap().to_owned();
    program.restore("to", &["latest"]).expect(0);
    crate::fixture::write(&program.path("to"), "newer", b"x");
    std::fs::rename(program.path("two"), program.path("gone")).unwrap();
    let refused = program.restore("to", &["latest", "--delete"]).expect(2);
    assert!(refused.stderr.contains("older state") && refused.stderr.contains("'two'"), "{}", refused.stderr);
    assert!(program.path("to/newer").exists());
    let told = program.restore("to", &["latest"]).expect(0);
    assert!(told.stderr.contains("newer ones in 'two'"), "{}", told.stderr);
    // Somebody who names the snapshot, or leaves the region out, knows.
    program.restore("to", &[&known, "--delete"]).expect(0);
    assert!(!program.path("to/newer").exists());
    let chosen = program.run(["--region", "one", "restore", "latest", "--delete", "--to", "to"]).expect(0);
    assert!(!chosen.stderr.contains("newer ones"), "{}", chosen.stderr);
}

#[test]
fn nothing_beside_the_sources_is_deleted() {
    let program = filled();
    program.run(["backup", "source/etc", "source/home/anna"]).expect(0);
    program.restore("to", &["latest"]).expect(0);
    for name in ["beside", "home/bert/letter", "home/anna/extra", "etc/extra"] {
        crate::fixture::write(&program.path("to"), name, b"x");
    }
    let done = program.restore("to", &["latest", "--overwrite", "if-different", "--delete"]).expect(0).json();
    assert_eq!((&done["removed"], &done["spared"]), (&2.into(), &2.into()), "{done}");
    let left = names(&program.path("to"));
    assert!(left.contains(&"beside".into()) && left.contains(&"home/bert/letter".into()), "{left:?}");

    // A single file's root is the directory that it was in, and a stream's is nowhere.
    program.run(["backup", "source/home/anna/letter"]).expect(0);
    program.restore("to/home/anna", &["latest", "--overwrite", "always", "--delete"]).expect(0);
    program.run(["backup", "--as", "etc", "--", "echo", "x"]).expect(0);
    program.restore("to/home/anna", &["latest", "--delete"]).expect(0);
    assert!(program.path("to/home/anna/photo.jpg").exists());
}

#[test]
fn the_newest_of_several_series_is_said_and_deletes_nothing() {
    let program = filled();
    program.run(["backup", "--dataset", "db", "--as", "dump", "--", "echo", "x"]).expect(0);
    program.restore("to", &["latest", "--dataset", "default"]).expect(0);
    let refused = program.run(["restore", "latest", "--to", "to", "--delete"]).expect(2);
    assert!(refused.stderr.contains("'db' on ") && refused.stderr.contains("--dataset"), "{}", refused.stderr);
    assert!(program.path("to/etc/conf").exists());
    let told = program.run(["restore", "latest", "--to", "new"]).expect(0);
    assert!(told.stderr.contains("of dataset 'db' on host"), "{}", told.stderr);
    let document = program.restore("newer", &["latest"]).expect(0).json();
    assert_eq!(document["dataset"], "db", "{document}");
    program.restore("to", &["latest", "--dataset", "default", "--delete"]).expect(0);
}

#[test]
fn a_name_that_is_right_is_linked_to_its_file_that_is_not() {
    let program = Program::new();
    program.write("b", b"content");
    std::fs::hard_link(program.source().join("b"), program.source().join("a")).unwrap();
    program.backup(&[]);
    program.restore("out", &["latest"]).expect(0);
    for (spoilt, right) in [("a", "b"), ("b", "a")] {
        let inode = |name: &str| std::fs::metadata(program.path("out").join(name)).unwrap().ino();
        let apart = program.path("out").join(spoilt);
        remove_file(&apart).unwrap();
        write(&apart, b"else").unwrap();
        let done = program.restore("out", &["latest", "--overwrite", "if-different", "--verify"]).expect(0).json();
        assert_eq!(inode("a"), inode("b"), "{spoilt} {right}: {done}");
        assert_eq!(done["links"], 1, "{done}");
        let again = program.restore("out", &["latest", "--overwrite", "if-different"]).expect(0).json();
        assert_eq!((&again["files_skipped"], &again["links"]), (&2.into(), &0.into()), "{again}");
    }
}

#[test]
fn without_threads_nothing_begins_and_the_limit_is_named() {
    let program = Program::nobody();
    program.write("file", b"content");
    program.backup(&[]);
    for arguments in [&["backup", "source"][..], &["restore", "latest", "--to", "out"], &["check"], &["gc"]] {
        let ended = program.run_with_threads(2, arguments).expect(15);
        assert!(
            ended.stderr.contains("threads can't be begun") && ended.stderr.contains("TasksMax"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_planted_link_leads_nowhere() {
    let program = filled();
    create_dir_all(program.path("victim/anna")).unwrap();
    write(program.path("victim/letter"), b"untouched").unwrap();
    for (overwrite, delete) in [("never", false), ("if-different", true), ("always", true)] {
        let to = format!("to {overwrite}");
        create_dir_all(program.path(&to).join("etc")).unwrap();
        symlink(program.path("victim"), program.path(&to).join("home")).unwrap();
        symlink(program.path("victim/letter"), program.path(&to).join("etc/conf")).unwrap();
        let mut arguments = vec!["latest", "--overwrite", overwrite];
        arguments.extend(delete.then_some("--delete"));
        let ended = program.restore(&to, &arguments);
        assert!(matches!(ended.code, Some(0 | 4)), "{:?} {}", ended.code, ended.stderr);
        assert_eq!(names(&program.path("victim")), ["letter"]);
        assert_eq!(read(program.path("victim/letter")).unwrap(), b"untouched");
        assert!(program.path("victim/anna").is_dir());
        if delete {
            assert_same(&program.source(), &program.path(&to));
        }
    }
}

#[test]
fn a_damaged_copy_is_read_from_the_other_region() {
    let program = filled();
    for path in
        program.listing("one").into_keys().filter(|path| path.components().any(|part| part.as_os_str() == "packs"))
    {
        let mut bytes = read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0);
        write(&path, bytes).unwrap();
    }
    let restored = program.restore("out", &["latest", "--verify"]).expect(0).json();
    assert!(restored["damaged_copies"].as_u64().unwrap() > 0, "{restored}");
    assert_same(&program.source(), &program.path("out"));
    // With the other one gone, what can't be had is said, and nothing wrong is written.
    let alone = program.run(["--json", "--region", "one", "restore", "latest", "--to", "alone"]);
    assert!(matches!(alone.code, Some(4 | 11)), "{:?} {}", alone.code, alone.stderr);
    for (path, fact) in crate::facts::facts(&program.path("alone")) {
        if fact.starts_with("file") {
            let name = String::from_utf8(path).unwrap();
            assert_eq!(read(program.path("alone").join(&name)).unwrap(), read(program.source().join(&name)).unwrap());
        }
    }
}

/// A file system of its own, for root alone.
pub struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub fn tmpfs(path: &'a Path, options: &str) -> Option<Self> {
        create_dir_all(path).unwrap();
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(path).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Mounted(path))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_or_read_only_target_has_a_class_of_its_own() {
    let program = filled();
    program.write("large", &noise(3, 8 << 20));
    program.backup(&[]);
    let (small, locked) = (program.path("small"), program.path("locked"));
    let Some(mounted) = Mounted::tmpfs(&small, "size=2m") else { return };
    let full = program.restore("small", &["latest"]).expect(14);
    assert_eq!(full.error()["class"], "storage");
    drop(mounted);
    let Some(mounted) = Mounted::tmpfs(&locked, "ro") else { return };
    let refused = program.restore("locked", &["latest"]).expect(10);
    assert_eq!(refused.error()["class"], "access");
    drop(mounted);
    write(program.path("file"), b"x").unwrap();
    assert_ne!(program.restore("file", &["latest"]).code, Some(0));
}

#[test]
fn a_full_region_is_left_out_and_the_other_one_commits() {
    let program = Program::bare();
    let two = program.path("two");
    let Some(_mounted) = Mounted::tmpfs(&two, "size=4m") else { return };
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let regions = [program.region("one"), program.region("two")];
    program.run(["--region", &regions[0], "--region", &regions[1], "init", "--recipient", &recipient]).expect(0);
    program.write("large", &noise(3, 12 << 20));
    let saved = program.backup_ending(3, &[]);
    let failure = saved["regions"][1]["failure"].as_str().unwrap();
    assert!(saved["regions"][0]["committed"] == true && saved["regions"][1]["committed"] == false, "{failure}");
    program.run(["--region", "one", "restore", "latest", "--to", "out"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    program.assert_tidy();
}

/// What waits for a second name, or to be read back, doesn't wait for the end: there may be any number of either.
#[test]
fn further_names_and_reading_back_take_turns_with_the_rest() {
    const FILES: usize = 9_000;
    let program = Program::new();
    create_dir_all(program.source().join("2")).unwrap();
    for at in 0..FILES {
        let first = program.write(&format!("{}/{at}", at % 3), &at.to_le_bytes());
        std::fs::hard_link(first, program.source().join(format!("2/and-{at}"))).unwrap();
    }
    program.backup(&[]);
    let restored = program.restore("out", &["latest", "--verify"]).expect(0).json();
    assert_eq!((&restored["files"], &restored["links"]), (&FILES.into(), &FILES.into()), "{restored}");
    assert_eq!(restored["verified"], 2 * FILES);
    assert_same(&program.source(), &program.path("out"));
}

/// Garbage in what should be a hole is found by reading back, whatever the file's size and time say; and a file that
/// was there already with both is read back too.
#[test]
fn reading_back_looks_into_holes_and_at_files_that_were_there() {
    use std::os::unix::fs::FileExt;
    let program = Program::new();
    let sparse = std::fs::File::create(program.write("sparse", b"")).unwrap();
    sparse.write_all_at(b"begins", 0).unwrap();
    sparse.write_all_at(b"ends", 20 << 20).unwrap();
    drop(sparse);
    program.backup_ending(0, &[]);
    let restore = |overwrite: &str| program.restore("out", &["latest", "--overwrite", overwrite, "--verify"]);
    restore("never").expect(0);
    let again = restore("never").expect(0).json();
    assert!(again["files"] == 0 && again["verified"].as_u64() >= Some(1), "{again}");
    let path = program.path("out/sparse");
    let about = std::fs::metadata(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"garbage", 9 << 20).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(about.modified().unwrap())).unwrap();
    drop(file);
    for overwrite in ["never", "if-different"] {
        let found = restore(overwrite).expect(4).json();
        assert!(found["issues"].to_string().contains(&format!("zeros expected at byte {}", 9 << 20)), "{found}");
    }
    restore("always").expect(0);
    assert_same(&program.source(), &program.path("out"));
}

/// Nothing is restored into a region or the cache, whether anything is to be deleted or not.
#[test]
fn nothing_is_restored_into_a_region_or_the_cache() {
    let program = filled();
    program.write("config", b"not a region's");
    program.backup(&[]);
    symlink(program.path("one"), program.path("link")).unwrap();
    let before = (program.listing("one"), program.listing("two"));
    for to in ["one", "one/new/deep", "one/packs", "link", "link/new", "cache/x", "two/../one/x"] {
        for overwrite in ["never", "if-different", "always"] {
            let refused = program.run(["restore", "latest", "--to", to, "--overwrite", overwrite]).expect(2).stderr;
            assert!(refused.contains("where keepstone's own"), "{to} {overwrite}: {refused}");
        }
    }
    // What is around one: only where all that is there is replaced, or what the snapshot lacks goes.
    for extra in [&["--overwrite", "always"][..], &["--delete"]] {
        program.run([&["restore", "latest", "--to", "."], extra].concat()).expect(2);
    }
    program.run(["restore", "latest", "config", "--to", "one", "--overwrite", "always"]).expect(2);
    assert_eq!((program.listing("one"), program.listing("two")), before);
    program.run(["restore", "latest", "home", "--to", ".", "--overwrite", "always"]).expect(0);
    program.run(["restore", "latest", "--to", "."]).expect(0);
}

//! What a restore does to what is already there, and what it never does.

use crate::fixture::{assert_same, noise};
use crate::program::Program;
use std::fs::{create_dir_all, read, read_to_string, write};
use std::os::unix::fs::symlink;
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

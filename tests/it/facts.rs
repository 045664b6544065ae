//! What a directory tree is, read with plain system calls and none of the program's own code.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, fstat, openat, readlinkat, seek, statat};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Each entry's path, and everything about it that a backup promises to keep, as text to be compared.
pub type Facts = BTreeMap<Vec<u8>, String>;

/// Reads a tree, its root included. Works past PATH_MAX.
pub fn facts(root: &Path) -> Facts {
    let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = directory.unwrap();
    let (mut facts, mut links) = (Facts::new(), BTreeMap::new());
    facts.insert(Vec::new(), common(&fstat(&directory).unwrap(), &attributes(&directory, b".")));
    read(&directory, &mut Vec::new(), &mut facts, &mut links);
    // A group is named by its first path in order of bytes.
    for paths in links.into_values().filter(|paths: &Vec<Vec<u8>>| paths.len() > 1) {
        let first = paths.iter().min().unwrap().escape_ascii().to_string();
        for path in paths {
            write!(facts.get_mut(&path).unwrap(), " linked to {first}").unwrap();
        }
    }
    facts
}

/// Asserts that two trees are the same in all that a backup promises to keep.
#[track_caller]
pub fn assert_same(expected: &Path, actual: &Path) {
    compare(&facts(expected), &facts(actual));
}

#[track_caller]
pub fn compare(expected: &Facts, actual: &Facts) {
    let mut differences = String::new();
    for path in expected.keys().chain(actual.keys().filter(|path| !expected.contains_key(*path))) {
        let (before, after) = (expected.get(path), actual.get(path));
        if before != after && differences.len() < 4000 {
            let shown = path.escape_ascii();
            writeln!(differences, "{shown}\n  expected {before:?}\n  actual   {after:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "the trees differ:\n{differences}");
}

fn common(stat: &rustix::fs::Stat, attributes: &str) -> String {
    let (mode, nanoseconds) = (stat.st_mode & 0o7777, stat.st_mtime_nsec);
    format!("{mode:o} {}:{} {}.{nanoseconds:09}{attributes}", stat.st_uid, stat.st_gid, stat.st_mtime)
}

fn attributes(directory: &OwnedFd, name: &[u8]) -> String {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut names = vec![0u8; 65_536];
    let Ok(length) = rustix::fs::llistxattr(&path[..], &mut names[..]) else { return String::new() };
    let mut names: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0u8; 65_536];
        let length = rustix::fs::lgetxattr(&path[..], name, &mut value[..]).unwrap();
        write!(text, " {}={}", name.escape_ascii(), value[..length].escape_ascii()).unwrap();
    }
    text
}

fn read(directory: &OwnedFd, prefix: &mut Vec<u8>, facts: &mut Facts, links: &mut BTreeMap<(u64, u64), Vec<Vec<u8>>>) {
    for entry in Dir::read_from(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let before = prefix.len();
        prefix.extend_from_slice(name);
        let mut text = common(&stat, &attributes(directory, name));
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => text.insert_str(0, "directory "),
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).unwrap();
                text = format!("symlink {text} -> {}", target.as_bytes().escape_ascii());
            }
            FileType::RegularFile => text = format!("file {text} {}", content(directory, name)),
            FileType::Socket => text = "socket".to_owned(),
            _ => text = format!("{kind:?} {text} {:x}", if kind == FileType::Fifo { 0 } else { stat.st_rdev }),
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            links.entry((stat.st_dev, stat.st_ino)).or_default().push(prefix.clone());
        }
        facts.insert(prefix.clone(), text);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let below = openat(directory, name, flags, Mode::empty()).unwrap();
            prefix.push(b'/');
            read(&below, prefix, facts, links);
        }
        prefix.truncate(before);
    }
}

/// Length, hash and holes.
fn content(directory: &OwnedFd, name: &[u8]) -> String {
    let fd = openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut holes = String::new();
    let length = seek(&fd, SeekFrom::End(0)).unwrap();
    let mut at = 0;
    // Smaller files are promised whole, not sparse.
    while at < length && length >= 64 << 10 {
        let Ok(hole) = seek(&fd, SeekFrom::Hole(at)) else { break };
        if hole >= length {
            break;
        }
        at = seek(&fd, SeekFrom::Data(hole)).unwrap_or(length);
        write!(holes, " hole {hole}..{at}").unwrap();
    }
    seek(&fd, SeekFrom::Start(0)).unwrap();
    let mut hasher = blake3::Hasher::new();
    let (mut file, mut buffer) = (std::fs::File::from(fd), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            read => hasher.update(&buffer[..read]),
        };
    }
    format!("{length} bytes {}{holes}", &hasher.finalize().to_hex()[..16])
}

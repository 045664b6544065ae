//! Tests of the target. They run as root or not; what needs rights that they lack is left out.

mod entries;
mod metadata;
mod safety;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Node, NodeKind, Overwrite, Restored, Target, TargetError, TargetErrorKind, TargetOptions};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Timestamp};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn node(name: &[u8], kind: NodeKind) -> Node {
    Node {
        name: name.to_vec(),
        kind,
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: Vec::new(),
        group: Vec::new(),
        modified_at: Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 },
        xattrs: Vec::new(),
        link_group: None,
    }
}

fn file_node(name: &[u8], size: u64) -> Node {
    node(name, NodeKind::File { size, content: Content::Inline(Vec::new()), inconsistent: false })
}

fn directory_node(name: &[u8]) -> Node {
    Node { mode: 0o755, ..node(name, NodeKind::Directory { tree: ChunkId::default() }) }
}

fn symlink_node(name: &[u8], target: &[u8]) -> Node {
    node(name, NodeKind::Symlink { target: target.to_vec() })
}

fn options(overwrite: Overwrite) -> TargetOptions {
    TargetOptions { overwrite, ..TargetOptions::default() }
}

fn open(path: &Path) -> Target {
    Target::open(path, TargetOptions::default()).unwrap()
}

/// Asserts that a restore had no problem.
#[track_caller]
fn clean(restored: Result<Restored, TargetError>) -> bool {
    let restored = restored.unwrap();
    assert!(restored.problems.is_empty(), "{:?}", restored.problems);
    restored.changed
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(answer: Result<T, TargetError>) -> TargetErrorKind {
    answer.unwrap_err().kind()
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A directory outside of the target with one file, which must stay as it is.
struct Outside {
    directory: TempDir,
}

impl Outside {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("precious"), "precious").unwrap();
        Outside { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn assert_untouched(&self) {
        assert_eq!(names_in(self.path()), ["precious"]);
        assert_eq!(fs::read_to_string(self.path().join("precious")).unwrap(), "precious");
    }
}

/// A file system mounted for one test; `None` where that takes rights that the test lacks.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, mount_options: &str) -> Option<Self> {
        let arguments = ["-t", "tmpfs", "-o", mount_options, "keepstone-test"];
        let output = Command::new("mount").args(arguments).arg(at).output();
        let mounted = output.is_ok_and(|output| output.status.success());
        mounted.then(|| Mounted(at.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

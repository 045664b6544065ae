//! Entries of a snapshot as text and as JSON, shared by `ls`, `find`, `cat` and `diff`.

use super::exit::{Class, CliError};
use super::render;
use crate::format::node::{Node, NodeKind};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A path argument as the trees have it: names joined by `/`, none in front; empty for the root.
pub fn normal(path: Option<&OsStr>) -> Vec<u8> {
    let bytes = path.map(OsStrExt::as_bytes).unwrap_or_default();
    let names = bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.collect::<Vec<_>>().join(&b'/')
}

/// A path for people; the root is `/`.
pub fn shown(path: &[u8]) -> Cow<'_, str> {
    if path.is_empty() { Cow::Borrowed("/") } else { render::escape(path) }
}

/// There is no such path.
pub fn no_such_path(path: &[u8]) -> CliError {
    CliError::new(Class::Missing, format!("the snapshot holds no '{}'", shown(path)))
        .hint("paths are given from the snapshot's root, as `keepstone ls` shows them")
}

fn owner(name: &[u8], id: u32) -> String {
    if name.is_empty() { id.to_string() } else { render::escape(name).into_owned() }
}

/// A line as `ls -l` gives it: mode, owner, group, size or device numbers, time, path, link target.
pub fn long_line(path: &[u8], node: &Node) -> String {
    let size = match &node.kind {
        NodeKind::File { size, .. } => size.to_string(),
        NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            format!("{major}, {minor}")
        }
        _ => "-".to_owned(),
    };
    let mut line = format!(
        "{} {:<8} {:<8} {size:>12} {} {}",
        render::mode(&node.kind, node.mode),
        owner(&node.user, node.uid),
        owner(&node.group, node.gid),
        render::file_time(node.modified_at, false),
        shown(path),
    );
    match &node.kind {
        NodeKind::Symlink { target } => line.extend([" -> ", &render::escape(target)]),
        NodeKind::File { inconsistent: true, .. } => line.push_str(" (changed while it was read)"),
        _ => {}
    }
    line
}

/// An entry as JSON; the help of `ls` lists the fields.
pub fn document(path: &[u8], node: &Node) -> Value {
    let mut document = json!({
        "type": node.kind.name(), "mode": node.mode, "permissions": render::mode(&node.kind, node.mode),
        "mtime": render::file_time(node.modified_at, true), "uid": node.uid, "gid": node.gid,
    });
    render::put_bytes(&mut document, "path", path);
    for (key, name) in [("user", &node.user), ("group", &node.group)] {
        if !name.is_empty() {
            render::put_bytes(&mut document, key, name);
        }
    }
    match &node.kind {
        NodeKind::File { size, inconsistent, .. } => {
            document["size"] = (*size).into();
            document["inconsistent"] = (*inconsistent).into();
        }
        NodeKind::Symlink { target } => render::put_bytes(&mut document, "target", target),
        NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            document["major"] = (*major).into();
            document["minor"] = (*minor).into();
        }
        NodeKind::Directory { .. } | NodeKind::Fifo => {}
    }
    if !node.xattrs.is_empty() {
        document["xattrs"] = node.xattrs.iter().map(|(name, _)| render::escape(name)).collect();
    }
    if let Some(first) = &node.link_group {
        render::put_bytes(&mut document, "link_group", first);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::normal;
    use std::ffi::OsStr;

    #[test]
    fn paths_lose_what_means_nothing() {
        for (given, path) in [("", ""), ("/", ""), ("./a//b/", "a/b"), ("/home/anna", "home/anna"), ("..", "..")] {
            assert_eq!(normal(Some(OsStr::new(given))), path.as_bytes());
        }
    }
}

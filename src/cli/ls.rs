//! `ls`: lists a snapshot's entries, while they are read.

use super::args::{Global, LsArgs};
use super::entry;
use super::exit::{Class, CliError};
use super::output::{JsonList, Output};
use super::render;
use super::workspace::Workspace;
use crate::format::node::{Node, NodeKind};
use crate::repo::pairs::{Step, walk_pairs};
use crate::repo::walk::find_path;
use crate::report::Monitor;
use serde_json::json;
use std::io::Write;

/// Runs the command.
///
/// # Errors
/// When the snapshot or the path is not there, or a tree can't be read.
pub fn run(args: &LsArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open_to_read(global)?;
    let (index, _) = workspace.index()?;
    let (info, class) = workspace.snapshot(&args.snapshot, &args.filter)?;
    let fetcher = workspace.fetcher(&index)?;
    let path = entry::normal(args.path.as_deref());
    let node = find_path(&fetcher, info.snapshot.root, &path)?.ok_or_else(|| entry::no_such_path(&path))?;
    workspace.progress.finish();
    Output::stream(|out| {
        let failed = |error: std::io::Error| CliError::output(&error);
        let mut list = None;
        if global.json {
            let mut head = json!({ "snapshot": info.id.to_string() });
            render::put_bytes(&mut head, "path", &path);
            list = Some(JsonList::begin(out, &head, "entries").map_err(failed)?);
        }
        let show = |out: &mut dyn Write, list: &mut Option<JsonList>, path: &[u8], node: &Node| match list {
            Some(list) => list.push(out, &entry::document(path, node)),
            None if args.long => writeln!(out, "{}", entry::long_line(path, node)),
            None => writeln!(out, "{}", entry::shown(path)),
        };
        // The directory that was asked for is walked into; it is not in its own list.
        let mut top = matches!(node.kind, NodeKind::Directory { .. });
        walk_pairs(&fetcher, &path, None, Some(node), &mut |pair| {
            if workspace.progress.cancelled() {
                return Err(CliError::cancelled());
            }
            if std::mem::take(&mut top) {
                return Ok(Step::Into);
            }
            if let Some(node) = pair.new {
                show(out, &mut list, pair.path, node).map_err(failed)?;
            }
            Ok(if args.recursive { Step::Into } else { Step::Over })
        })?;
        list.map_or(Ok(()), |list| list.end(out, &json!({})).map_err(failed))
    })?;
    Ok(class)
}

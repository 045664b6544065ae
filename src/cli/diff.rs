//! `diff`: shows what changed between two snapshots, while they are compared.

use super::args::{DiffArgs, Global};
use super::choice::Choice;
use super::entry;
use super::exit::{Class, CliError};
use super::output::{JsonList, Output};
use super::render;
use super::workspace::{Workspace, doubt};
use crate::diff::{Change, DiffSummary, diff};
use crate::repo::pairs::Pair;
use crate::repo::walk::find_path;
use crate::report::Monitor;
use serde_json::{Value, json};
use std::io::Write;

/// Runs the command.
///
/// # Errors
/// When a snapshot or the path is not there, or a tree can't be read.
pub fn run(args: &DiffArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open_to_read(global)?;
    let (index, _) = workspace.index()?;
    let (listing, class) = workspace.snapshots()?;
    let choice = Choice::new(&workspace, listing.snapshots, listing.forgotten, &args.filter);
    let before = choice.one(&workspace, &args.before)?;
    let after = choice.one(&workspace, &args.after)?;
    let fetcher = workspace.fetcher(&index)?;
    let path = entry::normal(args.path.as_deref());
    let old = find_path(&fetcher, before.snapshot.root, &path)?;
    let new = find_path(&fetcher, after.snapshot.root, &path)?;
    if old.is_none() && new.is_none() {
        return Err(CliError::new(Class::Missing, format!("neither snapshot holds '{}'", entry::shown(&path)))
            .hint("paths are given from the snapshot's root, as `keepstone ls` shows them"));
    }
    workspace.progress.finish();
    Output::stream(|out| {
        let failed = |error: std::io::Error| CliError::output(&error);
        let mut list = None;
        if global.json {
            let mut head = json!({ "before": before.id.to_string(), "after": after.id.to_string() });
            render::put_bytes(&mut head, "path", &path);
            list = Some(JsonList::begin(out, &head, "changes").map_err(failed)?);
        }
        let summary = diff(&fetcher, &path, old, new, &mut |change, pair| {
            if workspace.progress.cancelled() {
                return Err(CliError::cancelled());
            }
            if change == Change::Metadata && !args.metadata {
                return Ok(());
            }
            match &mut list {
                Some(list) => list.push(out, &document(change, pair)),
                None => writeln!(out, "{}  {}", change.letter(), entry::shown(pair.path)),
            }
            .map_err(failed)
        })?;
        match list {
            Some(list) => list.end(out, &json!({ "summary": numbers(&summary) })),
            None => text(out, &summary),
        }
        .map_err(failed)
    })?;
    Ok(doubt(&args.before, class).worse(doubt(&args.after, class)))
}

/// A difference as JSON: `change`, `path`, and the entry on each side, null where there is none.
fn document(change: Change, pair: &Pair<'_>) -> Value {
    let side = |node: Option<&_>| node.map(|node| entry::document(pair.path, node));
    let mut document = json!({ "change": change.name(), "before": side(pair.old), "after": side(pair.new) });
    render::put_bytes(&mut document, "path", pair.path);
    document
}

fn numbers(summary: &DiffSummary) -> Value {
    json!({
        "added": summary.added, "removed": summary.removed, "modified": summary.modified,
        "metadata": summary.metadata, "type": summary.types,
        "bytes_after": summary.bytes_new, "bytes_before": summary.bytes_old,
    })
}

fn text(out: &mut dyn Write, summary: &DiffSummary) -> std::io::Result<()> {
    writeln!(
        out,
        "{} added, {} removed, {} modified, {} of another type, {} in metadata only",
        render::count(summary.added),
        render::count(summary.removed),
        render::count(summary.modified),
        render::count(summary.types),
        render::count(summary.metadata),
    )?;
    let (new, old) = (render::size(summary.bytes_new), render::size(summary.bytes_old));
    writeln!(out, "What was added or modified is {new}; what was removed or replaced was {old}")
}

//! `find`: looks for entries in many snapshots, and groups them by version.

use super::args::{FindArgs, Global};
use super::choice::Choice;
use super::entry;
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::workspace::Workspace;
use crate::find::{Pattern, find};
use crate::repo::SnapshotInfo;
use crate::report::{Issue, IssueKind, Monitor, Phase};
use serde_json::{Value, json};

/// Runs the command.
///
/// # Errors
/// When a snapshot is not there or the pattern can't be used. Snapshots that can't be read whole are
/// reported, and make the outcome corrupt.
pub fn run(args: &FindArgs, global: &Global) -> Result<Class, CliError> {
    let text = args.pattern.to_str().ok_or_else(|| {
        CliError::usage("the pattern is not UTF-8").hint("write `?` or `*` in place of the bytes that are not")
    })?;
    let pattern = Pattern::new(text, args.ignore_case)?;
    let mut workspace = Workspace::open_to_read(global)?;
    let (index, _) = workspace.index()?;
    let (listing, mut class) = workspace.snapshots()?;
    let choice = Choice::new(&workspace, listing.snapshots, listing.forgotten, &args.filter);
    choice.tell_nothing(&workspace);
    let chosen = args.snapshots.iter().map(|reference| choice.one(&workspace, reference).map(|info| info.id));
    let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
    let mut snapshots = choice.snapshots;
    if !chosen.is_empty() {
        snapshots.retain(|info| chosen.contains(&info.id));
    }
    // Snapshots of one source share most of their directories, which are then read once.
    let key = |info: &SnapshotInfo| {
        (info.snapshot.host.clone(), info.snapshot.dataset.clone(), info.snapshot.started_at, info.id)
    };
    snapshots.sort_by_cached_key(key);
    let fetcher = workspace.fetcher(&index)?;
    let roots: Vec<_> = snapshots.iter().map(|info| (info.id, info.snapshot.root)).collect();
    workspace.progress.phase(Phase::Plan, None, None);
    let found = find(&fetcher, &roots, &pattern, &workspace.progress)?;
    for (at, error) in &found.failed {
        let subject = format!("snapshot {}", snapshots[*at].id).into_bytes();
        let kind = error.issue_kind();
        workspace.progress.issue(&Issue { kind, subject, detail: error.to_string() });
        class = class.worse(if kind == IssueKind::Unreadable { Class::Storage } else { Class::Corrupt });
    }
    workspace.progress.finish();
    let versions =
        || found.entries.iter().flat_map(|(path, versions)| versions.iter().map(move |version| (path, version)));
    let documents: Vec<Value> = match global.json {
        true => versions()
            .map(|(path, version)| {
                let mut document = entry::document(path, &version.node);
                document["snapshots"] = version.snapshots.iter().map(|at| snapshots[*at].id.to_string()).collect();
                document
            })
            .collect(),
        false => Vec::new(),
    };
    let failed: Vec<String> = found.failed.iter().map(|(at, _)| snapshots[*at].id.to_string()).collect();
    let document = json!({ "searched": snapshots.len(), "failed": failed, "entries": documents });
    let printed = Output { json: global.json }.result(&document, |out| {
        for (path, version) in versions() {
            writeln!(out, "{}", entry::long_line(path, &version.node))?;
            let ids: Vec<String> = version.snapshots.iter().map(|at| render::short(&snapshots[*at].id)).collect();
            writeln!(out, "    in {}", ids.join(" "))?;
        }
        let count = |number: usize, noun| super::render::counted(number as u64, noun);
        writeln!(
            out,
            "{} found in {}",
            match found.entries.len() {
                1 => "1 entry".to_owned(),
                more => format!("{} entries", super::render::count(more as u64)),
            },
            count(snapshots.len(), "snapshot")
        )
    });
    class.printed(printed)
}

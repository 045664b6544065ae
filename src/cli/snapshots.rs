//! `snapshots`: lists what counts.

use super::args::{Global, SnapshotsArgs};
use super::choice::Choice;
use super::exit::{Class, CliError};
use super::output::{OneByOne, Output};
use super::render::{self, Align, Table};
use super::workspace::Workspace;
use crate::env::{Clock, SystemClock};
use crate::format::snapshot::{NotCaptured, SnapshotPrivate};
use crate::repo::SnapshotInfo;
use crate::repo::snapshots;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Runs the command.
///
/// # Errors
/// When a region can't be listed.
pub fn run(args: &SnapshotsArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let (listing, class) = workspace.snapshots()?;
    let choice = Choice::new(&workspace, listing.snapshots, listing.forgotten, &args.filter);
    choice.tell_nothing(&workspace);
    let mut snapshots = choice.snapshots;
    if let Some(latest) = args.latest {
        // Newest last: counted from the end, each host and dataset by itself.
        let mut seen: HashMap<(String, String), u32> = HashMap::new();
        snapshots.reverse();
        snapshots.retain(|info| {
            let count = seen.entry((info.snapshot.host.clone(), info.snapshot.dataset.clone())).or_default();
            *count += 1;
            *count <= latest.get()
        });
        snapshots.reverse();
    }
    workspace.progress.finish();
    let mut details = Vec::new();
    for info in snapshots.iter().filter(|_| args.details) {
        details.push(snapshots::details(&workspace.repository, info)?);
    }
    let documents = snapshots.iter().enumerate().map(|(at, info)| {
        let mut document = document(&workspace, info);
        if let (Some(private), Some(fields)) = (details.get(at), document.as_object_mut()) {
            fields.insert("details".to_owned(), details_document(private));
        }
        document
    });
    let printed = Output { json: global.json }.result(&OneByOne(documents), |out| {
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("TAKEN", Align::Left),
            ("DATASET", Align::Left),
            ("HOST", Align::Left),
            ("FILES", Align::Right),
            ("SIZE", Align::Right),
            ("REGIONS", Align::Left),
            ("TAGS", Align::Left),
        ]);
        for info in &snapshots {
            let names: Vec<&str> =
                info.regions.iter().map(|at| workspace.repository.regions[*at].name.as_str()).collect();
            let partial = if info.snapshot.partial { " PARTIAL" } else { "" };
            let held = if info.hold(workspace.repository.clock.now_ns()).is_some() { " HELD" } else { "" };
            let future = if is_future(info) { " FUTURE" } else { "" };
            table.row([
                render::short(&info.id),
                render::local_time(info.snapshot.started_at),
                render::printable(&info.snapshot.dataset).into_owned(),
                render::printable(&info.snapshot.host).into_owned(),
                render::count(info.snapshot.counts.files),
                render::size(info.snapshot.counts.bytes),
                names.join(","),
                format!("{}{partial}{future}{held}", render::printable(&info.tags.join(","))),
            ]);
        }
        for line in table.lines() {
            writeln!(out, "{line}")?;
        }
        for (info, private) in snapshots.iter().zip(&details) {
            writeln!(out)?;
            writeln!(out, "Snapshot {}", info.id)?;
            for path in &private.sources {
                writeln!(out, "  source  {}", render::escape(path))?;
            }
            if !private.command.is_empty() {
                writeln!(out, "  command {}", render::escape(&private.command))?;
            }
            for item in private.issues.iter().chain(&private.omitted) {
                write!(out, "  {:<20} {}", item.why, render::escape(&item.path))?;
                let separator = if item.detail.is_empty() { "" } else { ": " };
                writeln!(out, "{separator}{}", render::printable(&item.detail))?;
            }
            let counts = &info.snapshot.counts;
            let unlisted = counts.not_captured().saturating_sub((private.issues.len() + private.omitted.len()) as u64);
            if unlisted > 0 {
                writeln!(out, "  and {} more that are only counted", render::count(unlisted))?;
            }
        }
        writeln!(out, "{}", render::counted(snapshots.len() as u64, "snapshot"))
    });
    class.printed(printed)
}

fn details_document(private: &SnapshotPrivate) -> Value {
    let path = |bytes: &[u8]| json!(render::JsonPath::from(bytes));
    let list = |items: &[NotCaptured]| -> Vec<Value> {
        let entry = |item: &NotCaptured| {
            let at = render::JsonPath::from(&item.path[..]);
            json!({ "path": at.path, "path_hex": at.path_hex, "why": item.why, "detail": item.detail })
        };
        items.iter().map(entry).collect()
    };
    json!({
        "sources": private.sources.iter().map(|source| path(source)).collect::<Vec<_>>(),
        "root": path(&private.root_path), "command": path(&private.command),
        "omitted": list(&private.omitted), "issues": list(&private.issues),
    })
}

/// True when a snapshot states a time that hasn't come yet by this machine's clock: one of the two clocks is
/// wrong, or somebody lies. Nothing rests on it; people and retention rules should know.
fn is_future(info: &SnapshotInfo) -> bool {
    info.snapshot.started_at > SystemClock.now_ns()
}

/// A snapshot as JSON.
pub fn document(workspace: &Workspace, info: &SnapshotInfo) -> Value {
    let snapshot = &info.snapshot;
    let counts = &snapshot.counts;
    let held = info.hold(workspace.repository.clock.now_ns()).map(
        |hold| json!({ "until": hold.until.map(render::json_time), "reason": hold.reason, "slot": hold.slot.to_string() }),
    );
    json!({
        "id": info.id.to_string(), "dataset": snapshot.dataset, "host": snapshot.host, "tags": info.tags,
        "started_at": render::json_time(snapshot.started_at), "finished_at": render::json_time(snapshot.finished_at),
        "slot": info.slot.to_string(), "partial": snapshot.partial, "future": is_future(info),
        "files": counts.files, "directories": counts.directories, "others": counts.others, "bytes": counts.bytes,
        "omitted": counts.omitted, "issues": counts.issues, "chunk_average_bytes": snapshot.chunk_average_bytes,
        "program": snapshot.program, "held": held,
        "regions": info.regions.iter().map(|at| workspace.repository.regions[*at].name.clone()).collect::<Vec<_>>(),
    })
}

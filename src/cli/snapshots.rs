//! `snapshots`: lists what counts.

use super::args::{Global, SnapshotsArgs};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render::{self, Align, Table};
use super::workspace::{Workspace, filtered};
use crate::repo::SnapshotInfo;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Runs the command.
///
/// # Errors
/// When a region can't be listed.
pub fn run(args: &SnapshotsArgs, global: &Global) -> Result<Class, CliError> {
    let workspace = Workspace::open(global)?;
    let (listing, class) = workspace.snapshots()?;
    let mut snapshots = filtered(listing.snapshots, &args.filter);
    if let Some(latest) = args.latest {
        let mut taken: BTreeMap<(String, String), u32> = BTreeMap::new();
        let newest_first = snapshots.into_iter().rev().filter(|info| {
            let count = taken.entry((info.snapshot.host.clone(), info.snapshot.dataset.clone())).or_default();
            *count += 1;
            *count <= latest.get()
        });
        snapshots = newest_first.collect();
        snapshots.reverse();
    }
    workspace.progress.finish();
    let documents: Vec<Value> = snapshots.iter().map(|info| document(&workspace, info)).collect();
    Output { json: global.json }.result(&documents, |out| {
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
            table.row([
                info.id.to_string()[..12].to_owned(),
                render::local_time(info.snapshot.started_at),
                render::printable(&info.snapshot.dataset).into_owned(),
                render::printable(&info.snapshot.host).into_owned(),
                render::count(info.snapshot.counts.files),
                render::size(info.snapshot.counts.bytes),
                names.join(","),
                format!("{}{partial}", render::printable(&info.tags.join(","))),
            ]);
        }
        for line in table.lines() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{}", render::counted(snapshots.len() as u64, "snapshot"))
    })?;
    Ok(class)
}

/// A snapshot as JSON.
pub fn document(workspace: &Workspace, info: &SnapshotInfo) -> Value {
    let snapshot = &info.snapshot;
    let counts = &snapshot.counts;
    json!({
        "id": info.id.to_string(), "dataset": snapshot.dataset, "host": snapshot.host, "tags": info.tags,
        "started_at": render::json_time(snapshot.started_at), "finished_at": render::json_time(snapshot.finished_at),
        "slot": info.slot.to_string(), "partial": snapshot.partial,
        "files": counts.files, "directories": counts.directories, "others": counts.others, "bytes": counts.bytes,
        "omitted": counts.omitted, "issues": counts.issues, "chunk_average_bytes": snapshot.chunk_average_bytes,
        "program": snapshot.program,
        "regions": info.regions.iter().map(|at| workspace.repository.regions[*at].name.clone()).collect::<Vec<_>>(),
    })
}

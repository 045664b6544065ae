//! `stats`: how much is stored, and what deduplication and compression save.

use super::args::Global;
use super::exit::{Class, CliError};
use super::output::Output;
use super::render::{self, Align, Table};
use super::workspace::Workspace;
use crate::stats::{PackTotals, Stats, stats};
use serde_json::{Value, json};
use std::io::Write;

/// Runs the command.
///
/// # Errors
/// When a region can't be listed or the index can't be made.
pub fn run(global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let (index, index_class) = workspace.index()?;
    let (listing, class) = workspace.snapshots()?;
    let stats = stats(&workspace.repository, &index, &listing.snapshots)?;
    workspace.progress.finish();
    Output { json: global.json }.result(&document(&stats), |out| text(out, &stats))?;
    Ok(class.worse(index_class))
}

fn document(stats: &Stats) -> Value {
    let packs = |totals: &PackTotals| {
        json!({
            "packs": totals.packs, "bytes": totals.bytes, "frames": totals.frames,
            "raw_bytes": totals.raw_bytes, "sealed_bytes": totals.sealed_bytes,
        })
    };
    let regions: Vec<Value> = stats
        .regions
        .iter()
        .map(|region| {
            let (objects, bytes) = region.total();
            let kinds: serde_json::Map<String, Value> = region
                .objects
                .iter()
                .map(|(kind, (objects, bytes))| (kind.clone(), json!({ "objects": objects, "bytes": bytes })))
                .collect();
            json!({ "name": region.region, "objects": objects, "bytes": bytes, "kinds": kinds })
        })
        .collect();
    let datasets: Vec<Value> = stats
        .datasets
        .iter()
        .map(|(name, totals)| {
            json!({
                "name": name, "snapshots": totals.snapshots, "logical_bytes": totals.logical_bytes,
                "newest_bytes": totals.newest_bytes, "newest_at": render::json_time(totals.newest_at),
            })
        })
        .collect();
    json!({
        "snapshots": stats.snapshots, "logical_bytes": stats.logical_bytes,
        "chunks": stats.chunks, "chunk_bytes": stats.chunk_bytes,
        "packs": stats.data.packs + stats.metadata.packs, "stored_bytes": stats.stored_bytes(),
        "data": packs(&stats.data), "metadata": packs(&stats.metadata),
        "compression_ratio": stats.compression_ratio(), "dedup_ratio": stats.dedup_ratio(),
        "total_ratio": stats.total_ratio(), "regions": regions, "datasets": datasets,
    })
}

fn text(out: &mut dyn Write, stats: &Stats) -> std::io::Result<()> {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let (data, metadata) = (&stats.data, &stats.metadata);
    writeln!(
        out,
        "{} of {} together, stored as {} in each whole region (ratio {})",
        render::counted(stats.snapshots, "snapshot"),
        render::size(stats.logical_bytes),
        render::size(stats.stored_bytes()),
        ratio(stats.total_ratio()),
    )?;
    writeln!(
        out,
        "Deduplication: {} of {} (ratio {})",
        render::counted(stats.chunks, "distinct chunk"),
        render::size(stats.chunk_bytes),
        ratio(stats.dedup_ratio()),
    )?;
    writeln!(
        out,
        "Compression:   {} as {} (ratio {})",
        render::size(data.raw_bytes + metadata.raw_bytes),
        render::size(data.sealed_bytes + metadata.sealed_bytes),
        ratio(stats.compression_ratio()),
    )?;
    for (name, totals) in [("content", data), ("listings", metadata)] {
        writeln!(
            out,
            "  {name}: {} in {} with {}",
            render::size(totals.bytes),
            render::counted(totals.packs, "pack"),
            render::counted(totals.frames, "frame"),
        )?;
    }
    let mut regions = Table::new(&[("REGION", Align::Left), ("OBJECTS", Align::Right), ("SIZE", Align::Right)]);
    for region in &stats.regions {
        let (objects, bytes) = region.total();
        regions.row([region.region.clone(), render::count(objects), render::size(bytes)]);
    }
    let mut datasets = Table::new(&[
        ("SNAPSHOTS", Align::Right),
        ("NEWEST", Align::Left),
        ("SIZE", Align::Right),
        ("ALL", Align::Right),
        ("DATASET", Align::Left),
    ]);
    for (name, totals) in &stats.datasets {
        datasets.row([
            render::count(totals.snapshots),
            render::local_time(totals.newest_at),
            render::size(totals.newest_bytes),
            render::size(totals.logical_bytes),
            render::printable(name).into_owned(),
        ]);
    }
    for table in [regions, datasets].iter().filter(|table| !table.is_empty()) {
        writeln!(out)?;
        table.lines().iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}

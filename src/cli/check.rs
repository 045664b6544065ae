//! `check`: verifies every reached region's structure, and with `--read-data` its packs.
//!
//! Under `--json`:
//! ```text
//! {"sound":true,"read_data":false,"read_subset":null,
//!  "regions":[{"name":"far","objects":9,"segments":2,"packs":3,"pack_bytes":4000,"packs_missing":0,
//!    "packs_orphan":0,"orphan_bytes":0,"chunks":50,"snapshots":2,"snapshots_broken":["<id>",…],
//!    "chunks_reached":48,"packs_read":0,"bytes_read":0,"chunks_verified":0}],
//!  "unchecked":[{"name":"near","reason":"…"}],
//!  "issues_total":0,"issues":[{"kind":"damaged","object":"far:index/…","detail":"…"}],
//!  "pending":[{"snapshot":"<id>","regions":["near"]}],"differences":["…"],
//!  "index_stale":false,"packs_attested":3,"healed":0,"notices":["…"]}
//! ```
//! `read_subset` says which packs were read: `all`, a share as `5%`, one part of several as `1/7`.
//! Ends as `corrupt` when anything is damaged or missing, else as `storage` when a region of the run
//! could not be reached, else as `pending` when the regions differ, else as `success`.

use super::args::{CheckArgs, Global};
use super::exit::{Class, CliError};
use super::output::Output;
use super::parse::ReadData;
use super::render;
use super::timings::Timings;
use super::workspace::Workspace;
use crate::check::{CheckError, CheckReport, Options, Subset, check};
use crate::index::{Index, RocksIndex};
use crate::replicate::{Copied, DamagedPacks, mend};
use crate::repo::attest::{ATTESTERS, publish};
use crate::report::{Issue, Monitor};
use crate::timing::Stage;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Runs the command.
///
/// # Errors
/// When the repository can't be opened, a region stops answering, or the key can't read payloads.
pub fn run(args: &CheckArgs, global: &Global) -> Result<Class, CliError> {
    let timings = Timings::begin(args.timings);
    let mut workspace = timings.timer().run(Stage::Open, || Workspace::open(global))?;
    workspace.progress.set_timer(timings.timer().clone());
    let spill = workspace.cache_directory();
    // Whether it can be made matters only to a check that needs more memory than it has: its error names it.
    let _ = std::fs::create_dir_all(&spill);
    let options = Options {
        read_data: args.read_data.map(|subset| match subset {
            ReadData::All => Subset::All,
            ReadData::Permyriad(share) => Subset::Permyriad(share),
            ReadData::Part { part, of } => Subset::Part { part, of },
        }),
        threads: workspace.settings.workers(crate::check::WORKER_BYTES),
        memory_bytes: workspace.settings.memory_bytes / 4,
        spill: Some(spill),
    };
    let index = local_index(&workspace);
    let index = index.as_ref().map(|index| index as &dyn Index);
    let mut report = check(&workspace.repository, index, &options, &workspace.progress)?;
    let healed = put_right(&workspace, &mut report)?;
    workspace.progress.finish();
    let left_out = &workspace.settings.regions_left_out;
    let unchecked: Vec<&(String, String)> =
        workspace.absent.iter().filter(|(name, _)| !left_out.contains(name)).collect();
    let attested = attest(&workspace, &report);
    let class = match () {
        () if !report.is_sound() => Class::Corrupt,
        () if !unchecked.is_empty() => Class::Storage,
        () if report.is_pending() => Class::Pending,
        () => Class::Success,
    };
    let printed = show(&report, &unchecked, options.read_data, (attested, healed), global.json, &timings);
    timings.show(global.json);
    class.printed(printed)
}

/// Gives damaged packs their right bytes, where other regions have these and the access allows it. What stays damaged
/// becomes part of the report, with whether it may be removed; the report says what was found all the same. Gives how
/// many copies are right again.
fn put_right(workspace: &Workspace, report: &mut CheckReport) -> Result<u64, CliError> {
    let damaged: DamagedPacks = std::mem::take(&mut report.damaged_packs)
        .into_iter()
        .map(|pack| (pack.entry.id, (Copied::from_entry(&pack.entry, pack.held), pack.regions)))
        .collect();
    if damaged.is_empty() {
        return Ok(0);
    }
    let mended = mend(&workspace.repository, &damaged, &workspace.progress)?;
    report.issues_total += mended.issues.len() as u64;
    report.issues.extend(mended.issues);
    Ok(mended.healed)
}

/// An owner vouches for what was read and is as stated, so that writers may rely on one another's packs. What
/// can't be written changes nothing about what was checked. Gives how many packs nobody vouched for before.
fn attest(workspace: &Workspace, report: &CheckReport) -> u64 {
    if report.verified.is_empty() || !ATTESTERS.contains(&workspace.repository.role()) {
        return 0;
    }
    publish(&workspace.repository, &report.verified).unwrap_or_else(|error| {
        workspace.progress.notice(&format!("what was verified is not attested: {error}"));
        0
    })
}

/// The index as it is, neither made nor brought up to date: a check must not hide what it differs in.
/// One that can't be opened is no fault of the repository.
fn local_index(workspace: &Workspace) -> Option<RocksIndex> {
    let directory = workspace.cache_directory().join("index");
    if !directory.exists() {
        return None;
    }
    let (repository, cache_bytes) = (workspace.repository.config.repository, workspace.settings.memory_bytes / 8);
    match RocksIndex::open(&directory, repository, cache_bytes) {
        Ok(index) => Some(index),
        Err(error) => {
            workspace.progress.notice(&format!("the local index is not compared: {error}"));
            None
        }
    }
}

/// Issues about stored objects as JSON; at most those that the report lists.
pub(super) fn issues_document(issues: &[Issue]) -> Vec<Value> {
    let object = |issue: &Issue| String::from_utf8_lossy(&issue.subject).into_owned();
    issues
        .iter()
        .map(|issue| json!({ "kind": issue.kind.name(), "object": object(issue), "detail": issue.detail }))
        .collect()
}

/// Issues as text.
pub(super) fn write_issues(out: &mut dyn Write, issues: &[Issue], total: u64) -> io::Result<()> {
    for issue in issues {
        let (subject, detail) = (render::escape(&issue.subject), render::printable(&issue.detail));
        writeln!(out, "{}: {subject}: {detail}", issue.kind.name())?;
    }
    match total - issues.len() as u64 {
        0 => Ok(()),
        more => writeln!(out, "… and {} more", render::count(more)),
    }
}

/// As `--read-data` takes it.
fn subset_text(subset: Subset) -> String {
    match subset {
        Subset::All => "all".to_owned(),
        Subset::Permyriad(share) if share % 100 == 0 => format!("{}%", share / 100),
        Subset::Permyriad(share) => format!("{}.{:02}%", share / 100, share % 100),
        Subset::Part { part, of } => format!("{part}/{of}"),
    }
}

/// What a run that read some packs didn't read, in words: each day the same part would never read the others.
fn not_read(subset: Subset) -> Option<String> {
    match subset {
        Subset::All | Subset::Part { of: 1, .. } | Subset::Permyriad(10_000) => None,
        Subset::Permyriad(_) => {
            Some(format!("A random {} of the packs was read; the others were NOT", subset_text(subset)))
        }
        Subset::Part { part, of: 2 } => {
            Some(format!("Part {part} of 2 was read; the other part was NOT: --read-data={}/2 reads it", 3 - part))
        }
        Subset::Part { part, of } => {
            let others = of - 1;
            Some(format!(
                "Part {part} of {of} was read; the other {others} parts were NOT: each of them needs a run of its own"
            ))
        }
    }
}

fn show(
    report: &CheckReport,
    unchecked: &[&(String, String)],
    read: Option<Subset>,
    (attested, healed): (u64, u64),
    json: bool,
    timings: &Timings,
) -> Result<(), CliError> {
    let regions: Vec<Value> = report
        .regions
        .iter()
        .map(|region| {
            let broken: Vec<String> = region.snapshots_broken.iter().map(ToString::to_string).collect();
            json!({
                "name": region.name, "objects": region.objects, "segments": region.segments,
                "packs": region.packs, "pack_bytes": region.pack_bytes, "packs_missing": region.packs_missing,
                "packs_orphan": region.packs_orphan, "orphan_bytes": region.orphan_bytes,
                "chunks": region.chunks, "snapshots": region.snapshots, "snapshots_broken": broken,
                "chunks_reached": region.chunks_reached, "packs_read": region.packs_read,
                "bytes_read": region.bytes_read, "chunks_verified": region.chunks_verified,
            })
        })
        .collect();
    let pending: Vec<Value> = report
        .pending
        .iter()
        .map(|pending| json!({ "snapshot": pending.id.to_string(), "regions": pending.regions }))
        .collect();
    let not_reached: Vec<Value> =
        unchecked.iter().map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
    let mut document = json!({
        "sound": report.is_sound(), "read_data": read.is_some(), "read_subset": read.map(subset_text),
        "regions": regions, "unchecked": not_reached,
        "issues_total": report.issues_total, "issues": issues_document(&report.issues),
        "pending": pending, "differences": report.differences,
        "index_stale": report.index_stale, "packs_attested": attested, "healed": healed, "notices": report.notices,
    });
    timings.add_to(&mut document);
    Output { json }.result(&document, |out| {
        write_issues(out, &report.issues, report.issues_total)?;
        for pending in &report.pending {
            let id = pending.id.to_string();
            writeln!(out, "pending: snapshot {} is not in {} yet", &id[..12], pending.regions.join(", "))?;
        }
        for difference in &report.differences {
            writeln!(out, "pending: {}", render::printable(difference))?;
        }
        for region in &report.regions {
            writeln!(
                out,
                "Region '{}': {}, {} of {} chunks reached, {} ({}) in {}, {} other objects",
                region.name,
                render::counted(region.snapshots, "snapshot"),
                render::count(region.chunks_reached),
                render::count(region.chunks),
                render::counted(region.packs, "pack"),
                render::size(region.pack_bytes),
                render::counted(region.segments, "segment"),
                render::count(region.objects),
            )?;
            if read.is_some() {
                writeln!(
                    out,
                    "  read {} ({}), {} verified",
                    render::counted(region.packs_read, "pack"),
                    render::size(region.bytes_read),
                    render::counted(region.chunks_verified, "chunk"),
                )?;
            }
            if !region.snapshots_broken.is_empty() {
                let broken = render::counted(region.snapshots_broken.len() as u64, "snapshot");
                writeln!(out, "  {broken} can't be restored whole from this region")?;
            }
        }
        if attested > 0 {
            writeln!(out, "{} more attested: every writer may rely on them", render::counted(attested, "pack"))?;
        }
        if healed > 0 {
            let packs = render::counted(healed, "damaged pack");
            writeln!(out, "Put {packs} right again: the next check that reads finds them whole")?;
        }
        for (name, reason) in unchecked {
            writeln!(out, "Region '{name}' was NOT checked: {}", render::printable(reason))?;
        }
        if let Some(others) = read.and_then(not_read) {
            writeln!(out, "{others}")?;
        }
        match report.issues_total {
            0 if read.is_some() => writeln!(out, "No damage was found in what was checked"),
            0 => writeln!(out, "No damage was found; packs were not read, --read-data does"),
            total => writeln!(out, "{} objects or references are damaged or missing", render::count(total)),
        }
    })
}

impl From<CheckError> for CliError {
    fn from(error: CheckError) -> Self {
        let text = error.to_string();
        match error {
            CheckError::Repo(source) => source.into(),
            CheckError::Graph(source) => source.into(),
            CheckError::Store { region, source } => CliError::from(source).in_region(&region),
            CheckError::NotARepository { .. } => CliError::new(Class::Missing, text).hint("check its address"),
            CheckError::NotPermitted => CliError::new(Class::Access, text),
            CheckError::Cancelled => CliError::cancelled(),
        }
    }
}

//! `gc`: reclaims what no snapshot needs. Its JSON is described in its help.

use super::args::{GcArgs, Global};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::workspace::Workspace;
use crate::format::ids::{PackId, RegionId};
use crate::gc::{GcError, GcOptions, GcReport, MAX_UNUSED_DEFAULT, OpenSession, RegionReport, Tally, gc};
use crate::pack::SpoolSpace;
use crate::policy::window::QUIET_DAYS;
use crate::repo::designation::designate;
use crate::report::Monitor;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Runs the command.
///
/// # Errors
/// When the repository can't be opened, the slot may not collect, or the user stops it.
pub fn run(args: &GcArgs, global: &Global) -> Result<Class, CliError> {
    let workspace = Workspace::open(global)?;
    if args.designate {
        return designated(&workspace, global.json);
    }
    let directory = workspace.cache_directory();
    std::fs::create_dir_all(&directory).map_err(|error| CliError::file("make", &directory, &error))?;
    let options = GcOptions {
        now: args.now,
        dry_run: args.dry_run,
        threads: workspace.settings.workers(crate::gc::WORKER_BYTES),
        memory_bytes: workspace.settings.memory_bytes / 2,
        spill: Some(directory.clone()),
        spools: SpoolSpace::Directory(directory),
        max_unused: args.max_unused.unwrap_or(MAX_UNUSED_DEFAULT),
        max_repack_bytes: args.max_repack,
        forget_window: workspace.settings.retention.window(),
        trust_clock: args.trust_clock,
        noticed: read_noticed(&workspace),
    };
    let report = gc(&workspace.repository, &options, &workspace.progress)?;
    workspace.progress.finish();
    if !args.dry_run {
        write_noticed(&workspace, &report);
    }
    show(&report, global.json)?;
    let left_out = &workspace.settings.regions_left_out;
    let unreached = workspace.absent.iter().any(|(name, _)| !left_out.contains(name));
    let mut class = Class::Success;
    for region in report.regions {
        if region.is_incomplete() {
            class = class.worse(Class::Partial);
        }
        if let Some(failure) = region.failure {
            class = class.worse(CliError::from(failure).class);
        }
    }
    Ok(if unreached { class.worse(Class::Storage) } else { class })
}

fn designated(workspace: &Workspace, json: bool) -> Result<Class, CliError> {
    let (repository, host) = (&workspace.repository, &workspace.repository.host);
    let slot = repository.secrets.slot;
    let mut regions = Vec::new();
    for region in repository.regions.iter().filter(|region| !region.info.put_if_absent) {
        designate(repository, region, slot, host)?;
        regions.push(region.name.as_str());
    }
    workspace.progress.finish();
    let document = json!({ "designated": regions, "slot": slot.to_string(), "host": host });
    Output { json }.result(&document, |out| match regions.is_empty() {
        true => writeln!(out, "Every region's store refuses a second put: any host may collect"),
        false => writeln!(out, "Slot {slot} on host '{}' collects in {}", render::printable(host), regions.join(", ")),
    })?;
    Ok(Class::Success)
}

/// The file that remembers since when this host knows of each region's open generation.
fn noticed_path(workspace: &Workspace) -> PathBuf {
    workspace.cache_directory().join("gc-noticed.json")
}

/// A file that is missing or unreadable costs a wait, nothing else.
fn read_noticed(workspace: &Workspace) -> BTreeMap<RegionId, (u64, i64)> {
    let text = std::fs::read_to_string(noticed_path(workspace)).unwrap_or_default();
    let known: BTreeMap<String, (u64, i64)> = serde_json::from_str(&text).unwrap_or_default();
    known.into_iter().filter_map(|(id, noticed)| Some((RegionId::from_hex(&id)?, noticed))).collect()
}

fn write_noticed(workspace: &Workspace, report: &GcReport) {
    let mut known = read_noticed(workspace);
    for region in &workspace.repository.regions {
        known.remove(&region.info.region);
    }
    known.extend(report.regions.iter().filter_map(|region| region.noticed).map(|(id, number, at)| (id, (number, at))));
    let known: BTreeMap<String, (u64, i64)> =
        known.into_iter().map(|(id, noticed)| (id.to_string(), noticed)).collect();
    let path = noticed_path(workspace);
    let text = serde_json::to_string(&known).unwrap_or_default();
    if let Err(error) = std::fs::write(&path, text) {
        let error = CliError::file("write", &path, &error);
        workspace.progress.notice(&format!("{}: the next run may wait longer for open sessions", error.message));
    }
}

fn tally(tally: &Tally) -> Value {
    json!({ "packs": tally.packs, "bytes": tally.bytes })
}

fn ids(packs: &[PackId]) -> Value {
    packs.iter().map(ToString::to_string).collect()
}

fn session(session: &OpenSession) -> Value {
    json!({
        "session": session.id.to_string(),
        "slot": session.slot.as_ref().map(|(slot, _)| slot.to_string()),
        "label": session.slot.as_ref().map(|(_, label)| label),
        "started_at": render::json_time(session.started_at), "observed": session.observed,
    })
}

fn region_document(region: &RegionReport) -> Value {
    let condemned: Map<String, Value> =
        region.condemned.iter().map(|(reason, packs)| (reason.name().to_owned(), tally(packs))).collect();
    let condemned_packs: Map<String, Value> =
        region.condemned_packs.iter().map(|(reason, packs)| (reason.name().to_owned(), ids(packs))).collect();
    let collected: Vec<String> = region.snapshots_collected.iter().map(ToString::to_string).collect();
    let windows: Vec<Value> = region
        .windows
        .iter()
        .map(|(id, until)| json!({ "snapshot": id.to_string(), "until": render::json_time(*until) }))
        .collect();
    json!({
        "name": region.name, "finished": region.finished, "open": region.open,
        "waiting_for": region.waiting_for.iter().map(session).collect::<Vec<_>>(),
        "condemned": condemned, "rescued": region.rescued, "repacked_bytes": region.repacked_bytes, "deleted": tally(&region.deleted),
        "condemned_packs": condemned_packs, "deleted_packs": ids(&region.deleted_packs),
        "deferred": tally(&region.deferred), "deferred_objects": region.deferred_objects,
        "deferred_reason": region.deferred_reason, "sessions_fenced": region.sessions_fenced,
        "snapshots_collected": collected, "segments_written": region.segments_written,
        "segments_deleted": region.segments_deleted, "objects_deleted": region.objects_deleted,
        "kept": tally(&region.kept), "live_bytes": region.live_bytes, "dead_bytes": region.dead_bytes,
        "dead_in_live_frames_bytes": region.dead_in_live_frames_bytes,
        "sessions_open": region.sessions_open.iter().map(session).collect::<Vec<_>>(),
        "session_packs": tally(&region.session_packs), "windows": windows, "doubted_clock": region.doubted_clock.map(render::json_time),
        "held": region.held,
        "notices": region.notices, "failure": region.failure.as_ref().map(ToString::to_string),
    })
}

fn show(report: &GcReport, json: bool) -> Result<(), CliError> {
    let regions: Vec<Value> = report.regions.iter().map(region_document).collect();
    let document = json!({ "dry_run": report.dry_run, "regions": regions });
    Output { json }
        .result(&document, |out| report.regions.iter().try_for_each(|region| write_region(out, region, report.dry_run)))
}

fn amount(tally: &Tally) -> String {
    format!("{} ({})", render::counted(tally.packs, "pack"), render::size(tally.bytes))
}

fn write_sessions(out: &mut dyn Write, sessions: &[OpenSession]) -> io::Result<()> {
    for session in sessions {
        let id = session.id.to_string();
        let label = session.slot.as_ref().map_or("an unknown slot", |(_, label)| label);
        let since = render::local_time(session.started_at);
        writeln!(out, "    session {} of '{}', begun {since}", &id[..12], render::printable(label))?;
    }
    Ok(())
}

fn write_region(out: &mut dyn Write, region: &RegionReport, dry_run: bool) -> io::Result<()> {
    let (deletes, condemns) = match dry_run {
        true => ("would delete", "would condemn"),
        false => ("deleted", "condemned"),
    };
    writeln!(out, "Region '{}': {deletes} {}", region.name, amount(&region.deleted))?;
    for (reason, packs) in &region.condemned {
        let why = match reason {
            crate::gc::Reason::Unreached => "no snapshot reaches them",
            crate::gc::Reason::Duplicate => "what snapshots reach of them is elsewhere, too",
            crate::gc::Reason::Emptied => "what snapshots need of them was taken into new packs",
            crate::gc::Reason::Orphan => "left by backups that didn't end",
            crate::gc::Reason::Lost => "listed, but lost",
        };
        writeln!(out, "  {condemns} {}: {why}", amount(packs))?;
    }
    if region.rescued > 0 {
        writeln!(out, "  {} of those condemned before are needed after all", render::counted(region.rescued, "pack"))?;
    }
    if !region.snapshots_collected.is_empty() {
        let collected = render::counted(region.snapshots_collected.len() as u64, "forgotten snapshot");
        writeln!(out, "  {collected} can't be brought back any more; what they alone need goes next")?;
    }
    if region.sessions_fenced > 0 {
        writeln!(out, "  {} of hosts that broke off ended", render::counted(region.sessions_fenced, "session"))?;
    }
    if region.deferred.packs + region.deferred_objects > 0 {
        let reason = region.deferred_reason.as_deref().unwrap_or_default();
        writeln!(
            out,
            "  NOT deleted, since the store refuses: {} and {}; each run tries again ({})",
            amount(&region.deferred),
            render::counted(region.deferred_objects, "other object"),
            render::printable(reason)
        )?;
    }
    if !region.waiting_for.is_empty() {
        writeln!(out, "  generation {} waits until these backups have seen it:", region.open.unwrap_or(0))?;
        write_sessions(out, &region.waiting_for)?;
    } else if let Some(open) = region.open.filter(|_| !dry_run) {
        writeln!(out, "  what is condemned goes with the next run (generation {open})")?;
    }
    if region.kept.packs > 0 {
        let dead = render::size(region.dead_bytes);
        writeln!(out, "  {} stay; snapshots need all of their content but {dead}", amount(&region.kept))?;
    }
    if region.dead_in_live_frames_bytes > 0 {
        let size = render::size(region.dead_in_live_frames_bytes);
        writeln!(
            out,
            "    {size} of that share frames with what is needed: an owner's runs take them out, once it is enough"
        )?;
    }
    if region.session_packs.packs > 0 {
        writeln!(out, "    {} stay for backups that are running:", amount(&region.session_packs))?;
        write_sessions(out, &region.sessions_open)?;
    }
    for (id, until) in &region.windows {
        let (id, until) = (id.to_string(), render::local_time(*until));
        writeln!(out, "    forgotten snapshot {} can be brought back until {until} at least", &id[..12])?;
    }
    if let Some(now) = region.doubted_clock {
        let now = render::local_time(now);
        writeln!(
            out,
            "  NO forgotten snapshot went for good: this host's clock says {now}, and nothing was backed up or \
             forgotten here in the {QUIET_DAYS} days before the forget window that ends then. If the clock is right, \
             run `keepstone gc --trust-clock`"
        )?;
    }
    if region.held > 0 {
        writeln!(out, "    {} on hold", render::counted(region.held, "snapshot"))?;
    }
    for notice in &region.notices {
        writeln!(out, "  {}", render::printable(notice))?;
    }
    match &region.failure {
        Some(failure) => writeln!(out, "  STOPPED: {}", render::printable(&failure.to_string())),
        None => Ok(()),
    }
}

impl From<GcError> for CliError {
    fn from(error: GcError) -> Self {
        let text = error.to_string();
        match error {
            GcError::Repo(source) => source.into(),
            GcError::Pack(source) => source.into(),
            GcError::Graph(source) => source.into(),
            GcError::Incomplete { .. } => CliError::new(Class::Corrupt, text),
            GcError::Cancelled => CliError::cancelled().hint("run it again: it goes on where this one stopped"),
        }
    }
}

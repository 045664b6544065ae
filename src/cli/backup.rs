//! `backup`: saves a snapshot of directories, of the standard input, or of a command's output.

use super::args::{BackupArgs, Global};
use super::config::{BackupSettings, BackupSource, DedupTrust};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::timings::Timings;
use super::workspace::Workspace;
use crate::backup::{Backup, BackupError, BackupSummary, backup_stream, backup_tree};
use crate::env::Clock;
use crate::format::config::{CONFIG_NAME, config_beginning};
use crate::format::node::Timestamp;
use crate::index::Index;
use crate::pack::SpoolSpace;
use crate::replicate::Depth;
use crate::repo::SnapshotInfo;
use crate::repo::open::AUTHORS;
use crate::repo::presence;
use crate::report::{IssueKind, Monitor};
use crate::source::{CommandStream, Interruptible, Walk, WalkOptions, stdin_stream, stream_node};
use crate::timing::Stage;
use serde_json::json;
use std::ffi::OsString;
use std::time::Duration;

/// Runs the command.
///
/// # Errors
/// When no snapshot was saved.
pub fn run(args: &BackupArgs, global: &Global) -> Result<Class, CliError> {
    let timings = Timings::begin(args.timings);
    let timer = timings.timer();
    // The source is looked at before anything is asked for or opened: a typo costs nothing.
    let early = super::workspace::settings(global, false)?;
    let wanted = early.backup(args)?;
    let walk = match &wanted.source {
        BackupSource::Paths(paths) => {
            // What no snapshot could name isn't even looked at.
            crate::backup::check_sources(&[&paths[..], &wanted.listed].concat())?;
            Some(Walk::new(paths, walk_options(&wanted)).map_err(BackupError::Source)?)
        }
        _ => None,
    };
    drop(early);
    let mut workspace = timer.run(Stage::Open, || Workspace::open_as_author(global))?;
    workspace.progress.set_timer(timer.clone());
    workspace.repository.require(&AUTHORS, "back up")?;
    if let Some(walk) = &walk {
        tell_astray(&workspace, args, &wanted, walk);
    }
    // Before anything is copied into a region that takes other snapshots only.
    crate::backup::check_dataset(&workspace.repository, &wanted.dataset)?;
    let (index, mut index_class) = timer.run(Stage::Open, || workspace.index())?;
    let mut lacking = timer.run(Stage::Open, || workspace.lacking(&index))?;
    let (mut listing, mut listing_class) = timer.run(Stage::Open, || workspace.snapshots())?;
    let mut log_class = Class::Success;
    if workspace.leave_out_damaged_logs(&listing)? {
        log_class = Class::Corrupt;
        (listing, listing_class) = workspace.snapshots()?;
    }
    let doubted = timer.run(Stage::Open, || workspace.doubts(&index, &listing.snapshots, &mut lacking))?;
    let mut behind = Class::Success;
    let mut looked = None;
    let is_lacking = !lacking.is_empty() || !doubted.is_empty() || index_class != Class::Success;
    if (workspace.repository.regions.len() > 1 || is_lacking) && !wanted.dry_run {
        // A region that fell behind is brought up first: what is new is then stored once for all.
        let mut broke = false;
        // What it lost of earlier ones as well; what can't be put back is stored again, from the source.
        let healed = crate::replicate::heal(&workspace.repository, &index, &mut lacking, &workspace.progress)?;
        if healed.packs > 0 {
            workspace.progress.notice(&format!("{} put back", render::counted(healed.packs, "lost pack")));
        }
        if healed.issues.iter().any(|issue| issue.kind == IssueKind::Damaged) {
            behind = Class::Corrupt;
        }
        // What is lost and can't come back so may be needed by nothing, or be copied under another name.
        let depth = if is_lacking { Depth::Content } else { Depth::Commits };
        let forgotten = crate::replicate::put_forgotten_back(
            &workspace.repository,
            &listing.forgotten,
            Depth::Commits,
            &workspace.progress,
        )?;
        let copied = loop {
            let scratch = Some(SpoolSpace::Directory(workspace.cache_directory()));
            match crate::replicate::replicate(
                &workspace.repository,
                &listing.snapshots,
                depth,
                scratch,
                workspace.settings.memory_bytes / 4,
                &workspace.progress,
            ) {
                Ok(copied) => break copied,
                Err(error) => workspace.go_on_without(error)?,
            }
            broke = true;
            (listing, listing_class) = workspace.snapshots()?;
        };
        if !copied.issues.is_empty() {
            // Not this snapshot, but an earlier one isn't committed in every region yet.
            behind = behind.worse(Class::Pending);
        }
        if copied.is_damaged() {
            behind = behind.worse(Class::Corrupt);
        }
        looked = Some(workspace.losses(&index, &lacking, Some(&copied))?);
        let aside = workspace.set_aside(copied.behind);
        if copied.packs + copied.segments + copied.commits + copied.decisions + copied.healed + forgotten.healed > 0
            || aside
            || broke
        {
            // What was damaged may be whole by now.
            index_class = workspace.bring_up(&index)?;
            // It may have been made anew, and what is lacking is told by its numbers.
            lacking = presence::look(&workspace.repository, &index)?;
            (listing, listing_class) = workspace.snapshots()?;
        }
    }
    let lost_class = match looked {
        Some(class) => class,
        None => workspace.losses(&index, &lacking, None)?,
    };
    let options = Backup { lacking: Some(lacking), ..options(&workspace, &wanted)? };
    let summary = match (&wanted.source, walk) {
        (BackupSource::Paths(_), Some(mut walk)) => {
            walk.leave_out_own(workspace.own_directories());
            walk.leave_out_regions(CONFIG_NAME.as_bytes(), &config_beginning(workspace.repository.config.repository));
            backup_tree(&workspace.repository, &index, &options, walk, &listing.snapshots, &workspace.progress)?
        }
        (BackupSource::Command { name, command }, _) => {
            stream(&workspace, &index, &options, name, Some(command), &listing.snapshots)?
        }
        (BackupSource::Stdin { name }, _) => stream(&workspace, &index, &options, name, None, &listing.snapshots)?,
        (BackupSource::Paths(_), None) => return Err(CliError::new(Class::Failed, "the source was not walked")),
    };
    workspace.progress.finish();
    let printed = show(&workspace, &wanted, &summary, global.json, &timings);
    timings.show(global.json);
    // The snapshot is saved; damage that was met on the way is told by the exit code all the same.
    let class = class(&workspace, &summary, options.dry_run)
        .worse(behind)
        .worse(index_class)
        .worse(lost_class)
        .worse(listing_class)
        .worse(log_class);
    class.printed(printed).map_err(|mut error| {
        if let Some(id) = summary.snapshot {
            error.message = format!("{}; snapshot {id} is saved", error.message);
        }
        error
    })
}

fn class(workspace: &Workspace, summary: &BackupSummary, dry_run: bool) -> Class {
    let mut class = Class::Success;
    if summary.partial() {
        class = class.worse(Class::Partial);
    }
    if !dry_run && (summary.pending() || !workspace.absent.is_empty()) {
        class = class.worse(Class::Pending);
    }
    class
}

/// Tells of patterns that can leave nothing out. Those of a configuration and of files are meant for other runs as well:
/// of the configuration's, only those that can't name anything in the configuration's own sources are told.
fn tell_astray(workspace: &Workspace, args: &BackupArgs, wanted: &BackupSettings, walk: &Walk) {
    for pattern in args.exclude.iter().filter(|pattern| walk.leads_astray(pattern)) {
        let root = walk.root().display();
        workspace.progress.notice(&format!(
            "--exclude '{pattern}' leaves nothing out: with a / in it, a pattern is matched from the snapshot's root, \
             and {root} holds no such path; write the absolute path, or the one from {root}"
        ));
    }
    let is_configured = args.paths.is_empty() && args.files_from.is_none() && args.files_from0.is_none();
    for pattern in wanted.exclude.iter().filter(|pattern| walk.leads_into_no_source(pattern)) {
        let is_given = args.exclude.contains(pattern);
        if is_given && !walk.leads_astray(pattern) || !is_given && is_configured {
            let option = if is_given { "--exclude" } else { "[backup] exclude" };
            workspace
                .progress
                .notice(&format!("{option} '{pattern}' leaves nothing out: it names nothing in what is backed up"));
        }
    }
}

fn walk_options(wanted: &BackupSettings) -> WalkOptions {
    WalkOptions {
        excludes: wanted.exclude.iter().map(OsString::from).collect(),
        exclude_from: wanted.exclude_from.clone(),
        ignore_files: wanted.ignore_files.iter().map(OsString::from).collect(),
        exclude_larger_than: wanted.exclude_larger_than_bytes,
        exclude_if_present: wanted
            .exclude_if_present
            .iter()
            .map(|marker| (OsString::from(&marker.name), marker.header.as_ref().map(|text| text.as_bytes().to_vec())))
            .collect(),
        exclude_caches: wanted.exclude_caches,
        one_file_system: wanted.one_file_system,
        listed: wanted.listed.clone(),
        ..WalkOptions::default()
    }
}

fn options(workspace: &Workspace, wanted: &BackupSettings) -> Result<Backup, CliError> {
    let directory = workspace.cache_directory();
    Ok(Backup {
        dataset: wanted.dataset.clone(),
        host: wanted.host.clone(),
        tags: wanted.tags.iter().cloned().collect(),
        chunk_average: wanted.chunk_size_bytes,
        compression: wanted.compression,
        dry_run: wanted.dry_run,
        skip_if_unchanged: wanted.skip_if_unchanged,
        allow_empty: wanted.allow_empty,
        trust: match workspace.settings.dedup_trust {
            DedupTrust::Verified => crate::backup::DedupTrust::Own,
            DedupTrust::All => crate::backup::DedupTrust::All,
        },
        lacking: None,
        threads: workspace.settings.workers(crate::backup::worker_bytes(wanted.chunk_size_bytes)),
        spools: SpoolSpace::Directory(directory.clone()),
        seen_directory: Some(directory),
        watch_interval: crate::backup::WATCH_INTERVAL_DEFAULT,
    })
}

fn stream(
    workspace: &Workspace,
    index: &dyn Index,
    options: &Backup,
    name: &str,
    command: Option<&Vec<OsString>>,
    earlier: &[SnapshotInfo],
) -> Result<BackupSummary, CliError> {
    let now_ns = crate::env::SystemClock.now_ns();
    let now =
        Timestamp { seconds: now_ns.div_euclid(1_000_000_000), nanoseconds: now_ns.rem_euclid(1_000_000_000) as u32 };
    let node = stream_node(name.as_ref(), now).map_err(BackupError::Command)?;
    let monitor: &dyn Monitor = &workspace.progress;
    let repository = &workspace.repository;
    match command {
        None => {
            let input = Interruptible::new(stdin_stream().map_err(BackupError::Command)?, monitor);
            let done = |_| Ok(());
            Ok(backup_stream(repository, index, options, node, Vec::new(), input, done, earlier, monitor)?)
        }
        Some(argv) => {
            let mut running = CommandStream::spawn(argv).map_err(BackupError::Command)?;
            let output =
                running.take_output().ok_or_else(|| CliError::new(Class::Failed, "the command has no output"))?;
            let output = Interruptible::new(output, monitor);
            let program = argv.first().map(|program| program.as_encoded_bytes().to_vec()).unwrap_or_default();
            // Dropped on any other way out, it ends the command.
            let finish = move |_| running.finish(monitor).map_err(BackupError::Command);
            Ok(backup_stream(repository, index, options, node, program, output, finish, earlier, monitor)?)
        }
    }
}

fn show(
    workspace: &Workspace,
    wanted: &BackupSettings,
    summary: &BackupSummary,
    json: bool,
    timings: &Timings,
) -> Result<(), CliError> {
    let elapsed = Duration::from_nanos(summary.finished_at.saturating_sub(summary.started_at).max(0) as u64);
    let counts = &summary.counts;
    let ratio = if summary.stored_bytes > 0 { summary.new_bytes as f64 / summary.stored_bytes as f64 } else { 1.0 };
    let regions: Vec<_> = summary
        .regions
        .iter()
        .map(|region| {
            json!({
                "name": region.name, "committed": region.committed, "shipped_bytes": region.shipped_bytes,
                "failure": region.failure.as_ref().map(|(_, why)| why),
            })
        })
        .chain(
            workspace
                .absent
                .iter()
                .filter(|(name, _)| summary.regions.iter().all(|region| region.name != *name))
                .map(|(name, why)| json!({ "name": name, "committed": false, "shipped_bytes": 0, "failure": why })),
        )
        .collect();
    let mut document = json!({
        "snapshot": summary.snapshot.map(|id| id.to_string()),
        "dataset": wanted.dataset, "host": wanted.host, "dry_run": wanted.dry_run, "unchanged": summary.unchanged,
        "partial": summary.partial(),
        "started_at": render::json_time(summary.started_at), "finished_at": render::json_time(summary.finished_at),
        "files": counts.files, "directories": counts.directories, "others": counts.others, "bytes": counts.bytes,
        "files_new": summary.files_new, "files_changed": summary.files_changed,
        "files_unmodified": summary.files_unmodified,
        "omitted": counts.omitted, "issues": counts.issues,
        "new_chunks": summary.new_chunks, "new_bytes": summary.new_bytes, "stored_bytes": summary.stored_bytes,
        "regions": regions,
    });
    timings.add_to(&mut document);
    Output { json }.result(&document, |out| {
        match wanted.source {
            BackupSource::Paths(_) => writeln!(
                out,
                "Files:   {} new, {} changed, {} unmodified; {} directories, {} others",
                render::count(summary.files_new),
                render::count(summary.files_changed),
                render::count(summary.files_unmodified),
                render::count(counts.directories),
                render::count(counts.others),
            )?,
            _ => writeln!(out, "Stream:  {}", render::size(counts.bytes))?,
        }
        if counts.not_captured() > 0 {
            writeln!(
                out,
                "Missing: {} left out on purpose, {} failed",
                render::count(counts.omitted),
                render::count(counts.issues)
            )?;
        }
        writeln!(
            out,
            "Added:   {} new of {} read or known, stored as {} (ratio {ratio:.2})",
            render::size(summary.new_bytes),
            render::size(counts.bytes),
            render::size(summary.stored_bytes),
        )?;
        for region in &summary.regions {
            let state = match (&region.failure, region.committed) {
                (None, true) => "committed".to_owned(),
                (Some((_, why)), true) => format!("committed, but {}", render::printable(why)),
                (Some((_, why)), false) => format!("NOT committed: {}", render::printable(why)),
                (None, false) => "NOT committed".to_owned(),
            };
            writeln!(out, "Region '{}': {} shipped, {state}", region.name, render::size(region.shipped_bytes))?;
        }
        let took = render::duration(elapsed);
        match summary.snapshot {
            Some(id) if summary.partial() => writeln!(out, "Saved PARTIAL snapshot {id} in {took}"),
            Some(id) => writeln!(out, "Saved snapshot {id} in {took}"),
            None if summary.unchanged => {
                writeln!(out, "Nothing has changed since the last snapshot; none saved ({took})")
            }
            None => writeln!(out, "Dry run: nothing was stored ({took})"),
        }
    })
}

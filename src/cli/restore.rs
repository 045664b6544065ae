//! `restore`: brings a snapshot, or some paths of it, into a directory.

use super::args::{Global, Overwrite, RestoreArgs, RestoreSelection};
use super::choice::Choice;
use super::config::Settings;
use super::exit::{Class, CliError};
use super::output::Output;
use super::parse::SnapshotRef;
use super::render;
use super::timings::Timings;
use super::workspace::{Workspace, doubt};
use crate::format::config::{CONFIG_NAME, config_beginning};
use crate::format::snapshot::SnapshotPrivate;
use crate::repo::fetch::Fetcher;
use crate::repo::snapshots::{SnapshotInfo, details};
use crate::report::{IssueKind, Monitor};
use crate::restore::target::{Overwrite as TargetOverwrite, Target, TargetOptions};
use crate::restore::{Restore, Scope, ScopeError, require_paths, restore};
use crate::store::open::local_path;
use crate::timing::Stage;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Refuses what would write into a region or the cache, or replace or delete what is there: no snapshot holds them as
/// they are now.
fn spare_own_directories(args: &RestoreArgs, selection: &RestoreSelection, own: &[PathBuf]) -> Result<(), CliError> {
    // What isn't there can't be deleted.
    let own: Vec<PathBuf> = own.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let below = match &selection.paths[..] {
        [] => vec![args.to.clone()],
        paths => {
            paths.iter().map(|path| args.to.join(Path::new(path).strip_prefix("/").unwrap_or(path.as_ref()))).collect()
        }
    };
    for target in below.iter().filter_map(|path| led_to(path)) {
        let does = match () {
            () if args.delete => "--delete would remove from",
            () if args.overwrite == Overwrite::Always => "--overwrite always would replace in",
            () => "this would restore into",
        };
        let replaces = args.delete || args.overwrite == Overwrite::Always;
        let taken = |own: &&PathBuf| target.starts_with(own) || replaces && own.starts_with(&target);
        if let Some(own) = own.iter().find(taken) {
            let (own, target) = (render::path(own), render::path(&target));
            return Err(CliError::usage(format!("{does} {target}, where keepstone's own {own} is"))
                .hint("restore to another directory, or only paths that hold neither a region nor the cache"));
        }
    }
    Ok(())
}

/// Where a path leads of which the end may not be there yet. `None` where that can't be told: then it can't be made, either.
fn led_to(path: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    let there = whole.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    there.and_then(|(above, led)| Some(led.join(whole.strip_prefix(above).ok()?)))
}

/// The regions' directories and the cache's.
fn own_directories(settings: &Settings) -> Vec<PathBuf> {
    let addresses = settings.regions.iter().map(|region| &region.url).chain(&settings.addresses_left_out);
    addresses.filter_map(|url| local_path(url)).chain([settings.cache_dir.clone()]).collect()
}

/// The directories that a pattern may name the snapshot's root by: where it was taken, and where it is restored to.
fn roots(args: &RestoreArgs, private: Option<&SnapshotPrivate>) -> Vec<PathBuf> {
    // A stream's is nowhere.
    let taken = private.map(|private| PathBuf::from(OsStr::from_bytes(&private.root_path)));
    let all = taken.into_iter().chain(std::path::absolute(&args.to).ok()).filter(|path| path.is_absolute());
    let by_text = |path: &PathBuf| !path.components().any(|name| name == Component::ParentDir);
    // Each also as what its links lead to, as the backup takes it.
    let mut roots: Vec<PathBuf> = all
        .flat_map(|path| [led_to(&path), Some(path)])
        .flatten()
        .filter(by_text)
        .map(|path| path.components().collect())
        .collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// What to say where the newest snapshot may be in a region that isn't reached: one that was left out is not meant.
fn newer_elsewhere(workspace: &Workspace, wanted: &SnapshotRef) -> Option<String> {
    let left_out = &workspace.settings.regions_left_out;
    let absent = workspace.absent.iter().map(|(name, _)| name).filter(|name| !left_out.contains(name));
    let names: Vec<String> = absent.map(|name| format!("'{name}'")).collect();
    let is_latest = matches!(wanted, SnapshotRef::Latest { .. });
    (is_latest && !names.is_empty()).then(|| {
        let names = names.join(", ");
        format!(
            "'latest' counts the snapshots of the regions that were reached, and there may be newer ones in {names}"
        )
    })
}

/// What `--delete` may take.
fn scope(args: &RestoreArgs, info: &SnapshotInfo, private: &SnapshotPrivate) -> Result<Scope, CliError> {
    Scope::of(&info.snapshot, private, args.delete_excluded).map_err(|error| {
        let hint = match error {
            ScopeError::Cut { .. } if !args.delete_excluded && info.snapshot.counts.issues == 0 => {
                "restore to an empty directory; or add --delete-excluded, if what was left out may go, too"
            }
            _ => "restore to an empty directory, or without --delete",
        };
        CliError::usage(format!("--delete can't be used: {error}")).hint(hint)
    })
}

/// Runs the command.
///
/// # Errors
/// When it can't begin or had to stop.
pub fn run(args: &RestoreArgs, global: &Global) -> Result<Class, CliError> {
    let timings = Timings::begin(args.timings);
    let timer = timings.timer();
    let selection = args.selection()?;
    let mut workspace = timer.run(Stage::Open, || Workspace::open_to_read(global))?;
    workspace.progress.set_timer(timer.clone());
    let (index, _) = timer.run(Stage::Open, || workspace.index())?;
    let (listing, listing_class) = timer.run(Stage::Open, || workspace.snapshots())?;
    let choice = Choice::new(&workspace, listing.snapshots, listing.forgotten, &args.filter);
    let info = choice.one(&workspace, &selection.snapshot)?;
    let (dataset, host) = (&info.snapshot.dataset, &info.snapshot.host);
    let series = choice.series(&selection.snapshot);
    if !series.is_empty() && args.delete {
        let all: Vec<String> = series.iter().map(|(dataset, host)| format!("'{dataset}' on '{host}'")).collect();
        return Err(CliError::usage(format!(
            "--delete would make the target the newest of several datasets and hosts ({}): it is of '{dataset}' on '{host}'",
            all.join(", ")
        ))
        .hint("say which is meant with --dataset and --host, or name the snapshot by its id"));
    }
    if !series.is_empty() {
        workspace.progress.notice(&format!(
            "this is the newest of several datasets and hosts: of dataset '{dataset}' on host '{host}'; --dataset and --host choose another"
        ));
    }
    let unseen = newer_elsewhere(&workspace, &selection.snapshot);
    if let Some(unseen) = &unseen {
        if args.delete {
            return Err(CliError::usage(format!("--delete would make the target an older state: {unseen}"))
                .hint("name the snapshot by its id, or restore without --delete"));
        }
        workspace.progress.notice(unseen);
    }
    let own = own_directories(&workspace.settings);
    spare_own_directories(args, &selection, &own)?;
    let target_options = TargetOptions {
        overwrite: match args.overwrite {
            Overwrite::Never => TargetOverwrite::Never,
            Overwrite::IfDifferent => TargetOverwrite::IfDifferent,
            Overwrite::Always => TargetOverwrite::Always,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        numeric_ids: args.numeric_ids,
        sync: true,
    };
    let private = match (args.delete, args.include.is_empty() && args.exclude.is_empty()) {
        (true, _) => Some(details(&workspace.repository, info)?),
        // It serves the patterns only.
        (false, false) => details(&workspace.repository, info).ok(),
        (false, true) => None,
    };
    let scope = match &private {
        Some(private) if args.delete => scope(args, info, private)?,
        _ => Scope::default(),
    };
    let monitor: &dyn Monitor = &workspace.progress;
    let fetcher = Fetcher::new(&workspace.repository, &index, monitor, workspace.settings.memory_bytes / 16);
    let paths: Vec<Vec<u8>> = selection.paths.iter().map(|path| path.as_encoded_bytes().to_vec()).collect();
    require_paths(&fetcher, info.snapshot.root, &paths)?;
    let mut target = Target::open(&args.to, target_options)?;
    target.spare_directories(&own)?;
    target.spare_regions(CONFIG_NAME.as_bytes(), &config_beginning(workspace.repository.config.repository));
    let options = Restore {
        paths,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        roots: roots(args, private.as_ref()),
        scope,
        verify: args.verify,
        threads: workspace.settings.workers(crate::restore::WORKER_BYTES),
        memory_bytes: workspace.settings.memory_bytes / 16,
    };
    let counts = &info.snapshot.counts;
    let totals = (counts.entries(), counts.bytes);
    let summary = restore(&fetcher, info.snapshot.root, &target, &options, monitor, totals)?;
    workspace.progress.finish();
    // A region that stopped answering says nothing about its copies.
    let copies = fetcher.take_issues();
    let damaged_copies = copies.iter().filter(|issue| issue.kind != IssueKind::Unreadable).count();
    let shown: Vec<_> = summary
        .issues
        .iter()
        .map(|issue| {
            let path = render::JsonPath::from(&issue.subject[..]);
            json!({ "kind": issue.kind.name(), "path": path.path, "path_hex": path.path_hex, "detail": issue.detail })
        })
        .collect();
    let would_remove: Vec<_> =
        summary.would_remove.iter().map(|path| json!(render::JsonPath::from(&path[..]))).collect();
    let mut document = json!({
        "snapshot": info.id.to_string(), "dataset": dataset, "host": host, "target": args.to.to_string_lossy(), "dry_run": args.dry_run,
        "files": summary.files, "files_skipped": summary.files_skipped, "kept": summary.kept,
        "directories": summary.directories, "others": summary.others, "links": summary.links,
        "bytes": summary.bytes, "removed": summary.removed, "spared": summary.spared, "verified": summary.verified,
        "would_remove": args.dry_run.then_some(would_remove), "partial": info.snapshot.partial,
        "issues": shown, "damaged_copies": damaged_copies,
    });
    timings.add_to(&mut document);
    let printed = Output { json: global.json }.result(&document, |out| {
        for issue in &summary.issues {
            writeln!(
                out,
                "{}: {}: {}",
                issue.kind.name(),
                render::escape(&issue.subject),
                render::printable(&issue.detail)
            )?;
        }
        for path in &summary.would_remove {
            writeln!(out, "would remove {}", render::escape(path))?;
        }
        for notice in &summary.notices {
            writeln!(out, "note: {notice}")?;
        }
        if summary.spared > 0 {
            writeln!(
                out,
                "note: {} stay that the snapshot lacks: left out or not captured by the backup, or beside its sources",
                render::counted(summary.spared, "name")
            )?;
        }
        if info.snapshot.partial {
            writeln!(
                out,
                "note: this snapshot is PARTIAL; not captured, or not consistently: {}. \
                 `keepstone snapshots --details` names what is missing",
                render::counted(info.snapshot.counts.issues, "path"),
            )?;
        }
        let verb = if args.dry_run { "Would restore" } else { "Restored" };
        writeln!(
            out,
            "{verb} {} files ({}), {} directories, {} links, {} others of snapshot {} into {}",
            render::count(summary.files),
            render::size(summary.bytes),
            render::count(summary.directories),
            render::count(summary.links),
            render::count(summary.others),
            &info.id.to_string()[..16],
            render::path(&args.to),
        )?;
        if summary.files_skipped + summary.kept + summary.removed > 0 {
            writeln!(
                out,
                "{} files were right already, {} entries kept, {} removed",
                render::count(summary.files_skipped),
                render::count(summary.kept),
                render::count(summary.removed),
            )?;
        }
        if args.verify {
            writeln!(out, "Read back and found right: {} files", render::count(summary.verified))?;
        }
        Ok(())
    });
    timings.show(global.json);
    let class = if summary.issues.is_empty() { Class::Success } else { Class::Partial };
    class.worse(doubt(&selection.snapshot, listing_class)).printed(printed)
}

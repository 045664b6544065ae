//! `replicate`: brings all regions up to one another.

use super::args::Global;
use super::check::issues_document;
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::workspace::Workspace;
use crate::format::roster::Role;
use crate::pack::SpoolSpace;
use crate::replicate::{Depth, heal, put_forgotten_back, replicate};
use crate::repo::audit::{self, Merged};
use crate::report::{IssueKind, Monitor};
use serde_json::{Value, json};

/// Runs the command.
///
/// # Errors
/// When the repository can't be opened, a region can't be listed, or the user stops it.
pub fn run(global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let (index, mut index_class) = workspace.index()?;
    let mut lacking = workspace.lacking(&index)?;
    let (listing, mut listing_class) = workspace.snapshots_as_stored()?;
    let directory = workspace.cache_directory();
    std::fs::create_dir_all(&directory).map_err(|error| CliError::file("make", &directory, &error))?;
    let scratch = Some(SpoolSpace::Directory(directory));
    let memory_bytes = workspace.settings.memory_bytes / 4;
    // Under their own names first: nothing else need be written then.
    let healed = heal(&workspace.repository, &index, &mut lacking, &workspace.progress)?;
    let forgotten = put_forgotten_back(&workspace.repository, &listing.forgotten, Depth::Content, &workspace.progress)?;
    let mut done = replicate(
        &workspace.repository,
        &listing.snapshots,
        Depth::Content,
        scratch,
        memory_bytes,
        &workspace.progress,
    )?;
    done.healed += forgotten.healed;
    done.issues.extend(forgotten.issues);
    if !workspace.progress.cancelled() && index_class != Class::Success {
        // What was damaged may be whole by now.
        index_class = workspace.bring_up(&index)?;
    }
    if done.healed > 0 && listing_class != Class::Success {
        listing_class = workspace.snapshots_as_stored()?.1;
    }
    let lost_class = workspace.losses(&index, &lacking, Some(&done))?;
    done.healed += healed.mended;
    // A damaged copy that may not be replaced stays damaged, though what was lost elsewhere came from another.
    done.issues.extend(healed.issues.into_iter().filter(|issue| issue.kind == IssueKind::Damaged));
    done.packs += healed.packs;
    done.bytes += healed.bytes;
    // What could not be put back and something needs is among what the replication told.
    if workspace.progress.cancelled() {
        return Err(CliError::cancelled());
    }
    let repository = &workspace.repository;
    // A writer answers for its own chain, and brings that together whenever it records.
    let chains = if repository.role() == Role::Writer { Merged::default() } else { audit::merge(repository)? };
    let entries = chains.copied;
    done.healed += chains.healed;
    workspace.without_room(chains.no_room);
    let repository = &workspace.repository;
    workspace.progress.finish();
    let left_out = &workspace.settings.regions_left_out;
    let reached = repository.regions.iter().map(|region| json!({ "name": region.name, "reached": true }));
    let absent = workspace.absent.iter().map(|(name, why)| json!({ "name": name, "reached": false, "failure": why }));
    let document = json!({
        "packs": done.packs, "bytes": done.bytes, "segments": done.segments, "commits": done.commits,
        "decisions": done.decisions, "healed": done.healed, "audit_entries": entries, "issues": issues_document(&done.issues),
        "regions": reached.chain(absent).collect::<Vec<Value>>(),
    });
    let unreached = workspace.absent.iter().any(|(name, _)| !left_out.contains(name));
    let class = if done.issues.is_empty() && !unreached { Class::Success } else { Class::Pending };
    let damaged = if done.is_damaged() { Class::Corrupt } else { Class::Success };
    let lasting = damaged.worse(index_class).worse(lost_class).worse(listing_class);
    let printed = Output { json: global.json }.result(&document, |out| {
        let (packs, bytes) = (render::counted(done.packs, "pack"), render::size(done.bytes));
        writeln!(out, "Copied {packs} ({bytes}), and wrote {}", render::counted(done.commits, "commit"))?;
        if done.decisions + entries > 0 {
            let (decisions, entries) = (render::count(done.decisions), render::count(entries));
            writeln!(out, "Copied {decisions} verdicts and tags, {entries} audit entries")?;
        }
        if done.healed > 0 {
            writeln!(out, "Put {} right again", render::counted(done.healed, "damaged or lost object"))?;
        }
        match done.issues.len() as u64 {
            0 if lasting != Class::Success => {
                writeln!(out, "Something is damaged or lost still, as told above; `keepstone check` says what needs it")
            }
            0 => writeln!(
                out,
                "All reached regions hold all snapshots that count, by the names and sizes of their packs"
            ),
            more => writeln!(out, "NOT copied, as told above: {}; the next run tries again", render::count(more)),
        }
    });
    class.worse(lasting).printed(printed)
}

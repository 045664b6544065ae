//! `tag`: changes a snapshot's tags.

use super::args::{Filter, Global, TagArgs};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::workspace::Workspace;
use crate::limits::TAGS_MAX;
use crate::repo::tags::set_tags;
use serde_json::json;
use std::collections::BTreeSet;

/// Runs the command.
///
/// # Errors
/// When the snapshot is not there, this slot may not change tags, or a region can't be written.
pub fn run(args: &TagArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let (info, class) = workspace.snapshot(&args.snapshot, &Filter::default())?;
    let before: BTreeSet<String> = info.tags.iter().cloned().collect();
    let mut tags: BTreeSet<String> =
        if args.set.is_empty() { before.clone() } else { args.set.iter().cloned().collect() };
    args.remove.iter().for_each(|tag| {
        tags.remove(tag);
    });
    tags.extend(args.add.iter().cloned());
    if tags.len() > TAGS_MAX {
        return Err(CliError::new(Class::Limit, format!("a snapshot has at most {TAGS_MAX} tags, not {}", tags.len())));
    }
    let changed = tags != before;
    if changed {
        let tagged = set_tags(&workspace.repository, info.id, &before, tags)?;
        workspace.without_room(tagged.no_room);
        tags = tagged.tags;
    }
    workspace.progress.finish();
    let document = json!({ "snapshot": info.id.to_string(), "tags": tags, "tags_before": before, "changed": changed });
    Output { json: global.json }.result(&document, |out| {
        let list = tags.iter().map(|tag| render::printable(tag).into_owned()).collect::<Vec<_>>().join(", ");
        let list = if list.is_empty() { "no tags".to_owned() } else { list };
        let verb = if changed { "now has" } else { "already had" };
        writeln!(out, "Snapshot {} {verb}: {list}", &info.id.to_string()[..16])
    })?;
    // Regions that were not reached take the tags over with the next replication.
    Ok(class.worse(if changed && !workspace.absent.is_empty() { Class::Pending } else { Class::Success }))
}

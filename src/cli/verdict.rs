//! `unforget`, `hold` and `release`.

use super::args::{Filter, Global, HoldArgs, ReleaseArgs, UnforgetArgs};
use super::choice::Choice;
use super::exit::{Class, CliError};
use super::output::Output;
use super::parse::SnapshotRef;
use super::render::{self, short};
use super::workspace::Workspace;
use crate::format::verdict::Ruling;
use crate::policy::window;
use crate::repo::open::DECIDERS;
use crate::repo::snapshots::{self, Selector, SnapshotInfo};
use crate::repo::verdicts::{Decree, Unforgotten, put, stored, unforgotten};
use serde_json::json;
use std::collections::BTreeSet;

/// Brings a forgotten snapshot back.
///
/// # Errors
/// When it isn't forgotten, is collected, or its window is over; when this slot may not decide or a region
/// can't be read or written.
pub fn unforget(args: &UnforgetArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let repository = &workspace.repository;
    repository.require(&DECIDERS, "unforget snapshots")?;
    let (mut listing, read_class) = workspace.everything()?;
    let repository = &workspace.repository;
    if let Some((id, _)) = listing.unreadable_by(args.id.as_str()) {
        return Err(CliError::new(
            Class::Missing,
            format!("no region that was reached has snapshot {} whole: it can't be brought back", short(&id)),
        )
        .hint("nothing was changed; a region that wasn't reached may have it"));
    }
    let snapshots = std::mem::take(&mut listing.snapshots);
    let (forgotten, counted): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(SnapshotInfo::is_forgotten);
    let wanted = Selector::Prefix(args.id.as_str().to_owned());
    let info = match snapshots::select(&forgotten, &wanted) {
        Ok(info) => info,
        Err(error @ crate::repo::RepoError::Ambiguous { .. }) => return Err(error.into()),
        Err(error) => {
            if let Some(known) = counted.iter().find(|info| args.id.matches(&info.id.to_string())) {
                return Err(CliError::usage(format!("snapshot {} is not forgotten", short(&known.id)))
                    .hint("nothing was changed"));
            }
            let gone = stored(repository)?.into_iter().find(|id| args.id.matches(&id.to_string()));
            return Err(match gone {
                Some(id) => {
                    CliError::new(Class::Missing, format!("snapshot {} is collected: its data is gone", short(&id)))
                        .hint("a region that wasn't reached may still hold it; `keepstone audit` tells who forgot it")
                }
                None => error.into(),
            });
        }
    };
    let length = workspace.settings.retention.window();
    let decided_at = info.verdict.as_ref().map_or(i64::MIN, |verdict| verdict.decided_at);
    let ends_at = window::ends_at(decided_at, &length);
    if ends_at <= repository.clock.now_ns() && !args.past_window {
        let message = format!(
            "the window in which snapshot {} could be unforgotten ended at {}",
            short(&info.id),
            render::local_time(ends_at)
        );
        return Err(CliError::new(Class::Failed, message).hint(
            "nothing was changed; no collection has taken it yet: --past-window brings it back if none does meanwhile",
        ));
    }
    let decree = Decree::new(Ruling::Unforget, args.reason.as_deref().unwrap_or(""));
    let no_room = put(repository, &BTreeSet::from([info.id]), &decree)?;
    let unsaid: BTreeSet<usize> = no_room.keys().copied().collect();
    let outcome = unforgotten(repository, info.id)?;
    workspace.without_room(no_room);
    let repository = &workspace.repository;
    workspace.progress.finish();
    let (mut counts, mut in_doubt, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (region, outcome)) in repository.regions.iter().zip(&outcome).enumerate() {
        match outcome {
            // Among the absent ones already.
            _ if unsaid.contains(&at) => {}
            Unforgotten::Counts => counts.push(region.name.clone()),
            Unforgotten::InDoubt(generation) => in_doubt.push((region.name.clone(), *generation)),
            Unforgotten::Absent => absent.push(region.name.clone()),
        }
    }
    absent.extend(workspace.absent.iter().map(|(name, _)| name.clone()));
    if counts.is_empty() && in_doubt.is_empty() {
        return Err(CliError::new(Class::Missing, format!("snapshot {} was collected meanwhile", short(&info.id)))
            .hint("a region that wasn't reached may still hold it"));
    }
    let document = json!({
        "snapshot": info.id.to_string(), "counts": counts, "absent": absent,
        "in_doubt": in_doubt.iter()
            .map(|(region, generation)| json!({ "region": region, "generation": generation })).collect::<Vec<_>>(),
    });
    Output { json: global.json }.result(&document, |out| {
        if !counts.is_empty() {
            writeln!(out, "Snapshot {} counts again in: {}", short(&info.id), counts.join(", "))?;
        }
        for (region, generation) in &in_doubt {
            writeln!(
                out,
                "In region '{region}' collection {generation} had named it already: whether it stays there is known when that one ends"
            )?;
        }
        for region in &absent {
            writeln!(out, "Not in region '{region}' yet; the next backup or replication there changes that")?;
        }
        Ok(())
    })?;
    let pending = !in_doubt.is_empty() || !absent.is_empty();
    Ok(if pending { Class::Pending.worse(read_class) } else { read_class })
}

/// Puts snapshots on hold.
///
/// # Errors
/// When one isn't there or is forgotten; when this slot may not decide or a region can't be written.
pub fn hold(args: &HoldArgs, global: &Global) -> Result<Class, CliError> {
    let mut decree = Decree::new(Ruling::Hold, &args.reason);
    decree.until = args.until_ns;
    decide(&args.snapshots, decree, global)
}

/// Ends holds.
///
/// # Errors
/// As [`hold`], and for one that isn't held.
pub fn release(args: &ReleaseArgs, global: &Global) -> Result<Class, CliError> {
    decide(&args.snapshots, Decree::new(Ruling::Release, args.reason.as_deref().unwrap_or("")), global)
}

fn decide(references: &[SnapshotRef], decree: Decree, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let repository = &workspace.repository;
    repository
        .require(&DECIDERS, if decree.ruling == Ruling::Hold { "hold snapshots" } else { "release snapshots" })?;
    let (mut listing, read_class) = workspace.everything()?;
    let repository = &workspace.repository;
    let snapshots = std::mem::take(&mut listing.snapshots);
    let (forgotten, counted): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(SnapshotInfo::is_forgotten);
    let filter = Filter::default();
    let choice = Choice::new(&workspace, counted, forgotten, &filter);
    let mut ids = BTreeSet::new();
    for reference in references {
        let lost = match reference {
            SnapshotRef::Prefix(prefix) => listing.unreadable_by(prefix.as_str()),
            SnapshotRef::Latest { .. } => None,
        };
        let (id, verdict) = match lost {
            Some(lost) => lost,
            None => choice.one(&workspace, reference).map(|info| (info.id, info.verdict.as_ref()))?,
        };
        if decree.ruling == Ruling::Release && verdict.is_none_or(|known| known.ruling != Ruling::Hold) {
            return Err(CliError::usage(format!("snapshot {} is not on hold", short(&id))).hint("nothing was changed"));
        }
        ids.insert(id);
    }
    let no_room = put(repository, &ids, &decree)?;
    workspace.without_room(no_room);
    workspace.progress.finish();
    let document = json!({
        "snapshots": ids.iter().map(ToString::to_string).collect::<Vec<_>>(), "ruling": decree.ruling.name(),
        "until": decree.until.map(render::json_time), "reason": decree.reason,
    });
    Output { json: global.json }.result(&document, |out| {
        for id in &ids {
            match (decree.ruling, decree.until) {
                (Ruling::Hold, Some(until)) => {
                    writeln!(out, "Snapshot {} is on hold until {}", short(id), render::local_time(until))?
                }
                (Ruling::Hold, None) => writeln!(out, "Snapshot {} is on hold until it is released", short(id))?,
                _ => writeln!(out, "Snapshot {} is released", short(id))?,
            }
        }
        Ok(())
    })?;
    Ok(if workspace.absent.is_empty() { read_class } else { Class::Pending.worse(read_class) })
}

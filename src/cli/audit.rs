//! `audit`: who was about to destroy or grant what, and whether the record of it is whole.

use super::args::{AuditArgs, Global};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render::{self, Align, Table};
use super::workspace::Workspace;
use crate::format::audit::Action;
use crate::format::ids::SlotId;
use crate::repo::audit::{Chains, Finding, Recorded};
use crate::repo::unrecorded::examine;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Runs the command.
///
/// # Errors
/// When a region can't be listed or read, or the slot is not there.
pub fn run(args: &AuditArgs, global: &Global) -> Result<Class, CliError> {
    let workspace = Workspace::open(global)?;
    let Chains { timeline, findings, .. } = examine(&workspace.repository)?;
    workspace.progress.finish();
    let slot = match &args.slot {
        Some(wanted) => Some(chosen(&workspace, &timeline, wanted)?),
        None => None,
    };
    // An object whose name names no slot concerns every slot.
    let findings: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| slot.is_none() || finding.slot.is_none() || finding.slot == slot)
        .collect();
    let chains = timeline.iter().map(|recorded| recorded.entry.slot).collect::<BTreeSet<_>>();
    let chains = chains.into_iter().filter(|chain| slot.is_none_or(|slot| slot == *chain)).count();
    let of_slot = timeline.iter().filter(|recorded| slot.is_none_or(|slot| slot == recorded.entry.slot));
    let total = of_slot.clone().count();
    let shown: Vec<&Recorded> = of_slot
        .filter(|recorded| !args.verify && args.since_ns.is_none_or(|since| recorded.entry.recorded_at >= since))
        .collect();
    let sound = !findings.iter().any(|finding| finding.kind.breaks());
    // What is left out by the user's word isn't looked at by it either.
    let left_out = &workspace.settings.regions_left_out;
    let unchecked: Vec<&(String, String)> =
        workspace.absent.iter().filter(|(name, _)| !left_out.contains(name)).collect();
    let unchecked_document: Vec<Value> =
        unchecked.iter().map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
    let document = json!({
        "sound": sound, "unchecked": unchecked_document, "chains": chains, "entries_total": total,
        "entries": shown.iter().map(|recorded| entry_document(&workspace, recorded)).collect::<Vec<_>>(),
        "findings": findings.iter().map(finding_document).collect::<Vec<_>>(),
    });
    Output { json: global.json }.result(&document, |out| {
        if !args.verify {
            let columns = [
                ("RECORDED", Align::Left),
                ("SLOT", Align::Left),
                ("N", Align::Right),
                ("HOST", Align::Left),
                ("ACTION", Align::Left),
                ("OF", Align::Left),
                ("REASON", Align::Left),
            ];
            let mut table = Table::new(&columns);
            for recorded in &shown {
                let entry = &recorded.entry;
                let label = render::printable(&entry.label).into_owned();
                let revoked = if recorded.revoked { " (revoked)" } else { "" };
                table.row([
                    render::local_time(entry.recorded_at),
                    format!("{} {label}{revoked}", &entry.slot.to_string()[..8]),
                    render::count(entry.number),
                    render::printable(&entry.host).into_owned(),
                    entry.action.name().to_owned(),
                    subjects_text(recorded),
                    render::printable(&entry.reason).into_owned(),
                ]);
            }
            for line in table.lines() {
                writeln!(out, "{line}")?;
            }
        }
        for finding in &findings {
            let slot = finding.slot.map_or_else(String::new, |slot| format!(" slot {}", &slot.to_string()[..8]));
            writeln!(out, "{}:{slot}: {}", finding.kind.name(), render::printable(&finding.detail))?;
        }
        let counted = format!(
            "{} in {}",
            if total == 1 { "1 entry".to_owned() } else { format!("{} entries", render::count(total as u64)) },
            render::counted(chains as u64, "chain")
        );
        for (name, reason) in &unchecked {
            writeln!(out, "Region '{name}' was NOT looked at: {}", render::printable(reason))?;
        }
        match (sound, unchecked.is_empty()) {
            (true, true) => writeln!(out, "{counted}: whole"),
            (true, false) => writeln!(out, "{counted}: whole in the regions that were looked at"),
            (false, _) => writeln!(out, "{counted}: NOT WHOLE, see above"),
        }
    })?;
    Ok(match (sound, unchecked.is_empty()) {
        (false, _) => Class::Corrupt,
        (true, false) => Class::Storage,
        (true, true) => Class::Success,
    })
}

/// The slot of this label or of an id that begins so, in the roster or in a chain.
fn chosen(workspace: &Workspace, timeline: &[Recorded], wanted: &str) -> Result<SlotId, CliError> {
    let roster = &workspace.repository.roster.slots;
    let mut fitting: BTreeSet<SlotId> =
        roster.iter().filter(|slot| slot.label == wanted).map(|slot| slot.slot).collect();
    if fitting.is_empty() {
        let known = roster.iter().map(|slot| slot.slot).chain(timeline.iter().map(|recorded| recorded.entry.slot));
        fitting = known.filter(|slot| slot.to_string().starts_with(&wanted.to_ascii_lowercase())).collect();
    }
    match (fitting.pop_first(), fitting.len()) {
        (Some(slot), 0) => Ok(slot),
        (None, _) => Err(CliError::new(Class::Missing, format!("there is no slot '{wanted}'"))
            .hint("`keepstone key list` shows labels and ids")),
        (Some(_), more) => Err(CliError::usage(format!("'{wanted}' fits {} slots", more + 1))
            .hint("give more digits of its id, as `keepstone key list` shows it")),
    }
}

fn subjects_text(recorded: &Recorded) -> String {
    let entry = &recorded.entry;
    let mut parts: Vec<String> = entry.figures.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let shown = entry.subjects.iter().take(3).map(|subject| {
        let hex = render::hex(subject);
        hex[..hex.len().min(12)].to_owned()
    });
    parts.splice(0..0, shown);
    if entry.subjects.len() > 3 {
        parts.push(format!("and {} more", entry.subjects.len() - 3));
    }
    parts.join(" ")
}

fn entry_document(workspace: &Workspace, recorded: &Recorded) -> Value {
    let entry = &recorded.entry;
    let regions = recorded.regions.iter().map(|at| workspace.repository.regions[*at].name.clone());
    json!({
        "slot": entry.slot.to_string(), "label": entry.label, "number": entry.number,
        "digest": recorded.digest.to_string(),
        "previous": entry.previous.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "host": entry.host, "recorded_at": render::json_time(entry.recorded_at), "action": entry.action.name(),
        "subject": subject_kind(entry.action),
        "subjects": entry.subjects.iter().map(|subject| render::hex(subject)).collect::<Vec<_>>(),
        "figures": entry.figures.iter().map(|(name, value)| (name.clone(), json!(value)))
            .collect::<serde_json::Map<_, _>>(),
        "reason": entry.reason, "revoked": recorded.revoked, "regions": regions.collect::<Vec<_>>(),
    })
}

/// What an action's subjects are.
fn subject_kind(action: Action) -> &'static str {
    match action {
        Action::Forget | Action::Unforget | Action::Hold | Action::Release => "snapshot",
        Action::BreakFloor | Action::Tag => "snapshot",
        Action::GcFinal | Action::RegionAdd | Action::Designate => "region",
        Action::Init | Action::KeyAdd | Action::KeyRemove | Action::KeyRevoke => "slot",
        Action::KeyRotate | Action::KeyRewrap => "slot",
        Action::RosterMerge => "roster",
        Action::Repair => "object",
        Action::Attest => "pack",
    }
}

fn finding_document(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(), "breaks": finding.kind.breaks(),
        "slot": finding.slot.map(|slot| slot.to_string()), "number": finding.number, "detail": finding.detail,
    })
}

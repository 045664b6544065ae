//! `key`: the slots that open the repository.

use super::args::{
    AcceptedChoice, Global, KeyAddArgs, KeyCommand, KeyExportArgs, KeyPasswdArgs, KeyRemoveArgs, KeyRevokeArgs,
    KeyRotateArgs,
};
use super::exit::{Class, CliError};
use super::output::Output;
use super::parse::IdPrefix;
use super::render::{self, Align, Table};
use super::secret::{Passphrases, Terminal, VARIABLE_NEW};
use super::sheet::Sheet;
use super::workspace::Workspace;
use crate::crypto::slot::Wrapping;
use crate::env::{Clock, SystemClock};
use crate::format::ids::SnapshotId;
use crate::format::roster::{Role, RosterSlot, SlotState};
use crate::repo::RepoError;
use crate::repo::accepted::Acceptance;
use crate::repo::snapshots;
use crate::report::Monitor;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use zeroize::Zeroizing;

/// Runs the command.
///
/// # Errors
/// When the slot is not there, this slot may not change keys, or a region can't be written.
pub fn run(command: &KeyCommand, global: &Global) -> Result<Class, CliError> {
    let output = Output { json: global.json };
    let open = || Workspace::open(global);
    match command {
        KeyCommand::List => list(&open()?, output),
        KeyCommand::Export(args) => export(&open()?, args, output),
        KeyCommand::Add(args) => changing(open()?, |workspace| add(workspace, args, output)),
        KeyCommand::Remove(args) => changing(open()?, |workspace| remove(workspace, args, output)),
        KeyCommand::Revoke(args) => changing(open()?, |workspace| revoke(workspace, args, output)),
        KeyCommand::Rotate(args) => changing(open()?, |workspace| rotate(workspace, args, output)),
        KeyCommand::Passwd(args) => changing(open()?, |workspace| passwd(workspace, args, output)),
        KeyCommand::Merge(args) => {
            let workspace = Workspace::open_to_merge(global, args.take.as_ref().map(IdPrefix::as_str))?;
            changing(workspace, |workspace| merge(workspace, output))
        }
    }
}

/// Runs a change of keys, for which every region must be there, and remembers the roster that came of it: also
/// where a store failed afterwards, since what was published stands.
fn changing(
    mut workspace: Workspace,
    change: impl FnOnce(&mut Workspace) -> Result<Class, CliError>,
) -> Result<Class, CliError> {
    whole(&workspace)?;
    let done = change(&mut workspace);
    workspace.remember_roster();
    // What stood in no one's way, and may be mended by now.
    workspace.repository.key_issues.iter().for_each(|issue| workspace.progress.issue(issue));
    done
}

fn state_name(state: SlotState) -> &'static str {
    match state {
        SlotState::Active => "active",
        SlotState::Revoked => "revoked",
        SlotState::Retired => "removed",
    }
}

fn document(workspace: &Workspace, slot: &RosterSlot) -> Value {
    json!({
        "slot": slot.slot.to_string(), "role": slot.role.name(), "state": state_name(slot.state),
        "label": slot.label, "wrapping": slot.wrapping, "created_at": render::json_time(slot.created_at),
        "in_use": slot.slot == workspace.repository.secrets.slot,
        "post_quantum": slot.wrapping == "passphrase",
    })
}

fn list(workspace: &Workspace, output: Output) -> Result<Class, CliError> {
    let repository = &workspace.repository;
    let slots = &repository.roster.slots;
    let epochs = repository.ring_epochs()?;
    for difference in repository.key_differences()? {
        workspace.progress.notice(&format!("{difference}; `keepstone replicate` brings it there"));
    }
    let damaged = repository.damaged_rosters()?;
    damaged.iter().for_each(|issue| workspace.progress.issue(issue));
    let class = if damaged.is_empty() { Class::Success } else { Class::Corrupt };
    let epochs_of = |slot: &RosterSlot| epochs.get(&slot.slot).into_iter().flatten().copied().collect::<Vec<u64>>();
    workspace.progress.finish();
    let documents: Vec<Value> = slots
        .iter()
        .map(|slot| {
            let mut document = document(workspace, slot);
            if let Some(fields) = document.as_object_mut() {
                fields.insert("epochs".to_owned(), json!(epochs_of(slot)));
            }
            document
        })
        .collect();
    let (roster, epoch) = (repository.roster.number, repository.roster.current_epoch());
    output.result(&json!({ "roster": roster, "epoch": epoch, "slots": documents }), |out| {
        let mut table = Table::new(&[
            ("", Align::Left),
            ("SLOT", Align::Left),
            ("ROLE", Align::Left),
            ("STATE", Align::Left),
            ("OPENED BY", Align::Left),
            ("POST-QUANTUM", Align::Left),
            ("EPOCHS", Align::Left),
            ("CREATED", Align::Left),
            ("LABEL", Align::Left),
        ]);
        for slot in slots {
            let used = slot.slot == workspace.repository.secrets.slot;
            table.row([
                if used { "*" } else { "" }.to_owned(),
                slot.slot.to_string()[..16].to_owned(),
                slot.role.name().to_owned(),
                state_name(slot.state).to_owned(),
                render::printable(&slot.wrapping).into_owned(),
                if slot.wrapping == "passphrase" { "yes" } else { "no" }.to_owned(),
                ranges(&epochs_of(slot)),
                render::local_time(slot.created_at),
                render::printable(&slot.label).into_owned(),
            ]);
        }
        table.lines().iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out, "* opened the repository now; the keys' roster is {roster}, their epoch {epoch}")
    })?;
    Ok(class)
}

/// Ascending numbers in few words: `1-3,5`.
fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let one = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Keys change in all regions or in none: a region that was left out would keep the old roster.
fn whole(workspace: &Workspace) -> Result<(), CliError> {
    match workspace.absent.first() {
        None => Ok(()),
        Some((name, why)) => {
            let text = format!("keys are changed in all regions or in none, and region '{name}' takes no part: {why}");
            Err(CliError::new(Class::Storage, text).hint("run it again once every configured region can be reached"))
        }
    }
}

fn slot_of<'w>(workspace: &'w Workspace, prefix: &IdPrefix) -> Result<&'w RosterSlot, CliError> {
    const HINT: &str = "`keepstone key list` shows the slots";
    let mut fitting = workspace.repository.roster.slots.iter().filter(|slot| prefix.matches(&slot.slot.to_string()));
    match (fitting.next(), fitting.count()) {
        (Some(slot), 0) => Ok(slot),
        (Some(_), more) => {
            let text = format!("{} fits {} slots; give more digits", prefix.as_str(), more + 1);
            Err(CliError::usage(text).hint(HINT))
        }
        (None, _) => {
            let text = format!("no slot's id begins with {}", prefix.as_str());
            Err(CliError::new(Class::Missing, text).hint(HINT))
        }
    }
}

fn active<'w>(workspace: &'w Workspace, prefix: &IdPrefix) -> Result<&'w RosterSlot, CliError> {
    let slot = slot_of(workspace, prefix)?;
    match slot.state {
        SlotState::Active => Ok(slot),
        state => Err(CliError::new(Class::Missing, format!("slot {} is {}", slot.slot, state_name(state)))
            .hint("`keepstone key list` shows the slots")),
    }
}

fn new_passphrase(workspace: &Workspace, file: Option<&Path>) -> Result<Wrapping, CliError> {
    let mut warn = |text: &str| workspace.progress.notice(text);
    let mut passphrases = Passphrases { ask: &mut Terminal, warn: &mut warn };
    let passphrase = passphrases.fresh(&workspace.settings.new_passphrase(file, false), VARIABLE_NEW)?;
    Ok(Wrapping::Passphrase(Zeroizing::new(passphrase.expose().to_owned())))
}

fn add(workspace: &mut Workspace, args: &KeyAddArgs, output: Output) -> Result<Class, CliError> {
    let wrapping = match &args.recipient {
        Some(recipient) => {
            workspace.progress.notice(
                "an age X25519 recipient isn't post-quantum: whoever copies the storage now and has a quantum \
                 computer later could open this slot, and all that it opens; a passphrase slot stays safe",
            );
            if workspace.opens(recipient)? {
                workspace.progress.notice(
                    "this recipient's identity is one that this run was given: it opens several slots then, of which each \
                     command takes one whose role may do what it does, an owner's before all others",
                );
            }
            Wrapping::Recipient(recipient.clone())
        }
        None => new_passphrase(workspace, args.new_passphrase_file.as_deref())?,
    };
    let role = args.role.of_slot();
    let label = args.label.as_deref().unwrap_or(role.name());
    let slot = workspace.repository.add_slot(role, label, &wrapping)?;
    workspace.progress.finish();
    let added = workspace.repository.roster.slot(slot).map(|slot| document(workspace, slot));
    output.result(&added, |out| {
        let label = render::printable(label);
        writeln!(out, "Added the {} slot {slot} ({label}), opened by {}", role.name(), wrapping.name())?;
        match role {
            Role::Owner => {
                writeln!(out, "`keepstone key export {}` prints its emergency sheet.", &slot.to_string()[..8])
            }
            Role::Writer => writeln!(out, "It backs up and lists snapshots; it can't restore, forget or collect."),
            Role::Maintainer => writeln!(out, "It forgets and collects; it can't back up, or read content or names."),
        }
    })?;
    Ok(Class::Success)
}

/// Old key files that a store refuses to delete still open with the old secret.
fn tell_refused(workspace: &Workspace, refused: usize) {
    if refused > 0 {
        workspace.progress.notice(&format!(
            "{} could not be deleted, since the store denies it: whoever has the old secret can still open them",
            render::counted(refused as u64, "old key file")
        ));
    }
}

fn remove(workspace: &mut Workspace, args: &KeyRemoveArgs, output: Output) -> Result<Class, CliError> {
    let mut slot = slot_of(workspace, &args.slot)?.slot;
    if !workspace.repository.is_half_removed(slot)? {
        slot = active(workspace, &args.slot)?.slot;
    }
    let refused = workspace.repository.remove_slot(slot)?;
    tell_refused(workspace, refused);
    workspace.progress.finish();
    let document = json!({ "slot": slot.to_string(), "removed": true, "key_files_kept": refused });
    output.result(&document, |out| {
        writeln!(out, "Removed slot {slot}: it opens the repository no longer.")?;
        writeln!(out, "Whoever kept its secret and a copy of the storage can still read what that copy holds.")
    })?;
    Ok(Class::Success)
}

/// The snapshots that prefixes name, among all that a region holds: one that counts no more can be named, too.
fn excepted(workspace: &Workspace, prefixes: &[IdPrefix]) -> Result<BTreeSet<SnapshotId>, CliError> {
    let mut found = BTreeSet::new();
    if prefixes.is_empty() {
        return Ok(found);
    }
    let ids = snapshots::list_ids(&workspace.repository)?;
    for prefix in prefixes {
        let fitting: Vec<&SnapshotId> = ids.iter().filter(|id| prefix.matches(&id.to_string())).collect();
        match fitting[..] {
            [one] => found.insert(*one),
            [] => {
                let text = format!("no snapshot's id begins with {}", prefix.as_str());
                return Err(CliError::new(Class::Missing, text).hint("`keepstone snapshots` shows the ids"));
            }
            [..] => {
                let text = format!("{} fits {} snapshots; give more digits", prefix.as_str(), fitting.len());
                return Err(CliError::usage(text).hint("`keepstone snapshots` shows the ids"));
            }
        };
    }
    Ok(found)
}

fn revoke(workspace: &mut Workspace, args: &KeyRevokeArgs, output: Output) -> Result<Class, CliError> {
    let entry = slot_of(workspace, &args.slot)?;
    let (slot, role, again) = (entry.slot, entry.role, entry.state == SlotState::Revoked);
    let acceptance = Acceptance {
        none: args.accept == AcceptedChoice::None,
        before: args.before,
        except: excepted(workspace, &args.except)?,
    };
    if role == Role::Owner {
        workspace.progress.notice(
            "an owner's key holds the root key, which a revocation can't take back: whoever has kept it can still \
             write rosters and rings for storage that they can write to",
        );
    }
    let (decided, kept) = workspace.repository.revoke_slot(slot, &acceptance, &workspace.progress)?;
    tell_refused(workspace, kept);
    workspace.progress.finish();
    let ids: Vec<String> = decided.snapshots_refused.iter().map(ToString::to_string).collect();
    let document = json!({
        "slot": slot.to_string(), "revoked": true, "accepted": decided.kinds, "refused": decided.refused,
        "snapshots_refused": ids, "late": decided.late.kinds,
        "snapshots_late": decided.late.snapshots.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "late_unknown": decided.late.unlooked, "key_files_kept": kept, "issues": super::check::issues_document(&decided.issues),
    });
    output.result(&document, |out| {
        let again = if again { " again" } else { "" };
        writeln!(out, "Revoked slot {slot}{again}: nothing counts that it signs from now on.")?;
        for (verb, kinds) in [("stay accepted", &decided.kinds), ("count no more", &decided.refused)] {
            let list: Vec<String> = kinds.iter().map(|(kind, count)| render::counted(*count, kind)).collect();
            if !list.is_empty() {
                writeln!(out, "Of what it has signed, these {verb}: {}", list.join(", "))?;
            }
        }
        for id in &ids {
            writeln!(out, "  snapshot {id} counts no more")?;
        }
        let late: Vec<String> = decided.late.kinds.iter().map(|(kind, count)| render::counted(*count, kind)).collect();
        if !late.is_empty() {
            writeln!(out, "While this was decided it put more, which doesn't count either: {}", late.join(", "))?;
        }
        for id in &decided.late.snapshots {
            writeln!(out, "  snapshot {id} came too late: what it saved is to be backed up again, with another key")?;
        }
        if let Some(why) = &decided.late.unlooked {
            writeln!(out, "Whether it put more meanwhile could not be seen ({}):", render::printable(why))?;
            writeln!(out, "revoke it again, and what came is told among what counts no more.")?;
        }
        writeln!(out, "Now run `keepstone key rotate`, and change the store's credentials that were with the key.")
    })?;
    let class = if decided.late.unlooked.is_none() { Class::Success } else { Class::Partial };
    Ok(if decided.issues.is_empty() { class } else { Class::Corrupt })
}

fn rotate(workspace: &mut Workspace, args: &KeyRotateArgs, output: Output) -> Result<Class, CliError> {
    let epoch = workspace.repository.rotate(args.ids)?;
    let slots = workspace.repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Active).count();
    workspace.progress.finish();
    let document = json!({ "epoch": epoch, "ids_renewed": args.ids, "slots": slots });
    output.result(&document, |out| {
        writeln!(out, "Epoch {epoch} began, for {}; nothing was rewritten.", render::counted(slots as u64, "slot"))?;
        match args.ids {
            true => writeln!(
                out,
                "The keys of the chunk ids are new, too: the next backup of each source stores EVERYTHING again."
            ),
            false => writeln!(out, "What is stored from now on is sealed with its keys, and deduplicates as before."),
        }
    })?;
    Ok(Class::Success)
}

fn merge(workspace: &mut Workspace, output: Output) -> Result<Class, CliError> {
    workspace.repository.merge_rosters()?;
    workspace.progress.finish();
    let number = workspace.repository.roster.number;
    let slots = &workspace.repository.roster.slots;
    let documents: Vec<Value> = slots.iter().map(|slot| document(workspace, slot)).collect();
    output.result(&json!({ "roster": number, "slots": documents }), |out| {
        let slots = render::counted(slots.len() as u64, "slot");
        writeln!(out, "Roster {number} holds what the others came to, {slots}; `keepstone key list` shows them.")
    })?;
    Ok(Class::Success)
}

fn passwd(workspace: &mut Workspace, args: &KeyPasswdArgs, output: Output) -> Result<Class, CliError> {
    let entry = active(workspace, &args.slot)?;
    let slot = entry.slot;
    if entry.wrapping != "passphrase" {
        return Err(CliError::usage(format!("slot {slot} is opened by an age identity, not by a passphrase"))
            .hint("add a passphrase slot with `keepstone key add`, then remove this one"));
    }
    if slot != workspace.repository.secrets.slot {
        let used = workspace.repository.secrets.slot;
        return Err(CliError::usage(format!("slot {slot} can only be changed when it is opened, and {used} was"))
            .hint("give the passphrase that this slot has now"));
    }
    let wrapping = new_passphrase(workspace, args.new_passphrase_file.as_deref())?;
    let refused = workspace.repository.rewrap(&wrapping).map_err(|error| {
        let cut_off = matches!(error, RepoError::Store { .. });
        let error = CliError::from(error);
        match cut_off {
            true => error.hint(
                "the new passphrase may hold already, and the old one then no longer: try the new one, with which the next \
                 backup or `keepstone replicate` brings it to every region; if it opens nothing, run this again",
            ),
            false => error,
        }
    })?;
    tell_refused(workspace, refused);
    workspace.progress.finish();
    let document = json!({ "slot": slot.to_string(), "changed": true, "key_files_kept": refused });
    output.result(&document, |out| {
        writeln!(out, "Changed the passphrase of slot {slot}.")?;
        writeln!(out, "A copy of its old key file still opens with the old one; emergency sheets hold such a copy.")
    })?;
    Ok(Class::Success)
}

fn export(workspace: &Workspace, args: &KeyExportArgs, output: Output) -> Result<Class, CliError> {
    let repository = &workspace.repository;
    let slot = match &args.slot {
        Some(prefix) => active(workspace, prefix)?,
        None => {
            let used = repository.secrets.slot;
            repository
                .roster
                .slot(used)
                .ok_or_else(|| CliError::new(Class::Corrupt, format!("slot {used} left the roster")))?
        }
    };
    let (key_name, key_file) = repository.key_file(slot.slot)?;
    workspace.progress.finish();
    let sheet = Sheet {
        repository,
        settings: &workspace.settings,
        slot,
        key_name: &key_name,
        key_file: &key_file,
        now_ns: SystemClock.now_ns(),
    };
    output.result(&sheet.document(), |out| sheet.lines().iter().try_for_each(|line| writeln!(out, "{line}")))?;
    Ok(Class::Success)
}

//! `key`: the slots that open the repository.

use super::args::{Global, KeyAddArgs, KeyCommand, KeyExportArgs, KeyPasswdArgs, KeyRemoveArgs};
use super::exit::{Class, CliError};
use super::output::Output;
use super::parse::IdPrefix;
use super::render::{self, Align, Table};
use super::secret::{Passphrases, Terminal, VARIABLE_NEW};
use super::sheet::Sheet;
use super::workspace::Workspace;
use crate::crypto::slot::Wrapping;
use crate::env::{Clock, SystemClock};
use crate::format::roster::{Role, RosterSlot, SlotState};
use crate::report::Monitor;
use serde_json::{Value, json};
use std::path::Path;
use zeroize::Zeroizing;

/// Runs the command.
///
/// # Errors
/// When the slot is not there, this slot may not change keys, or a region can't be written.
pub fn run(command: &KeyCommand, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let output = Output { json: global.json };
    match command {
        KeyCommand::List => list(&workspace, output),
        KeyCommand::Add(args) => add(&mut workspace, args, output),
        KeyCommand::Remove(args) => remove(&mut workspace, args, output),
        KeyCommand::Passwd(args) => passwd(&mut workspace, args, output),
        KeyCommand::Export(args) => export(&workspace, args, output),
    }
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
    let slots = &workspace.repository.roster.slots;
    workspace.progress.finish();
    let documents: Vec<Value> = slots.iter().map(|slot| document(workspace, slot)).collect();
    output.result(&json!({ "slots": documents }), |out| {
        let mut table = Table::new(&[
            ("", Align::Left),
            ("SLOT", Align::Left),
            ("ROLE", Align::Left),
            ("STATE", Align::Left),
            ("OPENED BY", Align::Left),
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
                render::local_time(slot.created_at),
                render::printable(&slot.label).into_owned(),
            ]);
        }
        table.lines().iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out, "* opened the repository now")
    })?;
    Ok(Class::Success)
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
    whole(workspace)?;
    let wrapping = match &args.recipient {
        Some(recipient) => {
            workspace.progress.notice(
                "an age X25519 recipient isn't post-quantum: whoever copies the storage now and has a quantum \
                 computer later could open this slot, and all that it opens; a passphrase slot stays safe",
            );
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
    whole(workspace)?;
    let slot = active(workspace, &args.slot)?.slot;
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

fn passwd(workspace: &mut Workspace, args: &KeyPasswdArgs, output: Output) -> Result<Class, CliError> {
    whole(workspace)?;
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
    let refused = workspace.repository.rewrap(&wrapping)?;
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

//! `init`: makes a repository in every configured region and pins its root key.

use super::args::{Global, InitArgs, Suite};
use super::config::{Region, write_pin};
use super::exit::{Class, CliError};
use super::output::Output;
use super::secret::{Passphrases, Terminal, VARIABLE_NEW};
use super::workspace::{refuse_nested, settings, stores};
use super::{output, render};
use crate::crypto::slot::Wrapping;
use crate::env::{SystemClock, SystemRandom};
use crate::format::config::Suite as FormatSuite;
use crate::repo::{InitOptions, init};
use serde_json::json;
use zeroize::Zeroizing;

/// Runs the command.
///
/// # Errors
/// When a region can't be used or holds a repository already.
pub fn run(args: &InitArgs, global: &Global) -> Result<Class, CliError> {
    let settings = settings(global, true)?;
    if settings.pin.is_some() {
        return Err(CliError::usage(format!("{} pins a repository already", render::path(&settings.config_path)))
            .hint("name another file with --config to make another repository"));
    }
    if settings.regions.is_empty() {
        return Err(crate::repo::RepoError::NoRegions.into());
    }
    refuse_nested(&settings)?;
    let (specs, mut failed) = stores(&settings, true)?;
    if !failed.is_empty() {
        // A repository that lacks a region from the start would look complete.
        return Err(failed.remove(0).1);
    }
    if args.recipients.len() > 1 {
        return Err(CliError::usage("one --recipient makes the first slot").hint("add others with `keepstone key add`"));
    }
    let wrapping = match args.recipients.first() {
        Some(recipient) => Wrapping::Recipient(recipient.clone()),
        None => {
            let mut warn = |text: &str| output::notice(global.json, text);
            let mut passphrases = Passphrases { ask: &mut Terminal, warn: &mut warn };
            let passphrase = passphrases.fresh(&settings.new_passphrase(None, true), VARIABLE_NEW)?;
            Wrapping::Passphrase(Zeroizing::new(passphrase.expose().to_owned()))
        }
    };
    let suite = match args.suite {
        Suite::Chacha20Poly1305 => FormatSuite::ChaCha20Poly1305,
        Suite::Aes256Gcm => FormatSuite::Aes256Gcm,
    };
    let options = InitOptions { suite, wrapping, label: "first owner".to_owned(), host: settings.host() };
    let made = init(&specs, &options, &SystemClock, &SystemRandom)?;
    let regions: Vec<Region> = settings.regions.clone();
    let pinned = write_pin(&settings.config_path, &made.fingerprint, &regions);
    let document = json!({
        "repository": made.repository.to_string(),
        "fingerprint": made.fingerprint.to_string(),
        "suite": suite.name(),
        "config": settings.config_path.to_string_lossy(),
        "regions": made.regions.iter().map(|(name, id, probe)| json!({
            "name": name, "id": id.to_string(), "put_if_absent": probe.put_if_absent, "deletes": probe.deletes,
        })).collect::<Vec<_>>(),
    });
    Output { json: global.json }.result(&document, |out| {
        writeln!(out, "Made repository {} ({})", made.repository, suite.name())?;
        for (name, id, probe) in &made.regions {
            let racing = if probe.put_if_absent { "refuses to overwrite" } else { "does NOT refuse to overwrite" };
            let deletes = if probe.deletes { "deletes" } else { "refuses to delete" };
            writeln!(out, "  region '{name}' is {id}: its store {racing}, {deletes}")?;
        }
        writeln!(out, "Root fingerprint: {}", made.fingerprint)?;
        if pinned.is_ok() {
            writeln!(out, "Pinned in {}", render::path(&settings.config_path))?;
        }
        writeln!(out)?;
        writeln!(out, "Keep the passphrase or identity, and this fingerprint, apart from this machine:")?;
        writeln!(out, "without the first nothing can be restored. `keepstone key export` prints a sheet for a safe.")
    })?;
    for (name, _, probe) in &made.regions {
        if !probe.put_if_absent {
            output::stderr_line(&format!(
                "keepstone: region '{name}' ignores put-if-absent: collect garbage there from one host only"
            ));
        }
    }
    pinned.map(|_| Class::Success).map_err(|error| {
        CliError::from(error)
            .hint(format!("the repository is made; put `pin = \"{}\"` into the file", made.fingerprint))
    })
}

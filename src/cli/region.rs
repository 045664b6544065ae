//! `region`: the regions of the repository.

use super::args::{Global, RegionAddArgs, RegionCommand};
use super::config::ConfigFile;
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use super::workspace::{Workspace, refuse_nested, settings};
use crate::repo::RegionSpec;
use crate::report::Monitor;
use crate::store::open::open_store;
use serde_json::json;

/// Runs the command.
///
/// # Errors
/// When this slot is no owner's, the store isn't empty, or a region can't be used.
pub fn run(command: &RegionCommand, global: &Global) -> Result<Class, CliError> {
    match command {
        RegionCommand::Add(args) => add(args, global),
    }
}

fn add(args: &RegionAddArgs, global: &Global) -> Result<Class, CliError> {
    let mut settings = settings(global, false)?;
    let Some(at) = settings.regions.iter().position(|region| region.name == args.name) else {
        return Err(CliError::usage(format!("no region of this run is named '{}'", args.name))
            .hint("put it into keepstone.toml under [[regions]], or give its address: --region NAME=URL"));
    };
    refuse_nested(&settings)?;
    let region = settings.regions.remove(at);
    if settings.regions.is_empty() {
        return Err(CliError::usage(format!("no other region than '{}' is named", args.name)).hint(
            "a region that holds the repository is needed, too: name it with --region NAME as well, or leave --region \
             out where both are in keepstone.toml",
        ));
    }
    let mut workspace = Workspace::open_with(settings, global)?;
    let options = workspace.settings.store_options(&region);
    let store = open_store(&region.url, &options, true).map_err(|e| CliError::from(e).in_region(&region.name))?;
    let spec = RegionSpec { name: region.name.clone(), store };
    let (id, probe) = workspace.repository.add_region(&spec)?;
    let path = &workspace.settings.config_path;
    let file = ConfigFile::read(path)?.unwrap_or_default();
    let configured = file.regions.iter().any(|section| section.name == region.name);
    if !probe.put_if_absent {
        workspace.progress.notice(&format!(
            "region '{}' ignores put-if-absent: collect garbage there from one host only",
            region.name
        ));
    }
    workspace.progress.finish();
    let document = json!({
        "region": {
            "name": region.name, "id": id.to_string(), "put_if_absent": probe.put_if_absent, "deletes": probe.deletes,
        },
        "configured": configured,
    });
    Output { json: global.json }.result(&document, |out| {
        let racing = if probe.put_if_absent { "refuses to overwrite" } else { "does NOT refuse to overwrite" };
        let deletes = if probe.deletes { "deletes" } else { "refuses to delete" };
        writeln!(out, "Made region '{}', {id}: its store {racing}, {deletes}", region.name)?;
        if !configured {
            writeln!(out, "Put it into {}, on every host:", render::path(path))?;
            writeln!(out, "  [[regions]]\n  name = \"{}\"\n  url = \"{}\"", region.name, region.url)?;
        }
        writeln!(out, "It holds no snapshot yet. `keepstone replicate` copies them there, and so does the next backup.")
    })?;
    Ok(Class::Success)
}

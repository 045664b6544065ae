//! `scrub`: verifies every stored byte of one region; needs neither key nor pin.
//!
//! Under `--json`:
//! ```text
//! {"region":"far","sound":true,"objects":120,"bytes":4096,
//!  "kinds":{"pack":{"objects":3,"bytes":4000},…},
//!  "damaged":0,"issues":[{"kind":"damaged","object":"far:packs/ab/…","detail":"…"}],"notices":["…"]}
//! ```
//! `issues` lists the first 10,000; `damaged` counts all. Ends as `corrupt` when anything is damaged.

use super::args::{Global, ScrubArgs};
use super::check::{issues_document, write_issues};
use super::exit::{Class, CliError};
use super::output::Output;
use super::render;
use crate::check::scrub;
use crate::store::open::open_store;
use serde_json::json;

/// Runs the command.
///
/// # Errors
/// When the region isn't configured, can't be listed or stops answering.
pub fn run(args: &ScrubArgs, global: &Global) -> Result<Class, CliError> {
    let settings = super::workspace::settings(global, false)?;
    let region = settings.regions.iter().find(|region| region.name == args.name).ok_or_else(|| {
        let names: Vec<&str> = settings.regions.iter().map(|region| region.name.as_str()).collect();
        CliError::new(Class::Missing, format!("no region '{}' is configured for this run", args.name))
            .hint(format!("there is: {}; or name it with --region NAME=URL", names.join(", ")))
    })?;
    let store = open_store(&region.url, &settings.store_options(region), false)
        .map_err(|error| CliError::from(error).in_region(&region.name))?;
    let progress = super::workspace::progress(global)?;
    let report = scrub(&region.name, &*store, settings.workers(crate::check::WORKER_BYTES), &progress)?;
    progress.finish();
    let document = json!({
        "region": region.name, "sound": report.issues_total == 0,
        "objects": report.objects, "bytes": report.bytes,
        "kinds": report.kinds.iter()
            .map(|(kind, tally)| ((*kind).to_owned(), json!({ "objects": tally.objects, "bytes": tally.bytes })))
            .collect::<serde_json::Map<_, _>>(),
        "damaged": report.issues_total, "issues": issues_document(&report.issues), "notices": report.notices,
    });
    let printed = Output { json: global.json }.result(&document, |out| {
        for (kind, tally) in &report.kinds {
            writeln!(out, "{:>12} {:<12} {:>12}", render::count(tally.objects), kind, render::size(tally.bytes))?;
        }
        write_issues(out, &report.issues, report.issues_total)?;
        let verdict = match report.issues_total {
            0 => "all whole".to_owned(),
            damaged => format!("{} DAMAGED", render::count(damaged)),
        };
        writeln!(
            out,
            "Region '{}': {} ({}) read and compared with their digests: {verdict}",
            region.name,
            render::counted(report.objects, "object"),
            render::size(report.bytes),
        )?;
        writeln!(out, "Not seen without a key: objects that are absent, an old state put back; `check` looks for these")
    });
    let class = if report.issues_total == 0 { Class::Success } else { Class::Corrupt };
    class.printed(printed)
}

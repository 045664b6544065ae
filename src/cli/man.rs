//! `keepstone man`: the manual pages, made from the argument definitions.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::args::{Cli, ManArgs};
use super::exit::{Class, CliError};

/// Writes one page for each command: `keepstone.1`, `keepstone-backup.1`, `keepstone-key-add.1`, ….
///
/// # Errors
/// When the directory can't be made or a page can't be written.
pub fn run(args: &ManArgs) -> Result<Class, CliError> {
    fs::create_dir_all(&args.dir).map_err(|error| CliError::file("make", &args.dir, &error))?;
    write_pages(&args.dir)?;
    Ok(Class::Success)
}

fn write_pages(dir: &Path) -> Result<(), CliError> {
    fn visit(command: &clap::Command, dir: &Path) -> Result<(), CliError> {
        for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            visit(subcommand, dir)?;
        }
        let page = clap_mangen::Man::new(command.clone()).manual("keepstone manual");
        let path = dir.join(page.get_filename());
        let mut text = Vec::new();
        page.render(&mut text)
            .and_then(|()| fs::write(&path, unfilled_notes(&String::from_utf8_lossy(&text))))
            .map_err(|error| CliError::file("write", &path, &error))
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    visit(&command, dir)
}

/// The text behind the options is laid out by hand: it gets a better title, and its lines stay lines.
fn unfilled_notes(page: &str) -> String {
    let Some((before, notes)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (notes, after) = match notes.find("\n.SH ") {
        Some(end) => notes.split_at(end + 1),
        None => (notes, ""),
    };
    format!("{before}.SH NOTES\n.nf\n{}\n.fi\n{after}", notes.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::{unfilled_notes, write_pages};

    #[test]
    fn notes_keep_their_lines() {
        assert_eq!(
            unfilled_notes(".SH A\nx\n.SH EXTRA\ny\n.SH B\nz\n"),
            ".SH A\nx\n.SH NOTES\n.nf\ny\n.fi\n.SH B\nz\n"
        );
        assert_eq!(unfilled_notes(".SH EXTRA\ny"), ".SH NOTES\n.nf\ny\n.fi\n");
        assert_eq!(unfilled_notes(".SH A\n"), ".SH A\n");
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write_pages(dir.path()).unwrap();
        for name in ["keepstone", "keepstone-backup", "keepstone-restore", "keepstone-key-add", "keepstone-man"] {
            let page = std::fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        }
    }
}

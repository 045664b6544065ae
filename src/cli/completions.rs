//! `keepstone completions`: a shell's completion script, made from the argument definitions.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::exit::{Class, CliError};
use super::output::Output;

/// Prints the script.
///
/// # Errors
/// When the standard output can't be written.
pub fn run(args: &CompletionsArgs) -> Result<Class, CliError> {
    // Made in memory first: the generator panics when a write fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keepstone", &mut script);
    Output::raw(|out| out.write_all(&script))?;
    Ok(Class::Success)
}

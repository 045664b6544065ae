//! The command line: the only part of the program that prints, prompts or reads the environment.
//!
//! [`run`] parses the arguments, runs one command and turns what came of it into the exit code that
//! [`exit`] documents. One file a command; what commands share is in `config` (settings), `secret`
//! (passphrases), `progress`, `output` and `render`. Called by `main` alone.

pub mod args;
mod audit;
mod backup;
mod cache;
mod cat;
mod check;
mod choice;
pub mod completions;
pub mod config;
mod diff;
mod entry;
pub mod exit;
mod failure;
mod find;
mod forget;
mod gc;
mod init;
mod key;
mod known_objects;
mod ls;
mod man;
mod opened_slots;
pub mod output;
pub mod parse;
pub mod path_list;
pub mod progress;
mod region;
mod remembered;
pub mod render;
mod replicate;
mod restore;
mod scrub;
pub mod secret;
mod seen_roster;
mod serve;
mod sheet;
pub mod signals;
mod snapshots;
mod stats;
mod tag;
mod timings;
mod verdict;
mod workspace;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use args::{Cli, Command};
use exit::{Class, CliError};

/// Runs the program with these arguments, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::env::allow_open_files();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refused(redacted(error), &args),
    };
    let json = cli.global.json;
    start_log(cli.global.verbose, json);
    let class = match dispatch(cli) {
        Ok(class) => class,
        Err(error) => {
            report(&error, json);
            error.class
        }
    };
    ExitCode::from(class.code())
}

fn dispatch(cli: Cli) -> Result<Class, CliError> {
    match cli.command {
        Command::Init(args) => init::run(&args, &cli.global),
        Command::Backup(args) => backup::run(&args, &cli.global),
        Command::Snapshots(args) => snapshots::run(&args, &cli.global),
        Command::Ls(args) => ls::run(&args, &cli.global),
        Command::Find(args) => find::run(&args, &cli.global),
        Command::Cat(args) => cat::run(&args, &cli.global),
        Command::Diff(args) => diff::run(&args, &cli.global),
        Command::Forget(args) => forget::run(&args, &cli.global),
        Command::Unforget(args) => verdict::unforget(&args, &cli.global),
        Command::Hold(args) => verdict::hold(&args, &cli.global),
        Command::Release(args) => verdict::release(&args, &cli.global),
        Command::Audit(args) => audit::run(&args, &cli.global),
        Command::Tag(args) => tag::run(&args, &cli.global),
        Command::Restore(args) => restore::run(&args, &cli.global),
        Command::Check(args) => check::run(&args, &cli.global),
        Command::Scrub(args) => scrub::run(&args, &cli.global),
        Command::Gc(args) => gc::run(&args, &cli.global),
        Command::Replicate(_) => replicate::run(&cli.global),
        Command::Region(command) => region::run(&command, &cli.global),
        Command::Serve(args) => serve::run(&args, &cli.global),
        Command::Key(command) => key::run(&command, &cli.global),
        Command::Stats => stats::run(&cli.global),
        Command::Cache(command) => cache::run(command, &cli.global),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

fn report(error: &CliError, json: bool) {
    if error.is_silent() {
        return;
    }
    output::stderr_line(&if json { error.to_json().to_string() } else { error.to_string() });
}

/// Says that a signal ended the program before its command began to work.
pub fn report_cancelled(args: impl IntoIterator<Item = OsString>) {
    let args: Vec<OsString> = args.into_iter().collect();
    report(&CliError::cancelled(), asks_for_json(&args));
}

/// Whether arguments that weren't parsed ask for JSON.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// Help and version, which are no errors, or arguments that can't be used.
fn refused(error: clap::Error, args: &[OsString]) -> ExitCode {
    let is_error = error.use_stderr();
    let shows_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    // The arguments didn't parse, so whether JSON was asked for is read off them.
    if is_error && asks_for_json(args) && !shows_help {
        // The first paragraph says what is wrong; the usage and the tips behind it are for people.
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        report(&CliError::usage(message).hint("see `keepstone --help`"), true);
    } else {
        // A closed pipe (`keepstone --help | head`) is no error, and nothing else can be told.
        let _ = error.print();
    }
    ExitCode::from(if is_error { Class::Usage.code() } else { Class::Success.code() })
}

/// Keeps what looks like a secret, given as an argument by mistake, out of logs.
fn redacted(mut error: clap::Error) -> clap::Error {
    let secret = |value: &str| {
        value.to_ascii_uppercase().contains("AGE-SECRET-KEY-") || value.contains("://") && value.contains('@')
    };
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(value)) = error.get(kind)
            && secret(value)
        {
            error.insert(kind, ContextValue::String("(not shown)".into()));
        }
    }
    error
}

/// Logs to the standard error: warnings, with `-v` information, and so on; `KEEPSTONE_LOG` decides
/// where it is set.
fn start_log(verbose: u8, json: bool) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let default = || EnvFilter::new(format!("warn,keepstone={level}"));
    let filter = match std::env::var("KEEPSTONE_LOG") {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            let error = format!("KEEPSTONE_LOG='{}' is not used: {error}", render::printable(&wanted));
            output::notice(json, &error);
            default()
        }),
        Ok(_) | Err(std::env::VarError::NotPresent) => default(),
        Err(error) => {
            output::notice(json, &format!("KEEPSTONE_LOG is not used: {error}"));
            default()
        }
    };
    // Fails only where a subscriber is set already, as in tests that call `run` twice.
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let _ = match json {
        true => log.with_ansi(false).with_writer(|| output::JsonLog).try_init(),
        false => log.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::{Cli, redacted, run};
    use clap::Parser;
    use std::process::ExitCode;

    fn code(line: &str) -> String {
        format!("{:?}", run(line.split_whitespace().map(Into::into)))
    }

    #[test]
    fn exit_codes_of_the_parser() {
        assert_eq!(code("keepstone --nonsense"), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code("keepstone --json ls"), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code("keepstone --version"), format!("{:?}", ExitCode::from(0)));
    }

    #[test]
    fn secrets_given_by_mistake_are_not_repeated() {
        let error = Cli::try_parse_from(["keepstone", "init", "--recipient", "AGE-SECRET-KEY-1QQQ"]).unwrap_err();
        let text = redacted(error).to_string();
        assert!(!text.contains("1QQQ") && text.contains("not shown") && text.contains("exposed"), "{text}");
    }
}

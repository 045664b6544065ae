use clap::{CommandFactory, Parser};

use super::{CacheCommand, Cli, Command, KeyCommand, Overwrite, Role, Suite};
use crate::cli::exit::Class;
use crate::cli::parse::{ReadData, SnapshotRef};
use crate::compress::Compression;

fn parse(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
}

macro_rules! command {
    ($line:expr, $variant:path) => {
        match parse($line).unwrap().command {
            $variant(args) => args,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_option_has_help() {
    fn visit(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(visit);
    }
    visit(&Cli::command());
}

#[test]
fn commands_keep_their_own_summary_and_long_help() {
    let command = Cli::command();
    let about = |name: &str| command.find_subcommand(name).unwrap().get_about().unwrap().to_string();
    assert_eq!(about("snapshots"), "List snapshots");
    assert_eq!(about("key"), "Manage the passphrases and identities that open the repository");
    let long = command.find_subcommand("backup").unwrap().get_long_about().unwrap().to_string();
    assert!(long.contains("nothing is skipped silently"));
    assert!(command.get_long_about().unwrap().to_string().contains("one or more regions"));
}

#[test]
fn no_option_takes_a_secret() {
    let passphrase = parse("keepstone --passphrase x stats").unwrap_err();
    assert!(passphrase.contains("unexpected argument"), "{passphrase}");
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in ["keepstone --memory 1GiB --json -v stats", "keepstone stats --json --memory 1GiB -v"] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.global.memory, cli.global.json, cli.global.verbose), (Some(1 << 30), true, 1));
    }
    assert!(parse("keepstone stats -q -v").is_err());
    assert!(parse("keepstone stats --passphrase-file a --passphrase-command b").is_err());
    let regions = parse("keepstone check --region a=/x --region b").unwrap().global.regions;
    assert_eq!(regions, ["a=/x", "b"]);
}

#[test]
fn backup_takes_paths_lists_streams_and_commands() {
    let args = command!("keepstone snapshot /a /b --tag x --tag y --exclude *.o --chunk-size 8K", Command::Backup);
    assert_eq!((args.paths.len(), args.tags.len(), args.chunk_size_bytes), (2, 2, Some(8192)));

    let args = command!("keepstone backup --as db.sql -- pg_dump --format=plain app", Command::Backup);
    assert_eq!(args.as_name.as_deref(), Some("db.sql"));
    assert_eq!(args.stream_command, ["pg_dump", "--format=plain", "app"]);
    assert!(args.paths.is_empty());

    assert!(command!("keepstone backup --stdin --as x", Command::Backup).stdin);
    let args = command!("keepstone backup /a --timings --compression off", Command::Backup);
    assert_eq!((args.timings, args.compression), (true, Some(Compression::Off)));

    for line in [
        "keepstone backup --compression 3 /a",
        "keepstone backup --stdin",
        "keepstone backup --stdin --as a/b",
        "keepstone backup --stdin --as x /a",
        "keepstone backup -- pg_dump",
        "keepstone backup /a --as x -- pg_dump",
        "keepstone backup --stdin --as x -- pg_dump",
        "keepstone backup --files-from a --files-from0 b",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn backup_switches_can_be_turned_off() {
    let args = command!("keepstone backup /a --one-file-system --exclude-caches=false", Command::Backup);
    assert_eq!((args.one_file_system, args.exclude_caches, args.skip_if_unchanged), (Some(true), Some(false), None));
}

#[test]
fn restore_tells_snapshot_from_paths() {
    let selection = |line: &str| command!(line, Command::Restore).selection();
    let chosen = selection("keepstone restore abcd home/a home/b --to /t").unwrap();
    assert_eq!((chosen.snapshot, chosen.paths.len()), ("abcd".parse().unwrap(), 2));
    // With a time, a word that could be an id is a path.
    let chosen = selection("keepstone restore --at 2026-11-01 abcd --to /t").unwrap();
    assert_eq!(chosen.snapshot, SnapshotRef::Latest { back: 0 });
    assert_eq!(chosen.paths, ["abcd"]);
    let chosen = selection("keepstone restore latest~1 x --at 3d --to /t").unwrap();
    assert_eq!((chosen.snapshot, chosen.paths.len()), (SnapshotRef::Latest { back: 1 }, 1));
    assert!(selection("keepstone restore --at 3d --to /t").unwrap().paths.is_empty());

    let nothing = selection("keepstone restore --to /t").unwrap_err();
    assert_eq!(nothing.class, Class::Usage);
    let swapped = selection("keepstone restore /home --to /t").unwrap_err();
    assert!(swapped.message.contains("'/home'") && swapped.hint.unwrap().contains("before the paths"));
    assert!(parse("keepstone restore latest").unwrap_err().contains("--to"));
}

#[test]
fn restore_keeps_what_is_there_unless_told() {
    assert_eq!(command!("keepstone restore latest --to /t", Command::Restore).overwrite, Overwrite::Never);
    let args = command!("keepstone restore latest --to /t --overwrite if-different", Command::Restore);
    assert_eq!(args.overwrite, Overwrite::IfDifferent);
}

#[test]
fn check_reads_nothing_all_or_a_part() {
    assert_eq!(command!("keepstone check", Command::Check).read_data, None);
    assert_eq!(command!("keepstone check --read-data", Command::Check).read_data, Some(ReadData::All));
    let part = command!("keepstone check --read-data=2/7", Command::Check).read_data;
    assert_eq!(part, Some(ReadData::Part { part: 2, of: 7 }));
    assert!(parse("keepstone check --read-data=half").unwrap_err().contains("'half'"));
}

#[test]
fn the_other_commands() {
    assert_eq!(command!("keepstone init --suite aes-256-gcm", Command::Init).suite, Suite::Aes256Gcm);
    assert_eq!(command!("keepstone init", Command::Init).suite, Suite::Chacha20Poly1305);
    let key = command!("keepstone key add --role owner", Command::Key);
    assert!(matches!(key, KeyCommand::Add(args) if args.role == Role::Owner));
    assert!(matches!(command!("keepstone key passwd abcd", Command::Key), KeyCommand::Passwd(_)));
    assert!(matches!(command!("keepstone cache rebuild", Command::Cache), CacheCommand::Rebuild));
    assert_eq!(command!("keepstone snapshots --latest 3", Command::Snapshots).latest.map(u32::from), Some(3));
    assert_eq!(command!("keepstone find *.odt latest abcd", Command::Find).snapshots.len(), 2);
    assert!(command!("keepstone diff abcd latest x --metadata", Command::Diff).metadata);
    assert!(parse("keepstone tag latest").is_err());
    assert!(parse("keepstone tag latest --set a --add b").is_err());
    assert_eq!(command!("keepstone tag latest --remove a --add b", Command::Tag).add, ["b"]);
}

#[test]
fn errors_name_value_and_remedy() {
    let error = parse("keepstone stats --memory 12Q").unwrap_err();
    assert!(error.contains("'12Q'") && error.contains("--memory") && error.contains("256M"), "{error}");
    let error = parse("keepstone ls xyz").unwrap_err();
    assert!(error.contains("'xyz'") && error.contains("keepstone snapshots"), "{error}");
    let error = parse("keepstone snapshots --at soon").unwrap_err();
    assert!(error.contains("'soon'") && error.contains("3 days ago"), "{error}");
}

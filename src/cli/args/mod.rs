//! The command line: global options, commands and their help.
//!
//! Guarantees: no secret is ever an argument, since other users can read those; every value that is
//! accepted here is well formed. What the environment and the configuration file add is in `config`.

mod audit;
mod backup;
mod browse;
mod gc;
mod repository;
mod restore;
mod retention;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub use audit::AuditArgs;
pub use backup::BackupArgs;
pub use browse::{CatArgs, DiffArgs, FindArgs, LsArgs, SnapshotsArgs, TagArgs};
pub use gc::GcArgs;
pub use repository::{
    AcceptedChoice, CacheCommand, CheckArgs, CompletionsArgs, InitArgs, KeyAddArgs, KeyCommand, KeyExportArgs,
    KeyMergeArgs, KeyPasswdArgs, KeyRemoveArgs, KeyRevokeArgs, KeyRotateArgs, ManArgs, RegionAddArgs, RegionCommand,
    ReplicateArgs, Role, ScrubArgs, ServeArgs, ServeRole, Suite,
};
pub use restore::{Overwrite, RestoreArgs, RestoreSelection};

pub use retention::{ForgetArgs, HoldArgs, ReleaseArgs, UnforgetArgs};

use super::{exit, parse};
use crate::format::ids::Digest;

const EXAMPLES: &str = "\
Examples:
  Make a repository in two regions, then back up and look at what is there:
    $ keepstone --region here=/mnt/backup --region far=s3://bucket/keepstone init
    $ keepstone backup /home --tag nightly
    $ keepstone snapshots

  Bring back a directory as it was three days ago:
    $ keepstone restore --at '3 days ago' home/anna/letters --to /tmp/letters

  Prove that a region still holds what it should, without any key:
    $ keepstone scrub far

Files:
  $XDG_CONFIG_HOME/keepstone/keepstone.toml, else /etc/keepstone/keepstone.toml
      Regions, pin and defaults. `keepstone init` writes it. The command line
      stands over the environment, and the environment over the file.
  $XDG_CACHE_HOME/keepstone
      The local index. It can be deleted: it is rebuilt from the regions.

Environment:
  KEEPSTONE_CONFIG, KEEPSTONE_REGIONS, KEEPSTONE_PIN, KEEPSTONE_IDENTITY,
  KEEPSTONE_CACHE_DIR, KEEPSTONE_MEMORY, KEEPSTONE_THREADS, KEEPSTONE_HOST
      As the options of the same name.
  KEEPSTONE_PASSPHRASE, KEEPSTONE_PASSPHRASE_FILE, KEEPSTONE_PASSPHRASE_COMMAND
      The passphrase, a file that holds it, or a command that prints it.
  KEEPSTONE_NEW_PASSPHRASE
      The passphrase that `init`, `key add` and `key passwd` set.
  KEEPSTONE_SSH_COMMAND
      What is run instead of `ssh` for regions at ssh:// addresses, with its arguments.
  KEEPSTONE_LOG
      What is logged, as a tracing filter (keepstone=debug); stands over --verbose.

With --json, the standard output carries one JSON document, the result; the
standard error carries one JSON object a line: progress, notices, issues, and on
failure {\"error\":{\"class\",\"code\",\"message\",\"hint\"}} as the last one. Times are
RFC 3339 in UTC. Where a path is not UTF-8, `path` is inexact and `path_hex`, its
bytes in hexadecimal, stands beside it.
";

/// Deduplicating, encrypted backups that every region holds whole.
///
/// keepstone stores snapshots of directories and streams in one or more regions: directories, here
/// or on other machines, or object stores. Each region can restore everything that it lists, anyone can check a region for
/// damage without a key, and no region ever sees a name or a byte of content.
#[derive(Debug, Parser)]
#[command(
    name = "keepstone",
    bin_name = "keepstone",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = format!("{EXAMPLES}\n{}", exit::HELP),
    after_help = "Run `keepstone --help` for examples, files, environment and exit codes."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options that every command has.
    #[command(flatten)]
    pub global: Global,
}

/// Options that every command has.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Read this configuration file only [env: KEEPSTONE_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Use this region: NAME=URL, or the NAME of a configured one; repeatable [env: KEEPSTONE_REGIONS]
    ///
    /// URL is a directory, one on another machine: ssh://[USER@]HOST[:PORT]/DIR, or an object store:
    /// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX. Regions given here replace the configured list; a NAME alone picks one
    /// from it. KEEPSTONE_REGIONS holds such NAME=URL pairs or NAMEs, separated by spaces or commas. What the
    /// configuration lists and neither of them names is left out of the run, which says so. Credentials
    /// come from the store's own environment variables, never from the URL.
    // Parsed in `config`, so that a refused address with credentials in it is not repeated.
    #[arg(long = "region", value_name = "NAME[=URL]", global = true)]
    pub regions: Vec<String>,

    /// Require this root key fingerprint [env: KEEPSTONE_PIN]
    ///
    /// The fingerprint that `keepstone init` printed. Whoever holds the storage could otherwise put
    /// another repository, with their own keys, in the place of yours.
    #[arg(long, value_name = "FINGERPRINT", global = true, value_parser = parse::fingerprint)]
    pub pin: Option<Digest>,

    /// Read the passphrase from this file [env: KEEPSTONE_PASSPHRASE_FILE]
    ///
    /// One newline at its end is not part of the passphrase.
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "passphrase_command")]
    pub passphrase_file: Option<PathBuf>,

    /// Take the passphrase from this command's first line of output [env: KEEPSTONE_PASSPHRASE_COMMAND]
    ///
    /// It is run by `sh -c`, and must succeed.
    #[arg(long, value_name = "COMMAND", global = true)]
    pub passphrase_command: Option<String>,

    /// Open the repository with this age identity file; repeatable [env: KEEPSTONE_IDENTITY]
    #[arg(long = "identity", value_name = "FILE", global = true)]
    pub identities: Vec<PathBuf>,

    /// Keep the local index in this directory [env: KEEPSTONE_CACHE_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,

    /// Ceiling for all buffers and caches together [env: KEEPSTONE_MEMORY] [default: 256MiB]
    #[arg(long, value_name = "SIZE", global = true, value_parser = parse::memory)]
    pub memory: Option<usize>,

    /// How many threads may compute at once, as far as the memory goes [env: KEEPSTONE_THREADS] [default: one for each core]
    #[arg(long, value_name = "N", global = true, value_parser = parse::threads)]
    pub threads: Option<usize>,

    /// Print one JSON document, the result; progress goes to the standard error, one object a line
    #[arg(long, global = true)]
    pub json: bool,

    /// Print no progress and no notices, only results, issues and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Log what is done to the standard error; repeat for more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print no progress, but notices
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// The commands. A variant's help is its arguments' own: a comment here would hide the longer text there.
#[allow(missing_docs, reason = "see the arguments' types")]
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(InitArgs),
    #[command(visible_alias = "snapshot")]
    Backup(BackupArgs),
    Snapshots(SnapshotsArgs),
    Ls(LsArgs),
    Find(FindArgs),
    Cat(CatArgs),
    Diff(DiffArgs),
    Tag(TagArgs),
    Restore(RestoreArgs),
    Forget(ForgetArgs),
    Unforget(UnforgetArgs),
    Hold(HoldArgs),
    Release(ReleaseArgs),
    Audit(AuditArgs),
    Check(CheckArgs),
    Scrub(ScrubArgs),
    Gc(GcArgs),
    Replicate(ReplicateArgs),
    #[command(subcommand, arg_required_else_help = true)]
    Region(RegionCommand),
    Serve(ServeArgs),
    #[command(subcommand, arg_required_else_help = true)]
    Key(KeyCommand),
    /// Show how much is stored, and what deduplication and compression save
    #[command(after_help = "\
JSON: snapshots, logical_bytes (all snapshots' files), chunks and chunk_bytes (distinct ones), packs,
stored_bytes, data and metadata ({packs, bytes, frames, raw_bytes, sealed_bytes}), compression_ratio
(raw over sealed), dedup_ratio (logical over chunk_bytes), total_ratio (logical over stored), regions
({name, objects, bytes, kinds}), datasets ({name, snapshots, logical_bytes, newest_bytes, newest_at}).")]
    Stats,
    #[command(subcommand, arg_required_else_help = true)]
    Cache(CacheCommand),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Which snapshots a command considers; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Filters")]
pub struct Filter {
    /// Only snapshots of this dataset
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub dataset: Option<String>,

    /// Only snapshots made on this host
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub host: Option<String>,

    /// Only snapshots with this tag; repeatable, all must be there
    #[arg(long = "tag", value_name = "TAG", value_parser = parse::label)]
    pub tags: Vec<String>,

    /// Only snapshots made at this time or before it
    ///
    /// RFC 3339 (2026-11-01T14:30:00Z), a local time ('2026-11-01 14:30'), a local day, which means
    /// its end (2026-11-01), or how long ago ('3 days ago', 36h, P3D).
    #[arg(long = "at", value_name = "TIME", value_parser = parse::time, allow_hyphen_values = true)]
    pub at_ns: Option<i64>,
}

#[cfg(test)]
mod tests;

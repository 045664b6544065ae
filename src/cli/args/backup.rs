//! Arguments of `backup`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::parse::{self, Marker};
use crate::compress::Compression;

const EXAMPLES: &str = "\
Examples:
  Back up two directories, but no caches and no build output:
    $ keepstone backup /home /etc --exclude-caches --exclude 'target/'

  Back up what another program lists, names separated by NUL:
    $ find /srv -newer stamp -print0 | keepstone backup --files-from0 -

  Store a database dump. Nothing is saved unless the command succeeds:
    $ keepstone backup --as db.sql --dataset db -- pg_dump --format=plain app

  Store a stream that is already there:
    $ zfs send tank/data@now | keepstone backup --stdin --as data.zfs

  See what would be captured and what would be left out:
    $ keepstone backup /home --dry-run

It ends with 0 only when every configured region has committed the snapshot, with
3 when some region has yet to, and with 4 when some entries could not be read.";

/// Save a snapshot of directories, files or a stream
///
/// Captures the paths with all that is below them: content, names, modes, owners, times, extended
/// attributes, ACLs, hard links, holes and special files. A file that did not change since the last
/// snapshot of the same source is not read again. What is left out, or could not be read, is listed
/// in the snapshot and in the report; nothing is skipped silently.
///
/// Of a region of this repository, or its cache, that is met below a path, only the directory is
/// captured, unless it is named as a path itself.
///
/// Without any path, the paths configured under [backup] are captured.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    /// Directories and files to capture
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Name the dataset: a series of snapshots of the same source [default: default]
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub dataset: Option<String>,

    /// Tag the snapshot; repeatable
    #[arg(long = "tag", value_name = "TAG", value_parser = parse::label)]
    pub tags: Vec<String>,

    /// Record this host name instead of the machine's [env: KEEPSTONE_HOST]
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub host: Option<String>,

    /// Average chunk size of a dataset: 8KiB to 1MiB, a power of two [default: 64KiB; streams: 8KiB]
    ///
    /// Smaller chunks find more of what is already stored, which pays for databases and disk images,
    /// and need about 50 bytes of index each. Changing it stores the dataset again.
    #[arg(long = "chunk-size", value_name = "SIZE", value_parser = parse::chunk_size)]
    pub chunk_size_bytes: Option<usize>,

    /// How hard to compress: off, fast, default or max
    ///
    /// zstd 1, 3 and 19. What was compressed before is noticed and stored as it is. Backups of any kind
    /// deduplicate against one another; what is stored already stays as it is.
    #[arg(long, value_name = "HOW", value_parser = parse::compression)]
    pub compression: Option<Compression>,

    /// Show where the time went, stage by stage, on the standard error (under --json in the result)
    #[arg(long)]
    pub timings: bool,

    /// Show what would be captured and left out; store nothing
    ///
    /// A command whose output is captured is run all the same.
    #[arg(long, short = 'n')]
    pub dry_run: bool,

    /// Save no snapshot when nothing changed since the last one of the same paths
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_if_unchanged: Option<bool>,

    /// Save a snapshot even if it is empty; otherwise that is an error
    ///
    /// So it is where patterns and sizes leave out all of a source but directories.
    #[arg(long)]
    pub allow_empty: bool,

    /// Also capture the paths listed in this file, one a line; - for the standard input
    ///
    /// A listed path that isn't there makes the snapshot PARTIAL; none that is, and none is saved.
    #[arg(long, value_name = "FILE", help_heading = "Sources")]
    pub files_from: Option<PathBuf>,

    /// Also capture the paths listed in this file, each ended by NUL; - for the standard input
    ///
    /// As with --files-from.
    #[arg(long, value_name = "FILE", help_heading = "Sources", conflicts_with = "files_from")]
    pub files_from0: Option<PathBuf>,

    /// Capture the standard input as one file
    #[arg(
        long,
        help_heading = "Sources",
        requires = "as_name",
        conflicts_with_all = ["paths", "files_from", "files_from0", "stream_command"]
    )]
    pub stdin: bool,

    /// The name of that file, or of the file with the command's output
    #[arg(
        long = "as",
        value_name = "NAME",
        help_heading = "Sources",
        value_parser = parse::file_name,
        conflicts_with_all = [
            "exclude", "exclude_from", "ignore_files", "exclude_larger_than_bytes", "exclude_if_present",
            "exclude_caches", "one_file_system", "skip_if_unchanged",
        ]
    )]
    pub as_name: Option<String>,

    /// Capture the standard output of this command as one file, if it succeeds
    #[arg(
        last = true,
        value_name = "COMMAND",
        requires = "as_name",
        conflicts_with_all = ["paths", "files_from", "files_from0"]
    )]
    pub stream_command: Vec<OsString>,

    /// Leave out what matches this pattern (as in .gitignore); repeatable
    ///
    /// A pattern with a '/' that isn't its last character is matched from the captured path's root,
    /// one without at any depth; a '/' at its end makes it match directories only; '!' at its
    /// beginning takes back an earlier pattern. An absolute path below what is captured is understood, too.
    /// One that can leave nothing out, such as a path from the current directory, is told.
    #[arg(long, value_name = "PATTERN", help_heading = "Exclusions")]
    pub exclude: Vec<String>,

    /// Leave out what matches the patterns in this file (as in .gitignore); repeatable
    #[arg(long, value_name = "FILE", help_heading = "Exclusions")]
    pub exclude_from: Vec<PathBuf>,

    /// Honour the ignore file of this name in every directory (as .gitignore); repeatable
    #[arg(long = "ignore-file", value_name = "NAME", help_heading = "Exclusions", value_parser = parse::file_name)]
    pub ignore_files: Vec<String>,

    /// Leave out files larger than this
    ///
    /// Without a unit it is a number of bytes. Less than 1 KiB is taken for a missing unit and refused, unless with
    /// --allow-empty.
    #[arg(long = "exclude-larger-than", value_name = "SIZE", help_heading = "Exclusions", value_parser = parse::size)]
    pub exclude_larger_than_bytes: Option<u64>,

    /// Leave out what is in a directory that holds this file, beginning with HEADER; repeatable
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = "Exclusions")]
    pub exclude_if_present: Vec<Marker>,

    /// Leave out what is in directories marked as caches by a CACHEDIR.TAG
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Exclusions",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub exclude_caches: Option<bool>,

    /// Don't cross into other file systems below a captured path
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Exclusions",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub one_file_system: Option<bool>,
}

//! Arguments of the commands that look into snapshots: `snapshots`, `ls`, `find`, `cat`, `diff`, `tag`.

use std::ffi::OsString;
use std::num::NonZeroU32;

use clap::{ArgGroup, Args};

use super::Filter;
use crate::cli::parse::{self, SnapshotRef};

/// List snapshots
///
/// Newest last. Shows in which regions each snapshot is committed, and whether it is partial: saved
/// while some entries could not be read.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone snapshots
  $ keepstone snapshots --dataset db --at 2026-11-01 --latest 3
  $ keepstone snapshots --latest --details
  $ keepstone snapshots --json | jq -r '.[].id'")]
pub struct SnapshotsArgs {
    /// Only the newest N of each host and dataset
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = false, default_missing_value = "1")]
    pub latest: Option<NonZeroU32>,

    /// Show sources and everything that was not captured, with the reason; needs an owner's key
    #[arg(long)]
    pub details: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// List a snapshot's entries
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone ls latest
  $ keepstone ls latest~1 home/anna --recursive --long

Control characters and bytes that are not UTF-8 are shown as escapes (\\n, \\x1b, \\xff), and
a backslash as two; --json gives every name exactly.

JSON: {snapshot, path, entries}; of an entry: path, type (file, directory, symlink,
character-device, block-device, fifo), mode (a number), permissions, mtime, uid, gid, and where
there are any user, group, size and inconsistent (files), target (symlinks), major and minor
(devices), xattrs (names), link_group (the first name of a file that has several).
A document that doesn't end is one whose reading failed, as the exit code says.")]
pub struct LsArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id
    pub snapshot: SnapshotRef,

    /// The directory or entry to list; the snapshot's root without one
    pub path: Option<OsString>,

    /// List everything below, too
    #[arg(long, short)]
    pub recursive: bool,

    /// Show modes, owners, sizes and times, too
    #[arg(long, short)]
    pub long: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// Find entries by name in snapshots
///
/// Looks in all snapshots that the filters admit, or in those that are named, and shows for each
/// version of an entry the snapshots that hold it.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone find '*.odt'
  $ keepstone find 'home/anna/**/thesis*' --dataset default --at '2 weeks ago'
  $ keepstone find -i 'invoice*' latest latest~1

A '*' or '?' never stands for '/', '**' stands for any number of directories, and a '/' at the
end restricts the pattern to directories. --ignore-case is about ASCII letters.

JSON: {searched, failed, entries}; entries are as those of `ls`, each with snapshots, the ids
that hold this version of it; failed lists snapshots that could not be read whole.")]
pub struct FindArgs {
    /// A glob: without '/' it is matched against names, with '/' against whole paths
    pub pattern: OsString,

    /// Look only in these snapshots: `latest`, `latest~N`, or 4 or more digits of an id
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<SnapshotRef>,

    /// Don't distinguish upper and lower case
    #[arg(long, short)]
    pub ignore_case: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// Write a file's content to the standard output
///
/// Every byte is verified before it is written.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone cat latest home/anna/letter.txt
  $ keepstone cat latest db.sql --dataset db | psql app")]
pub struct CatArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id
    pub snapshot: SnapshotRef,

    /// The file
    pub path: OsString,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// Show what changed between two snapshots
///
/// Each line begins with + (only in B), - (only in A), M (content differs), T (another kind of
/// entry) or, with --metadata, U (only mode, owner, time or attributes differ).
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone diff latest~1 latest
  $ keepstone diff 3f2a 91cc home/anna --metadata

Content is compared by its chunks' ids, without reading it: a file that was stored with another
chunk size counts as modified.

JSON: {before, after, path, changes, summary}; of a change: path, change (added, removed,
modified, type, metadata), before and after: the entry on each side as `ls` shows it, or null.
Of the summary: added, removed, modified, type, metadata, bytes_before, bytes_after.")]
pub struct DiffArgs {
    /// The older snapshot: `latest`, `latest~N`, or 4 or more digits of an id
    #[arg(value_name = "A")]
    pub before: SnapshotRef,

    /// The newer snapshot
    #[arg(value_name = "B")]
    pub after: SnapshotRef,

    /// Compare only this directory or entry
    pub path: Option<OsString>,

    /// Show entries of which only the metadata differ, too
    #[arg(long, short)]
    pub metadata: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// Change a snapshot's tags
#[derive(Clone, Debug, Args)]
#[command(
    group = ArgGroup::new("change").args(["add", "remove", "set"]).multiple(true).required(true),
    after_help = "\
Examples:
  $ keepstone tag latest --add before-upgrade
  $ keepstone tag 3f2a --remove nightly --add keep
  $ keepstone tag 3f2a --set monthly

JSON: {snapshot, tags, tags_before, changed}"
)]
pub struct TagArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id
    pub snapshot: SnapshotRef,

    /// Add this tag; repeatable
    #[arg(long, value_name = "TAG", value_parser = parse::label)]
    pub add: Vec<String>,

    /// Remove this tag; repeatable
    #[arg(long, value_name = "TAG", value_parser = parse::label)]
    pub remove: Vec<String>,

    /// Have these tags and no others; repeatable
    #[arg(long, value_name = "TAG", value_parser = parse::label, conflicts_with_all = ["add", "remove"])]
    pub set: Vec<String>,
}

//! Arguments of `restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Filter;
use crate::cli::exit::CliError;
use crate::cli::parse::SnapshotRef;

const EXAMPLES: &str = "\
Examples:
  Restore everything from the newest snapshot:
    $ keepstone restore latest --to /tmp/restored

  Restore one directory as it was on a day, and prove it by reading it back:
    $ keepstone restore --at 2026-11-01 home/anna --to /tmp/anna --verify

  Make a directory exactly what the snapshot holds, but for what no backup holds; look first what that would do:
    $ keepstone restore 3f2a srv/www --to / --overwrite if-different --delete --exclude '*.tmp' --dry-run

It ends with 4 when some entries could not be restored; the report lists them.";

/// Write a snapshot's entries to a directory
///
/// Entries keep their paths: home/anna/letter.txt restored --to /tmp/x becomes
/// /tmp/x/home/anna/letter.txt. What is written is verified first. A file appears under its name only
/// once it is whole, but for directories that the restore makes: until one has all of its entries, its
/// mode is 01700, and 01600 that of a file in it that isn't whole yet. After a restore that was killed
/// the same command goes on, and replaces such files. Whoever isn't root gets what they may set; what could not be set is reported.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "\
keepstone restore [OPTIONS] --to <DIR> <SNAPSHOT> [PATH]...
       keepstone restore [OPTIONS] --to <DIR> --at <TIME> [PATH]...")]
pub struct RestoreArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id, then the paths to restore; all without one
    ///
    /// With --at, SNAPSHOT can be left out and means `latest`: the newest at that time.
    #[arg(value_names = ["SNAPSHOT", "PATH"], num_args = 1..)]
    snapshot_and_paths: Vec<OsString>,

    /// Write below this directory; it is made if it isn't there
    ///
    /// Not into a region's directory or the cache's; with --overwrite always or --delete, not around one either.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Show what would be written and deleted; change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,

    /// Show where the time went, stage by stage, on the standard error (under --json in the result)
    #[arg(long)]
    pub timings: bool,

    /// Read back every file that was written, or was there already with its size and time, and compare
    #[arg(long)]
    pub verify: bool,

    /// Restore only what matches this pattern (as in .gitignore); repeatable
    ///
    /// If no entry does, the run ends with 12.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,

    /// Don't restore what matches this pattern (as in .gitignore); repeatable
    ///
    /// With --delete, what it matches in DIR stays as well. A pattern means what it means to the backup: from the
    /// snapshot's root, or as an absolute path below what was backed up or below DIR. With --delete, one that can name
    /// nothing there is refused.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// What to do where an entry is already there
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Overwrite::Never)]
    pub overwrite: Overwrite,

    /// Delete what is below DIR and the given paths, but not in the snapshot
    ///
    /// What the backup left out or could not capture stays, as does what lies beside its sources: the snapshot doesn't
    /// say that it was gone. It knows what was left out then, not by which patterns and rules: what they would leave out
    /// (*.tmp, a directory with a .nobackup or CACHEDIR.TAG) and is newer than the snapshot IS DELETED. Give --exclude
    /// with the same patterns to spare that. Look first: --dry-run names each entry that would go, also what stands in
    /// the way of one of another kind. Not together with --include, which leaves open what is to become of the rest.
    #[arg(long, conflicts_with = "include")]
    pub delete: bool,

    /// With --delete, also delete what the backup left out by --exclude and its other options
    ///
    /// What it could not capture stays.
    #[arg(long, requires = "delete")]
    pub delete_excluded: bool,

    /// Set owners by number, even where the owner's name has another number here
    #[arg(long)]
    pub numeric_ids: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: Filter,
}

/// What to do where an entry to be restored is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Overwrite {
    /// Keep it; one that differs is reported as not restored
    #[default]
    Never,
    /// Replace it when its kind, size or modification time differs
    IfDifferent,
    /// Replace it in any case
    Always,
}

/// What a restore was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSelection {
    /// The snapshot.
    pub snapshot: SnapshotRef,
    /// Paths in it; empty for all.
    pub paths: Vec<OsString>,
}

impl RestoreArgs {
    /// Tells the snapshot from the paths: with `--at`, a first word that isn't `latest…` is a path.
    ///
    /// # Errors
    /// When there is neither a snapshot nor `--at`, or the snapshot can't be one.
    pub fn selection(&self) -> Result<RestoreSelection, CliError> {
        let words = &self.snapshot_and_paths;
        let first = words.first().map(|word| word.to_string_lossy());
        let reference = first.as_deref().map(str::parse::<SnapshotRef>);
        match (reference, self.filter.at_ns) {
            (Some(Ok(snapshot @ SnapshotRef::Latest { .. })), _) | (Some(Ok(snapshot)), None) => {
                Ok(RestoreSelection { snapshot, paths: words[1..].to_vec() })
            }
            (_, Some(_)) => Ok(RestoreSelection { snapshot: SnapshotRef::Latest { back: 0 }, paths: words.clone() }),
            (Some(Err(error)), None) => {
                let word = first.unwrap_or_default();
                Err(CliError::usage(format!("'{word}' can't name the snapshot to restore: {error}"))
                    .hint("the snapshot comes before the paths: `keepstone restore latest PATH --to DIR`"))
            }
            (None, None) => Err(CliError::usage("no snapshot is named")
                .hint("name one (`keepstone restore latest --to DIR`), or a time (`--at '3 days ago'`)")),
        }
    }
}

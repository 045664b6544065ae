//! Arguments of `gc`.

use clap::Args;

use crate::cli::parse;
use crate::gc::MaxUnused;

/// Reclaim what no snapshot needs, in every region
///
/// Collection goes in generations, beside running backups. A run finishes the generation that the last
/// one began, deletes what it found to be free, and condemns what is free now: running backups see that
/// and say what they rely on. So data goes with the second run at the earliest, or with one run and --now.
/// Whatever a snapshot reaches stays; a forgotten one stays until its window is over, 7 days by default,
/// and two generations have been begun since. Interrupt a run as you like: the next one goes on.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone gc
  $ keepstone gc --now                  # wait for running backups to take note, then finish
  $ keepstone gc --dry-run --json
  $ keepstone --region far gc

Ends with code 4 (partial) when a store refuses to delete what is free, as one does that locks its
objects: each later run tries again.

JSON: {dry_run, regions}; of a region: name, finished (generations), open, waiting_for (sessions),
condemned ({reason: {packs, bytes}}; reasons: unreached, duplicate, orphan, emptied), condemned_packs ({reason: ids}),
rescued, repacked_bytes, deleted ({packs, bytes}), deleted_packs (ids),
deferred ({packs, bytes}), deferred_objects, deferred_reason, sessions_fenced, snapshots_collected,
segments_written, segments_deleted, objects_deleted, kept ({packs, bytes}), live_bytes, dead_bytes,
dead_in_live_frames_bytes, sessions_open ({session, slot, label, started_at, observed}),
session_packs, windows ({snapshot, until}), held, notices, failure.")]
pub struct GcArgs {
    /// Wait until running backups have seen what is condemned, at most 10 minutes, and delete it in this run
    ///
    /// A backup that doesn't take note by then is taken for dead; if it isn't, it repeats its work.
    #[arg(long)]
    pub now: bool,

    /// Show exactly what would be condemned and deleted, and write nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,

    /// Tolerate so much that nothing needs in packs that are needed: a share (5%) or a size (10GiB) [default: 5%]
    ///
    /// Packs that are mostly dead are emptied until no more than this is left in a region: what is needed
    /// moves into new packs. An owner's key takes single chunks out of frames, which are compressed
    /// together; a maintainer's, which can't open them, only moves whole frames and counts only those.
    #[arg(long, value_name = "SHARE", value_parser = parse::max_unused)]
    pub max_unused: Option<MaxUnused>,

    /// Read at most so much to empty packs in one run
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub max_repack: Option<u64>,

    /// Believe this host's clock, though nothing was backed up or forgotten here for 100 days before the forget window
    ///
    /// Without it, no forgotten snapshot goes for good then: a clock that leapt ahead must not end the time in
    /// which `unforget` brings snapshots back.
    #[arg(long)]
    pub trust_clock: bool,

    /// Let this key slot on this host collect in regions whose store can't refuse a second put; needs an owner's key
    ///
    /// `keepstone init` finds out which stores these are. There, two collectors could undo one another, so
    /// one host is named. Before you name another, see that no gc is running on the old one.
    #[arg(long, conflicts_with_all = ["now", "dry_run", "trust_clock"])]
    pub designate: bool,
}

//! Arguments of the commands that decide over snapshots: `forget`, `unforget`, `hold`, `release`.

use clap::{ArgGroup, Args};
use jiff::Span;

use crate::cli::parse::{self, IdPrefix, SnapshotRef};
use crate::policy::GroupBy;

/// Forget snapshots, by id or by a retention policy
///
/// A forgotten snapshot is no longer listed and no longer counts; its data stays until a collection that
/// begins after the forget window, and until then `keepstone unforget` brings it back. Without ids, every
/// group of snapshots is judged by the policy of the options, or else of [retention] in keepstone.toml: the
/// newest of each period are kept, and what no rule keeps is forgotten.
///
/// A snapshot that is partial or too small takes no slot from one that is whole; one whose size dropped
/// suspiciously, that isn't in every region, or whose date contradicts the collections that saw it, is set
/// aside: it takes no slot and stays until you forget it by id or --accept it.
///
/// The floors `minimum_age` and `minimum_copies` hold whatever is asked; --break-floor overrides them once,
/// after the dataset's name was typed, and the audit chain tells of it. Needs an owner's or maintainer's key.
#[derive(Clone, Debug, Args)]
#[command(
    group = ArgGroup::new("rules").multiple(true).args([
        "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within", "keep_tags",
    ]),
    after_help = "\
Examples:
  $ keepstone forget --dry-run                     # by [retention] in keepstone.toml
  $ keepstone forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  $ keepstone forget 3f2a91 91cc04
  $ keepstone forget 3f2a91 --break-floor --confirm home

Rules that count snapshots (--keep-last) can be used up by many snapshots made in a hurry; rules that
count periods can't.

JSON: {by (id, policy), dry_run, forgotten (ids), kept, set_aside, floors_broken ({id, floor}),
unforget_until, groups}; of a group: dataset, host, slot, tags (null for what it isn't grouped by),
snapshots ({id, started_at, stays, standing, detail, reasons, broken})."
)]
pub struct ForgetArgs {
    /// The snapshots: 4 or more digits of each id
    #[arg(value_name = "ID", conflicts_with_all = ["rules", "group_by", "dataset", "host", "tags", "accept"])]
    pub ids: Vec<IdPrefix>,

    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_last: Option<u32>,

    /// Keep the newest of each of the newest N hours that have any
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_hourly: Option<u32>,

    /// The same by days
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_daily: Option<u32>,

    /// The same by weeks, which begin on Monday
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_weekly: Option<u32>,

    /// The same by months
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_monthly: Option<u32>,

    /// The same by years
    #[arg(long, value_name = "N", value_parser = parse::keep_count, help_heading = "Rules")]
    pub keep_yearly: Option<u32>,

    /// Keep everything that is younger than this: 48h, 30d, '2 weeks'; and the newest that is older
    ///
    /// That one is the state as it was when the span began, what `restore --at` gives for it: with
    /// skip_if_unchanged it may be old and have been the present state until an hour ago.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, help_heading = "Rules")]
    pub keep_within: Option<Span>,

    /// Keep everything that has this tag; repeatable
    #[arg(long = "keep-tag", value_name = "TAG", value_parser = parse::label, help_heading = "Rules")]
    pub keep_tags: Vec<String>,

    /// Judge by themselves the snapshots that have these in common: dataset, host, slot, tags, or none
    /// [default: dataset,host,slot]
    ///
    /// The slot is the key that a snapshot was signed with. Without it, a host can push out the snapshots of
    /// another one by claiming its name.
    #[arg(long, value_name = "LIST", value_parser = parse::group_by, help_heading = "Rules")]
    pub group_by: Option<GroupBy>,

    /// Take this snapshot for good, whatever speaks against it; repeatable
    #[arg(long, value_name = "ID", help_heading = "Rules")]
    pub accept: Vec<IdPrefix>,

    /// Judge only snapshots of this dataset
    #[arg(long, value_name = "NAME", value_parser = parse::label, help_heading = "Filters")]
    pub dataset: Option<String>,

    /// Judge only snapshots made on this host
    #[arg(long, value_name = "NAME", value_parser = parse::label, help_heading = "Filters")]
    pub host: Option<String>,

    /// Judge only snapshots with this tag; repeatable, all must be there
    #[arg(long = "tag", value_name = "TAG", value_parser = parse::label, help_heading = "Filters")]
    pub tags: Vec<String>,

    /// Show what would be forgotten, and why each snapshot stays or goes; change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,

    /// Record this reason
    #[arg(long, value_name = "TEXT", value_parser = parse::reason)]
    pub reason: Option<String>,

    /// Override the floors minimum_age and minimum_copies, this once
    #[arg(long)]
    pub break_floor: bool,

    /// With --break-floor: the name of the dataset concerned, instead of typing it; repeatable
    #[arg(long, value_name = "DATASET", requires = "break_floor")]
    pub confirm: Vec<String>,
}

/// Bring a forgotten snapshot back
///
/// Within the forget window (7 days, or `forget_window` in [retention]) that is certain, unless a collection
/// has named the snapshot already: then only the end of that collection decides, and you are told so.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone unforget 3f2a91

Ends with code 3 (pending) when a collection that has begun may still take it in some region, or when
it is no longer in every region.

JSON: {snapshot, counts (regions), in_doubt ({region, generation}), absent (regions)}")]
pub struct UnforgetArgs {
    /// The snapshot: 4 or more digits of its id
    #[arg(value_name = "ID")]
    pub id: IdPrefix,

    /// Record this reason
    #[arg(long, value_name = "TEXT", value_parser = parse::reason)]
    pub reason: Option<String>,

    /// Try it though the forget window is over
    #[arg(long)]
    pub past_window: bool,
}

/// Hold snapshots: they can't be forgotten until released
///
/// A hold is a decision in the repository that every honest program keeps to. Against whoever has a
/// maintainer's key, and can release it, protect a region by its storage: object lock, or credentials that
/// can't delete.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone hold 3f2a91 --reason 'audit 2026'
  $ keepstone hold latest --reason 'before the migration' --until '90 days'

JSON: {snapshots, ruling, until, reason}")]
pub struct HoldArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id; several
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<SnapshotRef>,

    /// Why; whoever wants to forget it is told
    #[arg(long, value_name = "TEXT", value_parser = parse::reason)]
    pub reason: String,

    /// End the hold by itself at this time: 2030-01-01, '2030-01-01 12:00', or how long ('90 days')
    #[arg(long = "until", value_name = "TIME", value_parser = parse::time_until)]
    pub until_ns: Option<i64>,
}

/// End the hold on snapshots
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone release 3f2a91 --reason 'the audit is over'

JSON: {snapshots, ruling, until, reason}")]
pub struct ReleaseArgs {
    /// `latest`, `latest~N`, or 4 or more digits of an id; several
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<SnapshotRef>,

    /// Record this reason
    #[arg(long, value_name = "TEXT", value_parser = parse::reason)]
    pub reason: Option<String>,
}

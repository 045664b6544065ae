//! Arguments of `audit`.

use clap::Args;

use crate::cli::parse;

/// Show who was about to destroy or grant what, and verify that the record is whole
///
/// Every slot keeps a chain of signed entries in every region. Before a snapshot is forgotten, held or
/// released, before a collection deletes packs, and before a key slot changes, an entry is written; so an
/// entry says that something was about to be done, with whose key, where and why, and what is done without
/// one was not done by this program. All chains are read, merged and verified: an entry that is missing,
/// damaged or not signed by its slot, and a chain that splits, are told by name.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone audit
  $ keepstone audit --since '30 days ago' --slot laptop
  $ keepstone audit --verify --quiet || mail -s 'audit chain broken' root

Ends with code 11 (corrupt) when a chain is not whole, else with 14 (storage) when a configured region
isn't reached: what that one alone holds of the chains was not looked at. `behind` (a region lacks entries that another
has) and `joined-fork` (one slot recorded in two regions that it didn't reach at the same time) are
told and don't change the code.

JSON: {sound, unchecked ({name, reason}: regions that were not looked at), chains, entries_total,
entries, findings}; of an entry: slot, label, number, digest, previous (digests), host, recorded_at, action, subject (what the subjects are), subjects, figures,
reason, revoked, regions; of a finding: kind (damaged, gap, fork, joined-fork, behind, unrecorded),
breaks, slot, number, detail.")]
pub struct AuditArgs {
    /// Only this slot's chain: its label, or the first digits of its id
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<String>,

    /// Show only entries recorded at this time or after it; everything is verified all the same
    ///
    /// RFC 3339 (2026-11-01T14:30:00Z), a local time ('2026-11-01 14:30'), a local day, which means
    /// its beginning (2026-11-01), or how long ago ('3 days ago', 36h, P3D).
    #[arg(long = "since", value_name = "TIME", value_parser = parse::time_since, allow_hyphen_values = true)]
    pub since_ns: Option<i64>,

    /// Verify only, and show no entries
    #[arg(long)]
    pub verify: bool,
}

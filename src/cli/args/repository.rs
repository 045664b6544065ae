//! Arguments of the commands about the repository itself: `init`, `region`, `replicate`, `check`, `scrub`,
//! `key`, `cache`, `serve`, `completions`, `man`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::parse::{self, IdPrefix, ReadData};

/// Make a new repository in every region
///
/// Asks for a passphrase, or takes recipients, makes the keys, writes them into every region, prints
/// the root key's fingerprint and pins it in the configuration file, which is made if there is none.
/// Then run `keepstone key export`: without a key, nobody can read the repository again.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone --region here=/mnt/backup --region far=s3://bucket/keepstone init
  $ keepstone --region here=/mnt/backup init --recipient age1ql3z7hjy54pw3hyww5ay...
  $ KEEPSTONE_PASSPHRASE_FILE=/run/secrets/keepstone keepstone init --suite aes-256-gcm")]
pub struct InitArgs {
    /// The cipher for everything that is stored
    #[arg(long, value_enum, default_value_t = Suite::Chacha20Poly1305)]
    pub suite: Suite,

    /// Open the repository with this age public key instead of a passphrase; repeatable
    #[arg(long = "recipient", value_name = "AGE1...", value_parser = parse::recipient)]
    pub recipients: Vec<String>,
}

/// The cipher suites, fixed when a repository is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Fast on every processor
    #[default]
    #[value(name = "chacha20-poly1305")]
    Chacha20Poly1305,
    /// For policies that name AES-256; age key files stay as age defines them
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

/// Manage the regions of the repository
#[derive(Clone, Debug, Subcommand)]
#[allow(missing_docs, reason = "a comment on a variant would hide the longer help of its arguments")]
pub enum RegionCommand {
    Add(RegionAddArgs),
}

/// Make a region in an empty store: a further one, or one that was lost
///
/// Opens the repository by its other regions, finds out what the store does, and brings keys, roster,
/// rings, attestations and audit chains there. Needs an owner's slot, and is recorded in its audit
/// chain. The snapshots come with `keepstone replicate`, or with the next backup. A run that was
/// interrupted can be run again. A region that was lost gets a new id: to keepstone it is another one.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  A disk was replaced; its region stands in keepstone.toml as before:
    $ keepstone region add disk
    $ keepstone replicate

  One more region, which goes into keepstone.toml afterwards:
    $ keepstone --region disk --region far=s3://bucket/keepstone region add far

JSON: region ({name, id, put_if_absent, deletes}), configured.")]
pub struct RegionAddArgs {
    /// The region's name, in keepstone.toml or by --region NAME=URL
    #[arg(value_name = "NAME", value_parser = parse::region_name)]
    pub name: String,
}

/// Bring all regions up to one another
///
/// Copies to each region what it lacks and another has: keys, verdicts, tags, audit entries, and the
/// snapshots that count, with all that they need. Nothing is read from a source. `backup` begins with
/// the same. It ends with 3 when something could not be copied yet, or a region was not reached.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone replicate

JSON: packs, bytes, segments, commits (snapshots that count in one region more), decisions (verdicts and
tags), audit_entries, issues, regions ({name, reached, failure}).")]
pub struct ReplicateArgs {}

/// Check that the repository is whole, and optionally read all stored data
///
/// Checks signatures, that every snapshot's trees and chunks are listed, and that every pack that
/// they are in is present with its stated size. With --read-data, packs are read, opened and every
/// chunk in them is verified, too; what is as it should be is attested under the owner's key, so that
/// writers may deduplicate against one another's packs.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone check
  $ keepstone check --region far --read-data
  $ keepstone check --read-data=$(date +%u)/7      # another seventh each day of the week: everything in a week
  $ keepstone check --read-data=1/7                # the first seventh, the same one at each run
  $ keepstone check --read-data=5%                 # a random choice")]
pub struct CheckArgs {
    /// Read stored data, too: all of it, a share (5%), or one part of several (1/7)
    ///
    /// A share is chosen anew by each run. Parts are fixed: 1/7 reads the same packs whenever it is run, so all of
    /// 1/7 to 7/7 have to be, each in turn. A crontab wants the % of $(date +%u) as \%.
    #[arg(
        long,
        value_name = "SUBSET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub read_data: Option<ReadData>,

    /// Show where the time went, stage by stage, on the standard error (under --json in the result)
    #[arg(long)]
    pub timings: bool,
}

/// Verify every stored byte of a region, without any key
///
/// Every object ends in a digest of its own bytes. This finds damage; whether something is absent,
/// only `check` can tell, since that needs a key.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone scrub far
  $ keepstone --region here=/mnt/backup scrub here")]
pub struct ScrubArgs {
    /// The region's name
    #[arg(value_name = "REGION", value_parser = parse::region_name)]
    pub name: String,
}

/// Give a directory to a client on another machine, as a region, as far as a role goes
///
/// Speaks keepstone's protocol on the standard input and output until the input ends. It is meant
/// for ssh: pinned to a key by a forced command in authorized_keys, it makes out of a login a region
/// in which a host can make backups and can neither delete, overwrite nor read what is stored. The
/// client's region is ssh://HOST/DIR.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Roles:
  writer      makes packs, segments, sessions, snapshots and commits; reads all but packs; lists
  maintainer  also makes verdicts, tags and the gc log; reads everything; deletes packs, segments,
              sessions and commits
  owner       everything, `init` included
  No role replaces an object's bytes by others.

Examples:
  In ~/.ssh/authorized_keys of the machine with the disk, in one line:
    command=\"keepstone serve --stdio --role writer --dataset db --path /srv/backups\",restrict
        ssh-ed25519 AAAA... db-host
  On the other machine:
    $ keepstone --region nas=ssh://backup@nas/ backup --dataset db /var/lib/db")]
pub struct ServeArgs {
    /// Speak on the standard input and output; there is no other way yet
    #[arg(long, required = true)]
    pub stdio: bool,

    /// What the client may do
    #[arg(long, value_enum)]
    pub role: ServeRole,

    /// The directory that holds the region: absolute, or below the home directory with ~/
    #[arg(long, value_name = "DIR")]
    pub path: PathBuf,

    /// The only dataset that the client may back up
    ///
    /// The client is told and keeps to it. A client that was tampered with doesn't: what it puts is
    /// sealed, and a server without a key can't tell. With --identity the server opens each snapshot
    /// and commit before it is stored, and refuses those of other datasets. Any slot's will do: one
    /// that isn't an owner's can't read the data.
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub dataset: Option<String>,
}

/// What a client of `serve` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServeRole {
    /// Back up and list
    Writer,
    /// Also forget, tag, collect garbage, read what is sealed
    Maintainer,
    /// Everything
    Owner,
}

/// Manage the passphrases and identities that open the repository
#[derive(Clone, Debug, Subcommand)]
#[allow(missing_docs, reason = "a comment on a variant would hide the longer help of its arguments")]
pub enum KeyCommand {
    /// List the slots: who can open the repository, and how
    #[command(after_help = "\
JSON: {roster, epoch, slots}; of a slot: slot, role, state (active, removed, revoked), label, wrapping
(passphrase, x25519), created_at, in_use, post_quantum, epochs (those that it has a ring of).")]
    List,
    Add(KeyAddArgs),
    Remove(KeyRemoveArgs),
    Revoke(KeyRevokeArgs),
    Rotate(KeyRotateArgs),
    Merge(KeyMergeArgs),
    Passwd(KeyPasswdArgs),
    Export(KeyExportArgs),
}

/// Add a slot: a passphrase or an age recipient, in a role
///
/// An owner can do everything. A writer backs up, deduplicates and lists snapshots, and can't restore,
/// forget or collect: the role for a host. A maintainer forgets, collects and replicates, and can't
/// back up or read content or names: the role for the machine that looks after the regions.
///
/// Asks for the new passphrase twice, or takes it from KEEPSTONE_NEW_PASSPHRASE or
/// --new-passphrase-file. Passphrase slots stay safe against a quantum computer; X25519 recipients
/// don't.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone key add --label 'in the safe'
  $ keepstone key add --role writer --label web1
  $ keepstone key add --role maintainer --recipient age1ql3z7hjy54pw3hyww5ay...")]
pub struct KeyAddArgs {
    /// What the slot may do
    #[arg(long, value_enum, default_value_t = Role::Owner)]
    pub role: Role,

    /// Open the slot with this age public key instead of a passphrase
    #[arg(long, value_name = "AGE1...", value_parser = parse::recipient, conflicts_with = "new_passphrase_file")]
    pub recipient: Option<String>,

    /// Read the new passphrase from this file
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,

    /// Name the slot, for `key list`; without it, its role
    #[arg(long, value_name = "NAME", value_parser = parse::label)]
    pub label: Option<String>,
}

/// What a slot may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything
    #[default]
    Owner,
    /// Back up, deduplicate, list snapshots
    Writer,
    /// Forget, collect, replicate, check
    Maintainer,
}

impl Role {
    /// The roster's word for it.
    pub fn of_slot(self) -> crate::format::roster::Role {
        match self {
            Role::Owner => crate::format::roster::Role::Owner,
            Role::Writer => crate::format::roster::Role::Writer,
            Role::Maintainer => crate::format::roster::Role::Maintainer,
        }
    }
}

/// Remove a slot that nobody has stolen
///
/// The slot opens the repository no longer, and what it has signed goes on counting. For a key that
/// somebody else may have, use `keepstone key revoke`. What was stored stays readable for whoever kept the removed key and a copy of the storage.
/// The last owner's slot can't be removed.
#[derive(Clone, Debug, Args)]
pub struct KeyRemoveArgs {
    /// 4 or more digits of the slot's id; `keepstone key list` shows them
    pub slot: IdPrefix,
}

/// Revoke a slot whose key somebody else may have
///
/// From now on nothing counts that the slot signs. Of what it has signed, everything that is there now
/// stays accepted, or less: see the options. They concern its snapshots, verdicts, tags and attestations;
/// what other slots' snapshots rest on (segments, sessions, collections, copies' commits) always stays,
/// since none of it can make a false byte pass. A backup of the slot that is running ends without a
/// snapshot that counts. A slot that is revoked already can be revoked again, to accept less.
///
/// Afterwards, run `keepstone key rotate`, so that the key opens nothing that is stored from then on, and
/// change the store's credentials that were with the key. An owner's key can't be taken back wholly: who
/// has kept the root key can write rosters.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone key revoke 3f9a
  $ keepstone key revoke 3f9a --before 2026-11-01     # by the time that the slot itself stated
  $ keepstone key revoke 3f9a --except 81c2 --except 90ab
  $ keepstone key revoke 3f9a --accept none

JSON: slot, accepted and refused (how many objects, by kind), snapshots_refused, late (how many it put
while this was decided, by kind: they don't count) and snapshots_late, late_unknown (why it isn't known
whether there are more, or null), key_files_kept, issues.")]
pub struct KeyRevokeArgs {
    /// 4 or more digits of the slot's id; `keepstone key list` shows them
    pub slot: IdPrefix,

    /// Which of its snapshots, verdicts, tags and attestations stay accepted
    #[arg(long, value_enum, default_value_t = AcceptedChoice::All)]
    pub accept: AcceptedChoice,

    /// Accept only what states a time before this one
    ///
    /// The time is the slot's own word: a thief can write an earlier one. Look at the snapshots that are
    /// left, and name with --except those that nobody made.
    #[arg(long, value_name = "TIME", value_parser = parse::time, conflicts_with = "accept", allow_hyphen_values = true)]
    pub before: Option<i64>,

    /// Don't accept this snapshot; repeatable
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "accept")]
    pub except: Vec<IdPrefix>,
}

/// What stays accepted of a revoked slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AcceptedChoice {
    /// All that is there now
    #[default]
    All,
    /// None of them
    None,
}

/// Renew the secrets that new data is sealed with
///
/// Begins a new epoch: whatever is stored from now on is sealed with new keys, which the active slots get
/// and no removed or revoked one has. Nothing that is stored is rewritten; old data stays readable for
/// whoever could read it.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeyRotateArgs {
    /// Renew the keys of the chunk ids, too: everything is stored AGAIN by the next backups
    ///
    /// Only with this, whoever had a writer's key can no longer tell whether a file that it knows is stored
    /// from now on. Nothing that is stored before deduplicates with what is stored after.
    #[arg(long)]
    pub ids: bool,
}

/// Bring two key rosters together
///
/// When keys were changed in two places, each without knowing of the other, there are two newest rosters, and every
/// command refuses the repository until an owner has merged them: every slot of either stays, removed or
/// revoked where either says so; both's epochs stay; of a slot that both revoked, the snapshots that both accept.
#[derive(Clone, Debug, Args)]
pub struct KeyMergeArgs {
    /// Take the roster whose digest begins so, and drop the others' changes; refused where an epoch would go
    /// under which anything is sealed
    #[arg(long, value_name = "DIGEST")]
    pub take: Option<IdPrefix>,
}

/// Change a slot's passphrase
///
/// Rewrites the slot's key file, no data. A copy of the old key file still opens with the old
/// passphrase: if that was exposed, add a new slot and remove this one.
#[derive(Clone, Debug, Args)]
pub struct KeyPasswdArgs {
    /// 4 or more digits of the slot's id; `keepstone key list` shows them
    pub slot: IdPrefix,

    /// Read the new passphrase from this file
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
}

/// Print an emergency sheet: what to keep on paper to open the repository years from now
///
/// It holds the regions' addresses, the fingerprint, the slot's encrypted key file and the steps of
/// a restore, which needs an owner's slot. It is no use without the slot's passphrase or identity: keep that elsewhere. Made anew
/// after `key passwd`, it goes with the new passphrase; older sheets go with the old one.
#[derive(Clone, Debug, Args)]
pub struct KeyExportArgs {
    /// 4 or more digits of the slot's id; without it, the slot that opened the repository
    pub slot: Option<IdPrefix>,
}

/// Inspect or rebuild the local index
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum CacheCommand {
    /// Throw the local index away and build it again from the regions; ends with 13 while another run relies on it
    Rebuild,
    /// Show where the local index is, its size, and how far it is up to date
    #[command(after_help = "\
JSON: path, bytes, index_bytes, state (absent, unusable, usable), current, rebuilt; where it is
unusable, problem; where it is usable, packs, chunks, chunk_bytes and regions ({name,
segments_listed, segments_known, segments_stale, current}). `cache rebuild` gives the same.")]
    Info,
}

/// Print a shell's completion script
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone completions bash > /etc/bash_completion.d/keepstone
  $ keepstone completions zsh > \"${fpath[1]}/_keepstone\"
  $ keepstone completions fish > ~/.config/fish/completions/keepstone.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Write the manual pages to a directory
///
/// One page for each command, in section 1 of the manual. The directory is made if it isn't there.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

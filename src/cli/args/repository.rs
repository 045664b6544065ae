//! Arguments of the commands about the repository itself: `init`, `check`, `scrub`, `key`, `cache`,
//! `completions`, `man`.

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

/// Check that the repository is whole, and optionally read all stored data
///
/// Checks signatures, that every snapshot's trees and chunks are listed, and that every pack that
/// they are in is present with its stated size. With --read-data, packs are read, opened and every
/// chunk in them is verified, too.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $ keepstone check
  $ keepstone check --region far --read-data
  $ keepstone check --read-data=1/7      # a seventh each day reads everything in a week
  $ keepstone check --read-data=5%       # a random choice")]
pub struct CheckArgs {
    /// Read stored data, too: all of it, a share (5%), or one part of several (1/7)
    #[arg(
        long,
        value_name = "SUBSET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub read_data: Option<ReadData>,
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

/// Manage the passphrases and identities that open the repository
#[derive(Clone, Debug, Subcommand)]
#[allow(missing_docs, reason = "a comment on a variant would hide the longer help of its arguments")]
pub enum KeyCommand {
    /// List the slots: who can open the repository, and how
    #[command(after_help = "\
JSON: {slots}; of a slot: slot, role, state (active, removed, revoked), label, wrapping (passphrase,
x25519), created_at, in_use, post_quantum.")]
    List,
    Add(KeyAddArgs),
    Remove(KeyRemoveArgs),
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

/// Remove a slot
///
/// What was stored stays readable for whoever kept the removed key and a copy of the storage.
/// The last owner's slot can't be removed.
#[derive(Clone, Debug, Args)]
pub struct KeyRemoveArgs {
    /// 4 or more digits of the slot's id; `keepstone key list` shows them
    pub slot: IdPrefix,
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
/// a restore. It is no use without the slot's passphrase or identity: keep that elsewhere. Made anew
/// after `key passwd`, it goes with the new passphrase; older sheets go with the old one.
#[derive(Clone, Debug, Args)]
pub struct KeyExportArgs {
    /// 4 or more digits of the slot's id; without it, the slot that opened the repository
    pub slot: Option<IdPrefix>,
}

/// Inspect or rebuild the local index
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum CacheCommand {
    /// Throw the local index away and build it again from the regions
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

//! Turns the library's errors into the class, message and hint that a person or a script reads.

use super::exit::{Class, CliError};
use crate::backup::BackupError;
use crate::crypto::CryptoError;
use crate::find::FindError;
use crate::index::IndexError;
use crate::index::graph::GraphError;
use crate::pack::PackError;
use crate::repo::RepoError;
use crate::repo::fetch::FetchError;
use crate::report::IssueKind;
use crate::restore::RestoreError;
use crate::restore::target::{TargetError, TargetErrorKind};
use crate::ship::ShipError;
use crate::source::{SourceError, StreamError};
use crate::store::StoreErrorKind;

const ROLE: &str = "`keepstone key list` shows which role this slot has";
/// What to do where threads can't be begun.
pub const FEWER_THREADS: &str = "give fewer with --threads, or raise the limits of processes and of memory (`ulimit -u`, `ulimit -v`, a unit's TasksMax, a \
     container's pids.max)";
const REBUILD: &str = "run `keepstone cache rebuild`; nothing in the repository is touched by it";

impl From<RepoError> for CliError {
    fn from(error: RepoError) -> Self {
        let text = error.to_string();
        match error {
            RepoError::NoRegions => CliError::usage(text)
                .hint("name one with --region NAME=URL, in keepstone.toml under [[regions]], or in KEEPSTONE_REGIONS"),
            RepoError::SameRegion { second, .. } => CliError::usage(text).hint(format!(
                "check the regions' addresses in the configuration; a copy of a region's storage becomes one of its own \
                 once it is emptied and `keepstone region add {second}` and `keepstone replicate` have filled it"
            )),
            RepoError::DifferentRepositories { .. } => {
                CliError::usage(text).hint("check the regions' addresses in the configuration")
            }
            RepoError::NotARepository { region, .. } => CliError::new(Class::Missing, text).hint(format!(
                "check its address, and that its disk is mounted; `keepstone region add {region}` makes the region \
                 again if it was lost, `keepstone init` a new repository"
            )),
            RepoError::AlreadyARepository { .. } => {
                CliError::usage(text).hint("`init` and `region add` need empty stores; nothing there was changed")
            }
            RepoError::Unreachable(mut failures) => match failures.len() {
                1 => CliError::from(failures.remove(0).1),
                _ if failures.iter().all(|(_, error)| error.kind == StoreErrorKind::Denied) => {
                    CliError::new(Class::Access, format!("every region denies it: {text}"))
                        .hint("check the regions' credentials, or the owners and modes of their directories")
                }
                _ => CliError::new(Class::Storage, text).hint("check the network, the addresses and the credentials"),
            },
            RepoError::WrongPin { .. } => CliError::new(Class::Access, text)
                .hint("don't enter a passphrase; find out who changed the region's address or its content"),
            RepoError::WrongSecret => CliError::new(Class::Access, text)
                .hint("try again, or name another passphrase source or --identity FILE"),
            RepoError::NoSnapshot { .. } => {
                CliError::new(Class::Missing, text).hint("`keepstone snapshots` lists what there is")
            }
            RepoError::NoKeyFiles => CliError::new(Class::Missing, text)
                .hint("put the key file of an emergency sheet back under keys/ in a region, as the sheet says"),
            RepoError::Missing { .. } => CliError::new(Class::Missing, text)
                .hint("`keepstone check` says what else is missing; another region may hold it"),
            RepoError::TwoRosters { .. } => CliError::new(Class::Corrupt, text)
                .hint("an owner brings them together with `keepstone key merge`, with every region reached"),
            RepoError::AnotherHistory { .. } => CliError::new(Class::Access, text)
                .hint("reach the region that holds the other roster: an owner brings them together with `keepstone key merge`. If that region is gone for good, compare `keepstone key list` with what you expect, then delete the file `roster` in the repository's cache directory"),
            RepoError::RolledBack { .. } => CliError::new(Class::Access, text)
                .hint("if you restored an older state of every region on purpose, delete the file `roster` in the repository's cache directory"),
            RepoError::Cancelled => CliError::cancelled(),
            RepoError::Object { .. } => {
                CliError::new(Class::Corrupt, text).hint("`keepstone scrub REGION` finds what else is damaged")
            }
            RepoError::Crypto { source, region, name } => {
                CliError::new(class_of_crypto(&source), format!("{name} in region '{region}': {source}"))
                    .hint("`keepstone check` tells which objects are affected")
            }
            RepoError::Key(source) => source.into(),
            RepoError::Store { source, region } => CliError::from(source).in_region(&region),
            RepoError::Index(source) => source.into(),
            RepoError::NotDesignated { .. } => CliError::new(Class::Access, text)
                .hint("collect there, or have an owner run `keepstone gc --designate` on the host that shall"),
            RepoError::Fenced { .. } => CliError::new(Class::Failed, text).hint("run the backup again"),
            RepoError::Ambiguous { .. } => CliError::usage(text).hint("`keepstone snapshots` shows the ids"),
            RepoError::Verdict(_) => CliError::usage(text).hint("nothing was changed"),
            RepoError::Held { id, .. } => CliError::usage(text)
                .hint(format!("nothing was changed; `keepstone release {}` ends the hold", &id.to_string()[..12])),
            RepoError::Contended { .. } => CliError::new(Class::Busy, text)
                .hint("nothing that others decided is lost: look at `keepstone snapshots`, and run this again if it is still wanted"),
            RepoError::TooManyTags { .. } => CliError::new(Class::Limit, text).hint("remove some with --remove"),
            RepoError::Audit(_) => CliError::new(Class::Failed, text).hint("nothing was changed"),
            RepoError::NotPermitted { .. } => CliError::new(Class::Access, text).hint(ROLE),
            RepoError::Keys(_) => CliError::usage(text).hint("`keepstone key list` shows the slots"),
        }
    }
}

fn class_of_crypto(error: &CryptoError) -> Class {
    match error {
        CryptoError::NotPermitted { .. } | CryptoError::WrongSecret | CryptoError::Signature { .. } => Class::Access,
        CryptoError::TooLarge { .. } => Class::Limit,
        CryptoError::BadKey { .. } | CryptoError::Identity { .. } => Class::Usage,
        _ => Class::Corrupt,
    }
}

impl From<CryptoError> for CliError {
    fn from(error: CryptoError) -> Self {
        let refused = matches!(error, CryptoError::NotPermitted { .. });
        let error = CliError::new(class_of_crypto(&error), error.to_string());
        if refused { error.hint(ROLE) } else { error }
    }
}

impl From<IndexError> for CliError {
    fn from(error: IndexError) -> Self {
        let text = error.to_string();
        match error {
            IndexError::Busy { .. } => CliError::new(Class::Busy, text),
            IndexError::Full { .. } => CliError::new(Class::Storage, text)
                .hint("make room there, or name another place with --cache-dir; the regions are not concerned"),
            IndexError::Limited { .. } => CliError::new(Class::Limit, text)
                .hint("raise the limits (`ulimit -n` of open files, `ulimit -v` of memory) and run it again"),
            IndexError::Remade { .. } => CliError::new(Class::Failed, text)
                .hint("run the command again; what a backup has stored so far is used then"),
            IndexError::Damaged { .. } => CliError::new(Class::Failed, text)
                .hint("run the command again; it is made anew out of the regions, which are not concerned"),
            IndexError::Segment { .. } | IndexError::Refused { .. } => {
                CliError::new(Class::Corrupt, text).hint("`keepstone check` tells what it listed")
            }
            _ => CliError::new(Class::Failed, text).hint(REBUILD),
        }
    }
}

impl From<PackError> for CliError {
    fn from(error: PackError) -> Self {
        let text = error.to_string();
        match error {
            PackError::Spool { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                CliError::new(Class::Storage, text).hint("make room there, or name another place with --cache-dir")
            }
            PackError::Spool { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
                CliError::new(Class::Storage, text).hint(
                    "raise the limit of a file's size (`ulimit -f`), or name a place without one with --cache-dir",
                )
            }
            PackError::Spool { .. } => CliError::new(Class::Failed, text).hint("name a usable place with --cache-dir"),
            PackError::Store(source) => source.into(),
            PackError::Crypto(source) => source.into(),
            PackError::TooLarge { .. } => CliError::new(Class::Limit, text),
            PackError::Sink(_) => CliError::new(Class::Failed, text).hint(REBUILD),
            _ => CliError::new(Class::Corrupt, text).hint("`keepstone check --read-data` tells what else is damaged"),
        }
    }
}

impl From<GraphError> for CliError {
    fn from(error: GraphError) -> Self {
        let text = error.to_string();
        match error {
            GraphError::Spool(source) => source.into(),
            GraphError::Altered { .. } | GraphError::Incomplete => {
                CliError::new(Class::Failed, text).hint("name another place with --cache-dir, or give more --memory")
            }
        }
    }
}

impl From<FetchError> for CliError {
    fn from(error: FetchError) -> Self {
        let text = error.to_string();
        match error {
            FetchError::NotPermitted => CliError::new(Class::Access, text).hint(ROLE),
            FetchError::Index(source) => source.into(),
            FetchError::Unlisted(_) => CliError::new(Class::Missing, text)
                .hint("a region that is not reached may hold it; `keepstone check` tells more"),
            FetchError::Unreadable { kind: Some(StoreErrorKind::Denied), .. } => CliError::new(Class::Access, text)
                .hint("read from a region whose credentials or server allow it, or with an owner's access"),
            FetchError::Unreadable { kind: Some(StoreErrorKind::Unavailable), .. } | FetchError::Unanswered(_) => {
                CliError::new(Class::Storage, text).hint("check that the region can be reached, and run this again")
            }
            FetchError::Unreadable { kind: Some(kind), .. } if kind.issue_kind() != Some(IssueKind::Missing) => {
                CliError::new(Class::Storage, text).hint("nothing says that it is damaged; run this again")
            }
            _ => CliError::new(Class::Corrupt, text).hint("`keepstone check --read-data` tells what else is damaged"),
        }
    }
}

impl From<ShipError> for CliError {
    fn from(error: ShipError) -> Self {
        let text = error.to_string();
        if error.denied() {
            return CliError::new(Class::Access, text)
                .hint("no snapshot was saved; correct the credentials, or what the regions' servers allow them");
        }
        CliError::new(Class::Storage, text)
            .hint("no snapshot was saved; make room or restore the connection, and run it again: it goes on from there")
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        let class = match &error {
            SourceError::Missing { .. } => Class::Missing,
            SourceError::Pattern { .. } => Class::Usage,
            _ => Class::Failed,
        };
        CliError::new(class, error.to_string()).hint("no snapshot was saved")
    }
}

impl From<StreamError> for CliError {
    fn from(error: StreamError) -> Self {
        CliError::new(Class::Failed, error.to_string()).hint("no snapshot was saved")
    }
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        let text = error.to_string();
        match error {
            BackupError::Source(source) => source.into(),
            BackupError::Command(source) => source.into(),
            BackupError::ChunkSize(_) | BackupError::TooLong { .. } => CliError::usage(text),
            BackupError::TooManySources { .. } => CliError::new(Class::Limit, text).hint(
                "nothing was read or stored; name directories that hold what is to be captured and leave out the \
                 rest with --exclude, or give the paths to several backups",
            ),
            BackupError::ForeignDataset { allowed, .. } => CliError::new(Class::Access, text).hint(format!(
                "back up with --dataset {allowed}, leave the region out with --region, or use another access to it"
            )),
            BackupError::Threads { .. } => CliError::new(Class::Limit, text).hint(FEWER_THREADS),
            BackupError::EmptySource { .. } | BackupError::EmptyStream { .. } | BackupError::AllLeftOut { .. } => {
                CliError::new(Class::Failed, text).hint("no snapshot was saved")
            }
            BackupError::Pack(source) => source.into(),
            BackupError::Index(source) => source.into(),
            BackupError::Repo(source) => source.into(),
            BackupError::Ship(source) => source.into(),
            BackupError::Crypto(source) => source.into(),
            BackupError::Overtaken { .. } | BackupError::Lost { .. } => CliError::new(Class::Busy, text)
                .hint("run it again, what was stored so far is used; leave collections more time between their steps"),
            BackupError::Cancelled => {
                CliError::cancelled().hint("no snapshot was saved; run it again, what was stored so far is used")
            }
            BackupError::Stream(_) | BackupError::WalkEndedEarly | BackupError::Cache { .. } => {
                CliError::new(Class::Failed, text).hint("no snapshot was saved")
            }
        }
    }
}

impl From<FindError> for CliError {
    fn from(error: FindError) -> Self {
        let text = error.to_string();
        match error {
            FindError::Pattern { .. } => {
                CliError::usage(text).hint("write a glob such as '*.odt' or 'home/**/thesis*', quoted for the shell")
            }
            FindError::Fetch(source) => source.into(),
            FindError::Cancelled => CliError::cancelled(),
        }
    }
}

impl From<TargetError> for CliError {
    fn from(error: TargetError) -> Self {
        let text = error.to_string();
        match error.kind() {
            TargetErrorKind::Full => CliError::new(Class::Storage, text)
                .hint("make room and run the same command again: what is right already is not written again"),
            TargetErrorKind::ReadOnly | TargetErrorKind::Denied => {
                CliError::new(Class::Access, text).hint("choose a target that can be written")
            }
            TargetErrorKind::Busy => CliError::new(Class::Busy, text).hint("wait for the other restore"),
            _ => CliError::new(Class::Failed, text),
        }
    }
}

impl From<RestoreError> for CliError {
    fn from(error: RestoreError) -> Self {
        let text = error.to_string();
        match error {
            RestoreError::Fetch(source) => source.into(),
            RestoreError::Target(source) => source.into(),
            RestoreError::NoSuchPath(_) => CliError::new(Class::Missing, text)
                .hint("paths are given from the snapshot's root, as `keepstone ls` shows them"),
            RestoreError::Pattern { .. } => CliError::usage(text),
            RestoreError::PatternAstray(_) => CliError::usage(text).hint(
                "give a path as the backup saw it, or the one below DIR, or the one from the snapshot's root with a / \
                 before it; or leave that pattern out",
            ),
            RestoreError::NothingIncluded(_) => CliError::new(Class::Missing, text)
                .hint("patterns are as in .gitignore, from the snapshot's root; `keepstone find` shows what one names"),
            RestoreError::Threads { .. } => CliError::new(Class::Limit, text).hint(FEWER_THREADS),
            RestoreError::Cancelled => {
                CliError::cancelled().hint("run it again: what is right already is not written again")
            }
        }
    }
}

//! A repository over its regions: make, open, unlock; sessions and commits; which snapshots count.
//!
//! Typed states: a [`Located`] repository is verified against root and pin but locked; a
//! [`Repository`] holds the ring.

pub mod accepted;
pub(crate) mod at_once;
pub mod attest;
pub mod audit;
pub mod content;
pub mod designation;
pub mod fetch;
pub mod gclog;
pub mod init;
pub(crate) mod key_names;
pub mod keys;
pub mod known;
mod level;
mod lineage;
pub mod open;
pub mod pairs;
pub mod presence;
pub mod region;
pub mod retention;
pub mod session;
pub mod sessions;
pub mod snapshots;
pub mod sync;
pub mod tags;
pub mod unrecorded;
pub mod verdicts;
pub mod walk;

pub use init::{InitOptions, init};
pub use open::{Located, RegionHandle, RegionSpec, Repository};
pub use session::Session;
pub use snapshots::SnapshotInfo;

use crate::crypto::CryptoError;
use crate::format::ids::Digest;
use crate::format::roster::Role;
use crate::format::wire::DecodeError;
use crate::store::StoreError;

/// What goes wrong with a repository as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// No region is configured.
    #[error("no region is configured")]
    NoRegions,
    /// Two regions have the same name or are the same region.
    #[error("regions '{first}' and '{second}' are the same: {detail}")]
    SameRegion {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// In what.
        detail: String,
    },
    /// A store holds no repository.
    #[error("region '{region}' at {address} holds no repository")]
    NotARepository {
        /// The region's name.
        region: String,
        /// Its address.
        address: String,
    },
    /// A store holds a repository already.
    #[error("region '{region}' at {address} already holds a repository ({found})")]
    AlreadyARepository {
        /// The region's name.
        region: String,
        /// Its address.
        address: String,
        /// What was found.
        found: String,
    },
    /// No region could be reached.
    #[error("no region can be reached: {}", list(.0))]
    Unreachable(Vec<(String, StoreError)>),
    /// The root key is not the pinned one.
    #[error(
        "the root fingerprint of the repository in region '{region}' is {found}, but {pinned} is pinned: this is not your repository, or somebody replaced it"
    )]
    WrongPin {
        /// The region.
        region: String,
        /// The pinned fingerprint.
        pinned: String,
        /// The fingerprint found.
        found: String,
    },
    /// Regions hold different repositories.
    #[error("regions '{first}' and '{second}' hold different repositories")]
    DifferentRepositories {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Neither passphrase nor identity opens a slot.
    #[error("no key slot is opened by this passphrase or identity")]
    WrongSecret,
    /// There is no key slot to open.
    #[error("the repository has no key file; every region's keys/ is empty or missing")]
    NoKeyFiles,
    /// Several newest rosters.
    #[error(
        "ROSTER-4: there are {} newest key rosters ({}), the highest numbered {number}, and none follows from another: \
         keys were changed in two places, each without knowing of the other",
        .digests.len(), .digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ")
    )]
    TwoRosters {
        /// The highest number of them.
        number: u64,
        /// Their digests, ascending.
        digests: Vec<Digest>,
    },
    /// The roster is older than one that this client has seen.
    #[error(
        "ROSTER-5: the regions hold key roster {found}, and this client has seen {known}: somebody put an older state \
         of the keys back, which would let removed and revoked keys in again"
    )]
    RolledBack {
        /// The number found.
        found: u64,
        /// The highest number seen before.
        known: u64,
    },
    /// The roster doesn't follow from one that this client has seen.
    #[error(
        "ROSTER-5: the regions hold key roster {found}, which doesn't follow from roster {known} ({digest}), which this \
         client has seen: keys were changed without knowing of what that one decided"
    )]
    AnotherHistory {
        /// The number found.
        found: u64,
        /// The highest number seen before.
        known: u64,
        /// The roster that was seen.
        digest: Digest,
    },
    /// The user stopped it.
    #[error("stopped; nothing was changed")]
    Cancelled,
    /// An object is absent that must be there.
    #[error("{name} is missing in region '{region}'")]
    Missing {
        /// The region's name.
        region: String,
        /// The object.
        name: String,
    },
    /// An object breaks a rule.
    #[error("{name} in region '{region}': {source}")]
    Object {
        /// The region's name.
        region: String,
        /// The object.
        name: String,
        /// The rule.
        source: DecodeError,
    },
    /// An object can't be opened or its signature is wrong.
    #[error("{name} in region '{region}': {source}")]
    Crypto {
        /// The region's name.
        region: String,
        /// The object.
        name: String,
        /// Why.
        source: CryptoError,
    },
    /// Cryptography outside any object.
    #[error(transparent)]
    Key(#[from] CryptoError),
    /// A store failed.
    #[error("region '{region}': {source}")]
    Store {
        /// The region's name.
        region: String,
        /// What it said.
        source: StoreError,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    /// A collection fenced the session off: its snapshot doesn't count.
    #[error("region '{region}' fenced this session: the snapshot doesn't count there; run the backup again")]
    Fenced {
        /// The region's name.
        region: String,
    },
    /// Somebody else collects here.
    #[error("region '{region}': its store can't refuse a second put of one name, so one host collects there, {why}")]
    NotDesignated {
        /// The region's name.
        region: String,
        /// Who does.
        why: String,
    },
    /// No snapshot fits.
    #[error("no snapshot {wanted}")]
    NoSnapshot {
        /// What was asked for.
        wanted: String,
    },
    /// Several snapshots fit.
    #[error("{prefix} fits {count} snapshots; give more digits")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// Verdicts that can't be given.
    #[error("{0}")]
    Verdict(String),
    /// A snapshot that is on hold.
    #[error("snapshot {id} is on hold{}: {reason}", until.as_ref().map_or_else(String::new, |until| format!(" until {until}")))]
    Held {
        /// The snapshot.
        id: crate::format::ids::SnapshotId,
        /// When the hold ends, RFC 3339.
        until: Option<String>,
        /// Why it is held.
        reason: String,
    },
    /// Others decided at the same time, and what was asked for doesn't stand, or may not.
    #[error("others decided over {what} at the same time, and what was asked for may not stand")]
    Contended {
        /// Over what.
        what: String,
    },
    /// A snapshot would have more tags than it may.
    #[error("snapshot {id} would have {count} tags, and a snapshot has at most {}", crate::limits::TAGS_MAX)]
    TooManyTags {
        /// The snapshot.
        id: crate::format::ids::SnapshotId,
        /// How many it would have.
        count: usize,
    },
    /// Something can't be recorded in the audit chain, and so isn't done.
    #[error("the audit chain can't be written: {0}")]
    Audit(String),
    /// The role of the slot that opened the repository doesn't allow it.
    #[error("{} slot may not {action}: use the key of {}", article(.role), anyone(.needed))]
    NotPermitted {
        /// The slot's role.
        role: Role,
        /// What was asked.
        action: &'static str,
        /// Who may.
        needed: &'static [Role],
    },
    /// A key operation that can't be done.
    #[error("{0}")]
    Keys(String),
}

fn article(role: &Role) -> String {
    let article = if *role == Role::Owner { "an" } else { "a" };
    format!("{article} {}", role.name())
}

fn anyone(roles: &[Role]) -> String {
    roles.iter().map(article).collect::<Vec<_>>().join(" or ")
}

fn list(failures: &[(String, StoreError)]) -> String {
    failures.iter().map(|(name, error)| format!("'{name}': {error}")).collect::<Vec<_>>().join("; ")
}

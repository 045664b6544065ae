//! `serve`: gives a directory to one client over the standard input and output, as far as a role goes.
//!
//! Guarantees: nothing but the protocol goes to the standard output; the log goes to the standard
//! error. With a key, snapshots and commits are opened before they are stored, and those of another
//! dataset refused (`SERVE-8`). Page: `format-spec/serve.md`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::args::{Global, ServeArgs, ServeRole};
use super::exit::{Class, CliError};
use super::secret::read_identities;
use crate::crypto::object;
use crate::crypto::slot::Unlock;
use crate::env::{SystemClock, SystemRandom};
use crate::format::envelope::ObjectKind;
use crate::format::ids::SnapshotId;
use crate::format::roster::Role;
use crate::format::session::Commit;
use crate::format::snapshot::Snapshot;
use crate::repo::open::{AUTHORS, Located, RegionSpec, Repository, WRITERS};
use crate::repo::{RepoError, snapshots};
use crate::store::StoreErrorKind;
use crate::store::local::LocalStore;
use crate::store::remote::server::{Gate, ServeError, Served, serve};
use crate::store::remote::{Family, family};

/// Runs the command: one client, until its input ends.
///
/// # Errors
/// When the arguments don't fit, the client breaks the protocol, or the connection fails.
pub fn run(args: &ServeArgs, global: &Global) -> Result<Class, CliError> {
    if io::stdin().is_terminal() {
        return Err(CliError::usage("the standard input is a terminal, and a program is to speak there").hint(
            "put `keepstone serve` into authorized_keys as a forced command; `keepstone serve --help` shows how",
        ));
    }
    let home = etcetera::home_dir().ok();
    let path = match (args.path.strip_prefix("~"), &home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => args.path.clone(),
    };
    if !path.is_absolute() {
        return Err(CliError::usage("--path must be an absolute directory, or begin with ~/"));
    }
    let gate = match (&args.dataset, global.identities.is_empty()) {
        (_, true) => None,
        (None, false) => {
            return Err(CliError::usage("--identity is of use with --dataset only")
                .hint("name the dataset that the client may back up"));
        }
        (Some(dataset), false) => Some(DatasetGate::new(path.clone(), dataset.clone(), global)?),
    };
    let served = Served {
        path,
        home,
        role: match args.role {
            ServeRole::Writer => Role::Writer,
            ServeRole::Maintainer => Role::Maintainer,
            ServeRole::Owner => Role::Owner,
        },
        dataset: args.dataset.clone(),
        gate: gate.map(|gate| Box::new(gate) as Box<dyn Gate>),
    };
    let failed = |error: io::Error| CliError::new(Class::Failed, format!("the standard input or output: {error}"));
    // Files of our own: the library's standard output flushes at every byte that looks like a line's end.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    match serve(&served, &mut BufReader::new(input), &mut BufWriter::new(output)) {
        Ok(()) => Ok(Class::Success),
        Err(error @ ServeError::Protocol(_)) => Err(CliError::new(Class::Failed, error.to_string())
            .hint("only a keepstone client can speak to `keepstone serve`")),
        Err(error @ ServeError::Connection(_)) => Err(CliError::new(Class::Failed, error.to_string())
            .hint("what was acknowledged is stored; the client goes on from there when it is run again")),
    }
}

/// Opens snapshots and commits with a slot's key before they are stored.
struct DatasetGate {
    path: PathBuf,
    dataset: String,
    identities: Zeroizing<String>,
    pin: Option<[u8; 32]>,
}

type Refusal = (StoreErrorKind, String);

fn denied(detail: String) -> Refusal {
    (StoreErrorKind::Denied, format!("SERVE-8: {detail}"))
}

impl DatasetGate {
    fn new(path: PathBuf, dataset: String, global: &Global) -> Result<Self, CliError> {
        let mut identities = Zeroizing::new(String::new());
        for path in &global.identities {
            identities.push_str(&read_identities(path)?);
            identities.push('\n');
        }
        Ok(DatasetGate { path, dataset, identities, pin: global.pin.map(|pin| pin.0) })
    }

    /// The repository as it is now: a slot may have been added, or an epoch begun, since the last time.
    fn open(&self) -> Result<Repository, Refusal> {
        let unusable = |error: &dyn std::fmt::Display| {
            (StoreErrorKind::Other, format!("the server can't open the repository to look at this: {error}"))
        };
        let store = LocalStore::open(&self.path).map_err(|error| unusable(&error))?;
        let spec = RegionSpec { name: "served".to_owned(), store: Arc::new(store) };
        let located = Located::open(&[spec], self.pin).map_err(|error| unusable(&error))?;
        let unlock = Unlock::Identities(self.identities.clone());
        located.unlock(&unlock, Arc::new(SystemClock), Arc::new(SystemRandom)).map_err(|error| unusable(&error))
    }

    fn judge(&self, dataset: &str) -> Result<(), Refusal> {
        match dataset == self.dataset {
            true => Ok(()),
            false => Err(denied(format!(
                "this access takes snapshots of dataset '{}' only, and this one is of '{dataset}'",
                self.dataset
            ))),
        }
    }

    fn snapshot(&self, repository: &Repository, bytes: &[u8]) -> Result<(), Refusal> {
        let refuse = |error: &dyn std::fmt::Display| denied(format!("no snapshot that this repository takes: {error}"));
        let signed = object::decode(ObjectKind::Snapshot, repository.config.repository, bytes);
        let signed = signed.map_err(|error| refuse(&error))?;
        repository.verify_slot(&signed, &AUTHORS).map_err(|error| refuse(&error))?;
        let payload = object::open_payload(&repository.keyring, &signed).map_err(|error| refuse(&error))?;
        let snapshot = Snapshot::decode(&payload).map_err(|error| refuse(&error))?;
        self.judge(&snapshot.dataset)
    }

    /// A commit makes a snapshot count that may have come by another access.
    fn commit(&self, repository: &Repository, bytes: &[u8]) -> Result<(), Refusal> {
        let refuse = |error: &dyn std::fmt::Display| denied(format!("no commit that this region takes: {error}"));
        let signed = object::decode(ObjectKind::Commit, repository.config.repository, bytes);
        let signed = signed.map_err(|error| refuse(&error))?;
        repository.verify_slot(&signed, &WRITERS).map_err(|error| refuse(&error))?;
        let commit = Commit::decode(signed.envelope.payload).map_err(|error| refuse(&error))?;
        let Some(region) = repository.regions.first() else { return Err(denied("no region".to_owned())) };
        self.judge(&self.committed(repository, region, commit.snapshot)?)
    }

    fn committed(
        &self,
        repository: &Repository,
        region: &crate::repo::open::RegionHandle,
        id: SnapshotId,
    ) -> Result<String, Refusal> {
        match snapshots::read_snapshot(repository, region, id) {
            Ok((snapshot, _)) => Ok(snapshot.dataset),
            Err(error @ RepoError::Store { .. }) => Err((StoreErrorKind::Unavailable, error.to_string())),
            Err(error) => Err(denied(format!("the snapshot that it commits can't be looked at: {error}"))),
        }
    }
}

impl Gate for DatasetGate {
    fn admit(&self, name: &str, bytes: &[u8]) -> Result<(), Refusal> {
        let repository = self.open()?;
        match family(name) {
            Family::Snapshot => self.snapshot(&repository, bytes),
            Family::Commit => self.commit(&repository, bytes),
            _ => Ok(()),
        }
    }
}

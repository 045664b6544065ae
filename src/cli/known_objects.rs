//! What this client verified of the objects that its last listing consisted of, in a sealed file of its cache directory.

use super::remembered;
use crate::repo::known::KnownObjects;
use crate::repo::open::Repository;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const NAME: &str = "known";

/// Where it stands.
pub fn path(cache_directory: &Path) -> PathBuf {
    cache_directory.join(NAME)
}

/// What is remembered. A file that can't be read, or was sealed under other keys, costs the time to read the objects.
pub fn read(cache_directory: &Path, repository: &Repository) -> KnownObjects {
    let sealed = std::fs::read(path(cache_directory)).unwrap_or_default();
    KnownObjects::open(&repository.keyring, &sealed)
}

/// Remembers what was met, if it isn't what was known. What can't be written costs that time again.
pub fn write(cache_directory: &Path, repository: &Repository, known: &KnownObjects) {
    let written = match known.seal(repository) {
        Ok(Some(sealed)) => remembered::write(cache_directory, NAME, &sealed).map_err(|error| error.to_string()),
        Ok(None) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = written {
        tracing::warn!(%error, "the listing was not remembered");
    }
}

/// Knows nothing from now on.
///
/// # Errors
/// When the file can't be removed.
pub fn forget(cache_directory: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(cache_directory)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

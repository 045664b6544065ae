//! Remembers the highest key roster that this client has seen of a repository (`ROSTER-5`), in a file of its
//! cache directory. A client that forgot, or never knew, can't notice that an older state was put back.

use super::exit::CliError;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Where the number stands.
pub fn path(cache_directory: &Path) -> PathBuf {
    cache_directory.join("roster")
}

/// The number, 0 when nothing is remembered.
///
/// # Errors
/// When there is a file that can't be read or holds no number: that isn't taken for nothing.
pub fn read(cache_directory: &Path) -> Result<u64, CliError> {
    let path = path(cache_directory);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(CliError::file("read", &path, &error)),
    };
    text.trim().parse().map_err(|_| {
        CliError::file("read", &path, &io::Error::new(ErrorKind::InvalidData, "it holds no roster number"))
            .hint("delete it if nobody put an older state of the regions back")
    })
}

/// Remembers a number that is higher than the one that stands there.
///
/// # Errors
/// When the directory can't be written.
pub fn write(cache_directory: &Path, number: u64) -> io::Result<()> {
    fs::create_dir_all(cache_directory)?;
    let temporary = cache_directory.join(format!("roster.{}", std::process::id()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| writeln!(file, "{number}").and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path(cache_directory)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::{path, read, write};

    #[test]
    fn a_number_is_remembered_and_damage_is_not_forgetting() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("cache");
        assert!(read(&cache).is_ok_and(|number| number == 0));
        write(&cache, 7).expect("written");
        write(&cache, 8).expect("written");
        assert!(read(&cache).is_ok_and(|number| number == 8));
        assert_eq!(std::fs::read_dir(&cache).expect("listed").count(), 1);
        std::fs::write(path(&cache), "x").expect("written");
        assert!(read(&cache).is_err());
    }
}

//! Remembers the highest key roster that this client has seen of a repository (`ROSTER-5`), its number and
//! digest, in a file of its cache directory. A client that forgot, or never knew, can't notice that an older state was put back.

use super::exit::CliError;
use super::remembered;
use crate::format::ids::Digest;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const NAME: &str = "roster";

/// Where the number stands.
pub fn path(cache_directory: &Path) -> PathBuf {
    cache_directory.join(NAME)
}

/// What is remembered of a roster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its number; 0 when nothing is remembered.
    pub number: u64,
    /// Its digest, where that is remembered, too.
    pub digest: Option<Digest>,
}

/// What is remembered.
///
/// # Errors
/// When there is a file that can't be read or holds something else: that isn't taken for nothing.
pub fn read(cache_directory: &Path) -> Result<Seen, CliError> {
    let path = path(cache_directory);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Seen::default()),
        Err(error) => return Err(CliError::file("read", &path, &error)),
    };
    let parse = || {
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let digest = words.next().map(|digest| Digest::from_hex(digest).ok_or(())).transpose().ok()?;
        words.next().is_none().then_some(Seen { number, digest })
    };
    parse().ok_or_else(|| {
        CliError::file("read", &path, &io::Error::new(ErrorKind::InvalidData, "it holds no roster number"))
            .hint("delete it if nobody put an older state of the regions back")
    })
}

/// Remembers a roster that is higher than the one that stands there.
///
/// # Errors
/// When the directory can't be written.
pub fn write(cache_directory: &Path, number: u64, digest: &Digest) -> io::Result<()> {
    remembered::write(cache_directory, NAME, format!("{number} {digest}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Seen, path, read, write};
    use crate::format::ids::Digest;

    #[test]
    fn a_number_is_remembered_and_damage_is_not_forgetting() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("cache");
        assert!(read(&cache).is_ok_and(|seen| seen == Seen::default()));
        write(&cache, 7, &Digest([7; 32])).expect("written");
        write(&cache, 8, &Digest([8; 32])).expect("written");
        assert!(read(&cache).is_ok_and(|seen| seen == Seen { number: 8, digest: Some(Digest([8; 32])) }));
        assert_eq!(std::fs::read_dir(&cache).expect("listed").count(), 1);
        std::fs::write(path(&cache), "5\n").expect("written");
        assert!(read(&cache).is_ok_and(|seen| seen == Seen { number: 5, digest: None }));
        for damaged in [&b"x"[..], b"5 x", b"", b"5 5", b"\xff\xfe"] {
            std::fs::write(path(&cache), damaged).expect("written");
            let error = read(&cache).expect_err("refused");
            assert!(error.hint.is_some_and(|hint| hint.contains("delete it")));
        }
    }
}

//! Lists of paths that another program made: `--files-from` and `--files-from0`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::exit::CliError;
use super::render;

/// What ends each path of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// A newline; empty lines are skipped.
    Newline,
    /// NUL, which no path contains.
    Nul,
}

/// Reads a list of raw-byte paths from a file, or from the standard input when it is `-`.
///
/// # Errors
/// When it can't be read, or a path contains NUL, as in a list of the other kind.
pub fn read(list: &Path, separator: Separator) -> Result<Vec<PathBuf>, CliError> {
    let read = if list.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(list)
    };
    let bytes = read.map_err(|error| CliError::file("read the list", list, &error))?;
    split(&bytes, separator).ok_or_else(|| {
        CliError::usage(format!("the list {} contains NUL within a line", render::path(list)))
            .hint("if NUL separates its paths, use --files-from0")
    })
}

fn split(bytes: &[u8], separator: Separator) -> Option<Vec<PathBuf>> {
    let end = match separator {
        Separator::Newline if bytes.contains(&0) => return None,
        Separator::Newline => b'\n',
        Separator::Nul => 0,
    };
    let paths = bytes.split(|byte| *byte == end).filter(|path| !path.is_empty());
    Some(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

#[cfg(test)]
mod tests {
    use super::{Separator, read, split};
    use crate::cli::exit::Class;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    #[test]
    fn both_separators() {
        let lines = split(b"a\n\n b \nc\xff", Separator::Newline).unwrap();
        assert_eq!(lines.iter().map(|p| p.as_os_str().as_bytes()).collect::<Vec<_>>(), [&b"a"[..], b" b ", b"c\xff"]);
        assert_eq!(split(b"a\nb\0c\0", Separator::Nul).unwrap(), [Path::new("a\nb"), Path::new("c")]);
        assert_eq!(split(b"a\0b\0", Separator::Newline), None);
        assert!(split(b"", Separator::Nul).unwrap().is_empty());
    }

    #[test]
    fn an_unreadable_list_is_an_error() {
        let error = read(Path::new("/nonexistent/list"), Separator::Newline).unwrap_err();
        assert_eq!(error.class, Class::Missing);
        assert!(error.message.contains("/nonexistent/list"));
    }
}

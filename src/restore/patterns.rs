//! What a restore's `--include` and `--exclude` name: as a backup's `--exclude` does.

use super::RestoreError;
use crate::source::{PatternBuilder, Refusal};
use ignore::gitignore::Gitignore;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// At least one pattern.
#[derive(Clone, Debug)]
pub(super) struct Patterns(Gitignore);

impl Patterns {
    /// `None` where there are none. `roots`: the directories whose absolute paths stand for the snapshot's root.
    ///
    /// # Errors
    /// [`RestoreError::Pattern`] for one that can't be used.
    pub(super) fn of(list: &[String], roots: &[PathBuf]) -> Result<Option<Self>, RestoreError> {
        if list.is_empty() {
            return Ok(None);
        }
        let mut builder = PatternBuilder::new(roots);
        let bad = |pattern: &str, detail: Refusal| RestoreError::Pattern { pattern: pattern.to_owned(), detail };
        for pattern in list {
            builder.add(pattern.as_bytes()).map_err(|detail| bad(pattern, detail))?;
        }
        Ok(Some(Patterns(builder.build().map_err(|detail| bad(&list.join(", "), detail))?)))
    }

    /// Whether a pattern names the entry or a directory above it; `path` from the snapshot's root.
    pub(super) fn name(&self, path: &[u8], directory: bool) -> bool {
        self.0.matched_path_or_any_parents(Path::new(OsStr::from_bytes(path)), directory).is_ignore()
    }
}

/// A pattern that may name nothing.
pub(super) struct Astray<'a> {
    pub(super) pattern: &'a str,
    /// It leads to elsewhere than the snapshot's root, unless that holds something of this name.
    pub(super) first: Option<&'a str>,
    /// It leads into none of the paths that are restored.
    pub(super) beside: bool,
}

/// Of these patterns those that may name nothing; `paths` are what is restored, empty for all.
pub(super) fn astray<'a>(list: &'a [String], roots: &[PathBuf], paths: &[Vec<&[u8]>]) -> Vec<Astray<'a>> {
    let builder = PatternBuilder::new(roots);
    let look = |pattern: &'a String| Astray {
        pattern,
        first: builder.leads_to(pattern),
        beside: !paths.is_empty() && !paths.iter().any(|path| builder.leads_into(pattern, path)),
    };
    list.iter().map(look).filter(|found| found.first.is_some() || found.beside).collect()
}

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

/// Of these patterns each that is a path to what lies elsewhere than the snapshot's root, with that path's first name:
/// unless the root holds something of that name, the pattern names nothing.
pub(super) fn elsewhere<'a>(list: &'a [String], roots: &[PathBuf]) -> Vec<(&'a str, &'a str)> {
    let builder = PatternBuilder::new(roots);
    list.iter().filter_map(|pattern| Some((&pattern[..], builder.leads_to(pattern)?))).collect()
}

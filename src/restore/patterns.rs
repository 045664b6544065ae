//! What a restore's `--include` and `--exclude` name, in the syntax of `.gitignore`.

use super::RestoreError;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// At least one pattern.
#[derive(Clone, Debug)]
pub(super) struct Patterns(Gitignore);

impl Patterns {
    /// `None` where there are none.
    ///
    /// # Errors
    /// [`RestoreError::Pattern`] for one that can't be understood.
    pub(super) fn of(list: &[String]) -> Result<Option<Self>, RestoreError> {
        if list.is_empty() {
            return Ok(None);
        }
        let mut builder = GitignoreBuilder::new("/");
        // Taken as it stands, a class that doesn't end would name nothing, and nobody would be told.
        builder.allow_unclosed_class(false);
        for pattern in list {
            let bad =
                |error: ignore::Error| RestoreError::Pattern { pattern: pattern.clone(), detail: error.to_string() };
            builder.add_line(None, pattern).map_err(bad)?;
        }
        let bad = |error: ignore::Error| RestoreError::Pattern { pattern: list.join(", "), detail: error.to_string() };
        Ok(Some(Patterns(builder.build().map_err(bad)?)))
    }

    /// Whether a pattern names the entry or a directory above it; `path` from the snapshot's root.
    pub(super) fn name(&self, path: &[u8], directory: bool) -> bool {
        let absolute = Path::new("/").join(OsStr::from_bytes(path));
        self.0.matched_path_or_any_parents(&absolute, directory).is_ignore()
    }
}

//! Writes the small files of the cache directory in which a client remembers something of a repository.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Puts `content` in the place of what the file `name` held, whole or not at all.
///
/// # Errors
/// When the directory can't be written.
pub fn write(cache_directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(cache_directory)?;
    let temporary = cache_directory.join(format!("{name}.{}", std::process::id()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, cache_directory.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

//! Who writes the index on disk: one process at a time, and others can say which.

use super::{OPEN_ATTEMPTS, PAUSE};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::path::Path;

/// The file that is locked and says who holds it.
pub(super) const HOLDER_FILE: &str = "holder";

/// Exclusive use of the database for writing, by an advisory lock that dies with its process.
pub(super) struct Holder {
    _file: std::fs::File,
}

/// Why the place can't be had.
pub(super) enum HoldProblem {
    Held(String),
    Failed(std::io::Error),
}

impl Holder {
    /// Waits for others, for a minute at most.
    pub(super) fn acquire(directory: &Path) -> Result<Self, HoldProblem> {
        use std::io::{Read, Seek, Write};
        let path = directory.join(HOLDER_FILE);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(HoldProblem::Failed)?;
        // Ingests take moments: wait for them, and say for whom only when it takes too long.
        for attempt in 1..=OPEN_ATTEMPTS {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let written = file
                        .set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| file.write_all(format!("process {}", std::process::id()).as_bytes()));
                    written.map_err(HoldProblem::Failed)?;
                    return Ok(Holder { _file: file });
                }
                Err(Errno::WOULDBLOCK) if attempt < OPEN_ATTEMPTS => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => return Err(HoldProblem::Failed(error.into())),
            }
        }
        let mut holder = String::new();
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
        Err(HoldProblem::Held(if holder.is_empty() { "another process".to_owned() } else { holder }))
    }
}

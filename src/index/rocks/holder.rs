//! One writer at a time: whoever changes the database on disk says so in a file of our own.

use super::PAUSE;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::path::Path;

pub(super) const HOLDER_FILE: &str = "holder";
/// A minute, within which whoever makes an index anew or takes something in is done.
pub(super) const OPEN_ATTEMPTS: u32 = 600;

/// Exclusive use of the database for writing, by an advisory lock that dies with its process.
pub(super) struct Holder {
    _file: std::fs::File,
}

pub(super) enum HoldProblem {
    Held(String),
    Failed(std::io::Error),
}

impl Holder {
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

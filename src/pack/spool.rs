//! Where open packs live until their name is known: unlinked files in the cache directory, or memory. What
//! refers to what goes there too where memory doesn't hold it (`index/graph/`).
//!
//! A crash leaves nothing behind. Of packs only sealed frames are spooled, so a stolen disk tells nothing;
//! of the graph beginnings of ids, which the index beside it holds whole.

use super::PackError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Makes spools.
#[derive(Clone)]
pub enum SpoolSpace {
    /// Unlinked files in this directory.
    Directory(PathBuf),
    /// Memory; for tests and simulations.
    Memory,
    /// Memory of so many bytes: writes that go past it fail as on a full disk.
    Bounded(Arc<AtomicU64>),
}

/// The bytes of one open pack.
pub enum Spool {
    /// An unlinked file.
    File {
        /// The file.
        file: Arc<File>,
        /// Where it is, for messages.
        directory: PathBuf,
    },
    /// Memory, and the room that is left where it is bounded.
    Memory(Mutex<Vec<u8>>, Option<Arc<AtomicU64>>),
}

impl SpoolSpace {
    /// A new, empty spool.
    ///
    /// # Errors
    /// [`PackError::Spool`] when the directory takes no file.
    pub fn create(&self) -> Result<Spool, PackError> {
        match self {
            SpoolSpace::Memory => Ok(Spool::Memory(Mutex::new(Vec::new()), None)),
            SpoolSpace::Bounded(room) => Ok(Spool::Memory(Mutex::new(Vec::new()), Some(Arc::clone(room)))),
            SpoolSpace::Directory(directory) => {
                let file = create_unlinked(directory).map_err(|source| fail(directory, source))?;
                Ok(Spool::File { file: Arc::new(file), directory: directory.clone() })
            }
        }
    }
}

fn fail(directory: &Path, source: std::io::Error) -> PackError {
    PackError::Spool { directory: directory.display().to_string(), source }
}

fn create_unlinked(directory: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(_) => {
            // File systems without O_TMPFILE: create and unlink at once.
            for attempt in 0u32.. {
                let name = directory.join(format!("spool-{}-{attempt}", std::process::id()));
                match OpenOptions::new().read(true).write(true).create_new(true).open(&name) {
                    Ok(file) => {
                        std::fs::remove_file(&name)?;
                        return Ok(file);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => {}
                    Err(error) => return Err(error),
                }
            }
            Err(std::io::ErrorKind::AlreadyExists.into())
        }
    }
}

impl Spool {
    /// Writes at a position.
    ///
    /// # Errors
    /// [`PackError::Spool`], when the disk is full among others.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), PackError> {
        match self {
            Spool::File { file, directory } => {
                file.write_all_at(bytes, offset).map_err(|source| fail(directory, source))
            }
            Spool::Memory(memory, room) => {
                if let Some(room) = room {
                    let take = |left: u64| left.checked_sub(bytes.len() as u64);
                    room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                        .map_err(|_| fail(Path::new("memory"), std::io::ErrorKind::StorageFull.into()))?;
                }
                let mut memory = memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let end = offset as usize + bytes.len();
                if memory.len() < end {
                    memory.resize(end, 0);
                }
                memory[offset as usize..end].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Reads from a position.
    ///
    /// # Errors
    /// [`PackError::Spool`].
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), PackError> {
        match self {
            Spool::File { file, directory } => {
                file.read_exact_at(bytes, offset).map_err(|source| fail(directory, source))
            }
            Spool::Memory(memory, _) => {
                let memory = memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                bytes.copy_from_slice(&memory[offset as usize..offset as usize + bytes.len()]);
                Ok(())
            }
        }
    }

    /// The first `length` bytes, to be stored.
    pub fn payload(&self, length: u64) -> crate::store::Payload {
        match self {
            Spool::File { file, .. } => crate::store::Payload::File { file: Arc::clone(file), length },
            Spool::Memory(memory, _) => {
                let mut bytes = memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                bytes.truncate(length as usize);
                bytes.into()
            }
        }
    }
}

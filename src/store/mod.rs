//! A store keeps named bytes. One region of a repository is one store.
//!
//! The contract every implementation gives (`format-spec/store.md`): a put is atomic and, once
//! acknowledged, durable; get, size and list after it see it; no name is overwritten by `put_new`.
//! Calls block; implementations that speak async keep their runtime to themselves.
//!
//! [`open::open_store`] makes a store from an address; [`contract::check_contract`] says whether one
//! keeps its word; [`probe::probe`] finds out what its credentials and its service really do.

pub mod contract;
pub mod faults;
pub mod local;
pub mod memory;
mod name;
pub mod object;
pub mod open;
pub mod probe;
pub mod remote;

use crate::report::IssueKind;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The closed set of reasons for which a store call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no object of this name. Never used for "could not read".
    NotFound,
    /// `put_new` found an object of this name whose bytes differ from the ones given.
    AlreadyExists,
    /// The credentials or file permissions don't allow this.
    Denied,
    /// Nothing can be put there by anybody: disk full, quota reached, mounted read-only.
    Full,
    /// The store can't be reached or answered with a passing fault; a retry may help.
    Unavailable,
    /// The range or size asked for doesn't lie within the object.
    Range,
    /// The address, options or name are unusable.
    Invalid,
    /// Anything else; a retry is not known to help.
    Other,
}

impl StoreErrorKind {
    /// The issue that a failed read of one object is; `None` when it says nothing about the object.
    pub fn issue_kind(self) -> Option<IssueKind> {
        match self {
            StoreErrorKind::NotFound => Some(IssueKind::Missing),
            StoreErrorKind::Range => Some(IssueKind::Damaged),
            // A medium's read error in one object; the rest of the region may be whole.
            StoreErrorKind::Other | StoreErrorKind::Denied => Some(IssueKind::Unreadable),
            _ => None,
        }
    }
}

/// A failed store call: which store, which object, what happened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {store}{}{name}: {detail}", if name.is_empty() { "" } else { "/" })]
pub struct StoreError {
    /// The reason's class.
    pub kind: StoreErrorKind,
    /// `get`, `put`, `heal`, `list`, `delete`, `size`, `open`, `probe`.
    pub operation: &'static str,
    /// The store's address, without credentials.
    pub store: String,
    /// The object's name or the prefix.
    pub name: String,
    /// What happened, for a person.
    pub detail: String,
}

impl StoreError {
    /// Puts the parts together.
    pub fn new(kind: StoreErrorKind, operation: &'static str, store: &str, name: &str, detail: String) -> Self {
        StoreError { kind, operation, store: store.to_owned(), name: name.to_owned(), detail }
    }
}

/// The bytes of a put: in memory, or the first `length` bytes of a spool file.
#[derive(Clone)]
pub enum Payload {
    /// Bytes in memory.
    Bytes(bytes::Bytes),
    /// A spool file, read from offset 0 by position; never written again.
    File {
        /// The spool; often without a name.
        file: Arc<File>,
        /// How many bytes of it to store.
        length: u64,
    },
}

impl Payload {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { length, .. } => *length,
        }
    }

    /// All bytes in memory; a spool file is read, at most a pack's size.
    ///
    /// # Errors
    /// When the spool file can't be read, is shorter than stated, or doesn't fit into memory.
    pub fn to_bytes(&self) -> io::Result<bytes::Bytes> {
        if let Payload::Bytes(bytes) = self {
            return Ok(bytes.clone());
        }
        let length = usize::try_from(self.length()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(length, 0);
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// When the spool file can't be read or is shorter than stated.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Payload::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let end = start.checked_add(buffer.len()).filter(|end| *end <= bytes.len());
                let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(&bytes[start..end]);
                Ok(())
            }
            Payload::File { file, .. } => std::os::unix::fs::FileExt::read_exact_at(&**file, buffer, offset),
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Payload::Bytes(bytes.into())
    }
}

/// One listed object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Full name, `/`-separated.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// Whether a put made the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// This call created it.
    Created,
    /// It was there already with exactly these bytes (an earlier try of ours, or the same content).
    Identical,
}

/// A dumb service that keeps named bytes.
pub trait Store: Send + Sync {
    /// The address, without credentials, for messages.
    fn address(&self) -> &str;

    /// The only dataset whose snapshots this access takes, where the other side says so.
    fn only_dataset(&self) -> Option<&str> {
        None
    }

    /// Creates an object; atomic, and durable once it returns. Where the store can, creation is
    /// put-if-absent: of racing creates with different bytes at most one returns `Created`.
    ///
    /// # Errors
    /// [`StoreErrorKind::AlreadyExists`] when the name holds other bytes; nothing is overwritten.
    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError>;

    /// Reads a whole object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `NotFound`; `Range` when it is larger than `bytes_max` (checked before allocating).
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError>;

    /// Reads exactly `length` bytes at `offset`.
    ///
    /// # Errors
    /// `NotFound`; `Range` when the object ends before.
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError>;

    /// The object's size in bytes, or `None` when there is none of this name.
    ///
    /// # Errors
    /// Anything but "not found".
    fn size(&self, name: &str) -> Result<Option<u64>, StoreError>;

    /// Calls `each` for every object whose name starts with `prefix` (ends in `/`, or is empty), in
    /// no stated order. Temporary files of unfinished puts are not objects.
    ///
    /// # Errors
    /// When the listing is not complete; what was passed to `each` before is then not to be relied on.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError>;

    /// Removes an object; removing an absent one succeeds.
    ///
    /// # Errors
    /// `Denied` where the credentials allow no delete.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Replaces an object's bytes; only for healing a content-named object with its own bytes.
    ///
    /// # Errors
    /// As `put_new`, but for `AlreadyExists`.
    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError>;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn address(&self) -> &str {
        (**self).address()
    }

    fn only_dataset(&self) -> Option<&str> {
        (**self).only_dataset()
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        (**self).put_new(name, payload)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get(name, bytes_max)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get_range(name, offset, length)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        (**self).size(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        (**self).list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        (**self).delete(name)
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        (**self).heal(name, payload)
    }
}

/// All objects under `prefix`, sorted by name.
///
/// # Errors
/// As [`Store::list`].
pub fn list_sorted(store: &dyn Store, prefix: &str) -> Result<Vec<Listed>, StoreError> {
    let mut listed = Vec::new();
    store.list(prefix, &mut |object| listed.push(object))?;
    listed.sort_unstable();
    Ok(listed)
}

//! A put that takes its bytes in pieces, as a server gets them: nothing is held in memory, and nothing
//! has a name before all is there.
//!
//! Guarantees: as the store's puts. Dropped before its end, it leaves nothing. Called by
//! `store::remote::server`.

use std::io::Write;
use std::sync::Arc;

use super::{Call, LocalStore, Temporary, identical, publish, replace, split, sync};
use crate::store::{Payload, Put, StoreError, StoreErrorKind};

/// An object on its way into the directory.
pub struct Incoming<'a> {
    store: &'a LocalStore,
    name: String,
    temporary: Temporary,
    length: u64,
}

impl LocalStore {
    /// Begins a put under this name; it ends with [`Incoming::create`] or [`Incoming::replace`].
    ///
    /// # Errors
    /// As [`put_new`](crate::store::Store::put_new).
    pub fn receive(&self, name: &str) -> Result<Incoming<'_>, StoreError> {
        let temporary = self.new_temporary(&self.call("put", name)?)?;
        Ok(Incoming { store: self, name: name.to_owned(), temporary, length: 0 })
    }
}

impl Incoming<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let call = Call { operation: "put", address: &self.store.address, name: &self.name };
        self.temporary.file.write_all(piece).map_err(|error| call.failed_io("writing", &error))?;
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Gives what came its name, durably, unless the name is taken.
    ///
    /// # Errors
    /// As [`put_new`](crate::store::Store::put_new).
    pub fn create(mut self) -> Result<Put, StoreError> {
        let call = Call { operation: "put", address: &self.store.address, name: &self.name };
        let (directory, leaf) = split(&self.name);
        sync(&call, &self.temporary.file)?;
        let parent = self.store.made_directory(&call, directory)?;
        if publish(&call, &mut self.temporary, &parent, leaf)? {
            sync(&call, &parent)?;
            return Ok(Put::Created);
        }
        let file = self.temporary.file.try_clone().map_err(|error| {
            call.error(StoreErrorKind::Unavailable, format!("opening the temporary file again: {error}"))
        })?;
        identical(&call, &parent, leaf, &Payload::File { file: Arc::new(file), length: self.length })
    }

    /// Gives what came its name, durably, in the place of what had it.
    ///
    /// # Errors
    /// As [`heal`](crate::store::Store::heal).
    pub fn replace(mut self) -> Result<(), StoreError> {
        let call = Call { operation: "heal", address: &self.store.address, name: &self.name };
        let (directory, leaf) = split(&self.name);
        sync(&call, &self.temporary.file)?;
        let parent = self.store.made_directory(&call, directory)?;
        replace(&call, &mut self.temporary, &parent, leaf)
    }
}

//! A store in memory, for tests and simulations. Clones share the same objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use super::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, name};

type Objects = BTreeMap<String, Bytes>;

/// A region in memory; cloning it gives another handle to the same objects.
#[derive(Clone)]
pub struct MemoryStore {
    objects: Arc<RwLock<Objects>>,
    address: Arc<str>,
    put_if_absent: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// An empty store that nobody else has.
    pub fn new() -> Self {
        MemoryStore::at("memory:")
    }

    /// The process's store of this name, empty at first.
    pub fn named(name: &str) -> Self {
        static NAMED: LazyLock<Mutex<HashMap<String, MemoryStore>>> = LazyLock::new(Mutex::default);
        let mut stores = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        stores.entry(name.to_owned()).or_insert_with(|| MemoryStore::at(&format!("memory:{name}"))).clone()
    }

    /// A handle whose `put_new` overwrites silently, as services do that ignore `If-None-Match`.
    pub fn without_put_if_absent(mut self) -> Self {
        self.put_if_absent = false;
        self
    }

    /// A store of its own with the objects of this moment.
    pub fn fork(&self) -> Self {
        let objects = Arc::new(RwLock::new(self.read(|objects| objects.clone())));
        MemoryStore { objects, address: self.address.clone(), put_if_absent: self.put_if_absent }
    }

    fn at(address: &str) -> Self {
        MemoryStore { objects: Arc::default(), address: address.into(), put_if_absent: true }
    }

    // A map of whole objects has no half-made states, so a panic elsewhere spoils nothing.
    fn read<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn error(&self, kind: StoreErrorKind, operation: &'static str, name: &str, detail: &str) -> StoreError {
        StoreError::new(kind, operation, &self.address, name, detail.to_owned())
    }

    fn load(&self, operation: &'static str, name: &str, payload: &Payload) -> Result<Bytes, StoreError> {
        name::check(operation, &self.address, name)?;
        payload.to_bytes().map_err(|error| {
            self.error(StoreErrorKind::Other, operation, name, &format!("reading the payload's spool file: {error}"))
        })
    }

    fn object(&self, name: &str) -> Result<Bytes, StoreError> {
        name::check("get", &self.address, name)?;
        let found = self.read(|objects| objects.get(name).cloned());
        found.ok_or_else(|| self.error(StoreErrorKind::NotFound, "get", name, "no such object"))
    }
}

impl Store for MemoryStore {
    fn address(&self) -> &str {
        &self.address
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        let bytes = self.load("put", name, payload)?;
        self.write(|objects| match objects.get(name) {
            Some(there) if self.put_if_absent && *there == bytes => Ok(Put::Identical),
            Some(_) if self.put_if_absent => {
                Err(self.error(StoreErrorKind::AlreadyExists, "put", name, "holds other bytes"))
            }
            _ => {
                objects.insert(name.to_owned(), bytes);
                Ok(Put::Created)
            }
        })
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.object(name)?;
        if bytes.len() as u64 > bytes_max {
            let detail = format!("holds {} bytes, at most {bytes_max} expected", bytes.len());
            return Err(self.error(StoreErrorKind::Range, "get", name, &detail));
        }
        Ok(bytes.into())
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.object(name)?;
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        let range = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
        range.map(<[u8]>::to_vec).ok_or_else(|| {
            let detail = format!("{length} bytes at {offset} don't lie within its {} bytes", bytes.len());
            self.error(StoreErrorKind::Range, "get", name, &detail)
        })
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        name::check("size", &self.address, name)?;
        Ok(self.read(|objects| objects.get(name).map(|bytes| bytes.len() as u64)))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        name::check_prefix(&self.address, prefix)?;
        let listed: Vec<Listed> = self.read(|objects| {
            let from = objects.range(prefix.to_owned()..);
            from.take_while(|(name, _)| name.starts_with(prefix))
                .map(|(name, bytes)| Listed { name: name.clone(), size: bytes.len() as u64 })
                .collect()
        });
        // The lock is released first: `each` may call the store.
        listed.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check("delete", &self.address, name)?;
        self.write(|objects| objects.remove(name));
        Ok(())
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        let bytes = self.load("heal", name, payload)?;
        self.write(|objects| objects.insert(name.to_owned(), bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededRandom;
    use crate::store::contract::check_contract;
    use crate::store::probe::probe;

    #[test]
    fn keeps_the_contract() {
        let store = MemoryStore::new();
        check_contract(&store, &SeededRandom::new(1)).expect("contract");
        let found = probe(&store, &SeededRandom::new(2)).expect("probe");
        assert!(found.put_if_absent && found.deletes);
        assert!(store.read(|objects| objects.is_empty()), "nothing is left behind");
    }

    #[test]
    fn a_store_that_ignores_the_condition_is_found_out() {
        let store = MemoryStore::new().without_put_if_absent();
        assert!(!probe(&store, &SeededRandom::new(3)).expect("probe").put_if_absent);
        assert!(check_contract(&store, &SeededRandom::new(4)).is_err());
    }

    #[test]
    fn clones_share_and_forks_do_not() {
        let store = MemoryStore::named("memory-test-share");
        let fork = store.fork();
        MemoryStore::named("memory-test-share").put_new("a", &vec![1].into()).expect("put");
        assert_eq!(store.get("a", 1).expect("shared"), [1]);
        assert_eq!(fork.size("a").expect("size"), None);
    }
}

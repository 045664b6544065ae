//! The store contract as a check that any implementation can be held against (`format-spec/store.md`).
//!
//! Used by the tests of every store and, against the service that will really keep a region, by
//! `init`. It judges what one client sees in sequence; races are [`super::probe`]'s part, and no
//! check from outside can judge durability.

use std::fs::File;
use std::sync::Arc;

use super::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, list_sorted};
use crate::env::{Random, random_bytes};

/// A rule that a store broke.
#[derive(Debug, thiserror::Error)]
#[error("store {store} breaks its contract: {rule}: {detail}")]
pub struct ContractError {
    /// The store's address, without credentials.
    pub store: String,
    /// The rule.
    pub rule: &'static str,
    /// What the store did instead.
    pub detail: String,
}

/// Exercises every call of `store` below a fresh `probe/<random>/`, and removes what it put.
///
/// The store must allow deletes; it may hold anything else.
///
/// # Errors
/// The first rule that is broken, or that can't be judged because a call failed.
pub fn check_contract(store: &dyn Store, random: &dyn Random) -> Result<(), ContractError> {
    let run = u128::from_le_bytes(random_bytes(random));
    let check = Check { store, home: format!("probe/{run:032x}/") };
    let judged = check.all(random);
    let cleaned = check.clean();
    judged.and(cleaned)
}

struct Check<'a> {
    store: &'a dyn Store,
    home: String,
}

impl Check<'_> {
    fn all(&self, random: &dyn Random) -> Result<(), ContractError> {
        self.absence()?;
        self.creation(random)?;
        self.ranges()?;
        self.spool_files(random)?;
        self.listing()?;
        self.deletion()?;
        self.healing()?;
        self.names()
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.home)
    }

    fn broken(&self, rule: &'static str, detail: String) -> ContractError {
        ContractError { store: self.store.address().to_owned(), rule, detail }
    }

    fn done<T>(&self, rule: &'static str, result: Result<T, StoreError>) -> Result<T, ContractError> {
        result.map_err(|error| self.broken(rule, error.to_string()))
    }

    fn hold(&self, rule: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Result<(), ContractError> {
        if holds { Ok(()) } else { Err(self.broken(rule, detail())) }
    }

    fn fails<T>(
        &self,
        rule: &'static str,
        wanted: StoreErrorKind,
        result: Result<T, StoreError>,
    ) -> Result<(), ContractError> {
        match result {
            Err(error) if error.kind == wanted => Ok(()),
            Err(error) => Err(self.broken(rule, format!("expected {wanted:?}, got {:?}: {error}", error.kind))),
            Ok(_) => Err(self.broken(rule, format!("expected {wanted:?}, but the call succeeded"))),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        self.store.put_new(&self.name(name), &bytes.to_vec().into())
    }

    fn absence(&self) -> Result<(), ContractError> {
        let name = self.name("absent");
        self.fails("get of an absent object is NotFound", StoreErrorKind::NotFound, self.store.get(&name, 1))?;
        let range = self.store.get_range(&name, 0, 1);
        self.fails("get_range of an absent object is NotFound", StoreErrorKind::NotFound, range)?;
        let size = self.done("size of an absent object is None", self.store.size(&name))?;
        self.hold("size of an absent object is None", size.is_none(), || format!("{size:?}"))?;
        self.done("deleting an absent object succeeds", self.store.delete(&name))?;
        let listed = self.done("an absent prefix lists as empty", list_sorted(self.store, &self.home))?;
        self.hold("an absent prefix lists as empty", listed.is_empty(), || format!("{listed:?}"))
    }

    fn creation(&self, random: &dyn Random) -> Result<(), ContractError> {
        let mut bytes = vec![0u8; 300_000];
        random.fill(&mut bytes);
        let name = self.name("a/b/object");
        let put = self.done("a new object is created", self.put("a/b/object", &bytes))?;
        self.hold("a new object is created", put == Put::Created, || format!("{put:?}"))?;
        let got = self.done("get returns what was put", self.store.get(&name, bytes.len() as u64))?;
        self.hold("get returns what was put", got == bytes, || "other bytes".to_owned())?;
        let size = self.done("size follows a put", self.store.size(&name))?;
        self.hold("size follows a put", size == Some(bytes.len() as u64), || format!("{size:?}"))?;

        let again = self.done("putting the same bytes again is Identical", self.put("a/b/object", &bytes))?;
        self.hold("putting the same bytes again is Identical", again == Put::Identical, || format!("{again:?}"))?;
        let mut other = bytes.clone();
        other[299_999] ^= 1;
        let rule = "other bytes of the same size are refused";
        self.fails(rule, StoreErrorKind::AlreadyExists, self.put("a/b/object", &other))?;
        let rule = "bytes of another size are refused";
        self.fails(rule, StoreErrorKind::AlreadyExists, self.put("a/b/object", &bytes[..1000]))?;
        let kept = self.done("a refused put leaves the object", self.store.get(&name, bytes.len() as u64))?;
        self.hold("a refused put leaves the object", kept == bytes, || "it was overwritten".to_owned())?;

        let rule = "an object above the limit is Range";
        self.fails(rule, StoreErrorKind::Range, self.store.get(&name, bytes.len() as u64 - 1))?;

        self.done("an empty object can be put", self.put("empty", &[]))?;
        let empty = self.done("an empty object can be read", self.store.get(&self.name("empty"), 0))?;
        self.hold("an empty object can be read", empty.is_empty(), || format!("{} bytes", empty.len()))
    }

    fn ranges(&self) -> Result<(), ContractError> {
        let name = self.name("ranges");
        self.done("put", self.put("ranges", &(0..=255).collect::<Vec<u8>>()))?;
        let inside: [(u64, u64); 5] = [(0, 256), (0, 1), (255, 1), (100, 50), (10, 0)];
        for (offset, length) in inside {
            let got = self.done("a range inside the object is read", self.store.get_range(&name, offset, length))?;
            let wanted: Vec<u8> = (0..=255u8).skip(offset as usize).take(length as usize).collect();
            self.hold("a range inside the object is read", got == wanted, || format!("{offset}+{length}: {got:?}"))?;
        }
        for (offset, length) in [(0, 257), (255, 2), (256, 1), (1000, 1), (u64::MAX, 2), (1, u64::MAX)] {
            let rule = "a range past the object's end is Range";
            self.fails(rule, StoreErrorKind::Range, self.store.get_range(&name, offset, length))?;
        }
        Ok(())
    }

    fn spool_files(&self, random: &dyn Random) -> Result<(), ContractError> {
        let rule = "the stated length of a spool file is stored";
        let mut bytes = vec![0u8; 600_000];
        random.fill(&mut bytes);
        let spool = spool(&bytes).map_err(|error| self.broken("a spool file can be made", error.to_string()))?;
        let payload = Payload::File { file: Arc::new(spool), length: 599_999 };
        let name = self.name("spooled");
        self.done(rule, self.store.put_new(&name, &payload))?;
        let got = self.done(rule, self.store.get(&name, 600_000))?;
        self.hold(rule, got == bytes[..599_999], || format!("{} other bytes", got.len()))?;
        let again = self.done("a spool file can be put again", self.store.put_new(&name, &payload))?;
        self.hold("a spool file can be put again", again == Put::Identical, || format!("{again:?}"))
    }

    fn listing(&self) -> Result<(), ContractError> {
        let rule = "a prefix lists exactly its objects";
        for name in ["list/a", "list/b/c", "list/b/d", "list-not", "lis"] {
            self.done(rule, self.put(name, name.as_bytes()))?;
        }
        let wanted = |names: &[&str]| -> Vec<Listed> {
            names.iter().map(|name| Listed { name: self.name(name), size: name.len() as u64 }).collect()
        };
        for (prefix, names) in
            [("list/", &["list/a", "list/b/c", "list/b/d"][..]), ("list/b/", &["list/b/c", "list/b/d"]), ("li/", &[])]
        {
            let listed = self.done(rule, list_sorted(self.store, &self.name(prefix)))?;
            self.hold(rule, listed == wanted(names), || format!("{prefix}: {listed:?}"))?;
        }
        let whole = self.done("the empty prefix lists everything", list_sorted(self.store, ""))?;
        let found = wanted(&["lis", "list-not", "list/b/d"]).iter().all(|object| whole.contains(object));
        self.hold("the empty prefix lists everything", found, || format!("{} objects", whole.len()))
    }

    fn deletion(&self) -> Result<(), ContractError> {
        let rule = "a deleted object is gone";
        let name = self.name("deleted");
        self.done(rule, self.put("deleted", b"1"))?;
        self.done(rule, self.store.delete(&name))?;
        self.fails(rule, StoreErrorKind::NotFound, self.store.get(&name, 9))?;
        let listed = self.done(rule, list_sorted(self.store, &self.home))?;
        self.hold(rule, listed.iter().all(|object| object.name != name), || "it is still listed".to_owned())?;
        self.done("deleting twice succeeds", self.store.delete(&name))
    }

    fn healing(&self) -> Result<(), ContractError> {
        let rule = "heal replaces an object or makes it";
        let name = self.name("healed");
        for bytes in [&b"damaged"[..], b"as it was"] {
            self.done(rule, self.store.heal(&name, &bytes.to_vec().into()))?;
            let got = self.done(rule, self.store.get(&name, 100))?;
            self.hold(rule, got == bytes, || format!("{got:?}"))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<(), ContractError> {
        let rule = "a name outside the rules is Invalid";
        for name in ["", "/etc/x", "../x", "a/../../x", "a//b", ".hidden", "a/.b", "a b", "a/"] {
            self.fails(rule, StoreErrorKind::Invalid, self.store.put_new(name, &vec![1].into()))?;
            self.fails(rule, StoreErrorKind::Invalid, self.store.get(name, 1))?;
            self.fails(rule, StoreErrorKind::Invalid, self.store.get_range(name, 0, 1))?;
            self.fails(rule, StoreErrorKind::Invalid, self.store.size(name))?;
            self.fails(rule, StoreErrorKind::Invalid, self.store.delete(name))?;
            self.fails(rule, StoreErrorKind::Invalid, self.store.heal(name, &vec![1].into()))?;
        }
        for prefix in ["/", "probe", "../", "a//"] {
            let rule = "a prefix outside the rules is Invalid";
            self.fails(rule, StoreErrorKind::Invalid, self.store.list(prefix, &mut |_| {}))?;
        }
        Ok(())
    }

    fn clean(&self) -> Result<(), ContractError> {
        let rule = "what the check put can be removed";
        for object in self.done(rule, list_sorted(self.store, &self.home))? {
            self.done(rule, self.store.delete(&object.name))?;
        }
        let left = self.done(rule, list_sorted(self.store, &self.home))?;
        self.hold(rule, left.is_empty(), || format!("{left:?}"))
    }
}

// A file without a name, as the packer's spools are.
fn spool(bytes: &[u8]) -> std::io::Result<File> {
    let file = rustix::fs::memfd_create("keepstone-contract", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::pwrite(&file, bytes, 0).map_err(std::io::Error::from).and_then(|written| {
        let whole = written == bytes.len();
        whole.then(|| File::from(file)).ok_or_else(|| std::io::ErrorKind::WriteZero.into())
    })
}

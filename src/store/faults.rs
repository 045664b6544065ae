//! A store that fails on demand, for tests and simulations: it counts, logs, and breaks its word where told to.
//!
//! Nothing is random: a test says which call fails, and how. See [`Trigger`] and [`Fault`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Listed, Payload, Put, Store, StoreError, StoreErrorKind};

/// A kind of store call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `put_new`.
    Put,
    /// `get`.
    Get,
    /// `get_range`.
    GetRange,
    /// `size`.
    Size,
    /// `list`.
    List,
    /// `delete`.
    Delete,
    /// `heal`.
    Heal,
}

impl Operation {
    /// Every kind.
    pub const ALL: [Operation; 7] = [
        Operation::Put,
        Operation::Get,
        Operation::GetRange,
        Operation::Size,
        Operation::List,
        Operation::Delete,
        Operation::Heal,
    ];

    fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get | Operation::GetRange => "get",
            Operation::Size => "size",
            Operation::List => "list",
            Operation::Delete => "delete",
            Operation::Heal => "heal",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and fails with this kind.
    Fail(StoreErrorKind),
    /// The call is performed, then reported as failed with this kind.
    LoseAcknowledgement(StoreErrorKind),
    /// The call and every later one does nothing and fails, until [`FaultyStore::revive`].
    Crash,
    /// A read succeeds with one bit flipped in the byte at this offset, modulo the length.
    FlipBit(u64),
    /// A read succeeds with only this many bytes.
    Truncate(u64),
}

/// Which calls a fault strikes.
#[derive(Clone, Debug)]
pub struct Trigger {
    operation: Option<Operation>,
    prefix: String,
    skip: u64,
    times: u64,
}

impl Trigger {
    /// Every call of any kind from now on.
    pub fn any() -> Self {
        Trigger { operation: None, prefix: String::new(), skip: 0, times: u64::MAX }
    }

    /// Every call of this kind from now on.
    pub fn on(operation: Operation) -> Self {
        Trigger { operation: Some(operation), ..Trigger::any() }
    }

    /// Only the `n`-th matching call from now, counted from 1.
    pub fn nth(self, n: u64) -> Self {
        Trigger { skip: n.saturating_sub(1), times: 1, ..self }
    }

    /// Only the first `times` matching calls.
    pub fn times(self, times: u64) -> Self {
        Trigger { times, ..self }
    }

    /// Only calls whose name or prefix starts with this.
    pub fn under(self, prefix: &str) -> Self {
        Trigger { prefix: prefix.to_owned(), ..self }
    }

    // True when this call is struck; counts down.
    fn strikes(&mut self, operation: Operation, name: &str) -> bool {
        if self.operation.is_some_and(|wanted| wanted != operation) || !name.starts_with(&self.prefix) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let strikes = self.times > 0;
        self.times = self.times.saturating_sub(1);
        strikes
    }
}

/// One call as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its kind.
    pub operation: Operation,
    /// The object's name or the prefix.
    pub name: String,
    /// Whether the store below did it, whatever the caller was told.
    pub performed: bool,
}

#[derive(Default)]
struct State {
    log: Vec<Logged>,
    faults: Vec<(Trigger, Fault)>,
    crashed: bool,
}

/// Wraps a store; without injected faults it only counts and logs.
pub struct FaultyStore<S> {
    inner: S,
    state: Mutex<State>,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        FaultyStore { inner, state: Mutex::default() }
    }

    /// The store below, past all faults and the log.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Adds a fault. Of several that match a call the one added first strikes; the others count it too.
    pub fn inject(&self, trigger: Trigger, fault: Fault) {
        self.state().faults.push((trigger, fault));
    }

    /// Drops all faults and ends a crash.
    pub fn revive(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.crashed = false;
    }

    /// True once a [`Fault::Crash`] struck.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Calls of this kind so far, failed ones included.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().log.iter().filter(|call| call.operation == operation).count() as u64
    }

    /// All calls so far, failed ones included.
    pub fn count_all(&self) -> u64 {
        self.state().log.len() as u64
    }

    /// The calls so far, in the order in which they began.
    pub fn log(&self) -> Vec<Logged> {
        self.state().log.clone()
    }

    /// Names put or healed so far, in order, those alone that the store below was asked to make.
    pub fn written(&self) -> Vec<String> {
        let written = |call: &&Logged| call.performed && matches!(call.operation, Operation::Put | Operation::Heal);
        self.state().log.iter().filter(written).map(|call| call.name.clone()).collect()
    }

    /// Forgets the log and with it the counts.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: StoreErrorKind, operation: Operation, name: &str, detail: &str) -> StoreError {
        StoreError::new(kind, operation.name(), self.inner.address(), name, detail.to_owned())
    }

    fn call<T>(
        &self,
        operation: Operation,
        name: &str,
        perform: impl FnOnce() -> Result<T, StoreError>,
        damage: impl FnOnce(&mut T, Fault),
    ) -> Result<T, StoreError> {
        let fault = {
            let mut state = self.state();
            let mut struck = None;
            for (trigger, fault) in &mut state.faults {
                if trigger.strikes(operation, name) {
                    struck = struck.or(Some(*fault));
                }
            }
            state.crashed |= struck == Some(Fault::Crash);
            let fault = if state.crashed { Some(Fault::Crash) } else { struck };
            let performed = !matches!(fault, Some(Fault::Fail(_) | Fault::Crash));
            state.log.push(Logged { operation, name: name.to_owned(), performed });
            fault
        };
        match fault {
            None => perform(),
            Some(Fault::Fail(kind)) => Err(self.error(kind, operation, name, "injected failure")),
            Some(Fault::Crash) => Err(self.error(StoreErrorKind::Unavailable, operation, name, "injected crash")),
            Some(Fault::LoseAcknowledgement(kind)) => {
                perform()?;
                Err(self.error(kind, operation, name, "injected loss of the acknowledgement"))
            }
            Some(fault @ (Fault::FlipBit(_) | Fault::Truncate(_))) => {
                let mut result = perform()?;
                damage(&mut result, fault);
                Ok(result)
            }
        }
    }
}

fn damage_bytes(bytes: &mut Vec<u8>, fault: Fault) {
    match fault {
        Fault::FlipBit(offset) if !bytes.is_empty() => {
            // The remainder is below the length, so it fits.
            let at = (offset % bytes.len() as u64) as usize;
            bytes[at] ^= 1;
        }
        Fault::Truncate(length) => bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX)),
        _ => {}
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn address(&self) -> &str {
        self.inner.address()
    }

    fn only_dataset(&self) -> Option<&str> {
        self.inner.only_dataset()
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        self.call(Operation::Put, name, || self.inner.put_new(name, payload), |_, _| {})
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.call(Operation::Get, name, || self.inner.get(name, bytes_max), damage_bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.call(Operation::GetRange, name, || self.inner.get_range(name, offset, length), damage_bytes)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.call(Operation::Size, name, || self.inner.size(name), |_, _| {})
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.call(Operation::List, prefix, || self.inner.list(prefix, each), |_, _| {})
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.call(Operation::Delete, name, || self.inner.delete(name), |_, _| {})
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        self.call(Operation::Heal, name, || self.inner.heal(name, payload), |_, _| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn kind<T>(result: Result<T, StoreError>) -> Option<StoreErrorKind> {
        result.err().map(|error| error.kind)
    }

    #[test]
    fn the_nth_call_of_a_kind_fails_and_nothing_else() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::on(Operation::Put).nth(2), Fault::Fail(StoreErrorKind::Full));
        let payload = Payload::from(vec![7]);
        assert_eq!(kind(store.put_new("a", &payload)), None);
        assert_eq!(kind(store.get("a", 9)), None);
        assert_eq!(kind(store.put_new("b", &payload)), Some(StoreErrorKind::Full));
        assert_eq!(kind(store.put_new("c", &payload)), None);
        assert_eq!((store.count(Operation::Put), store.count_all()), (3, 4));
        assert_eq!(store.written(), ["a", "c"]);
        assert_eq!(store.inner().size("b").expect("size"), None);
    }

    #[test]
    fn a_lost_acknowledgement_leaves_the_object() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::any().under("gc/").times(1), Fault::LoseAcknowledgement(StoreErrorKind::Unavailable));
        assert_eq!(kind(store.put_new("gc/1", &vec![1].into())), Some(StoreErrorKind::Unavailable));
        assert_eq!(store.put_new("gc/1", &vec![1].into()).expect("again"), Put::Identical);
    }

    #[test]
    fn a_crash_lasts_until_revived() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::any().nth(2), Fault::Crash);
        assert_eq!(kind(store.put_new("a", &vec![1].into())), None);
        for _ in 0..3 {
            assert_eq!(kind(store.get("a", 1)), Some(StoreErrorKind::Unavailable));
        }
        assert!(store.crashed());
        store.revive();
        assert_eq!(store.get("a", 1).expect("alive"), [1]);
    }

    #[test]
    fn reads_are_damaged_silently() {
        let store = FaultyStore::new(MemoryStore::new());
        store.put_new("a", &vec![0, 0, 0].into()).expect("put");
        store.inject(Trigger::on(Operation::Get).nth(1), Fault::FlipBit(4));
        store.inject(Trigger::on(Operation::Get).nth(2), Fault::Truncate(1));
        assert_eq!(store.get("a", 9).expect("get"), [0, 1, 0]);
        assert_eq!(store.get("a", 9).expect("get"), [0]);
        assert_eq!(store.get("a", 9).expect("get"), [0, 0, 0]);
    }
}

//! Tests of the adaptor against clients in memory, faithful and faulty; no network.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, Error, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions, PutResult,
};

use super::*;
use crate::env::SeededRandom;
use crate::store::contract::check_contract;
use crate::store::list_sorted;
use crate::store::probe::probe;

fn kind<T>(result: Result<T, StoreError>) -> Option<StoreErrorKind> {
    result.err().map(|error| error.kind)
}

fn bytes(value: &[u8]) -> Payload {
    value.to_vec().into()
}

#[test]
fn keeps_the_contract() {
    let store = ObjectStore::over(Arc::new(InMemory::new()), "test:").expect("store");
    check_contract(&store, &SeededRandom::new(1)).expect("contract");
    let found = probe(&store, &SeededRandom::new(2)).expect("probe");
    assert!(found.put_if_absent && found.deletes);
}

#[test]
fn keeps_the_contract_under_a_prefix_and_without_conditions() {
    let remote: Arc<dyn Remote> = Arc::new(InMemory::new());
    let foreign = ObjectStore::over(remote.clone(), "test:").expect("store");
    foreign.put_new("else/where", &bytes(b"x")).expect("put");
    for put_if_absent in [true, false] {
        let prefix = Path::from("some/prefix");
        let store =
            ObjectStore::assemble(remote.clone(), "test:".to_owned(), prefix, put_if_absent, Secrets::default())
                .expect("store");
        check_contract(&store, &SeededRandom::new(3)).expect("contract");
        store.put_new("own", &bytes(b"x")).expect("put");
        assert_eq!(list_sorted(&store, "").expect("list").len(), 1);
    }
    assert_eq!(foreign.get("some/prefix/own", 9).expect("below the prefix"), b"x");
}

#[test]
fn keys_that_are_no_names_are_not_listed() {
    let remote = Arc::new(InMemory::new());
    let store = ObjectStore::over(remote.clone(), "test:").expect("store");
    store.put_new("a", &bytes(b"x")).expect("put");
    store.runtime.block_on(remote.put(&Path::from("b c/.d"), "x".into())).expect("foreign");
    assert_eq!(list_sorted(&store, "").expect("list").len(), 1);
}

/// What a put does before the real one is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trick {
    /// Answers "already exists" though nothing landed, as S3 does on a 409.
    Conflict,
    /// Lands, but the answer is lost.
    LoseAnswer,
    /// Somebody else's bytes land first, and the answer is a server fault.
    Rival,
    /// Refused for want of permission.
    Deny,
}

#[derive(Debug)]
struct Tricky {
    inner: InMemory,
    puts: Mutex<Vec<Trick>>,
    failing_lists: AtomicU32,
    tries: AtomicU32,
}

impl Tricky {
    fn store(puts: &[Trick]) -> (Arc<Tricky>, ObjectStore) {
        let tricky = Arc::new(Tricky {
            inner: InMemory::new(),
            puts: Mutex::new(puts.to_vec()),
            failing_lists: AtomicU32::new(0),
            tries: AtomicU32::new(0),
        });
        let store = ObjectStore::over(tricky.clone(), "test:").expect("store");
        (tricky, store)
    }
}

impl fmt::Display for Tricky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tricky")
    }
}

fn unavailable() -> Error {
    Error::Generic { store: "test", source: "status code: 503 Service Unavailable".into() }
}

// The client's trait is written with `async_trait`; what that makes of a method, by hand.
impl Remote for Tricky {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        key: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'c, object_store::Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            self.tries.fetch_add(1, Ordering::Relaxed);
            let trick = self.puts.lock().expect("lock").pop();
            let path = key.to_string();
            match trick {
                None => self.inner.put_opts(key, payload, options).await,
                Some(Trick::Conflict) => Err(Error::AlreadyExists { path, source: "409".into() }),
                Some(Trick::LoseAnswer) => {
                    self.inner.put_opts(key, payload, options).await?;
                    Err(unavailable())
                }
                Some(Trick::Rival) => {
                    self.inner.put(key, "rival".into()).await?;
                    Err(unavailable())
                }
                Some(Trick::Deny) => Err(Error::PermissionDenied { path, source: "403".into() }),
            }
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        key: &'b Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'c, object_store::Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.inner.put_multipart_opts(key, options)
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        key: &'b Path,
        options: GetOptions,
    ) -> BoxFuture<'c, object_store::Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.inner.get_opts(key, options)
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let left = self.failing_lists.load(Ordering::Relaxed);
        if left > 0 {
            self.failing_lists.store(left - 1, Ordering::Relaxed);
            return futures::stream::once(async { Err(unavailable()) }).boxed();
        }
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(
        &'a self,
        prefix: Option<&'b Path>,
    ) -> BoxFuture<'c, object_store::Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Path,
        to: &'d Path,
        options: CopyOptions,
    ) -> BoxFuture<'c, object_store::Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.inner.copy_opts(from, to, options)
    }
}

#[test]
fn a_conflict_where_nothing_landed_is_tried_again() {
    let (_, store) = Tricky::store(&[Trick::Conflict, Trick::Conflict]);
    assert_eq!(store.put_new("a", &bytes(b"own")).expect("put"), Put::Created);
    assert_eq!(store.get("a", 9).expect("get"), b"own");
}

#[test]
fn endless_conflicts_end_as_unavailable_not_as_existing() {
    let (tricky, store) = Tricky::store(&[Trick::Conflict; 20]);
    assert_eq!(kind(store.put_new("a", &bytes(b"own"))), Some(StoreErrorKind::Unavailable));
    assert_eq!(tricky.tries.load(Ordering::Relaxed), TRIES_MAX);
}

#[test]
fn only_a_service_that_has_answered_is_waited_for() {
    let (_, store) = Tricky::store(&[]);
    let seconds = Duration::from_secs;
    assert!(!store.is_enough(TRIES_MAX - 1, seconds(3)));
    assert!(store.is_enough(TRIES_MAX, seconds(3)) && store.is_enough(1, SILENCE_MAX));
    let refused = Fault::lasting(StoreErrorKind::Unavailable, "connection refused".to_owned());
    let denied = Fault::lasting(StoreErrorKind::Denied, "403".to_owned());
    assert!(store.is_final(&refused) && store.is_final(&denied));
    // What it says of a name that it doesn't have is an answer, too; so is an empty listing.
    assert_eq!(store.size("a").expect("size"), None);
    assert!(!store.is_enough(TRIES_MAX, seconds(3)) && !store.is_enough(1, SILENCE_MAX));
    assert!(store.is_enough(TRIES_MAX, PATIENCE) && store.is_enough(2, 2 * SILENCE_MAX));
    assert!(!store.is_final(&refused) && store.is_final(&denied));
    let (_, store) = Tricky::store(&[]);
    store.list("", &mut |_| ()).expect("list");
    assert!(!store.is_enough(TRIES_MAX, seconds(3)));
}

#[test]
fn a_lost_answer_is_settled_by_reading_back() {
    let (_, store) = Tricky::store(&[Trick::LoseAnswer]);
    assert_eq!(store.put_new("a", &bytes(b"own")).expect("put"), Put::Identical);
    let (_, store) = Tricky::store(&[Trick::Rival]);
    assert_eq!(kind(store.put_new("a", &bytes(b"other"))), Some(StoreErrorKind::AlreadyExists));
    assert_eq!(store.get("a", 9).expect("get"), b"rival");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let (tricky, store) = Tricky::store(&[Trick::Deny]);
    assert_eq!(kind(store.put_new("a", &bytes(b"own"))), Some(StoreErrorKind::Denied));
    assert_eq!(tricky.tries.load(Ordering::Relaxed), 1);
}

#[test]
fn a_listing_is_tried_again_or_fails_but_is_never_short() {
    let (tricky, store) = Tricky::store(&[]);
    store.put_new("a", &bytes(b"x")).expect("put");
    tricky.failing_lists.store(2, Ordering::Relaxed);
    assert_eq!(list_sorted(&store, "").expect("list").len(), 1);
    tricky.failing_lists.store(u32::MAX, Ordering::Relaxed);
    // As before its first answer, so that it isn't waited for as long.
    store.answered.store(false, Ordering::Relaxed);
    assert_eq!(kind(list_sorted(&store, "")), Some(StoreErrorKind::Unavailable));
}

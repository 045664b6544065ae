//! A region in an object storage service: S3 and compatibles, Google Cloud Storage, Azure Blob Storage.
//!
//! Guarantees what the trait promises over services that answer late, twice or not at all: a put whose
//! outcome is unclear, or that is said to have met an object, is settled by reading back, since an S3
//! 409 and a lost acknowledgement look alike and mean opposite things. Passing faults are retried with
//! growing, jittered pauses a bounded number of times, and for a minute where the service has answered before. Credentials never enter an error.
//!
//! The store owns a small tokio runtime; its calls block and must not be made from async code.
//! Called through [`super::open::open_store`]. Page: `format-spec/store.md`.

mod aws;
mod config;
mod fault;
mod genuine;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore as Remote, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use self::fault::{Fault, Secrets};
use super::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, name};
use crate::env::{SystemRandom, elapsed_ns, random_bytes};

/// Tries of one call, the first included: so that a region that isn't there at all is soon left out.
const TRIES_MAX: u32 = 5;
/// A service that answered before in this run is asked for so long at least: a router or a server that starts anew costs
/// a backup or a restore no region. Once that was in vain, it isn't waited for again until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before the second try; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A service silent for so long won't answer; includes the client's own retries of a request.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// A service that was silent so often, and answered nothing between, costs no more time.
const SILENCES_MAX: u32 = 2;
/// Slowest upload that isn't given up, in bytes per second.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 32 << 10;
/// Threads that drive requests; hashing and encryption happen elsewhere.
const RUNTIME_THREADS: usize = 2;

/// A region under a prefix of a bucket or container.
pub struct ObjectStore {
    remote: Arc<dyn Remote>,
    address: String,
    prefix: Path,
    put_if_absent: bool,
    secrets: Secrets,
    runtime: Runtime,
    /// It answers, as far as is known.
    answered: AtomicBool,
    /// How often it kept silent since it answered last.
    silences: AtomicU32,
}

// What a name holds, compared with the bytes of a put.
enum Found {
    Same,
    Other,
    Nothing,
}

impl ObjectStore {
    /// Opens `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix` and lists once, so
    /// that a wrong bucket or key shows now and not as an absent object later.
    ///
    /// Options are those that [`super::open::open_store`] names; credentials that they don't give are
    /// looked for where the service's own tools look.
    ///
    /// # Errors
    /// `Invalid` for an unusable address or option, else as a listing.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        let config::Opened { remote, address, prefix, put_if_absent, secrets } = config::open(url, options)?;
        let store = ObjectStore::assemble(remote, address, prefix, put_if_absent, secrets)?;
        store.attempt("open", "", || async {
            let mut listing = store.remote.list(store.below("").as_ref());
            match silent(listing.next()).await? {
                Some(Err(error)) => match Fault::from_error(&error) {
                    fault if fault.kind == StoreErrorKind::NotFound => Err(fault.no_bucket()),
                    fault => Err(fault),
                },
                Some(Ok(_)) | None => Ok(()),
            }
        })?;
        Ok(store)
    }

    /// Wraps a client of the `object_store` crate; for tests and for services that it alone knows.
    ///
    /// # Errors
    /// When no runtime can be started.
    pub fn over(remote: Arc<dyn Remote>, address: &str) -> Result<Self, StoreError> {
        ObjectStore::assemble(remote, address.to_owned(), Path::default(), true, Secrets::default())
    }

    fn assemble(
        remote: Arc<dyn Remote>,
        address: String,
        prefix: Path,
        put_if_absent: bool,
        secrets: Secrets,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("keepstone-store")
            .enable_all()
            .build()
            .map_err(|error| {
                StoreError::new(StoreErrorKind::Other, "open", &address, "", format!("starting its threads: {error}"))
            })?;
        let (answered, silences) = (AtomicBool::new(false), AtomicU32::new(0));
        Ok(ObjectStore { remote, address, prefix, put_if_absent, secrets, runtime, answered, silences })
    }

    // The service's key for a checked name.
    fn key(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    // The prefix to list by; `None` for the whole bucket.
    fn below(&self, prefix: &str) -> Option<Path> {
        let path = self.key(prefix);
        (!path.is_root()).then_some(path)
    }

    // The object's name, or `None` for a key that is no name and so not ours.
    fn name_of(&self, key: &Path) -> Option<String> {
        let name: Path = key.prefix_match(&self.prefix)?.collect();
        name::is_name(name.as_ref()).then(|| name.to_string())
    }

    fn error(&self, operation: &'static str, name: &str, fault: Fault) -> StoreError {
        let detail = self.secrets.scrub(fault.detail);
        StoreError::new(fault.kind, operation, &self.address, name, detail)
    }

    // Runs a call until it succeeds, fails for good, or failed in passing for the last time.
    fn attempt<T, F>(&self, operation: &'static str, name: &str, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.require_answers(operation, name)?;
        self.runtime.block_on(async {
            let (mut tries, began) = (0, elapsed_ns());
            loop {
                let fault = match call().await {
                    Ok(result) => {
                        self.heard();
                        return Ok(result);
                    }
                    Err(fault) => fault,
                };
                self.listen(&fault);
                tries += 1;
                if self.is_final(&fault) || self.is_enough(tries, since(began)) {
                    return Err(self.give_up(operation, name, fault));
                }
                tracing::debug!(store = %self.address, name, tries, "trying again after a passing fault");
                pause(tries).await;
            }
        })
    }

    fn heard(&self) {
        self.answered.store(true, Ordering::Relaxed);
        self.silences.store(0, Ordering::Relaxed);
    }

    // Counts a silence; whatever else was said is an answer.
    fn listen(&self, fault: &Fault) {
        if fault.is_silence() {
            self.silences.fetch_add(1, Ordering::Relaxed);
        } else if !fault.passing && fault.kind != StoreErrorKind::Unavailable {
            self.heard();
        }
    }

    // Each silence costs a minute and a half: after some, one after the other, the service is asked no more.
    fn require_answers(&self, operation: &'static str, name: &str) -> Result<(), StoreError> {
        match self.silences.load(Ordering::Relaxed) < SILENCES_MAX {
            true => Ok(()),
            false => {
                let detail = "it kept silent time and again, and is not asked any more in this run".to_owned();
                Err(StoreError::new(StoreErrorKind::Unavailable, operation, &self.address, name, detail))
            }
        }
    }

    fn give_up(&self, operation: &'static str, name: &str, fault: Fault) -> StoreError {
        if fault.kind == StoreErrorKind::Unavailable {
            self.answered.store(false, Ordering::Relaxed);
        }
        self.error(operation, name, fault)
    }

    // Whether another try is of no use. That a service refuses connections says so only of one that never answered.
    fn is_final(&self, fault: &Fault) -> bool {
        let has_gone = fault.kind == StoreErrorKind::Unavailable && self.answered.load(Ordering::Relaxed);
        !fault.passing && !has_gone
    }

    // Whether a call that failed so often in so much time is given up.
    fn is_enough(&self, tries: u32, waited: Duration) -> bool {
        match self.answered.load(Ordering::Relaxed) {
            true => waited >= PATIENCE && (tries >= TRIES_MAX || waited >= 2 * SILENCE_MAX),
            false => tries >= TRIES_MAX || waited >= SILENCE_MAX,
        }
    }

    fn load(&self, operation: &'static str, name: &str, payload: &Payload) -> Result<Bytes, StoreError> {
        name::check(operation, &self.address, name)?;
        payload.to_bytes().map_err(|error| {
            let detail = format!("reading the payload's spool file: {error}");
            StoreError::new(StoreErrorKind::Other, operation, &self.address, name, detail)
        })
    }

    async fn upload(&self, key: &Path, bytes: &Bytes, mode: PutMode) -> Result<(), Fault> {
        let seconds = bytes.len() as u64 / UPLOAD_BYTES_PER_SECOND_MIN;
        let limit = SILENCE_MAX + Duration::from_secs(seconds);
        match timeout(limit, self.remote.put_opts(key, PutPayload::from(bytes.clone()), mode.into())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Fault::from_error(&error)),
            Err(_) => Err(Fault::silence(limit)),
        }
    }

    async fn fetch(&self, key: &Path, range: Option<GetRange>) -> Result<GetResult, Fault> {
        let options = GetOptions { range, ..GetOptions::default() };
        silent(self.remote.get_opts(key, options)).await?.map_err(|error| Fault::from_error(&error))
    }

    async fn stored_size(&self, key: &Path) -> Result<Option<u64>, Fault> {
        match silent(self.remote.head(key)).await? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => match Fault::from_error(&error) {
                fault if fault.kind == StoreErrorKind::NotFound => Ok(None),
                fault => Err(fault),
            },
        }
    }

    async fn compare(&self, key: &Path, bytes: &Bytes) -> Result<Found, Fault> {
        let result = match self.fetch(key, None).await {
            Ok(result) => result,
            Err(fault) if fault.kind == StoreErrorKind::NotFound => return Ok(Found::Nothing),
            Err(fault) => return Err(fault),
        };
        if result.meta.size != bytes.len() as u64 {
            return Ok(Found::Other);
        }
        let mut rest = &bytes[..];
        let mut stream = result.into_stream();
        while let Some(piece) = silent(stream.next()).await? {
            let piece = piece.map_err(|error| Fault::from_error(&error))?;
            match rest.strip_prefix(&piece[..]) {
                Some(after) => rest = after,
                None => return Ok(Found::Other),
            }
        }
        if rest.is_empty() { Ok(Found::Same) } else { Err(Fault::cut_short(bytes.len() - rest.len(), bytes.len())) }
    }

    // One try of a put: creates the object, or finds out what is there.
    async fn create(&self, key: &Path, bytes: &Bytes) -> Result<Put, Fault> {
        let refused = if self.put_if_absent {
            match self.upload(key, bytes, PutMode::Create).await {
                Ok(()) => return Ok(Put::Created),
                Err(fault) if fault.passing || fault.kind == StoreErrorKind::AlreadyExists => Some(fault),
                Err(fault) => return Err(fault),
            }
        } else {
            None
        };
        match (self.compare(key, bytes).await?, refused) {
            (Found::Same, _) => Ok(Put::Identical),
            (Found::Other, _) => Err(Fault::taken()),
            // Nothing landed: a conflict with another request, or a fault before the service acted.
            (Found::Nothing, Some(fault)) => Err(Fault { kind: StoreErrorKind::Unavailable, passing: true, ..fault }),
            (Found::Nothing, None) => self.upload(key, bytes, PutMode::Overwrite).await.map(|()| Put::Created),
        }
    }
}

impl Store for ObjectStore {
    fn address(&self) -> &str {
        &self.address
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        let bytes = self.load("put", name, payload)?;
        let key = self.key(name);
        self.attempt("put", name, || self.create(&key, &bytes))
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        name::check("get", &self.address, name)?;
        let key = self.key(name);
        self.attempt("get", name, || async {
            let result = self.fetch(&key, None).await?;
            if result.meta.size > bytes_max {
                return Err(Fault::range(format!("holds {} bytes, at most {bytes_max} expected", result.meta.size)));
            }
            let size = result.meta.size;
            collect(result, size).await
        })
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        name::check("get", &self.address, name)?;
        let key = self.key(name);
        let outside = |size: u64| Fault::range(format!("{length} bytes at {offset} don't lie within its {size} bytes"));
        self.attempt("get", name, || async {
            let end = offset.checked_add(length);
            // Services answer a range that is empty or starts past the end each in their own way.
            let fetched = match end {
                Some(end) if length > 0 => self.fetch(&key, Some(GetRange::Bounded(offset..end))).await,
                _ => Err(Fault::range(String::new())),
            };
            match fetched {
                Ok(result) if end.is_none_or(|end| end > result.meta.size) => Err(outside(result.meta.size)),
                Ok(result) => collect(result, length).await,
                Err(fault) if matches!(fault.kind, StoreErrorKind::Range | StoreErrorKind::Other) => {
                    match self.stored_size(&key).await? {
                        None => Err(Fault::absent()),
                        Some(size) if end.is_none_or(|end| end > size) => Err(outside(size)),
                        Some(_) if length == 0 => Ok(Vec::new()),
                        Some(_) => Err(fault),
                    }
                }
                Err(fault) => Err(fault),
            }
        })
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        name::check("size", &self.address, name)?;
        let key = self.key(name);
        self.attempt("size", name, || self.stored_size(&key))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        name::check_prefix(&self.address, prefix)?;
        let below = self.below(prefix);
        self.require_answers("list", prefix)?;
        self.runtime.block_on(async {
            let (mut tries, began) = (0, elapsed_ns());
            let mut begun = false;
            let mut listing = self.remote.list(below.as_ref());
            loop {
                let fault = match silent(listing.next()).await {
                    Ok(None) => {
                        self.heard();
                        return Ok(());
                    }
                    Ok(Some(Ok(meta))) => {
                        begun = true;
                        if let Some(name) = self.name_of(&meta.location) {
                            each(Listed { name, size: meta.size });
                        }
                        continue;
                    }
                    Ok(Some(Err(error))) => Fault::from_error(&error),
                    Err(fault) => fault,
                };
                self.listen(&fault);
                tries += 1;
                // Once `each` saw objects only the client's own retries of a page can help.
                if begun || self.is_final(&fault) || self.is_enough(tries, since(began)) {
                    let fault = if fault.kind == StoreErrorKind::NotFound { fault.no_bucket() } else { fault };
                    return Err(self.give_up("list", prefix, fault));
                }
                pause(tries).await;
                listing = self.remote.list(below.as_ref());
            }
        })
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check("delete", &self.address, name)?;
        let key = self.key(name);
        self.attempt("delete", name, || async {
            match silent(self.remote.delete(&key)).await?.map_err(|error| Fault::from_error(&error)) {
                Err(fault) if fault.kind == StoreErrorKind::NotFound => Ok(()),
                Err(fault) if fault.kind == StoreErrorKind::AlreadyExists => Err(fault.conflict()),
                result => result,
            }
        })
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        let bytes = self.load("heal", name, payload)?;
        let key = self.key(name);
        self.attempt("heal", name, || async {
            match self.upload(&key, &bytes, PutMode::Overwrite).await {
                Err(fault) if fault.kind == StoreErrorKind::AlreadyExists => Err(fault.conflict()),
                result => result,
            }
        })
    }
}

fn since(began_ns: u64) -> Duration {
    Duration::from_nanos(elapsed_ns().saturating_sub(began_ns))
}

// Waits for one answer, but not for ever.
async fn silent<T>(answer: impl Future<Output = T>) -> Result<T, Fault> {
    timeout(SILENCE_MAX, answer).await.map_err(|_| Fault::silence(SILENCE_MAX))
}

// Reads a body of exactly `length` bytes.
async fn collect(result: GetResult, length: u64) -> Result<Vec<u8>, Fault> {
    let no_room = || Fault::lasting(StoreErrorKind::Other, format!("no memory for {length} bytes"));
    let length = usize::try_from(length).map_err(|_| no_room())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| no_room())?;
    let mut stream = result.into_stream();
    while let Some(piece) = silent(stream.next()).await? {
        let piece = piece.map_err(|error| Fault::from_error(&error))?;
        if piece.len() > length - bytes.len() {
            let detail = format!("the service sent more than the {length} bytes it stated");
            return Err(Fault::lasting(StoreErrorKind::Other, detail));
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() == length { Ok(bytes) } else { Err(Fault::cut_short(bytes.len(), length)) }
}

async fn pause(tries: u32) {
    let full = PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(PAUSE_MAX);
    // Between half and all of it, so that clients that failed together don't come back together.
    let part = u32::from(u16::from_le_bytes(random_bytes(&SystemRandom)));
    tokio::time::sleep(full / 2 + full / 2 * part / u32::from(u16::MAX)).await;
}

#[cfg(test)]
mod tests;

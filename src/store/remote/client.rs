//! A region on another machine, as a store (`ssh://host/path`). Page: `format-spec/serve.md`.
//!
//! Guarantees: as the server's store gives them, and nothing that the server says is taken for more
//! than that: lengths, names and counts are checked (`SERVE-9`). A few connections are kept, so that
//! several threads can ask at once. A question whose connection ended after it had been used before is
//! asked again on a new one: each can be repeated, since a put that had landed is found identical. A server that
//! keeps silent is asked once more, and then given up: every later question fails at once.
//!
//! Called through [`super::super::open::open_store`].

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::address;
use super::connection::{Connect, Fault, Link, SILENT, Welcome, ended, explained, unexpected};
use super::message::{PIECE_BYTES_MAX, Reply, Request};
use crate::format::roster::Role;
use crate::store::{Listed, Payload, Put, Store, StoreError, StoreErrorKind, name};

/// Objects up to this size go with their request.
const FIRST_BYTES_MAX: u64 = 64 << 10;
/// How long to wait before a lost connection is made anew, each time longer: a minute in all. Once that was in vain,
/// nothing is waited for until the server answers again.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15), Duration::from_secs(40)];
/// A server that was silent so often costs no more time: each silence is waited for as long as the option
/// `timeout_seconds` says.
const SILENCES_MAX: u32 = 2;
/// Once so many questions in a row were answered, earlier silences count no more: a run may last for days.
const ANSWERS_TO_FORGIVE: u32 = 100;

/// A region behind a server.
pub struct RemoteStore {
    address: String,
    connect: Box<dyn Connect>,
    connections: usize,
    pauses: &'static [Duration],
    welcome: Welcome,
    pool: Mutex<Pool>,
    freed: Condvar,
    patience: Mutex<Patience>,
}

/// How often a server was silent, and how many questions it answered since.
#[derive(Default)]
struct Patience {
    silences: u32,
    answers: u32,
    /// A lost connection could not be made anew, however long that was tried.
    is_gone: bool,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Link>,
    /// Idle ones, ones in use, and ones that are being made.
    open: usize,
}

impl RemoteStore {
    /// Connects to the server at `url`; with `create`, the directory there is made if missing, where the
    /// server's role allows it.
    ///
    /// # Errors
    /// `Invalid` for an unusable address, option or other side, `Denied` when not let in, `Unavailable`
    /// when it can't be reached.
    pub fn open(url: &str, options: &BTreeMap<String, String>, create: bool) -> Result<Self, StoreError> {
        let address = address::parse(url, options)?;
        let (text, connections) = (address.text.clone(), address.connections);
        RemoteStore::over(Box::new(address), text, connections, &PAUSES, create)
    }

    /// True for an address and options that [`RemoteStore::open`] would try.
    pub fn is_address(url: &str, options: &BTreeMap<String, String>) -> bool {
        url.starts_with("ssh:") && address::parse(url, options).is_ok()
    }

    fn over(
        connect: Box<dyn Connect>,
        address: String,
        connections: usize,
        pauses: &'static [Duration],
        create: bool,
    ) -> Result<Self, StoreError> {
        let opened = connect.connect(create);
        let (link, welcome) = opened.map_err(|(kind, detail)| StoreError::new(kind, "open", &address, "", detail))?;
        let pool = Mutex::new(Pool { idle: vec![link], open: 1 });
        let freed = Condvar::new();
        let patience = Mutex::default();
        Ok(RemoteStore { address, connect, connections, pauses, welcome, pool, freed, patience })
    }

    /// What the server lets this access do.
    pub fn role(&self) -> Role {
        self.welcome.role
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // A list of connections has no half-made states.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_given_up(&self) -> bool {
        self.patience().silences >= SILENCES_MAX
    }

    fn answered(&self) {
        let mut patience = self.patience();
        patience.answers = patience.answers.saturating_add(1);
        patience.is_gone = false;
        if patience.answers >= ANSWERS_TO_FORGIVE && patience.silences < SILENCES_MAX {
            patience.silences = 0;
        }
    }

    fn was_silent(&self) {
        let mut patience = self.patience();
        *patience = Patience { silences: patience.silences + 1, answers: 0, ..*patience };
    }

    /// A connection, and whether it was used before; waits while too many are in use.
    fn lease(&self) -> Result<(Lease<'_>, bool), (StoreErrorKind, String)> {
        let mut pool = self.pool();
        loop {
            if let Some(link) = pool.idle.pop() {
                return Ok((Lease { store: self, link: Some(link) }, true));
            }
            if pool.open < self.connections {
                break;
            }
            pool = self.freed.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.open += 1;
        drop(pool);
        let mut lease = Lease { store: self, link: None };
        let (link, welcome) = self.connect.connect(false)?;
        if welcome != self.welcome {
            let detail = "the server changed what this access may do; run this again";
            return Err((StoreErrorKind::Unavailable, detail.to_owned()));
        }
        lease.link = Some(link);
        Ok((lease, false))
    }

    fn drop_idle(&self) {
        let mut pool = self.pool();
        let idle = std::mem::take(&mut pool.idle);
        pool.open -= idle.len();
        drop(pool);
        self.freed.notify_all();
    }

    /// Asks, on a connection of the pool. `act` may be called several times.
    fn exchange<T>(
        &self,
        operation: &'static str,
        name: &str,
        mut act: impl FnMut(&mut Link) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let failed = |kind, detail| StoreError::new(kind, operation, &self.address, name, detail);
        let mut pauses = if self.patience().is_gone { &[] } else { self.pauses }.iter();
        loop {
            if self.is_given_up() {
                let detail = format!("{SILENT} time and again, and is not asked any more in this run");
                return Err(failed(StoreErrorKind::Unavailable, detail));
            }
            let (detail, used) = match self.lease() {
                Ok((mut lease, used)) => {
                    let Some(mut link) = lease.link.take() else { continue };
                    match act(&mut link) {
                        Ok(value) => {
                            lease.link = Some(link);
                            self.answered();
                            return Ok(value);
                        }
                        Err(Fault::Refused(kind, detail)) => {
                            lease.link = Some(link);
                            self.answered();
                            return Err(failed(kind, detail));
                        }
                        Err(Fault::Broken(detail)) => {
                            let detail = format!("the server broke the protocol: {detail}");
                            return Err(failed(StoreErrorKind::Other, detail));
                        }
                        Err(Fault::Unread(detail)) => return Err(failed(StoreErrorKind::Other, detail)),
                        Err(Fault::Lost(detail)) => {
                            let (status, said) = link.bury();
                            (explained(&format!("{detail}{}", ended(status)), &said), used)
                        }
                    }
                }
                Err((StoreErrorKind::Unavailable, detail)) => (detail, false),
                Err((kind, detail)) => return Err(failed(kind, detail)),
            };
            if detail.starts_with(SILENT) {
                self.was_silent();
                if self.is_given_up() {
                    return Err(failed(StoreErrorKind::Unavailable, detail));
                }
                // Waited for long enough; connections that were idle meanwhile are likely as dead.
                self.drop_idle();
                continue;
            }
            // Idle connections may all have ended since; a new one that ends says something.
            if used {
                tracing::info!(operation, name, detail, "a connection ended and is made anew");
                continue;
            }
            let Some(pause) = pauses.next() else {
                self.patience().is_gone = true;
                return Err(failed(StoreErrorKind::Unavailable, detail));
            };
            tracing::warn!(operation, name, detail, "the connection failed and is tried again");
            std::thread::sleep(*pause);
        }
    }

    fn put(&self, name: &str, payload: &Payload, heal: bool) -> Result<Put, StoreError> {
        let operation = if heal { "heal" } else { "put" };
        name::check(operation, &self.address, name)?;
        let created = self.exchange(operation, name, |link| send(link, name, payload, heal))?;
        Ok(if created { Put::Created } else { Put::Identical })
    }
}

/// A connection in use; it goes back into the pool, or makes room for another one.
struct Lease<'a> {
    store: &'a RemoteStore,
    link: Option<Link>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut pool = self.store.pool();
        match self.link.take() {
            Some(link) => pool.idle.push(link),
            None => pool.open -= 1,
        }
        drop(pool);
        self.store.freed.notify_one();
    }
}

/// Puts an object; true when it wasn't there before.
fn send(link: &mut Link, name: &str, payload: &Payload, heal: bool) -> Result<bool, Fault> {
    let length = payload.length();
    let unread = |error| Fault::Unread(format!("reading the payload's spool file: {error}"));
    if length <= FIRST_BYTES_MAX {
        let first = payload.to_bytes().map_err(unread)?;
        link.send(&Request::Put { name, heal, length, first: &first }.encode())?;
    } else {
        match link.ask(&Request::Put { name, heal, length, first: &[] })? {
            Reply::Ready => {}
            other => return Err(unexpected(&other)),
        }
        let mut offset = 0;
        let mut piece = vec![0u8; PIECE_BYTES_MAX];
        while offset < length {
            let size = usize::try_from(length - offset).map_or(piece.len(), |left| left.min(piece.len()));
            payload.read_exact_at(&mut piece[..size], offset).map_err(unread)?;
            link.send(&Request::Piece(&piece[..size]).encode())?;
            offset += size as u64;
        }
    }
    link.flush()?;
    match link.hear()? {
        Reply::Done { created } => Ok(created),
        other => Err(unexpected(&other)),
    }
}

/// Reads the bytes that answer `request`, when `fits` says that their number can be right.
fn receive(link: &mut Link, request: &Request<'_>, fits: impl Fn(u64) -> bool) -> Result<Vec<u8>, Fault> {
    let length = match link.ask(request)? {
        Reply::Bytes { length } => length,
        other => return Err(unexpected(&other)),
    };
    if !fits(length) {
        return Err(Fault::Broken(format!("SERVE-9: it sends {length} bytes, which were not asked for")));
    }
    let mut bytes = Vec::new();
    let reserved = usize::try_from(length).is_ok_and(|length| bytes.try_reserve_exact(length).is_ok());
    if !reserved {
        return Err(Fault::Unread(format!("no memory for {length} bytes")));
    }
    while (bytes.len() as u64) < length {
        match link.hear()? {
            Reply::Piece(piece) if piece.len() as u64 <= length - bytes.len() as u64 => bytes.extend_from_slice(piece),
            Reply::Piece(_) => return Err(Fault::Broken("SERVE-9: it sends more bytes than it said".to_owned())),
            other => return Err(unexpected(&other)),
        }
    }
    Ok(bytes)
}

/// Reads a listing to its end.
fn listing(link: &mut Link, prefix: &str) -> Result<Vec<Listed>, Fault> {
    let mut listed: Vec<Listed> = Vec::new();
    let broken = |detail: &str| Err(Fault::Broken(format!("SERVE-9: {detail}")));
    link.send(&Request::List { prefix }.encode())?;
    link.flush()?;
    loop {
        match link.hear()? {
            Reply::Entries(entries) => {
                if !entries.iter().all(|entry| name::is_name(&entry.name) && entry.name.starts_with(prefix)) {
                    return broken("it lists what can't be an object under this prefix");
                }
                listed.extend(entries);
            }
            Reply::End { count } if count == listed.len() as u64 => return Ok(listed),
            Reply::End { .. } => return broken("parts of the listing are missing"),
            other => return Err(unexpected(&other)),
        }
    }
}

impl Store for RemoteStore {
    fn address(&self) -> &str {
        &self.address
    }

    fn only_dataset(&self) -> Option<&str> {
        self.welcome.dataset.as_deref()
    }

    fn put_new(&self, name: &str, payload: &Payload) -> Result<Put, StoreError> {
        self.put(name, payload, false)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        name::check("get", &self.address, name)?;
        let request = Request::Get { name, bytes_max };
        self.exchange("get", name, |link| receive(link, &request, |length| length <= bytes_max))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        name::check("get", &self.address, name)?;
        let request = Request::GetRange { name, offset, length };
        self.exchange("get", name, |link| receive(link, &request, |sent| sent == length))
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        name::check("size", &self.address, name)?;
        self.exchange("size", name, |link| match link.ask(&Request::Size { name })? {
            Reply::Size(size) => Ok(size),
            other => Err(unexpected(&other)),
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        name::check_prefix(&self.address, prefix)?;
        // Whole before the first is passed on: the connection may end in the middle, and `each` may ask
        // for a connection of its own.
        let listed = self.exchange("list", prefix, |link| listing(link, prefix))?;
        listed.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check("delete", &self.address, name)?;
        self.exchange("delete", name, |link| match link.ask(&Request::Delete { name })? {
            Reply::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        })
    }

    fn heal(&self, name: &str, payload: &Payload) -> Result<(), StoreError> {
        self.put(name, payload, true).map(|_| ())
    }
}

#[cfg(test)]
mod tests;

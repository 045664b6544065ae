//! Serves a local directory to one client, as far as a role goes. Page: `format-spec/serve.md`.
//!
//! Guarantees: whatever the client sends, nothing outside the directory is touched, nothing that the
//! role may not do is done (`SERVE-3`), nothing is put under a name that doesn't fit it (`SERVE-4`,
//! `SERVE-5`), and nothing is said to be done before it is durable (`SERVE-6`). Memory is bounded by a
//! message and, where a [`Gate`] asks to see them, one snapshot or commit. Called by `keepstone serve`.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::access::{self, Act, Family, Form};
use super::message::{FRAME_BYTES_MAX, FrameError, PIECE_BYTES_MAX, Reply, Request, VERSION, read_frame, write_frame};
use crate::format::ids::Digest;
use crate::format::roster::Role;
use crate::format::wire::DecodeError;
use crate::store::local::{Incoming, LocalStore};
use crate::store::{Listed, Put, Store, StoreError, StoreErrorKind};

/// Listed names are sent once they take this many bytes.
const ENTRIES_BYTES: usize = 64 << 10;
const DIGEST_BYTES: usize = 32;
/// Objects are read in pieces of this many bytes.
const READ_BYTES: usize = PIECE_BYTES_MAX;

/// Looks into snapshots and commits before they are stored. Who has one holds a key.
pub trait Gate: Send + Sync {
    /// Says whether an object of this name and these bytes may be stored.
    ///
    /// # Errors
    /// Why not, for a person, and the class of the reason.
    fn admit(&self, name: &str, bytes: &[u8]) -> Result<(), (StoreErrorKind, String)>;
}

/// What is served, and to whom.
pub struct Served {
    /// The directory, absolute.
    pub path: PathBuf,
    /// The home directory, for clients that ask for `~/…`.
    pub home: Option<PathBuf>,
    /// What the client may do.
    pub role: Role,
    /// The only dataset whose snapshots it may put; the client is told.
    pub dataset: Option<String>,
    /// Holds it to that.
    pub gate: Option<Box<dyn Gate>>,
}

/// Why serving ended early. What was acknowledged is durable, the rest left nothing.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
    /// The client went away, or the connection failed.
    #[error("the connection ended early: {0}")]
    Connection(#[from] io::Error),
}

impl From<FrameError> for ServeError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => ServeError::Connection(error),
            FrameError::Length { .. } => {
                let detail = error.to_string();
                let detail = detail.trim_start_matches("SERVE-1: ");
                ServeError::Protocol(DecodeError::new("SERVE-1", detail))
            }
        }
    }
}

/// A refusal or failure that the client is told; the connection goes on.
type Failure = (StoreErrorKind, String);

fn failure(error: StoreError) -> Failure {
    (error.kind, error.detail)
}

/// Serves one client until `input` ends.
///
/// # Errors
/// When the client breaks the protocol or the connection fails; the client is told where that is possible.
pub fn serve(served: &Served, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), ServeError> {
    let mut session = Session { served, input, output };
    match session.run() {
        Err(ServeError::Protocol(error)) => {
            // The client may be gone or not understand: the error is what counts.
            let _ = session.fail((StoreErrorKind::Invalid, error.to_string())).and_then(|()| session.output.flush());
            Err(ServeError::Protocol(error))
        }
        outcome => outcome,
    }
}

struct Session<'a> {
    served: &'a Served,
    input: &'a mut dyn Read,
    output: &'a mut dyn Write,
}

/// A put under way: where its bytes go.
enum Sink<'a> {
    Disk(Incoming<'a>),
    /// For the gate to look at.
    Memory(Vec<u8>),
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), ServeError> {
        let Some(store) = self.greet()? else { return Ok(()) };
        let mut body = Vec::new();
        while read_frame(self.input, &mut body)? {
            let outcome = match Request::decode(&body)? {
                Request::Hello { .. } | Request::Piece(_) => {
                    return Err(DecodeError::new("SERVE-2", "a message out of its order").into());
                }
                Request::Put { name, heal, length, first } => self.put(&store, name, heal, length, first)?,
                Request::Get { name, bytes_max } => self.get(&store, name, |size| match size <= bytes_max {
                    true => Ok((0, size)),
                    false => Err(format!("holds {size} bytes, at most {bytes_max} expected")),
                })?,
                Request::GetRange { name, offset, length } => {
                    self.get(&store, name, |size| match offset.checked_add(length).is_some_and(|end| end <= size) {
                        true => Ok((offset, length)),
                        false => Err(format!("{length} bytes at {offset} don't lie within its {size} bytes")),
                    })?
                }
                Request::Size { name } => match store.size(name) {
                    Ok(size) => self.answer(&Reply::Size(size)).map(Ok)?,
                    Err(error) => Err(failure(error)),
                },
                Request::List { prefix } => self.list(&store, prefix)?,
                Request::Delete { name } => self.delete(&store, name)?,
            };
            if let Err(refused) = outcome {
                let (name, role) = (named(&body), self.served.role.name());
                tracing::warn!(role, name, kind = ?refused.0, detail = refused.1, "not done");
                self.fail(refused)?;
            }
            self.output.flush()?;
        }
        Ok(())
    }

    fn answer(&mut self, reply: &Reply<'_>) -> io::Result<()> {
        write_frame(self.output, &reply.encode())
    }

    fn fail(&mut self, (kind, detail): Failure) -> io::Result<()> {
        self.answer(&Reply::Failed { kind, detail: &detail })
    }

    /// The first message and its answer; `None` when the client is turned away or says nothing at all.
    fn greet(&mut self) -> Result<Option<LocalStore>, ServeError> {
        let mut body = Vec::new();
        if !read_frame(self.input, &mut body)? {
            return Ok(None);
        }
        let opened = match Request::decode(&body)? {
            Request::Hello { version_min, version_max, create, path } => match version_min..=version_max {
                range if range.contains(&VERSION) => self.open(create, path),
                _ => Err((
                    StoreErrorKind::Invalid,
                    format!(
                        "SERVE-2: the client speaks versions {version_min} to {version_max} of the protocol, and the \
                         server speaks {VERSION}; use the same version of keepstone on both sides"
                    ),
                )),
            },
            _ => return Err(DecodeError::new("SERVE-2", "the first message must be a greeting").into()),
        };
        match opened {
            Ok(store) => {
                let (role, dataset) = (self.served.role, self.served.dataset.as_deref().unwrap_or_default());
                tracing::info!(role = role.name(), dataset, path = ?self.served.path, "serving");
                self.answer(&Reply::Welcome { version: VERSION, role, dataset })?;
                self.output.flush()?;
                Ok(Some(store))
            }
            Err(refused) => {
                tracing::warn!(kind = ?refused.0, detail = refused.1, "turned away");
                self.fail(refused)?;
                self.output.flush()?;
                Ok(None)
            }
        }
    }

    fn open(&self, create: bool, asked: &str) -> Result<LocalStore, Failure> {
        let path = &self.served.path;
        let resolved = match (asked.strip_prefix("~/"), &self.served.home) {
            (Some(below), Some(home)) => home.join(below.trim_start_matches('/')),
            _ => PathBuf::from(asked),
        };
        // Compared by components, so that a slash more or less doesn't matter.
        if !asked.is_empty() && resolved != *path {
            let detail = "this access serves another directory than the address names; leave the path out of the \
                          address, or correct it";
            return Err((StoreErrorKind::Invalid, detail.to_owned()));
        }
        match create && self.served.role == Role::Owner {
            true => LocalStore::create(path),
            false => LocalStore::open(path),
        }
        .map_err(failure)
    }

    fn permit(&self, act: Act, name: &str) -> Result<(), Failure> {
        access::permit(self.served.role, act, name).map_err(|detail| (StoreErrorKind::Denied, detail))
    }

    fn put(
        &mut self,
        store: &LocalStore,
        name: &str,
        heal: bool,
        length: u64,
        first: &[u8],
    ) -> Result<Result<(), Failure>, ServeError> {
        let whole = first.len() as u64 == length;
        let (form, mut sink) = match self.begin(store, name, heal, length) {
            Ok(begun) => begun,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut trailer = Trailer::new(form.digest);
        // A disk that fails half way must not stop the reading: the client is still sending.
        let mut taken = Ok(());
        let mut take = |piece: &[u8]| {
            trailer.update(piece);
            if taken.is_ok() {
                taken = match &mut sink {
                    Sink::Disk(incoming) => incoming.write(piece).map_err(failure),
                    Sink::Memory(bytes) => {
                        bytes.extend_from_slice(piece);
                        Ok(())
                    }
                };
            }
        };
        if whole {
            take(first);
        } else {
            self.answer(&Reply::Ready)?;
            self.output.flush()?;
            let mut left = length;
            let mut body = Vec::new();
            while left > 0 {
                if !read_frame(self.input, &mut body)? {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let piece = match Request::decode(&body)? {
                    Request::Piece(piece) if piece.len() as u64 <= left => piece,
                    _ => return Err(DecodeError::new("SERVE-2", "a put of other bytes than it said").into()),
                };
                take(piece);
                left -= piece.len() as u64;
            }
        }
        let outcome = taken.and_then(|()| self.end(store, name, heal, &form, trailer, sink));
        match outcome {
            Ok(put) => {
                tracing::info!(name, length, created = put == Put::Created, heal, "put");
                self.answer(&Reply::Done { created: put == Put::Created })?;
                Ok(Ok(()))
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Everything that can be refused before the bytes are sent.
    fn begin<'s>(
        &self,
        store: &'s LocalStore,
        name: &str,
        heal: bool,
        length: u64,
    ) -> Result<(Form, Sink<'s>), Failure> {
        // The store's own look at the name comes first: what follows relies on it.
        let there = store.size(name).map_err(failure)?;
        self.permit(if heal { Act::Heal } else { Act::Put }, name)?;
        let form = access::form(name).map_err(|detail| (StoreErrorKind::Invalid, detail))?;
        if length > form.bytes_max {
            let detail = format!("SERVE-5: {length} bytes, at most {} may be put under this name", form.bytes_max);
            return Err((StoreErrorKind::Denied, detail));
        }
        if form.digest && length < DIGEST_BYTES as u64 {
            return Err(no_digest());
        }
        if !heal && there.is_some_and(|there| there != length) {
            return Err((StoreErrorKind::AlreadyExists, "holds other bytes".to_owned()));
        }
        let judged = self.served.gate.is_some() && matches!(access::family(name), Family::Snapshot | Family::Commit);
        let sink = match judged {
            true => Sink::Memory(Vec::new()),
            false => Sink::Disk(store.receive(name).map_err(failure)?),
        };
        Ok((form, sink))
    }

    /// Gives what came its name, if it fits it.
    fn end(
        &self,
        store: &LocalStore,
        name: &str,
        heal: bool,
        form: &Form,
        trailer: Trailer,
        sink: Sink<'_>,
    ) -> Result<Put, Failure> {
        if form.digest {
            let digest = trailer.finish().ok_or_else(no_digest)?;
            if form.named.is_some_and(|named| named != digest) {
                let detail = format!("SERVE-5: the bytes' digest is {digest}, and the name says another");
                return Err((StoreErrorKind::Other, detail));
            }
        }
        let incoming = match sink {
            Sink::Disk(incoming) => incoming,
            Sink::Memory(bytes) => {
                if let Some(gate) = &self.served.gate {
                    gate.admit(name, &bytes)?;
                }
                let mut incoming = store.receive(name).map_err(failure)?;
                incoming.write(&bytes).map_err(failure)?;
                incoming
            }
        };
        match heal {
            true => incoming.replace().map(|()| Put::Created),
            false => incoming.create(),
        }
        .map_err(failure)
    }

    /// Sends the part of an object that `part` chooses, given its size.
    fn get(
        &mut self,
        store: &LocalStore,
        name: &str,
        part: impl Fn(u64) -> Result<(u64, u64), String>,
    ) -> Result<Result<(), Failure>, ServeError> {
        let opened = self.permit(Act::Get, name).and_then(|()| store.open_object(name).map_err(failure));
        let (file, size) = match opened {
            Ok(opened) => opened,
            Err(refused) => return Ok(Err(refused)),
        };
        let (mut offset, length) = match part(size) {
            Ok(part) => part,
            Err(detail) => return Ok(Err((StoreErrorKind::Range, detail))),
        };
        self.answer(&Reply::Bytes { length })?;
        let mut left = length;
        let mut buffer = vec![0u8; READ_BYTES.min(usize::try_from(length).unwrap_or(READ_BYTES))];
        while left > 0 {
            let piece = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            if let Err(error) = std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer[..piece], offset) {
                // The client waits for so many bytes, and takes a failure in their place.
                return Ok(Err((StoreErrorKind::Other, format!("reading: {error}"))));
            }
            self.answer(&Reply::Piece(&buffer[..piece]))?;
            offset += piece as u64;
            left -= piece as u64;
        }
        Ok(Ok(()))
    }

    fn list(&mut self, store: &LocalStore, prefix: &str) -> Result<Result<(), Failure>, ServeError> {
        let mut entries: Vec<Listed> = Vec::new();
        let (mut bytes, mut count) = (0usize, 0u64);
        let mut sent: io::Result<()> = Ok(());
        let listed = store.list(prefix, &mut |listed| {
            if sent.is_err() {
                return;
            }
            bytes += listed.name.len() + 10;
            count += 1;
            entries.push(listed);
            if bytes >= ENTRIES_BYTES {
                sent = self.answer(&Reply::Entries(std::mem::take(&mut entries)));
                bytes = 0;
            }
        });
        sent?;
        match listed {
            Err(error) => Ok(Err(failure(error))),
            Ok(()) => {
                if !entries.is_empty() {
                    self.answer(&Reply::Entries(entries))?;
                }
                self.answer(&Reply::End { count })?;
                Ok(Ok(()))
            }
        }
    }

    fn delete(&mut self, store: &LocalStore, name: &str) -> Result<Result<(), Failure>, ServeError> {
        let done = self.permit(Act::Delete, name).and_then(|()| store.delete(name).map_err(failure));
        if done.is_ok() {
            tracing::info!(name, "deleted");
            self.answer(&Reply::Done { created: false })?;
        }
        Ok(done)
    }
}

const _: () = assert!(ENTRIES_BYTES + 1024 < FRAME_BYTES_MAX);

/// The name that a request is about, for the log; any bytes that were decoded once are decoded again.
fn named(body: &[u8]) -> &str {
    match Request::decode(body) {
        Ok(
            Request::Put { name, .. }
            | Request::Get { name, .. }
            | Request::GetRange { name, .. }
            | Request::Size { name }
            | Request::Delete { name },
        ) => name,
        Ok(Request::List { prefix }) => prefix,
        _ => "",
    }
}

fn no_digest() -> Failure {
    (StoreErrorKind::Other, "SERVE-5: the bytes don't end in their own digest; they were damaged on the way".to_owned())
}

/// The digest of all bytes but the last 32, and those 32.
struct Trailer {
    hasher: Option<blake3::Hasher>,
    last: Vec<u8>,
}

impl Trailer {
    fn new(wanted: bool) -> Self {
        Trailer { hasher: wanted.then(blake3::Hasher::new), last: Vec::new() }
    }

    fn update(&mut self, piece: &[u8]) {
        let Some(hasher) = &mut self.hasher else { return };
        // All that came but its last 32 bytes surely isn't the digest.
        let before = (self.last.len() + piece.len()).saturating_sub(DIGEST_BYTES);
        let from_last = before.min(self.last.len());
        hasher.update(&self.last[..from_last]);
        self.last.drain(..from_last);
        let from_piece = before - from_last;
        hasher.update(&piece[..from_piece]);
        self.last.extend_from_slice(&piece[from_piece..]);
    }

    /// The digest, if the bytes end in it.
    fn finish(self) -> Option<Digest> {
        let actual = self.hasher?.finalize();
        (self.last == actual.as_bytes()).then(|| Digest(*actual.as_bytes()))
    }
}

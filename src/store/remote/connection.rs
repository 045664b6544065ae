//! One connection to a server: a process that carries bytes there and back, and one question at a time.
//!
//! Guarantees: whatever the other side sends, memory is bounded by a message; silence ends in an error;
//! what the process said on its standard error is in the error; a dropped connection takes its process
//! with it. Called by `client`.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::address::Address;
use super::message::{FrameError, Reply, Request, VERSION, read_frame, write_frame};
use crate::format::roster::Role;
use crate::store::StoreErrorKind;

/// How much of what the process said is kept, from its end.
const SAID_BYTES_MAX: usize = 2048;
/// How long an ended connection's process may take to end, and to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Pieces of that time.
const LOOKS: u32 = 40;

/// How an error begins that says that nothing came in time.
pub(super) const SILENT: &str = "the other side is silent";

/// What keeps a question from being answered.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server said no; the connection is as good as before.
    Refused(StoreErrorKind, String),
    /// The connection ended: whether it was done is unknown.
    Lost(String),
    /// The server broke the protocol.
    Broken(String),
    /// What was to be sent couldn't be read here.
    Unread(String),
}

/// Makes connections.
pub(super) trait Connect: Send + Sync {
    /// A connection whose handshake is done, and what the server said in it.
    ///
    /// # Errors
    /// Why there is none.
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)>;
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) role: Role,
    pub(super) dataset: Option<String>,
}

/// An open connection.
pub(super) struct Link {
    input: BufReader<UnixStream>,
    output: BufWriter<UnixStream>,
    process: Option<Process>,
    body: Vec<u8>,
}

impl Link {
    /// Takes one end of a pair of sockets.
    pub(super) fn over(stream: UnixStream, timeout: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let output = BufWriter::new(stream.try_clone()?);
        Ok(Link { input: BufReader::new(stream), output, process: None, body: Vec::new() })
    }

    /// The first exchange.
    pub(super) fn greet(&mut self, create: bool, path: &str) -> Result<Welcome, Fault> {
        let hello = Request::Hello { version_min: VERSION, version_max: VERSION, create, path };
        match self.ask(&hello)? {
            Reply::Welcome { version: VERSION, role, dataset } => {
                let dataset = Some(dataset.to_owned()).filter(|dataset| !dataset.is_empty());
                Ok(Welcome { role, dataset })
            }
            Reply::Welcome { version, .. } => {
                Err(Fault::Broken(format!("SERVE-2: it answered in version {version} of the protocol")))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and reads its answer; a refusal is an error.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> Result<Reply<'_>, Fault> {
        self.send(&request.encode())?;
        self.flush()?;
        self.hear()
    }

    /// Sends a message's body; not flushed.
    pub(super) fn send(&mut self, body: &[u8]) -> Result<(), Fault> {
        write_frame(&mut self.output, body).map_err(|error| self.unsent(error))
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        self.output.flush().map_err(|error| self.unsent(error))
    }

    // Whoever stopped listening may have said why.
    fn unsent(&mut self, error: io::Error) -> Fault {
        match self.hear() {
            Err(Fault::Refused(_, detail)) => Fault::Broken(detail),
            _ => lost(&error),
        }
    }

    /// Reads the next reply; a refusal is an error.
    pub(super) fn hear(&mut self) -> Result<Reply<'_>, Fault> {
        match read_frame(&mut self.input, &mut self.body) {
            Ok(true) => {}
            Ok(false) => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
            Err(FrameError::Io(error)) => return Err(lost(&error)),
            Err(error @ FrameError::Length { .. }) => return Err(Fault::Broken(error.to_string())),
        }
        match Reply::decode(&self.body) {
            Ok(Reply::Failed { kind, detail }) => Err(Fault::Refused(kind, detail.to_owned())),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Fault::Broken(error.to_string())),
        }
    }

    /// Ends the connection and says how its process ended and what it had said.
    pub(super) fn bury(mut self) -> (Option<ExitStatus>, String) {
        let _ = self.input.get_ref().shutdown(Shutdown::Both);
        self.process.as_mut().map_or((None, String::new()), Process::last_words)
    }
}

fn lost(error: &io::Error) -> Fault {
    Fault::Lost(match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "the connection ended".to_owned()
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SILENT.to_owned(),
        _ => format!("the connection failed: {error}"),
    })
}

/// The server's answer fits another question.
pub(super) fn unexpected(reply: &Reply<'_>) -> Fault {
    let what = match reply {
        Reply::Welcome { .. } => "a greeting",
        Reply::Failed { .. } => "a failure",
        Reply::Ready => "ready",
        Reply::Done { .. } => "done",
        Reply::Bytes { .. } => "a length",
        Reply::Piece(_) => "a piece",
        Reply::Size(_) => "a size",
        Reply::Entries(_) => "a part of a listing",
        Reply::End { .. } => "the end of a listing",
    };
    Fault::Broken(format!("SERVE-2: it answered with {what} out of its order"))
}

/// The running program.
struct Process {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    silent: Receiver<()>,
}

impl Process {
    /// How it ended and what it said, waiting a moment for both.
    fn last_words(&mut self) -> (Option<ExitStatus>, String) {
        let mut status = None;
        for _ in 0..LOOKS {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LAST_WORDS / LOOKS),
                Ok(Some(ended)) => {
                    status = Some(ended);
                    break;
                }
                Err(_) => break,
            }
        }
        // What it started may hold its standard error open for ever (a shared connection of ssh's does).
        let _ = self.silent.recv_timeout(LAST_WORDS / LOOKS * 4);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        (status, String::from_utf8_lossy(&said).trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Everything acknowledged is durable, and what wasn't leaves nothing there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what a process said, and the sign that it says no more.
type Said = (Arc<Mutex<Vec<u8>>>, Receiver<()>);

/// Keeps the end of what a process says, and logs each line.
fn listen(mut stderr: impl Read + Send + 'static, address: String) -> io::Result<Said> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (sender, silent) = channel();
    let keep = Arc::clone(&said);
    thread::Builder::new().name("remote-errors".into()).spawn(move || {
        let mut buffer = [0u8; 1024];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            tracing::info!(address, text = ?String::from_utf8_lossy(&buffer[..read]), "the other side says");
            let mut said = keep.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(&buffer[..read]);
            let surplus = said.len().saturating_sub(SAID_BYTES_MAX);
            said.drain(..surplus);
        }
        // Fails when nobody waits for it any more.
        let _ = sender.send(());
    })?;
    Ok((said, silent))
}

impl Connect for Address {
    fn connect(&self, create: bool) -> Result<(Link, Welcome), (StoreErrorKind, String)> {
        let mut link = self.start().map_err(|error| {
            let program = self.command.first().map_or("", String::as_str);
            let kind = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => StoreErrorKind::Invalid,
                _ => StoreErrorKind::Unavailable,
            };
            (kind, format!("starting {program}: {error}"))
        })?;
        match link.greet(create, &self.path) {
            Ok(welcome) => Ok((link, welcome)),
            Err(Fault::Refused(kind, detail)) => Err((kind, detail)),
            Err(Fault::Broken(detail) | Fault::Unread(detail)) => {
                let (_, said) = link.bury();
                let hint = "the other side doesn't answer as `keepstone serve` does: does a start-up file of its shell \
                            print something, or is another command forced for this key?";
                Err((StoreErrorKind::Invalid, explained(&format!("{detail}; {hint}"), &said)))
            }
            Err(Fault::Lost(detail)) => {
                let (status, said) = link.bury();
                let unknown = ["Host key verification failed", "REMOTE HOST IDENTIFICATION"];
                let (kind, hint) = match status.and_then(|status| status.code()) {
                    Some(255) if unknown.iter().any(|sign| said.contains(sign)) => (
                        StoreErrorKind::Denied,
                        "; ssh doesn't know the other side's host key, or knows another one: compare it with the one \
                         there, then log in once by hand",
                    ),
                    Some(255) if said.contains("Permission denied") => (StoreErrorKind::Denied, "; ssh was not let in"),
                    Some(126 | 127) => (
                        StoreErrorKind::Invalid,
                        "; keepstone is not found there: install it, or name its path with the option remote_program",
                    ),
                    Some(2) => (StoreErrorKind::Invalid, ""),
                    _ => (StoreErrorKind::Unavailable, ""),
                };
                Err((kind, explained(&format!("{detail}{}{hint}", ended(status)), &said)))
            }
        }
    }
}

/// How a process ended, as a part of a sentence.
pub(super) fn ended(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => format!(" ({status})"),
        None => String::new(),
    }
}

/// With what the process had said.
pub(super) fn explained(what: &str, said: &str) -> String {
    match said.is_empty() {
        true => what.to_owned(),
        false => format!("{what}; it said: {said}"),
    }
}

impl Address {
    fn start(&self) -> io::Result<Link> {
        // A pair of sockets, since reads from a pipe can't be given a time limit.
        let (ours, theirs) = UnixStream::pair()?;
        let mut link = Link::over(ours, self.timeout)?;
        let (program, arguments) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        let (_, silent) = channel();
        let mut process = Process { child, said: Arc::default(), silent };
        if let Some(stderr) = stderr {
            (process.said, process.silent) = listen(stderr, self.text.clone())?;
        }
        link.process = Some(process);
        Ok(link)
    }
}

//! A stream as a source: standard input, or what a command writes.
//!
//! Guarantees: a command that fails is an error once its output was read, so that half a dump is never taken for a
//! whole one; a stream that is dropped early takes its command with it. Only the command's name is told, since its
//! arguments may hold secrets. Called by the backup and by the command line.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process};

use super::metadata::Owners;
use crate::format::node::{Content, Node, NodeKind, Timestamp};
use crate::limits::NAME_BYTES_MAX;
use crate::report::Monitor;

/// How often a silent stream looks whether the user asked to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a command that was asked to end may take for it.
const END_WITHIN: Duration = Duration::from_secs(1);
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that were read and are not wanted yet.
const PIECES_WAITING: usize = 4;

/// A stream that can't be captured.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No command was given.
    #[error("no command was given")]
    NoCommand,
    /// The command could not be started, or its end not be waited for.
    #[error("command {command}: {doing}: {error}")]
    Command {
        /// Its name, without arguments.
        command: String,
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The command said that it failed.
    #[error("command {command} failed with exit status {status}")]
    Exited {
        /// Its name, without arguments.
        command: String,
        /// What it exited with.
        status: i32,
    },
    /// The command was killed.
    #[error("command {command} was ended by signal {signal}")]
    Killed {
        /// Its name, without arguments.
        command: String,
        /// The signal's number.
        signal: i32,
    },
    /// The user stopped the run before the command had ended.
    #[error("command {command} was stopped")]
    Stopped {
        /// Its name, without arguments.
        command: String,
    },
    /// Standard input can't be used.
    #[error("standard input: {error}")]
    Stdin {
        /// What the system said.
        error: io::Error,
    },
    /// A stream is stored under a name that no entry may have.
    #[error("{name:?} can't be a stream's name: 1 to {NAME_BYTES_MAX} bytes without `/` and NUL, not `.` or `..`")]
    Name {
        /// The name.
        name: String,
    },
}

/// Standard input, unbuffered.
///
/// # Errors
/// When it is closed.
pub fn stdin_stream() -> Result<File, StreamError> {
    let fd = io::stdin().as_fd().try_clone_to_owned().map_err(|error| StreamError::Stdin { error })?;
    Ok(File::from(fd))
}

/// A running command whose standard output is the content. Its standard input is empty; its standard error is the
/// caller's.
#[derive(Debug)]
pub struct CommandStream {
    command: String,
    /// `None` once waited for.
    child: Option<Child>,
    output: Option<ChildStdout>,
}

impl CommandStream {
    /// Starts `argv`: the program, then its arguments; no shell in between.
    ///
    /// # Errors
    /// When there is no program or it can't be started.
    pub fn spawn(argv: &[OsString]) -> Result<CommandStream, StreamError> {
        let (program, arguments) = argv.split_first().ok_or(StreamError::NoCommand)?;
        let command = program.to_string_lossy().into_owned();
        let mut started = Command::new(program)
            .args(arguments)
            // What opens the repository is none of the command's business.
            .env_remove("KEEPSTONE_PASSPHRASE")
            .env_remove("KEEPSTONE_NEW_PASSPHRASE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| StreamError::Command { command: command.clone(), doing: "starting it", error })?;
        let output = started.stdout.take();
        Ok(CommandStream { command, child: Some(started), output })
    }

    /// Its output, to be read elsewhere; `None` once taken.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.output.take()
    }

    /// Waits for the command's end, after its output was read to the end.
    ///
    /// # Errors
    /// When it failed, or the user stops the run, which ends it. What was read is then not to be kept as the
    /// command's whole output.
    pub fn finish(mut self, monitor: &dyn Monitor) -> Result<(), StreamError> {
        // Had it more to write, it must fail rather than wait for a reader for ever.
        self.output = None;
        let command = self.command.clone();
        let Some(child) = &mut self.child else { return Ok(()) };
        let ended = loop {
            match wait_for(child, LOOK_EVERY) {
                // Dropped on the way out, it is ended.
                Ok(None) if monitor.cancelled() => return Err(StreamError::Stopped { command }),
                Ok(None) => {}
                Ok(Some(status)) => break Ok(status),
                Err(error) => break Err(error),
            }
        };
        self.child = None;
        match ended {
            Err(error) => Err(StreamError::Command { command, doing: "waiting for its end", error }),
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(match (status.code(), status.signal()) {
                (Some(status), _) => StreamError::Exited { command, status },
                (None, signal) => StreamError::Killed { command, signal: signal.unwrap_or_default() },
            }),
        }
    }
}

impl Read for CommandStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.as_mut().map_or(Ok(0), |output| output.read(buffer))
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        // Nobody reads it any more, should it write on.
        self.output = None;
        if let Some(mut child) = self.child.take() {
            // Asked first, so that it can end what it started itself. It may have ended by itself; what is left to
            // do is not to leave it behind.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            if !matches!(wait_for(&mut child, END_WITHIN), Ok(Some(_))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// How a child ended, if it does within so much time.
fn wait_for(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let (mut waited, mut pause) = (Duration::ZERO, Duration::from_millis(1));
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || waited >= within {
            return Ok(ended);
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A stream that is read on a thread of its own, so that one in which nothing comes ends all the same once the user
/// asks to stop.
pub struct Interruptible<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    /// Bytes of the piece that were handed on.
    at: usize,
    monitor: &'a dyn Monitor,
}

impl<'a> Interruptible<'a> {
    /// Begins to read. The thread ends with the stream, or with the first piece that nobody wants any more.
    pub fn new(mut stream: impl Read + Send + 'static, monitor: &'a dyn Monitor) -> Self {
        let (sender, pieces) = bounded(PIECES_WAITING);
        let refused = sender.clone();
        let reading = std::thread::Builder::new().name("stream".into()).spawn(move || {
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let read = match stream.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let more = matches!(read, Ok(1..));
                let piece = read.map(|length| {
                    piece.truncate(length);
                    piece
                });
                if sender.send(piece).is_err() || !more {
                    return;
                }
            }
        });
        if let Err(error) = reading {
            // There is room for it, and whoever reads gets it.
            let _ = refused.send(Err(io::Error::new(error.kind(), format!("no thread can be begun for it: {error}"))));
        }
        Interruptible { pieces, piece: Vec::new(), at: 0, monitor }
    }
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.monitor.cancelled() {
                return Err(io::Error::other("stopped"));
            }
            match self.pieces.recv_timeout(LOOK_EVERY) {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                Err(RecvTimeoutError::Timeout) => continue,
                // The end, or an error, was told before: after it nothing comes.
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
            if self.piece.is_empty() {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..][..length]);
        self.at += length;
        Ok(length)
    }
}

/// The node of a stream: a file of the process's user that only it may read. Its size and content are the backup's to fill in.
///
/// # Errors
/// When `name` can't be an entry's name.
pub fn stream_node(name: &OsStr, modified_at: Timestamp) -> Result<Node, StreamError> {
    let bytes = name.as_encoded_bytes();
    let usable = (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
        && !matches!(bytes, b"." | b"..");
    if !usable {
        return Err(StreamError::Name { name: name.to_string_lossy().into_owned() });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut owners = Owners::default();
    Ok(Node {
        name: bytes.to_vec(),
        kind: NodeKind::File { size: 0, content: Content::Inline(Vec::new()), inconsistent: false },
        mode: 0o600,
        uid,
        gid,
        user: owners.user(uid),
        group: owners.group(gid),
        modified_at,
        xattrs: Vec::new(),
        link_group: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    fn shell(script: &str) -> CommandStream {
        CommandStream::spawn(&["sh".into(), "-c".into(), script.into()]).unwrap()
    }

    #[test]
    fn output_is_read_whole_and_success_told() {
        let mut stream = shell("printf 'some '; sleep 0.05; printf bytes");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "some bytes");
        stream.finish(&Silent).unwrap();
    }

    #[test]
    fn failure_names_the_command_and_not_its_arguments() {
        let mut stream = shell("echo half; exit 3 # secret");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "half\n");
        let error = stream.finish(&Silent).unwrap_err();
        assert!(matches!(error, StreamError::Exited { status: 3, .. }));
        assert_eq!(error.to_string(), "command sh failed with exit status 3");

        let mut stream = shell("kill -9 $$");
        assert_eq!(stream.read_to_string(&mut String::new()).unwrap(), 0);
        assert!(matches!(stream.finish(&Silent).unwrap_err(), StreamError::Killed { signal: 9, .. }));

        let absent = CommandStream::spawn(&["/nonexistent/program".into(), "secret".into()]).unwrap_err();
        assert!(absent.to_string().contains("/nonexistent/program") && !absent.to_string().contains("secret"));
        assert!(matches!(CommandStream::spawn(&[]), Err(StreamError::NoCommand)));
    }

    #[test]
    fn a_stream_cut_short_is_a_failure_and_a_dropped_one_ends_its_command() {
        let mut stream = shell("exec yes");
        stream.read_exact(&mut [0u8; 4096]).unwrap();
        assert!(stream.finish(&Silent).is_err());

        let stream = shell("exec sleep 1000");
        let pid = stream.child.as_ref().unwrap().id();
        drop(stream);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Asks to stop from the first look on.
    struct Stop;

    impl Monitor for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_silent_stream_ends_when_the_user_asks_and_takes_its_command_with_it() {
        let mut command = shell("exec sleep 1000");
        let pid = command.child.as_ref().unwrap().id();
        let mut output = Interruptible::new(command.take_output().unwrap(), &Stop);
        assert!(output.read(&mut [0]).is_err());
        // Nor is its end waited for, though it has closed its output.
        assert!(matches!(command.finish(&Stop), Err(StreamError::Stopped { .. })));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

        // One that doesn't heed the request is ended all the same.
        let mut stubborn = shell("trap '' TERM; echo ready; while :; do sleep 0.1; done");
        stubborn.read_exact(&mut [0; 6]).unwrap();
        let pid = stubborn.child.as_ref().unwrap().id();
        drop(stubborn);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_interruptible_stream_gives_the_same_bytes_and_the_same_error() {
        let mut text = String::new();
        Interruptible::new(shell("seq 1 50000"), &Silent).read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 50000);
        struct Breaks(bool);
        impl Read for Breaks {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("broken"));
                }
                buffer[..2].copy_from_slice(b"ok");
                Ok(2)
            }
        }
        let mut stream = Interruptible::new(Breaks(false), &Silent);
        let mut read = Vec::new();
        assert_eq!(stream.read_to_end(&mut read).unwrap_err().to_string(), "broken");
        assert_eq!(read, b"ok");
    }

    #[test]
    fn a_streams_node_is_private_and_properly_named() {
        let at = Timestamp { seconds: -5, nanoseconds: 7 };
        let node = stream_node(OsStr::new("dump.sql"), at).unwrap();
        assert_eq!((node.mode, node.modified_at), (0o600, at));
        assert_eq!(node.uid, rustix::process::geteuid().as_raw());
        for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(stream_node(OsStr::new(name), at).is_err(), "{name:?}");
        }
    }
}

//! How a run ends: the closed set of exit classes, their codes, and the error that a person or a
//! script reads.
//!
//! | code | class | meaning |
//! | --- | --- | --- |
//! | 0 | success | done, and for a backup: committed in every configured region |
//! | 1 | failed | anything not named below; a backup that ends so saved no snapshot |
//! | 2 | usage | the command line, an environment variable or the configuration file is wrong |
//! | 3 | pending | the snapshot is saved, but not committed in every configured region yet |
//! | 4 | partial | done, but some entries were not captured, restored or found sound; the report lists them |
//! | 10 | access | wrong passphrase, identity or pin; the slot's role, or the store, denies it |
//! | 11 | corrupt | a stored object is damaged or not what it claims to be |
//! | 12 | missing | a region, snapshot, path or file that was named is not there |
//! | 13 | busy | another process holds what this one needs, or others decided over the same snapshot at the same time |
//! | 14 | storage | a region is full or can't be reached |
//! | 15 | limit | a documented limit is exceeded |
//! | 130 | cancelled | stopped by a signal |
//!
//! A run that is both partial and pending ends as partial: what is pending heals with the next run,
//! what was not captured needs a person.
//!
//! Guarantees: codes and names never change their meaning; text that came from outside is escaped
//! before it reaches a terminal. Called by everything in `cli`.

use std::fmt;
use std::io;

use serde_json::{Value, json};

use super::render;
use crate::store::{StoreError, StoreErrorKind};

/// The class of a run's end; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Done.
    Success,
    /// Anything that has no class of its own.
    Failed,
    /// Wrong arguments, environment or configuration.
    Usage,
    /// Saved, but not committed in every region.
    Pending,
    /// Done, with item-level failures.
    Partial,
    /// Credentials, pin or permissions.
    Access,
    /// Damaged stored bytes.
    Corrupt,
    /// Something that was named is absent.
    Missing,
    /// Held by another process.
    Busy,
    /// Full or unavailable.
    Storage,
    /// Over a documented limit.
    Limit,
    /// Stopped by a signal.
    Cancelled,
}

impl Class {
    /// Every class, in the order of the table.
    pub const ALL: [Class; 12] = [
        Class::Success,
        Class::Failed,
        Class::Usage,
        Class::Pending,
        Class::Partial,
        Class::Access,
        Class::Corrupt,
        Class::Missing,
        Class::Busy,
        Class::Storage,
        Class::Limit,
        Class::Cancelled,
    ];

    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Class::Success => 0,
            Class::Failed => 1,
            Class::Usage => 2,
            Class::Pending => 3,
            Class::Partial => 4,
            Class::Access => 10,
            Class::Corrupt => 11,
            Class::Missing => 12,
            Class::Busy => 13,
            Class::Storage => 14,
            Class::Limit => 15,
            Class::Cancelled => 130,
        }
    }

    /// The stable name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Failed => "failed",
            Class::Usage => "usage",
            Class::Pending => "pending",
            Class::Partial => "partial",
            Class::Access => "access",
            Class::Corrupt => "corrupt",
            Class::Missing => "missing",
            Class::Busy => "busy",
            Class::Storage => "storage",
            Class::Limit => "limit",
            Class::Cancelled => "cancelled",
        }
    }

    /// Of two outcomes of one finished run, the one to report: partial over pending over success.
    /// Any other class stands over these three, and the first of two such ones stays.
    pub fn worse(self, other: Class) -> Class {
        let rank = |class: Class| match class {
            Class::Success => 0,
            Class::Pending => 1,
            Class::Partial => 2,
            _ => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }

    /// How a run of this class ends whose result was printed last. That the reader of the result had
    /// enough of it changes nothing about what the run came to.
    ///
    /// # Errors
    /// When it could not be printed for another reason; the run's class stands, unless it is success.
    pub fn printed(self, result: Result<(), CliError>) -> Result<Class, CliError> {
        match result {
            Err(error) if !error.silent => {
                let class = if self == Class::Success { error.class } else { self };
                Err(CliError { class, ..error })
            }
            _ => Ok(self),
        }
    }
}

/// The exit codes as text, for the end of the help.
pub const HELP: &str = "\
Exit codes:
    0  success      done; a backup is committed in every configured region
    1  failed       anything not named below; a backup saved no snapshot
    2  usage        wrong arguments, environment or configuration
    3  pending      saved, but not committed in every configured region yet
    4  partial      done, but some entries were not captured, restored or found sound
   10  access       wrong passphrase, identity or pin; the slot's role, or the store, denies it
   11  corrupt      stored bytes are damaged
   12  missing      a region, snapshot, path or file that was named is not there
   13  busy         another process holds what this one needs, or decided over the same snapshot
   14  storage      a region is full or can't be reached
   15  limit        a documented limit is exceeded
  130  cancelled    stopped by a signal";

/// An error as the user meets it: its class, what happened, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// Decides the exit code.
    pub class: Class,
    /// What happened, naming the object, path or value.
    pub message: String,
    /// What to do next, where there is something to do.
    pub hint: Option<String>,
    /// Whoever read the standard output has gone: there is nobody to tell.
    silent: bool,
}

impl CliError {
    /// An error without a hint.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        CliError { class, message: message.into(), hint: None, silent: false }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same about one region.
    pub fn in_region(mut self, region: &str) -> Self {
        self.message = format!("region '{region}': {}", self.message);
        self
    }

    /// A wrong argument, variable or configuration value.
    pub fn usage(message: impl Into<String>) -> Self {
        CliError::new(Class::Usage, message)
    }

    /// The run was stopped by a signal.
    pub fn cancelled() -> Self {
        CliError::new(Class::Cancelled, "stopped before the end")
    }

    /// A failed write to the standard output. When the reader closed the pipe (`keepstone ls | head`)
    /// the run ends quietly and successfully: the reader had enough.
    pub fn output(error: &io::Error) -> Self {
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        CliError {
            class: if closed { Class::Success } else { Class::Failed },
            message: format!("can't write to the standard output: {error}"),
            hint: None,
            silent: closed,
        }
    }

    /// A failed operation on a local file: `verb` as in "can't read", and the file's name.
    pub fn file(verb: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let class = match error.kind() {
            io::ErrorKind::NotFound => Class::Missing,
            io::ErrorKind::PermissionDenied => Class::Access,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Class::Storage,
            _ => Class::Failed,
        };
        CliError::new(class, format!("can't {verb} {}: {error}", render::path(path)))
    }

    /// True when there is nobody to tell.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// `{"error":{"class":…,"code":…,"message":…,"hint":…}}`; `hint` is null where there is none.
    pub fn to_json(&self) -> Value {
        json!({ "error": {
            "class": self.class.name(),
            "code": self.class.code(),
            "message": self.message,
            "hint": self.hint,
        }})
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keepstone: {}", render::printable(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", render::printable(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let (class, hint) = match error.kind {
            StoreErrorKind::NotFound => (
                Class::Missing,
                "check the region's address; if it is right, `keepstone check` tells what else the region lacks",
            ),
            StoreErrorKind::AlreadyExists => {
                (Class::Corrupt, "the region holds other bytes under this name; run `keepstone check`")
            }
            StoreErrorKind::Denied => {
                (Class::Access, "check the region's credentials, or the owner and mode of its directory")
            }
            StoreErrorKind::Full => (
                Class::Storage,
                "make room in the region, raise its quota or mount it for writing, and run this again; --region with the \
                 other regions' names leaves it out meanwhile",
            ),
            StoreErrorKind::Unavailable => {
                (Class::Storage, "check that the region can be reached, and run this again: nothing stored is lost")
            }
            StoreErrorKind::Range => {
                (Class::Corrupt, "the object's size isn't what the repository states; run `keepstone check`")
            }
            StoreErrorKind::Invalid => (Class::Usage, "correct the region's address or options in keepstone.toml"),
            StoreErrorKind::Other => return CliError::new(Class::Storage, error.to_string()),
        };
        CliError::new(class, error.to_string()).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, CliError, HELP};
    use crate::store::{StoreError, StoreErrorKind};
    use std::io;

    #[test]
    fn codes_and_names_are_distinct_and_in_the_help() {
        let lines: Vec<&str> = HELP.lines().skip(1).collect();
        assert_eq!(lines.len(), Class::ALL.len());
        for (class, line) in Class::ALL.into_iter().zip(lines) {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some(class.code().to_string().as_str()));
            assert_eq!(words.next(), Some(class.name()));
        }
    }

    #[test]
    fn partial_stands_over_pending() {
        assert_eq!(Class::Success.worse(Class::Pending), Class::Pending);
        assert_eq!(Class::Pending.worse(Class::Partial), Class::Partial);
        assert_eq!(Class::Partial.worse(Class::Pending), Class::Partial);
        assert_eq!(Class::Partial.worse(Class::Corrupt), Class::Corrupt);
        assert_eq!(Class::Corrupt.worse(Class::Storage), Class::Corrupt);
    }

    #[test]
    fn text_names_program_and_hint_and_carries_no_terminal_escapes() {
        let error = CliError::new(Class::Missing, "no \x1b[31mred\u{202e}").hint("look again");
        assert_eq!(error.to_string(), "keepstone: no \\x1b[31mred\\u{202e}\nhint: look again");
    }

    #[test]
    fn json_has_the_documented_form() {
        let error = CliError::new(Class::Access, "wrong passphrase");
        assert_eq!(
            error.to_json().to_string(),
            r#"{"error":{"class":"access","code":10,"hint":null,"message":"wrong passphrase"}}"#
        );
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        let closed = CliError::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(closed.is_silent());
        assert_eq!(closed.class, Class::Success);
        let full = CliError::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert!(!full.is_silent());
        assert_eq!(full.class, Class::Failed);
    }

    #[test]
    fn what_a_run_came_to_outlasts_its_reader() {
        let output = |kind| Err(CliError::output(&io::Error::from(kind)));
        for class in Class::ALL {
            assert_eq!(class.printed(Ok(())), Ok(class));
            assert_eq!(class.printed(output(io::ErrorKind::BrokenPipe)), Ok(class));
            let unprinted = class.printed(output(io::ErrorKind::StorageFull)).unwrap_err().class;
            assert_eq!(unprinted, if class == Class::Success { Class::Failed } else { class });
        }
    }

    #[test]
    fn store_errors_keep_their_meaning() {
        let class = |kind| {
            CliError::from(StoreError {
                kind,
                operation: "get",
                store: "/r".into(),
                name: "config".into(),
                detail: "why".into(),
            })
            .class
        };
        assert_eq!(class(StoreErrorKind::NotFound), Class::Missing);
        assert_eq!(class(StoreErrorKind::Denied), Class::Access);
        assert_eq!(class(StoreErrorKind::Full), Class::Storage);
        assert_eq!(class(StoreErrorKind::Unavailable), Class::Storage);
        assert_eq!(class(StoreErrorKind::Range), Class::Corrupt);
        assert_eq!(class(StoreErrorKind::Invalid), Class::Usage);
    }
}

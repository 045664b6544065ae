//! Passphrases: where they come from, and how they are kept out of sight.
//!
//! Guarantees: a passphrase is never an argument, is wiped from memory when dropped, and is never
//! printed. Without a terminal nothing waits for input: the error says how to give it instead.
//! Called by the commands that open a repository or change keys.
//!
//! Precedence: `--passphrase-file` or `--passphrase-command`; `KEEPSTONE_PASSPHRASE`;
//! `KEEPSTONE_PASSPHRASE_FILE`; `KEEPSTONE_PASSPHRASE_COMMAND`; the configuration file; a prompt.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use zeroize::Zeroizing;

use super::exit::{Class, CliError};
use super::render;

/// Bytes that a passphrase has at most; more is a mistake, such as naming a data file.
pub const PASSPHRASE_BYTES_MAX: usize = 16 << 10;
/// A new passphrase with fewer characters gets a warning.
const PASSPHRASE_CHARS_ADVISED: usize = 12;

/// The environment variable with the passphrase.
pub const VARIABLE: &str = "KEEPSTONE_PASSPHRASE";
/// The environment variable with the passphrase that `init`, `key add` and `key passwd` set.
pub const VARIABLE_NEW: &str = "KEEPSTONE_NEW_PASSPHRASE";

/// A passphrase, wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The passphrase itself; give it to the key derivation and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Passphrase {
    fn from(text: String) -> Self {
        Passphrase(Zeroizing::new(text))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// Where a passphrase comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An environment variable had it.
    Variable {
        /// The variable's name.
        name: &'static str,
        /// What it held.
        passphrase: Passphrase,
    },
    /// A file holds it.
    File(PathBuf),
    /// The first line that a command prints, run by `sh -c`.
    Command(String),
    /// The person at the terminal knows it.
    Prompt,
}

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file could not be read.
    #[error("can't read the passphrase file {path}: {error}")]
    File {
        /// The file, escaped.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The command could not be run.
    #[error("can't run the passphrase command '{command}': {error}")]
    Spawn {
        /// The command.
        command: String,
        /// Why.
        error: io::Error,
    },
    /// The command failed.
    #[error("the passphrase command '{command}' failed: {status}")]
    Status {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The source held no passphrase.
    #[error("{source_name} is empty")]
    Empty {
        /// Which source.
        source_name: String,
    },
    /// The source held something else.
    #[error("{source_name} holds no passphrase: {reason}")]
    Unusable {
        /// Which source.
        source_name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody can be asked.
    #[error("a passphrase is needed, and there is no terminal to ask at")]
    NoTerminal {
        /// The variable that would have been used.
        variable: &'static str,
    },
    /// The prompt failed.
    #[error("can't read the passphrase from the terminal: {0}")]
    Terminal(io::Error),
    /// Ctrl-C at the prompt.
    #[error("stopped at the passphrase prompt")]
    Cancelled,
    /// The confirmation was another one.
    #[error("the two passphrases differ; nothing was changed")]
    Mismatch,
}

impl From<SecretError> for CliError {
    fn from(error: SecretError) -> Self {
        let message = error.to_string();
        match error {
            SecretError::File { error, .. } => CliError::new(
                if error.kind() == io::ErrorKind::NotFound { Class::Missing } else { Class::Access },
                message,
            ),
            SecretError::NoTerminal { variable: VARIABLE } => CliError::new(Class::Access, message)
                .hint("set KEEPSTONE_PASSPHRASE, or use --passphrase-file, --passphrase-command or --identity"),
            SecretError::NoTerminal { variable } => {
                CliError::new(Class::Access, message).hint(format!("set {variable}, or run this at a terminal"))
            }
            SecretError::Cancelled => CliError::new(Class::Cancelled, message),
            SecretError::Mismatch => CliError::usage(message).hint("run it again"),
            SecretError::Spawn { .. } | SecretError::Status { .. } => CliError::new(Class::Access, message)
                .hint("run the command by hand; its first line of output must be the passphrase"),
            SecretError::Empty { .. } | SecretError::Unusable { .. } => {
                CliError::usage(message).hint("it must hold the passphrase as UTF-8 text on one line")
            }
            SecretError::Terminal(_) => CliError::new(Class::Access, message),
        }
    }
}

/// Asks the person at the terminal; a trait so that tests can answer.
pub trait Ask {
    /// Shows `prompt` and reads one line without echo.
    ///
    /// # Errors
    /// `NotFound` or another kind when there is no terminal, `Interrupted` on Ctrl-C.
    fn ask(&mut self, prompt: &str) -> io::Result<Zeroizing<String>>;
}

/// The controlling terminal, even when the standard streams are redirected.
pub struct Terminal;

impl Ask for Terminal {
    fn ask(&mut self, prompt: &str) -> io::Result<Zeroizing<String>> {
        rpassword::prompt_password(prompt).map(Zeroizing::new)
    }
}

/// What obtains passphrases: a terminal, and where warnings go.
pub struct Passphrases<'a> {
    /// Asked when the source is [`Source::Prompt`].
    pub ask: &'a mut dyn Ask,
    /// Told what a person should know, such as a file that others can read.
    pub warn: &'a mut dyn FnMut(&str),
}

impl Passphrases<'_> {
    /// The passphrase that opens an existing slot.
    ///
    /// # Errors
    /// When the source fails or is empty, or nobody can be asked.
    pub fn existing(&mut self, source: &Source) -> Result<Passphrase, SecretError> {
        match source {
            Source::Variable { passphrase, .. } => Ok(passphrase.clone()),
            Source::File(path) => self.read_file(path),
            Source::Command(command) => run_command(command),
            Source::Prompt => {
                let passphrase = self.prompt("Passphrase: ", VARIABLE)?;
                non_empty(passphrase, || "the passphrase".into())
            }
        }
    }

    /// The passphrase of a slot that is made or changed; prompts ask twice.
    ///
    /// # Errors
    /// As [`Passphrases::existing`], and when the confirmation differs.
    pub fn fresh(&mut self, source: &Source, variable: &'static str) -> Result<Passphrase, SecretError> {
        let passphrase = match source {
            Source::Prompt => {
                let first = non_empty(self.prompt("New passphrase: ", variable)?, || "the passphrase".into())?;
                if self.prompt("The same again: ", variable)? != first {
                    return Err(SecretError::Mismatch);
                }
                first
            }
            given => self.existing(given)?,
        };
        if passphrase.expose().chars().count() < PASSPHRASE_CHARS_ADVISED {
            (self.warn)(
                "this passphrase is short: whoever gets at the storage can try many of them; several random words are better",
            );
        }
        Ok(passphrase)
    }

    fn prompt(&mut self, text: &str, variable: &'static str) -> Result<Passphrase, SecretError> {
        match self.ask.ask(text) {
            Ok(answer) => Ok(Passphrase(answer)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(SecretError::Cancelled),
            // ENXIO: no controlling terminal; it has no kind of its own.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SecretError::NoTerminal { variable }),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Err(SecretError::NoTerminal { variable })
            }
            Err(error) => Err(SecretError::Terminal(error)),
        }
    }

    fn read_file(&mut self, path: &Path) -> Result<Passphrase, SecretError> {
        let failed = |error| SecretError::File { path: render::path(path).into_owned(), error };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && metadata.mode() & 0o004 != 0 {
            (self.warn)(&format!("every user of this machine can read the passphrase file {}", render::path(path)));
        }
        let name = || format!("the passphrase file {}", render::path(path));
        let bytes = read_bounded(file, &name).map_err(|error| error.unwrap_or_else(failed))?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        text(line.strip_suffix(b"\r").unwrap_or(line), name)
    }
}

/// Identity files of at most this many bytes are read: one holds a few keys of a line each.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// Reads an identity file.
///
/// # Errors
/// When it can't be read, isn't text, or is larger than such a file is.
pub fn read_identities(path: &Path) -> Result<Zeroizing<String>, CliError> {
    let failed = |error: &io::Error| CliError::file("read", path, error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    // With room for all, so that no copy is left behind where it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(IDENTITY_BYTES_MAX as usize + 1));
    file.take(IDENTITY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    let unusable = |why: &str| {
        CliError::usage(format!("{} is no identity file: it {why}", render::path(path)))
            .hint("name a file as `age-keygen` makes it")
    };
    if bytes.len() as u64 > IDENTITY_BYTES_MAX {
        return Err(unusable("is longer than 64 KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("isn't text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Why a bounded read failed: the input itself, or reading it.
enum ReadError {
    Unusable(SecretError),
    Io(io::Error),
}

impl ReadError {
    fn unwrap_or_else(self, failed: impl FnOnce(io::Error) -> SecretError) -> SecretError {
        match self {
            ReadError::Unusable(error) => error,
            ReadError::Io(error) => failed(error),
        }
    }
}

/// Reads all of `reader` into one buffer that never moves, so that no copy is left behind.
fn read_bounded(mut reader: impl Read, name: &dyn Fn() -> String) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let mut buffer = Zeroizing::new(vec![0u8; PASSPHRASE_BYTES_MAX + 1]);
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
    let reason = "it is longer than 16 KiB";
    Err(ReadError::Unusable(SecretError::Unusable { source_name: name(), reason }))
}

fn run_command(command: &str) -> Result<Passphrase, SecretError> {
    let spawn = |error| SecretError::Spawn { command: command.to_owned(), error };
    let mut child = Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(spawn)?;
    let name = || format!("the output of the passphrase command '{command}'");
    let output = match child.stdout.take() {
        Some(stdout) => read_bounded(stdout, &name),
        None => Err(ReadError::Io(io::ErrorKind::BrokenPipe.into())),
    };
    // The pipe is closed by now, so a command that goes on printing ends.
    let status = child.wait().map_err(spawn)?;
    let output = output.map_err(|error| error.unwrap_or_else(spawn))?;
    if !status.success() {
        return Err(SecretError::Status { command: command.to_owned(), status });
    }
    let line = output.split(|byte| *byte == b'\n').next().unwrap_or_default();
    text(line.strip_suffix(b"\r").unwrap_or(line), name)
}

fn text(bytes: &[u8], source_name: impl Fn() -> String) -> Result<Passphrase, SecretError> {
    let unusable = |reason| SecretError::Unusable { source_name: source_name(), reason };
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("it is not UTF-8"))?;
    if text.contains(['\n', '\0']) {
        return Err(unusable("it has several lines, or a NUL"));
    }
    non_empty(Passphrase(Zeroizing::new(text.to_owned())), source_name)
}

fn non_empty(passphrase: Passphrase, source_name: impl Fn() -> String) -> Result<Passphrase, SecretError> {
    if passphrase.expose().is_empty() {
        return Err(SecretError::Empty { source_name: source_name() });
    }
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use super::{Ask, PASSPHRASE_BYTES_MAX, Passphrase, Passphrases, SecretError, Source, VARIABLE, VARIABLE_NEW};
    use crate::cli::exit::{Class, CliError};
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use zeroize::Zeroizing;

    struct Answers(Vec<io::Result<&'static str>>);

    impl Ask for Answers {
        fn ask(&mut self, _prompt: &str) -> io::Result<Zeroizing<String>> {
            self.0.remove(0).map(|answer| Zeroizing::new(answer.to_owned()))
        }
    }

    type Obtained = (Result<Passphrase, SecretError>, Vec<String>);

    fn obtain(answers: Vec<io::Result<&'static str>>, source: &Source, fresh: bool) -> Obtained {
        let mut warnings = Vec::new();
        let mut ask = Answers(answers);
        let mut warn = |text: &str| warnings.push(text.to_owned());
        let mut passphrases = Passphrases { ask: &mut ask, warn: &mut warn };
        let passphrase = if fresh { passphrases.fresh(source, VARIABLE_NEW) } else { passphrases.existing(source) };
        (passphrase, warnings)
    }

    fn existing(source: &Source) -> Result<String, SecretError> {
        obtain(Vec::new(), source, false).0.map(|passphrase| passphrase.expose().to_owned())
    }

    #[test]
    fn debug_shows_nothing() {
        let source = Source::Variable { name: VARIABLE, passphrase: "hunter2".to_owned().into() };
        assert!(!format!("{source:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_loses_one_newline_and_warns_when_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        let source = Source::File(path.clone());
        for (content, expected) in [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), (" ä ", " ä ")] {
            fs::write(&path, content).unwrap();
            assert_eq!(existing(&source).unwrap(), expected);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(obtain(Vec::new(), &source, false).1.len(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(obtain(Vec::new(), &source, false).1.len(), 0);
        for content in [&b"\n"[..], b"", b"a\n\n", b"\xff", b"a\0", &[b'x'; PASSPHRASE_BYTES_MAX + 1]] {
            fs::write(&path, content).unwrap();
            assert_eq!(CliError::from(existing(&source).unwrap_err()).class, Class::Usage);
        }
        fs::remove_file(&path).unwrap();
        let error = CliError::from(existing(&source).unwrap_err());
        assert_eq!(error.class, Class::Missing);
        assert!(error.message.contains("passphrase: "), "{}", error.message);
    }

    #[test]
    fn a_command_gives_its_first_line_and_must_succeed() {
        let run = |command: &str| existing(&Source::Command(command.to_owned()));
        assert_eq!(run("printf 'one\\ntwo\\n'").unwrap(), "one");
        assert!(matches!(run("echo x; exit 3"), Err(SecretError::Status { .. })));
        assert!(matches!(run("true"), Err(SecretError::Empty { .. })));
        assert!(matches!(run("head -c 100000 /dev/zero"), Err(SecretError::Unusable { .. })));
        assert!(run("exit 3").unwrap_err().to_string().contains("'exit 3'"));
    }

    #[test]
    fn new_passphrases_are_asked_for_twice() {
        let ask = |first, second| obtain(vec![Ok(first), Ok(second)], &Source::Prompt, true);
        let (passphrase, warnings) = ask("correct horse battery", "correct horse battery");
        assert_eq!(passphrase.unwrap().expose(), "correct horse battery");
        assert!(warnings.is_empty());
        assert!(matches!(ask("a", "b").0, Err(SecretError::Mismatch)));
        assert!(matches!(ask("", "").0, Err(SecretError::Empty { .. })));
        assert_eq!(ask("short", "short").1.len(), 1);
    }

    #[test]
    fn without_a_terminal_the_error_says_what_to_do() {
        let absent = || Err(io::Error::from_raw_os_error(rustix::io::Errno::NXIO.raw_os_error()));
        let error = CliError::from(obtain(vec![absent()], &Source::Prompt, false).0.unwrap_err());
        assert_eq!(error.class, Class::Access);
        assert!(error.hint.unwrap().contains("KEEPSTONE_PASSPHRASE,"));
        let error = CliError::from(obtain(vec![absent()], &Source::Prompt, true).0.unwrap_err());
        assert!(error.hint.unwrap().contains("KEEPSTONE_NEW_PASSPHRASE"));
        let stopped = obtain(vec![Err(io::ErrorKind::Interrupted.into())], &Source::Prompt, false).0.unwrap_err();
        assert_eq!(CliError::from(stopped).class, Class::Cancelled);
    }
}

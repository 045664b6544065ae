//! The standard output: one result, as text or as one JSON document.
//!
//! Guarantees: a write that fails is an error, but for a pipe that its reader closed, which ends the
//! run quietly; nothing panics. Called by every command once it has its result.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::exit::CliError;

/// Where a command's result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
}

impl Output {
    /// Prints the result: `document` under `--json`, else what `text` writes.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn result<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CliError> {
        write_stdout(|out| {
            if !self.json {
                return text(out);
            }
            serde_json::to_writer(&mut *out, document)?;
            out.write_all(b"\n")
        })
    }

    /// Prints lines of text.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<(), CliError> {
        write_stdout(|out| lines.into_iter().try_for_each(|line| writeln!(out, "{}", line.as_ref())))
    }

    /// Writes raw bytes as `write` gives them: a file's content, a completion script.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn raw(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
        write_stdout(write)
    }

    /// Writes while the result is still being worked out. What was written before a failure stays, so a
    /// list that ends in an error is not whole, as the exit code says.
    ///
    /// # Errors
    /// What `write` gives; as [`CliError::output`].
    pub fn stream(write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>) -> Result<(), CliError> {
        let mut outcome = Ok(());
        write_stdout(|out| {
            outcome = write(out);
            Ok(())
        })?;
        outcome
    }
}

/// A document that is made only where it is printed.
pub struct Lazily<F>(pub F);

impl<T: Serialize, F: Fn() -> T> Serialize for Lazily<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0().serialize(serializer)
    }
}

/// A list whose elements are made one by one as they are printed: 100,000 at once are more than memory may take.
pub struct OneByOne<I>(pub I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for OneByOne<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// Writes one JSON document with a long list in it, element by element.
pub struct JsonList {
    first: bool,
}

impl JsonList {
    /// Begins the document with the fields of `head`, an object, and the list `key`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn begin(out: &mut dyn Write, head: &Value, key: &str) -> io::Result<Self> {
        write!(out, "{{{}", fields(head))?;
        write!(out, "{}:[", Value::from(key))?;
        Ok(JsonList { first: true })
    }

    /// Adds an element.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn push(&mut self, out: &mut dyn Write, element: &Value) -> io::Result<()> {
        out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(out, element)?;
        Ok(())
    }

    /// Ends the list, and the document with the fields of `tail`, an object.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn end(self, out: &mut dyn Write, tail: &Value) -> io::Result<()> {
        let tail = fields(tail);
        let tail = tail.strip_suffix(',').map_or_else(String::new, |tail| format!(",{tail}"));
        writeln!(out, "]{tail}}}")
    }
}

/// An object's fields, each with a comma behind it.
fn fields(object: &Value) -> String {
    let Some(object) = object.as_object() else { return String::new() };
    object.iter().map(|(key, value)| format!("{}:{value},", Value::from(key.as_str()))).collect()
}

fn write_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out: BufWriter<StdoutLock<'_>> = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    // After a failure, dropping the buffer must not write it once more.
    let (_, _) = out.into_parts();
    written.map_err(|error| CliError::output(&error))
}

/// Prints a line to the standard error; when that fails, there is nobody left to tell.
pub fn stderr_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Tells something before there is a display of progress, in the form that it gives notices.
pub fn notice(json: bool, text: &str) {
    stderr_line(&match json {
        true => serde_json::json!({ "type": "notice", "text": text }).to_string(),
        false => format!("keepstone: {}", super::render::printable(text)),
    });
}

/// Writes each line of the log to the standard error as one JSON object, `{"log":"…"}`, as all else is
/// there under `--json`.
pub struct JsonLog;

impl Write for JsonLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        stderr_line(&serde_json::json!({ "log": text.trim_end() }).to_string());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

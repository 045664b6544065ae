//! What a `backup` does: its arguments merged with `[backup]` of the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Settings;
use crate::cli::args::BackupArgs;
use crate::cli::exit::CliError;
use crate::cli::parse::{self, Marker};
use crate::cli::path_list;
use crate::compress::Compression;
use crate::limits;

/// Whoever leaves out files of fewer bytes than this most likely forgot a unit.
const EXCLUDE_LARGER_THAN_MIN: u64 = 1 << 10;

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupSource {
    /// Directories and files; at least one.
    Paths(Vec<PathBuf>),
    /// The standard input, as one file.
    Stdin {
        /// The file's name.
        name: String,
    },
    /// A command's standard output, as one file.
    Command {
        /// The file's name.
        name: String,
        /// The program and its arguments; at least the program.
        command: Vec<OsString>,
    },
}

/// The merged settings of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named after the options that they come from")]
pub struct BackupSettings {
    pub source: BackupSource,
    /// Sources that another program listed, beside those of `source`.
    pub listed: Vec<PathBuf>,
    pub dataset: String,
    pub host: String,
    pub tags: Vec<String>,
    pub chunk_size_bytes: usize,
    pub compression: Compression,
    pub dry_run: bool,
    pub skip_if_unchanged: bool,
    pub allow_empty: bool,
    pub exclude: Vec<String>,
    pub exclude_from: Vec<PathBuf>,
    pub ignore_files: Vec<String>,
    pub exclude_larger_than_bytes: Option<u64>,
    pub exclude_if_present: Vec<Marker>,
    pub exclude_caches: bool,
    pub one_file_system: bool,
}

impl Settings {
    /// Merges the arguments with the configured defaults, and reads the lists of paths.
    ///
    /// # Errors
    /// When nothing is named to capture, a list can't be read, or the host has no usable name.
    pub fn backup(&self, args: &BackupArgs) -> Result<BackupSettings, CliError> {
        let file = &self.backup;
        let (source, listed) = self.source(args)?;
        let chunk_size_default = match source {
            BackupSource::Paths(_) => limits::CHUNK_AVERAGE_BYTES_TREE,
            BackupSource::Stdin { .. } | BackupSource::Command { .. } => limits::CHUNK_AVERAGE_BYTES_STREAM,
        };
        let host = match &args.host {
            Some(host) => host.clone(),
            None => usable(self.host())?,
        };
        let tags = if args.tags.is_empty() { &file.tags } else { &args.tags };
        if tags.len() > limits::TAGS_MAX {
            return Err(CliError::usage(format!("{} tags are too many", tags.len()))
                .hint(format!("a snapshot has at most {}", limits::TAGS_MAX)));
        }
        let exclude_larger_than_bytes = args.exclude_larger_than_bytes.or(file.exclude_larger_than);
        if let Some(bytes) =
            exclude_larger_than_bytes.filter(|bytes| *bytes < EXCLUDE_LARGER_THAN_MIN && !args.allow_empty)
        {
            return Err(CliError::usage(format!(
                "--exclude-larger-than {bytes} would leave out every file of more than {bytes} bytes"
            ))
            .hint("give the size with a unit, as in 4GiB; if it is meant so, add --allow-empty"));
        }
        Ok(BackupSettings {
            listed,
            dataset: args.dataset.as_ref().or(file.dataset.as_ref()).map_or_else(|| "default".into(), String::clone),
            host,
            tags: tags.clone(),
            chunk_size_bytes: args.chunk_size_bytes.or(file.chunk_size).unwrap_or(chunk_size_default),
            compression: args.compression.or(file.compression).unwrap_or_default(),
            dry_run: args.dry_run,
            skip_if_unchanged: args.skip_if_unchanged.unwrap_or(file.skip_if_unchanged),
            allow_empty: args.allow_empty,
            // The command line comes last: of patterns, the last that matches decides.
            exclude: [&file.exclude[..], &args.exclude].concat(),
            exclude_from: [&file.exclude_from[..], &args.exclude_from].concat(),
            ignore_files: [&file.ignore_files[..], &args.ignore_files].concat(),
            exclude_larger_than_bytes,
            exclude_if_present: [&file.exclude_if_present[..], &args.exclude_if_present].concat(),
            exclude_caches: args.exclude_caches.unwrap_or(file.exclude_caches),
            one_file_system: args.one_file_system.unwrap_or(file.one_file_system),
            source,
        })
    }

    fn source(&self, args: &BackupArgs) -> Result<(BackupSource, Vec<PathBuf>), CliError> {
        if let Some(name) = args.as_name.clone() {
            return match (args.stdin, &args.stream_command[..]) {
                (true, _) => Ok((BackupSource::Stdin { name }, Vec::new())),
                (false, []) => Err(CliError::usage("--as names a stream, and there is none")
                    .hint("add --stdin, or a command: `keepstone backup --as db.sql -- pg_dump app`")),
                (false, command) => Ok((BackupSource::Command { name, command: command.to_vec() }, Vec::new())),
            };
        }
        let mut paths = args.paths.clone();
        let mut listed = Vec::new();
        if let Some(list) = &args.files_from {
            listed.extend(path_list::read(list, path_list::Separator::Newline)?);
        }
        if let Some(list) = &args.files_from0 {
            listed.extend(path_list::read(list, path_list::Separator::Nul)?);
        }
        // An empty list is what its maker found, not a wish for the configured paths.
        if paths.is_empty() && args.files_from.is_none() && args.files_from0.is_none() {
            paths.clone_from(&self.backup.paths);
        }
        if paths.is_empty() && listed.is_empty() {
            return Err(CliError::usage("nothing is named to back up")
                .hint("give paths (`keepstone backup /home`), or set `paths` under [backup] in keepstone.toml"));
        }
        Ok((BackupSource::Paths(paths), listed))
    }
}

/// A name that was configured is; what a machine calls itself may not be.
fn usable(name: String) -> Result<String, CliError> {
    parse::label(&name).map_err(|error| {
        CliError::usage(format!("this machine's name, '{name}', can't be recorded: {error}"))
            .hint("give one with --host, KEEPSTONE_HOST or `host` under [backup] in keepstone.toml")
    })
}

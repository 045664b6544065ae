//! `cache info`, `cache rebuild`: the local index, which any run can make anew from the regions.

use super::args::{CacheCommand, Global};
use super::exit::{Class, CliError};
use super::output::Output;
use super::workspace::Workspace;
use super::{known_objects, render};
use crate::index::{Index, RocksIndex};
use crate::repo::sync::{IndexStatus, status};
use serde_json::{Value, json};
use std::io;
use std::path::Path;

/// Runs the command.
///
/// # Errors
/// When the repository can't be opened or a region can't be listed. A damaged index is no error of
/// `cache info`, but what it tells.
pub fn run(command: CacheCommand, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    let mut class = Class::Success;
    if let CacheCommand::Rebuild = command {
        let directory = workspace.index_directory();
        std::fs::create_dir_all(&directory).map_err(|error| CliError::file("make", &directory, &error))?;
        let cache_directory = workspace.cache_directory();
        known_objects::forget(&cache_directory)
            .map_err(|error| CliError::file("remove", &known_objects::path(&cache_directory), &error))?;
        // What is there is not even opened: it may be the reason for the rebuild.
        drop(RocksIndex::create(&directory, workspace.repository.config.repository, 8 << 20)?);
        class = workspace.index()?.1;
    }
    let info = Info::gather(&workspace)?;
    workspace.progress.finish();
    let rebuilt = matches!(command, CacheCommand::Rebuild);
    let mut document = info.document();
    document["rebuilt"] = rebuilt.into();
    Output { json: global.json }.result(&document, |out| {
        if rebuilt {
            writeln!(out, "The local index was made anew from the regions.")?;
        }
        info.lines(&workspace).iter().try_for_each(|line| writeln!(out, "{line}"))
    })?;
    Ok(class)
}

/// Whether there is an index that can be used.
enum State {
    Absent,
    Unusable(String),
    Usable { packs: u32, chunks: u64, chunk_bytes: u64, regions: Vec<IndexStatus> },
}

struct Info {
    directory: std::path::PathBuf,
    directory_bytes: u64,
    index_bytes: u64,
    state: State,
}

impl Info {
    fn gather(workspace: &Workspace) -> Result<Self, CliError> {
        let (directory, index_directory) = (workspace.cache_directory(), workspace.index_directory());
        let size = |path: &Path| bytes_below(path).map_err(|error| CliError::file("read", path, &error));
        let (directory_bytes, index_bytes) = (size(&directory)?, size(&index_directory)?);
        let state = match index_bytes {
            0 => State::Absent,
            _ => match RocksIndex::inspect(&index_directory, workspace.repository.config.repository, 8 << 20) {
                Err(error) => State::Unusable(error.to_string()),
                Ok(index) => match status(&workspace.repository, &index) {
                    Err(crate::repo::RepoError::Index(error)) => State::Unusable(error.to_string()),
                    Err(error) => return Err(error.into()),
                    Ok(regions) => State::Usable {
                        packs: index.pack_count(),
                        chunks: index.chunk_count(),
                        chunk_bytes: index.chunk_bytes(),
                        regions,
                    },
                },
            },
        };
        Ok(Info { directory, directory_bytes, index_bytes, state })
    }

    fn document(&self) -> Value {
        let mut document = json!({ "bytes": self.directory_bytes, "index_bytes": self.index_bytes });
        let path = self.directory.as_os_str().as_encoded_bytes();
        render::put_bytes(&mut document, "path", path);
        document["state"] = match &self.state {
            State::Absent => "absent",
            State::Unusable(_) => "unusable",
            State::Usable { .. } => "usable",
        }
        .into();
        let mut current = false;
        if let State::Unusable(why) = &self.state {
            document["problem"] = why.as_str().into();
        }
        if let State::Usable { packs, chunks, chunk_bytes, regions } = &self.state {
            document["packs"] = (*packs).into();
            document["chunks"] = (*chunks).into();
            document["chunk_bytes"] = (*chunk_bytes).into();
            let shown = regions.iter().map(|status| {
                json!({
                    "name": status.region, "segments_listed": status.listed, "segments_known": status.known,
                    "segments_stale": status.stale, "current": status.is_current(),
                })
            });
            document["regions"] = shown.collect();
            current = regions.iter().all(IndexStatus::is_current);
        }
        document["current"] = current.into();
        document
    }

    fn lines(&self, workspace: &Workspace) -> Vec<String> {
        let mut lines = vec![
            format!("Directory: {} ({})", render::path(&self.directory), render::size(self.directory_bytes)),
            format!("Index:     {}", render::size(self.index_bytes)),
        ];
        match &self.state {
            State::Absent => lines.push("There is no index yet: the next run makes it.".to_owned()),
            State::Unusable(why) => {
                lines.push(format!("It can't be used: {}", render::printable(why)));
            }
            State::Usable { packs, chunks, chunk_bytes, regions } => {
                lines.push(format!(
                    "Knows:     {} of {} in {}",
                    render::counted(*chunks, "chunk"),
                    render::size(*chunk_bytes),
                    render::counted(u64::from(*packs), "pack"),
                ));
                for status in regions {
                    let state = match (status.is_current(), status.stale) {
                        (true, _) => "up to date".to_owned(),
                        (false, 0) => format!("{} to read", render::count(status.listed - status.known)),
                        (false, stale) => {
                            format!("{} no longer there: the next run takes them out", render::count(stale))
                        }
                    };
                    let (known, listed) = (render::count(status.known), render::counted(status.listed, "segment"));
                    lines.push(format!("Region '{}': {known} of {listed} known, {state}", status.region));
                }
                for (name, _) in &workspace.absent {
                    lines.push(format!("Region '{name}': not looked at"));
                }
            }
        }
        lines
    }
}

/// The sizes of all files below a directory; nothing where there is none.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            // Another run may delete its files at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path())?,
            Ok(metadata) => metadata.len(),
        };
    }
    Ok(bytes)
}

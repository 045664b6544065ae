//! `cat`: writes a file's content to the standard output.

use super::args::{CatArgs, Global};
use super::entry;
use super::exit::{Class, CliError};
use super::output::Output;
use super::workspace::Workspace;
use crate::format::node::NodeKind;
use crate::repo::content::read_content;
use crate::repo::walk::find_path;
use crate::report::Monitor;

/// Runs the command.
///
/// # Errors
/// When the snapshot or the path is not there, it is no file, or a chunk can't be read: what was written
/// before is right, and the exit code says that it is not all.
pub fn run(args: &CatArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open_to_read(global)?;
    let (index, _) = workspace.index()?;
    let (info, class) = workspace.snapshot(&args.snapshot, &args.filter)?;
    let fetcher = workspace.fetcher(&index)?;
    let path = entry::normal(Some(&args.path));
    let node = find_path(&fetcher, info.snapshot.root, &path)?.ok_or_else(|| entry::no_such_path(&path))?;
    let NodeKind::File { content, size, inconsistent } = &node.kind else {
        let kind = node.kind.name();
        return Err(CliError::usage(format!("'{}' is no file but a {kind}", entry::shown(&path)))
            .hint("`keepstone ls` lists a directory, `keepstone restore` brings any entry back"));
    };
    if *inconsistent {
        let name = entry::shown(&path);
        workspace.progress.notice(&format!("'{name}' changed while it was backed up: it may be of no one moment"));
    }
    workspace.progress.finish();
    Output::stream(|out| {
        let total = read_content(&fetcher, content, &mut |bytes| {
            if workspace.progress.cancelled() {
                return Err(CliError::cancelled());
            }
            out.write_all(bytes).map_err(|error| CliError::output(&error))
        })?;
        match total == *size {
            true => Ok(()),
            false => {
                let name = entry::shown(&path);
                Err(CliError::new(Class::Corrupt, format!("'{name}' has {total} bytes, and its entry states {size}")))
            }
        }
    })?;
    Ok(class)
}

//! Remembers which slots this client has opened of a repository, in a file of its cache directory: so that it can say
//! that one of them was revoked, when its secret opens nothing any more. Serves that message only.

use super::exit::{Class, CliError};
use super::{remembered, render};
use crate::format::ids::SlotId;
use crate::format::roster::{Roster, SlotState};
use crate::repo::RepoError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// So many are remembered, the newest.
const SLOTS_MAX: usize = 16;

const NAME: &str = "slots";

fn path(cache_directory: &Path) -> PathBuf {
    cache_directory.join(NAME)
}

/// The slots, in the order in which they were first opened. What can't be read is nothing.
pub fn read(cache_directory: &Path) -> Vec<SlotId> {
    let text = fs::read_to_string(path(cache_directory)).unwrap_or_default();
    text.lines().filter_map(SlotId::from_hex).collect()
}

/// Remembers that a slot was opened.
///
/// # Errors
/// When the directory can't be written.
pub fn remember(cache_directory: &Path, slot: SlotId) -> io::Result<()> {
    let mut slots = read(cache_directory);
    if slots.contains(&slot) {
        return Ok(());
    }
    slots.push(slot);
    slots.drain(..slots.len().saturating_sub(SLOTS_MAX));
    let text: String = slots.iter().map(|slot| format!("{slot}\n")).collect();
    remembered::write(cache_directory, NAME, text.as_bytes())
}

/// What to say when no slot opens: of those that this client has opened before, which were revoked or removed. The
/// roster says no more of them than anybody reads in a region.
pub fn explain(error: RepoError, known: &[SlotId], roster: &Roster) -> CliError {
    let RepoError::WrongSecret = error else { return error.into() };
    let gone: Vec<String> = known
        .iter()
        .filter_map(|slot| roster.slot(*slot))
        .filter_map(|entry| {
            let what = match entry.state {
                SlotState::Active => return None,
                SlotState::Revoked => "revoked",
                SlotState::Retired => "removed",
            };
            Some(format!("{} ('{}') was {what}", entry.slot, render::printable(&entry.label)))
        })
        .collect();
    if gone.is_empty() {
        return error.into();
    }
    let text = format!("{error}; of the slots that this host opened before, {}", gone.join(", "));
    CliError::new(Class::Access, text).hint(
        "a secret of such a slot opens nothing any more, and an owner adds another one with `keepstone key add`; for \
             another slot try again, or name another passphrase source or --identity FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::{SLOTS_MAX, path, read, remember};
    use crate::format::ids::SlotId;

    #[test]
    fn the_newest_are_remembered_each_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("cache");
        assert!(read(&cache).is_empty());
        let slot = |number: usize| SlotId([number as u8; 16]);
        for number in [0, 1, 0, 1].into_iter().chain(2..20) {
            remember(&cache, slot(number)).expect("written");
        }
        assert_eq!(read(&cache), (20 - SLOTS_MAX..20).map(slot).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(&cache).expect("listed").count(), 1);
        std::fs::write(path(&cache), "x\n").expect("written");
        assert!(read(&cache).is_empty());
    }
}

//! What `--delete` may take away: what the backup looked for and did not find.
//!
//! Guarantees: nothing goes that the backup left out or could not capture, and nothing beside the sources, however
//! little of a directory the snapshot holds.

use crate::format::snapshot::{NotCaptured, Snapshot, SnapshotPrivate, SourceKind};
use crate::limits::PATH_BYTES_MAX;
use crate::source::Omission;

/// Why nothing can be deleted for a snapshot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// What was not captured has too many entries for the snapshot's list.
    #[error(
        "{all} entries were left out of this snapshot or could not be captured, and it names the first {listed} only: \
         what else is in the target may be what it lacks"
    )]
    Cut {
        /// How many it names.
        listed: u64,
        /// How many there are.
        all: u64,
    },
    /// The snapshot doesn't say where its sources were.
    #[error("this snapshot doesn't tell which of its directories were backed up whole")]
    Unknown,
}

/// See the module's documentation. Paths are raw bytes from the snapshot's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    sources: Vec<Vec<u8>>,
    /// Sorted.
    spared: Vec<Vec<u8>>,
}

impl Scope {
    /// Of a snapshot and its private part. `excluded_too` gives up what a pattern or rule of the backup left out; what
    /// it could not capture stays in any case.
    ///
    /// # Errors
    /// When the snapshot doesn't tell enough for it.
    pub fn of(snapshot: &Snapshot, private: &SnapshotPrivate, excluded_too: bool) -> Result<Self, ScopeError> {
        let mut lists = vec![(&private.issues, snapshot.counts.issues)];
        if !excluded_too {
            lists.push((&private.omitted, snapshot.counts.omitted));
        }
        let listed = lists.iter().map(|(list, _)| list.len() as u64).sum();
        let all = lists.iter().fold(0u64, |all, (_, count)| all.saturating_add(*count));
        if listed < all {
            return Err(ScopeError::Cut { listed, all });
        }
        // Never asked for by a pattern: they hold what isn't the source's.
        let foreign = [Omission::OtherFileSystem, Omission::OwnRepository].map(Omission::name);
        let kept = |item: &&NotCaptured| !excluded_too || foreign.contains(&item.why.as_str());
        let omitted = private.omitted.iter().filter(kept);
        let all = private.issues.iter().chain(omitted);
        let mut spared: Vec<Vec<u8>> = all.map(|item| place_of(&item.path, &private.root_path)).collect();
        spared.sort_unstable();
        spared.dedup();
        let sources = match snapshot.source {
            // A file; nothing is below it.
            SourceKind::Stream => Vec::new(),
            SourceKind::Tree => {
                let below = |path: &Vec<u8>| below(path, &private.root_path).map(<[u8]>::to_vec);
                private.sources.iter().map(below).collect::<Option<_>>().ok_or(ScopeError::Unknown)?
            }
        };
        Ok(Scope { sources, spared })
    }

    /// The names in a directory that stay though the snapshot doesn't hold them, sorted; `None` if all stay.
    pub fn spared(&self, directory: &[u8]) -> Option<Vec<&[u8]>> {
        let within = |source: &Vec<u8>| below(directory, source).is_some();
        if !self.sources.iter().any(within) || self.spared.binary_search_by(|path| path[..].cmp(directory)).is_ok() {
            return None;
        }
        let mut prefix = directory.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let first = self.spared.partition_point(|path| path[..] < prefix[..]);
        let inside = self.spared[first..].iter().map_while(|path| path.strip_prefix(&prefix[..]));
        let mut names: Vec<&[u8]> = inside.filter_map(|rest| rest.split(|byte| *byte == b'/').next()).collect();
        // Of `a`, `a b` and `a/c` the last comes between the others.
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

/// `path` from `directory`, empty for itself; `None` if it lies elsewhere.
fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    match rest {
        [] => Some(rest),
        _ if directory.is_empty() || directory == b"/" => Some(rest),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Where a path from a snapshot's list is. The root itself is listed by its absolute path, and of a path that was too
/// long the end is missing.
fn place_of(listed: &[u8], root: &[u8]) -> Vec<u8> {
    if listed.starts_with(b"/") {
        return below(listed, root).unwrap_or_default().to_vec();
    }
    let whole = listed.len() < PATH_BYTES_MAX;
    let end = if whole { listed.len() } else { listed.iter().rposition(|byte| *byte == b'/').unwrap_or(0) };
    listed[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::ChunkId;
    use crate::format::snapshot::Counts;

    fn snapshot(source: SourceKind, omitted: u64, issues: u64) -> Snapshot {
        Snapshot {
            dataset: "d".into(),
            host: "h".into(),
            started_at: 0,
            finished_at: 0,
            tags: Vec::new(),
            source,
            root: ChunkId::default(),
            counts: Counts { omitted, issues, ..Counts::default() },
            partial: issues > 0,
            chunk_average_bytes: 65536,
            program: String::new(),
            private: Vec::new(),
        }
    }

    fn items(paths: &[&str], why: &str) -> Vec<NotCaptured> {
        let item = |path: &&str| NotCaptured { path: path.as_bytes().to_vec(), why: why.into(), detail: String::new() };
        paths.iter().map(item).collect()
    }

    fn private(sources: &[&str], root: &str, omitted: &[&str], issues: &[&str]) -> SnapshotPrivate {
        SnapshotPrivate {
            sources: sources.iter().map(|path| path.as_bytes().to_vec()).collect(),
            root_path: root.as_bytes().to_vec(),
            command: Vec::new(),
            omitted: items(omitted, "excluded"),
            issues: items(issues, "unreadable"),
        }
    }

    fn tree(sources: &[&str], root: &str, omitted: &[&str], issues: &[&str], excluded_too: bool) -> Scope {
        let snapshot = snapshot(SourceKind::Tree, omitted.len() as u64, issues.len() as u64);
        Scope::of(&snapshot, &private(sources, root, omitted, issues), excluded_too).unwrap()
    }

    #[test]
    fn what_was_not_captured_is_spared_with_all_that_leads_to_it() {
        let scope = tree(&["/s"], "/s", &["x.tmp", "a/deep/y.tmp", "a b"], &["locked", "a/unread"], false);
        let names = |directory: &str| scope.spared(directory.as_bytes());
        assert_eq!(names("").unwrap(), [&b"a"[..], b"a b", b"locked", b"x.tmp"]);
        assert_eq!(names("a").unwrap(), [&b"deep"[..], b"unread"]);
        assert_eq!(names("a/deep").unwrap(), [b"y.tmp"]);
        assert_eq!(names("other").unwrap(), [b""; 0]);
        assert_eq!(names("locked"), None, "nothing is known of what is in it");
        let excluded_too = tree(&["/s"], "/s", &["x.tmp"], &["locked"], true);
        assert_eq!(excluded_too.spared(b"").unwrap(), [b"locked"]);
    }

    #[test]
    fn nothing_beside_the_sources_goes() {
        let several = tree(&["/etc", "/home/anna"], "/", &[], &[], false);
        assert_eq!((several.spared(b""), several.spared(b"home")), (None, None));
        assert_eq!(several.spared(b"etc"), Some(Vec::new()));
        assert_eq!(several.spared(b"home/anna/x"), Some(Vec::new()));
        assert_eq!(several.spared(b"etcetera"), None);
        let file = tree(&["/etc/passwd"], "/etc", &[], &[], false);
        assert_eq!(file.spared(b""), None);
        let stream = Scope::of(&snapshot(SourceKind::Stream, 0, 0), &private(&["db"], "", &[], &[]), false).unwrap();
        assert_eq!(stream.spared(b""), None);
        let relative = Scope::of(&snapshot(SourceKind::Tree, 0, 0), &private(&["."], "/s", &[], &[]), false);
        assert_eq!(relative, Err(ScopeError::Unknown));
    }

    #[test]
    fn a_list_that_was_cut_and_a_root_that_failed_forbid_it() {
        let cut = Scope::of(&snapshot(SourceKind::Tree, 3, 0), &private(&["/s"], "/s", &["a"], &[]), false);
        assert_eq!(cut, Err(ScopeError::Cut { listed: 1, all: 3 }));
        assert!(Scope::of(&snapshot(SourceKind::Tree, 3, 0), &private(&["/s"], "/s", &["a"], &[]), true).is_ok());
        assert_eq!(tree(&["/s"], "/s", &[], &["/s"], false).spared(b""), None);
        let long = "d/".repeat(PATH_BYTES_MAX / 2);
        let scope = tree(&["/s"], "/s", &[], &[&long], false);
        assert_eq!(scope.spared(&long.as_bytes()[..PATH_BYTES_MAX - 1]), None);
    }
}

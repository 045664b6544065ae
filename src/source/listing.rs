//! The names in one directory, packed and sorted: all that a walk keeps of a directory it is in.
//!
//! Guarantees raw-byte order. A name costs its bytes and six more. Called by the walk alone.

use std::cmp::Ordering;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;

use super::metadata::Stat;

/// Room for one answer of the kernel: a few hundred names a call.
const SCRATCH_BYTES: usize = 32 << 10;
/// How often a directory is listed that changes all the time.
const LISTINGS_MAX: usize = 4;

/// A buffer that listings share, so that a directory costs no allocation for it.
#[derive(Debug)]
pub(super) struct Scratch(Vec<MaybeUninit<u8>>);

impl Scratch {
    pub(super) fn new() -> Self {
        Scratch(vec![MaybeUninit::uninit(); SCRATCH_BYTES])
    }
}

/// The sorted names of one directory.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Each name behind its length (two bytes, little-endian).
    arena: Vec<u8>,
    /// Where each name's length stands, in name order.
    order: Vec<u32>,
}

impl Names {
    /// Lists `directory`. On failure the names read so far come back too: capturing them beats losing them,
    /// and the failure is reported beside them.
    pub(super) fn list(directory: BorrowedFd<'_>, scratch: &mut Scratch) -> (Names, Option<Errno>) {
        let mut names = Names::default();
        let mut keys: Vec<(u64, u32)> = Vec::new();
        let mut listing = RawDir::new(directory, &mut scratch.0);
        let failure = loop {
            match listing.next() {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_bytes();
                    if name == b"." || name == b".." {
                        continue;
                    }
                    match names.append(name) {
                        Some(key) => keys.push(key),
                        None => break Some(Errno::OVERFLOW),
                    }
                }
            }
        };
        names.sort(keys);
        (names, failure)
    }

    /// As [`Names::list`], for a directory that may change meanwhile. Where an entry is replaced during a
    /// listing, some file systems leave its name out; so a directory that changed is listed again, and every name
    /// counts that was met in any listing and is still there.
    pub(super) fn list_steadily(directory: BorrowedFd<'_>, scratch: &mut Scratch) -> (Names, Option<Errno>) {
        let changed_at = || Stat::of(directory).map(|stat| (stat.identity.modified_at, stat.identity.changed_at));
        let mut before = changed_at();
        let (mut names, mut failure) = Names::list(directory, scratch);
        for _ in 1..LISTINGS_MAX {
            let after = changed_at();
            if failure.is_some() || after == before || rustix::fs::seek(directory, SeekFrom::Start(0)).is_err() {
                break;
            }
            before = after;
            let again;
            (again, failure) = Names::list(directory, scratch);
            let missed = names.iter().filter(|name| !again.contains(name) && Stat::at(directory, name, false).is_ok());
            names = Names::from_names(missed.chain(again.iter()));
        }
        (names, failure)
    }

    /// Exactly these names.
    pub(super) fn from_names<'a>(given: impl IntoIterator<Item = &'a [u8]>) -> Names {
        let mut names = Names::default();
        let keys = given.into_iter().filter_map(|name| names.append(name)).collect();
        names.sort(keys);
        names
    }

    /// Appends a name, or answers `None` where more than 4 GiB of names would stand in one directory.
    fn append(&mut self, name: &[u8]) -> Option<(u64, u32)> {
        let position = u32::try_from(self.arena.len()).ok()?;
        let length = u16::try_from(name.len()).ok()?;
        self.arena.extend_from_slice(&length.to_le_bytes());
        self.arena.extend_from_slice(name);
        Some((prefix(name), position))
    }

    fn sort(&mut self, mut keys: Vec<(u64, u32)>) {
        let arena = &self.arena;
        keys.sort_unstable_by(|a, b| match a.0.cmp(&b.0) {
            Ordering::Equal => name_at(arena, a.1).cmp(name_at(arena, b.1)),
            unequal => unequal,
        });
        self.order = keys.iter().map(|key| key.1).collect();
        // The kernel may give a name twice, and a tree with one name twice could not be read again.
        self.order.dedup_by(|a, b| name_at(arena, *a) == name_at(arena, *b));
        self.arena.shrink_to_fit();
    }

    /// The name at `index` in order.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.order.get(index).map(|position| name_at(&self.arena, *position))
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().map(|position| name_at(&self.arena, *position))
    }

    /// True if `name` is listed.
    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.order.binary_search_by(|position| name_at(&self.arena, *position).cmp(name)).is_ok()
    }
}

/// The first eight bytes as a big-endian number: most comparisons end here. Names hold no NUL, so padding with it
/// keeps the order.
fn prefix(name: &[u8]) -> u64 {
    let mut bytes = [0u8; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name[..length]);
    u64::from_be_bytes(bytes)
}

fn name_at(arena: &[u8], position: u32) -> &[u8] {
    let start = position as usize;
    let length = usize::from(u16::from_le_bytes([arena[start], arena[start + 1]]));
    &arena[start + 2..start + 2 + length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn all(names: &Names) -> Vec<&[u8]> {
        (0..).map_while(|index| names.get(index)).collect()
    }

    #[test]
    fn names_come_in_raw_byte_order_once() {
        let names = Names::from_names([
            &b"b"[..],
            b"a.b",
            b"a",
            b"\xff",
            b"same-prefix-2",
            b"same-prefix-1",
            b"a-",
            b"b",
            b"\x01",
        ]);
        let expected: [&[u8]; 8] = [b"\x01", b"a", b"a-", b"a.b", b"b", b"same-prefix-1", b"same-prefix-2", b"\xff"];
        assert_eq!(all(&names), expected);
        assert!(names.contains(b"a.b") && !names.contains(b"a."));
    }

    #[test]
    fn a_name_that_the_kernel_gives_twice_is_listed_once() {
        let mut names = Names::default();
        let keys = [&b"b"[..], b"a-long-name-1", b"b", b"a-long-name-1"].map(|name| names.append(name).unwrap());
        names.sort(keys.to_vec());
        assert_eq!(all(&names), [&b"a-long-name-1"[..], b"b"]);
    }

    #[test]
    fn a_directory_lists_the_same_once_more() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..3000 {
            std::fs::write(directory.path().join(format!("name-{number}")), b"").unwrap();
        }
        let fd = std::fs::File::open(directory.path()).unwrap();
        for _ in 0..2 {
            rustix::fs::seek(&fd, SeekFrom::Start(0)).unwrap();
            let (names, failure) = Names::list_steadily(fd.as_fd(), &mut Scratch::new());
            assert_eq!((all(&names).len(), failure), (3000, None));
        }
    }
}

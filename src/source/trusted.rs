//! What of other slots' packs this host's backups have trusted, under a number that stays as long as all of it is
//! trusted still: what was taken over under it needs no second look when more is trusted.
//!
//! One small file beside the change-detection caches, for each way of trusting. It is a cache: missing, foreign or
//! damaged means a new number. Guarantees: a number is given out only once the file that says what it stands for is
//! durable, and never again after something left that. Called by the backup.
//!
//! Layout, little-endian: magic, number, count and ids of revoked slots, count and digests of listings, the BLAKE3
//! of all before.

use crate::format::ids::{Digest, SlotId};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"kstntru1";
const CHECK_BYTES: usize = 32;

/// Stands for everything that was trusted under it.
pub type TrustNumber = [u8; 16];

/// What a host trusted of other slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Slots whose packs are not trusted, where all others' are.
    pub revoked: BTreeSet<SlotId>,
    /// Listings of packs that an owner vouched for.
    pub listings: BTreeSet<Digest>,
}

impl Trusted {
    fn encode(&self, number: &TrustNumber) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(number);
        bytes.extend_from_slice(&(self.revoked.len() as u64).to_le_bytes());
        self.revoked.iter().for_each(|slot| bytes.extend_from_slice(&slot.0));
        bytes.extend_from_slice(&(self.listings.len() as u64).to_le_bytes());
        self.listings.iter().for_each(|listing| bytes.extend_from_slice(&listing.0));
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(TrustNumber, Trusted)> {
        let (bytes, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
        if blake3::hash(bytes).as_bytes() != check {
            return None;
        }
        let (number, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        let (revoked, rest) = take(rest, SlotId)?;
        let (listings, rest) = take(rest, Digest)?;
        rest.is_empty().then_some((*number, Trusted { revoked, listings }))
    }
}

/// A counted set, and what follows it.
fn take<const N: usize, T: Ord>(bytes: &[u8], wrap: impl Fn([u8; N]) -> T) -> Option<(BTreeSet<T>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(N)?;
    let (items, rest) = rest.split_at_checked(length)?;
    Some((items.as_chunks().0.iter().map(|item| wrap(*item)).collect(), rest))
}

/// The number under which `now` is trusted: the one in the file if all that it stands for is trusted still, which
/// `vouched` says of a listing, else `fresh`. What is trusted more is added to the file, unless `keeps` says that
/// nothing is to be changed.
///
/// # Errors
/// When the file can't be written; what was there before then stays, and its number stands for less than `now`.
pub fn trust_number(
    path: &Path,
    now: &Trusted,
    vouched: impl Fn(&Digest) -> bool,
    fresh: TrustNumber,
    keeps: bool,
) -> io::Result<TrustNumber> {
    // Two runs at once: neither forgets what the other added. Where locks don't work the later one's file stays.
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.with_extension("lock"))?;
    let _ = flock(&lock, FlockOperation::LockExclusive);
    let known = fs::read(path).ok().and_then(|bytes| Trusted::decode(&bytes));
    let holds = |known: &Trusted| {
        now.revoked.iter().all(|slot| known.revoked.contains(slot)) && known.listings.iter().all(&vouched)
    };
    let (number, mut trusted) = match known {
        Some((number, known)) if holds(&known) => (number, known),
        _ => (fresh, now.clone()),
    };
    let before = trusted.clone();
    trusted.listings.extend(now.listings.iter().copied());
    if keeps || number != fresh && trusted == before {
        return Ok(number);
    }
    let unfinished = path.with_extension("unfinished");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&trusted.encode(&number))?;
    // Else a power cut could bring back a file that knows less of what the number was given out for.
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::{Trusted, trust_number};
    use crate::format::ids::{Digest, SlotId};
    use std::collections::BTreeSet;

    fn trusted(revoked: &[u8], listings: &[u8]) -> Trusted {
        Trusted {
            revoked: revoked.iter().map(|at| SlotId([*at; 16])).collect(),
            listings: listings.iter().map(|at| Digest([*at; 32])).collect(),
        }
    }

    #[test]
    fn only_what_is_trusted_no_more_changes_the_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trust");
        let number = |revoked: &[u8], listings: &[u8], fresh: u8| {
            let now = trusted(revoked, listings);
            let vouched: BTreeSet<Digest> = now.listings.clone();
            trust_number(&path, &now, |listing| vouched.contains(listing), [fresh; 16], false).unwrap()[0]
        };
        assert_eq!(number(&[], &[], 1), 1);
        assert_eq!(number(&[], &[1, 2], 2), 1, "more");
        assert_eq!(number(&[], &[1, 2, 3], 3), 1, "and more");
        assert_eq!(number(&[], &[1, 3], 4), 4, "one less");
        assert_eq!(number(&[], &[1, 2, 3], 5), 4);
        assert_eq!(number(&[7], &[1, 2, 3], 6), 6, "a slot was revoked");
        assert_eq!(number(&[7], &[1, 2, 3], 7), 6);
    }

    #[test]
    fn what_one_run_added_another_one_keeps_until_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trust");
        let all: BTreeSet<Digest> = trusted(&[], &[1, 2]).listings;
        let number = |listings: &[u8], vouched: &BTreeSet<Digest>, fresh: u8| {
            let vouched = |listing: &Digest| vouched.contains(listing);
            trust_number(&path, &trusted(&[], listings), vouched, [fresh; 16], false).unwrap()[0]
        };
        assert_eq!(number(&[1], &all, 1), 1);
        // Another source's run doesn't meet the same packs.
        assert_eq!(number(&[2], &all, 2), 1);
        assert_eq!(number(&[], &all, 3), 1);
        let one = trusted(&[], &[2]).listings;
        assert_eq!(number(&[2], &one, 4), 4, "what the first one relied on is withdrawn");
    }

    #[test]
    fn a_dry_run_changes_nothing_and_damage_gives_a_new_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trust");
        let number =
            |fresh: u8, keeps| trust_number(&path, &trusted(&[1], &[2]), |_| true, [fresh; 16], keeps).unwrap()[0];
        assert_eq!(number(1, true), 1);
        assert!(!path.exists());
        assert_eq!((number(2, false), number(3, false)), (2, 2));
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(number(4, true), 4);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(number(5, true), 5);
        }
    }
}

//! The coding of one record in the cache of seen files, and the order of records.
//!
//! A record: length of the path's part that it shares with the record before, length of the rest, the rest; flags;
//! device unless the same, inode, size, times; number of extents and the extents, or 255 and a list's id. Numbers are
//! LEB128 but for nanoseconds and ids. Called by `seen` alone, on bytes whose check matched; even so, what can't be
//! decoded is told and nothing is assumed.

use std::cmp::Ordering;
use std::ops::Range;

use super::Identity;
use super::seen::{SeenEntry, SeenRecord};
use crate::format::ids::ChunkId;
use crate::format::node::{Content, Extent, Timestamp};
use crate::limits::{CHUNK_BYTES_MAX, INLINE_RECORDS_MAX, PATH_BYTES_MAX};

/// No record is longer: a path, and at most so many bytes for all the rest.
pub(super) const RECORD_BYTES_MAX: usize = PATH_BYTES_MAX + 128 + INLINE_RECORDS_MAX * (10 + ChunkId::LENGTH);

const SAME_DEVICE: u8 = 1;
const SAME_TIMES: u8 = 2;
const PLAIN: u8 = 4;
const LIST: u8 = 255;

/// The order of the walk: name by name, each by its raw bytes. The same as comparing bytes with `/` before all others.
pub(super) fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let common = common_length(a, b);
    let rank = |path: &[u8]| path.get(common).map(|byte| if *byte == b'/' { 0 } else { *byte });
    // Names hold no NUL, so only `/` is 0, and `None`, the end, comes before it.
    rank(a).cmp(&rank(b))
}

fn common_length(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    let rest = a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count();
    words + rest
}

/// Whether a record of this can be used later: inline content must add up to the file's size.
pub(super) fn is_recordable(identity: &Identity, content: &Content) -> bool {
    match content {
        Content::List(_) => true,
        Content::Inline(extents) => {
            extents.len() <= INLINE_RECORDS_MAX
                && extents.iter().all(is_valid)
                && extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length())) == Some(identity.size)
        }
    }
}

fn is_valid(extent: &Extent) -> bool {
    match extent {
        Extent::Chunk { length, .. } => (1..=CHUNK_BYTES_MAX).contains(&(*length as usize)),
        // The bit that tells holes from chunks takes one.
        Extent::Hole { length } => (1..=u64::MAX >> 1).contains(length),
    }
}

/// Appends a record; answers how many bytes its path shares with `previous`.
pub(super) fn encode(out: &mut Vec<u8>, previous: &[u8], device: u64, record: &SeenRecord<'_>) -> usize {
    let SeenRecord { path, identity, content, plain } = record;
    let shared = common_length(previous, path);
    push_number(out, shared as u64);
    push_number(out, (path.len() - shared) as u64);
    out.extend_from_slice(&path[shared..]);

    let same_device = identity.device == device;
    let same_times = identity.changed_at == identity.modified_at;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(flag(same_device, SAME_DEVICE) | flag(same_times, SAME_TIMES) | flag(*plain, PLAIN));
    if !same_device {
        push_number(out, identity.device);
    }
    push_number(out, identity.inode);
    push_number(out, identity.size);
    push_time(out, identity.modified_at);
    if !same_times {
        push_time(out, identity.changed_at);
    }
    match content {
        Content::List(id) => {
            out.push(LIST);
            out.extend_from_slice(&id.0);
        }
        Content::Inline(extents) => {
            out.push(extents.len() as u8);
            for extent in extents {
                match extent {
                    Extent::Chunk { id, length } => {
                        push_number(out, u64::from(*length) << 1);
                        out.extend_from_slice(&id.0);
                    }
                    Extent::Hole { length } => push_number(out, length << 1 | 1),
                }
            }
        }
    }
    shared
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_time(out: &mut Vec<u8>, time: Timestamp) {
    // Zigzag: times before 1970 are rare, but short too.
    push_number(out, (time.seconds << 1 ^ time.seconds >> 63) as u64);
    out.extend_from_slice(&time.nanoseconds.to_le_bytes());
}

/// Steps through the records of verified blocks.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    at: usize,
    path: Vec<u8>,
    any: bool,
    /// Nothing of the path or device may be taken over from before.
    fresh: bool,
    identity: Identity,
    plain: bool,
    /// Where the record's content stands in its block.
    content: Range<usize>,
}

impl Decoder {
    /// The current record's path.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn begin_block(&mut self) {
        self.at = 0;
        self.fresh = true;
    }

    pub(super) fn is_at_end(&self, block: &[u8]) -> bool {
        self.at >= block.len()
    }

    /// Steps to the next record; false if there is no valid one behind the last in order.
    pub(super) fn next(&mut self, block: &[u8]) -> bool {
        self.try_next(block).is_some()
    }

    fn try_next(&mut self, block: &[u8]) -> Option<()> {
        let mut cursor = Cursor { bytes: block, at: self.at };
        let shared = usize::try_from(cursor.number()?).ok()?;
        let length = usize::try_from(cursor.number()?).ok()?;
        if shared > if self.fresh { 0 } else { self.path.len() } || length > PATH_BYTES_MAX - shared.min(PATH_BYTES_MAX)
        {
            return None;
        }
        let rest = cursor.take(length)?;
        if self.any && path_order(&self.path[shared..], rest) != Ordering::Less {
            return None;
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(rest);

        let flags = cursor.byte()?;
        self.plain = flags & PLAIN != 0;
        self.identity.device = match flags & SAME_DEVICE != 0 {
            true if self.fresh => 0,
            true => self.identity.device,
            false => cursor.number()?,
        };
        self.identity.inode = cursor.number()?;
        self.identity.size = cursor.number()?;
        self.identity.modified_at = cursor.time()?;
        self.identity.changed_at = if flags & SAME_TIMES != 0 { self.identity.modified_at } else { cursor.time()? };

        let start = cursor.at;
        match cursor.byte()? {
            LIST => {
                cursor.take(ChunkId::LENGTH)?;
            }
            count if usize::from(count) <= INLINE_RECORDS_MAX => {
                for _ in 0..count {
                    if cursor.number()? & 1 == 0 {
                        cursor.take(ChunkId::LENGTH)?;
                    }
                }
            }
            _ => return None,
        }
        self.content = start..cursor.at;
        self.at = cursor.at;
        self.any = true;
        self.fresh = false;
        Some(())
    }

    /// The current record; `None` if its content doesn't fit its size.
    pub(super) fn entry(&self, block: &[u8]) -> Option<SeenEntry> {
        let mut cursor = Cursor { bytes: block.get(..self.content.end)?, at: self.content.start };
        let content = match cursor.byte()? {
            LIST => Content::List(cursor.id()?),
            count => {
                let mut extents = Vec::with_capacity(usize::from(count).min(INLINE_RECORDS_MAX));
                for _ in 0..count {
                    let number = cursor.number()?;
                    extents.push(match number & 1 {
                        0 => Extent::Chunk { length: u32::try_from(number >> 1).ok()?, id: cursor.id()? },
                        _ => Extent::Hole { length: number >> 1 },
                    });
                }
                Content::Inline(extents)
            }
        };
        is_recordable(&self.identity, &content).then_some(SeenEntry {
            identity: self.identity,
            content,
            plain: self.plain,
        })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn time(&mut self) -> Option<Timestamp> {
        let number = self.number()?;
        let seconds = (number >> 1) as i64 ^ -((number & 1) as i64);
        let nanoseconds = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        Some(Timestamp { seconds, nanoseconds })
    }

    fn id(&mut self) -> Option<ChunkId> {
        self.take(ChunkId::LENGTH)?.try_into().ok().map(ChunkId)
    }
}

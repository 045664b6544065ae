//! `snapshots/<id>`: the immutable manifest of one backup. Page: `format-spec/snapshot.md`.
//!
//! Two parts: what every role sees (sealed under `meta`), and the private part, sealed like
//! payload, which only owners read.

use super::ids::ChunkId;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::{
    LABEL_BYTES_MAX, NOT_CAPTURED_BYTES_TARGET, NOT_CAPTURED_LISTED_MAX, OBJECT_BYTES_MAX, PATH_BYTES_MAX,
    SOURCES_BYTES_TARGET, SOURCES_MAX,
};

/// What was backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SourceKind {
    /// A directory tree.
    Tree = 0,
    /// One stream, as a tree of one file.
    Stream = 1,
}

/// What a snapshot holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files, every name of a hard-link group.
    pub files: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Symlinks, devices and fifos.
    pub others: u64,
    /// Sum of the files' sizes in bytes, holes included.
    pub bytes: u64,
    /// Entries left out on purpose.
    pub omitted: u64,
    /// Entries that should have been captured and were not, or not consistently.
    pub issues: u64,
}

impl Counts {
    /// Entries of all kinds. What a writer states may be any numbers.
    pub fn entries(&self) -> u64 {
        self.files.saturating_add(self.directories).saturating_add(self.others)
    }

    /// What was left out, and what could not be captured.
    pub fn not_captured(&self) -> u64 {
        self.omitted.saturating_add(self.issues)
    }
}

/// What every role sees of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The series it belongs to.
    pub dataset: String,
    /// The host it was taken on.
    pub host: String,
    /// When it was begun, nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// When reading the source ended, nanoseconds since the Unix epoch.
    pub finished_at: i64,
    /// Tags given at the backup, ascending.
    pub tags: Vec<String>,
    /// Kind of source.
    pub source: SourceKind,
    /// The top chunk of the root directory's tree.
    pub root: ChunkId,
    /// In numbers.
    pub counts: Counts,
    /// Something was not captured, or not consistently.
    pub partial: bool,
    /// The average chunk size used, in bytes.
    pub chunk_average_bytes: u64,
    /// Name and version of the program that wrote it.
    pub program: String,
    /// The private part, sealed: HPKE encapsulated key, sealed secret, commitment, ciphertext.
    pub private: Vec<u8>,
}

impl Snapshot {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(12).uint(1).text(&self.dataset).uint(2).text(&self.host);
        cbor.uint(3).int(self.started_at).uint(4).int(self.finished_at).uint(5).array(self.tags.len());
        self.tags.iter().for_each(|tag| {
            cbor.text(tag);
        });
        cbor.uint(6).uint(self.source as u64).uint(7).bytes(&self.root.0);
        let counts = &self.counts;
        cbor.uint(8).array(6).uint(counts.files).uint(counts.directories).uint(counts.others);
        cbor.uint(counts.bytes).uint(counts.omitted).uint(counts.issues);
        cbor.uint(9).bool(self.partial).uint(10).uint(self.chunk_average_bytes).uint(11).text(&self.program);
        cbor.uint(12).bytes(&self.private);
        cbor.finish()
    }

    /// # Errors
    /// `SNAPSHOT-1` unknown kind of source; `TAGS-1`; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let dataset = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 2)?;
        let host = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 3)?;
        let started_at = cbor.int()?;
        cbor.field(&mut fields, 4)?;
        let finished_at = cbor.int()?;
        cbor.field(&mut fields, 5)?;
        let tags = super::verdict::decode_tags(&mut cbor)?;
        cbor.field(&mut fields, 6)?;
        let source = match cbor.uint()? {
            0 => SourceKind::Tree,
            1 => SourceKind::Stream,
            code => return Err(DecodeError::new("SNAPSHOT-1", format!("unknown kind of source {code}"))),
        };
        cbor.field(&mut fields, 7)?;
        let root = ChunkId(cbor.fixed()?);
        cbor.field(&mut fields, 8)?;
        cbor.tuple(6)?;
        let counts = Counts {
            files: cbor.uint()?,
            directories: cbor.uint()?,
            others: cbor.uint()?,
            bytes: cbor.uint()?,
            omitted: cbor.uint()?,
            issues: cbor.uint()?,
        };
        cbor.field(&mut fields, 9)?;
        let partial = cbor.bool()?;
        cbor.field(&mut fields, 10)?;
        let chunk_average_bytes = cbor.uint()?;
        cbor.field(&mut fields, 11)?;
        let program = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 12)?;
        let private = cbor.bytes(OBJECT_BYTES_MAX)?.to_vec();
        cbor.no_more(&fields)?;
        let snapshot = Snapshot {
            dataset,
            host,
            started_at,
            finished_at,
            tags,
            source,
            root,
            counts,
            partial,
            chunk_average_bytes,
            program,
            private,
        };
        canonical(bytes, &snapshot.encode())?;
        Ok(snapshot)
    }
}

/// Something that is not in the snapshot, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCaptured {
    /// Path from the snapshot's root, raw bytes.
    pub path: Vec<u8>,
    /// The stable name of the omission or of the issue's kind.
    pub why: String,
    /// What happened, for a person; empty for an omission.
    pub detail: String,
}

/// Detail text that a reader takes, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// The first of what was not captured, so far as a snapshot has room to name it one by one.
#[derive(Clone, Debug, Default)]
pub struct NotCapturedList {
    listed: Vec<NotCaptured>,
    bytes: usize,
    full: bool,
}

impl NotCapturedList {
    /// Takes it if there is room still; what comes after something that was not taken isn't taken either.
    pub fn push(&mut self, mut item: NotCaptured) {
        // An entry may be reported just because its path is longer than any that is stored.
        item.path.truncate(PATH_BYTES_MAX);
        item.why.truncate(item.why.floor_char_boundary(LABEL_BYTES_MAX));
        item.detail.truncate(item.detail.floor_char_boundary(DETAIL_BYTES_MAX));
        let bytes = item.path.len() + item.why.len() + item.detail.len() + 16;
        self.full |= self.listed.len() >= NOT_CAPTURED_LISTED_MAX || self.bytes + bytes > NOT_CAPTURED_BYTES_TARGET;
        if !self.full {
            self.bytes += bytes;
            self.listed.push(item);
        }
    }

    /// What was taken, in order.
    pub fn into_listed(self) -> Vec<NotCaptured> {
        self.listed
    }
}

/// True when a snapshot has room for source paths of these lengths in bytes.
pub fn has_room_for_sources(lengths: impl Iterator<Item = usize>) -> bool {
    let (mut count, mut bytes) = (0, 0usize);
    for length in lengths {
        if length > PATH_BYTES_MAX {
            return false;
        }
        (count, bytes) = (count + 1, bytes + length + 5);
    }
    count <= SOURCES_MAX && bytes <= SOURCES_BYTES_TARGET
}

/// What only owners see of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPrivate {
    /// The source paths, absolute and by their text, or the stream's name; raw bytes.
    pub sources: Vec<Vec<u8>>,
    /// The directory that the snapshot's root was, raw bytes; empty for a stream.
    pub root_path: Vec<u8>,
    /// The command whose output was stored, without its arguments; empty for none.
    pub command: Vec<u8>,
    /// What was left out on purpose, up to a bound; the counts are whole.
    pub omitted: Vec<NotCaptured>,
    /// What failed, up to a bound; the counts are whole.
    pub issues: Vec<NotCaptured>,
}

impl SnapshotPrivate {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(5).uint(1).array(self.sources.len());
        self.sources.iter().for_each(|path| {
            cbor.bytes(path);
        });
        cbor.uint(2).bytes(&self.root_path).uint(3).bytes(&self.command);
        for (key, list) in [(4, &self.omitted), (5, &self.issues)] {
            cbor.uint(key).array(list.len());
            for item in list {
                cbor.array(3).bytes(&item.path).text(&item.why).text(&item.detail);
            }
        }
        cbor.finish()
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let mut sources = Vec::new();
        for _ in 0..cbor.array(SOURCES_MAX)? {
            sources.push(cbor.bytes(PATH_BYTES_MAX)?.to_vec());
        }
        cbor.field(&mut fields, 2)?;
        let root_path = cbor.bytes(PATH_BYTES_MAX)?.to_vec();
        cbor.field(&mut fields, 3)?;
        let command = cbor.bytes(PATH_BYTES_MAX)?.to_vec();
        let mut lists = [Vec::new(), Vec::new()];
        for (key, list) in lists.iter_mut().enumerate() {
            cbor.field(&mut fields, key as u64 + 4)?;
            for _ in 0..cbor.array(NOT_CAPTURED_LISTED_MAX)? {
                cbor.tuple(3)?;
                let path = cbor.bytes(PATH_BYTES_MAX)?.to_vec();
                list.push(NotCaptured { path, why: cbor.text(LABEL_BYTES_MAX)?, detail: cbor.text(DETAIL_BYTES_MAX)? });
            }
        }
        cbor.no_more(&fields)?;
        let [omitted, issues] = lists;
        let private = SnapshotPrivate { sources, root_path, command, omitted, issues };
        canonical(bytes, &private.encode())?;
        Ok(private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_numbers_can_be_added_up() {
        let most = u64::MAX;
        let stated = Counts { files: most, directories: 1, others: 1, bytes: 0, omitted: most, issues: most };
        assert_eq!((stated.entries(), stated.not_captured()), (most, most));
    }
}

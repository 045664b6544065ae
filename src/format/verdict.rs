//! `verdicts/<snapshot>/<k>-<hash>` and `tags/<snapshot>/<k>-<hash>`: what was said of a snapshot
//! after it was written. Page: `format-spec/verdict.md`.

use super::ids::SnapshotId;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::{LABEL_BYTES_MAX, TAGS_MAX};

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ruling {
    /// The snapshot no longer counts.
    Forget = 0,
    /// It counts again.
    Unforget = 1,
    /// It may not be forgotten.
    Hold = 2,
    /// The hold is over.
    Release = 3,
}

impl Ruling {
    /// `forget`, `unforget`, `hold` or `release`.
    pub fn name(self) -> &'static str {
        match self {
            Ruling::Forget => "forget",
            Ruling::Unforget => "unforget",
            Ruling::Hold => "hold",
            Ruling::Release => "release",
        }
    }
}

/// A numbered decision on a snapshot; the highest number wins, several at that number resolve to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The number in its name.
    pub number: u64,
    /// The decision.
    pub ruling: Ruling,
    /// When, nanoseconds since the Unix epoch.
    pub decided_at: i64,
    /// Why, for people.
    pub reason: String,
    /// When a hold ends by itself, nanoseconds since the Unix epoch; `None` for one without end, and for
    /// every other ruling.
    pub until: Option<i64>,
}

impl Verdict {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(5 + usize::from(self.until.is_some()))
            .uint(1)
            .bytes(&self.snapshot.0)
            .uint(2)
            .uint(self.number)
            .uint(3)
            .uint(self.ruling as u64);
        cbor.uint(4).int(self.decided_at).uint(5).text(&self.reason);
        if let Some(until) = self.until {
            cbor.uint(6).int(until);
        }
        cbor.finish()
    }

    /// # Errors
    /// `VERDICT-1` unknown ruling, `VERDICT-7` an end of what is no hold; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let snapshot = SnapshotId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 3)?;
        let ruling = match cbor.uint()? {
            0 => Ruling::Forget,
            1 => Ruling::Unforget,
            2 => Ruling::Hold,
            3 => Ruling::Release,
            code => return Err(DecodeError::new("VERDICT-1", format!("unknown ruling {code}"))),
        };
        cbor.field(&mut fields, 4)?;
        let decided_at = cbor.int()?;
        cbor.field(&mut fields, 5)?;
        let reason = cbor.text(4096)?;
        let until = match cbor.optional(&mut fields, 6)? {
            true if ruling != Ruling::Hold => {
                return Err(DecodeError::new("VERDICT-7", "only a hold has an end"));
            }
            true => Some(cbor.int()?),
            false => None,
        };
        cbor.no_more(&fields)?;
        let verdict = Verdict { snapshot, number, ruling, decided_at, reason, until };
        canonical(bytes, &verdict.encode())?;
        Ok(verdict)
    }
}

/// A numbered replacement of a snapshot's tags; the highest number wins, several at that number unite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The number in its name.
    pub number: u64,
    /// All its tags from now on, ascending.
    pub tags: Vec<String>,
}

impl Tags {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(3).uint(1).bytes(&self.snapshot.0).uint(2).uint(self.number).uint(3).array(self.tags.len());
        self.tags.iter().for_each(|tag| {
            cbor.text(tag);
        });
        cbor.finish()
    }

    /// # Errors
    /// `TAGS-1` when the tags are not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let snapshot = SnapshotId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 3)?;
        let tags = decode_tags(&mut cbor)?;
        cbor.no_more(&fields)?;
        let tags = Tags { snapshot, number, tags };
        canonical(bytes, &tags.encode())?;
        Ok(tags)
    }
}

/// Reads an ascending array of tags.
pub(super) fn decode_tags(cbor: &mut CborReader<'_>) -> Result<Vec<String>, DecodeError> {
    let mut tags: Vec<String> = Vec::new();
    for _ in 0..cbor.array(TAGS_MAX)? {
        let tag = cbor.text(LABEL_BYTES_MAX)?;
        if tags.last().is_some_and(|last| *last >= tag) {
            return Err(DecodeError::new("TAGS-1", "tags not in ascending order"));
        }
        tags.push(tag);
    }
    Ok(tags)
}

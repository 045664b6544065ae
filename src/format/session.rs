//! `sessions/<sid>/<k>`, `sessions/<sid>/end` and `commits/<sid>`: one writer's attempt in one region.
//! Page: `format-spec/sessions.md`. All sign repository and region, so that none counts elsewhere.

use super::ids::{PackId, RegionId, SessionId, SnapshotId};
use super::wire::{CborReader, CborWriter, DecodeError, canonical};

const NEEDS_MAX: usize = 1 << 18;
const BASES_MAX: usize = 256;

/// One state of an open session; the highest `number` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session.
    pub session: SessionId,
    /// The number in its name.
    pub number: u64,
    /// The region it is in.
    pub region: RegionId,
    /// The newest gc generation that its writer has taken into account.
    pub observed: u64,
    /// Condemned packs that it relies on, ascending.
    pub needs: Vec<PackId>,
    /// Sessions whose packs it adopts, ascending.
    pub adopts: Vec<SessionId>,
    /// When it was opened, nanoseconds since the Unix epoch; for display only.
    pub started_at: i64,
    /// Snapshots whose chunks it relies on without looking them up, ascending.
    pub bases: Vec<SnapshotId>,
}

impl Session {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(if self.bases.is_empty() { 7 } else { 8 })
            .uint(1)
            .bytes(&self.session.0)
            .uint(2)
            .uint(self.number)
            .uint(3)
            .bytes(&self.region.0);
        cbor.uint(4).uint(self.observed).uint(5).array(self.needs.len());
        self.needs.iter().for_each(|pack| {
            cbor.bytes(&pack.0);
        });
        cbor.uint(6).array(self.adopts.len());
        self.adopts.iter().for_each(|session| {
            cbor.bytes(&session.0);
        });
        cbor.uint(7).int(self.started_at);
        if !self.bases.is_empty() {
            cbor.uint(8).array(self.bases.len());
            self.bases.iter().for_each(|snapshot| {
                cbor.bytes(&snapshot.0);
            });
        }
        cbor.finish()
    }

    /// # Errors
    /// `SESSION-1` when a list is not ascending; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let session = SessionId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let number = cbor.uint()?;
        cbor.field(&mut fields, 3)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 4)?;
        let observed = cbor.uint()?;
        cbor.field(&mut fields, 5)?;
        let needs = ascending(&mut cbor, NEEDS_MAX, "SESSION-1", PackId)?;
        cbor.field(&mut fields, 6)?;
        let adopts = ascending(&mut cbor, NEEDS_MAX, "SESSION-1", SessionId)?;
        cbor.field(&mut fields, 7)?;
        let started_at = cbor.int()?;
        let bases = match cbor.optional(&mut fields, 8)? {
            true => ascending(&mut cbor, BASES_MAX, "SESSION-1", SnapshotId)?,
            false => Vec::new(),
        };
        cbor.no_more(&fields)?;
        let state = Session { session, number, region, observed, needs, adopts, started_at, bases };
        canonical(bytes, &state.encode())?;
        Ok(state)
    }
}

/// Reads a strictly ascending array of fixed-size identifiers.
pub(super) fn ascending<const N: usize, T: Ord>(
    cbor: &mut CborReader<'_>,
    max: usize,
    rule: &'static str,
    wrap: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, DecodeError> {
    let count = cbor.array(max)?;
    let mut items: Vec<T> = Vec::new();
    for _ in 0..count {
        let item = wrap(cbor.fixed()?);
        if items.last().is_some_and(|last| *last >= item) {
            return Err(DecodeError::new(rule, "identifiers not in ascending order"));
        }
        items.push(item);
    }
    Ok(items)
}

/// The end of a session that saved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// The session.
    pub session: SessionId,
    /// The region it was in.
    pub region: RegionId,
}

impl SessionEnd {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(2).uint(1).bytes(&self.session.0).uint(2).bytes(&self.region.0);
        cbor.finish()
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let session = SessionId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.no_more(&fields)?;
        let end = SessionEnd { session, region };
        canonical(bytes, &end.encode())?;
        Ok(end)
    }
}

/// One region's word that it holds a snapshot whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The session that it completes, as in its name.
    pub session: SessionId,
    /// The region that it speaks for.
    pub region: RegionId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The newest gc generation that its writer had taken into account.
    pub observed: u64,
}

impl Commit {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(4).uint(1).bytes(&self.session.0).uint(2).bytes(&self.region.0);
        cbor.uint(3).bytes(&self.snapshot.0).uint(4).uint(self.observed);
        cbor.finish()
    }

    /// # Errors
    /// A `CBOR` rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let session = SessionId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let region = RegionId(cbor.fixed()?);
        cbor.field(&mut fields, 3)?;
        let snapshot = SnapshotId(cbor.fixed()?);
        cbor.field(&mut fields, 4)?;
        let observed = cbor.uint()?;
        cbor.no_more(&fields)?;
        let commit = Commit { session, region, snapshot, observed };
        canonical(bytes, &commit.encode())?;
        Ok(commit)
    }
}

//! `audit/<slot>/<n>`: a slot's own record of what it was about to destroy or grant.
//! Page: `format-spec/audit.md`.

use super::ids::{Digest, SlotId};
use super::session::ascending;
use super::wire::{CborReader, CborWriter, DecodeError, canonical};
use crate::limits::{AUDIT_SUBJECTS_MAX, LABEL_BYTES_MAX};

/// Entries that one entry may follow: the ends of a chain's branches.
pub const PREVIOUS_MAX: usize = 64;
/// Bytes of a subject: the longest identifier of the format.
pub const SUBJECT_BYTES_MAX: usize = 32;
/// Numbers beside an entry.
pub const FIGURES_MAX: usize = 64;
/// Bytes of a reason.
pub const REASON_BYTES_MAX: usize = 4096;

/// What was about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// The repository was made. Subject: the slot.
    Init = 0,
    /// Verdicts *forget*. Subjects: snapshots.
    Forget = 1,
    /// Verdicts *unforget*. Subjects: snapshots.
    Unforget = 2,
    /// Verdicts *hold*. Subjects: snapshots.
    Hold = 3,
    /// Verdicts *release*. Subjects: snapshots.
    Release = 4,
    /// Snapshots forgotten below a floor that was overridden. Subjects: snapshots.
    BreakFloor = 5,
    /// The final of a generation: from here on packs are deleted. Subject: the region.
    GcFinal = 6,
    /// A slot was added. Subject: the slot.
    KeyAdd = 7,
    /// A slot was retired: its key files go, what it signed stays accepted. Subject: the slot.
    KeyRemove = 8,
    /// A slot was revoked: what it signed no longer counts. Subject: the slot.
    KeyRevoke = 9,
    /// A new epoch. Subjects: the slots that its rings are sealed to.
    KeyRotate = 10,
    /// A slot's key file was wrapped anew. Subject: the slot.
    KeyRewrap = 11,
    /// Two rosters of one number were merged. Subjects: the rosters' digests.
    RosterMerge = 12,
    /// Damaged or missing objects were replaced. Subjects: their digests.
    Repair = 13,
    /// Packs of others were vouched for. No subjects: the attestation lists them.
    Attest = 14,
    /// A region was made in an empty store. Subject: the region.
    RegionAdd = 15,
    /// Somebody was designated to collect in a region. Subject: the region.
    Designate = 16,
    /// A snapshot's tags were changed, by which a policy may keep it. Subject: the snapshot.
    Tag = 17,
}

impl Action {
    /// All of them, by code.
    pub const ALL: [Action; 18] = [
        Action::Init,
        Action::Forget,
        Action::Unforget,
        Action::Hold,
        Action::Release,
        Action::BreakFloor,
        Action::GcFinal,
        Action::KeyAdd,
        Action::KeyRemove,
        Action::KeyRevoke,
        Action::KeyRotate,
        Action::KeyRewrap,
        Action::RosterMerge,
        Action::Repair,
        Action::Attest,
        Action::RegionAdd,
        Action::Designate,
        Action::Tag,
    ];

    /// The action's name in output and in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Action::Init => "init",
            Action::Forget => "forget",
            Action::Unforget => "unforget",
            Action::Hold => "hold",
            Action::Release => "release",
            Action::BreakFloor => "break-floor",
            Action::GcFinal => "gc-final",
            Action::KeyAdd => "key-add",
            Action::KeyRemove => "key-remove",
            Action::KeyRevoke => "key-revoke",
            Action::KeyRotate => "key-rotate",
            Action::KeyRewrap => "key-rewrap",
            Action::RosterMerge => "roster-merge",
            Action::Repair => "repair",
            Action::Attest => "attest",
            Action::RegionAdd => "region-add",
            Action::Designate => "designate",
            Action::Tag => "tag",
        }
    }
}

/// One entry of a slot's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Whose chain it is in, as in its name; also its signer.
    pub slot: SlotId,
    /// The number in its name; from 1.
    pub number: u64,
    /// Digests of the entries that it follows, ascending: one, or the ends of all branches that its writer
    /// saw. None for the first.
    pub previous: Vec<Digest>,
    /// The slot's name for people, as the roster had it.
    pub label: String,
    /// The machine, as it calls itself.
    pub host: String,
    /// When, nanoseconds since the Unix epoch, by that machine's clock; for display only.
    pub recorded_at: i64,
    /// What was about to be done.
    pub action: Action,
    /// To what: identifiers as the action says, ascending.
    pub subjects: Vec<Vec<u8>>,
    /// Numbers that belong to it, ascending by name.
    pub figures: Vec<(String, u64)>,
    /// Why, for people.
    pub reason: String,
}

impl AuditEntry {
    /// Canonical CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut cbor = CborWriter::new();
        cbor.map(10).uint(1).bytes(&self.slot.0).uint(2).uint(self.number).uint(3).array(self.previous.len());
        self.previous.iter().for_each(|digest| {
            cbor.bytes(&digest.0);
        });
        cbor.uint(4).text(&self.label).uint(5).text(&self.host).uint(6).int(self.recorded_at);
        cbor.uint(7).uint(self.action as u64).uint(8).array(self.subjects.len());
        self.subjects.iter().for_each(|subject| {
            cbor.bytes(subject);
        });
        cbor.uint(9).array(self.figures.len());
        self.figures.iter().for_each(|(name, value)| {
            cbor.array(2).text(name).uint(*value);
        });
        cbor.uint(10).text(&self.reason);
        cbor.finish()
    }

    /// # Errors
    /// `AUDIT-1` an unknown action, `AUDIT-2` a list not ascending, `AUDIT-3` the number 0; `CBOR` rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cbor = CborReader::new(bytes);
        let mut fields = cbor.map()?;
        cbor.field(&mut fields, 1)?;
        let slot = SlotId(cbor.fixed()?);
        cbor.field(&mut fields, 2)?;
        let number = cbor.uint()?;
        if number == 0 {
            return Err(DecodeError::new("AUDIT-3", "a chain begins at 1, and this is entry 0"));
        }
        cbor.field(&mut fields, 3)?;
        let previous = ascending(&mut cbor, PREVIOUS_MAX, "AUDIT-2", Digest)?;
        cbor.field(&mut fields, 4)?;
        let label = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 5)?;
        let host = cbor.text(LABEL_BYTES_MAX)?;
        cbor.field(&mut fields, 6)?;
        let recorded_at = cbor.int()?;
        cbor.field(&mut fields, 7)?;
        let code = cbor.uint()?;
        let action = Action::ALL.into_iter().find(|action| *action as u64 == code).ok_or_else(|| {
            DecodeError::new("AUDIT-1", format!("unknown action {code}: a newer program may know it"))
        })?;
        cbor.field(&mut fields, 8)?;
        let mut subjects: Vec<Vec<u8>> = Vec::new();
        for _ in 0..cbor.array(AUDIT_SUBJECTS_MAX)? {
            subjects.push(in_order(subjects.last(), cbor.bytes(SUBJECT_BYTES_MAX)?.to_vec())?);
        }
        cbor.field(&mut fields, 9)?;
        let mut figures: Vec<(String, u64)> = Vec::new();
        for _ in 0..cbor.array(FIGURES_MAX)? {
            cbor.tuple(2)?;
            let name = in_order(figures.last().map(|(name, _)| name), cbor.text(LABEL_BYTES_MAX)?)?;
            figures.push((name, cbor.uint()?));
        }
        cbor.field(&mut fields, 10)?;
        let reason = cbor.text(REASON_BYTES_MAX)?;
        cbor.no_more(&fields)?;
        let entry = AuditEntry { slot, number, previous, label, host, recorded_at, action, subjects, figures, reason };
        canonical(bytes, &entry.encode())?;
        Ok(entry)
    }
}

/// `item`, which must come after `last`.
fn in_order<T: Ord>(last: Option<&T>, item: T) -> Result<T, DecodeError> {
    match last.is_some_and(|last| *last >= item) {
        true => Err(DecodeError::new("AUDIT-2", "subjects or figures not in ascending order")),
        false => Ok(item),
    }
}

//! The small objects of one region: rosters, rings and key files of every slot, sessions.
//!
//! Opening a repository reads each of these from whichever region has it first; here every region's own
//! copy is read, since each region must open by itself.

use super::CheckError;
use super::run::Run;
use crate::crypto::keyring::open_ring;
use crate::crypto::object;
use crate::format::accepted::{Accepted, accepted_name};
use crate::format::envelope::ObjectKind;
use crate::format::ids::{RegionId, SessionId, number_from_name, number_name};
use crate::format::ring::Ring;
use crate::format::roster::{Roster, SlotState};
use crate::format::session::{Session, SessionEnd};
use crate::format::wire::DecodeError;
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::repo::RepoError;
use crate::repo::attest::verify_region as read_attestations;
use crate::repo::open::{
    RegionHandle, RegionSpec, WRITERS, parse_key_name, parse_ring_name, parse_roster_name, read_root_signed,
};
use crate::report::IssueKind;
use crate::store::{Listed, list_sorted};
use std::collections::{BTreeMap, BTreeSet};

/// The first line of every age file.
pub(super) const AGE_FIRST_LINE: &[u8] = b"age-encryption.org/v1\n";

/// Verifies them all; gives how many there are.
pub(super) fn verify(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let mut objects = rosters(run, region)?;
    objects += rings(run, region)?;
    objects += key_files(run, region)?;
    objects += sessions(run, region)?;
    objects += accepted_lists(run, region)?;
    objects += attestations(run, region)?;
    Ok(objects)
}

fn list(region: &RegionHandle, prefix: &str) -> Result<Vec<Listed>, RepoError> {
    list_sorted(&*region.store, prefix).map_err(|error| region.error(error))
}

fn misnamed(region: &RegionHandle, name: &str, detail: String) -> RepoError {
    region.object_error(name, DecodeError::new("OBJ-10", detail))
}

fn rosters(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let spec = RegionSpec::from(region);
    let config = &run.repository.config;
    let (mut count, mut newest) = (0, 0);
    for Listed { name, .. } in list(region, "roster/")? {
        let Some((number, digest)) = parse_roster_name(&name) else { continue };
        count += 1;
        let read = || {
            let missing = || RepoError::Missing { region: region.name.clone(), name: name.clone() };
            let (payload, actual) =
                read_root_signed(&spec, ObjectKind::Roster, &name, Some(config))?.ok_or_else(missing)?;
            let roster = Roster::decode(&payload).map_err(|source| region.object_error(&name, source))?;
            match actual == digest && roster.number == number {
                true => Ok(()),
                false => Err(misnamed(region, &name, format!("it is roster {} of digest {actual}", roster.number))),
            }
        };
        match read() {
            Ok(()) => newest = newest.max(number),
            Err(error) => run.findings.note(&region.name, &name, error)?,
        }
    }
    let current = run.repository.roster.number;
    match newest {
        0 if count == 0 => {
            let name = format!("roster/{}-*", number_name(current));
            run.findings.issue(IssueKind::Missing, &region.name, &name, "no roster: this region can't be opened");
        }
        newest if newest < current => run.findings.difference(format!(
            "region '{}' holds key roster {newest}, the newest is {current}: a change of keys did not reach it",
            region.name
        )),
        _ => {}
    }
    Ok(count)
}

fn rings(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let spec = RegionSpec::from(region);
    let repository = run.repository;
    let mut found = BTreeSet::new();
    for Listed { name, .. } in list(region, "ring/")? {
        let Some((epoch, slot)) = parse_ring_name(&name) else { continue };
        found.insert((epoch, slot));
        let read = || {
            let missing = || RepoError::Missing { region: region.name.clone(), name: name.clone() };
            let (payload, _) =
                read_root_signed(&spec, ObjectKind::Ring, &name, Some(&repository.config))?.ok_or_else(missing)?;
            let ring = Ring::decode(&payload).map_err(|source| region.object_error(&name, source))?;
            if (ring.epoch, ring.slot) != (epoch, slot) {
                let detail = format!("it is the ring of epoch {} for slot {}", ring.epoch, ring.slot);
                return Err(misnamed(region, &name, detail));
            }
            if slot == repository.secrets.slot {
                let config = &repository.config;
                open_ring(config.suite, config.repository, &ring, &repository.secrets.kem_private)
                    .map_err(|source| region.crypto_error(&name, source))?;
            }
            Ok(())
        };
        if let Err(error) = read() {
            run.findings.note(&region.name, &name, error)?;
        }
    }
    for slot in repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Active) {
        for epoch in repository.keyring.rings().keys() {
            if !found.contains(&(*epoch, slot.slot)) {
                let name = format!("ring/{}/{}", number_name(*epoch), slot.slot);
                let detail = format!("slot {} ({}) can't open this region without it", slot.slot, slot.label);
                run.findings.issue(IssueKind::Missing, &region.name, &name, detail);
            }
        }
    }
    Ok(found.len() as u64)
}

/// Each part that the roster names must be whole here: this region must say by itself what counts.
fn accepted_lists(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let (spec, config) = (RegionSpec::from(region), &run.repository.config);
    let mut count = 0;
    for parts in &run.repository.roster.accepted {
        for number in parts.first..parts.first + parts.count {
            let name = accepted_name(parts.slot, number);
            count += 1;
            let read = || {
                let missing = || RepoError::Missing { region: region.name.clone(), name: name.clone() };
                let found = read_root_signed(&spec, ObjectKind::Accepted, &name, Some(config))?;
                let (payload, _) = found.ok_or_else(missing)?;
                let part = Accepted::decode(&payload).map_err(|source| region.object_error(&name, source))?;
                match (part.slot, part.number) == (parts.slot, number) {
                    true => Ok(()),
                    false => Err(misnamed(region, &name, format!("it is part {} of slot {}", part.number, part.slot))),
                }
            };
            if let Err(error) = read() {
                run.findings.note(&region.name, &name, error)?;
            }
        }
    }
    Ok(count)
}

fn attestations(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let (found, issues) = read_attestations(run.repository, region)?;
    issues.into_iter().for_each(|issue| run.findings.push(issue));
    Ok(found)
}

fn key_files(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let (mut count, mut found) = (0, BTreeSet::new());
    for Listed { name, size } in list(region, "keys/")? {
        let Some((slot, _)) = parse_key_name(&name) else { continue };
        count += 1;
        found.insert(slot);
        if size > KEY_FILE_BYTES_MAX as u64 {
            let detail = format!("{size} bytes, at most {KEY_FILE_BYTES_MAX} allowed");
            run.findings.issue(IssueKind::Damaged, &region.name, &name, detail);
            continue;
        }
        match region.get(&name) {
            Ok(file) if file.starts_with(AGE_FIRST_LINE) => {}
            Ok(_) => run.findings.issue(IssueKind::Damaged, &region.name, &name, "it is no age file"),
            Err(error) => run.findings.note(&region.name, &name, error)?,
        }
    }
    for slot in run.repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Active) {
        if !found.contains(&slot.slot) {
            let name = format!("keys/{}/*.age", slot.slot);
            let detail = format!("slot {} ({}) can't open this region without it", slot.slot, slot.label);
            run.findings.issue(IssueKind::Missing, &region.name, &name, detail);
        }
    }
    Ok(count)
}

/// Key files carry no digest; the same name holds the same bytes in every region, so a difference shows
/// that a copy is damaged, though not which.
pub(super) fn compare_key_files(run: &Run<'_>) -> Result<(), CheckError> {
    let mut first: BTreeMap<String, (&RegionHandle, Vec<u8>)> = BTreeMap::new();
    for region in &run.repository.regions {
        for Listed { name, .. } in list(region, "keys/")? {
            // What can't be read was said when the region was checked.
            let Ok(file) = region.store.get(&name, KEY_FILE_BYTES_MAX as u64) else { continue };
            match first.get(&name) {
                Some((other, bytes)) if *bytes != file => {
                    let detail = |other: &str| format!("it differs from the copy in region '{other}': one is damaged");
                    run.findings.issue(IssueKind::Damaged, &region.name, &name, detail(&other.name));
                    run.findings.issue(IssueKind::Damaged, &other.name, &name, detail(&region.name));
                }
                Some(_) => {}
                None => {
                    first.insert(name, (region, file));
                }
            }
        }
    }
    Ok(())
}

fn sessions(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let listed = list(region, "sessions/")?;
    run.findings.parallel(run.threads(), listed.len(), &|at| {
        let name = &listed[at].name;
        match session(run, region, name) {
            Ok(()) => Ok(()),
            Err(error) => run.findings.note(&region.name, name, error),
        }
    })?;
    Ok(listed.len() as u64)
}

fn session(run: &Run<'_>, region: &RegionHandle, name: &str) -> Result<(), RepoError> {
    let parsed = name.strip_prefix("sessions/").and_then(|name| name.split_once('/'));
    let Some((sid, part)) = parsed.and_then(|(sid, part)| Some((SessionId::from_hex(sid)?, part))) else {
        return Ok(());
    };
    let number = number_from_name(part);
    let kind = match (number, part) {
        (Some(_), _) => ObjectKind::Session,
        (None, "end") => ObjectKind::SessionEnd,
        _ => return Ok(()),
    };
    let bytes = region.get(name)?;
    let decode = |source| region.object_error(name, source);
    let signed = object::decode(kind, run.repository.config.repository, &bytes).map_err(decode)?;
    run.repository.verify_slot(&signed, &WRITERS).map_err(|source| region.crypto_error(name, source))?;
    let payload = signed.envelope.payload;
    let (stated, stated_number, stated_region): (SessionId, Option<u64>, RegionId) = match kind {
        ObjectKind::Session => {
            let state = Session::decode(payload).map_err(decode)?;
            (state.session, Some(state.number), state.region)
        }
        _ => {
            let end = SessionEnd::decode(payload).map_err(decode)?;
            (end.session, None, end.region)
        }
    };
    if stated != sid || stated_number != number {
        return Err(misnamed(region, name, format!("it is of session {stated}, state {stated_number:?}")));
    }
    if stated_region != region.info.region {
        return Err(decode(DecodeError::new("COUNT-3", format!("it speaks for region {stated_region}"))));
    }
    Ok(())
}

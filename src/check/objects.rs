//! The small objects of one region: rosters, rings and key files of every slot, sessions.
//!
//! Opening a repository reads each of these from whichever region has it first; here every region's own
//! copy is read, since each region must open by itself.

use super::CheckError;
use super::run::Run;
use crate::crypto::object;
use crate::format::accepted::accepted_name;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, RegionId, SessionId, SlotId, number_from_name, number_name};
use crate::format::roster::{Roster, SlotState};
use crate::format::session::{Session, SessionEnd};
use crate::format::wire::DecodeError;
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::repo::RepoError;
use crate::repo::accepted::read_part;
use crate::repo::attest::verify_region as read_attestations;
use crate::repo::key_names::{key_name, parse_key_name, parse_ring_name, parse_roster_name, ring_name};
use crate::repo::open::{RegionHandle, RegionSpec, WRITERS, read_ring, read_root_signed, read_sealed_ring};
use crate::repo::snapshots::{parse_numbered, read_numbered};
use crate::report::IssueKind;
use crate::store::{Listed, list_sorted};
use crate::timing::Stage;
use std::collections::{BTreeMap, BTreeSet};

/// The first line of every age file.
pub(super) const AGE_FIRST_LINE: &[u8] = b"age-encryption.org/v1\n";
/// Why a damaged ring may be no damage of its region, and what mends it.
pub(super) const BESIDE_A_WHOLE_ONE: &str = "a whole one of the same slot and epoch lies beside it; an owner's `keepstone \
    replicate` puts it right from another region, and where none has it, it may be deleted by hand once the slot opens \
    this region alone";

/// Verifies them all; gives how many there are.
pub(super) fn verify(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let mut objects = rosters(run, region)?;
    objects += rings(run, region)?;
    objects += key_files(run, region)?;
    objects += sessions(run, region)?;
    objects += accepted_lists(run, region)?;
    objects += attestations(run, region)?;
    decisions(run, region)?;
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

/// Every ring must be whole; of this slot's own, one of each stated epoch must be what the roster states. One
/// of another rotation that lies beside such a one is left over, and no damage; nor is one that is damaged beside a
/// whole one, or that nothing needs any more: these are told.
fn rings(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let repository = run.repository;
    let (config, roster, secrets) = (&repository.config, &repository.roster, &repository.secrets);
    let (mut found, mut whole, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut wrong: Vec<((u64, SlotId), String, RepoError)> = Vec::new();
    for Listed { name, .. } in list(region, "ring/")? {
        let Some((epoch, slot)) = parse_ring_name(&name) else { continue };
        count += 1;
        found.insert((epoch, slot));
        let read = match slot == secrets.slot && roster.has_epoch(epoch) {
            true => read_ring(config, roster, region, &name, secrets).map(|ring| ring.map(drop)),
            false => read_sealed_ring(config, region, &name).map(|ring| ring.map(drop)),
        };
        let missing = || RepoError::Missing { region: region.name.clone(), name: name.clone() };
        match read.and_then(|ring| ring.ok_or_else(missing)) {
            Ok(()) => drop(whole.insert((epoch, slot))),
            Err(error) => wrong.push(((epoch, slot), name, error)),
        }
    }
    for ((epoch, slot), name, error) in wrong {
        let needed = roster.has_epoch(epoch) && roster.slot(slot).is_some_and(|slot| slot.state == SlotState::Active);
        let what = match &error {
            RepoError::Object { source, .. } if source.rule == "RING-5" && whole.contains(&(epoch, slot)) => continue,
            RepoError::Object { .. } | RepoError::Crypto { .. } if whole.contains(&(epoch, slot)) => BESIDE_A_WHOLE_ONE,
            RepoError::Object { .. } | RepoError::Crypto { .. } if !needed => {
                "its slot is not in use any more, or no roster states its epoch: nothing needs it"
            }
            _ => {
                run.findings.note(&region.name, &name, error)?;
                continue;
            }
        };
        run.findings.notice(format!("{}:{name} is damaged: {what} ({error})", region.name));
    }
    let epochs: BTreeSet<u64> = match roster.epochs.is_empty() {
        true => BTreeSet::from([1]),
        false => roster.epochs.iter().map(|epoch| epoch.epoch).collect(),
    };
    for slot in roster.slots.iter().filter(|slot| slot.state == SlotState::Active) {
        for epoch in epochs.iter().filter(|epoch| !found.contains(&(**epoch, slot.slot))) {
            let name = ring_name(*epoch, slot.slot);
            let detail = format!("slot {} ({}) can't open this region without it", slot.slot, slot.label);
            run.findings.issue(IssueKind::Missing, &region.name, &name, detail);
        }
    }
    Ok(count)
}

/// What each region holds of keys must be what the others hold: none can tell by itself that another slot's
/// ring is of another rotation, or that a newer key file is elsewhere.
pub(super) fn compare_rings(run: &Run<'_>) -> Result<(), CheckError> {
    let (repository, mut held) = (run.repository, Vec::new());
    for region in &repository.regions {
        let mut rings: BTreeMap<(u64, SlotId), BTreeSet<Digest>> = BTreeMap::new();
        for Listed { name, .. } in list(region, "ring/")? {
            let Some((epoch, slot)) = parse_ring_name(&name) else { continue };
            let active = repository.roster.slot(slot).is_some_and(|slot| slot.state == SlotState::Active);
            // This slot's own were opened.
            if !active || !repository.roster.has_epoch(epoch) || slot == repository.secrets.slot {
                continue;
            }
            // What can't be read was said when the region was checked.
            if let Ok(Some((_, digest))) = read_sealed_ring(&repository.config, region, &name) {
                rings.entry((epoch, slot)).or_default().insert(digest);
            }
        }
        held.push((region, rings));
    }
    for (region, rings) in &held {
        for (other, others) in held.iter().filter(|(other, _)| other.info.region != region.info.region) {
            for ((epoch, slot), digests) in others {
                let own = rings.get(&(*epoch, *slot));
                if own.is_some_and(|own| !digests.is_subset(own)) {
                    let detail = format!(
                        "region '{}' holds another one: this one may be of another rotation; an owner's `keepstone \
                         replicate` puts the other beside it",
                        other.name
                    );
                    run.findings.issue(IssueKind::Damaged, &region.name, &ring_name(*epoch, *slot), detail);
                }
            }
        }
    }
    Ok(())
}

/// The newest key file of each slot must be in every region: where an older one is the newest, the region
/// opens by what opened the slot before, and not by what opens it now.
pub(super) fn compare_newest_key_files(run: &Run<'_>) -> Result<(), CheckError> {
    let mut held = Vec::new();
    for region in &run.repository.regions {
        let mut newest: BTreeMap<SlotId, u64> = BTreeMap::new();
        for Listed { name, .. } in list(region, "keys/")? {
            if let Some((slot, number)) = parse_key_name(&name) {
                let known = newest.entry(slot).or_default();
                *known = number.max(*known);
            }
        }
        held.push((region, newest));
    }
    for slot in run.repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Active) {
        let newest = held.iter().filter_map(|(_, files)| files.get(&slot.slot)).max().copied();
        for (region, files) in &held {
            // One that has none was told of.
            let Some(newest) = newest.filter(|newest| files.get(&slot.slot).is_some_and(|own| own < newest)) else {
                continue;
            };
            let detail = format!(
                "what opened slot {} ({}) before opens this region still, and what opens it now doesn't; `keepstone \
                 replicate` brings it here",
                slot.slot, slot.label
            );
            run.findings.issue(IssueKind::Missing, &region.name, &key_name(slot.slot, newest), detail);
        }
    }
    Ok(())
}

/// Each part that the roster names must be whole here: this region must say by itself what counts.
fn accepted_lists(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let mut count = 0;
    for parts in &run.repository.roster.accepted {
        for number in parts.numbers() {
            count += 1;
            let read = read_part(std::slice::from_ref(region), &run.repository.config, parts, number);
            if let Err(error) = read {
                run.findings.note(&region.name, &accepted_name(parts.slot, number), error)?;
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
                    let detail = |other: &str| {
                        format!(
                            "it differs from the copy in region '{other}': one is damaged; `keepstone key passwd` by whoever \
                             opens the slot replaces both"
                        )
                    };
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

/// What was decided over snapshots must be whole in each region: when the others are lost, a hold would be, too.
fn decisions(run: &Run<'_>, region: &RegionHandle) -> Result<(), CheckError> {
    for (prefix, kind) in [("verdicts/", ObjectKind::Verdict), ("tags/", ObjectKind::Tags)] {
        let listed = list(region, prefix)?;
        run.findings.parallel(Stage::Open, run.threads(), listed.len(), &|at| {
            let name = &listed[at].name;
            let Some((_, _, digest)) = parse_numbered(name, prefix) else { return Ok(()) };
            match read_numbered(run.repository, region, name, kind, digest) {
                Ok(_) => Ok(()),
                Err(error) => run.findings.note(&region.name, name, error),
            }
        })?;
    }
    Ok(())
}

fn sessions(run: &Run<'_>, region: &RegionHandle) -> Result<u64, CheckError> {
    let listed = list(region, "sessions/")?;
    run.findings.parallel(Stage::Open, run.threads(), listed.len(), &|at| {
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

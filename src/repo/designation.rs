//! Which slot on which host may collect in a region whose store can't refuse a second put of one name: two
//! collectors there could overwrite each other's log. Page: `format-spec/gc.md`.

use super::RepoError;
use super::audit::{Act, record_where_room};
use super::open::{RegionHandle, Repository};
use super::snapshots::note;
use crate::crypto::object::{self, build_signed};
use crate::format::audit::Action;
use crate::format::designation::Designation;
use crate::format::envelope::ObjectKind;
use crate::format::ids::{Digest, SlotId, number_from_name, number_name};
use crate::format::roster::Role;
use crate::format::wire::DecodeError;
use crate::ship::put_with_retries;
use crate::store::list_sorted;

const PREFIX: &str = "collector/";

/// The highest number, and the objects that have it.
type Newest = Option<(u64, Vec<(String, Digest)>)>;

fn newest(region: &RegionHandle) -> Result<Newest, RepoError> {
    let mut newest: Newest = None;
    for listed in list_sorted(&*region.store, PREFIX).map_err(|e| region.error(e))? {
        let parts = listed.name.strip_prefix(PREFIX).and_then(|name| name.split_once('-'));
        let parts = parts.and_then(|(number, digest)| Some((number_from_name(number)?, Digest::from_hex(digest)?)));
        let Some((number, digest)) = parts else { continue };
        match &mut newest {
            Some((known, _)) if *known > number => {}
            Some((known, names)) if *known == number => names.push((listed.name, digest)),
            _ => newest = Some((number, vec![(listed.name, digest)])),
        }
    }
    Ok(newest)
}

/// Every designation that a region holds and an owner signed, whether it counts still, with who.
///
/// # Errors
/// When the region can't be listed or read. What isn't one has no effect, and is left out.
pub(super) fn signed(repository: &Repository, region: &RegionHandle) -> Result<Vec<(String, SlotId)>, RepoError> {
    let mut found = Vec::new();
    for listed in list_sorted(&*region.store, PREFIX).map_err(|e| region.error(e))? {
        let bytes = match region.get(&listed.name) {
            Ok(bytes) => bytes,
            Err(error) => {
                note(error, region, &listed.name, &mut Vec::new())?;
                continue;
            }
        };
        let Ok(signed) = object::decode(ObjectKind::Designation, repository.config.repository, &bytes) else {
            continue;
        };
        if repository.verify_slot(&signed, &[Role::Owner]).is_ok() {
            found.push((listed.name, signed.envelope.signer));
        }
    }
    Ok(found)
}

/// Who is designated in a region; `None` before anybody was.
///
/// # Errors
/// When the newest can't be read, is no owner's, or several stand at its number: then nobody may collect.
pub fn read(repository: &Repository, region: &RegionHandle) -> Result<Option<Designation>, RepoError> {
    let Some((number, names)) = newest(region)? else { return Ok(None) };
    let [(name, digest)] = &names[..] else {
        let detail = format!("{} designations have the number {number}: an owner must designate anew", names.len());
        return Err(region.object_error(&names[0].0, DecodeError::new("COLLECT-10", detail)));
    };
    let broken = |source| region.object_error(name, source);
    let bytes = region.get(name)?;
    let signed = object::decode(ObjectKind::Designation, repository.config.repository, &bytes).map_err(broken)?;
    if signed.digest != *digest {
        return Err(broken(DecodeError::new("OBJ-10", format!("its bytes are those of {}", signed.digest))));
    }
    repository.verify_slot(&signed, &[Role::Owner]).map_err(|source| region.crypto_error(name, source))?;
    let designation = Designation::decode(signed.envelope.payload).map_err(broken)?;
    match designation.number == number && designation.region == region.info.region {
        true => Ok(Some(designation)),
        false => Err(broken(DecodeError::new("COLLECT-10", "it speaks for another region or number"))),
    }
}

/// Records in the audit chain that a slot on a host is about to be designated in a region, then does it. Whoever
/// was designated before must not be collecting any more.
///
/// # Errors
/// When this slot is no owner's, or the region can't be written.
pub fn designate(repository: &Repository, region: &RegionHandle, slot: SlotId, host: &str) -> Result<(), RepoError> {
    repository.require(&[Role::Owner], "designate who collects")?;
    let number = newest(region)?.map_or(1, |(number, _)| number + 1);
    let designation = Designation {
        number,
        region: region.info.region,
        slot,
        host: host.to_owned(),
        decided_at: repository.clock.now_ns(),
    };
    let signer = repository.signer();
    let (bytes, digest) =
        build_signed(ObjectKind::Designation, repository.config.repository, &signer, &designation.encode());
    let name = format!("{PREFIX}{}-{digest}", number_name(number));
    let who = format!("slot {slot} on host '{host}'");
    let act = Act::new(Action::Designate).on(&region.info.region.0).because(&who);
    let _elsewhere = record_where_room(repository, &act)?.require(repository, region)?;
    put_with_retries(&*region.store, &name, &bytes.into()).map_err(|e| region.error(e))
}

/// Checks that this slot on this host ([`Repository::host`]) may collect in a region.
///
/// # Errors
/// Where the store can't refuse a second put and another, or nobody, is designated.
pub fn require(repository: &Repository, region: &RegionHandle) -> Result<(), RepoError> {
    let host = &repository.host;
    if region.info.put_if_absent {
        return Ok(());
    }
    let refuse = |why: String| Err(RepoError::NotDesignated { region: region.name.clone(), why });
    match read(repository, region)? {
        None => refuse("and nobody is designated".to_owned()),
        Some(who) if who.slot == repository.secrets.slot && who.host == *host => Ok(()),
        Some(who) => refuse(format!(
            "slot {} on host '{}' is, and this is slot {} on '{host}'",
            who.slot, who.host, repository.secrets.slot
        )),
    }
}

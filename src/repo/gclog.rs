//! Reads a region's collection log: which packs may not be relied on, which sessions are fenced.
//! Page: `format-spec/gc.md`.

use super::RepoError;
use super::open::{DECIDERS, RegionHandle, Repository};
use crate::crypto::object;
use crate::format::envelope::ObjectKind;
use crate::format::gc::{Condemn, Fence, Final};
use crate::format::ids::{PackId, SessionId, number_from_name};
use crate::format::wire::DecodeError;
use crate::store::list_sorted;
use std::collections::{BTreeMap, HashSet};

/// What a region's log says at one moment.
#[derive(Clone, Debug, Default)]
pub struct GcLog {
    /// The newest generation, 0 before the first.
    pub newest: u64,
    /// Packs that count as missing: deleted by a final, or condemned while there is no final.
    pub missing: HashSet<PackId>,
    /// Sessions whose commits don't count: fenced or collected by a final.
    pub dead_sessions: HashSet<SessionId>,
    /// Sessions that an open fence names: in doubt.
    pub doubtful_sessions: HashSet<SessionId>,
}

/// Reads the whole log of a region.
///
/// # Errors
/// When it can't be listed or read, or holds what no maintainer signed: never taken for an empty one.
pub fn read(repository: &Repository, region: &RegionHandle) -> Result<GcLog, RepoError> {
    let mut generations: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for listed in list_sorted(&*region.store, "gc/").map_err(|e| region.error(e))? {
        let number = listed.name.strip_prefix("gc/").and_then(|name| name.split_once('/'));
        if let Some((number, part)) = number.and_then(|(number, part)| Some((number_from_name(number)?, part))) {
            generations.entry(number).or_default().push(part.to_owned());
        }
    }
    let mut log = GcLog::default();
    let newest = generations.keys().next_back().copied().unwrap_or(0);
    for (number, parts) in generations {
        let has = |part: &str| parts.iter().any(|other| other == part);
        let ordered = match (has("condemn"), has("fence"), has("final")) {
            (true, true, true) => true,
            (true, _, false) => number == newest,
            _ => false,
        };
        if !ordered || (log.newest > 0 && number != log.newest + 1) {
            let detail = "the log has a gap, or an entry before the one that it follows".to_owned();
            return Err(region.object_error(&format!("gc/{number:016x}"), DecodeError::new("GC-3", detail)));
        }
        log.newest = number;
        let read = |part: &str, kind| -> Result<Vec<u8>, RepoError> {
            let name = format!("gc/{}/{part}", crate::format::ids::number_name(number));
            let bytes = region.get(&name)?;
            let signed = object::decode(kind, repository.config.repository, &bytes)
                .map_err(|source| region.object_error(&name, source))?;
            repository.verify_slot(&signed, &DECIDERS).map_err(|source| region.crypto_error(&name, source))?;
            Ok(signed.envelope.payload.to_vec())
        };
        let foreign = |part: &str| {
            let detail = "it speaks for another region or generation".to_owned();
            region.object_error(&format!("gc/{number:016x}/{part}"), DecodeError::new("GC-2", detail))
        };
        let wrong = |part: &str, source| region.object_error(&format!("gc/{number:016x}/{part}"), source);
        if has("final") {
            let entry = Final::decode(&read("final", ObjectKind::Final)?).map_err(|source| wrong("final", source))?;
            if entry.generation != number || entry.region != region.info.region {
                return Err(foreign("final"));
            }
            log.missing.extend(entry.deleted);
            log.dead_sessions.extend(entry.fenced);
            log.dead_sessions.extend(entry.collected);
            continue;
        }
        if has("condemn") {
            let entry =
                Condemn::decode(&read("condemn", ObjectKind::Condemn)?).map_err(|source| wrong("condemn", source))?;
            if entry.generation != number || entry.region != region.info.region {
                return Err(foreign("condemn"));
            }
            log.missing.extend(entry.packs);
        }
        if has("fence") {
            let entry = Fence::decode(&read("fence", ObjectKind::Fence)?).map_err(|source| wrong("fence", source))?;
            if entry.generation != number || entry.region != region.info.region {
                return Err(foreign("fence"));
            }
            log.doubtful_sessions.extend(entry.sessions);
        }
    }
    Ok(log)
}

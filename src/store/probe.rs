//! Finds out what a store really does, instead of believing what it says. Called by `init`.
//!
//! Garbage collection needs put-if-absent, and services exist that accept `If-None-Match` and ignore
//! it, so several clients race to create one name. A clean race is strong evidence and no proof.

use std::sync::Barrier;
use std::thread;

use super::{Put, Store, StoreError, StoreErrorKind, list_sorted};
use crate::env::{Random, random_bytes};

/// Races run, each over a name of its own.
const RACES: usize = 3;
/// Creates per race.
const RACERS: usize = 8;
/// Bytes per racing object: enough that the uploads overlap.
const RACER_BYTES: usize = 64 << 10;

/// What a store was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// Of racing creates of one name exactly one won, and its bytes are the ones read back.
    pub put_if_absent: bool,
    /// The credentials allow deletes. If not, the probe's objects stay under `probe/`.
    pub deletes: bool,
}

/// Puts, reads, lists, races and deletes objects under `probe/<random>/`.
///
/// # Errors
/// When a call fails that every use of a store needs, or returns what was not put. A denied delete
/// and a lost race are findings, not errors.
pub fn probe(store: &dyn Store, random: &dyn Random) -> Result<Probe, StoreError> {
    let home = format!("probe/{:032x}/", u128::from_le_bytes(random_bytes(random)));
    let seen = basics(store, random, &home).and_then(|()| put_if_absent(store, random, &home));
    // Tidying comes first and the earlier error is the one to report.
    let deletes = remove_all(store, &home);
    Ok(Probe { put_if_absent: seen?, deletes: deletes? })
}

fn wrong(store: &dyn Store, name: &str, detail: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Other, "probe", store.address(), name, detail.to_owned())
}

fn basics(store: &dyn Store, random: &dyn Random, home: &str) -> Result<(), StoreError> {
    let name = format!("{home}object");
    let bytes = random_bytes::<1024>(random);
    store.put_new(&name, &bytes.to_vec().into())?;
    if store.get(&name, 1024)? != bytes {
        return Err(wrong(store, &name, "the bytes read are not the bytes put"));
    }
    if store.get_range(&name, 1000, 20)? != bytes[1000..1020] {
        return Err(wrong(store, &name, "a range read is not that part of the bytes put"));
    }
    if store.size(&name)? != Some(1024) {
        return Err(wrong(store, &name, "the size is not that of the bytes put"));
    }
    let listed = list_sorted(store, home)?;
    if listed.len() != 1 || listed[0].name != name || listed[0].size != 1024 {
        return Err(wrong(store, home, "a listing after the put doesn't show exactly the object put"));
    }
    Ok(())
}

fn put_if_absent(store: &dyn Store, random: &dyn Random, home: &str) -> Result<bool, StoreError> {
    let name = format!("{home}object");
    let before = store.get(&name, 1024)?;
    match store.put_new(&name, &random_bytes::<1024>(random).to_vec().into()) {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(_) => return Ok(false),
    }
    if store.get(&name, 1024)? != before {
        return Ok(false);
    }
    for round in 0..RACES {
        if !race(store, random, &format!("{home}race-{round}"))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn race(store: &dyn Store, random: &dyn Random, name: &str) -> Result<bool, StoreError> {
    let mut bodies = vec![vec![0u8; RACER_BYTES]; RACERS];
    bodies.iter_mut().for_each(|body| random.fill(body));
    let start = Barrier::new(RACERS);
    let outcomes: Vec<Result<Put, StoreError>> = thread::scope(|scope| {
        let racers: Vec<_> = bodies
            .iter()
            .map(|body| {
                let payload = body.clone().into();
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    store.put_new(name, &payload)
                })
            })
            .collect();
        let lost = |_| Err(wrong(store, name, "a racing put panicked"));
        racers.into_iter().map(|racer| racer.join().unwrap_or_else(lost)).collect()
    });
    let mut winners = Vec::new();
    for (outcome, body) in outcomes.into_iter().zip(&bodies) {
        match outcome {
            // Identical is our own put too, acknowledged only on a second try: all bodies differ.
            Ok(_) => winners.push(body),
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let kept = store.get(name, RACER_BYTES as u64)?;
    Ok(winners.len() == 1 && *winners[0] == kept)
}

// Removes what the probe put; false when the credentials forbid it.
fn remove_all(store: &dyn Store, home: &str) -> Result<bool, StoreError> {
    for object in list_sorted(store, home)? {
        match store.delete(&object.name) {
            Ok(()) => {}
            Err(error) if error.kind == StoreErrorKind::Denied => return Ok(false),
            Err(error) => return Err(error),
        }
        if store.size(&object.name)?.is_some() {
            return Err(wrong(store, &object.name, "still there after its delete succeeded"));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededRandom;
    use crate::store::faults::{Fault, FaultyStore, Operation, Trigger};
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_denied_delete_is_a_finding() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::on(Operation::Delete), Fault::Fail(StoreErrorKind::Denied));
        let found = probe(&store, &SeededRandom::new(1)).expect("probe");
        assert_eq!(found, Probe { put_if_absent: true, deletes: false });
    }

    #[test]
    fn a_failing_read_is_an_error_and_leaves_nothing() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::on(Operation::GetRange), Fault::Fail(StoreErrorKind::Denied));
        assert_eq!(probe(&store, &SeededRandom::new(1)).map_err(|error| error.kind), Err(StoreErrorKind::Denied));
        assert_eq!(list_sorted(store.inner(), "").expect("list"), []);
    }

    #[test]
    fn damaged_reads_are_an_error() {
        let store = FaultyStore::new(MemoryStore::new());
        store.inject(Trigger::on(Operation::Get).nth(1), Fault::FlipBit(3));
        assert_eq!(probe(&store, &SeededRandom::new(1)).map_err(|error| error.kind), Err(StoreErrorKind::Other));
    }

    #[test]
    fn a_lost_answer_in_a_race_is_no_verdict() {
        let store = FaultyStore::new(MemoryStore::new());
        let lost = Fault::LoseAcknowledgement(StoreErrorKind::Unavailable);
        store.inject(Trigger::on(Operation::Put).under("probe/").nth(3), lost);
        // The third put is the first racer's; whether it won or not, its answer is missing.
        match probe(&store, &SeededRandom::new(1)) {
            Ok(found) => assert!(found.put_if_absent),
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Unavailable),
        }
    }
}

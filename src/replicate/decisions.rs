//! Verdicts and tags are growing sets: each region gets those that another has, verified.

use super::heal::put_back;
use super::{Depth, Pending, Replicated, note, note_as};
use crate::crypto::object::check_digest;
use crate::format::envelope::ObjectKind;
use crate::format::ids::SnapshotId;
use crate::repo::at_once::at_once;
use crate::repo::open::DECIDERS;
use crate::repo::snapshots::{parse_numbered, read_decision};
use crate::repo::verdicts::{self, Decree, Placed, kept_apart, told_apart};
use crate::repo::{RepoError, Repository};
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::{StoreErrorKind, list_sorted};
use std::collections::{BTreeMap, BTreeSet};

const VERDICTS: &str = "verdicts/";

/// One that some region lists: where, and of how many bytes there.
type Held = Vec<(usize, u64)>;

/// Copies what a region lacks, and puts right what is damaged there: of another size than elsewhere or, where content
/// is looked at, of other bytes than its name states (`HEAL-2`).
pub(super) fn copy_decisions(
    repository: &Repository,
    depth: Depth,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<(), RepoError> {
    for (prefix, kind) in [(VERDICTS, ObjectKind::Verdict), ("tags/", ObjectKind::Tags)] {
        let mut holders: BTreeMap<String, Held> = BTreeMap::new();
        for (at, region) in repository.regions.iter().enumerate() {
            for listed in list_sorted(&*region.store, prefix).map_err(|e| region.error(e))? {
                holders.entry(listed.name).or_default().push((at, listed.size));
            }
        }
        if kind == ObjectKind::Verdict {
            let apart = settle(repository, &holders, done, monitor)?;
            holders.retain(|name, _| parse_numbered(name, prefix).is_none_or(|(id, ..)| !apart.contains(&id)));
        }
        let names: Vec<(String, Held)> = holders.into_iter().collect();
        let wanting = at_once(&names, |(name, held)| wanting(repository, depth, prefix, name, held))?;
        for ((name, held), wanting) in names.iter().zip(wanting) {
            let holding: Vec<usize> = held.iter().map(|(at, _)| *at).collect();
            for at in wanting {
                // One without room has none for the others either.
                if done.behind.contains_key(&at) {
                    continue;
                }
                let to = &repository.regions[at];
                let is_damaged = holding.contains(&at);
                let others: Vec<usize> = holding.iter().copied().filter(|other| *other != at).collect();
                let put = read_decision(repository, &others, name, kind).and_then(|bytes| match bytes {
                    // What nobody who may has signed says nothing here either.
                    None => Ok(None),
                    Some(bytes) => put_back(to, name, &bytes.into()).map(Some),
                });
                let subject = format!("{}:{name}", to.name).into_bytes();
                match put {
                    Ok(None) => {}
                    Ok(Some(true)) if is_damaged => {
                        let detail = "its bytes were not those of its name: it has them again, from another region";
                        monitor.issue(&Issue { kind: IssueKind::Damaged, subject, detail: detail.to_owned() });
                        done.healed += 1;
                    }
                    Ok(Some(true)) => done.decisions += 1,
                    Ok(Some(false)) => {
                        let kind = IssueKind::Damaged;
                        note_as(kind, &mut done.issues, monitor, subject, &Pending::Irreplaceable);
                    }
                    Err(error) => {
                        note(done, monitor, subject, &error);
                        if let RepoError::Store { region, source } = error
                            && region == to.name
                            && source.kind == StoreErrorKind::Full
                        {
                            done.behind.insert(at, source);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Says again what keeps a snapshot in one region alone, above what was decided in others without knowing of it
/// (`VERDICT-11`). Gives the snapshots of which that can't be done: their verdicts must not be copied.
fn settle(
    repository: &Repository,
    holders: &BTreeMap<String, Held>,
    done: &mut Replicated,
    monitor: &dyn Monitor,
) -> Result<BTreeSet<SnapshotId>, RepoError> {
    let mut of_snapshot: BTreeMap<SnapshotId, Vec<Placed>> = BTreeMap::new();
    for (name, held) in holders {
        if let Some((id, number, _)) = parse_numbered(name, VERDICTS) {
            let regions = held.iter().map(|(at, _)| *at).collect();
            of_snapshot.entry(id).or_default().push(Placed { number, name: name.clone(), regions });
        }
    }
    let mut apart = BTreeSet::new();
    for (id, placed) in of_snapshot {
        let Some(kept) = kept_apart(repository, &placed)? else { continue };
        let subject = format!("{VERDICTS}{id}").into_bytes();
        if !DECIDERS.contains(&repository.role()) {
            note(done, monitor, subject, &told_apart(repository, id, &kept));
            apart.insert(id);
            continue;
        }
        let ruling = kept.verdict.ruling;
        let decree = Decree { until: kept.verdict.until, ..Decree::new(ruling, &kept.verdict.reason) };
        match verdicts::put(repository, &BTreeSet::from([id]), &decree) {
            Ok(no_room) => {
                // What was listed before doesn't count it.
                let text = format!(
                    "'{}' was said of it in region '{}' alone, and something else where that wasn't known: it is said \
                     again in all regions, and the next run brings the snapshot to those that lack it",
                    ruling.name(),
                    repository.regions[kept.region].name
                );
                note(done, monitor, subject, &text);
                for (at, error) in no_room {
                    note(done, monitor, format!("{}:{VERDICTS}", repository.regions[at].name).into_bytes(), &error);
                    done.behind.insert(at, error);
                }
                done.decisions += 1;
            }
            Err(error) => {
                note(done, monitor, subject, &error);
                apart.insert(id);
            }
        }
    }
    Ok(apart)
}

/// The regions that lack one, or hold it damaged where another one may have it whole.
fn wanting(
    repository: &Repository,
    depth: Depth,
    prefix: &str,
    name: &str,
    held: &Held,
) -> Result<Vec<usize>, RepoError> {
    let lacks = |at: &usize| held.iter().all(|(other, _)| other != at);
    let mut wanting: Vec<usize> = (0..repository.regions.len()).filter(lacks).collect();
    let differ = held.windows(2).any(|pair| pair[0].1 != pair[1].1);
    let Some((_, _, digest)) = parse_numbered(name, prefix) else { return Ok(wanting) };
    if held.len() < 2 || !(differ || depth == Depth::Content) {
        return Ok(wanting);
    }
    for (at, _) in held {
        let region = &repository.regions[*at];
        match region.get(name) {
            Ok(bytes) if check_digest(&bytes).is_ok_and(|found| found == digest) => {}
            Err(RepoError::Store { region, source }) if source.kind == StoreErrorKind::Unavailable => {
                return Err(RepoError::Store { region, source });
            }
            Ok(_) | Err(_) => wanting.push(*at),
        }
    }
    Ok(wanting)
}

//! The steps of a generation: condemn, fence, final. What each may decide, and from what it must have been
//! read, is `format-spec/gc.md`, "The collector".

use super::claims::{Claims, Memory, Root};
use super::holdings::Holdings;
use super::mark::{Needed, mark};
use super::rulings::Standing;
use super::{GcError, GcOptions, Reason, RegionReport};
use crate::format::audit::Action;
use crate::format::gc::{Condemn, ENTRIES_MAX, Fence, Final};
use crate::format::ids::{PackId, SessionId, SlotId, SnapshotId};
use crate::pack::reader::pack_name;
use crate::pack::{PackError, read_header};
use crate::policy::window::{Witness, ends_at, is_over};
use crate::repo::audit::{Act, record_where_room};
use crate::repo::gclog::{self, Entry, GcLog, OpenGeneration};
use crate::repo::open::{RegionHandle, Repository};
use crate::repo::retention::GENERATION;
use crate::repo::sync::list_packs;
use crate::report::Monitor;
use crate::store::StoreErrorKind;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A run in one region.
pub struct Run<'a> {
    pub repository: &'a Repository,
    pub region: &'a RegionHandle,
    pub options: &'a GcOptions,
    pub monitor: &'a dyn Monitor,
    pub memory: Memory,
    pub log: GcLog,
    /// What this run condemned; in a dry run the region doesn't have it.
    pub begun: Option<Condemn>,
    /// What was signed says this of the host's clock.
    pub witness: Witness,
    pub report: &'a mut RegionReport,
    /// What this run condemned since all that is needed of it was moved; in a dry run only as if.
    pub emptied: BTreeSet<PackId>,
    /// In a dry run: the objects that it told of already, which are still there when it looks again.
    pub told: HashSet<String>,
}

/// What was read of a region at one moment, and what of it is needed.
pub struct View {
    pub claims: Claims,
    pub holdings: Holdings,
    pub needed: Needed,
}

impl View {
    /// True for a pack, by index into the holdings', that is there, of which something is needed, and about which
    /// no two segments disagree.
    pub fn stays(&self, pack: u32) -> bool {
        let row = &self.holdings.packs[pack as usize];
        self.needed.packs[pack as usize] && row.present && !row.dead && !row.disputed
    }
}

impl Run<'_> {
    pub fn stop_if_cancelled(&self) -> Result<(), GcError> {
        match self.monitor.cancelled() {
            true => Err(GcError::Cancelled),
            false => Ok(()),
        }
    }

    fn incomplete(&self, detail: String) -> GcError {
        GcError::Incomplete { region: self.region.name.clone(), detail }
    }

    /// Puts an entry of the log; gives what stands there, which may be another collector's.
    fn publish<E: Entry>(&self, entry: &E) -> Result<E, GcError> {
        match self.options.dry_run {
            true => Ok(entry.clone()),
            false => Ok(gclog::publish(self.repository, self.region, entry)?),
        }
    }

    /// Who has a say now.
    pub fn claims(&mut self) -> Result<Claims, GcError> {
        let mut claims = Claims::read(self.repository, self.region, &self.log, &mut self.memory)?;
        claims.require_readable(self.region, &self.log)?;
        self.hear(&claims);
        Ok(claims)
    }

    /// Compares this host's clock with what was signed (`VERDICT-9`), where a snapshot is forgotten.
    fn hear(&mut self, claims: &Claims) {
        let committed = claims.committed();
        if self.options.trust_clock || !committed.iter().any(|id| claims.is_forgotten(id)) {
            return;
        }
        for id in committed {
            // One that can't be read bears no witness; marking tells of it.
            let _ = self.memory.root(self.repository, self.region, id);
        }
        let started_at = claims.sessions.values().map(|record| record.started_at);
        let signed = self.memory.signed_at().chain(started_at);
        self.witness = Witness::of(signed, self.repository.clock.now_ns(), &self.options.forget_window);
    }

    /// Since when collectors know which snapshots are forgotten, as generation `number` recorded it.
    fn recorded(&self, number: u64) -> Result<BTreeMap<SnapshotId, i64>, GcError> {
        let forgotten = match &self.begun {
            _ if number == 0 => Vec::new(),
            Some(condemn) if condemn.generation == number => condemn.forgotten.clone(),
            _ => gclog::read_entry::<Condemn>(self.repository, self.region, number)?.forgotten,
        };
        Ok(forgotten.into_iter().collect())
    }

    /// True once a forgotten snapshot can't be brought back any more, by its verdict's clock and by that of
    /// the collector that saw it first (`VERDICT-8`), which fits what was signed (`VERDICT-9`).
    fn window_is_over(&self, claims: &Claims, id: &SnapshotId, seen_at: Option<i64>) -> bool {
        self.witness.window && self.window_seems_over(claims, id, seen_at)
    }

    fn window_seems_over(&self, claims: &Claims, id: &SnapshotId, seen_at: Option<i64>) -> bool {
        let now = self.repository.clock.now_ns();
        match claims.standings.get(id) {
            Some(Standing::Forgotten(at)) => is_over(*at, seen_at, now, &self.options.forget_window),
            _ => false,
        }
    }

    /// Every snapshot with a commit that counts or may come to count again (`COLLECT-8`), but those in `gone`
    /// and those that only sessions of `fenced` committed.
    fn roots(
        &mut self,
        claims: &Claims,
        fenced: &BTreeSet<SessionId>,
        gone: &BTreeSet<SnapshotId>,
        bases: &BTreeMap<SnapshotId, BTreeSet<SlotId>>,
    ) -> Result<Vec<Root>, GcError> {
        let snapshots: BTreeSet<SnapshotId> = claims
            .commits
            .iter()
            .filter(|(id, (commit, _))| {
                !fenced.contains(id) && !self.log.is_dead_session(id) && !gone.contains(&commit.snapshot)
            })
            .map(|(_, (commit, _))| commit.snapshot)
            .collect();
        let mut roots = Vec::new();
        for snapshot in snapshots {
            let forgotten = claims.is_forgotten(&snapshot);
            let root = match self.memory.root(self.repository, self.region, snapshot) {
                Ok(root) => root,
                // Nothing of it can be marked, so no generation could ever record it: its verdict has to do.
                Err(error) if forgotten && self.window_is_over(claims, &snapshot, Some(i64::MIN)) => {
                    let detail = format!("{error}; it is forgotten past its window, and can't come back");
                    self.report.notices.push(detail);
                    continue;
                }
                Err(error) => {
                    return Err(self.incomplete(format!(
                        "{error}; what the snapshot reaches isn't known. Bring it back from another region, or \
                         forget snapshot {snapshot}: once its window is over, collection goes on without it"
                    )));
                }
            };
            let Some((chunk, slot)) = root else {
                let detail = format!("a commit names snapshot {snapshot}, which nobody who may has signed");
                self.report.notices.push(detail);
                continue;
            };
            let mut slots = bases.get(&snapshot).cloned().unwrap_or_default();
            slots.insert(slot);
            roots.push(Root { snapshot, chunk, slots, forgotten });
        }
        Ok(roots)
    }

    /// Puts the fence of the open generation, from what sessions and verdicts say after its condemn.
    pub fn fence(&mut self, number: u64) -> Result<Fence, GcError> {
        let claims = self.claims()?;
        let sessions: Vec<SessionId> =
            claims.open(&self.log).filter(|(_, record)| record.observed < number).map(|(id, _)| *id).collect();
        if sessions.len() > ENTRIES_MAX {
            // One that is left out could commit what relies on packs that go.
            return Err(self.incomplete(format!(
                "{} sessions are open and have not seen generation {number}, more than a fence can name: remove \
                 sessions/<id>/ of writers that are gone for good by hand",
                sessions.len()
            )));
        }
        // A clock that is wrong must not take a window away: the snapshot was forgotten already when the
        // generation before was condemned, whatever any clock says (COLLECT-9).
        let before = self.recorded(number - 1)?;
        let bases = claims.bases(&self.log, &sessions);
        let snapshots: Vec<SnapshotId> = claims
            .committed()
            .into_iter()
            .filter(|id| !bases.contains_key(id))
            .filter(|id| before.get(id).is_some_and(|at| self.window_is_over(&claims, id, Some(*at))))
            .take(ENTRIES_MAX)
            .collect();
        self.publish(&Fence { generation: number, region: self.region.info.region, sessions, snapshots })
    }

    /// Finishes the open generation: fence, if there is none; then everything is read again, marked, and the
    /// final is put.
    pub fn finish(&mut self, open: &OpenGeneration) -> Result<View, GcError> {
        let number = open.number;
        let fence = match &open.fence {
            Some(fence) => fence.clone(),
            None => self.fence(number)?,
        };
        self.stop_if_cancelled()?;
        // After the fence (COLLECT-6): a named session that has its commit by now is admitted, a named snapshot
        // that was unforgotten, or that a session takes over, is kept.
        let stored = list_packs(self.region)?;
        let claims = self.claims()?;
        let fenced: BTreeSet<SessionId> =
            fence.sessions.iter().filter(|id| !claims.is_committed(id)).copied().collect();
        let bases = claims.bases(&self.log, &fence.sessions);
        let (mut gone, mut collected) = (BTreeSet::new(), BTreeSet::new());
        for id in fence.snapshots.iter().filter(|id| claims.is_forgotten(id) && !bases.contains_key(id)) {
            let commits =
                claims.commits.iter().filter(|(sid, (commit, _))| commit.snapshot == *id && !fenced.contains(sid));
            let commits: Vec<SessionId> = commits.map(|(sid, _)| *sid).collect();
            // All of a snapshot's commits go, or none.
            if collected.len() + commits.len() <= ENTRIES_MAX {
                collected.extend(commits);
                gone.insert(*id);
            }
        }
        let roots = self.roots(&claims, &fenced, &gone, &bases)?;
        let holdings = Holdings::read(self.repository, self.region, &self.log, stored, self.options, self.monitor)?;
        let condemned: BTreeSet<u32> =
            open.condemned.iter().filter_map(|pack| holdings.ordinals.get(pack)).copied().collect();
        let needed = mark(self.region, &holdings, &roots, &|pack| condemned.contains(&pack), self.monitor)?;
        let wanted: BTreeSet<PackId> = claims.needs(number).copied().collect();
        let is_rescued = |pack: &PackId| {
            // A dry run moves nothing, so that what it would have moved seems to be needed where it is.
            let moved = self.options.dry_run && self.emptied.contains(pack);
            let reached = holdings.ordinals.get(pack).is_some_and(|at| needed.packs[*at as usize]);
            wanted.contains(pack) || (reached && !moved)
        };
        let (rescued, deleted): (Vec<PackId>, Vec<PackId>) = open.condemned.iter().partition(|pack| is_rescued(pack));
        let seen = claims
            .commits
            .iter()
            .filter(|(id, _)| !fenced.contains(id))
            .map(|(_, (commit, _))| commit.snapshot)
            .filter(|id| !claims.is_forgotten(id) && !self.log.first_seen.contains_key(id))
            .collect::<BTreeSet<_>>();
        let entry = Final {
            generation: number,
            region: self.region.info.region,
            deleted,
            rescued,
            fenced: fenced.into_iter().collect(),
            collected: collected.into_iter().collect(),
            seen: seen.into_iter().take(ENTRIES_MAX).collect(),
        };
        self.stop_if_cancelled()?;
        if !self.options.dry_run {
            let act = Act::new(Action::GcFinal)
                .on(&self.region.info.region.0)
                .figure(GENERATION, number)
                .figure("packs-deleted", entry.deleted.len() as u64)
                .figure("sessions-fenced", entry.fenced.len() as u64)
                .figure("commits-collected", entry.collected.len() as u64);
            // Where it can't be recorded in this region nothing may go here; another one is levelled later.
            let recorded = record_where_room(self.repository, &act)?.require(self.repository, self.region)?;
            for (other, error) in recorded.no_room {
                let name = &self.repository.regions[other].name;
                self.report.notices.push(format!("region '{name}' has no room for the audit entry: {error}"));
            }
        }
        // Whoever was faster has decided from the same log: what stands there counts (GC-5).
        let ours = entry;
        let entry = self.publish(&ours)?;
        self.report.finished.push(number);
        self.report.rescued += entry.rescued.len() as u64;
        self.report.sessions_fenced += entry.fenced.len() as u64;
        let names = entry.collected.iter().filter_map(|id| claims.commits.get(id)).map(|(commit, _)| commit.snapshot);
        self.report.snapshots_collected.extend(names.collect::<BTreeSet<_>>());
        let adopted = entry != ours;
        let mut view = View { claims, holdings, needed };
        view.holdings.bury(&entry.deleted);
        self.log.close(entry);
        view.claims.bury(&self.log);
        // Of two copies of a chunk another final may have kept the other one: what is needed is marked anew.
        match adopted {
            true => self.look(),
            false => Ok(view),
        }
    }

    /// Reads and marks a region whose log has no open generation.
    pub fn look(&mut self) -> Result<View, GcError> {
        let stored = list_packs(self.region)?;
        let claims = self.claims()?;
        let bases = claims.bases(&self.log, &[]);
        let roots = self.roots(&claims, &BTreeSet::new(), &BTreeSet::new(), &bases)?;
        let holdings = Holdings::read(self.repository, self.region, &self.log, stored, self.options, self.monitor)?;
        let needed = mark(self.region, &holdings, &roots, &|_| false, self.monitor)?;
        Ok(View { claims, holdings, needed })
    }

    /// The packs that may go: nothing needs them, and neither their session nor one that adopts it is open.
    fn condemnable(&mut self, view: &View) -> Result<BTreeMap<PackId, (Reason, u64)>, GcError> {
        let protected = view.claims.protected(&self.log);
        let wanted: BTreeSet<PackId> =
            view.claims.open(&self.log).flat_map(|(_, record)| record.needs.iter().copied()).collect();
        let stored = |pack: &PackId| view.holdings.stored.binary_search_by_key(pack, |(id, _)| *id).ok();
        let mut found = BTreeMap::new();
        for (at, pack) in view.holdings.packs.iter().enumerate() {
            if pack.dead {
                continue;
            }
            let Some(place) = stored(&pack.id) else {
                // Lost, and nothing waits for it: once it is deleted by name no segment lists it any more. It may
                // have come since the packs were listed (`COLLECT-18`).
                let nobodys = !view.needed.packs[at] && !protected.contains(&pack.session);
                if nobodys && !wanted.contains(&pack.id) {
                    let size =
                        self.region.store.size(&pack_name(&pack.id)).map_err(|error| self.region.error(error))?;
                    if size.is_none() {
                        found.insert(pack.id, (Reason::Lost, 0));
                    }
                }
                continue;
            };
            let size = view.holdings.stored[place].1;
            if view.needed.packs[at] {
                self.report.kept.add(size);
            } else if protected.contains(&pack.session) || wanted.contains(&pack.id) {
                self.report.kept.add(size);
                self.report.session_packs.add(size);
            } else {
                let reached = view.needed.reached[at];
                found.insert(pack.id, (if reached { Reason::Duplicate } else { Reason::Unreached }, size));
            }
        }
        for (pack, size) in view.holdings.orphans(&self.log) {
            self.stop_if_cancelled()?;
            let kept = match read_header(&*self.region.store, pack) {
                Ok(header) if header.repository != self.repository.config.repository => {
                    Some(format!("pack {pack} belongs to repository {}: it stays", header.repository))
                }
                Ok(header) if protected.contains(&header.session) || wanted.contains(&pack) => {
                    self.report.session_packs.add(size);
                    None
                }
                Ok(_) => {
                    found.insert(pack, (Reason::Orphan, size));
                    continue;
                }
                Err(PackError::Store(error)) if error.kind == StoreErrorKind::NotFound => continue,
                Err(PackError::Store(error)) if error.kind != StoreErrorKind::Range => {
                    return Err(self.region.error(error).into());
                }
                Err(error) => Some(format!(
                    "{error}; no segment lists it and its session isn't known, so it stays: remove it by hand once \
                     no backup is running"
                )),
            };
            self.report.kept.add(size);
            self.report.notices.extend(kept);
        }
        Ok(found)
    }

    /// Begins generation `number`, where there is something to gain by it. Gives what stands there.
    pub fn condemn(
        &mut self,
        view: &View,
        number: u64,
        emptied: &BTreeMap<PackId, u64>,
    ) -> Result<Option<OpenGeneration>, GcError> {
        let mut candidates = self.condemnable(view)?;
        for (pack, size) in emptied {
            candidates.insert(*pack, (Reason::Emptied, *size));
            self.emptied.insert(*pack);
            self.report.kept.packs -= 1;
            self.report.kept.bytes -= size;
        }
        let before = self.recorded(number - 1)?;
        let claims = &view.claims;
        let committed = claims.committed();
        let now = self.repository.clock.now_ns();
        let forgotten: Vec<(SnapshotId, i64)> = committed
            .iter()
            .filter(|id| claims.is_forgotten(id))
            .filter_map(|id| {
                // A time far ahead would keep it as long.
                let seen_now = Some(now).filter(|_| self.witness.present);
                Some((*id, before.get(id).copied().or(seen_now)?))
            })
            .take(ENTRIES_MAX)
            .collect();
        self.tell(view, &forgotten.iter().copied().collect());
        let due = |(id, seen_at): &(SnapshotId, i64)| {
            !before.contains_key(id) || self.window_is_over(claims, id, Some(*seen_at))
        };
        let unseen = |id: &&SnapshotId| !claims.is_forgotten(id) && !self.log.first_seen.contains_key(id);
        let pointless = candidates.is_empty()
            && claims.open(&self.log).next().is_none()
            && !forgotten.iter().any(due)
            && committed.iter().find(unseen).is_none();
        if pointless {
            return Ok(None);
        }
        let taken: Vec<PackId> = candidates.keys().copied().take(ENTRIES_MAX).collect();
        if taken.len() < candidates.len() {
            self.report.notices.push(format!("{} packs wait for the next generation", candidates.len() - taken.len()));
        }
        self.stop_if_cancelled()?;
        let entry = Condemn { generation: number, region: self.region.info.region, packs: taken, forgotten };
        let entry = self.publish(&entry)?;
        self.begun = Some(entry.clone());
        for pack in &entry.packs {
            if let Some((reason, size)) = candidates.get(pack) {
                self.report.condemned.entry(*reason).or_default().add(*size);
                self.report.condemned_packs.entry(*reason).or_default().push(*pack);
            }
        }
        Ok(Some(OpenGeneration { number, condemned: entry.packs.into_iter().collect(), fence: None }))
    }

    /// Counts what stays, once the generation that a run began is finished in it.
    pub fn account(&mut self, view: &View) -> Result<(), GcError> {
        for (_, size) in self.condemnable(view)?.into_values() {
            self.report.kept.add(size);
        }
        let recorded = self.recorded(self.log.newest)?;
        self.tell(view, &recorded);
        Ok(())
    }

    /// What stays, and why.
    fn tell(&mut self, view: &View, seen_at: &BTreeMap<SnapshotId, i64>) {
        let claims = &view.claims;
        self.report.sessions_open =
            claims.open(&self.log).map(|(id, _)| claims.describe(self.repository, id)).collect();
        for id in claims.committed() {
            match claims.standings.get(&id) {
                Some(Standing::Forgotten(at)) => {
                    let later = seen_at.get(&id).map_or(*at, |seen| *seen.max(at));
                    self.report.windows.push((id, ends_at(later, &self.options.forget_window)));
                    let stays = match seen_at.get(&id) {
                        Some(seen) => !self.witness.window && self.window_seems_over(claims, &id, Some(*seen)),
                        None => !self.witness.present,
                    };
                    if stays {
                        self.report.doubted_clock = Some(self.repository.clock.now_ns());
                    }
                }
                Some(Standing::Held) => self.report.held += 1,
                Some(Standing::Unreadable) => {
                    let detail = format!("a verdict on snapshot {id} can't be read: the snapshot stays");
                    self.report.notices.push(detail);
                }
                Some(Standing::Kept) | None => {}
            }
        }
        for (at, pack) in view.holdings.packs.iter().enumerate().filter(|(_, pack)| pack.present && !pack.dead) {
            if !view.needed.packs[at] {
                continue;
            }
            let frames = pack.first_frame..pack.first_frame + pack.frame_count as usize;
            for (frame, live) in view.holdings.frames[frames.clone()].iter().zip(&view.needed.frame_bytes[frames]) {
                let dead = u64::from(frame.raw_length - live);
                self.report.live_bytes += u64::from(*live);
                self.report.dead_bytes += dead;
                self.report.dead_in_live_frames_bytes += if *live > 0 { dead } else { 0 };
            }
        }
        self.report.notices.extend(view.holdings.notices.iter().chain(&view.needed.notices).cloned());
    }
}

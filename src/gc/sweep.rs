//! What follows a final: segments that list dead packs are replaced, then what is dead is deleted.
//!
//! Every step is told by the log and the listings alone, so that any later run repeats or goes on with it. A
//! store that refuses to delete keeps nothing else from being done.

use super::generation::{Run, View};
use super::holdings::{ReadSegment, SegmentRow, read_segment};
use super::{GcError, Tally};
use crate::format::ids::{PackId, SegmentId};
use crate::format::segment::{Segment, SegmentPack};
use crate::index::segment::{merge, seal, segment_name};
use crate::limits::{SEGMENT_CHUNKS_TARGET, SEGMENT_PACKS_TARGET};
use crate::pack::reader::pack_name;
use crate::repo::RepoError;
use crate::repo::session::commit_name;
use crate::repo::sync::list_packs;
use crate::ship::put_with_retries;
use crate::store::StoreErrorKind;
use std::collections::{BTreeMap, BTreeSet, HashSet};

impl Run<'_> {
    /// Deletes an object, or says what a store refuses; true when it is gone.
    fn delete(&mut self, name: &str) -> Result<bool, GcError> {
        if self.options.dry_run {
            return Ok(true);
        }
        match self.region.store.delete(name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(true),
            Err(error) if error.kind == StoreErrorKind::Denied => {
                self.report.deferred_reason.get_or_insert_with(|| error.to_string());
                Ok(false)
            }
            Err(error) => Err(self.region.error(error).into()),
        }
    }

    /// True when this is a dry run that told of the object already.
    fn is_told(&mut self, name: &str) -> bool {
        self.options.dry_run && !self.told.insert(name.to_owned())
    }

    fn delete_small(&mut self, name: &str) -> Result<bool, GcError> {
        if self.is_told(name) {
            return Ok(true);
        }
        let gone = self.delete(name)?;
        match gone {
            true => self.report.objects_deleted += 1,
            false => self.report.deferred_objects += 1,
        }
        Ok(gone)
    }

    /// Deletes what finals list and what is finished: segments, packs, commits, sessions.
    pub fn sweep(&mut self, view: &View) -> Result<(), GcError> {
        // Of two sweeps of a run the second one meets what the first one left.
        (self.report.deferred, self.report.deferred_objects) = (Tally::default(), 0);
        self.replace_segments(view)?;
        self.delete_packs(&view.holdings.stored)?;
        self.delete_claims(&view.claims)
    }

    /// Of the same, what can be told without reading the segments.
    pub fn delete_again(&mut self) -> Result<(), GcError> {
        let stored = list_packs(self.region)?;
        let claims = self.claims()?;
        self.delete_packs(&stored)?;
        self.delete_claims(&claims)
    }

    fn delete_packs(&mut self, stored: &[(PackId, u64)]) -> Result<(), GcError> {
        for (pack, size) in stored {
            let name = pack_name(pack);
            if !self.log.dead.contains(pack) || self.is_told(&name) {
                continue;
            }
            self.stop_if_cancelled()?;
            match self.delete(&name)? {
                true => {
                    self.report.deleted.add(*size);
                    self.report.deleted_packs.push(*pack);
                }
                false => self.report.deferred.add(*size),
            }
        }
        Ok(())
    }

    fn delete_claims(&mut self, claims: &super::claims::Claims) -> Result<(), GcError> {
        for id in &claims.dead_commits {
            self.stop_if_cancelled()?;
            self.delete_small(&commit_name(*id))?;
        }
        for (id, record) in &claims.sessions {
            // One that an open fence names is decided by the final alone.
            if claims.is_open(id, &self.log) || self.log.is_doubtful_session(id) {
                continue;
            }
            self.stop_if_cancelled()?;
            // The end goes last: without it what is left would look like a session at work.
            for name in &record.objects {
                if !self.delete_small(name)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Replaces segments that list dead packs by such as list the others, and deletes those that are replaced.
    fn replace_segments(&mut self, view: &View) -> Result<(), GcError> {
        let rows = &view.holdings.segments;
        let is_live = |pack: &u32| !view.holdings.packs[*pack as usize].dead;
        let replaced: BTreeSet<SegmentId> =
            rows.iter().filter(|row| row.by_decider).flat_map(|row| row.supersedes.iter().copied()).collect();
        let stays: Vec<&SegmentRow> = rows.iter().filter(|row| !replaced.contains(&row.id)).collect();
        let listed: HashSet<u32> = stays.iter().flat_map(|row| row.packs.iter().copied()).collect();
        for row in rows.iter().filter(|row| replaced.contains(&row.id)) {
            // What replaced it lists all that lives of it: looked at again, since a mistake couldn't be undone.
            if row.packs.iter().filter(|pack| is_live(pack)).all(|pack| listed.contains(pack)) {
                self.delete_segment(row.id)?;
            } else {
                let detail = format!("{} is superseded, and nothing else lists some of its packs: it stays", row.id);
                self.report.notices.push(format!("segment {detail}"));
            }
        }
        let known: BTreeSet<SegmentId> = rows.iter().map(|row| row.id).collect();
        let twins = twins(&stays, view);
        for id in &twins {
            self.delete_segment(*id)?;
        }
        // What others state of packs of which an owner verified what they state.
        let others: HashSet<u32> = stays
            .iter()
            .filter(|row| !view.holdings.is_false(row.id))
            .flat_map(|row| row.packs.iter().copied())
            .filter(|pack| view.holdings.packs[*pack as usize].agreed)
            .collect();
        let mut dropped: BTreeSet<(SegmentId, PackId)> = BTreeSet::new();
        let mut group: Vec<&SegmentRow> = Vec::new();
        let (mut packs, mut weight) = (0, 0);
        for row in stays.into_iter().filter(|row| !twins.contains(&row.id)) {
            let mut live: Vec<&u32> = row.packs.iter().filter(|pack| is_live(pack)).collect();
            if live.len() == row.packs.len() && !live.is_empty() {
                continue;
            }
            let pack = |at: &u32| &view.holdings.packs[*at as usize];
            let mut verified = false;
            if view.holdings.is_false(row.id) {
                // Its word is worth nothing where others say the same of a pack, and what an owner verified needs nobody's.
                let alone: Vec<&u32> = live.iter().copied().filter(|at| !others.contains(at)).collect();
                verified = alone.iter().all(|at| pack(at).agreed && !pack(at).disputed);
                if verified {
                    dropped.extend(live.iter().filter(|at| others.contains(at)).map(|at| (row.id, pack(at).id)));
                    live = alone;
                }
            }
            if live.is_empty() {
                self.delete_segment(row.id)?;
                continue;
            }
            // Writing it anew would make a revoked slot's word, or one of two that differ, an owner's.
            if !verified && (row.revoked || live.iter().any(|at| pack(at).disputed)) {
                continue;
            }
            if !group.is_empty()
                && (packs + live.len() > SEGMENT_PACKS_TARGET || weight + row.weight > SEGMENT_CHUNKS_TARGET)
            {
                self.supersede(&std::mem::take(&mut group), view, &dropped, &known)?;
                (packs, weight) = (0, 0);
            }
            packs += live.len();
            weight += row.weight;
            group.push(row);
        }
        self.supersede(&group, view, &dropped, &known)
    }

    fn delete_segment(&mut self, id: SegmentId) -> Result<(), GcError> {
        self.stop_if_cancelled()?;
        let name = segment_name(&id);
        if self.is_told(&name) {
            return Ok(());
        }
        match self.delete(&name)? {
            true => self.report.segments_deleted += 1,
            false => self.report.deferred_objects += 1,
        }
        Ok(())
    }

    /// Writes one segment in the place of several, without what is false or `dropped` of them, then deletes these.
    fn supersede(
        &mut self,
        rows: &[&SegmentRow],
        view: &View,
        dropped: &BTreeSet<(SegmentId, PackId)>,
        listed: &BTreeSet<SegmentId>,
    ) -> Result<(), GcError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.stop_if_cancelled()?;
        if self.options.dry_run {
            self.report.segments_written += 1;
            return rows.iter().try_for_each(|row| self.delete_segment(row.id));
        }
        let mut segments: Vec<(SegmentId, Segment)> = Vec::new();
        for row in rows {
            match read_segment(self.repository, self.region, row.id)? {
                ReadSegment::Whole(opened) => segments.push((row.id, opened.segment)),
                // Another collector was faster.
                ReadSegment::Gone | ReadSegment::Refused(_) => {}
            }
        }
        let keeps = |id: &SegmentId, pack: &SegmentPack| {
            let named = (*id, pack.pack);
            !self.log.dead.contains(&pack.pack)
                && !view.holdings.false_listings.contains(&named)
                && !dropped.contains(&named)
        };
        let mut merged = merge(&segments, &keeps);
        // A store that refused to delete what these replaced still lists it: it stays replaced.
        let before: BTreeSet<SegmentId> = rows.iter().flat_map(|row| &row.supersedes).copied().collect();
        let there = before.into_iter().filter(|id| listed.contains(id));
        merged.supersedes.extend(there);
        merged.supersedes.sort_unstable();
        merged.supersedes.dedup();
        if !merged.packs.is_empty() {
            let repository = self.repository;
            let (bytes, id) = seal(&merged, &repository.keyring, &repository.signer(), &*repository.random)
                .map_err(RepoError::from)?;
            put_with_retries(&*self.region.store, &segment_name(&id), &bytes.into())
                .map_err(|error| self.region.error(error))?;
            self.report.segments_written += 1;
        }
        for (id, _) in segments {
            self.delete_segment(id)?;
        }
        Ok(())
    }
}

/// Segments that list nothing but what one other of a lower name lists as well: two collectors replaced the
/// same ones. The lowest name always stays, whoever looks at whichever of them.
fn twins(rows: &[&SegmentRow], view: &View) -> BTreeSet<SegmentId> {
    let is_live = |pack: &&u32| !view.holdings.packs[**pack as usize].dead;
    let is_sure = |pack: &u32| !view.holdings.packs[*pack as usize].disputed;
    let rows: Vec<&&SegmentRow> = rows.iter().filter(|row| row.by_decider).collect();
    let mut listing: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        row.packs.iter().filter(is_live).for_each(|pack| listing.entry(*pack).or_default().push(at));
    }
    let is_twin = |row: &&&&SegmentRow| {
        let mut live = row.packs.iter().filter(is_live);
        let Some(first) = live.next().filter(|pack| is_sure(pack)) else { return false };
        let holds = |other: &&SegmentRow| {
            other.id < row.id
                && row.packs.iter().filter(is_live).all(|pack| is_sure(pack) && other.packs.contains(pack))
        };
        listing.get(first).is_some_and(|others| others.iter().any(|at| holds(rows[*at])))
    };
    rows.iter().filter(|row| is_twin(row)).map(|row| row.id).collect()
}

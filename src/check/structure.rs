//! One region's structure: segments, packs, snapshots, and what these reach. No pack is read.

use super::run::Run;
use super::{CheckError, ISSUES_LISTED_MAX, RegionReport, objects};
use crate::crypto::listing::listings;
use crate::format::ids::{ChunkId, Digest, PackId, SegmentId, SlotId, SnapshotId};
use crate::format::segment::{Segment, SegmentPack};
use crate::index::graph::{ChunkCopy, Graph, GraphBuilder, GraphError, Lack, Marks, key};
use crate::index::record::PLACES_PER_PACK;
use crate::index::segment::{OpenedSegment, segment_name};
use crate::index::{Index, IndexError, PackEntry, Place};
use crate::pack::reader::pack_name;
use crate::repo::attest;
use crate::repo::gclog::{self, GcLog};
use crate::repo::open::RegionHandle;
use crate::repo::snapshots::{SnapshotInfo, open_private, read_snapshot, snapshot_name};
use crate::repo::sync::{list_packs, list_segments, read_segment};
use crate::report::{IssueKind, Phase};
use crate::timing::Stage;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Segments opened at once: each may take some ten megabytes while it is decoded.
const SEGMENTS_AT_ONCE: usize = 4;

/// What some segments of a region state of a pack.
pub(super) struct Row {
    pub(super) id: PackId,
    /// The slot that first wrote its frames, as stated.
    pub(super) origin: SlotId,
    /// An owner verified that it holds what is stated.
    pub(super) attested: bool,
    /// It is there in the size that is stated.
    present: bool,
    /// A final lists it as deleted: it isn't lost.
    dead: bool,
}

/// A listed pack that can't be used, with what is said of it.
struct Unusable {
    pack: PackId,
    segment: SegmentId,
    kind: IssueKind,
    detail: String,
}

/// What is known of a region once its structure was checked.
pub(super) struct Checked {
    pub(super) at: usize,
    pub(super) report: RegionReport,
    /// What its chunks refer to.
    pub(super) graph: Graph,
    /// Segments that could be opened.
    pub(super) segments: Vec<SegmentId>,
    /// Packs that are present in the size that some segment states, ascending, with their sizes.
    pub(super) packs: Vec<(PackId, u64)>,
    /// Chunks of which reading found no whole copy, once it has read.
    pub(super) damaged: Option<Marks>,
    /// Packs whose bytes are not those of their names, once it has read.
    pub(super) damaged_packs: Vec<PackEntry>,
    /// Listings of packs that were read whole and are as stated.
    pub(super) verified: Vec<Digest>,
    /// Segments that the local index knows otherwise.
    pub(super) index_differs: u64,
    /// Each snapshot that counts here, with its slot and its root.
    roots: Vec<(SnapshotId, SlotId, ChunkId)>,
    /// Listed packs by the numbers that the graph knows them by.
    pub(super) rows: Vec<Row>,
    /// Those that are gone, or of another size than is stated.
    unusable: Vec<Unusable>,
    /// Some snapshot reaches what can't be had.
    lacking: bool,
    /// Those that are there in another size and that some snapshot needs, with a segment that lists them.
    cut: Vec<(PackId, SegmentId)>,
}

/// What the threads that open segments gather.
struct Gathered {
    graph: GraphBuilder,
    rows: Vec<Row>,
    numbers: HashMap<(PackId, SlotId, bool, bool), u32>,
    opened: Vec<SegmentId>,
    superseded: BTreeSet<SegmentId>,
    /// Every listed pack.
    listed: Vec<PackId>,
    /// Of these, the ones that are there in the size that is stated.
    usable: HashSet<PackId>,
    /// Listed packs that are absent or have another size, with the segment and who signed it.
    unusable: Vec<(PackId, SegmentId, SlotId, Option<u64>, u64)>,
    chunks: u64,
    index_differs: Vec<String>,
}

impl Run<'_> {
    /// Checks one region.
    pub(super) fn region(&self, at: usize) -> Result<Checked, CheckError> {
        let region = &self.repository.regions[at];
        let mut report = RegionReport { name: region.name.clone(), ..RegionReport::default() };
        report.objects = self.findings.timer.run(Stage::Open, || objects::verify(self, region))?;
        let mut checked = self.findings.timer.run(Stage::Segment, || self.segments(at, region, report))?;
        self.findings.timer.run(Stage::Tree, || {
            self.snapshots(region, &mut checked)?;
            self.walk(&mut checked)?;
            self.tell_unusable(&mut checked)
        })?;
        Ok(checked)
    }

    fn segments(&self, at: usize, region: &RegionHandle, report: RegionReport) -> Result<Checked, CheckError> {
        // Segments are listed before packs: a pack is stored before the segment that lists it, so that
        // a backup going on meanwhile doesn't look like a loss.
        let mut ids: Vec<SegmentId> = list_segments(region)?.into_keys().collect();
        ids.sort_unstable();
        let stored = list_packs(region)?;
        // The log last: a collection that deleted packs meanwhile has written its final before.
        let (log, _) = gclog::read_what_is_whole(self.repository, region)?;

        let mut index_differs = 0;
        let known = match self.index.map(|index| index.segments(region.info.region)) {
            Some(Ok(known)) => Some(known),
            Some(Err(error)) => {
                self.findings.notice(error.to_string());
                index_differs += 1;
                None
            }
            None => None,
        };
        self.findings.monitor.phase(Phase::Check, Some(ids.len() as u64), None);
        let memory_bytes = self.options.memory_bytes / self.repository.regions.len().max(1);
        let gathered = Mutex::new(Gathered {
            graph: GraphBuilder::new(self.options.spill.clone(), memory_bytes),
            rows: Vec::new(),
            numbers: HashMap::new(),
            opened: Vec::new(),
            superseded: BTreeSet::new(),
            listed: Vec::new(),
            usable: HashSet::new(),
            unusable: Vec::new(),
            chunks: 0,
            index_differs: Vec::new(),
        });
        self.findings.parallel(Stage::Segment, self.threads().min(SEGMENTS_AT_ONCE), ids.len(), &|at| {
            let id = ids[at];
            match read_segment(self.repository, region, id) {
                Ok(opened) => {
                    let differs =
                        known.as_ref().and_then(|known| self.compare(region, &log, known, id, &opened.segment));
                    let vouched = attest::vouched(self.attested, &opened.segment);
                    let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                    gathered.index_differs.extend(differs);
                    gathered.take(id, &opened, &vouched, &stored, &log)?;
                }
                Err(error) => self.findings.note(&region.name, &segment_name(&id), error)?,
            }
            self.findings.monitor.advance(1, 0);
            Ok(())
        })?;
        let mut gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut checked = Checked {
            at,
            report,
            graph: gathered.graph.finish()?,
            segments: gathered.opened,
            packs: Vec::new(),
            damaged: None,
            damaged_packs: Vec::new(),
            verified: Vec::new(),
            index_differs,
            roots: Vec::new(),
            rows: gathered.rows,
            unusable: Vec::new(),
            lacking: false,
            cut: Vec::new(),
        };
        gathered.listed.sort_unstable();
        gathered.listed.dedup();

        gathered.unusable.sort_unstable();
        for (pack, segment, signer, found, stated) in &gathered.unusable {
            let mut unusable = |kind, detail: String| {
                checked.unusable.push(Unusable { pack: *pack, segment: *segment, kind, detail });
            };
            match found {
                // What a superseded segment or a finished collection speaks of may be gone.
                None if gathered.superseded.contains(segment) || log.is_missing(pack) => {}
                None => {
                    checked.report.packs_missing += 1;
                    let detail = format!("segment {segment} lists it, {stated} bytes, and it is not there");
                    unusable(IssueKind::Missing, detail);
                }
                // Another segment says it as it is: this one's word is false, and the pack is what it should be.
                Some(found) if gathered.usable.contains(pack) => {
                    let detail = format!("it is {stated} bytes long, and it is {found}");
                    self.misstated(&region.name, segment, *signer, pack, &detail);
                }
                Some(found) => {
                    let detail = format!("it is {found} bytes long, segment {segment} says {stated}");
                    unusable(IssueKind::Damaged, detail);
                }
            }
        }
        for (pack, size) in &stored {
            if gathered.listed.binary_search(pack).is_err() {
                checked.report.packs_orphan += 1;
                checked.report.orphan_bytes += size;
            } else if gathered.usable.contains(pack) {
                checked.report.pack_bytes += size;
                checked.packs.push((*pack, *size));
            }
        }
        if checked.report.packs_orphan > 0 {
            self.findings.notice(format!(
                "region '{}': no segment lists {} packs ({} bytes); a backup that goes on or was interrupted owns them",
                region.name, checked.report.packs_orphan, checked.report.orphan_bytes
            ));
        }
        if let Some(first) = gathered.index_differs.iter().min() {
            checked.index_differs += gathered.index_differs.len() as u64;
            self.findings.notice(format!(
                "the local index differs from {} segments of region '{}' ({first}): run `keepstone cache rebuild`",
                gathered.index_differs.len(),
                region.name
            ));
        }
        checked.report.segments = checked.segments.len() as u64;
        checked.report.packs = gathered.listed.len() as u64;
        checked.report.chunks = gathered.chunks;
        Ok(checked)
    }

    /// Every copy of a snapshot in this region must verify, not just some region's.
    fn snapshots(&self, region: &RegionHandle, checked: &mut Checked) -> Result<(), CheckError> {
        let here = |info: &&SnapshotInfo| info.is_committed_in(checked.at);
        let counted: Vec<_> = self.listing.snapshots.iter().filter(here).collect();
        self.findings.parallel(Stage::Tree, self.threads(), counted.len(), &|at| {
            let id = counted[at].id;
            // Told with the listing.
            if counted[at].lost.contains(&checked.at) {
                return Ok(());
            }
            let read = read_snapshot(self.repository, region, id).and_then(|(snapshot, _)| {
                if self.repository.keyring.can_open_payloads() {
                    open_private(self.repository, &snapshot)
                        .map_err(|source| region.crypto_error(&snapshot_name(&id), source))?;
                }
                Ok(())
            });
            match read {
                Ok(()) => Ok(()),
                Err(error) => self.findings.note(&region.name, &snapshot_name(&id), error),
            }
        })?;
        // A commit and a snapshot each.
        checked.report.objects += 2 * counted.len() as u64;
        checked.report.snapshots = counted.len() as u64;
        checked.roots = counted.iter().map(|info| (info.id, info.slot, info.snapshot.root)).collect();
        Ok(())
    }

    fn walk(&self, checked: &mut Checked) -> Result<(), CheckError> {
        let name = &checked.report.name;
        let mut marks = checked.graph.marks();
        let mut lacking = false;
        let roots: Vec<ChunkId> = checked.roots.iter().map(|(.., root)| *root).collect();
        checked.graph.walk_all(&roots, &mut marks, &mut |from, to, lack| {
            lacking = true;
            // A chunk in an absent pack is said with the pack.
            if lack == Lack::Lost {
                return;
            }
            let issue = |from: String| {
                let detail = format!("{from} refers to it, and no segment that can be read lists it");
                self.findings.issue(IssueKind::Missing, name, &format!("chunk {to:016x}…"), detail);
            };
            match from {
                Some(from) => issue(format!("chunk {from:016x}…")),
                None => {
                    let of_root = checked.roots.iter().filter(|(.., root)| key(root) == to);
                    of_root.for_each(|(snapshot, ..)| issue(format!("snapshot {snapshot}")));
                }
            }
        })?;
        checked.report.chunks_reached = marks.count() - marks.lost();
        checked.lacking = lacking;
        Ok(())
    }

    /// Tells of packs that are gone or cut short: an issue where a snapshot needs something of them, else a notice.
    fn tell_unusable(&self, checked: &mut Checked) -> Result<(), CheckError> {
        let unusable = std::mem::take(&mut checked.unusable);
        if unusable.is_empty() {
            return Ok(());
        }
        let needed = needed_of_lost(checked)?;
        let (needed, spare): (Vec<&Unusable>, Vec<&Unusable>) =
            unusable.iter().partition(|unusable| needed.contains(&unusable.pack));
        for Unusable { pack, segment, kind, detail } in needed {
            self.findings.issue(*kind, &checked.report.name, &pack_name(pack), detail);
            if *kind == IssueKind::Damaged {
                checked.cut.push((*pack, *segment));
            }
        }
        if let Some(Unusable { pack, detail, .. }) = spare.first() {
            let more = match spare.len() - 1 {
                0 => String::new(),
                more => format!("; so it is with {more} more"),
            };
            self.findings.notice(format!(
                "region '{}': {}: {detail}{more}. No snapshot needs them any more: `keepstone gc` takes them off the lists",
                checked.report.name,
                pack_name(pack)
            ));
        }
        Ok(())
    }

    /// Adds the packs of another size than a segment states to those that are damaged.
    pub(super) fn add_cut(&self, checked: &mut Checked) {
        let mut by_segment: BTreeMap<SegmentId, BTreeSet<PackId>> = BTreeMap::new();
        for (pack, segment) in checked.cut.drain(..) {
            by_segment.entry(segment).or_default().insert(pack);
        }
        for (id, packs) in by_segment {
            // One that can't be read any more was told.
            let Ok(opened) = read_segment(self.repository, &self.repository.regions[checked.at], id) else { continue };
            let listed = opened.segment.packs.iter().zip(listings(&opened.segment));
            let cut = listed.filter(|(pack, _)| packs.contains(&pack.pack));
            checked.damaged_packs.extend(cut.map(|(pack, listing)| PackEntry::from_segment(pack, listing, &[])));
        }
        checked.damaged_packs.truncate(ISSUES_LISTED_MAX);
    }

    /// Says which snapshots reach what is lost or damaged: known once everything was read.
    pub(super) fn name_broken_snapshots(&self, checked: &mut Checked) -> Result<(), CheckError> {
        let damaged = checked.damaged.as_ref().filter(|damaged| damaged.count() > 0);
        if !checked.lacking && damaged.is_none() {
            return Ok(());
        }
        // What a whole snapshot reaches is whole, and need not be walked for the next one.
        let mut whole = checked.graph.marks();
        for (snapshot, _, root) in &checked.roots {
            let (mut marks, mut broken) = (whole.clone(), false);
            checked.graph.walk(root, &mut marks, &mut |_, _, _| broken = true)?;
            if !broken && !damaged.is_some_and(|damaged| damaged.meets(&marks)) {
                whole = marks;
                continue;
            }
            checked.report.snapshots_broken.push(*snapshot);
            let kind = if checked.lacking { IssueKind::Missing } else { IssueKind::Damaged };
            let detail = "it refers to chunks that are missing or damaged in this region";
            self.findings.issue(kind, &checked.report.name, &snapshot_name(snapshot), detail);
        }
        Ok(())
    }

    /// Tells of what a segment states falsely of a pack (`SEG-10`): that pack is as its name says.
    pub(super) fn misstated(&self, region: &str, segment: &SegmentId, signer: SlotId, pack: &PackId, detail: &str) {
        let slot = self.repository.roster.slot(signer);
        let label = slot.map_or_else(|| signer.to_string(), |slot| format!("'{}' ({signer})", slot.label));
        let detail = format!("SEG-10: slot {label} states falsely of {}: {detail}", pack_name(pack));
        self.findings.issue(IssueKind::Damaged, region, &segment_name(segment), detail);
    }

    /// What the local index says otherwise than a segment; `None` when they agree.
    fn compare(
        &self,
        region: &RegionHandle,
        log: &GcLog,
        known: &HashMap<SegmentId, u64>,
        id: SegmentId,
        segment: &Segment,
    ) -> Option<String> {
        let index = self.index?;
        // One that it doesn't know yet comes in with the next command that needs it.
        if !known.contains_key(&id) {
            return None;
        }
        // What a final lists as deleted has left the index, whatever segments say.
        let listed = segment.packs.iter().zip(listings(segment)).filter(|(pack, _)| !log.dead.contains(&pack.pack));
        let different = listed.map(|(pack, listing)| compare_pack(index, region, pack, &listing));
        match different.collect::<Result<Vec<_>, _>>() {
            Ok(found) => found.into_iter().flatten().next(),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// The packs that can't be used and of which some snapshot needs something, as a replication and a collection judge it
/// (`COLLECT-11`, `COLLECT-18`): a chunk of which the snapshot's own slot has no other copy here, nor anybody one that an
/// owner verified; or, where the slot listed none itself, one of which nobody has another copy here.
fn needed_of_lost(checked: &Checked) -> Result<HashSet<PackId>, GraphError> {
    let mut by_slot: BTreeMap<SlotId, Vec<ChunkId>> = BTreeMap::new();
    checked.roots.iter().for_each(|(_, slot, root)| by_slot.entry(*slot).or_default().push(*root));
    let mut needed = HashSet::new();
    for (slot, roots) in by_slot {
        let mut marks = checked.graph.marks();
        checked.graph.walk_all(&roots, &mut marks, &mut |_, _, _| {})?;
        checked.graph.each_chunk(&marks, &mut |_, reached, copies| {
            if !reached {
                return;
            }
            let row = |copy: &ChunkCopy| &checked.rows[copy.pack as usize];
            let (there, gone): (Vec<&ChunkCopy>, Vec<&ChunkCopy>) = copies.iter().partition(|copy| row(copy).present);
            let lost: Vec<&ChunkCopy> = gone.into_iter().filter(|copy| !row(copy).dead).collect();
            let stands = match lost.iter().any(|copy| row(copy).origin == slot) {
                true => there.iter().any(|copy| row(copy).origin == slot || row(copy).attested),
                false => !there.is_empty(),
            };
            if !stands {
                needed.extend(lost.into_iter().map(|copy| row(copy).id));
            }
        })?;
    }
    Ok(needed)
}

fn compare_pack(
    index: &dyn Index,
    region: &RegionHandle,
    pack: &SegmentPack,
    listing: &Digest,
) -> Result<Option<String>, IndexError> {
    let differs = |what: &str| Ok(Some(format!("pack {}: {what}", pack.pack)));
    let mut found = None;
    for ordinal in index.ordinals(&pack.pack)? {
        let entry = index.pack(ordinal)?;
        found = found.or(entry.says(pack, listing).then_some((ordinal, entry)));
    }
    let Some((ordinal, entry)) = found else { return differs("it is not in it as the segment states it") };
    if !entry.regions.contains(&region.info.region) {
        return differs("it is not known in this region");
    }
    if *entry != PackEntry::from_segment(pack, *listing, &entry.regions) {
        return differs("its frames or lengths differ");
    }
    for (number, frame) in pack.frames.iter().enumerate() {
        let ids: Vec<_> = frame.chunks.iter().map(|chunk| chunk.id).collect();
        let mut offset = 0;
        for (chunk, places) in frame.chunks.iter().zip(index.places(&ids)?) {
            let place = Place { pack: ordinal, frame: number as u32, offset, length: chunk.length };
            let kept = || places.iter().filter(|place| place.pack == ordinal).count();
            if !places.contains(&place) && kept() < PLACES_PER_PACK {
                return differs(&format!("chunk {} is placed elsewhere", chunk.id));
            }
            offset += chunk.length;
        }
    }
    Ok(None)
}

impl Gathered {
    fn take(
        &mut self,
        id: SegmentId,
        opened: &OpenedSegment,
        vouched: &[bool],
        stored: &[(PackId, u64)],
        log: &GcLog,
    ) -> Result<(), GraphError> {
        let segment = &opened.segment;
        let (mut packs, mut present) = (Vec::new(), Vec::new());
        for (pack, attested) in segment.packs.iter().zip(vouched.iter().copied()) {
            let place = stored.binary_search_by_key(&pack.pack, |(pack, _)| *pack).ok();
            let found = place.map(|at| stored[at].1);
            let is_there = found == Some(pack.size);
            let number = self.numbers.entry((pack.pack, pack.origin, attested, is_there)).or_insert_with(|| {
                let dead = log.dead.contains(&pack.pack);
                self.rows.push(Row { id: pack.pack, origin: pack.origin, attested, present: is_there, dead });
                self.rows.len() as u32 - 1
            });
            packs.push(*number);
            present.push(is_there);
            match is_there {
                true => drop(self.usable.insert(pack.pack)),
                false => self.unusable.push((pack.pack, id, opened.signer, found, pack.size)),
            }
            self.listed.push(pack.pack);
        }
        self.graph.add(segment, &packs, &present)?;
        self.superseded.extend(&segment.supersedes);
        self.chunks += segment.chunk_count() as u64;
        self.opened.push(id);
        Ok(())
    }
}

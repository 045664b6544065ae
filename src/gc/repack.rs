//! Takes what is needed out of packs that are mostly dead, so that these can go.
//!
//! Frames whose chunks are all or nearly all needed are moved as they are, which needs no payload key. An
//! owner also opens thin frames, verifies the chunks that are reached and packs them anew, each once and only if
//! no copy stays elsewhere; for a maintainer these stay whole. Both keep the slot that first wrote the frames as
//! origin. A pack is read whole and
//! compared with its name and its directory first: damage must not get a digest that fits.

use super::generation::{Run, View};
use super::{GcError, MaxUnused};
use crate::compress::Compression;
use crate::crypto::object::check_digest;
use crate::format::ids::{ChunkId, PackId, SegmentId, SessionId, SlotId};
use crate::format::pack::{Directory, PackHeader};
use crate::format::roster::Role;
use crate::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use crate::format::sequence::{decode_chunk, references};
use crate::index::graph::{ChunkCopy, Marks};
use crate::index::segment::{build, prefix, seal, segment_name};
use crate::limits::{PACK_BYTES_MAX, PACK_REFERENCES_TARGET, SEGMENT_CHUNKS_TARGET, SEGMENT_PACKS_TARGET};
use crate::pack::reader::{decode_directory, pack_name, verify};
use crate::pack::{FinishedPack, FrameBuilder, FrameMover, PackReader, PackWriter, PendingChunk};
use crate::repo::{RepoError, Session};
use crate::ship::put_with_retries;
use crate::store::StoreErrorKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A pack of which less than one part in so many would be saved isn't worth reading.
const GAIN_PARTS: u64 = 8;
/// A frame of whose plaintext at least so much in a hundred is needed is moved as it is.
const WHOLE_PERCENT: u64 = 90;

/// What was taken out of where.
#[derive(Default)]
pub struct Repacked {
    /// Packs of which everything that is needed has another place now.
    pub emptied: BTreeMap<PackId, u64>,
    session: Option<Session>,
}

impl Repacked {
    /// Ends the session: what it wrote is needed by snapshots, and what it emptied is condemned.
    pub fn end(self, run: &Run<'_>) {
        if let Some(session) = self.session {
            session.end(run.repository);
        }
    }
}

/// A pack's cost and gain.
struct Choice {
    pack: u32,
    size: u64,
    gain: u64,
}

impl Run<'_> {
    /// What could be saved of each pack that stays, by what this slot's role can do.
    fn choices(&self, view: &View) -> (Vec<Choice>, u64, u64) {
        let rewrites = self.repository.role() == Role::Owner;
        let protected = view.claims.protected(&self.log);
        let wanted: BTreeSet<&PackId> = view.claims.open(&self.log).flat_map(|(_, record)| &record.needs).collect();
        let (mut choices, mut total, mut unused) = (Vec::new(), 0, 0);
        for (at, pack) in view.holdings.packs.iter().enumerate() {
            if !view.stays(at as u32) || protected.contains(&pack.session) || wanted.contains(&pack.id) {
                continue;
            }
            let frames = pack.first_frame..pack.first_frame + pack.frame_count as usize;
            let mut live = 0u64;
            for (frame, needed) in view.holdings.frames[frames.clone()].iter().zip(&view.needed.frame_bytes[frames]) {
                let (raw, sealed) = (u64::from(frame.raw_length), u64::from(frame.sealed_length));
                live += match u64::from(*needed) {
                    0 => 0,
                    needed if rewrites && is_thin(needed, raw) => sealed * needed / raw.max(1),
                    _ => sealed,
                };
            }
            let gain = pack.size.saturating_sub(live + PackHeader::length(2) as u64);
            total += pack.size;
            unused += gain;
            choices.push(Choice { pack: at as u32, size: pack.size, gain });
        }
        (choices, total, unused)
    }

    /// The packs to empty: those that save the largest share first, until what is left is tolerated.
    fn chosen(&self, view: &View) -> Vec<u32> {
        let (mut choices, total, mut unused) = self.choices(view);
        let tolerated = match self.options.max_unused {
            MaxUnused::Permyriad(share) => (u128::from(total) * u128::from(share) / 10_000) as u64,
            MaxUnused::Bytes(bytes) => bytes,
        };
        choices.retain(|choice| choice.gain.saturating_mul(GAIN_PARTS) >= choice.size && choice.gain > 0);
        let share = |choice: &Choice| u128::from(choice.gain) * 1_000_000 / u128::from(choice.size.max(1));
        choices.sort_by_key(|choice| (std::cmp::Reverse(share(choice)), choice.pack));
        let mut chosen = Vec::new();
        let mut left = self.options.max_repack_bytes.unwrap_or(u64::MAX);
        for choice in choices {
            if unused <= tolerated {
                break;
            }
            if choice.size > left {
                continue;
            }
            left -= choice.size;
            unused -= choice.gain;
            chosen.push(choice.pack);
        }
        chosen
    }

    /// Empties packs that are mostly dead. What it writes is durable and listed when it returns.
    ///
    /// # Errors
    /// When a region fails or the user stops it; nothing is lost then, and what was written is collected like
    /// any other session's.
    pub fn repack(&mut self, view: &View, at: usize) -> Result<Repacked, GcError> {
        let chosen = self.chosen(view);
        if chosen.is_empty() {
            return Ok(Repacked::default());
        }
        if self.options.dry_run {
            let sizes = chosen.iter().map(|pack| &view.holdings.packs[*pack as usize]);
            return Ok(Repacked { emptied: sizes.map(|pack| (pack.id, pack.size)).collect(), session: None });
        }
        let session = Session::open_in(self.repository, at)?;
        let mut work = Work::new(self, session.id);
        let outcome = work.run(view, &chosen);
        let (emptied, written, notices) = (work.emptied, work.written, work.notices);
        self.report.repacked_bytes += written;
        self.report.notices.extend(notices);
        match outcome {
            Ok(()) => Ok(Repacked { emptied, session: Some(session) }),
            Err(error) => {
                session.end(self.repository);
                Err(error)
            }
        }
    }
}

fn is_thin(needed: u64, raw: u64) -> bool {
    needed * 100 < raw * WHOLE_PERCENT
}

/// Frames of one origin and kind on their way into a new pack, with what a segment will say of their chunks.
struct Moving {
    mover: FrameMover,
    listed: Vec<Vec<SegmentChunk>>,
}

/// Origin, whether of metadata, and epoch.
type RewritingKey = (SlotId, bool, u64);

/// Chunks of one origin, kind and epoch that are packed anew.
struct Rewriting {
    writer: PackWriter,
    frame: FrameBuilder,
    finished: Arc<Mutex<Vec<FinishedPack>>>,
    /// Finished packs that are stored and not listed yet.
    stored: Vec<FinishedPack>,
}

struct Work<'a, 'b> {
    run: &'a Run<'b>,
    session: SessionId,
    rewrites: bool,
    moving: BTreeMap<(SlotId, bool), Moving>,
    /// By origin, kind, and the epoch that they are sealed under.
    rewriting: BTreeMap<RewritingKey, Rewriting>,
    /// Moved packs that are stored and not listed yet.
    unlisted: Vec<SegmentPack>,
    emptied: BTreeMap<PackId, u64>,
    /// The packs to empty, by index into the holdings'.
    chosen: BTreeSet<u32>,
    /// By origin, the chunks that were packed anew.
    rewritten: BTreeMap<SlotId, Marks>,
    written: u64,
    notices: Vec<String>,
}

impl<'a, 'b> Work<'a, 'b> {
    fn new(run: &'a Run<'b>, session: SessionId) -> Self {
        Work {
            run,
            session,
            rewrites: run.repository.role() == Role::Owner,
            moving: BTreeMap::new(),
            rewriting: BTreeMap::new(),
            unlisted: Vec::new(),
            emptied: BTreeMap::new(),
            chosen: BTreeSet::new(),
            rewritten: BTreeMap::new(),
            written: 0,
            notices: Vec::new(),
        }
    }

    fn run(&mut self, view: &View, chosen: &[u32]) -> Result<(), GcError> {
        // By the segment that lists them, so that each is read once.
        self.chosen = chosen.iter().copied().collect();
        let mut left = self.chosen.clone();
        let mut by_segment: BTreeMap<SegmentId, BTreeSet<PackId>> = BTreeMap::new();
        for row in &view.holdings.segments {
            for pack in &row.packs {
                if left.remove(pack) {
                    by_segment.entry(row.id).or_default().insert(view.holdings.packs[*pack as usize].id);
                }
            }
        }
        let mut emptied = BTreeMap::new();
        for (id, packs) in by_segment {
            let read = super::holdings::read_segment(self.run.repository, self.run.region, id)?;
            // Another collector replaced it: the next run looks again.
            let super::holdings::ReadSegment::Whole(opened) = read else { continue };
            let ids: Vec<ChunkId> = opened.segment.chunks().map(|chunk| chunk.id).collect();
            for pack in opened.segment.packs.iter().filter(|pack| packs.contains(&pack.pack)) {
                self.run.stop_if_cancelled()?;
                match self.empty(view, pack, &ids)? {
                    None => drop(emptied.insert(pack.pack, pack.size)),
                    Some(why) => self.notices.push(format!("{}: it stays, for {why}", pack_name(&pack.pack))),
                }
            }
        }
        self.finish()?;
        self.emptied = emptied;
        Ok(())
    }

    /// Takes what is needed out of one pack; says why it can't be done, where the pack isn't what it should be.
    fn empty(&mut self, view: &View, pack: &SegmentPack, ids: &[ChunkId]) -> Result<Option<String>, GcError> {
        let Some(row) = view.holdings.ordinals.get(&pack.pack).map(|at| &view.holdings.packs[*at as usize]) else {
            return Ok(Some("it isn't known".to_owned()));
        };
        let region = self.run.region;
        let bytes = match region.store.get(&pack_name(&pack.pack), PACK_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Range) => {
                return Ok(Some(error.to_string()));
            }
            Err(error) => return Err(region.error(error).into()),
        };
        match check_digest(&bytes) {
            Ok(digest) if digest.0 == pack.pack.0 => {}
            Ok(digest) => return Ok(Some(format!("OBJ-10: its bytes are those of {digest}"))),
            Err(error) => return Ok(Some(error.to_string())),
        }
        let (header, directory) = match decode_directory(pack.pack, &bytes, &self.run.repository.keyring) {
            Ok(opened) => opened,
            Err(error) => return Ok(Some(error.to_string())),
        };
        if !agrees(pack, &header, &directory) {
            return Ok(Some("SEG-10: the segment that lists it says otherwise than its directory".to_owned()));
        }
        let mut offset = PackHeader::length(header.sections.len());
        let mut frames = Vec::with_capacity(pack.frames.len());
        for (at, frame) in pack.frames.iter().enumerate() {
            let end = offset + frame.sealed_length as usize;
            frames.push((at, frame, &bytes[offset..end]));
            offset = end;
        }
        let needed = |at: usize| u64::from(view.needed.frame_bytes[row.first_frame + at]);
        let raw = |frame: &SegmentFrame| frame.chunks.iter().map(|chunk| u64::from(chunk.length)).sum::<u64>();
        let (thin, whole): (Vec<_>, Vec<_>) = frames
            .into_iter()
            .filter(|(at, ..)| needed(*at) > 0)
            .partition(|(at, frame, _)| self.rewrites && is_thin(needed(*at), raw(frame)));
        if !thin.is_empty()
            && let Some(why) = self.rewrite(view, pack, &header, &thin)?
        {
            return Ok(Some(why));
        }
        for (_, frame, sealed) in whole {
            self.carry(pack, &header, frame, sealed, ids)?;
        }
        Ok(None)
    }

    /// Moves one frame as it is.
    fn carry(
        &mut self,
        pack: &SegmentPack,
        header: &PackHeader,
        frame: &SegmentFrame,
        sealed: &[u8],
        ids: &[ChunkId],
    ) -> Result<(), GcError> {
        let key = (pack.origin, pack.metadata);
        let pending: Vec<PendingChunk> = frame
            .chunks
            .iter()
            .map(|chunk| PendingChunk { id: chunk.id, kind: chunk.kind, length: chunk.length, references: Vec::new() })
            .collect();
        let section = &header.sections[frame.section as usize];
        if self.moving.get(&key).is_some_and(|moving| {
            let listed = moving.listed.iter().flatten().chain(&frame.chunks);
            let references: usize = listed.map(|chunk| chunk.references.len()).sum();
            !moving.mover.is_empty()
                && (references > PACK_REFERENCES_TARGET
                    || !moving.mover.has_room(&section.section, frame.sealed_length, &pending))
        }) {
            self.finish_moving(key)?;
        }
        if !self.moving.contains_key(&key) {
            let repository = self.run.repository;
            let mover = FrameMover::new(
                Arc::clone(&repository.keyring),
                Arc::clone(&repository.random),
                self.run.options.spools.clone(),
                self.session,
                pack.metadata,
            )?;
            self.moving.insert(key, Moving { mover, listed: Vec::new() });
        }
        let Some(moving) = self.moving.get_mut(&key) else { return Ok(()) };
        if moving.mover.push(section, frame.number, sealed, pending)? {
            let mut listed = frame.chunks.clone();
            for reference in listed.iter_mut().flat_map(|chunk| &mut chunk.references) {
                if let Reference::Ordinal(ordinal) = *reference {
                    *reference = prefix(&ids[ordinal as usize]);
                }
            }
            moving.listed.push(listed);
        }
        Ok(())
    }

    fn put(&mut self, pack: &mut FinishedPack) -> Result<(), GcError> {
        let region = self.run.region;
        put_with_retries(&*region.store, &pack_name(&pack.id), &pack.payload).map_err(|error| region.error(error))?;
        self.written += pack.size;
        pack.payload = crate::store::Payload::Bytes(bytes::Bytes::new());
        Ok(())
    }

    fn finish_moving(&mut self, key: (SlotId, bool)) -> Result<(), GcError> {
        let Some(moving) = self.moving.remove(&key).filter(|moving| !moving.mover.is_empty()) else { return Ok(()) };
        let mut finished = moving.mover.finish()?;
        self.put(&mut finished)?;
        let frames = finished.frames.iter().zip(moving.listed).map(|(frame, chunks)| SegmentFrame {
            section: frame.section,
            number: frame.number,
            sealed_length: frame.sealed_length,
            chunks,
        });
        let pack = SegmentPack {
            pack: finished.id,
            size: finished.size,
            session: self.session,
            origin: key.0,
            metadata: key.1,
            sections: finished.sections.iter().map(|record| record.section).collect(),
            frames: frames.collect(),
        };
        let weight: usize = self.unlisted.iter().chain([&pack]).map(SegmentPack::weight).sum();
        if self.unlisted.len() >= SEGMENT_PACKS_TARGET || weight > SEGMENT_CHUNKS_TARGET {
            self.list_moved()?;
        }
        self.unlisted.push(pack);
        Ok(())
    }

    /// Lists packs that are stored.
    fn list(&self, segment: &Segment) -> Result<(), GcError> {
        if segment.packs.is_empty() {
            return Ok(());
        }
        let (repository, region) = (self.run.repository, self.run.region);
        let (bytes, id) =
            seal(segment, &repository.keyring, &repository.signer(), &*repository.random).map_err(RepoError::from)?;
        put_with_retries(&*region.store, &segment_name(&id), &bytes.into()).map_err(|error| region.error(error))?;
        Ok(())
    }

    fn list_moved(&mut self) -> Result<(), GcError> {
        let packs = std::mem::take(&mut self.unlisted);
        self.list(&Segment { supersedes: Vec::new(), packs })
    }

    /// Opens frames of a pack, verifies the chunks that are reached, and packs these anew.
    fn rewrite(
        &mut self,
        view: &View,
        pack: &SegmentPack,
        header: &PackHeader,
        frames: &[(usize, &SegmentFrame, &[u8])],
    ) -> Result<Option<String>, GcError> {
        let repository = self.run.repository;
        let reader = match PackReader::open(pack.pack, header.clone(), &repository.keyring) {
            Ok(reader) => reader,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let keyring = &repository.keyring;
        let mut bytes = Vec::new();
        for (at, frame, sealed) in frames {
            let raw = frame.chunks.iter().map(|chunk| chunk.length).sum();
            if let Err(error) =
                reader.open_frame(*at, frame.section, frame.number, raw, &mut sealed.to_vec(), &mut bytes)
            {
                return Ok(Some(error.to_string()));
            }
            let epoch = header.sections[frame.section as usize].epoch;
            let hasher = keyring.ids(epoch).map_err(RepoError::from)?;
            // Ids are an epoch's: under one with other ids the chunks would not be found to be themselves.
            let key = (pack.origin, pack.metadata, keyring.newest_with_ids_of(epoch).map_err(RepoError::from)?);
            let mut start = 0;
            for chunk in &frame.chunks {
                let content = &bytes[start..start + chunk.length as usize];
                start += content.len();
                if hasher.id(chunk.kind, content) != chunk.id {
                    return Ok(Some(format!("CHUNK-1: it holds another chunk where {} is listed", chunk.id)));
                }
                if !self.is_due(view, pack.origin, &chunk.id)? {
                    continue;
                }
                let refers = match chunk.kind.is_structural() {
                    false => Vec::new(),
                    true => match decode_chunk(chunk.kind, content) {
                        Ok(decoded) => references(&decoded),
                        Err(error) => return Ok(Some(error.to_string())),
                    },
                };
                let rewriting =
                    self.rewriting.entry(key).or_insert_with(|| Rewriting::new(self.run, self.session, key));
                rewriting.frame.add(&rewriting.writer, chunk.id, chunk.kind, content, refers)?;
                let graph = &view.holdings.graph;
                let marks = self.rewritten.entry(pack.origin).or_insert_with(|| graph.marks());
                graph.mark(marks, &[chunk.id])?;
            }
            self.put_rewritten(key)?;
        }
        Ok(None)
    }

    /// True for a chunk that is reached, was not packed anew yet, and has no other copy of this origin in a pack
    /// that stays: with a copy here and one there neither pack would ever be worth keeping or done with.
    fn is_due(&self, view: &View, origin: SlotId, id: &ChunkId) -> Result<bool, GcError> {
        let graph = &view.holdings.graph;
        if !graph.is_reached(&view.needed.marks, id)? {
            return Ok(false);
        }
        if let Some(rewritten) = self.rewritten.get(&origin)
            && graph.is_reached(rewritten, id)?
        {
            return Ok(false);
        }
        let stays = |copy: &ChunkCopy| {
            let same_origin = view.holdings.packs[copy.pack as usize].origin == origin;
            copy.present && same_origin && view.stays(copy.pack) && !self.chosen.contains(&copy.pack)
        };
        Ok(!graph.copies(id)?.iter().any(stays))
    }

    /// Stores the packs that are complete, and lists them once there are enough.
    fn put_rewritten(&mut self, key: RewritingKey) -> Result<(), GcError> {
        let Some(mut rewriting) = self.rewriting.remove(&key) else { return Ok(()) };
        let finished = std::mem::take(&mut *rewriting.finished.lock().unwrap_or_else(PoisonError::into_inner));
        for mut pack in finished {
            // What it takes the place of goes for good: it must read back now, as it will have to.
            verify(&pack, &self.run.repository.keyring)?;
            self.put(&mut pack)?;
            let weight: usize = rewriting.stored.iter().chain([&pack]).map(FinishedPack::weight).sum();
            if rewriting.stored.len() >= SEGMENT_PACKS_TARGET || weight > SEGMENT_CHUNKS_TARGET {
                self.list(&build(std::mem::take(&mut rewriting.stored), self.session, key.0))?;
            }
            rewriting.stored.push(pack);
        }
        self.rewriting.insert(key, rewriting);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), GcError> {
        let keys: Vec<_> = self.moving.keys().copied().collect();
        for key in keys {
            self.finish_moving(key)?;
        }
        self.list_moved()?;
        let keys: Vec<_> = self.rewriting.keys().copied().collect();
        for key in keys {
            if let Some(rewriting) = self.rewriting.get_mut(&key) {
                rewriting.frame.flush(&rewriting.writer)?;
                rewriting.writer.finish()?;
            }
            self.put_rewritten(key)?;
            if let Some(rewriting) = self.rewriting.remove(&key) {
                self.list(&build(rewriting.stored, self.session, key.0))?;
            }
        }
        Ok(())
    }
}

impl Rewriting {
    fn new(run: &Run<'_>, session: SessionId, (_, metadata, epoch): RewritingKey) -> Self {
        let finished: Arc<Mutex<Vec<FinishedPack>>> = Arc::default();
        let sink = Arc::clone(&finished);
        let writer = PackWriter::new(
            Arc::clone(&run.repository.keyring),
            Arc::clone(&run.repository.random),
            run.options.spools.clone(),
            session,
            metadata,
            Compression::Default,
            Arc::new(move |pack| sink.lock().unwrap_or_else(PoisonError::into_inner).push(pack)),
        )
        .under_epoch(epoch);
        Rewriting { writer, frame: FrameBuilder::new(), finished, stored: Vec::new() }
    }
}

/// True when a segment states a pack's frames as the pack's own directory does.
fn agrees(listed: &SegmentPack, header: &PackHeader, directory: &Directory) -> bool {
    let sections = header.sections.iter().map(|record| record.section);
    listed.session == header.session
        && listed.metadata == header.metadata
        && listed.sections.iter().copied().eq(sections)
        && listed.frames.len() == directory.frames.len()
        && listed.frames.iter().zip(&directory.frames).all(|(stated, found)| {
            (stated.section, stated.number, stated.sealed_length) == (found.section, found.number, found.sealed_length)
                && stated.chunks.len() == found.chunks.len()
                && stated
                    .chunks
                    .iter()
                    .zip(&found.chunks)
                    .all(|(stated, found)| (stated.kind, stated.length) == (found.kind, found.length))
        })
}

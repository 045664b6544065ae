//! Open packs: frames are compressed, sealed and spooled; a full pack is completed and handed on.
//! Page: `format-spec/pack.md`.
//!
//! Threads add frames at the same time. A frame's place (pack, section number, offset) is reserved
//! under a lock once its sealed length is known; sealing and spooling happen outside it.

use super::PackError;
use super::frame::PendingFrame;
use super::spool::{Spool, SpoolSpace};
use crate::compress::{Compression, compress};
use crate::crypto::keyring::{Keyring, SectionKey};
use crate::env::{Random, random_bytes};
use crate::format::envelope::{ObjectKind, TAG_BYTES, TRAILER_BYTES};
use crate::format::ids::{ChunkId, ChunkKind, PackId, SessionId};
use crate::format::pack::{
    Directory, DirectoryChunk, DirectoryFrame, FOOTER_BYTES, Footer, PackHeader, SectionRecord, padme,
};
use crate::format::segment::weight;
use crate::limits::{PACK_BYTES_TARGET, PACK_CHUNKS_TARGET, PACK_FRAMES_MAX, PACK_REFERENCES_TARGET};
use crate::store::Payload;
use crate::timing::{Stage, Timer};
use crossbeam_channel::{Sender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard};

const HASH_BUFFER_BYTES: usize = 1 << 20;

/// A chunk on its way into a frame, with what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its kind.
    pub kind: ChunkKind,
    /// Plaintext length in bytes.
    pub length: u32,
    /// The chunks that it refers to; empty for data.
    pub references: Vec<ChunkId>,
}

/// A frame of a pack that is being or was written.
#[derive(Clone, Debug)]
pub struct WrittenFrame {
    /// Index into the pack's sections.
    pub section: u32,
    /// The frame's number in its section.
    pub number: u64,
    /// Bytes in the pack, tag included.
    pub sealed_length: u32,
    /// The chunks, in order.
    pub chunks: Vec<PendingChunk>,
}

/// A complete pack, named and ready to ship.
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// Its bytes.
    pub payload: Payload,
    /// Its size in bytes.
    pub size: u64,
    /// True for tree and list chunks.
    pub metadata: bool,
    /// The sections, in header order.
    pub sections: Vec<SectionRecord>,
    /// Its frames, in stored order.
    pub frames: Vec<WrittenFrame>,
}

impl FinishedPack {
    /// As [`SegmentPack::weight`](crate::format::segment::SegmentPack::weight).
    pub fn weight(&self) -> usize {
        let frames = self.frames.iter();
        frames.map(|frame| weight(frame.chunks.iter().map(|chunk| chunk.references.len()))).sum()
    }
}

/// Receives finished packs; called from the thread that completed one.
pub type PackSink = Arc<dyn Fn(FinishedPack) + Send + Sync>;

/// The open packs of one kind (data or metadata) in one session.
pub struct PackWriter {
    keyring: Arc<Keyring>,
    /// The epoch of the sections.
    epoch: u64,
    random: Arc<dyn Random>,
    spools: SpoolSpace,
    session: SessionId,
    metadata: bool,
    compression: Compression,
    sink: Mutex<Option<PackSink>>,
    open: Mutex<Vec<Arc<OpenPack>>>,
    open_max: usize,
    timer: Timer,
    idle: Option<Sender<PendingFrame>>,
}

struct OpenPack {
    spool: Spool,
    section: SectionRecord,
    key: SectionKey,
    state: Mutex<OpenState>,
}

struct OpenState {
    frames: Vec<WrittenFrame>,
    end: u64,
    pending: usize,
    closing: bool,
    /// A frame's bytes did not reach the spool.
    broken: bool,
}

/// A frame's place in a pack; whoever has it must write the frame there, or mark the pack broken.
struct Reserved {
    pack: Arc<OpenPack>,
    number: u64,
    offset: u64,
    /// A pack that had no room left and is the caller's to complete.
    full: Option<Arc<OpenPack>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere is a programmer's error that ends the run; the state itself stays coherent
    // because every change under these locks is complete before anything can fail.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl PackWriter {
    /// Packs of one kind for one session. Data frames go to one of two open packs at random, so that
    /// whoever sees the packs can't tell which frames follow one another.
    pub fn new(
        keyring: Arc<Keyring>,
        random: Arc<dyn Random>,
        spools: SpoolSpace,
        session: SessionId,
        metadata: bool,
        compression: Compression,
        sink: PackSink,
    ) -> Self {
        let open_max = if metadata { 1 } else { 2 };
        let open = Mutex::new(Vec::new());
        let sink = Mutex::new(Some(sink));
        let epoch = keyring.current_epoch();
        let (timer, idle) = (Timer::off(), None);
        PackWriter { keyring, epoch, random, spools, session, metadata, compression, sink, open, open_max, timer, idle }
    }

    /// Seals sections under another epoch than the current one: that of chunks which were read out of an older
    /// section keep their ids only under [`Keyring::newest_with_ids_of`].
    #[must_use]
    pub fn under_epoch(self, epoch: u64) -> Self {
        PackWriter { epoch, ..self }
    }

    /// Takes the times of the stages from frames to finished packs.
    pub fn timed(self, timer: Timer) -> Self {
        PackWriter { timer, ..self }
    }

    /// Full frames may be handed to whoever waits at the other end of this channel, which has no room.
    pub fn helped(self, idle: Sender<PendingFrame>) -> Self {
        PackWriter { idle: Some(idle), ..self }
    }

    /// Hands a frame to a thread that has nothing to do; gives it back where there is none.
    pub(super) fn hand_over(&self, frame: PendingFrame) -> Option<PendingFrame> {
        match &self.idle {
            None => Some(frame),
            Some(idle) => idle.try_send(frame).err().map(TrySendError::into_inner),
        }
    }

    /// Compresses, seals and spools one frame.
    ///
    /// # Errors
    /// When the spool fails or this slot may not store payloads.
    pub fn add_frame(&self, raw: &[u8], chunks: Vec<PendingChunk>) -> Result<(), PackError> {
        let raw_length = raw.len() as u32;
        debug_assert_eq!(chunks.iter().map(|chunk| chunk.length).sum::<u32>(), raw_length);
        let timer = &self.timer;
        let mut frame = timer.run(Stage::Compress, || compress(raw, self.compression));
        timer.bytes(Stage::Compress, raw.len() as u64);
        let sealed_length = (frame.len() + TAG_BYTES) as u32;
        let Reserved { pack, number, offset, full } = self.reserve(sealed_length, chunks)?;
        timer.run(Stage::Seal, || pack.key.seal(number, raw_length, &mut frame));
        timer.bytes(Stage::Seal, frame.len() as u64);
        debug_assert_eq!(frame.len(), sealed_length as usize);
        let written = timer.run(Stage::Spool, || pack.spool.write_at(&frame, offset));
        timer.bytes(Stage::Spool, frame.len() as u64);
        let last = {
            let mut state = locked(&pack.state);
            state.pending -= 1;
            // A pack that lacks a frame's bytes must never get a name: later backups would rely on it.
            state.broken |= written.is_err();
            state.closing && state.pending == 0
        };
        // Only now: had completing the full pack failed before, this frame's place would stay empty.
        let completed = full.map_or(Ok(()), |full| self.complete(vec![full]));
        written?;
        completed?;
        if last { self.complete(vec![pack]) } else { Ok(()) }
    }

    /// Finds room for a frame in one of the open packs; closes a pack that has none left.
    fn reserve(&self, sealed_length: u32, chunks: Vec<PendingChunk>) -> Result<Reserved, PackError> {
        let mut open = locked(&self.open);
        let chosen = if open.len() < self.open_max {
            open.push(Arc::new(self.create_pack()?));
            open.len() - 1
        } else {
            usize::from(random_bytes::<1>(&*self.random)[0]) % open.len()
        };
        let pack = Arc::clone(&open[chosen]);
        let mut state = locked(&pack.state);
        let full = !state.frames.is_empty()
            && (finished_length(state.end + u64::from(sealed_length), &state.frames, Some(&chunks))
                > PACK_BYTES_TARGET
                || state.frames.len() >= PACK_FRAMES_MAX
                || chunk_count(&state.frames) + chunks.len() > PACK_CHUNKS_TARGET
                || has_many_references(&state.frames, &chunks));
        if !full {
            let (number, offset) = state.reserve(sealed_length, chunks);
            drop(state);
            return Ok(Reserved { pack, number, offset, full: None });
        }
        // The next pack first: should it fail, this one goes on as it was and is completed once only.
        let fresh = Arc::new(self.create_pack()?);
        open[chosen] = Arc::clone(&fresh);
        state.closing = true;
        let idle = state.pending == 0;
        drop(state);
        let (number, offset) = locked(&fresh.state).reserve(sealed_length, chunks);
        Ok(Reserved { pack: fresh, number, offset, full: idle.then_some(pack) })
    }

    fn create_pack(&self) -> Result<OpenPack, PackError> {
        let (section, key) = self.keyring.create_section_under(self.epoch, &*self.random)?;
        let state = OpenState {
            frames: Vec::new(),
            end: PackHeader::length(1) as u64,
            pending: 0,
            closing: false,
            broken: false,
        };
        Ok(OpenPack { spool: self.spools.create()?, section, key, state: Mutex::new(state) })
    }

    /// Completes the open packs. No thread may be adding frames. Small last packs become one.
    ///
    /// # Errors
    /// When the spool fails.
    pub fn finish(&self) -> Result<(), PackError> {
        let packs: Vec<_> = std::mem::take(&mut *locked(&self.open))
            .into_iter()
            .filter(|pack| locked(&pack.state).is_whole())
            .collect();
        let joint: u64 = packs.iter().map(|pack| locked(&pack.state).end).sum();
        if packs.len() > 1 && joint <= PACK_BYTES_TARGET {
            return self.complete(packs);
        }
        packs.into_iter().try_for_each(|pack| self.complete(vec![pack]))
    }

    /// Lets go of the sink: nothing more will come.
    pub fn close(&self) {
        *locked(&self.sink) = None;
    }

    /// Writes header, directory, padding, footer and digest; hands the pack on. Several open packs
    /// become one with a section for each.
    fn complete(&self, packs: Vec<Arc<OpenPack>>) -> Result<(), PackError> {
        self.timer.run(Stage::Pack, || self.complete_now(packs))
    }

    fn complete_now(&self, packs: Vec<Arc<OpenPack>>) -> Result<(), PackError> {
        if !packs.iter().all(|pack| locked(&pack.state).is_whole()) {
            // The run has failed with what broke it; this pack is dropped.
            return Ok(());
        }
        let sections: Vec<SectionRecord> = packs.iter().map(|pack| pack.section.clone()).collect();
        let epoch = self.keyring.current_epoch();
        let salt = random_bytes(&*self.random);
        let header = PackHeader {
            metadata: self.metadata,
            repository: self.keyring.repository,
            session: self.session,
            epoch,
            salt,
            sections,
        };
        let header_bytes = PackHeader::length(header.sections.len()) as u64;
        let joint;
        let (spool, frames, end) = if let [pack] = &packs[..] {
            let mut state = locked(&pack.state);
            (&pack.spool, std::mem::take(&mut state.frames), state.end)
        } else {
            joint = self.spools.create()?;
            let (frames, end) = join(&packs, &joint, header_bytes)?;
            (&joint, frames, end)
        };
        let finished = seal_around(&self.keyring, spool, header, frames, end)?;
        let sink = locked(&self.sink).clone();
        if let Some(sink) = sink {
            self.timer.bytes(Stage::Pack, finished.size);
            self.timer.wait(Stage::Pack, || sink(finished));
        }
        Ok(())
    }
}

/// Writes header, directory, padding, footer and digest around frames that lie in the spool between the
/// header's length and `end`.
pub(super) fn seal_around(
    keyring: &Keyring,
    spool: &Spool,
    header: PackHeader,
    frames: Vec<WrittenFrame>,
    mut end: u64,
) -> Result<FinishedPack, PackError> {
    let (epoch, salt) = (header.epoch, header.salt);
    spool.write_at(&header.encode(), 0)?;
    let kind = ObjectKind::Pack as u8;
    let cipher = keyring.metadata_cipher(epoch, kind, &salt)?;
    let context = keyring.metadata_context(epoch, kind);
    let mut directory = directory(&frames).encode();
    cipher.seal(0, &context, &mut directory);
    spool.write_at(&directory, end)?;
    let footer = Footer { directory_offset: end, directory_length: directory.len() as u64 };
    end += directory.len() as u64;

    let length = padme(end + (FOOTER_BYTES + TRAILER_BYTES) as u64);
    let mut padding = vec![0u8; (length - end) as usize - FOOTER_BYTES - TRAILER_BYTES];
    keyring.padding(epoch, &salt)?.fill(&mut padding);
    spool.write_at(&padding, end)?;
    end += padding.len() as u64;
    let mut footer = footer.encode().to_vec();
    cipher.seal(1, &context, &mut footer);
    spool.write_at(&footer, end)?;
    end += footer.len() as u64;

    let id = PackId(hash(spool, end)?);
    spool.write_at(&id.0, end)?;
    let payload = spool.payload(length);
    Ok(FinishedPack { id, payload, size: length, metadata: header.metadata, sections: header.sections, frames })
}

impl OpenState {
    /// True if there are frames and the bytes of every one reached the spool: only then may it be named.
    fn is_whole(&self) -> bool {
        !self.frames.is_empty() && self.pending == 0 && !self.broken
    }

    /// Takes the next number and place; both are never given twice.
    fn reserve(&mut self, sealed_length: u32, chunks: Vec<PendingChunk>) -> (u64, u64) {
        let (number, offset) = (self.frames.len() as u64, self.end);
        self.frames.push(WrittenFrame { section: 0, number, sealed_length, chunks });
        self.end += u64::from(sealed_length);
        self.pending += 1;
        (number, offset)
    }
}

pub(super) fn chunk_count(frames: &[WrittenFrame]) -> usize {
    frames.iter().map(|frame| frame.chunks.len()).sum()
}

/// Whether these frames' chunks and those of one more refer to more than a pack's should.
fn has_many_references(frames: &[WrittenFrame], next: &[PendingChunk]) -> bool {
    let chunks = frames.iter().flat_map(|frame| &frame.chunks).chain(next);
    chunks.map(|chunk| chunk.references.len()).sum::<usize>() > PACK_REFERENCES_TARGET
}

/// An upper bound of a pack's length before padding, with one more frame.
pub(super) fn finished_length(end: u64, frames: &[WrittenFrame], next: Option<&Vec<PendingChunk>>) -> u64 {
    let chunks = chunk_count(frames) + next.map_or(0, Vec::len);
    let directory = 10 + (frames.len() + 1) * 20 + chunks * 4 + TAG_BYTES;
    end + (directory + FOOTER_BYTES + TRAILER_BYTES) as u64
}

fn directory(frames: &[WrittenFrame]) -> Directory {
    let frames = frames.iter().map(|frame| DirectoryFrame {
        section: frame.section,
        number: frame.number,
        sealed_length: frame.sealed_length,
        raw_length: frame.chunks.iter().map(|chunk| chunk.length).sum(),
        chunks: frame.chunks.iter().map(|chunk| DirectoryChunk { kind: chunk.kind, length: chunk.length }).collect(),
    });
    Directory { frames: frames.collect() }
}

/// Copies the frames of several open packs behind one header.
fn join(packs: &[Arc<OpenPack>], joint: &Spool, start: u64) -> Result<(Vec<WrittenFrame>, u64), PackError> {
    let mut frames = Vec::new();
    let mut end = start;
    let mut buffer = Vec::new();
    for (section, pack) in packs.iter().enumerate() {
        let mut offset = PackHeader::length(1) as u64;
        for mut frame in std::mem::take(&mut locked(&pack.state).frames) {
            buffer.resize(frame.sealed_length as usize, 0);
            pack.spool.read_at(&mut buffer, offset)?;
            joint.write_at(&buffer, end)?;
            offset += buffer.len() as u64;
            end += buffer.len() as u64;
            frame.section = section as u32;
            frames.push(frame);
        }
    }
    Ok((frames, end))
}

fn hash(spool: &Spool, length: u64) -> Result<[u8; 32], PackError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; HASH_BUFFER_BYTES.min(length as usize)];
    let mut at = 0u64;
    while at < length {
        let take = buffer.len().min((length - at) as usize);
        spool.read_at(&mut buffer[..take], at)?;
        hasher.update(&buffer[..take]);
        at += take as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededRandom;
    use crate::format::config::Suite;
    use crate::format::ids::RepositoryId;
    use crate::pack::reader::verify;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Every pack that gets a name must open whole, whatever the spool did while it was written.
    #[test]
    fn a_spool_that_fails_for_a_while_gives_no_pack_with_a_hole() {
        let ring = Keyring::generate(&SeededRandom::new(1));
        let rings = BTreeMap::from([(1, ring)]);
        let keyring = Arc::new(Keyring::new(RepositoryId([1; 16]), Suite::ChaCha20Poly1305, rings).expect("a ring"));
        let hasher = keyring.ids(1).expect("ids");
        for room in (0..80_000u64).step_by(1777) {
            let named: Arc<Mutex<Vec<FinishedPack>>> = Arc::default();
            let sink = Arc::clone(&named);
            let space = Arc::new(AtomicU64::new(room));
            let writer = PackWriter::new(
                Arc::clone(&keyring),
                Arc::new(SeededRandom::new(room)),
                SpoolSpace::Bounded(Arc::clone(&space)),
                SessionId([2; 16]),
                false,
                Compression::Off,
                Arc::new(move |pack| locked(&sink).push(pack)),
            );
            let mut failures = 0;
            for number in 0..24u8 {
                let raw = vec![number; 3000];
                let id = hasher.id(ChunkKind::Data, &raw);
                let chunk = PendingChunk { id, kind: ChunkKind::Data, length: 3000, references: Vec::new() };
                if writer.add_frame(&raw, vec![chunk]).is_err() {
                    // Somebody made room.
                    failures += 1;
                    space.fetch_add(500_000, Ordering::Relaxed);
                }
            }
            assert!(failures > 0 || room > 70_000, "room for {room} bytes");
            space.fetch_add(500_000, Ordering::Relaxed);
            writer.finish().expect("there is room now");
            locked(&named).iter().for_each(|pack| verify(pack, &keyring).expect("it reads back"));
        }
    }

    /// The disk is full while a full pack is completed, and has room again once that pack's spool is
    /// gone: the frame that was to open the next pack must not leave a hole in it.
    #[test]
    fn a_pack_that_cannot_be_completed_leaves_no_hole_in_the_next_one() {
        let ring = Keyring::generate(&SeededRandom::new(1));
        let rings = BTreeMap::from([(1, ring)]);
        let keyring = Arc::new(Keyring::new(RepositoryId([1; 16]), Suite::ChaCha20Poly1305, rings).expect("a ring"));
        let hasher = keyring.ids(1).expect("ids");
        // None at all, or just enough for the next frame.
        for room in [0, (1 << 20) + 100] {
            let named: Arc<Mutex<Vec<FinishedPack>>> = Arc::default();
            let sink = Arc::clone(&named);
            let space = Arc::new(AtomicU64::new(PACK_BYTES_TARGET));
            let writer = PackWriter::new(
                Arc::clone(&keyring),
                Arc::new(SeededRandom::new(7)),
                SpoolSpace::Bounded(Arc::clone(&space)),
                SessionId([2; 16]),
                true,
                Compression::Off,
                Arc::new(move |pack| locked(&sink).push(pack)),
            );
            let mut failures = 0;
            for number in 0..40u8 {
                let raw = vec![number; 1 << 20];
                let id = hasher.id(ChunkKind::Tree, &raw);
                let chunk = PendingChunk { id, kind: ChunkKind::Tree, length: 1 << 20, references: Vec::new() };
                // Room for the frames of the first pack, and none for its header.
                if number == 31 {
                    space.store(room, Ordering::Relaxed);
                }
                if writer.add_frame(&raw, vec![chunk]).is_err() {
                    failures += 1;
                    space.store(1 << 30, Ordering::Relaxed);
                }
            }
            assert_eq!(failures, 1);
            writer.finish().expect("there is room now");
            let named = locked(&named);
            assert_eq!(named.is_empty(), room == 0, "what holds a frame that was not written is dropped");
            named.iter().for_each(|pack| verify(pack, &keyring).expect("it reads back"));
        }
    }
}

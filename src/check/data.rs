//! Reads packs: every byte against the pack's name, every frame opened, every chunk's id computed anew,
//! and what the segment states compared with what is there.
//!
//! A pack streams through in stored order: a thread holds one piece of it twice, as it comes and as it is taken, one
//! opened frame, and the directory with the padding at its end; never a whole pack.

use super::run::Run;
use super::structure::Checked;
use super::{CheckError, ISSUES_LISTED_MAX};
use crate::crypto::keyring::ChunkHasher;
use crate::crypto::listing::listings;
use crate::env::random_bytes;
use crate::format::envelope::TRAILER_BYTES;
use crate::format::ids::{ChunkId, Digest, PackId, SegmentId, SlotId};
use crate::format::pack::{Directory, PackHeader};
use crate::format::segment::{Reference, Segment, SegmentFrame, SegmentPack};
use crate::format::sequence::{decode_chunk, references};
use crate::index::PackEntry;
use crate::index::graph::ChunkCopy;
use crate::index::segment::segment_name;
use crate::limits::{DIRECTORY_BYTES_MAX, PACK_BYTES_MAX};
use crate::pack::PackReader;
use crate::pack::reader::{open_directory, pack_name};
use crate::repo::open::RegionHandle;
use crate::repo::sync::read_segment;
use crate::report::{Counter, IssueKind, Phase};
use crate::store::{Store, StoreError};
use crate::timing::Stage;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Bytes read at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Faults of one pack that are told one by one.
const FAULTS_TOLD_MAX: usize = 16;
/// The longest end of a pack after its frames: directory and padding.
const TAIL_BYTES_MAX: u64 = DIRECTORY_BYTES_MAX as u64 + PACK_BYTES_MAX / 8;

/// Which packs to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// Every one.
    All,
    /// Each with this probability in hundredths of a percent (1 to 10,000), drawn anew by each run.
    Permyriad(u32),
    /// One of `of` fixed parts, by the pack's id: all parts in turn read everything.
    Part {
        /// Which part, 1 to `of`.
        part: u32,
        /// How many parts.
        of: u32,
    },
}

impl Subset {
    /// True for a pack that belongs to it; `seed` decides random choices.
    pub fn picks(self, seed: &[u8; 32], pack: &PackId) -> bool {
        let number = |bytes: &[u8; 32]| {
            let mut first = [0u8; 8];
            first.copy_from_slice(&bytes[..8]);
            u64::from_be_bytes(first)
        };
        match self {
            Subset::All => true,
            Subset::Permyriad(share) => {
                number(blake3::keyed_hash(seed, &pack.0).as_bytes()) % 10_000 < u64::from(share)
            }
            // A pack's id is a digest already: its first bytes are spread evenly.
            Subset::Part { part, of } => number(&pack.0) % u64::from(of.max(1)) + 1 == u64::from(part),
        }
    }
}

/// Reads the chosen packs of every region.
pub(super) fn read(run: &Run<'_>, regions: &mut [Checked], subset: Subset) -> Result<(), CheckError> {
    let seed = random_bytes(&*run.repository.random);
    let chosen = |region: &Checked| -> Vec<(PackId, u64)> {
        region.packs.iter().filter(|(pack, _)| subset.picks(&seed, pack)).copied().collect()
    };
    let (mut packs, mut bytes) = (0, 0);
    for region in regions.iter() {
        let chosen = chosen(region);
        packs += chosen.len() as u64;
        bytes += chosen.iter().map(|(_, size)| size).sum::<u64>();
    }
    run.findings.monitor.phase(Phase::Check, Some(packs), Some(bytes));
    for checked in regions {
        let chosen = chosen(checked);
        read_region(run, checked, &chosen)?;
    }
    Ok(())
}

fn read_region(run: &Run<'_>, checked: &mut Checked, chosen: &[(PackId, u64)]) -> Result<(), CheckError> {
    let region = &run.repository.regions[checked.at];
    // By what is stated of a pack, not by the pack: a segment that lies about it must not pass because
    // another told the truth.
    let mut claimed: HashMap<Digest, BTreeSet<SlotId>> = HashMap::new();
    let (packs, bytes, chunks) = (Counter::default(), Counter::default(), Counter::default());
    let damaged = Mutex::new(checked.graph.marks());
    // Of what is stated of packs, what isn't so.
    let faulty: Mutex<Vec<(PackId, Digest)>> = Mutex::default();
    let verified = Mutex::new(Vec::new());
    let damaged_packs = Mutex::new(Vec::new());
    for id in &checked.segments {
        let opened = match run.findings.timer.run(Stage::Segment, || read_segment(run.repository, region, *id)) {
            Ok(opened) => opened,
            Err(error) => {
                run.findings.note(&region.name, &segment_name(id), error)?;
                continue;
            }
        };
        let segment = &opened.segment;
        let listings = listings(segment);
        // One of another size than the pack has was told with the structure.
        let is_chosen = |at: &usize| {
            let pack = &segment.packs[*at];
            if chosen.binary_search(&(pack.pack, pack.size)).is_err() {
                return false;
            }
            // The same of several origins is read once.
            let origins = claimed.entry(listings[*at]).or_default();
            let is_first = origins.is_empty();
            origins.insert(pack.origin);
            is_first
        };
        let todo: Vec<usize> = (0..segment.packs.len()).filter(is_chosen).collect();
        let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
        // What isn't fetching, opening or hashing is comparing with what the segment states.
        run.findings.parallel(Stage::Segment, run.threads(), todo.len(), &|at| {
            let mut reading = PackReading::new(run, region, segment, &ids, todo[at]);
            reading.read(id, opened.signer)?;
            packs.add(1);
            bytes.add(reading.pack.size);
            chunks.add(reading.verified);
            let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
            checked.graph.mark(&mut damaged, &reading.damaged)?;
            drop(damaged);
            if reading.faults_total > 0 || reading.failed {
                let stated = (reading.pack.pack, listings[todo[at]]);
                faulty.lock().unwrap_or_else(PoisonError::into_inner).push(stated);
            } else {
                verified.lock().unwrap_or_else(PoisonError::into_inner).push(listings[todo[at]]);
            }
            if reading.misnamed {
                let mut packs = damaged_packs.lock().unwrap_or_else(PoisonError::into_inner);
                if packs.len() < ISSUES_LISTED_MAX {
                    packs.push(PackEntry::from_segment(reading.pack, listings[todo[at]], &[]));
                }
            }
            run.findings.monitor.advance(1, 0);
            Ok(())
        })?;
    }
    checked.damaged_packs = damaged_packs.into_inner().unwrap_or_else(PoisonError::into_inner);
    checked.report.packs_read = packs.get();
    checked.report.bytes_read = bytes.get();
    checked.report.chunks_verified = chunks.get();
    checked.verified = verified.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    if damaged.count() > 0 {
        // What another pack holds, or another segment states truly of this one, can be had.
        let faulty = faulty.into_inner().unwrap_or_else(PoisonError::into_inner);
        // As the graph tells it apart, whoever states it.
        let stated = |(pack, listing): &(PackId, Digest)| {
            let attested = run.attested.contains(listing);
            let origins = claimed.get(listing).into_iter().flatten();
            origins.map(|origin| (*pack, *origin, attested)).collect::<Vec<_>>()
        };
        let faulty: HashSet<(PackId, SlotId, bool)> = faulty.iter().flat_map(stated).collect();
        let rows = &checked.rows;
        let is_faulty = |copy: &ChunkCopy| {
            let row = &rows[copy.pack as usize];
            !copy.present || faulty.contains(&(row.id, row.origin, row.attested))
        };
        checked.graph.sift(&mut damaged, &|copies| copies.iter().all(is_faulty))?;
    }
    checked.damaged = Some(damaged);
    Ok(())
}

/// Why reading a pack ended early.
enum Stop {
    /// It can't be read.
    Store(StoreError),
    /// What follows can't be understood; said already.
    Broken,
    Cancelled,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

/// A pack's bytes in order, hashed as they come.
struct Stream<'a> {
    store: &'a dyn Store,
    name: &'a str,
    length: u64,
    fetched: u64,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    used: usize,
}

impl Stream<'_> {
    fn take(&mut self, length: usize, run: &Run<'_>) -> Result<&mut [u8], Stop> {
        while self.buffer.len() - self.used < length {
            if run.findings.monitor.cancelled() {
                return Err(Stop::Cancelled);
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let wanted = ((length - self.buffer.len()) as u64).max(PIECE_BYTES).min(self.length - self.fetched);
            // Asking for more than there is gives the store's own error for a pack that is too short.
            let timer = &run.findings.timer;
            let piece = timer.run(Stage::Fetch, || self.store.get_range(self.name, self.fetched, wanted.max(1)))?;
            timer.bytes(Stage::Fetch, piece.len() as u64);
            let body = self.length.saturating_sub(TRAILER_BYTES as u64).saturating_sub(self.fetched);
            let body = &piece[..piece.len().min(usize::try_from(body).unwrap_or(usize::MAX))];
            timer.run(Stage::Id, || self.hasher.update(body));
            timer.bytes(Stage::Id, body.len() as u64);
            self.fetched += piece.len() as u64;
            self.buffer.extend_from_slice(&piece);
            run.findings.monitor.advance(0, piece.len() as u64);
        }
        let from = self.used;
        self.used += length;
        Ok(&mut self.buffer[from..from + length])
    }
}

/// One pack being read, with what is wrong with it.
struct PackReading<'a> {
    run: &'a Run<'a>,
    region: &'a RegionHandle,
    pack: &'a SegmentPack,
    /// Every chunk of the segment, for references by ordinal.
    ids: &'a [ChunkId],
    name: String,
    faults: Vec<String>,
    faults_total: u64,
    /// The store didn't give all of it.
    failed: bool,
    /// Its bytes are not those that its name states.
    misnamed: bool,
    damaged: Vec<ChunkId>,
    verified: u64,
}

impl<'a> PackReading<'a> {
    fn new(run: &'a Run<'a>, region: &'a RegionHandle, segment: &'a Segment, ids: &'a [ChunkId], at: usize) -> Self {
        let pack = &segment.packs[at];
        let name = pack_name(&pack.pack);
        PackReading {
            run,
            region,
            pack,
            ids,
            name,
            faults: Vec::new(),
            faults_total: 0,
            failed: false,
            misnamed: false,
            damaged: Vec::new(),
            verified: 0,
        }
    }

    fn fault(&mut self, detail: impl ToString) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_TOLD_MAX {
            self.faults.push(detail.to_string());
        }
    }

    /// Reads it all; what is wrong is told of the pack, or, where this is what its name says, of the segment.
    fn read(&mut self, segment: &SegmentId, signer: SlotId) -> Result<(), CheckError> {
        let name = self.name.clone();
        let mut stream = Stream {
            store: &*self.region.store,
            name: &name,
            length: self.pack.size,
            fetched: 0,
            hasher: blake3::Hasher::new(),
            buffer: Vec::new(),
            used: 0,
        };
        let findings = self.run.findings;
        match self.frames_and_directory(&mut stream).and_then(|()| self.rest(&mut stream)) {
            Ok(()) => {}
            Err(Stop::Cancelled) => return Err(CheckError::Cancelled),
            Err(Stop::Broken) => match self.rest(&mut stream) {
                Err(Stop::Store(error)) => self.store_failed(error)?,
                Err(Stop::Cancelled) => return Err(CheckError::Cancelled),
                Ok(()) | Err(Stop::Broken) => {}
            },
            Err(Stop::Store(error)) => self.store_failed(error)?,
        }
        if self.faults_total > self.faults.len() as u64 {
            self.faults.push(format!("{} more faults", self.faults_total - self.faults.len() as u64));
        }
        let as_named = !self.misnamed && !self.failed;
        for detail in &self.faults {
            match as_named {
                true => self.run.misstated(&self.region.name, segment, signer, &self.pack.pack, detail),
                false => findings.issue(IssueKind::Damaged, &self.region.name, &self.name, detail),
            }
        }
        Ok(())
    }

    fn store_failed(&mut self, error: StoreError) -> Result<(), CheckError> {
        self.failed = true;
        self.all_damaged();
        match error.kind.issue_kind() {
            Some(kind) => {
                self.run.findings.issue(kind, &self.region.name, &self.name, &error);
                Ok(())
            }
            None => Err(self.region.error(error).into()),
        }
    }

    fn all_damaged(&mut self) {
        let chunks = self.pack.frames.iter().flat_map(|frame| &frame.chunks);
        self.damaged = chunks.map(|chunk| chunk.id).collect();
    }

    fn frames_and_directory(&mut self, stream: &mut Stream<'_>) -> Result<(), Stop> {
        let (run, pack) = (self.run, self.pack);
        let keyring = &run.repository.keyring;
        let bytes = stream.take(PackHeader::length(pack.sections.len()), run)?;
        let header = match PackHeader::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Err(self.header_broken(error)),
        };
        let stated: Vec<_> = header.sections.iter().map(|record| record.section).collect();
        if (header.metadata, header.session, &stated) != (pack.metadata, pack.session, &pack.sections) {
            return Err(self.header_broken("its header is not what the segment says: kind, session or sections differ"));
        }
        let hashers: Result<Vec<ChunkHasher>, _> =
            header.sections.iter().map(|record| keyring.ids(record.epoch)).collect();
        let reader = PackReader::open(pack.pack, header, keyring);
        let (reader, hashers) = match (reader, hashers) {
            (Ok(reader), Ok(hashers)) => (reader.timed(run.findings.timer.clone()), hashers),
            (Err(error), _) => return Err(self.header_broken(error)),
            (_, Err(error)) => return Err(self.header_broken(error)),
        };
        let mut raw = Vec::new();
        for (position, frame) in pack.frames.iter().enumerate() {
            let sealed = stream.take(frame.sealed_length as usize, run)?;
            let raw_length = frame.chunks.iter().map(|chunk| chunk.length).sum();
            match reader.open_frame(position, frame.section, frame.number, raw_length, sealed, &mut raw) {
                Ok(()) => {
                    let hasher = hashers.get(frame.section as usize);
                    run.findings.timer.run(Stage::Id, || self.chunks(position, frame, &raw, hasher));
                    run.findings.timer.bytes(Stage::Id, raw.len() as u64);
                }
                Err(error) => {
                    self.damaged.extend(frame.chunks.iter().map(|chunk| chunk.id));
                    self.fault(error);
                }
            }
        }
        let position = stream.fetched - (stream.buffer.len() - stream.used) as u64;
        let tail = (pack.size - position).saturating_sub(TRAILER_BYTES as u64);
        if tail > TAIL_BYTES_MAX {
            self.fault(format!("{tail} bytes follow the frames, at most {TAIL_BYTES_MAX} can belong to a pack"));
            return Err(Stop::Broken);
        }
        let tail = stream.take(tail as usize, run)?;
        match open_directory(pack.pack, &reader.header, pack.size, tail, keyring) {
            Ok(directory) => {
                if let Some(detail) = differs(&directory, pack) {
                    self.fault(detail);
                }
            }
            Err(error) => self.fault(error),
        }
        Ok(())
    }

    fn header_broken(&mut self, detail: impl ToString) -> Stop {
        self.all_damaged();
        self.fault(detail);
        Stop::Broken
    }

    /// Checks a frame's chunks: their ids, and for structural ones what they refer to.
    fn chunks(&mut self, position: usize, frame: &SegmentFrame, raw: &[u8], hasher: Option<&ChunkHasher>) {
        let mut rest = raw;
        for (number, chunk) in frame.chunks.iter().enumerate() {
            // `open_frame` compared the frame's length with the sum of its chunks.
            let Some((bytes, after)) = rest.split_at_checked(chunk.length as usize) else { return };
            rest = after;
            let actual = hasher.map(|hasher| hasher.id(chunk.kind, bytes));
            let fault = match actual {
                Some(actual) if actual != chunk.id => {
                    Some(format!("it has the id {actual}, the segment lists {}", chunk.id))
                }
                None => Some("the segment states a section that the pack doesn't have".to_owned()),
                Some(_) if chunk.kind.is_structural() => match decode_chunk(chunk.kind, bytes) {
                    Err(error) => Some(format!("{}: {error}", chunk.id)),
                    Ok(decoded) => self
                        .references_differ(&references(&decoded), &chunk.references)
                        .then(|| format!("{}: it refers to other chunks than the segment states", chunk.id)),
                },
                Some(_) => None,
            };
            self.verified += 1;
            if let Some(detail) = fault {
                self.damaged.push(chunk.id);
                self.fault(format!("frame {position}, chunk {number}: {detail}"));
            }
        }
    }

    fn references_differ(&self, actual: &[ChunkId], stated: &[Reference]) -> bool {
        let same = |(id, reference): (&ChunkId, &Reference)| match reference {
            Reference::Ordinal(ordinal) => self.ids.get(*ordinal as usize) == Some(id),
            Reference::Prefix(prefix) => id.0.starts_with(prefix),
        };
        actual.len() != stated.len() || !actual.iter().zip(stated).all(same)
    }

    /// Reads on to the end and compares the digest of all bytes with the pack's name.
    fn rest(&mut self, stream: &mut Stream<'_>) -> Result<(), Stop> {
        loop {
            let position = stream.fetched - (stream.buffer.len() - stream.used) as u64;
            let left = (stream.length - position).saturating_sub(TRAILER_BYTES as u64);
            if left == 0 {
                break;
            }
            stream.take(left.min(PIECE_BYTES) as usize, self.run)?;
        }
        let mut trailer = Digest::default();
        trailer.0.copy_from_slice(stream.take(TRAILER_BYTES, self.run)?);
        let actual = Digest(*stream.hasher.finalize().as_bytes());
        self.misnamed = actual.0 != self.pack.pack.0 || trailer != actual;
        if actual.0 != self.pack.pack.0 {
            self.fault(format!("OBJ-8: its bytes have the digest {actual}, not the one in its name"));
        } else if trailer != actual {
            self.fault(format!("OBJ-8: the trailer says {trailer}, not the digest of its bytes"));
        }
        Ok(())
    }
}

/// Where a pack's own directory and the segment disagree.
fn differs(directory: &Directory, pack: &SegmentPack) -> Option<String> {
    if directory.frames.len() != pack.frames.len() {
        let (own, stated) = (directory.frames.len(), pack.frames.len());
        return Some(format!("its directory has {own} frames, the segment states {stated}"));
    }
    for (position, (own, stated)) in directory.frames.iter().zip(&pack.frames).enumerate() {
        let same_place =
            (own.section, own.number, own.sealed_length) == (stated.section, stated.number, stated.sealed_length);
        let same_chunks = own.chunks.len() == stated.chunks.len()
            && own.chunks.iter().zip(&stated.chunks).all(|(a, b)| (a.kind, a.length) == (b.kind, b.length));
        if !same_place || !same_chunks {
            return Some(format!("frame {position}: the directory and the segment state different lengths or chunks"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_cover_every_pack_exactly_once() {
        let packs: Vec<PackId> = (0..200u32).map(|n| PackId(crate::crypto::digest(&n.to_le_bytes()))).collect();
        for pack in &packs {
            let parts = (1..=7).filter(|part| Subset::Part { part: *part, of: 7 }.picks(&[0; 32], pack));
            assert_eq!(parts.count(), 1);
            assert!(Subset::All.picks(&[0; 32], pack) && Subset::Permyriad(10_000).picks(&[0; 32], pack));
        }
        let half = |seed| packs.iter().filter(|pack| Subset::Permyriad(5000).picks(&[seed; 32], pack)).count();
        assert!((60..140).contains(&half(1)), "{}", half(1));
    }
}

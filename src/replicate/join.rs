//! Puts a pack together from copies that are each damaged elsewhere.
//!
//! Guarantees: what is given has the digest that the pack's name states, whatever the copies hold; the work is bounded
//! in bytes, and stops when the user asks.

use crate::crypto::keyring::Keyring;
use crate::format::envelope::TRAILER_BYTES;
use crate::format::ids::PackId;
use crate::format::pack::PackHeader;
use crate::index::FrameEntry;
use crate::pack::PackReader;
use crate::pack::reader::open_directory;
use crate::report::Monitor;
use std::ops::Range;

/// Copies are compared by pieces of this many bytes.
const PIECE_BYTES: usize = 64;
/// Pieces that differ and are tried each by itself; of more, those that lie side by side are tried together.
const DIFFERENCES_MAX: usize = 10;
/// Ways of putting it together, or one frame of it, that are tried at most.
const TRIES_MAX: usize = 1 << DIFFERENCES_MAX;
/// Bytes that are hashed and opened at most for one pack.
const EFFORT_BYTES_MAX: u64 = 1 << 30;

/// What putting one pack together may cost yet, and who says whether to go on.
pub(super) struct Effort<'a> {
    bytes_left: u64,
    monitor: &'a dyn Monitor,
}

impl<'a> Effort<'a> {
    /// For one pack.
    pub fn new(monitor: &'a dyn Monitor) -> Self {
        Effort { bytes_left: EFFORT_BYTES_MAX, monitor }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Apart> {
        if self.monitor.cancelled() {
            return Err(Apart::Cancelled);
        }
        self.bytes_left = self.bytes_left.checked_sub(bytes as u64).ok_or(Apart::Hopeless)?;
        Ok(())
    }
}

/// Why a pack was not put together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Apart {
    /// No way of putting it together gives the name, or none of those that may be tried.
    Hopeless,
    /// The user stopped it.
    Cancelled,
}

/// A stretch of the pack, and the copies that differ in it, one of each kind.
struct Difference {
    range: Range<usize>,
    kinds: Vec<usize>,
}

/// The pack of this name and length out of copies. Where this ring opens payloads each frame is put together by itself,
/// and proves itself by opening; of what else differs, each combination is compared with the name, if these are few.
pub(super) fn join(
    keyring: &Keyring,
    pack: PackId,
    length: usize,
    copies: &[Vec<u8>],
    frames: &[FrameEntry],
    effort: &mut Effort<'_>,
) -> Result<Vec<u8>, Apart> {
    let body = length.checked_sub(TRAILER_BYTES).ok_or(Apart::Hopeless)?;
    let mut copies = levelled(copies, length, body).ok_or(Apart::Hopeless)?;
    if keyring.can_open_payloads() {
        take_whole_frames(keyring, pack, &mut copies, frames, effort)?;
    }
    let differences = differences(&copies, 0..body).ok_or(Apart::Hopeless)?;
    let mut chosen = Vec::new();
    if !search(&copies, &differences, 0, &blake3::Hasher::new(), &mut chosen, body, pack, effort)? {
        return Err(Apart::Hopeless);
    }
    let mut whole = copies[0].clone();
    for (difference, copy) in differences.iter().zip(chosen) {
        whole[difference.range.clone()].copy_from_slice(&copies[copy][difference.range.clone()]);
    }
    // What the name states.
    whole[body..].copy_from_slice(&pack.0);
    Ok(whole)
}

/// Brings copies to one length: what is too long is cut, and what is cut short ends as the longest does, so that it says
/// nothing about what it lacks. `None` where all lack the same.
fn levelled(copies: &[Vec<u8>], length: usize, body: usize) -> Option<Vec<Vec<u8>>> {
    let mut longest =
        copies.iter().max_by_key(|copy| copy.len().min(length)).filter(|copy| copy.len() >= body)?.clone();
    // What may be lacking of the trailer, the name states.
    longest.resize(length, 0);
    let levelled = copies.iter().map(|copy| {
        let mut copy = copy[..copy.len().min(length)].to_vec();
        copy.extend_from_slice(&longest[copy.len()..]);
        copy
    });
    Some(levelled.collect())
}

/// Gives all copies of a frame the bytes that open: of one of them, or put together from several. Hopeless where a frame
/// that the pack's own directory states can't be had so: no combination over the whole pack would do any better.
fn take_whole_frames(
    keyring: &Keyring,
    pack: PackId,
    copies: &mut [Vec<u8>],
    listed: &[FrameEntry],
    effort: &mut Effort<'_>,
) -> Result<(), Apart> {
    let header = |copy: &Vec<u8>| {
        let (_, sections) = PackHeader::decode_fixed(copy).ok()?;
        PackHeader::decode(copy.get(..PackHeader::length(sections))?).ok()
    };
    let headers: Vec<PackHeader> = copies.iter().filter_map(header).collect();
    let mut readers = Vec::new();
    for (at, header) in headers.iter().enumerate() {
        if !headers[..at].contains(header) {
            readers.extend(PackReader::open(pack, header.clone(), keyring).ok());
        }
    }
    // A segment may state falsely what frames there are; the pack's directory is sealed with it.
    let stated = copies.iter().find_map(|copy| stated_frames(keyring, pack, copy));
    let is_sure = stated.is_some() && !readers.is_empty();
    let frames = stated.as_deref().unwrap_or(listed);
    let mut plain = Vec::new();
    let mut opens = |position: usize, frame: &FrameEntry, sealed: &[u8], effort: &mut Effort<'_>| {
        for reader in &readers {
            effort.spend(sealed.len())?;
            let mut sealed = sealed.to_vec();
            let (section, number, raw) = (frame.section, frame.number, frame.raw_length);
            if reader.open_frame(position, section, number, raw, &mut sealed, &mut plain).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut apart: Vec<(usize, Range<usize>)> = Vec::new();
    for (position, frame) in frames.iter().enumerate() {
        let Some(range) = usize::try_from(frame.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(frame.sealed_length as usize)?))
            .filter(|range| copies.iter().all(|copy| copy.get(range.clone()).is_some()))
        else {
            continue;
        };
        let kinds = kinds(copies, &range);
        if kinds.len() == 1 && !is_sure {
            continue;
        }
        let mut whole = None;
        for copy in &kinds {
            if opens(position, frame, &copies[*copy][range.clone()], effort)? {
                whole = Some(copies[*copy][range.clone()].to_vec());
                break;
            }
        }
        match whole {
            Some(whole) => copies.iter_mut().for_each(|copy| copy[range.clone()].copy_from_slice(&whole)),
            None if kinds.len() == 1 => return Err(Apart::Hopeless),
            None => apart.push((position, range)),
        }
    }
    for (position, range) in apart {
        let mut whole = None;
        if let Some(differences) = differences(copies, range.clone()) {
            let mut chosen = vec![0; differences.len()];
            loop {
                let mut tried = copies[0][range.clone()].to_vec();
                for (difference, kind) in differences.iter().zip(&chosen) {
                    let (from, to) = (difference.range.start - range.start, difference.range.end - range.start);
                    tried[from..to].copy_from_slice(&copies[difference.kinds[*kind]][difference.range.clone()]);
                }
                if opens(position, &frames[position], &tried, effort)? {
                    whole = Some(tried);
                    break;
                }
                if !next(&mut chosen, &differences) {
                    break;
                }
            }
        }
        match whole {
            Some(whole) => copies.iter_mut().for_each(|copy| copy[range.clone()].copy_from_slice(&whole)),
            None if is_sure => return Err(Apart::Hopeless),
            None => {}
        }
    }
    Ok(())
}

/// What the directory in a copy states, if it opens.
fn stated_frames(keyring: &Keyring, pack: PackId, copy: &[u8]) -> Option<Vec<FrameEntry>> {
    let header = PackHeader::decode(copy).ok()?;
    let tail = copy.get(..copy.len().checked_sub(TRAILER_BYTES)?)?;
    let directory = open_directory(pack, &header, copy.len() as u64, tail, keyring).ok()?;
    let mut offset = PackHeader::length(header.sections.len()) as u64;
    let entries = directory.frames.iter().map(|frame| {
        let (sealed_length, raw_length) = (frame.sealed_length, frame.raw_length);
        let entry = FrameEntry { offset, section: frame.section, number: frame.number, sealed_length, raw_length };
        offset += u64::from(sealed_length);
        entry
    });
    Some(entries.collect())
}

/// The next way of choosing one kind of each difference; false when there is none.
fn next(chosen: &mut [usize], differences: &[Difference]) -> bool {
    for (kind, difference) in chosen.iter_mut().zip(differences) {
        *kind += 1;
        if *kind < difference.kinds.len() {
            return true;
        }
        *kind = 0;
    }
    false
}

/// The first copy of each kind there.
fn kinds(copies: &[Vec<u8>], range: &Range<usize>) -> Vec<usize> {
    let mut kinds: Vec<usize> = Vec::new();
    for (at, copy) in copies.iter().enumerate() {
        if !kinds.iter().any(|kind| copies[*kind][range.clone()] == copy[range.clone()]) {
            kinds.push(at);
        }
    }
    kinds
}

/// Where the copies differ within this stretch; `None` where there are too many ways to put them together.
fn differences(copies: &[Vec<u8>], within: Range<usize>) -> Option<Vec<Difference>> {
    let differ = |range: &Range<usize>| copies.windows(2).any(|pair| pair[0][range.clone()] != pair[1][range.clone()]);
    let end = within.end;
    let pieces = within.step_by(PIECE_BYTES).map(|start| start..(start + PIECE_BYTES).min(end));
    let mut ranges: Vec<Range<usize>> = pieces.filter(differ).collect();
    if ranges.len() > DIFFERENCES_MAX {
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        ranges = joined;
    }
    let mut tries = 1usize;
    let mut found = Vec::new();
    for range in ranges {
        let kinds = kinds(copies, &range);
        tries = tries.checked_mul(kinds.len()).filter(|tries| *tries <= TRIES_MAX)?;
        found.push(Difference { range, kinds });
    }
    Some(found)
}

/// Tries every combination from the first difference on that isn't `chosen`; `hasher` has taken in `hashed` bytes.
#[allow(clippy::too_many_arguments, reason = "it calls itself; a struct would only name them twice")]
fn search(
    copies: &[Vec<u8>],
    differences: &[Difference],
    hashed: usize,
    hasher: &blake3::Hasher,
    chosen: &mut Vec<usize>,
    body: usize,
    pack: PackId,
    effort: &mut Effort<'_>,
) -> Result<bool, Apart> {
    let mut hasher = hasher.clone();
    let Some(difference) = differences.get(chosen.len()) else {
        effort.spend(body - hashed)?;
        hasher.update(&copies[0][hashed..body]);
        return Ok(*hasher.finalize().as_bytes() == pack.0);
    };
    let Difference { range, kinds } = difference;
    effort.spend(range.start - hashed)?;
    hasher.update(&copies[0][hashed..range.start]);
    for kind in kinds {
        effort.spend(range.len())?;
        let mut taken = hasher.clone();
        taken.update(&copies[*kind][range.clone()]);
        chosen.push(*kind);
        if search(copies, differences, range.end, &taken, chosen, body, pack, effort)? {
            return Ok(true);
        }
        chosen.pop();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compression;
    use crate::env::SeededRandom;
    use crate::format::config::Suite;
    use crate::format::ids::{ChunkKind, RepositoryId, SessionId};
    use crate::pack::SpoolSpace;
    use crate::pack::writer::{FinishedPack, PackWriter, PendingChunk};
    use crate::report::Silent;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    const FRAMES: usize = 12;
    const RAW_BYTES: usize = 3000;

    fn keyring(reads: bool) -> Keyring {
        let mut ring = Keyring::generate(&SeededRandom::new(1));
        if !reads {
            ring.seal_private = None;
        }
        let rings = BTreeMap::from([(1, ring)]);
        Keyring::new(RepositoryId([1; 16]), Suite::ChaCha20Poly1305, rings).expect("a ring")
    }

    /// A pack, its bytes and its frames as a segment states them.
    fn pack() -> (PackId, Vec<u8>, Vec<FrameEntry>) {
        let keyring = Arc::new(keyring(true));
        let named: Arc<Mutex<Vec<FinishedPack>>> = Arc::default();
        let sink = Arc::clone(&named);
        let writer = PackWriter::new(
            Arc::clone(&keyring),
            Arc::new(SeededRandom::new(7)),
            SpoolSpace::Memory,
            SessionId([2; 16]),
            false,
            Compression::Off,
            Arc::new(move |pack| sink.lock().expect("unpoisoned").push(pack)),
        );
        let hasher = keyring.ids(1).expect("ids");
        for number in 0..FRAMES {
            let raw = vec![number as u8; RAW_BYTES];
            let (id, kind) = (hasher.id(ChunkKind::Data, &raw), ChunkKind::Data);
            let chunk = PendingChunk { id, kind, length: RAW_BYTES as u32, references: Vec::new() };
            writer.add_frame(&raw, vec![chunk]).expect("added");
        }
        writer.finish().expect("finished");
        let finished = named.lock().expect("unpoisoned").pop().expect("a pack");
        let mut bytes = vec![0; finished.size as usize];
        finished.payload.read_exact_at(&mut bytes, 0).expect("read");
        let frames = stated_frames(&keyring, finished.id, &bytes).expect("its directory opens");
        assert_eq!(frames.len(), FRAMES);
        (finished.id, bytes, frames)
    }

    /// Two copies; `spoil` names what is wrong in each: places that the first, the second, and both have wrong.
    fn copies(whole: &[u8], first: &[usize], second: &[usize], both: &[usize]) -> Vec<Vec<u8>> {
        let mut copies = vec![whole.to_vec(), whole.to_vec()];
        first.iter().for_each(|at| copies[0][*at] ^= 1);
        second.iter().for_each(|at| copies[1][*at] ^= 1);
        both.iter().for_each(|at| copies.iter_mut().zip(1..).for_each(|(copy, bit)| copy[*at] ^= bit));
        copies
    }

    /// What comes of it, and how many bytes it cost.
    fn joined(
        reads: bool,
        copies: &[Vec<u8>],
        frames: &[FrameEntry],
        pack: PackId,
        bytes_left: u64,
    ) -> (Result<Vec<u8>, Apart>, u64) {
        let mut effort = Effort { bytes_left, monitor: &Silent };
        let joined = join(&keyring(reads), pack, copies[0].len(), copies, frames, &mut effort);
        (joined, bytes_left - effort.bytes_left)
    }

    fn places(frames: &[FrameEntry], of: impl Iterator<Item = usize>, within: usize) -> Vec<usize> {
        of.map(|number| frames[number].offset as usize + within).collect()
    }

    /// In each frame both copies are damaged, each elsewhere: far too many ways for the whole, four for each frame.
    #[test]
    fn frames_are_put_together_each_by_itself_where_they_can_be_opened() {
        let (id, whole, frames) = pack();
        let copies = copies(&whole, &places(&frames, 0..FRAMES, 100), &places(&frames, 0..FRAMES, 1000), &[]);
        let (result, cost) = joined(true, &copies, &frames, id, EFFORT_BYTES_MAX);
        assert_eq!(result.as_deref(), Ok(&whole[..]));
        assert!(cost < 10 * whole.len() as u64, "{cost}");
        assert_eq!(joined(false, &copies, &frames, id, EFFORT_BYTES_MAX).0, Err(Apart::Hopeless));
    }

    /// A frame that is damaged alike everywhere, or at one place in both, ends it before the whole is tried.
    #[test]
    fn a_frame_that_opens_in_no_way_ends_it_at_once() {
        let (id, whole, frames) = pack();
        let length = whole.len() as u64;
        let place = places(&frames, 3..4, 500)[0];
        // And a difference where no frame is, which only the whole would tell.
        let after = frames[FRAMES - 1].offset as usize + frames[FRAMES - 1].sealed_length as usize;
        let mut alike = copies(&whole, &[], &[after + 100], &[]);
        alike.iter_mut().for_each(|copy| copy[place] ^= 1);
        let (result, cost) = joined(true, &alike, &frames, id, EFFORT_BYTES_MAX);
        assert_eq!(result, Err(Apart::Hopeless));
        assert!(cost <= length, "{cost}");
        // Ten places in one frame are wrong in both: each way of that frame is tried, none of the whole.
        let ten: Vec<usize> = (0..10).map(|at| place + at * 2 * PIECE_BYTES).collect();
        let (result, cost) = joined(true, &copies(&whole, &[], &[], &ten), &frames, id, EFFORT_BYTES_MAX);
        assert_eq!(result, Err(Apart::Hopeless));
        assert!(cost <= length + (TRIES_MAX as u64 + 2) * u64::from(frames[3].sealed_length), "{cost}");
    }

    /// Without the key to open frames: each way of the whole, until so many bytes were hashed.
    #[test]
    fn the_search_over_the_whole_is_bounded_in_bytes() {
        let (id, whole, frames) = pack();
        let length = whole.len() as u64;
        let few = copies(&whole, &places(&frames, 0..2, 100), &places(&frames, 2..4, 1000), &[]);
        let (result, cost) = joined(false, &few, &frames, id, EFFORT_BYTES_MAX);
        assert_eq!(result.as_deref(), Ok(&whole[..]));
        assert!(cost <= 16 * length, "{cost}");
        let ten = copies(&whole, &[], &[], &places(&frames, 0..10, 100));
        let (result, all) = joined(false, &ten, &frames, id, EFFORT_BYTES_MAX);
        assert_eq!(result, Err(Apart::Hopeless));
        assert!(all > 100 * length, "{all}");
        let (result, cost) = joined(false, &ten, &frames, id, 20 * length);
        assert_eq!(result, Err(Apart::Hopeless));
        assert!(cost <= 20 * length && cost > 18 * length, "{cost}");
    }

    /// Asks to stop after so many looks.
    struct StopAfter(AtomicU64);

    impl Monitor for StopAfter {
        fn cancelled(&self) -> bool {
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        }
    }

    #[test]
    fn it_stops_at_any_try_when_the_user_asks() {
        let (id, whole, frames) = pack();
        let copies = copies(&whole, &[], &[], &places(&frames, 3..4, 100));
        for reads in [true, false] {
            let mut looks = 0;
            loop {
                let monitor = StopAfter(AtomicU64::new(looks));
                match join(&keyring(reads), id, whole.len(), &copies, &frames, &mut Effort::new(&monitor)) {
                    Err(Apart::Cancelled) => looks += 1,
                    ended => break assert_eq!(ended, Err(Apart::Hopeless)),
                }
            }
            assert!(looks >= 5, "it asks at each try: {looks}");
        }
    }

    /// What a segment states falsely of a pack's frames gives up nothing.
    #[test]
    fn frames_that_a_segment_states_falsely_keep_no_pack_apart() {
        let (id, whole, frames) = pack();
        let copies = copies(&whole, &places(&frames, 0..3, 100), &places(&frames, 0..3, 1000), &[]);
        let longer = |frame: &FrameEntry| FrameEntry { raw_length: frame.raw_length + 1, ..*frame };
        let outside = |frame: &FrameEntry| FrameEntry { offset: u64::MAX, ..*frame };
        for lie in [frames.iter().map(longer).collect(), frames.iter().map(outside).collect(), Vec::new()] {
            assert_eq!(joined(true, &copies, &lie, id, EFFORT_BYTES_MAX).0.as_deref(), Ok(&whole[..]));
            // Nor where the directory doesn't open, since it is damaged in both.
            let mut copies = copies.clone();
            let after = frames[FRAMES - 1].offset as usize + frames[FRAMES - 1].sealed_length as usize;
            copies[0][after + 1] ^= 1;
            copies[1][after + PIECE_BYTES + 1] ^= 1;
            assert_eq!(joined(true, &copies, &lie, id, EFFORT_BYTES_MAX).0.as_deref(), Ok(&whole[..]));
        }
    }
}

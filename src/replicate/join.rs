//! Puts a pack together from copies that are each damaged elsewhere.
//!
//! Guarantees: what is given has the digest that the pack's name states, whatever the copies hold; the work is bounded.

use crate::crypto::keyring::Keyring;
use crate::format::envelope::TRAILER_BYTES;
use crate::format::ids::PackId;
use crate::format::pack::PackHeader;
use crate::index::FrameEntry;
use crate::pack::PackReader;
use std::ops::Range;

/// Copies are compared by pieces of this many bytes.
const PIECE_BYTES: usize = 64;
/// Pieces that differ and are tried each by itself; of more, those that lie side by side are tried together.
const DIFFERENCES_MAX: usize = 10;
/// Ways of putting it together that are tried at most.
const TRIES_MAX: usize = 1 << DIFFERENCES_MAX;

/// A stretch of the pack, and the copies that differ in it, one of each kind.
struct Difference {
    range: Range<usize>,
    kinds: Vec<usize>,
}

/// The pack of this name and length out of copies. Frames that open are right, where this ring opens payloads; of what
/// else differs, each combination is compared with the name, if these are few.
pub(super) fn join(
    keyring: &Keyring,
    pack: PackId,
    length: usize,
    copies: &[Vec<u8>],
    frames: &[FrameEntry],
) -> Option<Vec<u8>> {
    let body = length.checked_sub(TRAILER_BYTES)?;
    let mut copies = levelled(copies, length, body)?;
    if keyring.can_open_payloads() {
        take_whole_frames(keyring, pack, &mut copies, frames);
    }
    let differences = differences(&copies, body)?;
    let mut chosen = Vec::new();
    if !search(&copies, &differences, 0, &blake3::Hasher::new(), &mut chosen, body, pack) {
        return None;
    }
    let mut whole = copies.first()?.clone();
    for (difference, copy) in differences.iter().zip(chosen) {
        whole[difference.range.clone()].copy_from_slice(&copies[copy][difference.range.clone()]);
    }
    // What the name states.
    whole[body..].copy_from_slice(&pack.0);
    Some(whole)
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

/// Where copies of a frame differ, gives each the one that opens.
fn take_whole_frames(keyring: &Keyring, pack: PackId, copies: &mut [Vec<u8>], frames: &[FrameEntry]) {
    let reader = |copy: &Vec<u8>| {
        let (_, sections) = PackHeader::decode_fixed(copy).ok()?;
        let header = PackHeader::decode(copy.get(..PackHeader::length(sections))?).ok()?;
        PackReader::open(pack, header, keyring).ok()
    };
    let readers: Vec<PackReader> = copies.iter().filter_map(reader).collect();
    let mut plain = Vec::new();
    for (position, frame) in frames.iter().enumerate() {
        let Some(range) = usize::try_from(frame.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(frame.sealed_length as usize)?))
            .filter(|range| copies.iter().all(|copy| copy.get(range.clone()).is_some()))
        else {
            continue;
        };
        if copies.windows(2).all(|pair| pair[0][range.clone()] == pair[1][range.clone()]) {
            continue;
        }
        let opens = |copy: &&Vec<u8>| {
            readers.iter().any(|reader| {
                let mut sealed = copy[range.clone()].to_vec();
                let (section, number, raw) = (frame.section, frame.number, frame.raw_length);
                reader.open_frame(position, section, number, raw, &mut sealed, &mut plain).is_ok()
            })
        };
        let whole = copies.iter().find(opens).map(|copy| copy[range.clone()].to_vec());
        if let Some(whole) = whole {
            copies.iter_mut().for_each(|copy| copy[range.clone()].copy_from_slice(&whole));
        }
    }
}

/// Where the copies differ; `None` where there are too many ways to put them together.
fn differences(copies: &[Vec<u8>], body: usize) -> Option<Vec<Difference>> {
    let differ = |range: &Range<usize>| copies.windows(2).any(|pair| pair[0][range.clone()] != pair[1][range.clone()]);
    let pieces = (0..body).step_by(PIECE_BYTES).map(|start| start..(start + PIECE_BYTES).min(body));
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
        let mut kinds: Vec<usize> = Vec::new();
        for (at, copy) in copies.iter().enumerate() {
            if !kinds.iter().any(|kind| copies[*kind][range.clone()] == copy[range.clone()]) {
                kinds.push(at);
            }
        }
        tries = tries.checked_mul(kinds.len()).filter(|tries| *tries <= TRIES_MAX)?;
        found.push(Difference { range, kinds });
    }
    Some(found)
}

/// Tries every combination from the first difference on that isn't `chosen`; `hasher` has taken in `hashed` bytes.
fn search(
    copies: &[Vec<u8>],
    differences: &[Difference],
    hashed: usize,
    hasher: &blake3::Hasher,
    chosen: &mut Vec<usize>,
    body: usize,
    pack: PackId,
) -> bool {
    let mut hasher = hasher.clone();
    let Some(difference) = differences.get(chosen.len()) else {
        hasher.update(&copies[0][hashed..body]);
        return *hasher.finalize().as_bytes() == pack.0;
    };
    let Difference { range, kinds } = difference;
    hasher.update(&copies[0][hashed..range.start]);
    for kind in kinds {
        let mut taken = hasher.clone();
        taken.update(&copies[*kind][range.clone()]);
        chosen.push(*kind);
        if search(copies, differences, range.end, &taken, chosen, body, pack) {
            return true;
        }
        chosen.pop();
    }
    false
}

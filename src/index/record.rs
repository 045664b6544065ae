//! What the index holds for a chunk and for a pack, and the compact bytes of both.

use crate::format::ids::{Digest, PackId, RegionId, SessionId, SlotId};
use crate::format::pack::PackHeader;
use crate::format::segment::SegmentPack;
use crate::format::wire::{DecodeError, Reader, put_varint};
use std::collections::HashSet;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The pack's ordinal in this index.
    pub pack: u32,
    /// The frame's position in the pack.
    pub frame: u32,
    /// Offset in the frame's plaintext, in bytes.
    pub offset: u32,
    /// Plaintext length in bytes.
    pub length: u32,
}

/// One frame of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Offset in the pack, in bytes.
    pub offset: u64,
    /// Index into the pack's sections.
    pub section: u32,
    /// Number in its section.
    pub number: u64,
    /// Bytes in the pack, tag included.
    pub sealed_length: u32,
    /// Plaintext bytes.
    pub raw_length: u32,
}

/// A pack with its frames, without its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The pack.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// The session in its header.
    pub session: SessionId,
    /// The slot that first wrote its frames.
    pub origin: SlotId,
    /// The digest of what the segment states of it: two segments may state different things of one pack.
    pub listing: Digest,
    /// True for tree and list chunks.
    pub metadata: bool,
    /// The regions in which a segment lists it so, ascending.
    pub regions: Vec<RegionId>,
    /// Its frames in stored order.
    pub frames: Vec<FrameEntry>,
    /// How many sections it has.
    pub sections: u32,
}

/// What stands in the place of what a region no longer states of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The same, with another origin.
    Stated,
    /// Something else: this was false (COLLECT-19).
    Disproved,
}

impl PackEntry {
    /// From a segment's word.
    pub fn from_segment(pack: &SegmentPack, listing: Digest, regions: &[RegionId]) -> Self {
        let mut offset = PackHeader::length(pack.sections.len()) as u64;
        let frames = pack.frames.iter().map(|frame| {
            let entry = FrameEntry {
                offset,
                section: frame.section,
                number: frame.number,
                sealed_length: frame.sealed_length,
                raw_length: frame.chunks.iter().map(|chunk| chunk.length).sum(),
            };
            offset += u64::from(frame.sealed_length);
            entry
        });
        let frames = frames.collect();
        let mut entry = PackEntry {
            id: pack.pack,
            size: pack.size,
            session: pack.session,
            origin: pack.origin,
            listing,
            metadata: pack.metadata,
            regions: Vec::new(),
            frames,
            sections: pack.sections.len() as u32,
        };
        entry.add_regions(regions);
        entry
    }

    /// Whether this is what a segment says of the pack: the same facts from the same origin. A segment that
    /// lies about another's pack must not stand in the place of what is true of it.
    pub fn says(&self, pack: &SegmentPack, listing: &Digest) -> bool {
        (self.id, self.origin, self.listing) == (pack.pack, pack.origin, *listing)
    }

    /// Why nothing is lost when a region no longer states this of its pack, by what it states of that pack still
    /// and an owner attested; `None` where something is: nobody else's word is enough (HEAL-2).
    pub fn replaced_by<'a>(
        &self,
        standing: impl Iterator<Item = &'a PackEntry>,
        attested: &HashSet<Digest>,
    ) -> Option<Replaced> {
        let mut vouched = standing.filter(|other| attested.contains(&other.listing)).map(|other| other.listing);
        match attested.contains(&self.listing) {
            true => vouched.any(|listing| listing == self.listing).then_some(Replaced::Stated),
            false => vouched.next().map(|_| Replaced::Disproved),
        }
    }

    /// Notes more regions; true when one was new.
    pub fn add_regions(&mut self, regions: &[RegionId]) -> bool {
        let before = self.regions.len();
        self.regions.extend_from_slice(regions);
        self.regions.sort_unstable();
        self.regions.dedup();
        self.regions.len() > before
    }

    /// Takes a region away; true when it was there.
    pub fn remove_region(&mut self, region: RegionId) -> bool {
        let before = self.regions.len();
        self.regions.retain(|known| *known != region);
        self.regions.len() < before
    }

    /// Compact bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.frames.len() * 12);
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.origin.0);
        out.extend_from_slice(&self.listing.0);
        put_varint(&mut out, self.size);
        out.push(u8::from(self.metadata));
        put_varint(&mut out, u64::from(self.sections));
        put_varint(&mut out, self.regions.len() as u64);
        self.regions.iter().for_each(|region| out.extend_from_slice(&region.0));
        put_varint(&mut out, self.frames.len() as u64);
        for frame in &self.frames {
            put_varint(&mut out, u64::from(frame.section));
            put_varint(&mut out, frame.number);
            put_varint(&mut out, u64::from(frame.sealed_length));
            put_varint(&mut out, u64::from(frame.raw_length));
        }
        out
    }

    /// # Errors
    /// When the bytes are not those of [`PackEntry::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "index record");
        let id = PackId(reader.array()?);
        let session = SessionId(reader.array()?);
        let origin = SlotId(reader.array()?);
        let listing = Digest(reader.array()?);
        let size = reader.varint()?;
        let metadata = reader.u8()? == 1;
        let sections = reader.count(u32::MAX as usize, "sections")? as u32;
        let mut regions = Vec::new();
        for _ in 0..reader.count(256, "regions")? {
            regions.push(RegionId(reader.array()?));
        }
        let mut offset = PackHeader::length(sections as usize) as u64;
        let mut frames = Vec::new();
        for _ in 0..reader.count(crate::limits::PACK_FRAMES_MAX, "frames")? {
            let section = reader.count(u32::MAX as usize, "section")? as u32;
            let number = reader.varint()?;
            let sealed_length = reader.count(u32::MAX as usize, "length")? as u32;
            let raw_length = reader.count(u32::MAX as usize, "length")? as u32;
            frames.push(FrameEntry { offset, section, number, sealed_length, raw_length });
            offset += u64::from(sealed_length);
        }
        reader.end()?;
        Ok(PackEntry { id, size, session, origin, listing, metadata, regions, frames, sections })
    }
}

/// Places of one chunk that are kept of one pack. Who stores a chunk stores it once, and a collection may move two copies
/// into one pack; a segment that lists more lies, and must not fill the index with them.
pub const PLACES_PER_PACK: usize = 4;

/// Brings a chunk's places into their order, each once.
pub fn settle_places(places: &mut Vec<Place>) {
    places.sort_unstable();
    places.dedup();
    let (mut pack, mut kept) = (None, 0);
    places.retain(|place| {
        kept = if pack == Some(place.pack) { kept + 1 } else { 1 };
        pack = Some(place.pack);
        kept <= PLACES_PER_PACK
    });
}

/// Appends a chunk's value: its places, sorted, one after another, four varints each.
pub fn put_places(out: &mut Vec<u8>, places: &[Place]) {
    for place in places {
        put_varint(out, u64::from(place.pack));
        put_varint(out, u64::from(place.frame));
        put_varint(out, u64::from(place.offset));
        put_varint(out, u64::from(place.length));
    }
}

/// # Errors
/// When the bytes are not those of [`put_places`].
pub fn decode_places(bytes: &[u8]) -> Result<Vec<Place>, DecodeError> {
    let mut reader = Reader::new(bytes, "index record");
    let mut places = Vec::with_capacity(1);
    while reader.remaining() > 0 {
        let mut next = || reader.count(u32::MAX as usize, "place").map(|value| value as u32);
        places.push(Place { pack: next()?, frame: next()?, offset: next()?, length: next()? });
    }
    Ok(places)
}

/// Ordinals one after another, four bytes each.
pub fn encode_ordinals(ordinals: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ordinals.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// # Errors
/// When the bytes are not those of [`encode_ordinals`].
pub fn decode_ordinals(bytes: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let (whole, rest) = bytes.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(whole.iter().map(|ordinal| u32::from_be_bytes(*ordinal)).collect()),
        false => Err(DecodeError::new("index record", "ordinals that break off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_pack_a_few_places_of_a_chunk_are_kept() {
        let place = |pack, frame| Place { pack, frame, offset: 0, length: 1 };
        let mut places: Vec<Place> =
            (0..9).rev().map(|frame| place(7, frame)).chain([place(3, 1), place(7, 0)]).collect();
        settle_places(&mut places);
        assert_eq!(places, [place(3, 1), place(7, 0), place(7, 1), place(7, 2), place(7, 3)]);
    }

    #[test]
    fn records_round_trip() {
        let entry = PackEntry {
            id: PackId([1; 32]),
            size: 33 << 20,
            session: SessionId([2; 16]),
            origin: SlotId([3; 16]),
            listing: Digest([6; 32]),
            metadata: true,
            regions: vec![RegionId([4; 16]), RegionId([5; 16])],
            frames: vec![FrameEntry {
                offset: PackHeader::length(2) as u64,
                section: 1,
                number: 6,
                sealed_length: 7,
                raw_length: 8,
            }],
            sections: 2,
        };
        assert_eq!(PackEntry::decode(&entry.encode()), Ok(entry));
        let places = vec![
            Place { pack: 1, frame: 2, offset: 3, length: 4 },
            Place { pack: 500, frame: 0, offset: 0, length: 1 },
        ];
        let mut encoded = Vec::new();
        put_places(&mut encoded, &places);
        assert_eq!(decode_places(&encoded), Ok(places));
        let ordinals = vec![7, 0, u32::MAX];
        assert_eq!(decode_ordinals(&encode_ordinals(ordinals.clone())), Ok(ordinals));
        assert!(decode_ordinals(&[1, 2, 3, 4, 5]).is_err());
    }
}

//! Which packs a backup may rely on, and which it did.
//!
//! Guarantees: a pack that is withdrawn counts as missing for every look-up from then on, in all threads,
//! and whatever was answered before is among what was relied on: one lock orders both. Memory is a byte
//! for each pack that the index lists.

use super::BackupError;
use super::engine::DedupTrust;
use crate::env::{Random, random_bytes};
use crate::format::ids::{Digest, PackId, RegionId, SlotId};
use crate::format::roster::SlotState;
use crate::index::{Index, IndexError, PackEntry};
use crate::repo::presence::Lacking;
use crate::repo::session::Reliance;
use crate::repo::{Repository, attest};
use crate::source::{Trusted, trust_number};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// It was looked at: whether it is trusted and missing is known.
const DECIDED: u8 = 1;
/// Of an origin that this slot trusts, listed by every region of the run, and there as it is listed.
const TRUSTED: u8 = 2;
/// Condemned or deleted in some region.
const MISSING: u8 = 4;
/// Some chunk of the run is known by it alone.
const RELIED: u8 = 8;

/// Whose listings of packs a backup believes.
pub struct Trust {
    own: SlotId,
    everybody: bool,
    /// Listings that an owner verified.
    attested: HashSet<Digest>,
    revoked: HashSet<SlotId>,
}

impl Trust {
    /// As `wanted`, by what the repository's owners attested and revoked.
    pub fn of(repository: &Repository, wanted: DedupTrust) -> Self {
        // One that is damaged vouches for nothing: chunks are stored once more, and nothing is lost.
        let (attested, issues) = attest::read(repository);
        issues.iter().for_each(|issue| tracing::warn!(detail = issue.detail, "an attestation is not used"));
        let revoked = repository.roster.slots.iter().filter(|slot| slot.state == SlotState::Revoked);
        Trust {
            own: repository.secrets.slot,
            everybody: wanted == DedupTrust::All,
            attested,
            revoked: revoked.map(|slot| slot.slot).collect(),
        }
    }

    /// What stands for the packs of other slots that this host's runs rely on. It changes whenever one that was
    /// trusted may not be any more: what was taken over from a snapshot whose chunks were judged otherwise must be
    /// judged again. That owners verified more changes nothing. What it stands for is kept in `directory`; a dry
    /// run changes nothing there.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn stamp(
        &self,
        index: &dyn Index,
        directory: &Path,
        random: &dyn Random,
        dry_run: bool,
    ) -> Result<[u8; 32], IndexError> {
        let mut now = Trusted::default();
        if self.everybody {
            now.revoked.extend(&self.revoked);
        }
        if !self.attested.is_empty() {
            now.listings.extend(&self.attested);
            // What this slot wrote is trusted whoever verified it. What the index doesn't know yet may come into it
            // while this run goes on.
            index.each_pack(&mut |_, pack| {
                if pack.origin == self.own {
                    now.listings.remove(&pack.listing);
                }
                Ok(())
            })?;
        }
        let mut hasher = blake3::Hasher::new_derive_key("keepstone dedup trust");
        hasher.update(&[u8::from(self.everybody)]);
        let path = directory.join(if self.everybody { "all.trust" } else { "verified.trust" });
        let vouched = |listing: &Digest| self.attested.contains(listing);
        match trust_number(&path, &now, vouched, random_bytes(random), dry_run) {
            Ok(number) => hasher.update(&number),
            // Then it holds for exactly what is trusted now.
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what is trusted can't be remembered");
                for slot in &now.revoked {
                    hasher.update(&slot.0);
                }
                hasher.update(&[0]);
                for listing in &now.listings {
                    hasher.update(&listing.0);
                }
                &mut hasher
            }
        };
        Ok(*hasher.finalize().as_bytes())
    }

    /// What of it this slot would otherwise rely on, by region and pack: what was taken over from a snapshot that
    /// was made while nothing was known to be lacking must be looked up again.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn digest_of_lacking(&self, lacking: &Lacking, index: &dyn Index) -> Result<[u8; 32], IndexError> {
        let mut lost = BTreeSet::new();
        for (ordinal, regions) in lacking.ordinals() {
            let pack = index.pack(ordinal)?;
            if self.holds(&pack) {
                lost.extend(regions.into_iter().map(|region| (region, pack.id, pack.listing.0)));
            }
        }
        let mut hasher = blake3::Hasher::new_derive_key("keepstone lacking packs");
        for (region, pack, listing) in lost {
            hasher.update(&region.0).update(&pack.0).update(&listing);
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// A pack that is listed as this slot lists it, or as an owner verified it; or anybody's, where all are
    /// trusted, but those whose key was revoked.
    fn holds(&self, pack: &PackEntry) -> bool {
        pack.origin == self.own
            || self.attested.contains(&pack.listing)
            || (self.everybody && !self.revoked.contains(&pack.origin))
    }
}

/// Decides, and remembers, whether a pack may be relied on; shared by all workers.
pub struct UsablePacks<'a> {
    index: &'a dyn Index,
    regions: Vec<RegionId>,
    trust: &'a Trust,
    lacking: &'a Lacking,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    missing: HashSet<PackId>,
    /// By the pack's ordinal in the index.
    flags: Vec<AtomicU8>,
    /// Packs of this run that no segment lists yet: the index doesn't know them.
    shipping: HashSet<PackId>,
    /// Counts up whenever one of them gets its ordinal.
    listings: u64,
}

impl Known {
    fn flags(&self, ordinal: u32) -> u8 {
        self.flags.get(ordinal as usize).map_or(0, |flags| flags.load(Ordering::Relaxed))
    }

    fn change(&mut self, ordinal: u32, change: impl FnOnce(u8) -> u8) {
        let at = ordinal as usize;
        if at >= self.flags.len() {
            self.flags.resize_with(at + 1, AtomicU8::default);
        }
        let flags = self.flags[at].get_mut();
        *flags = change(*flags);
    }
}

impl<'a> UsablePacks<'a> {
    /// For a run over `regions`; packs in `missing` are condemned or deleted somewhere, those in `lacking` listed
    /// and not there.
    pub fn new(
        index: &'a dyn Index,
        regions: Vec<RegionId>,
        missing: HashSet<PackId>,
        lacking: &'a Lacking,
        trust: &'a Trust,
    ) -> Self {
        UsablePacks { index, regions, trust, lacking, known: RwLock::new(Known { missing, ..Known::default() }) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when a chunk may count as stored because this pack has it. The pack is relied on then.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn rely(&self, ordinal: u32) -> Result<bool, BackupError> {
        loop {
            {
                // Under one lock: whoever withdraws the pack comes before this, or sees that it is relied on.
                let known = self.read();
                let flags = known.flags(ordinal);
                if flags & DECIDED != 0 {
                    let usable = flags & (TRUSTED | MISSING) == TRUSTED;
                    if usable && flags & RELIED == 0 {
                        known.flags[ordinal as usize].fetch_or(RELIED, Ordering::Relaxed);
                    }
                    return Ok(usable);
                }
            }
            let pack = self.index.pack(ordinal)?;
            let is_in = |region| pack.regions.contains(region) && !self.lacking.is_lacking(region, ordinal);
            let trusted = self.trust.holds(&pack) && self.regions.iter().all(is_in);
            let mut known = self.write();
            let missing = known.missing.contains(&pack.id);
            let found = DECIDED | if trusted { TRUSTED } else { 0 } | if missing { MISSING } else { 0 };
            known.change(ordinal, |flags| flags | found);
        }
    }

    /// A pack of this run is complete and goes to the regions: it is relied on.
    pub fn shipping(&self, pack: PackId) {
        self.write().shipping.insert(pack);
    }

    /// The index lists these packs of this run now.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn listed(&self, packs: &[PackId]) -> Result<(), BackupError> {
        for pack in packs {
            let ordinals = self.index.ordinals(pack)?;
            let mut known = self.write();
            known.listings += 1;
            let missing = if known.missing.contains(pack) { MISSING } else { 0 };
            for ordinal in &ordinals {
                known.change(*ordinal, |flags| flags | RELIED | missing);
            }
            if !ordinals.is_empty() {
                known.shipping.remove(pack);
            }
        }
        Ok(())
    }
}

impl Reliance for UsablePacks<'_> {
    fn withdraw(&self, missing: &HashSet<PackId>) -> Result<BTreeSet<PackId>, IndexError> {
        // The index is asked outside the lock, again for whatever it may have taken in meanwhile.
        // One pack may be listed in several ways, each under an ordinal of its own.
        let mut ordinals: HashMap<PackId, Vec<u32>> = HashMap::new();
        let mut known = loop {
            let (listings, went) = {
                let known = self.read();
                (known.listings, known.missing.difference(missing).copied().collect::<Vec<_>>())
            };
            for pack in missing.iter().chain(&went) {
                if !ordinals.contains_key(pack) {
                    let found = self.index.ordinals(pack)?;
                    if !found.is_empty() {
                        ordinals.insert(*pack, found);
                    }
                }
            }
            let known = self.write();
            if known.listings == listings {
                break known;
            }
        };
        let went: Vec<PackId> = known.missing.difference(missing).copied().collect();
        known.missing.clone_from(missing);
        for ordinal in went.iter().filter_map(|pack| ordinals.get(pack)).flatten() {
            known.change(*ordinal, |flags| flags & !MISSING);
        }
        let mut relied = BTreeSet::new();
        for pack in missing {
            let listed = ordinals.get(pack).map_or(&[][..], Vec::as_slice);
            for ordinal in listed {
                known.change(*ordinal, |flags| flags | MISSING);
            }
            if known.shipping.contains(pack) || listed.iter().any(|at| known.flags(*at) & RELIED != 0) {
                relied.insert(*pack);
            }
        }
        Ok(relied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{ChunkId, ChunkKind, SectionId, SegmentId, SessionId};
    use crate::format::segment::{Segment, SegmentChunk, SegmentFrame, SegmentPack};
    use crate::index::MemoryIndex;

    const REGION: RegionId = RegionId([1; 16]);
    const SLOT: SlotId = SlotId([2; 16]);

    fn pack(number: u8) -> SegmentPack {
        let chunk =
            SegmentChunk { id: ChunkId([number; 32]), kind: ChunkKind::Data, length: 9, references: Vec::new() };
        SegmentPack {
            pack: PackId([number; 32]),
            size: 1 << 20,
            session: SessionId([4; 16]),
            origin: SLOT,
            metadata: false,
            sections: vec![SectionId([6; 16])],
            frames: vec![SegmentFrame { section: 0, number: 0, sealed_length: 99, chunks: vec![chunk] }],
        }
    }

    fn index(packs: u8) -> MemoryIndex {
        let index = MemoryIndex::new();
        let segment = Segment { supersedes: Vec::new(), packs: (0..packs).map(pack).collect() };
        index.ingest(SegmentId([7; 32]), 100, &segment, &[REGION]).expect("ingested");
        index
    }

    fn trust() -> Trust {
        Trust { own: SLOT, everybody: false, attested: HashSet::new(), revoked: HashSet::new() }
    }

    fn usable<'a>(index: &'a MemoryIndex, lacking: &'a Lacking, trust: &'a Trust) -> UsablePacks<'a> {
        UsablePacks::new(index, vec![REGION], HashSet::new(), lacking, trust)
    }

    fn packs(numbers: &[u8]) -> HashSet<PackId> {
        numbers.iter().map(|number| PackId([*number; 32])).collect()
    }

    #[test]
    fn order_4_a_withdrawn_pack_is_missing_and_told_if_it_was_relied_on() {
        let index = index(3);
        let (lacking, trust) = (Lacking::default(), trust());
        let usable = usable(&index, &lacking, &trust);
        assert!(usable.rely(0).expect("read") && usable.rely(1).expect("read"));
        let relied = usable.withdraw(&packs(&[1, 2])).expect("read");
        assert_eq!(relied, BTreeSet::from([PackId([1; 32])]));
        assert!(usable.rely(0).expect("read"));
        assert!(!usable.rely(1).expect("read") && !usable.rely(2).expect("read"));
        // Asking for a withdrawn pack isn't relying on it; a rescued one may be relied on again.
        assert_eq!(usable.withdraw(&packs(&[0, 1, 2])).expect("read").len(), 2);
        assert_eq!(usable.withdraw(&packs(&[0])).expect("read"), BTreeSet::from([PackId([0; 32])]));
        assert!(usable.rely(2).expect("read"));
        assert_eq!(usable.withdraw(&packs(&[2])).expect("read"), BTreeSet::from([PackId([2; 32])]));
    }

    #[test]
    fn a_pack_of_this_run_is_relied_on_from_before_any_segment_lists_it() {
        let index = index(1);
        let (lacking, trust) = (Lacking::default(), trust());
        let usable = usable(&index, &lacking, &trust);
        usable.shipping(PackId([5; 32]));
        assert_eq!(usable.withdraw(&packs(&[5, 6])).expect("read"), BTreeSet::from([PackId([5; 32])]));
        let segment = Segment { supersedes: Vec::new(), packs: vec![pack(5), pack(6)] };
        index.ingest(SegmentId([8; 32]), 100, &segment, &[REGION]).expect("ingested");
        usable.listed(&[PackId([5; 32])]).expect("read");
        assert!(!usable.rely(1).expect("read") && !usable.rely(2).expect("read"));
        assert_eq!(usable.withdraw(&packs(&[5, 6])).expect("read"), BTreeSet::from([PackId([5; 32])]));
    }

    #[test]
    fn whatever_is_answered_while_a_pack_is_withdrawn_is_told() {
        for _ in 0..200 {
            let index = index(2);
            let (lacking, trust) = (Lacking::default(), trust());
            let usable = usable(&index, &lacking, &trust);
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| usable.rely(1).expect("read"));
                let first = usable.withdraw(&packs(&[1])).expect("read");
                let answered = asking.join().expect("no panic");
                assert_eq!(answered, !first.is_empty());
            });
        }
    }
}

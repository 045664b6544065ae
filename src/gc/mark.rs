//! What of a region's packs is needed: every chunk that a root reaches keeps one copy that each slot that
//! relies on it would trust, or one copy of each origin where no such copy is known.
//!
//! A slot trusts what it wrote itself. So a chunk that slot A's and slot B's snapshots reach keeps a copy of
//! origin A and one of origin B, where there are such: who wrote the one can't make the other go. Of one origin
//! a single copy is enough, else what is taken out of a mostly dead pack would stay in it as well, for ever.

use super::GcError;
use super::claims::Root;
use super::holdings::Holdings;
use crate::format::ids::{ChunkId, SlotId, SnapshotId};
use crate::index::graph::{ChunkCopy, ChunkName, Graph, Key, Lack, Marks};
use crate::pack::reader::pack_name;
use crate::repo::open::RegionHandle;
use crate::report::Monitor;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Roots that are walked from together; between them a user's wish to stop is heeded.
const ROOTS_AT_ONCE: usize = 4096;

/// What is needed.
pub struct Needed {
    /// By pack.
    pub packs: Vec<bool>,
    /// By pack: some root reaches a chunk of it, needed or not.
    pub reached: Vec<bool>,
    /// By frame: plaintext bytes that are needed; at most the frame's own.
    pub frame_bytes: Vec<u32>,
    /// What the roots reach.
    pub marks: Marks,
    /// What a person should know.
    pub notices: Vec<String>,
}

/// Marks from the roots. Of several copies, one in a pack that `avoid` names is needed only if there is no other.
///
/// # Errors
/// When a root that isn't forgotten reaches what is in no segment, or in packs that are all absent.
pub fn mark(
    region: &RegionHandle,
    holdings: &Holdings,
    roots: &[Root],
    avoid: &dyn Fn(u32) -> bool,
    monitor: &dyn Monitor,
) -> Result<Needed, GcError> {
    let graph = &holdings.graph;
    let mut notices = Vec::new();
    let mut all = graph.marks();
    let (counting, forgotten): (Vec<&Root>, Vec<&Root>) = roots.iter().partition(|root| !root.forgotten);
    let mut lacks = Vec::new();
    walk(graph, &counting, &mut all, monitor, &mut |from, to, lack| lacks.push((from, to, lack)))?;
    if !lacks.is_empty() {
        require_there(region, holdings, &counting, &all, &lacks)?;
    }
    let mut lost = 0u64;
    walk(graph, &forgotten, &mut all, monitor, &mut |_, _, _| lost += 1)?;
    if lost > 0 {
        notices
            .push(format!("forgotten snapshots refer to {lost} chunks that are lost here: they can't come back whole"));
    }

    let mut tally = Tallies::new(holdings);
    let mut copies_differ = false;
    graph.each_chunk(&all, &mut |_, reached, copies| {
        if reached {
            let mut packs = copies.iter().filter(|copy| tally.usable(copy)).map(|copy| copy.pack);
            let first = packs.next();
            copies_differ |= packs.any(|pack| Some(pack) != first);
            // Whose lost copy it stands for is to be looked at.
            copies_differ |= first.is_some() && copies.iter().any(|copy| tally.is_lost(copy));
            copies.iter().filter(|copy| copy.present).for_each(|copy| tally.reach(copy));
            if first.is_none() {
                // Lost here, or come since the packs were listed: brought back, it is needed under this name.
                copies.iter().for_each(|copy| tally.needed[copy.pack as usize] = true);
            }
        }
    })?;
    if !copies_differ {
        // The usual case: what is reached is needed.
        graph.each_chunk(&all, &mut |_, reached, copies| {
            if reached {
                let copies: Vec<&ChunkCopy> = copies.iter().filter(|copy| tally.usable(copy)).collect();
                copies.into_iter().for_each(|copy| tally.need(copy));
            }
        })?;
        return Ok(tally.finish(all, notices));
    }
    let mut by_slot: BTreeMap<SlotId, Vec<&Root>> = BTreeMap::new();
    for root in roots {
        root.slots.iter().for_each(|slot| by_slot.entry(*slot).or_default().push(root));
    }
    let alone = by_slot.len() == 1;
    for (slot, roots) in by_slot {
        let own = match alone {
            true => all.clone(),
            false => {
                let mut own = graph.marks();
                walk(graph, &roots, &mut own, monitor, &mut |_, _, _| {})?;
                own
            }
        };
        graph.each_chunk(&own, &mut |_, reached, copies| {
            if reached {
                tally.choose(slot, copies, avoid);
            }
        })?;
    }
    Ok(tally.finish(all, notices))
}

/// Walks from many roots at a time: from one after the other each of their references would be looked up by
/// itself, ten times as long once the graph doesn't fit into memory.
fn walk(
    graph: &Graph,
    roots: &[&Root],
    marks: &mut Marks,
    monitor: &dyn Monitor,
    lacking: &mut dyn FnMut(Option<Key>, Key, Lack),
) -> Result<(), GcError> {
    for part in roots.chunks(ROOTS_AT_ONCE) {
        stop_if_cancelled(monitor)?;
        let chunks: Vec<ChunkId> = part.iter().map(|root| root.chunk).collect();
        graph.walk_all(&chunks, marks, lacking)?;
    }
    Ok(())
}

/// A snapshot that reaches such a lack.
fn reached_by(graph: &Graph, roots: &[&Root], lack: (Option<Key>, Key)) -> Result<Option<SnapshotId>, GcError> {
    // What a snapshot without it reaches need not be walked for the next one.
    let mut marks = graph.marks();
    for root in roots {
        let mut found = false;
        graph.walk(&root.chunk, &mut marks, &mut |from, to, _| found |= (from, to) == lack)?;
        if found {
            return Ok(Some(root.snapshot));
        }
    }
    Ok(None)
}

fn stop_if_cancelled(monitor: &dyn Monitor) -> Result<(), GcError> {
    match monitor.cancelled() {
        true => Err(GcError::Cancelled),
        false => Ok(()),
    }
}

/// Chunks that seem to be lost may lie in packs that came since the packs were listed; if not, the collection
/// stops (`COLLECT-1`).
fn require_there(
    region: &RegionHandle,
    holdings: &Holdings,
    roots: &[&Root],
    marks: &Marks,
    lacks: &[(Option<Key>, Key, Lack)],
) -> Result<(), GcError> {
    let incomplete = |detail: String| GcError::Incomplete {
        region: region.name.clone(),
        detail: format!(
            "{detail}. Bring it back from another region (`keepstone check` says what is missing). Where nothing is \
             missing, a segment states falsely what refers to what: `keepstone check --read-data` with an owner's key \
             names it, and is heeded here. Forget the snapshots that reach it only where they can't be restored"
        ),
    };
    let reaching = |from: &Option<Key>, to: &Key| -> Result<String, GcError> {
        let snapshot = reached_by(&holdings.graph, roots, (*from, *to))?;
        Ok(snapshot.map_or_else(|| "a snapshot".to_owned(), |snapshot| format!("snapshot {snapshot}")))
    };
    if let Some((from, to, _)) = lacks.iter().find(|(.., lack)| *lack == Lack::Unlisted) {
        let snapshot = reaching(from, to)?;
        let from = from.map_or_else(|| "its root".to_owned(), |from| format!("chunk {from:016x}…"));
        return Err(incomplete(format!(
            "{snapshot} reaches chunk {to:016x}… ({from} refers to it), and no segment lists it"
        )));
    }
    let edges: BTreeMap<Key, Option<Key>> = lacks.iter().map(|(from, to, _)| (*to, *from)).collect();
    let key_of = |name: &ChunkName| {
        let mut first = [0u8; 8];
        first.copy_from_slice(&name[..8]);
        Key::from_be_bytes(first)
    };
    let mut places: Vec<(ChunkName, BTreeSet<u32>)> = Vec::new();
    holdings.graph.each_chunk(marks, &mut |name, reached, copies| {
        if reached && edges.contains_key(&key_of(name)) && !copies.iter().any(|copy| copy.present) {
            places.push((*name, copies.iter().map(|copy| copy.pack).collect()));
        }
    })?;
    let mut known: BTreeMap<u32, bool> = BTreeMap::new();
    for (name, packs) in places {
        let mut found = false;
        for pack in &packs {
            let row = &holdings.packs[*pack as usize];
            let there = match known.get(pack) {
                Some(there) => *there,
                None => {
                    let size = region.store.size(&pack_name(&row.id)).map_err(|error| region.error(error))?;
                    let there = !row.dead && size.is_some_and(|size| size == row.size || row.disputed);
                    known.insert(*pack, there);
                    there
                }
            };
            found |= there;
        }
        if !found {
            let packs: Vec<String> = packs.iter().map(|pack| holdings.packs[*pack as usize].id.to_string()).collect();
            let key = key_of(&name);
            let snapshot = reaching(edges.get(&key).unwrap_or(&None), &key)?;
            let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(incomplete(format!(
                "{snapshot} reaches chunk {name}…, which is in packs that are gone or cut short: {}",
                packs.join(", ")
            )));
        }
    }
    Ok(())
}

struct Tallies<'a> {
    holdings: &'a Holdings,
    needed: Vec<bool>,
    reached_bytes: Vec<u64>,
    frame_bytes: Vec<u32>,
}

impl<'a> Tallies<'a> {
    fn new(holdings: &'a Holdings) -> Self {
        Tallies {
            holdings,
            needed: vec![false; holdings.packs.len()],
            reached_bytes: vec![0; holdings.packs.len()],
            frame_bytes: vec![0; holdings.frames.len()],
        }
    }

    /// A copy that can be read, in a pack that isn't dead.
    fn usable(&self, copy: &ChunkCopy) -> bool {
        copy.present
    }

    /// A copy in a pack that is listed, not there as it is listed, and not deleted by a final.
    fn is_lost(&self, copy: &ChunkCopy) -> bool {
        !copy.present && !self.holdings.packs[copy.pack as usize].dead
    }

    fn reach(&mut self, copy: &ChunkCopy) {
        self.reached_bytes[copy.pack as usize] += u64::from(copy.length);
    }

    fn need(&mut self, copy: &ChunkCopy) {
        self.needed[copy.pack as usize] = true;
        let pack = &self.holdings.packs[copy.pack as usize];
        if copy.frame < pack.frame_count {
            let at = pack.first_frame + copy.frame as usize;
            // A chunk that several slots rely on is counted for each: never more than the frame holds.
            let sum = self.frame_bytes[at].saturating_add(copy.length);
            self.frame_bytes[at] = sum.min(self.holdings.frames[at].raw_length);
        }
    }

    /// One copy of the slot's own, in the pack of which the largest share is reached; where it has none, one such
    /// copy of each origin. Where its own is lost and none of these is vouched for, the lost one is waited for, too:
    /// that it is listed is all that says what these are to be doubted for (`COLLECT-18`).
    fn choose(&mut self, slot: SlotId, copies: &[ChunkCopy], avoid: &dyn Fn(u32) -> bool) {
        let row = |copy: &ChunkCopy| &self.holdings.packs[copy.pack as usize];
        let rank = |copy: &ChunkCopy| {
            // The densest: of a pack and of what was taken out of it the latter.
            let reached = u128::from(self.reached_bytes[copy.pack as usize]);
            let density = (reached << 32) / u128::from(row(copy).size.max(1));
            (!avoid(copy.pack), density, Reverse((copy.pack, copy.frame)))
        };
        let mut homes: BTreeMap<SlotId, ChunkCopy> = BTreeMap::new();
        for copy in copies.iter().filter(|copy| self.usable(copy) && !row(copy).disputed) {
            let home = homes.entry(row(copy).origin).or_insert(*copy);
            if rank(copy) > rank(home) {
                *home = *copy;
            }
        }
        match homes.get(&slot) {
            Some(own) => self.need(own),
            None => {
                homes.values().for_each(|copy| self.need(copy));
                if !copies.iter().any(|copy| self.usable(copy) && row(copy).attested) {
                    let lost = copies.iter().filter(|copy| row(copy).origin == slot && self.is_lost(copy));
                    let lost: Vec<usize> = lost.map(|copy| copy.pack as usize).collect();
                    lost.into_iter().for_each(|pack| self.needed[pack] = true);
                }
            }
        }
        // What segments disagree about may be needed for what any of them says.
        for copy in copies {
            if self.usable(copy) && self.holdings.packs[copy.pack as usize].disputed {
                self.need(copy);
            }
        }
    }

    fn finish(self, marks: Marks, notices: Vec<String>) -> Needed {
        Needed {
            packs: self.needed,
            reached: self.reached_bytes.iter().map(|bytes| *bytes > 0).collect(),
            frame_bytes: self.frame_bytes,
            marks,
            notices,
        }
    }
}

//! What refers to what in one region, as its segments state it: enough to mark all that snapshots reach
//! without reading a pack. A check walks it to find what is missing, a collector to find what may go.
//!
//! Guarantees: a reference keeps every chunk that begins with its 8 bytes (COLLECT-4). What can't be put
//! aside or read back is an error and never a wrong mark: after one, neither the builder nor the marks can
//! be used. Memory doesn't grow with the repository but for about 1.5 bits a listed copy of a chunk: a mark,
//! and 8 bytes for every 4 KiB of sorted records. The rest stays within the budget it is given and goes to
//! unlinked files beyond: 28 bytes a listed copy of a chunk, 8 a reference, 28 a structural chunk.
//!
//! **Which copies are of one chunk** is decided by 16 bytes of the ChunkId. 8 would not do: of a billion
//! chunks two probably share them (1 in 37), and a collector that takes one for a copy of the other drops
//! the only copy of a chunk that is needed. 16 bytes that are the same by chance don't happen, and finding
//! content for those of a given chunk is out of reach. Who finds two contents of the same 16 bytes (2^64
//! work, and with the repository's key) made both, and harms his own chunks alone. A segment that lies
//! could state all 32 bytes as well: against that stands the origin of the pack, which is the caller's to
//! heed (SEG-9, SEG-10).
//!
//! **Walking** goes level by level: what a level refers to is sorted and looked up in ascending order, so
//! that a walk reads the spilled records forward, and a chain of any depth needs no stack.

mod pages;
mod sorted;
#[cfg(test)]
mod tests;

use crate::format::ids::ChunkId;
use crate::format::segment::{REFERENCE_PREFIX_BYTES, Reference, Segment};
use crate::pack::{PackError, SpoolSpace};
use pages::{PAYLOAD_BYTES, Pages};
use sorted::{Cursor, Record, Sorted, Sorter, push_within};
use std::path::PathBuf;

/// The first 8 bytes of a ChunkId, as a big-endian number: what references name chunks by.
pub type Key = u64;

/// The first 16 bytes of a ChunkId: what tells chunks apart here.
pub type ChunkName = [u8; 16];

/// A chunk's key.
pub fn key(id: &ChunkId) -> Key {
    key_of(&id.0)
}

/// A chunk's name.
pub fn chunk_name(id: &ChunkId) -> ChunkName {
    array(&id.0, 0)
}

fn key_of(bytes: &[u8]) -> Key {
    Key::from_be_bytes(array(bytes, 0))
}

fn array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

/// What goes wrong with a graph. None of these says anything about the region.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// What doesn't fit into the memory it may take can't be put aside or read again.
    #[error(transparent)]
    Spool(#[from] PackError),
    /// What was put aside reads otherwise than it was written.
    #[error("what was put aside in {directory} reads otherwise than it was written: that disk or memory is failing")]
    Altered {
        /// The directory of the spool.
        directory: String,
    },
    /// An error before left the graph or its marks without some of what belongs to them.
    #[error("an error before left the graph of chunks incomplete: nothing can be told from it")]
    Incomplete,
}

/// Why a reached chunk can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No segment that was added lists it.
    Unlisted,
    /// It is listed, and no pack that it is listed in is present. Of several chunks that begin with the
    /// bytes of a reference, one that is lost is enough: which one is meant can't be known.
    Lost,
}

/// Where a segment says that a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkCopy {
    /// The pack, by the number that it was added under.
    pub pack: u32,
    /// The frame's position in the pack.
    pub frame: u32,
    /// Plaintext length in bytes.
    pub length: u32,
    /// True for a chunk that refers to others.
    pub structural: bool,
    /// True when the pack was added as present.
    pub present: bool,
}

/// One listed copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    name: ChunkName,
    pack: u32,
    /// The frame's position, far below 2^30 (PACK_FRAMES_MAX), and the two flags above it.
    frame: u32,
    length: u32,
}

const STRUCTURAL: u32 = 1 << 30;
const PRESENT: u32 = 1 << 31;

impl Record for Listed {
    const BYTES: usize = 28;

    fn key(&self) -> u64 {
        key_of(&self.name)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        for number in [self.pack, self.frame, self.length] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |from| u32::from_le_bytes(array(bytes, from));
        Listed { name: array(bytes, 0), pack: number(16), frame: number(20), length: number(24) }
    }
}

impl From<Listed> for ChunkCopy {
    fn from(listed: Listed) -> Self {
        ChunkCopy {
            pack: listed.pack,
            frame: listed.frame & !(STRUCTURAL | PRESENT),
            length: listed.length,
            structural: listed.frame & STRUCTURAL != 0,
            present: listed.frame & PRESENT != 0,
        }
    }
}

/// A structural chunk's references: a stretch of all references.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    name: ChunkName,
    start: u64,
    count: u32,
}

impl Record for Node {
    const BYTES: usize = 28;

    fn key(&self) -> u64 {
        key_of(&self.name)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&self.start.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let (start, count) = (u64::from_le_bytes(array(bytes, 16)), u32::from_le_bytes(array(bytes, 24)));
        Node { name: array(bytes, 0), start, count }
    }
}

/// A reference under way in a walk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    to: Key,
    from: Key,
}

impl Record for Edge {
    const BYTES: usize = 16;

    fn key(&self) -> u64 {
        self.to
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.from.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Edge { to: u64::from_le_bytes(array(bytes, 0)), from: u64::from_le_bytes(array(bytes, 8)) }
    }
}

/// References in the order they were added.
struct References {
    space: Option<SpoolSpace>,
    /// How many are held in memory before the first are put aside.
    held_max: usize,
    /// Those behind the pages.
    held: Vec<Key>,
    pages: Option<Pages>,
    paged: u64,
}

const REFERENCES_A_PAGE: usize = PAYLOAD_BYTES / size_of::<Key>();

impl References {
    fn new(space: Option<SpoolSpace>, budget_bytes: usize) -> Self {
        let held_max = match space {
            Some(_) => (budget_bytes / size_of::<Key>()).max(1),
            None => usize::MAX,
        };
        References { space, held_max, held: Vec::new(), pages: None, paged: 0 }
    }

    fn push(&mut self, to: Key) -> Result<(), GraphError> {
        push_within(&mut self.held, to, self.held_max.max(REFERENCES_A_PAGE));
        match &self.space {
            Some(space) if self.pages.is_none() && self.held.len() > self.held_max => {
                self.pages = Some(Pages::create(space)?);
                self.put_aside(false)
            }
            _ if self.pages.is_some() && self.held.len() >= REFERENCES_A_PAGE => self.put_aside(false),
            _ => Ok(()),
        }
    }

    fn count(&self) -> u64 {
        self.paged + self.held.len() as u64
    }

    /// Writes full pages, and at the end the last one.
    fn put_aside(&mut self, end: bool) -> Result<(), GraphError> {
        let Some(pages) = &mut self.pages else { return Ok(()) };
        let mut written = 0;
        for page in self.held.chunks(REFERENCES_A_PAGE) {
            if page.len() < REFERENCES_A_PAGE && !end {
                break;
            }
            let payload: Vec<u8> = page.iter().flat_map(|to| to.to_le_bytes()).collect();
            pages.push(&payload)?;
            written += page.len();
        }
        self.held = self.held.split_off(written);
        self.paged += written as u64;
        match end {
            true => pages.flush(),
            false => Ok(()),
        }
    }

    /// Calls `each` for `count` references from `start` on.
    fn read(
        &self,
        start: u64,
        count: u32,
        payload: &mut Vec<u8>,
        each: &mut dyn FnMut(Key) -> Result<(), GraphError>,
    ) -> Result<(), GraphError> {
        let Some(pages) = &self.pages else {
            let start = start as usize;
            return self.held[start..start + count as usize].iter().try_for_each(|to| each(*to));
        };
        let (mut at, end) = (start, start + u64::from(count));
        while at < end {
            let page = at / REFERENCES_A_PAGE as u64;
            let in_page = (at % REFERENCES_A_PAGE as u64) as usize;
            let taken = (end - at).min((REFERENCES_A_PAGE - in_page) as u64);
            pages.read(page, 1, payload)?;
            let bytes = &payload[in_page * size_of::<Key>()..][..taken as usize * size_of::<Key>()];
            for to in bytes.chunks_exact(size_of::<Key>()) {
                each(Key::from_le_bytes(array(to, 0)))?;
            }
            at += taken;
        }
        Ok(())
    }
}

/// Takes segments in.
pub struct GraphBuilder {
    space: Option<SpoolSpace>,
    memory_bytes: usize,
    listed: Sorter<Listed>,
    nodes: Sorter<Node>,
    references: References,
    failed: bool,
}

impl GraphBuilder {
    /// A graph that holds about `memory_bytes` while it is built and walked, and puts the rest into unlinked
    /// files in the directory `spill`; without one, all is held in memory.
    pub fn new(spill: Option<PathBuf>, memory_bytes: usize) -> Self {
        Self::with_space(spill.map(SpoolSpace::Directory), memory_bytes)
    }

    /// As [`GraphBuilder::new`], with any kind of spool.
    pub fn with_space(space: Option<SpoolSpace>, memory_bytes: usize) -> Self {
        GraphBuilder {
            listed: Sorter::new(space.clone(), memory_bytes / 2),
            nodes: Sorter::new(space.clone(), memory_bytes / 8),
            references: References::new(space.clone(), memory_bytes / 8),
            space,
            memory_bytes,
            failed: false,
        }
    }

    /// Takes a segment in. For each of its packs, `packs` says the number that the caller knows it by, the same
    /// in every segment, and `present` whether it can be read. A pack that several segments list may be added
    /// with each: where they say the same it counts once; where one of them lies, what all of them list and
    /// refer to counts, since keeping too much is the harmless fault.
    ///
    /// # Errors
    /// When what exceeds the memory can't be put aside; the builder can't be used any more.
    pub fn add(&mut self, segment: &Segment, packs: &[u32], present: &[bool]) -> Result<(), GraphError> {
        assert!(packs.len() == segment.packs.len() && present.len() == packs.len(), "a number and a state per pack");
        if self.failed {
            return Err(GraphError::Incomplete);
        }
        self.failed = true;
        let keys: Vec<Key> = segment.chunks().map(|chunk| key(&chunk.id)).collect();
        for ((pack, ordinal), present) in segment.packs.iter().zip(packs).zip(present) {
            for (frame, chunk) in
                pack.frames.iter().zip(0u32..).flat_map(|(frame, at)| frame.chunks.iter().map(move |chunk| (at, chunk)))
            {
                let mut flags = if *present { PRESENT } else { 0 };
                let name = chunk_name(&chunk.id);
                if chunk.kind.is_structural() {
                    flags |= STRUCTURAL;
                    let count = chunk.references.len() as u32; // CHUNK_REFERENCES_MAX
                    self.nodes.push(Node { name, start: self.references.count(), count })?;
                    for reference in &chunk.references {
                        self.references.push(match reference {
                            // The segment's decoder checked that the ordinal exists (SEG-4).
                            Reference::Ordinal(ordinal) => keys[*ordinal as usize],
                            Reference::Prefix(prefix) => prefix_key(prefix),
                        })?;
                    }
                }
                self.listed.push(Listed { name, pack: *ordinal, frame: frame | flags, length: chunk.length })?;
            }
        }
        self.failed = false;
        Ok(())
    }

    /// Sorts what was added.
    ///
    /// # Errors
    /// When what exceeds the memory can't be put aside or read back, and after a segment that failed.
    pub fn finish(mut self) -> Result<Graph, GraphError> {
        if self.failed {
            return Err(GraphError::Incomplete);
        }
        let listed = self.listed.finish()?;
        let nodes = self.nodes.finish()?;
        self.references.put_aside(true)?;
        let edges_bytes = self.memory_bytes / 8;
        Ok(Graph { space: self.space, edges_bytes, listed, nodes, references: self.references })
    }
}

fn prefix_key(prefix: &[u8; REFERENCE_PREFIX_BYTES]) -> Key {
    Key::from_be_bytes(*prefix)
}

/// A region's chunks and references.
pub struct Graph {
    space: Option<SpoolSpace>,
    /// What the references of one level of a walk may take in memory.
    edges_bytes: usize,
    listed: Sorted<Listed>,
    nodes: Sorted<Node>,
    references: References,
}

/// Which listed chunks walks of one graph have reached so far: a bit for each copy, set for the first one.
#[derive(Clone)]
pub struct Marks {
    bits: Vec<u64>,
    reached: u64,
    lost: u64,
    /// A walk began and did not end.
    incomplete: bool,
}

impl Marks {
    /// Marks a chunk; true when it was not marked.
    fn reach(&mut self, chunk: &Group) -> bool {
        let (word, bit) = ((chunk.position / 64) as usize, 1u64 << (chunk.position % 64));
        let fresh = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.reached += u64::from(fresh);
        self.lost += u64::from(fresh && !chunk.present);
        fresh
    }

    fn is_set(&self, at: u64) -> bool {
        self.bits[(at / 64) as usize] & 1u64 << (at % 64) != 0
    }

    /// How many listed chunks were reached, each once, lost ones included.
    pub fn count(&self) -> u64 {
        self.reached
    }

    /// Of these, how many are lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn clear(&mut self, chunk: &Group) {
        self.bits[(chunk.position / 64) as usize] &= !(1u64 << (chunk.position % 64));
        self.reached -= 1;
        self.lost -= u64::from(!chunk.present);
    }

    /// True when some chunk is marked here and in other marks of the same graph.
    pub fn meets(&self, other: &Marks) -> bool {
        self.bits.iter().zip(&other.bits).any(|(one, other)| one & other != 0)
    }
}

/// The copies of one chunk.
struct Group {
    name: ChunkName,
    /// The first copy's position.
    position: u64,
    structural: bool,
    present: bool,
}

/// The copies of the chunk at the cursor, which is moved behind them.
fn group(listed: &mut Cursor<'_, Listed>, copies: &mut dyn FnMut(&ChunkCopy)) -> Result<Option<Group>, GraphError> {
    let Some(first) = listed.peek()? else { return Ok(None) };
    let mut group = Group { name: first.name, position: listed.position(), structural: false, present: false };
    while let Some(next) = listed.peek()?.filter(|next| next.name == group.name) {
        let copy = ChunkCopy::from(next);
        group.structural |= copy.structural;
        group.present |= copy.present;
        copies(&copy);
        listed.advance();
    }
    Ok(Some(group))
}

impl Graph {
    /// No marks.
    pub fn marks(&self) -> Marks {
        Marks { bits: vec![0; self.listed.len().div_ceil(64) as usize], reached: 0, lost: 0, incomplete: false }
    }

    /// [`Graph::walk_all`] from one root.
    ///
    /// # Errors
    /// As there.
    pub fn walk(
        &self,
        root: &ChunkId,
        marks: &mut Marks,
        lacking: &mut dyn FnMut(Option<Key>, Key, Lack),
    ) -> Result<(), GraphError> {
        self.walk_all(std::slice::from_ref(root), marks, lacking)
    }

    /// Walks from snapshots' roots over what `marks` don't have yet, marks it, and calls `lacking` for each
    /// reference to a chunk that can't be had: the key of the chunk that refers (none for a root), the key
    /// referred to, and why. What was marked is not walked again, so a reference is told of once over all
    /// walks with the same marks. A root stands for the one chunk of its name, a reference for all of its
    /// key. Many roots at once are far quicker than one after the other.
    ///
    /// # Errors
    /// When what was put aside can't be read back; the marks can't be used any more.
    pub fn walk_all(
        &self,
        roots: &[ChunkId],
        marks: &mut Marks,
        lacking: &mut dyn FnMut(Option<Key>, Key, Lack),
    ) -> Result<(), GraphError> {
        if marks.incomplete {
            return Err(GraphError::Incomplete);
        }
        marks.incomplete = true;
        let mut walk = Walk {
            graph: self,
            listed: self.listed.cursor(),
            nodes: self.nodes.cursor(),
            marks,
            next: self.edges(),
            payload: Vec::new(),
        };
        for root in roots {
            if let Some(lack) = walk.reach(key(root), Some(&chunk_name(root)))? {
                lacking(None, key(root), lack);
            }
        }
        while !walk.next.is_empty() {
            let mut level = std::mem::replace(&mut walk.next, self.edges()).stream()?;
            let mut target = None;
            while let Some(Edge { to, from }) = level.next()? {
                let lack = match target {
                    Some((known, lack)) if known == to => lack,
                    _ => walk.reach(to, None)?,
                };
                target = Some((to, lack));
                if let Some(lack) = lack {
                    lacking(Some(from), to, lack);
                }
            }
        }
        marks.incomplete = false;
        Ok(())
    }

    fn edges(&self) -> Sorter<Edge> {
        Sorter::new(self.space.clone(), self.edges_bytes)
    }

    /// Calls `visit` for every listed chunk in ascending order, with all its copies; `reached` as `marks` say.
    ///
    /// # Errors
    /// When what was put aside can't be read back, and with marks that a failed walk left.
    pub fn each_chunk(
        &self,
        marks: &Marks,
        visit: &mut dyn FnMut(&ChunkName, bool, &[ChunkCopy]),
    ) -> Result<(), GraphError> {
        if marks.incomplete {
            return Err(GraphError::Incomplete);
        }
        let mut listed = self.listed.cursor();
        let mut copies = Vec::new();
        while let Some(group) = group(&mut listed, &mut |copy| copies.push(*copy))? {
            visit(&group.name, marks.is_set(group.position), &copies);
            copies.clear();
        }
        Ok(())
    }

    /// True when a listed chunk was reached.
    ///
    /// # Errors
    /// As [`Graph::each_chunk`].
    pub fn is_reached(&self, marks: &Marks, id: &ChunkId) -> Result<bool, GraphError> {
        if marks.incomplete {
            return Err(GraphError::Incomplete);
        }
        let group = self.find(&mut self.listed.cursor(), id, &mut Vec::new())?;
        Ok(group.is_some_and(|group| marks.is_set(group.position)))
    }

    /// Every listed copy of a chunk; none of one that isn't listed.
    ///
    /// # Errors
    /// When what was put aside can't be read back.
    pub fn copies(&self, id: &ChunkId) -> Result<Vec<ChunkCopy>, GraphError> {
        let mut copies = Vec::new();
        self.find(&mut self.listed.cursor(), id, &mut copies)?;
        Ok(copies)
    }

    /// Marks listed chunks without walking what they refer to: for marks that are no walk's.
    ///
    /// # Errors
    /// When what was put aside can't be read back; the marks can't be used any more.
    pub fn mark(&self, marks: &mut Marks, ids: &[ChunkId]) -> Result<(), GraphError> {
        if marks.incomplete {
            return Err(GraphError::Incomplete);
        }
        marks.incomplete = true;
        let (mut listed, mut copies) = (self.listed.cursor(), Vec::new());
        for id in ids {
            if let Some(group) = self.find(&mut listed, id, &mut copies)? {
                marks.reach(&group);
            }
        }
        marks.incomplete = false;
        Ok(())
    }

    /// Of marked chunks, leaves those marked of whose copies `keep` says so.
    ///
    /// # Errors
    /// As [`Graph::mark`].
    pub fn sift(&self, marks: &mut Marks, keep: &dyn Fn(&[ChunkCopy]) -> bool) -> Result<(), GraphError> {
        if marks.incomplete {
            return Err(GraphError::Incomplete);
        }
        marks.incomplete = true;
        let (mut listed, mut copies) = (self.listed.cursor(), Vec::new());
        while let Some(group) = group(&mut listed, &mut |copy| copies.push(*copy))? {
            if marks.is_set(group.position) && !keep(&copies) {
                marks.clear(&group);
            }
            copies.clear();
        }
        marks.incomplete = false;
        Ok(())
    }

    /// Finds a chunk, and fills in its copies.
    fn find(
        &self,
        listed: &mut Cursor<'_, Listed>,
        id: &ChunkId,
        copies: &mut Vec<ChunkCopy>,
    ) -> Result<Option<Group>, GraphError> {
        let name = chunk_name(id);
        listed.seek(key(id))?;
        loop {
            copies.clear();
            match group(listed, &mut |copy| copies.push(*copy))? {
                Some(group) if group.name == name => return Ok(Some(group)),
                Some(group) if group.name < name => {}
                _ => break,
            }
        }
        copies.clear();
        Ok(None)
    }
}

/// A walk under way.
struct Walk<'a> {
    graph: &'a Graph,
    listed: Cursor<'a, Listed>,
    nodes: Cursor<'a, Node>,
    marks: &'a mut Marks,
    /// What the level under way refers to.
    next: Sorter<Edge>,
    payload: Vec<u8>,
}

impl Walk<'_> {
    /// Marks the chunks of a key, or the one of them that has this name; says why they can't be had.
    fn reach(&mut self, key: Key, only: Option<&ChunkName>) -> Result<Option<Lack>, GraphError> {
        self.listed.seek(key)?;
        let mut lack = Some(Lack::Unlisted);
        while self.listed.peek()?.is_some_and(|next| next.key() == key) {
            let Some(group) = group(&mut self.listed, &mut |_| {})? else { break };
            if only.is_some_and(|only| *only != group.name) {
                continue;
            }
            lack = match lack {
                _ if !group.present => Some(Lack::Lost),
                Some(Lack::Lost) => Some(Lack::Lost),
                _ => None,
            };
            if self.marks.reach(&group) && group.structural {
                self.expand(&group.name)?;
            }
        }
        Ok(lack)
    }

    /// Puts down what a structural chunk refers to, as any of its copies states it.
    fn expand(&mut self, name: &ChunkName) -> Result<(), GraphError> {
        let from = key_of(name);
        self.nodes.seek(from)?;
        while let Some(node) = self.nodes.peek()?.filter(|node| node.name <= *name) {
            if node.name == *name {
                let next = &mut self.next;
                let references = &self.graph.references;
                references.read(node.start, node.count, &mut self.payload, &mut |to| next.push(Edge { to, from }))?;
            }
            self.nodes.advance();
        }
        Ok(())
    }
}

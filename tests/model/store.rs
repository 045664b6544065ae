//! What stands in a region, as bits: packs, segments, sessions, commits, verdicts and the gc log.
//!
//! Names are fixed numbers (a session's pack and segment carry the session's number), so that histories that differ only in
//! the order of creation meet in one state.

/// A set of packs, sessions, chunks or snapshots, by number.
pub type Set = u8;

pub const PACKS: usize = 8;
pub const SESSIONS: usize = 8;
pub const SEGMENTS: usize = 16;
pub const SNAPSHOTS: usize = 3;
/// The last of the log's generations that a state can hold; those above the bound of a scenario serve the quiet runs.
pub const GENERATIONS: usize = 6;

pub const fn segment_of_session(session: usize) -> usize {
    1 + session
}

/// The superseding segment of a generation, by the first collector of a region or the others.
pub const fn segment_of_generation(generation: usize, first: bool) -> usize {
    if first { SESSIONS + generation } else { SESSIONS + GENERATIONS + 1 }
}

pub fn one(number: usize) -> Set {
    1 << number
}

pub fn has(set: Set, number: usize) -> bool {
    set & one(number) != 0
}

pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |number| has(set, *number))
}

/// The highest state of a session, and its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub put: bool,
    pub ended: bool,
    pub observed: u8,
    pub needs: Set,
    pub adopts: Set,
    /// Snapshots whose chunks it relies on without looking each up.
    pub bases: Set,
}

pub const CONDEMN: u8 = 1;
pub const FENCE: u8 = 2;
pub const FINAL: u8 = 4;

/// One generation of the log; `there` says which of its objects are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    pub there: u8,
    pub condemned: Set,
    /// Sessions and snapshots that the fence names.
    pub named: Set,
    pub forgotten: Set,
    /// The final.
    pub deleted: Set,
    pub fenced: Set,
    pub collected: Set,
}

impl Generation {
    pub fn is(&self, object: u8) -> bool {
        self.there & object != 0
    }

    /// Condemned, and the final isn't there.
    pub fn is_open(&self) -> bool {
        self.is(CONDEMN) && !self.is(FINAL)
    }
}

/// The verdicts on one snapshot at the highest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdicts {
    pub number: u8,
    pub forget: bool,
    pub keep: bool,
}

impl Verdicts {
    pub fn put(&mut self, number: u8, forget: bool) {
        if number > self.number {
            *self = Verdicts { number, forget: false, keep: false };
        }
        if number == self.number {
            self.forget |= forget;
            self.keep |= !forget;
        }
    }

    /// Whether these keep what the others, above them, forget.
    pub fn keeps_apart(&self, above: Verdicts) -> bool {
        self.keep && above.number > self.number && !above.keep
    }

    /// The union of two regions' verdicts.
    pub fn merge(&mut self, other: Verdicts) {
        if other.number > self.number {
            *self = other;
        } else if other.number == self.number {
            self.forget |= other.forget;
            self.keep |= other.keep;
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    /// The chunks of each pack, once it was put; kept after its deletion.
    pub chunks: [Set; PACKS],
    pub packs: Set,
    pub segments: u16,
    pub lists: [Set; SEGMENTS],
    pub supersedes: [u16; SEGMENTS],
    pub sessions: [Session; SESSIONS],
    pub commits: Set,
    pub snapshots: Set,
    pub verdicts: [Verdicts; SNAPSHOTS],
    pub log: [Generation; GENERATIONS],
    /// Deletes that were sent: each lands at any later moment, any number of times.
    pub deletes: Set,
    pub segment_deletes: u16,
}

impl Region {
    pub fn generation(&self, n: usize) -> &Generation {
        &self.log[n - 1]
    }

    pub fn generation_mut(&mut self, n: usize) -> &mut Generation {
        &mut self.log[n - 1]
    }

    /// The number of the newest generation, 0 for none.
    pub fn newest(&self) -> usize {
        (0..GENERATIONS).rev().find(|at| self.log[*at].there != 0).map_or(0, |at| at + 1)
    }

    /// Packs that generations without a final condemn.
    pub fn condemned(&self) -> Set {
        self.log.iter().filter(|generation| generation.is_open()).fold(0, |set, generation| set | generation.condemned)
    }

    /// Packs that finals list as deleted.
    pub fn dead(&self) -> Set {
        self.log.iter().fold(0, |set, generation| set | generation.deleted)
    }

    pub fn fenced(&self) -> Set {
        self.log.iter().fold(0, |set, generation| set | generation.fenced)
    }

    pub fn collected(&self) -> Set {
        self.log.iter().fold(0, |set, generation| set | generation.collected)
    }

    /// Sessions that a fence without a final names.
    pub fn in_doubt(&self) -> Set {
        self.log.iter().filter(|g| g.is(FENCE) && !g.is(FINAL)).fold(0, |set, generation| set | generation.named)
    }

    /// Whether a fence or a final names the session.
    pub fn names(&self, session: usize) -> bool {
        has(self.in_doubt() | self.fenced(), session)
    }

    /// Packs that a segment lists which no present one supersedes.
    pub fn listed(&self) -> Set {
        listed(self.segments, &self.lists, &self.supersedes)
    }

    pub fn holding(&self, chunk: usize) -> Set {
        (0..PACKS).filter(|pack| has(self.chunks[*pack], chunk)).fold(0, |set, pack| set | one(pack))
    }

    /// Snapshots whose effective verdict is forget. `ties_keep` off: the one listed last decides, at worst the forget.
    pub fn forgotten(&self, ties_keep: bool) -> Set {
        (0..SNAPSHOTS)
            .filter(|at| self.verdicts[*at].forget && !(ties_keep && self.verdicts[*at].keep))
            .fold(0, |set, at| set | one(at))
    }
}

pub fn listed(segments: u16, lists: &[Set; SEGMENTS], supersedes: &[u16; SEGMENTS]) -> Set {
    let present = |at: &usize| segments & (1 << at) != 0;
    let superseded = (0..SEGMENTS).filter(present).fold(0, |set, at| set | supersedes[at]);
    (0..SEGMENTS).filter(present).filter(|at| superseded & (1 << at) == 0).fold(0, |set, at| set | lists[at])
}

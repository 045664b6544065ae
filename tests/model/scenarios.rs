//! The scenarios that are explored: each small enough to be exhausted, together touching every rule.
//!
//! Chunks are bits. What stood there before is one segment with packs 0…, and snapshots 0….

use crate::scenario::{Condemn, FORMER, JudgePlan, Scenario, WriterPlan};
use crate::store::{Region, Set, Verdicts, one};

const X: Set = 0b01;
const Y: Set = 0b10;
const Z: Set = 0b100;

/// A region with these packs in one segment, and these snapshots committed.
fn region(packs: &[(usize, Set)], snapshots: &[usize]) -> Region {
    let mut region = Region { segments: 1, ..Region::default() };
    for (pack, chunks) in packs {
        region.chunks[*pack] = *chunks;
        region.packs |= one(*pack);
        region.lists[0] |= one(*pack);
    }
    for snapshot in snapshots {
        region.commits |= one(FORMER - snapshot);
        region.snapshots |= one(*snapshot);
    }
    region
}

/// A writer wants x and y; pack 0 holds x and nothing reaches it. Two generations.
pub fn one_writer() -> Scenario {
    Scenario {
        name: "one writer",
        without: None,
        reaches: [0, X | Y, X | Y],
        regions: [region(&[(0, X)], &[]), Region::default()],
        writers: vec![WriterPlan { region: 0, snapshot: 1, replica: false, base: None }],
        attempts: 2,
        succeeds: false,
        collectors: vec![0],
        generations: 2,
        condemn: Condemn::Marked,
        first_pack: 1,
        foreign: 0,
        moves: None,
        supersede: false,
        late_deletes: true,
        judges: vec![],
        reader: None,
        window: false,
        slow_lists: false,
        put_if_absent: true,
        restarts: false,
        late_fence: false,
        alike: false,
        liveness: false,
    }
}

/// The collector may condemn whatever it likes.
pub fn any_condemned() -> Scenario {
    Scenario { name: "one writer, anything condemned", condemn: Condemn::Any, supersede: true, ..one_writer() }
}

/// The same, with a run to the end from every state.
pub fn quiet() -> Scenario {
    Scenario { name: "one writer, quiet end", supersede: true, liveness: true, ..one_writer() }
}

/// A fenced session's successor goes on with what it relied on.
pub fn succession() -> Scenario {
    Scenario { name: "succession", succeeds: true, supersede: true, ..one_writer() }
}

/// The same with anything condemned, and a third session.
pub fn succession_any() -> Scenario {
    Scenario { name: "succession, anything condemned", condemn: Condemn::Any, late_deletes: false, ..succession() }
}

pub fn two_collectors() -> Scenario {
    Scenario { name: "two collectors", collectors: vec![0, 0], late_deletes: false, ..one_writer() }
}

/// Two collectors, one generation, and all that is late.
pub fn two_collectors_late() -> Scenario {
    Scenario { name: "two collectors, late deletes", late_deletes: true, generations: 1, ..two_collectors() }
}

/// Two writers may use each other's packs.
pub fn two_writers() -> Scenario {
    let mut scenario = Scenario { name: "two writers", generations: 1, alike: true, ..one_writer() };
    scenario.writers.push(WriterPlan { region: 0, snapshot: 2, replica: false, base: None });
    scenario
}

pub fn two_writers_two_generations() -> Scenario {
    Scenario { name: "two writers, two generations", generations: 2, attempts: 1, late_deletes: false, ..two_writers() }
}

/// Two writers who have no chunk in common.
pub fn two_writers_apart() -> Scenario {
    Scenario { name: "two writers apart", reaches: [0, Y, Z], attempts: 1, alike: false, ..two_writers() }
}

/// Listings take several steps.
pub fn slow_lists() -> Scenario {
    Scenario {
        name: "slow listings",
        attempts: 1,
        alike: false,
        slow_lists: true,
        late_deletes: false,
        ..two_writers()
    }
}

/// Snapshot 0 reaches x in pack 0, y beside it is dead; a writer wants both. A collector may move x out of it.
pub fn moves() -> Scenario {
    Scenario {
        name: "moves",
        reaches: [X, X | Y, 0],
        regions: [region(&[(0, X | Y)], &[0]), Region::default()],
        condemn: Condemn::Any,
        moves: Some(0),
        supersede: true,
        late_deletes: false,
        ..one_writer()
    }
}

/// Moves that end well, with all deletes late and a quiet end.
pub fn moves_marked() -> Scenario {
    Scenario {
        name: "moves, quiet end",
        condemn: Condemn::Marked,
        attempts: 1,
        late_deletes: true,
        liveness: true,
        ..moves()
    }
}

/// Two collectors, one of whom moves and is overtaken.
pub fn moves_overtaken() -> Scenario {
    Scenario {
        name: "moves, two collectors",
        writers: vec![],
        attempts: 1,
        collectors: vec![0, 0],
        condemn: Condemn::Any,
        slow_lists: true,
        ..moves()
    }
}

/// Snapshot 0 is forgotten and taken back, while a reader lists snapshots. Packs 0 and 1 hold it.
pub fn verdicts() -> Scenario {
    Scenario {
        name: "verdicts",
        reaches: [X | Y, 0, 0],
        regions: [region(&[(0, X), (1, Y)], &[0]), Region::default()],
        first_pack: 2,
        writers: vec![],
        collectors: vec![0, 0],
        condemn: Condemn::Any,
        judges: vec![judge(0, true), judge(0, false)],
        reader: Some(0),
        window: true,
        late_deletes: false,
        ..one_writer()
    }
}

/// It stands forgotten; one forgets it again while another takes it back.
pub fn verdicts_tie() -> Scenario {
    let mut scenario = Scenario { name: "verdicts that tie", collectors: vec![0], ..verdicts() };
    scenario.regions[0].verdicts[0] = Verdicts { number: 1, forget: true, keep: false };
    scenario
}

/// A writer uses the pack of a snapshot that is forgotten meanwhile.
pub fn verdicts_and_writer() -> Scenario {
    Scenario {
        name: "verdicts and a writer",
        reaches: [X, X | Y, 0],
        regions: [region(&[(0, X)], &[0]), Region::default()],
        generations: 1,
        late_deletes: false,
        reader: Some(0),
        judges: vec![judge(0, true), judge(0, false)],
        ..one_writer()
    }
}

/// A writer takes over what snapshot 0 refers to, while it is forgotten.
pub fn base() -> Scenario {
    Scenario {
        name: "base",
        reaches: [X, X | Y, 0],
        regions: [region(&[(0, X)], &[0]), Region::default()],
        writers: vec![WriterPlan { region: 0, snapshot: 1, replica: false, base: Some(0) }],
        generations: 1,
        condemn: Condemn::Any,
        late_deletes: false,
        judges: vec![judge(0, true)],
        window: true,
        ..one_writer()
    }
}

/// The base is forgotten and taken back.
pub fn base_taken_back() -> Scenario {
    Scenario { name: "base, taken back", judges: vec![judge(0, true), judge(0, false)], window: false, ..base() }
}

/// The same over two generations, with what marking condemns.
pub fn base_two_generations() -> Scenario {
    Scenario { name: "base, two generations", generations: 2, attempts: 1, condemn: Condemn::Marked, ..base() }
}

fn judge(region: usize, forget: bool) -> JudgePlan {
    JudgePlan { region, snapshot: 0, forget }
}

/// Region 1 has snapshot 0 in packs 1 and 2; region 0 has x in pack 0, that nothing reaches there.
pub fn replication() -> Scenario {
    Scenario {
        name: "replication",
        reaches: [X | Y, 0, 0],
        regions: [region(&[(0, X)], &[]), region(&[(1, X), (2, Y)], &[0])],
        writers: vec![WriterPlan { region: 0, snapshot: 0, replica: true, base: None }],
        first_pack: 3,
        foreign: one(1) | one(2),
        condemn: Condemn::Any,
        late_deletes: false,
        ..one_writer()
    }
}

/// Two replications copy the same pack under the same name.
pub fn two_replications() -> Scenario {
    let replica = WriterPlan { region: 0, snapshot: 0, replica: true, base: None };
    Scenario {
        name: "two replications",
        reaches: [X, 0, 0],
        regions: [Region { segments: 1, ..Region::default() }, region(&[(1, X)], &[0])],
        writers: vec![replica, replica],
        alike: true,
        late_deletes: true,
        generations: 1,
        ..replication()
    }
}

/// A name that is dead here, and its delete late.
pub fn replication_late() -> Scenario {
    Scenario {
        name: "replication, late deletes",
        reaches: [X, 0, 0],
        regions: [Region { segments: 1, ..Region::default() }, region(&[(1, X)], &[0])],
        late_deletes: true,
        ..replication()
    }
}

/// The pack that region 0 lists was lost.
pub fn replication_heals() -> Scenario {
    let mut scenario =
        Scenario { name: "replication over a loss", reaches: [X, 0, 0], collectors: vec![], ..replication() };
    scenario.regions[0].packs = 0;
    scenario
}

/// Snapshot 0 is forgotten in region 1, and counted in both.
pub fn replication_of_verdicts() -> Scenario {
    Scenario {
        name: "replication of verdicts",
        reaches: [X, 0, 0],
        regions: [region(&[(0, X)], &[0]), region(&[(1, X)], &[0])],
        collectors: vec![0, 1],
        generations: 1,
        condemn: Condemn::Marked,
        judges: vec![judge(1, true)],
        ..replication()
    }
}

/// Each region has a snapshot that the other lacks, and collects; region 0 has the other's pack, and nothing reaches it.
pub fn both_directions() -> Scenario {
    Scenario {
        name: "both directions",
        reaches: [X, Y, 0],
        regions: [region(&[(0, X), (1, Y)], &[0]), region(&[(1, Y)], &[1])],
        writers: vec![
            WriterPlan { region: 0, snapshot: 1, replica: true, base: None },
            WriterPlan { region: 1, snapshot: 0, replica: true, base: None },
        ],
        foreign: one(0) | one(1),
        attempts: 1,
        collectors: vec![0, 1],
        generations: 1,
        condemn: Condemn::Marked,
        ..replication()
    }
}

/// The snapshot that a replication brings is forgotten and taken back where it brings it.
pub fn replication_and_verdicts() -> Scenario {
    Scenario {
        name: "replication and verdicts",
        reaches: [X, 0, 0],
        regions: [region(&[(0, X)], &[0]), region(&[(1, X)], &[0])],
        generations: 2,
        judges: vec![judge(0, true), judge(0, false)],
        attempts: 1,
        ..replication()
    }
}

/// Snapshot 0 was forgotten, more often in region 1; it is taken back in region 0, and forgotten once more in region 1,
/// each without the other, while both are replicated from.
pub fn verdicts_apart() -> Scenario {
    let mut scenario = Scenario {
        name: "verdicts apart",
        reaches: [X, 0, 0],
        regions: [region(&[(0, X)], &[0]), region(&[(1, X)], &[0])],
        writers: vec![
            WriterPlan { region: 0, snapshot: 0, replica: true, base: None },
            WriterPlan { region: 1, snapshot: 0, replica: true, base: None },
        ],
        attempts: 1,
        collectors: vec![0],
        generations: 1,
        condemn: Condemn::Marked,
        judges: vec![judge(0, false), judge(1, true)],
        ..replication()
    };
    for (region, number) in scenario.regions.iter_mut().zip(1..) {
        region.verdicts[0] = Verdicts { number, forget: true, keep: false };
    }
    scenario
}

/// No put-if-absent: one host collects, and its process dies at any moment.
pub fn designated_host() -> Scenario {
    Scenario { name: "designated host", put_if_absent: false, restarts: true, ..one_writer() }
}

/// A collector gives a fence up, and it lands later.
pub fn late_fence() -> Scenario {
    Scenario { name: "late fence", restarts: true, late_fence: true, ..one_writer() }
}

// What the small bound leaves out.

pub fn large_writers() -> Vec<Scenario> {
    let late = Scenario { name: "two writers, late deletes", generations: 2, attempts: 1, ..two_writers() };
    let races = Scenario {
        name: "two writers, two collectors",
        collectors: vec![0, 0],
        attempts: 1,
        late_deletes: false,
        ..two_writers()
    };
    let slow = Scenario { name: "slow listings, two attempts", attempts: 2, ..slow_lists() };
    let any = Scenario {
        name: "two writers, anything condemned",
        condemn: Condemn::Any,
        attempts: 1,
        late_deletes: false,
        ..two_writers()
    };
    vec![late, races, slow, any]
}

pub fn large_collectors() -> Vec<Scenario> {
    let generations = Scenario { name: "three generations", generations: 3, supersede: true, ..one_writer() };
    let late =
        Scenario { name: "two collectors, two generations, late deletes", late_deletes: true, ..two_collectors() };
    let supersede = Scenario { name: "two collectors, superseding", supersede: true, attempts: 1, ..two_collectors() };
    vec![generations, late, supersede]
}

pub fn large_moves() -> Vec<Scenario> {
    let late = Scenario { name: "moves, late deletes", late_deletes: true, ..moves() };
    let races = Scenario {
        name: "moves, two collectors and a writer",
        collectors: vec![0, 0],
        attempts: 1,
        generations: 1,
        ..moves()
    };
    vec![late, races]
}

pub fn large_verdicts() -> Vec<Scenario> {
    let name = "verdicts and a writer, two generations, anything condemned";
    vec![Scenario { name, generations: 2, attempts: 1, condemn: Condemn::Any, ..verdicts_and_writer() }]
}

pub fn large_successors_and_bases() -> Vec<Scenario> {
    let races = Scenario {
        name: "succession, two collectors",
        collectors: vec![0, 0],
        generations: 1,
        late_deletes: false,
        ..succession()
    };
    let three = Scenario {
        name: "succession, three sessions, three generations",
        attempts: 3,
        generations: 3,
        late_deletes: false,
        ..succession()
    };
    let base_twice = Scenario { name: "base, two generations, anything condemned", generations: 2, ..base() };
    let base_races = Scenario { name: "base, two collectors", collectors: vec![0, 0], attempts: 1, ..base() };
    vec![races, three, base_twice, base_races]
}

pub fn large_regions() -> Vec<Scenario> {
    let late = Scenario { name: "replication, late deletes of all", late_deletes: true, ..replication() };
    let twice =
        Scenario { name: "two replications, two generations", generations: 2, attempts: 1, ..two_replications() };
    let forgotten =
        Scenario { name: "both directions, one forgotten", judges: vec![judge(0, true)], ..both_directions() };
    let verdicts =
        Scenario { name: "replication and verdicts, two sessions", attempts: 2, ..replication_and_verdicts() };
    vec![late, twice, forgotten, verdicts]
}

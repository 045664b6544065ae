//! The index on disk: what survives, what is made anew.

use super::*;
use crate::format::ids::{ChunkKind, SectionId, SessionId, SlotId};
use crate::format::segment::{SegmentChunk, SegmentFrame, SegmentPack};
use std::io::{Seek, Write};

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
const REGIONS: [RegionId; 2] = [RegionId([2; 16]), RegionId([3; 16])];

fn segment(number: u32, chunks: u32) -> (SegmentId, Segment) {
    let id =
        |kind: u8, at: u32| *blake3::hash(&[&[kind][..], &number.to_le_bytes(), &at.to_le_bytes()].concat()).as_bytes();
    let chunk = |at| SegmentChunk { id: ChunkId(id(0, at)), kind: ChunkKind::Data, length: 10, references: Vec::new() };
    let pack = SegmentPack {
        pack: PackId(id(1, 0)),
        size: 1 << 20,
        session: SessionId([4; 16]),
        origin: SlotId([5; 16]),
        metadata: false,
        sections: vec![SectionId([6; 16])],
        frames: vec![SegmentFrame {
            section: 0,
            number: 0,
            sealed_length: 99,
            chunks: (0..chunks).map(chunk).collect(),
        }],
    };
    (SegmentId(id(2, 0)), Segment { supersedes: Vec::new(), packs: vec![pack] })
}

fn known(index: &dyn Index, region: RegionId) -> HashSet<SegmentId> {
    index.segments(region).expect("read").into_keys().collect()
}

fn all_found(index: &dyn Index, segment: &Segment) -> bool {
    let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
    let places = index.places(&ids).expect("readable");
    let pack = segment.packs[0].pack;
    places.iter().enumerate().all(|(at, places)| {
        places.len() == 1 && places[0].offset == 10 * at as u32 && index.pack(places[0].pack).expect("there").id == pack
    })
}

/// Whoever backs up every hour for years opens few files all the same.
#[test]
fn files_of_many_small_changes_are_joined() {
    let directory = tempfile::tempdir().expect("a directory");
    let segments: Vec<_> = (0..150).map(|number| segment(number, 5)).collect();
    for (id, segment) in &segments {
        let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
        index.ingest(*id, 100, segment, &REGIONS[..1]).expect("ingested");
    }
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    assert!(segments.iter().all(|(_, segment)| all_found(&index, segment)));
    let files = std::fs::read_dir(directory.path()).expect("listed").map(|entry| entry.expect("listed").path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).count();
    assert!(tables < FAMILIES.len() * (SMALL_FILES_MAX + 2), "{tables} files");
}

#[test]
fn segments_are_found_again_after_closing_and_know_their_regions() {
    let directory = tempfile::tempdir().expect("a directory");
    let segments: Vec<_> = (0..12).map(|number| segment(number, 500)).collect();
    {
        let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
        for (id, segment) in &segments {
            index.ingest(*id, 100, segment, &REGIONS[..1]).expect("ingested");
        }
        index.ingest(segments[0].0, 100, &segments[0].1, &REGIONS[1..]).expect("ingested");
        index.ingest(segments[0].0, 100, &segments[0].1, &REGIONS[1..]).expect("twice is no error");
    }
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    assert!(segments.iter().all(|(_, segment)| all_found(&index, segment)));
    assert_eq!((index.pack_count(), index.chunk_count()), (12, 6000));
    assert_eq!(index.segments(REGIONS[0]).expect("read").len(), 12);
    assert_eq!(known(&index, REGIONS[1]), HashSet::from([segments[0].0]));
    let ordinals = index.ordinals(&segments[0].1.packs[0].pack).expect("read");
    assert_eq!(ordinals.len(), 1);
    assert_eq!(index.pack(ordinals[0]).expect("there").regions, REGIONS);
    assert_eq!(index.places(&[ChunkId([9; 32])]).expect("read"), vec![Vec::new()]);
}

#[test]
fn what_two_segments_state_of_one_pack_stands_side_by_side() {
    let directory = tempfile::tempdir().expect("a directory");
    let on_disk = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    let in_memory = super::super::MemoryIndex::new();
    let (first, listed) = segment(0, 3);
    let mut lie = listed.clone();
    lie.packs[0].frames[0].chunks[1].id = ChunkId([9; 32]);
    let mut claimed = listed.clone();
    claimed.packs[0].origin = SlotId([8; 16]);
    for index in [&on_disk as &dyn Index, &in_memory] {
        // The lies come first, as whoever makes them can see to.
        index.ingest(SegmentId([1; 32]), 100, &lie, &REGIONS[..1]).expect("ingested");
        index.ingest(SegmentId([2; 32]), 100, &claimed, &REGIONS[..1]).expect("ingested");
        index.ingest(first, 100, &listed, &REGIONS).expect("ingested");
        index.ingest(SegmentId([3; 32]), 100, &listed, &REGIONS).expect("ingested again");
        let ordinals = index.ordinals(&listed.packs[0].pack).expect("read");
        assert_eq!(ordinals, [0, 1, 2]);
        assert_eq!(index.pack(2).expect("there").regions, REGIONS);
        assert_eq!(index.pack(0).expect("there").regions, REGIONS[..1]);
        let places = index.places(&[listed.packs[0].frames[0].chunks[1].id]).expect("read");
        assert_eq!(places[0].iter().map(|place| place.pack).collect::<Vec<_>>(), [1, 2]);
    }
}

#[test]
fn segments_taken_in_together_are_as_taken_in_one_by_one() {
    let (directory, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (first, second) = (segment(0, 300), segment(1, 6000));
    let mut lie = first.1.clone();
    lie.packs[0].frames[0].chunks[1].id = second.1.packs[0].frames[0].chunks[7].id;
    let arrival = |id: SegmentId, segment: &Segment, regions: &[RegionId]| Arrival {
        id,
        size: 100,
        segment: segment.clone(),
        regions: regions.to_vec(),
    };
    let arrivals = [
        arrival(first.0, &first.1, &REGIONS[..1]),
        arrival(SegmentId([1; 32]), &lie, &[]),
        arrival(second.0, &second.1, &REGIONS),
        arrival(SegmentId([2; 32]), &together(&[&second.1, &first.1]), &REGIONS[1..]),
        arrival(SegmentId([1; 32]), &lie, &REGIONS[1..]),
    ];
    // One after another in memory and on disk, all together, and together after a part of them.
    let [one_by_one, in_memory] = of_each_kind(directory.path());
    for arrival in &arrivals {
        one_by_one.ingest(arrival.id, 100, &arrival.segment, &arrival.regions).expect("ingested");
    }
    in_memory.ingest_all(&arrivals).expect("ingested");
    let [at_once, _] = of_each_kind(other.path());
    let asked: Vec<ChunkId> = [chunks(&first.1), chunks(&lie), chunks(&second.1)].concat();
    for from in [0, 2] {
        at_once.clear().expect("emptied");
        at_once.ingest_all(&arrivals[..from]).expect("ingested");
        at_once.ingest_all(&arrivals[from..]).expect("ingested");
        for index in [&one_by_one, &in_memory] {
            assert_eq!(at_once.places(&asked).expect("read"), index.places(&asked).expect("read"));
            assert_eq!((at_once.pack_count(), at_once.unlisted_count()), (index.pack_count(), index.unlisted_count()));
            assert_eq!(at_once.chunk_totals().expect("read"), index.chunk_totals().expect("read"));
            for pack in 0..at_once.pack_count() {
                assert_eq!(*at_once.pack(pack).expect("there"), *index.pack(pack).expect("there"));
            }
            for region in REGIONS {
                assert_eq!(at_once.segments(region).expect("read"), index.segments(region).expect("read"));
            }
        }
    }
    assert_eq!(at_once.pack_count(), 3);
}

/// An index of each kind, to be asked the same.
fn of_each_kind(directory: &Path) -> [Box<dyn Index>; 2] {
    let on_disk = RocksIndex::open(directory, REPOSITORY, 1 << 20).expect("opened");
    [Box::new(on_disk), Box::new(super::super::MemoryIndex::new())]
}

/// One segment of the packs of several.
fn together(parts: &[&Segment]) -> Segment {
    Segment { supersedes: Vec::new(), packs: parts.iter().flat_map(|part| part.packs.clone()).collect() }
}

fn chunks(segment: &Segment) -> Vec<ChunkId> {
    segment.chunks().map(|chunk| chunk.id).collect()
}

fn set<T: Copy + Eq + std::hash::Hash>(of: &[T]) -> HashSet<T> {
    of.iter().copied().collect()
}

fn regions_of(index: &dyn Index, segment: &Segment) -> Vec<Vec<RegionId>> {
    let of_pack = |pack: &SegmentPack| {
        let ordinals = index.ordinals(&pack.pack).expect("read");
        ordinals.iter().map(|ordinal| index.pack(*ordinal).expect("there").regions.clone()).collect::<Vec<_>>()
    };
    segment.packs.iter().flat_map(of_pack).collect()
}

#[test]
fn what_a_region_lost_is_taken_out_where_finals_or_other_segments_explain_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let ((first, a), (second, b), (third, c)) = (segment(0, 3), segment(1, 4), segment(2, 5));
    let (id_a, id_b) = (a.packs[0].pack, b.packs[0].pack);
    let [here, there] = REGIONS;
    let none = HashSet::new();
    for index in of_each_kind(directory.path()) {
        let index = &*index;
        let incarnation = index.incarnation();
        index.ingest(first, 100, &together(&[&a, &b]), &[here, there]).expect("ingested");
        index.ingest(third, 100, &c, &[here]).expect("ingested");
        assert_eq!(index.regions().expect("read"), BTreeSet::from(REGIONS));
        // Gone, and neither pack is dead or listed: nothing is changed, however much of it is explained.
        for dead in [&[][..], &[id_a], &[id_b], &[c.packs[0].pack]] {
            let outcome = index.detach(here, &set(&[first]), &set(dead), &HashSet::new()).expect("read");
            assert!(matches!(outcome, Detached::Unexplained(pack) if !dead.contains(&pack)), "{outcome:?}");
            assert_eq!(regions_of(index, &together(&[&a, &b])), [REGIONS, REGIONS]);
            assert_eq!(known(index, here), set(&[first, third]));
        }
        // What another segment states otherwise of the pack explains nothing.
        let mut lie = b.clone();
        lie.packs[0].frames[0].chunks[1].id = ChunkId([9; 32]);
        index.ingest(SegmentId([77; 32]), 100, &lie, &[here]).expect("ingested");
        let outcome = index.detach(here, &set(&[first]), &set(&[id_a]), &HashSet::new()).expect("read");
        assert_eq!(outcome, Detached::Unexplained(id_b));
        // Nor does one of another region.
        index.ingest(second, 100, &b, &[there]).expect("ingested");
        let outcome = index.detach(here, &set(&[first]), &set(&[id_a]), &HashSet::new()).expect("read");
        assert_eq!(outcome, Detached::Unexplained(id_b));
        index.ingest(second, 100, &b, &[here]).expect("ingested");
        let outcome = index.detach(here, &set(&[first]), &set(&[id_a]), &HashSet::new()).expect("written");
        assert_eq!(outcome, Detached::Taken(1));
        assert_eq!(known(index, here), set(&[second, third, SegmentId([77; 32])]));
        assert_eq!(known(index, there), set(&[first, second]));
        assert_eq!(regions_of(index, &a), [[there]]);
        assert_eq!(index.unlisted_count(), 0);
        assert!(all_found(index, &a) && all_found(index, &c), "it is in the other region");
        // Dead there too, though a segment lists it still.
        assert_eq!(index.detach(there, &none, &set(&[id_a]), &HashSet::new()).expect("written"), Detached::Taken(1));
        assert_eq!(index.detach(there, &none, &set(&[id_a]), &HashSet::new()).expect("read"), Detached::Taken(0));
        assert_eq!((index.unlisted_count(), index.pack_count()), (1, 4));
        assert!(index.places(&chunks(&a)).expect("read").iter().all(Vec::is_empty));
        // The lie has one chunk of its own.
        assert_eq!((index.chunk_count(), index.chunk_totals().expect("read")), (13, (10, 100)));
        assert_eq!(index.incarnation(), incarnation);
    }
    // And so it is after closing.
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    assert_eq!(index.unlisted_count(), 1);
    assert!(index.places(&chunks(&a)).expect("read").iter().all(Vec::is_empty) && all_found(&index, &c));
}

/// COLLECT-19: a collection takes away what is false, and what others state likewise.
#[test]
fn what_was_false_or_is_stated_by_another_origin_is_no_loss() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, a) = segment(0, 3);
    let mut lie = a.clone();
    lie.packs[0].frames[0].chunks[1].id = ChunkId([9; 32]);
    let mut same = a.clone();
    same.packs[0].origin = SlotId([99; 16]);
    let (lying, other) = (SegmentId([77; 32]), SegmentId([78; 32]));
    let here = REGIONS[0];
    let none = HashSet::new();
    let (truth, lied) = (listings(&a)[0], listings(&lie)[0]);
    for index in of_each_kind(directory.path()) {
        let index = &*index;
        for (id, segment) in [(first, &a), (lying, &lie), (other, &same)] {
            index.ingest(id, 100, segment, &[here]).expect("ingested");
        }
        let incarnation = index.incarnation();
        // Nobody says which one is false, or it was said of both.
        for (gone, attested) in [(lying, &[][..]), (lying, &[lied]), (lying, &[truth, lied]), (other, &[])] {
            let outcome = index.detach(here, &set(&[gone]), &none, &set(attested)).expect("read");
            assert_eq!(outcome, Detached::Unexplained(a.packs[0].pack), "{attested:?}");
        }
        assert_eq!(known(index, here), set(&[first, lying, other]));
        // The same facts stand with another origin, and what was remembered by them holds.
        let outcome = index.detach(here, &set(&[other]), &none, &set(&[truth])).expect("written");
        assert_eq!(outcome, Detached::Taken(1));
        assert_eq!(index.incarnation(), incarnation);
        // What was attested of it must be there.
        let both = set(&[first, lying]);
        let outcome = index.detach(here, &both, &none, &set(&[truth])).expect("read");
        assert_eq!(outcome, Detached::Unexplained(a.packs[0].pack));
        assert_eq!(index.detach(here, &set(&[lying]), &none, &set(&[truth])).expect("written"), Detached::Taken(1));
        assert_ne!(index.incarnation(), incarnation, "nothing may be remembered by what was false");
        assert!(all_found(index, &a));
        assert_eq!(index.places(&[ChunkId([9; 32])]).expect("read"), [vec![]]);
        assert_eq!(known(index, here), set(&[first]));
    }
}

#[test]
fn a_pack_without_a_region_may_get_one_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let ((first, a), (second, b)) = (segment(0, 3), segment(1, 4));
    for index in of_each_kind(directory.path()) {
        index.ingest(first, 100, &a, &REGIONS[..1]).expect("ingested");
        let dead = set(&[a.packs[0].pack]);
        assert_eq!(
            index.detach(REGIONS[0], &set(&[first]), &dead, &HashSet::new()).expect("written"),
            Detached::Taken(1)
        );
        assert_eq!(index.unlisted_count(), 1);
        // A chunk that comes again in another pack is found there, and in the first one only once that counts.
        let mut moved = b.clone();
        moved.packs[0].frames[0].chunks = a.packs[0].frames[0].chunks.clone();
        index.ingest(second, 100, &moved, &REGIONS[..1]).expect("ingested");
        assert!(all_found(&*index, &moved));
        assert_eq!(index.chunk_totals().expect("read"), (3, 30));
        index.ingest(first, 100, &a, &REGIONS[1..]).expect("ingested");
        assert_eq!(index.unlisted_count(), 0);
        let places = index.places(&chunks(&a)).expect("read");
        assert!(places.iter().all(|places| places.iter().map(|place| place.pack).eq([0, 1])), "{places:?}");
    }
}

#[test]
fn an_incarnation_changes_when_the_index_is_emptied_and_can_be_taken_up_again() {
    let directory = tempfile::tempdir().expect("a directory");
    for index in of_each_kind(directory.path()) {
        let before = index.incarnation();
        index.clear().expect("cleared");
        assert_ne!(index.incarnation(), before);
        index.resume(&before).expect("written");
        assert_eq!(index.incarnation(), before);
    }
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    let before = index.incarnation();
    // As one that doesn't know of the lock.
    std::fs::remove_file(directory.path().join(USERS_FILE)).expect("removed");
    RocksIndex::create(directory.path(), REPOSITORY, 1 << 20).expect("made anew");
    // What was emptied by somebody else can't be vouched for.
    assert!(index.resume(&before).is_err());
}

#[test]
fn what_another_process_took_out_stays_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    let (first, a) = segment(0, 3);
    index.ingest(first, 100, &a, &REGIONS).expect("ingested");
    assert_eq!(index.pack(0).expect("there").regions, REGIONS);
    let other = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    other.detach(REGIONS[0], &HashSet::new(), &set(&[a.packs[0].pack]), &HashSet::new()).expect("written");
    index.ingest(first, 100, &a, &REGIONS[1..]).expect("ingested again");
    assert_eq!(index.pack(0).expect("there").regions, REGIONS[1..]);
}

#[test]
fn readers_go_on_while_segments_are_ingested() {
    let directory = tempfile::tempdir().expect("a directory");
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    let (id, first) = segment(0, 100);
    index.ingest(id, 100, &first, &REGIONS).expect("ingested");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (0..2000).all(|_| all_found(&index, &first)));
        for number in 1..12 {
            let (id, next) = segment(number, 100);
            index.ingest(id, 100, &next, &REGIONS).expect("ingested");
        }
        assert!(reader.join().expect("no panic"));
    });
}

#[test]
fn another_repository_or_an_unfinished_ingest_makes_it_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let (id, listed) = segment(1, 10);
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    index.ingest(id, 100, &listed, &REGIONS).expect("ingested");
    drop(index);
    std::fs::write(directory.path().join(INGEST_MARKER), b"").expect("written");
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    assert_eq!(index.chunk_count(), 0);
    index.ingest(id, 100, &listed, &REGIONS).expect("ingested");
    drop(index);
    let index = RocksIndex::open(directory.path(), RepositoryId([9; 16]), 1 << 20).expect("opened");
    assert_eq!((index.chunk_count(), index.segments(REGIONS[0]).expect("read").len()), (0, 0));
}

#[test]
fn an_index_made_anew_by_another_process_is_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let index = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    std::fs::remove_file(directory.path().join(USERS_FILE)).expect("removed");
    RocksIndex::create(directory.path(), REPOSITORY, 1 << 20).expect("made anew");
    let (id, listed) = segment(1, 10);
    assert!(matches!(index.ingest(id, 100, &listed, &REGIONS), Err(IndexError::Remade { .. })));
}

#[test]
fn an_index_that_somebody_relies_on_is_not_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
    let (index, other) = (open(), open());
    let (id, listed) = segment(1, 10);
    assert!(matches!(other.clear(), Err(IndexError::Busy { .. })));
    let created = RocksIndex::create(directory.path(), REPOSITORY, 1 << 20);
    assert!(matches!(created, Err(IndexError::Busy { .. })));
    index.ingest(id, 100, &listed, &REGIONS).expect("ingested");
    drop(index);
    // Who was refused relies on it still.
    assert!(matches!(RocksIndex::create(directory.path(), REPOSITORY, 1 << 20), Err(IndexError::Busy { .. })));
    assert!(all_found(&open(), &listed));
    other.clear().expect("cleared");
    assert_eq!(other.chunk_count(), 0);
}

#[test]
fn damage_anywhere_gives_an_error_or_a_new_index_but_no_wrong_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let (id, listed) = segment(1, 2000);
    RocksIndex::open(directory.path(), REPOSITORY, 1 << 20)
        .expect("opened")
        .ingest(id, 100, &listed, &REGIONS)
        .expect("ingested");
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).expect("listed").map(|e| e.expect("entry").path()).collect();
    for name in names {
        let whole = std::fs::read(&name).expect("read");
        let mut file = std::fs::OpenOptions::new().write(true).open(&name).expect("opened");
        file.seek(std::io::SeekFrom::Start(whole.len() as u64 / 2)).expect("sought");
        file.write_all(&[0xa5; 64]).expect("written");
        drop(file);
        // A new index or an error are both right; finding chunks elsewhere is not.
        if let Ok(index) = RocksIndex::open(directory.path(), REPOSITORY, 1 << 20) {
            let ids: Vec<ChunkId> = listed.chunks().map(|chunk| chunk.id).collect();
            if let Ok(places) = index.places(&ids) {
                assert!(places.iter().all(Vec::is_empty) || all_found(&index, &listed), "{}", name.display());
            }
            index.clear().expect("cleared");
            index.ingest(id, 100, &listed, &REGIONS).expect("ingested again");
            assert!(all_found(&index, &listed));
        }
    }
}

#[test]
fn damage_that_shows_late_has_the_next_run_make_it_anew() {
    let made = tempfile::tempdir().expect("a directory");
    let (id, listed) = segment(1, 2000);
    let ids: Vec<ChunkId> = listed.chunks().map(|chunk| chunk.id).collect();
    let index = RocksIndex::open(made.path(), REPOSITORY, 1 << 20).expect("opened");
    index.ingest(id, 100, &listed, &REGIONS).expect("ingested");
    drop(index);
    let files = || std::fs::read_dir(made.path()).expect("listed").map(|entry| entry.expect("entry").path());
    let mut met = 0;
    for damaged in files().filter(|path| path.extension().is_some_and(|extension| extension == "sst")) {
        let length = std::fs::metadata(&damaged).expect("there").len() as usize;
        for at in [10, length / 3, length / 2] {
            let directory = tempfile::tempdir().expect("a directory");
            for file in files() {
                let mut bytes = std::fs::read(&file).expect("read");
                if file == damaged {
                    bytes[at] ^= 0x55;
                }
                std::fs::write(directory.path().join(file.file_name().expect("a name")), bytes).expect("written");
            }
            let open = || RocksIndex::open(directory.path(), REPOSITORY, 1 << 20).expect("opened");
            let index = open();
            if index.chunk_count() == 0 {
                // It was met while the index was opened.
                continue;
            }
            let read = [
                index.places(&ids).map(drop),
                ids.iter().try_for_each(|id| index.places(&[*id]).map(drop)),
                index.pack(0).map(drop),
                index.ordinals(&listed.packs[0].pack).map(drop),
                index.segments(REGIONS[0]).map(drop),
                index.each_pack(&mut |_, _| Ok(())),
                index.detach(REGIONS[0], &HashSet::from([id]), &HashSet::new(), &HashSet::new()).map(drop),
            ];
            let errors: Vec<IndexError> = read.into_iter().filter_map(Result::err).collect();
            assert!(errors.iter().all(|error| matches!(error, IndexError::Damaged { .. })), "{errors:?}");
            drop(index);
            if errors.is_empty() {
                assert!(all_found(&open(), &listed), "nothing of it was read");
                continue;
            }
            met += 1;
            assert!(matches!(
                RocksIndex::inspect(directory.path(), REPOSITORY, 1 << 20),
                Err(IndexError::Damaged { .. })
            ));
            let anew = open();
            assert_eq!((anew.chunk_count(), anew.pack_count()), (0, 0), "{}", damaged.display());
            anew.ingest(id, 100, &listed, &REGIONS).expect("ingested again");
            drop(anew);
            assert!(all_found(&open(), &listed), "it is made anew once");
        }
    }
    assert!(met >= 4, "{met} damages were met late");
}

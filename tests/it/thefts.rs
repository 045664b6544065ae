//! What a thief of the storage, of a writer's key or of a maintainer's key tries, and how it is refused.
//! `format-spec/threat-model.md` says what each of them can and can't do.

use crate::fixture::{World, noise, options, write};
use crate::program::Program;
use keepstone::backup::{Backup, DedupTrust};
use keepstone::check::{CheckReport, Options, Subset, check};
use keepstone::crypto::object::{Signer, build_sealed, build_signed};
use keepstone::crypto::slot::{Unlock, Wrapping, unwrap, wrap};
use keepstone::env::SystemRandom;
use keepstone::format::attestation::Attestation;
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{ChunkId, ChunkKind, Digest, PackId, SegmentId, SlotId, SnapshotId, number_name};
use keepstone::format::roster::{Role, Roster};
use keepstone::format::segment::{Reference, Segment, SegmentPack};
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::index::segment::{seal, segment_name};
use keepstone::index::{Index, MemoryIndex};
use keepstone::repo::accepted::Acceptance;
use keepstone::repo::snapshots::{list, read_snapshot};
use keepstone::repo::sync::{list_segments, read_segment, sync};
use keepstone::repo::{Located, RegionSpec, Repository, attest, gclog};
use keepstone::report::Silent;
use keepstone::store::faults::{Fault, Operation, Trigger};
use keepstone::store::local::LocalStore;
use keepstone::store::memory::MemoryStore;
use keepstone::store::{Store, StoreErrorKind, list_sorted};
use std::sync::Arc;
use tempfile::TempDir;

/// An owner's snapshot, and a writer whose key was stolen.
struct Scene {
    world: World,
    source: TempDir,
    saved: SnapshotId,
    thief: World,
    slot: SlotId,
}

impl Scene {
    fn new(role: Role) -> Scene {
        let world = World::new(1);
        let source = tempfile::tempdir().unwrap();
        write(source.path(), "a", &noise(1, 150_000));
        write(source.path(), "b/c", &noise(2, 20_000));
        let saved = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
        let (slot, identity) = world.add_slot(role, "stolen");
        let thief = world.as_slot(&identity);
        Scene { world, source, saved, thief, slot }
    }

    fn store(&self) -> &MemoryStore {
        &self.world.stores[0].inner().memory
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        self.store().put_new(name, &bytes.into()).unwrap();
    }

    fn owner(&self) -> Repository {
        self.world.open(&[0]).unwrap()
    }

    fn stolen(&self) -> Repository {
        self.thief.open(&[0]).unwrap()
    }

    /// Puts a segment that the thief signs, under an id that comes before all others': whoever makes an index
    /// reads it first.
    fn put_segment(&self, segment: &Segment) -> SegmentId {
        let stolen = self.stolen();
        let known = list_segments(&stolen.regions[0]).unwrap();
        let (bytes, id) = loop {
            let made = seal(segment, &stolen.keyring, &stolen.signer(), &SystemRandom).unwrap();
            if known.keys().all(|other| made.1 < *other) {
                break made;
            }
        };
        self.put(&segment_name(&id), bytes);
        id
    }

    /// What the owner's segments list.
    fn listed(&self) -> Vec<SegmentPack> {
        let owner = self.owner();
        let ids = list_segments(&owner.regions[0]).unwrap();
        let open = |id| with_prefixes(read_segment(&owner, &owner.regions[0], id).unwrap().segment);
        ids.into_keys().flat_map(open).collect()
    }

    /// Another host's index, which knows what is listed now.
    fn onlooker(&self) -> MemoryIndex {
        let index = MemoryIndex::new();
        sync(&self.owner(), &index, &Silent).unwrap();
        index
    }

    /// To that host the region didn't lose anything since.
    fn assert_nothing_lost(&self, onlooker: &MemoryIndex) {
        assert_eq!(sync(&self.owner(), onlooker, &Silent).unwrap(), []);
        assert!(onlooker.doubted().unwrap().is_empty());
    }

    fn segment_issue(&self, id: SegmentId) -> String {
        let index = MemoryIndex::new();
        let issues = sync(&self.owner(), &index, &Silent).unwrap();
        let name = segment_name(&id);
        let issue = issues.into_iter().find(|issue| issue.subject.ends_with(name.as_bytes()));
        issue.expect("it is refused").detail
    }

    fn read_data(&self) -> CheckReport {
        let options = Options { read_data: Some(Subset::All), threads: 1, ..Options::default() };
        check(&self.owner(), None, &options, &Silent).unwrap()
    }

    /// The owner's snapshot counts and restores, whatever was done.
    fn assert_whole(&self) {
        assert!(self.world.list(&[0]).snapshots.iter().any(|info| info.id == self.saved));
        let owner = self.owner();
        let index = MemoryIndex::new();
        sync(&owner, &index, &Silent).unwrap();
        let (snapshot, _) = read_snapshot(&owner, &owner.regions[0], self.saved).unwrap();
        let fetcher = keepstone::repo::fetch::Fetcher::new(&owner, &index, &Silent, 1 << 20);
        for threads in [0, 2] {
            let to = tempfile::tempdir().unwrap();
            let to = to.path().join("t");
            let target = keepstone::restore::target::Target::open(&to, crate::fixture::quick_target()).unwrap();
            let wanted = keepstone::restore::Restore { threads, verify: true, ..Default::default() };
            let summary =
                keepstone::restore::restore(&fetcher, snapshot.root, &target, &wanted, &Silent, (0, 0)).unwrap();
            assert_eq!(summary.issues, []);
            for name in ["a", "b/c"] {
                let (was, is) = (self.source.path().join(name), to.join(name));
                assert_eq!(std::fs::read(was).unwrap(), std::fs::read(is).unwrap());
            }
        }
    }
}

#[test]
fn a_writers_verdict_is_ignored_and_reported() {
    let scene = Scene::new(Role::Writer);
    let stolen = scene.stolen();
    let ruling = Ruling::Forget;
    let verdict =
        Verdict { snapshot: scene.saved, number: 9, ruling, decided_at: 0, reason: "theft".into(), until: None };
    let signer = stolen.signer();
    let (bytes, digest) =
        build_sealed(ObjectKind::Verdict, &stolen.keyring, &signer, verdict.encode(), &SystemRandom).unwrap();
    scene.put(&format!("verdicts/{}/{}-{digest}", scene.saved, number_name(9)), bytes);
    let listing = scene.world.list(&[0]);
    assert_eq!(listing.snapshots.len(), 1, "VERDICT-5");
    assert!(listing.issues[0].detail.contains("SIGN-2"), "{:?}", listing.issues);
    // In a maintainer's name, but with the writer's signature.
    let maintainer = scene.world.add_slot(Role::Maintainer, "m").0;
    let signer = Signer { slot: maintainer, private: &stolen.secrets.signing_private };
    let (bytes, digest) =
        build_sealed(ObjectKind::Verdict, &stolen.keyring, &signer, verdict.encode(), &SystemRandom).unwrap();
    scene.put(&format!("verdicts/{}/{}-{digest}", scene.saved, number_name(9)), bytes);
    let listing = scene.world.list(&[0]);
    assert_eq!((listing.snapshots.len(), listing.issues.len()), (1, 2));
    assert!(listing.issues.iter().any(|issue| issue.detail.contains("the signature of verdict is not that of slot")));
}

#[test]
fn a_writers_collection_stops_by_name_and_deletes_nothing() {
    for parts in [&["condemn"][..], &["condemn", "fence", "final"]] {
        let scene = Scene::new(Role::Writer);
        let stolen = scene.stolen();
        for part in parts {
            let kind = match *part {
                "condemn" => ObjectKind::Condemn,
                "fence" => ObjectKind::Fence,
                _ => ObjectKind::Final,
            };
            let (bytes, _) = build_signed(kind, stolen.config.repository, &stolen.signer(), b"\xa0");
            scene.put(&format!("gc/{}/{part}", number_name(1)), bytes);
        }
        let owner = scene.owner();
        let refused = gclog::read(&owner, &owner.regions[0]).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("SIGN-2") && refused.contains("gc/0000000000000001/"), "{refused}");
        // GC-4: it isn't skipped; an owner takes the forged object away and all is as before.
        // Who writes stops; a listing goes on without it, and tells.
        assert!(keepstone::repo::Session::rehearse(&owner, &Default::default()).is_err());
        let listing = list(&owner).unwrap();
        assert_eq!((listing.snapshots.len(), listing.issues.len(), listing.damaged_logs.len()), (1, 1, 1));
        for part in parts {
            scene.store().delete(&format!("gc/{}/{part}", number_name(1))).unwrap();
        }
        scene.assert_whole();
    }
}

#[test]
fn a_writers_segment_supersedes_nothing() {
    let scene = Scene::new(Role::Writer);
    let honest = list_segments(&scene.owner().regions[0]).unwrap();
    let mut supersedes: Vec<SegmentId> = honest.into_keys().collect();
    supersedes.sort_unstable();
    let id = scene.put_segment(&Segment { supersedes, packs: Vec::new() });
    let why = scene.segment_issue(id);
    assert!(why.contains("SEG-11"), "{why}");
    scene.assert_whole();
}

#[test]
fn a_writer_cannot_state_another_slots_origin() {
    let scene = Scene::new(Role::Writer);
    let id = scene.put_segment(&Segment { supersedes: Vec::new(), packs: scene.listed() });
    let why = scene.segment_issue(id);
    assert!(why.contains("SEG-9"), "{why}");
    scene.assert_whole();
}

/// The owner's own packs, as a thief would have them seen: every chunk elsewhere, and one that nobody stored.
fn lies(scene: &Scene, invented: ChunkId) -> Segment {
    let mut packs = scene.listed();
    for pack in &mut packs {
        pack.origin = scene.slot;
        for frame in &mut pack.frames {
            frame.chunks.reverse();
            for chunk in &mut frame.chunks {
                chunk.references.clear();
                // Under other ids all chunks of the owner's would be gone from a pack that exists.
                if chunk.kind == ChunkKind::Data && chunk.length > 10_000 {
                    chunk.id = invented;
                }
            }
        }
    }
    Segment { supersedes: Vec::new(), packs }
}

/// SEG-13: what is false of a pack doesn't stand in the place of what is true of it.
#[test]
fn a_lying_segment_hides_nothing_and_is_found() {
    let scene = Scene::new(Role::Writer);
    scene.put_segment(&lies(&scene, ChunkId([7; 32])));
    scene.assert_whole();
    // The owner goes on deduplicating against its own packs.
    assert_eq!(scene.world.backup(&[0], scene.source.path(), 0).unwrap().new_chunks, 0);
    let report = scene.read_data();
    // SEG-10: each lie about a pack is an issue, though another segment tells the truth of the same pack.
    assert!(report.issues.iter().any(|issue| issue.detail.contains("the segment lists")), "{:?}", report.issues);
    let truth: Vec<Digest> = {
        let owner = scene.owner();
        let ids = list_segments(&owner.regions[0]).unwrap();
        let opened = ids.into_keys().map(|id| read_segment(&owner, &owner.regions[0], id).unwrap());
        let honest = opened.filter(|opened| opened.signer == owner.secrets.slot);
        honest.flat_map(|opened| keepstone::crypto::listing::listings(&opened.segment)).collect()
    };
    assert!(report.verified.iter().all(|listing| truth.contains(listing)), "a lie is never attested");
    assert_eq!(report.verified.len(), truth.len());
}

/// The owner's own packs in sizes that they don't have.
fn misjudged(scene: &Scene) -> Segment {
    let mut packs = scene.listed();
    for pack in &mut packs {
        pack.origin = scene.slot;
        pack.size += 4096;
    }
    Segment { supersedes: Vec::new(), packs }
}

/// SEG-10: a pack is read though somebody states another size of it, and its damage is found.
#[test]
fn a_false_size_keeps_no_pack_from_being_read() {
    let scene = Scene::new(Role::Writer);
    let lie = scene.put_segment(&misjudged(&scene));
    let packs = scene.listed().into_iter().filter(|pack| pack.origin != scene.slot).count();
    let report = scene.read_data();
    assert_eq!(report.regions[0].packs_read, packs as u64);
    assert_eq!((report.verified.len(), &report.regions[0].snapshots_broken[..]), (packs, &[][..]));
    let of_the_lie = |issue: &&keepstone::report::Issue| {
        let detail = &issue.detail;
        issue.subject.ends_with(segment_name(&lie).as_bytes())
            && detail.contains("SEG-10: slot 'stolen'")
            && detail.contains("states falsely of packs/")
    };
    assert_eq!(report.issues.iter().filter(of_the_lie).count(), packs, "{:?}", report.issues);
    assert_eq!(report.issues_total, packs as u64, "the packs and the snapshot are whole: {:?}", report.issues);
    // A byte of one of them: that is damage.
    let damaged = scene.listed().into_iter().find(|pack| pack.origin != scene.slot && !pack.metadata).unwrap();
    let name = keepstone::pack::reader::pack_name(&damaged.pack);
    let mut bytes = scene.store().get(&name, u64::MAX).unwrap();
    bytes[5000] ^= 1;
    scene.store().delete(&name).unwrap();
    scene.put(&name, bytes);
    let report = scene.read_data();
    assert!(report.issues.iter().any(|issue| issue.subject.ends_with(name.as_bytes())), "{:?}", report.issues);
    assert_eq!(report.regions[0].snapshots_broken, [scene.saved]);
}

/// A restore without an index of its own reads what false listings name once at most, not for every chunk.
#[test]
fn a_false_listing_costs_a_restore_little() {
    let scene = Scene::new(Role::Writer);
    write(scene.source.path(), "large", &noise(7, 3_000_000));
    scene.world.backup(&[0], scene.source.path(), 1).unwrap();
    let saved = scene.world.list(&[0]).snapshots.last().unwrap().id;
    let reads = || {
        scene.world.stores[0].clear_log();
        scene.world.assert_restores(&[0], saved, scene.source.path(), 1);
        scene.world.stores[0].count(Operation::GetRange)
    };
    let honest = reads();
    let mut packs = scene.listed();
    let chunks: usize = packs.iter().flat_map(|pack| &pack.frames).map(|frame| frame.chunks.len()).sum();
    for pack in &mut packs {
        pack.origin = scene.slot;
        for frame in &mut pack.frames {
            let ids: Vec<ChunkId> = frame.chunks.iter().map(|chunk| chunk.id).collect();
            let others = ids.iter().cycle().skip(1);
            frame.chunks.iter_mut().zip(others).for_each(|(chunk, other)| chunk.id = *other);
        }
    }
    scene.put_segment(&Segment { supersedes: Vec::new(), packs: packs.clone() });
    let lied = reads();
    assert!(chunks > 100 && lied < honest + 30, "{chunks} chunks: {honest} reads, then {lied}");
    for frame in packs.iter_mut().flat_map(|pack| &mut pack.frames) {
        frame.number += 1;
    }
    scene.put_segment(&Segment { supersedes: Vec::new(), packs });
    let lied = reads();
    assert!(lied < honest + 30, "{chunks} chunks: {honest} reads, then {lied}");
}

/// A segment's packs, fit for any other segment.
fn with_prefixes(segment: Segment) -> Vec<SegmentPack> {
    let ids: Vec<ChunkId> = segment.chunks().map(|chunk| chunk.id).collect();
    let mut packs = segment.packs;
    let chunks = packs.iter_mut().flat_map(|pack| &mut pack.frames).flat_map(|frame| &mut frame.chunks);
    for reference in chunks.flat_map(|chunk| &mut chunk.references) {
        if let Reference::Ordinal(at) = *reference {
            *reference = Reference::Prefix(ids[at as usize].0[..8].try_into().unwrap());
        }
    }
    packs
}

type Lie<'a> = &'a dyn Fn(&Scene) -> Segment;

/// COLLECT-19: what an owner found of a pack makes what others state of it false, and a collection takes that away.
#[test]
fn a_false_listing_goes_once_an_owner_has_read_the_pack() {
    let invented = ChunkId([7; 32]);
    let all: [(&str, Lie); 3] = [
        ("chunks", &|scene| lies(scene, ChunkId([7; 32]))),
        ("size", &misjudged),
        ("references", &|scene| {
            let mut segment = misjudged(scene);
            for pack in &mut segment.packs {
                pack.size -= 4096;
                let chunks = pack.frames.iter_mut().flat_map(|frame| &mut frame.chunks);
                chunks
                    .filter(|chunk| chunk.kind.is_structural())
                    .for_each(|chunk| chunk.references.push(Reference::Prefix([7; 8])));
            }
            segment
        }),
    ];
    for (what, lie) in all {
        for role in [Role::Owner, Role::Maintainer] {
            let scene = Scene::new(Role::Writer);
            let mut packs = lie(&scene).packs;
            // In the same segment the liar lists a pack of its own, which its snapshot needs.
            let own = tempfile::tempdir().unwrap();
            write(own.path(), "own", &noise(91, 90_000));
            scene.thief.backup(&[0], own.path(), 0).unwrap();
            for (id, _) in list_segments(&scene.owner().regions[0]).unwrap() {
                let opened = read_segment(&scene.owner(), &scene.owner().regions[0], id).unwrap();
                if opened.signer == scene.slot {
                    packs.extend(with_prefixes(opened.segment));
                    scene.store().delete(&segment_name(&id)).unwrap();
                }
            }
            packs.sort_by_key(|pack| pack.pack);
            let id = scene.put_segment(&Segment { supersedes: Vec::new(), packs });
            let onlooker = scene.onlooker();
            assert!(!scene.read_data().is_sound(), "{what}: the lie is told");
            let identity = scene.world.add_slot(role, "collects").1;
            let collector = scene.world.as_slot(&identity);
            let collect = || crate::gc::collect(&collector, &crate::gc::at_once());
            // Nobody has looked yet.
            if what == "size" {
                collect();
                assert!(list_segments(&scene.owner().regions[0]).unwrap().contains_key(&id), "{what}");
            }
            attest::publish(&scene.owner(), &scene.read_data().verified).unwrap();
            (0..3).for_each(|_| drop(collect()));
            let left = scene.listed();
            assert!(!list_segments(&scene.owner().regions[0]).unwrap().contains_key(&id), "{what}");
            assert!(
                left.iter()
                    .flat_map(|pack| &pack.frames)
                    .flat_map(|frame| &frame.chunks)
                    .all(|chunk| chunk.id != invented)
            );
            let report = scene.read_data();
            assert!(report.is_sound(), "{what}: {:?}", report.issues);
            scene.assert_whole();
            scene.assert_nothing_lost(&onlooker);
            assert_eq!(
                scene.thief.fork().backup(&[0], own.path(), 1).unwrap().new_bytes,
                0,
                "{what}: what it wrote is there"
            );
        }
    }
}

/// COLLECT-19: so it goes where its segment lists more: what another slot wrote, as its own, or its own, also once
/// the slot was revoked.
#[test]
fn a_false_listing_goes_whatever_shares_its_segment() {
    for (others, revoked) in [(true, false), (true, true), (false, true)] {
        let what = format!("others' packs: {others}, revoked: {revoked}");
        let scene = Scene::new(Role::Writer);
        let mut packs = misjudged(&scene).packs;
        for pack in &mut packs {
            pack.size -= 4096;
            let chunks = pack.frames.iter_mut().flat_map(|frame| &mut frame.chunks);
            let structural = chunks.filter(|chunk| chunk.kind.is_structural());
            structural.for_each(|chunk| chunk.references.push(Reference::Prefix([7; 8])));
        }
        let (slot, identity) = scene.world.add_slot(Role::Writer, "other");
        let other = scene.world.as_slot(&identity);
        let source = tempfile::tempdir().unwrap();
        write(source.path(), "own", &noise(91, 90_000));
        let (writer, signer) = if others { (&other, slot) } else { (&scene.thief, scene.slot) };
        let saved = writer.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
        let segments_of = |signer: SlotId| {
            let owner = scene.owner();
            let ids = list_segments(&owner.regions[0]).unwrap().into_keys();
            let opened = ids.map(|id| (id, read_segment(&owner, &owner.regions[0], id).unwrap()));
            opened.filter(move |(_, opened)| opened.signer == signer).collect::<Vec<_>>()
        };
        for (id, opened) in segments_of(signer) {
            let shared = with_prefixes(opened.segment);
            packs.extend(shared.into_iter().map(|pack| SegmentPack { origin: scene.slot, ..pack }));
            if !others {
                scene.store().delete(&segment_name(&id)).unwrap();
            }
        }
        packs.sort_by_key(|pack| pack.pack);
        let id = scene.put_segment(&Segment { supersedes: Vec::new(), packs });
        let onlooker = scene.onlooker();
        if revoked {
            scene.owner().revoke_slot(scene.slot, &Acceptance::default(), &Silent).unwrap();
        }
        assert!(!scene.read_data().is_sound(), "{what}");
        attest::publish(&scene.owner(), &scene.read_data().verified).unwrap();
        (0..3).for_each(|_| drop(crate::gc::collect(&scene.world, &crate::gc::at_once())));
        assert!(!list_segments(&scene.owner().regions[0]).unwrap().contains_key(&id), "{what}");
        let report = scene.read_data();
        assert!(report.is_sound(), "{what}: {:?}", report.issues);
        scene.assert_whole();
        scene.assert_nothing_lost(&onlooker);
        scene.world.assert_restores(&[0], saved, source.path(), 1);
        if others {
            let left: Vec<SegmentPack> = scene.listed();
            assert!(left.iter().all(|pack| pack.origin != scene.slot), "{what}");
            assert_eq!(other.backup(&[0], source.path(), 0).unwrap().new_bytes, 0, "{what}: it relies on its own");
        }
    }
}

/// SEG-10: damage names the snapshots that need what is damaged, also where another slot states truly of the pack
/// what its own slot does.
#[test]
fn damage_is_told_of_snapshots_though_two_slots_list_the_pack() {
    let scene = Scene::new(Role::Writer);
    let mut segment = misjudged(&scene);
    segment.packs.iter_mut().for_each(|pack| pack.size -= 4096);
    scene.put_segment(&segment);
    assert!(scene.read_data().is_sound());
    for listed in list_sorted(scene.store(), "packs/").unwrap() {
        let bytes = scene.store().get(&listed.name, 1 << 30).unwrap();
        scene.store().delete(&listed.name).unwrap();
        let half = bytes.len() / 2;
        scene.put(&listed.name, [&bytes[..half], &[bytes[half] ^ 1], &bytes[half + 1..]].concat());
    }
    let report = scene.read_data();
    assert_eq!(report.regions[0].snapshots_broken, [scene.saved], "{:?}", report.issues);
}

/// SEG-12, and ATTEST-4: what can't be read as stated is not attested.
#[test]
fn a_chunk_that_is_not_there_is_relied_on_by_nobody() {
    let scene = Scene::new(Role::Writer);
    // The thief knows a file that a victim will back up, and claims its first chunk.
    let victim_source = tempfile::tempdir().unwrap();
    write(victim_source.path(), "wanted", &noise(77, 60_000));
    let (_, identity) = scene.world.add_slot(Role::Writer, "victim");
    let victim = scene.world.as_slot(&identity);
    let probe = scene.world.fork();
    probe.as_slot(&identity).backup(&[0], victim_source.path(), 0).unwrap();
    let stored = {
        let owner = probe.open(&[0]).unwrap();
        let ids = list_segments(&owner.regions[0]).unwrap();
        let open = |id| read_segment(&owner, &owner.regions[0], id).unwrap();
        let opened: Vec<_> = ids.into_keys().map(open).filter(|opened| opened.signer != owner.secrets.slot).collect();
        opened.into_iter().flat_map(|opened| opened.segment.packs).collect::<Vec<_>>()
    };
    // Packs of garbage under the names of what the victim would write, and a segment that vouches for them.
    let mut packs = stored;
    for pack in &mut packs {
        let bytes = noise(u64::from(pack.pack.0[0]), pack.size as usize - 32);
        let digest = keepstone::crypto::digest(&bytes);
        pack.pack = PackId(digest);
        pack.origin = scene.slot;
        scene.put(&keepstone::pack::reader::pack_name(&pack.pack), [&bytes[..], &digest].concat());
    }
    packs.sort_by_key(|pack| pack.pack);
    scene.put_segment(&Segment { supersedes: Vec::new(), packs });
    let report = scene.read_data();
    assert!(!report.is_sound());
    attest::publish(&scene.owner(), &report.verified).unwrap();
    let saved = victim.backup(&[0], victim_source.path(), 0).unwrap();
    assert!(saved.new_bytes >= 60_000, "the victim stores what it has: {}", saved.new_bytes);
    // Who trusts everybody is the one who loses, until the thief's key is revoked.
    let trusting = Backup { trust: DedupTrust::All, ..options(0) };
    let fooled = scene.world.fork();
    assert_eq!(fooled.as_slot(&identity).backup_as(&[0], victim_source.path(), &trusting).unwrap().new_chunks, 0);
    let again = scene.world.fork();
    again.open(&[0]).unwrap().revoke_slot(scene.slot, &Acceptance::default(), &Silent).unwrap();
    write(victim_source.path(), "wanted", &noise(77, 59_000));
    again.as_slot(&identity).backup_as(&[0], victim_source.path(), &trusting).unwrap();
    let owner = again.open(&[0]).unwrap();
    let listing = list(&owner).unwrap();
    let index = MemoryIndex::new();
    sync(&owner, &index, &Silent).unwrap();
    let newest = listing.snapshots.last().unwrap();
    let fetcher = keepstone::repo::fetch::Fetcher::new(&owner, &index, &Silent, 1 << 20);
    let to = tempfile::tempdir().unwrap();
    let target =
        keepstone::restore::target::Target::open(&to.path().join("t"), crate::fixture::quick_target()).unwrap();
    let wanted = keepstone::restore::Restore { verify: true, ..Default::default() };
    let summary =
        keepstone::restore::restore(&fetcher, newest.snapshot.root, &target, &wanted, &Silent, (0, 0)).unwrap();
    assert_eq!(summary.issues, []);
}

#[test]
fn a_writer_deduplicates_against_attested_packs_only() {
    let scene = Scene::new(Role::Writer);
    let all = scene.thief.fork().backup(&[0], scene.source.path(), 0).unwrap();
    assert!(all.new_bytes >= 170_000, "nobody vouched for the owner's packs yet");
    // A writer's word is no attestation.
    let report = scene.read_data();
    assert!(report.is_sound() && !report.verified.is_empty());
    let stolen = scene.stolen();
    let refused = attest::publish(&stolen, &report.verified).unwrap_err();
    assert!(refused.to_string().contains("a writer slot may not attest packs"), "{refused}");
    let attestation = Attestation { listings: report.verified.clone(), attested_at: 0 };
    let (bytes, digest) =
        build_signed(ObjectKind::Attestation, stolen.config.repository, &stolen.signer(), &attestation.encode());
    scene.put(&format!("attest/{digest}"), bytes);
    let (attested, issues) = attest::read(&stolen);
    assert!(attested.is_empty() && issues[0].detail.contains("SIGN-2"), "{issues:?}");
    scene.store().delete(&format!("attest/{digest}")).unwrap();
    // An owner's is.
    assert_eq!(attest::publish(&scene.owner(), &report.verified).unwrap(), report.verified.len() as u64);
    assert_eq!(attest::publish(&scene.owner(), &report.verified).unwrap(), 0);
    assert_eq!(list_sorted(scene.store(), "attest/").unwrap().len(), 1, "once is enough");
    let trusting = scene.thief.backup(&[0], scene.source.path(), 0).unwrap();
    assert_eq!(trusting.new_bytes, 0, "content and listings are as the owner's");
    scene.world.assert_restores(&[0], trusting.snapshot.unwrap(), scene.source.path(), 1);
}

#[test]
fn a_damaged_attestation_vouches_for_nothing_and_stops_nobody() {
    let scene = Scene::new(Role::Writer);
    let report = scene.read_data();
    attest::publish(&scene.owner(), &report.verified).unwrap();
    let name = list_sorted(scene.store(), "attest/").unwrap().remove(0).name;
    let mut bytes = scene.store().get(&name, u64::MAX).unwrap();
    bytes[100] ^= 1;
    scene.store().heal(&name, &bytes.into()).unwrap();
    // ATTEST-5
    let saved = scene.thief.backup(&[0], scene.source.path(), 0).unwrap();
    assert!(saved.new_bytes >= 170_000, "{}", saved.new_bytes);
    let found = check(&scene.owner(), None, &Options::default(), &Silent).unwrap();
    assert!(found.issues.iter().any(|issue| issue.subject.ends_with(name.as_bytes())), "{:?}", found.issues);
    // The next full check vouches anew.
    assert!(attest::publish(&scene.owner(), &report.verified).unwrap() > 0);
    assert_eq!(attest::read(&scene.owner()).0.len(), report.verified.len());
    // And takes away what nobody can read.
    assert!(scene.store().get(&name, u64::MAX).is_err());
    let found = check(&scene.owner(), None, &Options::default(), &Silent).unwrap();
    assert_eq!(found.issues, []);
}

/// ATTEST-2
#[test]
fn attestations_of_a_revoked_owner_count_as_accepted() {
    let scene = Scene::new(Role::Owner);
    let report = scene.read_data();
    attest::publish(&scene.stolen(), &report.verified).unwrap();
    assert_eq!(attest::read(&scene.owner()).0.len(), report.verified.len());
    let fork = scene.world.fork();
    fork.open(&[0]).unwrap().revoke_slot(scene.slot, &Acceptance::default(), &Silent).unwrap();
    assert_eq!(attest::read(&fork.open(&[0]).unwrap()).0.len(), report.verified.len());
    let none = Acceptance { none: true, ..Acceptance::default() };
    scene.owner().revoke_slot(scene.slot, &none, &Silent).unwrap();
    let (attested, issues) = attest::read(&scene.owner());
    assert_eq!((attested.len(), issues), (0, vec![]));
}

#[test]
fn many_attestations_become_one() {
    let scene = Scene::new(Role::Writer);
    for number in 0..70u8 {
        attest::publish(&scene.owner(), &[Digest([number; 32])]).unwrap();
    }
    assert!(list_sorted(scene.store(), "attest/").unwrap().len() < 20);
    assert_eq!(attest::read(&scene.owner()).0.len(), 70);
}

#[test]
fn swapped_rings_and_key_files_open_nothing() {
    let scene = Scene::new(Role::Writer);
    let owner_slot = scene.owner().secrets.slot;
    let ring = |slot| format!("ring/{}/{slot}", number_name(1));
    let get = |name: &str| scene.store().get(name, u64::MAX).unwrap();
    let (owners, thiefs) = (get(&ring(owner_slot)), get(&ring(scene.slot)));
    // The owner's ring in the writer's place: it is another slot's, and sealed to another key.
    scene.store().heal(&ring(scene.slot), &owners.clone().into()).unwrap();
    let refused = scene.thief.open(&[0]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("OBJ-10") && refused.contains("for slot"), "{refused}");
    scene.store().heal(&ring(scene.slot), &thiefs.into()).unwrap();

    // A ring that the thief made for the owner, to be the one who knows what payloads are sealed with.
    let stolen = scene.stolen();
    let (bytes, _) = build_signed(ObjectKind::Ring, stolen.config.repository, &stolen.signer(), b"\xa0");
    scene.store().heal(&ring(owner_slot), &bytes.into()).unwrap();
    let refused = scene.world.open(&[0]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("OBJ-11"), "{refused}");
    scene.store().heal(&ring(owner_slot), &owners.into()).unwrap();

    // A key file of the thief's own making under the owner's slot: right passphrase, wrong keys.
    let key_names: Vec<String> =
        list_sorted(scene.store(), &format!("keys/{owner_slot}/")).unwrap().into_iter().map(|l| l.name).collect();
    let file = get(&key_names[0]);
    let unlock = Unlock::Identities(zeroize::Zeroizing::new(scene.world.identity.clone()));
    let mut secrets = unwrap(&file, &unlock).unwrap();
    let recipient = {
        let identity: age::x25519::Identity = scene.world.identity.parse().unwrap();
        identity.to_public().to_string()
    };
    secrets.kem_private[0] ^= 1;
    let swapped = wrap(&secrets, &Wrapping::Recipient(recipient)).unwrap();
    scene.store().heal(&key_names[0], &swapped.into()).unwrap();
    let refused = scene.world.open(&[0]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("KEY-4"), "{refused}");
    scene.store().heal(&key_names[0], &file.into()).unwrap();
    scene.assert_whole();
}

#[test]
fn a_ring_of_another_rotation_is_refused() {
    let scene = Scene::new(Role::Writer);
    // Two rotations under one number, as a store without put-if-absent would allow.
    let other = scene.world.fork();
    other.open(&[0]).unwrap().rotate(false).unwrap();
    scene.owner().rotate(false).unwrap();
    let name = format!("ring/{}/{}", number_name(2), scene.slot);
    let foreign = other.stores[0].inner().memory.get(&name, u64::MAX).unwrap();
    scene.store().heal(&name, &foreign.into()).unwrap();
    let refused = scene.thief.open(&[0]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("RING-5"), "{refused}");
    // RING-6: without it the slot doesn't fall back to the older epoch.
    scene.store().delete(&name).unwrap();
    let refused = scene.thief.open(&[0]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains(&name) && refused.contains("missing"), "{refused}");
    scene.assert_whole();
}

#[test]
fn a_roster_that_root_did_not_sign_is_refused() {
    for role in [Role::Writer, Role::Maintainer] {
        let scene = Scene::new(role);
        let stolen = scene.stolen();
        let mut roster: Roster = stolen.roster.clone();
        roster.number += 1;
        roster.slots.iter_mut().for_each(|slot| slot.role = Role::Owner);
        for slot in [scene.slot, SlotId::default()] {
            let signer = Signer { slot, private: &stolen.secrets.signing_private };
            let (bytes, digest) = build_signed(ObjectKind::Roster, stolen.config.repository, &signer, &roster.encode());
            let name = format!("roster/{}-{digest}", number_name(roster.number));
            scene.put(&name, bytes);
            let refused = scene.world.open(&[0]).map(|_| ()).unwrap_err().to_string();
            let expected = if slot == scene.slot { "OBJ-11" } else { "is not that of the root key" };
            assert!(refused.contains(expected) && refused.contains(&name), "{refused}");
            scene.store().delete(&name).unwrap();
        }
        scene.assert_whole();
    }
}

#[test]
fn a_maintainer_makes_no_snapshots_and_reads_no_content() {
    let scene = Scene::new(Role::Maintainer);
    let stolen = scene.stolen();
    let owner = scene.owner();
    let (snapshot, _) = read_snapshot(&stolen, &stolen.regions[0], scene.saved).unwrap();
    assert!(keepstone::repo::snapshots::open_private(&stolen, &snapshot).is_err());
    assert!(stolen.keyring.ids(1).is_err() && stolen.keyring.gear().is_err());
    let signer = stolen.signer();
    let (bytes, digest) =
        build_sealed(ObjectKind::Snapshot, &stolen.keyring, &signer, snapshot.encode(), &SystemRandom).unwrap();
    let id = SnapshotId(digest.0);
    scene.put(&format!("snapshots/{id}"), bytes);
    let mut session = keepstone::repo::Session::open(&stolen).unwrap();
    session.commit(&stolen, 0, id).unwrap();
    let listing = list(&owner).unwrap();
    assert_eq!(listing.snapshots.len(), 1);
    assert!(listing.issues[0].detail.contains("SIGN-2"), "{:?}", listing.issues);
}

/// Credentials as a host should have: create, list and get, but no delete and nothing of a pack.
fn restrict(world: &World) {
    let store = &world.stores[0];
    store.inject(Trigger::on(Operation::Delete), Fault::Fail(StoreErrorKind::Denied));
    for operation in [Operation::Get, Operation::GetRange, Operation::Size] {
        store.inject(Trigger::on(operation).under("packs/"), Fault::Fail(StoreErrorKind::Denied));
    }
}

#[test]
fn a_writer_needs_neither_delete_nor_a_byte_of_a_pack() {
    for threads in [0, 2] {
        let scene = Scene::new(Role::Writer);
        restrict(&scene.world);
        let (writer, source) = (&scene.thief, scene.source.path());
        let first = writer.backup(&[0], source, threads).unwrap();
        assert!(first.new_chunks > 0);
        for number in 0..20 {
            write(source, &format!("more/{number}"), &noise(100 + number, 30_000));
        }
        // It dies after the segments are there and before the commit, and goes on from what it stored.
        let rehearsal = writer.fork();
        let calls = rehearsal.calls_of(|| drop(rehearsal.backup(&[0], source, 0).unwrap()));
        writer.die_after(calls - 5);
        writer.backup(&[0], source, 0).unwrap_err();
        writer.live_again();
        assert_eq!(writer.ids(&[0]).len(), 2, "nothing of it counts");
        let resumed = writer.backup(&[0], source, threads).unwrap();
        assert!(resumed.new_bytes < 60_000, "{} of 600,000 bytes are stored again", resumed.new_bytes);
        let repository = writer.open(&[0]).unwrap();
        let listing = list(&repository).unwrap();
        assert_eq!((listing.snapshots.len(), listing.issues.len()), (3, 0));
        let index = MemoryIndex::new();
        assert_eq!(sync(&repository, &index, &Silent).unwrap(), []);
        let stats = keepstone::stats::stats(&repository, &index, &listing.snapshots).unwrap();
        assert_eq!(stats.snapshots, 3);
        index.clear().unwrap();
        assert_eq!(sync(&repository, &index, &Silent).unwrap(), [], "the index is made anew");
        let log = scene.world.stores[0].log();
        let asked = |operation| log.iter().any(|call| call.operation == operation && call.name.starts_with("packs/"));
        assert!(!asked(Operation::Get) && !asked(Operation::GetRange), "it doesn't even try");
        scene.world.stores[0].revive();
        scene.world.assert_restores(&[0], resumed.snapshot.unwrap(), source, 1);
    }
}

#[test]
fn an_older_roster_is_refused_by_who_has_seen_a_newer() {
    let scene = Scene::new(Role::Writer);
    let before = scene.world.fork();
    scene.owner().revoke_slot(scene.slot, &Acceptance::default(), &Silent).unwrap();
    let seen = scene.owner().roster.number;
    let located = Located::open(&before.specs(&[0]), Some(before.pin)).unwrap();
    let refused = located.require_roster(seen, None).unwrap_err().to_string();
    assert!(refused.contains("ROSTER-5"), "{refused}");
    assert!(located.require_roster(seen - 1, None).is_ok());
}

#[test]
fn the_program_remembers_the_roster_and_forgets_it_with_its_cache() {
    let program = Program::new();
    program.write("file", b"content");
    let added = program.add_slot("writer");
    let source = program.source().display().to_string();
    program.run_as("writer", ["backup", &source]).expect(0);
    let keep = |from: &str, to: &str| {
        let copied = std::process::Command::new("cp").args(["-a", from, to]).current_dir(program.home.path()).status();
        assert!(copied.unwrap().success());
    };
    keep("one", "old-one");
    keep("two", "old-two");
    let slot = added["slot"].as_str().unwrap()[..8].to_owned();
    let revoked = program.run(["--json", "key", "revoke", &slot]).expect(0).json();
    assert_eq!(revoked["accepted"]["snapshot"], 1);
    assert_eq!(revoked["refused"], serde_json::json!({}));
    assert_eq!((&revoked["late"], &revoked["snapshots_late"]), (&serde_json::json!({}), &serde_json::json!([])));
    assert!(revoked["late_unknown"].is_null(), "{revoked}");
    assert_eq!(program.snapshots(&[]).len(), 1);
    program.run_as("writer", ["snapshots"]).expect(10);
    let rotated = program.run(["--json", "key", "rotate"]).expect(0).json();
    assert_eq!((&rotated["epoch"], &rotated["slots"]), (&2.into(), &1.into()));
    let slots = program.run(["--json", "key", "list"]).expect(0).json();
    assert_eq!(slots["epoch"], 2);
    let find = |role: &str| slots["slots"].as_array().unwrap().iter().find(|slot| slot["role"] == role).unwrap();
    assert_eq!(find("owner")["epochs"], serde_json::json!([1, 2]));
    assert_eq!((&find("writer")["epochs"], &find("writer")["state"]), (&serde_json::json!([1]), &"revoked".into()));
    program.run(["check", "--read-data"]).expect(0);
    let record = program.run(["audit"]).expect(0).stdout;
    for act in ["key-add", "key-revoke", "key-rotate", "attest"] {
        assert!(record.contains(act), "{act} in {record}");
    }
    // The storage goes back to what it was before the revocation.
    for region in ["one", "two"] {
        std::fs::remove_dir_all(program.path(region)).unwrap();
        keep(&format!("old-{region}"), region);
    }
    let refused = program.run(["--json", "snapshots"]).expect(10).error();
    assert!(refused["message"].as_str().unwrap().contains("ROSTER-5"), "{refused}");
    // A client that never saw the newer one can't know.
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    program.run(["snapshots"]).expect(0);
}

#[test]
fn a_snapshot_from_the_future_is_shown_as_one() {
    let program = Program::new();
    program.write("file", b"content");
    program.backup(&[]);
    let specs: Vec<RegionSpec> = ["one", "two"]
        .into_iter()
        .map(|name| RegionSpec {
            name: name.to_owned(),
            store: Arc::new(LocalStore::open(&program.path(name)).unwrap()),
        })
        .collect();
    let identity = std::fs::read_to_string(program.path("identity")).unwrap();
    let open = |seconds| {
        let unlock = Unlock::Identities(zeroize::Zeroizing::new(identity.clone()));
        let clock = Arc::new(keepstone::env::StepClock::starting_at(seconds));
        Located::open(&specs, None).unwrap().unlock(&unlock, clock, Arc::new(SystemRandom)).unwrap()
    };
    let paths = [program.source()];
    for seconds in [7_000_000_000, 1_000_000_000] {
        let (repository, index) = (open(seconds), MemoryIndex::new());
        sync(&repository, &index, &Silent).unwrap();
        let walk = keepstone::source::Walk::new(&paths, Default::default()).unwrap();
        let options = options(0);
        keepstone::backup::backup_tree(&repository, &index, &options, walk, &[], &Silent).unwrap();
    }
    let listed = program.snapshots(&[]);
    let future: Vec<bool> = listed.iter().map(|snapshot| snapshot["future"].as_bool().unwrap()).collect();
    assert_eq!(future, [false, false, true]);
    assert!(program.run(["snapshots"]).expect(0).stdout.contains("FUTURE"));
}

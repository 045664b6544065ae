//! A whole region of each suite, laid out by hand from the spec: one owner, one snapshot, two packs. A third one
//! has a second epoch, a revoked writer of whose two snapshots one stays accepted, and an attestation.
//!
//! Everything but the key files (which hold age's own random bytes) and the output of zstd (kept in
//! `zstd.json`) follows from fixed seeds.

use crate::vectors::{PASSPHRASE, REPOSITORY, ROOT_PRIVATE, SLOT, SLOT_KEM_PRIVATE, SLOT_SIGNING_PRIVATE, key_files};
use crate::{hex, noise, stored_or, unhex, vectors_path, writing};
use keepstone::check::{Options, Subset, check};
use keepstone::crypto::digest;
use keepstone::crypto::keyring::{Keyring, epoch_commitment, kem_public, seal_ring};
use keepstone::crypto::listing::listings;
use keepstone::crypto::object::{Signer, build_sealed, build_signed};
use keepstone::crypto::sign;
use keepstone::crypto::slot::Unlock;
use keepstone::env::{SeededRandom, SystemClock, SystemRandom, random_bytes};
use keepstone::format::accepted::{Accepted, accepted_name};
use keepstone::format::attestation::Attestation;
use keepstone::format::audit::{Action, AuditEntry};
use keepstone::format::config::{Config, Region, Suite};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{
    ChunkId, ChunkKind, Digest, PackId, RegionId, SessionId, SlotId, SnapshotId, number_name,
};
use keepstone::format::node::{Content, Extent, Node, NodeKind, Timestamp};
use keepstone::format::pack::{Directory, DirectoryChunk, DirectoryFrame, FOOTER_BYTES, Footer, PackHeader, padme};
use keepstone::format::ring::Ring;
use keepstone::format::roster::{AcceptedParts, Role, Roster, RosterEpoch, RosterSlot, SlotState};
use keepstone::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use keepstone::format::sequence::{decode_chunk, encode_chunk, encode_extent, encode_node, references};
use keepstone::format::session::{Commit, Session};
use keepstone::format::snapshot::{Counts, NotCaptured, Snapshot, SnapshotPrivate, SourceKind};
use keepstone::format::verdict::{Ruling, Tags, Verdict};
use keepstone::repo::snapshots::list;
use keepstone::repo::{Located, RegionSpec, attest};
use keepstone::report::Silent;
use keepstone::store::Store;
use keepstone::store::memory::MemoryStore;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const REGION: RegionId = RegionId([0x66; 16]);
const SESSION: SessionId = SessionId([0x77; 16]);
const CREATED_AT: i64 = 1_700_000_000_000_000_000;

/// A chunk on its way into a pack.
struct Plain {
    kind: ChunkKind,
    bytes: Vec<u8>,
}

/// Collects objects and packs by name.
struct Builder {
    keyring: Keyring,
    random: SeededRandom,
    objects: BTreeMap<String, Vec<u8>>,
    packs: Vec<SegmentPack>,
    /// Where each chunk came to stand: its ordinal in the segment.
    ordinals: HashMap<ChunkId, u32>,
}

impl Builder {
    fn id(&self, chunk: &Plain) -> ChunkId {
        self.keyring.ids(1).expect("an owner's ring").id(chunk.kind, &chunk.bytes)
    }

    /// One pack with one section, a frame for each inner list.
    fn pack(&mut self, metadata: bool, frames: Vec<Vec<Plain>>, compressed: &[u8]) {
        let (record, key) = self.keyring.create_section(&self.random).expect("an owner's ring");
        let section = record.section;
        let salt = random_bytes(&self.random);
        let header =
            PackHeader { metadata, repository: REPOSITORY, session: SESSION, epoch: 1, salt, sections: vec![record] };
        let mut bytes = header.encode();
        let mut directory = Directory::default();
        let mut listed = Vec::new();
        for (number, chunks) in frames.into_iter().enumerate() {
            let raw: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect();
            // The first data frame is compressed; the rest stand as they are.
            let mut sealed = match number == 0 && !metadata {
                true => [&[1][..], compressed].concat(),
                false => [&[0][..], &raw].concat(),
            };
            key.seal(number as u64, raw.len() as u32, &mut sealed);
            directory.frames.push(DirectoryFrame {
                section: 0,
                number: number as u64,
                sealed_length: sealed.len() as u32,
                raw_length: raw.len() as u32,
                chunks: chunks
                    .iter()
                    .map(|chunk| DirectoryChunk { kind: chunk.kind, length: chunk.bytes.len() as u32 })
                    .collect(),
            });
            bytes.extend_from_slice(&sealed);
            let mut in_segment = Vec::new();
            for chunk in &chunks {
                let id = self.id(chunk);
                let references = match chunk.kind.is_structural() {
                    true => references(&decode_chunk(chunk.kind, &chunk.bytes).expect("canonical"))
                        .iter()
                        .map(|id| Reference::Ordinal(self.ordinals[id]))
                        .collect(),
                    false => Vec::new(),
                };
                self.ordinals.insert(id, self.ordinals.len() as u32);
                in_segment.push(SegmentChunk { id, kind: chunk.kind, length: chunk.bytes.len() as u32, references });
            }
            listed.push(SegmentFrame {
                section: 0,
                number: number as u64,
                sealed_length: sealed.len() as u32,
                chunks: in_segment,
            });
        }
        let kind = ObjectKind::Pack as u8;
        let cipher = self.keyring.metadata_cipher(1, kind, &salt).expect("a ring");
        let context = self.keyring.metadata_context(1, kind);
        let mut sealed_directory = directory.encode();
        cipher.seal(0, &context, &mut sealed_directory);
        let footer = Footer { directory_offset: bytes.len() as u64, directory_length: sealed_directory.len() as u64 };
        bytes.extend_from_slice(&sealed_directory);
        let tail = FOOTER_BYTES + 32;
        let total = padme((bytes.len() + tail) as u64) as usize;
        let mut padding = vec![0; total - tail - bytes.len()];
        self.keyring.padding(1, &salt).expect("a ring").fill(&mut padding);
        bytes.extend_from_slice(&padding);
        let mut sealed_footer = footer.encode().to_vec();
        cipher.seal(1, &context, &mut sealed_footer);
        bytes.extend_from_slice(&sealed_footer);
        let pack = PackId(digest(&bytes));
        bytes.extend_from_slice(&pack.0);
        self.packs.push(SegmentPack {
            pack,
            size: bytes.len() as u64,
            session: SESSION,
            origin: SLOT,
            metadata,
            sections: vec![section],
            frames: listed,
        });
        let name = pack.to_string();
        self.objects.insert(format!("packs/{}/{name}", &name[..2]), bytes);
    }

    fn signed(&mut self, name: String, kind: ObjectKind, payload: &[u8]) {
        let owner = Signer { slot: SLOT, private: &SLOT_SIGNING_PRIVATE };
        self.objects.insert(name, build_signed(kind, REPOSITORY, &owner, payload).0);
    }

    fn by_root(&mut self, name: &str, kind: ObjectKind, payload: &[u8]) {
        let root = Signer { slot: SlotId([0; 16]), private: &ROOT_PRIVATE };
        let (bytes, digest) = build_signed(kind, REPOSITORY, &root, payload);
        self.objects.insert(name.replace("DIGEST", &digest.to_string()), bytes);
    }

    fn sealed(&mut self, name: &str, kind: ObjectKind, payload: Vec<u8>) -> [u8; 32] {
        let owner = Signer { slot: SLOT, private: &SLOT_SIGNING_PRIVATE };
        let (bytes, digest) = build_sealed(kind, &self.keyring, &owner, payload, &self.random).expect("a ring");
        self.objects.insert(name.replace("DIGEST", &digest.to_string()), bytes);
        digest.0
    }
}

fn node(name: &str, kind: NodeKind, mode: u32) -> Node {
    Node {
        name: name.into(),
        kind,
        mode,
        uid: 1000,
        gid: 1000,
        user: b"mason".to_vec(),
        group: Vec::new(),
        modified_at: Timestamp { seconds: 1_600_000_000, nanoseconds: 123_456_789 },
        xattrs: Vec::new(),
        link_group: None,
    }
}

fn file(name: &str, extents: &[Extent]) -> Node {
    let size = extents.iter().map(Extent::length).sum();
    node(name, NodeKind::File { size, content: Content::Inline(extents.to_vec()), inconsistent: false }, 0o640)
}

fn tree(nodes: &[Node]) -> Plain {
    let mut body = Vec::new();
    nodes.iter().for_each(|node| encode_node(node, &mut body));
    Plain { kind: ChunkKind::Tree, bytes: encode_chunk(0, nodes.len(), &body) }
}

/// The revoked writer of the third region, and the sessions of its snapshots.
const WRITER: SlotId = SlotId([0x23; 16]);
const WRITER_SIGNING_PRIVATE: [u8; 32] = [0x45; 32];
const WRITER_KEM_PRIVATE: [u8; 32] = [0x56; 32];
const WRITER_SESSIONS: [SessionId; 2] = [SessionId([0x78; 16]), SessionId([0x79; 16])];

/// What the third region has besides: `parts` names the list, `objects` takes what the writer signed.
fn revoked_writer(builder: &mut Builder, snapshot: &Snapshot, listings: &[Digest]) {
    let writer = Signer { slot: WRITER, private: &WRITER_SIGNING_PRIVATE };
    let mut accepted = Vec::new();
    for (session, dataset) in WRITER_SESSIONS.into_iter().zip(["accepted", "refused"]) {
        let snapshot = Snapshot { dataset: dataset.into(), ..snapshot.clone() };
        let sealed = build_sealed(ObjectKind::Snapshot, &builder.keyring, &writer, snapshot.encode(), &builder.random);
        let (bytes, snapshot) = sealed.expect("a ring");
        builder.objects.insert(format!("snapshots/{snapshot}"), bytes);
        let commit = Commit { session, region: REGION, snapshot: SnapshotId(snapshot.0), observed: 0 };
        let (bytes, commit) = build_signed(ObjectKind::Commit, REPOSITORY, &writer, &commit.encode());
        builder.objects.insert(format!("commits/{session}"), bytes);
        if dataset == "accepted" {
            accepted.extend([snapshot, commit]);
        }
    }
    accepted.sort_unstable();
    let part = Accepted { slot: WRITER, number: 5, digests: accepted };
    builder.by_root(&accepted_name(WRITER, 5), ObjectKind::Accepted, &part.encode());
    let mut listings = listings.to_vec();
    listings.sort_unstable();
    let owner = Signer { slot: SLOT, private: &SLOT_SIGNING_PRIVATE };
    let attestation = Attestation { listings, attested_at: CREATED_AT };
    let (bytes, digest) = build_signed(ObjectKind::Attestation, REPOSITORY, &owner, &attestation.encode());
    builder.objects.insert(format!("attest/{digest}"), bytes);
}

fn build(suite: Suite, third: bool) -> BTreeMap<String, Vec<u8>> {
    let random = SeededRandom::new(10 + suite as u64 + 10 * u64::from(third));
    let ring = Keyring::generate(&random);
    let mut rings = BTreeMap::from([(1, ring.clone())]);
    if third {
        let mut second = Keyring::generate(&random);
        (second.id, second.gear) = (ring.id, ring.gear);
        rings.insert(3, second);
    }
    let keyring = Keyring::new(REPOSITORY, suite, rings.clone()).expect("one ring");
    let mut builder =
        Builder { keyring, random, objects: BTreeMap::new(), packs: Vec::new(), ordinals: HashMap::new() };

    let root_public_key = sign::public_key(&ROOT_PRIVATE);
    let config = Config { repository: REPOSITORY, suite, root_public_key, created_at: CREATED_AT };
    builder.by_root("config", ObjectKind::Config, &config.encode());
    let region = Region { region: REGION, put_if_absent: true, deletes: true, created_at: CREATED_AT };
    builder.by_root("region", ObjectKind::Region, &region.encode());
    let kem_public = kem_public(&SLOT_KEM_PRIVATE).expect("a key");
    let roster = Roster {
        number: 1,
        slots: vec![RosterSlot {
            slot: SLOT,
            role: Role::Owner,
            state: SlotState::Active,
            label: "owner".into(),
            wrapping: "passphrase".into(),
            kem_public: kem_public.clone(),
            signing_public: sign::public_key(&SLOT_SIGNING_PRIVATE),
            created_at: CREATED_AT,
        }],
        epochs: Vec::new(),
        accepted: Vec::new(),
        previous: Vec::new(),
    };
    let mut roster = roster;
    if third {
        roster.number = 4;
        roster.slots.push(RosterSlot {
            slot: WRITER,
            role: Role::Writer,
            state: SlotState::Revoked,
            label: "stolen".into(),
            wrapping: "x25519".into(),
            kem_public: writer_kem_public(),
            signing_public: sign::public_key(&WRITER_SIGNING_PRIVATE),
            created_at: CREATED_AT,
        });
        let commitment = |epoch, ring| epoch_commitment(REPOSITORY, epoch, ring);
        roster.epochs = rings
            .iter()
            .map(|(epoch, ring)| RosterEpoch { epoch: *epoch, commitment: commitment(*epoch, ring) })
            .collect();
        roster.accepted = vec![AcceptedParts { slot: WRITER, first: 5, count: 1, digests: Vec::new() }];
    }
    builder.by_root(&format!("roster/{}-DIGEST", number_name(roster.number)), ObjectKind::Roster, &roster.encode());
    for (epoch, ring) in &rings {
        let (encapsulated, sealed) =
            seal_ring(suite, REPOSITORY, *epoch, SLOT, &kem_public, ring, &builder.random).expect("a key");
        let ring = Ring { epoch: *epoch, slot: SLOT, encapsulated, sealed };
        builder.by_root(&format!("ring/{}/{SLOT}", number_name(*epoch)), ObjectKind::Ring, &ring.encode());
    }
    if third {
        // Left by a rotation that didn't end: the roster doesn't state its epoch.
        let other = Keyring::generate(&builder.random);
        let (encapsulated, sealed) =
            seal_ring(suite, REPOSITORY, 2, SLOT, &kem_public, &other, &builder.random).expect("a key");
        let ring = Ring { epoch: 2, slot: SLOT, encapsulated, sealed };
        builder.by_root(&format!("ring/{}/{SLOT}", number_name(2)), ObjectKind::Ring, &ring.encode());
    }

    let texts = texts();
    let data = |bytes: &[u8]| Plain { kind: ChunkKind::Data, bytes: bytes.to_vec() };
    let extent =
        |builder: &Builder, bytes: &[u8]| Extent::Chunk { id: builder.id(&data(bytes)), length: bytes.len() as u32 };
    let compressed = compressed();
    let dense = noise("dense", 5000);
    let extents: Vec<Extent> = texts.iter().map(|text| extent(&builder, text)).collect();
    let dense_extent = extent(&builder, &dense);
    builder.pack(false, vec![texts.iter().map(|text| data(text)).collect(), vec![data(&dense)]], &compressed);

    let mut body = Vec::new();
    extents.iter().for_each(|extent| encode_extent(extent, &mut body));
    let list = Plain { kind: ChunkKind::List, bytes: encode_chunk(0, extents.len(), &body) };
    let size = extents.iter().map(Extent::length).sum();
    let content = Content::List(builder.id(&list));
    let long = node("long.txt", NodeKind::File { size, content, inconsistent: false }, 0o600);
    let mut attributed = file("attributed", &extents[..1]);
    attributed.xattrs = vec![(b"user.keepstone".to_vec(), b"yes".to_vec())];
    let linked = |name| {
        let mut node = file(name, &extents[1..3]);
        node.link_group = Some(b"a-first".to_vec());
        node
    };
    let sparse = [Extent::Hole { length: 1 << 20 }, dense_extent, Extent::Hole { length: 4096 }];
    let inner = tree(&[
        node("fifo", NodeKind::Fifo, 0o600),
        node("link", NodeKind::Symlink { target: b"../a-first".to_vec() }, 0o777),
        linked("second"),
    ]);
    let nothing = tree(&[]);
    let directory =
        |builder: &Builder, name, chunk: &Plain| node(name, NodeKind::Directory { tree: builder.id(chunk) }, 0o750);
    let listing = tree(&[
        linked("a-first"),
        attributed,
        file("empty", &[]),
        directory(&builder, "empty-directory", &nothing),
        directory(&builder, "inner", &inner),
        long,
        file("sparse", &sparse),
    ]);
    let root = tree(&[directory(&builder, "root", &listing)]);
    let root_id = builder.id(&root);
    builder.pack(true, vec![vec![list, nothing], vec![inner, listing, root]], &[]);

    let segment = Segment { supersedes: Vec::new(), packs: builder.packs.clone() };
    let listings = listings(&segment);
    let segment = segment.encode();
    let mut payload = (segment.len() as u32).to_le_bytes().to_vec();
    payload.push(0);
    payload.extend_from_slice(&segment);
    builder.sealed("index/DIGEST", ObjectKind::Segment, payload);

    let private = SnapshotPrivate {
        sources: vec![b"/srv/stone".to_vec()],
        root_path: b"/srv/stone".to_vec(),
        command: Vec::new(),
        omitted: vec![NotCaptured { path: b"cache".to_vec(), why: "excluded".into(), detail: String::new() }],
        issues: Vec::new(),
    }
    .encode();
    let (record, key) = builder.keyring.create_section(&builder.random).expect("an owner's ring");
    let mut sealed_private = Vec::new();
    record.encode_into(&mut sealed_private);
    sealed_private.extend_from_slice(&(private.len() as u32).to_le_bytes());
    let mut plain = [&[0][..], &private].concat();
    key.seal(0, private.len() as u32, &mut plain);
    sealed_private.extend_from_slice(&plain);
    let sizes: u64 = [&extents[..], &extents[..1], &extents[1..3], &extents[1..3], &sparse]
        .iter()
        .flat_map(|extents| extents.iter().map(Extent::length))
        .sum();
    let snapshot = Snapshot {
        dataset: "quarry".into(),
        host: "mason".into(),
        started_at: CREATED_AT,
        finished_at: CREATED_AT + 1,
        tags: vec!["first".into()],
        source: SourceKind::Tree,
        root: root_id,
        counts: Counts { files: 6, directories: 3, others: 2, bytes: sizes, omitted: 1, issues: 0 },
        partial: false,
        chunk_average_bytes: 65_536,
        program: "keepstone vectors".into(),
        private: sealed_private,
    };
    if third {
        revoked_writer(&mut builder, &snapshot, &listings);
    }
    let snapshot = SnapshotId(builder.sealed("snapshots/DIGEST", ObjectKind::Snapshot, snapshot.encode()));

    let session = |number, observed| Session {
        session: SESSION,
        number,
        region: REGION,
        observed,
        needs: Vec::new(),
        adopts: Vec::new(),
        started_at: CREATED_AT,
        bases: Vec::new(),
    };
    for number in 0..2 {
        let name = format!("sessions/{SESSION}/{}", number_name(number));
        builder.signed(name, ObjectKind::Session, &session(number, 0).encode());
    }
    let commit = Commit { session: SESSION, region: REGION, snapshot, observed: 0 };
    builder.signed(format!("commits/{SESSION}"), ObjectKind::Commit, &commit.encode());
    let verdict = Verdict {
        snapshot,
        number: 1,
        ruling: Ruling::Hold,
        decided_at: CREATED_AT,
        reason: "a vector is kept".into(),
        until: None,
    };
    builder.sealed(&format!("verdicts/{snapshot}/{}-DIGEST", number_name(1)), ObjectKind::Verdict, verdict.encode());
    let tags = Tags { snapshot, number: 1, tags: vec!["first".into(), "kept".into()] };
    builder.sealed(&format!("tags/{snapshot}/{}-DIGEST", number_name(1)), ObjectKind::Tags, tags.encode());
    let first = AuditEntry {
        slot: SLOT,
        number: 1,
        previous: Vec::new(),
        label: "owner".into(),
        host: "mason".into(),
        recorded_at: CREATED_AT,
        action: Action::Init,
        subjects: vec![SLOT.0.to_vec()],
        figures: vec![("regions".into(), 1)],
        reason: String::new(),
    };
    let name = format!("audit/{SLOT}/{}", number_name(1));
    let first_digest = builder.sealed(&name, ObjectKind::Audit, first.encode());
    let second = AuditEntry {
        number: 2,
        previous: vec![Digest(first_digest)],
        action: Action::Hold,
        subjects: vec![snapshot.0.to_vec()],
        figures: Vec::new(),
        reason: "a vector is kept".into(),
        ..first
    };
    let name = format!("audit/{SLOT}/{}-DIGEST", number_name(2));
    builder.sealed(&name, ObjectKind::Audit, second.encode());
    builder.objects
}

fn writer_kem_public() -> Vec<u8> {
    kem_public(&WRITER_KEM_PRIVATE).expect("a key")
}

/// A frame's compressed form. zstd's output may change between its releases, what it means may not:
/// it is written once and decompressed ever after.
fn compressed() -> Vec<u8> {
    let raw: Vec<u8> = texts().concat();
    let value = stored_or(
        "zstd.json",
        || json!({ "raw": hex(&raw), "compressed": hex(&zstd::bulk::compress(&raw, 3).expect("in memory")) }),
    );
    let compressed = unhex(value["compressed"].as_str().expect("text"));
    assert_eq!(zstd::bulk::decompress(&compressed, raw.len()).expect("a zstd frame"), raw);
    assert_eq!(value["raw"], hex(&raw));
    compressed
}

fn texts() -> Vec<Vec<u8>> {
    (0..6).map(|part| format!("part {part}: {}\n", "stone ".repeat(40)).into_bytes()).collect()
}

#[test]
fn frozen_regions() {
    for (folder, suite) in [(1, Suite::ChaCha20Poly1305), (2, Suite::Aes256Gcm), (3, Suite::ChaCha20Poly1305)] {
        let objects = build(suite, folder == 3);
        let folder = vectors_path(&format!("region-{folder}"));
        if writing() {
            for (name, bytes) in &objects {
                let path = folder.join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
                fs::write(path, bytes).expect("writable");
            }
            let key_files = key_files();
            let file = unhex(key_files["scrypt_file"].as_str().expect("text"));
            let path = folder.join(format!("keys/{SLOT}/{}.age", number_name(0)));
            fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
            fs::write(path, file).expect("writable");
        }
        for (name, bytes) in &objects {
            assert!(fs::read(folder.join(name)).is_ok_and(|stored| stored == *bytes), "{suite:?}: {name}");
        }
        assert_eq!(count(&folder), objects.len() + 1, "objects of suite {suite:?} and the key file");
    }
}

/// The program makes of the third region what the pages say: `SIGN-3`, `ACCEPT-2`, `RING-5`, `ATTEST-2`.
#[test]
fn of_a_revoked_writer_counts_what_is_accepted() {
    let store = MemoryStore::new();
    for (name, bytes) in build(Suite::ChaCha20Poly1305, true) {
        store.put_new(&name, &bytes.into()).expect("a new name");
    }
    let file = unhex(key_files()["scrypt_file"].as_str().expect("text"));
    store.put_new(&format!("keys/{SLOT}/{}.age", number_name(0)), &file.into()).expect("a new name");
    let spec = RegionSpec { name: "vectors".into(), store: Arc::new(store) };
    let unlock = Unlock::Passphrase(PASSPHRASE.to_owned().into());
    let repository = Located::open(&[spec], None)
        .and_then(|located| located.unlock(&unlock, Arc::new(SystemClock), Arc::new(SystemRandom)))
        .expect("it opens");
    assert_eq!(repository.keyring.rings().keys().copied().collect::<Vec<_>>(), [1, 3]);
    let listing = list(&repository).expect("a list");
    assert_eq!(listing.issues, []);
    let mut datasets: Vec<&str> = listing.snapshots.iter().map(|info| info.snapshot.dataset.as_str()).collect();
    datasets.sort_unstable();
    assert_eq!(datasets, ["accepted", "quarry"]);
    let report = check(
        &repository,
        None,
        &Options { read_data: Some(Subset::All), threads: 0, memory_bytes: 64 << 20, spill: None },
        &Silent,
    );
    let report = report.expect("it is checked");
    assert_eq!((report.issues, report.regions[0].chunks_verified), (vec![], 12));
    let (attested, issues) = attest::read(&repository);
    assert_eq!(issues, []);
    assert!(report.verified.iter().all(|listing| attested.contains(listing)) && report.verified.len() == 2);
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

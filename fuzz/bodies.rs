//! What is asked of every decoder: no input makes it panic, and what it accepts is the one encoding of
//! what it read. Run by the fuzz targets beside this file, and by `tests/fuzz_smoke.rs` on mutated seeds.

use keepstone::compress::{Compression, compress, decompress};
use keepstone::crypto::slot::{Unlock, unwrap};
use keepstone::format::accepted::Accepted;
use keepstone::format::attestation::Attestation;
use keepstone::format::audit::{Action, AuditEntry};
use keepstone::format::config::{Config, Region, Suite};
use keepstone::format::designation::Designation;
use keepstone::format::envelope::{self, Envelope, ObjectKind, Sealing};
use keepstone::format::gc::{Condemn, Fence, Final};
use keepstone::format::ids::{
    ChunkId, ChunkKind, Digest, PackId, RegionId, RepositoryId, SectionId, SegmentId, SessionId, SlotId, SnapshotId,
};
use keepstone::format::node::{Content, Extent, Node, NodeKind, Timestamp};
use keepstone::format::pack::{
    Directory, DirectoryChunk, DirectoryFrame, Footer, PackHeader, SECTION_RECORD_BYTES, SectionRecord,
};
use keepstone::format::ring::{ENCAPSULATED_BYTES, Ring, RingSecrets, SlotSecrets};
use keepstone::format::roster::{AcceptedParts, KEM_PUBLIC_BYTES, Role, Roster, RosterEpoch, RosterSlot, SlotState};
use keepstone::format::segment::{Reference, Segment, SegmentChunk, SegmentFrame, SegmentPack};
use keepstone::format::sequence::{
    Child, SequenceChunk, decode_chunk, encode_child, encode_chunk, encode_extent, encode_node, references,
};
use keepstone::format::session::{Commit, Session, SessionEnd};
use keepstone::format::snapshot::{Counts, NotCaptured, Snapshot, SnapshotPrivate, SourceKind};
use keepstone::format::verdict::{Ruling, Tags, Verdict};
use keepstone::index::record::{PackEntry, decode_places, put_places};
use keepstone::store::remote::message::{Reply, Request};
use keepstone::store::{Listed, StoreErrorKind};
use zeroize::Zeroizing;

/// One decoder under test.
pub struct Body {
    /// Its name; also the fuzz target's.
    pub name: &'static str,
    /// Decodes; panics when a promise is broken. True when the input was accepted.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that must be accepted, from which mutation starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const BODIES: &[Body] = &[
    Body { name: "envelope", run: envelope, seeds: envelope_seeds },
    Body { name: "config", run: config, seeds: config_seeds },
    Body { name: "region", run: region, seeds: region_seeds },
    Body { name: "roster", run: roster, seeds: roster_seeds },
    Body { name: "accepted", run: accepted, seeds: accepted_seeds },
    Body { name: "attestation", run: attestation, seeds: attestation_seeds },
    Body { name: "ring", run: ring, seeds: ring_seeds },
    Body { name: "ring_secrets", run: ring_secrets, seeds: ring_secrets_seeds },
    Body { name: "slot_secrets", run: slot_secrets, seeds: slot_secrets_seeds },
    Body { name: "key_file", run: key_file, seeds: key_file_seeds },
    Body { name: "pack_header", run: pack_header, seeds: pack_header_seeds },
    Body { name: "pack_directory", run: pack_directory, seeds: pack_directory_seeds },
    Body { name: "pack_footer", run: pack_footer, seeds: pack_footer_seeds },
    Body { name: "segment", run: segment, seeds: segment_seeds },
    Body { name: "tree", run: tree, seeds: tree_seeds },
    Body { name: "list", run: list, seeds: list_seeds },
    Body { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
    Body { name: "snapshot_private", run: snapshot_private, seeds: snapshot_private_seeds },
    Body { name: "session", run: session, seeds: session_seeds },
    Body { name: "session_end", run: session_end, seeds: session_end_seeds },
    Body { name: "commit", run: commit, seeds: commit_seeds },
    Body { name: "verdict", run: verdict, seeds: verdict_seeds },
    Body { name: "tags", run: tags, seeds: tags_seeds },
    Body { name: "audit_entry", run: audit_entry, seeds: audit_entry_seeds },
    Body { name: "designation", run: designation, seeds: designation_seeds },
    Body { name: "gc_condemn", run: condemn, seeds: condemn_seeds },
    Body { name: "gc_fence", run: fence, seeds: fence_seeds },
    Body { name: "gc_final", run: gc_final, seeds: gc_final_seeds },
    Body { name: "decompression", run: decompression, seeds: decompression_seeds },
    Body { name: "index_pack", run: index_pack, seeds: index_pack_seeds },
    Body { name: "index_places", run: index_places, seeds: index_places_seeds },
    Body { name: "serve_request", run: serve_request, seeds: serve_request_seeds },
    Body { name: "serve_reply", run: serve_reply, seeds: serve_reply_seeds },
];

/// Writes a body's seeds to `$KEEPSTONE_FUZZ_CORPUS/<name>/`; a fuzz target does so before it starts.
#[allow(dead_code, reason = "the smoke test mutates seeds itself")]
pub fn plant(name: &str) {
    let Some(corpus) = std::env::var_os("KEEPSTONE_FUZZ_CORPUS") else { return };
    let directory = std::path::Path::new(&corpus).join(name);
    std::fs::create_dir_all(&directory).expect("a corpus directory");
    for (at, seed) in (body(name).seeds)().into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{at}")), seed).expect("a seed");
    }
}

/// The body of this name.
#[allow(dead_code, reason = "the smoke test runs all of them")]
pub fn body(name: &str) -> &'static Body {
    BODIES.iter().find(|body| body.name == name).expect("a body of this name")
}

/// A decoder and its encoder, as a function on bytes.
macro_rules! canonical {
    ($name:ident, $type:ty) => {
        fn $name(data: &[u8]) -> bool {
            match <$type>::decode(data) {
                Ok(value) => {
                    // The bytes that it came from are the only encoding of a value.
                    assert_eq!(&value.encode()[..], data);
                    true
                }
                Err(_) => false,
            }
        }
    };
}

canonical!(config, Config);
canonical!(region, Region);
canonical!(roster, Roster);
canonical!(accepted, Accepted);
canonical!(attestation, Attestation);
canonical!(ring, Ring);
canonical!(ring_secrets, RingSecrets);
canonical!(slot_secrets, SlotSecrets);
canonical!(segment, Segment);
canonical!(snapshot, Snapshot);
canonical!(snapshot_private, SnapshotPrivate);
canonical!(session, Session);
canonical!(session_end, SessionEnd);
canonical!(commit, Commit);
canonical!(verdict, Verdict);
canonical!(tags, Tags);
canonical!(audit_entry, AuditEntry);
canonical!(designation, Designation);
canonical!(condemn, Condemn);
canonical!(fence, Fence);
canonical!(gc_final, Final);

fn config_seeds() -> Vec<Vec<u8>> {
    let config = |suite| Config { repository: REPOSITORY, suite, root_public_key: [7; 32], created_at: NOW };
    vec![config(Suite::ChaCha20Poly1305).encode(), config(Suite::Aes256Gcm).encode()]
}

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
const REGION: RegionId = RegionId([2; 16]);
const SESSION: SessionId = SessionId([3; 16]);
const SLOT: SlotId = SlotId([4; 16]);
const SNAPSHOT: SnapshotId = SnapshotId([5; 32]);
const NOW: i64 = 1_760_000_000_000_000_000;

fn chunk(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

fn envelope(data: &[u8]) -> bool {
    let Ok((body, digest)) = envelope::split_trailer(data) else { return false };
    assert_eq!(body.len() + digest.0.len(), data.len());
    // The kind is the caller's word; the one that the bytes state leads furthest.
    let Some(kind) = data.get(4).copied().and_then(ObjectKind::from_code) else { return false };
    match envelope::decode(kind, data) {
        Ok(object) => {
            assert_eq!(object.envelope.encode_signed_part(), object.signed_part);
            assert_eq!(object.signed_part.len() + object.signature.len(), body.len());
            assert_eq!(object.digest, digest);
            true
        }
        Err(_) => false,
    }
}

fn envelope_seeds() -> Vec<Vec<u8>> {
    let object = |kind, sealing, payload| {
        let envelope = Envelope { kind, repository: REPOSITORY, signer: SLOT, sealing, payload };
        let mut bytes = envelope.encode_signed_part();
        bytes.extend_from_slice(&[9; envelope::SIGNATURE_BYTES + envelope::TRAILER_BYTES]);
        bytes
    };
    let sealing = Sealing { epoch: 3, salt: [6; 32] };
    vec![object(ObjectKind::Commit, None, b"payload"), object(ObjectKind::Segment, Some(sealing), &[8; 40])]
}

fn region_seeds() -> Vec<Vec<u8>> {
    vec![Region { region: REGION, put_if_absent: true, deletes: false, created_at: NOW }.encode()]
}

fn roster_seeds() -> Vec<Vec<u8>> {
    let slot = |byte, role, state| RosterSlot {
        slot: SlotId([byte; 16]),
        role,
        state,
        label: "a laptop".to_owned(),
        wrapping: "passphrase".to_owned(),
        kem_public: vec![byte; KEM_PUBLIC_BYTES],
        signing_public: [byte; 32],
        created_at: NOW,
    };
    let slots = vec![slot(1, Role::Owner, SlotState::Active), slot(2, Role::Writer, SlotState::Revoked)];
    let epoch = |epoch| RosterEpoch { epoch, commitment: [epoch as u8; 32] };
    let (epochs, accepted) = (
        vec![epoch(1), epoch(4)],
        vec![AcceptedParts {
            slot: slots[1].slot,
            first: 1,
            count: 2,
            digests: vec![Digest([8; 32]), Digest([7; 32])],
        }],
    );
    let first = Roster {
        number: 1,
        slots: slots[..1].to_vec(),
        epochs: Vec::new(),
        accepted: Vec::new(),
        previous: Vec::new(),
    };
    vec![first.encode(), Roster { number: 2, slots, epochs, accepted, previous: vec![Digest([9; 32])] }.encode()]
}

fn accepted_seeds() -> Vec<Vec<u8>> {
    let digests = vec![Digest([1; 32]), Digest([2; 32])];
    vec![Accepted { slot: SLOT, number: 3, digests }.encode()]
}

fn attestation_seeds() -> Vec<Vec<u8>> {
    vec![Attestation { listings: vec![Digest([1; 32]), Digest([2; 32])], attested_at: NOW }.encode()]
}

fn ring_seeds() -> Vec<Vec<u8>> {
    vec![Ring { epoch: 1, slot: SLOT, encapsulated: vec![1; ENCAPSULATED_BYTES], sealed: vec![2; 200] }.encode()]
}

fn ring_secrets_seeds() -> Vec<Vec<u8>> {
    let all = RingSecrets {
        id: Some([1; 32]),
        gear: Some([2; 32]),
        meta: [3; 32],
        seal_public: Some(vec![4; KEM_PUBLIC_BYTES]),
        seal_private: Some([5; 32]),
    };
    let maintainer = RingSecrets { id: None, gear: None, meta: [3; 32], seal_public: None, seal_private: None };
    vec![all.encode().to_vec(), maintainer.encode().to_vec()]
}

fn slot_secrets_seeds() -> Vec<Vec<u8>> {
    let secrets = |root_private| SlotSecrets {
        repository: REPOSITORY,
        slot: SLOT,
        kem_private: [1; 32],
        signing_private: [2; 32],
        root_private,
    };
    vec![secrets(None).encode().to_vec(), secrets(Some([3; 32])).encode().to_vec()]
}

/// An age identity that nothing is encrypted to: passphrase files would cost scrypt's work each time.
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

fn key_file(data: &[u8]) -> bool {
    let opened = unwrap(data, &Unlock::Identities(Zeroizing::new(IDENTITY.to_owned())));
    opened.is_ok()
}

fn key_file_seeds() -> Vec<Vec<u8>> {
    use keepstone::crypto::slot::{Wrapping, wrap};
    let secrets = SlotSecrets {
        repository: REPOSITORY,
        slot: SLOT,
        kem_private: [1; 32],
        signing_private: [2; 32],
        root_private: Some([3; 32]),
    };
    let identity: age::x25519::Identity = IDENTITY.parse().expect("an identity");
    let recipient = Wrapping::Recipient(identity.to_public().to_string());
    vec![wrap(&secrets, &recipient).expect("a key file")]
}

fn pack_header(data: &[u8]) -> bool {
    match PackHeader::decode(data) {
        Ok(header) => {
            // The frames follow it: the rest is not looked at.
            assert_eq!(header.encode(), &data[..PackHeader::length(header.sections.len())]);
            true
        }
        Err(_) => false,
    }
}

fn pack_header_seeds() -> Vec<Vec<u8>> {
    let section = |byte| SectionRecord {
        section: SectionId([byte; 16]),
        epoch: 1,
        encapsulated: [byte; ENCAPSULATED_BYTES],
        sealed_secret: [byte; 48],
        commitment: [byte; 32],
    };
    assert_eq!(PackHeader::length(1) - PackHeader::length(0), SECTION_RECORD_BYTES);
    let header = |metadata, sections| PackHeader {
        metadata,
        repository: REPOSITORY,
        session: SESSION,
        epoch: 1,
        salt: [5; 32],
        sections,
    };
    vec![header(false, vec![section(1)]).encode(), header(true, vec![section(1), section(2)]).encode()]
}

/// The first byte says what kind of pack it is, and of how many sections.
fn pack_directory(data: &[u8]) -> bool {
    let Some((first, bytes)) = data.split_first() else { return false };
    match Directory::decode(bytes, usize::from(first >> 1), first & 1 == 1) {
        Ok(directory) => {
            assert_eq!(directory.encode(), bytes);
            true
        }
        Err(_) => false,
    }
}

fn pack_directory_seeds() -> Vec<Vec<u8>> {
    let frame = |number, kind| DirectoryFrame {
        section: 0,
        number,
        sealed_length: 900,
        raw_length: 3000,
        chunks: vec![DirectoryChunk { kind, length: 1000 }, DirectoryChunk { kind, length: 2000 }],
    };
    let seed = |metadata: bool, kind| {
        let mut bytes = vec![2 << 1 | u8::from(metadata)];
        bytes.extend(Directory { frames: vec![frame(0, kind), frame(900, kind)] }.encode());
        bytes
    };
    vec![seed(false, ChunkKind::Data), seed(true, ChunkKind::Tree), seed(true, ChunkKind::List)]
}

/// The first eight bytes are the pack's length.
fn pack_footer(data: &[u8]) -> bool {
    let Some((length, bytes)) = data.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    match Footer::decode(bytes, length) {
        Ok(footer) => {
            assert!(footer.directory_offset.checked_add(footer.directory_length).is_some_and(|end| end < length));
            assert_eq!(footer.encode(), bytes);
            true
        }
        Err(_) => false,
    }
}

fn pack_footer_seeds() -> Vec<Vec<u8>> {
    let mut bytes = (32u64 << 20).to_le_bytes().to_vec();
    bytes.extend_from_slice(&Footer { directory_offset: 31 << 20, directory_length: 500 }.encode());
    vec![bytes]
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let chunk = |byte, kind, references| SegmentChunk { id: chunk(byte), kind, length: 100, references };
    let data = SegmentPack {
        pack: PackId([1; 32]),
        size: 1 << 20,
        session: SESSION,
        origin: SLOT,
        metadata: false,
        sections: vec![SectionId([4; 16]), SectionId([5; 16])],
        frames: vec![SegmentFrame {
            section: 1,
            number: 9,
            sealed_length: 77,
            chunks: vec![chunk(10, ChunkKind::Data, vec![]), chunk(11, ChunkKind::Data, vec![])],
        }],
    };
    let references = vec![Reference::Ordinal(1), Reference::Prefix([8; 8]), Reference::Ordinal(0)];
    let tree = SegmentPack {
        pack: PackId([6; 32]),
        metadata: true,
        sections: vec![SectionId([7; 16])],
        frames: vec![SegmentFrame {
            section: 0,
            number: 0,
            sealed_length: 50,
            chunks: vec![chunk(12, ChunkKind::Tree, references), chunk(13, ChunkKind::List, vec![])],
        }],
        ..data.clone()
    };
    let supersedes = vec![SegmentId([0; 32]), SegmentId([1; 32])];
    vec![Segment { supersedes, packs: vec![data, tree] }.encode(), Segment::default().encode()]
}

fn sequence(kind: ChunkKind, data: &[u8]) -> bool {
    let Ok(chunk) = decode_chunk(kind, data) else { return false };
    let mut body = Vec::new();
    let (level, records) = match &chunk {
        SequenceChunk::Nodes(nodes) => {
            nodes.iter().for_each(|node| encode_node(node, &mut body));
            (0, nodes.len())
        }
        SequenceChunk::Extents(extents) => {
            extents.iter().for_each(|extent| encode_extent(extent, &mut body));
            (0, extents.len())
        }
        SequenceChunk::Children { level, children } => {
            children.iter().for_each(|child| encode_child(kind, child, &mut body));
            (*level, children.len())
        }
    };
    assert_eq!(encode_chunk(level, records, &body), data);
    let found = references(&chunk);
    assert_eq!(found.iter().collect::<std::collections::HashSet<_>>().len(), found.len(), "each reference once");
    true
}

fn tree(data: &[u8]) -> bool {
    sequence(ChunkKind::Tree, data)
}

fn list(data: &[u8]) -> bool {
    sequence(ChunkKind::List, data)
}

fn tree_seeds() -> Vec<Vec<u8>> {
    let node = |name: &str, kind| Node {
        name: name.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        user: b"anna".to_vec(),
        group: Vec::new(),
        modified_at: Timestamp { seconds: -5, nanoseconds: 999_999_999 },
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())],
        link_group: None,
    };
    let extents = vec![Extent::Chunk { id: chunk(1), length: 4096 }, Extent::Hole { length: 100 }];
    let mut linked = node("a", NodeKind::File { size: 4196, content: Content::Inline(extents), inconsistent: true });
    linked.link_group = Some(b"some/where".to_vec());
    let kinds = [
        NodeKind::File { size: 0, content: Content::Inline(Vec::new()), inconsistent: false },
        NodeKind::File { size: 1 << 40, content: Content::List(chunk(2)), inconsistent: false },
        NodeKind::Directory { tree: chunk(3) },
        NodeKind::Symlink { target: b"../elsewhere".to_vec() },
        NodeKind::CharacterDevice { major: 1, minor: 3 },
        NodeKind::BlockDevice { major: 8, minor: 1 },
        NodeKind::Fifo,
    ];
    let mut nodes = vec![linked];
    nodes.extend(kinds.into_iter().enumerate().map(|(at, kind)| node(&format!("b{at}"), kind)));
    let mut body = Vec::new();
    nodes.iter().for_each(|node| encode_node(node, &mut body));
    vec![encode_chunk(0, nodes.len(), &body), encode_chunk(0, 0, &[]), children(ChunkKind::Tree)]
}

fn children(kind: ChunkKind) -> Vec<u8> {
    let mut body = Vec::new();
    for at in 1..5u8 {
        let last_name = if kind == ChunkKind::Tree { vec![b'a' + at] } else { Vec::new() };
        encode_child(kind, &Child { id: chunk(at), last_name, weight: 1 << (at * 9) }, &mut body);
    }
    encode_chunk(1, 4, &body)
}

fn list_seeds() -> Vec<Vec<u8>> {
    let extents = [Extent::Chunk { id: chunk(1), length: 65536 }, Extent::Hole { length: 1 << 40 }];
    let mut body = Vec::new();
    extents.iter().for_each(|extent| encode_extent(extent, &mut body));
    vec![encode_chunk(0, extents.len(), &body), children(ChunkKind::List)]
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let snapshot = Snapshot {
        dataset: "home".to_owned(),
        host: "laptop".to_owned(),
        started_at: NOW,
        finished_at: NOW + 1,
        tags: vec!["daily".to_owned(), "weekly".to_owned()],
        source: SourceKind::Tree,
        root: chunk(1),
        counts: Counts { files: 1, directories: 2, others: 3, bytes: 1 << 40, omitted: 5, issues: 6 },
        partial: true,
        chunk_average_bytes: 65536,
        program: "keepstone 0.1.0".to_owned(),
        private: vec![7; 100],
    };
    vec![snapshot.encode()]
}

fn snapshot_private_seeds() -> Vec<Vec<u8>> {
    let lost = |path: &str, why: &str, detail: &str| NotCaptured {
        path: path.as_bytes().to_vec(),
        why: why.to_owned(),
        detail: detail.to_owned(),
    };
    let private = SnapshotPrivate {
        sources: vec![b"/home".to_vec(), b"/etc".to_vec()],
        root_path: b"/".to_vec(),
        command: b"pg_dump".to_vec(),
        omitted: vec![lost("home/anna/.cache", "cache", "")],
        issues: vec![lost("home/anna/key", "unreadable", "permission denied")],
    };
    vec![private.encode(), SnapshotPrivate::default().encode()]
}

fn session_seeds() -> Vec<Vec<u8>> {
    let session = Session {
        session: SESSION,
        number: 2,
        region: REGION,
        observed: 7,
        needs: vec![PackId([1; 32]), PackId([2; 32])],
        adopts: vec![SessionId([9; 16])],
        started_at: NOW,
        bases: Vec::new(),
    };
    vec![session.encode()]
}

fn session_end_seeds() -> Vec<Vec<u8>> {
    vec![SessionEnd { session: SESSION, region: REGION }.encode()]
}

fn commit_seeds() -> Vec<Vec<u8>> {
    vec![Commit { session: SESSION, region: REGION, snapshot: SNAPSHOT, observed: 7 }.encode()]
}

fn verdict_seeds() -> Vec<Vec<u8>> {
    let verdict = |ruling| Verdict {
        snapshot: SNAPSHOT,
        number: 1,
        ruling,
        decided_at: NOW,
        reason: "past its window".to_owned(),
        until: None,
    };
    let until = Verdict { until: Some(-NOW), ..verdict(Ruling::Hold) };
    vec![verdict(Ruling::Forget).encode(), verdict(Ruling::Hold).encode(), until.encode()]
}

fn tags_seeds() -> Vec<Vec<u8>> {
    vec![Tags { snapshot: SNAPSHOT, number: 3, tags: vec!["a".to_owned(), "b".to_owned()] }.encode()]
}

fn audit_entry_seeds() -> Vec<Vec<u8>> {
    let first = AuditEntry {
        slot: SlotId([4; 16]),
        number: 1,
        previous: Vec::new(),
        label: "laptop".to_owned(),
        host: "mason".to_owned(),
        recorded_at: NOW,
        action: Action::Init,
        subjects: vec![vec![4; 16]],
        figures: Vec::new(),
        reason: String::new(),
    };
    let later = AuditEntry {
        number: 9,
        previous: vec![Digest([1; 32]), Digest([2; 32])],
        action: Action::Forget,
        subjects: vec![SNAPSHOT.0.to_vec(), vec![0xff; 32]],
        figures: vec![("bytes".to_owned(), 1 << 40), ("packs".to_owned(), 3)],
        reason: "policy".to_owned(),
        ..first.clone()
    };
    vec![first.encode(), later.encode()]
}

fn designation_seeds() -> Vec<Vec<u8>> {
    let host = "mason".to_owned();
    vec![Designation { number: 1, region: REGION, slot: SlotId([4; 16]), host, decided_at: NOW }.encode()]
}

fn condemn_seeds() -> Vec<Vec<u8>> {
    let condemn = Condemn {
        generation: 1,
        region: REGION,
        packs: vec![PackId([1; 32]), PackId([2; 32])],
        forgotten: vec![(SnapshotId([3; 32]), NOW)],
    };
    vec![condemn.encode(), Condemn { forgotten: Vec::new(), ..condemn }.encode()]
}

fn fence_seeds() -> Vec<Vec<u8>> {
    vec![Fence { generation: 1, region: REGION, sessions: vec![SESSION], snapshots: vec![SNAPSHOT] }.encode()]
}

fn gc_final_seeds() -> Vec<Vec<u8>> {
    let entry = Final {
        generation: 1,
        region: REGION,
        deleted: vec![PackId([1; 32])],
        rescued: vec![PackId([2; 32])],
        fenced: vec![SESSION],
        collected: vec![SessionId([9; 16])],
        seen: vec![SNAPSHOT],
    };
    vec![entry.encode()]
}

/// The first four bytes are the stated length, kept small so that the search is fast.
fn decompression(data: &[u8]) -> bool {
    let Some((length, bytes)) = data.split_first_chunk::<4>() else { return false };
    let length = u32::from_le_bytes(*length) as usize % (1 << 20);
    match decompress(bytes, length) {
        Ok(plain) => {
            assert_eq!(plain.len(), length);
            assert_eq!(decompress(&compress(&plain, Compression::Default), length).as_deref(), Ok(&plain[..]));
            true
        }
        Err(_) => false,
    }
}

fn decompression_seeds() -> Vec<Vec<u8>> {
    let text = b"the same words again and again ".repeat(20);
    [Compression::Off, Compression::Fast, Compression::Max]
        .into_iter()
        .map(|compression| {
            let mut seed = (text.len() as u32).to_le_bytes().to_vec();
            seed.extend(compress(&text, compression));
            seed
        })
        .collect()
}

/// A cache's record: damage may be accepted where it still reads as a record, since the cache is checked
/// against packs; it may never panic, and what it reads survives being written.
fn index_pack(data: &[u8]) -> bool {
    match PackEntry::decode(data) {
        Ok(entry) => {
            assert_eq!(PackEntry::decode(&entry.encode()), Ok(entry));
            true
        }
        Err(_) => false,
    }
}

fn index_pack_seeds() -> Vec<Vec<u8>> {
    let listed = Segment::decode(&segment_seeds()[0]).expect("a segment").packs;
    listed.iter().map(|pack| PackEntry::from_segment(pack, Digest([3; 32]), &[REGION]).encode()).collect()
}

fn index_places(data: &[u8]) -> bool {
    match decode_places(data) {
        Ok(places) => {
            let mut encoded = Vec::new();
            put_places(&mut encoded, &places);
            assert_eq!(encoded, data);
            true
        }
        Err(_) => false,
    }
}

fn index_places_seeds() -> Vec<Vec<u8>> {
    vec![vec![1, 2, 3, 4, 0x80, 1, 2, 3, 4]]
}

fn serve_request(data: &[u8]) -> bool {
    match Request::decode(data) {
        Ok(request) => {
            assert_eq!(request.encode(), data);
            true
        }
        Err(_) => false,
    }
}

fn serve_request_seeds() -> Vec<Vec<u8>> {
    let name = "packs/00/0011";
    [
        Request::Hello { version_min: 1, version_max: 2, create: true, path: "/srv/backups" },
        Request::Put { name, heal: false, length: 3, first: b"abc" },
        Request::Put { name, heal: true, length: 1 << 20, first: b"" },
        Request::Get { name, bytes_max: 1 << 24 },
        Request::GetRange { name, offset: 5, length: 6 },
        Request::Size { name },
        Request::List { prefix: "packs/" },
        Request::Delete { name },
        Request::Piece(b"bytes"),
    ]
    .iter()
    .map(Request::encode)
    .collect()
}

fn serve_reply(data: &[u8]) -> bool {
    match Reply::decode(data) {
        Ok(reply) => {
            assert_eq!(reply.encode(), data);
            true
        }
        Err(_) => false,
    }
}

fn serve_reply_seeds() -> Vec<Vec<u8>> {
    let listed = |name: &str| Listed { name: name.to_owned(), size: 7 };
    [
        Reply::Welcome { version: 1, role: Role::Writer, dataset: "db" },
        Reply::Failed { kind: StoreErrorKind::Denied, detail: "SERVE-3: why" },
        Reply::Ready,
        Reply::Done { created: true },
        Reply::Bytes { length: 5 },
        Reply::Piece(b"bytes"),
        Reply::Size(None),
        Reply::Size(Some(5)),
        Reply::Entries(vec![listed("config"), listed("index/00")]),
        Reply::End { count: 2 },
    ]
    .iter()
    .map(Reply::encode)
    .collect()
}

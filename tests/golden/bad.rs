//! Malformed bytes, each with the rule that refuses it.

use crate::vectors::{REPOSITORY, ROOT_PRIVATE};
use crate::{check, hex};
use keepstone::crypto::object::{Signer, build_signed, decode};
use keepstone::crypto::{digest, sign};
use keepstone::format::accepted::Accepted;
use keepstone::format::attestation::Attestation;
use keepstone::format::audit::{Action, AuditEntry};
use keepstone::format::config::{Config, Region, Suite};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::gc::Condemn;
use keepstone::format::ids::{ChunkKind, Digest, PackId, RegionId, SessionId, SlotId, SnapshotId};
use keepstone::format::node::{Node, NodeKind};
use keepstone::format::pack::{Directory, Footer, PackHeader, SectionRecord};
use keepstone::format::ring::Ring;
use keepstone::format::roster::Roster;
use keepstone::format::segment::Segment;
use keepstone::format::sequence::{decode_chunk, encode_chunk, encode_node};
use keepstone::format::session::Session;
use keepstone::format::snapshot::{Counts, Snapshot, SourceKind};
use keepstone::format::verdict::{Ruling, Tags, Verdict};
use keepstone::format::wire::{CborWriter, DecodeError, put_varint};
use serde_json::json;

fn refuse(decoder: &str, bytes: &[u8]) -> Result<(), DecodeError> {
    match decoder {
        "config-object" => decode(ObjectKind::Config, REPOSITORY, bytes).map(|_| ()),
        "config" => Config::decode(bytes).map(|_| ()),
        "region" => Region::decode(bytes).map(|_| ()),
        "roster" => Roster::decode(bytes).map(|_| ()),
        "accepted" => Accepted::decode(bytes).map(|_| ()),
        "attestation" => Attestation::decode(bytes).map(|_| ()),
        "ring" => Ring::decode(bytes).map(|_| ()),
        "pack-header" => PackHeader::decode(bytes).map(|_| ()),
        "directory-data" => Directory::decode(bytes, 1, false).map(|_| ()),
        "footer-of-4096" => Footer::decode(bytes, 4096).map(|_| ()),
        "segment" => Segment::decode(bytes).map(|_| ()),
        "tree" => decode_chunk(ChunkKind::Tree, bytes).map(|_| ()),
        "list" => decode_chunk(ChunkKind::List, bytes).map(|_| ()),
        "snapshot" => Snapshot::decode(bytes).map(|_| ()),
        "session" => Session::decode(bytes).map(|_| ()),
        "verdict" => Verdict::decode(bytes).map(|_| ()),
        "tags" => Tags::decode(bytes).map(|_| ()),
        "audit-entry" => AuditEntry::decode(bytes).map(|_| ()),
        "condemn" => Condemn::decode(bytes).map(|_| ()),
        other => panic!("no decoder '{other}'"),
    }
}

fn cbor(write: impl FnOnce(&mut CborWriter)) -> Vec<u8> {
    let mut writer = CborWriter::new();
    write(&mut writer);
    writer.finish()
}

fn varints(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| put_varint(&mut out, *value));
    out
}

/// `bytes` with those at `at` replaced and the digest made right again.
fn forged(bytes: &[u8], at: usize, replacement: &[u8]) -> Vec<u8> {
    let mut body = bytes[..bytes.len() - 32].to_vec();
    body[at..at + replacement.len()].copy_from_slice(replacement);
    let trailer = digest(&body);
    body.extend_from_slice(&trailer);
    body
}

fn node(name: &[u8]) -> Node {
    Node { mode: 0o644, ..Node::bare(name.to_vec(), NodeKind::Fifo) }
}

fn tree(nodes: &[Node]) -> Vec<u8> {
    let mut body = Vec::new();
    nodes.iter().for_each(|node| encode_node(node, &mut body));
    encode_chunk(0, nodes.len(), &body)
}

fn tree_with(change: impl FnOnce(&mut Node)) -> Vec<u8> {
    let mut changed = node(b"entry");
    change(&mut changed);
    tree(&[changed])
}

#[test]
fn malformed_bytes_are_refused_by_name() {
    let mut cases: Vec<(&str, &str, &str, Vec<u8>)> = Vec::new();
    let mut case = |decoder, rule, what, bytes| cases.push((decoder, rule, what, bytes));

    let config = Config {
        repository: REPOSITORY,
        suite: Suite::ChaCha20Poly1305,
        root_public_key: sign::public_key(&ROOT_PRIVATE),
        created_at: 0,
    };
    let root = Signer { slot: SlotId([0; 16]), private: &ROOT_PRIVATE };
    let (object, _) = build_signed(ObjectKind::Config, REPOSITORY, &root, &config.encode());
    case("config-object", "OBJ-1", "shorter than a trailer", vec![0; 31]);
    let mut cut = object[..40].to_vec();
    cut.extend_from_slice(&digest(&object[..40]));
    case("config-object", "OBJ-1", "cut within the header", cut);
    case("config-object", "OBJ-2", "wrong magic", forged(&object, 0, b"KSTM"));
    case("config-object", "OBJ-3", "version 2", forged(&object, 5, &[2]));
    case("config-object", "OBJ-4", "unknown kind", forged(&object, 4, &[255]));
    case("config-object", "OBJ-4", "a region's kind", forged(&object, 4, &[2]));
    case("config-object", "OBJ-5", "unknown flag", forged(&object, 6, &[2]));
    case("config-object", "OBJ-6", "a salt without sealing", forged(&object, 48, &[1]));
    case("config-object", "OBJ-7", "payload length one too large", forged(&object, 80, &[object[80] + 1]));
    let mut flipped = object.clone();
    flipped[100] ^= 1;
    case("config-object", "OBJ-8", "one bit flipped", flipped);
    case("config-object", "OBJ-9", "another repository", forged(&object, 8, &[0x12]));

    let good = config.encode();
    let mut suite = good.clone();
    suite[20] = 3;
    case("config", "CONFIG-1", "suite 3", suite);
    let chunking = good.windows(7).position(|window| window == b"fastcdc").expect("the name");
    let mut other = good.clone();
    other[chunking] = b'F';
    case("config", "CONFIG-2", "unknown chunking", other);
    let flags = good.windows(2).position(|window| window == [4, 0x80]).expect("the flags");
    let mut flagged = good[..flags].to_vec();
    flagged.extend_from_slice(&[4, 0x81, 0x61, b'x']);
    flagged.extend_from_slice(&good[flags + 2..]);
    case("config", "CONFIG-3", "a required flag", flagged);
    let mut long = good[..19].to_vec();
    long.extend_from_slice(&[2, 0x18, 1]);
    long.extend_from_slice(&good[21..]);
    case("config", "CBOR-4", "an integer not in its shortest form", long);
    let mut trailing = good.clone();
    trailing.push(0);
    case("config", "CBOR-4", "a byte after the document", trailing);
    case("config", "CBOR-1", "cut short", good[..good.len() - 2].to_vec());
    case("config", "CBOR-1", "a map of indefinite length", [&[0xbf][..], &good[1..], &[0xff]].concat());
    let mut extra = good.clone();
    extra[0] = 0xa7;
    extra.extend_from_slice(&[7, 0]);
    case("config", "CBOR-3", "an unknown field", extra);
    case("config", "CBOR-3", "the first field is absent", [&[0xa5][..], &good[18..]].concat());
    case("config", "CBOR-2", "a repository of 15 bytes", [&[0xa6, 1, 0x4f][..], &good[4..]].concat());

    let region = Region { region: RegionId([1; 16]), put_if_absent: true, deletes: true, created_at: 0 };
    let mut number = region.encode();
    number[20] = 1;
    case("region", "CBOR-1", "an integer where a truth value belongs", number);

    let slot = |id: u8, role: u64, state: u64, kem: usize| {
        move |cbor: &mut CborWriter| {
            cbor.array(8).bytes(&[id; 16]).uint(role).uint(state).text("l").text("x25519");
            cbor.bytes(&vec![0; kem]).bytes(&[0; 32]).int(0);
        }
    };
    let roster = |slots: &[&dyn Fn(&mut CborWriter)]| {
        cbor(|out| {
            out.map(2).uint(1).uint(1).uint(2).array(slots.len());
            slots.iter().for_each(|slot| slot(out));
        })
    };
    case("roster", "ROSTER-1", "role 4", roster(&[&slot(1, 4, 0, 1216)]));
    case("roster", "ROSTER-1", "state 3", roster(&[&slot(1, 1, 3, 1216)]));
    case("roster", "ROSTER-2", "slots out of order", roster(&[&slot(2, 1, 0, 1216), &slot(1, 1, 0, 1216)]));
    case("roster", "ROSTER-3", "a receiving key of 1215 bytes", roster(&[&slot(1, 1, 0, 1215)]));
    let roster_with = |epochs: &[u64], accepted: &[(u8, u64, u64)]| {
        cbor(|out| {
            out.map(2 + usize::from(!epochs.is_empty()) + usize::from(!accepted.is_empty()));
            out.uint(1).uint(1).uint(2).array(2);
            slot(1, 1, 0, 1216)(out);
            slot(2, 2, 1, 1216)(out);
            if !epochs.is_empty() {
                out.uint(3).array(epochs.len());
                epochs.iter().for_each(|epoch| {
                    out.array(2).uint(*epoch).bytes(&[0; 32]);
                });
            }
            if !accepted.is_empty() {
                out.uint(4).array(accepted.len());
                for (slot, first, count) in accepted {
                    out.array(3).bytes(&[*slot; 16]).uint(*first).uint(*count);
                }
            }
        })
    };
    assert_eq!(refuse("roster", &roster_with(&[1, 3], &[(2, 1, 1)])), Ok(()));
    case("roster", "ROSTER-6", "epoch 0", roster_with(&[0, 1], &[]));
    case("roster", "ROSTER-6", "epochs out of order", roster_with(&[2, 1], &[]));
    case("roster", "ROSTER-7", "an accepted list of an active slot", roster_with(&[], &[(1, 1, 1)]));
    case("roster", "ROSTER-7", "an accepted list of no parts", roster_with(&[], &[(2, 1, 0)]));
    case("roster", "ROSTER-7", "a slot's lists twice", roster_with(&[], &[(2, 1, 1), (2, 2, 1)]));
    case("roster", "ROSTER-7", "numbers that overflow", roster_with(&[], &[(2, u64::MAX, 1)]));
    // Fields 5 and 6: what it follows, and the digests of the accepted lists' parts.
    let roster_after = |previous: &[u8], parts: Option<&[usize]>| {
        cbor(|out| {
            out.map(4 + usize::from(parts.is_some())).uint(1).uint(2).uint(2).array(2);
            slot(1, 1, 0, 1216)(out);
            slot(2, 2, 1, 1216)(out);
            out.uint(4).array(1).array(3).bytes(&[2; 16]).uint(1).uint(2);
            out.uint(5).array(previous.len());
            previous.iter().for_each(|digest| {
                out.bytes(&[*digest; 32]);
            });
            if let Some(parts) = parts {
                out.uint(6).array(parts.len());
                for count in parts {
                    out.array(*count);
                    (0..*count).for_each(|at| {
                        out.bytes(&[at as u8; 32]);
                    });
                }
            }
        })
    };
    for good in [roster_after(&[1], None), roster_after(&[1, 2], Some(&[2]))] {
        assert_eq!(refuse("roster", &good), Ok(()));
    }
    case("roster", "ROSTER-10", "rosters that it follows out of order", roster_after(&[2, 1], None));
    case("roster", "ROSTER-10", "a roster that it follows twice", roster_after(&[1, 1], None));
    case("roster", "CBOR-4", "no roster that it follows, explicitly", roster_after(&[], None));
    case("roster", "ROSTER-11", "one digest for two parts", roster_after(&[1], Some(&[1])));
    case("roster", "ROSTER-11", "digests of two lists for one", roster_after(&[1], Some(&[2, 2])));
    case("roster", "CBOR-4", "no digests, explicitly", roster_after(&[1], Some(&[0])));
    let digests = vec![Digest([2; 32]), Digest([1; 32])];
    let part = Accepted { slot: SlotId([2; 16]), number: 1, digests: digests.clone() };
    case("accepted", "ACCEPT-1", "digests out of order", part.encode());
    let attestation = Attestation { listings: digests, attested_at: 0 };
    case("attestation", "ATTEST-1", "listings out of order", attestation.encode());
    let ring = Ring { epoch: 1, slot: SlotId([1; 16]), encapsulated: vec![0; 1119], sealed: vec![0; 48] };
    case("ring", "RING-1", "an encapsulated key of 1119 bytes", ring.encode());

    let section = SectionRecord {
        section: keepstone::format::ids::SectionId([1; 16]),
        epoch: 1,
        encapsulated: [0; 1120],
        sealed_secret: [0; 48],
        commitment: [0; 32],
    };
    let header = |sections: Vec<SectionRecord>| {
        let header = PackHeader {
            metadata: false,
            repository: REPOSITORY,
            session: SessionId([2; 16]),
            epoch: 1,
            salt: [0; 32],
            sections,
        };
        header.encode()
    };
    let one = header(vec![section.clone()]);
    case("pack-header", "PACK-1", "section records cut short", one[..one.len() - 1].to_vec());
    case("pack-header", "PACK-2", "no section", header(Vec::new()));
    case("pack-header", "PACK-3", "a section twice", header(vec![section.clone(), section]));
    let mut flags = one.clone();
    flags[6] = 2;
    case("pack-header", "OBJ-5", "unknown flag", flags);

    case("directory-data", "DIR-1", "section 1 of 1", varints(&[1, 1, 0, 100, 1, 40]));
    case("directory-data", "DIR-1", "a byte after the end", varints(&[0, 0]));
    case("directory-data", "DIR-2", "kind 3", varints(&[1, 0, 0, 100, 1, 43]));
    case("directory-data", "DIR-2", "an empty chunk", varints(&[1, 0, 0, 100, 1, 0]));
    case("directory-data", "DIR-2", "a chunk of 16 MiB and a byte", varints(&[1, 0, 0, 100, 1, ((16 << 20) + 1) << 2]));
    case("directory-data", "DIR-3", "a frame of 16 sealed bytes", varints(&[1, 0, 0, 16, 1, 40]));
    case("directory-data", "DIR-3", "a frame without chunks", varints(&[1, 0, 0, 100, 0]));
    let half = (9u64 << 20) << 2;
    case("directory-data", "DIR-3", "a frame of 18 MiB", varints(&[1, 0, 0, 100, 2, half, half]));
    case("directory-data", "DIR-4", "a tree chunk in a data pack", varints(&[1, 0, 0, 100, 1, 41]));
    case("directory-data", "DIR-5", "a number twice", varints(&[2, 0, 0, 100, 1, 40, 0, 0, 100, 1, 40]));
    let footer = |directory_offset, directory_length| Footer { directory_offset, directory_length }.encode().to_vec();
    case("footer-of-4096", "PACK-4", "within the header", footer(1307, 100));
    case("footer-of-4096", "PACK-4", "past the end", footer(3900, 133));
    case("footer-of-4096", "PACK-4", "an overflowing sum", footer(u64::MAX, 100));

    let segment = |packs: &[u8], kind: u8, chunk: u64, reference: u64| {
        let mut out = varints(&[0, packs.len() as u64]);
        packs.iter().for_each(|pack| out.extend_from_slice(&[*pack; 32]));
        packs.iter().for_each(|_| out.extend_from_slice(&[1; 16]));
        packs.iter().for_each(|_| out.extend_from_slice(&[1; 16]));
        packs.iter().for_each(|_| out.extend_from_slice(&varints(&[4096])));
        packs.iter().for_each(|_| out.push(kind));
        packs.iter().for_each(|_| out.push(1));
        packs.iter().for_each(|_| out.extend_from_slice(&[9; 16]));
        for value in [1, 0, 0, 100, 1] {
            packs.iter().for_each(|_| put_varint(&mut out, value));
        }
        packs.iter().for_each(|_| put_varint(&mut out, chunk));
        packs.iter().for_each(|_| out.extend_from_slice(&[7; 32]));
        if chunk & 3 != 0 {
            packs.iter().for_each(|_| out.push(1));
            packs.iter().for_each(|_| put_varint(&mut out, reference));
        }
        out
    };
    assert_eq!(refuse("segment", &segment(&[1], 1, 41, 1)), Ok(()));
    let good = segment(&[1], 1, 41, 1);
    case("segment", "SEG-1", "cut short", good[..good.len() - 1].to_vec());
    case("segment", "SEG-2", "kind 3", segment(&[1], 1, 43, 1));
    case("segment", "SEG-3", "pack kind 2", segment(&[1], 2, 41, 1));
    case("segment", "SEG-4", "ordinal 1 of 1", segment(&[1], 1, 41, 3));
    case("segment", "SEG-5", "a pack twice", segment(&[1, 1], 0, 40, 0));
    case("segment", "SEG-6", "a data chunk in a metadata pack", segment(&[1], 1, 40, 0));
    let mut unordered = varints(&[2]);
    unordered.extend_from_slice(&[2; 32]);
    unordered.extend_from_slice(&[1; 32]);
    unordered.push(0);
    case("segment", "SEG-7", "superseded segments out of order", unordered);

    case("list", "SEQ-1", "more records than half the bytes", vec![0, 2, 3, 3]);
    case("tree", "SEQ-1", "one record stated, none there", vec![0, 1]);
    case("tree", "SEQ-1", "a higher level without records", vec![1, 0]);
    case("tree", "SEQ-2", "level 17", vec![17, 0]);
    case("tree", "SEQ-3", "names out of order", tree(&[node(b"b"), node(b"a")]));
    case("tree", "SEQ-3", "a name twice", tree(&[node(b"a"), node(b"a")]));
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'n'; 256]] {
        case("tree", "TREE-1", "a name that is not allowed", tree(&[node(name)]));
    }
    case("tree", "TREE-1", "an absolute hard-link group", tree_with(|node| node.link_group = Some(b"/etc".to_vec())));
    case("tree", "TREE-1", "a climbing hard-link group", tree_with(|node| node.link_group = Some(b"a/../b".to_vec())));
    case("tree", "TREE-2", "mode 10000", tree_with(|node| node.mode = 0o10000));
    case("tree", "TREE-3", "10^9 nanoseconds", tree_with(|node| node.modified_at.nanoseconds = 1_000_000_000));
    let xattrs = |names: &[&[u8]]| names.iter().map(|name| (name.to_vec(), b"v".to_vec())).collect::<Vec<_>>();
    case("tree", "TREE-4", "attributes out of order", tree_with(|node| node.xattrs = xattrs(&[b"user.b", b"user.a"])));
    case("tree", "TREE-4", "an attribute without a name", tree_with(|node| node.xattrs = xattrs(&[b""])));
    let file = |fields: usize, rest: &dyn Fn(&mut CborWriter)| {
        let record = cbor(|out| {
            out.map(6 + fields).uint(1).bytes(b"f").uint(2).uint(0).uint(3).uint(0o644);
            out.uint(4).uint(0).uint(5).uint(0).uint(6).array(2).int(0).uint(0);
            rest(out);
        });
        encode_chunk(0, 1, &record)
    };
    let size_only = file(1, &|out| {
        out.uint(11).uint(5);
    });
    case("tree", "TREE-5", "a size without content", size_only);
    let short = file(2, &|out| {
        out.uint(11).uint(5).uint(12).bytes(&[4 << 1 | 1]);
    });
    case("tree", "TREE-5", "a hole of 4 in a file of 5", short);
    let explicit = file(2, &|out| {
        out.uint(11).uint(0).uint(14).bool(false);
    });
    case("tree", "CBOR-4", "an explicit default", explicit);
    let mut unknown = tree(&[node(b"a")]);
    let kind = unknown.windows(2).position(|window| window == [2, 5]).expect("the kind");
    unknown[kind + 1] = 6;
    case("tree", "TREE-6", "kind 6", unknown);
    case("list", "LIST-1", "a hole of no bytes", vec![0, 1, 1]);
    let large = varints(&[((16u64 << 20) + 1) << 1]);
    case("list", "LIST-1", "a chunk of 16 MiB and a byte", [&[0, 1][..], &large, &[0; 32]].concat());

    let snapshot = Snapshot {
        dataset: "d".into(),
        host: "h".into(),
        started_at: 0,
        finished_at: 0,
        tags: vec!["b".into(), "a".into()],
        source: SourceKind::Tree,
        root: keepstone::format::ids::ChunkId([0; 32]),
        counts: Counts::default(),
        partial: false,
        chunk_average_bytes: 65_536,
        program: "p".into(),
        private: Vec::new(),
    };
    case("snapshot", "TAGS-1", "tags out of order", snapshot.encode());
    let mut source = Snapshot { tags: Vec::new(), ..snapshot }.encode();
    let at = source.windows(3).position(|window| window == [6, 0, 7]).expect("the source");
    source[at + 1] = 2;
    case("snapshot", "SNAPSHOT-1", "source 2", source);
    let session = Session {
        session: SessionId([1; 16]),
        number: 0,
        region: RegionId([1; 16]),
        observed: 0,
        needs: vec![PackId([2; 32]), PackId([1; 32])],
        adopts: Vec::new(),
        started_at: 0,
        bases: Vec::new(),
    };
    case("session", "SESSION-1", "needs out of order", session.encode());
    let verdict = cbor(|out| {
        out.map(5)
            .uint(1)
            .bytes(&SnapshotId([1; 32]).0)
            .uint(2)
            .uint(1)
            .uint(3)
            .uint(4)
            .uint(4)
            .int(0)
            .uint(5)
            .text("");
    });
    case("verdict", "VERDICT-1", "ruling 4", verdict);
    let ended = Verdict {
        snapshot: SnapshotId([1; 32]),
        number: 1,
        ruling: Ruling::Forget,
        decided_at: 0,
        reason: String::new(),
        until: Some(1),
    };
    case("verdict", "VERDICT-7", "a forget with an end", ended.encode());
    let tags = Tags { snapshot: SnapshotId([1; 32]), number: 1, tags: vec!["a".into(), "a".into()] };
    case("tags", "TAGS-1", "a tag twice", tags.encode());
    let entry = AuditEntry {
        slot: SlotId([1; 16]),
        number: 2,
        previous: vec![Digest([1; 32])],
        label: "l".into(),
        host: "h".into(),
        recorded_at: 0,
        action: Action::Hold,
        subjects: Vec::new(),
        figures: Vec::new(),
        reason: String::new(),
    };
    let mut action = entry.encode();
    let at = action.windows(3).position(|window| window == [7, Action::Hold as u8, 8]).expect("the action");
    action[at + 1] = 23;
    case("audit-entry", "AUDIT-1", "action 23", action);
    let unordered = AuditEntry { previous: vec![Digest([2; 32]), Digest([1; 32])], ..entry.clone() };
    case("audit-entry", "AUDIT-2", "previous entries out of order", unordered.encode());
    let unordered = AuditEntry { subjects: vec![vec![1], vec![1]], ..entry.clone() };
    case("audit-entry", "AUDIT-2", "a subject twice", unordered.encode());
    let unordered = AuditEntry { figures: vec![("b".into(), 1), ("a".into(), 1)], ..entry.clone() };
    case("audit-entry", "AUDIT-2", "figures out of order", unordered.encode());
    case("audit-entry", "AUDIT-3", "entry 0", AuditEntry { number: 0, ..entry.clone() }.encode());
    let long = AuditEntry { subjects: vec![vec![1; 33]], ..entry };
    case("audit-entry", "CBOR-2", "a subject of 33 bytes", long.encode());
    let packs = vec![PackId([2; 32]), PackId([1; 32])];
    let condemn = Condemn { generation: 1, region: RegionId([1; 16]), packs, forgotten: Vec::new() };
    case("condemn", "GC-1", "packs out of order", condemn.encode());

    for (decoder, rule, what, bytes) in &cases {
        assert_eq!(refuse(decoder, bytes).map_err(|error| error.rule), Err(*rule), "{decoder}: {what}");
    }
    let cases: Vec<_> = cases
        .into_iter()
        .map(|(decoder, rule, what, bytes)| json!({ "decoder": decoder, "rule": rule, "what": what, "bytes": hex(&bytes) }))
        .collect();
    check("bad.json", &json!(cases));
}

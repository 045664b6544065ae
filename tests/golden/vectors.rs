//! Vectors of the primitives: integers, derivations, seals, signatures, cuts.

use crate::{check, hex, noise, stored_or, unhex};
use age::secrecy::ExposeSecret;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use keepstone::crypto::keyring::{Keyring, kem_public, open_ring, seal_ring};
use keepstone::crypto::object::{Signer, build_sealed, build_signed, decode, open_payload};
use keepstone::crypto::{sign, slot};
use keepstone::env::SeededRandom;
use keepstone::format::config::{Config, Suite};
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{ChunkKind, RepositoryId, SlotId};
use keepstone::format::pack::padme;
use keepstone::format::ring::{Ring, RingSecrets, SlotSecrets};
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::format::wire::{Reader, put_varint};
use keepstone::limits::{SEQUENCE_BYTES_MAX, SEQUENCE_BYTES_MIN, SEQUENCE_CUT_EVERY};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

pub const REPOSITORY: RepositoryId = RepositoryId([0x11; 16]);
pub const SLOT: SlotId = SlotId([0x22; 16]);
pub const ROOT_PRIVATE: [u8; 32] = [0x33; 32];
pub const SLOT_SIGNING_PRIVATE: [u8; 32] = [0x44; 32];
pub const SLOT_KEM_PRIVATE: [u8; 32] = [0x55; 32];
const CREATED_AT: i64 = 1_700_000_000_000_000_000;
pub const PASSPHRASE: &str = "correct horse battery staple";

pub fn ring_json(ring: &RingSecrets) -> Value {
    json!({ "cbor": hex(&ring.encode()) })
}

pub fn keyring(suite: Suite) -> Keyring {
    let ring = Keyring::generate(&SeededRandom::new(1));
    Keyring::new(REPOSITORY, suite, BTreeMap::from([(1, ring)])).expect("one ring")
}

pub fn slot_secrets() -> SlotSecrets {
    SlotSecrets {
        repository: REPOSITORY,
        slot: SLOT,
        kem_private: SLOT_KEM_PRIVATE,
        signing_private: SLOT_SIGNING_PRIVATE,
        root_private: Some(ROOT_PRIVATE),
    }
}

#[test]
fn integers() {
    let good: Vec<Value> = [0u64, 1, 127, 128, 300, 16_383, 16_384, u32::MAX.into(), 1 << 63, u64::MAX]
        .into_iter()
        .map(|value| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(Reader::new(&bytes, "WIRE-1").varint(), Ok(value));
            // As text: JSON numbers lose bits past 2^53.
            json!({ "value": value.to_string(), "bytes": hex(&bytes) })
        })
        .collect();
    let bad: Vec<Value> = ["8000", "ff00", "80808080808080808002", "ffffffffffffffffff03", "8080808080808080808001"]
        .into_iter()
        .map(|bytes| {
            assert_eq!(Reader::new(&unhex(bytes), "SHORT").varint().map_err(|error| error.rule), Err("WIRE-1"));
            json!({ "bytes": bytes, "rule": "WIRE-1" })
        })
        .collect();
    let padded: Vec<Value> = [1u64, 2, 9, 1000, 1001, 70_001, 1 << 20, (1 << 20) + 1, (32 << 20) - 1, 200_000_001]
        .into_iter()
        .map(|length| json!([length, padme(length)]))
        .collect();
    check("wire.json", &json!({ "varint": good, "bad_varint": bad, "padme": padded }));
}

#[test]
fn identities() {
    let keyring = keyring(Suite::ChaCha20Poly1305);
    let ids = keyring.ids(1).expect("an owner's ring");
    let plain = b"a chunk";
    let chunk = |kind: ChunkKind| hex(&ids.id(kind, plain).0);
    let root_public = sign::public_key(&ROOT_PRIVATE);
    check(
        "identities.json",
        &json!({
            "ring": ring_json(&keyring.rings()[&1]),
            "root_public_key": hex(&root_public),
            "root_fingerprint": hex(&sign::fingerprint(&root_public)),
            "chunk": hex(plain),
            "chunk_id_data": chunk(ChunkKind::Data),
            "chunk_id_tree": chunk(ChunkKind::Tree),
            "chunk_id_list": chunk(ChunkKind::List),
            "cut_key": hex(b"\0name"),
            "cut_hash": ids.cut_hash(b"\0name").to_string(),
            "kem_private": hex(&SLOT_KEM_PRIVATE),
            "kem_public": hex(&kem_public(&SLOT_KEM_PRIVATE).expect("a key")),
        }),
    );
}

#[test]
fn sections_and_rings() {
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let keyring = keyring(suite);
        let (record, key) = keyring.create_section(&SeededRandom::new(2)).expect("an owner's ring");
        let plain = b"\0sealed frame";
        let mut sealed = plain.to_vec();
        key.seal(7, 12, &mut sealed);
        let mut record_bytes = Vec::new();
        record.encode_into(&mut record_bytes);
        let public = kem_public(&SLOT_KEM_PRIVATE).expect("a key");
        let secrets = &keyring.rings()[&1];
        let (encapsulated, sealed_ring) =
            seal_ring(suite, REPOSITORY, 1, SLOT, &public, secrets, &SeededRandom::new(3)).expect("a key");
        let ring = Ring { epoch: 1, slot: SLOT, encapsulated, sealed: sealed_ring };
        assert!(open_ring(suite, REPOSITORY, &ring, &SLOT_KEM_PRIVATE).is_ok_and(|opened| opened == *secrets));
        check(
            &format!("sealing-{}.json", suite as u8),
            &json!({
                "suite": suite as u8,
                "repository": hex(&REPOSITORY.0),
                "ring": ring_json(secrets),
                "section_record": hex(&record_bytes),
                "frame_number": 7,
                "frame_raw_length": 12,
                "frame_plaintext": hex(plain),
                "frame_sealed": hex(&sealed),
                "slot": hex(&SLOT.0),
                "slot_kem_private": hex(&SLOT_KEM_PRIVATE),
                "sealed_ring": hex(&ring.encode()),
            }),
        );
    }
}

#[test]
fn objects() {
    let config = Config {
        repository: REPOSITORY,
        suite: Suite::ChaCha20Poly1305,
        root_public_key: sign::public_key(&ROOT_PRIVATE),
        created_at: -1,
    };
    let root = Signer { slot: SlotId([0; 16]), private: &ROOT_PRIVATE };
    let (signed, _) = build_signed(ObjectKind::Config, REPOSITORY, &root, &config.encode());
    let owner = Signer { slot: SLOT, private: &SLOT_SIGNING_PRIVATE };
    let keyring = keyring(Suite::Aes256Gcm);
    let verdict = Verdict {
        snapshot: keepstone::format::ids::SnapshotId([5; 32]),
        number: 3,
        ruling: Ruling::Hold,
        decided_at: 1,
        reason: "audit".into(),
        until: Some(CREATED_AT),
    };
    let (sealed, digest) =
        build_sealed(ObjectKind::Verdict, &keyring, &owner, verdict.encode(), &SeededRandom::new(4)).expect("a ring");
    let object = decode(ObjectKind::Verdict, REPOSITORY, &sealed).expect("whole");
    assert_eq!(open_payload(&keyring, &object).expect("sealed"), verdict.encode());
    check(
        "objects.json",
        &json!({
            "ring": ring_json(&keyring.rings()[&1]),
            "root_public_key": hex(&sign::public_key(&ROOT_PRIVATE)),
            "config": hex(&signed),
            "config_payload": hex(&config.encode()),
            "slot_public_key": hex(&sign::public_key(&SLOT_SIGNING_PRIVATE)),
            "verdict_suite": 2,
            "verdict": hex(&sealed),
            "verdict_payload": hex(&verdict.encode()),
            "verdict_digest": hex(&digest.0),
        }),
    );
}

/// Where a sequence of records is cut, as `format-spec/tree.md` states it: SEQ-4.
fn cuts(level: u8, records: &[(Vec<u8>, usize)], cut_hash: impl Fn(&[u8]) -> u64) -> Vec<usize> {
    let (mut body, mut cuts) = (0, Vec::new());
    for (at, (key, length)) in records.iter().enumerate() {
        if body > 0 && body + length > SEQUENCE_BYTES_MAX {
            cuts.push(at);
            body = 0;
        }
        body += length;
        let hashed: Vec<u8> = std::iter::once(level).chain(key.iter().copied()).collect();
        if body >= SEQUENCE_BYTES_MIN && cut_hash(&hashed).is_multiple_of(SEQUENCE_CUT_EVERY) {
            cuts.push(at + 1);
            body = 0;
        }
    }
    cuts
}

#[test]
fn sequences() {
    let keyring = keyring(Suite::ChaCha20Poly1305);
    let ids = keyring.ids(1).expect("an owner's ring");
    let cases: Vec<Value> = [(0u8, 100usize, 6000usize), (1, 50, 6000), (0, 4000, 600)]
        .into_iter()
        .map(|(level, length, count)| {
            let records: Vec<_> = (0..count).map(|at| (format!("entry-{at:06}").into_bytes(), length)).collect();
            let cuts = cuts(level, &records, |key| ids.cut_hash(key));
            json!({ "level": level, "record_bytes": length, "records": count, "cuts": cuts })
        })
        .collect();
    check(
        "sequence.json",
        &json!({ "ring": ring_json(&keyring.rings()[&1]), "key_format": "entry-%06d", "cases": cases }),
    );
}

#[test]
fn chunk_boundaries() {
    let seed = keyring(Suite::ChaCha20Poly1305).gear().expect("an owner's ring");
    let key = blake3::derive_key("keepstone/1 gear table", &seed);
    // The table is the derivation's own output stream, of which the key is the first part.
    let mut stream = [0u8; 2048];
    blake3::Hasher::new_derive_key("keepstone/1 gear table").update(&seed).finalize_xof().fill(&mut stream);
    assert_eq!(stream[..32], key);
    let gear: Vec<u64> =
        stream.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect();
    let gear_ls: Vec<u64> = gear.iter().map(|value| value << 1).collect();
    let cases: Vec<Value> = [(8 << 10, 300_001), (16 << 10, 500_000), (64 << 10, 2_000_001), (1 << 20, 1_100_000)]
        .into_iter()
        .map(|(average, length)| {
            let bytes = noise("chunker", length);
            let (mask_s, mask_l) = select_masks(average, Normalization::Level1);
            let (mut at, mut lengths) = (0, Vec::new());
            while at < bytes.len() {
                let (_, cut) = cut_gear(
                    &bytes[at..],
                    average / 4,
                    average,
                    average * 4,
                    mask_s,
                    mask_l,
                    mask_s << 1,
                    mask_l << 1,
                    &gear,
                    &gear_ls,
                );
                lengths.push(cut);
                at += cut;
            }
            json!({
                "average": average,
                "source_bytes": length,
                "source_digest": blake3::hash(&bytes).to_hex().to_string(),
                "mask_s": format!("{mask_s:016x}"),
                "mask_l": format!("{mask_l:016x}"),
                "chunks": lengths,
            })
        })
        .collect();
    check(
        "chunker.json",
        &json!({
            "gear_seed": hex(&seed),
            "gear_table_digest": blake3::hash(&stream).to_hex().to_string(),
            "gear_first": format!("{:016x}", gear[0]),
            "source": "the first source_bytes bytes of BLAKE3 derive_key('keepstone vectors noise', 'chunker') as an XOF",
            "cases": cases,
        }),
    );
}

/// Key files. age files hold random bytes, so they are written once and opened ever after.
pub fn key_files() -> Value {
    stored_or("key-files.json", || {
        let plain = slot_secrets().encode();
        let seal = |recipient: &dyn age::Recipient| {
            let mut file = Vec::new();
            let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient)).expect("a recipient");
            let mut writer = encryptor.wrap_output(&mut file).expect("in memory");
            writer.write_all(&plain).and_then(|()| writer.finish()).expect("in memory");
            file
        };
        let mut scrypt = age::scrypt::Recipient::new(PASSPHRASE.to_owned().into());
        // A low work factor: the vector shows the layout, it protects nothing.
        scrypt.set_work_factor(10);
        let identity = age::x25519::Identity::generate();
        json!({
            "slot_secrets": hex(&plain),
            "passphrase": PASSPHRASE,
            "scrypt_file": hex(&seal(&scrypt)),
            "identity": identity.to_string().expose_secret(),
            "x25519_file": hex(&seal(&identity.to_public())),
        })
    })
}

#[test]
fn key_files_open() {
    let value = key_files();
    let field = |name: &str| value[name].as_str().expect("text").to_owned();
    let passphrase = slot::Unlock::Passphrase(field("passphrase").into());
    let identities = slot::Unlock::Identities(field("identity").into());
    for (file, unlock) in [("scrypt_file", &passphrase), ("x25519_file", &identities)] {
        let opened = slot::unwrap(&unhex(&field(file)), unlock).expect("opens");
        assert!(opened == slot_secrets());
    }
    assert_eq!(hex(&slot_secrets().encode()), field("slot_secrets"));
}

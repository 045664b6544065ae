"""Holds the second reader to the vectors, the frozen regions and the specification's rule ids."""

import json
import os
import re
import shutil
import stat
import tempfile
import unittest
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from keepstone_reader import age, crypto, objects, pack, sequence, wire
from keepstone_reader.region import AccessError, Region
from keepstone_reader.restore import Restore
from keepstone_reader.verify import verify
from keepstone_reader.wire import Cbor, FormatError, Reader

SPEC = Path(__file__).resolve().parent.parent
VECTORS = SPEC / "vectors"
REPOSITORY = bytes([0x11]) * 16
PASSPHRASE = b"correct horse battery staple"
un = bytes.fromhex


def load(name):
    return json.loads((VECTORS / name).read_text())


def ring(vector):
    return objects.decode_ring_secrets(un(vector["ring"]["cbor"]))


class Primitives(unittest.TestCase):
    def refused(self, rule, call, *arguments):
        with self.assertRaises(FormatError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.rule, rule)

    def test_varints_and_padme(self):
        vector = load("wire.json")
        for case in vector["varint"]:
            self.assertEqual(Reader(un(case["bytes"]), "SHORT").varint(), int(case["value"]))
            self.assertEqual(wire.varint(int(case["value"])), un(case["bytes"]))
        for case in vector["bad_varint"]:
            self.refused(case["rule"], Reader(un(case["bytes"]), "SHORT").varint)
        for length, padded in vector["padme"]:
            self.assertEqual(pack.padme(length), padded)

    def test_cbor_refuses_what_is_not_canonical(self):
        for text, rule, call in [
            ("1800", "CBOR-4", "uint"),
            ("1900ff", "CBOR-4", "uint"),
            ("3800", "CBOR-4", "int"),
            ("3bffffffffffffffff", "CBOR-1", "int"),
            ("1bffffffffffffffff", "CBOR-1", "int"),
            ("f6", "CBOR-1", "bool"),
            ("f815", "CBOR-4", "bool"),
            ("5f", "CBOR-1", "fixed"),
            ("42ff", "CBOR-1", "fixed"),
            ("41ff", "CBOR-2", "fixed"),
            ("62c328", "CBOR-1", "text"),
            ("c100", "CBOR-1", "uint"),
        ]:
            arguments = [2] if call in ("fixed", "text") else []
            self.refused(rule, getattr(Cbor(un(text)), call), *arguments)
        self.assertEqual(Cbor(un("3b7fffffffffffffff")).int(), -(1 << 63))

    def test_identities(self):
        vector = load("identities.json")
        root = un(vector["root_public_key"])
        self.assertEqual(crypto.fingerprint(root).hex(), vector["root_fingerprint"])
        ids = crypto.ChunkIds(ring(vector).id)
        for kind, label in enumerate(crypto.KIND_LABELS):
            self.assertEqual(ids.id(kind, un(vector["chunk"])).hex(), vector[f"chunk_id_{label}"])
        self.assertEqual(str(ids.cut_hash(un(vector["cut_key"]))), vector["cut_hash"])
        self.assertEqual(crypto.kem_public(un(vector["kem_private"])).hex(), vector["kem_public"])

    def test_sections_frames_and_rings(self):
        for suite in (1, 2):
            vector = load(f"sealing-{suite}.json")
            secrets = ring(vector)
            section = crypto.Section(un(vector["section_record"]))
            key = section.open(suite, REPOSITORY, secrets)
            number, raw_length, sealed = vector["frame_number"], vector["frame_raw_length"], un(vector["frame_sealed"])
            opened = section.open_frame(suite, REPOSITORY, key, number, raw_length, sealed)
            self.assertEqual(opened.hex(), vector["frame_plaintext"])
            for other in ((number + 1, raw_length), (number, raw_length + 1)):
                self.refused("FRAME-4", section.open_frame, suite, REPOSITORY, key, *other, sealed)
            self.refused("SECTION-1", section.open, suite, bytes(16), secrets)
            section.commitment = bytes(32)
            self.refused("SECTION-2", section.open, suite, REPOSITORY, secrets)

            stored = objects.decode_ring(un(vector["sealed_ring"]))
            about = crypto.info("ring", REPOSITORY, suite, stored.epoch, un(vector["slot"]))
            private = un(vector["slot_kem_private"])
            plain = crypto.hpke_open(suite, private, about, stored.encapsulated, stored.sealed)
            self.assertEqual(plain.hex(), vector["ring"]["cbor"])
            self.assertIsNone(crypto.hpke_open(suite, private, about + b"x", stored.encapsulated, stored.sealed))

    def test_objects(self):
        vector = load("objects.json")
        config = objects.decode_envelope("config", un(vector["config"]), REPOSITORY)
        self.assertTrue(crypto.verify(un(vector["root_public_key"]), config.signed_part, config.signature))
        self.assertFalse(crypto.verify(un(vector["slot_public_key"]), config.signed_part, config.signature))
        self.assertEqual(objects.decode_config(config.payload).root_public.hex(), vector["root_public_key"])
        sealed = objects.decode_envelope("verdict", un(vector["verdict"]), REPOSITORY)
        self.assertTrue(crypto.verify(un(vector["slot_public_key"]), sealed.signed_part, sealed.signature))
        self.assertEqual(sealed.digest.hex(), vector["verdict_digest"])
        arguments = (ring(vector), REPOSITORY, objects.CODES["verdict"], sealed.epoch, sealed.salt, 0, sealed.payload)
        plain = crypto.metadata_open(vector["verdict_suite"], *arguments)
        self.assertEqual(plain.hex(), vector["verdict_payload"])
        self.assertEqual(objects.decode_verdict(plain).ruling, objects.HOLD)

    def test_small_order_keys_verify_nothing(self):
        # With the identity as public key and as R, and S = 0, the bare equation holds for every message.
        identity = bytes([1]) + bytes(31)
        self.assertFalse(crypto.verify(identity, b"anything", identity + bytes(32)))

    def test_sequences_are_cut_where_the_vectors_say(self):
        vector = load("sequence.json")
        ids = crypto.ChunkIds(ring(vector).id)
        for case in vector["cases"]:
            keys = ((vector["key_format"] % at).encode() for at in range(case["records"]))
            records = [(key, case["record_bytes"]) for key in keys]
            self.assertEqual(sequence.cuts(case["level"], records, ids.cut_hash), case["cuts"])

    def test_chunk_boundaries(self):
        vector = load("chunker.json")
        gear = crypto.gear_table(un(vector["gear_seed"]))
        self.assertEqual(f"{gear[0]:016x}", vector["gear_first"])
        table = b"".join(value.to_bytes(8, "little") for value in gear)
        self.assertEqual(crypto.digest(table).hex(), vector["gear_table_digest"])
        for case in vector["cases"]:
            source = blake3(b"chunker", derive_key_context="keepstone vectors noise").digest(
                length=case["source_bytes"]
            )
            self.assertEqual(crypto.digest(source).hex(), case["source_digest"])
            self.assertEqual(crypto.chunk_lengths(source, case["average"], gear), case["chunks"])

    def test_highest_verdicts_resolve_to_keep(self):
        def said(*verdicts):
            return objects.effective([objects.Verdict(b"", number, ruling, 0, "") for number, ruling in verdicts])

        forget, unforget, hold = objects.FORGET, objects.UNFORGET, objects.HOLD
        self.assertIsNone(said())
        self.assertEqual(said((1, unforget), (2, forget)), forget)
        self.assertEqual(said((2, forget), (2, unforget)), unforget)
        self.assertEqual(said((2, forget), (2, hold), (2, unforget)), hold)

    def test_a_bomb_is_noticed(self):
        import zstandard

        bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
        self.refused("FRAME-2", pack.decompress, 1, bomb, 1000, pack.FRAME_RULES)
        small = zstandard.ZstdCompressor().compress(b"frame")
        self.assertEqual(pack.decompress(1, small, 5, pack.FRAME_RULES), b"frame")
        self.refused("FRAME-3", pack.decompress, 1, small + small, 10, pack.FRAME_RULES)
        self.refused("FRAME-3", pack.decompress, 1, small[:-1], 5, pack.FRAME_RULES)
        self.refused("FRAME-1", pack.decompress, 2, b"frame", 5, pack.FRAME_RULES)
        self.refused("FRAME-2", pack.decompress, 0, b"frame", 6, pack.FRAME_RULES)


class KeyFiles(unittest.TestCase):
    def setUp(self):
        self.vector = load("key-files.json")
        self.identity = age.parse_identity(self.vector["identity"])

    def test_both_kinds_open(self):
        plain = age.decrypt(un(self.vector["scrypt_file"]), PASSPHRASE)
        self.assertEqual(plain.hex(), self.vector["slot_secrets"])
        plain = age.decrypt(un(self.vector["x25519_file"]), None, [self.identity])
        self.assertEqual(plain.hex(), self.vector["slot_secrets"])

    def test_the_wrong_secret_is_told_from_damage(self):
        with self.assertRaises(age.WrongSecret):
            age.decrypt(un(self.vector["scrypt_file"]), b"wrong")
        with self.assertRaises(age.WrongSecret):
            age.decrypt(un(self.vector["x25519_file"]), None, [bytes(31) + b"\x40"])

    def test_every_altered_byte_is_refused(self):
        file = un(self.vector["x25519_file"])
        for at in range(len(file)):
            altered = bytearray(file)
            altered[at] ^= 1
            with self.assertRaises((FormatError, age.WrongSecret), msg=f"byte {at}"):
                age.decrypt(bytes(altered), None, [self.identity])
        for cut in range(len(file)):
            with self.assertRaises((FormatError, age.WrongSecret), msg=f"cut at {cut}"):
                age.decrypt(file[:cut], None, [self.identity])

    def test_too_much_work_is_refused_before_it_starts(self):
        file = un(self.vector["scrypt_file"]).replace(b" 10\n", b" 21\n", 1)
        with self.assertRaises(FormatError) as caught:
            age.decrypt(file, PASSPHRASE)
        self.assertEqual(caught.exception.rule, "KEY-2")

    def test_a_mistyped_identity_is_refused(self):
        text = self.vector["identity"]
        for at in range(len("AGE-SECRET-KEY-1"), len(text)):
            other = "Q" if text[at] != "Q" else "P"
            with self.assertRaises(ValueError):
                age.parse_identity(text[:at] + other + text[at + 1 :])


DECODERS = {
    "config-object": lambda data: objects.decode_envelope("config", data, REPOSITORY),
    "config": objects.decode_config,
    "region": objects.decode_region,
    "roster": objects.decode_roster,
    "ring": objects.decode_ring,
    "pack-header": pack.decode_header,
    "directory-data": lambda data: pack.decode_directory(data, 1, False),
    "footer-of-4096": lambda data: pack.decode_footer(data, 4096),
    "segment": pack.decode_segment,
    "tree": lambda data: sequence.decode_chunk(crypto.TREE, data),
    "list": lambda data: sequence.decode_chunk(crypto.LIST, data),
    "snapshot": objects.decode_snapshot,
    "session": objects.decode_session,
    "verdict": objects.decode_verdict,
    "tags": objects.decode_tags,
    "audit-entry": objects.decode_audit_entry,
    "condemn": objects.decode_condemn,
    "accepted": objects.decode_accepted,
    "attestation": objects.decode_attestation,
}


class Malformed(unittest.TestCase):
    def test_each_is_refused_by_its_rule(self):
        for case in load("bad.json"):
            with self.subTest(decoder=case["decoder"], what=case["what"]):
                with self.assertRaises(FormatError) as caught:
                    DECODERS[case["decoder"]](un(case["bytes"]))
                self.assertEqual(caught.exception.rule, case["rule"])


def opened(path):
    region = Region(str(path), None)
    region.unlock(PASSPHRASE, [])
    return region


def checked(path):
    """All problems that verify finds; what stops it counts as one."""
    problems = []
    try:
        verify(opened(path), problems)
    except (FormatError, AccessError, OSError) as error:
        problems.append(("", error))
    return problems


class FrozenRegions(unittest.TestCase):
    def setUp(self):
        self.scratch = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.scratch, ignore_errors=True)

    def test_they_are_sound_and_restore(self):
        for suite in (1, 2):
            path = VECTORS / f"region-{suite}"
            self.assertEqual(checked(path), [])
            for with_segments in (True, False):
                region, problems = opened(path), []
                ((_, snapshot),) = region.counted(problems).items()
                self.assertEqual((snapshot.tags, snapshot.held), (["first", "kept"], True))
                self.assertEqual(region.private(snapshot).omitted, [(b"cache", "excluded", "")])
                if with_segments:
                    region.load_segments(problems)
                target = self.scratch / f"{suite}-{with_segments}"
                restore = Restore(region, str(target))
                restore.run(snapshot)
                # Owners that this user may not give, attributes that this file system lacks.
                self.assertEqual([error for _, error in restore.problems if not isinstance(error, OSError)], [])
                self.assertEqual(problems, [])
                self.compare(target)

    def compare(self, target):
        texts = [f"part {part}: {'stone ' * 40}\n".encode() for part in range(6)]
        noise = blake3(b"dense", derive_key_context="keepstone vectors noise").digest(length=5000)
        self.assertEqual((target / "a-first").read_bytes(), texts[1] + texts[2])
        self.assertEqual((target / "long.txt").read_bytes(), b"".join(texts))
        self.assertEqual((target / "empty").read_bytes(), b"")
        self.assertEqual((target / "sparse").read_bytes(), bytes(1 << 20) + noise + bytes(4096))
        self.assertLess((target / "sparse").stat().st_blocks * 512, 1 << 17)
        self.assertTrue((target / "a-first").samefile(target / "inner/second"))
        self.assertEqual(os.readlink(target / "inner/link"), "../a-first")
        self.assertTrue(stat.S_ISFIFO((target / "inner/fifo").stat().st_mode))
        self.assertEqual(list((target / "empty-directory").iterdir()), [])
        for path, mode in (("", 0o750), ("a-first", 0o640), ("long.txt", 0o600), ("inner", 0o750)):
            found = (target / path).lstat()
            self.assertEqual(stat.S_IMODE(found.st_mode), mode)
            self.assertEqual(found.st_mtime_ns, 1_600_000_000_123_456_789)

    def test_of_a_revoked_writer_counts_what_is_accepted(self):
        path = VECTORS / "region-3"
        self.assertEqual(checked(path), [])
        region = opened(path)
        self.assertEqual(sorted(region.rings), [1, 3])
        counted = region.counted([]).values()
        self.assertEqual(sorted(snapshot.dataset for snapshot in counted), ["accepted", "quarry"])
        (name,) = (path / "attest").iterdir()
        attested = region.load("attestation", f"attest/{name.name}", (name.name,)).listings
        segments = region.load_segments([]).values()
        self.assertEqual(sorted(pack.listing(entry) for found in segments for entry in found.packs), attested)

    def test_what_is_accepted_cannot_be_widened_or_lost(self):
        copy = self.scratch / "copy"
        shutil.copytree(VECTORS / "region-3", copy)
        (part,) = (copy / "roster/accepted").rglob("????????????????")
        data = part.read_bytes()
        part.unlink()
        self.assertIn("ACCEPT-4", {error.rule for _, error in checked(copy)})
        # Under another number, or with another digest in it, it is not the part that the roster names.
        part.with_name("0000000000000006").write_bytes(data)
        self.assertIn("ACCEPT-4", {error.rule for _, error in checked(copy)})
        part.write_bytes(data[:-120] + bytes(88) + data[-32:])
        self.assertIn("ACCEPT-4", {error.rule for _, error in checked(copy)})

    def test_a_ring_of_another_rotation_or_none_is_refused(self):
        copy = self.scratch / "copy"
        shutil.copytree(VECTORS / "region-3", copy)
        # RING-7: what lies under the name is damaged, and the right one beside it.
        ring = copy / "ring/0000000000000003" / SLOT.hex()
        right = ring.read_bytes()
        ring.write_bytes(right[:100] + bytes([right[100] ^ 1]) + right[101:])
        self.assertIn("OBJ-8", {error.rule for _, error in checked(copy)})
        beside = ring.with_name(f"{SLOT.hex()}-{right[-32:].hex()}")
        beside.write_bytes(right)
        self.assertEqual(sorted(opened(copy).rings), [1, 3])
        beside.rename(ring.with_name(f"{SLOT.hex()}-{'00' * 32}"))
        self.assertIn("OBJ-8", {error.rule for _, error in checked(copy)})
        ring.with_name(f"{SLOT.hex()}-{'00' * 32}").unlink()
        ring.write_bytes(right)
        (copy / "ring/0000000000000003" / SLOT.hex()).unlink()
        self.assertIn("RING-6", {error.rule for _, error in checked(copy)})

    def test_a_wrong_pin_is_refused_before_the_key(self):
        with self.assertRaises(FormatError) as caught:
            Region(str(VECTORS / "region-1"), bytes(32))
        self.assertEqual(caught.exception.rule, "CONFIG-4")

    def copies(self):
        """A fresh copy of a region for each of its objects, with that object's path."""
        source = VECTORS / "region-1"
        for path in sorted(source.rglob("*")):
            if path.is_file():
                name = path.relative_to(source)
                copy = self.scratch / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy)
                yield str(name), copy, copy / name

    def test_damage_anywhere_is_found(self):
        for name, copy, path in self.copies():
            data = path.read_bytes()
            for at in {0, 5, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1}:
                altered = bytearray(data)
                altered[at] ^= 0x10
                path.write_bytes(altered)
                self.assertTrue(checked(copy), f"{name} with byte {at} altered")
            path.write_bytes(data[:-1])
            self.assertTrue(checked(copy), f"{name} cut short")

    def test_absence_of_what_counts_is_found(self):
        # So is the end of an audit chain.
        unseen = ("sessions/", "verdicts/", "tags/", "commits/", f"audit/{SLOT.hex()}/{2:016x}")
        for name, copy, path in self.copies():
            path.unlink()
            found = checked(copy)
            # An absent commit or verdict is a rollback: one region alone can't show it.
            self.assertEqual(bool(found), not name.startswith(unseen), f"{name} removed: {found}")

    def test_names_are_held_to_their_objects(self):
        for name, copy, path in self.copies():
            other = re.sub(r"[0-9a-f]([^0-9a-f]*)$", lambda m: ("0" if m[0][0] != "0" else "1") + m[1], name)
            if name.endswith(".age") or not re.search(r"[0-9a-f]{16}", name):
                continue
            path.rename(copy / other)
            self.assertTrue(checked(copy), f"{name} renamed")

    def test_a_restore_finds_chunks_without_segments_or_by_another_copy(self):
        copy = self.scratch / "copy"
        shutil.copytree(VECTORS / "region-1", copy)
        shutil.rmtree(copy / "index")
        region = opened(copy)
        ((_, snapshot),) = region.counted([]).items()
        restore = Restore(region, str(self.scratch / "target"))
        restore.run(snapshot)
        self.compare(self.scratch / "target")


def cbor(value):
    """Canonical CBOR of the subset."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + value.to_bytes(size, "big")


SLOT, REGION, SESSION = bytes([0x22]) * 16, bytes([0x66]) * 16, bytes([0x77]) * 16
SLOT_KEY, ROOT_KEY = bytes([0x44]) * 32, bytes([0x33]) * 32
WRITER, WRITER_KEY = bytes([0x99]) * 16, bytes([0x9A]) * 32


class WhatCounts(unittest.TestCase):
    """A frozen region with more objects in it, signed here."""

    def setUp(self):
        self.path = Path(tempfile.mkdtemp()) / "region"
        self.addCleanup(shutil.rmtree, self.path.parent)
        shutil.copytree(VECTORS / "region-1", self.path)
        region = opened(self.path)
        self.ring = region.rings[1]
        (self.snapshot,) = region.counted([])
        self.owner = region.roster.slots[SLOT]

    def put(self, kind, name, payload, signer=SLOT, key=SLOT_KEY):
        """Signs, and where the kind is sealed seals, an object; `DIGEST` in its name is filled in."""
        sealed, salt = kind in objects.SEALED, bytes([7]) * 32
        if sealed:
            code = objects.CODES[kind]
            additional = REPOSITORY + bytes([code]) + crypto.u64(1)
            metadata_key = crypto.metadata_key(self.ring.meta, REPOSITORY, code, salt)
            payload = ChaCha20Poly1305(metadata_key).encrypt(bytes(12), payload, additional)
        body = b"KSTN" + bytes([objects.CODES[kind], 1, sealed, 0]) + REPOSITORY + signer
        body += crypto.u64(1) + salt if sealed else bytes(40)
        body += crypto.u64(len(payload)) + payload
        body += Ed25519PrivateKey.from_private_bytes(key).sign(b"keepstone/1 signature\0" + crypto.digest(body))
        path = self.path / name.replace("DIGEST", crypto.digest(body).hex())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body + crypto.digest(body))
        return crypto.digest(body)

    def verdict(self, number, ruling, signer=SLOT, key=SLOT_KEY):
        payload = cbor({1: self.snapshot, 2: number, 3: ruling, 4: 0, 5: ""})
        name = f"verdicts/{self.snapshot.hex()}/{number:016x}-DIGEST"
        self.put("verdict", name, payload, signer, key)

    def log(self, generation, kind, *lists, region=REGION):
        payload = cbor({1: generation, 2: region, **dict(enumerate(lists, 3))})
        self.put(kind, f"gc/{generation:016x}/{kind}", payload)

    def roster(self, number, *slots, label="", previous=()):
        entries = [[SLOT, 1, 0, "owner", "passphrase", self.owner.kem_public, self.owner.signing_public, 0]]
        for slot, role, state, key in slots:
            public = crypto.signing_public(key)
            entries.append([slot, role, state, label, "x25519", self.owner.kem_public, public, 0])
        name = f"roster/{number:016x}-DIGEST"
        payload = cbor({1: number, 2: entries} | ({5: previous} if previous else {}))
        return self.put("roster", name, payload, bytes(16), ROOT_KEY)

    def test_a_roster_says_what_it_follows_and_which_lists_it_names(self):
        writer = [WRITER, 2, 1, "w", "x25519", self.owner.kem_public, self.owner.signing_public, 0]
        owner = [SLOT, 1, 0, "owner", "passphrase", self.owner.kem_public, self.owner.signing_public, 0]
        slots = sorted([writer, owner])
        part = f"roster/accepted/{WRITER.hex()}/{1:016x}"
        self.put("accepted list", part, cbor({1: WRITER, 2: 1, 3: [bytes(32)]}), bytes(16), ROOT_KEY)
        right = (self.path / part).read_bytes()[-32:]
        for number, digest in enumerate([right, bytes(32)], 2):
            payload = cbor({1: number, 2: slots, 4: [[WRITER, 1, 1]], 5: [bytes(32)], 6: [[digest]]})
            self.put("roster", f"roster/{number:016x}-DIGEST", payload, bytes(16), ROOT_KEY)
            region = opened(self.path)
            self.assertEqual(region.roster.previous, [bytes(32)])
            # ACCEPT-5
            self.assertEqual("ACCEPT-5" in region.unreadable.get(WRITER, ""), digest != right)

    def counts(self):
        problems = []
        counted = opened(self.path).counted(problems)
        return self.snapshot in counted, [error.rule for _, error in problems]

    def test_the_highest_verdict_decides(self):
        self.verdict(2, objects.FORGET)
        self.assertEqual(self.counts(), (False, []))
        self.assertEqual(checked(self.path), [])
        self.verdict(2, objects.UNFORGET)
        self.assertEqual(self.counts(), (True, []))
        self.verdict(3, objects.FORGET)
        self.assertEqual(self.counts(), (False, []))

    def test_a_writers_verdict_is_ignored_and_reported(self):
        self.roster(2, (WRITER, objects.WRITER, 0, WRITER_KEY))
        self.verdict(9, objects.FORGET, WRITER, WRITER_KEY)
        self.assertEqual(self.counts(), (True, ["SIGN-2"]))
        self.roster(3, (WRITER, objects.MAINTAINER, 1, WRITER_KEY))
        self.assertEqual(self.counts(), (True, []))
        self.roster(4, (WRITER, objects.MAINTAINER, 0, SLOT_KEY))
        self.assertEqual(self.counts(), (True, ["SIGN-4"]))
        self.roster(5)
        self.assertEqual(self.counts(), (True, ["SIGN-1"]))
        self.roster(6, (WRITER, objects.MAINTAINER, 0, WRITER_KEY))
        self.assertEqual(self.counts(), (False, []))

    def entry(self, number, previous, slot=SLOT, name="", signer=SLOT, key=SLOT_KEY):
        payload = cbor({1: slot, 2: number, 3: previous, 4: "l", 5: "h", 6: 0, 7: 1, 8: [], 9: [], 10: ""})
        self.put("audit entry", f"audit/{slot.hex()}/{number:016x}{name}", payload, signer, key)

    def chain(self):
        problems = []
        chains = opened(self.path).audit(problems)
        return [entry.number for entry in chains.get(SLOT, [])], [error.rule for _, error in problems]

    def test_the_audit_chain_is_whole_and_what_is_not_is_told(self):
        self.assertEqual(self.chain(), ([1, 2], []))
        first, second = opened(self.path).audit([])[SLOT]
        self.assertEqual((objects.ACTIONS[first.action], objects.ACTIONS[second.action]), ("init", "hold"))
        self.entry(3, [second.digest])
        self.assertEqual(self.chain(), ([1, 2, 3], []))
        # A second entry 3 is a fork until an entry follows both.
        self.entry(3, [second.digest], name="-DIGEST")
        self.assertEqual(self.chain()[1], [])  # the same bytes: sealed with the same salt
        self.entry(2, [first.digest], name="-DIGEST")
        self.assertEqual(self.chain(), ([1, 2, 2, 3], ["AUDIT-8"]))
        ends = [entry.digest for entry in opened(self.path).audit([])[SLOT][1:]]
        self.entry(4, sorted(digest for digest in ends if digest != second.digest))
        self.assertEqual(self.chain(), ([1, 2, 2, 3, 4], []))
        self.entry(6, [])
        self.assertEqual(self.chain()[1], ["AUDIT-7", "AUDIT-8"])
        self.entry(7, [], slot=WRITER)
        self.assertIn("AUDIT-4", self.chain()[1])

    def test_a_revoked_slots_audit_entries_stay(self):
        self.roster(2, (WRITER, objects.WRITER, 1, WRITER_KEY))
        self.entry(1, [], slot=WRITER, signer=WRITER, key=WRITER_KEY)
        problems = []
        self.assertEqual(len(opened(self.path).audit(problems)[WRITER]), 1)
        self.assertEqual(problems, [])

    def test_two_rosters_of_one_number_are_refused(self):
        self.roster(2, (WRITER, objects.WRITER, 0, WRITER_KEY))
        self.roster(2, (WRITER, objects.WRITER, 0, WRITER_KEY), label="other")
        with self.assertRaises(FormatError) as caught:
            opened(self.path)
        self.assertEqual(caught.exception.rule, "ROSTER-4")

    def test_a_roster_beside_one_that_was_followed_is_refused(self):
        first = self.roster(2)
        beside = self.roster(2, label="", previous=[bytes(32)])
        both = sorted([first, beside])
        self.roster(3, previous=[first])
        with self.assertRaises(FormatError) as caught:
            opened(self.path)
        self.assertEqual(caught.exception.rule, "ROSTER-13")
        third = self.roster(4, previous=[beside])
        with self.assertRaises(FormatError) as caught:
            opened(self.path)
        self.assertEqual(caught.exception.rule, "ROSTER-13")
        # A merge names both.
        merged = self.roster(5, previous=sorted([*both, third]))
        self.roster(6, previous=[merged])
        opened(self.path)

    def test_a_roster_that_root_did_not_sign_is_refused(self):
        self.put("roster", f"roster/{2:016x}-DIGEST", cbor({1: 2, 2: []}), bytes(16), SLOT_KEY)
        with self.assertRaises(FormatError) as caught:
            opened(self.path)
        self.assertEqual(caught.exception.rule, "SIGN-4")
        shutil.rmtree(self.path / "roster")
        self.put("roster", f"roster/{2:016x}-DIGEST", cbor({1: 2, 2: []}))
        with self.assertRaises(FormatError) as caught:
            opened(self.path)
        self.assertEqual(caught.exception.rule, "OBJ-11")

    def test_an_open_fence_puts_a_commit_in_doubt_and_a_final_decides(self):
        self.log(1, "condemn", [])
        self.assertEqual(self.counts(), (True, []))
        self.log(1, "fence", [SESSION], [])
        self.assertEqual(self.counts(), (False, []))
        self.log(1, "final", [], [], [], [], [])
        self.assertEqual(self.counts(), (True, []))
        self.log(2, "condemn", [])
        self.log(2, "fence", [], [])
        self.log(2, "final", [], [], [], [SESSION], [])
        self.assertEqual(self.counts(), (False, []))

    def test_a_damaged_log_stops(self):
        def stops(rule):
            with self.assertRaises(FormatError) as caught:
                opened(self.path).counted([])
            self.assertEqual(caught.exception.rule, rule)
            shutil.rmtree(self.path / "gc")

        self.log(2, "condemn", [])
        stops("GC-3")
        self.log(1, "final", [], [], [], [], [])
        stops("GC-3")
        self.log(1, "condemn", [], region=bytes(16))
        stops("GC-2")
        self.put("condemn", f"gc/{1:016x}/condemn", cbor({1: 2, 2: REGION, 3: []}))
        stops("OBJ-10")

    def test_a_commit_of_another_region_does_not_count(self):
        shutil.rmtree(self.path / "commits")
        self.assertEqual(self.counts(), (False, []))
        self.put("commit", f"commits/{SESSION.hex()}", cbor({1: SESSION, 2: bytes(16), 3: self.snapshot, 4: 0}))
        self.assertEqual(self.counts(), (False, ["COUNT-3"]))
        self.put("commit", f"commits/{SESSION.hex()}", cbor({1: SESSION, 2: REGION, 3: bytes(32), 4: 0}))
        self.assertEqual(self.counts(), (False, ["COUNT-4"]))

    def test_a_writer_may_not_state_anothers_origin(self):
        self.roster(2, (WRITER, objects.WRITER, 0, WRITER_KEY))
        region = opened(self.path)
        (name,) = (self.path / "index").iterdir()
        columns = self.columns(region, name)
        self.put("segment", "index/DIGEST", len(columns).to_bytes(4, "little") + b"\0" + columns, WRITER, WRITER_KEY)
        self.assertEqual([error.rule for _, error in checked(self.path)], ["SEG-9"])

    def columns(self, region, name):
        envelope = objects.decode_envelope("segment", name.read_bytes())
        sealing = (objects.CODES["segment"], envelope.epoch, envelope.salt, 0, envelope.payload)
        return pack.unwrap_segment(crypto.metadata_open(1, self.ring, REPOSITORY, *sealing))

    def test_a_segment_that_lies_is_told_from_the_packs(self):
        region = opened(self.path)
        (name,) = (self.path / "index").iterdir()
        columns = self.columns(region, name)
        ((_, snapshot),) = region.counted([]).items()
        lying = columns.replace(snapshot.root, bytes(32))
        self.assertNotEqual(lying, columns)
        name.unlink()
        self.put("segment", "index/DIGEST", len(lying).to_bytes(4, "little") + b"\0" + lying)
        self.assertEqual({error.rule for _, error in checked(self.path)}, {"SEG-10", "COMMIT-1"})
        # Reading is not misled: the packs know better.
        region, problems = opened(self.path), []
        region.load_segments(problems)
        self.assertTrue(region.chunk(crypto.TREE, snapshot.root))


class Rules(unittest.TestCase):
    def defined(self):
        """Every rule's page."""
        found = {}
        for page in SPEC.glob("*.md"):
            for rule in re.findall(r"^- \*\*([A-Z]+-\d+)\*\*", page.read_text(), re.M):
                self.assertNotIn(rule, found, f"{rule} is defined twice")
                found[rule] = page.name
        return found

    def test_every_rule_in_code_is_specified(self):
        used = set()
        for source in [*SPEC.parent.glob("src/**/*.rs"), *(SPEC / "reader/keepstone_reader").glob("*.py")]:
            used |= set(re.findall(r'"([A-Z]+-\d+)["\:]', source.read_text()))
        self.assertEqual(used - set(self.defined()), set())

    def test_the_index_is_complete(self):
        indexed = {}
        rows = re.findall(r"^\| ([A-Z]+) \| ([\d–, ]+) \| \[([a-z-]+\.md)\]", (SPEC / "README.md").read_text(), re.M)
        for family, numbers, page in rows:
            for part in numbers.split(", "):
                first, _, last = part.partition("–")
                for number in range(int(first), int(last or first) + 1):
                    indexed[f"{family}-{number}"] = page
        self.assertEqual(indexed, self.defined())

    def test_pages_refer_to_rules_and_pages_that_exist(self):
        pages = {page.name: page.read_text() for page in SPEC.glob("*.md")}
        defined = self.defined()
        families = {rule.split("-")[0] for rule in defined}
        for name, text in pages.items():
            for rule in re.findall(r"\b([A-Z]+-\d+)\b", text):
                if rule.split("-")[0] in families:
                    self.assertIn(rule, defined, name)
            for link in re.findall(r"\]\(([a-z-]+\.md|[a-z-]+/(?:README\.md)?)\)", text):
                self.assertTrue((SPEC / link).exists(), f"{name}: {link}")


if __name__ == "__main__":
    unittest.main()

"""A region in a local directory: opening it, which snapshots count, and where chunks are."""

import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field

from . import age, crypto, objects, pack
from .objects import CODES
from .wire import FormatError

FORMS = [
    (kind, re.compile(form))
    for kind, form in [
        ("config", r"config"),
        ("region", r"region"),
        ("key file", r"keys/([0-9a-f]{32})/([0-9a-f]{16})\.age"),
        ("roster", r"roster/([0-9a-f]{16})-([0-9a-f]{64})"),
        ("accepted list", r"roster/accepted/([0-9a-f]{32})/([0-9a-f]{16})"),
        ("attestation", r"attest/([0-9a-f]{64})"),
        ("ring", r"ring/([0-9a-f]{16})/([0-9a-f]{32})(?:-([0-9a-f]{64}))?"),
        ("pack", r"packs/([0-9a-f]{2})/([0-9a-f]{64})"),
        ("segment", r"index/([0-9a-f]{64})"),
        ("session", r"sessions/([0-9a-f]{32})/([0-9a-f]{16})"),
        ("session end", r"sessions/([0-9a-f]{32})/end"),
        ("snapshot", r"snapshots/([0-9a-f]{64})"),
        ("commit", r"commits/([0-9a-f]{32})"),
        ("verdict", r"verdicts/([0-9a-f]{64})/([0-9a-f]{16})-([0-9a-f]{64})"),
        ("tags", r"tags/([0-9a-f]{64})/([0-9a-f]{16})-([0-9a-f]{64})"),
        ("audit entry", r"audit/([0-9a-f]{32})/([0-9a-f]{16})(?:-([0-9a-f]{64}))?"),
        ("condemn", r"gc/([0-9a-f]{16})/condemn"),
        ("fence", r"gc/([0-9a-f]{16})/fence"),
        ("final", r"gc/([0-9a-f]{16})/final"),
    ]
]
KNOWN_PREFIXES = {form.pattern.split("/")[0] for _, form in FORMS}
SIZE_MAX = {"key file": 64 << 10, "segment": 64 << 20, "pack": pack.PACK_MAX}
DECODERS = {
    "config": objects.decode_config,
    "region": objects.decode_region,
    "roster": objects.decode_roster,
    "accepted list": objects.decode_accepted,
    "attestation": objects.decode_attestation,
    "ring": objects.decode_ring,
    "session": objects.decode_session,
    "session end": objects.decode_session_end,
    "commit": objects.decode_commit,
    "condemn": objects.decode_condemn,
    "fence": objects.decode_fence,
    "final": objects.decode_final,
    "verdict": objects.decode_verdict,
    "tags": objects.decode_tags,
    "audit entry": objects.decode_audit_entry,
    "snapshot": objects.decode_snapshot,
    "segment": lambda plain: pack.decode_segment(pack.unwrap_segment(plain)),
}
NAMED_BY_DIGEST = ("roster", "segment", "snapshot", "verdict", "tags", "attestation")
FRAME_CACHE = 64
# How far below the highest number rosters are looked at that stand beside others.
BESIDE_MAX = 64


class Refused(FormatError):
    """An object of a revoked slot that doesn't stay accepted: no damage, it just doesn't count."""


class AccessError(Exception):
    """No key, no pin, or a role that may not do this."""


@dataclass
class Listing:
    """Names by kind, as (name, the parts of the name); and names of no known form."""

    kinds: dict
    strange: list

    def of(self, kind):
        return self.kinds.get(kind, [])


@dataclass
class Location:
    pack: bytes
    frame: object
    offset: int
    length: int
    kind: int
    section: bytes


@dataclass
class OpenPack:
    """A pack's header and directory."""

    id: bytes
    size: int
    header: pack.Header
    frames: list
    keys: dict = field(default_factory=dict)


class Region:
    """A region whose config is pinned and whose roster is verified; `unlock` adds the keys."""

    def __init__(self, path, pin):
        self.path = path
        self.listing = self._list()
        data = self.read("config", "config")
        envelope = objects.decode_envelope("config", data)
        self.config = objects.decode_config(envelope.payload)
        self.repository = self.config.repository
        if envelope.repository != self.repository:
            raise FormatError("CONFIG-5", "header and payload name different repositories")
        self.fingerprint = crypto.fingerprint(self.config.root_public)
        if pin is not None and pin != self.fingerprint:
            raise FormatError("CONFIG-4", f"the root's fingerprint is {self.fingerprint.hex()}, {pin.hex()} is pinned")
        self.roster = None
        self._signed("config", envelope)
        self.region = self.load("region", "region")
        self.accepted, self.unreadable = {}, {}
        self.roster = self._roster()
        self._accepted()
        self.secrets, self.slot, self.rings, self.ids = None, None, {}, {}
        self.packs, self.frames = {}, OrderedDict()
        self.index, self.scanned = {}, False

    # Reading objects

    def _list(self):
        kinds, strange = {}, []

        def failed(error):
            raise error

        for folder, below, files in os.walk(self.path, onerror=failed):
            # Commits before everything else: what they rely on was there first, and the log comes after them.
            below.sort()
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), self.path)
                if file.startswith(".") or name.split("/")[0] not in KNOWN_PREFIXES:
                    continue
                for kind, form in FORMS:
                    match = form.fullmatch(name)
                    if match and (kind != "pack" or match[2].startswith(match[1])):
                        kinds.setdefault(kind, []).append((name, match.groups()))
                        break
                else:
                    strange.append(name)
        return Listing({kind: sorted(names) for kind, names in kinds.items()}, sorted(strange))

    def read(self, kind, name):
        with open(os.path.join(self.path, name), "rb") as file:
            most = SIZE_MAX.get(kind, 16 << 20)
            data = file.read(most + 1)
        if len(data) > most:
            rule = {"key file": "KEY-1", "pack": "PACK-7"}.get(kind, "LIMIT-1")
            raise FormatError(rule, f"more than {most} bytes")
        return data

    def _signed(self, kind, envelope):
        """OBJ-11 and SIGN-1 to SIGN-4."""
        root = envelope.signer == objects.ROOT_SIGNER
        if root != (kind in objects.BY_ROOT):
            raise FormatError("OBJ-11", f"a {kind} signed by {'root' if root else 'a slot'}")
        public = self.config.root_public
        slot = None
        if not root:
            slot = self.roster.slots.get(envelope.signer)
            if slot is None:
                raise FormatError("SIGN-1", f"slot {envelope.signer.hex()} is not in the roster")
            public = slot.signing_public
        if slot and slot.role not in objects.MAY_SIGN[kind]:
            raise FormatError("SIGN-2", f"a {kind} signed by a {objects.ROLES[slot.role]}")
        if not crypto.verify(public, envelope.signed_part, envelope.signature):
            raise FormatError("SIGN-4", f"the signature is not that of {'root' if root else slot.label}")
        # AUDIT-4: what a revoked slot recorded stays recorded.
        if slot and slot.revoked and kind != "audit entry" and envelope.digest not in self.accepted.get(slot.slot, ()):
            if slot.slot in self.unreadable:
                raise FormatError("ACCEPT-4", f"what stays accepted is unknown: {self.unreadable[slot.slot]}")
            raise Refused("SIGN-3", f"slot {slot.label} is revoked, and this isn't accepted")

    def load(self, kind, name, parts=()):
        """Reads, authenticates and decodes an object; the value carries its `signer` and `digest`."""
        envelope = objects.decode_envelope(kind, self.read(kind, name), self.repository)
        self._signed(kind, envelope)
        payload = envelope.payload
        if envelope.sealed:
            payload = crypto.metadata_open(
                self.config.suite,
                self.ring(envelope.epoch),
                self.repository,
                CODES[kind],
                envelope.epoch,
                envelope.salt,
                0,
                payload,
            )
            if payload is None:
                raise FormatError("OBJ-12", "the sealed payload doesn't open")
        value = DECODERS[kind](payload)
        value.signer, value.digest = envelope.signer, envelope.digest
        if kind == "audit entry" and value.signer.hex() != parts[0]:
            raise FormatError("AUDIT-4", "it is in another slot's chain")
        self._named(kind, value, parts)
        if hasattr(value, "region") and kind != "region" and value.region != self.region.region:
            rule = "GC-2" if kind in ("condemn", "fence", "final") else "COUNT-3"
            raise FormatError(rule, f"it speaks of region {value.region.hex()}")
        return value

    def _named(self, kind, value, parts):
        """OBJ-10."""
        if kind in NAMED_BY_DIGEST and value.digest.hex() != parts[-1]:
            raise FormatError("OBJ-10", "the name is not the object's digest")
        if kind == "audit entry" and parts[2] not in (None, value.digest.hex()):
            raise FormatError("OBJ-10", "the name is not the object's digest")
        if kind == "ring" and parts[2] not in (None, value.digest.hex()):
            raise FormatError("OBJ-10", "the name is not the object's digest")
        stated = {
            "roster": lambda: [f"{value.number:016x}"],
            "accepted list": lambda: [value.slot.hex(), f"{value.number:016x}"],
            "ring": lambda: [f"{value.epoch:016x}", value.slot.hex()],
            "session": lambda: [value.session.hex(), f"{value.number:016x}"],
            "session end": lambda: [value.session.hex()],
            "commit": lambda: [value.session.hex()],
            "verdict": lambda: [value.snapshot.hex(), f"{value.number:016x}"],
            "tags": lambda: [value.snapshot.hex(), f"{value.number:016x}"],
            "audit entry": lambda: [value.slot.hex(), f"{value.number:016x}"],
            "condemn": lambda: [f"{value.generation:016x}"],
            "fence": lambda: [f"{value.generation:016x}"],
            "final": lambda: [f"{value.generation:016x}"],
        }.get(kind, list)()
        if list(parts[: len(stated)]) != stated:
            raise FormatError("OBJ-10", f"the payload says {'/'.join(stated)}")

    def each(self, kind, problems):
        """All sound objects of a kind as (name, value); the rest go to `problems`."""
        for name, parts in self.listing.of(kind):
            try:
                yield name, self.load(kind, name, parts)
            except Refused:
                continue
            except FormatError as error:
                problems.append((name, error))

    # Keys

    def _roster(self):
        names = self.listing.of("roster")
        if not names:
            raise FormatError("ROSTER-4", "there is no roster")
        highest = max(parts[0] for _, parts in names)
        found = [(name, parts) for name, parts in names if parts[0] == highest]
        if len(found) > 1:
            raise FormatError(
                "ROSTER-4", f"{len(found)} rosters of number {int(highest, 16)}: an owner must merge them"
            )
        newest = self.load("roster", *found[0])
        self._require_followed(newest, names)
        return newest

    def _require_followed(self, newest, names):
        """Nothing stands beside what the newest roster follows (ROSTER-13)."""
        numbers = [int(parts[0], 16) for _, parts in names]
        for name, parts in names:
            number = int(parts[0], 16)
            if number + BESIDE_MAX < newest.number or numbers.count(number) < 2:
                continue
            if self._may_follow(newest, number, parts[1], names):
                continue
            try:
                self.load("roster", name, parts)
            except FormatError:
                continue
            raise FormatError("ROSTER-13", f"nothing follows {name}: an owner must merge it")

    def _may_follow(self, newest, number, digest, names):
        """Whether a roster follows another, through those between; so it may where one of them can't be read."""
        rosters = {parts[1]: (name, parts) for name, parts in names}
        seen, pending = set(), [newest]
        while pending:
            roster = pending.pop()
            before = [previous.hex() for previous in roster.previous]
            # One that doesn't say what it follows is taken to follow all.
            if not before or digest in before:
                return True
            for previous in before:
                if previous in seen:
                    continue
                seen.add(previous)
                if previous not in rosters:
                    return True
                if int(rosters[previous][1][0], 16) <= number:
                    continue
                try:
                    pending.append(self.load("roster", *rosters[previous]))
                except FormatError:
                    return True
        return False

    def _accepted(self):
        """What stays accepted of revoked slots; a part that can't be read is no empty one (ACCEPT-4)."""
        for slot, numbers in self.roster.accepted.items():
            found = self.accepted.setdefault(slot, set())
            for number in numbers:
                parts = (slot.hex(), f"{number:016x}")
                name = "roster/accepted/" + "/".join(parts)
                try:
                    part = self.load("accepted list", name, parts)
                    if self.roster.parts.get((slot, number), part.digest) != part.digest:
                        raise FormatError("ACCEPT-5", "it is another list than the roster states")
                    found.update(part.digests)
                except (FormatError, FileNotFoundError) as error:
                    self.unreadable[slot] = f"{name}: {error}"

    def unlock(self, passphrase, identities):
        """Opens a key file of any slot, then that slot's rings."""
        newest = {}
        for name, (slot, number) in self.listing.of("key file"):
            newest[slot] = max(newest.get(slot, ("", "")), (number, name))
        damaged = []
        for slot, (_, name) in sorted(newest.items()):
            try:
                plain = age.decrypt(self.read("key file", name), passphrase, identities)
            except age.WrongSecret:
                continue
            except FormatError as error:
                damaged.append(f"{name}: {error}")
                continue
            self._slot(bytes.fromhex(slot), objects.decode_slot_secrets(plain))
            return
        raise AccessError("; ".join(["no key file is opened by this passphrase or identity", *damaged]))

    def _slot(self, slot, secrets):
        if secrets.repository != self.repository or secrets.slot != slot:
            raise FormatError("KEY-3", "the key file is another repository's or slot's")
        entry = self.roster.slots.get(slot)
        if entry is None or crypto.kem_public(secrets.kem_private) != entry.kem_public:
            raise FormatError("KEY-4", "the slot's receiving key is not the one in the roster")
        if crypto.signing_public(secrets.signing_private) != entry.signing_public:
            raise FormatError("KEY-4", "the slot's signing key is not the one in the roster")
        root = secrets.root_private
        if root is not None and crypto.signing_public(root) != self.config.root_public:
            raise FormatError("KEY-4", "the root key is not the one in config")
        self.secrets, self.slot = secrets, entry
        wrong = {}
        for name, parts in self.listing.of("ring"):
            # An epoch that the roster doesn't state is one of a rotation that didn't end.
            if parts[1] != slot.hex() or int(parts[0], 16) not in self.roster.epochs:
                continue
            try:
                self.rings[int(parts[0], 16)] = self._ring(name, parts, slot, secrets)
            except FormatError as error:
                wrong.setdefault(int(parts[0], 16), error)
        for epoch, error in wrong.items():
            # Another one lies beside it (RING-7).
            if epoch not in self.rings:
                raise error
        if max(self.roster.epochs) not in self.rings:
            raise FormatError("RING-6", f"there is no ring of the newest epoch for slot {entry.label}")

    def _ring(self, name, parts, slot, secrets):
        sealed = self.load("ring", name, parts)
        about = crypto.info("ring", self.repository, self.config.suite, sealed.epoch, slot)
        plain = crypto.hpke_open(self.config.suite, secrets.kem_private, about, sealed.encapsulated, sealed.sealed)
        if plain is None:
            raise FormatError("RING-3", f"{name} doesn't open")
        ring = objects.decode_ring_secrets(plain)
        if ring.seal_private and crypto.kem_public(ring.seal_private) != ring.seal_public:
            raise FormatError("RING-4", f"{name}: the halves of the payload key don't belong together")
        commitment = self.roster.epochs[sealed.epoch]
        if commitment and commitment != crypto.epoch_commitment(ring.meta, self.repository, sealed.epoch):
            raise FormatError("RING-5", f"{name} holds other secrets than the roster states")
        return ring

    def ring(self, epoch):
        if epoch not in self.rings:
            raise AccessError(f"this slot has no ring of epoch {epoch}")
        return self.rings[epoch]

    @property
    def can_read(self):
        return all(ring.seal_private for ring in self.rings.values())

    def chunk_ids(self, epoch):
        if epoch not in self.ids:
            self.ids[epoch] = crypto.ChunkIds(self.ring(epoch).id)
        return self.ids[epoch]

    # Which snapshots count (sessions.md)

    def log(self):
        """The gc log as {generation: {kind: entry}}; GC-3 and GC-4: damage stops."""
        generations = {}
        for kind in ("condemn", "fence", "final"):
            for name, parts in self.listing.of(kind):
                entry = self.load(kind, name, parts)
                generations.setdefault(entry.generation, {})[kind] = entry
        for place, number in enumerate(sorted(generations), 1):
            entries = generations[number]
            if number != place or (place < len(generations) and "final" not in entries):
                raise FormatError("GC-3", f"generation {number} follows an absent or unfinished one")
            if "condemn" not in entries or ("final" in entries and "fence" not in entries):
                raise FormatError("GC-3", f"generation {number} lacks an object")
        return generations

    def audit(self, problems):
        """Chains as {slot: [AuditEntry]}, by number; AUDIT-7 and AUDIT-8 go to `problems`."""
        chains = {}
        for name, entry in self.each("audit entry", problems):
            chains.setdefault(entry.slot, {})[entry.digest] = (name, entry)
        for chain in chains.values():
            followed = set()
            for name, entry in chain.values():
                numbers = [chain[digest][1].number for digest in entry.previous if digest in chain]
                followed.update(entry.previous)
                if len(numbers) < len(entry.previous) or max(numbers, default=0) != entry.number - 1:
                    problems.append((name, FormatError("AUDIT-7", "an entry before it is absent")))
            ends = [entry for digest, (_, entry) in chain.items() if digest not in followed]
            if len(ends) > 1:
                problems.append((f"audit/{ends[0].slot.hex()}/", FormatError("AUDIT-8", f"{len(ends)} ends")))
        by_number = {slot: sorted((entry for _, entry in chain.values()), key=lambda entry: entry.number)
                     for slot, chain in chains.items()}  # fmt: skip
        return by_number

    def said(self, kind, problems):
        """Verdicts or tags by snapshot."""
        found = {}
        for _, value in self.each(kind, problems):
            found.setdefault(value.snapshot, []).append(value)
        return found

    def counted(self, problems):
        """Counted snapshots as {id: Snapshot}, COUNT-1 to COUNT-4, with their tags and verdict."""
        generations = self.log()
        gone, doubtful = set(), set()
        for entries in generations.values():
            if "final" in entries:
                gone.update(entries["final"].lists[2], entries["final"].lists[3])
            elif "fence" in entries:
                doubtful.update(entries["fence"].lists[0])
        verdicts, tags = self.said("verdict", problems), self.said("tags", problems)
        counted = {}
        names = {parts[0]: name for name, parts in self.listing.of("snapshot")}
        for name, commit in self.each("commit", problems):
            if commit.session in gone or commit.session in doubtful or commit.snapshot in counted:
                continue
            ruling = objects.effective(verdicts.get(commit.snapshot))
            if ruling == objects.FORGET:
                continue
            stated = commit.snapshot.hex()
            try:
                if stated not in names:
                    raise FormatError("COUNT-4", f"snapshot {stated} is absent")
                snapshot = self.load("snapshot", names[stated], (stated,))
            except Refused:
                continue
            except FormatError as error:
                problems.append((name, error))
                continue
            said = tags.get(commit.snapshot, [])
            if said:
                highest = max(entry.number for entry in said)
                snapshot.tags = sorted({tag for entry in said if entry.number == highest for tag in entry.tags})
            snapshot.held = ruling == objects.HOLD
            counted[commit.snapshot] = snapshot
        return counted

    def private(self, snapshot):
        """A snapshot's private part; SNAPSHOT-2."""
        record, raw_length, sealed = objects.split_private(snapshot.private)
        section = crypto.Section(record)
        key = section.open(self.config.suite, self.repository, self.ring(section.epoch))
        if raw_length > 16 << 20:
            raise FormatError("LIMIT-1", f"a private part of {raw_length} bytes")
        plain = section.open_frame(self.config.suite, self.repository, key, 0, raw_length, sealed)
        return objects.decode_snapshot_private(pack.decompress(plain[0], plain[1:], raw_length, pack.FRAME_RULES))

    # Packs and chunks

    def pack_name(self, pack_id):
        return f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"

    def pack_range(self, pack_id, offset, length):
        with open(os.path.join(self.path, self.pack_name(pack_id)), "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise FormatError("PACK-1", f"pack {pack_id.hex()} ends before offset {offset + length}")
        return data

    def open_pack(self, pack_id):
        """Header and directory, read by ranges."""
        if pack_id in self.packs:
            return self.packs[pack_id]
        size = os.path.getsize(os.path.join(self.path, self.pack_name(pack_id)))
        if size > pack.PACK_MAX:
            raise FormatError("PACK-7", f"{size} bytes")
        if size < pack.HEADER + crypto.SECTION_RECORD + pack.FOOTER + pack.TRAILER:
            raise FormatError("PACK-1", f"a pack of {size} bytes")
        fixed = self.pack_range(pack_id, 0, pack.HEADER)
        sections = min(int.from_bytes(fixed[80:84], "little"), (size - pack.HEADER) // crypto.SECTION_RECORD)
        head = self.pack_range(pack_id, 0, pack.HEADER + sections * crypto.SECTION_RECORD)
        header = pack.decode_header(head, self.repository)

        def opened(number, offset, length, what):
            sealed = self.pack_range(pack_id, offset, length)
            plain = crypto.metadata_open(
                self.config.suite,
                self.ring(header.epoch),
                self.repository,
                CODES["pack"],
                header.epoch,
                header.salt,
                number,
                sealed,
            )
            if plain is None:
                raise FormatError("PACK-6", f"the {what} of pack {pack_id.hex()} doesn't open")
            return plain

        end = size - pack.FOOTER - pack.TRAILER
        offset, length = pack.decode_footer(opened(1, end, pack.FOOTER, "footer"), size)
        if length > (64 << 20) + crypto.TAG:
            raise FormatError("LIMIT-1", f"a directory of {length} bytes")
        directory = opened(0, offset, length, "directory")
        frames = pack.decode_directory(directory, len(header.sections), header.metadata)
        pack.place(frames, len(header.sections), offset)
        self.packs[pack_id] = OpenPack(pack_id, size, header, frames)
        return self.packs[pack_id]

    def open_frame(self, opened, frame):
        """A frame's chunks joined, not yet compared with any ChunkId."""
        section = opened.header.sections[frame.section]
        if section.id not in opened.keys:
            opened.keys[section.id] = section.open(self.config.suite, self.repository, self.ring(section.epoch))
        sealed = self.pack_range(opened.id, frame.offset, frame.sealed_length)
        raw_length = frame.raw_length
        plain = section.open_frame(
            self.config.suite, self.repository, opened.keys[section.id], frame.number, raw_length, sealed
        )
        return pack.decompress(plain[0], plain[1:], raw_length, pack.FRAME_RULES)

    def chunks(self, opened, frame):
        """The chunks of a frame as (Chunk, plaintext), with ids computed."""
        plain, at = self.open_frame(opened, frame), 0
        hasher = self.chunk_ids(opened.header.sections[frame.section].epoch)
        for chunk in frame.chunks:
            part = plain[at : at + chunk.length]
            at += chunk.length
            chunk.id = hasher.id(chunk.kind, part)
            yield chunk, part

    def add(self, pack_id, frame, section):
        at = 0
        for chunk in frame.chunks:
            self.index.setdefault(chunk.id, []).append(Location(pack_id, frame, at, chunk.length, chunk.kind, section))
            at += chunk.length

    def load_segments(self, problems):
        """Fills the index from the segments, as a hint: nothing read through it is trusted unverified."""
        segments = dict(self.each("segment", problems))
        superseded = set()
        for segment in segments.values():
            if segment.supersedes and self.roster.slots[segment.signer].role != objects.WRITER:
                superseded.update(segment.supersedes)
        refused = set(superseded)
        for name, segment in segments.items():
            if segment.digest in superseded:
                continue
            writer = self.roster.slots[segment.signer].role == objects.WRITER
            if writer and any(entry.origin != segment.signer for entry in segment.packs):
                problems.append((name, FormatError("SEG-9", "a writer states another slot as origin")))
                refused.add(segment.digest)
                continue
            if writer and segment.supersedes:
                problems.append((name, FormatError("SEG-11", "a writer supersedes segments")))
                refused.add(segment.digest)
                continue
            for entry in segment.packs:
                for frame in entry.frames:
                    self.add(entry.pack, frame, entry.sections[frame.section])
        return {name: segment for name, segment in segments.items() if segment.digest not in refused}

    def scan_packs(self, problems, each=None):
        """Fills the index from the packs themselves: opens every frame and computes every ChunkId."""
        self.index, self.scanned = {}, True
        for name, parts in self.listing.of("pack"):
            pack_id = bytes.fromhex(parts[1])
            try:
                opened = self.open_pack(pack_id)
            except FormatError as error:
                problems.append((name, error))
                continue
            for frame in opened.frames:
                try:
                    for chunk, plain in self.chunks(opened, frame):
                        if each:
                            each(chunk, plain)
                except FormatError as error:
                    problems.append((name, error))
                    continue
                self.add(pack_id, frame, opened.header.sections[frame.section].id)

    def chunk(self, kind, chunk_id):
        """A chunk's plaintext, compared with its id (CHUNK-1), from whichever copy is sound."""
        problem = None
        for location in self.index.get(chunk_id, []):
            try:
                return self._chunk(location, kind, chunk_id)
            except (FormatError, FileNotFoundError) as error:
                problem = error
        if not self.scanned:
            self.scan_packs([])
            return self.chunk(kind, chunk_id)
        raise problem or FormatError("COMMIT-1", f"{crypto.KIND_LABELS[kind]} chunk {chunk_id.hex()} is in no pack")

    def _chunk(self, location, kind, chunk_id):
        key = (location.pack, location.section, location.frame.number)
        if key not in self.frames:
            opened = self.open_pack(location.pack)
            stated = location.frame
            ids = [section.id for section in opened.header.sections]
            frame = next(
                (
                    frame
                    for frame in opened.frames
                    if (ids[frame.section], frame.number) == (location.section, stated.number)
                ),
                None,
            )
            if frame is None:
                raise FormatError("SEG-10", f"pack {location.pack.hex()} has no frame {stated.number} of that section")
            hasher = self.chunk_ids(opened.header.sections[frame.section].epoch)
            self.frames[key] = (self.open_frame(opened, frame), hasher)
            if len(self.frames) > FRAME_CACHE:
                self.frames.popitem(last=False)
        plain, hasher = self.frames[key]
        part = plain[location.offset : location.offset + location.length]
        if hasher.id(kind, part) != chunk_id:
            raise FormatError("CHUNK-1", f"what stands for chunk {chunk_id.hex()} is not it")
        return part

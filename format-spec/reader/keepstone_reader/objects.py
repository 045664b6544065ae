"""The envelope and the payloads of the metadata objects (envelope.md, config.md, keys.md, …)."""

from dataclasses import dataclass

from .crypto import ENCAPSULATED, SECTION_RECORD, digest
from .wire import Cbor, FormatError, Reader, ascending

MAGIC = b"KSTN"
KINDS = [
    "config", "region", "roster", "ring", "pack", "segment", "session", "session end", "snapshot", "commit",
    "verdict", "condemn", "fence", "final", "tags", "audit entry", "accepted list", "attestation",
]  # fmt: skip
CODES = {name: code for code, name in enumerate(KINDS, 1)}
SEALED = {"segment", "snapshot", "verdict", "tags", "audit entry"}
BY_ROOT = {"config", "region", "roster", "ring", "accepted list"}
OWNER, WRITER, MAINTAINER = 1, 2, 3
ROLES = {OWNER: "owner", WRITER: "writer", MAINTAINER: "maintainer"}
MAY_SIGN = {
    "segment": {OWNER, WRITER, MAINTAINER},
    "session": {OWNER, WRITER, MAINTAINER},
    "session end": {OWNER, WRITER, MAINTAINER},
    "commit": {OWNER, WRITER, MAINTAINER},
    "snapshot": {OWNER, WRITER},
    "verdict": {OWNER, MAINTAINER},
    "tags": {OWNER, MAINTAINER},
    "condemn": {OWNER, MAINTAINER},
    "fence": {OWNER, MAINTAINER},
    "final": {OWNER, MAINTAINER},
    "audit entry": {OWNER, WRITER, MAINTAINER},
    "attestation": {OWNER},
}
LABEL_MAX, PATH_MAX, IDS_MAX, LOG_IDS_MAX, BASES_MAX = 255, 65536, 1 << 18, 1 << 16, 256
ROOT_SIGNER = bytes(16)


def check_digest(data):
    """OBJ-1 and OBJ-8; gives the digest."""
    if len(data) < 32:
        raise FormatError("OBJ-1", f"{len(data)} bytes are too few for an object")
    actual, stated = digest(data[:-32]), data[-32:]
    if actual != stated:
        raise FormatError("OBJ-8", f"the bytes' digest is {actual.hex()}, the trailer says {stated.hex()}")
    return stated


def preamble(reader):
    """The first eight bytes: kind's name and flags."""
    magic = reader.take(4)
    if magic != MAGIC:
        raise FormatError("OBJ-2", f"the magic is {magic.hex()}")
    kind, version = reader.take(2)
    if version != 1:
        raise FormatError("OBJ-3", f"format version {version}: use a newer program")
    if not 1 <= kind <= len(KINDS) or not KINDS[kind - 1]:
        raise FormatError("OBJ-4", f"object kind {kind} is unknown: use a newer program")
    return KINDS[kind - 1], reader.integer(2)


@dataclass
class Envelope:
    kind: str
    repository: bytes
    signer: bytes
    sealed: bool
    epoch: int
    salt: bytes
    payload: bytes
    signed_part: bytes
    signature: bytes
    digest: bytes


def decode_envelope(kind, data, repository=None):
    """OBJ-1 to OBJ-9; the signature is for the caller, who knows the keys."""
    own_digest = check_digest(data)
    body = data[:-32]
    reader = Reader(body, "OBJ-1")
    found, flags = preamble(reader)
    if found != kind:
        raise FormatError("OBJ-4", f"a {found} stands where a {kind} belongs")
    if flags & ~1:
        raise FormatError("OBJ-5", f"unknown flags {flags:#06x}")
    own_repository, signer = reader.take(16), reader.take(16)
    epoch, salt = reader.integer(8), reader.take(32)
    if not flags and (epoch or any(salt)):
        raise FormatError("OBJ-6", "epoch or salt in an object that is not sealed")
    if bool(flags) != (kind in SEALED):
        raise FormatError("OBJ-6", f"a {kind} that is {'' if flags else 'not '}sealed")
    length = reader.integer(8)
    if length != max(reader.left - 64, 0):
        raise FormatError("OBJ-7", f"payload length {length} doesn't fit the object's size")
    payload = reader.take(length)
    signed_part = body[: reader.at]
    signature = reader.take(64)
    reader.end()
    if flags and length < 16:
        raise FormatError("OBJ-7", "sealed payload shorter than its tag")
    if repository is not None and own_repository != repository:
        raise FormatError("OBJ-9", f"it belongs to repository {own_repository.hex()}")
    return Envelope(kind, own_repository, signer, bool(flags), epoch, salt, payload, signed_part, signature, own_digest)


def _document(decode):
    """Wraps the fields of one map into a whole document."""

    def whole(data):
        cbor = Cbor(data)
        cbor.map()
        value = decode(cbor)
        cbor.end_map()
        cbor.end()
        return value

    return whole


@dataclass
class Config:
    repository: bytes
    suite: int
    root_public: bytes
    created_at: int


@_document
def decode_config(cbor):
    repository = cbor.field(1).fixed(16)
    suite = cbor.field(2).uint()
    if suite not in (1, 2):
        raise FormatError("CONFIG-1", f"suite {suite} is not supported: use a newer program")
    chunking = cbor.field(3).text(LABEL_MAX)
    if chunking != "fastcdc-2020-keyed":
        raise FormatError("CONFIG-2", f"chunking '{chunking}' is unknown: use a newer program")
    if cbor.field(4).array(64):
        raise FormatError("CONFIG-3", f"the repository requires '{cbor.text(LABEL_MAX)}': use a newer program")
    return Config(repository, suite, cbor.field(5).fixed(32), cbor.field(6).int())


@dataclass
class Region:
    region: bytes
    put_if_absent: bool
    deletes: bool
    created_at: int


@_document
def decode_region(cbor):
    return Region(cbor.field(1).fixed(16), cbor.field(2).bool(), cbor.field(3).bool(), cbor.field(4).int())


@dataclass
class Slot:
    slot: bytes
    role: int
    revoked: bool
    label: str
    wrapping: str
    kem_public: bytes
    signing_public: bytes
    created_at: int


@dataclass
class Roster:
    number: int
    slots: dict
    epochs: dict
    accepted: dict
    # Digests of the rosters that it follows.
    previous: list
    # By slot and number, where stated, the digest of an accepted list's part.
    parts: dict


@_document
def decode_roster(cbor):
    number = cbor.field(1).uint()
    slots = []
    for _ in range(cbor.field(2).array(65536)):
        cbor.tuple(8)
        slot, role, state = cbor.fixed(16), cbor.uint(), None
        if role not in ROLES:
            raise FormatError("ROSTER-1", f"unknown role {role}")
        state = cbor.uint()
        if state > 2:
            raise FormatError("ROSTER-1", f"unknown state {state}")
        label, wrapping, kem_public = cbor.text(LABEL_MAX), cbor.text(LABEL_MAX), cbor.bytes(1216)
        if len(kem_public) != 1216:
            raise FormatError("ROSTER-3", f"a receiving key of {len(kem_public)} bytes")
        slots.append(Slot(slot, role, state == 1, label, wrapping, kem_public, cbor.fixed(32), cbor.int()))
        ascending([entry.slot for entry in slots[-2:]], "ROSTER-2", "slots")
    slots = {entry.slot: entry for entry in slots}
    # Before the first rotation nothing is stated: it is epoch 1 alone.
    epochs, accepted = {}, {}
    if cbor.optional(3):
        count, last = cbor.array(65536), 0
        for _ in range(count):
            cbor.tuple(2)
            epoch = cbor.uint()
            if epoch <= last:
                raise FormatError("ROSTER-6", "epochs not in ascending order from 1")
            epochs[epoch], last = cbor.fixed(32), epoch
        if not count:
            raise FormatError("CBOR-4", "an explicit default")
    if cbor.optional(4):
        count, last = cbor.array(65536), b""
        for _ in range(count):
            cbor.tuple(3)
            slot, first, parts = cbor.fixed(16), cbor.uint(), cbor.uint()
            revoked = slot in slots and slots[slot].revoked
            if slot <= last or not revoked or not 1 <= parts <= 4096 or first + parts > (1 << 64) - 1:
                raise FormatError("ROSTER-7", f"the accepted list of slot {slot.hex()} can't be")
            accepted[slot], last = range(first, first + parts), slot
        if not count:
            raise FormatError("CBOR-4", "an explicit default")
    previous, parts = [], {}
    if cbor.optional(5):
        previous = _ids(cbor, 32, "ROSTER-10", 1024)
        if not previous:
            raise FormatError("CBOR-4", "an explicit default")
    if cbor.optional(6):
        if cbor.array(65536) != len(accepted):
            raise FormatError("ROSTER-11", "not as many lists of digests as accepted lists")
        for slot, numbers in accepted.items():
            count = cbor.array(4096)
            if count not in (0, len(numbers)):
                raise FormatError("ROSTER-11", f"{count} digests for {len(numbers)} parts")
            parts.update(((slot, number), cbor.fixed(32)) for number in numbers[:count])
        if not parts:
            raise FormatError("CBOR-4", "an explicit default")
    return Roster(number, slots, epochs or {1: None}, accepted, previous, parts)


@dataclass
class Accepted:
    slot: bytes
    number: int
    digests: list


@_document
def decode_accepted(cbor):
    slot, number = cbor.field(1).fixed(16), cbor.field(2).uint()
    return Accepted(slot, number, _ids(cbor.field(3), 32, "ACCEPT-1"))


@dataclass
class Attestation:
    listings: list
    attested_at: int


@_document
def decode_attestation(cbor):
    return Attestation(_ids(cbor.field(1), 32, "ATTEST-1"), cbor.field(2).int())


@dataclass
class SealedRing:
    epoch: int
    slot: bytes
    encapsulated: bytes
    sealed: bytes


@_document
def decode_ring(cbor):
    epoch, slot, encapsulated = cbor.field(1).uint(), cbor.field(2).fixed(16), cbor.field(3).bytes(ENCAPSULATED)
    if len(encapsulated) != ENCAPSULATED:
        raise FormatError("RING-1", f"an encapsulated key of {len(encapsulated)} bytes")
    return SealedRing(epoch, slot, encapsulated, cbor.field(4).bytes(64 << 10))


@dataclass
class Ring:
    id: bytes
    gear: bytes
    meta: bytes
    seal_public: bytes
    seal_private: bytes


@_document
def decode_ring_secrets(cbor):
    secret = cbor.fixed(32) if cbor.optional(1) else None
    gear = cbor.fixed(32) if cbor.optional(2) else None
    meta = cbor.field(3).fixed(32)
    public = cbor.bytes(1216) if cbor.optional(4) else None
    if public is not None and len(public) != 1216:
        raise FormatError("RING-2", "a payload key of the wrong size")
    return Ring(secret, gear, meta, public, cbor.fixed(32) if cbor.optional(5) else None)


@dataclass
class SlotSecrets:
    repository: bytes
    slot: bytes
    kem_private: bytes
    signing_private: bytes
    root_private: bytes


@_document
def decode_slot_secrets(cbor):
    return SlotSecrets(
        cbor.field(1).fixed(16),
        cbor.field(2).fixed(16),
        cbor.field(3).fixed(32),
        cbor.field(4).fixed(32),
        cbor.fixed(32) if cbor.optional(5) else None,
    )


def _ids(cbor, size, rule, most=IDS_MAX):
    return ascending([cbor.fixed(size) for _ in range(cbor.array(most))], rule, "identifiers")


@dataclass
class Session:
    session: bytes
    number: int
    region: bytes
    observed: int
    needs: list
    adopts: list
    started_at: int
    bases: list


@_document
def decode_session(cbor):
    return Session(
        cbor.field(1).fixed(16),
        cbor.field(2).uint(),
        cbor.field(3).fixed(16),
        cbor.field(4).uint(),
        _ids(cbor.field(5), 32, "SESSION-1"),
        _ids(cbor.field(6), 16, "SESSION-1"),
        cbor.field(7).int(),
        _ids(cbor, 32, "SESSION-1", BASES_MAX) if cbor.optional(8) else [],
    )


@dataclass
class SessionEnd:
    session: bytes
    region: bytes


@_document
def decode_session_end(cbor):
    return SessionEnd(cbor.field(1).fixed(16), cbor.field(2).fixed(16))


@dataclass
class Commit:
    session: bytes
    region: bytes
    snapshot: bytes
    observed: int


@_document
def decode_commit(cbor):
    return Commit(cbor.field(1).fixed(16), cbor.field(2).fixed(16), cbor.field(3).fixed(32), cbor.field(4).uint())


@dataclass
class Log:
    """A condemn, fence or final: its lists in the order of their keys."""

    generation: int
    region: bytes
    lists: list


def _log(*sizes, forgotten=False):
    @_document
    def decode(cbor):
        generation, region = cbor.field(1).uint(), cbor.field(2).fixed(16)
        lists = [_ids(cbor.field(key), size, "GC-1", LOG_IDS_MAX) for key, size in enumerate(sizes, 3)]
        if forgotten:
            lists.append(_forgotten(cbor) if cbor.optional(3 + len(sizes)) else [])
        return Log(generation, region, lists)

    return decode


def _forgotten(cbor):
    """Snapshots, each with the time at which a collector saw it forgotten first."""
    pairs = []
    for _ in range(cbor.array(LOG_IDS_MAX)):
        cbor.tuple(2)
        pairs.append((cbor.fixed(32), cbor.int()))
    ascending([snapshot for snapshot, _ in pairs], "GC-1", "identifiers")
    return pairs


decode_condemn = _log(32, forgotten=True)
decode_fence = _log(16, 32)
decode_final = _log(32, 32, 16, 16, 32)

FORGET, UNFORGET, HOLD, RELEASE = range(4)
RULINGS = ["forget", "unforget", "hold", "release"]


@dataclass
class Verdict:
    snapshot: bytes
    number: int
    ruling: int
    decided_at: int
    reason: str
    until: int | None = None


@_document
def decode_verdict(cbor):
    snapshot, number, ruling = cbor.field(1).fixed(32), cbor.field(2).uint(), cbor.field(3).uint()
    if ruling > RELEASE:
        raise FormatError("VERDICT-1", f"unknown ruling {ruling}")
    decided_at, reason, until = cbor.field(4).int(), cbor.field(5).text(4096), None
    if cbor.optional(6):
        if ruling != HOLD:
            raise FormatError("VERDICT-7", "only a hold has an end")
        until = cbor.int()
    return Verdict(snapshot, number, ruling, decided_at, reason, until)


def effective(verdicts):
    """The ruling that counts (VERDICT-3), or None when nothing was said."""
    if not verdicts:
        return None
    highest = max(verdict.number for verdict in verdicts)
    rulings = {verdict.ruling for verdict in verdicts if verdict.number == highest}
    if HOLD in rulings:
        return HOLD
    return min(rulings - {FORGET}, default=FORGET)


@dataclass
class Tags:
    snapshot: bytes
    number: int
    tags: list


def _tags(cbor):
    tags = [cbor.text(LABEL_MAX) for _ in range(cbor.array(256))]
    ascending([tag.encode() for tag in tags], "TAGS-1", "tags")
    return tags


@_document
def decode_tags(cbor):
    return Tags(cbor.field(1).fixed(32), cbor.field(2).uint(), _tags(cbor.field(3)))


@dataclass
class Snapshot:
    dataset: str
    host: str
    started_at: int
    finished_at: int
    tags: list
    source: int
    root: bytes
    counts: list
    partial: bool
    chunk_average: int
    program: str
    private: bytes


@_document
def decode_snapshot(cbor):
    dataset, host = cbor.field(1).text(LABEL_MAX), cbor.field(2).text(LABEL_MAX)
    started_at, finished_at, tags = cbor.field(3).int(), cbor.field(4).int(), _tags(cbor.field(5))
    source = cbor.field(6).uint()
    if source > 1:
        raise FormatError("SNAPSHOT-1", f"unknown kind of source {source}")
    root = cbor.field(7).fixed(32)
    cbor.field(8).tuple(6)
    counts = [cbor.uint() for _ in range(6)]
    partial, average = cbor.field(9).bool(), cbor.field(10).uint()
    program, private = cbor.field(11).text(LABEL_MAX), cbor.field(12).bytes(16 << 20)
    if counts[5] and not partial:
        raise FormatError("SNAPSHOT-3", f"{counts[5]} issues in a snapshot that isn't partial")
    return Snapshot(
        dataset, host, started_at, finished_at, tags, source, root, counts, partial, average, program, private
    )


@dataclass
class SnapshotPrivate:
    sources: list
    root_path: bytes
    command: bytes
    omitted: list
    issues: list


@_document
def decode_snapshot_private(cbor):
    sources = [cbor.bytes(PATH_MAX) for _ in range(cbor.field(1).array(1 << 20))]
    root_path, command, lists = cbor.field(2).bytes(PATH_MAX), cbor.field(3).bytes(PATH_MAX), []
    for key in (4, 5):
        items = []
        for _ in range(cbor.field(key).array(10_000)):
            cbor.tuple(3)
            items.append((cbor.bytes(PATH_MAX), cbor.text(LABEL_MAX), cbor.text(4096)))
        lists.append(items)
    return SnapshotPrivate(sources, root_path, command, *lists)


def split_private(private):
    """SNAPSHOT-2's parts: section record, raw length, sealed frame."""
    if len(private) < SECTION_RECORD + 4:
        raise FormatError("SNAPSHOT-2", f"a private part of {len(private)} bytes")
    at = SECTION_RECORD
    return private[:at], int.from_bytes(private[at : at + 4], "little"), private[at + 4 :]


ACTIONS = [
    "init", "forget", "unforget", "hold", "release", "break-floor", "gc-final", "key-add", "key-remove",
    "key-revoke", "key-rotate", "key-rewrap", "roster-merge", "repair", "attest",
    "region-add", "designate", "tag",
]  # fmt: skip


@dataclass
class AuditEntry:
    slot: bytes
    number: int
    previous: list
    label: str
    host: str
    recorded_at: int
    action: int
    subjects: list
    figures: list
    reason: str


@_document
def decode_audit_entry(cbor):
    slot, number = cbor.field(1).fixed(16), cbor.field(2).uint()
    if not number:
        raise FormatError("AUDIT-3", "entry 0")
    previous = [cbor.fixed(32) for _ in range(cbor.field(3).array(64))]
    ascending(previous, "AUDIT-2", "previous entries")
    label, host, recorded_at = cbor.field(4).text(LABEL_MAX), cbor.field(5).text(LABEL_MAX), cbor.field(6).int()
    action = cbor.field(7).uint()
    if action >= len(ACTIONS):
        raise FormatError("AUDIT-1", f"unknown action {action}")
    subjects = [cbor.bytes(32) for _ in range(cbor.field(8).array(65536))]
    ascending(subjects, "AUDIT-2", "subjects")
    figures = []
    for _ in range(cbor.field(9).array(64)):
        cbor.tuple(2)
        figures.append((cbor.text(LABEL_MAX), cbor.uint()))
    ascending([name.encode() for name, _ in figures], "AUDIT-2", "figures")
    return AuditEntry(
        slot, number, previous, label, host, recorded_at, action, subjects, figures, cbor.field(10).text(4096)
    )

"""Trees and lists: structural chunks, nodes, walking a whole sequence (tree.md)."""

from dataclasses import dataclass

from .crypto import LIST, TREE
from .pack import CHUNK_MAX
from .wire import Cbor, FormatError, Reader, ascending

LEVELS_MAX = 16
NAME_MAX, PATH_MAX, XATTRS_MAX, RECORD_MAX = 255, 65536, 1 << 20, 2 << 20
BYTES_MIN, BYTES_MAX, CUT_EVERY = 8 << 10, 256 << 10, 128
FILE, DIRECTORY, SYMLINK, CHARACTER, BLOCK, FIFO = range(6)


@dataclass
class Extent:
    length: int
    id: bytes = None  # None for a hole


@dataclass
class Node:
    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    user: bytes = b""
    group: bytes = b""
    xattrs: tuple = ()
    link_group: bytes = None
    size: int = 0
    extents: tuple = ()
    list: bytes = None
    inconsistent: bool = False
    tree: bytes = None
    target: bytes = None
    device: tuple = None


@dataclass
class Child:
    id: bytes
    weight: int
    last_name: bytes = b""


@dataclass
class Structural:
    level: int
    records: list  # nodes, extents or children

    def references(self):
        """What it refers to, in order, each once."""
        found = {}
        for record in self.records:
            if isinstance(record, (Child, Extent)):
                found[record.id] = None
            elif record.kind == DIRECTORY:
                found[record.tree] = None
            elif record.list is not None:
                found[record.list] = None
            else:
                found.update((extent.id, None) for extent in record.extents)
        found.pop(None, None)
        return list(found)


def valid_name(name):
    return 1 <= len(name) <= NAME_MAX and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def _extent(reader):
    coded = reader.varint()
    length = coded >> 1
    if length == 0 or (not coded & 1 and length > CHUNK_MAX):
        raise FormatError("LIST-1", f"an extent of {length} bytes")
    return Extent(length, None if coded & 1 else reader.take(32))


def _node(data, at):
    cbor = Cbor(data, at)
    cbor.map()
    name = cbor.field(1).bytes(PATH_MAX)
    if not valid_name(name):
        raise FormatError("TREE-1", f"the name {name!r} is not allowed")
    kind, mode = cbor.field(2).uint(), cbor.field(3).uint(32)
    if mode > 0o7777:
        raise FormatError("TREE-2", f"mode {mode:o}")
    uid, gid = cbor.field(4).uint(32), cbor.field(5).uint(32)
    cbor.field(6).tuple(2)
    node = Node(name, kind, mode, uid, gid, cbor.int(), cbor.uint(32))
    if node.nanoseconds >= 10**9:
        raise FormatError("TREE-3", f"{node.nanoseconds} nanoseconds in a second")
    for key, attribute in ((7, "user"), (8, "group")):
        if cbor.optional(key):
            setattr(node, attribute, _present(cbor.bytes(NAME_MAX), key))
    if cbor.optional(9):
        node.xattrs = _present(_xattrs(cbor), 9)
    if cbor.optional(10):
        node.link_group = cbor.bytes(PATH_MAX)
        if not all(map(valid_name, node.link_group.split(b"/"))):
            raise FormatError("TREE-1", "a hard-link group that is not a relative path")
    if kind == FILE:
        _content(cbor, node)
    elif kind == DIRECTORY:
        node.tree = cbor.field(15).fixed(32)
    elif kind == SYMLINK:
        node.target = cbor.field(16).bytes(65536)
    elif kind in (CHARACTER, BLOCK):
        cbor.field(17).tuple(2)
        node.device = (cbor.uint(32), cbor.uint(32))
    elif kind != FIFO:
        raise FormatError("TREE-6", f"unknown kind of entry {kind}")
    cbor.end_map()
    return node, cbor.at - at


def _present(value, key):
    if not value:
        raise FormatError("CBOR-4", f"field {key} is there with its default")
    return value


def _xattrs(cbor):
    room, found = XATTRS_MAX, []
    for _ in range(cbor.array(XATTRS_MAX // 2)):
        cbor.tuple(2)
        name = cbor.bytes(min(NAME_MAX, room))
        value = cbor.bytes(room - len(name))
        room -= len(name) + len(value)
        if not name or b"\0" in name or (found and found[-1][0] >= name):
            raise FormatError("TREE-4", "extended attributes not in ascending order of names")
        found.append((name, value))
    return tuple(found)


def _content(cbor, node):
    node.size = cbor.field(11).uint()
    if cbor.optional(12):
        packed, extents = Reader(cbor.bytes(192), "LIST-1"), []
        while packed.left:
            extents.append(_extent(packed))
        if not 1 <= len(extents) <= 4 or sum(extent.length for extent in extents) != node.size:
            raise FormatError("TREE-5", "the content's length is not the file's size")
        node.extents = tuple(extents)
    elif cbor.optional(13):
        node.list = cbor.fixed(32)
    elif node.size:
        raise FormatError("TREE-5", "a file with a size and no content")
    if cbor.optional(14):
        node.inconsistent = _present(cbor.bool(), 14)


def decode_chunk(kind, data):
    """One structural chunk."""
    reader = Reader(data, "SEQ-1")
    level = reader.take(1)[0]
    if level > LEVELS_MAX or kind not in (TREE, LIST):
        raise FormatError("SEQ-2", f"level {level}")
    count = reader.count(reader.left // 2, "record count")
    records = []
    for _ in range(count):
        if level and kind == TREE:
            child = Child(reader.take(32), reader.varint())
            child.last_name = reader.take(reader.count(NAME_MAX, "name length"))
            records.append(child)
        elif level:
            records.append(Child(reader.take(32), reader.varint()))
        elif kind == TREE:
            node, length = _node(data, reader.at)
            if length > RECORD_MAX:
                raise FormatError("SEQ-1", "record too large")
            reader.take(length)
            records.append(node)
        else:
            records.append(_extent(reader))
        if kind == TREE:
            names = [record.last_name if level else record.name for record in records[-2:]]
            ascending(names, "SEQ-3", "names")
    if level and not records:
        raise FormatError("SEQ-1", "a higher level without records")
    reader.end()
    return Structural(level, records)


def walk(kind, top, load, visit=None):
    """Yields the level-0 records of the sequence under `top`, checking order, levels and weights.

    `load(kind, id)` gives a chunk's verified plaintext.
    """
    last = [None]

    def descend(chunk_id, level):
        chunk = decode_chunk(kind, load(kind, chunk_id))
        if level is not None and chunk.level != level:
            raise FormatError("SEQ-5", f"a chunk of level {chunk.level} where level {level} belongs")
        if chunk.level == 0:
            weight = 0
            for record in chunk.records:
                if kind == TREE:
                    if last[0] is not None and last[0] >= record.name:
                        raise FormatError("SEQ-3", "names not in ascending order from chunk to chunk")
                    last[0] = record.name
                    weight += 1
                else:
                    weight += record.length
                yield record
            return weight
        total = 0
        for child in chunk.records:
            weight = yield from descend(child.id, chunk.level - 1)
            if weight != child.weight or (kind == TREE and last[0] != child.last_name):
                raise FormatError("SEQ-6", "a child's last name or weight is not that of what is below it")
            total += weight
        return total

    yield from descend(top, None)


def cuts(level, records, cut_hash):
    """Where a writer cuts records, given as (key, bytes); SEQ-4. Only the vectors need it here."""
    body, found = 0, []
    for at, (key, length) in enumerate(records):
        if body and body + length > BYTES_MAX:
            found.append(at)
            body = 0
        body += length
        if body >= BYTES_MIN and cut_hash(bytes([level]) + key) % CUT_EVERY == 0:
            found.append(at + 1)
            body = 0
    return found

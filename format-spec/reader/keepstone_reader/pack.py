"""Packs, their directories, and segments (pack.md, segment.md)."""

from dataclasses import dataclass, field

import zstandard

from .crypto import DATA, LIST, SECTION_RECORD, TAG, Section, derive
from .objects import preamble
from .wire import FormatError, Reader, ascending

HEADER = 84
FOOTER = 32
TRAILER = 32
CHUNK_MAX = 16 << 20
FRAME_RAW_MAX = 17 << 20
FRAME_SEALED_MAX = FRAME_RAW_MAX + (FRAME_RAW_MAX >> 7) + 1024
PACK_MAX = 256 << 20
FRAMES_MAX, CHUNKS_MAX, SECTIONS_MAX = 65536, 1 << 19, 4096
SEGMENT_RAW_MAX = 128 << 20
REFERENCES_MAX = 4 << 20
FRAME_RULES = ("FRAME-1", "FRAME-2", "FRAME-3")


def padme(length):
    """The next Padmé length at or above `length`."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low = exponent - min(exponent.bit_length(), exponent)
    mask = (1 << low) - 1
    return (length + mask) & ~mask


def decompress(codec, data, raw_length, rules):
    """Decodes to exactly `raw_length` bytes; `rules` are those of codec, length and zstd frame."""
    if codec > 1:
        raise FormatError(rules[0], f"unknown codec {codec}")
    plain = data
    if codec == 1:
        decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(write_size=1 << 16)
        try:
            plain = _bounded(decoder, data, raw_length)
        except zstandard.ZstdError as error:
            raise FormatError(rules[2], f"zstd: {error}") from None
        if not decoder.eof or decoder.unused_data:
            raise FormatError(rules[2], "not exactly one zstd frame")
    if len(plain) != raw_length:
        raise FormatError(rules[1], f"{len(plain)} bytes decoded, {raw_length} stated")
    return plain


def _bounded(decoder, data, raw_length):
    """Feeds small pieces, so that a bomb is noticed before it has grown."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) <= raw_length and not decoder.eof:
        piece = data[at : at + 4096]
        out += decoder.decompress(piece)
        at += len(piece)
    if at < len(data) and decoder.eof:
        raise zstandard.ZstdError("bytes after the frame")
    return bytes(out)


@dataclass
class Header:
    metadata: bool
    repository: bytes
    session: bytes
    epoch: int
    salt: bytes
    sections: list


def decode_header(data, repository=None):
    reader = Reader(data, "PACK-1")
    kind, flags = preamble(reader)
    if kind != "pack":
        raise FormatError("OBJ-4", f"a {kind} stands where a pack belongs")
    if flags & ~1:
        raise FormatError("OBJ-5", f"unknown flags {flags:#06x}")
    own, session, epoch, salt = reader.take(16), reader.take(16), reader.integer(8), reader.take(32)
    count = reader.integer(4)
    if not 1 <= count <= SECTIONS_MAX:
        raise FormatError("PACK-2", f"{count} sections, 1 to {SECTIONS_MAX} allowed")
    sections = [Section(reader.take(SECTION_RECORD)) for _ in range(count)]
    if len({section.id for section in sections}) != count:
        raise FormatError("PACK-3", "a section stands twice")
    if repository is not None and own != repository:
        raise FormatError("OBJ-9", f"it belongs to repository {own.hex()}")
    return Header(flags == 1, own, session, epoch, salt, sections)


def decode_footer(data, pack_length):
    if len(data) != 16:
        raise FormatError("PACK-4", f"a footer of {len(data)} bytes")
    offset, length = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
    if offset < HEADER + SECTION_RECORD or length <= TAG or offset + length > pack_length - FOOTER - TRAILER:
        raise FormatError("PACK-4", "the footer points outside the pack")
    return offset, length


@dataclass
class Chunk:
    kind: int
    length: int
    id: bytes = None
    references: list = None


@dataclass
class Frame:
    section: int
    number: int
    sealed_length: int
    chunks: list
    offset: int = 0

    @property
    def raw_length(self):
        return sum(chunk.length for chunk in self.chunks)


def _chunk(coded, rule):
    kind, length = coded & 3, coded >> 2
    if kind > LIST or not 1 <= length <= CHUNK_MAX:
        raise FormatError(rule, f"a chunk of kind {kind} and {length} bytes")
    return Chunk(kind, length)


def decode_directory(data, sections, metadata):
    reader = Reader(data, "DIR-1")
    frames, numbers, chunks_left = [], set(), CHUNKS_MAX
    for _ in range(reader.count(FRAMES_MAX, "frame count")):
        section, number = reader.count(sections - 1, "section index"), reader.varint()
        if (section, number) in numbers:
            raise FormatError("DIR-5", f"frame number {number} stands twice in a section")
        numbers.add((section, number))
        sealed_length = reader.count(FRAME_SEALED_MAX, "sealed frame length")
        if sealed_length <= TAG:
            raise FormatError("DIR-3", "sealed frame shorter than its tag")
        count = reader.count(chunks_left, "chunk count")
        chunks_left -= count
        chunks, raw_length = [], 0
        for _ in range(count):
            coded = reader.varint()
            if coded & 3 <= LIST and (coded & 3 != DATA) != metadata:
                raise FormatError("DIR-4", "data and structural chunks share a pack")
            chunks.append(_chunk(coded, "DIR-2"))
            raw_length += chunks[-1].length
            if raw_length > FRAME_RAW_MAX:
                raise FormatError("DIR-3", "frame larger than allowed")
        if not chunks:
            raise FormatError("DIR-3", "frame without chunks")
        frames.append(Frame(section, number, sealed_length, chunks))
    reader.end()
    return frames


def place(frames, sections, directory_offset=None):
    """Gives each frame its offset in the pack; PACK-5."""
    at = HEADER + sections * SECTION_RECORD
    for frame in frames:
        frame.offset = at
        at += frame.sealed_length
    if directory_offset is not None and at != directory_offset:
        raise FormatError("PACK-5", f"the frames end at {at}, the directory begins at {directory_offset}")
    return at


@dataclass
class SegmentPack:
    pack: bytes
    session: bytes
    origin: bytes
    size: int
    metadata: bool
    sections: list = field(default_factory=list)
    frames: list = field(default_factory=list)


@dataclass
class Segment:
    supersedes: list
    packs: list


def unwrap_segment(plain):
    """The columns of a segment's opened payload; SEG-8."""
    if len(plain) < 5:
        raise FormatError("SEG-8", "payload cut short")
    raw_length = int.from_bytes(plain[:4], "little")
    if raw_length > SEGMENT_RAW_MAX:
        raise FormatError("SEG-8", f"a segment of {raw_length} bytes")
    return decompress(plain[4], plain[5:], raw_length, ("SEG-8",) * 3)


def listing(entry):
    """The digest of what a segment states of a pack: ATTEST-3."""

    def number(value, size):
        return value.to_bytes(size, "little")

    parts = [entry.pack, entry.session, number(entry.size, 8), bytes([entry.metadata])]
    parts += [number(len(entry.sections), 4), *entry.sections, number(len(entry.frames), 4)]
    for frame in entry.frames:
        parts += [number(frame.section, 4), number(frame.number, 8), number(frame.sealed_length, 4)]
        parts.append(number(len(frame.chunks), 4))
        for chunk in frame.chunks:
            references = chunk.references or []
            parts += [chunk.id, bytes([chunk.kind]), number(chunk.length, 4), number(len(references), 4)]
            parts += [reference[:8] for reference in references]
    return derive("pack listing", *parts)


def _at_most(counts, what):
    if sum(counts) > CHUNKS_MAX:
        raise FormatError("LIMIT-1", f"{sum(counts)} {what} in a segment")
    return sum(counts)


def decode_segment(data):
    reader = Reader(data, "SEG-1")
    take, count = reader.take, reader.count
    supersedes = [take(32) for _ in range(count(65536, "supersedes count"))]
    ascending(supersedes, "SEG-7", "superseded segments")
    ids = [take(32) for _ in range(count(65536, "pack count"))]
    sessions, origins = [take(16) for _ in ids], [take(16) for _ in ids]
    sizes = [count(PACK_MAX, "pack size") for _ in ids]
    kinds = list(take(len(ids)))
    if any(kind > 1 for kind in kinds):
        raise FormatError("SEG-3", "unknown pack kind")
    section_counts = [count(SECTIONS_MAX, "section count") for _ in ids]
    _at_most(section_counts, "sections")
    sections = [[take(16) for _ in range(number)] for number in section_counts]
    frame_counts = [count(FRAMES_MAX, "frame count") for _ in ids]
    total = _at_most(frame_counts, "frames")
    indexes = [count(SECTIONS_MAX, "section index") for _ in range(total)]
    numbers = [reader.varint() for _ in range(total)]
    lengths = [count(FRAME_SEALED_MAX, "sealed frame length") for _ in range(total)]
    chunk_counts = [count(CHUNKS_MAX, "chunk count") for _ in range(total)]
    _at_most(chunk_counts, "chunks")
    if sum(chunk_counts) > reader.left // 33:
        raise FormatError("SEG-1", f"{sum(chunk_counts)} chunks stated, too few bytes left")
    chunks = [_chunk(reader.varint(), "SEG-2") for _ in range(sum(chunk_counts))]
    for chunk in chunks:
        chunk.id = take(32)
    structural = [chunk for chunk in chunks if chunk.kind != DATA]
    reference_counts = [count(1 << 20, "reference count") for _ in structural]
    if sum(reference_counts) > REFERENCES_MAX:
        raise FormatError("LIMIT-1", f"{sum(reference_counts)} references in a segment")
    if sum(reference_counts) > reader.left:
        raise FormatError("SEG-1", f"{sum(reference_counts)} references stated, too few bytes left")
    references, last = [], 0
    for _ in range(sum(reference_counts)):
        coded = reader.varint()
        if coded == 0:
            references.append(None)
            continue
        last += (coded - 1 >> 1) ^ -(coded - 1 & 1)
        if not 0 <= last < len(chunks):
            raise FormatError("SEG-4", f"reference to chunk {last} of {len(chunks)}")
        references.append(chunks[last].id)
    # A whole id where the target is in the segment, eight bytes of it where it isn't.
    references = iter([take(8) if reference is None else reference for reference in references])
    for chunk, number in zip(structural, reference_counts, strict=True):
        chunk.references = [next(references) for _ in range(number)]
    reader.end()

    if len(set(ids)) != len(ids):
        raise FormatError("SEG-5", "a pack stands twice")
    frames, rest = zip(indexes, numbers, lengths, chunk_counts, strict=True), iter(chunks)
    packs = []
    for at, pack in enumerate(ids):
        entry = SegmentPack(pack, sessions[at], origins[at], sizes[at], kinds[at] == 1, sections[at])
        for _ in range(frame_counts[at]):
            section, number, length, chunk_count = next(frames)
            if section >= len(entry.sections):
                raise FormatError("SEG-3", "a frame of a section that the pack doesn't have")
            frame = Frame(section, number, length, [next(rest) for _ in range(chunk_count)])
            if any((chunk.kind != DATA) != entry.metadata for chunk in frame.chunks):
                raise FormatError("SEG-6", "data and structural chunks share a pack")
            if not frame.chunks or frame.raw_length > FRAME_RAW_MAX:
                raise FormatError("SEG-3", f"a frame of {frame.raw_length} plaintext bytes")
            entry.frames.append(frame)
        if place(entry.frames, len(entry.sections)) > entry.size:
            raise FormatError("SEG-3", "the frames don't fit into the pack")
        packs.append(entry)
    return Segment(supersedes, packs)

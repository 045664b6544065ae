"""Checks everything that the specification lets a reader check in one region."""

from . import crypto, objects, sequence
from .crypto import LIST, TREE
from .wire import FormatError


def verify(region, problems):
    """Appends (where, error) to `problems`; gives counts for the report."""
    for name in region.listing.strange:
        problems.append((name, FormatError("NAME-1", "a name of no known form")))
    _signed_objects(region, problems)
    _pack_bytes(region, problems)
    segments = region.load_segments(problems)
    references = {}
    if region.can_read:

        def structural(chunk, plain):
            if chunk.kind != crypto.DATA:
                references[chunk.id] = sequence.decode_chunk(chunk.kind, plain).references()

        region.scan_packs(problems, structural)
    for name, segment in segments.items():
        _compare(region, name, segment, references, problems)
    listed = _listed(segments)
    snapshots = _counted(region, problems)
    for snapshot_id, snapshot in snapshots.items():
        if region.can_read:
            _snapshot(region, listed, snapshot_id, snapshot, problems)
    return {
        "objects": sum(len(names) for names in region.listing.kinds.values()),
        "packs": len(region.listing.of("pack")),
        "segments": len(segments),
        "chunks": len(region.index),
        "snapshots": len(snapshots),
    }


def _counted(region, problems):
    before = len(problems)
    try:
        snapshots = region.counted(problems)
    except FormatError as error:
        problems.append(("gc/", error))
        return {}
    # What each object is was reported before; only what commits add is new here.
    problems[before:] = [(name, error) for name, error in problems[before:] if error.rule == "COUNT-4"]
    return snapshots


def _unreadable(region):
    return ((f"roster/accepted/{slot.hex()}/", why) for slot, why in region.unreadable.items())


def _signed_objects(region, problems):
    sessions = {}
    problems.extend((name, FormatError("ACCEPT-4", why)) for name, why in _unreadable(region))
    for kind in ("roster", "ring", "attestation", "snapshot", "verdict", "tags", "condemn", "fence", "final"):
        for _ in region.each(kind, problems):
            pass
    region.audit(problems)
    for kind in ("session", "session end", "commit"):
        for name, value in region.each(kind, problems):
            sessions.setdefault(value.session, []).append((name, value))
    for values in sessions.values():
        signers = {value.signer for _, value in values}
        if len(signers) > 1:
            problems.append((values[0][0], FormatError("SESSION-2", "the session has objects of several signers")))
        observed = [value.observed for _, value in sorted(values, key=lambda item: item[0]) if hasattr(value, "needs")]
        if observed != sorted(observed):
            problems.append((values[0][0], FormatError("SESSION-3", "observed falls from one state to the next")))


def _pack_bytes(region, problems):
    """Digest, name and layout of every pack."""
    for name, parts in region.listing.of("pack"):
        try:
            data = region.read("pack", name)
            if objects.check_digest(data).hex() != parts[1]:
                raise FormatError("OBJ-10", "the name is not the pack's digest")
            region.open_pack(bytes.fromhex(parts[1]))
        except FormatError as error:
            problems.append((name, error))


def _compare(region, name, segment, references, problems):
    """SEG-10: what a segment states against the packs themselves."""
    for entry in segment.packs:
        try:
            opened = region.open_pack(entry.pack)
        except FileNotFoundError:
            # Deleted by a collector, or lost; a counted snapshot that needs it says so.
            continue
        except FormatError:
            continue
        header, differs = opened.header, []
        stated = (entry.session, entry.size, entry.metadata, entry.sections)
        if stated != (header.session, opened.size, header.metadata, [section.id for section in header.sections]):
            differs.append("its header or size")

        def shape(frame):
            return (frame.section, frame.number, frame.sealed_length, [(c.kind, c.length) for c in frame.chunks])

        if list(map(shape, entry.frames)) != list(map(shape, opened.frames)):
            differs.append("its frames")
        elif region.can_read:
            for mine, theirs in zip(entry.frames, opened.frames, strict=True):
                for said, found in zip(mine.chunks, theirs.chunks, strict=True):
                    if found.id is not None and said.id != found.id:
                        differs.append(f"chunk id {said.id.hex()}")
                    elif found.id in references and not _same(said.references, references[found.id]):
                        differs.append(f"the references of chunk {said.id.hex()}")
        for what in differs:
            problems.append(
                (name, FormatError("SEG-10", f"pack {entry.pack.hex()}: {what} differ from what is stored"))
            )


def _same(stated, found):
    return len(stated) == len(found) and all(whole.startswith(part) for part, whole in zip(stated, found, strict=True))


def _listed(segments):
    """The ids of all chunks in segments: COMMIT-1 wants every reachable chunk among them."""
    return {
        chunk.id
        for segment in segments.values()
        for entry in segment.packs
        for frame in entry.frames
        for chunk in frame.chunks
    }


def _snapshot(region, listed, snapshot_id, snapshot, problems):
    where = f"snapshot {snapshot_id.hex()}"
    try:
        region.private(snapshot)
    except FormatError as error:
        problems.append((where, error))
    walker = Walker(region, listed)
    try:
        walker.root(snapshot.root)
    except FormatError as error:
        problems.append((where, error))
        return
    for path, error in walker.problems:
        problems.append((f"{where} {path!r}", error))
    stated, found = snapshot.counts[:4], [walker.files, walker.directories, walker.others, walker.bytes]
    if not walker.problems and stated != found:
        error = FormatError("SNAPSHOT-4", f"counts {stated} stated, {found} found (files, directories, others, bytes)")
        problems.append((where, error))


class Walker:
    """Visits every chunk that a snapshot reaches."""

    def __init__(self, region, listed):
        self.region, self.listed, self.problems = region, listed, []
        self.files = self.directories = self.others = self.bytes = 0
        self.lists, self.links = {}, {}

    def load(self, kind, chunk_id):
        plain = self.region.chunk(kind, chunk_id)
        if chunk_id not in self.listed:
            raise FormatError("COMMIT-1", f"chunk {chunk_id.hex()} is in no segment")
        return plain

    def root(self, root):
        node = root_node(root, self.load)
        pending = [(b"", node, ())]
        while pending:
            path, node, above = pending.pop()
            self.directories += 1
            if node.tree in above or len(above) >= 4096:
                raise FormatError("TREE-9", f"{path!r} is within itself or too deep")
            try:
                for child in sequence.walk(TREE, node.tree, self.load):
                    below = path + b"/" + child.name if path else child.name
                    if child.kind == sequence.DIRECTORY:
                        pending.append((below, child, (*above, node.tree)))
                    else:
                        self.leaf(below, child)
            except FormatError as error:
                self.problems.append((path, error))

    def leaf(self, path, node):
        if node.link_group is not None:
            if self.links.setdefault(node.link_group, node.kind) != node.kind:
                self.problems.append((path, FormatError("TREE-8", "entries of one hard-link group differ in kind")))
        if node.kind != sequence.FILE:
            self.others += 1
            return
        self.files += 1
        self.bytes += node.size
        try:
            if node.list is not None:
                if node.list not in self.lists:
                    extents = sequence.walk(LIST, node.list, self.load)
                    self.lists[node.list] = sum(self.extent(extent) for extent in extents)
                if self.lists[node.list] != node.size:
                    raise FormatError("LIST-2", "the extents don't sum to the file's size")
            for extent in node.extents:
                self.extent(extent)
        except FormatError as error:
            self.problems.append((path, error))

    def extent(self, extent):
        if extent.id is not None:
            # Frames were opened and ids computed by the scan: presence and length are what is left.
            found = self.region.index.get(extent.id, [])
            if not any(location.kind == crypto.DATA for location in found):
                raise FormatError("COMMIT-1", f"data chunk {extent.id.hex()} is in no pack")
            if all(location.length != extent.length for location in found):
                raise FormatError("CHUNK-2", f"chunk {extent.id.hex()} is not {extent.length} bytes long")
            if extent.id not in self.listed:
                raise FormatError("COMMIT-1", f"chunk {extent.id.hex()} is in no segment")
        return extent.length


def root_node(root, load):
    """The one node of a snapshot's root sequence; TREE-7."""
    nodes = list(sequence.walk(TREE, root, load))
    if len(nodes) != 1 or nodes[0].name != b"root" or nodes[0].kind != sequence.DIRECTORY:
        raise FormatError("TREE-7", "the root sequence is not one directory named root")
    return nodes[0]

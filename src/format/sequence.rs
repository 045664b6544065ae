//! Structural chunks: trees (directory listings) and lists (a large file's extents).
//! Page: `format-spec/tree.md`.
//!
//! A sequence is cut into chunks by the keyed hash of each record's key, never of its metadata; the
//! chunks of one level are the records of the next. This module encodes and decodes one chunk;
//! where to cut is [`crate::pack`]'s business, since it needs the key.

use super::ids::{ChunkId, ChunkKind};
use super::node::{Content, Extent, Node, NodeKind, Timestamp};
use super::wire::{CborReader, CborWriter, DecodeError, Reader, put_varint};
use crate::limits::{
    CHUNK_BYTES_MAX, INLINE_RECORDS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, RECORD_BYTES_MAX, SEQUENCE_LEVELS_MAX,
    SYMLINK_BYTES_MAX, XATTRS_BYTES_MAX,
};

/// A child chunk as a higher level of a sequence records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The chunk one level below.
    pub id: ChunkId,
    /// For trees: the last name below it. Empty for lists.
    pub last_name: Vec<u8>,
    /// For lists: file bytes covered below it. For trees: entries below it.
    pub weight: u64,
}

/// One decoded structural chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceChunk {
    /// Level 0 of a tree: nodes in raw-byte order of their names.
    Nodes(Vec<Node>),
    /// Level 0 of a list: extents in file order.
    Extents(Vec<Extent>),
    /// A higher level of either.
    Children {
        /// How many levels are below this chunk; at least 1.
        level: u8,
        /// The chunks one level below.
        children: Vec<Child>,
    },
}

/// The bytes that stand before a sequence chunk's records: level, then the record count.
pub fn encode_chunk(level: u8, records: usize, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    out.push(level);
    put_varint(&mut out, records as u64);
    out.extend_from_slice(body);
    out
}

/// Appends a child record.
pub fn encode_child(kind: ChunkKind, child: &Child, out: &mut Vec<u8>) {
    out.extend_from_slice(&child.id.0);
    put_varint(out, child.weight);
    if kind == ChunkKind::Tree {
        put_varint(out, child.last_name.len() as u64);
        out.extend_from_slice(&child.last_name);
    }
}

/// Appends an extent record: length shifted left by one, low bit set for a hole, then the chunk's id.
pub fn encode_extent(extent: &Extent, out: &mut Vec<u8>) {
    match extent {
        Extent::Chunk { id, length } => {
            put_varint(out, u64::from(*length) << 1);
            out.extend_from_slice(&id.0);
        }
        Extent::Hole { length } => put_varint(out, *length << 1 | 1),
    }
}

fn decode_extent(reader: &mut Reader<'_>) -> Result<Extent, DecodeError> {
    let coded = reader.varint()?;
    match (coded & 1 == 1, coded >> 1) {
        (_, 0) => Err(DecodeError::new("LIST-1", "an extent of no bytes")),
        (true, length) => Ok(Extent::Hole { length }),
        (false, length) if length <= CHUNK_BYTES_MAX as u64 => {
            Ok(Extent::Chunk { id: ChunkId(reader.array()?), length: length as u32 })
        }
        (false, length) => Err(DecodeError::new("LIST-1", format!("a chunk of {length} bytes"))),
    }
}

/// The sum of extents' lengths, or `None` past 2^63.
pub fn total_length(extents: &[Extent]) -> Option<u64> {
    extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length())).filter(|sum| *sum <= i64::MAX as u64)
}

/// Appends a node record: canonical CBOR, a map with unsigned keys.
pub fn encode_node(node: &Node, out: &mut Vec<u8>) {
    let mut cbor = CborWriter::new();
    let (kind_code, kind_fields) = match &node.kind {
        NodeKind::File { content, inconsistent, .. } => {
            let stored = usize::from(!matches!(content, Content::Inline(extents) if extents.is_empty()));
            (0, 1 + stored + usize::from(*inconsistent))
        }
        NodeKind::Directory { .. } => (1, 1),
        NodeKind::Symlink { .. } => (2, 1),
        NodeKind::CharacterDevice { .. } => (3, 1),
        NodeKind::BlockDevice { .. } => (4, 1),
        NodeKind::Fifo => (5, 0),
    };
    let optional = [!node.user.is_empty(), !node.group.is_empty(), !node.xattrs.is_empty(), node.link_group.is_some()];
    let fields = 6 + kind_fields + optional.into_iter().filter(|present| *present).count();
    cbor.map(fields).uint(1).bytes(&node.name).uint(2).uint(kind_code).uint(3).uint(u64::from(node.mode));
    cbor.uint(4).uint(u64::from(node.uid)).uint(5).uint(u64::from(node.gid));
    cbor.uint(6).array(2).int(node.modified_at.seconds).uint(u64::from(node.modified_at.nanoseconds));
    if !node.user.is_empty() {
        cbor.uint(7).bytes(&node.user);
    }
    if !node.group.is_empty() {
        cbor.uint(8).bytes(&node.group);
    }
    if !node.xattrs.is_empty() {
        cbor.uint(9).array(node.xattrs.len());
        for (name, value) in &node.xattrs {
            cbor.array(2).bytes(name).bytes(value);
        }
    }
    if let Some(group) = &node.link_group {
        cbor.uint(10).bytes(group);
    }
    match &node.kind {
        NodeKind::File { size, content, inconsistent } => {
            cbor.uint(11).uint(*size);
            match content {
                Content::Inline(extents) if extents.is_empty() => {}
                Content::Inline(extents) => {
                    let mut packed = Vec::with_capacity(extents.len() * 36);
                    extents.iter().for_each(|extent| encode_extent(extent, &mut packed));
                    cbor.uint(12).bytes(&packed);
                }
                Content::List(id) => {
                    cbor.uint(13).bytes(&id.0);
                }
            }
            if *inconsistent {
                cbor.uint(14).bool(true);
            }
        }
        NodeKind::Directory { tree } => {
            cbor.uint(15).bytes(&tree.0);
        }
        NodeKind::Symlink { target } => {
            cbor.uint(16).bytes(target);
        }
        NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            cbor.uint(17).array(2).uint(u64::from(*major)).uint(u64::from(*minor));
        }
        NodeKind::Fifo => {}
    }
    out.extend_from_slice(&cbor.finish());
}

/// True for a name that an entry may have: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
pub fn valid_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

fn decode_node(bytes: &[u8]) -> Result<(Node, usize), DecodeError> {
    let mut cbor = CborReader::new(bytes);
    let mut fields = cbor.map()?;
    cbor.field(&mut fields, 1)?;
    let name = cbor.bytes(PATH_BYTES_MAX)?.to_vec();
    if !valid_name(&name) {
        return Err(DecodeError::new(
            "TREE-1",
            format!("the name {:?} is not allowed", String::from_utf8_lossy(&name)),
        ));
    }
    cbor.field(&mut fields, 2)?;
    let kind_code = cbor.uint()?;
    cbor.field(&mut fields, 3)?;
    let mode = cbor.uint32()?;
    if mode > 0o7777 {
        return Err(DecodeError::new("TREE-2", format!("mode {mode:o}")));
    }
    cbor.field(&mut fields, 4)?;
    let uid = cbor.uint32()?;
    cbor.field(&mut fields, 5)?;
    let gid = cbor.uint32()?;
    cbor.field(&mut fields, 6)?;
    cbor.tuple(2)?;
    let modified_at = Timestamp { seconds: cbor.int()?, nanoseconds: cbor.uint32()? };
    if modified_at.nanoseconds >= 1_000_000_000 {
        return Err(DecodeError::new("TREE-3", format!("{} nanoseconds in a second", modified_at.nanoseconds)));
    }
    let user = if cbor.optional(&mut fields, 7)? { cbor.bytes(NAME_BYTES_MAX)?.to_vec() } else { Vec::new() };
    let group = if cbor.optional(&mut fields, 8)? { cbor.bytes(NAME_BYTES_MAX)?.to_vec() } else { Vec::new() };
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if cbor.optional(&mut fields, 9)? {
        let mut room = XATTRS_BYTES_MAX;
        for _ in 0..cbor.array(XATTRS_BYTES_MAX / 2)? {
            cbor.tuple(2)?;
            let name = cbor.bytes(NAME_BYTES_MAX.min(room))?.to_vec();
            room -= name.len();
            let value = cbor.bytes(room)?.to_vec();
            room -= value.len();
            if name.is_empty() || name.contains(&0) || xattrs.last().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeError::new("TREE-4", "extended attributes not in ascending order of names"));
            }
            xattrs.push((name, value));
        }
    }
    let link_group = if cbor.optional(&mut fields, 10)? {
        let path = cbor.bytes(PATH_BYTES_MAX)?.to_vec();
        if !path.split(|byte| *byte == b'/').all(valid_name) {
            return Err(DecodeError::new("TREE-1", "a hard-link group that is not a relative path"));
        }
        Some(path)
    } else {
        None
    };
    let kind = match kind_code {
        0 => {
            cbor.field(&mut fields, 11)?;
            let size = cbor.uint()?;
            let content = if cbor.optional(&mut fields, 12)? {
                let mut packed = Reader::new(cbor.bytes(INLINE_RECORDS_MAX * 48)?, "LIST-1");
                let mut extents = Vec::new();
                while packed.remaining() > 0 {
                    extents.push(decode_extent(&mut packed)?);
                }
                if extents.is_empty() || extents.len() > INLINE_RECORDS_MAX || total_length(&extents) != Some(size) {
                    return Err(DecodeError::new("TREE-5", "the content's length is not the file's size"));
                }
                Content::Inline(extents)
            } else if cbor.optional(&mut fields, 13)? {
                Content::List(ChunkId(cbor.fixed()?))
            } else if size == 0 {
                Content::Inline(Vec::new())
            } else {
                return Err(DecodeError::new("TREE-5", "a file with a size and no content"));
            };
            let inconsistent = cbor.optional(&mut fields, 14)? && cbor.bool()?;
            NodeKind::File { size, content, inconsistent }
        }
        1 => {
            cbor.field(&mut fields, 15)?;
            NodeKind::Directory { tree: ChunkId(cbor.fixed()?) }
        }
        2 => {
            cbor.field(&mut fields, 16)?;
            NodeKind::Symlink { target: cbor.bytes(SYMLINK_BYTES_MAX)?.to_vec() }
        }
        3 | 4 => {
            cbor.field(&mut fields, 17)?;
            cbor.tuple(2)?;
            let (major, minor) = (cbor.uint32()?, cbor.uint32()?);
            if kind_code == 3 {
                NodeKind::CharacterDevice { major, minor }
            } else {
                NodeKind::BlockDevice { major, minor }
            }
        }
        5 => NodeKind::Fifo,
        code => return Err(DecodeError::new("TREE-6", format!("unknown kind of entry {code}"))),
    };
    cbor.no_more(&fields)?;
    let node = Node { name, kind, mode, uid, gid, user, group, modified_at, xattrs, link_group };
    Ok((node, cbor.offset()))
}

/// Decodes a structural chunk of `kind` (tree or list).
///
/// # Errors
/// `SEQ-1` cut short or a bad count, `SEQ-2` level, `SEQ-3` order of names, and `TREE`, `LIST` and
/// `CBOR` rules.
pub fn decode_chunk(kind: ChunkKind, bytes: &[u8]) -> Result<SequenceChunk, DecodeError> {
    let mut reader = Reader::new(bytes, "SEQ-1");
    let level = reader.u8()?;
    if level > SEQUENCE_LEVELS_MAX || !kind.is_structural() {
        return Err(DecodeError::new("SEQ-2", format!("level {level}")));
    }
    // Each record takes at least two bytes.
    let count = reader.count(reader.remaining() / 2, "record count")?;
    let decoded = match (level, kind) {
        (0, ChunkKind::Tree) => {
            let mut nodes: Vec<Node> = Vec::new();
            for _ in 0..count {
                let (node, length) = decode_node(&bytes[reader.offset()..])?;
                reader.take(length)?;
                if length > RECORD_BYTES_MAX {
                    return Err(DecodeError::new("SEQ-1", "record too large"));
                }
                ordered(nodes.last().map(|last| &last.name), &node.name)?;
                nodes.push(node);
            }
            SequenceChunk::Nodes(nodes)
        }
        (0, _) => {
            let mut extents = Vec::new();
            for _ in 0..count {
                extents.push(decode_extent(&mut reader)?);
            }
            SequenceChunk::Extents(extents)
        }
        (level, kind) => {
            let mut children: Vec<Child> = Vec::new();
            for _ in 0..count {
                let id = ChunkId(reader.array()?);
                let weight = reader.varint()?;
                let mut last_name = Vec::new();
                if kind == ChunkKind::Tree {
                    let length = reader.count(NAME_BYTES_MAX, "name length")?;
                    last_name = reader.take(length)?.to_vec();
                    ordered(children.last().map(|last| &last.last_name), &last_name)?;
                }
                children.push(Child { id, last_name, weight });
            }
            if children.is_empty() {
                return Err(DecodeError::new("SEQ-1", "a higher level without records"));
            }
            SequenceChunk::Children { level, children }
        }
    };
    reader.end()?;
    let mut body = Vec::new();
    match &decoded {
        SequenceChunk::Nodes(nodes) => nodes.iter().for_each(|node| encode_node(node, &mut body)),
        SequenceChunk::Extents(extents) => extents.iter().for_each(|extent| encode_extent(extent, &mut body)),
        SequenceChunk::Children { children, .. } => {
            children.iter().for_each(|child| encode_child(kind, child, &mut body));
        }
    }
    super::wire::canonical(bytes, &encode_chunk(level, count, &body))?;
    Ok(decoded)
}

fn ordered(last: Option<&Vec<u8>>, name: &[u8]) -> Result<(), DecodeError> {
    match last {
        Some(last) if last.as_slice() >= name => Err(DecodeError::new("SEQ-3", "names not in ascending order")),
        _ => Ok(()),
    }
}

/// The chunks that a structural chunk refers to, in order, each once.
pub fn references(chunk: &SequenceChunk) -> Vec<ChunkId> {
    let mut ids = Vec::new();
    let push_extents = |extents: &[Extent], ids: &mut Vec<ChunkId>| {
        for extent in extents {
            if let Extent::Chunk { id, .. } = extent {
                ids.push(*id);
            }
        }
    };
    match chunk {
        SequenceChunk::Nodes(nodes) => {
            for node in nodes {
                match &node.kind {
                    NodeKind::File { content: Content::Inline(extents), .. } => push_extents(extents, &mut ids),
                    NodeKind::File { content: Content::List(id), .. } => ids.push(*id),
                    NodeKind::Directory { tree } => ids.push(*tree),
                    _ => {}
                }
            }
        }
        SequenceChunk::Extents(extents) => push_extents(extents, &mut ids),
        SequenceChunk::Children { children, .. } => ids.extend(children.iter().map(|child| child.id)),
    }
    let mut seen = std::collections::HashSet::with_capacity(ids.len());
    ids.retain(|id| seen.insert(*id));
    ids
}

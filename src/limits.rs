//! Every bound of the format and of the engine, unit in the name. See `format-spec/limits.md`.
//!
//! Decoders check against these before they allocate.

/// Largest chunk, in plaintext bytes.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;
/// Largest frame, in plaintext bytes.
pub const FRAME_RAW_BYTES_MAX: usize = 17 << 20;
/// A frame is sealed once it holds this many plaintext bytes, unless a dataset says otherwise.
pub const FRAME_RAW_BYTES_TARGET: usize = 4 << 20;
/// A frame is sealed once it holds so many chunks, however small they are: what is kept of each outweighs its bytes.
pub const FRAME_CHUNKS_TARGET: usize = 1 << 16;
/// Largest sealed frame: raw bytes, zstd's worst expansion, codec byte and tag.
pub const FRAME_SEALED_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + (FRAME_RAW_BYTES_MAX >> 7) + 1024;
/// Largest pack.
pub const PACK_BYTES_MAX: u64 = 256 << 20;
/// A pack is finished when the next frame would take it past this size; a Padmé boundary.
pub const PACK_BYTES_TARGET: u64 = 32 << 20;
/// Most frames in one pack.
pub const PACK_FRAMES_MAX: usize = 65_536;
/// A pack is finished when the next frame would give it more chunks: the segment that lists it, with others
/// before it, stays far below its own limits however small the chunks are.
pub const PACK_CHUNKS_TARGET: usize = 1 << 17;
/// Most chunks in one pack.
pub const PACK_CHUNKS_MAX: usize = SEGMENT_CHUNKS_MAX;
/// Most sections in one pack.
pub const PACK_SECTIONS_MAX: usize = 4096;
/// Largest decoded pack directory.
pub const DIRECTORY_BYTES_MAX: usize = 64 << 20;
/// Largest stored segment, and its largest decoded form.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;
/// Largest decoded (decompressed) segment.
pub const SEGMENT_RAW_BYTES_MAX: usize = 128 << 20;
/// Most packs in one segment.
pub const SEGMENT_PACKS_MAX: usize = 65_536;
/// A segment is written once its packs hold this many chunks.
pub const SEGMENT_CHUNKS_TARGET: usize = 65_536;
/// A segment is written once it holds this many packs.
pub const SEGMENT_PACKS_TARGET: usize = 16;
/// Most references in one segment: what is decoded takes so many times 12 bytes, however small it is stored.
pub const SEGMENT_REFERENCES_MAX: usize = 4 << 20;
/// Most chunks in one segment, and most frames and sections: a chunk takes 33 bytes before it is compressed, and six
/// times as much when it is read.
pub const SEGMENT_CHUNKS_MAX: usize = 1 << 19;
/// So many references count as one chunk where a segment is written: it stays far below its limit.
pub const REFERENCES_PER_CHUNK: usize = 16;
/// A pack is finished when the next frame would give its chunks more references.
pub const PACK_REFERENCES_TARGET: usize = 1 << 20;
/// Most references from one structural chunk.
pub const CHUNK_REFERENCES_MAX: usize = 1 << 20;
/// A structural chunk is cut only at or above this many bytes.
pub const SEQUENCE_BYTES_MIN: usize = 8 << 10;
/// A structural chunk never grows past this many bytes, except for one larger record.
pub const SEQUENCE_BYTES_MAX: usize = 256 << 10;
/// One record of a sequence.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// A record ends a structural chunk when its keyed hash is a multiple of this.
pub const SEQUENCE_CUT_EVERY: u64 = 128;
/// Levels of a sequence.
pub const SEQUENCE_LEVELS_MAX: u8 = 16;
/// A file's chunks stand in its node up to this many records, else in a list.
pub const INLINE_RECORDS_MAX: usize = 4;
/// Bytes in one entry name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes in a stored path (a hard-link group's name, a source path).
pub const PATH_BYTES_MAX: usize = 65_536;
/// Depth of nested directories that a restore follows.
pub const TREE_DEPTH_MAX: usize = 4096;
/// Bytes in a symbolic link's target.
pub const SYMLINK_BYTES_MAX: usize = 65_536;
/// All extended attributes of one entry, names and values.
pub const XATTRS_BYTES_MAX: usize = 1 << 20;
/// Nesting of CBOR items in any object.
pub const CBOR_DEPTH_MAX: usize = 8;
/// Any metadata object but packs and segments.
pub const OBJECT_BYTES_MAX: usize = 16 << 20;
/// A slot's key file.
pub const KEY_FILE_BYTES_MAX: usize = 64 << 10;
/// Slots in one roster.
pub const SLOTS_MAX: usize = 65_536;
/// Subjects of one audit entry; an act on more is recorded in several entries.
pub const AUDIT_SUBJECTS_MAX: usize = 65_536;
/// Epochs that a roster states.
pub const EPOCHS_MAX: usize = 65_536;
/// Rosters that one follows: more than one where forks were merged.
pub const ROSTERS_FOLLOWED_MAX: usize = 1024;
/// Digests in one part of what stays accepted of a revoked slot.
pub const ACCEPTED_DIGESTS_MAX: usize = 1 << 18;
/// Parts of such a list.
pub const ACCEPTED_PARTS_MAX: u64 = 4096;
/// Listings in one attestation.
pub const ATTESTED_LISTINGS_MAX: usize = 1 << 18;
/// Tags of a snapshot, and bytes in one tag, dataset or host name.
pub const TAGS_MAX: usize = 256;
/// Bytes in a label: a tag, dataset or host name.
pub const LABEL_BYTES_MAX: usize = 255;
/// Highest scrypt work factor (log2 N) that a reader accepts.
pub const SCRYPT_LOG_N_MAX: u8 = 20;
/// Scrypt work factor for new passphrase slots: 128 MiB.
pub const SCRYPT_LOG_N: u8 = 17;
/// Smallest and largest average chunk size a dataset may choose.
pub const CHUNK_AVERAGE_BYTES_MIN: usize = 8 << 10;
/// Largest average chunk size a dataset may choose.
pub const CHUNK_AVERAGE_BYTES_MAX: usize = 1 << 20;
/// Average chunk size for directory trees, by measurement (benches/README.md).
pub const CHUNK_AVERAGE_BYTES_TREE: usize = 64 << 10;
/// Average chunk size for streams, by measurement.
pub const CHUNK_AVERAGE_BYTES_STREAM: usize = 8 << 10;
/// Issues and exclusions that a snapshot lists one by one; more are only counted.
pub const NOT_CAPTURED_LISTED_MAX: usize = 10_000;
/// A writer lists so many bytes of issues, and of exclusions, one by one; more are only counted.
pub const NOT_CAPTURED_BYTES_TARGET: usize = 2 << 20;
/// Source paths of a snapshot.
pub const SOURCES_MAX: usize = 1 << 20;
/// A writer takes source paths of so many bytes together.
pub const SOURCES_BYTES_TARGET: usize = 10 << 20;
/// Default ceiling for all buffers and caches together.
pub const MEMORY_BYTES_DEFAULT: usize = 256 << 20;
/// Lowest ceiling that the engine can keep.
pub const MEMORY_BYTES_MIN: usize = 96 << 20;
/// What a run takes of its ceiling before the first worker begins, by measurement: the program, its threads, the
/// index's own buffers.
pub const MEMORY_BYTES_AT_REST: usize = 48 << 20;

const _: () = assert!(CHUNK_BYTES_MAX < FRAME_RAW_BYTES_MAX);
const _: () = assert!(FRAME_RAW_BYTES_TARGET + 4 * CHUNK_AVERAGE_BYTES_MAX <= FRAME_RAW_BYTES_MAX);
const _: () = assert!((FRAME_SEALED_BYTES_MAX as u64) < PACK_BYTES_MAX);
const _: () = assert!(PACK_BYTES_TARGET <= PACK_BYTES_MAX);
// One frame may lie above the target; two packs may be joined.
const _: () = assert!(2 * (PACK_CHUNKS_TARGET + FRAME_CHUNKS_TARGET) <= PACK_CHUNKS_MAX);
// A snapshot with full lists, root, command and tags, even where nothing of it compresses.
const _: () = assert!(SOURCES_BYTES_TARGET + 2 * NOT_CAPTURED_BYTES_TARGET + (1 << 20) <= OBJECT_BYTES_MAX);
const _: () = assert!(2 * PATH_BYTES_MAX + 2 * TAGS_MAX * LABEL_BYTES_MAX + (64 << 10) < 1 << 20);
const _: () = assert!(CHUNK_AVERAGE_BYTES_MAX * 4 <= CHUNK_BYTES_MAX);
const _: () = assert!(SEQUENCE_BYTES_MAX + RECORD_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(SCRYPT_LOG_N <= SCRYPT_LOG_N_MAX);

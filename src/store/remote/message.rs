//! What client and server of a remote region say to one another, as bytes. Page: `format-spec/serve.md`.
//!
//! Guarantees: every length is checked before anything is allocated, a message has one encoding, and a
//! rejection names the rule that is broken. No input or output but [`read_frame`] and [`write_frame`].

use std::io::{self, Read, Write};

use crate::format::roster::Role;
use crate::format::wire::{DecodeError, Reader};
use crate::limits::LABEL_BYTES_MAX;
use crate::store::{Listed, StoreErrorKind};

/// The protocol's version.
pub const VERSION: u16 = 1;
/// What a client's first message begins with, so that a server knows whom it hears.
pub const MAGIC: [u8; 16] = *b"keepstone-serve\n";
/// Most bytes of an object in one message.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// Largest message: a piece and what a put says before it.
pub const FRAME_BYTES_MAX: usize = PIECE_BYTES_MAX + 1024;
/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest explanation, in bytes; longer ones are cut by the sender.
pub const DETAIL_BYTES_MAX: usize = 4096;
/// Longest name or prefix, in bytes: the store's own bound, and a slash.
const NAME_BYTES_MAX: usize = 513;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first message: the versions that the client speaks, and what it wants to use.
    Hello {
        /// The lowest version.
        version_min: u16,
        /// The highest version.
        version_max: u16,
        /// The directory is to be made if it isn't there.
        create: bool,
        /// The directory, or empty for whichever the server has.
        path: &'a str,
    },
    /// A new object, or with `heal` its right bytes again. `first` is all of it, or empty: then the
    /// server answers `Ready` and the client sends pieces.
    Put {
        /// Its name.
        name: &'a str,
        /// Replace what is there.
        heal: bool,
        /// Its length in bytes.
        length: u64,
        /// All bytes, or none.
        first: &'a [u8],
    },
    /// A whole object of at most so many bytes.
    Get {
        /// Its name.
        name: &'a str,
        /// Most bytes that the client takes.
        bytes_max: u64,
    },
    /// A part of an object.
    GetRange {
        /// Its name.
        name: &'a str,
        /// Where the part begins.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// An object's size.
    Size {
        /// Its name.
        name: &'a str,
    },
    /// Every object whose name begins so.
    List {
        /// The prefix.
        prefix: &'a str,
    },
    /// An object is to go.
    Delete {
        /// Its name.
        name: &'a str,
    },
    /// The next bytes of a put.
    Piece(&'a [u8]),
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `Hello`.
    Welcome {
        /// The version that both speak from here on.
        version: u16,
        /// What this access may do.
        role: Role,
        /// The only dataset whose snapshots it takes; empty for any.
        dataset: &'a str,
    },
    /// It wasn't done.
    Failed {
        /// The reason's class.
        kind: StoreErrorKind,
        /// What happened, for a person.
        detail: &'a str,
    },
    /// To `Put` without bytes: send them.
    Ready,
    /// A put, heal or delete is done, durably.
    Done {
        /// A put made the object; it wasn't there with the same bytes already.
        created: bool,
    },
    /// To `Get` and `GetRange`: so many bytes follow in pieces.
    Bytes {
        /// How many.
        length: u64,
    },
    /// The next of them.
    Piece(&'a [u8]),
    /// To `Size`.
    Size(Option<u64>),
    /// To `List`: some of the objects, never none.
    Entries(Vec<Listed>),
    /// A listing's end: how many objects were in it.
    End {
        /// How many.
        count: u64,
    },
}

fn refuse<T>(detail: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError::new("SERVE-1", detail))
}

fn text<'a>(reader: &mut Reader<'a>, max: usize, what: &str) -> Result<&'a str, DecodeError> {
    let length = usize::from(reader.u16()?);
    if length > max {
        return refuse(format!("{what} of {length} bytes, at most {max} allowed"));
    }
    std::str::from_utf8(reader.take(length)?).or_else(|_| refuse(format!("{what} is not UTF-8")))
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => refuse(format!("{other} is no flag")),
    }
}

fn piece<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    match reader.remaining() {
        length @ 1..=PIECE_BYTES_MAX => reader.take(length),
        length => refuse(format!("a piece of {length} bytes, 1 to {PIECE_BYTES_MAX} allowed")),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Callers keep to the bounds above, all of them below 2^16; what is longer is cut and then refused.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

impl<'a> Request<'a> {
    /// Reads a message's body.
    ///
    /// # Errors
    /// `SERVE-1` for anything but the one encoding of a request; `SERVE-2` for another magic.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "SERVE-1");
        let name = |reader: &mut Reader<'a>| text(reader, NAME_BYTES_MAX, "a name");
        let request = match reader.u8()? {
            1 => {
                if reader.array::<16>()? != MAGIC {
                    return Err(DecodeError::new("SERVE-2", "the first message isn't a keepstone client's"));
                }
                let (version_min, version_max) = (reader.u16()?, reader.u16()?);
                let create = flag(&mut reader)?;
                let path = text(&mut reader, PATH_BYTES_MAX, "a path")?;
                Request::Hello { version_min, version_max, create, path }
            }
            2 => {
                let heal = flag(&mut reader)?;
                let name = name(&mut reader)?;
                let length = reader.u64()?;
                let first = reader.take(reader.remaining())?;
                let whole = first.len() as u64 == length;
                if first.len() > PIECE_BYTES_MAX || !(whole || first.is_empty()) {
                    return refuse(format!("a put of {length} bytes with {} of them", first.len()));
                }
                Request::Put { name, heal, length, first }
            }
            3 => Request::Get { name: name(&mut reader)?, bytes_max: reader.u64()? },
            4 => Request::GetRange { name: name(&mut reader)?, offset: reader.u64()?, length: reader.u64()? },
            5 => Request::Size { name: name(&mut reader)? },
            6 => Request::List { prefix: name(&mut reader)? },
            7 => Request::Delete { name: name(&mut reader)? },
            8 => Request::Piece(piece(&mut reader)?),
            code => return refuse(format!("{code} is no request")),
        };
        reader.end()?;
        Ok(request)
    }

    /// The message's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Request::Hello { version_min, version_max, create, path } => {
                out.push(1);
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&version_min.to_le_bytes());
                out.extend_from_slice(&version_max.to_le_bytes());
                out.push(u8::from(*create));
                put_text(&mut out, path);
            }
            Request::Put { name, heal, length, first } => {
                out.extend_from_slice(&[2, u8::from(*heal)]);
                put_text(&mut out, name);
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(first);
            }
            Request::Get { name, bytes_max } => {
                out.push(3);
                put_text(&mut out, name);
                out.extend_from_slice(&bytes_max.to_le_bytes());
            }
            Request::GetRange { name, offset, length } => {
                out.push(4);
                put_text(&mut out, name);
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&length.to_le_bytes());
            }
            Request::Size { name } => {
                out.push(5);
                put_text(&mut out, name);
            }
            Request::List { prefix } => {
                out.push(6);
                put_text(&mut out, prefix);
            }
            Request::Delete { name } => {
                out.push(7);
                put_text(&mut out, name);
            }
            Request::Piece(bytes) => {
                out.push(8);
                out.extend_from_slice(bytes);
            }
        }
        out
    }
}

const KINDS: [StoreErrorKind; 8] = [
    StoreErrorKind::NotFound,
    StoreErrorKind::AlreadyExists,
    StoreErrorKind::Denied,
    StoreErrorKind::Full,
    StoreErrorKind::Unavailable,
    StoreErrorKind::Range,
    StoreErrorKind::Invalid,
    StoreErrorKind::Other,
];

/// The longest front of `detail` that fits an explanation.
pub fn shortened(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)]
}

impl<'a> Reply<'a> {
    /// Reads a message's body.
    ///
    /// # Errors
    /// `SERVE-1` for anything but the one encoding of a reply.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "SERVE-1");
        let reply = match reader.u8()? {
            1 => {
                let version = reader.u16()?;
                let role = match reader.u8()? {
                    1 => Role::Owner,
                    2 => Role::Writer,
                    3 => Role::Maintainer,
                    other => return refuse(format!("{other} is no role")),
                };
                Reply::Welcome { version, role, dataset: text(&mut reader, LABEL_BYTES_MAX, "a dataset")? }
            }
            2 => {
                let code = reader.u8()?;
                let kind = usize::from(code).checked_sub(1).and_then(|at| KINDS.get(at).copied());
                let Some(kind) = kind else { return refuse(format!("{code} is no kind of failure")) };
                Reply::Failed { kind, detail: text(&mut reader, DETAIL_BYTES_MAX, "an explanation")? }
            }
            3 => Reply::Ready,
            4 => Reply::Done { created: flag(&mut reader)? },
            5 => Reply::Bytes { length: reader.u64()? },
            6 => Reply::Piece(piece(&mut reader)?),
            7 => Reply::Size(match flag(&mut reader)? {
                true => Some(reader.u64()?),
                false => None,
            }),
            8 => {
                let mut entries = Vec::new();
                while reader.remaining() > 0 {
                    let name = text(&mut reader, NAME_BYTES_MAX, "a name")?.to_owned();
                    entries.push(Listed { name, size: reader.u64()? });
                }
                if entries.is_empty() {
                    return refuse("a part of a listing without objects");
                }
                Reply::Entries(entries)
            }
            9 => Reply::End { count: reader.u64()? },
            code => return refuse(format!("{code} is no reply")),
        };
        reader.end()?;
        Ok(reply)
    }

    /// The message's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Reply::Welcome { version, role, dataset } => {
                out.push(1);
                out.extend_from_slice(&version.to_le_bytes());
                out.push(*role as u8);
                put_text(&mut out, dataset);
            }
            Reply::Failed { kind, detail } => {
                let code = KINDS.iter().position(|known| known == kind).unwrap_or(KINDS.len() - 1);
                out.extend_from_slice(&[2, code as u8 + 1]);
                put_text(&mut out, shortened(detail));
            }
            Reply::Ready => out.push(3),
            Reply::Done { created } => out.extend_from_slice(&[4, u8::from(*created)]),
            Reply::Bytes { length } => {
                out.push(5);
                out.extend_from_slice(&length.to_le_bytes());
            }
            Reply::Piece(bytes) => {
                out.push(6);
                out.extend_from_slice(bytes);
            }
            Reply::Size(size) => {
                out.extend_from_slice(&[7, u8::from(size.is_some())]);
                out.extend(size.iter().flat_map(|size| size.to_le_bytes()));
            }
            Reply::Entries(entries) => {
                out.push(8);
                for listed in entries {
                    put_text(&mut out, &listed.name);
                    out.extend_from_slice(&listed.size.to_le_bytes());
                }
            }
            Reply::End { count } => {
                out.push(9);
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
        out
    }
}

/// What keeps a message from being read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side ended in the middle of a message, or the connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The length can't be one.
    #[error("SERVE-1: a message of {length} bytes, 1 to {FRAME_BYTES_MAX} allowed")]
    Length {
        /// What the first four bytes say.
        length: u32,
    },
}

/// Reads the next message's body into `body`; false when the other side ended before it.
///
/// # Errors
/// `SERVE-1` for a length out of bounds, before anything is allocated; what the connection says.
pub fn read_frame(input: &mut dyn Read, body: &mut Vec<u8>) -> Result<bool, FrameError> {
    let mut prefix = [0u8; 4];
    let mut filled = 0;
    while filled < prefix.len() {
        match input.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(prefix);
    if length == 0 || length as usize > FRAME_BYTES_MAX {
        return Err(FrameError::Length { length });
    }
    body.resize(length as usize, 0);
    input.read_exact(body)?;
    Ok(true)
}

/// Writes a message; not flushed.
///
/// # Errors
/// What the connection says.
pub fn write_frame(output: &mut dyn Write, body: &[u8]) -> io::Result<()> {
    // No body is near 4 GiB.
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule<T>(result: Result<T, DecodeError>) -> Option<&'static str> {
        result.err().map(|error| error.rule)
    }

    // SERVE-1
    #[test]
    fn serve_1_every_message_has_one_encoding() {
        let requests = [
            Request::Hello { version_min: 1, version_max: 3, create: true, path: "/srv/backups" },
            Request::Put { name: "config", heal: false, length: 3, first: b"abc" },
            Request::Put { name: "config", heal: true, length: 1 << 20, first: b"" },
            Request::Put { name: "empty", heal: false, length: 0, first: b"" },
            Request::Get { name: "a/b", bytes_max: 7 },
            Request::GetRange { name: "a/b", offset: 1, length: u64::MAX },
            Request::Size { name: "a" },
            Request::List { prefix: "" },
            Request::Delete { name: "a" },
            Request::Piece(b"x"),
        ];
        for request in requests {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Ok(request.clone()));
            if !matches!(request, Request::Put { .. } | Request::Piece(_)) {
                assert_eq!(rule(Request::decode(&[&bytes[..], b"x"].concat())), Some("SERVE-1"), "{request:?}");
            }
        }
        let replies = [
            Reply::Welcome { version: 1, role: Role::Maintainer, dataset: "db" },
            Reply::Ready,
            Reply::Done { created: true },
            Reply::Bytes { length: 9 },
            Reply::Piece(b"x"),
            Reply::Size(None),
            Reply::Size(Some(7)),
            Reply::Entries(vec![Listed { name: "a".to_owned(), size: 1 }, Listed { name: "b/c".to_owned(), size: 2 }]),
            Reply::End { count: 2 },
        ];
        let failures = KINDS.map(|kind| Reply::Failed { kind, detail: "why" });
        for reply in replies.into_iter().chain(failures) {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply.clone()));
        }
    }

    // SERVE-1
    #[test]
    fn serve_1_what_is_out_of_bounds_is_refused() {
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for bytes in [
            vec![],
            vec![0],
            vec![99],
            vec![8],
            Request::Size { name: &long }.encode(),
            Request::Piece(&vec![0; PIECE_BYTES_MAX + 1]).encode(),
            Request::Put { name: "a", heal: false, length: 5, first: b"four" }.encode(),
            vec![5, 2, 0, 0xff, 0xfe],
            vec![2, 2, 1, 0, b'a', 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(rule(Request::decode(&bytes)), Some("SERVE-1"), "{bytes:x?}");
        }
        for bytes in [vec![], vec![0], vec![4, 2], vec![6], vec![8], vec![2, 0, 0, 0], vec![2, 9, 0, 0], vec![3, 0]] {
            assert_eq!(rule(Reply::decode(&bytes)), Some("SERVE-1"), "{bytes:x?}");
        }
    }

    // SERVE-2
    #[test]
    fn serve_2_another_magic_is_refused() {
        let mut bytes = Request::Hello { version_min: 1, version_max: 1, create: false, path: "" }.encode();
        bytes[3] ^= 1;
        assert_eq!(rule(Request::decode(&bytes)), Some("SERVE-2"));
    }

    // SERVE-1
    #[test]
    fn serve_1_a_length_is_checked_before_the_body_is_read() {
        let mut body = Vec::new();
        for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let read = read_frame(&mut &length.to_le_bytes()[..], &mut body);
            assert!(matches!(read, Err(FrameError::Length { length: stated }) if stated == length), "{read:?}");
            assert_eq!(body.capacity(), 0);
        }
        assert!(matches!(read_frame(&mut &[][..], &mut body), Ok(false)));
        assert!(matches!(read_frame(&mut &[1, 0][..], &mut body), Err(FrameError::Io(_))));
        assert!(matches!(read_frame(&mut &[2, 0, 0, 0, 7][..], &mut body), Err(FrameError::Io(_))));
        let mut written = Vec::new();
        write_frame(&mut written, b"abc").expect("memory");
        assert!(read_frame(&mut &written[..], &mut body).expect("a frame") && body == b"abc");
    }

    #[test]
    fn long_explanations_are_cut_between_characters() {
        let detail = "é".repeat(DETAIL_BYTES_MAX);
        let bytes = Reply::Failed { kind: StoreErrorKind::Full, detail: &detail }.encode();
        match Reply::decode(&bytes) {
            Ok(Reply::Failed { detail, .. }) => assert_eq!(detail.len(), DETAIL_BYTES_MAX),
            other => panic!("{other:?}"),
        }
    }
}

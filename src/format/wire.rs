//! Fixed layouts and canonical CBOR: bounded readers and the writers that match them.
//! Page: `format-spec/conventions.md`.
//!
//! Every rejection names the rule of the spec that the bytes break.

use crate::limits::CBOR_DEPTH_MAX;

/// Bytes that break a rule of the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct DecodeError {
    /// The rule's id in `format-spec/`, such as `PACK-3`.
    pub rule: &'static str,
    /// What was expected and found.
    pub detail: String,
}

impl DecodeError {
    /// A violation of `rule`.
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        DecodeError { rule, detail: detail.into() }
    }
}

/// Reads little-endian integers, varints and byte runs front to back; never past the end.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    rule: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; running short breaks `rule`.
    pub fn new(bytes: &'a [u8], rule: &'static str) -> Self {
        Reader { bytes, at: 0, rule }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::new(
                self.rule,
                format!("{length} bytes expected at offset {}, {} left", self.at, self.remaining()),
            ));
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0u8; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned LEB128 integer in its shortest form.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && bits > 1) {
                return Err(DecodeError::new("WIRE-1", "varint larger than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::new("WIRE-1", "varint not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::new("WIRE-1", "varint without end"))
    }

    /// A varint of at most `max`, as a size or count.
    pub fn count(&mut self, max: usize, what: &str) -> Result<usize, DecodeError> {
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(DecodeError::new(self.rule, format!("{what} is {value}, at most {max} allowed"))),
        }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(DecodeError::new(self.rule, format!("{left} bytes after the end"))),
        }
    }
}

/// Appends an unsigned LEB128 integer in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes the canonical CBOR subset: definite lengths, shortest integers, maps with ascending
/// unsigned keys.
#[derive(Default)]
pub struct CborWriter(Vec<u8>);

macro_rules! encode {
    ($self:ident, $method:ident $(, $value:expr)?) => {{
        // Writing to a Vec can't fail; the error type is uninhabited.
        let Ok(_) = minicbor::Encoder::new(&mut $self.0).$method($($value)?).map_err(|_| ()) else {
            unreachable!("writing to memory")
        };
        $self
    }};
}

impl CborWriter {
    /// An empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a map of `fields` fields.
    pub fn map(&mut self, fields: usize) -> &mut Self {
        encode!(self, map, fields as u64)
    }

    /// Starts an array of `items` items.
    pub fn array(&mut self, items: usize) -> &mut Self {
        encode!(self, array, items as u64)
    }

    /// An unsigned integer; also a map's key.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        encode!(self, u64, value)
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        encode!(self, i64, value)
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        encode!(self, bytes, value)
    }

    /// A text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        encode!(self, str, value)
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        encode!(self, bool, value)
    }

    /// The document.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads the canonical CBOR subset. Callers compare the re-encoded value with the input
/// ([`canonical`]), which rejects every non-canonical form.
pub struct CborReader<'a> {
    decoder: minicbor::Decoder<'a>,
}

impl<'a> CborReader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        CborReader { decoder: minicbor::Decoder::new(bytes) }
    }

    /// Offset of the next item.
    pub fn offset(&self) -> usize {
        self.decoder.position()
    }

    fn wrap<T>(result: Result<T, minicbor::decode::Error>) -> Result<T, DecodeError> {
        result.map_err(|error| DecodeError::new("CBOR-1", error.to_string()))
    }

    /// A map's field count.
    pub fn map(&mut self) -> Result<Fields, DecodeError> {
        match Self::wrap(self.decoder.map())? {
            Some(fields) => Ok(Fields { left: fields }),
            None => Err(DecodeError::new("CBOR-1", "map of indefinite length")),
        }
    }

    /// An array's item count, at most `max`.
    pub fn array(&mut self, max: usize) -> Result<usize, DecodeError> {
        match Self::wrap(self.decoder.array())? {
            Some(items) if items <= max as u64 => Ok(items as usize),
            Some(items) => Err(DecodeError::new("CBOR-2", format!("array of {items} items, at most {max} allowed"))),
            None => Err(DecodeError::new("CBOR-1", "array of indefinite length")),
        }
    }

    /// An array of exactly `items` items.
    pub fn tuple(&mut self, items: usize) -> Result<(), DecodeError> {
        match self.array(items)? {
            found if found == items => Ok(()),
            found => Err(DecodeError::new("CBOR-2", format!("array of {found} items, {items} expected"))),
        }
    }

    /// An unsigned integer.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        Self::wrap(self.decoder.u64())
    }

    /// An unsigned integer of at most 32 bits.
    pub fn uint32(&mut self) -> Result<u32, DecodeError> {
        Self::wrap(self.decoder.u32())
    }

    /// A signed integer.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        Self::wrap(self.decoder.i64())
    }

    /// A truth value.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Self::wrap(self.decoder.bool())
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        match Self::wrap(self.decoder.bytes())? {
            bytes if bytes.len() <= max => Ok(bytes),
            bytes => Err(DecodeError::new("CBOR-2", format!("byte string of {}, at most {max} allowed", bytes.len()))),
        }
    }

    /// A byte string of exactly `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N)?;
        bytes
            .try_into()
            .map_err(|_| DecodeError::new("CBOR-2", format!("byte string of {}, exactly {N} expected", bytes.len())))
    }

    /// A text string of at most `max` bytes.
    pub fn text(&mut self, max: usize) -> Result<String, DecodeError> {
        match Self::wrap(self.decoder.str())? {
            text if text.len() <= max => Ok(text.to_owned()),
            text => Err(DecodeError::new("CBOR-2", format!("text of {} bytes, at most {max} allowed", text.len()))),
        }
    }

    /// Consumes the next key when it is `key` and a field is left.
    pub fn optional(&mut self, fields: &mut Fields, key: u64) -> Result<bool, DecodeError> {
        if fields.left == 0 {
            return Ok(false);
        }
        let mut probe = self.decoder.clone();
        if Self::wrap(probe.u64())? != key {
            return Ok(false);
        }
        self.decoder = probe;
        fields.left -= 1;
        Ok(true)
    }

    /// Consumes the next key, which must be `key`.
    pub fn field(&mut self, fields: &mut Fields, key: u64) -> Result<(), DecodeError> {
        match self.optional(fields, key)? {
            true => Ok(()),
            false => Err(DecodeError::new("CBOR-3", format!("field {key} is absent"))),
        }
    }

    /// No field may be left.
    pub fn no_more(&self, fields: &Fields) -> Result<(), DecodeError> {
        match fields.left {
            0 => Ok(()),
            left => Err(DecodeError::new("CBOR-3", format!("{left} unknown fields"))),
        }
    }
}

/// How many fields of a map are not yet read.
pub struct Fields {
    left: u64,
}

/// Rejects a document whose bytes differ from the canonical encoding of what was read from it.
pub fn canonical(bytes: &[u8], encoded: &[u8]) -> Result<(), DecodeError> {
    if bytes == encoded {
        return Ok(());
    }
    let at = bytes.iter().zip(encoded).position(|(a, b)| a != b).unwrap_or(bytes.len().min(encoded.len()));
    Err(DecodeError::new("CBOR-4", format!("not the canonical encoding from byte {at} on")))
}

// Every document of the format nests less deeply than this; no decoder recurses.
const _: () = assert!(CBOR_DEPTH_MAX >= 4);

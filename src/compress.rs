//! Compression of frames and of segments, with the output bounded before it is made.
//! Page: `format-spec/pack.md`, "Frames".

use std::cell::RefCell;

/// How hard to compress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// zstd 1.
    Fast,
    /// zstd 3.
    #[default]
    Default,
    /// zstd 19.
    Max,
}

impl Compression {
    fn level(self) -> i32 {
        match self {
            Compression::Off => 0,
            Compression::Fast => 1,
            Compression::Default => 3,
            Compression::Max => 19,
        }
    }
}

const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Why compressed bytes are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// No codec byte, or one that this version doesn't know.
    #[error("FRAME-1: codec {0} is unknown")]
    Codec(u8),
    /// The result has another length than stated.
    #[error("FRAME-2: {expected} bytes expected after decompression, {actual} found")]
    Length {
        /// Stated length in bytes.
        expected: usize,
        /// Length found, in bytes.
        actual: usize,
    },
    /// zstd refuses the bytes.
    #[error("FRAME-3: {0}")]
    Zstd(String),
}

thread_local! {
    // A context is some megabytes and costs more to make than a small frame to compress.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Codec byte and compressed bytes; stored as they are when that is not larger.
pub fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let stored = || {
        let mut out = Vec::with_capacity(bytes.len() + 1 + crate::format::envelope::TAG_BYTES);
        out.push(CODEC_STORED);
        out.extend_from_slice(bytes);
        out
    };
    if compression == Compression::Off || bytes.is_empty() {
        return stored();
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        let level = compression.level();
        if slot.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
            let Ok(context) = zstd::bulk::Compressor::new(level) else { return stored() };
            *slot = Some((level, context));
        }
        let Some((_, context)) = slot else { return stored() };
        let mut out = vec![0u8; 1 + zstd::zstd_safe::compress_bound(bytes.len())];
        out[0] = CODEC_ZSTD;
        // Any failure to compress is answered by storing: nothing is lost by it.
        match context.compress_to_buffer(bytes, &mut out[1..]) {
            Ok(length) if length < bytes.len() => {
                out.truncate(1 + length);
                out
            }
            _ => stored(),
        }
    })
}

/// The bytes that [`compress`] was given; exactly `raw_length` of them, checked before allocating more.
///
/// # Errors
/// `FRAME` rules.
pub fn decompress(bytes: &[u8], raw_length: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    decompress_into(bytes, raw_length, &mut out)?;
    Ok(out)
}

/// As [`decompress`], in place of what `out` held, so that one buffer serves many frames.
///
/// # Errors
/// `FRAME` rules; what `out` then holds is undefined.
pub fn decompress_into(bytes: &[u8], raw_length: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    out.clear();
    let (codec, body) = bytes.split_first().ok_or(DecompressError::Codec(u8::MAX))?;
    match *codec {
        CODEC_STORED if body.len() == raw_length => {
            out.extend_from_slice(body);
            Ok(())
        }
        CODEC_STORED => Err(DecompressError::Length { expected: raw_length, actual: body.len() }),
        CODEC_ZSTD => DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = Some(zstd::bulk::Decompressor::new().map_err(|e| DecompressError::Zstd(e.to_string()))?);
            }
            let Some(context) = slot else { return Err(DecompressError::Zstd("no context".to_owned())) };
            // Exactly one frame: several in a row would give one text many encodings.
            match zstd::zstd_safe::find_frame_compressed_size(body) {
                Ok(length) if length == body.len() => {}
                Ok(length) => {
                    return Err(DecompressError::Zstd(format!("{} bytes behind the frame", body.len() - length)));
                }
                Err(code) => return Err(DecompressError::Zstd(zstd::zstd_safe::get_error_name(code).to_owned())),
            }
            // Not zeroed first: zstd says how much of the capacity, which may be larger, it has filled.
            out.reserve_exact(raw_length);
            match context.decompress_to_buffer(body, out) {
                Ok(length) if length == raw_length => Ok(()),
                Ok(length) => Err(DecompressError::Length { expected: raw_length, actual: length }),
                Err(error) => Err(DecompressError::Zstd(error.to_string())),
            }
        }),
        codec => Err(DecompressError::Codec(codec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_round_trips_and_lengths_are_exact() {
        let text = b"the same words again and again ".repeat(1000);
        for compression in [Compression::Off, Compression::Fast, Compression::Default, Compression::Max] {
            let packed = compress(&text, compression);
            assert_eq!(decompress(&packed, text.len()).as_deref(), Ok(&text[..]));
            assert!(decompress(&packed, text.len() - 1).is_err());
            assert!(decompress(&packed, text.len() + 1).is_err());
        }
        assert!(compress(&text, Compression::Default).len() < text.len() / 50);
        let mut twice = compress(&text, Compression::Default);
        let again = twice[1..].to_vec();
        twice.extend_from_slice(&again);
        assert!(matches!(decompress(&twice, 2 * text.len()), Err(DecompressError::Zstd(_))));
        assert_eq!(decompress(&[9, 1], 1), Err(DecompressError::Codec(9)));
        assert!(decompress(&[], 0).is_err());
        // What the buffer held, and room that it has to spare, make no difference.
        let mut out = vec![7u8; 3 * text.len()];
        let packed = compress(&text, Compression::Default);
        assert_eq!(decompress_into(&packed, text.len(), &mut out), Ok(()));
        assert_eq!(out, text);
        assert!(decompress_into(&packed, text.len() - 1, &mut out).is_err());
    }

    #[test]
    fn what_doesnt_compress_is_stored() {
        let mut bytes = vec![0u8; 10_000];
        crate::env::Random::fill(&crate::env::SeededRandom::new(1), &mut bytes);
        assert_eq!(compress(&bytes, Compression::Default).len(), bytes.len() + 1);
    }
}

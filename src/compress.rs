//! Compression of frames and of segments, with the output bounded before it is made.
//! Page: `format-spec/pack.md`, "Frames".

use crate::limits::FRAME_RAW_BYTES_TARGET;
use std::cell::RefCell;
use zstd::zstd_safe::CParameter;

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

    fn context(self) -> std::io::Result<zstd::bulk::Compressor<'static>> {
        let mut context = zstd::bulk::Compressor::new(self.level())?;
        if self == Compression::Default {
            // Level 3 would take 768 KiB of tables for a frame, more than most cores' second cache next to the
            // frame itself; with 384 KiB it is about as fast as with 256 KiB, and smaller (`benches/README.md`).
            context.set_parameter(CParameter::HashLog(16))?;
            context.set_parameter(CParameter::ChainLog(15))?;
            // Where blocks may be of the full 128 KiB, zstd looks for the best place to end each: 6% of its time for
            // 0.1% of the size.
            context.set_parameter(CParameter::MaxBlockSize(BLOCK_BYTES_MAX))?;
        }
        Ok(context)
    }
}

/// Just below the most that the format allows.
const BLOCK_BYTES_MAX: u32 = (128 << 10) - 1;

/// Samples that tell whether a frame is worth compressing, and their size.
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 16 << 10;
/// Shorter ones are just compressed.
const SAMPLED_BYTES_MIN: usize = 4 * SAMPLES * SAMPLE_BYTES;

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
    static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A thread's context, and its room for what compresses to more than expected.
struct Compressor {
    made_for: Compression,
    context: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

/// True where samples of a frame say that it holds what was compressed or encrypted before. A frame of which any
/// sample gives way is compressed whole.
fn looks_incompressible(bytes: &[u8], context: &mut zstd::bulk::Compressor<'static>, room: &mut Vec<u8>) -> bool {
    if bytes.len() < SAMPLED_BYTES_MIN {
        return false;
    }
    let step = (bytes.len() - SAMPLE_BYTES) / (SAMPLES - 1);
    let mut samples = (0..SAMPLES).map(|at| &bytes[at * step..at * step + SAMPLE_BYTES]);
    // Counting is a hundred times cheaper than trying, and settles it for most of what does compress.
    if !samples.clone().all(has_even_bytes) {
        return false;
    }
    samples.all(|sample| {
        room.clear();
        room.reserve(zstd::zstd_safe::compress_bound(SAMPLE_BYTES));
        context.compress_to_buffer(sample, room).is_ok_and(|length| length > SAMPLE_BYTES - SAMPLE_BYTES / 64)
    })
}

/// True if all byte values are about as frequent as in random bytes: the sum of squared counts, which is n + n²/256
/// there, is at most a sixteenth larger.
fn has_even_bytes(sample: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    sample.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let squares: u64 = counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
    let length = sample.len() as u64;
    let even = length + length * length / 256;
    squares <= even + even / 16
}

/// Codec byte and compressed bytes; stored as they are when that is not larger. There is room for a tag behind them.
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
        if slot.as_ref().is_none_or(|made| made.made_for != compression) {
            let Ok(context) = compression.context() else { return stored() };
            *slot = Some(Compressor { made_for: compression, context, room: Vec::new() });
        }
        let Some(Compressor { context, room, .. }) = slot else { return stored() };
        if looks_incompressible(bytes, context, room) {
            return stored();
        }
        room.clear();
        room.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        // Any failure to compress is answered by storing: nothing is lost by it.
        let packed = match context.compress_to_buffer(bytes, room) {
            Ok(length) if length < bytes.len() => {
                let mut out = Vec::with_capacity(1 + length + crate::format::envelope::TAG_BYTES);
                out.push(CODEC_ZSTD);
                out.extend_from_slice(&room[..length]);
                out
            }
            _ => stored(),
        };
        // One huge frame must not leave every thread with a huge buffer.
        if room.capacity() > 4 * FRAME_RAW_BYTES_TARGET {
            *room = Vec::new();
        }
        packed
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

    #[test]
    fn a_frame_of_which_a_part_compresses_is_compressed() {
        let mut bytes = vec![0u8; 1 << 20];
        crate::env::Random::fill(&crate::env::SeededRandom::new(2), &mut bytes);
        for compression in [Compression::Fast, Compression::Default] {
            let packed = compress(&bytes, compression);
            assert_eq!((packed.len(), packed[0]), (bytes.len() + 1, CODEC_STORED));
            assert_eq!(decompress(&packed, bytes.len()).as_deref(), Ok(&bytes[..]));
        }
        // Wherever a sample meets it: at the ends and in the middle.
        for start in [0, 340 << 10, (1 << 20) - (64 << 10)] {
            let mut mixed = bytes.clone();
            mixed[start..start + (64 << 10)].fill(b'x');
            let packed = compress(&mixed, Compression::Default);
            assert!(packed.len() < mixed.len() - (60 << 10), "{start}: {}", packed.len());
            assert_eq!(decompress(&packed, mixed.len()).as_deref(), Ok(&mixed[..]));
        }
        // Every byte value as often as any other, yet all of it repeats.
        let even: Vec<u8> = (0..1u32 << 20).map(|at| at as u8).collect();
        assert!(even[..SAMPLE_BYTES].iter().map(|byte| u64::from(*byte)).sum::<u64>() > 0 && has_even_bytes(&even));
        assert!(compress(&even, Compression::Default).len() < 10_000);
    }
}

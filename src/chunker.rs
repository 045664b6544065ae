//! Content-defined boundaries: FastCDC (2020) with the repository's own keyed table.
//! Page: `format-spec/crypto.md`, "Chunker".

use crate::limits::{CHUNK_AVERAGE_BYTES_MAX, CHUNK_AVERAGE_BYTES_MIN};
use fastcdc::v2020::{Normalization, select_masks};

/// Cuts a byte stream into chunks; the same bytes and key give the same cuts everywhere.
#[derive(Clone)]
pub struct Chunker {
    gear: Box<[u64; 256]>,
    sizes: Sizes,
}

/// How large chunks become, in bytes, and the masks that make them so.
#[derive(Clone, Copy)]
struct Sizes {
    /// Below the average, and from it on.
    strict: u64,
    relaxed: u64,
    min: usize,
    average: usize,
    max: usize,
}

impl Sizes {
    fn of(average: usize) -> Self {
        let (strict, relaxed) = select_masks(average, Normalization::Level1);
        Sizes { strict, relaxed, min: average / 4, average, max: max_of(average) }
    }
}

/// The largest chunk, in bytes, of those that are so large on average.
pub const fn max_of(average: usize) -> usize {
    average * 4
}

/// An average chunk size that no chunker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an average chunk size of {0} bytes is not possible: choose a power of two from {CHUNK_AVERAGE_BYTES_MIN} to {CHUNK_AVERAGE_BYTES_MAX}"
)]
pub struct ChunkSizeError(pub usize);

/// Files of fewer averages than these are cut finer: they change in a few lines, and an edit stores its chunk anew. By
/// measurement (benches/README.md).
const FINE_BELOW_AVERAGES: usize = 16;
/// By how much finer, as far as the smallest average allows.
const FINE_DIVISOR: usize = 4;

impl Chunker {
    /// With the ring's `gear` secret and an average size in bytes; the smallest chunk is a quarter of
    /// it, the largest four times it.
    ///
    /// # Errors
    /// When the average is no power of two within the limits.
    pub fn new(gear_secret: &[u8; 32], average: usize) -> Result<Self, ChunkSizeError> {
        if !average.is_power_of_two() || !(CHUNK_AVERAGE_BYTES_MIN..=CHUNK_AVERAGE_BYTES_MAX).contains(&average) {
            return Err(ChunkSizeError(average));
        }
        let mut bytes = [0u8; 2048];
        blake3::Hasher::new_derive_key("keepstone/1 gear table").update(gear_secret).finalize_xof().fill(&mut bytes);
        let mut gear = Box::new([0u64; 256]);
        for (entry, bytes) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        Ok(Chunker { gear, sizes: Sizes::of(average) })
    }

    /// The one for files below [`Chunker::fine_below`].
    pub fn fine(&self) -> Self {
        let average = (self.average() / FINE_DIVISOR).max(CHUNK_AVERAGE_BYTES_MIN);
        Chunker { sizes: Sizes::of(average), ..self.clone() }
    }

    /// Files of fewer bytes are cut finer.
    pub fn fine_below(&self) -> u64 {
        (self.average() * FINE_BELOW_AVERAGES) as u64
    }

    /// The largest chunk in bytes: the window that [`Chunker::cut`] must see unless the input ends.
    pub fn max(&self) -> usize {
        self.sizes.max
    }

    /// The average chunk size in bytes.
    pub fn average(&self) -> usize {
        self.sizes.average
    }

    /// Length of the first chunk of `window`, which holds [`Chunker::max`] bytes or all that is left.
    pub fn cut(&self, window: &[u8]) -> usize {
        let Sizes { strict, relaxed, min, average, max } = self.sizes;
        let length = window.len().min(max);
        if length <= min {
            return length;
        }
        // Bytes count in pairs: an odd last one is never a place to cut.
        let (center, end) = (average.min(length & !1), length & !1);
        let mut hash = 0;
        if let Some(at) = self.scan(&window[min..center], &mut hash, strict) {
            return min + at;
        }
        match self.scan(&window[center..end], &mut hash, relaxed) {
            Some(at) => center + at,
            None => length,
        }
    }

    /// The position of the first byte after which the rolling hash has no bit of the mask.
    ///
    /// Four bytes a step: what they bring to the hash is summed up apart from it, so that each step waits for the one
    /// before by one shift and one addition; byte by byte it is that for each.
    fn scan(&self, bytes: &[u8], hash: &mut u64, mask: u64) -> Option<usize> {
        let gear = |byte: u8| self.gear[usize::from(byte)];
        let mut before = *hash;
        let (steps, rest) = bytes.as_chunks::<4>();
        for (step, bytes) in steps.iter().enumerate() {
            let one = gear(bytes[0]);
            let two = (one << 1).wrapping_add(gear(bytes[1]));
            let three = (two << 1).wrapping_add(gear(bytes[2]));
            let four = (three << 1).wrapping_add(gear(bytes[3]));
            let at = 4 * step;
            if (before << 1).wrapping_add(one) & mask == 0 {
                return Some(at);
            }
            if (before << 2).wrapping_add(two) & mask == 0 {
                return Some(at + 1);
            }
            if (before << 3).wrapping_add(three) & mask == 0 {
                return Some(at + 2);
            }
            before = (before << 4).wrapping_add(four);
            if before & mask == 0 {
                return Some(at + 3);
            }
        }
        for (at, byte) in (4 * steps.len()..).zip(rest) {
            before = (before << 1).wrapping_add(gear(*byte));
            if before & mask == 0 {
                return Some(at);
            }
        }
        *hash = before;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Random, SeededRandom};
    use proptest::prelude::*;

    fn cuts(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
        let (mut at, mut lengths) = (0, Vec::new());
        while at < bytes.len() {
            let end = bytes.len().min(at + chunker.max());
            let length = chunker.cut(&bytes[at..end]);
            lengths.push(length);
            at += length;
        }
        lengths
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn an_insertion_moves_few_boundaries(seed in any::<u64>(), at in 0usize..400_000, length in 1usize..2000) {
            let chunker = Chunker::new(&[3; 32], 16 << 10).expect("a valid size");
            let mut bytes = vec![0u8; 1 << 20];
            SeededRandom::new(seed).fill(&mut bytes);
            let before = cuts(&chunker, &bytes);
            prop_assert_eq!(before.iter().sum::<usize>(), bytes.len());
            prop_assert!(before.iter().all(|length| *length <= 64 << 10));
            bytes.splice(at..at, vec![7u8; length]);
            let after = cuts(&chunker, &bytes);
            let common_tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
            prop_assert!(common_tail * 4 >= before.len(), "{} of {}", common_tail, before.len());
        }
    }

    /// As the crate whose cuts the specification names.
    fn reference(chunker: &Chunker, window: &[u8]) -> usize {
        let Sizes { strict, relaxed, min, average, max } = chunker.sizes;
        let shifted: Vec<u64> = chunker.gear.iter().map(|entry| entry << 1).collect();
        let (strict_shifted, relaxed_shifted, gear) = (strict << 1, relaxed << 1, &chunker.gear[..]);
        let (_, length) = fastcdc::v2020::cut_gear(
            window,
            min,
            average,
            max,
            strict,
            relaxed,
            strict_shifted,
            relaxed_shifted,
            gear,
            &shifted,
        );
        length
    }

    proptest! {
        #[test]
        fn cuts_are_those_of_fastcdc(
            seed in any::<u64>(), size in 13u32..21, values in 1u8.., length in 0usize..300_000,
        ) {
            let chunker = Chunker::new(&[seed as u8; 32], 1 << size).expect("a valid size");
            let mut bytes = vec![0u8; length];
            SeededRandom::new(seed).fill(&mut bytes);
            // Few values make runs, and cuts near the bounds.
            bytes.iter_mut().for_each(|byte| *byte %= values);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let window = &rest[..rest.len().min(chunker.max())];
                let length = chunker.cut(window);
                prop_assert_eq!(length, reference(&chunker, window), "of {}", window.len());
                rest = &rest[length..];
            }
        }
    }

    #[test]
    fn another_key_cuts_elsewhere_and_sizes_average_out() {
        let mut bytes = vec![0u8; 8 << 20];
        SeededRandom::new(5).fill(&mut bytes);
        let one = cuts(&Chunker::new(&[1; 32], 16 << 10).expect("valid"), &bytes);
        let two = cuts(&Chunker::new(&[2; 32], 16 << 10).expect("valid"), &bytes);
        assert_ne!(one, two);
        let average = bytes.len() / one.len();
        assert!((10 << 10..26 << 10).contains(&average), "{average}");
    }

    /// CUT-2: by the file's size.
    #[test]
    fn files_of_a_few_chunks_are_cut_finer() {
        let coarse = Chunker::new(&[1; 32], 64 << 10).expect("valid");
        assert_eq!((coarse.fine_below(), coarse.fine().average(), coarse.fine().max()), (1 << 20, 16 << 10, 64 << 10));
        let mut bytes = vec![0u8; 4 << 20];
        SeededRandom::new(5).fill(&mut bytes);
        // As if the average had been asked for.
        assert_eq!(cuts(&coarse.fine(), &bytes), cuts(&Chunker::new(&[1; 32], 16 << 10).expect("valid"), &bytes));
        let finest = Chunker::new(&[1; 32], CHUNK_AVERAGE_BYTES_MIN).expect("valid");
        assert_eq!(finest.fine().average(), CHUNK_AVERAGE_BYTES_MIN);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 4096, 10_000, 2 << 20] {
            assert!(Chunker::new(&[0; 32], size).is_err());
        }
    }
}

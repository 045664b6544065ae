//! Every fuzz target's body on its seeds, on every truncation of them, and on some thousands of mutations:
//! what `make fuzz` searches at length, `make test` tries in seconds, with the same seed each time.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use bodies::BODIES;
use keepstone::env::{Random, SeededRandom};

const MUTATIONS: usize = 20_000;

struct Mutator {
    random: SeededRandom,
}

impl Mutator {
    fn below(&self, bound: usize) -> usize {
        let mut bytes = [0u8; 8];
        self.random.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % bound.max(1) as u64) as usize
    }

    /// One to four small changes, of the kinds that find most: bits, bytes, lengths, copies.
    fn mutate(&self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x1b, 0x9f, 0x41];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes[at] = TELLING[self.below(TELLING.len())],
                3 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
                4 => drop(bytes.remove(at)),
                5 => bytes.truncate(at),
                _ => {
                    let end = at + self.below((bytes.len() - at).min(64));
                    let copy = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
        }
    }
}

#[test]
fn decoders_keep_their_promises_on_damaged_bytes() {
    let mutator = Mutator { random: SeededRandom::new(1) };
    for body in BODIES {
        let seeds = (body.seeds)();
        for (at, seed) in seeds.iter().enumerate() {
            assert!((body.run)(seed), "{}: seed {at} is accepted", body.name);
            for cut in 0..seed.len() {
                (body.run)(&seed[..cut]);
            }
        }
        for round in 0..MUTATIONS {
            let mut bytes = seeds[round % seeds.len()].clone();
            mutator.mutate(&mut bytes);
            (body.run)(&bytes);
        }
    }
}

/// A body without a target would never be searched, and a target without a body doesn't build.
#[test]
fn every_body_has_a_fuzz_target() {
    let root =
        std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for body in BODIES {
        assert!(manifest.contains(&format!("name = \"{}\"", body.name)), "{} has a target", body.name);
        let target = root.join("targets").join(format!("{}.rs", body.name));
        let text = std::fs::read_to_string(&target).expect("its source");
        assert!(text.contains(&format!("\"{}\"", body.name)), "{} runs its own body", target.display());
    }
}

//! What must never change: the vectors in `format-spec/vectors/` and the frozen regions beside them.
//!
//! Run with `KEEPSTONE_WRITE_VECTORS=1` to write them; without it every byte is compared.
//! `format-spec/reader/test_reader.py` holds the second reader to the same files.

mod bad;
mod region;
mod vectors;

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

/// The folder of the vectors.
fn vectors_path(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("format-spec/vectors")
        .join(name)
}

/// True when vectors are to be written instead of compared.
fn writing() -> bool {
    std::env::var_os("KEEPSTONE_WRITE_VECTORS").is_some_and(|value| value == "1")
}

/// A stored vector file.
fn stored(name: &str) -> Value {
    let path = vectors_path(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A vector file that holds somebody else's random or variable bytes: written once, kept ever after.
fn stored_or(name: &str, create: impl FnOnce() -> Value) -> Value {
    // Two tests may want the same file first.
    static WRITING: Mutex<()> = Mutex::new(());
    let _guard = WRITING.lock();
    if writing() && !vectors_path(name).exists() {
        check(name, &create());
    }
    stored(name)
}

/// Writes a vector file, or compares it with what is stored.
fn check(name: &str, value: &Value) {
    if writing() {
        let text = serde_json::to_string_pretty(value).expect("JSON") + "\n";
        fs::write(vectors_path(name), text).expect("vectors are writable");
    } else {
        assert_eq!(&stored(name), value, "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// `length` reproducible bytes that don't compress.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key("keepstone vectors noise").update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

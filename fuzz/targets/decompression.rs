#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("decompression"),
    |data: &[u8]| {
        (bodies::body("decompression").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("segment"),
    |data: &[u8]| {
        (bodies::body("segment").run)(data);
    }
);

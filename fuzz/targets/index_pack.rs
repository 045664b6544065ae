#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("index_pack"),
    |data: &[u8]| {
        (bodies::body("index_pack").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("index_places"),
    |data: &[u8]| {
        (bodies::body("index_places").run)(data);
    }
);

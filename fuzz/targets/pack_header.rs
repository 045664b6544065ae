#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("pack_header"),
    |data: &[u8]| {
        (bodies::body("pack_header").run)(data);
    }
);

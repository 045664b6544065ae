#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("envelope"),
    |data: &[u8]| {
        (bodies::body("envelope").run)(data);
    }
);

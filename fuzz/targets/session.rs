#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("session"),
    |data: &[u8]| {
        (bodies::body("session").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("snapshot"),
    |data: &[u8]| {
        (bodies::body("snapshot").run)(data);
    }
);

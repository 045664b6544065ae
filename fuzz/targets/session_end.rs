#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("session_end"),
    |data: &[u8]| {
        (bodies::body("session_end").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("ring"),
    |data: &[u8]| {
        (bodies::body("ring").run)(data);
    }
);

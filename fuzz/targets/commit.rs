#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("commit"),
    |data: &[u8]| {
        (bodies::body("commit").run)(data);
    }
);

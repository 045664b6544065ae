#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("config"),
    |data: &[u8]| {
        (bodies::body("config").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("verdict"),
    |data: &[u8]| {
        (bodies::body("verdict").run)(data);
    }
);

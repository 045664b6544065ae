#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("region"),
    |data: &[u8]| {
        (bodies::body("region").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("designation"),
    |data: &[u8]| {
        (bodies::body("designation").run)(data);
    }
);

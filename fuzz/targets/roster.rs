#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("roster"),
    |data: &[u8]| {
        (bodies::body("roster").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("attestation"),
    |data: &[u8]| {
        (bodies::body("attestation").run)(data);
    }
);

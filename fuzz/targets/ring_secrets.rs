#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("ring_secrets"),
    |data: &[u8]| {
        (bodies::body("ring_secrets").run)(data);
    }
);

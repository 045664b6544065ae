#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("slot_secrets"),
    |data: &[u8]| {
        (bodies::body("slot_secrets").run)(data);
    }
);

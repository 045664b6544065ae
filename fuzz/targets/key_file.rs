#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("key_file"),
    |data: &[u8]| {
        (bodies::body("key_file").run)(data);
    }
);

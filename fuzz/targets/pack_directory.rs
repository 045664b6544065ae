#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("pack_directory"),
    |data: &[u8]| {
        (bodies::body("pack_directory").run)(data);
    }
);

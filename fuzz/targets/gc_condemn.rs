#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("gc_condemn"),
    |data: &[u8]| {
        (bodies::body("gc_condemn").run)(data);
    }
);

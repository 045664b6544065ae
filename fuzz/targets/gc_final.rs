#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("gc_final"),
    |data: &[u8]| {
        (bodies::body("gc_final").run)(data);
    }
);

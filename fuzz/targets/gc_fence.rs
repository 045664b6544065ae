#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("gc_fence"),
    |data: &[u8]| {
        (bodies::body("gc_fence").run)(data);
    }
);

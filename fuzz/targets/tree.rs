#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("tree"),
    |data: &[u8]| {
        (bodies::body("tree").run)(data);
    }
);

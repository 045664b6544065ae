#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("list"),
    |data: &[u8]| {
        (bodies::body("list").run)(data);
    }
);

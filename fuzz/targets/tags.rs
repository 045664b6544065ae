#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("tags"),
    |data: &[u8]| {
        (bodies::body("tags").run)(data);
    }
);

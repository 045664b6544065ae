#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("accepted"),
    |data: &[u8]| {
        (bodies::body("accepted").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("pack_footer"),
    |data: &[u8]| {
        (bodies::body("pack_footer").run)(data);
    }
);

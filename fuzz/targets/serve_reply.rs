#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("serve_reply"),
    |data: &[u8]| {
        (bodies::body("serve_reply").run)(data);
    }
);

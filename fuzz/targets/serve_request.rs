#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("serve_request"),
    |data: &[u8]| {
        (bodies::body("serve_request").run)(data);
    }
);

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::plant("audit_entry"),
    |data: &[u8]| {
        (bodies::body("audit_entry").run)(data);
    }
);

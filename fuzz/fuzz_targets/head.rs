//! Heads of HTTP requests and answers at the gate.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dsn::server::fuzz_heads(data);
});

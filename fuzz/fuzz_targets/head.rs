//! Heads of HTTP requests at the gate, and what readers of the web page write in them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dsn::server::fuzz_heads(data);
    dsn::web::fuzz_readers(data);
});

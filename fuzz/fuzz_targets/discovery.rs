//! What somebody says on the local network, where a node looks for others.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| dsn::discovery::fuzz_messages(data));

//! The file of the own state: whatever stands in it, the node starts, and what it keeps it keeps.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dsn::journal::fuzz_replay(data);
});

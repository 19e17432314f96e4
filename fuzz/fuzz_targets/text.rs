//! Everything that people and their programs write: names, addresses, key files, values in JSON.
#![no_main]

use std::path::Path;

use dsn::control::{bytes_from_json, bytes_to_json};
use dsn::protocol::address::Address;
use dsn::protocol::entries::Key;
use dsn::protocol::identity::{NodeId, PublicKey, hex, unhex};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert_eq!(bytes_from_json(&bytes_to_json(data)).as_deref(), Some(data));
    assert_eq!(unhex(&hex(data)).as_deref(), Some(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(node_id) = NodeId::new(text) {
        assert!(
            !node_id.as_str().contains('/') && node_id.as_str() != "." && node_id.as_str() != ".."
        );
    }
    if let Ok(address) = Address::new(text) {
        assert_eq!(Address::new(address.as_str()).ok(), Some(address));
    }
    if let Ok(key) = Key::new(text) {
        assert!(!key.as_str().contains(['\n', '=']));
    }
    let _ = PublicKey::from_hex(text);
    let _ = dsn::credentials::parse_network_key(Path::new("fuzz"), text);
});

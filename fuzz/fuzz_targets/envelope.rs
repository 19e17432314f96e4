//! Envelopes: garbage never opens, and what was sealed opens to what it was, at its own place only.
#![no_main]

use dsn::protocol::crypto::{NetworkKeys, Place, open, seal};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    let keys =
        NetworkKeys::new(&[Zeroizing::new([7; 32]), Zeroizing::new([8; 32])]).expect("two keys");
    assert!(open(&keys, Place::Request { path: "/ping" }, data.to_vec()).is_err());
    let Some((kind, payload)) = data.split_first() else { return };
    let place = Place::Request { path: "/ping" };
    let (envelope, tag) = seal(&keys, 1, [3; 16], place, *kind, payload).expect("there is a key");
    let opened = open(&keys, place, envelope.clone()).expect("it was sealed");
    assert_eq!((opened.kind, opened.payload(), opened.tag), (*kind, payload, tag));
    assert!(open(&keys, Place::Request { path: "/data" }, envelope.clone()).is_err());
    let answer = Place::Answer { path: "/ping", status: 200, request: &tag };
    assert!(open(&keys, answer, envelope).is_err());
});

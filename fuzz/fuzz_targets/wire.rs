//! Every decoder of the wire: no bytes make it panic, and what it takes is encoded again to the
//! same bytes. The first byte says which decoder.
#![no_main]

use dsn::protocol::wire::{self, Kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, payload)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(first % 5)];
    match first / 5 % 3 {
        0 => {
            if let Ok(decoded) = wire::decode_request(kind, payload) {
                let again = wire::encode_request(&decoded.message).expect("it was decoded");
                // A HELLO of a node that speaks other versions too is encoded as ours.
                let skip = if kind == Kind::Hello { 4 } else { 0 };
                assert_eq!(again[skip..], decoded.signed[skip..]);
            }
        }
        1 => {
            if let Ok(decoded) = wire::decode_answer(kind, payload) {
                let again = wire::encode_answer(&decoded.message).expect("it was decoded");
                assert_eq!(again, decoded.signed);
            }
        }
        _ => {
            if let Ok(refusal) = wire::decode_refusal(payload) {
                let text = refusal.text.as_str();
                assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
                assert_eq!(wire::encode_refusal(&refusal).expect("it was decoded"), payload);
            }
        }
    }
});

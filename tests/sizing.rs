//! What sealing costs beside signing, on the host that it runs on. Not a test of every day: it
//! wants an optimised build and a quiet host.
//!
//!   cargo test --release sizing:: -- --ignored --nocapture
//!   RUSTFLAGS='--cfg aes_backend="soft"' cargo test … does it without AES instructions

use std::time::{Duration, Instant};

use dsn::protocol::crypto::{Ecdsa, Place, Signed, Signer, Verifier, seal};

use crate::support::{Member, NETWORK_KEY, network_keys};

/// The least time of many that something takes: what others do on the host does not count.
fn least(mut what: impl FnMut()) -> Duration {
    let time = |()| {
        let began = Instant::now();
        what();
        began.elapsed()
    };
    (0..200).map(|_| ()).map(time).min().unwrap()
}

/// The largest message that has to cost less to seal than its signature costs to make.
const SMALL_BYTES: usize = 1024;

#[test]
#[ignore = "it measures"]
fn a_signature_costs_more_than_sealing_what_is_sent_most() {
    let keys = network_keys(*NETWORK_KEY);
    let member = Member::new("a", "127.0.0.1:1".parse().unwrap());
    let payload = [7; 200];
    let signed = || Signed::Request { kind: 4, payload: &payload };
    let signature = member.key.sign(signed()).unwrap();
    let sign = least(|| assert!(member.key.sign(signed()).is_ok()));
    let public = member.key.public_key();
    let check = least(|| assert!(Ecdsa.verify(&public, signed(), &signature)));
    println!("sign {sign:?}, verify {check:?}");
    for bytes in [200, SMALL_BYTES, 4096, 16 * 1024, 64 * 1024, 1024 * 1024] {
        let message = vec![7; bytes];
        let place = || Place::Request { path: "/ping" };
        let time = least(|| assert!(seal(&keys, 0, [3; 16], place(), 4, &message).is_some()));
        let part = time.as_secs_f64() / sign.as_secs_f64();
        println!("seal {bytes} bytes: {time:?}, {part:.2} of a signature");
        assert!(bytes > SMALL_BYTES || time < sign, "{bytes} bytes: {time:?} {sign:?}");
    }
}

//! What the parts cost by themselves: signatures, envelopes, messages, digests, versions.
//!
//! `cargo bench --bench parts`. Sizes are keys of a state, or bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that can't measure fails by panicking"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use dsn::protocol::crypto::{Ecdsa, Place, Signed, Signer, Verifier, open, seal};
use dsn::protocol::entries::{Change, Entries};
use dsn::protocol::identity::{Incarnation, Session};
use dsn::protocol::record::Record;
use dsn::protocol::wire::{self, Kind, Request};
use support::{Link, Member, id, key, network_keys, value};

const KEYS: [usize; 4] = [10, 100, 1_000, 10_000];
const BYTES: [usize; 3] = [100, 1 << 10, 64 << 10];
const PLACE: Place<'static> = Place::Request { path: "/update" };

fn main() {
    divan::main();
}

/// A member that never speaks.
fn member() -> Member {
    let mut member = Member::new("alpha", SocketAddr::from(([127, 0, 0, 1], 1)));
    member.link = Some(Link {
        node_id: id("beta"),
        public_key: member.key.public_key(),
        incarnation: Incarnation([2; 16]),
        session: Session([2; 16]),
    });
    member
}

fn record(keys: usize) -> Arc<Record> {
    let names: Vec<String> = (0..keys).map(|number| format!("key-{number:05}")).collect();
    let text = "v".repeat(50);
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), text.as_str())).collect();
    member().record(1, &pairs)
}

fn update(keys: usize) -> Request {
    member().push(vec![record(keys)])
}

#[divan::bench(args = BYTES)]
fn sign(bencher: Bencher<'_, '_>, bytes: usize) {
    let (member, payload) = (member(), vec![7; bytes]);
    let signed = Signed::Request { kind: 4, payload: &payload };
    bencher.bench(|| member.key.sign(black_box(signed)).unwrap());
}

#[divan::bench(args = BYTES)]
fn verify_signature(bencher: Bencher<'_, '_>, bytes: usize) {
    let (member, payload) = (member(), vec![7; bytes]);
    let signed = Signed::Request { kind: 4, payload: &payload };
    let (public, signature) = (member.key.public_key(), member.key.sign(signed).unwrap());
    bencher.bench(|| assert!(Ecdsa.verify(&public, black_box(signed), &signature)));
}

#[divan::bench(args = BYTES)]
fn seal_envelope(bencher: Bencher<'_, '_>, bytes: usize) {
    let (keys, payload) = (network_keys([7; 32]), vec![7; bytes]);
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| seal(&keys, 0, [1; 16], PLACE, 3, black_box(&payload)).unwrap());
}

#[divan::bench(args = BYTES)]
fn open_envelope(bencher: Bencher<'_, '_>, bytes: usize) {
    let keys = network_keys([7; 32]);
    let (envelope, _) = seal(&keys, 0, [1; 16], PLACE, 3, &vec![7; bytes]).unwrap();
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(|| envelope.clone())
        .bench_values(|envelope| open(&keys, PLACE, envelope).unwrap());
}

#[divan::bench(args = KEYS)]
fn encode_update(bencher: Bencher<'_, '_>, keys: usize) {
    let request = update(keys);
    bencher.bench(|| wire::encode_request(black_box(&request)).unwrap());
}

#[divan::bench(args = KEYS)]
fn decode_update(bencher: Bencher<'_, '_>, keys: usize) {
    let payload = wire::encode_request(&update(keys)).unwrap();
    bencher.bench(|| wire::decode_request(Kind::Update, black_box(&payload)).unwrap());
}

#[divan::bench(args = KEYS)]
fn digest(bencher: Bencher<'_, '_>, keys: usize) {
    let record = record(keys);
    let pairs: Vec<_> = record.entries.iter().map(|(key, value)| (key, Some(value))).collect();
    bencher.bench(|| Entries::new().with(black_box(pairs.iter().copied())));
}

/// The version that follows when one key of many changes.
#[divan::bench(args = KEYS)]
fn next_version(bencher: Bencher<'_, '_>, keys: usize) {
    let record = record(keys).draft();
    let change = Change::from([(key("key-00003"), Some(value("changed")))]);
    bencher.bench(|| record.after(black_box(&change), false, 2).unwrap().unwrap());
}

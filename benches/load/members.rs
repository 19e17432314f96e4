//! Hand-made members that call a node over kept connections, as other nodes do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dsn::client::Client;
use dsn::protocol::crypto::{Ecdsa, Place, Signed, TAG_BYTES, Tag, Verifier, open};
use dsn::protocol::wire::{self, Kind, Request};

use super::hammer::Call;
use crate::support::Member;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a value.
pub(crate) const VALUE: usize = 50;

/// A member that has joined, with a connection of its own.
pub(crate) struct Caller {
    pub(crate) member: Member,
    client: Client,
    timestamp: u64,
}

/// An UPDATE as it is posted, made before.
pub(crate) type Envelope = Vec<u8>;

impl Caller {
    /// Members `caller-0`, `caller-1` and so on.
    pub(crate) fn join(target: &str, count: usize) -> Vec<Self> {
        let target: SocketAddr = target.parse().unwrap();
        let join = |number| {
            let mut member = Member::new(&format!("caller-{number}"), target);
            member.join();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let timestamp = u64::try_from(now.as_micros()).unwrap();
            Self { member, client: Client::new(2 << 20, 1), timestamp }
        };
        (0..count).map(join).collect()
    }

    /// The timestamp of the last version that was made.
    pub(crate) fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The next versions of this member's state of so many keys, of which one changes each time:
    /// signed and sealed, ready to be posted.
    pub(crate) fn updates(&mut self, keys: usize, count: usize) -> Vec<Envelope> {
        let names: Vec<String> = (0..keys).map(|key| format!("key-{key:05}")).collect();
        let mut values: Vec<String> = vec!["v".repeat(VALUE); keys];
        let mut next = |round: usize| {
            values[round % keys] = format!("{round:0>VALUE$}");
            let pairs: Vec<_> =
                names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
            self.timestamp += 1;
            let record = self.member.record(self.timestamp, &pairs);
            let request = self.member.push(vec![record]);
            self.member.envelope(Kind::Update, &self.member.payload(&request))
        };
        (0..count).map(&mut next).collect()
    }

    /// Posts them one after the other, over a connection of which the node knows that it is this
    /// member's, as it does of nodes that it can call back: else all callers count as strangers of
    /// one host, who share a worker. How many were taken is to be asked of the node after it.
    pub(crate) fn post_call(mut self, updates: Vec<Envelope>) -> Call {
        let ping = self.member.ping();
        self.exchange(&ping);
        let address = self.member.target.to_string();
        let mut updates = updates.into_iter();
        Box::new(move || {
            let Some(update) = updates.next() else { return false };
            let answer = self.client.post(&address, "/update", &update, TIMEOUT).unwrap();
            assert!(answer.status == 204 && answer.seal.is_some(), "refused: {}", answer.status);
            true
        })
    }

    /// Says a signed request and checks that the answer is one, and signed; gives both lengths.
    pub(crate) fn exchange(&self, request: &Request) -> (usize, usize) {
        let kind = request.kind();
        let envelope = self.member.sealed(request);
        let address = self.member.target.to_string();
        let answer = self.client.post(&address, kind.path(), &envelope, TIMEOUT).unwrap();
        assert_eq!(answer.status, 200, "{kind:?} is refused");
        let lengths = (envelope.len(), answer.body.len());
        let tag: Tag = envelope[envelope.len() - TAG_BYTES..].try_into().unwrap();
        let place = Place::Answer { path: kind.path(), status: 200, request: &tag };
        let opened = open(&self.member.network, place, answer.body).expect("a sealed answer");
        let decoded = wire::decode_answer(kind, opened.payload()).unwrap();
        let signed = Signed::Answer { kind: kind.byte(), request: &tag, payload: decoded.signed };
        let public = self.member.linked().public_key;
        assert!(Ecdsa.verify(&public, signed, &decoded.signature), "a signed answer");
        lengths
    }

    pub(crate) fn ping_call(mut self) -> Call {
        Box::new(move || {
            let ping = self.member.ping();
            self.exchange(&ping);
            true
        })
    }

    pub(crate) fn data_call(mut self, bytes: usize) -> Call {
        let data: Arc<[u8]> = vec![0x5a; bytes].into();
        let mut id = 0;
        Box::new(move || {
            id += 1;
            let request = self.member.data(id, &data);
            self.exchange(&request);
            true
        })
    }
}

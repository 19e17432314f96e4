//! The whole request path of a node behind the signatures: a row of requests of members who say
//! whatever they like, ticks between them, and answers of the same kind to what the node sends.
#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use dsn::protocol::identity::{NodeId, PublicKey, Session};
use dsn::protocol::node::{Action, Authentic, Node, Now, Outcome, Settings, Target};
use dsn::protocol::state::{Record, next_timestamp};
use dsn::protocol::wire::{self, Kind, ProgramVersion, Request};
use dsn::protocol::{INBOX_BYTES_MAX, PEERS_MAX};
use libfuzzer_sys::fuzz_target;

fn node() -> Node {
    let node_id = NodeId::new("a").expect("an id");
    let public_key = PublicKey([4; 65]);
    let record = Record::new(node_id.clone(), public_key, 1_000, false, Arc::default());
    record.signature.set([0; 64]).expect("the cell is new");
    let settings = Settings {
        node_id,
        public_key,
        session: Session([1; 16]),
        port: 8000,
        advertise: None,
        seeds: Vec::new(),
        tick_ms: 3_000,
        program: ProgramVersion::new("fuzz"),
        timestamp_rule: next_timestamp,
        allow: None,
    };
    Node::new(settings, record, Vec::new(), 7, Now { wall_us: 1, mono_ms: 1 })
}

fuzz_target!(|data: &[u8]| {
    let mut node = node();
    let caller: SocketAddr = "10.0.0.9:1".parse().expect("an address");
    let mut rest = data;
    let mut mono_ms = 1;
    let mut timestamps: BTreeMap<(NodeId, Option<PublicKey>), u64> = BTreeMap::new();
    let mut was_full = false;
    let mut inbox = 0;
    while let [what, low, high, bytes @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
        let (payload, next) = bytes.split_at(length);
        rest = next;
        let kind = Kind::ALL[usize::from(what % 5)];
        mono_ms += u64::from(what / 5) * 100;
        let now = Now { wall_us: mono_ms * 1000, mono_ms };
        let mut actions = Vec::new();
        if let Ok(mut decoded) = wire::decode_request(kind, payload) {
            // As the driver does, outside its lock; what does not fit never reaches the rules.
            let fits = match &mut decoded.message {
                Request::Update(update) => update.make_whole(|patch| node.base_of(patch)).is_ok(),
                _ => true,
            };
            let signer = match &decoded.message {
                Request::Hello(hello) => Some(hello.public_key),
                Request::Peers(peers) => node.direct_key_of(&peers.header.from),
                Request::Ping(ping) => node.direct_key_of(&ping.header.from),
                Request::Data(data) => node.direct_key_of(&data.header.from),
                Request::Update(_) => None,
            };
            // Nobody else has the key of the node itself.
            let forged = match &decoded.message {
                Request::Update(update) => {
                    update.records.iter().any(|r| r.public_key == PublicKey([4; 65]))
                }
                _ => signer == Some(PublicKey([4; 65])),
            };
            if fits && !forged {
                actions = node.on_request(Authentic::new(decoded.message, signer), caller, now).1;
            }
        }
        actions.extend(node.on_tick(now).1);
        // What it sends is answered with the same bytes, if they are an answer.
        let mut steps = 0;
        while let Some(action) = actions.pop() {
            steps += 1;
            if steps > 200 {
                break;
            }
            match action {
                Action::Send { target, .. } => {
                    let Some(outgoing) = node.begin(&target, now) else { continue };
                    let kind = outgoing.request.kind();
                    let outcome = match wire::decode_answer(kind, payload) {
                        Ok(decoded) => Outcome::Answered(decoded.message),
                        Err(_) if what % 2 == 0 => Outcome::Nothing,
                        Err(_) => match wire::decode_refusal(payload) {
                            Ok(refusal) => Outcome::Refused { refusal, held_is_proved: false },
                            Err(_) => Outcome::Failed("no answer".into()),
                        },
                    };
                    assert!(matches!(target, Target::Peer(_)));
                    actions.extend(node.on_answer(&target, outgoing.flight, outcome, 1, now));
                }
                Action::Tell(dsn::protocol::report::Event::Data { data, .. }) => {
                    inbox += data.len()
                }
                _ => {}
            }
        }
        let peers = node.peers(now);
        assert!(peers.len() <= PEERS_MAX);
        assert!(inbox <= INBOX_BYTES_MAX, "nobody reads, so no more is taken");
        assert_eq!(node.own().head.timestamp, 1_000, "only the owner writes");
        // A full table drops nodes, and what was known of them.
        was_full |= peers.len() == PEERS_MAX;
        for peer in peers {
            let last = timestamps.insert((peer.node_id, peer.public_key), peer.timestamp);
            assert!(was_full || peer.timestamp >= last.unwrap_or(0), "monotony");
        }
    }
});

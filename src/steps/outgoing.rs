//! A request that goes out, and what comes back: sealed, read, looked at, checked.

use std::sync::Arc;

use super::incoming::{awaited, check_words};
use super::{Nonce, StepFault, read_seal};
use crate::protocol::crypto::{NetworkKeys, Opened, Place, Signed, Signer, Tag, Verifier, open};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::node::{Judgement, Node, Outcome, Outgoing};
use crate::protocol::record::{Record, Signature, SignedHead};
use crate::protocol::verdict::Status;
use crate::protocol::verified::{Authentic, Verified};
use crate::protocol::wire::{self, Answer, Here, Kind, Pong, Refusal, Request, Word};

/// What a 400 without a seal most likely means.
const NOT_OPENED: &str =
    "it answered 400 without the seal of this network: it has another network key";

/// A request as bytes.
pub struct Sealed {
    /// The path that it is posted to.
    pub path: &'static str,
    /// The envelope.
    pub body: Vec<u8>,
    /// Names the request in its answer.
    pub tag: Tag,
}

/// Encodes, signs and seals a request of the node of that name; outside the lock. What it says of
/// itself in it is signed there, too.
pub fn seal_request(
    outgoing: &mut Outgoing,
    own: &NodeId,
    keys: &NetworkKeys,
    signer: &impl Signer,
    nonce: Nonce,
) -> Result<Sealed, StepFault> {
    sign_words(&mut outgoing.request, own, signer)?;
    let kind = outgoing.request.kind();
    let mut plain = wire::plain_request(&outgoing.request)?;
    if outgoing.request.is_signed() {
        let signature = signer.sign(plain.signed(plain.payload().len()))?;
        plain.push(&signature);
    }
    let path = kind.path();
    let key = outgoing.network_key % keys.count();
    let sealed = plain.seal(keys, key, nonce, Place::Request { path });
    let (body, tag) = sealed.ok_or(StepFault::NoKey)?;
    Ok(Sealed { path, body, tag })
}

/// Signs what the sender says of itself in an UPDATE: that it is there. Only who seals nothing, as
/// a simulator of many nodes does, calls it.
pub fn sign_words(
    request: &mut Request,
    own: &NodeId,
    signer: &impl Signer,
) -> Result<(), StepFault> {
    let Request::Push(push) = request else { return Ok(()) };
    for word in push.words.iter_mut().filter(|word| word.about == *own) {
        let (node_id, challenge) = (&word.about, &word.challenge);
        word.signature = Some(signer.sign(Signed::Here { node_id, challenge })?);
    }
    Ok(())
}

/// What came back over HTTP.
#[derive(Debug, Clone, Default)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// The header `Dsn-Seal`.
    pub seal: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What came back, as far as it is known.
pub enum Returned {
    /// All of it.
    Known(Box<Outcome>),
    /// Records, of which nothing is believed yet.
    Records(Vec<Arc<Record>>),
    /// An answer to PING with mail, and the words in it that are waited for, with the keys of those
    /// that they are about.
    Pong(Box<Authentic<Pong>>, Vec<(Word, PublicKey)>),
}

impl Returned {
    /// What is known at once.
    pub fn known(outcome: Outcome) -> Self {
        Self::Known(Box::new(outcome))
    }

    /// First step, outside the lock: opens, decodes, and checks the receiver's signature.
    pub fn read(
        outgoing: &Outgoing,
        tag: &Tag,
        answer: HttpAnswer,
        keys: &NetworkKeys,
        own: (&NodeId, &PublicKey),
        verifier: &impl Verifier,
    ) -> Self {
        let is_bare_refusal = answer.status == Status::BadRequest.code()
            && answer.seal.is_none()
            && answer.body.is_empty();
        if is_bare_refusal {
            return Self::known(Outcome::NotOpened(NOT_OPENED.into()));
        }
        let reading = Reading { outgoing, tag, own };
        reading.read(answer, keys, verifier).unwrap_or_else(|why| Self::known(Outcome::Failed(why)))
    }

    /// Whether the second step has nothing to look at.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }

    /// Second step, under the lock: only what would be news is worth a look at its signature.
    #[must_use]
    pub fn look(self, node: &Node) -> Self {
        match self {
            Self::Records(mut records) => {
                records.retain(|record| {
                    matches!(node.judge(&record.head, &record.public_key), Judgement::News)
                });
                Self::Records(records)
            }
            Self::Pong(pong, _) => {
                let words = pong.message().mail.as_ref().map_or(&[][..], |mail| &mail.words);
                let awaited = awaited(words, node);
                Self::Pong(pong, awaited)
            }
            known @ Self::Known(_) => known,
        }
    }

    /// Third step, outside the lock: checks the owners' signatures.
    pub fn check(self, verifier: &impl Verifier) -> Outcome {
        match self {
            Self::Known(outcome) => *outcome,
            Self::Records(records) => {
                let check = |record| Verified::<Record>::check(record, verifier);
                let verified: Option<Vec<_>> = records.into_iter().map(check).collect();
                let forged = "it sent a record that its owner did not sign";
                verified.map_or_else(|| Outcome::Failed(forged.into()), Outcome::Records)
            }
            Self::Pong(pong, awaited) => Outcome::Pong(*pong, check_words(awaited, verifier)),
        }
    }
}

/// An answer that is being read.
struct Reading<'a> {
    outgoing: &'a Outgoing,
    tag: &'a Tag,
    own: (&'a NodeId, &'a PublicKey),
}

impl Reading<'_> {
    /// What came back, or why it does not count.
    fn read(
        &self,
        answer: HttpAnswer,
        keys: &NetworkKeys,
        verifier: &impl Verifier,
    ) -> Result<Returned, String> {
        let (kind, status) = (self.outgoing.request.kind(), answer.status);
        let is_nothing = status == Status::NoContent.code();
        let envelope = if is_nothing {
            answer.seal.as_deref().and_then(read_seal).unwrap_or_default()
        } else {
            answer.body
        };
        let place = Place::Answer { path: kind.path(), status, request: self.tag };
        let opened = open(keys, place, envelope).map_err(|_| match status {
            503 => "it is about to start, or has too much to do (503)".to_owned(),
            _ => format!(
                "it answered {status} without the seal of this network: it has another network key, or is no dsn node"
            ),
        })?;
        if opened.kind != kind.byte() {
            return Err("its answer is of another kind".into());
        }
        match status {
            200 => self.read_answer(kind, &opened, verifier),
            204 => self.read_nothing(kind, &opened, verifier).map(Returned::known),
            _ => self.read_refusal(status, &opened, verifier).map(Returned::known),
        }
    }

    fn read_nothing(
        &self,
        kind: Kind,
        opened: &Opened,
        verifier: &impl Verifier,
    ) -> Result<Outcome, String> {
        if kind == Kind::Update && opened.payload().is_empty() {
            return Ok(Outcome::Nothing);
        }
        let signature = Signature::try_from(opened.payload()).ok();
        let signed = Signed::Answer { kind: kind.byte(), request: self.tag, payload: &[] };
        let proof = signature
            .zip(self.outgoing.signer)
            .and_then(|(signature, key)| Authentic::check((), key, signed, &signature, verifier));
        match (kind, proof) {
            (Kind::Hello, Some(proof)) => Ok(Outcome::Welcomed(proof)),
            _ => Err("its answer is not signed with the pinned key".into()),
        }
    }

    fn read_answer(
        &self,
        kind: Kind,
        opened: &Opened,
        verifier: &impl Verifier,
    ) -> Result<Returned, String> {
        let decoded = wire::decode_answer(kind, opened.payload())
            .map_err(|reason| format!("its answer can't be read: {reason}"))?;
        let signer = match &decoded.message {
            Answer::Hello(hello) => Some(hello.public_key),
            _ => self.outgoing.signer,
        };
        let what = Signed::Answer { kind: kind.byte(), request: self.tag, payload: decoded.signed };
        let (signature, unsigned) =
            (&decoded.signature, "its answer is not signed with the pinned key");
        let key = || signer.ok_or(unsigned);
        let outcome = match decoded.message {
            Answer::Records(records) => return Ok(Returned::Records(records)),
            Answer::Here(signature) => return self.read_here(signature, verifier),
            Answer::Hello(it) => {
                Authentic::check(it, key()?, what, signature, verifier).map(Outcome::Introduced)
            }
            Answer::Peers(it) => {
                Authentic::check(it, key()?, what, signature, verifier).map(Outcome::Listed)
            }
            Answer::Ping(it) => {
                let pong = Authentic::check(it, key()?, what, signature, verifier);
                let pong = pong.ok_or(unsigned)?;
                let has_words = pong.message().mail.iter().any(|mail| !mail.words.is_empty());
                if has_words {
                    return Ok(Returned::Pong(Box::new(pong), Vec::new()));
                }
                Some(Outcome::Pong(pong, Vec::new()))
            }
            Answer::Data => {
                Authentic::check((), key()?, what, signature, verifier).map(Outcome::Accepted)
            }
        };
        outcome.map(Returned::known).ok_or_else(|| unsigned.into())
    }

    fn read_here(
        &self,
        signature: Signature,
        verifier: &impl Verifier,
    ) -> Result<Returned, String> {
        let asked = match &self.outgoing.request {
            Request::Push(push) => push.self_ask(),
            _ => None,
        };
        let here = asked.zip(self.outgoing.signer).and_then(|(ask, key)| {
            let (node_id, challenge) = (ask.about.clone(), ask.challenge);
            Verified::<Here>::check(Here { node_id, challenge, signature }, &key, verifier)
        });
        let unsigned = || "its answer is not signed with the key that is known".to_owned();
        here.map(|here| Returned::known(Outcome::Here(here))).ok_or_else(unsigned)
    }

    fn read_refusal(
        &self,
        status: u16,
        opened: &Opened,
        verifier: &impl Verifier,
    ) -> Result<Outcome, String> {
        let refusal: Refusal = wire::decode_refusal(opened.payload())
            .map_err(|_| format!("it answered {status} with something that can't be read"))?;
        let (own_id, own_key) = self.own;
        let of_own = refusal.records.iter().find(|record| record.node_id == *own_id);
        let held = of_own.and_then(|record| record.signed_head());
        let held = held.and_then(|held| Verified::<SignedHead>::check(held, own_key, verifier));
        Ok(Outcome::Refused(refusal, held))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use zeroize::Zeroizing;

    use super::super::seal_text;
    use super::*;
    use crate::protocol::crypto::CryptoFault;
    use crate::protocol::crypto::seal;
    use crate::protocol::head::Home;
    use crate::protocol::identity::{Incarnation, Session};
    use crate::protocol::node::{Now, Secret, Settings};
    use crate::protocol::record::Draft;
    use crate::protocol::wire::{
        Ask, Header, Held, Hello, HelloProof, Mail, Ping, ProgramVersion, Push, RefusedRecord, Text,
    };

    /// Signs with a part of its key, and looks whether it is that one; counts how often.
    struct Hand(PublicKey);

    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Signer for Hand {
        fn public_key(&self) -> PublicKey {
            self.0
        }

        fn sign(&self, _: Signed<'_>) -> Result<Signature, CryptoFault> {
            Ok([self.0.0[0]; 64])
        }
    }

    impl Verifier for Counting {
        fn verify(&self, key: &PublicKey, _: Signed<'_>, signature: &Signature) -> bool {
            self.0.set(self.0.get() + 1);
            *signature == [key.0[0]; 64]
        }
    }

    const OURS: PublicKey = PublicKey([1; 65]);
    const PEERS: PublicKey = PublicKey([2; 65]);

    fn id(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn keys() -> NetworkKeys {
        NetworkKeys::new(&[Zeroizing::new([9; 32])]).unwrap()
    }

    fn record(owner: &str, timestamp: u64, key: PublicKey) -> Verified<Record> {
        Verified::sign(Draft::new(id(owner), timestamp, false, Arc::default()), &Hand(key)).unwrap()
    }

    fn outgoing(request: Request) -> Outgoing {
        let address = crate::protocol::address::Address::new("10.0.0.1:8000").unwrap();
        Outgoing { address, signer: Some(PEERS), limit_ms: 1, network_key: 0, request }
    }

    fn hello() -> Outgoing {
        let session = Session([1; 16]);
        let proof = HelloProof { to: id("peer"), session, number: 1, given: session };
        outgoing(Request::Hello(Hello {
            from: id("us"),
            public_key: OURS,
            incarnation: Incarnation([1; 16]),
            program: ProgramVersion::new("test"),
            port: 8000,
            advertise: None,
            proof: Some(proof),
        }))
    }

    fn ping() -> Outgoing {
        let header = Header {
            from: id("us"),
            to: id("peer"),
            incarnation: Incarnation([1; 16]),
            session: Session([1; 16]),
            number: 1,
        };
        outgoing(Request::Ping(Ping { header, view: [7; 16] }))
    }

    /// What an answer with this status and payload comes to.
    fn outcome(outgoing: Outgoing, status: u16, payload: &[u8]) -> Outcome {
        returned(outgoing, status, payload).check(&Counting::default())
    }

    fn returned(mut outgoing: Outgoing, status: u16, payload: &[u8]) -> Returned {
        let kind = outgoing.request.kind();
        let sealed = seal_request(&mut outgoing, &id("us"), &keys(), &Hand(OURS), [1; 16]).unwrap();
        let place = Place::Answer { path: kind.path(), status, request: &sealed.tag };
        let (envelope, _) = seal(&keys(), 0, [2; 16], place, kind.byte(), payload).unwrap();
        let answer = match status {
            204 => HttpAnswer { status, seal: Some(seal_text(&envelope)), body: Vec::new() },
            _ => HttpAnswer { status, seal: None, body: envelope },
        };
        let (own, verifier) = ((&id("us"), &OURS), Counting::default());
        Returned::read(&outgoing, &sealed.tag, answer, &keys(), own, &verifier)
    }

    /// Every member can seal a 204: that the peer took our HELLO is said by its signature.
    #[test]
    fn a_204_to_a_hello_needs_the_signature_of_the_peer() {
        assert!(matches!(outcome(hello(), 204, &[2; 64]), Outcome::Welcomed(_)));
        for payload in [&[][..], &[1; 64], &[2; 63], &[2; 65]] {
            assert!(matches!(outcome(hello(), 204, payload), Outcome::Failed(_)), "{payload:?}");
        }
        assert!(matches!(outcome(ping(), 204, &[2; 64]), Outcome::Failed(_)), "no such answer");
    }

    /// Whoever sits at its address may have the network key, but not that of the peer.
    #[test]
    fn a_peer_says_that_it_is_there_with_its_own_signature() {
        let asks = |about: &str| {
            let ask = Ask { about: id(about), asker: id("us"), challenge: [5; 16] };
            let push = Push::new(id("peer"), Incarnation([1; 16]));
            outgoing(Request::Push(Push { asks: vec![ask], ..push }))
        };
        assert!(matches!(outcome(asks("peer"), 200, &[2; 64]), Outcome::Here(_)));
        assert!(matches!(outcome(asks("peer"), 200, &[1; 64]), Outcome::Failed(_)));
        assert!(matches!(outcome(asks("third"), 200, &[2; 64]), Outcome::Failed(_)), "not asked");
        assert!(matches!(outcome(ping(), 200, &[2; 64]), Outcome::Failed(_)));
    }

    /// Whoever is called could say that anybody is there.
    #[test]
    fn words_in_an_answer_count_where_they_are_waited_for_and_signed() {
        let word =
            |by: u8| Word { about: id("third"), challenge: [5; 16], signature: Some([by; 64]) };
        let read = || {
            let mail = Some(Mail { words: vec![word(3)], ..Mail::default() });
            let pong = Answer::Ping(Pong { view: [0; 16], twin: None, mail });
            let payload = [&wire::encode_answer(&pong).unwrap()[..], &[2; 64]].concat();
            returned(ping(), 200, &payload)
        };
        assert!(!read().is_known());
        let verifier = Counting::default();
        let words = |returned: Returned| match returned.check(&verifier) {
            Outcome::Pong(_, words) => words.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(words(read().look(&node())), 0, "nobody waits for it");
        assert_eq!(verifier.0.get(), 0, "so nothing is looked at");
        let awaited = |by: u8| match read() {
            Returned::Pong(pong, _) => Returned::Pong(pong, vec![(word(by), PublicKey([3; 65]))]),
            _ => panic!("it has mail"),
        };
        assert_eq!(words(awaited(3)), 1);
        assert_eq!(words(awaited(2)), 0, "another one signed it");
    }

    #[test]
    fn a_word_about_oneself_is_signed_as_it_goes_out() {
        let word = |about: &str| Word { about: id(about), challenge: [5; 16], signature: None };
        let push = Push::new(id("peer"), Incarnation([1; 16]));
        let mut request = Request::Push(Push { words: vec![word("us"), word("third")], ..push });
        sign_words(&mut request, &id("us"), &Hand(OURS)).unwrap();
        let Request::Push(push) = request else { panic!("{request:?}") };
        let signed: Vec<_> = push.words.iter().map(|word| word.signature).collect();
        assert_eq!(signed, [Some([1; 64]), None]);
    }

    /// A later version of ours that we did not sign is none: it would be outrun for ever.
    #[test]
    fn a_refusal_proves_a_later_version_of_ours_by_our_signature_alone() {
        let held = |owner: &str, signature: u8| {
            let (timestamp, left, digest) = (7, false, [3; 32]);
            let home = Home::default();
            let held = Held { timestamp, left, digest, home, signature: [signature; 64] };
            let record = RefusedRecord { node_id: id(owner), reason: 20, held: Some(held) };
            let (text, records) = (Text::new("stale"), vec![record]);
            wire::encode_refusal(&Refusal { reason: 20, text, number: 0, records }).unwrap()
        };
        let proved = |payload: &[u8]| match outcome(ping(), 406, payload) {
            Outcome::Refused(_, held) => held.map(|held| held.head.timestamp),
            other => panic!("{other:?}"),
        };
        assert_eq!(proved(&held("us", 1)), Some(7));
        assert_eq!(proved(&held("us", 2)), None);
        assert_eq!(proved(&held("peer", 1)), None);
    }

    fn node() -> Node {
        let settings = Settings {
            discovers: false,
            node_id: id("us"),
            public_key: OURS,
            secret: Secret([1; 32]),
            port: 8000,
            advertise: None,
            seeds: Vec::new(),
            tick_ms: 1_000,
            mesh_max: crate::protocol::node::MESH_MAX,
            relay_heads: crate::protocol::node::RELAY_HEADS,
            program: ProgramVersion::new("test"),
            alone: true,
            is_durable: true,
            allow: None,
        };
        let own = record("us", 5, OURS);
        Node::new(settings, own, Vec::new(), 1, Now { wall_us: 5, mono_ms: 5 })
    }

    /// Who is sent what it has already does not work for that.
    #[test]
    fn records_that_are_no_news_cost_no_signature() {
        let node = node();
        let verifier = Counting::default();
        let old = Returned::Records(vec![record("us", 4, OURS).share()]);
        assert!(matches!(old.look(&node).check(&verifier), Outcome::Records(it) if it.is_empty()));
        assert_eq!(verifier.0.get(), 0);
        let news = Returned::Records(vec![record("x", 4, PEERS).share()]);
        assert!(matches!(news.look(&node).check(&verifier), Outcome::Records(it) if it.len() == 1));
        assert_eq!(verifier.0.get(), 1);
    }
}

//! A request that comes in: read, looked at, checked, applied, answered.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Nonce, StepFault, seal_text};
use crate::protocol::crypto::{
    NetworkKeys, Opened, Place, Plain, Signed, Signer, Tag, Verifier, open,
};
use crate::protocol::identity::{NodeId, PublicKey, SIGNATURE_BYTES};
use crate::protocol::node::{
    Action, CheckedPush, CheckedWord, Incoming, Judgement, Node, Now, RefusedPart, Reply, Verdict,
};
use crate::protocol::record::{Patch, Record, Signature};
use crate::protocol::verdict::{Reason, Status};
use crate::protocol::verified::{Authentic, Verified};
use crate::protocol::wire::{self, Here, Kind, Push, Request, Word};

/// How many bytes a sealed HELLO has, whatever is in it.
const HELLO_BYTES: RangeInclusive<usize> = 200..=1024;

/// What the bytes of a request are.
pub enum Read {
    /// No envelope of this network, or none at this path: the status of an answer without a body.
    Garbage(u16),
    /// The same, and it has the size of a HELLO at the path of a HELLO: most likely that of a node
    /// with another network key.
    Foreign(u16),
    /// An envelope with something in it that is no message.
    Refused(Answering, Verdict),
    /// A message of which nothing is believed yet.
    Arrived(Box<Arrived>),
}

/// What the answer to a request needs of it.
#[derive(Debug, Clone, Copy)]
pub struct Answering {
    kind: Kind,
    tag: Tag,
    /// Which of the network keys opened it.
    key: usize,
}

/// A message of which nothing is believed yet.
pub struct Arrived {
    answering: Answering,
    message: Request,
    opened: Opened,
    /// How much of the payload the signature covers, bytes.
    signed_bytes: usize,
    signature: Signature,
}

/// First step, outside the lock: opens and decodes.
pub fn read(path: &str, body: Vec<u8>, keys: &NetworkKeys) -> Read {
    let Some(kind) = Kind::of_path(path) else { return Read::Garbage(404) };
    let body_bytes = body.len();
    let Ok(opened) = open(keys, Place::Request { path: kind.path() }, body) else {
        let status = Status::BadRequest.code();
        let may_be_hello = kind == Kind::Hello && HELLO_BYTES.contains(&body_bytes);
        return if may_be_hello { Read::Foreign(status) } else { Read::Garbage(status) };
    };
    let answering = Answering { kind, tag: opened.tag, key: opened.key };
    let decoded = if opened.kind == kind.byte() {
        wire::decode_request(kind, opened.payload())
    } else {
        Err(Reason::WrongType)
    };
    match decoded {
        Err(reason) => Read::Refused(answering, Verdict::refuse(reason, reason.to_string())),
        Ok(decoded) => {
            let (signed_bytes, signature) = (decoded.signed.len(), decoded.signature);
            let message = decoded.message;
            Read::Arrived(Box::new(Arrived { answering, message, opened, signed_bytes, signature }))
        }
    }
}

/// What has to be checked of a request.
pub enum Looked {
    /// Nothing: it is refused as it is.
    Refused(Answering, Verdict),
    /// Signatures.
    ToCheck(Box<ToCheck>),
}

/// A request whose signatures are to be checked.
pub struct ToCheck {
    arrived: Arrived,
    what: What,
}

enum What {
    /// The caller's, with this key.
    Caller(PublicKey),
    /// Those of the owners of what would be news.
    Owners {
        records: Vec<Arc<Record>>,
        patches: Vec<(Arc<Patch>, Verified<Record>)>,
        others: Others,
        /// Words that we wait for, each with the key of the node that it is about.
        awaited: Vec<(Word, PublicKey)>,
    },
}

/// What is known of a push without a look at a signature.
struct Others {
    /// Whose versions are held already.
    held: Vec<NodeId>,
    refused: Vec<RefusedPart>,
}

impl Arrived {
    /// A message that no bytes carried: for a simulator of so many nodes that it has no time to
    /// seal and sign what they say, and no memory for a copy of each record in each of them.
    pub fn unsealed(message: Request, tag: Tag) -> Self {
        let kind = message.kind();
        let answering = Answering { kind, tag, key: 0 };
        let opened = Opened::unsealed(kind.byte(), tag);
        Self { answering, message, opened, signed_bytes: 0, signature: [0; SIGNATURE_BYTES] }
    }

    /// Second step, under the lock: which signatures have to be checked, and what can be said
    /// without.
    pub fn look(self, node: &Node) -> Looked {
        let refusal = match (&self.message, self.message.header()) {
            (_, Some(header)) => node.refuse_unsigned(header),
            (Request::Push(push), None) => node.refuse_push(push),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return Looked::Refused(self.answering, refusal);
        }
        let what = match &self.message {
            Request::Hello(hello) => Some(What::Caller(hello.public_key)),
            Request::Push(push) => Some(look_at_records(push, node)),
            other => other.header().and_then(|header| node.key_of(&header.from)).map(What::Caller),
        };
        match what {
            Some(what) => Looked::ToCheck(Box::new(ToCheck { arrived: self, what })),
            None => {
                let refusal = Verdict::refuse(Reason::UnknownSender, "HELLO comes first");
                Looked::Refused(self.answering, refusal)
            }
        }
    }
}

fn look_at_records(push: &Push, node: &Node) -> What {
    let (mut records, mut patches) = (Vec::new(), Vec::new());
    let mut others = Others { held: Vec::new(), refused: Vec::new() };
    for record in &push.records {
        match node.judge(&record.head, &record.public_key) {
            Judgement::News => records.push(Arc::clone(record)),
            judgement => others.note(&record.head.node_id, judgement),
        }
    }
    for patch in &push.patches {
        match (node.judge_patch(patch), node.base_of(patch)) {
            (Judgement::News, Some(base)) => patches.push((Arc::clone(patch), base)),
            (judgement, _) => others.note(&patch.node_id, judgement),
        }
    }
    let awaited = awaited(&push.words, node);
    What::Owners { records, patches, others, awaited }
}

impl Others {
    fn note(&mut self, owner: &NodeId, judgement: Judgement) {
        if matches!(judgement, Judgement::Held) {
            self.held.push(owner.clone());
        }
        self.refused.extend(RefusedPart::of(owner, judgement));
    }
}

/// A request that was checked.
pub struct Checked {
    answering: Answering,
    /// What the rules get, or why they don't.
    incoming: Result<Incoming, Verdict>,
}

impl ToCheck {
    /// Third step, outside the lock: checks signatures, up to the first that is wrong.
    pub fn check(self, verifier: &impl Verifier) -> Checked {
        let answering = self.arrived.answering;
        let checked = match self.what {
            What::Caller(key) => check_caller(self.arrived, key, verifier),
            What::Owners { records, patches, others, awaited } => {
                let words = check_words(awaited, verifier);
                check_owners(self.arrived.message, records, patches, others, words, verifier)
            }
        };
        let refuse = |reason: Reason| Verdict::refuse(reason, reason.to_string());
        Checked { answering, incoming: checked.map_err(refuse) }
    }
}

fn check_caller(
    arrived: Arrived,
    key: PublicKey,
    verifier: &impl Verifier,
) -> Result<Incoming, Reason> {
    let Arrived { message, opened, signed_bytes, signature, .. } = arrived;
    let what = opened.signed(signed_bytes);
    let incoming = match message {
        Request::Hello(it) => {
            Authentic::check(it, key, what, &signature, verifier).map(Incoming::Hello)
        }
        Request::Peers(it) => {
            Authentic::check(it, key, what, &signature, verifier).map(Incoming::Peers)
        }
        Request::Pull(it) => {
            Authentic::check(it, key, what, &signature, verifier).map(Incoming::Pull)
        }
        Request::Ping(it) => {
            Authentic::check(it, key, what, &signature, verifier).map(Incoming::Ping)
        }
        Request::Data(it) => {
            Authentic::check(it, key, what, &signature, verifier).map(Incoming::Data)
        }
        Request::Push(_) => None,
    };
    incoming.ok_or(Reason::BadSignature)
}

/// The words that are waited for, each with the key of the node that it is about.
pub(super) fn awaited(words: &[Word], node: &Node) -> Vec<(Word, PublicKey)> {
    let key_of = |word: &Word| Some((word.clone(), node.awaits(word)?));
    words.iter().filter_map(key_of).collect()
}

/// A word with a wrong signature is none.
pub(super) fn check_words(
    awaited: Vec<(Word, PublicKey)>,
    verifier: &impl Verifier,
) -> Vec<CheckedWord> {
    let check = |(word, key): (Word, PublicKey)| {
        let Word { about: node_id, challenge, signature } = word;
        let Some(signature) = signature else {
            return Some(CheckedWord::InVain(node_id, challenge));
        };
        let here = Here { node_id, challenge, signature };
        Verified::<Here>::check(here, &key, verifier).map(CheckedWord::Here)
    };
    awaited.into_iter().filter_map(check).collect()
}

fn check_owners(
    message: Request,
    records: Vec<Arc<Record>>,
    patches: Vec<(Arc<Patch>, Verified<Record>)>,
    others: Others,
    words: Vec<CheckedWord>,
    verifier: &impl Verifier,
) -> Result<Incoming, Reason> {
    let Request::Push(Push { to, incarnation, relays, asks, suspects, .. }) = message else {
        return Err(Reason::WrongType);
    };
    let mut verified = Vec::with_capacity(records.len() + patches.len());
    for record in records {
        verified.push(Verified::<Record>::check(record, verifier).ok_or(Reason::BadSignature)?);
    }
    for (patch, base) in patches {
        // Only what its owner signed is worth the work of making it whole.
        let patch = Verified::<Patch>::check(patch, &base, verifier).ok_or(Reason::BadSignature)?;
        verified.push(base.patched(&patch)?);
    }
    let Others { held, refused } = others;
    let (records, push) = (verified, CheckedPush::new(to, incarnation));
    let push = CheckedPush { records, held, refused, relays, asks, words, suspects, ..push };
    Ok(Incoming::Push(push))
}

impl Checked {
    /// What the answer needs.
    pub fn answering(&self) -> Answering {
        self.answering
    }

    /// Fourth step, under the lock: the rules.
    pub fn apply(self, node: &mut Node, caller: SocketAddr, now: Now) -> (Reply, Vec<Action>) {
        match self.incoming {
            Ok(incoming) => node.on_request(incoming, caller, now),
            Err(refusal) => (refusal.into(), Vec::new()),
        }
    }
}

/// What goes out over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The envelope of a 204, as text: it has no body.
    pub seal: Option<String>,
    /// The envelope.
    pub body: Vec<u8>,
    /// Who proved with this very request that it is a member and speaks now.
    pub caller: Option<NodeId>,
}

impl Answering {
    /// Which of the network keys sealed the request.
    pub fn network_key(&self) -> usize {
        self.key
    }

    /// Last step, outside the lock: encodes, signs and seals the reply.
    pub fn answer(
        self,
        reply: Reply,
        keys: &NetworkKeys,
        signer: &impl Signer,
        nonce: Nonce,
    ) -> Result<Answer, StepFault> {
        let Self { kind, tag, key } = self;
        let signed = |mut plain: Plain| -> Result<Plain, StepFault> {
            if kind.is_answer_signed() {
                let payload = plain.payload();
                let what = Signed::Answer { kind: kind.byte(), request: &tag, payload };
                plain.push(&signer.sign(what)?);
            }
            Ok(plain)
        };
        let (status, plain) = match reply.verdict {
            Verdict::Answer(answer) => (Status::Ok, signed(wire::plain_answer(kind, &answer)?)?),
            Verdict::Nothing => {
                (Status::NoContent, signed(Plain::new(kind.byte(), SIGNATURE_BYTES))?)
            }
            Verdict::Here(node_id, challenge) => {
                let what = Signed::Here { node_id: &node_id, challenge: &challenge };
                let here = wire::Answer::Here(signer.sign(what)?);
                (Status::Ok, wire::plain_answer(kind, &here)?)
            }
            Verdict::Refuse(reason, refusal) => {
                (reason.status(), wire::plain_refusal(kind, &refusal)?)
            }
        };
        let place = Place::Answer { path: kind.path(), status: status.code(), request: &tag };
        let (envelope, _) = plain.seal(keys, key, nonce, place).ok_or(StepFault::NoKey)?;
        let (seal, body) = match status {
            Status::NoContent => (Some(seal_text(&envelope)), Vec::new()),
            _ => (None, envelope),
        };
        Ok(Answer { status: status.code(), seal, body, caller: reply.caller })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::protocol::entries::{Change, Key};
    use crate::protocol::identity::Incarnation;
    use crate::protocol::record::Draft;

    /// Counts what it is asked. Who is honest signs with zeros.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Verifier for Counting {
        fn verify(&self, _: &PublicKey, _: Signed<'_>, signature: &Signature) -> bool {
            self.0.set(self.0.get() + 1);
            *signature == [0; 64]
        }
    }

    fn record(number: usize, is_forged: bool) -> Arc<Record> {
        let node_id = NodeId::new(&format!("n{number:02}")).unwrap();
        let draft = Draft::new(node_id, 1, false, Arc::default());
        Arc::new(Record::new(draft, PublicKey([4; 65]), [u8::from(is_forged); 64]))
    }

    fn push() -> Request {
        let (to, incarnation) = (NodeId::new("us").unwrap(), Incarnation([1; 16]));
        Request::Push(Push::new(to, incarnation))
    }

    fn check(
        records: Vec<Arc<Record>>,
        patch: Option<(Arc<Patch>, Verified<Record>)>,
    ) -> (Option<Reason>, usize) {
        let others = Others { held: Vec::new(), refused: Vec::new() };
        let verifier = Counting::default();
        let patches = patch.into_iter().collect();
        let checked = check_owners(push(), records, patches, others, Vec::new(), &verifier);
        (checked.err(), verifier.0.get())
    }

    /// One request costs a worker no more signatures than are right, and one.
    #[test]
    fn signatures_are_looked_at_up_to_the_first_that_is_wrong() {
        let records: Vec<_> = (0..64).map(|number| record(number, number == 1)).collect();
        assert_eq!(check(records, None), (Some(Reason::BadSignature), 2));
        let records: Vec<_> = (0..64).map(|number| record(number, false)).collect();
        assert_eq!(check(records, None), (None, 64));
    }

    /// A word that nobody signed is none; one that says that it was in vain needs no signature.
    #[test]
    fn a_word_counts_by_the_signature_of_whom_it_is_about() {
        let word = |signature| {
            let about = NodeId::new("n1").unwrap();
            (Word { about, challenge: [1; 16], signature }, PublicKey([4; 65]))
        };
        let verifier = Counting::default();
        let all = vec![word(Some([0; 64])), word(Some([1; 64])), word(None)];
        let words = check_words(all, &verifier);
        assert!(matches!(words[..], [CheckedWord::Here(_), CheckedWord::InVain(..)]), "{words:?}");
        assert_eq!(verifier.0.get(), 2);
    }

    /// What a patch comes to is worked out for its owner alone: for a liar that would be megabytes.
    #[test]
    fn a_patch_is_made_whole_behind_its_signature() {
        let base = Verified::<Record>::check(record(1, false), &Counting::default()).unwrap();
        let patch = |is_forged: bool| {
            let change = Change::from([(Key::new("k").unwrap(), None)]);
            let mut patch = Patch::new((base.fingerprint, &base.head.home), &base, change);
            (patch.digest, patch.signature) = ([9; 32], [u8::from(is_forged); 64]);
            Some((Arc::new(patch), base.clone()))
        };
        assert_eq!(check(Vec::new(), patch(true)), (Some(Reason::BadSignature), 1));
        // Whoever looks inside finds that it comes to something else.
        assert_eq!(check(Vec::new(), patch(false)), (Some(Reason::Malformed), 1));
    }
}

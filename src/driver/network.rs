//! Requests in both directions: the steps, with the lock taken for those that need it.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Driver;
use crate::client;
use crate::metrics::Tried;
use crate::protocol::crypto::{Ecdsa, Signer};
use crate::protocol::node::{Job, Outcome, Outgoing};
use crate::protocol::wire::Kind;
use crate::server::{self, Caller};
use crate::steps::{Answer, HttpAnswer, Looked, Read, Returned, read, seal_request};

impl Driver {
    /// Takes the bytes of a request and gives the answer: the only way in from the network.
    pub fn on_http(&self, request: server::Request) -> server::Response {
        let (kind, came) = (Kind::of_path(&request.path), request.body.len());
        let Answer { status, seal, body, caller } = match self.broken() {
            Some(_) => bare(500),
            None => self.respond(request),
        };
        self.handled.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = kind {
            let went = body.len() + seal.as_ref().map_or(0, String::len);
            self.counts.note_received(kind, status, (came, went));
        }
        let caller = caller.map(|node_id| Caller(self.callers.hash_one(&node_id)));
        server::Response { status, seal, body, caller, ..server::Response::default() }
    }

    fn respond(&self, request: server::Request) -> Answer {
        let server::Request { path, peer, body, .. } = request;
        let keys = self.keys();
        let (answering, reply) = match read(&path, body, &keys) {
            Read::Garbage(status) => {
                log::debug!("{peer} sent bytes to {path} that are not a message");
                return bare(status);
            }
            Read::Foreign(status) => {
                log::debug!("{peer} called with another network key");
                self.decide(|node, now| (node.note_foreign(peer, now), Vec::new()));
                return bare(status);
            }
            Read::Refused(answering, refusal) => (answering, refusal.into()),
            Read::Arrived(arrived) => {
                let looked = arrived.look(&self.lock().node);
                match looked {
                    Looked::Refused(answering, refusal) => (answering, refusal.into()),
                    Looked::ToCheck(to_check) => {
                        let checked = to_check.check(&Ecdsa);
                        let answering = checked.answering();
                        let reply = self.decide(|node, now| {
                            let (reply, actions) = checked.apply(node, peer, now);
                            let name = keys.name(answering.network_key());
                            if let Some((caller, name)) = reply.caller.as_ref().zip(name) {
                                node.note_network_key(caller, name);
                            }
                            (reply, actions)
                        });
                        (answering, reply)
                    }
                }
            }
        };
        let Some(nonce) = self.nonce() else {
            log::error!("the system gave no randomness for an answer");
            return bare(500);
        };
        answering.answer(reply, &keys, &self.private_key, nonce).unwrap_or_else(|fault| {
            log::error!("the answer to {path} could not be made: {fault}");
            bare(500)
        })
    }

    /// Makes one try of what is due to the job's target, and takes what comes back.
    pub fn run_send(&self, job: &Job) {
        if self.broken().is_some() {
            return;
        }
        let now = self.now();
        let Some(mut outgoing) = self.lock().node.begin(job, now) else { return };
        let began = Instant::now();
        let outcome = self.try_once(&mut outgoing).unwrap_or_else(|fault| {
            log::error!("a request to {} could not be made: {fault}", outgoing.address);
            Outcome::Failed(fault)
        });
        let kind = outgoing.request.kind();
        match &outcome {
            Outcome::Failed(why) | Outcome::NotOpened(why) => {
                log::debug!("{kind:?} to {}: {why}", outgoing.address);
            }
            Outcome::Refused(refusal, _) => {
                let text = refusal.text.as_str();
                log::debug!("{kind:?} to {} was refused: {text}", outgoing.address);
            }
            _ => {}
        }
        if matches!(outcome, Outcome::Failed(_) | Outcome::NotOpened(_)) {
            self.counts.note_failure(kind);
        }
        let elapsed_us = us_since(began);
        let spread = self.decide(|node, now| {
            let actions = node.on_answer(job, outcome, elapsed_us, now);
            (node.take_spread(now), actions)
        });
        spread.into_iter().for_each(|ms| self.counts.note_spread(ms));
    }

    fn try_once(&self, outgoing: &mut Outgoing) -> Result<Outcome, String> {
        let keys = self.keys();
        let nonce = self.nonce().ok_or("the system gave no randomness")?;
        let sealed = seal_request(outgoing, &self.node_id, &keys, &self.private_key, nonce)
            .map_err(|fault| fault.to_string())?;
        let address = outgoing.address.as_str();
        let limit = Duration::from_millis(outgoing.limit_ms);
        let began = Instant::now();
        let answer = self.client.post(address, sealed.path, &sealed.body, limit);
        let came = |answer: &client::Answer| {
            answer.body.len() + answer.seal.as_ref().map_or(0, String::len)
        };
        let tried = Tried {
            status: answer.as_ref().ok().map(|answer| answer.status),
            bytes: (sealed.body.len(), answer.as_ref().map_or(0, came)),
            elapsed_us: us_since(began),
        };
        self.counts.note_sent(outgoing.request.kind(), tried);
        let answer = match answer {
            Ok(client::Answer { status, seal, body }) => HttpAnswer { status, seal, body },
            Err(fault) => return Ok(Outcome::Failed(fault.to_string())),
        };
        let own = (&self.node_id, &self.private_key.public_key());
        let returned = Returned::read(outgoing, &sealed.tag, answer, &keys, own, &Ecdsa);
        let returned =
            if returned.is_known() { returned } else { returned.look(&self.lock().node) };
        Ok(returned.check(&Ecdsa))
    }
}

fn us_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// An answer without a seal.
fn bare(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

//! Requests that go out: made under the lock, signed, sealed and sent outside it.

use std::time::Instant;

use super::{Driver, DriverFault};
use crate::client;
use crate::protocol::crypto::{NetworkKeys, Opened, Place, Signed, Tag, open, seal, verify};
use crate::protocol::identity::unhex;
use crate::protocol::node::{Outcome, Outgoing, Target};
use crate::protocol::state::Signature;
use crate::protocol::verdict::Status;
use crate::protocol::wire::{self, Answer, Kind, Refusal, Request};

/// What a 400 without a seal most likely means.
const NOT_OPENED: &str =
    "it answered 400 without the seal of this network: it has another network key";

impl Driver {
    /// Makes one try of what is due to the target, and takes what comes back.
    pub fn run_send(&self, target: &Target) {
        let now = self.now();
        let Some(outgoing) = self.lock().node.begin(target, now) else {
            return;
        };
        let began = Instant::now();
        let outcome = self.try_once(&outgoing).unwrap_or_else(|fault| {
            log::error!("a request to {} could not be made: {fault}", outgoing.address);
            Outcome::Failed(fault.to_string())
        });
        if let Outcome::Failed(why) = &outcome {
            log::debug!("{:?} to {}: {why}", outgoing.request.kind(), outgoing.address);
        }
        let elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.decide(|node, now| {
            ((), node.on_answer(target, outgoing.flight, outcome, elapsed_us, now))
        });
    }

    fn try_once(&self, outgoing: &Outgoing) -> Result<Outcome, DriverFault> {
        let kind = outgoing.request.kind();
        if let Request::Update(update) = &outgoing.request {
            self.sign_records(&update.records)?;
            for patch in &update.patches {
                self.sign_head(&patch.head, &patch.signature)?;
            }
        }
        let mut payload = wire::encode_request(&outgoing.request)?;
        if kind.is_signed() {
            let signed = Signed::Request { kind: kind.byte(), payload: &payload };
            let signature = self.private_key.sign(signed)?;
            payload.extend_from_slice(&signature);
        }
        let place = Place::Request { path: kind.path() };
        let keys = self.keys();
        let key = outgoing.network_key % keys.count();
        let (body, tag) = seal(&keys, key, self.nonce()?, place, kind.byte(), &payload)
            .ok_or(DriverFault::NoKey)?;
        let address = outgoing.address.as_str();
        Ok(match self.client.post(address, kind.path(), &body, client::TRY_TIMEOUT) {
            Ok(answer) if answer.is_unsealed_refusal() => Outcome::NotOpened(NOT_OPENED.into()),
            Ok(answer) => {
                self.read_answer(outgoing, &keys, &tag, answer).unwrap_or_else(Outcome::Failed)
            }
            Err(fault) => Outcome::Failed(fault.to_string()),
        })
    }

    /// What came back, or why it does not count.
    fn read_answer(
        &self,
        outgoing: &Outgoing,
        keys: &NetworkKeys,
        tag: &Tag,
        answer: client::Answer,
    ) -> Result<Outcome, String> {
        let kind = outgoing.request.kind();
        let status = answer.status;
        let envelope = if status == Status::NoContent.code() {
            answer.seal.as_deref().and_then(unhex).unwrap_or_default()
        } else {
            answer.body
        };
        let place = Place::Answer { path: kind.path(), status, request: tag };
        let opened = open(keys, place, envelope).map_err(|_| {
            format!("it answered {status} without the seal of this network: it has another network key, or is no dsn node")
        })?;
        if opened.kind != kind.byte() {
            return Err("its answer is of another kind".into());
        }
        match status {
            200 => self.read_message(outgoing, kind, tag, &opened),
            204 => {
                let signer = match &outgoing.request {
                    Request::Hello(hello) => {
                        let to = hello.to.as_ref().map(|(node_id, _)| node_id);
                        to.and_then(|node_id| self.lock().node.direct_key_of(node_id))
                    }
                    _ => None,
                };
                let signed = Signed::Answer { kind: kind.byte(), request: tag, payload: &[] };
                let signature = Signature::try_from(opened.payload());
                let proved = match (kind, signer, signature) {
                    (Kind::Update, ..) => opened.payload().is_empty(),
                    (Kind::Hello, Some(key), Ok(signature)) => verify(&key, signed, &signature),
                    _ => false,
                };
                if proved { Ok(Outcome::Nothing) } else { Err("its answer is not signed".into()) }
            }
            _ => self.read_refusal(status, &opened),
        }
    }

    fn read_message(
        &self,
        outgoing: &Outgoing,
        kind: Kind,
        tag: &Tag,
        opened: &Opened,
    ) -> Result<Outcome, String> {
        let decoded = wire::decode_answer(kind, opened.payload())
            .map_err(|reason| format!("its answer can't be read: {reason}"))?;
        let signer = match &decoded.message {
            Answer::Hello(hello) => Some(hello.public_key),
            Answer::Update(records) => {
                self.check_records(records)
                    .map_err(|_| "it sent a record that its owner did not sign".to_owned())?;
                None
            }
            _ => outgoing.signer,
        };
        let signed = Signed::Answer { kind: kind.byte(), request: tag, payload: decoded.signed };
        let proved =
            !kind.is_signed() || signer.is_some_and(|key| verify(&key, signed, &decoded.signature));
        if proved {
            Ok(Outcome::Answered(decoded.message))
        } else {
            Err("its answer is not signed with the pinned key".into())
        }
    }

    fn read_refusal(&self, status: u16, opened: &Opened) -> Result<Outcome, String> {
        let refusal: Refusal = wire::decode_refusal(opened.payload())
            .map_err(|_| format!("it answered {status} with something that can't be read"))?;
        let own_key = self.private_key.public_key();
        let held_is_proved = refusal
            .held
            .as_ref()
            .is_some_and(|held| verify(&own_key, Signed::Record(&held.head()), &held.signature));
        Ok(Outcome::Refused { refusal, held_is_proved })
    }
}

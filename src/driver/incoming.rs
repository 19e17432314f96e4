//! Requests that come in: opened, decoded and verified outside the lock.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::{Driver, DriverFault};
use crate::protocol::crypto::{NetworkKeys, Opened, Place, Signed, Tag, open, seal, verify};
use crate::protocol::identity::hex;
use crate::protocol::node::{Authentic, Reply};
use crate::protocol::verdict::{Reason, Status};
use crate::protocol::wire::{self, Answer, Kind, Request};
use crate::server;

impl Driver {
    /// Takes the bytes of a request and gives the answer: the only way in from the network.
    pub fn on_http(&self, request: server::Request) -> server::Response {
        let response = self.respond(request);
        self.handled.fetch_add(1, Ordering::Relaxed);
        response
    }

    fn respond(&self, request: server::Request) -> server::Response {
        let Some(kind) = Kind::of_path(&request.path) else {
            return server::Response { status: 404, ..server::Response::default() };
        };
        let place = Place::Request { path: kind.path() };
        let keys = self.keys();
        let Ok(opened) = open(&keys, place, request.body) else {
            log::debug!("{} sent bytes to {} that are not a message", request.peer, request.path);
            return server::Response {
                status: Status::BadRequest.code(),
                ..server::Response::default()
            };
        };
        let reply = match self.judge(kind, &opened, request.peer) {
            Ok(reply) => reply,
            Err(reason) => Reply::refuse(reason, reason.to_string()),
        };
        self.answer(kind, &keys, &opened, reply).unwrap_or_else(|fault| {
            log::error!("the answer to {} could not be made: {fault}", request.path);
            server::Response {
                status: Status::Internal.code(),
                trusted: true,
                ..server::Response::default()
            }
        })
    }

    fn judge(&self, kind: Kind, opened: &Opened, caller: SocketAddr) -> Result<Reply, Reason> {
        if opened.kind != kind.byte() {
            return Err(Reason::WrongType);
        }
        let mut decoded = wire::decode_request(kind, opened.payload())?;
        let signed = Signed::Request { kind: kind.byte(), payload: decoded.signed };
        let key = match &mut decoded.message {
            Request::Hello(hello) => Some(hello.public_key),
            Request::Peers(peers) => self.lock().node.direct_key_of(&peers.header.from),
            Request::Ping(ping) => self.lock().node.direct_key_of(&ping.header.from),
            Request::Data(data) => self.lock().node.direct_key_of(&data.header.from),
            Request::Update(update) => {
                update.make_whole(|patch| self.lock().node.base_of(patch))?;
                self.check_records(&update.records)?;
                None
            }
        };
        if let Some(key) = key
            && !verify(&key, signed, &decoded.signature)
        {
            return Err(Reason::BadSignature);
        }
        let request = Authentic::new(decoded.message, key);
        Ok(self.decide(|node, now| node.on_request(request, caller, now)))
    }

    fn answer(
        &self,
        kind: Kind,
        keys: &NetworkKeys,
        opened: &Opened,
        reply: Reply,
    ) -> Result<server::Response, DriverFault> {
        let (status, payload) = match reply {
            Reply::Answer(answer) => {
                if let Answer::Update(records) = &*answer {
                    self.sign_records(records)?;
                }
                let payload = wire::encode_answer(&answer)?;
                (Status::Ok, self.sign_answer(kind, &opened.tag, payload)?)
            }
            Reply::Nothing => (Status::NoContent, self.sign_answer(kind, &opened.tag, Vec::new())?),
            Reply::Refuse(reason, refusal) => (reason.status(), wire::encode_refusal(&refusal)?),
        };
        let place =
            Place::Answer { path: kind.path(), status: status.code(), request: &opened.tag };
        let nonce = self.nonce()?;
        let (envelope, _) = seal(keys, opened.key, nonce, place, kind.byte(), &payload)
            .ok_or(DriverFault::NoKey)?;
        let mut response = server::Response {
            status: status.code(),
            trusted: true,
            ..server::Response::default()
        };
        if status == Status::NoContent {
            // A 204 has no body, so its seal travels in a header.
            response.seal = Some(hex(&envelope));
        } else {
            response.body = envelope;
        }
        Ok(response)
    }

    fn sign_answer(
        &self,
        kind: Kind,
        request: &Tag,
        mut payload: Vec<u8>,
    ) -> Result<Vec<u8>, DriverFault> {
        if kind.is_signed() {
            let signed = Signed::Answer { kind: kind.byte(), request, payload: &payload };
            let signature = self.private_key.sign(signed)?;
            payload.extend_from_slice(&signature);
        }
        Ok(payload)
    }
}

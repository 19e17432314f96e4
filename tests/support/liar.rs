//! A member that others call: it answers as it likes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Place, Signed, Signer, TAG_BYTES, Tag, open, seal};
use dsn::protocol::view::BucketSet;
use dsn::protocol::wire::{
    self, Answer, HelloAnswer, Kind, PeersAnswer, Pong, ProgramVersion, Request,
};

use super::{GIVEN, Member};

/// A member that is called by others: it answers as it likes.
pub struct Liar {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub type Lie = dyn Fn(&Member, &Request, &Tag) -> Option<(u16, Answer)> + Send;

/// What a forger does to the bytes of its answers.
pub type Forge = dyn Fn(Vec<u8>) -> Vec<u8> + Send;

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some((path, body))
}

impl Liar {
    /// Answers each HELLO rightly, and all else as `lie` says.
    pub fn start(member: Member, lie: Box<Lie>, forge: Box<Forge>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::park_timeout(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                if let Some((path, body)) = read_request(&mut stream) {
                    let answer = Self::answer(&member, &lie, &forge, &path, body);
                    // The node may have gone.
                    let _ = stream.write_all(&answer);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn answer(member: &Member, lie: &Lie, forge: &Forge, path: &str, body: Vec<u8>) -> Vec<u8> {
        let empty = b"HTTP/1.1 400 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
        let tag: Tag = body[body.len() - TAG_BYTES..].try_into().unwrap();
        let Ok(opened) = open(&member.network, Place::Request { path }, body) else {
            return empty;
        };
        let kind = Kind::of_path(path).unwrap();
        let request = wire::decode_request(kind, opened.payload()).unwrap().message;
        let Some((status, answer)) = lie(member, &request, &tag) else { return empty };
        let mut payload =
            if status == 204 { Vec::new() } else { wire::encode_answer(&answer).unwrap() };
        if kind.is_answer_signed() {
            let signed = Signed::Answer { kind: kind.byte(), request: &tag, payload: &payload };
            let signature = member.key.sign(signed).unwrap();
            payload.extend_from_slice(&signature);
        }
        let place = Place::Answer { path, status, request: &tag };
        let nonce = tag[..16].try_into().unwrap();
        let (envelope, _) = seal(&member.network, 0, nonce, place, kind.byte(), &payload).unwrap();
        let envelope = forge(envelope);
        let close = "Connection: close\r\n\r\n";
        if status == 204 {
            let seal = dsn::steps::seal_text(&envelope);
            return format!("HTTP/1.1 204 x\r\nDsn-Seal: {seal}\r\n{close}").into_bytes();
        }
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{close}", envelope.len());
        [head.into_bytes(), envelope].concat()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The right answer to everything.
pub fn honest(member: &Member, request: &Request) -> Option<(u16, Answer)> {
    match request {
        Request::Hello(hello) if hello.proof.is_some() => Some((204, Answer::Data)),
        Request::Hello(_) => {
            let answer = HelloAnswer {
                version: 1,
                node_id: member.node_id.clone(),
                public_key: member.key.public_key(),
                incarnation: member.incarnation,
                session: GIVEN,
                program: ProgramVersion::new("liar"),
                advertise: None,
                seen: Address::new("127.0.0.1:5").unwrap(),
            };
            Some((200, Answer::Hello(answer)))
        }
        // A view of its own: so it is asked for its list.
        Request::Ping(_) => {
            Some((200, Answer::Ping(Pong { view: [0x55; 16], twin: None, mail: None })))
        }
        Request::Push(_) | Request::Pull(_) => Some((204, Answer::Data)),
        Request::Peers(_) => {
            let answer = PeersAnswer { buckets: BucketSet(0), nodes: Vec::new() };
            Some((200, Answer::Peers(answer)))
        }
        Request::Data(_) => Some((200, Answer::Data)),
    }
}

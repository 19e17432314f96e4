//! The limit of the parts: a bare tiny_http server and bare callers that sign and verify, and do
//! nothing else. The server is a process of its own, as a node is.

use std::io::{BufRead, BufReader, Cursor};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dsn::client::Client;
use dsn::protocol::identity::{hex, unhex};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};

use super::hammer::Call;
use super::stats::cpu_seconds;

pub(crate) const SIGNATURE: usize = 64;
/// What a record's signature covers, bytes: the head of a record of a node with a name of 8.
const HEAD: usize = 62;
/// As long as the request of a small change.
const CHANGE_BYTES: usize = 330;
/// As many as the node has.
const WORKERS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A key pair that can be handed over as text.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Key {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { pair, random }
    }

    fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(&self.random, bytes).unwrap().as_ref().to_vec()
    }
}

fn verify(public: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).verify(bytes, signature).is_ok()
}

/// CPU of this thread so far, s.
fn own_thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// The server's process: ended when dropped.
pub(crate) struct Floor {
    child: Child,
    address: String,
    public: Vec<u8>,
    key: Key,
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Floor {
    pub(crate) fn start() -> Self {
        let key = Key::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["role-floor", &hex(&key.public())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace();
        let address = words.next().expect("the floor's server says where it is").to_owned();
        let public = unhex(words.next().unwrap()).unwrap();
        Self { child, address, public, key }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Posts bodies that were made before, of these lengths; one signature is verified for each.
    pub(crate) fn verify_calls(&self, lengths: &[Vec<usize>]) -> Vec<Call> {
        let client = |lengths: &Vec<usize>| {
            let body = |length: &usize| {
                let mut body = vec![b'x'; *length];
                let signature = self.key.sign(&body[..HEAD]);
                body[HEAD..HEAD + SIGNATURE].copy_from_slice(&signature);
                body
            };
            let bodies: Vec<_> = lengths.iter().map(body).collect();
            self.verify_call(bodies)
        };
        lengths.iter().map(client).collect()
    }

    /// CPU of a request, us, of the server and of a bare ureq caller with all its defaults and no
    /// limit of time, one at a time.
    pub(crate) fn pair_us(&self, calls: usize) -> f64 {
        let mut body = vec![b'x'; CHANGE_BYTES];
        let signature = self.key.sign(&body[..HEAD]);
        body[HEAD..HEAD + SIGNATURE].copy_from_slice(&signature);
        let agent = ureq::Agent::new_with_defaults();
        let url = format!("http://{}/verify", self.address);
        let call = || assert_eq!(agent.post(&url).send(&body[..]).unwrap().status(), 204);
        call();
        let cpu = || cpu_seconds(self.pid()) + own_thread_seconds();
        let before = cpu();
        (0..calls).for_each(|_| call());
        (cpu() - before) * 1e6 / calls as f64
    }

    fn verify_call(&self, bodies: Vec<Vec<u8>>) -> Call {
        let (client, address) = (Client::new(1 << 20, 1), self.address.clone());
        let mut bodies = bodies.into_iter();
        Box::new(move || {
            let Some(body) = bodies.next() else { return false };
            let answer = client.post(&address, "/verify", &body, TIMEOUT).unwrap();
            assert!(answer.status == 204 && answer.seal.is_some(), "the floor said no");
            true
        })
    }

    /// Signs and posts requests of this length; verifies signed answers of the other.
    pub(crate) fn echo_call(&self, request: usize, answer: usize) -> Call {
        let (client, address) = (Client::new(2 << 20, 1), self.address.clone());
        let (key, server) = (Key::new(), self.public.clone());
        let public = key.public();
        let mut number = 0_u64;
        Box::new(move || {
            number += 1;
            let mut body = vec![b'x'; request - SIGNATURE];
            body[..4].copy_from_slice(&u32::try_from(answer).unwrap().to_le_bytes());
            body[4..69].copy_from_slice(&public);
            body[69..77].copy_from_slice(&number.to_le_bytes());
            let signature = key.sign(&body);
            body.extend_from_slice(&signature);
            let heard = client.post(&address, "/echo", &body, TIMEOUT).unwrap().body;
            assert_eq!(heard.len(), answer, "the floor answers as long as a node does");
            let (bytes, signature) = heard.split_at(answer - SIGNATURE);
            assert!(verify(&server, bytes, signature), "the floor signs");
            true
        })
    }
}

/// What runs in the process of the floor's server.
pub(crate) fn serve(public: &str) {
    let (public, key) = (unhex(public).unwrap(), Key::new());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Else an answer in two writes waits for the caller: the floor is to be as good as it can.
    socket.set_tcp_nodelay(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(128).unwrap();
    let server = tiny_http::Server::from_listener(TcpListener::from(socket), None).unwrap();
    println!("{} {}", server.server_addr(), hex(&key.public()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    answer(request, &public, &key);
                }
            });
        }
    });
}

fn answer(mut request: tiny_http::Request, public: &[u8], key: &Key) {
    let mut body = Vec::with_capacity(request.body_length().unwrap_or(0));
    request.as_reader().read_to_end(&mut body).unwrap();
    if request.url() == "/verify" {
        let proved = verify(public, &body[..HEAD], &body[HEAD..HEAD + SIGNATURE]);
        let status = if proved { 204 } else { 400 };
        // As long as the seal of an empty answer.
        let seal = tiny_http::Header::from_bytes("Dsn-Seal", "0".repeat(66)).unwrap();
        let answer = tiny_http::Response::empty(status).with_header(seal);
        // The caller may have ended.
        let _ = request.respond(answer);
        return;
    }
    let (bytes, signature) = body.split_at(body.len() - SIGNATURE);
    assert!(verify(&bytes[4..69], bytes, signature), "the caller signs");
    let length = usize::try_from(u32::from_le_bytes(bytes[..4].try_into().unwrap())).unwrap();
    let mut answer = vec![b'y'; length - SIGNATURE];
    answer[..8].copy_from_slice(&bytes[69..77]);
    let signature = key.sign(&answer);
    answer.extend_from_slice(&signature);
    let answer = tiny_http::Response::new(
        tiny_http::StatusCode(200),
        Vec::new(),
        Cursor::new(answer),
        Some(length),
        None,
    )
    .with_chunked_threshold(usize::MAX);
    let _ = request.respond(answer);
}

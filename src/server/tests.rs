//! The port over real sockets: what a handler that fails, and a tiny_http that dies, come to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backend::Service;
use super::gate::Gate;
use super::{Handler, Health, Response, open_port};

static PATHS: [&str; 2] = ["/echo", "/panic"];
const BODY_BYTES_MAX: usize = 300_000;

struct Port {
    address: SocketAddr,
    health: Arc<Mutex<Health>>,
    /// The gate's own connections to tiny_http.
    lines: Vec<UnixStream>,
    stop: Option<UnixStream>,
    gate: Option<JoinHandle<()>>,
}

fn start() -> Port {
    let handler: Handler = Arc::new(|request| {
        assert!(request.path == "/echo", "the other path panics");
        Response { status: 200, seal: None, body: request.body, trusted: true }
    });
    let listener = open_port("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let health = Arc::<Mutex<Health>>::default();
    let service = Service { handler, paths: &PATHS };
    let gate = Gate::new(listener, service, BODY_BYTES_MAX, Arc::clone(&health), stopped).unwrap();
    let lines = gate.lines().iter().map(|line| line.stream().try_clone().unwrap()).collect();
    let gate = Some(std::thread::spawn(move || gate.run()));
    Port { address, health, lines, stop: Some(stop), gate }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop = None;
        self.gate.take().unwrap().join().unwrap();
    }
}

impl Port {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Posts over a connection of its own; gives status and body.
    fn post(&self, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
    }
}

#[test]
fn a_handler_that_panics_is_500_and_the_next_request_is_served() {
    let port = start();
    for _ in 0..10 {
        assert_eq!(port.post("/panic", b"x"), (500, Vec::new()));
    }
    assert_eq!(port.post("/echo", b"x"), (200, b"x".to_vec()));
    assert_eq!(port.post("/none", b"x").0, 404);
}

#[test]
fn bodies_of_all_lengths_come_through_whole() {
    let port = start();
    for length in [0, 1, 1024, 1025, 16 * 1024, 16 * 1024 + 1, 100_000, BODY_BYTES_MAX] {
        let body: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        assert_eq!(port.post("/echo", &body), (200, body), "{length} bytes");
    }
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let port = start();
    let mut stream = port.connect();
    let one = |n: usize| format!("POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\n{n:03}");
    let all: String = (0..100).map(one).collect();
    stream.write_all(all.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(bodies, (0..100).map(|n| format!("{n:03}")).collect::<Vec<_>>());
}

#[test]
fn tiny_http_that_dies_is_started_again_and_that_is_told() {
    let port = start();
    assert_eq!(port.post("/echo", b"before").0, 200);
    for line in &port.lines {
        line.shutdown(Shutdown::Both).unwrap();
    }
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while port.post("/echo", b"after").0 != 200 {
        assert!(std::time::Instant::now() < until);
    }
    let health = port.health.lock().unwrap().clone();
    assert!(health.restarted >= 1, "{health:?}");
    assert!(health.degraded.unwrap().contains("started again"));
}

#[test]
fn places_for_long_bodies_are_given_back() {
    let port = start();
    let body = vec![7; 200_000];
    let head = format!("POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    for _ in 0..3 {
        // More of them than there are places for strangers, and none of them ends.
        let stalled: Vec<TcpStream> = (0..8)
            .map(|_| {
                let mut stream = port.connect();
                stream.write_all(head.as_bytes()).unwrap();
                stream
            })
            .collect();
        drop(stalled);
        assert_eq!(port.post("/echo", &body).0, 200);
    }
}

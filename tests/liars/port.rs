//! Plain HTTP of the harness: a port that answers as it is told and counts what comes, and
//! connections that post bytes. It knows nothing of the protocol.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::wire::Envelope;
use crate::support::PATIENCE;

/// A thread that answers signs and copies; a large body is on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Longest body that is read, bytes: more than a node sends.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What a request gets.
pub enum Reply {
    /// These bytes, over a connection that is kept.
    Answer(Vec<u8>),
    /// These bytes, and the end of the connection.
    Last(Vec<u8>),
    /// Nothing, until the other side gives up.
    Never,
}

type Answerer = dyn Fn(&str, Vec<u8>) -> Reply + Send + Sync;

/// What came to a port so far.
#[derive(Debug, Default)]
pub struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    /// HTTP bytes in both directions.
    bytes: AtomicU64,
}

impl Counts {
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests, and bytes in both directions.
    pub fn traffic(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// A port of the harness; closed when it is dropped.
pub struct Port {
    listener: TcpListener,
    pub address: String,
    pub counts: Arc<Counts>,
}

impl Drop for Port {
    fn drop(&mut self) {
        // Wakes the thread that accepts; those of connections end with the nodes.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap_or_default();
    }
}

impl Port {
    /// A port that takes connections when [`Port::serve`] is called.
    pub fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address, counts: Arc::default() }
    }

    /// Answers all requests from now on, each connection in a thread of its own.
    pub fn serve(&self, answer: impl Fn(&str, Vec<u8>) -> Reply + Send + Sync + 'static) {
        let (listener, counts) = (self.listener.try_clone().unwrap(), Arc::clone(&self.counts));
        let answer: Arc<Answerer> = Arc::new(answer);
        spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let (answer, counts) = (Arc::clone(&answer), Arc::clone(&counts));
                spawn(move || talk(&stream, &answer, &counts));
            }
        });
    }

    /// A port that takes connections and requests, and never answers.
    pub fn mute() -> Self {
        let port = Self::bind();
        port.serve(|_, _| Reply::Never);
        port
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap();
}

fn talk(stream: &TcpStream, answer: &Arc<Answerer>, counts: &Counts) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = read_message(&mut reader) {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let read = head.len() + body.len();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let reply = answer(&path, body);
        let (Reply::Answer(bytes) | Reply::Last(bytes)) = &reply else {
            // Until the other side gives up.
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
            return;
        };
        counts.bytes.fetch_add((read + bytes.len()) as u64, Ordering::Relaxed);
        if (&*stream).write_all(bytes).is_err() || matches!(reply, Reply::Last(_)) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The head of a request or an answer, and its body; nothing where none comes any more.
fn read_message(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let length: usize = length.unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return None;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Posts over a connection of its own; gives all that comes back, if anything does.
pub fn exchange(to: SocketAddr, envelope: &Envelope) -> Option<Vec<u8>> {
    let Envelope { path, body } = envelope;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    // Whoever refuses a body before it has read it resets the connection behind its answer.
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then_some(answer)
}

/// An answer: its status, and how long it was with its head, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub bytes: usize,
}

/// A connection that is kept, from an address of loopback that says who it is.
pub struct Kept(TcpStream);

impl Kept {
    /// Connects from 127.0.`network`.1.
    pub fn connect(network: u8, to: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, network, 1), 0)).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Posts and reads the answer; nothing where the connection is over.
    pub fn post(&mut self, envelope: &Envelope) -> Option<Answered> {
        let Envelope { path, body } = envelope;
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        self.0.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let (head, body) = read_message(&mut BufReader::new(&self.0))?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answered { status, bytes: head.len() + body.len() })
    }

    /// Whether the other side has not ended it.
    pub fn is_open(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let read = self.0.read(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        read.is_err_and(|why| why.kind() == ErrorKind::WouldBlock)
    }
}

#[test]
fn what_is_counted_is_what_was_said() {
    use crate::support::eventually;
    let port = Port::bind();
    let answer = b"HTTP/1.1 200 x\r\nContent-Length: 3\r\n\r\nyes";
    port.serve(|path, _| match path {
        "/last" => Reply::Last(answer.to_vec()),
        _ => Reply::Answer(answer.to_vec()),
    });
    let to: SocketAddr = port.address.parse().unwrap();
    let said = Envelope { path: "/one", body: vec![7; 1000] };
    let mut kept = Kept::connect(9, to).unwrap();
    for _ in 0..5 {
        let answered = kept.post(&said).expect("an answer");
        assert_eq!(answered, Answered { status: 200, bytes: answer.len() });
    }
    let head = "POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    let bytes = 5 * (head.len() + 1000 + answer.len()) as u64;
    eventually("all is counted", || port.counts.traffic() == (5, bytes));
    assert_eq!(port.counts.connections(), 1);
    assert!(kept.is_open());
    let last = Envelope { path: "/last", body: Vec::new() };
    assert!(kept.post(&last).is_some());
    eventually("it is closed", || !kept.is_open());
    assert!(kept.post(&said).is_none());
    let body = exchange(to, &last).expect("an answer");
    assert!(body.ends_with(b"yes"), "and over a connection of its own");
}

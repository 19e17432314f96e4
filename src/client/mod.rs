//! The ureq leaf: one try of one request, with one limit of time for all of it.
//!
//! Tries are repeated by the rules of the node, so that no thread sleeps for a peer that is dead.

mod connection;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;

use crate::zone;
use connection::{Dial, Later};

/// How long a connection is kept without use. A server keeps it longer, so that a request never
/// meets a connection that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Largest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// An HTTP client with kept connections.
#[derive(Debug)]
pub struct Client {
    lines: Mutex<Lines>,
    body_bytes_max: u64,
}

/// One agent for each address, with at most one kept connection: one for all compares each
/// connection with each other one, twice a request.
#[derive(Debug)]
struct Lines {
    by_address: HashMap<String, Line>,
    most: usize,
    looked: Instant,
}

#[derive(Debug)]
struct Line {
    agent: Agent,
    used: Instant,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Dsn-Seal`.
    pub seal: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// Takes the largest body of an answer, bytes, and how many connections are kept at most.
    pub fn new(body_bytes_max: usize, idle_connections_max: usize) -> Self {
        let most = idle_connections_max.max(1);
        let lines = Lines { by_address: HashMap::new(), most, looked: Instant::now() };
        Self { lines: Mutex::new(lines), body_bytes_max: body_bytes_max as u64 }
    }

    /// Posts a body to a path at `host:port`; gives whatever answer comes within the time.
    pub fn post(
        &self,
        address: &str,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let agent = self.lines.lock().unwrap_or_else(PoisonError::into_inner).to(address);
        let request = agent.post(url(address, path)).config().timeout_global(Some(timeout)).build();
        let mut response = request.send(body).map_err(|fault| explain(&fault, timeout))?;
        let seal = response.headers().get("dsn-seal").and_then(|value| value.to_str().ok());
        let seal = seal.map(str::to_owned);
        let status = response.status().as_u16();
        let reader = response.body_mut().with_config().limit(self.body_bytes_max);
        let body = reader.read_to_vec().map_err(|fault| explain(&fault, timeout))?;
        Ok(Answer { status, seal, body })
    }
}

impl Lines {
    /// The agent for an address.
    fn to(&mut self, address: &str) -> Agent {
        let now = Instant::now();
        // What was not used for long is closed; it is looked for now and then.
        if now.duration_since(self.looked) >= IDLE_MAX / 2 {
            self.looked = now;
            self.by_address.retain(|_, line| now.duration_since(line.used) < IDLE_MAX);
        }
        if let Some(line) = self.by_address.get_mut(address) {
            line.used = now;
            return line.agent.clone();
        }
        if self.by_address.len() >= self.most {
            let oldest = self.by_address.iter().min_by_key(|(_, line)| line.used);
            let oldest = oldest.map(|(address, _)| address.clone());
            oldest.and_then(|oldest| self.by_address.remove(&oldest));
        }
        let agent = agent(address);
        self.by_address.insert(address.to_owned(), Line { agent: agent.clone(), used: now });
        agent
    }
}

fn agent(address: &str) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .max_idle_connections(1)
        .max_idle_connections_per_host(1)
        .max_idle_age(IDLE_MAX)
        .max_response_header_size(HEAD_BYTES_MAX)
        .build();
    Agent::with_parts(config, Dial(address.to_owned()), Later)
}

/// The zone of a link-local address is nothing that the other end knows, and a URL has no room for
/// it: whoever connects has the address.
fn url(address: &str, path: &str) -> String {
    match zone::split(address) {
        Some((ip, _, port)) => format!("http://[{ip}]:{port}{path}"),
        None => format!("http://{address}{path}"),
    }
}

/// Why no answer came, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportError(String);

impl fmt::Display for TransportError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for TransportError {}

fn explain(fault: &ureq::Error, timeout: Duration) -> TransportError {
    TransportError(match fault {
        ureq::Error::Timeout(_) => format!("no answer within {} s", timeout.as_secs_f32()),
        ureq::Error::HostNotFound => "the name is not known".into(),
        ureq::Error::Io(why) => match why.kind() {
            std::io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => {
                "the connection was cut".into()
            }
            _ => why.to_string(),
        },
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn serve(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::Builder::new()
            .spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer);
                stream.write_all(answer).unwrap();
                // That no more comes, where the answer does not say where it ends.
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = stream.read(&mut buffer);
            })
            .unwrap();
        address
    }

    fn post(address: &str, timeout_ms: u64) -> Result<Answer, TransportError> {
        let client = Client::new(100, 2);
        client.post(address, "/ping", b"x", Duration::from_millis(timeout_ms))
    }

    #[test]
    fn any_status_is_an_answer() {
        let address = serve(b"HTTP/1.1 406 No\r\nDsn-Seal: ab\r\nContent-Length: 2\r\n\r\nhi");
        let answer = post(&address, 5000).unwrap();
        assert_eq!(
            (answer.status, answer.seal.as_deref(), &*answer.body),
            (406, Some("ab"), &b"hi"[..])
        );
        let address = serve(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(post(&address, 5000).unwrap().status, 302, "and no redirect is followed");
    }

    /// docs/protocol.md, section 1: what a caller takes.
    #[test]
    fn an_answer_may_end_in_any_way_that_http_has() {
        let answers: [(&'static [u8], u16, &[u8]); 7] = [
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n",
                200,
                b"hi!",
            ),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
            (b"HTTP/1.0 200 OK\r\n\r\nhi", 200, b"hi"),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", 200, b"hi"),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                200,
                b"hi",
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, b""),
        ];
        for (bytes, status, body) in answers {
            let said = String::from_utf8_lossy(bytes);
            let answer = post(&serve(bytes), 5000).unwrap_or_else(|why| panic!("{said:?}: {why}"));
            assert_eq!((answer.status, &*answer.body), (status, body), "{said:?}");
        }
    }

    /// A URL has no room for the zone of a link-local address, and the other end does not know it.
    #[test]
    fn a_link_local_address_is_called_on_its_link() {
        assert_eq!(url("[fe80::1:2%wlan-0.7]:8000", "/ping"), "http://[fe80::1:2]:8000/ping");
        assert_eq!(url("[::1]:8000", "/ping"), "http://[::1]:8000/ping");
        let said = post("[fe80::1%no-such-link]:1", 5000).unwrap_err().to_string();
        assert!(said.contains("No such device"), "{said}");
    }

    /// One segment, and one wake of whoever reads it.
    #[test]
    fn a_small_request_goes_out_in_one_piece_over_a_connection_that_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Client::new(100, 2);
        std::thread::scope(|scope| {
            let calls = scope.spawn(|| {
                for body in [&b"one"[..], b"", b"three"] {
                    let limit = Duration::from_secs(5);
                    assert_eq!(client.post(&address, "/ping", body, limit).unwrap().status, 204);
                }
            });
            let (mut stream, _) = listener.accept().unwrap();
            for body in ["one", "", "three"] {
                let mut buffer = [0; 1024];
                let count = stream.read(&mut buffer).unwrap();
                let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
                assert!(request.starts_with("POST /ping HTTP/1.1\r\n"), "{request}");
                let length = format!("content-length: {}\r\n", body.len());
                assert!(request.contains(&length), "{request}");
                assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            }
            calls.join().unwrap();
        });
    }

    #[test]
    fn a_connection_that_was_closed_meanwhile_is_not_used() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Client::new(100, 2);
        let post = || client.post(&address, "/ping", b"x", Duration::from_secs(5));
        for _ in 0..2 {
            std::thread::scope(|scope| {
                let call = scope.spawn(post);
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                assert_eq!(call.join().unwrap().unwrap().status, 204);
            });
        }
    }

    #[test]
    fn a_body_of_many_pieces_arrives_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let body: Vec<u8> = (0..100_000_u32).map(|byte| (byte % 251) as u8).collect();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                Client::new(100, 2).post(&address, "/data", &body, Duration::from_secs(5))
            });
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(&body) {
                let mut buffer = [0; 1024];
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "it ended after {} bytes", request.len());
                request.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
            assert_eq!(call.join().unwrap().unwrap().body, b"hi");
        });
    }

    #[test]
    fn addresses_that_are_not_used_are_forgotten() {
        let now = Instant::now();
        let mut lines = Lines { by_address: HashMap::new(), most: 2, looked: now };
        for address in ["a:1", "b:1", "a:1", "c:1"] {
            lines.to(address);
        }
        let mut known: Vec<&str> = lines.by_address.keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(known, ["a:1", "c:1"], "the one that was used last stays");
        for line in lines.by_address.values_mut() {
            line.used = now.checked_sub(2 * IDLE_MAX).unwrap_or(now);
        }
        lines.looked = now.checked_sub(IDLE_MAX).unwrap_or(now);
        lines.to("d:1");
        assert_eq!(lines.by_address.len(), 1);
    }

    #[test]
    fn half_an_answer_is_none() {
        let answers: [&'static [u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ];
        for bytes in answers {
            assert!(post(&serve(bytes), 5000).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_body_over_the_limit_is_not_read() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3c\r\n\
            012345678901234567890123456789012345678901234567890123456789\r\n3c\r\n\
            012345678901234567890123456789012345678901234567890123456789\r\n0\r\n\r\n";
        assert!(post(&serve(chunked), 5000).is_err());
        let address = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n0123456789");
        assert!(post(&address, 5000).is_err());
    }

    #[test]
    fn faults_are_explained() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert_eq!(post(&nobody, 5000).unwrap_err().to_string(), "nobody listens there");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        assert_eq!(post(&address, 200).unwrap_err().to_string(), "no answer within 0.2 s");
    }
}

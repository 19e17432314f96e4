//! The ureq leaf: one try of one request, with one limit of time for all of it.
//!
//! Tries are repeated by the rules of the node, so that no thread sleeps for a peer that is dead.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::zone;

/// How long a connection is kept without use. A server keeps it longer, so that a request never
/// meets a connection that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Buffers of a connection, bytes: the defaults are 128 KiB each, too much for 100 peers.
const BUFFER_BYTES: usize = 8 * 1024;
/// Largest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// An HTTP client with kept connections.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    body_bytes_max: u64,
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
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .max_idle_connections(idle_connections_max)
            .max_idle_connections_per_host(1)
            .max_idle_age(IDLE_MAX)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(HEAD_BYTES_MAX)
            .build();
        let resolver = WithZones(DefaultResolver::default());
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self { agent, body_bytes_max: body_bytes_max as u64 }
    }

    /// Posts a body to a path at `host:port`; gives whatever answer comes within the time.
    pub fn post(
        &self,
        address: &str,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let request = self
            .agent
            .post(format!("http://{}{path}", authority(address)))
            .config()
            .timeout_global(Some(timeout))
            .build();
        let mut response = request.send(body).map_err(|fault| explain(&fault, timeout))?;
        let seal = response.headers().get("dsn-seal").and_then(|value| value.to_str().ok());
        let seal = seal.map(str::to_owned);
        let status = response.status().as_u16();
        let reader = response.body_mut().with_config().limit(self.body_bytes_max);
        let body = reader.read_to_vec().map_err(|fault| explain(&fault, timeout))?;
        Ok(Answer { status, seal, body })
    }
}

/// What ends a host that stands for a link-local address. No name of the world ends so (RFC 2606).
const ZONE_END: &str = ".zone.invalid";

/// The address as part of a URL, which can't have the zone of a link-local one: that becomes a name
/// that the resolver takes apart again.
fn authority(address: &str) -> Cow<'_, str> {
    let Some((ip, zone, port)) = zone::split(address) else { return address.into() };
    let letters = |byte: u8| [byte >> 4, byte & 15].map(|four| char::from(b'a' + four));
    let zone: String = zone.bytes().flat_map(letters).collect();
    format!("{:032x}.{zone}{ZONE_END}:{port}", ip.to_bits()).into()
}

/// The address and the zone that such a name stands for.
fn zoned(host: &str) -> Option<(Ipv6Addr, String)> {
    let (ip, zone) = host.strip_suffix(ZONE_END)?.split_once('.')?;
    let ip = Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?);
    let byte = |two: &[u8]| match two {
        [high @ b'a'..=b'p', low @ b'a'..=b'p'] => Some((high - b'a') << 4 | (low - b'a')),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = zone.as_bytes().chunks(2).map(byte).collect();
    Some((ip, String::from_utf8(bytes?).ok()?))
}

/// Names as the system resolves them, and link-local addresses with their zones.
#[derive(Debug)]
struct WithZones(DefaultResolver);

impl Resolver for WithZones {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some((ip, zone)) = uri.host().and_then(zoned) else {
            return self.0.resolve(uri, config, timeout);
        };
        let port = uri.port_u16().ok_or(ureq::Error::HostNotFound)?;
        let mut found = self.empty();
        found.push(SocketAddrV6::new(ip, port, 0, zone::number(&zone)?).into());
        Ok(found)
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

    /// A URL has no room for the zone of a link-local address, and is not to be asked by name.
    #[test]
    fn a_link_local_address_is_called_on_its_link() {
        let text = "[fe80::1:2%wlan-0.7]:8000";
        let url: Uri = format!("http://{}/ping", authority(text)).parse().unwrap();
        let ip = "fe80::1:2".parse().unwrap();
        assert_eq!(url.host().and_then(zoned), Some((ip, "wlan-0.7".into())));
        assert_eq!(url.port_u16(), Some(8000));
        assert_eq!(authority("[::1]:8000"), "[::1]:8000");
        for other in ["a.zone.invalid", "a", "0.b.zone.invalid", "x.aa.zone.invalid", "::1"] {
            assert_eq!(zoned(other), None, "{other}");
        }
        let said = post("[fe80::1%no-such-link]:1", 5000).unwrap_err().to_string();
        assert!(said.contains("No such device"), "{said}");
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

//! Where the port is opened: on all addresses or on one, be it there already or not.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::str::FromStr;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::zone;

/// The port where nothing else is said.
const PORT: u16 = 8000;
/// Connections that the kernel holds for us until they are accepted.
const BACKLOG: i32 = 1024;

/// Where to listen. As text: `ADDR:PORT`, `[ADDR%ZONE]:PORT`, or `PORT` for all addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// All addresses of the host, IPv6 and IPv4, as far as it has them.
    Everywhere(u16),
    /// One address, or all of a family.
    At(SocketAddr),
    /// A link-local address on the interface of that name.
    OnLink(Ipv6Addr, String, u16),
}

impl Default for Listen {
    fn default() -> Self {
        Self::Everywhere(PORT)
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::At(address)
    }
}

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        let bad = |why| InvalidListen { text: text.chars().take(80).collect(), why };
        let port = text.strip_prefix(':').unwrap_or(text).parse();
        match (text.parse(), zone::split(text), port) {
            (Ok(SocketAddr::V6(it)), ..)
                if it.ip().is_unicast_link_local() && it.scope_id() == 0 =>
            {
                Err(bad(
                    "a link-local address needs the name of its interface: [fe80::1%eth0]:8000",
                ))
            }
            (Ok(address), ..) => Ok(Self::At(address)),
            (_, Some((ip, zone, port)), _) => Ok(Self::OnLink(ip, zone.to_owned(), port)),
            (.., Ok(port)) => Ok(Self::Everywhere(port)),
            _ if text.contains("://") => Err(bad("leave out http://")),
            _ if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => {
                Err(bad("the port is missing, such as 10.0.0.1:8000 or [::1]:8000"))
            }
            _ if is_number_and_no_port(text.rsplit(':').next().unwrap_or_default()) => {
                Err(bad("the port is a number from 0 to 65535"))
            }
            _ => Err(bad(
                "examples: 0.0.0.0:8000, 127.0.0.1:0, [::1]:8000, [fe80::1%eth0]:8000, :8000",
            )),
        }
    }
}

fn is_number_and_no_port(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<u16>().is_err()
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(formatter, "[::]:{port}"),
            Self::At(address) => write!(formatter, "{address}"),
            Self::OnLink(ip, zone, port) => write!(formatter, "[{ip}%{zone}]:{port}"),
        }
    }
}

impl Listen {
    /// The port; 0 picks one.
    pub fn port(&self) -> u16 {
        match self {
            Self::Everywhere(port) | Self::OnLink(_, _, port) => *port,
            Self::At(address) => address.port(),
        }
    }

    /// Whether nobody but this host can reach it.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::At(address) if address.ip().to_canonical().is_loopback())
    }

    /// Opens the port. One address that the host does not have yet is listened on all the same: it
    /// works from when it is there.
    pub(super) fn open(&self) -> Result<TcpListener, Error> {
        match self {
            Self::At(address) => open_at(*address),
            Self::OnLink(ip, zone, port) => {
                open_at(SocketAddrV6::new(*ip, *port, 0, zone::number(zone)?).into())
            }
            Self::Everywhere(port) => {
                let all = |ip: IpAddr| open_at(SocketAddr::new(ip, *port));
                all(Ipv6Addr::UNSPECIFIED.into()).or_else(|why| {
                    if has_no_ipv6(&why) { all(Ipv4Addr::UNSPECIFIED.into()) } else { Err(why) }
                })
            }
        }
    }
}

/// The kernel was built or started without it, or it is switched off.
fn has_no_ipv6(why: &Error) -> bool {
    let code = Errno::from_io_error(why);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT))
}

/// The listening socket. What is set here, the accepted sockets inherit (Linux).
fn open_at(listen: SocketAddr) -> Result<TcpListener, Error> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if listen.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the host's default is.
        socket.set_only_v6(false)?;
        // Where the kernel can't, an address that is not there is an error.
        let _ = socket.set_freebind_v6(true);
    } else {
        let _ = socket.set_freebind_v4(true);
    }
    // An answer goes out in one piece and at once.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether this host lacks the address that is listened on: nobody can call it there then.
pub fn is_missing(listen: SocketAddr) -> bool {
    let mut any_port = listen;
    any_port.set_port(0);
    let tried = UdpSocket::bind(any_port);
    tried.is_err_and(|why| why.kind() == ErrorKind::AddrNotAvailable)
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidListen {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidListen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} is not an address to listen on: {}", self.text, self.why)
    }
}

impl std::error::Error for InvalidListen {}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Listen {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!(Listen::default().to_string(), "[::]:8000");
        for (text, shown) in [
            ("8000", "[::]:8000"),
            (":9", "[::]:9"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:0", "[::1]:0"),
            ("[fe80::1%eth0]:8000", "[fe80::1%eth0]:8000"),
            ("[fe80::1%2]:8000", "[fe80::1%2]:8000"),
        ] {
            assert_eq!(listen(text).to_string(), shown);
        }
        for (text, is_loopback) in [
            ("127.0.0.1:0", true),
            ("127.9.9.9:1", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("10.0.0.1:0", false),
            (":1", false),
            ("[fe80::1%lo]:1", false),
        ] {
            assert_eq!(listen(text).is_loopback(), is_loopback, "{text}");
        }
        for (text, named) in [
            ("[fe80::1]:8000", "%eth0"),
            ("http://0.0.0.0:8000", "http://"),
            ("[2001:db8::1%eth0]:1", "examples"),
            ("[fe80::1%]:1", "examples"),
            ("nowhere", "examples"),
            ("kitchen:8000", "examples"),
            ("", "examples"),
            ("70000", "from 0 to 65535"),
            ("[::1]:-1", "from 0 to 65535"),
            ("10.0.0.1", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("::1", "the port is missing"),
        ] {
            let said = text.parse::<Listen>().unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }

    /// One socket for both families, so that one program alone has the port.
    #[test]
    fn everywhere_takes_both_families() {
        let port = Listen::Everywhere(0).open().unwrap().local_addr().unwrap();
        assert!(port.ip().is_unspecified());
        let open = Listen::Everywhere(0).open().unwrap();
        let port = open.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if !is_missing(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)) {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
        let taken = Listen::Everywhere(port).open().unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }

    /// 192.0.2.0/24 is for documents: no host has it.
    #[test]
    fn an_address_that_is_not_there_is_listened_on() {
        let open = listen("192.0.2.7:0").open().unwrap();
        assert!(is_missing(open.local_addr().unwrap()));
        assert!(!is_missing("127.0.0.1:1".parse().unwrap()));
        assert!(!is_missing("0.0.0.0:1".parse().unwrap()));
        let why = listen("[fe80::1%no-such-link]:0").open().unwrap_err();
        assert_eq!(why.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
}

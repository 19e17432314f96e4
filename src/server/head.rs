//! Heads of requests and answers, read within limits: pure. What a stranger writes goes no further
//! than this; tiny_http gets a head that was written here.

use std::fmt::Write;
use std::net::SocketAddr;
use std::str::FromStr;

use super::Caller;

/// Longest head of a request, bytes: ours have less than 200.
pub(super) const HEAD_BYTES_MAX: usize = 4096;
/// Most headers of a request or an answer.
const HEADERS_MAX: usize = 32;

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    /// Its own length, bytes.
    pub(super) bytes: usize,
    /// The length of the body behind it, bytes.
    pub(super) body_bytes: usize,
    /// Whether the connection is kept for another request.
    pub(super) keep_alive: bool,
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a head.
    Incomplete,
    /// No head, or one that breaks a limit.
    Bad,
    /// A whole one.
    Head(Head),
}

/// Reads the head of a request whose body has at most `body_bytes_max` bytes.
pub(super) fn parse_request(bytes: &[u8], body_bytes_max: usize) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Parsed::Incomplete,
        _ => return Parsed::Bad,
    };
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version)
    else {
        return Parsed::Bad;
    };
    let body_bytes = match body_length(request.headers) {
        Some(length) if length <= body_bytes_max => length,
        _ => return Parsed::Bad,
    };
    let connection = find(request.headers, "Connection").unwrap_or_default();
    let closes = connection.to_ascii_lowercase().windows(5).any(|word| word == b"close");
    if !path.is_ascii() || !method.is_ascii() {
        return Parsed::Bad;
    }
    Parsed::Head(Head {
        method: method.to_owned(),
        path: path.to_owned(),
        bytes: length,
        body_bytes,
        keep_alive: version == 1 && !closes,
    })
}

/// The length that is announced; nothing where it is not clear.
fn body_length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    // Without a length that is known before, nobody can hold the body to a limit.
    if find(headers, "Transfer-Encoding").is_some() {
        return None;
    }
    let mut lengths =
        headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Content-Length"));
    let Some(first) = lengths.next() else {
        return Some(0);
    };
    if lengths.next().is_some() {
        return None;
    }
    number(first.value)
}

/// A number in digits alone, without a sign.
fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

fn find<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// What tiny_http gets: a head alone, as the body goes past it.
pub(super) fn inner_request(head: &Head, peer: SocketAddr, line: usize) -> Vec<u8> {
    let mut text = String::with_capacity(INNER_BYTES + head.method.len() + head.path.len());
    // Writing to a String can't fail.
    let _ = write!(
        text,
        "{} {} HTTP/1.1\r\n{PEER}: {peer}\r\n{LINE}: {line}\r\n\r\n",
        head.method, head.path
    );
    text.into_bytes()
}

/// Room for all but method and path, bytes: a long IPv6 address has 58.
const INNER_BYTES: usize = 128;

/// Says where the request came from, between the gate and the workers.
pub(super) const PEER: &str = "Dsn-Peer";
/// Names the connection that the request came over, between the gate and the workers.
pub(super) const LINE: &str = "Dsn-Line";
/// Says who proved itself with the request, between the workers and the gate.
pub(super) const CALLER: &str = "Dsn-Caller";
/// Carries the seal of a 204.
pub(super) const SEAL: &str = "Dsn-Seal";

/// The head of an answer of tiny_http.
#[derive(Debug)]
pub(super) struct InnerAnswer {
    pub(super) status: u16,
    /// Its own length, bytes.
    pub(super) bytes: usize,
    /// The length of the body behind it, bytes.
    pub(super) body_bytes: usize,
    pub(super) caller: Option<Caller>,
    seal: Option<String>,
    allow: bool,
}

/// Reads the head of an answer; `Err` where it is none. That to a HEAD has no body.
pub(super) fn parse_answer(bytes: &[u8], to_head: bool) -> Result<Option<InnerAnswer>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(()),
    };
    let status = answer.code.ok_or(())?;
    let has_body = status != 204 && !to_head;
    let announced = body_length(answer.headers).ok_or(())?;
    let seal = find(answer.headers, SEAL).map(|seal| String::from_utf8_lossy(seal).into_owned());
    Ok(Some(InnerAnswer {
        status,
        bytes: length,
        body_bytes: if has_body { announced } else { 0 },
        caller: find(answer.headers, CALLER).and_then(number).map(Caller),
        seal,
        allow: find(answer.headers, "Allow").is_some(),
    }))
}

/// Room for the head of an answer but its seal, bytes.
const OUTER_BYTES: usize = 128;

/// What the caller gets: a head that was written here, and the body.
pub(super) fn outer_answer(answer: &InnerAnswer, keep_alive: bool, body: &[u8]) -> Vec<u8> {
    let seal_bytes = answer.seal.as_ref().map_or(0, String::len);
    let mut text = String::with_capacity(OUTER_BYTES + seal_bytes + body.len());
    // Writing to a String can't fail.
    let _ = write!(text, "HTTP/1.1 {} {}\r\n", answer.status, phrase(answer.status));
    if answer.status != 204 {
        let _ = write!(text, "Content-Length: {}\r\n", answer.body_bytes);
    }
    if let Some(seal) = &answer.seal {
        let _ = write!(text, "{SEAL}: {seal}\r\n");
    }
    if answer.allow {
        text += "Allow: POST\r\n";
    }
    if !keep_alive {
        text += "Connection: close\r\n";
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// An answer without a body, behind which the connection is closed.
pub(super) fn last_answer(status: u16) -> Vec<u8> {
    let answer =
        InnerAnswer { status, bytes: 0, body_bytes: 0, caller: None, seal: None, allow: false };
    outer_answer(&answer, false, &[])
}

fn phrase(status: u16) -> &'static str {
    tiny_http::StatusCode(status).default_reason_phrase()
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Parsed {
        parse_request(text.as_bytes(), 1000)
    }

    #[test]
    fn a_head_is_whole_or_not() {
        let text = "POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(head(&text[..end]), Parsed::Incomplete, "{end}");
        }
        let Parsed::Head(whole) = head(&format!("{text}1234567")) else { panic!() };
        assert_eq!((whole.bytes, whole.body_bytes, whole.keep_alive), (text.len(), 7, true));
        assert_eq!((whole.method.as_str(), whole.path.as_str()), ("POST", "/ping"));
    }

    #[test]
    fn what_is_not_clear_is_bad() {
        for rest in [
            "Content-Length: 1001",
            "Content-Length: 99999999999999999999999",
            "Content-Length: -1",
            "Content-Length: +1",
            "Content-Length: 0x10",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length: 1\r\nContent-Length: 1",
            "Transfer-Encoding: chunked",
            "Content-Length: 3\r\ntransfer-encoding: identity",
            "no colon",
        ] {
            let text = format!("POST /ping HTTP/1.1\r\n{rest}\r\n\r\n");
            let parsed = head(&text);
            let is_empty = rest == "Content-Length:";
            assert!(parsed == Parsed::Bad || is_empty, "{rest}: {parsed:?}");
        }
        assert_eq!(head("POST /\u{e4} HTTP/1.1\r\n\r\n"), Parsed::Bad);
        assert_eq!(head("POST /ping HTTP/9.9\r\n\r\n"), Parsed::Bad);
        assert_eq!(head(&format!("POST /{}", "a".repeat(HEAD_BYTES_MAX))), Parsed::Bad);
        let many = "X: y\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(head(&format!("POST / HTTP/1.1\r\n{many}\r\n")), Parsed::Bad);
    }

    #[test]
    fn a_connection_is_kept_unless_it_says_otherwise() {
        let keeps = |text: &str| match head(text) {
            Parsed::Head(head) => head.keep_alive,
            other => panic!("{other:?}"),
        };
        assert!(keeps("POST / HTTP/1.1\r\n\r\n"));
        assert!(!keeps("POST / HTTP/1.0\r\n\r\n"));
        assert!(!keeps("POST / HTTP/1.1\r\nConnection: Close\r\n\r\n"));
    }

    #[test]
    fn an_answer_is_written_anew() {
        let text =
            b"HTTP/1.1 204 No Content\r\nServer: x\r\nDsn-Seal: abc\r\nDsn-Caller: 77\r\n\r\n";
        let answer = parse_answer(text, false).unwrap().unwrap();
        assert_eq!((answer.caller, answer.bytes), (Some(Caller(77)), text.len()));
        assert_eq!(answer.body_bytes, 0);
        let outer = String::from_utf8(outer_answer(&answer, true, b"")).unwrap();
        assert_eq!(outer, "HTTP/1.1 204 No Content\r\nDsn-Seal: abc\r\n\r\n");
        assert!(parse_answer(&text[..20], false).unwrap().is_none());
        assert!(parse_answer(b"nonsense\r\n\r\n", false).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in collection::vec(any::<u8>(), 0..500)) {
            let _ = parse_request(&bytes, 1000);
            let _ = parse_answer(&bytes, false);
        }
    }
}

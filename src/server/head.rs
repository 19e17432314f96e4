//! Heads of requests, read within limits, and of answers: pure. What a stranger writes goes no
//! further than this; tiny_http gets a head that was written here.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::{Audience, Headers, Response};

/// Longest head of a request of a node, bytes: ours have less than 200.
pub(super) const HEAD_BYTES_MAX: usize = 4096;
/// The same of a browser, which sends the cookies of all that has a port on this host.
const BROWSER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 32;

/// What a request may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The longest body, bytes.
    pub(super) body_bytes_max: usize,
    /// The longest head, bytes.
    pub(super) head_bytes_max: usize,
    /// Whether the handler is given [`Headers`].
    keeps_headers: bool,
}

impl Rules {
    /// What those may send that the port is for.
    pub(super) fn of(audience: Audience, body_bytes_max: usize) -> Self {
        let (head_bytes_max, keeps_headers) = match audience {
            Audience::Nodes => (HEAD_BYTES_MAX, false),
            Audience::People => (BROWSER_HEAD_BYTES_MAX, true),
        };
        Self { body_bytes_max, head_bytes_max, keeps_headers }
    }
}

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
    /// What the handler is given of its headers.
    pub(super) headers: Headers,
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

/// Reads the head of a request.
pub(super) fn parse_request(bytes: &[u8], rules: &Rules) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= rules.head_bytes_max => {
            head_of(&request, length, rules).map_or(Parsed::Bad, Parsed::Head)
        }
        Ok(httparse::Status::Partial) if bytes.len() < rules.head_bytes_max => Parsed::Incomplete,
        _ => Parsed::Bad,
    }
}

/// What is used of a head; nothing where it breaks a limit.
fn head_of(request: &httparse::Request<'_, '_>, bytes: usize, rules: &Rules) -> Option<Head> {
    let closes = all(request.headers, "Connection")
        .any(|value| value.to_ascii_lowercase().windows(5).any(|word| word == b"close"));
    Some(Head {
        method: request.method?.to_owned(),
        path: request.path.filter(|path| path.is_ascii())?.to_owned(),
        bytes,
        body_bytes: body_length(request.headers).filter(|it| *it <= rules.body_bytes_max)?,
        keep_alive: request.version? == 1 && !closes,
        headers: if rules.keeps_headers { kept(request.headers)? } else { Headers::default() },
    })
}

/// What the handler is given; nothing where it is not clear.
fn kept(headers: &[httparse::Header<'_>]) -> Option<Headers> {
    let text = |name| one(headers, name)?.map(str::from_utf8).transpose().ok();
    Some(Headers {
        host: text("Host")?.map(str::to_owned),
        authorization: text("Authorization")?.map(|it| Zeroizing::new(it.to_owned())),
        if_none_match: text("If-None-Match")?.map(str::to_owned),
    })
}

/// The length that is announced; nothing where it is not clear.
fn body_length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    // Without a length that is known before, nobody can hold the body to a limit.
    if all(headers, "Transfer-Encoding").next().is_some() {
        return None;
    }
    let Some(length) = one(headers, "Content-Length")? else { return Some(0) };
    // Digits alone, without a sign.
    let is_number = length.iter().all(u8::is_ascii_digit);
    str::from_utf8(length).ok().filter(|_| is_number)?.parse().ok()
}

fn all<'a>(headers: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let of_it = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    of_it.map(|header| header.value)
}

/// A header that may be there once; nothing where it is there twice, as whoever stands before us
/// may have looked at the other one.
fn one<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<Option<&'a [u8]>> {
    let mut all = all(headers, name);
    let first = all.next();
    if all.next().is_some() { None } else { Some(first) }
}

/// Names the connection that a request came over, between the gate and the workers: in few words,
/// as tiny_http reads a head byte by byte.
pub(super) const CONNECTION: &str = "C";
/// Carries the seal of a 204.
const SEAL: &str = "Dsn-Seal";

/// Appends what tiny_http gets: a head alone, as the rest goes past it.
pub(super) fn add_inner_request(heads: &mut String, head: &Head, token: u64) {
    // Writing to a String can't fail.
    let Head { method, path, .. } = head;
    let _ = write!(heads, "{method} {path} HTTP/1.1\r\n{CONNECTION}:{token}\r\n\r\n");
}

/// Room for the head of an answer but its seal, bytes.
const ANSWER_BYTES: usize = 128;

/// What the caller gets: a head, and the body behind it, which is not copied.
pub(super) fn answer(response: Response, keep_alive: bool) -> (Vec<u8>, Vec<u8>) {
    let Response { status, seal, headers, body, is_bodiless, caller: _ } = response;
    let seal_bytes = seal.as_ref().map_or(0, String::len);
    let mut text = String::with_capacity(ANSWER_BYTES + seal_bytes);
    let phrase = tiny_http::StatusCode(status).default_reason_phrase();
    // Writing to a String can't fail.
    let _ = write!(text, "HTTP/1.1 {status} {phrase}\r\n");
    // A 204 has neither a length nor a body, and the length of a 304 would be that of the 200.
    let has_length = !matches!(status, 204 | 304);
    if has_length {
        let _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    if let Some(seal) = seal {
        let _ = write!(text, "{SEAL}: {seal}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text += if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" };
    let has_body = has_length && !is_bodiless;
    (text.into_bytes(), if has_body { body } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    fn rules(audience: Audience) -> Rules {
        Rules::of(audience, 1000)
    }

    fn head(text: &str) -> Parsed {
        parse_request(text.as_bytes(), &rules(Audience::Nodes))
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
        let twice = "Connection: keep-alive\r\nConnection: close\r\n";
        assert!(!keeps(&format!("POST / HTTP/1.1\r\n{twice}\r\n")));
    }

    fn text((head, body): (Vec<u8>, Vec<u8>)) -> String {
        String::from_utf8([head, body].concat()).unwrap()
    }

    #[test]
    fn an_answer_has_what_its_caller_needs_and_no_more() {
        let text = |response: Response, keep_alive| text(answer(response, keep_alive));
        let sealed = Response { status: 204, seal: Some("abc".into()), ..Response::default() };
        assert_eq!(text(sealed, true), "HTTP/1.1 204 No Content\r\nDsn-Seal: abc\r\n\r\n");
        let body = Response { status: 200, body: b"xyz".into(), ..Response::default() };
        assert_eq!(text(body, true), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz");
        let headers = vec![("Allow", "POST".into())];
        let refused = Response { status: 405, headers, ..Response::default() };
        assert_eq!(
            text(refused, false),
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nAllow: POST\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn what_says_the_length_alone_has_no_body() {
        let text = |response| text(answer(response, true));
        let body = || b"xyz".to_vec();
        let head = Response { status: 200, body: body(), is_bodiless: true, ..Response::default() };
        assert_eq!(text(head), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
        let headers = vec![("ETag", "\"1\"".into())];
        let same = Response { status: 304, body: body(), headers, ..Response::default() };
        assert_eq!(text(same), "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    }

    #[test]
    fn headers_are_kept_where_they_are_wanted_and_are_clear() {
        let of = |audience, lines: &str| {
            let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            match parse_request(text.as_bytes(), &rules(audience)) {
                Parsed::Head(head) => Some(head.headers),
                _ => None,
            }
        };
        let lines = "host: a:1\r\nAuthorization: Bearer x\r\nIf-None-Match: \"1\"\r\nX: y\r\n";
        let headers = of(Audience::People, lines).unwrap();
        assert_eq!(headers.host.as_deref(), Some("a:1"));
        assert_eq!(headers.authorization.unwrap().as_str(), "Bearer x");
        assert_eq!(headers.if_none_match.as_deref(), Some("\"1\""));
        assert_eq!(of(Audience::Nodes, lines), Some(Headers::default()));
        for twice in ["Host: a\r\nHost: a\r\n", "Authorization: x\r\nauthorization: x\r\n"] {
            assert_eq!(of(Audience::People, twice), None, "{twice}");
            assert_eq!(of(Audience::Nodes, twice), Some(Headers::default()));
        }
        let long = format!("Cookie: {}\r\n", "c".repeat(8000));
        assert!(of(Audience::People, &long).is_some() && of(Audience::Nodes, &long).is_none());
        let long = format!("Cookie: {}\r\n", "c".repeat(16_400));
        assert_eq!(of(Audience::People, &long), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in collection::vec(any::<u8>(), 0..500)) {
            let _ = parse_request(&bytes, &rules(Audience::Nodes));
            let _ = parse_request(&bytes, &rules(Audience::People));
        }
    }
}

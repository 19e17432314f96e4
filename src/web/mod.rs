//! The web page of a node, and what it reads: the same JSON that the control socket gives. It can
//! be asked, and changes nothing.

mod feed;
mod files;
mod guard;
mod query;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use crate::config::Http;
use crate::control::{LINE_BYTES_MAX, json as forms};
use crate::driver::Driver;
use crate::metrics::{self, Measured};
use crate::protocol::fault::Fault;
use crate::protocol::identity::NodeId;
use crate::protocol::report::{NodeState, PeerInfo, Refused, Status};
use crate::server::{Audience, Headers, Request, Response, Serves};

use feed::{Cursor, Feed};
use files::Files;
use guard::{Guard, Refusal};

/// What is served, and by whom it is asked for.
pub const SERVES: Serves = Serves {
    name: "dsn-http",
    flag: "--http",
    paths: &[
        "/",
        "/page.css",
        "/page.js",
        "/icon.svg",
        "/health",
        "/metrics",
        "/api/status",
        "/api/peers",
        "/api/state",
        "/api/changes",
    ],
    methods: &["GET", "HEAD"],
    // Nothing is to be sent here; a small body of who tries gets its 405.
    body_bytes_max: 4096,
    audience: Audience::People,
};

/// What is loaded by whom: nothing but the parts of the page, by the page, from this node.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Largest states that come with what changed, bytes: a page asks for larger ones where somebody
/// looks at them.
const STATE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of states in one such answer; the rest comes with the next one.
const STATES_BYTES_MAX: usize = 256 * 1024;

/// What the page is made of, and what its readers have seen.
pub struct Web {
    files: Files,
    guard: Guard,
    feed: Mutex<Feed>,
}

impl Web {
    /// Takes the token that has to be shown, if any, and a number for this run: what was seen in
    /// another one is nothing here.
    pub fn new(http: &Http, token: Option<&str>, run: u64) -> Self {
        Self {
            files: Files::new(),
            guard: Guard::new(token, &http.hosts),
            feed: Mutex::new(Feed::new(run)),
        }
    }

    /// Answers a request. The token of one that shows it says that its caller is no stranger.
    pub fn answer(&self, driver: &Driver, request: &Request) -> Response {
        let ip = request.peer.ip();
        let response = match self.guard.check(&request.headers) {
            Ok(shown) => {
                let response = self.route(driver, request, shown.may_read());
                Response { caller: shown.caller(ip), ..response }
            }
            Err(refusal) => refused(refusal),
        };
        with_headers(response)
    }

    /// Says what is where. The parts of the page hold no data: who has no token gets them, too, and
    /// is asked for it there.
    fn route(&self, driver: &Driver, request: &Request, may_read: bool) -> Response {
        let Request { path, query, headers, .. } = request;
        if let Some(file) = self.files.find(path) {
            return conditional(&file.tag, headers, "no-cache", || file.response());
        }
        if !may_read {
            return refused(Refusal::NoToken);
        }
        match path.as_str() {
            "/health" => health(driver.node_id(), &driver.faults_for_probes()),
            "/metrics" => metrics(&driver.measured()),
            "/api/status" => self.status(driver, headers),
            "/api/peers" => self.peers(driver, headers),
            "/api/state" => self.state(driver, query, headers),
            "/api/changes" => self.changes(driver, query, headers),
            _ => Response { status: 404, ..Response::default() },
        }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all that there is, and notes what is new. Gives the moment first, ms.
    fn look(&self, driver: &Driver) -> (u64, Status, Vec<PeerInfo>, MutexGuard<'_, Feed>) {
        // In the order in which they are noted, else what is older could be taken for news.
        let mut feed = self.feed();
        let lease_changes = driver.lease_changes();
        let (status_ms, status) = driver.status_at();
        let (peers_ms, peers) = driver.peers_at();
        feed.look(lease_changes, (status_ms, &status), (peers_ms, &peers));
        (status_ms, status, peers, feed)
    }

    fn status(&self, driver: &Driver, headers: &Headers) -> Response {
        let (status_ms, status, _, feed) = self.look(driver);
        let tag = feed.status_tag();
        drop(feed);
        conditional(&tag, headers, "no-store", || {
            json_response(200, &forms::status(&status, status_ms))
        })
    }

    fn peers(&self, driver: &Driver, headers: &Headers) -> Response {
        let (_, _, peers, feed) = self.look(driver);
        let tag = feed.peers_tag();
        drop(feed);
        conditional(&tag, headers, "no-store", || {
            text_response(list(peers.iter().map(forms::peer)))
        })
    }

    /// One state, or all of them: with the keys that begin with `prefix`.
    fn state(&self, driver: &Driver, query: &str, headers: &Headers) -> Response {
        let found = |name| query::find(query, name);
        let asked = found("node").and_then(|node| Ok((node, found("prefix")?)));
        let (node, prefix) = match asked {
            Ok(asked) => asked,
            Err(wrong) => return error(400, wrong.text().into()),
        };
        let prefix = prefix.unwrap_or_default();
        let (.., feed) = self.look(driver);
        let now_ms = driver.now_ms();
        if let Some(name) = node {
            let node_id = match NodeId::new(&name) {
                Ok(node_id) => node_id,
                Err(fault) => return error(400, fault.to_string()),
            };
            let tag = feed.state_tag(&node_id);
            drop(feed);
            return match driver.state(&node_id) {
                Some(state) => conditional(&tag, headers, "no-store", || {
                    json_response(200, &forms::state(&state, &prefix, now_ms))
                }),
                None => error(404, Refused::UnknownNode(node_id).to_string()),
            };
        }
        let tag = feed.states_tag();
        drop(feed);
        let states = driver.states();
        conditional(&tag, headers, "no-store", || {
            all_states(&states, &prefix, now_ms).map_or_else(too_long, text_response)
        })
    }

    /// What is new since a cursor: for a page that stays open.
    fn changes(&self, driver: &Driver, query: &str, headers: &Headers) -> Response {
        let since = query::find(query, "since").ok().flatten().unwrap_or_default();
        let (status_ms, status, peers, feed) = self.look(driver);
        let mut news = feed.since(&since);
        drop(feed);
        let now_ms = driver.now_ms();
        let mut states = Vec::new();
        let mut bytes = 0;
        while bytes < STATES_BYTES_MAX {
            let Some((at, node_id)) = news.states.pop_front() else { break };
            news.cursor.states = at;
            let small = |state: &NodeState| state.entries.bytes() <= STATE_BYTES_MAX;
            if let Some(state) = driver.state(&node_id).filter(small) {
                bytes += state.entries.bytes() + node_id.as_str().len();
                states.push(state);
            }
        }
        if news.states.is_empty() {
            news.cursor.states = news.last;
        }
        let tag = tag_of(&news.cursor);
        conditional(&tag, headers, "no-store", || {
            let status = news.is_status_new.then(|| forms::status(&status, status_ms));
            let new_peers = peers.iter().filter(|peer| news.peers.contains(&peer.node_id));
            let gone = news.gone.iter().map(|node_id| Json::from(node_id.as_str()));
            let states = states.iter().map(|state| forms::state(state, "", now_ms));
            text_response(format!(
                "{{\"cursor\":\"{}\",\"whole\":{},\"more\":{},\"status\":{},\"peers\":{},\"gone\":{},\"states\":{}}}",
                news.cursor,
                news.is_whole,
                !news.states.is_empty(),
                status.unwrap_or_default(),
                list(new_peers.map(forms::peer)),
                list(gone),
                list(states)
            ))
        })
    }
}

/// What stands for a version of an answer. It is a weak one: ages in it go on.
fn tag_of(version: &Cursor) -> String {
    format!("W/\"{version}\"")
}

/// A list in JSON, of which one element at a time is in memory as such.
fn list(elements: impl Iterator<Item = Json>) -> String {
    let mut text = String::from("[");
    for element in elements {
        if text.len() > 1 {
            text.push(',');
        }
        text += &element.to_string();
    }
    text.push(']');
    text
}

/// All states, unless that is more than a line of the control socket has.
fn all_states(states: &[NodeState], prefix: &str, now_ms: u64) -> Option<String> {
    let most = usize::try_from(LINE_BYTES_MAX).unwrap_or(usize::MAX);
    let mut text = String::from("[");
    for state in states {
        if text.len() > 1 {
            text.push(',');
        }
        text += &forms::state(state, prefix, now_ms).to_string();
        if text.len() >= most {
            return None;
        }
    }
    text.push(']');
    Some(text)
}

fn too_long() -> Response {
    error(
        400,
        format!(
            "all states together have more than {LINE_BYTES_MAX} bytes; ask for one node after the other: /api/state?node=ID"
        ),
    )
}

/// 200 where nothing is wrong, else 503, with the codes of what is.
fn health(node_id: &NodeId, faults: &[Fault]) -> Response {
    let codes: Vec<&str> = faults.iter().map(|fault| fault.code.as_str()).collect();
    let code = if codes.is_empty() { 200 } else { 503 };
    let mut response =
        json_response(code, &json!({ "node_id": node_id.as_str(), "degraded": codes }));
    response.headers.push(("Cache-Control", "no-store".into()));
    response
}

/// What is counted and measured, for a monitoring system.
fn metrics(measured: &Measured) -> Response {
    let headers = vec![
        ("Content-Type", Cow::Borrowed(metrics::CONTENT_TYPE)),
        ("Cache-Control", "no-store".into()),
    ];
    Response {
        status: 200,
        headers,
        body: measured.to_string().into_bytes(),
        ..Response::default()
    }
}

/// The answer, or that the caller has it already.
fn conditional(
    tag: &str,
    headers: &Headers,
    keeping: &'static str,
    answer: impl FnOnce() -> Response,
) -> Response {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = headers.if_none_match.as_deref().unwrap_or_default();
    let has_it = known.split(',').any(|it| it.trim() == "*" || opaque(it) == opaque(tag));
    let mut response =
        if has_it { Response { status: 304, ..Response::default() } } else { answer() };
    if response.status < 400 {
        response.headers.push(("ETag", tag.to_owned().into()));
    }
    response.headers.push(("Cache-Control", keeping.into()));
    response
}

fn refused(refusal: Refusal) -> Response {
    let mut response = error(refusal.status(), refusal.to_string());
    if refusal == Refusal::NoToken {
        response.headers.push(("WWW-Authenticate", "Bearer realm=\"dsn\"".into()));
    }
    response
}

fn error(status: u16, why: String) -> Response {
    json_response(status, &json!({ "error": why }))
}

fn json_response(status: u16, json: &Json) -> Response {
    Response { status, ..text_response(json.to_string()) }
}

fn text_response(mut json: String) -> Response {
    json.push('\n');
    let headers = vec![("Content-Type", Cow::Borrowed("application/json"))];
    Response { status: 200, headers, body: json.into_bytes(), ..Response::default() }
}

/// What a browser has to know of every answer.
fn with_headers(mut response: Response) -> Response {
    let fixed = [
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    response.headers.extend(fixed.map(|(name, value)| (name, value.into())));
    response
}

/// For the fuzzer: reads the bytes as what a reader may write, its query, its cursor, its headers.
#[cfg(fuzzing)]
pub fn fuzz_readers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = query::find(&text, "node");
    let _ = Feed::new(1).since(&text);
    let headers = Headers {
        host: Some(text.to_string()),
        authorization: Some(zeroize::Zeroizing::new(text.to_string())),
        if_none_match: Some(text.to_string()),
    };
    let is_refused = Guard::new(Some("0123456789abcdef"), &[])
        .check(&headers)
        .is_ok_and(|shown| !shown.may_read());
    assert!(is_refused || text.contains("0123456789abcdef"));
    let _ = Guard::new(None, &[]).check(&headers);
    let _ = conditional("W/\"1\"", &headers, "no-store", Response::default);
}

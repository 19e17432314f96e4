//! One request and its answer.

use std::io::{Cursor, Read};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::{Header, Method, StatusCode};

use super::{Job, Request, Response, Shared};

/// Bodies up to this length, bytes, are in memory already when tiny_http hands out the request.
const READ_ALREADY_BYTES: usize = 1024;
/// How long the whole of a longer body may take: as long as a client waits for its answer.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves a request, or hands it on where its body has still to be read.
pub(super) fn serve(shared: &Arc<Shared>, request: tiny_http::Request, generation: u64) {
    let Some(peer) = request.remote_addr().copied() else {
        return;
    };
    shared.note(peer, false, Some(generation));
    let has_body = request.headers().iter().any(|header| {
        header.field.equiv("Transfer-Encoding")
            || header.field.equiv("Expect")
            || header.field.equiv("Upgrade")
    });
    if has_body || request.body_length().is_some_and(|length| length > READ_ALREADY_BYTES) {
        let job = Job { request, activity: Arc::clone(shared) };
        if let Err(full) = shared.bulk.try_send(job) {
            // Dropping the request would read the rest of its body: the guard cuts it first.
            shared.note_reading(peer);
            super::connections::cut(&[peer]);
            drop(full);
        }
        return;
    }
    answer(shared, request, peer, generation);
}

/// Serves a request whose body has to be read; this may take as long as its sender likes, up to
/// the limit.
pub(super) fn serve_bulk(shared: &Arc<Shared>, request: tiny_http::Request) {
    let Some(peer) = request.remote_addr().copied() else {
        return;
    };
    shared.note_reading(peer);
    answer(shared, request, peer, u64::MAX);
}

fn answer(shared: &Shared, mut request: tiny_http::Request, peer: SocketAddr, generation: u64) {
    let response = decide(shared, &mut request, peer);
    let headers =
        response.seal.iter().filter_map(|seal| Header::from_bytes("Dsn-Seal", seal.as_str()).ok());
    let mut headers: Vec<Header> = headers.collect();
    if response.status == 405 {
        headers.extend(Header::from_bytes("Allow", "POST"));
    }
    let trusted = response.trusted;
    let length = response.body.len();
    let body = Cursor::new(response.body);
    let http =
        tiny_http::Response::new(StatusCode(response.status), headers, body, Some(length), None)
            .with_chunked_threshold(usize::MAX);
    // Whoever went away does not get an answer.
    let _ = request.respond(http);
    shared.note(peer, trusted, Some(generation));
}

fn decide(shared: &Shared, request: &mut tiny_http::Request, peer: SocketAddr) -> Response {
    let status = |status| Response { status, ..Response::default() };
    if !shared.paths.contains(&request.url()) {
        return status(404);
    }
    if *request.method() != Method::Post {
        return status(405);
    }
    let Some(body) = read_body(request, shared.body_bytes_max) else {
        super::connections::stop_reading(peer);
        return status(400);
    };
    let path = request.url().to_owned();
    let handled = catch_unwind(AssertUnwindSafe(|| (shared.handler)(Request { path, peer, body })));
    handled.unwrap_or_else(|_| {
        log::error!("BUG: a request to {} from {peer} made us panic", request.url());
        status(500)
    })
}

/// The body, if it is within the limits of length and time.
fn read_body(request: &mut tiny_http::Request, bytes_max: usize) -> Option<Vec<u8>> {
    let announced = request.body_length().unwrap_or(0);
    if announced > bytes_max {
        return None;
    }
    let began = Instant::now();
    // What is announced is not believed before it comes.
    let mut body = Vec::with_capacity(announced.min(64 * 1024));
    let mut reader = request.as_reader().take(bytes_max as u64 + 1);
    let mut part = [0; 16 * 1024];
    loop {
        let count = reader.read(&mut part).ok()?;
        if count == 0 {
            break;
        }
        body.extend_from_slice(part.get(..count)?);
        if body.len() > bytes_max || began.elapsed() > BODY_TIME_MAX {
            return None;
        }
    }
    (body.len() >= announced).then_some(body)
}

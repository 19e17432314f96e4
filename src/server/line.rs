//! A connection to tiny_http: one request after the other.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use super::backend::Bodies;
use super::connection::{read_some, write_some};
use super::head::{Head, InnerAnswer, inner_request, parse_answer};

/// How much of an answer is read before its length is known, bytes: most are shorter.
const CHUNK_BYTES: usize = 4 * 1024;

pub(super) struct Line {
    /// Its number, and where it leaves bodies.
    at: usize,
    bodies: Bodies,
    stream: UnixStream,
    /// Head of the request, of which so much is written.
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    answer: Option<InnerAnswer>,
    /// For whom, and whether it is a HEAD.
    serves: Option<(u64, bool)>,
    /// Whether it is watched for room to write.
    pub(super) watched_for_room: bool,
}

/// What became of a request.
pub(super) enum LineProgress {
    /// It is on its way.
    Partial,
    /// This is the answer.
    Answered {
        /// For whom.
        token: u64,
        /// Its head.
        answer: InnerAnswer,
        /// Its body.
        body: Vec<u8>,
    },
    /// tiny_http ended the connection, or wrote what is no answer.
    Broken,
}

impl Line {
    pub(super) fn new(at: usize, bodies: Bodies, stream: UnixStream) -> Self {
        Self {
            at,
            bodies,
            stream,
            output: Vec::new(),
            written: 0,
            input: Vec::new(),
            answer: None,
            serves: None,
            watched_for_room: false,
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// For whom it works.
    pub(super) fn serves(&self) -> Option<u64> {
        self.serves.map(|(token, _)| token)
    }

    /// Takes a request.
    pub(super) fn ask(&mut self, token: u64, head: &Head, peer: SocketAddr, body: Vec<u8>) {
        self.serves = Some((token, head.method == "HEAD"));
        self.written = 0;
        self.output = inner_request(head, peer, self.at);
        self.bodies.put(self.at, body);
    }

    pub(super) fn has_more_to_write(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes and reads what can be.
    pub(super) fn advance(&mut self) -> LineProgress {
        let wrote = self.has_more_to_write();
        if write_some(&mut self.stream, &self.output, &mut self.written).is_err() {
            return LineProgress::Broken;
        }
        if wrote && self.input.is_empty() {
            // Nobody answers so soon; an event says when.
            return LineProgress::Partial;
        }
        loop {
            if let Some(progress) = self.look() {
                return progress;
            }
            let missing = self.answer.as_ref().map(|it| it.bytes + it.body_bytes);
            let most = missing.map_or(CHUNK_BYTES, |all| all.saturating_sub(self.input.len()));
            match read_some(&self.stream, &mut self.input, most) {
                Ok(0) => return LineProgress::Broken,
                Ok(_) => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return LineProgress::Partial,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => return LineProgress::Broken,
            }
        }
    }

    /// What the bytes that came amount to; nothing where more are needed.
    fn look(&mut self) -> Option<LineProgress> {
        if self.input.is_empty() {
            return None;
        }
        let Some((token, to_head)) = self.serves else {
            // Nobody asked for anything.
            return Some(LineProgress::Broken);
        };
        if self.answer.is_none() {
            match parse_answer(&self.input, to_head) {
                Ok(answer) => self.answer = answer,
                Err(()) => return Some(LineProgress::Broken),
            }
        }
        let whole = self.answer.as_ref().map(|it| it.bytes + it.body_bytes)?;
        if self.input.len() < whole {
            return None;
        }
        let answer = self.answer.take()?;
        let body = self.input.split_off(answer.bytes);
        self.input.clear();
        // Its room is for the next answer, unless this one was long.
        self.input.shrink_to(CHUNK_BYTES);
        self.output = Vec::new();
        self.written = 0;
        self.serves = None;
        Some(LineProgress::Answered { token, answer, body })
    }
}

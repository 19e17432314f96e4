//! A connection to tiny_http: one request after the other.

use std::io::{ErrorKind, IoSlice, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use super::connection::read_some;
use super::head::{Head, InnerAnswer, inner_request, parse_answer};

/// How much of an answer is read at a time, bytes.
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) struct Line {
    stream: UnixStream,
    /// Head and body of the request, of which so much is written.
    output: [Vec<u8>; 2],
    written: [usize; 2],
    input: Vec<u8>,
    answer: Option<InnerAnswer>,
    /// For whom, and with which method.
    serves: Option<(u64, String)>,
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
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            output: Default::default(),
            written: [0; 2],
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
        self.serves.as_ref().map(|(token, _)| *token)
    }

    /// Takes a request: its head, and the bytes of which the body is the end.
    pub(super) fn ask(&mut self, token: u64, head: &Head, caller: SocketAddr, bytes: Vec<u8>) {
        self.serves = Some((token, head.method.clone()));
        self.written = [0, head.bytes];
        self.output = [inner_request(head, caller), bytes];
    }

    pub(super) fn has_more_to_write(&self) -> bool {
        self.output.iter().zip(self.written).any(|(bytes, written)| written < bytes.len())
    }

    /// Writes and reads what can be.
    pub(super) fn advance(&mut self) -> LineProgress {
        let wrote = self.has_more_to_write();
        if self.write().is_err() {
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

    /// Writes as much as is taken: head and body together.
    fn write(&mut self) -> Result<(), ErrorKind> {
        while self.has_more_to_write() {
            let [head, body] = &self.output;
            let [of_head, of_body] = self.written;
            let rest = [
                IoSlice::new(head.get(of_head..).unwrap_or_default()),
                IoSlice::new(body.get(of_body..).unwrap_or_default()),
            ];
            match self.stream.write_vectored(&rest) {
                Ok(0) => return Err(ErrorKind::WriteZero),
                Ok(count) => {
                    let head_part = count.min(head.len() - of_head);
                    self.written = [of_head + head_part, of_body + count - head_part];
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why.kind()),
            }
        }
        Ok(())
    }

    /// What the bytes that came amount to; nothing where more are needed.
    fn look(&mut self) -> Option<LineProgress> {
        if self.input.is_empty() {
            return None;
        }
        let Some((token, method)) = &self.serves else {
            // Nobody asked for anything.
            return Some(LineProgress::Broken);
        };
        if self.answer.is_none() {
            match parse_answer(&self.input, method) {
                Ok(answer) => self.answer = answer,
                Err(()) => return Some(LineProgress::Broken),
            }
        }
        let whole = self.answer.as_ref().map(|it| it.bytes + it.body_bytes)?;
        if self.input.len() < whole {
            return None;
        }
        let token = *token;
        let answer = self.answer.take()?;
        let body = self.input.split_off(answer.bytes);
        self.input = Vec::new();
        self.output = Default::default();
        self.written = [0; 2];
        self.serves = None;
        Some(LineProgress::Answered { token, answer, body })
    }
}

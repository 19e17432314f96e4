//! A connection to tiny_http: one request after the other.

use std::io::{ErrorKind, Write};
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
        if self.write().is_err() {
            return LineProgress::Broken;
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

    fn write(&mut self) -> Result<(), ErrorKind> {
        for (bytes, written) in self.output.iter().zip(&mut self.written) {
            while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
                match self.stream.write(rest) {
                    Ok(0) => return Err(ErrorKind::WriteZero),
                    Ok(count) => *written += count,
                    Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(why) if why.kind() == ErrorKind::Interrupted => {}
                    Err(why) => return Err(why.kind()),
                }
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

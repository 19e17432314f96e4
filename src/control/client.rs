//! The end of the socket that asks.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::LINE_BYTES_MAX;

/// A connection to a running node.
#[derive(Debug)]
pub struct ControlClient {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// No node answers at the socket, or it stopped answering.
    NoNode(Error),
    /// The answer is no.
    No(String),
    /// What was asked makes no sense.
    Usage(String),
}

impl ControlClient {
    /// Connects to the socket of a node.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let writer = UnixStream::connect(path).map_err(|why| {
            Failure::NoNode(match why.kind() {
                ErrorKind::InvalidInput => Error::new(why.kind(), "the path is too long"),
                _ => why,
            })
        })?;
        let reader = writer.try_clone().map_err(Failure::NoNode)?;
        Ok(Self { reader: BufReader::new(reader), writer })
    }

    /// Asks, without waiting for the answer.
    pub fn ask(&mut self, request: &Json) -> Result<(), Failure> {
        let mut line = request.to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map_err(Failure::NoNode)
    }

    /// The next result; `None` where the node ended the row of them.
    pub fn next_result(&mut self, timeout: Option<Duration>) -> Result<Option<Json>, Failure> {
        self.writer.set_read_timeout(timeout).map_err(Failure::NoNode)?;
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        limited.read_until(b'\n', &mut line).map_err(|why| {
            Failure::NoNode(match why.kind() {
                ErrorKind::WouldBlock => Error::new(ErrorKind::TimedOut, "no answer came in time"),
                _ => why,
            })
        })?;
        if line.is_empty() {
            return Ok(None);
        }
        let answer: Json = serde_json::from_slice(&line)
            .map_err(|fault| Failure::NoNode(Error::new(ErrorKind::InvalidData, fault)))?;
        if answer.get("ok").and_then(Json::as_bool) == Some(true) {
            return Ok(Some(answer.get("result").cloned().unwrap_or(Json::Null)));
        }
        let text = answer.get("error").and_then(Json::as_str).unwrap_or("it gave no reason");
        match answer.get("kind").and_then(Json::as_str) {
            Some("usage") => Err(Failure::Usage(text.to_owned())),
            _ => Err(Failure::No(text.to_owned())),
        }
    }

    /// Asks and waits for one result.
    pub fn call(&mut self, request: &Json, timeout: Duration) -> Result<Json, Failure> {
        self.ask(request)?;
        self.next_result(Some(timeout))?.ok_or_else(|| {
            Failure::NoNode(Error::new(ErrorKind::UnexpectedEof, "the node stopped meanwhile"))
        })
    }
}

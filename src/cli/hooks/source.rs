//! Where events come from: the control socket of a node that may not be there, or go and come back.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure, Polled};
use serde_json::{Value as Json, json};

use crate::cli::args::Options;
use crate::cli::{Fault, print, socket};

/// Wait before a node is looked for again; it doubles from try to try.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long a node may be silent that was asked and did not answer yet.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Answers before the events: of `status` and of `peers`.
const ANSWERS: u8 = 2;

/// What came of a look at it.
pub(super) enum Came {
    /// The answer to `status`, or to `peers`, or an event.
    Answer(Answer, Json),
    Nothing,
    /// Nothing more comes over this connection.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Status,
    Peers,
    Event,
}

pub(super) struct Source<'a> {
    options: &'a Options,
    request: Json,
    /// Known as soon as it was found: a node beside it is another one.
    path: Option<PathBuf>,
    connection: Option<Connection>,
    look_at: Instant,
    wait: Duration,
    /// Somebody was told that it is waited for.
    said: bool,
}

struct Connection {
    node: ControlClient,
    answers: u8,
    /// Nothing while events come.
    silent_until: Option<Instant>,
}

impl<'a> Source<'a> {
    /// Events as `request` asks for them; a node that is not there yet is looked for.
    pub(super) fn new(options: &'a Options, request: Json) -> Self {
        let (look_at, wait) = (Instant::now(), LOOK_FIRST);
        Self { options, request, path: None, connection: None, look_at, wait, said: false }
    }

    /// The socket of the node, when it was found.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// What to wait for, while there is a connection.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|connection| connection.node.as_fd())
    }

    /// When it has to be looked at though nothing came.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.connection {
            None => Some(self.look_at),
            Some(connection) => connection.silent_until,
        }
    }

    /// Looks for the node when it is time. A fault ends all: waiting would not mend it.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Fault> {
        if let Some(connection) = &self.connection {
            if connection.silent_until.is_some_and(|until| until <= now) {
                self.wait_for_it("the node gave no answer in time");
            }
            return Ok(());
        }
        if now < self.look_at {
            return Ok(());
        }
        match self.connect() {
            Ok(node) => {
                let silent_until = Some(now + ANSWER_TIME);
                self.connection = Some(Connection { node, answers: 0, silent_until });
            }
            Err(fault @ Fault::Usage(_)) => return Err(fault),
            // One that was there may change whom it lets in while it starts.
            Err(fault @ Fault::No(_)) if self.path.is_none() => return Err(fault),
            Err(fault) => self.wait_for_it(fault.text().unwrap_or_default()),
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<ControlClient, Fault> {
        let path = match &self.path {
            Some(path) => path.clone(),
            None => socket::find(self.options)?,
        };
        let explain = |failure| socket::explain(failure, &path);
        let mut node = ControlClient::connect(&path, Duration::ZERO).map_err(|failure| {
            match failure {
                // So many wait for it that it takes no more now.
                Failure::Late => Fault::NoNode(format!("the node at {} is busy", path.display())),
                other => explain(other),
            }
        })?;
        for request in [&json!({ "op": "status" }), &json!({ "op": "peers" }), &self.request] {
            node.ask(request).map_err(explain)?;
        }
        self.path = Some(std::path::absolute(&path).unwrap_or(path));
        Ok(node)
    }

    /// What came next; never waits.
    pub(super) fn next(&mut self) -> Result<Came, Fault> {
        let (Some(connection), Some(path)) = (&mut self.connection, &self.path) else {
            return Ok(Came::Nothing);
        };
        let result = match connection.node.poll_result() {
            Ok(Polled::Nothing) => return Ok(Came::Nothing),
            Ok(Polled::Result(result)) => result,
            Ok(Polled::Ended) => {
                let text = format!("the node at {} stopped", path.display());
                self.wait_for_it(&text);
                return Ok(Came::Ended);
            }
            Err(failure) => {
                let fault = socket::explain(failure, path);
                // Such a request would never be taken.
                if matches!(fault, Fault::Usage(_)) {
                    return Err(fault);
                }
                self.wait_for_it(fault.text().unwrap_or_default());
                return Ok(Came::Ended);
            }
        };
        connection.answers = (connection.answers + 1).min(ANSWERS + 1);
        // A long snapshot takes as long as it takes: it is silence that has a limit.
        if connection.silent_until.is_some() {
            connection.silent_until = Some(Instant::now() + ANSWER_TIME);
        }
        let answer = match connection.answers {
            1 => Answer::Status,
            2 => Answer::Peers,
            _ => Answer::Event,
        };
        if answer == Answer::Event && print::text(&result, "event") == "watching" {
            connection.silent_until = None;
            self.wait = LOOK_FIRST;
            if std::mem::take(&mut self.said) {
                log::info!("the node is there");
            }
        }
        Ok(Came::Answer(answer, result))
    }

    /// All that is there is asked for anew.
    pub(super) fn ask_anew(&mut self, now: Instant) {
        self.connection = None;
        self.look_at = now;
    }

    /// Says so once, until it is there.
    fn wait_for_it(&mut self, why: &str) {
        self.connection = None;
        if !std::mem::replace(&mut self.said, true) {
            log::warn!("{}; waiting for it", print::message(why));
        }
        self.look_at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(LOOK_MAX);
    }
}

//! `watch` and `recv`: answers that come one after the other, until something ends that.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure, Woken, bytes_from_json};
use serde_json::{Value as Json, json};

use super::args::Options;
use super::commands::GRACE;
use super::streams::stdout;
use super::{Fault, print, socket, tell};

/// How often a node that stopped is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// When it ends.
#[derive(Default)]
pub(super) struct Plan {
    /// After so many.
    pub(super) count: Option<u64>,
    /// Not when the node stops.
    pub(super) reconnect: bool,
    /// When the time is over; else the node says when it is.
    pub(super) is_timed: bool,
}

/// What is done with what comes.
pub(super) enum Taker {
    Events,
    Messages(Form),
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) sender: bool,
    pub(super) raw: bool,
    /// What stands behind each off a terminal.
    pub(super) end: Option<u8>,
}

/// How one connection came to its end.
enum End {
    Done,
    TimeIsUp,
    /// The node stopped, or let us go; more may come over another connection.
    Gone(Fault),
}

pub(super) struct Following<'a> {
    options: &'a Options,
    taker: Taker,
    plan: Plan,
    until: Option<Instant>,
    taken: u64,
}

impl<'a> Following<'a> {
    pub(super) fn new(options: &'a Options, taker: Taker, plan: Plan) -> Self {
        let until = options.limit.filter(|_| plan.is_timed).map(|limit| Instant::now() + limit);
        Self { options, taker, plan, until, taken: 0 }
    }

    pub(super) fn run(mut self, mut request: Json) -> Result<(), Fault> {
        let mut waits = false;
        loop {
            let gone = match self.over_one_connection(&request, &mut waits)? {
                End::Done => return Ok(()),
                End::TimeIsUp => return self.time_is_up(),
                End::Gone(fault) => fault,
            };
            if !self.plan.reconnect {
                return Err(gone);
            }
            if !waits {
                if let Some(text) = gone.text() {
                    tell(&format!("{text}; waiting for it"));
                }
                waits = true;
                // A node that was started anew may not have met it again yet.
                if let Json::Object(fields) = &mut request {
                    fields.insert("unknown".into(), true.into());
                }
            }
            if !pause(self.until.map_or(LOOK_EVERY, left).min(LOOK_EVERY)) {
                return Ok(());
            }
            if self.until.is_some_and(|until| left(until).is_zero()) {
                return self.time_is_up();
            }
        }
    }

    fn over_one_connection(&mut self, request: &Json, waits: &mut bool) -> Result<End, Fault> {
        let found = socket::find(self.options)
            .and_then(|path| Ok((socket::connect(&path, self.options)?, path)));
        let (mut node, path) = match found {
            Ok(found) => found,
            Err(fault @ Fault::NoNode(_)) => return Ok(End::Gone(fault)),
            Err(fault) => return Err(fault),
        };
        let explain = |failure| socket::explain(failure, &path);
        node.ask(request).map_err(explain)?;
        loop {
            let patience = match self.until {
                Some(until) => Some(left(until)),
                None if self.plan.is_timed => None,
                None => Some(self.options.timeout().saturating_add(GRACE)),
            };
            match node.await_line(stdout().as_fd(), patience).map_err(explain)? {
                Woken::Answer => {}
                Woken::Closed => return Err(Fault::ReaderGone),
                Woken::Late if self.plan.is_timed => return Ok(End::TimeIsUp),
                Woken::Late => return Err(explain(Failure::Late)),
            }
            let result = match node.next_result(Some(self.options.timeout().max(GRACE))) {
                Ok(Some(result)) => result,
                Ok(None) => return Ok(End::Gone(why_it_ended(&node, &path))),
                Err(Failure::Stopped) => return Ok(End::Gone(stopped(&path))),
                Err(failure) => return Err(explain(failure)),
            };
            if std::mem::take(waits) {
                tell("the node is back");
            }
            if self.take(&result, &mut node).map_err(|fault| match fault {
                Taken::Fault(fault) => fault,
                Taken::Failure(failure) => explain(failure),
            })? {
                return Ok(End::Done);
            }
        }
    }

    /// Prints what came; says whether it was the last.
    fn take(&mut self, result: &Json, node: &mut ControlClient) -> Result<bool, Taken> {
        let counts = match &self.taker {
            Taker::Events => {
                let line =
                    if self.options.json { print::json(result) } else { print::event(result) };
                writeln!(stdout(), "{line}")?;
                !matches!(print::text(result, "event"), "watching" | "snapshot")
            }
            Taker::Messages(_) if self.options.json => {
                writeln!(stdout(), "{}", print::json(result))?;
                true
            }
            Taker::Messages(form) => {
                print_message(result, *form)?;
                true
            }
        };
        if let Taker::Messages(_) = self.taker {
            // Only what is printed is gone from the inbox.
            node.ask(&json!({ "op": "ack" })).map_err(Taken::Failure)?;
        }
        self.taken += u64::from(counts);
        Ok(self.plan.count.is_some_and(|count| self.taken >= count))
    }

    fn time_is_up(&self) -> Result<(), Fault> {
        match self.plan.count {
            None => Ok(()),
            Some(count) => Err(Fault::No(format!(
                "timed out: {} of {count} came within {:?}",
                self.taken,
                self.options.timeout()
            ))),
        }
    }
}

/// Why what came was not taken.
enum Taken {
    Fault(Fault),
    Failure(Failure),
}

impl From<std::io::Error> for Taken {
    fn from(why: std::io::Error) -> Self {
        Self::Fault(why.into())
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Waits; says whether somebody still reads what is printed.
fn pause(time: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let (out, time) = (stdout(), Timespec::try_from(time).unwrap_or_default());
    let mut ends = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::empty())];
    !matches!(poll(&mut ends, Some(&time)), Ok(1..))
}

fn stopped(path: &Path) -> Fault {
    Fault::NoNode(format!("the node at {} stopped: nothing more comes", path.display()))
}

/// The connection ended without a word: the node did, or it had enough of us.
fn why_it_ended(node: &ControlClient, path: &Path) -> Fault {
    if !node.is_still_at(path) {
        return stopped(path);
    }
    Fault::No(format!(
        "the node at {} let this reader go, as it took no line for 10 s: read faster, or ask for less",
        path.display()
    ))
}

fn print_message(message: &Json, form: Form) -> Result<(), std::io::Error> {
    let bytes = message.get("data").and_then(bytes_from_json).unwrap_or_default();
    let from = print::text(message, "from");
    let mut out = stdout();
    if out.is_terminal() && !form.raw && form.end != Some(0) {
        return writeln!(out, "{from}  {}", print::for_a_terminal(&bytes));
    }
    let sender = if form.sender { format!("{from}\t") } else { String::new() };
    out.write_all(&[sender.as_bytes(), &bytes, form.end.as_slice()].concat())
}

//! `dsn top`: all nodes on a full screen, for those who come by ssh.

mod keys;
mod screen;
mod view;

use std::io::{Error, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure, Polled};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};

use super::args::{Options, Sort};
use super::streams::{stdin, stdout};
use super::{Fault, print, socket};
use screen::Screen;
use view::{Next, Said, View};

/// How often the node is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer: keys wait meanwhile.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Most changes that are taken before the screen is drawn again.
const CHANGES_AT_ONCE: usize = 256;
/// Most bytes that are read of what was pressed at once, and that are put together of such reads.
const KEY_BYTES: usize = 256;
const KEYS_BYTES_MAX: usize = 4096;
/// How long the rest of a key may take, over a slow line.
const CUT_OFF_TIME: Duration = Duration::from_millis(50);

/// What to show, from the command line.
pub(super) struct Wanted {
    pub(super) once: bool,
    pub(super) sort: Sort,
    pub(super) filter: String,
}

/// Shows all nodes, once or until somebody ends it.
pub(super) fn top(wanted: Wanted, options: &Options) -> Result<(), Fault> {
    let is_full = !(wanted.once || options.json);
    if is_full {
        check_terminal()?;
    }
    let path = socket::find(options)?;
    let mut node = Asked { path, line: None, changes: None, answered: Instant::now() };
    let view = View::new(wanted.sort, wanted.filter);
    let mut said = Said::default();
    // A node that is not there at the beginning is a fault; later it may come back.
    let limit = options.timeout();
    node.ask(&mut said, None, limit).map_err(|failure| socket::explain(failure, &node.path))?;
    if !is_full {
        return once(&view, &said, options.json);
    }
    let signals = Signals::new()?;
    let screen = Screen::enter()?;
    Showing { screen, signals, node, view, said }.run().map_err(Fault::from)
}

/// Whether there is a terminal that knows what a full screen is drawn with.
fn check_terminal() -> Result<(), Fault> {
    let instead = "`dsn top --once` prints the table";
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        let text = format!("a full screen needs a terminal on stdin and stdout; {instead}");
        return Err(Fault::usage(text));
    }
    let name = std::env::var_os("TERM").unwrap_or_default();
    match name.to_str() {
        Some("dumb" | "unknown") => Err(Fault::usage(format!(
            "this terminal has no full screen (TERM={}); {instead}",
            name.display()
        ))),
        Some("") => Err(Fault::usage(format!(
            "TERM does not say which terminal this is: set it, as in TERM=xterm dsn top; {instead}"
        ))),
        _ => Ok(()),
    }
}

fn once(view: &View, said: &Said, as_json: bool) -> Result<(), Fault> {
    let mut out = stdout();
    if as_json {
        let all = json!({ "status": said.status, "peers": said.peers });
        writeln!(out, "{}", print::json(&all))?;
    } else {
        for line in view.all_lines(said) {
            writeln!(out, "{}", line.text)?;
        }
    }
    Ok(())
}

/// Signals that were heard: each ends a wait.
struct Signals {
    end: Arc<AtomicBool>,
    stand_still: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let (end, stand_still) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&end))?;
        }
        signal_hook::flag::register(SIGTSTP, Arc::clone(&stand_still))?;
        // Nobody reads that one: the screen is drawn after each wait.
        signal_hook::flag::register(SIGWINCH, Arc::default())?;
        Ok(Self { end, stand_still })
    }
}

/// The node, over two connections that are made again when they end.
struct Asked {
    path: PathBuf,
    line: Option<ControlClient>,
    /// Where changes come.
    changes: Option<ControlClient>,
    /// When it answered last.
    answered: Instant,
}

impl Asked {
    fn ask(&mut self, said: &mut Said, open: Option<&str>, limit: Duration) -> Result<(), Failure> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => ControlClient::connect(&self.path, limit)?,
        };
        said.status = line.call(&json!({ "op": "status" }), limit)?;
        said.peers = line.call(&json!({ "op": "peers" }), limit)?;
        said.state = match open {
            None => Json::Null,
            // It may have been forgotten meanwhile.
            Some(node) => match line.call(&json!({ "op": "state", "node": node }), limit) {
                Err(Failure::No(_)) => Json::Null,
                other => other?,
            },
        };
        self.line = Some(line);
        self.answered = Instant::now();
        Ok(())
    }

    /// The same, and what it did not say is said.
    fn refresh(&mut self, said: &mut Said, open: Option<&str>) {
        let asked = self.ask(said, open, ANSWER_TIME);
        said.silent =
            asked.err().map(|failure| (failure.to_string(), self.answered.elapsed().as_secs()));
        if self.changes.is_none() && said.silent.is_none() {
            self.changes = self.watch().ok();
        }
    }

    fn watch(&self) -> Result<ControlClient, Failure> {
        let mut changes = ControlClient::connect(&self.path, ANSWER_TIME)?;
        changes.ask(&json!({ "op": "watch" }))?;
        Ok(changes)
    }

    /// Takes what happened, as much as there is.
    fn take_changes(&mut self, said: &mut Said) {
        for _ in 0..CHANGES_AT_ONCE {
            let Some(changes) = &mut self.changes else { return };
            match changes.poll_result() {
                Ok(Polled::Nothing) => return,
                Ok(Polled::Result(event)) => said.note(&event),
                Ok(Polled::Ended) | Err(_) => self.changes = None,
            }
        }
    }
}

struct Showing {
    screen: Screen,
    signals: Signals,
    node: Asked,
    view: View,
    said: Said,
}

impl Showing {
    fn run(mut self) -> Result<(), Error> {
        let mut ask_at = Instant::now();
        loop {
            if self.signals.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.signals.stand_still.swap(false, Ordering::Relaxed) {
                self.screen.stand_still()?;
            }
            if Instant::now() >= ask_at {
                self.node.refresh(&mut self.said, self.view.open());
                ask_at = Instant::now() + ASK_EVERY;
            }
            self.node.take_changes(&mut self.said);
            let lines = self.view.lines(&self.said, self.screen.size());
            self.screen.show(&lines)?;
            if !self.wait(ask_at)? {
                continue;
            }
            match self.take_keys()? {
                Next::End => return Ok(()),
                Next::StandStill => self.screen.stand_still()?,
                Next::Ask => ask_at = Instant::now(),
                Next::Show => {}
            }
        }
    }

    /// Waits for a key, a change or the time; says whether there is a key.
    fn wait(&self, until: Instant) -> Result<bool, Error> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let keys = stdin();
        let mut ends = vec![PollFd::from_borrowed_fd(keys.as_fd(), PollFlags::IN)];
        ends.extend(self.node.changes.iter().map(|it| PollFd::new(it, PollFlags::IN)));
        match poll(&mut ends, Some(&left)) {
            Ok(_) => Ok(ends.first().is_some_and(|keys| !keys.revents().is_empty())),
            // A signal.
            Err(Errno::INTR) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    /// Reads past the buffer of the standard library: what is in that, no wait would see.
    fn take_keys(&mut self) -> Result<Next, Error> {
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        loop {
            let mut part = [0; KEY_BYTES];
            match rustix::io::read(stdin(), &mut part) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => bytes.extend_from_slice(part.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                // The terminal is gone.
                Err(_) => return Ok(Next::End),
            }
            // The rest of a key that was cut off comes at once, or it was the key Esc.
            let is_over = bytes.len() >= KEYS_BYTES_MAX || !keys::is_cut_off(&bytes);
            if is_over || !has_more(CUT_OFF_TIME)? {
                break;
            }
        }
        let mut next = Next::Show;
        for key in keys::keys(&bytes) {
            match self.view.on_key(key, &self.said) {
                Next::Show => {}
                other @ (Next::End | Next::StandStill) => return Ok(other),
                Next::Ask => next = Next::Ask,
            }
        }
        Ok(next)
    }
}

/// Whether more was pressed, or is within the time.
fn has_more(time: Duration) -> Result<bool, Error> {
    let keys = stdin();
    let mut ends = [PollFd::from_borrowed_fd(keys.as_fd(), PollFlags::IN)];
    let time = Timespec::try_from(time).unwrap_or_default();
    match poll(&mut ends, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(why) => Err(why.into()),
    }
}

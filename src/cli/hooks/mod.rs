//! `dsn on`: a command for each change. One thread waits for all: the node, the commands, their
//! pipes, signals. plan.rs decides what is to be run.

mod form;
mod plan;
mod run;
mod source;

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsn::protocol::identity::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::args::{OnArgs, Options};
use super::signals::has_terminal;
use super::typed::only_key;
use super::{Fault, log as lines, print};
use dsn::order::{Gather, ListMap};
use plan::{After, Limits, News, NoRoom, Plan, State};
use run::{Ended, Recipe, Run};
use source::{Answer, Came, Source};

/// How long a command may take where nothing is said.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Longest time that may be said for it: a year, for what is meant to have no limit.
const TIME_LIMIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long commands that run may take when all is to end, before they are told to end, too.
const STOP_TIME: Duration = Duration::from_secs(5);
/// Least time between snapshots that are asked for as one lacked something: the state of a node, or
/// room for something. It doubles from one to the next.
const ANEW_MIN: Duration = Duration::from_secs(1);
/// The longest such time, where nothing is told of such a node meanwhile.
const ANEW_MAX: Duration = Duration::from_secs(60);
/// Two runs of a node began at times that are further apart: it tells its age in whole seconds.
const SAME_RUN: Duration = Duration::from_secs(2);
/// Most events that are taken in one turn: commands that end are heard of meanwhile.
const TURN_EVENTS: usize = 256;

/// Runs the command for each change, until a signal ends that.
pub(super) fn run(flags: OnArgs, options: &Options) -> Result<(), Fault> {
    lines::start()?;
    if let Some(node) = &flags.node {
        // Else it would be waited for, too.
        NodeId::new(node).map_err(Fault::usage)?;
    }
    flags.key.iter().try_for_each(|prefix| only_key("--key", prefix))?;
    let program = flags.command.first().map(Path::new).unwrap_or(Path::new(""));
    if let Err(why) = find(program) {
        let step = match why.kind() {
            ErrorKind::PermissionDenied => {
                format!("Make it a program: chmod +x {}", program.display())
            }
            _ => "What stands behind -- is run as it is, without a shell; for one: -- sh -c '…'"
                .into(),
        };
        let name = program.to_string_lossy();
        let name = if name.is_empty() { "\"\"" } else { &name };
        return Err(Fault::Usage(format!("the command {name} can't be run: {why}. {step}")));
    }
    let signals =
        Signals::new().map_err(|why| Fault::No(format!("signals can't be handled: {why}")))?;
    let time_limit = options.limit.unwrap_or(TIME_LIMIT);
    if time_limit > TIME_LIMIT_MAX || time_limit.is_zero() {
        let text = "a command may take a year at most (--timeout 365d), and needs some time";
        return Err(Fault::usage(text));
    }
    let request = json!({
        "op": "watch", "node": flags.node, "key": flags.key, "initial": true, "unknown": true,
    });
    let limits = Limits { jobs: flags.jobs.into(), retries: flags.retry, initial: flags.initial };
    let recipe = Recipe { command: flags.command, time_limit };
    let hooks = Hooks {
        plan: Plan::new(limits),
        source: Source::new(options, request),
        recipe,
        events: flags.event,
        named: flags.node.filter(|node| node != "self"),
        runs: Vec::new(),
        own: String::new(),
        run_began: None,
        held: BTreeSet::new(),
        known: BTreeSet::new(),
        absent: ListMap::new(),
        lacking: false,
        anew_at: None,
        anew_wait: ANEW_MIN,
        read_at: Instant::now(),
        began: Instant::now(),
        stop: None,
        fault: None,
    };
    hooks.work(&signals)
}

/// Whether the system would find the program.
fn find(program: &Path) -> Result<(), Error> {
    use rustix::fs::{Access, access};
    let try_it = |file: &Path| {
        if file.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        access(file, Access::EXEC_OK).map_err(Error::from)
    };
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return try_it(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let found = std::env::split_paths(&path).any(|folder| try_it(&folder.join(program)).is_ok());
    let missing = "no program of that name is in the folders of PATH";
    if found { Ok(()) } else { Err(Error::new(ErrorKind::NotFound, missing)) }
}

/// Bytes that the handlers of signals write, one for each.
struct Signals {
    child: UnixStream,
    stop: UnixStream,
    hang_up: UnixStream,
    had_terminal: bool,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let heard = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            Ok::<_, Error>(read)
        };
        Ok(Self {
            child: heard(&[SIGCHLD])?,
            stop: heard(&[SIGTERM, SIGINT])?,
            hang_up: heard(&[SIGHUP])?,
            had_terminal: has_terminal(),
        })
    }

    /// How often it was said since the last look that all is to end.
    fn stops(&self) -> usize {
        let count = |mut from: &UnixStream| from.read(&mut [0; 64]).unwrap_or(0);
        count(&self.child);
        // The same signal says that the terminal is gone in which this was started.
        let is_gone = count(&self.hang_up) > 0 && self.had_terminal && !has_terminal();
        count(&self.stop) + usize::from(is_gone)
    }
}

struct Hooks<'a> {
    plan: Plan,
    source: Source<'a>,
    recipe: Recipe,
    /// Which events the command is to hear of; all if none is named.
    events: Vec<String>,
    /// The node that was named, until it is known.
    named: Option<String>,
    runs: Vec<Run>,
    /// The node that tells, and the others whose states it held before the last snapshot.
    own: String,
    /// About when it was started.
    run_began: Option<Instant>,
    held: BTreeSet<String>,
    /// All that it knew of then; and those that keys are remembered of and that it did not know of,
    /// with when that was seen first.
    known: BTreeSet<String>,
    absent: ListMap<String, Instant>,
    /// Keys are remembered of nodes whose states were not held.
    lacking: bool,
    anew_at: Option<Instant>,
    anew_wait: Duration,
    /// When the last snapshot was read.
    read_at: Instant,
    began: Instant,
    stop: Option<Stop>,
    /// Why all ends, where that is no signal.
    fault: Option<Fault>,
}

/// All ends: when what still runs is told to end.
struct Stop {
    end_at: Option<Instant>,
}

impl Hooks<'_> {
    fn work(mut self, signals: &Signals) -> Result<(), Fault> {
        loop {
            let now = Instant::now();
            for _ in 0..signals.stops() {
                self.stop(now);
            }
            self.turn_runs(now);
            let mut is_more = false;
            if self.stop.is_some() {
                self.end_runs(now);
                if self.runs.is_empty() {
                    log::info!("stopped");
                    return self.fault.map_or(Ok(()), Err);
                }
            } else {
                if self.anew_at.is_some_and(|at| at <= now) {
                    self.anew_at = None;
                    self.source.ask_anew(now);
                }
                match self.source.look(now).and_then(|()| self.take_events()) {
                    Ok(more) => is_more = more,
                    // What runs is ended first: a next one would run beside it.
                    Err(fault) => {
                        self.fault = Some(fault);
                        self.stop(now);
                        continue;
                    }
                }
                self.start_runs();
            }
            self.wait(signals, is_more)
                .map_err(|why| Fault::No(format!("nothing can be waited for: {why}")))?;
        }
    }

    /// Until something comes or is due.
    fn wait(&self, signals: &Signals, is_more: bool) -> Result<(), Error> {
        let plan_due = self.plan.due().map(|ms| self.began + Duration::from_millis(ms));
        let stop_due = self.stop.as_ref().and_then(|stop| stop.end_at);
        let runs_due = self.runs.iter().filter_map(Run::due).min();
        let is_over = self.stop.is_some();
        let others = [plan_due, self.source.due(), self.anew_at];
        let others = others.into_iter().flatten().filter(|_| !is_over).min();
        let due = [stop_due, runs_due, others].into_iter().flatten().min();
        let mut time = due.map(|due| due.saturating_duration_since(Instant::now()));
        if is_more {
            time = Some(Duration::ZERO);
        }
        // What does not fit is as good as no limit.
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut ends: Vec<PollFd<'_>> = [&signals.child, &signals.stop, &signals.hang_up]
            .map(|end| PollFd::new(end, PollFlags::IN))
            .into();
        if let Some(node) = self.source.descriptor().filter(|_| !is_over) {
            ends.push(PollFd::from_borrowed_fd(node, PollFlags::IN));
        }
        for (end, flags) in self.runs.iter().flat_map(Run::descriptors) {
            ends.push(PollFd::from_borrowed_fd(end, flags));
        }
        match poll(&mut ends, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says whether there is more to take at once.
    fn take_events(&mut self) -> Result<bool, Fault> {
        for _ in 0..TURN_EVENTS {
            match self.source.next()? {
                Came::Nothing | Came::Ended => return Ok(false),
                Came::Answer(Answer::Status, status) => {
                    self.own = print::text(&status, "node_id").to_owned();
                    self.note_run(print::number(&status, "uptime_s"));
                }
                Came::Answer(Answer::Peers, peers) => self.take_peers(&peers),
                Came::Answer(Answer::Event, event) => self.take_event(&event),
            }
        }
        Ok(true)
    }

    /// Whether it is the run of the node that told before, by how long it runs.
    fn note_run(&mut self, uptime_s: u64) {
        let began = Instant::now().checked_sub(Duration::from_secs(uptime_s));
        let is_same = self.run_began.zip(began).is_some_and(|(before, now)| {
            now.saturating_duration_since(before) < SAME_RUN
                && before.saturating_duration_since(now) < SAME_RUN
        });
        self.run_began = began;
        self.plan.note_run(!is_same);
    }

    /// Whose states the node holds.
    fn take_peers(&mut self, peers: &Json) {
        let peers = print::list(peers);
        let name = |peer: &Json| print::text(peer, "node_id").to_owned();
        let is_held = |peer: &&Json| peer.get("timestamp").and_then(Json::as_u64) > Some(0);
        self.held = peers.iter().filter(is_held).map(name).gathered();
        self.held.insert(self.own.clone());
        self.known = peers.iter().map(name).gathered();
        self.absent.retain(|node, _| !self.known.contains(node));
        if let Some(named) = self.named.take()
            && named != self.own
            && !peers.iter().any(|peer| name(peer) == named)
        {
            log::warn!("no node {} is known here yet; waiting for it", print::message(&named));
        }
    }

    fn take_event(&mut self, event: &Json) {
        let now = Instant::now();
        match print::text(event, "event") {
            "snapshot" => self.plan.begin_snapshot(),
            "watching" => {
                let time = Arc::from(print::text(event, "time"));
                let news = News { state: State::Nothing, time, timestamp: None };
                let Self { held, known, absent, .. } = self;
                // One that is not known for so long was forgotten, and its keys are gone.
                let mut is_forgotten = |node: &str| {
                    let since = absent.get(node).copied().unwrap_or_else(|| {
                        absent.insert(node.to_owned(), now);
                        now
                    });
                    now.saturating_duration_since(since) >= ANEW_MAX
                };
                let is_held = |node: &str| {
                    held.contains(node) || (!known.contains(node) && is_forgotten(node))
                };
                self.lacking = self.plan.end_snapshot(is_held, &news);
                self.read_at = now;
                let again = self.lacking || self.plan.has_left_out();
                self.anew_at = again.then_some(now + self.anew_wait);
                self.anew_wait = if again { (self.anew_wait * 2).min(ANEW_MAX) } else { ANEW_MIN };
                log::debug!("all that is there was read");
            }
            "lagged" => {
                log::warn!("the node told faster than could be read; all is read anew");
                // Not faster than it can be read.
                self.anew_at = Some(now.max(self.read_at + ANEW_MIN));
            }
            _ => self.take_news(event),
        }
    }

    fn take_news(&mut self, event: &Json) {
        let Some((subject, news)) = form::news_of(event) else { return };
        if self.lacking && !self.held.contains(&*subject.node) {
            // Its state may have come; what is gone of it no event tells.
            let at = self.read_at + ANEW_MIN;
            self.anew_at = Some(self.anew_at.map_or(at, |known| known.min(at)));
        }
        if self.plan.is_in_snapshot() && subject.key.is_some() {
            // It came after it was asked whose states are held.
            self.held.insert(subject.node.to_string());
        }
        let name = form::event_of(&news);
        let wanted = self.events.is_empty() || self.events.iter().any(|event| event == name);
        let had_left_out = self.plan.has_left_out();
        if let Err(NoRoom) = self.plan.told(&subject, news, wanted)
            && !had_left_out
        {
            self.anew_at.get_or_insert(Instant::now() + ANEW_MAX);
            log::error!(
                "there are more keys and values than can be remembered; some changes are not handed on. Name a NODE, \
                 or fewer keys with --key"
            );
        }
    }

    fn start_runs(&mut self) {
        let now_ms = self.now_ms();
        while let Some(start) = self.plan.start(now_ms) {
            match self.recipe.start(start, self.source.path().map(|path| path.as_path())) {
                Ok(run) => self.runs.push(run),
                Err((start, why)) => self.ended(&start, &Ended::CantStart(why)),
            }
        }
    }

    fn turn_runs(&mut self, now: Instant) {
        let limit = self.recipe.time_limit;
        let mut at = 0;
        while let Some(run) = self.runs.get_mut(at) {
            match run.turn(now, limit) {
                None => at += 1,
                Some(ended) => {
                    let run = self.runs.swap_remove(at);
                    self.ended(&run.start, &ended);
                }
            }
        }
    }

    fn ended(&mut self, start: &plan::Start, ended: &Ended) {
        let now_ms = self.now_ms();
        let after = self.plan.ended(&start.subject, ended.is_done(), now_ms);
        if ended.is_done() {
            return;
        }
        let (name, event) = (form::name_of(&start.subject), form::event_of(&start.news));
        match after {
            After::Again { in_ms, number } if self.stop.is_none() => log::warn!(
                "{name}: the command for `{event}` failed: {ended}; it is tried again in {} s ({number})",
                in_ms / 1000
            ),
            _ => log::warn!("{name}: the command for `{event}` failed: {ended}"),
        }
    }

    /// Nothing more begins. Said again, what runs is told to end at once.
    fn stop(&mut self, now: Instant) {
        match &mut self.stop {
            None => {
                if !self.runs.is_empty() {
                    log::info!("{} commands run; waiting for them", self.runs.len());
                }
                self.stop = Some(Stop { end_at: Some(now + STOP_TIME) });
            }
            Some(stop) => stop.end_at = stop.end_at.map(|_| now),
        }
    }

    fn end_runs(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else { return };
        if stop.end_at.is_some_and(|at| at <= now) {
            stop.end_at = None;
            self.runs.iter_mut().for_each(|run| run.end(now, None));
        }
    }
}

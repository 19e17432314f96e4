//! One command that runs: its stdin, what it prints, how long it may take, and its end.

use std::ffi::OsString;
use std::fmt;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::form;
use super::plan::Start;
use crate::cli::print;

/// How long a command that was told to end (SIGTERM) may take.
pub(super) const END_TIME: Duration = Duration::from_secs(2);
/// Longest line of its output that is logged, bytes; what is longer is cut.
const LINE_BYTES_MAX: usize = 1024;
/// Most bytes that are read of its output in one turn: others have theirs.
const TURN_BYTES: usize = 64 * 1024;

/// A command, ready to be started for one subject after the other.
pub(super) struct Recipe {
    pub(super) command: Vec<OsString>,
    pub(super) time_limit: Duration,
}

/// How a command ended.
pub(super) enum Ended {
    Exit(ExitStatus),
    /// It took too long.
    Late(Duration),
    /// It was ended, as all ends.
    Stopped,
    CantStart(Error),
}

impl Ended {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Exit(status) if status.success())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(formatter, "exit code {code}"),
                (None, Some(signal)) => {
                    let name = signal_hook::low_level::signal_name(signal).unwrap_or("unknown");
                    write!(formatter, "ended by signal {signal} ({name})")
                }
                (None, None) => write!(formatter, "{status}"),
            },
            Self::Late(time) => {
                write!(
                    formatter,
                    "not done within {}, and ended",
                    humantime::format_duration(*time)
                )
            }
            Self::Stopped => write!(formatter, "ended, as `dsn on` stops"),
            Self::CantStart(why) => write!(formatter, "it can't be started: {why}"),
        }
    }
}

/// A command that runs, in a process group of its own.
pub(super) struct Run {
    pub(super) start: Start,
    name: String,
    child: Child,
    group: Pid,
    /// What it did not read yet of its line.
    line: Vec<u8>,
    output: [Output; 2],
    /// When it has to be told, or made, to end.
    end_at: Instant,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy)]
struct Ending {
    /// Because it took too long.
    is_late: Option<Duration>,
    killed: bool,
}

/// One of the two ends that it prints to, as lines for the log.
struct Output {
    pipe: Option<Box<dyn Pipe>>,
    line: Vec<u8>,
    /// The rest of a line that was logged as far as it goes.
    skips: bool,
}

trait Pipe: Read + AsFd {}
impl<P: Read + AsFd> Pipe for P {}

impl Recipe {
    /// Starts the command. No value is among its arguments, and no shell sees any.
    pub(super) fn start(
        &self,
        start: Start,
        control: Option<&Path>,
    ) -> Result<Run, (Start, Error)> {
        match self.spawn(&start, control) {
            Ok((child, group, output)) => Ok(Run {
                name: form::name_of(&start.subject),
                line: form::line_of(&start).into_bytes(),
                start,
                child,
                group,
                output,
                end_at: Instant::now() + self.time_limit,
                ending: None,
            }),
            Err(why) => Err((start, why)),
        }
    }

    fn spawn(
        &self,
        start: &Start,
        control: Option<&Path>,
    ) -> Result<(Child, Pid, [Output; 2]), Error> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(ErrorKind::NotFound.into());
        };
        let mut command = Command::new(program);
        command.args(arguments);
        for name in form::VARIABLES {
            command.env_remove(name);
        }
        command.envs(form::environment_of(start));
        if let Some(control) = control {
            command.env("DSN_CONTROL", control);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // So that all of it can be ended, and Ctrl-C in a terminal does not do that too early.
        let mut child = command.process_group(0).spawn()?;
        let group = Pid::from_child(&child);
        let ends = [child.stdout.take().map(output), child.stderr.take().map(output)];
        let stdin =
            child.stdin.as_ref().map_or(Ok(()), |stdin| rustix::io::ioctl_fionbio(stdin, true));
        match (ends, stdin) {
            ([Some(Ok(out)), Some(Ok(err))], Ok(())) => Ok((child, group, [out, err])),
            _ => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                Err(Error::other("its pipes can't be used"))
            }
        }
    }
}

fn output(pipe: impl Pipe + 'static) -> Result<Output, Error> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    Ok(Output { pipe: Some(Box::new(pipe)), line: Vec::new(), skips: false })
}

impl Run {
    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let stdin = self.child.stdin.iter().map(|stdin| (stdin.as_fd(), PollFlags::OUT));
        let pipes = self.output.iter().filter_map(|output| output.pipe.as_ref());
        stdin.chain(pipes.map(|pipe| (pipe.as_fd(), PollFlags::IN)))
    }

    /// When it is to be told, or made, to end.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.ending.is_some_and(|ending| ending.killed)).then_some(self.end_at)
    }

    /// Passes on what there is, each way; says how it ended, when it did.
    pub(super) fn turn(&mut self, now: Instant, limit: Duration) -> Option<Ended> {
        self.write();
        for output in &mut self.output {
            output.read(&self.name);
        }
        if self.due().is_some_and(|due| due <= now) {
            self.end(now, Some(limit));
        }
        // Looked at first and reaped below: until then its group is no other one's.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(waitid(WaitId::Pid(self.group), options), Ok(None)) {
            return None;
        }
        // What it left behind would run beside its successor.
        let _ = kill_process_group(self.group, Signal::KILL);
        let status = self.child.wait();
        for output in &mut self.output {
            output.read(&self.name);
            output.finish(&self.name);
        }
        Some(match (self.ending, status) {
            (Some(Ending { is_late: Some(limit), .. }), _) => Ended::Late(limit),
            (Some(_), _) => Ended::Stopped,
            (None, Ok(status)) => Ended::Exit(status),
            (None, Err(why)) => Ended::CantStart(why),
        })
    }

    /// Tells it to end, and makes it when that was in vain.
    pub(super) fn end(&mut self, now: Instant, is_late: Option<Duration>) {
        let signal = if self.ending.is_some() { Signal::KILL } else { Signal::TERM };
        let is_late = self.ending.map_or(is_late, |ending| ending.is_late);
        self.ending = Some(Ending { is_late, killed: signal == Signal::KILL });
        self.end_at = now + END_TIME;
        // It may have ended; then that is found next.
        let _ = kill_process_group(self.group, signal);
    }

    /// One that does not read its stdin, or closed it, is right to do so.
    fn write(&mut self) {
        let Some(stdin) = &mut self.child.stdin else { return };
        loop {
            match stdin.write(&self.line) {
                Ok(0) => break,
                Ok(written) => drop(self.line.drain(..written)),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
            if self.line.is_empty() {
                break;
            }
        }
        self.child.stdin = None;
    }
}

impl Output {
    fn read(&mut self, name: &str) {
        let mut bytes = [0; 4096];
        let mut left = TURN_BYTES;
        while let Some(pipe) = &mut self.pipe
            && left > 0
        {
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    left = left.saturating_sub(length);
                    self.take(bytes.get(..length).unwrap_or_default(), name);
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], name: &str) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_end = part.ends_with(b"\n");
            let part = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LINE_BYTES_MAX - self.line.len();
            if !self.skips {
                self.line.extend_from_slice(part.get(..room).unwrap_or(part));
            }
            let is_cut = !self.skips && part.len() > room;
            if is_cut || is_end && !self.skips {
                self.log(name, is_cut);
            }
            self.skips = !is_end && (self.skips || is_cut);
        }
    }

    fn log(&mut self, name: &str, is_cut: bool) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        // As one line, whatever is in it.
        let text = String::from_utf8_lossy(line).replace('\r', " ");
        let more = if is_cut { "…" } else { "" };
        log::info!("{name}: {}{more}", print::message(&text));
    }

    /// A last line without its end.
    fn finish(&mut self, name: &str) {
        self.pipe = None;
        if !self.line.is_empty() {
            self.log(name, false);
        }
    }
}

//! The command line.

mod args;
mod commands;
mod entries;
mod follow;
mod group;
mod hooks;
mod http;
mod log;
mod metrics;
mod names;
mod notify;
mod print;
mod run;
mod settings;
mod signals;
mod socket;
mod streams;
mod top;
mod typed;
mod usage;
mod wrong;

use std::ffi::OsString;
use std::fmt;
use std::io::{Error, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use dsn::credentials::CredentialsError;
use dsn::named::Unreadable;
use dsn::runtime::StartError;

use args::{Arguments, Command, Options};
use settings::Variables;
use streams::stdout;
use wrong::ConfigError;

/// Runs the command that was given; the one place where faults become exit codes.
pub(crate) fn main() -> ExitCode {
    // A file that may not grow (`ulimit -f`) is an error like any other, and no end of the process.
    // Where that can't be had, it is the end.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let mut definitions = Arguments::definitions();
    let words: Vec<OsString> = std::env::args_os().collect();
    let parsed = definitions.try_get_matches_from_mut(&words);
    let parsed = parsed.and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches);
        let arguments = arguments.map_err(|fault| fault.format(&mut definitions))?;
        Ok((arguments, settings::Variables::of(&matches)))
    });
    let (arguments, variables) = match parsed {
        Ok(parsed) => parsed,
        Err(fault) => {
            // Help goes to stdout with 0, wrong usage to stderr with 2.
            if fault.use_stderr() {
                log::say(&usage::explain(&fault, &definitions, words.get(1..).unwrap_or_default()));
                return ExitCode::from(2);
            }
            let text = fault.render().to_string();
            let printed = stdout().write_all(text.as_bytes()).map_err(Fault::from);
            return printed.map_or_else(end_with, |()| ExitCode::SUCCESS);
        }
    };
    let options = arguments.options();
    let code = match perform(arguments.command, options, &variables) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => end_with(fault),
    };
    log::finish();
    code
}

fn perform(command: Command, options: Options, variables: &Variables) -> Result<(), Fault> {
    // What can't be told is not asked, and not done.
    if prints(&command, options.json) {
        stdout().check()?;
    }
    match command {
        Command::Run(_) | Command::Keygen { .. } if options.json || options.limit.is_some() => {
            let text = "`run` and `keygen` ask no node: --json and --timeout mean nothing there";
            Err(Fault::usage(text))
        }
        Command::On(_) if options.json => Err(Fault::usage(
            "the command of `on` gets JSON on its stdin; --json means nothing there",
        )),
        Command::Run(flags) => run::run(*flags, options.control, variables),
        Command::On(flags) => hooks::run(flags, &options),
        Command::Keygen { file } => commands::keygen(&file),
        Command::Top { once, sort, filter } => {
            top::top(top::Wanted { once, sort, filter: filter.unwrap_or_default() }, &options)
        }
        command => commands::ask(command, &options),
    }
}

/// Whether a command says something on stdout when all goes well. `run` and `on` go on without.
fn prints(command: &Command, as_json: bool) -> bool {
    use Command::{Forget, Leave, Metrics, On, Run, Send, Set, Status, Stop, Unset, Wait};
    match command {
        Run(_) | On(_) | Leave | Stop | Status { quiet: true, .. } => false,
        Metrics { output: Some(_) } => false,
        Set { .. } | Unset { .. } | Send { .. } | Wait { .. } => as_json,
        Forget { lost: false, .. } => as_json,
        _ => true,
    }
}

fn end_with(fault: Fault) -> ExitCode {
    if let Some(text) = fault.text() {
        tell(text);
    }
    ExitCode::from(fault.exit_code())
}

/// Says something to whoever typed the command. Others may have put in a word of theirs.
fn tell(text: &str) {
    log::say(&format!("dsn: {}", print::message(text)));
}

/// Why a command did not do what was asked.
pub(crate) enum Fault {
    /// The answer is no, or it could not be done.
    No(String),
    /// The answer is no, and was printed.
    Said,
    /// Wrong usage or configuration.
    Usage(String),
    /// No node answers at the socket.
    NoNode(String),
    /// Nobody reads our answer any more.
    ReaderGone,
    /// The node that ran here had a fault of its own.
    Broken(String),
}

impl Fault {
    fn exit_code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::No(_) | Self::Said => 1,
            Self::Usage(_) => 2,
            Self::NoNode(_) => 3,
            // EX_SOFTWARE of sysexits.h: whoever looks after the node starts it again.
            Self::Broken(_) => 70,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::No(text) | Self::Usage(text) | Self::NoNode(text) | Self::Broken(text) => {
                Some(text)
            }
            Self::ReaderGone | Self::Said => None,
        }
    }

    fn usage(text: impl fmt::Display) -> Self {
        Self::Usage(text.to_string())
    }

    /// What was named, or stdin, can't be read. `named_by` stands before what is said of it.
    fn unreadable(named_by: &str, fault: &Unreadable) -> Self {
        let text = format!("{named_by}{}", fault.with("name another file"));
        if fault.is_usage() { Self::Usage(text) } else { Self::No(text) }
    }
}

impl From<ConfigError> for Fault {
    fn from(fault: ConfigError) -> Self {
        match fault {
            ConfigError::File { named, fault } => Self::unreadable(&format!("{named}: "), &fault),
            fault => Self::usage(fault),
        }
    }
}

impl From<CredentialsError> for Fault {
    fn from(fault: CredentialsError) -> Self {
        if fault.is_usage() { Self::usage(fault) } else { Self::No(fault.to_string()) }
    }
}

impl From<StartError> for Fault {
    fn from(fault: StartError) -> Self {
        if fault.is_usage() { Self::usage(fault) } else { Self::No(fault.to_string()) }
    }
}

/// Writing the answer failed. A reader that has seen enough (`| head`) is no fault.
impl From<Error> for Fault {
    fn from(fault: Error) -> Self {
        match fault.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::No(format!("{UNWRITTEN}: {fault}")),
        }
    }
}

/// What begins the message about an answer that nobody got.
const UNWRITTEN: &str = "the answer can't be written";

/// The same where something was changed before: whoever reads it must not do it once more.
fn was_done(done: &str) -> impl Fn(Error) -> Fault + '_ {
    move |why| match why.into() {
        Fault::No(text) => Fault::No(format!("{done}, but {text}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts and service managers tell these apart (docs/operations.md).
    #[test]
    fn each_fault_has_its_exit_code() {
        let text = || "why".to_owned();
        let faults = [
            Fault::ReaderGone,
            Fault::No(text()),
            Fault::Said,
            Fault::Usage(text()),
            Fault::NoNode(text()),
            Fault::Broken(text()),
        ];
        assert_eq!(faults.map(|fault| fault.exit_code()), [0, 1, 1, 2, 3, 70]);
    }
}

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
mod notify;
mod print;
mod run;
mod settings;
mod signals;
mod socket;
mod top;

use std::fmt;
use std::io::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use dsn::credentials::CredentialsError;
use dsn::runtime::StartError;

use args::{Arguments, Command};
use settings::ConfigError;

/// Runs the command that was given; the one place where faults become exit codes.
pub(crate) fn main() -> ExitCode {
    // A file that may not grow (`ulimit -f`) is an error like any other, and no end of the process.
    // Where that can't be had, it is the end.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let mut definitions = Arguments::definitions();
    let parsed = definitions.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| {
        Arguments::from_arg_matches(&matches).map_err(|fault| fault.format(&mut definitions))
    });
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(fault) => {
            // Help goes to stdout with 0, wrong usage to stderr with 2.
            let printed = fault.print().map_err(Fault::from);
            if fault.use_stderr() {
                return ExitCode::from(2);
            }
            return printed.map_or_else(end_with, |()| ExitCode::SUCCESS);
        }
    };
    let options = arguments.options();
    let result = match arguments.command {
        Command::Run(_) | Command::Keygen { .. } if options.json || options.limit.is_some() => {
            let text = "`run` and `keygen` ask no node: --json and --timeout mean nothing there";
            Err(Fault::usage(text))
        }
        Command::On(_) if options.json => Err(Fault::usage(
            "the command of `on` gets JSON on its stdin; --json means nothing there",
        )),
        Command::Run(flags) => run::run(*flags, options.control),
        Command::On(flags) => hooks::run(flags, &options),
        Command::Keygen { file } => commands::keygen(&file),
        Command::Top { once, sort, filter } => {
            top::top(top::Wanted { once, sort, filter: filter.unwrap_or_default() }, &options)
        }
        command => commands::ask(command, &options),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => end_with(fault),
    };
    log::finish();
    code
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
}

impl From<ConfigError> for Fault {
    fn from(fault: ConfigError) -> Self {
        Self::usage(fault)
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
            _ => Self::No(format!("the answer can't be written: {fault}")),
        }
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

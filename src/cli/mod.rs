//! The command line.

mod args;
mod commands;
mod notify;
mod print;
mod run;

use std::fmt;
use std::io::{Error, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dsn::config::{ConfigError, DATA_FOLDER, SOCKET_NAME};
use dsn::control::{ControlClient, Failure};
use dsn::credentials::CredentialsError;
use dsn::runtime::StartError;

use args::{Arguments, Command};

/// Runs the command that was given; the one place where faults become exit codes.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(fault) => {
            // Help goes to stdout with 0, wrong usage to stderr with 2.
            let _ = fault.print();
            return ExitCode::from(if fault.use_stderr() { 2 } else { 0 });
        }
    };
    let options = arguments.options();
    let result = match arguments.command {
        Command::Run(flags) => run::run(*flags, options.control),
        Command::Keygen { file } => commands::keygen(&file),
        command => commands::ask(command, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            if let Some(text) = fault.text() {
                // With stderr gone there is nobody to tell.
                let _ = writeln!(stderr(), "dsn: {text}");
            }
            ExitCode::from(fault.exit_code())
        }
    }
}

/// Why a command did not do what was asked.
pub(crate) enum Fault {
    /// The answer is no.
    No(String),
    /// Wrong usage or bad input.
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
            Self::No(_) => 1,
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
            Self::ReaderGone => None,
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
        match fault {
            CredentialsError::AlreadyExists { .. } => Self::No(fault.to_string()),
            other => Self::usage(other),
        }
    }
}

impl From<StartError> for Fault {
    fn from(fault: StartError) -> Self {
        match fault {
            StartError::NoNetworkKey { .. }
            | StartError::Credentials(_)
            | StartError::NotAKey { .. } => Self::usage(fault),
            other => Self::No(other.to_string()),
        }
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

/// The socket of a node that was installed as a service (scripts/systemd).
const SERVICE_SOCKET: &str = "/run/dsn/control.sock";

/// The socket that was named, or that of the only node under the data folder, or that of the
/// service.
fn find_socket(named: Option<PathBuf>) -> Result<PathBuf, Fault> {
    if let Some(path) = named {
        return Ok(path);
    }
    let folder = std::env::var_os("DSN_DATA").map_or_else(|| DATA_FOLDER.into(), PathBuf::from);
    let mut sockets: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path().join(SOCKET_NAME)).collect())
        .unwrap_or_default();
    sockets.retain(|path| path.exists());
    sockets.sort();
    if sockets.len() > 1 {
        // A node that was killed leaves its socket behind. Where all are dead, any will do to say
        // so.
        let living: Vec<PathBuf> =
            sockets.iter().filter(|path| ControlClient::connect(path).is_ok()).cloned().collect();
        if living.is_empty() {
            sockets.truncate(1);
        } else {
            sockets = living;
        }
    }
    match sockets.as_slice() {
        [only] => Ok(only.clone()),
        [] if Path::new(SERVICE_SOCKET).exists() => Ok(SERVICE_SOCKET.into()),
        [] => Err(Fault::NoNode(format!(
            "no node has its socket under {}: start one with `dsn run`, or name its socket with --control PATH (or DSN_CONTROL)",
            folder.display()
        ))),
        several => {
            let list: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Fault::Usage(format!(
                "there are several nodes under {}; choose one with --control: {}",
                folder.display(),
                list.join(", ")
            )))
        }
    }
}

fn connect(path: &Path) -> Result<ControlClient, Fault> {
    ControlClient::connect(path).map_err(|failure| explain(failure, path))
}

fn explain(failure: Failure, path: &Path) -> Fault {
    match failure {
        Failure::No(text) => Fault::No(text),
        Failure::Usage(text) => Fault::Usage(text),
        Failure::NoNode(why) => Fault::NoNode(format!(
            "no node answers at {}: {why}. Start it with `dsn run`, or name another socket with --control PATH",
            path.display()
        )),
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
            Fault::Usage(text()),
            Fault::NoNode(text()),
            Fault::Broken(text()),
        ];
        assert_eq!(faults.map(|fault| fault.exit_code()), [0, 1, 2, 3, 70]);
    }
}

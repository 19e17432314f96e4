//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dsn::config::{RunArgs, not_empty, path_parser};

/// A distributed state network: every machine owns a small key-value state, and every other
/// machine holds a live copy of it.
#[derive(Debug, Parser)]
#[command(name = "dsn", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// Socket of the node to talk to [default: that of the only node under the data folder]
    #[arg(long, value_name = "PATH", env = "DSN_CONTROL", global = true,
          value_parser = path_parser())]
    pub(super) control: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait for an answer, such as 5s, 500ms or 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration,
          global = true)]
    timeout: Duration,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 yes or done; 1 the answer is no; 2 wrong usage; 3 no node answers at \
    the socket; 70 the node itself is at fault.";

/// What all commands that talk to a node take.
pub(super) struct Options {
    pub(super) control: Option<PathBuf>,
    pub(super) json: bool,
    pub(super) timeout: Duration,
}

impl Arguments {
    pub(super) fn options(&self) -> Options {
        Options { control: not_empty(self.control.clone()), json: self.json, timeout: self.timeout }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "it is not a duration; examples: 5s, 500ms, 1m".to_owned())
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a network key file; one that is there is never overwritten
    Keygen {
        /// Where
        #[arg(default_value = "credentials/network.key")]
        file: PathBuf,
    },
    /// Run a node in the foreground
    ///
    /// It prints one line `listening on ADDR:PORT` when it serves. SIGTERM and SIGINT stop it.
    /// The level of the log is in RUST_LOG (error, warn, info, debug).
    Run(Box<RunArgs>),
    /// Show the node: id, address, versions, counts, and what is wrong right now
    Status,
    /// Show the other nodes
    Peers {
        /// Those that are lost or left, too
        #[arg(long)]
        all: bool,
    },
    /// Show every key and value of a node, or of all nodes
    State {
        /// Which node
        node: Option<String>,
    },
    /// Print the value of a key
    Get {
        /// Whose
        node: String,
        /// Which
        key: String,
        /// Print the bytes of the value alone, without a newline behind them
        #[arg(long)]
        raw: bool,
    },
    /// Set keys of the own state: KEY VALUE, KEY - (from stdin), or K1=V1 K2=V2 …
    #[command(
        override_usage = "dsn set KEY VALUE\n       dsn set KEY -\n       dsn set KEY=VALUE..."
    )]
    Set {
        /// KEY VALUE, or KEY=VALUE pairs, which are one change
        #[arg(required = true, allow_hyphen_values = true)]
        pairs: Vec<OsString>,
    },
    /// Remove keys of the own state
    Unset {
        /// Which
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Measure the round-trip time to a node
    Ping {
        /// Which node
        node: String,
    },
    /// Send bytes to a node; succeeds when it accepted them
    Send {
        /// To which node
        node: String,
        /// What; - takes stdin
        #[arg(allow_hyphen_values = true)]
        data: OsString,
    },
    /// Take bytes that were sent to this node out of its inbox, oldest first
    Recv {
        /// Go on until the node stops
        #[arg(long)]
        follow: bool,
        /// Print the bytes alone, without a newline behind them
        #[arg(long)]
        raw: bool,
    },
    /// Print events as they happen
    Watch {
        /// Only those of this node
        node: Option<String>,
        /// Only changes of keys that begin with this
        #[arg(long, value_name = "PREFIX")]
        key: Option<String>,
    },
    /// Wait until something is true, as long as --timeout says
    Wait {
        #[command(subcommand)]
        what: WaitFor,
    },
    /// Change the network key of a running network: add, use, then remove the old one everywhere
    Key {
        #[command(subcommand)]
        what: KeyCommand,
    },
    /// Drop the keys, the addresses and the states of nodes; they come back by their own HELLO
    /// alone
    Forget {
        /// Which nodes
        #[arg(required_unless_present = "lost", conflicts_with = "lost", value_name = "NODE")]
        nodes: Vec<String>,
        /// All that are lost
        #[arg(long)]
        lost: bool,
    },
    /// Say goodbye to the network and stop the node
    Leave,
    /// Stop the node
    Stop,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Name the network keys of the node; the first one seals, all open
    List,
    /// Let a key open what others send; it seals nothing yet
    Add {
        /// A file that `dsn keygen` made; - takes stdin
        file: PathBuf,
    },
    /// Seal with a key from now on
    Use {
        /// Its name, as `dsn key list` shows it
        name: String,
    },
    /// Open nothing with a key any more
    Remove {
        /// Its name
        name: String,
    },
    /// Read the network key file again
    Reload,
}

#[derive(Debug, Subcommand)]
pub(super) enum WaitFor {
    /// Until so many peers are alive
    Peers {
        /// How many
        count: u64,
    },
    /// Until a node has a key, and this value where one is given
    Key {
        /// Whose
        node: String,
        /// Which
        key: String,
        /// The value to wait for; any if none is given
        #[arg(allow_negative_numbers = true)]
        value: Option<OsString>,
    },
}

//! What can be typed.

mod on;
mod run;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, CommandFactory, Parser, Subcommand, ValueEnum};

pub(super) use on::OnArgs;
pub(super) use run::RunArgs;

/// A distributed state network: every machine owns a small key-value state, and every other
/// machine holds a live copy of it.
#[derive(Debug, Parser)]
#[command(name = "dsn", version = VERSION, max_term_width = 100, after_help = EXIT_CODES)]
#[group(skip)]
pub(super) struct Arguments {
    /// Socket of the node to talk to [default: that of DSN_NODE_ID or of the only node under the
    /// data folder, else that of the service]
    #[arg(long, value_name = "PATH", env = "DSN_CONTROL", global = true,
          value_parser = values::path())]
    pub(super) control: Option<PathBuf>,
    /// Print JSON, a line for each answer
    #[arg(long, short, global = true)]
    json: bool,
    /// How long to wait, such as 5s, 500ms or 1m [default: 5s; without end for `watch` and `recv
    /// --follow`]
    #[arg(long, short, value_name = "DURATION", allow_hyphen_values = true,
          value_parser = values::duration(values::WAIT), global = true)]
    timeout: Option<Duration>,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   yes, or done
  1   no, or it could not be done
  2   wrong usage or configuration
  3   no node answers at the socket: none runs there, or it stopped meanwhile
  70  `dsn run`: the node broke a rule of its own; start it again";

/// The version, and the commit where it is known.
const VERSION: &str = match option_env!("DSN_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};

/// How long a command waits unless it is told.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What all commands that talk to a node take.
pub(super) struct Options {
    pub(super) control: Option<PathBuf>,
    pub(super) json: bool,
    /// What was said; nothing where nothing was.
    pub(super) limit: Option<Duration>,
}

impl Options {
    /// How long to wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.limit.unwrap_or(TIMEOUT)
    }
}

impl Arguments {
    /// The definitions of all commands: what is parsed, what `--help` says, and what the man pages
    /// and completions are made of.
    pub(super) fn definitions() -> clap::Command {
        // These talk to no node. What is defined here hides what they would inherit.
        let json =
            || Arg::new("json").long("json").short('j').action(ArgAction::SetTrue).hide(true);
        let timeout = || {
            let timeout = Arg::new("timeout").long("timeout").short('t').hide(true);
            timeout.allow_hyphen_values(true).value_parser(values::duration(values::WAIT))
        };
        let control = || Arg::new("control").long("control").value_parser(values::path());
        let socket = || {
            control().value_name("PATH").env("DSN_CONTROL").help(
                "Socket to open for commands and programs on this host [default: DATA/NODE-ID/control.sock]",
            )
        };
        texts(Self::command())
            .mut_subcommand("run", |run| run.args([json(), timeout(), socket()]))
            .mut_subcommand("keygen", |keygen| {
                keygen.args([json(), timeout(), control().hide(true)])
            })
            .mut_subcommand("on", |on| {
                let help = "How long one command may take before it is ended [default: 60s]";
                on.args([json(), timeout().hide(false).value_name("DURATION").help(help)])
            })
    }

    pub(super) fn options(&self) -> Options {
        let control = not_empty(self.control.clone());
        Options { control, json: self.json, limit: self.timeout }
    }
}

/// All arguments that are texts, of these commands and those below: `clap` would not say which of
/// them is no UTF-8.
fn texts(command: clap::Command) -> clap::Command {
    let is_text = |arg: &Arg| {
        arg.get_value_parser().type_id() == ValueParser::string().type_id()
            && arg.get_possible_values().is_empty()
    };
    let command = command.mut_args(|arg| match is_text(&arg) {
        true => arg.value_parser(values::text()),
        false => arg,
    });
    command.mut_subcommands(texts)
}

// Nothing asks for the group that clap makes of the arguments of each command: 0.5 KB each time.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a network key file; one that is there is never overwritten
    #[group(skip)]
    Keygen {
        /// The file to make; - prints the key to stdout
        #[arg(default_value = "credentials/network.key")]
        file: PathBuf,
    },
    /// Run a node in the foreground
    ///
    /// It prints one line `listening on ADDR:PORT` when it serves. SIGTERM and SIGINT stop it.
    /// The level of the log is in RUST_LOG (error, warn, info, debug).
    Run(Box<RunArgs>),
    /// Show the node: id, address, versions, counts, and what is wrong right now
    ///
    /// The codes of what is wrong are in docs/operations.md.
    #[group(skip)]
    Status {
        /// Exit with 1 when something is wrong: for cron, monitoring and health checks
        #[arg(long)]
        check: bool,
        /// Print nothing; implies --check
        #[arg(long, short)]
        quiet: bool,
    },
    /// Print counts and measures for a monitoring system, in the text format of Prometheus
    ///
    /// What each of them means is in docs/monitoring.md.
    #[group(skip)]
    Metrics {
        /// Write them to this file in one step, so that nobody reads half of it: for the textfile
        /// collector of node_exporter
        #[arg(long, short, value_name = "FILE", conflicts_with = "json",
              value_parser = values::path())]
        output: Option<PathBuf>,
    },
    /// Show the other nodes: where they are, how they do, and why
    #[group(skip)]
    Peers {
        /// Those that are lost or left, too
        #[arg(long, short, conflicts_with = "status")]
        all: bool,
        /// Only those with this status; may be given several times
        #[arg(long, short, value_name = "STATUS", value_delimiter = ',',
              value_parser = ["alive", "suspect", "lost", "left"])]
        status: Vec<String>,
        /// Print their ids alone, a line each
        #[arg(long, short, conflicts_with = "json")]
        ids: bool,
    },
    /// Watch all nodes on a full screen, with their keys, and changes as they come
    ///
    /// Arrows or j and k choose a node, Enter shows its keys, Esc goes back, / finds a text, s
    /// sorts by another column, r turns the order around, q ends it.
    #[group(skip)]
    Top {
        /// Print the table once, and end: for scripts, and where there is no terminal
        #[arg(long, short = '1')]
        once: bool,
        /// What to sort by
        #[arg(long, value_enum, default_value_t)]
        sort: Sort,
        /// Only nodes with this text in their row
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Show every key and value of a node, or of all nodes
    #[group(skip)]
    State {
        /// The node whose state to show; `self` is this one [default: all nodes]
        node: Option<String>,
    },
    /// Print the value of a key, of one node or of all; or the keys that begin alike
    ///
    /// Off a terminal exactly the bytes of the value are printed, without a newline behind them; on
    /// a terminal a text with a newline, escaped where it would do more than show itself.
    #[command(
        override_usage = "dsn get [OPTIONS] NODE KEY\n       dsn get [OPTIONS] NODE --prefix PREFIX\n       \
                                dsn get [OPTIONS] --all KEY\n       dsn get [OPTIONS] --all --prefix PREFIX"
    )]
    #[group(skip)]
    Get {
        /// The node that the key belongs to; `self` is this one
        #[arg(value_name = "NODE")]
        node: Option<String>,
        /// The key to print
        #[arg(value_name = "KEY")]
        key: Option<String>,
        /// Print the key of every node that has it: node, status and value on a line
        #[arg(long, short)]
        all: bool,
        /// The same of the nodes that are alive
        #[arg(long, conflicts_with = "all")]
        alive: bool,
        /// Print all keys that begin with this, as KEY=VALUE
        #[arg(long, short, value_name = "PREFIX", conflicts_with = "raw")]
        prefix: Option<String>,
        /// Print exactly the bytes on a terminal, too
        #[arg(long)]
        raw: bool,
    },
    /// Set keys of the own state: KEY VALUE, KEY - (from stdin), or K1=V1 K2=V2 …
    ///
    /// In scripts use `dsn set "$key=$value"`: a value that is - would read stdin, and what is
    /// left of the input of a loop.
    #[command(
        override_usage = "dsn [OPTIONS] set [--ttl DURATION] KEY VALUE\n       dsn [OPTIONS] set [--ttl DURATION] KEY -\n       \
                                dsn [OPTIONS] set [--ttl DURATION] KEY=VALUE...\n       \
                                dsn [OPTIONS] set [--ttl DURATION] --from FILE"
    )]
    #[group(skip)]
    Set {
        /// Remove them after so long, 1s to 30d, unless they are set again; without it they stand
        /// for good, those that would have expired, too
        #[arg(long, value_name = "DURATION", allow_hyphen_values = true,
              value_parser = values::duration(values::TTL))]
        ttl: Option<Duration>,
        /// Set all keys of this file at once, which has a JSON object as `dsn --json state` prints
        /// it under `entries`; - takes stdin
        #[arg(long, value_name = "FILE", value_parser = values::path(), conflicts_with = "pairs")]
        from: Option<PathBuf>,
        /// KEY VALUE, or KEY=VALUE pairs, which are one change; the value - takes stdin
        #[arg(
            required_unless_present = "from",
            allow_hyphen_values = true,
            value_name = "KEY=VALUE"
        )]
        pairs: Vec<OsString>,
    },
    /// Remove keys of the own state
    #[group(skip)]
    Unset {
        /// The keys to remove; one that is not there is none to remove
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Measure the round-trip time to a node
    #[group(skip)]
    Ping {
        /// The node to ask
        node: String,
    },
    /// Send bytes to a node; succeeds when it accepted them
    #[group(skip)]
    Send {
        /// The node to send to
        node: String,
        /// The bytes to send, at most 1 MiB; - takes stdin
        #[arg(allow_hyphen_values = true)]
        data: OsString,
    },
    /// Take bytes that were sent to this node out of its inbox, oldest first
    ///
    /// Off a terminal exactly the bytes of the message are printed; with --follow and with
    /// --count a newline stands behind each (--null and --raw change that). On a terminal the
    /// sender stands before it, and what would do more than show itself is escaped.
    #[group(skip)]
    Recv {
        /// Go on until the node stops, or the time of --timeout is over
        #[arg(long, short)]
        follow: bool,
        /// End after so many messages
        #[arg(long, short = 'n', value_name = "N", allow_hyphen_values = true,
              value_parser = values::number(1..=u64::MAX))]
        count: Option<u64>,
        /// Only messages of this node; those of others stay where they are
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        /// With --from: a node that is not known yet, too
        #[arg(long)]
        unknown: bool,
        /// Print who sent it before each message, with a tab between
        #[arg(long, short)]
        sender: bool,
        /// Print a NUL behind each message instead of a newline
        #[arg(long, short = '0')]
        null: bool,
        /// Print exactly the bytes, with nothing between, on a terminal, too
        #[arg(long, conflicts_with = "null")]
        raw: bool,
        /// When the node stops, wait until it is back, and go on
        #[arg(long, short)]
        reconnect: bool,
    },
    /// Print events as they happen, with the time (UTC) at which this node saw each
    ///
    /// The line `watching` says that from now on no change is missed. Changes that come close
    /// together may be shown as one.
    #[group(skip)]
    Watch {
        /// Only events of this node; `self` is this one
        node: Option<String>,
        /// Only changes of keys that begin with this
        #[arg(long, short, value_name = "PREFIX")]
        key: Option<String>,
        /// Print what is there first, as events between the lines `snapshot` and `watching`
        #[arg(long, short)]
        initial: bool,
        /// End after so many events; those of --initial count
        #[arg(long, short = 'n', value_name = "N", allow_hyphen_values = true,
              value_parser = values::number(1..=u64::MAX))]
        count: Option<u64>,
        /// When the node stops, wait until it is back, and go on
        #[arg(long, short)]
        reconnect: bool,
        /// Take a node that is not known yet, too
        #[arg(long)]
        unknown: bool,
    },
    /// Run a command for each change: what is there last is always handed on
    ///
    /// The command gets the event as JSON on its stdin, and as DSN_EVENT, DSN_NODE, DSN_KEY,
    /// DSN_VALUE and DSN_OLD. It never runs twice at a time for one key of a node, nor for the
    /// status of one; what came meanwhile is handed on as one change. What it prints goes to the
    /// log. SIGTERM and SIGINT stop it. docs/hooks.md has examples.
    #[command(override_usage = "dsn on [OPTIONS] [NODE] -- COMMAND...")]
    On(OnArgs),
    /// Wait until something is true, as long as --timeout says
    #[group(skip)]
    Wait {
        #[command(subcommand)]
        what: WaitFor,
    },
    /// Change the network key of a running network: add, use, then remove the old one everywhere
    #[group(skip)]
    Key {
        #[command(subcommand)]
        what: KeyCommand,
    },
    /// Drop the keys, the addresses and the states of nodes; they come back by their own HELLO
    /// alone
    #[group(skip)]
    Forget {
        /// The nodes to forget
        #[arg(required_unless_present = "lost", conflicts_with = "lost", value_name = "NODE")]
        nodes: Vec<String>,
        /// Forget all nodes that are lost
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
    #[group(skip)]
    Add {
        /// A file that `dsn keygen` made; - takes stdin
        file: PathBuf,
    },
    /// Seal with a key from now on
    #[group(skip)]
    Use {
        /// The name of the key, as `dsn key list` shows it
        name: String,
    },
    /// Open nothing with a key any more
    #[group(skip)]
    Remove {
        /// The name of the key, as `dsn key list` shows it
        name: String,
    },
    /// Read the network key file again
    Reload,
}

#[derive(Debug, Subcommand)]
pub(super) enum WaitFor {
    /// Until so many peers have shown that they are alive now
    #[group(skip)]
    Peers {
        /// How many peers; this node is none
        #[arg(value_name = "N", allow_negative_numbers = true,
              value_parser = values::number(0..=u64::MAX))]
        count: u64,
    },
    /// Until a node has one of these statuses
    #[group(skip)]
    Node {
        /// The node; one that is not known yet may come
        node: String,
        /// The status to wait for; any of these if there are several
        #[arg(required = true, value_name = "STATUS")]
        statuses: Vec<StatusWord>,
    },
    /// Until a node has a key, and this value where one is given
    #[group(skip)]
    Key {
        /// The node that the key belongs to; one that is not known yet may come
        node: String,
        /// The key
        key: String,
        /// The value to wait for [default: any]
        #[arg(allow_negative_numbers = true, conflicts_with_all = ["gone", "not", "changed"])]
        value: Option<OsString>,
        /// Until the node does not have the key
        #[arg(long, conflicts_with_all = ["not", "changed"])]
        gone: bool,
        /// Until the key has another value than this one, or is gone
        #[arg(long, value_name = "VALUE", conflicts_with = "changed", allow_hyphen_values = true)]
        not: Option<OsString>,
        /// Until the key has another value than it has now, or is gone, or there
        #[arg(long)]
        changed: bool,
    },
    /// Until peers hold the newest version of the own state: all that are alive, and one at least
    #[group(skip)]
    Synced {
        /// How many peers are enough [default: all that are alive]
        #[arg(value_name = "N", allow_negative_numbers = true,
              value_parser = values::number(0..=u64::MAX))]
        count: Option<u64>,
    },
}

/// How a node is doing.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StatusWord {
    /// It answers
    Alive,
    /// It did not answer of late
    Suspect,
    /// It has not answered for long
    Lost,
    /// It said goodbye
    Left,
}

impl StatusWord {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// What the rows are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Names of the nodes
    #[default]
    Name,
    /// How they do: who is lost first
    Status,
    /// When they were heard last: the longest ago first
    Heard,
    /// How many keys they have: the most first
    Keys,
}

/// A path, unless it is empty.
pub(super) fn not_empty(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

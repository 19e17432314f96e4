//! What `dsn on` takes.

use std::ffi::OsString;

use clap::Args;

use super::values::number;

/// Which changes, and what to run for them.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(in super::super) struct OnArgs {
    /// Only changes of this node; `self` is this one; one that is not known yet may come
    pub(in super::super) node: Option<String>,
    /// Only changes of keys that begin with this
    #[arg(long, short, value_name = "PREFIX")]
    pub(in super::super) key: Option<String>,
    /// Only these events; may be given several times [default: all]
    #[arg(long, short, value_name = "EVENT", value_delimiter = ',',
          value_parser = ["updated", "joined", "suspect", "lost", "left"])]
    pub(in super::super) event: Vec<String>,
    /// Run it for what is there at the start, too
    #[arg(long, short)]
    pub(in super::super) initial: bool,
    /// Try a command that failed again so many times, after 1 s, 2 s, 4 s … up to 60 s
    #[arg(long, short, value_name = "N", default_value_t = 0,
          allow_hyphen_values = true, value_parser = number(0..=1000_u32))]
    pub(in super::super) retry: u32,
    /// Most commands that run at a time, for different keys or nodes
    #[arg(long, value_name = "N", default_value_t = 4,
          allow_hyphen_values = true, value_parser = number(1..=64_u8))]
    pub(in super::super) jobs: u8,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(in super::super) command: Vec<OsString>,
}

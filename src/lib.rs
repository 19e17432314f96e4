//! A distributed state network: every machine owns a small key-value state, every other machine
//! holds a live copy of it, and nothing sits in the middle.
//!
//! A program embeds a node with [`start`] and a [`Config`]; `examples/embed.rs` is one. What it may
//! ask are the methods of [`RunningNode`]. With `default-features = false` all is left out that
//! only the command `dsn` needs. The map of the code is docs/architecture.md, the bytes on the
//! network are docs/protocol.md.
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let mut config = dsn::Config::new("kitchen".parse()?).in_folder(folder.path());
//! config.listen = "127.0.0.1:0".parse()?;
//! let node = dsn::start(config)?;
//! node.set("temperature".parse()?, "17.5".parse()?)?;
//! assert!(node.wait_for_key(node.node_id(), "temperature", Duration::from_secs(5)).is_some());
//! node.stop();
//! # Ok(())
//! # }
//! ```
//!
//! # Log levels
//!
//! * `error`: something of ours failed, and somebody has to look after it.
//! * `warn`: something is wrong that an operator has to know; it is in `status` too.
//! * `info`: nodes come and go; what was wrong is over.
//! * `debug`: requests that failed, and why. Strangers can cause these lines.
//!
//! Keys, values and DATA are never logged.

// For the command, the tests and the fuzzer of this package. No part of the library: they change
// without a word.
#[doc(hidden)]
pub mod advice;
#[doc(hidden)]
pub mod client;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod credentials;
#[cfg(feature = "discover")]
#[doc(hidden)]
pub mod discovery;
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod durable;
#[doc(hidden)]
pub mod events;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod keeper;
#[doc(hidden)]
pub mod named;
#[doc(hidden)]
pub mod order;
#[doc(hidden)]
pub mod patience;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod steps;
#[doc(hidden)]
pub mod web;
mod zone;

pub use config::{Config, Control, Http, SyncRule};
pub use events::Subscription;
pub use protocol::address::{Address, InvalidAddress};
pub use protocol::entries::{Change, Entries, InvalidEntry, Key, Value};
pub use protocol::fault::{Code, Fault, Notice, Source};
pub use protocol::identity::{InvalidNodeId, NodeId, PublicKey};
pub use protocol::lease::{InvalidTtl, Ttl};
pub use protocol::report::{
    Event, Message, NodeState, PeerCounts, PeerInfo, PeerStatus, Refused, Status,
};
pub use runtime::{RunningNode, StartError, start};
pub use server::{InvalidListen, Listen};
/// What is counted and measured, as a monitoring system wants to have it.
pub mod metrics;

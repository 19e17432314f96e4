//! A distributed state network: every machine owns a small key-value state, every other machine
//! holds a live copy of it, and nothing sits in the middle.
//!
//! A program embeds a node with [`start`] and a [`Config`]; `examples/embed.rs` is one. The map of
//! the code is docs/architecture.md, the bytes on the network are docs/protocol.md.
//!
//! # Log levels
//!
//! * `error`: something of ours failed, and somebody has to look after it.
//! * `warn`: something is wrong that an operator has to know; it is in `status` too.
//! * `info`: nodes come and go.
//! * `debug`: requests that failed, and why. Strangers can cause these lines.
//!
//! Keys, values and DATA are never logged.

pub mod client;
pub mod config;
pub mod control;
pub mod credentials;
pub mod driver;
pub mod durable;
pub mod events;
pub mod journal;
pub mod keeper;
pub mod protocol;
pub mod runtime;
pub mod server;
pub mod steps;

pub use config::{Config, SyncRule};
pub use events::Subscription;
pub use runtime::{RunningNode, StartError, start};

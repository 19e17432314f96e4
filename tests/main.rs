//! All tests beside the units, one program: it is linked once. `cargo test MODULE::` runs one of
//! these: rules of the house, golden vectors, statuses, liars and listeners, the port, the command
//! line, the simulator, real nodes under faults of the world.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, and a long one says how it is doing"
)]

mod attacks;
mod browser;
mod candour;
mod cli;
mod cluster;
mod control;
mod discovery;
mod expiry;
mod faults;
mod follow;
mod forget;
mod golden;
mod hooks;
mod interop;
mod liars;
mod monitoring;
mod network;
mod notify;
mod pages;
mod port;
mod recipes;
mod scale;
mod scripts;
mod simulation;
mod sizing;
mod soak;
mod statuses;
mod stop;
mod support;
mod systems;
mod tidy;
mod top;
mod typed;
mod web;

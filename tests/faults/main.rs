//! Faults of the world around a node, with real processes: power, disks, clocks, cloned cards.
//!
//! What a test needs from the host and does not find makes it print SKIPPED; with
//! DSN_REQUIRE_FAULTS=1, as in CI, it fails instead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod clock;
mod conflicts;
mod disk;
mod idle;
mod power;
#[path = "../support/mod.rs"]
mod support;
mod tools;

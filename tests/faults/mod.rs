//! Faults of the world around a node, with real processes: power, disks, clocks, cloned cards.
//!
//! What a test needs from the host and does not find makes it print SKIPPED; with
//! DSN_REQUIRE_FAULTS=1, as in CI, it fails instead.

mod clock;
mod conflicts;
mod disk;
mod idle;
mod power;
mod start;
pub(crate) mod tools;
mod waits;

//! The real rules in a virtual world: thousands of clusters with lost, slow and repeated messages,
//! partitions, crashes, hangs, wrong clocks and destroyed disks. The promises are checked at every
//! step, and that all is whole again once the faults are over.
//!
//! `SEED=n cargo test --test simulation` replays one history and prints its end;
//! `SIMULATION_SEEDS=n` runs so many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and a replayed history is printed"
)]

mod chaos;
mod checks;
mod scenarios;
mod wire;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use dsn::protocol::state::next_timestamp;

/// Histories in the normal suite.
const SEEDS: u64 = 3_000;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_promise_holds_in_every_history() {
    if let Some(seed) = number_of("SEED") {
        let (world, result) = chaos::run(seed, next_timestamp);
        for line in &world.trace {
            eprintln!("{line}");
        }
        result.unwrap();
        return;
    }
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let [next, steps, slowest, patches, baseless] = [const { AtomicU64::new(0) }; 5];
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match chaos::run(seed, next_timestamp).1 {
                        Ok(report) => {
                            steps.fetch_add(report.steps, Ordering::Relaxed);
                            patches.fetch_add(report.patches, Ordering::Relaxed);
                            baseless.fetch_add(report.baseless, Ordering::Relaxed);
                            slowest.fetch_max(report.healed_in_ms, Ordering::Relaxed);
                        }
                        Err(what) => panic!("SEED={seed}: {what}"),
                    }
                }
            });
        }
    });
    let (patches, baseless) = (patches.into_inner(), baseless.into_inner());
    eprintln!(
        "{seeds} histories, {} steps, {patches} partial records, {baseless} of them without their \
         base, the slowest healing took {} ms",
        steps.into_inner(),
        slowest.into_inner()
    );
    assert!(patches > seeds && baseless > seeds / 100, "the histories cover partial records");
}

/// The simulator is worth something only if it finds what is wrong: versions ordered by the wall
/// clock alone break after a restart with a slow clock.
#[test]
fn a_wrong_rule_is_found_at_once() {
    let wall_clock_only = |wall: u64, _: u64| Some(wall);
    let found = (0..100).find_map(|seed| chaos::run(seed, wall_clock_only).1.err());
    let what = found.expect("the simulator finds the wrong rule within 100 histories");
    assert!(what.contains("monotony") || what.contains("convergence"), "{what}");
}

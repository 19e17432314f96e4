//! The real rules in a virtual world: thousands of clusters with lost, slow and repeated messages,
//! partitions, crashes, hangs, wrong clocks and destroyed disks. The promises are checked at every
//! step, and that all is whole again once the faults are over.
//!
//! `SEED=n cargo test simulation::` replays one history and prints its end;
//! `SIMULATION_SEEDS=n` runs so many.

mod chaos;
mod checks;
mod crypto;
mod disk;
mod expiry;
mod host;
mod keeping;
mod liar;
mod probing;
mod quiet;
mod scenarios;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

/// Histories in the normal suite; the gate runs more.
const SEEDS: u64 = 1_000;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_promise_holds_in_every_history() {
    if let Some(seed) = number_of("SEED") {
        let (world, result) = chaos::run(seed);
        for line in &world.trace {
            eprintln!("{line}");
        }
        result.unwrap();
        return;
    }
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let [next, steps, slowest, spread, patches, baseless, replays] =
        [const { AtomicU64::new(0) }; 7];
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match chaos::run(seed).1 {
                        Ok(report) => {
                            steps.fetch_add(report.steps, Ordering::Relaxed);
                            patches.fetch_add(report.patches, Ordering::Relaxed);
                            baseless.fetch_add(report.baseless, Ordering::Relaxed);
                            replays.fetch_add(report.replays, Ordering::Relaxed);
                            slowest.fetch_max(report.healed_in_ms, Ordering::Relaxed);
                            spread.fetch_max(report.spread_in_ms, Ordering::Relaxed);
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
         base, {} replays, the slowest healing took {} ms, the slowest change {} ms",
        steps.into_inner(),
        replays.into_inner(),
        slowest.into_inner(),
        spread.into_inner()
    );
    assert!(patches > seeds && baseless > seeds / 100, "the histories cover partial records");
}

//! End-to-end figures of real nodes on this machine, against their goals: docs/benchmarks.md.
//!
//! `cargo bench --bench load -- [--quick] [FIGURE…]`; without a figure all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a bench prints what it measured, and one that can't measure fails by panicking"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod change;
mod floor;
mod hammer;
mod host;
mod members;
mod messages;
mod network;
mod plot;
mod processes;
mod propagate;
mod python;
mod rows;

use std::path::Path;
use std::time::Duration;

use support::process::end_with_children;
use support::{meter, stats};

/// How much is measured.
pub(crate) struct Scale {
    /// Whether it is only to be seen that it runs.
    quick: bool,
    /// How often two things are compared, one after the other.
    runs: usize,
    /// How long a load lasts.
    time: Duration,
    /// How many clients call at a time.
    clients: &'static [usize],
}

const FULL: Scale =
    Scale { quick: false, runs: 5, time: Duration::from_secs(1), clients: &[4, 16] };
const QUICK: Scale =
    Scale { quick: true, runs: 1, time: Duration::from_millis(200), clients: &[4] };

/// Measures, prints and keeps the figures of one part.
type Measure = fn(&Scale);

/// All parts in the order of the table.
const FIGURES: [(&str, Measure); 12] = [
    ("updates", messages::updates),
    ("messages", messages::messages),
    ("propagation", propagate::propagation),
    ("python", python::python),
    ("start", host::start),
    ("memory", host::memory),
    ("durable", host::durable),
    ("idle", propagate::idle),
    ("growth", propagate::growth),
    ("change", change::change),
    ("processes", processes::processes),
    ("table", |_| rows::print_table(&FIGURES.map(|(name, _)| name))),
];

/// Those that are only measured where they are named.
const SIDE_BY_SIDE: [&str; 2] = ["change", "processes"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("role-floor") => return floor::serve(&arguments[1]),
        Some("role-sink") => return messages::serve_sink(Path::new(&arguments[1])),
        _ => {}
    }
    // Cargo adds `--bench`.
    let (options, wanted): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--bench")
        .partition(|argument| argument.starts_with("--"));
    let quick = options.contains(&"--quick");
    let known = |name: &&str| FIGURES.iter().any(|(figure, _)| figure == name);
    let strange = options.iter().find(|option| **option != "--quick");
    if let Some(strange) = strange.or_else(|| wanted.iter().find(|name| !known(name))) {
        let names = FIGURES.map(|(name, _)| name).join(", ");
        eprintln!("load: {strange} is neither --quick nor one of the figures: {names}");
        std::process::exit(2);
    }
    end_with_children();
    rows::keep_apart(quick);
    let scale = if quick { &QUICK } else { &FULL };
    for (name, measure) in FIGURES {
        if wanted.is_empty() && !SIDE_BY_SIDE.contains(&name) || wanted.contains(&name) {
            measure(scale);
        }
    }
    if !quick && (wanted.is_empty() || wanted.contains(&"table")) {
        plot::write();
    }
}

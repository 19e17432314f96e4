//! What members that lie, and honest nodes that are set up wrongly, cost real nodes: figures, in a
//! line for each case (`scripts/liars.sh`; docs/faults.md has a table of them).
//!
//! `DSN_LIARS='CASE…' cargo test --release liars:: -- --nocapture` measures these cases, `all`
//! all of them. Without it, all run for some moments with small numbers, to see that each still
//! measures something.

mod figures;
mod network;
mod port;
mod quiet;
mod share;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quiet::{LARGE_BYTES, Meeting};
use wire::Lie;

/// How large the numbers are, and how long it is measured.
pub(crate) struct Scale {
    pub is_quick: bool,
    /// The tick of the nodes, where it is not their own default.
    pub tick: Option<&'static str>,
    /// How long things may settle before a window.
    pub settle: Duration,
    pub window: Duration,
    /// How long a node hangs.
    pub hang: Duration,
    /// How often that is done which turns out by chance.
    pub rounds: usize,
    /// What crowds and states are divided by.
    pub part: usize,
}

impl Scale {
    const FULL: Self = Self {
        is_quick: false,
        tick: None,
        settle: Duration::from_secs(10),
        window: Duration::from_secs(25),
        hang: Duration::from_secs(25),
        rounds: 4,
        part: 1,
    };
    const QUICK: Self = Self {
        is_quick: true,
        tick: Some("300ms"),
        settle: Duration::from_millis(300),
        window: Duration::from_millis(700),
        hang: Duration::from_secs(1),
        rounds: 1,
        part: 40,
    };

    /// A part of the number, but at least two.
    pub fn count(&self, full: usize) -> usize {
        (full / self.part).max(2)
    }
}

type Measure = fn(&Scale) -> String;

fn by_calling(scale: &Scale, lie: Lie) -> String {
    quiet::one_liar(scale, lie, Meeting::ItCalls, 0)
}

fn by_answering(scale: &Scale, lie: Lie) -> String {
    quiet::one_liar(scale, lie, Meeting::ItIsCalled, 0)
}

const CASES: [(&str, Measure); 23] = [
    // An honest member made by hand: what all the others are compared with.
    ("calm", |scale| by_calling(scale, Lie::None)),
    ("anew", quiet::set_up_anew),
    ("allow", |scale| quiet::guest_not_on_a_list(scale, 100)),
    ("allow-large", |scale| quiet::guest_not_on_a_list(scale, LARGE_BYTES / scale.part)),
    ("ghosts", |scale| quiet::ghosts(scale, 1)),
    ("ghosts-4", |scale| quiet::ghosts(scale, 4)),
    ("ping-401-13", |scale| by_calling(scale, Lie::PingWrongSession)),
    ("ping-401-10", |scale| by_calling(scale, Lie::PingUnknownSender)),
    ("hello-200-session", |scale| by_answering(scale, Lie::HelloSession)),
    ("hello-200-key", |scale| by_answering(scale, Lie::HelloKey)),
    ("hello-200-id", |scale| by_answering(scale, Lie::HelloId)),
    ("update-406", |scale| by_calling(scale, Lie::UpdateRefused)),
    ("peers-nothing", |scale| {
        quiet::one_liar(scale, Lie::PeersNothing, Meeting::ItCalls, LARGE_BYTES / scale.part)
    }),
    ("never-answer-200", |scale| share::never_answer(scale, 200)),
    ("never-answer-1022", |scale| share::never_answer(scale, 1022)),
    ("hang-update-150", |scale| share::hang_on_update(scale, 150)),
    ("inbox", share::full_inbox),
    ("advertise", share::ever_another_address),
    ("third-party", |scale| share::third_party(scale, 1022)),
    ("replayed-ping", |scale| share::replayed_ping(scale, 300)),
    ("replayed-wish", share::replayed_wish),
    ("cpu-patches", |scale| share::costly_patches(scale, 16_000, 1000)),
    ("cpu-records", |scale| share::costly_records(scale, 4000)),
];

/// Measures and prints a line; says whether that worked.
fn measure(name: &str, measure: Measure, scale: &Scale) -> bool {
    let began = Instant::now();
    let line = catch_unwind(AssertUnwindSafe(|| measure(scale)));
    let seconds = began.elapsed().as_secs();
    match &line {
        Ok(line) => println!("{name}: {line} [{seconds} s]"),
        Err(_) => println!("{name}: NOT MEASURED (said above) [{seconds} s]"),
    }
    line.is_ok()
}

/// All of them with small numbers, some beside each other.
fn measure_quickly() -> bool {
    let (next, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, case)) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let works = measure(name, *case, &Scale::QUICK);
                    good.fetch_add(usize::from(works), Ordering::Relaxed);
                }
            });
        }
    });
    good.into_inner() == CASES.len()
}

#[test]
fn each_case_measures_something() {
    let asked = std::env::var("DSN_LIARS").unwrap_or_default();
    if asked.is_empty() {
        assert!(measure_quickly(), "all cases can be measured");
        return;
    }
    crate::support::process::end_with_children();
    let names: Vec<&str> = asked.split_whitespace().collect();
    let is_case = |name: &&str| *name == "all" || CASES.iter().any(|(case, _)| case == name);
    let strange = names.iter().find(|name| !is_case(name));
    assert!(strange.is_none(), "there is no case {strange:?}; there are: {}", names_of_all());
    let wanted = |name: &str| names.contains(&name) || names.contains(&"all");
    let cases = CASES.iter().filter(|(name, _)| wanted(name));
    let bad = cases.filter(|(name, case)| !measure(name, *case, &Scale::FULL)).count();
    assert_eq!(bad, 0, "cases that could not be measured");
}

fn names_of_all() -> String {
    CASES.map(|(name, _)| name).join(" ")
}

//! Figures, and the words that they are shown in.

use std::fmt;
use std::time::{Duration, Instant};

use crate::support::stats::percentile;

/// What was counted of one node until a moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub requests: u64,
    pub bytes: u64,
    pub cpu_s: f64,
    pub at: Instant,
}

/// What came to each node in a second: requests, and HTTP bytes of requests and answers; and what
/// part of a core it used.
pub struct Rates {
    rows: Vec<Rate>,
}

struct Rate {
    id: String,
    requests: f64,
    bytes: f64,
    cpu_percent: f64,
}

impl Rates {
    pub fn new(ids: Vec<String>, before: &[Sample], after: &[Sample]) -> Self {
        let row = |((id, before), after): ((String, &Sample), &Sample)| {
            let seconds = after.at.duration_since(before.at).as_secs_f64();
            Rate {
                id,
                requests: (after.requests - before.requests) as f64 / seconds,
                bytes: (after.bytes - before.bytes) as f64 / seconds,
                cpu_percent: (after.cpu_s - before.cpu_s) / seconds * 100.0,
            }
        };
        Self { rows: ids.into_iter().zip(before).zip(after).map(row).collect() }
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |of: fn(&Rate) -> String| {
            let all: Vec<String> =
                self.rows.iter().map(|row| format!("{} {}", row.id, of(row))).collect();
            all.join(", ")
        };
        write!(
            formatter,
            "in/s: {}; CPU: {}",
            row(|it| format!("{} req {}", number(it.requests), bytes(it.bytes))),
            row(|it| format!("{} %", number(it.cpu_percent)))
        )
    }
}

/// Three digits, as far as there are so many.
pub fn number(value: f64) -> String {
    match value {
        10.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Bytes in words.
pub fn bytes(value: f64) -> String {
    match value {
        1e6.. => format!("{} MB", number(value / 1e6)),
        1e3.. => format!("{} KB", number(value / 1e3)),
        _ => format!("{value:.0} B"),
    }
}

/// How long changes took to come to those who watch.
pub struct Delays {
    arrived_ms: Vec<f64>,
    asked: usize,
    patience: Duration,
}

impl Delays {
    /// Takes a time for each change and each who watches; nothing where it did not come in time.
    pub fn new(all: Vec<Option<Duration>>, patience: Duration) -> Self {
        let asked = all.len();
        let ms = |delay: Duration| delay.as_secs_f64() * 1e3;
        Self { arrived_ms: all.into_iter().flatten().map(ms).collect(), asked, patience }
    }

    /// How many changes came to somebody.
    pub fn arrived(&self) -> usize {
        self.arrived_ms.len()
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.arrived_ms.is_empty() {
            return write!(
                formatter,
                "set: none of {} came within {:?}",
                self.asked, self.patience
            );
        }
        let of = |percent| number(percentile(&self.arrived_ms, percent));
        write!(formatter, "set: p50 {}, p99 {}, max {} ms", of(50), of(99), of(100))?;
        if self.arrived() < self.asked {
            let missing = self.asked - self.arrived();
            write!(formatter, ", {missing} of {} not within {:?}", self.asked, self.patience)?;
        }
        Ok(())
    }
}

/// A time, if something came about.
pub fn time(time: Option<Duration>, patience: Duration) -> String {
    match time {
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
        None => format!("not within {} s", patience.as_secs()),
    }
}

#[test]
fn what_did_not_come_is_said() {
    let ms = Duration::from_millis;
    let delays = |all: Vec<Option<Duration>>| Delays::new(all, ms(60_000)).to_string();
    let some: Vec<_> = (1..=100).map(|number| Some(ms(number))).collect();
    assert_eq!(delays(some), "set: p50 50, p99 99, max 100 ms");
    assert_eq!(
        delays(vec![Some(ms(5)), None]),
        "set: p50 5.0, p99 5.0, max 5.0 ms, 1 of 2 not within 60s"
    );
    assert_eq!(delays(vec![None]), "set: none of 1 came within 60s");
}

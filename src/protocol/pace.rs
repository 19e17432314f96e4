//! When something is tried again: the one place that decides it. What came to nothing waits twice
//! as long each time, and chance spreads it, so that a fleet does not knock all at once.

/// Longest time between tries, ms: within it a healed network is whole again even if nobody calls
/// first.
pub const WAIT_MAX_MS: u64 = 30_000;
/// Longest time until something is sent again that the peer has taken, but says it lacks, ms.
pub const AGAIN_MAX_MS: u64 = 10 * 60 * 1000;

/// How one kind of exchange with one peer goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    /// How often in a row it came to nothing.
    fruitless: u32,
    /// When it may be tried next, ms.
    at: u64,
}

/// What a wait depends on.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// The time now, ms.
    pub now_ms: u64,
    /// The time between ticks, ms.
    pub tick_ms: u64,
    /// Chance, from 0 to 1.
    pub roll: f64,
}

impl Pace {
    /// Whether it may be tried now.
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.at
    }

    /// Whether the last try came to nothing.
    pub fn is_failing(&self) -> bool {
        self.fruitless > 0
    }

    /// How often in a row it came to nothing.
    pub fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// It came to something: the next one need not wait.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It came to nothing: half a tick at first, twice as long each time, up to a limit.
    pub fn came_to_nothing(&mut self, wait: Wait, most_ms: u64) {
        let doubled = (wait.tick_ms / 2).max(1).saturating_mul(1 << self.fruitless.min(16));
        self.fruitless = self.fruitless.saturating_add(1);
        let limited = doubled.min(most_ms.max(wait.tick_ms)).max(1);
        // Between half and all of it.
        self.at = wait.now_ms + limited / 2 + spread(limited - limited / 2, wait.roll);
    }

    /// There is a reason to try sooner than that. What failed before still counts.
    pub fn hurry(&mut self, at_ms: u64) {
        self.at = self.at.min(at_ms);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "minutes in ms, and the roll is from 0 to 1"
)]
fn spread(most_ms: u64, roll: f64) -> u64 {
    (most_ms as f64 * roll) as u64
}

/// A budget that is used up by what comes to nothing, and filled slowly.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u32,
    most: u32,
}

impl Budget {
    /// A full one.
    pub fn new(most: u32) -> Self {
        Self { left: most, most }
    }

    /// Takes one, if one is left.
    pub fn take(&mut self) -> bool {
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }

    /// How many are left.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Puts so many back.
    pub fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_MS: u64 = 3_000;

    fn wait(now_ms: u64, roll: f64) -> Wait {
        Wait { now_ms, tick_ms: TICK_MS, roll }
    }

    #[test]
    fn each_wait_is_twice_as_long_up_to_the_limit_and_spread_over_its_second_half() {
        for roll in [0.0, 0.5, 0.999] {
            let mut pace = Pace::default();
            assert!(pace.is_due(0) && !pace.is_failing());
            for expected in [1_500, 3_000, 6_000, 12_000, 24_000, 30_000, 30_000, 30_000] {
                pace.came_to_nothing(wait(1_000, roll), WAIT_MAX_MS);
                let waits = pace.at - 1_000;
                assert!((expected / 2..=expected).contains(&waits), "{waits} of {expected}");
                assert!(pace.is_failing() && !pace.is_due(pace.at - 1) && pace.is_due(pace.at));
            }
            pace.hurry(2_000);
            assert!(pace.is_due(2_000) && pace.is_failing());
            pace.succeeded();
            assert!(pace.is_due(0) && !pace.is_failing());
        }
    }

    #[test]
    fn nothing_overflows() {
        let mut pace = Pace::default();
        for _ in 0..100_000 {
            pace.came_to_nothing(Wait { now_ms: 0, tick_ms: u64::MAX, roll: 1.0 }, WAIT_MAX_MS);
            pace.came_to_nothing(Wait { now_ms: 7, tick_ms: 1, roll: 0.0 }, AGAIN_MAX_MS);
        }
        assert!(pace.at > 7);
    }

    #[test]
    fn a_budget_is_never_more_than_full_and_never_less_than_empty() {
        let mut budget = Budget::new(2);
        assert!(budget.take() && budget.take() && !budget.take() && !budget.take());
        budget.give(1);
        assert_eq!(budget.left(), 1);
        budget.give(100);
        assert_eq!(budget.left(), 2);
    }
}

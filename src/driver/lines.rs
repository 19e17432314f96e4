//! How many lines of the log nodes that come and go may cause: a member that does so for ever, or
//! says that it does, must not fill a disk.

use crate::protocol::pace::Budget;

/// Most lines at a time: a network of some hundreds that all start at once.
const LINES_MAX: u32 = 512;
/// Time until one more may be written, ms.
const LINE_EVERY_MS: u64 = 1_000;

/// The lines that may be written.
#[derive(Debug)]
pub(super) struct Lines {
    left: Budget,
    grown_at: u64,
    left_out: u64,
}

impl Lines {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { left: Budget::new(LINES_MAX), grown_at: now_ms, left_out: 0 }
    }

    /// Whether one more line may be written, and how many were left out before it.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<u64> {
        let grown = now_ms.saturating_sub(self.grown_at) / LINE_EVERY_MS;
        self.grown_at += grown * LINE_EVERY_MS;
        self.left.give(u32::try_from(grown).unwrap_or(u32::MAX));
        if self.left.take() {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out = self.left_out.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_and_then_a_line_now_and_then_with_what_was_left_out() {
        let mut lines = Lines::new(5_000);
        assert!((0..LINES_MAX).all(|_| lines.next(5_000) == Some(0)));
        assert!((0..10).all(|_| lines.next(5_000 + LINE_EVERY_MS - 1).is_none()));
        assert_eq!(lines.next(5_000 + LINE_EVERY_MS), Some(10));
        assert_eq!(lines.next(5_000 + LINE_EVERY_MS), None);
        // Half a second is not lost each time.
        assert_eq!(lines.next(5_500 + 2 * LINE_EVERY_MS), Some(1));
        assert_eq!(lines.next(5_000 + 3 * LINE_EVERY_MS), Some(0));
        assert_eq!(lines.next(u64::MAX), Some(0));
        assert!((1..LINES_MAX).all(|_| lines.next(u64::MAX) == Some(0)));
        assert_eq!(lines.next(u64::MAX), None);
    }
}

//! Waiting for others: never without a pause, never without an end, and no longer than the process
//! is to go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How long a pause is: a person does not notice it, and a processor has nothing to do meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// A signal is for the process, so what it ends is all that the process waits for.
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What ends each wait of this process once it is true: for whoever handles signals.
pub fn stop_flag() -> Arc<AtomicBool> {
    Arc::clone(&STOP)
}

/// Why nobody waits any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It took too long.
    Late,
    /// The process is to stop.
    Stopped,
}

/// One wait, from its beginning on. As each try is followed by a pause, the limit of time is one of
/// tries, too.
#[derive(Debug)]
pub struct Patience {
    began: Instant,
    limit: Duration,
    stop: Arc<AtomicBool>,
}

impl Patience {
    /// Begins to wait.
    pub fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit, stop: stop_flag() }
    }

    /// How long is waited at most.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Pauses before the next try, unless there is to be none.
    pub fn pause(&self) -> Result<(), Over> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Over::Stopped);
        }
        if self.began.elapsed() >= self.limit {
            return Err(Over::Late);
        }
        std::thread::park_timeout(PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_time_or_with_the_process() {
        let short = PAUSE * 3;
        let waits = Patience::new(short);
        let mut tries = 0;
        let over = loop {
            match waits.pause() {
                Ok(()) => tries += 1,
                Err(over) => break over,
            }
        };
        assert!(over == Over::Late && waits.began.elapsed() >= short, "{over:?}");
        assert!((1..=3).contains(&tries), "{tries}: each has its pause");
        // The flag of the process is for all tests of this one.
        let stop = Arc::new(AtomicBool::new(true));
        let waits = Patience { stop, ..Patience::new(Duration::MAX) };
        assert_eq!(waits.pause(), Err(Over::Stopped));
    }
}

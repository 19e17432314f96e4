//! Clients that call as often as they can, all at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One call; false where there is nothing left to call with.
pub(crate) type Call = Box<dyn FnMut() -> bool + Send>;

/// How often all of them called, and in which time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) count: usize,
    pub(crate) elapsed: Duration,
}

impl Load {
    pub(crate) fn rate(self) -> f64 {
        super::stats::rate(self.count, self.elapsed)
    }
}

/// Calls for the time; shorter where one of them runs out, so that all always call together.
pub(crate) fn hammer(calls: Vec<Call>, time: Duration) -> Load {
    let (begin, over) = (Barrier::new(calls.len()), AtomicBool::new(false));
    let count = AtomicUsize::new(0);
    let elapsed = std::thread::scope(|scope| {
        let work = |mut call: Call| {
            let (begin, over, count) = (&begin, &over, &count);
            move || {
                begin.wait();
                let began = Instant::now();
                while !over.load(Ordering::Relaxed) && began.elapsed() < time {
                    if !call() {
                        break;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                over.store(true, Ordering::Relaxed);
                began.elapsed()
            }
        };
        let threads: Vec<_> = calls.into_iter().map(|call| scope.spawn(work(call))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    Load { count: count.into_inner(), elapsed }
}

//! Events to those who listen, over bounded channels: a slow reader loses events and is told how
//! many, and never slows the node.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::protocol::report::Event;

/// Most events that wait for one reader.
const EVENTS_MAX: usize = 1024;
/// Most readers.
const READERS_MAX: usize = 64;

/// All who listen. It lives inside the driver's mutex and never blocks.
#[derive(Debug, Default)]
pub struct Hub {
    readers: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    events: Sender<Event>,
    alive: Weak<()>,
    /// Events that were dropped since the last one that was taken.
    dropped: u64,
}

/// One who listens. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Event>,
    _alive: Arc<()>,
}

impl Hub {
    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// One more who listens; nothing where there are too many.
    pub fn subscribe(&mut self) -> Option<Subscription> {
        self.readers.retain(|reader| !reader.is_gone());
        if self.readers.len() == READERS_MAX {
            return None;
        }
        let (sender, events) = bounded(EVENTS_MAX);
        let alive = Arc::new(());
        self.readers.push(Reader { events: sender, alive: Arc::downgrade(&alive), dropped: 0 });
        Some(Subscription { events, _alive: alive })
    }

    /// Tells all who listen.
    pub fn publish(&mut self, event: &Event) {
        self.readers.retain_mut(|reader| reader.take(event));
    }
}

impl Reader {
    fn is_gone(&self) -> bool {
        self.alive.strong_count() == 0
    }

    /// Gives the event to the reader, or counts it as dropped; says whether the reader is there.
    fn take(&mut self, event: &Event) -> bool {
        if self.dropped > 0 {
            // Where events are missing the reader learns how many, before it gets the next one.
            // Only whole gaps are told: two places must be free.
            if EVENTS_MAX - self.events.len() < 2 {
                self.dropped += 1;
                return true;
            }
            match self.events.try_send(Event::Lagged { count: self.dropped }) {
                Ok(()) => self.dropped = 0,
                Err(TrySendError::Full(_)) => {
                    self.dropped += 1;
                    return true;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.dropped = 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Subscription {
    /// The next event, or nothing where none came within the time or the node has stopped.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The same, and tells apart an end of the node from an end of the time.
    pub fn wait(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::NodeId;

    fn event(number: usize) -> Event {
        Event::Joined { node_id: NodeId::new(&format!("n{number}")).unwrap() }
    }

    #[test]
    fn a_slow_reader_learns_how_many_it_missed_and_goes_on() {
        let mut hub = Hub::default();
        let slow = hub.subscribe().unwrap();
        for number in 0..EVENTS_MAX + 5 {
            hub.publish(&event(number));
        }
        for number in 0..EVENTS_MAX {
            assert_eq!(slow.next(Duration::ZERO), Some(event(number)));
        }
        assert_eq!(slow.next(Duration::ZERO), None);
        hub.publish(&event(7));
        assert_eq!(slow.next(Duration::ZERO), Some(Event::Lagged { count: 5 }));
        assert_eq!(slow.next(Duration::ZERO), Some(event(7)));
    }

    #[test]
    fn those_who_went_away_are_forgotten_and_others_are_bounded() {
        let mut hub = Hub::default();
        drop(hub.subscribe());
        hub.publish(&event(0));
        assert!(hub.is_empty());
        let all: Vec<_> = (0..READERS_MAX).map(|_| hub.subscribe().unwrap()).collect();
        assert!(hub.subscribe().is_none());
        drop(all);
        assert!(hub.subscribe().is_some());
    }
}

//! Events to those who listen, over bounded channels: a slow reader loses events and is told how
//! many, and never slows the node.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::protocol::entries::Value;
use crate::protocol::report::Event;

/// Most events that wait for one reader.
const EVENTS_MAX: usize = 1024;
/// Most bytes of values and DATA that wait for one reader; a single event may have more. A reader
/// that hangs must not fill the memory of a small host.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most readers: those of the control socket (`STAY_MAX` there), and some of the program around the
/// node.
const READERS_MAX: usize = 80;

/// All who listen. It lives inside the driver's mutex and never blocks.
#[derive(Debug, Default)]
pub struct Hub {
    readers: Vec<Reader>,
    /// Events that were dropped so far, of all readers.
    dropped: u64,
    /// The node ends: there is nothing more to tell.
    closed: bool,
}

#[derive(Debug)]
struct Reader {
    events: Sender<Timed>,
    /// The bytes that wait; gone with the one who reads.
    waiting: Weak<AtomicUsize>,
    /// Events that were dropped since the last one that was taken.
    dropped: u64,
}

/// An event, and when this node saw it.
type Timed = (SystemTime, Event);

/// One who listens. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Timed>,
    waiting: Arc<AtomicUsize>,
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
        let waiting = Arc::<AtomicUsize>::default();
        if self.closed {
            // It learns that at once.
            return Some(Subscription { events, waiting });
        }
        self.readers.push(Reader { events: sender, waiting: Arc::downgrade(&waiting), dropped: 0 });
        Some(Subscription { events, waiting })
    }

    /// Tells all who listen.
    pub fn publish(&mut self, event: &Event) {
        let now = SystemTime::now();
        let dropped = &mut self.dropped;
        self.readers.retain_mut(|reader| {
            let before = reader.dropped;
            let is_there = reader.take(event, now);
            *dropped += reader.dropped.saturating_sub(before);
            is_there
        });
    }

    /// How many events were dropped so far, of all who listened.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.readers.iter().filter(|reader| !reader.is_gone()).count()
    }

    /// Lets all go who listen: nothing more happens.
    pub fn close(&mut self) {
        self.closed = true;
        self.readers.clear();
    }
}

impl Reader {
    fn is_gone(&self) -> bool {
        self.waiting.strong_count() == 0
    }

    /// Gives the event to the reader, or counts it as dropped; says whether the reader is there.
    fn take(&mut self, event: &Event, now: SystemTime) -> bool {
        let Some(waiting) = self.waiting.upgrade() else {
            return false;
        };
        let bytes = bytes_of(event);
        let before = waiting.load(Ordering::SeqCst);
        // Where events are missing the reader learns how many, before it gets the next one. Only
        // whole gaps are told: two places must be free.
        let places = if self.dropped > 0 { 2 } else { 1 };
        let has_room = EVENTS_MAX - self.events.len() >= places
            && (before == 0 || before + bytes <= EVENT_BYTES_MAX);
        if !has_room {
            self.dropped += 1;
            return true;
        }
        waiting.fetch_add(bytes, Ordering::SeqCst);
        // Nobody else sends, so both find room.
        let gap = (self.dropped > 0).then_some(Event::Lagged { count: self.dropped });
        self.dropped = 0;
        gap.into_iter()
            .chain([event.clone()])
            .all(|event| self.events.try_send((now, event)).is_ok())
    }
}

/// What an event holds in memory beside itself.
fn bytes_of(event: &Event) -> usize {
    let length = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.as_bytes().len());
    match event {
        Event::Updated { old, new, .. } => length(old) + length(new),
        Event::Data { data, .. } => data.len(),
        _ => 0,
    }
}

impl Subscription {
    /// The next event, or nothing where none came within the time or the node has stopped.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        self.wait(timeout).ok().map(|(_, event)| event)
    }

    /// The same with the time at which this node saw it; tells apart an end of the node from an end
    /// of the time.
    pub fn wait(&self, timeout: Duration) -> Result<(SystemTime, Event), RecvTimeoutError> {
        let timed = self.events.recv_timeout(timeout)?;
        self.waiting.fetch_sub(bytes_of(&timed.1), Ordering::SeqCst);
        Ok(timed)
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
        assert_eq!((hub.dropped(), hub.listeners()), (5, 1));
        drop(slow);
        assert_eq!((hub.dropped(), hub.listeners()), (5, 0));
    }

    #[test]
    fn what_waits_for_a_reader_is_bounded_in_bytes() {
        let mut hub = Hub::default();
        let slow = hub.subscribe().unwrap();
        let from = NodeId::new("a").unwrap();
        let data = |bytes| Event::Data { node_id: from.clone(), data: vec![7; bytes].into() };
        let half = data(EVENT_BYTES_MAX / 2);
        for _ in 0..5 {
            hub.publish(&half);
        }
        assert_eq!(
            (slow.next(Duration::ZERO), slow.next(Duration::ZERO)),
            (Some(half.clone()), Some(half))
        );
        assert_eq!(slow.next(Duration::ZERO), None, "three were too much");
        // One that is larger than all the room goes to a reader that has nothing to read.
        let large = data(EVENT_BYTES_MAX + 1);
        hub.publish(&large);
        assert_eq!(slow.next(Duration::ZERO), Some(Event::Lagged { count: 3 }));
        assert_eq!(slow.next(Duration::ZERO), Some(large));
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
        let last = hub.subscribe().unwrap();
        hub.publish(&event(0));
        hub.close();
        assert_eq!(last.next(Duration::ZERO), Some(event(0)), "what was told is read");
        for closed in [last, hub.subscribe().unwrap()] {
            assert_eq!(closed.wait(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
        }
    }
}

//! Events to those who listen, over bounded channels: a slow reader loses events and is told how
//! many, and never slows the node.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// What is shared with the one who reads; gone with it.
    shared: Weak<Shared>,
}

/// What both ends know of a reader.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait for it.
    waiting: AtomicUsize,
    /// Events that were dropped and that it was not told of yet.
    dropped: AtomicU64,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    Dropped,
    /// Nobody reads any more.
    Gone,
}

/// An event, and when this node saw it.
type Timed = (SystemTime, Event);

/// One who listens. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Timed>,
    shared: Arc<Shared>,
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
        let shared = Arc::<Shared>::default();
        if self.closed {
            // It learns that at once.
            return Some(Subscription { events, shared });
        }
        self.readers.push(Reader { events: sender, shared: Arc::downgrade(&shared) });
        Some(Subscription { events, shared })
    }

    /// Tells all who listen.
    pub fn publish(&mut self, event: &Event) {
        let now = SystemTime::now();
        let dropped = &mut self.dropped;
        self.readers.retain(|reader| {
            let taken = reader.take(event, now);
            *dropped += u64::from(taken == Taken::Dropped);
            taken != Taken::Gone
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
        self.shared.strong_count() == 0
    }

    /// Gives the event to the reader, or counts it as dropped.
    fn take(&self, event: &Event, now: SystemTime) -> Taken {
        let Some(shared) = self.shared.upgrade() else {
            return Taken::Gone;
        };
        let bytes = bytes_of(event);
        let before = shared.waiting.load(Ordering::SeqCst);
        // Where events are missing the reader learns how many, before it gets the next one. Only
        // whole gaps are told: two places must be free.
        let places = if shared.dropped.load(Ordering::SeqCst) > 0 { 2 } else { 1 };
        let has_room = EVENTS_MAX - self.events.len() >= places
            && (before == 0 || before + bytes <= EVENT_BYTES_MAX);
        if !has_room {
            shared.dropped.fetch_add(1, Ordering::SeqCst);
            return Taken::Dropped;
        }
        shared.waiting.fetch_add(bytes, Ordering::SeqCst);
        // Nobody else sends, so both find room.
        let gap = lagged(&shared.dropped);
        let mut all = gap.into_iter().chain([event.clone()]);
        let is_taken = all.all(|event| self.events.try_send((now, event)).is_ok());
        if is_taken { Taken::Yes } else { Taken::Gone }
    }
}

/// What tells of a gap, once; nothing where there is none.
fn lagged(dropped: &AtomicU64) -> Option<Event> {
    let count = dropped.swap(0, Ordering::SeqCst);
    (count > 0).then_some(Event::Lagged { count })
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
        let timed = match self.events.try_recv() {
            Ok(timed) => timed,
            // All was taken that there was room for. What there was none for is told at once, not
            // with the next event, which may be hours away.
            Err(_) => match lagged(&self.shared.dropped) {
                Some(gap) => return Ok((SystemTime::now(), gap)),
                None => self.events.recv_timeout(timeout)?,
            },
        };
        self.shared.waiting.fetch_sub(bytes_of(&timed.1), Ordering::SeqCst);
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
        // It learns that without another event.
        assert_eq!(slow.next(Duration::ZERO), Some(Event::Lagged { count: 5 }));
        assert_eq!(slow.next(Duration::ZERO), None);
        hub.publish(&event(7));
        assert_eq!(slow.next(Duration::ZERO), Some(event(7)));
        for number in 0..EVENTS_MAX + 1 {
            hub.publish(&event(number));
        }
        assert_eq!(
            (slow.next(Duration::ZERO), slow.next(Duration::ZERO)),
            (Some(event(0)), Some(event(1)))
        );
        hub.publish(&event(8));
        for number in 2..EVENTS_MAX {
            assert_eq!(slow.next(Duration::ZERO), Some(event(number)));
        }
        assert_eq!(slow.next(Duration::ZERO), Some(Event::Lagged { count: 1 }));
        assert_eq!((slow.next(Duration::ZERO), slow.next(Duration::ZERO)), (Some(event(8)), None));
        assert_eq!((hub.dropped(), hub.listeners()), (6, 1));
        drop(slow);
        assert_eq!((hub.dropped(), hub.listeners()), (6, 0));
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
        assert_eq!(slow.next(Duration::ZERO), Some(Event::Lagged { count: 3 }), "were too much");
        assert_eq!(slow.next(Duration::ZERO), None);
        // One that is larger than all the room goes to a reader that has nothing to read.
        let large = data(EVENT_BYTES_MAX + 1);
        hub.publish(&large);
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

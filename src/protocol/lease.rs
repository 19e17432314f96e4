//! Values that expire. Their owner alone knows for how long each may stand, and removes it when
//! that is over: a clock that only goes forward decides. Others see that the key is gone, as if it
//! had been removed by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::entries::Key;

/// The shortest time, ms: what is set more often than once a second is better sent.
const TTL_MS_MIN: u32 = 1_000;
/// The longest time, ms: 30 days. What is to stand longer stands for good.
const TTL_MS_MAX: u32 = 30 * 24 * 60 * 60 * 1_000;

/// For how long a value stands unless it is set again: a second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

/// A time that no value can be given. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTtl {
    /// What was asked for, ms.
    pub ms: u64,
}

impl fmt::Display for InvalidTtl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "a value can't expire after {} ms: the time is at least 1 s and at most 30 days",
            self.ms
        )
    }
}

impl std::error::Error for InvalidTtl {}

impl Ttl {
    /// Takes a time in ms.
    pub fn from_ms(ms: u64) -> Result<Self, InvalidTtl> {
        let fits = u32::try_from(ms).ok().filter(|ms| (TTL_MS_MIN..=TTL_MS_MAX).contains(ms));
        fits.map(Self).ok_or(InvalidTtl { ms })
    }

    /// The time in ms.
    pub fn as_ms(self) -> u32 {
        self.0
    }
}

/// Parts of a millisecond are dropped.
impl TryFrom<Duration> for Ttl {
    type Error = InvalidTtl;

    fn try_from(time: Duration) -> Result<Self, InvalidTtl> {
        Self::from_ms(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Which keys expire, and after how long: what is on disk of it.
pub type Terms = BTreeMap<Key, Ttl>;

/// Which keys of the own state expire, and when. All times are ms by a clock that only goes
/// forward.
#[derive(Debug, Default)]
pub struct Leases {
    by_key: BTreeMap<Key, Lease>,
    by_due: BTreeSet<(u64, Key)>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Ttl,
    due_ms: u64,
}

impl Leases {
    /// All have their full time from now on: nobody knows how long the node was away.
    pub fn begin(terms: &Terms, now_ms: u64) -> Self {
        let mut leases = Self::default();
        for (key, ttl) in terms {
            leases.set(key, Some(*ttl), now_ms);
        }
        leases
    }

    /// The key was set now, to stand for so long, or for good; or it was removed. Gives when it
    /// goes.
    pub fn set(&mut self, key: &Key, ttl: Option<Ttl>, now_ms: u64) -> Option<u64> {
        if let Some(old) = self.by_key.remove(key) {
            self.by_due.remove(&(old.due_ms, key.clone()));
        }
        let ttl = ttl?;
        let due_ms = now_ms.saturating_add(ttl.as_ms().into());
        self.by_key.insert(key.clone(), Lease { ttl, due_ms });
        self.by_due.insert((due_ms, key.clone()));
        Some(due_ms)
    }

    /// For how long a key was set; nothing where it stands for good, or is not there.
    pub fn ttl_of(&self, key: &Key) -> Option<Ttl> {
        self.by_key.get(key).map(|lease| lease.ttl)
    }

    /// When the first one goes.
    pub fn due(&self) -> Option<u64> {
        self.by_due.first().map(|(due_ms, _)| *due_ms)
    }

    /// All whose time is over.
    pub fn overdue(&self, now_ms: u64) -> impl Iterator<Item = &Key> {
        self.by_due.iter().take_while(move |(due_ms, _)| *due_ms <= now_ms).map(|(_, key)| key)
    }

    /// All of them, with when each goes.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.by_key.iter().map(|(key, lease)| (key, lease.due_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::new(&number.to_string()).unwrap()
    }

    fn ttl(ms: u64) -> Ttl {
        Ttl::from_ms(ms).unwrap()
    }

    #[test]
    fn a_time_has_limits() {
        let days = 24 * 60 * 60 * 1_000;
        for right in [1_000, 1_001, 30 * days] {
            assert_eq!(u64::from(Ttl::from_ms(right).unwrap().as_ms()), right);
        }
        for wrong in [0, 999, 30 * days + 1, u64::from(u32::MAX) + 1_001, u64::MAX] {
            assert_eq!(Ttl::from_ms(wrong), Err(InvalidTtl { ms: wrong }));
        }
        assert!(Ttl::try_from(Duration::MAX).is_err());
    }

    #[test]
    fn the_last_word_counts() {
        let mut leases = Leases::default();
        let keys = |leases: &Leases, now| leases.overdue(now).cloned().collect::<Vec<_>>();
        assert_eq!(leases.set(&key(1), Some(ttl(2_000)), 100), Some(2_100));
        leases.set(&key(2), Some(ttl(1_000)), 100);
        assert_eq!(leases.due(), Some(1_100));
        leases.set(&key(2), Some(ttl(5_000)), 1_000);
        assert_eq!((leases.due(), keys(&leases, 2_099)), (Some(2_100), vec![]));
        assert_eq!(keys(&leases, 6_000), [key(1), key(2)]);
        assert_eq!(leases.set(&key(1), None, 3_000), None);
        assert_eq!((leases.ttl_of(&key(1)), keys(&leases, 9_000)), (None, vec![key(2)]));
    }

    proptest! {
        /// Whatever is set, set again, made to stand and removed: what is overdue is what a plain
        /// list of it says.
        #[test]
        fn they_agree_with_a_list(
            steps in proptest::collection::vec(
                (0..5_u8, proptest::option::of(1_000..4_000_u64), 0..900_u64), 0..60),
        ) {
            let (mut leases, mut list, mut now) = (Leases::default(), BTreeMap::new(), 0);
            for (number, ms, pause) in steps {
                now += pause;
                leases.set(&key(number), ms.map(ttl), now);
                match ms {
                    Some(ms) => list.insert(key(number), now + ms),
                    None => list.remove(&key(number)),
                };
                let mut overdue: Vec<Key> = leases.overdue(now).cloned().collect();
                overdue.sort();
                let due = list.iter().filter(|(_, due)| **due <= now);
                prop_assert_eq!(overdue, due.map(|(key, _)| key.clone()).collect::<Vec<_>>());
                prop_assert_eq!(leases.due(), list.values().min().copied());
                prop_assert_eq!(leases.by_due.len(), leases.by_key.len());
            }
        }
    }
}

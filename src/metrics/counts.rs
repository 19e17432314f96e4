//! What all threads count: each count is one addition that nobody waits for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::wire::Kind;

/// The statuses that are counted apart, as they are told; anything else is `other`, and no answer
/// is `none`.
const STATUSES: [&str; 11] =
    ["200", "204", "400", "401", "404", "406", "500", "503", "505", "other", "none"];
const OTHER: usize = STATUSES.len() - 2;
const NONE: usize = STATUSES.len() - 1;

/// The upper ends of the buckets of a [`Histogram`], ms; above the last there is one more. A push
/// takes milliseconds, a try up to 5 s, a change that meets silence some tries.
pub(super) const BUCKETS_MS: [f32; 13] =
    [1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 15000.0];

const KINDS: usize = Kind::ALL.len();

/// Counts of a node since its start.
#[derive(Debug, Default)]
pub struct Counts {
    received: [[AtomicU64; STATUSES.len()]; KINDS],
    sent: [[AtomicU64; STATUSES.len()]; KINDS],
    failures: [AtomicU64; KINDS],
    /// Received and sent.
    bytes: [[AtomicU64; 2]; KINDS],
    durations: Times,
    spreads: Times,
    changes: AtomicU64,
    disk_failures: AtomicU64,
}

/// A try of a request, as it turned out.
#[derive(Debug, Clone, Copy)]
pub struct Tried {
    /// The status of the answer, if one came.
    pub status: Option<u16>,
    /// Bytes that were sent, and that came back.
    pub bytes: (usize, usize),
    /// How long that took, microseconds.
    pub elapsed_us: u64,
}

#[derive(Debug, Default)]
struct Times {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// All counts at one moment.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Requests that came.
    pub received: ByStatus,
    /// Tries of requests to others.
    pub sent: ByStatus,
    /// Those that came to nothing, by type of message.
    pub failures: [u64; KINDS],
    /// Bytes received and sent, by type of message.
    pub bytes: [[u64; 2]; KINDS],
    /// How long tries took.
    pub durations: Histogram,
    /// How long changes of the own state took to be everywhere.
    pub spreads: Histogram,
    /// Versions of the own state.
    pub changes: u64,
    /// Writes that failed.
    pub disk_failures: u64,
}

/// Counts by type of message and status of the answer.
#[derive(Debug, Default, Clone)]
pub struct ByStatus([[u64; STATUSES.len()]; KINDS]);

/// How often something took how long.
#[derive(Debug, Default, Clone)]
pub struct Histogram {
    /// How many fell into each bucket, the one above the last bound included.
    pub(super) buckets: [u64; BUCKETS_MS.len() + 1],
    /// All times together, microseconds.
    pub(super) sum_us: u64,
}

impl ByStatus {
    /// All that are not 0, and the 200 of each type: a series that is there from the beginning
    /// shows its first step.
    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, &'static str, u64)> + '_ {
        let of_kind = |(kind, counts): (Kind, &[u64; STATUSES.len()])| {
            let all: Vec<_> = STATUSES.into_iter().zip(*counts).enumerate().collect();
            let is_told = |(at, (_, count)): &(usize, (&str, u64))| *at == 0 || *count > 0;
            all.into_iter()
                .filter(is_told)
                .map(move |(_, (status, count))| (kind, status, count))
                .collect::<Vec<_>>()
        };
        Kind::ALL.into_iter().zip(&self.0).flat_map(of_kind)
    }
}

impl Counts {
    /// A request of this type was answered with this status; bytes that came, and that went back.
    pub fn note_received(&self, kind: Kind, status: u16, (came, went): (usize, usize)) {
        add(&self.received, kind, place_of(Some(status)), 1);
        add(&self.bytes, kind, 0, came as u64);
        add(&self.bytes, kind, 1, went as u64);
    }

    /// A request of this type was tried.
    pub fn note_sent(&self, kind: Kind, tried: Tried) {
        let (went, came) = tried.bytes;
        add(&self.sent, kind, place_of(tried.status), 1);
        add(&self.bytes, kind, 0, came as u64);
        add(&self.bytes, kind, 1, went as u64);
        self.durations.note(tried.elapsed_us);
    }

    /// A try of this type came to nothing.
    pub fn note_failure(&self, kind: Kind) {
        if let Some(count) = self.failures.get(index_of(kind)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that are alive hold a change that was made so long ago, ms.
    pub fn note_spread(&self, ms: u64) {
        self.spreads.note(ms.saturating_mul(1_000));
    }

    /// A version of the own state was made.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A write to disk failed.
    pub fn note_disk_failure(&self) {
        self.disk_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// All counts as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Snapshot {
            received: ByStatus(self.received.each_ref().map(|of| of.each_ref().map(read))),
            sent: ByStatus(self.sent.each_ref().map(|of| of.each_ref().map(read))),
            failures: self.failures.each_ref().map(read),
            bytes: self.bytes.each_ref().map(|of| of.each_ref().map(read)),
            durations: self.durations.read(),
            spreads: self.spreads.read(),
            changes: read(&self.changes),
            disk_failures: read(&self.disk_failures),
        }
    }
}

impl Times {
    fn note(&self, us: u64) {
        let is_within = |bound: &f32| us as f64 <= f64::from(*bound) * 1_000.0;
        let at = BUCKETS_MS.iter().position(is_within).unwrap_or(BUCKETS_MS.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum_us.fetch_add(us, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Histogram {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Histogram { buckets: self.buckets.each_ref().map(read), sum_us: read(&self.sum_us) }
    }
}

fn index_of(kind: Kind) -> usize {
    usize::from(kind.byte()).saturating_sub(1)
}

fn place_of(status: Option<u16>) -> usize {
    let Some(status) = status else { return NONE };
    let is_it = |name: &&str| name.parse() == Ok(status);
    STATUSES.iter().position(is_it).unwrap_or(OTHER)
}

fn add<const N: usize>(to: &[[AtomicU64; N]; KINDS], kind: Kind, place: usize, count: u64) {
    if let Some(it) = to.get(index_of(kind)).and_then(|of| of.get(place)) {
        it.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_own_counts() {
        let counts = Counts::default();
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            for _ in 0..=at {
                counts.note_received(kind, 204, (1, 10));
                counts.note_failure(kind);
            }
        }
        let snapshot = counts.snapshot();
        let found: Vec<u64> =
            snapshot.received.all().filter(|it| it.1 == "204").map(|it| it.2).collect();
        assert_eq!(found, [1, 2, 3, 4, 5]);
        assert_eq!(snapshot.failures, [1, 2, 3, 4, 5]);
        assert_eq!(snapshot.bytes, [[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]]);
    }

    #[test]
    fn every_status_of_the_protocol_is_counted_apart() {
        use crate::protocol::verdict::Status;
        for status in [
            Status::Ok,
            Status::NoContent,
            Status::BadRequest,
            Status::Unauthorized,
            Status::NotAcceptable,
            Status::Internal,
            Status::VersionNotSupported,
        ] {
            assert!(place_of(Some(status.code())) < OTHER, "{status:?}");
        }
        assert_eq!((place_of(Some(418)), place_of(None)), (OTHER, NONE));
    }

    #[test]
    fn a_time_falls_into_the_bucket_that_ends_with_it() {
        let times = Times::default();
        for us in [0, 1_000, 1_001, 15_000_000, 15_000_001] {
            times.note(us);
        }
        let read = times.read();
        assert_eq!((read.buckets[0], read.buckets[1]), (2, 1));
        assert_eq!((read.buckets[BUCKETS_MS.len() - 1], read.buckets[BUCKETS_MS.len()]), (1, 1));
        assert_eq!(read.sum_us, 30_002_002);
    }
}

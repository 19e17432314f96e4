//! The threads that send. A few take the requests to peers that answer in turn; what is held up
//! keeps nobody waiting, as others come in for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use super::STACK_BYTES;
use crate::driver::Driver;
use crate::protocol::node::{Class, Job};

/// So many requests to peers that answer are under way at a time, while none of them is held up:
/// each more is one more thread to wake, and the cores are busy with these.
const AT_ONCE: usize = 3;
/// A request counts as held up after this: it does not count as one of those any more. Where all
/// are, each that waits gets a thread of its own. So whoever hangs delays others once, by this.
const HELD_UP: Duration = Duration::from_millis(5);
/// How often it is looked whether a class that has all its senders has room again.
const FULL_LOOK: Duration = Duration::from_millis(50);
/// How long a sender beyond the one that waits for work is there to be called before it ends.
const SENDER_IDLE: Duration = Duration::from_secs(3);
/// Most senders: those that are under way, and one that waits.
const THREADS_MAX: usize =
    senders_max(Class::Healthy) + senders_max(Class::Returning) + senders_max(Class::Unproved) + 1;

/// Most senders of a class. Each peer that hangs holds one until its time is over.
pub const fn senders_max(class: Class) -> usize {
    match class {
        // So many may begin to hang at one time without any delay to the others.
        Class::Healthy => 256,
        // Those that are back are met soon, however many are not.
        Class::Returning => 32,
        // Anybody can name any address.
        Class::Unproved => 8,
    }
}

/// What does the work.
pub(super) trait Sends: Send + Sync + 'static {
    /// Makes one try of what is due.
    fn run(&self, job: &Job);
    /// Does the work of a thread; says so where it panics.
    fn guard(&self, work: impl FnOnce());
}

impl Sends for Driver {
    fn run(&self, job: &Job) {
        self.run_send(job);
    }

    fn guard(&self, work: impl FnOnce()) {
        Driver::guard(self, "of a sender", work);
    }
}

/// The senders of all classes.
pub(super) struct Senders<S> {
    sends: Arc<S>,
    /// In the order of [`Class::ALL`].
    jobs: [Receiver<Job>; Class::ALL.len()],
    stopped: Receiver<()>,
    /// How many wait for a job, or are about to. Whoever takes a job or brings one sees to it that
    /// one does while jobs wait.
    waiting: AtomicUsize,
    under_way: Mutex<UnderWay>,
    /// Takes a call only while a sender that is not needed listens.
    call: Sender<()>,
    called: Receiver<()>,
    names: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is under way, and what was taken out of its queue too early.
struct UnderWay {
    runs: Vec<Run>,
    next: u64,
    /// Most of the requests to peers that answer that are not held up.
    at_once: usize,
    /// At most one of each sender that waits: no more of a class is taken while one is here.
    early: VecDeque<Job>,
}

struct Run {
    number: u64,
    class: Class,
    began: Instant,
    is_held_up: bool,
}

/// What came of waiting.
enum Waited {
    Job(Job),
    /// The time is over.
    Nothing,
    /// The node stops.
    Stopped,
}

impl<S: Sends> Senders<S> {
    pub(super) fn new(
        sends: Arc<S>,
        jobs: [Receiver<Job>; Class::ALL.len()],
        stopped: Receiver<()>,
    ) -> Arc<Self> {
        let (runs, early) = (Vec::new(), VecDeque::new());
        let under_way = UnderWay { runs, next: 0, at_once: AT_ONCE, early };
        let (call, called) = bounded(0);
        Arc::new(Self {
            sends,
            jobs,
            stopped,
            waiting: AtomicUsize::new(0),
            under_way: Mutex::new(under_way),
            call,
            called,
            names: AtomicUsize::new(0),
            threads: Mutex::default(),
        })
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job may wait: somebody has to look.
    pub(super) fn look(self: &Arc<Self>) {
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Err(fault) = self.call_in()
        {
            log::warn!("no thread for another sender: {fault}; sends may wait");
        }
    }

    /// One more waits for jobs: one that was not needed, or a new one.
    pub(super) fn call_in(self: &Arc<Self>) -> std::io::Result<()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.call.try_send(()).is_ok() {
            return Ok(());
        }
        let made = self.spawn();
        if !matches!(made, Ok(true)) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        made.map(drop)
    }

    /// Says whether there was room for another one.
    fn spawn(self: &Arc<Self>) -> std::io::Result<bool> {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= THREADS_MAX {
            return Ok(false);
        }
        let name = format!("dsn-sender-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let senders = Arc::clone(self);
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
        threads.push(thread.spawn(move || senders.sends.guard(|| senders.work()))?);
        Ok(true)
    }

    /// It counts as one that waits.
    fn work(self: &Arc<Self>) {
        while let Some(job) = self.await_job() {
            let mut current = Some(job);
            while let Some((job, number)) = current {
                self.sends.run(&job);
                current = self.next(number);
            }
            if !self.is_needed() {
                return;
            }
        }
    }

    /// Waits for a job; nothing where this sender ends. It counts as waiting until then.
    fn await_job(self: &Arc<Self>) -> Option<(Job, u64)> {
        loop {
            let (wait, waited) = self.wait();
            let mut under_way = self.under_way();
            let taken = match waited {
                Waited::Stopped => return None,
                Waited::Job(job) => under_way.begin_or_keep(job),
                Waited::Nothing => {
                    let [healthy, ..] = &self.jobs;
                    under_way.look_who_is_held_up(healthy.len());
                    under_way.begin_early()
                }
            };
            if let Some(taken) = taken {
                let is_last = self.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
                let jobs_wait =
                    !under_way.early.is_empty() || self.jobs.iter().any(|jobs| !jobs.is_empty());
                drop(under_way);
                if is_last && jobs_wait {
                    self.look();
                }
                return Some(taken);
            }
            if wait == SENDER_IDLE && self.retire() {
                return None;
            }
        }
    }

    /// Waits for whatever may be taken; gives for how long, too.
    fn wait(&self) -> (Duration, Waited) {
        let under_way = self.under_way();
        let wait = under_way.until_look();
        let nobody = never();
        let [healthy, returning, unproved] = &self.jobs;
        let open = |class, jobs| if under_way.keeps(class) { &nobody } else { jobs };
        let healthy = open(Class::Healthy, healthy);
        let returning = open(Class::Returning, returning);
        let unproved = open(Class::Unproved, unproved);
        drop(under_way);
        let job = select! {
            recv(healthy) -> job => job,
            recv(returning) -> job => job,
            recv(unproved) -> job => job,
            recv(self.stopped) -> _ => return (wait, Waited::Stopped),
            default(wait) => return (wait, Waited::Nothing),
        };
        (wait, job.map_or(Waited::Stopped, Waited::Job))
    }

    /// One is done: what is next, in turn.
    fn next(&self, number: u64) -> Option<(Job, u64)> {
        let mut under_way = self.under_way();
        under_way.runs.retain(|run| run.number != number);
        if let Some(early) = under_way.begin_early() {
            return Some(early);
        }
        for (class, jobs) in Class::ALL.into_iter().zip(&self.jobs) {
            if under_way.has_room(class)
                && let Ok(job) = jobs.try_recv()
            {
                return under_way.begin(job);
            }
        }
        under_way.at_once = AT_ONCE;
        None
    }

    /// Whether a sender that has nothing more to do is to wait for jobs. Where one does, it is
    /// there to be called for a while: a job now and then keeps no more than one.
    fn is_needed(&self) -> bool {
        if self.waiting.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
        select! {
            // Who called counts it.
            recv(self.called) -> call => call.is_ok(),
            recv(self.stopped) -> _ => false,
            default(SENDER_IDLE) => false,
        }
    }

    /// Whether one that waited in vain may end: another one waits.
    fn retire(&self) -> bool {
        let fewer = |waiting: usize| (waiting > 1).then(|| waiting - 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok()
    }

    pub(super) fn reap(self: &Arc<Self>) {
        self.threads().retain(|thread| !thread.is_finished());
        // Where there was no thread the last time.
        if self.jobs.iter().any(|jobs| !jobs.is_empty()) {
            self.look();
        }
    }

    pub(super) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads())
    }
}

impl UnderWay {
    fn quick(&self) -> usize {
        let is_quick = |run: &&Run| run.class == Class::Healthy && !run.is_held_up;
        self.runs.iter().filter(is_quick).count()
    }

    fn has_room(&self, class: Class) -> bool {
        let of_class = self.runs.iter().filter(|run| run.class == class).count();
        let may = class != Class::Healthy || self.quick() < self.at_once;
        may && of_class < senders_max(class)
    }

    fn begin(&mut self, job: Job) -> Option<(Job, u64)> {
        let number = self.next;
        self.next += 1;
        let began = Instant::now();
        self.runs.push(Run { number, class: job.class, began, is_held_up: false });
        Some((job, number))
    }

    fn begin_or_keep(&mut self, job: Job) -> Option<(Job, u64)> {
        if self.has_room(job.class) {
            return self.begin(job);
        }
        self.early.push_back(job);
        None
    }

    /// Begins one that was taken too early, if there is room by now.
    fn begin_early(&mut self) -> Option<(Job, u64)> {
        let at = self.early.iter().position(|job| self.has_room(job.class))?;
        let job = self.early.remove(at)?;
        self.begin(job)
    }

    /// Whether one of the class was taken too early.
    fn keeps(&self, class: Class) -> bool {
        self.early.iter().any(|job| job.class == class)
    }

    /// When it is to be looked whether something is held up: only while something waits for that.
    fn until_look(&self) -> Duration {
        if self.keeps(Class::Healthy) {
            let quick = self.runs.iter().filter(|run| !run.is_held_up);
            let left = quick.map(|run| HELD_UP.saturating_sub(run.began.elapsed())).min();
            // Where all room is taken by those that are held up, only time frees some.
            return left.unwrap_or(FULL_LOOK);
        }
        if self.early.is_empty() { SENDER_IDLE } else { FULL_LOOK }
    }

    /// Looks who is held up. Where all are, each of those that wait has to begin.
    fn look_who_is_held_up(&mut self, waiting: usize) {
        let before = self.quick();
        for run in &mut self.runs {
            run.is_held_up |= run.began.elapsed() >= HELD_UP;
        }
        if before > 0 && self.quick() == 0 {
            self.at_once = self.at_once.max(waiting + self.early.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Condvar;

    use super::*;
    use crate::protocol::node::Target;

    /// Peers, some of which hang until they are let go.
    #[derive(Default)]
    struct Peers {
        seen: Mutex<Seen>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct Seen {
        begun: BTreeSet<u64>,
        ended: BTreeSet<u64>,
        hangs: BTreeSet<u64>,
    }

    impl Sends for Peers {
        fn run(&self, job: &Job) {
            let mut seen = self.seen.lock().unwrap();
            seen.begun.insert(job.flight);
            self.changed.notify_all();
            while seen.hangs.contains(&job.flight) {
                seen = self.changed.wait(seen).unwrap();
            }
            seen.ended.insert(job.flight);
            self.changed.notify_all();
        }

        fn guard(&self, work: impl FnOnce()) {
            work();
        }
    }

    impl Peers {
        fn wait(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
            let seen = self.seen.lock().unwrap();
            let patience = Duration::from_secs(60);
            let waited = self.changed.wait_timeout_while(seen, patience, |seen| !is_so(seen));
            assert!(!waited.unwrap().1.timed_out(), "{what}");
        }

        fn let_go(&self) {
            self.seen.lock().unwrap().hangs.clear();
            self.changed.notify_all();
        }
    }

    fn job(number: u64, class: Class) -> Job {
        let target = Target::Seed("127.0.0.1:1".parse().unwrap());
        Job { target, flight: number, class }
    }

    /// Puts jobs in their queues, as the driver does, with senders that take them; some hang.
    fn with_jobs(jobs: Vec<Job>, hangs: impl IntoIterator<Item = u64>, check: impl FnOnce(&Peers)) {
        let queues: [_; Class::ALL.len()] = std::array::from_fn(|_| bounded(1_000));
        let (stop, stopped) = bounded(0);
        let peers = Arc::<Peers>::default();
        peers.seen.lock().unwrap().hangs.extend(hangs);
        let receivers = queues.each_ref().map(|(_, jobs)| jobs.clone());
        let senders = Senders::new(Arc::clone(&peers), receivers, stopped);
        for job in jobs {
            let at = Class::ALL.iter().position(|class| *class == job.class).unwrap();
            queues[at].0.send(job).unwrap();
            senders.look();
        }
        check(&peers);
        peers.let_go();
        drop::<Sender<()>>(stop);
        senders.take_threads().into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn whoever_hangs_delays_nobody_whoever_comes_first() {
        let mut jobs: Vec<_> = (0..100).map(|number| job(number, Class::Healthy)).collect();
        jobs.extend((100..120).map(|number| job(number, Class::Healthy)));
        with_jobs(jobs, 0..100, |peers| {
            peers.wait("the others have theirs", |seen| seen.ended.len() == 20);
            peers.wait("all were tried", |seen| seen.begun.len() == 120);
        });
    }

    #[test]
    fn a_class_that_hangs_has_its_limit_and_delays_no_other() {
        let most = u64::try_from(senders_max(Class::Unproved)).unwrap();
        let mut jobs: Vec<_> = (0..most + 4).map(|number| job(number, Class::Unproved)).collect();
        jobs.push(job(100, Class::Healthy));
        jobs.push(job(101, Class::Returning));
        with_jobs(jobs, 0..most, |peers| {
            let others = BTreeSet::from([100, 101]);
            peers.wait("other classes go on", |seen| seen.ended == others);
            peers.wait("it has its limit", |seen| (0..most).all(|it| seen.begun.contains(&it)));
            assert_eq!(peers.seen.lock().unwrap().begun.len() as u64, most + 2);
            peers.let_go();
            peers.wait("what waited is done", |seen| seen.ended.len() as u64 == most + 6);
        });
    }

    #[test]
    fn what_is_answered_quickly_is_sent_in_turn_by_a_few() {
        let (runs, early) = (Vec::new(), VecDeque::new());
        let mut under_way = UnderWay { runs, next: 0, at_once: AT_ONCE, early };
        for number in 0..AT_ONCE as u64 {
            assert!(under_way.begin_or_keep(job(number, Class::Healthy)).is_some());
        }
        assert!(under_way.begin_or_keep(job(10, Class::Healthy)).is_none());
        assert!(under_way.keeps(Class::Healthy) && under_way.until_look() <= HELD_UP);
        assert!(under_way.begin_or_keep(job(11, Class::Returning)).is_some(), "another class");
        // One that is held up makes room for one, all of them for all that wait.
        let long_ago = Instant::now().checked_sub(2 * HELD_UP).unwrap();
        under_way.runs[0].began = long_ago;
        under_way.look_who_is_held_up(5);
        assert_eq!((under_way.quick(), under_way.at_once), (AT_ONCE - 1, AT_ONCE));
        assert!(under_way.begin_early().is_some_and(|(job, _)| job.flight == 10));
        under_way.early.push_back(job(12, Class::Healthy));
        under_way.runs.iter_mut().for_each(|run| run.began = long_ago);
        under_way.look_who_is_held_up(5);
        assert_eq!((under_way.quick(), under_way.at_once), (0, 6));
    }

    /// What the unit allows (scripts/systemd), and what all limits together come to.
    #[test]
    fn the_service_has_room_for_all_threads() {
        let unit = include_str!("../../scripts/systemd/dsn.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("TasksMax="));
        let tasks_max: usize = line.unwrap().parse().unwrap();
        let senders: usize = Class::ALL.into_iter().map(senders_max).sum();
        assert!(unit.contains(&format!("Threads: {senders} senders")));
        // A name that is looked up has a thread of its own; 64 are for all that is no sender.
        assert!(2 * senders + 64 <= tasks_max, "{senders} senders, TasksMax={tasks_max}");
    }
}

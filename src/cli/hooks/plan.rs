//! What is to be run next. Pure: the time comes in, in ms; what is to start comes out.
//!
//! A subject is a key of a node, or the status of a node. For each the plan knows what the command
//! was handed last, and at most one thing that is to be handed next: the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most subjects that are remembered: 128 keys of each of 1024 nodes.
const SUBJECTS_MAX: usize = 128 * 1024;
/// Most bytes of their names and values together: what a small host can spare.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Wait before the first further try of a command that failed, ms; it doubles from try to try.
const RETRY_FIRST_MS: u64 = 1000;
/// The longest such wait, ms.
const RETRY_MAX_MS: u64 = 60_000;
/// What a node calls whom it did not meet yet, too.
const SUSPECT: &str = "suspect";

/// What is handed on in order, and never twice at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) node: Arc<str>,
    /// Nothing: how the node is doing.
    pub(super) key: Option<Arc<str>>,
}

/// What a subject is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// A key that is not there, or a node of which nothing was heard.
    Nothing,
    Value(Arc<[u8]>),
    /// The name of the event.
    Status(Arc<str>),
}

/// That a subject is now so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub(super) state: State,
    /// When the node saw it, as a text.
    pub(super) time: Arc<str>,
    /// Of the version, where the node told it.
    pub(super) timestamp: Option<u64>,
}

/// A command that is to be started now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) subject: Subject,
    pub(super) news: News,
    /// What was handed before it.
    pub(super) old: State,
}

/// What comes after the end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing, or what is newer.
    Done,
    /// It is tried again in so many ms: the so-manieth further try.
    Again { in_ms: u64, number: u32 },
}

/// What is told of a subject found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most commands at a time.
    pub(super) jobs: usize,
    /// How often one that failed is tried again.
    pub(super) retries: u32,
    /// Whether what is there at the start is handed on.
    pub(super) initial: bool,
}

pub(super) struct Plan {
    limits: Limits,
    items: BTreeMap<Subject, Item>,
    /// Those that are to start, in the order in which they came to be.
    queue: BTreeMap<u64, Subject>,
    /// Those that wait for a further try, by the time.
    waits: BTreeSet<(u64, Subject)>,
    running: usize,
    queued_so_far: u64,
    bytes: usize,
    /// The number of the snapshot that is being read, or was read last.
    snapshot: u64,
    in_snapshot: bool,
    /// One was read to its end.
    knows_the_start: bool,
    has_left_out: bool,
    /// The node was started since the snapshot before.
    is_new_run: bool,
}

struct Item {
    /// What was handed last, or what there was to be handed when nobody wanted to know.
    handed: State,
    /// What was handed before that, while the command may have to be told again.
    old: State,
    /// What runs, or is to be tried again: [`Self::handed`] with its time.
    current: Option<Attempt>,
    /// What is newer than that.
    next: Option<Next>,
    phase: Phase,
    /// In which snapshot it was seen last.
    seen: u64,
}

struct Attempt {
    news: News,
    /// How often it failed.
    failed: u32,
}

struct Next {
    news: News,
    /// Else it is only remembered.
    wanted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Queued(u64),
    Running,
    Waiting(u64),
}

impl State {
    fn weight(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Value(bytes) => bytes.len(),
            Self::Status(name) => name.len(),
        }
    }
}

impl Item {
    fn new() -> Self {
        let nothing = State::Nothing;
        let phase = Phase::Idle;
        Self { handed: nothing.clone(), old: nothing, current: None, next: None, phase, seen: 0 }
    }

    fn weight(&self) -> usize {
        // What is tried is what was handed: it is held once.
        let next = self.next.as_ref().map_or(0, |next| next.news.state.weight());
        self.handed.weight() + self.old.weight() + next
    }

    /// Whether this is in memory already.
    fn holds(&self, state: &State) -> bool {
        self.handed == *state || self.next.as_ref().is_some_and(|next| next.news.state == *state)
    }

    /// Nothing is to be done for it, and nothing has to be remembered.
    fn is_empty(&self) -> bool {
        self.phase == Phase::Idle && self.handed == State::Nothing
    }
}

fn weight_of(subject: &Subject) -> usize {
    subject.node.len() + subject.key.as_ref().map_or(0, |key| key.len())
}

/// How long to wait after so many tries, ms.
fn pace(tried: u32) -> u64 {
    let doubled = 1_u64.checked_shl(tried.saturating_sub(1)).unwrap_or(u64::MAX);
    RETRY_FIRST_MS.saturating_mul(doubled).min(RETRY_MAX_MS)
}

impl Plan {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            items: BTreeMap::new(),
            queue: BTreeMap::new(),
            waits: BTreeSet::new(),
            running: 0,
            queued_so_far: 0,
            bytes: 0,
            snapshot: 0,
            in_snapshot: false,
            knows_the_start: false,
            has_left_out: false,
            is_new_run: true,
        }
    }

    /// Whether the node that tells of the next snapshot was started since the last one.
    pub(super) fn note_run(&mut self, is_new: bool) {
        self.is_new_run = is_new;
    }

    /// What is told from now on is all that is there, until [`Self::end_snapshot`].
    pub(super) fn begin_snapshot(&mut self) {
        self.snapshot += 1;
        self.in_snapshot = true;
        self.has_left_out = false;
    }

    /// A subject is so now. `wanted`: the command is to hear of it.
    pub(super) fn told(
        &mut self,
        subject: &Subject,
        news: News,
        wanted: bool,
    ) -> Result<(), NoRoom> {
        let wanted = wanted && (self.knows_the_start || self.limits.initial);
        let known = self.items.contains_key(subject);
        let is_held = self.items.get(subject).is_some_and(|item| item.holds(&news.state));
        if news.state != State::Nothing && !is_held && !self.has_room(subject, &news, known) {
            self.has_left_out = true;
            // It is there: only what it is now is not known.
            if let Some(item) = self.items.get_mut(subject) {
                item.seen = self.snapshot;
            }
            return Err(NoRoom);
        }
        let mut item = self.take(subject);
        item.seen = self.snapshot;
        // A node that was started anew calls all suspect that it did not meet yet.
        let says_nothing = self.in_snapshot
            && self.is_new_run
            && known
            && matches!(&news.state, State::Status(name) if &**name == SUSPECT);
        if !says_nothing {
            self.renew(subject, &mut item, news, wanted);
        }
        self.put(subject, item);
        Ok(())
    }

    /// All was told that is there. What was not is gone, of those nodes whose states are held; the
    /// others may come yet. Says whether it knows of keys of such nodes.
    pub(super) fn end_snapshot(
        &mut self,
        mut is_held: impl FnMut(&str) -> bool,
        news: &News,
    ) -> bool {
        self.in_snapshot = false;
        self.knows_the_start = true;
        let unseen = self.items.iter().filter(|(_, item)| item.seen != self.snapshot);
        let unseen: Vec<Subject> = unseen.map(|(subject, _)| subject.clone()).collect();
        let mut lacks = false;
        for subject in unseen {
            let mut item = self.take(&subject);
            if subject.key.is_none() {
                // Forgotten, or not known yet: nothing is said of it, and it may come anew.
                let time = Arc::clone(&news.time);
                let unknown = News { state: State::Nothing, time, timestamp: None };
                self.renew(&subject, &mut item, unknown, false);
            } else if is_held(&subject.node) {
                self.renew(&subject, &mut item, news.clone(), true);
            } else {
                lacks = true;
            }
            self.put(&subject, item);
        }
        lacks
    }

    pub(super) fn is_in_snapshot(&self) -> bool {
        self.in_snapshot
    }

    /// Whether something was left out since the last snapshot began, as there was no room.
    pub(super) fn has_left_out(&self) -> bool {
        self.has_left_out
    }

    /// The next command, if one may start. It counts as running until [`Self::ended`].
    pub(super) fn start(&mut self, now: u64) -> Option<Start> {
        while let Some((at, _)) = self.waits.first()
            && *at <= now
            && let Some((_, subject)) = self.waits.pop_first()
        {
            let mut item = self.take(&subject);
            self.queue(&subject, &mut item);
            self.put(&subject, item);
        }
        if self.running == self.limits.jobs {
            return None;
        }
        let (_, subject) = self.queue.pop_first()?;
        let mut item = self.take(&subject);
        item.phase = Phase::Running;
        self.running += 1;
        if let Some(next) = item.next.take() {
            item.old = std::mem::replace(&mut item.handed, next.news.state.clone());
            item.current = Some(Attempt { news: next.news, failed: 0 });
        }
        let news = item.current.as_ref().map(|current| current.news.clone());
        let start = news.map(|news| Start { subject, news, old: item.old.clone() })?;
        self.put(&start.subject, item);
        Some(start)
    }

    /// When a further try is due, ms.
    pub(super) fn due(&self) -> Option<u64> {
        self.waits.first().map(|(at, _)| *at)
    }

    /// The command for a subject ended.
    pub(super) fn ended(&mut self, subject: &Subject, is_done: bool, now: u64) -> After {
        self.running -= 1;
        let mut item = self.take(subject);
        item.phase = Phase::Idle;
        let retries = self.limits.retries;
        let failed = item.current.as_mut().filter(|it| !is_done && it.failed < retries);
        let mut after = After::Done;
        match (item.next.take(), failed) {
            (Some(next), _) => {
                item.current = item.current.take().filter(|_| !is_done);
                self.renew(subject, &mut item, next.news, next.wanted);
            }
            (None, Some(attempt)) => {
                attempt.failed += 1;
                let in_ms = pace(attempt.failed);
                after = After::Again { in_ms, number: attempt.failed };
                item.phase = Phase::Waiting(now + in_ms);
                self.waits.insert((now + in_ms, subject.clone()));
            }
            (None, None) => item.current = None,
        }
        if item.current.is_none() {
            item.old = State::Nothing;
        }
        self.put(subject, item);
        after
    }

    /// Makes this what is to be handed next, unless that changes nothing.
    fn renew(&mut self, subject: &Subject, item: &mut Item, news: News, wanted: bool) {
        let is_handed = news.state == item.handed;
        if item.phase == Phase::Running {
            item.next = (!is_handed).then_some(Next { news, wanted });
        } else if is_handed {
            item.next = None;
            // A further try of just this stays due.
            if item.current.is_none() {
                self.rest(subject, item);
            }
        } else if wanted {
            item.next = Some(Next { news, wanted });
            self.queue(subject, item);
        } else {
            self.rest(subject, item);
            (item.next, item.current, item.handed) = (None, None, news.state);
        }
    }

    /// It is to start when its turn comes.
    fn queue(&mut self, subject: &Subject, item: &mut Item) {
        if matches!(item.phase, Phase::Queued(_)) {
            return;
        }
        self.rest(subject, item);
        self.queued_so_far += 1;
        item.phase = Phase::Queued(self.queued_so_far);
        self.queue.insert(self.queued_so_far, subject.clone());
    }

    /// It waits for nothing; it does not run.
    fn rest(&mut self, subject: &Subject, item: &mut Item) {
        match item.phase {
            Phase::Queued(place) => drop(self.queue.remove(&place)),
            Phase::Waiting(at) => drop(self.waits.remove(&(at, subject.clone()))),
            Phase::Idle | Phase::Running => {}
        }
        item.phase = Phase::Idle;
    }

    fn has_room(&self, subject: &Subject, news: &News, known: bool) -> bool {
        // What it holds already may go or not: then there is room for this beside it.
        let more = news.state.weight() + if known { 0 } else { weight_of(subject) };
        (known || self.items.len() < SUBJECTS_MAX) && self.bytes + more <= BYTES_MAX
    }

    /// What is known of a subject, to be changed and put back.
    fn take(&mut self, subject: &Subject) -> Item {
        let Some(item) = self.items.remove(subject) else { return Item::new() };
        self.bytes -= item.weight() + weight_of(subject);
        item
    }

    fn put(&mut self, subject: &Subject, item: Item) {
        if !item.is_empty() {
            self.bytes += item.weight() + weight_of(subject);
            self.items.insert(subject.clone(), item);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(node: &str, key: &str) -> Subject {
        Subject { node: node.into(), key: Some(key.into()) }
    }

    fn status(node: &str) -> Subject {
        Subject { node: node.into(), key: None }
    }

    fn news(state: State) -> News {
        News { state, time: "T".into(), timestamp: None }
    }

    fn value(text: &str) -> State {
        State::Value(text.as_bytes().into())
    }

    fn named(name: &str) -> State {
        State::Status(name.into())
    }

    fn plan(jobs: usize, retries: u32, initial: bool) -> Plan {
        Plan::new(Limits { jobs, retries, initial })
    }

    /// One that has read that nothing is there.
    fn begun(jobs: usize, retries: u32) -> Plan {
        let mut plan = plan(jobs, retries, false);
        plan.begin_snapshot();
        plan.end_snapshot(|_| true, &news(State::Nothing));
        plan
    }

    /// What is known and did not change needs no room: else it would be told to be gone, and back.
    #[test]
    fn what_is_remembered_stays_so_where_there_is_no_more_room() {
        let mut plan = plan(1, 0, false);
        let large = |fill: u8| State::Value(vec![fill; 60_000].into());
        let count = BYTES_MAX / 60_010;
        for round in 0..3 {
            plan.begin_snapshot();
            for at in 0..count {
                assert_eq!(plan.told(&key("n", &format!("k{at}")), news(large(0)), true), Ok(()));
            }
            assert_eq!(plan.told(&key("n", "z"), news(large(1)), true), Err(NoRoom), "{round}");
            // A change of one that is known finds none either, and it is not gone for that.
            let changed = plan.told(&key("n", "k0"), news(large(2)), true);
            assert_eq!(changed, Err(NoRoom));
            assert!(!plan.end_snapshot(|_| true, &news(State::Nothing)));
            assert!(plan.start(0).is_none(), "{round}");
        }
    }

    /// A node that went on running means it when it says so.
    #[test]
    fn a_suspect_in_a_snapshot_is_news_where_the_node_was_not_started_anew() {
        let mut plan = begun(1, 0);
        tell(&mut plan, &status("n"), named("joined"));
        let start = plan.start(0).unwrap();
        plan.ended(&start.subject, true, 0);
        for (is_new, is_told) in [(true, false), (false, true)] {
            plan.note_run(is_new);
            plan.begin_snapshot();
            tell(&mut plan, &status("n"), named(SUSPECT));
            plan.end_snapshot(|_| true, &news(State::Nothing));
            assert_eq!(plan.start(0).is_some(), is_told);
        }
    }

    fn tell(plan: &mut Plan, subject: &Subject, state: State) {
        assert_eq!(plan.told(subject, news(state), true), Ok(()));
    }

    /// What starts now, as subject, old and new state.
    fn started(plan: &mut Plan, now: u64) -> Option<(Subject, State, State)> {
        plan.start(now).map(|start| (start.subject, start.old, start.news.state))
    }

    #[test]
    fn the_newest_value_wins_while_one_runs_and_others_run_beside_it() {
        let mut plan = begun(2, 0);
        let (slow, quick, third) = (key("a", "slow"), key("a", "quick"), key("b", "slow"));
        tell(&mut plan, &slow, value("1"));
        assert_eq!(started(&mut plan, 0), Some((slow.clone(), State::Nothing, value("1"))));
        for number in 2..9 {
            tell(&mut plan, &slow, value(&number.to_string()));
        }
        tell(&mut plan, &quick, value("x"));
        tell(&mut plan, &third, value("y"));
        assert_eq!(started(&mut plan, 0), Some((quick.clone(), State::Nothing, value("x"))));
        assert_eq!(started(&mut plan, 0), None, "two run");
        plan.ended(&quick, true, 0);
        assert_eq!(started(&mut plan, 0), Some((third.clone(), State::Nothing, value("y"))));
        plan.ended(&slow, true, 0);
        assert_eq!(started(&mut plan, 0), Some((slow.clone(), value("1"), value("8"))));
        plan.ended(&slow, true, 0);
        plan.ended(&third, true, 0);
        assert_eq!(started(&mut plan, 0), None);
    }

    #[test]
    fn what_is_restated_or_taken_back_runs_nothing() {
        let mut plan = begun(1, 0);
        let subject = key("a", "k");
        tell(&mut plan, &subject, value("1"));
        started(&mut plan, 0).unwrap();
        tell(&mut plan, &subject, value("2"));
        tell(&mut plan, &subject, value("1"));
        plan.ended(&subject, true, 0);
        tell(&mut plan, &subject, value("1"));
        assert_eq!(started(&mut plan, 0), None);
        tell(&mut plan, &subject, State::Nothing);
        assert_eq!(started(&mut plan, 0), Some((subject.clone(), value("1"), State::Nothing)));
        plan.ended(&subject, true, 0);
        assert!(plan.items.is_empty() && plan.bytes == 0, "a key that is gone is forgotten");
    }

    #[test]
    fn what_fails_is_tried_again_later_each_time_unless_there_is_something_newer() {
        let mut plan = begun(1, 3);
        let subject = key("a", "k");
        tell(&mut plan, &subject, value("1"));
        let mut now = 0;
        for (number, in_ms) in [(1, 1000), (2, 2000), (3, 4000)] {
            assert_eq!(
                started(&mut plan, now),
                Some((subject.clone(), State::Nothing, value("1")))
            );
            assert_eq!(plan.ended(&subject, false, now), After::Again { in_ms, number });
            tell(&mut plan, &subject, value("1"));
            assert_eq!((plan.due(), started(&mut plan, now)), (Some(now + in_ms), None));
            now += in_ms;
        }
        started(&mut plan, now).unwrap();
        assert_eq!(plan.ended(&subject, false, now), After::Done, "it was tried often enough");
        tell(&mut plan, &subject, value("2"));
        started(&mut plan, now).unwrap();
        plan.ended(&subject, false, now);
        tell(&mut plan, &subject, value("3"));
        assert_eq!(plan.due(), None);
        assert_eq!(started(&mut plan, now), Some((subject.clone(), value("2"), value("3"))));
        // What failed is there again when it has ended: that was not handed on.
        tell(&mut plan, &subject, value("4"));
        tell(&mut plan, &subject, value("3"));
        assert!(matches!(plan.ended(&subject, false, now), After::Again { .. }));
        assert_eq!((1..99).map(pace).max(), Some(RETRY_MAX_MS));
    }

    #[test]
    fn an_event_that_nobody_wants_makes_the_next_one_news() {
        let mut plan = begun(1, 1);
        let subject = status("a");
        tell(&mut plan, &subject, named("lost"));
        started(&mut plan, 0).unwrap();
        plan.ended(&subject, false, 0);
        plan.told(&subject, news(named("joined")), false).unwrap();
        assert_eq!((plan.due(), started(&mut plan, 9999)), (None, None), "no more tries");
        tell(&mut plan, &subject, named("lost"));
        assert!(started(&mut plan, 9999).is_some());
        plan.told(&subject, news(named("joined")), false).unwrap();
        plan.ended(&subject, false, 9999);
        assert_eq!(started(&mut plan, 99_999), None);
        tell(&mut plan, &subject, named("lost"));
        assert!(started(&mut plan, 99_999).is_some());
    }

    #[test]
    fn the_start_runs_only_where_that_is_asked_for_and_only_once() {
        for initial in [false, true] {
            let mut plan = plan(9, 0, initial);
            // The first time the node stopped before it had told all.
            for round in 0..3 {
                plan.begin_snapshot();
                tell(&mut plan, &key("a", "k"), value("1"));
                if round > 0 {
                    tell(&mut plan, &status("a"), named("joined"));
                    plan.end_snapshot(|_| true, &news(State::Nothing));
                }
                let runs = std::iter::from_fn(|| plan.start(0)).count();
                assert_eq!(runs, usize::from(initial && round < 2), "{initial} {round}");
            }
        }
    }

    #[test]
    fn what_was_missed_is_found_in_the_next_snapshot() {
        let mut plan = begun(9, 0);
        for (node, name) in [("a", "same"), ("a", "other"), ("a", "gone"), ("b", "unknown")] {
            tell(&mut plan, &key(node, name), value("1"));
        }
        tell(&mut plan, &status("a"), named("joined"));
        while let Some(start) = plan.start(0) {
            plan.ended(&start.subject, true, 0);
        }
        let mut read = |held: &[&str], states: &[(Subject, State)]| {
            plan.begin_snapshot();
            for (subject, state) in states {
                tell(&mut plan, subject, state.clone());
            }
            let lacks = plan.end_snapshot(|node| held.contains(&node), &news(State::Nothing));
            let mut runs = Vec::new();
            while let Some(start) = plan.start(0) {
                runs.push((start.subject.clone(), start.news.state.clone()));
                plan.ended(&start.subject, true, 0);
            }
            (lacks, runs)
        };
        let same = (key("a", "same"), value("1"));
        let other = (key("a", "other"), value("2"));
        let gone = (key("a", "gone"), State::Nothing);
        // It has not met a yet, and calls it suspect; it does not hold the state of b.
        let unmet = (status("a"), named("suspect"));
        let found = read(&["a"], &[unmet.clone(), same.clone(), other.clone()]);
        assert_eq!(found, (true, vec![other.clone(), gone]));
        let unknown = (key("b", "unknown"), State::Nothing);
        assert_eq!(read(&["a", "b"], &[unmet, same, other]), (false, vec![unknown]));
        // It was forgotten, and comes anew.
        assert_eq!(read(&["a"], &[]).1.len(), 2, "its keys are gone");
        assert_eq!(read(&[], &[(status("a"), named("joined"))]).1.len(), 1);
    }

    #[test]
    fn what_finds_no_room_is_left_out_until_there_is_some() {
        let mut plan = begun(1, 0);
        for number in 0..SUBJECTS_MAX {
            tell(&mut plan, &key("a", &number.to_string()), value(""));
        }
        let one_more = key("a", "more");
        assert_eq!(plan.told(&one_more, news(value("1")), true), Err(NoRoom));
        assert!(plan.has_left_out());
        tell(&mut plan, &key("a", "0"), State::Nothing);
        tell(&mut plan, &one_more, value("1"));
        let mut plan = begun(1, 0);
        let large = State::Value(vec![0; BYTES_MAX / 2 + 1].into());
        tell(&mut plan, &key("a", "k"), large.clone());
        assert_eq!(plan.told(&key("a", "l"), news(large), true), Err(NoRoom));
        tell(&mut plan, &key("a", "k"), State::Nothing);
        assert_eq!(plan.bytes, 0);
    }

    /// What happens around the plan.
    #[derive(Debug, Clone)]
    enum Step {
        /// A subject becomes so, and the node tells it, where it is there.
        Change(usize, u8),
        Restate(usize),
        /// The node goes.
        Down,
        /// It is back, and knows only some nodes.
        Up(bool),
        Start,
        End(usize, bool),
        Time(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..SUBJECTS, 0..4_u8).prop_map(|(subject, state)| Step::Change(subject, state)),
            2 => (0..SUBJECTS).prop_map(Step::Restate),
            1 => Just(Step::Down),
            2 => any::<bool>().prop_map(Step::Up),
            6 => Just(Step::Start),
            6 => (0..8_usize, any::<bool>()).prop_map(|(run, is_done)| Step::End(run, is_done)),
            2 => (0..3000_u64).prop_map(Step::Time),
        ];
        proptest::collection::vec(step, 0..200)
    }

    const SUBJECTS: usize = 8;

    /// Four keys and the status of each of two nodes, as they are.
    struct World {
        plan: Plan,
        states: Vec<State>,
        is_up: bool,
        runs: Vec<Start>,
        handed: Vec<State>,
        failed: Vec<bool>,
        now: u64,
    }

    fn subject(number: usize) -> Subject {
        let node = if number.is_multiple_of(2) { "a" } else { "b" };
        if number < 2 { status(node) } else { key(node, &(number / 2).to_string()) }
    }

    fn state(subject: usize, number: u8) -> State {
        match (subject, number) {
            (0..2, number) => named(["joined", "lost", "left", "joined"][usize::from(number)]),
            (_, 0) => State::Nothing,
            (_, number) => value(&number.to_string()),
        }
    }

    impl World {
        fn new(jobs: usize, retries: u32) -> Self {
            Self {
                plan: begun(jobs, retries),
                states: vec![State::Nothing; SUBJECTS],
                is_up: true,
                runs: Vec::new(),
                handed: vec![State::Nothing; SUBJECTS],
                failed: vec![false; SUBJECTS],
                now: 0,
            }
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Change(number, new) => {
                    self.states[number] = state(number, new);
                    self.restate(number);
                }
                Step::Restate(number) => self.restate(number),
                Step::Down => self.is_up = false,
                Step::Up(knows_all) => self.read(knows_all),
                Step::Start => self.start(),
                Step::End(run, is_done) if !self.runs.is_empty() => {
                    let start = self.runs.swap_remove(run % self.runs.len());
                    let number = (0..SUBJECTS).find(|it| subject(*it) == start.subject).unwrap();
                    self.failed[number] = !is_done;
                    self.plan.ended(&start.subject, is_done, self.now);
                }
                Step::End(..) => {}
                Step::Time(ms) => self.now += ms,
            }
            let plan = &self.plan;
            assert!(plan.queue.len() + plan.waits.len() <= plan.items.len());
            assert!(plan.items.len() <= SUBJECTS && self.runs.len() == plan.running);
            let weights = plan.items.iter().map(|(subject, it)| it.weight() + weight_of(subject));
            assert_eq!(plan.bytes, weights.sum::<usize>());
        }

        fn restate(&mut self, number: usize) {
            if self.is_up {
                tell(&mut self.plan, &subject(number), self.states[number].clone());
            }
        }

        fn read(&mut self, knows_all: bool) {
            self.is_up = true;
            let is_known = |number: usize| knows_all || number.is_multiple_of(2) || number < 2;
            self.plan.begin_snapshot();
            for number in (0..SUBJECTS).filter(|number| is_known(*number)) {
                if self.states[number] != State::Nothing {
                    self.restate(number);
                }
            }
            let lacks =
                self.plan.end_snapshot(|node| knows_all || node == "a", &news(State::Nothing));
            assert!(!(lacks && knows_all));
        }

        fn start(&mut self) {
            while let Some(start) = self.plan.start(self.now) {
                let number = (0..SUBJECTS).find(|it| subject(*it) == start.subject).unwrap();
                let is_twin = self.runs.iter().any(|run| run.subject == start.subject);
                assert!(!is_twin, "two at once for {:?}", start.subject);
                let is_news = self.handed[number] != start.news.state;
                assert!(is_news || self.failed[number], "restated: {start:?}");
                if is_news {
                    assert!(number < 2 || start.old == self.handed[number], "{start:?}");
                }
                self.handed[number] = start.news.state.clone();
                self.runs.push(start);
            }
            assert!(self.runs.len() <= self.plan.limits.jobs);
        }
    }

    proptest! {
        /// Whatever happens: never two at once for one subject, nothing that was only restated, all
        /// within bounds; and when it is quiet the last state of each was handed on.
        #[test]
        fn the_last_state_of_each_is_handed_on(
            steps in steps(), jobs in 1..4_usize, retries in 0..3_u32,
        ) {
            let mut world = World::new(jobs, retries);
            for step in &steps {
                world.step(step);
            }
            world.read(true);
            while !(world.runs.is_empty() && world.plan.queue.is_empty()
                && world.plan.waits.is_empty())
            {
                world.step(&Step::Start);
                world.step(&Step::End(0, true));
                world.step(&Step::Time(RETRY_MAX_MS));
            }
            // A node of which nothing is known has no status to hand on.
            prop_assert_eq!(&world.handed[2..], &world.states[2..]);
            for number in 0..2 {
                if world.states[number] != State::Nothing {
                    prop_assert_eq!(&world.handed[number], &world.states[number]);
                }
            }
        }
    }
}

//! Who is next, and who has to go: the gate's decisions, pure. Connections are numbers here, in the
//! order in which they came.
//!
//! Whoever proved over a connection that it is a member is known by its [`Caller`]; all others are
//! strangers, known by where they come from. One of either kind is a *party*: it counts as one,
//! however many connections it has, and has one worker at a time, and one place for a long body.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use super::Caller;
use super::limits::Limits;

/// Most connections of one member: one that is kept, one that is anew, and for each of them one
/// that the other side gave up and that is not known to be dead yet.
pub(super) const CALLER_CONNECTIONS_MAX: usize = 4;
/// Most long bodies of members, and of strangers, that are read at a time: the memory of a small
/// host. Others wait in the kernel.
const MEMBER_PLACES: usize = 12;
const STRANGER_PLACES: usize = 4;
/// Most long answers that members, and strangers, have not taken yet: memory again. A worker makes
/// them faster than a slow line takes them, so they are as many as a board can hold, not as few as
/// would be enough.
const MEMBER_ANSWERS: usize = 24;
const STRANGER_ANSWERS: usize = 4;
/// Most workers that strangers have while no member waits: so one that comes finds another half.
const STRANGER_WORKERS: usize = 2;
/// The same while a member waits: newcomers come in, and members who come anew, and no more.
const STRANGER_WORKERS_AMONG_MEMBERS: usize = 1;
/// How many requests of members go in a row while strangers wait: three of four workers are the
/// members', and three of four turns.
const MEMBERS_IN_A_ROW: usize = 3;

/// Who counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Party {
    Member(Caller),
    /// An IPv4 address, or an IPv6 network of 64 bits, which one host may own.
    Stranger(IpAddr),
}

impl Party {
    fn stranger(ip: IpAddr) -> Self {
        Self::Stranger(match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            ip => ip,
        })
    }
}

/// Those who wait for something of which each party has one at a time. It is first come, first
/// served among parties that have none; a party that gives its own back comes last again.
#[derive(Debug, Default)]
struct Turns {
    waiting: HashMap<Party, VecDeque<u64>>,
    /// Parties that wait and have none.
    next: VecDeque<Party>,
    having: HashSet<Party>,
}

impl Turns {
    fn wait(&mut self, party: Party, token: u64) {
        let queue = self.waiting.entry(party).or_default();
        queue.push_back(token);
        if queue.len() == 1 && !self.having.contains(&party) {
            self.next.push_back(party);
        }
    }

    /// Whether somebody could have one, where so many have one at most.
    fn has_next(&self, most: usize) -> bool {
        self.having.len() < most && !self.next.is_empty()
    }

    fn take(&mut self, most: usize) -> Option<(Party, u64)> {
        if !self.has_next(most) {
            return None;
        }
        let party = self.next.pop_front()?;
        let queue = self.waiting.get_mut(&party)?;
        let token = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&party);
        }
        self.having.insert(party);
        Some((party, token))
    }

    fn give_back(&mut self, party: Party) {
        if self.having.remove(&party) && self.waiting.contains_key(&party) {
            self.next.push_back(party);
        }
    }

    /// Lets a connection wait no more.
    fn forget(&mut self, party: Party, token: u64) {
        let Some(queue) = self.waiting.get_mut(&party) else { return };
        queue.retain(|it| *it != token);
        if queue.is_empty() {
            self.waiting.remove(&party);
            self.next.retain(|it| *it != party);
        }
    }
}

/// Connections of each party, of which there may be so many in all.
#[derive(Debug)]
struct Crowds {
    of: BTreeMap<Party, BTreeSet<u64>>,
    most: usize,
}

impl Crowds {
    fn new(most: usize) -> Self {
        Self { of: BTreeMap::new(), most }
    }

    fn are_too_many(&self) -> bool {
        self.of.values().map(BTreeSet::len).sum::<usize>() > self.most
    }

    fn join(&mut self, party: Party, token: u64) {
        self.of.entry(party).or_default().insert(token);
    }

    fn leave(&mut self, party: Party, token: u64) {
        if let Some(crowd) = self.of.get_mut(&party) {
            crowd.remove(&token);
            if crowd.is_empty() {
                self.of.remove(&party);
            }
        }
    }
}

/// Members, or strangers.
#[derive(Debug)]
struct Class {
    /// Whole requests that wait for a worker.
    asked: Turns,
    /// Long bodies that wait for a place, and how many places there are.
    long: Turns,
    places: usize,
    /// All connections.
    all: Crowds,
    /// Those that have not taken a long answer yet.
    unread: Crowds,
}

impl Class {
    fn new(connections: usize, places: usize, answers: usize) -> Self {
        let (asked, long) = Default::default();
        Self { asked, long, places, all: Crowds::new(connections), unread: Crowds::new(answers) }
    }
}

/// What is known of a connection.
#[derive(Debug)]
struct Known {
    party: Party,
    /// When it was used last, where a member's; else when it came.
    used: u64,
    has_place: bool,
}

/// All connections, and what they wait for.
#[derive(Debug)]
pub(super) struct Queue {
    members: Class,
    strangers: Class,
    connections: HashMap<u64, Known>,
    /// Requests that are with workers, and whose they are: of connections that ended, too.
    working: HashMap<u64, Party>,
    /// Turns that members had since a stranger had one.
    in_a_row: usize,
    /// Counts uses.
    uses: u64,
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            members: Class::new(limits.members, MEMBER_PLACES, MEMBER_ANSWERS),
            strangers: Class::new(limits.strangers, STRANGER_PLACES, STRANGER_ANSWERS),
            connections: HashMap::new(),
            working: HashMap::new(),
            in_a_row: 0,
            uses: 0,
        }
    }

    /// Takes in a connection from there. Gives the stranger that has to go for it.
    pub(super) fn admit(&mut self, token: u64, ip: IpAddr) -> Option<u64> {
        let party = Party::stranger(ip);
        let used = self.tick();
        self.connections.insert(token, Known { party, used, has_place: false });
        self.strangers.all.join(party, token);
        if self.strangers.all.are_too_many() { self.stranger_to_cut() } else { None }
    }

    /// The oldest stranger of the origin that has most of them: whoever comes from elsewhere keeps
    /// its place.
    pub(super) fn stranger_to_cut(&self) -> Option<u64> {
        self.longest_unused(self.strangers.all.of.values())
    }

    /// Takes a connection over which a caller proved itself; the first one has it for good, so that
    /// nobody moves its connections into the crowd of another. Gives the member's connection that
    /// has to go for it: one of the same caller where that has too many.
    pub(super) fn prove(&mut self, token: u64, caller: Caller) -> Option<u64> {
        let stranger = self.connections.get(&token)?.party;
        if self.is_member(token) {
            return None;
        }
        self.withdraw(token);
        self.strangers.all.leave(stranger, token);
        let member = Party::Member(caller);
        self.connections.get_mut(&token)?.party = member;
        self.touch(token);
        self.members.all.join(member, token);
        let crowd = self.members.all.of.get(&member);
        if crowd.is_some_and(|crowd| crowd.len() > CALLER_CONNECTIONS_MAX) {
            self.longest_unused(crowd.into_iter())
        } else if self.members.all.are_too_many() {
            self.longest_unused(self.members.all.of.values())
        } else {
            None
        }
    }

    /// Whether somebody proved itself over the connection.
    pub(super) fn is_member(&self, token: u64) -> bool {
        let known = self.connections.get(&token);
        known.is_some_and(|known| matches!(known.party, Party::Member(_)))
    }

    /// Forgets a connection that ended; a worker that is busy for it stays its party's.
    pub(super) fn remove(&mut self, token: u64) {
        self.withdraw(token);
        if let Some(known) = self.connections.remove(&token) {
            self.class(known.party).all.leave(known.party, token);
        }
    }

    /// The connection has a long body, and waits for a place.
    pub(super) fn wait_for_place(&mut self, token: u64) {
        if let Some(party) = self.party(token) {
            self.class(party).long.wait(party, token);
        }
    }

    /// Gives a place away: to whom, until its request is with a worker or the connection ends.
    pub(super) fn next_place(&mut self) -> Option<u64> {
        let taken = [&mut self.members, &mut self.strangers]
            .into_iter()
            .find_map(|class| class.long.take(class.places));
        let (_, token) = taken?;
        self.connections.get_mut(&token)?.has_place = true;
        Some(token)
    }

    /// The connection has a whole request, and waits for a worker.
    pub(super) fn ask(&mut self, token: u64) {
        self.touch(token);
        if let Some(party) = self.party(token) {
            self.class(party).asked.wait(party, token);
        }
    }

    /// Gives a worker away: for whose request, until it is finished.
    pub(super) fn next_request(&mut self) -> Option<u64> {
        let has_member = self.members.asked.has_next(usize::MAX);
        let most = if has_member { STRANGER_WORKERS_AMONG_MEMBERS } else { STRANGER_WORKERS };
        let has_stranger = self.strangers.asked.has_next(most);
        let is_strangers = has_stranger && (!has_member || self.in_a_row >= MEMBERS_IN_A_ROW);
        let (party, token) = if is_strangers {
            self.strangers.asked.take(most)?
        } else {
            self.members.asked.take(usize::MAX)?
        };
        self.in_a_row = if is_strangers { 0 } else { self.in_a_row.saturating_add(1) };
        self.give_place_back(token);
        self.working.insert(token, party);
        Some(token)
    }

    /// A worker is done with the request of the connection, whatever became of that.
    pub(super) fn finish(&mut self, token: u64) {
        if let Some(party) = self.working.remove(&token) {
            self.class(party).asked.give_back(party);
        }
        self.touch(token);
    }

    /// The other side has not taken a long answer yet. Gives the connection that is closed, where
    /// there are too many such answers.
    pub(super) fn leave_unread(&mut self, token: u64) -> Option<u64> {
        let party = self.party(token)?;
        let unread = &mut self.class(party).unread;
        unread.join(party, token);
        if !unread.are_too_many() {
            return None;
        }
        let class = if self.is_member(token) { &self.members } else { &self.strangers };
        self.longest_unused(class.unread.of.values())
    }

    /// The other side has taken its answer.
    pub(super) fn take_read(&mut self, token: u64) {
        if let Some(party) = self.party(token) {
            self.class(party).unread.leave(party, token);
        }
    }

    fn party(&self, token: u64) -> Option<Party> {
        self.connections.get(&token).map(|known| known.party)
    }

    fn class(&mut self, party: Party) -> &mut Class {
        match party {
            Party::Member(_) => &mut self.members,
            Party::Stranger(_) => &mut self.strangers,
        }
    }

    /// Takes back all that a connection waits for or has, but a worker.
    fn withdraw(&mut self, token: u64) {
        self.give_place_back(token);
        if let Some(party) = self.party(token) {
            let class = self.class(party);
            class.asked.forget(party, token);
            class.long.forget(party, token);
            class.unread.leave(party, token);
        }
    }

    fn give_place_back(&mut self, token: u64) {
        let Some(known) = self.connections.get_mut(&token) else { return };
        let party = known.party;
        if std::mem::take(&mut known.has_place) {
            self.class(party).long.give_back(party);
        }
    }

    fn tick(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// A member's connection was used.
    fn touch(&mut self, token: u64) {
        let now = self.tick();
        if self.is_member(token)
            && let Some(known) = self.connections.get_mut(&token)
        {
            known.used = now;
        }
    }

    /// In the largest of these crowds, what was not used for longest and is not with a worker.
    fn longest_unused<'a>(&self, crowds: impl Iterator<Item = &'a BTreeSet<u64>>) -> Option<u64> {
        crowds
            .flat_map(|crowd| crowd.iter().map(|token| (crowd.len(), *token)))
            .filter(|(_, token)| !self.working.contains_key(token))
            .max_by_key(|(count, token)| {
                (*count, Reverse(self.connections.get(token).map(|known| known.used)))
            })
            .map(|(_, token)| token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;

    use super::super::WORKERS;
    use super::super::limits::Times;
    use super::*;

    fn limits(strangers: usize, members: usize) -> Limits {
        Limits { strangers, members, times: Times::default() }
    }

    fn queue() -> Queue {
        Queue::new(&Limits::of(None))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// An address of a network of its own.
    fn ip_of(number: u64) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()])
    }

    impl Queue {
        /// A connection over which this caller proved itself.
        fn member(&mut self, token: u64, caller: u64) -> Option<u64> {
            assert_eq!(self.admit(token, ip_of(1)), None);
            self.prove(token, Caller(caller))
        }

        fn asks(&mut self, tokens: impl IntoIterator<Item = u64>) {
            tokens.into_iter().for_each(|token| self.ask(token));
        }

        /// All who get a worker, where so many are free.
        fn served(&mut self, free: usize) -> Vec<u64> {
            (0..free).map_while(|_| self.next_request()).collect()
        }

        fn placed(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.next_place()).collect()
        }

        fn have_places(&self) -> [usize; 2] {
            [&self.members, &self.strangers].map(|class| class.long.having.len())
        }

        fn is_empty(&self) -> bool {
            let are_empty = |class: &Class| {
                let turns = [&class.asked, &class.long];
                let is_empty = |turns: &Turns| {
                    turns.waiting.is_empty() && turns.next.is_empty() && turns.having.is_empty()
                };
                let crowds = [&class.all, &class.unread];
                crowds.iter().all(|it| it.of.is_empty()) && turns.into_iter().all(is_empty)
            };
            let rest = self.connections.is_empty() && self.working.is_empty();
            rest && are_empty(&self.members) && are_empty(&self.strangers)
        }
    }

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_and_so_does_an_ipv4_address() {
        let same = |one, other| Party::stranger(ip(one)) == Party::stranger(ip(other));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
    }

    #[test]
    fn the_oldest_stranger_of_the_largest_crowd_goes_first() {
        let mut queue = Queue::new(&limits(4, 4));
        assert_eq!(queue.admit(1, ip("2001:db8::9")), None);
        assert_eq!(queue.admit(2, ip("2001:db8:0:1::1")), None);
        assert_eq!(queue.admit(3, ip("2001:db8:0:1::2")), None);
        assert_eq!(queue.admit(4, ip("10.0.0.1")), None);
        assert_eq!(queue.stranger_to_cut(), Some(2));
        // What it says makes it no younger.
        queue.asks([2, 4]);
        assert_eq!(queue.admit(5, ip("10.0.0.2")), Some(2));
        queue.remove(2);
        // All are alone now: the oldest goes, wherever it comes from.
        for token in [1, 3, 4, 5] {
            assert_eq!(queue.admit(token + 100, ip_of(100 + token)), Some(token));
            queue.remove(token);
        }
    }

    #[test]
    fn a_stranger_whose_request_is_with_a_worker_is_not_cut_for_others() {
        let mut queue = Queue::new(&limits(2, 2));
        queue.admit(1, ip_of(1));
        queue.admit(2, ip_of(1));
        queue.ask(1);
        assert_eq!(queue.next_request(), Some(1));
        assert_eq!(queue.admit(3, ip_of(1)), Some(2));
        queue.remove(2);
        queue.finish(1);
        assert_eq!(queue.admit(4, ip_of(1)), Some(1));
    }

    #[test]
    fn a_caller_has_four_connections_and_loses_the_one_not_used_for_longest() {
        let mut queue = queue();
        assert_eq!(queue.member(1, 9), None);
        for token in 2..6 {
            assert_eq!(queue.member(token, 7), None);
        }
        queue.ask(2);
        queue.asks([3]);
        assert_eq!(queue.next_request(), Some(2));
        queue.finish(2);
        assert_eq!(queue.member(6, 7), Some(4), "2 was answered since, 3 asked");
        queue.remove(4);
        assert_eq!(queue.next_request(), Some(3));
        queue.asks([5, 6]);
        assert_eq!(queue.member(7, 7), Some(2), "3 is older, but with a worker");
        queue.remove(2);
        queue.finish(3);
        assert_eq!(queue.member(8, 7), Some(5));
    }

    #[test]
    fn where_members_fill_their_room_the_largest_crowd_gives_way() {
        let mut queue = Queue::new(&limits(64, 5));
        for (token, caller) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4)] {
            assert_eq!(queue.member(token, caller), None);
        }
        assert_eq!(queue.member(6, 5), Some(2));
        queue.remove(2);
        assert_eq!(queue.member(7, 6), Some(1), "all have one: the one not used for longest");
    }

    #[test]
    fn the_first_caller_has_a_connection_for_good() {
        let mut queue = queue();
        for token in 0..5 {
            assert_eq!(queue.member(token, token), None);
            assert_eq!(queue.prove(token, Caller(77)), None);
        }
        queue.asks(0..5);
        assert_eq!(queue.served(5), [0, 1, 2, 3, 4], "each counts for itself");
        assert_eq!(queue.prove(99, Caller(1)), None, "it ended before");
        assert!(!queue.is_member(99));
    }

    #[test]
    fn parties_take_turns_and_have_one_worker_each() {
        let mut queue = queue();
        for (token, caller) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)] {
            queue.member(token, caller);
        }
        queue.asks(1..=6);
        assert_eq!(queue.served(9), [1, 4, 6]);
        queue.finish(4);
        queue.finish(1);
        assert_eq!(queue.served(9), [5, 2], "in the order in which they were free");
        // A party that comes anew goes before the third request of the first one.
        queue.member(7, 4);
        queue.ask(7);
        queue.finish(2);
        assert_eq!(queue.served(9), [7, 3]);
    }

    #[test]
    fn a_worker_is_its_partys_until_it_is_done_though_the_connection_ended() {
        let mut queue = queue();
        queue.member(1, 1);
        queue.member(2, 1);
        queue.asks([1, 2]);
        assert_eq!(queue.served(9), [1]);
        queue.remove(1);
        assert_eq!(queue.next_request(), None);
        queue.finish(1);
        assert_eq!(queue.next_request(), Some(2));
    }

    #[test]
    fn strangers_have_two_workers_and_one_where_a_member_waits() {
        let mut queue = queue();
        for token in 1..=4 {
            queue.admit(token, ip_of(token));
        }
        queue.member(5, 5);
        queue.asks(1..=4);
        assert_eq!(queue.served(4), [1, 2]);
        queue.ask(5);
        queue.finish(1);
        assert_eq!(queue.served(1), [5], "another stranger would be the second one");
        assert_eq!(queue.served(1), [3]);
        // Also where it is their turn.
        for token in 11..=20 {
            queue.member(token, token);
        }
        queue.asks(11..=20);
        queue.finish(2);
        queue.finish(3);
        queue.ask(1);
        assert_eq!(queue.served(9), [11, 12, 13, 4, 14, 15, 16, 17, 18]);
    }

    #[test]
    fn members_come_first_and_strangers_have_one_turn_in_four() {
        let mut queue = queue();
        for token in 1..=4 {
            queue.admit(token, ip_of(100));
        }
        for token in 11..=18 {
            queue.member(token, token);
        }
        queue.asks(1..=4);
        queue.asks(11..=18);
        let mut order = Vec::new();
        // One worker.
        while let Some(token) = queue.next_request() {
            order.push(token);
            queue.finish(token);
        }
        assert_eq!(order, [11, 12, 13, 1, 14, 15, 16, 2, 17, 18, 3, 4]);
    }

    #[test]
    fn members_and_strangers_have_places_of_their_own_and_each_party_one() {
        let mut queue = queue();
        // Twice as many parties as there are places, with two bodies each.
        for token in 0..48 {
            queue.member(token, token / 2);
            queue.wait_for_place(token);
        }
        for token in 100..116 {
            queue.admit(token, ip_of(token / 2));
            queue.wait_for_place(token);
        }
        let members = (0..24).step_by(2);
        assert_eq!(queue.placed(), members.chain([100, 102, 104, 106]).collect::<Vec<_>>());
        assert_eq!(queue.have_places(), [MEMBER_PLACES, STRANGER_PLACES]);
        queue.remove(2);
        assert_eq!(queue.placed(), [24], "its second body waits behind those who had none");
    }

    #[test]
    fn a_place_is_given_back_whatever_becomes_of_its_connection() {
        let mut queue = queue();
        for (number, end) in [
            |queue: &mut Queue, token| queue.remove(token),
            |queue: &mut Queue, token| {
                queue.ask(token);
                queue.remove(token);
            },
            |queue: &mut Queue, token| {
                queue.ask(token);
                assert_eq!(queue.next_request(), Some(token));
                queue.finish(token);
            },
            |queue: &mut Queue, token| {
                queue.prove(token, Caller(token + 1000));
            },
        ]
        .into_iter()
        .enumerate()
        {
            for token in [number as u64 * 2 + 10, number as u64 * 2 + 11] {
                queue.admit(token, ip_of(1));
                if token % 2 == 1 {
                    queue.prove(token, Caller(1));
                }
                queue.wait_for_place(token);
                assert_eq!(queue.next_place(), Some(token));
                end(&mut queue, token);
                // A member stays the one that it is, and keeps its place.
                let keeps = number == 3 && token % 2 == 1;
                assert_eq!(queue.have_places(), [usize::from(keeps), 0], "{number}, {token}");
            }
        }
    }

    #[test]
    fn answers_that_are_not_taken_are_few_and_the_largest_crowd_loses_its_oldest() {
        let mut queue = queue();
        for token in 0..7 {
            queue.admit(token, ip_of(if token < 2 { 1 } else { 2 }));
        }
        assert_eq!([0, 2, 3, 4].map(|token| queue.leave_unread(token)), [None; 4]);
        assert_eq!(queue.leave_unread(3), None, "it is the same one");
        assert_eq!(queue.leave_unread(5), Some(2));
        queue.remove(2);
        queue.take_read(3);
        assert_eq!(queue.leave_unread(6), None);
        // A member is no stranger any more.
        queue.prove(0, Caller(1));
        assert_eq!(queue.leave_unread(1), None);
        for token in 100..124 {
            queue.member(token, token / 2);
            assert_eq!(queue.leave_unread(token), None);
        }
        queue.take_read(101);
        assert_eq!(queue.leave_unread(0), None);
        assert_eq!(queue.leave_unread(101), Some(100));
    }

    /// What happens at the gate.
    #[derive(Debug, Clone)]
    enum Event {
        Comes {
            origin: u64,
        },
        /// The connection with this index is asked over, with a short body or a long one.
        Asks {
            at: usize,
            is_long: bool,
        },
        /// The long body with this index has come in.
        IsWhole {
            at: usize,
        },
        /// The worker with this index is done; whom it worked for proved itself or did not, and
        /// takes the answer at once or does not.
        Finishes {
            at: usize,
            caller: Option<u64>,
            is_taken: bool,
        },
        /// The answer with this index was taken.
        Reads {
            at: usize,
        },
        Ends {
            at: usize,
        },
    }

    fn event() -> impl Strategy<Value = Event> {
        let at = || 0..64_usize;
        prop_oneof![
            (0..6_u64).prop_map(|origin| Event::Comes { origin }),
            (at(), any::<bool>()).prop_map(|(at, is_long)| Event::Asks { at, is_long }),
            at().prop_map(|at| Event::IsWhole { at }),
            (at(), proptest::option::of(0..5_u64), any::<bool>())
                .prop_map(|(at, caller, is_taken)| Event::Finishes { at, caller, is_taken }),
            at().prop_map(|at| Event::Reads { at }),
            at().prop_map(|at| Event::Ends { at }),
        ]
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Doing {
        Nothing,
        WaitsForPlace,
        HasPlace,
        Asks { has_place: bool },
        Served,
        Writes,
    }

    /// The same as [`Queue`] in a few words, to hold it against.
    struct World {
        queue: Queue,
        limits: Limits,
        doing: BTreeMap<u64, (Party, Doing)>,
        /// Who is with a worker.
        working: Vec<(u64, Party)>,
        came: u64,
    }

    impl World {
        fn new() -> Self {
            let limits = limits(6, 9);
            let queue = Queue::new(&limits);
            Self { queue, limits, doing: BTreeMap::new(), working: Vec::new(), came: 0 }
        }

        fn pick(&self, at: usize, wanted: impl Fn(Doing) -> bool) -> Option<u64> {
            let of_them = self.doing.iter().filter(|(_, (_, doing))| wanted(*doing));
            let tokens: Vec<u64> = of_them.map(|(token, _)| *token).collect();
            (!tokens.is_empty()).then(|| tokens[at % tokens.len()])
        }

        fn set(&mut self, token: u64, doing: Doing) {
            self.doing.get_mut(&token).unwrap().1 = doing;
        }

        fn end(&mut self, token: Option<u64>) {
            if let Some(token) = token {
                assert!(self.doing.remove(&token).is_some(), "who ends is there");
                self.queue.remove(token);
            }
        }

        /// Those who go for others are not with a worker, and of the largest crowd.
        fn cut(&mut self, token: Option<u64>) {
            if let Some(token) = token {
                assert!(self.working.iter().all(|(it, _)| *it != token));
                self.end(Some(token));
            }
        }

        fn on(&mut self, event: Event) {
            match event {
                Event::Comes { origin } => {
                    self.came += 1;
                    let party = Party::stranger(ip_of(origin));
                    self.doing.insert(self.came, (party, Doing::Nothing));
                    let cut = self.queue.admit(self.came, ip_of(origin));
                    self.cut(cut);
                }
                Event::Asks { at, is_long } => {
                    let Some(token) = self.pick(at, |it| it == Doing::Nothing) else { return };
                    if is_long {
                        self.set(token, Doing::WaitsForPlace);
                        self.queue.wait_for_place(token);
                    } else {
                        self.set(token, Doing::Asks { has_place: false });
                        self.queue.ask(token);
                    }
                }
                Event::IsWhole { at } => {
                    let Some(token) = self.pick(at, |it| it == Doing::HasPlace) else { return };
                    self.set(token, Doing::Asks { has_place: true });
                    self.queue.ask(token);
                }
                Event::Finishes { at, caller, is_taken } => {
                    if !self.working.is_empty() {
                        self.finish(at % self.working.len(), caller, is_taken);
                    }
                }
                Event::Reads { at } => {
                    let Some(token) = self.pick(at, |it| it == Doing::Writes) else { return };
                    self.set(token, Doing::Nothing);
                    self.queue.take_read(token);
                }
                Event::Ends { at } => {
                    let token = self.pick(at, |_| true);
                    self.end(token);
                }
            }
        }

        fn finish(&mut self, at: usize, caller: Option<u64>, is_taken: bool) {
            let (token, _) = self.working.remove(at);
            self.queue.finish(token);
            let Some((party, doing)) = self.doing.get_mut(&token) else { return };
            *doing = if is_taken { Doing::Nothing } else { Doing::Writes };
            if let Some(caller) = caller {
                if matches!(party, Party::Stranger(_)) {
                    *party = Party::Member(Caller(caller));
                }
                let cut = self.queue.prove(token, Caller(caller));
                self.cut(cut);
            }
            if self.doing.get(&token).is_some_and(|(_, doing)| *doing == Doing::Writes) {
                let cut = self.queue.leave_unread(token);
                self.cut(cut);
            }
        }

        /// Gives away all places and workers that are free.
        fn give(&mut self) {
            self.give_workers();
            while let Some(token) = self.queue.next_place() {
                assert_eq!(self.doing[&token].1, Doing::WaitsForPlace);
                self.set(token, Doing::HasPlace);
                self.give_workers();
            }
        }

        fn give_workers(&mut self) {
            while self.working.len() < WORKERS {
                let member_waits = self.asking().any(is_member);
                let Some(token) = self.queue.next_request() else { break };
                let (party, doing) = self.doing[&token];
                assert!(matches!(doing, Doing::Asks { .. }), "{doing:?}");
                self.set(token, Doing::Served);
                self.working.push((token, party));
                let most = if member_waits { 1 } else { 2 };
                assert!(is_member(party) || self.strangers_working() <= most);
            }
        }

        /// Parties that could have a worker.
        fn asking(&self) -> impl Iterator<Item = Party> {
            let asking =
                self.doing.values().filter(|(_, doing)| matches!(doing, Doing::Asks { .. }));
            asking
                .map(|(party, _)| *party)
                .filter(|party| self.working.iter().all(|(_, it)| it != party))
        }

        fn strangers_working(&self) -> usize {
            self.working.iter().filter(|(_, party)| !is_member(*party)).count()
        }

        fn check(&self) {
            let parties: HashSet<Party> = self.working.iter().map(|(_, party)| *party).collect();
            assert_eq!(parties.len(), self.working.len(), "one worker each");
            if self.working.len() < WORKERS {
                assert!(!self.asking().any(is_member), "a member waits for nothing");
                assert!(self.asking().next().is_none() || self.strangers_working() == 2);
            }
            let mut counts = BTreeMap::<Party, usize>::new();
            for (token, (party, _)) in &self.doing {
                assert_eq!(self.queue.is_member(*token), is_member(*party));
                *counts.entry(*party).or_default() += 1;
            }
            let all = |members: bool| {
                let of_class = counts.iter().filter(|(party, _)| is_member(**party) == members);
                of_class.map(|(_, count)| count).sum::<usize>()
            };
            let unread = self.doing.values().filter(|(_, doing)| *doing == Doing::Writes);
            assert!(unread.filter(|(party, _)| !is_member(*party)).count() <= STRANGER_ANSWERS);
            assert!(all(true) <= self.limits.members && all(false) <= self.limits.strangers);
            assert!(counts.iter().all(|(party, count)| !is_member(*party) || *count <= 4));
            self.check_places();
        }

        fn check_places(&self) {
            let with = |wanted: &[Doing]| -> Vec<Party> {
                let of_them = self.doing.values().filter(|(_, doing)| wanted.contains(doing));
                of_them.map(|(party, _)| *party).collect()
            };
            let having = with(&[Doing::HasPlace, Doing::Asks { has_place: true }]);
            let parties: HashSet<Party> = having.iter().copied().collect();
            assert_eq!(parties.len(), having.len(), "one place each");
            let strangers = having.iter().filter(|party| !is_member(**party)).count();
            assert!(strangers <= STRANGER_PLACES);
            assert_eq!(self.queue.have_places(), [having.len() - strangers, strangers]);
            for waits in with(&[Doing::WaitsForPlace]) {
                let is_full = !is_member(waits) && strangers == STRANGER_PLACES;
                assert!(parties.contains(&waits) || is_full, "{waits:?} waits for nothing");
            }
        }
    }

    fn is_member(party: Party) -> bool {
        matches!(party, Party::Member(_))
    }

    proptest! {
        #[test]
        fn whatever_happens_bounds_hold_and_nobody_is_forgotten(
            events in collection::vec(event(), 0..300)
        ) {
            let mut world = World::new();
            for event in events {
                world.on(event);
                world.give();
                world.check();
            }
            // Nothing more comes: all who wait are served, with a few steps for each.
            for _ in 0..100 {
                world.on(Event::IsWhole { at: 0 });
                world.on(Event::Reads { at: 0 });
                world.on(Event::Finishes { at: 0, caller: None, is_taken: true });
                world.give();
                world.check();
            }
            prop_assert!(world.pick(0, |it| it != Doing::Nothing).is_none());
            while let Some(token) = world.pick(0, |_| true) {
                world.end(Some(token));
            }
            prop_assert!(world.queue.is_empty(), "{:?}", world.queue);
        }

        /// All ask again as soon as they are answered; one who comes waits for one request of each.
        #[test]
        fn nobody_waits_for_more_than_one_request_of_each_other_party(
            members in 1..30_u64,
            strangers in 1..12_u64,
        ) {
            let mut queue = queue();
            let (member, stranger) = (1_000_000, 1_000_001);
            // Four connections each.
            for token in 0..members * 4 {
                queue.member(token, token / 4);
            }
            let all = members * 4 + strangers * 4;
            for token in members * 4..all {
                queue.admit(token, ip_of(100 + token % strangers));
            }
            queue.asks(0..all);
            queue.member(member, member);
            queue.admit(stranger, ip_of(99));
            let mut working = queue.served(WORKERS);
            queue.asks([member, stranger]);
            let mut order = Vec::new();
            for _ in 0..400 {
                let token = working.remove(0);
                queue.finish(token);
                if token < member {
                    queue.ask(token);
                }
                while working.len() < WORKERS && let Some(token) = queue.next_request() {
                    working.push(token);
                    order.push(token);
                }
            }
            let place = |token| order.iter().position(|it| *it == token).map(|at| at as u64);
            // One in four is a stranger's.
            let before = place(member).unwrap();
            prop_assert!(before <= members + members / 3 + 1, "{before} before the member");
            let before = place(stranger).unwrap();
            prop_assert!(before <= 4 * (strangers + 1), "{before} before the stranger");
        }
    }
}

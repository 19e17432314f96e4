//! Who is next, and who has to go.

mod world;

use super::*;
use crate::server::WORKERS;

fn limits(strangers: usize, members: usize) -> Limits {
    Limits { strangers, members, ..Limits::of(None) }
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
fn who_looks_at_the_page_has_more_of_them() {
    let mut queue = Queue::new(&Limits::of_people(None));
    for token in 0..16 {
        assert_eq!(queue.member(token, 7), None);
    }
    assert_eq!(queue.member(16, 7), Some(0));
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

//! Addresses that were heard of on the local network.

use super::*;
use crate::protocol::fault::Code;
use crate::protocol::node::TRIES;
use crate::protocol::report::{FoundCounts, PeerStatus};

fn us() -> Us {
    Us::with(|settings| (settings.discovers, settings.alone) = (true, false), Vec::new())
}

impl Us {
    /// Each says it of itself.
    fn hears_of(&mut self, place: &str) {
        let place = address(place);
        let (ip, _) = place.as_str().rsplit_once(':').unwrap();
        self.hears_from(ip.parse().unwrap(), place.as_str());
    }

    fn hears_from(&mut self, said_by: IpAddr, place: &str) {
        let actions = self.node.on_found(address(place), said_by, self.now);
        self.take_actions(actions);
    }

    /// Lets so much time pass; others answer where they live. Gives how often somebody was called
    /// who was found.
    fn lives(&mut self, ms: u64, others: &[&Other]) -> usize {
        let (mut calls, until) = (0, self.now.mono_ms + ms);
        while self.now.mono_ms < until {
            self.wait(500);
            let (_, actions) = self.node.on_tick(self.now);
            self.take_actions(actions);
            while let Some(job) = self.jobs.pop_front() {
                let Some(outgoing) = self.node.begin(&job, self.now) else { continue };
                let there = others.iter().find(|other| other.place() == outgoing.address);
                let outcome = match there {
                    Some(other) => other.answers(self, &outgoing.request),
                    None => Outcome::Failed("nobody listens there".into()),
                };
                calls += usize::from(matches!(job.target, Target::Seed(_)));
                self.is_answered(&job, outcome);
            }
        }
        calls
    }

    fn under_way(&mut self) -> usize {
        let (_, actions) = self.node.on_tick(self.now);
        self.take_actions(actions);
        self.node.found.iter_mut().filter(|seed| seed.flight.is_some()).count()
    }
}

#[test]
fn who_is_heard_of_is_met_and_not_called_again() {
    let mut us = us();
    let other = Other::new("other", 2);
    us.hears_of(other.place().as_str());
    us.hears_of(other.place().as_str());
    assert_eq!(us.lives(10_000, &[&other]), 1);
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
    for _ in 0..100 {
        us.hears_of(other.place().as_str());
    }
    assert_eq!(us.lives(60_000, &[&other]), 0, "it is known");
}

#[test]
fn an_address_that_leads_nowhere_is_let_go() {
    let mut us = us();
    us.hears_of("10.0.0.9:8000");
    assert_eq!(us.lives(60_000, &[]), usize::try_from(TRIES).unwrap());
    us.hears_of("10.0.0.9:8000");
    assert_eq!(us.lives(60_000, &[]), usize::try_from(TRIES).unwrap(), "alone, it hopes again");
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    us.hears_of("10.0.0.8:8000");
    us.lives(60_000, &[&other]);
    us.hears_of("10.0.0.8:8000");
    assert_eq!(us.lives(60_000, &[&other]), 0);
}

#[test]
fn whatever_is_announced_few_are_tried_at_a_time_and_few_wait() {
    let mut us = us();
    for number in 0..2_000 {
        us.hears_of(&format!("10.0.{}.{}:8000", number / 250, number % 250));
    }
    assert_eq!(us.node.found.iter_mut().count(), 64);
    assert_eq!(us.under_way(), 4);
    us.wait(1_000);
    assert_eq!(us.under_way(), 4, "those hang");
    us.hears_of("10.9.9.9:1");
    assert_eq!(us.node.found.iter_mut().count(), 64);
    assert_eq!(us.under_way(), 4, "what is under way makes no room");
}

#[test]
fn how_it_turned_out_is_remembered_of_so_many() {
    let mut us = us();
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    for round in 0..120 {
        for number in 0..20 {
            us.hears_of(&format!("10.1.{round}.{number}:8000"));
        }
        us.lives(30_000, &[&other]);
    }
    let tried = us.lives(0, &[]);
    assert_eq!(tried, 0);
    assert!(us.node.found.settled() <= 1024);
}

#[test]
fn where_many_are_there_nobody_hurries() {
    let mut us = us();
    for number in 0..40 {
        us.is_joined_by(&mut Other::new(&format!("n{number}"), 10 + number));
    }
    assert_eq!(us.node.alive(), 40);
    let (mut soon, mut late) = (0, 0);
    for number in 0..20 {
        us.hears_of(&format!("10.2.0.{number}:8000"));
        let at = us.node.found.wake_at(us.now).unwrap_or(us.now.mono_ms) - us.now.mono_ms;
        assert!(at <= 40 * 50, "{at}");
        soon += usize::from(at < 100);
        late += usize::from(at >= 100);
    }
    assert!(late > 0 && soon < 20, "chance spreads them: {soon} {late}");
}

#[test]
fn this_node_itself_and_who_refuses_are_left_alone() {
    let mut us = us();
    let mut itself = Other::new("us", OUR_KEY);
    itself.incarnation = us.node.incarnation();
    let place = itself.place();
    us.hears_of(place.as_str());
    assert_eq!(us.lives(5_000, &[&itself]), 1);
    assert!(us.node.faults(us.now).iter().all(|fault| fault.code == Code::Alone));
    us.hears_of(place.as_str());
    assert_eq!(us.lives(5_000, &[&itself]), 0);
}

#[test]
fn a_bootstrap_address_is_none_that_was_found() {
    let place = "10.0.0.250:8000";
    let mut us = Us::with(|settings| settings.seeds = vec![address(place)], Vec::new());
    us.hears_of(place);
    assert_eq!(us.node.found.iter_mut().count(), 0);
}

#[test]
fn who_finds_nobody_says_how_it_looked() {
    let mut us = us();
    let codes = |us: &Us| us.node.faults(us.now).iter().map(|it| it.code).collect::<Vec<_>>();
    assert_eq!(codes(&us), [], "it has not looked yet");
    us.lives(4 * TICK_MS, &[]);
    assert_eq!(codes(&us), [Code::Alone]);
    let said = us.degraded().remove(0);
    assert!(said.contains("local network") && said.contains("5353"), "{said}");
    let mut without = Us::with(|settings| settings.alone = false, Vec::new());
    without.lives(4 * TICK_MS, &[]);
    assert!(without.degraded()[0].contains("--discover"), "{:?}", without.degraded());
}

/// What was in vain while others were there is hoped for by one who has lost them.
#[test]
fn who_has_lost_all_others_hopes_again() {
    let mut us = us();
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    us.hears_of("10.0.0.8:8000");
    assert!(us.lives(40_000, &[&other]) > 0);
    us.lives(90_000, &[]);
    assert_eq!(us.node.alive(), 0);
    us.hears_of("10.0.0.8:8000");
    assert!(us.lives(40_000, &[]) > 0);
}

/// Who answers and is not let in has no more to say the next time.
#[test]
fn who_is_not_let_in_is_not_called_at_each_word() {
    let mut other = Other::new("other", 2);
    let twin = Other::new("other", 4);
    let allowed = |allow: &[&Other]| {
        let list = Some(allow.iter().map(|it| (it.id.clone(), it.key)).collect());
        Us::with(
            |settings| (settings.discovers, settings.alone, settings.allow) = (true, false, list),
            Vec::new(),
        )
    };
    let mut strict = allowed(&[&Other::new("third", 3)]);
    let mut pinned = us();
    pinned.is_connected_with(&mut other);
    for (us, there) in [(&mut strict, &other), (&mut pinned, &twin)] {
        let mut calls = 0;
        for _ in 0..60 {
            us.hears_of("10.0.0.77:8000");
            calls += us.lives_with(there, "10.0.0.77:8000", 1_000);
        }
        assert_eq!(calls, 1, "{}", there.key.fingerprint());
        for _ in 0..700 {
            us.hears_of("10.0.0.77:8000");
            calls += us.lives_with(there, "10.0.0.77:8000", 1_000);
        }
        assert_eq!(calls, 2, "now and then it is asked");
    }
    // Another list may have it.
    let list = [(other.id.clone(), other.key)].into_iter().collect();
    strict.node.replace_allow_list(list, strict.now);
    strict.hears_of("10.0.0.77:8000");
    assert_eq!(strict.lives_with(&other, "10.0.0.77:8000", 1_000), 1);
}

/// Who is lost is called where it is announced, but not at each word.
#[test]
fn who_is_lost_is_called_now_and_then() {
    let mut us = us();
    let other = Other::new("other", 2);
    us.hears_of(other.place().as_str());
    assert_eq!(us.lives(5_000, &[&other]), 1);
    us.lives(600_000, &[]);
    assert_eq!(us.peer(&other).status, PeerStatus::Lost);
    let mut calls = 0;
    for _ in 0..300 {
        us.hears_of(other.place().as_str());
        // It introduces itself, and takes nothing that follows.
        calls += us.lives_half_with(&other, 1_000);
    }
    assert!((1..=11).contains(&calls), "{calls}");
}

/// Addresses change hands: a node that lives elsewhere by now keeps no newcomer from being called.
#[test]
fn an_address_of_before_is_tried_again() {
    let mut us = us();
    let mut other = Other::new("other", 2);
    us.hears_of("10.0.0.77:8000");
    assert_eq!(us.lives_with(&other, "10.0.0.77:8000", 5_000), 1);
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
    // It moved, and calls from there.
    other.ip = IpAddr::from([10, 0, 0, 2]);
    us.is_joined_by(&mut other);
    us.lives(10_000, &[&other]);
    us.hears_of("10.0.0.77:8000");
    us.wait(11 * 60 * 1000);
    us.is_pinged_by(&mut other);
    let newcomer = Other::new("newcomer", 5);
    us.hears_of("10.0.0.77:8000");
    assert_eq!(us.lives_with(&newcomer, "10.0.0.77:8000", 5_000), 1);
}

impl Us {
    /// Somebody answers who is found, and nobody who is known.
    fn lives_half_with(&mut self, other: &Other, ms: u64) -> usize {
        let (mut calls, until) = (0, self.now.mono_ms + ms);
        while self.now.mono_ms < until {
            self.wait(500);
            let (_, actions) = self.node.on_tick(self.now);
            self.take_actions(actions);
            while let Some(job) = self.jobs.pop_front() {
                let Some(outgoing) = self.node.begin(&job, self.now) else { continue };
                let is_found = matches!(job.target, Target::Seed(_));
                let outcome = if is_found {
                    other.answers(self, &outgoing.request)
                } else {
                    Outcome::Failed("it says no more".into())
                };
                calls += usize::from(is_found);
                self.is_answered(&job, outcome);
            }
        }
        calls
    }

    /// Somebody lives at that place; nobody else answers.
    fn lives_with(&mut self, other: &Other, place: &str, ms: u64) -> usize {
        let mut there = other.clone();
        let (ip, _) = place.rsplit_once(':').unwrap();
        there.ip = ip.parse().unwrap();
        self.lives(ms, &[&there])
    }
}

/// Somebody repeats what hundreds of members said of places where calls hang.
#[test]
fn who_repeats_many_members_keeps_no_newcomer_from_being_called() {
    let mut us = us();
    let repeater = IpAddr::from([10, 0, 0, 66]);
    let mut number = 0_u32;
    let mut repeats = |us: &mut Us| {
        for _ in 0..100 {
            number += 1;
            us.hears_from(repeater, &format!("10.3.{}.{}:8000", number / 250, number % 250));
        }
    };
    repeats(&mut us);
    assert_eq!(us.under_way(), 3, "one sender leaves one for the others");
    // It says the newcomer's word before the newcomer does, and much more behind it.
    us.hears_from(repeater, "10.0.0.2:8000");
    us.hears_of("10.0.0.2:8000");
    repeats(&mut us);
    us.wait(1_000);
    assert_eq!(us.under_way(), 4);
    let is_newcomer = |seed: &crate::protocol::node::seeds::Seed| {
        seed.address == address("10.0.0.2:8000") && seed.flight.is_some()
    };
    assert!(us.node.found.iter_mut().any(|seed| is_newcomer(seed)));
    assert_eq!(us.node.found.iter_mut().count(), 64);
    assert!(us.node.found_counts().dropped >= 100, "{:?}", us.node.found_counts());
}

/// Of many newcomers and few who repeat, the newcomers keep their places.
#[test]
fn whoever_told_of_the_most_makes_room() {
    let mut us = us();
    for number in 0..60 {
        us.hears_from(IpAddr::from([10, 0, 0, 66]), &format!("10.4.0.{number}:8000"));
    }
    for number in 0..40 {
        us.hears_of(&format!("10.5.0.{number}:8000"));
    }
    for number in 0..200 {
        us.hears_from(IpAddr::from([10, 0, 0, 66]), &format!("10.4.1.{number}:8000"));
    }
    let waits = |place: &str| us.node.found.has(&address(place));
    assert!((0..40).all(|number| waits(&format!("10.5.0.{number}:8000"))));
}

#[test]
fn what_became_of_addresses_is_counted() {
    let mut us = us();
    let other = Other::new("other", 2);
    us.hears_of(other.place().as_str());
    us.hears_of("10.0.0.9:8000");
    assert_eq!(us.node.found_counts().waiting, 2);
    us.lives(60_000, &[&other]);
    us.hears_of("10.0.0.78:8000");
    us.lives_with(&other, "10.0.0.78:8000", 5_000);
    let mut itself = Other::new("us", OUR_KEY);
    itself.incarnation = us.node.incarnation();
    us.hears_of("10.0.0.79:8000");
    us.lives_with(&itself, "10.0.0.79:8000", 5_000);
    us.hears_of("10.0.0.77:8000");
    us.lives_with(&Other::new("other", 4), "10.0.0.77:8000", 5_000);
    let counts = us.node.found_counts();
    let right = FoundCounts { met: 1, known: 2, refused: 1, nobody: 1, ..FoundCounts::default() };
    assert_eq!(counts, right);
}

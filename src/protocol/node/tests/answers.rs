//! What comes back: what a peer is taken to hold, and what has to wait.

use super::*;
use crate::protocol::link::OwnAtPeer;
use crate::protocol::peer::NUMBER_MAX;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::{KnownNode, Push, RefusedRecord};

fn is_push(request: &Request) -> bool {
    matches!(request, Request::Push(_))
}

fn is_ping(request: &Request) -> bool {
    matches!(request, Request::Ping(_))
}

/// A push that carries the own record, on its way.
fn push_on_its_way(us: &mut Us, other: &Other) -> (Job, Push) {
    while let Some((job, outgoing)) = us.begins_with(other) {
        if let Request::Push(push) = outgoing.request {
            return (job, push);
        }
        let outcome = other.answers(us, &outgoing.request);
        us.is_answered(&job, outcome);
    }
    panic!("nothing is brought to {}", other.id);
}

/// The present version is not the one that was sent.
#[test]
fn what_was_sent_is_noted_not_what_is_held_when_the_answer_comes() {
    for is_refused in [false, true] {
        let (mut us, mut other) = (Us::new(), Other::new("other", 2));
        us.is_connected_with(&mut other);
        us.sets("v1");
        let (job, _) = push_on_its_way(&mut us, &other);
        us.sets("v2");
        let outcome = if is_refused {
            // Another record in it was stale; ours was taken.
            let record = RefusedRecord { node_id: id("third"), reason: 20, held: None };
            let text = Text::new("stale");
            let refusal = Refusal { reason: 20, text, number: 0, records: vec![record] };
            Outcome::Refused(refusal, None)
        } else {
            Outcome::Nothing
        };
        us.is_answered(&job, outcome);
        assert_eq!(us.node.unaware(), [other.id.clone()], "it is not told of v2 yet");
        let (job, _) = push_on_its_way(&mut us, &other);
        us.is_answered(&job, Outcome::Nothing);
        assert!(us.node.unaware().is_empty());
    }
}

/// What a peer refused for good is not brought to it again, until there is another version.
#[test]
fn what_was_refused_for_good_is_not_pushed_again() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.sets("v1");
    let reason = Reason::NotAllowed;
    us.answer_all(&other, |request| is_push(request).then(|| refuses(reason)));
    let pushes = std::cell::Cell::new(0);
    for _ in 0..100 {
        us.tick();
        us.answer_all(&other, |request| {
            pushes.set(pushes.get() + usize::from(is_push(request)));
            None
        });
    }
    assert_eq!(pushes.get(), 0);
    us.sets("v2");
    push_on_its_way(&mut us, &other);
}

/// A HELLO or a higher number puts some refusals right: each call has that chance once.
#[test]
fn a_second_chance_is_one() {
    for reason in
        [Reason::UnknownSender, Reason::WrongSession, Reason::ReplayedNumber, Reason::Forgotten]
    {
        let (mut us, mut other) = (Us::new(), Other::new("other", 2));
        us.is_connected_with(&mut other);
        let (_, actions) = us.node.ping(&other.id, us.now).unwrap();
        us.take_actions(actions);
        let asked = us.answer_all(&other, |request| is_ping(request).then(|| refuses(reason)));
        assert!((2..=4).contains(&asked), "{reason:?} {asked}");
        assert!(matches!(us.finished.pop(), Some((_, Err(_)))), "who waited is told");
        assert!(us.peer(&other).contact.is_failing());
    }
}

/// Each refusal that can come to a HELLO makes it wait, longer each time.
#[test]
fn a_refused_hello_waits_ever_longer() {
    for reason in [
        Reason::UnknownSender,
        Reason::BadSignature,
        Reason::OtherKey,
        Reason::WrongSession,
        Reason::WrongReceiver,
        Reason::SupersededIncarnation,
        Reason::NotAllowed,
        Reason::LimitExceeded,
        Reason::SameId,
        Reason::Forgotten,
    ] {
        let (mut us, mut other) = (Us::new(), Other::new("other", 2));
        us.is_joined_by(&mut other);
        // It has another run, and does not let us in any more.
        us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
        let mut asked = 0;
        for _ in 0..200 {
            us.tick();
            asked += us.answer_all(&other, |_| Some(refuses(reason)));
        }
        // Each 30 s at the longest, in ten minutes; and each may have its second chance.
        assert!((10..=100).contains(&asked), "{reason:?}: {asked}");
    }
}

/// Whoever names a number that leaves no room would silence us.
#[test]
fn a_number_in_a_refusal_is_believed_up_to_a_limit() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    for number in [NUMBER_MAX + 1, u64::MAX] {
        us.wait(60_000);
        us.node.peers.get_mut(&other.id).unwrap().owed.ping = true;
        us.tick();
        let lie = Refusal {
            reason: Reason::ReplayedNumber.code(),
            text: Text::new("no"),
            number,
            records: Vec::new(),
        };
        us.answer_all(&other, |request| {
            is_ping(request).then(|| Outcome::Refused(lie.clone(), None))
        });
        assert!(us.peer(&other).link.number_out < NUMBER_MAX);
    }
}

/// Only the pinned key says that it is the peer that answers.
#[test]
fn an_answer_of_another_key_counts_as_none() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let (job, outgoing) = us.begins_with(&other).unwrap();
    let outcome = other.answers(&mut us, &outgoing.request);
    us.is_answered(&job, outcome);
    us.serve(&other);
    let link = &mut us.node.peers.get_mut(&other.id).unwrap().link;
    link.connected = false;
    let thief = Other { key: key(9), ..other.clone() };
    let (mut seen, welcomed) = (0, std::cell::Cell::new(0));
    for _ in 0..10 {
        us.tick();
        us.answer_all(&other, |request| {
            assert!(matches!(request, Request::Hello(_)), "it is not let in");
            welcomed.set(welcomed.get() + 1);
            Some(Outcome::Welcomed(signed((), thief.key)))
        });
        assert!(!us.peer(&other).link.connected, "a 204 without the proof of the peer");
    }
    assert!(welcomed.get() > 0);
    us.wait(60_000);
    us.tick();
    us.serve(&other);
    assert!(us.peer(&other).link.connected);
    us.wait(60_000);
    us.tick();
    while let Some((job, outgoing)) = us.begins_with(&other) {
        let heard = us.peer(&other).heard_at;
        let outcome = thief.answers(&mut us, &outgoing.request);
        us.is_answered(&job, outcome);
        if is_ping(&outgoing.request) {
            seen += 1;
            assert_eq!(us.peer(&other).heard_at, heard);
        }
    }
    assert!(seen > 0);
}

/// A job and an answer are good for their own flight alone.
#[test]
fn a_flight_is_neither_lost_nor_doubled() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let old = us.jobs.pop_front().unwrap();
    us.forgets(&other);
    us.wait(1);
    us.is_joined_by(&mut other);
    assert!(us.node.begin(&old, us.now).is_none(), "that flight is over");
    let (new, _) = us.begins_with(&other).unwrap();
    assert_ne!(new.flight, old.flight);
    let id = |us: &Us| us.peer(&other).flight.as_ref().map(|flight| flight.id);
    assert!(us.node.begin(&old, us.now).is_none());
    us.node.put_back(&old);
    us.is_answered(&old, Outcome::Failed("too late".into()));
    assert_eq!(id(&us), Some(new.flight), "nothing of the old one ends the new one");
}

/// Nor is one that is under way begun or given back.
#[test]
fn a_flight_is_begun_once() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    let (_, actions) = us.node.ping(&other.id, us.now).unwrap();
    us.take_actions(actions);
    let (job, _) = us.begins_with(&other).unwrap();
    assert!(us.node.begin(&job, us.now).is_none());
    us.node.put_back(&job);
    let current = us.peer(&other).flight.as_ref();
    assert_eq!(current.map(|flight| flight.id), Some(job.flight), "it ends with its answer");
}

/// Where no sender has room for a job the rules have it back, and owe it still.
#[test]
fn a_job_that_nobody_could_take_is_made_again() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.sets("v1");
    let job = us.jobs.pop_front().unwrap();
    us.node.put_back(&job);
    assert!(us.peer(&other).flight.is_none());
    us.tick();
    push_on_its_way(&mut us, &other);
}

/// One address is one node: who answered there before has to prove it again.
#[test]
fn who_answers_at_an_address_takes_it_from_another() {
    let (mut us, mut one) = (Us::new(), Other::new("one", 2));
    us.is_connected_with(&mut one);
    let mut two = Other { ip: one.ip, ..Other::new("two", 3) };
    us.is_joined_by(&mut two);
    us.node.peers.get_mut(&one.id).unwrap().status = PeerStatus::Lost;
    us.wait(60_000);
    us.tick();
    us.serve(&two);
    assert!(us.peer(&two).is_reached());
    assert_eq!(us.peer(&one).place.proved(), None);
}

/// The peer took it, and says that it lacks it: it is brought again ever more rarely.
#[test]
fn what_was_taken_and_is_missing_again_is_brought_ever_more_rarely() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.sets("v1");
    us.serve(&other);
    assert_ne!(us.peer(&other).link.own, OwnAtPeer::default());
    let pushes = std::cell::Cell::new(0);
    for _ in 0..400 {
        us.tick();
        let known = KnownNode {
            node_id: us.node.node_id().clone(),
            address: None,
            rank: key(OUR_KEY).rank_for(us.node.node_id()),
            version: crate::protocol::head::Version::default(),
            is_lost: false,
        };
        us.answer_all(&other, |request| {
            pushes.set(pushes.get() + usize::from(is_push(request)));
            match request {
                Request::Peers(_) => Some(other.lists(vec![known.clone()])),
                Request::Ping(_) => Some(other.pong_of([9; 16])),
                _ => None,
            }
        });
    }
    // Twenty minutes: the waits double up to ten minutes.
    assert!((1..=14).contains(&pushes.get()), "{}", pushes.get());
}

/// How often it is asked within so many ticks, each answer being of this kind.
fn asked(us: &mut Us, other: &Other, way: impl Fn(&Request) -> Option<Outcome>) -> usize {
    let mut count = 0;
    for _ in 0..200 {
        us.tick();
        count += us.answer_all(other, &way);
    }
    count
}

/// Whoever has another name for each caller, or for each call, is not followed from one to the
/// next.
#[test]
fn whoever_has_another_name_each_time_waits_ever_longer() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
    let count = asked(&mut us, &other, |_| Some(Other::new("somebody", 9).introduces()));
    assert!((5..=60).contains(&count), "{count}");
}

#[test]
fn another_session_for_each_hello_waits_ever_longer() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
    let sessions = std::cell::Cell::new(0);
    let count = asked(&mut us, &other, |_| {
        sessions.set(sessions.get() + 1_u8);
        let other = Other { given: Session([sessions.get(); 16]), ..other.clone() };
        Some(other.introduces())
    });
    assert!((10..=100).contains(&count), "{count}");
}

/// A peer that says that it holds something later, and of which nothing comes.
#[test]
fn wishes_that_nothing_comes_of_wait_ever_longer() {
    for way in [0, 1, 2] {
        let (mut us, mut other) = (Us::new(), Other::new("other", 2));
        us.is_connected_with(&mut other);
        let ghost = Other::new("ghost", 9);
        let known = ghost.known(5, "five");
        let wishes = std::cell::Cell::new(0);
        asked(&mut us, &other, |request| match request {
            Request::Peers(_) => Some(other.lists(vec![known.clone()])),
            Request::Ping(_) => Some(other.pong_of([9; 16])),
            Request::Pull(_) => {
                wishes.set(wishes.get() + 1);
                match way {
                    0 => Some(refuses(Reason::LimitExceeded)),
                    1 => Some(Outcome::Nothing),
                    _ => Some(Outcome::Records(Vec::new())),
                }
            }
            _ => None,
        });
        // Ten minutes, each half a minute at the longest.
        assert!((1..=60).contains(&wishes.get()), "{way}: {}", wishes.get());
    }
}

/// What one of two peers may not have, the views of both never agree about.
#[test]
fn a_view_that_differs_for_good_is_compared_ever_more_rarely() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    let lists = std::cell::Cell::new(0);
    asked(&mut us, &other, |request| match request {
        Request::Peers(_) => {
            lists.set(lists.get() + 1);
            None
        }
        Request::Ping(_) => Some(other.pong_of([9; 16])),
        _ => None,
    });
    // At each tick there is a PING.
    assert!((1..=80).contains(&lists.get()), "{}", lists.get());
}

#[test]
fn a_bootstrap_address_that_only_introduces_itself_waits_ever_longer() {
    let seed = address("10.0.0.2:8000");
    let mut us = Us::with(|settings| settings.seeds = vec![seed.clone()], Vec::new());
    let other = Other::new("other", 2);
    let mut greeted = 0;
    for _ in 0..200 {
        us.tick();
        while let Some(job) = us.jobs.pop_front() {
            let Some(outgoing) = us.node.begin(&job, us.now) else { continue };
            greeted += usize::from(job.target == Target::Seed(seed.clone()));
            let is_second =
                matches!(&outgoing.request, Request::Hello(hello) if hello.proof.is_some());
            let outcome =
                if is_second { Outcome::Failed("it hangs up".into()) } else { other.introduces() };
            us.is_answered(&job, outcome);
        }
    }
    assert!((10..=60).contains(&greeted), "{greeted}");
}

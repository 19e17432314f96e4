//! Bootstrap addresses, and who is alone.

use super::*;
use crate::protocol::fault::Code;
use crate::protocol::report::PeerStatus;

const DOOR: &str = "10.0.0.250:8000";

fn with_a_door() -> Us {
    let change = |settings: &mut Settings| {
        settings.seeds = vec![address(DOOR)];
        settings.alone = false;
    };
    Us::with(change, Vec::new())
}

/// Lets time pass; whoever is at the door answers, and each of the others where it lives. Gives how
/// often somebody knocked at the door.
fn live(us: &mut Us, ticks: u64, at_door: impl Fn(&Us) -> Outcome, others: &[&Other]) -> usize {
    (0..ticks).map(|_| pass(us, TICK_MS, &at_door, others)).sum()
}

/// The same for so many ms, at the end of which what is due is done.
fn pass(us: &mut Us, ms: u64, at_door: impl Fn(&Us) -> Outcome, others: &[&Other]) -> usize {
    let mut knocked = 0;
    us.goes_on(ms);
    while let Some(job) = us.jobs.pop_front() {
        let Some(outgoing) = us.node.begin(&job, us.now) else { continue };
        let outcome = match &job.target {
            Target::Seed(_) => {
                knocked += 1;
                at_door(us)
            }
            Target::Peer(node_id) => match others.iter().find(|other| other.id == *node_id) {
                Some(other) => other.answers(us, &outgoing.request),
                None => Outcome::Failed("nobody listens there".into()),
            },
        };
        us.is_answered(&job, outcome);
    }
    knocked
}

/// The node itself, as it answers when the door leads back to it.
fn mirror(us: &Us) -> Outcome {
    let mut itself = Other::new("us", OUR_KEY);
    itself.incarnation = us.node.incarnation();
    itself.introduces()
}

fn codes(us: &Us) -> Vec<Code> {
    us.node.faults(us.now).iter().map(|fault| fault.code).collect()
}

/// Of a thousand that begin at once, where one try in ten gets lost, one loses the first three. A
/// slow host has its time all the same, a little later.
#[test]
fn a_door_that_is_silent_is_soon_tried_again() {
    let mut us = with_a_door();
    let mut limits = Vec::new();
    while limits.len() < 7 {
        us.goes_on(500);
        while let Some(job) = us.jobs.pop_front() {
            let outgoing = us.node.begin(&job, us.now).expect("nobody else is known");
            limits.push(outgoing.limit_ms);
            us.wait(outgoing.limit_ms);
            us.is_answered(&job, Outcome::Failed("no answer".into()));
        }
    }
    assert_eq!(limits, [1_500, 1_500, 3_000, 1_500, 1_500, 3_000, 5_000]);
}

#[test]
fn an_address_that_led_here_is_asked_again_and_not_too_often() {
    let mut us = with_a_door();
    let minutes = 10 * 60 * 1000 / TICK_MS;
    let knocked = live(&mut us, minutes, mirror, &[]);
    assert!((15..=30).contains(&knocked), "{knocked} times in ten minutes");
    assert_eq!(codes(&us), [Code::Alone]);
    assert!(us.degraded()[0].contains("it leads to this node itself"), "{:?}", us.degraded());
    // Another one that has our name is not this node.
    live(&mut us, 60_000 / TICK_MS, |_| Other::new("us", 3).introduces(), &[]);
    assert!(
        us.degraded()[0].contains("another node with the name of this one"),
        "{:?}",
        us.degraded()
    );
    // Somebody else is there now.
    let other = Other::new("other", 2);
    live(&mut us, 60_000 / TICK_MS, |_| other.introduces(), &[&other]);
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
    assert_eq!(codes(&us), []);
}

#[test]
fn who_answers_there_in_place_of_one_that_is_known_is_met_within_a_minute() {
    let mut us = with_a_door();
    let (mut one, two) = (Other::new("one", 2), Other::new("two", 3));
    live(&mut us, 10, |_| one.introduces(), &[&one]);
    // It calls in turn, and says where it is.
    us.is_joined_by(&mut one);
    assert_eq!(us.peer(&one).status, PeerStatus::Alive);
    live(&mut us, 60_000 / TICK_MS, |_| two.introduces(), &[&one, &two]);
    assert_eq!(us.peer(&two).status, PeerStatus::Alive);
    assert_eq!(us.peer(&one).status, PeerStatus::Alive);
}

#[test]
fn a_node_that_is_met_stays_where_it_is() {
    let mut us = with_a_door();
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    let knocked = live(&mut us, 300, |_| other.introduces(), &[&other]);
    assert!(knocked > 10, "{knocked}");
    assert_eq!(us.peer(&other).place.proved(), Some(&other.place()));
}

#[test]
fn alone_is_who_has_nobody_and_was_not_meant_to() {
    let mut us = with_a_door();
    assert_eq!(codes(&us), [], "it has not looked yet");
    let refused = |_: &Us| Outcome::Failed("nobody listens there".into());
    live(&mut us, 4, refused, &[]);
    assert_eq!(codes(&us), [Code::Alone]);
    let text = us.degraded().remove(0);
    assert!(text.contains(DOOR) && text.contains("nobody listens there"), "{text}");
    let other = Other::new("other", 2);
    live(&mut us, 30, |_| other.introduces(), &[&other]);
    assert_eq!(codes(&us), []);
    // All others are lost: that they were there once does not help.
    live(&mut us, 30, refused, &[]);
    assert_eq!(us.peer(&other).status, PeerStatus::Lost);
    assert_eq!(codes(&us), [Code::Alone]);
    assert!(us.degraded()[0].contains("1 lost"), "{:?}", us.degraded());
    // One that has said goodbye misses nobody; nor one that is meant to be alone.
    us.node.settings.alone = true;
    assert_eq!(codes(&us), []);
}

/// A mapped port: it calls, and gives no answer where it says that it is.
#[test]
fn who_calls_and_can_not_be_called_is_one_way_with_the_reason() {
    let mut us = Us::new();
    let mut other = Other::new("other", 2);
    us.is_joined_by(&mut other);
    assert_eq!(codes(&us), [], "it was not called yet");
    for _ in 0..10 {
        live(&mut us, 1, mirror, &[]);
        us.is_pinged_by(&mut other);
    }
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
    let faults = us.node.faults(us.now);
    assert_eq!(codes(&us), [Code::OneWay]);
    assert_eq!(faults[0].node.as_ref(), Some(&other.id));
    let peers = us.node.peers(us.now);
    let reason = peers[0].reason.clone().unwrap();
    for text in [&faults[0].text, &reason] {
        let place = other.place();
        assert!(text.contains(place.as_str()) && text.contains("nobody listens"), "{text}");
    }
    live(&mut us, 30, mirror, &[&other]);
    assert_eq!(codes(&us), []);
    assert_eq!(us.node.peers(us.now)[0].reason, None);
}

/// Requests get lost: a few tries in vain say nothing. In a large network most are never called
/// again, so that they would be told of for days.
#[test]
fn one_way_is_who_was_called_in_vain_often_and_is_called() {
    let mut us = Us::new();
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    let fails = |us: &mut Us, other: &mut Other| {
        let (wait, now_ms) = (us.node.wait(us.now), us.now.mono_ms);
        let peer = us.node.peers.get_mut(&other.id).unwrap();
        peer.link.connected = false;
        peer.was_answered = false;
        peer.contact.came_to_nothing(wait, 30_000);
        peer.note_fault("no answer", now_ms);
        us.wait(4 * TICK_MS);
        us.is_pinged_by(other);
        us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
        codes(us)
    };
    for _ in 0..4 {
        assert_eq!(fails(&mut us, &mut other), []);
    }
    assert_eq!(fails(&mut us, &mut other), [Code::OneWay]);
    us.node.settings.mesh_max = 0;
    us.node.count_members();
    for (is_acquaintance, told) in [(false, &[][..]), (true, &[Code::OneWay])] {
        us.node.peers.get_mut(&other.id).unwrap().is_acquaintance = is_acquaintance;
        assert_eq!(codes(&us), told, "a link is kept: {is_acquaintance}");
    }
}

/// It was called in vain after it was heard last: that is no more than a death.
#[test]
fn who_just_died_is_not_one_way() {
    let mut us = Us::new();
    let mut other = Other::new("other", 2);
    us.is_connected_with(&mut other);
    live(&mut us, 10, mirror, &[&other]);
    for _ in 0..60 {
        pass(&mut us, 500, mirror, &[]);
        assert_eq!(codes(&us), []);
        let seen = us.node.peers(us.now).remove(0);
        assert!(seen.status != PeerStatus::Alive || seen.reason.is_none(), "{seen:?}");
    }
    assert_eq!(us.peer(&other).status, PeerStatus::Lost);
}

/// Where somebody answers the port is open: what it says is the reason, and no other advice helps.
#[test]
fn who_refuses_is_not_one_way_and_is_over_when_it_lets_us_in() {
    let mut us = Us::new();
    let mut other = Other::new("other", 2);
    us.is_joined_by(&mut other);
    let tick = |us: &mut Us, other: &mut Other, refused: bool| {
        us.tick();
        us.is_pinged_by(other);
        let speaker = other.clone();
        us.answer_all(&speaker, |request| {
            let is_first = matches!(request, Request::Hello(hello) if hello.proof.is_none());
            (refused && !is_first).then(|| refuses(Reason::NotAllowed))
        });
    };
    (0..20).for_each(|_| tick(&mut us, &mut other, true));
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
    assert_eq!(codes(&us), [Code::Refused]);
    (0..20).for_each(|_| tick(&mut us, &mut other, false));
    assert_eq!(codes(&us), []);
}

#[test]
fn who_called_with_another_key_is_forgotten_when_it_proves_itself() {
    let mut us = Us::new();
    let mut other = Other::new("other", 2);
    us.node.note_foreign(other.caller(), us.now);
    us.node.note_foreign("10.9.9.9:1".parse().unwrap(), us.now);
    us.is_joined_by(&mut other);
    let faults = us.degraded();
    assert!(faults.len() == 1 && faults[0].contains("somebody at 10.9.9.9 calls"), "{faults:?}");
}

/// Whoever makes up nodes makes no list without end.
#[test]
fn many_that_can_not_be_called_are_few_sentences() {
    let mut us = Us::new();
    let mut others: Vec<Other> =
        (10..60).map(|number| Other::new(&format!("n{number}"), number)).collect();
    others.iter_mut().for_each(|other| us.is_joined_by(other));
    us.node.settings.mesh_max = 100;
    for _ in 0..40 {
        live(&mut us, 1, mirror, &[]);
        for other in &mut others {
            us.is_pinged_by(other);
        }
    }
    let faults = us.node.faults(us.now);
    assert!((2..=9).contains(&faults.len()), "{}", faults.len());
    assert!(faults.last().unwrap().text.contains("more can be heard but not called"));
}

/// A list of bootstrap addresses, the same for all, has the node's own in it: its own answer is no
/// answer of others.
#[test]
fn what_is_said_of_those_that_can_not_be_called_stays_as_it_is() {
    for mesh_max in [32, 2] {
        let mut us = with_a_door();
        us.node.settings.mesh_max = mesh_max;
        let mut others: Vec<Other> =
            (10..13).map(|number| Other::new(&format!("n{number}"), number)).collect();
        for other in &mut others {
            us.is_joined_by(other);
            us.is_brought(other, &[&other.record(WALL_US, "alive")]);
        }
        for round in 0..80 {
            live(&mut us, 1, mirror, &[]);
            others.iter_mut().for_each(|other| _ = us.is_pinged_by(other));
            if round < 10 {
                continue;
            }
            let of: Vec<_> = us.node.faults(us.now).into_iter().map(|fault| fault.node).collect();
            let each = others.iter().all(|other| of.contains(&Some(other.id.clone())));
            let all = us.degraded().join(" ").contains("it can call none of them");
            assert!(if mesh_max == 2 { all } else { each && !all }, "{round}: {of:?}");
            assert!(us.node.calls_nobody_for(5, us.now), "{round}");
        }
    }
}

#[test]
fn what_happened_is_known_for_a_day_and_told_once() {
    let mut us = Us::new();
    let fault =
        |text: usize| crate::protocol::fault::Fault::new(Code::Restored, text.to_string(), "");
    us.node.notice(fault(1), us.now);
    assert_eq!(us.node.take_untold_notices(), [fault(1)]);
    assert_eq!(us.node.take_untold_notices(), []);
    us.wait(23 * 60 * 60 * 1000);
    us.tick();
    assert_eq!(us.node.status("", "", us.now).notices.len(), 1);
    us.wait(60 * 60 * 1000);
    us.tick();
    assert_eq!(us.node.status("", "", us.now).notices, []);
    (0..1_000).for_each(|text| us.node.notice(fault(text), us.now));
    assert!(us.node.status("", "", us.now).notices.len() < 50);
}

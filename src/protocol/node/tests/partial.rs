//! A large network in which not everybody can call everybody: who looks after whom, and how one
//! that nobody can call learns that it is lost.

use super::suspicion::{accused, here, live, pushed, with_a_silent_one};
use super::*;
use crate::protocol::pace::Wait;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::Ask;

/// The network is a large one from now on.
fn grows(us: &mut Us) {
    us.node.settings.mesh_max = 1;
    us.node.count_members();
}

fn lose(us: &mut Us, other: &Other) {
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    super::super::suspicion::lose(&other.id, peer, &mut Vec::new());
}

/// It can't be called, and is there all the same.
fn is_far_away(us: &mut Us, other: &Other) {
    let wait = Wait { now_ms: us.now.mono_ms, tick_ms: TICK_MS, roll: 0.5 };
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    peer.contact.came_to_nothing(wait, 30_000);
    peer.note_fault("no route", us.now.mono_ms);
    peer.link.connected = false;
}

/// What somebody lists of it.
fn is_listed(us: &mut Us, by: &Other, other: &Other, is_lost: bool) {
    let known = KnownNode { is_lost, ..other.known(WALL_US, "alive") };
    let answer = PeersAnswer { buckets: BucketSet(u32::MAX), nodes: vec![known] };
    let mut actions = Vec::new();
    us.node.compare(&by.id, answer, us.now, &mut actions);
    us.take_actions(actions);
}

/// Whoever brings it a change finds that it can't be called, and does not hear it.
#[test]
fn who_keeps_no_link_with_one_leaves_it_to_those_that_do() {
    let (mut us, mut others, last) = with_a_silent_one(30);
    others.push(last);
    grows(&mut us);
    us.tick();
    let is_near = |us: &Us, other: &Other| us.peer(other).is_acquaintance;
    let at = others.iter().position(|other| !is_near(&us, other)).unwrap();
    let other = others.remove(at);
    is_far_away(&mut us, &other);
    for _ in 0..6 {
        // It is called, so it keeps no links but the usual ones.
        others[0].number = us.now.wall_us;
        us.is_pinged_by(&mut others[0]);
        let (asks, told) = live(&mut us, TICK_MS, &others, &other);
        assert!(asks.is_empty() && told.is_empty(), "{asks:?} {told:?}");
    }
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
}

/// Else those that hear one that nobody can call ask and accuse for as long as others lost it.
#[test]
fn who_heard_one_a_moment_ago_does_not_doubt_it_as_others_lost_it() {
    let (mut us, others, mut last) = with_a_silent_one(6);
    grows(&mut us);
    us.is_pinged_by(&mut last);
    is_listed(&mut us, &others[0], &last, true);
    assert!(us.peer(&last).watch.doubt.is_none());
    us.wait(2 * TICK_MS + 1);
    is_listed(&mut us, &others[0], &last, true);
    assert!(us.peer(&last).watch.doubt.is_some());
}

/// Nobody can call it: it sees in a list of one that it calls that it was lost.
#[test]
fn one_that_was_lost_is_listed_so_until_it_makes_a_later_version() {
    let (mut us, others, mut last) = with_a_silent_one(4);
    grows(&mut us);
    let name = last.id.clone();
    let lists = |us: &mut Us| {
        let known = us.lists().nodes.into_iter().find(|known| known.node_id == name);
        known.unwrap().is_lost
    };
    let view = us.node.view.hash();
    lose(&mut us, &last);
    us.node.note_in_view(&last.id);
    us.is_pinged_by(&mut last.clone());
    assert_eq!(us.peer(&last).status, PeerStatus::Alive);
    assert!(lists(&mut us) && us.node.view.hash() != view, "so that it asks for the list");
    us.is_brought(&others[0], &[&last.record(WALL_US + 1, "later")]);
    assert!(!lists(&mut us));
    last.number = us.now.wall_us;
    us.is_pinged_by(&mut last);
    assert!(!lists(&mut us));
}

/// Few of a large network call it: others tell it who is gone.
#[test]
fn who_can_call_nobody_loses_none_that_does_not_call_it() {
    let (mut us, mut others) = connected(12);
    for other in &others {
        us.is_brought(other, &[&other.record(WALL_US, "alive")]);
    }
    us.jobs.clear();
    grows(&mut us);
    let mut asks = 0;
    for round in 0..2_000 {
        us.goes_on(100);
        for other in &others {
            us.answer_all(other, |request| {
                asks +=
                    usize::from(matches!(request, Request::Push(push) if !push.asks.is_empty()));
                Some(Outcome::Failed("no route".into()))
            });
        }
        if round % 30 == 0 {
            others[0].number = us.now.wall_us;
            us.is_pinged_by(&mut others[0]);
        }
        let is_alive = |other: &Other| us.peer(other).status == PeerStatus::Alive;
        assert!(round < 100 || others.iter().all(is_alive), "{round}");
    }
    assert!(asks <= 100, "{asks} times others were asked in vain");
    let held = us.peer(&others[4]).version().fingerprint;
    pushed(&mut us, &others[0], accused(&others[4], held));
    for _ in 0..40 {
        us.goes_on(100);
    }
    assert_eq!(us.peer(&others[4]).status, PeerStatus::Lost);
}

/// Whoever was asked could keep the word back, and bring it when the node is gone.
#[test]
fn a_word_that_comes_late_brings_nobody_back() {
    let (mut us, others, last) = with_a_silent_one(6);
    let late = |us: &mut Us, asks: &[Ask]| {
        live(us, 5 * TICK_MS, &others, &last);
        for ask in asks {
            let words = vec![here(&last, ask.challenge)];
            pushed(us, &others[0], CheckedPush { words, ..nothing() });
        }
        us.peer(&last).status
    };
    let (asks, _) = live(&mut us, 6 * TICK_MS, &others, &last);
    assert_eq!(us.peer(&last).status, PeerStatus::Lost);
    assert!(!asks.is_empty());
    assert_eq!(late(&mut us, &asks), PeerStatus::Lost, "those that were asked in the doubt");
    is_listed(&mut us, &others[0], &last, false);
    let (sought, _) = live(&mut us, 300, &others, &last);
    assert!(!sought.is_empty());
    assert_eq!(late(&mut us, &sought), PeerStatus::Lost, "those that were asked to seek it");
}

/// It was called first, before it knew its own place, and never called back.
#[test]
fn who_only_ever_called_can_ask_for_another_one() {
    let (mut us, others, last) = with_a_silent_one(3);
    us.jobs.clear();
    us.node.peers.get_mut(&others[0].id).unwrap().link.connected = false;
    let ask = Ask { about: last.id.clone(), asker: others[0].id.clone(), challenge: [9; 16] };
    pushed(&mut us, &others[0], CheckedPush { asks: vec![ask], ..nothing() });
    let (_, outgoing) = us.begins_with(&last).expect("it is asked");
    assert!(matches!(outgoing.request, Request::Push(push) if push.asks.len() == 1));
}

/// A bridge between two halves is one of many.
#[test]
fn who_reached_another_one_is_asked_first() {
    let (mut us, others, last) = with_a_silent_one(20);
    let via = (others[7].id.clone(), others[7].incarnation);
    us.node.peers.get_mut(&others[3].id).unwrap().watch.via = Some(via);
    for _ in 0..10 {
        let asked = us.node.ask_others(&last.id, 3, us.now, &mut Vec::new());
        let asked: Vec<&NodeId> = asked.iter().map(|asked| &asked.helper).collect();
        assert!(asked.len() == 3 && *asked[0] == others[7].id, "{asked:?}");
    }
}

/// Else each of a thousand that can't be called gets a HELLO, and a doubt, a minute.
#[test]
fn a_link_with_one_that_can_not_be_called_is_tried_again_after_minutes() {
    let (mut us, _, last) = with_a_silent_one(3);
    is_far_away(&mut us, &last);
    us.node.wait_for_far(&last.id, us.now);
    let minutes = |count: u64| us.now.mono_ms + count * 60_000;
    assert!(us.peer(&last).is_far(minutes(9)) && !us.peer(&last).is_far(minutes(10)));
}

/// Those that heard it come back, and those that were brought its goodbye, see the same.
#[test]
fn one_that_was_lost_and_leaves_is_the_same_in_all_views() {
    let views = [true, false].map(|hears_it| {
        let (mut us, others, mut last) = with_a_silent_one(4);
        grows(&mut us);
        lose(&mut us, &last);
        us.node.note_in_view(&last.id);
        let goodbye = last.goodbye(WALL_US + 1);
        if hears_it {
            us.is_pinged_by(&mut last);
            us.is_brought(&last, &[&goodbye]);
        } else {
            us.is_brought(&others[0], &[&goodbye]);
        }
        assert_eq!(us.peer(&last).status, PeerStatus::Left);
        let listed = us.lists().nodes.into_iter().find(|known| known.node_id == last.id);
        (us.node.view.hash(), listed.map(|known| known.is_lost))
    });
    assert_eq!(views[0], views[1]);
}

/// Whether others are asked about one that no link is kept with, and a call to which fails.
fn is_asked_about(has_called: bool) -> bool {
    let (mut us, mut others, last) = with_a_silent_one(30);
    others.push(last);
    grows(&mut us);
    us.tick();
    let at = others.iter().position(|other| !us.peer(other).is_acquaintance).unwrap();
    let dead = others.remove(at);
    if !has_called {
        us.node.peers.get_mut(&dead.id).unwrap().link.called_at = None;
    }
    (0..10).any(|_| {
        others[0].number = us.now.wall_us;
        us.is_pinged_by(&mut others[0]);
        // Something is to be brought to it.
        us.node.peers.get_mut(&dead.id).unwrap().owed.ping = true;
        let (asks, _) = live(&mut us, TICK_MS, &others, &dead);
        asks.iter().any(|ask| ask.about == dead.id)
    })
}

/// Those next to it on the ring may be two that lie.
#[test]
fn a_call_that_fails_is_a_doubt_for_those_too_that_keep_no_link() {
    assert!(is_asked_about(false), "nobody is asked about it");
}

/// It may be one that can only call, and calls another one by now.
#[test]
fn one_that_called_a_moment_ago_is_left_to_those_that_keep_a_link() {
    assert!(!is_asked_about(true));
}

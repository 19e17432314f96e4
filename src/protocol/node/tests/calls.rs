//! What is owed to a peer: bounded, and made of the newest state.

use super::*;
use crate::protocol::DATA_BYTES_MAX;
use crate::protocol::node::{OWED_DATA_MAX, RETRY_DELAY_MS, TRY_LIMIT_MS, UPKEEP_MAX};
use crate::protocol::peer::Trust;
use crate::protocol::report::PeerStatus;

fn is_data(request: &Request) -> bool {
    matches!(request, Request::Data(_))
}

/// A sender of those that answer is none for one that does not any more.
#[test]
fn a_job_of_one_class_makes_no_call_of_another() {
    let (mut us, others) = connected(1);
    us.sets("v1");
    let job = us.jobs.pop_front().unwrap();
    us.node.peers.get_mut(&others[0].id).unwrap().status = PeerStatus::Suspect;
    assert!(us.node.begin(&job, us.now).is_none());
    us.tick();
    assert!(us.begins_with(&others[0]).is_some(), "it is called by its like");
}

/// Who answers a PING and hangs on UPDATE waits with its like for that call alone.
#[test]
fn who_hangs_on_one_call_waits_for_that_one_with_its_like() {
    use crate::protocol::flight::Class;
    let (mut us, others) = connected(1);
    let other = &others[0];
    us.sets("v1");
    let hangs = |request: &Request| {
        matches!(request, Request::Push(_)).then(|| Outcome::Failed("no answer within 5 s".into()))
    };
    us.answer_all(other, hangs);
    let mut classes = Vec::new();
    for _ in 0..4 {
        us.tick();
        while let Some(job) = us.jobs.pop_front() {
            let Some(outgoing) = us.node.begin(&job, us.now) else { continue };
            let is_push = matches!(outgoing.request, Request::Push(_));
            classes.push((is_push, job.class));
            let outcome = hangs(&outgoing.request)
                .unwrap_or_else(|| other.answers(&mut us, &outgoing.request));
            us.is_answered(&job, outcome);
        }
    }
    assert!(
        classes.contains(&(true, Class::Returning)) && classes.contains(&(false, Class::Healthy))
    );
    assert!(!classes.contains(&(true, Class::Healthy)), "{classes:?}");
}

/// A session that was not proved of late may be over: then DATA may be for the run before.
#[test]
fn a_message_waits_until_the_session_is_proved() {
    let (mut us, others) = connected(1);
    us.wait(60_000);
    let (_, actions) = us.node.send(&others[0].id, b"x"[..].into(), us.now).unwrap();
    us.take_actions(actions);
    let (job, outgoing) = us.begins_with(&others[0]).unwrap();
    assert!(matches!(outgoing.request, Request::Ping(_)));
    let pong = others[0].pong(&mut us);
    us.is_answered(&job, pong);
    let (_, outgoing) = us.begins_with(&others[0]).unwrap();
    assert!(is_data(&outgoing.request));
}

/// Nobody knows whether a message arrived whose answer did not: the next run does not get it.
#[test]
fn a_message_in_doubt_is_not_sent_to_another_run() {
    let (mut us, mut others) = connected(1);
    let other = &mut others[0];
    let (ticket, actions) = us.node.send(&other.id, b"x"[..].into(), us.now).unwrap();
    us.take_actions(actions);
    let (job, outgoing) = us.begins_with(other).unwrap();
    assert!(is_data(&outgoing.request));
    us.is_answered(&job, Outcome::Failed("no answer within 5 s".into()));
    other.incarnation = Incarnation([9; 16]);
    other.given = Session([9; 16]);
    us.is_joined_by(other);
    assert!(matches!(&us.finished[..], [(done, Err(_))] if *done == ticket));
    us.answer_all(other, |request| {
        assert!(!is_data(request));
        None
    });
}

/// Two halves of a network may have forgotten each other: somebody has to begin.
#[test]
fn who_was_forgotten_is_knocked_at() {
    let (mut us, others) = connected(1);
    us.forgets(&others[0]);
    us.jobs.clear();
    us.tick();
    let job = us.jobs.pop_front().expect("a try");
    assert_eq!(job.target, Target::Seed(others[0].place()));
    let outgoing = us.node.begin(&job, us.now).unwrap();
    assert_eq!(outgoing.limit_ms, TRY_LIMIT_MS, "there is one try");
    us.is_answered(&job, others[0].introduces());
    assert_eq!(us.peer(&others[0]).direct_key(), Some(others[0].key), "it proved itself");
}

/// Who was reached once and moved is looked for before those that nobody ever reached.
#[test]
fn who_was_reached_is_looked_for_before_made_up_names() {
    let (mut us, others) = connected(1);
    for number in 0..1_000_u32 {
        let place = address(&format!("10.1.{}.{}:8000", number / 250, number % 250));
        us.node.take_hint(&id(&format!("made{number}")), &place, us.now, &mut Vec::new());
    }
    let peer = us.node.peers.get_mut(&others[0].id).unwrap();
    peer.status = PeerStatus::Lost;
    peer.link.connected = false;
    let wait = crate::protocol::pace::Wait { now_ms: 0, tick_ms: 1, roll: 0.0 };
    peer.contact.came_to_nothing(wait, 1);
    peer.place.add_hint(&address("10.9.9.9:8000"));
    us.jobs.clear();
    us.tick();
    assert!(us.peer(&others[0]).may_try);
}

#[test]
fn what_waits_for_one_peer_is_bounded_in_number() {
    let (mut us, others) = connected(1);
    for waiting in 0..=OWED_DATA_MAX {
        let sent = us.node.send(&others[0].id, b"x"[..].into(), us.now);
        assert_eq!(sent.is_ok(), waiting < OWED_DATA_MAX, "{waiting}");
        let pinged = us.node.ping(&others[0].id, us.now);
        assert_eq!(pinged.is_ok(), waiting < OWED_DATA_MAX, "{waiting}");
    }
}

#[test]
fn what_waits_for_all_peers_is_bounded_in_bytes() {
    let (mut us, others) = connected(20);
    let large: Arc<[u8]> = vec![0; DATA_BYTES_MAX].into();
    let mut sent = 0;
    for other in &others {
        sent += usize::from(us.node.send(&other.id, Arc::clone(&large), us.now).is_ok());
    }
    assert_eq!(sent, 8);
    let refused = us.node.send(&others[19].id, large, us.now);
    assert!(matches!(refused, Err(Refused::Busy(_))));
}

/// Whatever a peer answers: a few requests to it between two ticks, unless people ask.
#[test]
fn upkeep_is_a_few_requests_a_tick() {
    let (mut us, others) = connected(1);
    let other = &others[0];
    us.tick();
    us.serve(other);
    us.wait(TICK_MS / 2);
    let mut asked = 0;
    for _ in 0..50 {
        let peer = us.node.peers.get_mut(&other.id).unwrap();
        (peer.owed.ping, peer.owed.peers) = (true, true);
        let mut actions = Vec::new();
        us.node.poke(&other.id, us.now, &mut actions);
        us.take_actions(actions);
        asked += us.serve(other);
    }
    assert!(asked <= UPKEEP_MAX as usize, "{asked}");
    // A change of ours is no upkeep.
    us.sets("v1");
    assert_eq!(us.serve(other), 1);
}

/// Of many that start at once each has used up what it may ask by the first list.
#[test]
fn what_a_list_showed_is_asked_for_whatever_was_asked_before() {
    let (mut us, others) = connected(1);
    us.jobs.clear();
    let peer = us.node.peers.get_mut(&others[0].id).unwrap();
    (peer.flight, peer.upkeep) = (None, UPKEEP_MAX);
    peer.owed.want.insert(id("new"), [7; 16]);
    let mut actions = Vec::new();
    us.node.poke(&others[0].id, us.now, &mut actions);
    us.take_actions(actions);
    let (job, outgoing) = us.begins_with(&others[0]).expect("it is asked for");
    assert!(matches!(outgoing.request, Request::Pull(_)), "{:?}", outgoing.request);
    // Once: that it has nothing ends it.
    us.is_answered(&job, Outcome::Records(Vec::new()));
    assert!(us.begins_with(&others[0]).is_none());
}

/// Who never answered waits with its like, however much is owed to it.
#[test]
fn who_never_answered_holds_up_nobody() {
    let (mut us, others) = connected(1);
    let mut claims = Other::new("claims", 9);
    us.is_joined_by(&mut claims);
    us.node.peers.get_mut(&others[0].id).unwrap().owed.ping = true;
    us.tick();
    let class_of = |us: &Us, other: &Other| {
        let target = Target::Peer(other.id.clone());
        us.jobs.iter().find(|job| job.target == target).unwrap().class
    };
    use crate::protocol::flight::Class;
    assert_eq!(class_of(&us, &others[0]), Class::Healthy);
    assert_eq!(class_of(&us, &claims), Class::Unproved);
}

/// Anybody can name any address: all tries where nobody ever answered have one budget.
#[test]
fn tries_of_addresses_that_nobody_answered_at_have_one_budget() {
    let mut us = Us::new();
    let mut tried = 0;
    for number in 0..500_u32 {
        let name = id(&format!("made{number}"));
        let place = address(&format!("10.1.{}.{}:8000", number / 250, number % 250));
        us.node.take_hint(&name, &place, us.now, &mut Vec::new());
        tried += usize::from(us.node.peers.get(&name).is_some_and(|peer| peer.may_try));
    }
    assert_eq!(tried, 32);
}

/// How long each try of an address that never answered is waited for, ms, until it is left alone.
fn tries_in_vain(us: &mut Us, other: &Other) -> Vec<u64> {
    let mut actions = Vec::new();
    us.node.take_hint(&other.id, &other.place(), us.now, &mut actions);
    us.take_actions(actions);
    let mut limits = Vec::new();
    while let Some((job, outgoing)) = us.begins_with(other) {
        limits.push(outgoing.limit_ms);
        us.wait(outgoing.limit_ms);
        us.is_answered(&job, Outcome::Failed("no answer".into()));
        us.goes_on(RETRY_DELAY_MS);
    }
    limits
}

/// Requests get lost: that is noticed soon, and a slow host has its time all the same, the next
/// time that it is called.
#[test]
fn an_address_that_never_answered_is_tried_three_times() {
    let (mut us, other) = (Us::new(), Other::new("other", 2));
    assert_eq!(tries_in_vain(&mut us, &other), [1_500, 1_500, 3_000]);
    let mut called = None;
    for _ in 0..10 {
        us.tick();
        called = called.or_else(|| us.begins_with(&other));
    }
    let limit_ms = called.map(|(_, outgoing)| outgoing.limit_ms);
    assert_eq!(limit_ms, Some(TRY_LIMIT_MS));
}

/// How long the answer to each try of a list is waited for, ms, where none comes.
fn lists_in_vain(us: &mut Us, other: &Other) -> Vec<u64> {
    us.node.peers.get_mut(&other.id).unwrap().owed.peers = true;
    let mut limits = Vec::new();
    for _ in 0..5 {
        us.goes_on(RETRY_DELAY_MS);
        us.node.peers.get_mut(&other.id).unwrap().upkeep = 0;
        while let Some((job, outgoing)) = us.begins_with(other) {
            let outcome = match &outgoing.request {
                // Views that are equal would end it.
                Request::Ping(_) => other.pong_of([9; 16]),
                Request::Peers(_) => {
                    limits.push(outgoing.limit_ms);
                    Outcome::Failed("no answer".into())
                }
                request => other.answers(us, request),
            };
            us.is_answered(&job, outcome);
        }
    }
    limits.truncate(3);
    limits
}

/// Who joins may know nobody else to ask; later others are asked meanwhile, and on a slow link a
/// list takes its time.
#[test]
fn a_list_that_gets_lost_is_missed_soon_by_who_joins() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    assert_eq!(lists_in_vain(&mut us, &other), [1_500, 3_000, TRY_LIMIT_MS]);
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.node.ticks = 20;
    assert_eq!(lists_in_vain(&mut us, &other), [TRY_LIMIT_MS; 3]);
}

/// Whoever names many addresses takes the second tries away, not the first ones.
#[test]
fn where_many_addresses_were_tried_in_vain_each_is_tried_once() {
    let (mut us, other) = (Us::new(), Other::new("other", 2));
    for number in 0..20 {
        let place = address(&format!("10.1.0.{number}:8000"));
        us.node.take_hint(&id(&format!("made{number}")), &place, us.now, &mut Vec::new());
    }
    assert_eq!(tries_in_vain(&mut us, &other), [1_500]);
}

/// It is called once at a time, on whatever link it is now.
#[test]
fn who_is_lost_has_the_whole_time_to_answer() {
    let (mut us, others) = connected(1);
    let peer = us.node.peers.get_mut(&others[0].id).unwrap();
    (peer.status, peer.link.connected) = (PeerStatus::Lost, false);
    us.tick();
    let (_, outgoing) = us.begins_with(&others[0]).unwrap();
    assert!(matches!(outgoing.request, Request::Hello(_)));
    assert_eq!(outgoing.limit_ms, TRY_LIMIT_MS);
}

/// A PING would only say that views differ.
#[test]
fn who_holds_nothing_yet_asks_the_first_one_for_all_at_once() {
    let (mut us, other) = (Us::new(), Other::new("other", 2));
    let mut actions = Vec::new();
    us.node.take_hint(&other.id, &other.place(), us.now, &mut actions);
    us.take_actions(actions);
    let (mut lists, mut pings) = (Vec::new(), Vec::new());
    let mut count = 0;
    us.answer_all(&other, |request| {
        count += 1;
        match request {
            Request::Peers(_) => lists.push(count),
            Request::Ping(_) => pings.push(count),
            _ => {}
        }
        None
    });
    // What it is answered to a PING all the same: how far away it is.
    assert!(lists.len() == 1 && pings.len() == 1 && lists < pings, "{lists:?} {pings:?}");
}

#[test]
fn one_place_of_many_names_is_one_try() {
    let (mut us, third) = (Us::new(), address("10.2.0.1:8000"));
    for number in 0..500_u32 {
        let name = id(&format!("made{number}"));
        us.node.take_hint(&name, &third, us.now, &mut Vec::new());
    }
    let tried = us.node.peers.iter().filter(|(_, peer)| peer.may_try).count();
    assert_eq!(tried, 1);
}

#[test]
fn where_somebody_lives_nobody_else_is_tried() {
    let (mut us, others) = connected(1);
    us.wait(60_000);
    for number in 0..10 {
        let name = id(&format!("made{number}"));
        us.node.take_hint(&name, &others[0].place(), us.now, &mut Vec::new());
        assert!(!us.node.peers.get(&name).unwrap().may_try);
    }
    // It is silent: perhaps it has another name now.
    us.node.peers.get_mut(&others[0].id).unwrap().status = PeerStatus::Lost;
    us.node.take_hint(&id("made10"), &others[0].place(), us.now, &mut Vec::new());
    assert!(us.node.peers.get(&id("made10")).unwrap().may_try);
}

/// Each host has its turn, however many names there are for it.
#[test]
fn a_newcomer_has_its_try_beside_a_thousand_names_of_one_host() {
    let mut us = Us::new();
    for number in 0..1_000_u32 {
        let place = address(&format!("10.2.0.1:{}", 1_000 + number));
        us.node.take_hint(&id(&format!("made{number}")), &place, us.now, &mut Vec::new());
    }
    let newcomer = Other::new("a-newcomer", 5);
    us.node.take_hint(&newcomer.id, &newcomer.place(), us.now, &mut Vec::new());
    assert!(!us.peer(&newcomer).may_try, "those before it took all tries");
    us.tick();
    assert!(us.peer(&newcomer).may_try);
}

/// Whoever said goodbye asks nobody whether it is there: that would call it alive again.
#[test]
fn who_leaves_asks_nobody_any_more() {
    let (mut us, others) = connected(1);
    let mut goodbye = Other::new("us", OUR_KEY).goodbye(us.node.own().head.timestamp + 1);
    std::mem::swap(&mut us.node.own, &mut goodbye);
    // Not even one whose view differs.
    us.node.peers.get_mut(&others[0].id).unwrap().grace_until = Some(0);
    for _ in 0..20 {
        us.tick();
        us.answer_all(&others[0], |request| {
            assert!(!matches!(request, Request::Ping(_)), "it asks");
            None
        });
    }
}

/// What only hearsay knows takes no place in the table of who may be reached, and none is pushed
/// out for it.
#[test]
fn a_record_of_somebody_new_is_hearsay() {
    let (mut us, others) = connected(1);
    let ghost = Other::new("ghost", 7);
    us.is_brought(&others[0], &[&ghost.record(5, "five")]);
    assert_eq!(us.peer(&ghost).pin.unwrap().trust, Trust::Hearsay);
    assert_eq!(us.peer(&ghost).status, PeerStatus::Suspect);
    assert!(us.node.key_of(&ghost.id).is_none(), "it proved nothing");
}

/// The receiver knows a message by its id within a run of ours. Where ours begins anew, it may have
/// been delivered to the run before.
#[test]
fn a_message_in_doubt_is_not_sent_by_another_run_of_ours() {
    for in_flight in [false, true] {
        let (mut us, others) = connected(1);
        let (ticket, actions) = us.node.send(&others[0].id, b"x"[..].into(), us.now).unwrap();
        us.take_actions(actions);
        let (job, outgoing) = us.begins_with(&others[0]).unwrap();
        assert!(is_data(&outgoing.request));
        let lost = || Outcome::Failed("no answer within 5 s".into());
        if !in_flight {
            us.is_answered(&job, lost());
        }
        let before = us.node.incarnation();
        let mut actions = Vec::new();
        us.node.begin_epoch(us.now, &mut actions);
        us.take_actions(actions);
        assert_ne!(us.node.incarnation(), before);
        if in_flight {
            us.is_answered(&job, lost());
        }
        assert!(matches!(&us.finished[..], [(done, Err(_))] if *done == ticket), "{in_flight}");
        us.tick();
        us.answer_all(&others[0], |request| {
            assert!(!is_data(request), "{in_flight}");
            None
        });
    }
}

/// Another node that answers at the address of a peer says nothing of what the peer would take.
#[test]
fn what_another_node_refused_at_its_address_is_still_owed_to_a_peer() {
    let (mut us, mut others) = connected(1);
    let other = &mut others[0];
    us.sets("v1");
    let (job, outgoing) = us.begins_with(other).unwrap();
    assert!(matches!(outgoing.request, Request::Push(_)));
    us.is_answered(&job, refuses(Reason::WrongReceiver));
    other.ip = IpAddr::from([10, 0, 0, 77]);
    us.is_joined_by(other);
    us.tick();
    let pushed = std::cell::Cell::new(0);
    us.answer_all(other, |request| {
        pushed.set(pushed.get() + usize::from(matches!(request, Request::Push(_))));
        None
    });
    assert_eq!(pushed.get(), 1, "it is brought to where it is now");
}

/// A goodbye may come through others before anything else of that run.
#[test]
fn one_that_fell_silent_behind_its_goodbye_has_left() {
    let (mut us, mut others) = connected(2);
    let teller = others.pop().unwrap();
    let leaver = &mut others[0];
    leaver.incarnation = Incarnation([9; 16]);
    us.is_brought(&teller, &[&leaver.goodbye(WALL_US + 5)]);
    us.is_joined_by(leaver);
    for _ in 0..20 {
        us.tick();
        us.answer_all(leaver, |_| Some(Outcome::Failed("nobody listens there".into())));
    }
    assert_eq!(us.peer(leaver).status, PeerStatus::Left);
}

/// An answer of the run before may be on its way while the next one says HELLO already.
#[test]
fn an_answer_of_a_run_that_is_over_does_not_bring_it_back() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
    us.tick();
    let (job, outgoing) = us.begins_with(&other).unwrap();
    assert!(matches!(outgoing.request, Request::Hello(_)));
    let (late, of_twin) = (other.introduces(), other.introduces());
    other.incarnation = Incarnation([9; 16]);
    other.given = Session([9; 16]);
    us.is_joined_by(&mut other);
    us.is_answered(&job, late);
    assert_eq!(us.peer(&other).link.incarnation, Some(other.incarnation));
    // It is no twin of itself.
    us.is_joined_by(&mut other);
    us.tick();
    us.serve(&other);
    assert!(us.peer(&other).link.connected);
    // Nor is the new run taken for one where the old one goes on somewhere.
    us.node.peers.get_mut(&other.id).unwrap().link.connected = false;
    us.tick();
    let (job, outgoing) = us.begins_with(&other).unwrap();
    assert!(matches!(outgoing.request, Request::Hello(_)));
    us.is_answered(&job, of_twin);
    assert_eq!(us.peer(&other).link.incarnation, Some(other.incarnation));
}

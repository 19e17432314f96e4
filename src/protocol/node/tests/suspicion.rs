//! Who gives no answer: who is asked, what is believed of it, and how much it costs.

use super::*;
use crate::protocol::doubt::{FIRST_ASKED, NEXT_ASKED};
use crate::protocol::node::CheckedWord;
use crate::protocol::node::{RETRY_DELAY_MS, Republish};
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::rings::position;
use crate::protocol::wire::{Ask, Here, Suspected, Text, Word};

const THIRD_MS: u64 = TICK_MS / 3;
const GRACE_MS: u64 = TICK_MS * 4 / 5;

/// So many others that answer, of whom the last one is to fall silent.
pub(super) fn with_a_silent_one(count: u8) -> (Us, Vec<Other>, Other) {
    let (mut us, mut others) = connected(count);
    for other in &others {
        us.is_brought(other, &[&other.record(WALL_US, "alive")]);
    }
    let silent = others.pop().unwrap();
    (us, others, silent)
}

pub(super) fn pushed(us: &mut Us, by: &Other, push: CheckedPush) -> Reply {
    let (to, incarnation) = (us.node.node_id().clone(), us.node.incarnation());
    us.request(Incoming::Push(CheckedPush { to, incarnation, ..push }), by.caller())
}

/// Time goes on in small steps; the others answer, the silent one does not. Gives what the others
/// were asked, and whom they were told to suspect.
pub(super) fn live(
    us: &mut Us,
    ms: u64,
    others: &[Other],
    silent: &Other,
) -> (Vec<Ask>, Vec<NodeId>) {
    let (mut asks, mut suspects) = (Vec::new(), Vec::new());
    for _ in 0..ms / 100 {
        us.goes_on(100);
        // Somebody calls: else it is taken for one that nobody can call.
        us.node.note_call(us.now);
        loop {
            let before = us.jobs.len();
            for other in others {
                while let Some((job, outgoing)) = us.begins_with(other) {
                    if let Request::Push(push) = &outgoing.request {
                        asks.extend(push.asks.clone());
                        suspects.extend(push.suspects.iter().map(|it| it.node_id.clone()));
                    }
                    let outcome = other.answers(us, &outgoing.request);
                    us.is_answered(&job, outcome);
                }
            }
            us.answer_all(silent, |_| Some(Outcome::Failed("nobody listens there".into())));
            if us.jobs.len() == before || us.jobs.is_empty() {
                break;
            }
        }
    }
    (asks, suspects)
}

/// The silent one fails a probe; gives what the others are asked at first.
fn in_doubt(us: &mut Us, others: &[Other], silent: &Other) -> Vec<Ask> {
    let mut all = Vec::new();
    for _ in 0..60 {
        let (asks, _) = live(us, 100, others, silent);
        all.extend(asks);
        if us.peer(silent).watch.doubt.is_some() {
            return all;
        }
    }
    panic!("it is not probed")
}

pub(super) fn here(of: &Other, challenge: [u8; 16]) -> CheckedWord {
    let here = Here { node_id: of.id.clone(), challenge, signature: [0; 64] };
    CheckedWord::Here(Verified::<Here>::check(here, &of.key, &Gullible(of.key)).unwrap())
}

pub(super) fn accused(of: &Other, fingerprint: [u8; 16]) -> CheckedPush {
    let suspects = vec![Suspected { node_id: of.id.clone(), fingerprint }];
    CheckedPush { suspects, ..nothing() }
}

#[test]
fn few_are_asked_then_some_more_then_all_are_told_and_it_is_lost() {
    let (mut us, others, silent) = with_a_silent_one(12);
    let asks = in_doubt(&mut us, &others, &silent);
    assert_eq!(asks.len(), FIRST_ASKED);
    let challenges: std::collections::BTreeSet<_> = asks.iter().map(|it| it.challenge).collect();
    assert_eq!(challenges.len(), FIRST_ASKED, "each knows its own alone");
    assert!(asks.iter().all(|ask| ask.about == silent.id && ask.asker == id("us")));
    assert_eq!(us.peer(&silent).status, PeerStatus::Alive, "nobody is told of a doubt");
    let (more, told) = live(&mut us, THIRD_MS, &others, &silent);
    assert_eq!((more.len(), told.len()), (NEXT_ASKED, 0));
    let (_, told) = live(&mut us, THIRD_MS, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Suspect);
    assert_eq!(told, vec![silent.id.clone(); 11], "each of the others once");
    live(&mut us, GRACE_MS - 200, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Suspect);
    live(&mut us, 300, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Lost);
    let reason = us.node.peers(us.now).into_iter().find(|it| it.node_id == silent.id).unwrap();
    let reason = reason.reason.unwrap();
    assert!(reason.contains("nobody listens there; ") && reason.contains("tried it in vain, too"));
}

/// In a large network those who came first have links with all.
#[test]
fn those_that_links_are_kept_with_are_asked_before_others() {
    let (mut us, others, silent) = with_a_silent_one(12);
    let close = [&others[1], &others[6], &others[8]].map(|other| other.id.clone());
    us.node.settings.mesh_max = 1;
    us.node.count_members();
    us.node.peers.change_all(|id, peer| peer.is_acquaintance = close.contains(id));
    for (count, expected) in [(2, 2), (FIRST_ASKED, 3), (NEXT_ASKED, 3)] {
        let asked = us.node.ask_others(&silent.id, count, us.now, &mut Vec::new());
        let first: Vec<bool> = asked.iter().map(|it| close.contains(&it.helper)).collect();
        assert_eq!(first, (0..count).map(|at| at < expected).collect::<Vec<_>>());
    }
}

/// Where all say at once that it is in vain, nobody waits.
#[test]
fn words_in_vain_end_a_stage() {
    let (mut us, others, silent) = with_a_silent_one(12);
    let mut asks = in_doubt(&mut us, &others, &silent);
    for _ in 0..2 {
        let (more, _) = live(&mut us, 100, &others, &silent);
        asks.extend(more);
        for ask in std::mem::take(&mut asks) {
            let words = vec![CheckedWord::InVain(silent.id.clone(), ask.challenge)];
            pushed(&mut us, &others[0], CheckedPush { words, ..nothing() });
        }
        let (more, _) = live(&mut us, 100, &others, &silent);
        asks.extend(more);
    }
    assert_eq!(us.peer(&silent).status, PeerStatus::Suspect);
}

/// A word counts once, under a challenge that is open; it makes no direct word.
#[test]
fn who_is_vouched_for_is_there_and_was_not_heard() {
    let (mut us, others, silent) = with_a_silent_one(4);
    let ask = in_doubt(&mut us, &others, &silent).remove(0);
    let heard_at = us.peer(&silent).heard_at;
    let word = |challenge| {
        let (about, signature) = (silent.id.clone(), Some([0; 64]));
        Word { about, challenge, signature }
    };
    assert_eq!(us.node.awaits(&word([9; 16])), None, "nobody asked that");
    assert_eq!(us.node.awaits(&word(ask.challenge)), Some(silent.key));
    let words = vec![here(&silent, [9; 16])];
    pushed(&mut us, &others[0], CheckedPush { words, ..nothing() });
    assert!(us.peer(&silent).watch.doubt.is_some());
    let words = vec![here(&silent, ask.challenge)];
    pushed(&mut us, &others[0], CheckedPush { words, ..nothing() });
    let peer = us.peer(&silent);
    assert!(peer.watch.doubt.is_none() && peer.watch.vouched_at == Some(us.now.mono_ms));
    assert_eq!((peer.status, peer.heard_at), (PeerStatus::Alive, heard_at));
    assert_eq!(us.node.awaits(&word(ask.challenge)), None, "it is over");
}

/// A slow word may come when it is suspected already.
#[test]
fn a_word_that_comes_late_ends_an_accusation() {
    let (mut us, others, silent) = with_a_silent_one(4);
    let ask = in_doubt(&mut us, &others, &silent).remove(0);
    live(&mut us, 2 * THIRD_MS, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Suspect);
    let words = vec![here(&silent, ask.challenge)];
    pushed(&mut us, &others[0], CheckedPush { words, ..nothing() });
    assert_eq!(us.peer(&silent).status, PeerStatus::Alive);
    live(&mut us, GRACE_MS, &others, &silent);
    assert_ne!(us.peer(&silent).status, PeerStatus::Lost);
}

/// Whoever hears of nobody blames itself.
#[test]
fn who_is_cut_off_accuses_nobody() {
    let (mut us, mut others, silent) = with_a_silent_one(6);
    us.jobs.clear();
    let mut told = Vec::new();
    for _ in 0..12_000 / 100 {
        us.goes_on(100);
        for other in others.iter().chain([&silent]) {
            while let Some((job, outgoing)) = us.begins_with(other) {
                if let Request::Push(push) = &outgoing.request {
                    told.extend(push.suspects.clone());
                }
                us.is_answered(&job, Outcome::Failed("no route".into()));
            }
        }
    }
    assert_eq!(told, []);
    assert!(others.iter().all(|other| us.peer(other).status == PeerStatus::Lost));
    us.is_pinged_by(&mut others[0]);
    assert_eq!(us.peer(&others[0]).status, PeerStatus::Alive, "a word of it is enough");
}

/// A node that did not run for a while finds all its waits over.
#[test]
fn who_hung_begins_anew() {
    let (mut us, others, silent) = with_a_silent_one(6);
    in_doubt(&mut us, &others, &silent);
    live(&mut us, THIRD_MS, &others, &silent);
    us.wait(60_000);
    let (_, actions) = us.node.on_tick(us.now);
    let says = |action: &Action| matches!(action, Action::Tell(Event::Suspect { .. }));
    assert!(!actions.iter().any(says));
    us.take_actions(actions);
    assert_eq!(us.peer(&silent).status, PeerStatus::Alive);
}

/// What others say counts for the version that is held, now and then; who is there shows it.
#[test]
fn an_accusation_is_refuted_by_a_newer_version_or_a_direct_word() {
    let (mut us, mut others, silent) = with_a_silent_one(3);
    let held = us.peer(&silent).version().fingerprint;
    pushed(&mut us, &others[0], accused(&silent, [7; 16]));
    assert!(us.peer(&silent).watch.accused.is_none(), "another version");
    pushed(&mut us, &others[0], accused(&silent, held));
    assert!(us.peer(&silent).watch.accused.is_some());
    assert_eq!(us.peer(&silent).status, PeerStatus::Alive, "perhaps it answers here");
    live(&mut us, 200, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Suspect, "it does not");
    us.is_brought(&others[0], &[&silent.record(WALL_US + 5, "I am here")]);
    assert_eq!(us.peer(&silent).status, PeerStatus::Alive);
    // Not again at once.
    let held = us.peer(&silent).version().fingerprint;
    pushed(&mut us, &others[0], accused(&silent, held));
    assert!(us.peer(&silent).watch.accused.is_none(), "a moment after the last one");
    // A direct word.
    let other = &mut others[1];
    let held = us.peer(other).version().fingerprint;
    pushed(&mut us, &silent, accused(other, held));
    assert!(us.peer(other).watch.accused.is_some());
    us.serve(other);
    assert!(us.peer(other).watch.accused.is_none(), "it was asked, and answered");
    assert_eq!(us.peer(other).status, PeerStatus::Alive);
}

#[test]
fn an_accusation_that_nothing_refutes_ends_in_lost() {
    let (mut us, others, silent) = with_a_silent_one(3);
    let held = us.peer(&silent).version().fingerprint;
    pushed(&mut us, &others[0], accused(&silent, held));
    live(&mut us, GRACE_MS + 100, &others, &silent);
    assert_eq!(us.peer(&silent).status, PeerStatus::Lost);
    // What it said before it was lost does not bring it back.
    us.is_brought(&others[0], &[&silent.record(WALL_US + 5, "before")]);
    assert_eq!(us.peer(&silent).status, PeerStatus::Lost);
}

/// What it signs for others proves nothing here, but that it is worth a call.
#[test]
fn one_that_is_lost_and_answers_others_is_called() {
    let (mut us, others) = connected(2);
    us.jobs.clear();
    let lost = &others[1];
    let peer = us.node.peers.get_mut(&lost.id).unwrap();
    (peer.status, peer.flight, peer.owed.ping) = (PeerStatus::Lost, None, false);
    let (about, asker) = (lost.id.clone(), others[0].id.clone());
    let asks = vec![Ask { about, asker, challenge: [9; 16] }];
    pushed(&mut us, &others[0], CheckedPush { asks, ..nothing() });
    let (job, outgoing) = us.begins_with(lost).expect("it is asked");
    let Request::Push(push) = outgoing.request else { panic!("{:?}", outgoing.request) };
    let here = lost.is_here(&push);
    us.is_answered(&job, here);
    assert_eq!(us.peer(lost).status, PeerStatus::Lost);
    let (_, outgoing) = us.begins_with(lost).expect("it is called");
    assert!(matches!(outgoing.request, Request::Ping(_)), "{:?}", outgoing.request);
}

/// In a large network most are known by their versions alone.
#[test]
fn a_later_version_brings_back_who_fell_silent() {
    let (mut us, others) = connected(3);
    us.node.settings.mesh_max = 1;
    us.node.count_members();
    us.is_brought(&others[0], &[&others[2].record(WALL_US + 5, "one")]);
    let peer = us.node.peers.get_mut(&others[2].id).unwrap();
    super::super::suspicion::lose(&others[2].id, peer, &mut Vec::new());
    us.is_brought(&others[0], &[&others[2].record(WALL_US + 5, "one")]);
    assert_eq!(us.peer(&others[2]).status, PeerStatus::Lost, "it said that before");
    us.is_brought(&others[0], &[&others[2].record(WALL_US + 6, "two")]);
    assert_eq!(us.peer(&others[2]).status, PeerStatus::Alive);
}

#[test]
fn who_is_accused_makes_a_newer_version_now_and_then() {
    let (mut us, others, _) = with_a_silent_one(2);
    let accusation = |us: &Us| {
        let fingerprint = us.node.own().fingerprint;
        let suspects = vec![Suspected { node_id: id("us"), fingerprint }];
        CheckedPush { suspects, ..nothing() }
    };
    us.sets("at home");
    let by = &others[0];
    let suspects = vec![Suspected { node_id: id("us"), fingerprint: [7; 16] }];
    pushed(&mut us, by, CheckedPush { suspects, ..nothing() });
    assert!(us.node.take_disk_wishes().republish.is_none(), "that is another version");
    let first = accusation(&us);
    pushed(&mut us, by, first);
    assert_eq!(us.node.take_disk_wishes().republish, Some(Republish::Unwritten));
    us.sets("again");
    let next = accusation(&us);
    pushed(&mut us, by, next);
    assert!(us.node.take_disk_wishes().republish.is_none(), "not at once");
    // Nobody says it again: who suspects us for this version waits for a newer one.
    us.wait(TICK_MS / 2 - 1);
    us.node.on_tick(us.now);
    assert!(us.node.take_disk_wishes().republish.is_none(), "still not");
    us.wait(1);
    us.node.on_tick(us.now);
    assert_eq!(us.node.take_disk_wishes().republish, Some(Republish::Unwritten));
    // A version that comes by itself meanwhile does as well.
    us.sets("once more");
    let next = accusation(&us);
    pushed(&mut us, by, next);
    us.sets("news");
    us.wait(TICK_MS / 2);
    us.node.on_tick(us.now);
    assert!(us.node.take_disk_wishes().republish.is_none(), "it is refuted already");
}

/// What a helper is told to try, and what it says.
#[test]
fn an_ask_is_passed_to_whom_it_is_about_and_answered() {
    let (mut us, others, silent) = with_a_silent_one(3);
    let asker = &others[0];
    us.jobs.clear();
    let ask = |about: &NodeId, number: u8| Ask {
        about: about.clone(),
        asker: asker.id.clone(),
        challenge: [number; 16],
    };
    let words = |us: &mut Us| -> Vec<Word> {
        let mut words = Vec::new();
        us.answer_all(asker, |request| {
            if let Request::Push(push) = request {
                words.extend(push.words.clone());
            }
            None
        });
        words
    };
    // It is there, and signs.
    let asks = vec![ask(&silent.id, 1)];
    pushed(&mut us, asker, CheckedPush { asks, ..nothing() });
    let told =
        |request: &Request| matches!(request, Request::Push(push) if push.self_ask().is_some());
    let mut asked = false;
    us.answer_all(&silent, |request| {
        asked |= told(request);
        None
    });
    assert!(asked);
    let said = words(&mut us);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].challenge, said[0].signature), ([1; 16], Some([0; 64])));
    // It gives no answer.
    let asks = vec![ask(&silent.id, 2)];
    pushed(&mut us, asker, CheckedPush { asks, ..nothing() });
    us.answer_all(&silent, |request| {
        told(request).then(|| Outcome::Failed("nobody listens there".into()))
    });
    let said = words(&mut us);
    assert_eq!((said[0].challenge, said[0].signature), ([2; 16], None));
    // Nobody knows it.
    let asks = vec![ask(&id("nobody"), 3)];
    pushed(&mut us, asker, CheckedPush { asks, ..nothing() });
    let said = words(&mut us);
    assert_eq!((said[0].challenge, said[0].signature), ([3; 16], None));
    // We are it.
    let asks = vec![ask(&id("us"), 4)];
    let reply = pushed(&mut us, asker, CheckedPush { asks, ..nothing() });
    assert!(matches!(reply.verdict, Verdict::Here(_, challenge) if challenge == [4; 16]));
}

#[test]
fn asks_of_others_are_few_at_a_time_and_end() {
    let (mut us, others, silent) = with_a_silent_one(3);
    us.jobs.clear();
    for number in 0..40 {
        let (about, asker) = (silent.id.clone(), others[0].id.clone());
        let asks = vec![Ask { about, asker, challenge: [number; 16] }];
        pushed(&mut us, &others[0], CheckedPush { asks, ..nothing() });
    }
    assert_eq!(us.peer(&silent).owed.tell.asks.len(), 16);
    // Its time is over before it was tried.
    for _ in 0..4 {
        us.goes_on(THIRD_MS);
    }
    assert_eq!(us.peer(&silent).owed.tell.asks.len(), 0);
    let asks =
        vec![Ask { about: silent.id.clone(), asker: others[0].id.clone(), challenge: [99; 16] }];
    pushed(&mut us, &others[0], CheckedPush { asks, ..nothing() });
    assert_eq!(us.peer(&silent).owed.tell.asks.len(), 1, "there is room again");
}

/// By turns to the next one on the ring and to who was not heard for longest.
#[test]
fn one_probe_goes_out_each_third_of_a_tick() {
    let (mut us, others, last) = with_a_silent_one(9);
    let all: Vec<Other> = others.iter().cloned().chain([last]).collect();
    let own = position(&id("us"));
    let next = all.iter().min_by_key(|other| position(&other.id).wrapping_sub(own)).unwrap();
    let (mut to_next, mut to_others) = (0, std::collections::BTreeMap::new());
    us.jobs.clear();
    for _ in 0..600 {
        us.goes_on(100);
        for other in &all {
            while let Some((job, outgoing)) = us.begins_with(other) {
                if matches!(outgoing.request, Request::Ping(_)) {
                    if other.id == next.id {
                        to_next += 1;
                    } else {
                        *to_others.entry(other.id.clone()).or_insert(0) += 1;
                    }
                }
                let outcome = other.answers(&mut us, &outgoing.request);
                us.is_answered(&job, outcome);
            }
        }
        // They call, too: else it is taken for one that nobody can call.
        let mut caller = all[0].clone();
        caller.number = us.now.wall_us;
        us.is_pinged_by(&mut caller);
    }
    assert!((25..=45).contains(&to_next), "{to_next} in a minute");
    assert!(to_others.len() >= 7 && to_others.values().all(|count| *count <= 8), "{to_others:?}");
}

/// One of a large network, with which no link is kept; and when the question began.
fn one_without_a_link() -> (Us, Other, u64) {
    let (mut us, mut others) = connected(3);
    us.node.settings.mesh_max = 1;
    us.node.count_members();
    us.jobs.clear();
    let far = others.pop().unwrap();
    us.is_brought(&far, &[&far.record(WALL_US + 5, "one")]);
    let peer = us.node.peers.get_mut(&far.id).unwrap();
    (peer.flight, peer.link.connected, peer.is_acquaintance) = (None, false, false);
    (peer.status, peer.contact) = (PeerStatus::Alive, Default::default());
    us.wait(1_000);
    let since = us.now.mono_ms;
    (us, far, since)
}

fn asks_the_living(us: &mut Us, since: u64) {
    for _ in 0..3 {
        let actions = us.node.ask_the_living(since, us.now);
        us.take_actions(actions);
    }
}

/// In a large network most are not linked with: who waits for all of them asks each of them once.
#[test]
fn whoever_waits_for_peers_has_all_of_them_asked_once() {
    let (mut us, far, since) = one_without_a_link();
    asks_the_living(&mut us, since);
    let (job, outgoing) = us.begins_with(&far).expect("it is asked");
    let Request::Push(push) = &outgoing.request else { panic!("{:?}", outgoing.request) };
    let [ask] = &push.asks[..] else { panic!("{:?}", push.asks) };
    assert_eq!((&ask.about, &ask.asker), (&far.id, us.node.node_id()));
    let heard = us.node.heard_since(since);
    let CheckedWord::Here(here) = here(&far, ask.challenge) else { panic!("a word") };
    us.is_answered(&job, Outcome::Here(here));
    assert_eq!(us.node.heard_since(since), heard + 1);
    asks_the_living(&mut us, since);
    assert!(us.begins_with(&far).is_none(), "it has answered");
    assert!(!us.peer(&far).link.connected, "without a link");
}

/// Whoever does not sign, as its answer got lost or it is another run, is met for it.
#[test]
fn who_does_not_answer_whoever_waits_for_it_is_met() {
    let reason = Reason::WrongSession.code();
    let refusal = Refusal { reason, text: Text::new(""), number: 0, records: Vec::new() };
    let outcomes =
        [Outcome::Failed("no answer".into()), Outcome::Nothing, Outcome::Refused(refusal, None)];
    for outcome in outcomes {
        let (mut us, mut far, since) = one_without_a_link();
        asks_the_living(&mut us, since);
        let (job, _) = us.begins_with(&far).expect("it is asked");
        let heard = us.node.heard_since(since);
        let what = format!("{outcome:?}");
        us.is_answered(&job, outcome);
        us.goes_on(RETRY_DELAY_MS);
        let (_, outgoing) = us.begins_with(&far).expect(&what);
        assert!(matches!(outgoing.request, Request::Hello(_)), "{what}: {:?}", outgoing.request);
        us.is_joined_by(&mut far);
        assert!(!us.peer(&far).owed.is_asked_for, "{what}");
        assert_eq!(us.node.heard_since(since), heard + 1, "{what}");
    }
}

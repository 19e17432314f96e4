//! Those that can only call: what waits for them, and what they make of it.

use super::suspicion::{here, live, pushed, with_a_silent_one};
use super::*;
use crate::protocol::doubt::Accused;
use crate::protocol::node::CheckedWord;
use crate::protocol::pace::Wait;
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::wire::{ASKS_MAX, Ask, Mail, Suspected, WORDS_MAX, Word};

/// Some that are called, and the last one calls and can't be called.
fn with_one_that_only_calls(count: u8) -> (Us, Vec<Other>, Other) {
    let (mut us, others, mut last) = with_a_silent_one(count);
    can_not_be_called(&mut us, &mut last);
    us.jobs.clear();
    (us, others, last)
}

/// The same with another one that does, before the last one.
fn with_two_that_only_call(count: u8) -> (Us, Vec<Other>, Other, Other) {
    let (mut us, mut others, last) = with_one_that_only_calls(count);
    let mut other = others.remove(0);
    can_not_be_called(&mut us, &mut other);
    (us, others, other, last)
}

fn can_not_be_called(us: &mut Us, other: &mut Other) {
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    let wait = Wait { now_ms: us.now.mono_ms, tick_ms: TICK_MS, roll: 0.5 };
    peer.contact.came_to_nothing(wait, 30_000);
    mail_of(us, other);
}

/// What waits for one that calls.
fn mail_of(us: &mut Us, other: &mut Other) -> Option<Mail> {
    other.number = other.number.max(us.now.wall_us);
    match us.is_pinged_by(other).verdict {
        Verdict::Answer(answer) => match *answer {
            Answer::Ping(pong) => pong.mail,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn ask(about: &Other, asker: &Other, number: u8) -> CheckedPush {
    let (about, asker) = (about.id.clone(), asker.id.clone());
    CheckedPush { asks: vec![Ask { about, asker, challenge: [number; 16] }], ..nothing() }
}

/// It answers a PING with this.
fn brings(by: &Other, us: &mut Us, mail: Mail, words: Vec<CheckedWord>) {
    let peer = us.node.peers.get_mut(&by.id).unwrap();
    (peer.owed.ping, peer.upkeep) = (true, 0);
    us.goes_on(100);
    let mut mail = Some((mail, words));
    us.answer_all(by, |request| {
        let (mail, words) = mail.take_if(|_| matches!(request, Request::Ping(_)))?;
        let pong = Pong { view: [0; 16], twin: None, mail: Some(mail) };
        Some(Outcome::Pong(signed(pong, by.key), words))
    });
    assert!(mail.is_none(), "it was pinged");
}

/// Two that nobody can call know of each other by whom both of them call.
#[test]
fn a_question_and_its_answer_wait_for_those_that_only_call() {
    let (mut us, _, mut asker, mut last) = with_two_that_only_call(3);
    us.jobs.clear();
    pushed(&mut us, &asker, ask(&last, &asker, 7));
    assert!(us.begins_with(&last).is_none(), "it is not called for it");
    for _ in 0..2 {
        // The first of these answers may get lost.
        let mail = mail_of(&mut us, &mut last).expect("it is asked");
        assert_eq!(mail, Mail { asks: vec![[7; 16]], ..Mail::default() });
    }
    assert_eq!(mail_of(&mut us, &mut asker), None, "nothing came of it yet");
    let word = Word { about: last.id.clone(), challenge: [7; 16], signature: Some([0; 64]) };
    assert_eq!(us.node.awaits(&word), Some(last.key));
    pushed(&mut us, &last, CheckedPush { words: vec![here(&last, [7; 16])], ..nothing() });
    assert_eq!(us.node.awaits(&word), None, "once");
    assert_eq!(mail_of(&mut us, &mut last), None);
    for _ in 0..2 {
        let mail = mail_of(&mut us, &mut asker).expect("it is told");
        assert_eq!(mail, Mail { words: vec![word.clone()], ..Mail::default() });
    }
    us.tick();
    us.tick();
    assert_eq!(mail_of(&mut us, &mut asker), None, "it is old");
    assert!(us.node.probing.favours.is_empty());
}

/// What nobody answers is said to be in vain, and then forgotten.
#[test]
fn a_question_that_nobody_answers_ends() {
    let (mut us, others, mut asker, mut last) = with_two_that_only_call(3);
    pushed(&mut us, &asker, ask(&last, &asker, 7));
    let mut told = Vec::new();
    for _ in 0..59 {
        us.goes_on(100);
        mail_of(&mut us, &mut last);
        told.extend(mail_of(&mut us, &mut asker));
    }
    assert!(told.is_empty(), "it has its time: {told:?}");
    for _ in 0..60 {
        us.goes_on(100);
        told.extend(mail_of(&mut us, &mut asker));
    }
    let in_vain = Word { about: last.id.clone(), challenge: [7; 16], signature: None };
    assert!(!told.is_empty() && told.iter().all(|mail| mail.words == [in_vain.clone()]));
    us.goes_on(100);
    assert_eq!(mail_of(&mut us, &mut asker), None);
    assert!(us.node.probing.favours.is_empty());
    // A word about another one, or under another challenge, is none.
    pushed(&mut us, &asker, ask(&last, &asker, 8));
    let words = vec![here(&others[0], [8; 16]), here(&last, [9; 16])];
    pushed(&mut us, &last, CheckedPush { words, ..nothing() });
    assert_eq!(mail_of(&mut us, &mut asker), None);
}

#[test]
fn who_can_be_called_has_no_mail() {
    let (mut us, mut others, last) = with_one_that_only_calls(3);
    pushed(&mut us, &others[0], ask(&last, &others[0], 7));
    pushed(&mut us, &last, CheckedPush { words: vec![here(&last, [7; 16])], ..nothing() });
    assert_eq!(mail_of(&mut us, &mut others[0]), None);
    let (_, outgoing) = us.begins_with(&others[0]).expect("it is called");
    assert!(matches!(outgoing.request, Request::Push(push) if push.words.len() == 1));
    // Who calls no more is tried, and not waited for.
    us.jobs.clear();
    us.wait(3 * TICK_MS);
    assert!(!us.node.takes_mail(&last.id, us.now));
    pushed(&mut us, &others[1], ask(&last, &others[1], 8));
    assert!(us.begins_with(&last).is_some());
}

/// Whoever asks a hundred things makes others no more work than whoever asks a few.
#[test]
fn mail_is_bounded() {
    let (mut us, _, mut asker, mut last) = with_two_that_only_call(3);
    for number in 0..100 {
        pushed(&mut us, &asker, ask(&last, &asker, number));
    }
    let asks = mail_of(&mut us, &mut last).unwrap().asks;
    assert_eq!(asks.len(), ASKS_MAX);
    for challenge in (0..100).map(|number| [number; 16]) {
        pushed(&mut us, &last, CheckedPush { words: vec![here(&last, challenge)], ..nothing() });
    }
    assert_eq!(mail_of(&mut us, &mut asker).unwrap().words.len(), WORDS_MAX);
    assert!(us.node.probing.favours.len() <= 16);
}

/// It can't be told by a push, and its silence alone tells those nothing that never hear it.
#[test]
fn who_only_calls_hears_who_is_lost_and_that_it_is_accused() {
    let (mut us, others, mut last) = with_one_that_only_calls(4);
    let gone = &others[0];
    let fingerprint = us.peer(gone).version().fingerprint;
    let until = us.now.mono_ms + 500;
    let peer = us.node.peers.get_mut(&gone.id).unwrap();
    peer.status = PeerStatus::Suspect;
    peer.watch.accused = Some(Accused { until, ..Accused::silent(fingerprint) });
    assert_eq!(mail_of(&mut us, &mut last), None, "it has its time to refute it");
    us.goes_on(600);
    assert_eq!(us.peer(gone).status, PeerStatus::Lost);
    let lost = Suspected { node_id: gone.id.clone(), fingerprint };
    let mail = mail_of(&mut us, &mut last).expect("it is told");
    assert_eq!(mail.suspects, [lost]);
    us.node.probing.is_cut_off = true;
    assert_eq!(mail_of(&mut us, &mut last), None, "who hears nobody accuses nobody");
    us.node.probing.is_cut_off = false;
    for _ in 0..3 {
        us.tick();
        mail_of(&mut us, &mut last);
    }
    assert_eq!(mail_of(&mut us, &mut last), None, "it is old");
    // Somebody else misses it; here it is heard, and has to hear of that all the same.
    let fingerprint = us.peer(&last).version().fingerprint;
    pushed(&mut us, &others[1], super::suspicion::accused(&last, fingerprint));
    let mail = mail_of(&mut us, &mut last).expect("it is told");
    assert_eq!(mail.suspects, [Suspected { node_id: last.id.clone(), fingerprint }]);
    assert_eq!(us.peer(&last).status, PeerStatus::Alive);
    let mut told = 0;
    for _ in 0..100 {
        us.goes_on(100);
        told += usize::from(mail_of(&mut us, &mut last).is_some());
    }
    assert!((55..=65).contains(&told), "for two ticks: {told}");
}

/// A question for us comes with the answer to our own call, and goes back with a push.
#[test]
fn who_only_calls_signs_what_it_is_asked_and_believes_what_it_asked_for() {
    let (mut us, others, far) = with_a_silent_one(4);
    let hub = &others[0];
    us.jobs.clear();
    let asks = Mail { asks: vec![[5; 16], [6; 16]], ..Mail::default() };
    us.node.peers.get_mut(&hub.id).unwrap().owed.ping = true;
    us.goes_on(100);
    let (mut said, mut mail) = (Vec::new(), Some(asks));
    us.answer_all(hub, |request| match request {
        Request::Ping(_) => {
            let pong = Pong { view: [0; 16], twin: None, mail: Some(mail.take()?) };
            Some(Outcome::Pong(signed(pong, hub.key), Vec::new()))
        }
        Request::Push(push) => {
            said.extend(push.words.clone());
            None
        }
        _ => None,
    });
    let word = |challenge| Word { about: id("us"), challenge, signature: None };
    assert_eq!(said, [word([5; 16]), word([6; 16])], "signed where it is sealed");

    // One that it can't call is there, by a word under its own challenge.
    let lost = us.node.peers.get_mut(&far.id).unwrap();
    super::super::suspicion::lose(&far.id, lost, &mut Vec::new());
    let mut actions = Vec::new();
    us.node.seek(&far.id, Some(&hub.id), us.now, &mut actions);
    us.take_actions(actions);
    us.serve(hub);
    let asked = us.peer(&far).watch.asked().find(|asked| asked.helper == hub.id);
    let challenge = asked.expect("who says so is asked").challenge;
    brings(hub, &mut us, Mail::default(), vec![here(&far, [1; 16])]);
    assert_eq!(us.peer(&far).status, PeerStatus::Lost, "nobody asked that");
    brings(hub, &mut us, Mail::default(), vec![here(&far, challenge)]);
    assert_eq!(us.peer(&far).status, PeerStatus::Alive);

    // And it is gone, by the word of the one that would hear it.
    let fingerprint = us.peer(&far).version().fingerprint;
    let suspects = vec![Suspected { node_id: far.id.clone(), fingerprint }];
    brings(hub, &mut us, Mail { suspects, ..Mail::default() }, Vec::new());
    live(&mut us, 4_000, &others, &far);
    assert_eq!(us.peer(&far).status, PeerStatus::Lost);
}

/// All that comes of a doubt waits for two calls.
#[test]
fn who_only_calls_gives_others_that_do_their_time() {
    let (mut us, others, far) = with_a_silent_one(4);
    let usual = us.node.times().stage;
    let wait = us.node.far_wait(us.now);
    let peer = us.node.peers.get_mut(&far.id).unwrap();
    peer.watch.far.came_to_nothing(wait, 60_000);
    peer.contact.came_to_nothing(wait, 60_000);
    assert_eq!(us.node.step_ms(&far.id, usual, us.now), usual, "somebody called");
    us.wait(3 * TICK_MS);
    assert_eq!(us.node.step_ms(&far.id, usual, us.now), 3 * TICK_MS);
    let near = us.node.step_ms(&others[0].id, usual, us.now);
    assert!(near > TICK_MS && near < 2 * TICK_MS, "until the next call of those that are asked");
    assert_eq!(us.node.step_ms(&far.id, 60_000, us.now), 60_000);
}

/// Whoever can't be called is not called back each time that it calls: that may take five seconds.
#[test]
fn who_was_called_in_vain_often_is_called_back_rarely() {
    let (mut us, others, mut last) = with_one_that_only_calls(3);
    us.node.peers.get_mut(&last.id).unwrap().link.connected = false;
    let mut calls = |us: &mut Us, ms: u64| {
        let mut count = 0;
        for round in 0..ms / 100 {
            us.goes_on(100);
            others.iter().for_each(|other| assert!(us.serve(other) < 100));
            if round % 10 == 0 {
                mail_of(us, &mut last);
            }
            us.answer_all(&last, |_| {
                count += 1;
                Some(Outcome::Failed("no answer in time".into()))
            });
        }
        count
    };
    let first = calls(&mut us, 20_000);
    calls(&mut us, 60_000);
    let later = calls(&mut us, 120_000);
    assert!(first >= 5, "{first} calls in the first 20 s");
    assert!((3..=40).contains(&later), "{later} calls in two minutes");
    assert_eq!(us.peer(&last).status, PeerStatus::Alive);
    // Once it is back after it was lost, it is tried at once.
    let lost = us.node.peers.get_mut(&last.id).unwrap();
    super::super::suspicion::lose(&last.id, lost, &mut Vec::new());
    us.wait(100);
    us.jobs.clear();
    us.node.peers.get_mut(&last.id).unwrap().flight = None;
    let joined = |event: &Action| matches!(event, Action::Tell(Event::Joined { .. }));
    last.number = us.now.wall_us;
    let header = us.header(&mut last);
    let ping = signed(Ping { header, view: us.node.view.hash() }, last.key);
    let (_, actions) = us.node.on_request(Incoming::Ping(ping), last.caller(), us.now);
    assert!(actions.iter().any(joined));
    us.take_actions(actions);
    assert!(us.begins_with(&last).is_some());
}

/// Some of those that are alive here never will answer this node itself.
#[test]
fn whoever_waits_for_peers_has_others_asked_about_those_that_can_not_be_called() {
    let (mut us, others, far) = with_a_silent_one(6);
    let wait = Wait { now_ms: us.now.mono_ms, tick_ms: TICK_MS, roll: 0.5 };
    // Not for the first time: else it would be in doubt.
    for _ in 0..2 {
        us.node.peers.get_mut(&far.id).unwrap().contact.came_to_nothing(wait, 30_000);
    }
    us.wait(1_000);
    let since = us.now.mono_ms;
    let ask = |us: &mut Us| {
        let actions = us.node.ask_the_living(since, us.now);
        us.take_actions(actions);
        let mut asks = Vec::new();
        for other in &others {
            us.answer_all(other, |request| {
                if let Request::Push(push) = request {
                    asks.extend(push.asks.iter().filter(|ask| ask.about == far.id).cloned());
                }
                None
            });
        }
        us.answer_all(&far, |_| Some(Outcome::Failed("nobody listens there".into())));
        asks
    };
    let asks = ask(&mut us);
    assert!((3..=4).contains(&asks.len()), "{asks:?}");
    assert_eq!((ask(&mut us), us.node.heard_since(since)), (vec![], 5), "others have their time");
    let words = vec![here(&far, asks[0].challenge)];
    pushed(&mut us, &others[0], CheckedPush { words, ..nothing() });
    assert_eq!(us.node.heard_since(since), 6);
    us.wait(4 * TICK_MS);
    assert_eq!(ask(&mut us), [], "it has answered");
}

/// More than fit into one answer go in several.
#[test]
fn all_words_are_told_in_their_time() {
    let (mut us, _, mut asker, mut last) = with_two_that_only_call(3);
    for number in 0..12 {
        pushed(&mut us, &asker, ask(&last, &asker, number));
    }
    for challenge in (0..12).map(|number| [number; 16]) {
        pushed(&mut us, &last, CheckedPush { words: vec![here(&last, challenge)], ..nothing() });
    }
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..20 {
        us.goes_on(100);
        mail_of(&mut us, &mut last);
        if let Some(mail) = mail_of(&mut us, &mut asker) {
            told.extend(mail.words.iter().map(|word| word.challenge[0]));
        }
    }
    assert_eq!(told.len(), 12, "{told:?}");
}

/// What waits for a call is brought where one can be called again; else it would be said that it
/// was tried in vain.
#[test]
fn what_waits_for_a_call_is_brought_to_who_can_be_called_again() {
    let (mut us, _, asker, last) = with_two_that_only_call(3);
    pushed(&mut us, &asker, ask(&last, &asker, 7));
    let brought = |us: &mut Us, other: &Other| {
        // It is reached again: a PING says so.
        let peer = us.node.peers.get_mut(&other.id).unwrap();
        (peer.owed.ping, peer.upkeep, peer.link.connected) = (true, 0, true);
        us.goes_on(100);
        let mut pushes = Vec::new();
        us.answer_all(other, |request| {
            if let Request::Push(push) = request {
                pushes.push((push.asks.len(), push.words.len()));
            }
            None
        });
        pushes
    };
    assert!(brought(&mut us, &last).contains(&(1, 0)), "the question");
    assert_eq!(us.node.probing.kept.len(), 1, "its answer waits for the asker");
    assert!(brought(&mut us, &asker).contains(&(0, 1)), "the answer");
    assert_eq!(us.node.probing.kept.len() + us.node.probing.favours.len(), 0);
}

#[test]
fn words_that_wait_take_no_place_of_questions() {
    let (mut us, others, asker, last) = with_two_that_only_call(4);
    us.jobs.clear();
    for number in 0..40 {
        pushed(&mut us, &asker, ask(&last, &asker, number));
        let words = vec![here(&last, [number; 16])];
        pushed(&mut us, &last, CheckedPush { words, ..nothing() });
    }
    assert_eq!(us.node.probing.kept.len(), 16, "of one asker");
    us.jobs.clear();
    pushed(&mut us, &others[0], ask(&others[1], &others[0], 99));
    assert!(us.begins_with(&others[1]).is_some());
}

/// One that is called says at each PING that another one is lost, which all honest ones reach.
#[test]
fn a_liar_hides_nobody_that_others_reach() {
    let (mut us, others, far) = with_a_silent_one(5);
    let (liar, hub) = (&others[0], &others[1]);
    us.jobs.clear();
    let wait = us.node.far_wait(us.now);
    let peer = us.node.peers.get_mut(&far.id).unwrap();
    peer.contact.came_to_nothing(wait, 60_000);
    peer.watch.far.came_to_nothing(wait, 60_000);
    peer.watch.vouched_at = Some(us.now.mono_ms);
    let fingerprint = us.peer(&far).version().fingerprint;
    let suspects = vec![Suspected { node_id: far.id.clone(), fingerprint }];
    let lie = Mail { suspects, ..Mail::default() };
    let (mut asks, mut heard) = (Vec::new(), 0);
    for round in 0..3_000 {
        us.goes_on(100);
        for other in others.iter().skip(1) {
            us.answer_all(other, |request| {
                if let Request::Push(push) = request {
                    let about = push.asks.iter().filter(|ask| ask.about == far.id);
                    asks.extend(about.cloned());
                }
                None
            });
        }
        heard += asks.len();
        for ask in asks.drain(..) {
            let words = vec![here(&far, ask.challenge)];
            pushed(&mut us, hub, CheckedPush { words, ..nothing() });
        }
        us.answer_all(&far, |_| Some(Outcome::Failed("nobody listens there".into())));
        us.answer_all(liar, |request| {
            let is_ping = matches!(request, Request::Ping(_));
            let pong = Pong { view: [0; 16], twin: None, mail: Some(lie.clone()) };
            is_ping.then(|| Outcome::Pong(signed(pong, liar.key), Vec::new()))
        });
        assert_ne!(us.peer(&far).status, PeerStatus::Lost, "{round}");
    }
    assert!(heard <= 500, "{heard} questions in five minutes");
}

/// Where all that were asked say so, it is gone; nobody waits for more.
#[test]
fn one_that_only_calls_is_lost_once_all_tried_it_in_vain() {
    let (mut us, others, far) = with_a_silent_one(4);
    us.jobs.clear();
    let pass = |us: &mut Us, ms: u64| {
        for _ in 0..ms / 100 {
            us.goes_on(100);
            others.iter().for_each(|other| assert!(us.serve(other) < 100));
            us.answer_all(&far, |_| Some(Outcome::Failed("nobody listens there".into())));
        }
    };
    // Nobody calls it.
    pass(&mut us, 7_000);
    let wait = us.node.far_wait(us.now);
    let peer = us.node.peers.get_mut(&far.id).unwrap();
    peer.contact.came_to_nothing(wait, 60_000);
    peer.watch.far.came_to_nothing(wait, 60_000);
    (peer.status, peer.watch.accused, peer.watch.accused_at) = (PeerStatus::Alive, None, None);
    let fingerprint = us.peer(&far).version().fingerprint;
    let suspects = vec![Suspected { node_id: far.id.clone(), fingerprint }];
    brings(&others[0], &mut us, Mail { suspects, ..Mail::default() }, Vec::new());
    let asked: Vec<_> = us.peer(&far).watch.asked().map(|asked| asked.challenge).collect();
    assert_eq!(asked.len(), 3);
    pass(&mut us, 4_000);
    for (number, challenge) in asked.into_iter().enumerate() {
        let is_there = us.peer(&far).status != PeerStatus::Lost;
        assert!(is_there, "{number} of three said something");
        let words = vec![CheckedWord::InVain(far.id.clone(), challenge)];
        brings(&others[0], &mut us, Mail::default(), words);
    }
    assert_eq!(us.peer(&far).status, PeerStatus::Lost);
}

/// A member that answers each PING with questions would have a push for each.
#[test]
fn questions_by_mail_are_answered_twice_a_tick_at_most() {
    let (mut us, others, _) = with_a_silent_one(3);
    let hub = &others[0];
    let mut pushes = 0;
    for round in 0..300_u16 {
        let [low, high] = round.to_le_bytes();
        let asks = (0..8).map(|number| [number, low, high].repeat(6)[..16].try_into().unwrap());
        let mail = Mail { asks: asks.collect(), ..Mail::default() };
        us.node.peers.get_mut(&hub.id).unwrap().upkeep = 0;
        us.node.peers.get_mut(&hub.id).unwrap().owed.ping = true;
        us.goes_on(100);
        us.answer_all(hub, |request| match request {
            Request::Push(push) => {
                pushes += usize::from(!push.words.is_empty());
                None
            }
            Request::Ping(_) => {
                let pong = Pong { view: [0; 16], twin: None, mail: Some(mail.clone()) };
                Some(Outcome::Pong(signed(pong, hub.key), Vec::new()))
            }
            _ => None,
        });
    }
    assert!((15..=21).contains(&pushes), "{pushes} in ten ticks");
}

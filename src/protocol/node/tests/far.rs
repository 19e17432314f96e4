//! Who is there and can't be called from here: who is asked about it, how often, and what is said
//! of it.

use super::suspicion::{accused, here, live, pushed, with_a_silent_one};
use super::*;
use crate::protocol::doubt::Accused;
use crate::protocol::node::Republish;
use crate::protocol::report::PeerStatus;
use crate::protocol::rings::position;
use crate::protocol::wire::Ask;

/// So many others, and one that can't be called: the next one on the ring, or not.
fn with_a_far_one(count: u8, is_next: bool) -> (Us, Vec<Other>, Other) {
    let (us, mut others, last) = with_a_silent_one(count);
    others.push(last);
    let own = position(&id("us"));
    others.sort_by_key(|other| position(&other.id).wrapping_sub(own));
    let far = others.remove(if is_next { 0 } else { usize::from(count) / 2 });
    (us, others, far)
}

/// Time goes on, and whoever is asked about the far one has its word; gives whom was asked when.
fn vouched(us: &mut Us, ms: u64, others: &mut [Other], far: &Other) -> Vec<u64> {
    let mut asked_at = Vec::new();
    for _ in 0..ms / 100 {
        let (asks, told) = live(us, 100, others, far);
        assert_eq!(told, [], "nobody is accused");
        for ask in asks {
            asked_at.push(us.now.mono_ms);
            let words = vec![here(far, ask.challenge)];
            pushed(us, &others[0].clone(), CheckedPush { words, ..nothing() });
        }
        // They call: so this node knows that it can be called.
        others[1].number = us.now.wall_us;
        us.is_pinged_by(&mut others[1]);
        assert_eq!(us.peer(far).status, PeerStatus::Alive);
    }
    asked_at
}

#[test]
fn who_can_not_be_called_is_asked_about_ever_more_rarely_and_one_alone() {
    let (mut us, mut others, far) = with_a_far_one(8, false);
    vouched(&mut us, 20_000, &mut others, &far);
    let asked_at = vouched(&mut us, 60 * 60_000, &mut others, &far);
    assert!((60..=125).contains(&asked_at.len()), "{} times in an hour", asked_at.len());
    assert!(us.peer(&far).watch.via.is_some());
    let text = us.degraded().join("\n");
    assert!(text.contains("can be reached by others but not from here"), "{text}");
    // It answers again: all is as ever.
    us.wait(31_000);
    us.is_joined_by(&mut far.clone());
    us.serve(&far);
    let watch = &us.peer(&far).watch;
    assert!(watch.via.is_none() && !watch.far.is_failing());
    assert_eq!(us.degraded(), Vec::<String>::new());
}

/// Nobody else looks after it as often.
#[test]
fn the_next_one_on_the_ring_is_asked_about_as_often_as_it_would_be_called() {
    let (mut us, mut others, far) = with_a_far_one(8, true);
    vouched(&mut us, 30_000, &mut others, &far);
    let asked_at = vouched(&mut us, 60_000, &mut others, &far);
    assert!((25..=40).contains(&asked_at.len()), "{asked_at:?}");
    // It is gone.
    let (asks, told) = live(&mut us, 8_000, &others, &far);
    assert!(asks.len() >= 6, "others are asked, too");
    assert_eq!(told.len(), 7, "all are told");
    // What failed when it fell silent makes this node patient.
    live(&mut us, 8 * TICK_MS, &others, &far);
    assert_eq!(us.peer(&far).status, PeerStatus::Lost);
    assert!(us.peer(&far).watch.far.is_due(us.now.mono_ms), "it is sought at once");
}

/// Who said that it would tell us is not there any more.
#[test]
fn where_the_helper_is_gone_nobody_waits() {
    let (mut us, mut others, far) = with_a_far_one(8, false);
    vouched(&mut us, 120_000, &mut others, &far);
    while us.peer(&far).unsure_for(us.now.mono_ms) <= 2 * TICK_MS {
        vouched(&mut us, 100, &mut others, &far);
    }
    let peer = us.node.peers.get_mut(&far.id).unwrap();
    assert!(!peer.watch.far.is_due(us.now.mono_ms));
    let (via, _) = peer.watch.via.clone().unwrap();
    us.node.peers.get_mut(&via).unwrap().link.incarnation = Some(Incarnation([77; 16]));
    let (asks, _) = live(&mut us, 500, &others, &far);
    assert!(!asks.is_empty());
}

#[test]
fn who_asked_about_one_hears_that_it_is_accused() {
    let (mut us, others, far) = with_a_silent_one(4);
    let about = far.id.clone();
    let asks = vec![Ask { about, asker: others[0].id.clone(), challenge: [9; 16] }];
    pushed(&mut us, &others[0], CheckedPush { asks, ..nothing() });
    live(&mut us, 500, &others, &far);
    us.jobs.clear();
    us.node.peers.get_mut(&far.id).unwrap().watch.doubt = None;
    let held = us.peer(&far).version().fingerprint;
    pushed(&mut us, &others[1], accused(&far, held));
    let (_, told) = live(&mut us, 1_500, &others, &far);
    assert_eq!(told, [far.id], "the one that asked, and nobody else");
}

/// What this node alone thinks is no accusation.
#[test]
fn whoever_is_suspected_by_silence_alone_is_told_to_nobody() {
    let (mut us, others, far) = with_a_silent_one(4);
    us.node.note_asker(&far.id, &others[0].id, us.now);
    let fingerprint = us.peer(&far).version().fingerprint;
    let until = us.now.mono_ms + 60_000;
    let accused = Accused { until, ..Accused::silent(fingerprint) };
    us.node.peers.get_mut(&far.id).unwrap().watch.accused = Some(accused);
    let (_, told) = live(&mut us, 1_000, &others, &far);
    assert_eq!(us.peer(&far).status, PeerStatus::Suspect);
    assert_eq!(told, []);
}

#[test]
fn asks_for_made_up_names_push_out_nobody() {
    let (mut us, others, far) = with_a_silent_one(4);
    us.node.note_asker(&far.id, &others[0].id, us.now);
    for number in 0..2_000 {
        us.node.note_asker(&id(&format!("made{number}")), &others[1].id, us.now);
    }
    assert_eq!(us.node.probing.askers.len(), 1);
}

/// Others call it first, each time.
#[test]
fn who_made_no_calls_can_call_others() {
    let (mut us, mut others) = connected(1);
    for _ in 0..30 {
        us.wait(1_000);
        us.is_pinged_by(&mut others[0]);
    }
    assert!(!us.node.calls_nobody(us.now));
    us.node.note_in_vain(us.now);
    us.wait(3 * TICK_MS);
    us.is_pinged_by(&mut others[0]);
    assert!(us.node.calls_nobody(us.now));
}

/// In a small network each sees for itself who is lost: but it may be that it alone can't see it.
#[test]
fn one_that_is_lost_here_and_listed_as_there_is_sought() {
    let (mut us, mut others, far) = with_a_silent_one(6);
    let lost = us.node.peers.get_mut(&far.id).unwrap();
    super::super::suspicion::lose(&far.id, lost, &mut Vec::new());
    let known = far.known(WALL_US, "alive");
    let lists = |us: &mut Us| {
        let answer = PeersAnswer { buckets: BucketSet(u32::MAX), nodes: vec![known.clone()] };
        let mut actions = Vec::new();
        us.node.compare(&id("other0"), answer, us.now, &mut actions);
        us.take_actions(actions);
    };
    lists(&mut us);
    let (asks, _) = live(&mut us, 300, &others, &far);
    let first = crate::protocol::doubt::FIRST_ASKED;
    assert!((first..=first + 1).contains(&asks.len()), "some, and who says so: {asks:?}");
    lists(&mut us);
    let (more, _) = live(&mut us, 300, &others, &far);
    assert_eq!(more.len(), 0, "not again at once, whoever says so");
    let words = vec![here(&far, asks[0].challenge)];
    pushed(&mut us, &others.remove(0), CheckedPush { words, ..nothing() });
    assert_eq!(us.peer(&far).status, PeerStatus::Alive);
}

/// A firewall on this host keeps it from calling out: each of the others calls in turn.
#[test]
fn who_can_call_nobody_takes_none_for_lost_that_calls_as_rarely_as_it_uses_to() {
    let (mut us, mut others) = connected(5);
    for other in &others {
        us.is_brought(other, &[&other.record(WALL_US, "alive")]);
    }
    us.jobs.clear();
    let gone = 4;
    let mut lost_at = None;
    for round in 0..4_000 {
        us.goes_on(100);
        for other in &others {
            us.answer_all(other, |_| Some(Outcome::Failed("no route".into())));
        }
        // Each 15 s; one of them dies after 200 s.
        let caller = round / 30 % 5;
        if round % 30 == 0 && (caller != gone || round < 2_000) {
            others[caller].number = us.now.wall_us;
            us.is_pinged_by(&mut others[caller]);
        }
        let status = |other: usize| us.peer(&others[other]).status;
        let there = (0..5).filter(|other| *other != gone || round < 2_000);
        // When it begins it may be that all others are gone.
        let is_well = round < 500 || there.into_iter().all(|it| status(it) == PeerStatus::Alive);
        assert!(is_well, "{round}");
        if round >= 500 && status(gone) == PeerStatus::Lost {
            lost_at.get_or_insert(round);
        }
    }
    assert!(lost_at.is_some_and(|round| (2_100..2_600).contains(&round)), "{lost_at:?}");
    let text = us.degraded().join("\n");
    assert!(text.contains("other0 can be heard but not called"), "{text}");
}

/// All others are behind a firewall, and call this one: as soon as ever.
#[test]
fn who_can_call_none_of_those_that_call_it_all_the_time_misses_one_soon() {
    let (mut us, mut others) = connected(3);
    us.jobs.clear();
    for round in 0..1_300 {
        us.goes_on(100);
        for other in &others {
            us.answer_all(other, |_| Some(Outcome::Failed("no route".into())));
        }
        let count = if round < 800 { 3 } else { 2 };
        for other in others.iter_mut().take(count).filter(|_| round % 30 == 0) {
            other.number = us.now.wall_us;
            us.is_pinged_by(other);
        }
    }
    let all: Vec<PeerStatus> = others.iter().map(|other| us.peer(other).status).collect();
    assert_eq!(all, [PeerStatus::Alive, PeerStatus::Alive, PeerStatus::Lost]);
}

#[test]
fn who_is_called_by_nobody_is_told_so() {
    let (mut us, others) = connected(6);
    for _ in 0..400 {
        us.goes_on(100);
        for other in &others {
            us.serve(other);
        }
    }
    let text = us.degraded().join("\n");
    assert!(text.contains("no other node calls this one") && text.contains("10.0.0.99"), "{text}");
    let mut caller = others[0].clone();
    caller.number = us.now.wall_us;
    us.is_pinged_by(&mut caller);
    assert_eq!(us.degraded(), Vec::<String>::new());
}

/// Nobody can call it, so no accusation comes: it sees in a list that it is lost.
#[test]
fn who_is_listed_as_lost_refutes_it_ever_more_rarely() {
    let (mut us, others) = connected(3);
    us.sets("at home");
    us.node.take_disk_wishes();
    let lists = |us: &mut Us| {
        let version = us.node.own().version();
        let (node_id, rank) = (id("us"), key(OUR_KEY).rank_for(&id("us")));
        let nodes = vec![KnownNode { node_id, address: None, rank, version, is_lost: true }];
        let answer = PeersAnswer { buckets: BucketSet(u32::MAX), nodes };
        us.node.compare(&others[0].id, answer, us.now, &mut Vec::new());
        us.node.take_disk_wishes().republish
    };
    assert_eq!(lists(&mut us), None, "in a small network it is called, or calls");
    us.node.settings.mesh_max = 1;
    us.node.count_members();
    let mut refuted = 0;
    for _ in 0..600 {
        us.wait(1_000);
        if lists(&mut us) == Some(Republish::Unwritten) {
            refuted += 1;
            us.sets(&format!("{refuted}"));
        }
    }
    assert!((10..=20).contains(&refuted), "{refuted} in ten minutes");
}

/// Each of many calls it in turn, more rarely than a few would.
#[test]
fn who_can_call_nobody_knows_how_long_all_others_take_to_call_it() {
    let (mut us, mut others) = connected(31);
    us.jobs.clear();
    for round in 0..1_200 {
        us.goes_on(100);
        for other in &others {
            us.answer_all(other, |_| Some(Outcome::Failed("no route".into())));
        }
        // Two thirds of a tick for each of 31.
        if round % 20 == 0 {
            let caller = &mut others[round / 20 % 31];
            caller.number = us.now.wall_us;
            us.is_pinged_by(caller);
        }
        let lost = others.iter().filter(|other| us.peer(other).status != PeerStatus::Alive);
        assert!(round < 640 || lost.count() == 0, "{round}");
    }
}

/// Where nothing can be called, each call that fails says the same again.
#[test]
fn who_can_call_nobody_trusts_itself_again_soon() {
    let (mut us, mut others) = connected(2);
    (0..10).for_each(|_| us.node.probing.health.note(true));
    let slow = us.node.times().answer;
    us.node.probing.in_vain_since = Some(us.now.mono_ms);
    for _ in 0..20 {
        us.tick();
        for other in &mut others {
            other.number = us.now.wall_us;
            us.is_pinged_by(other);
        }
        us.jobs.clear();
    }
    assert!(us.node.calls_nobody(us.now));
    assert_eq!(us.node.times().answer * 8, slow);
}

/// Which of the others are asked for a list in so many ticks.
fn asked_for_hints(us: &mut Us, others: &[Other], ticks: u64) -> Vec<NodeId> {
    let mut asked = Vec::new();
    for _ in 0..ticks {
        us.tick();
        for other in others {
            let owed = &mut us.node.peers.get_mut(&other.id).unwrap().owed;
            if std::mem::take(&mut owed.hints) {
                asked.push(other.id.clone());
            }
        }
        us.jobs.clear();
    }
    asked
}

/// A bridge between two halves that was gone, and all that was heard by it with it.
#[test]
fn whoever_came_last_is_asked_by_every_second_list_where_the_missed_are() {
    let (mut us, others, far) = with_a_silent_one(10);
    let known = [(&far, WALL_US), (&others[4], 0)];
    for (other, since) in known {
        us.node.peers.get_mut(&other.id).unwrap().link.run_since = since;
    }
    us.node.peers.get_mut(&others[6].id).unwrap().link.run_since = us.now.mono_ms + 1;
    let lost = us.node.peers.get_mut(&far.id).unwrap();
    super::super::suspicion::lose(&far.id, lost, &mut Vec::new());
    let asked = asked_for_hints(&mut us, &others, 40);
    assert_eq!(asked.len(), 20, "every second tick");
    let last = asked.iter().filter(|id| **id == others[6].id).count();
    assert!((10..=15).contains(&last), "{asked:?}");
    // It was never heard here, others reached it: a while ago, or a moment ago.
    us.wait(20 * 60 * 1_000);
    us.node.peers.get_mut(&far.id).unwrap().heard_at = None;
    assert_eq!(asked_for_hints(&mut us, &others, 40).len(), 4, "every tenth");
    us.node.peers.get_mut(&far.id).unwrap().watch.vouched_at = Some(us.now.mono_ms);
    assert_eq!(asked_for_hints(&mut us, &others, 40).len(), 20);
}

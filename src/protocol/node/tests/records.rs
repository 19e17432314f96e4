//! Versions of others' states: what is taken, and what never comes back.

use super::*;
use crate::protocol::RETENTION_MS;
use crate::protocol::fault::Code;
use crate::protocol::node::Republish;
use crate::protocol::peer::{Known, Trust};
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::KnownNode;

/// It was news when it was looked at; until its signature was checked a newer one came.
#[test]
fn what_is_no_news_any_more_is_not_applied() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    us.is_brought(&other, &[&other.record(5, "five")]);
    let reply = us.is_brought_checked(&other, vec![other.record(4, "four")], Vec::new());
    assert_eq!(reason_of(&reply), Some(Reason::Stale));
    assert_eq!(us.shows(&other.id).unwrap(), "five");
}

#[test]
fn nothing_of_a_forgotten_node_is_good_again_but_what_it_says_now() {
    let (mut us, mut victim, third) = (Us::new(), Other::new("victim", 2), Other::new("third", 3));
    us.is_joined_by(&mut victim);
    us.is_brought(&victim, &[&victim.record(5, "five")]);
    assert!(matches!(us.is_sent(&mut victim, 9).verdict, Verdict::Answer(_)));
    let before = victim.clone();
    us.forgets(&victim);
    assert_eq!(us.shows(&victim.id), None);

    // The same bytes again, of the same session of ours.
    let reply = us.is_shown(&before, before.session, before.number);
    assert!(matches!(reply.verdict, Verdict::Answer(_)), "another session has to be named");
    assert_eq!(reply.caller, None);
    assert_eq!(reason_of(&us.is_sent(&mut before.clone(), 9)), Some(Reason::UnknownSender));
    let reply = us.is_brought(&third, &[&victim.record(5, "five")]);
    assert_eq!(reason_of(&reply), Some(Reason::Forgotten));
    assert!(us.node.peers.get(&victim.id).is_none() && us.shows(&victim.id).is_none());

    // It says HELLO itself. What is older than what was held here stays worth nothing.
    us.is_joined_by(&mut victim);
    assert_ne!(victim.session, before.session);
    assert_eq!(reason_of(&us.is_sent(&mut before.clone(), 9)), Some(Reason::WrongSession));
    let reply = us.is_brought(&third, &[&victim.record(4, "four")]);
    assert_eq!(reason_of(&reply), Some(Reason::Stale));
    assert_eq!(us.shows(&victim.id), None);
    us.is_brought(&victim, &[&victim.record(5, "five")]);
    assert_eq!(us.shows(&victim.id).unwrap(), "five");
}

#[test]
fn a_forgotten_node_has_another_key_when_it_says_so() {
    let (mut us, mut victim) = (Us::new(), Other::new("victim", 2));
    us.is_joined_by(&mut victim);
    let mut anew = Other::new("victim", 3);
    anew.session = us.is_greeted(&anew);
    let number = anew.next_number();
    let reply = us.is_shown(&anew, anew.session, number);
    assert_eq!(reason_of(&reply), Some(Reason::OtherKey));
    us.forgets(&victim);
    us.is_joined_by(&mut anew);
    assert_eq!(us.peer(&anew).direct_key(), Some(anew.key));
}

#[test]
fn what_others_say_of_a_forgotten_node_does_not_bring_it_back() {
    let (mut us, mut victim, mut third) =
        (Us::new(), Other::new("victim", 2), Other::new("third", 3));
    us.is_joined_by(&mut victim);
    us.is_connected_with(&mut third);
    us.forgets(&victim);
    let known = KnownNode {
        node_id: victim.id.clone(),
        address: Some(victim.place()),
        rank: victim.key.rank_for(&victim.id),
        version: victim.record(5, "five").version(),
        is_lost: false,
    };
    let answer = PeersAnswer { buckets: BucketSet(0), nodes: vec![known] };
    let follows = us.node.compare(&third.id, answer, us.now, &mut Vec::new());
    assert!(!follows, "nobody asks for what would be refused");
    assert!(us.node.peers.get(&victim.id).is_none(), "it is no peer again");
}

#[test]
fn what_is_forgotten_is_kept_over_a_restart() {
    let (mut us, mut victim) = (Us::new(), Other::new("victim", 2));
    us.is_joined_by(&mut victim);
    us.forgets(&victim);
    let known = us.node.known_peers();
    assert!(matches!(&known[..], [KnownPeer { known: Known::Forgotten { .. }, .. }]));
    let mut us = Us::with(|_| {}, known);
    let reply = us.is_brought(&Other::new("third", 3), &[&victim.record(5, "five")]);
    assert_eq!(reason_of(&reply), Some(Reason::Forgotten));
    us.is_joined_by(&mut victim);
    assert!(us.node.known_peers().iter().all(|it| !matches!(it.known, Known::Forgotten { .. })));
}

/// Whoever makes up names pushes others out of the table, and no more than that.
#[test]
fn who_had_to_make_room_keeps_its_key_and_its_floor() {
    let (mut us, mut victim, third) = (Us::new(), Other::new("victim", 2), Other::new("third", 3));
    us.is_joined_by(&mut victim);
    us.is_brought(&victim, &[&victim.record(5, "five")]);
    let before = victim.clone();
    us.node.bury(&victim.id, "its place was needed", us.now, &mut Vec::new());
    let mut thief = Other::new("victim", 4);
    thief.session = us.is_greeted(&thief);
    let number = thief.next_number();
    let reply = us.is_shown(&thief, thief.session, number);
    assert_eq!(reason_of(&reply), Some(Reason::OtherKey), "a name is not free for that");
    let reply = us.is_brought(&third, &[&victim.record(4, "four")]);
    assert_eq!(reason_of(&reply), Some(Reason::Stale));
    let reply = us.is_shown(&before, before.session, before.number);
    assert!(matches!(reply.verdict, Verdict::Answer(_)), "its numbers begin anew: not its session");
}

#[test]
fn where_there_are_too_many_graves_all_have_to_say_hello_again() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let (before, run) = (other.session, us.node.incarnation());
    let mut actions = Vec::new();
    us.node.begin_epoch(us.now, &mut actions);
    assert_ne!(us.node.incarnation(), run, "what was brought before is for another run");
    assert_ne!(us.is_greeted(&other), before);
    assert_eq!(reason_of(&us.is_sent(&mut other, 1)), Some(Reason::WrongSession));
}

/// The state of a lost node is dropped after a week, on all nodes: none brings it back to another.
#[test]
fn what_was_dropped_for_its_age_comes_back_by_its_owner_alone() {
    let (mut us, mut other, third) = (Us::new(), Other::new("other", 2), Other::new("third", 3));
    us.is_connected_with(&mut other);
    let record = other.record(5, "five");
    us.is_brought(&other, &[&record]);
    us.wait(RETENTION_MS - TICK_MS);
    us.node.peers.get_mut(&other.id).unwrap().status = PeerStatus::Lost;
    us.tick();
    assert_eq!(us.shows(&other.id).unwrap(), "five", "not before its time");
    us.tick();
    assert_eq!(us.shows(&other.id), None);
    let reply = us.is_brought(&third, &[&record]);
    assert_eq!(reason_of(&reply), Some(Reason::Stale));
    assert_eq!(us.shows(&other.id), None);
    assert!(!us.wishes_for(&record), "nor is it asked for");
    us.is_pinged_by(&mut other);
    assert!(us.wishes_for(&record));
    us.is_brought(&other, &[&record]);
    assert_eq!(us.shows(&other.id).unwrap(), "five");
}

/// Of two keys that others told all nodes take the same one, whichever comes first.
#[test]
fn of_two_keys_that_others_told_the_one_of_lower_rank_is_believed() {
    let ghost = id("ghost");
    let (one, two) = (Other::new("ghost", 2), Other::new("ghost", 3));
    let is_lower = one.key.rank_for(&ghost) < two.key.rank_for(&ghost);
    let (low, high) = if is_lower { (one, two) } else { (two, one) };
    let by = Other::new("by", 9);
    for order in [[&low, &high], [&high, &low]] {
        let mut us = Us::new();
        for told in order {
            us.is_brought(&by, &[&told.record(5, "its own")]);
        }
        assert_eq!(us.peer(&low).pin.unwrap().key, low.key);
        assert_eq!(us.peer(&low).pin.unwrap().trust, Trust::Hearsay);
        assert!(!us.wishes_for(&high.record(6, "later")) && us.wishes_for(&low.record(6, "x")));
    }
}

/// What was said to the one, and by it, says nothing of the other.
#[test]
fn what_belongs_to_a_key_goes_with_it() {
    let (mut us, told) = (Us::new(), Other::new("x", 2));
    us.is_brought(&Other::new("by", 9), &[&told.record(5, "of another key")]);
    let link = &mut us.node.peers.get_mut(&told.id).unwrap().link;
    link.refused = true;
    link.called_at = Some(1);
    let mut proved = Other::new("x", 3);
    us.is_joined_by(&mut proved);
    assert_eq!(us.shows(&told.id), None, "what came with the other key is dropped");
    let link = &us.peer(&proved).link;
    assert!(!link.refused && link.called_at != Some(1));
}

/// Somebody else writes with our key: it is named, and not outrun for ever.
#[test]
fn a_later_version_of_ours_is_outrun_a_few_times_only() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let ours = Other::new("us", OUR_KEY);
    let mut outrun = 0;
    for _ in 0..100 {
        let later = us.node.own().head.timestamp + 1_000_000_000;
        let reply = us.is_brought(&other, &[&ours.record(later, "not here")]);
        assert_eq!(reason_of(&reply), Some(Reason::OwnRecord));
        if us.node.take_disk_wishes().republish == Some(Republish::Written) {
            outrun += 1;
            us.sets("ours");
            assert!(us.node.own().head.timestamp > later);
        }
    }
    assert_eq!(outrun, 16);
    assert!(us.degraded().join(" ").contains("goes on writing the state of us"));
    assert_eq!(us.shows(&ours.id).unwrap(), "ours", "and never believed");
}

/// A backup that was put back, or changes that were not on disk: that is told once, for a while.
#[test]
fn what_was_newer_than_our_disk_is_told() {
    for is_durable in [true, false] {
        let mut us = Us::with(|settings| settings.is_durable = is_durable, Vec::new());
        let mut other = Other::new("other", 2);
        us.is_joined_by(&mut other);
        let ours = Other::new("us", OUR_KEY);
        for _ in 0..3 {
            let later = us.node.own().head.timestamp + 1_000_000_000;
            us.is_brought(&other, &[&ours.record(later, "lost here")]);
            us.sets("ours");
        }
        let told: Vec<Code> =
            us.node.take_untold_notices().into_iter().map(|fault| fault.code).collect();
        let expected: &[Code] = if is_durable { &[Code::Restored] } else { &[] };
        assert_eq!(told, expected, "without a disk that is how each start goes");
    }
}

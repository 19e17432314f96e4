//! HELLO: what each step may change, and what is good again later.

use super::*;
use crate::protocol::node::Urgency;
use crate::protocol::peer::NUMBER_MAX;
use crate::protocol::report::CONFLICT_SHOWN_MS;

fn everything(us: &Us) -> String {
    let peers = us.node.peers(us.now);
    format!("{peers:?} {:?} {:?}", us.node.known_peers(), us.degraded())
}

/// Anybody can say it, and say it again: whoever proves nothing changes nothing.
#[test]
fn the_first_step_changes_nothing() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    us.jobs.clear();
    let before = everything(&us);
    for caller in [
        Other::new("new", 3),
        Other::new("other", 3),
        Other::new("us", 3),
        Other::new("us", OUR_KEY),
        other,
    ] {
        us.is_greeted(&caller);
        // What another one was given to name is worth no more.
        let reply = us.is_shown(&caller, Session([77; 16]), NUMBER_MAX);
        assert!(matches!(reply.verdict, Verdict::Answer(_)) && reply.caller.is_none());
        assert_eq!(everything(&us), before, "{:?}", caller.id);
    }
    assert!(us.jobs.is_empty() && us.node.take_untold_notices().is_empty());
}

/// What was wrong once is not wrong again because somebody repeats the bytes.
#[test]
fn a_refused_claim_that_is_replayed_raises_nothing() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let mut claims = Other::new("other", 3);
    claims.session = us.is_greeted(&claims);
    let number = claims.next_number();
    assert_eq!(reason_of(&us.is_shown(&claims, claims.session, number)), Some(Reason::OtherKey));
    assert_eq!(us.degraded().len(), 1);
    us.wait(CONFLICT_SHOWN_MS - 1);
    let reply = us.is_shown(&claims, claims.session, number);
    assert_eq!(reason_of(&reply), Some(Reason::ReplayedNumber));
    us.tick();
    assert_eq!(us.degraded(), Vec::<String>::new(), "it is over");
    // One of now is shown anew.
    let number = claims.next_number();
    us.is_shown(&claims, claims.session, number);
    assert_eq!(us.degraded().len(), 1);
}

/// The memory of such numbers is bounded: where it is begun anew, what was said before is for
/// another session.
#[test]
fn whoever_claims_many_names_makes_no_old_claim_good_again() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let first = Other::new("other", 3);
    let session = us.is_greeted(&first);
    assert_eq!(reason_of(&us.is_shown(&first, session, 5)), Some(Reason::OtherKey));
    for number in 4..100 {
        let claims = Other::new("other", number);
        let session = us.is_greeted(&claims);
        us.is_shown(&claims, session, 5);
    }
    let reply = us.is_shown(&first, session, 5);
    assert!(matches!(reply.verdict, Verdict::Answer(_)), "{reply:?}");
}

/// One request with the highest number of all would be the last one that is heard.
#[test]
fn a_number_leaves_room_for_higher_ones() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    for number in [0, NUMBER_MAX + 1, u64::MAX] {
        let reply = us.is_shown(&other, other.session, number);
        assert_eq!(reason_of(&reply), Some(Reason::LimitExceeded));
        let mut far = Other { number: number.wrapping_sub(1), ..other.clone() };
        assert_eq!(reason_of(&us.is_pinged_by(&mut far)), Some(Reason::LimitExceeded));
    }
    assert_eq!(us.is_pinged_by(&mut other).caller, Some(other.id.clone()));
}

/// Without it somebody else could take the name after a power cut.
#[test]
fn a_key_that_was_proved_is_to_be_kept_soon() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_greeted(&other);
    assert_eq!(us.node.take_disk_wishes().save_peers, None);
    us.is_joined_by(&mut other);
    assert_eq!(us.node.take_disk_wishes().save_peers, Some(Urgency::Soon));
    assert_eq!(us.node.take_disk_wishes().save_peers, None, "once");
}

#[test]
fn a_list_lets_nobody_else_in() {
    let listed = Other::new("listed", 2);
    let list = [(listed.id.clone(), listed.key)].into_iter().collect();
    let mut us = Us::with(|settings| settings.allow = Some(list), Vec::new());
    us.is_joined_by(&mut listed.clone());
    for mut stranger in [Other::new("listed", 3), Other::new("stranger", 4)] {
        stranger.session = us.is_greeted(&stranger);
        let number = stranger.next_number();
        let reply = us.is_shown(&stranger, stranger.session, number);
        assert_eq!(reason_of(&reply), Some(Reason::NotAllowed));
        let reply = us.is_brought(&listed, &[&stranger.record(5, "five")]);
        assert_eq!(reason_of(&reply), Some(Reason::NotAllowed));
    }
    let names = us.node.peers(us.now).into_iter().map(|peer| peer.node_id);
    assert_eq!(names.collect::<Vec<_>>(), [listed.id]);
}

/// What is in the list counts from the moment that it changes, as after a start.
#[test]
fn a_list_that_changes_drops_those_that_are_not_in_it_any_more() {
    let (mut stays, mut goes) = (Other::new("stays", 2), Other::new("goes", 3));
    let mut comes = Other::new("comes", 4);
    let list = |listed: &[&Other]| listed.iter().map(|it| (it.id.clone(), it.key)).collect();
    let first = list(&[&stays, &goes]);
    let mut us = Us::with(|settings| settings.allow = Some(first), Vec::new());
    us.is_joined_by(&mut stays);
    us.is_joined_by(&mut goes);
    us.is_brought(&goes, &[&goes.record(5, "five")]);
    comes.session = us.is_greeted(&comes);
    let number = comes.next_number();
    assert_eq!(reason_of(&us.is_shown(&comes, comes.session, number)), Some(Reason::NotAllowed));
    assert!(us.degraded().join(" ").contains("comes with key"));

    let (gone, actions) = us.node.replace_allow_list(list(&[&stays, &comes]), us.now);
    assert_eq!(gone, [goes.id.clone()]);
    let is_gone =
        |it: &Action| matches!(it, Action::Changed { node_id, .. } if *node_id == goes.id);
    assert!(actions.iter().any(is_gone), "its state is dropped");
    assert_eq!(us.node.take_disk_wishes().save_peers, Some(Urgency::Now));
    assert!(us.degraded().is_empty(), "{:?}", us.degraded());
    assert!(reason_of(&us.is_pinged_by(&mut goes)).is_some(), "its session is over");
    goes.session = us.is_greeted(&goes);
    let number = goes.next_number();
    assert_eq!(reason_of(&us.is_shown(&goes, goes.session, number)), Some(Reason::NotAllowed));
    assert_eq!(reason_of(&us.is_pinged_by(&mut stays)), None, "the others notice nothing");
    us.is_joined_by(&mut comes);
    // A name that gets another key is another node.
    let anew = Other::new("stays", 9);
    let (gone, _) = us.node.replace_allow_list(list(&[&anew, &comes]), us.now);
    assert_eq!(gone, [stays.id.clone()]);
    let (gone, _) = us.node.replace_allow_list(list(&[&anew, &comes]), us.now);
    assert_eq!(gone, [] as [NodeId; 0]);
}

/// A card that was cloned: the run that was replaced is still in use.
#[test]
fn a_run_that_was_replaced_is_named() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let mut twin = Other { incarnation: Incarnation([5; 16]), ..other.clone() };
    us.is_joined_by(&mut twin);
    other.number = twin.number;
    let reply = us.is_pinged_by(&mut other);
    assert_eq!(reason_of(&reply), Some(Reason::SupersededIncarnation));
    assert!(us.degraded().join(" ").contains("two nodes run as other with one key"));
}

/// A node ends while its answer is on its way, starts twice, and calls: the run between, which
/// nobody here heard of before, does not take the place of the last one.
#[test]
fn an_answer_that_was_on_its_way_for_long_brings_no_older_run_back() {
    let (mut us, mut others) = connected(1);
    let other = &mut others[0];
    us.jobs.clear();
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    (peer.flight, peer.link.connected, peer.owed.ping) = (None, false, true);
    peer.contact.hurry(us.now.mono_ms);
    let mut actions = Vec::new();
    us.node.poke(&other.id, us.now, &mut actions);
    us.take_actions(actions);
    let (job, outgoing) = us.begins_with(other).unwrap();
    assert!(matches!(outgoing.request, Request::Hello(_)), "{:?}", outgoing.request);
    let between = Other { incarnation: Incarnation([5; 16]), ..other.clone() };
    us.wait(1_000);
    (other.incarnation, other.given) = (Incarnation([6; 16]), Session([6; 16]));
    us.is_joined_by(other);
    us.wait(1_000);
    us.is_answered(&job, between.introduces());
    assert_eq!(us.peer(other).link.incarnation, Some(other.incarnation));
    assert!(!us.peer(other).link.superseded.contains(&other.incarnation));
}

//! Requests of callers that said HELLO: who is trusted, and what is good once only.

use super::*;
use crate::protocol::report::PeerStatus;

/// Trusted means fresh: by the number in its session, and nothing else.
#[test]
fn what_was_recorded_is_answered_to_nobody() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let before = other.clone();
    assert_eq!(us.is_pinged_by(&mut other).caller, Some(other.id.clone()));
    let reply = us.is_pinged_by(&mut before.clone());
    assert_eq!((reason_of(&reply), reply.caller), (Some(Reason::ReplayedNumber), None));
    // A refusal says how high it has to be.
    let Verdict::Refuse(_, refusal) = reply.verdict else { panic!("it was refused") };
    assert_eq!(refusal.number, other.number);
    // In the name of another one.
    let mut session = Other { session: Session([8; 16]), ..other.clone() };
    let reply = us.is_pinged_by(&mut session);
    assert_eq!((reason_of(&reply), reply.caller), (Some(Reason::WrongSession), None));
    let mut key = Other { key: super::key(9), ..other.clone() };
    let reply = us.is_pinged_by(&mut key);
    assert_eq!((reason_of(&reply), reply.caller), (Some(Reason::BadSignature), None));
}

/// A stranger could hide that nobody can call this node, or that it hears nobody.
#[test]
fn what_was_recorded_does_not_show_that_anybody_calls() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    let (recorded, record) = (other.clone(), other.record(6, "six"));
    us.is_brought(&other, &[&record]);
    assert!(us.is_pinged_by(&mut other).caller.is_some());
    let heard_at = (us.node.probing.called_at, us.node.probing.word_at);
    assert_eq!(heard_at.0, us.now.mono_ms);
    us.wait(1_000);
    us.is_pinged_by(&mut recorded.clone());
    us.is_brought(&other, &[&record]);
    assert_eq!((us.node.probing.called_at, us.node.probing.word_at), heard_at);
    assert!(us.is_pinged_by(&mut other).caller.is_some());
    assert_eq!(us.node.probing.called_at, us.now.mono_ms);
}

/// Records carry no number: only one that was never here, from where its owner lives, says who
/// calls.
#[test]
fn whoever_brings_a_record_is_its_owner_only_where_it_is_new_and_comes_from_its_host() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    let elsewhere = Other { ip: IpAddr::from([10, 0, 0, 77]), ..other.clone() };
    assert_eq!(us.is_brought(&elsewhere, &[&other.record(5, "five")]).caller, None);
    let record = other.record(6, "six");
    assert_eq!(us.is_brought(&other, &[&record]).caller, Some(other.id.clone()));
    assert_eq!(us.is_brought(&other, &[&record]).caller, None, "again");
    // It was forgotten, and comes back: what was recorded is taken, but by nobody's hand.
    us.forgets(&other);
    us.is_connected_with(&mut other);
    assert_eq!(us.is_brought(&other, &[&record]).caller, None);
    assert_eq!(us.shows(&other.id).unwrap(), "six");
}

#[test]
fn a_message_is_delivered_once_whatever_number_brings_it() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    assert!(matches!(us.is_sent(&mut other, 5).verdict, Verdict::Answer(_)));
    assert!(matches!(us.is_sent(&mut other, 5).verdict, Verdict::Answer(_)), "a retry");
    assert_eq!(reason_of(&us.is_sent(&mut other, 4)), Some(Reason::ReplayedNumber));
    assert!(us.node.receive().is_some() && us.node.receive().is_none());
}

/// Whoever said goodbye may still ask something: that makes it no member again.
#[test]
fn a_run_that_said_goodbye_does_not_come_back_by_what_it_still_says() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.is_brought(&other, &[&other.goodbye(5)]);
    assert_eq!(us.peer(&other).status, PeerStatus::Left);
    us.is_pinged_by(&mut other);
    us.is_joined_by(&mut other);
    assert_eq!(us.peer(&other).status, PeerStatus::Left);
    assert!(us.begins_with(&other).is_none(), "nor is it called");
    // The next run is another matter.
    other.incarnation = Incarnation([9; 16]);
    us.is_joined_by(&mut other);
    assert_eq!(us.peer(&other).status, PeerStatus::Alive);
}

/// Addresses that nobody answered at are not passed on once their node is silent: a thousand names
/// would go round for ever.
#[test]
fn an_address_that_was_only_claimed_is_not_passed_on_when_its_node_is_gone() {
    let (mut us, mut proved, mut claimed) =
        (Us::new(), Other::new("proved", 2), Other::new("claimed", 3));
    us.is_connected_with(&mut proved);
    us.is_joined_by(&mut claimed);
    let address_of = |us: &mut Us, other: &Other| {
        let listed = us.lists().nodes.into_iter();
        listed.filter(|known| known.node_id == other.id).find_map(|known| known.address)
    };
    assert_eq!(address_of(&mut us, &claimed), Some(claimed.place()));
    for status in [PeerStatus::Suspect, PeerStatus::Lost] {
        for other in [&proved, &claimed] {
            us.node.peers.get_mut(&other.id).unwrap().status = status;
        }
        assert_eq!(address_of(&mut us, &claimed), None);
        assert_eq!(address_of(&mut us, &proved), Some(proved.place()));
    }
}

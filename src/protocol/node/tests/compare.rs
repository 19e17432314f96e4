//! Views that differ, lists of what differs, and who is asked for it.

use super::*;
use crate::protocol::head::Fingerprint;
use crate::protocol::pace::Wait;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::{PULLED_MAX, RECORDS_MAX};

/// A view that is not ours.
const ANOTHER: ViewHash = [9; 16];

/// How often this node asks for the other one's list now, whose view is this one.
fn lists_asked(us: &mut Us, other: &Other, view: Option<ViewHash>) -> usize {
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    (peer.owed.ping, peer.upkeep) = (true, 0);
    let mut actions = Vec::new();
    us.node.poke(&other.id, us.now, &mut actions);
    us.take_actions(actions);
    let mut count = 0;
    us.answer_all(other, |request| {
        count += usize::from(matches!(request, Request::Peers(_)));
        let view = view.filter(|_| matches!(request, Request::Ping(_)))?;
        Some(other.pong_of(view))
    });
    count
}

/// A change that is on its way through the network starts no lists.
#[test]
fn views_are_looked_into_only_where_they_still_differ_after_a_grace() {
    let (mut us, others) = connected(1);
    let other = &others[0];
    assert_eq!(lists_asked(&mut us, other, Some(ANOTHER)), 1, "this run just began");
    us.node.ticks = 3;
    let own = us.node.view.hash();
    assert_eq!(lists_asked(&mut us, other, Some(own)), 0);
    assert_eq!(lists_asked(&mut us, other, Some(ANOTHER)), 0);
    us.wait(TICK_MS / 2);
    assert_eq!(lists_asked(&mut us, other, Some([8; 16])), 0, "it is on its way");
    us.wait(TICK_MS / 2);
    assert_eq!(lists_asked(&mut us, other, None), 0, "it came");
    assert_eq!(lists_asked(&mut us, other, Some(ANOTHER)), 0);
    us.wait(TICK_MS);
    assert_eq!(lists_asked(&mut us, other, Some(ANOTHER)), 1);
}

/// Where many start at once each learns something new at any time; later a list that showed nothing
/// is a reason to wait.
#[test]
fn who_has_just_started_asks_again_whenever_views_differ() {
    for (ticks, lists) in [(2, 1), (3, 0)] {
        let (mut us, others) = connected(1);
        assert_eq!(lists_asked(&mut us, &others[0], Some(ANOTHER)), 1);
        us.node.ticks = ticks;
        us.wait(TICK_MS / 10);
        assert_eq!(lists_asked(&mut us, &others[0], Some([8; 16])), lists);
    }
}

/// Both sides of a PING see it.
#[test]
fn a_ping_that_comes_in_is_as_good_as_an_answer_to_one() {
    let (mut us, mut others) = connected(1);
    let other = &mut others[0];
    us.node.ticks = 3;
    us.jobs.clear();
    us.is_pinged_with(other, ANOTHER);
    assert!(us.begins_with(other).is_none(), "not yet");
    us.wait(TICK_MS);
    us.is_pinged_with(other, ANOTHER);
    let (_, outgoing) = us.begins_with(other).expect("its list is asked for");
    assert!(matches!(outgoing.request, Request::Peers(_)));
}

/// What happened meanwhile is no change on its way.
#[test]
fn who_is_new_or_back_is_compared_at_once() {
    let (mut us, mut new) = (Us::new(), Other::new("other", 2));
    // A run that just began compares all at once.
    us.node.ticks = 3;
    us.is_joined_by(&mut new);
    assert_eq!(lists_asked(&mut us, &new, Some(ANOTHER)), 1, "it is new");
    us.wait(TICK_MS);
    assert_eq!(lists_asked(&mut us, &new, None), 0);
    us.node.peers.get_mut(&new.id).unwrap().status = PeerStatus::Lost;
    us.is_pinged_with(&mut new, ANOTHER);
    assert_eq!(us.peer(&new).status, PeerStatus::Alive);
    assert_eq!(lists_asked(&mut us, &new, Some(ANOTHER)), 1, "it is back");
    us.wait(TICK_MS);
    assert_eq!(lists_asked(&mut us, &new, None), 0);
    new.given = Session([9; 16]);
    us.is_joined_by(&mut new);
    assert_eq!(lists_asked(&mut us, &new, Some(ANOTHER)), 1, "it has forgotten us");
}

/// A view that stays another one is asked about at a tick, by few PINGs.
#[test]
fn some_of_those_whose_views_differ_are_asked_again_at_a_tick() {
    let (mut us, others) = connected(20);
    for other in &others {
        lists_asked(&mut us, other, Some(ANOTHER));
        // Heard just now: else it would get a PING for that.
        us.node.peers.get_mut(&other.id).unwrap().heard_at = Some(us.now.mono_ms + 2 * TICK_MS);
    }
    // Nobody is probed meanwhile.
    us.node.probing.at = u64::MAX;
    us.tick();
    let owed = us.node.peers.iter().filter(|(_, peer)| peer.flight.is_some()).count();
    assert_eq!(owed, 4);
}

/// In a large network one list at a time is asked for: so one after the other is, and not only at
/// the ticks, as any of these requests may get lost.
#[test]
fn in_a_large_network_they_are_asked_one_after_the_other() {
    let (mut us, others) = connected(20);
    us.node.settings.mesh_max = 2;
    us.node.count_members();
    for other in &others {
        lists_asked(&mut us, other, Some(ANOTHER));
        us.node.peers.get_mut(&other.id).unwrap().heard_at = Some(us.now.mono_ms + 2 * TICK_MS);
    }
    us.jobs.clear();
    us.node.probing.at = u64::MAX;
    us.tick();
    for asked in 1..5 {
        let owed = us.node.peers.iter().filter(|(_, peer)| peer.flight.is_some()).count();
        assert_eq!(owed, asked);
        let (wake_at, _) = us.node.on_tick(us.now);
        assert!(wake_at <= us.now.mono_ms + TICK_MS / 6, "{wake_at}");
        us.goes_on(TICK_MS / 6);
    }
}

#[test]
fn an_answer_lists_all_of_those_buckets_that_differ_and_of_no_others() {
    let (mut us, others) = connected(20);
    for other in &others {
        us.is_brought(other, &[&other.record(5, "five")]);
    }
    let all = us.lists();
    assert_eq!((all.buckets.0, all.nodes.len()), (u32::MAX, 21), "this node is in its list");
    let own = us.node.own().fingerprint;
    let mut asks = |buckets| {
        let header = us.header(&mut Other::new("asks", 200));
        us.node.answer_peers(&Peers { header, buckets: Box::new(buckets) })
    };
    for other in &others {
        let missed = [other.id.clone()];
        let buckets = asks_without(&mut asks, own, &missed, &others);
        let (answer, bucket) = buckets;
        assert_eq!(answer.buckets, bucket);
        assert!(answer.nodes.iter().any(|known| known.node_id == other.id));
        assert!(answer.nodes.iter().all(|known| bucket.has(&known.node_id)));
    }
}

/// Asks with all that the node holds, as it was told, but one that is missed; gives the bucket of
/// that one, too.
fn asks_without(
    asks: &mut impl FnMut([ViewHash; BUCKETS]) -> PeersAnswer,
    own: Fingerprint,
    missed: &[NodeId],
    others: &[Other],
) -> (PeersAnswer, BucketSet) {
    let mut view = crate::protocol::view::View::default();
    view.note(&id("us"), Some(own));
    for other in others {
        view.note(&other.id, Some(other.record(5, "five").fingerprint));
    }
    let nobody = view.buckets_without(std::iter::empty());
    assert_eq!(asks(nobody), PeersAnswer { buckets: BucketSet(0), nodes: Vec::new() });
    let buckets = view.buckets_without(missed.iter());
    let bucket = view.differing(&buckets);
    (asks(buckets), bucket)
}

/// Others may know where it is now.
#[test]
fn who_is_missed_is_asked_for_whatever_the_views_are() {
    let (mut us, others) = connected(2);
    us.node.peers.get_mut(&others[1].id).unwrap().status = PeerStatus::Lost;
    let (equal, mut missed) = (us.node.view.buckets_without(std::iter::empty()), false);
    for _ in 0..4 {
        us.tick();
        us.answer_all(&others[0], |request| {
            let Request::Peers(peers) = request else { return None };
            let differing = us_differs(&equal, &*peers.buckets);
            missed |= differing.has(&others[1].id) && differing.0.is_power_of_two();
            None
        });
    }
    assert!(missed, "within two ticks");
}

/// Where two halves of a network meet again it does not wait as long as it was away.
#[test]
fn one_that_is_lost_here_and_not_there_is_tried_soon() {
    let (mut us, others) = connected(2);
    us.is_brought(&others[0], &[&others[1].record(WALL_US + 5, "x")]);
    let peer = us.node.peers.get_mut(&others[1].id).unwrap();
    peer.status = PeerStatus::Lost;
    for _ in 0..20 {
        let wait = Wait { now_ms: us.now.mono_ms, tick_ms: TICK_MS, roll: 1.0 };
        peer.contact.came_to_nothing(wait, 100 * TICK_MS);
    }
    let mut known = others[1].known(WALL_US + 5, "x");
    known.is_lost = true;
    us.node.compare_lost(&id("says"), &[known.clone()], us.now, &mut Vec::new());
    assert!(!us.peer(&others[1]).contact.is_due(us.now.mono_ms), "it is lost there, too");
    known.is_lost = false;
    us.node.compare_lost(&id("says"), &[known], us.now, &mut Vec::new());
    assert!(us.peer(&others[1]).contact.is_due(us.now.mono_ms));
}

fn us_differs(one: &[ViewHash], other: &[ViewHash]) -> BucketSet {
    let differs = one.iter().zip(other).enumerate();
    BucketSet(differs.map(|(at, (one, other))| u32::from(one != other) << at).sum())
}

fn pulls(us: &mut Us, other: &Other) -> Option<(Job, Vec<NodeId>)> {
    let (job, outgoing) = us.begins_with(other)?;
    let Request::Pull(pull) = outgoing.request else { panic!("{:?}", outgoing.request) };
    Some((job, pull.wishes.into_iter().map(|wish| wish.node_id).collect()))
}

/// All others hold what this node lacks: one of them is asked, and the next one only where that one
/// gives no answer for long.
#[test]
fn what_one_peer_was_asked_for_no_other_one_is() {
    for comes in [true, false] {
        let (mut us, others) = connected(2);
        us.jobs.clear();
        let ghosts = ["ghost0", "ghost1"].map(|name| Other::new(name, 9));
        let known = || ghosts.iter().map(|ghost| ghost.known(5, "five")).collect();
        for other in &others {
            let answer = PeersAnswer { buckets: BucketSet(0), nodes: known() };
            us.node.compare(&other.id, answer, us.now, &mut Vec::new());
        }
        let mut actions = Vec::new();
        us.node.poke_all(us.now, &mut actions);
        us.take_actions(actions);
        let (job, wishes) = pulls(&mut us, &others[0]).expect("the first one is asked");
        assert_eq!(wishes, ghosts.each_ref().map(|ghost| ghost.id.clone()));
        assert!(pulls(&mut us, &others[1]).is_none(), "it is on its way");
        if comes {
            // One of two: the other one did not fit.
            let records = vec![ghosts[0].record(5, "five")];
            us.is_answered(&job, Outcome::Records(records));
            let next = [&others[0], &others[1]].map(|other| us.begins_with(other));
            let asked: Vec<NodeId> = next
                .into_iter()
                .flatten()
                .filter_map(|(_, outgoing)| match outgoing.request {
                    Request::Pull(pull) => Some(pull.wishes),
                    _ => None,
                })
                .flatten()
                .map(|wish| wish.node_id)
                .collect();
            assert_eq!(asked, [ghosts[1].id.clone()], "once, and not for what came");
        } else {
            us.wait(TICK_MS / 2);
            let mut actions = Vec::new();
            us.node.poke_all(us.now, &mut actions);
            us.take_actions(actions);
            assert!(pulls(&mut us, &others[1]).is_some(), "the first one hangs");
        }
    }
}

/// What gets lost while many join is what a node lacks last.
#[test]
fn who_joins_asks_another_one_soon_for_a_few_records() {
    for (count, ticks, is_soon) in [(16, 10, true), (17, 10, false), (16, 11, false)] {
        let (mut us, others) = connected(2);
        us.jobs.clear();
        us.node.ticks = ticks;
        let ghosts: Vec<Other> =
            (0..count).map(|number| Other::new(&format!("ghost{number}"), 9)).collect();
        for other in &others {
            let nodes = ghosts.iter().map(|ghost| ghost.known(5, "five")).collect();
            let answer = PeersAnswer { buckets: BucketSet(0), nodes };
            us.node.compare(&other.id, answer, us.now, &mut Vec::new());
        }
        for (wait, is_asked) in [(0, false), (TICK_MS / 6, is_soon)] {
            us.wait(wait);
            let mut actions = Vec::new();
            us.node.poke_all(us.now, &mut actions);
            us.take_actions(actions);
            pulls(&mut us, &others[0]);
            assert_eq!(pulls(&mut us, &others[1]).is_some(), is_asked, "{count}, {ticks}");
        }
    }
}

/// What is asked for fits in one message: a longer one would be refused whole, each time.
#[test]
fn what_is_asked_for_fits_in_one_message() {
    let (mut us, others) = connected(1);
    let other = &others[0];
    let known = (0..300).map(|number| Other::new(&format!("ghost{number:03}"), 9).known(5, "x"));
    let answer = PeersAnswer { buckets: BucketSet(0), nodes: known.collect() };
    us.node.compare(&other.id, answer, us.now, &mut Vec::new());
    us.tick();
    let mut pulled = 0;
    us.answer_all(other, |request| {
        let Request::Pull(pull) = request else { return None };
        assert!(pull.wishes.len() <= PULLED_MAX);
        pulled = pull.wishes.len();
        None
    });
    assert_eq!(pulled, PULLED_MAX);
}

/// One that lacks what is held here of others, for so many ticks; how often it is brought some of
/// it, and how much at most.
fn lacks_for_ever(
    ticks: u64,
    each_tick: impl Fn(&mut Us, &mut Other),
    update: impl Fn() -> Option<Outcome>,
) -> (usize, usize) {
    let (mut us, mut others) = connected(1);
    let other = &mut others[0];
    // It was called alone.
    us.node.peers.get_mut(&other.id).unwrap().link.called_at = None;
    for number in 0..100 {
        let ghost = Other::new(&format!("ghost{number:03}"), 9);
        us.is_brought(other, &[&ghost.record(5, "five")]);
    }
    let (mut brought, mut most) = (0, 0);
    for _ in 0..ticks {
        us.tick();
        each_tick(&mut us, other);
        us.answer_all(&other.clone(), |request| match request {
            Request::Peers(_) => Some(other.lists(Vec::new())),
            Request::Ping(_) => Some(other.pong_of(ANOTHER)),
            Request::Push(push) if !push.records.is_empty() => {
                brought += 1;
                most = most.max(push.records.len());
                update()
            }
            _ => None,
        });
    }
    (brought, most)
}

/// It can't ask for it.
#[test]
fn who_lacks_something_and_never_calls_is_brought_it() {
    let (brought, most) = lacks_for_ever(6, |_, _| {}, || None);
    assert!(brought >= 2, "{brought}");
    assert_eq!(most, RECORDS_MAX, "a longer one would be refused whole");
}

/// Who lacks others, and takes nothing, would be brought a large own state with each of them.
#[test]
fn what_is_brought_of_others_takes_the_own_state_not_along_before_its_time() {
    let (mut us, others) = connected(1);
    let (other, ghost) = (&others[0], Other::new("ghost", 9));
    us.is_brought(other, &[&ghost.record(5, "five")]);
    us.sets("v1");
    us.jobs.clear();
    let now_ms = us.now.mono_ms;
    let peer = us.node.peers.get_mut(&other.id).unwrap();
    (peer.flight, peer.link.called_at) = (None, None);
    let wait = crate::protocol::pace::Wait { now_ms, tick_ms: 100 * TICK_MS, roll: 1.0 };
    peer.push.came_to_nothing(wait, u64::MAX);
    for _ in 0..2 {
        let answer = PeersAnswer { buckets: BucketSet(u32::MAX), nodes: Vec::new() };
        us.node.compare(&other.id, answer, us.now, &mut Vec::new());
        us.wait(2 * TICK_MS);
    }
    let mut actions = Vec::new();
    us.node.poke(&other.id, us.now, &mut actions);
    us.take_actions(actions);
    let (_, outgoing) = us.begins_with(other).expect("something is brought");
    let Request::Push(push) = outgoing.request else { panic!("{:?}", outgoing.request) };
    let owners: Vec<&NodeId> = push.records.iter().map(|record| &record.head.node_id).collect();
    assert_eq!((owners, push.patches.is_empty()), (vec![&ghost.id], true));
}

#[test]
fn who_calls_is_brought_nothing_that_it_does_not_ask_for() {
    let calls = |us: &mut Us, other: &mut Other| {
        us.is_pinged_with(other, ANOTHER);
    };
    assert_eq!(lacks_for_ever(100, calls, || None).0, 0);
}

/// It did call, and does not any more.
#[test]
fn who_called_once_is_brought_something_later() {
    let called = |us: &mut Us, other: &mut Other| {
        let link = &mut us.node.peers.get_mut(&other.id).unwrap().link;
        link.called_at.get_or_insert(us.now.mono_ms);
    };
    assert_eq!(lacks_for_ever(9, called, || None).0, 0);
    assert!(lacks_for_ever(30, called, || None).0 > 0);
}

/// It says for ever that it lacks what it takes, or gives no answer to it.
#[test]
fn what_is_brought_and_changes_nothing_is_brought_ever_more_rarely() {
    let lost = || Some(Outcome::Failed("no answer within 5 s".into()));
    let ways: [fn() -> Option<Outcome>; 2] = [|| None, lost];
    for update in ways {
        let (brought, _) = lacks_for_ever(200, |_, _| {}, update);
        // Ten minutes, each wait twice as long up to that: two messages each time.
        assert!((2..=30).contains(&brought), "{brought}");
    }
}

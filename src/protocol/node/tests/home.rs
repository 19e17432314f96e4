//! Where a node lives: what its record says of it, and what follows for those who take it.

use super::*;
use crate::protocol::entries::Change;
use crate::protocol::fault::Code;
use crate::protocol::head::Home;
use crate::protocol::node::Republish;
use crate::protocol::record::Patch;

/// An answer to a HELLO that says from where the caller was seen.
fn sees(us: &mut Us, other: &Other, at: &str) {
    let answer = HelloAnswer {
        version: 1,
        node_id: other.id.clone(),
        public_key: other.key,
        incarnation: other.incarnation,
        session: other.given,
        program: ProgramVersion::new("test"),
        advertise: None,
        seen: address(at),
    };
    let mut actions = Vec::new();
    assert!(us.node.meet(&answer, &other.place(), us.now, &mut actions));
    us.take_actions(actions);
}

fn lives_at(us: &Us) -> Option<&str> {
    us.node.home().address.as_ref().map(Address::as_str)
}

fn republish(us: &mut Us) -> Option<Republish> {
    us.node.take_disk_wishes().republish
}

/// What the keeper does where a version without a write is wished for.
fn renew(us: &mut Us) -> Vec<Action> {
    let own = us.node.own();
    let timestamp = us.node.next_timestamp(us.now.wall_us, own.head.timestamp).unwrap();
    let next = own.draft().again(timestamp).at(us.node.home().clone());
    let next = Verified::sign(next, &Gullible(key(OUR_KEY))).unwrap();
    us.node.on_set(next, us.now)
}

fn tells_a_change(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Changed { .. }))
}

/// The same entries as another one of this node, made by another run or elsewhere.
fn moved(other: &Other, like: &Verified<Record>, home: (u8, &str)) -> Verified<Record> {
    let home = Home { incarnation: Incarnation([home.0; 16]), address: Some(address(home.1)) };
    let draft = like.draft().again(like.head.timestamp + 1).at(home);
    Verified::sign(draft, &Gullible(other.key)).unwrap()
}

#[test]
fn a_node_that_is_seen_tells_others_where_it_is() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    assert_eq!(lives_at(&us), None);
    assert_eq!(republish(&mut us), None);
    // It is called, and asks once where it is.
    us.is_connected_with(&mut other);
    assert_eq!(lives_at(&us), Some("10.0.0.99:8000"), "with the port where it listens");
    assert_eq!(republish(&mut us), Some(Republish::Unwritten));
    let before = us.node.own().clone();
    let actions = renew(&mut us);
    assert!(!tells_a_change(&actions), "nothing changed for people");
    let pushed = actions.iter().any(|action| matches!(action, Action::Send(_)));
    assert!(pushed, "but others are told");
    assert_eq!(republish(&mut us), None);
    let own = us.node.own();
    assert_eq!(own.head.home, *us.node.home());
    assert!(own.head.is_newer_than(&before.head) && own.entries == before.entries);
    assert_eq!(us.node.state(&id("us")).unwrap().held_since, None, "an earlier run made them");
}

#[test]
fn two_addresses_of_one_host_do_not_take_turns() {
    let (mut us, one, two) = (Us::new(), Other::new("one", 2), Other::new("two", 3));
    let mut moves = 0;
    for _ in 0..100 {
        let before = lives_at(&us).map(str::to_owned);
        sees(&mut us, &one, "192.168.0.5:41000");
        sees(&mut us, &two, "[2001:db8::5]:41000");
        moves += u32::from(lives_at(&us) != before.as_deref());
        us.wait(1_000);
    }
    assert_eq!((moves, lives_at(&us)), (1, Some("192.168.0.5:8000")));
    // Nobody sees it there any more.
    us.wait(28_000);
    sees(&mut us, &two, "[2001:db8::5]:41000");
    assert_eq!(lives_at(&us), Some("192.168.0.5:8000"));
    us.wait(1_000);
    sees(&mut us, &two, "[2001:db8::5]:41000");
    assert_eq!(lives_at(&us), Some("[2001:db8::5]:8000"));
}

#[test]
fn an_address_that_others_can_not_use_gives_way() {
    let (mut us, one, two) = (Us::new(), Other::new("one", 2), Other::new("two", 3));
    sees(&mut us, &one, "[fe80::5]:41000");
    assert_eq!(lives_at(&us), None, "it means something on one link alone");
    sees(&mut us, &one, "127.0.0.1:41000");
    assert_eq!(lives_at(&us), Some("127.0.0.1:8000"), "better than none");
    sees(&mut us, &two, "10.0.0.5:41000");
    assert_eq!(lives_at(&us), Some("10.0.0.5:8000"));
    us.wait(100_000);
    sees(&mut us, &one, "127.0.0.1:41000");
    assert_eq!(lives_at(&us), Some("10.0.0.5:8000"), "and never the other way around");
    let advertised = Some(address("pi.local:9"));
    let mut us = Us::with(|settings| settings.advertise = advertised, Vec::new());
    sees(&mut us, &two, "10.0.0.5:41000");
    assert_eq!(lives_at(&us), Some("pi.local:9"), "an operator knows better");
}

#[test]
fn a_run_that_begins_anew_says_so_in_its_record() {
    let mut us = Us::new();
    let before = us.node.own().head.home.incarnation;
    assert_eq!(before, us.node.incarnation());
    let mut actions = Vec::new();
    us.node.begin_epoch(us.now, &mut actions);
    assert!(actions.iter().any(|action| matches!(action, Action::WakeDisk)));
    assert_eq!(republish(&mut us), Some(Republish::Unwritten));
    us.sets("a change says it, too");
    assert_eq!(republish(&mut us), None);
    assert_eq!(us.node.own().head.home.incarnation, us.node.incarnation());
    assert_ne!(us.node.incarnation(), before);
}

/// It would not be believed that it left.
#[test]
fn who_said_goodbye_makes_no_more_versions() {
    let mut us = Us::new();
    let timestamp = us.now.wall_us + 5;
    let goodbye = us.node.own().draft().after(&Change::new(), true, timestamp).unwrap().unwrap();
    let goodbye = Verified::sign(goodbye, &Gullible(key(OUR_KEY))).unwrap();
    us.node.on_set(goodbye, us.now);
    sees(&mut us, &Other::new("other", 2), "10.0.0.5:41000");
    assert_eq!(republish(&mut us), None);
}

#[test]
fn a_record_leads_to_its_owner() {
    let (mut us, other, by) = (Us::new(), Other::new("other", 2), Other::new("by", 9));
    let record = moved(&other, &other.record(5, "five"), (6, "10.0.0.7:8000"));
    us.is_brought(&by, &[&record]);
    assert_eq!(us.peer(&other).place.shown(), Some(&address("10.0.0.7:8000")));
    assert_eq!(us.peer(&other).run(), Some(Incarnation([6; 16])));
}

#[test]
fn who_answers_is_known_better_than_by_its_record() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    let record = moved(&other, &other.record(5, "five"), (6, "10.0.0.7:8000"));
    us.is_brought(&other, &[&record]);
    assert!(!us.peer(&other).place.has_new_hint(), "it is alive where it is");
    assert_eq!(us.peer(&other).run(), Some(other.incarnation), "by its own word");
}

#[test]
fn a_version_with_the_same_entries_is_no_change_for_people() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let first = other.record(5, "five");
    us.is_brought(&other, &[&first]);
    let (since, view) = (us.peer(&other).record_since, us.node.view.hash());
    us.wait(10_000);
    let second = moved(&other, &first, (6, "10.0.0.7:8000"));
    let (to, incarnation) = (us.node.node_id().clone(), us.node.incarnation());
    let records = vec![second.clone()];
    let push = CheckedPush { records, ..CheckedPush::new(to, incarnation) };
    let (_, actions) = us.node.on_request(Incoming::Push(push), other.caller(), us.now);
    assert!(!tells_a_change(&actions));
    assert_eq!(us.peer(&other).record_since, since);
    assert_eq!(us.peer(&other).version(), second.version(), "it is taken all the same");
    assert_ne!(us.node.view.hash(), view);
    us.is_brought(&other, &[&other.record(7, "seven")]);
    assert_eq!(us.peer(&other).record_since, Some(us.now.mono_ms));
}

/// What an earlier run made without writing it, and what this one began with, is nothing to tell.
#[test]
fn an_unwritten_version_of_an_earlier_run_is_outrun_in_silence() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let ours = Other::new("us", OUR_KEY);
    let first = us.node.own().clone();
    for has_set in [false, true] {
        if has_set {
            us.sets("set in this run");
        }
        let later = us.node.own().head.timestamp + 1_000_000_000;
        let held = Verified::sign(first.draft().again(later), &Gullible(ours.key)).unwrap();
        let reply = us.is_brought(&other, &[&held]);
        assert_eq!(reason_of(&reply), Some(Reason::OwnRecord));
        assert_eq!(republish(&mut us), Some(Republish::Unwritten));
        renew(&mut us);
        assert!(us.node.own().head.timestamp > later);
        assert_eq!(republish(&mut us), None);
    }
    assert!(us.node.take_untold_notices().is_empty());
    // Another one has something else in it: that was lost here, and is told though it comes late.
    let later = us.node.own().head.timestamp + 1_000_000_000;
    us.is_brought(&other, &[&ours.record(later, "lost here")]);
    assert_eq!(republish(&mut us), Some(Republish::Written));
    let told = us.node.take_untold_notices();
    assert!(matches!(&told[..], [fault] if fault.code == Code::Restored), "{told:?}");
}

/// At one time, of one run: both sides choose the same one, and its owner is shown it.
#[test]
fn of_two_runs_that_made_a_version_at_one_time_all_choose_the_same() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let at = |incarnation: u8| {
        let home = Home { incarnation: Incarnation([incarnation; 16]), address: None };
        let draft = other.record(5, "same").draft().at(home);
        Verified::sign(draft, &Gullible(other.key)).unwrap()
    };
    us.is_brought(&other, &[&at(8)]);
    let reply = us.is_brought(&other, &[&at(7)]);
    assert_eq!(reason_of(&reply), Some(Reason::Stale));
    us.is_brought(&other, &[&at(9)]);
    assert_eq!(us.peer(&other).version(), at(9).version());
    // And where it is ours: nothing of ours is the newer one for long.
    let own = us.node.own().clone();
    let higher = Home { incarnation: Incarnation([255; 16]), address: None };
    let twin = Verified::sign(own.draft().at(higher), &Gullible(key(OUR_KEY))).unwrap();
    us.is_brought(&other, &[&twin]);
    assert_eq!(republish(&mut us), Some(Republish::Unwritten));
    renew(&mut us);
    assert!(us.node.own().head.is_newer_than(&twin.head));
}

/// A patch that says nothing of the home is one of a version at the home of its base.
#[test]
fn a_patch_is_judged_by_the_home_of_its_base() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let base = moved(&other, &other.record(4, "four"), (6, "10.0.0.7:8000"));
    let change = Change::from([(Key::new("x").unwrap(), Some(Value::new(b"y").unwrap()))]);
    let next = base.draft().after(&change, false, 9).unwrap().unwrap();
    let next = Verified::sign(next, &Gullible(other.key)).unwrap();
    let patch = Patch::new((base.fingerprint, &base.head.home), &next, change);
    assert_eq!(patch.home, None);
    let lacks = us.node.judge_patch(&patch);
    assert!(matches!(lacks, Judgement::Refused(Reason::LacksBase, ..)), "{lacks:?}");
    us.is_brought(&other, &[&base]);
    assert!(matches!(us.node.judge_patch(&patch), Judgement::News));
    us.is_brought(&other, &[&next]);
    assert!(matches!(us.node.judge_patch(&patch), Judgement::Held), "its base is gone by now");
    let old = Patch { timestamp: 8, ..patch };
    assert!(matches!(us.node.judge_patch(&old), Judgement::Refused(Reason::Stale, _, Some(_))));
}

/// A patch does not name its key: it is that of its base, which the fingerprint stands for, too.
#[test]
fn a_patch_is_under_the_key_of_its_base() {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_joined_by(&mut other);
    let held = other.record(4, "four");
    us.is_brought(&other, &[&held]);
    let change = Change::from([(Key::new("x").unwrap(), Some(Value::new(b"y").unwrap()))]);
    let patch = |owner: &Other, base: &Verified<Record>| {
        let next = base.draft().after(&change, false, 9).unwrap().unwrap();
        let next = Verified::sign(next, &Gullible(owner.key)).unwrap();
        Patch::new((base.fingerprint, &base.head.home), &next, change.clone())
    };
    assert!(matches!(us.node.judge_patch(&patch(&other, &held)), Judgement::News));
    let twin = Other::new("other", 3);
    let base = twin.record(4, "four");
    assert_eq!(base.head, held.head);
    let refused = us.node.judge_patch(&patch(&twin, &base));
    assert!(matches!(refused, Judgement::Refused(Reason::LacksBase, ..)), "{refused:?}");
}

/// Its host got another address, and somebody else has the one of before; as chance has it that is
/// whose turn it is, and what is not tried takes no turns.
#[test]
fn one_whose_address_is_anothers_now_is_looked_for_where_hints_say() {
    let (mut us, others) = connected(2);
    us.jobs.clear();
    let (moved, other) = (&others[0], others[1].place());
    let peer = us.node.peers.get_mut(&moved.id).unwrap();
    peer.place = crate::protocol::whereabouts::Whereabouts::kept(Some(other));
    peer.place.unprove(&others[1].place());
    let hint = address("10.0.0.77:8000");
    peer.place.add_hint(&hint);
    super::super::suspicion::lose(&moved.id, peer, &mut Vec::new());
    let mut tried = Vec::new();
    for _ in 0..10 {
        us.tick();
        us.serve(&others[1]);
        while let Some((job, outgoing)) = us.begins_with(moved) {
            tried.push(outgoing.address.clone());
            us.is_answered(&job, Outcome::Failed("nobody".into()));
        }
    }
    assert!(tried.contains(&hint), "{tried:?}");
}

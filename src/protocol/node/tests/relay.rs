//! Relays: whom a version is brought to, who passes it on, and what a head that is late, refuses or
//! lies costs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::answers::Ended;
use super::*;
use crate::protocol::head::Version;
use crate::protocol::report::PeerStatus;
use crate::protocol::rings::{Ring, Stretch};
use crate::protocol::wire::{Push, RefusedRecord, Relay};

/// One node with so many peers, which cuts each ring into four parts.
fn among(count: u8) -> (Us, Vec<Other>) {
    let mut us = Us::with(|it| (it.mesh_max, it.relay_heads) = (100, 4), Vec::new());
    let mut others: Vec<Other> =
        (0..count).map(|number| Other::new(&format!("n{number:02}"), 2 + number)).collect();
    for other in &mut others {
        us.is_connected_with(other);
    }
    us.sets("before");
    for other in &others {
        us.serve(other);
    }
    us.jobs.clear();
    us.node.settings.mesh_max = 2;
    us.node.count_members();
    (us, others)
}

/// All pushes that are under way now.
fn pushes(us: &mut Us) -> Vec<(Job, Push)> {
    let mut all = Vec::new();
    while let Some(job) = us.jobs.pop_front() {
        match us.node.begin(&job, us.now).map(|outgoing| outgoing.request) {
            Some(Request::Push(push)) => all.push((job, push)),
            // One that failed is asked whether it is there.
            Some(Request::Ping(ping)) => {
                let key = us.node.key_of(&ping.header.to).unwrap();
                let pong = Pong { view: us.node.view.hash(), twin: None, mail: None };
                us.is_answered(&job, Outcome::Pong(signed(pong, key), Vec::new()));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    all
}

fn is_late(us: &mut Us, ms: u64) {
    us.goes_on(ms);
}

/// Who gets it from the owner or from one of these.
fn reached(pushes: &[(Job, Push)], others: &[Other], ring: Ring) -> BTreeSet<NodeId> {
    let of = |push: &Push| -> Vec<NodeId> {
        let stretches = push.relays.iter().filter(|relay| relay.ring == ring);
        let in_one = |id: &NodeId| stretches.clone().any(|relay| relay.stretch.has(ring, id));
        others.iter().map(|other| other.id.clone()).filter(in_one).collect()
    };
    pushes.iter().flat_map(|(_, push)| of(push)).collect()
}

/// A version of `owner` comes from somebody, who asks to bring it to all.
fn is_asked_to_pass_on(us: &mut Us, by: &Other, record: &Verified<Record>, ring: Ring) -> Reply {
    let owner = record.head.node_id.clone();
    let relay = Relay { owner: owner.clone(), ring, stretch: Stretch::around(&owner) };
    is_asked(us, by, record, relay)
}

fn is_asked(us: &mut Us, by: &Other, record: &Verified<Record>, relay: Relay) -> Reply {
    let (mut records, mut held, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    match us.node.judge(&record.head, &record.public_key) {
        Judgement::News => records.push(record.clone()),
        Judgement::Held => held.push(record.head.node_id.clone()),
        judgement => refused.extend(RefusedPart::of(&record.head.node_id, judgement)),
    }
    let (to, incarnation) = (us.node.node_id().clone(), us.node.incarnation());
    let (relays, push) = (vec![relay], CheckedPush::new(to, incarnation));
    let push = CheckedPush { records, held, refused, relays, ..push };
    us.request(Incoming::Push(push), by.caller())
}

fn refuses_record(reason: Reason, owner: &str) -> Outcome {
    let records = vec![RefusedRecord { node_id: id(owner), reason: reason.code(), held: None }];
    Outcome::Refused(
        Refusal { reason: reason.code(), text: Text::new("no"), number: 0, records },
        None,
    )
}

#[test]
fn a_change_goes_to_few_who_bring_it_to_all() {
    let (mut us, others) = among(40);
    us.sets("news");
    assert!(!us.node.unaware().is_empty(), "no head took it yet");
    let first = pushes(&mut us);
    assert!(first.len() <= 8, "{}", first.len());
    assert!(first.iter().all(|(_, push)| push.records.len() + push.patches.len() == 1));
    for ring in Ring::ALL {
        assert_eq!(reached(&first, &others, ring).len(), 40, "{ring:?}");
    }
    for (job, _) in &first {
        us.is_answered(job, Outcome::Nothing);
    }
    assert_eq!(pushes(&mut us).len(), 0, "that was all");
    assert!(us.node.unaware().is_empty() && us.node.holders().lacking.is_empty());
    is_late(&mut us, 400);
    assert_eq!(pushes(&mut us).len(), 0, "nobody was late");
}

#[test]
fn among_few_it_goes_to_each() {
    let (mut us, _) = among(2);
    us.sets("news");
    let pushes = pushes(&mut us);
    assert_eq!(pushes.len(), 2);
    assert!(pushes.iter().all(|(_, push)| push.relays.is_empty()));
}

#[test]
fn a_large_state_goes_in_one_ring() {
    let (mut us, others) = among(40);
    us.sets(&"x".repeat(20_000));
    let pushes = pushes(&mut us);
    assert_eq!(pushes.len(), 8);
    assert!(pushes.iter().all(|(_, push)| push.relays.iter().all(|it| it.ring == Ring::Names)));
    assert_eq!(reached(&pushes, &others, Ring::Names).len(), 40);
}

/// Amplification: whoever hands out the whole ring to each node makes each pass it on once.
#[test]
fn a_version_is_passed_on_once_in_each_ring_whoever_asks() {
    let (mut us, others) = among(20);
    let record = others[0].record(WALL_US + 9, "news");
    for ring in Ring::ALL {
        is_asked_to_pass_on(&mut us, &others[1], &record, ring);
        let first = pushes(&mut us);
        assert!((1..=4).contains(&first.len()), "{}", first.len());
        let reached: BTreeSet<NodeId> = first
            .iter()
            .map(|(_, push)| push.to.clone())
            .chain(reached(&first, &others, ring))
            .collect();
        assert!(others[1..].iter().all(|other| reached.contains(&other.id)), "but its owner");
        for (job, _) in &first {
            us.is_answered(job, Outcome::Nothing);
        }
        for by in [1, 2, 3] {
            is_asked_to_pass_on(&mut us, &others[by], &record, ring);
            assert_eq!(pushes(&mut us).len(), 0, "once");
        }
    }
    // What is older, or not in its stretch, is not passed on at all.
    is_asked_to_pass_on(&mut us, &others[1], &others[0].record(WALL_US + 8, "old"), Ring::Names);
    let elsewhere = Stretch { after: id("n03"), through: id("n05") };
    let relay = Relay { owner: others[0].id.clone(), ring: Ring::Names, stretch: elsewhere };
    is_asked(&mut us, &others[1], &others[0].record(WALL_US + 10, "newer"), relay);
    assert_eq!(us.shows(&others[0].id).as_deref(), Some("newer"));
    assert_eq!(pushes(&mut us).len(), 0);
}

/// What came as a whole goes on as what changed, where that is less.
#[test]
fn a_patch_is_passed_on_as_one() {
    let (mut us, others) = among(20);
    let large = |timestamp: u64, last: &str| {
        let entry = |key: String, value: &str| {
            (Key::new(&key).unwrap(), Value::new(value.as_bytes()).unwrap())
        };
        let many = (0..20).map(|number| entry(format!("k{number}"), "a value of some length"));
        let entries: Entries = many.chain([entry("last".into(), last)]).collect();
        let draft = Draft::new(others[0].id.clone(), timestamp, false, Arc::new(entries));
        Verified::sign(draft, &Gullible(others[0].key)).unwrap()
    };
    us.is_brought(&others[0], &[&large(WALL_US + 8, "one")]);
    is_asked_to_pass_on(&mut us, &others[0], &large(WALL_US + 9, "two"), Ring::Names);
    let first = pushes(&mut us);
    assert!(!first.is_empty());
    for (job, push) in &first {
        assert_eq!((push.records.len(), push.patches.len()), (0, 1));
        assert_eq!(push.patches[0].change.len(), 1);
        // Who lacks its base gets the whole, and passes that on.
        us.is_answered(job, refuses_record(Reason::LacksBase, "n00"));
    }
    let second = pushes(&mut us);
    assert_eq!(second.len(), first.len());
    for ((job, whole), (_, partial)) in second.iter().zip(&first) {
        assert_eq!((whole.records.len(), whole.patches.len()), (1, 0));
        assert_eq!(whole.relays, partial.relays);
        // And who says that again lies.
        us.is_answered(job, refuses_record(Reason::LacksBase, "n00"));
    }
    for (job, push) in pushes(&mut us) {
        assert!(second.iter().all(|(_, before)| before.to != push.to), "{push:?}");
        us.is_answered(&job, Outcome::Nothing);
    }
}

/// A patch does not name its key: who holds a later version under another one says that it is old,
/// and can't prove that it is ours.
#[test]
fn whoever_does_not_prove_that_a_patch_is_old_gets_the_whole_record() {
    let (mut us, _) = among(1);
    let set = |us: &mut Us, last: &str| {
        let entry = |number: u8| (Key::new(&format!("k{number}")).unwrap(), Value::new(b"a value"));
        let many = (0..20).map(entry).map(|(key, value)| (key, value.unwrap()));
        let last = (Key::new("last").unwrap(), Value::new(last.as_bytes()).unwrap());
        let entries: Entries = many.chain([last]).collect();
        let timestamp = us.node.own().head.timestamp + 1;
        let draft = Draft::new(id("us"), timestamp, false, Arc::new(entries));
        let draft = draft.at(us.node.home().clone());
        let own = Verified::sign(draft, &Gullible(key(OUR_KEY))).unwrap();
        let actions = us.node.on_set(own, us.now);
        us.take_actions(actions);
    };
    set(&mut us, "one");
    for (job, _) in pushes(&mut us) {
        us.is_answered(&job, Outcome::Nothing);
    }
    set(&mut us, "two");
    for (parts, reason) in [((0, 1), Reason::Stale), ((1, 0), Reason::Stale)] {
        let all = pushes(&mut us);
        assert_eq!(all.len(), 1);
        for (job, push) in all {
            assert_eq!((push.records.len(), push.patches.len()), parts);
            us.is_answered(&job, refuses_record(reason, "us"));
        }
    }
    let more = pushes(&mut us);
    assert!(more.is_empty(), "what is said of a whole one is final: {more:?}");
}

/// A head that hangs costs its part a quarter of a second, once.
#[test]
fn others_are_asked_in_the_place_of_a_head_that_is_late() {
    let (mut us, others) = among(40);
    us.sets("news");
    let first = pushes(&mut us);
    let (late, rest) = first.split_first().unwrap();
    for (job, _) in rest {
        us.is_answered(job, Outcome::Nothing);
    }
    is_late(&mut us, 100);
    assert_eq!(pushes(&mut us).len(), 0, "not yet");
    is_late(&mut us, 60);
    let second = pushes(&mut us);
    for relay in &late.1.relays {
        let lacks = reached(std::slice::from_ref(late), &others, relay.ring);
        let by_others = reached(&second, &others, relay.ring);
        let heads: BTreeSet<NodeId> = second.iter().map(|(_, push)| push.to.clone()).collect();
        let has_it = |id: &&NodeId| by_others.contains(*id) || heads.contains(*id);
        assert_eq!(lacks.iter().filter(|id| !has_it(id)).collect::<Vec<_>>(), [&late.1.to]);
    }
    for (job, _) in &second {
        us.is_answered(job, Outcome::Nothing);
    }
    // Its own answer, late or never, makes nobody pass it on again.
    us.is_answered(&late.0, Outcome::Failed("no answer within 5 s".into()));
    let again = pushes(&mut us);
    assert!(again.iter().all(|(_, push)| push.to == late.1.to && push.relays.is_empty()));
    is_late(&mut us, 600);
    let again = pushes(&mut us);
    assert!(again.iter().all(|(_, push)| push.to == late.1.to && push.relays.is_empty()));
}

/// A dead one costs nothing: the refusal of its host says so at once; one that refuses is the same.
#[test]
fn others_are_asked_at_once_where_a_head_fails_or_refuses() {
    for outcome in [Outcome::Failed("nobody listens there".into()), refuses(Reason::LimitExceeded)]
    {
        let (mut us, _) = among(40);
        us.sets("news");
        let first = pushes(&mut us);
        us.is_answered(&first[0].0, outcome);
        let second = pushes(&mut us);
        assert!(!second.is_empty());
        assert!(second.iter().all(|(_, push)| push.to != first[0].1.to));
    }
}

/// Most are brought changes and never called otherwise: what got lost once would count for ever.
#[test]
fn who_was_called_in_vain_and_took_something_since_is_a_head_again() {
    let (mut us, _) = among(40);
    let heads = |us: &mut Us, value: &str| -> BTreeSet<NodeId> {
        us.sets(value);
        let pushes = pushes(us);
        pushes.iter().for_each(|(job, _)| us.is_answered(job, Outcome::Nothing));
        let is_head = |(_, push): &&(Job, Push)| !push.relays.is_empty();
        pushes.iter().filter(is_head).map(|(_, push)| push.to.clone()).collect()
    };
    let head = heads(&mut us, "first").into_iter().next().unwrap();
    let wait = us.node.wait(us.now);
    let peer = us.node.peers.get_mut(&head).unwrap();
    peer.note_fault("no answer", us.now.mono_ms);
    peer.contact.came_to_nothing(wait, 30_000);
    let address = peer.place.proved().unwrap().clone();
    assert!(!heads(&mut us, "second").contains(&head));
    let began = us.now.mono_ms;
    us.node.took(&Ended { node_id: &head, address, tries: 1, began, now: us.now });
    assert!(heads(&mut us, "third").contains(&head));
}

/// What is owed to one that hangs is bounded, whoever makes up owners.
#[test]
fn one_that_hangs_is_owed_few_versions() {
    let (mut us, others) = among(4);
    us.sets("news");
    let _under_way = pushes(&mut us);
    for number in 0..600_u32 {
        let owner = Other::new(&format!("made{number}"), 200);
        let record = owner.record(WALL_US + 1, "x");
        is_asked_to_pass_on(&mut us, &others[0], &record, Ring::Names);
    }
    let owed = |other: &Other| us.peer(other).owed.errands.len();
    let most = others.iter().map(owed).max().unwrap();
    assert!((200..=256).contains(&most), "{most}");
}

proptest! {
    /// Whatever a relay knows, the parts have all nodes of its stretch, each once, in their order.
    #[test]
    fn parts_have_all_of_a_stretch(count in 0_usize..40, parts in 1_usize..20) {
        let nodes: Vec<NodeId> = (0..count).map(|number| id(&format!("n{number:02}"))).collect();
        let stretch = Stretch { after: id("a"), through: id("z") };
        let cut = super::super::relay::cut(&nodes, &stretch, parts);
        prop_assert_eq!(cut.len(), parts.min(count));
        let all: Vec<NodeId> = cut.iter().flat_map(|(part, _)| part.iter().cloned()).collect();
        prop_assert_eq!(&all, &nodes);
        let sizes: Vec<usize> = cut.iter().map(|(part, _)| part.len()).collect();
        prop_assert!(sizes.iter().max() <= sizes.iter().min().map(|size| size + 1).as_ref());
        for (part, of) in &cut {
            let walk = of.walk(Ring::Names, nodes.iter());
            prop_assert_eq!(walk, part.iter().collect::<Vec<_>>());
        }
        if let Some(((_, first), (_, last))) = cut.first().zip(cut.last()) {
            prop_assert_eq!((&first.after, &last.through), (&stretch.after, &stretch.through));
        }
    }
}

proptest! {
    /// Where all know each other and nothing is lost, everybody gets a version once in each ring,
    /// whoever of a part is asked to pass it on: nobody is given a part with somebody in it who has
    /// passed it on already.
    #[test]
    fn a_version_comes_to_all_once_in_each_ring(
        count in 1_usize..120,
        heads in 1_usize..9,
        seed in any::<u64>(),
        by_names in any::<bool>(),
    ) {
        let ring = if by_names { Ring::Names } else { Ring::Hashes };
        let mut random = fastrand::Rng::with_seed(seed);
        let all: Vec<NodeId> = (0..count).map(|number| id(&format!("n{number:03}"))).collect();
        let owner = all[random.usize(..count)].clone();
        let mut asked = vec![(owner.clone(), Some(Stretch::around(&owner)))];
        let mut got: Vec<NodeId> = Vec::new();
        while let Some((node, stretch)) = asked.pop() {
            if let Some(stretch) = stretch {
                let others = all.iter().filter(|other| **other != node && **other != owner);
                let targets: Vec<NodeId> =
                    stretch.walk(ring, others).into_iter().cloned().collect();
                let me = Some(&node).filter(|_| node != owner);
                for (nodes, part) in
                    super::super::relay::share_out(me, ring, &targets, &stretch, heads)
                {
                    let head = nodes[random.usize(..nodes.len())].clone();
                    asked.push((head, (nodes.len() > 1).then_some(part)));
                }
            }
            got.push(node);
            prop_assert!(got.len() <= count, "somebody got it twice");
        }
        got.sort_unstable();
        prop_assert_eq!(got, all);
    }
}

/// Two halves of a network that hear each other again: who was lost here is told so, and what it
/// makes then is brought to all that lost it as well.
#[test]
fn who_was_lost_is_told_so_and_brought_back_to_all() {
    let (mut us, mut others) = among(20);
    let held = others[7].record(WALL_US + 5, "before");
    us.is_brought(&others[7], &[&held]);
    let id = others[7].id.clone();
    let mut actions = Vec::new();
    let peer = us.node.peers.get_mut(&id).unwrap();
    super::super::suspicion::lose(&id, peer, &mut actions);
    assert_eq!(us.peer(&others[7]).status, PeerStatus::Lost);

    us.is_pinged_by(&mut others[7]);
    assert_eq!(us.peer(&others[7]).status, PeerStatus::Alive);
    us.node.poke(&id, us.now, &mut actions);
    us.take_actions(actions);
    let told = pushes(&mut us);
    let told: Vec<_> = told.iter().filter(|(_, push)| !push.suspects.is_empty()).collect();
    assert_eq!(told.len(), 1, "nobody else hears of it");
    assert_eq!(told[0].1.to, id);
    assert_eq!(told[0].1.suspects[0].fingerprint, held.fingerprint);
    us.is_answered(&told[0].0, Outcome::Nothing);

    let newer = others[7].record(WALL_US + 9, "before");
    us.is_brought(&others[7], &[&newer]);
    let first = pushes(&mut us);
    for ring in Ring::ALL {
        let direct = first.iter().map(|(_, push)| push.to.clone());
        let reached: BTreeSet<NodeId> = direct.chain(reached(&first, &others, ring)).collect();
        assert!(others.iter().all(|other| other.id == id || reached.contains(&other.id)));
    }
    for (job, _) in &first {
        us.is_answered(job, Outcome::Nothing);
    }
    // Once: what follows goes by its own relays.
    us.is_brought(&others[7], &[&others[7].record(WALL_US + 10, "after")]);
    assert!(pushes(&mut us).is_empty());
}

/// Whether the pushes ask to bring the own version to all, in both rings.
fn introduce(pushes: &[(Job, Push)]) -> bool {
    let relays: Vec<&Relay> = pushes.iter().flat_map(|(_, push)| &push.relays).collect();
    let is_in = |ring| {
        let mut all = relays.iter().filter(|relay| relay.owner == id("us"));
        all.any(|relay| relay.ring == ring && relay.stretch.is_all())
    };
    Ring::ALL.into_iter().all(is_in)
}

/// A node that has just begun, and the one other that it knows.
fn newcomer() -> (Us, Other) {
    let (mut us, mut other) = (Us::new(), Other::new("other", 2));
    us.is_connected_with(&mut other);
    us.sets("first");
    (us, other)
}

/// Who has just begun knows nobody else: what that one does not hear, nobody does.
#[test]
fn an_introduction_that_gets_lost_goes_with_the_next_try() {
    let (mut us, _) = newcomer();
    let first = pushes(&mut us);
    assert!(introduce(&first), "{first:?}");
    // Longer than a head is waited for.
    is_late(&mut us, 900);
    us.is_answered(&first[0].0, Outcome::Failed("no answer within 1 s".into()));
    is_late(&mut us, 600);
    let second = pushes(&mut us);
    assert!(introduce(&second), "{second:?}");
    us.is_answered(&second[0].0, Outcome::Nothing);
    is_late(&mut us, 600);
    assert_eq!(pushes(&mut us).len(), 0, "once is enough");
}

#[test]
fn where_one_refuses_a_newcomer_the_next_one_introduces_it() {
    let (mut us, _) = newcomer();
    let first = pushes(&mut us);
    us.is_answered(&first[0].0, refuses(Reason::LimitExceeded));
    let mut another = Other::new("another", 3);
    us.is_joined_by(&mut another);
    let second = pushes(&mut us);
    assert!(introduce(&second), "{second:?}");
}

/// It was met, and lists the newcomer without a version: then it holds none of this run.
#[test]
fn who_is_listed_without_a_record_is_introduced_all_the_same() {
    let (mut us, other) = newcomer();
    let first = pushes(&mut us);
    us.is_answered(&first[0].0, Outcome::Failed("no answer within 1 s".into()));
    let rank = key(OUR_KEY).rank_for(&id("us"));
    let listed =
        KnownNode { node_id: id("us"), rank, version: Version::default(), ..other.known(5, "") };
    let answer = PeersAnswer { buckets: BucketSet(0), nodes: vec![listed] };
    us.node.compare(&other.id, answer, us.now, &mut Vec::new());
    is_late(&mut us, 600);
    let second = pushes(&mut us);
    assert!(introduce(&second), "{second:?}");
}

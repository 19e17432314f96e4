//! Members that take too much, and strangers that stay too long, over real sockets.

use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn one_caller_holds_one_worker_however_many_connections_it_has() {
    let port = start();
    let mut flood: Vec<Peer> = (0..3).map(|_| port.member(1)).collect();
    let mut other = port.member(2);
    port.desk.change(|it| it.begun.clear());
    for (at, peer) in flood.iter_mut().enumerate() {
        peer.ask(1, &format!("hold-{at}"));
        port.desk.wait_begun(1);
    }
    other.ask(2, "other");
    assert_eq!(other.answered().as_deref(), Some("other"));
    assert_eq!(port.desk.begun(), ["hold-0", "other"]);
    for (at, peer) in flood.iter_mut().enumerate() {
        let name = format!("hold-{at}");
        port.desk.wait_begun(2 + at);
        port.desk.release(&name);
        assert_eq!(peer.answered(), Some(name));
    }
}

#[test]
fn a_connection_that_ends_gives_no_worker_back_before_it_is_free() {
    let port = start();
    let (mut gone, mut next, mut other) = (port.member(1), port.member(1), port.member(2));
    port.desk.change(|it| it.begun.clear());
    gone.ask(1, "hold-gone");
    port.desk.wait_begun(1);
    drop(gone);
    next.ask(1, "next");
    other.ask(2, "other");
    assert_eq!(other.answered().as_deref(), Some("other"));
    assert_eq!(port.desk.begun(), ["hold-gone", "other"]);
    port.desk.release("hold-gone");
    assert_eq!(next.answered().as_deref(), Some("next"));
}

#[test]
fn one_caller_has_one_place_for_a_long_body() {
    let port = start();
    let (mut slow, mut second, mut other) = (port.member(1), port.member(1), port.member(2));
    port.desk.change(|it| it.begun.clear());
    second.ask_with(1, "first", LONG_BYTES);
    assert_eq!(second.answered().as_deref(), Some("first"));
    slow.stalls();
    port.stranger(ELSEWHERE).says(NOBODY, "stall-is-seen");
    second.ask_with(1, "second", LONG_BYTES);
    other.ask_with(2, "other", LONG_BYTES);
    assert_eq!(other.answered().as_deref(), Some("other"));
    assert_eq!(port.desk.begun(), ["first", "stall-is-seen", "other"]);
    drop(slow);
    assert_eq!(second.answered().as_deref(), Some("second"));
}

#[test]
fn one_caller_has_few_connections_and_those_used_last_stay() {
    let port = start();
    let mut other = port.member(2);
    let mut all: Vec<Peer> = (0..4).map(|_| port.member(1)).collect();
    // Used again, the first one is not the oldest any more.
    all[0].says(1, "again");
    all.push(port.member(1));
    all.remove(1).wait_end();
    all.extend((0..96).map(|_| port.member(1)));
    all.drain(..96).for_each(|mut peer| peer.wait_end());
    assert_eq!(all.len(), 4);
    all.iter_mut().for_each(|peer| peer.says(1, "still"));
    other.says(2, "still");
}

#[test]
fn strangers_hold_half_of_the_workers_and_one_for_each_origin() {
    let port = start();
    let mut member = port.member(1);
    port.desk.change(|it| it.begun.clear());
    let origins = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let mut strangers = origins.map(|from| port.stranger(from));
    for (at, stranger) in strangers.iter_mut().enumerate() {
        stranger.ask(NOBODY, &format!("hold-{at}"));
        port.desk.wait_begun([1, 1, 2, 2][at]);
    }
    member.ask(1, "member");
    assert_eq!(member.answered().as_deref(), Some("member"));
    assert_eq!(port.desk.begun(), ["hold-0", "hold-2", "member"]);
    // Origins take turns: the one that had none comes first.
    port.desk.release("hold-0");
    assert_eq!(strangers[0].answered().as_deref(), Some("hold-0"));
    port.desk.wait_begun(4);
    assert_eq!(port.desk.begun()[3], "hold-3");
    port.desk.release("hold-3");
    port.desk.wait_begun(5);
    assert_eq!(port.desk.begun()[4], "hold-1");
}

/// A way in which a connection that has a place may end.
type End = fn(&Port, Peer);

fn gives_a_place_back(limits: Limits, caller: u64, end: End) {
    let port = start_with(limits);
    let anew = || match caller {
        NOBODY => port.stranger(ELSEWHERE),
        caller => port.member(caller),
    };
    let mut stalled = anew();
    stalled.stalls();
    let mut next = anew();
    next.ask_with(caller, "next", LONG_BYTES);
    // Both bodies are seen by now, and one has the place.
    port.stranger("127.0.0.3").says(NOBODY, "other");
    assert!(!port.desk.begun().contains(&"next".into()));
    end(&port, stalled);
    // Where its own connection went, too, it comes anew.
    let answered = next.answered().or_else(|| {
        let mut next = anew();
        next.ask_with(caller, "next", LONG_BYTES);
        next.answered()
    });
    assert_eq!(answered.as_deref(), Some("next"));
}

#[test]
fn a_place_for_a_long_body_is_given_back_however_its_connection_ends() {
    let ends = |_: &Port, stalled: Peer| drop(stalled);
    let is_whole = |_: &Port, mut stalled: Peer| {
        stalled.stream.write_all(&[b' '; LONG_BYTES][9..]).unwrap();
        assert_eq!(stalled.answered().as_deref(), Some("stalled"));
    };
    let is_overdue = |_: &Port, mut stalled: Peer| stalled.wait_end();
    let long = Limits::of(None);
    let short = Limits { times: Times { request: Duration::from_secs(2), ..long.times }, ..long };
    for caller in [NOBODY, 1] {
        gives_a_place_back(long, caller, ends);
        gives_a_place_back(long, caller, is_whole);
        gives_a_place_back(short, caller, is_overdue);
    }
    let few = Limits { strangers: 3, ..long };
    gives_a_place_back(few, NOBODY, |port, mut stalled| {
        let _crowd = [(); 3].map(|()| port.stranger(ELSEWHERE));
        stalled.wait_end();
    });
    gives_a_place_back(long, 1, |port, mut stalled| {
        let _others = [(); 3].map(|()| port.member(1));
        stalled.wait_end();
    });
}

/// Whether, where the room of the members is full, the one goes that was not used for longest.
fn who_was_not_used_for_longest_goes() -> bool {
    let port = start_with(Limits { strangers: 3, members: 2, ..Limits::of(None) });
    let mut members = [port.member(1), port.member(2)];
    let mut alone = port.stranger(ELSEWHERE);
    let mut crowd: Vec<Peer> = (0..10).map(|_| port.stranger("127.0.0.3")).collect();
    crowd.drain(..8).for_each(|mut peer| peer.wait_end());
    crowd.iter_mut().for_each(|peer| peer.says(NOBODY, "crowd"));
    alone.says(NOBODY, "alone");
    members[0].says(1, "first");
    members[1].says(2, "second");
    let mut third = alone;
    third.says(3, "third");
    members[1].ask(2, "second");
    let stays = members[1].answered().as_deref() == Some("second");
    if stays {
        members[0].wait_end();
        third.says(3, "third");
    }
    stays
}

#[test]
fn members_and_strangers_have_rooms_of_their_own() {
    // A worker that wrote an answer, and was not let go on since, is still at work for that one,
    // which so does not go.
    assert!((0..5).any(|_| who_was_not_used_for_longest_goes()));
}

#[test]
fn a_stranger_goes_when_its_time_is_up_and_a_member_stays() {
    let port = start_hasty();
    let mut member = port.member(1);
    let mut polite = port.stranger(ELSEWHERE);
    polite.says(NOBODY, "nothing");
    port.stranger("127.0.0.3").wait_end();
    polite.wait_end();
    // What it says later proves nothing, and takes nothing away.
    member.says(NOBODY, "still");
    member.says(1, "still");
}

#[test]
fn a_stranger_that_never_pauses_goes_when_its_time_is_up() {
    let port = start_hasty();
    let mut stranger = port.stranger(ELSEWHERE);
    // The next requests always lie there already.
    (0..3).for_each(|_| stranger.ask(NOBODY, "more"));
    let until = Instant::now() + PATIENCE;
    while stranger.answered().is_some() {
        assert!(Instant::now() < until, "it stays for ever");
        stranger.ask(NOBODY, "more");
    }
}

#[test]
fn a_stranger_whose_request_is_with_a_worker_is_answered_though_its_time_is_up() {
    let port = start_hasty();
    let mut stranger = port.stranger(ELSEWHERE);
    stranger.ask(NOBODY, "hold");
    port.desk.wait_begun(1);
    // It has been there for longer than this one.
    port.stranger("127.0.0.3").wait_end();
    port.desk.release("hold");
    assert_eq!(stranger.answered().as_deref(), Some("hold"));
    assert!(stranger.is_last);
    stranger.wait_end();
}

#[test]
fn a_long_answer_that_is_not_taken_is_given_up_for_others() {
    let port = start_patient();
    let mut taken = port.stranger(ELSEWHERE);
    taken.says(NOBODY, "long");
    let mut asked = ["127.0.0.3"; 6].map(|from| port.stranger(from));
    asked[..4].iter_mut().for_each(Peer::asks_for_much);
    assert_eq!(asked[1].answered().as_deref(), Some("long"), "there is room for four");
    // Not over that one again: the kernel makes more room for who has read much.
    asked[4..].iter_mut().for_each(Peer::asks_for_much);
    asked[0].wait_end();
    for stranger in &mut asked[2..] {
        assert_eq!(stranger.answered().as_deref(), Some("long"));
    }
    taken.says(NOBODY, "still");
}

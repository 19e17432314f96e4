//! What strangers may cause who repeat what members said, or say a lot.

use super::super::super::dns::MESSAGE_BYTES_MAX;
use super::super::super::heard::{ADDRESSES_MAX, FOUND_MAX, MESSAGES_MAX, READ_MAX, SERVICES_MAX};
use super::*;
use std::net::Ipv4Addr;

#[test]
fn where_enough_have_answered_the_rest_says_nothing() {
    let words: Vec<Vec<u8>> = (10..30).map(|it| Host::new(it, 1).word().write()).collect();
    let foreign: Vec<Vec<u8>> = (10..30).map(|it| Host::new(it, 9).word().write()).collect();
    // Who repeats what one member says, in many messages or in one, is one member.
    let again: Vec<Vec<u8>> = (10..30).map(|it| renamed(10, it).write()).collect();
    let mut one = Message { is_answer: true, ..Message::default() };
    (10..20).for_each(|it| one.records.extend(renamed(10, it).records));
    let srv = one.records[1].clone();
    one.records.extend(vec![srv; 20]);
    let one = vec![one.write()];
    for (words, count, is_answered) in [
        (&words, 20, false),
        (&words, 8, false),
        (&words, 7, true),
        (&foreign, 20, true),
        (&again, 20, true),
        (&one, 1, true),
    ] {
        let mut a = Host::new(1, 1);
        a.until(5_000);
        a.hear(&question(), 5_000);
        words.iter().take(count).for_each(|word| drop(a.hear(word, 5_000)));
        let said = a.until(6_000);
        assert_eq!(said.iter().any(|(_, it)| it.is_answer), is_answered, "{count}");
    }
}

/// What a member at an address says under another name.
fn renamed(number: u8, seed: u8) -> Message {
    Host::at(1_000 + u64::from(seed), 1, &format!("10.0.0.{number}")).word()
}

/// Eight recorded members behind each question hide who is asked, but never who asks.
#[test]
fn who_asks_says_who_it_is_whatever_others_say() {
    let words: Vec<Vec<u8>> = (10..30).map(|it| Host::new(it, 1).word().write()).collect();
    let mut a = Host::new(1, 1);
    a.until(5_000);
    let ms = a.wake_at();
    assert!(a.due(ms).iter().all(|it| it.by.is_none()), "it asks");
    // It hears itself, and then the others.
    a.hear(&question(), ms + 1);
    words.iter().for_each(|word| drop(a.hear(word, ms + 2)));
    let said = a.until(ms + 1_500);
    assert!(said.len() == 1 && said[0].1.is_answer, "{said:?}");
    for peers in [1, 100] {
        let mut a = Host::new(1, 1);
        a.peers = peers;
        let said = a.until(24 * 3_600_000);
        let of = |is_answer| {
            let all = said.iter().filter(move |(_, it)| it.is_answer == is_answer);
            all.map(|(at, _)| *at).collect::<Vec<_>>()
        };
        let (questions, answers) = (of(false), of(true));
        assert!(questions.len() > 10);
        for asked in &questions[1..] {
            let follows = |at: &u64| (*asked..asked + 2 * SECOND_MS).contains(at);
            assert!(answers.iter().any(follows), "{asked}");
        }
    }
}

/// A sender that is none of those who say what they say of themselves.
const REPEATER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66));

fn repeated(bytes: &[u8]) -> Said<'_> {
    Said { link: 1, from: REPEATER, bytes }
}

/// Who repeats what eight members said, from one address, silences nobody.
#[test]
fn one_sender_is_one_member_that_answers() {
    let words: Vec<Vec<u8>> = (10..30).map(|it| Host::new(it, 1).word().write()).collect();
    for others in [0, 7, 8] {
        let mut a = Host::new(1, 1);
        a.until(5_000);
        a.hear(&question(), 5_000);
        words.iter().for_each(|word| drop(a.hear_from(repeated(word), 5_000)));
        words.iter().take(others).for_each(|word| drop(a.hear(word, 5_000)));
        // The first of the eight said what it had repeated, and is one with it.
        let is_answered = a.until(6_000).iter().any(|(_, it)| it.is_answer);
        assert_eq!(is_answered, others < 8, "{others}");
    }
    // Of IPv6 an address that is not of the link makes nobody another sender.
    let mut a = Host::new(1, 1);
    a.until(5_000);
    a.hear(&question(), 5_000);
    for (number, word) in words.iter().enumerate() {
        let from = format!("2001:db8::{number}").parse().unwrap();
        a.hear_from(Said { link: 1, from, bytes: word }, 5_000);
    }
    assert!(a.until(6_000).iter().any(|(_, it)| it.is_answer));
}

#[test]
fn a_second_has_a_budget() {
    let word = Host::new(1, 1).word().write();
    let mut b = Host::new(2, 1);
    b.set_places(&[place(1, "10.0.0.2"), place(7, "10.1.0.2")], 0);
    let found: usize = (0..READ_MAX).map(|_| b.hear(&word, 5_100).len()).sum();
    assert_eq!(found, 1, "what is said again says nothing new");
    assert!(!b.may_read(1, 5_999) && b.may_read(1, 6_000));
    let heard = b.heard();
    assert_eq!(heard.messages + heard.dropped, u64::from(READ_MAX));
    assert!(heard.messages <= MESSAGES_MAX as u64 && heard.full_seconds == 1, "{heard:?}");
    let found = |host: &mut Host, numbers: std::ops::Range<u8>, ms| -> usize {
        numbers.map(|it| host.hear(&Host::new(it, 1).word().write(), ms).len()).sum()
    };
    assert_eq!(found(&mut b, 10..90, 6_100), FOUND_MAX);
    assert_eq!(found(&mut b, 10..90, 7_100), FOUND_MAX);
    assert_eq!(b.heard().passed_over, 2 * (80 - FOUND_MAX as u64));
    assert!(b.may_read(7, 7_100), "the other link has a budget of its own");
    assert_eq!(b.hear_on(7, &word, 7_100), ["10.0.0.1:8000"]);
    assert!(!b.may_read(3, 7_100), "there is no such link");
}

/// Whatever senders there are: nobody has so much that a newcomer has nothing.
#[test]
fn who_floods_a_link_or_repeats_many_members_keeps_nobody_from_being_found() {
    let words: Vec<Vec<u8>> = (10..250).map(|it| Host::new(it, 1).word().write()).collect();
    let newcomer = Host::new(1, 1).word().write();
    for senders in [1, 4, 20] {
        let mut b = Host::new(2, 1);
        // All say all at the beginning of each second.
        for ms in (5_000..8_000).step_by(1_000) {
            let mut found = 0;
            for word in &words {
                for from in 0..senders {
                    let from = IpAddr::from([10, 0, 9, from]);
                    if b.may_read(1, ms) {
                        found += b.hear_from(Said { link: 1, from, bytes: word }, ms).len();
                    }
                }
            }
            assert!((FOUND_MAX / 4..FOUND_MAX).contains(&found), "{found}");
            if senders < 20 {
                assert!(b.may_read(1, ms + 1), "all of it is read");
                assert_eq!(b.hear(&newcomer, ms + 1), ["10.0.0.1:8000"], "{senders}");
                // Nor does it help to say it before it does.
                assert!(b.hear_from(repeated(&words[0]), ms + 2).len() <= 1);
            }
        }
        assert!(b.heard().passed_over > 0 || b.heard().dropped > 0);
    }
    // More senders than are told apart are one.
    let mut b = Host::new(2, 1);
    for number in 0..=u8::MAX {
        for _ in 0..8 {
            let from = IpAddr::from([10, 0, 9, number]);
            b.hear_from(Said { link: 1, from, bytes: &question() }, 5_000);
        }
    }
    assert!(b.heard().dropped > 0 && b.heard().messages <= MESSAGES_MAX as u64);
}

/// What is told of a link to whoever looks.
#[test]
fn what_is_heard_is_counted() {
    let mut b = Host::new(2, 1);
    assert_eq!(b.heard(), Heard::default());
    b.hear(&Host::new(1, 1).word().write(), 300);
    b.hear(&Host::new(3, 9).word().write(), 400);
    b.hear(b"nothing", 500);
    b.hear(&question(), 600);
    let own = b.word().write();
    b.hear(&own, 700);
    let heard = Heard {
        messages: 5,
        unreadable: 1,
        members: 1,
        strangers: 1,
        member_at: Some(300),
        ..Heard::default()
    };
    assert_eq!(b.heard(), heard, "it is no member to itself");
    // Another address is another name, and the counts go on.
    b.set_places(&[place(1, "10.0.0.22")], 800);
    assert_eq!(b.heard(), heard);
}

/// Whoever repeats one old announcement keeps nobody from being found.
#[test]
fn one_member_that_is_repeated_leaves_room_for_the_others() {
    let old = Host::new(9, 1).word();
    let mut flood = Message { is_answer: true, ..Message::default() };
    flood.records.extend(old.records.iter().filter(|it| !matches!(it.data, Data::Ptr(_))).cloned());
    let srv = flood.records.iter().find(|it| matches!(it.data, Data::Srv(..))).cloned();
    flood.records.extend(std::iter::repeat_n(srv.unwrap(), SERVICES_MAX));
    let mut b = Host::new(2, 1);
    for _ in 0..160 {
        b.hear_from(repeated(&flood.write()), 5_100);
    }
    assert_eq!(b.hear(&Host::new(1, 1).word().write(), 5_100), ["10.0.0.1:8000"]);
    // Nor does it in the very message, where an avahi has gathered both.
    flood.records.extend(Host::new(3, 1).word().records);
    assert_eq!(b.hear_from(repeated(&flood.write()), 6_100), ["10.0.0.9:8000", "10.0.0.3:8000"]);
}

/// A host may have many addresses; the mark is good for one of them.
#[test]
fn a_host_has_so_many_addresses() {
    for (others, is_found) in [(5, true), (ADDRESSES_MAX - 1, true), (ADDRESSES_MAX, false)] {
        let mut word = Host::new(1, 1).word();
        let right = word.records.remove(3);
        let other = |number: usize| Record {
            data: Data::Ip(IpAddr::from([10, 9, 0, u8::try_from(number).unwrap()])),
            ..right.clone()
        };
        // The same one many times is one.
        let others = (0..others).map(other).chain((0..20).map(|_| other(0)));
        word.records.extend(others);
        word.records.push(right.clone());
        assert_eq!(!Host::new(2, 1).hear(&word.write(), 300).is_empty(), is_found);
    }
}

#[test]
fn a_message_costs_so_many_hashes() {
    let mut all = Message { is_answer: true, ..Message::default() };
    for number in 10..20 {
        let mut word = Host::new(number, 9).word();
        let ip = word.records.remove(3);
        let other = |it| Record { data: Data::Ip(IpAddr::from([10, 9, 0, it])), ..ip.clone() };
        all.records.extend(word.records.into_iter().take(3));
        all.records.extend((0..7).map(other));
    }
    // 70 hashes that lead to nobody, and one that does not come any more.
    all.records.extend(Host::new(1, 1).word().records);
    assert!(Host::new(2, 1).hear(&all.write(), 300).is_empty());
    all.records.drain(..20);
    assert_eq!(Host::new(2, 1).hear(&all.write(), 300), ["10.0.0.1:8000"]);
}

/// Two hosts of two links may have one address of a link.
#[test]
fn an_address_of_another_link_is_not_ones_own() {
    for ip in ["fe80::1", "169.254.0.1"] {
        let word = Host::at(1, 1, ip).word().write();
        let mut b = Host::at(2, 1, ip);
        b.set_places(&[place(1, ip), place(7, "10.1.0.2")], 0);
        assert!(b.hear_on(1, &word, 300).is_empty(), "that is its own");
        assert_eq!(b.hear_on(7, &word, 300).len(), 1, "{ip}");
    }
}

/// A message with many services, all of them of members, costs a few hashes.
#[test]
fn one_message_has_a_few_members() {
    let mut all = Message { is_answer: true, ..Message::default() };
    for number in 1..=25 {
        all.records.extend(Host::new(number, 1).word().records);
    }
    all.records.retain(|record| !matches!(record.data, Data::Ptr(_)));
    let bytes = all.write();
    assert!(bytes.len() < MESSAGE_BYTES_MAX);
    let mut b = Host::new(99, 1);
    let found = b.hear(&bytes, 300).len();
    assert_eq!(b.heard().members, SERVICES_MAX as u64);
    assert_eq!(found, FOUND_MAX / 3 + 1, "and one sender has a share");
}

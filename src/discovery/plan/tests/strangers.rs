//! What strangers may cause who repeat what members said, or say a lot.

use super::super::super::dns::MESSAGE_BYTES_MAX;
use super::super::super::heard::{ADDRESSES_MAX, FOUND_MAX, MESSAGES_MAX, SERVICES_MAX};
use super::*;

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

#[test]
fn a_second_has_a_budget() {
    let word = Host::new(1, 1).word().write();
    let mut b = Host::new(2, 1);
    b.set_places(&[place(1, "10.0.0.2"), place(7, "10.1.0.2")], 0);
    let found: usize = (0..MESSAGES_MAX).map(|_| b.hear(&word, 5_100).len()).sum();
    assert_eq!(found, 1, "what is said again says nothing new");
    assert!(!b.plan.may_read(1, 5_999) && b.plan.may_read(1, 6_000));
    let found = |host: &mut Host, numbers: std::ops::Range<u8>, ms| -> usize {
        numbers.map(|it| host.hear(&Host::new(it, 1).word().write(), ms).len()).sum()
    };
    assert_eq!(found(&mut b, 10..90, 6_100), FOUND_MAX);
    assert_eq!(found(&mut b, 10..90, 7_100), FOUND_MAX);
    assert!(b.plan.may_read(7, 7_100), "the other link has a budget of its own");
    assert_eq!(b.hear_on(7, &word, 7_100), ["10.0.0.1:8000"]);
    assert!(!b.plan.may_read(3, 7_100), "there is no such link");
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
        b.hear(&flood.write(), 5_100);
    }
    assert_eq!(b.hear(&Host::new(1, 1).word().write(), 5_100), ["10.0.0.1:8000"]);
    // Nor does it in the very message, where an avahi has gathered both.
    flood.records.extend(Host::new(3, 1).word().records);
    assert_eq!(b.hear(&flood.write(), 5_100), ["10.0.0.3:8000"]);
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
    assert_eq!(Host::new(99, 1).hear(&bytes, 300).len(), SERVICES_MAX);
}

//! DATA that was accepted and waits for somebody to receive it. Each sender has a share.

use std::collections::VecDeque;

use super::Node;
use crate::order::ListMap;
use crate::protocol::identity::NodeId;
use crate::protocol::report::{Load, Message};
use crate::protocol::{INBOX_BYTES_MAX, INBOX_MESSAGES_MAX};

/// Kept for senders of whom nothing waits, one small message each: so that a few who send much do
/// not shut out those who send little.
const RESERVED_MESSAGES: usize = INBOX_MESSAGES_MAX / 4;
const RESERVED_BYTES: usize = INBOX_BYTES_MAX / 4;
/// Longest message that takes a reserved place, bytes.
const SMALL_BYTES: usize = RESERVED_BYTES / RESERVED_MESSAGES;

/// Messages in the order in which they came, within the limits.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: VecDeque<Message>,
    all: Load,
    of: ListMap<NodeId, Load>,
}

impl Inbox {
    /// What waits.
    pub(super) fn load(&self) -> Load {
        self.all
    }

    /// How many messages of a sender wait.
    pub(super) fn count_of(&self, sender: &NodeId) -> usize {
        self.of.get(sender).map_or(0, |load| load.count)
    }

    /// Whether a message of so many bytes has room. A sender may hold as much as is left for all
    /// others, so one alone fills half of what is not reserved.
    pub(super) fn has_room(&self, sender: &NodeId, bytes: usize) -> bool {
        let of = self.of.get(sender).copied().unwrap_or_default();
        let left_messages = INBOX_MESSAGES_MAX.saturating_sub(self.all.count);
        let left_bytes = INBOX_BYTES_MAX.saturating_sub(self.all.bytes);
        let is_within = |messages: usize, most_bytes: usize| {
            of.count < messages && of.bytes + bytes <= most_bytes
        };
        let is_first = of.count == 0 && bytes <= SMALL_BYTES;
        is_within(
            left_messages.saturating_sub(RESERVED_MESSAGES),
            left_bytes.saturating_sub(RESERVED_BYTES),
        ) || (is_first && is_within(left_messages, left_bytes))
    }

    /// Takes a message; the caller has asked for room.
    pub(super) fn push(&mut self, message: Message) {
        self.count(&message);
        self.messages.push_back(message);
    }

    fn count(&mut self, message: &Message) {
        let count = |load: &mut Load| {
            load.count += 1;
            load.bytes += message.data.len();
        };
        self.of.change(&message.from, count);
        count(&mut self.all);
    }

    /// The oldest message, or the oldest of one sender.
    fn pop(&mut self, from: Option<&NodeId>) -> Option<Message> {
        let at = match from {
            None => 0,
            Some(from) => self.messages.iter().position(|message| message.from == *from)?,
        };
        let message = self.messages.remove(at)?;
        let discount = |load: &mut Load| {
            load.count = load.count.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(message.data.len());
            load.count
        };
        discount(&mut self.all);
        if self.of.change(&message.from, discount) == 0 {
            self.of.remove(&message.from);
        }
        Some(message)
    }
}

impl Node {
    /// Takes the oldest message out of the inbox.
    pub fn receive(&mut self) -> Option<Message> {
        self.receive_from(None)
    }

    /// The same, of one sender where one is named; what others sent keeps its place.
    pub fn receive_from(&mut self, from: Option<&NodeId>) -> Option<Message> {
        self.inbox.pop(from)
    }

    /// Puts a message back in front: its reader went away before it had it. It was acknowledged, so
    /// it stays even where its place was taken meanwhile.
    pub fn give_back(&mut self, message: Message) {
        self.inbox.count(&message);
        self.inbox.messages.push_front(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(from: &NodeId, bytes: usize) -> Message {
        Message { from: from.clone(), data: vec![0; bytes].into() }
    }

    fn fill(inbox: &mut Inbox, from: &NodeId, bytes: usize) -> usize {
        let mut count = 0;
        while inbox.has_room(from, bytes) {
            inbox.push(message(from, bytes));
            count += 1;
        }
        count
    }

    #[test]
    fn one_sender_alone_fills_half_of_what_is_not_reserved() {
        let (mut inbox, hog) = (Inbox::default(), NodeId::new("hog").unwrap());
        assert_eq!(fill(&mut inbox, &hog, 1), (INBOX_MESSAGES_MAX - RESERVED_MESSAGES) / 2);
        let mut inbox = Inbox::default();
        let half_a_mib = 512 * 1024;
        let of_one = (INBOX_BYTES_MAX - RESERVED_BYTES) / half_a_mib / 2;
        assert_eq!(fill(&mut inbox, &hog, half_a_mib), of_one);
        assert!(!inbox.has_room(&hog, half_a_mib) && inbox.has_room(&hog, 0));
        let mut inbox = Inbox::default();
        assert!(inbox.has_room(&hog, crate::protocol::DATA_BYTES_MAX), "the largest message fits");
        inbox.push(message(&hog, 1));
        assert_eq!(inbox.count_of(&hog), 1);
    }

    #[test]
    fn whoever_sends_little_finds_a_place_while_others_fill_it() {
        let mut inbox = Inbox::default();
        let hogs: Vec<NodeId> =
            (0..20).map(|number| NodeId::new(&format!("hog{number}")).unwrap()).collect();
        let honest = NodeId::new("honest").unwrap();
        for _ in 0..200 {
            for hog in &hogs {
                fill(&mut inbox, hog, 100);
            }
            assert!(inbox.has_room(&honest, 100));
            inbox.push(message(&honest, 100));
            // A reader takes them out one by one; the hogs fill each place at once.
            while inbox.count_of(&honest) > 0 {
                inbox.pop(None).unwrap();
                for hog in &hogs {
                    fill(&mut inbox, hog, 100);
                }
            }
        }
        while inbox.pop(None).is_some() {}
        assert_eq!((inbox.all, inbox.of.len()), (Load::default(), 0));
    }

    #[test]
    fn those_of_one_sender_are_taken_out_of_the_middle() {
        let mut inbox = Inbox::default();
        let [a, b] = ["a", "b"].map(|id| NodeId::new(id).unwrap());
        for (from, bytes) in [(&a, 1), (&b, 2), (&a, 3), (&b, 4)] {
            inbox.push(message(from, bytes));
        }
        let mut bytes_of = |from: Option<&NodeId>| inbox.pop(from).map(|it| it.data.len());
        assert_eq!([bytes_of(Some(&b)), bytes_of(Some(&b))], [Some(2), Some(4)]);
        assert_eq!([bytes_of(Some(&b)), bytes_of(None)], [None, Some(1)]);
        assert_eq!((inbox.all.count, inbox.all.bytes), (1, 3));
    }

    #[test]
    fn a_message_that_comes_back_stays_though_its_place_is_taken() {
        let (mut inbox, sender) = (Inbox::default(), NodeId::new("a").unwrap());
        fill(&mut inbox, &sender, 1);
        let taken = inbox.pop(None).unwrap();
        fill(&mut inbox, &sender, 1);
        inbox.count(&taken);
        inbox.messages.push_front(taken);
        assert_eq!(inbox.all.count, (INBOX_MESSAGES_MAX - RESERVED_MESSAGES) / 2 + 1);
        assert!(!inbox.has_room(&sender, 0));
    }
}

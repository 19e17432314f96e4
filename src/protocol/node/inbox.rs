//! DATA that was accepted and waits for somebody to receive it.

use std::collections::VecDeque;

use super::Node;
use crate::protocol::report::Message;
use crate::protocol::{INBOX_BYTES_MAX, INBOX_MESSAGES_MAX};

/// Messages in the order in which they came, within the limits.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Inbox {
    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether a message of so many bytes has room.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.messages.len() < INBOX_MESSAGES_MAX && self.bytes + bytes <= INBOX_BYTES_MAX
    }

    /// Takes a message; the caller has asked for room.
    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.data.len();
        self.messages.push_back(message);
    }
}

impl Node {
    /// Takes the oldest message out of the inbox.
    pub fn receive(&mut self) -> Option<Message> {
        let message = self.inbox.messages.pop_front()?;
        self.inbox.bytes = self.inbox.bytes.saturating_sub(message.data.len());
        Some(message)
    }

    /// Puts a message back in front: its reader went away before it had it.
    pub fn give_back(&mut self, message: Message) {
        self.inbox.bytes += message.data.len();
        self.inbox.messages.push_front(message);
    }
}

//! How many connections the port has at a time, and how long each may take: figures, and no more.

use std::time::Duration;

use super::WORKERS;

/// A port for other nodes, where there are descriptors enough.
const NODES: Limits = Limits {
    workers: WORKERS,
    // Whoever joins is one of them for a moment.
    strangers: 64,
    // One of each of the 1024 peers that a node knows at most, and as many again for peers that
    // came anew before their old connection was known to be dead.
    members: 2 * 1024,
    // One that is kept, one that is anew, and for each of them one that the other side gave up and
    // that is not known to be dead yet.
    caller_connections: 4,
    // Memory again. A worker makes them faster than a slow line takes them, so they are as many as
    // a board can hold, not as few as would be enough.
    member_answers: 24,
    stranger_answers: 4,
    times: Times {
        stranger: Duration::from_secs(8),
        // A caller waits 5 s for its request and the answer.
        request: Duration::from_secs(6),
        // Longer than a client keeps it, so that the client is the one who ends it.
        idle: Duration::from_secs(20),
        closing: Duration::from_secs(1),
    },
};
/// A port for people, who are few. Who shows the token of the page counts as a member there.
const PEOPLE: Limits = Limits {
    // They need no signature: one may wait for a long answer.
    workers: 2,
    strangers: 32,
    members: 32,
    // From one address: several people behind one proxy, each with a page or two. Half of all, so
    // that they fill no room.
    caller_connections: 16,
    // The answer with all states may be much longer.
    member_answers: 3,
    stranger_answers: 3,
    // With a telephone on a slow line all takes long. They are cut where others need the room.
    times: Times {
        stranger: Duration::from_secs(120),
        request: Duration::from_secs(30),
        idle: Duration::from_secs(60),
        ..NODES.times
    },
};
/// Where there are few descriptors, one of so many is for a viewer, and one for one with a token.
const DESCRIPTORS_A_VIEWER: usize = 32;
/// Connections that the port has at the least, however few descriptors there are.
const CONNECTIONS_MIN: usize = 64;
/// Descriptors that are left to the rest of the node, where there are few.
const DESCRIPTORS_LEFT: usize = 96;

/// The limits of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Workers, and requests that are with them.
    pub(super) workers: usize,
    /// Most connections over which nobody proved itself.
    pub(super) strangers: usize,
    /// Most connections of members: a room of their own, so that neither side fills the other's.
    pub(super) members: usize,
    /// Most connections of one of them.
    pub(super) caller_connections: usize,
    /// Most long answers that members have not taken yet.
    pub(super) member_answers: usize,
    /// Most of them that strangers have not.
    pub(super) stranger_answers: usize,
    /// How long they may take.
    pub(super) times: Times,
}

impl Limits {
    /// Takes how many descriptors the process may have; nothing where that is not limited.
    pub(super) fn of(descriptors: Option<u64>) -> Self {
        let all = number(descriptors)
            .saturating_sub(DESCRIPTORS_LEFT)
            .clamp(CONNECTIONS_MIN, NODES.strangers + NODES.members);
        let strangers = NODES.strangers.min(all / 2);
        Self { strangers, members: all - strangers, ..NODES }
    }

    /// Those of a port for people.
    pub(super) fn of_people(descriptors: Option<u64>) -> Self {
        let most = (number(descriptors) / DESCRIPTORS_A_VIEWER).clamp(1, PEOPLE.strangers);
        Self { strangers: most, members: most, ..PEOPLE }
    }
}

fn number(descriptors: Option<u64>) -> usize {
    descriptors.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX)
}

/// How long a connection may take for what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// For a stranger to stay until it has proved that it is a member.
    pub(super) stranger: Duration,
    /// For a request to come in, with its wait for a place or a worker, and its answer to go out.
    pub(super) request: Duration,
    /// For a connection that is kept without a request.
    pub(super) idle: Duration,
    /// For the other side to read the last answer.
    pub(super) closing: Duration,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Reads a request, or waits for one.
    Reading,
    /// Reads no more of a long body, until there is a place for it.
    Waiting,
    /// A whole request waits for a worker.
    Asked,
    /// A worker has it.
    Served,
    /// The answer is being written.
    Writing,
    /// The last answer is written; what still comes is thrown away until the other side is gone.
    Closing,
}

/// What a connection is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    /// What it does.
    pub(super) state: State,
    /// Whether a request has begun to come in.
    pub(super) has_begun: bool,
    /// How long it has been there.
    pub(super) stayed: Duration,
    /// How long the present request, or the state, has lasted.
    pub(super) spent: Duration,
}

impl Times {
    /// Whether a stranger has been there for as long as it may.
    pub(super) fn has_overstayed(&self, is_member: bool, stayed: Duration) -> bool {
        !is_member && stayed > self.stranger
    }

    /// Whether a connection has had its time, and is closed.
    pub(super) fn are_over(&self, is_member: bool, age: Age) -> bool {
        let spent_max = match age.state {
            // The workers are ours; whom they work for gets the answer.
            State::Served => return false,
            State::Closing => return age.spent > self.closing,
            State::Writing => return age.spent > self.request,
            State::Reading if !age.has_begun => self.idle,
            State::Reading | State::Waiting | State::Asked => self.request,
        };
        age.spent > spent_max || self.has_overstayed(is_member, age.stayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_to_the_rest_of_the_node() {
        let room = |descriptors| {
            let Limits { strangers, members, .. } = Limits::of(descriptors);
            (strangers, members)
        };
        assert_eq!(room(None), (64, 2048));
        assert_eq!(room(Some(u64::MAX)), (64, 2048));
        assert_eq!(room(Some(2208)), (64, 2048));
        assert_eq!(room(Some(2207)), (64, 2047));
        assert_eq!(room(Some(1024)), (64, 864));
        assert_eq!(room(Some(256)), (64, 96));
        assert_eq!(room(Some(200)), (52, 52));
        assert_eq!(room(Some(0)), (32, 32), "it has to live with some");
        let room = |descriptors| Limits::of_people(descriptors).strangers;
        let rooms = [None, Some(1024), Some(256), Some(0)].map(room);
        assert_eq!(rooms, [32, 32, 8, 1]);
    }

    const STATES: [State; 6] = [
        State::Reading,
        State::Waiting,
        State::Asked,
        State::Served,
        State::Writing,
        State::Closing,
    ];

    /// Until when, in seconds, a connection in this state is left alone.
    fn closed_after(is_member: bool, state: State, has_begun: bool, is_new: bool) -> Option<u64> {
        (0..100).find(|second| {
            let spent = Duration::from_secs(*second) + Duration::from_millis(1);
            let stayed = if is_new { spent } else { spent + Duration::from_secs(3) };
            NODES.times.are_over(is_member, Age { state, has_begun, stayed, spent })
        })
    }

    #[test]
    fn a_member_has_its_time_for_each_request() {
        let expected = [Some(6), Some(6), Some(6), None, Some(6), Some(1)];
        assert_eq!(STATES.map(|state| closed_after(true, state, true, false)), expected);
        assert_eq!(closed_after(true, State::Reading, false, false), Some(20));
    }

    #[test]
    fn a_stranger_has_it_for_all_of_its_requests_but_not_while_a_worker_has_one() {
        let expected = [Some(5), Some(5), Some(5), None, Some(6), Some(1)];
        assert_eq!(STATES.map(|state| closed_after(false, state, true, false)), expected);
        assert_eq!(closed_after(false, State::Reading, false, false), Some(5));
        // Silent from the beginning.
        assert_eq!(closed_after(false, State::Reading, false, true), Some(8));
        // A request that came at once and does not end.
        assert_eq!(closed_after(false, State::Reading, true, true), Some(6));
    }
}

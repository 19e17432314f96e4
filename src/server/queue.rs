//! Who is next, and who has to go: the gate's decisions, pure. Connections are numbers here, in the
//! order in which they came.
//!
//! Whoever proved over a connection that it is a member is known by its [`Caller`]; all others are
//! strangers, known by where they come from. One of either kind is a *party*: it counts as one,
//! however many connections it has, and has one worker at a time, and one place for a long body.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use super::Caller;
use super::limits::Limits;

/// Most long bodies of members, and of strangers, that are read at a time: the memory of a small
/// host. Others wait in the kernel.
const MEMBER_PLACES: usize = 12;
const STRANGER_PLACES: usize = 4;
/// Most workers that strangers have while no member waits: so one that comes finds another half.
const STRANGER_WORKERS: usize = 2;
/// The same while a member waits: newcomers come in, and members who come anew, and no more.
const STRANGER_WORKERS_AMONG_MEMBERS: usize = 1;
/// How many requests of members go in a row while strangers wait: three of four workers are the
/// members', and three of four turns.
const MEMBERS_IN_A_ROW: usize = 3;

/// Who counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Party {
    Member(Caller),
    /// An IPv4 address, or an IPv6 network of 64 bits, which one host may own.
    Stranger(IpAddr),
}

impl Party {
    fn stranger(ip: IpAddr) -> Self {
        Self::Stranger(match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            ip => ip,
        })
    }
}

/// Those who wait for something of which each party has one at a time. It is first come, first
/// served among parties that have none; a party that gives its own back comes last again.
#[derive(Debug, Default)]
struct Turns {
    waiting: HashMap<Party, VecDeque<u64>>,
    /// Parties that wait and have none.
    next: VecDeque<Party>,
    /// Which connection of a party has it.
    having: HashMap<Party, u64>,
}

impl Turns {
    fn wait(&mut self, party: Party, token: u64) {
        let queue = self.waiting.entry(party).or_default();
        queue.push_back(token);
        if queue.len() == 1 && !self.having.contains_key(&party) {
            self.next.push_back(party);
        }
    }

    fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether somebody could have one, where so many have one at most.
    fn has_next(&self, most: usize) -> bool {
        self.having.len() < most && !self.next.is_empty()
    }

    fn take(&mut self, most: usize) -> Option<(Party, u64)> {
        if !self.has_next(most) {
            return None;
        }
        let party = self.next.pop_front()?;
        let queue = self.waiting.get_mut(&party)?;
        let token = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&party);
        }
        self.having.insert(party, token);
        Some((party, token))
    }

    /// Takes it back from a connection, if that has it.
    fn give_back(&mut self, party: Party, token: u64) {
        if self.having.get(&party) != Some(&token) {
            return;
        }
        self.having.remove(&party);
        if self.waiting.contains_key(&party) {
            self.next.push_back(party);
        }
    }

    /// Lets a connection wait no more.
    fn forget(&mut self, party: Party, token: u64) {
        let Some(queue) = self.waiting.get_mut(&party) else { return };
        queue.retain(|it| *it != token);
        if queue.is_empty() {
            self.waiting.remove(&party);
            self.next.retain(|it| *it != party);
        }
    }
}

/// Connections of each party, of which there may be so many in all.
#[derive(Debug)]
struct Crowds {
    of: BTreeMap<Party, BTreeSet<u64>>,
    most: usize,
}

impl Crowds {
    fn new(most: usize) -> Self {
        Self { of: BTreeMap::new(), most }
    }

    fn are_too_many(&self) -> bool {
        self.of.values().map(BTreeSet::len).sum::<usize>() > self.most
    }

    fn join(&mut self, party: Party, token: u64) {
        self.of.entry(party).or_default().insert(token);
    }

    fn leave(&mut self, party: Party, token: u64) {
        if let Some(crowd) = self.of.get_mut(&party) {
            crowd.remove(&token);
            if crowd.is_empty() {
                self.of.remove(&party);
            }
        }
    }
}

/// Members, or strangers.
#[derive(Debug)]
struct Class {
    /// Whole requests that wait for a worker.
    asked: Turns,
    /// Long bodies that wait for a place, and how many places there are.
    long: Turns,
    places: usize,
    /// All connections.
    all: Crowds,
    /// Those that have not taken a long answer yet.
    unread: Crowds,
}

impl Class {
    fn new(connections: usize, places: usize, answers: usize) -> Self {
        let (asked, long) = Default::default();
        Self { asked, long, places, all: Crowds::new(connections), unread: Crowds::new(answers) }
    }
}

/// What is known of a connection.
#[derive(Debug)]
struct Known {
    party: Party,
    /// When it was used last, where a member's; else when it came.
    used: u64,
}

/// All connections, and what they wait for.
#[derive(Debug)]
pub(super) struct Queue {
    members: Class,
    strangers: Class,
    connections: HashMap<u64, Known>,
    /// Most connections of one member.
    caller_connections: usize,
    /// Requests that are with workers, and whose they are: of connections that ended, too.
    working: HashMap<u64, Party>,
    /// Turns that members had since a stranger had one.
    in_a_row: usize,
    /// Counts uses.
    uses: u64,
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            members: Class::new(limits.members, MEMBER_PLACES, limits.member_answers),
            strangers: Class::new(limits.strangers, STRANGER_PLACES, limits.stranger_answers),
            connections: HashMap::new(),
            caller_connections: limits.caller_connections,
            working: HashMap::new(),
            in_a_row: 0,
            uses: 0,
        }
    }

    /// Takes in a connection from there. Gives the stranger that has to go for it.
    pub(super) fn admit(&mut self, token: u64, ip: IpAddr) -> Option<u64> {
        let party = Party::stranger(ip);
        self.uses += 1;
        self.connections.insert(token, Known { party, used: self.uses });
        self.strangers.all.join(party, token);
        if self.strangers.all.are_too_many() { self.stranger_to_cut() } else { None }
    }

    /// The oldest stranger of the origin that has most of them: whoever comes from elsewhere keeps
    /// its place.
    pub(super) fn stranger_to_cut(&self) -> Option<u64> {
        self.longest_unused(self.strangers.all.of.values())
    }

    /// Takes a connection over which a caller proved itself; the first one has it for good, so that
    /// nobody moves its connections into the crowd of another. Gives the member's connection that
    /// has to go for it: one of the same caller where that has too many.
    pub(super) fn prove(&mut self, token: u64, caller: Caller) -> Option<u64> {
        let stranger @ Party::Stranger(_) = self.party(token)? else { return None };
        self.withdraw(token);
        self.strangers.all.leave(stranger, token);
        let member = Party::Member(caller);
        self.connections.get_mut(&token)?.party = member;
        self.touch(token);
        self.members.all.join(member, token);
        let crowd = self.members.all.of.get(&member);
        if crowd.is_some_and(|crowd| crowd.len() > self.caller_connections) {
            self.longest_unused(crowd.into_iter())
        } else if self.members.all.are_too_many() {
            self.longest_unused(self.members.all.of.values())
        } else {
            None
        }
    }

    /// Whether somebody proved itself over the connection.
    pub(super) fn is_member(&self, token: u64) -> bool {
        matches!(self.party(token), Some(Party::Member(_)))
    }

    /// Forgets a connection that ended; a worker that is busy for it stays its party's.
    pub(super) fn remove(&mut self, token: u64) {
        self.withdraw(token);
        if let Some(known) = self.connections.remove(&token) {
            self.class(known.party).all.leave(known.party, token);
        }
    }

    /// The connection has a long body, and waits for a place.
    pub(super) fn wait_for_place(&mut self, token: u64) {
        if let Some(party) = self.party(token) {
            self.class(party).long.wait(party, token);
        }
    }

    /// Gives a place away: to whom, until its request is with a worker or the connection ends.
    pub(super) fn next_place(&mut self) -> Option<u64> {
        let taken = [&mut self.members, &mut self.strangers]
            .into_iter()
            .find_map(|class| class.long.take(class.places));
        taken.map(|(_, token)| token)
    }

    /// The connection has a whole request, and waits for a worker.
    pub(super) fn ask(&mut self, token: u64) {
        self.touch(token);
        if let Some(party) = self.party(token) {
            self.class(party).asked.wait(party, token);
        }
    }

    /// Gives a worker away: for whose request, until it is finished.
    pub(super) fn next_request(&mut self) -> Option<u64> {
        let has_member = self.members.asked.has_next(usize::MAX);
        let most = if has_member { STRANGER_WORKERS_AMONG_MEMBERS } else { STRANGER_WORKERS };
        let has_stranger = self.strangers.asked.has_next(most);
        let is_strangers = has_stranger && (!has_member || self.in_a_row >= MEMBERS_IN_A_ROW);
        let (party, token) = if is_strangers {
            self.strangers.asked.take(most)?
        } else {
            self.members.asked.take(usize::MAX)?
        };
        self.in_a_row = if is_strangers { 0 } else { self.in_a_row.saturating_add(1) };
        self.class(party).long.give_back(party, token);
        self.working.insert(token, party);
        Some(token)
    }

    /// A worker is done with the request of the connection, whatever became of that.
    pub(super) fn finish(&mut self, token: u64) {
        if let Some(party) = self.working.remove(&token) {
            self.class(party).asked.give_back(party, token);
        }
        self.touch(token);
    }

    /// The other side has not taken a long answer yet. Gives the connection that is closed, where
    /// there are too many such answers.
    pub(super) fn leave_unread(&mut self, token: u64) -> Option<u64> {
        let party = self.party(token)?;
        let unread = &mut self.class(party).unread;
        unread.join(party, token);
        if !unread.are_too_many() {
            return None;
        }
        let class = if self.is_member(token) { &self.members } else { &self.strangers };
        self.longest_unused(class.unread.of.values())
    }

    /// The other side has taken its answer.
    pub(super) fn take_read(&mut self, token: u64) {
        if let Some(party) = self.party(token) {
            self.class(party).unread.leave(party, token);
        }
    }

    /// The connections whose requests are with workers; some may have ended.
    pub(super) fn working(&self) -> impl Iterator<Item = u64> {
        self.working.keys().copied()
    }

    /// Whether a connection waits for a worker or for a place.
    pub(super) fn has_waiting(&self) -> bool {
        let classes = [&self.members, &self.strangers];
        classes.iter().any(|it| it.asked.has_waiting() || it.long.has_waiting())
    }

    fn party(&self, token: u64) -> Option<Party> {
        self.connections.get(&token).map(|known| known.party)
    }

    fn class(&mut self, party: Party) -> &mut Class {
        match party {
            Party::Member(_) => &mut self.members,
            Party::Stranger(_) => &mut self.strangers,
        }
    }

    /// Takes back all that a connection waits for or has, but a worker.
    fn withdraw(&mut self, token: u64) {
        if let Some(party) = self.party(token) {
            let class = self.class(party);
            class.asked.forget(party, token);
            class.long.forget(party, token);
            class.long.give_back(party, token);
            class.unread.leave(party, token);
        }
    }

    /// A member's connection was used.
    fn touch(&mut self, token: u64) {
        self.uses += 1;
        if let Some(known) = self.connections.get_mut(&token)
            && matches!(known.party, Party::Member(_))
        {
            known.used = self.uses;
        }
    }

    /// In the largest of these crowds, what was not used for longest and is not with a worker.
    fn longest_unused<'a>(&self, crowds: impl Iterator<Item = &'a BTreeSet<u64>>) -> Option<u64> {
        crowds
            .flat_map(|crowd| crowd.iter().map(|token| (crowd.len(), *token)))
            .filter(|(_, token)| !self.working.contains_key(token))
            .max_by_key(|(count, token)| {
                (*count, Reverse(self.connections.get(token).map(|known| known.used)))
            })
            .map(|(_, token)| token)
    }
}

#[cfg(test)]
mod tests;

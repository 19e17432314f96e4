//! Whatever happens at the gate: the queue held against a plain model of it.

use std::collections::HashSet;

use proptest::collection;
use proptest::prelude::*;

use super::*;

/// What happens at the gate.
#[derive(Debug, Clone)]
enum Event {
    Comes {
        origin: u64,
    },
    /// The connection with this index is asked over, with a short body or a long one.
    Asks {
        at: usize,
        is_long: bool,
    },
    /// The long body with this index has come in.
    IsWhole {
        at: usize,
    },
    /// The worker with this index is done; whom it worked for proved itself or did not, and
    /// takes the answer at once or does not.
    Finishes {
        at: usize,
        caller: Option<u64>,
        is_taken: bool,
    },
    /// The answer with this index was taken.
    Reads {
        at: usize,
    },
    Ends {
        at: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let at = || 0..64_usize;
    prop_oneof![
        (0..6_u64).prop_map(|origin| Event::Comes { origin }),
        (at(), any::<bool>()).prop_map(|(at, is_long)| Event::Asks { at, is_long }),
        at().prop_map(|at| Event::IsWhole { at }),
        (at(), proptest::option::of(0..5_u64), any::<bool>())
            .prop_map(|(at, caller, is_taken)| Event::Finishes { at, caller, is_taken }),
        at().prop_map(|at| Event::Reads { at }),
        at().prop_map(|at| Event::Ends { at }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    WaitsForPlace,
    HasPlace,
    Asks { has_place: bool },
    Served,
    Writes,
}

/// The same as [`Queue`] in a few words, to hold it against.
struct World {
    queue: Queue,
    limits: Limits,
    doing: BTreeMap<u64, (Party, Doing)>,
    /// Who is with a worker.
    working: Vec<(u64, Party)>,
    came: u64,
}

impl World {
    fn new() -> Self {
        let limits = limits(6, 9);
        let queue = Queue::new(&limits);
        Self { queue, limits, doing: BTreeMap::new(), working: Vec::new(), came: 0 }
    }

    fn pick(&self, at: usize, wanted: impl Fn(Doing) -> bool) -> Option<u64> {
        let of_them = self.doing.iter().filter(|(_, (_, doing))| wanted(*doing));
        let tokens: Vec<u64> = of_them.map(|(token, _)| *token).collect();
        (!tokens.is_empty()).then(|| tokens[at % tokens.len()])
    }

    fn set(&mut self, token: u64, doing: Doing) {
        self.doing.get_mut(&token).unwrap().1 = doing;
    }

    fn end(&mut self, token: Option<u64>) {
        if let Some(token) = token {
            assert!(self.doing.remove(&token).is_some(), "who ends is there");
            self.queue.remove(token);
        }
    }

    /// Those who go for others are not with a worker, and of the largest crowd.
    fn cut(&mut self, token: Option<u64>) {
        if let Some(token) = token {
            assert!(self.working.iter().all(|(it, _)| *it != token));
            self.end(Some(token));
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Comes { origin } => {
                self.came += 1;
                let party = Party::stranger(ip_of(origin));
                self.doing.insert(self.came, (party, Doing::Nothing));
                let cut = self.queue.admit(self.came, ip_of(origin));
                self.cut(cut);
            }
            Event::Asks { at, is_long } => {
                let Some(token) = self.pick(at, |it| it == Doing::Nothing) else { return };
                if is_long {
                    self.set(token, Doing::WaitsForPlace);
                    self.queue.wait_for_place(token);
                } else {
                    self.set(token, Doing::Asks { has_place: false });
                    self.queue.ask(token);
                }
            }
            Event::IsWhole { at } => {
                let Some(token) = self.pick(at, |it| it == Doing::HasPlace) else { return };
                self.set(token, Doing::Asks { has_place: true });
                self.queue.ask(token);
            }
            Event::Finishes { at, caller, is_taken } => {
                if !self.working.is_empty() {
                    self.finish(at % self.working.len(), caller, is_taken);
                }
            }
            Event::Reads { at } => {
                let Some(token) = self.pick(at, |it| it == Doing::Writes) else { return };
                self.set(token, Doing::Nothing);
                self.queue.take_read(token);
            }
            Event::Ends { at } => {
                let token = self.pick(at, |_| true);
                self.end(token);
            }
        }
    }

    fn finish(&mut self, at: usize, caller: Option<u64>, is_taken: bool) {
        let (token, _) = self.working.remove(at);
        self.queue.finish(token);
        let Some((party, doing)) = self.doing.get_mut(&token) else { return };
        *doing = if is_taken { Doing::Nothing } else { Doing::Writes };
        if let Some(caller) = caller {
            if matches!(party, Party::Stranger(_)) {
                *party = Party::Member(Caller(caller));
            }
            let cut = self.queue.prove(token, Caller(caller));
            self.cut(cut);
        }
        if self.doing.get(&token).is_some_and(|(_, doing)| *doing == Doing::Writes) {
            let cut = self.queue.leave_unread(token);
            self.cut(cut);
        }
    }

    /// Gives away all places and workers that are free.
    fn give(&mut self) {
        self.give_workers();
        while let Some(token) = self.queue.next_place() {
            assert_eq!(self.doing[&token].1, Doing::WaitsForPlace);
            self.set(token, Doing::HasPlace);
            self.give_workers();
        }
    }

    fn give_workers(&mut self) {
        while self.working.len() < WORKERS {
            let member_waits = self.asking().any(is_member);
            let Some(token) = self.queue.next_request() else { break };
            let (party, doing) = self.doing[&token];
            assert!(matches!(doing, Doing::Asks { .. }), "{doing:?}");
            self.set(token, Doing::Served);
            self.working.push((token, party));
            let most = if member_waits { 1 } else { 2 };
            assert!(is_member(party) || self.strangers_working() <= most);
        }
    }

    /// Parties that could have a worker.
    fn asking(&self) -> impl Iterator<Item = Party> {
        let asking = self.doing.values().filter(|(_, doing)| matches!(doing, Doing::Asks { .. }));
        asking
            .map(|(party, _)| *party)
            .filter(|party| self.working.iter().all(|(_, it)| it != party))
    }

    fn strangers_working(&self) -> usize {
        self.working.iter().filter(|(_, party)| !is_member(*party)).count()
    }

    fn check(&self) {
        let parties: HashSet<Party> = self.working.iter().map(|(_, party)| *party).collect();
        assert_eq!(parties.len(), self.working.len(), "one worker each");
        if self.working.len() < WORKERS {
            assert!(!self.asking().any(is_member), "a member waits for nothing");
            assert!(self.asking().next().is_none() || self.strangers_working() == 2);
        }
        let mut counts = BTreeMap::<Party, usize>::new();
        for (token, (party, _)) in &self.doing {
            assert_eq!(self.queue.is_member(*token), is_member(*party));
            *counts.entry(*party).or_default() += 1;
        }
        let all = |members: bool| {
            let of_class = counts.iter().filter(|(party, _)| is_member(**party) == members);
            of_class.map(|(_, count)| count).sum::<usize>()
        };
        let unread = self.doing.values().filter(|(_, doing)| *doing == Doing::Writes);
        assert!(
            unread.filter(|(party, _)| !is_member(*party)).count() <= self.limits.stranger_answers
        );
        assert!(all(true) <= self.limits.members && all(false) <= self.limits.strangers);
        assert!(counts.iter().all(|(party, count)| !is_member(*party) || *count <= 4));
        self.check_places();
    }

    fn check_places(&self) {
        let with = |wanted: &[Doing]| -> Vec<Party> {
            let of_them = self.doing.values().filter(|(_, doing)| wanted.contains(doing));
            of_them.map(|(party, _)| *party).collect()
        };
        let having = with(&[Doing::HasPlace, Doing::Asks { has_place: true }]);
        let parties: HashSet<Party> = having.iter().copied().collect();
        assert_eq!(parties.len(), having.len(), "one place each");
        let strangers = having.iter().filter(|party| !is_member(**party)).count();
        assert!(strangers <= STRANGER_PLACES);
        assert_eq!(self.queue.have_places(), [having.len() - strangers, strangers]);
        for waits in with(&[Doing::WaitsForPlace]) {
            let is_full = !is_member(waits) && strangers == STRANGER_PLACES;
            assert!(parties.contains(&waits) || is_full, "{waits:?} waits for nothing");
        }
    }
}

fn is_member(party: Party) -> bool {
    matches!(party, Party::Member(_))
}

proptest! {
    #[test]
    fn whatever_happens_bounds_hold_and_nobody_is_forgotten(
        events in collection::vec(event(), 0..300)
    ) {
        let mut world = World::new();
        for event in events {
            world.on(event);
            world.give();
            world.check();
        }
        // Nothing more comes: all who wait are served, with a few steps for each.
        for _ in 0..100 {
            world.on(Event::IsWhole { at: 0 });
            world.on(Event::Reads { at: 0 });
            world.on(Event::Finishes { at: 0, caller: None, is_taken: true });
            world.give();
            world.check();
        }
        prop_assert!(world.pick(0, |it| it != Doing::Nothing).is_none());
        while let Some(token) = world.pick(0, |_| true) {
            world.end(Some(token));
        }
        prop_assert!(world.queue.is_empty(), "{:?}", world.queue);
    }

    /// All ask again as soon as they are answered; one who comes waits for one request of each.
    #[test]
    fn nobody_waits_for_more_than_one_request_of_each_other_party(
        members in 1..30_u64,
        strangers in 1..12_u64,
    ) {
        let mut queue = queue();
        let (member, stranger) = (1_000_000, 1_000_001);
        // Four connections each.
        for token in 0..members * 4 {
            queue.member(token, token / 4);
        }
        let all = members * 4 + strangers * 4;
        for token in members * 4..all {
            queue.admit(token, ip_of(100 + token % strangers));
        }
        queue.asks(0..all);
        queue.member(member, member);
        queue.admit(stranger, ip_of(99));
        let mut working = queue.served(WORKERS);
        queue.asks([member, stranger]);
        let mut order = Vec::new();
        for _ in 0..400 {
            let token = working.remove(0);
            queue.finish(token);
            if token < member {
                queue.ask(token);
            }
            while working.len() < WORKERS && let Some(token) = queue.next_request() {
                working.push(token);
                order.push(token);
            }
        }
        let place = |token| order.iter().position(|it| *it == token).map(|at| at as u64);
        // One in four is a stranger's.
        let before = place(member).unwrap();
        prop_assert!(before <= members + members / 3 + 1, "{before} before the member");
        let before = place(stranger).unwrap();
        prop_assert!(before <= 4 * (strangers + 1), "{before} before the stranger");
    }
}

//! The member in Python as one of many: it relays, is probed, probes, and refutes, among real nodes
//! that do the same. They see it from outside, and it says itself what it did.
//!
//! A network is large where more than 32 others are known by their records. Here some of them are
//! records alone, of owners that are nobody: so few processes do, and all goes by relays. With
//! `DSN_LONG=1` all of them run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::{python, root};
use crate::support::process::{Process, Said, dsn};
use crate::support::{Place4Nodes, address_of_nobody, eventually};

/// How many nodes run beside these two, and of how many others there are records alone.
struct Size {
    nodes: usize,
    ghosts: usize,
    tick: &'static str,
}

impl Size {
    fn of_this_run() -> Self {
        if std::env::var("DSN_LONG").is_ok_and(|long| long == "1") {
            Self { nodes: 36, ghosts: 0, tick: "3s" }
        } else {
            Self { nodes: 12, ghosts: 25, tick: TICK }
        }
    }
}

/// Behind it in the order of the names stands the node that it alone can call.
const MEMBER: &str = "p";
const BEHIND_IT: &str = "q";
const TICK: &str = "1s";

/// The program of `member.py`.
struct Member {
    child: Child,
    stdin: ChildStdin,
    log: PathBuf,
}

impl Member {
    fn start(python: &Path, place: &Place4Nodes, name: &str, bootstrap: &str, tick: &str) -> Self {
        let log = place.path().join(format!("{name}.said"));
        let file = std::fs::File::create(&log).unwrap();
        let mut child = Command::new(python)
            .arg("-B")
            .arg(root().join("tests/interop/member.py"))
            .args([name, bootstrap])
            .arg(place.path().join("credentials/network.key"))
            .arg(tick.trim_end_matches('s'))
            .stdin(Stdio::piped())
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, log }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// All that it said, but for a line that it is just writing.
    fn events(&self) -> Vec<Value> {
        let text = self.log_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("it fails: {text}"));
        let events: Vec<Value> = whole.lines().map(read).collect();
        let fault = events.iter().find(|event| event["event"] == "fault");
        assert_eq!(fault, None, "a fault of its own");
        events
    }

    /// The events of one kind.
    fn said(&self, event: &str) -> Vec<Value> {
        self.events().into_iter().filter(|said| said["event"] == event).collect()
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        eventually(what, || condition(self));
    }

    /// Tells it something, and gives back what it says then.
    fn ask(&mut self, command: &str, event: &str) -> Value {
        let before = self.said(event).len();
        self.tell(command);
        self.wait_until(command, |member| member.said(event).len() > before);
        self.said(event).pop().unwrap()
    }

    fn listens(&self) -> Value {
        self.wait_until("it listens", |member| !member.said("listening").is_empty());
        self.said("listening").remove(0)
    }

    fn dump(&mut self) -> Value {
        self.ask("dump", "dump")
    }

    /// A record as a node holds it, in hex digits.
    fn fetch(&mut self, node: &str, owner: &str) -> Option<String> {
        let fetched = self.ask(&format!("fetch {node} {owner}"), "fetched");
        assert_eq!((&fetched["node"], &fetched["owner"]), (&node.into(), &owner.into()));
        fetched["records"].get(0).map(|record| record.as_str().unwrap().to_owned())
    }

    fn status_of(&self, node: &str) -> String {
        self.statuses_of(node).pop().unwrap_or_default()
    }

    /// What became of a node in its eyes, in this order.
    fn statuses_of(&self, node: &str) -> Vec<String> {
        let of_it = self.said("status").into_iter().filter(|status| status["node"] == node);
        of_it.map(|status| status["now"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the member in Python said:\n{}", self.log_text());
        }
    }
}

/// `dsn watch` of what a node thinks of the member.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn start(place: &Place4Nodes, node: &Process, name: &str) -> Self {
        let file = place.path().join(format!("{name}.watch"));
        let out = std::fs::File::create(&file).unwrap();
        let child = node.command(&["watch", MEMBER]).stdout(out).spawn().unwrap();
        Self { child, file }
    }

    fn saw(&self, what: &str) -> bool {
        let seen = std::fs::read_to_string(&self.file).unwrap();
        seen.lines().any(|line| line.contains(&format!("{what} {MEMBER}")))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Network {
    nodes: BTreeMap<String, Process>,
    behind: Process,
    member: Member,
    watches: Vec<Watch>,
    place: Place4Nodes,
}

fn run(place: &Place4Nodes, name: &str, tick: &str, addresses: &[(&str, &str)]) -> Process {
    let mut command = dsn();
    command.current_dir(place.path());
    command.args(["run", "--node-id", name, "--tick", tick]);
    command.args(addresses.iter().flat_map(|(flag, address)| [flag, address]));
    place.spawn(command, name)
}

impl Network {
    fn start(python: &Path) -> Self {
        let Size { nodes: count, ghosts, tick } = Size::of_this_run();
        let place = Place4Nodes::new();
        let first = run(&place, "n0", tick, &[]);
        let address = first.address.clone();
        let mut member = Member::start(python, &place, MEMBER, &address, tick);
        let mut nodes = BTreeMap::from([("n0".to_owned(), first)]);
        for name in (1..count).map(|at| format!("n{at}")) {
            let node = run(&place, &name, tick, &[("--bootstrap", &address)]);
            nodes.insert(name, node);
        }

        let gate = member.listens()["gate"].as_str().unwrap().to_owned();
        let addresses = [("--bootstrap", address.as_str()), ("--advertise", &gate)];
        let behind = run(&place, BEHIND_IT, tick, &addresses);
        member.tell(&format!("reach {BEHIND_IT} {}", behind.address));

        let mut network = Self { nodes, behind, member, watches: Vec::new(), place };
        network.become_large(ghosts);
        network
    }

    fn become_large(&mut self, ghosts: usize) {
        let others = self.nodes.len() + 1;
        eventually("it knows all", || {
            let dump = self.member.dump();
            let statuses = dump["status"].as_object().unwrap();
            statuses.values().filter(|status| *status == "alive").count() == others
                && (ghosts == 0 || dump["connected"] == others)
        });
        self.member.tell(&format!("ghosts {ghosts}"));
        for node in self.nodes.values().chain([&self.behind]) {
            eventually("all know how many there are", || {
                let peers = node.json(&["peers", "--all"]);
                peers.as_array().unwrap().len() == others + ghosts
            });
        }
        eventually("it knows that, too", || self.member.dump()["large"] == true);
        let watch = |(name, node): (&String, &Process)| Watch::start(&self.place, node, name);
        self.watches = self.nodes.iter().map(watch).collect();
    }

    fn wait_key(&self, owner: &str, key: &str, value: &str) {
        for node in self.nodes.values() {
            node.told(&["--timeout", "60s", "wait", "key", owner, key, value]);
        }
    }

    /// One node can be called by the member alone. What the member relays has the other one of the
    /// two right signatures meanwhile: so whoever holds that one was brought it by the member.
    fn a_change_reaches_a_node_through_the_member(&mut self) {
        self.member.tell("mark");
        let mut round = 0;
        eventually("a change comes through the member", || {
            let owner = format!("n{}", round % self.nodes.len());
            round += 1;
            let value = round.to_string();
            self.nodes[&owner].told(&["set", "round", &value]);
            self.behind.told(&["--timeout", "60s", "wait", "key", &owner, "round", &value]);
            let own = self.member.fetch(&owner, &owner).unwrap();
            let held = self.member.fetch(BEHIND_IT, &owner).unwrap();
            let marked = own.len() - 64;
            assert_eq!(held[..marked], own[..marked], "but for s all is the same");
            held[marked..] != own[marked..]
        });
        self.member.tell("unmark");
    }

    /// Byte for byte, once a tree, and to a few only.
    fn what_it_passes_on_is_what_came(&mut self) {
        for (name, node) in &self.nodes {
            node.told(&["set", "exact", "yes"]);
            self.wait_key(name, "exact", "yes");
        }
        let own = self.member.fetch("n4", "n4").unwrap();
        self.behind.told(&["--timeout", "60s", "wait", "key", "n4", "exact", "yes"]);
        assert_eq!(self.member.fetch(BEHIND_IT, "n4").unwrap(), own);

        let brought = self.member.said("brought").into_iter();
        let is_relayed = |event: &Value| {
            event["marked"] == false && event["owner"].as_str().unwrap().starts_with('n')
        };
        let relayed: Vec<Value> = brought.filter(is_relayed).collect();
        let took = self.member.said("took");
        let came: BTreeMap<String, &Value> =
            took.iter().map(|event| (version_of(event), &event["sha"])).collect();
        assert!(!relayed.is_empty());
        for event in &relayed {
            assert_eq!(came.get(&version_of(event)), Some(&&event["sha"]), "{event}");
        }
        let mut trees = BTreeSet::new();
        for event in self.member.said("passes on") {
            let tree = format!("{} {} {}", version_of(&event), event["kind"], event["ring"]);
            assert!(trees.insert(tree), "twice in one tree: {event}");
        }
    }

    fn a_change_of_the_member_goes_through_others(&mut self) {
        self.member.tell("set language Python");
        self.wait_key(MEMBER, "language", "Python");
        let changed = self.member.said("changed").pop().unwrap();
        let brought = self.member.said("brought").into_iter();
        let of_it = brought.filter(|event| event["timestamp"] == changed["timestamp"]);
        let brought: BTreeSet<String> = of_it.map(|event| event["to"].to_string()).collect();
        assert!(brought.len() < self.nodes.len(), "others brought it to the rest: {brought:?}");
    }

    /// What comes behind a head in its part gets the version from another one.
    fn a_head_that_hangs_costs_its_part_a_moment(&mut self) {
        let mut next = None;
        let mut round = 0;
        eventually("a head hung", || {
            round += 1;
            let (head, behind) = self.a_head_and_who_is_behind_it();
            self.nodes[&head].signal(Signal::STOP);
            self.member.tell(&format!("set round {round}"));
            for (_, node) in self.nodes.iter().filter(|(name, _)| **name != head) {
                let value = round.to_string();
                node.told(&["--timeout", "60s", "wait", "key", MEMBER, "round", &value]);
            }
            // All have it by the other ring, perhaps before it was given up.
            let changed = self.member.said("changed").pop().unwrap();
            let is_given = |given: &Value| {
                given["timestamp"] == changed["timestamp"] && given["head"] == head.as_str()
            };
            if self.member.said("gives").iter().any(is_given) {
                eventually("the member gives it up", || {
                    let failed = self.member.said("head failed");
                    let failed = failed.iter().find(|failed| failed["head"] == head.as_str());
                    next = failed.map(|failed| (failed["at"].as_f64(), behind.clone()));
                    next.is_some()
                });
            }
            self.nodes[&head].signal(Signal::CONT);
            next.is_some()
        });
        let (at, behind) = next.unwrap();
        eventually("the next one is brought it", || {
            let brought = self.member.said("brought").into_iter();
            let mut after = brought.filter(|event| event["at"].as_f64() >= at);
            after.any(|event| event["to"] == behind.as_str())
        });
    }

    /// Of a part of the last change of the member.
    fn a_head_and_who_is_behind_it(&self) -> (String, String) {
        let gives = self.member.said("gives");
        let last = gives.iter().rfind(|given| {
            let has_behind = given["part"].get(1).is_some_and(|behind| behind != BEHIND_IT);
            given["owner"] == MEMBER && given["head"] == given["part"][0] && has_behind
        });
        let part = &last.unwrap()["part"];
        assert_ne!(part[0], BEHIND_IT);
        [0, 1].map(|at: usize| part[at].as_str().unwrap().to_owned()).into()
    }

    fn what_a_relay_may_not_do_is_not_done(&mut self) {
        self.member.ask("wrong n3", "said wrong");
    }

    fn nobody_loses_it_while_it_is_probed(&mut self) {
        let pinged = |member: &mut Member| member.dump()["count"]["pinged"].as_u64().unwrap();
        let before = pinged(&mut self.member);
        eventually("it is probed", || pinged(&mut self.member) >= before + 10);
        self.nobody_lost_it();
    }

    fn nobody_lost_it(&self) {
        for watch in &self.watches {
            let seen = std::fs::read_to_string(&watch.file).unwrap();
            assert!(!watch.saw("lost"), "{}: {seen}", watch.file.display());
        }
    }

    /// Its pings are not answered, whoever tries, and it calls nobody: only pushes go.
    fn it_is_suspected_and_refutes(&mut self) {
        let before = self.member.said("refuted").len();
        self.member.tell("deaf");
        self.member.wait_until("it refutes", |member| member.said("refuted").len() > before);
        eventually("somebody suspects it", || self.watches.iter().any(|it| it.saw("suspect")));
        self.member.tell("hear");
        for node in self.nodes.values() {
            eventually("it is alive for all", || node.status_of(MEMBER) == "alive");
        }
        self.nobody_lost_it();
    }

    /// Two nodes that it keeps links with.
    fn it_loses_who_is_gone_and_takes_back_who_was_silent(&mut self) {
        let links = self.member.dump()["links"].clone();
        let links = links.as_array().unwrap().iter().map(|link| link.as_str().unwrap());
        // Others need the first one to come back.
        let mut links = links.filter(|name| ![BEHIND_IT, "n0"].contains(name));
        let [dead, silent] = [(); 2].map(|()| links.next().unwrap().to_owned());
        self.nodes.remove(&dead).unwrap().kill();
        self.nodes[&silent].signal(Signal::STOP);
        for node in [&dead, &silent] {
            self.member.wait_until("it is lost", |member| member.status_of(node) == "lost");
            let statuses = self.member.statuses_of(node);
            assert_eq!(statuses[statuses.len() - 2..], ["suspect", "lost"], "{node}");
        }
        self.nodes[&silent].signal(Signal::CONT);
        self.member.wait_until("it is back", |member| member.status_of(&silent) == "alive");
        assert_eq!(self.member.status_of(&dead), "lost");
        self.it_asks_for_others_and_is_asked(&silent);
    }

    /// Of one that stops now and then it is asked by others, and asks others itself.
    fn it_asks_for_others_and_is_asked(&mut self, silent: &str) {
        eventually("it asked and was asked, and words came of it", || {
            let member = &self.member;
            self.nodes[silent].signal(Signal::STOP);
            member.wait_until("it is in doubt", |member| member.status_of(silent) != "alive");
            self.nodes[silent].signal(Signal::CONT);
            member.wait_until("it is back", |member| member.status_of(silent) == "alive");
            ["asked", "word", "hears a word"].iter().all(|event| !member.said(event).is_empty())
        });
    }
}

fn version_of(event: &Value) -> String {
    format!("{} {}", event["owner"], event["timestamp"])
}

#[test]
fn a_member_in_python_takes_part_in_a_large_network() {
    let Some(python) = python() else { return };
    let mut network = Network::start(&python);
    network.a_change_reaches_a_node_through_the_member();
    network.what_it_passes_on_is_what_came();
    network.a_change_of_the_member_goes_through_others();
    network.a_head_that_hangs_costs_its_part_a_moment();
    network.what_a_relay_may_not_do_is_not_done();
    network.nobody_loses_it_while_it_is_probed();
    network.it_is_suspected_and_refutes();
    network.it_loses_who_is_gone_and_takes_back_who_was_silent();
    network.nobody_lost_it();
    network.member.events();
}

/// The client says all that it says to a node, right and wrong, to the member, and is answered by
/// the same bytes: so both are as the page says.
#[test]
fn the_member_answers_a_client_as_a_node_does() {
    let Some(python) = python() else { return };
    let place = Place4Nodes::new();
    // Nobody is at its bootstrap address, so it is alone.
    let member = Member::start(&python, &place, MEMBER, "127.0.0.1:1", TICK);
    let address = member.listens()["address"].as_str().unwrap().to_owned();
    let key = place.path().join("credentials/network.key");
    let said = Said::from(super::client(python).arg(&address).arg(key).output().unwrap());
    assert_eq!(said.code, 0, "{}{}", said.err, member.log_text());
    let learned: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(learned["node_id"], MEMBER);
    assert_eq!(learned["advertise"], address.as_str());
    let delivered: Vec<Value> =
        member.said("data").iter().map(|data| data["bytes"].clone()).collect();
    assert_eq!(delivered, ["68656c6c6f2066726f6d20507974686f6e", "627965"]);
}

/// Two real nodes that nobody can call hear of each other by the member alone.
#[test]
fn the_member_has_mail_for_those_that_can_only_call() {
    let Some(python) = python() else { return };
    let place = Place4Nodes::new();
    let hub = Member::start(&python, &place, MEMBER, "127.0.0.1:1", TICK);
    let address = hub.listens()["address"].as_str().unwrap().to_owned();
    let closed = address_of_nobody().to_string();
    let start = |name: &str| {
        let mut command = place.run_command(name, &[&address]);
        command.args(["--listen", "127.0.0.1:0", "--advertise", &closed]);
        place.spawn(command, name)
    };
    let nodes = [start("left"), start("right")];
    for node in &nodes {
        let waited = node.ask(&["--timeout", "60s", "wait", "peers", "2"]);
        assert_eq!(waited.code, 0, "{}{}{}", waited.err, node.log_text(), hub.log_text());
    }
    let mail = hub.said("mail");
    let has = |what: &str| mail.iter().any(|mail| mail[what].as_u64() != Some(0));
    assert!(has("asks") && has("words"), "{mail:?}");
    hub.events();
}

/// What a real node does with wrong relays the member does, too: two of them, which know of enough
/// others that are nobody.
#[test]
fn the_member_relays_as_a_node_does() {
    let Some(python) = python() else { return };
    let place = Place4Nodes::new();
    let relay = Member::start(&python, &place, MEMBER, "127.0.0.1:1", TICK);
    let address = relay.listens()["address"].as_str().unwrap().to_owned();
    let mut asker = Member::start(&python, &place, "asker", &address, TICK);
    eventually("they are connected", || asker.dump()["connected"] == 1);
    asker.tell("ghosts 40");
    let took = |owner: &str| relay.said("took").iter().any(|event| event["owner"] == owner);
    eventually("the network is large", || took("ghost39"));
    asker.ask(&format!("wrong {MEMBER}"), "said wrong");
    assert!(!relay.said("not again").is_empty(), "it was asked again");
    assert!(!relay.said("passes on").is_empty());
}

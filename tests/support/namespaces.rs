//! Hosts of a test's own: one network namespace each, on switches (bridges) in one more namespace.
//! Nothing is made in the namespace of the machine, so tests run beside each other with the same
//! addresses. All is removed with the namespaces, at the end of the test, also of one that panics;
//! what a killed run left behind is removed by the next one.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Place4Nodes;
use super::process::{Process, dsn};

/// Set where the tests must run: without namespaces they fail then, else they are skipped.
const REQUIRED: &str = "DSN_REQUIRE_NAMESPACES";
/// The same for packets that get lost.
const LOSS_REQUIRED: &str = "DSN_REQUIRE_LOSS";
const PREFIX: &str = "dsn-test-";
pub const PORT: u16 = 8000;

/// How the hosts are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Two switches with a link between them; all hosts are in one subnet.
    OneNetwork { left: usize, right: usize },
    /// Two switches without a link, each with a subnet of its own, and one host more, the last
    /// one, that has an interface on both. No host forwards packets.
    Bridged { left: usize, right: usize },
    /// So many switches without links between them, each with a subnet and a host of its own, and
    /// one host more, the last one, that has an interface on each.
    Spokes(usize),
}

/// Hosts and what joins them.
pub struct Network {
    prefix: String,
    namespaces: Vec<String>,
    /// The interfaces of each host, as switch and address.
    hosts: Vec<Vec<(usize, String)>>,
}

static NETWORKS: AtomicU64 = AtomicU64::new(0);

impl Network {
    /// Nothing where there can be no namespaces; that is said aloud, or fails where
    /// `DSN_REQUIRE_NAMESPACES=1` says so.
    pub fn new(layout: Layout) -> Option<Self> {
        if let Err(why) = namespaces_work() {
            super::skip(REQUIRED, &format!("there are no network namespaces: {why}"));
            return None;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let own = std::process::id();
        let prefix = format!("{PREFIX}{own}-{}-{number}-", started_at(own).unwrap());
        let mut network = Self { prefix, namespaces: Vec::new(), hosts: Vec::new() };
        network.build(layout);
        Some(network)
    }

    fn build(&mut self, layout: Layout) {
        let hub = self.add_namespace("hub");
        let switches = if let Layout::Spokes(count) = layout { count } else { 2 };
        for switch in 0..switches {
            ip(&hub, &format!("link add s{switch} type bridge\nlink set s{switch} up"));
        }
        let (left, right) = match layout {
            Layout::OneNetwork { left, right } | Layout::Bridged { left, right } => (left, right),
            Layout::Spokes(count) => {
                let all: Vec<usize> = (0..count).collect();
                all.iter().for_each(|switch| self.add_host(&[*switch], 24));
                return self.add_host(&all, 24);
            }
        };
        let is_one = matches!(layout, Layout::OneNetwork { .. });
        if is_one {
            ip(
                &hub,
                "link add t0 type veth peer name t1\nlink set t0 master s0 up\nlink set t1 master s1 up",
            );
        }
        let bits = if is_one { 16 } else { 24 };
        for _ in 0..left {
            self.add_host(&[0], bits);
        }
        for _ in 0..right {
            self.add_host(&[1], bits);
        }
        if !is_one {
            self.add_host(&[0, 1], bits);
        }
    }

    fn add_namespace(&mut self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        plain_ip(&["netns", "add", &name]).unwrap();
        self.namespaces.push(name.clone());
        name
    }

    fn add_host(&mut self, switches: &[usize], bits: u8) {
        let at = self.hosts.len();
        let (namespace, hub) = (self.add_namespace(&at.to_string()), self.hub());
        let legs: Vec<_> =
            switches.iter().map(|it| (*it, format!("10.77.{}.{}", it + 1, at + 1))).collect();
        // Where the machine forwards packets a new namespace may do so too; and without IPv6 the
        // interfaces carry nothing but what the nodes say.
        let settings = "echo 0 > /proc/sys/net/ipv4/ip_forward; \
            test ! -d /proc/sys/net/ipv6 || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        plain_ip(&["netns", "exec", &namespace, "sh", "-c", settings]).unwrap();
        ip(&namespace, "link set lo up");
        for (leg, (switch, address)) in legs.iter().enumerate() {
            ip(
                &hub,
                &format!(
                    "link add p{at}-{leg} type veth peer name eth{leg} netns {namespace}\n\
                     link set p{at}-{leg} master s{switch} up"
                ),
            );
            ip(
                &namespace,
                &format!("addr add {address}/{bits} dev eth{leg}\nlink set eth{leg} up"),
            );
        }
        self.hosts.push(legs);
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}{host}", self.prefix)
    }

    pub fn everyone(&self) -> Vec<usize> {
        (0..self.hosts.len()).collect()
    }

    /// The address of the host on its switch, or on the one named.
    pub fn address(&self, host: usize, leg: usize) -> String {
        format!("{}:{PORT}", self.hosts[host][leg].1)
    }

    /// Starts `dsn run` on the host, as node `n…`, with what is usual but for the bootstrap nodes.
    pub fn start(&self, place: &Place4Nodes, host: usize, bootstrap: &[String]) -> Process {
        let flags: Vec<&str> =
            bootstrap.iter().flat_map(|address| ["--bootstrap", address]).collect();
        self.start_with(place, host, &flags)
    }

    /// The same with any flags; without `--listen` it listens on all addresses of IPv4.
    pub fn start_with(&self, place: &Place4Nodes, host: usize, flags: &[&str]) -> Process {
        let (node_id, listen) = (format!("n{host}"), format!("0.0.0.0:{PORT}"));
        let inner = dsn();
        let mut command = self.command(host, inner.get_program());
        command.current_dir(place.path());
        for (name, _) in inner.get_envs() {
            command.env_remove(name);
        }
        command.args(["run", "--node-id", &node_id]);
        if !flags.contains(&"--listen") {
            command.args(["--listen", &listen]);
        }
        command.args(flags);
        place.spawn(command, &node_id)
    }

    /// A command on the host.
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// Lines of `ip` on the host.
    pub fn ip(&self, host: usize, lines: &str) {
        ip(&self.namespace(host), lines);
    }

    /// Lets the first interface of a host have IPv6: its link-local address, at once.
    pub fn allow_ipv6(&self, host: usize) {
        let settings =
            "cd /proc/sys/net/ipv6/conf && echo 0 > eth0/accept_dad && echo 0 > all/disable_ipv6";
        let namespace = self.namespace(host);
        plain_ip(&["netns", "exec", &namespace, "sh", "-c", settings]).unwrap();
    }

    /// The link between the switches.
    pub fn set_trunk(&self, up: bool) {
        ip(&self.hub(), &format!("link set t0 {}", up_or_down(up)));
    }

    /// The link between a host and its switch.
    pub fn set_link(&self, host: usize, leg: usize, up: bool) {
        ip(&self.hub(), &format!("link set p{host}-{leg} {}", up_or_down(up)));
    }

    /// What the first host sends to the second one vanishes: it goes to a card that nobody has.
    pub fn cut(&self, pairs: &[(usize, usize)]) {
        self.neighbours(pairs, |address| {
            format!("neigh replace {address} lladdr 02:00:00:00:de:ad dev eth0 nud permanent\n")
        });
    }

    /// It arrives again.
    pub fn mend(&self, pairs: &[(usize, usize)]) {
        self.neighbours(pairs, |address| format!("neigh del {address} dev eth0\n"));
    }

    fn neighbours(&self, pairs: &[(usize, usize)], line: impl Fn(&str) -> String) {
        for host in self.everyone() {
            let to = pairs.iter().filter(|(from, _)| *from == host);
            let lines: String = to.map(|(_, to)| line(&self.hosts[*to][0].1)).collect();
            ip(&self.namespace(host), &lines);
        }
    }

    /// So many of a hundred packets, by chance, do not arrive at these hosts. Says whether that
    /// can be done here.
    pub fn lose(&self, hosts: &[usize], percent: u32) -> bool {
        let rules = format!(
            "add table inet loss; \
             add chain inet loss input {{ type filter hook input priority 0; }}; \
             add rule inet loss input iifname eth0 numgen random mod 100 < {percent} drop"
        );
        // Where root has it, and others may not look.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let lose = |host: &usize| {
            let mut command = self.command(*host, "nft");
            let output = command.arg(&rules).env("PATH", &path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        let Err(why) = hosts.iter().try_for_each(lose) else { return true };
        super::skip(LOSS_REQUIRED, &format!("`nft` can drop no packets: {why}"));
        false
    }

    /// The first host may not open connections to the second one, as behind a firewall that
    /// refuses; it may answer.
    pub fn forbid(&self, pairs: &[(usize, usize)]) {
        for (from, to) in pairs {
            let address = &self.hosts[*to][0].1;
            let rule = format!("rule add to {address} ipproto tcp dport {PORT} prohibit");
            ip(&self.namespace(*from), &rule);
        }
    }

    pub fn allow(&self, pairs: &[(usize, usize)]) {
        for (from, to) in pairs {
            let address = &self.hosts[*to][0].1;
            let rule = format!("rule del to {address} ipproto tcp dport {PORT} prohibit");
            ip(&self.namespace(*from), &rule);
        }
    }

    /// The host gets another address instead of its own.
    pub fn move_host(&mut self, host: usize, address: &str) {
        let old = std::mem::replace(&mut self.hosts[host][0].1, address.to_owned());
        // In this order: with a first address of a subnet goes what was added to it.
        let lines = format!("addr del {old}/16 dev eth0\naddr add {address}/16 dev eth0");
        ip(&self.namespace(host), &lines);
    }

    /// What all interfaces of all hosts have sent so far: bytes and packets.
    pub fn sent(&self) -> (u64, u64) {
        let of_host = |host: usize| {
            let namespace = self.namespace(host);
            let said = plain_ip(&["-n", &namespace, "-s", "-j", "link", "show"]).unwrap();
            let links: serde_json::Value = serde_json::from_str(&said).unwrap();
            let cards = links.as_array().unwrap().iter().filter(|link| link["ifname"] != "lo");
            cards.fold((0, 0), |(bytes, packets), link| {
                let sent = &link["stats64"]["tx"];
                let of = |name: &str| sent[name].as_u64().unwrap();
                (bytes + of("bytes"), packets + of("packets"))
            })
        };
        let all = self.everyone().into_iter().map(of_host);
        all.fold((0, 0), |(bytes, packets), (b, p)| (bytes + b, packets + p))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.namespaces {
            // Interfaces go with it, and their other ends.
            let _ = plain_ip(&["netns", "del", name]);
        }
    }
}

fn up_or_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// Runs lines of `ip` in a namespace.
fn ip(namespace: &str, lines: &str) {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]);
    let said = super::process::run_with(&mut command, lines.as_bytes());
    assert_eq!(said.code, 0, "ip -n {namespace}: {lines}: {}", said.err);
}

fn plain_ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|fault| format!("`ip` of iproute2 can't be run: {fault}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`ip {}` says: {said}", arguments.join(" ")))
}

/// Tries once in this process, and removes what earlier runs left.
fn namespaces_work() -> Result<(), String> {
    static TRIED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    let try_it = || {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may make them".to_owned());
        }
        remove_leftovers()?;
        let own = std::process::id();
        let name = format!("{PREFIX}{own}-{}-try", started_at(own).unwrap());
        plain_ip(&["netns", "add", &name])?;
        // Each kind of thing that the tests need.
        let works = [
            "link add s0 type bridge",
            "link add eth0 type veth peer name p0",
            "neigh replace 10.0.0.1 lladdr 02:00:00:00:de:ad dev eth0 nud permanent",
            "rule add to 10.0.0.1 ipproto tcp dport 8000 prohibit",
        ];
        let all = works.into_iter().try_for_each(|line| {
            let arguments: Vec<&str> = ["-n", &name].into_iter().chain(line.split(' ')).collect();
            plain_ip(&arguments).map(|_| ())
        });
        let _ = plain_ip(&["netns", "del", &name]);
        all
    };
    TRIED.get_or_init(try_it).clone()
}

/// Removes the namespaces of test processes that do not run any more, and ends the nodes in them:
/// nothing but a test of ours ever started anything there.
fn remove_leftovers() -> Result<(), String> {
    for line in plain_ip(&["netns", "list"])?.lines() {
        let Some(name) = line.split(' ').next().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let mut parts = name[PREFIX.len()..].split('-').map(|part| part.parse().ok());
        let owner = (parts.next().flatten(), parts.next().flatten());
        let (Some(pid), Some(started)) = owner else { continue };
        if u32::try_from(pid).ok().and_then(started_at) == Some(started) {
            continue;
        }
        let pids = plain_ip(&["netns", "pids", name]).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Two test processes may do this at the same time.
        let _ = plain_ip(&["netns", "del", name]);
    }
    Ok(())
}

/// When the process was started, in the kernel's ticks since boot: with it a number that the
/// kernel gave out again is told apart.
fn started_at(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the time is the 20th field behind it.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

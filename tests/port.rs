//! The port against people without the key, and members that take too much: whatever they send,
//! other members are served, newcomers can join, and memory, threads and descriptors stay bounded
//! and come back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dsn::protocol::head::Version;
use dsn::protocol::wire::{Kind, Wish};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::process::Process;
use crate::support::{Heard, Member, Place4Nodes, eventually, id};

/// What may be used beyond what the quiet node uses.
const MEMORY_GROWTH_MAX_KB: u64 = 32 * 1024;
/// The caps of docs/security.md.
const THREADS_MAX: u64 = 64;
const DESCRIPTORS_MAX: u64 = 160;
/// How long each kind of attack lasts.
const WAVE: Duration = Duration::from_secs(4);

/// A connection from a loopback address of our choice.
fn connect_from(from: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let from: IpAddr = from.parse().unwrap();
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request whose connection is kept.
fn kept(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Posts over a kept connection; gives the status.
fn post_over(stream: &mut BufReader<TcpStream>, path: &str, body: &[u8]) -> std::io::Result<u16> {
    stream.get_mut().write_all(&kept(path, body))?;
    answer_over(stream)
}

/// Reads an answer; gives the status.
fn answer_over(stream: &mut BufReader<TcpStream>) -> std::io::Result<u16> {
    let mut status = 0;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim().to_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(rest) = line.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(status)
}

/// A member that PINGs ten times a second over one connection, from an address of its own.
struct Healthy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Healthy {
    fn start(node: SocketAddr) -> Self {
        let mut member = Member::joined("healthy", node);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let stream = connect_from("127.0.0.2", node).unwrap();
        let thread = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let ping = member.ping();
                let body = member.envelope(Kind::Ping, &member.payload(&ping));
                let began = Instant::now();
                let status = post_over(&mut stream, "/ping", &body);
                assert_eq!(status.unwrap(), 200, "PING {} of the healthy member", took.len());
                took.push(began.elapsed());
                std::thread::park_timeout(Duration::from_millis(100));
            }
            took
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("every PING of the healthy member is answered")
    }
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    memory_kb: u64,
    threads: u64,
    descriptors: u64,
}

fn usage(node: &Process) -> Usage {
    let folder = format!("/proc/{}", node.child.id());
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Usage {
        memory_kb: number("VmRSS:"),
        threads: number("Threads:"),
        descriptors: std::fs::read_dir(format!("{folder}/fd")).unwrap().count() as u64,
    }
}

/// Attackers: threads that go on until they are told to stop.
type Wave = fn(SocketAddr, &AtomicBool);

/// Ends attackers, also where a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens connections as long as the wave lasts, so many at a time, each with these first bytes.
fn hold(to: SocketAddr, stop: &AtomicBool, count: usize, first: &[u8], drip: Option<&[u8]>) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(drip) = drip {
            open.retain_mut(|stream| stream.write_all(drip).is_ok());
        }
        while open.len() < count && !stop.load(Ordering::Relaxed) {
            // The node cuts and refuses as it likes; we go on.
            match connect_from("127.0.0.3", to) {
                Ok(mut stream) => {
                    let _ = stream.write_all(first);
                    open.push(stream);
                }
                Err(_) => break,
            }
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Writes this again and again over a few connections at once, as fast as it is taken.
fn flood(to: SocketAddr, stop: &AtomicBool, first: &[u8], again: &[u8]) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = connect_from("127.0.0.3", to) else { continue };
                    let mut alive = stream.write_all(first).is_ok();
                    while alive && !stop.load(Ordering::Relaxed) {
                        alive = stream.write_all(again).is_ok();
                    }
                }
            });
        }
    });
}

fn silence(to: SocketAddr, stop: &AtomicBool) {
    hold(to, stop, 2000, b"", None);
}

fn slow_headers(to: SocketAddr, stop: &AtomicBool) {
    hold(to, stop, 300, b"POST /ping HTTP/1.1\r\nHost: x\r\nX-Slow: ", Some(b"x"));
}

fn stalled_bodies(to: SocketAddr, stop: &AtomicBool) {
    let head = b"POST /data HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc";
    hold(to, stop, 50, head, None);
}

fn dripping_bodies(to: SocketAddr, stop: &AtomicBool) {
    let head = b"POST /data HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc";
    hold(to, stop, 50, head, Some(b"y"));
}

fn small_stalled_bodies(to: SocketAddr, stop: &AtomicBool) {
    let head = b"POST /data HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc";
    hold(to, stop, 100, head, Some(b"z"));
}

fn request_line_without_end(to: SocketAddr, stop: &AtomicBool) {
    flood(to, stop, b"POST /", &[b'a'; 65536]);
}

fn header_without_end(to: SocketAddr, stop: &AtomicBool) {
    flood(to, stop, b"POST /ping HTTP/1.1\r\nX: ", &[b'a'; 65536]);
}

fn headers_without_end(to: SocketAddr, stop: &AtomicBool) {
    flood(to, stop, b"POST /ping HTTP/1.1\r\n", &b"X-Header: y\r\n".repeat(5000));
}

fn chunks_without_end(to: SocketAddr, stop: &AtomicBool) {
    let chunk = [b"ffff\r\n".as_slice(), &[b'a'; 0xffff], b"\r\n"].concat();
    flood(
        to,
        stop,
        b"POST /data HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        &chunk,
    );
}

fn bodies_of_a_gigabyte(to: SocketAddr, stop: &AtomicBool) {
    let head = b"POST /data HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    flood(to, stop, head, &[b'a'; 65536]);
}

fn garbage(to: SocketAddr, stop: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(65536).collect();
    flood(to, stop, &bytes, &bytes);
}

fn half_http(to: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for half in [
            &b"POST"[..],
            b"POST /ping",
            b"POST /ping HTTP/9.9\r\n\r\n",
            b"\r\n\r\n",
            b"POST /ping HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /data HTTP/1.1\r\nContent-Length: 70000000000000\r\n\r\n",
            b"POST /ping HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"POST /ping HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /ping HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"POST /ping HTTP/1.1\r\n: \r\n\xff\xfe: \x00\r\n\r\n",
        ] {
            if let Ok(mut stream) = connect_from("127.0.0.3", to) {
                let _ = stream.write_all(half);
            }
        }
    }
}

fn pipelines(to: SocketAddr, stop: &AtomicBool) {
    let many = b"POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".repeat(500);
    flood(to, stop, b"", &many);
}

fn resets(to: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { continue };
        // Closing resets it, in the middle of the handshake or just behind it.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.set_nonblocking(true);
        let _ = socket.connect(&to.into());
    }
}

/// What a listener can do: bytes of a member, recorded and repeated, on kept connections.
fn replays(to: SocketAddr, stop: &AtomicBool) {
    let mut member = Member::joined("recorded", to);
    let ping = member.ping();
    let body = member.envelope(Kind::Ping, &member.payload(&ping));
    let request = kept("/ping", &body);
    flood(to, stop, &request, &request);
}

/// What a member can do: hundreds of connections, each of which proves who it is, again and again.
fn a_member_without_measure(to: SocketAddr, stop: &AtomicBool) {
    let mut member = Member::joined("greedy", to);
    let mut open: Vec<BufReader<TcpStream>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(stream) = connect_from("127.0.0.3", to) {
            open.push(BufReader::new(stream));
        }
        let kept = open.len().saturating_sub(300);
        open.drain(..kept);
        // The newest ones are those that are still there.
        for stream in open.iter_mut().rev().take(6) {
            let ping = member.ping();
            let body = member.envelope(Kind::Ping, &member.payload(&ping));
            let _ = post_over(stream, "/ping", &body);
        }
    }
}

const WAVES: [(&str, Wave); 16] = [
    ("silence", silence),
    ("slow headers", slow_headers),
    ("stalled bodies", stalled_bodies),
    ("dripping bodies", dripping_bodies),
    ("small stalled bodies", small_stalled_bodies),
    ("a request line without end", request_line_without_end),
    ("a header without end", header_without_end),
    ("headers without end", headers_without_end),
    ("chunks without end", chunks_without_end),
    ("bodies of a gigabyte", bodies_of_a_gigabyte),
    ("garbage", garbage),
    ("half HTTP", half_http),
    ("pipelines", pipelines),
    ("resets", resets),
    ("replays", replays),
    ("a member without measure", a_member_without_measure),
];

/// Says both HELLOs, as often as it takes, from an address of its own.
fn join(name: &str, node: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut member = Member::new(name, node);
    let mut tries = || -> Option<()> {
        member.link = None;
        for _ in 0..2 {
            let hello = member.hello();
            let body = member.envelope(Kind::Hello, &member.payload(&hello));
            let mut stream = BufReader::new(connect_from("127.0.0.4", node).ok()?);
            let head = format!(
                "POST /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()?;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            match member.heard(Kind::Hello, &body, &answer)? {
                Heard::Answer(dsn::protocol::wire::Answer::Hello(hello)) => {
                    member.meet(&hello);
                }
                Heard::Nothing => return Some(()),
                _ => return None,
            }
        }
        None
    };
    eventually(&format!("{name} can join"), || tries().is_some());
    began.elapsed()
}

fn attack(place: &Place4Nodes, node: &Process) {
    let address: SocketAddr = node.address.parse().unwrap();
    let started = Instant::now();
    let healthy = Healthy::start(address);
    join("early", address);
    let before = usage(node);
    let mut most = Usage::default();
    for (number, (name, wave)) in WAVES.into_iter().enumerate() {
        let stop = AtomicBool::new(false);
        let mut wave_most = Usage::default();
        std::thread::scope(|scope| {
            let attackers = scope.spawn(|| wave(address, &stop));
            let until = Instant::now() + WAVE;
            let newcomer = scope.spawn(move || join(&format!("newcomer-{number}"), address));
            while Instant::now() < until || !newcomer.is_finished() {
                let now = usage(node);
                wave_most.memory_kb = wave_most.memory_kb.max(now.memory_kb);
                wave_most.threads = wave_most.threads.max(now.threads);
                wave_most.descriptors = wave_most.descriptors.max(now.descriptors);
                std::thread::park_timeout(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            let joined = newcomer.join().unwrap();
            println!("{name}: joined in {joined:?}, most {wave_most:?}");
            assert!(joined < Duration::from_secs(15), "{name}: joined in {joined:?}");
            attackers.join().unwrap();
        });
        most.memory_kb = most.memory_kb.max(wave_most.memory_kb);
        most.threads = most.threads.max(wave_most.threads);
        most.descriptors = most.descriptors.max(wave_most.descriptors);
    }
    let began = Instant::now();
    eventually("all is as before", || {
        let now = usage(node);
        now.threads <= before.threads + 8
            && now.descriptors <= before.descriptors + 8
            && now.memory_kb <= before.memory_kb + 8 * 1024
    });
    println!("before {before:?}, after {:?}: {:?}", began.elapsed(), usage(node));
    let took = healthy.finish();
    let late = took.iter().filter(|took| **took > Duration::from_secs(1)).count();
    let slowest = took.iter().max().unwrap();
    println!("{} PINGs, {late} took over 1 s, the slowest {slowest:?}", took.len());
    assert!(late * 100 <= took.len(), "{late} of {} PINGs took over 1 s", took.len());
    assert!(most.memory_kb <= before.memory_kb + MEMORY_GROWTH_MAX_KB, "{before:?} {most:?}");
    assert!(most.threads <= THREADS_MAX, "{most:?}");
    assert!(most.descriptors <= DESCRIPTORS_MAX, "{most:?}");
    let log = std::fs::metadata(&node.log).unwrap().len();
    assert!(log < 64 * 1024, "the log has {log} bytes");
    let text = node.log_text();
    let lines = text.lines().filter(|line| line.contains("were cut to make room")).count() as u64;
    let minutes = started.elapsed().as_secs() / 60;
    assert!((1..=minutes + 1).contains(&lines), "{lines} lines in {minutes} minutes");
    assert!(!node.log_text().contains("panicked at src/"), "{}", node.log_text());
    drop(place.spawn_at("late", "127.0.0.1:0", &[&node.address]));
}

/// A conflict is told once; one that looks different each time is not told for ever.
#[test]
fn a_member_that_claims_an_id_again_and_again_does_not_fill_the_log() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let address: SocketAddr = node.address.parse().unwrap();
    let _first = Member::joined("m", address);
    let mut liar = Member::new("m", address);
    liar.introduce();
    for port in 1..200 {
        liar.port = port;
        let claim = liar.hello();
        assert_eq!(liar.say(&claim).verdict().0, 401);
    }
    let lines = |log: &str| log.lines().filter(|it| it.contains("two nodes use the id m")).count();
    eventually("it is in the log", || lines(&node.log_text()) > 0);
    // One more tick, in which all of them could be told.
    let ticks = node.json(&["status"])["uptime_s"].as_u64().unwrap();
    eventually("a tick", || node.json(&["status"])["uptime_s"].as_u64().unwrap() > ticks + 1);
    assert!(lines(&node.log_text()) <= 16, "{}", node.log_text());
}

/// What members can do: wishes for long answers over many connections, none of which is read.
#[test]
fn answers_that_nobody_reads_do_not_fill_the_memory() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let address: SocketAddr = node.address.parse().unwrap();
    let value = "v".repeat(60_000);
    for key in 0..16 {
        node.told(&["set", &format!("k{key}"), &value]);
    }
    let wish = |member: &mut Member| {
        let pull = member.pull(vec![Wish { node_id: id("a"), version: Version::default() }]);
        let body = member.envelope(Kind::Update, &member.payload(&pull));
        kept("/update", &body)
    };
    let mut members: Vec<Member> =
        (0..15).map(|number| Member::joined(&format!("greedy-{number}"), address)).collect();
    let pull = members[0].pull(vec![Wish { node_id: id("a"), version: Version::default() }]);
    assert_eq!(members[0].say(&pull).verdict().0, 200);
    let requests: Vec<Vec<u8>> = (0..60)
        .map(|number| (0..3).flat_map(|_| wish(&mut members[number % 15])).collect())
        .collect();
    let before = usage(&node);
    let unread: Vec<_> = requests
        .iter()
        .filter_map(|request| {
            let mut stream = connect_from("127.0.0.3", address).ok()?;
            stream.write_all(request).ok()?;
            Some(stream)
        })
        .collect();
    assert!(unread.len() >= 30, "{} connections", unread.len());
    join("newcomer", address);
    let mut most = 0;
    let until = Instant::now() + WAVE;
    while Instant::now() < until {
        most = most.max(usage(&node).memory_kb);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    drop(unread);
    println!("{} KB and then {most} KB", before.memory_kb);
    assert!(most <= before.memory_kb + MEMORY_GROWTH_MAX_KB, "{before:?} {most} KB");
}

fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
}

#[test]
fn strangers_keep_nobody_from_the_port() {
    raise_limit();
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    attack(&place, &node);
}

/// Starts a node that may have so many descriptors.
fn spawn_with(place: &Place4Nodes, descriptors: u64) -> Process {
    let run = place.run_command("a", &[]);
    let mut command = std::process::Command::new("sh");
    let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
    command.current_dir(place.path()).arg("-c").arg(limit).arg("sh");
    command.arg(run.get_program()).args(run.get_args()).args(["--listen", "127.0.0.1:0"]);
    place.spawn(command, "a")
}

#[test]
fn nor_where_descriptors_are_few() {
    raise_limit();
    let place = Place4Nodes::new();
    let node = spawn_with(&place, 256);
    attack(&place, &node);
}

/// Proves over a connection of its own who this is; does not wait for the answer.
fn prove(member: &mut Member) -> BufReader<TcpStream> {
    let mut stream = connect_from("127.0.0.5", member.target).unwrap();
    let ping = member.ping();
    let body = member.envelope(Kind::Ping, &member.payload(&ping));
    stream.write_all(&kept("/ping", &body)).unwrap();
    BufReader::new(stream)
}

fn crowd(node: SocketAddr, members: u64) -> Vec<Member> {
    (0..members).map(|number| Member::joined(&format!("crowd-{number}"), node)).collect()
}

#[test]
fn members_and_strangers_leave_descriptors_to_the_rest_of_the_node() {
    raise_limit();
    let place = Place4Nodes::new();
    let node = spawn_with(&place, 256);
    let address: SocketAddr = node.address.parse().unwrap();
    let quiet = usage(&node).descriptors;
    let mut members = Vec::new();
    for mut member in crowd(address, 40) {
        for _ in 0..4 {
            let mut stream = prove(&mut member);
            assert_eq!(answer_over(&mut stream).unwrap(), 200);
            members.push(stream);
        }
    }
    let strangers: Vec<_> = (0..100).map(|_| connect_from("127.0.0.3", address)).collect();
    // All who came before are taken in then.
    assert_eq!(post_over(members.last_mut().unwrap(), "/nothing", b"").unwrap(), 404);
    // The port has 160 connections, and the node a few of its own.
    let all = usage(&node).descriptors;
    assert!((quiet + 150..quiet + 176).contains(&all), "{quiet} and then {all}");
    node.told(&["status"]);
    drop((members, strangers));
}

/// Lets the node have so many descriptors more, and no others.
fn limit_descriptors(node: &Process, more: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let most = usage(node).descriptors + more;
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(Pid::from_raw(node.child.id().try_into().unwrap()), Resource::Nofile, limit).unwrap();
}

#[test]
fn where_no_descriptor_is_left_strangers_give_way_to_a_newcomer() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let address: SocketAddr = node.address.parse().unwrap();
    join("early", address);
    limit_descriptors(&node, 16);
    let stop = AtomicBool::new(false);
    let joined = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| hold(address, &stop, 300, b"POST", Some(b"x")));
        eventually("it is full", || node.log_text().contains("were cut to make room"));
        join("newcomer", address)
    });
    assert!(joined < Duration::from_secs(15), "joined in {joined:?}");
}

/// CPU time of the gate so far, in hundredths of a second.
fn gate_time(node: &Process) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    let stats =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let gate = stats.into_iter().find(|stat| stat.contains("(dsn-gate)")).unwrap();
    let fields = gate.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum()
}

#[test]
fn where_members_have_the_last_descriptor_the_port_rests_until_one_goes() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let members = crowd(node.address.parse().unwrap(), 6);
    limit_descriptors(&node, 16);
    let mut open = Vec::new();
    let is_full = || node.log_text().contains("can't take connections");
    for mut member in members {
        for _ in 0..4 {
            let stream = prove(&mut member);
            stream.get_ref().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            eventually("it is answered, or no descriptor is left", || {
                is_full() || stream.get_ref().peek(&mut [0]).is_ok_and(|count| count > 0)
            });
            open.push(stream);
        }
    }
    assert!(is_full());
    let before = gate_time(&node);
    std::thread::park_timeout(Duration::from_secs(1));
    let spent = gate_time(&node) - before;
    assert!(spent < 20, "the gate spent {spent} hundredths of a second");
    drop(open);
    join("newcomer", node.address.parse().unwrap());
}

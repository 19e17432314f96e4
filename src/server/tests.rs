//! The port over real sockets: what a handler that fails and a tiny_http that dies come to, and a
//! hall for tests of who is served when.

mod parties;

use std::collections::BTreeSet;
use std::io::{Error, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::backend::Service;
use super::gate::Gate;
use super::limits::{Limits, Times};
use super::{Audience, Caller, Handler, Listen, OnFault, Response, Seen, Serves, spawn};

/// `/as` is asked by a caller of our choice: see [`Peer::ask`].
static PATHS: [&str; 3] = ["/echo", "/panic", "/as"];
const BODY_BYTES_MAX: usize = 300_000;
/// Longest time that anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A body that needs a place.
const LONG_BYTES: usize = 100_000;
/// Where those come from who prove nothing.
const ELSEWHERE: &str = "127.0.0.2";
/// Answers to what is named `long` have so many: more than the kernel takes for who reads nothing.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Proves nothing.
const NOBODY: u64 = 0;

/// Where requests to `/as` lie while a worker has them.
#[derive(Default)]
struct Desk {
    state: Mutex<OnDesk>,
    changed: Condvar,
}

#[derive(Default)]
struct OnDesk {
    /// Their names, in the order in which workers took them.
    begun: Vec<String>,
    released: BTreeSet<String>,
    ends: bool,
}

impl Desk {
    fn change(&self, change: impl FnOnce(&mut OnDesk)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, holds: impl Fn(&OnDesk) -> bool) {
        let state = self.state.lock().unwrap();
        let waits = |it: &mut OnDesk| !it.ends && !holds(it);
        let waited = self.changed.wait_timeout_while(state, PATIENCE, waits).unwrap().1;
        assert!(!waited.timed_out(), "waited in vain until {what}");
    }

    /// Works on a request: one whose name begins with `hold` until it is released.
    fn work(&self, name: &str) {
        self.change(|it| it.begun.push(name.into()));
        if name.starts_with("hold") {
            self.wait(name, |it| it.released.contains(name));
        }
    }

    fn release(&self, name: &str) {
        self.change(|it| assert!(it.released.insert(name.into())));
    }

    fn wait_begun(&self, count: usize) {
        self.wait(&format!("{count} have begun"), |it| it.begun.len() >= count);
    }

    fn begun(&self) -> Vec<String> {
        self.state.lock().unwrap().begun.clone()
    }
}

struct Port {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    desk: Arc<Desk>,
    /// The gate's own connection to tiny_http.
    line: UnixStream,
    stop: Option<UnixStream>,
    gate: Option<JoinHandle<()>>,
    /// Where the kernel tells about the gate's thread.
    task: PathBuf,
}

fn start() -> Port {
    start_with(Limits::of(None))
}

fn start_with(limits: Limits) -> Port {
    let desk = Arc::<Desk>::default();
    let at_desk = Arc::clone(&desk);
    let handler: Handler = Arc::new(move |request| {
        let mut caller = None;
        match request.path.as_str() {
            "/echo" => {}
            "/as" => {
                let text = String::from_utf8_lossy(&request.body);
                let mut words = text.split(' ');
                let number = words.next().unwrap().parse().unwrap();
                at_desk.work(words.next().unwrap());
                caller = (number != NOBODY).then_some(Caller(number));
            }
            other => panic!("{other} panics"),
        }
        let mut body = request.body;
        if body.split(|byte| *byte == b' ').nth(1) == Some(b"long") {
            body.resize(ANSWER_BYTES, b' ');
        }
        Response { status: 200, body, caller, ..Response::default() }
    });
    let listener = Listen::open(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let seen = Arc::<Mutex<Seen>>::default();
    let on_fault: OnFault = Arc::new(|why| panic!("{why}"));
    let serves = Serves {
        name: "dsn",
        flag: "--listen",
        paths: &PATHS,
        methods: &["POST"],
        body_bytes_max: BODY_BYTES_MAX,
        audience: Audience::Nodes,
    };
    let service = Service { handler, serves, on_fault };
    let gate = Gate::new(listener, service, limits, Arc::clone(&seen), stopped).unwrap();
    let line = gate.line().try_clone().unwrap();
    let (told, task) = mpsc::sync_channel(1);
    let gate = Some(std::thread::spawn(move || {
        told.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        gate.run().unwrap();
    }));
    let task = PathBuf::from("/proc").join(task.recv().unwrap());
    Port { address, seen, desk, line, stop: Some(stop), gate, task }
}

/// A port where all have as much time as they like.
fn start_patient() -> Port {
    let hour = Duration::from_secs(3600);
    let times = Times { stranger: hour, request: hour, idle: hour, closing: hour };
    start_with(Limits { times, ..Limits::of(None) })
}

/// A port where strangers have a little time.
fn start_hasty() -> Port {
    let limits = Limits::of(None);
    let times = Times { stranger: Duration::from_millis(500), ..limits.times };
    start_with(Limits { times, ..limits })
}

impl Drop for Port {
    fn drop(&mut self) {
        self.desk.change(|it| it.ends = true);
        self.stop = None;
        let ended = self.gate.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

impl Port {
    fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1")
    }

    fn connect_from(&self, from: &str) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from: IpAddr = from.parse().unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// A connection from there that proved nothing.
    fn stranger(&self, from: &str) -> Peer {
        Peer { stream: self.connect_from(from), unread: Vec::new(), is_last: false }
    }

    /// Waits until the gate has nothing left to do, and sleeps.
    fn wait_asleep(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let status = std::fs::read_to_string(self.task.join("status")).unwrap();
            let is_asleep = status.contains("\nState:\tS");
            // It sleeps for a lock, too, but then it goes on: that is counted there.
            let switches = status.split("\nvoluntary_ctxt_switches").nth(1).map(str::to_owned);
            let now = switches.filter(|_| is_asleep);
            if now.is_some() && now == before {
                return;
            }
            assert!(Instant::now() < deadline, "the gate never sleeps: {status}");
            before = now;
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// A connection over which this caller proved itself.
    fn member(&self, caller: u64) -> Peer {
        let mut peer = self.stranger("127.0.0.1");
        peer.says(caller, "prove");
        peer
    }

    /// Posts over a connection of its own; gives status and body.
    fn post(&self, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
    }
}

/// A kept connection.
struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Whether the last answer said that the connection is closed behind it.
    is_last: bool,
}

impl Peer {
    /// Asks under a name, with which the caller with this number proves itself.
    fn ask(&mut self, caller: u64, name: &str) {
        self.ask_with(caller, name, 0);
    }

    /// The same with so many bytes more.
    fn ask_with(&mut self, caller: u64, name: &str, more: usize) {
        assert!(!name.contains(' '));
        let body = format!("{caller} {name} {}", "x".repeat(more));
        // Who was cut is seen where the answer is read.
        let _ = self.stream.write_all((head_of(body.len()) + &body).as_bytes());
    }

    /// Asks, and is answered.
    fn says(&mut self, caller: u64, name: &str) {
        self.ask(caller, name);
        assert_eq!(self.answered().as_deref(), Some(name));
    }

    /// Begins a long body that never ends.
    fn stalls(&mut self) {
        self.stream.write_all((head_of(LONG_BYTES) + "1 stalled").as_bytes()).unwrap();
    }

    /// Asks for a long answer, and waits until it begins.
    fn asks_for_much(&mut self) {
        self.ask(NOBODY, "long");
        assert_eq!(self.stream.peek(&mut [0]).unwrap(), 1);
    }

    /// Waits until the gate has ended the connection.
    fn wait_end(&mut self) {
        assert_eq!(self.answered(), None);
    }

    /// The name of the next request that was answered; nothing where the connection has ended.
    fn answered(&mut self) -> Option<String> {
        loop {
            if let Some(body) = self.take_answer() {
                let text = String::from_utf8(body).unwrap();
                return Some(text.split(' ').nth(1).unwrap().to_owned());
            }
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(why) => panic!("no answer: {why}"),
            }
        }
    }

    fn take_answer(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        let length = head.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap();
        let whole = end + length.parse::<usize>().unwrap();
        if self.unread.len() < whole {
            return None;
        }
        let rest = self.unread.split_off(whole);
        let answer = std::mem::replace(&mut self.unread, rest);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        self.is_last = head.contains("Connection: close");
        Some(answer[end..].to_vec())
    }
}

fn head_of(body_bytes: usize) -> String {
    format!("POST /as HTTP/1.1\r\nContent-Length: {body_bytes}\r\n\r\n")
}

#[test]
fn a_thread_that_fails_is_told() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let on_fault: OnFault = Arc::new(move |why| heard.lock().unwrap().push(why.to_owned()));
    let ends: [fn() -> Result<(), Error>; 3] =
        [|| Ok(()), || Err(Error::other("no epoll")), || panic!("on purpose")];
    for end in ends {
        spawn("dsn-x".into(), Arc::clone(&on_fault), end).unwrap().join().unwrap();
    }
    let expected = ["the thread dsn-x ended: no epoll", "the thread dsn-x panicked"];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn a_handler_that_panics_is_500_and_the_next_request_is_served() {
    let port = start();
    for _ in 0..10 {
        assert_eq!(port.post("/panic", b"x"), (500, Vec::new()));
    }
    assert_eq!(port.post("/echo", b"x"), (200, b"x".to_vec()));
    assert_eq!(port.post("/none", b"x").0, 404);
}

#[test]
fn bodies_of_all_lengths_come_through_whole() {
    let port = start();
    for length in [0, 1, 1024, 1025, 16 * 1024, 16 * 1024 + 1, 100_000, BODY_BYTES_MAX] {
        let body: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        assert_eq!(port.post("/echo", &body), (200, body), "{length} bytes");
    }
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let port = start();
    let mut stream = port.connect();
    let one = |n: usize| format!("POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\n{n:03}");
    let all: String = (0..99).map(one).collect();
    let last = "POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\n099";
    stream.write_all((all + last).as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(bodies, (0..100).map(|n| format!("{n:03}")).collect::<Vec<_>>());
}

#[test]
fn tiny_http_that_dies_is_started_again_and_that_is_told() {
    let port = start();
    assert_eq!(port.post("/echo", b"before").0, 200);
    port.line.shutdown(Shutdown::Both).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while port.post("/echo", b"after").0 != 200 {
        assert!(std::time::Instant::now() < until);
    }
    let mut seen = port.seen.lock().unwrap();
    assert!(seen.restarted >= 1, "{seen:?}");
    let (trouble, text, _) = seen.degraded.take().unwrap();
    drop(seen);
    assert!(trouble == super::Trouble::Backend && text.contains("started again"), "{text}");
}

#[test]
fn a_request_whose_caller_is_gone_is_not_worked_on() {
    let port = start();
    let (mut first, mut gone, mut next) = (port.member(1), port.member(1), port.member(1));
    first.ask(1, "hold");
    port.desk.wait_begun(4);
    gone.ask(1, "gone");
    next.ask(1, "next");
    port.stranger(ELSEWHERE).says(NOBODY, "all-is-read");
    // Resets it.
    socket2::SockRef::from(&gone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    port.stranger(ELSEWHERE).says(NOBODY, "reset");
    port.desk.release("hold");
    assert_eq!(next.answered().as_deref(), Some("next"));
    assert!(!port.desk.begun().contains(&"gone".into()));
}

#[test]
fn a_caller_has_its_worker_back_when_tiny_http_was_started_again() {
    let port = start();
    let mut held = port.member(1);
    held.ask(1, "hold");
    port.desk.wait_begun(2);
    port.line.shutdown(Shutdown::Both).unwrap();
    port.desk.release("hold");
    let until = Instant::now() + PATIENCE;
    while port.seen.lock().unwrap().restarted == 0 {
        assert!(Instant::now() < until, "it is started again");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // Its worker may have been done before the gate saw that the rest is gone.
    let mut answer = [0; 13];
    held.stream.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(["HTTP/1.1 200 ", "HTTP/1.1 500 "].contains(&answer.as_ref()), "{answer}");
    port.member(1).says(1, "again");
}

#[test]
fn bytes_that_are_no_request_end_the_connection() {
    let port = start_patient();
    let mut stream = port.connect();
    stream.write_all(b"What?\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("Connection: close"),
        "{answer}"
    );
}

#[test]
fn the_gate_rests_while_requests_wait_that_lie_there_already() {
    let port = start();
    let mut peer = port.member(1);
    peer.ask(1, "hold");
    port.desk.wait_begun(2);
    (0..3).for_each(|_| peer.ask(1, "more"));
    port.stranger(ELSEWHERE).says(NOBODY, "all-is-there");
    let used = || -> u64 {
        let stat = std::fs::read_to_string(port.task.join("stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        // CPU time of user and system, in hundredths of a second.
        fields.skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum()
    };
    let before = used();
    std::thread::park_timeout(Duration::from_secs(1));
    let spent = used() - before;
    assert!(spent < 20, "{spent} hundredths of a second");
    port.desk.release("hold");
    assert_eq!(peer.answered().as_deref(), Some("hold"));
}

/// The gate sleeps while a worker writes an answer, and is woken for who said more meanwhile.
#[test]
fn what_a_member_says_meanwhile_is_seen_when_its_worker_is_done() {
    const ROUNDS: usize = 20;
    let port = start_patient();
    let mut member = port.member(1);
    // It stays: an end that comes late would wake the gate, and it would see the rest by chance.
    let mut stranger = port.stranger(ELSEWHERE);
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        let held = format!("hold-{round}");
        member.ask(1, &held);
        port.desk.wait_begun(2 + 3 * round);
        member.ask(1, "next");
        stranger.says(NOBODY, "next-is-there");
        port.wait_asleep();
        let began = Instant::now();
        port.desk.release(&held);
        assert_eq!(member.answered(), Some(held));
        assert_eq!(member.answered().as_deref(), Some("next"));
        waits.push(began.elapsed());
    }
    // A sweep would find it within half a second. One that comes just then helps a few of them, and
    // a host that stands still hinders a few.
    waits.sort_unstable();
    assert!(waits[ROUNDS / 2] < Duration::from_millis(100), "{waits:?}");
}

#[test]
fn answers_that_are_taken_late_come_whole_and_in_order() {
    const COUNT: usize = 1500;
    let port = start_patient();
    let mut member = port.member(1);
    let stream = member.stream.try_clone().unwrap();
    let mut asking = Peer { stream, unread: Vec::new(), is_last: false };
    let asks = std::thread::spawn(move || {
        (0..COUNT).for_each(|number| asking.ask_with(1, &number.to_string(), 15_000));
    });
    // Until nothing moves any more, as the kernel holds as much as it takes.
    let mut begun = 0;
    while port.desk.begun().len() > begun {
        begun = port.desk.begun().len();
        std::thread::park_timeout(Duration::from_millis(200));
    }
    for number in 0..COUNT {
        assert_eq!(member.answered(), Some(number.to_string()));
    }
    asks.join().unwrap();
}

//! The network between the nodes: a proxy in front of each, which knows who calls, and can refuse,
//! hold back or slow down what one node says to another. It needs no privileges.
//!
//! Node `b` listens on 127.r.4.b and tells others the address of its proxy on 127.r.3.b, with the
//! same port. What node `a` says goes out from 127.r.3.a, so every hint at an address leads to a
//! proxy too, and nobody gets around a partition. `r` is another one for runs side by side.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Most connections of one proxy: some for each caller; one more is closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Requests that are kept to be replayed by strangers, and the longest one, bytes.
const SAMPLES_MAX: usize = 64;
const SAMPLE_BYTES_MAX: usize = 16 * 1024;

/// What happens to the calls of one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Open,
    /// Connections are cut, and new ones closed at once.
    Refuse,
    /// Bytes wait, and arrive when the link opens: late, but in order.
    Hold,
    /// Each piece comes this much later.
    Slow(Duration),
}

struct Connection {
    from: usize,
    to: usize,
    ends: [Arc<TcpStream>; 2],
}

pub struct Net {
    pub addresses: Vec<SocketAddr>,
    /// Process ids of the nodes, 0 where none runs.
    pub pids: Vec<AtomicU32>,
    pub unknown_callers: AtomicU64,
    links: Mutex<Vec<Vec<Link>>>,
    changed: Condvar,
    connections: Mutex<HashMap<u64, Connection>>,
    next: AtomicU64,
    open: Vec<AtomicUsize>,
    samples: Mutex<Vec<(usize, Vec<u8>)>>,
    stopped: AtomicBool,
}

/// The part of loopback that is for this run.
fn of_run(network: u8, node: usize) -> Ipv4Addr {
    let run = u8::try_from(1 + std::process::id() % 250).unwrap();
    Ipv4Addr::new(127, run, network, u8::try_from(node).unwrap() + 1)
}

fn public(node: usize) -> Ipv4Addr {
    of_run(3, node)
}

fn private(node: usize) -> Ipv4Addr {
    of_run(4, node)
}

/// A connection from this address of our own.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

impl Net {
    pub fn start(count: usize) -> Arc<Self> {
        let listeners: Vec<TcpListener> =
            (0..count).map(|node| TcpListener::bind((public(node), 0)).unwrap()).collect();
        let net = Arc::new(Self {
            addresses: listeners.iter().map(|it| it.local_addr().unwrap()).collect(),
            pids: (0..count).map(|_| AtomicU32::new(0)).collect(),
            unknown_callers: AtomicU64::new(0),
            links: Mutex::new(vec![vec![Link::Open; count]; count]),
            changed: Condvar::new(),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            open: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            samples: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        for (node, listener) in listeners.into_iter().enumerate() {
            let net = Arc::clone(&net);
            std::thread::spawn(move || net.accept(node, &listener));
        }
        net
    }

    /// Where a node itself listens.
    pub fn listen(&self, node: usize) -> SocketAddr {
        (private(node), self.addresses[node].port()).into()
    }

    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.links.lock().unwrap()[from][to] = link;
        self.changed.notify_all();
        if link == Link::Refuse {
            let connections = self.connections.lock().unwrap();
            for it in connections.values().filter(|it| it.from == from && it.to == to) {
                cut(&it.ends);
            }
        }
    }

    pub fn heal(&self) {
        for row in self.links.lock().unwrap().iter_mut() {
            row.fill(Link::Open);
        }
        self.changed.notify_all();
    }

    /// How many of the links, each way counted, are not open.
    pub fn faulty(&self) -> usize {
        self.links.lock().unwrap().iter().flatten().filter(|it| **it != Link::Open).count()
    }

    /// A request that went to a node some time ago, as it was.
    pub fn sample(&self, rng: &mut fastrand::Rng) -> Option<(usize, Vec<u8>)> {
        let samples = self.samples.lock().unwrap();
        (!samples.is_empty()).then(|| samples[rng.usize(..samples.len())].clone())
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.heal();
        for address in &self.addresses {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(address);
        }
        for it in self.connections.lock().unwrap().values() {
            cut(&it.ends);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn accept(self: &Arc<Self>, to: usize, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.is_stopped() {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Some(from) = self.caller(&stream) else {
                self.unknown_callers.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let refused = self.links.lock().unwrap()[from][to] == Link::Refuse;
            if refused || self.open[to].load(Ordering::SeqCst) >= CONNECTIONS_MAX {
                continue;
            }
            self.open[to].fetch_add(1, Ordering::SeqCst);
            let net = Arc::clone(self);
            std::thread::spawn(move || {
                net.carry(from, to, stream);
                net.open[to].fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Which node the other end of the connection belongs to: the kernel knows the process.
    fn caller(&self, stream: &TcpStream) -> Option<usize> {
        let hex = |address: SocketAddr| match address {
            SocketAddr::V4(v4) => Some(hex_of(v4)),
            SocketAddr::V6(_) => None,
        };
        let local = hex(stream.peer_addr().ok()?)?;
        let remote = hex(stream.local_addr().ok()?)?;
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = table.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let found = words.next() == Some(&local) && words.next() == Some(&remote);
            found.then(|| words.nth(6)).flatten()
        })?;
        let name = format!("socket:[{inode}]");
        (0..self.pids.len()).find(|node| {
            let pid = self.pids[*node].load(Ordering::SeqCst);
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files.flatten().any(|file| {
                std::fs::read_link(file.path()).is_ok_and(|it| it.as_os_str() == name.as_str())
            })
        })
    }

    fn carry(self: &Arc<Self>, from: usize, to: usize, client: TcpStream) {
        let _ = client.set_nodelay(true);
        let Ok(node) = connect_from(public(from), self.listen(to)) else { return };
        let _ = node.set_nodelay(true);
        let ends = [Arc::new(client), Arc::new(node)];
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { from, to, ends: ends.clone() };
        self.connections.lock().unwrap().insert(number, connection);
        // It may have been cut between the look at it and the entry above.
        if self.is_stopped() || self.links.lock().unwrap()[from][to] == Link::Refuse {
            cut(&ends);
        }
        let (net, back) = (Arc::clone(self), ends.clone());
        let other = std::thread::spawn(move || net.pump(from, to, &back[1], &back[0], false));
        self.pump(from, to, &ends[0], &ends[1], true);
        let _ = other.join();
        self.connections.lock().unwrap().remove(&number);
    }

    fn pump(&self, from: usize, to: usize, source: &TcpStream, sink: &TcpStream, asks: bool) {
        let mut rng = fastrand::Rng::new();
        let mut buffer = vec![0; 16 * 1024];
        let mut request = Vec::new();
        while let Ok(read) = (&mut &*source).read(&mut buffer) {
            if read == 0 {
                let _ = sink.shutdown(Shutdown::Write);
                return;
            }
            self.wait_for_link(from, to);
            if (&mut &*sink).write_all(&buffer[..read]).is_err() {
                break;
            }
            if asks {
                self.keep(to, &mut request, &buffer[..read], &mut rng);
            }
        }
        let _ = source.shutdown(Shutdown::Both);
        let _ = sink.shutdown(Shutdown::Both);
    }

    fn wait_for_link(&self, from: usize, to: usize) {
        let mut links = self.links.lock().unwrap();
        while links[from][to] == Link::Hold && !self.is_stopped() {
            links = self.changed.wait_timeout(links, Duration::from_secs(1)).unwrap().0;
        }
        if let Link::Slow(time) = links[from][to] {
            drop(links);
            std::thread::park_timeout(time);
        }
    }

    /// Puts a request together from its pieces, and keeps it in the place of a random one.
    fn keep(&self, to: usize, request: &mut Vec<u8>, piece: &[u8], rng: &mut fastrand::Rng) {
        request.extend_from_slice(piece);
        let end = request.windows(4).position(|four| four == b"\r\n\r\n");
        let length = end.and_then(|end| {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let (_, length) = head.split_once("content-length:")?;
            length.lines().next()?.trim().parse::<usize>().ok().map(|length| end + 4 + length)
        });
        if request.len() > SAMPLE_BYTES_MAX {
            request.clear();
        } else if length.is_some_and(|length| length <= request.len()) {
            let mut samples = self.samples.lock().unwrap();
            let sample = (to, std::mem::take(request));
            if samples.len() < SAMPLES_MAX {
                samples.push(sample);
            } else if rng.u8(..) < 16 {
                let place = rng.usize(..SAMPLES_MAX);
                samples[place] = sample;
            }
        }
    }
}

fn hex_of(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn cut(ends: &[Arc<TcpStream>; 2]) {
    for end in ends {
        let _ = end.shutdown(Shutdown::Both);
    }
}

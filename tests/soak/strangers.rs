//! Those who have no business at the ports: garbage, half-open and slow connections, a stranger
//! with a network key of its own, replays of what was recorded, and one who has the key of the
//! network and forges what others own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dsn::protocol::identity::{NodeId, PublicKey};
use dsn::protocol::record::Record;
use serde_json::json;

use crate::soak::net::connect_from;
use crate::soak::world::{World, pause};
use crate::support::{Heard, Member, id, network_keys};

/// Most connections that are held open, over all nodes.
const HELD_MAX: usize = 150;
/// Longest time that one is held.
const HELD_TIME: Duration = Duration::from_secs(20);
/// Most bytes of one piece of garbage.
const GARBAGE_BYTES_MAX: usize = 32 * 1024;

pub fn let_in(world: &Arc<World>) {
    let (first, second) = (Arc::clone(world), Arc::clone(world));
    std::thread::spawn(move || disturb(&first, fastrand::Rng::with_seed(first.seed ^ 77)));
    std::thread::spawn(move || forge_all(&second, fastrand::Rng::with_seed(second.seed ^ 78)));
}

fn disturb(world: &World, mut rng: fastrand::Rng) {
    let mut held: Vec<(TcpStream, Instant)> = Vec::new();
    while !world.is_stopped() {
        held.retain(|(_, until)| *until > Instant::now());
        if world.is_quiet() {
            held.clear();
            pause(Duration::from_millis(50));
            continue;
        }
        let to = world.listen(rng.usize(..world.count()));
        let source = Ipv4Addr::new(127, 0, 5, rng.u8(1..5));
        match rng.u8(..6) {
            0 => say(source, to, &garbage(&mut rng)),
            1 => say(source, to, &request(&mut rng)),
            2 => say(source, to, b"POST /ping HTTP/1.1\r\nContent-Length: 70000000000000\r\n\r\n"),
            3 => replay(world, source, to, &mut rng),
            _ if held.len() < HELD_MAX => {
                if let Ok(mut stream) = connect_from(source, to) {
                    // Half a request, or nothing at all.
                    let piece = request(&mut rng);
                    let _ = stream.write_all(&piece[..rng.usize(..piece.len().min(2000))]);
                    held.push((stream, Instant::now() + HELD_TIME.mul_f32(rng.f32())));
                }
            }
            _ => {
                // One byte more over an old one.
                let at = rng.usize(..held.len());
                let _ = held[at].0.write_all(b"x");
            }
        }
        world.counts.strangers.fetch_add(1, Ordering::Relaxed);
        pause(Duration::from_millis(rng.u64(10..120)));
    }
}

fn garbage(rng: &mut fastrand::Rng) -> Vec<u8> {
    (0..rng.usize(1..GARBAGE_BYTES_MAX)).map(|_| rng.u8(..)).collect()
}

fn request(rng: &mut fastrand::Rng) -> Vec<u8> {
    let path = ["/hello", "/peers", "/update", "/ping", "/data", "/", "/x"][rng.usize(..7)];
    let method = ["POST", "POST", "POST", "GET", "BREW"][rng.usize(..5)];
    let body = garbage(rng);
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), body].concat()
}

/// Says it, reads a little of what comes back, and goes.
fn say(source: Ipv4Addr, to: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = connect_from(source, to) else { return };
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 512]);
}

/// Byte for byte, to the node that it was for, or to another one.
fn replay(world: &World, source: Ipv4Addr, other: SocketAddr, rng: &mut fastrand::Rng) {
    let Some((to, bytes)) = world.net.sample(rng) else { return };
    let to = if rng.u8(..4) == 0 { other } else { world.listen(to) };
    for _ in 0..rng.u8(1..4) {
        say(source, to, &bytes);
    }
    world.counts.replays.fetch_add(1, Ordering::Relaxed);
}

fn forge_all(world: &World, mut rng: fastrand::Rng) {
    while !world.is_stopped() {
        if world.is_quiet() {
            pause(Duration::from_millis(50));
            continue;
        }
        // The first node is never hung or ended: it has to answer.
        let owner = id(&format!("n{}", rng.usize(1..world.count())));
        if let Err(what) = catch_unwind(AssertUnwindSafe(|| forge(world, &owner))) {
            let text = what.downcast_ref::<String>().cloned().unwrap_or_default();
            if !world.is_stopped() {
                world.fail("secrecy", 0, &format!("a forger got no verdict: {text}"));
            }
        }
        world.counts.forgeries.fetch_add(1, Ordering::Relaxed);
        pause(Duration::from_millis(rng.u64(300..2000)));
    }
}

/// The key that the first node has pinned for another.
fn public_key(world: &World, owner: &NodeId) -> Option<PublicKey> {
    let peers = world.ask(0, &json!({ "op": "peers" })).ok()?;
    let peer = peers.as_array()?.iter().find(|peer| peer["node_id"] == owner.as_str())?;
    PublicKey::from_hex(peer["public_key"].as_str()?)
}

fn forge(world: &World, owner: &NodeId) {
    let target = world.listen(0);
    let mut forger = Member::new("forger", target);
    forger.introduce();
    // With a key of its own, and with that of the owner, but not its signature.
    let pairs = [("c", "999999999")];
    let forged = forger.record_of(owner, 1 << 52, &pairs);
    let mut pushes = vec![forger.push(vec![Arc::clone(&forged)])];
    if let Some(public) = public_key(world, owner) {
        let record = Record::new(forged.draft(), public, forged.signature);
        pushes.push(forger.push(vec![Arc::new(record)]));
    }
    let data = forger.data(1, b"0 0 1 forged");
    for request in pushes.into_iter().chain([data]) {
        let heard = forger.say(&request);
        if matches!(heard, Heard::Answer(_) | Heard::Nothing) {
            world.fail("secrecy", 0, &format!("{:?} of a forger got {heard:?}", request.kind()));
        }
    }
    let mut stranger = Member::new("stranger", target);
    stranger.network = network_keys([9; 32]);
    let hello = stranger.hello();
    let envelope = stranger.envelope(hello.kind(), &stranger.payload(&hello));
    let answer = crate::support::post(target, "/hello", &envelope);
    if answer.status < 400 || !answer.body.is_empty() || answer.seal().is_some() {
        world.fail("secrecy", 0, &format!("a stranger's HELLO got {answer:?}"));
    }
}

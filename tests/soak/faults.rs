//! The faults of one round: some nodes are victims, the others stand by and must not notice.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::soak::net::Link;
use crate::soak::world::{STEADY, World, pause};

/// What ends a fault.
enum End {
    Start(usize),
    Wake(usize),
    Open(Vec<(usize, usize)>),
}

/// Does faults to some nodes for this long; `look` is called all the time and can end it.
pub fn run(world: &World, time: Duration, rng: &mut fastrand::Rng, mut look: impl FnMut() -> bool) {
    let mut all: Vec<usize> = (0..world.count()).collect();
    rng.shuffle(&mut all);
    let victims = all[..rng.usize(1..world.count() - 2)].to_vec();
    let stand_by = (0..world.count()).map(|at| !victims.contains(&at)).collect();
    *world.bystanders.lock().unwrap() = (stand_by, Instant::now());
    world.note_fault(format!("a round with the victims {victims:?}"));
    // In a short round the faults are short and close together.
    let unit = time.mul_f32(0.01).max(Duration::from_millis(100));
    let until = Instant::now() + time;
    let mut ends: Vec<(Instant, End)> = Vec::new();
    let mut next = Instant::now();
    while Instant::now() < until && look() {
        let now = Instant::now();
        let (due, later) = ends.into_iter().partition(|(at, _)| *at <= now);
        ends = later;
        for (_, end) in due {
            finish(world, end);
        }
        if now >= next {
            next = now + unit * rng.u32(1..8);
            let victim = victims[rng.usize(..victims.len())];
            let lasts = unit * rng.u32(1..30);
            if let Some(end) = fault(world, victim, &victims, lasts, rng) {
                ends.push((now + lasts, end));
            }
        }
        pause(Duration::from_millis(50));
    }
}

fn fault(
    world: &World,
    victim: usize,
    victims: &[usize],
    lasts: Duration,
    rng: &mut fastrand::Rng,
) -> Option<End> {
    let kind = rng.u8(..10);
    let serves = world.serves(victim).is_some();
    let hung = world.nodes[victim].hung.load(Ordering::SeqCst);
    match kind {
        0..3 if victim >= STEADY && serves => {
            world.note_fault(format!("n{victim} is killed, for {lasts:?}"));
            world.kill(victim);
            if rng.bool() {
                let bytes: Vec<u8> = (0..rng.usize(1..60)).map(|_| rng.u8(..)).collect();
                world.note_fault(format!("n{victim}: {} torn bytes in its journal", bytes.len()));
                world.tear_journal(victim, &bytes);
            }
            Some(End::Start(victim))
        }
        3 | 4 if victim >= STEADY && serves && !hung => {
            let op = if rng.bool() { "stop" } else { "leave" };
            world.note_fault(format!("n{victim} ends by {op}, for {lasts:?}"));
            world.end(victim, op);
            Some(End::Start(victim))
        }
        5 if victim > 0 && serves && !hung => {
            world.note_fault(format!("n{victim} hangs for {lasts:?}"));
            world.signal(victim, Signal::STOP);
            Some(End::Wake(victim))
        }
        6..10 => Some(End::Open(cut(world, victims, lasts, rng))),
        _ => None,
    }
}

/// Links between some victims and all others, both ways or one.
fn cut(
    world: &World,
    victims: &[usize],
    lasts: Duration,
    rng: &mut fastrand::Rng,
) -> Vec<(usize, usize)> {
    let mut side = victims.to_vec();
    rng.shuffle(&mut side);
    side.truncate(rng.usize(1..=victims.len()));
    let slow = Link::Slow(Duration::from_millis(rng.u64(20..800)));
    let link = [Link::Refuse, Link::Refuse, Link::Hold, slow][rng.usize(..4)];
    let ways = rng.u8(..3);
    let mut pairs = Vec::new();
    for inside in &side {
        for outside in (0..world.count()).filter(|it| !side.contains(it)) {
            if ways != 1 {
                pairs.push((*inside, outside));
            }
            if ways != 2 {
                pairs.push((outside, *inside));
            }
        }
    }
    let way = ["both ways", "inwards", "outwards"][usize::from(ways)];
    world.note_fault(format!("links of {side:?}: {link:?} {way} for {lasts:?}"));
    world.counts.cuts.fetch_add(1, Ordering::Relaxed);
    for (from, to) in &pairs {
        world.net.set(*from, *to, link);
    }
    pairs
}

fn finish(world: &World, end: End) {
    match end {
        End::Start(node) => {
            world.note_fault(format!("n{node} starts"));
            world.start(node);
        }
        End::Wake(node) => {
            world.note_fault(format!("n{node} wakes"));
            world.signal(node, Signal::CONT);
        }
        End::Open(pairs) => {
            world.note_fault(format!("{} links open", pairs.len()));
            for (from, to) in pairs {
                world.net.set(from, to, Link::Open);
            }
        }
    }
}

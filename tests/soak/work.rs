//! Those who work with the nodes all the time, a thread each, and check what they are shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure};
use serde_json::{Value as Json, json};

use crate::soak::ledger::{COUNTER, Content, Delivery, content_of, counter_of, letter};
use crate::soak::members;
use crate::soak::world::{World, is_timeout, pause};
use crate::support::PATIENCE;

/// Keys of a node beside its counter, and the longest value: a state of some ten KB at the most.
const KEYS: usize = 20;
const VALUE_BYTES_MAX: usize = 1500;
/// A local answer has to come in this time, also from a node that was hung for a while.
const ANSWER_TIME: Duration = PATIENCE;
/// More than an inbox holds.
const BURST: u64 = 300;
/// One message in so many is such a burst.
const BURST_EVERY: u8 = 100;

/// Starts all workers of a node.
pub fn employ(world: &Arc<World>, at: usize, pace: Duration) {
    let work: [fn(&World, usize, fastrand::Rng, Duration); 5] =
        [write_all, read_states, watch, send_all, receive_all];
    for (number, job) in (1..).zip(work) {
        let world = Arc::clone(world);
        let seed = world.seed ^ (number * 1000 + at as u64);
        std::thread::spawn(move || job(&world, at, fastrand::Rng::with_seed(seed), pace));
    }
}

/// What a connection ended with: only the end of its node is a reason.
fn judge(world: &World, at: usize, run: u64, what: &str, failure: &Failure) {
    if is_timeout(failure) && world.run(at) == run {
        world.fail("isolation", at, &format!("no answer to {what} within {ANSWER_TIME:?}"));
        return;
    }
    // Who ends a node says so before.
    if world.run(at) == run && !world.is_stopped() {
        world.fail("serving", at, &format!("{what} ended with {failure:?} in run {run}"));
    }
}

/// Waits until the node serves in a run that is not this one.
fn next_run(world: &World, at: usize, over: u64) -> Option<u64> {
    loop {
        if world.is_stopped() {
            return None;
        }
        match world.serves(at) {
            Some(run) if run != over => return Some(run),
            _ => pause(Duration::from_millis(20)),
        }
    }
}

/// Whether it is a time of rest, which whoever works then says and waits through.
fn rests(world: &World, is_idle: &AtomicBool) -> bool {
    let quiet = world.is_quiet();
    is_idle.store(quiet, Ordering::SeqCst);
    if quiet {
        pause(Duration::from_millis(20));
    }
    quiet
}

// --- sets ---------------------------------------------------------------------------------------

fn write_all(world: &World, at: usize, mut rng: fastrand::Rng, pace: Duration) {
    let mut run = 0;
    let idle = &world.nodes[at].writer_is_idle;
    while let Some(next) = next_run(world, at, run) {
        run = next;
        if let Err(failure) = write(world, at, run, &mut rng, pace) {
            idle.store(false, Ordering::SeqCst);
            judge(world, at, run, "a set", &failure);
        }
        idle.store(false, Ordering::SeqCst);
    }
}

fn write(
    world: &World,
    at: usize,
    run: u64,
    rng: &mut fastrand::Rng,
    pace: Duration,
) -> Result<(), Failure> {
    let mut node = world.connect(at)?;
    let id = world.nodes[at].id.as_str();
    let state = node.call(&json!({ "op": "state", "node": id }), ANSWER_TIME)?;
    if let Err(what) = world.sets.resolve(at, &content_of(&state)) {
        world.fail("durability", at, &what);
    }
    while !world.is_stopped() && world.run(at) == run {
        if rests(world, &world.nodes[at].writer_is_idle) {
            continue;
        }
        let (question, counter, content) = change(world, at, rng);
        world.sets.attempt(at, counter, content);
        node.call(&question, ANSWER_TIME)?;
        world.sets.acknowledge(at);
        world.counts.sets.fetch_add(1, Ordering::Relaxed);
        pause(pace.mul_f32(0.2 + 1.6 * rng.f32()));
    }
    Ok(())
}

fn change(world: &World, at: usize, rng: &mut fastrand::Rng) -> (Json, u64, Content) {
    let mut content = world.sets.content(at);
    let counter = world.sets.next_counter(at);
    let key = format!("k{}", rng.usize(..KEYS));
    // A removal keeps the counter. Behind a change that came to nothing it would be an older one,
    // and versions would not stand in the order of their counters.
    let follows = counter_of(&content) == Some(counter - 1);
    if follows && rng.u8(..10) == 0 && content.remove(&key).is_some() {
        return (json!({ "op": "unset", "keys": [key] }), counter - 1, content);
    }
    let length = rng.usize(..VALUE_BYTES_MAX);
    let value = format!("{counter} {}", rng.char('a'..='z').to_string().repeat(length));
    let entries = json!({ COUNTER: counter.to_string(), key.as_str(): value.as_str() });
    content.insert(COUNTER.into(), counter.to_string());
    content.insert(key, value);
    (json!({ "op": "set", "entries": entries }), counter, content)
}

// --- states -------------------------------------------------------------------------------------

fn read_states(world: &World, at: usize, mut rng: fastrand::Rng, pace: Duration) {
    let mut run = 0;
    while let Some(next) = next_run(world, at, run) {
        run = next;
        if let Err(failure) = read(world, at, run, &mut rng, pace) {
            judge(world, at, run, "a look at all states", &failure);
        }
    }
}

fn read(
    world: &World,
    at: usize,
    run: u64,
    rng: &mut fastrand::Rng,
    pace: Duration,
) -> Result<(), Failure> {
    let mut node = world.connect(at)?;
    let mut seen = vec![None; world.count()];
    while !world.is_stopped() && world.run(at) == run {
        let oldest = world.lives.told(at);
        let states = node.call(&json!({ "op": "state" }), ANSWER_TIME)?;
        let newest = world.lives.asked(at);
        let states = states.as_array().expect("a list of states");
        let shown: Vec<usize> =
            states.iter().filter_map(|it| look(world, at, it, &mut seen, &newest)).collect();
        for (owner, seen) in seen.iter().enumerate() {
            let Some(seen) = seen else { continue };
            if seen.life < oldest[owner] && shown.contains(&owner) {
                let what = format!("the old state of n{owner} is shown after `forget`: {seen:?}");
                world.fail("secrecy", at, &what);
            }
            // What an operator had forgotten is gone until its owner comes back.
            if seen.life >= newest[owner] && !shown.contains(&owner) {
                world.fail("monotony", at, &format!("the state of n{owner} vanished: {seen:?}"));
            }
        }
        world.counts.reads.fetch_add(1, Ordering::Relaxed);
        pause(pace.mul_f32(1.0 + 2.0 * rng.f32()));
    }
    Ok(())
}

/// What a reader saw last of an owner.
#[derive(Debug, Clone, Copy)]
struct Seen {
    life: usize,
    timestamp: u64,
    counter: u64,
}

/// Looks at one state; gives whose it is, if it is that of a node of the cluster.
fn look(
    world: &World,
    at: usize,
    state: &Json,
    seen: &mut [Option<Seen>],
    newest: &[usize],
) -> Option<usize> {
    let id = state["node_id"].as_str().unwrap_or_default();
    let content = content_of(state);
    let Some(owner) = world.nodes.iter().position(|node| node.id == id) else {
        if !members::is_made_up(id, &content) {
            world.fail("secrecy", at, &format!("it knows a node that is none: {id:?}"));
        }
        return None;
    };
    if let Err(what) = world.sets.check(owner, &content) {
        world.fail("ownership", at, &format!("of n{owner}: {what}"));
    }
    let counter = counter_of(&content);
    // A state without a counter is that of a life in which nothing was written yet.
    let life = counter.map_or(newest[owner], |counter| world.sets.life_of(owner, counter));
    if life > newest[owner] {
        let what = format!("n{owner} has another key, and nobody told this node to forget it");
        world.fail("ownership", at, &what);
    }
    let timestamp = state["timestamp"].as_u64().unwrap_or(0);
    let now = Seen { life, timestamp, counter: counter.unwrap_or(0) };
    if let Some(before) = seen[owner].replace(now) {
        // In another life the clock of the host may be another one, too.
        let older = now.timestamp < before.timestamp || now.counter < before.counter;
        if now.life < before.life || now.life == before.life && older {
            world.fail("monotony", at, &format!("n{owner} went from {before:?} back to {now:?}"));
        }
    }
    Some(owner)
}

// --- events, and the lag ------------------------------------------------------------------------

fn watch(world: &World, at: usize, _: fastrand::Rng, _: Duration) {
    let mut run = 0;
    while let Some(next) = next_run(world, at, run) {
        run = next;
        if let Err(failure) = follow(world, at, run) {
            judge(world, at, run, "watch", &failure);
        }
    }
}

fn follow(world: &World, at: usize, run: u64) -> Result<(), Failure> {
    let mut node = world.connect(at)?;
    // A node that starts anew holds nothing of others.
    world.told.lock().unwrap()[at].fill(0);
    node.ask(&json!({ "op": "watch", "key": COUNTER }))?;
    while !world.is_stopped() && world.run(at) == run {
        // A quiet network has no events: time may pass.
        let event = match node.next_result(Some(Duration::from_secs(3600 * 24))) {
            Ok(Some(event)) => event,
            Ok(None) => return Err(Failure::Stopped),
            Err(failure) => return Err(failure),
        };
        world.counts.events.fetch_add(1, Ordering::Relaxed);
        hear(world, at, &event);
    }
    Ok(())
}

fn hear(world: &World, at: usize, event: &Json) {
    let id = event["node_id"].as_str().unwrap_or_default();
    let owner = world.nodes.iter().position(|node| node.id == id);
    let is_counter = event["event"] == "updated" && event["key"] == COUNTER;
    let (Some(owner), true) = (owner, is_counter) else { return };
    let number = |json: &Json| json.as_str().and_then(|text| text.parse::<u64>().ok());
    let Some(counter) = number(&event["value"]) else {
        let life = world.sets.life_of(owner, number(&event["old"]).unwrap_or(0));
        if life < world.lives.asked(at)[owner] {
            // An operator had it forgotten here.
            return;
        }
        world.fail("ownership", at, &format!("the counter of n{owner} is gone: {event}"));
        return;
    };
    let mut told = world.told.lock().unwrap();
    let before = std::mem::replace(&mut told[at][owner], counter);
    drop(told);
    if counter < before || number(&event["old"]).is_some_and(|old| old > counter) {
        world.fail("monotony", at, &format!("the counter of n{owner} goes back: {event}"));
    }
    let bystanders = world.bystanders.lock().unwrap();
    if owner != at && bystanders.0[owner] && bystanders.0[at] {
        let since = bystanders.1;
        drop(bystanders);
        let acknowledged = world.sets.first_after(owner, before);
        if let Some(acknowledged) = acknowledged.filter(|it| *it >= since) {
            world.lags.lock().unwrap().push(acknowledged.elapsed());
        }
    }
}

// --- DATA ---------------------------------------------------------------------------------------

fn send_all(world: &World, at: usize, mut rng: fastrand::Rng, pace: Duration) {
    let mut run = 0;
    let mut number = 0;
    let idle = &world.nodes[at].sender_is_idle;
    while let Some(next) = next_run(world, at, run) {
        run = next;
        if let Err(failure) = send(world, at, run, &mut number, &mut rng, pace) {
            judge(world, at, run, "a send", &failure);
        }
        idle.store(false, Ordering::SeqCst);
    }
}

fn send(
    world: &World,
    at: usize,
    run: u64,
    number: &mut u64,
    rng: &mut fastrand::Rng,
    pace: Duration,
) -> Result<(), Failure> {
    let mut node = world.connect(at)?;
    while !world.is_stopped() && world.run(at) == run {
        if rests(world, &world.nodes[at].sender_is_idle) {
            continue;
        }
        let to = (at + 1 + rng.usize(..world.count() - 1)) % world.count();
        if rng.u8(..BURST_EVERY) == 0 {
            burst(world, at, to, number, &mut node)?;
        } else {
            let _ = send_one(world, at, to, number, &mut node)?;
        }
        pause(pace.mul_f32(1.0 + 4.0 * rng.f32()));
    }
    Ok(())
}

/// Whether it was accepted; the text of the refusal if not.
fn send_one(
    world: &World,
    at: usize,
    to: usize,
    number: &mut u64,
    node: &mut ControlClient,
) -> Result<Result<(), String>, Failure> {
    *number += 1;
    let (number, run) = (*number, world.serves(to));
    world.mail.attempt(at, to, number);
    let text = letter(at, to, number);
    let target = world.nodes[to].id.as_str();
    let question = json!({ "op": "send", "node": target, "data": text, "timeout_ms": 5000 });
    match node.call(&question, ANSWER_TIME) {
        Ok(_) => {
            // Only if its receiver is the same process all the time it is known who has it.
            let same = run.filter(|run| world.run(to) == *run);
            world.mail.accept(at, number, same);
            Ok(Ok(()))
        }
        Err(Failure::No(text)) => {
            let refused = text.contains("refused");
            world.mail.count(|counts| {
                *(if refused { &mut counts.refused } else { &mut counts.unknown }) += 1;
            });
            Ok(Err(text))
        }
        Err(failure) => {
            world.mail.count(|counts| counts.unknown += 1);
            Err(failure)
        }
    }
}

/// More messages than an inbox holds, to a node whose reader rests: they have to be refused.
fn burst(
    world: &World,
    at: usize,
    to: usize,
    number: &mut u64,
    node: &mut ControlClient,
) -> Result<(), Failure> {
    let target = &world.nodes[to];
    if target.reader_must_rest.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let run = world.run(to);
    let until = Instant::now() + Duration::from_secs(5);
    while !target.reader_rests.load(Ordering::SeqCst) && Instant::now() < until {
        pause(Duration::from_millis(20));
    }
    let rested = target.reader_rests.load(Ordering::SeqCst);
    let mut accepted = 0;
    let mut full = false;
    let mut outcome = Ok(());
    for _ in 0..BURST {
        match send_one(world, at, to, number, node) {
            Ok(Ok(())) => accepted += 1,
            Ok(Err(text)) => {
                full = text.contains("inbox");
                break;
            }
            Err(failure) => {
                outcome = Err(failure);
                break;
            }
        }
    }
    if full {
        world.counts.inbox_full.fetch_add(1, Ordering::Relaxed);
    } else if accepted == BURST && rested && world.run(to) == run {
        world.fail("boundedness", to, &format!("its inbox took {accepted} messages"));
    }
    target.reader_must_rest.store(false, Ordering::SeqCst);
    outcome
}

fn receive_all(world: &World, at: usize, mut rng: fastrand::Rng, _: Duration) {
    let mut run = 0;
    while let Some(next) = next_run(world, at, run) {
        run = next;
        if let Err(failure) = receive(world, at, run, &mut rng) {
            judge(world, at, run, "recv", &failure);
        }
    }
}

fn receive(world: &World, at: usize, run: u64, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let mut node = world.connect(at)?;
    let this = &world.nodes[at];
    while !world.is_stopped() && world.run(at) == run {
        let rests = this.reader_must_rest.load(Ordering::SeqCst);
        this.reader_rests.store(rests, Ordering::SeqCst);
        if rests {
            pause(Duration::from_millis(20));
            continue;
        }
        let acknowledged = rng.bool();
        let question = json!({ "op": "recv", "ack": acknowledged, "timeout_ms": 500 });
        let hangs = this.hangs.load(Ordering::SeqCst);
        let message = match node.call(&question, ANSWER_TIME) {
            Ok(message) => message,
            Err(Failure::No(text)) if text.contains("in time") => continue,
            Err(failure) => return Err(failure),
        };
        let (from, data) = (&message["from"], &message["data"]);
        let (from, data) = (from.as_str().unwrap_or_default(), data.as_str().unwrap_or_default());
        let delivery = Delivery { hangs, acknowledged };
        if let Err(what) = world.mail.deliver(at, from, data, delivery) {
            world.fail("delivery", at, &what);
        }
        if acknowledged {
            node.ask(&json!({ "op": "ack" }))?;
        }
    }
    Ok(())
}

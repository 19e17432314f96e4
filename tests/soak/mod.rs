//! A cluster of real processes under writes, DATA, kills, stops, hangs, partitions, garbage, a
//! member that lies and hosts that are set up anew, for a long time, while all promises are checked
//! (`scripts/soak.sh`).
//!
//! `DSN_SOAK_MINUTES=n cargo test --release soak:: -- --nocapture` runs for n minutes;
//! without it, some twenty seconds. `SEED=n` makes the faults of a run that had this seed again;
//! when exactly they meet the nodes is up to the machine.

mod anew;
mod faults;
mod figures;
mod ledger;
mod members;
mod net;
mod strangers;
mod work;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::ledger::{Content, content_of, digest};
use self::world::{STEADY, World, pause};
use crate::support::PATIENCE;
use dsn::control::ControlClient;
use serde_json::json;

/// How late a change may come to a node that no fault is done to, while others have some.
const LAG_MAX: Duration = Duration::from_secs(15);
/// How long a node works until its memory, threads and descriptors are what they stay.
const WARM: Duration = Duration::from_secs(300);
/// The shortest run of which both ends are compared.
const SHORTEST_COMPARED: Duration = Duration::from_secs(60);
/// Of so many calms at the end the least is compared with the most of the first half: senders come
/// and go with what is sent just then and with how busy the host is, and the heap keeps the most
/// that it ever had to hold. What leaks grows on in the second half.
const LAST_CALMS: usize = 3;
/// Most lines of a log that are shown after a failure.
const LOG_LINES: usize = 25;
/// How much longer than it should the whole may take before it is ended.
const OVERTIME: Duration = Duration::from_secs(300);

/// How long the parts are.
struct Plan {
    total: Duration,
    nodes: usize,
    chaos: [u64; 2],
    rest: Duration,
    pace: Duration,
    line: Duration,
    /// After one round in so many a host is set up anew, and after the first.
    anew: u64,
}

impl Plan {
    fn from_environment() -> Self {
        let minutes = std::env::var("DSN_SOAK_MINUTES").ok();
        let minutes: Option<u64> =
            minutes.map(|it| it.parse().expect("DSN_SOAK_MINUTES is a number of minutes"));
        match minutes {
            Some(minutes) => Self {
                total: Duration::from_secs(minutes.max(1) * 60),
                nodes: 8,
                chaos: [40, 70],
                rest: Duration::from_secs(6),
                pace: Duration::from_millis(200),
                line: Duration::from_secs(10),
                anew: 2,
            },
            None => Self {
                total: Duration::from_secs(20),
                nodes: 5,
                chaos: [5, 6],
                rest: Duration::from_millis(500),
                pace: Duration::from_millis(400),
                line: Duration::from_secs(10),
                anew: u64::MAX,
            },
        }
    }

    fn is_long(&self) -> bool {
        self.total >= Duration::from_secs(60)
    }

    /// From where on the nodes are warm: five minutes, or a quarter of a shorter run.
    fn warm(&self) -> Duration {
        WARM.min(self.total / 4)
    }
}

#[test]
fn the_promises_hold_all_the_time() {
    let plan = Plan::from_environment();
    let seed = std::env::var("SEED").map_or_else(
        |_| fastrand::u64(..1_000_000_000),
        |text| text.parse().expect("SEED is a number"),
    );
    println!("soak: {} nodes, {} s, seed {seed}", plan.nodes, plan.total.as_secs());
    println!("soak: {}", figures::LEGEND);
    let world = World::new(plan.nodes, seed);
    let done = watch_over(&world, plan.total + OVERTIME);
    let outcome = catch_unwind(AssertUnwindSafe(|| soak(&world, &plan)));
    done.store(true, Ordering::SeqCst);
    let failures = world.failures();
    if outcome.is_err() || !failures.is_empty() {
        tell_all(&world, &failures);
    }
    world.shut();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(failures.is_empty(), "SEED={seed}: broken promises: {failures:#?}");
    println!("soak: all promises held, seed {seed}");
}

/// Ends all when the run does not end by itself: a hang must not stay one.
fn watch_over(world: &Arc<World>, time: Duration) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let (world, told) = (Arc::clone(world), Arc::clone(&done));
    std::thread::spawn(move || {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if told.load(Ordering::SeqCst) {
                return;
            }
            pause(Duration::from_millis(500));
        }
        println!("soak: it hangs, seed {}", world.seed);
        tell_all(&world, &world.failures());
        for pid in &world.net.pids {
            let pid = rustix::process::Pid::from_raw(pid.load(Ordering::SeqCst).cast_signed());
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::process::exit(1);
    });
    done
}

fn tell_all(world: &World, failures: &[String]) {
    println!("soak: the last faults:\n  {}", world.last_faults().join("\n  "));
    for (at, node) in world.nodes.iter().enumerate() {
        let log = std::fs::read_to_string(&node.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        println!("soak: the end of the log of n{at}:\n  {}", tail.join("\n  "));
    }
    println!("soak: seed {}, broken promises:\n  {}", world.seed, failures.join("\n  "));
}

fn soak(world: &Arc<World>, plan: &Plan) {
    let mut rng = fastrand::Rng::with_seed(world.seed);
    for at in 0..world.count() {
        world.start(at);
        work::employ(world, at, plan.pace);
    }
    strangers::let_in(world);
    members::let_in(world);
    let mut line = Instant::now();
    let mut calms: Vec<(Duration, Vec<figures::Usage>)> = Vec::new();
    calm(world, plan, "start", None);
    for round in 1_u64.. {
        let phase = format!("round {round}");
        let time = Duration::from_secs(rng.u64(plan.chaos[0]..=plan.chaos[1]));
        faults::run(world, time, &mut rng, || {
            look(world);
            if line.elapsed() >= plan.line {
                line = Instant::now();
                println!("{}", figures::line(world, &phase));
            }
            world.failures().is_empty()
        });
        if !world.failures().is_empty() {
            return;
        }
        let last = world.began.elapsed() + plan.rest >= plan.total;
        let anew = (round % plan.anew == 1).then_some(&mut rng);
        calms.push((world.began.elapsed(), calm(world, plan, &phase, anew)));
        if last || !world.failures().is_empty() {
            break;
        }
    }
    if world.failures().is_empty() {
        verdict(world, plan, &calms);
    }
}

/// What can be seen at any time.
fn look(world: &World) {
    world.look_for_dead();
    let bystanders = world.bystanders.lock().unwrap().clone();
    let told = world.told.lock().unwrap().clone();
    if world.is_quiet() {
        return;
    }
    for owner in (0..world.count()).filter(|it| bystanders.0[*it]) {
        for at in (0..world.count()).filter(|it| bystanders.0[*it] && *it != owner) {
            let Some(since) = world.sets.first_after(owner, told[at][owner]) else { continue };
            let late = since.max(bystanders.1).elapsed();
            if late > LAG_MAX {
                let what = format!("a change of n{owner} has not come for {late:?}");
                world.fail("isolation", at, &what);
            }
        }
    }
}

/// Waits until it is so; a promise that is not kept in time is a failure.
fn expect(world: &World, promise: &str, mut missing: impl FnMut() -> Option<(usize, String)>) {
    let until = Instant::now() + PATIENCE;
    while let Some((node, what)) = missing() {
        if Instant::now() > until {
            world.fail(promise, node, &format!("within {PATIENCE:?}: {what}"));
            return;
        }
        if !world.failures().is_empty() {
            return;
        }
        pause(Duration::from_millis(50));
    }
}

/// All is healed, nobody writes: all must become equal, all be alive, all DATA be delivered. Then
/// the same after a host was set up anew, if one is. Then the figures are taken, and the lag in a
/// network without faults.
fn calm(
    world: &World,
    plan: &Plan,
    phase: &str,
    anew: Option<&mut fastrand::Rng>,
) -> Vec<figures::Usage> {
    world.quiet.store(true, Ordering::SeqCst);
    for at in 0..world.count() {
        world.signal(at, rustix::process::Signal::CONT);
        world.start(at);
    }
    world.net.heal();
    demand_all(world, phase, "healed");
    if let Some(rng) = anew.filter(|_| world.failures().is_empty()) {
        let (at, old) = anew::set_up(world, rng);
        demand_all(world, phase, &format!("n{at} was set up anew"));
        expect(world, "convergence", || anew::known_by_the_old(world, at, &old));
    }
    let usages = take_figures(world, plan, phase);
    *world.bystanders.lock().unwrap() = (vec![true; world.count()], Instant::now());
    world.lags.lock().unwrap().clear();
    world.quiet.store(false, Ordering::SeqCst);
    let until = Instant::now() + plan.rest;
    while Instant::now() < until {
        look(world);
        pause(Duration::from_millis(200));
    }
    println!("{}", figures::line(world, &format!("{phase}, no faults")));
    usages
}

/// All that has to come in a network that is whole and at rest.
fn demand_all(world: &World, phase: &str, what: &str) {
    let began = Instant::now();
    expect(world, "serving", || {
        let busy = world.nodes.iter().position(|node| {
            !node.writer_is_idle.load(Ordering::SeqCst)
                || !node.sender_is_idle.load(Ordering::SeqCst)
        });
        busy.map(|at| (at, "a set or a send is not over".into()))
    });
    expect(world, "serving", || {
        let busy = !world.liar_is_idle.load(Ordering::SeqCst);
        busy.then(|| (0, "the member that lies does not come to rest".into()))
    });
    let wrote = Instant::now();
    let mut clients: Vec<ControlClient> = Vec::new();
    for at in 0..world.count() {
        clients.push(world.connect(at).expect("a node that serves"));
    }
    expect(world, "convergence", || unequal(world, &mut clients));
    let (equal, converged) = (wrote.elapsed(), began.elapsed());
    expect(world, "convergence", || not_alive(world, &mut clients));
    let alive = began.elapsed();
    expect(world, "delivery", || {
        let open = world.mail.open(|at| world.run(at));
        let (from, number, to, age) = open.first()?;
        Some((*to, format!("message {number} of n{from}, accepted {age:?} ago, is not there")))
    });
    println!(
        "{phase}: {what}; equal after {:.2} s (of these {:.2} s at rest), all alive after {:.2} s",
        converged.as_secs_f32(),
        equal.as_secs_f32(),
        alive.as_secs_f32()
    );
}

/// After a rest, in which idle threads and connections end.
fn take_figures(world: &World, plan: &Plan, phase: &str) -> Vec<figures::Usage> {
    pause(if plan.is_long() { Duration::from_secs(12) } else { plan.rest });
    let mut samples = Vec::new();
    for _ in 0..7 {
        samples.push(figures::usages(world));
        pause(plan.rest / 12);
    }
    println!("{}", figures::line(world, &format!("{phase}, at rest")));
    figures::middle(&samples)
}

/// The first node that does not show the last acknowledged state of all, each at one timestamp.
fn unequal(world: &World, clients: &mut [ControlClient]) -> Option<(usize, String)> {
    let wanted: Vec<u64> =
        (0..world.count()).map(|owner| digest(&world.sets.content(owner))).collect();
    let mut timestamps = vec![None; world.count()];
    let mut others: Option<Vec<(String, u64, Content)>> = None;
    for (at, node) in clients.iter_mut().enumerate() {
        let states = node.call(&json!({ "op": "state" }), PATIENCE).expect("it serves");
        let states = states.as_array().expect("a list");
        let is_of_ours = |it: &&serde_json::Value| {
            world.nodes.iter().any(|node| it["node_id"] == node.id.as_str())
        };
        let ours = states.iter().filter(is_of_ours).count();
        // What a liar made up is the same everywhere, too, as soon as it rests.
        let made_up = states.iter().filter(|it| !is_of_ours(it));
        let made_up: Vec<_> = made_up
            .map(|it| {
                let (id, timestamp) = (it["node_id"].to_string(), it["timestamp"].as_u64());
                (id, timestamp.unwrap_or(0), content_of(it))
            })
            .collect();
        if *others.get_or_insert_with(|| made_up.clone()) != made_up {
            let what = "what it shows of the liar differs from what n0 shows";
            return Some((at, what.into()));
        }
        if ours != world.count() {
            return Some((at, format!("it holds {ours} states")));
        }
        for (owner, wanted) in wanted.iter().enumerate() {
            let state = states.iter().find(|it| it["node_id"] == world.nodes[owner].id.as_str());
            let content: Option<Content> = state.map(content_of);
            if content.is_none_or(|content| digest(&content) != *wanted) {
                return Some((at, format!("its copy of n{owner} is not the last acknowledged")));
            }
            let timestamp = state.and_then(|it| it["timestamp"].as_u64());
            if *timestamps[owner].get_or_insert(timestamp) != timestamp {
                return Some((at, format!("its copy of n{owner} has another timestamp")));
            }
        }
    }
    None
}

/// The first node that does not call all the others alive. Of the ids that the member that lies
/// made up there is a fixed number, and no node knows any other.
fn not_alive(world: &World, clients: &mut [ControlClient]) -> Option<(usize, String)> {
    for (at, node) in clients.iter_mut().enumerate() {
        let peers = node.call(&json!({ "op": "peers" }), PATIENCE).expect("it serves");
        let peers = peers.as_array().expect("a list");
        let mut alive = 0;
        for peer in peers {
            let id = peer["node_id"].as_str().unwrap_or_default();
            if world.nodes.iter().any(|node| node.id == id) {
                alive += usize::from(peer["status"] == "alive");
            } else if !members::is_an_id_of_ours(id) {
                world.fail("boundedness", at, &format!("it knows a peer that is none: {id:?}"));
            }
        }
        if alive != world.count() - 1 {
            return Some((at, format!("not all peers are alive: {peers:?}")));
        }
    }
    None
}

fn verdict(world: &World, plan: &Plan, calms: &[(Duration, Vec<figures::Usage>)]) {
    let Some(first) = calms.iter().position(|(at, _)| *at >= plan.warm()) else { return };
    let warm = &calms[first..];
    let (end, _) = calms.last().expect("there was a calm");
    let half = warm.partition_point(|(at, _)| *at < plan.total / 2).max(1);
    let (early, late) = warm.split_at(half);
    let samples = |calms: &[(Duration, Vec<figures::Usage>)]| -> Vec<Vec<Option<figures::Usage>>> {
        calms.iter().map(|(_, usages)| usages.iter().copied().map(Some).collect()).collect()
    };
    let then = figures::greatest(&samples(early));
    let last = figures::least(&samples(&late[late.len().saturating_sub(LAST_CALMS)..]));
    println!(
        "soak: at rest, the most from {} s to the half, and the least of the last {LAST_CALMS} times until {} s:",
        warm[0].0.as_secs(),
        end.as_secs()
    );
    for (at, (was, now)) in then.iter().zip(&last).enumerate() {
        let kind = if at < STEADY { "never ended" } else { "ended at times" };
        println!("soak:   n{at} ({kind}): {was} -> {now}");
    }
    // A tenth of thirty threads is three: within seconds as many senders come and go. Caps of all
    // of them are checked all the time.
    if plan.total < SHORTEST_COMPARED {
        println!("soak: the run is too short to compare what is used at its ends");
        return;
    }
    // Before five minutes are over the heap still grows into the work that it is given.
    let with_memory = plan.total >= 2 * WARM;
    if !with_memory {
        println!(
            "soak: the run is too short to compare memory; threads and descriptors are compared"
        );
    }
    for (at, grown) in figures::growth(&then, &last, with_memory) {
        world.fail("boundedness", at, &format!("more than a tenth more at the end: {grown}"));
    }
    let counts = &world.counts;
    let [kills, ends, hangs, cuts, reads, events] =
        [&counts.kills, &counts.ends, &counts.hangs, &counts.cuts, &counts.reads, &counts.events]
            .map(|it| it.load(Ordering::Relaxed));
    println!(
        "soak: faults: {kills} kills, {ends} stops and goodbyes, {hangs} hangs, {cuts} partitions and slow links"
    );
    let [lies, anew, revivals] =
        [&counts.lies, &counts.anew, &counts.revivals].map(|it| it.load(Ordering::Relaxed));
    println!("soak: {lies} requests and answers of a member that lies");
    println!("soak: {anew} hosts set up anew; what was forgotten was said again {revivals} times");
    println!("soak: checks: {reads} reads of all states, {events} changes told");
    let unknown = world.net.unknown_callers.load(Ordering::Relaxed);
    println!("soak: {unknown} connections were dropped, as their caller had ended them already");
}

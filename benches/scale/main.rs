//! The figures of many nodes: real rules in a modelled network, and real processes.
//!
//! `cargo bench --bench scale -- [--sizes 16,64] [--hours H] [--seed S] [--long] [FIGURE…]`;
//! without a figure all of them. `scripts/bench.sh scale` says more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    dead_code,
    unreachable_pub,
    reason = "a bench prints what it measured, and one that can't measure fails by panicking; \
              modules are shared with tests"
)]

#[path = "../../tests/scale/crowd.rs"]
mod crowd;
#[path = "../../tests/scale/figures.rs"]
mod figures;
#[path = "../../tests/scale/host.rs"]
mod host;
#[path = "../../tests/scale/overload.rs"]
mod overload;
#[path = "../../tests/scale/partial.rs"]
mod partial;
#[path = "../load/plot.rs"]
mod plot;
#[path = "../load/rows.rs"]
mod rows;
mod table;

use std::time::Instant;

use crowd::Crowd;
use figures::{End, quantile};
use rows::Goal;
use table::Table;

/// What is asked for.
pub(crate) struct Options {
    sizes: Vec<usize>,
    hours: f64,
    seed: u64,
    sets: usize,
    victims: usize,
    explain: bool,
    /// Whose name has this in it, of shapes.
    shape: String,
    /// Requests and answers that get lost in these, in a million.
    loss: u32,
}

/// Lost tries, in a million, with the words for it.
const LOSS: [(u32, &str); 2] = [(10_000, "1 %"), (50_000, "5 %")];

type Measure = fn(&mut Table, &Options, usize);

/// The figures, each measured for each size.
const FIGURES: [(&str, Measure); 11] = [
    ("primed", primed),
    ("mistakes", mistakes),
    ("join", join),
    ("join-loss", join_loss),
    ("late", late),
    ("hangs", hangs),
    ("split", split),
    ("restart", restart),
    ("half", half),
    ("partial", partial),
    ("overload", overload),
];

fn main() {
    let mut options = Options {
        sizes: vec![16, 64, 256],
        hours: 0.25,
        seed: 1,
        sets: 20,
        victims: 3,
        explain: false,
        shape: String::new(),
        loss: 0,
    };
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next().expect("a value behind it");
        match argument.as_str() {
            "--sizes" => {
                options.sizes = next().split(',').map(|size| size.parse().unwrap()).collect();
            }
            "--hours" => options.hours = next().parse().unwrap(),
            "--seed" => options.seed = next().parse().unwrap(),
            "--sets" => options.sets = next().parse().unwrap(),
            "--victims" => options.victims = next().parse().unwrap(),
            "--shape" => options.shape = next(),
            "--loss" => options.loss = next().parse::<u32>().unwrap() * 10_000,
            "--explain" => options.explain = true,
            "--long" => {
                options.sizes = vec![16, 64, 256, 1000];
                options.hours = 24.0;
            }
            name if FIGURES.iter().any(|(figure, _)| *figure == name) || name == "table" => {
                wanted.push(name.to_owned());
            }
            strange => {
                let names = FIGURES.map(|(name, _)| name).join(", ");
                eprintln!("scale: {strange} is no option, and none of the figures: {names}, table");
                std::process::exit(2);
            }
        }
    }
    let mut table = Table::load();
    for size in options.sizes.clone() {
        for (name, measure) in FIGURES {
            if wanted.is_empty() || wanted.iter().any(|it| it == name) {
                let began = Instant::now();
                measure(&mut table, &options, size);
                println!("   ({name}, {size} nodes: {:.1} s)", began.elapsed().as_secs_f64());
                table.save();
            }
        }
    }
    table.print();
}

fn size_goal(size: usize, goals: &[(usize, f64)]) -> Goal {
    goals.iter().find(|(at, _)| *at == size).map_or(Goal::None, |(_, most)| Goal::AtMost(*most))
}

/// What one network does that has met long ago.
fn primed(table: &mut Table, options: &Options, size: usize) {
    let before = table::rss_mb();
    let mut crowd = Crowd::primed(size, 0, options.seed);
    let each = (table::rss_mb() - before) / size as f64;
    table.add("memory of a node, records shared", size, 0.0, each, "MB", Goal::None);
    add_idle(table, &mut crowd, size, 0.0);
    add_sets(table, &figures::sets(&mut crowd, options.sets), size, 0.0);
    let ends = [(End::Killed, "killed", 5.0), (End::Hung, "hung", 10.0), (End::Cut, "cut", 10.0)];
    for (end, what, most) in ends {
        let times = figures::detection(&mut crowd, end, options.victims);
        let (p50, max) = (quantile(&times, 500), quantile(&times, 1000));
        table.add(&format!("{what}, lost at all: p50"), size, 0.0, p50, "s", Goal::None);
        table.add(&format!("{what}, lost at all: max"), size, 0.0, max, "s", Goal::AtMost(most));
    }
    for (loss, _) in LOSS {
        crowd.loss = loss;
        let percent = f64::from(loss) / 1e4;
        add_idle(table, &mut crowd, size, percent);
        add_sets(table, &figures::sets(&mut crowd, options.sets), size, percent);
    }
}

fn add_idle(table: &mut Table, crowd: &mut Crowd, size: usize, loss: f64) {
    let seconds = if size >= 1000 { 30 } else { 120 };
    let traffic = figures::idle_traffic(crowd, seconds);
    let each = |count: u64| count as f64 / (seconds as f64 * size as f64);
    let at_most = |most| if loss == 0.0 { Goal::AtMost(most) } else { Goal::None };
    let (requests, bytes) = (each(traffic.requests), each(traffic.bytes));
    table.add("idle: requests a node", size, loss, requests, "/s", at_most(1.1));
    table.add("idle: bytes a node", size, loss, bytes, "B/s", at_most(500.0));
    println!(
        "   (of it HELLO {:.3}, PEERS {:.3}, PING {:.3}, pulls {:.3}, UPDATEs with records {:.3}, \
         asks {:.3}, words {:.3}, accusations {:.3})",
        each(traffic.hellos),
        each(traffic.lists),
        each(traffic.pings),
        each(traffic.pulls),
        each(traffic.pushes),
        each(traffic.asks),
        each(traffic.words),
        each(traffic.accusations)
    );
}

fn add_sets(table: &mut Table, sets: &figures::Sets, size: usize, loss: f64) {
    let times = &sets.times;
    let mean = figures::Sets::mean;
    let p99 = if loss == 0.0 {
        size_goal(size, &[(16, 34.0), (64, 60.0), (256, 70.0), (1000, 100.0)])
    } else {
        Goal::None
    };
    table.add("set to all: p50", size, loss, quantile(times, 500), "ms", Goal::None);
    table.add("set to all: p99", size, loss, quantile(times, 990), "ms", p99);
    let is_lossy = loss > 0.0 && size >= 256;
    let most = if is_lossy { Goal::AtMost(5000.0) } else { Goal::None };
    table.add("set to all: max", size, loss, quantile(times, 1000), "ms", most);
    let share = if is_lossy { Goal::AtLeast(99.9) } else { Goal::None };
    table.add("set: nodes reached within 1 s", size, loss, sets.share_within(1000.0), "%", share);
    let owner = match (loss, size) {
        (_, ..256) => Goal::None,
        (0.0, _) => Goal::AtMost(16.0),
        _ => Goal::AtMost(40.0),
    };
    let by_owner = quantile(&sets.by_owner, 1000);
    table.add("set: UPDATEs of the owner, max", size, loss, by_owner, "", owner);
    let pushes = mean(&sets.pushes);
    let most = if loss == 0.0 { Goal::AtMost(2.2 * size as f64) } else { Goal::None };
    table.add("set: UPDATEs of all, mean", size, loss, pushes, "", most);
    let bytes = mean(&sets.push_bytes) / pushes;
    table.add("set: bytes of an UPDATE with its answer", size, loss, bytes, "", Goal::None);
    let lists = if loss == 0.0 { Goal::AtMost(4.0) } else { Goal::None };
    table.add("set: lists, mean", size, loss, mean(&sets.lists), "", lists);
}

fn mistakes(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 0, options.seed);
    crowd.loss = 50_000;
    let found = figures::mistakes(&mut crowd, (options.hours * 3600.0) as u64);
    let hours = found.seconds as f64 / 3600.0;
    let day = |count: u64| count as f64 * 24.0 / hours;
    let unit = format!("/day, of {hours:.2} h");
    let few = if size >= 1000 { Goal::AtMost(10.0) } else { Goal::None };
    table.add("false suspects, events", size, 5.0, day(found.suspects), &unit, Goal::None);
    table.add("false suspects, nodes", size, 5.0, day(found.suspicions), &unit, few);
    table.add("false losts, events", size, 5.0, day(found.losts), &unit, Goal::AtMost(0.0));
    table.add("false losts, nodes", size, 5.0, day(found.losses), &unit, Goal::AtMost(0.0));
}

/// Says how far a network is from being whole, where that is asked for.
fn explain(options: &Options) -> impl Fn(&Crowd) {
    let is_wanted = options.explain;
    move |crowd: &Crowd| {
        if is_wanted {
            let (at, sent) = (crowd.now_us as f64 / 1e6 - 1.0, crowd.traffic);
            let (told, of) = (crowd.false_suspects, crowd.suspicions);
            println!("   {at:.2} s: {}; {told} suspects of {of}; {sent:?}", crowd.lack());
        }
    }
}

fn join(table: &mut Table, options: &Options, size: usize) {
    let (time, traffic, _) = figures::join(size, 0, options.seed, 60, explain(options));
    let goal = size_goal(size, &[(256, 2.0), (1000, 5.0)]);
    table.add("all join at once", size, 0.0, time, "s", goal);
    let requests = traffic.requests as f64;
    table.add("all join at once: requests", size, 0.0, requests, "", Goal::None);
    table.add("all join at once: traffic", size, 0.0, traffic.bytes as f64 / 1e6, "MB", Goal::None);
}

fn join_loss(table: &mut Table, options: &Options, size: usize) {
    let (time, ..) = figures::join(size, 50_000, options.seed, 120, explain(options));
    table.add("all join at once", size, 5.0, time, "s", Goal::AtMost(15.0));
}

fn late(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 1, options.seed);
    let (time, requests) = figures::late(&mut crowd, size - 1);
    let at_most = |most| if size >= 1000 { Goal::AtMost(most) } else { Goal::None };
    table.add("one joins late", size, 0.0, time, "s", at_most(1.0));
    table.add("one joins late: requests of all", size, 0.0, requests, "", at_most(2500.0));
}

/// More hang than there are senders, somewhere.
fn hangs(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 0, options.seed);
    let count = size * 90 / 256;
    let at = [10, 500, 1000, 2000, 4000, 8000];
    let sets = figures::many_end(&mut crowd, End::Hung, count, &at);
    let goal = size_goal(size, &[(256, 350.0)]);
    table.add(
        "a third hangs: set to the living, p99",
        size,
        0.0,
        quantile(&sets.times, 990),
        "ms",
        goal,
    );
    table.add(
        "a third hangs: set to the living, max",
        size,
        0.0,
        quantile(&sets.times, 1000),
        "ms",
        Goal::None,
    );
}

fn half(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 0, options.seed);
    let at = [10, 500, 1000, 2000, 4000, 8000];
    let sets = figures::many_end(&mut crowd, End::Killed, size / 2, &at);
    table.add(
        "half is gone: set to the living, p99",
        size,
        0.0,
        quantile(&sets.times, 990),
        "ms",
        Goal::None,
    );
    table.add(
        "half is gone: set to the living, max",
        size,
        0.0,
        quantile(&sets.times, 1000),
        "ms",
        Goal::None,
    );
}

fn split(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 0, options.seed);
    table.add("two halves are one again", size, 0.0, figures::split(&mut crowd), "s", Goal::None);
}

fn restart(table: &mut Table, options: &Options, size: usize) {
    let mut crowd = Crowd::primed(size, 0, options.seed);
    table.add("all start again at once", size, 0.0, figures::restart(&mut crowd), "s", Goal::None);
}

/// Not everybody can call everybody: the walls refuse from the first start on, or come to be
/// silent in a network that has met. Of the two the worse one is told.
fn partial(table: &mut Table, options: &Options, size: usize) {
    let seconds = (options.hours * 3600.0) as u64;
    let hours = seconds as f64 / 3600.0;
    let is_wanted = |shape: &partial::Shape| shape.name().contains(&options.shape);
    for shape in partial::Shape::ALL.into_iter().filter(is_wanted) {
        let mut worst: Vec<(&str, &str, f64)> = Vec::new();
        for is_fresh in [true, false] {
            let (walls, seed) = ((is_fresh, is_fresh), options.seed);
            let mut crowd = partial::settled(shape, size, walls, options.loss, seed);
            let rest = partial::rest(&mut crowd, seconds);
            if options.explain {
                for (what, count, sentence) in partial::faults(&crowd) {
                    println!("   {count} say {what}: {sentence}");
                }
            }
            let change = [shape.one(), 1, 3 % size].map(|owner| partial::change(&mut crowd, owner));
            let mut ends = |hangs| {
                let each = |_| partial::death(&mut crowd, shape.one(), hangs);
                (0..options.victims).map(each).fold((0.0, 0.0), |worst: (f64, f64), end| {
                    (worst.0.max(end.0), worst.1.max(end.1))
                })
            };
            let ((killed, back), (hung, back_too)) = (ends(false), ends(true));
            let found = [
                ("suspect shown", "/h", rest.suspects as f64 / hours),
                ("lost shown", "/h", rest.losts as f64 / hours),
                ("accusations sent", "/h", rest.traffic.accusations as f64 / hours),
                ("asks sent", "/h", rest.traffic.asks as f64 / hours),
                ("refuted", "/h", rest.refuted as f64 / hours),
                ("requests a node", "/s", rest.requests),
                ("requests of the busiest node", "/s", rest.busiest),
                ("bytes a node", "B/s", rest.bytes),
                ("pairs not seen as alive", "", rest.unseen as f64),
                ("a change is everywhere", "ms", change.into_iter().fold(0.0, f64::max)),
                ("killed, lost at all", "s", killed),
                ("hung, lost at all", "s", hung),
                ("back, alive at all", "s", back.max(back_too)),
            ];
            for (what, unit, value) in found {
                match worst.iter_mut().find(|(known, ..)| *known == what) {
                    Some((_, _, before)) => *before = before.max(value),
                    None => worst.push((what, unit, value)),
                }
            }
        }
        for (what, unit, value) in worst {
            let what = format!("{}: {what}", shape.name());
            table.add(&what, size, 0.0, value, unit, Goal::None);
        }
    }
}

/// Nodes that are only slow for two minutes: so many times, on their own CPU or on two that all
/// share.
fn overload(table: &mut Table, options: &Options, size: usize) {
    for (factor, cores) in [(50, None), (500, None), (1000, None), (20, Some(2)), (50, Some(2))] {
        let mut crowd = Crowd::primed(size, 0, options.seed);
        let it = overload::overload(&mut crowd, factor, cores, 120);
        let of = cores.map_or("each its own CPU", |_| "two CPUs for all");
        let mut add = |what: &str, value: f64, unit: &str| {
            let what = format!("{factor} times as slow, {of}: {what}");
            table.add(&what, size, 0.0, value, unit, Goal::None);
        };
        add("requests a node meanwhile", it.requests, "/s");
        add("suspect shown", it.suspects as f64, "");
        add("lost shown", it.losts as f64, "");
        add("refuted", it.refuted as f64, "");
        add("settled after it", it.settled, "s");
        add("requests a node afterwards", it.after, "/s");
        if options.explain {
            println!("   {it:?}");
        }
    }
}

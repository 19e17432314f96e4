//! What the nodes cost: memory, threads, descriptors, disk; and how late news comes.

use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::soak::world::{STEADY, World};

/// What no node may ever exceed. Threads: 64 + 6 senders, 33 of the control socket, 4 + 4 of the
/// port, and a few. Descriptors: 64 strangers, and some connections of each peer both ways. Disk:
/// a journal is rewritten at 4 times its state, and a rewrite has two for a moment.
const MOST: Usage = Usage { memory_kb: 64 * 1024, threads: 120, descriptors: 300, disk_kb: 4096 };

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub memory_kb: u64,
    pub threads: u64,
    pub descriptors: u64,
    pub disk_kb: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_kb, threads, descriptors, disk_kb } = self;
        write!(formatter, "{memory_kb} KB, {threads} thr, {descriptors} fd, {disk_kb} KB disk")
    }
}

fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |data| data.len());
    entries.flatten().map(size).sum()
}

/// Of a process that runs.
pub fn usage(world: &World, at: usize) -> Option<Usage> {
    let pid = world.net.pids[at].load(Ordering::SeqCst);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Usage {
        memory_kb: number("VmRSS:")?,
        threads: number("Threads:")?,
        descriptors,
        disk_kb: disk_bytes(&world.nodes[at].data).div_ceil(1024),
    })
}

/// Of all nodes that run; a limit that is exceeded is a failure.
pub fn usages(world: &World) -> Vec<Option<Usage>> {
    let all: Vec<Option<Usage>> = (0..world.count()).map(|at| usage(world, at)).collect();
    for (at, usage) in all.iter().enumerate() {
        let Some(it) = usage else { continue };
        let over = it.memory_kb > MOST.memory_kb
            || it.threads > MOST.threads
            || it.descriptors > MOST.descriptors
            || it.disk_kb > MOST.disk_kb;
        if over {
            world.fail("boundedness", at, &format!("it has {it}, the limits are {MOST}"));
        }
    }
    all
}

fn most(usages: &[Option<Usage>], of: fn(&Usage) -> u64) -> u64 {
    usages.iter().flatten().map(of).max().unwrap_or(0)
}

/// Figures joined by slashes: those of the steady nodes, and the most of the others.
fn row(usages: &[Option<Usage>], of: fn(&Usage) -> u64) -> String {
    let steady: Vec<String> = usages[..STEADY]
        .iter()
        .map(|usage| usage.as_ref().map_or("-".into(), |usage| of(usage).to_string()))
        .collect();
    format!("{}/{}", steady.join("/"), most(&usages[STEADY..], of))
}

/// The middle and the longest of the lags since the last line.
fn lags(world: &World) -> String {
    let mut lags = std::mem::take(&mut *world.lags.lock().unwrap());
    lags.sort_unstable();
    let ms = |lag: Option<&Duration>| lag.map_or("-".into(), |lag| lag.as_millis().to_string());
    format!("{}/{} ms ({})", ms(lags.get(lags.len() / 2)), ms(lags.last()), lags.len())
}

/// What the first line explains.
pub const LEGEND: &str = "each line: figures of n0/n1/n2 (never ended)/most of the others; \
    lag: middle/longest time from the acknowledgement of a set to its arrival at nodes without a fault (samples); \
    data: accepted/delivered/refused/outcome unknown/lost with a killed process/told again after a hang";

pub fn line(world: &World, phase: &str) -> String {
    let usages = usages(world);
    let up = (0..world.count()).filter(|at| world.serves(*at).is_some()).count();
    let hung = world.nodes.iter().filter(|node| node.hung.load(Ordering::SeqCst)).count();
    let seconds = world.began.elapsed().as_secs();
    let data = world.mail.counts();
    let count = |it: &std::sync::atomic::AtomicU64| it.load(Ordering::Relaxed);
    let counts = &world.counts;
    format!(
        "{:02}:{:02}:{:02} {phase}: up {up} hung {hung} cut {} | \
         KB {} | thr {} | fd {} | disk KB {} | lag {} | sets {} | \
         data {}/{}/{}/{}/{}/{} full {} | strangers {} replays {} forgeries {} lies {} anew {}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        world.net.faulty(),
        row(&usages, |it| it.memory_kb),
        row(&usages, |it| it.threads),
        row(&usages, |it| it.descriptors),
        row(&usages, |it| it.disk_kb),
        lags(world),
        count(&counts.sets),
        data.accepted,
        data.delivered,
        data.refused,
        data.unknown,
        data.lost_with_process,
        data.again_after_hang,
        count(&counts.inbox_full),
        count(&counts.strangers),
        count(&counts.replays),
        count(&counts.forgeries),
        count(&counts.lies),
        count(&counts.anew),
    )
}

/// The middle of some samples of each node, each figure for itself.
pub fn middle(samples: &[Vec<Option<Usage>>]) -> Vec<Usage> {
    of_each(samples, |all| all.get(all.len() / 2).copied())
}

/// The greatest of some samples of each node, each figure for itself.
pub fn greatest(samples: &[Vec<Option<Usage>>]) -> Vec<Usage> {
    of_each(samples, |all| all.last().copied())
}

/// The least of some samples of each node, each figure for itself: what a node keeps is in each of
/// them, what it uses for a moment is not.
pub fn least(samples: &[Vec<Option<Usage>>]) -> Vec<Usage> {
    of_each(samples, |all| all.first().copied())
}

/// One of the sorted samples of each figure of each node.
fn of_each(samples: &[Vec<Option<Usage>>], one: fn(&[u64]) -> Option<u64>) -> Vec<Usage> {
    let count = samples.first().map_or(0, Vec::len);
    let of = |at: usize, of: fn(&Usage) -> u64| {
        let mut all: Vec<u64> = samples.iter().filter_map(|it| it[at].as_ref().map(of)).collect();
        all.sort_unstable();
        one(&all).unwrap_or(0)
    };
    (0..count)
        .map(|at| Usage {
            memory_kb: of(at, |it| it.memory_kb),
            threads: of(at, |it| it.threads),
            descriptors: of(at, |it| it.descriptors),
            disk_kb: of(at, |it| it.disk_kb),
        })
        .collect()
}

/// What has grown by more than a tenth. Nodes that were ended lived shorter than the steady ones,
/// so they may not cost more than these did. Small whole numbers may differ by two.
pub fn growth(before: &[Usage], after: &[Usage], with_memory: bool) -> Vec<(usize, String)> {
    let most = |of: fn(&Usage) -> u64| before[..STEADY].iter().map(of).max().unwrap_or(0);
    let mut grown = Vec::new();
    for (at, now) in after.iter().enumerate() {
        let was = if at < STEADY {
            before[at]
        } else {
            Usage {
                memory_kb: most(|it| it.memory_kb),
                threads: most(|it| it.threads),
                descriptors: most(|it| it.descriptors),
                disk_kb: 0,
            }
        };
        let memory = with_memory && now.memory_kb * 10 > was.memory_kb * 11;
        let threads = now.threads > was.threads + (was.threads / 10).max(2);
        let descriptors = now.descriptors > was.descriptors + (was.descriptors / 10).max(2);
        if memory || threads || descriptors {
            grown.push((at, format!("{now}, and {was} when it was warm")));
        }
    }
    grown
}

#[test]
fn what_leaks_is_told_from_what_a_node_held_once() {
    let of = |kilobytes: &[u64]| -> Vec<Vec<Option<Usage>>> {
        let usage = |memory_kb: &u64| Usage { memory_kb: *memory_kb, ..Usage::default() };
        kilobytes.iter().map(|it| vec![Some(usage(it)); STEADY]).collect()
    };
    let grows = |early: &[u64], late: &[u64]| {
        !growth(&greatest(&of(early)), &least(&of(late)), true).is_empty()
    };
    assert!(grows(&[1_000, 1_050], &[1_300, 1_400, 1_500]));
    assert!(!grows(&[1_000, 1_300], &[1_300, 1_310, 1_300]), "it keeps what it had to hold once");
    assert!(!grows(&[1_000, 1_000], &[1_400, 1_050, 1_300]), "it gave that back");
}

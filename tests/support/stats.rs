//! What many measurements amount to, and what the system counts for a process.

use std::time::Duration;

/// The value that `percent` of all are at or below (nearest rank).
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// CPU time that a process used so far, in all its threads, s.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // USER_HZ is 100 on all Linux systems that Rust runs on.
    ticks / 100.0
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Memory of a process that is in RAM, MB.
pub(crate) fn rss_mb(pid: u32) -> f64 {
    status(pid, "VmRSS:") * 1024.0 / 1e6
}

/// The most that was in RAM at a time so far, MB.
pub(crate) fn peak_mb(pid: u32) -> f64 {
    status(pid, "VmHWM:") * 1024.0 / 1e6
}

/// The part of it that is its own: no pages of the binary.
pub(crate) fn own_mb(pid: u32) -> f64 {
    status(pid, "RssAnon:") * 1024.0 / 1e6
}

pub(crate) fn threads(pid: u32) -> f64 {
    status(pid, "Threads:")
}

/// What `count` measured over a time amounts to a second.
pub(crate) fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

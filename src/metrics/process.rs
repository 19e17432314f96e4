//! What the system tells of this process (proc(5)).

use std::fs;

/// What the system tells; nothing of what it does not.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Process {
    /// Memory in use (resident), bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time, seconds.
    pub cpu_s: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open files and connections.
    pub open_files: Option<u64>,
}

/// This process, now.
pub fn process() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let open_files = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
    Process {
        memory_bytes: field(&status, "VmRSS").map(|kb| kb * 1024),
        cpu_s: cpu_s(),
        threads: field(&status, "Threads"),
        // Reading the folder is one of them.
        open_files: open_files.map(|count| count.saturating_sub(1)),
    }
}

/// The number in a line `NAME:   123 kB`.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// CPU time of all threads, those that have ended, too, seconds.
fn cpu_s() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_files_and_worked() {
        let process = process();
        assert!(process.memory_bytes.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.threads.is_some_and(|count| count >= 1), "{process:?}");
        assert!(process.open_files.is_some_and(|count| count >= 3), "{process:?}");
        assert!(process.cpu_s.is_some_and(|time| time > 0.0), "{process:?}");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmRSSX:\t1 kB\nVmRSS:\t   4096 kB\nThreads:\t7\n";
        assert_eq!((field(status, "VmRSS"), field(status, "Threads")), (Some(4096), Some(7)));
        assert_eq!(field(status, "Vm"), None);
    }
}

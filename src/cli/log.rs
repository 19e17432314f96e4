//! The log of `dsn run`: lines to stderr, over a bounded queue. Whoever does not read them (Ctrl-S
//! in the terminal, a collector that hangs) stops nothing; what found no place is counted and told.

use std::borrow::Cow;
use std::io::{Result, Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use env_logger::{Builder, Target};
use log::LevelFilter;

use super::Fault;

/// Most lines that wait to be taken: what a network of some hundreds says that all start at once.
const LINES_MAX: usize = 1024;
/// Longest line, bytes; longer ones are cut. With [`LINES_MAX`] this bounds what waits.
const LINE_BYTES_MAX: usize = 4096;
/// How long the thread that writes waits for more lines before it ends.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// How long the end of the program waits for the last lines to be taken.
const LAST_LINES_TIME: Duration = Duration::from_millis(300);
/// Stack of the thread, bytes.
const STACK_BYTES: usize = 128 * 1024;
/// What is logged where RUST_LOG does not say.
const LEVEL_DEFAULT: LevelFilter = LevelFilter::Info;
/// Our own part of each filter.
const OWN: &str = "dsn";

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
    writer: Arc<Writer>,
}

/// Who takes lines to stderr: a thread that is there while there are some, as most nodes have
/// nothing to say for hours.
struct Writer {
    queue: Receiver<Line>,
    is_there: AtomicBool,
}

enum Line {
    /// So many were dropped before this one.
    Text { dropped_before: u64, bytes: Vec<u8> },
    /// All before this were taken.
    Flush(Sender<()>),
}

/// Begins to log as `RUST_LOG` says; gives the count of dropped lines.
pub(super) fn start() -> std::result::Result<Arc<AtomicU64>, Fault> {
    let filters = match std::env::var("RUST_LOG") {
        Ok(text) => filters_of(&text)?,
        Err(std::env::VarError::NotPresent) => filters_of("")?,
        Err(std::env::VarError::NotUnicode(_)) => return Err(not_a_filter("it is not UTF-8")),
    };
    let (lines, queue) = bounded(LINES_MAX);
    let dropped = Arc::<AtomicU64>::default();
    let writer = Arc::new(Writer { queue, is_there: AtomicBool::new(false) });
    let log =
        Log { lines: lines.clone(), dropped: Arc::clone(&dropped), writer: Arc::clone(&writer) };
    let mut builder = Builder::new();
    for (target, level) in filters {
        builder.filter(target.as_deref(), level);
    }
    let queued = Queued { lines, pending: 0, dropped: Arc::clone(&dropped), writer: Some(writer) };
    builder.target(Target::Pipe(Box::new(queued)));
    // Both are the first ones: there is one `run` in a process.
    let _ = (LOG.set(log), builder.try_init());
    std::panic::set_hook(Box::new(|panic| log::error!("BUG: {panic}")));
    Ok(dropped)
}

/// A last word on stderr: behind what is logged, where a log was begun.
pub(super) fn say(text: &str) {
    let Some(log) = LOG.get() else {
        // With stderr gone there is nobody to tell.
        let _ = writeln!(stderr(), "{text}");
        return;
    };
    let (lines, dropped) = (log.lines.clone(), Arc::clone(&log.dropped));
    let mut queued = Queued { lines, pending: 0, dropped, writer: Some(Arc::clone(&log.writer)) };
    let _ = queued.write_all(format!("{text}\n").as_bytes());
}

/// Waits until what was logged is taken, but not for long.
pub(super) fn finish() {
    let Some(log) = LOG.get() else { return };
    let (done, wait) = bounded(1);
    if log.lines.send_timeout(Line::Flush(done), LAST_LINES_TIME).is_ok() {
        log.writer.come();
        if log.writer.is_there.load(Ordering::SeqCst) {
            let _ = wait.recv_timeout(LAST_LINES_TIME);
        } else {
            // There is no thread to be had, which these lines may be about.
            log.writer.write_waiting(&mut stderr());
        }
    }
}

impl Writer {
    /// Lines wait: somebody has to take them.
    fn come(self: &Arc<Self>) {
        if self.is_there.swap(true, Ordering::SeqCst) {
            return;
        }
        let writer = Arc::clone(self);
        let thread = thread::Builder::new().name("dsn-log".into()).stack_size(STACK_BYTES);
        if thread.spawn(move || writer.work(&mut stderr())).is_err() {
            // The next line may find one.
            self.is_there.store(false, Ordering::SeqCst);
        }
    }

    fn write_waiting(&self, out: &mut impl Write) {
        self.queue.try_iter().for_each(|line| write_line(line, out));
    }

    fn work(&self, out: &mut impl Write) {
        loop {
            write_lines(&self.queue, out);
            self.is_there.store(false, Ordering::SeqCst);
            // A line that came meanwhile found this thread still there.
            if self.queue.is_empty() || self.is_there.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Until none came for a while.
fn write_lines(queue: &Receiver<Line>, out: &mut impl Write) {
    while let Ok(line) = queue.recv_timeout(IDLE_TIME) {
        write_line(line, out);
    }
}

fn write_line(line: Line, out: &mut impl Write) {
    match line {
        Line::Text { dropped_before, bytes } => {
            if dropped_before > 0 {
                let _ = writeln!(
                    out,
                    "{dropped_before} lines of the log were dropped here, as nobody took them"
                );
            }
            // With stderr gone there is nobody to tell.
            let _ = out.write_all(&bytes);
        }
        Line::Flush(done) => drop(done.try_send(())),
    }
}

/// What the logger writes to: one write is one line.
struct Queued {
    lines: Sender<Line>,
    /// Dropped since the last one that found a place.
    pending: u64,
    dropped: Arc<AtomicU64>,
    /// Nothing where a test reads.
    writer: Option<Arc<Writer>>,
}

impl Write for Queued {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let line = Line::Text { dropped_before: self.pending, bytes: cut(bytes).into_owned() };
        if self.lines.try_send(line).is_ok() {
            self.pending = 0;
        } else {
            self.pending += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(writer) = &self.writer {
            writer.come();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn cut(bytes: &[u8]) -> Cow<'_, [u8]> {
    match bytes.get(..LINE_BYTES_MAX) {
        Some(head) if bytes.len() > LINE_BYTES_MAX => Cow::Owned([head, "…\n".as_bytes()].concat()),
        _ => Cow::Borrowed(bytes),
    }
}

/// `info`, `debug,ureq=debug` and so on. A level alone is that of our own lines; those of other
/// crates stay off unless they are named.
fn filters_of(text: &str) -> std::result::Result<Vec<(Option<String>, LevelFilter)>, Fault> {
    let mut filters = vec![(None, LevelFilter::Off), (Some(OWN.into()), LEVEL_DEFAULT)];
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = part.split_once('=').unwrap_or((OWN, part));
        let is_target = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let level = level.trim().parse::<LevelFilter>().ok();
        match level {
            Some(level) if target.trim().chars().all(is_target) && !target.trim().is_empty() => {
                filters.push((Some(target.trim().into()), level));
            }
            _ => {
                return Err(not_a_filter(&format!("{part:?} is not a level, and not CRATE=LEVEL")));
            }
        }
    }
    Ok(filters)
}

fn not_a_filter(why: &str) -> Fault {
    Fault::Usage(format!(
        "RUST_LOG: {why}. Levels are off, error, warn, info, debug; examples: RUST_LOG=debug, RUST_LOG=info,ureq=debug"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_of(text: &str, target: &str) -> LevelFilter {
        let mut builder = Builder::new();
        for (target, level) in filters_of(text).ok().unwrap() {
            builder.filter(target.as_deref(), level);
        }
        let logger = builder.build();
        let is_on = |level: &log::Level| {
            log::Log::enabled(
                &logger,
                &log::Metadata::builder().level(*level).target(target).build(),
            )
        };
        log::Level::iter()
            .filter(is_on)
            .last()
            .map_or(LevelFilter::Off, |level| level.to_level_filter())
    }

    #[test]
    fn a_level_alone_is_ours_and_other_crates_are_named() {
        use LevelFilter::{Debug, Info, Off, Warn};
        for (text, ours, tiny_http, ureq) in [
            ("", Info, Off, Off),
            ("info", Info, Off, Off),
            ("debug", Debug, Off, Off),
            ("WARN", Warn, Off, Off),
            ("off", Off, Off, Off),
            ("debug,ureq=debug", Debug, Off, Debug),
            ("tiny_http=warn", Info, Warn, Off),
            (" dsn=warn , ureq = info ,", Warn, Off, Info),
        ] {
            let found = ["dsn::driver", "tiny_http", "ureq"].map(|name| level_of(text, name));
            assert_eq!(found, [ours, tiny_http, ureq], "{text:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_an_error_that_names_it() {
        for wrong in ["inof", "dsn=inof", "=debug", "info/regex", "dsn=", "a b=info"] {
            match filters_of(wrong) {
                Err(Fault::Usage(text)) => assert!(text.contains("RUST_LOG"), "{text}"),
                _ => panic!("{wrong:?} was taken"),
            }
        }
    }

    /// Takes what it is given when it is told to.
    struct Slow(Receiver<()>, Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let _ = self.0.recv();
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_writes_ends_where_nothing_comes_and_is_there_again_with_the_next_line() {
        let (lines, queue) = bounded(2);
        let writer = Arc::new(Writer { queue, is_there: AtomicBool::new(true) });
        let line = |text: &str| Line::Text { dropped_before: 0, bytes: text.into() };
        lines.send(line("first\n")).unwrap();
        let mut out = Vec::new();
        writer.work(&mut out);
        assert_eq!((&*out, writer.is_there.load(Ordering::SeqCst)), (&b"first\n"[..], false));
        lines.send(line("")).unwrap();
        writer.come();
        while !lines.is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn who_does_not_read_loses_lines_and_is_told_how_many() {
        let (lines, queue) = bounded(2);
        let dropped = Arc::<AtomicU64>::default();
        let mut log = Queued { lines, pending: 0, dropped: Arc::clone(&dropped), writer: None };
        let (go_on, stands) = bounded(0);
        let is_over = Arc::<AtomicBool>::default();
        let over = Arc::clone(&is_over);
        let reader = thread::spawn(move || {
            let mut slow = Slow(stands, Vec::new());
            while !queue.is_empty() || !is_over.load(Ordering::SeqCst) {
                write_lines(&queue, &mut slow);
            }
            String::from_utf8(slow.1).unwrap()
        });
        // One is being written, two wait, the others find no place; none of them waits.
        log.write_all(b"first\n").unwrap();
        while !log.lines.is_empty() {
            thread::yield_now();
        }
        for number in 0..5 {
            log.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(dropped.load(Ordering::Relaxed) >= 3);
        drop(go_on);
        while !log.lines.is_empty() {
            thread::yield_now();
        }
        log.write_all(&[b'x'; LINE_BYTES_MAX + 10]).unwrap();
        over.store(true, Ordering::SeqCst);
        drop(log);
        let text = reader.join().unwrap();
        assert!(text.starts_with("first\nline 0\n"), "{text}");
        assert!(text.contains("lines of the log were dropped here"), "{text}");
        assert!(text.ends_with("x…\n"), "{text}");
    }
}

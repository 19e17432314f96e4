//! What signals do to a node that runs.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dsn::patience::stop_flag;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use super::notify::Reloading;
use super::streams::{stdin, stdout};

/// Stack of a thread, bytes.
const STACK_BYTES: usize = 256 * 1024;

/// The signals that a node hears, from now on. SIGQUIT does what it always does: it ends the
/// process at once, with a core where there may be one. SIGPIPE is ignored.
pub(super) struct Heard {
    signals: Signals,
    had_terminal: bool,
}

impl Heard {
    pub(super) fn new() -> std::io::Result<Self> {
        // The last two would end a node whose signals somebody confuses with those of another
        // program.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        // Until the node runs nobody acts on them. A start that waits for somebody has to end.
        let stop = stop_flag();
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { signals, had_terminal: has_terminal() })
    }

    /// Whether one came that ends a start, too.
    pub(super) fn has_stop() -> bool {
        stop_flag().load(Ordering::Relaxed)
    }

    /// What ends [`Self::act_on`].
    pub(super) fn ender(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let handle = self.signals.handle();
        move || handle.close()
    }

    /// Acts on signals, those that have come already, too; until it is ended.
    pub(super) fn act_on(mut self, stop: impl Fn(), reloads: &Reloads) {
        for signal in self.signals.forever() {
            act(signal, self.had_terminal, &stop, reloads);
        }
    }
}

/// Reads key file and list again, in a thread for as long as that takes: a disk that hangs must not
/// keep the node from hearing that it is to stop.
pub(super) struct Reloads(Arc<Reload>);

struct Reload {
    read: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    manager: Reloading,
    /// How often it was wished for since a thread for it began; none is there at 0.
    wishes: AtomicUsize,
}

impl Reloads {
    pub(super) fn new(
        read: impl Fn() -> Vec<String> + Send + Sync + 'static,
        manager: Reloading,
    ) -> Self {
        Self(Arc::new(Reload { read: Box::new(read), manager, wishes: AtomicUsize::new(0) }))
    }

    fn reload(&self) {
        if self.0.wishes.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let reload = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("dsn-reload".into()).stack_size(STACK_BYTES);
        // It ends with its work, or with the process.
        if let Err(why) = thread.spawn(move || reload.work()) {
            self.0.wishes.store(0, Ordering::SeqCst);
            log::error!("key file and list are not read again: {}", dsn::advice::no_thread(&why));
        }
    }
}

impl Reload {
    /// Once for all wishes that came before it began.
    fn work(&self) {
        loop {
            let wishes = self.wishes.load(Ordering::SeqCst);
            self.manager.begins();
            let faults = (self.read)();
            self.manager.done(&faults);
            let done = self.wishes.compare_exchange(wishes, 0, Ordering::SeqCst, Ordering::SeqCst);
            if done.is_ok() {
                return;
            }
        }
    }
}

fn act(signal: i32, had_terminal: bool, stop: &impl Fn(), reloads: &Reloads) {
    match signal {
        // The same signal says that the terminal is gone in which the node was started.
        SIGHUP if had_terminal && !has_terminal() => {
            log::info!("the terminal is gone: the node stops");
            stop();
        }
        SIGHUP => reloads.reload(),
        SIGUSR1 | SIGUSR2 => {
            let name = signal_name(signal).unwrap_or("this signal");
            log::warn!("{name} means nothing to a node; SIGHUP reads key file and list again");
        }
        _ => {
            log::info!("{} came: the node stops", signal_name(signal).unwrap_or("a signal"));
            stop();
        }
    }
}

/// One that was hung up is none any more.
pub(super) fn has_terminal() -> bool {
    stdin().is_terminal() || stdout().is_terminal() || stderr().is_terminal()
}

//! What signals do to a node that runs.

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::signal_name;

use super::notify::Reloading;

/// Stack of a thread, bytes.
const STACK_BYTES: usize = 256 * 1024;

/// The signals that a node hears, from now on. SIGQUIT does what it always does: it ends the
/// process at once, with a core where there may be one. SIGPIPE is ignored.
pub(super) struct Heard {
    signals: Signals,
    had_terminal: bool,
}

/// The threads that act on signals.
pub(super) struct Listener {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Heard {
    pub(super) fn new() -> std::io::Result<Self> {
        // The last two would end a node whose signals somebody confuses with those of another
        // program.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        Ok(Self { signals, had_terminal: has_terminal() })
    }

    /// Acts on signals: those that have come already, too.
    pub(super) fn listen(
        self,
        stop: impl Fn() + Send + 'static,
        reload: impl Fn() -> Vec<String> + Send + 'static,
        manager: Reloading,
    ) -> std::io::Result<Listener> {
        let Self { mut signals, had_terminal } = self;
        let handle = signals.handle();
        // One that waits is enough: it reads what is there by then.
        let (wake, woken) = sync_channel(1);
        // A disk that hangs must not keep the node from hearing that it is to stop. This thread
        // ends with the other one, or with the process.
        spawn("dsn-reload", move || reload_whenever(&woken, &reload, &manager))?;
        let thread = spawn("dsn-signals", move || {
            for signal in signals.forever() {
                act(signal, had_terminal, &stop, &wake);
            }
        })?;
        Ok(Listener { handle, thread })
    }
}

impl Listener {
    pub(super) fn end(self) {
        self.handle.close();
        // It has nothing to tell.
        let _ = self.thread.join();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)
}

fn act(signal: i32, had_terminal: bool, stop: &impl Fn(), reload: &SyncSender<()>) {
    match signal {
        // The same signal says that the terminal is gone in which the node was started.
        SIGHUP if had_terminal && !has_terminal() => {
            log::info!("the terminal is gone: the node stops");
            stop();
        }
        SIGHUP => {
            let _ = reload.try_send(());
        }
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
fn has_terminal() -> bool {
    stdin().is_terminal() || stdout().is_terminal() || stderr().is_terminal()
}

fn reload_whenever(woken: &Receiver<()>, reload: &impl Fn() -> Vec<String>, manager: &Reloading) {
    while woken.recv().is_ok() {
        manager.begins();
        let faults = reload();
        manager.done(&faults);
    }
}

//! `dsn run`: a node in the foreground.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use dsn::config::{self, RunArgs};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Fault;
use super::notify::Manager;

/// How long a stop waits for requests that are under way: a signal has to end us within 2 s.
const STOP_PATIENCE: Duration = Duration::from_millis(1200);
/// What is logged unless RUST_LOG says otherwise. tiny_http's own lines are strangers' doing.
const LOG_DEFAULT: &str = "info,tiny_http=off,ureq=off,ureq_proto=off";

pub(super) fn run(flags: RunArgs, control: Option<PathBuf>) -> Result<(), Fault> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(LOG_DEFAULT)).init();
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let config = config::resolve(flags, control, &host_name)?;
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|why| Fault::No(format!("signals can't be handled: {why}")))?;
    let mut manager = Manager::from_environment();
    let node = dsn::start(config)?;
    let (ask_to_stop, handle) = (node.stop_asker(), signals.handle());
    let listener = std::thread::Builder::new()
        .name("dsn-signals".into())
        .spawn(move || signals.forever().for_each(|_| ask_to_stop()))
        .map_err(|why| Fault::No(format!("the system gave no thread: {why}")))?;
    // Whoever started us may not care for the line, and may have closed its end.
    let _ = writeln!(stdout(), "listening on {}", node.listen());
    manager.ready(&node.listen(), node.pulse());
    let ended = node.wait_for_stop();
    manager.stopping();
    node.stop_within(STOP_PATIENCE);
    handle.close();
    // It has nothing to tell.
    let _ = listener.join();
    ended.map_err(|why| {
        Fault::Broken(format!(
            "the node broke a rule of its own and has stopped: {why}. Please report it"
        ))
    })
}

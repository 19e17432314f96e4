//! `dsn run`: a node in the foreground.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::args::RunArgs;
use super::notify::Manager;
use super::settings::Variables;
use super::signals::{Heard, Reloads};
use super::streams::stdout;
use super::{Fault, log, settings};

/// How long a stop waits for requests that are under way: a signal has to end us within 2 s.
const STOP_PATIENCE: Duration = Duration::from_millis(1200);

pub(super) fn run(
    flags: RunArgs,
    control: Option<PathBuf>,
    variables: &Variables,
) -> Result<(), Fault> {
    let dropped = log::start()?;
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (config, origin) = settings::resolve(flags, control, variables, &host_name)?;
    let signals =
        Heard::new().map_err(|why| Fault::No(format!("signals can't be handled: {why}")))?;
    let mut manager = Manager::from_environment();
    let elsewhere = origin.elsewhere(&config);
    let started = match dsn::start(config) {
        // Whatever kept it from running: it is not to run.
        Err(fault) if Heard::has_stop() => {
            ::log::info!("a signal ended the start of the node: {fault}");
            return Ok(());
        }
        started => started,
    };
    let node = started.map_err(|fault| match Fault::from(fault) {
        Fault::Usage(text) => Fault::Usage(elsewhere.explain(text)),
        Fault::No(text) => Fault::No(elsewhere.explain(text)),
        other => other,
    })?;
    node.count_dropped_lines(dropped);
    announce(node.listen());
    manager.ready(&node.listen(), node.pulse());
    // This thread has nothing else to do until it is to stop.
    node.when_asked_to_stop(signals.ender());
    let reloads = Reloads::new(node.reloader(), manager.reloading(node.listen()));
    signals.act_on(node.stop_asker(), &reloads);
    let ended = node.wait_for_stop();
    manager.stopping();
    node.stop_within(STOP_PATIENCE);
    ended.map_err(|why| {
        Fault::Broken(format!(
            "the node broke a rule of its own and has stopped: {why}. Please report it"
        ))
    })?;
    ::log::info!("stopped");
    Ok(())
}

/// Prints the line that scripts wait for. Whoever started us may not read it (Ctrl-S in the
/// terminal) or have closed its end, and that must not keep the node from serving.
fn announce(listen: String) {
    let line = move || {
        if let Err(why) = writeln!(stdout(), "listening on {listen}") {
            ::log::warn!("`listening on` could not be printed, and the node serves: {why}");
        }
    };
    // Without a thread nobody would be told, so it is said here then.
    if let Err(why) = std::thread::Builder::new().name("dsn-announce".into()).spawn(line) {
        ::log::warn!("`listening on` could not be printed: {why}");
    }
}

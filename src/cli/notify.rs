//! What a service manager is told (sd_notify(3)): that the node serves, that it is well, that it
//! stops. Without NOTIFY_SOCKET in the environment all of this does nothing.

use std::ffi::OsStr;
use std::io::Error;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dsn::runtime::Pulse;
use rustix::time::{ClockId, clock_gettime};

/// So many looks fit into the time after which the service manager gives up: one that was in vain
/// is no reason to be ended.
const LOOKS: u32 = 3;
/// Least time between looks.
const LOOK_TIME_MIN: Duration = Duration::from_millis(100);
/// Stack of the thread, bytes.
const STACK_BYTES: usize = 256 * 1024;

/// The service manager, if there is one.
pub(super) struct Manager {
    /// Made once: a node that is out of descriptors can still tell.
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Watchdog>,
}

struct Watchdog {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Manager {
    /// The one that the environment names.
    pub(super) fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(why) => {
                log::warn!("the service manager can't be told anything: NOTIFY_SOCKET: {why}");
                None
            }
        });
        Self { socket, watchdog: None }
    }

    /// Tells that the node serves, and from now on that it is well, as long as it is.
    pub(super) fn ready(&mut self, listen: &str, pulse: Pulse) {
        let Some(socket) = &self.socket else { return };
        send(socket, &format!("READY=1\nSTATUS=listening on {listen}"));
        let time = watchdog_time(
            std::env::var("WATCHDOG_USEC").ok().as_deref(),
            std::env::var("WATCHDOG_PID").ok().as_deref(),
        );
        let Some(time) = time else { return };
        let ended = Arc::<AtomicBool>::default();
        let (socket, ended_too) = (Arc::clone(socket), Arc::clone(&ended));
        let work = move || feed(&socket, pulse, (time / LOOKS).max(LOOK_TIME_MIN), &ended_too);
        let thread = thread::Builder::new().name("dsn-watchdog".into()).stack_size(STACK_BYTES);
        match thread.spawn(work) {
            Ok(thread) => self.watchdog = Some(Watchdog { ended, thread }),
            Err(why) => log::error!("the watchdog can't be fed: {}", dsn::advice::no_thread(&why)),
        }
    }

    /// What tells it of reloads.
    pub(super) fn reloading(&self, listen: String) -> Reloading {
        Reloading { socket: self.socket.clone(), listen }
    }

    /// Tells that the node stops.
    pub(super) fn stopping(&mut self) {
        if let Some(Watchdog { ended, thread }) = self.watchdog.take() {
            ended.store(true, Ordering::SeqCst);
            // It may be in the middle of a look: then the end of the process ends it.
            thread.thread().unpark();
        }
        if let Some(socket) = &self.socket {
            send(socket, "STOPPING=1");
        }
    }
}

/// What tells the service manager that the node reads its files again.
pub(super) struct Reloading {
    socket: Option<Arc<UnixDatagram>>,
    listen: String,
}

impl Reloading {
    /// Tells that it begins. With the time of its clock, which `Type=notify-reload` asks for.
    pub(super) fn begins(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        if let Some(socket) = &self.socket {
            send(socket, &format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        }
    }

    /// Tells that it is done, and what is wrong with the files.
    pub(super) fn done(&self, faults: &[String]) {
        let Some(socket) = &self.socket else { return };
        let status = match faults {
            [] => format!("listening on {}", self.listen),
            several => format!("not all was reloaded: {}", several.join("; ")),
        };
        // A line of its own would be taken for another field.
        send(socket, &format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }
}

/// Feeds the watchdog of the service manager, but only after a look at the node that was good.
fn feed(socket: &UnixDatagram, mut pulse: Pulse, every: Duration, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        match pulse.check() {
            Ok(()) => send(socket, "WATCHDOG=1"),
            Err(_) if ended.load(Ordering::SeqCst) => return,
            Err(why) => log::error!("the watchdog is not fed: {why}"),
        }
        thread::park_timeout(every);
    }
}

/// A name with `@` in front is abstract, as in unix(7).
fn connect(name: &OsStr) -> Result<UnixDatagram, Error> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A service manager that does not listen must not hold us up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send(socket: &UnixDatagram, text: &str) {
    if let Err(why) = socket.send(text.as_bytes()) {
        log::warn!("the service manager was not told {text:?}: {why}");
    }
}

/// The time after which the service manager ends a node that it hears nothing of; nothing where it
/// does not, or where it watches another process.
fn watchdog_time(microseconds: Option<&str>, process: Option<&str>) -> Option<Duration> {
    if process.is_some_and(|it| it.parse() != Ok(std::process::id())) {
        return None;
    }
    let time = Duration::from_micros(microseconds?.parse().ok()?);
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_where_it_is_ours() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_time(Some("1000000"), None), second);
        assert_eq!(watchdog_time(Some("1000000"), Some(&own)), second);
        assert_eq!(watchdog_time(Some("1000000"), Some("1x")), None);
        assert_eq!(watchdog_time(Some("1000000"), Some("0")), None);
        for none in [None, Some(""), Some("0"), Some("soon"), Some("-1")] {
            assert_eq!(watchdog_time(none, None), None, "{none:?}");
        }
    }

    #[test]
    fn an_abstract_socket_is_found() {
        let name = format!("dsn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        send(&socket, "READY=1");
        let mut bytes = [0; 16];
        let length = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }
}

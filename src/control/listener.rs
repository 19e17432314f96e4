//! The open socket: who is let in, and how all of it ends.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ControlError;
use super::server::{LOOK_EVERY, converse, refuse};
use crate::driver::Driver;

/// Most connections at a time: each has a thread.
const CONNECTIONS_MAX: usize = 32;
/// How long a caller may take to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers that are under way may take when the node ends, which has to be within 2 s.
const LAST_ANSWERS_TIME: Duration = Duration::from_millis(300);
/// How often the socket is looked after: whoever cleans up folders may remove it.
const SOCKET_CHECK: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// Stack of a connection's thread, bytes.
const STACK_BYTES: usize = 256 * 1024;

/// The open control socket with its threads.
pub struct ControlServer {
    path: PathBuf,
    accepts: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// The connections, so that they can be ended.
#[derive(Default)]
struct Connections {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// The one that accepts now.
    listener: Option<UnixListener>,
    streams: HashMap<u64, UnixStream>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
    closed: bool,
}

impl Open {
    fn shut(&self, how: Shutdown) {
        for stream in self.streams.values() {
            // One that is closed already is what is wanted.
            let _ = stream.shutdown(how);
        }
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlServer {
    /// Opens the socket, for this user alone, and serves it. A socket file that a dead node left is
    /// replaced.
    pub fn start(path: &Path, service: Arc<Driver>) -> Result<Self, ControlError> {
        let unusable = |why| ControlError::Unusable { path: path.into(), why };
        create_folder_of(path).map_err(unusable)?;
        match UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::Taken { path: path.into() }),
            Err(why) if why.kind() == ErrorKind::NotFound => {}
            // A file that is no socket refuses, too, and is not ours to remove.
            Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
                if !std::fs::symlink_metadata(path).map_err(unusable)?.file_type().is_socket() {
                    return Err(ControlError::NoSocket { path: path.into() });
                }
                std::fs::remove_file(path).map_err(unusable)?;
            }
            Err(why) => return Err(unusable(why)),
        }
        let bound = Bound::at(path).map_err(unusable)?;
        let connections = Arc::<Connections>::default();
        connections.lock().listener = Some(bound.listener.try_clone().map_err(unusable)?);
        let (place, shared) = (path.to_owned(), Arc::clone(&connections));
        let accepts = thread::Builder::new()
            .name("dsn-control".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                service.guard("dsn-control", || accept(bound, &place, &shared, &service));
            })
            .map_err(unusable)?;
        Ok(Self { path: path.into(), accepts: Some(accepts), connections })
    }

    /// Ends all connections and threads, and removes the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(accepts) = self.accepts.take() else {
            return;
        };
        {
            let mut open = self.connections.lock();
            open.closed = true;
            let _ = std::fs::remove_file(&self.path);
            // A shut down listener ends the accept that waits on it (Linux).
            if let Some(listener) = &open.listener {
                let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
            }
        }
        join(accepts);
        let threads = {
            let mut open = self.connections.lock();
            // Reading alone: an answer that is under way still goes out.
            open.shut(Shutdown::Read);
            std::mem::take(&mut open.threads)
        };
        let until = Instant::now() + LAST_ANSWERS_TIME;
        while Instant::now() < until && !threads.iter().all(JoinHandle::is_finished) {
            thread::park_timeout(Duration::from_millis(5));
        }
        // Whoever does not read must not hold up the end.
        self.connections.lock().shut(Shutdown::Both);
        for thread in threads {
            join(thread);
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the control socket had panicked");
    }
}

/// A socket that is listened on, and its file, by which it is known.
struct Bound {
    listener: UnixListener,
    device: u64,
    inode: u64,
}

impl Bound {
    /// Binds under a name of its own first, so that the socket never stands there with another
    /// mode.
    fn at(path: &Path) -> std::io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push("~");
        let temporary = PathBuf::from(temporary);
        if std::fs::symlink_metadata(&temporary).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&temporary)?;
        }
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        let file = std::fs::symlink_metadata(&temporary)?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { listener, device: file.dev(), inode: file.ino() })
    }

    /// Whether callers at this path reach somebody: this listener, or another process that serves
    /// there. A socket that nobody serves any more is back when its disk is.
    fn is_reached(&self, path: &Path) -> bool {
        let Ok(found) = path.symlink_metadata() else { return false };
        let is_ours = (found.dev(), found.ino()) == (self.device, self.inode);
        let is_dead = || {
            let refused = |why: std::io::Error| why.kind() == ErrorKind::ConnectionRefused;
            found.file_type().is_socket() && UnixStream::connect(path).is_err_and(refused)
        };
        is_ours || !is_dead()
    }
}

fn create_folder_of(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
        }
        _ => Ok(()),
    }
}

/// Waits for somebody to connect. Where nobody does for a while and nobody could, the socket is
/// opened anew: else nobody could ever ask this node again.
fn await_caller(bound: &mut Bound, path: &Path, connections: &Connections) {
    let waits = poll(&mut [PollFd::new(&bound.listener, PollFlags::IN)], Some(&SOCKET_CHECK));
    if waits != Ok(0) || bound.is_reached(path) {
        return;
    }
    let mut open = connections.lock();
    if open.closed {
        return;
    }
    let again = create_folder_of(path).and_then(|()| Bound::at(path));
    match again.and_then(|new| Ok((new.listener.try_clone()?, new))) {
        Ok((kept, new)) => {
            log::warn!("the control socket {} was removed; it is there again", path.display());
            open.listener = Some(kept);
            let _ = new.listener.set_nonblocking(true);
            *bound = new;
        }
        // It is tried again; the fault of the disk is told by whoever writes to it.
        Err(why) => log::debug!("the control socket can't be opened anew: {why}"),
    }
}

fn accept(mut bound: Bound, path: &Path, connections: &Arc<Connections>, service: &Arc<Driver>) {
    // Never waited for without a look: a connection may be gone before it is accepted.
    let _ = bound.listener.set_nonblocking(true);
    loop {
        await_caller(&mut bound, path, connections);
        if connections.lock().closed {
            return;
        }
        let stream = match bound.listener.accept() {
            Ok((stream, _)) => stream,
            Err(why) if why.kind() == ErrorKind::WouldBlock => continue,
            // Shut down: the end. Anything else (no descriptor left) may pass.
            Err(why) if why.kind() == ErrorKind::InvalidInput => return,
            Err(why) => {
                log::warn!("the control socket can't accept: {why}");
                if service.is_stopping() {
                    return;
                }
                thread::park_timeout(LOOK_EVERY);
                continue;
            }
        };
        // Linux does not hand this down from the listener; other systems may.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let mut open = connections.lock();
        open.threads.retain(|thread| !thread.is_finished());
        if open.closed {
            return;
        }
        if open.streams.len() >= CONNECTIONS_MAX {
            let error =
                format!("{CONNECTIONS_MAX} programs talk to this node already; try again later");
            refuse(&stream, error);
            continue;
        }
        let Ok(kept) = stream.try_clone() else {
            continue;
        };
        let number = open.next;
        open.next += 1;
        open.streams.insert(number, kept);
        let (service, shared) = (Arc::clone(service), Arc::clone(connections));
        let name = format!("dsn-control-{number}");
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
            converse(&stream, &service);
            shared.lock().streams.remove(&number);
        });
        match thread {
            Ok(thread) => open.threads.push(thread),
            Err(why) => {
                open.streams.remove(&number);
                log::warn!("no thread for the control socket: {why}");
            }
        }
    }
}

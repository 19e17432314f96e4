//! The open socket: who is let in, and how all of it ends.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ControlError;
use super::places::{Connections, Place};
use super::server::{LOOK_EVERY, converse};
use crate::driver::Driver;

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

impl ControlServer {
    /// Looks whether the socket can be opened as far as that can be seen without doing it; gives
    /// whether a socket file is there that a dead node left.
    pub fn check(path: &Path) -> Result<bool, ControlError> {
        let unusable = |why| ControlError::Unusable { path: path.into(), why };
        match UnixStream::connect(path) {
            Ok(_) => Err(ControlError::Taken { path: path.into() }),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
            // A file that is no socket refuses, too, and is not ours to remove.
            Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
                if !std::fs::symlink_metadata(path).map_err(unusable)?.file_type().is_socket() {
                    return Err(ControlError::NoSocket { path: path.into() });
                }
                Ok(true)
            }
            Err(why) => Err(unusable(why)),
        }
    }

    /// Opens the socket, for this user alone, and serves it. A socket file that a dead node left is
    /// replaced.
    ///
    /// Where a group is given, its members may use the socket, too.
    pub fn start(
        path: &Path,
        group: Option<u32>,
        service: Arc<Driver>,
    ) -> Result<Self, ControlError> {
        let unusable = |why| ControlError::Unusable { path: path.into(), why };
        create_folder_of(path, group).map_err(unusable)?;
        if Self::check(path)? {
            std::fs::remove_file(path).map_err(unusable)?;
        }
        let bound = Bound::at(path, group).map_err(|why| match group {
            Some(group) if why.kind() == ErrorKind::PermissionDenied => {
                ControlError::Group { path: path.into(), group, why }
            }
            _ => unusable(why),
        })?;
        if let Some(group) = group
            && let Some(folder) = closed_folder(path, group)
        {
            log::warn!(
                "group {group} can't reach the control socket {}: it may not pass {}. Give that folder to the group \
                 (chgrp {group}, chmod g+x), or name another place with --control PATH",
                path.display(),
                folder.display()
            );
        }
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
            let open = self.connections.close();
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
    group: Option<u32>,
    device: u64,
    inode: u64,
}

impl Bound {
    /// Binds under a name of its own first, so that the socket never stands there with another
    /// mode.
    fn at(path: &Path, group: Option<u32>) -> std::io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push("~");
        let temporary = PathBuf::from(temporary);
        if std::fs::symlink_metadata(&temporary).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&temporary)?;
        }
        let listener = UnixListener::bind(&temporary)?;
        if let Err(why) = give(&temporary, group, 0o600, 0o660) {
            // Left behind, it would be in nobody's way, and of no use.
            let _ = std::fs::remove_file(&temporary);
            return Err(why);
        }
        let file = std::fs::symlink_metadata(&temporary)?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { listener, group, device: file.dev(), inode: file.ino() })
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

/// The group and the mode, of which one is for the owner alone. The group comes first: with the
/// other order the group that it had would get in for a moment.
fn give(path: &Path, group: Option<u32>, alone: u32, shared: u32) -> std::io::Result<()> {
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    let mode = if group.is_some() { shared } else { alone };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}

fn create_folder_of(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match folder_of(path) {
        Some(folder) if !folder.is_dir() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            give(folder, group, 0o700, 0o710)
        }
        _ => Ok(()),
    }
}

/// The first folder on the way to the socket that the group may not pass.
fn closed_folder(path: &Path, group: u32) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    let mut folders: Vec<&Path> = whole.ancestors().skip(1).collect();
    folders.reverse();
    let is_closed = |folder: &&Path| {
        folder.metadata().is_ok_and(|found| {
            let bit = if found.gid() == group { 0o010 } else { 0o001 };
            found.mode() & bit == 0
        })
    };
    folders.into_iter().find(is_closed).map(Path::to_owned)
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
    let group = bound.group;
    let again = create_folder_of(path, group).and_then(|()| Bound::at(path, group));
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
        // Who comes meanwhile waits in the queue of the system, in its turn.
        if !connections.await_place() {
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
        let Ok(kept) = stream.try_clone() else {
            continue;
        };
        let number = open.add(kept);
        let (service, shared) = (Arc::clone(service), Arc::clone(connections));
        let name = format!("dsn-control-{number}");
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
            converse(&stream, &service, Place { connections: &shared, number });
            shared.leave(number);
        });
        match thread {
            Ok(thread) => open.threads.push(thread),
            Err(why) => {
                open.remove(number);
                log::warn!("no thread for the control socket: {why}");
            }
        }
    }
}

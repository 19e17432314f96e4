//! Finding the node that is meant, and saying why it can't be asked.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsn::advice::whole_path;
use dsn::config::{DATA_FOLDER, SOCKET_NAME};
use dsn::control::{ControlClient, Failure};
use dsn::order;

use super::Fault;
use super::args::Options;

/// The socket of a node that was installed as a service (scripts/systemd).
const SERVICE_SOCKET: &str = "/run/dsn/control.sock";
/// How long is tried to reach each of several nodes, to find those that live.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// The socket that was named; that of the node that `DSN_NODE_ID` names; that of the only node
/// under the data folder; or, where neither a node nor a folder was named, that of the service.
pub(super) fn find(options: &Options) -> Result<PathBuf, Fault> {
    if let Some(path) = &options.control {
        return Ok(path.clone());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = variable("DSN_DATA").map(PathBuf::from);
    let may_be_service = data.is_none() && variable("DSN_NODE_ID").is_none();
    let folder_of = if data.is_some() { " (DSN_DATA)" } else { "" };
    let folder = data.unwrap_or_else(|| DATA_FOLDER.into());
    let (mut sockets, named) = match variable("DSN_NODE_ID") {
        Some(node_id) => {
            let socket = folder.join(&node_id).join(SOCKET_NAME);
            (Vec::from_iter(is_there(&socket).then_some(socket)), Some(node_id))
        }
        None => (sockets_under(&folder)?, None),
    };
    if sockets.len() > 1 {
        // A node that was killed leaves its socket behind. Where all are dead, any will do to say
        // so.
        let is_living = |path: &&PathBuf| {
            !matches!(ControlClient::connect(path, LOOK_TIME), Err(Failure::NoNode(_)))
        };
        let living: Vec<PathBuf> = sockets.iter().filter(is_living).cloned().collect();
        if living.is_empty() {
            sockets.truncate(1);
        } else {
            sockets = living;
        }
    }
    match sockets.as_slice() {
        [only] => Ok(only.clone()),
        [] if may_be_service && is_there(Path::new(SERVICE_SOCKET)) => Ok(SERVICE_SOCKET.into()),
        [] => Err(Fault::NoNode(format!(
            "no node{} has its socket under {}{folder_of}: start one with `dsn run`, go to the folder where it was started, or \
             name its socket with --control PATH (or DSN_CONTROL)",
            named.map_or_else(String::new, |id| format!(" {} (DSN_NODE_ID)", id.to_string_lossy())),
            whole_path(&folder).display()
        ))),
        several => {
            let list: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Fault::Usage(format!(
                "there are several nodes under {}; choose one with DSN_NODE_ID=ID, or with --control: {}",
                folder.display(),
                list.join(", ")
            )))
        }
    }
}

/// Whether something is there; where that may not be seen, asking it says why.
fn is_there(path: &Path) -> bool {
    match path.try_exists() {
        Ok(is_there) => is_there,
        Err(why) => why.kind() == ErrorKind::PermissionDenied,
    }
}

fn sockets_under(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == ErrorKind::PermissionDenied => return Err(denied(folder)),
        Err(_) => return Ok(Vec::new()),
    };
    let paths = entries.flatten().map(|entry| entry.path().join(SOCKET_NAME));
    let mut sockets: Vec<PathBuf> = paths.filter(|path| is_there(path)).collect();
    order::sort(&mut sockets);
    Ok(sockets)
}

/// Connects to the node that is meant.
pub(super) fn connect(path: &Path, options: &Options) -> Result<ControlClient, Fault> {
    ControlClient::connect(path, options.timeout()).map_err(|failure| explain(failure, path))
}

/// The one place where what the socket said becomes what is told.
pub(super) fn explain(failure: Failure, path: &Path) -> Fault {
    let is_variable = std::env::var_os("DSN_CONTROL").is_some_and(|name| name == path.as_os_str());
    let place = format!("{}{}", path.display(), if is_variable { " (DSN_CONTROL)" } else { "" });
    match failure {
        Failure::No(text) => Fault::No(text),
        Failure::Usage(text) => Fault::Usage(text),
        Failure::Stopped => Fault::NoNode(format!(
            "the node at {place} stopped before it answered; start it with `dsn run`"
        )),
        Failure::Late => Fault::No(format!(
            "the node at {place} runs, but gave no answer in time: it has much to do, or is stuck. Wait longer with \
             --timeout; if `dsn status` does not answer either, start the node anew"
        )),
        Failure::NoNode(why) => {
            let is_other = path.metadata().is_ok_and(|found| !found.file_type().is_socket());
            if is_other {
                return Fault::Usage(format!(
                    "{place} is no socket; name that of a node with --control PATH"
                ));
            }
            let why = match why.kind() {
                ErrorKind::NotFound => "nothing is there".to_owned(),
                ErrorKind::ConnectionRefused => {
                    "it is the socket of a node that has ended".to_owned()
                }
                _ => why.to_string(),
            };
            Fault::NoNode(format!(
                "no node answers at {place}: {why}. Start one with `dsn run`, or name another socket with --control PATH"
            ))
        }
        Failure::Unusable(why) if why.kind() == ErrorKind::PermissionDenied => denied(path),
        Failure::Unusable(why) => unusable(path, &why),
    }
}

fn unusable(path: &Path, why: &Error) -> Fault {
    Fault::No(format!("the node at {} can't be asked: {why}", path.display()))
}

/// A node may well be there: who may ask it?
fn denied(path: &Path) -> Fault {
    // What stands in the way may be a folder above it.
    let seen = path.ancestors().find_map(|place| Some((place, place.metadata().ok()?)));
    let Some((place, found)) = seen else {
        return unusable(path, &ErrorKind::PermissionDenied.into());
    };
    let owner = name_of(found.uid(), "/etc/passwd");
    let needed = if found.is_dir() { 0o010 } else { 0o060 };
    let group = match found.mode() & needed == needed && found.gid() != 0 {
        true => format!(", or add yourself to the group {}", name_of(found.gid(), "/etc/group")),
        false => String::new(),
    };
    Fault::No(format!(
        "this user may not open {}: {} belongs to {owner}. Use sudo, or run the command as that user{group}",
        path.display(),
        place.display()
    ))
}

/// The name behind a number in `/etc/passwd` or `/etc/group`, or the number.
fn name_of(number: u32, file: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let digits = number.to_string();
    let line = text.lines().find(|line| line.split(':').nth(2) == Some(&digits));
    let name = line.and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("number {digits}"), str::to_owned)
}

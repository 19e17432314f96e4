//! The folders of a node: who has them, which keys were made in them, and whose they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use super::StartError;
use crate::advice::{advice, whole_path};
use crate::config::Config;
use crate::credentials::{self, CredentialsError, NODE_KEY, NewFile, Presence};
use crate::durable;
use crate::journal;
use crate::named::{self, Unreadable};
use crate::order::Gather;
use crate::protocol::address::Address;
use crate::protocol::crypto::{NetworkKeys, PrivateKey};
use crate::protocol::fault::{Code, Fault};

/// Most other nodes that a sentence names.
const NAMES_MAX: usize = 10;

/// A folder that is locked, as long as this is kept.
#[derive(Default)]
pub(super) struct Lock {
    /// Nothing where the folder can only be read.
    pub(super) file: Option<File>,
    /// What is wrong with the folder.
    pub(super) fault: Option<String>,
}

/// What was named as a folder of states must not be a file: that is wrong whatever else is.
pub(super) fn check_data(config: &Config) -> Result<(), StartError> {
    match &config.data {
        Some(path) if path.exists() && !path.is_dir() => {
            Err(StartError::Folder { path: path.clone(), why: ErrorKind::NotADirectory.into() })
        }
        _ => Ok(()),
    }
}

/// Two processes that write one journal would destroy it.
///
/// A disk that can only be read (Linux makes one so after it failed) does not keep a node that has
/// its state there from starting; gives what is wrong then.
pub(super) fn lock_folder(folder: &Path) -> Result<Lock, StartError> {
    let failed = |why: Error| StartError::Folder { path: folder.into(), why };
    let path = folder.join("lock");
    let wrong = |fault: Unreadable| StartError::Folder { path: path.clone(), why: fault.into() };
    named::check(&path).map_err(wrong)?;
    let opened = durable::create_within(folder, || {
        let options = &mut File::options();
        let options = options.create(true).truncate(false).write(true);
        Ok(named::open_to_write(&path, options)?)
    });
    let (file, fault) = match opened {
        Ok((file, _)) => (file, None),
        Err(why) if why.kind() == ErrorKind::ReadOnlyFilesystem && folder.is_dir() => {
            let fault = Some(format!(
                "the folder {} can't be written: {}. No change can be kept until then",
                folder.display(),
                advice(&why, folder, "use --data DIR or --data none")
            ));
            match File::open(&path) {
                Ok(file) => (file, fault),
                // Nobody who could write there runs either.
                Err(_) => return Ok(Lock { file: None, fault }),
            }
        }
        Err(why) => return Err(failed(why)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock { file: Some(file), fault }),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Runs { folder: folder.into() }),
        Err(std::fs::TryLockError::Error(why)) => Err(failed(why)),
    }
}

/// The key files that this start made. They go with a start that fails: nobody has seen them yet,
/// and a key that stays would make the next start believe that this is where the node lives.
///
/// Nor does anybody: as long as these are kept, other nodes that start wait for them.
#[derive(Default)]
pub(super) struct NewKeys {
    /// Each with what the log says of it, once it is certain to stay.
    made: Vec<(NewFile, String)>,
}

impl NewKeys {
    /// The node runs.
    pub(super) fn keep(mut self) {
        for (_, said) in self.made.drain(..) {
            log::warn!("{said}");
        }
    }
}

impl Drop for NewKeys {
    fn drop(&mut self) {
        self.made.drain(..).rev().for_each(|(file, _)| file.undo());
    }
}

/// What was made, unless another node that starts was quicker.
fn unless_taken<T>(made: Result<T, CredentialsError>) -> Result<Option<T>, CredentialsError> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(CredentialsError::AlreadyExists { .. }) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Reads the network keys; makes one where this is the first node of a network. Of several that
/// start at once with one file, one makes it, and the others take it.
pub(super) fn network_keys(
    config: &Config,
    had_peers: bool,
    new: &mut NewKeys,
    notices: &mut Vec<Fault>,
) -> Result<NetworkKeys, StartError> {
    let path = &config.network_key_file();
    let waits = credentials::patience();
    loop {
        let found = credentials::presence(path)?;
        if found == Presence::Present {
            break;
        }
        // Whoever looks for others has to have their key: with one of its own it would find none.
        if !config.bootstrap.is_empty() || config.discover || had_peers {
            let others = |address: &&Address| !is_of_this_host(address, config.listen.port());
            let from = config.bootstrap.iter().find(others);
            let from = from.map(|address| address.as_str().to_owned());
            let is_empty = found == Presence::Empty;
            return Err(StartError::NoNetworkKey { path: path.clone(), from, is_empty });
        }
        if found == Presence::Empty {
            credentials::move_empty(path)?;
            notices.push(lost_key("network key", path, "Copy it to the others, if there are any"));
        }
        let said = format!(
            "this is the first node of a new network: made the network key {}. Copy that file to each host that is to join. \
             If this host was in a network before, it was with other folders: stop this node, remove that file, and start \
             it in the folder of before, or with --credentials and --data",
            whole_path(path).display()
        );
        if let Some(made) = unless_taken(credentials::create_network_key(path))? {
            new.made.push((made, said));
            break;
        }
        credentials::pause_before_another(&waits, path)?;
    }
    let keys = credentials::load_network_key(path)?;
    notices.extend(credentials::who_else_reads(path)?);
    // A file without a key was refused.
    let no_key = || CredentialsError::NoKey { path: path.clone() };
    Ok(NetworkKeys::new(&keys).ok_or_else(no_key)?)
}

/// Whether an address is that of this very node: one list of bootstrap addresses is for all.
fn is_of_this_host(address: &Address, port: u16) -> bool {
    let parsed = address.as_str().parse::<SocketAddr>().ok().filter(|it| it.port() == port);
    // What can be bound is an address of this host.
    parsed.is_some_and(|it| UdpSocket::bind(SocketAddr::new(it.ip(), 0)).is_ok())
}

/// Reads the own key; makes one at the first start.
pub(super) fn own_key(
    config: &Config,
    folder: &Path,
    new: &mut NewKeys,
    notices: &mut Vec<Fault>,
) -> Result<PrivateKey, StartError> {
    let (path, id) = (credentials::node_key_path(folder), &config.node_id);
    let found = credentials::presence(&path)?;
    if found == Presence::Empty {
        credentials::move_empty(&path)?;
        let step = format!(
            "Nodes that met this one before refuse it until `dsn forget {id}` is run there; if you have a copy of the old \
             key, stop this node and put it back"
        );
        notices.push(lost_key("key of this node", &path, &step));
    }
    if found != Presence::Present {
        let made = credentials::create_pkcs8(folder)?;
        let said = format!(
            "{id} is new here: made its key {}. If it ran before, its key and state are in other folders, and the others \
             refuse this one: stop it, remove that file, and start it in the folder of before, or with --credentials and \
             --data",
            whole_path(&path).display()
        );
        new.made.push((made, said));
    }
    let pkcs8 = credentials::load_pkcs8(folder)?;
    notices.extend(credentials::who_else_reads(&path)?);
    PrivateKey::from_pkcs8(&pkcs8)
        .map_err(|fault| StartError::NotAKey { folder: folder.into(), fault })
}

fn lost_key(what: &str, path: &Path, step: &str) -> Fault {
    Fault::new(
        Code::KeyLost,
        format!(
            "the {what} was an empty file ({}), as a disk leaves it that says too early what it has written; a new one was \
             made. {step}",
            whole_path(path).display()
        ),
        "",
    )
}

/// What to say where a node that was named by its host is new here, and others are not: its host
/// may have another name than before.
pub(super) fn look_for_old_names(config: &Config) -> Option<Fault> {
    if !config.is_named_by_host {
        return None;
    }
    let data = config.data.iter().map(|data| (data.as_path(), journal::FILE_NAME));
    let places = data.chain([(config.credentials.as_path(), NODE_KEY)]);
    let names: BTreeSet<String> =
        places.flat_map(|(folder, file)| nodes_in(folder, file)).gathered();
    if names.is_empty() || names.contains(config.node_id.as_str()) {
        return None;
    }
    // Of several nobody can say which one was meant.
    let before = if names.len() == 1 { names.first()? } else { "ID, the name of before" };
    let names = names.iter().take(NAMES_MAX).map(String::as_str);
    Some(Fault::new(
        Code::NameChanged,
        format!(
            "this host is called {}, and no node of that name was here before; there are keys or state of {}. So this is a \
             new node. To go on as before, stop it and start it with --node-id {before}",
            config.node_id,
            names.collect::<Vec<_>>().join(", ")
        ),
        "",
    ))
}

/// The nodes that have such a file below a folder.
fn nodes_in(folder: &Path, file: &str) -> Vec<String> {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of_nodes = folders.filter(|entry| entry.path().join(file).is_file());
    of_nodes.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

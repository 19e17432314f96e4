//! Changing the network key of a running node: the file first, then what the node uses; and
//! reading again what an operator changed in files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::Driver;
use crate::credentials;
use crate::protocol::crypto::{NetworkKeys, network_key_name};
use crate::protocol::report::Refused;

/// What is to be done with the network keys.
pub enum KeyChange {
    /// Nothing.
    List,
    /// One more that opens.
    Add(Zeroizing<[u8; 32]>),
    /// The one of this name seals from now on.
    Use(String),
    /// The one of this name opens no more.
    Remove(String),
    /// The file was changed by hand.
    Reload,
}

/// Where the file is; one change at a time.
pub(super) struct KeyFile {
    path: PathBuf,
    changing: Mutex<()>,
}

impl KeyFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, changing: Mutex::default() }
    }
}

impl Driver {
    /// The names of the network keys, the one that seals first.
    pub fn network_key_names(&self) -> Vec<String> {
        self.keys().names()
    }

    /// Makes the change in the file, then lets the node use what is there. Each change can be made
    /// again without harm. Gives the names of the keys, the one that seals first.
    ///
    /// Several nodes may share one file: what another one changed in it is taken over.
    pub fn network_keys(&self, change: KeyChange) -> Result<Vec<String>, Refused> {
        if matches!(change, KeyChange::List) {
            return Ok(self.network_key_names());
        }
        // Only changes of the same file wait for each other here.
        let _one = self.key_file.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.key_file.path;
        let fault = |why: String| Refused::NetworkKey { why };
        let mut keys = credentials::load_network_key(path).map_err(|why| fault(why.to_string()))?;
        let before = names(&keys);
        let find = |name: &str| {
            before.iter().position(|known| known == name).ok_or_else(|| {
                fault(format!("no key is called {name:?}; there are {}", before.join(", ")))
            })
        };
        match change {
            KeyChange::List | KeyChange::Reload => {}
            KeyChange::Add(key) if keys.contains(&key) => {}
            KeyChange::Add(key) => keys.push(key),
            KeyChange::Use(name) => {
                let key = keys.remove(find(&name)?);
                keys.insert(0, key);
            }
            // Another node that shares the file may have removed it there.
            KeyChange::Remove(name)
                if !before.contains(&name) && self.network_key_names().contains(&name) => {}
            KeyChange::Remove(name) => match find(&name)? {
                0 => {
                    let why = format!(
                        "{name} seals what this node sends; `dsn key use` another one first"
                    );
                    return Err(fault(why));
                }
                at => drop(keys.remove(at)),
            },
        }
        if names(&keys) != before {
            credentials::save_network_key(path, &keys).map_err(|why| fault(why.to_string()))?;
        }
        let used = NetworkKeys::new(&keys).ok_or_else(|| fault("there is none".into()))?;
        let names = used.names();
        if names != self.network_key_names() {
            log::warn!("the network keys are now {}; the first one seals", names.join(", "));
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(used);
        Ok(names)
    }

    /// Reads the network key file and the list of allowed nodes again, and logs what changed. A
    /// file that can't be used leaves in force what was; what is wrong with it is given back.
    pub fn reload(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut note = |text: String| {
            log::error!("reload: {text}");
            faults.push(text);
        };
        match self.network_keys(KeyChange::Reload) {
            Ok(names) => log::info!("reload: the network keys are {}", names.join(", ")),
            Err(why) => note(why.to_string()),
        }
        let Some(path) = &self.allow_file else { return faults };
        match credentials::load_allow_list(path) {
            Ok(list) => {
                let count = list.len();
                let gone = self.decide(|node, now| node.replace_allow_list(list, now));
                log::info!("reload: {count} nodes are in {}", path.display());
                for node_id in gone {
                    log::warn!(
                        "reload: {node_id} with its key is not in {} any more: dropped",
                        path.display()
                    );
                }
            }
            Err(why) => note(format!("the list of allowed nodes stays as it is: {why}")),
        }
        faults
    }
}

fn names(keys: &[Zeroizing<[u8; 32]>]) -> Vec<String> {
    keys.iter().map(|key| network_key_name(key)).collect()
}

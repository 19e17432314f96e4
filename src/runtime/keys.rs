//! Changing the network key of a running node: the file first, then what the node uses.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::control::KeyChange;
use crate::credentials;
use crate::driver::Driver;
use crate::protocol::crypto::{NetworkKeys, network_key_name};
use crate::protocol::report::Refused;

/// Makes the change in the file, then lets the node use what is there. Each change can be made
/// again without harm. Gives the names of the keys, the one that seals first.
///
/// Several nodes may share one file: what another one changed in it is taken over.
pub(super) fn change(
    driver: &Driver,
    path: &Path,
    change: KeyChange,
) -> Result<Vec<String>, Refused> {
    let fault = |why: String| Refused::NetworkKey { why };
    let mut keys = credentials::load_network_key(path).map_err(|why| fault(why.to_string()))?;
    let before = names(&keys);
    let find = |name: &str| {
        before.iter().position(|known| known == name).ok_or_else(|| {
            fault(format!("no key is called {name:?}; there are {}", before.join(", ")))
        })
    };
    match change {
        KeyChange::List => return Ok(driver.network_key_names()),
        KeyChange::Reload => {}
        KeyChange::Add(key) if keys.contains(&key) => {}
        KeyChange::Add(key) => keys.push(key),
        KeyChange::Use(name) => {
            let key = keys.remove(find(&name)?);
            keys.insert(0, key);
        }
        KeyChange::Remove(name) => match before.iter().position(|known| *known == name) {
            None => {}
            Some(0) => {
                let why =
                    format!("{name} seals what this node sends; `dsn key use` another one first");
                return Err(fault(why));
            }
            Some(at) => drop(keys.remove(at)),
        },
    }
    if names(&keys) != before {
        credentials::save_network_key(path, &keys).map_err(|why| fault(why.to_string()))?;
    }
    let used = NetworkKeys::new(&keys).ok_or_else(|| fault("there is none".into()))?;
    let names = used.names();
    if names != driver.network_key_names() {
        log::warn!("the network keys are now {}; the first one seals", names.join(", "));
    }
    driver.set_keys(used);
    Ok(names)
}

fn names(keys: &[Zeroizing<[u8; 32]>]) -> Vec<String> {
    keys.iter().map(|key| network_key_name(key)).collect()
}

/// Where the file is; one change at a time.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    pub(super) changing: std::sync::Mutex<()>,
}

//! Keys on disk: the network key, the own key pair, and the keys of the peers met so far.

mod error;
mod files;
mod peers;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use zeroize::Zeroizing;

use crate::durable::{self, NewFolders, Written};
use crate::named;
use crate::protocol::crypto::{PrivateKey, Signer};
use crate::protocol::identity::{hex, unhex};

pub use error::CredentialsError;
use error::unusable;
pub use files::{Presence, move_empty, patience, pause_before_another, presence, who_else_reads};
use files::{is_same, read_secret, without_mark};
pub use peers::{load_allow_list, load_known_peers, save_known_peers};

/// Most network keys in a file: each is tried on bytes that no key opens.
const NETWORK_KEYS_MAX: usize = 8;
/// Shortest token of a web page, bytes: nobody guesses so many.
const TOKEN_BYTES_MIN: usize = 16;
/// Longest one, bytes: it comes with each request.
const TOKEN_BYTES_MAX: usize = 1024;
/// What stands before the secret in the file of the own key pair.
const PKCS8_PREFIX: &str = "dsn-p256-pkcs8:";

/// The name of the file with the own key pair, in the node's folder.
pub const NODE_KEY: &str = "node.key";

/// Reads the network keys: one a line, 64 hex digits; `#` begins a comment line. The first one
/// seals, all open.
pub fn load_network_key(path: &Path) -> Result<Vec<Zeroizing<[u8; 32]>>, CredentialsError> {
    parse_network_key(path, &read_secret(path)?)
}

/// The same from a text; `path` says where it came from.
pub fn parse_network_key(
    path: &Path,
    text: &str,
) -> Result<Vec<Zeroizing<[u8; 32]>>, CredentialsError> {
    let bad_line = |number: usize, what: &'static str| CredentialsError::BadLine {
        path: path.into(),
        line: number + 1,
        what,
    };
    let mut keys = Vec::new();
    for (number, line) in without_mark(text).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bytes = unhex(line).map(Zeroizing::new);
        let bytes = bytes.ok_or_else(|| bad_line(number, "is not 64 hex digits"))?;
        let key: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_| bad_line(number, "is not 64 hex digits"))?;
        if keys.len() == NETWORK_KEYS_MAX {
            return Err(bad_line(number, "is one key too many: the limit is 8"));
        }
        keys.push(Zeroizing::new(key));
    }
    if keys.is_empty() {
        return Err(CredentialsError::NoKey { path: path.into() });
    }
    Ok(keys)
}

/// Reads the token of a web page: the first line that is no comment.
pub fn load_token(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let text = read_secret(path)?;
    let bad = |why| CredentialsError::NoToken { path: path.into(), why };
    let mut lines = without_mark(&text).lines().map(str::trim);
    let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = token.ok_or_else(|| bad("there is none in it"))?;
    match token.len() {
        _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(bad("it has blanks, or characters that are not ASCII"))
        }
        TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX => Ok(Zeroizing::new(token.to_owned())),
        0..TOKEN_BYTES_MIN => Err(bad("it has less than 16 characters")),
        _ => Err(bad("it has more than 1024 characters")),
    }
}

/// A file that was made, and the folders for it.
///
/// As long as this is kept the file is locked, and [`presence`] waits elsewhere: it may go again.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
    folders: NewFolders,
}

impl NewFile {
    /// Takes it away again, with the folders in which nobody has put anything. What somebody else
    /// has put in its place stays.
    pub fn undo(self) {
        let own = self.file.metadata();
        let there = self.path.symlink_metadata();
        let is_own = own.is_ok_and(|own| there.is_ok_and(|there| is_same(&own, &there)));
        if is_own {
            // The fault that counts is why it goes.
            let _ = std::fs::remove_file(&self.path);
        }
        self.folders.undo();
    }
}

/// Makes a network key file. One that is there is never overwritten.
pub fn create_network_key(path: &Path) -> Result<NewFile, CredentialsError> {
    create_secret(path, new_network_key()?.as_bytes())
}

/// What stands in such a file.
pub fn new_network_key() -> Result<Zeroizing<String>, CredentialsError> {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *key).map_err(|_| CredentialsError::NoRandomness)?;
    Ok(Zeroizing::new(format!(
        "# The key of a dsn network. Every node has the same file. Keep it secret.\n{}\n",
        Zeroizing::new(hex(&*key)).as_str()
    )))
}

/// Writes the network keys, the one that seals first, where the file is: it may be a mount, or a
/// link to what several nodes share.
pub fn save_network_key(path: &Path, keys: &[Zeroizing<[u8; 32]>]) -> Result<(), CredentialsError> {
    if keys.len() > NETWORK_KEYS_MAX {
        return Err(CredentialsError::TooManyKeys { path: path.into() });
    }
    let mut text = Zeroizing::new(String::with_capacity(256 + keys.len() * 65));
    text.push_str(
        "# The keys of a dsn network. The first one seals, all open. Keep them secret.\n",
    );
    for key in keys {
        text.push_str(Zeroizing::new(hex(&**key)).as_str());
        text.push('\n');
    }
    let written = durable::replace_there(path, text.as_bytes());
    if written.map_err(|why| unusable(path, why))? == Written::InPlace {
        log::warn!(
            "{} can't be replaced in one step (it is a mount of its own, or its folder can't be written), so it was \
             written in place: a power cut at such a moment may damage it. Keep a copy",
            path.display()
        );
    }
    Ok(())
}

/// Where the own key pair is.
pub fn node_key_path(folder: &Path) -> PathBuf {
    folder.join(NODE_KEY)
}

/// The own key pair as PKCS#8.
pub fn load_pkcs8(folder: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let path = node_key_path(folder);
    let text = read_secret(&path)?;
    // A start that was killed may have left names that are not on disk yet, and others will pin
    // this key. A root that can only be read refuses, and has nothing to sync.
    let _ = durable::sync_folder(folder).and_then(|()| durable::sync_folder_of(folder));
    let lines = without_mark(&text).lines().map(str::trim).enumerate();
    let (number, line) = { lines }
        .find(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .ok_or_else(|| CredentialsError::NoKey { path: path.clone() })?;
    let secret = line.strip_prefix(PKCS8_PREFIX).and_then(unhex).map(Zeroizing::new);
    secret.ok_or(CredentialsError::BadLine {
        path,
        line: number + 1,
        what: "is not a private key of dsn",
    })
}

/// Makes the own key pair. One that is there is never overwritten.
pub fn create_pkcs8(folder: &Path) -> Result<NewFile, CredentialsError> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
        .map_err(|_| CredentialsError::NoRandomness)?;
    let public_key = PrivateKey::from_pkcs8(document.as_ref())
        .map_err(|_| CredentialsError::NoRandomness)?
        .public_key();
    let secret = Zeroizing::new(hex(document.as_ref()));
    let text = Zeroizing::new(format!(
        "# The private key of this node. Never copy it to another host.\n# public key: {}\n{PKCS8_PREFIX}{}\n",
        public_key.to_hex(),
        secret.as_str()
    ));
    create_secret(&node_key_path(folder), text.as_bytes())
}

/// Where it fails, none of the folders that were made for it is left.
fn create_secret(path: &Path, bytes: &[u8]) -> Result<NewFile, CredentialsError> {
    named::check(path)?;
    let made = durable::create_within(durable::folder_of(path), || durable::create(path, bytes));
    let (file, folders) = made.map_err(|why| match why.kind() {
        ErrorKind::AlreadyExists => CredentialsError::AlreadyExists { path: path.into() },
        _ => unusable(path, why),
    })?;
    Ok(NewFile { path: path.into(), file, folders })
}

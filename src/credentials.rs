//! Keys on disk: the network key, the own key pair, and the keys of the peers met so far.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use zeroize::Zeroizing;

use crate::durable;
use crate::protocol::PEERS_MAX;
use crate::protocol::address::Address;
use crate::protocol::crypto::{PrivateKey, Signer};
use crate::protocol::hash::Sha256;
use crate::protocol::identity::{NodeId, PublicKey, hex, unhex};
use crate::protocol::peer::{Known, KnownPeer, Pin, Trust};

/// Largest key file, bytes: a file that is longer is not one of ours.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// Most network keys in a file: each is tried on bytes that no key opens.
const NETWORK_KEYS_MAX: usize = 8;
/// Largest file of known peers, bytes.
const KNOWN_PEERS_BYTES_MAX: u64 = 1024 * 1024;
/// Most lines in it: all peers, and as many that were forgotten.
const KNOWN_PEERS_MAX: usize = 2 * PEERS_MAX;
/// What stands before the secret in the file of the own key pair.
const PKCS8_PREFIX: &str = "dsn-p256-pkcs8:";

/// Hex digits of the checksum behind a known peer.
const CHECKSUM_DIGITS: usize = 16;
/// Most damaged lines that are told of.
const BAD_LINES_MAX: usize = 10;
/// The first line of the file of known peers.
const KNOWN_PEERS_TITLE: &str =
    "# The nodes met so far: id, public key, how it is known, address, checksum.";

const NODE_KEY: &str = "node.key";
const KNOWN_PEERS: &str = "known_peers";

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
    for (number, line) in text.lines().enumerate() {
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

/// Makes a network key file. One that is there is never overwritten.
pub fn create_network_key(path: &Path) -> Result<(), CredentialsError> {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *key).map_err(|_| CredentialsError::NoRandomness)?;
    let text = Zeroizing::new(format!(
        "# The key of a dsn network. Every node has the same file. Keep it secret.\n{}\n",
        Zeroizing::new(hex(&*key)).as_str()
    ));
    create_secret(path, text.as_bytes())
}

/// Writes the network keys, the one that seals first.
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
    durable::replace(path, text.as_bytes()).map_err(|why| unusable(path, why))
}

/// The own key pair as PKCS#8; made at the first start.
pub fn load_or_create_pkcs8(folder: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let path = folder.join(NODE_KEY);
    if path.try_exists().map_err(|why| unusable(&path, why))? {
        // A start that was killed may have left names that are not on disk yet, and others will
        // pin this key. A root that can only be read refuses, and has nothing to sync.
        let _ = durable::sync_folder(folder).and_then(|()| durable::sync_folder_of(folder));
    } else {
        create_key_pair(&path)?;
    }
    let text = read_secret(&path)?;
    let (number, line) = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .ok_or_else(|| CredentialsError::NoKey { path: path.clone() })?;
    let secret = line.trim().strip_prefix(PKCS8_PREFIX).and_then(unhex).map(Zeroizing::new);
    secret.ok_or(CredentialsError::BadLine {
        path,
        line: number + 1,
        what: "is not a private key of dsn",
    })
}

fn create_key_pair(path: &Path) -> Result<(), CredentialsError> {
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
    create_secret(path, text.as_bytes())
}

fn create_secret(path: &Path, bytes: &[u8]) -> Result<(), CredentialsError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        durable::create_private_folder(folder).map_err(|why| unusable(folder, why))?;
    }
    durable::create(path, bytes).map_err(|why| match why.kind() {
        ErrorKind::AlreadyExists => CredentialsError::AlreadyExists { path: path.into() },
        _ => unusable(path, why),
    })
}

/// Reads a secret file. One that others can read is refused, as ssh does: a warning in a log is
/// not read by whoever copied the file with the wrong mode.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let file = File::open(path).map_err(|why| unusable(path, why))?;
    let metadata = file.metadata().map_err(|why| unusable(path, why))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::TooOpen { path: path.into(), mode });
    }
    read_text(path, file, KEY_FILE_BYTES_MAX).map(Zeroizing::new)
}

fn read_text(path: &Path, file: File, bytes_max: u64) -> Result<String, CredentialsError> {
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(|why| match why.kind() {
        ErrorKind::InvalidData => CredentialsError::NoText { path: path.into() },
        _ => unusable(path, why),
    })?;
    if text.len() as u64 > bytes_max {
        return Err(CredentialsError::TooLong { path: path.into(), bytes_max });
    }
    Ok(text)
}

/// Reads the list of nodes that may be in the network: `ID PUBLIC-KEY` a line, the key as 130 hex
/// digits, as `dsn status` of that node shows it; `#` begins a comment line.
pub fn load_allow_list(path: &Path) -> Result<BTreeMap<NodeId, PublicKey>, CredentialsError> {
    let file = File::open(path).map_err(|why| unusable(path, why))?;
    let text = read_text(path, file, KNOWN_PEERS_BYTES_MAX)?;
    let mut list = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(char::is_whitespace).and_then(|(node_id, key)| {
            Some((NodeId::new(node_id).ok()?, PublicKey::from_hex(key.trim())?))
        });
        let (node_id, key) = entry.ok_or_else(|| CredentialsError::BadLine {
            path: path.into(),
            line: number + 1,
            what: "is not a node id and its public key of 130 hex digits",
        })?;
        list.insert(node_id, key);
    }
    Ok(list)
}

/// Reads the peers met before, and what was wrong with the file. One damaged line must not cost
/// the others, so it is skipped and named, and the damaged file is set aside.
pub fn load_known_peers(folder: &Path) -> Result<(Vec<KnownPeer>, Vec<String>), CredentialsError> {
    let path = folder.join(KNOWN_PEERS);
    let Some(found) =
        durable::read(&path, KNOWN_PEERS_BYTES_MAX).map_err(|why| unusable(&path, why))?
    else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (peers, bad_lines) = parse_known_peers(&found.bytes);
    let mut warnings = Vec::new();
    if let Some(why) = found.fault {
        warnings.push(format!("parts of {} can't be read: {why}", path.display()));
    }
    if !bad_lines.is_empty() {
        let lines: Vec<String> = bad_lines.iter().map(usize::to_string).collect();
        warnings.push(format!(
            "{} was damaged; {} peers were kept, {} skipped (line {}): nodes that stood there are met anew",
            path.display(),
            peers.len(),
            lines.len(),
            lines.join(", ")
        ));
    }
    if !warnings.is_empty() {
        warnings.push(mend_known_peers(folder, &path, &peers));
    }
    Ok((peers, warnings))
}

/// Sets the damaged file aside and writes what was whole.
fn mend_known_peers(folder: &Path, path: &Path, peers: &[KnownPeer]) -> String {
    let aside = durable::aside_name(path);
    if let Err(why) = durable::keep_as(path, &aside) {
        return format!("{} could not be kept as {}: {why}", path.display(), aside.display());
    }
    match save_known_peers(folder, peers) {
        Ok(()) => format!("the damaged file is now {}", aside.display()),
        Err(fault) => fault.to_string(),
    }
}

/// The peers, and the numbers of the lines that are none: at most so many that they can be told.
fn parse_known_peers(bytes: &[u8]) -> (Vec<KnownPeer>, Vec<usize>) {
    let (mut peers, mut bad_lines) = (Vec::new(), Vec::new());
    let text = String::from_utf8_lossy(bytes);
    let mut is_last_whole = false;
    for (number, line) in text.split('\n').enumerate() {
        is_last_whole = line.is_empty();
        if is_last_whole || line == KNOWN_PEERS_TITLE {
            continue;
        }
        match parse_known_peer(line) {
            Some(peer) if peers.len() < KNOWN_PEERS_MAX => peers.push(peer),
            _ if bad_lines.len() < BAD_LINES_MAX => bad_lines.push(number + 1),
            _ => {}
        }
    }
    if !is_last_whole && bad_lines.is_empty() {
        // The end of the line is missing, and with it who knows how many more.
        bad_lines.push(text.split('\n').count());
    }
    (peers, bad_lines)
}

/// What stands behind a line, so that one wrong bit is noticed: a pinned key that is not the right
/// one would lock its node out.
fn line_checksum(line: &str) -> String {
    let hash = hex(&Sha256::new(line.as_bytes()).finish());
    hash.get(..CHECKSUM_DIGITS).unwrap_or_default().to_owned()
}

fn parse_known_peer(line: &str) -> Option<KnownPeer> {
    let (line, checksum) = line.rsplit_once(' ')?;
    if checksum != line_checksum(line) {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let node_id = NodeId::new(words.next()?).ok()?;
    let [key, how, address] = [words.next()?, words.next()?, words.next()?];
    if words.next().is_some() {
        return None;
    }
    let address = match address {
        "-" => None,
        text => Some(Address::new(text).ok()?),
    };
    let trust = match how {
        "direct" => Trust::Direct,
        "hearsay" => Trust::Hearsay,
        "forgotten" if key == "-" => {
            return Some(KnownPeer { node_id, known: Known::Forgotten { address } });
        }
        _ => return None,
    };
    let pin = Pin { key: PublicKey::from_hex(key)?, trust };
    Some(KnownPeer { node_id, known: Known::Pinned { pin, address } })
}

/// A peer as a line, without its checksum.
fn known_peer_line(peer: &KnownPeer) -> String {
    let id = &peer.node_id;
    let (key, how, address) = match &peer.known {
        Known::Forgotten { address } => ("-".to_owned(), "forgotten", address),
        Known::Pinned { pin, address } => {
            let how = match pin.trust {
                Trust::Direct => "direct",
                Trust::Hearsay => "hearsay",
            };
            (pin.key.to_hex(), how, address)
        }
    };
    format!("{id} {key} {how} {}", address.as_ref().map_or("-", Address::as_str))
}

/// Writes the peers met so far.
pub fn save_known_peers(folder: &Path, peers: &[KnownPeer]) -> Result<(), CredentialsError> {
    use fmt::Write;
    let mut text = format!("{KNOWN_PEERS_TITLE}\n");
    for peer in peers {
        let line = known_peer_line(peer);
        // Writing to a String can't fail.
        let _ = writeln!(text, "{line} {}", line_checksum(&line));
    }
    let path = folder.join(KNOWN_PEERS);
    durable::replace(&path, text.as_bytes()).map_err(|why| unusable(&path, why))
}

/// Why a key file can't be used. Nothing was changed.
#[derive(Debug)]
pub enum CredentialsError {
    /// The system refused.
    Unusable {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        why: Error,
    },
    /// Others can read a secret file.
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is longer than any of ours.
    TooLong {
        /// Which.
        path: PathBuf,
        /// The limit, bytes.
        bytes_max: u64,
    },
    /// The file is not text.
    NoText {
        /// Which.
        path: PathBuf,
    },
    /// A line is not what it should be.
    BadLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More keys than a file has.
    TooManyKeys {
        /// Which file.
        path: PathBuf,
    },
    /// There is no key in the file.
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// The file is there already.
    AlreadyExists {
        /// Which.
        path: PathBuf,
    },
    /// The system gave no randomness.
    NoRandomness,
}

fn unusable(path: &Path, why: Error) -> CredentialsError {
    CredentialsError::Unusable { path: path.into(), why }
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { path, why } => write!(
                formatter,
                "{} can't be used: {why}. Give this user the right to it, or name another place with --credentials \
                 or --network-key",
                path.display()
            ),
            Self::TooOpen { path, mode } => write!(
                formatter,
                "{} is a secret, but has mode {mode:04o}, so others can read it. Run: chmod 600 {}",
                path.display(),
                path.display()
            ),
            Self::TooLong { path, bytes_max } => write!(
                formatter,
                "{} has more than {bytes_max} bytes: it is not a key file of dsn",
                path.display()
            ),
            Self::NoText { path } => write!(
                formatter,
                "{} is not text: it is not a file of dsn, or it is damaged. Put back a good copy of it, or name another one",
                path.display()
            ),
            Self::BadLine { path, line, what } => write!(
                formatter,
                "{}: line {line} {what}. Put back a good copy of the file",
                path.display()
            ),
            Self::TooManyKeys { path } => write!(
                formatter,
                "{} has {NETWORK_KEYS_MAX} keys already; `dsn key remove` one first",
                path.display()
            ),
            Self::NoKey { path } => write!(
                formatter,
                "{} has no key in it. Put back a good copy of the file",
                path.display()
            ),
            Self::AlreadyExists { path } => write!(
                formatter,
                "{} is there already and is not overwritten. Name another file, or move that one away",
                path.display()
            ),
            Self::NoRandomness => write!(formatter, "the system gave no randomness for a key"),
        }
    }
}

impl std::error::Error for CredentialsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_network_key_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/network.key");
        create_network_key(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let keys = load_network_key(&path).unwrap();
        assert_eq!(keys.len(), 1);
        let again = create_network_key(&path).unwrap_err();
        assert!(matches!(again, CredentialsError::AlreadyExists { .. }));
        assert_eq!(*load_network_key(&path).unwrap()[0], *keys[0]);
    }

    #[test]
    fn a_damaged_network_key_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let good = "00".repeat(32);
        write(&path, &format!("# two\n{good}\n\n  {good}\n"));
        assert_eq!(load_network_key(&path).unwrap().len(), 2);
        let long = format!("{good}00");
        for (text, line) in [("zz", 1), (&good[1..], 1), (&long, 1), (&"!".repeat(64), 1)] {
            write(&path, text);
            match load_network_key(&path).unwrap_err() {
                CredentialsError::BadLine { line: named, .. } => assert_eq!(named, line),
                other => panic!("{other}"),
            }
        }
        write(&path, "# nothing\n");
        assert!(matches!(load_network_key(&path), Err(CredentialsError::NoKey { .. })));
        write(&path, &format!("{good}\n").repeat(9));
        assert!(matches!(load_network_key(&path), Err(CredentialsError::BadLine { line: 9, .. })));
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(load_network_key(&path), Err(CredentialsError::NoText { .. })));
        write(&path, &"#".repeat(20_000));
        assert!(matches!(load_network_key(&path), Err(CredentialsError::TooLong { .. })));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        create_network_key(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let message = load_network_key(&path).unwrap_err().to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }

    #[test]
    fn a_key_pair_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("n");
        let first = load_or_create_pkcs8(&place).unwrap();
        assert_eq!(*load_or_create_pkcs8(&place).unwrap(), *first);
        assert!(PrivateKey::from_pkcs8(&first).is_ok());
        assert_eq!(mode(&place.join(NODE_KEY)), 0o600);
        write(&place.join(NODE_KEY), "nonsense\n");
        assert!(matches!(load_or_create_pkcs8(&place), Err(CredentialsError::BadLine { .. })));
    }

    #[test]
    fn known_peers_come_back_and_bad_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let peer = |name: &str, trust, address: Option<&str>| KnownPeer {
            node_id: NodeId::new(name).unwrap(),
            known: Known::Pinned {
                pin: Pin { key: PublicKey([4; 65]), trust },
                address: address.map(|text| Address::new(text).unwrap()),
            },
        };
        let forgotten = KnownPeer {
            node_id: NodeId::new("c").unwrap(),
            known: Known::Forgotten { address: Some(Address::new("c.local:80").unwrap()) },
        };
        let peers = [
            peer("a", Trust::Direct, Some("[::1]:80")),
            peer("b", Trust::Hearsay, None),
            forgotten,
        ];
        assert_eq!(load_known_peers(folder.path()).unwrap(), (vec![], vec![]));
        save_known_peers(folder.path(), &peers).unwrap();
        assert_eq!(load_known_peers(folder.path()).unwrap(), (peers.to_vec(), vec![]));
        let path = folder.path().join(KNOWN_PEERS);
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = [b"\xff\x00 x\n../x y direct -\n", text.as_bytes()].concat();
        std::fs::write(&path, &damaged).unwrap();
        let (loaded, warnings) = load_known_peers(folder.path()).unwrap();
        assert_eq!((loaded, warnings.len()), (peers.to_vec(), 2));
        assert!(warnings[0].contains("(line 1, 2)"), "{warnings:?}");
        assert!(warnings[1].contains("known_peers.damaged-1"), "{warnings:?}");
        assert_eq!(std::fs::read(folder.path().join("known_peers.damaged-1")).unwrap(), damaged);
        assert_eq!(load_known_peers(folder.path()).unwrap(), (peers.to_vec(), vec![]), "mended");
    }

    /// The file is cut, zeroed or changed at every offset: whatever is read is what was written,
    /// and what is missing is told.
    #[test]
    fn damaged_known_peers_are_noticed_at_every_byte() {
        let pinned = |key, trust, address: Option<&str>| Known::Pinned {
            pin: Pin { key: PublicKey([key; 65]), trust },
            address: address.map(|text| Address::new(text).unwrap()),
        };
        let peers: Vec<KnownPeer> = [
            ("ab", pinned(4, Trust::Direct, Some("10.0.0.1:8000"))),
            ("b", pinned(5, Trust::Hearsay, None)),
            ("c", Known::Forgotten { address: None }),
        ]
        .into_iter()
        .map(|(name, known)| KnownPeer { node_id: NodeId::new(name).unwrap(), known })
        .collect();
        let folder = tempfile::tempdir().unwrap();
        save_known_peers(folder.path(), &peers).unwrap();
        let good = std::fs::read(folder.path().join(KNOWN_PEERS)).unwrap();
        let body = KNOWN_PEERS_TITLE.len() + 1;
        let damages: [fn(&mut Vec<u8>, usize); 5] = [
            |bytes, at| bytes.truncate(at),
            |bytes, at| bytes[at..].fill(0),
            |bytes, at| bytes[at] ^= 1,
            |bytes, at| bytes[at] ^= 0x20,
            |bytes, at| bytes.insert(at, b' '),
        ];
        for (kind, damage) in damages.iter().enumerate() {
            for at in 0..good.len() {
                let mut bytes = good.clone();
                damage(&mut bytes, at);
                let (loaded, bad_lines) = parse_known_peers(&bytes);
                assert!(loaded.iter().all(|peer| peers.contains(peer)), "{kind} at {at}");
                let lost_one_line = kind < 2 || loaded.len() > usize::from(at < body);
                assert!(lost_one_line, "{kind} at {at}: {loaded:?}");
                // A cut between two lines looks like a shorter file.
                let between = kind == 0 && (at == 0 || bytes.ends_with(b"\n"));
                assert!(loaded.len() == 3 || between || !bad_lines.is_empty(), "{kind} at {at}");
            }
        }
    }

    /// A key file that lost bytes never becomes another key, and is never made anew.
    #[test]
    fn a_damaged_own_key_is_refused_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let good = load_or_create_pkcs8(folder.path()).unwrap();
        let path = folder.path().join(NODE_KEY);
        let text = std::fs::read(&path).unwrap();
        let damages: [fn(&mut Vec<u8>, usize); 3] = [
            |bytes, at| bytes.truncate(at),
            |bytes, at| bytes[at..].fill(0),
            |bytes, at| bytes[at] ^= 1,
        ];
        for damage in damages {
            for at in 0..text.len() {
                let mut bytes = text.clone();
                damage(&mut bytes, at);
                std::fs::write(&path, &bytes).unwrap();
                match load_or_create_pkcs8(folder.path()) {
                    Ok(key) => assert!(*key == *good || PrivateKey::from_pkcs8(&key).is_err()),
                    Err(fault) => assert!(fault.to_string().contains("node.key"), "{fault}"),
                }
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "it stays as it is");
            }
        }
    }
}

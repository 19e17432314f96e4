//! Whom the node met so far, and who may be met at all.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::error::{CredentialsError, unusable};
use super::files::{open_file, read_text, without_mark};
use crate::advice::{advice, whole_path};
use crate::durable;
use crate::protocol::PEERS_MAX;
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::hash::Sha256;
use crate::protocol::identity::{NodeId, PublicKey, hex};
use crate::protocol::peer::{Known, KnownPeer, Pin, Trust};

/// Largest file of known peers, and of allowed nodes, bytes.
const KNOWN_PEERS_BYTES_MAX: u64 = 1024 * 1024;
/// Most lines in it: all peers, and as many that were forgotten.
const KNOWN_PEERS_MAX: usize = 2 * PEERS_MAX;
/// Hex digits of the checksum behind a known peer.
const CHECKSUM_DIGITS: usize = 16;
/// Most damaged lines that are told of.
const BAD_LINES_MAX: usize = 10;
/// The first line of the file of known peers.
pub(super) const KNOWN_PEERS_TITLE: &str =
    "# The nodes met so far: id, public key, how it is known, address, checksum.";
pub(super) const KNOWN_PEERS: &str = "known_peers";

/// Reads the list of nodes that may be in the network: `ID PUBLIC-KEY` a line, the key as 130 hex
/// digits, as `dsn status` of that node shows it; `#` begins a comment line.
pub fn load_allow_list(path: &Path) -> Result<BTreeMap<NodeId, PublicKey>, CredentialsError> {
    let text = read_text(path, open_file(path)?, KNOWN_PEERS_BYTES_MAX)?;
    let mut list = BTreeMap::new();
    for (number, line) in without_mark(&text).lines().enumerate() {
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
        // Of two keys nobody knows which was meant.
        if list.insert(node_id, key).is_some_and(|before| before != key) {
            return Err(CredentialsError::BadLine {
                path: path.into(),
                line: number + 1,
                what: "has another key for a node of a line above",
            });
        }
    }
    Ok(list)
}

/// Reads the peers met before, and what was wrong with the file. One damaged line must not cost
/// the others, so it is skipped and named, and the damaged file is set aside.
pub fn load_known_peers(folder: &Path) -> Result<(Vec<KnownPeer>, Vec<Fault>), CredentialsError> {
    let path = folder.join(KNOWN_PEERS);
    let Some(found) =
        durable::read(&path, KNOWN_PEERS_BYTES_MAX).map_err(|why| unusable(&path, why))?
    else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (peers, bad_lines) = parse_known_peers(&found.bytes);
    let shown = whole_path(&path);
    let damaged = |text| Fault::new(Code::PeersDamaged, text, "");
    let mut warnings = Vec::new();
    if let Some(why) = found.fault {
        let text =
            format!("parts of {} can't be read: {why}. Look after that disk", shown.display());
        warnings.push(damaged(text));
    }
    if found.bytes.is_empty() {
        // It has a title from its first moment on.
        warnings.push(damaged(format!(
            "{} is empty: the nodes that stood there are met anew",
            shown.display()
        )));
    } else if !bad_lines.is_empty() {
        let lines: Vec<String> = bad_lines.iter().map(usize::to_string).collect();
        warnings.push(damaged(format!(
            "{} was damaged; {} peers were kept, {} skipped (line {}): nodes that stood there are met anew",
            shown.display(),
            peers.len(),
            lines.len(),
            lines.join(", ")
        )));
    }
    if !warnings.is_empty() {
        warnings.push(damaged(mend_known_peers(folder, &path, &found.bytes, &peers)));
    }
    Ok((peers, warnings))
}

/// Sets the damaged file aside and writes what was whole.
fn mend_known_peers(folder: &Path, path: &Path, bytes: &[u8], peers: &[KnownPeer]) -> String {
    let aside = durable::aside_name(path);
    if let Err(why) = durable::keep_as(path, &aside, bytes) {
        return format!(
            "{} could not be kept as {}: {}",
            path.display(),
            aside.display(),
            advice(&why, path, "")
        );
    }
    match save_known_peers(folder, peers) {
        Ok(()) => format!("the damaged file is now {}", aside.display()),
        Err(fault) => fault.to_string(),
    }
}

/// The peers, and the numbers of the lines that are none: at most so many that they can be told.
pub(super) fn parse_known_peers(bytes: &[u8]) -> (Vec<KnownPeer>, Vec<usize>) {
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
        text => Some(Address::on_this_host(text).ok()?),
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
    let mut text = format!("{KNOWN_PEERS_TITLE}\n");
    for peer in peers {
        let line = known_peer_line(peer);
        // Writing to a String can't fail.
        let _ = writeln!(text, "{line} {}", line_checksum(&line));
    }
    let path = folder.join(KNOWN_PEERS);
    durable::replace(&path, text.as_bytes()).map_err(|why| unusable(&path, why))
}

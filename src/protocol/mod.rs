//! The rules of the network, pure: no sockets, files, threads, locks, clocks, entropy or logging.
//! Time and randomness are arguments; what is to be done comes back as values.
//!
//! Reading order: the limits below, `identity` and `address` (names), `entries`, `head` and
//! `record` (what a node owns), `crypto` and `verified` (what is proved), `wire` (bytes), `verdict`
//! (answers), `pace`, `whereabouts`, `floor`, `link`, `doubt`, `flight`, `peer` and `peers`
//! (what is known of others), `node` (the rules).

pub mod address;
mod changes;
mod convert;
pub mod crypto;
pub mod doubt;
pub mod entries;
pub mod errand;
pub mod fault;
pub mod flight;
pub mod floor;
pub mod hash;
pub mod head;
pub mod identity;
pub mod lease;
pub mod link;
pub mod node;
pub mod owed;
pub mod pace;
pub mod peer;
pub mod peers;
pub mod record;
pub mod report;
pub mod rings;
pub mod verdict;
pub mod verified;
pub mod view;
pub mod whereabouts;
pub mod wire;

/// The one protocol version that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest node id, bytes. It becomes a file name, and 64 fits in every file system.
pub const NODE_ID_BYTES_MAX: usize = 64;
/// Longest key, bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// What an entry costs on the wire beside key and value: two lengths of 8 bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 16;
/// Largest state of a node, bytes: keys, values and the overhead of each entry.
pub const STATE_BYTES_MAX: usize = 1024 * 1024;
/// Most keys of a node: what a small host can hash and compare in a few milliseconds.
pub const KEYS_MAX: usize = 16 * 1024;
/// Largest DATA message, bytes.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
/// Most nodes that a node knows beside itself.
pub const PEERS_MAX: usize = 1024;
/// Longest address, bytes: a DNS name has at most 253, a port five and a colon.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// Largest body of a request or an answer, bytes: one full state or DATA, and room for the rest.
pub const BODY_BYTES_MAX: usize = STATE_BYTES_MAX + 64 * 1024;
/// Most messages that wait in the inbox.
pub const INBOX_MESSAGES_MAX: usize = 256;
/// Most bytes that wait in the inbox: a small host must be able to hold them in memory.
pub const INBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the state of a lost node is kept, and how long a node stays forgotten, ms: a week.
pub const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Most bootstrap addresses.
pub const SEEDS_MAX: usize = 64;
/// Largest timestamp, microseconds since 1970 (year 2255): every JSON reader holds it exactly.
pub const TIMESTAMP_MAX: u64 = (1 << 53) - 1;

const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= STATE_BYTES_MAX);
const _: () = assert!(DATA_BYTES_MAX + 4096 <= BODY_BYTES_MAX);
const _: () = assert!(DATA_BYTES_MAX <= INBOX_BYTES_MAX);

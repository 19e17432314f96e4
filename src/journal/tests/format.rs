//! What is a frame of a file, and what is none.

use std::collections::BTreeMap;

use super::*;
use crate::protocol::hash::Sha256;
use crate::protocol::{KEYS_MAX, VALUE_BYTES_MAX};
use frame::{FORMAT, FRAMES_AT};

const FILE: FileId = FileId([7; 16]);

/// A frame behind which all is on disk.
fn encode_frame(file: FileId, start: usize, payload: &[u8], bytes: &mut Vec<u8>) {
    frame::encode_frame(file, (start, start + bytes.len()), payload, bytes);
}

/// A payload of these entries as they are, whatever rule they break.
fn payload(kind: u8, timestamp: u64, left: u8, entries: &[&[u8]]) -> Vec<u8> {
    let count = u32::try_from(entries.len()).unwrap();
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&timestamp.to_le_bytes());
    bytes.push(left);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend(entries.iter().flat_map(|entry| entry.iter()));
    bytes
}

fn entry(key: &str, value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = u16::try_from(key.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(u8::from(value.is_some()));
    if let Some(value) = value {
        bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// A file with the state `first` at timestamp 10, and frames of these payloads.
fn file_of(payloads: &[Vec<u8>]) -> Vec<u8> {
    let entries = Entries::from([(key("first"), value(b"1"))]);
    let mut bytes = frame::encode_file(FILE, (&entries, &Terms::new()), 10, false);
    for payload in payloads {
        encode_frame(FILE, 0, payload, &mut bytes);
    }
    bytes
}

fn replayed(bytes: &[u8]) -> (Loaded, Condition) {
    let Replay { loaded, condition, .. } = replay(bytes).unwrap();
    (loaded, condition)
}

fn keys(loaded: &Loaded) -> Vec<&str> {
    loaded.entries.iter().map(|(key, _)| key.as_str()).collect()
}

/// The bytes as the head of `journal/mod.rs` describes them.
#[test]
fn the_format_is_as_documented() {
    let sum = |of: u8, at: u64, parts: &[&[u8]]| {
        let hash = Sha256::new(&[of]).chain(&FILE.0).chain(&at.to_le_bytes());
        parts.iter().fold(hash, |hash, part| hash.chain(part)).finish()[..16].to_vec()
    };
    let head = |at| {
        let (magic, format) = (b"dsn journal\n", 1u32.to_le_bytes());
        [&magic[..], &format, &FILE.0, &sum(1, at, &[magic, &format])].concat()
    };
    let frame = |at: u64, synced: u64, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let synced = synced.to_le_bytes();
        let of_payload = sum(3, at, &[&length, payload]);
        let of_head = sum(2, at, &[&length, &synced, &of_payload]);
        [b"dsnJ", &length[..], &synced, &of_payload, &of_head, payload].concat()
    };
    let first = payload(1, 10, 0, &[&entry("first", Some(b"1"))]);
    // A time stands between the flag and the length.
    let mut expires = entry("second", Some(b"22"));
    let flag = expires.len() - 2 - 4 - 1;
    expires.splice(flag..=flag, [2].into_iter().chain(30_000_u32.to_le_bytes()));
    let second = payload(2, 11, 1, &[&entry("first", None), &expires]);
    let mut file = head(0);
    file.resize(4096, 0);
    file.extend(head(4096));
    for (payload, synced) in [(first, 0), (second, 4200)] {
        let at = file.len() as u64;
        file.extend(frame(at, synced, &payload));
    }
    let mut written = file_of(&[]);
    let change = Change::from([(key("first"), None), (key("second"), Some(value(b"22")))]);
    let ttl = Ttl::from_ms(30_000).unwrap();
    let commit = Commit { change: &change, ttl: Some(ttl), timestamp: 11, left: true };
    let at = written.len();
    let mut added = Vec::new();
    frame::encode_change(FILE, (at, 4200), &commit, &mut added);
    written.extend(added);
    assert_eq!(written, file);
    let (loaded, condition) = replayed(&file);
    assert_eq!((loaded.timestamp, loaded.left, condition), (11, true, Condition::Whole));
    assert_eq!(loaded.entries, Entries::from([(key("second"), value(b"22"))]));
    assert_eq!(loaded.terms, Terms::from([(key("second"), ttl)]));
    // The limits hold for what is read, too.
    let damaged = |ms: u32| {
        let mut entry = expires.clone();
        entry[flag + 1..flag + 5].copy_from_slice(&ms.to_le_bytes());
        replayed(&file_of(&[payload(2, 11, 0, &[&entry])])).1
    };
    assert_eq!([999, 1_000].map(damaged), [Condition::Damaged, Condition::Whole]);
}

/// Somebody keeps copies of journals as values: of another one, with a frame at the very place
/// where it stood in it, and of this one, with its very id. Whatever bit is lost, nothing of them
/// is taken.
#[test]
fn a_frame_inside_a_value_never_becomes_own_state() {
    let foreign = |file: FileId, at: usize| {
        let mut bytes = Vec::new();
        let payload = payload(2, TIMESTAMP_MAX, 0, &[&entry("foreign", Some(b"1"))]);
        encode_frame(file, at, &payload, &mut bytes);
        bytes
    };
    // Where the value begins: behind the heads of frame and payload, the key and its length.
    let at = file_of(&[]).len() + 48 + 14 + entry("copy", Some(b"")).len();
    for inner in [foreign(FileId([8; 16]), at), foreign(FILE, FRAMES_AT), foreign(FILE, at + 1)] {
        let own = payload(2, 11, 0, &[&entry("copy", Some(&inner))]);
        let good = file_of(&[own, payload(2, 12, 0, &[&entry("own", Some(b"1"))])]);
        assert_eq!(good[at..at + inner.len()], inner, "it stands where it should");
        for byte in 0..good.len() {
            let mut bytes = good.clone();
            bytes[byte] ^= 1;
            let (loaded, _) = replayed(&bytes);
            assert!(loaded.entries.get("foreign").is_none(), "byte {byte}");
            assert!(loaded.timestamp <= 12, "byte {byte}: {}", loaded.timestamp);
        }
    }
}

/// A copy of the whole file in itself, and what is left is what was there.
#[test]
fn a_journal_that_holds_a_copy_of_itself_loses_the_damaged_frame_alone() {
    let (mut journal, _) = reopen(FakeDisk::default());
    write(&mut journal, &[change("old", Some("1"))], 10);
    let copy = Value::new(journal.disk.bytes(&path())).unwrap();
    let changes =
        [change("old", None), Change::from([(key("copy"), Some(copy))]), change("own", Some("1"))];
    let mut entries = Entries::from([(key("old"), value(b"1"))]);
    for (change, timestamp) in changes.iter().zip(11..) {
        apply_change(&mut entries, change);
        journal.append(&[Commit { change, ttl: None, timestamp, left: false }], &entries).unwrap();
    }
    let mut bytes = journal.disk.bytes(&path()).to_vec();
    let magic = (0..bytes.len() - 3).filter(|at| &bytes[*at..at + 4] == b"dsnJ").nth(2).unwrap();
    bytes[magic] ^= 1;
    let (loaded, condition) = replayed(&bytes);
    assert_eq!((keys(&loaded), loaded.timestamp), (vec!["own"], 13));
    assert_eq!(condition, Condition::Damaged);
}

/// Each of these breaks a rule: it is damage, and nothing of it is taken.
#[test]
fn a_frame_that_breaks_a_rule_is_not_taken() {
    let (a, b, removed) = (entry("a", Some(b"1")), entry("b", Some(b"1")), entry("first", None));
    let with = |at: usize, byte: u8| {
        let mut bytes = a.clone();
        bytes[at] = byte;
        bytes
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    let counting = |count: u8| {
        let mut bytes = payload(2, 11, 0, &[&a]);
        bytes[10] = count;
        bytes
    };
    let rows: [(&str, Vec<u8>); 20] = [
        ("no timestamp", payload(2, 0, 0, &[&a])),
        ("the timestamp of the one before", payload(2, 10, 0, &[&a])),
        ("a lower timestamp", payload(2, 9, 0, &[&a])),
        ("a timestamp behind the last one", payload(2, TIMESTAMP_MAX + 1, 0, &[&a])),
        ("a timestamp at the end of time", payload(2, u64::MAX, 0, &[&a])),
        ("another kind", payload(3, 11, 0, &[&a])),
        ("no kind", payload(0, 11, 0, &[&a])),
        ("another flag", payload(2, 11, 2, &[&a])),
        ("another flag of an entry", payload(2, 11, 0, &[&with(3, 2)])),
        ("keys that fall", payload(2, 11, 0, &[&b, &a])),
        ("a key twice", payload(2, 11, 0, &[&a, &a])),
        ("a snapshot that removes", payload(1, 11, 0, &[&a, &removed])),
        ("a key of no bytes", payload(2, 11, 0, &[&entry("", Some(b"1"))])),
        ("a key that is none", payload(2, 11, 0, &[&entry("a=b", Some(b"1"))])),
        ("a key that is no text", payload(2, 11, 0, &[&with(2, 0xff)])),
        ("a value too long", payload(2, 11, 0, &[&entry("a", Some(&[0; VALUE_BYTES_MAX + 1]))])),
        ("fewer entries than counted", counting(2)),
        ("more entries than counted", counting(0)),
        ("an entry cut short", cut(payload(2, 11, 0, &[&a]))),
        ("nothing", Vec::new()),
    ];
    for (what, payload_of_it) in rows {
        // In the middle, and at the end: that was not cut off.
        for next in [vec![payload(2, 20, 0, &[&entry("next", Some(b"1"))])], vec![]] {
            let bytes = file_of(&[std::slice::from_ref(&payload_of_it), &next[..]].concat());
            let (loaded, condition) = replayed(&bytes);
            assert_eq!(condition, Condition::Damaged, "{what}");
            let expected = if next.is_empty() { vec!["first"] } else { vec!["first", "next"] };
            assert_eq!(keys(&loaded), expected, "{what}");
        }
    }
    let good = payload(2, TIMESTAMP_MAX, 1, &[&a, &b, &removed]);
    let (loaded, condition) = replayed(&file_of(&[good]));
    assert_eq!((keys(&loaded), condition), (vec!["a", "b"], Condition::Whole));
    assert_eq!((loaded.timestamp, loaded.left), (TIMESTAMP_MAX, true));
}

/// A state never has more than the limits allow, whatever frames say and whichever are lost.
#[test]
fn the_limits_of_a_state_hold_after_each_frame() {
    let keys_of = |range: std::ops::Range<usize>, value: Option<&[u8]>| {
        let entries: BTreeMap<String, Vec<u8>> =
            range.map(|n| (format!("k{n:05}"), entry(&format!("k{n:05}"), value))).collect();
        entries.into_values().collect::<Vec<_>>()
    };
    let of = |kind: u8, timestamp: u64, entries: &[Vec<u8>]| {
        let entries: Vec<&[u8]> = entries.iter().map(|entry| &**entry).collect();
        payload(kind, timestamp, 0, &entries)
    };
    let all = of(1, 11, &keys_of(0..KEYS_MAX, Some(b"")));
    // As many keys as there may be; then one more, one for another, one over another.
    let more = of(2, 12, &[entry("new", Some(b"")), entry("new2", Some(b""))]);
    let instead = of(2, 13, &[entry("k00007", None), entry("new", Some(b""))]);
    let over = of(2, 14, &[entry("k00008", Some(b"x"))]);
    let (loaded, condition) = replayed(&file_of(&[all.clone(), more, instead, over]));
    assert_eq!((loaded.entries.len(), loaded.timestamp), (KEYS_MAX, 14));
    assert!(loaded.entries.get("new2").is_none() && loaded.entries.get("new").is_some());
    assert_eq!(condition, Condition::Damaged);
    // The same of bytes: 15 values of the largest kind are less than 1 MiB, 16 with keys are more.
    let large = |n: usize| entry(&format!("v{n:02}"), Some(&[0; VALUE_BYTES_MAX]));
    let fifteen: Vec<Vec<u8>> = (0..15).map(large).collect();
    let rest = STATE_BYTES_MAX - 15 * (3 + 16 + VALUE_BYTES_MAX);
    let fits = entry("w", Some(&vec![0; rest - 17]));
    let does_not = entry("w", Some(&vec![0; rest - 16]));
    let frames =
        [of(1, 11, &fifteen), of(2, 12, std::slice::from_ref(&does_not)), of(2, 13, &[fits])];
    let (loaded, condition) = replayed(&file_of(&frames));
    assert_eq!((loaded.entries.bytes(), condition), (STATE_BYTES_MAX, Condition::Damaged));
    // What is set anew, or removed, makes room.
    let large_again = entry("v07", Some(&[1; VALUE_BYTES_MAX]));
    let small = entry("v08", Some(b"x"));
    let removed = entry("v09", None);
    let rows = [of(1, 11, &fifteen), of(2, 12, &[large_again, small]), of(2, 13, &[removed])];
    let again = of(2, 14, &[large(8), large(9)]);
    let (loaded, condition) = replayed(&file_of(&[&rows[..], &[again]].concat()));
    assert_eq!((loaded.entries.len(), loaded.timestamp, condition), (15, 14, Condition::Whole));
    // Nor does a snapshot, which is counted for itself.
    let too_many = of(1, 12, &keys_of(0..KEYS_MAX + 1, Some(b"")));
    let snapshot = of(1, 13, &keys_of(5..KEYS_MAX, Some(b"")));
    let (loaded, _) = replayed(&file_of(&[all, too_many, snapshot]));
    assert_eq!((loaded.entries.len(), loaded.timestamp), (KEYS_MAX - 5, 13));
    let sixteen = [&fifteen[..], &[does_not]].concat();
    assert_eq!(replayed(&file_of(&[of(1, 11, &sixteen)])).0.timestamp, 10);
}

/// What this program does not know is not damaged: it is left as it is.
#[test]
fn a_file_of_another_format_is_named_and_stays() {
    let mut other = file_of(&[]);
    for at in [0, 4096] {
        let format = (FORMAT + 1).to_le_bytes();
        let sum = Sha256::new(&[1]).chain(&FILE.0).chain(&(at as u64).to_le_bytes());
        let sum = sum.chain(b"dsn journal\n").chain(&format).finish();
        other[at + 12..at + 16].copy_from_slice(&format);
        other[at + 32..at + 48].copy_from_slice(&sum[..16]);
    }
    let fault = Journal::open_on(FakeDisk::with_file(&path(), &other), Path::new(FOLDER), true)
        .unwrap_err();
    let text = fault.to_string();
    assert!(text.contains("format 2") && text.contains("state.journal"), "{text}");
}

/// Reading a file hashes a few bytes for each of its own, whatever stands in it: values full of
/// heads of frames that announce a lot, also ones that only who knows the file could make.
#[test]
fn reading_is_linear_in_the_file() {
    let length = 300_000u32;
    let fake = |_: usize| [b"dsnJ", &length.to_le_bytes()[..], &[0; 8], &[7; 32]].concat();
    let announced = vec![0; length as usize];
    let real = |at: usize| {
        let mut bytes = Vec::new();
        encode_frame(FILE, at, &announced, &mut bytes);
        bytes[..48].to_vec()
    };
    let packed = |_: usize| [b"dsnJ", &[0; 12][..]].concat();
    type Head<'a> = &'a dyn Fn(usize) -> Vec<u8>;
    let heads: [(&str, usize, Head<'_>); 3] =
        [("fake", 48, &fake), ("packed", 16, &packed), ("real", 8000, &real)];
    for (what, every, head) in heads {
        let mut at = file_of(&[]).len() + 48 + 14;
        let mut entries = Vec::new();
        for n in 0..15 {
            let name = format!("v{n:02}");
            let value_at = at + entry(&name, Some(b"")).len();
            let mut bytes: Vec<u8> = (0..64_000 / every)
                .flat_map(|n| {
                    let mut bytes = head(value_at + n * every);
                    bytes.resize(every, 0);
                    bytes
                })
                .collect();
            bytes.resize(64_000, 0);
            entries.push(entry(&name, Some(&bytes)));
            at += entries[n].len();
        }
        let entries: Vec<&[u8]> = entries.iter().map(|entry| &**entry).collect();
        let mut bytes = file_of(&[payload(2, 11, 0, &entries)]);
        // The frame around it loses its magic: all that is inside is looked at.
        let outer = file_of(&[]).len();
        bytes[outer] ^= 1;
        HASHED.set(0);
        let (loaded, condition) = replayed(&bytes);
        let hashed = HASHED.get();
        assert_eq!(loaded.timestamp, 10, "{what}");
        // Only a head of this file shows that what stands before it was on disk.
        assert_eq!(condition == Condition::Damaged, what == "real", "{what}: {condition:?}");
        assert!(hashed <= 6 * bytes.len(), "{what}: {hashed} bytes of {}", bytes.len());
        assert!(hashed > bytes.len() / 20, "{what}: {hashed}: it looked at them");
    }
}

/// What the fuzzer begins with is of this format. `DSN_GOLDEN_WRITE=1` makes it anew.
#[test]
fn the_corpus_of_the_fuzzer_is_of_this_format() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/journal");
    let (a, removed) = (entry("a", Some(b"1")), entry("first", None));
    let payloads = [
        payload(2, 11, 0, &[&a, &removed]),
        payload(2, 12, 1, &[&entry("k", Some(&[b'x'; 300]))]),
        payload(1, 13, 0, &[&a, &entry("b", Some(b""))]),
    ];
    let expiring = |ttl_ms: u32| {
        let mut bytes = entry("t", Some(b"1"));
        // Flag 2, and the time before the value.
        bytes[3] = 2;
        bytes.splice(4..4, ttl_ms.to_le_bytes());
        bytes
    };
    let expire =
        [payload(2, 11, 0, &[&a, &expiring(30_000)]), payload(1, 12, 0, &[&expiring(1_000)])];
    let file = file_of(&payloads);
    let mut damaged = file.clone();
    damaged[file_of(&[]).len() + 50] ^= 1;
    let torn = file[..file.len() - 3].to_vec();
    let inputs = [
        ("file", file, Some(Condition::Whole)),
        ("file-torn", torn, Some(Condition::Torn { at: file_of(&payloads[..2]).len() })),
        ("file-damaged", damaged, Some(Condition::Damaged)),
        // As journal/fuzzing.rs takes them apart.
        ("payloads", payloads.join(&b"\xffnext"[..]), None),
        ("payloads-that-expire", expire.join(&b"\xffnext"[..]), None),
        ("payload-with-a-time-too-short", payload(2, 11, 0, &[&expiring(999)]), None),
    ];
    for (name, bytes, condition) in &inputs {
        let path = folder.join(name);
        if std::env::var_os("DSN_GOLDEN_WRITE").is_some() {
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(&std::fs::read(&path).unwrap(), bytes, "{name}");
        let found = condition.map(|_| replayed(bytes).1);
        assert_eq!(found, *condition, "{name}");
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), inputs.len());
}

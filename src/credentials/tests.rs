//! Keys on disk, and what disks and people do to them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::files::{presence_within, settled};
use super::peers::{KNOWN_PEERS, KNOWN_PEERS_TITLE, parse_known_peers};
use super::*;
use crate::patience::Patience;
use crate::protocol::address::Address;
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::peer::{Known, KnownPeer, Pin, Trust};

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
    assert!(matches!(load_network_key(&path), Err(CredentialsError::NoFile(_))));
}

fn with_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What others can read for no reason, or could change, is refused; what a group reads by intent is
/// taken, and named.
#[test]
fn a_secret_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    create_network_key(&path).unwrap();
    for (mode, word) in
        [(0o644, "read it"), (0o755, "read it"), (0o660, "change"), (0o622, "change")]
    {
        with_mode(&path, mode);
        let message = load_network_key(&path).unwrap_err().to_string();
        assert!(message.contains("chmod 600") && message.contains(word), "{mode:o}: {message}");
    }
    for mode in [0o640, 0o440] {
        with_mode(&path, mode);
        load_network_key(&path).unwrap();
        let notice = who_else_reads(&path).unwrap().unwrap();
        assert!(notice.text.contains("group") && notice.text.contains(&format!("{mode:04o}")));
    }
    for mode in [0o600, 0o400, 0o700] {
        with_mode(&path, mode);
        assert_eq!(who_else_reads(&path).unwrap(), None, "{mode:o}");
    }
}

/// Nobody is told to change the rights of a folder of the system.
#[test]
fn what_is_no_file_is_never_a_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let null = Path::new("/dev/null");
    for (path, what) in [(folder.path(), "a folder"), (&pipe, "a pipe"), (null, "a device")] {
        let faults = [
            load_network_key(path).map(drop),
            create_network_key(path).map(drop),
            load_allow_list(path).map(drop),
            presence(path).map(drop),
        ];
        for fault in faults {
            let said = fault.unwrap_err().to_string();
            assert!(said.contains(what) && !said.contains("chmod"), "{said}");
            assert!(!said.contains("move that one away"), "{said}");
        }
    }
}

/// Editors add marks and ends of lines of their own; what is in another encoding is named.
#[test]
fn a_file_that_an_editor_saved_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    let good = "ab".repeat(32);
    write(&path, &format!("\u{feff}{good}\r\n"));
    assert_eq!(load_network_key(&path).unwrap().len(), 1);
    let marked = format!("\u{feff}{good}");
    assert_eq!(parse_network_key(&path, &marked).unwrap().len(), 1);
    create_pkcs8(folder.path()).unwrap();
    let own = std::fs::read_to_string(folder.path().join(NODE_KEY)).unwrap();
    write(&folder.path().join(NODE_KEY), &format!("\u{feff}{}", own.replace('\n', "\r\n")));
    load_pkcs8(folder.path()).unwrap();
    write(&path, &format!("\u{feff}garden {}\n", "04".repeat(65)));
    assert_eq!(load_allow_list(&path).unwrap().len(), 1);
    let wide: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(&path, wide).unwrap();
    let said = load_network_key(&path).unwrap_err().to_string();
    assert!(said.contains("UTF-16"), "{said}");
}

/// An empty file of peers is not the file of a node that met nobody: that has a title.
#[test]
fn known_peers_that_are_empty_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(KNOWN_PEERS), "").unwrap();
    let (peers, notices) = load_known_peers(folder.path()).unwrap();
    assert!(peers.is_empty() && notices[0].text.contains("is empty"), "{notices:?}");
    assert_eq!(notices[0].code, crate::protocol::fault::Code::PeersDamaged);
    assert_eq!(load_known_peers(folder.path()).unwrap(), (vec![], vec![]), "mended");
}

#[test]
fn a_file_that_holds_nothing_is_told_from_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    assert_eq!(presence(&path).unwrap(), Presence::Missing);
    for (text, expected) in
        [("", Presence::Empty), ("\0\0\0", Presence::Empty), ("# x\n", Presence::Present)]
    {
        write(&path, text);
        assert_eq!(presence(&path).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn a_key_pair_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("n");
    create_pkcs8(&place).unwrap();
    let first = load_pkcs8(&place).unwrap();
    assert!(matches!(create_pkcs8(&place), Err(CredentialsError::AlreadyExists { .. })));
    assert_eq!(*load_pkcs8(&place).unwrap(), *first);
    assert!(PrivateKey::from_pkcs8(&first).is_ok());
    assert_eq!(mode(&place.join(NODE_KEY)), 0o600);
    write(&place.join(NODE_KEY), "nonsense\n");
    assert!(matches!(load_pkcs8(&place), Err(CredentialsError::BadLine { .. })));
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
    let peers =
        [peer("a", Trust::Direct, Some("[::1]:80")), peer("b", Trust::Hearsay, None), forgotten];
    assert_eq!(load_known_peers(folder.path()).unwrap(), (vec![], vec![]));
    save_known_peers(folder.path(), &peers).unwrap();
    assert_eq!(load_known_peers(folder.path()).unwrap(), (peers.to_vec(), vec![]));
    let path = folder.path().join(KNOWN_PEERS);
    let text = std::fs::read_to_string(&path).unwrap();
    let damaged = [b"\xff\x00 x\n../x y direct -\n", text.as_bytes()].concat();
    std::fs::write(&path, &damaged).unwrap();
    let (loaded, warnings) = load_known_peers(folder.path()).unwrap();
    assert_eq!((loaded, warnings.len()), (peers.to_vec(), 2));
    assert!(warnings[0].text.contains("(line 1, 2)"), "{warnings:?}");
    assert!(warnings[1].text.contains("known_peers.damaged-1"), "{warnings:?}");
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
    create_pkcs8(folder.path()).unwrap();
    let good = load_pkcs8(folder.path()).unwrap();
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
            match load_pkcs8(folder.path()) {
                Ok(key) => assert!(*key == *good || PrivateKey::from_pkcs8(&key).is_err()),
                Err(fault) => assert!(fault.to_string().contains("node.key"), "{fault}"),
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "it stays as it is");
        }
    }
}

/// Of two keys nobody knows which was meant; the same line twice says one thing.
#[test]
fn a_node_that_is_allowed_with_two_keys_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("allowed");
    let key = |name: &str| {
        let place = folder.path().join(name);
        create_pkcs8(&place).unwrap();
        let pkcs8 = load_pkcs8(&place).unwrap();
        PrivateKey::from_pkcs8(&pkcs8).unwrap().public_key().to_hex()
    };
    let (one, other) = (key("one"), key("other"));
    std::fs::write(&path, format!("a {one}\nb {other}\na {one}\n")).unwrap();
    assert_eq!(load_allow_list(&path).unwrap().len(), 2);
    std::fs::write(&path, format!("a {one}\n\na {other}\n")).unwrap();
    let said = load_allow_list(&path).unwrap_err().to_string();
    assert!(said.contains("line 3 has another key for a node of a line above"), "{said}");
}

/// Else the one would go on with a key that the other takes away.
#[test]
fn a_key_file_of_a_start_that_may_still_fail_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/network.key");
    let short = Duration::from_millis(50);
    for fails in [true, false] {
        let made = create_network_key(&path).unwrap();
        let said = presence_within(&path, short).unwrap_err();
        assert!(matches!(said, CredentialsError::Locked { .. }) && !said.is_usage(), "{said}");
        let said = said.to_string();
        assert!(said.contains(&format!("`fuser {}`", path.display())), "{said}");
        assert!(said.contains("by another process for 0 s") && !said.contains("disk"), "{said}");
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| presence(&path).unwrap());
            std::thread::park_timeout(short);
            assert!(!looks.is_finished());
            if fails {
                made.undo()
            } else {
                drop(made)
            }
            let found = if fails { Presence::Missing } else { Presence::Present };
            assert_eq!(looks.join().unwrap(), found);
        });
        assert_eq!(folder.path().join("new").exists(), !fails);
    }
    // What an operator put there meanwhile is his.
    std::fs::remove_file(&path).unwrap();
    let made = create_network_key(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(&path, &"ab".repeat(32));
    made.undo();
    assert_eq!(presence(&path).unwrap(), Presence::Present);
}

/// One place has the words for what is named and no file of ours.
#[test]
fn what_is_no_key_file_is_told_as_any_other_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("long");
    write(&long, &"#".repeat(16 * 1024 + 1));
    for path in [folder.path(), &long] {
        let fault = named::read(path, 16 * 1024, named::Kind::File).unwrap_err();
        let told = load_network_key(path).unwrap_err();
        assert_eq!(told.to_string(), fault.with("name another file").to_string());
        assert!(told.is_usage() && fault.is_usage());
    }
}

/// A secret that is not mounted yet is the likely one; nothing can be made at its name.
#[test]
fn a_key_file_that_is_a_link_to_nothing_is_named_with_what_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let (link, by) = (folder.path().join("k"), folder.path().join("by"));
    std::os::unix::fs::symlink("by", &link).unwrap();
    std::os::unix::fs::symlink("/nowhere/secret", &by).unwrap();
    let fault = presence(&link).unwrap_err();
    // It may come later, so whoever looks after the node may try again.
    assert!(!fault.is_usage(), "{fault}");
    let said = fault.to_string();
    let named = format!("{} is a link to /nowhere/secret, and nothing", link.display());
    assert!(said.starts_with(&named) && said.contains("mount it first"), "{said}");
    let said = load_network_key(&link).unwrap_err().to_string();
    assert!(said.contains("is a link to /nowhere/secret, where nothing is: mount"), "{said}");
    std::fs::remove_file(&by).unwrap();
    write(&by, &"ab".repeat(32));
    assert_eq!(presence(&link).unwrap(), Presence::Present);
}

/// Some file systems give a file another number each time it is looked at.
#[test]
fn a_key_file_that_is_always_another_one_is_waited_for_with_pauses_and_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    write(&path, &"ab".repeat(32));
    let looks = std::cell::Cell::new(0);
    let is_there = |_: &Path, _: &File| {
        looks.set(looks.get() + 1);
        // So that the test ends without what it is for.
        looks.get() > 1_000
    };
    let waits = Patience::new(Duration::from_millis(50));
    let fault = settled(&path, &waits, is_there).unwrap_err();
    assert!(matches!(fault, CredentialsError::Unsettled { .. }) && !fault.is_usage(), "{fault}");
    assert!(looks.get() <= 4, "{}", looks.get());
    let fault = pause_before_another(&Patience::new(Duration::ZERO), &path).unwrap_err();
    assert!(fault.to_string().contains("another file at each look"), "{fault}");
}

//! The rules of the house that no compiler checks: who may use what, and how things are written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this ending, as path from the root and text.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
            if path.is_dir() && !hidden && !path.ends_with("target") {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push((name_of(&path), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "there are {ending} files in {folder}");
    found.sort();
    found
}

fn name_of(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// A source without its tests: what comes before `#[cfg(test)]`.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

fn is_under(name: &str, places: &[&str]) -> bool {
    places.iter().any(|place| {
        name == format!("src/{place}.rs") || name.starts_with(&format!("src/{place}/"))
    })
}

/// Each third-party crate is used in its own file, so each can be replaced in one place.
#[test]
fn each_crate_has_its_room() {
    let rooms: [(&str, &[&str]); 18] = [
        ("tiny_http::", &["server"]),
        ("ureq::", &["client"]),
        ("bincode::", &["protocol/wire"]),
        ("aes::", &["keystream"]),
        ("ctr::", &["keystream"]),
        ("dsn_keystream::", &["protocol/crypto"]),
        // Entropy and making keys are not for the pure core; the journal sums up what it writes.
        ("ring::", &["protocol/crypto", "credentials", "driver", "runtime", "journal"]),
        ("socket2::", &["server"]),
        ("httparse::", &["server"]),
        ("serde::", &["config", "control"]),
        ("serde_json::", &["control", "cli"]),
        ("toml::", &["config"]),
        ("clap::", &["config", "cli"]),
        ("humantime::", &["config", "cli"]),
        ("base64::", &["control"]),
        ("signal_hook::", &["cli"]),
        ("env_logger::", &["cli"]),
        ("fastrand::", &["protocol/node"]),
    ];
    for (name, text) in files("src", ".rs") {
        for (krate, places) in rooms {
            let used = text.lines().any(|line| {
                let at = line.find(krate);
                at.is_some_and(|at| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                })
            });
            assert!(
                !used || is_under(&name, places),
                "{name} uses {krate}, its room is {places:?}"
            );
        }
    }
}

/// Dependencies point one way (docs/architecture.md).
#[test]
fn modules_use_only_what_they_may() {
    let arrows: [(&str, &[&str]); 10] = [
        ("protocol", &["protocol"]),
        ("server", &["server"]),
        ("client", &["client"]),
        ("durable", &["durable"]),
        ("events", &["protocol", "events"]),
        ("journal", &["protocol", "durable", "journal"]),
        ("credentials", &["protocol", "durable", "credentials"]),
        ("config", &["protocol", "config"]),
        ("control", &["protocol", "events", "control"]),
        ("driver", &["protocol", "events", "client", "server", "driver"]),
    ];
    for (name, text) in files("src", ".rs") {
        for (module, may) in arrows {
            if !is_under(&name, &[module]) {
                continue;
            }
            for used in text.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = used.is_empty() || may.contains(&used.as_str());
                assert!(known, "{name} uses crate::{used}, may use {may:?}");
            }
        }
    }
}

/// The core has no world: time and randomness are arguments, bytes come and go as values.
#[test]
fn the_core_is_pure() {
    let banned = [
        "std::fs",
        "std::io",
        "std::thread",
        "std::process",
        "std::env",
        "Instant",
        "SystemTime",
        "Mutex",
        "RwLock",
        "log::",
        "println!",
        "TcpStream",
        "UdpSocket",
        "crossbeam",
    ];
    let core = files("src/protocol", ".rs").into_iter().chain(files("src/keystream", ".rs"));
    for (name, text) in core {
        for word in banned {
            assert!(!without_tests(&text).contains(word), "{name} uses {word}");
        }
    }
}

/// The one mutex of the state is the driver's; the others guard handles of threads and sockets.
#[test]
fn mutexes_are_few() {
    for (name, text) in files("src", ".rs") {
        let may = is_under(&name, &["driver", "runtime", "server", "control"]);
        assert!(may || !text.contains("Mutex<"), "{name} has a mutex");
    }
}

/// A thread without a name and an end, and a queue without a bound, are bugs that wait.
#[test]
fn threads_have_names_and_queues_have_bounds() {
    for (name, text) in files("src", ".rs") {
        let code = if name.ends_with("/tests.rs") { "" } else { without_tests(&text) };
        for word in ["thread::spawn(", "unbounded(", "mpsc::channel", "thread::sleep"] {
            assert!(!code.contains(word), "{name} uses {word}");
        }
    }
}

/// What is signed for is stated by the driver after it verified, and by nobody else.
#[test]
fn only_the_driver_says_that_a_request_is_authentic() {
    for (name, text) in files("src", ".rs") {
        let may = is_under(&name, &["driver"]);
        assert!(may || !without_tests(&text).contains("Authentic::new("), "{name}");
    }
}

#[test]
fn lines_and_files_are_short() {
    let code = ["src", "tests", "examples"].into_iter().flat_map(|folder| files(folder, ".rs"));
    for (name, text) in code {
        for (number, line) in text.lines().enumerate() {
            let length = line.chars().count();
            // A message to people is not broken in the middle of a line for the sake of a rule.
            let is_message = line.contains('"') || line.ends_with('\\');
            assert!(length <= 100 || is_message && length <= 140, "{name}:{}", number + 1);
        }
        let lines = without_tests(&text).lines().count();
        let most = if name.starts_with("src") { 600 } else { 900 };
        assert!(lines <= most, "{name} has {lines} lines without tests, the limit is {most}");
    }
}

#[test]
fn nothing_is_left_to_do() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "dbg".to_owned() + "!("];
    for folder in ["src", "tests", "examples", "scripts"] {
        for (name, text) in files(folder, "") {
            for word in &words {
                assert!(!text.contains(word.as_str()), "{name} has {word}");
            }
        }
    }
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    assert!(map.lines().count() <= 150, "the map fits on three screens");
    for (name, _) in files("src", ".rs") {
        let file = name.rsplit('/').next().unwrap();
        let known = file == "mod.rs" || map.contains(file);
        assert!(known, "docs/architecture.md does not name {name}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let cargo = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let section = |title: &str| cargo.split(title).nth(1).unwrap().split("\n[").next().unwrap();
    let all =
        ["[workspace.dependencies]\n", "[dependencies]\n", "[dev-dependencies]\n"].map(section);
    for line in all.iter().flat_map(|part| part.lines()) {
        if let Some((name, _)) = line.split_once(" = ") {
            assert!(reasons.contains(&format!("`{name}`")), "docs/dependencies.md lacks {name}");
        }
    }
}

#[test]
fn every_document_has_one_title() {
    for (name, text) in files("docs", ".md").into_iter().chain(files("", "README.md")) {
        let mut code = false;
        let titles = text.lines().filter(|line| {
            code ^= line.starts_with("```");
            !code && line.starts_with("# ")
        });
        assert_eq!(titles.count(), 1, "{name}");
    }
}

//! The rules of the house that no compiler checks: who may use what, and how things are written.

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
    let rooms: [(&str, &[&str]); 20] = [
        ("tiny_http::", &["server"]),
        ("ureq::", &["client"]),
        ("bincode::", &["protocol/wire"]),
        ("aes::", &["keystream"]),
        ("ctr::", &["keystream"]),
        ("dsn_keystream::", &["protocol/crypto"]),
        // Entropy and making keys are not for the pure core.
        (
            "ring::",
            &["protocol/crypto", "protocol/hash", "credentials", "driver", "runtime", "journal"],
        ),
        ("socket2::", &["server", "discovery"]),
        ("httparse::", &["server"]),
        ("serde::", &["control", "cli"]),
        ("ctor::", &["cli/streams"]),
        ("serde_json::", &["control", "cli", "web"]),
        ("subtle::", &["protocol/crypto", "web"]),
        ("toml::", &["cli"]),
        ("clap::", &["cli"]),
        ("humantime::", &["control", "cli"]),
        ("base64::", &["control", "steps"]),
        ("signal_hook::", &["cli"]),
        ("env_logger::", &["cli"]),
        ("fastrand::", &["protocol/node", "discovery/plan/tests"]),
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

/// The module that a source file is, from the root of the crate.
fn module_of(name: &str) -> Vec<String> {
    let path = name.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// All paths within the crate that a source names, from its root, `super::` and groups resolved.
/// What stands in comments does not count.
fn paths_in(module: &[String], text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let text = &text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    let starts = text.match_indices("crate::").chain(text.match_indices("super::"));
    for (at, word) in starts {
        let before = text[..at].chars().next_back();
        // In the middle of a chain: its start was seen, or the file would name a crate of that
        // name.
        if before.is_some_and(|c| c.is_alphanumeric() || "_$:".contains(c)) {
            continue;
        }
        let mut rest = &text[at..];
        let mut base = if word == "crate::" { Vec::new() } else { module.to_vec() };
        if let Some(after) = rest.strip_prefix("crate::") {
            rest = after;
        }
        while let Some(after) = rest.strip_prefix("super::") {
            base.pop().unwrap_or_else(|| panic!("{module:?} leaves the crate"));
            rest = after;
        }
        expand(&base, rest, &mut found);
    }
    found
}

/// The paths of a use tree, as far as names go.
fn expand(base: &[String], text: &str, found: &mut Vec<Vec<String>>) {
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    expand(base, group[start..at].trim(), found);
                    start = at + 1;
                    if character == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return;
    }
    let path: Vec<String> = base.iter().cloned().chain([name.clone()]).collect();
    match text[name.len()..].strip_prefix("::") {
        Some(rest) => expand(&path, rest, found),
        None => found.push(path),
    }
}

/// Sources of the library without their tests: what each is, and the paths that it names.
fn library() -> Vec<(String, Vec<String>, Vec<Vec<String>>)> {
    let is_test = |name: &str| name.contains("/tests/") || name.ends_with("/tests.rs");
    let is_library =
        |name: &str| !name.starts_with("src/cli/") && !name.starts_with("src/keystream");
    let all = files("src", ".rs").into_iter();
    all.filter(|(name, _)| is_library(name) && name != "src/main.rs" && !is_test(name))
        .map(|(name, text)| {
            let module = module_of(&name);
            let paths = paths_in(&module, without_tests(&text));
            (name, module, paths)
        })
        .collect()
}

#[test]
fn paths_are_resolved() {
    let module = module_of("src/protocol/node/hello.rs");
    let text = "use super::super::head::{Head, Version as V};\nuse crate::{journal::Journal, \
                events};\nlet x = super::{a::{b, c}, d}; mycrate::z();";
    let mut found: Vec<String> =
        paths_in(&module, text).iter().map(|path| path.join("::")).collect();
    found.sort();
    let expected = [
        "events",
        "journal::Journal",
        "protocol::head::Head",
        "protocol::head::Version",
        "protocol::node::a::b",
        "protocol::node::a::c",
        "protocol::node::d",
    ];
    assert_eq!(found, expected);
}

/// Dependencies point one way (docs/architecture.md).
#[test]
fn modules_use_only_what_they_may() {
    let arrows: [(&str, &[&str]); 22] = [
        ("zone", &[]),
        ("order", &[]),
        ("protocol", &["order"]),
        ("server", &["zone"]),
        ("client", &["zone"]),
        ("advice", &[]),
        ("named", &["advice", "patience"]),
        ("patience", &[]),
        ("durable", &["named"]),
        ("events", &["protocol"]),
        ("steps", &["protocol"]),
        ("config", &["protocol", "server"]),
        ("journal", &["protocol", "advice", "durable", "named"]),
        ("credentials", &["protocol", "advice", "durable", "named", "patience"]),
        ("keeper", &["protocol", "config", "journal"]),
        ("metrics", &["protocol"]),
        (
            "driver",
            &[
                "protocol",
                "events",
                "client",
                "server",
                "steps",
                "journal",
                "keeper",
                "credentials",
                "metrics",
            ],
        ),
        ("control", &["protocol", "advice", "config", "driver", "order"]),
        ("discovery", &["protocol", "driver", "order", "server"]),
        ("web", &["protocol", "config", "control", "driver", "metrics", "order", "server"]),
        (
            "runtime",
            &[
                "protocol",
                "advice",
                "client",
                "config",
                "control",
                "credentials",
                "discovery",
                "driver",
                "durable",
                "events",
                "journal",
                "keeper",
                "named",
                "order",
                "server",
                "web",
            ],
        ),
        // The crate itself names what it is made of.
        ("", &["config", "events", "protocol", "runtime", "server"]),
    ];
    for (name, module, paths) in library() {
        let top = module.first().map_or("", String::as_str);
        let rule = arrows.iter().find(|(module, _)| *module == top);
        let (_, may) = rule.unwrap_or_else(|| panic!("there is no rule for {name}"));
        for used in paths.iter().map(|path| path[0].as_str()) {
            assert!(used == top || may.contains(&used), "{name} uses {used}, may use {may:?}");
        }
    }
}

/// Neither rooms nor the rooms within a room use each other in a circle.
#[test]
fn there_are_no_circles() {
    use std::collections::{BTreeMap, BTreeSet};
    let mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    let sources = library();
    let modules: BTreeSet<&Vec<String>> = sources.iter().map(|(_, module, _)| module).collect();
    for (_, module, paths) in &sources {
        for path in paths {
            let common = module.iter().zip(path).take_while(|(one, other)| one == other).count();
            // A parent and its child are one thing; two children of one parent are not.
            let is_other = common < module.len().min(path.len());
            if is_other && modules.contains(&path[..=common].to_vec()) {
                graph
                    .entry(module[..=common].to_vec())
                    .or_default()
                    .insert(path[..=common].to_vec());
            }
        }
    }
    // Whatever uses only what is gone goes; what stays is in a circle.
    loop {
        let before = graph.len();
        let keys: BTreeSet<_> = graph.keys().cloned().collect();
        graph.retain(|_, uses| uses.iter().any(|used| keys.contains(used)));
        if graph.len() == before {
            break;
        }
    }
    assert!(graph.is_empty(), "in a circle, or used by one: {graph:#?}");
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
    let parts = [
        files("src/protocol", ".rs"),
        files("src/keystream", ".rs"),
        // What the gate decides.
        files("src/server", "queue.rs"),
        files("src/server", "limits.rs"),
        // What hooks run next.
        files("src/cli/hooks", "plan.rs"),
        // What is said and heard on the local network.
        files("src/discovery", "dns.rs"),
        files("src/discovery", "heard.rs"),
        files("src/discovery", "links.rs"),
        files("src/discovery", "plan.rs"),
    ];
    for (name, text) in parts.into_iter().flatten() {
        for word in banned {
            assert!(!without_tests(&text).contains(word), "{name} uses {word}");
        }
    }
}

/// The one mutex of the state is the driver's; the others guard handles of threads and sockets.
#[test]
fn mutexes_are_few() {
    for (name, text) in files("src", ".rs") {
        let may = is_under(&name, &["driver", "runtime", "server", "control", "client", "web"]);
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

/// That a signature fits is said by one type, and the answer comes from one place.
#[test]
fn signatures_are_checked_in_one_place() {
    for (name, text) in files("src", ".rs") {
        let code = if name.contains("/tests/") { "" } else { without_tests(&text) };
        let rules: [(&str, &[&str]); 4] = [
            ("impl Verifier for", &["protocol/crypto"]),
            (".verify(", &["protocol/crypto", "protocol/verified"]),
            ("Verified(", &["protocol/verified"]),
            ("Authentic {", &["protocol/verified"]),
        ];
        for (word, places) in rules {
            assert!(is_under(&name, places) || !code.contains(word), "{name} has {word}");
        }
    }
}

/// The standard library's sorts, and maps that are collected, which sorts first, are compiled anew
/// for each type and closure, 3 to 8 KB each time; `src/order.rs` has what is there once. As far as
/// a machine can see it.
#[test]
fn sorts_and_maps_are_made_in_one_place() {
    // They are hot, or they are the one place.
    let may: [(&str, &[&str]); 4] = [
        ("src/order.rs", &[".sort_by("]),
        ("src/protocol/entries/mod.rs", &["-> Change"]),
        ("src/protocol/entries/tree.rs", &[".sort_unstable_by_key(", ".sort_by_key("]),
        ("src/protocol/rings.rs", &[".sort_unstable_by_key("]),
    ];
    let words = [
        ".sort(",
        ".sort_by(",
        ".sort_by_key(",
        ".sort_by_cached_key(",
        ".sort_unstable(",
        ".sort_unstable_by(",
        ".sort_unstable_by_key(",
        "BTreeMap::from",
        "BTreeSet::from",
        "Change::from",
        "Map::from",
    ];
    let maps = ["BTreeMap<", "BTreeSet<", "Change", "Errands", "Map<"];
    // What is bound to a name, and what a function gives.
    let is_map = |text: &str| maps.iter().any(|map| text.trim_start().starts_with(map));
    for (name, text) in files("src", ".rs") {
        let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
        let code = if is_test { "" } else { without_tests(&text) };
        let places = may.iter().find(|(file, _)| *file == name).map_or(&[][..], |(_, may)| may);
        let banned = words.into_iter().filter(|word| !places.contains(word));
        for word in banned {
            assert!(!code.contains(word), "{name} has {word}; use crate::order");
        }
        let bound = code.split("let ").skip(1).filter_map(|rest| rest.split(';').next());
        let bound = bound.filter_map(|text| text.split_once(": ").filter(|it| !it.0.contains('=')));
        let given = code.split("-> ").skip(1).filter_map(|rest| rest.split("\n}\n").next());
        let given = given.filter_map(|rest| rest.split("\n    }\n").next());
        let given = given.filter(|_| !places.contains(&"-> Change"));
        let bound = bound.map(|(_, text)| text).filter(|text| text.contains(".collect()"));
        for text in bound.chain(given.filter(|text| text.trim_end().ends_with(".collect()"))) {
            assert!(!is_map(text), "{name} collects into a map; use crate::order: {text}");
        }
        for map in maps {
            assert!(!code.contains(&format!("collect::<{map}")), "{name} collects into {map}");
        }
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
        let most = if name.starts_with("src") { 500 } else { 900 };
        assert!(lines <= most, "{name} has {lines} lines without tests, the limit is {most}");
    }
}

/// The texts between quotation marks, as far as they stand on one line.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(is_code).flat_map(|line| line.split('"').skip(1).step_by(2))
}

/// Tests run beside each other, and beside whatever the host does: they take free ports of loopback
/// and folders that are made for them. As far as a machine can see it.
#[test]
fn no_test_has_a_port_or_a_folder_of_its_own() {
    // Hosts of their own, made of namespaces or of nothing.
    let elsewhere =
        ["tests/support/namespaces.rs", "tests/simulation/host.rs", "tests/scale/host.rs"];
    // Nobody but root listens below; tests name such ports where nobody is to listen.
    let first_free = 1024;
    let folders = ["/tmp", "/var", "/home", "/run", "/srv", "/root", "~/"];
    for (name, text) in files("tests", ".rs").into_iter().chain(files("benches", ".rs")) {
        if name == "tests/tidy.rs" {
            continue;
        }
        for literal in literals(&text) {
            let address: Option<std::net::SocketAddr> = literal.parse().ok();
            let is_fixed = address.is_some_and(|it| {
                it.port() >= first_free && (it.ip().is_loopback() || it.ip().is_unspecified())
            });
            assert!(!is_fixed, "{name} has the port {literal}; :0 takes a free one");
            let is_folder = folders.iter().any(|folder| literal.starts_with(folder));
            assert!(!is_folder, "{name} has the folder {literal}; tempfile makes one");
        }
        let has_port = text.contains("PORT: u16 =") && !elsewhere.contains(&&*name);
        assert!(!has_port, "{name} has a port of its own");
        // There it gets an address to listen on, whatever it is started with.
        let starts = name != "tests/support/process.rs" && text.contains("CARGO_BIN_EXE");
        assert!(!starts, "{name} starts the binary by itself; use support::process::dsn");
    }
    for (name, text) in files("tests", ".rs").into_iter().chain(files("src", ".rs")) {
        for bound in text.split("bind(\"").skip(1).filter(|_| name != "tests/tidy.rs") {
            let address = bound.split('"').next().unwrap();
            assert!(address.ends_with(":0"), "{name} binds {address}; :0 takes a free port");
        }
    }
    let dsn = crate::support::process::dsn();
    let listen = dsn.get_envs().find(|(name, _)| *name == "DSN_LISTEN").and_then(|it| it.1);
    assert_eq!(listen, Some("127.0.0.1:0".as_ref()));
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
    for (name, text) in files("", ".md") {
        let mut code = false;
        let titles = text.lines().filter(|line| {
            code ^= line.starts_with("```");
            !code && line.starts_with("# ")
        });
        assert_eq!(titles.count(), 1, "{name}");
    }
}

/// Where a link of a document leads, and each of our files that it names, is there.
#[test]
fn documents_name_what_is_there() {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    for (name, text) in files("", ".md") {
        let folder = root().join(&name).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            assert!(folder.join(link).exists(), "{name} links to {link}");
        }
        for start in ["docs/", "scripts/", "tests/", "benches/"] {
            for (at, _) in text.match_indices(start) {
                if text[..at].chars().next_back().is_some_and(is_path) {
                    continue;
                }
                let path: String = text[at..].chars().take_while(|c| is_path(*c)).collect();
                let path = path.trim_end_matches('.');
                // A name that is cut off by an ellipsis or a pattern is none.
                let rest = text[at + path.len()..].chars().next();
                let is_whole = !rest.is_some_and(|c| "*…<{".contains(c));
                assert!(!is_whole || root().join(path).exists(), "{name} names {path}");
            }
        }
    }
}

#[test]
fn the_glossary_says_where_each_word_lives() {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let (_, ours) = text.split_once("## Our words").unwrap();
    let rows: Vec<&str> = ours.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let words: Vec<String> =
        rows.iter().map(|row| row.split('|').nth(1).unwrap().trim().to_lowercase()).collect();
    assert!(words.is_sorted(), "in the order of the alphabet: {words:#?}");
    for row in rows {
        let places = row.rsplit('|').nth(1).unwrap();
        for place in places.split(',').map(str::trim) {
            assert!(root().join("src").join(place).is_file(), "{place} in: {row}");
        }
    }
}

/// What is built comes from one registry, and its sum is known; `deny.toml` says it to cargo-deny,
/// which is not everywhere.
#[test]
fn crates_come_from_one_registry() {
    const REGISTRY: &str = "\"registry+https://github.com/rust-lang/crates.io-index\"";
    for (name, text) in files("", "Cargo.lock") {
        for package in text.split("[[package]]").skip(1) {
            let field = |key: &str| package.lines().find_map(|line| line.strip_prefix(key));
            let krate = field("name = ").unwrap();
            let is_ours = krate.starts_with("\"dsn");
            let source = field("source = ");
            assert_eq!(source, (!is_ours).then_some(REGISTRY), "{krate} in {name}");
            assert!(is_ours || field("checksum = ").is_some(), "{krate} in {name} has no sum");
        }
    }
}

/// What runs on a public forge is what was looked at: actions by their commit, and no rights that
/// are not named.
#[test]
fn workflows_pin_their_actions() {
    for (name, text) in files(".github", ".yml") {
        assert!(text.contains("\npermissions:\n  contents: read\n"), "{name} names its rights");
        for action in text.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")) {
            let commit = action.split(['@', ' ']).nth(1).unwrap_or_default();
            let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit, "{name} uses {action}");
        }
    }
}

/// A defence as a change that takes it out (tests/mends.txt).
#[derive(Default)]
struct Mend {
    name: String,
    fault: String,
    tests: Vec<String>,
    parts: Vec<Part>,
}

/// What changes in one place: the file, the lines that are there, the lines that come.
type Part = (String, Vec<String>, Vec<String>);

fn mends() -> Vec<Mend> {
    let text = std::fs::read_to_string(root().join("tests/mends.txt")).unwrap();
    let mut mends: Vec<Mend> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("mend: ") {
            mends.push(Mend { name: name.to_owned(), ..Mend::default() });
            continue;
        }
        let mend = mends.last_mut().expect("each line belongs to a mend");
        match line.split_at(1) {
            ("-", old) => mend.parts.last_mut().unwrap().1.push(old.to_owned()),
            ("+", new) => mend.parts.last_mut().unwrap().2.push(new.to_owned()),
            _ => match line.split_once(": ").unwrap_or_else(|| panic!("{line}")) {
                ("fault", fault) => mend.fault += fault,
                ("file", file) => mend.parts.push((file.to_owned(), Vec::new(), Vec::new())),
                ("test", test) => mend.tests.push(test.to_owned()),
                ("env" | "limit" | "hang", _) => {}
                (field, _) => panic!("{}: there is no field {field}", mend.name),
            },
        }
    }
    mends
}

/// What takes a mend out is still there, and so are the tests that notice it.
#[test]
fn the_list_of_mends_fits_the_source() {
    let mends = mends();
    assert!(mends.len() >= 40, "{} mends", mends.len());
    let places = [("src", ".rs"), ("tests", ".rs"), ("scripts", ".sh")];
    let sources: std::collections::BTreeMap<String, String> =
        places.into_iter().flat_map(|(folder, ending)| files(folder, ending)).collect();
    let mut names = std::collections::BTreeSet::new();
    for mend in &mends {
        let name = &mend.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{name}");
        assert!(!mend.fault.is_empty() && !mend.tests.is_empty(), "{name} says too little");
        assert!(!mend.parts.is_empty(), "{name} names no file");
        for (file, old, new) in &mend.parts {
            let (old, new) = (old.join("\n"), new.join("\n"));
            assert!(!old.is_empty() && old != new, "{name} changes nothing in {file}");
            let count = sources[file].matches(&old).count();
            assert_eq!(count, 1, "{name}: its old text stands in {file} {count} times");
        }
        for test in &mend.tests {
            let (target, path) = test.rsplit_once(' ').unwrap();
            let folder = match target {
                "--lib" | "--bin dsn" => "src/",
                "--test suite" => "tests/",
                other => panic!("{name}: there is no target {other}"),
            };
            let (place, function) = path.rsplit_once("::").unwrap();
            // A module of units is in the file that it is a part of, or in a file of its own.
            let whole = format!("{folder}{}", place.replace("::", "/"));
            let part = whole.strip_suffix("/tests").unwrap_or(&whole);
            let is_there = |file: &String| {
                let text = sources.get(file);
                text.is_some_and(|text| text.contains(&format!("fn {function}(")))
            };
            let places = [part, &whole].into_iter();
            let mut places =
                places.flat_map(|file| [format!("{file}.rs"), format!("{file}/mod.rs")]);
            assert!(places.any(|file| is_there(&file)), "{name}: there is no test {path}");
        }
    }
}

/// Scripts compare the codes of what is wrong, so the table has each of them.
#[test]
fn operations_explain_every_code_of_a_fault() {
    let text = std::fs::read_to_string("docs/operations.md").unwrap();
    for code in dsn::protocol::fault::Code::ALL {
        let rows = text.matches(&format!("\n| `{}` |", code.as_str())).count();
        assert_eq!(rows, 1, "docs/operations.md has {rows} rows for the code {}", code.as_str());
    }
}

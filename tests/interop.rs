//! docs/protocol.md is enough: a client and a member in Python, written from that page, read its
//! examples, join a node, and take part in a network.

mod member;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place4Nodes, eventually, process};

/// A Python that has the package `cryptography`: that of .ci/run, or the one of this host.
fn python() -> Option<PathBuf> {
    let ours = root().join("target/interop/bin/python");
    let found = [ours, PathBuf::from("python3")].into_iter().find(|python| {
        let tried = Command::new(python).args(["-c", "import cryptography"]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        let how = "python3 -m venv target/interop && target/interop/bin/pip install cryptography";
        // Past the capture of the test harness: nobody shall take this for a pass.
        let mut past_capture = std::io::stderr();
        let why = "no python3 that has cryptography";
        writeln!(past_capture, "SKIPPED tests/interop.rs: {why}; {how}").unwrap();
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn client(python: PathBuf) -> Command {
    let mut command = Command::new(python);
    // Nothing compiled is left beside the sources.
    command.arg("-B").arg(root().join("tests/interop/client.py"));
    command
}

#[test]
fn the_examples_of_the_protocol_page_follow_its_own_rules() {
    let Some(python) = python() else { return };
    let path = root().join("docs/protocol.md");
    let output = client(python).arg("--page").arg(&path).output().unwrap();
    let said = process::Said::from(output);
    assert_eq!(said.code, 0, "{}", said.err);

    let learned: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    let titles = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let titles: Vec<&str> = titles.collect();
    assert!(!titles.is_empty());
    assert_eq!(learned["checked"], serde_json::json!(titles), "none was passed over");
}

#[test]
fn a_member_written_from_the_protocol_page_joins_and_is_understood() {
    let Some(python) = python() else { return };
    let place = Place4Nodes::new();
    let node = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    node.told(&["set", "temperature", "21.5"]);
    let other = place.spawn_at("garden", "127.0.0.1:0", &[&node.address]);
    other.told(&["set", "rain", "no"]);
    node.told(&["wait", "key", "garden", "rain", "no"]);
    other.told(&["wait", "key", "kitchen", "temperature", "21.5"]);
    // An address is passed on once somebody answered there.
    node.told(&["ping", "garden"]);

    let key = place.path().join("credentials/network.key");
    let output = client(python).arg(&node.address).arg(key).output().unwrap();
    let said = process::Said::from(output);
    assert_eq!(said.code, 0, "{}{}", said.err, node.log_text());
    let learned: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(learned["node_id"], "kitchen");
    assert_eq!(learned["advertise"], node.address.as_str());
    assert_eq!(learned["state"], serde_json::json!({"temperature": "21.5"}));
    assert_eq!(learned["nodes"], serde_json::json!(["absent", "garden", "kitchen", "python"]));

    let state = node.json(&["state", "python"]);
    assert_eq!(state["entries"], serde_json::json!({"language": "Python"}));
    assert_ne!(node.status_of("python"), "left", "it came back after its goodbye");
    assert_eq!(node.status_of("leaver"), "left", "and this one did not");
    assert_eq!(node.json(&["recv"])["data"], "hello from Python");
    assert_eq!(node.json(&["recv"])["data"], "bye");
    let again = node.ask(&["--timeout", "100ms", "recv"]);
    assert_eq!(again.code, 1, "what is sent twice with one id is delivered once: {}", again.out);
    eventually("the other node holds what the member brought", || {
        other.ask(&["get", "absent", "a"]).out.trim() == "1"
            && other.ask(&["get", "python", "language"]).out.trim() == "Python"
    });
}

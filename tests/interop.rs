//! docs/protocol.md is enough: a member in Python, written from that page alone, joins a node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Place4Nodes, process};

/// A Python that has the package `cryptography`: that of .ci/run, or the one of this host.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = root.join("target/interop/bin/python");
    [ours, PathBuf::from("python3")].into_iter().find(|python| {
        let tried = Command::new(python).args(["-c", "import cryptography"]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn a_member_written_from_the_protocol_page_joins_and_is_understood() {
    let Some(python) = python() else {
        let how = "python3 -m venv target/interop && target/interop/bin/pip install cryptography";
        // Past the capture of the test harness: nobody shall take this for a pass.
        writeln!(
            std::io::stderr(),
            "SKIPPED tests/interop.rs: no python3 that has cryptography; {how}"
        )
        .unwrap();
        return;
    };
    let place = Place4Nodes::new();
    let node = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    node.told(&["set", "temperature", "21.5"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/client.py");
    let key = place.path().join("credentials/network.key");
    let mut client = Command::new(python);
    client.arg(script).arg(&node.address).arg(key);
    let said = process::Said::from(client.output().unwrap());
    assert_eq!(said.code, 0, "{}{}", said.err, node.log_text());

    let learned: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(learned["node_id"], "kitchen");
    assert_eq!(learned["advertise"], node.address.as_str());
    assert!(learned["seen"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(learned["state"]["temperature"], "21.5");

    let state = node.json(&["state", "python"]);
    assert_eq!(state["entries"]["language"], "Python");
    assert_eq!(state["entries"]["raw"]["base64"], "AP8=");
    assert_eq!(node.json(&["recv"])["data"], "hello from Python");
    let again = node.ask(&["--timeout", "100ms", "recv"]);
    assert_eq!(again.code, 1, "what is sent twice with one id is delivered once: {}", again.out);
}

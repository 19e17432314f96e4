//! What a node tells a monitoring system, against the real tools of Prometheus.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::process::{Process, Said, run_with};
use crate::support::{
    Place4Nodes, address_of_nobody, eventually, parse_answer, skip, write_private,
};
use crate::web::address_of_page;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

/// Runs promtool, where there is one.
fn promtool(arguments: &[&str], stdin: &[u8]) -> Option<Said> {
    let is_there = Command::new("promtool").arg("--version").stdout(Stdio::null()).status();
    if is_there.is_ok_and(|status| status.success()) {
        return Some(run_with(Command::new("promtool").args(arguments), stdin));
    }
    skip("DSN_REQUIRE_PROMETHEUS", "there is no promtool (apt-get install prometheus)");
    None
}

/// Two nodes that know each other, and what was done with them: both ways, well and in vain.
fn two(place: &Place4Nodes) -> (Process, Process) {
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&kitchen.address]);
    kitchen.told(&["wait", "peers", "1", "--timeout", "60s"]);
    garden.told(&["wait", "peers", "1", "--timeout", "60s"]);
    (kitchen, garden)
}

/// The value of a series, by its name and labels but for `node`.
fn value(text: &str, node: &str, name: &str, labels: &str) -> Option<f64> {
    let comma = if labels.is_empty() { "" } else { "," };
    let series = format!("{name}{{node=\"{node}\"{comma}{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(series.as_str())?.parse().ok())
}

#[test]
fn what_a_node_does_is_counted() {
    let place = Place4Nodes::new();
    let (kitchen, garden) = two(&place);
    let before = kitchen.told(&["metrics"]);
    let count = |text: &str, name, labels| value(text, "kitchen", name, labels).unwrap_or(0.0);
    kitchen.told(&["set", "door=open", "light=off"]);
    kitchen.told(&["wait", "synced", "--timeout", "60s"]);
    garden.told(&["send", "kitchen", "hello"]);
    let mut text = String::new();
    eventually("the change was seen to be everywhere", || {
        text = kitchen.told(&["metrics"]);
        let name = "dsn_change_spread_seconds_count";
        count(&text, name, "") > count(&before, name, "")
    });
    let grew = |name, labels| count(&text, name, labels) - count(&before, name, labels);
    assert_eq!(grew("dsn_changes_total", ""), 1.0);
    assert!(grew("dsn_sent_requests_total", r#"type="update",status="204""#) >= 1.0, "{text}");
    assert!(grew("dsn_received_requests_total", r#"type="data",status="200""#) >= 1.0, "{text}");
    assert!(grew("dsn_network_bytes_total", r#"type="update",direction="sent""#) > 100.0);
    assert!(grew("dsn_journal_syncs_total", "") >= 1.0);
    assert!(grew("dsn_journal_bytes", "") > 0.0);
    assert_eq!(count(&text, "dsn_state_keys", r#"of="own""#), 2.0);
    assert!(count(&text, "dsn_state_bytes", r#"of="own""#) >= "dooropenlightoff".len() as f64);
    assert_eq!(count(&text, "dsn_peers", r#"status="alive""#), 1.0);
    assert_eq!(count(&text, "dsn_inbox_messages", ""), 1.0);
    assert!(count(&text, "dsn_port_connections_total", "") >= 1.0);
    assert!(count(&text, "dsn_process_memory_bytes", "") > 500_000.0);

    let of_garden = garden.told(&["metrics"]);
    assert!(value(&of_garden, "garden", "dsn_changes_received_total", "").unwrap() >= 1.0);
    assert_eq!(value(&of_garden, "garden", "dsn_state_keys", r#"of="others""#), Some(2.0));

    // Who can't be reached is named, and what is wrong is 1.
    garden.kill();
    eventually("garden is told to be lost, and kitchen to be alone", || {
        text = kitchen.told(&["metrics"]);
        count(&text, "dsn_peer_down", r#"peer="garden",status="lost""#) == 1.0
            && count(&text, "dsn_degraded", r#"code="alone""#) == 1.0
    });
    assert!(count(&text, "dsn_sent_requests_total", r#"type="ping",status="none""#) >= 1.0);
    assert!(count(&text, "dsn_sent_request_failures_total", r#"type="ping""#) >= 1.0);
}

#[test]
fn the_text_is_what_prometheus_wants() {
    let place = Place4Nodes::new();
    let (kitchen, _garden) = two(&place);
    kitchen.told(&["set", "door=open"]);
    let text = kitchen.ask(&["metrics"]).out;
    let Some(said) = promtool(&["check", "metrics"], text.as_bytes()) else { return };
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
}

#[test]
fn the_rules_for_alerts_pass_their_tests() {
    let rules = docs().join("alerts.yml");
    let Some(said) = promtool(&["check", "rules", rules.to_str().unwrap()], b"") else { return };
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let tests = docs().join("alerts_test.yml");
    let said = promtool(&["test", "rules", tests.to_str().unwrap()], b"").unwrap();
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    // Each of them has a test.
    let (rules, tests) = (read(&rules), read(&tests));
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The names `dsn_…` in a text, without what a histogram puts behind them.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let starts = text.match_indices("dsn_").filter(|(at, _)| {
        !text[..*at].chars().next_back().is_some_and(|before| is_part(before) || before == '/')
    });
    let name = |(at, _): (usize, &str)| -> String {
        text[at..].chars().take_while(|character| is_part(*character)).collect()
    };
    let bare = |name: String| {
        let ends = ["_bucket", "_sum", "_count"];
        let end = ends.iter().find_map(|end| name.strip_suffix(end).map(str::to_owned));
        end.unwrap_or(name)
    };
    starts.map(name).map(bare).collect()
}

/// What a node tells that has heard a member on one interface.
fn of_discovery() -> String {
    use dsn::protocol::report::{Discovered, FoundCounts, Heard, Interface};
    let heard = Heard { member_at: Some(1), ..Heard::default() };
    let eth0 = Interface { name: "eth0".into(), address: [10, 0, 0, 1].into(), heard };
    let discovery = Discovered { interfaces: vec![eth0], found: FoundCounts::default() };
    dsn::metrics::Measured { discovery: Some(discovery), ..Default::default() }.to_string()
}

#[test]
fn documents_alerts_and_dashboard_know_each_name_and_no_other() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &["127.0.0.1:1"]);
    let text = kitchen.told(&["metrics"]);
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut told: BTreeSet<String> = families.map(str::to_owned).collect();
    // It is there while somebody is down; and these, where a node looks on the local network.
    told.insert("dsn_peer_down".to_owned());
    told.extend(names_in(&of_discovery()).into_iter().filter(|it| it.contains("_discovery_")));
    assert_eq!(names_in(&read(&docs().with_extension("md"))), told, "docs/monitoring.md");
    let dashboard = read(&docs().join("dashboard.json"));
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 5));
    for text in [dashboard, read(&docs().join("alerts.yml")), read(&docs().join("alerts_test.yml"))]
    {
        let unknown: Vec<String> = names_in(&text).difference(&told).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} are not told by a node");
    }
}

#[test]
fn a_file_for_a_collector_is_replaced_in_one_step() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let folder = place.path().join("collector");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("dsn.prom");
    let output = file.to_str().unwrap();
    for _ in 0..2 {
        assert_eq!(kitchen.told(&["metrics", "--output", output]), "");
        let text = read(&file);
        assert!(text.starts_with("# HELP dsn_build_info") && text.ends_with('\n'), "{text}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    }
    let names = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(names(), 1, "nothing is left beside it");

    // What can't be written is said, and what is there stays.
    let missing = folder.join("none/dsn.prom");
    let said = kitchen.ask(&["metrics", "--output", missing.to_str().unwrap()]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert!(said.err.contains("none/dsn.prom") && said.err.contains("--output"), "{}", said.err);
    let said = kitchen.ask(&["metrics", "--output", folder.to_str().unwrap()]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("collector") && said.err.contains("no regular file"), "{}", said.err);
    let link = folder.join("link.prom");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    assert_eq!(kitchen.ask(&["metrics", "--output", link.to_str().unwrap()]).code, 2);
    assert!(link.is_symlink());
    std::fs::remove_file(&link).unwrap();
    let said = kitchen.ask(&["metrics", "--output", "/"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert_eq!(names(), 1, "nothing is left beside it");

    // Without a node the old file stays, and the exit code tells.
    let before = read(&file);
    let mut gone = kitchen.command(&["metrics", "--output", output]);
    kitchen.kill();
    let said = run_with(&mut gone, b"");
    assert_eq!((said.code, read(&file)), (3, before), "{}", said.err);
}

/// A Prometheus that runs, and ends with this.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(place: &Place4Nodes, scrapes: &str) -> Self {
        let file = place.path().join("prometheus.yml");
        std::fs::write(&file, scrapes).unwrap();
        // It can't pick a port that it tells: one that was free a moment ago.
        let port = address_of_nobody().port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", place.path().join("tsdb").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let log = std::fs::File::create(place.path().join("prometheus.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, port }
    }

    /// The value of the only series that a query gives, if it gives one now.
    fn value(&self, query: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = parse_answer(&answer)?;
        let json: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        json["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_a_node_with_its_token() {
    if promtool(&["--version"], b"").is_none() {
        return;
    }
    let place = Place4Nodes::new();
    let token = place.path().join("token");
    write_private(&token, b"0123456789abcdef-for-tests\n");
    let mut command = place.run_command("kitchen", &[]);
    command.args(["--http", "127.0.0.1:0", "--http-token"]).arg(&token);
    let kitchen = place.spawn(command, "kitchen");
    kitchen.told(&["set", "door=open"]);
    let prometheus = Prometheus::start(
        &place,
        &format!(
            "scrape_configs:\n  - job_name: dsn\n    scrape_interval: 200ms\n    static_configs:\n      - targets: [{:?}]\n    \
             authorization:\n      credentials_file: {}\n",
            address_of_page(&kitchen).to_string(),
            token.display()
        ),
    );
    eventually("it has scraped the node", || prometheus.value("up") == Some(1.0));
    let own = "dsn_state_keys{node=%22kitchen%22,of=%22own%22}";
    eventually("it has the count of keys", || prometheus.value(own) == Some(1.0));
    kitchen.told(&["set", "light=off"]);
    eventually("a change is in the next scrape", || prometheus.value(own) == Some(2.0));
    kitchen.kill();
    eventually("it knows that the node is gone", || prometheus.value("up") == Some(0.0));
}

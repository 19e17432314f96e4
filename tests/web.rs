//! The port of the web page, byte by byte: who is answered, with what, and within which limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};

use crate::support::process::{Process, Said};
use crate::support::{
    HttpAnswer, Member, PATIENCE, Place4Nodes, eventually, exchange, id, parse_answer,
    write_private,
};

const TOKEN: &str = "0123456789abcdef-for-tests";

/// A node with a page, and where that is.
struct Served {
    node: Process,
    http: SocketAddr,
}

impl Served {
    fn start(place: &Place4Nodes, arguments: &[&str]) -> Self {
        let mut command = place.run_command("garden", &[]);
        command.args(["--http", "127.0.0.1:0"]).args(arguments);
        let node = place.spawn(command, "garden");
        let http = address_of_page(&node);
        Self { node, http }
    }

    /// Sends a head with these lines over a connection of its own.
    fn ask(&self, first: &str, lines: &[&str]) -> HttpAnswer {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("{first} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n");
        exchange(self.http, head.as_bytes())
    }

    fn get(&self, path: &str) -> HttpAnswer {
        self.ask(&format!("GET {path}"), &["Host: localhost"])
    }

    fn json(&self, path: &str) -> Json {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(header(&answer, "Content-Type"), Some("application/json"));
        serde_json::from_slice(&answer.body).unwrap()
    }
}

pub fn address_of_page(node: &Process) -> SocketAddr {
    node.json(&["status"])["http"].as_str().expect("it has a page").parse().unwrap()
}

fn header<'a>(answer: &'a HttpAnswer, name: &str) -> Option<&'a str> {
    let mut lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The names of all threads of a process.
fn threads(node: &Process) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(name).map(|name| name.trim().to_owned()).collect()
}

/// Without ages, which differ from one moment to the next.
fn without_ages(mut json: Json) -> Json {
    for it in json.as_array_mut().unwrap() {
        for field in ["heard_ms_ago", "held_ms", "round_trip_ms"] {
            it.as_object_mut().unwrap().remove(field);
        }
    }
    json
}

#[test]
fn a_node_has_no_page_unless_it_is_told_to() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("garden", "127.0.0.1:0", &[]);
    assert_eq!(node.json(&["status"])["http"], Json::Null);
    assert!(!node.told(&["status"]).contains("page"));
    let names = threads(&node);
    assert!(!names.iter().any(|name| name.starts_with("dsn-http")), "{names:?}");
}

#[test]
fn the_page_has_threads_of_its_own_and_status_says_where_it_is() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &[]);
    let said = served.node.told(&["status"]);
    assert!(said.contains(&format!("http://{}/", served.http)), "{said}");
    let mut names = threads(&served.node);
    names.retain(|name| name.starts_with("dsn-http"));
    names.sort();
    assert_eq!(names, ["dsn-http-gate", "dsn-http-worker", "dsn-http-worker"]);
    // The other port has nothing of it, and the page nothing of that.
    let node: SocketAddr = served.node.address.parse().unwrap();
    assert_eq!(exchange(node, b"GET / HTTP/1.0\r\n\r\n").status, 404);
    let post = b"POST /ping HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert_eq!(exchange(served.http, post).status, 404);
}

#[test]
fn it_says_the_same_as_the_control_socket() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &[]);
    let other = place.spawn_at("shed", "127.0.0.1:0", &[&served.node.address]);
    other.told(&["set", "temperature=17.5", "note=a \"b\" <c>"]);
    served.node.told(&["-t", "60s", "wait", "key", "shed", "temperature"]);
    served.node.told(&["-t", "60s", "wait", "peers", "1"]);
    served.node.told(&["set", "door", "open"]);
    let cases = [("/api/peers", &["peers", "--all"][..]), ("/api/state", &["state"])];
    for (path, command) in cases {
        // What travels between the two is a difference of moments.
        eventually(path, || {
            without_ages(served.json(path)) == without_ages(served.node.json(command))
        });
    }
    let one = served.json("/api/state?node=shed&prefix=temp");
    assert_eq!(one["entries"], serde_json::json!({ "temperature": "17.5" }));
    let status = served.json("/api/status");
    assert_eq!(status["node_id"], "garden");
    assert_eq!(status["peers"]["alive"], 1);
    assert!(served.json("/api/peers")[0]["round_trip_ms"].as_f64().is_some_and(|it| it > 0.0));
    for (path, status, word) in [
        ("/api/state?node=nobody", 404, "no node"),
        ("/api/state?node=..%2Fx", 400, "../x"),
        ("/api/state?node=%ff", 400, "UTF-8"),
    ] {
        let answer = served.get(path);
        let said = String::from_utf8(answer.body).unwrap();
        assert!(answer.status == status && said.contains(word), "{path}: {said}");
    }
}

#[test]
fn only_get_and_head_are_taken() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "BREW"] {
        let answer = served.ask(&format!("{method} /api/status"), &["Host: localhost"]);
        assert_eq!((answer.status, answer.body.len()), (405, 0), "{method}");
        assert_eq!(header(&answer, "Allow"), Some("GET, HEAD"), "{method}");
    }
    let lines = ["Host: localhost", "Content-Length: 3"];
    let with_body = format!("POST /api/status HTTP/1.1\r\n{}\r\n\r\nabc", lines.join("\r\n"));
    assert_eq!(one_answer(served.http, with_body.as_bytes()).unwrap().status, 405);
    for path in ["/", "/page.js", "/health", "/api/status", "/api/state", "/api/changes"] {
        let whole = served.get(path);
        let head = served.ask(&format!("HEAD {path}"), &["Host: localhost"]);
        assert_eq!((whole.status, head.status, head.body.len()), (200, 200, 0), "{path}");
        let names = |answer: &HttpAnswer| -> Vec<String> {
            answer.head.lines().filter_map(|it| Some(it.split_once(": ")?.0.to_owned())).collect()
        };
        assert_eq!(names(&whole), names(&head), "{path}");
        assert!(header(&head, "Content-Length").unwrap().parse::<usize>().unwrap() > 10);
    }
    for path in ["/none", "/api", "/api/", "//", "/../page.js", "/page.js/", "http://localhost/"] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
}

/// Sends bytes, and reads one answer of a connection that is kept.
fn one_answer(to: SocketAddr, bytes: &[u8]) -> Option<HttpAnswer> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse_answer(&answer)
}

/// A page from elsewhere whose name was made to lead here is not answered.
#[test]
fn names_of_other_hosts_are_not_answered_without_a_token() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--http-host", "garden.example"]);
    let port = served.http.port();
    for host in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "garden.example"] {
        for host in [format!("Host: {host}"), format!("Host: {host}:{port}")] {
            assert_eq!(served.ask("GET /api/status", &[&host]).status, 200, "{host}");
        }
    }
    for path in ["/", "/page.js", "/health", "/api/status", "/api/changes"] {
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "garden.example.evil"] {
            let host = format!("Host: {host}:{port}");
            let answer = served.ask(&format!("GET {path}"), &[&host]);
            assert_eq!(answer.status, 421, "{path} {host}");
            let said = String::from_utf8(answer.body).unwrap();
            assert!(said.contains("--http-host") && !said.contains("garden"), "{said}");
        }
        assert_eq!(served.ask(&format!("GET {path}"), &[]).status, 400, "without a name");
        let twice = ["Host: localhost", "Host: evil.example"];
        assert_eq!(served.ask(&format!("GET {path}"), &twice).status, 400, "two names");
    }
}

#[test]
fn every_answer_says_what_a_browser_may_do_with_it() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &[]);
    let mut answers: Vec<HttpAnswer> =
        ["/", "/page.css", "/page.js", "/icon.svg", "/api/peers", "/health"]
            .map(|path| served.get(path))
            .into();
    answers.push(served.ask("GET /", &["Host: evil.example"]));
    for answer in answers {
        let policy = header(&answer, "Content-Security-Policy").unwrap();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part) && !policy.contains("unsafe"), "{policy}");
        }
        assert_eq!(header(&answer, "X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(header(&answer, "Referrer-Policy"), Some("no-referrer"));
        assert_eq!(header(&answer, "Cross-Origin-Resource-Policy"), Some("same-origin"));
        assert_eq!(header(&answer, "Access-Control-Allow-Origin"), None);
        assert!(header(&answer, "Content-Type").is_some(), "{answer:?}");
    }
    assert_eq!(header(&served.get("/api/state"), "Cache-Control"), Some("no-store"));
    // Nothing is loaded from elsewhere, and nothing stands in the page that its policy forbids.
    let page = String::from_utf8(served.get("/").body).unwrap();
    for word in ["http:", "https:", "//", "style=", "onclick", "<style", "<script>"] {
        assert!(!page.contains(word), "{word}");
    }
    let script = String::from_utf8(served.get("/page.js").body).unwrap();
    for word in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("]
    {
        assert!(!script.contains(word), "{word}");
    }
}

#[test]
fn what_the_caller_has_is_not_sent_again() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    for path in
        ["/", "/page.js", "/api/status", "/api/peers", "/api/state", "/api/state?node=garden"]
    {
        let tag = header(&served.get(path), "ETag").unwrap().to_owned();
        let again = |tag: &str| {
            let line = format!("If-None-Match: {tag}");
            served.ask(&format!("GET {path}"), &["Host: localhost", &line])
        };
        let same = again(&tag);
        assert_eq!((same.status, same.body.len()), (304, 0), "{path}");
        assert_eq!(header(&same, "ETag"), Some(tag.as_str()), "{path}");
        assert_eq!(again(&format!("\"other\", {tag}")).status, 304, "{path}");
        assert_eq!(again("\"other\"").status, 200, "{path}");
        assert_eq!(again("W/\"\"").status, 200, "{path}");
    }
    let tag = header(&served.get("/api/state"), "ETag").unwrap().to_owned();
    served.node.told(&["set", "door", "open"]);
    let line = format!("If-None-Match: {tag}");
    let answer = served.ask("GET /api/state", &["Host: localhost", &line]);
    assert_eq!(answer.status, 200, "another state, another version");
    assert!(String::from_utf8(answer.body).unwrap().contains("open"));
}

/// It makes no new version of the state, and what was said of it is no longer so.
#[test]
fn a_key_that_is_set_again_for_a_time_is_news() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    let set = || served.node.told(&["set", "--ttl", "1h", "alive=1"]);
    set();
    let path = "/api/state?node=garden";
    let first = served.json(path);
    let tag = header(&served.get(path), "ETag").unwrap().to_owned();
    let changes = served.json("/api/changes");
    let since = format!("/api/changes?since={}", changes["cursor"].as_str().unwrap());
    assert_eq!(served.json(&since)["states"], serde_json::json!([]));
    set();
    let line = format!("If-None-Match: {tag}");
    let answer = served.ask(&format!("GET {path}"), &["Host: localhost", &line]);
    assert_eq!(answer.status, 200);
    let second: Json = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(second["timestamp"], first["timestamp"], "it is the same version");
    assert!(second["expires_ms"]["alive"].as_u64().is_some_and(|it| it > 3_000_000));
    assert!(served.json(&since)["states"][0]["expires_ms"]["alive"].is_u64());
}

#[test]
fn a_page_that_stays_open_is_told_what_changed_alone() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    served.node.told(&["set", "a", "1"]);
    let first = served.json("/api/changes");
    assert_eq!((&first["whole"], &first["more"]), (&Json::Bool(true), &Json::Bool(false)));
    assert_eq!(first["states"][0]["entries"]["a"], "1");
    let since = |cursor: &Json| format!("/api/changes?since={}", cursor.as_str().unwrap());
    let nothing = served.json(&since(&first["cursor"]));
    for field in ["peers", "gone", "states"] {
        assert_eq!(nothing[field], serde_json::json!([]), "{field}");
    }
    assert_eq!((&nothing["status"], &nothing["whole"]), (&Json::Null, &Json::Bool(false)));
    let tag = header(&served.get(&since(&first["cursor"])), "ETag").unwrap().to_owned();
    let idle = served.ask(
        &format!("GET {}", since(&first["cursor"])),
        &["Host: localhost", &format!("If-None-Match: {tag}")],
    );
    assert_eq!(idle.status, 304);
    served.node.told(&["set", "a", "2"]);
    let second = served.json(&since(&first["cursor"]));
    assert_eq!(second["states"][0]["entries"], serde_json::json!({ "a": "2" }));
    // A cursor of another run, or of nobody, begins anew.
    for cursor in ["0-1-1", "x", "", "-", "1-2", "99999999999999999999-1-1", "0-0-0"] {
        let all = served.json(&format!("/api/changes?since={cursor}"));
        assert_eq!(all["whole"], true, "{cursor}");
        assert_eq!(all["states"].as_array().unwrap().len(), 1, "{cursor}");
    }
    // One that is forgotten is gone.
    let other = place.spawn_at("shed", "127.0.0.1:0", &[&served.node.address]);
    served.node.told(&["-t", "60s", "wait", "node", "shed", "alive"]);
    other.kill();
    served.node.told(&["-t", "60s", "wait", "node", "shed", "lost", "suspect"]);
    let before = served.json("/api/changes");
    served.node.told(&["forget", "shed"]);
    assert_eq!(served.json(&since(&before["cursor"]))["gone"], serde_json::json!(["shed"]));
}

#[test]
fn health_is_what_is_degraded() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--bootstrap", "127.0.0.1:1"]);
    eventually("it says that it is alone", || served.get("/health").status == 503);
    let body: Json = serde_json::from_slice(&served.get("/health").body).unwrap();
    assert_eq!(body, serde_json::json!({ "node_id": "garden", "degraded": ["alone"] }));
    let other = place.spawn_at("shed", "127.0.0.1:0", &[&served.node.address]);
    eventually("all is well", || served.get("/health").status == 200);
    assert_eq!(served.json("/health")["degraded"], serde_json::json!([]));
    drop(other);
}

fn token_file(place: &Place4Nodes, text: &str) -> PathBuf {
    let path = place.path().join("token");
    let _ = std::fs::remove_file(&path);
    write_private(&path, text.as_bytes());
    path
}

#[test]
fn with_a_token_the_parts_of_the_page_alone_are_for_all() {
    let place = Place4Nodes::new();
    let token = token_file(&place, &format!("# for tests\n{TOKEN}\n"));
    let served = Served::start(&place, &["--http-token", token.to_str().unwrap()]);
    let right = format!("Authorization: Bearer {TOKEN}");
    let host = "Host: any.example";
    for path in ["/", "/page.css", "/page.js", "/icon.svg"] {
        assert_eq!(served.ask(&format!("GET {path}"), &[host]).status, 200, "{path}");
    }
    for path in ["/health", "/metrics", "/api/status", "/api/peers", "/api/state", "/api/changes"] {
        let ask = |lines: &[&str]| served.ask(&format!("GET {path}"), lines);
        assert_ne!(ask(&[host, &right]).status, 401, "{path}");
        for wrong in [
            "X: y",
            "Authorization: Bearer",
            "Authorization: Bearer 0123456789abcdef-for-test",
            "Authorization: Bearer 0123456789abcdef-for-testsx",
            "Authorization: Basic 0123456789abcdef-for-tests",
            "Cookie: token=0123456789abcdef-for-tests",
        ] {
            let answer = ask(&[host, wrong]);
            assert_eq!(answer.status, 401, "{path} {wrong}");
            assert_eq!(header(&answer, "WWW-Authenticate"), Some("Bearer realm=\"dsn\""));
            assert!(!String::from_utf8(answer.body).unwrap().contains("garden"), "{path}");
        }
        assert_eq!(ask(&[host, &right, &right]).status, 400, "{path}: shown twice");
        let query = format!("GET {path}?token={TOKEN}");
        assert_eq!(served.ask(&query, &[host]).status, 401, "{path}: it is no parameter");
    }
    assert!(!served.node.log_text().contains(TOKEN));
}

#[test]
fn others_are_served_with_a_token_alone() {
    let place = Place4Nodes::new();
    let refused = |arguments: &[&str]| -> Said {
        let mut command = place.run_command("garden", &[]);
        command.args(arguments).output().unwrap().into()
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0"] {
        let said = refused(&["--http", listen]);
        assert_eq!(said.code, 2, "{listen}: {}", said.err);
        assert!(said.err.contains("--http-token FILE"), "{}", said.err);
        assert!(said.err.contains(listen), "{}", said.err);
    }
    assert!(!place.path().join("credentials/garden").exists(), "nothing was made");
    let with =
        |path: &PathBuf| refused(&["--http", "0.0.0.0:0", "--http-token", path.to_str().unwrap()]);
    for (text, why) in [
        ("short", "less than 16"),
        ("", "there is none"),
        ("# 0123456789abcdef-for-tests\n", "there is none"),
        ("0123456789 abcdef-for-tests", "blanks"),
        (&"x".repeat(1025), "more than 1024"),
    ] {
        let said = with(&token_file(&place, text));
        assert_eq!(said.code, 2, "{text}: {}", said.err);
        assert!(said.err.contains(why) && !said.err.contains("0123"), "{}", said.err);
    }
    let file = token_file(&place, TOKEN);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = with(&file);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("chmod 600"), "{}", said.err);
    let said = with(&place.path().join("none"));
    assert_eq!(said.code, 2, "{}", said.err);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    // The second one is for documents: no host has it.
    for (listen, missing) in [("0.0.0.0:0", false), ("192.0.2.7:0", true)] {
        let mut command = place.run_command("garden", &[]);
        command.args(["--http", listen, "--http-token", file.to_str().unwrap()]);
        let node = place.spawn(command, "garden");
        assert_eq!(address_of_page(&node).ip().is_unspecified(), !missing);
        let degraded = node.degraded();
        assert_eq!(degraded.contains("or change --http"), missing, "{degraded}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let place = Place4Nodes::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = place.run_command("garden", &[]);
    command.args(["--http", &taken.local_addr().unwrap().to_string()]);
    let said: Said = command.output().unwrap().into();
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(
        said.err.contains("--http ADDR:PORT") && !said.err.contains("--listen"),
        "{}",
        said.err
    );
}

fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

fn memory_kb(node: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whatever comes, a reader from elsewhere is served, and the node goes on.
#[test]
fn crowds_garbage_and_slow_readers_keep_nobody_out() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    let value = "v".repeat(60_000);
    for number in 0..16 {
        served.node.told(&["set", &format!("k{number}"), &value]);
    }
    let before = memory_kb(&served.node);
    let mut random = fastrand::Rng::with_seed(7);
    let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(20_000));
    let firsts: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        &garbage,
        long.as_bytes(),
        // About a megabyte each, of which nobody reads a byte.
        b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\nabc",
    ];
    let mut held = Vec::new();
    for first in firsts.iter().cycle().take(300) {
        let mut stream = connect_from("127.0.0.3", served.http);
        // It may be cut at once.
        let _ = stream.write_all(first);
        held.push(stream);
        if held.len() % 50 == 0 {
            let mut reader = connect_from("127.0.0.2", served.http);
            let head = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            reader.write_all(head).unwrap();
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer).unwrap();
            assert_eq!(parse_answer(&answer).unwrap().status, 200, "behind {}", held.len());
        }
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", served.node.child.id())).unwrap();
    assert!(descriptors.count() < 120);
    assert!(memory_kb(&served.node) < before + 32 * 1024);
    eventually("it says who was cut", || served.node.degraded().contains("strangers"));
    assert!(served.node.degraded().contains("with a token (--http-token)"));
    assert_eq!(served.get("/health").status, 200, "nobody makes a probe restart the node");
    let mut member = Member::joined("member", served.node.address.parse().unwrap());
    let ping = member.ping();
    assert_eq!(member.say(&ping).verdict().0, 200, "the other port has nothing of it");
}

/// With a token a crowd without one keeps nobody out, even from the same address.
#[test]
fn who_shows_the_token_keeps_its_connection_in_a_crowd() {
    let place = Place4Nodes::new();
    let token = token_file(&place, TOKEN);
    let served = Served::start(&place, &["--http-token", token.to_str().unwrap()]);
    let mut kept = connect_from("127.0.0.1", served.http);
    let head = format!(
        "GET /api/peers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    let mut asks = || {
        kept.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n[]\n") {
            let mut byte = [0];
            kept.read_exact(&mut byte).expect("it is kept");
            answer.push(byte[0]);
        }
    };
    asks();
    let crowd: Vec<TcpStream> = (0..100).map(|_| connect_from("127.0.0.1", served.http)).collect();
    for _ in 0..10 {
        asks();
    }
    drop(crowd);
}

/// All states together can be more than anybody should hold in memory: then each is asked for.
#[test]
fn an_answer_that_would_be_too_long_is_refused_with_what_to_do() {
    let place = Place4Nodes::new();
    let served = Served::start(&place, &["--alone"]);
    let member = Member::joined("member", served.node.address.parse().unwrap());
    // Each byte is six in JSON.
    let value = "\u{1}".repeat(60_000);
    for number in 0..3 {
        let keys: Vec<String> = (0..16).map(|key| format!("k{key}")).collect();
        let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, &*value)).collect();
        let record = member.record_of(&id(&format!("big{number}")), 1000 + number, &pairs);
        assert_eq!(member.say(&member.push(vec![record])).verdict().0, 204);
    }
    let answer = served.get("/api/state");
    let said = String::from_utf8(answer.body).unwrap();
    assert!(answer.status == 400 && said.contains("/api/state?node=ID"), "{said}");
    let one = served.json("/api/state?node=big1");
    assert_eq!(one["entries"]["k15"], value.as_str());
    // A page gets them by their names, when somebody opens them.
    let changes = served.json("/api/changes");
    assert_eq!(changes["peers"].as_array().unwrap().len(), 4);
    let states = changes["states"].as_array().unwrap();
    assert!(states.iter().all(|state| !state["node_id"].as_str().unwrap().starts_with("big")));
}

#[test]
fn nothing_of_it_is_left_behind() {
    let place = Place4Nodes::new();
    let mut served = Served::start(&place, &[]);
    let mut open = connect_from("127.0.0.1", served.http);
    served.node.told(&["stop"]);
    assert_eq!(served.node.wait(), Some(0));
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    assert!(TcpStream::connect(served.http).is_err());
}

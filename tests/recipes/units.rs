//! The units of the recipes, and the cluster that people look at.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::folder;
use crate::support::process::{Said, binary, dsn};

fn text_of(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Where systemd is at hand, it has nothing to say about them.
#[test]
fn systemd_understands_the_timer_and_what_it_runs() {
    let place = tempfile::tempdir().unwrap();
    let script = folder().join("reading.sh");
    let own = format!("ExecStart={}", script.display());
    let service =
        text_of("dsn-reading.service").replace("ExecStart=/usr/local/bin/reading.sh", &own);
    assert!(service.contains(&own));
    std::fs::write(place.path().join("dsn-reading.service"), service).unwrap();
    std::fs::write(place.path().join("dsn-reading.timer"), text_of("dsn-reading.timer")).unwrap();
    for name in ["dsn-reading.service", "dsn-reading.timer"] {
        let mut verify = Command::new("systemd-analyze");
        let verify = verify.args(["verify", "--man=no"]).arg(place.path().join(name)).output();
        let Ok(verify) = verify else { return };
        let said: Said = verify.into();
        let ours: Vec<&str> =
            said.err.lines().filter(|line| line.contains("dsn-reading")).collect();
        assert_eq!(ours, [] as [&str; 0]);
    }
}

/// A reading stands for longer than it takes until the next one, and not for much longer.
#[test]
fn the_readings_of_the_timer_do_not_expire_between_two_runs() {
    assert!(text_of("dsn-reading.timer").contains("\nOnUnitActiveSec=1min\n"));
    assert!(text_of("dsn-reading.service").contains("\nEnvironment=READING_TTL=3m\n"));
}

/// That of cron has no /usr/local/bin, where scripts/install.sh puts `dsn`.
#[test]
fn cron_finds_what_a_recipe_calls() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut tables = 0;
    for (at, part) in page.split("```").enumerate() {
        let Some((before, _)) = part.split_once(" * * *") else { continue };
        tables += 1;
        let path = before.lines().find_map(|line| line.strip_prefix("PATH="));
        let path = path.unwrap_or_else(|| panic!("no PATH before {part}"));
        assert!(at % 2 == 1 && path.split(':').any(|it| it == "/usr/local/bin"), "{path}");
    }
    assert_eq!(tables, page.matches(" * * *").count(), "one in each");
    assert!(tables >= 3, "{tables}");
}

fn cluster(place: &Path, arguments: &[&str]) -> Said {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster.sh");
    let mut command = Command::new(script);
    for (name, value) in dsn().get_envs() {
        if value.is_none() {
            command.env_remove(name);
        }
    }
    command.args(arguments).env("DSN_CLUSTER", place.join("c")).env("DSN_BIN", binary());
    command.output().unwrap().into()
}

/// Ends the nodes of a cluster.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        cluster(self.0, &["down"]);
    }
}

fn page_in(said: &Said) -> String {
    let line = said.out.lines().find_map(|line| line.strip_prefix("their page: http://"));
    let line = line.unwrap_or_else(|| panic!("{}{}", said.out, said.err));
    line.strip_suffix('/').unwrap().to_owned()
}

#[test]
fn a_cluster_to_look_at_says_where_its_page_is() {
    let place = tempfile::tempdir().unwrap();
    let _down = Down(place.path());
    let said = cluster(place.path(), &["up", "3", "--http"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let page = page_in(&said);
    let status = || -> String {
        let mut stream = TcpStream::connect(&page).unwrap();
        let head = format!("GET /api/peers HTTP/1.0\r\nHost: {page}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = status();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("node-2") && answer.contains("node-3"), "{answer}");
    // A node that comes back has its page where it was, and one more says it again.
    assert_eq!(cluster(place.path(), &["kill", "1"]).code, 0);
    assert_eq!(cluster(place.path(), &["start", "1"]).code, 0);
    assert!(status().starts_with("HTTP/1.1 200"));
    assert_eq!(page_in(&cluster(place.path(), &["up", "3", "--http"])), page);
}

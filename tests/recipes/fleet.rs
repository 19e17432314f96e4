//! Restarts of a fleet, a place for a job, and a host that is cut off.

use std::path::Path;

use super::{Running, Shell, beside, shells};
use crate::support::process::{Process, Said, wait_for};
use crate::support::{Place4Nodes, eventually};

/// A command that asks the test to do something with its last two arguments, and waits until it is
/// done.
const ASK: [&str; 4] =
    ["sh", "-c", r#"echo "$1 $2" >>asked; until [ -e "done.$1" ]; do sleep 0.05; done"#, "sh"];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn roll(place: &Place4Nodes, node: &Process, arguments: &[&str]) -> Running {
    let shell = shells(place).pop().unwrap();
    let mut command = shell.recipe(place, node, "rolling-restart.sh");
    command.args(arguments).arg("--").args(ASK);
    command.stderr(std::fs::File::create(place.path().join("said")).unwrap());
    Running::start(command)
}

/// It does not do it, and says why.
fn refuses(place: &Place4Nodes, node: &Process, arguments: &[&str], whys: &[&str]) {
    // Where this host is busy, somebody may be suspect for a moment, and that is said first.
    eventually(&format!("it refuses and says {whys:?}"), || {
        let said = Shell::Default.say(place, node, "rolling-restart.sh", arguments);
        assert_eq!(said.code, 1, "{}", said.err);
        whys.iter().all(|why| said.err.contains(why))
    });
}

#[test]
fn a_fleet_is_restarted_one_after_the_other() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let mut others: Vec<Process> =
        ["garden", "shed"].iter().map(|name| beside(&place, &kitchen, name)).collect();
    kitchen.told(&["wait", "peers", "2", "--timeout", "60s"]);
    kitchen.told(&["set", "k=1"]);
    let asked = place.path().join("asked");

    let mut running = roll(&place, &kitchen, &[]);
    eventually("it begins", || {
        // Where this host is busy, somebody may be suspect for a moment.
        if running.0.try_wait().unwrap().is_some() {
            running = roll(&place, &kitchen, &[]);
        }
        asked.exists()
    });
    for (at, name) in ["garden", "shed"].into_iter().enumerate() {
        eventually("the next one is asked for", || read(&asked).lines().count() == at + 1);
        let expected = format!("{name} 127.0.0.1");
        assert_eq!(read(&asked).lines().last(), Some(expected.as_str()));
        assert_eq!(kitchen.told(&["get", "self", "rolling-restart"]), name);
        // A second one does not begin.
        refuses(&place, &others[1 - at], &["--", "true"], &["running from: kitchen"]);
        let address = others[at].address.clone();
        others[at].child.kill().unwrap();
        others[at].child.wait().unwrap();
        others[at] = place.spawn_at(name, &address, &[&kitchen.address]);
        std::fs::write(place.path().join(format!("done.{name}")), "").unwrap();
    }
    assert_eq!(wait_for(&mut running.0), Some(0), "{}", read(&place.path().join("said")));
    assert!(read(&place.path().join("said")).contains("all were restarted: garden shed"));
    assert_eq!(kitchen.ask(&["get", "self", "rolling-restart"]).code, 1, "the key is gone");
    // Whoever came back holds what was set meanwhile.
    assert_eq!(others[1].told(&["get", "kitchen", "k"]), "1");

    // One does not come back: it ends there, and says what is left.
    let address = others[0].address.clone();
    others[0].child.kill().unwrap();
    others[0].child.wait().unwrap();
    kitchen.told(&["wait", "node", "garden", "suspect", "lost", "--timeout", "60s"]);
    let why = "refused, as some do not answer: garden";
    refuses(&place, &kitchen, &["--", "true"], &[why]);
    others[0] = place.spawn_at("garden", &address, &[&kitchen.address]);
    kitchen.told(&["wait", "node", "garden", "alive", "--timeout", "60s"]);
    let whys = ["garden did not go", "Done: none. Left: garden shed"];
    refuses(&place, &kitchen, &["--wait", "1", "--reboot", "--", "true"], &whys);
    refuses(&place, &kitchen, &["--", "false"], &["the command failed for garden"]);
    assert_eq!(kitchen.ask(&["get", "self", "rolling-restart"]).code, 1);
}

#[test]
fn a_job_goes_to_the_node_with_the_lowest_load() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = beside(&place, &kitchen, "garden");
    for shell in shells(&place) {
        let say = |arguments: &[&str]| shell.say(&place, &kitchen, "least-loaded.sh", arguments);
        let sets = |node: &Process, value: &str| {
            node.told(&["set", &format!("load1={value}")]);
            node.told(&["wait", "synced", "--timeout", "60s"]);
        };
        for (of_kitchen, of_garden, chosen) in [
            ("10", "9.5", "garden"),
            ("0.50", "0.5", "garden"),
            ("2e-1", "0.3", "kitchen"),
            ("-1", "0", "kitchen"),
            ("7", "0;touch pwned", "kitchen"),
            ("$(touch pwned)", "7", "garden"),
            ("0x1", "7", "garden"),
            ("1\t0\nshed\talive\t-5", "7", "garden"),
            ("", "nan", ""),
            ("-inf", "1e", ""),
        ] {
            sets(&kitchen, of_kitchen);
            sets(&garden, of_garden);
            // Where this host is busy, garden may be suspect for a moment.
            eventually(&format!("{chosen:?} of {of_kitchen:?} and {of_garden:?}"), || {
                let said = say(&[]);
                said.out.trim_end() == chosen && said.code == i32::from(chosen.is_empty())
            });
        }
        sets(&kitchen, "2");
        sets(&garden, "1");
        eventually("the command gets the node and its host", || {
            let said = say(&["--max-age", "3600", "--", "echo", "run at"]);
            (said.code, said.out.as_str()) == (0, "run at garden 127.0.0.1\n")
        });
        let said = say(&["--", "false"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("failed with exit code 1 for "), "{}", said.err);
        let said = say(&["--key", "none"]);
        assert_eq!(said.code, 1);
        // A value can't say how old it is.
        sets(&garden, "1");
        garden.told(&["set", r#"x={"held_ms":1,"#]);
        garden.told(&["wait", "synced", "--timeout", "60s"]);
        eventually("it is too old", || say(&["--max-age", "0"]).code == 1);
        garden.told(&["unset", "x"]);
    }
    assert!(!place.path().join("pwned").exists());

    // One that is lost gets no job, whatever it said last.
    garden.kill();
    kitchen.told(&["wait", "node", "garden", "lost", "--timeout", "60s"]);
    let said = Shell::Default.say(&place, &kitchen, "least-loaded.sh", &[]);
    assert_eq!(said.out, "kitchen\n");
}

#[test]
fn readings_expire_and_targets_are_listed() {
    let place = Place4Nodes::new();
    let mut command = place.run_command("kitchen", &[]);
    command.args(["--http", "127.0.0.1:0"]);
    let kitchen = place.spawn(command, "kitchen");
    let garden = beside(&place, &kitchen, "garden");
    kitchen.told(&["wait", "peers", "1", "--timeout", "60s"]);
    let of_garden = format!("{}:8001", garden.address.split(':').next().unwrap());
    for shell in shells(&place) {
        let mut command = shell.recipe(&place, &kitchen, "reading.sh");
        command.env("READING_TTL", "1h").arg("door=it's \"open\"\n");
        let said: Said = command.output().unwrap().into();
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        let state = kitchen.json(&["state", "self"]);
        assert_eq!(state["entries"]["door"], "it's \"open\"\n");
        let load: f64 = state["entries"]["load1"].as_str().unwrap().parse().unwrap();
        assert!(load >= 0.0);
        let keys = |name: &str| state[name].as_object().unwrap().keys().cloned().collect();
        let (entries, expires): (Vec<String>, Vec<String>) = (keys("entries"), keys("expires_ms"));
        assert_eq!(entries, expires, "all of them expire");

        let say =
            |file: &str| shell.say(&place, &kitchen, "prometheus-targets.sh", &["8001", file]);
        let said = say("targets.json");
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        let text = read(&place.path().join("targets.json"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let page = kitchen.json(&["status"])["http"].clone();
        assert_eq!(json, serde_json::json!([{ "targets": [page, of_garden] }]));
        assert_eq!(say("none/targets.json").code, 2);
        std::fs::remove_file(place.path().join("targets.json")).unwrap();
    }
    garden.told(&["leave"]);
    kitchen.told(&["wait", "node", "garden", "left", "--timeout", "60s"]);
    let arguments = ["8001", "targets.json"];
    let said = Shell::Default.say(&place, &kitchen, "prometheus-targets.sh", &arguments);
    assert_eq!(said.code, 0);
    let text = read(&place.path().join("targets.json"));
    assert!(!text.contains("8001"), "who said goodbye is not scraped: {text}");
}

/// One look of the watchdog at this time since the boot, in seconds; whether it acted.
struct Watch<'a> {
    place: &'a Place4Nodes,
    node: &'a Process,
    shell: Shell,
}

impl Watch<'_> {
    fn look(&self, boot: &str, at: u64, network: bool) -> Said {
        let path = self.place.path();
        std::fs::write(path.join("boot"), format!("{boot}\n")).unwrap();
        std::fs::write(path.join("uptime"), format!("{at}.42 1.00\n")).unwrap();
        let mut command = self.shell.recipe(self.place, self.node, "watchdog.sh");
        command.env("WATCHDOG_UPTIME", "uptime").env("WATCHDOG_BOOT_ID", "boot");
        command.args(["--state", "watched", "--for", "600"]);
        command.args(["--probe", if network { "true" } else { "false" }]);
        command.args(["--", "echo", "acted"]).output().unwrap().into()
    }

    /// Where this host is busy, somebody may be suspect for a moment.
    fn sees_others(&self, boot: &str, at: u64) {
        eventually("it has seen two others", || {
            assert!(!self.acts(boot, at, false), "others are there");
            read(&self.place.path().join("watched")).contains("seen=yes\n")
        });
    }

    fn acts(&self, boot: &str, at: u64, network: bool) -> bool {
        let said = self.look(boot, at, network);
        assert_eq!(said.code, 0, "{}", said.err);
        said.out == "acted\n"
    }
}

#[test]
fn a_host_is_rebooted_only_where_it_is_cut_off() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let mut others: Vec<Process> =
        ["garden", "shed"].iter().map(|name| beside(&place, &kitchen, name)).collect();
    kitchen.told(&["wait", "peers", "2", "--timeout", "60s"]);
    let shell = shells(&place).pop().unwrap();
    let watch = Watch { place: &place, node: &kitchen, shell };
    watch.sees_others("b1", 100);

    // One is there still, and one of two is no cut.
    let addresses: Vec<String> = others.iter().map(|node| node.address.clone()).collect();
    others.pop().unwrap().kill();
    kitchen.told(&["wait", "node", "shed", "lost", "--timeout", "60s"]);
    assert!(!watch.acts("b1", 5000, false) && !watch.acts("b1", 9000, false));
    others.pop().unwrap().kill();
    kitchen.told(&["wait", "node", "garden", "lost", "--timeout", "60s"]);
    assert!(!watch.acts("b1", 10_000, false), "it has to last");
    assert!(!watch.acts("b1", 10_599, false));
    assert!(!watch.acts("b1", 10_600, true), "the others are off, and the network is there");

    // After a boot nobody was seen: that may be the power of the whole house.
    let kept = read(&place.path().join("watched"));
    assert!(!watch.acts("b2", 700, false) && !watch.acts("b2", 9000, false));
    std::fs::write(place.path().join("watched"), &kept).unwrap();
    assert!(watch.acts("b1", 10_601, false), "that is it");
    // Never in a loop: what did not help is not done again.
    assert!(!watch.acts("b1", 20_000, false) && !watch.acts("b1", 90_000, false));
    assert!(!watch.acts("b3", 50, false) && !watch.acts("b3", 9000, false));

    // When they were back and go again, an hour has to be over.
    for (name, address) in ["garden", "shed"].iter().zip(&addresses) {
        others.push(place.spawn_at(name, address, &[&kitchen.address]));
    }
    kitchen.told(&["wait", "peers", "2", "--timeout", "60s"]);
    watch.sees_others("b4", 10);
    others.drain(..).for_each(Process::kill);
    for name in ["garden", "shed"] {
        kitchen.told(&["wait", "node", name, "lost", "--timeout", "60s"]);
    }
    assert!(!watch.acts("b4", 20, false) && !watch.acts("b4", 3599, false));
    assert!(watch.acts("b4", 3600, false));

    // What is damaged is nothing to act on; a node that is off says nothing.
    std::fs::write(place.path().join("watched"), "boot=b4\nsince=x\nseen=yes\n").unwrap();
    assert!(!watch.acts("b4", 90_000, false));
    let boot4 = "boot=b4\nsince=1\nseen=yes\nacted=\nacted_boot=\n";
    std::fs::write(place.path().join("watched"), boot4).unwrap();
    let control = kitchen.control.clone();
    kitchen.told(&["stop"]);
    let said = watch.look("b4", 99_000, false);
    assert_eq!((said.code, said.out.as_str()), (3, ""), "{}", said.err);
    assert!(!control.exists() && read(&place.path().join("watched")).contains("since=\n"));
}

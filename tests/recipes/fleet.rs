//! Restarts of a fleet, a place for a job, and a host that is cut off.

use std::path::Path;

use super::{Running, Shell, beside, on_a_full_disk, program, shells};
use crate::support::process::{Process, Said, binary, wait_for};
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

    refuses_two_at_a_time(&place, &kitchen, &others[0]);
    let stops = ["--", "sh", "-c", r#""$DSN_BIN" stop"#];
    refuses(&place, &kitchen, &stops, &["the node of this host is gone"]);
}

/// Another one begins between the first look and the key.
fn refuses_two_at_a_time(place: &Place4Nodes, kitchen: &Process, garden: &Process) {
    let (dsn, other) = (binary().display().to_string(), garden.control.display().to_string());
    let begins = place.path().join("begins");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *begins*)\n'{dsn}' --control '{other}' set rolling-restart=x >&2\n\
         '{dsn}' wait key garden rolling-restart >&2 ;;\nesac\nexec '{dsn}' \"$@\"\n"
    );
    program(&begins, &script);
    eventually("it refuses and says who else runs", || {
        garden.ask(&["unset", "rolling-restart"]);
        kitchen.told(&["wait", "synced", "--timeout", "60s"]);
        let mut command = Shell::Default.recipe(place, kitchen, "rolling-restart.sh");
        command.env("DSN_BIN", &begins).args(["--", "touch", "ran"]);
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, 1, "{}", said.err);
        said.err.contains("running from: garden")
    });
    assert!(!place.path().join("ran").exists());
    assert_eq!(kitchen.ask(&["get", "self", "rolling-restart"]).code, 1, "it is taken back");
    garden.told(&["unset", "rolling-restart"]);
    kitchen.told(&["wait", "synced", "--timeout", "60s"]);
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

    // One that is no peer any more must not be taken for this host.
    let forgets = place.path().join("forgets");
    let dsn = binary().display().to_string();
    let script = format!("#!/bin/sh\n[ \"$1\" = peers ] && exit 0\nexec '{dsn}' \"$@\"\n");
    program(&forgets, &script);
    eventually("it has no address", || {
        let mut command = Shell::Default.recipe(&place, &kitchen, "least-loaded.sh");
        command.env("DSN_BIN", &forgets).args(["--", "echo", "runs at"]);
        let said: Said = command.output().unwrap().into();
        // Where this host is busy, garden may be suspect for a moment.
        assert!(!said.out.contains("garden"), "{}", said.out);
        said.code == 1 && said.err.contains("garden has no address")
    });

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
    let old = &["8001", "full/old"];
    for shell in shells(&place) {
        let mut command = shell.recipe(&place, &kitchen, "prometheus-targets.sh");
        if let Some((said, left)) = on_a_full_disk(&place, command.args(old)) {
            assert_eq!((said.code, left.as_str()), (1, "old\n"), "{}", said.err);
            assert!(said.err.contains("was not written"), "{}", said.err);
        }
    }
    let said =
        Shell::Default.say(&place, &kitchen, "prometheus-targets.sh", &["65536", "targets.json"]);
    assert_eq!(said.code, 2, "{}", said.err);
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
    /// With a probe of this name, whatever it is.
    fn look(&self, boot: &str, at: u64, probe: &str) -> Said {
        let path = self.place.path();
        let _ = std::fs::remove_file(path.join("probe"));
        let found = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(probe));
        let found = found.iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(found, path.join("probe")).unwrap();
        std::fs::write(path.join("boot"), format!("{boot}\n")).unwrap();
        std::fs::write(path.join("uptime"), format!("{at}.42 1.00\n")).unwrap();
        let mut command = self.shell.recipe(self.place, self.node, "watchdog.sh");
        command.env("WATCHDOG_UPTIME", "uptime").env("WATCHDOG_BOOT_ID", "boot");
        command.args(["--state", "watched", "--for", "600"]);
        command.args(["--probe", "./probe"]);
        if probe == "yes" {
            command.env("WATCHDOG_PROBE_SECONDS", "1");
        }
        command.args(["--", "echo", "acted"]).output().unwrap().into()
    }

    /// Where this host is busy, somebody may be suspect for a moment.
    fn sees_others(&self, boot: &str, at: u64) {
        eventually("it has seen two others", || {
            assert!(!self.acts(boot, at, true), "others are there");
            let watched = read(&self.place.path().join("watched"));
            watched.contains("seen=yes\n") && watched.contains("probed=./probe\n")
        });
    }

    fn acts(&self, boot: &str, at: u64, network: bool) -> bool {
        let said = self.look(boot, at, if network { "true" } else { "false" });
        assert_eq!(said.code, 0, "{}", said.err);
        said.out == "acted\n"
    }

    /// Whether it acts at one of these looks, which are so close that they are of one time.
    fn acts_within(&self, boot: &str, from: u64, to: u64) -> bool {
        (from..to).step_by(150).chain([to]).any(|at| self.acts(boot, at, false))
    }

    fn remembers(&self, text: &str) {
        std::fs::write(self.place.path().join("watched"), text).unwrap();
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
    assert!(!watch.acts_within("b1", 5000, 5700));
    others.pop().unwrap().kill();
    kitchen.told(&["wait", "node", "garden", "lost", "--timeout", "60s"]);
    assert!(!watch.acts("b1", 9100, false), "it has to last");
    assert!(!watch.acts("b1", 10_000, false), "who slept did not see what was meanwhile");
    assert!(!watch.acts_within("b1", 10_000, 10_599));
    assert!(!watch.acts("b1", 10_600, true), "the others are off, and the network is there");

    // After a boot nobody was seen: that may be the power of the whole house.
    let kept = read(&place.path().join("watched"));
    assert!(!watch.acts_within("b2", 4000, 4700));
    std::fs::write(place.path().join("watched"), &kept).unwrap();
    assert!(watch.acts("b1", 10_601, false), "that is it");
    // Never in a loop: what did not help is not done again.
    assert!(!watch.acts_within("b1", 20_000, 20_700));
    assert!(!watch.acts_within("b3", 4000, 4700));

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
    assert!(!watch.acts_within("b4", 2900, 3599));
    assert!(watch.acts("b4", 3600, false));

    // What is damaged is nothing to act on; a node that is off says nothing.
    let kept = |since: &str, probed: &str| {
        let rest = "acted=\nacted_boot=";
        watch.remembers(&format!(
            "boot=b4\nsince={since}\nlooked=89990\nseen=yes\nprobed={probed}\n{rest}\n"
        ));
    };
    for odd in ["x", "08", "99999999999999999999", "-1"] {
        kept(odd, "./probe");
        let said = watch.look("b4", 90_000, "false");
        assert_eq!((said.code, said.out.as_str()), (0, ""), "{odd}: {}", said.err);
        assert!(said.err.contains("was damaged"), "{odd}: {}", said.err);
    }
    // A probe that never succeeded says nothing; one that hangs has failed.
    for probed in ["", "another"] {
        kept("80000", probed);
        let said = watch.look("b4", 90_000, "false");
        assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
        assert!(said.err.contains("give a --probe"), "{}", said.err);
    }
    kept("80000", "./probe");
    assert_eq!(watch.look("b4", 90_000, "yes").out, "acted\n");
    // What can't be remembered is not acted upon.
    kept("80000", "./probe");
    std::fs::create_dir(place.path().join("watched.new")).unwrap();
    let said = watch.look("b4", 90_000, "false");
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{}", said.err);
    let why = said.err.strip_prefix("watchdog.sh: watched can't be written");
    assert_eq!(why.map(|why| why.lines().count()), Some(1), "{}", said.err);
    std::fs::remove_dir(place.path().join("watched.new")).unwrap();
    kept("1", "./probe");
    let control = kitchen.control.clone();
    kitchen.told(&["stop"]);
    let said = watch.look("b4", 99_000, "false");
    assert_eq!((said.code, said.out.as_str()), (3, ""), "{}", said.err);
    assert!(!control.exists() && read(&place.path().join("watched")).contains("since=\n"));
}

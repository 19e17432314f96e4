//! Readings into MQTT and back, with a real broker that dies with all that it was not told to save.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use super::{Running, Shell, beside, folder, have, shells};
use crate::support::process::{Process, Said, binary, install, run_with};
use crate::support::{Place4Nodes, address_of_nobody, eventually};

/// A broker, and one who listens to all of it.
struct Broker {
    broker: Child,
    listener: Child,
    port: u16,
    heard: PathBuf,
}

impl Broker {
    fn start(place: &Place4Nodes, port: u16) -> Self {
        let file = place.path().join("mosquitto.conf");
        // It would become another user, who may not read this folder.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n\
             persistence true\npersistence_location {}/\nautosave_interval 0\n",
            place.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(place.path().join("mosquitto.log")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("mosquitto");
        command.env("PATH", format!("{path}:/usr/sbin")).arg("-c").arg(&file);
        let broker = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        eventually("the broker is there", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let heard = place.path().join("heard");
        let output = std::fs::File::create(&heard).unwrap();
        let mut command = Self::client("mosquitto_sub", port);
        command.args(["-t", "#", "-F", "%x %t"]).stdout(output);
        let listener = command.spawn().unwrap();
        Self { broker, listener, port, heard }
    }

    fn client(name: &str, port: u16) -> Command {
        let mut command = Command::new(name);
        command.args(["-h", "127.0.0.1", "-p"]).arg(port.to_string());
        command
    }

    /// Ends it as a crash does, and starts it with what it has saved.
    fn crashes(self, place: &Place4Nodes) -> Self {
        let port = self.port;
        drop(self);
        Self::start(place, port)
    }

    fn saves(&self, place: &Place4Nodes) {
        let file = place.path().join("mosquitto.db");
        kill_process(Pid::from_child(&self.broker), Signal::USR1).unwrap();
        eventually("the broker has saved", || file.exists());
    }

    fn publish(&self, topic: &str, bytes: &[u8]) {
        self.publish_with(topic, bytes, &[]);
    }

    fn publish_with(&self, topic: &str, bytes: &[u8], options: &[&str]) {
        let mut command = Self::client("mosquitto_pub", self.port);
        command.args(options);
        command.args(["-t", topic]).arg(if bytes.is_empty() { "-n" } else { "-s" });
        let said = run_with(&mut command, bytes);
        assert_eq!(said.code, 0, "{topic}: {}", said.err);
    }

    /// What was published last to each topic.
    fn topics(&self) -> BTreeMap<String, Vec<u8>> {
        let text = String::from_utf8(std::fs::read(&self.heard).unwrap()).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|line| line.split_once(' ').unwrap());
        lines.map(|(hex, topic)| (topic.to_owned(), unhex(hex))).collect()
    }

    fn has(&self, topic: &str, value: &str) -> bool {
        self.topics().get(topic).is_some_and(|bytes| bytes == value.as_bytes())
    }

    fn awaits(&self, topic: &str, value: &str) {
        eventually(&format!("{topic} is {value:?}"), || self.has(topic, value));
    }

    fn config(&self, node: &str, key: &str) -> Json {
        let topic = format!("homeassistant/sensor/{node}/{key}/config");
        eventually(&format!("{topic} is there"), || self.topics().contains_key(&topic));
        serde_json::from_slice(&self.topics()[&topic]).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for child in [&mut self.listener, &mut self.broker] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len() / 2).map(|at| &text[2 * at..2 * at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn set(node: &Process, key: &str, value: &[u8]) {
    let said: Said = run_with(&mut node.command(&["set", key, "-"]), value);
    assert_eq!(said.code, 0, "{}", said.err);
}

fn bridge(place: &Place4Nodes, shell: &Shell, node: &Process, broker: &Broker) -> Running {
    bridge_with(place, shell, node, broker.port, &[])
}

fn bridge_with(
    place: &Place4Nodes,
    shell: &Shell,
    node: &Process,
    port: u16,
    settings: &[(&str, &str)],
) -> Running {
    let mut command = shell.recipe(place, node, "mqtt.sh");
    command.env("MQTT_HOST", "127.0.0.1").env("MQTT_PORT", port.to_string());
    command.env("MQTT_SET", "mqtt/").env("MQTT_PROBE", "1");
    command.envs(settings.iter().copied());
    let log = std::fs::File::options().create(true).append(true).open(log_of(place));
    command.stderr(log.unwrap());
    Running::start(command)
}

fn log_of(place: &Place4Nodes) -> PathBuf {
    place.path().join("log")
}

fn logged(place: &Place4Nodes, words: &str, times: usize) {
    let count = || std::fs::read_to_string(log_of(place)).unwrap().matches(words).count();
    eventually(&format!("{words:?} is told"), || count() >= times);
}

/// The process whose arguments have both of these.
fn process_with(words: [&str; 2]) -> Option<Pid> {
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        words.iter().all(|word| line.contains(word)).then(|| Pid::from_raw(pid))?
    })
}

fn get(node: &Process, key: &str) -> Json {
    let said = node.ask(&["--json", "get", "self", key]);
    serde_json::from_str::<Json>(&said.out).map_or(Json::Null, |json| json["value"].clone())
}

fn ready() -> bool {
    have(&[("mosquitto", "mosquitto"), ("mosquitto_sub", "mosquitto-clients")])
}

fn free_port() -> u16 {
    // It can't pick a port that it tells: one that was free a moment ago.
    address_of_nobody().port()
}

/// Keys that would be one topic, or several, or none, or a wildcard, where they are written as is.
const HOSTILE: [(&str, &str); 9] = [
    ("a/b", "a_2Fb"),
    ("a_2Fb", "a__2Fb"),
    ("a+#b", "a_2B_23b"),
    ("$SYS", "_24SYS"),
    ("it's \"so\"\\", "it_27s_20_22so_22_5C"),
    ("{{ states }}", "_7B_7B_20states_20_7D_7D"),
    ("größe", "gr_C3_B6_C3_9Fe"),
    ("$(touch pwned)", "_24_28touch_20pwned_29"),
    ("%s%n", "_25s_25n"),
];

#[test]
fn readings_go_to_mqtt_and_commands_come_back() {
    if !ready() {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = beside(&place, &kitchen, "garden.1");
    let broker = Broker::start(&place, free_port());
    garden.told(&["set", "temperature_c=17.5", "door=open", "empty=", "roof/temperature_c=3"]);
    for (key, _) in HOSTILE {
        set(&garden, key, b"$(touch pwned)\n`touch pwned`");
    }
    set(&garden, "bytes", b"\xff\0x");
    let running = bridge(&place, &Shell::Default, &kitchen, &broker);

    // As Home Assistant discovers it.
    broker.awaits("dsn/state/garden_2E1/temperature__c", "17.5");
    let config = broker.config("garden_2E1", "temperature__c");
    assert_eq!(config["unique_id"], "dsn.garden_2E1.temperature__c");
    assert_eq!(config["state_topic"], "dsn/state/garden_2E1/temperature__c");
    let topics: Vec<&Json> =
        config["availability"].as_array().unwrap().iter().map(|it| &it["topic"]).collect();
    assert_eq!(topics, ["dsn/bridge/kitchen", "dsn/status/garden_2E1"]);
    assert_eq!(config["device"]["name"], "garden.1");
    let unit = (&config["unit_of_measurement"], &config["device_class"]);
    assert_eq!(unit, (&"°C".into(), &"temperature".into()));
    let roof = broker.config("garden_2E1", "roof_2Ftemperature__c");
    assert_eq!(roof["unit_of_measurement"], "°C");
    let config = broker.config("garden_2E1", "door");
    assert_eq!(
        (&config["unit_of_measurement"], &config["state_class"]),
        (&Json::Null, &Json::Null)
    );
    broker.awaits("dsn/bridge/kitchen", "online");
    broker.awaits("dsn/status/garden_2E1", "online");
    broker.awaits("dsn/state/garden_2E1/empty", "None");

    let mut ids = BTreeSet::new();
    for (key, level) in HOSTILE {
        let config = broker.config("garden_2E1", level);
        assert_eq!(config["name"], key);
        assert!(ids.insert(config["unique_id"].to_string()), "{key} has an id of its own");
        let topic = format!("dsn/state/garden_2E1/{level}");
        broker.awaits(&topic, "$(touch pwned)\n`touch pwned`");
    }
    eventually("bytes stay bytes", || {
        let topics = broker.topics();
        topics.get("dsn/state/garden_2E1/bytes").is_some_and(|it| it == b"\xff\0x")
    });

    // What changes, what is no number any more, and what goes.
    garden.told(&["set", "temperature_c=broken"]);
    garden.told(&["unset", "door"]);
    broker.awaits("dsn/state/garden_2E1/temperature__c", "broken");
    broker.awaits("homeassistant/sensor/garden_2E1/door/config", "");
    broker.awaits("dsn/state/garden_2E1/door", "");
    eventually("a word has no unit", || {
        broker.config("garden_2E1", "temperature__c")["device_class"] == Json::Null
    });

    takes_commands(&kitchen, &broker);
    assert!(!place.path().join("pwned").exists());
    assert_eq!(running.stop(), Some(0));
    broker.awaits("dsn/bridge/kitchen", "offline");
}

/// What comes back is data, and has bounds.
fn takes_commands(kitchen: &Process, broker: &Broker) {
    let awaits = |key: &str, value: Json| {
        eventually(&format!("{key} is {value}"), || get(kitchen, key) == value);
    };
    broker.publish("dsn/set/kitchen/lamp", b"$(touch pwned)\0`touch pwned`\n%s");
    awaits("mqtt/lamp", "$(touch pwned)\0`touch pwned`\n%s".into());
    broker.publish("dsn/set/kitchen/a $(touch pwned)/b", b"1");
    awaits("mqtt/a $(touch pwned)/b", "1".into());
    broker.publish("dsn/set/kitchen/a=b", b"1");
    broker.publish("dsn/set/kitchen/long", &[b'x'; 4097]);
    broker.publish("dsn/set/kitchen/huge", &[b'x'; 300_000]);
    broker.publish("dsn/set/kitchen/", b"1");
    broker.publish("dsn/set/garden_2E1/other", b"1");
    broker.publish("dsn/set/kitchen/lamp", b"");
    awaits("mqtt/lamp", Json::Null);
    // They came in order, so those before were looked at.
    let entries = kitchen.json(&["state", "self"])["entries"].clone();
    let keys: Vec<&String> = entries.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["mqtt/a $(touch pwned)/b"]);
}

#[test]
fn whoever_restarts_all_is_right_again() {
    if !ready() {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = beside(&place, &kitchen, "garden");
    let broker = Broker::start(&place, free_port());
    garden.told(&["set", "door=open", "light=off"]);
    let shell = shells(&place).pop().unwrap();
    let running = bridge(&place, &shell, &kitchen, &broker);
    broker.awaits("dsn/state/garden/door", "open");
    broker.awaits("dsn/state/garden/light", "off");

    // The broker has lost all.
    let broker = broker.crashes(&place);
    broker.awaits("dsn/bridge/kitchen", "online");
    broker.awaits("dsn/state/garden/door", "open");
    broker.config("garden", "light");

    // A node that dies, and comes back.
    let address = garden.address.clone();
    garden.kill();
    broker.awaits("dsn/status/garden", "offline");
    let garden = place.spawn_at("garden", &address, &[&kitchen.address]);
    broker.awaits("dsn/status/garden", "online");

    // The node that is asked: while it is off, nobody knows how the others do.
    let address = kitchen.address.clone();
    kitchen.kill();
    broker.awaits("dsn/bridge/kitchen", "offline");
    let kitchen = place.spawn_at("kitchen", &address, &[&garden.address]);
    broker.awaits("dsn/bridge/kitchen", "online");

    // A key that went while nobody looked; and what the bridge of another network announced.
    assert_eq!(running.stop(), Some(0));
    let theirs = [
        ("dsn/state/cellar/door", "shut"),
        ("dsn/status/cellar", "online"),
        ("homeassistant/sensor/cellar/door/config", "[{\"topic\":\"dsn/bridge/attic\"},{}]"),
    ];
    for (topic, text) in theirs {
        broker.publish_with(topic, text.as_bytes(), &["-r"]);
    }
    garden.told(&["unset", "light"]);
    kitchen.told(&["wait", "key", "garden", "light", "--gone", "--timeout", "60s"]);
    let running = bridge(&place, &shell, &kitchen, &broker);
    broker.awaits("homeassistant/sensor/garden/light/config", "");
    broker.awaits("dsn/state/garden/light", "");
    broker.awaits("dsn/state/garden/door", "open");

    // Of a node that is forgotten nothing stays.
    garden.kill();
    broker.awaits("dsn/status/garden", "offline");
    kitchen.told(&["forget", "garden"]);
    broker.awaits("dsn/state/garden/door", "");
    broker.awaits("dsn/status/garden", "");
    for (topic, text) in theirs {
        assert!(broker.has(topic, text), "{topic} was taken from another network");
    }

    // What dies without a word, as with a power cut, has left a will.
    broker.awaits("dsn/bridge/kitchen", "online");
    drop(running);
    broker.awaits("dsn/bridge/kitchen", "offline");
}

#[test]
fn what_a_crashed_broker_forgot_comes_again() {
    if !ready() {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let broker = Broker::start(&place, free_port());
    kitchen.told(&["set", "count=1"]);
    let temporary = place.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let settings = [("TMPDIR", temporary.to_str().unwrap())];
    let port = broker.port.to_string();
    let running = bridge_with(&place, &Shell::Default, &kitchen, broker.port, &settings);
    broker.awaits("dsn/state/kitchen/count", "1");
    broker.awaits("dsn/bridge/kitchen", "online");
    eventually("the will is held", || process_with([&port, "--will-topic"]).is_some());

    // All that was retained is there again, and old: it says online itself.
    broker.saves(&place);
    kitchen.told(&["set", "count=2", "new=1"]);
    broker.awaits("dsn/state/kitchen/count", "2");
    broker.awaits("dsn/state/kitchen/new", "1");
    let broker = broker.crashes(&place);
    broker.awaits("dsn/state/kitchen/count", "2");
    broker.awaits("dsn/state/kitchen/new", "1");
    broker.config("kitchen", "new");

    // Somebody cleans up temporary files, and later whoever hears the commands dies.
    std::fs::remove_dir_all(&temporary).unwrap();
    std::fs::create_dir(&temporary).unwrap();
    let subscriber = process_with([&port, "dsn/set/kitchen/#"]).expect("somebody hears commands");
    kill_process(subscriber, Signal::KILL).unwrap();
    broker.publish_with("dsn/set/kitchen/lamp", b"on", &["-r"]);
    eventually("commands come", || get(&kitchen, "mqtt/lamp") == "on");
    broker.config("kitchen", "mqtt_2Flamp");
    assert_eq!(running.stop(), Some(0));
}

/// No look at the broker helps here: a change that failed is tried until it has come through.
#[test]
fn no_change_is_lost_while_the_broker_is_away() {
    if !ready() {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let broker = Broker::start(&place, free_port());
    kitchen.told(&["set", "count=1"]);
    let shell = shells(&place).pop().unwrap();
    let settings = [("MQTT_PROBE", "600")];
    let running = bridge_with(&place, &shell, &kitchen, broker.port, &settings);
    broker.awaits("dsn/state/kitchen/count", "1");
    broker.awaits("dsn/bridge/kitchen", "online");
    broker.saves(&place);
    let port = broker.port;
    drop(broker);
    kitchen.told(&["set", "count=2"]);
    logged(&place, "kitchen count", 1);
    kitchen.told(&["set", "new=1"]);
    logged(&place, "kitchen new", 1);
    // Its old value never came through.
    kitchen.told(&["set", "new=2"]);
    // After 0, 1, 3 and 7 s, a line or more each.
    eventually("it was tried for long", || {
        let text = std::fs::read_to_string(log_of(&place)).unwrap();
        text.lines().filter(|it| it.contains("kitchen count") && it.contains("exit")).count() > 3
    });
    let broker = Broker::start(&place, port);
    broker.awaits("dsn/state/kitchen/count", "2");
    broker.awaits("dsn/state/kitchen/new", "2");
    broker.config("kitchen", "new");
    assert_eq!(running.stop(), Some(0));
}

/// Of a key that is gone two topics go; where one stays, the hook has failed.
#[test]
fn a_key_that_could_not_be_removed_is_tried_again() {
    if !ready() {
        return;
    }
    let mut command = Command::new(folder().join("mqtt.sh"));
    command.arg("--hook").env("MQTT_HOST", "127.0.0.1").env("MQTT_PORT", free_port().to_string());
    command.env("MQTT_BRIDGE", "dsn/bridge/kitchen").env("DSN_EVENT", "updated");
    command.env("DSN_NODE", "kitchen").env("DSN_KEY", "door").env("DSN_OLD", "open");
    let said: Said = command.output().unwrap().into();
    assert_ne!(said.code, 0, "{}", said.err);
}

#[test]
fn who_does_not_answer_is_waited_for_and_who_refuses_is_not() {
    if !ready() {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    // A broker that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let within = ("MQTT_WITHIN", "1");
    for shell in shells(&place) {
        let running = bridge_with(&place, &shell, &kitchen, port, &[within]);
        logged(&place, "does not take it, and is waited for: no answer in 1 s", 1);
        assert_eq!(running.stop(), Some(0));

        // A node that says nothing.
        let fake = |name: &str, text: &str| {
            let file = place.path().join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            let program = place.path().join(format!("{name}.sh"));
            install(&file, &program);
            program.display().to_string()
        };
        let hangs = fake("hangs", "exec sleep 60");
        let running = bridge_with(&place, &shell, &kitchen, port, &[within, ("DSN_BIN", &hangs)]);
        logged(&place, "no node answers; it is waited for", 1);
        assert_eq!(running.stop(), Some(0));

        let refuses = fake("refuses", "echo 'dsn: you may not' >&2; exit 1");
        let mut command = shell.recipe(&place, &kitchen, "mqtt.sh");
        let said: Said = command.env("DSN_BIN", &refuses).output().unwrap().into();
        assert_eq!(said.code, 1, "{}", said.err);
        assert!(said.err.contains("you may not"), "{}", said.err);
        std::fs::remove_file(log_of(&place)).unwrap();
    }
    for port in ["abc", "0", "70000", "1 "] {
        let mut command = Command::new(folder().join("mqtt.sh"));
        command.env("DSN_BIN", binary()).env("MQTT_PORT", port);
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("MQTT_PORT"), "{}", said.err);
    }
}

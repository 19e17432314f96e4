//! Readings into MQTT and back, with a real broker that loses all when it is started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;

use super::{Running, Shell, beside, have, shells};
use crate::support::process::{Process, Said, run_with};
use crate::support::{Place4Nodes, eventually};

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
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n");
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

    fn publish(&self, topic: &str, bytes: &[u8]) {
        let mut command = Self::client("mosquitto_pub", self.port);
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
    let mut command = shell.recipe(place, node, "mqtt.sh");
    command.env("MQTT_HOST", "127.0.0.1").env("MQTT_PORT", broker.port.to_string());
    command.env("MQTT_SET", "mqtt/").env("MQTT_PROBE", "1");
    let log = std::fs::File::options().create(true).append(true).open(place.path().join("log"));
    command.stderr(log.unwrap());
    Running::start(command)
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
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
    garden.told(&["set", "temperature_c=17.5", "door=open", "empty="]);
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
    let port = broker.port;
    drop(broker);
    let broker = Broker::start(&place, port);
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

    // A key that went while nobody looked.
    assert_eq!(running.stop(), Some(0));
    garden.told(&["unset", "light"]);
    kitchen.told(&["wait", "key", "garden", "light", "--gone", "--timeout", "60s"]);
    let running = bridge(&place, &shell, &kitchen, &broker);
    broker.awaits("homeassistant/sensor/garden/light/config", "");
    broker.awaits("dsn/state/garden/light", "");
    broker.awaits("dsn/state/garden/door", "open");

    // What dies without a word, as with a power cut, has left a will.
    broker.awaits("dsn/bridge/kitchen", "online");
    drop(running);
    broker.awaits("dsn/bridge/kitchen", "offline");
}

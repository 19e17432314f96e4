//! A real browser without a window, moved over WebDriver: Debian's chromium and chromium-driver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// Names a reference to an element in JSON (W3C WebDriver, 12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The Enter key.
pub const ENTER: &str = "\u{E007}";

/// A browser with one tab and no past.
pub struct Browser {
    agent: ureq::Agent,
    driver: Child,
    session: String,
    /// Its home and its profile.
    _folder: TempDir,
}

impl Browser {
    /// Starts one; nothing where there is none here, which is said.
    pub fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", folder.path());
        let driver = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = driver.spawn() else {
            let why = "chromedriver is not here; `apt-get install chromium chromium-driver`";
            super::skip("DSN_REQUIRE_BROWSER", why);
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = loop {
            let line = lines.next().expect("it says its port").unwrap();
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        // Whoever does not read it may stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let base = format!("http://127.0.0.1:{port}");
        let mut browser = Self { agent, driver, session: base, _folder: folder };
        let profile = format!("--user-data-dir={}", browser._folder.path().join("p").display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            profile.as_str(),
            "about:blank",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.post("/session", &wanted);
        browser.session += &format!("/session/{}", session["sessionId"].as_str().unwrap());
        // What it opened by itself, and asked for there, is not ours.
        browser.open("about:blank");
        browser.requests();
        Some(browser)
    }

    fn post(&self, path: &str, body: &Json) -> Json {
        let address = format!("{}{path}", self.session);
        let request = self.agent.post(&address).header("Content-Type", "application/json");
        let mut answer = request.send(body.to_string()).unwrap();
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        assert!(answer.status().is_success(), "{path}: {text}");
        serde_json::from_str::<Json>(&text).unwrap()["value"].take()
    }

    pub fn open(&self, address: &str) {
        self.post("/url", &json!({ "url": address }));
    }

    /// Runs the body of a function in the page; gives what it returns.
    pub fn run(&self, script: &str) -> Json {
        self.run_with(script, &json!([]))
    }

    /// The same with arguments.
    pub fn run_with(&self, script: &str, arguments: &Json) -> Json {
        self.post("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// Waits until an expression in the page holds.
    pub fn wait(&self, what: &str, expression: &str) {
        let script = format!("return Boolean({expression})");
        eventually(what, || self.run(&script) == true);
    }

    /// Types into the element that has the focus.
    pub fn press(&self, keys: &str) {
        let keys = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let keys: Vec<Json> = keys.collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] });
        self.post("/actions", &actions);
    }

    /// Clicks on an element, as a person would.
    pub fn click(&self, selector: &str) {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let element = found[ELEMENT].as_str().unwrap().to_owned();
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    fn devtools(&self, command: &str, parameters: Json) -> Json {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// A window so large, in CSS pixels, on a screen with so many pixels for each.
    pub fn resize(&self, width: u32, height: u32, scale: u32) {
        let parameters = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", parameters);
    }

    /// `light` or `dark`, as its owner likes it.
    pub fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// What a screen reader is told: role and name of each element that has both.
    pub fn spoken(&self) -> Vec<(String, String)> {
        self.devtools("Accessibility.enable", json!({}));
        let tree = self.devtools("Accessibility.getFullAXTree", json!({}));
        let text =
            |node: &Json, field: &str| node[field]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let nodes = nodes.filter(|node| node["ignored"] != true);
        nodes.map(|node| (text(node, "role"), text(node, "name"))).collect()
    }

    /// A picture of what is seen, as a file.
    pub fn picture(&self, file: &Path) {
        let mut answer = self.agent.get(format!("{}/screenshot", self.session)).call().unwrap();
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(json["value"].as_str().unwrap());
        std::fs::write(file, bytes.unwrap()).unwrap();
    }

    fn log(&self, kind: &str) -> Vec<Json> {
        self.post("/se/log", &json!({ "type": kind })).as_array().unwrap().clone()
    }

    /// What the console has since the last look, but for hints to programmers.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").into_iter();
        let entries = entries.filter(|it| it["level"] != "DEBUG" && it["level"] != "INFO");
        entries.map(|it| it["message"].as_str().unwrap().to_owned()).collect()
    }

    /// All addresses that were asked for since the last look.
    pub fn requests(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in self.log("performance") {
            let text = entry["message"].as_str().unwrap();
            let message: Json = serde_json::from_str(text).unwrap();
            if message["message"]["method"] == "Network.requestWillBeSent" {
                let url = &message["message"]["params"]["request"]["url"];
                found.push(url.as_str().unwrap().to_owned());
            }
        }
        found
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser, which is no child of ours.
        let _ = self.agent.delete(&self.session).call();
        std::thread::park_timeout(Duration::from_millis(50));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

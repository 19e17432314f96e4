//! `dsn top` in a real terminal: tmux.

use std::process::Command;

use crate::support::process::{Process, binary};
use crate::support::{Place4Nodes, eventually, skip};

/// A terminal with a shell in it. Its server ends with it.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    /// Starts one, where there is tmux.
    fn start(place: &Place4Nodes) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            skip("DSN_REQUIRE_TMUX", "there is no tmux (apt-get install tmux)");
            return None;
        }
        let terminal = Self { socket: place.path().join("tmux.sock") };
        let shell = "env PS1='shell> ' TERM=screen sh";
        terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "30", shell]);
        terminal.await_text("shell>");
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        let output = command.arg("-u").arg("-S").arg(&self.socket).args(["-f", "/dev/null"]);
        let output = output.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn keys(&self, keys: &[&str]) {
        let all: Vec<&str> = ["send-keys"].into_iter().chain(keys.iter().copied()).collect();
        self.tmux(&all);
    }

    /// Types a line into the shell.
    fn line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    fn await_text(&self, text: &str) {
        let mut last = String::new();
        eventually(&format!("{text:?} is on the screen"), || {
            last = self.screen();
            last.contains(text)
        });
    }

    fn await_without(&self, text: &str) {
        eventually(&format!("{text:?} is gone"), || !self.screen().contains(text));
    }

    /// The shell is back, and the terminal is as it was: it echoes, and has its cursor.
    fn await_shell(&self) {
        self.await_without("this node");
        self.line("stty -a | grep -o ' icanon\\| echo ' | sort | tr '\\n' ,; echo");
        self.await_text("echo , icanon,");
        assert_eq!(self.tmux(&["display-message", "-p", "#{cursor_flag}"]).trim(), "1");
        assert_eq!(self.tmux(&["display-message", "-p", "#{alternate_on}"]).trim(), "0");
        assert_eq!(self.tmux(&["display-message", "-p", "#{wrap_flag}"]).trim(), "1");
        self.line("clear");
        self.await_without("icanon");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

/// What is typed to watch a node.
fn top_of(node: &Process) -> String {
    format!("{} --control {} top", binary().display(), node.control.display())
}

#[test]
fn nodes_keys_and_changes_are_seen_as_they_come() {
    let place = Place4Nodes::new();
    let Some(terminal) = Terminal::start(&place) else { return };
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&kitchen.address]);
    garden.told(&["set", "door=open", "evil=\u{1b}[2J\u{202e}x"]);
    kitchen.told(&["wait", "peers", "1", "--timeout", "60s"]);
    kitchen.told(&["wait", "key", "garden", "door", "open", "--timeout", "60s"]);

    terminal.line(&top_of(&kitchen));
    terminal.await_text("this node");
    terminal.await_text("garden   alive");
    garden.told(&["set", "rain", "yes"]);
    terminal.await_text("updated garden rain=yes");

    // It opens to its keys, and goes back.
    terminal.keys(&["Home", "Enter"]);
    terminal.await_text("door=open");
    terminal.await_text("evil=\\u{1b}[2J\\u{202e}x");
    garden.told(&["set", "door", "closed"]);
    terminal.await_text("door=closed");
    terminal.keys(&["Escape"]);
    terminal.await_text("NODE");

    // Only what has a text.
    terminal.keys(&["/", "k", "i", "t", "Enter"]);
    terminal.await_without("garden   alive");
    terminal.await_text("kitchen  alive");
    terminal.keys(&["Escape"]);
    terminal.await_text("garden   alive");

    // A terminal of another size is filled, and no more.
    terminal.tmux(&["resize-window", "-x", "40", "-y", "8"]);
    eventually("the foot stands in the last line", || {
        let screen = terminal.screen();
        screen.lines().nth(7).is_some_and(|line| line.contains("arrows choose"))
    });
    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);

    garden.kill();
    terminal.await_text("garden   lost");
    terminal.keys(&["q"]);
    terminal.await_shell();
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() {
    let place = Place4Nodes::new();
    let Some(terminal) = Terminal::start(&place) else { return };
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let top = top_of(&kitchen);
    terminal.line(&top);
    terminal.await_text("this node");
    terminal.keys(&["C-c"]);
    terminal.await_shell();

    for signal in ["TERM", "INT", "HUP"] {
        // The number of the process is that of the shell that becomes it.
        let file = place.path().join(format!("pid-{signal}"));
        terminal.line(&format!("sh -c 'echo $$ > {}; exec {top}'", file.display()));
        terminal.await_text("this node");
        let pid = std::fs::read_to_string(&file).unwrap();
        let sent = Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status();
        assert!(sent.unwrap().success());
        terminal.await_shell();
    }

    // Stopped and taken up again.
    terminal.line(&top);
    terminal.await_text("this node");
    terminal.keys(&["C-z"]);
    terminal.await_shell();
    terminal.line("fg");
    terminal.await_text("this node");

    // The node ends, which is said, and comes back.
    let listen = kitchen.address.clone();
    kitchen.kill();
    terminal.await_text("no news for");
    let kitchen = place.spawn_at("kitchen", &listen, &[]);
    terminal.await_without("no news for");
    kitchen.told(&["set", "door=open"]);
    terminal.await_text("updated kitchen door=open");
    terminal.keys(&["q"]);
    terminal.await_shell();
}

#[test]
fn a_script_gets_the_table_once() {
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &["127.0.0.1:1"]);
    kitchen.told(&["set", "a=1", "b=2"]);
    let said = kitchen.ask(&["top", "--once"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.starts_with("kitchen  127.0.0.1:"), "{}", said.out);
    assert!(said.out.contains("\nNODE     STATUS  ADDRESS"), "{}", said.out);
    assert!(!said.out.contains('\u{1b}'), "{}", said.out);
    let none = kitchen.ask(&["top", "--once", "--filter", "nobody"]);
    assert!(none.out.ends_with("WHY\n"), "{}", none.out);
    let json: serde_json::Value = kitchen.json(&["top", "--once"]);
    assert_eq!(json["status"]["node_id"], "kitchen");
    assert!(json["peers"].is_array());

    // Without a terminal there is no full screen, and without a node nothing to show.
    let said = kitchen.ask(&["top"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("terminal") && said.err.contains("--once"), "{}", said.err);
    let said = kitchen.ask(&["top", "--sort", "size"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("heard"), "{}", said.err);
    let mut gone = kitchen.command(&["top", "--once"]);
    kitchen.kill();
    assert_eq!(crate::support::process::run_with(&mut gone, b"").code, 3);
}

/// A terminal that can't draw is told what else there is, before a node is looked for.
#[test]
fn a_terminal_that_is_not_known_gets_no_full_screen() {
    let dsn = crate::support::process::binary();
    let line = format!("'{}' --control nowhere top", dsn.display());
    for name in [None, Some(""), Some("dumb"), Some("unknown")] {
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env_remove("TERM").env_remove("DSN_CONTROL");
        if let Some(name) = name {
            script.env("TERM", name);
        }
        let output = script.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name:?}: {said}");
        assert!(said.contains("`dsn top --once` prints the table"), "{name:?}: {said}");
        assert!(said.contains("TERM") && !said.contains('\x1b'), "{name:?}: {said}");
    }
}

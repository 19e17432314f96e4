//! The commands that talk to a running node, and `keygen`.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsn::control::{ControlClient, bytes_to_json};
use dsn::credentials::{self, CredentialsError};
use dsn::protocol::DATA_BYTES_MAX;
use dsn::protocol::identity::hex;
use serde_json::{Map, Value as Json, json};

use super::args::{Command, KeyCommand, Options, WaitFor};
use super::{Fault, connect, explain, find_socket, print};

/// How much longer than the node the command waits, so that the node's own answer comes first.
const GRACE: Duration = Duration::from_secs(5);
/// How long the command waits for the node to be gone after it was asked to stop.
const STOP_TIME: Duration = Duration::from_secs(10);

/// `dsn keygen`
pub(super) fn keygen(file: &Path) -> Result<(), Fault> {
    credentials::create_network_key(file).map_err(|fault| match fault {
        CredentialsError::Unusable { path, why } => Fault::Usage(format!(
            "{} can't be made: {why}. Name another place: dsn keygen FILE",
            path.display()
        )),
        other => other.into(),
    })?;
    writeln!(stdout(), "made {}; copy it to every node of the network", file.display())?;
    Ok(())
}

/// Connects to the node and does what was asked.
pub(super) fn ask(command: Command, options: &Options) -> Result<(), Fault> {
    // What was typed is checked before a node is looked for.
    let request = request_of(&command)?;
    let path = find_socket(options.control.clone())?;
    let node = connect(&path)?;
    Asking { node, path, options }.perform(&command, request)
}

/// The line that is sent, but for its timeout.
fn request_of(command: &Command) -> Result<Map<String, Json>, Fault> {
    let request = match command {
        Command::Run(_) | Command::Keygen { .. } | Command::Status => json!({ "op": "status" }),
        Command::Peers { .. } => json!({ "op": "peers" }),
        Command::State { node } => json!({ "op": "state", "node": node }),
        Command::Get { node, key, .. } => json!({ "op": "get", "node": node, "key": key }),
        Command::Set { pairs } => json!({ "op": "set", "entries": entries_of(pairs)? }),
        Command::Unset { keys } => json!({ "op": "unset", "keys": keys }),
        Command::Ping { node } => json!({ "op": "ping", "node": node }),
        Command::Send { node, data } => {
            let data = value_of("send", data)?;
            json!({ "op": "send", "node": node, "data": bytes_to_json(&data) })
        }
        Command::Recv { follow, .. } => json!({ "op": "recv", "follow": follow, "ack": true }),
        Command::Watch { node, key } => json!({ "op": "watch", "node": node, "key": key }),
        Command::Wait { what: WaitFor::Peers { count } } => {
            json!({ "op": "wait_peers", "count": count })
        }
        Command::Wait { what: WaitFor::Key { node, key, value } } => {
            let value = value.as_ref().map(|value| bytes_to_json(value.as_bytes()));
            json!({ "op": "wait_key", "node": node, "key": key, "value": value })
        }
        Command::Key { what } => key_request(what)?,
        Command::Forget { lost: true, .. } => json!({ "op": "forget", "lost": true }),
        Command::Forget { nodes, .. } => json!({ "op": "forget", "nodes": nodes }),
        Command::Leave => json!({ "op": "leave" }),
        Command::Stop => json!({ "op": "stop" }),
    };
    match request {
        Json::Object(request) => Ok(request),
        _ => Ok(Map::new()),
    }
}

fn key_request(what: &KeyCommand) -> Result<Json, Fault> {
    Ok(match what {
        KeyCommand::List => json!({ "op": "key", "do": "list" }),
        KeyCommand::Reload => json!({ "op": "key", "do": "reload" }),
        KeyCommand::Use { name } => json!({ "op": "key", "do": "use", "name": name }),
        KeyCommand::Remove { name } => json!({ "op": "key", "do": "remove", "name": name }),
        KeyCommand::Add { file } => {
            let keys = if file.as_os_str() == "-" {
                let text = String::from_utf8(read_stdin()?).map_err(|_| not_a_key("stdin"))?;
                credentials::parse_network_key(Path::new("stdin"), &text)?
            } else {
                credentials::load_network_key(file)?
            };
            let [key] = keys.as_slice() else {
                return Err(not_a_key(&file.display().to_string()));
            };
            json!({ "op": "key", "do": "add", "key": hex(&**key) })
        }
    })
}

fn not_a_key(place: &str) -> Fault {
    Fault::Usage(format!("{place} has not one key; `dsn keygen FILE` makes a file that has"))
}

/// `KEY VALUE` or `KEY=VALUE …`: two words of which the first has no `=` are the former.
fn entries_of(words: &[OsString]) -> Result<Map<String, Json>, Fault> {
    if let [key, value] = words
        && !key.as_bytes().contains(&b'=')
    {
        let value = value_of("set", value)?;
        return Ok(Map::from_iter([(key_of(key.as_bytes())?, bytes_to_json(&value))]));
    }
    let mut entries = Map::new();
    for word in words {
        let word = no_option("set", word)?.as_bytes();
        let Some(at) = word.iter().position(|byte| *byte == b'=') else {
            let word = String::from_utf8_lossy(word);
            return Err(Fault::Usage(format!(
                "{word:?} is not KEY=VALUE; use `dsn set KEY VALUE` for one key, `dsn set K1=V1 K2=V2` for several"
            )));
        };
        let (key, value) = word.split_at(at);
        let (key, value) = (key_of(key)?, value.get(1..).unwrap_or_default());
        if entries.contains_key(&key) {
            return Err(Fault::Usage(format!("the key {key:?} is given twice")));
        }
        entries.insert(key, bytes_to_json(value));
    }
    Ok(entries)
}

fn key_of(bytes: &[u8]) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        Fault::Usage(format!(
            "the key {:?} is not UTF-8; only values can be any bytes",
            String::from_utf8_lossy(bytes)
        ))
    })
}

/// A value as it was typed, all bytes of it; `-` takes stdin.
fn value_of(command: &str, word: &OsStr) -> Result<Vec<u8>, Fault> {
    if word == "-" { read_stdin() } else { Ok(no_option(command, word)?.as_bytes().to_vec()) }
}

/// A value may begin with `-`. One of our own options in its place is most likely a slip.
fn no_option<'a>(command: &str, word: &'a OsStr) -> Result<&'a OsStr, Fault> {
    let text = word.to_string_lossy();
    let name = text.split('=').next().unwrap_or_default();
    if !["--json", "--timeout", "--control"].contains(&name) {
        return Ok(word);
    }
    Err(Fault::Usage(format!(
        "{name} stands where a value is expected; options come first: dsn {name} … {command} …. For this very value \
         use stdin (`-`)"
    )))
}

/// All of stdin, which is bounded by the largest message.
fn read_stdin() -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    stdin()
        .take(DATA_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|why| Fault::Usage(format!("stdin can't be read: {why}")))?;
    if bytes.len() > DATA_BYTES_MAX {
        return Err(Fault::Usage(format!("stdin has more than {DATA_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

struct Asking<'a> {
    node: ControlClient,
    path: PathBuf,
    options: &'a Options,
}

impl Asking<'_> {
    fn perform(mut self, command: &Command, mut request: Map<String, Json>) -> Result<(), Fault> {
        let timeout_ms = u64::try_from(self.options.timeout.as_millis()).unwrap_or(u64::MAX);
        request.insert("timeout_ms".into(), timeout_ms.into());
        let request = Json::Object(request);
        match command {
            Command::Recv { follow, raw } => return self.receive(&request, *follow, *raw),
            Command::Watch { .. } => return self.watch(&request),
            Command::Leave | Command::Stop => return self.stop(&request),
            _ => {}
        }
        let mut result = match command {
            Command::State { node: None } => self.all_states()?,
            _ => self.call(&request)?,
        };
        if let (Command::Peers { all: false }, Json::Array(peers)) = (command, &mut result) {
            peers.retain(|peer| !matches!(print::text(peer, "status"), "lost" | "left"));
        }
        if self.options.json {
            writeln!(stdout(), "{}", print::json(&result))?;
            return Ok(());
        }
        let text = match command {
            Command::Status => print::status(&result),
            Command::Peers { .. } => print::peers(&result),
            Command::State { .. } => print::states(&result),
            Command::Get { raw, .. } => return print_bytes(result.get("value"), *raw),
            Command::Key { .. } => print::keys(&result),
            Command::Ping { node } => print::ping(node, &result),
            Command::Forget { lost: true, .. } => print::forgotten(&result),
            // No news is good news: the exit code tells.
            _ => String::new(),
        };
        stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    fn call(&mut self, request: &Json) -> Result<Json, Fault> {
        let timeout = self.options.timeout.saturating_add(GRACE);
        self.node.call(request, timeout).map_err(|failure| explain(failure, &self.path))
    }

    /// The states of all, one after the other: together they may be too long for a line.
    fn all_states(&mut self) -> Result<Json, Fault> {
        let own = self.call(&json!({ "op": "status" }))?;
        let peers = self.call(&json!({ "op": "peers" }))?;
        let peers = peers.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut states = Vec::with_capacity(1 + peers.len());
        for node in std::iter::once(&own).chain(peers) {
            let node = print::text(node, "node_id");
            match self.call(&json!({ "op": "state", "node": node })) {
                Ok(state) => states.push(state),
                // It was forgotten meanwhile.
                Err(Fault::No(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Json::Array(states))
    }

    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Json>, Fault> {
        self.node.next_result(timeout).map_err(|failure| explain(failure, &self.path))
    }

    /// Each message is acknowledged when it is printed, and only then gone from the inbox.
    fn receive(mut self, request: &Json, follow: bool, raw: bool) -> Result<(), Fault> {
        self.node.ask(request).map_err(|failure| explain(failure, &self.path))?;
        let timeout = (!follow).then(|| self.options.timeout.saturating_add(GRACE));
        while let Some(message) = self.next(timeout)? {
            if self.options.json {
                writeln!(stdout(), "{}", print::json(&message))?;
            } else {
                print_bytes(message.get("data"), raw)?;
            }
            stdout().flush()?;
            self.node
                .ask(&json!({ "op": "ack" }))
                .map_err(|failure| explain(failure, &self.path))?;
            if !follow {
                break;
            }
        }
        Ok(())
    }

    fn watch(mut self, request: &Json) -> Result<(), Fault> {
        self.node.ask(request).map_err(|failure| explain(failure, &self.path))?;
        while let Some(event) = self.next(None)? {
            if print::text(&event, "event") == "watching" {
                continue;
            }
            let line = if self.options.json { print::json(&event) } else { print::event(&event) };
            writeln!(stdout(), "{line}")?;
            stdout().flush()?;
        }
        Ok(())
    }

    /// Waits until the node is gone: it ends the connection when all else is ended.
    fn stop(mut self, request: &Json) -> Result<(), Fault> {
        let result = self.call(request)?;
        match self.next(Some(STOP_TIME)) {
            Ok(_) | Err(Fault::NoNode(_)) => {}
            Err(fault) => return Err(fault),
        }
        let not_told: Vec<&str> = result
            .get("not_told")
            .and_then(Json::as_array)
            .map(|nodes| nodes.iter().filter_map(Json::as_str).collect())
            .unwrap_or_default();
        if not_told.is_empty() {
            return Ok(());
        }
        Err(Fault::No(format!(
            "the node left and has stopped, but could not tell {}: they call it lost until others pass the goodbye on",
            not_told.join(", ")
        )))
    }
}

/// The bytes, with a newline behind a text unless they are wanted raw. A terminal gets none that it
/// would act on.
fn print_bytes(json: Option<&Json>, raw: bool) -> Result<(), Fault> {
    let bytes = json.and_then(dsn::control::bytes_from_json).unwrap_or_default();
    let mut out = stdout();
    if out.is_terminal() && !raw {
        writeln!(out, "{}", print::for_a_terminal(&bytes))?;
    } else {
        out.write_all(&bytes)?;
        if !raw && str::from_utf8(&bytes).is_ok() {
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(words: &[&str]) -> Result<Json, ()> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        entries_of(&words).map(Json::Object).map_err(|_| ())
    }

    #[test]
    fn one_key_or_pairs() {
        assert_eq!(entries(&["k", "v"]), Ok(json!({ "k": "v" })));
        assert_eq!(entries(&["url", "http://x/?a=b"]), Ok(json!({ "url": "http://x/?a=b" })));
        assert_eq!(entries(&["a=1", "b=x=y"]), Ok(json!({ "a": "1", "b": "x=y" })));
        assert_eq!(entries(&["a="]), Ok(json!({ "a": "" })));
        assert_eq!(entries(&["a", "-5"]), Ok(json!({ "a": "-5" })));
        assert_eq!(entries(&["a=--json"]), Ok(json!({ "a": "--json" })));
        for wrong in [
            &["a=1", "b"][..],
            &["a"],
            &["a", "b", "c"],
            &["a=1", "a=2"],
            &["a", "--json"],
            &["a=1", "--timeout=5s"],
        ] {
            assert_eq!(entries(wrong), Err(()), "{wrong:?}");
        }
    }
}

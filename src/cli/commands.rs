//! The commands that talk to a running node, and `keygen`.

use std::ffi::OsString;
use std::io::{Write, stderr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsn::advice::{advice, is_wrong_name};
use dsn::control::{ControlClient, Failure, bytes_to_json};
use dsn::credentials::{self, CredentialsError};
use dsn::protocol::DATA_BYTES_MAX;
use dsn::protocol::identity::hex;
use dsn::protocol::lease::Ttl;
use serde_json::{Map, Value as Json, json};

use super::args::{Command, KeyCommand, Options, WaitFor};
use super::follow::{Following, Form, Plan, Taker};
use super::streams::{read_stdin, stdout};
use super::typed::{entries_of, only_key, value_of};
use super::{Fault, entries, metrics, print, socket, was_done};

/// How much longer than the node the command waits, so that the node's own answer comes first.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long the command waits for the node to be gone after it was asked to stop.
const STOP_TIME: Duration = Duration::from_secs(10);

/// `dsn keygen`
pub(super) fn keygen(file: &Path) -> Result<(), Fault> {
    if file.as_os_str() == "-" {
        stdout().write_all(credentials::new_network_key()?.as_bytes())?;
        return Ok(());
    }
    credentials::create_network_key(file).map_err(|fault| match fault {
        CredentialsError::Unusable { path, why } => {
            let step = advice(&why, &path, "name another place: dsn keygen FILE");
            let text = format!("{} can't be made: {step}", path.display());
            if is_wrong_name(&why) { Fault::Usage(text) } else { Fault::No(text) }
        }
        other => other.into(),
    })?;
    writeln!(stdout(), "made {}; copy it to every node of the network", file.display())
        .map_err(was_done(&format!("made {}", file.display())))
}

/// Connects to the node and does what was asked.
pub(super) fn ask(command: Command, options: &Options) -> Result<(), Fault> {
    // What was typed is checked before a node is looked for.
    check_keys(&command)?;
    let request = request_of(&command, options)?;
    if let Some((taker, plan)) = follows(&command) {
        return Following::new(options, taker, plan).run(Json::Object(request));
    }
    let path = socket::find(options)?;
    let node = socket::connect(&path, options)?;
    Asking { node, path, options }.perform(&command, Json::Object(request))
}

/// A key with its value in the place of a key is a slip that nothing would ever fit.
fn check_keys(command: &Command) -> Result<(), Fault> {
    match command {
        Command::Unset { keys } => keys.iter().try_for_each(|key| only_key("KEY", key)),
        Command::Get { node, key, all, alive, prefix, .. } => {
            let key = if *all || *alive { node } else { key };
            key.iter().try_for_each(|key| only_key("KEY", key))?;
            prefix.iter().try_for_each(|prefix| only_key("--prefix", prefix))
        }
        Command::Watch { key: Some(prefix), .. } => only_key("--key", prefix),
        Command::Wait { what: WaitFor::Key { key, .. } } => only_key("KEY", key),
        _ => Ok(()),
    }
}

/// What goes on until something ends it, and when that is.
fn follows(command: &Command) -> Option<(Taker, Plan)> {
    match command {
        Command::Watch { count, reconnect, .. } => {
            Some((Taker::Events, Plan { count: *count, reconnect: *reconnect, is_timed: true }))
        }
        Command::Recv { follow, count, reconnect, sender, null, raw, .. } => {
            let goes_on = *follow || count.is_some() || *reconnect;
            let end = match (*null, *raw) {
                (true, _) => Some(0),
                (false, false) if goes_on => Some(b'\n'),
                _ => None,
            };
            let count = if goes_on { *count } else { Some(1) };
            let plan = Plan { count, reconnect: *reconnect, is_timed: goes_on };
            Some((Taker::Messages(Form { sender: *sender, raw: *raw, end }), plan))
        }
        _ => None,
    }
}

/// The line that is sent.
fn request_of(command: &Command, options: &Options) -> Result<Map<String, Json>, Fault> {
    let request = match command {
        Command::Run(_)
        | Command::Keygen { .. }
        | Command::Top { .. }
        | Command::On(_)
        | Command::Status { .. } => {
            json!({ "op": "status" })
        }
        Command::Peers { .. } => json!({ "op": "peers" }),
        Command::Metrics { .. } => json!({ "op": "metrics" }),
        Command::State { node } => json!({ "op": "state", "node": node }),
        Command::Get { .. } => get_request(command)?,
        Command::Set { ttl, from, pairs } => {
            // Its limits were checked as it was parsed.
            let ttl = ttl.map(Ttl::try_from).transpose().map_err(Fault::usage)?;
            let entries = match from {
                Some(file) => entries::read(file)?,
                None => entries_of(pairs)?,
            };
            json!({ "op": "set", "entries": entries, "ttl_ms": ttl.map(Ttl::as_ms) })
        }
        Command::Unset { keys } => json!({ "op": "unset", "keys": keys }),
        Command::Ping { node } => json!({ "op": "ping", "node": node }),
        Command::Send { node, data } => {
            let data = value_of("send", data)?;
            json!({ "op": "send", "node": node, "data": bytes_to_json(&data) })
        }
        Command::Recv { follow, count, reconnect, from, unknown, .. } => json!({
            "op": "recv", "follow": *follow || count.is_some() || *reconnect, "ack": true,
            "from": from, "unknown": unknown,
        }),
        Command::Watch { node, key, initial, unknown, .. } => json!({
            "op": "watch", "node": node, "key": key, "initial": initial, "unknown": unknown,
        }),
        Command::Wait { what } => wait_request(what),
        Command::Key { what } => key_request(what)?,
        Command::Forget { lost: true, .. } => json!({ "op": "forget", "lost": true }),
        Command::Forget { nodes, .. } => json!({ "op": "forget", "nodes": nodes }),
        Command::Leave => json!({ "op": "leave" }),
        Command::Stop => json!({ "op": "stop" }),
    };
    let Json::Object(mut request) = request else { return Ok(Map::new()) };
    let timeout_ms = u64::try_from(options.timeout().as_millis()).unwrap_or(u64::MAX);
    request.insert("timeout_ms".into(), timeout_ms.into());
    Ok(request)
}

/// One key of one node or of all, or the keys that begin alike.
fn get_request(command: &Command) -> Result<Json, Fault> {
    let Command::Get { node, key, all, alive, prefix, .. } = command else {
        return Ok(Json::Null);
    };
    let usage = |text: &str| Err(Fault::Usage(format!("{text}; see dsn get --help")));
    let of_all = *all || *alive;
    match (of_all, node, key, prefix) {
        (false, Some(node), Some(key), None) => {
            Ok(json!({ "op": "get", "node": node, "key": key }))
        }
        (false, Some(node), None, Some(prefix)) => {
            Ok(json!({ "op": "state", "node": node, "prefix": prefix }))
        }
        (true, Some(key), None, None) => Ok(json!({ "op": "get", "key": key })),
        (true, None, None, Some(prefix)) => Ok(json!({ "op": "state", "prefix": prefix })),
        (true, ..) => usage("with --all and --alive goes a KEY or --prefix PREFIX, and no node"),
        (false, Some(_), Some(_), Some(_)) => usage("either a KEY or --prefix PREFIX goes"),
        (false, Some(node), None, None) => usage(&format!(
            "the KEY is missing: {node:?} stands where a node is named (`self` is the one that is asked)"
        )),
        (false, None, ..) => usage("NODE and KEY are missing"),
    }
}

fn wait_request(what: &WaitFor) -> Json {
    let bytes =
        |value: &Option<OsString>| value.as_ref().map(|value| bytes_to_json(value.as_bytes()));
    match what {
        WaitFor::Peers { count } => json!({ "op": "wait_peers", "count": count }),
        WaitFor::Synced { count } => json!({ "op": "wait_synced", "count": count }),
        WaitFor::Node { node, statuses } => {
            let words: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
            json!({ "op": "wait_node", "node": node, "status": words })
        }
        WaitFor::Key { node, key, value, gone, not, changed } => json!({
            "op": "wait_key", "node": node, "key": key, "value": bytes(value),
            "gone": gone, "not": bytes(not), "changed": changed,
        }),
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
                let text = String::from_utf8(read_stdin("the key", DATA_BYTES_MAX as u64)?)
                    .map_err(|_| not_a_key("stdin"))?;
                credentials::parse_network_key(Path::new("stdin"), &text)?
            } else {
                credentials::load_network_key(file).map_err(of_a_pipe)?
            };
            let [key] = keys.as_slice() else {
                return Err(not_a_key(&file.display().to_string()));
            };
            json!({ "op": "key", "do": "add", "key": hex(&**key) })
        }
    })
}

/// A key file is read more than once, so it is no pipe; but there is a way for that.
fn of_a_pipe(fault: CredentialsError) -> Fault {
    let is_pipe = matches!(&fault, CredentialsError::NoFile(fault) if fault.is_pipe());
    match Fault::from(fault) {
        Fault::Usage(text) if is_pipe => Fault::Usage(format!("{text}, or - for stdin")),
        other => other,
    }
}

fn not_a_key(place: &str) -> Fault {
    Fault::Usage(format!("{place} has not one key; `dsn keygen FILE` makes a file that has"))
}

struct Asking<'a> {
    node: ControlClient,
    path: PathBuf,
    options: &'a Options,
}

impl Asking<'_> {
    fn perform(mut self, command: &Command, request: Json) -> Result<(), Fault> {
        if matches!(command, Command::Leave | Command::Stop) {
            return self.stop(&request);
        }
        let mut result = match command {
            Command::State { node: None } => self.all_states("")?,
            Command::Get { prefix: Some(prefix), all, alive, .. } if *all || *alive => {
                self.all_states(prefix)?
            }
            _ => self.call(&request)?,
        };
        if let (Command::Peers { all, status, .. }, Json::Array(peers)) = (command, &mut result) {
            choose_peers(peers, *all, status);
        }
        if let Command::Status { quiet: true, .. } = command {
            return check(&result);
        }
        if let Command::Get { .. } = command {
            return self.print_got(command, result);
        }
        if self.options.json {
            say(command, &format!("{}\n", print::json(&result)))?;
            return check_if_asked(command, &result);
        }
        if let Command::Metrics { output: Some(path) } = command {
            return metrics::write(path, print::text(&result, "text"));
        }
        let text = match command {
            Command::Metrics { .. } => print::text(&result, "text").to_owned(),
            Command::Status { .. } => print::status(&result),
            Command::Peers { ids: true, .. } => print::ids(&result),
            Command::Peers { all, status, .. } => {
                if print::list(&result).is_empty() {
                    say_that_nobody_is_here(*all || !status.is_empty());
                }
                print::peers(&result, stdout().is_terminal())
            }
            Command::State { .. } => print::states(&result, stdout().is_terminal()),
            Command::Key { .. } => print::keys(&result),
            Command::Ping { node } => print::ping(node, &result),
            Command::Forget { lost: true, .. } => print::forgotten(&result),
            // No news is good news: the exit code tells.
            _ => String::new(),
        };
        say(command, &text)?;
        check_if_asked(command, &result)
    }

    /// What `get` found. Nothing at all is no.
    fn print_got(&self, command: &Command, mut result: Json) -> Result<(), Fault> {
        let Command::Get { node, alive, prefix, raw, .. } = command else { return Ok(()) };
        let has_keys = |state: &Json| {
            let entries = state.get("entries").and_then(Json::as_object);
            entries.is_none_or(|entries| !entries.is_empty())
        };
        if let Json::Array(list) = &mut result {
            list.retain(|it| has_keys(it) && (!alive || print::text(it, "status") == "alive"));
        }
        let is_empty = result.as_array().is_some_and(Vec::is_empty) || !has_keys(&result);
        if is_empty {
            let who = if *alive { "no node that is alive" } else { "no node" };
            return Err(Fault::No(match (prefix, node) {
                (Some(prefix), Some(node)) => {
                    format!("{node} has no key that begins with {prefix:?}")
                }
                (Some(prefix), None) => format!("{who} has a key that begins with {prefix:?}"),
                (None, key) => format!("{who} has a key {:?}", key.as_deref().unwrap_or_default()),
            }));
        }
        if self.options.json {
            writeln!(stdout(), "{}", print::json(&result))?;
        } else if prefix.is_some() {
            stdout().write_all(print::states(&result, stdout().is_terminal()).as_bytes())?;
        } else if result.is_array() {
            let text = print::values(&result, stdout().is_terminal());
            stdout().write_all(text.as_bytes())?;
        } else {
            print_bytes(result.get("value"), *raw)?;
        }
        Ok(())
    }

    fn call(&mut self, request: &Json) -> Result<Json, Fault> {
        let timeout = self.options.timeout().saturating_add(GRACE);
        self.node.call(request, timeout).map_err(|failure| socket::explain(failure, &self.path))
    }

    /// The states of all, one after the other: together they may be too long for a line.
    fn all_states(&mut self, prefix: &str) -> Result<Json, Fault> {
        let own = self.call(&json!({ "op": "status" }))?;
        let peers = self.call(&json!({ "op": "peers" }))?;
        let peers = peers.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut states = Vec::with_capacity(1 + peers.len());
        for node in std::iter::once(&own).chain(peers) {
            let node = print::text(node, "node_id");
            match self.call(&json!({ "op": "state", "node": node, "prefix": prefix })) {
                Ok(state) => states.push(state),
                // It was forgotten meanwhile.
                Err(Fault::No(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Json::Array(states))
    }

    /// Waits until the node is gone: it ends the connection when all else is ended.
    fn stop(mut self, request: &Json) -> Result<(), Fault> {
        let result = self.call(request)?;
        match self.node.next_result(Some(STOP_TIME)) {
            Ok(_) | Err(Failure::Stopped) => {}
            Err(Failure::Late) => {
                return Err(Fault::No(format!(
                    "the node at {} was asked to stop, and still runs after {STOP_TIME:?}: its log may say why",
                    self.path.display()
                )));
            }
            Err(failure) => return Err(socket::explain(failure, &self.path)),
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

/// Prints the answer.
fn say(command: &Command, text: &str) -> Result<(), Fault> {
    let printed = stdout().write_all(text.as_bytes());
    let has_changed = match command {
        Command::Key { what } => !matches!(what, KeyCommand::List),
        Command::Set { .. } | Command::Unset { .. } | Command::Send { .. } => true,
        other => matches!(other, Command::Forget { .. }),
    };
    match has_changed {
        true => printed.map_err(was_done("it was done")),
        false => Ok(printed?),
    }
}

/// Those that were asked for: without a word those that are not known to be gone.
fn choose_peers(peers: &mut Vec<Json>, all: bool, status: &[String]) {
    peers.retain(|peer| match print::text(peer, "status") {
        word if !status.is_empty() => status.iter().any(|wanted| wanted == word),
        word => all || !matches!(word, "lost" | "left"),
    });
}

/// Nothing goes to stdout then, so that scripts count no line.
fn say_that_nobody_is_here(was_all_asked: bool) {
    let more = if was_all_asked { "" } else { "; `dsn peers --all` shows those that were" };
    // With stderr gone there is nobody to tell.
    let _ = writeln!(stderr(), "dsn: nobody is here{more}");
}

fn check_if_asked(command: &Command, status: &Json) -> Result<(), Fault> {
    match command {
        Command::Status { check: true, .. } => check(status),
        _ => Ok(()),
    }
}

/// Whether the node is well, as an exit code. What is wrong was printed, if it was wanted.
fn check(status: &Json) -> Result<(), Fault> {
    let degraded = status.get("degraded").map(print::list).unwrap_or_default();
    if degraded.is_empty() { Ok(()) } else { Err(Fault::Said) }
}

/// Off a terminal, or where that is wanted, exactly the bytes. A terminal gets a line of its own,
/// with nothing in it that it would act on.
fn print_bytes(json: Option<&Json>, raw: bool) -> Result<(), Fault> {
    let bytes = json.and_then(dsn::control::bytes_from_json).unwrap_or_default();
    let mut out = stdout();
    if out.is_terminal() && !raw {
        writeln!(out, "{}", print::for_a_terminal(&bytes))?;
    } else {
        out.write_all(&bytes)?;
    }
    Ok(())
}

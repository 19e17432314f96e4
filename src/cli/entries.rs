//! `dsn set --from`: the keys and values of a file, any bytes of them, as one change.

use std::path::Path;

use dsn::Value;
use dsn::control::{LINE_BYTES_MAX, Once, bytes_from_json};
use serde_json::{Map, Value as Json};

use super::Fault;
use super::streams::{read_named, read_stdin};

/// The largest file: what is set travels to the node as one line, which has a few words more.
const FILE_BYTES_MAX: u64 = LINE_BYTES_MAX - 1024;

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the file; `-` is stdin.
pub(super) fn read(path: &Path) -> Result<Map<String, Json>, Fault> {
    if path.as_os_str().is_empty() {
        return Err(Fault::Usage("--from wants the name of a file, or - for stdin".to_owned()));
    }
    let bytes = if path.as_os_str() == "-" {
        read_stdin("the keys", FILE_BYTES_MAX)?
    } else {
        read_named(path, FILE_BYTES_MAX).map_err(|fault| Fault::unreadable("--from: ", &fault))?
    };
    entries_in(&bytes).map_err(|wrong| cannot_set(path, wrong))
}

/// Why nothing is set.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    /// It is no object of keys and values, nor a state.
    File(String),
    /// A key that is there can't be set.
    Key(String),
    /// A state all of whose keys, so many, would have expired.
    Expired(usize),
}

fn cannot_set(path: &Path, wrong: Wrong) -> Fault {
    let path = path.display();
    match wrong {
        Wrong::File(why) => Fault::Usage(format!(
            "{path} is not what --from takes: {why}. It takes one JSON object, such as {{\"door\": \"open\"}}, or \
             what `dsn --json state self` prints"
        )),
        Wrong::Key(why) => Fault::Usage(format!("{path} can't be set: {why}; nothing was set")),
        Wrong::Expired(keys) => Fault::No(format!(
            "nothing was set: all {keys} keys in {path} would have expired, and without their time they would \
             stand for good; to set them all the same, give its `entries` alone to dsn set --ttl DURATION --from"
        )),
    }
}

/// An object of keys and values, or a state as `dsn --json state NODE` prints it. Of a state, keys
/// that would have expired are left out: without their time they would stand for good.
fn entries_in(bytes: &[u8]) -> Result<Map<String, Json>, Wrong> {
    let wrong = |why: &str| Err(Wrong::File(why.to_owned()));
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let json = serde_json::from_slice(bytes).map_err(|why| Wrong::File(why.to_string()))?;
    let mut object = match json {
        Once(Json::Object(object)) => object,
        Once(Json::Array(list)) if list.iter().any(is_state) => {
            return wrong("it is a list of states: name one node, as in `dsn --json state NODE`");
        }
        _ => return wrong("it is no JSON object"),
    };
    // As a value, an object has nothing but `base64` in it.
    let of_state = match object.get("entries") {
        Some(Json::Object(value)) => !value.contains_key("base64") || value.len() > 1,
        _ => false,
    };
    if of_state && object.contains_key("node_id") {
        let expires = object.remove("expires_ms");
        let Some(Json::Object(mut entries)) = object.remove("entries") else {
            return wrong("its entries are no object");
        };
        let keys = entries.len();
        match expires {
            Some(Json::Object(expires)) => entries.retain(|key, _| !expires.contains_key(key)),
            None => {}
            // Passed over, what expires would stand for good.
            Some(_) => return wrong("its expires_ms is no object"),
        }
        if entries.is_empty() && keys > 0 {
            return Err(Wrong::Expired(keys));
        }
        object = entries;
    }
    if object.is_empty() {
        return wrong("there is no key in it");
    }
    // The node says what is wrong with a value, but not of which key it is.
    for (key, value) in &object {
        let Some(bytes) = bytes_from_json(value) else { continue };
        Value::new(&bytes).map_err(|why| Wrong::Key(format!("{key:?}: {why}")))?;
    }
    Ok(object)
}

fn is_state(json: &Json) -> bool {
    json.get("node_id").is_some() && json.get("entries").is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(json: &Json) -> Result<Json, Wrong> {
        entries_in(json.to_string().as_bytes()).map(Json::Object)
    }

    #[test]
    fn a_file_has_entries_or_a_state() {
        let plain = json!({ "a": "1", "b": { "base64": "AP8=" }, "entries": "x", "node_id": "n" });
        assert_eq!(taken(&plain), Ok(plain.clone()));
        let bytes = json!({ "entries": { "base64": "AP8=" }, "node_id": "n" });
        assert_eq!(taken(&bytes), Ok(bytes.clone()), "keys of these names");
        let state = json!({
            "node_id": "n", "status": "alive", "expires_ms": { "b": 5 },
            "entries": { "a": "1", "b": "2", "base64": "3" },
        });
        assert_eq!(taken(&state), Ok(json!({ "a": "1", "base64": "3" })));
        for none in [json!({}), json!([]), json!("a"), json!({ "node_id": "n", "entries": {} })] {
            assert!(taken(&none).is_err(), "{none}");
        }
        assert!(entries_in(b"{\"a\": 1} x").is_err());
        assert!(entries_in(b"").is_err());
    }

    /// Nothing is taken where nobody knows what was meant, and each is named.
    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let why = |text: &str| match entries_in(text.as_bytes()) {
            Err(Wrong::File(why) | Wrong::Key(why)) => why,
            other => panic!("{text}: {other:?}"),
        };
        for twice in [
            r#"{"a": "1", "a": "2"}"#,
            r#"{"node_id": "n", "entries": {"a": "1", "a": "2"}}"#,
            r#"{"node_id": "n", "entries": {"a": "1"}, "expires_ms": {"a": 1, "a": 2}}"#,
        ] {
            assert!(why(twice).contains(r#""a" is there twice"#), "{}", why(twice));
        }
        let long = format!(r#"{{"a": "1", "b": "{}"}}"#, "x".repeat(65_537));
        assert!(why(&long).contains(r#""b": the value has 65537 bytes"#), "{}", why(&long));
        let states = json!([{ "node_id": "n", "entries": { "a": "1" } }]).to_string();
        assert!(why(&states).contains("a list of states"), "{}", why(&states));
        for odd in [json!("no"), json!(null), json!([])] {
            let odd = json!({ "node_id": "n", "entries": { "a": "1" }, "expires_ms": odd });
            assert!(why(&odd.to_string()).contains("expires_ms"), "they would stand for good");
        }
        let expire = json!({ "node_id": "n", "entries": { "a": "1" }, "expires_ms": { "a": 9 } });
        assert_eq!(taken(&expire), Err(Wrong::Expired(1)));
        // What an editor put before it is no part of it.
        let marked = [BYTE_ORDER_MARK, br#"{"a": "1"}"#].concat();
        assert_eq!(entries_in(&marked).map(Json::Object), Ok(json!({ "a": "1" })));
        let nested = "[".repeat(100_000);
        assert!(why(&nested).contains("recursion"), "{}", why(&nested));
    }
}

//! `dsn set --from`: the keys and values of a file, any bytes of them, as one change.

use std::fs::File;
use std::io::{Error, Read, stdin};
use std::path::Path;

use dsn::advice::{advice, is_wrong_name};
use dsn::control::LINE_BYTES_MAX;
use serde_json::{Map, Value as Json};

use super::Fault;

/// The largest file: what is set travels to the node as one line, which has a few words more.
const FILE_BYTES_MAX: u64 = LINE_BYTES_MAX - 1024;

/// Reads the file; `-` is stdin.
pub(super) fn read(path: &Path) -> Result<Map<String, Json>, Fault> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|why| cannot_read(path, &why))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(path, &format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    entries_in(&bytes).map_err(|why| wrong(path, &why))
}

fn cannot_read(path: &Path, why: &Error) -> Fault {
    let text = format!("{} can't be read: {}", path.display(), advice(why, path, ""));
    if is_wrong_name(why) { Fault::Usage(text) } else { Fault::No(text) }
}

fn wrong(path: &Path, why: &str) -> Fault {
    let path = path.display();
    Fault::Usage(format!(
        "{path} has no keys and values: {why}. It takes one JSON object, such as {{\"door\": \"open\"}}, or what \
         `dsn --json state self` prints"
    ))
}

/// An object of keys and values, or a state as `dsn --json state NODE` prints it. Of a state, keys
/// that would have expired are left out: without their time they would stand for good.
fn entries_in(bytes: &[u8]) -> Result<Map<String, Json>, String> {
    let json = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    let Json::Object(mut object) = json else {
        return Err("it is no JSON object".to_owned());
    };
    // As a value, an object has nothing but `base64` in it.
    let of_state = match object.get("entries") {
        Some(Json::Object(value)) => !value.contains_key("base64") || value.len() > 1,
        _ => false,
    };
    if of_state && object.contains_key("node_id") {
        let expires = object.remove("expires_ms");
        let Some(Json::Object(mut entries)) = object.remove("entries") else {
            return Err("its entries are no object".to_owned());
        };
        if let Some(Json::Object(expires)) = expires {
            entries.retain(|key, _| !expires.contains_key(key));
        }
        object = entries;
    }
    if object.is_empty() {
        return Err("there is no key in it".to_owned());
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(json: &Json) -> Result<Json, String> {
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
}

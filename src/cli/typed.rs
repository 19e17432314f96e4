//! Keys and values as they are typed: what is one of which, and what a slip was meant to be.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use dsn::control::bytes_to_json;
use dsn::order::Gather;
use dsn::protocol::DATA_BYTES_MAX;
use serde_json::{Map, Value as Json};

use super::Fault;
use super::streams::read_stdin;

/// `KEY VALUE` or `KEY=VALUE …`: two words of which the first has no `=` are the former.
pub(super) fn entries_of(words: &[OsString]) -> Result<Map<String, Json>, Fault> {
    if let [key, value] = words
        && !key.as_bytes().contains(&b'=')
    {
        if value.as_bytes().starts_with(b"=") {
            return Err(blank_before(key, value));
        }
        let value = value_of("set", value)?;
        return Ok([(key_of(key.as_bytes())?, bytes_to_json(&value))].into_iter().gathered());
    }
    words.iter().try_for_each(|word| no_option("set", word).map(drop))?;
    let mut entries = Map::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| words.get(at));
        let (key, value) = pair_of(before, word, words.get(at + 1))?;
        let key = key_of(key)?;
        if entries.contains_key(&key) {
            return Err(Fault::Usage(format!("the key {key:?} is given twice")));
        }
        entries.insert(key, bytes_to_json(value));
    }
    Ok(entries)
}

/// `KEY=VALUE`, or what was most likely meant, by what stands before and behind it.
fn pair_of<'a>(
    before: Option<&OsString>,
    word: &'a OsStr,
    behind: Option<&OsString>,
) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let bytes = word.as_bytes();
    let told = shown(word);
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
        return Err(match (before, behind) {
            (_, Some(behind)) if behind.as_bytes().starts_with(b"=") => blank_before(word, behind),
            (Some(before), _) if ends_with_its_equals(before) => {
                let before = shown(before);
                Fault::Usage(format!(
                    "{before:?} has a blank behind its =: KEY=VALUE has none, so it is {:?}",
                    format!("{before}{told}")
                ))
            }
            _ => Fault::Usage(format!(
                "{told:?} is not KEY=VALUE; use `dsn set KEY VALUE` for one key, `dsn set K1=V1 K2=V2` for several"
            )),
        });
    };
    let (key, value) = bytes.split_at(at);
    if word == "=" {
        return Err(Fault::Usage("= stands alone: KEY=VALUE has no blanks around it".into()));
    }
    if key.is_empty() {
        return Err(Fault::Usage(format!("{told:?} has no key before its =; it is KEY=VALUE")));
    }
    Ok((key, value.get(1..).unwrap_or_default()))
}

/// `a=`, with nothing behind it: an empty value, unless what follows can be nothing else than it.
fn ends_with_its_equals(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    bytes.len() > 1 && bytes.iter().position(|byte| *byte == b'=') == Some(bytes.len() - 1)
}

/// `a =b` would set a value that begins with `=`, which hardly anybody wants.
fn blank_before(key: &OsStr, value: &OsStr) -> Fault {
    let (key, value) = (shown(key), shown(value));
    if value == "=" {
        return Fault::Usage(format!("{key:?} has a blank before its =: KEY=VALUE has none"));
    }
    Fault::Usage(format!(
        "{key:?} has a blank before its =: KEY=VALUE has none, so it is {:?}; a value that begins with = is given as {:?}",
        format!("{key}{value}"),
        format!("{key}={value}")
    ))
}

fn shown(word: &OsStr) -> String {
    word.to_string_lossy().into_owned()
}

/// No key has a `=`: a value that stands with one is looked for in vain, or waited for for ever.
pub(super) fn only_key(place: &str, text: &str) -> Result<(), Fault> {
    let Some((key, value)) = text.split_once('=') else { return Ok(()) };
    let more = match place {
        "KEY" => "a value, where one goes, is a word of its own",
        _ => "values are not looked at",
    };
    let name = if key.is_empty() { value } else { key };
    Err(Fault::Usage(format!(
        "{place}: {text:?} has a =, and no key has one. Name the key alone: {name:?}; {more}"
    )))
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
pub(super) fn value_of(command: &str, word: &OsStr) -> Result<Vec<u8>, Fault> {
    if word == "-" {
        read_stdin("the bytes", DATA_BYTES_MAX as u64)
    } else {
        Ok(no_option(command, word)?.as_bytes().to_vec())
    }
}

/// A value may begin with `-`. One of our own options in its place is most likely a slip.
fn no_option<'a>(command: &str, word: &'a OsStr) -> Result<&'a OsStr, Fault> {
    let text = word.to_string_lossy();
    let name = text.split('=').next().unwrap_or_default();
    if !["--json", "--timeout", "--control", "--help", "--ttl", "--from"].contains(&name) {
        return Ok(word);
    }
    Err(Fault::Usage(format!(
        "{name} stands where a value is expected; options come first: dsn {name} … {command} …. For this very value \
         use stdin (`-`)"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            &["a", "--ttl"],
        ] {
            assert_eq!(entries(wrong), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn a_blank_too_many_is_told_with_what_was_meant() {
        let told = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            match entries_of(&words) {
                Err(Fault::Usage(text)) => text,
                _ => panic!("{words:?} is taken"),
            }
        };
        let rows: [(&[&str], &str); 11] = [
            (&["a", "=b"], "\"a\" has a blank before its =: KEY=VALUE has none, so it is \"a=b\""),
            (&["a", "=b"], "begins with = is given as \"a==b\""),
            (&["a", "="], "\"a\" has a blank before its ="),
            (&["a=", "b"], "\"a=\" has a blank behind its =: KEY=VALUE has none, so it is \"a=b\""),
            (&["a", "=", "b"], "\"a\" has a blank before its ="),
            (
                &["a=1", "b", "=2"],
                "\"b\" has a blank before its =: KEY=VALUE has none, so it is \"b=2\"",
            ),
            (&["a=1", "b=", "2"], "\"b=\" has a blank behind its ="),
            (&["=b"], "\"=b\" has no key before its ="),
            (&["a=1", "=b"], "\"=b\" has no key before its ="),
            (&["=", "b"], "= stands alone"),
            (&["a=x=", "b"], "\"b\" is not KEY=VALUE"),
        ];
        for (words, why) in rows {
            assert!(told(words).contains(why), "{words:?}: {}", told(words));
        }
        // What can only be meant as it is.
        assert_eq!(entries(&["a==b"]), Ok(json!({ "a": "=b" })));
        assert_eq!(entries(&["a=", "b=1"]), Ok(json!({ "a": "", "b": "1" })));
    }

    #[test]
    fn a_value_in_the_place_of_a_key_is_named() {
        for (text, name) in [("a=b", "\"a\""), ("a=", "\"a\""), ("=b", "\"b\"")] {
            let Err(Fault::Usage(told)) = only_key("KEY", text) else { panic!("{text} is taken") };
            assert!(told.starts_with("KEY: ") && told.contains(name), "{told}");
        }
        assert!(only_key("--key", "a.b").is_ok());
    }
}

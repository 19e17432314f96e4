//! The query of a request: what stands behind `?`.

/// The value of a parameter, if it is there. Of two nobody knows which was meant.
pub(super) fn find(query: &str, name: &str) -> Result<Option<String>, Wrong> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Wrong::Twice);
    }
    String::from_utf8(unescaped(value)).map(Some).map_err(|_| Wrong::NotText)
}

/// Why nobody knows what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is not UTF-8.
    NotText,
    /// It is there twice.
    Twice,
}

impl Wrong {
    /// In words.
    pub(super) fn text(&self) -> &'static str {
        match self {
            Self::NotText => "the query is not text in UTF-8, escaped as in an address",
            Self::Twice => "the query has a parameter twice",
        }
    }
}

/// The bytes that an escaped text stands for. A `%` without two digits stands for itself.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, escape(behind)) {
            (b'%', Some((byte, behind))) => {
                bytes.push(byte);
                rest = behind;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    bytes
}

fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, behind) = text.split_at_checked(2)?;
    let digits = str::from_utf8(digits).ok().filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()));
    Some((u8::from_str_radix(digits?, 16).ok()?, behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_parameter_is_found_and_its_escapes_are_read() {
        let found = |query, name| find(query, name).unwrap();
        assert_eq!(found("node=a&prefix=b", "prefix").as_deref(), Some("b"));
        assert_eq!(found("node=a%2Fb+c%C3%A4", "node").as_deref(), Some("a/b c\u{e4}"));
        assert_eq!(found("node=100%&x", "node").as_deref(), Some("100%"));
        assert_eq!(found("node=%+1%zz", "node").as_deref(), Some("% 1%zz"));
        assert_eq!(found("x", "x").as_deref(), Some(""));
        assert_eq!(found("", "node"), None);
        assert_eq!(found("anode=1", "node"), None);
        assert_eq!(find("node=%ff", "node"), Err(Wrong::NotText));
        assert_eq!(find("node=a&x=1&node=a", "node"), Err(Wrong::Twice));
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in "\\PC*") {
            let _ = find(&query, "node");
        }

        #[test]
        fn what_was_escaped_comes_back(text in "\\PC*") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(find(&format!("a=b&node={escaped}"), "node"), Ok(Some(text)));
        }
    }
}

//! What was pressed, out of the bytes that a terminal sends (ECMA-48, and what xterm made of it).

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A character, as it was typed.
    Character(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L: draw it again.
    Redraw,
    /// Ctrl-Z.
    Suspend,
}

/// Whether bytes end in the middle of what one key sends, as far as that can be told: a lone ESC is
/// a key, too, if nothing comes behind it.
pub(super) fn is_cut_off(bytes: &[u8]) -> bool {
    let Some(at) = bytes.iter().rposition(|byte| *byte == b'\x1b') else { return false };
    let rest = bytes.get(at + 1..).unwrap_or_default();
    match rest.split_first() {
        None => true,
        Some((b'[' | b'O', rest)) => rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b';'),
        Some(_) => false,
    }
}

/// The keys in what one read gave. What is not known is passed over.
pub(super) fn keys(bytes: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    let mut keys = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (key, used) = match first {
            '\u{1b}' => sequence(rest),
            '\r' | '\n' => (Some(Key::Enter), 1),
            '\u{3}' => (Some(Key::Interrupt), 1),
            '\u{c}' => (Some(Key::Redraw), 1),
            '\u{1a}' => (Some(Key::Suspend), 1),
            '\u{7f}' | '\u{8}' => (Some(Key::Backspace), 1),
            other if other.is_control() || other == char::REPLACEMENT_CHARACTER => {
                (None, other.len_utf8())
            }
            other => (Some(Key::Character(other)), other.len_utf8()),
        };
        keys.extend(key);
        rest = rest.get(used..).unwrap_or_default();
    }
    keys
}

/// What begins with ESC: one of those that are known, one that is not, or the key itself.
fn sequence(text: &str) -> (Option<Key>, usize) {
    let body = text.get(1..).unwrap_or_default();
    let Some(inner) = body.strip_prefix('[').or_else(|| body.strip_prefix('O')) else {
        return (Some(Key::Escape), 1);
    };
    // Parameters, and one character that ends it.
    let end = inner.find(|character: char| !character.is_ascii_digit() && character != ';');
    let Some(end) = end else { return (None, text.len()) };
    let last = inner.get(end..).and_then(|rest| rest.chars().next());
    let key = match (inner.get(..end), last) {
        (Some(""), Some('A')) => Some(Key::Up),
        (Some(""), Some('B')) => Some(Key::Down),
        (Some(""), Some('H')) | (Some("1" | "7"), Some('~')) => Some(Key::Home),
        (Some(""), Some('F')) | (Some("4" | "8"), Some('~')) => Some(Key::End),
        (Some("5"), Some('~')) => Some(Key::PageUp),
        (Some("6"), Some('~')) => Some(Key::PageDown),
        _ => None,
    };
    (key, 2 + end + last.map_or(0, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_send_is_understood() {
        for (bytes, expected) in [
            (&b"\x1b[A"[..], vec![Key::Up]),
            (b"\x1bOB", vec![Key::Down]),
            (b"\x1b[5~\x1b[6~", vec![Key::PageUp, Key::PageDown]),
            (b"\x1b[H\x1b[4~", vec![Key::Home, Key::End]),
            (b"\x1b", vec![Key::Escape]),
            (b"\x1bq", vec![Key::Escape, Key::Character('q')]),
            (
                b"\r\x7f\x03\x0c\x1a",
                vec![Key::Enter, Key::Backspace, Key::Interrupt, Key::Redraw, Key::Suspend],
            ),
            ("äß".as_bytes(), vec![Key::Character('ä'), Key::Character('ß')]),
            // Mice, function keys with modifiers, and what is cut off mean nothing.
            (b"\x1b[1;5C\x1b[12", vec![]),
            (b"\xff\x00\x1b[\xe2\x82\xacx", vec![Key::Character('x')]),
        ] {
            assert_eq!(keys(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_cut_off_is_seen() {
        for bytes in [&b"\x1b"[..], b"abc\x1b[", b"\x1b[A\x1bO", b"\x1b[5", b"\x1b[1;"] {
            assert!(is_cut_off(bytes), "{bytes:?}");
        }
        for bytes in [&b""[..], b"abc", b"\x1b[A", b"\x1b[5~", b"\x1bq", b"\x1b[Ax"] {
            assert!(!is_cut_off(bytes), "{bytes:?}");
        }
    }

    /// Whoever pastes a file into it ends nothing.
    #[test]
    fn any_bytes_come_to_an_end() {
        for seed in 0..200_u64 {
            let mut random = seed;
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Mostly what sequences are made of.
                    b"\x1b[O;0159~ABHF\xc3\xa4\xffq\r"[(random >> 33) as usize % 18]
                })
                .collect();
            assert!(keys(&bytes).len() <= bytes.len());
        }
    }
}

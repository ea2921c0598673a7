//! Text that others wrote (names, labels, hosts, what a server says), made fit for a terminal:
//! control characters and characters that reorder text are shown, never sent.

/// One line of text: a line break is shown as well.
pub fn text(text: &str) -> String {
    escaped(text, acts)
}

/// Text of several lines, for example an error with a log's last lines.
pub fn lines(text: &str) -> String {
    escaped(text, |c| c != '\n' && acts(c))
}

/// A file's name, so that two names never look alike: bytes that are not UTF-8 as `\xff`, and a
/// backslash twice.
pub fn name(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown.push_str(&escaped(chunk.valid(), |c| c == '\\' || acts(c)));
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// A JSON document with every such character as `\uXXXX`: the same document. They can be within
/// strings only.
pub fn json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && acts(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a character does something instead of being seen: C0 and C1 controls, line and
/// paragraph separators, marks that change the direction of text, invisible ones.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn escaped(text: &str, is_shown: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !is_shown(c) => shown.push(c),
            '\n' | '\r' | '\t' | '\\' => shown.extend(c.escape_default()),
            c if u32::from(c) < 0x100 => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_reaches_a_terminal() {
        for (hostile, shown) in [
            ("\u{1b}]0;title\u{7}", "\\x1b]0;title\\x07"),
            ("a\nreplicas: 3 of 3", "a\\nreplicas: 3 of 3"),
            ("over\rwritten", "over\\rwritten"),
            ("\u{9b}8m", "\\x9b8m"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("Grüße, 世界, a\\b", "Grüße, 世界, a\\b"),
        ] {
            assert_eq!(text(hostile), shown);
        }
        assert_eq!(lines("two\nlines\u{1b}[8m"), "two\nlines\\x1b[8m");
    }

    #[test]
    fn names_that_differ_never_look_alike() {
        let names: [&[u8]; 6] = [b"\xfe", b"\xff", b"\\xff", b"caf\xe9", "café".as_bytes(), b"\n"];
        let shown: std::collections::BTreeSet<_> = names.iter().map(|bytes| name(bytes)).collect();
        assert_eq!(shown.len(), names.len());
        assert_eq!(name(b"caf\xe9.bin"), "caf\\xe9.bin");
        assert_eq!(name(b"a\\b"), "a\\\\b");
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({"n": "a\u{9b}\u{202e}\u{e0001}\u{1b}ü"});
        let document = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(document.chars().all(|c| c == '\n' || !acts(c)), "{document:?}");
        assert!(document.contains("\\u009b\\u202e"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&document).unwrap(), value);
    }
}

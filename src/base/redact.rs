//! Text from outside made fit for a log: UUIDs are credentials, and control characters can rewrite
//! a terminal.

/// Length of a UUID with its dashes, in characters.
const UUID_CHARS: usize = 36;
/// How many of them are shown.
const SHOWN_CHARS: usize = 8;

/// Cuts every UUID in `text` to its first 8 characters and an ellipsis.
pub fn uuids(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        if is_uuid_at(bytes, at) {
            out.push_str(&text[from..at + SHOWN_CHARS]);
            out.push('…');
            at += UUID_CHARS;
            from = at;
        } else {
            at += 1;
        }
    }
    out.push_str(&text[from..]);
    out
}

/// One line for a log: at most `chars_max` characters, UUIDs cut, control characters escaped.
pub fn line(text: &str, chars_max: usize) -> String {
    let safe: String = text
        .trim_end()
        .chars()
        .take(chars_max)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect();
    uuids(&safe)
}

fn is_uuid_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + UUID_CHARS).is_some_and(|window| {
        window.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AAAAAAAA-0000-4000-8000-00000000000f";

    #[test]
    fn every_uuid_is_cut_wherever_it_stands() {
        let text = format!("{ID}é{ID},x{ID}");
        assert_eq!(uuids(&text), "AAAAAAAA…éAAAAAAAA…,xAAAAAAAA…");
        assert_eq!(uuids("nothing here é"), "nothing here é");
    }

    #[test]
    fn a_line_is_short_and_harmless() {
        assert_eq!(line("a\u{1b}[31m\nb \n", 100), "a\\u{1b}[31m\\nb");
        assert_eq!(line("abcdef", 3), "abc");
    }
}

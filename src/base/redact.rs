//! Text from outside made fit for a log: UUIDs are credentials, and control characters can rewrite
//! a terminal. Pure.

/// What is shown of an id: enough to find a user, too little to be one.
const SHOWN: usize = 8;
/// Length of a UUID with dashes, in characters.
pub const UUID: usize = 36;
/// Hexadecimal digits in a row that may be a UUID without dashes, or a token.
pub const BARE_UUID: usize = 32;
/// What of an id may stand at the end of a text, where it may have been cut: nearly whole, it is
/// as good as whole.
pub const CUT: usize = 16;

/// One line for a log: at most `chars_max` characters, UUIDs cut, harmless. A UUID at the edge is cut
/// before the text is, or most of it would be shown.
pub fn line(text: &str, chars_max: usize) -> String {
    let beginning: String = uuids(text.trim_end()).chars().take(chars_max).collect();
    escaped(&beginning)
}

/// Cuts every UUID in `text` to its first 8 characters and an ellipsis: also one without dashes, and one
/// whose end was cut off at the end of the text.
pub fn uuids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let id = id_length(rest.as_bytes());
        if id > 0 {
            out.push_str(&rest[..SHOWN]);
            out.push('…');
            rest = &rest[id..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Length of the id that `text` begins with; 0 without one.
fn id_length(text: &[u8]) -> usize {
    let bare = text
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let fits = |(at, byte): &(usize, &u8)| match at {
        8 | 13 | 18 | 23 => **byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let dashed = text.iter().take(UUID).enumerate().take_while(fits).count();
    let is_id =
        |length: usize, whole: usize| length >= whole || (length > CUT && length == text.len());
    match (is_id(dashed, UUID), is_id(bare, BARE_UUID)) {
        (true, _) => dashed,
        (_, true) => bare,
        _ => 0,
    }
}

/// Control and invisible characters as they are written in source; a tab as a blank.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches('\r').chars() {
        if c == '\t' {
            out.push(' ');
        } else if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that break lines, turn the direction of text or cannot be seen.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "AAAAAAAA-0000-4000-8000-00000000000f";

    #[test]
    fn every_uuid_is_cut_wherever_it_stands() {
        let text = format!("{ID}é{ID},x{ID}");
        assert_eq!(uuids(&text), "AAAAAAAA…éAAAAAAAA…,xAAAAAAAA…");
        assert_eq!(uuids(&ID.replace('-', "")), "AAAAAAAA…");
        assert_eq!(
            uuids("nothing here é deadbeef-1"),
            "nothing here é deadbeef-1"
        );
    }

    #[test]
    fn a_line_is_short_and_harmless() {
        assert_eq!(line("a\u{1b}[31m\nb \n", 100), "a\\u{1b}[31m\\nb");
        assert_eq!(line("abcdef", 3), "abc");
        assert_eq!(line(ID, 20), "AAAAAAAA…");
        let edge = format!("xy{ID}");
        assert_eq!(line(&edge, 37), "xyAAAAAAAA…");
        assert_eq!(line(&edge, 5), "xyAAA");
    }

    proptest! {
        #[test]
        fn no_uuid_and_no_control_character_is_left(before in ".{0,20}", after in ".{0,20}") {
            let text = line(&format!("{before}{ID}{after}"), 1000);
            prop_assert!(!text.contains(ID));
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}

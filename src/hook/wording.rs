//! A hook's words made fit for a log: no UUID in full, no control characters, not too long. Pure.

/// What is shown of an id: enough to find a user, too little to be one.
const SHOWN: usize = 8;
/// Length of a UUID with dashes, in characters.
const UUID: usize = 36;
/// Hexadecimal digits in a row that may be a UUID without dashes, or a token.
const BARE_UUID: usize = 32;
/// What of an id may stand at the end of a line, where output may have been cut: nearly whole, it
/// is as good as whole.
const CUT: usize = 16;

/// One line as it may be logged: at most `chars_max` characters and an ellipsis.
pub(super) fn shown(line: &[u8], chars_max: usize) -> String {
    let text = escaped(&shortened(&String::from_utf8_lossy(line)));
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The end of several lines in one, separated by ` / `: its last `chars_max` characters.
pub(super) fn last_words(text: &[u8], chars_max: usize) -> String {
    let lines = text
        .split(|byte| *byte == b'\n')
        .map(|line| shown(line, usize::MAX));
    let lines: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
    let joined = lines.join(" / ");
    let count = joined.chars().count();
    match joined.char_indices().nth(count.saturating_sub(chars_max)) {
        Some((start, _)) if start > 0 => format!("…{}", &joined[start..]),
        _ => joined,
    }
}

/// Takes off what may be the end of an id whose beginning was not kept.
pub(super) fn without_cut_id(text: &[u8]) -> &[u8] {
    let is_id = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    &text[text.iter().take_while(|byte| is_id(byte)).count()..]
}

fn shortened(text: &str) -> String {
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

fn escaped(text: &str) -> String {
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

    const ID: &str = "AAAAAAAA-bbbb-4ccc-8ddd-eeeeeeeeeeee";

    #[test]
    fn ids_are_shortened_wherever_they_stand() {
        for (line, expected) in [
            (format!("add {ID} ok"), "add AAAAAAAA… ok"),
            (format!("f{ID}{ID}"), "fAAAAAAAA…AAAAAAAA…"),
            (format!("id-{ID}"), "id-AAAAAAAA…"),
            (ID.replace('-', ""), "AAAAAAAA…"),
            (
                format!("{}x", &ID[..35]),
                "AAAAAAAA-bbbb-4ccc-8ddd-eeeeeeeeeeex",
            ),
            ("é deadbeef-1 a\tb\r".to_owned(), "é deadbeef-1 a b"),
        ] {
            assert_eq!(shown(line.as_bytes(), 100), expected);
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(shown(b"a\x1b[2Jb\x00\x7f", 99), r"a\u{1b}[2Jb\u{0}\u{7f}");
        assert_eq!(
            shown("x\u{202e}y\u{2028}".as_bytes(), 99),
            r"x\u{202e}y\u{2028}"
        );
        assert_eq!(shown(b"a\xffb", 99), "a\u{fffd}b");
        assert_eq!(shown(b"abcdef", 3), "abc…");
    }

    #[test]
    fn last_words_are_the_last() {
        assert_eq!(last_words(b"one\n\ntwo\n", 99), "one / two");
        assert_eq!(last_words(b"one\ntwo", 4), "… two");
        assert_eq!(last_words(b"", 4), "");
    }

    #[test]
    fn a_cut_id_is_not_shown_nearly_whole() {
        assert_eq!(
            without_cut_id(format!("{} ok", &ID[1..]).as_bytes()),
            b" ok"
        );
        assert_eq!(without_cut_id(ID.as_bytes()), b"");
        for length in CUT + 1..UUID {
            assert_eq!(
                shown(format!("add {}", &ID[..length]).as_bytes(), 99),
                "add AAAAAAAA…"
            );
            let bare = ID.replace('-', "");
            let bare = &bare[..length.min(BARE_UUID)];
            assert_eq!(shown(bare.as_bytes(), 99), "AAAAAAAA…");
        }
    }

    proptest! {
        #[test]
        fn no_id_and_no_control_character_is_ever_shown(
            before in "[0-9a-f\\-\\PC]{0,20}",
            after in ".{0,20}",
        ) {
            let text = shown(format!("{before}{ID}{after}").as_bytes(), 1000);
            prop_assert!(!text.contains(ID));
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}

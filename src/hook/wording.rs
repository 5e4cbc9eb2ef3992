//! A hook's words made fit for a log: no UUID in full, no control characters, not too long. Pure.

use crate::base::redact::{escaped, uuids};

/// One line as it may be logged: at most `chars_max` characters and an ellipsis.
pub(super) fn shown(line: &[u8], chars_max: usize) -> String {
    let text = escaped(&uuids(&String::from_utf8_lossy(line)));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::redact::{BARE_UUID, CUT, UUID};

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

//! Columns and sizes for people: aligned whether they go to a terminal or into a pipe. A table's
//! widths are known before its rows are, so that a long one need not be held. Pure.

use jiff::Timestamp;

use crate::base::redact;

/// Between two columns.
const GAP: &str = "  ";
/// Bytes of each larger unit to one of the next smaller.
const STEP: u128 = 1_024;
/// Somebody else's words are cut after so many characters; JSON has them whole.
const WORDS_CHARS_MAX: usize = 200;
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    /// At least so many characters.
    width: usize,
    is_number: bool,
}

impl Column {
    /// Text, aligned left.
    pub(super) const fn text(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_number: false,
        }
    }

    /// An amount, aligned right.
    pub(super) const fn number(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_number: true,
        }
    }
}

/// A table of `N` columns. A cell that is wider than its column moves the rest of its row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<const N: usize>(pub(super) [Column; N]);

impl<const N: usize> Table<N> {
    /// With columns as wide as these rows need.
    pub(super) fn fitted(mut self, rows: &[[String; N]]) -> Self {
        for (at, column) in self.0.iter_mut().enumerate() {
            let widest = rows.iter().map(|row| row[at].chars().count()).max();
            column.width = column.width.max(widest.unwrap_or_default());
        }
        self
    }

    /// The titles.
    pub(super) fn heading(&self) -> String {
        self.row(&self.0.map(|column| column.title.to_owned()))
    }

    /// One row, without spaces at its end.
    pub(super) fn row(&self, cells: &[String; N]) -> String {
        let mut line = String::new();
        for (column, cell) in self.0.iter().zip(cells) {
            let width = column.width.max(column.title.len());
            if !line.is_empty() {
                line += GAP;
            }
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            let aligned = if column.is_number {
                [&blanks, cell]
            } else {
                [cell, &blanks]
            };
            line.extend(aligned.map(String::as_str));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Bytes in binary units: whole below 1 KiB, else to a tenth.
pub(super) fn size(bytes: u64) -> String {
    let bytes = u128::from(bytes);
    if bytes < STEP {
        return format!("{bytes} B");
    }
    let mut unit_bytes = STEP;
    for unit in UNITS {
        let tenths = (bytes * 10 + unit_bytes / 2) / unit_bytes;
        if tenths < STEP * 10 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        unit_bytes *= STEP;
    }
    unreachable!("invariant: 64 bits are 16 EiB at most")
}

/// How long after `earlier` `later` is, in the largest unit that is whole; a clock that was set back
/// shows nothing.
pub(super) fn age(earlier: Timestamp, later: Timestamp) -> String {
    let seconds = later.duration_since(earlier).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Somebody else's words as part of a line: they can neither break it nor steer a terminal, and a
/// user in them is shown by 8 characters.
pub(super) fn words(text: &str) -> String {
    redact::line(text, WORDS_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_below_a_kibibyte_and_rounded_to_a_tenth_above() {
        let table = [
            (0, "0 B"),
            (512, "512 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (1_587, "1.5 KiB"),
            (1_588, "1.6 KiB"),
            ((1 << 20) - 52, "1023.9 KiB"),
            ((1 << 20) - 51, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 50, "1.0 PiB"),
            (1 << 60, "1.0 EiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, shown) in table {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn an_age_is_whole_in_its_unit_and_never_below_nothing() {
        let table = [
            (-5, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (172_799, "47 h"),
            (172_800, "2 d"),
            (100_000_000, "1157 d"),
        ];
        for (seconds, shown) in table {
            let later = Timestamp::from_second(seconds).unwrap();
            assert_eq!(age(Timestamp::UNIX_EPOCH, later), shown, "{seconds}");
        }
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_cut() {
        let table = Table([
            Column::text("NODE", 0),
            Column::number("BYTES", 6),
            Column::text("WHY", 0),
        ]);
        let rows = [
            ["1".to_owned(), "512 B".to_owned(), String::new()],
            [
                "2345678".to_owned(),
                "1.5 GiB".to_owned(),
                "é no".to_owned(),
            ],
        ];
        assert_eq!(table.heading(), "NODE   BYTES  WHY");
        assert_eq!(table.row(&rows[0]), "1      512 B");
        assert_eq!(table.row(&rows[1]), "2345678  1.5 GiB  é no");
        let fitted = table.fitted(&rows);
        assert_eq!(fitted.heading(), "NODE       BYTES  WHY");
        assert_eq!(fitted.row(&rows[0]), "1          512 B");
        assert_eq!(fitted.row(&rows[1]), "2345678  1.5 GiB  é no");
    }

    #[test]
    fn words_of_others_stay_within_their_line() {
        let shown = words("two\nlines \u{1b}[31m");
        assert!(!shown.contains(['\n', '\u{1b}']), "{shown}");
    }
}

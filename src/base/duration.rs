//! Durations in Go's notation (`time.ParseDuration`, `Duration.String`): `300ms`, `1h15m`, `1.5h`.
//! All in whole numbers: what is written is what is meant, to the nanosecond; what lies below a
//! nanosecond is cut off, as Go does. Never negative, never more than Go can hold.

use std::fmt::Write as _;
use std::time::Duration;

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Every unit with its nanoseconds. Both characters for "micro" are Go's.
const UNITS_NS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND_NS),
    ("m", 60 * SECOND_NS),
    ("h", 3_600 * SECOND_NS),
];

/// The longest duration, 292 years in nanoseconds: Go counts in 63 bits.
const LONGEST_NS: u128 = i64::MAX as u128;

/// Digits after the point that count: 24 of them times an hour still fit into 128 bits.
const FRACTION_DIGITS_MAX: usize = 24;

/// What is wrong with the text of a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there, or only a sign.
    #[error("empty")]
    Empty,
    /// Below zero.
    #[error("negative")]
    Negative,
    /// Something else where a number should stand.
    #[error("no number before {0:?}")]
    NoNumber(String),
    /// A number alone; only `0` may be.
    #[error("no unit (ns, us, ms, s, m or h)")]
    NoUnit,
    /// A unit that Go does not know either.
    #[error("unknown unit {0:?} (ns, us, ms, s, m or h)")]
    UnknownUnit(String),
    /// More than 292 years.
    #[error("more than 292 years")]
    TooLong,
}

/// Reads a duration in Go's notation.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    match rest {
        "" => return Err(DurationError::Empty),
        "0" => return Ok(Duration::ZERO),
        _ => {}
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let (part_ns, after) = parse_part(rest)?;
        total_ns += part_ns;
        if total_ns > LONGEST_NS {
            return Err(DurationError::TooLong);
        }
        rest = after;
    }
    Ok(from_ns(total_ns))
}

/// One number with its unit, as nanoseconds, and what follows it.
fn parse_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber(text.to_owned()));
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit());
    let (unit, rest) = rest.split_at(unit_end.unwrap_or(rest.len()));
    let unit_ns = unit_ns(unit)?;
    let whole_ns = number(whole)?
        .checked_mul(unit_ns)
        .ok_or(DurationError::TooLong)?;
    if whole_ns > LONGEST_NS {
        return Err(DurationError::TooLong);
    }
    Ok((whole_ns + fraction_ns(fraction, unit_ns)?, rest))
}

fn unit_ns(unit: &str) -> Result<u128, DurationError> {
    if unit.is_empty() {
        return Err(DurationError::NoUnit);
    }
    let known = UNITS_NS.iter().find(|(name, _)| *name == unit);
    known
        .map(|(_, ns)| u128::from(*ns))
        .ok_or_else(|| DurationError::UnknownUnit(unit.to_owned()))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// Digits as a number; none is 0.
fn number(digits: &str) -> Result<u128, DurationError> {
    if digits.is_empty() {
        Ok(0)
    } else {
        digits.parse().map_err(|_| DurationError::TooLong)
    }
}

/// The digits after the point, of a unit.
fn fraction_ns(digits: &str, unit_ns: u128) -> Result<u128, DurationError> {
    let digits = &digits[..digits.len().min(FRACTION_DIGITS_MAX)];
    let scale = digits.bytes().fold(1, |scale: u128, _| scale * 10);
    Ok(number(digits)? * unit_ns / scale)
}

fn from_ns(ns: u128) -> Duration {
    let second = u128::from(SECOND_NS);
    let within = "invariant: at most 63 bits of nanoseconds";
    Duration::new(
        u64::try_from(ns / second).expect(within),
        u32::try_from(ns % second).expect(within),
    )
}

/// Writes a duration as Go prints it: `1m30s`, `1h0m0.5s`, `1.5ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let (seconds, below_ns) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    if seconds == 0 {
        return format_below_second(below_ns);
    }
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    text + &decimal(seconds % 60, below_ns, SECOND_NS) + "s"
}

fn format_below_second(ns: u64) -> String {
    let (unit, unit_ns) = match ns {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("\u{b5}s", 1_000),
        _ => ("ms", 1_000_000),
    };
    decimal(ns / unit_ns, ns % unit_ns, unit_ns) + unit
}

/// `whole` and, where it is not zero, `part` of `unit_ns` behind a point.
fn decimal(whole: u64, part: u64, unit_ns: u64) -> String {
    if part == 0 {
        return whole.to_string();
    }
    let width = unit_ns.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_go_reads_is_read_to_the_nanosecond() {
        let cases: [(&str, u64); 20] = [
            ("0", 0),
            ("+0", 0),
            ("0s", 0),
            ("300ms", 300_000_000),
            ("1h15m", 4_500 * SECOND_NS),
            ("1.5h", 5_400 * SECOND_NS),
            ("2us", 2_000),
            ("2\u{b5}s", 2_000),
            ("2\u{3bc}s", 2_000),
            ("5.s", 5 * SECOND_NS),
            (".5s", SECOND_NS / 2),
            ("+5s", 5 * SECOND_NS),
            ("0.1s", 100_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9007199254.740993ms", 9_007_199_254_740_993),
            ("1s1s", 2 * SECOND_NS),
            ("39h9m14.425s", 140_954_425_000_000),
            ("0.9ns", 0),
            ("0.100000000000000000000000000001h", 360 * SECOND_NS),
            ("9223372036854775807ns", i64::MAX as u64),
        ];
        for (text, ns) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_by_name() {
        use DurationError::{Empty, Negative, NoNumber, NoUnit, TooLong, UnknownUnit};
        let cases = [
            ("", Empty),
            ("+", Empty),
            ("-5s", Negative),
            ("-0", Negative),
            ("3", NoUnit),
            ("1h15", NoUnit),
            ("1 s", UnknownUnit(" s".into())),
            ("1d", UnknownUnit("d".into())),
            ("1S", UnknownUnit("S".into())),
            ("s", NoNumber("s".into())),
            (".s", NoNumber(".s".into())),
            ("1s.", NoNumber(".".into())),
            ("+-5s", NoNumber("-5s".into())),
            ("9223372036854775808ns", TooLong),
            ("2562048h", TooLong),
            ("9223372036s900ms", TooLong),
            ("99999999999999999999999999999999999999999999s", TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_prints_them() {
        let cases: [(u64, &str); 12] = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (300_000_000, "300ms"),
            (3_300_000_000, "3.3s"),
            (60 * SECOND_NS, "1m0s"),
            (90 * SECOND_NS, "1m30s"),
            (245 * SECOND_NS, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (3_600 * SECOND_NS + 500_000_000, "1h0m0.5s"),
            (i64::MAX as u64, "2562047h47m16.854775807s"),
        ];
        for (ns, text) in cases {
            assert_eq!(format(Duration::from_nanos(ns)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(ns in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn short_ones_read_back_the_same_too(ns in 0..2 * SECOND_NS) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.a-z\u{b5} ]{0,40}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration.as_nanos() <= LONGEST_NS);
            }
        }

        #[test]
        fn parts_add_up(h in 0..1000_u64, m in 0..1000_u64, ms in 0..100_000_u64) {
            let sum = Duration::from_secs(h * 3_600 + m * 60) + Duration::from_millis(ms);
            prop_assert_eq!(parse(&format!("{h}h{m}m{ms}ms")), Ok(sum));
        }
    }
}

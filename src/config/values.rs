//! From text to a value, one function for each kind of value. Pure; a refusal says what is wrong
//! and what to write.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::problems::Complaint;
use super::unknown::nearest;
use super::{ApplyMode, FirstRead, Flow, LogFormat, OnUnknown, Protocol};
use crate::base::duration;
use crate::model::ids::{InboundTag, NodeId};
use crate::model::ports::PortRange;

/// Longest piece of a value that a message quotes, in characters.
const QUOTED_CHARS_MAX: usize = 60;
/// Longest name or flow, in characters.
const NAME_CHARS_MAX: usize = 64;

/// What reading a text comes to.
pub(super) type Read<T> = Result<T, Complaint>;

/// Shadowsocks' methods as Xray writes them, with the other name that some have.
const METHODS: [(&str, &str); 6] = [
    ("aes-128-gcm", ""),
    ("aes-256-gcm", ""),
    ("chacha20-poly1305", "chacha20-ietf-poly1305"),
    ("xchacha20-poly1305", "xchacha20-ietf-poly1305"),
    ("2022-blake3-aes-128-gcm", ""),
    ("2022-blake3-aes-256-gcm", ""),
];

fn refuse<T>(what: impl Into<String>, mend: impl Into<String>) -> Read<T> {
    Err(Complaint::new(what, mend))
}

/// A value as messages show it.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED_CHARS_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{start:?}…")
}

/// Any text.
#[expect(
    clippy::unnecessary_wraps,
    reason = "one signature for all that reads text"
)]
pub(super) fn text(text: &str) -> Read<String> {
    Ok(text.to_owned())
}

/// A path, made absolute from the folder that the agent was started in.
pub(super) fn path(text: &str) -> Read<PathBuf> {
    std::path::absolute(text).or_else(|e| {
        refuse(
            format!("{} is not a path here: {e}", quoted(text)),
            "give an absolute path",
        )
    })
}

/// A duration over zero and up to `max`: Go's notation, or a number of seconds.
pub(super) fn duration(max: Duration) -> impl Fn(&str) -> Read<Duration> {
    move |text| {
        let bare = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let in_go = if bare {
            format!("{text}s")
        } else {
            text.to_owned()
        };
        let mend = "write it as 10s, 500ms or 1h30m, or as a number of seconds";
        match duration::parse(&in_go) {
            Ok(Duration::ZERO) => refuse("must be more than 0", mend),
            Ok(value) if value > max => {
                let most = duration::format(max);
                refuse(
                    format!("{} is too long", quoted(text)),
                    format!("at most {most}"),
                )
            }
            Ok(value) => Ok(value),
            Err(e) => refuse(format!("{} is not a duration: {e}", quoted(text)), mend),
        }
    }
}

/// A whole number within bounds.
pub(super) fn integer<T>(bounds: RangeInclusive<T>) -> impl Fn(&str) -> Read<T>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => refuse(
            format!("{} is not a whole number within its bounds", quoted(text)),
            format!("give one from {} to {}", bounds.start(), bounds.end()),
        ),
    }
}

/// A truth value as variables have it, in any case: the forms that Go takes, and some words.
pub(super) fn boolean(text: &str) -> Read<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" => Ok(false),
        _ => refuse(
            format!("{} is neither true nor false", quoted(text)),
            "give true or false",
        ),
    }
}

fn one_of<T: Copy>(kind: &'static str, choices: &[(T, &str)]) -> impl Fn(&str) -> Read<T> {
    move |text| {
        if let Some((value, _)) = choices.iter().find(|(_, name)| *name == text) {
            return Ok(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(_, name)| *name).collect();
        let mend = match nearest(text, names.iter().copied()) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("give one of {}", names.join(", ")),
        };
        refuse(format!("{} is not a {kind}", quoted(text)), mend)
    }
}

/// What is done with the users.
pub(super) fn apply_mode(text: &str) -> Read<ApplyMode> {
    use ApplyMode::{Cmd, None, XrayGrpc};
    one_of(
        "mode",
        &[(XrayGrpc, "xray-grpc"), (Cmd, "cmd"), (None, "none")],
    )(text)
}

/// Whether open sessions of users who are removed are cut.
pub(super) fn kick(text: &str) -> Read<bool> {
    one_of(
        "way to treat open sessions",
        &[(true, "auto"), (false, "off")],
    )(text)
}

/// Ports and ranges of ports, between commas.
pub(super) fn ports(text: &str) -> Read<Vec<PortRange>> {
    text.split(',')
        .map(|part| port_range(part.trim()))
        .collect()
}

fn port_range(text: &str) -> Read<PortRange> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let range = match (from.trim().parse::<u16>(), to.trim().parse::<u16>()) {
        (Ok(from), Ok(to)) if from > 0 => PortRange::new(from.into(), to.into()),
        _ => None,
    };
    range.map_or_else(
        || {
            let what = format!("{} is neither a port nor a range of ports", quoted(text));
            refuse(what, "write such as 443,10000-10100")
        },
        Ok,
    )
}

/// How the log is written.
pub(super) fn log_format(text: &str) -> Read<LogFormat> {
    one_of(
        "format",
        &[(LogFormat::Text, "text"), (LogFormat::Json, "json")],
    )(text)
}

/// What is done with a report whose outcome is not known.
pub(super) fn on_unknown(text: &str) -> Read<OnUnknown> {
    use OnUnknown::{Auto, Hold, Resend};
    one_of(
        "way to treat such reports",
        &[(Auto, "auto"), (Hold, "hold"), (Resend, "resend")],
    )(text)
}

/// What becomes of bytes that were counted before the ledger was begun.
pub(super) fn first_read(text: &str) -> Read<FirstRead> {
    use FirstRead::{Adopt, Count};
    one_of(
        "way to treat such bytes",
        &[(Adopt, "adopt"), (Count, "count")],
    )(text)
}

/// A protocol by its name.
pub(super) fn protocol(text: &str) -> Read<Protocol> {
    one_of("protocol", &Protocol::ALL)(text)
}

/// A method of Shadowsocks, under the name that Xray gives it.
pub(super) fn method(text: &str) -> Read<String> {
    let choices = METHODS.map(|(name, _)| (name, name));
    let other = METHODS
        .iter()
        .find(|(_, other)| *other == text && !other.is_empty());
    other
        .map_or_else(|| one_of("method", &choices)(text), |(name, _)| Ok(*name))
        .map(str::to_owned)
}

/// A flow; empty is none.
pub(super) fn flow(text: &str) -> Read<Flow> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text {
        "auto" => Ok(Flow::Auto),
        "none" | "" => Ok(Flow::Given(String::new())),
        given if given.len() <= NAME_CHARS_MAX && given.chars().all(plain) => {
            Ok(Flow::Given(given.to_owned()))
        }
        _ => refuse(
            format!("{} is not a flow", quoted(text)),
            "give auto, none or a flow's name",
        ),
    }
}

/// Permissions in octal that leave the owner able to write.
pub(super) fn file_mode(text: &str) -> Read<u32> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => refuse(
            format!(
                "{} is not the mode of a file that its owner can write",
                quoted(text)
            ),
            "give it in octal, such as \"0640\"",
        ),
    }
}

/// A panel's number of a node.
pub(super) fn node_id(text: &str) -> Read<NodeId> {
    integer(1..=u64::MAX)(text).map(NodeId).map_err(|_| {
        let what = format!("{} is not the id of a node", quoted(text));
        Complaint::new(what, "give the panel's ids, whole numbers over 0")
    })
}

/// Xray's tag of an inbound.
pub(super) fn tag(text: &str) -> Read<InboundTag> {
    if text.is_empty() || text.chars().any(char::is_control) {
        let what = format!("{} cannot be the tag of an inbound", quoted(text));
        return refuse(
            what,
            "give the inbound's `tag` as Xray's configuration has it",
        );
    }
    Ok(InboundTag(text.to_owned()))
}

/// The name of an Xray.
pub(super) fn name(text: &str) -> Read<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.len() <= NAME_CHARS_MAX && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    refuse(
        format!("{} cannot be a name", quoted(text)),
        "use letters, digits, -, _ and .",
    )
}

/// An inbound's name towards panels.
pub(super) fn kernel_id(text: &str) -> Read<String> {
    if kernel_id_of(text) == text {
        return Ok(text.to_owned());
    }
    let mend = format!("use a-z, 0-9 and -, such as {}", kernel_id_of(text));
    refuse(format!("{} cannot be a kernel_id", quoted(text)), mend)
}

/// The name towards panels that an inbound has by its tag.
pub(super) fn kernel_id_of(tag: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    tag.chars().map(|c| plain(c.to_ascii_lowercase())).collect()
}

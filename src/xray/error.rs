//! What a call to Xray can come to. Xray answers nearly everything with code UNKNOWN, so the text
//! decides (`behaviour.md` §2.1). An e-mail stands inside that text and may say anything: a text is
//! matched at its end or by what Xray puts before the e-mail, never anywhere.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

use super::connect::NotConnected;

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XrayError {
    /// The inbound already has a user of that e-mail.
    #[error("the user is already there")]
    AlreadyExists,
    /// The inbound has no user of that e-mail.
    #[error("no such user")]
    UserNotFound,
    /// Xray has no inbound of that tag.
    #[error("Xray has no inbound of that tag")]
    InboundMissing,
    /// The inbound cannot change users while it runs.
    #[error("this inbound cannot change users while Xray runs")]
    NotUserManager,
    /// The core does not know this account or operation type.
    #[error("this Xray does not know the account type: {0}")]
    TypeUnknown(String),
    /// The core has no such call, or its service is not switched on.
    #[error("this Xray does not offer the call: {0}")]
    Unimplemented(String),
    /// No connection: nothing was sent.
    #[error("cannot reach Xray's API: {0}")]
    Unreachable(String),
    /// The connection broke under the call: its outcome is unknown, and it may be what broke Xray.
    #[error("the connection to Xray broke during the call: {0}")]
    Broken(String),
    /// No answer in time: its outcome is unknown.
    #[error("no answer from Xray within {0:?}")]
    Timeout(Duration),
    /// Nothing was sent: it is not known what the user shows to be let in.
    #[error("it is not known by which password this user is let in")]
    NoCredential,
    /// Anything else that Xray says.
    #[error("Xray refused: {0}")]
    Refused(String),
    /// An answer that cannot be read.
    #[error("cannot read Xray's answer: {0}")]
    Garbled(String),
}

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Gone by itself, perhaps: try again later.
    Transient,
    /// Not before somebody changes Xray or the configuration.
    Permanent,
}

impl XrayError {
    /// Whether waiting can help.
    pub fn class(&self) -> Class {
        match self {
            Self::InboundMissing
            | Self::NotUserManager
            | Self::TypeUnknown(_)
            | Self::Unimplemented(_) => Class::Permanent,
            _ => Class::Transient,
        }
    }

    /// Whether the call may have been carried out all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Broken(_))
    }

    /// Whether the whole Xray is away, so that further calls are in vain.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Broken(_))
    }
}

impl From<Status> for XrayError {
    fn from(status: Status) -> Self {
        if let Some(source) = status.source() {
            return local(&status, source);
        }
        let text = shortened(status.message());
        match status.code() {
            Code::Unknown => said(status.message(), text),
            // Of counters and lists of addresses, since 25.7.23.
            Code::NotFound => Self::UserNotFound,
            Code::Unimplemented => Self::Unimplemented(text),
            Code::Unavailable => Self::Broken(text),
            Code::OutOfRange | Code::Internal => Self::Garbled(text),
            _ => Self::Refused(format!("{:?}: {text}", status.code())),
        }
    }
}

/// A failure on our side of the wire: the status has a source.
fn local(status: &Status, source: &(dyn Error + 'static)) -> XrayError {
    let mut cause = Some(source);
    let mut deepest = status.message().to_owned();
    while let Some(error) = cause {
        if let Some(NotConnected(why)) = error.downcast_ref() {
            return XrayError::Unreachable(why.to_string());
        }
        deepest = error.to_string();
        cause = error.source();
    }
    XrayError::Broken(deepest)
}

/// Xray's own words under code UNKNOWN: the whole tells what they mean, `text` is what is shown.
fn said(whole: &str, text: String) -> XrayError {
    let lower = whole.to_ascii_lowercase();
    let end = lower.strip_suffix('.').unwrap_or(&lower);
    let before_email = lower.split(": user ").next().unwrap_or_default();
    let tells = |words: &str| before_email.contains(words);
    if tells("failed to get handler") || tells("handler not found") {
        XrayError::InboundMissing
    } else if end.ends_with("proto: not found") || tells("serial: unknown type") {
        XrayError::TypeUnknown(text)
    } else if end.ends_with("already exists") {
        XrayError::AlreadyExists
    } else if end.ends_with("proxy is not a usermanager") {
        XrayError::NotUserManager
    } else if end.ends_with("not found") {
        XrayError::UserNotFound
    } else {
        XrayError::Refused(text)
    }
}

/// The first 200 characters, UUIDs in it cut to their first 8.
fn shortened(text: &str) -> String {
    crate::base::redact::line(text, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xrays_texts_are_told_apart() {
        let missing = "app/proxyman/command: failed to get handler: nope > app/proxyman/inbound: \
                       handler not found: nope";
        let table = [
            (
                "proxy/vless: User A@x already exists.",
                XrayError::AlreadyExists,
            ),
            (
                "proxy/shadowsocks_2022: user A@x already exists",
                XrayError::AlreadyExists,
            ),
            (
                "proxy/vless: User nobody not found.",
                XrayError::UserNotFound,
            ),
            (
                "proxy/shadowsocks_2022: user nobody not found",
                XrayError::UserNotFound,
            ),
            (missing, XrayError::InboundMissing),
            (
                "app/proxyman/command: proxy is not a UserManager",
                XrayError::NotUserManager,
            ),
            (
                "x > proto: not found",
                XrayError::TypeUnknown("x > proto: not found".into()),
            ),
            ("proxy/shadowsocks_2022: bad key", {
                XrayError::Refused("proxy/shadowsocks_2022: bad key".into())
            }),
        ];
        for (text, expected) in table {
            assert_eq!(XrayError::from(Status::unknown(text)), expected, "{text}");
        }
    }

    #[test]
    fn v2rays_texts_are_told_apart() {
        let unknown = "v2ray.com/core/app/proxyman/command: unknown operation > Serial: Unknown \
                       type: xray.app.proxyman.command.AddUserOperation";
        let table = [
            (
                "v2ray.com/core/proxy/vless: User A@x already exists.",
                XrayError::AlreadyExists,
            ),
            (
                "v2ray.com/core/proxy/vmess/inbound: User nobody not found.",
                XrayError::UserNotFound,
            ),
            (
                "v2ray.com/core/app/proxyman/command: failed to get handler: nope > \
                 v2ray.com/core/app/proxyman/inbound: handler not found: nope",
                XrayError::InboundMissing,
            ),
            (
                "v2ray.com/core/app/proxyman/command: proxy is not a UserManager",
                XrayError::NotUserManager,
            ),
            (unknown, XrayError::TypeUnknown(unknown.into())),
            (
                "v2ray.com/core/proxy/vless: User Serial: Unknown type: x already exists.",
                XrayError::AlreadyExists,
            ),
        ];
        for (text, expected) in table {
            assert_eq!(XrayError::from(Status::unknown(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_long_email_hides_nothing_that_xray_says() {
        let email = "x".repeat(100_000);
        let table = [
            (
                format!("proxy/vless: User {email} already exists."),
                XrayError::AlreadyExists,
            ),
            (
                format!("proxy/vless: User {email} not found."),
                XrayError::UserNotFound,
            ),
            (
                "proxy/vless: User handler not found: x not found.".to_owned(),
                XrayError::UserNotFound,
            ),
        ];
        for (text, expected) in table {
            let length = text.len();
            assert_eq!(XrayError::from(Status::unknown(text)), expected, "{length}");
        }
        let refused = XrayError::from(Status::unknown(format!("{email} is odd")));
        assert!(refused.to_string().len() < 300);
    }

    #[test]
    fn a_uuid_in_xrays_words_is_shortened() {
        let id = "aaaaaaaa-0000-4000-8000-000000000001";
        let error = XrayError::from(Status::unknown(format!("proxy/vless: {id} is odd")));
        assert!(!error.to_string().contains(id), "{error}");
        assert!(error.to_string().contains("aaaaaaaa"), "{error}");
    }
}

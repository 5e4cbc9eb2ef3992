//! Which core answers, and its names of things. V2Ray 4 speaks Xray's API under another prefix, with
//! fewer calls and fewer protocols whose users can be changed (`behaviour.md` §9). Pure.

use std::error::Error;

use tonic::{Code, Status};

use crate::config::Protocol;

/// What all names of Xray begin with.
const XRAY: &str = "xray.";
/// What the same names begin with in V2Ray 4.
const V2RAY: &str = "v2ray.core.";

/// A kind of core. Everything in the agent has Xray's names; they are made the other's on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Xray.
    #[default]
    Xray,
    /// V2Ray 4: it lists neither inbounds nor users.
    V2Ray4,
}

impl Dialect {
    /// In the order in which they are to be asked for: Xray answers to V2Ray's names, too.
    pub(super) const IN_ORDER: [Self; 2] = [Self::Xray, Self::V2Ray4];

    /// As status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xray => "xray",
            Self::V2Ray4 => "v2ray",
        }
    }

    /// Whether its inbounds of this protocol can change users while it runs.
    pub fn manages(self, protocol: Protocol) -> bool {
        use Protocol::{Trojan, Vless, Vmess};
        self == Self::Xray || matches!(protocol, Vless | Vmess | Trojan)
    }

    /// The name of a service or a message here, given Xray's.
    pub(super) fn name_of(self, xrays: String) -> String {
        match (self, xrays.strip_prefix(XRAY)) {
            (Self::V2Ray4, Some(rest)) => format!("{V2RAY}{rest}"),
            _ => xrays,
        }
    }

    /// The path of a call here, given Xray's (`/SERVICE/METHOD`); `None` where it stays.
    pub(super) fn path_of(self, xrays: &str) -> Option<String> {
        match (self, xrays.strip_prefix('/')) {
            (Self::V2Ray4, Some(name)) => Some(format!("/{}", self.name_of(name.to_owned()))),
            _ => None,
        }
    }
}

/// Whether a core has the service that gave this answer, whatever that thinks of the call. `Err`
/// where no core has answered.
pub(super) fn is_there<T>(answer: &Result<T, Status>) -> Result<bool, Status> {
    let Err(status) = answer else {
        return Ok(true);
    };
    match status.code() {
        // Of our own making: a core's words have no source.
        _ if status.source().is_some() => Err(status.clone()),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Err(status.clone()),
        Code::Unimplemented => Ok(status.message().starts_with("unknown method")),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_xrays_for_xray_and_begin_otherwise_for_v2ray() {
        let of = |dialect: Dialect, name: &str| dialect.name_of(name.to_owned());
        let account = "xray.proxy.vless.Account";
        assert_eq!(of(Dialect::Xray, account), account);
        assert_eq!(
            of(Dialect::V2Ray4, account),
            "v2ray.core.proxy.vless.Account"
        );
        let path = "/xray.app.stats.command.StatsService/QueryStats";
        assert_eq!(Dialect::Xray.path_of(path), None);
        assert_eq!(
            Dialect::V2Ray4.path_of(path).as_deref(),
            Some("/v2ray.core.app.stats.command.StatsService/QueryStats")
        );
    }

    #[test]
    fn v2ray_changes_users_of_three_protocols_only() {
        let table = [
            (Protocol::Vless, true),
            (Protocol::Vmess, true),
            (Protocol::Trojan, true),
            (Protocol::Shadowsocks, false),
            (Protocol::Shadowsocks2022, false),
            (Protocol::Hysteria, false),
        ];
        for (protocol, manages) in table {
            assert_eq!(Dialect::V2Ray4.manages(protocol), manages, "{protocol:?}");
            assert!(Dialect::Xray.manages(protocol), "{protocol:?}");
        }
    }

    #[test]
    fn only_a_service_that_is_unknown_is_absent() {
        let lacking = "unknown method GetSysStats for service xray.app.stats.command.StatsService";
        let table = [
            (Status::unknown("handler not found: "), Some(true)),
            (Status::unimplemented(lacking), Some(true)),
            (
                Status::unimplemented("unknown service xray.app.stats.command.StatsService"),
                Some(false),
            ),
            (Status::unimplemented(""), Some(false)),
            (Status::unavailable("Socket closed"), None),
            (Status::deadline_exceeded(""), None),
            (
                Status::from_error(Box::new(std::io::Error::other("no way there"))),
                None,
            ),
        ];
        for (status, expected) in table {
            let what = status.to_string();
            assert_eq!(is_there::<()>(&Err(status)).ok(), expected, "{what}");
        }
        assert!(is_there(&Ok(())).unwrap());
    }
}

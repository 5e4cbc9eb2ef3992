//! What can be known beforehand of cutting an inbound's sessions: from what Xray tells of the inbound,
//! and from whether it tells who is connected. Pure.

use crate::xray::inbound::InboundInfo;

/// Whether Xray tells from where users are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sync) enum Lists {
    /// Nobody has come in yet by whom it could be seen.
    #[default]
    Unseen,
    /// It does.
    Kept,
    /// Its policy does not ask for it.
    NotKept,
    /// This core has no such lists.
    Lacking,
}

/// What is known beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sync) struct Prospect {
    /// The inbound as Xray has it, where it tells.
    pub(in crate::sync) info: Option<InboundInfo>,
    /// Whether Xray tells who is connected.
    pub(in crate::sync) lists: Lists,
    /// Whether Xray may be on another host.
    pub(in crate::sync) remote: bool,
}

impl Prospect {
    /// Why sessions cannot be cut, if there is a reason.
    pub(in crate::sync) fn obstacle(&self, level: u32) -> Option<String> {
        match self.lists {
            Lists::Lacking => {
                return Some(
                    "this core does not tell from where users are connected (Xray does since \
                     25.2.18)"
                        .to_owned(),
                );
            }
            Lists::NotKept => return Some(not_kept(level)),
            Lists::Unseen | Lists::Kept => {}
        }
        if self.remote {
            return Some(
                "Xray's API is at no loopback address, so that Xray may be on another host; where \
                 it is this one, name 127.0.0.1 or a unix socket"
                    .to_owned(),
            );
        }
        let Some(info) = &self.info else {
            return Some("this core does not tell its inbounds' ports".to_owned());
        };
        of_inbound(info).map(str::to_owned)
    }

    /// Why sessions may be out of reach, if there is nothing worse.
    pub(in crate::sync) fn doubt(&self) -> Option<String> {
        let listen = self.info.as_ref()?.transport.listen?;
        listen.is_loopback().then(|| {
            "it listens on this host only: where users come through a proxy in front of it, their \
             addresses have no connection here"
                .to_owned()
        })
    }
}

fn not_kept(level: u32) -> String {
    format!(
        "Xray keeps no list of who is connected: add \"statsUserOnline\": true to \"policy\": \
         {{\"levels\": {{\"{level}\": {{…}}}}}} of its configuration, and restart it"
    )
}

fn of_inbound(info: &InboundInfo) -> Option<&'static str> {
    let transport = &info.transport;
    if info.is_over_udp() {
        return Some("its users come by UDP, which has no connections to cut");
    }
    if info.ports.is_empty() {
        return Some("it listens on a unix socket: its connections are a proxy's");
    }
    if transport.proxy_protocol {
        return Some("it takes the PROXY protocol: its connections are a proxy's");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;
    use crate::model::ports::PortRange;
    use crate::xray::inbound::Transport;

    fn inbound(network: &str, listen: &str) -> InboundInfo {
        InboundInfo {
            tag: "in".into(),
            protocol: Ok(Protocol::Vless),
            transport: Transport {
                network: network.into(),
                listen: listen.parse().ok(),
                ..Transport::default()
            },
            ports: vec![PortRange::single(443)],
        }
    }

    fn said(info: Option<InboundInfo>, lists: Lists) -> String {
        let prospect = Prospect {
            info,
            lists,
            remote: false,
        };
        let said = prospect.obstacle(3).or_else(|| prospect.doubt());
        said.unwrap_or_default()
    }

    #[test]
    fn what_is_out_of_reach_is_told_with_its_reason() {
        let mut unix = inbound("ws", "");
        unix.ports.clear();
        let mut behind = inbound("tcp", "0.0.0.0");
        behind.transport.proxy_protocol = true;
        let mut hysteria = inbound("", "::");
        hysteria.protocol = Ok(Protocol::Hysteria);
        let table = [
            (inbound("tcp", "0.0.0.0"), ""),
            (inbound("grpc", "::"), ""),
            (inbound("", "192.0.2.1"), ""),
            (inbound("mkcp", "0.0.0.0"), "UDP"),
            (hysteria, "UDP"),
            (unix, "unix socket"),
            (behind, "PROXY protocol"),
            (inbound("ws", "127.0.0.1"), "this host only"),
            (inbound("ws", "::1"), "this host only"),
        ];
        for (info, expected) in table {
            let said = said(Some(info.clone()), Lists::Kept);
            assert_eq!(said.is_empty(), expected.is_empty(), "{info:?}: {said}");
            assert!(said.contains(expected), "{info:?}: {said}");
        }
    }

    #[test]
    fn nothing_is_cut_for_an_xray_elsewhere() {
        let prospect = Prospect {
            info: Some(inbound("tcp", "0.0.0.0")),
            lists: Lists::Kept,
            remote: true,
        };
        assert!(
            prospect
                .obstacle(0)
                .is_some_and(|why| why.contains("another host"))
        );
    }

    #[test]
    fn without_lists_nobody_can_be_found() {
        let open = || Some(inbound("tcp", "0.0.0.0"));
        assert_eq!(said(open(), Lists::Unseen), "");
        assert!(said(open(), Lists::Lacking).contains("25.2.18"));
        let mend = said(open(), Lists::NotKept);
        assert!(
            mend.contains("statsUserOnline") && mend.contains("\"3\""),
            "{mend}"
        );
        assert!(said(None, Lists::Kept).contains("ports"));
    }
}

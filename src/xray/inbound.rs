//! What Xray tells of an inbound (ListInbounds), cut to what the agent needs: its configuration
//! holds private keys, which are never decoded. Pure.

use std::net::IpAddr;

use prost::{Message, Name};

use super::proto::xray::app::proxyman::ReceiverConfig;
use super::proto::xray::common::net::IpOrDomain;
use super::proto::xray::common::net::ip_or_domain::Address;
use super::proto::xray::core::InboundHandlerConfig;
use crate::config::Protocol;
use crate::model::ids::InboundTag;
use crate::model::ports::PortRange;

/// One inbound of a running Xray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundInfo {
    /// Its tag; empty for one that cannot be addressed.
    pub tag: String,
    /// The protocol, or why its users cannot be managed.
    pub protocol: Result<Protocol, Unsupported>,
    /// Transport and security.
    pub transport: Transport,
    /// Where it listens; empty for one on a unix socket. What is no range of ports is left out.
    pub ports: Vec<PortRange>,
}

/// How an inbound is reached.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transport {
    /// `tcp`/`raw`, `websocket`, `grpc`, `splithttp`, …; empty is raw TCP.
    pub network: String,
    /// Message name of the security settings; empty for none.
    pub security: String,
    /// The address on which it listens; `None` for a unix socket, or where it cannot be read.
    pub listen: Option<IpAddr>,
    /// Whether a proxy in front of it tells its peers' addresses.
    pub proxy_protocol: bool,
}

impl Transport {
    /// Whether it carries VLESS' Vision flow: raw TCP under TLS or REALITY.
    pub fn carries_vision(&self) -> bool {
        matches!(self.network.as_str(), "" | "tcp" | "raw")
            && (self.security.contains(".tls.") || self.security.contains(".reality."))
    }
}

/// Transports over UDP, by the name that Xray gives them.
const OVER_UDP: [&str; 4] = ["hysteria", "kcp", "mkcp", "quic"];

impl InboundInfo {
    /// Whether its users come by UDP.
    pub fn is_over_udp(&self) -> bool {
        self.protocol == Ok(Protocol::Hysteria)
            || OVER_UDP.contains(&self.transport.network.as_str())
    }

    /// Where it listens on TCP. Who listens on TCP at the port of one on UDP is another program,
    /// often a web server, whose visitors are not ours.
    pub fn tcp_ports(&self) -> &[PortRange] {
        if self.is_over_udp() { &[] } else { &self.ports }
    }
}

/// The TCP ports of the inbounds of these tags.
pub fn over_tcp(inbounds: &[InboundInfo], tags: &[InboundTag]) -> Vec<PortRange> {
    let is_managed = |inbound: &&InboundInfo| tags.iter().any(|tag| tag.0 == inbound.tag);
    let managed = inbounds.iter().filter(is_managed);
    managed.flat_map(InboundInfo::tcp_ports).copied().collect()
}

/// An inbound whose users cannot be managed, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// Protocols by the name of the inbound's settings.
const SETTINGS: [(&str, Protocol); 6] = [
    ("xray.proxy.vless.inbound.Config", Protocol::Vless),
    ("xray.proxy.vmess.inbound.Config", Protocol::Vmess),
    ("xray.proxy.trojan.ServerConfig", Protocol::Trojan),
    ("xray.proxy.shadowsocks.ServerConfig", Protocol::Shadowsocks),
    (
        "xray.proxy.shadowsocks_2022.MultiUserServerConfig",
        Protocol::Shadowsocks2022,
    ),
    ("xray.proxy.hysteria.ServerConfig", Protocol::Hysteria),
];

/// Why other inbounds are refused, by the name of their settings.
const REFUSED: [(&str, &str); 8] = [
    (
        "xray.proxy.shadowsocks_2022.ServerConfig",
        "it is a single-user Shadowsocks 2022 inbound: add one static client to its settings and it \
         becomes a multi-user one",
    ),
    (
        "xray.proxy.shadowsocks_2022.RelayServerConfig",
        "it is a Shadowsocks 2022 relay, which has no users",
    ),
    (
        "xray.proxy.wireguard.DeviceConfig",
        "WireGuard peers need keys and addresses, which a UUID does not give",
    ),
    (
        "xray.proxy.masque.ServerConfig",
        "Masque users are not supported",
    ),
    (
        "xray.proxy.socks.ServerConfig",
        "SOCKS accounts are fixed when Xray starts",
    ),
    (
        "xray.proxy.http.ServerConfig",
        "HTTP accounts are fixed when Xray starts",
    ),
    ("xray.proxy.dokodemo.Config", "dokodemo-door has no users"),
    (
        "xray.proxy.loopback.Config",
        "a loopback inbound has no users",
    ),
];

impl From<InboundHandlerConfig> for InboundInfo {
    fn from(config: InboundHandlerConfig) -> Self {
        let settings = config
            .proxy_settings
            .map(|head| head.r#type)
            .unwrap_or_default();
        let receiver = config
            .receiver_settings
            .filter(|typed| typed.r#type == ReceiverConfig::full_name())
            .and_then(|typed| ReceiverConfig::decode(typed.value).ok())
            .unwrap_or_default();
        let ports = receiver.port_list.unwrap_or_default().range;
        let stream = receiver.stream_settings.unwrap_or_default();
        let transport = Transport {
            network: stream.protocol_name,
            security: stream.security_type,
            listen: receiver.listen.and_then(address_of),
            proxy_protocol: stream
                .socket_settings
                .is_some_and(|socket| socket.accept_proxy_protocol),
        };
        Self {
            tag: config.tag,
            protocol: protocol_of(&settings),
            transport,
            ports: ports
                .iter()
                .filter_map(|range| PortRange::new(range.from, range.to))
                .collect(),
        }
    }
}

fn address_of(listen: IpOrDomain) -> Option<IpAddr> {
    match listen.address? {
        Address::Ip(ip) => match ip.len() {
            4 => <[u8; 4]>::try_from(&*ip).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(&*ip).ok().map(IpAddr::from),
        },
        Address::Domain(_) => None,
    }
}

fn protocol_of(settings: &str) -> Result<Protocol, Unsupported> {
    if let Some((_, protocol)) = SETTINGS.iter().find(|(name, _)| *name == settings) {
        return Ok(*protocol);
    }
    let known = REFUSED.iter().find(|(name, _)| *name == settings);
    Err(Unsupported(known.map_or_else(
        || format!("its protocol ({settings}) is not known to this agent"),
        |(_, why)| (*why).to_owned(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xray::proto::xray::common::net::{PortList, PortRange as RawRange};
    use crate::xray::proto::xray::common::serial::TypedMessage;

    /// An inbound with these settings of its receiver.
    fn listed(receiver: Option<ReceiverConfig>) -> InboundInfo {
        InboundInfo::from(InboundHandlerConfig {
            tag: "in".into(),
            receiver_settings: receiver.map(|receiver| TypedMessage {
                r#type: ReceiverConfig::full_name(),
                value: receiver.encode_to_vec().into(),
            }),
            ..InboundHandlerConfig::default()
        })
    }

    #[test]
    fn ports_are_those_of_the_receiver_without_what_is_no_range() {
        let numbers = [(443, 443), (2_000, 1_000), (1, 65_536), (8_000, 8_010)];
        let range = numbers.map(|(from, to)| RawRange { from, to }).to_vec();
        let receiver = ReceiverConfig {
            port_list: Some(PortList { range }),
            ..ReceiverConfig::default()
        };
        let kept = [(443, 443), (8_000, 8_010)].map(|(from, to)| PortRange { from, to });
        assert_eq!(listed(Some(receiver)).ports, kept);
    }

    #[test]
    fn an_inbound_without_a_port_list_has_no_ports() {
        assert_eq!(listed(Some(ReceiverConfig::default())).ports, []);
        assert_eq!(listed(None).ports, []);
    }

    #[test]
    fn vision_goes_over_raw_tcp_under_tls_or_reality_only() {
        let tls = "xray.transport.internet.tls.Config";
        let reality = "xray.transport.internet.reality.Config";
        let table = [
            ("tcp", tls, true),
            ("raw", reality, true),
            ("", tls, true),
            ("tcp", "", false),
            ("websocket", tls, false),
            ("grpc", reality, false),
        ];
        for (network, security, carries) in table {
            let transport = Transport {
                network: network.into(),
                security: security.into(),
                ..Transport::default()
            };
            assert_eq!(transport.carries_vision(), carries, "{network} {security}");
        }
    }

    #[test]
    fn an_inbound_that_cannot_be_managed_is_refused_with_the_reason() {
        for (settings, why) in REFUSED {
            assert_eq!(protocol_of(settings).unwrap_err().0, why);
        }
        assert!(
            protocol_of("xray.proxy.new.Config")
                .unwrap_err()
                .0
                .contains("xray.proxy.new")
        );
        for (settings, protocol) in SETTINGS {
            assert_eq!(protocol_of(settings), Ok(protocol));
        }
    }

    #[test]
    fn only_managed_inbounds_over_tcp_have_ports() {
        let inbound = |tag: &str, protocol, network: &str, port| InboundInfo {
            tag: tag.into(),
            protocol: Ok(protocol),
            transport: Transport {
                network: network.into(),
                security: String::new(),
                ..Transport::default()
            },
            ports: vec![PortRange::single(port)],
        };
        let inbounds = [
            inbound("raw", Protocol::Vless, "", 1),
            inbound("ws", Protocol::Trojan, "websocket", 2),
            inbound("kcp", Protocol::Vmess, "mkcp", 3),
            inbound("hy", Protocol::Hysteria, "hysteria", 4),
            inbound("foreign", Protocol::Vless, "", 5),
        ];
        let tags = ["raw", "ws", "kcp", "hy", "gone"].map(|tag| InboundTag(tag.into()));
        assert_eq!(over_tcp(&inbounds, &tags), [1, 2].map(PortRange::single));
        assert_eq!(over_tcp(&inbounds, &tags[2..]), []);
    }
}

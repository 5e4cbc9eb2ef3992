//! Whether anybody is connected to the managed inbounds of one Xray: asked when Xray counts nobody.
//!
//! Invariant: what cannot be told is `None`, never 0; an answer takes no longer than [`BOUND`].

use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use crate::config::Protocol;
use crate::model::ids::InboundTag;
use crate::model::ports::PortRange;
use crate::sockets;
use crate::xray::client::XrayClient;
use crate::xray::inbound::InboundInfo;

/// The longest that an answer takes: whoever asks has counters to read every few seconds.
pub const BOUND: Duration = Duration::from_secs(5);
/// Inbounds are added and moved seldom.
const PORTS_KEPT: Duration = Duration::from_mins(5);
/// Transports over UDP, by the name that Xray gives them.
const OVER_UDP: [&str; 4] = ["hysteria", "kcp", "mkcp", "quic"];

/// The managed inbounds of one Xray.
#[derive(Debug)]
pub struct Connections {
    client: XrayClient,
    tags: Vec<InboundTag>,
    ports: Option<Ports>,
    /// Whether the last answer failed, so that it is logged once.
    failed: bool,
}

/// Where the managed inbounds listened at some time.
#[derive(Debug)]
struct Ports {
    read_at: Instant,
    tcp: Vec<PortRange>,
}

impl Connections {
    /// For these inbounds of this Xray; asks nothing yet.
    pub fn new(client: XrayClient, tags: Vec<InboundTag>) -> Self {
        Self {
            client,
            tags,
            ports: None,
            failed: false,
        }
    }

    /// Established TCP connections to the managed inbounds. `None` where that cannot be told: Xray
    /// may be on another host or does not tell where it listens, none of them listens on TCP, the
    /// kernel does not tell its sockets, or not in time. By `now` the ports remembered grow old.
    pub async fn established(&mut self, now: Instant) -> Option<usize> {
        if self.client.may_be_remote() {
            return None;
        }
        let answer = match tokio::time::timeout(BOUND, self.count(now)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {BOUND:?}")),
        };
        match answer {
            Ok(count) => {
                self.failed = false;
                count
            }
            Err(why) => {
                // They may have moved.
                self.ports = None;
                if !std::mem::replace(&mut self.failed, true) {
                    let xray = self.client.name();
                    tracing::debug!(xray, why, "cannot tell whether anybody is connected");
                }
                None
            }
        }
    }

    async fn count(&mut self, now: Instant) -> Result<Option<usize>, String> {
        let ports = self.tcp_ports(now).await?;
        if ports.is_empty() {
            return Ok(None);
        }
        // If it is given up, the thread ends by itself: the kernel's answers are bounded, too.
        let counted = spawn_blocking(move || sockets::established_on(&ports)).await;
        let count = counted.map_err(|e| e.to_string())?;
        count.map(Some).map_err(|e| e.to_string())
    }

    async fn tcp_ports(&mut self, now: Instant) -> Result<Vec<PortRange>, String> {
        let is_fresh = |ports: &Ports| now.saturating_duration_since(ports.read_at) < PORTS_KEPT;
        if let Some(ports) = self.ports.as_ref().filter(|ports| is_fresh(ports)) {
            return Ok(ports.tcp.clone());
        }
        let listed = self.client.list_inbounds().await;
        let tcp = over_tcp(&listed.map_err(|e| e.to_string())?, &self.tags);
        self.ports = Some(Ports {
            read_at: now,
            tcp: tcp.clone(),
        });
        Ok(tcp)
    }
}

/// The TCP ports of the inbounds of these tags. Who listens on TCP at the port of one on UDP is
/// another program, often a web server, whose visitors are not ours.
pub fn over_tcp(inbounds: &[InboundInfo], tags: &[InboundTag]) -> Vec<PortRange> {
    let is_managed = |inbound: &&InboundInfo| tags.iter().any(|tag| tag.0 == inbound.tag);
    let is_tcp = |inbound: &&InboundInfo| {
        inbound.protocol != Ok(Protocol::Hysteria)
            && !OVER_UDP.contains(&inbound.transport.network.as_str())
    };
    let chosen = inbounds.iter().filter(is_managed).filter(is_tcp);
    chosen.flat_map(|inbound| inbound.ports.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xray::inbound::Transport;

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

//! Whether anybody is connected to the managed inbounds of one Xray: asked when Xray counts nobody.
//!
//! Invariant: what cannot be told is `None`, never 0; an answer takes no longer than [`BOUND`].

use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use crate::model::ids::InboundTag;
use crate::model::ports::PortRange;
use crate::sockets;
use crate::xray::client::XrayClient;
use crate::xray::inbound::over_tcp;

/// The longest that an answer takes: whoever asks has counters to read every few seconds.
pub const BOUND: Duration = Duration::from_secs(5);
/// Inbounds are added and moved seldom.
const PORTS_KEPT: Duration = Duration::from_mins(5);

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

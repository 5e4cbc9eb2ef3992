//! Cuts the open sessions of users who were removed: Xray's `RemoveUser` ends none. Their addresses are
//! read before and after the removal, the sockets between those and the inbound's ports are destroyed,
//! and a moment later it is looked once more who got through.
//!
//! Keeps: only sockets of the inbound's own ports and of addresses that Xray names for those very users
//! are cut, and whoever could not be cut is told and counted.

mod block;
pub mod by_hand;
mod prospect;
mod record;
mod sessions;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

pub(super) use block::Blocks;
pub(super) use record::Record;
pub use record::{Foreseen, foresee};
pub(super) use sessions::Sessions;

use crate::model::cut::{Cut, Cutter, Obstacle, Sockets};
use crate::model::ports::PortRange;
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;
use crate::xray::inbound::InboundInfo;

/// A removal waits no longer than this for the addresses of those who leave: access goes first, and
/// their addresses can be read afterwards, too.
const LOOK_BEFORE_TAKES: Duration = Duration::from_millis(100);
/// After the removal there is more time; 1 000 users take some 30 ms.
const LOOK_AFTER_TAKES: Duration = Duration::from_secs(5);
/// So much later Xray has noticed that a socket is gone, and shows bytes that the kernel had spliced.
const NOTICED_AFTER: Duration = Duration::from_millis(200);

/// Cuts sessions of one inbound.
#[derive(Clone)]
pub(super) struct Kicker {
    /// The Xray.
    pub(super) client: XrayClient,
    /// Who destroys sockets; `None`: sessions are left to themselves.
    pub(super) cutter: Option<Arc<dyn Cutter>>,
    /// Whether it is said beforehand what is in the way: not where one pass is all there is.
    pub(super) looks_ahead: bool,
    /// The last resort.
    pub(super) blocks: Arc<Blocks>,
}

/// What became of the sessions of some users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kicked {
    /// E-mails of those who were connected.
    pub online: BTreeSet<String>,
    /// E-mails of those of them who may be connected still.
    pub not_cut: BTreeSet<String>,
    /// Sockets destroyed.
    pub sockets: usize,
    /// Why not all were cut; or, where nobody was seen to be connected, why it could not be seen.
    pub why: Option<String>,
}

impl Kicked {
    /// How many users were cut off.
    pub fn cut(&self) -> usize {
        self.online.len() - self.not_cut.len()
    }
}

impl Kicker {
    /// The ports on which connections may be cut.
    pub(super) fn ports(&self, info: Option<&InboundInfo>) -> Vec<PortRange> {
        ports(&self.client, info)
    }

    /// From where those users are connected now, before they are removed. Comes back soon, perhaps
    /// without knowing of everybody.
    pub(super) async fn look(&self, emails: &[String]) -> Sessions {
        let mut seen = Sessions::default();
        if self.cutter.is_some() {
            let look = seen.look(&self.client, emails);
            if timeout(LOOK_BEFORE_TAKES, look).await.is_err() {
                debug!("users are removed before all their addresses were read");
            }
        }
        seen
    }

    /// Cuts the sessions of those users, who were removed, on `ports`; `seen`: from where they were
    /// connected before.
    pub(super) async fn kick(
        &self,
        emails: &[String],
        mut seen: Sessions,
        ports: &[PortRange],
    ) -> Kicked {
        let Some(cutter) = &self.cutter else {
            return Kicked::default();
        };
        let error = self.look_again(&mut seen, emails).await;
        if seen.is_empty() {
            return Kicked {
                why: error.map(|error| error.to_string()),
                ..Kicked::default()
            };
        }
        let mut sockets = Sockets::new();
        let mut obstacle = destroy(&**cutter, ports, seen.addresses(), &mut sockets).await;
        sleep(NOTICED_AFTER).await;
        let online: Vec<String> = seen.emails().map(str::to_owned).collect();
        let mut left = Sessions::default();
        let blind = self.look_again(&mut left, &online).await;
        if !left.is_empty() && obstacle.is_none() {
            // Whoever came in while he was being removed.
            obstacle = destroy(&**cutter, ports, left.addresses(), &mut sockets).await;
        }
        // Where it is not known who got through, whoever had no socket may have.
        let suspects = if blind.is_some() { &seen } else { &left };
        let not_cut = suspects.without(&sockets);
        let reason = || match (obstacle, blind) {
            (Some(obstacle), _) => obstacle.to_string(),
            (None, Some(error)) => error.to_string(),
            (None, None) => no_socket(suspects, &sockets),
        };
        Kicked {
            why: (!not_cut.is_empty()).then(reason),
            online: online.into_iter().collect(),
            sockets: sockets.values().sum(),
            not_cut,
        }
    }

    async fn look_again(&self, seen: &mut Sessions, emails: &[String]) -> Option<XrayError> {
        let begun = Instant::now();
        let look = timeout(LOOK_AFTER_TAKES, seen.look(&self.client, emails));
        match look.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(XrayError::Timeout(begun.elapsed())),
        }
    }
}

/// Where that inbound's connections are: nowhere for an Xray elsewhere, whose ports are somebody else's
/// here.
fn ports(client: &XrayClient, info: Option<&InboundInfo>) -> Vec<PortRange> {
    match info {
        Some(info) if !client.may_be_remote() => info.tcp_ports().to_vec(),
        _ => Vec::new(),
    }
}

async fn destroy(
    cutter: &dyn Cutter,
    ports: &[PortRange],
    addresses: BTreeSet<IpAddr>,
    sockets: &mut Sockets,
) -> Option<Obstacle> {
    if ports.is_empty() {
        return None;
    }
    let cut = Cut {
        ports: ports.to_vec(),
        addresses,
    };
    match cutter.cut(&cut).await {
        Ok(destroyed) => {
            for (address, count) in destroyed {
                *sockets.entry(address).or_default() += count;
            }
            None
        }
        Err(obstacle) => Some(obstacle),
    }
}

/// Where Xray says that a user is connected, and the kernel knows of no such connection.
fn no_socket(left: &Sessions, sockets: &Sockets) -> String {
    let mut missing = left.addresses();
    missing.retain(|address| !sockets.contains_key(address));
    let first = missing.first().map(ToString::to_string);
    format!(
        "{} is connected to no port of the inbound: the users come through a proxy (a CDN, nginx) \
         or by UDP, Xray is elsewhere, or its list is stale (before 26.3.23)",
        first.unwrap_or_default()
    )
}

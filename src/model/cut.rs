//! Sockets to be cut, and who cuts them: between the engine that knows whose sessions must end and the
//! adapter that ends them. Plain data and one trait.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::ports::PortRange;

/// TCP connections to servers on this host: those whose local port is one of `ports` and whose peer is
/// one of `addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Local ports.
    pub ports: Vec<PortRange>,
    /// Peers; an IPv4 peer of a dual-stack listener by its IPv4 address.
    pub addresses: BTreeSet<IpAddr>,
}

/// How many sockets were destroyed for each address; an address without one is left out.
pub type Sockets = BTreeMap<IpAddr, usize>;

/// Why nothing can be cut: what, where, and the mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Obstacle(pub String);

/// Cuts connections.
pub trait Cutter: Send + Sync {
    /// Destroys those sockets. Comes back within seconds, whatever happens.
    fn cut<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Result<Sockets, Obstacle>>;

    /// Why connections to servers on `ports` cannot be cut, if it is known that they cannot: no
    /// privilege, or nobody listens there in this network namespace. Destroys nothing.
    fn obstacle<'a>(&'a self, ports: &'a [PortRange]) -> BoxFuture<'a, Option<Obstacle>>;
}

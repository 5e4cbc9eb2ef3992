//! Who may be reached on whose behalf. Keeps: what a user sets reaches no link-local address and no
//! cloud's metadata, and neither our own listeners nor Xray's API; in doubt it is refused. Pure:
//! what only the system knows comes in as [`Around`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use super::address::{self, Kind};
use super::target::Target;
use crate::model::allowed::{Allowed, without_dot};

/// What one kind of caller may reach.
#[derive(Clone, Debug)]
pub struct Policy {
    reach: Reach,
    own: Own,
}

#[derive(Clone, Debug)]
enum Reach {
    /// Whatever stands in the configuration: its author could reach it without us.
    Anything,
    /// The internet, this host and its networks.
    Near,
    /// The internet, and of the rest what is listed.
    Listed(Vec<Allowed>),
}

/// What is ours and serves nobody's URLs: the agent's listeners and Xray's API.
#[derive(Clone, Debug, Default)]
pub struct Own(Vec<Place>);

#[derive(Clone, Debug)]
struct Place {
    host: Host<String>,
    port: u16,
    /// Whether whatever listens there may listen at all of this host's addresses.
    is_wide: bool,
}

/// What of a target only the system knows.
pub struct Around<'a> {
    /// Whether an address is one of this host's.
    pub is_here: &'a dyn Fn(IpAddr) -> bool,
    /// What [`Policy::own_names`] lead to.
    pub own: &'a [IpAddr],
}

impl fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// Knows nothing but loopback: for what can be said before anyone is asked.
pub const NOTHING_AROUND: Around<'static> = Around {
    is_here: &|address| address::kind(address) == Kind::Loopback,
    own: &[],
};

impl Own {
    /// Adds a listener of the agent by its bound address; the unspecified one stands for all of
    /// this host's. Port 0 is none.
    #[must_use]
    pub fn listener(mut self, at: SocketAddr) -> Self {
        self.0.push(Place {
            host: Target::of_address(plain(at.ip()), at.port()).host(),
            port: at.port(),
            is_wide: at.ip().is_unspecified(),
        });
        self
    }

    /// Adds an Xray's API by where we reach it, `host:port`. It may listen at more addresses than
    /// that, so where it is on this host all of its addresses count.
    #[must_use]
    pub fn api(mut self, at: &Target) -> Self {
        self.0.push(Place {
            host: at.host(),
            port: at.port(),
            is_wide: true,
        });
        self
    }

    fn at(&self, port: u16) -> impl Iterator<Item = &Place> {
        self.0.iter().filter(move |it| port > 0 && it.port == port)
    }

    /// Whether this address at this port is ours.
    fn holds(&self, address: IpAddr, port: u16, around: &Around<'_>) -> bool {
        let is_here = |it: IpAddr| it.is_unspecified() || (around.is_here)(it);
        self.at(port).any(|place| {
            let by_name: &[IpAddr] = if place.name().is_some() {
                around.own
            } else {
                &[]
            };
            let mut places = place
                .address()
                .into_iter()
                .chain(by_name.iter().map(|it| plain(*it)));
            places.any(|own| own == address || (place.is_wide && is_here(own) && is_here(address)))
        })
    }
}

impl Place {
    fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Domain(name) => Some(without_dot(name)),
            _ => None,
        }
    }

    fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(plain(address.into())),
            Host::Domain(_) => None,
        }
    }
}

impl Policy {
    /// For jobs and probes: loopback and private targets too.
    pub fn near(own: Own) -> Self {
        let reach = Reach::Near;
        Self { reach, own }
    }

    /// For callbacks that are registered over the API: of loopback and private targets those
    /// listed.
    pub fn listed(own: Own, allowed: Vec<Allowed>) -> Self {
        let reach = Reach::Listed(allowed);
        Self { reach, own }
    }

    /// For targets and proxies that stand in the configuration.
    pub fn anything() -> Self {
        Self {
            reach: Reach::Anything,
            own: Own::default(),
        }
    }

    /// Judges what can be judged of a URL before any name is looked up: to refuse it when it is
    /// set. One that passes is judged again, by its addresses, each time it is called.
    pub fn judge_url(&self, url: &Url) -> Result<Target, Refusal> {
        let target = Target::of_url(url)?;
        self.judge_target(&target)?;
        Ok(target)
    }

    /// The same of a host and port.
    pub fn judge_target(&self, target: &Target) -> Result<(), Refusal> {
        let own = |it: &Place| it.name().is_some() && it.name() == target.name().map(without_dot);
        if self.own.at(target.port()).any(own) {
            return Err(Refusal::new(target.to_string(), Why::Own(None)));
        }
        let known = match target.address() {
            None if target.is_localhost() => Some([127, 0, 0, 1].into()),
            address => address,
        };
        known.map_or(Ok(()), |it| self.judge(target, it, &NOTHING_AROUND))
    }

    /// Judges one address of a target.
    pub fn judge(
        &self,
        target: &Target,
        address: IpAddr,
        around: &Around<'_>,
    ) -> Result<(), Refusal> {
        if matches!(self.reach, Reach::Anything) {
            return Ok(());
        }
        let refuse = |why| Err(Refusal::new(target.to_string(), why));
        for meant in address::meanings(address) {
            let kind = address::kind(meant);
            match kind {
                Kind::Public => {}
                Kind::Loopback | Kind::Private if self.is_open(target, meant) => {}
                Kind::Loopback | Kind::Private => return refuse(Why::Unlisted(address, kind)),
                _ => return refuse(Why::Closed(address, kind)),
            }
            if self.own.holds(meant, target.port(), around) {
                return refuse(Why::Own(Some(address)));
            }
        }
        Ok(())
    }

    fn is_open(&self, target: &Target, address: IpAddr) -> bool {
        match &self.reach {
            Reach::Anything | Reach::Near => true,
            Reach::Listed(allowed) => allowed
                .iter()
                .any(|it| it.opens(target.name(), target.port(), address)),
        }
    }

    /// Names of what is ours at a port: where they lead must be known to judge a target there.
    pub fn own_names(&self, port: u16) -> impl Iterator<Item = &str> {
        self.own.at(port).filter_map(Place::name)
    }
}

/// An IPv4 address as such.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A target that is not called: what, why, and what mends it. Holds no password and no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target} {why}")]
pub struct Refusal {
    target: String,
    /// Why.
    pub why: Why,
}

impl Refusal {
    pub(super) fn new(target: String, why: Why) -> Self {
        Self { target, why }
    }
}

/// Why a target is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Another scheme.
    #[error("is not called: only http:// and https:// URLs are")]
    Scheme,
    /// No host, or none that can be.
    #[error("is not called: it names no host; write a name or an address, IPv6 in brackets")]
    Host,
    /// No port.
    #[error("is not called: it names no port; write host:port with a port from 1 to 65535")]
    Port,
    /// An address that nothing a user sets may reach.
    #[error(
        "is not called: it leads to {0}, {1}, which no URL set by a user may reach; use another \
             target, or have the operator write it in the configuration"
    )]
    Closed(IpAddr, Kind),
    /// An address that must be on the list.
    #[error(
        "is not called: it leads to {0}, {1}, which callbacks reach only if the configuration's \
             list of allowed targets, kernel.callbacks_allow, holds it"
    )]
    Unlisted(IpAddr, Kind),
    /// What is ours; the address where one was judged.
    #[error(
        "is not called: {}, which no URL set by a user may reach; use another target",
        ours(*.0)
    )]
    Own(Option<IpAddr>),
}

fn ours(address: Option<IpAddr>) -> String {
    let what = "one of the agent's own listeners or Xray's API";
    match address {
        Some(address) => format!("at {address} it is {what}"),
        None => format!("it is {what}"),
    }
}

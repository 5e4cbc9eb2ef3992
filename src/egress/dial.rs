//! The gate before every connection on a user's behalf: a name is looked up once, each of its
//! addresses is judged, and only what passed can be dialled. Keeps: a [`Checked`] is made here
//! only, so that no address is connected to that was not judged; one forbidden address refuses the
//! target, for whoever answers with it may answer with nothing else next time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::error::{Cause, EgressError};
use super::here::is_here;
use super::policy::{Around, Policy};
use super::resolve::{Lookup, Names, SystemNames};
use super::target::Target;

/// The next address is tried beside the first after so long (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses that are dialled: with more, all of them dead, a call would do nothing else.
const DIALLED_MAX: usize = 8;

/// Judges and dials by one policy; clones share it.
#[derive(Clone, Debug)]
pub struct Gate {
    policy: Policy,
    names: Lookup,
}

/// Addresses of a target that were judged, all of them good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    target: Target,
    addresses: Vec<SocketAddr>,
}

impl Gate {
    /// A gate that looks names up as the system does.
    pub fn new(policy: Policy) -> Self {
        Self::with_names(policy, SystemNames)
    }

    /// A gate with other names.
    pub fn with_names(policy: Policy, names: impl Names) -> Self {
        let names = Lookup::new(names);
        Self { policy, names }
    }

    /// What is allowed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Looks the target up, once, and judges every address of it.
    pub async fn check(&self, target: &Target) -> Result<Checked, EgressError> {
        self.policy.judge_target(target)?;
        let found = match (target.address(), target.name()) {
            (Some(address), _) => vec![address],
            (None, name) => self.look_up(target, name.unwrap_or_default()).await?,
        };
        let mut own = Vec::new();
        for name in self.policy.own_names(target.port()) {
            own.extend(self.look_up(target, name).await?);
        }
        let around = Around {
            is_here: &is_here,
            own: &own,
        };
        for address in &found {
            self.policy.judge(target, *address, &around)?;
        }
        let at_port = |it| SocketAddr::new(it, target.port());
        Ok(Checked {
            target: target.clone(),
            addresses: alternate(&found).map(at_port).collect(),
        })
    }

    async fn look_up(&self, target: &Target, name: &str) -> Result<Vec<IpAddr>, EgressError> {
        let found = self.names.addresses(name).await;
        found.map_err(|error| EgressError::NotSent {
            target: target.to_string(),
            cause: Cause::of_name(name, &error),
        })
    }
}

impl Checked {
    /// The target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its addresses in the order in which they are tried; at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Connects to the first of the addresses that answers, within `limit` in all.
    pub async fn connect(&self, limit: Duration) -> Result<TcpStream, EgressError> {
        let outcome = timeout(limit, self.first_to_answer()).await;
        let cause = match outcome {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Cause::of(&error),
            Err(_) => Cause::Timeout(limit),
        };
        Err(EgressError::NotSent {
            target: self.target.to_string(),
            cause,
        })
    }

    /// Dials one after the other, the next when one fails or is slow.
    async fn first_to_answer(&self) -> io::Result<TcpStream> {
        let mut left = self.addresses.iter().take(DIALLED_MAX);
        let mut dialled = FuturesUnordered::new();
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        loop {
            let next = left.next();
            dialled.extend(next.map(|address| TcpStream::connect(*address)));
            let pause = async {
                match next {
                    Some(_) => sleep(STAGGER).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms may be dropped: what is dialled goes on in the next round.
            tokio::select! {
                answer = dialled.next() => match answer {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(error)) => failed = error,
                    None => return Err(failed),
                },
                () = pause => {}
            }
        }
    }
}

/// The families in turn, each in its order: one that is dead everywhere costs one pause.
pub(super) fn alternate(found: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let first = found.first().is_some_and(IpAddr::is_ipv6);
    let of = |family: bool| {
        found
            .iter()
            .copied()
            .filter(move |it| it.is_ipv6() == family)
    };
    let (mut preferred, mut other) = (of(first), of(!first));
    let mut pairs = Vec::with_capacity(found.len());
    while pairs.len() < found.len() {
        pairs.extend(preferred.next());
        pairs.extend(other.next());
    }
    pairs.into_iter()
}

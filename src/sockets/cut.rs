//! Which sockets are cut: connections to servers here, by our port and the peer's address.
//!
//! Invariant: a socket is hit only where somebody listens on its local address and port, so that no
//! connection which a program of this host opened itself is, whatever its port.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_sock_diag::inet::StateFlags;

use super::destroy::{Destroyer, may_cut};
use super::dump::dump_in;
use super::error::SocketsError;
use super::parse::{Family, Socket};
use crate::model::cut::{Cut, Sockets};
use crate::model::ports::PortRange;

/// The states of a connection in which bytes can still move.
const MOVING: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_RECV)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);

/// Where a listener on every interface is.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Destroys those TCP sockets in this thread's network namespace: both ends are told at once that the
/// connection is no more. Addresses are given and counted as IPv4 also where they are mapped into
/// IPv6. Fails if we may not, or part of the way if the kernel stops answering. Blocks: for
/// milliseconds, for four times [`super::BOUND`] at most.
pub fn cut(cut: &Cut) -> Result<Sockets, SocketsError> {
    may_cut()?;
    let mut counts = Sockets::new();
    if cut.ports.is_empty() || cut.addresses.is_empty() {
        return Ok(counts);
    }
    let mut destroyer = Destroyer::new()?;
    for family in Family::ALL {
        let listed = dump_in(family, &MOVING.union(StateFlags::LISTEN))?;
        for socket in chosen(&listed, cut) {
            if destroyer.destroy(socket)? {
                *counts.entry(socket.peer.ip()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// The sockets that listen on these TCP ports in this thread's network namespace, each once. Needs no
/// privilege. Blocks as [`super::dump`] does.
pub fn listeners(ports: &[PortRange]) -> Result<Vec<Socket>, SocketsError> {
    let is_within = |socket: &Socket| ports.iter().any(|r| r.contains(socket.local.port()));
    let mut listeners = Vec::new();
    for family in Family::ALL {
        let listed = dump_in(family, &StateFlags::LISTEN)?;
        listeners.extend(listed.into_iter().filter(is_within));
    }
    Ok(listeners)
}

/// Whether anybody listens on one of these TCP ports, as far as [`listeners`] sees.
pub fn listens_on(ports: &[PortRange]) -> Result<bool, SocketsError> {
    listeners(ports).map(|listeners| !listeners.is_empty())
}

/// Those of a family's sockets that `cut` means. The listener that accepted a connection is always in
/// the same table as the connection.
fn chosen<'a>(listed: &'a [Socket], cut: &Cut) -> Vec<&'a Socket> {
    let is_within = |port| cut.ports.iter().any(|range| range.contains(port));
    let addresses: BTreeSet<IpAddr> = cut.addresses.iter().map(IpAddr::to_canonical).collect();
    let listeners: BTreeSet<(IpAddr, u16)> = listed
        .iter()
        .filter(|socket| socket.listens() && is_within(socket.local.port()))
        .map(|socket| (socket.local.ip(), socket.local.port()))
        .collect();
    let is_a_servers = |socket: &Socket| {
        let (at, port) = (socket.local.ip(), socket.local.port());
        let mut possible = [at].into_iter().chain(ANYWHERE);
        possible.any(|address| listeners.contains(&(address, port)))
    };
    listed
        .iter()
        .filter(|socket| !socket.listens() && addresses.contains(&socket.peer.ip()))
        .filter(|socket| is_a_servers(socket))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENS: u8 = 10;

    fn socket(family: Family, state: u8, local: &str, peer: &str) -> Socket {
        Socket {
            family,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            state,
            interface: 0,
            cookie: [0; 8],
        }
    }

    fn meant(listed: &[Socket], ports: (u16, u16), addresses: &[&str]) -> Vec<String> {
        let cut = Cut {
            ports: vec![PortRange::try_from(ports).unwrap()],
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let chosen = chosen(listed, &cut);
        chosen
            .iter()
            .map(|socket| socket.peer.to_string())
            .collect()
    }

    #[test]
    fn only_a_listeners_connections_of_the_named_peers_are_meant() {
        let v4 = |state, local, peer| socket(Family::V4, state, local, peer);
        let listed = [
            v4(LISTENS, "0.0.0.0:443", "0.0.0.0:0"),
            v4(LISTENS, "192.0.2.1:444", "0.0.0.0:0"),
            v4(LISTENS, "0.0.0.0:500", "0.0.0.0:0"),
            v4(1, "192.0.2.1:443", "198.51.100.1:1"),
            v4(8, "192.0.2.1:443", "198.51.100.1:2"),
            v4(1, "192.0.2.1:443", "198.51.100.2:3"),
            v4(1, "192.0.2.1:444", "198.51.100.1:4"),
            // No server of ours: another address, no listener at all, outside of the range.
            v4(1, "192.0.2.2:444", "198.51.100.1:5"),
            v4(1, "192.0.2.1:445", "198.51.100.1:6"),
            v4(1, "192.0.2.1:500", "198.51.100.1:7"),
        ];
        let peers = meant(&listed, (443, 450), &["198.51.100.1"]);
        assert_eq!(
            peers,
            ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:4"]
        );
        assert!(meant(&listed, (443, 450), &[]).is_empty());
    }

    #[test]
    fn a_mapped_peer_is_meant_by_either_form_of_its_address() {
        let listed = [
            socket(Family::V6, LISTENS, "[::]:443", "[::]:0"),
            socket(Family::V6, 1, "192.0.2.1:443", "198.51.100.1:1"),
            socket(Family::V6, 1, "[2001:db8::1]:443", "[2001:db8::9]:2"),
        ];
        for form in ["198.51.100.1", "::ffff:198.51.100.1"] {
            assert_eq!(meant(&listed, (443, 443), &[form]), ["198.51.100.1:1"]);
        }
        let both = meant(&listed, (1, 65_535), &["198.51.100.1", "2001:db8::9"]);
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn a_listener_is_never_meant() {
        let listed = [socket(Family::V4, LISTENS, "0.0.0.0:443", "0.0.0.0:0")];
        assert!(meant(&listed, (443, 443), &["0.0.0.0"]).is_empty());
    }
}

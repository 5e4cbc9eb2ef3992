//! Whether an address is one of this host's. Keeps: where that cannot be found out, it is taken for
//! one, so that nothing of ours is called by an address that nobody thought of.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The kernel's routes, in which its own IPv4 addresses are leaves of this host.
const V4: &str = "/proc/net/fib_trie";
/// Its IPv6 addresses, one a line.
const V6: &str = "/proc/net/if_inet6";

/// Whether the address is one of this host's: only those can be bound. Where the kernel lets any be
/// (`ip_nonlocal_bind`), its lists tell.
pub(super) fn is_here(address: IpAddr) -> bool {
    let bind = |address: IpAddr| UdpSocket::bind((address, 0)).map_err(|error| error.kind());
    // Documentation's: on no host.
    let nobody: IpAddr = match address {
        IpAddr::V4(_) => [192, 0, 2, 1].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    };
    match bind(address) {
        _ if address.is_loopback() => true,
        Ok(_) => bind(nobody).is_err() || is_listed(address).unwrap_or(true),
        Err(why) => why != io::ErrorKind::AddrNotAvailable,
    }
}

fn is_listed(address: IpAddr) -> io::Result<bool> {
    Ok(match address {
        IpAddr::V4(address) => holds_v4(&fs::read_to_string(V4)?, address),
        IpAddr::V6(address) => holds_v6(&fs::read_to_string(V6)?, address),
    })
}

/// A leaf is its address, and below it a line for each length of prefix.
fn holds_v4(routes: &str, address: Ipv4Addr) -> bool {
    let leaf = format!("|-- {address}");
    let mut is_leaf = false;
    routes.lines().map(str::trim).any(|line| {
        if line.starts_with(['|', '+']) {
            is_leaf = line == leaf;
        }
        is_leaf && line == "/32 host LOCAL"
    })
}

fn holds_v6(addresses: &str, address: Ipv6Addr) -> bool {
    let digits = format!("{:032x}", address.to_bits());
    addresses.lines().any(|line| line.starts_with(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_here_if_this_host_has_it() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("::1", true),
            ("192.0.2.77", false),
            ("1.1.1.1", false),
        ] {
            assert_eq!(is_here(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_kernels_lists_are_read() {
        let routes = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                      \x20    |-- 10.0.0.5\n        /24 link UNICAST\n        /32 host LOCAL\n\
                      \x20    |-- 10.0.0.55\n        /32 link BROADCAST\n";
        for (address, expected) in [("10.0.0.5", true), ("10.0.0.55", false), ("0.0.0.0", false)] {
            assert_eq!(
                holds_v4(routes, address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        let lines = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert!(holds_v6(lines, "fe80::1".parse().unwrap()));
        assert!(!holds_v6(lines, "fe80::2".parse().unwrap()));
        assert_eq!(is_listed([127, 0, 0, 1].into()).ok(), Some(true));
    }
}

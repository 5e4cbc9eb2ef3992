//! What an address is, and what it leads to: IPv6 has several ways to write an IPv4 address into
//! itself, and each of them is judged as the address that it carries. Pure.
//!
//! Follows the IANA special-purpose registries of IPv4 and IPv6, and what clouds document of their
//! metadata services. In doubt an address is [`Kind::Reserved`], never [`Kind::Public`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::allowed::is_within;

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anyone's, in the internet.
    Public,
    /// This host, by itself.
    Loopback,
    /// A network of one's own, a carrier's or a test's.
    Private,
    /// Whoever is on the same wire, and most clouds' metadata.
    LinkLocal,
    /// A cloud's service that hands out the host's credentials.
    Metadata,
    /// A group of hosts.
    Multicast,
    /// No address, which systems take for this host.
    Unspecified,
    /// Documentation, broadcast, future use: nothing that serves anybody.
    Reserved,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "this host itself (loopback)",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata service",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "the unspecified address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// A range by its first address and the length of its prefix in bits.
type Range<A> = (A, u8, Kind);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// Of IPv4 all that is not public; the first that fits counts.
const V4: [Range<Ipv4Addr>; 20] = [
    (v4(0, 0, 0, 0), 8, Kind::Unspecified),
    (v4(10, 0, 0, 0), 8, Kind::Private),
    // Alibaba Cloud.
    (v4(100, 100, 100, 200), 32, Kind::Metadata),
    // Carriers' NAT (RFC 6598), Tailscale.
    (v4(100, 64, 0, 0), 10, Kind::Private),
    (v4(127, 0, 0, 0), 8, Kind::Loopback),
    // Azure's WireServer, in public space.
    (v4(168, 63, 129, 16), 32, Kind::Metadata),
    (v4(169, 254, 169, 254), 32, Kind::Metadata),
    (v4(169, 254, 0, 0), 16, Kind::LinkLocal),
    (v4(172, 16, 0, 0), 12, Kind::Private),
    // Oracle's older cloud.
    (v4(192, 0, 0, 192), 32, Kind::Metadata),
    (v4(192, 0, 0, 0), 24, Kind::Reserved),
    (v4(192, 0, 2, 0), 24, Kind::Reserved),
    (v4(192, 88, 99, 0), 24, Kind::Reserved),
    (v4(192, 168, 0, 0), 16, Kind::Private),
    // Benchmarks (RFC 2544); proxies' made-up addresses of names.
    (v4(198, 18, 0, 0), 15, Kind::Private),
    (v4(198, 51, 100, 0), 24, Kind::Reserved),
    (v4(203, 0, 113, 0), 24, Kind::Reserved),
    (v4(224, 0, 0, 0), 4, Kind::Multicast),
    // Future use, and at its end broadcast.
    (v4(240, 0, 0, 0), 4, Kind::Reserved),
    (v4(0, 0, 0, 0), 0, Kind::Public),
];

const fn v6(s: [u16; 8]) -> Ipv6Addr {
    Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7])
}

/// The same of IPv6, where only `2000::/3` is given out at all.
const V6: [Range<Ipv6Addr>; 19] = [
    (Ipv6Addr::UNSPECIFIED, 128, Kind::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, Kind::Loopback),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10, Kind::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0]), 10, Kind::Private),
    // Amazon: metadata, pods' identities.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0]), 32, Kind::Metadata),
    // Google.
    (
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]),
        128,
        Kind::Metadata,
    ),
    // Oracle.
    (
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
        128,
        Kind::Metadata,
    ),
    // Scaleway.
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), 128, Kind::Metadata),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7, Kind::Private),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, Kind::Multicast),
    // Benchmarks (RFC 5180).
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0]), 48, Kind::Reserved),
    // Names made to look like addresses (ORCHID).
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0]), 28, Kind::Reserved),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0]), 28, Kind::Reserved),
    // Documentation.
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]), 32, Kind::Reserved),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0]), 20, Kind::Reserved),
    (v6([0x2000, 0, 0, 0, 0, 0, 0, 0]), 3, Kind::Public),
    // NAT64 of a network's own (RFC 8215): where in it the IPv4 address stands is that network's
    // secret. It is in what follows, and named for the reader.
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0]), 48, Kind::Reserved),
    // IPv4-compatible ones, which nothing uses any more, likewise.
    (Ipv6Addr::UNSPECIFIED, 96, Kind::Reserved),
    (Ipv6Addr::UNSPECIFIED, 0, Kind::Reserved),
];

/// What the address itself is. One that carries another is judged by its [`meanings`].
pub(super) fn kind(address: IpAddr) -> Kind {
    let found = match address {
        IpAddr::V4(address) => V4.iter().find_map(|(first, length, kind)| {
            let apart = address.to_bits() ^ first.to_bits();
            is_within(apart.leading_zeros(), *length).then_some(*kind)
        }),
        IpAddr::V6(address) => V6.iter().find_map(|(first, length, kind)| {
            let apart = address.to_bits() ^ first.to_bits();
            is_within(apart.leading_zeros(), *length).then_some(*kind)
        }),
    };
    found.expect("invariant: each table ends with a range that holds all")
}

/// The addresses that a packet to this one may end at, this one only where it carries no other.
/// Each must be allowed.
pub(super) fn meanings(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else {
        return vec![address];
    };
    let s = v6.segments();
    let at = |high: u16, low: u16| IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into());
    let last = at(s[6], s[7]);
    match s {
        // Mapped (RFC 4291), as a socket of both families has it; NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => vec![at(high, low)],
        // Teredo (RFC 4380): a server, and a client whose bits are turned.
        [0x2001, 0, ..] => vec![at(s[2], s[3]), at(!s[6], !s[7])],
        // ISATAP (RFC 5214), under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![address, last],
        _ => vec![address],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_is_what_the_registries_say() {
        let table = [
            (
                Kind::Public,
                "1.1.1.1 9.255.255.255 11.0.0.0 100.63.0.1 100.128.0.0 126.0.0.1 128.0.0.1 \
                 172.15.255.255 172.32.0.0 192.0.1.1 192.167.0.1 198.17.0.1 198.20.0.0 \
                 223.255.255.255 2606:4700::1 2001:4860:4860::8888 2a00::1 2001:db7::1 \
                 3fff:1000::1",
            ),
            (Kind::Loopback, "127.0.0.1 127.255.255.255 ::1"),
            (
                Kind::Private,
                "10.1.2.3 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255 \
                 198.18.0.1 198.19.255.255 fc00::1 fdff::1 fd00:ec3::1 fec0::1",
            ),
            (
                Kind::LinkLocal,
                "169.254.0.1 169.254.170.2 169.254.255.255 fe80::1 febf::1",
            ),
            (
                Kind::Metadata,
                "169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 \
                 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42",
            ),
            (Kind::Multicast, "224.0.0.1 239.255.255.250 ff02::1 ffff::1"),
            (Kind::Unspecified, "0.0.0.0 0.1.2.3 ::"),
            (
                Kind::Reserved,
                "255.255.255.255 240.0.0.1 192.0.2.1 198.51.100.7 203.0.113.9 192.0.0.8 \
                 192.88.99.1 2001:db8::1 3fff::1 100::1 2001:2::1 2001:10::1 2001:2f::1 \
                 64:ff9b:1::7f00:1 5f00::1 4000::1 ::7f00:1 ::2",
            ),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(kind(ip(address)), expected, "{address}");
            }
        }
    }

    #[test]
    fn an_address_within_an_address_is_found() {
        let table = [
            ("1.2.3.4", "1.2.3.4"),
            ("2606:4700::1", "2606:4700::1"),
            ("::ffff:169.254.169.254", "169.254.169.254"),
            ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
            ("2002:a9fe:a9fe::1", "169.254.169.254"),
            ("2001:0:a9fe:a9fe::f5ff:fffe", "169.254.169.254 10.0.0.1"),
            ("2001:0:808:808::5601:5601", "8.8.8.8 169.254.169.254"),
            ("2606:4700::5efe:7f00:1", "2606:4700::5efe:7f00:1 127.0.0.1"),
            ("fe80::200:5efe:102:304", "fe80::200:5efe:102:304 1.2.3.4"),
        ];
        for (address, expected) in table {
            let expected: Vec<IpAddr> = expected.split(' ').map(ip).collect();
            assert_eq!(meanings(ip(address)), expected, "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_address_that_is_not_given_out_is_never_public(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            let is_public = kind(address.into()) == Kind::Public;
            prop_assert!(!is_public || bits >> 125 == 1, "{address}");
        }

        #[test]
        fn what_carries_an_ipv4_address_means_it(bits: u32) {
            let carried = IpAddr::V4(bits.into());
            let low = u128::from(bits);
            for whole in [
                0xffff_0000_0000 | low,
                0x0064_ff9b << 96 | low,
                0x2002 << 112 | low << 80,
                0x2001_0000 << 96 | low << 64,
                0x2001_0000 << 96 | u128::from(!bits),
                0x2606_4700 << 96 | 0x5efe_0000_0000 | low,
            ] {
                let address = Ipv6Addr::from_bits(whole);
                prop_assert!(meanings(address.into()).contains(&carried), "{address}");
            }
        }
    }
}

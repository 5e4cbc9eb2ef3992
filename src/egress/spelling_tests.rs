//! Random addresses in random spellings, judged against a second opinion.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use url::Url;

use super::{NOTHING_AROUND, Own, Policy, Target};

fn near() -> Policy {
    Policy::near(Own::default())
}

/// A second opinion on what no user's URL may reach.
fn is_forbidden(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    address.is_link_local() || address.is_unspecified() || first == 0 || first >= 224
}

/// One part of an IPv4 address, as some programs write numbers.
fn number(value: u32, style: u8) -> String {
    match style % 4 {
        0 => value.to_string(),
        1 => format!("{value:#x}"),
        2 => format!("0{value:o}"),
        _ => format!("0X00{value:X}"),
    }
}

/// An IPv4 address as a browser would still read it.
fn spelled(address: Ipv4Addr, parts: usize, styles: [u8; 4], disguise: u8) -> String {
    let [a, b, c, d] = address.octets().map(u32::from);
    let parts = match parts % 4 {
        0 => vec![address.to_bits()],
        1 => vec![a, b << 16 | c << 8 | d],
        2 => vec![a, b, c << 8 | d],
        _ => vec![a, b, c, d],
    };
    let each: Vec<String> = parts
        .iter()
        .zip(styles)
        .map(|(it, style)| number(*it, style))
        .collect();
    let plain = each.join(".");
    match disguise % 8 {
        0 => plain.replace('.', "。"),
        1 => plain.replace('.', "%2E") + ".",
        2 => plain
            .chars()
            .map(|c| if c.is_ascii_digit() { wide(c) } else { c })
            .collect(),
        3 => plain
            .bytes()
            .fold(String::new(), |text, byte| format!("{text}%{byte:02x}")),
        4 => format!("[::ffff:{address}]"),
        5 => format!(
            "[{}]",
            address
                .to_ipv6_mapped()
                .segments()
                .map(|it| format!("{it:04X}"))
                .join(":")
        ),
        6 => format!("a.example:1@{plain}"),
        _ => plain,
    }
}

/// A digit in its full width.
fn wide(c: char) -> char {
    char::from_u32(u32::from(c) - u32::from('0') + u32::from('０')).unwrap()
}

/// Addresses of which half are special.
fn addresses() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from),
        any::<u16>().prop_map(|low| Ipv4Addr::from(0xa9fe_0000 | u32::from(low))),
        (any::<u8>(), 0..=3u8).prop_map(|(low, at)| {
            let base: u32 = [0, 0x7f00_0000, 0x0a00_0000, 0xff00_0000][usize::from(at)];
            Ipv4Addr::from(base | u32::from(low))
        }),
    ]
}

proptest! {
    #[test]
    fn an_address_is_judged_alike_however_it_is_spelled(
        address in addresses(),
        parts in 0..4usize,
        styles: [u8; 4],
        disguise: u8,
    ) {
        let text = format!("http://{}:8080/", spelled(address, parts, styles, disguise));
        let read = Url::parse(&text);
        prop_assert!(read.is_ok(), "{text}");
        let read = read.unwrap();
        let outcome = near().judge_url(&read);
        if is_forbidden(address) {
            prop_assert!(outcome.is_err(), "{text}");
        }
        let plain = near().judge_url(&Url::parse(&format!("http://{address}:8080/")).unwrap());
        prop_assert_eq!(outcome.is_ok(), plain.is_ok(), "{}", text);
        let outside = Policy::listed(Own::default(), Vec::new()).judge_url(&read);
        if address.is_private() || address.is_loopback() {
            prop_assert!(outside.is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_socket_takes_for_a_forbidden_address_is_refused(bits: u128, low: u16) {
        let target = Target::parse("any:80").unwrap();
        let carried = [bits >> 64, bits & 0xffff_ffff | 0xffff << 32];
        let close = u128::from(low) | 0xffff_a9fe_0000;
        for whole in carried.into_iter().chain([bits, close]) {
            let address = Ipv6Addr::from_bits(whole);
            let is_bad = match address.to_canonical() {
                IpAddr::V4(v4) => is_forbidden(v4),
                IpAddr::V6(v6) => {
                    v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
                }
            };
            let judged = near().judge(&target, address.into(), &NOTHING_AROUND);
            prop_assert!(!is_bad || judged.is_err(), "{address}");
        }
    }

    #[test]
    fn no_text_passes_that_is_a_forbidden_address_and_none_panics(text in ".{0,40}") {
        for text in [format!("http://{text}/"), text] {
            let Ok(url) = Url::parse(&text) else { continue };
            if let Ok(target) = near().judge_url(&url)
                && let Some(IpAddr::V4(address)) = target.address()
            {
                prop_assert!(!is_forbidden(address), "{text}");
            }
        }
    }
}

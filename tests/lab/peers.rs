//! Who is connected to a port, as the kernel's own tables tell: a second opinion on what was cut.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

/// `TCP_ESTABLISHED` in those tables.
const ESTABLISHED: &str = "01";

/// The peers of all established connections to a local port, one entry each, in no order; an IPv4 peer
/// of a dual-stack listener by its IPv4 address.
pub fn peers_of(port: u16) -> Result<Vec<IpAddr>> {
    let mut peers = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // The second is missing where there is no IPv6.
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().take(4).collect();
            let [_, local, remote, ESTABLISHED] = fields[..] else {
                continue;
            };
            if local.ends_with(&format!(":{port:04X}")) {
                peers.push(address(remote).with_context(|| line.to_owned())?);
            }
        }
    }
    Ok(peers)
}

/// `0200007F:9C40` and its like for IPv6: words in the machine's own order.
fn address(text: &str) -> Option<IpAddr> {
    let (address, _) = text.split_once(':')?;
    let words: Vec<u32> = (0..address.len())
        .step_by(8)
        .map(|from| u32::from_str_radix(address.get(from..from + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

//! The host's network interfaces, from the kernel and `/sys/class/net`. What cannot be read is told in
//! the log and left out.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use sysinfo::{NetworkData, Networks};
use tokio::task::spawn_blocking;
use tracing::warn;
use utoipa::ToSchema;

/// Where the kernel shows its interfaces.
const SYS_CLASS_NET: &str = "/sys/class/net";
/// The interface is set up (`IFF_UP` of netdevice(7)).
const IFF_UP: u32 = 0x1;
/// The interface leads back to this host (`IFF_LOOPBACK`).
const IFF_LOOPBACK: u32 = 0x8;

/// Whether there is a device behind an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = InterfaceKindSummary)]
pub enum InterfaceKind {
    /// There is.
    Physical,
    /// The kernel makes it: loopback, bridges, tunnels.
    Virtual,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = InterfaceAddressSummary)]
pub struct InterfaceAddress {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The address.
    pub address: String,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InterfaceSummary)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware's address, where it has one.
    pub mac: Option<String>,
    /// Largest packet in bytes, where that is known.
    pub mtu: Option<u64>,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether it leads back to this host.
    pub is_loopback: bool,
    /// Whether there is a device behind it.
    pub kind: InterfaceKind,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// All interfaces, by name. Where they cannot be listed there are none, and the log says why.
pub async fn interfaces() -> Vec<Interface> {
    let listed = spawn_blocking(|| Networks::new_with_refreshed_list().map(|it| all(&it))).await;
    let failed = match listed {
        Ok(Ok(interfaces)) => return interfaces,
        Ok(Err(e)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    warn!("the network interfaces cannot be listed: {failed}");
    Vec::new()
}

fn all(networks: &Networks) -> Vec<Interface> {
    let named = networks.iter();
    let mut all: Vec<_> = named
        .map(|(name, data)| interface(&name.to_string_lossy(), data))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn interface(name: &str, data: &NetworkData) -> Interface {
    let folder = Path::new(SYS_CLASS_NET).join(name);
    let flags = fs::read_to_string(folder.join("flags"));
    let flags = flags.ok().and_then(|text| flags_of(&text));
    let flags = flags.unwrap_or_default();
    let kind = if folder.join("device").exists() {
        InterfaceKind::Physical
    } else {
        InterfaceKind::Virtual
    };
    let mac = data.mac_address();
    let networks = data.ip_networks().iter();
    let mut addresses: Vec<_> = networks.map(|it| address(it.addr, it.prefix)).collect();
    addresses.sort();
    Interface {
        name: name.to_owned(),
        mac: (!mac.is_unspecified()).then(|| mac.to_string()),
        mtu: Some(data.mtu()).filter(|mtu| *mtu > 0),
        is_up: flags & IFF_UP != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        kind,
        addresses,
    }
}

fn address(address: IpAddr, prefix: u8) -> InterfaceAddress {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    InterfaceAddress {
        family,
        address: address.to_string(),
        prefix,
    }
}

/// The kernel writes them as `0x1003`.
fn flags_of(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_listed_as_the_kernel_shows_it() {
        let all = interfaces().await;
        let loopback = all.iter().find(|it| it.name == "lo").unwrap();
        assert!(loopback.is_loopback);
        assert_eq!(loopback.kind, InterfaceKind::Virtual);
        assert_eq!(loopback.mac, None);
        let mtu = fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        assert_eq!(loopback.mtu, mtu.trim().parse().ok());
        // Without an address of it no test of this kind could run.
        assert!(loopback.is_up);
        let own = address(IpAddr::from([127, 0, 0, 1]), 8);
        assert!(loopback.addresses.contains(&own), "{loopback:?}");
        let names: Vec<_> = all.iter().map(|it| &it.name).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn flags_are_read_as_the_kernel_writes_them() {
        assert_eq!(flags_of("0x1003\n"), Some(0x1003));
        for wrong in ["", "1003", "0x", "0xzz"] {
            assert_eq!(flags_of(wrong), None, "{wrong}");
        }
    }
}

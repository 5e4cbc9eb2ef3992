//! When is an Xray ready? When its API and every TCP inbound of its configuration accept. Pure
//! reading of the configuration, and one connection attempt for each address.
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::PathBuf;

use serde_json::Value;

/// An address on which a started Xray must accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    Tcp(SocketAddr),
    Path(PathBuf),
    Abstract(String),
}

impl Gate {
    /// Reads `api.listen`: `HOST:PORT`, `/path` with an optional `,mode`, or `@name`.
    pub fn from_listen(listen: &str) -> Option<Self> {
        if let Some(name) = listen.strip_prefix('@') {
            return Some(Self::Abstract(name.to_owned()));
        }
        if listen.starts_with('/') {
            let path = listen.split(',').next().unwrap_or(listen);
            return Some(Self::Path(path.into()));
        }
        listen.parse().ok().map(Self::Tcp)
    }

    /// Written as the agent's `XRAY_API_ADDR` takes it.
    pub fn as_api_addr(&self) -> String {
        match self {
            Self::Tcp(addr) => addr.to_string(),
            Self::Path(path) => format!("unix:{}", path.display()),
            Self::Abstract(name) => format!("unix:@{name}"),
        }
    }

    pub async fn accepts(&self) -> bool {
        match self {
            Self::Tcp(addr) => tokio::net::TcpStream::connect(addr).await.is_ok(),
            Self::Path(path) => UnixStream::connect(path).is_ok(),
            Self::Abstract(name) => UnixAddr::from_abstract_name(name)
                .and_then(|addr| UnixStream::connect_addr(&addr))
                .is_ok(),
        }
    }
}

/// Where the API of this configuration listens, or its first door.
pub fn api_gate(config: &Value) -> Option<Gate> {
    if let Some(listen) = config["api"]["listen"].as_str() {
        return Gate::from_listen(listen);
    }
    let mut inbounds = inbounds(config).iter();
    let door = inbounds.find(|inbound| inbound["protocol"] == "dokodemo-door");
    door.and_then(inbound_gate)
}

fn inbounds(config: &Value) -> &[Value] {
    config["inbounds"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The API and all TCP inbounds on a loopback or wildcard address.
pub fn gates(config: &Value) -> Vec<Gate> {
    api_gate(config)
        .into_iter()
        .chain(inbounds(config).iter().filter_map(inbound_gate))
        .collect()
}

fn inbound_gate(inbound: &Value) -> Option<Gate> {
    let over_udp = ["hysteria", "kcp", "mkcp", "quic"].contains(&transport(inbound))
        || ["hysteria", "wireguard", "masque"].contains(&inbound["protocol"].as_str()?)
        || inbound["settings"]["network"] == "udp";
    let port = u16::try_from(inbound["port"].as_u64()?).ok()?;
    (!over_udp).then_some(Gate::Tcp((Ipv4Addr::LOCALHOST, port).into()))
}

fn transport(inbound: &Value) -> &str {
    inbound["streamSettings"]["network"]
        .as_str()
        .unwrap_or("raw")
}
